//! Memory that payload comes into: runs of the caller's, into which it is copied once, or the receive buffers that it came
//! in, lent.

use hugepages::{LendOwner, OwnPages, PageRunMut, RxFrag, RxLent};
use smallvec::SmallVec;

/// Runs that a payload is copied into, one behind the other.
#[derive(Debug, Default)]
pub struct RecvVec {
    runs: SmallVec<[PageRunMut; 1]>,
    size: u64,
    filled: u64,
    /// Run and offset of the next byte.
    at: (usize, usize),
}

impl RecvVec {
    /// A vector of these runs.
    pub fn new(runs: impl IntoIterator<Item = PageRunMut>) -> RecvVec {
        let runs: SmallVec<[PageRunMut; 1]> = runs.into_iter().collect();
        let size = runs.iter().map(|r| r.len() as u64).sum();
        RecvVec { runs, size, filled: 0, at: (0, 0) }
    }

    /// Bytes that it holds at most.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that came.
    pub fn filled(&self) -> u64 {
        self.filled
    }

    /// The runs.
    pub fn runs(&self) -> &[PageRunMut] {
        &self.runs
    }

    /// The runs, to use again.
    pub fn into_runs(self) -> impl Iterator<Item = PageRunMut> {
        self.runs.into_iter()
    }

    /// The bytes that came, in parts.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let mut left = self.filled;
        self.runs.iter().map_while(move |r| {
            let n = left.min(r.len() as u64);
            left -= n;
            r.bytes().get(..n as usize).filter(|b| !b.is_empty())
        })
    }

    /// `len` bytes from `offset`, as far as there are runs, in parts.
    pub fn range(&self, offset: u64, len: u64) -> impl Iterator<Item = &[u8]> {
        let (mut skip, mut left) = (offset, len);
        self.runs.iter().filter_map(move |r| {
            let from = skip.min(r.len() as u64);
            let n = left.min(r.len() as u64 - from);
            skip -= from;
            left -= n;
            r.bytes().get(from as usize..(from + n) as usize).filter(|b| !b.is_empty())
        })
    }

    /// Copies `from` to `offset`; gives the bytes for which there was room. What came reaches to their end then, or further.
    pub fn store(&mut self, offset: u64, from: &[u8]) -> u64 {
        let (mut skip, mut stored) = (offset, 0);
        for run in &mut self.runs {
            let begin = skip.min(run.len() as u64);
            skip -= begin;
            let Some(room) = run.bytes_mut().get_mut(begin as usize..) else { break };
            let rest = from.get(stored..).unwrap_or_default();
            let n = rest.len().min(room.len());
            if let (Some(room), Some(rest)) = (room.get_mut(..n), rest.get(..n)) {
                room.copy_from_slice(rest);
            }
            stored += n;
        }
        self.filled = self.filled.max(offset + stored as u64);
        stored as u64
    }

    /// Room for the next bytes, at most `most` of them, in one part; empty when it is full.
    fn room(&mut self, most: u64) -> &mut [u8] {
        while self.runs.get(self.at.0).is_some_and(|r| r.len() <= self.at.1) {
            self.at = (self.at.0 + 1, 0);
        }
        let Some(run) = self.runs.get_mut(self.at.0) else { return &mut [] };
        let end = (run.len() as u64).min((self.at.1 as u64).saturating_add(most)) as usize;
        run.bytes_mut().get_mut(self.at.1..end).unwrap_or_default()
    }

    fn advance(&mut self, n: usize) {
        self.at.1 += n;
        self.filled += n as u64;
    }

    fn reset(&mut self) {
        (self.filled, self.at) = (0, (0, 0));
    }
}

/// Part of a received payload.
#[derive(Debug)]
pub enum Piece {
    /// Lies where it came in; goes home when it is dropped.
    Lent(RxLent),
    /// Copied, since the budget for lent buffers was spent.
    Copied(Box<[u8]>),
    /// The same of a long one, in pages of its own.
    Pages(OwnPages),
}

impl Piece {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Piece::Lent(l) => l.bytes(),
            Piece::Copied(b) => b,
            Piece::Pages(p) => p.bytes(),
        }
    }
}

/// Where a payload is to come.
#[derive(Debug)]
pub enum Sink {
    /// It is copied into these runs.
    Into(RecvVec),
    /// Its receive buffers are lent.
    Lend {
        /// Most bytes.
        most: u64,
        /// The host whose share of the lendings it takes.
        owner: LendOwner,
        /// Gets the pieces: one that was used before saves an allocation.
        pieces: Vec<Piece>,
    },
}

impl Sink {
    /// Most bytes that it takes.
    pub fn size(&self) -> u64 {
        match self {
            Sink::Into(v) => v.size(),
            Sink::Lend { most, .. } => *most,
        }
    }

    /// Forgets what came.
    pub fn reset(&mut self) {
        match self {
            Sink::Into(v) => v.reset(),
            Sink::Lend { pieces, .. } => pieces.clear(),
        }
    }

    /// Takes at most `left` bytes of a stream; gives how many came, 0 when there are none yet, and how many of them were
    /// copied though they were to be lent.
    pub(super) fn take(&mut self, left: u64, rx: &mut dyn crate::stream::StreamRx) -> (u64, u64) {
        match self {
            Sink::Into(v) => {
                let n = rx.read(v.room(left));
                v.advance(n);
                (n as u64, 0)
            }
            Sink::Lend { owner, pieces, .. } => {
                let Some(mut frag) = rx.next() else { return (0, 0) };
                let n = left.min(frag.len().into()) as u32;
                let part = if frag.len() > n {
                    let head = frag.split_to(n);
                    rx.unread(frag);
                    head
                } else {
                    frag
                };
                let (piece, copied) = lend(part, *owner);
                pieces.push(piece);
                (n.into(), copied)
            }
        }
    }
}

fn lend(frag: RxFrag, owner: LendOwner) -> (Piece, u64) {
    match frag.lend(owner) {
        Ok(l) => (Piece::Lent(l), 0),
        Err(frag) => (Piece::Copied(frag.bytes().into()), frag.len().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hugepages::PrivatePages;
    use std::sync::Arc;

    fn run(len: usize) -> PageRunMut {
        PageRunMut::new(Arc::new(PrivatePages), len).unwrap()
    }

    #[test]
    fn bytes_go_over_the_seams_of_a_vector() {
        let mut v = RecvVec::new([run(3), run(1), run(5)]);
        assert_eq!(v.size(), 9);
        let mut next = 0u8;
        for most in [2, 9, 1, 9, 9] {
            let room = v.room(most);
            room.fill_with(|| {
                next += 1;
                next
            });
            let n = room.len();
            v.advance(n);
        }
        assert_eq!(v.parts().collect::<Vec<_>>().concat(), (1..=9).collect::<Vec<u8>>());
        assert!(v.room(1).is_empty());
        v.reset();
        assert_eq!((v.parts().count(), v.room(100).len()), (0, 3));
        assert_eq!((v.store(2, &[20, 30, 40, 50]), v.store(7, &[70, 80, 90]), v.filled()), (4, 2, 9));
        assert_eq!(v.range(2, 4).collect::<Vec<_>>().concat(), [20, 30, 40, 50]);
        assert_eq!(v.range(7, 9).collect::<Vec<_>>().concat(), [70, 80]);
        assert_eq!((v.store(9, &[1]), v.range(9, 1).count()), (0, 0));
    }
}
