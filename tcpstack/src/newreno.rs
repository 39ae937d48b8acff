//! Loss recovery against a peer without SACK (RFC 6582): three duplicate ACKs, then a hole for each partial ACK.
//!
//! The size of a hole is not known: the first try is one segment, and as long as the ACK comes to exactly where the
//! resent part ended (so what follows was lost, too) the next try is twice as long, up to a limit. An ACK that jumps
//! further starts at one segment again. Each duplicate ACK says that a segment has arrived, somewhere.

use std::ops::Range;

/// Duplicate ACKs that mean a loss (RFC 5681 §3.2).
const DUP_THRESH: u32 = 3;

/// Knowledge of holes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewReno {
    /// Duplicate ACKs since the last ACK of new data.
    dups: u32,
    /// End of the last recovery: duplicates below it are echoes of what was resent (RFC 6582 §3.2).
    recovered: u64,
    /// End of what was resent, and length of the last try.
    high: u64,
    quantum: u32,
}

impl NewReno {
    /// A duplicate ACK came. Returns whether it is the one that means a loss.
    pub fn dup(&mut self, una: u64) -> bool {
        self.dups = self.dups.saturating_add(1);
        self.dups == DUP_THRESH && una >= self.recovered
    }

    /// Segments that duplicate ACKs say have arrived.
    pub fn arrived(&self) -> u32 {
        self.dups
    }

    /// New data was acknowledged.
    pub fn acked(&mut self) {
        self.dups = 0;
    }

    /// Recovery ended with everything before `una` acknowledged.
    pub fn recovered(&mut self, una: u64) {
        self.recovered = una;
    }

    /// Recovery begins: the first hole.
    pub fn first(&mut self, una: u64, mss: u32) -> Range<u64> {
        (self.quantum, self.high) = (mss, una + u64::from(mss));
        una..self.high
    }

    /// The ACK of `una` ended short of what recovery waits for, which is `recover`: the next hole, unless the last
    /// one is still being filled.
    pub fn partial(&mut self, una: u64, recover: u64, mss: u32, max: u32) -> Option<Range<u64>> {
        if una < self.high {
            return None;
        }
        self.quantum = if una == self.high { (self.quantum * 2).min(max.max(mss)) } else { mss };
        self.high = (una + u64::from(self.quantum)).min(recover);
        Some(una..self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_duplicates_then_holes_that_grow() {
        let mut n = NewReno::default();
        assert_eq!((0..4).map(|_| n.dup(0)).collect::<Vec<_>>(), [false, false, true, false]);
        assert_eq!((n.arrived(), n.first(0, 100)), (4, 0..100));
        n.acked();
        assert_eq!(n.arrived(), 0);
        // Exactly the resent part; half of the second try; all of it; a jump; beyond the end.
        let tries = [100, 200, 300, 900, 1000].map(|una| n.partial(una, 1000, 100, 350));
        assert_eq!(tries, [Some(100..300), None, Some(300..650), Some(900..1000), Some(1000..1000)]);
        n.recovered(1000);
        n.acked();
        assert_eq!((0..4).map(|_| n.dup(900)).collect::<Vec<_>>(), [false; 4], "echoes");
        n.acked();
        assert_eq!((0..3).map(|_| n.dup(1000)).collect::<Vec<_>>(), [false, false, true]);
    }
}
