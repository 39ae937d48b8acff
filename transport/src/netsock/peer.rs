//! An end-point that we send to: at most one connection dialled to it, and the packets that wait for it.
//!
//! ```text
//!          Want               Opened
//!   IDLE --------> DIALLING ---------> OPEN
//!    ^              |     ^             | |
//!    |       Failed |     | Want        | |
//!    |              v     |             | |
//!    |<-- Rest --- BACK_OFF <-- Failed -' |
//!    '-------------- Lost ----------------'
//! ```
//!
//! Motr gives up after a failed connect until the next buffer is added; here it is tried again, ever more seldom, as long as
//! something waits. A connection that ends before the peer has acknowledged a byte counts as failed.

use std::net::SocketAddr;

use fsm::Fsm;

use super::list::List;
use crate::stream::DialError;
use crate::stream::slab::Key;
use crate::wire::netsock::Addr;

fsm::fsm! {
    /// State of the connection to an end-point.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum PeerState { Idle, Dialling, Open, BackOff }

    /// Events of it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum PeerEvent {
        /// Something waits, and it is time.
        Want,
        /// The connection is there.
        Opened,
        /// It did not come, or was of no use.
        Failed,
        /// It was lost.
        Lost,
        /// Nothing waits any more.
        Rest,
    }

    table PeerState + PeerEvent {
        start Idle;
        else "nothing changes";
        Idle | BackOff + Want => Dialling;
        Dialling + Opened => Open;
        Dialling | Open + Failed => BackOff;
        Open + Lost => Idle;
        BackOff + Rest => Idle;
    }
}

/// An end-point.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) addr: Addr,
    pub(super) at: SocketAddr,
    pub(super) state: Fsm<PeerState>,
    /// The connection, in OPEN.
    pub(super) conn: Key,
    pub(super) writers: List,
    /// Dials that failed, one after the other.
    pub(super) failures: u32,
    /// Time at which the last one did, in ns.
    pub(super) failed_at: u64,
    /// Reason why the last dial failed, until one does not.
    pub(super) why: Option<DialError>,
    /// In BACK_OFF: when to dial again, in ns.
    pub(super) again: u64,
}

impl Peer {
    pub(super) fn new(addr: Addr, at: SocketAddr) -> Peer {
        Peer {
            addr,
            at,
            state: Fsm::START,
            conn: Key::NOWHERE,
            writers: List::EMPTY,
            failures: 0,
            failed_at: 0,
            why: None,
            again: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<PeerState>(), @r"
        Idle + Want -> Dialling
        Dialling + Opened -> Open
        Dialling + Failed -> BackOff
        Open + Failed -> BackOff
        Open + Lost -> Idle
        BackOff + Want -> Dialling
        BackOff + Rest -> Idle
        otherwise: nothing changes
        ");
    }
}
