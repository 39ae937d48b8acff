//! Received pieces in a row: payload that is sent on as it came in.

use crate::backing::{BackingKind, Io, OwnPages};
use crate::rx::RxLent;

/// Part of a received payload.
#[derive(Debug)]
pub enum RxPiece {
    /// In the buffer that it arrived in; dropping it sends the buffer home.
    Lent(RxLent),
    /// A copy, since the lend budget was spent.
    Copied(Box<[u8]>),
    /// A long copy, for the same reason.
    Pages(OwnPages),
}

impl RxPiece {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            RxPiece::Lent(l) => l.bytes(),
            RxPiece::Copied(c) => c,
            RxPiece::Pages(p) => p.bytes(),
        }
    }

    fn io(&self) -> Io {
        match self {
            RxPiece::Lent(l) => l.io(),
            RxPiece::Copied(_) | RxPiece::Pages(_) => Io::of(BackingKind::Private),
        }
    }
}

struct Part {
    piece: RxPiece,
    /// Of its first byte, as it was when the part was taken in: whoever sends it need not touch the buffer's own words.
    io: Io,
}

/// Lists over so many parts are given back to the allocator: a peer that sends a payload in tiny segments must not make
/// all of them large. 1 MiB in segments of 1,448 bytes has 725.
const KEPT_LEN: usize = 1024;

/// Pieces by their place in the whole.
#[derive(Default)]
pub(crate) struct Gather {
    parts: Vec<Part>,
    /// Offset of the end of each part, in bytes: apart from the parts, so that a search reads few cache lines.
    ends: Vec<u32>,
}

impl Gather {
    /// Takes pieces in, behind each other, and returns how many bytes there are. Those with which there would be more than
    /// `u32::MAX` are dropped.
    pub(crate) fn fill(&mut self, pieces: impl IntoIterator<Item = RxPiece>) -> u32 {
        let pieces = pieces.into_iter();
        let n = pieces.size_hint().0;
        self.parts.reserve(n);
        self.ends.reserve(n);
        let mut end = 0u32;
        for piece in pieces {
            let len = u32::try_from(piece.bytes().len()).ok().filter(|len| *len > 0);
            let Some(next) = len.and_then(|len| end.checked_add(len)) else { continue };
            end = next;
            self.parts.push(Part { io: piece.io(), piece });
            self.ends.push(end);
        }
        end
    }

    /// Lets go of all pieces. False when its memory is not worth keeping.
    pub(crate) fn clear(&mut self) -> bool {
        self.parts.clear();
        self.ends.clear();
        self.parts.capacity() <= KEPT_LEN
    }

    #[inline]
    fn part(&self, off: u32) -> Option<(&Part, u32)> {
        let i = self.ends.partition_point(|end| *end <= off);
        let start = i.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some((self.parts.get(i)?, off - start))
    }

    /// The bytes of one piece, from `off` of the whole on; none beyond the end.
    #[inline]
    pub(crate) fn bytes_at(&self, off: u32) -> &[u8] {
        self.part(off).map_or(&[], |(p, into)| &p.piece.bytes()[into as usize..])
    }

    /// The same, and where a device finds them.
    #[inline]
    pub(crate) fn at(&self, off: u32) -> (&[u8], Io) {
        match self.part(off) {
            Some((p, into)) => (&p.piece.bytes()[into as usize..], p.io.on(into)),
            None => (&[], Io::of(BackingKind::Private)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(b: &[u8]) -> RxPiece {
        RxPiece::Copied(b.into())
    }

    #[test]
    fn each_offset_finds_its_piece() {
        let mut g = Gather::default();
        assert_eq!(g.bytes_at(0), b"");
        assert_eq!(g.fill([copied(b"ab"), copied(b""), copied(b"cde"), copied(b"f")]), 6);
        let at: Vec<_> = (0..8).map(|off| g.bytes_at(off)).collect();
        assert_eq!(at, [&b"ab"[..], b"b", b"cde", b"de", b"e", b"f", b"", b""]);
        assert!((0..8).all(|off| g.at(off).0 == at[off as usize]));
        assert!(g.clear());
        assert_eq!(g.bytes_at(0), b"");
        assert_eq!(g.fill([copied(b"xy")]), 2);
        assert_eq!(g.bytes_at(1), b"y");
    }

    #[test]
    fn a_long_list_is_not_worth_keeping() {
        let mut g = Gather::default();
        g.fill((0..=KEPT_LEN).map(|_| copied(b"x")));
        assert_eq!(g.bytes_at(KEPT_LEN as u32), b"x");
        assert!(!g.clear());
    }
}
