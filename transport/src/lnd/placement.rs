//! Placement of one message's payload: an object that is fed with fragments and knows nothing else.

use hugepages::{LendOwner, OwnPages, PageRunMut, RxFrag};

use super::counters::Counters;
use super::memory::{Data, Sink};
use super::owner::Owner;
use super::pieces::{Pieces, RxPiece};
use crate::wire::ksock::Checksum;

/// Destination of the payload. It owns its memory, so a placement may be moved to another lcore and come back.
#[derive(Debug)]
pub(crate) enum Dest {
    /// The sink of an MD, from an offset.
    Sink { sink: Sink, offset: u32 },
    /// The node's own buffer (ping info).
    Own(Vec<u8>),
}

/// Bytes from which on a copy has pages of its own.
const OWN_PAGES: usize = 32 << 10;

fn copy_into(run: &mut PageRunMut, at: usize, bytes: &[u8]) {
    let room = run.bytes_mut().get_mut(at..).and_then(|b| b.get_mut(..bytes.len()));
    if let Some(room) = room {
        room.copy_from_slice(bytes);
    }
}

/// Takes the payload of one message.
#[derive(Debug)]
pub(crate) struct Placement {
    dest: Dest,
    want: u32,
    done: u32,
    owner: LendOwner,
    pieces: Pieces,
    /// Copies of what could not be lent, and of all behind it, so many bytes so far: one piece, the next.
    copies: Option<(OwnPages, usize)>,
    sum: Option<Checksum>,
    /// Copying and summing wait for [`Placement::run`].
    later: bool,
    /// Bytes and pieces that [`Placement::run`] has done.
    ran: (u32, u32),
}

impl Placement {
    /// A placement of `want` bytes; their checksum is added to `sum`, if it will be asked for.
    pub(crate) fn new(dest: Dest, want: u32, owner: LendOwner, sum: Option<Checksum>) -> Placement {
        let pieces = match dest {
            // Fragments are an MSS or a receive buffer long: the list grows once or not at all.
            Dest::Sink { sink: Sink::Lend(_), .. } if want > 2048 => {
                Pieces::with_capacity(want.div_ceil(4096) as usize)
            }
            _ => Pieces::default(),
        };
        Placement { dest, want, done: 0, owner, pieces, copies: None, sum, later: false, ran: (0, 0) }
    }

    fn copies(&self) -> bool {
        matches!(self.dest, Dest::Sink { sink: Sink::Copy(_), .. })
    }

    /// Bytes that are to be copied and summed, those that are both counted twice.
    pub(crate) fn work(&self) -> u64 {
        u64::from(self.want) * (u64::from(self.copies()) + u64::from(self.sum.is_some()))
    }

    /// Whether fragments may be kept for [`Placement::run`]: where the payload goes to an application's sink.
    pub(crate) fn keeps(&self) -> bool {
        matches!(self.dest, Dest::Sink { sink: Sink::Copy(_) | Sink::Lend(_), .. })
    }

    /// Keeps the fragments, so that another lcore may copy and sum them. To be called before the first fragment, where
    /// [`Placement::keeps`].
    pub(crate) fn keep(&mut self) {
        if self.copies() {
            self.owner = Owner::Kept.into();
            self.pieces = Pieces::with_capacity(self.want.div_ceil(4096) as usize);
        }
        self.later = true;
    }

    /// Bytes that [`Placement::run`] will copy.
    pub(crate) fn copied_later(&self) -> u64 {
        if self.later && self.copies() { u64::from(self.want) } else { 0 }
    }

    /// Whether the payload is complete and waits for [`Placement::run`].
    pub(crate) fn waits(&self) -> bool {
        self.later && self.missing() == 0
    }

    /// Copies and sums what was kept, `most` bytes or a little more; true when nothing is left.
    pub(crate) fn run(&mut self, most: u32) -> bool {
        let (mut did, (mut at, mut piece)) = (0, self.ran);
        while did < most
            && let Some(p) = self.pieces.get(piece as usize)
        {
            let bytes = p.bytes();
            let n = bytes.len() as u32;
            if let Some(sum) = &mut self.sum {
                sum.update(bytes);
            }
            if let Dest::Sink { sink: Sink::Copy(run), offset } = &mut self.dest {
                copy_into(run, *offset as usize + at as usize, bytes);
                // The buffer goes home now; the list stays, for the lcore that made it.
                self.pieces.let_go(piece as usize);
            }
            (did, at, piece) = (did + n, at + n, piece + 1);
        }
        self.ran = (at, piece);
        piece as usize >= self.pieces.len()
    }

    /// No more can be kept: the fragments so far are stored now, and the rest as it comes.
    fn give_up_keeping(&mut self, counters: &mut Counters) {
        self.run(u32::MAX);
        counters.rx_copied_bytes += u64::from(self.ran.0);
        self.pieces = Pieces::default();
        self.later = false;
    }

    /// Takes out the pieces so far, of a payload that is lent and goes on before it is whole.
    pub(crate) fn take_part(&mut self) -> Pieces {
        self.end_copies();
        std::mem::take(&mut self.pieces)
    }

    /// Bytes that have come.
    pub(crate) fn done(&self) -> u32 {
        self.done
    }

    /// Bytes still to come.
    pub(crate) fn missing(&self) -> u32 {
        self.want - self.done
    }

    /// The memory that the bytes still to come are copied to, where copying them is all that is to be done.
    #[inline]
    pub(crate) fn room(&mut self) -> Option<&mut [u8]> {
        let (done, missing) = (self.done as usize, self.missing() as usize);
        match &mut self.dest {
            Dest::Sink { sink: Sink::Copy(run), offset } if !self.later && self.sum.is_none() => {
                run.bytes_mut().get_mut(*offset as usize + done..).and_then(|b| b.get_mut(..missing))
            }
            _ => None,
        }
    }

    /// So many bytes were copied into [`Placement::room`].
    #[inline]
    pub(crate) fn took(&mut self, n: u32, counters: &mut Counters) {
        self.done += n;
        counters.rx_copied_bytes += u64::from(n);
    }

    /// Takes what it wants of `frag` and gives back the rest.
    pub(crate) fn feed(&mut self, mut frag: RxFrag, counters: &mut Counters) -> Option<RxFrag> {
        let take = frag.len().min(self.missing());
        let rest = if take < frag.len() {
            let head = frag.split_to(take);
            Some(std::mem::replace(&mut frag, head))
        } else {
            None
        };
        if self.later && self.copies() {
            match frag.lend(self.owner) {
                Ok(lent) => {
                    self.done += take;
                    self.pieces.push(RxPiece::Lent(lent));
                    return rest;
                }
                Err(back) => {
                    self.give_up_keeping(counters);
                    frag = back;
                }
            }
        }
        if let (Some(sum), false) = (&mut self.sum, self.later) {
            sum.update(frag.bytes());
        }
        let at = self.done;
        self.done += take;
        match &mut self.dest {
            Dest::Own(buf) => buf.extend_from_slice(frag.bytes()),
            Dest::Sink { sink: Sink::Discard(_), .. } => counters.rx_dropped_bytes += u64::from(take),
            Dest::Sink { sink: Sink::Copy(run), offset } => {
                copy_into(run, *offset as usize + at as usize, frag.bytes());
                counters.rx_copied_bytes += u64::from(take);
            }
            Dest::Sink { sink: Sink::Lend(_), .. } => {
                // Behind a copy in pages of its own all the rest is.
                let lent = if self.copies.is_some() { Err(frag) } else { frag.lend(self.owner) };
                match lent {
                    Ok(lent) => {
                        counters.rx_lent_bytes += u64::from(take);
                        self.pieces.push(RxPiece::Lent(lent));
                    }
                    Err(frag) => {
                        counters.rx_lend_refused += 1;
                        counters.rx_copied_bytes += u64::from(take);
                        self.copy(frag.bytes(), (self.want - at) as usize);
                    }
                }
            }
        }
        rest
    }

    /// Copies bytes that could not be lent, the first of `left` that are to come. Long ones have pages of their own: what many such
    /// messages held goes back to the kernel with them.
    fn copy(&mut self, bytes: &[u8], left: usize) {
        if self.copies.is_none() && left >= OWN_PAGES {
            self.copies = OwnPages::new(left).ok().map(|pages| (pages, 0));
        }
        let Some((pages, n)) = &mut self.copies else {
            return self.pieces.push(RxPiece::Copied(bytes.into()));
        };
        if let Some(room) = pages.bytes_mut().get_mut(*n..).and_then(|b| b.get_mut(..bytes.len())) {
            room.copy_from_slice(bytes);
        }
        *n += bytes.len();
        if left == bytes.len() {
            self.end_copies();
        }
    }

    /// Bytes that were copied into pages of their own are a piece; the next ones are another.
    fn end_copies(&mut self) {
        if let Some((mut pages, n)) = self.copies.take() {
            pages.truncate(n);
            self.pieces.push(RxPiece::Pages(pages));
        }
    }

    /// Takes bytes that this node itself sends, as one copy.
    pub(crate) fn store(&mut self, bytes: &[u8], counters: &mut Counters) {
        let take = bytes.len().min(self.missing() as usize);
        let bytes = bytes.get(..take).unwrap_or_default();
        let at = self.done as usize;
        self.done += take as u32;
        match &mut self.dest {
            Dest::Own(buf) => buf.extend_from_slice(bytes),
            Dest::Sink { sink: Sink::Discard(_), .. } => counters.rx_dropped_bytes += take as u64,
            Dest::Sink { sink: Sink::Copy(run), offset } => {
                copy_into(run, *offset as usize + at, bytes);
                counters.rx_copied_bytes += take as u64;
            }
            Dest::Sink { sink: Sink::Lend(_), .. } => {
                self.copy(bytes, (self.want as usize).saturating_sub(at));
                counters.rx_copied_bytes += take as u64;
            }
        }
    }

    /// Ends it: gives, taken out of it, the destination, the payload as its receiver gets it, and its checksum if that was asked for.
    #[inline]
    pub(crate) fn finish(&mut self) -> (Dest, Data, Option<u32>) {
        let data = match self.dest {
            Dest::Sink { sink: Sink::Lend(_), .. } => Data::Lent(std::mem::take(&mut self.pieces)),
            Dest::Sink { sink: Sink::Copy(_), .. } => Data::InSink,
            _ => Data::Discarded,
        };
        let dest = std::mem::replace(&mut self.dest, Dest::Own(Vec::new()));
        (dest, data, self.sum.take().map(Checksum::value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hugepages::{HeapRxPool, LendBudget};

    /// A payload of `want` bytes in fragments of 2,000, of which `lends` can be lent; as a whole or with parts taken out.
    fn come(want: u32, lends: u64, parts: &[u32]) -> (Vec<RxPiece>, Counters) {
        let budget = LendBudget { lcore_bytes: lends * 2048, owner_bytes: lends * 2048, handles: 64 };
        let (pool, mut c) = (HeapRxPool::with_budget(2048, 64, budget), Counters::default());
        let dest = Dest::Sink { sink: Sink::Lend(want), offset: 0 };
        let mut p = Placement::new(dest, want, LendOwner(1), None);
        let all: Vec<u8> = (0..want).map(|n| (n % 251) as u8).collect();
        let mut got = Vec::new();
        for bytes in all.chunks(2000) {
            assert!(p.feed(pool.copy_of(bytes).unwrap(), &mut c).is_none());
            if parts.contains(&p.done()) {
                got.extend(p.take_part().drain());
            }
        }
        let (_, Data::Lent(mut last), _) = p.finish() else { panic!() };
        got.extend(last.drain());
        assert_eq!(got.iter().flat_map(RxPiece::bytes).copied().collect::<Vec<u8>>(), all);
        (got, c)
    }

    fn kinds(pieces: &[RxPiece]) -> String {
        let kind = |p: &RxPiece| match p {
            RxPiece::Lent(_) => 'l',
            RxPiece::Copied(_) => 'c',
            RxPiece::Pages(_) => 'p',
        };
        pieces.iter().map(kind).collect()
    }

    #[test]
    fn what_cannot_be_lent_is_copied_into_one_piece() {
        let (pieces, c) = come(100_000, 3, &[]);
        assert_eq!(kinds(&pieces), "lllp");
        assert_eq!((c.rx_lent_bytes, c.rx_copied_bytes, c.rx_lend_refused), (6000, 94_000, 47));
        // Short ones are an allocator's, each for itself.
        assert_eq!(kinds(&come(OWN_PAGES as u32 - 1, 16, &[]).0), "l".repeat(16) + "c");
        assert_eq!(kinds(&come(6000, 0, &[]).0), "ccc");
    }

    #[test]
    fn parts_have_copies_of_their_own() {
        let (pieces, c) = come(100_000, 1, &[20_000, 60_000, 80_000]);
        assert_eq!(kinds(&pieces), "lppp".to_owned() + &"c".repeat(10));
        assert_eq!(c.rx_copied_bytes, 98_000);
    }
}
