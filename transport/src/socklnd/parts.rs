//! The parts of a message that is given up before it is whole (`begun.rs`).

/// The parts of a message that is being received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parts {
    /// The message's: what is said here is of no other.
    ticket: u64,
    /// Bytes of a part, or more.
    least: u32,
    /// Bytes given up so far.
    given: u32,
}

impl Parts {
    /// Parts of a message, of `least` bytes or more.
    pub(super) fn asked(ticket: u64, least: u32) -> Parts {
        Parts { ticket, least, given: 0 }
    }

    /// Whether a part of the message of that ticket was given up.
    pub(super) fn begun(&self, ticket: u64) -> bool {
        self.ticket == ticket && self.given > 0
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
    pub(super) fn came(&mut self, come: u32) {
        self.given = come;
    }
}
