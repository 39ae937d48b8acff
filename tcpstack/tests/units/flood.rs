//! More SYNs than a backlog holds: cookies then and only then, and nobody who is connected notices.

use std::collections::VecDeque;

use crate::common::bench::{Bench, Got, Peer, segment};
use crate::common::{End, MS, SEC, World, config, ip, pattern};
use dataplane::fault::Rng;
use dataplane::mem::MemConfig;
use dataplane::pkt::{Port, TxCsum, TxMeta, TxPkt};
use tcpstack::opts::{OptBytes, Ts};
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{ACK, FIN, Fields, RST, SYN, Seg};
use tcpstack::{Close, CloseWhy, Event, FlowId, Listen, StackConfig};

fn mem() -> MemConfig {
    MemConfig { mtu: 9000, tso_max: 0, csum: false, ..MemConfig::default() }
}

/// A backlog of two, and two who never finish.
fn full(cfg: StackConfig) -> Bench {
    let mut b = Bench::with(cfg, &mem());
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    b.s.listen(Listen { addr: ip(1).into(), port: 989, backlog: 2 }).unwrap();
    for port in [1, 2] {
        b.syn(port, 100);
    }
    assert_eq!((b.segs().len(), b.s.counters().syn_cookies_sent), (2, 0));
    b
}

fn from(port: u16) -> Key {
    Key::new(ip(2).into(), port, ip(1).into(), 988)
}

fn put(b: &mut Bench, key: &Key, flags: u8, seq: Seq, ack: Seq, data: &[u8]) {
    b.send(&segment(key, &Fields { seq, ack, flags, win: 1000 }, &[], data));
}

/// A SYN with an MSS of 1460 and window scale 7, answered with a cookie.
fn cookie(b: &mut Bench, port: u16, seq: u32) -> Seg {
    let before = b.s.counters().syn_cookies_sent;
    b.syn(port, seq);
    assert_eq!(b.s.counters().syn_cookies_sent, before + 1);
    b.one().seg
}

fn opened(b: &mut Bench) -> Option<FlowId> {
    b.events().into_iter().find_map(|e| match e {
        Event::Opened { flow, passive: true, .. } => Some(flow),
        _ => None,
    })
}

#[test]
fn a_full_backlog_answers_with_a_cookie_that_becomes_a_connection() {
    let mut b = full(config(1));
    let sa = cookie(&mut b, 3, 5000);
    assert_eq!(
        (sa.flags, sa.ack, sa.win, sa.hlen),
        (SYN | ACK, Seq(5001), 65_535, 24),
        "MSS is the only option"
    );
    assert_eq!(b.s.flows(), 2, "and nothing is kept");
    b.wait(100 * MS);
    assert_eq!(b.segs().len(), 0, "nor sent again");
    put(&mut b, &from(3), ACK, Seq(5001), sa.seq.plus(1), b"");
    let f = opened(&mut b).unwrap();
    assert_eq!((b.s.flows(), b.s.counters().syn_cookies_accepted, b.s.counters().desync), (3, 1, 0));
    // Both ways, from the first byte on, in segments of the peer's MSS and within its unscaled window.
    b.push(f, 300_000);
    let g = b.segs();
    assert_eq!((g[0].seg.seq, g[0].data.len(), g[0].seg.ack), (sa.seq.plus(1), 1000, Seq(5001)));
    put(&mut b, &from(3), ACK, Seq(5001), sa.seq.plus(1001), b"hello");
    assert_eq!(b.read(f), b"hello");
    // The congestion window opens from one segment, since the SYN-ACK may have been lost, up to the peer's.
    let (mut got, mut most) = (1000, 0);
    while got < 300_000 {
        let f1 = Fields { seq: Seq(5006), ack: sa.seq.plus(1 + got), flags: ACK, win: 60_000 };
        b.send(&segment(&from(3), &f1, &[], &[]));
        let g = b.segs();
        assert!(!g.is_empty() && g.iter().all(|g| g.data.len() <= 1460), "{g:?}");
        let n: u64 = g.iter().map(|g| g.data.len() as u64).sum();
        (got, most) = (got + n, n.max(most));
    }
    assert_eq!((got, most), (300_000, 60_000 / 1460 * 1460), "whole segments");
    b.s.close(f, Close::Abort);
    b.turn();
    assert_eq!(b.segs().last().unwrap().seg.flags & RST, RST);
    // The backlog is as full as it was.
    cookie(&mut b, 4, 1);
}

#[test]
fn the_first_data_may_bring_the_cookie_and_so_may_a_fin() {
    let mut b = full(config(1));
    let sa = cookie(&mut b, 3, u32::MAX - 2);
    put(&mut b, &from(3), ACK, Seq(u32::MAX - 1), sa.seq.plus(1), b"the ACK before was lost");
    let f = opened(&mut b).unwrap();
    assert_eq!(b.read(f), b"the ACK before was lost");
    assert_eq!(b.segs().last().unwrap().seg.ack, Seq(21));
    let sa = cookie(&mut b, 4, 7);
    put(&mut b, &from(4), ACK | FIN, Seq(8), sa.seq.plus(1), b"short");
    let e = b.events();
    let Some(Event::Opened { flow, .. }) = e.first().copied() else { panic!("{e:?}") };
    assert!(e.contains(&Event::PeerFin(flow)));
    assert_eq!((b.read(flow), b.s.counters().desync), (b"short".to_vec(), 0));
    b.s.close(flow, Close::Fin);
    b.turn();
    assert!(b.segs().last().unwrap().seg.has(FIN));
}

#[test]
fn no_cookie_is_looked_at_before_an_overflow_nor_long_after() {
    // Another stack with the same secret makes a cookie that would be good.
    let sa = cookie(&mut full(config(1)), 3, 5000);
    let mut b = Bench::with(config(1), &mem());
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    put(&mut b, &from(3), ACK, Seq(5001), sa.seq.plus(1), b"");
    assert_eq!((b.one().seg.flags & RST, b.s.counters().syn_cookies_failed), (RST, 0));

    let mut b = full(config(1));
    let sa = cookie(&mut b, 3, 5000);
    let other = Key::new(ip(2).into(), 3, ip(1).into(), 989);
    put(&mut b, &other, ACK, Seq(5001), sa.seq.plus(1), b"");
    assert_eq!(
        (b.one().seg.flags & RST, b.s.counters().syn_cookies_failed),
        (RST, 0),
        "the other listener's"
    );
    b.wait(127 * SEC);
    b.segs();
    put(&mut b, &from(9), ACK, Seq(1), Seq(1), b"");
    assert_eq!(b.s.counters().syn_cookies_failed, 1);
    b.wait(SEC);
    put(&mut b, &from(9), ACK, Seq(1), Seq(1), b"");
    assert_eq!(b.s.counters().syn_cookies_failed, 1, "two slots after the last overflow");
}

#[test]
fn a_stale_cookie_gets_a_reset() {
    let mut b = full(config(1));
    let sa = cookie(&mut b, 3, 5000);
    b.wait(127 * SEC);
    for port in [1, 2] {
        b.syn(port, 100);
    }
    b.segs();
    cookie(&mut b, 4, 1); // still in overflow
    put(&mut b, &from(3), ACK, Seq(5001), sa.seq.plus(1), b"");
    assert_eq!((b.one().seg.flags & RST, b.s.counters().syn_cookies_failed), (RST, 1));
}

#[test]
fn forged_acks_leave_nothing_behind() {
    let mut b = full(config(1));
    cookie(&mut b, 3, 5000);
    for i in 0..20_000u32 {
        put(&mut b, &from((i % 60_000) as u16 + 5), ACK, Seq(i), Seq(i.wrapping_mul(0x9E37_79B9)), b"x");
        b.frames();
    }
    let c = b.s.counters();
    assert_eq!((b.s.flows(), c.syn_cookies_failed, c.syn_cookies_accepted), (2, 20_000, 0));
    assert_eq!(c.rst_sent + c.rst_limited, 20_000);
    assert_eq!((b.s.port().rx_out(), b.s.tx_waiting(), b.events().len()), (0, 0, 0));
    // What is right but for one thing is wrong.
    let sa = cookie(&mut b, 4, 5000);
    for (key, seq, ack, flags) in [
        (from(5), 5001, sa.seq.plus(1), ACK),
        (from(4), 5002, sa.seq.plus(1), ACK),
        (from(4), 5001, sa.seq.plus(100), ACK),
        (from(4), 5001, sa.seq.plus(1), RST),
        (from(4), 5001, sa.seq.plus(1), RST | ACK),
    ] {
        put(&mut b, &key, flags, Seq(seq), ack, b"");
        assert_eq!(opened(&mut b), None);
    }
    put(&mut b, &from(4), ACK, Seq(5001), sa.seq.plus(1), b"");
    assert!(opened(&mut b).is_some());
}

#[test]
fn cookies_can_be_refused_and_have_their_limits() {
    let mut b = full(StackConfig { syn_cookies: false, ..config(1) });
    b.syn(3, 1);
    assert_eq!((b.segs().len(), b.s.counters().syn_dropped, b.s.counters().syn_cookies_sent), (0, 1, 0));
    // As many connections as there may be: no cookie, and none is taken.
    let mut b = full(StackConfig { max_flows: 3, ..config(1) });
    let (x, y) = (cookie(&mut b, 3, 1), cookie(&mut b, 4, 1));
    put(&mut b, &from(3), ACK, Seq(2), x.seq.plus(1), b"");
    assert!(opened(&mut b).is_some());
    put(&mut b, &from(4), ACK, Seq(2), y.seq.plus(1), b"");
    assert_eq!((b.one().seg.flags & RST, b.s.flows()), (RST, 3));
    b.syn(5, 1);
    assert_eq!((b.segs().len(), b.s.counters().syn_dropped), (0, 1));
    // An MSS that no cookie can say.
    let mut b = full(config(1));
    b.send(&segment(
        &from(3),
        &Fields { seq: Seq(1), ack: Seq(0), flags: SYN, win: 9 },
        &[2, 4, 0, 200],
        &[],
    ));
    assert_eq!((b.segs().len(), b.s.counters().syn_dropped), (0, 1));
}

#[test]
fn a_place_in_time_wait_is_not_given_away_for_a_cookie() {
    let mut b = Bench::with(config(1), &mem());
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 1 }).unwrap();
    let p = b.accept(1, 100);
    b.s.close(p.flow, Close::Fin);
    b.turn();
    b.put(&p, ACK | FIN, p.seq, p.ack.plus(1), 1000, b"");
    assert_eq!((b.closed(), b.s.time_waits()), (Some(CloseWhy::Fin), 1));
    b.syn(2, 1);
    b.segs();
    b.syn(1, p.seq.0 + 1000);
    assert_eq!((b.segs().len(), b.s.time_waits(), b.s.counters().syn_dropped), (0, 1, 1));
    put(&mut b, &from(2), RST, Seq(2), Seq(0), b"");
    b.syn(1, p.seq.0 + 1000);
    assert_eq!((b.one().seg.flags, b.s.time_waits()), (SYN | ACK, 0), "once there is room");
}

#[test]
fn half_open_connections_age_and_the_syn_ack_is_sent_a_bounded_number_of_times() {
    let mut b = full(config(1));
    b.wait(64 * SEC);
    let (n, c) = (b.segs().len(), b.s.counters());
    assert_eq!((n, b.s.flows(), c.half_open_lost, c.syn_resent), (10, 0, 2, 10), "five times each");
    b.accept(7, 100);
    assert_eq!(b.s.counters().syn_cookies_sent, 0);
}

#[test]
fn answers_to_strangers_leave_room_for_connections() {
    let mem = MemConfig { depth: 1, csum: false, tso_max: 0, mtu: 1500, ..MemConfig::default() };
    let mut b = Bench::with(StackConfig { tx_depth: 16, ..config(1) }, &mem);
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 1 }).unwrap();
    b.syn(1, 1);
    // Nobody reads the wire.
    for port in 2..200 {
        b.inject(&segment(&from(port), &Fields { seq: Seq(1), ack: Seq(0), flags: SYN, win: 9 }, &[], &[]));
        b.s.turn(b.now);
    }
    assert_eq!(b.s.tx_waiting(), 8, "half of the depth at which connections wait");
    assert!(b.s.counters().syn_dropped > 100);
}

/// Puts frames of strangers on the wire from A to B, as a switch would.
fn strangers(w: &mut World, r: &mut Rng, n: u32, flags: u8) {
    let mut q = VecDeque::new();
    let port = w.a.port_mut().inner();
    for _ in 0..n {
        let from = ip(3 + r.below(250) as u8);
        let key = Key::new(from.into(), 1 + r.below(65_535) as u16, ip(2).into(), 988);
        let f = Fields { seq: Seq(r.next_u64() as u32), ack: Seq(r.next_u64() as u32), flags, win: 1000 };
        let mut b = segment(&key, &f, if flags == SYN { &[2, 4, 5, 0xb4] } else { &[] }, &[]);
        b[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
        b[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 99]);
        let mut t = port.tx_alloc().unwrap();
        t.copy_in(&b).unwrap();
        q.push_back(t.finish(TxMeta { csum: TxCsum::Done, ..TxMeta::default() }));
    }
    port.tx_burst(&mut q);
    assert!(q.is_empty());
}

#[test]
fn a_hundred_thousand_syns_do_not_disturb_a_transfer() {
    let mut w = World::plain(&MemConfig::default());
    let mut r = Rng::new(1);
    let (x, y) = (pattern(60 << 20, 1), pattern(5 << 20, 2));
    let (mut a, mut b) = (End::new(x.clone(), y.clone(), 3, false), End::new(y, x, 4, false));
    let (f, g) = w.connect();
    (a.flow, b.flow) = (Some(f), Some(g));
    let mut syns = 0u32;
    for step in 0..1_000_000 {
        assert!(step < 999_999, "no end: {} {} {syns}", a.got, b.got);
        if syns < 100_000 {
            strangers(&mut w, &mut r, 25, SYN);
            strangers(&mut w, &mut r, 5, ACK);
            syns += 25;
        }
        let now = w.now();
        w.a.turn(now);
        a.serve(&mut w.a);
        w.b.turn(now);
        b.serve(&mut w.b);
        let c = w.b.counters();
        assert!(w.b.flows() <= 1 + 16, "backlog and the transfer: {}", w.b.flows());
        if a.done() && b.done() && syns >= 100_000 {
            assert!(c.syn_cookies_sent > 90_000 && c.syn_cookies_failed > 19_000, "{c:?}");
            break;
        }
        let next = w.next_time().unwrap_or(now + 1).min(now + 10_000);
        w.clock.set(next.max(now + 1));
    }
    assert_eq!((a.closed, b.closed), (Some(CloseWhy::Fin), Some(CloseWhy::Fin)));
    assert_eq!((b.got, a.got), (60 << 20, 5 << 20));
    let (ca, cb) = (w.a.counters(), w.b.counters());
    assert_eq!((ca.tx_resent, cb.tx_resent, ca.rto, cb.rto), (0, 0, 0, 0), "the transfer's own resends");
    assert_eq!((ca.desync, cb.desync, cb.syn_cookies_accepted), (0, 0, 0));
    w.run_to(w.now() + 100 * SEC);
    assert_eq!((w.b.flows(), w.b.time_waits(), w.b.counters().half_open_lost), (0, 0, 16));
    a.drop_held();
    b.drop_held();
    a.settle_lendings(&w.a);
    b.settle_lendings(&w.b);
}

/// A SYN with every option, answered with a cookie; then the ACK that brings it back with a timestamp of `val`.
fn cookie_with(b: &mut Bench, port: u16, sack: bool, scale: Option<u8>, val: u32) -> (Got, FlowId) {
    let f = Fields { seq: Seq(5000), ack: Seq(0), flags: SYN, win: 65_535 };
    let o = OptBytes::syn(8960, sack, Some(Ts { val: 70, ecr: 0 }), scale);
    b.send(&segment(&from(port), &f, &o, &[]));
    let sa = b.one();
    let ts = Ts { val, ecr: sa.opts.ts.unwrap().val };
    let f = Fields { seq: Seq(5001), ack: sa.seg.seq.plus(1), flags: ACK, win: 1000 };
    b.send(&segment(&from(port), &f, &OptBytes::plain(Some(ts)), &[]));
    let f = opened(b).unwrap();
    (sa, f)
}

#[test]
fn scale_sack_and_timestamps_survive_a_cookie_in_the_timestamp() {
    let mut b = full(config(1));
    let mut port = 10;
    for (sack, scale) in [(true, Some(7)), (false, Some(0)), (true, None), (false, None), (true, Some(14))] {
        port += 1;
        b.wait(37 * MS);
        let (sa, f) = cookie_with(&mut b, port, sack, scale, 71);
        let o = &sa.opts;
        assert_eq!(
            (o.mss, o.sack_permitted, o.scale),
            (Some(8960), sack, scale.map(|_| 9)),
            "what was offered"
        );
        assert_eq!(o.ts.map(|t| t.ecr), Some(70));
        assert_eq!(b.s.flow_counters(f).unwrap().peer_window, 1000 << scale.unwrap_or(0));
        b.push(f, 900);
        let g = b.one();
        let t = g.opts.ts.unwrap();
        assert_eq!((g.data.len(), t.ecr), (900, 71));
        assert!(t.val.wrapping_sub(o.ts.unwrap().val) < 64 + 1, "timestamps do not go back");
        let window = u64::from(g.seg.win) << o.scale.unwrap_or(0);
        assert_eq!(
            window,
            if scale.is_some() { 65_535 - 511 } else { 65_535 },
            "what the SYN offered, rounded"
        );
    }
    assert_eq!((b.s.counters().desync, b.s.counters().syn_cookies_accepted), (0, 5));
}

#[test]
fn paws_holds_on_a_connection_that_began_with_a_cookie() {
    let mut b = full(config(1));
    let (sa, f) = cookie_with(&mut b, 3, true, Some(7), 1000);
    let p = Peer { flow: f, key: from(3), seq: Seq(5001), ack: sa.seg.seq.plus(1) };
    b.stamped(&p, ACK, 0, Ts { val: 999, ecr: 0 }, b"old");
    assert_eq!((b.read(f).len(), b.s.counters().paws_rejected), (0, 1));
    b.stamped(&p, ACK, 0, Ts { val: 1001, ecr: 0 }, b"new");
    assert_eq!(b.read(f), b"new");
}

#[test]
fn without_timestamps_of_ours_a_cookie_carries_nothing_but_the_mss() {
    let mut b = full(StackConfig { timestamps: false, ..config(1) });
    let f = Fields { seq: Seq(5000), ack: Seq(0), flags: SYN, win: 65_535 };
    let o = OptBytes::syn(8960, true, Some(Ts { val: 70, ecr: 0 }), Some(7));
    b.send(&segment(&from(3), &f, &o, &[]));
    let o = b.one().opts;
    assert_eq!((o.mss, o.scale, o.sack_permitted, o.ts), (Some(8960), None, false, None));
}
