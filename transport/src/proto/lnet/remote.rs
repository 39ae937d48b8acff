//! Messages between the shards of a node: a peer's home is rarely the owner of a portal.

use super::{GetGrant, MatchReq, PutGrant, Verdict};
use crate::proto::api::{Data, LnetError, Op, Sink};
use crate::proto::homes::Bucket;
use crate::proto::io::{AppId, ConnId};
use crate::proto::slab::Key;
use crate::proto::txq::Tx;
use crate::wire::ProcessId;

/// A message to another shard of the same node, given with [`Input::From`](crate::proto::Input::From). Opaque to
/// runtimes. Messages between two shards must arrive in order; they may be large and own memory.
#[derive(Debug)]
pub struct ShardMsg(pub(in crate::proto) Body);

#[derive(Debug)]
pub(in crate::proto) enum Body {
    /// An operation that belongs elsewhere.
    Cmd(AppId, Op),
    /// Home to owner: does anything match?
    Ask { waiter: ConnWaiter },
    /// Owner to home.
    Answer { conn: ConnId, bucket: Bucket, ticket: u64, verdict: Verdict },
    /// Home to owner: the PUT is stored, or will not be.
    PutDone { grant: PutGrant, sink: Sink, status: Result<(), LnetError>, data: Data },
    /// To the home of a source that did not deliver its request itself: the answer.
    Answered(ProcessId, Box<Tx>),
    /// Home to owner: the REPLY's pages are home.
    GetDone { grant: GetGrant, status: Result<(), LnetError> },
}

/// A message that waits for a portal's owner, at the home that `bucket` has by then.
#[derive(Clone, Copy, Debug)]
pub(in crate::proto) struct ConnWaiter {
    pub(in crate::proto) conn: ConnId,
    pub(in crate::proto) bucket: Bucket,
    pub(in crate::proto) ticket: u64,
    pub(in crate::proto) req: MatchReq,
}

/// Who waits for a match entry's sink.
#[derive(Clone, Copy, Debug)]
pub(in crate::proto) enum Waiter {
    /// A message on a connection, perhaps of another shard's.
    Conn(ConnWaiter),
    /// A message of this node to itself.
    Own(Key),
}

#[cfg(test)]
mod tests {
    #[test]
    fn messages_may_cross_threads() {
        fn check<T: Send>() {}
        check::<super::ShardMsg>();
    }
}
