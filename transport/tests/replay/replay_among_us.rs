//! The recorded sessions of lnet_selftest again, with nodes of ours in every place: console, clients and servers. What each
//! says to each is what the kernels said, message for message, but for names, clocks and counters.

use std::collections::BTreeMap;

use crate::lst::{Found, Reason, Verdict, r};
use crate::orders;
use crate::sessions::{self, Session, is_refused, named, nodes};
use transport::lnd::Config;
use transport::testing::dialogue::{self, Said};
use transport::testing::members::LstNode;
use transport::testing::net::{Net, SEC};
use transport::testing::srpc::{Srpc, kind};
use transport::wire::{Nid, Version};

/// Fields that no two runs have in common.
const OWN: [&str; 7] = ["rpyid", "bulkid", "sid_stamp", "batch", "seconds", "nanos", "name"];

/// Messages of each kind from each to each, without what is its run's own, in order of their content.
fn spoken(said: &[Said]) -> BTreeMap<(Nid, Nid, &'static str), Vec<String>> {
    let mut out: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for s in said {
        let Some(mut m) = s.srpc().filter(Srpc::is_whole) else { continue };
        // Of STAT the counters, too, are of one run.
        let stat = m.kind() == kind::STAT + 1;
        for f in m.fields().filter(|f| OWN.contains(&f.0) || (stat && f.1 >= 44)) {
            m.bytes[f.1..f.1 + f.2].fill(0);
        }
        out.entry((s.hdr.src_nid, s.hdr.dest_nid, m.name())).or_default().push(format!("{m:?}"));
    }
    out.values_mut().for_each(|v| v.sort());
    out
}

/// A network of nodes of ours at these NIDs.
struct Among {
    net: Net,
    nodes: Vec<LstNode>,
}

impl Among {
    fn new(nids: &[Nid], version: Version) -> Among {
        let mut net = Net::new();
        net.chunk = 16 << 10;
        let mut nodes = Vec::new();
        for (n, nid) in nids.iter().enumerate() {
            let version = Some(version).filter(|v| *v != Version::V4);
            let cfg = Config { version, ..Config::new(*nid, 1_700_000_000_000_000_000 + n as u64) };
            nodes.push(LstNode::new(&mut net, cfg));
        }
        Among { net, nodes }
    }

    fn run(&mut self, ns: u64) {
        let until = self.net.now + ns;
        loop {
            self.nodes.iter_mut().for_each(|n| n.pump(&mut self.net));
            let due = self.nodes.iter().filter_map(|n| n.deadline(&self.net)).min();
            let at = due.map_or(until, |d| d.min(until));
            if !self.net.step_before(at) && at >= until {
                return;
            }
        }
    }

    /// Everything that was said.
    fn said(&self) -> Vec<Said> {
        dialogue::on_wire(&self.net, 0..self.net.links())
    }
}

fn play(s: &Session) -> Option<(Nid, Found)> {
    let (capture, said) = (&s.capture, &s.said);
    let nids: Vec<Nid> = nodes(said).into_iter().collect();
    let (console, lines) = nids.iter().enumerate().find_map(|(n, nid)| {
        let mut lines = s.orders(*nid);
        lines.retain(|l| !is_refused(l));
        (!lines.is_empty()).then_some((n, lines))
    })?;
    let mut all = Among::new(&nids, said[0].version);
    let endless = capture == "lst-stop-force";
    for line in lines {
        all.nodes[console].type_in(&mut all.net, &orders::for_lst(&line));
        for _ in 0..400 {
            all.run(SEC / 10);
            if all.nodes[console].console.is_idle() {
                break;
            }
        }
        assert!(all.nodes[console].console.is_idle(), "{capture}: {line}");
        // Whatever it started comes to its end, but for an endless test.
        if line.starts_with("run") {
            all.run(if endless && line == "run b2" { SEC / 100 } else { 5 * SEC });
        }
    }
    let (theirs, ours) = (spoken(said), spoken(&all.said()));
    let mut found = Found::default();
    for key in theirs.keys().chain(ours.keys()) {
        let (from, to, name) = key;
        match (theirs.get(key), ours.get(key)) {
            (Some(a), Some(b)) if a == b => found.compared += a.len(),
            (Some(a), Some(b)) if a.len() == b.len() => {
                let at = a.iter().zip(b).find(|(a, b)| a != b);
                found.differences.insert(format!("{name}: differs"), format!("{from} to {to}: {at:?}"));
            }
            (a, b) => {
                let n = |v: Option<&Vec<String>>| v.map_or(0, Vec::len);
                let how = if n(b) < n(a) { "fewer" } else { "more" };
                found
                    .differences
                    .insert(format!("{name}: {how}"), format!("{from} to {to}: {} not {}", n(b), n(a)));
            }
        }
    }
    Some((nids[console], found))
}

/// Captures that are not played, and why.
const LEFT_OUT: &[(&str, &str)] = &[(
    "rt-*",
    "the network here has no router: replay_selftest has our node in each place of those sessions, replay_router in the router's",
)];

const RAIL: &str = "a rail of the server's died under its bulk, and the client asked no more";

/// Differences between nodes of ours among themselves and kernels, and why.
const REASONS: &[Reason] = &[
    r("PING_REPLY: more", &["lst-full-session", "lst-session-expiry"], "the capture ends while pings go on"),
    r("PING_REQST: more", &["lst-full-session", "lst-session-expiry"], "the capture ends while pings go on"),
    r("BRW_REPLY: more", &["lst-stop-force"], "an endless test asks as often as it can"),
    r("BRW_REQST: more", &["lst-stop-force"], "an endless test asks as often as it can"),
    r("BATCH_REPLY: differs", &["mr-resend-zc-put"], RAIL),
    r("BRW_REPLY: more", &["mr-resend-zc-put"], RAIL),
    r("BRW_REQST: more", &["mr-resend-zc-put"], RAIL),
];

#[test]
fn nodes_of_ours_say_what_kernels_said() {
    let (mut verdict, mut played) = (Verdict::default(), 0);
    for s in sessions::all(&["lnet", "upper"]) {
        if LEFT_OUT.iter().any(|l| named(l.0, &s.capture)) {
            continue;
        }
        if let Some((console, found)) = play(&s.without_refused_tests()) {
            verdict.add(&s.capture, console, found);
            played += 1;
        }
    }
    verdict.holds(REASONS.iter());
    assert!(played > 12, "{played} sessions");
}
