//! Results of verbs, each with the text that lst prints for it.

use std::fmt::Write;

use super::book::{Counts, NodeState};
use super::command::Columns;
use crate::wire::{Nid, ProcessId};

/// Mean, least and greatest over the nodes of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Mean.
    pub avg: f64,
    /// Least.
    pub min: f64,
    /// Greatest.
    pub max: f64,
}

impl Spread {
    /// Of these.
    pub fn of(all: impl Iterator<Item = f64>) -> Spread {
        let (mut n, mut sum, mut s) = (0.0, 0.0, Spread { avg: 0.0, min: f64::MAX, max: 0.0 });
        for v in all {
            n += 1.0;
            sum += v;
            s = Spread { avg: sum / n, min: s.min.min(v), max: s.max.max(v) };
        }
        if n == 0.0 { Spread::default() } else { s }
    }
}

/// Rates of a node's LNet between two answers to STAT.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NodeRates {
    /// Messages received a second.
    pub recv_rate: f64,
    /// Messages sent a second.
    pub send_rate: f64,
    /// Payload bytes received a second.
    pub recv_bytes: f64,
    /// Payload bytes sent a second.
    pub send_bytes: f64,
}

/// A result. One that is a fault goes to standard error.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "results of the verbs that `help` describes, named as there")]
pub enum Report {
    Session {
        name: String,
        stamp: i64,
        nid: Nid,
        key: u32,
        features: u32,
        timeout_s: u32,
        force: bool,
        nodes: usize,
        /// It has just begun.
        new: bool,
    },
    /// Members of a list were added.
    Added {
        ids: String,
    },
    GroupDeleted,
    /// Names of groups, or of batches.
    Names {
        what: &'static str,
        names: Vec<String>,
    },
    GroupCounts {
        name: String,
        counts: Counts,
        /// The first of several.
        first: bool,
    },
    GroupNodes {
        name: String,
        nodes: Vec<(Nid, NodeState)>,
    },
    Pinged {
        nid: Nid,
        state: NodeState,
        /// Name and NID of the session that it is in.
        session: Option<(String, Nid)>,
    },
    NoNodes {
        name: String,
    },
    TestAdded,
    Batch {
        name: String,
        tests: usize,
        running: bool,
        clients: Counts,
        servers: Counts,
    },
    Test {
        index: u32,
        kind: &'static str,
        times: Option<u32>,
        concurrency: u32,
        clients: Counts,
        servers: Counts,
    },
    BatchNodes {
        nodes: Vec<(Nid, NodeState)>,
    },
    Running {
        batch: String,
    },
    Stopped {
        batch: String,
    },
    Query {
        batch: String,
        test: u32,
        unknown: usize,
        total: usize,
        idle: usize,
        running: usize,
        failed: usize,
    },
    QueryNode {
        nid: Nid,
        state: NodeState,
        /// Whether it is at work, or the error's text.
        active: Result<bool, String>,
    },
    QueryEmpty,
    Stat {
        group: String,
        columns: Columns,
        /// Nodes that did not answer.
        unheard: Vec<Nid>,
        nodes: Vec<(Nid, NodeRates)>,
    },
    /// Names of those that did not answer `stat`: lst counts them.
    StatUnheard {
        group: String,
        nodes: Vec<Nid>,
    },
    /// Heads the errors of a group.
    ErrorsOf {
        group: String,
    },
    NodeErrors {
        nid: Nid,
        brw: u32,
        ping: u32,
        /// Errors, dropped and expired RPCs.
        rpc: Option<[u32; 3]>,
    },
    NodeUnheard {
        nid: Nid,
    },
    ErrorsTotal {
        group: String,
        nodes: usize,
    },
    /// A fault, in lst's words and with the remedy.
    Failed {
        text: String,
    },
    /// Something on the way that is no result.
    Note {
        text: String,
    },
    Help {
        text: String,
    },
}

/// `12345-NID`, as lst prints nodes.
pub(super) fn id(nid: Nid) -> String {
    ProcessId::lustre(nid).to_string()
}

/// Nodes that a line names at most.
const SHOWN: usize = 8;

const HEAD: &str = "\tACTIVE\tBUSY\tDOWN\tUNKNOWN\tTOTAL\n";

fn counts(c: &Counts) -> String {
    format!("{}\t{}\t{}\t{}\t{}", c.active, c.busy, c.down, c.unknown, c.total())
}

fn sides(clients: &Counts, servers: &Counts) -> String {
    format!("{HEAD}client\t{}\nserver\t{}\n", counts(clients), counts(servers))
}

fn times(n: Option<u32>) -> String {
    n.map_or_else(|| "-1".to_owned(), |n| n.to_string())
}

impl Report {
    /// Whether it is a fault, whose text goes to standard error.
    pub fn is_fault(&self) -> bool {
        matches!(
            self,
            Report::Failed { .. }
                | Report::Note { .. }
                | Report::NodeErrors { .. }
                | Report::NodeUnheard { .. }
                | Report::StatUnheard { .. }
        )
    }

    /// Its text, whole lines.
    pub fn text(&self) -> String {
        match self {
            Report::Session { name, features, timeout_s, force, new: true, .. } => {
                let force = if *force { "Yes" } else { "No" };
                format!("SESSION: {name} FEATURES: {features} TIMEOUT: {timeout_s} FORCE: {force}\n")
            }
            Report::Session { name, stamp, nid, key, features, nodes, .. } => {
                format!("{name} ID: {stamp}@{nid}, KEY: {key} FEATURES: {features} NODES: {nodes}\n")
            }
            Report::Added { ids } => format!("{ids} are added to session\n"),
            Report::GroupDeleted => "Group is deleted\n".into(),
            Report::Names { what, names } => {
                let mut o = String::new();
                for (i, n) in names.iter().enumerate() {
                    let _ = writeln!(o, "{}) {n}", i + 1);
                }
                o + &format!("Total {} {what}\n", names.len())
            }
            Report::GroupCounts { name, counts: c, first } => {
                format!("{}\t{}\t{name}\n", if *first { HEAD } else { "" }, counts(c))
            }
            Report::GroupNodes { name, nodes } if nodes.is_empty() => {
                format!("Group [ {name} ]\nNo nodes found [ {name} ]\n")
            }
            Report::GroupNodes { name, nodes } => {
                format!("Group [ {name} ]\n{}Total {} nodes [ {name} ]\n", lines(nodes), nodes.len())
            }
            Report::Pinged { nid, state, session } => {
                let (name, of) = match session {
                    Some((name, of)) => (name.as_str(), of.to_string()),
                    None => ("<NULL>", Nid::ANY.to_string()),
                };
                format!("\t{}: {} [session: {name} id: {of}]\n", id(*nid), state.name())
            }
            Report::NoNodes { name } => format!("Target {name} is empty\n"),
            Report::TestAdded => "Test was added successfully\n".into(),
            Report::Batch { name, tests, running, clients, servers } => {
                // LST_BATCH_IDLE and LST_BATCH_RUNNING, as lst prints them.
                let state = if *running { 177 } else { 176 };
                format!("Batch: {name} Tests: {tests} State: {state}\n{}", sides(clients, servers))
            }
            Report::Test { index, kind, times: n, concurrency, clients, servers } => {
                let n = times(*n);
                let sides = sides(clients, servers);
                format!("\tTest {index}({kind}) (loop: {n}, concurrency: {concurrency})\n{sides}")
            }
            Report::BatchNodes { nodes } => format!("{}Total {} nodes\n", lines(nodes), nodes.len()),
            Report::Running { batch } => format!("{batch} is running now\n"),
            Report::Stopped { .. } => "Batch is stopped\n".into(),
            Report::Query { batch, test, unknown, total, idle, running, failed } => {
                let head = format!("{batch} [{test}] ");
                match (unknown, running, failed) {
                    (0, 0, 0) => head + "is stopped\n",
                    (0, _, 0) if *idle == 0 => head + "is running\n",
                    (0, ..) => head + &format!("stopped: {idle} , running: {running}, failed: {failed}\n"),
                    _ => {
                        head + &format!(
                            "{unknown} of {total} nodes are unknown, stopped: {idle} , running: {running}, failed: {failed}\n"
                        )
                    }
                }
            }
            Report::QueryNode { nid, state, active } => {
                let what = match active {
                    Ok(true) => "Running",
                    Ok(false) => "Idle",
                    Err(e) => e,
                };
                format!("{} [{}]: {what}\n", id(*nid), state.name())
            }
            Report::QueryEmpty => "Batch or test is empty\n".into(),
            Report::Stat { group, columns, unheard, nodes } => stat(group, columns, unheard.len(), nodes),
            Report::StatUnheard { group, nodes } => {
                let shown: Vec<String> = nodes.iter().take(SHOWN).map(|n| id(*n)).collect();
                let rest = match nodes.len().saturating_sub(SHOWN) {
                    0 => String::new(),
                    n => format!(" and {n} more, which `ping` names"),
                };
                format!("RPC failure, can't stat {group} on {}{rest}\n", shown.join(", "))
            }
            Report::ErrorsOf { group } => format!("{group}:\n"),
            Report::NodeErrors { nid, brw, ping, rpc } => {
                let o = format!("{}: [Session {brw} brw errors, {ping} ping errors]", id(*nid));
                match rpc {
                    Some([errors, dropped, expired]) => {
                        o + &format!(" [RPC: {errors} errors, {dropped} dropped, {expired} expired]\n")
                    }
                    None => o + "\n",
                }
            }
            Report::NodeUnheard { nid } => format!("RPC failure, can't show error on {}\n", id(*nid)),
            Report::ErrorsTotal { group, nodes } => format!("Total {nodes} error nodes in {group}\n"),
            Report::Failed { text } | Report::Note { text } | Report::Help { text } => format!("{text}\n"),
        }
    }
}

fn lines(nodes: &[(Nid, NodeState)]) -> String {
    nodes.iter().fold(String::new(), |o, (n, s)| o + &format!("\t{}: {}\n", id(*n), s.name()))
}

fn stat(group: &str, c: &Columns, failed: usize, nodes: &[(Nid, NodeRates)]) -> String {
    let mut o = String::new();
    if failed > 0 {
        let _ = writeln!(o, "Failed to stat on {failed} nodes");
    }
    if nodes.is_empty() {
        return o;
    }
    let over = |f: fn(&NodeRates) -> f64| Spread::of(nodes.iter().map(|(_, r)| f(r)));
    let ways = |read: Spread, write: Spread| {
        [(c.read, 'R', read), (c.write, 'W', write)]
            .into_iter()
            .filter_map(|(on, way, s)| on.then_some((way, s)))
    };
    let parts = |s: &Spread| {
        let all = [(c.avg, "Avg", s.avg), (c.min, "Min", s.min), (c.max, "Max", s.max)];
        all.into_iter().filter_map(|(on, what, v)| on.then_some((what, v)))
    };
    if c.rate {
        let _ = writeln!(o, "[LNet Rates of {group}]");
        for (way, s) in ways(over(|r| r.recv_rate), over(|r| r.send_rate)) {
            let _ = write!(o, "[{way}] ");
            for (what, v) in parts(&s) {
                // As lst: a blank behind each but the greatest.
                let end = if what == "Max" { "" } else { " " };
                let _ = write!(o, "{what}: {v:<8.0} RPC/s{end}");
            }
            o.push('\n');
        }
    }
    if c.bw {
        let (unit, bytes) = if c.mbs { ("MB/s", 1e6) } else { ("MiB/s", f64::from(1 << 20)) };
        let _ = writeln!(o, "[LNet Bandwidth of {group}]");
        for (way, s) in ways(over(|r| r.recv_bytes), over(|r| r.send_bytes)) {
            let _ = write!(o, "[{way}] ");
            for (what, v) in parts(&s) {
                let _ = write!(o, "{what}: {:<8.2} {unit:<5} ", v / bytes);
            }
            o.push('\n');
        }
    }
    o
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Columns = Columns {
        bw: true,
        rate: true,
        read: true,
        write: true,
        avg: true,
        min: true,
        max: true,
        mbs: false,
    };

    fn rates(columns: Columns) -> String {
        let node = |n: u8, rate: f64, bytes: f64| {
            let nid = format!("192.168.80.{n}@tcp").parse().unwrap();
            let r = NodeRates { recv_rate: rate, send_rate: rate, recv_bytes: bytes, send_bytes: bytes };
            (nid, r)
        };
        let nodes = vec![node(12, 1.0, 100.0), node(13, 219.0, 31_500.0)];
        Report::Stat { group: "servers".into(), columns, unheard: Vec::new(), nodes }.text()
    }

    /// testdata/texts/lst/17-stat*.txt, with the figures of the first.
    #[test]
    fn rates_are_printed_as_lst_prints_them() {
        let golden = include_str!("../../../../testdata/texts/lst/17-stat.txt");
        assert_eq!(rates(ALL), golden);
        let one = Columns { rate: true, bw: false, read: true, write: false, ..ALL };
        assert_eq!(
            rates(Columns { min: false, max: false, ..one }),
            "[LNet Rates of servers]\n[R] Avg: 110      RPC/s \n"
        );
        assert_eq!(
            rates(Columns { avg: false, min: false, ..one }),
            "[LNet Rates of servers]\n[R] Max: 219      RPC/s\n"
        );
        let bw = Columns { rate: false, bw: true, write: false, avg: false, max: false, mbs: true, ..ALL };
        assert_eq!(rates(bw), "[LNet Bandwidth of servers]\n[R] Min: 0.00     MB/s  \n");
        let silent = |n: u8| -> Vec<Nid> { (1..=n).map(|i| Nid::tcp([10, 0, 0, i].into(), 0)).collect() };
        let none = Report::Stat { group: "g".into(), columns: ALL, unheard: silent(2), nodes: Vec::new() };
        assert_eq!(none.text(), "Failed to stat on 2 nodes\n");
        let names = |n| Report::StatUnheard { group: "g".into(), nodes: silent(n) }.text();
        assert_eq!(names(2), "RPC failure, can't stat g on 12345-10.0.0.1@tcp, 12345-10.0.0.2@tcp\n");
        assert!(
            names(11).ends_with(", 12345-10.0.0.8@tcp and 3 more, which `ping` names\n"),
            "{}",
            names(11)
        );
    }
}
