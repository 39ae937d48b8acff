//! `pollnd selftest quick`: a session, two groups, a test, rates while it runs, a table, and an end in order.

use std::io::IsTerminal;
use std::sync::Arc;

use console::Term;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use transport::selftest::console::INTERRUPTED;
use transport::wire::Nid;

use super::console::Console;
use super::host::Piece;
use super::table::{self, Sum};
use super::width::{bar, fit};
use super::{is_unheard, nids, number, open, width};
use crate::args::{self, CheckArg, Command, QuickArgs, What};
use crate::inspect::seats::Seats;
use crate::{out, units};

/// Time after which the session ends in a node that runs, once nobody types, in seconds: that of members without a console.
const IDLE_S: u32 = 100;

/// Blanks before lines that are drawn again.
const INDENT: usize = 2;

/// The session in lst's words.
fn session(force: bool) -> Vec<String> {
    words(&format!("new_session --timeout {IDLE_S} {}quick", if force { "--force " } else { "" }))
}

/// The test in lst's words.
fn test(a: &QuickArgs) -> Vec<String> {
    let concurrency = a.concurrency.to_string();
    let fixed = [
        "add_test",
        "--concurrency",
        &concurrency,
        "--distribute",
        &a.distribute,
        "--from",
        "from",
        "--to",
        "to",
    ];
    let mut words: Vec<String> = fixed.iter().map(|w| (*w).to_owned()).collect();
    if a.ping {
        words.push("ping".into());
        return words;
    }
    let check = match a.check {
        CheckArg::None => "none",
        CheckArg::Simple => "simple",
        CheckArg::Full => "full",
        CheckArg::Discard => "discard",
    };
    words.extend(["brw".to_owned(), if a.read { "read" } else { "write" }.to_owned()]);
    words.extend([format!("check={check}"), format!("size={}", a.size)]);
    words
}

/// The measured workload, in words.
fn title(a: &QuickArgs, sources: usize, destinations: usize) -> String {
    let [from, to] =
        [(sources, "source"), (destinations, "destination")].map(|(n, w)| units::many(n as u64, w));
    let what = if a.ping {
        "ping".to_owned()
    } else {
        format!("brw {} of {}", if a.read { "read" } else { "write" }, units::many(a.size.into(), "byte"))
    };
    format!("{what}, concurrency {}, {} s: {from}, {to}", a.concurrency, a.seconds)
}

/// The lines that are drawn again and again, as wide as the terminal.
struct Progress {
    bar: ProgressBar,
    top: f64,
    /// Rates of the round: payload and its messages.
    from: f64,
}

impl Progress {
    fn new(a: &QuickArgs) -> Progress {
        let shown = !a.json && std::io::stderr().is_terminal();
        let bar = if shown { ProgressBar::new(a.seconds.into()) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("  {pos:>3}/{len} s  {prefix}\n  {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Progress { bar, top: 0.0, from: 0.0 }
    }

    fn show(&mut self, a: &QuickArgs, p: &Piece, sum: &Sum) {
        let nodes = p.result["nodes"].as_array();
        let of = |key: &str| nodes.into_iter().flatten().map(|n| number(n, key)).sum::<f64>();
        let (bytes, messages) = (of("recv_bytes_per_s"), of("recv_per_s"));
        if p.result["group"] == "from" {
            self.from = bytes;
            return;
        }
        let bytes = if a.read { self.from } else { bytes };
        self.top = self.top.max(if a.ping { messages } else { bytes });
        let width = width::of(&Term::stderr());
        let own = p.own.as_ref().and_then(|now| table::own(sum.began()?, now, now.rtt_us, width - INDENT));
        let room = width - self.head().chars().count();
        self.bar.set_prefix(rates((bytes, messages), (a.ping, self.top), room));
        self.bar.set_message(own.unwrap_or_default());
        self.bar.inc(1);
    }

    /// Text before the rates.
    fn head(&self) -> String {
        format!("  {:>3}/{} s  ", self.bar.position(), self.bar.length().unwrap_or(0))
    }
}

/// A bar, payload and its messages a second.
fn rates((bytes, messages): (f64, f64), (ping, top): (bool, f64), room: usize) -> String {
    let (rate, each) = (units::rate(bytes as u64, 1.0), units::per_second(messages as u64, 1.0));
    // Pings have no payload.
    let ranks = if ping { (1, 0) } else { (0, 1) };
    let text = fit(&[(ranks.0, format!("{rate:>12}")), (ranks.1, format!(" {each:>10}"))], room);
    bar(if ping { messages } else { bytes }, top, room - text.chars().count()) + &text
}

/// Types verbs one behind the other, until one fails.
struct Typist<'a> {
    c: &'a mut Console,
    json: bool,
}

impl Typist<'_> {
    /// Types a verb; what it says goes to `each`, but faults are said at once.
    fn verb(&mut self, words: &[String], cut: bool, mut each: impl FnMut(&Piece)) -> Result<u8, String> {
        let json = self.json;
        self.c.verb(words, None, cut, &mut |p| {
            each(&p);
            // Counts of errors are summed up, and are no faults by themselves.
            if p.fault && p.result["nid"].is_null() && !is_unheard(&p) {
                if json {
                    return out::line(&p.result);
                }
                out::err(&p.text);
            }
            Ok(())
        })
    }

    fn must(&mut self, words: &[String], each: impl FnMut(&Piece)) -> Result<(), String> {
        if self.c.is_interrupted() {
            return Err("interrupted".into());
        }
        match self.verb(words, true, each)? {
            0 => Ok(()),
            status => Err(format!("{}: exit status {status}; see the line above", words.join(" "))),
        }
    }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn group(name: &str, list: &str) -> Vec<String> {
    vec!["add_group".to_owned(), name.to_owned(), list.to_owned()]
}

/// The run itself, in a session that is there.
fn measure(t: &mut Typist<'_>, a: &QuickArgs, sum: &mut Sum) -> Result<(), String> {
    t.must(&group("from", &a.from), |_| {})?;
    t.must(&group("to", &a.to), |_| {})?;
    t.must(&test(a), |_| {})?;
    t.verb(&words("show_error from to"), true, |p| sum.error(p, false))?;
    t.must(&words("run"), |p| sum.own(p))?;
    let mut progress = Progress::new(a);
    let look = words(&format!("stat --delay 1 --count {} from to", a.seconds));
    let (mut said, json) = (Ok(()), a.json);
    let looked = t.verb(&look, true, |p| {
        if p.result["group"].is_null() {
            return;
        }
        sum.stat(p);
        progress.show(a, p, sum);
        if json && said.is_ok() {
            let mut v = p.result.clone();
            v["own"] = json!(p.own);
            said = out::line(v);
        }
    });
    progress.bar.finish_and_clear();
    sum.interrupted = t.c.is_interrupted();
    // The test is stopped, whatever the looks came to. RPCs under way end first, or time out: whoever does not wait gives
    // them up.
    let mut stopped = t.verb(&words("stop"), !sum.interrupted, |_| {});
    if !sum.interrupted && t.c.is_interrupted() {
        out::note("RPCs under way are given up");
        stopped = t.verb(&words("stop --force"), false, |_| {});
    }
    t.verb(&words("show_error from to"), false, |p| sum.error(p, true))?;
    said?;
    looked?;
    match stopped? {
        0 => Ok(()),
        status => Err(format!("stop: exit status {status}; see the line above")),
    }
}

/// A run that has ended.
pub(crate) struct Ran {
    title: String,
    sum: Sum,
    a: QuickArgs,
    interrupted: bool,
}

impl Ran {
    /// Whether all went well.
    pub(crate) fn clean(&self) -> bool {
        self.status() == 0
    }

    /// The exit status.
    fn status(&self) -> u8 {
        if self.interrupted { INTERRUPTED } else { u8::from(self.sum.errors() != 0) }
    }

    /// The table.
    pub(crate) fn text(&self) -> String {
        format!("{}\n{}", self.title, self.sum.text(self.a.read, self.a.ping))
    }

    /// The same as JSON.
    pub(crate) fn json(&self) -> Value {
        let mut v = self.sum.json(self.a.read, self.a.ping);
        v["test"] = json!(self.title);
        v
    }
}

/// Measures; the exit status.
///
/// # Errors
/// Reason why nothing was measured.
pub(crate) fn main(mut a: QuickArgs) -> Result<u8, String> {
    let (from, to) = (nids("--from", &a.from)?, nids("--to", &a.to)?);
    if !a.size.is_multiple_of(8) {
        return Err(format!(
            "--size {}: no multiple of 8, which a kernel that serves it does not survive; write {}",
            a.size,
            a.size.next_multiple_of(8).min(1 << 20)
        ));
    }
    let title = title(&a, from.len(), to.len());
    let via = a.via.clone();
    let members: Vec<_> = from.into_iter().chain(to).collect();
    let mut c = open(&via, &mut a.node, &members)?;
    let json = a.json;
    let ran = run(&mut c, a, title);
    let said = match &ran {
        Ok(r) if json => out::line(r.json()),
        Ok(r) => out::text(r.text()),
        Err(e) if json => out::line(json!({ "error": e })),
        Err(_) => Ok(()),
    };
    let interrupted = c.is_interrupted();
    let status = ran.as_ref().map_or(1, Ran::status);
    match c.close(ran.map(drop).and(said)) {
        Ok(()) => Ok(status),
        Err(e) if interrupted => {
            out::note(e);
            Ok(INTERRUPTED)
        }
        Err(e) => Err(e),
    }
}

/// A test of so many seconds between two nodes of this process, the first of which has its console in `seats`.
///
/// # Errors
/// Reason why nothing was measured.
pub(crate) fn between(seats: Arc<Seats>, [from, to]: [Nid; 2], seconds: u32) -> Result<Ran, String> {
    let [from, to, seconds] = [from.to_string(), to.to_string(), seconds.to_string()];
    let line = ["pollnd", "selftest", "quick", "--from", &from, "--to", &to, "--seconds", &seconds];
    let parsed = args::parse(line).map_err(|e| e.to_string())?;
    let Command::Selftest(a) = parsed.command else { return Err("no selftest".into()) };
    let Some(What::Quick(a)) = a.what else { return Err("no quick".into()) };
    let title = title(&a, 1, 1);
    run(&mut Console::beside(seats), *a, title)
}

/// The session, from its beginning to its end.
fn run(c: &mut Console, a: QuickArgs, title: String) -> Result<Ran, String> {
    let mut sum = Sum::default();
    let mut t = Typist { c, json: a.json };
    t.must(&session(a.force), |_| {})?;
    let measured = measure(&mut t, &a, &mut sum);
    let left = t.verb(&words("end_session"), false, |_| {}).map(drop);
    measured.and(left)?;
    let interrupted = t.c.is_interrupted();
    if sum.interrupted {
        out::note("interrupted: the rates are those until then");
    }
    Ok(Ran { title, sum, a, interrupted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::selftest::console::command::{Command as Verb, parse};

    #[test]
    fn rates_fit_a_terminal() {
        for ping in [false, true] {
            for room in 26..100 {
                let text = rates((1.25e9, 1200.0), (ping, 1.25e9), room);
                assert!(text.chars().count() <= room, "{room}: {text}");
                assert!(text.contains("10.0 Gbit/s") || ping, "{text}");
                assert!(text.contains("1.20 k/s") || room < 40 && !ping, "{text}");
            }
        }
        assert_eq!(rates((1.25e9, 1200.0), (false, 1.25e9), 29), "█████  10.0 Gbit/s   1.20 k/s");
    }

    /// Whoever is killed, or leaves at once, can end nothing: a node that runs must not move bulk for lst's 300 s then.
    #[test]
    fn a_session_that_nobody_ends_is_over_as_soon_as_its_members_would_end_it() {
        for forced in [false, true] {
            let Ok(Some(Verb::NewSession { name, timeout_s, force, .. })) = parse(&session(forced)) else {
                panic!("{:?}", session(forced));
            };
            assert_eq!((name.as_deref(), timeout_s, force), (Some("quick"), 100, forced));
        }
    }
}
