//! Messages between the shards of a node: a peer's home is rarely the owner of a portal.

use super::aliases::Claim;
use super::api::Op;
use super::enabling::{HeardAt, RoutingAsk, Told};
use super::hop::{Hop, Way};
use super::lease::Returned;
use super::ops::OpRec;
use super::routes::Said;
use super::{GetGrant, MatchReq, Msg, PutGrant, Verdict};
use crate::lnd::{AppId, Data, Dest, LnetError, NiId, Pieces, Sink, Stored, Ticket};
use crate::stream::ShardId;
use crate::stream::slab::Key;
use crate::wire::{LnetHdr, Nid, ProcessId, WireHandle};

/// A message to another shard of the same node, given with [`Input::From`](crate::node::Input::From). Opaque to
/// runtimes. Messages between two shards must arrive in order; they may be large and own memory.
#[derive(Debug)]
pub struct ShardMsg(pub(crate) Body);

#[derive(Debug)]
pub(crate) enum Body {
    /// An operation that belongs elsewhere, with its way.
    Cmd(AppId, Op, Way),
    /// Home to owner: does anything match?
    Match(Asker),
    /// Owner to home.
    Matched(Asker, Verdict),
    /// Owner to home: the message waits on a lazy portal of the owner's, or else for a sink there.
    Held(Ticket, bool, ShardId),
    /// Home to owner: the message's connection has ended.
    Forget(Ticket),
    /// Home to owner: the PUT is stored, or will not be.
    PutDone { grant: PutGrant, hdr: LnetHdr, sink: Sink, status: Result<(), LnetError>, data: Data },
    /// To the home of a source that did not deliver its request itself, or of a gateway to it: the answer, by the NI that leads there.
    Answered(NiId, ProcessId, Box<Msg>),
    /// From shard to shard: an answer to an operation that one of them has begun.
    Seek(Box<Seek>),
    /// To the home of the connection by which a REPLY comes: its place, or none.
    Placed(Ticket, Box<Placed>),
    /// To a gateway's home: that shard has a route by it now, and has not heard of it.
    AskGateway(Nid, ShardId),
    /// To all: the last word of a gateway, or `None` for one that did not answer.
    Gateway(Nid, Option<Box<Said>>),
    /// To all: a Multi-Rail peer was discovered, with its NIDs.
    Aliases(Box<Claim>),
    /// To all: a peer that is there has one of the NIDs claimed, this one.
    Contested(Nid, Box<Claim>),
    /// To all: a peer has come by this NID, which another claims, and is asked.
    Awaited(Nid),
    /// To all: which of its NIs a node says are up.
    Statuses(Box<Claim>),
    /// To all: the node that was heard by this NID is so no longer, and is to be asked again.
    Unheard(Nid),
    /// To the keeper of own NIs' health: a message by this one has failed.
    OwnFailed(NiId),
    /// To all: an own NI's health.
    OwnHealth(NiId, u16),
    /// Home to all: the health of a peer's NI.
    PeerHealth(Nid, u16),
    /// To the home of a peer's NI: the user gives it this value.
    SetHealth(Nid, u16),
    /// To a NID's new home: it is to be pinged until it is well.
    Recover(Nid),
    /// To all: an own NI's port has a link, or has none.
    Link(NiId, bool),
    /// To all: a source has no router buffer left, since messages for these have them. Those that take nothing are to be found.
    Stuck(Box<[ProcessId]>),
    /// To the home of a peer's NID: our info is to be pushed there, since the NID that it was pushed to is out of reach; with the
    /// peer's features.
    Tell(Hop, u32),
    /// To the home of a peer's NID: our info is to be pushed there, too.
    TellBeside(ProcessId),
    /// To the home of a peer's other NID: a message that has not left, and goes there now.
    Resent(Box<Resent>),
    /// Home to owner: the REPLY's pages are home.
    GetDone { grant: GetGrant, status: Result<(), LnetError> },
    /// To the home of a next hop: another node's message, by that NI. The box comes back some time.
    Forwarded(NiId, ProcessId, Box<Option<Msg>>),
    /// To the home of the peer that had sent it: another node's message, whose next hop, by that NI, has no connection.
    Unmet(NiId, ProcessId, Box<Option<Msg>>),
    /// To the home of a next hop: another node's message that is not whole, by its name.
    CutBegins(u64, NiId, ProcessId, Box<Option<Msg>>),
    /// There: a part of its payload.
    CutPart(u64, Pieces),
    /// There: the last part, or none, and it is not whole.
    CutEnds(u64, Option<Pieces>),
    /// To the home of the peer that had sent it: the router buffer of such a message, and perhaps a box.
    Returned(Returned, Option<Box<Option<Msg>>>),
    /// To the shard that decides about routing: an order.
    RoutingAsk(RoutingAsk),
    /// To that one: when each NI last received here, and messages that this shard has on their way through.
    Heard(HeardAt, u32),
    /// To all: routing as it is, and whether peers are pushed that.
    Routing(Told, bool),
}

/// A message that has not left by one pair, and goes by another, with the operation that it belongs to.
#[derive(Debug)]
pub(crate) struct Resent {
    pub(super) tx: Msg,
    pub(super) rec: Option<OpRec>,
    pub(super) hop: Hop,
    /// Its end, if it does not leave by that either.
    pub(super) why: LnetError,
}

/// A message that waits for a portal's owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    /// The ticket by which it is found again.
    pub(crate) ticket: Ticket,
    pub(crate) req: MatchReq,
}

/// A message that waits for a match entry, or for its sink.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    pub(crate) who: Who,
    pub(crate) req: MatchReq,
}

/// The place of a message that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    /// A connection, perhaps of another shard's.
    Conn(Ticket),
    /// This node, which sent it to itself.
    Own(Key),
}

/// A question for the shard that has the operation.
#[derive(Debug)]
pub(crate) struct Seek {
    /// Shards that may be asked yet.
    pub(super) left: u16,
    pub(super) what: Sought,
}

#[derive(Debug)]
pub(crate) enum Sought {
    /// An ACK.
    Ack { handle: WireHandle, source: Nid, mlength: u32 },
    /// A place for a REPLY of so many bytes, which waits on its connection.
    Place { handle: WireHandle, source: Nid, len: u32, ticket: Ticket },
    /// A REPLY that is stored, or will not be.
    Stored { object: u64, len: u32, stored: Stored },
}

/// Place of a REPLY.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(super) object: u64,
    /// `None`: nobody wants it.
    pub(super) dest: Option<(AppId, Dest)>,
}

#[cfg(test)]
mod tests {
    #[test]
    fn messages_may_cross_threads() {
        fn check<T: Send>() {}
        check::<super::ShardMsg>();
    }
}
