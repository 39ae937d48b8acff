//! Time for polling loops: nanoseconds from the time-stamp counter, calibrated against `CLOCK_MONOTONIC`.
//!
//! Reading the counter costs a few nanoseconds and no system call. Where the counter does not run at a constant
//! rate (or the CPU has none that we know), the monotonic clock itself is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Sleeps for so long, however many signals come meanwhile. For threads that wait beside a port: net_tap tells of packets by signals,
/// which the main thread gets. `std::thread::sleep` asks the kernel for what is left after each, and is told 50 us too much
/// (the timer's slack): with more than 20,000 signals a second it never ends. The end of this one is a time of the clock.
pub fn pause(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// A clock that starts near 1 s, so that "an age ago" never goes below zero. Monotonic, in ns.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Tsc(Tsc),
    Monotonic(Instant),
    Virtual(Arc<AtomicU64>),
}

#[derive(Clone, Copy, Debug)]
struct Tsc {
    start: u64,
    /// ns per tick, as a fraction of 2^32.
    mult: u64,
}

/// Approximate value of the first reading, in ns.
const START: u64 = 1_000_000_000;

#[cfg(target_arch = "x86_64")]
fn ticks() -> u64 {
    // SAFETY: the instruction exists on every x86-64 CPU and only reads a counter.
    #[allow(unused_unsafe, reason = "a safe function in later compilers")]
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn ticks() -> u64 {
    0
}

fn constant_rate() -> bool {
    cfg!(target_arch = "x86_64")
        && std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|s| {
            s.lines().find(|l| l.starts_with("flags")).is_some_and(|l| {
                let has = |f| l.split_whitespace().any(|w| w == f);
                has("constant_tsc") && has("nonstop_tsc")
            })
        })
}

impl Clock {
    /// Calibrates for 20 ms where the counter is usable.
    pub fn calibrated() -> Clock {
        if !constant_rate() {
            return Clock::monotonic();
        }
        let (epoch, start) = (Instant::now(), ticks());
        std::thread::sleep(Duration::from_millis(20));
        let (now, end) = (epoch.elapsed().as_nanos(), ticks());
        let Some(passed) = end.checked_sub(start).filter(|t| *t > 0) else { return Clock::monotonic() };
        let mult = u64::try_from((now << 32) / u128::from(passed)).unwrap_or(0);
        // 0.1 to 10 GHz; anything else is no time base.
        let plausible = ((1 << 32) / 10..(1 << 32) * 10).contains(&mult);
        if plausible { Clock(Source::Tsc(Tsc { start, mult })) } else { Clock(Source::Monotonic(epoch)) }
    }

    /// Reads the kernel's monotonic clock each time.
    pub fn monotonic() -> Clock {
        Clock(Source::Monotonic(Instant::now()))
    }

    /// Time that only moves when somebody sets it, in ns: simulations.
    pub fn virtual_time(now: Arc<AtomicU64>) -> Clock {
        Clock(Source::Virtual(now))
    }

    /// The time in ns.
    pub fn now(&self) -> u64 {
        match &self.0 {
            Source::Tsc(t) => {
                let passed = ticks().saturating_sub(t.start);
                START + ((u128::from(passed) * u128::from(t.mult)) >> 32) as u64
            }
            Source::Monotonic(epoch) => {
                START + u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX / 2)
            }
            Source::Virtual(t) => t.load(Ordering::Relaxed),
        }
    }

    /// Whether the time-stamp counter is used.
    pub fn is_tsc(&self) -> bool {
        matches!(self.0, Source::Tsc(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sources_agree() {
        let (a, b) = (Clock::calibrated(), Clock::monotonic());
        let (a0, b0) = (a.now(), b.now());
        std::thread::sleep(Duration::from_millis(30));
        let (da, db) = ((a.now() - a0) as f64, (b.now() - b0) as f64);
        assert!(a0 >= START && b0 >= START);
        assert!((da / db - 1.0).abs() < 0.5, "{da} ns against {db} ns");
    }

    #[test]
    fn virtual_time_stands_still_until_it_is_set() {
        let t = Arc::new(AtomicU64::new(7));
        let c = Clock::virtual_time(t.clone());
        assert_eq!(c.now(), 7);
        t.store(9, Ordering::Relaxed);
        assert_eq!(c.now(), 9);
    }

    #[test]
    fn time_never_goes_back() {
        let c = Clock::calibrated();
        let mut last = 0;
        for _ in 0..10_000 {
            let t = c.now();
            assert!(t >= last);
            last = t;
        }
    }
}
