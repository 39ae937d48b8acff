//! `pollnd selftest`: lst's verbs one at a time, from a script or interactively; and `quick`, one line that does all.

mod console;
pub(crate) mod host;
mod lines;
mod live;
mod quick;
mod results;
mod table;
mod width;

use std::net::UdpSocket;
use std::process::ExitCode;

use serde_json::{Value, json};
use transport::selftest::console::{FAILED, command, help, nidlist};
use transport::wire::Nid;

use self::console::Console;
pub(crate) use self::console::seat;
use self::host::Piece;
use self::live::Live;
pub(crate) use self::quick::{Ran, between};
use crate::args::{NodeArgs, SelftestArgs, Via, What};
use crate::inspect::client::{self, Client};
use crate::out;

/// The variable by which a session that stays is found, as for lst.
const SESSION: &str = "LST_SESSION";

pub(crate) fn main(a: SelftestArgs) -> ExitCode {
    if let Err(e) = console::features() {
        return ExitCode::from(fault(&e, FAILED));
    }
    let status = match (a.what.clone(), a.words.is_empty()) {
        (Some(What::Quick(q)), _) => quick::main(*q).unwrap_or_else(|e| fault(&e, 1)),
        (None, true) => lines::main(a).unwrap_or_else(|e| fault(&e, FAILED)),
        (None, false) => one(&a).unwrap_or_else(|e| fault(&e, FAILED)),
    };
    out::end_if_closed();
    ExitCode::from(status)
}

fn fault(e: &str, status: u8) -> u8 {
    out::note(e);
    status
}

/// Says a piece: as lst, or as JSON.
fn say(p: &Piece, verb: &str, json: bool, live: Option<&mut Live>) -> Result<(), String> {
    match (json, p.fault, live) {
        (true, ..) => {
            let mut v = json!({ "verb": verb });
            for (k, x) in p.result.as_object().into_iter().flatten() {
                v[k] = x.clone();
            }
            if let Some(own) = &p.own {
                v["own"] = json!(own);
            }
            out::line(v)
        }
        // The bars name them.
        (_, true, Some(_)) if is_unheard(p) => Ok(()),
        (_, true, _) => {
            out::err(&p.text);
            Ok(())
        }
        (_, _, Some(live)) if p.own.is_some() && verb == "stat" => live.show(p),
        _ => out::text(&p.text),
    }
}

/// Whether a piece names the nodes that did not answer `stat`.
fn is_unheard(p: &Piece) -> bool {
    p.result["error"].is_string() && p.result["nodes"].is_array()
}

/// Says how a verb ended: for JSON only, whose readers have no exit status of each.
fn say_end(verb: &str, status: u8, json: bool) -> Result<(), String> {
    if json { out::line(json!({ "verb": verb, "status": status })) } else { Ok(()) }
}

/// One verb, on the session of LST_SESSION.
fn one(a: &SelftestArgs) -> Result<u8, String> {
    let verb = a.words.first().map_or("", String::as_str);
    if a.file.is_some() {
        return Err(format!("--file and the verb {verb}: leave one of them out"));
    }
    // What is wrong with it, and help, take no node.
    let told =
        |text: &str, key: &str| if a.json { out::line(json!({ "verb": verb, key: text })) } else { Ok(()) };
    match command::parse(&a.words) {
        Err(e) => {
            if !a.json {
                out::err(&format!("{}\n", e.0));
            }
            told(&e.0, "error")?;
            say_end(verb, FAILED, a.json)?;
            return Ok(FAILED);
        }
        Ok(Some(command::Command::Help { verb: about })) => {
            let text = help::of(about.as_deref())?;
            if !a.json {
                out::line(&text)?;
            }
            told(&text, "help")?;
            return Ok(0);
        }
        Ok(Some(command::Command::Verbs)) => {
            let text = command::verbs().collect::<Vec<_>>().join("\n");
            if !a.json {
                out::line(&text)?;
            }
            told(&text, "help")?;
            return Ok(0);
        }
        Ok(_) => {}
    }
    let key = std::env::var(SESSION).ok().and_then(|k| k.trim().parse().ok());
    if key.is_none() && verb != "new_session" {
        return Err(format!(
            "Can't find env {SESSION} or value is not valid: a session that stays is found by it; export {SESSION}=$$ before \
             new_session, or give all verbs to one `pollnd selftest` by -f FILE or its standard input"
        ));
    }
    let mut c = Console::through(running(&a.via)?)?;
    let mut live = Live::on_terminal(a.json);
    let status = c.verb(&a.words, key, true, &mut |p| say(&p, verb, a.json, live.as_mut()))?;
    say_end(verb, status, a.json)?;
    Ok(status)
}

/// The node that runs whose console is meant.
fn running(via: &Via) -> Result<Client, String> {
    let client = match (&via.through, via.nid) {
        (Some(which), _) => client::open(Some(which)).map_err(|e| format!("--node {which}: {e}"))?.0,
        (None, Some(nid)) => {
            let found = client::running(nid, |r| r.guests).map(|(c, _)| c);
            found.ok_or_else(|| {
                format!("--nid {nid}: no `pollnd node` of it runs here, whose session could stay: start one")
            })?
        }
        (None, None) => {
            client::open(None)
                .map_err(|e| {
                    format!(
                        "{e}\na session stays in a `pollnd node --nid NID`: start one, or name it by --node; a script (-f FILE) may have a \
                         node of its own, by --nid alone"
                    )
                })?
                .0
        }
    };
    Ok(client)
}

/// The NIDs of a list.
fn nids(option: &str, list: &str) -> Result<Vec<Nid>, String> {
    nidlist::parse(list).map_err(|e| format!("{option}: {e}"))
}

/// The console for a session with `members`: through the node that is named; or with the NID that is given; or with that of the
/// first member that is this machine, through the node of it that runs, if one does; or from where this machine reaches them.
fn open(via: &Via, node: &mut NodeArgs, members: &[Nid]) -> Result<Console, String> {
    let mut via = via.clone();
    let free = via.nid.is_none() && via.through.is_none() && node.port.is_empty() && node.vdev.is_empty();
    if free {
        via.nid = members.iter().copied().find(|n| is_here(*n));
    }
    let others = || members.iter().copied().find(|n| Some(*n) != via.nid);
    // Options of a node of its own are not for one that runs.
    let behind = || node.route.first().map(|r| r.gateway);
    match others().or_else(|| members.first().copied()).or_else(behind) {
        Some(target) => Console::open(&via, node, target),
        None if via.nid.is_some() => Console::open(&via, node, via.nid.unwrap_or(Nid::LO)),
        None => Console::through(running(&via)?),
    }
}

/// Whether this machine has the address of a NID.
fn is_here(nid: Nid) -> bool {
    nid.ip().is_some_and(|ip| UdpSocket::bind((ip, 0)).is_ok())
}

/// A number of a result.
fn number(v: &Value, key: &str) -> f64 {
    v[key].as_f64().unwrap_or(0.0)
}
