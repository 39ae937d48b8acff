//! Received data that lies beyond a gap. What was kept first wins where segments overlap, so a second version of
//! bytes already held (or forged) changes nothing.

use std::collections::VecDeque;
use std::ops::Range;

use hugepages::RxFrag;

struct Piece {
    start: u64,
    frag: RxFrag,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + u64::from(self.frag.len())
    }
}

/// Disjoint pieces in order. Bounded by the pool memory they occupy.
#[derive(Default)]
pub struct Reasm {
    pieces: VecDeque<Piece>,
    /// Bytes that they cover: disjoint ranges in order that do not touch. Kept beside them, so that a SACK block costs no
    /// walk.
    islands: VecDeque<Range<u64>>,
    truesize: u64,
}

/// The bound was reached: the data is dropped and the peer sends it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

impl Reasm {
    /// Whether nothing is held.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Pieces held.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Pool memory behind them, in bytes.
    pub fn truesize(&self) -> u64 {
        self.truesize
    }

    /// Keeps the bytes of `frag`, which starts at offset `start`, that are not held yet.
    ///
    /// # Errors
    /// [`Overflow`] when that would hold more than `max` bytes of pool memory; some of it may have been kept.
    pub fn insert(&mut self, start: u64, frag: RxFrag, max: u64) -> Result<(), Overflow> {
        let (mut start, mut frag) = (start, frag);
        let mut i = self.pieces.partition_point(|p| p.start <= start);
        if i > 0 {
            let over = self.pieces[i - 1].end().saturating_sub(start);
            frag.advance(over.min(u64::from(u32::MAX)) as u32);
            start += over;
        }
        while !frag.is_empty() {
            if self.truesize + u64::from(frag.truesize()) > max {
                return Err(Overflow);
            }
            self.truesize += u64::from(frag.truesize());
            let Some(next) = self.pieces.get(i).filter(|n| n.start < start + u64::from(frag.len())) else {
                self.cover(start, start + u64::from(frag.len()));
                self.pieces.insert(i, Piece { start, frag });
                return Ok(());
            };
            let (gap, next_end) = ((next.start - start) as u32, next.end());
            if gap == 0 {
                self.truesize -= u64::from(frag.truesize());
            } else {
                let head = frag.split_to(gap);
                self.cover(start, start + u64::from(gap));
                self.pieces.insert(i, Piece { start, frag: head });
                i += 1;
            }
            let skip = (next_end - start - u64::from(gap)).min(u64::from(u32::MAX)) as u32;
            frag.advance(skip);
            start = next_end;
            i += 1;
        }
        Ok(())
    }

    /// Adds bytes that no island has yet.
    fn cover(&mut self, start: u64, end: u64) {
        let i = self.islands.partition_point(|r| r.end < start);
        match self.islands.get_mut(i) {
            Some(r) if r.start <= end => {
                r.start = r.start.min(start);
                r.end = r.end.max(end);
                let end = r.end;
                if let Some(next) = self.islands.get(i + 1).filter(|n| n.start <= end).map(|n| n.end) {
                    self.islands.remove(i + 1);
                    self.islands.get_mut(i).into_iter().for_each(|r| r.end = r.end.max(next));
                }
            }
            _ => self.islands.insert(i, start..end),
        }
    }

    /// The contiguous bytes around offset `at`, if it is held.
    pub fn island_of(&self, at: u64) -> Option<Range<u64>> {
        let i = self.islands.partition_point(|r| r.end <= at);
        self.islands.get(i).filter(|r| r.contains(&at)).cloned()
    }

    /// The part of `r` that is held already: the first contiguous one.
    pub fn overlap(&self, r: &Range<u64>) -> Option<Range<u64>> {
        let i = self.islands.partition_point(|x| x.end <= r.start);
        let o = self.islands.get(i).map(|x| x.start.max(r.start)..x.end.min(r.end))?;
        (!o.is_empty()).then_some(o)
    }

    /// All contiguous ranges, from the lowest.
    pub fn islands(&self) -> impl Iterator<Item = Range<u64>> {
        self.islands.iter().cloned()
    }

    /// Takes the piece that starts at `nxt`, if there is one.
    pub fn pop(&mut self, nxt: u64) -> Option<RxFrag> {
        if self.pieces.front()?.start != nxt {
            return None;
        }
        let p = self.pieces.pop_front()?;
        self.truesize -= u64::from(p.frag.truesize());
        if let Some(r) = self.islands.front_mut() {
            r.start = p.end();
            if r.is_empty() {
                self.islands.pop_front();
            }
        }
        Some(p.frag)
    }

    /// Lets go of everything.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.islands.clear();
        self.truesize = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hugepages::HeapRxPool;
    use proptest::prelude::*;

    fn take(r: &mut Reasm, nxt: &mut u64) -> Vec<u8> {
        let mut v = vec![];
        while let Some(f) = r.pop(*nxt) {
            *nxt += u64::from(f.len());
            v.extend_from_slice(f.bytes());
        }
        v
    }

    #[test]
    fn the_first_version_of_a_byte_wins() {
        let pool = HeapRxPool::new(64, 64);
        let mut r = Reasm::default();
        let mut put = |s: u64, b: &[u8]| r.insert(s, pool.copy_of(b).unwrap(), 1 << 20).unwrap();
        put(10, b"BBBB");
        put(16, b"CC");
        put(8, b"xxxxxxxxxxxxxx"); // 8..22 over both
        put(9, b"yyy");
        put(22, b"D");
        put(12, b"z");
        let mut nxt = 8;
        assert_eq!(take(&mut r, &mut nxt), b"xxBBBBxxCCxxxxD");
        assert_eq!((nxt, r.len(), r.truesize(), pool.out()), (23, 0, 0, 0));
    }

    #[test]
    fn what_it_holds_is_bounded_in_pool_memory() {
        let pool = HeapRxPool::new(1000, 64);
        let mut r = Reasm::default();
        let one = || pool.copy_of(b"x").unwrap();
        assert_eq!(r.insert(10, one(), 2000), Ok(()));
        assert_eq!(r.insert(20, one(), 2000), Ok(()));
        assert_eq!(r.insert(30, one(), 2000), Err(Overflow));
        assert_eq!(r.insert(10, one(), 2000), Ok(()), "held already: costs nothing");
        assert_eq!((r.truesize(), pool.out()), (2000, 2));
        r.clear();
        assert_eq!((r.is_empty(), pool.out()), (true, 0));
    }

    proptest! {
        #[test]
        fn equals_a_byte_map(segs in proptest::collection::vec((0u64..200, 1usize..40, any::<u8>()), 1..60)) {
            let pool = HeapRxPool::new(64, 1 << 12);
            let mut r = Reasm::default();
            let mut m = std::collections::BTreeMap::new();
            for (s, n, v) in segs {
                r.insert(s, pool.copy_of(&vec![v; n]).unwrap(), u64::MAX).unwrap();
                for i in s..s + n as u64 { m.entry(i).or_insert(v); }
                let mut want: Vec<Range<u64>> = vec![];
                for i in m.keys() {
                    match want.last_mut() {
                        Some(r) if r.end == *i => r.end += 1,
                        _ => want.push(*i..*i + 1),
                    }
                }
                prop_assert_eq!(r.islands().collect::<Vec<_>>(), want);
            }
            let mut nxt = *m.keys().next().unwrap();
            while !m.is_empty() {
                if !m.contains_key(&nxt) { nxt = *m.keys().next().unwrap(); }
                let got = take(&mut r, &mut nxt);
                prop_assert!(!got.is_empty());
                for (i, b) in got.iter().enumerate() {
                    prop_assert_eq!(m.remove(&(nxt - got.len() as u64 + i as u64)), Some(*b));
                }
            }
            prop_assert_eq!((r.len(), r.truesize(), pool.out(), r.islands().count()), (0, 0, 0, 0));
        }
    }
}
