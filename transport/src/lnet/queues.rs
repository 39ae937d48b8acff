//! Messages that wait for credits of their peer (`credits.rs`): those of this node that go by the connection for bulk, its others, and those
//! of other nodes that it passes on, each in the order in which they came. So order holds on each connection, as with kernels
//! (docs/protocol/socklnd.md §7).
//!
//! Messages that a router passes on wait for a next hop that is slow, and hold its credits. Its own do not wait behind them: users of
//! a router take their routes down where it does not answer their checks (docs/protocol/upper.md §1.5). Nor do short messages
//! wait behind bulk, which goes by another connection: one node behind a router that takes bulk slowly
//! would hold up what is for all others behind it. Where messages of several lines have a credit they leave in turn, so none keeps
//! another waiting for ever.

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
    /// Of this node, shorter than bulk, or all of them where one connection has both.
    Short,
    /// Of this node, by the connection for bulk.
    Bulk,
    /// Of other nodes.
    PassedOn,
}

impl Line {
    /// Those of this node's messages.
    pub(super) const OWN: [Line; 2] = [Line::Short, Line::Bulk];

    /// The line of a message.
    #[inline]
    pub(super) fn of(tx: &Msg) -> Line {
        match (tx.forwarded, tx.bulk) {
            (true, _) => Line::PassedOn,
            (false, false) => Line::Short,
            (false, true) => Line::Bulk,
        }
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
    short: VecDeque<Msg>,
    /// Only of a peer for which others have waited.
    others: Option<Box<Others>>,
}

#[derive(Debug, Default)]
struct Others {
    bulk: VecDeque<Msg>,
    passed_on: VecDeque<Msg>,
    /// The line whose message left last.
    last: Option<Line>,
}

impl Drop for Queues {
    fn drop(&mut self) {
        self.total.sub(self.len());
    }
}

impl Queues {
    /// Empty ones, of a peer of the shard that has this total.
    pub(super) fn new(total: &Total) -> Queues {
        Queues { total: total.clone(), short: VecDeque::new(), others: None }
    }

    /// The peer's messages are those of the shard that has this total from now on.
    pub(super) fn move_to(&mut self, total: &Total) {
        self.total.sub(self.len());
        self.total = total.clone();
        self.total.add(self.len());
    }

    fn lines(&self) -> impl Iterator<Item = &VecDeque<Msg>> {
        std::iter::once(&self.short).chain(self.others.iter().flat_map(|o| [&o.bulk, &o.passed_on]))
    }

    /// Messages in all lines.
    pub(super) fn len(&self) -> usize {
        self.lines().map(VecDeque::len).sum()
    }

    /// Whether none waits.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.lines().all(VecDeque::is_empty)
    }

    /// The first message of a line.
    #[inline]
    pub(super) fn front(&self, line: Line) -> Option<&Msg> {
        match line {
            Line::Short => self.short.front(),
            Line::Bulk => self.others.as_ref()?.bulk.front(),
            Line::PassedOn => self.others.as_ref()?.passed_on.front(),
        }
    }

    /// The lines in the order in which they have a turn.
    pub(super) fn turns(&self) -> [Line; 3] {
        match self.others.as_ref().and_then(|o| o.last) {
            Some(Line::Short) => [Line::Bulk, Line::PassedOn, Line::Short],
            Some(Line::Bulk) => [Line::PassedOn, Line::Short, Line::Bulk],
            Some(Line::PassedOn) | None => [Line::Short, Line::Bulk, Line::PassedOn],
        }
    }

    fn line(&mut self, line: Line) -> &mut VecDeque<Msg> {
        match line {
            Line::Short => &mut self.short,
            Line::Bulk => &mut self.others.get_or_insert_default().bulk,
            Line::PassedOn => &mut self.others.get_or_insert_default().passed_on,
        }
    }

    /// Puts a message at the end of its line.
    pub(super) fn push(&mut self, tx: Msg) {
        self.total.add(1);
        self.line(Line::of(&tx)).push_back(tx);
    }

    /// Takes the first message of a line.
    pub(super) fn pop(&mut self, line: Line) -> Option<Msg> {
        self.front(line)?;
        let q = self.line(line);
        let tx = q.pop_front()?;
        trim(q);
        self.total.sub(1);
        if let Some(o) = &mut self.others {
            o.last = Some(line);
        }
        Some(tx)
    }

    /// Takes any message.
    pub(super) fn pop_any(&mut self) -> Option<Msg> {
        let line = self.turns().into_iter().find(|l| self.front(*l).is_some())?;
        self.pop(line)
    }

    /// Takes messages of other nodes for these NIDs.
    pub(super) fn take_for(&mut self, nids: impl Fn(Nid) -> bool) -> VecDeque<Msg> {
        let Some(o) = &mut self.others else { return VecDeque::new() };
        let is_for = |tx: &Msg| tx.hdr.as_ref().is_some_and(|h| nids(h.dest_nid));
        let (taken, left): (VecDeque<Msg>, VecDeque<Msg>) =
            std::mem::take(&mut o.passed_on).into_iter().partition(is_for);
        o.passed_on = left;
        self.total.sub(taken.len());
        taken
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Msg> {
        self.lines().flatten()
    }

    /// All of them, to be renamed as their peer moves.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Msg> {
        let others = self.others.iter_mut().flat_map(|o| [&mut o.bulk, &mut o.passed_on]);
        std::iter::once(&mut self.short).chain(others).flatten()
    }

    /// Takes all messages but answers.
    pub(super) fn leave_answers(&mut self) -> VecDeque<Msg> {
        let mut left = leave(&mut self.short);
        if let Some(o) = &mut self.others {
            left.append(&mut leave(&mut o.bulk));
            left.append(&mut o.passed_on);
        }
        self.total.sub(left.len());
        left
    }

    /// Lines of more places than an entry for a peer is charged for: they keep [`FLOOR`] places each.
    pub(super) fn long(&self) -> u8 {
        self.lines().map(|q| u8::from(q.capacity() > FLOOR / 4)).sum()
    }
}

/// Takes all messages of a line but answers.
fn leave(line: &mut VecDeque<Msg>) -> VecDeque<Msg> {
    let (answers, left) = std::mem::take(line).into_iter().partition(|tx| tx.answer);
    *line = answers;
    left
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

    fn bulk(n: u32) -> Msg {
        Msg { bulk: true, ..msg(n, false, false) }
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
        assert_eq!((q.len(), q.turns()[0]), (6, Line::Short));
        let mut left = Vec::new();
        while !q.is_empty() {
            let line = q.turns().into_iter().find(|l| q.front(*l).is_some()).unwrap();
            left.extend(q.pop(line));
        }
        assert_eq!(pids(left), [4, 0, 5, 1, 2, 3]);
        assert!(q.pop_any().is_none());
    }

    #[test]
    fn bulk_has_a_line_of_its_own() {
        let mut q = Queues::default();
        for n in 0..9 {
            q.push(msg(n, n >= 7, false));
            q.push(bulk(100 + n));
        }
        assert_eq!((q.len(), q.iter().count(), q.iter_mut().count()), (18, 18, 18));
        assert_eq!(q.front(Line::Bulk).and_then(|tx| tx.hdr).map(|h| h.dest_pid), Some(100));
        let left = pids(std::iter::from_fn(|| q.pop_any()));
        assert_eq!(left[..9], [0, 100, 7, 1, 101, 8, 2, 102, 3], "all lines have turns");
        let bulk: Vec<u32> = left.into_iter().filter(|n| *n >= 100).collect();
        assert_eq!(bulk, (100..109).collect::<Vec<u32>>());
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
        assert!(all[0].pop(Line::Short).is_some() && all[1].pop_any().is_some());
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
