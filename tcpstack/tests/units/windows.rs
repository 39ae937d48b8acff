//! The receive window: it starts small, grows as it is read, never moves back, follows the memory that is there, and
//! is fair; tiny segments and slow readers cannot take the pool from others.

use std::collections::VecDeque;

use crate::common::bench::{Bench, Peer, segment};
use crate::common::{MS, World, config, ip, pattern};
use dataplane::fault::Faults;
use dataplane::mem::MemConfig;
use dataplane::pkt::Port;
use tcpstack::opts::Ts;
use tcpstack::seq::Seq;
use tcpstack::wire::{ACK, Fields};
use tcpstack::{FlowId, Listen, StackConfig};

fn mem(mtu: u16, rx_bufs: usize) -> MemConfig {
    MemConfig { mtu, tso_max: 0, csum: false, rx_bufs, depth: 8192, ..MemConfig::default() }
}

fn bench(cfg: StackConfig, mem: &MemConfig) -> Bench {
    let mut b = Bench::with(cfg, mem);
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 64 }).unwrap();
    b
}

/// The window that the peer was last offered, and the highest right edge that any segment offered.
#[derive(Default)]
struct Offered {
    ack: u32,
    window: u64,
    edge: u64,
}

impl Offered {
    /// Reads what the stack sent; the edge must not have moved back by more than the field's rounding.
    fn read(&mut self, b: &mut Bench, p: &Peer) {
        for g in b.segs().iter().filter(|g| g.seg.key == p.key) {
            let ack = g.seg.ack.since(Seq(101)) as u32;
            let scale = b.s.connection(p.flow).unwrap().rcv_wscale.unwrap();
            self.window = u64::from(g.seg.win) << scale;
            (self.ack, self.edge) = (ack, {
                let edge = u64::from(ack) + self.window;
                assert!(edge + (1 << scale) > self.edge, "{edge} after {}", self.edge);
                edge.max(self.edge)
            });
        }
    }
}

/// Sends `n` bytes of the peer's in full segments, as one burst.
fn burst(b: &mut Bench, p: &mut Peer, n: usize, mss: usize) {
    let mut left = n;
    while left > 0 {
        let k = left.min(mss);
        let f = Fields { seq: p.seq, ack: p.ack, flags: ACK, win: 1000 };
        b.inject(&segment(&p.key, &f, &[], &vec![7; k]));
        p.seq = p.seq.plus(k as u64);
        left -= k;
    }
    b.turn();
}

#[test]
fn the_window_grows_by_what_is_read_in_a_round_trip_up_to_its_limit() {
    let mut b = bench(config(1), &mem(9000, 8192));
    let mut p = b.accept(1, 100);
    let mut o = Offered::default();
    let mut sizes = vec![];
    // The peer fills the window each ms.
    for _ in 0..8 {
        let n = b.s.connection(p.flow).unwrap().rcv_wnd.unwrap() as usize;
        burst(&mut b, &mut p, n, 8960);
        b.now += MS;
        b.turn();
        b.read(p.flow);
        b.turn();
        o.read(&mut b, &p);
        sizes.push(o.window >> 10);
    }
    assert!(sizes.is_sorted() && sizes[1] > 2 * 256 && sizes[7] == 16_383, "{sizes:?} KiB");
    assert_eq!((b.s.counters().rx_overflow, b.s.counters().desync, b.s.counters().window_starved), (0, 0, 0));
}

#[test]
fn a_reader_that_does_not_read_gets_no_more_than_the_first_window() {
    let mut b = bench(config(1), &mem(9000, 8192));
    let mut p = b.accept(1, 100);
    let mut o = Offered::default();
    for _ in 0..100 {
        let n = b.s.connection(p.flow).unwrap().rcv_wnd.unwrap();
        burst(&mut b, &mut p, (n as usize).min(30_000), 8960);
        b.now += MS;
        o.read(&mut b, &p);
    }
    assert_eq!((o.edge, o.window), (256 << 10, 0));
    b.wait(50 * MS);
    assert!(b.s.connection(p.flow).unwrap().rcv_zero_window_ns.unwrap() >= 50 * MS);
    assert_eq!(b.read(p.flow).len(), 256 << 10);
    b.turn();
    o.read(&mut b, &p);
    assert!(o.window > 128 << 10, "{}", o.window);
}

#[test]
fn the_round_trip_of_a_connection_that_only_receives_is_its_own_timestamps() {
    // The handshake took no time at all, so the sender's estimate would close each round at once.
    let mut b = bench(config(1), &mem(9000, 8192));
    let mut p = b.accept_with(1, 100, true, true);
    let mut sent = VecDeque::new();
    let mut window = 0;
    for round in 0..20u32 {
        let w = b.s.connection(p.flow).unwrap().rcv_wnd.unwrap() as usize;
        // A window each 5 ms, in fifty pieces 100 µs apart, echoing what was current 5 ms ago.
        for _ in 0..50 {
            let mut left = w / 50;
            while left > 0 {
                let k = left.min(8900);
                let ecr = sent.front().copied().unwrap_or(0);
                b.stamped(&p, ACK, 0, Ts { val: 2 + round, ecr }, &vec![1; k]);
                p.seq = p.seq.plus(k as u64);
                left -= k;
            }
            let last = sent.back().copied().unwrap_or(0);
            sent.push_back(b.segs().last().and_then(|g| g.opts.ts).map_or(last, |t| t.val));
            sent.drain(..sent.len().saturating_sub(50));
            b.now += MS / 10;
            b.turn();
            b.read(p.flow);
            b.turn();
        }
        window = w;
    }
    assert!(window > 4 << 20, "{window} after 20 round trips of 5 ms");
}

#[test]
fn under_pressure_windows_close_nothing_is_lost_and_everything_resumes() {
    let mut b = bench(config(1), &mem(9000, 160));
    let mut peers: Vec<_> = (1..=8).map(|i| b.accept(i, 100)).collect();
    let mut offered: Vec<_> = peers.iter().map(|_| Offered::default()).collect();
    let got = |b: &Bench, p: &Peer| b.s.flow_counters(p.flow).unwrap().rx_bytes;
    // Everyone sends what it is offered; at first nobody reads, then each a little at a time.
    let mut before = vec![];
    for round in 0..1000 {
        if round == 100 {
            before = peers.iter().map(|p| got(&b, p)).collect();
            assert!(b.s.counters().window_starved >= 4);
            let shut: Vec<_> = offered.iter().map(|o| (o.window, o.edge)).collect();
            assert!(shut.iter().filter(|o| o.0 < 8960).count() == 8, "{shut:?}");
        }
        for (p, o) in peers.iter_mut().zip(&mut offered) {
            let n = b.s.connection(p.flow).unwrap().rcv_wnd.unwrap() as usize;
            burst(&mut b, p, (n / 8960).min(2) * 8960, 8960);
            if round >= 100
                && let Some(x) = b.s.next(p.flow)
            {
                b.s.credit(p.flow, x.len());
            }
            b.turn();
            o.read(&mut b, p);
        }
        b.now += MS;
        let (free, all) = b.s.port().rx_memory();
        assert!(free * 16 >= all, "round {round}: {free} of {all} left");
    }
    let read: Vec<u64> = peers.iter().zip(before).map(|(p, n)| got(&b, p) - n).collect();
    let (least, most) = (*read.iter().min().unwrap(), *read.iter().max().unwrap());
    assert!(least * 2 > most && least > 2 << 20, "fair: {read:?}");
    // All of them read everything: all windows open again, by themselves.
    for p in &peers {
        b.read(p.flow);
    }
    b.wait(300 * MS);
    for p in &mut peers {
        assert!(b.s.connection(p.flow).unwrap().rcv_wnd.unwrap() > 50_000);
        burst(&mut b, p, 50_000, 8960);
        assert_eq!(b.read(p.flow).len(), 50_000);
    }
    let c = b.s.counters();
    assert_eq!((b.s.port().rx_out(), c.rx_overflow, c.rx_beyond_window, c.desync), (0, 0, 0, 0));
}

#[test]
fn the_budget_bounds_what_all_connections_hold() {
    let budget = 500_000;
    let mut b = bench(StackConfig { rx_budget: budget, ..config(1) }, &mem(9000, 2048));
    let mut peers: Vec<_> = (1..=4).map(|i| b.accept(i, 100)).collect();
    for _ in 0..40 {
        for p in &mut peers {
            let n = b.s.connection(p.flow).unwrap().rcv_wnd.unwrap() as usize;
            burst(&mut b, p, n.min(20_000), 8960);
        }
    }
    let (free, all) = b.s.port().rx_memory();
    // What a handshake promises (64 KiB each, RFC 9293 §3.8.6: never taken back) may go beyond.
    assert!(all - free <= budget + 4 * 80_000, "{} in use", all - free);
    assert!(b.s.counters().window_starved >= 4);
}

/// A peer that sends one byte in each segment, in order or with gaps, and never more than it was offered.
fn tiny(cfg: StackConfig, peers: u16, gap: u64) {
    let mut b = bench(cfg, &mem(9000, 512));
    let good = b.accept(900, 100);
    let mut bad: Vec<_> = (1..=peers).map(|i| b.accept(i, 100)).collect();
    for round in 0..5000u64 {
        for p in &mut bad {
            let c = b.s.connection(p.flow).unwrap();
            if gap == 1 {
                // Segments that were not taken come again.
                p.seq = Seq(101).plus(c.bytes_received.unwrap());
            }
            let off = if gap == 1 { 0 } else { (round + 1) * gap };
            if off >= c.rcv_wnd.unwrap() {
                continue;
            }
            let f = Fields { seq: p.seq.plus(off), ack: p.ack, flags: ACK, win: 1000 };
            b.inject(&segment(&p.key, &f, &[], b"x"));
        }
        b.turn();
        b.frames();
        let (free, all) = b.s.port().rx_memory();
        assert!(free * 20 > all, "round {round}: {free} of {all} bytes left");
    }
    // The others go on as if nothing were.
    let (mut good, mut sent) = (good, 0);
    for _ in 0..100 {
        let n = b.s.connection(good.flow).unwrap().rcv_wnd.unwrap() as usize;
        assert!(n >= 8960, "{n} offered");
        burst(&mut b, &mut good, n, 8960);
        sent += n;
        assert_eq!(b.read(good.flow).len(), n);
        b.turn();
    }
    assert!(sent > 1 << 20, "{sent}");
    let held = |b: &Bench, f: FlowId| b.s.connection(f).unwrap().out_of_order_bytes.unwrap();
    assert!(bad.iter().all(|p| held(&b, p.flow) <= 32 << 20));
    if gap == 1 {
        for p in &bad {
            let took = b.s.connection(p.flow).unwrap().bytes_received.unwrap();
            assert_eq!(b.read(p.flow).len() as u64, took, "every byte that was acknowledged is there");
            assert!(took > 20);
        }
    }
}

#[test]
fn single_bytes_in_order_do_not_exhaust_the_pool() {
    tiny(config(1), 4, 1);
    // No small buffers to copy into: each byte keeps a buffer of 9 KiB.
    tiny(StackConfig { small_bufs: 0, ..config(1) }, 4, 1);
}

#[test]
fn single_bytes_out_of_order_do_not_exhaust_the_pool() {
    tiny(config(1), 4, 2);
    tiny(StackConfig { small_bufs: 16, ..config(1) }, 4, 2);
}

#[test]
fn small_pieces_that_wait_are_joined() {
    let mut b = bench(config(1), &mem(1500, 512));
    let mut p = b.accept(1, 100);
    let text = pattern(4000, 5);
    for c in text.bytes().chunks(4) {
        b.data(&mut p, c);
    }
    let (used, _) = b.s.small_memory();
    assert!(used <= 80 * 512, "{used} bytes for 4000 of payload");
    assert_eq!(b.read(p.flow), text.bytes());
    assert_eq!(b.s.small_memory().0, 0);
}

#[test]
fn a_fast_path_is_at_full_rate_within_a_few_round_trips() {
    // 40 µs each way without a limit on rate: the window alone decides what is in flight.
    let m = MemConfig { mtu: 9000, rx_bufs: 8192, depth: 8192, tx_bufs: 16_384, ..MemConfig::default() };
    let faults = Faults { delay_ns: 20_000, ..Faults::default() };
    let tx = StackConfig { tx_window: 16 << 20, backlog: 32 << 20, ..config(1) };
    let mut w = World::new(&m, faults, 5, tx, config(2));
    w.b.listen(Listen { addr: ip(2).into(), port: 988, backlog: 4 }).unwrap();
    let dial = tcpstack::Dial { local: crate::common::addr(1, 1023), remote: crate::common::addr(2, 988) };
    let f = w.a.dial(w.now(), dial).unwrap();
    let end = w.now() + 10 * MS;
    w.run_to(end);
    let page = pattern(1 << 20, 1);
    let mut best = 0;
    let start = w.now();
    for _ in 0..100 {
        while w.a.flow_counters(f).unwrap().backlog < 24 << 20 {
            let l = w.a.slab().lend(page.slice_all(), 1).unwrap();
            w.a.push(f, b"", &[l]).unwrap();
        }
        let t = w.now() + 10_000;
        w.run_to(t);
        for e in World::events(&mut w.b) {
            if let tcpstack::Event::Readable(g) = e {
                let mut n = 0;
                while let Some(x) = w.b.next(g) {
                    n += x.len();
                }
                w.b.credit(g, n);
            }
        }
        World::events(&mut w.a);
        w.a.slab().reap(|_, _| ());
        best = best.max(w.a.connection(f).unwrap().snd_wnd.unwrap());
        if best > 15 << 20 {
            break;
        }
    }
    assert!(best > 15 << 20, "{best} offered after {} ns", w.now() - start);
    assert_eq!((w.a.counters().tx_resent, w.b.counters().rx_overflow), (0, 0));
}
