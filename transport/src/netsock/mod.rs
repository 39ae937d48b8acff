//! Motr's netsock (docs/protocol/netsock.md): one transfer machine, [`Tm`], with its listening port, its connections and the
//! buffers on its six queues. A protocol on streams, beside socklnd.
//!
//! ```text
//!   whoever is above     add, cancel                     Completion: exactly one for each buffer
//!          │                                                   ^
//!          v                                                   │
//!   buffer   QUEUED: for a peer    WAITING: to be written    ENDING: pages come home
//!                 ^                      │
//!                 │ Fill                 v
//!   connection  reader: header, judge, payload      writer: header, pieces of pages, by reference
//!                 ^                      │
//!   stream      Bytes                  Send, Progress, Released
//! ```
//!
//! Sans-io: what happened to streams and a time in ns go in ([`Protocol`](crate::stream::Protocol)), actions and completions come
//! out. A packet is judged in `judge`, read in `receive`, written in `send`; `ends` has what is lost and given up.
//!
//! At an address of datagrams a machine has no connections: a packet is a datagram (`dgram_recv`, `dgram_send`), and `parts`
//! has the buffers of which some have come.
//!
//! A send completes when its pages are home: TCP has acknowledged the last byte and no reference is left. What differs from
//! Motr, and why, is in docs/netsock.md.
//!
//! ```
//! use transport::netsock::{Config, Op, Tm};
//! use transport::stream::{Action, Pages, Protocol};
//! use transport::wire::netsock::{Addr, Name};
//! # use hugepages::{PageRunMut, PrivatePages};
//!
//! let Name::Addr(here) = "inet:stream:10.0.0.1@5001".parse()? else { unreachable!() };
//! let Name::Addr(there) = "10.0.0.2@tcp:12345:34:1".parse()? else { unreachable!() };
//! let mut tm = Tm::new(Config::new(here, 1))?;
//! let page = PageRunMut::new(std::sync::Arc::new(PrivatePages), 4096)?.freeze();
//! let data = Pages::from_iter([page.slice_all()]);
//! tm.add(0, Op::MsgSend { to: there, data }, 7, None).map_err(|e| e.why)?;
//! assert!(matches!(tm.act(), Some(Action::Dial(d)) if d.remote.port() == 9217));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod buffer;
mod conn;
mod dgram_recv;
mod dgram_send;
mod ends;
mod judge;
mod list;
mod memory;
mod parts;
mod peer;
mod press;
mod receive;
mod refusal;
mod send;
mod tm;

use hugepages::PageSlice;

pub use self::memory::{Piece, RecvVec, Sink};
pub use self::refusal::{Notice, Refusal};
pub use self::tm::Tm;
pub(crate) use self::tm::counts;
use crate::stream::Pages;
use crate::wire::netsock::{Addr, Bdesc, errno};

/// One second in ns.
const SEC: u64 = 1_000_000_000;

/// A transfer machine's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its address: where the runtime listens, what connections are dialled from, what packets name as their source.
    pub addr: Addr,
    /// Generation of the first buffer. Each after it has the next one, so it must be above all of an earlier life: the time of
    /// the start does.
    pub first_generation: u64,
    /// A dial is given up after so many ns.
    pub dial_timeout: u64,
    /// First and longest pause between dials that fail, in ns.
    pub back_off: (u64, u64),
    /// A peer that stops in mid-packet is given up after so many ns; so is a message that is longer than every buffer yet.
    pub stall: u64,
    /// A message that comes slowly holds its buffer for so many ns while another waits for one, and longer by the bytes that
    /// have come, at [`Config::slowest`]. A message whose peer was reset waits for a buffer as long.
    pub patience: u64,
    /// Bytes a second that keep a message its buffer while others wait.
    pub slowest: u64,
    /// Connections that peers may have made, at a time.
    pub conns: usize,
    /// Those of them that may come from one address.
    pub conns_of_host: usize,
    /// Buffers, at a time.
    pub buffers: usize,
    /// Limits of a machine that is reached by datagrams.
    pub datagrams: Datagrams,
}

/// Limits of a machine that is reached by datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams {
    /// Bytes that leave at once, 1 KiB added for each datagram: what a socket buffer of the usual 208 KiB (twice that with
    /// the kernel's own needs) takes.
    pub burst: u64,
    /// Bytes a second after that.
    pub rate: u64,
    /// A buffer of which packets are missing is whole again after so many ns without one.
    pub silence: u64,
    /// Messages that have come in part, at a time.
    pub messages: usize,
    /// Those of them that one machine may have sent.
    pub messages_of_machine: usize,
}

impl Default for Datagrams {
    fn default() -> Datagrams {
        Datagrams { burst: 256 << 10, rate: 256 << 20, silence: SEC, messages: 1024, messages_of_machine: 64 }
    }
}

impl Config {
    /// The defaults, for a machine that starts at `unix_ns` of Unix time.
    pub fn new(addr: Addr, unix_ns: u64) -> Config {
        Config {
            addr,
            first_generation: unix_ns.max(1),
            dial_timeout: 10 * SEC,
            back_off: (SEC / 10, 5 * SEC),
            stall: 60 * SEC,
            patience: 4 * SEC,
            slowest: 16 << 10,
            conns: 4096,
            conns_of_host: 256,
            buffers: 1 << 20,
            datagrams: Datagrams::default(),
        }
    }
}

/// A transfer machine that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TmError {
    /// Peers compare its address with the one that its connections come from.
    #[error("{0} is no address of one machine with a port: give inet:stream:IP@PORT, or inet:dgram:IP@PORT")]
    Addr(Addr),
    /// Loans have names of 24 bits.
    #[error("{0} buffers, where at most 2^24 can be: lower it")]
    Buffers(usize),
}

/// Queues of a transfer machine, by Motr's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Takes a message.
    MsgRecv = 0,
    /// Sends a message.
    MsgSend = 1,
    /// Is filled by whoever has its descriptor.
    PassiveRecv = 2,
    /// Is fetched by whoever has its descriptor.
    PassiveSend = 3,
    /// Fetches the buffer of a descriptor.
    ActiveRecv = 4,
    /// Fills the buffer of a descriptor.
    ActiveSend = 5,
}

impl Queue {
    /// All of them, in the order of their numbers.
    pub const ALL: [Queue; 6] = [
        Queue::MsgRecv,
        Queue::MsgSend,
        Queue::PassiveRecv,
        Queue::PassiveSend,
        Queue::ActiveRecv,
        Queue::ActiveSend,
    ];
}

/// A buffer for a queue.
#[derive(Debug)]
pub enum Op {
    /// Takes one message. Messages go to the first that holds them.
    MsgRecv(Sink),
    /// Sends a message.
    MsgSend {
        /// To this transfer machine.
        to: Addr,
        /// Pages of the message.
        data: Pages,
    },
    /// Is filled by whoever has the descriptor, once.
    PassiveRecv(Sink),
    /// Is fetched by whoever has the descriptor, once.
    PassiveSend(Pages),
    /// Fetches a passive send.
    ActiveRecv {
        /// Its descriptor.
        desc: Bdesc,
        /// Where it comes.
        sink: Sink,
    },
    /// Fills a passive receive.
    ActiveSend {
        /// Its descriptor.
        desc: Bdesc,
        /// Pages that go there.
        data: Pages,
    },
}

impl Op {
    /// The queue.
    pub fn queue(&self) -> Queue {
        match self {
            Op::MsgRecv(_) => Queue::MsgRecv,
            Op::MsgSend { .. } => Queue::MsgSend,
            Op::PassiveRecv(_) => Queue::PassiveRecv,
            Op::PassiveSend(_) => Queue::PassiveSend,
            Op::ActiveRecv { .. } => Queue::ActiveRecv,
            Op::ActiveSend { .. } => Queue::ActiveSend,
        }
    }

    /// Bytes to send, or room for bytes that come.
    pub fn size(&self) -> u64 {
        match self {
            Op::MsgRecv(s) | Op::PassiveRecv(s) | Op::ActiveRecv { sink: s, .. } => s.size(),
            Op::MsgSend { data, .. } | Op::PassiveSend(data) | Op::ActiveSend { data, .. } => {
                data.iter().map(PageSlice::len).map(u64::from).sum()
            }
        }
    }

    /// The transfer machine that it goes to.
    fn target(&self) -> Option<Addr> {
        match self {
            Op::MsgSend { to, .. } => Some(*to),
            Op::ActiveRecv { desc, .. } | Op::ActiveSend { desc, .. } => Some(desc.addr),
            _ => None,
        }
    }
}

/// Names a buffer from [`Tm::add`] to its completion, and no other after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufId(u64);

/// A buffer that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// Its name.
    pub id: BufId,
    /// The descriptor of a passive buffer.
    pub desc: Option<Bdesc>,
}

/// Reason why a buffer was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// Its time is over already.
    #[error("the timeout is in the past")]
    Past,
    /// It has no bytes.
    #[error("a buffer of no bytes")]
    Empty,
    /// Nobody can be reached there.
    #[error("{0} is no address of another transfer machine that this one can reach")]
    Addr(Addr),
    /// The descriptor names no buffer.
    #[error("a descriptor with a cookie of zeros")]
    NoCookie,
    /// Too many buffers.
    #[error("{0} buffers are queued, no more are taken: wait for some")]
    Full(usize),
    /// The machine goes down.
    #[error("the transfer machine goes down")]
    Down,
}

impl AddError {
    /// Motr's error number, or the one that comes nearest.
    pub fn errno(&self) -> i32 {
        match self {
            AddError::Past => errno::ETIME,
            AddError::Empty => errno::EINVAL,
            AddError::Addr(_) | AddError::NoCookie => errno::EPROTO,
            AddError::Full(_) => errno::ENOBUFS,
            AddError::Down => errno::ESHUTDOWN,
        }
    }
}

/// A buffer that was not taken, and comes back.
#[derive(Debug)]
pub struct Unadded {
    /// The reason.
    pub why: AddError,
    /// The buffer.
    pub op: Op,
}

/// The end of a buffer's transfer.
#[derive(Debug)]
pub struct Completion {
    /// The buffer.
    pub id: BufId,
    /// As it was given to [`Tm::add`].
    pub tag: u64,
    /// Its queue.
    pub queue: Queue,
    /// 0, or a Linux error number.
    pub status: i32,
    /// Bytes that came, or went. 0 with an error.
    pub len: u64,
    /// Offset in the buffer at which they begin.
    pub offset: u64,
    /// The transfer machine that a message came from.
    pub from: Option<Addr>,
    /// The memory of a receive, whatever the status.
    pub sink: Option<Sink>,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets that came with a good header, and their payload in bytes.
    pub packets_rx: u64,
    /// Payload that went into buffers, in bytes.
    pub bytes_rx: u64,
    /// Packets begun, and their payload in bytes.
    pub packets_tx: u64,
    /// Payload that was given to TCP, in bytes.
    pub bytes_tx: u64,
    /// Payload that was copied for want of lendings, in bytes.
    pub copied: u64,
    /// Dials begun.
    pub dials: u64,
    /// Dials that failed, and connections that ended before a byte was acknowledged.
    pub dials_failed: u64,
    /// Packets refused, connections refused and stalls.
    pub refused: u64,
    /// Datagrams that had come before, or were too late.
    pub repeated: u64,
    /// Buffers whose missing datagrams were not waited for any longer.
    pub incomplete: u64,
    /// Refusals that nobody was told of: [`Tm::notice`] was not asked.
    pub unnoticed: u64,
    /// Messages that waited for a buffer.
    pub parked: u64,
    /// Payload dropped: of refused packets, and for buffers that were given up, in bytes.
    pub drained: u64,
}

impl Stats {
    /// Of two machines together.
    pub(crate) fn and(self, other: Stats) -> Stats {
        Stats {
            packets_rx: self.packets_rx + other.packets_rx,
            bytes_rx: self.bytes_rx + other.bytes_rx,
            packets_tx: self.packets_tx + other.packets_tx,
            bytes_tx: self.bytes_tx + other.bytes_tx,
            copied: self.copied + other.copied,
            dials: self.dials + other.dials,
            dials_failed: self.dials_failed + other.dials_failed,
            refused: self.refused + other.refused,
            repeated: self.repeated + other.repeated,
            incomplete: self.incomplete + other.incomplete,
            unnoticed: self.unnoticed + other.unnoticed,
            parked: self.parked + other.parked,
            drained: self.drained + other.drained,
        }
    }
}

/// Gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Buffers without completion.
    pub buffers: usize,
    /// Connections, closing ones too.
    pub conns: usize,
    /// End-points that are sent to.
    pub peers: usize,
    /// Connections whose message waits for a buffer.
    pub parked: usize,
    /// Buffers of which datagrams have come, and others have not.
    pub parts: usize,
    /// Loans that are out.
    pub loans: usize,
}

impl Gauges {
    /// Of two machines together.
    pub(crate) fn and(self, other: Gauges) -> Gauges {
        Gauges {
            buffers: self.buffers + other.buffers,
            conns: self.conns + other.conns,
            peers: self.peers + other.peers,
            parked: self.parked + other.parked,
            parts: self.parts + other.parts,
            loans: self.loans + other.loans,
        }
    }
}
