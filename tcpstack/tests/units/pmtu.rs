//! Path MTU: what routers say (RFC 1191, RFC 8201), and what is guessed when full segments vanish (RFC 2923).

use std::net::Ipv6Addr;

use crate::common::bench::{Bench, Got, PLAIN, Peer, icmp_error, segment};
use crate::common::{MS, SEC, config, ip};
use dataplane::mem::MemConfig;
use tcpstack::addr::Addr;
use tcpstack::opts::OptBytes;
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{ACK, Fields, SYN};
use tcpstack::{Event, Listen, StackConfig};

const JUMBO: MemConfig = MemConfig { mtu: 9000, ..PLAIN };

fn six(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n)
}

fn peers(v6: bool) -> (Addr, Addr) {
    if v6 { (six(2).into(), six(1).into()) } else { (ip(2).into(), ip(1).into()) }
}

/// A stack with both families that listens on 988.
fn bench(cfg: StackConfig, mem: &MemConfig) -> Bench {
    let mut b = Bench::with(StackConfig { addrs: vec![(ip(1).into(), 24), (six(1).into(), 64)], ..cfg }, mem);
    b.s.listen(Listen { addr: Ipv6Addr::UNSPECIFIED.into(), port: 988, backlog: 8 }).unwrap();
    b
}

/// A connection that the peer dials, with an MSS that never is the limit.
fn accept(b: &mut Bench, v6: bool, port: u16) -> Peer {
    let (them, us) = peers(v6);
    let key = Key::new(them, port, us, 988);
    let f = Fields { seq: Seq(99), ack: Seq(0), flags: SYN, win: 65_535 };
    b.send(&segment(&key, &f, &OptBytes::syn(65_000, false, None, Some(7)), &[]));
    let sa = b.one().seg;
    let f = Fields { seq: Seq(100), ack: sa.seq.plus(1), flags: ACK, win: 1000 };
    b.send(&segment(&key, &f, &[], &[]));
    let opened = b.events().into_iter().find_map(|e| match e {
        Event::Opened { flow, .. } => Some(flow),
        _ => None,
    });
    Peer { flow: opened.unwrap(), key, seq: Seq(100), ack: sa.seq.plus(1) }
}

/// Lengths of the payloads sent, and where they begin behind `from`.
fn sizes(v: &[Got], from: Seq) -> Vec<(i64, usize)> {
    v.iter().map(|g| (i64::from(g.seg.seq.since(from)), g.data.len())).collect()
}

/// A packet of the stack's on the connection of `p`.
fn ours(p: &Peer, off: u64, len: usize) -> Vec<u8> {
    let k = Key::new(p.key.remote, p.key.rport(), p.key.local, p.key.lport());
    segment(&k, &Fields { seq: p.ack.plus(off), ack: p.seq, flags: ACK, win: 1 }, &[], &vec![0; len])
}

fn too_big(b: &mut Bench, p: &Peer, off: u64, len: usize, mtu: u16) {
    let [x, y] = mtu.to_be_bytes();
    let t = if p.key.is_v6() { (2, 0) } else { (3, 4) };
    b.send(&icmp_error(&ours(p, off, len), t.0, t.1, [0, 0, x, y]));
}

fn ack(b: &mut Bench, p: &Peer, off: u64) {
    b.put(p, ACK, p.seq, p.ack.plus(off), 1000, b"");
}

#[test]
fn a_router_s_word_lowers_the_size_and_what_is_out_goes_again_at_once() {
    for (v6, mss, smaller) in [(false, 1460, 1360), (true, 1440, 1340)] {
        let mut b = bench(config(1), &PLAIN);
        let p = accept(&mut b, v6, 7);
        b.push(p.flow, 2 * mss);
        assert_eq!(sizes(&b.segs(), p.ack), [(0, mss), (mss as i64, mss)]);
        let before = b.now;
        too_big(&mut b, &p, mss as u64, mss, 1400);
        let s = smaller as i64;
        assert_eq!(sizes(&b.segs(), p.ack), [(0, smaller), (s, smaller), (2 * s, 2 * mss - 2 * smaller)]);
        assert_eq!(b.now, before, "at once");
        let c = b.s.counters();
        assert_eq!((c.pmtu_lowered, c.icmp_errors, c.rto), (1, 1, 0));
        // Others about the same flight say nothing new.
        too_big(&mut b, &p, 0, mss, 1400);
        assert_eq!((b.segs().len(), b.s.counters().pmtu_lowered), (0, 1));
        // A new connection to the same host has it from the start; one to another does not.
        ack(&mut b, &p, 2 * mss as u64);
        let q = accept(&mut b, v6, 8);
        b.push(q.flow, 2000);
        assert_eq!(sizes(&b.segs(), q.ack)[0], (0, smaller));
        let r = accept(&mut b, !v6, 9);
        b.push(r.flow, 2000);
        assert_eq!(b.segs()[0].data.len(), if v6 { 1460 } else { 1440 });
    }
}

#[test]
fn what_cannot_be_is_not_believed() {
    let mut b = bench(config(1), &PLAIN);
    for (v6, mss, floor) in [(false, 1460, 552), (true, 1440, 1280)] {
        let p = accept(&mut b, v6, 7);
        b.push(p.flow, mss);
        b.segs();
        let was = b.s.counters();
        too_big(&mut b, &p, 0, mss, floor - 1);
        too_big(&mut b, &p, 0, mss, 1500);
        too_big(&mut b, &p, 0, 4000, 1400);
        too_big(&mut b, &p, mss as u64, mss, 1400);
        too_big(&mut b, &p, u64::from(u32::MAX), mss, 1400);
        let c = b.s.counters();
        assert_eq!(
            (c.pmtu_ignored - was.pmtu_ignored, c.icmp_errors_ignored - was.icmp_errors_ignored),
            (3, 5)
        );
        assert_eq!((c.pmtu_lowered, b.segs().len()), (was.pmtu_lowered, 0));
        too_big(&mut b, &p, 0, mss, floor);
        assert_eq!(b.s.counters().pmtu_lowered, was.pmtu_lowered + 1, "the floor itself is fine");
        b.segs();
    }
}

#[test]
fn a_router_that_names_no_size_leads_down_the_plateaus() {
    let mut b = bench(config(1), &PLAIN);
    let p = accept(&mut b, false, 7);
    b.push(p.flow, 1460);
    b.segs();
    too_big(&mut b, &p, 0, 1460, 0);
    assert_eq!(sizes(&b.segs(), p.ack), [(0, 1452), (1452, 8)]);
    too_big(&mut b, &p, 0, 1452, 0);
    assert_eq!(sizes(&b.segs(), p.ack), [(0, 966), (966, 494)]);
    too_big(&mut b, &p, 0, 966, 0);
    assert_eq!(b.segs()[0].data.len(), 512, "the floor, where the table goes below it");
    too_big(&mut b, &p, 0, 512, 0);
    assert_eq!((b.segs().len(), b.s.counters().pmtu_ignored), (0, 1));
    // Of IPv6 there is no such thing.
    let p = accept(&mut b, true, 8);
    b.push(p.flow, 1440);
    b.segs();
    too_big(&mut b, &p, 0, 1440, 0);
    assert_eq!(b.segs().len(), 0);
}

#[test]
fn after_ten_minutes_more_is_tried() {
    let mut b = bench(StackConfig { keepalive: None, ..config(1) }, &PLAIN);
    let p = accept(&mut b, false, 7);
    b.push(p.flow, 1460);
    b.segs();
    too_big(&mut b, &p, 0, 1460, 1400);
    ack(&mut b, &p, 1460);
    b.segs();
    b.wait(599 * SEC);
    b.push(p.flow, 1360);
    assert_eq!(b.segs()[0].data.len(), 1360);
    ack(&mut b, &p, 2820);
    b.wait(2 * SEC);
    b.push(p.flow, 1460);
    assert_eq!((b.segs()[0].data.len(), b.s.counters().pmtu_raised), (1460, 1));
    too_big(&mut b, &p, 2820, 1460, 1400);
    assert_eq!(b.segs()[0].data.len(), 1360);
}

/// Time-outs, and the payload that the first segment had at each.
fn time_outs(b: &mut Bench, n: u64) -> Vec<usize> {
    let mut v = vec![];
    let goal = b.s.counters().rto + n;
    for _ in 0..10_000 {
        let was = b.s.counters().rto;
        if was == goal {
            return v;
        }
        b.wait(MS);
        if b.s.counters().rto > was {
            v.extend(b.segs().first().map(|g| g.data.len()));
        }
    }
    panic!("no time-out: {v:?}");
}

#[test]
fn full_segments_that_vanish_without_a_word_become_smaller() {
    let mut b = bench(StackConfig { keepalive: None, ..config(1) }, &JUMBO);
    let p = accept(&mut b, false, 7);
    b.push(p.flow, 3 * 8960);
    b.segs();
    // Small ones pass; two time-outs make the guess, which is tried with what was due anyway.
    assert_eq!(time_outs(&mut b, 2), [8960, 1460]);
    assert_eq!(b.s.counters().pmtu_black_holes, 1);
    ack(&mut b, &p, 3 * 8960);
    b.segs();
    b.push(p.flow, 3000);
    assert_eq!(b.segs()[0].data.len(), 1460);
    ack(&mut b, &p, 3 * 8960 + 3000);
    // It may have been an outage: the full size is tried soon.
    let mut at = 3 * 8960 + 3000;
    b.wait(3 * SEC);
    b.push(p.flow, 8960);
    assert_eq!((b.segs()[0].data.len(), b.s.counters().pmtu_raised), (8960, 1));
    // It was none: one time-out is enough, and the next try is ten minutes away.
    assert_eq!(time_outs(&mut b, 1), [1460]);
    at += 8960;
    ack(&mut b, &p, at);
    b.segs();
    b.wait(590 * SEC);
    b.push(p.flow, 8960);
    assert_eq!(b.segs()[0].data.len(), 1460);
    at += 8960;
    ack(&mut b, &p, at);
    b.wait(11 * SEC);
    b.segs();
    b.push(p.flow, 8960);
    assert_eq!(b.segs()[0].data.len(), 8960);
    ack(&mut b, &p, at + 8960);
    // It has arrived: all is well, and two time-outs are needed again.
    b.push(p.flow, 8960);
    b.segs();
    assert_eq!(time_outs(&mut b, 1), [8960]);
    assert_eq!(b.s.counters().pmtu_black_holes, 2);
}

#[test]
fn short_segments_that_vanish_are_no_reason() {
    let mut b = bench(StackConfig { keepalive: None, ..config(1) }, &JUMBO);
    let p = accept(&mut b, true, 7);
    b.push(p.flow, 5000);
    b.segs();
    assert_eq!(time_outs(&mut b, 4), [5000; 4]);
    assert_eq!(b.s.counters().pmtu_black_holes, 0);
}

#[test]
fn guesses_of_ipv6_end_at_1280() {
    let mut b = bench(StackConfig { keepalive: None, ..config(1) }, &JUMBO);
    let p = accept(&mut b, true, 7);
    b.push(p.flow, 8940);
    b.segs();
    assert_eq!(time_outs(&mut b, 6), [8940, 1440, 1440, 1220, 1220, 1220]);
}
