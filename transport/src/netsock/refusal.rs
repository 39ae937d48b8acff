//! Reasons to refuse a packet (docs/protocol/netsock.md §6, §12), in the order in which they are looked for.

use std::net::SocketAddr;

use super::Queue;
use crate::wire::netsock::{Addr, PacketError, errno};

/// Why a packet was refused. Its connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Checks 1 to 9.
    #[error("{0}")]
    Packet(PacketError),
    /// Check 10.
    #[error("a packet for {0}: another transfer machine's")]
    NotOurs(Addr),
    /// Check 11: netsock does not work through address translation, nor from another address than the machine's own.
    #[error("a packet of {0} on a connection from elsewhere: bind outgoing connections to that address")]
    NotTheirs(Addr),
    /// Check 12.
    #[error("a packet that names no buffer of either side")]
    NoBuffer,
    /// Check 13, for a cookie that never was or that has had its time.
    #[error("a cookie of no buffer: it was used already, or is not of this transfer machine")]
    Stale,
    /// Checks 14 and 15: the buffer is bound to another peer.
    #[error("a buffer that is another peer's")]
    Foreign,
    /// The buffer is not on a queue that the packet can be for.
    #[error("a packet for a buffer on the queue {0:?}")]
    WrongQueue(Queue),
    /// The buffer is being filled, or being sent, already.
    #[error("a second packet for a buffer while the first is under way")]
    Busy,
    /// An answer before the question.
    #[error("an answer to a GET that was not sent")]
    Unasked,
    /// A GET that is not one packet without payload.
    #[error("a GET with payload, or one of several")]
    GetShape,
    /// A GET without the asked buffer, or without one to answer to.
    #[error("a GET that leaves out a buffer")]
    GetCookie,
    /// More than the buffer holds.
    #[error("{total} bytes for a buffer of {room}")]
    TooLong {
        /// Bytes sent.
        total: u64,
        /// Bytes that there is room for.
        room: u64,
    },
    /// More than one packet. Nobody sends that on a stream, and Motr dies of it.
    #[error("one of {0} packets, where a stream has one a buffer")]
    Parts(u32),
    /// In mid-packet nothing came for too long.
    #[error("the rest of a packet did not come in time")]
    Stalled,
    /// A connection over the bound of its host, or of the machine.
    #[error("too many connections: {0} of this host")]
    TooMany(usize),
}

impl Refusal {
    /// Motr's error number, or the one that comes nearest.
    pub fn errno(&self) -> i32 {
        match self {
            Refusal::Packet(e) => e.errno(),
            Refusal::Foreign | Refusal::WrongQueue(_) | Refusal::Busy | Refusal::Unasked => errno::EPERM,
            Refusal::TooLong { .. } => errno::EMSGSIZE,
            Refusal::Stalled => errno::ETIMEDOUT,
            Refusal::TooMany(_) => errno::ENOBUFS,
            Refusal::NotOurs(_)
            | Refusal::NotTheirs(_)
            | Refusal::NoBuffer
            | Refusal::Stale
            | Refusal::GetShape
            | Refusal::GetCookie
            | Refusal::Parts(_) => errno::EPROTO,
        }
    }
}

/// A connection that was ended for what its peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The peer's end.
    pub remote: SocketAddr,
    /// The refusal.
    pub why: Refusal,
}
