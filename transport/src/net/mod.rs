//! Motr's `net` contract (docs/protocol/netxprt.md): transfer machines, end-points with counts of references, buffers on six
//! queues, pools, statistics, synchronous delivery. It stands above a transport ([`Xprt`]), of which there are two: [`Sock`] is
//! netsock's own wire protocol, [`LnetXprt`] is LNet as Motr uses it.
//!
//! ```text
//!   an application       calls                            Event, until there is none
//!         │                                                        ^
//!         v                                                        │
//!   Domain     transfer machines, end-points, buffers that are registered, pools
//!         │                                                        ^
//!         v  start, stop, add, del                                 │  Said
//!   Xprt       Sock over netsock::Tm                  LnetXprt over operations and events of LNet
//! ```
//!
//! Sans-io: a time in ns and what the transport was told go in, events come out. A [`Domain`] belongs to one shard, and has no
//! lock: its application runs on that shard ([`Host`]), or is there for a thread behind rings.
//!
//! A [`Buffer`] is its owner's, or queued: [`Domain::add`] takes it, its last event gives it back. So a queued buffer cannot be
//! touched, added twice or deregistered. An event holds what a callback of Motr's holds (a reference on an end-point, the machine's
//! count of callbacks) until the next one is asked for.

#[cfg(feature = "node")]
mod ask;
mod buffer;
mod domain;
mod ends;
mod error;
#[cfg(feature = "node")]
mod handle;
mod host;
mod lnet;
mod machine;
mod pool;
mod provision;
mod queues;
mod rows;
mod sock;
mod sync;
mod tms;
mod xprt;

#[cfg(feature = "node")]
pub use self::ask::AskError;
pub use self::buffer::{Buffer, Desc, Memory};
pub use self::domain::Domain;
pub use self::error::NetError;
#[cfg(feature = "node")]
pub use self::handle::{Call, Heard, NetHandle, Threaded, TmSetup, threaded};
pub use self::host::{Host, NetApp};
pub use self::lnet::{LnetAddr, LnetXprt, UseId};
pub use self::machine::TmState;
pub use self::pool::Colour;
pub use self::provision::Provision;
pub use self::sock::Sock;
pub use self::xprt::{Admitted, Came, Done, Job, Limits, RpcSizes, Said, Xprt};
use crate::lnd::{Pieces, RxPiece};
pub use crate::netsock::{Queue, RecvVec, Sink};
use crate::stream::slab::Key;

/// Names a transfer machine of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TmId(Key);

/// Names an end-point of a transfer machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EpId(Key);

/// Names a buffer that is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufId(Key);

/// Names a pool of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId(Key);

/// A buffer's use, which says the queue.
#[derive(Clone, Debug)]
pub enum Request {
    /// Takes messages, each into what the one before it left.
    MsgRecv {
        /// Bytes that must be left for another message. Over LNet no message may be longer.
        min_size: u64,
        /// Messages at most.
        max_msgs: u32,
    },
    /// Sends a message.
    MsgSend {
        /// To this end-point.
        to: EpId,
        /// Bytes from the begin of the buffer.
        len: u64,
    },
    /// Is filled by whoever has its descriptor, once.
    PassiveRecv,
    /// Is fetched by whoever has its descriptor, once.
    PassiveSend {
        /// Bytes from the begin of the buffer.
        len: u64,
    },
    /// Fetches the buffer of a descriptor.
    ActiveRecv {
        /// The descriptor.
        desc: Desc,
    },
    /// Fills the buffer of a descriptor.
    ActiveSend {
        /// The descriptor.
        desc: Desc,
        /// Bytes from the begin of the buffer.
        len: u64,
    },
}

impl Request {
    /// The queue.
    pub fn queue(&self) -> Queue {
        match self {
            Request::MsgRecv { .. } => Queue::MsgRecv,
            Request::MsgSend { .. } => Queue::MsgSend,
            Request::PassiveRecv => Queue::PassiveRecv,
            Request::PassiveSend { .. } => Queue::PassiveSend,
            Request::ActiveRecv { .. } => Queue::ActiveRecv,
            Request::ActiveSend { .. } => Queue::ActiveSend,
        }
    }

    /// Bytes to send, on a queue that sends.
    fn len(&self) -> Option<u64> {
        match self {
            Request::MsgSend { len, .. } | Request::PassiveSend { len } | Request::ActiveSend { len, .. } => {
                Some(*len)
            }
            _ => None,
        }
    }
}

/// A buffer that is queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// Its name, for [`Domain::del`].
    pub id: BufId,
    /// The descriptor of a passive buffer.
    pub desc: Option<Desc>,
}

/// A buffer that was not queued, and comes back.
#[derive(Debug)]
pub struct Unadded {
    /// The reason.
    pub why: NetError,
    /// The buffer.
    pub buffer: Buffer,
}

/// Memory that was not registered, and comes back.
#[derive(Debug)]
pub struct Unregistered {
    /// The reason.
    pub why: NetError,
    /// The memory.
    pub mem: Memory,
}

/// An event for the application.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are of buffers; a box each would be an allocation each"
)]
pub enum Event {
    /// A transfer machine has another state.
    State {
        /// The machine.
        tm: TmId,
        /// Its state.
        state: TmState,
        /// 0, or the error number with which it failed.
        status: i32,
        /// Its own end-point, once it is started.
        ep: Option<EpId>,
        /// Time in ns.
        time: u64,
    },
    /// A message came, or a buffer has come to its end.
    Buffer(BufEvent),
    /// A machine with synchronous delivery has events ([`Domain::notify`]).
    Pending(TmId),
    /// A pool that was empty has a buffer.
    NotEmpty(PoolId),
    /// A pool has fewer buffers than its threshold.
    BelowThreshold(PoolId),
}

/// The event of a buffer.
#[derive(Debug)]
pub struct BufEvent {
    /// The machine.
    pub tm: TmId,
    /// The buffer.
    pub id: BufId,
    /// The queue.
    pub queue: Queue,
    /// 0, or a Linux error number.
    pub status: i32,
    /// Bytes that came; of a send, bytes that went. 0 with an error.
    pub len: u64,
    /// Offset in the buffer at which they begin.
    pub offset: u64,
    /// The end-point that a message came from. It is there until the next event is asked for, and stays for whoever takes a
    /// reference before ([`Domain::ep_get`]).
    pub ep: Option<EpId>,
    /// Time in ns.
    pub time: u64,
    /// The pool that the buffer was taken from to wait for messages.
    pub pool: Option<PoolId>,
    /// The bytes of a message whose buffer stays queued, as they came in ([`BufEvent::parts`]): receive buffers, which are lent
    /// until the event is dropped.
    pub(crate) view: Option<Pieces>,
    /// The buffer; `None` while more events of it follow (Motr's RETAIN): [`Domain::queued`] shows it.
    pub buffer: Option<Buffer>,
}

impl BufEvent {
    /// The bytes that came, in parts. A thread has them with each event; on the shard, those that are lent are in the buffer
    /// while more events of it follow ([`Domain::queued`]).
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let lent = self.view.iter().flat_map(|v| v.iter().map(RxPiece::bytes));
        lent.chain(self.buffer.iter().flat_map(|b| b.bytes(self.offset, self.len)))
    }
}

/// Counts of a queue (§5.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Buffers added.
    pub adds: u64,
    /// Buffers given up.
    pub dels: u64,
    /// Events without an error.
    pub successes: u64,
    /// Events with one; buffers for messages that a pool did not have.
    pub failures: u64,
    /// Time of buffers in the queue, in ns.
    pub time: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Most bytes of one event.
    pub max_bytes: u64,
}
