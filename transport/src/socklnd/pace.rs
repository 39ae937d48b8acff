//! The pace of a message that may have begun to leave before it is whole: what has come of it, and when more has to.

/// Time for the next part of a message to come, once it may have begun to leave, as a part of the time-out.
const PACE: u64 = 10;
/// Time for all of it, as a part of the time-out: the peer has the other half to acknowledge it.
const WHOLE: u64 = 2;

/// The parts of a message that is being received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parts {
    /// The message's: what is said here is of no other.
    ticket: u64,
    /// Bytes of a part, or more.
    least: u32,
    /// Bytes given up so far.
    given: u32,
    /// When the next part has to be here, and when all of it, in ns.
    next: u64,
    whole: u64,
}

impl Parts {
    /// Parts of a message, of `least` bytes or more.
    pub(super) fn asked(ticket: u64, least: u32) -> Parts {
        Parts { ticket, least, given: 0, next: u64::MAX, whole: u64::MAX }
    }

    /// Whether a part of the message of that ticket was given up.
    pub(super) fn begun(&self, ticket: u64) -> bool {
        self.ticket == ticket && self.given > 0
    }

    /// When that message has to have gone on, in ns; `u64::MAX` for one that comes as a whole.
    pub(super) fn due(&self, ticket: u64) -> u64 {
        if self.begun(ticket) { self.next.min(self.whole) } else { u64::MAX }
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
        self.given = come;
        self.next = now + timeout / PACE;
        self.whole = self.whole.min(now + timeout / WHOLE);
    }
}
