//! Peers of a router that have gone, and left messages unread: what those wait for is over within one time-out, and what is for good next
//! hops is delivered (docs/protocol/upper.md §1.3).

use transport::testing::data::bytes;
use transport::testing::net::SEC;
use transport::wire::{AcceptorReq, ConnType, Hello, KsockType, LnetBody, LnetHdr, Nid, Version};

use crate::raw;
use crate::routing::{R, World, a, b, header, nid, put, small};
use crate::slow_hops::{Hop, free, others_ack, world};

const VERSIONS: [Version; 4] = [Version::V1, Version::V2, Version::V3, Version::V4];
const LEN: usize = 20_000;
const TIMEOUT: u64 = 50 * SEC;

/// Ways of a source to go.
#[derive(Clone, Copy, Debug)]
enum Goes {
    /// Its process ends.
    Fin,
    /// It still reads.
    Half,
    Reset,
}

/// A source on tcp that is driven by hand, with one connection.
struct Source {
    nid: Nid,
    version: Version,
    link: usize,
}

impl Source {
    fn connects(w: &mut World, n: u8, version: Version) -> Source {
        let (own, peer) = (nid(R[0]), a(n));
        let ip = peer.ip().unwrap();
        let home = w.net.home(0, ip);
        let link = w.net.raw_connect_at((ip, 999).into(), home, (own.ip().unwrap(), 988).into());
        let req = AcceptorReq::new(own);
        let hello = Hello { src_nid: peer, dst_nid: own, ..raw::hello(version, ConnType::Control) };
        w.net.raw_send(link, &[&req.emit()[..req.wire_len()], &hello.emit()].concat());
        w.run(SEC / 10);
        Source { nid: peer, version, link }
    }

    fn says(&self, w: &mut World, to: Nid, all: std::ops::Range<u64>) {
        for n in all {
            w.net.raw_send(self.link, &self.message(to, n));
        }
    }

    fn message(&self, to: Nid, n: u64) -> Vec<u8> {
        self.of_len(to, n, LEN)
    }

    fn of_len(&self, to: Nid, n: u64, len: usize) -> Vec<u8> {
        let hdr = header(self.nid, to, put(n), len);
        let ksock = || raw::ksock(KsockType::Lnet, 0, 0, 0);
        let ksock = if self.version.has_ksock() { ksock() } else { Vec::new() };
        [ksock, hdr.emit_as(self.version).to_vec(), bytes(len, n)].concat()
    }

    fn goes(&self, w: &mut World, how: Goes) {
        match how {
            Goes::Fin => w.net.raw_close(self.link),
            Goes::Half => w.net.raw_fin(self.link),
            Goes::Reset => w.net.raw_reset_behind(self.link),
        }
    }
}

/// Numbers of messages that a next hop has been sent.
fn heard(w: &World, good: &Hop) -> Vec<u64> {
    let number = |h: &LnetHdr| match h.body {
        LnetBody::Put { hdr_data, portal: 9, .. } => Some(hdr_data),
        _ => None,
    };
    (0..3).flat_map(|at| good.came(w, at)).filter_map(|(hdr, _)| number(&hdr)).collect()
}

fn dropped(w: &World) -> u64 {
    let c = w.count();
    c.drop_next_hop + c.drop_stuck + c.drop_no_conn + c.drop_left_behind
}

/// Time goes on; the TCPs of all but the next hops acknowledge.
fn goes_on(w: &mut World, hop: &Hop, ns: u64) {
    for _ in 0..ns / SEC {
        w.run(SEC);
        others_ack(w, hop);
    }
}

/// Nobody has as many buffers as one peer may: all of the router's are out. What a source leaves for a next hop that takes nothing is
/// many times what they are.
#[test]
fn what_is_left_for_a_dead_next_hop_ends_in_one_time_out() {
    for how in [Goes::Fin, Goes::Half, Goes::Reset] {
        for (shards, version) in [1, 2].into_iter().flat_map(|s| VERSIONS.map(|v| (s, v))) {
            let mut w = world(&small([0, 0, 16], 64), shards);
            let all = free(&mut w);
            let hop = Hop::connects(&mut w, 66, Version::V3);
            let good = Hop::connects(&mut w, 67, Version::V1);
            w.net.raw_acks = false;
            let source = Source::connects(&mut w, 77, version);
            source.says(&mut w, hop.nid, 0..100);
            source.says(&mut w, good.nid, 100..110);
            source.says(&mut w, hop.nid, 110..150);
            source.says(&mut w, good.nid, 150..160);
            goes_on(&mut w, &hop, 5 * SEC);
            assert_eq!((dropped(&w), heard(&w, &good).len()), (0, 0), "{how:?} {shards} {version:?}");
            source.goes(&mut w, how);
            goes_on(&mut w, &hop, TIMEOUT + SEC);
            let want: Vec<u64> = (100..110).chain(150..160).collect();
            assert_eq!(heard(&w, &good), want, "{how:?} {shards} {version:?}: {:?}", w.count());
            assert_eq!(dropped(&w), 140, "{how:?} {shards} {version:?}: {:?}", w.count());
            let (_, closed) = w.net.wire(source.link, 1);
            assert!(closed, "{how:?} {shards} {version:?}: its connection is held");
            // But for the one that may be on its way to such a node at a time.
            assert!(free(&mut w) >= all - 1, "{how:?} {shards} {version:?}");
            goes_on(&mut w, &hop, TIMEOUT + 5 * SEC);
            assert_eq!(free(&mut w), all);
        }
    }
}

/// One that is still there is not read on, and loses nothing before its time.
#[test]
fn a_source_that_is_there_waits() {
    for shards in [1, 2] {
        let mut w = world(&small([0, 0, 16], 64), shards);
        let hop = Hop::connects(&mut w, 66, Version::V3);
        w.net.raw_acks = false;
        let sources = [77, 78].map(|n| Source::connects(&mut w, n, Version::V3));
        for s in &sources {
            s.says(&mut w, hop.nid, 0..100);
        }
        goes_on(&mut w, &hop, 48 * SEC);
        let c = w.count();
        assert_eq!((dropped(&w), c.forward_stuck, c.err_rx_timeout), (0, 0, 0), "{shards}");
    }
}

/// Several go at different times, one in the middle of a message, beside one that stays.
#[test]
fn each_that_goes_is_over_in_its_time() {
    for shards in [1, 2] {
        let mut w = world(&small([0, 0, 16], 64), shards);
        let all = free(&mut w);
        let hop = Hop::connects(&mut w, 66, Version::V3);
        let good = Hop::connects(&mut w, 67, Version::V1);
        w.net.raw_acks = false;
        let sources = [77, 78, 79, 80].map(|n| Source::connects(&mut w, n, Version::V3));
        let stays = &sources[3];
        for (n, s) in (0..).zip(&sources) {
            s.says(&mut w, hop.nid, 100 * n..100 * n + 40);
            s.says(&mut w, good.nid, 100 * n + 40..100 * n + 45);
        }
        let part = sources[1].message(hop.nid, 199);
        w.net.raw_send(sources[1].link, &part[..part.len() / 2]);
        for s in &sources[..3] {
            goes_on(&mut w, &hop, 2 * SEC);
            s.goes(&mut w, Goes::Fin);
        }
        goes_on(&mut w, &hop, TIMEOUT + SEC);
        for s in &sources {
            let (_, closed) = w.net.wire(s.link, 1);
            assert_eq!(closed, s.link != stays.link, "{shards} {}", s.nid);
        }
        let mut got = heard(&w, &good);
        got.sort_unstable();
        let want: Vec<u64> = (0..4).flat_map(|n| 100 * n + 40..100 * n + 45).collect();
        assert_eq!(got, want, "{shards}: {:?}", w.count());
        assert_eq!((dropped(&w), w.count().err_eof_inside), (160, 1), "{shards}: {:?}", w.count());
        assert!(free(&mut w) >= all - 1, "{shards}");
        assert_eq!(w.count().err_rx_timeout, 0);
    }
}

/// A message without payload is whole where it waits, and the FIN is right behind it.
#[test]
fn a_fin_behind_the_message_that_waits() {
    for (shards, version) in [1, 2].into_iter().flat_map(|s| VERSIONS.map(|v| (s, v))) {
        let mut w = World::on(&small([1, 0, 0], 64), shards);
        let source = Source::connects(&mut w, 77, version);
        let dead = b(66);
        w.net.mute(dead.ip().unwrap());
        w.net.syn_timeout = 2 * TIMEOUT;
        // Another one has the buffer, and will have it again.
        let other = Source::connects(&mut w, 78, version);
        for n in 0..40 {
            w.net.raw_send(other.link, &other.of_len(dead, n, 0));
        }
        w.run(SEC);
        w.net.raw_send(source.link, &source.of_len(dead, 100, 0));
        w.run(SEC);
        source.goes(&mut w, Goes::Fin);
        w.run(TIMEOUT + SEC);
        assert!(w.net.wire(source.link, 1).1, "{shards} {version:?}: {:?}", w.count());
        other.goes(&mut w, Goes::Fin);
        w.run(2 * TIMEOUT);
        let out: usize = (0..w.shards).map(|n| w.net.nodes[n].machine.gauges().on_their_way).sum();
        assert_eq!(out, 0, "{shards} {version:?}: {:?}", w.count());
    }
}
