//! The shadow queue: bytes that a connection was given to send and the peer has not yet acknowledged.
//!
//! Header bytes are copied into a ring that belongs to the connection; payload stays where it is, held by
//! [`Lent`] references. A piece is let go when the peer has acknowledged past its end, not before: a
//! retransmission reads it again. The ring and the queue grow to what the connection needs and stay; a push
//! allocates nothing after that.

use std::collections::VecDeque;

use hugepages::Lent;

/// Inline bytes of pushes in a row are joined up to this length, in bytes.
const JOIN_MAX: u32 = 4096;
const RING_MIN: usize = 512;

enum Src {
    /// Place in the ring, counted from its first byte ever (modulo 2^32).
    Inline(u32),
    Lent(Lent),
}

struct Piece {
    start: u64,
    len: u32,
    src: Src,
}

const _: () = assert!(size_of::<Piece>() <= 40);

impl Piece {
    fn end(&self) -> u64 {
        self.start + u64::from(self.len)
    }
}

/// Contiguous bytes of the stream.
pub enum Chunk<'a> {
    /// Header bytes, to be copied.
    Inline(&'a [u8]),
    /// Payload: bytes of a lending that lie together, from `off` on for `len` bytes.
    Lent {
        /// The piece.
        lent: &'a Lent,
        /// First byte in it.
        off: u32,
        /// Bytes.
        len: u32,
    },
}

/// The queue.
#[derive(Default)]
pub struct Shadow {
    pieces: VecDeque<Piece>,
    end: u64,
    ring: Vec<u8>,
    ring_head: u32,
    ring_used: u32,
    cursor: usize,
}

impl Shadow {
    /// Stream offset of the end of what was pushed.
    #[inline]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Pieces held.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Bytes of ring memory.
    pub fn ring_bytes(&self) -> usize {
        self.ring.len()
    }

    /// Memory that the queue owns, in bytes; lent pages not counted.
    pub fn memory(&self) -> usize {
        self.ring.len() + self.pieces.capacity() * size_of::<Piece>()
    }

    /// Appends header bytes by copy.
    pub fn push_inline(&mut self, b: &[u8]) {
        let len = b.len() as u32;
        if len == 0 {
            return;
        }
        let need = self.ring_used as usize + b.len();
        if need > self.ring.len() {
            self.grow(need);
        }
        let mask = self.ring.len() - 1;
        let at = self.ring_head as usize & mask;
        let first = b.len().min(self.ring.len() - at);
        self.ring[at..at + first].copy_from_slice(&b[..first]);
        if first < b.len() {
            self.ring[..b.len() - first].copy_from_slice(&b[first..]);
        }
        let pos = self.ring_head;
        self.ring_head = pos.wrapping_add(len);
        self.ring_used += len;
        if let Some(Piece { len: l, src: Src::Inline(_), .. }) = self.pieces.back_mut()
            && *l + len <= JOIN_MAX
        {
            *l += len;
        } else {
            self.pieces.push_back(Piece { start: self.end, len, src: Src::Inline(pos) });
        }
        self.end += u64::from(len);
    }

    fn grow(&mut self, need: usize) {
        let cap = need.next_power_of_two().max(RING_MIN);
        let mut ring = vec![0; cap];
        let tail = self.ring_head.wrapping_sub(self.ring_used);
        for i in 0..self.ring_used {
            let p = tail.wrapping_add(i) as usize;
            ring[p & (cap - 1)] = self.ring[p & (self.ring.len() - 1)];
        }
        self.ring = ring;
    }

    /// Appends payload by reference.
    pub fn push_lent(&mut self, l: &Lent) {
        if l.is_empty() {
            return;
        }
        self.pieces.push_back(Piece { start: self.end, len: l.len(), src: Src::Lent(l.clone()) });
        self.end += u64::from(l.len());
    }

    /// The peer has acknowledged up to `una`: lets go of every piece that ends there or before.
    pub fn release(&mut self, una: u64) {
        while let Some(p) = self.pieces.front()
            && p.end() <= una
        {
            if let Src::Inline(_) = p.src {
                self.ring_used -= p.len;
            }
            self.pieces.pop_front();
            self.cursor = self.cursor.saturating_sub(1);
        }
    }

    /// Lets go of everything.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.ring_used = 0;
        self.cursor = 0;
    }

    /// Contiguous bytes from `off` on, at most `max`. `None` when `off` is released, not pushed, or `max` is 0.
    pub fn chunk(&mut self, off: u64, max: u32) -> Option<Chunk<'_>> {
        let holds = |p: &Piece| p.start <= off && off < p.end();
        if !self.pieces.get(self.cursor).is_some_and(holds) {
            self.cursor += 1;
            if !self.pieces.get(self.cursor).is_some_and(holds) {
                self.cursor = self.pieces.partition_point(|p| p.end() <= off);
            }
        }
        let p = self.pieces.get(self.cursor).filter(|p| holds(p))?;
        let skip = (off - p.start) as u32;
        let len = (p.len - skip).min(max);
        if len == 0 {
            return None;
        }
        Some(match &p.src {
            Src::Lent(lent) => Chunk::Lent { lent, off: skip, len: lent.together(skip, len) },
            Src::Inline(pos) => {
                let at = pos.wrapping_add(skip) as usize & (self.ring.len() - 1);
                let n = (len as usize).min(self.ring.len() - at);
                Chunk::Inline(&self.ring[at..at + n])
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hugepages::{LendSlab, PageRunMut, PrivatePages};
    use std::sync::Arc;

    fn lent(slab: &LendSlab, token: u64, len: u32) -> Lent {
        let mut r = PageRunMut::new(Arc::new(PrivatePages), len as usize).unwrap();
        r.bytes_mut().iter_mut().enumerate().for_each(|(i, b)| *b = (i as u64 + token) as u8);
        slab.lend(r.freeze().slice_all(), token).unwrap()
    }

    fn read(s: &mut Shadow, mut off: u64, len: u64, max: u32) -> Vec<u8> {
        let (end, mut v) = (off + len, vec![]);
        while off < end {
            match s.chunk(off, max.min((end - off) as u32)).unwrap() {
                Chunk::Inline(b) => v.extend_from_slice(b),
                Chunk::Lent { lent, off, len } => {
                    v.extend_from_slice(&lent.chunk(off)[..len as usize]);
                }
            }
            off = end - len + v.len() as u64;
        }
        v
    }

    #[test]
    fn any_range_reads_back_until_it_is_released() {
        let slab = LendSlab::new(64);
        let mut s = Shadow::default();
        let mut model = vec![];
        let mut una = 0u64;
        let mut r = 99u64;
        let mut rnd = move |n: u64| {
            r ^= r << 13;
            r ^= r >> 7;
            r ^= r << 17;
            r % n
        };
        for i in 0..4000u64 {
            let h: Vec<u8> = (0..rnd(192)).map(|j| (i * 31 + j) as u8).collect();
            s.push_inline(&h);
            model.extend_from_slice(&h);
            if rnd(3) == 0 {
                let l = lent(&slab, i, 1 + rnd(9000) as u32);
                s.push_lent(&l);
                l.chunks().for_each(|b| model.extend_from_slice(b));
            }
            assert_eq!(s.end(), model.len() as u64);
            let off = una + rnd((s.end() - una).max(1));
            let len = rnd(s.end() - off + 1).min(20_000);
            assert_eq!(
                read(&mut s, off, len, 1 + rnd(3000) as u32),
                model[off as usize..(off + len) as usize]
            );
            una += rnd((s.end() - una).min(10_000) + 1);
            s.release(una);
            slab.reap(|_, _| ());
        }
        assert!(s.ring_bytes() <= 65_536, "{}", s.ring_bytes());
        s.release(s.end());
        slab.reap(|_, _| ());
        assert_eq!((s.pieces(), slab.out()), (0, 0));
    }

    #[test]
    fn a_lending_is_held_until_its_last_byte_is_acknowledged() {
        let slab = LendSlab::new(1);
        let mut s = Shadow::default();
        s.push_lent(&lent(&slab, 5, 1000));
        s.release(999);
        assert_eq!(slab.reap(|_, _| ()), 0);
        s.release(1000);
        assert_eq!(slab.reap(|t, _| assert_eq!(t, 5)), 1);
        s.push_lent(&lent(&slab, 6, 1000));
        s.clear();
        assert_eq!(slab.reap(|_, _| ()), 1);
    }

    #[test]
    fn nothing_outside_can_be_read() {
        let mut s = Shadow::default();
        assert!(s.chunk(0, 10).is_none());
        s.push_inline(b"abc");
        s.push_inline(b"");
        assert!(s.chunk(3, 10).is_none() && s.chunk(0, 0).is_none());
        s.push_inline(&[7; 4096]);
        s.release(3);
        assert!(s.chunk(2, 1).is_none());
        assert!(s.chunk(3, 1).is_some());
    }
}
