//! The summary of `quick`.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::host::{Own, Piece};
use super::number;
use super::width::fit;
use crate::units;

/// Work of the console's node between two looks, if its member asked anything: in short words, and less of it, where `width` asks
/// for that.
pub(super) fn own(before: &Own, now: &Own, rtt_us: Option<[f64; 3]>, width: usize) -> Option<String> {
    let rpcs = now.rpcs.saturating_sub(before.rpcs);
    let failed = now.failed.saturating_sub(before.failed);
    if rpcs + failed == 0 {
        return None;
    }
    let errors = units::many(failed, "error");
    let fields = |head: String, unit: &str| {
        let mut fields = vec![(0, head)];
        if let Some(trips) = rtt_us {
            let names = [(1, "; p50"), (2, ", p99"), (4, ", p99.9")];
            let each = names.into_iter().zip(trips);
            fields
                .extend(each.map(|((rank, name), us)| (rank, format!("{name} {}", units::time(us * 1e-6)))));
        }
        fields.extend(cost(before, now).map(|c| (3, format!("; {c:.2} {unit}"))));
        fields
    };
    let long = fields(format!("RPCs of this node: {rpcs}, {errors}"), "CPU-seconds a GiB");
    let columns: usize = long.iter().map(|f| f.1.chars().count()).sum();
    let short = || fields(format!("{}, {errors}", units::many(rpcs, "RPC")), "CPU-s/GiB");
    Some(fit(&if columns > width { short() } else { long }, width))
}

/// CPU-seconds of this node's process for each GiB that its own RPCs moved, if they moved any.
pub(super) fn cost(before: &Own, now: &Own) -> Option<f64> {
    let gib = now.moved.saturating_sub(before.moved) as f64 / f64::from(1 << 30);
    (gib > 0.0).then(|| (now.cpu_s - before.cpu_s) / gib)
}

/// Side of a node in a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Source,
    Destination,
}

/// Sums of a node's rates, and how many they are.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    rounds: f64,
    recv_messages: f64,
    send_messages: f64,
    recv_bytes: f64,
    send_bytes: f64,
}

/// Errors that `show_error` counts of a node: name, and words for them.
const KINDS: [(&str, &str); 5] = [
    ("brw_errors", "errors of BRW"),
    ("ping_errors", "errors of PING"),
    ("rpc_errors", "RPCs failed"),
    ("rpc_dropped", "RPCs dropped"),
    ("rpc_expired", "RPCs expired"),
];

/// A run so far.
#[derive(Debug, Default)]
pub(super) struct Sum {
    nodes: BTreeMap<(Side, String), Rates>,
    /// Looks that nodes did not answer, by node.
    unheard: BTreeMap<String, u64>,
    first: Option<Own>,
    last: Option<Own>,
    /// Errors by node, before and after: those of [`KINDS`], and whether they could not be asked for.
    before: BTreeMap<String, [f64; 6]>,
    after: BTreeMap<String, [f64; 6]>,
    /// The looks were interrupted.
    pub(super) interrupted: bool,
}

impl Sum {
    /// Takes a look of `stat` in.
    pub(super) fn stat(&mut self, p: &Piece) {
        let source = p.result["group"] == "from";
        let side = if source { Side::Source } else { Side::Destination };
        for n in p.result["unheard"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            *self.unheard.entry(n.to_owned()).or_default() += 1;
        }
        for n in p.result["nodes"].as_array().into_iter().flatten() {
            let nid = n["nid"].as_str().unwrap_or_default().to_owned();
            let r = self.nodes.entry((side, nid)).or_default();
            r.rounds += 1.0;
            r.recv_messages += number(n, "recv_per_s");
            r.send_messages += number(n, "send_per_s");
            r.recv_bytes += number(n, "recv_bytes_per_s");
            r.send_bytes += number(n, "send_bytes_per_s");
        }
        self.own(p);
    }

    /// Takes the measures of the console's node in.
    pub(super) fn own(&mut self, p: &Piece) {
        if let Some(own) = &p.own {
            self.first.get_or_insert_with(|| own.clone());
            self.last = Some(own.clone());
        }
    }

    /// Takes a row of `show_error` in; `after`: of the one behind the run.
    pub(super) fn error(&mut self, p: &Piece, after: bool) {
        let Some(nid) = p.result["nid"].as_str() else { return };
        let [brw, ping, rpc, dropped, expired] = KINDS.map(|(k, _)| number(&p.result, k));
        let n = [brw, ping, rpc, dropped, expired, f64::from(u8::from(p.result["error"].is_string()))];
        let of = if after { &mut self.after } else { &mut self.before };
        of.insert(nid.to_owned(), n);
    }

    /// The first look at the console's node.
    pub(super) fn began(&self) -> Option<&Own> {
        self.first.as_ref()
    }

    /// Errors of the run.
    pub(super) fn errors(&self) -> u64 {
        let of_nodes = self.grown().map(|(_, n)| n.iter().sum::<f64>()).sum::<f64>();
        of_nodes as u64 + self.unheard.values().sum::<u64>() + self.own_failed()
    }

    /// Errors of nodes that came in the run.
    fn grown(&self) -> impl Iterator<Item = (&str, [f64; 6])> {
        self.after.iter().map(|(nid, after)| {
            let before = self.before.get(nid).copied().unwrap_or_default();
            (nid.as_str(), std::array::from_fn(|i| (after[i] - before[i]).max(0.0)))
        })
    }

    fn own_failed(&self) -> u64 {
        self.first.as_ref().zip(self.last.as_ref()).map_or(0, |(a, b)| b.failed.saturating_sub(a.failed))
    }

    /// Errors by node and kind; empty where there are none.
    fn blame(&self) -> String {
        let mut parts = Vec::new();
        for (nid, n) in self.grown() {
            let kinds = KINDS.iter().map(|(_, k)| *k).chain(["no answer to show_error"]);
            let some = kinds.zip(n).filter(|(_, n)| *n > 0.0).map(|(k, n)| format!("{n} {k}"));
            let some: Vec<_> = some.collect();
            if !some.is_empty() {
                parts.push(format!("{nid}: {}", some.join(", ")));
            }
        }
        for (nid, n) in &self.unheard {
            parts.push(format!("{nid}: {} of stat without an answer", units::many(*n, "look")));
        }
        if self.own_failed() > 0 {
            parts.push(format!("{} of this node failed", units::many(self.own_failed(), "RPC")));
        }
        parts.join("; ")
    }

    /// Payload a second from one side to the other, in bytes: what its receivers took.
    pub(super) fn payload(&self, read: bool) -> f64 {
        let side = if read { Side::Source } else { Side::Destination };
        let takers = self.nodes.iter().filter(|((s, _), _)| *s == side);
        takers.map(|(_, r)| r.recv_bytes / r.rounds.max(1.0)).sum()
    }

    /// Requests a second: what destinations received, a request each.
    pub(super) fn requests(&self) -> f64 {
        let servers = self.nodes.iter().filter(|((s, _), _)| *s == Side::Destination);
        servers.map(|(_, r)| r.recv_messages / r.rounds.max(1.0)).sum()
    }

    /// The table.
    pub(super) fn text(&self, read: bool, ping: bool) -> String {
        let mut o = format!(
            "{:<28} {:<11} {:>12} {:>12} {:>10} {:>10}\n",
            "node", "role", "received", "sent", "in", "out"
        );
        for ((side, nid), r) in &self.nodes {
            let mean = |v: f64| (v / r.rounds.max(1.0)) as u64;
            let _ = writeln!(
                o,
                "{nid:<28} {:<11} {:>12} {:>12} {:>10} {:>10}",
                if *side == Side::Source { "source" } else { "destination" },
                units::rate(mean(r.recv_bytes), 1.0),
                units::rate(mean(r.send_bytes), 1.0),
                units::per_second(mean(r.recv_messages), 1.0),
                units::per_second(mean(r.send_messages), 1.0),
            );
        }
        if ping {
            let _ = writeln!(o, "pings: {}", units::per_second(self.requests() as u64, 1.0));
        } else {
            let _ = writeln!(o, "payload: {}", units::rate(self.payload(read) as u64, 1.0));
        }
        if let (Some(a), Some(b)) = (&self.first, &self.last)
            && let Some(line) = own(a, b, b.run_rtt_us, usize::MAX)
        {
            let _ = writeln!(o, "{line}");
        }
        let blame = self.blame();
        let why = if blame.is_empty() { String::new() } else { format!(" ({blame})") };
        o + &format!("errors: {}{why}\n", self.errors())
    }

    /// The same as JSON.
    pub(super) fn json(&self, read: bool, ping: bool) -> Value {
        let node = |((side, nid), r): (&(Side, String), &Rates)| {
            let mean = |v: f64| v / r.rounds.max(1.0);
            json!({
                "nid": nid, "role": if *side == Side::Source { "source" } else { "destination" },
                "recv_bytes_per_s": mean(r.recv_bytes), "send_bytes_per_s": mean(r.send_bytes),
                "recv_per_s": mean(r.recv_messages), "send_per_s": mean(r.send_messages),
            })
        };
        let own = match (&self.first, &self.last) {
            (Some(a), Some(b)) if b.rpcs > a.rpcs => json!({
                "rpcs": b.rpcs - a.rpcs, "errors": b.failed.saturating_sub(a.failed), "bytes": b.moved - a.moved,
                "p50_us": b.run_rtt_us.map(|r| r[0]), "p99_us": b.run_rtt_us.map(|r| r[1]),
                "p999_us": b.run_rtt_us.map(|r| r[2]), "cpu_s_per_gib": cost(a, b),
            }),
            _ => Value::Null,
        };
        let (payload, pings) = if ping { (0.0, Some(self.requests())) } else { (self.payload(read), None) };
        json!({
            "nodes": self.nodes.iter().map(node).collect::<Value>(), "payload_bytes_per_s": payload, "pings_per_s": pings,
            "own": own, "errors": self.errors(), "errors_of": self.blame(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(result: Value, own: Option<Own>) -> Piece {
        Piece { text: String::new(), fault: false, result, own }
    }

    fn look(group: &str, nid: &str, recv: f64, send: f64, rpcs: u64) -> Piece {
        let own = Own {
            rpcs,
            moved: rpcs << 20,
            cpu_s: rpcs as f64 / 1024.0,
            run_rtt_us: Some([1.0, 2.0, 3.0]),
            ..Own::default()
        };
        let node = json!({ "nid": nid, "recv_per_s": 10.0, "send_per_s": 20.0, "recv_bytes_per_s": recv,
            "send_bytes_per_s": send });
        piece(json!({ "group": group, "failed": 0, "nodes": [node] }), Some(own))
    }

    #[test]
    fn a_run_is_summed_up() {
        let mut s = Sum::default();
        s.own(&piece(json!({}), Some(Own { rpcs: 1000, moved: 1000 << 20, cpu_s: 0.5, ..Own::default() })));
        let error = |n: u64| piece(json!({ "nid": "a", "brw_errors": 0, "rpc_errors": n }), None);
        s.error(&error(3), false);
        for (rpcs, bytes) in [(2000, 1e8), (3000, 3e8)] {
            s.stat(&look("from", "a", 0.0, bytes, rpcs));
            s.stat(&look("to", "b", bytes, 0.0, rpcs));
        }
        s.error(&error(3), true);
        assert_eq!((s.errors(), s.payload(false), s.payload(true)), (0, 2e8, 0.0));
        insta::assert_snapshot!(s.text(false, false), @r"
        node                         role            received         sent         in        out
        a                            source           0 bit/s  1.60 Gbit/s     10.0/s     20.0/s
        b                            destination  1.60 Gbit/s      0 bit/s     10.0/s     20.0/s
        payload: 1.60 Gbit/s
        RPCs of this node: 2000, 0 errors; p50 1.00 us, p99 2.00 us, p99.9 3.00 us; 1.24 CPU-seconds a GiB
        errors: 0
        ");
        assert_eq!(s.json(false, false)["own"]["rpcs"], 2000);
        let (bulk, pings) = (s.json(false, false), s.json(false, true));
        assert_eq!((&bulk["payload_bytes_per_s"], &bulk["pings_per_s"]), (&json!(2e8), &Value::Null));
        assert_eq!(
            (&pings["payload_bytes_per_s"], &pings["pings_per_s"]),
            (&json!(0.0), &json!(10.0)),
            "no payload"
        );
        s.error(&error(5), true);
        s.error(&piece(json!({ "nid": "b", "error": "it does not answer" }), None), true);
        assert_eq!(s.errors(), 3);
        let says = "errors: 3 (a: 2 RPCs failed; b: 1 no answer to show_error)\n";
        assert!(s.text(false, false).ends_with(says), "{}", s.text(false, false));
        s.stat(&piece(json!({ "group": "to", "failed": 2, "nodes": [], "unheard": ["b", "c"] }), None));
        s.stat(&piece(json!({ "group": "to", "failed": 1, "nodes": [], "unheard": ["c"] }), None));
        let says = "b: 1 look of stat without an answer; c: 2 looks of stat without an answer";
        assert!(s.json(false, false)["errors_of"].as_str().unwrap().ends_with(says));
        assert_eq!(s.errors(), 6);
    }
}
