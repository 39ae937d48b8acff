//! Seeded simulations over a simulated network: whatever it does, every byte arrives once and at its place, every
//! connection closes in order, and everything lent or received is home again.
//!
//! ```text
//! SEED=17 cargo test -p pollnd-tcpstack --test sim every   one seed again; TRACE=1 prints every frame
//! make soak SEEDS=5000 SECONDS=600                            more of them
//! ```

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tcpstack::testing::{Outcome, random, run};

/// Seeds of `make test`.
const SEEDS: u64 = 4000;
/// Longest stream, in bytes.
const BYTES: u64 = 300_000;

#[derive(Default)]
struct Totals {
    seeds: u64,
    bytes: u64,
    frames: u64,
    lost: u64,
    resent: u64,
    needless: u64,
    virtual_ns: u64,
    failed: Vec<u64>,
}

impl Totals {
    fn add(&mut self, o: &Outcome) {
        self.bytes += o.received.iter().sum::<u64>();
        self.frames += o.links.iter().map(|l| l.frames).sum::<u64>();
        self.lost += o
            .links
            .iter()
            .map(|l| l.lost + l.burst + l.queue + l.down + l.no_buffer + l.corrupted)
            .sum::<u64>();
        self.resent += o.resends.iter().map(|r| r.resent).sum::<u64>();
        self.needless += o.resends.iter().map(|r| r.needless).sum::<u64>();
        self.virtual_ns += o.took;
    }

    fn line(&self) -> String {
        format!(
            "{} seeds, {} failed: {:.1} MB in {} frames and {:.0} s of virtual time; {} frames lost or damaged, {} \
             sent again, {} of them without need",
            self.seeds,
            self.failed.len(),
            self.bytes as f64 * 1e-6,
            self.frames,
            self.virtual_ns as f64 * 1e-9,
            self.lost,
            self.resent,
            self.needless
        )
    }
}

/// Plays seeds from `first` on until `count` are done or `time` is over, on two threads.
fn play(first: u64, count: u64, time: Duration) -> Totals {
    let (next, all, start) = (AtomicU64::new(first), Mutex::new(Totals::default()), Instant::now());
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while start.elapsed() < time {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let t = Instant::now();
                    let r = std::panic::catch_unwind(|| run(&random(seed, BYTES)));
                    let mut all = all.lock().unwrap();
                    all.seeds += 1;
                    match r {
                        Ok(Ok(o)) => {
                            all.add(&o);
                            if std::env::var("TIMES").is_ok() {
                                println!("seed {seed}: {:?}, {} turns, {} ns", t.elapsed(), o.turns, o.took);
                            }
                        }
                        Ok(Err(e)) => {
                            println!("{e}\n  {:?}", random(seed, BYTES));
                            all.failed.push(seed);
                        }
                        Err(_) => all.failed.push(seed),
                    }
                }
            });
        }
    });
    let mut t = all.into_inner().unwrap();
    t.failed.sort_unstable();
    t
}

fn number(name: &str) -> Option<u64> {
    let s = std::env::var(name).ok()?;
    Some(s.parse().unwrap_or_else(|_| panic!("{name}={s:?} is not a number")))
}

fn judge(t: &Totals) {
    println!("{}", t.line());
    let again: Vec<String> = t
        .failed
        .iter()
        .map(|s| format!("SEED={s} cargo test -p pollnd-tcpstack --test sim -- --nocapture sim_net::every"))
        .collect();
    assert!(again.is_empty(), "to see a failure again:\n  {}", again.join("\n  "));
}

#[test]
fn every_seed_is_byte_exact_and_leaves_nothing_behind() {
    let one = number("SEED");
    let t = play(one.unwrap_or(0), if one.is_some() { 1 } else { SEEDS }, Duration::MAX);
    judge(&t);
    if one.is_none() {
        assert!(
            t.seeds == SEEDS && t.lost > 30_000 && t.resent > 30_000,
            "the faults did not bite: {}",
            t.line()
        );
    }
}

/// Seeds that `make test` does not reach.
#[test]
#[ignore = "soak: make soak"]
fn soak() {
    let first = number("SOAK_FIRST").unwrap_or(1_000_000);
    let t = play(
        first,
        number("SOAK_SEEDS").unwrap_or(u64::MAX / 2),
        Duration::from_secs(number("SOAK_SECONDS").unwrap_or(600)),
    );
    judge(&t);
}

#[test]
fn a_seed_repeats_exactly() {
    for seed in [3, 4] {
        let one = || run(&random(seed, BYTES)).map(|o| format!("{o:?}"));
        assert_eq!(one().unwrap(), one().unwrap());
    }
}
