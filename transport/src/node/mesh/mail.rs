//! Mail of the mesh: letters from shard to shard, and the rings that they lie in.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use hugepages::RxLent;

use crate::lnd::AppId;
use crate::lnet::{Event, ShardMsg};
use crate::node::migration::MigrationMsg;
use crate::node::{CopyJob, Told, handover};
use crate::stream::{
    Action, Bucket, CloseWhy, ConnId, ConnInfo, DialError, DialId, DialSpec, LendId, ListenError, Progress,
    ShardId,
};

/// Letters that wait in one ring at most; beyond, they wait on the sender's side.
const RING: usize = 4096;
/// Copy jobs that wait in a CPT at most.
const JOBS: usize = 64;

/// From one shard to another.
pub(super) enum Mail {
    /// From a home that owns no queue to an owner that dials for it.
    Dial(ShardId, DialSpec),
    /// From a stream's home to its owner.
    Act(Action),
    /// Bytes of the stream that the home has taken.
    Took(ConnId, u64),
    /// From a stream's owner to its home.
    Stream(Home, StreamEvent),
    /// From a shard to an owner that is to listen for it, or no more.
    Listen(ShardId, SocketAddr),
    Unlisten(ShardId, SocketAddr),
    /// The same, over the home that the bucket had before.
    PassedOn(Bucket, Box<StreamEvent>),
    Shard(ShardId, ShardMsg),
    /// For an application.
    Event(AppId, Box<Event>),
    Move(ShardId, MigrationMsg),
    /// From the TCP stack of one queue to that of another.
    Sibling(Told),
}

/// Home of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// That of its peer's bucket, wherever that is by then.
    Of(Bucket),
    /// The shard that dialled it, or listens for it: a protocol's that is not LNet's.
    Fixed(ShardId),
}

/// News of a stream for its home. As [`Happened`](crate::stream::Happened), with bytes that may cross threads.
pub(super) enum StreamEvent {
    Opened(ConnId, ConnInfo),
    DialFailed(DialId, DialError),
    /// From whoever ran it.
    JobDone(CopyJob),
    Progress(ConnId, Progress),
    Bytes(ConnId, RxLent),
    LastBytes(ConnId),
    PeerFin(ConnId),
    Ended(ConnId),
    Closed(ConnId, CloseWhy),
    Released(LendId),
    Listening(SocketAddr, Result<(), ListenError>),
    /// From an owner to itself: all that it sent of this stream over its own ring is out of it.
    Direct(ConnId),
}

pub(super) type Jobs = Arc<ArrayQueue<CopyJob>>;

/// The rings of a node: one into each shard, and a queue of copy jobs for each CPT.
pub struct Rings {
    into: Vec<Arc<ArrayQueue<Mail>>>,
    /// By the first shard of the CPT.
    pub(super) jobs: Vec<Jobs>,
}

impl Rings {
    /// Rings for `n` shards.
    pub fn new(n: u16) -> Rings {
        let n = usize::from(n.max(1));
        Rings {
            into: (0..n).map(|_| Arc::new(ArrayQueue::new(RING))).collect(),
            jobs: (0..n).map(|_| Arc::new(ArrayQueue::new(JOBS))).collect(),
        }
    }
}

/// A shard's way to all shards, and to itself.
pub(super) struct Post {
    rings: Vec<Arc<ArrayQueue<Mail>>>,
    /// Letters that a full ring had no room for, by shard.
    spill: Vec<VecDeque<Mail>>,
    /// Letters to shards that the node does not have.
    pub(super) undeliverable: u64,
}

impl Post {
    pub(super) fn new(rings: &Rings) -> Post {
        let spill = rings.into.iter().map(|_| VecDeque::new()).collect();
        Post { rings: rings.into.clone(), spill, undeliverable: 0 }
    }

    /// Sends a letter. One to a shard that the node does not have is counted, and dropped.
    pub(super) fn send(&mut self, to: ShardId, mail: Mail) {
        let i = usize::from(to.0);
        match (self.rings.get(i), self.spill.get_mut(i)) {
            (Some(ring), Some(spill)) => handover::post(ring, spill, mail),
            _ => {
                self.undeliverable += 1;
                tracing::error!(
                    shard = to.0,
                    "a letter to a shard that this node does not have is dropped: a bug of pollnd"
                );
            }
        }
    }

    /// Sends the letters that wait, as far as the rings have room.
    pub(super) fn flush(&mut self) {
        for (ring, spill) in self.rings.iter().zip(&mut self.spill) {
            handover::flush(ring, spill);
        }
    }

    /// Whether no letter waits for room.
    pub(super) fn is_out(&self) -> bool {
        self.spill.iter().all(VecDeque::is_empty)
    }

    /// Whether no letter to `to` waits for room.
    pub(super) fn is_out_to(&self, to: ShardId) -> bool {
        self.spill.get(usize::from(to.0)).is_none_or(VecDeque::is_empty)
    }

    /// The next letter to `me`.
    pub(super) fn next(&self, me: ShardId) -> Option<Mail> {
        self.rings.get(usize::from(me.0))?.pop()
    }
}
