//! Messages whose pages wait for free lendings, and dials that wait for an answer, of both kinds of streams.
//!
//! Lendings are the lcore's, and bounded. Peers that do not read keep theirs until their connections end, so nothing waits
//! behind what it need not:
//!
//! * Order matters within one connection. What has no pages passes all others there.
//! * Answers leave a quarter of the lendings to operations of our own, which have a queue apart.
//! * In each of the two queues connections take turns, a message at a time. The first in the queue is not passed by a
//!   smaller one, which would starve it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use hugepages::LendSlab;

use crate::hash::OwnMap;
use crate::lnet::PIECES_MAX;
use crate::stream::{ConnId, LendId, SendMsg};

/// Whether a message is an answer that has to leave the free lendings to operations of our own. The largest message fits
/// into what is left to answers, whatever the slab's size.
pub(super) fn must_leave(slab: &LendSlab, m: &SendMsg) -> bool {
    let all = slab.capacity();
    let kept = (all / 4).min(all.saturating_sub(PIECES_MAX));
    m.answer && (m.pay.len() + kept) as u64 > all as u64 - slab.out() && m.pay.len() <= all
}

/// The messages.
#[derive(Default)]
pub(super) struct Unlent {
    waiting: OwnMap<ConnId, VecDeque<SendMsg>>,
    /// Connections whose next message is of our own.
    own: VecDeque<ConnId>,
    /// Connections whose next message is an answer.
    answers: VecDeque<ConnId>,
}

impl Unlent {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn turns(&mut self, answers: bool) -> &mut VecDeque<ConnId> {
        if answers { &mut self.answers } else { &mut self.own }
    }

    /// Whether a message has to wait behind others.
    #[inline]
    pub(super) fn before(&self, id: ConnId, m: &SendMsg) -> bool {
        !self.waiting.is_empty() && self.first(id, m)
    }

    #[cold]
    fn first(&self, id: ConnId, m: &SendMsg) -> bool {
        let turns = if m.answer { &self.answers } else { &self.own };
        self.waiting.contains_key(&id) || (m.lend.is_some() && !turns.is_empty())
    }

    /// A message waits.
    pub(super) fn push(&mut self, id: ConnId, m: SendMsg) {
        let q = self.waiting.entry(id).or_default();
        let (first, answer) = (q.is_empty(), m.answer);
        q.push_back(m);
        if first {
            self.turns(answer).push_back(id);
        }
    }

    /// Sends what there is room for; `send` gives back what has to wait on.
    pub(super) fn retry(&mut self, mut send: impl FnMut(ConnId, SendMsg) -> Option<SendMsg>) {
        for answers in [false, true] {
            while let Some(id) = self.turns(answers).pop_front() {
                let Some(q) = self.waiting.get_mut(&id) else { continue };
                let mut stuck = false;
                // One with pages, and those without behind it.
                for n in 0.. {
                    if n > 0 && q.front().is_none_or(|m| m.lend.is_some()) {
                        break;
                    }
                    let Some(m) = q.pop_front() else { break };
                    if let Some(m) = send(id, m) {
                        q.push_front(m);
                        stuck = n == 0;
                        break;
                    }
                }
                match q.front().map(|m| m.answer) {
                    None => drop(self.waiting.remove(&id)),
                    Some(answer) if stuck => {
                        self.turns(answer).push_front(id);
                        break;
                    }
                    Some(answer) => self.turns(answer).push_back(id),
                }
            }
        }
    }

    /// The connection takes nothing more: its messages are dropped, and their pages are home.
    pub(super) fn close(&mut self, id: ConnId, home: &mut VecDeque<LendId>) {
        if let Some(q) = self.waiting.remove(&id) {
            home.extend(q.iter().filter_map(|m| m.lend));
            self.own.retain(|c| *c != id);
            self.answers.retain(|c| *c != id);
        }
    }
}

/// Dials under way, by when they are given up.
#[derive(Default)]
pub(super) struct Dials(BinaryHeap<Reverse<(u64, ConnId)>>);

impl Dials {
    pub(super) fn add(&mut self, until: u64, id: ConnId) {
        self.0.push(Reverse((until, id)));
    }

    /// One whose time is over; it may have come to something long since.
    #[inline]
    pub(super) fn over(&mut self, now: u64) -> Option<ConnId> {
        let due = self.0.peek().is_some_and(|Reverse((until, _))| *until <= now);
        if due { self.0.pop().map(|Reverse((_, id))| id) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{InlineHdr, Pages, ShardId};
    use hugepages::{PageRunMut, PrivatePages};
    use std::sync::Arc;

    fn conn(n: u32) -> ConnId {
        ConnId { shard: ShardId(0), index: n, generation: 0 }
    }

    /// A message of so many pieces.
    fn msg(name: u64, pieces: usize, answer: bool) -> SendMsg {
        let run = PageRunMut::new(Arc::new(PrivatePages), 4096).unwrap().freeze();
        let pay: Pages = (0..pieces).map(|_| run.slice_all()).collect();
        let hdr = InlineHdr::try_from(&name.to_le_bytes()[..]).unwrap();
        SendMsg { hdr, lend: (pieces > 0).then_some(LendId(name)), pay, hold: false, answer }
    }

    fn name(m: &SendMsg) -> u64 {
        u64::from_le_bytes(m.hdr[..].try_into().unwrap())
    }

    /// Gives messages as a machine does; what is sent goes into the list, and its pieces out of `free`.
    struct Rt {
        unlent: Unlent,
        free: usize,
        /// Of those that are free, so many are no answer's.
        kept: usize,
        sent: Vec<u64>,
    }

    impl Rt {
        fn try_send(free: &mut usize, kept: usize, sent: &mut Vec<u64>, m: SendMsg) -> Option<SendMsg> {
            let needs = m.pay.len();
            if needs > 0 && needs + if m.answer { kept } else { 0 } > *free {
                return Some(m);
            }
            *free -= needs;
            sent.push(name(&m));
            None
        }

        fn give(&mut self, id: u32, m: SendMsg) {
            let id = conn(id);
            let back = if self.unlent.before(id, &m) {
                Some(m)
            } else {
                Self::try_send(&mut self.free, self.kept, &mut self.sent, m)
            };
            if let Some(m) = back {
                self.unlent.push(id, m);
            }
        }

        fn home(&mut self, pieces: usize) -> Vec<u64> {
            self.free += pieces;
            let (free, kept, sent) = (&mut self.free, self.kept, &mut self.sent);
            self.unlent.retry(|_, m| Self::try_send(free, kept, sent, m));
            std::mem::take(&mut self.sent)
        }
    }

    fn rt(free: usize, kept: usize) -> Rt {
        Rt { unlent: Unlent::default(), free, kept, sent: Vec::new() }
    }

    #[test]
    fn what_has_no_pages_passes_all_but_its_own_connection() {
        let mut r = rt(1, 0);
        r.give(1, msg(1, 3, false));
        r.give(1, msg(2, 0, false));
        r.give(2, msg(3, 0, false));
        r.give(3, msg(4, 1, false));
        assert_eq!(r.sent, [3], "4 would fit, but 1 was first");
        assert_eq!(r.home(2), [3, 1, 2]);
        assert_eq!(r.home(1), [4]);
        assert!(r.unlent.is_empty());
    }

    #[test]
    fn answers_that_wait_leave_the_rest_to_our_own_operations() {
        let mut r = rt(4, 4);
        for c in 1..=9 {
            r.give(c, msg(c.into(), 1, true));
        }
        r.give(10, msg(10, 2, false));
        r.give(11, msg(11, 2, false));
        r.give(12, msg(12, 1, false));
        assert_eq!(r.sent, [10, 11]);
        assert_eq!(r.home(1), [10, 11, 12]);
        assert_eq!(r.home(5), [1], "one above what is kept");
        assert_eq!(r.home(2), [2, 3], "in their order");
    }

    #[test]
    fn connections_take_turns_and_keep_their_own_order() {
        let mut r = rt(0, 0);
        for n in 0..3 {
            for c in 1..=3 {
                r.give(c, msg(u64::from(c) * 10 + n, 1, n % 2 == 1));
            }
        }
        let mut got = Vec::new();
        while !r.unlent.is_empty() {
            got.extend(r.home(1));
        }
        assert_eq!(got[..3], [10, 20, 30]);
        for c in 1..=3 {
            let of: Vec<u64> = got.iter().copied().filter(|m| m / 10 == c).collect();
            assert_eq!(of, [c * 10, c * 10 + 1, c * 10 + 2]);
        }
    }

    #[test]
    fn what_is_closed_goes_home_and_holds_nobody_up() {
        let mut r = rt(1, 0);
        r.give(1, msg(1, 2, false));
        r.give(1, msg(2, 0, false));
        r.give(2, msg(3, 1, false));
        let mut home = VecDeque::new();
        r.unlent.close(conn(1), &mut home);
        assert_eq!((home, r.home(0)), (VecDeque::from([LendId(1)]), vec![3]));
        assert!(r.unlent.is_empty() && r.unlent.own.is_empty());
    }

    #[test]
    fn the_largest_answer_fits_beside_what_is_kept_in_a_slab_of_any_size() {
        for all in [1, 8, 255, 256, 300, 1024, 8192] {
            let slab = LendSlab::new(all);
            let m = msg(1, PIECES_MAX.min(all), true);
            assert!(!must_leave(&slab, &m), "{all}");
            let run = PageRunMut::new(Arc::new(PrivatePages), 4096).unwrap().freeze();
            let kept = (all / 4).min(all.saturating_sub(PIECES_MAX));
            let out: Vec<_> = (0..all - kept).map(|_| slab.lend(run.slice_all(), 0).unwrap()).collect();
            assert!(must_leave(&slab, &m), "{all}");
            drop(out);
            slab.reap(|_, _| ());
        }
    }

    #[test]
    fn dials_are_over_in_the_order_of_their_limits() {
        let mut d = Dials::default();
        d.add(50, conn(1));
        d.add(10, conn(2));
        assert_eq!(
            (d.over(9), d.over(10), d.over(49), d.over(60), d.over(60)),
            (None, Some(conn(2)), None, Some(conn(1)), None)
        );
    }
}
