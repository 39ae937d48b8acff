//! Random segments, near enough to the truth to get deep: nothing panics, spins or grows without bound, and
//! smoltcp and the shim never disagree.

use crate::common::bench::{Bench, Peer, segment};
use crate::common::{SEC, config, ip};
use dataplane::fault::Rng;
use dataplane::mem::MemConfig;
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{ACK, FIN, Fields, RST, SYN};
use tcpstack::{Close, Event, Listen, StackConfig};

fn near(r: &mut Rng, at: Seq) -> Seq {
    match r.below(8) {
        0..=2 => at,
        3 => Seq(at.0.wrapping_sub(r.below(4) as u32)),
        4 => at.plus(r.below(4)),
        5 => at.plus(r.below(70_000)),
        6 => Seq(at.0.wrapping_sub(r.below(70_000) as u32)),
        _ => Seq(r.next_u64() as u32),
    }
}

fn bench() -> Bench {
    let mem = MemConfig { mtu: 1500, tso_max: 0, csum: false, rx_bufs: 512, ..MemConfig::default() };
    let cfg = StackConfig { rx_window: 65_536 << 1, tx_window: 65_536, ooo_max: 500_000, ..config(1) };
    let mut b = Bench::with(cfg, &mem);
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 4 }).unwrap();
    b
}

/// Returns bytes accepted, segments out of order, and connections accepted.
fn abuse(seed: u64) -> [u64; 3] {
    let mut r = Rng::new(seed);
    let mut b = bench();
    let key = Key::new(ip(2).into(), 7, ip(1).into(), 988);
    let mut peer: Option<Peer> = None;
    let (mut seq, mut ack) = (Seq(r.next_u64() as u32), Seq(0));
    for _ in 0..600 {
        if peer.is_none() && r.chance(0.3) {
            seq = Seq(r.next_u64() as u32);
            b.syn(7, seq.0);
            if let Some(g) = b.segs().iter().find(|g| g.seg.flags == SYN | ACK) {
                (seq, ack) = (seq.plus(1), g.seg.seq.plus(1));
                if r.chance(0.8) {
                    b.send(&segment(&key, &Fields { seq, ack, flags: ACK, win: 500 }, &[], &[]));
                }
            }
        }
        let flags = match r.below(40) {
            0 => SYN,
            1 => SYN | ACK,
            2 => RST,
            3 => RST | ACK,
            4 => ACK | FIN,
            5 => 0,
            6 => r.next_u64() as u8,
            _ => ACK,
        };
        let len = [0, 1, 100, 511, 512, 1400][r.below(6) as usize];
        let f = Fields {
            seq: near(&mut r, seq),
            ack: near(&mut r, ack),
            flags,
            win: [0, 1, 500, 65_535][r.below(4) as usize],
        };
        let data: Vec<u8> = (0..len).map(|_| r.next_u64() as u8).collect();
        b.send(&segment(&key, &f, &[], &data));
        for e in b.events() {
            match e {
                Event::Opened { flow, .. } => peer = Some(Peer { flow, key, seq, ack }),
                Event::Closed { .. } => peer = None,
                _ => (),
            }
        }
        for g in b.segs() {
            if g.seg.flags & (SYN | RST) == 0 {
                seq = g.seg.ack;
                ack = ack.max(g.seg.seq.plus(u64::from(g.seg.plen)));
            }
        }
        if let Some(p) = &peer {
            match r.below(20) {
                0..=5 => drop(b.read(p.flow)),
                6..=9 => {
                    let _ = b.s.push(p.flow, &[7; 150], &[]);
                }
                10 => {
                    let n = 1 + r.below(30_000) as usize;
                    let l = b.s.slab().lend(crate::common::pattern(n, 1).slice_all(), 0).unwrap();
                    let _ = b.s.push(p.flow, &[], &[l]);
                }
                11 if r.chance(0.1) => b.s.close(p.flow, Close::Fin),
                12 if r.chance(0.05) => b.s.close(p.flow, Close::Abort),
                _ => (),
            }
        }
        b.s.slab().reap(|_, _| ());
        if r.chance(0.1) {
            b.wait(r.below(3 * SEC));
        } else {
            b.turn();
        }
        let c = b.s.counters();
        assert_eq!((c.desync, c.smoltcp_resent), (0, 0), "{c:?}");
        assert!(b.s.flows() <= 5 && b.s.tx_waiting() == 0);
    }
    if let Some(p) = peer {
        b.s.close(p.flow, Close::Abort);
    }
    b.wait(300 * SEC);
    b.s.slab().reap(|_, _| ());
    drop(b.segs());
    assert_eq!((b.s.flows(), b.s.time_waits(), b.s.slab().out(), b.s.port().rx_out()), (0, 0, 0, 0));
    let c = b.s.counters();
    [c.rx_bytes, c.rx_out_of_order, c.accepted]
}

#[test]
fn random_segments_do_no_harm() {
    let first: Option<u64> = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    let mut sum = [0; 3];
    for seed in first.map_or(0..60, |s| s..s + 1) {
        let r = std::panic::catch_unwind(|| abuse(seed));
        let r = r.unwrap_or_else(|_| panic!("repeat with SEED={seed}"));
        sum.iter_mut().zip(r).for_each(|(s, x)| *s += x);
    }
    assert!(first.is_some() || (sum[0] > 1_000_000 && sum[1] > 1000 && sum[2] > 200), "too shallow: {sum:?}");
}

#[test]
fn random_frames_do_no_harm() {
    let mut r = Rng::new(5);
    let mut b = bench();
    let key = Key::new(ip(2).into(), 7, ip(1).into(), 988);
    for _ in 0..20_000 {
        let f = Fields { seq: Seq(1), ack: Seq(2), flags: r.next_u64() as u8, win: 9 };
        let mut x = segment(&key, &f, &[2, 4, 5, 0xb4, 3, 3, 7, 0], &[1; 30]);
        for _ in 0..=r.below(4) {
            let i = r.below(x.len() as u64) as usize;
            x[i] = r.next_u64() as u8;
        }
        x.truncate(1 + r.below(x.len() as u64) as usize);
        b.send(&x);
        b.frames();
    }
    assert!(b.s.flows() <= 4);
    assert_eq!(b.s.counters().desync, 0);
}
