//! Seeded simulations: whatever the link does, both streams arrive byte for byte, both ends close in order, and
//! everything that was lent or received is home again.

use crate::common::*;
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
    let mut r = Rng::new(seed ^ 0x0971_0a15);
    let mut cfg = |n| StackConfig {
        rx_window: window,
        tx_window: window * 2,
        backlog: 300_000,
        timestamps: r.chance(0.7),
        sack: r.chance(0.7),
        ..config(n)
    };
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

/// Both numbers run past 2^32: offsets are 64 bits wide, sequence numbers wrap.
#[test]
fn a_stream_longer_than_the_sequence_space() {
    let mem = MemConfig { mtu: 1500, crossing: Crossing::Share, ..MemConfig::default() };
    let mut w = World::plain(&mem);
    let (f, g) = w.connect();
    let page = pattern(1 << 20, 9);
    let total = (1u64 << 32) + (200 << 20);
    let (mut pushed, mut got, mut now) = (0u64, 0u64, w.now());
    for _ in 0..2_000_000 {
        now += 1000;
        while pushed < total {
            let l = w.a.slab().lend(page.slice_all(), 0).unwrap();
            match w.a.push(f, b"", &[l]) {
                Ok(end) => pushed = end,
                Err(_) => break,
            }
        }
        w.clock.set(now);
        w.a.turn(now);
        w.b.turn(now);
        let mut n = 0;
        while let Some(x) = w.b.next(g) {
            let at = (got % (1 << 20)) as usize;
            let k = x.bytes().len().min(64).min((1 << 20) - at);
            assert_eq!(&x.bytes()[..k], &page.bytes()[at..at + k], "at {got}");
            got += u64::from(x.len());
            n += x.len();
        }
        w.b.credit(g, n);
        World::events(&mut w.a);
        World::events(&mut w.b);
        w.a.slab().reap(|_, _| ());
        if got >= total {
            break;
        }
    }
    assert_eq!(got, pushed);
    w.settle();
    w.a.slab().reap(|_, _| ());
    assert_eq!((w.a.slab().out(), w.a.counters().tx_resent, w.a.counters().desync), (0, 0, 0));
}

/// Many connections at once, opened from both sides, each with its own streams.
#[test]
fn connections_do_not_mix() {
    let faults = Faults { loss: 0.01, reorder: 0.02, delay_ns: 10_000, ..Faults::default() };
    let mem = MemConfig { csum: false, tso_max: 0, ..MemConfig::default() };
    let mut w = World::new(&mem, faults, 3, config(1), config(2));
    w.a.listen(Listen { addr: ip(1).into(), port: 988, backlog: 64 }).unwrap();
    w.b.listen(Listen { addr: ip(2).into(), port: 988, backlog: 64 }).unwrap();
    let n = 40u16;
    for i in 0..n {
        let now = w.now();
        w.a.dial(now, Dial { local: addr(1, 900 + i), remote: addr(2, 988) }).unwrap();
        w.b.dial(now, Dial { local: addr(2, 900 + i), remote: addr(1, 988) }).unwrap();
    }
    let mut seen = std::collections::HashMap::new();
    let mut closed = 0;
    let word =
        |local: std::net::SocketAddr, remote: std::net::SocketAddr| format!("{local}>{remote};").repeat(100);
    for _ in 0..200_000 {
        let now = w.now();
        let (mut x, mut y) = (w.a.turn(now), w.b.turn(now));
        for (side, s) in [(0, &mut w.a), (1, &mut w.b)] {
            while let Some(e) = s.event() {
                match e {
                    tcpstack::Event::Opened { flow, local, remote, .. } => {
                        seen.insert((side, flow), (word(remote, local), String::new()));
                        s.push(flow, b"", &[]).unwrap();
                        for part in word(local, remote).as_bytes().chunks(150) {
                            s.push(flow, part, &[]).unwrap();
                        }
                        s.close(flow, tcpstack::Close::Fin);
                    }
                    tcpstack::Event::Readable(f) => {
                        while let Some(b) = s.next(f) {
                            let text = std::str::from_utf8(b.bytes()).unwrap();
                            seen.get_mut(&(side, f)).unwrap().1.push_str(text);
                            s.credit(f, b.len());
                        }
                    }
                    tcpstack::Event::Closed { why, .. } => {
                        assert_eq!(why, CloseWhy::Fin);
                        closed += 1;
                    }
                    _ => (),
                }
                (x, y) = (tcpstack::Work::Busy(1), tcpstack::Work::Busy(1));
            }
        }
        if closed == 4 * usize::from(n) {
            break;
        }
        let busy = x != tcpstack::Work::Idle || y != tcpstack::Work::Idle;
        let next = if busy { now + 1000 } else { w.next_time().expect("stuck") };
        w.clock.set(next.max(now + 1));
    }
    assert_eq!((closed, seen.len()), (160, 160));
    for (id, (want, got)) in seen {
        assert!(want == got, "{id:?}: {} of {} bytes", got.len(), want.len());
    }
}
