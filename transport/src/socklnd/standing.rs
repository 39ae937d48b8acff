//! Standing of a connection in its set (docs/protocol/socklnd.md §2.6, §4). A connection that may be a duplicate of a dial
//! of ours is accepted, but nothing relies on it until it is known that the peer keeps it.
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
//! Every connection begins as PART, and most stay so. A connection becomes HELD if its HELLO comes while we dial one of
//! its type, or have one. The peer may then have ours, too: a kernel ends its own with FIN, says nothing, and loses the
//! messages that we sent on it. The same is to be feared of a kernel that goes on with the set of an earlier process of
//! ours, until it reads our new incarnation; a bulk connection without CONTROL gives it away. So nothing is sent on a HELD
//! connection, and it is no BULK_OUT for zero-copy ACKs, until one of three: its first byte comes, NONE to our dial says
//! that this connection is the one that counts, or [`HOLD`] has passed since the peer had our HELLO.

use crate::lnd::config::SEC;

/// Time that a duplicate is held, in ns, once our HELLO has been acknowledged.
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

    /// Events of a connection's standing.
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

    /// Consequences.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum StandAction {
        /// Nothing.
        None,
        /// Messages that wait for a connection may use it.
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
