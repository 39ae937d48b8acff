//! The pace of a message that may have begun to leave before it is whole: what has come of it, and when more has to.
//!
//! Its next hop's connection carries nothing else meanwhile, so whoever sends it may not take long: half of [`WHOLE`] for what the
//! network does to anybody (a lost segment's time-out is 200 ms), and half of it for the longest message's bytes. So it has to come
//! within [`WHOLE`] all in all, and one that stops is given up after half of that.

use crate::lnd::config::SEC;
use crate::wire::lnet;

/// Time for the longest message, from its first part on, in ns. No more than half of the time-out: the peer has the other half to
/// acknowledge it.
const WHOLE: u64 = SEC;

/// The parts of a message that is being received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parts {
    /// The message's: what is said here is of no other.
    ticket: u64,
    /// Bytes of a part, or more.
    least: u32,
    /// Bytes given up so far.
    given: u32,
    /// Time at which the first part came, in ns.
    began: u64,
    /// Time by which more has to be here, in ns.
    next: u64,
}

impl Parts {
    /// Parts of a message, of `least` bytes or more.
    pub(super) fn asked(ticket: u64, least: u32) -> Parts {
        Parts { ticket, least, given: 0, began: u64::MAX, next: u64::MAX }
    }

    /// Whether a part of the message of that ticket was given up.
    pub(super) fn begun(&self, ticket: u64) -> bool {
        self.ticket == ticket && self.given > 0
    }

    /// Time by which that message has to have gone on, in ns; `u64::MAX` for one that comes as a whole.
    pub(super) fn due(&self, ticket: u64) -> u64 {
        if self.begun(ticket) { self.next } else { u64::MAX }
    }

    /// Whether they are parts of the message of that ticket.
    pub(super) fn asked_of(&self, ticket: u64) -> bool {
        self.ticket == ticket
    }

    /// Whether so many bytes of the message, all that have come, are enough for one more.
    pub(super) fn is_one(&self, come: u32) -> bool {
        come - self.given.min(come) >= self.least
    }

    /// All that have come, so many bytes, are given up.
    pub(super) fn came(&mut self, now: u64, come: u32, timeout: u64) {
        let half = WHOLE.min(timeout / 2) / 2;
        self.given = come;
        self.began = self.began.min(now);
        self.next = self.began + half + half * u64::from(come) / u64::from(lnet::MTU);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = lnet::MTU;
    const PART: u32 = 16 << 10;

    /// Time at which a message is given up, or has come, whose sender gives `more` bytes each `every` ns.
    fn ends(more: u32, every: u64, timeout: u64) -> (u64, bool) {
        let (mut p, mut now, mut come) = (Parts::asked(7, PART), 0, PART);
        assert_eq!(p.due(7), u64::MAX);
        p.came(now, come, timeout);
        while come < MIB {
            if now + every >= p.due(7) {
                return (p.due(7), false);
            }
            (now, come) = (now + every, MIB.min(come + more));
            if p.is_one(come) {
                p.came(now, come, timeout);
            }
        }
        (now, true)
    }

    #[test]
    fn nobody_takes_longer_than_a_second() {
        let ms = SEC / 1000;
        // Nothing follows, or next to nothing.
        assert_eq!(ends(0, SEC, 50 * SEC), (507_812_500, false));
        assert_eq!(ends(1, ms, 50 * SEC), (507_812_500, false));
        // As little as is let, each time just before it is due; and who keeps that.
        for (more, every) in
            [(PART, 8 * ms), (PART, 15 * ms), (PART, 16 * ms), (MIB / 4, 300 * ms), (MIB, 505 * ms)]
        {
            let (at, _) = ends(more, every, 50 * SEC);
            assert!(at <= SEC, "{more} {every}: {at}");
        }
        // An honest one: 1 Gbit/s, 20 Mbit/s, one whose last segment is sent again.
        assert!(
            ends(PART, ms / 8, 50 * SEC).1
                && ends(PART, 7 * ms, 50 * SEC).1
                && ends(MIB, 400 * ms, 50 * SEC).1
        );
        // A time-out of a second leaves the peer half of it.
        assert_eq!(ends(0, SEC, SEC), (253_906_250, false));
    }
}
