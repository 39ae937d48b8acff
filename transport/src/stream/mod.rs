//! Byte streams: the orders of a protocol to its runtime, and the events that it hears.
//!
//! A protocol dials an address, gets a connection, sends messages whose pages it lends, and takes bytes as they come. It
//! names dials ([`DialId`]) and loans ([`LendId`]); the runtime names connections ([`ConnId`]). Nothing
//! here knows a NID, a version or a match entry: a protocol that is not LNet's stands here as socklnd does.
//!
//! ```text
//!        Opened, DialFailed, Progress, Bytes, LastBytes, PeerFin, Ended, Closed, Released, Listening
//!  runtime ---------------------------------------------------------------------------------> protocol
//!          <---------------------------------------------------------------------------------
//!            Dial, Send, Unhold, Read, Close, Listen, Unlisten     (Action)
//! ```
//!
//! Datagrams have no connection: they go by the addresses of both ends ([`Path`]), and come or do not.

pub(crate) mod actions;
mod dgram;
pub(crate) mod homes;
mod protocol;
pub(crate) mod slab;
pub(crate) mod timers;

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;
use hugepages::{PageSlice, RxFrag};
use smallvec::SmallVec;

pub use self::dgram::{DgramError, Path, dgram_headers};
pub use self::homes::{BUCKETS, Bucket, Homes};
pub use self::protocol::Protocol;
use self::slab::Key;

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
///
/// ```text
///   an LND's        8 bits: number on its shard   56: its own name for the dial
///   a protocol's    8: number, 16 or above        6: shard   6: none   44: its own name for the dial
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u64);

/// Bits of an LND's own name for a dial.
const DIAL_BITS: u32 = 56;
/// The number of the first protocol that is not LNet's: LNDs have those before it.
pub(crate) const FIRST_BESIDE: u8 = 16;

impl DialId {
    /// The name of what protocol `number` of a shard calls `name`, below 2^56.
    pub(crate) fn of_protocol(number: u8, name: u64) -> DialId {
        DialId(u64::from(number) << DIAL_BITS | name & ((1 << DIAL_BITS) - 1))
    }

    /// The protocol's number.
    pub(crate) fn number(self) -> u8 {
        (self.0 >> DIAL_BITS) as u8
    }

    /// The name of what protocol `number` of a shard, 16 or above, calls `name`, below 2^44.
    pub(crate) fn beside(number: u8, by: ShardId, name: u64) -> DialId {
        DialId::of_protocol(number, low(by.0.into(), 6) << 50 | low(name, NAME_BITS))
    }

    /// The number of a protocol beside LNet's, and its own name for the dial; `None` for an LND's.
    pub(crate) fn protocol(self) -> Option<(u8, u64)> {
        (self.number() >= FIRST_BESIDE).then(|| (self.number() - FIRST_BESIDE, low(self.0, NAME_BITS)))
    }

    /// The shard of the protocol that dialled; `None` for an LND's dial, which goes with its peer.
    pub(crate) fn stays_on(self) -> Option<ShardId> {
        self.protocol().map(|_| ShardId(low(self.0 >> 50, 6) as u16))
    }
}

/// Pages on loan to a connection, named by the machine that lent them, over all shards of a node. A name comes again
/// after 2^24 others in its slot, long after its pages are home. An LND has credits for 65,535 loans, and takes in those of
/// buckets that move to it.
///
/// ```text
///   an LND's        8 bits: bucket   6: shard   1: clear   4: number   24: generation   21: slot
///   a protocol's    8: bucket        6: shard   1: set     5: number   44: its own name for the loan
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LendId(pub u64);

const LND_BITS: u32 = 45;
const SLOT_BITS: u32 = 21;
const NAME_BITS: u32 = 44;
const BESIDE: u64 = 1 << 49;

fn low(n: u64, bits: u32) -> u64 {
    n & ((1 << bits) - 1)
}

impl LendId {
    fn at(bucket: Bucket, by: ShardId) -> u64 {
        u64::from(bucket.0) << 56 | u64::from(by.0) << 50
    }

    /// The name of what LND `number` of a shard, below 16, has in the slot `key`.
    pub(crate) fn new(bucket: Bucket, by: ShardId, number: u8, key: Key) -> LendId {
        let slot = low(key.index.into(), SLOT_BITS);
        let generation = low(key.generation.into(), LND_BITS - SLOT_BITS);
        let number = low(number.into(), 4);
        LendId(LendId::at(bucket, by) | number << LND_BITS | generation << SLOT_BITS | slot)
    }

    /// The name of what protocol `number` of a shard, below 32, calls `name`, below 2^44.
    pub(crate) fn of_protocol(bucket: Bucket, by: ShardId, number: u8, name: u64) -> LendId {
        let number = low(number.into(), 5);
        LendId(LendId::at(bucket, by) | BESIDE | number << NAME_BITS | low(name, NAME_BITS))
    }

    /// The protocol's number, and its own name for the loan; `None` for an LND's.
    pub(crate) fn protocol(self) -> Option<(u8, u64)> {
        let number = low(self.0 >> NAME_BITS, 5) as u8;
        (self.0 & BESIDE != 0).then_some((number, low(self.0, NAME_BITS)))
    }

    /// The shard of the protocol that lent; `None` for an LND's loan, which goes with its peer.
    pub(crate) fn stays_on(self) -> Option<ShardId> {
        self.protocol().map(|_| ShardId(low(self.0 >> 50, 6) as u16))
    }

    /// The LND's number.
    pub(crate) fn number(self) -> u8 {
        low(self.0 >> LND_BITS, 4) as u8
    }

    /// The bucket whose home hears of the release.
    pub fn bucket(self) -> Bucket {
        Bucket((self.0 >> 56) as u8)
    }

    /// The slot, on the shard that lent.
    pub(crate) fn slot(self) -> usize {
        low(self.0, SLOT_BITS) as usize
    }
}

/// The receiving end of a stream, on the peer's home lcore.
pub trait StreamRx {
    /// The next bytes in order. Taking a fragment opens the window by its length; the machine takes no more than
    /// it can use at once.
    fn next(&mut self) -> Option<RxFrag>;
    /// Puts back the unused rest of the fragment taken last; it is what [`StreamRx::next`] gives next. The window
    /// that it opened stays open.
    fn unread(&mut self, rest: RxFrag);
    /// Bytes that come next and lie together: none where the stream is empty, `None` where only [`StreamRx::read`] tells.
    /// The window is opened as if they were taken.
    fn front(&mut self) -> Option<&[u8]> {
        None
    }
    /// Drops the first `n` bytes of [`StreamRx::front`].
    fn skip(&mut self, _n: u32) {}
    /// Copies the next bytes into `to`, as many as there are and as it holds; gives their number.
    fn read(&mut self, to: &mut [u8]) -> usize {
        let mut n = 0;
        while let Some(room) = to.get_mut(n..).filter(|r| !r.is_empty())
            && let Some(mut frag) = self.next()
        {
            n += copy_out(&mut frag, room);
            if !frag.is_empty() {
                self.unread(frag);
            }
        }
        n
    }
}

/// Copies the first bytes of a fragment into `to`, and drops them from it; gives their number.
#[inline]
pub(crate) fn copy_out(frag: &mut RxFrag, to: &mut [u8]) -> usize {
    let n = to.len().min(frag.bytes().len());
    if let (Some(to), Some(from)) = (to.get_mut(..n), frag.bytes().get(..n)) {
        to.copy_from_slice(from);
    }
    frag.advance(n as u32);
    n
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

/// Reason why a dial failed.
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

impl DialError {
    /// Linux's number of the error, positive.
    pub fn errno(self) -> i32 {
        const EIO: i32 = 5;
        const EADDRNOTAVAIL: i32 = 99;
        const ENETUNREACH: i32 = 101;
        const ETIMEDOUT: i32 = 110;
        const ECONNREFUSED: i32 = 111;
        const EHOSTUNREACH: i32 = 113;
        match self {
            DialError::Refused => ECONNREFUSED,
            DialError::TimedOut => ETIMEDOUT,
            DialError::NoNeighbour | DialError::Unreachable => EHOSTUNREACH,
            DialError::NoRoute => ENETUNREACH,
            DialError::NoPort => EADDRNOTAVAIL,
            DialError::Local => EIO,
        }
    }
}

/// Reason why there is no listening at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Somebody does.
    #[error("somebody listens there already")]
    InUse,
    /// It is another machine's.
    #[error("it is no address of this node")]
    NotOurs,
    /// The process may not.
    #[error("this process may not listen there: ports below 1024 need CAP_NET_BIND_SERVICE")]
    Denied,
    /// Anything the runtime cannot name better.
    #[error("the runtime could not listen, or not go on listening")]
    Local,
}

/// Reason why a connection is gone.
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

/// News of streams, in the order they happened. In one turn of the runtime all `Progress` come before any `Bytes`, over
/// all connections: a zero-copy ACK may come on another connection than the bytes that it acknowledges.
pub enum Happened<'a> {
    /// A connection is up. Passive ones come without a dial.
    Opened(ConnId, ConnInfo),
    /// A dial came to nothing.
    DialFailed(DialId, DialError),
    /// New positions of a stream that we send on.
    Progress(ConnId, Progress),
    /// The stream has bytes. Given when there are new ones, and after [`Action::Read`].
    Bytes(ConnId, &'a mut dyn StreamRx),
    /// The peer sends no more, and not all that it sent was taken: [`Happened::PeerFin`] follows behind that. May be told more than
    /// once.
    LastBytes(ConnId),
    /// The peer sends no more, and all it sent has been taken.
    PeerFin(ConnId),
    /// The peer is gone (a RST, or TCP gave up), and not all that came from it was taken. That may still be taken;
    /// [`Happened::Closed`] follows behind it, or with a close. May be told more than once.
    Ended(ConnId),
    /// The last that is heard of a connection.
    Closed(ConnId, CloseWhy),
    /// The pages of a lend are free: TCP has let go, the hold was lifted or the connection died, and the NIC has
    /// let go. Exactly once for each [`SendMsg::lend`], after the `Progress` that made it true.
    Released(LendId),
    /// The fate of an [`Action::Listen`]. An error after a success: the address is lost, and none comes there any more.
    Listening(SocketAddr, Result<(), ListenError>),
    /// A datagram of so many bytes has come. Bytes that are not taken are dropped.
    Datagram(Path, u32, &'a mut dyn StreamRx),
    /// Datagrams that were sent this way did not get there, as far as one hears of that. Told before the pages of one that
    /// the runtime refused are released.
    Undelivered(Path, DgramError),
}

/// Most header and inline payload bytes of a message: those of lnet_selftest ride in the header.
pub const INLINE_MAX: usize = 280;
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
    /// Comes back as [`Happened::Released`].
    pub lend: Option<LendId>,
    /// The message carries a zero-copy cookie: keep the pages until [`Action::Unhold`] or the connection's death.
    pub hold: bool,
    /// An answer to a peer's request: it leaves a part of the lendings to operations of our own.
    pub answer: bool,
}

impl SendMsg {
    /// The message, taken out of its place.
    pub(crate) fn take(&mut self) -> SendMsg {
        let (hdr, pay) = (std::mem::take(&mut self.hdr), std::mem::take(&mut self.pay));
        SendMsg { hdr, pay, lend: self.lend.take(), ..*self }
    }
}

/// A connection that a protocol wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialSpec {
    /// Echoed in [`ConnInfo::dial`] or [`Happened::DialFailed`], one of which must come.
    pub id: DialId,
    /// The peer's end.
    pub remote: SocketAddr,
    /// Our address; the port is the runtime's choice.
    pub local_ip: IpAddr,
    /// Use a port from 1023 down to 512 (socklnd.md §1).
    pub privileged: bool,
    /// Time at which it is given up unless TCP is connected, in ns: [`DialError::TimedOut`], and nothing is left of it.
    pub until: u64,
}

/// Way of closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Send what was pushed, then FIN.
    Fin,
    /// RST at once; unsent bytes are lost.
    Abort,
}

/// Orders to the runtime, in order. Nearly all have a message in them: a box each would be an allocation each.
#[derive(Debug)]
pub enum Action {
    /// Connect.
    Dial(DialSpec),
    /// Push on a stream. The protocol keeps the backlog bounded.
    Send(ConnId, SendMsg),
    /// Nothing of the protocol needs the pages any more: lift the hold.
    Unhold(ConnId, LendId),
    /// The protocol takes bytes of this connection again: give [`Happened::Bytes`] if there are any, and
    /// [`Happened::PeerFin`] if that is where the stream stands.
    Read(ConnId),
    /// Close; [`Happened::Closed`] follows. Holds of the connection end with it.
    Close(ConnId, Close),
    /// Listen there; [`Happened::Listening`] follows. Connections that come are the asker's, whoever the peer.
    Listen(SocketAddr),
    /// Listen there no more. Connections that were told of stay.
    Unlisten(SocketAddr),
    /// Take datagrams there; [`Happened::Listening`] follows, and [`Action::Unlisten`] ends it.
    Bind(SocketAddr),
    /// Send a datagram. Its pages come home when it has left, or cannot.
    Datagram(Path, SendMsg),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were_and_none_is_anothers() {
        for (bucket, by, number, name) in
            [(0, 0, 0, 0), (255, 63, 30, (1 << 44) - 1), (7, 1, 3, 1 << 23), (1, 2, 1, (1 << 23) - 1)]
        {
            let l = LendId::of_protocol(Bucket(bucket), ShardId(by), number, name);
            assert_eq!((l.protocol(), l.bucket()), (Some((number, name)), Bucket(bucket)));
            let d = DialId::beside(FIRST_BESIDE + number, ShardId(by), name);
            assert_eq!(
                (d.protocol(), l.stays_on(), d.stays_on()),
                (l.protocol(), d.stays_on(), Some(ShardId(by)))
            );
            assert_eq!(DialId::of_protocol(FIRST_BESIDE - 1, u64::MAX).stays_on(), None);
            for number in [0, 15] {
                let key = Key { index: (1 << SLOT_BITS) - 1, generation: u32::MAX };
                let l = LendId::new(Bucket(bucket), ShardId(by), number, key);
                assert_eq!((l.protocol(), l.bucket(), l.number()), (None, Bucket(bucket), number));
                assert_eq!(l.slot(), (1 << SLOT_BITS) - 1);
            }
        }
    }
}
