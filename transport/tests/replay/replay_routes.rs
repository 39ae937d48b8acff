//! Our node in the place of the users of a recorded router, `rt-*`: the client and the server. What the router said, by itself
//! and for the node behind it, comes in the capture's time, whole and byte by byte; what our node sends is what that kernel
//! sent, but for the differences listed ([`DIFFER`]); and its route is up and down when the kernel's was ([`STATES`]).
//!
//! The sessions of lnet_selftest across the router are `replay_selftest`'s; here it is pings, discovery and the checks of routers.

use std::collections::BTreeMap;

use crate::{CHUNKS, folder};
use transport::lnd::{Config, Route};
use transport::lnet::Op;
use transport::testing::dialogue::{self, Said};
use transport::testing::kernel::hosts::Puppets;
use transport::testing::net::{Net, SEC};
use transport::wire::{LnetBody, LnetHdr, Nid, PingInfo, ProcessId, Version, WireHandle, ping};

const CLIENT: &str = "192.168.80.11@tcp";
const SERVER: &str = "192.168.81.13@tcp1";
const ROUTER: [&str; 2] = ["192.168.80.12@tcp", "192.168.81.12@tcp1"];

/// Longest time by which our message may be earlier or later than the kernel's, in ns: its timers tick once a second. Half of their
/// interval for checks of the router, which begin at no particular time.
const SLACK: [u64; 2] = [3 * SEC / 2, 15 * SEC / 2];

fn nid(s: &str) -> Nid {
    s.parse().unwrap()
}

/// Captures, and whether the route was there before.
const PLAYED: [(&str, bool); 3] =
    [("rt-setup", false), ("rt-ping-discover", true), ("rt-router-dies-and-returns", true)];

/// Changes of a route, each with its time in s of the capture.
type Changes = &'static [(u64, bool)];

/// Those of the route of each node.
const STATES: &[(&str, &str, Changes)] = &[
    // It begins to forward, and pushes that.
    ("rt-setup", CLIENT, &[(20, true)]),
    ("rt-setup", SERVER, &[(20, true)]),
    ("rt-ping-discover", CLIENT, &[]),
    ("rt-ping-discover", SERVER, &[]),
    // The check after its death is not answered (ours at 14 s, and at 9 s); when it is back it does not forward.
    ("rt-router-dies-and-returns", CLIENT, &[(24, false)]),
    ("rt-router-dies-and-returns", SERVER, &[(19, false)]),
];

/// Differences by capture and node, and why.
const DIFFER: &[(&str, &str, &str, &str)] = &[
    (
        "rt-ping-discover",
        CLIENT,
        "missing: ping 272",
        "`lnetctl discover`: ours asks before a message, and by no order",
    ),
    ("rt-ping-discover", CLIENT, "missing: push", "the same"),
    (
        "rt-ping-discover",
        CLIENT,
        "besides: push",
        "the server has told of itself, and is told of us by then only",
    ),
    (
        "rt-router-dies-and-returns",
        CLIENT,
        "missing: ping 272",
        "a recovery ping that waited for the router beside the check: ours are off here",
    ),
    ("rt-router-dies-and-returns", SERVER, "missing: ping 272", "the same"),
];

/// A message of ours, in a few words.
fn name(body: &LnetBody) -> String {
    match body {
        LnetBody::Get { sink_length, .. } => format!("ping {sink_length}"),
        LnetBody::Put { .. } => "push".into(),
        LnetBody::Reply { .. } => "ping REPLY".into(),
        LnetBody::Ack { .. } => "push ACK".into(),
    }
}

struct Replay {
    net: Net,
    peers: Puppets,
    me: Nid,
    /// Time of the capture's beginning, in ns.
    start: u64,
    /// Our handle for each of the kernel's.
    handles: BTreeMap<(u64, u64), WireHandle>,
    pool: Vec<(u64, Nid, LnetHdr, Vec<u8>)>,
    states: Vec<(u64, bool)>,
    up: bool,
    differences: BTreeMap<String, u32>,
    compared: usize,
}

impl Replay {
    fn new(me: Nid, said: &[Said], there: bool, chunk: usize) -> Replay {
        let at = usize::from(me == nid(SERVER));
        let (gateway, far) = (nid(ROUTER[at]), nid([SERVER, CLIENT][at]));
        let mut cfg = Config::new(me, 1_700_000_000_000_000_000);
        cfg.routes = vec![Route::new(far.net(), gateway)];
        (cfg.alive_router_check_interval, cfg.router_ping_timeout) = (15 * SEC, 10 * SEC);
        // Recovery pings look like checks, and would be taken for them.
        cfg.health_sensitivity = 0;
        let told = said.iter().filter(|s| s.hdr.src_nid == me).find_map(|s| PingInfo::parse(&s.payload).ok());
        if let Some(info) = told {
            (cfg.ping_features, cfg.ping_sequence) = (Some(info.features), Some(info.sequence));
        }
        let mut net = Net::new();
        (net.now, net.chunk) = (1000 * SEC, chunk);
        let node = net.add(cfg);
        let mut peers = Puppets::new(&mut net, node, [(gateway, Version::V3)]);
        peers.behind(&[gateway, nid(ROUTER[1 - at])], far);
        let mut r = Replay {
            start: net.now,
            net,
            peers,
            me,
            handles: BTreeMap::new(),
            pool: Vec::new(),
            states: Vec::new(),
            up: false,
            differences: BTreeMap::new(),
            compared: 0,
        };
        let first_check = said.iter().find(|s| s.hdr.src_nid == me && s.hdr.dest_nid == gateway);
        let first_check = first_check.map_or(u64::MAX, |s| s.at);
        if there {
            // A check before: the next one is due when the kernel's was, if it had one soon.
            let next = if first_check < 15 * SEC { first_check } else { 14 * SEC };
            let begins = r.start + 15 * SEC - next;
            r.run_to(begins);
            assert!(r.up, "the route is up when the capture begins");
            (r.start, r.states) = (begins, Vec::new());
            r.pool.clear();
        } else {
            // It is added now.
            r.start -= first_check;
        }
        r.peers.quiet = [(); 2].map(|()| [gateway, far].into());
        r
    }

    fn run_to(&mut self, at: u64) {
        while self.peers.step(&mut self.net, at) {
            let up = self.net.nodes[0].machine.routes().all(|r| r.up);
            if std::mem::replace(&mut self.up, up) != up {
                self.states.push(((self.net.now - self.start) / SEC, up));
            }
            let now = self.net.now;
            self.pool.extend(self.peers.heard.drain(..).map(|(to, hdr, payload)| (now, to, hdr, payload)));
        }
    }

    fn differ(&mut self, what: String) {
        *self.differences.entry(what).or_default() += 1;
    }

    /// Another node's message: an answer of its names the handle that we gave.
    fn tell(&mut self, s: &Said) {
        self.run_to(self.start + s.at);
        let mut body = s.hdr.body;
        if let LnetBody::Reply { handle } | LnetBody::Ack { handle, .. } = &mut body {
            match self.handles.get(&(handle.interface, handle.object)) {
                Some(ours) => *handle = *ours,
                // To what we did not send.
                None => return,
            }
        }
        self.peers.say(&mut self.net, s.hdr.src_nid, body, s.payload.clone());
    }

    /// We have to send what the kernel sent.
    fn expect(&mut self, s: &Said) {
        let due = self.start + s.at;
        if let LnetBody::Get { sink_length: 3960, .. } = s.hdr.body {
            // A user's.
            self.run_to(due);
            self.net.op(0, Op::Ping { tag: 0, target: ProcessId::lustre(s.hdr.dest_nid) });
        }
        let check = ROUTER.iter().any(|r| s.hdr.dest_nid == nid(r));
        let is_request = matches!(s.hdr.body, LnetBody::Get { .. } | LnetBody::Put { .. });
        let slack = SLACK[usize::from(check && is_request)];
        let fits = |(at, to, hdr, payload): &(u64, Nid, LnetHdr, Vec<u8>)| {
            let same = match (hdr.body, s.hdr.body) {
                (LnetBody::Get { sink_length: a, .. }, LnetBody::Get { sink_length: b, .. }) => a == b,
                (LnetBody::Put { .. }, LnetBody::Put { .. }) => true,
                (a, b) => a == b,
            };
            // Answers come when they were asked for, and are known by their handles.
            let in_time = !is_request || at.abs_diff(due) <= slack;
            same && *to == s.hdr.dest_nid && *payload == s.payload && in_time
        };
        // Waiting in vain for an earlier message has taken its time.
        let end = due.max(self.net.now) + slack;
        loop {
            if let Some(n) = self.pool.iter().position(fits) {
                let (_, _, hdr, _) = self.pool.remove(n);
                assert_eq!((hdr.src_nid, hdr.dest_pid, hdr.src_pid), (self.me, 12345, 12345));
                let handles = match (s.hdr.body, hdr.body) {
                    (LnetBody::Get { handle: theirs, .. }, LnetBody::Get { handle: ours, .. })
                    | (LnetBody::Put { ack: theirs, .. }, LnetBody::Put { ack: ours, .. }) => {
                        Some((theirs, ours))
                    }
                    _ => None,
                };
                if let Some((theirs, ours)) = handles {
                    self.handles.insert((theirs.interface, theirs.object), ours);
                }
                self.compared += 1;
                return;
            }
            if self.net.now >= end {
                return self.differ(format!("missing: {}", name(&s.hdr.body)));
            }
            self.run_to(self.net.now.max(due.saturating_sub(slack)) + SEC / 100);
        }
    }
}

/// Messages on the links of `me`, but for those of lnet_selftest.
fn said_by_and_to(me: Nid, capture: &str) -> Vec<Said> {
    let mut said = dialogue::said(&folder("upper").join(capture).with_extension("pcap")).unwrap();
    said.retain(|s| s.hdr.src_nid == me || s.hdr.dest_nid == me);
    said.retain(|s| s.portal().is_none_or(|p| p == ping::PORTAL));
    said
}

#[test]
fn our_node_uses_a_router_as_kernels_did() {
    let (mut wrong, mut used, mut compared) = (Vec::new(), vec![false; DIFFER.len()], 0);
    for (capture, there) in PLAYED {
        for me in [CLIENT, SERVER] {
            let said = said_by_and_to(nid(me), capture);
            for chunk in CHUNKS {
                let mut r = Replay::new(nid(me), &said, there, chunk);
                for s in &said {
                    if s.hdr.src_nid == r.me { r.expect(s) } else { r.tell(s) }
                }
                let end = r.start + said.last().map_or(0, |s| s.at) + SEC / 2;
                r.run_to(end);
                // Checks of a router that is gone go out on connections that the replay's TCP does not end.
                let alone = |m: &(u64, Nid, LnetHdr, Vec<u8>)| {
                    capture == "rt-router-dies-and-returns" && m.0 < r.start + 241 * SEC && m.1 != nid(SERVER)
                };
                let besides: Vec<String> = r
                    .pool
                    .iter()
                    .filter(|m| !alone(m))
                    .map(|m| format!("besides: {}", name(&m.2.body)))
                    .collect();
                besides.into_iter().for_each(|b| r.differ(b));
                for what in r.differences.keys() {
                    match DIFFER.iter().position(|d| (d.0, d.1, d.2) == (capture, me, what.as_str())) {
                        Some(n) => used[n] = true,
                        None => wrong.push(format!("{capture} {me} {chunk}: {what}")),
                    }
                }
                let states = STATES.iter().find(|s| (s.0, s.1) == (capture, me)).map(|s| s.2);
                if states != Some(r.states.as_slice()) {
                    wrong.push(format!("{capture} {me} {chunk}: states {:?}", r.states));
                }
                compared += r.compared;
                let c = r.net.nodes[0].machine.counters();
                assert_eq!((c.err_cookie, c.err_lnet_type, c.drop_no_way_back), (0, 0, 0), "{capture} {me}");
            }
        }
    }
    for (d, _) in DIFFER.iter().zip(used).filter(|u| !u.1) {
        wrong.push(format!("no longer: {d:?}"));
    }
    assert!(wrong.is_empty(), "{compared} messages compared\n{}", wrong.join("\n"));
    assert!(compared > 110, "{compared} messages");
}
