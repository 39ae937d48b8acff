//! Names of connections, and events that a stack tells its user.

use std::net::SocketAddr;

use crate::ending::CloseWhy;

/// Stream offset of the end of something, in bytes from the start of the direction.
pub type Pos = u64;

/// A connection of a stack. Never reused for another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct FlowId {
    slot: u32,
    generation: u32,
}

impl FlowId {
    #[inline]
    pub(crate) fn new(slot: u32, generation: u32) -> FlowId {
        FlowId { slot, generation }
    }

    /// Its place in the stack's table: small, and used again once the connection is over.
    #[inline]
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// Tells users of a slot apart.
    #[inline]
    pub fn generation(self) -> u32 {
        self.generation
    }

    /// As a number, for tables of the caller's.
    pub fn as_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }
}

/// An event that a stack tells its user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The connection is open.
    Opened {
        /// Which.
        flow: FlowId,
        /// Our end.
        local: SocketAddr,
        /// The peer's.
        remote: SocketAddr,
        /// The peer dialled.
        passive: bool,
    },
    /// There is something to read ([`crate::Stack::next`]).
    Readable(FlowId),
    /// The peer has acknowledged, or more was sent.
    Progress {
        /// Which connection.
        flow: FlowId,
        /// Everything before this is acknowledged.
        acked: Pos,
        /// Everything before this was sent at least once.
        sent: Pos,
    },
    /// The peer sends no more.
    PeerFin(FlowId),
    /// The peer or the network has ended the connection, and bytes in order are unread. They may still be read;
    /// [`Event::Closed`] follows when they are, or with a close.
    Ended(FlowId),
    /// The connection is over, and everything that came in order was read or discarded; its id means nothing from
    /// here on.
    Closed {
        /// Which.
        flow: FlowId,
        /// Why.
        why: CloseWhy,
    },
}

const _: () = assert!(size_of::<Event>() <= 80);
