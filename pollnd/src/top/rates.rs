//! Samples of a node, and what happened between two of them. Nothing here asks or draws.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use transport::lnet::figures::{Latency, Timed};

use crate::inspect::nis;

/// Counters of copies and losses: the words for them, and their names. All but the first stay 0 while nothing is amiss: ping infos, and what goes
/// into memory of an application's own, are copied in.
const COSTS: [(&str, &[&str]); 5] = [
    ("copied in", &["rx_copied_bytes"]),
    ("copied out", &["tx_copied_bytes"]),
    ("linearised", &["linearised", "port_linearised"]),
    ("no buffer", &["port_rx_nombuf", "port_tx_nombuf"]),
    ("quarantined", &["quarantined"]),
];

/// Identity of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) pid: u32,
    pub(super) nids: Vec<String>,
    pub(super) carrier: String,
}

/// An lcore at a moment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Lcore {
    lcore: u64,
    /// Reason why it does not answer.
    silent: Option<String>,
    busy_ns: u64,
    idle_ns: u64,
    counters: BTreeMap<String, u64>,
    nis: Vec<Value>,
}

impl Lcore {
    fn count(&self, name: &str) -> Option<u64> {
        self.counters.get(name).copied()
    }

    /// Messages and frames that were dropped.
    fn drops(&self) -> u64 {
        let dropped = |k: &str| {
            (k.starts_with("drop_") && !k.contains("_portal_"))
                || k == "port_rx_nombuf"
                || k == "port_tx_dropped"
                || k == "tx_unsent"
        };
        self.counters.iter().filter(|(k, _)| dropped(k)).map(|(_, n)| n).sum()
    }

    fn errors(&self) -> u64 {
        self.counters.iter().filter(|(k, _)| k.starts_with("err_")).map(|(_, n)| n).sum()
    }
}

/// A connection of a peer, as the peer's row names it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Typed {
    lcore: u64,
    place: u64,
    r#type: String,
}

/// A peer at a moment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Peer {
    peer: String,
    conns: u64,
    contact: String,
    why: Option<String>,
    credits_used: u64,
    queued: u64,
    typed: Vec<Typed>,
}

/// A connection at a moment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Conn {
    lcore: u64,
    place: u64,
    local: String,
    remote: String,
    state: String,
    backlog: Option<u64>,
    recv_queue: Option<u64>,
    bytes_acked: Option<u64>,
    bytes_received: Option<u64>,
    srtt_ns: Option<u64>,
    retransmits: Option<u64>,
}

/// A look at a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// Time of the look since this program began.
    pub(super) at: Duration,
    pub(super) node: Identity,
    pub(super) lcores: Vec<Lcore>,
    pub(super) peers: Vec<Peer>,
    pub(super) conns: Vec<Conn>,
    /// There are more peers, or connections, than a look takes.
    pub(super) cut: bool,
}

/// Figures of an operation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) rate: Option<f64>,
    pub(super) latency: Latency,
}

/// The node as a whole. Rates are for each second; without a look before there are none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Head {
    pub(super) node: Identity,
    pub(super) up: Duration,
    pub(super) msgs: [Option<f64>; 2],
    pub(super) bytes: [Option<f64>; 2],
    pub(super) peers: usize,
    pub(super) conns: usize,
    pub(super) cut: bool,
    pub(super) operations: Vec<Operation>,
    /// Words for copies and losses, and their counts since the node's start; of all but the first there should be none.
    pub(super) costs: Vec<(&'static str, u64)>,
    pub(super) errors: u64,
}

/// An lcore.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LcoreRow {
    pub(super) lcore: u64,
    pub(super) silent: Option<String>,
    pub(super) busy: Option<f64>,
    pub(super) polls: Option<f64>,
    pub(super) packets: [Option<f64>; 2],
    pub(super) bytes: [Option<f64>; 2],
    pub(super) drops: u64,
    pub(super) naps: Option<f64>,
    pub(super) conns: u64,
}

/// An NI, over all lcores.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NiRow {
    pub(super) nid: String,
    pub(super) msgs: [Option<f64>; 2],
    pub(super) bytes: [Option<f64>; 2],
    pub(super) drops: u64,
    pub(super) credits: [u64; 2],
    pub(super) latency: Latency,
}

/// A peer; its rates are those of its connections.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PeerRow {
    pub(super) peer: String,
    pub(super) state: String,
    pub(super) conns: u64,
    pub(super) credits: u64,
    pub(super) queued: u64,
    pub(super) bytes: [Option<f64>; 2],
    pub(super) why: Option<String>,
}

/// A connection; queued are bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ConnRow {
    pub(super) kind: String,
    pub(super) remote: String,
    pub(super) local: String,
    pub(super) state: String,
    pub(super) queued: [Option<u64>; 2],
    pub(super) bytes: [Option<f64>; 2],
    pub(super) rtt_ns: Option<u64>,
    pub(super) retransmits: Option<u64>,
    pub(super) lcore: u64,
}

/// Everything that is shown: incoming before outgoing in each pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct View {
    pub(super) head: Head,
    pub(super) lcores: Vec<LcoreRow>,
    pub(super) nis: Vec<NiRow>,
    pub(super) peers: Vec<PeerRow>,
    pub(super) conns: Vec<ConnRow>,
}

/// Order of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// As the node tells them.
    Told,
    /// The busiest lcore first.
    Busy,
    /// Most bytes in both directions first.
    Rate,
    /// The longest queue first.
    Queue,
    /// By name.
    Name,
}

impl Sort {
    pub(super) fn name(self) -> &'static str {
        match self {
            Sort::Told => "as told",
            Sort::Busy => "busy",
            Sort::Rate => "rate",
            Sort::Queue => "queue",
            Sort::Name => "name",
        }
    }
}

/// Growth of a count in a second; `None` where it is not known, or has begun anew.
fn grown(now: Option<u64>, was: Option<u64>, seconds: f64) -> Option<f64> {
    let grown = now?.checked_sub(was?)?;
    (seconds > 0.0).then(|| grown as f64 / seconds)
}

fn add(a: [Option<f64>; 2], b: [Option<f64>; 2]) -> [Option<f64>; 2] {
    let one = |i: usize| a[i].or(b[i]).map(|_| a[i].unwrap_or(0.0) + b[i].unwrap_or(0.0));
    [one(0), one(1)]
}

fn sum(rates: [Option<f64>; 2]) -> f64 {
    rates.iter().flatten().sum()
}

/// Sorts by a rate, the highest first; rows of one rate stay in their order.
fn by_rate<T>(rows: &mut [T], of: impl Fn(&T) -> f64) {
    rows.sort_by(|a, b| of(b).total_cmp(&of(a)));
}

impl View {
    /// The node at `now`, and what happened since `before`, if that is a look at the same process.
    pub(super) fn between(before: Option<&Sample>, now: &Sample) -> View {
        let before = before.filter(|b| b.node.pid == now.node.pid);
        let seconds = before.map_or(0.0, |b| now.at.saturating_sub(b.at).as_secs_f64());
        let was = |n: u64| before.and_then(|b| b.lcores.iter().find(|l| l.lcore == n && l.silent.is_none()));
        let lcores: Vec<LcoreRow> = now.lcores.iter().map(|l| lcore(l, was(l.lcore), seconds)).collect();
        let nis = all_nis(before, now, seconds);
        let conns = connections(before, now, seconds);
        let peers = peers(now, &conns);
        let kinds: HashMap<(u64, u64), &str> = now
            .peers
            .iter()
            .flat_map(|p| &p.typed)
            .map(|t| ((t.lcore, t.place), t.r#type.as_str()))
            .collect();
        let conns = conns.into_iter().map(|(key, mut row)| {
            row.kind = kinds.get(&key).map_or("-", |k| *k).to_owned();
            row
        });
        let conns: Vec<ConnRow> = conns.collect();
        View { head: head(before, now, seconds, &nis), lcores, nis, peers, conns }
    }

    pub(super) fn sort_lcores(&mut self, by: Sort) {
        match by {
            Sort::Busy => by_rate(&mut self.lcores, |l| l.busy.unwrap_or(0.0)),
            _ => self.lcores.sort_by_key(|l| l.lcore),
        }
    }

    pub(super) fn sort_nis(&mut self, by: Sort) {
        match by {
            Sort::Rate => by_rate(&mut self.nis, |n| sum(n.bytes)),
            _ => self.nis.sort_by(|a, b| a.nid.cmp(&b.nid)),
        }
    }

    pub(super) fn sort_peers(&mut self, by: Sort) {
        self.peers.sort_by(|a, b| a.peer.cmp(&b.peer));
        match by {
            Sort::Rate => by_rate(&mut self.peers, |p| sum(p.bytes)),
            Sort::Queue => self.peers.sort_by_key(|p| Reverse(p.queued + p.credits)),
            _ => {}
        }
    }

    pub(super) fn sort_conns(&mut self, by: Sort) {
        self.conns.sort_by(|a, b| (&a.remote, &a.local).cmp(&(&b.remote, &b.local)));
        match by {
            Sort::Rate => by_rate(&mut self.conns, |c| sum(c.bytes)),
            Sort::Queue => self.conns.sort_by_key(|c| Reverse(c.queued.iter().flatten().sum::<u64>())),
            _ => {}
        }
    }
}

fn lcore(l: &Lcore, was: Option<&Lcore>, seconds: f64) -> LcoreRow {
    let rate = |name: &str| grown(l.count(name), was.and_then(|w| w.count(name)), seconds);
    let busy = was.and_then(|w| {
        let (busy, idle) = (l.busy_ns.checked_sub(w.busy_ns)?, l.idle_ns.checked_sub(w.idle_ns)?);
        (busy + idle > 0).then(|| busy as f64 / (busy + idle) as f64)
    });
    // A node over kernel sockets has no port of its own.
    let bytes = |port: &str, payload: &str| match l.count(port) {
        Some(_) => rate(port),
        None => rate(payload),
    };
    LcoreRow {
        lcore: l.lcore,
        silent: l.silent.clone(),
        busy,
        polls: rate("rx_polls"),
        packets: [rate("port_rx_packets"), rate("port_tx_packets")],
        bytes: [bytes("port_rx_bytes", "payload_rx_bytes"), bytes("port_tx_bytes", "payload_tx_bytes")],
        drops: l.drops(),
        naps: rate("port_naps"),
        conns: l.count("conns").unwrap_or(0),
    }
}

/// The NIs, over all lcores.
fn all_nis(before: Option<&Sample>, now: &Sample, seconds: f64) -> Vec<NiRow> {
    let mut rows: Vec<NiRow> = Vec::new();
    for l in &now.lcores {
        let were = before.and_then(|b| b.lcores.iter().find(|w| w.lcore == l.lcore && w.silent.is_none()));
        for ni in &l.nis {
            let nid = ni["nid"].as_str().unwrap_or_default();
            let was = were.and_then(|w| w.nis.iter().find(|w| w["nid"] == ni["nid"]));
            let rate = |k: &str| grown(ni[k].as_u64(), was.and_then(|w| w[k].as_u64()), seconds);
            let of = |k: &str| ni[k].as_u64().unwrap_or(0);
            let at = rows.iter().position(|r| r.nid == nid).unwrap_or_else(|| {
                rows.push(NiRow { nid: nid.to_owned(), ..NiRow::default() });
                rows.len() - 1
            });
            let row = &mut rows[at];
            row.msgs = add(row.msgs, [rate("recv_count"), rate("send_count")]);
            row.bytes = add(row.bytes, [rate("recv_bytes"), rate("send_bytes")]);
            row.drops += of("drop_count");
            row.credits = [row.credits[0] + of("credits_used"), row.credits[1] + of("credits")];
            for op in Timed::ALL {
                row.latency = row.latency.and(&latency(ni, was, op));
            }
        }
    }
    rows
}

/// Latencies since the look before, or since the node's start.
fn latency(ni: &Value, was: Option<&Value>, op: Timed) -> Latency {
    let now = nis::latency(ni, op);
    was.map_or(now, |w| now.since(&nis::latency(w, op)))
}

/// Connections by the place that peers name them by.
fn connections(before: Option<&Sample>, now: &Sample, seconds: f64) -> Vec<((u64, u64), ConnRow)> {
    let key = |c: &Conn| (c.lcore, c.place);
    let same = |a: &Conn, b: &Conn| (&a.local, &a.remote) == (&b.local, &b.remote);
    let were: HashMap<_, _> = before.iter().flat_map(|b| &b.conns).map(|c| (key(c), c)).collect();
    let row = |c: &Conn| {
        let was = were.get(&key(c)).filter(|w| same(w, c));
        let rate = |of: fn(&Conn) -> Option<u64>| grown(of(c), was.and_then(|w| of(w)), seconds);
        ConnRow {
            kind: String::new(),
            remote: c.remote.clone(),
            local: c.local.clone(),
            state: c.state.clone(),
            queued: [c.recv_queue, c.backlog],
            bytes: [rate(|c| c.bytes_received), rate(|c| c.bytes_acked)],
            rtt_ns: c.srtt_ns,
            retransmits: c.retransmits,
            lcore: c.lcore,
        }
    };
    now.conns.iter().map(|c| (key(c), row(c))).collect()
}

fn peers(now: &Sample, conns: &[((u64, u64), ConnRow)]) -> Vec<PeerRow> {
    let rates: HashMap<_, _> = conns.iter().map(|(key, row)| (*key, row.bytes)).collect();
    let row = |p: &Peer| PeerRow {
        // Lustre's process number is that of nearly all.
        peer: p.peer.strip_prefix("12345-").unwrap_or(&p.peer).to_owned(),
        state: if p.contact == "idle" && p.conns > 0 { "up".into() } else { p.contact.clone() },
        conns: p.conns,
        credits: p.credits_used,
        queued: p.queued,
        bytes: p
            .typed
            .iter()
            .filter_map(|t| rates.get(&(t.lcore, t.place)))
            .fold([None; 2], |a, b| add(a, *b)),
        why: p.why.clone(),
    };
    now.peers.iter().map(row).collect()
}

fn head(before: Option<&Sample>, now: &Sample, seconds: f64, nis: &[NiRow]) -> Head {
    let both = |of: fn(&NiRow) -> [Option<f64>; 2]| nis.iter().map(of).fold([None; 2], add);
    let operations = Timed::ALL.into_iter().map(|op| {
        let mut all = Latency::default();
        for l in &now.lcores {
            let were = before.and_then(|b| b.lcores.iter().find(|w| w.lcore == l.lcore));
            for ni in &l.nis {
                let was = were.and_then(|w| w.nis.iter().find(|w| w["nid"] == ni["nid"]));
                all = all.and(&latency(ni, was, op));
            }
        }
        let rate = before.and_then(|_| grown(Some(all.count()), Some(0), seconds));
        Operation { name: op.name(), rate, latency: all }
    });
    let total = |names: &[&str]| -> u64 {
        now.lcores.iter().flat_map(|l| names.iter().filter_map(|n| l.count(n))).sum()
    };
    let up = now.lcores.iter().map(|l| l.busy_ns + l.idle_ns).max().unwrap_or(0);
    Head {
        node: now.node.clone(),
        up: Duration::from_nanos(up),
        msgs: both(|n| n.msgs),
        bytes: both(|n| n.bytes),
        peers: now.peers.len(),
        conns: now.conns.len(),
        cut: now.cut,
        operations: operations.collect(),
        costs: COSTS.map(|(words, names)| (words, total(names))).to_vec(),
        errors: now.lcores.iter().map(Lcore::errors).sum(),
    }
}
