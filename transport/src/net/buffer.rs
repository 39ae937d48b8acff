//! Buffers, their memory and their descriptors.

use std::sync::Arc;

use arrayvec::ArrayVec;
use hugepages::{Backing, BackingError, PageRunMut, PageSlice};

use super::{BufId, Came, NetError, Sink};
use crate::lnd::{Data, Pieces, RxPiece};
use crate::netsock::{Piece, RecvVec};
use crate::stream::Pages;

/// Bytes of the longest descriptor that is looked at.
const DESC_MAX: usize = 64;
/// Memory is broken here into the segments that are counted.
const PAGE: u64 = 4096;

/// Memory of a buffer.
#[derive(Debug)]
pub enum Memory {
    /// Pages to send, by reference.
    Send(Pages),
    /// Runs that payload is copied into once, or receive buffers that are lent.
    Recv(Sink),
}

impl Memory {
    /// Pages of a backing to receive so many bytes into.
    ///
    /// # Errors
    /// The backing has none, or `len` is 0.
    pub fn room(backing: Arc<dyn Backing>, len: usize) -> Result<Memory, BackingError> {
        Ok(Memory::Recv(Sink::Into(RecvVec::new([PageRunMut::new(backing, len)?]))))
    }

    /// Pages of a backing with these bytes, to send. They are copied.
    ///
    /// # Errors
    /// The backing has none, or there is no byte.
    pub fn copy_of(backing: Arc<dyn Backing>, bytes: &[u8]) -> Result<Memory, BackingError> {
        let mut run = PageRunMut::new(backing, bytes.len())?;
        run.bytes_mut().copy_from_slice(bytes);
        Ok(Memory::Send([run.freeze().slice_all()].into_iter().collect()))
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Memory::Send(pages) => pages.iter().map(|p| u64::from(p.len())).sum(),
            Memory::Recv(sink) => sink.size(),
        }
    }

    /// Segments, broken at page boundaries.
    pub(super) fn segments(&self) -> u64 {
        let pages = |off: u64, len: u64| (off % PAGE + len).div_ceil(PAGE);
        match self {
            Memory::Send(all) => all.iter().map(|p| pages(p.off().into(), p.len().into())).sum(),
            Memory::Recv(Sink::Into(v)) => v.runs().iter().map(|r| pages(0, r.len() as u64)).sum(),
            Memory::Recv(Sink::Lend { most, .. }) => pages(0, *most),
        }
    }

    /// `len` bytes of pages to send; `None` of memory to receive into.
    pub(super) fn pages(&self, len: u64) -> Option<Pages> {
        let Memory::Send(pages) = self else { return None };
        let mut left = len;
        let part = |p: &PageSlice| {
            let n = left.min(p.len().into());
            left -= n;
            if n > 0 { p.slice(0, n as u32) } else { None }
        };
        Some(pages.iter().filter_map(part).collect())
    }

    /// The bytes from `offset` on that came, `len` of them, in parts.
    pub fn range(&self, offset: u64, len: u64) -> impl Iterator<Item = &[u8]> {
        let (mut into, mut lent): (Option<&RecvVec>, &[Piece]) = (None, &[]);
        match self {
            Memory::Recv(Sink::Into(v)) => into = Some(v),
            Memory::Recv(Sink::Lend { pieces, .. }) => lent = pieces,
            Memory::Send(_) => {}
        }
        let (mut skip, mut left) = (offset, len);
        let lent = lent.iter().filter_map(move |p| {
            let size = p.bytes().len() as u64;
            let from = skip.min(size);
            let n = left.min(size - from);
            skip -= from;
            left -= n;
            p.bytes().get(from as usize..(from + n) as usize).filter(|b| !b.is_empty())
        });
        into.map(|v| v.range(offset, len)).into_iter().flatten().chain(lent)
    }
}

/// A registered buffer that is its owner's. [`Domain::add`](super::Domain::add) queues it, and its last event gives it back.
#[derive(Debug)]
pub struct Buffer {
    pub(super) domain: u64,
    pub(super) id: BufId,
    pub(super) size: u64,
    /// Bytes of earlier messages that lay where they came in, and went with their events.
    pub(super) gone: u64,
    pub(super) mem: Memory,
}

impl Buffer {
    /// Its name.
    pub fn id(&self) -> BufId {
        self.id
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its memory.
    pub fn mem(&self) -> &Memory {
        &self.mem
    }

    /// Its bytes from `offset`, `len` of them, in parts. For a thread, lent bytes of a message whose event was not the last are
    /// with that event.
    pub fn bytes(&self, offset: u64, len: u64) -> impl Iterator<Item = &[u8]> {
        let before = self.gone.saturating_sub(offset);
        self.mem.range(offset.saturating_sub(self.gone), len.saturating_sub(before))
    }

    /// Puts what came where it belongs; gives the bytes of a message that more may follow, as they came in, where they are in
    /// memory of the buffer's own, too.
    pub(super) fn store(&mut self, came: Came, offset: u64, more: bool) -> Option<Pieces> {
        match (&mut self.mem, came) {
            (_, Came::Nothing) => None,
            (mem, Came::In(sink)) => {
                *mem = Memory::Recv(sink);
                None
            }
            (Memory::Recv(Sink::Into(v)), Came::Data(Data::Lent(pieces))) => {
                let mut at = offset;
                for p in &pieces {
                    at += v.store(at, p.bytes());
                }
                more.then_some(pieces)
            }
            (Memory::Recv(Sink::Lend { pieces: kept, .. }), Came::Data(Data::Lent(mut pieces))) => {
                kept.extend(pieces.drain().map(|p| match p {
                    RxPiece::Lent(l) => Piece::Lent(l),
                    RxPiece::Copied(c) => Piece::Copied(c),
                    RxPiece::Pages(p) => Piece::Pages(p),
                }));
                None
            }
            (_, Came::Data(_)) => None,
        }
    }

    /// Takes out the lent bytes of the first message that is here, of `len` bytes; `None` where they are in memory of its own.
    #[cfg(feature = "node")]
    pub(super) fn take_first(&mut self, len: u64) -> Option<Pieces> {
        let Memory::Recv(Sink::Lend { pieces: kept, .. }) = &mut self.mem else { return None };
        let mut left = len;
        let n = kept.iter().take_while(|p| {
            let more = left > 0;
            left = left.saturating_sub(p.bytes().len() as u64);
            more
        });
        let n = n.count();
        let mut view = Pieces::with_capacity(n);
        for p in kept.drain(..n) {
            view.push(match p {
                Piece::Lent(l) => RxPiece::Lent(l),
                Piece::Copied(c) => RxPiece::Copied(c),
                Piece::Pages(p) => RxPiece::Pages(p),
            });
        }
        self.gone += len;
        Some(view)
    }

    /// Forgets what came: receive buffers that are lent go home.
    pub fn clear(&mut self) {
        self.gone = 0;
        if let Memory::Recv(sink) = &mut self.mem {
            sink.reset();
        }
    }

    /// Exchanges pages to send for others of the same size.
    ///
    /// # Errors
    /// [`NetError::Length`] gives nothing up: `pages` are other memory.
    pub fn refill(&mut self, pages: Pages) -> Result<Pages, NetError> {
        let len = pages.iter().map(|p| u64::from(p.len())).sum();
        match &mut self.mem {
            Memory::Send(old) if len == self.size => Ok(std::mem::replace(old, pages)),
            Memory::Send(_) => Err(NetError::Length { what: "pages", len, size: self.size }),
            Memory::Recv(_) => Err(NetError::Memory { has: "receive into", wants: "send" }),
        }
    }
}

/// A buffer descriptor: bytes that the transport of the passive side made, to be passed on as they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Desc(ArrayVec<u8, DESC_MAX>);

impl Desc {
    /// A descriptor that a peer has passed on.
    ///
    /// # Errors
    /// [`NetError::LongDesc`] over 64 bytes.
    pub fn new(bytes: &[u8]) -> Result<Desc, NetError> {
        ArrayVec::try_from(bytes).map(Desc).map_err(|_| NetError::LongDesc(bytes.len()))
    }

    /// Of the 48 bytes that a transport made.
    pub(super) fn of(bytes: [u8; crate::wire::netsock::BDESC_LEN]) -> Desc {
        Desc(bytes.into_iter().collect())
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
