//! Next hops that are slow, dead, or do not acknowledge what they read: a router's own messages pass, and what it holds for them ends in
//! one time-out (docs/protocol/upper.md §1.5, §1.6).

use transport::lnd::Config;
use transport::lnet::Op;
use transport::testing::capture::Msg;
use transport::testing::data::{Spot, bytes, seeded};
use transport::testing::net::{Cut, SEC};
use transport::wire::{AcceptorReq, Hello, LnetBody, LnetHdr, Nid, ProcessId, Version, WireHandle, ping};

use crate::raw;
use crate::routing::{R, World, a, b, header, nid, put, small};

/// A next hop on tcp1 that is driven by hand.
pub(crate) struct Hop {
    pub(crate) nid: Nid,
    version: Version,
    /// Its CONTROL, the one that bulk comes by, which is its BULK_IN, and its BULK_OUT.
    pub(crate) links: [usize; 3],
}

const CONTROL: usize = 0;
const BULK: usize = 1;

impl Hop {
    pub(crate) fn connects(w: &mut World, n: u8, version: Version) -> Hop {
        let (own, peer) = (nid(R[1]), b(n));
        let ip = peer.ip().unwrap();
        let home = w.net.home(0, ip);
        let mut port = 1000;
        let links = raw::TYPES.map(|ctype| {
            port -= 1;
            let to = (own.ip().unwrap(), 988).into();
            let link = w.net.raw_connect_at((ip, port).into(), home, to);
            let req = AcceptorReq::new(own);
            let hello = Hello { src_nid: peer, dst_nid: own, ..raw::hello(version, ctype) };
            w.net.raw_send(link, &[&req.emit()[..req.wire_len()], &hello.emit()].concat());
            w.run(SEC / 10);
            link
        });
        Hop { nid: peer, version, links }
    }

    /// It says something to the router.
    fn says(&self, w: &mut World, body: LnetBody, len: u32) {
        let hdr = header(self.nid, nid(R[1]), body, len as usize);
        w.net.raw_send(self.links[CONTROL], &raw::message(self.version, &hdr, 0));
    }

    /// It asks the router, as a user does that checks it.
    fn pings(&self, w: &mut World) {
        let handle = WireHandle { interface: 1, object: 2 };
        let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
        self.says(w, LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: 272 }, 0);
    }

    /// And tells it who it is.
    fn pushes(&self, w: &mut World) {
        let ack = WireHandle { interface: 1, object: 3 };
        let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
        self.says(w, LnetBody::Put { ack, match_bits, hdr_data: 0, portal, offset: 0 }, 48);
    }

    /// LNet messages that the router has put on one of its connections, and their cookies.
    pub(crate) fn came(&self, w: &World, at: usize) -> Vec<(LnetHdr, u64)> {
        let all = raw::messages(&w.net, self.links[at], 1, self.version);
        let lnet = |m| match m {
            Msg::Lnet(ksock, hdr, _) => Some((hdr, ksock.cookie0)),
            _ => None,
        };
        all.into_iter().filter_map(lnet).collect()
    }

    /// Names of those on its CONTROL.
    fn answers(&self, w: &World) -> Vec<&'static str> {
        self.came(w, CONTROL).iter().map(|(hdr, _)| hdr.body.name()).collect()
    }
}

/// A router with which 10.0.0.2 has connections, for bulk, too.
pub(crate) fn world(cfg: &Config, shards: u16) -> World {
    let mut w = World::on(cfg, shards);
    for len in [0, 20_000] {
        w.say(a(2), nid(R[0]), put(0), bytes(len, 0));
        w.run(SEC);
    }
    w.heard();
    w
}

/// Messages from 10.0.0.2 to that one, of 20,000 bytes each.
fn say(w: &mut World, to: Nid, all: std::ops::Range<u64>) {
    for n in all {
        w.say(a(2), to, put(n), bytes(20_000, n));
    }
}

/// The TCP of everybody else acknowledges what it was sent.
pub(crate) fn others_ack(w: &mut World, hop: &Hop) {
    (0..w.net.links()).filter(|l| !hop.links.contains(l)).for_each(|l| w.net.raw_ack(l));
}

/// Large buffers that are free, less messages that wait for one.
pub(crate) fn free(w: &mut World) -> i64 {
    (0..w.shards).map(|n| w.view(n).buffers[2].credits).sum()
}

/// Messages with pages and without, shorter than bulk and longer, for a peer that is slow to take any: those of each connection are in the
/// order of their operations, as at kernels, whatever waited for credits. Messages without pages overtook the others of CONTROL.
#[test]
fn messages_of_each_connection_keep_their_order() {
    for (shards, min_bulk) in [(1, 1024), (2, 1024), (1, 1 << 20)] {
        for version in [Version::V1, Version::V3, Version::V4] {
            let cfg = Config { discovery: false, min_bulk, ..small([0, 0, 200], 64) };
            let mut w = world(&cfg, shards);
            let hop = Hop::connects(&mut w, 66, version);
            let (home, target) = (w.net.home(0, hop.nid.ip().unwrap()), ProcessId::lustre(hop.nid));
            w.net.raw_acks = false;
            for n in 0..60 {
                let len = [0, 500, 64, 900, 3000, 161][n as usize % 6];
                w.net.op(home, Spot(9, n).put(100 + n, target, seeded(len, n), false));
            }
            w.run(SEC);
            for _ in 0..60 {
                hop.links.iter().for_each(|l| w.net.raw_ack(*l));
                w.run(SEC / 10);
            }
            let came = [CONTROL, BULK].map(|at| {
                let tag = |(hdr, _): &(LnetHdr, u64)| match hdr.body {
                    LnetBody::Put { hdr_data, .. } => Some(hdr_data),
                    _ => None,
                };
                hop.came(&w, at).iter().filter_map(tag).collect::<Vec<_>>()
            });
            assert!(came.iter().all(|tags| tags.is_sorted()), "{shards} {min_bulk} {version:?}: {came:?}");
            let bulk = if min_bulk == 1024 { 10 } else { 0 };
            assert_eq!(came.map(|tags| tags.len()), [60 - bulk, bulk], "{shards} {min_bulk} {version:?}");
        }
    }
}

/// A next hop reads its CONTROL, and next to nothing of the bulk that is passed on to it, or that is the node's own: it holds all
/// credits of the peer. It is answered, asked and told within a tenth of a second all the same, so no user takes its route down, and
/// nobody behind it waits for its bulk.
#[test]
fn who_takes_no_bulk_is_answered() {
    for (shards, own) in [(1, false), (1, true), (2, false), (2, true)] {
        for version in [Version::V1, Version::V2, Version::V3, Version::V4] {
            // It answers no question, so nobody asks it first.
            let mut w = world(&Config { discovery: !own, ..small([0, 0, 200], 64) }, shards);
            let hop = Hop::connects(&mut w, 66, version);
            let (home, target) = (w.net.home(0, hop.nid.ip().unwrap()), ProcessId::lustre(hop.nid));
            w.net.raw_acks = false;
            for n in 0..20 {
                match own {
                    true => w.net.op(home, Spot(9, n).put(100 + n, target, seeded(20_000, n), false)),
                    false => say(&mut w, hop.nid, n..n + 1),
                }
            }
            w.run(SEC);
            assert_eq!(hop.came(&w, BULK).len(), 8, "as many as there are credits");
            let before = hop.answers(&w).len();
            for n in 0..40 {
                hop.pings(&mut w);
                hop.pushes(&mut w);
                w.run(SEC / 10);
                let got = hop.answers(&w).split_off(before);
                assert_eq!(got, ["REPLY", "ACK"].repeat(n + 1), "{shards} {own} {version:?}");
                w.net.raw_ack(hop.links[CONTROL]);
                w.net.raw_ack_some(hop.links[BULK], 100);
                w.run(SEC);
            }
            // The router's own questions, too.
            w.net.op(home, Op::Ping { tag: 1, target });
            w.run(SEC / 10);
            assert_eq!(hop.answers(&w).pop(), Some("GET"), "{shards} {own} {version:?}");
            assert_eq!((w.count().sets_closed, hop.came(&w, BULK).len()), (0, 8));
        }
    }
}

/// Next hops that take nothing hold the credits of the NI that answers may have.
#[test]
fn who_takes_no_bulk_is_answered_where_the_ni_has_no_credit_left() {
    let mut w = world(&Config { ni_credits: 16, ..small([0, 0, 200], 64) }, 1);
    let hops: Vec<Hop> = (66..72).map(|n| Hop::connects(&mut w, n, Version::V3)).collect();
    w.net.raw_acks = false;
    hops.iter().for_each(|hop| say(&mut w, hop.nid, 0..10));
    w.run(SEC);
    let out = hops.iter().map(|hop| hop.came(&w, BULK).len()).collect::<Vec<_>>();
    assert!(out.iter().sum::<usize>() >= 12 && out.iter().all(|n| (1..8).contains(n)), "{out:?}");
    for hop in &hops {
        hop.pings(&mut w);
        w.run(SEC / 10);
        assert_eq!(hop.answers(&w), ["REPLY"]);
    }
}

/// Own messages and those of others that wait for credits leave in turn: neither keeps the other for ever.
#[test]
fn own_messages_and_others_have_turns() {
    let mut w = world(&Config { peer_credits: 1, tx_window: 1, ..small([0, 0, 200], 64) }, 1);
    let hop = Hop::connects(&mut w, 66, Version::V3);
    w.net.raw_acks = false;
    say(&mut w, hop.nid, 0..6);
    w.run(SEC);
    for _ in 0..6 {
        hop.pings(&mut w);
        w.run(SEC / 10);
    }
    assert_eq!((hop.came(&w, BULK).len(), hop.answers(&w).len()), (1, 1), "the rest waits");
    let (mut counts, mut acked) = (vec![(1, 1)], 0);
    while counts.last() != Some(&(6, 6)) {
        assert!(counts.len() < 20, "{counts:?}");
        w.net.raw_ack(hop.links[CONTROL]);
        w.net.raw_ack(hop.links[BULK]);
        for (_, cookie) in hop.came(&w, BULK).split_off(acked) {
            w.net.raw_send(hop.links[CONTROL], &raw::noop(0, cookie));
            acked += 1;
        }
        w.run(SEC);
        counts.push((hop.came(&w, BULK).len(), hop.answers(&w).len()));
    }
    assert!(counts.iter().all(|(others, own)| others.abs_diff(*own) <= 3), "{counts:?}");
    // And messages of a source to a target are as they were said.
    let objects: Vec<u64> = hop
        .came(&w, BULK)
        .iter()
        .map(|(hdr, _)| match hdr.body {
            LnetBody::Put { hdr_data, .. } => hdr_data,
            _ => u64::MAX,
        })
        .collect();
    assert_eq!(objects, [0, 1, 2, 3, 4, 5]);
}

/// A next hop loses its connections, does not come back for a while, and then does: what waited for credits, and then for a
/// connection, has ended one time-out after it came, and none of it is delivered late.
#[test]
fn what_waits_for_one_that_does_not_come_ends_in_one_time_out() {
    for shards in [1, 2] {
        let cfg = Config { peer_credits: 4, ..small([0, 0, 200], 64) };
        let mut w = world(&cfg, shards);
        let hop = Hop::connects(&mut w, 66, Version::V3);
        let ip = hop.nid.ip().unwrap();
        w.net.raw_acks = false;
        say(&mut w, hop.nid, 0..24);
        w.run(44 * SEC);
        assert_eq!((hop.came(&w, BULK).len(), free(&mut w)), (4, 200 - 24), "{shards}");
        w.net.raw_acks = true;
        others_ack(&mut w, &hop);
        // Dials are taken, and nothing is said there.
        w.net.raw_listen(ip);
        let links = w.net.links();
        hop.links.into_iter().for_each(|l| w.net.raw_reset(l));
        w.run(4 * SEC);
        assert_eq!(free(&mut w), 180, "what was under way has ended");
        w.run(4 * SEC);
        assert_eq!((free(&mut w), w.count().drop_next_hop), (200, 24), "{shards}");
        say(&mut w, hop.nid, 24..25);
        let mut answered = Vec::new();
        for _ in 0..100 {
            w.run(SEC / 4);
            for link in links..w.net.links() {
                let dialled = w.net.addresses(link)[1].ip() == ip;
                if dialled && !answered.contains(&link) && w.net.wire(link, 0).0.len() > 40 {
                    answered.push(link);
                    let hello = raw::dialled(&w.net, link);
                    w.net.raw_send(link, &raw::answer(&hello).emit());
                }
            }
        }
        let said = answered.iter().flat_map(|l| raw::messages(&w.net, *l, 0, Version::V3));
        let puts: Vec<u64> = said
            .filter_map(|m| match m {
                Msg::Lnet(_, LnetHdr { body: LnetBody::Put { hdr_data, portal: 9, .. }, .. }, _) => {
                    Some(hdr_data)
                }
                _ => None,
            })
            .collect();
        assert_eq!(puts, [24], "{shards}: those before are too old");
    }
}

/// Messages on a connection that a next hop reads in drops end in the same time, and none of them leaves later.
#[test]
fn what_waits_on_a_connection_ends_in_one_time_out() {
    let mut w = world(&Config { tx_window: 1, ..small([0, 0, 200], 64) }, 1);
    let hop = Hop::connects(&mut w, 66, Version::V3);
    w.net.raw_acks = false;
    say(&mut w, hop.nid, 0..8);
    // One leaves each 20 s.
    for n in 1..4 {
        w.run(if n == 3 { 11 * SEC } else { 20 * SEC });
        others_ack(&mut w, &hop);
        assert_eq!(hop.came(&w, BULK).len(), n);
        if n < 3 {
            assert_eq!(free(&mut w), 200 - 8 + n as i64 - 1);
            w.net.raw_ack(hop.links[BULK]);
            let cookie = hop.came(&w, BULK)[n - 1].1;
            w.net.raw_send(hop.links[CONTROL], &raw::noop(0, cookie));
        }
    }
    assert_eq!((free(&mut w), w.count().drop_next_hop), (199, 5), "but for the one that is leaving");
    let cookie = hop.came(&w, BULK)[2].1;
    w.net.raw_ack(hop.links[BULK]);
    w.net.raw_send(hop.links[CONTROL], &raw::noop(0, cookie));
    w.run(SEC);
    assert_eq!((free(&mut w), hop.came(&w, BULK).len(), w.count().sets_closed), (200, 3, 0));
    // The connection is good.
    say(&mut w, hop.nid, 8..9);
    w.run(SEC);
    assert_eq!(hop.came(&w, BULK).len(), 4);
}

/// Where no zero-copy ACK is asked for, TCP's progress is no reason to hold a message for ever: some bytes each 10 s.
#[test]
fn who_reads_in_drops_loses_its_set() {
    let mut w = world(&small([0, 0, 200], 64), 1);
    let hop = Hop::connects(&mut w, 66, Version::V1);
    w.net.raw_acks = false;
    say(&mut w, hop.nid, 0..3);
    for _ in 0..4 {
        w.run(10 * SEC);
        others_ack(&mut w, &hop);
        w.net.raw_ack_some(hop.links[BULK], 100);
        assert_eq!((free(&mut w), w.count().sets_closed), (197, 0));
    }
    w.run(11 * SEC);
    assert_eq!((free(&mut w), w.count().sets_closed, w.count().drop_next_hop), (200, 1, 3));
}

/// A source whose router buffers all have messages for a node that takes nothing goes on with what it has for others within some
/// seconds. That node has one message at a time then, and is as good as others once it takes one.
#[test]
fn a_source_does_not_wait_for_a_node_that_takes_nothing() {
    for shards in [1, 2] {
        let mut w = world(&small([0, 0, 200], 8), shards);
        let hop = Hop::connects(&mut w, 66, Version::V3);
        let ip = hop.nid.ip().unwrap();
        w.say(a(2), b(3), put(99), bytes(20_000, 99));
        w.run(SEC);
        assert_eq!(w.heard().len(), 1);
        let passes = |w: &mut World, n: u64| {
            w.say(a(2), b(3), put(n), bytes(20_000, n));
            let begin = w.net.now;
            while w.heard().is_empty() {
                assert!(w.net.now < begin + 60 * SEC, "{shards}: {n} does not come");
                w.run(SEC / 10);
            }
            w.net.now - begin
        };
        w.net.unplug(ip, Cut::Silence);
        say(&mut w, hop.nid, 0..9);
        let took = passes(&mut w, 100);
        assert!((4 * SEC..7 * SEC).contains(&took), "{shards}: {took}");
        let c = w.count();
        assert_eq!((c.forward_stuck, c.drop_next_hop, c.drop_stuck), (1, 8, 0), "{shards}");
        // Nobody waits for it again: one is on its way, and the others are dropped.
        say(&mut w, hop.nid, 9..18);
        assert!(passes(&mut w, 101) < SEC, "{shards}");
        assert_eq!((w.count().drop_stuck, free(&mut w)), (9, 199), "{shards}");
    }
}

/// Forty nodes that take nothing are found at a time: entries for peers are looked at once for all of them.
#[test]
fn many_nodes_that_take_nothing_cost_one_look_at_the_peers() {
    for shards in [1, 2] {
        let mut w = world(&small([0, 0, 200], 40), shards);
        let dead: Vec<Hop> = (100..140).map(|n| Hop::connects(&mut w, n, Version::V3)).collect();
        dead.iter().for_each(|hop| w.net.mute(hop.nid.ip().unwrap()));
        w.net.raw_acks = false;
        for (n, to) in (0..).zip(&dead) {
            say(&mut w, to.nid, n..n + 1);
        }
        w.run(SEC);
        let peers: usize = (0..w.shards).map(|n| w.net.nodes[n].machine.gauges().peers).sum();
        say(&mut w, dead[0].nid, 40..41);
        w.run(7 * SEC);
        let c = w.count();
        assert_eq!((c.forward_stuck, free(&mut w)), (40, 199), "{shards}: {c:?}");
        assert!(c.forward_stuck_looks <= peers as u64, "{shards}: {} of {peers}", c.forward_stuck_looks);
    }
}
