//! Our node in the place of every kernel that was recorded with lnet_selftest, old captures and new: as a member in both
//! roles among kernels, and as the console of kernels. What it says is what that kernel said, field for field; the rest is
//! listed with its reason ([`REASONS`]).
//!
//! The other nodes of a capture are model socklnds (`transport::testing::kernel::hosts::Puppets`) that say what was recorded,
//! over connections of the recorded version.

use std::collections::{BTreeMap, VecDeque};

use crate::lst::{Actor, COMMON, Found, Reason, Replay, Sent, Verdict, discovered, r, with_interface};
use crate::orders::{self, Order};
use crate::sessions::{LeftOut, SESSION_IN_SLOT, SLOTS_BEGIN, Session, each_kernel, is_refused, nodes};
use transport::lnd::{Config, Route};
use transport::testing::dialogue::Said;
use transport::testing::kernel::hosts::Puppets;
use transport::testing::members::LstNode;
use transport::testing::net::{Net, SEC};
use transport::testing::srpc::{Sid, Srpc, kind, service};
use transport::wire::{LnetBody, LnetHdr, Nid, PingInfo, Version, WireHandle};

/// Our node, and the others of a capture.
pub struct Ours {
    net: Net,
    pub node: LstNode,
    peers: Puppets,
    orders: VecDeque<Order>,
    cookie: u64,
}

/// A console that is in no capture.
const STRANGER: &str = "10.9.9.9@tcp";

/// NIDs of the router of the `rt-*` captures, the one on the network of `me` first.
fn router_at(me: Nid) -> [Nid; 2] {
    let all: [Nid; 2] = ["192.168.80.12@tcp", "192.168.81.12@tcp1"].map(|n| n.parse().unwrap());
    if all[0].same_net(me) { all } else { [all[1], all[0]] }
}

fn config(me: Nid) -> Config {
    Config::new(me, 1_700_000_000_000_000_000)
}

impl Ours {
    fn new(me: Nid, said: &[Said], start: u64, orders: Vec<Order>) -> Ours {
        let mut versions: BTreeMap<Nid, Version> = BTreeMap::new();
        // The version of a node's own link: a router's two may differ.
        let own = said.iter().filter(|s| s.hdr.src_nid == me).chain(said);
        for s in own {
            for (a, b) in [(s.hdr.src_nid, s.hdr.dest_nid), (s.hdr.dest_nid, s.hdr.src_nid)] {
                if a == me && nodes(said).contains(&b) {
                    versions.entry(b).or_insert(s.version);
                }
            }
        }
        versions.insert(STRANGER.parse().unwrap(), Version::V3);
        let mut cfg = config(me);
        // Whoever is on another network is behind the router.
        let far: Vec<Nid> =
            versions.keys().copied().filter(|n| !n.same_net(me) && n.to_string() != STRANGER).collect();
        let router = router_at(me);
        for nid in &far {
            if let Some(version) = versions.remove(nid) {
                versions.insert(router[0], version);
            }
            cfg.routes = vec![Route::new(nid.net(), router[0])];
        }
        let told = said.iter().filter(|s| s.hdr.src_nid == me).find_map(|s| PingInfo::parse(&s.payload).ok());
        if let Some(info) = told {
            (cfg.ping_features, cfg.ping_sequence) = (Some(info.features), Some(info.sequence));
        }
        let routed = !cfg.routes.is_empty();
        let mut ours = Ours::of(cfg, versions, start, orders);
        far.into_iter().for_each(|n| ours.peers.behind(&router, n));
        ours.peers.quiet = discovered(me, said);
        if routed {
            // Checks of the router are LNet's, and no part of a session.
            ours.peers.quiet.iter_mut().for_each(|q| q.retain(|n| *n != router[0]));
            // Its route is up once the router has answered.
            ours.pass(SEC);
            assert!(ours.net.nodes[0].machine.routes().all(|r| r.up));
        }
        ours
    }

    /// A node at `me` among these peers, which answer pings and pushes.
    pub fn among(
        me: Nid,
        versions: BTreeMap<Nid, Version>,
        start: u64,
        orders: impl Into<VecDeque<Order>>,
    ) -> Ours {
        Ours::of(config(me), versions, start, orders)
    }

    fn of(
        cfg: Config,
        versions: BTreeMap<Nid, Version>,
        start: u64,
        orders: impl Into<VecDeque<Order>>,
    ) -> Ours {
        let mut net = Net::new();
        net.now = start;
        net.chunk = 16 << 10;
        let cookie = cfg.interface_cookie;
        let node = LstNode::new(&mut net, cfg);
        let peers = Puppets::new(&mut net, node.node, versions);
        Ours { net, node, peers, orders: orders.into(), cookie }
    }

    /// A session before the capture's: the services of tests have had their buffers since.
    fn was_a_member(&mut self) {
        let by: Nid = STRANGER.parse().unwrap();
        let sid = Sid(by.to_nid4().unwrap(), 1);
        let test = |serves| {
            let q = Srpc::new(kind::TEST, 1).with("batch", 1).with("loop", 1).with("concur", 1);
            q.with("service", serves).with_brw((1, 1, 4096, 0))
        };
        let all = [
            (service::MAKE, Srpc::new(kind::MAKE, 1)),
            (service::TEST, test(service::BRW)),
            (service::TEST, test(service::PING)),
            (service::REMOVE, Srpc::new(kind::REMOVE, 1)),
        ];
        for (n, (service, q)) in all.into_iter().enumerate() {
            let q = q.with_sid(sid).with("rpyid", 0x5e00 + n as u64);
            let (ack, portal) = (WireHandle::NONE, 51);
            let body = LnetBody::Put { ack, match_bits: service, hdr_data: 0, portal, offset: 0 };
            self.peers.say(&mut self.net, by, body, q.bytes);
            self.pass(SEC / 2);
        }
        let statuses: Vec<u64> =
            self.peers.heard.drain(..).map(|(_, _, p)| Srpc::of(&p).get("status")).collect();
        assert_eq!(statuses, [0; 4]);
    }
}

impl Actor for Ours {
    fn tell(&mut self, hdr: LnetHdr, payload: Vec<u8>) {
        let hdr = with_interface(hdr, self.cookie);
        self.peers.say(&mut self.net, hdr.src_nid, hdr.body, payload);
    }

    fn now(&self) -> u64 {
        self.net.now
    }

    fn pass(&mut self, ns: u64) {
        let until = self.net.now + ns;
        loop {
            self.node.pump(&mut self.net);
            let at = self.node.deadline(&self.net).map_or(until, |d| d.min(until));
            let went = self.peers.step(&mut self.net, at);
            if !went && at >= until {
                return self.node.pump(&mut self.net);
            }
        }
    }

    fn take(&mut self) -> Vec<Sent> {
        let sent = |(to, hdr, payload): (Nid, LnetHdr, Vec<u8>)| Sent { to, body: hdr.body, payload };
        self.peers.heard.drain(..).map(sent).collect()
    }

    fn next_order(&mut self) -> bool {
        if !self.node.console.is_idle() {
            return false;
        }
        let Some(line) = self.orders.pop_front() else { return false };
        self.node.type_in(&mut self.net, &orders::for_lst(&line));
        true
    }
}

fn play(s: &Session, me: Nid) -> Found {
    let trimmed = s.without_refused_tests();
    let mut orders = s.orders(me);
    orders.retain(|l| !is_refused(l));
    // Members hear of that test as they did.
    let s = if orders.is_empty() { s } else { &trimmed };
    let member = orders.is_empty();
    let mut ours = Ours::new(me, &s.said, SLOTS_BEGIN, orders);
    let in_slot = s.capture == "lst-session-expiry";
    if member && (s.dir == "probes" || in_slot) {
        ours.was_a_member();
    }
    if in_slot {
        let now = ours.now();
        ours.pass(SESSION_IN_SLOT - now);
    }
    let mut found = Replay::play(me, &s.said, &mut ours);
    let [asked, told] = discovered(me, &s.said);
    if let Some(peer) = told.difference(&asked).find(|p| ours.peers.pinged.contains(p)) {
        found.differences.insert("besides: ping".to_owned(), format!("of {peer}, which had told of itself"));
    }
    let c = ours.net.nodes[0].machine.counters();
    for name in ["err_cookie", "err_magic", "err_ksock_type", "err_lnet_type", "err_payload_len"] {
        let n: u64 = c.iter().filter(|x| x.0 == name).map(|x| x.1).sum();
        if n > 0 {
            found.differences.insert(format!("counts {name}"), n.to_string());
        }
    }
    found
}

/// Captures that are not played, or nodes of one that are not, and why.
const LEFT_OUT: &[LeftOut] =
    &[("lst-node-panic-off8", "192.168.80.11@tcp", "the console sent what ours refuses to")];

/// Differences between our node and the kernel in whose place it is, and why.
const REASONS: &[Reason] = &[
    r(
        "besides: ping REPLY",
        &["crashes-and-stall"],
        "the hand's ping is behind a PUT for no service, which stalls the kernel's connection (replay_crashes.rs has it); we drop that",
    ),
    r("besides: BRW_REPLY", &["crashes-and-stall"], "the kernel died of this request; we refuse it"),
    r("besides: TEST_REPLY", &["lst-node-panic-off8"], "the kernels died of this test"),
    r(
        "missing: RMSN_REQST",
        &["discovery-and-lst-failures"],
        "the hand says EBUSY and names the console's own session: lst takes it for a member, ours for busy",
    ),
];

#[test]
fn our_node_says_what_kernels_said() {
    let mut verdict = Verdict::default();
    each_kernel(LEFT_OUT, |s, me| {
        let played = std::panic::catch_unwind(|| play(s, me));
        verdict.add(&s.capture, me, played.unwrap_or_else(|_| panic!("{} {me}", s.capture)));
    });
    verdict.holds(COMMON.iter().chain(REASONS));
    assert!(verdict.compared > 1500, "{} messages", verdict.compared);
}
