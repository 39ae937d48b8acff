//! Receive memory is shared by host: many connections of one that nobody reads leave others what one connection would.

use std::net::{IpAddr, Ipv6Addr};

use crate::common::bench::{Bench, Peer, segment};
use crate::common::{MS, config, ip};
use dataplane::mem::MemConfig;
use dataplane::pkt::Port;
use tcpstack::addr::Addr;
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{ACK, Fields, RST};
use tcpstack::{Close, Event, Listen, StackConfig};

const MSS: usize = 1400;
const BUFS: u64 = 1024;
/// Buffers of the reserve.
const RESERVE: u64 = BUFS / 8;
/// The port is asked after each burst.
const BURST: u64 = dataplane::pkt::RX_BURST as u64;

/// Host `n` of the family.
fn host(v6: bool, n: u8) -> IpAddr {
    if v6 { Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into() } else { ip(n).into() }
}

/// A stack with addresses of both families.
fn bench(cfg: StackConfig) -> Bench {
    let addrs = vec![(host(false, 1), 24), (host(true, 1), 64)];
    let mem = MemConfig {
        mtu: 1500,
        tso_max: 0,
        csum: false,
        depth: 4096,
        rx_bufs: BUFS as usize,
        ..MemConfig::default()
    };
    let mut b = Bench::with(StackConfig { addrs, ..cfg }, &mem);
    for v6 in [false, true] {
        b.s.listen(Listen { addr: host(v6, 1), port: 988, backlog: 4 }).unwrap();
    }
    b
}

fn join(b: &mut Bench, from: IpAddr, port: u16) -> Peer {
    let key = Key::new(Addr::from(from), port, Addr::from(host(from.is_ipv6(), 1)), 988);
    b.events();
    b.accept_of(key, 100)
}

/// Sends as many segments as the window takes, `most` at most; returns their bytes.
fn burst(b: &mut Bench, p: &mut Peer, most: usize) -> usize {
    let took = b.s.connection(p.flow).unwrap().bytes_received.unwrap();
    let window = b.s.connection(p.flow).unwrap().rcv_wnd.unwrap() as usize;
    let n = (window / MSS).min(most);
    // Segments that were not taken come again.
    p.seq = Seq(101).plus(took);
    for _ in 0..n {
        let f = Fields { seq: p.seq, ack: p.ack, flags: ACK, win: 1000 };
        b.inject(&segment(&p.key, &f, &[], &[7; MSS]));
        p.seq = p.seq.plus(MSS as u64);
    }
    b.turn();
    n * MSS
}

/// Each sends what its window takes until nothing more is taken.
fn press(b: &mut Bench, all: &mut [Peer]) {
    for _ in 0..4 {
        for p in all.iter_mut() {
            burst(b, p, 64);
        }
        b.frames();
        b.now += MS;
    }
}

/// Buffers in use.
fn used(b: &Bench) -> u64 {
    let (free, all) = b.s.port().rx_memory();
    (all - free) * BUFS / all
}

/// Runs a transfer that is read, and holds the least that was sent in a round of a window, in segments, to what carries bulk. The window of its SYN
/// was offered whatever there is, so that is used in small rounds first.
fn bulk(b: &mut Bench, p: &mut Peer, rounds: usize) {
    let lost = b.s.counters().rx_overflow;
    let mut least = usize::MAX;
    for round in 0..rounds + 30 {
        let n = burst(b, p, if round < 30 { 2 } else { 1000 });
        assert_eq!(b.read(p.flow).len(), n, "round {round}");
        b.turn();
        b.frames();
        b.now += MS;
        if round >= 30 {
            least = least.min(n / MSS);
        }
    }
    assert_eq!(b.s.counters().rx_overflow, lost, "nothing was sent twice");
    assert!(least >= 10, "{least} segments a round trip");
}

#[test]
fn many_connections_of_one_host_leave_others_a_window_that_carries_bulk() {
    for (bad, good) in [(false, false), (true, true), (false, true), (true, false)] {
        for conns in [1, 20, 150] {
            let mut b = bench(config(1));
            let mut early = join(&mut b, host(good, 3), 1);
            let mut all: Vec<_> = (1..=conns).map(|n| join(&mut b, host(bad, 2), n)).collect();
            press(&mut b, &mut all);
            // Their share, and beyond it first segments of connections that had nothing.
            let (share, most) = ((BUFS - RESERVE) * 4 / 5, (BUFS - RESERVE) * 8 / 9);
            assert!(used(&b) <= most + BURST, "{conns}: {} of {BUFS} buffers in use", used(&b));
            assert!(
                conns < 20 || used(&b) >= share - BURST,
                "{conns}: {} of {BUFS} buffers in use",
                used(&b)
            );
            bulk(&mut b, &mut early, 20);
            let mut late = join(&mut b, host(good, 4), 1);
            bulk(&mut b, &mut late, 20);
        }
    }
}

/// Windows that were offered while their host held little, and have been silent since, are filled all at once.
#[test]
fn windows_of_silent_connections_are_no_way_around_the_share() {
    let mut b = bench(config(1));
    let mut all: Vec<_> = (1..=60).map(|n| join(&mut b, host(false, 2), n)).collect();
    for p in &mut all {
        // A little that is read, so that a window is offered that is larger than the SYN's.
        burst(&mut b, p, 4);
        b.read(p.flow);
        b.turn();
        b.wait(300 * MS);
    }
    let offered: u64 = all.iter().map(|p| b.s.connection(p.flow).unwrap().rcv_wnd.unwrap()).sum();
    assert!(offered / MSS as u64 > 4 * BUFS, "{offered}");
    press(&mut b, &mut all);
    assert!(used(&b) <= (BUFS - RESERVE) * 8 / 9 + BURST, "{} of {BUFS} buffers in use", used(&b));
    let mut good = join(&mut b, host(false, 3), 1);
    bulk(&mut b, &mut good, 20);
}

#[test]
fn each_further_host_leaves_a_fifth_of_the_rest_at_the_least() {
    let mut b = bench(config(1));
    let mut free = BUFS - RESERVE;
    for n in 2..6 {
        let mut all: Vec<_> = (1..=30).map(|i| join(&mut b, host(n % 2 == 0, n), i)).collect();
        press(&mut b, &mut all);
        let left = BUFS - RESERVE - used(&b);
        assert!(left + BURST >= free / 5, "{left} of {free} buffers are left by host {n}");
        free = left;
        let mut good = join(&mut b, host(false, 90 + n), 1);
        // A host that comes then goes on, if by single segments.
        for _ in 0..30 {
            burst(&mut b, &mut good, 2);
            assert!(b.read(good.flow).len() >= MSS, "after {n}");
            b.turn();
            b.frames();
            b.now += MS;
        }
    }
}

/// Connections that are reset, aborted, and closed with bytes unread; and one that is read out.
#[test]
fn a_share_is_given_back_with_the_connection() {
    let mut b = bench(config(1));
    let mut all: Vec<_> = (1..=40).map(|n| join(&mut b, host(false, 2), n)).collect();
    press(&mut b, &mut all);
    let full = used(&b);
    // Its host has its share: a further connection has a first segment at most.
    let mut more = join(&mut b, host(false, 2), 100);
    burst(&mut b, &mut more, 8);
    assert!(b.read(more.flow).len() <= MSS);
    for (i, p) in all.iter().enumerate() {
        match i % 4 {
            0 => b.s.close(p.flow, Close::Abort),
            1 => b.s.close(p.flow, Close::Both),
            2 => drop(b.read(p.flow)),
            // Bytes before the peer's end are for the reader, who has gone by now.
            _ => {
                let took = b.s.connection(p.flow).unwrap().bytes_received.unwrap();
                let f = Fields { seq: Seq(101).plus(took), ack: p.ack, flags: RST, win: 0 };
                b.send(&segment(&p.key, &f, &[], &[]));
                b.s.close(p.flow, Close::Abort);
            }
        }
    }
    b.turn();
    b.frames();
    assert!(full > 100 && used(&b) == 0, "{} of {full}", used(&b));
    assert!(b.events().iter().any(|e| matches!(e, Event::Closed { .. })));
    b.wait(300 * MS);
    // Its host has its share again.
    bulk(&mut b, &mut more, 20);
}

/// The budget is that of a single connection: hosts share it as they do a pool.
#[test]
fn a_budget_is_shared_like_the_pool() {
    let all = bench(config(1)).s.port().rx_memory().1;
    let mut b = bench(StackConfig { rx_budget: all / 4, ..config(1) });
    let mut bad: Vec<_> = (1..=60).map(|n| join(&mut b, host(false, 2), n)).collect();
    press(&mut b, &mut bad);
    assert!(used(&b) <= BUFS / 5 + BURST, "{} of {BUFS} buffers in use", used(&b));
    let mut good = join(&mut b, host(false, 3), 1);
    bulk(&mut b, &mut good, 20);
}

/// A host has more than its share, and one of its connections waits for a segment: what is behind that makes room for it.
#[test]
fn what_fills_a_gap_takes_the_place_of_what_is_behind_it() {
    let mut b = bench(config(1));
    let from = host(false, 2);
    let gap = join(&mut b, from, 1000);
    let data: Vec<u8> = (0..46 * MSS).map(|i| (i / 7) as u8).collect();
    let part = |i: usize| &data[i * MSS..][..MSS];
    let send = |b: &mut Bench, i: usize| {
        let f = Fields { seq: gap.seq.plus((i * MSS) as u64), ack: gap.ack, flags: ACK, win: 1000 };
        b.send(&segment(&gap.key, &f, &[], part(i)));
    };
    (1..46).for_each(|i| send(&mut b, i));
    b.frames();
    let behind = |b: &Bench| b.s.connection(gap.flow).unwrap().out_of_order_bytes.unwrap();
    assert!(behind(&b) > 0);
    let mut all: Vec<_> = (1..=900).map(|n| join(&mut b, from, n)).collect();
    for p in &mut all {
        burst(&mut b, p, 1);
    }
    b.frames();
    let (before, lost) = (used(&b), b.s.counters().rx_overflow);
    assert!(before >= (BUFS - RESERVE) * 4 / 5 && lost > 50, "{before} in use, {lost} lost");
    send(&mut b, 0);
    assert_eq!((behind(&b), b.s.counters().rx_overflow), (0, lost));
    assert!(used(&b) < before);
    let mut got = b.read(gap.flow);
    for i in 1..46 {
        send(&mut b, i);
        got.extend(b.read(gap.flow));
    }
    assert!(got == data, "{} of {} bytes", got.len(), data.len());
}
