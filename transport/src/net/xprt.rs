//! The operations of a transport (docs/protocol/netxprt.md §7), and what it says.

use std::fmt::{Debug, Display};
use std::hash::Hash;

use super::{BufId, Desc, Memory, NetError, Sink, TmId};
use crate::lnd::Data;
use crate::stream::DialError;

/// Limits of a transport, which a domain reads once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a buffer.
    pub buffer: u64,
    /// Bytes of a segment.
    pub segment: u64,
    /// Segments of a buffer.
    pub segments: u64,
    /// Bytes of a descriptor.
    pub desc: usize,
}

/// Sizes of buffers that Motr's RPC asks a transport for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RpcSizes {
    /// Bytes of a segment.
    pub segment: u64,
    /// Segments of a buffer.
    pub segments: u64,
    /// Bytes of a message.
    pub message: u64,
    /// Messages in one receive buffer.
    pub messages: u32,
}

/// The work of a buffer, its end-points by their addresses.
#[derive(Clone, Copy, Debug)]
pub enum Job<'a, A> {
    /// As [`Request::MsgRecv`](super::Request::MsgRecv).
    MsgRecv {
        /// Bytes that must be left.
        min_size: u64,
        /// Messages at most.
        max_msgs: u32,
    },
    /// Sends a message.
    MsgSend {
        /// To this address.
        to: A,
        /// Bytes.
        len: u64,
    },
    /// Waits to be filled.
    PassiveRecv,
    /// Waits to be fetched.
    PassiveSend {
        /// Bytes.
        len: u64,
    },
    /// Fetches.
    ActiveRecv {
        /// The descriptor of the buffer there.
        desc: &'a Desc,
    },
    /// Fills.
    ActiveSend {
        /// The descriptor of the buffer there.
        desc: &'a Desc,
        /// Bytes.
        len: u64,
    },
}

/// A buffer that a transport took.
#[derive(Clone, Debug)]
pub struct Admitted<T> {
    /// The transport's name for this use of the buffer, never used again.
    pub token: T,
    /// The descriptor of a passive buffer.
    pub desc: Option<Desc>,
}

/// Bytes that came, and the way they did.
#[derive(Debug)]
pub enum Came {
    /// None, or none in this event.
    Nothing,
    /// They lie in the buffer's memory, which the transport had.
    In(Sink),
    /// They are to be stored in the buffer's memory, at the event's offset.
    Data(Data),
}

/// A message for a buffer, or its end.
#[derive(Debug)]
pub struct Done<A, T> {
    /// The buffer.
    pub buf: BufId,
    /// The use of it.
    pub token: T,
    /// 0, or a Linux error number.
    pub status: i32,
    /// Bytes that came.
    pub len: u64,
    /// Offset in the buffer at which they begin.
    pub offset: u64,
    /// Source of a message.
    pub from: Option<A>,
    /// The bytes.
    pub came: Came,
    /// It stays queued.
    pub retained: bool,
}

/// Words of a transport.
#[derive(Debug)]
pub enum Said<A, T> {
    /// The machine may be used; its own address, any `*` replaced.
    Started(TmId, A),
    /// It cannot be used, with this error number.
    Failed(TmId, i32),
    /// It has let go of its address.
    Stopped(TmId),
    /// A message waits for a buffer that holds it: none on the queue does, or all that do are being filled.
    Starved(TmId),
    /// A buffer's event.
    Done(Done<A, T>),
}

/// A transport. Its calls return at once; what comes of them it says later ([`Xprt::said`]).
pub trait Xprt {
    /// An end-point's address: equal addresses are one end-point.
    type Addr: Copy + Eq + Hash + Debug + Display;
    /// Name of one use of a buffer.
    type Token: Copy + Eq + Debug;

    /// Its limits.
    fn limits(&self) -> Limits;
    /// Whether segments over the limits are refused when they are registered.
    fn enforces_limits(&self) -> bool;
    /// Sizes for RPC; `message` bytes are wanted, 0 for the most.
    fn rpc_sizes(&self, message: u64) -> RpcSizes;
    /// The address of an end-point.
    ///
    /// # Errors
    /// The name is none, or ends in `*`.
    fn address(&self, name: &str) -> Result<Self::Addr, NetError>;
    /// Gets a machine ready at a name, which may end in `*`. Says [`Said::Started`] or [`Said::Failed`].
    ///
    /// # Errors
    /// The machine has failed at once.
    fn start(&mut self, now: u64, tm: TmId, name: &str) -> Result<(), NetError>;
    /// Lets go of a machine that has no buffers. Says [`Said::Stopped`].
    fn stop(&mut self, now: u64, tm: TmId);
    /// Takes a buffer. What it needs of its memory it takes out, and gives it back with the last event. Its time is over at
    /// `until`, in ns.
    ///
    /// # Errors
    /// It was not taken; its memory is as it was.
    fn add(
        &mut self,
        now: u64,
        tm: TmId,
        buf: BufId,
        mem: &mut Memory,
        job: Job<'_, Self::Addr>,
        until: Option<u64>,
    ) -> Result<Admitted<Self::Token>, NetError>;
    /// Gives a buffer up: its end is told in any case, with ECANCELED unless it is too late for that.
    fn del(&mut self, now: u64, token: Self::Token);
    /// Time has come to this, in ns.
    fn turn(&mut self, now: u64);
    /// The last dial of a machine's to an end-point, which came to nothing; `None` where there is a connection, or none was wanted. LNet tells the
    /// same with an operation's end.
    fn unreached(&self, _: TmId, _: &Self::Addr) -> Option<DialError> {
        None
    }

    /// Whether a descriptor that a peer has told of is of the peer's own host, as far as the transport can tell.
    fn is_of(&self, _: &Desc, _: &Self::Addr) -> bool {
        true
    }

    /// Time at which [`Xprt::turn`] has something to do, in ns.
    fn deadline(&self) -> Option<u64>;
    /// Buffers that it has: taken, and their end not said.
    fn buffers(&self) -> usize;
    /// The next thing that it says.
    fn said(&mut self) -> Option<Said<Self::Addr, Self::Token>>;
}
