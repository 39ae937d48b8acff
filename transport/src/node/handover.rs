//! Flags and rings between the threads of a node, whatever they carry. `tests/model_node.rs` compiles this file under
//! loom (docs/testing.md).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::sync::{ArrayQueue, AtomicBool, Ordering};

/// Between an lcore and those who ask it, one at a time. See [`inspect`](super::inspect).
#[derive(Debug)]
pub struct Mailbox<T> {
    asked: AtomicBool,
    asks: ArrayQueue<(u64, T)>,
    answers: ArrayQueue<(u64, T)>,
    closed: AtomicBool,
}

impl<T> Mailbox<T> {
    /// A mailbox in which so many questions may wait.
    pub fn new(waiting: usize) -> Mailbox<T> {
        Mailbox {
            asked: AtomicBool::new(false),
            asks: ArrayQueue::new(waiting),
            answers: ArrayQueue::new(waiting),
            closed: AtomicBool::new(false),
        }
    }

    /// Says that the lcore answers no more: it has ended.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether the lcore has ended. What it answered before is still there to be taken.
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether somebody waits: the lcore's question at every turn, one load.
    #[inline]
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Answers whoever waits: `act` fills each question's room for its answer.
    pub fn answer(&self, mut act: impl FnMut(&mut T)) {
        // Taken back before the ring is looked at: who asks meanwhile sets it again, behind the question. A swap, not a
        // store, so that whatever was asked before the flag was set is seen.
        self.asked.swap(false, Ordering::AcqRel);
        while let Some((n, mut a)) = self.asks.pop() {
            act(&mut a);
            // Where there is no room the asker has long given up.
            let _ = self.answers.push((n, a));
        }
    }

    /// Asks under a number that no question had before; forgets the answers that came too late.
    ///
    /// # Errors
    /// The question, when too many wait.
    pub fn ask(&self, serial: u64, ask: T) -> Result<(), T> {
        while self.answers.pop().is_some() {}
        self.asks.push((serial, ask)).map_err(|(_, ask)| ask)?;
        self.asked.store(true, Ordering::Release);
        Ok(())
    }

    /// The answer to the question of that number, if it has come.
    pub fn take(&self, serial: u64) -> Option<T> {
        loop {
            match self.answers.pop()? {
                (n, a) if n == serial => return Some(a),
                _ => {}
            }
        }
    }

    /// Questions that wait.
    pub fn waiting(&self) -> usize {
        self.asks.len()
    }
}

/// A pair of rings between an application's thread and an lcore. See [`app`](super::app).
pub(crate) struct Lines<O, E> {
    ops: ArrayQueue<O>,
    events: ArrayQueue<E>,
    gone: AtomicBool,
}

impl<O, E> Lines<O, E> {
    /// Rings for `depth` operations and events.
    pub(crate) fn new(depth: usize) -> Lines<O, E> {
        Lines { ops: ArrayQueue::new(depth), events: ArrayQueue::new(depth), gone: AtomicBool::new(false) }
    }

    /// The thread asks for something; it has it back when the ring is full.
    pub(crate) fn submit(&self, op: O) -> Result<(), O> {
        self.ops.push(op)
    }

    /// The thread hears the next event.
    pub(crate) fn event(&self) -> Option<E> {
        self.events.pop()
    }

    /// The thread asks no more and hears no more.
    pub(crate) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Whether the thread has left.
    pub(crate) fn gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
}

/// The lcore's end of a pair of rings.
pub(crate) struct Served<O, E> {
    pub(crate) lines: Arc<Lines<O, E>>,
    /// Events that the ring had no room for. While there are any, no new operation is taken.
    pub(crate) backlog: VecDeque<E>,
}

impl<O, E> Served<O, E> {
    /// Hands over what waits, then takes up to `most` operations; gives how much it did.
    pub(crate) fn turn(&mut self, most: usize, mut take: impl FnMut(O)) -> usize {
        let mut n = 0;
        while let Some(ev) = self.backlog.pop_front() {
            if self.lines.gone() {
                continue;
            }
            if let Err(ev) = self.lines.events.push(ev) {
                self.backlog.push_front(ev);
                return n;
            }
            n += 1;
        }
        while n < most {
            let Some(op) = self.lines.ops.pop() else { break };
            take(op);
            n += 1;
        }
        n
    }

    /// Hands over an event, behind those that wait.
    pub(crate) fn deliver(&mut self, ev: E) {
        if self.lines.gone() {
            return;
        }
        if !self.backlog.is_empty() {
            self.backlog.push_back(ev);
        } else if let Err(ev) = self.lines.events.push(ev) {
            self.backlog.push_back(ev);
        }
    }
}

/// Sends to another lcore: into its ring, or, when that is full or something waits already, behind what waits.
pub(super) fn post<P>(ring: &ArrayQueue<P>, spill: &mut VecDeque<P>, p: P) {
    if !spill.is_empty() {
        spill.push_back(p);
    } else if let Err(p) = ring.push(p) {
        spill.push_back(p);
    }
}

/// Sends what waits, as far as the ring has room.
pub(super) fn flush<P>(ring: &ArrayQueue<P>, spill: &mut VecDeque<P>) {
    while let Some(p) = spill.pop_front() {
        if let Err(p) = ring.push(p) {
            spill.push_front(p);
            break;
        }
    }
}

/// More than so many waiting are everybody's affair.
const FEW: usize = 2;
/// Turns that something may wait while those who see it are busy.
const PATIENT_TURNS: u32 = 16;

/// An lcore's end of a queue of work that any lcore of a CPT may do, one part each turn. Whoever takes a piece owns it. See
/// [`mesh`](super::mesh).
pub(super) struct Common<B> {
    queue: Option<Arc<ArrayQueue<B>>>,
    at_hand: Option<B>,
    waited: u32,
}

impl<B> Common<B> {
    pub(super) fn new(queue: Option<Arc<ArrayQueue<B>>>) -> Common<B> {
        Common { queue, at_hand: None, waited: 0 }
    }

    /// Puts a piece on the queue; gives it back where there is no room, or no queue.
    pub(super) fn offer(&self, b: B) -> Option<B> {
        match &self.queue {
            Some(q) => q.push(b).err(),
            None => Some(b),
        }
    }

    /// The piece to go on with, or one from the queue: when the lcore is idle, when more wait than idle lcores would leave,
    /// or when it has seen one wait for long.
    pub(super) fn take(&mut self, idle: bool) -> Option<B> {
        if self.at_hand.is_some() {
            return self.at_hand.take();
        }
        let q = self.queue.as_ref().filter(|q| !q.is_empty())?;
        self.waited += 1;
        if !idle && q.len() <= FEW && self.waited <= PATIENT_TURNS {
            return None;
        }
        self.waited = 0;
        q.pop()
    }

    /// Goes on with it in the next turn.
    pub(super) fn keep(&mut self, b: B) {
        self.at_hand = Some(b);
    }

    /// Whether this lcore has begun a piece.
    pub(super) fn has_begun(&self) -> bool {
        self.at_hand.is_some()
    }

    /// Whether there is something to do.
    pub(super) fn has_work(&self) -> bool {
        self.has_begun() || self.queue.as_ref().is_some_and(|q| !q.is_empty())
    }
}
