//! A scenario out of a seed: everything that the simulator can do, in combinations that nobody would think of.

use dataplane::fault::{Faults, Rng};
use dataplane::link::{Burst, LinkConfig, Path};
use dataplane::mem::MemConfig;

use super::app::{Reader, Writer};
use super::scenario::{Conn, MS, Pause, SEC, Scenario, Stop, US};

fn one<T: Copy>(r: &mut Rng, of: &[T]) -> T {
    of[r.below(of.len() as u64) as usize]
}

/// Zero more often than not, else up to `max`.
fn rate(r: &mut Rng, max: f64) -> f64 {
    if r.chance(0.4) { max * r.below(1000) as f64 / 1000.0 } else { 0.0 }
}

fn path(r: &mut Rng, line: u64, rtt: u64) -> Path {
    let faults = Faults {
        loss: rate(r, 0.05),
        dup: rate(r, 0.03),
        reorder: rate(r, 0.05),
        reorder_ns: one(r, &[5 * US, 50 * US, MS]),
        corrupt: rate(r, 0.02),
        delay_ns: rtt / 2,
    };
    let burst = r.chance(0.2).then(|| Burst {
        enter: 0.002,
        leave: 0.2,
        loss: one(r, &[0.5, 1.0]),
        most_ns: 20 * MS,
    });
    let slow = r.chance(0.3);
    Path {
        faults,
        rate: if slow { line / one(r, &[2, 10]) } else { 0 },
        queue: one(r, &[50_000, 1 << 20, 16 << 20]),
        jitter_ns: if r.chance(0.3) { r.below(rtt.max(10 * US)) } else { 0 },
        burst,
        ..Path::default()
    }
}

fn outages(r: &mut Rng) -> Vec<(u64, u64)> {
    if !r.chance(0.15) {
        return Vec::new();
    }
    let from = r.below(5 * MS);
    vec![(from, from + one(r, &[100 * US, 5 * MS, 400 * MS]))]
}

fn reader(r: &mut Rng) -> Reader {
    match r.below(8) {
        0 => Reader::Slow { bytes: one(r, &[3_000, 30_000, 200_000]), every: one(r, &[200 * US, 2 * MS]) },
        1 => Reader::Holds { frags: one(r, &[4, 40]) },
        2 => Reader::Shut { from: r.below(2 * MS), to: 2 * MS + r.below(700 * MS) },
        _ => Reader::Eager,
    }
}

fn writers(r: &mut Rng, bytes: u64) -> [Writer; 2] {
    let bulk = |r: &mut Rng, n: u64| Writer::Bulk { total: r.below(n), mixed: r.chance(0.7) };
    match r.below(6) {
        0 => {
            let (ask, answer) = (one(r, &[64, 1000, 40_000]), one(r, &[64, 9_000, 200_000]));
            let rounds = 1 + r.below(20);
            [Writer::Asks { ask, answer, rounds, ahead: one(r, &[1, 4]) }, Writer::Answers { ask, answer }]
        }
        1 => {
            let every = one(r, &[20 * US, MS, 60 * MS]);
            let paced = Writer::Paced { bytes: one(r, &[200, 20_000]), every, total: r.below(bytes / 4) };
            [paced, if r.chance(0.5) { bulk(r, bytes) } else { Writer::Silent }]
        }
        2 | 3 => [bulk(r, bytes), bulk(r, bytes / 3)],
        4 => [Writer::Silent, bulk(r, bytes)],
        _ => [bulk(r, bytes), Writer::Silent],
    }
}

/// The scenario of `seed`, with up to `bytes` bytes in a stream.
pub fn random(seed: u64, bytes: u64) -> Scenario {
    let mut r = Rng::new(seed ^ 0x51_3d);
    let mut s = Scenario::new(seed);
    let csum = r.chance(0.7);
    let tso = csum && r.chance(0.5);
    let mtu = one(&mut r, &[1500, 1500, 9000, 9000, 576]);
    let line = one(&mut r, &[1, 10, 25, 100]) * 1_000_000_000;
    let rtt = one(&mut r, &[10 * US, 40 * US, MS, 20 * MS]);
    let mem = MemConfig {
        mtu,
        tso_max: if tso { 65_535 } else { 0 },
        max_segs: one(&mut r, &[3, 17, 64]),
        csum,
        lazy: if r.chance(0.3) { 8 } else { 0 },
        depth: one(&mut r, &[16, 1024]),
        tx_bufs: one(&mut r, &[64, 4096]),
        rx_bufs: one(&mut r, &[256, 2048]),
        rx_buf: if mtu > 2000 { 9216 } else { 2048 },
        ..MemConfig::default()
    };
    let hosts = if r.chance(0.15) { 3 } else { 2 };
    let mut paths: Vec<Path> = (0..hosts).map(|_| path(&mut r, line, rtt)).collect();
    let down = outages(&mut r);
    for p in &mut paths {
        p.down = down.clone();
    }
    s.link = LinkConfig { mem, line, paths };
    let window = one(&mut r, &[65_536, 262_144, 1 << 20]);
    s.stacks = (1..=hosts as u8).map(|n| Scenario::stack(n, seed)).collect();
    s = s.each_stack(|c| {
        c.rx_window = window;
        c.tx_window = 2 * window;
        c.backlog = 300_000;
    });
    for c in &mut s.stacks {
        (c.timestamps, c.sack) = (r.chance(0.8), r.chance(0.8));
        if mtu < 1280 {
            c.addrs.truncate(1);
        }
    }
    s.pauses = (0..hosts)
        .map(|_| {
            r.chance(0.25).then(|| Pause {
                every: one(&mut r, &[MS, 20 * MS]),
                most: one(&mut r, &[300 * US, 8 * MS, 80 * MS]),
            })
        })
        .collect();
    s.turn = one(&mut r, &[200, 1000, 5000]);
    for k in 0..one(&mut r, &[1, 1, 1, 2, 8]) {
        let from = r.below(hosts as u64) as usize;
        let to = (from + 1 + r.below(hosts as u64 - 1) as usize) % hosts;
        let bytes = bytes / (1 + k);
        let conn = Conn {
            from,
            to,
            at: if k == 0 { 0 } else { r.below(3 * MS) },
            v6: mtu >= 1280 && r.chance(0.3),
            writers: writers(&mut r, bytes.max(8)),
            readers: [reader(&mut r), reader(&mut r)],
        };
        s = s.with(conn);
    }
    s.stop = Stop::Done(900 * SEC);
    s
}
