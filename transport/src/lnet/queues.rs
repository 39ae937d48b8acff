//! Messages that wait for credits of their peer (`credits.rs`): those of this node, and those of other nodes that it passes on, each in
//! the order in which they came.
//!
//! Messages that a router passes on wait for a next hop that is slow, and hold its credits. Its own do not wait behind them: users of
//! a router take their routes down where it does not answer their checks (docs/protocol/upper.md §1.5). Where messages of both lines
//! have a credit they leave in turn, so neither keeps the other waiting for ever.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Msg;
use crate::lnd::budget::FLOOR;
use crate::lnd::trim;
use crate::wire::Nid;

/// A line of messages that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Of this node: answers, operations, what it asks and tells peers.
    Own,
    /// Of other nodes.
    PassedOn,
}

impl Line {
    /// The line of a message.
    #[inline]
    pub(super) fn of(tx: &Msg) -> Line {
        if tx.forwarded { Line::PassedOn } else { Line::Own }
    }
}

/// Number of messages in the lines of all peers of a shard. Its shard alone writes it: no write waits for another.
#[derive(Clone, Debug, Default)]
pub(super) struct Total(Arc<AtomicUsize>);

impl Total {
    /// It.
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, n: usize) {
        self.0.store(self.get() + n, Ordering::Relaxed);
    }

    fn sub(&self, n: usize) {
        self.0.store(self.get().saturating_sub(n), Ordering::Relaxed);
    }
}

/// The lines of a peer.
#[derive(Debug, Default)]
pub(super) struct Queues {
    total: Total,
    own: VecDeque<Msg>,
    /// Only of a peer for which one has waited that was passed on.
    passed_on: Option<Box<PassedOn>>,
}

#[derive(Debug, Default)]
struct PassedOn {
    line: VecDeque<Msg>,
    /// The message that left last was of this node.
    own_left: bool,
}

impl Drop for Queues {
    fn drop(&mut self) {
        self.total.sub(self.len());
    }
}

impl Queues {
    /// Empty ones, of a peer of the shard that has this total.
    pub(super) fn new(total: &Total) -> Queues {
        Queues { total: total.clone(), own: VecDeque::new(), passed_on: None }
    }

    /// The peer's messages are those of the shard that has this total from now on.
    pub(super) fn move_to(&mut self, total: &Total) {
        self.total.sub(self.len());
        self.total = total.clone();
        self.total.add(self.len());
    }

    /// Messages in both lines.
    pub(super) fn len(&self) -> usize {
        self.own.len() + self.passed_on.as_ref().map_or(0, |p| p.line.len())
    }

    /// Whether none waits.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.passed_on.as_ref().is_none_or(|p| p.line.is_empty())
    }

    /// The first message of a line.
    #[inline]
    pub(super) fn front(&self, line: Line) -> Option<&Msg> {
        match line {
            Line::Own => self.own.front(),
            Line::PassedOn => self.passed_on.as_ref()?.line.front(),
        }
    }

    /// The lines in the order in which they have a turn.
    pub(super) fn turns(&self) -> [Line; 2] {
        let own_left = self.passed_on.as_ref().is_some_and(|p| p.own_left);
        if own_left { [Line::PassedOn, Line::Own] } else { [Line::Own, Line::PassedOn] }
    }

    /// Puts a message at the end of its line.
    pub(super) fn push(&mut self, tx: Msg) {
        self.total.add(1);
        match Line::of(&tx) {
            Line::Own => self.own.push_back(tx),
            Line::PassedOn => self.passed_on.get_or_insert_default().line.push_back(tx),
        }
    }

    /// Takes the first message of a line.
    pub(super) fn pop(&mut self, line: Line) -> Option<Msg> {
        let q = match line {
            Line::Own => &mut self.own,
            Line::PassedOn => &mut self.passed_on.as_mut()?.line,
        };
        let tx = q.pop_front()?;
        trim(q);
        self.total.sub(1);
        if let Some(p) = &mut self.passed_on {
            p.own_left = line == Line::Own;
        }
        Some(tx)
    }

    /// Takes any message.
    pub(super) fn pop_any(&mut self) -> Option<Msg> {
        self.pop(Line::Own).or_else(|| self.pop(Line::PassedOn))
    }

    /// Takes messages of other nodes for these NIDs.
    pub(super) fn take_for(&mut self, nids: impl Fn(Nid) -> bool) -> VecDeque<Msg> {
        let Some(p) = &mut self.passed_on else { return VecDeque::new() };
        let is_for = |tx: &Msg| tx.hdr.as_ref().is_some_and(|h| nids(h.dest_nid));
        let (taken, left): (VecDeque<Msg>, VecDeque<Msg>) =
            std::mem::take(&mut p.line).into_iter().partition(is_for);
        p.line = left;
        self.total.sub(taken.len());
        taken
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Msg> {
        self.own.iter().chain(self.passed_on.iter().flat_map(|p| &p.line))
    }

    /// All of them, to be renamed as their peer moves.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Msg> {
        self.own.iter_mut().chain(self.passed_on.iter_mut().flat_map(|p| &mut p.line))
    }

    /// Takes all messages but answers.
    pub(super) fn leave_answers(&mut self) -> VecDeque<Msg> {
        let (answers, mut left): (VecDeque<Msg>, VecDeque<Msg>) =
            std::mem::take(&mut self.own).into_iter().partition(|tx| tx.answer);
        self.own = answers;
        if let Some(p) = &mut self.passed_on {
            left.append(&mut p.line);
        }
        self.total.sub(left.len());
        left
    }

    /// Lines of more places than an entry for a peer is charged for: they keep [`FLOOR`] places each.
    pub(super) fn long(&self) -> u8 {
        let is_long = |q: &VecDeque<Msg>| u8::from(q.capacity() > FLOOR / 4);
        is_long(&self.own) + self.passed_on.as_ref().map_or(0, |p| is_long(&p.line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lnd::Payload;
    use crate::lnet::TxDone;
    use crate::wire::{LnetBody, LnetHdr, WireHandle};

    fn msg(n: u32, forwarded: bool, answer: bool) -> Msg {
        let body = LnetBody::Reply { handle: WireHandle::NONE };
        let (dest_nid, src_nid) = (Nid::LO, Nid::LO);
        let hdr = LnetHdr { dest_nid, src_nid, dest_pid: n, src_pid: 0, payload_len: 0, body };
        Msg { forwarded, answer, ..Msg::lnet(hdr, Payload::empty(), TxDone::Nothing) }
    }

    fn pids(all: impl IntoIterator<Item = Msg>) -> Vec<u32> {
        all.into_iter().filter_map(|tx| tx.hdr.map(|h| h.dest_pid)).collect()
    }

    #[test]
    fn lines_keep_their_order_and_have_turns() {
        let mut q = Queues::default();
        for n in 0..6 {
            q.push(msg(n, n < 4, false));
        }
        assert_eq!((q.len(), q.turns()[0]), (6, Line::Own));
        let mut left = Vec::new();
        while !q.is_empty() {
            let line = q.turns().into_iter().find(|l| q.front(*l).is_some()).unwrap();
            left.extend(q.pop(line));
        }
        assert_eq!(pids(left), [4, 0, 5, 1, 2, 3]);
        assert!(q.pop_any().is_none());
    }

    /// Whatever is done with them, the total is that of all lines.
    #[test]
    fn the_total_is_that_of_all_lines() {
        let (here, there) = (Total::default(), Total::default());
        let mut all: Vec<Queues> = (0..3).map(|_| Queues::new(&here)).collect();
        let sum = |all: &[Queues]| all.iter().map(Queues::len).sum::<usize>();
        for n in 0..60 {
            all[n as usize % 3].push(msg(n, n % 2 == 0, n % 5 == 0));
        }
        assert_eq!(here.get(), 60);
        assert!(all[0].pop(Line::Own).is_some() && all[1].pop_any().is_some());
        assert_eq!(all[0].take_for(|n| n == Nid::LO).len(), 10);
        assert!(!all[1].leave_answers().is_empty());
        assert_eq!(here.get(), sum(&all));
        let mut moved = all.remove(2);
        moved.move_to(&there);
        assert_eq!((here.get(), there.get()), (sum(&all), 20));
        // A peer that goes takes its messages along.
        drop(all.remove(1));
        assert_eq!(here.get(), sum(&all));
        drop(moved);
        assert_eq!(there.get(), 0);
    }

    #[test]
    fn answers_stay_where_others_leave() {
        let mut q = Queues::default();
        for n in 0..6 {
            q.push(msg(n, n % 3 == 0, n % 3 == 1));
        }
        assert_eq!(pids(q.leave_answers()), [2, 5, 0, 3]);
        assert_eq!(pids(std::iter::from_fn(|| q.pop_any())), [1, 4]);
    }
}
