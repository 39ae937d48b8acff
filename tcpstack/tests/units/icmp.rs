//! ICMP errors: which are believed, and what they do (RFC 5927, RFC 1122 §4.2.3.9).

use std::net::Ipv6Addr;

use crate::common::bench::{Bench, dial, icmp_error, segment};
use crate::common::{SEC, config, ip};
use dataplane::mem::MemConfig;
use tcpstack::addr::Addr;
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{ACK, Fields, SYN};
use tcpstack::{CloseWhy, Dial, StackConfig};

/// A packet of the stack's on connection `k`, seen from it, as a router would have seen it.
fn ours(k: &Key, seq: Seq, len: usize) -> Vec<u8> {
    segment(k, &Fields { seq, ack: Seq(1), flags: ACK, win: 1 }, &[], &vec![0; len])
}

fn key4() -> Key {
    Key::new(ip(1).into(), 1023, ip(2).into(), 988)
}

fn counts(b: &Bench) -> (u64, u64) {
    let c = b.s.counters();
    (c.icmp_errors, c.icmp_errors_ignored)
}

#[test]
fn a_dial_is_ended_by_what_is_final_and_by_nothing_else() {
    for (t, code, want) in [
        (3, 3, Some(CloseWhy::Refused)),
        (3, 2, Some(CloseWhy::Refused)),
        (3, 13, Some(CloseWhy::Unreachable)),
        (3, 0, None),
        (3, 1, None),
        (11, 0, None),
        (3, 4, None),
        (4, 0, None),
    ] {
        let mut b = Bench::new();
        let (_, syn) = dial(&mut b);
        // Not about our SYN.
        b.send(&icmp_error(&ours(&key4(), syn.seq.plus(1), 0), t, code, [0; 4]));
        assert_eq!((b.closed(), counts(&b)), (None, (0, 1)), "{t}/{code}");
        b.send(&icmp_error(&ours(&key4(), syn.seq, 0), t, code, [0; 4]));
        assert_eq!(b.closed(), want, "{t}/{code}");
        let heeded = u64::from((t, code) != (3, 4) && t != 4);
        assert_eq!(counts(&b), (heeded, 2 - heeded), "{t}/{code}");
        assert_eq!(b.s.flows(), u32::from(want.is_none()));
    }
}

#[test]
fn a_dial_that_runs_out_says_what_the_network_said() {
    for told in [false, true] {
        let mut b = Bench::with(
            StackConfig { syn_retries: 1, ..config(1) },
            &MemConfig { mtu: 1500, tso_max: 0, csum: false, ..MemConfig::default() },
        );
        let (_, syn) = dial(&mut b);
        if told {
            b.send(&icmp_error(&ours(&key4(), syn.seq, 0), 3, 1, [0; 4]));
        }
        b.wait(10 * SEC);
        assert_eq!(b.closed(), Some(if told { CloseWhy::Unreachable } else { CloseWhy::Timeout }));
    }
}

#[test]
fn an_open_connection_survives_and_remembers() {
    // What is quoted, and whether it counts: within what is out or not.
    for (off, heeded) in [(0, 1), (99, 1), (100, 1), (101, 0), (-1, 0), (1 << 30, 0)] {
        let mut b = Bench::new();
        let p = b.accept(7, 100);
        b.push(p.flow, 100);
        b.segs();
        let k = Key::new(p.key.remote, 988, p.key.local, 7);
        let seq = Seq(p.ack.0.wrapping_add(off as u32));
        b.send(&icmp_error(&ours(&k, seq, 100), 3, 3, [0; 4]));
        assert_eq!((b.closed(), counts(&b)), (None, (heeded, 1 - heeded)), "offset {off}");
        b.wait(200 * SEC);
        let want = if heeded == 1 { CloseWhy::Unreachable } else { CloseWhy::Timeout };
        assert_eq!(b.closed(), Some(want), "offset {off}");
    }
}

#[test]
fn a_peer_that_answers_makes_it_forgotten() {
    let mut b = Bench::new();
    let p = b.accept(7, 100);
    b.push(p.flow, 100);
    b.segs();
    let k = Key::new(p.key.remote, 988, p.key.local, 7);
    b.send(&icmp_error(&ours(&k, p.ack, 100), 3, 1, [0; 4]));
    b.put(&p, ACK, p.seq, p.ack.plus(100), 1000, b"");
    b.push(p.flow, 100);
    b.wait(200 * SEC);
    assert_eq!(b.closed(), Some(CloseWhy::Timeout));
}

#[test]
fn of_ipv6_too() {
    let six = |n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n);
    let a = |n| Addr::from(six(n));
    for (t, code, want) in
        [(1, 4, Some(CloseWhy::Refused)), (1, 1, Some(CloseWhy::Unreachable)), (1, 0, None), (3, 0, None)]
    {
        let cfg = StackConfig { addrs: vec![(six(1).into(), 64)], ..config(1) };
        let mut b =
            Bench::with(cfg, &MemConfig { mtu: 1500, tso_max: 0, csum: false, ..MemConfig::default() });
        // Its question tells where it is.
        let ask = tcpstack::nd::Packet::solicit(a(2), a(1), None);
        let mut f = [0; tcpstack::nd::FRAME_MAX];
        let n = ask.frame(crate::common::bench::PEER_MAC, None, None, &mut f);
        b.send(&f[..n]);
        b.frames();
        b.s.dial(b.now, Dial { local: (six(1), 5).into(), remote: (six(2), 988).into() }).unwrap();
        b.turn();
        let syn = b.frames().remove(0);
        let good = icmp_error(&syn, t, code, [0; 4]);
        let mut bad = good.clone();
        bad[60] ^= 1;
        b.send(&bad);
        assert_eq!((b.closed(), b.s.counters().rx_bad_csum), (None, 1));
        b.send(&good);
        assert_eq!((b.closed(), counts(&b)), (want, (1, 0)), "{t}/{code}");
    }
}

#[test]
fn what_is_about_nothing_of_ours_is_counted_and_costs_a_bounded_amount() {
    let mut b = Bench::new();
    let (f, syn) = dial(&mut b);
    let key = Key::new(ip(2).into(), 988, ip(1).into(), 1023);
    let sa = Fields { seq: Seq(9), ack: syn.seq.plus(1), flags: SYN | ACK, win: 1000 };
    b.send(&segment(&key, &sa, &[2, 4, 5, 0xb4], &[]));
    b.push(f, 100);
    b.frames();
    let good = icmp_error(&ours(&key4(), syn.seq.plus(1), 100), 3, 1, [0; 4]);
    let other = Key::new(ip(1).into(), 1023, ip(3).into(), 988);
    b.send(&icmp_error(&ours(&other, syn.seq.plus(1), 100), 3, 1, [0; 4]));
    b.send(&icmp_error(&ours(&key4(), syn.seq.plus(1), 100), 5, 1, [10, 0, 0, 9]));
    let mut bad = good.clone();
    bad[40] ^= 1;
    b.send(&bad);
    assert_eq!((counts(&b), b.s.counters().rx_bad_csum), ((0, 2), 1));
    for _ in 0..1000 {
        b.send(&good);
    }
    let (heeded, ignored) = counts(&b);
    assert!(heeded <= 200 && heeded + ignored == 1002, "{heeded} {ignored}");
}
