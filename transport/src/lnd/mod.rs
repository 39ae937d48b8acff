//! The contract between LNet and its LNDs: two traits, and what they hand each other.
//!
//! ```text
//!                       Lnet: Upper
//!    send, recv, find ...   |   ^   parse, deliver, finalize, kick ...
//!                           v   |
//!                     Socklnd: Lnd
//! ```
//!
//! | kernel | here | says |
//! |---|---|---|
//! | `lnd_send` | `Lnd::send` | header, payload by reference, peer, token |
//! | `lnet_parse` | `Upper::parse` | a header has come; LNet says where its payload goes |
//! | `lnd_recv` | `Lnd::recv` | there |
//! | `lnet_finalize` | `Upper::finalize`, `Upper::unsent`, `Upper::deliver` | a message was sent, or received, or will not be |
//! | `lnd_notify` | `Upper::peer_new`, `Upper::peer_lost`, `Upper::peer_gone`, `Upper::kick` | an entry comes, goes, has room again |
//!
//! Each side is lent the other for the length of a call, and both are lent the shard's common state (`Cx`); nothing is
//! queued or allocated in between. An LND knows no portal, no match entry and no application; LNet knows no connection.

pub(crate) mod budget;
pub mod by_hand;
pub mod config;
pub mod counters;
mod memory;
mod message;
pub mod nis;
mod owner;
mod pieces;
pub(crate) mod placement;
pub mod route;
pub(crate) mod timers;
pub mod tunables;

use std::collections::{HashSet, VecDeque};
use std::fmt::Debug;
use std::net::IpAddr;

pub use self::budget::Held;
pub(crate) use self::budget::{Budget, Uses, trim};
pub use self::by_hand::{BY_HAND_MAX, NIDS_OF_PEER, PeerByHand, PeerError, PeerParseError};
pub use self::config::{
    Accept, Config, LENDINGS, NIS_MAX, NiConfig, Routing, Shards, ShardsError, Tcp, TcpKind,
};
pub use self::counters::{ByType, Counters, Moved};
pub use self::memory::{Data, LnetError, Payload, Sink};
pub(crate) use self::message::Tx;
pub use self::nis::{NewNi, NiError};
pub(crate) use self::owner::Owner;
pub use self::owner::{AppId, AppIdError, SHARDS_MAX};
pub use self::pieces::{Pieces, RxPiece};
pub(crate) use self::placement::{Dest, Placement};
pub use self::route::{ROUTES_MAX, Route, RouteError};
use crate::stream::actions::Actions;
use crate::stream::slab::Key;
use crate::stream::{Action, BUCKETS, Bucket, ConnId, Homes};
use crate::wire::ksock::Checksum;
use crate::wire::{LnetHdr, Nid, ProcessId};

/// Cost of a message to its home without its payload, in ns.
const MESSAGE_NS: u64 = 500;
/// Bytes copied or summed in a ns: what a core does out of cache (`pollnd bench cpt`).
pub(crate) const BYTES_A_NS: u64 = 6;

/// Places that a queue of outputs keeps when it is empty: what ends for all peers at once may be a hundred times as many.
pub(crate) const OUT_KEPT: usize = 4096;

/// Takes the next output of a queue; one that a storm has filled gives its memory back once it is empty.
#[inline]
pub(crate) fn pop<T>(q: &mut VecDeque<T>) -> Option<T> {
    // Whether it is empty is asked first: an output that is looked at in its place is copied once more.
    if q.is_empty() {
        if q.capacity() > OUT_KEPT {
            q.shrink_to(OUT_KEPT);
        }
        return None;
    }
    q.pop_front()
}

/// An NI of the node, by its place in the lists of LNet and of the LNDs. The place of one that was deleted may be another's later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub(crate) struct NiId(pub(crate) u8);

impl NiId {
    #[inline]
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// State that the layers of a shard share.
#[derive(Debug)]
pub struct Cx {
    /// Time of the present input, in ns.
    pub(crate) now: u64,
    pub(crate) cfg: Config,
    pub(crate) counters: Counters,
    /// Orders to the runtime.
    pub(crate) actions: Actions,
    pub(crate) budget: Budget,
    pub(crate) homes: Homes,
    /// Cost of each bucket's messages so far, in ns, by estimate.
    pub(crate) load: Box<[u64; BUCKETS]>,
    /// The node goes down: nothing new is begun.
    pub(crate) down: bool,
}

impl Cx {
    pub(crate) fn new(cfg: Config) -> Cx {
        Cx {
            now: 0,
            counters: Counters::default(),
            actions: Actions::default(),
            budget: Budget::new(cfg.budget),
            homes: Homes::new(cfg.shards.count),
            load: Box::new([0; BUCKETS]),
            down: false,
            cfg,
        }
    }

    #[inline]
    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// A message was handled, and so many bytes of it were touched.
    pub(crate) fn spent(&mut self, b: Bucket, touched: u64) {
        if let Some(ns) = self.load.get_mut(usize::from(b.0)) {
            *ns += MESSAGE_NS + touched / BYTES_A_NS;
        }
    }
}

/// A message whose header has come, and whose payload waits in the stream.
#[derive(Debug)]
pub(crate) struct Arrived {
    /// The connection, in the LND's table.
    pub(crate) key: Key,
    /// Its LNet peer.
    pub(crate) peer: Key,
    /// The LND's entry of that.
    pub(crate) entry: Key,
    /// The peer that delivered it.
    pub(crate) sender: Nid,
    pub(crate) hdr: LnetHdr,
    /// The sum that its payload goes on from, if it has one.
    pub(crate) sum: Option<Checksum>,
    /// Time at which what its sender left is over, in ns, if that has gone.
    pub(crate) over: u64,
}

/// Name of a held message, by which it is found again from any shard of the node, wherever its connection's home is by then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    pub(crate) ni: NiId,
    pub(crate) conn: ConnId,
    pub(crate) bucket: Bucket,
    /// Distinguishes messages of the connection.
    pub(crate) serial: u64,
}

/// Why nothing more is read of a connection for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The message waits until [`Lnd::recv`] or [`Lnd::again`].
    Match,
    /// So it does, but it may be long: the connection's set is closed as if the message did not go on arriving.
    Lazy,
    /// It waits for a sink that another message has, for a time-out since it came: then LNet gives it up ([`Upper::overdue`]), and its
    /// connection goes on.
    Sink,
    /// So it does, for so many ns at most: then LNet gives it up ([`Upper::overdue`]), and its connection goes on.
    LazyFor(u64),
    /// It is on its way to another node, and waits for a router buffer: it is given up as a lazy one is, or, where its sender has gone,
    /// alone ([`Upper::overdue`]), when what that left is over.
    Buffer,
    /// Its peer has to read some of what it was answered.
    Unread,
}

/// A way to a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// The connection, in the LND's table.
    pub(crate) conn: Key,
    /// Nothing is before a message that takes it: it is on the stream at once.
    pub(crate) clear: bool,
}

/// A message's payload, stored or not.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Its place, if it was stored.
    pub(crate) dest: Option<Dest>,
    pub(crate) data: Data,
    pub(crate) status: Result<(), LnetError>,
}

/// LNet, as an LND sees it.
pub(crate) trait Upper: Sized {
    /// LNet's token of a message, which comes back when the message was sent, or will not be.
    type Token: Debug + Default;
    /// Home of the operation that the end of a message's payload concerns.
    type Delivery: Debug + Default;

    /// A header has come (`lnet_parse`): LNet says at once what is to be done with the message, by [`Lnd::recv`],
    /// [`Lnd::hold`] or [`Lnd::refuse`]. Called again for the same header when what held the message is over.
    fn parse<L: Lnd<Self>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived);

    /// A part of a message's payload has come, of which parts were asked for ([`Lnd::in_parts`]); what comes behind it is given
    /// in the same way, the rest of it with [`Upper::deliver`].
    fn part(&mut self, cx: &mut Cx, delivery: &mut Self::Delivery, pieces: Pieces, hdr: &LnetHdr);

    /// A message's payload is in its place, or `stored` says why not. `peer` is who sent it, if its connection is there
    /// still (`lnet_finalize`).
    fn deliver<L: Lnd<Self>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        peer: Option<Key>,
        delivery: Self::Delivery,
        stored: Stored,
        hdr: &LnetHdr,
    );

    /// A message to this peer has left, or will not (`lnet_finalize`). `uses` is what it held.
    fn finalize(
        &mut self,
        cx: &mut Cx,
        peer: Key,
        uses: Uses,
        token: Self::Token,
        status: Result<(), LnetError>,
    );

    /// The peer has read the message that this is about, as far as its version can say: told before that ends.
    fn read(&mut self, token: &Self::Token);

    /// A message to this peer has not left, none of it, and will not by its LND, for that reason: it comes back whole, and with
    /// it what it held.
    fn unsent(&mut self, cx: &mut Cx, peer: Key, tx: Tx<Self::Token>, why: LnetError);

    /// The connection of a message that was held for a match, or for a router buffer, has ended; `peer` had sent it.
    fn unheld(&mut self, cx: &mut Cx, peer: Key, ticket: Ticket, hdr: &LnetHdr);
    /// The peer has gone, and a message of it waits for a router buffer: what it left is over by then.
    fn sender_went(&mut self, cx: &mut Cx, peer: Key, over: u64);
    /// A message has waited as long as that lets it, which is a [`Hold::LazyFor`], [`Hold::Sink`] or [`Hold::Buffer`]: LNet says at once what is to be done with it, as with
    /// [`Upper::parse`].
    fn overdue<L: Lnd<Self>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived, held: Hold);

    /// The LND of `ni` has a new entry for a peer; gives LNet's.
    fn peer_new(&mut self, ni: NiId, id: ProcessId, entry: Key, host: Key) -> Key;
    /// Entries for peers, of all LNDs.
    fn peers(&self) -> usize;
    /// A connection with the peer has come up.
    fn peer_connected(&mut self, cx: &mut Cx, peer: Key);
    /// The last connection with the peer has ended; the entry may stay.
    fn peer_lost(&mut self, cx: &mut Cx, peer: Key);
    /// The LND's entry goes, and LNet's with it; these are the messages of it.
    fn peer_gone(&mut self, peer: Key, moved: &Moved);
    /// The LND's entry has come from another shard; LNet's was `old` there. Gives the one here.
    fn peer_came(&mut self, cx: &mut Cx, old: Key, entry: Key, host: Key) -> Key;
    /// The host pays no longer for the peer.
    fn peer_unpays(&mut self, cx: &mut Cx, peer: Key);
    /// That host does now.
    fn peer_pays(&mut self, cx: &mut Cx, peer: Key, host: Key);
    /// Whether LNet has nothing on its way to the peer.
    fn idle(&self, peer: Key) -> bool;
    /// Messages that LNet holds for the peer.
    fn waiting(&self, peer: Key) -> usize;
    /// There may be room for the peer's messages again.
    fn kick(&mut self, peer: Key);
    /// The node goes down: its operations with peers of this LND fail.
    fn stop<L: Lnd<Self>>(&mut self, cx: &mut Cx, lnd: &mut L);
    /// The LND goes down, and has let go of all connections.
    fn gone<L: Lnd<Self>>(&mut self, cx: &mut Cx, lnd: &mut L);

    /// Bucket of the operation that a delivery concerns, if there is one; `Err` where it concerns nobody.
    fn concerns(&self, delivery: &Self::Delivery) -> Result<Option<Bucket>, Nobody>;
    /// A delivery as it may leave the shard and come back to the home that its bucket has by then.
    fn seal(&self, delivery: Self::Delivery) -> Self::Delivery;
    /// Undoes [`Upper::seal`].
    fn unseal(&self, delivery: Self::Delivery) -> Self::Delivery;
    /// A token that came from another shard: names in it are exchanged for those here.
    fn renamed(&self, token: &mut Self::Token);
    /// The same for a delivery.
    fn renamed_delivery(&self, delivery: &mut Self::Delivery);
}

/// The end of a message concerns no operation: only its sender, or it is done with at once.
#[derive(Debug)]
pub(crate) struct Nobody;

/// An LND, as LNet sees it. Peers are named by the LND's entries.
pub(crate) trait Lnd<U: Upper> {
    /// Its NI.
    fn ni(&self) -> NiId;
    /// Whether a message to the peer goes by another connection than shorter ones: order holds on each (socklnd.md §7).
    fn is_apart(&self, cx: &Cx, peer: Key, tx: &Tx<U::Token>) -> bool;
    /// The way that a message to the peer would take, if there is one; dials what is missing.
    fn way(&mut self, cx: &mut Cx, peer: Key, tx: &Tx<U::Token>) -> Option<Way>;
    /// Sends a message that has its credits by the way it has (`lnd_send`), or, where that is clear, one that needs none.
    /// Takes it out of its place.
    fn send(&mut self, up: &mut U, cx: &mut Cx, peer: Key, tx: &mut Tx<U::Token>, way: Option<Way>);
    /// Puts `mlength` bytes of a message into the placement, which it takes, then delivers it by `delivery`; the rest is
    /// read and dropped (`lnd_recv`).
    fn recv(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        conn: Key,
        placement: &mut Option<Placement>,
        delivery: U::Delivery,
        mlength: u32,
    );
    /// The payload of the message that is being parsed, which is lent, is to be given in parts of `least` bytes or more as it
    /// comes.
    fn in_parts(&mut self, conn: Key, least: u32);
    /// Sends the header of a message that has its credits, and the first part of its payload, by a way that is clear; takes it
    /// out of its place. Nothing else leaves by that way until all of it has. Gives its name.
    fn begin(&mut self, up: &mut U, cx: &mut Cx, peer: Key, tx: &mut Tx<U::Token>, way: Way) -> Key;
    /// Whether little of what has left that way is on its way still.
    fn is_drained(&self, way: Way) -> bool;
    /// Whether a message that leaves that way has a sum over its payload in its header.
    fn sums(&self, cx: &Cx, way: Way) -> bool;
    /// Whether headers that leave that way have a form for the NIDs of this one.
    fn carries(&self, way: Way, hdr: &LnetHdr) -> bool;
    /// Sends the next part of a message that has begun to leave; what is for a set that has ended meanwhile is dropped. Its
    /// token comes back some time after the `last` part, or after the end of its set.
    fn more(&mut self, up: &mut U, cx: &mut Cx, begun: Key, pieces: Pieces, last: bool);
    /// The rest of a message that has begun to leave will not come: its set ends, if it has not. Gives whether it had not.
    fn break_off(&mut self, up: &mut U, cx: &mut Cx, begun: Key) -> bool;
    /// Reads over a message of which nobody wants anything.
    fn skip(&mut self, up: &mut U, cx: &mut Cx, conn: Key);
    /// Keeps a message waiting; nothing behind it is read.
    fn hold(&mut self, up: &mut U, cx: &mut Cx, conn: Key, hold: Hold);
    /// Ends the set of a peer that sent a message that no node sends.
    fn refuse(&mut self, up: &mut U, cx: &mut Cx, conn: Key);
    /// Goes on reading behind a message that was held.
    fn read(&mut self, up: &mut U, cx: &mut Cx, conn: Key);
    /// Goes on with a message that was held, if it still is: [`Upper::parse`] is asked again.
    fn again(&mut self, up: &mut U, cx: &mut Cx, ticket: &Ticket);
    /// The name of the message that a connection holds.
    fn ticket(&self, conn: Key) -> Option<Ticket>;
    /// The message of that name, if it is held still.
    fn held(&self, ticket: &Ticket) -> Option<Arrived>;

    /// LNet's entry of a peer that the LND knows.
    fn find(&self, id: ProcessId) -> Option<Key>;
    /// Makes an entry for a peer that the LND does not know; gives LNet's. `None` when there is no room for one more.
    fn add(&mut self, up: &mut U, cx: &mut Cx, id: ProcessId) -> Option<Key>;
    /// Charges a peer to the host at `ip`, which named it, or to [`NOBODY`](budget::NOBODY): its address may be an invention.
    fn charge_host(&mut self, up: &mut U, cx: &mut Cx, peer: Key, ip: IpAddr);
    /// Forgets a peer as soon as nothing depends on it but its back-off: it was asked but once, or the user has deleted it.
    fn let_go(&mut self, up: &mut U, cx: &mut Cx, peer: Key);
    /// So many of LNet's lines of a peer were used, and are charged for the places that they keep.
    fn charge_queues(&mut self, cx: &mut Cx, peer: Key, lines: u8);
    /// Whether the peer may ask for more: not while it leaves too much unread.
    fn may_ask(&self, cx: &Cx, peer: Key) -> bool;
    /// An answer was queued for the peer by LNet.
    fn answer_queued(&mut self, cx: &mut Cx, peer: Key);
    /// LNet ended an answer that it had queued.
    fn answer_dropped(&mut self, up: &mut U, cx: &mut Cx, peer: Key);
    /// Whether the peer has connections.
    fn connected(&self, peer: Key) -> bool;
    /// Messages that the LND holds for the peer until there is a connection.
    fn queued(&self, peer: Key) -> usize;
    /// Forgets a peer if nothing depends on it.
    fn forget_if_idle(&mut self, up: &mut U, cx: &mut Cx, peer: Key);
    /// Gives back what waits for a connection to a peer, but for answers: those have no other way.
    fn give_back(&mut self, up: &mut U, cx: &mut Cx, peer: Key, why: LnetError);
    /// Time at which the peer last took a byte of a connection that has messages of other nodes for it, in ns; 0 for never.
    fn took(&self, peer: Key) -> u64;
    /// Ends messages of other nodes for `nids` that wait at a peer; with `streams` what has begun to leave, too, and with it the peer's
    /// connections.
    fn end_passed_on(&mut self, up: &mut U, cx: &mut Cx, peer: Key, nids: &HashSet<Nid>, streams: bool);
    /// Fails what waits for connections, of all peers: the node goes down.
    fn fail_queues(&mut self, up: &mut U, cx: &mut Cx, why: LnetError);
    /// Goes down: connections are closed as soon as handshakes under way have come to an end.
    fn go_down(&mut self, up: &mut U, cx: &mut Cx);
    /// Its NI is deleted: all that it has closes in order now, what has not left comes back, and nothing new is begun.
    fn leave(&mut self, up: &mut U, cx: &mut Cx);
}
