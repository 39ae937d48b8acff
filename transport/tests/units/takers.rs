//! Next hops that pause, or take nothing, while a source has no router buffer left: whom a router takes for one that takes nothing, and
//! what it drops then (docs/protocol/upper.md §1.6).

use transport::lnd::Config;
use transport::testing::data::bytes;
use transport::testing::net::SEC;
use transport::wire::{
    AcceptorReq, ByteOrder, ConnType, Hello, KsockHdr, KsockType, LnetBody, LnetHdr, Nid, Version,
    WireHandle, ping,
};

use crate::raw;
use crate::routing::{R, World, a, b, header, nid, put, small};
use crate::slow_hops::{Hop, free, others_ack, world};

/// Long enough to leave before it is whole.
const LEN: usize = 40_000;

/// A router whose sources have eight buffers each, on one shard and on two, with cut-through and without.
fn worlds() -> impl Iterator<Item = (u16, bool, Config)> {
    [(1, false), (1, true), (2, false), (2, true)].into_iter().map(|(shards, cut)| {
        let mut cfg = small([4, 4, 200], 8);
        cfg.routing.cut_through = cut;
        (shards, cut, cfg)
    })
}

fn say(w: &mut World, to: Nid, all: std::ops::Range<u64>) {
    for n in all {
        w.say(a(2), to, put(n), bytes(LEN, n));
    }
}

/// Numbers of messages that a next hop has been sent.
fn came(w: &World, hop: &Hop) -> Vec<u64> {
    let number = |h: &LnetHdr| match h.body {
        LnetBody::Put { hdr_data, portal: 9, .. } => Some(hdr_data),
        _ => None,
    };
    (0..3).flat_map(|at| hop.came(w, at)).filter_map(|(hdr, _)| number(&hdr)).collect()
}

/// The next hop takes all that it is sent, for a second.
fn takes(w: &mut World, hop: &Hop) {
    for _ in 0..20 {
        hop.links.into_iter().for_each(|l| w.net.raw_ack(l));
        others_ack(w, hop);
        w.run(SEC / 20);
    }
}

/// Time goes on, and the next hop takes nothing.
fn pauses(w: &mut World, hop: &Hop, ns: u64) {
    for _ in 0..10 {
        w.run(ns / 10);
        others_ack(w, hop);
    }
}

/// The header of a message of 1 MiB, and some of it.
fn begins(w: &mut World, port: u16, ctype: ConnType, from: Nid, to: Nid) -> usize {
    let own = nid(R[0]);
    let ip = from.ip().unwrap();
    let home = w.net.home(0, ip);
    let link = w.net.raw_connect((ip, port).into(), home);
    let req = AcceptorReq::new(own);
    let hello = Hello { src_nid: from, dst_nid: own, ..raw::hello(Version::V3, ctype) };
    w.net.raw_send(link, &[&req.emit()[..req.wire_len()], &hello.emit()].concat());
    w.run(SEC / 10);
    let ksock = KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0: 0, cookie1: 0 };
    let hdr = header(from, to, put(1), 1 << 20).emit_as(Version::V3);
    w.net.raw_send(link, &[&ksock.emit(ByteOrder::Little)[..], &hdr, &[7; 100]].concat());
    link
}

/// A host has begun more messages for a server than it may have buffers, and goes on with a byte a second. That is its own stall: the
/// server has all that others send it, however long it was sent nothing.
#[test]
fn who_does_not_go_on_with_his_messages_marks_nobody() {
    for (shards, cut, cfg) in worlds() {
        let mut w = World::on(&cfg, shards);
        let types = [ConnType::Control, ConnType::BulkIn, ConnType::BulkOut];
        let links: Vec<usize> =
            (0..9).map(|n| begins(&mut w, 1000 - n, types[usize::from(n) % 3], a(66), b(3))).collect();
        w.run(SEC / 10);
        assert_eq!((free(&mut w), w.count().forward_waits), (200 - 9, 1), "{shards} {cut}: one waits");
        for n in 0..30 {
            links.iter().for_each(|l| w.net.raw_send(*l, &[n]));
            w.run(SEC);
            // Once nothing has gone there for longer than anybody's patience.
            if n % 10 == 9 {
                say(&mut w, b(3), u64::from(n)..u64::from(n) + 4);
                w.run(SEC / 2);
                assert_eq!(w.heard().len(), 4, "{shards} {cut}: {:?}", w.count());
            }
        }
        let c = w.count();
        assert_eq!((c.forward_stuck, c.drop_stuck, c.drop_next_hop), (0, 0, 0), "{shards} {cut}");
    }
}

/// A node pauses again and again, with more for it than there are buffers: nothing is lost, and its connections stay.
#[test]
fn one_that_pauses_loses_nothing() {
    for (shards, cut, cfg) in worlds() {
        let mut w = world(&cfg, shards);
        let hop = Hop::connects(&mut w, 66, Version::V1);
        w.net.raw_acks = false;
        for n in 0..4 {
            say(&mut w, hop.nid, 20 * n..20 * n + 20);
            pauses(&mut w, &hop, 28 * SEC / 10);
            assert!(free(&mut w) < 200 - 8, "{shards} {cut}: a source waits");
            takes(&mut w, &hop);
            assert_eq!((came(&w, &hop).len() as u64, free(&mut w)), (20 * n + 20, 200), "{shards} {cut}");
        }
        let c = w.count();
        assert_eq!((c.forward_stuck, c.drop_stuck, c.drop_next_hop, c.sets_closed), (0, 0, 0, 0));
    }
}

/// A node that takes some bytes now and then takes something: what waits for it has a time-out, as at kernels.
#[test]
fn one_that_takes_some_bytes_is_not_taken_for_dead() {
    for (shards, cut, cfg) in worlds() {
        let mut w = world(&cfg, shards);
        let hop = Hop::connects(&mut w, 66, Version::V1);
        w.net.raw_acks = false;
        say(&mut w, hop.nid, 0..20);
        for _ in 0..9 {
            pauses(&mut w, &hop, 4 * SEC);
            hop.links.into_iter().for_each(|l| w.net.raw_ack_some(l, 1));
        }
        takes(&mut w, &hop);
        let c = w.count();
        assert_eq!((c.forward_stuck, c.drop_stuck, c.drop_next_hop, c.sets_closed), (0, 0, 0, 0));
        assert_eq!((came(&w, &hop).len(), free(&mut w)), (20, 200), "{shards} {cut}");
    }
}

/// A node takes nothing for so long that what waits for it is dropped, three times in a row. Each time it has all that is sent to it
/// once it has taken one message, and nothing is dropped for what was before.
#[test]
fn one_that_is_back_is_as_good_as_others() {
    for (shards, cut, cfg) in worlds() {
        let mut w = world(&cfg, shards);
        for n in 0..3 {
            let hop = Hop::connects(&mut w, 66, Version::V1);
            w.net.raw_acks = false;
            let base = 100 * n;
            say(&mut w, hop.nid, base..base + 9);
            pauses(&mut w, &hop, 7 * SEC);
            assert_eq!(w.count().forward_stuck, n + 1, "{shards} {cut}");
            assert!(free(&mut w) >= 199, "{shards} {cut}: {}", free(&mut w));
            w.net.raw_acks = true;
            let before = w.count();
            w.run(SEC);
            let hop = Hop::connects(&mut w, 66, Version::V1);
            say(&mut w, hop.nid, base + 20..base + 21);
            w.run(SEC);
            say(&mut w, hop.nid, base + 30..base + 50);
            w.run(SEC);
            let got = came(&w, &hop).into_iter().filter(|n| *n >= base + 20).count();
            assert_eq!(got, 21, "{shards} {cut} {n}: {:?}", came(&w, &hop));
            let c = w.count();
            assert_eq!((c.drop_stuck, free(&mut w)), (before.drop_stuck, 200), "{shards} {cut} {n}");
            hop.links.into_iter().for_each(|l| w.net.raw_close(l));
            w.run(SEC);
        }
    }
}

/// A node takes bytes, acknowledges no message, and connects anew: it has one message at a time, and nobody waits for it again.
#[test]
fn one_that_acknowledges_no_message_does_not_have_all_buffers_again() {
    for (shards, cut, cfg) in worlds() {
        let mut w = world(&cfg, shards);
        let hop = Hop::connects(&mut w, 66, Version::V3);
        say(&mut w, hop.nid, 0..9);
        w.run(7 * SEC);
        assert_eq!((w.count().forward_stuck, came(&w, &hop).len()), (1, 8), "{shards} {cut}");
        let hop = Hop::connects(&mut w, 66, Version::V3);
        for n in 0..10 {
            say(&mut w, hop.nid, 20 + 10 * n..29 + 10 * n);
            say(&mut w, b(3), n..n + 1);
            w.run(SEC);
            assert_eq!(w.heard().len(), 1, "{shards} {cut} {n}");
        }
        let c = w.count();
        assert_eq!((c.forward_stuck, came(&w, &hop).len(), free(&mut w)), (1, 1, 199), "{shards} {cut}");
        assert!(c.drop_stuck >= 89, "{shards} {cut}: {}", c.drop_stuck);
    }
}

/// All bulk buffers of a source have messages for a slow node. What is small goes by connections of its own, and has buffers of its own:
/// ACKs, requests, checks of the router, and what is answered to others.
#[test]
fn what_is_small_does_not_wait_for_a_slow_taker_of_bulk() {
    for (shards, cut, cfg) in worlds() {
        let mut w = world(&cfg, shards);
        let hop = Hop::connects(&mut w, 66, Version::V3);
        say(&mut w, hop.nid, 0..10);
        w.run(SEC);
        let handle = WireHandle { interface: 3, object: 3 };
        let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
        let get = LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: 272 };
        for n in 0..20 {
            // It acknowledges one each three seconds, and the next one comes.
            if n % 3 == 2 {
                let (_, cookie) = hop.came(&w, 1)[n as usize / 3];
                w.net.raw_send(hop.links[0], &raw::noop(0, cookie));
                say(&mut w, hop.nid, 20 + n..21 + n);
            }
            w.heard();
            w.say(a(2), b(3), LnetBody::Ack { handle, match_bits: 1, mlength: 1 }, Vec::new());
            w.say(a(2), b(3), put(n), bytes(500, n));
            w.say(a(2), nid(R[0]), get, Vec::new());
            w.run(SEC);
            let got: Vec<(Nid, &str)> = w.heard().iter().map(|h| (h.by, h.hdr.body.name())).collect();
            for want in [(b(3), "ACK"), (b(3), "PUT"), (a(2), "REPLY")] {
                assert!(got.contains(&want), "{shards} {cut} {n}: {got:?}");
            }
            assert!(free(&mut w) < 200 - 8, "{shards} {cut}: bulk waits");
        }
        assert_eq!((w.count().forward_stuck, w.count().drop_next_hop), (0, 0));
    }
}
