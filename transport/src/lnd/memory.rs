//! Payload by reference, places for it, and how a message ended: what LNet and its LNDs hand each other.

use std::sync::Arc;

use arrayvec::ArrayVec;
use hugepages::{PageRunMut, PageSlice, PrivatePages};

use super::pieces::Pieces;
use crate::stream::{INLINE_PAYLOAD_MAX, Pages};

/// Payload of a PUT or REPLY.
#[derive(Debug)]
pub enum Payload {
    /// Up to [`INLINE_PAYLOAD_MAX`] bytes, copied into the header.
    Inline(ArrayVec<u8, INLINE_PAYLOAD_MAX>),
    /// Pages, sent by reference.
    Pages(Pages),
}

impl Clone for Payload {
    fn clone(&self) -> Payload {
        match self {
            // In one piece: the array's own clone goes byte by byte.
            Payload::Inline(b) => Payload::inline(b).unwrap_or_else(Payload::empty),
            Payload::Pages(p) => Payload::Pages(p.clone()),
        }
    }
}

impl Payload {
    /// No bytes.
    #[inline]
    pub fn empty() -> Payload {
        Payload::Inline(ArrayVec::new())
    }

    /// The payload, taken out of its place.
    #[inline]
    pub(crate) fn take(&mut self) -> Payload {
        std::mem::replace(self, Payload::empty())
    }

    /// A copy of `bytes`, or `None` when they are more than [`INLINE_PAYLOAD_MAX`].
    pub fn inline(bytes: &[u8]) -> Option<Payload> {
        ArrayVec::try_from(bytes).ok().map(Payload::Inline)
    }

    /// A copy of `bytes`, inline or in a page of its own; `None` where there is no memory for that.
    pub fn copy_of(bytes: &[u8]) -> Option<Payload> {
        if let Some(inline) = Payload::inline(bytes) {
            return Some(inline);
        }
        let mut run = PageRunMut::new(Arc::new(PrivatePages), bytes.len()).ok()?;
        run.bytes_mut().copy_from_slice(bytes);
        Some(Payload::Pages(Pages::from_iter([run.freeze().slice_all()])))
    }

    /// Received payload, to be sent on as it came in: by reference, as one piece that takes one lending. Its buffers go home
    /// when nothing needs it any more, be that on another lcore. Up to [`INLINE_PAYLOAD_MAX`] bytes are copied, and their
    /// buffers go home at once. On a thread that has sent on as many before it allocates nothing.
    pub fn forwarded(mut pieces: Pieces) -> Payload {
        let len: usize = pieces.iter().map(|p| p.bytes().len()).sum();
        if len > INLINE_PAYLOAD_MAX {
            return Payload::Pages(Pages::from_iter([PageSlice::received(pieces.drain())]));
        }
        let mut inline = ArrayVec::new();
        pieces.iter().for_each(|p| {
            // All fit: they were counted.
            let _ = inline.try_extend_from_slice(p.bytes());
        });
        Payload::Inline(inline)
    }

    /// A part of received payload, however short, by reference.
    pub(crate) fn part(mut pieces: Pieces) -> Payload {
        Payload::Pages(Pages::from_iter([PageSlice::received(pieces.drain())]))
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> u64 {
        match self {
            Payload::Inline(b) => b.len() as u64,
            Payload::Pages(p) => p.iter().map(|s| u64::from(s.len())).sum(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, in pieces that lie together.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (inline, pages) = match self {
            Payload::Inline(b) => (Some(b.as_slice()), &[][..]),
            Payload::Pages(p) => (None, p.as_slice()),
        };
        inline.into_iter().chain(pages.iter().flat_map(PageSlice::chunks))
    }

    /// `len` bytes from `off`; less when the payload ends before.
    pub fn slice(&self, off: u32, len: u32) -> Payload {
        match self {
            Payload::Inline(b) => {
                let rest = b.get(off as usize..).unwrap_or_default();
                let part = rest.get(..len as usize).unwrap_or(rest);
                Payload::inline(part).unwrap_or_else(Payload::empty)
            }
            Payload::Pages(pages) => {
                let (mut off, mut len, mut out) = (off, len, Pages::new());
                for p in pages {
                    let skip = off.min(p.len());
                    let take = (p.len() - skip).min(len);
                    off -= skip;
                    len -= take;
                    if take > 0 {
                        out.extend(p.slice(skip, take));
                    }
                }
                Payload::Pages(out)
            }
        }
    }
}

/// Place for received payload.
#[derive(Debug)]
pub enum Sink {
    /// One copy into this run, which comes back with the event that unlinks the MD.
    Copy(PageRunMut),
    /// Up to this many bytes a message, handed to the application in the buffers they arrived in.
    Lend(u32),
    /// Up to this many bytes a message, read and dropped.
    Discard(u32),
}

impl Sink {
    /// Bytes that it can take.
    pub fn len(&self) -> u32 {
        match self {
            Sink::Copy(run) => u32::try_from(run.len()).unwrap_or(u32::MAX),
            Sink::Lend(len) | Sink::Discard(len) => *len,
        }
    }

    /// Whether it takes no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Received payload, as its receiver gets it.
#[derive(Debug)]
pub enum Data {
    /// It lies in the MD's run, at the event's offset.
    InSink,
    /// Here it is, in order.
    Lent(Pieces),
    /// It was dropped, as the MD asked.
    Discarded,
}

/// Reason why an operation failed after it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LnetError {
    /// No connection and no way to make one now.
    #[error("the peer cannot be reached: is a node listening on its port 988 (or the one configured)?")]
    Unreachable,
    /// Nobody listens at the peer's port: what waited for the connection that was tried ends so, what comes while it is not tried
    /// again with [`LnetError::Unreachable`].
    #[error(
        "the peer cannot be reached, connection refused: is a node listening on its port 988 (or the one configured)?"
    )]
    Refused,
    /// The connection set went down with the message on it.
    #[error("the connection to the peer was lost")]
    ConnLost,
    /// This node ended the connection set: a message of another node's, which was leaving on it, broke off.
    #[error(
        "the connection to the peer was ended: a message that was passed on to it broke off in the middle"
    )]
    BrokenOff,
    /// The peer did not answer in time.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The REPLY was longer than the sink.
    #[error("the answer was longer than the buffer for it")]
    TooLong,
    /// The peer's answer made no sense.
    #[error("the peer's answer is malformed")]
    Malformed,
    /// The payload's checksum was wrong.
    #[error("the payload's checksum is wrong")]
    Checksum,
    /// The node is going down.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The NI that it went by was deleted.
    #[error("the NI that the message went by was deleted")]
    NoNi,
}

#[cfg(test)]
mod tests {
    use hugepages::{HeapRxPool, LendOwner, LendSlab, RxPiece};

    use super::*;

    /// Received parts, every third of which was copied.
    fn pieces(pool: &HeapRxPool, parts: &[Vec<u8>]) -> Pieces {
        let mut p = Pieces::with_capacity(parts.len());
        for (i, b) in parts.iter().enumerate() {
            p.push(match i % 3 {
                2 => RxPiece::Copied(b.as_slice().into()),
                _ => RxPiece::Lent(pool.copy_of(b).unwrap().lend(LendOwner::FORWARDER).unwrap()),
            });
        }
        p
    }

    fn parts(sizes: &[usize]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let parts: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(i, n)| (0..*n).map(|k| (i * 37 + k) as u8).collect()).collect();
        let all = parts.concat();
        (parts, all)
    }

    fn bytes(p: &Payload) -> Vec<u8> {
        p.pieces().flatten().copied().collect()
    }

    #[test]
    fn received_payload_is_sent_on_as_one_piece_and_cut_anywhere() {
        let pool = HeapRxPool::new(2048, 64);
        let (parts, all) = parts(&[100, 1448, 1448, 1, 700, 1448, 3]);
        let whole = Payload::forwarded(pieces(&pool, &parts));
        let Payload::Pages(pages) = &whole else { panic!("{whole:?}") };
        assert_eq!((pages.len(), whole.len(), pool.home().drain()), (1, all.len() as u64, 0));
        assert!(bytes(&whole) == all);
        for (off, len) in [(0, 1), (99, 2), (100, 1448), (1547, 3000), (5000, 9999), (all.len() as u32, 5)] {
            let end = (off as usize + len as usize).min(all.len());
            assert!(bytes(&whole.slice(off, len)) == all[off as usize..end], "{off}+{len}");
        }
        let copy = whole.clone();
        drop(whole);
        assert_eq!((pool.home().drain(), pool.out()), (0, 5));
        let slab = LendSlab::new(1);
        let Payload::Pages(pages) = copy else { unreachable!() };
        slab.lend_all(pages, 1, drop).unwrap();
        assert_eq!((slab.reap(|_, _| ()), pool.home().drain(), pool.out()), (1, 5, 0));
    }

    #[test]
    fn short_payload_is_sent_on_inline_and_its_buffers_are_home_at_once() {
        let pool = HeapRxPool::new(2048, 8);
        for sizes in [&[][..], &[0], &[INLINE_PAYLOAD_MAX], &[1, INLINE_PAYLOAD_MAX - 1]] {
            let (parts, all) = parts(sizes);
            let p = Payload::forwarded(pieces(&pool, &parts));
            assert!(matches!(&p, Payload::Inline(b) if b[..] == all[..]), "{p:?}");
            pool.home().drain();
            assert_eq!(pool.out(), 0);
        }
        let (parts, _) = parts(&[1, INLINE_PAYLOAD_MAX]);
        assert!(matches!(Payload::forwarded(pieces(&pool, &parts)), Payload::Pages(_)));
    }
}
