//! What goes into a [`Machine`](super::Machine) and what comes out.

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;
use hugepages::{PageSlice, RxFrag};
use smallvec::SmallVec;

use super::api::{Event, Op};
use super::boxes::MsgBox;
use super::homes::Bucket;
use super::lnet::remote::ShardMsg;
use super::moving::Luggage;
pub(super) use super::owner::AppId;
use super::slab::Key;
use crate::wire::{ConnType, Nid};

/// A shard of a node: the machine on one lcore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShardId(pub u16);

/// A connection, named by the runtime. Never used again for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    /// Shard that owns the flow.
    pub shard: ShardId,
    /// Slot there.
    pub index: u32,
    /// Distinguishes users of a slot.
    pub generation: u32,
}

/// A dial, named by the machine; no two shards of a node give the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u64);

/// Pages on loan to a connection, named by the machine that lent them, over all shards of a node. A name comes again
/// after 2^26 others in its slot, long after its pages are home. From the top: 8 bits of bucket, 6 of shard, 26 of
/// generation, 24 of slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LendId(pub u64);

impl LendId {
    pub(super) fn new(bucket: Bucket, by: ShardId, key: Key) -> LendId {
        let (bucket, by) = (u64::from(bucket.0), u64::from(by.0));
        let generation = u64::from(key.generation) & 0x3ff_ffff;
        LendId(bucket << 56 | by << 50 | generation << 24 | u64::from(key.index) & 0xff_ffff)
    }

    /// Whose home hears of the release.
    pub fn bucket(self) -> Bucket {
        Bucket((self.0 >> 56) as u8)
    }

    /// The slot, on the shard that lent.
    pub(super) fn slot(self) -> usize {
        (self.0 & 0xff_ffff) as usize
    }
}

/// A match entry. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeId(pub u64);

/// The receiving end of a stream, on the peer's home lcore.
pub trait StreamRx {
    /// The next bytes in order. Taking a fragment opens the window by its length; the machine takes no more than
    /// it can use at once.
    fn next(&mut self) -> Option<RxFrag>;
    /// Puts back the unused rest of the fragment taken last; it is what [`StreamRx::next`] gives next. The window
    /// that it opened stays open.
    fn unread(&mut self, rest: RxFrag);
}

/// Both ends of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnInfo {
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// The dial that made it; `None` when the peer connected.
    pub dial: Option<DialId>,
}

/// Positions in the byte stream that we send: bytes since the connection opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Progress {
    /// The peer's TCP has acknowledged everything before this.
    pub acked: u64,
    /// Everything before this has been transmitted at least once. Never below `acked`.
    pub sent: u64,
}

/// Why a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// RST in answer to the SYN.
    #[error("connection refused: is a node listening there?")]
    Refused,
    /// No answer.
    #[error("no answer to the connection request")]
    TimedOut,
    /// Nobody answered ARP or neighbour discovery for the next hop; kernels tell an ICMP error in the same word.
    #[error("the next hop does not answer")]
    NoNeighbour,
    /// No route leads there.
    #[error("no route leads there")]
    NoRoute,
    /// ICMP says that there is no way.
    #[error("the address cannot be reached")]
    Unreachable,
    /// No local port in the range allowed.
    #[error("all local ports allowed for this peer are in use")]
    NoPort,
    /// Anything the runtime cannot name better.
    #[error("the runtime could not dial")]
    Local,
}

/// Why a connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseWhy {
    /// Closed in order.
    Fin,
    /// RST from the peer.
    Reset,
    /// TCP gave up.
    Timeout,
    /// ICMP, link or port lost.
    Unreachable,
    /// We closed it.
    Local,
}

/// What happened, in the order it did. In one turn of the runtime all `Progress` come before any `Bytes`, over all
/// connections: a zero-copy ACK may come on another connection than the bytes that it acknowledges.
pub enum Input<'a> {
    /// A connection is up. Passive ones come without a dial.
    Opened(ConnId, ConnInfo),
    /// A dial came to nothing.
    DialFailed(DialId, DialError),
    /// New positions of a stream that we send on.
    Progress(ConnId, Progress),
    /// The stream has bytes. Given when there are new ones, and after [`Output::Read`].
    Bytes(ConnId, &'a mut dyn StreamRx),
    /// The peer sends no more, and all it sent has been taken.
    PeerFin(ConnId),
    /// The peer is gone (a RST, or TCP gave up), and not all that came from it was taken. That may still be taken;
    /// [`Input::Closed`] follows behind it, or with a close. May be told more than once.
    Ended(ConnId),
    /// The last input about a connection.
    Closed(ConnId, CloseWhy),
    /// The pages of a lend are free: TCP has let go, the hold was lifted or the connection died, and the NIC has
    /// let go. Exactly once for each [`SendMsg::lend`], after the `Progress` that made it true.
    Released(LendId),
    /// An application's operation.
    Cmd(AppId, Op),
    /// A message of another shard of the node.
    From(ShardId, ShardMsg),
    /// A bucket of peers has its home here now; it came from this shard.
    Adopt(ShardId, Box<Luggage>),
    /// Nothing about the bucket that was adopted comes over its old home any more.
    Settled(Bucket),
    /// A bucket has its home on that shard now.
    Moved(Bucket, ShardId),
    /// A box has been run, and is back at its home.
    Boxed(Box<MsgBox>),
    /// The time of [`Machine::deadline`](super::Machine::deadline) has come.
    Timer,
}

/// Most header and inline payload bytes of a message.
pub const INLINE_MAX: usize = 216;
/// Most payload bytes that ride in the header (V4: 24 + 96 bytes of headers).
pub const INLINE_PAYLOAD_MAX: usize = INLINE_MAX - 120;

/// Headers and small payload, copied by whoever takes them.
pub type InlineHdr = ArrayVec<u8, INLINE_MAX>;
/// The pages of a message, in order.
pub type Pages = SmallVec<[PageSlice; 2]>;

/// A message for the stream.
#[derive(Debug)]
pub struct SendMsg {
    /// Goes first.
    pub hdr: InlineHdr,
    /// Goes next; empty when `lend` is `None`.
    pub pay: Pages,
    /// Comes back as [`Input::Released`].
    pub lend: Option<LendId>,
    /// The message carries a zero-copy cookie: keep the pages until [`Output::Unhold`] or the connection's death.
    pub hold: bool,
    /// An answer to a peer's request: it leaves a part of the lendings to operations of our own.
    pub answer: bool,
}

/// A connection that the machine wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialSpec {
    /// Echoed in [`ConnInfo::dial`] or [`Input::DialFailed`], one of which must come.
    pub id: DialId,
    /// Whom it is for.
    pub peer: Nid,
    /// Where to.
    pub remote: SocketAddr,
    /// Where from; the port is the runtime's choice.
    pub local_ip: IpAddr,
    /// Use a port from 1023 down to 512 (socklnd.md §1).
    pub privileged: bool,
    /// Type that the connection will have: a hint for the choice of lcore.
    pub ctype: ConnType,
    /// When it is given up unless TCP is connected, in ns: [`DialError::TimedOut`], and nothing is left of it.
    pub until: u64,
}

/// How to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Send what was pushed, then FIN.
    Fin,
    /// RST at once; unsent bytes are lost.
    Abort,
}

/// What the runtime must do, in order.
pub enum Output {
    /// Connect.
    Dial(DialSpec),
    /// Push on a stream. The machine keeps the backlog bounded ([`Config::tx_window`](super::Config::tx_window)).
    Send(ConnId, SendMsg),
    /// The zero-copy ACK has come (or never will): lift the hold.
    Unhold(ConnId, LendId),
    /// The machine takes bytes of this connection again: give [`Input::Bytes`] if there are any, and
    /// [`Input::PeerFin`] if that is where the stream stands.
    Read(ConnId),
    /// Close; [`Input::Closed`] follows. Holds of the connection end with it.
    Close(ConnId, Close),
    /// For an application.
    Complete(AppId, Event),
    /// For another shard of the node.
    To(ShardId, ShardMsg),
    /// For whichever lcore of the CPT has time: to be run there, and to come back as [`Input::Boxed`] to the home that
    /// its bucket has by then. Only while [`Machine::share`](super::Machine::share) is on.
    Offer(Box<MsgBox>),
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Output::Dial(d) => write!(f, "Dial({d:?})"),
            Output::Send(c, m) => {
                write!(f, "Send({c:?}, {} B + {} runs, {:?})", m.hdr.len(), m.pay.len(), m.lend)
            }
            Output::Unhold(c, l) => write!(f, "Unhold({c:?}, {l:?})"),
            Output::Read(c) => write!(f, "Read({c:?})"),
            Output::Close(c, how) => write!(f, "Close({c:?}, {how:?})"),
            Output::Complete(a, e) => write!(f, "Complete({a:?}, {e:?})"),
            Output::To(s, _) => write!(f, "To({s:?})"),
            Output::Offer(b) => write!(f, "Offer({} B)", b.work()),
        }
    }
}
