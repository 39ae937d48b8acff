//! Busy time of an lcore.

/// Statistics of an lcore's polling loop: how much of its time was busy. A turn's time is all that passes until the next turn begins,
/// idling included; a shard that shares its lcore with others counts theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoopStats {
    /// Turns that did something.
    pub busy_turns: u64,
    /// Turns that found nothing to do.
    pub idle_turns: u64,
    /// Time of turns that did something, in ns.
    pub busy_ns: u64,
    /// Time of turns that found nothing to do, in ns.
    pub idle_ns: u64,
    last: u64,
    was_busy: bool,
}

impl LoopStats {
    /// A turn begins at `now` (ns): the time since the last one began was that one's.
    #[inline]
    pub fn begin(&mut self, now: u64) {
        let passed = if self.last == 0 { 0 } else { now.saturating_sub(self.last) };
        self.last = now;
        if self.was_busy {
            self.busy_ns += passed;
        } else {
            self.idle_ns += passed;
        }
    }

    /// A turn ends, having found something to do or not.
    #[inline]
    pub fn end(&mut self, busy: bool) {
        self.was_busy = busy;
        self.busy_turns += u64::from(busy);
        self.idle_turns += u64::from(!busy);
    }

    /// The share of time that was busy, from 0 to 1; 0 before any has passed.
    pub fn busy(&self) -> f64 {
        let all = self.busy_ns + self.idle_ns;
        if all == 0 { 0.0 } else { self.busy_ns as f64 / all as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_owns_the_time_until_the_next_begins() {
        let mut p = LoopStats::default();
        for (now, busy) in [(100, true), (130, false), (230, false), (300, true), (310, true)] {
            p.begin(now);
            p.end(busy);
        }
        assert_eq!((p.busy_ns, p.idle_ns, p.busy_turns, p.idle_turns), (40, 170, 3, 2));
        assert!((p.busy() - 40.0 / 210.0).abs() < 1e-9);
    }
}
