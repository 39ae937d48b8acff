//! Our node in the place of every kernel that was recorded with lnet_selftest, old captures and new: as a member in both
//! roles among kernels, and as the console of kernels. What it says is what that kernel said, field for field; the rest is
//! listed with its reason ([`REASONS`]).
//!
//! The other nodes of a capture are model socklnds (`transport::testing::kernel::hosts::Puppets`) that say what was recorded,
//! over connections of the recorded version.

use std::collections::{BTreeMap, VecDeque};

use crate::lst::{Actor, Found, Reason, Replay, Sent, Verdict, with_interface};
use crate::orders::{self, Order};
use crate::replay_kernel::{SESSION_IN_SLOT, nodes};
use crate::{captures, folder};
use transport::lnd::Config;
use transport::testing::dialogue::{self, Said};
use transport::testing::kernel::hosts::Puppets;
use transport::testing::members::LstNode;
use transport::testing::net::{Net, SEC};
use transport::testing::srpc::{Sid, Srpc, kind, service};
use transport::wire::{LnetBody, LnetHdr, Nid, Version, WireHandle};

/// Our node, and the others of a capture.
struct Ours {
    net: Net,
    node: LstNode,
    peers: Puppets,
    orders: VecDeque<Order>,
    cookie: u64,
}

impl Ours {
    fn new(me: Nid, said: &[Said], start: u64, orders: Vec<Order>) -> Ours {
        let mut versions: BTreeMap<Nid, Version> = BTreeMap::new();
        for s in said {
            for (a, b) in [(s.hdr.src_nid, s.hdr.dest_nid), (s.hdr.dest_nid, s.hdr.src_nid)] {
                if a == me && nodes(said).contains(&b) {
                    versions.entry(b).or_insert(s.version);
                }
            }
        }
        let mut net = Net::new();
        net.now = start;
        net.chunk = 16 << 10;
        let cfg = Config::new(me, 1_700_000_000_000_000_000);
        let cookie = cfg.interface_cookie;
        let node = LstNode::new(&mut net, cfg);
        let peers = Puppets::new(&mut net, node.node, versions);
        Ours { net, node, peers, orders: orders.into(), cookie }
    }

    /// A session before the capture's: the services of tests have had their buffers since.
    fn was_a_member(&mut self, by: Nid) {
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

fn play(dir: &str, capture: &str, me: Nid, said: &[Said]) -> Found {
    let start = if capture == "lst-session-expiry" { SESSION_IN_SLOT } else { 1000 * SEC };
    let orders = orders::of(dir, capture, me, said);
    let member = orders.is_empty();
    let mut ours = Ours::new(me, said, start, orders);
    if dir == "probes" && member {
        let peers = nodes(said);
        let by = said.iter().find(|s| s.hdr.dest_nid == me && peers.contains(&s.hdr.src_nid));
        ours.was_a_member(by.unwrap().hdr.src_nid);
    }
    let mut found = Replay::play(me, said, &mut ours);
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
const LEFT_OUT: &[(&str, &str, &str)] = &[
    ("lst-stop-force", "", "begins in the middle of a session"),
    ("mr-lst", "", "several NIDs a node"),
    ("mr-resend-zc-put", "", "several NIDs a node"),
    ("rt-*", "", "behind a router"),
    ("lst-node-panic-off8", "192.168.80.11@tcp", "the console sent what ours refuses to"),
];

const BEFORE: &str =
    "a kernel counts from when lnet_selftest was loaded, and its LNet from its start; ours from here on";

const OTHERS: &str = "others spoke with the kernel meanwhile: it put bulk, and nobody had asked for any here";

const SPAN: &str = "lst gives the servers a test of more servers a client than there are, then finds that out; ours finds it \
                    out first, and the orders behind it come before their time (replay_among_us.rs has them in order)";

const fn r(what: &'static str, captures: &'static [&'static str], why: &'static str) -> Reason {
    Reason { what, captures, why }
}

/// Where our node differs from the kernel in whose place it is, and why.
const REASONS: &[Reason] = &[
    r(
        "MKSN_REPLY.name",
        &["lst-distribute-discard", "lst-session-expiry"],
        "a kernel's buffers keep what earlier replies left in them: the name of a session that it was once busy with",
    ),
    r("PING_REQST.nanos", &[], "the client's clock"),
    r("PING_REQST.seconds", &[], "the client's clock"),
    r("STAT_REPLY.bulk_get", &[], BEFORE),
    r("STAT_REPLY.bulk_put", &[], BEFORE),
    r("STAT_REPLY.bulk_put: grows otherwise", &["selftest-requests"], OTHERS),
    r("STAT_REPLY.drop_*", &[], BEFORE),
    r("STAT_REPLY.msgs_*", &[], BEFORE),
    r("STAT_REPLY.recv_*", &[], BEFORE),
    r("STAT_REPLY.send_*", &[], BEFORE),
    r("STAT_REPLY.rpc*", &[], BEFORE),
    r("STAT_REPLY.rpc_errors: grows otherwise", &["selftest-requests"], OTHERS),
    r("STAT_REPLY.rpcs_rcvd: grows otherwise", &["selftest-requests"], OTHERS),
    r("STAT_REPLY.rpcs_sent: grows otherwise", &["selftest-requests"], OTHERS),
    r("STAT_REPLY.running_ms", &[], "milliseconds since the session began"),
    r("STAT_REPLY.sid_*", &["active-sets"], "the session is from before the capture"),
    r("STAT_REPLY.status", &["active-sets"], "the session is from before the capture"),
    r("besides: BRW_REPLY", &["crashes-and-stall"], "the kernel died of this request; we refuse it"),
    r("besides: DEBUG_REPLY", &["active-hellos"], "asked by a pid to which there was no connection"),
    r("besides: TEST_REPLY", &["lst-node-panic-off8"], "the kernels died of this test"),
    r(
        "missing: RMSN_REQST",
        &["discovery-and-lst-failures"],
        "the hand says EBUSY and names the console's own session: lst takes it for a member, ours for busy",
    ),
    r("missing: TEST_REQST", &["lst-full-session"], SPAN),
    r("missing: BATCH_REQST", &["lst-full-session"], SPAN),
    r("BATCH_REQST.opc", &["lst-full-session"], SPAN),
    r("missing: BRW_REQST", &["lst-full-session"], SPAN),
    r("missing: bulk REPLY", &["lst-full-session"], SPAN),
    r("missing: PING_REQST", &["lst-full-session"], SPAN),
    r(
        "missing: PING_REQST",
        &["lst-session-expiry"],
        "slots of our timer begin with the node, a kernel's with its clock: the session ends 4 s earlier here",
    ),
    r("besides: PING_REPLY", &["lst-full-session"], "the capture ends before"),
    r("besides: STAT_REPLY", &["selftest-requests"], "the kernel had died of another probe"),
    r("bulk PUT: bytes that nobody checks", &[], "what is not checked is whatever was there"),
    r("bulk REPLY: bytes that nobody checks", &[], "what is not checked is whatever was there"),
    r(
        "bulk PUT: order",
        &["v1-forced-connect-ping-lst", "v3-zc-off"],
        "without a zero-copy ACK to wait for, the reply overtakes the bulk on another connection",
    ),
];

#[test]
fn our_node_says_what_kernels_said() {
    let mut verdict = Verdict::default();
    for dir in ["lnet", "probes", "upper"] {
        for capture in captures(dir) {
            let said = dialogue::said(&folder(dir).join(&capture).with_extension("pcap")).unwrap();
            for me in nodes(&said) {
                let named = |l: &str| l.strip_suffix('*').map_or(l == capture, |p| capture.starts_with(p));
                let out = |l: &(&str, &str, &str)| named(l.0) && (l.1.is_empty() || l.1 == me.to_string());
                if !orders::is_kernel(dir, me) || LEFT_OUT.iter().any(out) {
                    continue;
                }
                let what = format!("{capture} {me}");
                let played = std::panic::catch_unwind(|| play(dir, &capture, me, &said));
                verdict.add(&capture, me, played.unwrap_or_else(|_| panic!("{what}")));
            }
        }
    }
    verdict.holds(REASONS);
    assert!(verdict.compared > 900, "{} messages", verdict.compared);
}
