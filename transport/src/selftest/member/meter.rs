//! Measures of the client's RPCs, for whoever watches: a console in the same process, or a bench.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

/// Counts and round trips of a member's own RPCs. Counts are there at once, round trips within [`FOLD`].
#[derive(Debug, Default)]
pub struct Meter {
    /// RPCs that ended well.
    pub rpcs: AtomicU64,
    /// RPCs that did not, or whose data was wrong.
    pub failed: AtomicU64,
    /// Bytes that reads brought.
    pub read: AtomicU64,
    /// Bytes that writes took away.
    pub written: AtomicU64,
    /// Bytes served to others' reads.
    pub served_read: AtomicU64,
    /// Bytes taken from others' writes.
    pub served_written: AtomicU64,
    rtt: Mutex<Option<Histogram<u64>>>,
}

/// Until round trips are seen by others, in ns.
pub const FOLD: u64 = 50_000_000;

/// Adds to a count. The member's lcore is its only writer.
pub(super) fn bump(n: &AtomicU64, by: u64) {
    n.store(n.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

impl Meter {
    /// RPCs that ended well, and payload that moved in either role, in bytes.
    pub fn totals(&self) -> (u64, u64) {
        let bytes = [&self.read, &self.written, &self.served_read, &self.served_written];
        let sum = bytes.iter().map(|n| n.load(Ordering::Relaxed)).sum();
        (self.rpcs.load(Ordering::Relaxed), sum)
    }

    /// Round trips of RPCs that ended well since the last call, in ns.
    pub fn take_rtt(&self) -> Option<Histogram<u64>> {
        self.rtt.lock().ok()?.take()
    }
}

/// Round trips that others have not seen yet.
#[derive(Debug, Default)]
pub(super) struct Recent {
    rtt: Option<Histogram<u64>>,
    /// The first of them was noted then, in ns.
    since: Option<u64>,
}

impl Recent {
    /// Notes a round trip. The first one makes the table.
    pub(super) fn note(&mut self, now: u64, ns: u64) {
        // 1 ns to 1000 s, two digits: bounds that the constructor accepts.
        let made = || Histogram::new_with_bounds(1, 1_000_000_000_000, 2).ok();
        if self.rtt.is_none() {
            self.rtt = made();
        }
        if let Some(h) = &mut self.rtt {
            h.saturating_record(ns.max(1));
            self.since.get_or_insert(now);
        }
    }

    /// Gives them to others, unless one of those has the table in its hands at the moment.
    pub(super) fn fold(&mut self, now: u64, meter: &Meter) {
        if self.since.is_none_or(|t| now.saturating_sub(t) < FOLD) {
            return;
        }
        let (Some(own), Ok(mut seen)) = (&mut self.rtt, meter.rtt.try_lock()) else { return };
        match seen.as_mut() {
            Some(all) => drop(all.add(&*own)),
            None => *seen = Some(own.clone()),
        }
        own.reset();
        self.since = None;
    }
}
