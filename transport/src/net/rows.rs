//! Rows of a domain's tables: buffers, end-points, transfer machines.

use std::collections::VecDeque;

use fsm::Fsm;

use super::machine::TmState;
use super::{BufEvent, Buffer, Colour, PoolId, Provision, Queue, QueueStats};
use crate::stream::slab::Key;

/// Holdings of an event, which last until the next one is asked for: a callback's in Motr.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    /// The machine has an event out.
    pub(super) tm: Option<Key>,
    /// An end-point has a reference.
    pub(super) ep: Option<Key>,
    /// The machine's pool is looked at when the event has been taken.
    pub(super) provision: bool,
    /// The event gives its buffer back.
    pub(super) last: bool,
}

impl Hold {
    pub(super) const NOTHING: Hold = Hold { tm: None, ep: None, provision: false, last: false };
}

/// A buffer on a queue.
#[derive(Debug)]
pub(super) struct Queued<T> {
    pub(super) buffer: Buffer,
    pub(super) tm: Key,
    pub(super) queue: Queue,
    /// The end-point that a message goes to.
    pub(super) ep: Option<Key>,
    /// Bytes to send.
    pub(super) len: u64,
    /// Time at which it was added, in ns.
    pub(super) added: u64,
    pub(super) token: T,
    pub(super) pool: Option<PoolId>,
    /// Messages that have come into it.
    pub(super) messages: u32,
}

/// A registered buffer.
#[derive(Debug)]
pub(super) struct Registered<T> {
    pub(super) queued: Option<Queued<T>>,
    /// It has come to its end, of which the application has not heard: events of messages before it may be out still.
    pub(super) ended: Option<Buffer>,
}

/// An end-point.
#[derive(Debug)]
pub(super) struct Ep<A> {
    pub(super) tm: Key,
    pub(super) addr: A,
    pub(super) refs: u32,
    /// As it was named first; `None` for one that is known from its packets.
    pub(super) name: Option<Box<str>>,
}

/// Whether the transport knows of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Below {
    No,
    Yes,
    /// It has been told to let go.
    Leaving,
}

/// A transfer machine.
#[derive(Debug)]
pub(super) struct Tm {
    pub(super) state: Fsm<TmState>,
    pub(super) below: Below,
    /// Its own end-point.
    pub(super) ep: Option<Key>,
    /// End-points, its own among them.
    pub(super) eps: usize,
    stats: [QueueStats; 6],
    queued: [usize; 6],
    /// Events that were not taken, or not let go.
    pub(super) callbacks: usize,
    pub(super) provision: Option<Provision>,
    pub(super) deficit: usize,
    pub(super) colour: Colour,
    pub(super) sync: bool,
    pub(super) pending: VecDeque<(BufEvent, Hold)>,
    /// Whoever asked is told of the next event.
    pub(super) notify: bool,
}

impl Tm {
    /// A machine that is nothing yet.
    pub(super) fn new() -> Tm {
        Tm {
            state: Fsm::START,
            below: Below::No,
            ep: None,
            eps: 0,
            stats: [QueueStats::default(); 6],
            queued: [0; 6],
            callbacks: 0,
            provision: None,
            deficit: 0,
            colour: Colour::ANY,
            sync: false,
            pending: VecDeque::new(),
            notify: false,
        }
    }

    /// Buffers on a queue.
    pub(super) fn queued(&self, queue: Queue) -> usize {
        self.queued.get(queue as usize).copied().unwrap_or(0)
    }

    /// A buffer came to a queue, or left it.
    pub(super) fn count(&mut self, queue: Queue, more: bool) {
        if let Some(n) = self.queued.get_mut(queue as usize) {
            *n = if more { *n + 1 } else { n.saturating_sub(1) };
        }
    }

    /// Buffers on all queues.
    pub(super) fn all_queued(&self) -> usize {
        self.queued.iter().sum()
    }

    /// The statistics of a queue.
    pub(super) fn stats_mut(&mut self, queue: Queue) -> &mut QueueStats {
        let [a, b, c, d, e, f] = &mut self.stats;
        match queue {
            Queue::MsgRecv => a,
            Queue::MsgSend => b,
            Queue::PassiveRecv => c,
            Queue::PassiveSend => d,
            Queue::ActiveRecv => e,
            Queue::ActiveSend => f,
        }
    }
}
