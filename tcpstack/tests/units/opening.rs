//! Connections that begin, and those that do not: hand-made segments against one stack.

use crate::common::bench::{Bench, dial, segment};
use crate::common::{MS, SEC, addr, config, ip};
use dataplane::mem::MemConfig;
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{ACK, Fields, RST, SYN};
use tcpstack::{CloseWhy, Dial, DialError, Event, Listen, StackConfig};

#[test]
fn half_open_connections_are_limited_and_the_rest_still_get_in_later() {
    let mem = MemConfig { csum: false, tso_max: 0, ..MemConfig::default() };
    let mut b = Bench::with(StackConfig { syn_cookies: false, ..config(1) }, &mem);
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    for port in 1..=5 {
        b.syn(port, 100);
    }
    assert_eq!((b.segs().len(), b.s.counters().syn_dropped, b.s.flows()), (2, 3, 2));
    assert!(b.events().is_empty(), "nobody hears of half-open connections");
    b.wait(200 * SEC);
    assert_eq!((b.s.flows(), b.s.counters().half_open_lost), (0, 2));
    assert!(b.events().is_empty());
    b.segs();
    b.accept(9, 100);
}

#[test]
fn syn_ack_is_sent_again_and_a_repeated_syn_gets_it_at_once() {
    let mut b = Bench::new();
    b.syn(1, 100);
    let first = b.one().seg;
    b.wait(1100 * MS);
    assert_eq!(b.one().seg, first);
    b.syn(1, 100);
    assert_eq!(b.one().seg, first);
    assert_eq!(b.s.flows(), 1);
}

#[test]
fn a_reset_of_a_half_open_connection_reaps_it() {
    let mut b = Bench::new();
    b.syn(1, 100);
    let key = Key::new(ip(2).into(), 1, ip(1).into(), 988);
    b.send(&segment(&key, &Fields { seq: Seq(101), ack: Seq(0), flags: RST, win: 0 }, &[], &[]));
    assert_eq!((b.s.flows(), b.s.counters().half_open_lost), (0, 1));
    assert!(b.events().is_empty());
}

#[test]
fn a_syn_waits_for_arp_and_is_sent_again_until_it_times_out() {
    let mut b = Bench::new();
    let (f, syn) = dial(&mut b);
    for _ in 0..6 {
        b.wait(64 * SEC);
        assert!(b.segs().iter().all(|g| g.seg == syn));
    }
    assert_eq!(b.events(), [Event::Closed { flow: f, why: CloseWhy::Timeout }]);
    assert_eq!(b.s.counters().syn_resent, 6);
}

#[test]
fn nobody_answers_arp() {
    let mut b = Bench::new();
    let f = b.s.dial(b.now, Dial { local: addr(1, 1023), remote: addr(77, 988) }).unwrap();
    b.wait(5 * SEC);
    assert_eq!(b.events(), [Event::Closed { flow: f, why: CloseWhy::Unresolved }]);
    assert_eq!((b.s.counters().arp_requests, b.segs().len(), b.s.flows()), (3, 0, 0));
}

#[test]
fn refused_by_a_reset_that_acknowledges_the_syn_and_by_no_other() {
    let mut b = Bench::new();
    let (f, syn) = dial(&mut b);
    let key = Key::new(ip(2).into(), 988, ip(1).into(), 1023);
    for (flags, ack) in [(RST, Seq(0)), (RST | ACK, syn.seq), (RST | ACK, syn.seq.plus(2))] {
        b.send(&segment(&key, &Fields { seq: Seq(0), ack, flags, win: 0 }, &[], &[]));
        assert_eq!(b.closed(), None);
    }
    b.send(&segment(&key, &Fields { seq: Seq(0), ack: syn.seq.plus(1), flags: RST | ACK, win: 0 }, &[], &[]));
    assert_eq!(b.events(), [Event::Closed { flow: f, why: CloseWhy::Refused }]);
}

#[test]
fn a_challenge_to_our_syn_is_answered_with_a_reset_and_the_syn_comes_again_soon() {
    let mut b = Bench::new();
    let (_, syn) = dial(&mut b);
    let key = Key::new(ip(2).into(), 988, ip(1).into(), 1023);
    b.send(&segment(&key, &Fields { seq: Seq(7), ack: Seq(999), flags: ACK, win: 0 }, &[], &[]));
    let r = b.one().seg;
    assert_eq!((r.flags & RST, r.seq), (RST, Seq(999)));
    b.wait(2 * MS);
    assert_eq!(b.one().seg, syn);
}

#[test]
fn both_ends_may_dial_at_once() {
    let mut b = Bench::new();
    let (f, syn) = dial(&mut b);
    let key = Key::new(ip(2).into(), 988, ip(1).into(), 1023);
    let opts = [2, 4, 5, 0xb4, 1, 3, 3, 7];
    b.send(&segment(&key, &Fields { seq: Seq(500), ack: Seq(0), flags: SYN, win: 9000 }, &opts, &[]));
    let sa = b.one().seg;
    assert_eq!((sa.flags, sa.seq, sa.ack), (SYN | ACK, syn.seq, Seq(501)));
    b.send(&segment(
        &key,
        &Fields { seq: Seq(500), ack: syn.seq.plus(1), flags: SYN | ACK, win: 9000 },
        &opts,
        &[],
    ));
    assert!(matches!(b.events()[..], [Event::Opened { flow, passive: false, .. }] if flow == f));
    b.push(f, 100);
    assert_eq!(b.segs().last().unwrap().data.len(), 100);
    assert_eq!(b.s.counters().desync, 0);
}

#[test]
fn dialling_what_cannot_be_dialled_says_why() {
    let mut b = Bench::new();
    let d = |l, r| Dial { local: l, remote: r };
    let mut e = |d| b.s.dial(1, d).unwrap_err();
    assert_eq!(e(d(addr(3, 1), addr(2, 1))), DialError::NotOurs(ip(3).into()));
    assert_eq!(e(d(addr(1, 1), addr(1, 1))), DialError::BadPeer(addr(1, 1)));
    assert_eq!(e(d(addr(1, 1), ([224, 0, 0, 1], 1).into())), DialError::BadPeer(([224, 0, 0, 1], 1).into()));
    assert_eq!(e(d(addr(1, 1), ([10, 9, 0, 1], 1).into())), DialError::NoRoute([10, 9, 0, 1].into()));
    b.s.dial(1, d(addr(1, 1), addr(2, 1))).unwrap();
    assert_eq!(b.s.dial(1, d(addr(1, 1), addr(2, 1))), Err(DialError::InUse(1)));
}
