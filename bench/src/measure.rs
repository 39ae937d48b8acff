//! Cost of a stretch of work: wall time and CPU time of the whole process, spinning included.

use std::time::{Duration, Instant};

use dataplane::clock::pause;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::ctl::{Ctl, Load, Traffic};

/// CPU time of this process so far, user and system, all threads.
pub fn cpu_time() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), t.tv_nsec.unsigned_abs() as u32)
}

/// CPU time of this thread, user and system.
pub(crate) fn thread_cpu() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), t.tv_nsec.unsigned_abs() as u32)
}

/// Payload that one thread moved, and its CPU time for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OneThread {
    pub(crate) bytes: u64,
    pub(crate) cpu: Duration,
}

impl OneThread {
    /// Gbit moved per second of CPU time.
    pub(crate) fn gbit_per_cpu_s(self) -> f64 {
        self.bytes as f64 * 8e-9 / self.cpu.as_secs_f64().max(1e-9)
    }
}

/// One measured stretch of one kind of traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// Wall time in seconds.
    pub wall_s: f64,
    /// CPU time of both ends in seconds, spinning counted.
    pub cpu_s: f64,
    /// Messages that arrived.
    pub messages: u64,
    /// Payload bytes that arrived.
    pub bytes: u64,
}

impl Stretch {
    /// Goodput in Gbit/s.
    pub fn gbps(&self) -> f64 {
        self.bytes as f64 * 8e-9 / self.wall_s.max(1e-9)
    }
    /// Gbit moved per second of CPU time.
    pub fn gbit_per_cpu_s(&self) -> f64 {
        self.bytes as f64 * 8e-9 / self.cpu_s.max(1e-9)
    }
    /// Messages a second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.wall_s.max(1e-9)
    }
}

/// Percentiles of a round trip, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rtt {
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// Round trips measured.
    pub count: u64,
}

impl Rtt {
    /// Of a histogram in ns.
    pub fn of(h: &Histogram<u64>) -> Rtt {
        let us = |q| h.value_at_quantile(q) as f64 / 1000.0;
        Rtt { p50_us: us(0.5), p90_us: us(0.9), p99_us: us(0.99), p999_us: us(0.999), count: h.len() }
    }
}

/// Errors of a measurement.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// An operation failed.
    #[error("the workload failed: {0}")]
    Failed(String),
    /// Nothing moved.
    #[error("{what} did not happen within {secs} s")]
    Stuck {
        /// The event that was waited for.
        what: &'static str,
        /// For how long.
        secs: u64,
    },
}

/// Longest wait for traffic to begin, or to come to rest, in seconds.
const PATIENCE: u64 = 20;

/// Waits until `done`, at most `secs` seconds.
///
/// # Errors
/// The first error of the workload, or that `what` did not happen.
pub fn wait_for(
    ctl: &Ctl,
    what: &'static str,
    secs: u64,
    mut done: impl FnMut() -> bool,
) -> Result<(), MeasureError> {
    let end = Instant::now() + Duration::from_secs(secs);
    while !done() {
        if let Some(e) = ctl.first_error() {
            return Err(MeasureError::Failed(e));
        }
        if Instant::now() > end {
            return Err(MeasureError::Stuck { what, secs });
        }
        pause(Duration::from_millis(1));
    }
    Ok(())
}

/// Sleeps, and calls `tick` some ten times a second.
///
/// # Errors
/// The workload fails meanwhile.
pub(crate) fn sleep(ctl: &Ctl, time: Duration, tick: &mut dyn FnMut(&Ctl)) -> Result<(), MeasureError> {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
        pause(left.min(Duration::from_millis(100)));
        tick(ctl);
        if let Some(e) = ctl.first_error() {
            return Err(MeasureError::Failed(e));
        }
    }
    Ok(())
}

/// Runs `traffic` for `secs` after a warm-up of a fifth of that, then lets it come to rest. Each of the two goes on, for
/// 20 s at most, until a message has arrived in it: a machine that stands still for longer than `secs` would else have
/// measured nothing.
/// `tick` is called some ten times a second with the bytes and messages so far.
///
/// # Errors
/// See [`wait_for`].
pub fn stretch(
    ctl: &Ctl,
    traffic: Traffic,
    secs: f64,
    tick: &mut dyn FnMut(&Ctl),
) -> Result<Stretch, MeasureError> {
    let so_far = || ctl.counts(traffic).0;
    let mut pass = |secs: f64| {
        let before = so_far();
        sleep(ctl, Duration::from_secs_f64(secs), tick)?;
        wait_for(ctl, "the first message", PATIENCE, || so_far() != before)
    };
    ctl.set_traffic(traffic);
    pass(secs / 5.0)?;
    let (m0, b0) = ctl.counts(traffic);
    let (t0, c0) = (Instant::now(), cpu_time());
    pass(secs)?;
    let (wall, cpu) = (t0.elapsed(), cpu_time() - c0);
    let (m1, b1) = ctl.counts(traffic);
    rest(ctl)?;
    Ok(Stretch { wall_s: wall.as_secs_f64(), cpu_s: cpu.as_secs_f64(), messages: m1 - m0, bytes: b1 - b0 })
}

/// Ends the traffic and waits until nothing is outstanding.
///
/// # Errors
/// See [`wait_for`].
pub fn rest(ctl: &Ctl) -> Result<(), MeasureError> {
    ctl.set_traffic(Traffic::Quiet);
    wait_for(ctl, "the end of all outstanding operations", PATIENCE, || ctl.is_quiet())
}

/// Runs `traffic` of this load, as [`stretch`]; and its round trips, those of the warm-up among them.
///
/// # Errors
/// See [`wait_for`].
pub fn loaded(ctl: &Ctl, traffic: Traffic, load: Load, secs: f64) -> Result<(Stretch, Rtt), MeasureError> {
    ctl.set_load(Some(load));
    let s = stretch(ctl, traffic, secs, &mut |_| ());
    ctl.set_load(None);
    // The client gives its histogram away before it is quiet.
    Ok((s?, last_rtt(ctl)))
}

/// The histogram of the traffic that ended last.
pub fn last_rtt(ctl: &Ctl) -> Rtt {
    ctl.trips().map(|h| Rtt::of(&h)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::ctl::bump;

    /// A client whose messages arrive so rarely that a stretch is over before the first.
    fn late(gap: Duration) -> (Arc<Ctl>, std::thread::JoinHandle<()>) {
        let ctl = Arc::new(Ctl::default());
        let c = ctl.clone();
        let client = std::thread::spawn(move || {
            while c.traffic() == Traffic::Quiet {
                std::thread::yield_now();
            }
            while c.traffic() != Traffic::Quiet {
                std::thread::sleep(gap);
                bump(&c.arrived, 1);
                bump(&c.bytes, 1 << 20);
            }
            c.quiet.store(true, Ordering::Release);
        });
        (ctl, client)
    }

    #[test]
    fn a_stretch_goes_on_until_something_has_arrived_in_it() {
        let (ctl, client) = late(Duration::from_millis(30));
        let s = stretch(&ctl, Traffic::Bulk, 0.001, &mut |_| ()).unwrap();
        client.join().unwrap();
        assert!(s.messages > 0 && s.gbit_per_cpu_s() > 0.0, "{s:?}");
    }

    #[test]
    fn a_workload_that_fails_ends_the_stretch() {
        let ctl = Ctl::default();
        ctl.fail("no way");
        let end = stretch(&ctl, Traffic::Bulk, 0.001, &mut |_| ()).map(|_| ());
        assert!(matches!(end, Err(MeasureError::Failed(e)) if e == "no way"));
    }
}
