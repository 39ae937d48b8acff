//! A member of lnet_selftest among peers that say anything at any time: requests of every service on portals 50 to 52, whole,
//! changed, cut short or of the wrong service; sessions, tests and batches in any order; answers to what it asks that are
//! right, wrong or never come (docs/protocol/selftest.md).
//!
//! Invariants: no panic; what is under way is bounded; whatever came before, the framework and, after a test for a
//! server, both services answer; when the peers are silent everything comes home.

use std::collections::VecDeque;

use crate::fuzz::{Bytes, LEN, TIME};
use transport::testing::kernel::hosts::Puppets;
use transport::testing::members::LstNode;
use transport::testing::net::{Net, SEC};
use transport::testing::pair::{config, nid};
use transport::testing::srpc::{self, KINDS, Sid, Srpc, kind, service};
use transport::wire::{LnetBody, Nid, Version, WireHandle};

/// Most RPCs that a member may have under way in one of these runs: what it serves, and the units of its tests.
const MOST: usize = 4096;

/// A member and two peers.
struct World {
    net: Net,
    node: LstNode,
    peers: Puppets,
    next: u64,
    /// Requests of the member that wait for an answer: who was asked, and what.
    asked: VecDeque<(Nid, LnetBody, Vec<u8>)>,
}

impl World {
    fn new() -> World {
        let mut net = Net::new();
        let node = LstNode::new(&mut net, config(1));
        let peers = Puppets::new(&mut net, node.node, [(nid(2), Version::V3), (nid(3), Version::V2)]);
        let mut w = World { net, node, peers, next: 1 << 48, asked: VecDeque::new() };
        w.run(SEC / 100);
        w
    }

    fn run(&mut self, ns: u64) {
        let until = self.net.now + ns;
        loop {
            self.node.pump(&mut self.net);
            let at = self.node.deadline(&self.net).map_or(until, |d| d.min(until));
            if !self.peers.step(&mut self.net, at) && at >= until {
                break;
            }
        }
        self.node.pump(&mut self.net);
        self.asked.extend(self.peers.heard.drain(..).map(|(nid, hdr, payload)| (nid, hdr.body, payload)));
        let (client, server) = self.node.member.under_way();
        assert!(client + server <= MOST, "{client} asked, {server} served");
    }

    fn put(&mut self, from: Nid, (portal, match_bits): (u32, u64), payload: Vec<u8>) {
        let body = LnetBody::Put { ack: WireHandle::NONE, match_bits, hdr_data: 0, portal, offset: 0 };
        self.peers.say(&mut self.net, from, body, payload);
    }

    /// A request that is right: its reply.
    fn ask(&mut self, from: Nid, service: u64, q: Srpc) -> Option<Srpc> {
        self.next += 1;
        let q = q.with("rpyid", self.next);
        let portal = if service >= 10 { srpc::TESTS } else { srpc::FRAMEWORK };
        self.put(from, (portal, service), q.bytes.clone());
        let (next, kind) = (self.next, q.kind() + 1);
        for _ in 0..20 {
            self.run(SEC / 20);
            let of = |(to, body, _): &(Nid, LnetBody, Vec<u8>)| {
                *to == from
                    && matches!(body, LnetBody::Put { portal: srpc::BULK, match_bits, .. } if *match_bits == next)
            };
            if let Some(at) = self.asked.iter().position(of) {
                let (_, _, payload) = self.asked.remove(at)?;
                let reply = Srpc::of(&payload);
                assert!(reply.is_whole() && reply.kind() == kind, "{q:?}: {reply:?}");
                return Some(reply);
            }
        }
        None
    }
}

fn sid(b: &mut Bytes<'_>) -> Sid {
    match b.u8() % 8 {
        0 => Sid::ANY,
        1 => Sid(u64::MAX, 5),
        n => Sid(nid(2).to_nid4().unwrap(), u64::from(n % 3)),
    }
}

/// A request that means something, mostly.
fn request(b: &mut Bytes<'_>, of: (u64, u32), id: u64) -> Srpc {
    let features = if b.below(8) == 0 { b.below(4) as u32 } else { 1 };
    let mut q = Srpc::new(of.1, features).with("rpyid", id);
    if q.has("sid_nid") {
        q = q.with_sid(sid(b));
    }
    if q.has("bulkid") {
        q = q.with("bulkid", id + 1);
    }
    match of.0 {
        service::MAKE => q = q.with("force", b.below(2)).with_text("name", "fuzz"),
        service::BATCH => {
            q = q.with("batch", b.below(3)).with("opc", b.below(5)).with("arg", b.below(2));
            q = q.with("testidx", b.below(4));
        }
        service::TEST => {
            let turns = [1, 3, 0xFFFF_FFFF, 0][b.below(4) as usize];
            q = q.with("batch", b.below(3)).with("loop", turns).with("concur", b.below(6));
            q = q.with("service", [11, 12, 11, 12, 0, 13][b.below(6) as usize]);
            q = q.with("is_client", b.below(2)).with("stop_onerr", b.below(2)).with("ndest", b.below(4));
            let len = [4096, 8, 20_480, 1 << 20, 4100, 0, u32::MAX][b.below(7) as usize];
            let off = [0, 8, 4, 4088][b.below(4) as usize];
            q = q.with_brw((b.below(4) as u32, b.below(6) as u32, len, off));
        }
        service::BRW => {
            let len = [4096, 8, 20_480, 1 << 20, 4100, 0, u64::from(u32::MAX)][b.below(7) as usize];
            q = q.with("rw", b.below(4)).with("len", len).with("flags", b.below(6));
        }
        service::PING => q = q.with("ping_magic", [0xBABE_FACE, 0][usize::from(b.below(8) == 0)]),
        _ => {}
    }
    q
}

/// Changes bytes, turns the order, cuts short or makes longer.
fn spoil(b: &mut Bytes<'_>, bytes: &mut Vec<u8>) {
    match b.u8() % 5 {
        0 => bytes.truncate(b.below(161) as usize),
        1 => bytes.extend(b.rest(40)),
        2 => bytes[..4].reverse(),
        _ => {
            for _ in 0..1 + b.below(4) {
                let at = b.below(bytes.len() as u64) as usize;
                bytes[at] = b.u8();
            }
        }
    }
}

/// An answer to something that the member has asked.
fn answer(w: &mut World, b: &mut Bytes<'_>) {
    let Some((to, body, payload)) = w.asked.pop_front() else { return };
    match body {
        LnetBody::Get { handle, sink_length, .. } => {
            let mut data = match b.u8() % 3 {
                0 => srpc::dest_list(&[nid(2), nid(3), nid(9), nid(1)]),
                _ => 0xEEB0_EEB1_EEB2_EEB3u64.to_le_bytes().repeat(sink_length as usize / 8),
            };
            data.resize(sink_length as usize, 0);
            if b.below(8) == 0 {
                data.truncate(b.below(sink_length.into()) as usize);
            }
            w.peers.say(&mut w.net, to, LnetBody::Reply { handle }, data);
        }
        LnetBody::Put { portal: srpc::TESTS, match_bits, .. } => {
            let q = Srpc::of(&payload);
            if match_bits == service::BRW && q.get("rw") == 1 && b.below(4) > 0 {
                let len = q.get("len") as usize;
                w.put(to, (srpc::BULK, q.get("bulkid")), vec![0xb3; len]);
            }
            let status = if b.below(4) == 0 { b.below(100) } else { 0 };
            let r = Srpc::new(q.kind() + 1, 1).with("status", status);
            let r =
                if r.has("seq") { r.with("ping_magic", 0xBABE_FACE).with("seq", q.get("seq")) } else { r };
            let mut bytes = r.bytes;
            if b.below(6) == 0 {
                spoil(b, &mut bytes);
            }
            w.put(to, (srpc::BULK, q.get("rpyid")), bytes);
        }
        _ => {}
    }
}

fn run(input: &[u8]) {
    let mut b = Bytes::new(input);
    let mut w = World::new();
    // So many that each input ends soon.
    for _ in 0..60 {
        if b.done() {
            break;
        }
        let from = nid(2 + (b.u8() % 2));
        match b.u8() % 8 {
            0..=3 => {
                // A service without buffers holds its connection, as it does with a kernel: that is tried on few inputs.
                let kinds = 9 - u64::from(b.below(8) > 0);
                let of = KINDS[b.below(kinds) as usize];
                w.next += 2;
                let mut bytes = request(&mut b, of, w.next).bytes;
                if b.below(4) == 0 {
                    spoil(&mut b, &mut bytes);
                }
                let portal = if of.0 >= 10 { srpc::TESTS } else { srpc::FRAMEWORK };
                w.put(from, (portal, of.0), bytes);
            }
            4 => {
                let bits = w.next.wrapping_sub(b.below(8));
                let noise = b.rest(200);
                w.put(from, (srpc::BULK, bits), noise);
            }
            5 => {
                let handle = WireHandle { interface: 1, object: u64::from(b.u8()) };
                let (match_bits, portal) = (w.next.wrapping_sub(b.below(8)), 51 + b.below(2) as u32);
                let body = LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: 4096 };
                w.peers.say(&mut w.net, from, body, Vec::new());
            }
            6 => answer(&mut w, &mut b),
            _ => {
                let t = [1000, SEC / 1000, SEC / 10, 20 * SEC][b.below(4) as usize];
                w.run(t);
            }
        }
        if b.chance() {
            w.run(SEC / 1000);
        }
    }
    // Everything that it asks is left alone from here on: it gives up, and all is home.
    w.run(500 * SEC);
    w.asked.clear();
    assert_eq!(w.node.member.session(), None);
    assert_eq!(w.node.member.under_way(), (0, 0));
    let g = w.net.nodes[0].machine.gauges();
    assert!(g.entries <= 8, "{g:?}");
    w.net.assert_at_rest(0);
    // And whoever comes is served.
    let (by, mine) = (nid(2), Sid(nid(2).to_nid4().unwrap(), 77));
    let status = |r: Option<Srpc>| r.map(|r| r.get("status"));
    // A peer that has not noticed the end of a connection loses what it says first.
    let debug = (0..3).find_map(|_| w.ask(by, service::DEBUG, Srpc::new(kind::DEBUG, 1)));
    assert_eq!(status(debug), Some(3));
    assert_eq!(status(w.ask(by, service::MAKE, Srpc::new(kind::MAKE, 1).with_sid(mine))), Some(0));
    let test = Srpc::new(kind::TEST, 1).with_sid(mine).with("batch", 1).with("loop", 1).with("concur", 1);
    for serves in [service::BRW, service::PING] {
        let q = test.clone().with("service", serves).with_brw((2, 1, 4096, 0));
        assert_eq!(status(w.ask(by, service::TEST, q)), Some(0));
    }
    let ping = Srpc::new(kind::PING, 1).with("ping_magic", 0xBABE_FACE).with("seq", 9);
    let r = w.ask(by, service::PING, ping).unwrap();
    assert_eq!((r.get("status"), r.get("seq")), (0, 9));
    assert_eq!(status(w.ask(by, service::REMOVE, Srpc::new(kind::REMOVE, 1).with_sid(mine))), Some(0));
}

#[test]
fn a_member_outlives_its_peers() {
    bolero::check!().with_test_time(TIME).with_max_len(LEN).for_each(run);
}
