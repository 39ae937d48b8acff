//! An lcore's connections, by the slot of their flow.
//!
//! The stack gives a slot to another flow as soon as the one before is over, which may be before its end was told: an
//! abort and a dial in one batch. So a record is found by slot *and* generation, and one whose slot was taken stays
//! beside the table until everything of it is told.

use std::collections::VecDeque;

use fsm::Fsm;
use hugepages::{Lent, RxFrag};
use smallvec::SmallVec;
use tcpstack::FlowId;

use crate::node::conn_state::ConnState;
use crate::stream::{CloseWhy, ConnId, DialId, InlineHdr, Progress};

/// A message that waits for room in its stream.
pub(super) struct Queued {
    pub(super) hdr: InlineHdr,
    pub(super) pay: SmallVec<[Lent; 2]>,
}

pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) flow: FlowId,
    pub(super) state: Fsm<ConnState>,
    pub(super) dial: Option<DialId>,
    /// Next in the stream, and whether the window was opened for it: what the machine put back, or what was
    /// looked at to tell whether all has been taken.
    pub(super) rest: Option<(RxFrag, bool)>,
    /// Bytes came, or the machine asked: tell it.
    pub(super) readable: bool,
    pub(super) fin: bool,
    pub(super) progress: Option<Progress>,
    /// The peer is gone, and the stack has bytes from it.
    pub(super) ended: bool,
    pub(super) gone: Option<CloseWhy>,
    /// Among those touched already.
    pub(super) listed: bool,
    pub(super) waiting: VecDeque<Queued>,
}

impl Conn {
    pub(super) fn new(id: ConnId, flow: FlowId, dial: Option<DialId>) -> Conn {
        Conn {
            id,
            flow,
            state: Fsm::START,
            dial,
            rest: None,
            readable: false,
            fin: false,
            progress: None,
            ended: false,
            gone: None,
            listed: false,
            waiting: VecDeque::new(),
        }
    }
}

/// The table.
#[derive(Default)]
pub(super) struct Conns {
    slots: Vec<Option<Conn>>,
    /// Those whose slot another one has.
    beside: Vec<Conn>,
    /// All of them.
    count: usize,
}

impl Conns {
    #[inline]
    pub(super) fn get(&mut self, id: ConnId) -> Option<&mut Conn> {
        match self.slots.get_mut(id.index as usize) {
            Some(Some(c)) if c.id == id => Some(c),
            _ => self.beside.iter_mut().find(|c| c.id == id),
        }
    }

    pub(super) fn insert(&mut self, c: Conn) {
        let i = c.id.index as usize;
        if self.slots.len() <= i {
            self.slots.resize_with(i + 1, || None);
        }
        if let Some(slot) = self.slots.get_mut(i) {
            self.beside.extend(slot.replace(c));
            self.count += 1;
        }
    }

    pub(super) fn take(&mut self, id: ConnId) -> Option<Conn> {
        let taken = match self.slots.get_mut(id.index as usize) {
            Some(slot) if slot.as_ref().is_some_and(|c| c.id == id) => slot.take(),
            _ => self.beside.iter().position(|c| c.id == id).map(|i| self.beside.remove(i)),
        };
        self.count -= usize::from(taken.is_some());
        taken
    }

    /// Whether there are any whose slot another one has.
    #[inline]
    pub(super) fn displaced(&self) -> bool {
        !self.beside.is_empty()
    }

    pub(super) fn is_displaced(&self, id: ConnId) -> bool {
        self.beside.iter().any(|c| c.id == id)
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }
}
