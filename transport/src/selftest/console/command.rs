//! Verbs with their options and arguments.

use super::params::{self, Params};
use super::words::{Given, Opt, flag, options, with};
use crate::wire::Brief;

/// The batch that each session has from its beginning.
pub const DEFAULT_BATCH: &str = "batch";
/// Most units that a test may have for each destination.
const CONCURRENCY_MAX: u32 = 1024;
/// Longest name, in bytes: one that a message carries ends with a zero.
const NAME_MAX: usize = 31;
/// Shortest time-out of a transaction, in seconds.
const TIMEOUT_MIN: u32 = 3;
/// Seconds in which members answer `ping`, `stat`, `query`.
const TIMEOUT: u32 = 5;
/// Largest number of seconds that is taken.
const SECONDS_MAX: u32 = 1 << 20;

/// Bad words: text for standard error, status 255.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misused(pub String);

/// Nodes that a verb is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// All of the session.
    Session,
    /// A group's.
    Group(String),
    /// A batch's clients, or its servers.
    Batch(String, Side),
    /// Those of a list of NIDs.
    Nodes(String),
}

/// Clients or servers of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Those that ask.
    Client,
    /// Those that are asked.
    Server,
}

/// States of nodes that are shown; none stands for counts only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States {
    /// ACTIVE ones.
    pub active: bool,
    /// Those in another session.
    pub busy: bool,
    /// Those that do not answer any more.
    pub down: bool,
    /// Those that have never answered.
    pub unknown: bool,
}

impl States {
    /// Whether any state is chosen.
    pub fn any(self) -> bool {
        self != States::default()
    }
}

/// Nodes of a batch that `query` shows, by what they do; none stands for counts only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Those at work.
    pub running: bool,
    /// Those that have nothing to do.
    pub idle: bool,
    /// Those that did not answer, or with an error.
    pub failed: bool,
}

impl Shown {
    /// Whether any node may be shown.
    pub fn any(self) -> bool {
        self != Shown::default()
    }
}

/// Change of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Asks members that are not ACTIVE again.
    Refresh,
    /// Takes out those of the given states.
    Clean(States),
    /// Takes out those of a list of NIDs.
    Remove(String),
}

/// Columns of `stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "options of a command, each by itself")]
pub struct Columns {
    /// Bandwidth.
    pub bw: bool,
    /// Messages a second.
    pub rate: bool,
    /// Rates of receiving.
    pub read: bool,
    /// Rates of sending.
    pub write: bool,
    /// Mean over the nodes.
    pub avg: bool,
    /// Least node.
    pub min: bool,
    /// Greatest node.
    pub max: bool,
    /// In MB/s, not MiB/s.
    pub mbs: bool,
}

/// A verb with what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "options and arguments of verbs, which `help` describes")]
pub enum Command {
    NewSession { name: Option<String>, timeout_s: u32, force: bool, features: u32 },
    ShowSession,
    EndSession,
    Ping { who: Who, timeout_s: u32 },
    AddGroup { name: String, ids: Vec<String> },
    UpdateGroup { name: String, change: Change },
    ListGroup { names: Vec<String>, states: States },
    DelGroup { name: String },
    AddBatch { name: String },
    ListBatch { name: Option<String>, test: Option<u32>, side: Side, states: States },
    AddTest { batch: String, test: NewTest },
    Run { batch: String, timeout_s: u32 },
    Stop { batch: String, force: bool },
    Query { batch: String, test: u32, timeout_s: u32, times: u32, delay_s: u32, shown: Shown, side: Side },
    Stat { names: Vec<String>, columns: Columns, delay_s: u32, count: Option<u32>, timeout_s: u32 },
    ShowError { names: Vec<String>, session_only: bool },
    Sleep { seconds: u32 },
    Help { verb: Option<String> },
    Verbs,
    Exit,
}

/// A test to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTest {
    /// Requests of a unit; none for no end.
    pub times: Option<u32>,
    /// Units for each destination.
    pub concurrency: u32,
    /// Clients that have the same destinations.
    pub dist: u32,
    /// Destinations of each client.
    pub span: u32,
    /// Group of clients.
    pub from: String,
    /// Group of servers.
    pub to: String,
    /// Parameters of its requests.
    pub params: Params,
}

const STATES: [Opt; 5] =
    [flag("active", 'a'), flag("busy", 'b'), flag("down", 'd'), flag("unknown", 'u'), flag("all", 'l')];

/// The verbs, in lst's order, with their options.
const VERBS: [(&str, &[Opt]); 20] = [
    ("new_session", &[with("timeout", 't', "SECONDS"), flag("force", 'f')]),
    ("show_session", &[]),
    ("end_session", &[]),
    (
        "ping",
        &[
            flag("session", 's'),
            flag("server", 'v'),
            with("batch", 'b', "NAME"),
            with("group", 'g', "NAME"),
            with("nodes", 'n', "NIDS"),
            with("timeout", 't', "SECONDS"),
        ],
    ),
    ("add_group", &[]),
    ("del_group", &[]),
    (
        "update_group",
        &[flag("refresh", 'f'), with("clean", 'c', "STATE[|STATE...]"), with("remove", 'r', "NIDS")],
    ),
    ("list_group", &STATES),
    (
        "stat",
        &[
            flag("bw", 'b'),
            flag("rate", 'a'),
            flag("read", 'r'),
            flag("write", 'w'),
            flag("avg", 'g'),
            flag("min", 'n'),
            flag("max", 'x'),
            flag("mbs", 'm'),
            with("timeout", 't', "SECONDS"),
            with("delay", 'd', "SECONDS"),
            with("count", 'o', "TIMES"),
        ],
    ),
    ("show_error", &[flag("session", 's')]),
    ("add_batch", &[]),
    ("run", &[with("timeout", 't', "SECONDS")]),
    ("stop", &[flag("force", 'f')]),
    (
        "list_batch",
        &[
            flag("active", 'a'),
            flag("busy", 'b'),
            flag("down", 'd'),
            flag("unknown", 'u'),
            flag("invalid", 'i'),
            flag("all", 'l'),
            with("test", 't', "N"),
            flag("server", 's'),
        ],
    ),
    (
        "query",
        &[
            flag("server", 's'),
            flag("active", 'a'),
            flag("idle", 'i'),
            flag("error", 'e'),
            flag("all", 'l'),
            with("timeout", 'o', "SECONDS"),
            with("loop", 'c', "TIMES"),
            with("delay", 'd', "SECONDS"),
            with("test", 't', "N"),
        ],
    ),
    (
        "add_test",
        &[
            with("batch", 'b', "NAME"),
            with("concurrency", 'c', "N"),
            with("distribute", 'd', "N:M"),
            with("from", 'f', "GROUP"),
            with("to", 't', "GROUP"),
            with("loop", 'l', "TIMES"),
        ],
    ),
    ("help", &[]),
    ("sleep", &[]),
    ("exit", &[]),
    ("quit", &[]),
];

/// The names of all verbs.
pub fn verbs() -> impl Iterator<Item = &'static str> {
    VERBS.iter().map(|(v, _)| *v)
}

/// Takes the words of a line; none of them for an empty one. A first word `lst` is passed over.
///
/// # Errors
/// In lst's words, with the remedy.
pub fn parse(words: &[String]) -> Result<Option<Command>, Misused> {
    let words = match words.split_first() {
        Some((lst, rest)) if lst == "lst" => rest,
        _ => words,
    };
    let Some((verb, rest)) = words.split_first() else { return Ok(None) };
    if verb == "--list-commands" {
        return Ok(Some(Command::Verbs));
    }
    let Some((verb, known)) = VERBS.iter().find(|(v, _)| v == verb) else {
        return Err(Misused(format!("lst: '{verb}' is not a valid command. See 'lst --list-commands'.")));
    };
    let wrong = |e: String| Misused(format!("{verb}: {e}\nTry 'lst help {verb}'."));
    let given = options(rest, known).map_err(wrong)?;
    take(verb, &given).map(Some).map_err(|e| if e.lst { Misused(e.text) } else { wrong(e.text) })
}

/// Bad words of a verb; `lst`: the text is lst's, and stands alone.
struct Wrong {
    text: String,
    lst: bool,
}

impl From<String> for Wrong {
    fn from(text: String) -> Wrong {
        Wrong { text, lst: false }
    }
}

fn of_lst(text: impl Into<String>) -> Wrong {
    Wrong { text: text.into(), lst: true }
}

fn take(verb: &str, g: &Given) -> Result<Command, Wrong> {
    match verb {
        "new_session" => new_session(g),
        "show_session" => none(g, Command::ShowSession),
        "end_session" => none(g, Command::EndSession),
        "ping" => ping(g),
        "add_group" => match g.rest.split_first() {
            Some((group, ids)) if !ids.is_empty() => {
                Ok(Command::AddGroup { name: name(group)?, ids: ids.to_vec() })
            }
            _ => Err("it takes a name and NIDs: write add_group NAME NIDS...".to_owned().into()),
        },
        "del_group" => Ok(Command::DelGroup { name: one(g, "del_group GROUP")? }),
        "update_group" => update_group(g),
        "list_group" => Ok(Command::ListGroup { names: g.rest.clone(), states: states(g) }),
        "stat" => stat(g),
        "show_error" if g.rest.is_empty() => {
            Err("it takes groups or NIDs: write show_error [--session] GROUP...".to_owned().into())
        }
        "show_error" => Ok(Command::ShowError { names: g.rest.clone(), session_only: g.has("session") }),
        "add_batch" => Ok(Command::AddBatch { name: name(&one(g, "add_batch NAME")?)? }),
        "run" => Ok(Command::Run { batch: batch(g)?, timeout_s: seconds(g, "timeout", 1)?.unwrap_or(0) }),
        "stop" => Ok(Command::Stop { batch: batch(g)?, force: g.has("force") }),
        "list_batch" => Ok(Command::ListBatch {
            name: at_most_one(g)?,
            test: g.value("test").map(|v| number("test", v, 1..=u32::MAX)).transpose()?,
            side: side(g),
            states: states(g),
        }),
        "query" => query(g),
        "add_test" => add_test(g),
        "help" => Ok(Command::Help { verb: at_most_one(g)? }),
        "sleep" => {
            Ok(Command::Sleep { seconds: number("SECONDS", &one(g, "sleep SECONDS")?, 0..=SECONDS_MAX)? })
        }
        _ => none(g, Command::Exit),
    }
}

fn none(g: &Given, c: Command) -> Result<Command, Wrong> {
    match g.rest.first() {
        None => Ok(c),
        Some(w) => Err(format!("{w}: it takes no arguments: leave them out").into()),
    }
}

fn at_most_one(g: &Given) -> Result<Option<String>, Wrong> {
    match g.rest.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [_, more, ..] => Err(format!("{more}: it takes one argument: leave the others out").into()),
    }
}

fn one(g: &Given, usage: &str) -> Result<String, Wrong> {
    at_most_one(g)?.ok_or_else(|| format!("an argument is missing: write {usage}").into())
}

/// The batch of a verb: the default one if none is named.
fn batch(g: &Given) -> Result<String, Wrong> {
    Ok(at_most_one(g)?.unwrap_or_else(|| DEFAULT_BATCH.to_owned()))
}

/// A name of a session, a group or a batch.
fn name(s: &str) -> Result<String, Wrong> {
    match s.len() {
        0 => Err("an empty name: write one of 1 to 31 characters".to_owned().into()),
        n if n > NAME_MAX => Err(of_lst(format!(
            "Name {:?} is too long: it has {n} bytes, and names have at most {NAME_MAX}",
            Brief(s)
        ))),
        _ => Ok(s.to_owned()),
    }
}

fn number(what: &str, s: &str, range: std::ops::RangeInclusive<u32>) -> Result<u32, Wrong> {
    s.parse().ok().filter(|n| range.contains(n)).ok_or_else(|| {
        format!("{what}: {:?} is no whole number from {} to {}", Brief(s), range.start(), range.end()).into()
    })
}

fn seconds(g: &Given, what: &str, least: u32) -> Result<Option<u32>, Wrong> {
    g.value(what).map(|v| number(what, v, least..=SECONDS_MAX)).transpose()
}

fn side(g: &Given) -> Side {
    if g.has("server") { Side::Server } else { Side::Client }
}

fn states(g: &Given) -> States {
    let all = g.has("all");
    // As lst: all states but ACTIVE.
    let invalid = all || g.has("invalid");
    States {
        active: all || g.has("active"),
        busy: invalid || g.has("busy"),
        down: invalid || g.has("down"),
        unknown: invalid || g.has("unknown"),
    }
}

fn new_session(g: &Given) -> Result<Command, Wrong> {
    let session = at_most_one(g)?.map(|s| name(&s)).transpose()?;
    let timeout_s = seconds(g, "timeout", 0)?.unwrap_or(300);
    Ok(Command::NewSession { name: session, timeout_s, force: g.has("force"), features: 1 })
}

fn ping(g: &Given) -> Result<Command, Wrong> {
    let timeout_s = seconds(g, "timeout", TIMEOUT_MIN)?.unwrap_or(TIMEOUT);
    let given = ["session", "group", "batch", "nodes"].into_iter().filter(|o| g.has(o));
    let (Some(option), None) = (given.clone().next(), given.clone().nth(1)) else {
        let e = "write one of --session, --group NAME, --batch NAME and --nodes NIDS";
        return Err(e.to_owned().into());
    };
    if let Some(w) = g.rest.first() {
        return Err(format!("{w}: it takes options only: write --group {w} or --nodes {w}").into());
    }
    let value = g.value(option).unwrap_or_default().to_owned();
    let who = match option {
        "session" => Who::Session,
        "group" => Who::Group(value),
        "batch" => Who::Batch(value, side(g)),
        _ => Who::Nodes(value),
    };
    Ok(Command::Ping { who, timeout_s })
}

fn update_group(g: &Given) -> Result<Command, Wrong> {
    let name = one(g, "update_group GROUP and one of --refresh, --clean STATE and --remove NIDS")?;
    let change = match g.options.as_slice() {
        [("refresh", _)] => Change::Refresh,
        [("clean", what)] => Change::Clean(cleaned(what)?),
        [("remove", nids)] => Change::Remove(nids.clone()),
        _ => return Err("write one of --refresh, --clean STATE and --remove NIDS".to_owned().into()),
    };
    Ok(Command::UpdateGroup { name, change })
}

fn cleaned(what: &str) -> Result<States, Wrong> {
    let mut s = States::default();
    for w in what.split(['|', ',', ' ']).filter(|w| !w.is_empty()) {
        match w {
            "busy" => s.busy = true,
            "down" => s.down = true,
            "unknown" => s.unknown = true,
            "all" | "invalid" => s = States { busy: true, down: true, unknown: true, ..s },
            _ => {
                return Err(of_lst(format!(
                    "Invalid state {:?}: --clean takes busy, down, unknown, or all of these by `all`; to take out members \
                     that are ACTIVE, write --remove NIDS",
                    Brief(w)
                )));
            }
        }
    }
    if s.any() { Ok(s) } else { Err("--clean names no state: busy, down, unknown or all".to_owned().into()) }
}

fn stat(g: &Given) -> Result<Command, Wrong> {
    if g.rest.is_empty() {
        return Err("it takes groups or NIDs: write stat [OPTIONS] GROUP...".to_owned().into());
    }
    let pair = |a: &str, b: &str| if g.has(a) || g.has(b) { (g.has(a), g.has(b)) } else { (true, true) };
    let ((bw, rate), (read, write)) = (pair("bw", "rate"), pair("read", "write"));
    let some = g.has("avg") || g.has("min") || g.has("max");
    let shown = |o: &str| !some || g.has(o);
    Ok(Command::Stat {
        names: g.rest.clone(),
        columns: Columns {
            bw,
            rate,
            read,
            write,
            avg: shown("avg"),
            min: shown("min"),
            max: shown("max"),
            mbs: g.has("mbs"),
        },
        delay_s: seconds(g, "delay", 1)?.unwrap_or(TIMEOUT),
        count: match g.value("count") {
            None | Some("-1") => None,
            Some(v) => Some(number("count", v, 1..=u32::MAX)?),
        },
        timeout_s: seconds(g, "timeout", TIMEOUT_MIN)?.unwrap_or(TIMEOUT),
    })
}

fn query(g: &Given) -> Result<Command, Wrong> {
    Ok(Command::Query {
        batch: batch(g)?,
        test: g.value("test").map_or(Ok(0), |v| number("test", v, 1..=u32::MAX))?,
        timeout_s: seconds(g, "timeout", TIMEOUT_MIN)?.unwrap_or(TIMEOUT),
        times: g.value("loop").map_or(Ok(1), |v| number("loop", v, 1..=u32::MAX))?,
        delay_s: seconds(g, "delay", 1)?.unwrap_or(TIMEOUT),
        shown: Shown {
            running: g.has("all") || g.has("active"),
            idle: g.has("all") || g.has("idle"),
            failed: g.has("all") || g.has("error"),
        },
        side: side(g),
    })
}

fn add_test(g: &Given) -> Result<Command, Wrong> {
    let batch = g.value("batch").unwrap_or(DEFAULT_BATCH).to_owned();
    let (Some(from), Some(to)) = (g.value("from"), g.value("to")) else {
        return Err("--from GROUP and --to GROUP are needed: the clients and the servers".to_owned().into());
    };
    let times = match g.value("loop") {
        None | Some("-1") => None,
        Some(v) => Some(v.parse().ok().filter(|n| (1..=i32::MAX as u32).contains(n)).ok_or_else(|| {
            of_lst(format!("Invalid loop count {v}: write 1 to {}, or -1 for no end", i32::MAX))
        })?),
    };
    let concurrency = g.value("concurrency").map_or(Ok(1), |v| {
        v.parse()
            .ok()
            .filter(|n| (1..=CONCURRENCY_MAX).contains(n))
            .ok_or_else(|| of_lst(format!("Invalid concurrency of test: {v}: write 1 to {CONCURRENCY_MAX}")))
    })?;
    let (dist, span) = g.value("distribute").map_or(Ok((1, 1)), |v| {
        let part = |p: &str| p.parse::<u32>().ok().filter(|n| *n > 0);
        v.split_once(':').and_then(|(d, s)| Some((part(d)?, part(s)?))).ok_or_else(|| {
            of_lst(format!(
                "Invalid distribution: {v}: write clients:servers, such as 1:2 for two servers for each client"
            ))
        })
    })?;
    let params = params::parse(&g.rest).map_err(of_lst)?;
    let (from, to) = (from.to_owned(), to.to_owned());
    Ok(Command::AddTest { batch, test: NewTest { times, concurrency, dist, span, from, to, params } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::console::words::split;

    fn say(line: &str) -> String {
        match parse(&split(line).unwrap()) {
            Ok(c) => format!("{c:?}"),
            Err(Misused(e)) => format!("error: {e}"),
        }
    }

    #[test]
    fn verbs_are_taken_as_lst_takes_them() {
        let lines = [
            "",
            "new_session --timeout 300 full",
            "lst new_session --force",
            "show_session",
            "ping --group servers",
            "ping --session --timeout 3",
            "ping --nodes 192.168.80.12@tcp",
            "ping --batch bulk --server",
            "add_group all 192.168.80.11@tcp 192.168.80.[12,13]@tcp",
            "update_group servers --refresh",
            "update_group part --clean unknown",
            "update_group part --clean busy|down",
            "update_group all --remove 192.168.80.13@tcp",
            "list_group",
            "list_group servers --all",
            "add_test --batch bulk --loop 2 --concurrency 1 --distribute 1:2 --from c --to s brw write check=simple size=8k",
            "add_test --from c --to s --loop -1 ping",
            "run",
            "stop b2 --force",
            "query bulk --loop 2 --delay 1 --all",
            "query bulk --test 1",
            "query bulk -a",
            "query bulk --idle --error",
            "stat --bw --rate --read --delay 1 --count 1 servers",
            "stat --max --mbs servers clients",
            "show_error --session servers",
            "list_batch bulk --test 1 --server --all",
            "list_batch bulk --invalid",
            "list_batch bulk -l",
            "list_group servers -l",
            "stat -t 3 servers",
            "help add_test",
            "--list-commands",
            "quit",
        ];
        insta::assert_snapshot!(lines.map(|l| format!("{l}\n    {}", say(l))).join("\n"));
    }

    #[test]
    fn bad_words_are_refused_with_the_remedy() {
        let lines = [
            "frobnicate",
            "new_session --timeout x",
            "new_session a b",
            "new_session 12345678901234567890123456789012",
            "end_session now",
            "ping",
            "ping --session --group a",
            "ping servers",
            "add_group a",
            "update_group a",
            "update_group a --refresh --remove 10.0.0.1@tcp",
            "update_group a --clean active",
            "list_batch a b",
            "stat",
            "stat --timeout 1 a",
            "stat --nosuch a",
            "show_error",
            "query b --loop 0",
            "add_test ping",
            "add_test --from a --to b --loop 0 ping",
            "add_test --from a --to b --concurrency 2000 ping",
            "add_test --from a --to b --distribute 3 ping",
            "add_test --from a --to b --distribute 0:1 ping",
            "add_test --from a --to b brw read size=4100",
            "sleep",
        ];
        insta::assert_snapshot!(lines.map(|l| format!("{l}\n    {}", say(l))).join("\n"));
    }
}
