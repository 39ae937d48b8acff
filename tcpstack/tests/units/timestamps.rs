//! Timestamps (RFC 7323): which segments carry them, what is echoed, which segments PAWS turns away, and what
//! TIME-WAIT remembers of them.

use crate::common::bench::{Bench, Peer, dial, segment};
use crate::common::{MS, SEC, config, ip};
use arrayvec::ArrayVec;
use dataplane::mem::{MemConfig, MemRx};
use dataplane::pkt::{Port, RxPkt};
use tcpstack::opts::{OptBytes, Ts};
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{self, ACK, FIN, Fields, RST, SYN};
use tcpstack::{Close, CloseWhy, Event, Listen, StackConfig};

fn bench(cfg: StackConfig, mem: &MemConfig) -> Bench {
    let mut b = Bench::with(cfg, mem);
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 4 }).unwrap();
    b
}

fn plain_mem() -> MemConfig {
    MemConfig { mtu: 1500, tso_max: 0, csum: false, ..MemConfig::default() }
}

fn open() -> (Bench, Peer) {
    let mut b = Bench::new();
    let p = b.accept_with(1, 100, true, true);
    (b, p)
}

/// The TSval of the peer, echoing whatever.
fn ts(val: u32) -> Ts {
    Ts { val, ecr: 0 }
}

#[test]
fn a_syn_offers_everything_in_the_kernels_order() {
    let mut b = Bench::new();
    b.s.dial(
        b.now,
        tcpstack::Dial { local: crate::common::addr(1, 1023), remote: crate::common::addr(2, 988) },
    )
    .unwrap();
    b.turn();
    b.arp(2, 2, 1);
    let f = b.frames().pop().unwrap();
    let o = &f[54..];
    assert_eq!(
        (o.len(), &o[..8], &o[12..20]),
        (20, &[2, 4, 5, 0xb4, 4, 2, 8, 10][..], &[0, 0, 0, 0, 1, 3, 3, 9][..])
    );
    assert_ne!(o[8..12], [0; 4], "a clock of its own");
}

#[test]
fn a_syn_ack_answers_what_was_offered_and_what_is_configured() {
    for (port, (sack, stamps, on)) in (1..).zip([
        (false, false, true),
        (true, false, true),
        (false, true, true),
        (true, true, true),
        (true, true, false),
    ]) {
        let mut b = bench(StackConfig { sack: on, timestamps: on, ..config(1) }, &plain_mem());
        let key = Key::new(ip(2).into(), port, ip(1).into(), 988);
        let o = OptBytes::syn(1460, sack, stamps.then_some(ts(77)), None);
        b.send(&segment(&key, &Fields { seq: Seq(1), ack: Seq(0), flags: SYN, win: 9000 }, &o, &[]));
        let a = b.one().opts;
        assert_eq!((a.mss, a.scale), (Some(1460), None), "RFC 6691: option lengths are not the MSS's affair");
        assert_eq!(a.sack_permitted, sack && on);
        assert_eq!(a.ts.map(|t| t.ecr), (stamps && on).then_some(77));
    }
}

#[test]
fn every_segment_carries_them_and_a_full_one_is_the_mtu() {
    let (mut b, p) = open();
    b.push(p.flow, 5000);
    let g = b.segs();
    assert!(g.iter().all(|g| g.opts.ts.is_some_and(|t| t.ecr == 1) && g.seg.hlen == 32), "{g:?}");
    assert_eq!(g.iter().map(|g| g.data.len()).collect::<Vec<_>>(), [1448, 1448, 1448, 656]);
    b.stamped(&p, ACK, 100, ts(2), b"beyond a gap");
    assert!(b.one().opts.ts.is_some());
    b.s.close(p.flow, Close::Abort);
    b.turn();
    let r = b.one();
    assert_eq!((r.seg.flags & RST, r.opts.ts.is_some()), (RST, true));
}

#[test]
fn a_super_segment_leaves_room_for_them_in_each_of_its_parts() {
    // Ten segments fit into what the device segments, and their options do not.
    let tso_max = 40 + 10 * 1448 + 5;
    let mut b = bench(config(1), &MemConfig { mtu: 1500, tso_max, ..MemConfig::default() });
    let p = b.accept_with(1, 100, true, true);
    let win = Fields { seq: p.seq.plus(1), ack: p.ack, flags: ACK, win: 8000 };
    b.stamped(&p, ACK, 0, ts(1), b"x");
    b.send(&segment(&p.key, &win, &OptBytes::plain(Some(ts(1))), &[]));
    b.segs();
    b.push(p.flow, 300_000);
    let (mut whole, mut sent) = (0, 0);
    // The congestion window opens as they are acknowledged.
    for _ in 0..6 {
        loop {
            let mut v: ArrayVec<MemRx, 32> = ArrayVec::new();
            b.wire.rx_burst(&mut v);
            if v.is_empty() {
                break;
            }
            for x in v {
                let e = wire::eth(x.head()).unwrap();
                let i = wire::ip4(&x.head()[e.len..], x.len() as usize - e.len, false).unwrap();
                let t = wire::tcp(&x.head()[e.len + i.hlen..], &i).unwrap();
                assert_eq!((t.hlen, x.meta().lro_segsz), (32, if t.plen > 1448 { 1448 } else { 0 }));
                assert!(x.len() - e.len as u32 <= tso_max);
                whole += usize::from(t.plen.is_multiple_of(1448) && t.plen > 1448);
                sent += u64::from(t.plen);
            }
        }
        let ack = Fields { ack: p.ack.plus(sent), ..win };
        b.send(&segment(&p.key, &ack, &OptBytes::plain(Some(ts(1))), &[]));
    }
    assert_eq!(sent, 300_000);
    assert!(whole >= 4, "{whole} super-segments");
    assert_eq!(b.s.port().counters().tx_dropped, 0);
}

#[test]
fn the_echo_is_of_the_segment_that_covers_the_last_acknowledged_number() {
    let (mut b, mut p) = open();
    // Two segments before the ACK: the earlier one's, so that the delay of the ACK is in the sample.
    let f = |off, val| {
        let f = Fields { seq: p.seq.plus(off), ack: p.ack, flags: ACK, win: 1000 };
        segment(&p.key, &f, &OptBytes::plain(Some(ts(val))), &[7; 1000])
    };
    let (x, y) = (f(0, 10), f(1000, 11));
    b.inject(&x);
    b.inject(&y);
    b.turn();
    assert_eq!(b.one().opts.ts.unwrap().ecr, 10);
    p.seq = p.seq.plus(2000);
    // Beyond a gap nothing is taken over; what fills the gap is.
    b.stamped(&p, ACK, 1000, ts(20), &[7; 100]);
    assert_eq!(b.one().opts.ts.unwrap().ecr, 10);
    b.stamped(&p, ACK, 0, ts(21), &[7; 1000]);
    let a = b.one();
    assert_eq!((a.seg.ack, a.opts.ts.unwrap().ecr), (p.seq.plus(1100), 21));
}

#[test]
fn our_clock_ticks_in_ms_from_an_offset_of_each_connections_own() {
    let mut b = Bench::new();
    let (p, q) = (b.accept_with(1, 100, true, true), b.accept_with(2, 100, true, true));
    let mut val = |p: &Peer, v| {
        b.stamped(p, ACK, 5, ts(v), b"?");
        b.one().opts.ts.unwrap().val
    };
    let (a, c) = (val(&p, 2), val(&q, 2));
    assert_ne!(a, c);
    b.wait(250 * MS);
    b.stamped(&p, ACK, 10, ts(3), b"?");
    assert_eq!(b.one().opts.ts.unwrap().val.wrapping_sub(a), 250);
}

#[test]
fn an_old_timestamp_is_answered_and_dropped_and_a_reset_is_not() {
    let (mut b, mut p) = open();
    b.stamped(&p, ACK, 0, ts(50), b"new");
    p.seq = p.seq.plus(3);
    b.wait(SEC);
    b.segs();
    b.stamped(&p, ACK, 0, ts(49), b"old");
    assert_eq!(b.one().seg.ack, p.seq, "the answer says where we are");
    assert_eq!((b.read(p.flow), b.s.counters().paws_rejected), (b"new".to_vec(), 1));
    // An old ACK of nothing: answered, but not each time.
    b.stamped(&p, ACK, 0, ts(49), b"");
    b.stamped(&p, ACK, 0, ts(49), b"");
    assert_eq!((b.segs().len(), b.s.counters().paws_rejected), (1, 3));
    b.stamped(&p, ACK, 0, ts(50), b"again");
    assert_eq!(b.read(p.flow), b"again");
    p.seq = p.seq.plus(5);
    b.stamped(&p, RST, 0, ts(1), b"");
    assert_eq!(b.closed(), Some(CloseWhy::Reset), "RFC 7323 §5.2: no PAWS for a RST");
}

#[test]
fn after_24_days_of_silence_no_timestamp_is_old() {
    let mut b = bench(StackConfig { keepalive: None, ..config(1) }, &plain_mem());
    let p = b.accept_with(1, 100, true, true);
    b.stamped(&p, ACK, 0, ts(1 << 31), b"x");
    b.now += 23 * 86_400 * SEC;
    b.stamped(&p, ACK, 1, ts(5), b"y");
    assert_eq!((b.read(p.flow), b.s.counters().paws_rejected), (b"x".to_vec(), 1));
    b.now += 25 * 86_400 * SEC;
    b.stamped(&p, ACK, 1, ts(5), b"z");
    assert_eq!(b.read(p.flow), b"z");
    b.stamped(&p, ACK, 2, ts(4), b"!");
    assert_eq!((b.read(p.flow), b.s.counters().paws_rejected), (b"".to_vec(), 2), "5 is the last one now");
}

#[test]
fn a_segment_without_one_is_taken_and_ours_go_on_having_them() {
    let (mut b, p) = open();
    b.put(&p, ACK, p.seq, p.ack, 1000, b"bare");
    assert_eq!((b.read(p.flow), b.s.counters().ts_missing), (b"bare".to_vec(), 1));
    b.push(p.flow, 100);
    let g = b.segs();
    assert!(g.iter().all(|g| g.opts.ts.is_some_and(|t| t.ecr == 1)), "{g:?}");
    // One that has an old one is still judged.
    b.stamped(&p, ACK, 4, Ts { val: 0, ecr: 0 }, b"old");
    assert_eq!((b.read(p.flow).len(), b.s.counters().paws_rejected), (0, 1));
    b.put(&p, RST, p.seq.plus(4), Seq(0), 0, b"");
    assert_eq!(b.closed(), Some(CloseWhy::Reset));
}

#[test]
fn who_has_not_agreed_may_send_them_and_nobody_cares() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    b.stamped(&p, ACK, 0, ts(9), b"a");
    b.stamped(&p, ACK, 1, ts(3), b"b");
    assert_eq!((b.read(p.flow), b.s.counters().paws_rejected), (b"ab".to_vec(), 0));
    b.wait(SEC);
    assert!(b.segs().iter().all(|g| g.seg.hlen == 20));
}

#[test]
fn both_ends_may_dial_at_once_with_timestamps() {
    let mut b = Bench::new();
    let (f, syn) = dial(&mut b);
    let key = Key::new(ip(2).into(), 988, ip(1).into(), 1023);
    let s = |flags, ack| Fields { seq: Seq(500), ack, flags, win: 9000 };
    let o = |val| OptBytes::syn(1460, true, Some(ts(val)), Some(7));
    b.send(&segment(&key, &s(SYN, Seq(0)), &o(40), &[]));
    let sa = b.one();
    assert_eq!((sa.seg.flags, sa.seg.seq, sa.opts.ts.unwrap().ecr), (SYN | ACK, syn.seq, 40));
    b.send(&segment(&key, &s(SYN | ACK, syn.seq.plus(1)), &o(41), &[]));
    assert!(matches!(b.events()[..], [Event::Opened { flow, passive: false, .. }] if flow == f));
    b.push(f, 2000);
    let g = b.segs();
    let last = g.last().unwrap();
    assert_eq!((last.opts.ts.unwrap().ecr, last.data.len()), (41, 552));
}

#[test]
fn a_syn_that_comes_again_has_its_later_timestamp_echoed() {
    let mut b = Bench::new();
    let key = Key::new(ip(2).into(), 1, ip(1).into(), 988);
    for val in [10, 11] {
        let f = Fields { seq: Seq(1), ack: Seq(0), flags: SYN, win: 9000 };
        b.send(&segment(&key, &f, &OptBytes::syn(1460, true, Some(ts(val)), None), &[]));
        assert_eq!(b.one().opts.ts.unwrap().ecr, val);
    }
}

#[test]
fn what_was_sent_twice_is_timed_by_its_echo() {
    let (mut b, p) = open();
    let before = b.s.flow_counters(p.flow).unwrap().srtt_ns;
    b.push(p.flow, 100);
    let first = b.one();
    b.wait(1500 * MS);
    let again = b.segs().pop().unwrap();
    assert_eq!(again.seg.seq, first.seg.seq);
    b.wait(20 * MS);
    let f = Fields { seq: p.seq, ack: p.ack.plus(100), flags: ACK, win: 1000 };
    let o = OptBytes::plain(Some(Ts { val: 2, ecr: again.opts.ts.unwrap().val }));
    b.send(&segment(&p.key, &f, &o, &[]));
    let after = b.s.flow_counters(p.flow).unwrap().srtt_ns;
    assert!(after > before && after < 500 * MS, "{before} then {after} ns");
}

/// Closes a connection from our side; the peer's FIN had timestamp `val`.
fn wait_for_time_wait(b: &mut Bench, val: u32) -> Peer {
    let p = b.accept_with(7, 100, true, true);
    b.s.close(p.flow, Close::Fin);
    b.turn();
    b.segs();
    let f = Fields { seq: p.seq, ack: p.ack.plus(1), flags: ACK | FIN, win: 1000 };
    b.send(&segment(&p.key, &f, &OptBytes::plain(Some(ts(val))), &[]));
    let a = b.one();
    assert_eq!((a.seg.ack, a.opts.ts.unwrap().ecr), (p.seq.plus(1), val));
    assert_eq!(b.s.time_waits(), 1);
    p
}

#[test]
fn a_later_timestamp_takes_the_place_of_one_in_time_wait() {
    let mut b = Bench::new();
    let p = wait_for_time_wait(&mut b, 30);
    let syn = |seq, val| {
        let f = Fields { seq, ack: Seq(0), flags: SYN, win: 9000 };
        segment(&p.key, &f, &OptBytes::syn(1460, true, Some(ts(val)), Some(7)), &[])
    };
    // An old SYN, its number ahead: the timestamp tells. RFC 6191 §2.
    b.send(&syn(p.seq.plus(5000), 29));
    let a = b.one();
    assert_eq!((a.seg.flags, a.seg.ack), (ACK, p.seq.plus(1)));
    assert!(a.opts.ts.is_some_and(|t| t.ecr == 30));
    // A new one, its number behind.
    b.send(&syn(Seq(5), 31));
    let a = b.one();
    assert_eq!((a.seg.flags, a.seg.ack, b.s.counters().time_wait_reused), (SYN | ACK, Seq(6), 1));
}

#[test]
fn time_wait_answers_old_timestamps_and_what_has_none() {
    let mut b = Bench::new();
    let p = wait_for_time_wait(&mut b, 30);
    b.stamped(&p, ACK | FIN, 0, ts(29), b"");
    assert_eq!((b.segs().len(), b.s.counters().paws_rejected), (1, 1));
    b.put(&p, ACK | FIN, p.seq, p.ack, 0, b"");
    assert_eq!(b.one().opts.ts.unwrap().ecr, 30);
    b.stamped(&p, ACK | FIN, 0, ts(33), b"");
    assert_eq!(b.one().opts.ts.unwrap().ecr, 33);
}
