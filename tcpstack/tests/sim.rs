//! Seeded simulations: whatever the link does, both streams arrive byte for byte, both ends close in order, and
//! everything that was lent or received is home again.

mod common;

use common::*;
use dataplane::fault::{Faults, Rng};
use dataplane::mem::{Crossing, MemConfig};
use dataplane::pkt::Port;
use tcpstack::{CloseWhy, Dial, Listen, StackConfig};

struct Case {
    mem: MemConfig,
    faults: Faults,
    len: [usize; 2],
    slow: bool,
}

fn case(seed: u64) -> Case {
    let mut r = Rng::new(seed);
    let csum = r.chance(0.5);
    let tso = csum && r.chance(0.6);
    let mtu = if r.chance(0.5) { 1500 } else { 9000 };
    let mem = MemConfig {
        mtu,
        tso_max: if tso { 65_535 } else { 0 },
        max_segs: [3, 17, 64][r.below(3) as usize],
        csum,
        crossing: if r.chance(0.5) { Crossing::Copy } else { Crossing::Share },
        lazy: if r.chance(0.3) { 8 } else { 0 },
        depth: [16, 1024][r.below(2) as usize],
        tx_bufs: [24, 4096][r.below(2) as usize],
        rx_bufs: [256, 2048][r.below(2) as usize],
        ..MemConfig::default()
    };
    let rate = |r: &mut Rng, max: f64| if r.chance(0.7) { max * r.below(1000) as f64 / 1000.0 } else { 0.0 };
    let faults = Faults {
        loss: rate(&mut r, 0.05),
        dup: rate(&mut r, 0.03),
        reorder: rate(&mut r, 0.1),
        reorder_ns: 100_000,
        corrupt: rate(&mut r, 0.02),
        delay_ns: 20_000,
    };
    let len = [r.below(600_000) as usize, if r.chance(0.5) { r.below(200_000) as usize } else { 0 }];
    Case { mem, faults, len, slow: r.chance(0.3) }
}

fn run(seed: u64) -> (u64, u64) {
    let c = case(seed);
    let window = 65_536 << (seed % 4);
    let cfg = |n| StackConfig { rx_window: window, tx_window: window * 2, backlog: 300_000, ..config(n) };
    let mut w = World::new(&c.mem, c.faults, seed, cfg(1), cfg(2));
    let (x, y) = (pattern(c.len[0], 1), pattern(c.len[1], 2));
    // A pattern has at least one byte; both directions send at least that.
    let mut a = End::new(x.clone(), y.clone(), seed, false);
    let mut b = End::new(y, x, seed + 1, c.slow);
    w.b.listen(Listen { addr: ip(2).into(), port: 988, backlog: 4 }).unwrap();
    let now = w.now();
    a.flow = Some(w.a.dial(now, Dial { local: addr(1, 1023), remote: addr(2, 988) }).unwrap());
    let mut next_read = 0;
    let limit = 600 * SEC;
    for step in 0.. {
        assert!(
            step < 1_000_000 && w.now() < limit,
            "seed {seed} stuck at {} ns: a {}/{} b {}/{} {:?} {:?}\n{:?}\n{:?}",
            w.now(),
            b.got,
            a.out.len(),
            a.got,
            b.out.len(),
            a.closed,
            b.closed,
            w.a.counters(),
            w.b.counters()
        );
        let now = w.now();
        let mut busy = false;
        for _ in 0..20 {
            busy = w.a.turn(now) != tcpstack::Work::Idle;
            busy |= a.serve(&mut w.a);
            busy |= w.b.turn(now) != tcpstack::Work::Idle;
            busy |= b.serve(&mut w.b);
            if !busy {
                break;
            }
        }
        if c.slow && now >= next_read {
            next_read = now + MS;
            if let Some(f) = b.flow {
                b.read(&mut w.b, f, 30_000);
            }
        }
        if a.done() && b.done() {
            break;
        }
        let next = if busy { now + 1000 } else { w.next_time().unwrap_or(u64::MAX) };
        let next = if c.slow && b.flow.is_some() { next.min(next_read) } else { next };
        assert_ne!(
            next,
            u64::MAX,
            "seed {seed}: nothing will ever happen again: {:?} {:?}",
            a.closed,
            b.closed
        );
        w.clock.set(next.max(now + 1));
    }
    assert_eq!(
        (a.closed, b.closed),
        (Some(CloseWhy::Fin), Some(CloseWhy::Fin)),
        "seed {seed} at {} ns:\n{:?}\n{:?}",
        w.now(),
        w.a.counters(),
        w.b.counters()
    );
    assert_eq!((b.got, a.got), (a.out.len(), b.out.len()), "seed {seed}");
    // Packets in flight and in lazy drivers go; then everything is home.
    w.a.port_mut().set_faults(Faults::default());
    w.b.port_mut().set_faults(Faults::default());
    let end = w.now() + 10 * SEC;
    w.run_to(end);
    (0..12).for_each(|_| {
        w.a.nudge();
        w.b.nudge();
        w.settle();
    });
    a.drop_held();
    b.drop_held();
    a.settle_lendings(&w.a);
    b.settle_lendings(&w.b);
    for s in [&mut w.a, &mut w.b] {
        let c = s.counters();
        assert_eq!((c.smoltcp_resent, c.desync), (0, 0), "seed {seed}: {c:?}");
        assert_eq!((s.flows(), s.time_waits()), (0, 0), "seed {seed}");
        let (free, all) = s.port().rx_memory();
        assert_eq!(free, all, "seed {seed}: receive buffers out");
        assert_eq!(s.port().counters().tx_dropped, 0, "seed {seed}: a packet the device would refuse");
    }
    let (ca, cb) = (w.a.counters(), w.b.counters());
    if std::env::var("SEED").is_ok() {
        eprintln!("{:?} {:?} {} {}\n{ca:?}\n{cb:?}\n{}", c.mem, c.faults, c.slow, c.len[0], w.now());
    }
    (ca.tx_resent + cb.tx_resent, ca.rx_out_of_order + cb.rx_out_of_order)
}

#[test]
fn every_seed_is_byte_exact_and_leaves_nothing_behind() {
    let first = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    let seeds = first.map_or(0..240, |s| s..s + 1);
    let (mut resent, mut ooo) = (0, 0);
    let mut failed = vec![];
    for seed in seeds.clone() {
        let t = std::time::Instant::now();
        let r = std::panic::catch_unwind(|| run(seed));
        if std::env::var("TIMES").is_ok() {
            eprintln!("seed {seed} {:?} {:?}", t.elapsed(), r.as_ref().ok());
        }
        match r {
            Ok((x, y)) => (resent, ooo) = (resent + x, ooo + y),
            Err(_) => failed.push(seed),
        }
    }
    assert!(failed.is_empty(), "repeat with SEED=n: {failed:?}");
    if seeds.end > seeds.start + 1 {
        assert!(resent > 1000 && ooo > 1000, "the faults did not bite: {resent} resent, {ooo} out of order");
    }
}
