//! Where a connection stands in its set (docs/protocol/socklnd.md §2.6, §4): one that may be a duplicate of a dial of
//! ours is taken, and is not relied upon before it is known that the peer keeps it.
//!
//! ```text
//!          Refused, Overdue / used           Bytes, Sent
//!    HELD -------------------------> FRESH -----------------> PART
//!     |  Bytes / used                                           ^
//!     '---------------------------------------------------------'
//!    HELD, FRESH: Ended / it alone ends       PART: Ended / the set ends
//!    PART: Doubted --> HELD, as its HELLO comes
//! ```
//!
//! HELD is what begins while a dial of ours of its type is under way, or one of that type exists: a kernel that has ours
//! ends its own with FIN, says nothing, and loses what we sent on it. So does one that goes on with the set of a process
//! of ours that has ended, until it reads that we are another: it shows by a bulk connection without CONTROL. So nothing is sent on a HELD one, and it is no
//! BULK_OUT for zero-copy ACKs, until its first byte comes, or NONE to our dial says that it is the one that counts, or
//! [`HOLD`] has passed since the peer had our HELLO. All others stay PART, as which every one begins.

use crate::lnd::config::SEC;

/// How long a duplicate is held, in ns, once our HELLO has been acknowledged.
pub(super) const HOLD: u64 = 5 * SEC;

fsm::fsm! {
    /// The standing of a connection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Standing {
        /// Nothing is sent on it.
        Held,
        /// Nothing has come or gone on it.
        Fresh,
        /// It shares the set's fate.
        Part,
    }

    /// What moves it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum StandEvent {
        /// Its HELLO came while a dial of ours of its type is under way, or such a connection exists.
        Doubted,
        /// The first byte behind the HELLO came.
        Bytes,
        /// Our first message is sent on it.
        Sent,
        /// Our dial of its type came to nothing, and no other of that type may be used.
        Refused,
        /// [`HOLD`] has passed.
        Overdue,
        /// The peer ended it, with FIN or RST.
        Ended,
    }

    /// What follows.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum StandAction {
        /// Nothing.
        None,
        /// What waits for a connection may use it.
        Use,
        /// It ends, and no other.
        EndAlone,
        /// The set ends.
        EndSet,
    }

    table Standing + StandEvent => StandAction {
        start Part;
        else "nothing changes";
        Part + Doubted => Held, None;
        Held + Bytes => Part, Use;
        Held + Refused | Overdue => Fresh, Use;
        Fresh + Bytes | Sent => Part, None;
        Held | Fresh + Ended => same, EndAlone;
        Part + Ended => same, EndSet;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<Standing>(), @r"
        Held + Bytes -> Part, Use
        Held + Refused -> Fresh, Use
        Held + Overdue -> Fresh, Use
        Held + Ended -> Held, EndAlone
        Fresh + Bytes -> Part, None
        Fresh + Sent -> Part, None
        Fresh + Ended -> Fresh, EndAlone
        Part + Doubted -> Held, None
        Part + Ended -> Part, EndSet
        otherwise: nothing changes
        ");
    }
}
