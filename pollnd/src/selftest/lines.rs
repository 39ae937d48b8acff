//! Verbs from a file, from standard input, or from somebody at a terminal.

use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use transport::selftest::console::command::{self, Command};
use transport::selftest::console::{FAILED, INTERRUPTED, split};
use transport::wire::Nid;

use super::console::Console;
use super::live::Live;
use super::{say, say_end};
use crate::args::SelftestArgs;
use crate::{MISUSED, limits, out};

/// The prompt of lst.
const PROMPT: &str = "lst > ";
/// Longest script, in bytes.
const SCRIPT_MAX: u64 = 1 << 20;

pub(super) fn main(mut a: SelftestArgs) -> Result<u8, String> {
    let talk = a.file.is_none() && std::io::stdin().is_terminal();
    let (name, text) = match &a.file {
        Some(path) => match read(path) {
            Ok(text) => (path.display().to_string(), text),
            Err(e) => return Ok(super::fault(&e, MISUSED)),
        },
        None if talk => (String::new(), String::new()),
        None => ("standard input".to_owned(), all(std::io::stdin().lock(), "standard input")?),
    };
    let members = members(&text);
    if talk && a.via.nid.is_none() && a.via.through.is_none() && a.node.route.is_empty() {
        out::note("no --nid: verbs go to the node that runs here (--nid NID begins one of its own)");
    }
    let via = a.via.clone();
    let mut c = super::open(&via, &mut a.node, &members)?;
    let outcome = if talk { converse(&mut c, &a) } else { script(&mut c, &a, &name, &text) };
    let (status, ended) = match outcome {
        Ok(s) => (s, Ok(())),
        Err(e) => (FAILED, Err(e)),
    };
    // Its session ends with its lines; there may be none.
    let last = c.verb(&["end_session".to_owned()], None, false, &mut |_| Ok(())).map(drop);
    c.close(ended.and(last))?;
    Ok(status)
}

fn all(mut from: impl BufRead, name: &str) -> Result<String, String> {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::io::Read::take(&mut from, SCRIPT_MAX), &mut text)
        .map_err(|e| format!("{name}: {e}; it should be lines of text, a verb in each"))?;
    if text.len() as u64 == SCRIPT_MAX {
        return Err(format!("{name}: longer than {SCRIPT_MAX} bytes, which no script is: give it in parts"));
    }
    Ok(text)
}

fn read(path: &Path) -> Result<String, String> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path)
        .map_err(|e| format!("-f {name}: {}; name a file with a verb in each line", limits::told(&e)))?;
    all(std::io::BufReader::new(file), &name)
}

/// The nodes that a script adds: they say which node of this machine can be its console.
fn members(text: &str) -> Vec<Nid> {
    let words = text.lines().filter_map(|l| split(l).ok());
    let lists = words.flat_map(|w| match w.iter().position(|w| w == "add_group") {
        Some(at) => w.get(at + 2..).unwrap_or_default().to_vec(),
        None => Vec::new(),
    });
    lists.filter_map(|l| transport::selftest::console::nidlist::parse(&l).ok()).flatten().collect()
}

/// One line; none where it says to leave.
fn line(
    c: &mut Console,
    a: &SelftestArgs,
    line: &str,
    live: Option<&mut Live>,
) -> Result<Option<u8>, String> {
    let words = match split(line) {
        Ok(w) => w,
        Err(e) => {
            out::err(&format!("{e}\n"));
            return Ok(Some(FAILED));
        }
    };
    let verb = match words.as_slice() {
        [] => return Ok(Some(0)),
        [lst, verb, ..] if lst == "lst" => verb.clone(),
        [verb, ..] => verb.clone(),
    };
    if verb == "exit" || verb == "quit" {
        return Ok(None);
    }
    let mut live = live;
    let status = c.verb(&words, None, true, &mut |p| say(&p, &verb, a.json, live.as_deref_mut()))?;
    say_end(&verb, status, a.json)?;
    Ok(Some(status))
}

fn script(c: &mut Console, a: &SelftestArgs, name: &str, text: &str) -> Result<u8, String> {
    let mut status = 0;
    for (n, l) in text.lines().enumerate() {
        if c.is_interrupted() {
            return Ok(INTERRUPTED);
        }
        let mut live = Live::on_terminal(a.json);
        match line(c, a, l, live.as_mut())? {
            None => break,
            Some(0) => {}
            Some(s) => {
                status = s;
                if !a.json {
                    out::note(format_args!("{name}:{}: {}: exit status {s}", n + 1, l.trim()));
                }
            }
        }
    }
    Ok(status)
}

/// Whether a verb runs until somebody ends it.
fn is_endless(words: &[String]) -> bool {
    matches!(command::parse(words), Ok(Some(Command::Stat { count: None, .. })))
}

/// Reads lines as they are typed, on a thread of its own: a signal is heard while nobody types, and Enter while a verb runs that
/// has no end of its own.
fn converse(c: &mut Console, a: &SelftestArgs) -> Result<u8, String> {
    let (typed, lines) = mpsc::channel();
    let (end, endless) = (c.ender(), Arc::new(AtomicBool::new(false)));
    let on = endless.clone();
    drop(limits::thread("reads lines", move || {
        for l in std::io::stdin().lock().lines() {
            let Ok(l) = l else { break };
            let enter = l.trim().is_empty() && on.load(Ordering::Relaxed) && end();
            if !enter && typed.send(l).is_err() {
                break;
            }
        }
    })?);
    let mut status = 0;
    loop {
        out::text(PROMPT)?;
        let l = loop {
            match lines.recv_timeout(Duration::from_millis(50)) {
                Ok(l) => break l,
                Err(RecvTimeoutError::Disconnected) => {
                    out::line("")?;
                    return Ok(status);
                }
                Err(RecvTimeoutError::Timeout) if c.is_interrupted() => return Ok(INTERRUPTED),
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        let mut live = Live::on_terminal(a.json);
        endless.store(split(&l).is_ok_and(|w| is_endless(&w)), Ordering::Relaxed);
        if endless.load(Ordering::Relaxed) && !a.json {
            out::note("Enter or Ctrl-C ends it");
        }
        c.at_prompt(true);
        let did = line(c, a, &l, live.as_mut());
        c.at_prompt(false);
        endless.store(false, Ordering::Relaxed);
        match did? {
            None => return Ok(status),
            Some(0) => {}
            Some(s) => status = s,
        }
        if c.is_interrupted() {
            return Ok(INTERRUPTED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_without_a_count_is_endless() {
        for (line, want) in [
            ("stat g", true),
            ("lst stat --bw --delay 2 g h", true),
            ("stat --count 3 g", false),
            ("query b", false),
            ("stat", false),
            ("", false),
        ] {
            assert_eq!(is_endless(&split(line).unwrap()), want, "{line}");
        }
    }

    #[test]
    fn members_of_a_script_are_found_before_it_runs() {
        let text = "new_session s\nlst add_group a 10.0.0.[1-2]@tcp # two\nadd_group b foo@bar 10.0.0.9@tcp\nadd_group 'c";
        let found: Vec<String> = members(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1@tcp", "10.0.0.2@tcp", "10.0.0.9@tcp"]);
    }
}
