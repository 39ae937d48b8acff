//! LNet above the connections: operations, match entries, answers (docs/protocol/lnet.md).

pub(super) mod ops;
pub(super) mod own;
pub(super) mod portal;
pub(super) mod remote;

use super::api::{Payload, Sink};
use super::io::{AppId, ShardId};
use super::slab::Key;
use crate::wire::{LnetHdr, Nid};

/// Whom the end of a message's sending concerns.
#[derive(Debug)]
pub(super) enum TxDone {
    /// Nobody: ACKs and NOOPs.
    Nothing,
    /// A PUT without ACK: its SEND event.
    Put { app: AppId, tag: u64 },
    /// An operation that waits for an answer too.
    Op(Key),
    /// The REPLY to a GET that matched.
    Reply(GetGrant),
}

/// Whom the end of a message's payload concerns.
#[derive(Debug)]
pub(super) enum Delivery {
    /// Nobody: the message is dropped, or done.
    Nothing,
    /// A PUT that matched.
    Put(PutGrant),
    /// A push of ping info, of which so many bytes are taken.
    Push(u32),
    /// The REPLY to an operation of ours.
    Reply(Key),
}

/// A PUT or GET as it goes to the owner of its portal.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatchReq {
    pub(super) hdr: LnetHdr,
    /// The peer that delivered it.
    pub(super) sender: Nid,
}

/// Leave to store a PUT. Returned to the portal's owner, with the sink, when that is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct PutGrant {
    pub(super) owner: ShardId,
    pub(super) me: Key,
    pub(super) app: AppId,
    pub(super) req: MatchReq,
    pub(super) mlength: u32,
    pub(super) offset: u32,
    /// The MD lets us ACK it.
    pub(super) ack: bool,
}

/// Leave to answer a GET. Returned to the portal's owner when the REPLY's pages are home.
#[derive(Clone, Copy, Debug)]
pub(super) struct GetGrant {
    pub(super) owner: ShardId,
    pub(super) me: Key,
    pub(super) req: MatchReq,
    pub(super) mlength: u32,
    pub(super) offset: u32,
}

/// What the portal's owner says of a PUT or GET.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Store it there.
    Put(PutGrant, Sink),
    /// Send that.
    Get(GetGrant, Payload),
    /// The only sink that matches is in another message's hands: wait for the entry.
    Busy(Key),
    /// Drop it, for this reason.
    Drop(DropWhy),
}

/// Why a PUT or GET is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DropWhy {
    NoMatch,
    TooLong,
    BadOffset,
}
