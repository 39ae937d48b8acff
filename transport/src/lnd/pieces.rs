//! The parts of one received payload, in a list whose memory is used again.

use std::cell::RefCell;
use std::ops::Deref;

pub use hugepages::RxPiece;
use smallvec::SmallVec;

type List = SmallVec<[RxPiece; 1]>;

/// Lists that a thread keeps for its next messages.
const KEPT: usize = 64;
/// Longer ones are given back to the allocator: a peer that sends a payload in tiny segments must not make
/// every list of the thread large. 1024 entries take 40 KiB; a 1 MiB payload in segments of 1448 bytes has 725.
const KEPT_LEN: usize = 1024;

thread_local! {
    static SPARE: RefCell<Vec<List>> = const { RefCell::new(Vec::new()) };
}

/// The parts of one payload, in order. A single part takes no allocation; a longer list takes the memory of one
/// that was dropped on this thread before, so that a polling lcore whose applications drop what they are given
/// allocates nothing once it is warm.
#[derive(Debug, Default)]
pub struct Pieces(List);

impl Pieces {
    /// An empty list that holds `n` parts without growing.
    pub(crate) fn with_capacity(n: usize) -> Pieces {
        if n <= 1 {
            return Pieces::default();
        }
        let mut list = SPARE.try_with(|s| s.borrow_mut().pop()).ok().flatten().unwrap_or_default();
        list.reserve(n);
        Pieces(list)
    }

    pub(crate) fn push(&mut self, p: RxPiece) {
        if self.0.len() == 1 && !self.0.spilled() {
            self.leave_inline();
        }
        self.0.push(p);
    }

    /// A payload that was to lie in one buffer lies across two, as each small one may: the list takes a dropped one's memory.
    #[cold]
    fn leave_inline(&mut self) {
        let mut list = SPARE.try_with(|s| s.borrow_mut().pop()).ok().flatten().unwrap_or_default();
        list.append(&mut self.0);
        self.0 = list;
    }

    /// Takes the parts of another list in, behind its own.
    pub(crate) fn append(&mut self, mut more: Pieces) {
        more.drain().for_each(|p| self.push(p));
    }

    /// Length of all parts, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.iter().map(|p| p.bytes().len() as u64).sum()
    }

    /// Of that, copied since no receive buffer could be lent.
    pub(crate) fn copied(&self) -> u64 {
        let copied = self.iter().filter(|p| !matches!(p, RxPiece::Lent(_)));
        copied.map(|p| p.bytes().len() as u64).sum()
    }

    /// Takes the parts out, and leaves the list its memory for the next one.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = RxPiece> + '_ {
        self.0.drain(..)
    }

    /// Drops a part and leaves an empty one, so that the list's memory is given back by whoever drops the whole.
    pub(crate) fn let_go(&mut self, i: usize) {
        if let Some(p) = self.0.get_mut(i) {
            *p = RxPiece::Copied(Box::default());
        }
    }
}

impl Deref for Pieces {
    type Target = [RxPiece];
    fn deref(&self) -> &[RxPiece] {
        &self.0
    }
}

impl<'a> IntoIterator for &'a Pieces {
    type Item = &'a RxPiece;
    type IntoIter = std::slice::Iter<'a, RxPiece>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl IntoIterator for Pieces {
    type Item = RxPiece;
    type IntoIter = smallvec::IntoIter<[RxPiece; 1]>;
    fn into_iter(mut self) -> Self::IntoIter {
        std::mem::take(&mut self.0).into_iter()
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if !self.0.spilled() {
            return;
        }
        let mut list = std::mem::take(&mut self.0);
        list.clear();
        if list.capacity() > KEPT_LEN {
            return;
        }
        // A thread that ends has no spare lists any more; the memory is then freed with `list`.
        let _ = SPARE.try_with(|s| {
            let mut spare = s.borrow_mut();
            if spare.len() < KEPT {
                spare.push(list);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(n: usize) -> Pieces {
        let mut p = Pieces::with_capacity(n);
        (0..n).for_each(|i| p.push(RxPiece::Copied([i as u8].into())));
        p
    }

    fn spare() -> Vec<usize> {
        SPARE.with_borrow(|s| s.iter().map(|l| l.capacity()).collect())
    }

    #[test]
    fn memory_of_a_dropped_list_serves_the_next() {
        let p = filled(256);
        let at = p.as_ptr();
        drop(p);
        let p = filled(200);
        assert_eq!(p.as_ptr(), at);
        assert_eq!(p.iter().map(|x| usize::from(x.bytes()[0])).sum::<usize>(), 199 * 200 / 2);
        assert!(spare().is_empty());
    }

    /// Two parts where one was expected: a message of lnet_selftest across a seam, once in four.
    #[test]
    fn a_list_that_outgrows_its_place_takes_the_memory_of_a_dropped_one() {
        SPARE.with_borrow_mut(Vec::clear);
        let two = || {
            let mut p = Pieces::with_capacity(1);
            p.push(RxPiece::Copied([1].into()));
            p.push(RxPiece::Copied([2].into()));
            assert_eq!(p.iter().map(|p| p.bytes()[0]).collect::<Vec<_>>(), [1, 2]);
            p.as_ptr()
        };
        let first = two();
        assert_eq!((two(), spare().len()), (first, 1));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        drop((0..200).map(|_| filled(2)).collect::<Vec<_>>());
        assert_eq!(spare().len(), KEPT);
        SPARE.with_borrow_mut(Vec::clear);
        drop(filled(KEPT_LEN + 1));
        drop(filled(1));
        assert!(spare().is_empty());
    }

    #[test]
    fn a_list_may_be_taken_apart_or_dropped_elsewhere() {
        let p = filled(3);
        assert_eq!(std::thread::spawn(move || p.len()).join().ok(), Some(3));
        assert_eq!(filled(3).into_iter().map(|p| p.bytes().len()).sum::<usize>(), 3);
        assert_eq!((&filled(3)).into_iter().count(), 3);
    }
}
