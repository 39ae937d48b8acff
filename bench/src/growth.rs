//! Growth of a run: memory sampled while nodes work, and its slope.
//!
//! Each of the samples reaches a level in the warm-up (pools, tables and queues take the size that the work
//! needs) and should stay there. The verdict looks at the slope over the whole window, not at single
//! samples: the allocator and the kernel take and give pages in steps.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dataplane::clock::pause;
use serde::Serialize;

use crate::ctl::{Ctl, Traffic};
use crate::measure::{MeasureError, rest, wait_for};
use crate::memory::resident;
use crate::selftest::Orders;

/// Part of the run that is warm-up: so many seconds of each ten.
const WARM_TENTHS: u32 = 2;
/// Growth over the whole window that is none, in bytes: the allocator takes and gives back 128 KiB at a time for each thread, and two such
/// steps of it late in the window have been seen where the next run had none.
pub const SLACK: f64 = 384.0 * 1024.0;
/// Growth over the whole window that is none, as a part of what is resident.
pub const SLACK_PART: f64 = 0.002;

/// One look at the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// Since the start of the run, in seconds.
    pub at_s: f64,
    /// Anonymous memory that is resident, in bytes. Huge pages are reserved once and not part of it.
    pub resident: u64,
    /// Messages that arrived so far.
    pub messages: u64,
    /// Payload bytes that arrived so far.
    pub bytes: u64,
}

/// A run and its verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    /// Name of the run.
    pub name: String,
    /// One a second.
    pub samples: Vec<Sample>,
    /// Samples from here on count.
    pub warm_s: f64,
    /// Slope after warm-up, in bytes a second.
    pub slope: f64,
    /// Growth by it from warm-up to the end, in bytes.
    pub grown: f64,
    /// Bytes for each message that arrived in that time.
    pub per_message: f64,
    /// It is within [`SLACK`] or [`SLACK_PART`].
    pub level: bool,
}

/// Slope that six in ten of all pairs of points have at least, `x` rising; 0 for fewer than two. As Theil's and Sen's, which
/// takes the median: but a single step in the middle, as when a burst takes a pool to a new height, is in half of the pairs.
/// Growth that goes on is in nearly all.
fn slope(points: &[(f64, f64)]) -> f64 {
    // Of an hour of seconds every fourth is enough.
    let points: Vec<_> = points.iter().step_by(points.len().div_ceil(1000).max(1)).collect();
    let rest = |n: usize| points.iter().skip(n + 1);
    let pairs = points.iter().enumerate().flat_map(|(n, a)| rest(n).map(move |b| (b.1 - a.1) / (b.0 - a.0)));
    let mut slopes: Vec<f64> = pairs.filter(|s| s.is_finite()).collect();
    let at = slopes.len() * 2 / 5;
    if slopes.is_empty() { 0.0 } else { *slopes.select_nth_unstable_by(at, f64::total_cmp).1 }
}

/// Judges samples of a run that took `secs` seconds.
pub fn judge(name: &str, secs: f64, samples: Vec<Sample>) -> Growth {
    let warm_s = secs * f64::from(WARM_TENTHS) / 10.0;
    let warm: Vec<&Sample> = samples.iter().filter(|s| s.at_s >= warm_s).collect();
    let points: Vec<_> = warm.iter().map(|s| (s.at_s, s.resident as f64)).collect();
    let slope = slope(&points);
    let (first, last) = (warm.first().copied(), warm.last().copied());
    let over = |f: fn(&Sample) -> f64| last.map_or(0.0, f) - first.map_or(0.0, f);
    let grown = slope * over(|s| s.at_s);
    let messages = over(|s| s.messages as f64);
    let bound = SLACK.max(SLACK_PART * first.map_or(0.0, |s| s.resident as f64));
    Growth {
        name: name.to_owned(),
        warm_s,
        slope,
        grown,
        per_message: if messages > 0.0 { grown / messages } else { 0.0 },
        // A window without work proves nothing.
        level: messages > 0.0 && grown <= bound,
        samples,
    }
}

/// Works through large and small PUTs and pings for `secs` seconds and samples once a second. `each` sees every
/// sample.
///
/// # Errors
/// The workload failed, or the kernel does not tell how much memory there is.
pub fn watch(
    name: &str,
    ctl: &Ctl,
    secs: f64,
    each: &mut dyn FnMut(&Sample),
) -> Result<Growth, MeasureError> {
    wait_for(ctl, "the start of the nodes", 20, || ctl.ready.load(Ordering::Acquire))?;
    ctl.set_traffic(Traffic::Mixed);
    let so_far = || (ctl.arrived.load(Ordering::Relaxed), ctl.bytes.load(Ordering::Relaxed));
    let grown = sample(name, ctl, secs, so_far, each)?;
    rest(ctl)?;
    Ok(grown)
}

/// The same with lnet_selftest, both nodes in both roles: [`Case::both_roles`](crate::selftest::Case::both_roles) is to be the
/// first case of the client.
///
/// # Errors
/// As [`watch`].
pub fn watch_selftest(
    name: &str,
    ctl: &Ctl,
    orders: &Orders,
    secs: f64,
    each: &mut dyn FnMut(&Sample),
) -> Result<Growth, MeasureError> {
    orders.wait(ctl)?;
    orders.run(1);
    wait_for(ctl, "the start of the tests", 30, || orders.running() == 1)?;
    let so_far = || orders.client.get().map_or((0, 0), |m| m.totals());
    let grown = sample(name, ctl, secs, so_far, each)?;
    orders.run(0);
    wait_for(ctl, "the end of the tests", 30, || orders.running() == 0)?;
    let failed =
        orders.client.get().into_iter().chain(orders.server.get()).map(|m| m.failed.load(Ordering::Relaxed));
    match failed.sum::<u64>() {
        0 => Ok(grown),
        n => Err(MeasureError::Failed(format!("{n} RPCs failed"))),
    }
}

fn sample(
    name: &str,
    ctl: &Ctl,
    secs: f64,
    so_far: impl Fn() -> (u64, u64),
    each: &mut dyn FnMut(&Sample),
) -> Result<Growth, MeasureError> {
    // Pages for all samples, written once, so that the watch itself does not grow: of an hour's they were all that grew.
    let mut samples = vec![Sample::default(); secs as usize + 2];
    samples.clear();
    let start = Instant::now();
    let mut next = Duration::from_secs(1);
    while next.as_secs_f64() <= secs + 0.5 {
        pause(next.saturating_sub(start.elapsed()));
        if let Some(e) = ctl.first_error() {
            return Err(MeasureError::Failed(e));
        }
        let (messages, bytes) = so_far();
        let resident = resident().map_err(MeasureError::Failed)?;
        let s = Sample { at_s: start.elapsed().as_secs_f64(), resident, messages, bytes };
        each(&s);
        samples.push(s);
        next += Duration::from_secs(1);
    }
    Ok(judge(name, secs, samples))
}

impl Growth {
    /// The table: some ten samples, the slope and the verdict.
    pub fn table(&self) -> String {
        let mut t = format!("\n  {}\n      at s    resident KiB     messages   payload GB\n", self.name);
        let step = self.samples.len().div_ceil(10).max(1);
        for (i, s) in self.samples.iter().enumerate() {
            if i % step == 0 || i + 1 == self.samples.len() {
                t += &format!(
                    "  {:>8.1} {:>15} {:>12} {:>12.1}\n",
                    s.at_s,
                    s.resident / 1024,
                    s.messages,
                    s.bytes as f64 * 1e-9
                );
            }
        }
        t += &format!(
            "  after {:.0} s of warm-up: {:+.1} B/s, {:+.1} KiB in all, {:+.4} B for each message: {}\n",
            self.warm_s,
            self.slope,
            self.grown / 1024.0,
            self.per_message,
            if self.level { "no growth" } else { "IT GROWS" }
        );
        t
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(resident: impl Fn(u64) -> u64) -> Growth {
        let sample = |i| Sample { at_s: i as f64, resident: resident(i), messages: i * 1000, bytes: i << 20 };
        judge("a run", 60.0, (1..=60).map(sample).collect())
    }

    const MB: u64 = 1 << 20;

    #[test]
    fn a_level_run_with_a_warm_up_and_steps_is_level() {
        let g = run(|i| 40 * MB + i.min(10) * MB + (i % 7) * 4096);
        assert!(g.level, "{}", g.table());
        assert!(g.table().contains("no growth"));
    }

    #[test]
    fn a_single_step_is_level_and_many_are_not() {
        for at in 13..60 {
            let g = run(|i| 10 * MB + if i < at { 0 } else { 2 * MB } + (i % 3) * 4096);
            assert!(g.level, "at {at} s: {}", g.table());
        }
        for every in [5, 10, 20] {
            let g = run(|i| 10 * MB + i / every * MB / 2);
            assert!(!g.level, "every {every} s: {}", g.table());
        }
    }

    #[test]
    fn a_leak_of_a_byte_or_two_a_message_is_seen() {
        let g = run(|i| 40 * MB + i * 10_000);
        assert!(!g.level && (g.slope - 10_000.0).abs() < 1.0, "{}", g.table());
        assert!((g.per_message - 10.0).abs() < 0.1, "{}", g.per_message);
        assert!(g.table().contains("IT GROWS"));
    }

    #[test]
    fn memory_that_shrinks_is_no_growth_but_a_run_without_work_proves_nothing() {
        assert!(run(|i| 90 * MB - i * 10_000).level);
        let idle = |i: u64| Sample { at_s: i as f64, resident: MB, messages: 0, bytes: 0 };
        assert!(!judge("idle", 60.0, (1..=60).map(idle).collect()).level);
        assert!(!judge("none", 60.0, vec![]).level);
    }
}
