//! Refusals of the contract at once, with Linux's error numbers as Motr gives them (docs/protocol/netxprt.md §5.3, §9).

use super::machine::TmState;
use crate::netsock::{AddError, TmError};
use crate::wire::netsock::{LnetDescError, NameError, ShortDesc, errno};
use crate::wire::{Brief, Nid};

/// Linux error numbers beside those of [`errno`].
const ENOENT: i32 = 2;
const EBUSY: i32 = 16;

/// A call that was refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// A name of something that is gone, or another domain's.
    #[error("{0} that is gone, or another domain's")]
    Gone(&'static str),
    /// The last reference on it is its transfer machine's.
    #[error(
        "the last reference on a transfer machine's own end-point is the machine's: give back only what you took"
    )]
    OwnEp,
    /// The transfer machine is not in a state for it.
    #[error("{call} in state {state:?}: it is for {wanted}")]
    State {
        /// The call.
        call: &'static str,
        /// The state.
        state: TmState,
        /// States that it is for.
        wanted: &'static str,
    },
    /// Something is still used.
    #[error("{count} {what} left: {remedy}")]
    Busy {
        /// Kind of what is left.
        what: &'static str,
        /// Number of them.
        count: usize,
        /// Way to be rid of them.
        remedy: &'static str,
    },
    /// The timeout is over already.
    #[error("the timeout is in the past")]
    Past,
    /// The buffer's memory is not for this queue.
    #[error("a buffer to {has} on a queue to {wants}: register one of the other kind")]
    Memory {
        /// Use of its memory.
        has: &'static str,
        /// Use that the queue makes of it.
        wants: &'static str,
    },
    /// A length of 0, or over the buffer's.
    #[error("{what} of {len} bytes with a buffer of {size}: give 1 to {size}")]
    Length {
        /// Name of the length.
        what: &'static str,
        /// It is.
        len: u64,
        /// Size of the buffer.
        size: u64,
    },
    /// No message at all.
    #[error("a buffer for at most 0 messages: give 1 or more")]
    NoMessages,
    /// Over the limit of the transport.
    #[error("a buffer of {size} bytes, where this transport moves at most {most}: split it")]
    TooLarge {
        /// Bytes.
        size: u64,
        /// The limit.
        most: u64,
    },
    /// Pieces over the limit of the transport.
    #[error(
        "a buffer of {pieces} segments of a page, where this transport moves at most {most}: align them to pages, or split it"
    )]
    Pieces {
        /// Segments, broken at page boundaries.
        pieces: u64,
        /// The limit.
        most: u64,
    },
    /// No address of the lnet transport.
    #[error("{:?} is no address of the form NID:12345:PORTAL:TMID: {what}", Brief(.text))]
    LnetName {
        /// The text.
        text: String,
        /// The part that is wrong.
        what: &'static str,
    },
    /// No address of netsock.
    #[error(transparent)]
    SockName(#[from] NameError),
    /// An end-point whose number is to be chosen.
    #[error("{:?} names no end-point: * is for the start of a transfer machine", Brief(.0))]
    Star(String),
    /// The address is another transfer machine's.
    #[error("{0} is another transfer machine's: give another number")]
    Taken(String),
    /// There can be no such machine of netsock.
    #[error(transparent)]
    SockTm(#[from] TmError),
    /// The NID or process is another node's.
    #[error("{0} is none of this node's NIDs: give one of those, and process 12345")]
    NotLocal(Nid),
    /// Descriptors have no room for the NID.
    #[error(
        "{0} does not fit a buffer descriptor of the lnet transport, which has 64 bits for it: give an IPv4 NID"
    )]
    LargeNid(Nid),
    /// No descriptor of the lnet transport.
    #[error(transparent)]
    LnetDesc(#[from] LnetDescError),
    /// No descriptor of netsock.
    #[error(transparent)]
    SockDesc(#[from] ShortDesc),
    /// Too long for any transport's.
    #[error("a buffer descriptor of {0} bytes: those of all transports have 48")]
    LongDesc(usize),
    /// The descriptor is for the other direction.
    #[error("a descriptor of a buffer to {0}: use it the other way round")]
    Direction(&'static str),
    /// The two buffers do not go together.
    #[error("{len} bytes for a buffer of {room}")]
    Fit {
        /// Bytes to move.
        len: u64,
        /// Room for them.
        room: u64,
    },
    /// netsock's machine took it not.
    #[error(transparent)]
    Sock(#[from] AddError),
    /// Too many buffers.
    #[error("{0} buffers are queued, no more are taken: wait for some")]
    Full(usize),
    /// The shard is of none of the CPTs.
    #[error(
        "this domain's shard is of CPT {0}, which is none of those asked for: make the domain on a shard of one of them"
    )]
    Cpt(u32),
    /// A pool that is another domain's, or gone.
    #[error("a pool that is gone, or another domain's")]
    Pool,
}

impl NetError {
    /// Linux's number of the error, positive.
    pub fn errno(&self) -> i32 {
        match self {
            NetError::Past => errno::ETIME,
            NetError::Busy { .. } => EBUSY,
            NetError::TooLarge { .. } | NetError::Pieces { .. } | NetError::Fit { .. } => errno::EFBIG,
            NetError::SockName(e) => e.errno(),
            NetError::Taken(_) => errno::EADDRINUSE,
            NetError::SockTm(TmError::Addr(_)) => errno::EADDRNOTAVAIL,
            NetError::NotLocal(_) => ENOENT,
            NetError::LargeNid(_) => errno::EAFNOSUPPORT,
            NetError::SockDesc(e) => e.errno(),
            NetError::Direction(_) => errno::EPERM,
            NetError::Sock(e) => e.errno(),
            NetError::Full(_) => errno::ENOBUFS,
            NetError::Gone(_)
            | NetError::OwnEp
            | NetError::State { .. }
            | NetError::Memory { .. }
            | NetError::Length { .. }
            | NetError::NoMessages
            | NetError::LnetName { .. }
            | NetError::Star(_)
            | NetError::LnetDesc(_)
            | NetError::LongDesc(_)
            | NetError::SockTm(TmError::Buffers(_))
            | NetError::Cpt(_)
            | NetError::Pool => errno::EINVAL,
        }
    }
}
