//! `pollnd lnetctl`: lnetctl's questions to a running node, in lnetctl's words, layout and numbers (docs/lnetctl.md).

mod answers;
mod by_hand;
mod importing;
pub(crate) mod layout;
#[cfg(test)]
pub(crate) mod lnetctl_tests;
mod looking;
mod nets;
mod ni_values;
mod nid_ranges;
mod refusal;
pub(crate) mod routed;
mod routing;
mod rules;
mod setting;
pub(crate) mod shown;
mod stdin;
mod tables;

use std::process::ExitCode;

use self::refusal::Refusal;
use crate::args::{CtlDebug, CtlGlobal, CtlPeer, CtlRouting, CtlStats, CtlVerb, LnetctlArgs};
use crate::inspect::Request;
use crate::inspect::account::Ask;
use crate::inspect::client::Client;

/// A node that is asked.
struct Asked(Client);

/// A number that was said: -1 is lnetctl's for one that was not.
fn said(n: Option<i64>) -> Option<i64> {
    n.filter(|n| *n != -1)
}

impl Asked {
    fn find(node: Option<&str>) -> Result<Asked, Refusal> {
        Ok(Asked(Client::new(node)?))
    }

    /// Rows of an answer.
    fn rows<T: serde::de::DeserializeOwned>(&mut self, ask: Ask) -> Result<Vec<T>, Refusal> {
        let mut all = Vec::new();
        let read = |v| {
            all.push(serde_json::from_value(v).map_err(|e| e.to_string())?);
            Ok(())
        };
        self.0.try_rows(&Request::Lnet { ask }, read)?;
        Ok(all)
    }

    /// The error number that the node's latest refusal had.
    fn errno(&self) -> Option<i32> {
        self.0.refusal().and_then(|v| v["errno"].as_i64()).and_then(|n| i32::try_from(n).ok())
    }

    /// Gives an order; a refusal that has an error number is as `told` tells it.
    fn order(&mut self, ask: Ask, told: impl Fn(i32, &str) -> Refusal) -> Result<(), Refusal> {
        self.0.one(&Request::Lnet { ask }).map(drop).map_err(|e| match self.errno() {
            Some(n) => told(n, &e),
            None => e.into(),
        })
    }

    /// An answer of one value.
    fn one<T: serde::de::DeserializeOwned>(&mut self, ask: Ask) -> Result<T, Refusal> {
        let mut v = self.0.one(&Request::Lnet { ask })?;
        Ok(serde_json::from_value(v["end"].take()).map_err(|e| e.to_string())?)
    }
}

fn run(a: &LnetctlArgs) -> Result<(), Refusal> {
    let node = || Asked::find(a.node.as_deref());
    if a.list {
        return Ok(crate::out::line(LnetctlArgs::verbs().join("\n"))?);
    }
    let Some(verb) = &a.verb else {
        return Err(Refusal::words(255, "lnetctl: a command is missing. See 'lnetctl --list-commands'."));
    };
    match verb {
        CtlVerb::Net(verb) => nets::change(verb, node),
        CtlVerb::Peer(CtlPeer::Show { nid, detail }) => tables::peers(node()?, nid.as_deref(), detail),
        // A peer by hand keeps its primary NID in any case, and may be deleted: nothing more is to be said to the node.
        CtlVerb::Peer(CtlPeer::Add { peer, non_mr, .. }) => by_hand::add(peer, !non_mr, node),
        CtlVerb::Peer(CtlPeer::Del { peer, .. }) => by_hand::del(peer, node),
        CtlVerb::Peer(CtlPeer::Set { nid, all, health, state }) => {
            ni_values::peers((nid.as_deref(), *all), *health, state.as_deref(), node)
        }
        CtlVerb::Peer(CtlPeer::List) => tables::peer_list(node()?),
        CtlVerb::Route(verb) => routing::main(verb, node),
        CtlVerb::Routing(CtlRouting::Show) => tables::routing(node()?),
        CtlVerb::Stats(CtlStats::Show) => tables::stats(node()?),
        CtlVerb::Stats(CtlStats::Reset) => node()?.one::<()>(Ask::Reset {}),
        CtlVerb::Global(CtlGlobal::Show) => tables::global(node()?),
        CtlVerb::Set { name, value } => setting::set(name, value, node),
        CtlVerb::Ping { source: Some(nid), .. } => refuse_source(nid),
        CtlVerb::Ping { nids, timeout, .. } => answers::ping(nids, *timeout, node),
        CtlVerb::Discover { nids, force } => answers::discover(nids, *force, node),
        CtlVerb::Fault(kind) => rules::main(&kind.kind, a.node.as_deref()),
        CtlVerb::Export { backup, file } => tables::export(node()?, *backup, file.as_deref()),
        CtlVerb::Import { show: true, .. } => {
            refuse_import("show", "`export`, `net show`, `route show` and `peer show` do")
        }
        CtlVerb::Import { exec: true, .. } => refuse_import("exec", "`ping` and `discover` do"),
        CtlVerb::Import { del: true, file, .. } => importing::del(file.as_deref(), node),
        CtlVerb::Import { del: false, file, .. } => importing::import(file.as_deref(), node),
        CtlVerb::Debug(CtlDebug::Recovery { local, peer }) => looking::recovery(node()?, *peer && !local),
        CtlVerb::CptOfNid { nids, named } => looking::cpts(&[&nids[..], &named[..]].concat(), node),
        CtlVerb::Lnet { words } => refuse_lnet(words),
        CtlVerb::Udsp { words } => refuse_udsp(words),
    }
}

/// The NI that a ping leaves by is nobody's to choose.
fn refuse_source(nid: &str) -> Result<(), Refusal> {
    let why = format!(
        "source {nid}: a ping leaves by the NI that health, credits and turn choose: leave it out, or ping a NID on the network of that NI"
    );
    Err(Refusal::netlink("manage", "ping", libc::EOPNOTSUPP, why))
}

/// A file gives a node what it says, or deletes it; it asks nothing.
fn refuse_import(option: &str, others: &str) -> Result<(), Refusal> {
    let why = format!("--{option}: a file is taken (--add) or what it names is deleted (--del); {others}");
    Err(Refusal::netlink("add", "import", libc::EOPNOTSUPP, why))
}

/// A node has its networks from its start to its end.
fn refuse_lnet(words: &[String]) -> Result<(), Refusal> {
    let (verb, how) = match words.first().map(String::as_str) {
        Some("configure") => {
            ("configure", "a node has its networks as it starts: `pollnd node`, and `net add` for more")
        }
        Some("unconfigure") => {
            ("unconfigure", "a node's networks go as it ends: stop it, or `net del` for one of them")
        }
        _ => return Err(Refusal::words(255, "pollnd: lnet: it takes configure or unconfigure")),
    };
    Err(Refusal::old(verb, "lnet", libc::EOPNOTSUPP, format!("\"{how}\"")))
}

/// There are none to show, and none can be made.
fn refuse_udsp(words: &[String]) -> Result<(), Refusal> {
    let verb = match words.first().map(String::as_str) {
        Some("show") => return Ok(()),
        Some("add") => "add",
        Some("del") => "del",
        _ => return Err(Refusal::words(255, "pollnd: udsp: it takes add, del or show")),
    };
    let why = "\"a node chooses NIDs by health, credits and turn alone: it has no selection policies\"";
    Err(Refusal::old(verb, "udsp", libc::EOPNOTSUPP, why))
}

/// `pollnd lnetctl`.
pub(crate) fn main(a: &LnetctlArgs) -> ExitCode {
    let status = match &a.verb {
        None if !a.list => stdin::main(a.node.as_deref()).unwrap_or_else(|e| Refusal::from(e).end()),
        _ => run(a).map_or_else(|r| r.end(), |()| 0),
    };
    crate::out::end_if_closed();
    ExitCode::from(status)
}
