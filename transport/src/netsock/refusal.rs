//! Reasons to refuse a packet (docs/protocol/netsock.md §6, §12), in the order in which they are looked for.

use std::net::SocketAddr;

use super::Queue;
use crate::wire::netsock::{Addr, PacketError, errno};

/// Reason why a packet was refused. Its connection ends; a datagram is dropped.
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
    /// A datagram of another length than its header says.
    #[error("{got} bytes of payload in a datagram that says {said}")]
    Length {
        /// Bytes said.
        said: u64,
        /// Bytes there.
        got: u64,
    },
    /// A datagram of a buffer that is not cut into equal packets and a rest.
    #[error(
        "packet {idx} of {nr} with {size} bytes: datagrams of a buffer are equally long but for the last"
    )]
    Cut {
        /// Number of the packet.
        idx: u32,
        /// Number of packets.
        nr: u32,
        /// Bytes in it.
        size: u64,
    },
    /// A message as a datagram, and no buffer for it; or one on a stream that was longer than every buffer for too long.
    #[error("no buffer for a message of {0} bytes, which is lost: queue more, or longer ones")]
    NoRoom(u64),
    /// In mid-packet nothing came for too long.
    #[error("the rest of a packet did not come in time")]
    Stalled,
    /// It came slowly, and others waited for its buffer.
    #[error("the rest of a message came too slowly while others waited for its buffer: queue more buffers")]
    Slow,
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
            Refusal::Stalled | Refusal::Slow => errno::ETIMEDOUT,
            Refusal::TooMany(_) | Refusal::NoRoom(_) => errno::ENOBUFS,
            Refusal::NotOurs(_)
            | Refusal::NotTheirs(_)
            | Refusal::NoBuffer
            | Refusal::Stale
            | Refusal::GetShape
            | Refusal::GetCookie
            | Refusal::Parts(_)
            | Refusal::Length { .. }
            | Refusal::Cut { .. } => errno::EPROTO,
        }
    }

    /// The name under which it is counted.
    pub fn name(&self) -> &'static str {
        match self {
            Refusal::Packet(PacketError::Truncated(_)) => "netsock_refused_truncated",
            Refusal::Packet(PacketError::HeaderMagic(_)) => "netsock_refused_header_magic",
            Refusal::Packet(PacketError::Tag(_)) => "netsock_refused_tag",
            Refusal::Packet(PacketError::FooterMagic(_)) => "netsock_refused_footer_magic",
            Refusal::Packet(PacketError::Checksum { .. }) => "netsock_refused_checksum",
            Refusal::Packet(PacketError::Index { .. }) => "netsock_refused_index",
            Refusal::Packet(PacketError::Wraps { .. }) => "netsock_refused_wraps",
            Refusal::Packet(PacketError::PastTotal { .. }) => "netsock_refused_past_total",
            Refusal::Packet(PacketError::FirstOffset(_)) => "netsock_refused_first_offset",
            Refusal::Packet(PacketError::LastEnd { .. }) => "netsock_refused_last_end",
            Refusal::NotOurs(_) => "netsock_refused_not_ours",
            Refusal::NotTheirs(_) => "netsock_refused_not_theirs",
            Refusal::NoBuffer => "netsock_refused_no_buffer",
            Refusal::Stale => "netsock_refused_stale",
            Refusal::Foreign => "netsock_refused_foreign",
            Refusal::WrongQueue(_) => "netsock_refused_wrong_queue",
            Refusal::Busy => "netsock_refused_busy",
            Refusal::Unasked => "netsock_refused_unasked",
            Refusal::GetShape => "netsock_refused_get_shape",
            Refusal::GetCookie => "netsock_refused_get_cookie",
            Refusal::TooLong { .. } => "netsock_refused_too_long",
            Refusal::Parts(_) => "netsock_refused_parts",
            Refusal::Length { .. } => "netsock_refused_length",
            Refusal::Cut { .. } => "netsock_refused_cut",
            Refusal::NoRoom(_) => "netsock_refused_no_room",
            Refusal::Stalled => "netsock_refused_stalled",
            Refusal::Slow => "netsock_refused_slow",
            Refusal::TooMany(_) => "netsock_refused_too_many",
        }
    }
}

/// A connection that was ended for what its peer did, or a datagram that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The peer's end.
    pub remote: SocketAddr,
    /// It sent a datagram.
    pub dgram: bool,
    /// The refusal.
    pub why: Refusal,
}
