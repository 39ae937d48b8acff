//! The pace of a message that leaves before it is whole (`cut.rs`).
//!
//! Its connection carries nothing else meanwhile, so whoever sends it may not take long: half of [`WHOLE`] for what the network does to
//! anybody (a lost segment's time-out is 200 ms), and half of it for the longest message's bytes. So it leaves within [`WHOLE`] all in
//! all, and one that stops is given up after half of that.

use crate::lnd::config::SEC;
use crate::wire::lnet;

/// Time for the longest message, from when it begins to leave, in ns. No more than half of the time-out: the peer has the other half to
/// acknowledge it.
const WHOLE: u64 = SEC;

/// Time by which more has to be here of a message that began to leave at `since`, and of which `left` bytes have left, in ns.
pub(super) fn due(since: u64, left: u64, timeout: u64) -> u64 {
    let half = WHOLE.min(timeout / 2) / 2;
    since.saturating_add(half + half * left.min(lnet::MTU.into()) / u64::from(lnet::MTU))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = lnet::MTU as u64;
    const PART: u64 = 16 << 10;
    const MS: u64 = SEC / 1000;

    /// Time at which a message is given up, or has left, whose sender gives `more` bytes each `every` ns.
    fn ends(more: u64, every: u64, timeout: u64) -> (u64, bool) {
        let (mut now, mut left) = (0, PART);
        while left < MIB {
            if now + every >= due(0, left, timeout) {
                return (due(0, left, timeout), false);
            }
            (now, left) = (now + every, MIB.min(left + more));
        }
        (now, true)
    }

    #[test]
    fn nobody_takes_longer_than_a_second() {
        assert_eq!(ends(0, SEC, 50 * SEC), (507_812_500, false), "nothing follows");
        // As little as is let, and each time just before it is due.
        for (more, every) in
            [(1, MS / 100), (PART, 15 * MS), (PART, 16 * MS), (MIB / 4, 300 * MS), (MIB, 505 * MS)]
        {
            let (at, _) = ends(more, every, 50 * SEC);
            assert!(at <= SEC, "{more} {every}: {at}");
        }
        // Honest ones: 1 Gbit/s, 20 Mbit/s, one whose last segments are sent again.
        for (more, every) in [(PART, MS / 8), (PART, 7 * MS), (MIB, 400 * MS)] {
            assert!(ends(more, every, 50 * SEC).1, "{more} {every}");
        }
        assert_eq!(
            ends(0, SEC, SEC),
            (253_906_250, false),
            "a time-out of a second leaves the peer half of it"
        );
    }
}
