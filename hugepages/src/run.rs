//! Page runs: contiguous memory, unique while written, read-only once shared. Slices of them, and of received pieces.

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use crate::backing::{Backing, BackingError, BackingKind, Io, RawRun};
use crate::gather::{Gather, RxPiece};

enum Mem {
    Pages(RawRun, Arc<dyn Backing>),
    Received(Gather, Option<Arc<Spare>>),
    /// Pages that have gone back to their backing.
    Gone,
}

struct Inner {
    mem: Mem,
    /// Bytes the user asked for; the backing may have rounded up.
    len: usize,
}

/// Inners of received memory that nobody refers to, for the next payload of the thread that made them.
type Spare = ArrayQueue<Arc<Inner>>;

/// Most that a thread keeps, however many are under way. The longest has lists of 68 KiB.
const SPARE_MAX: usize = 128;

thread_local! {
    static SPARE: Arc<Spare> = Arc::new(ArrayQueue::new(SPARE_MAX));
}

// SAFETY: the memory is plain bytes; `PageRunMut` is its only writer and is unique, others only read. Received pieces are Send
// and Sync themselves.
unsafe impl Send for Inner {}
// SAFETY: as above: shared access is read-only.
unsafe impl Sync for Inner {}

impl Inner {
    /// The pages of a run.
    fn raw(&self) -> &RawRun {
        match &self.mem {
            Mem::Pages(raw, _) => raw,
            // A run is made of pages, which go in `drop` alone, after which no method can run.
            _ => unreachable!("a run has pages until it is dropped"),
        }
    }

    fn pages(&self) -> &[u8] {
        // SAFETY: `raw` is valid for `len` bytes while `self` lives; whoever could write them has us borrowed.
        unsafe { std::slice::from_raw_parts(self.raw().ptr.as_ptr(), self.len) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Mem::Pages(raw, backing) = std::mem::replace(&mut self.mem, Mem::Gone) {
            // SAFETY: `raw` came from this backing and the last owner is being dropped.
            unsafe { backing.free(raw) }
        }
    }
}

/// A run with one owner, who may write it. [`PageRunMut::freeze`] turns it into a [`PageRun`]; neither that nor the way back
/// allocates.
pub struct PageRunMut(Arc<Inner>);

impl PageRunMut {
    /// A run of `len` bytes (zeroed when the backing is fresh memory of the kernel) from `backing`.
    ///
    /// # Errors
    /// The backing's errors.
    pub fn new(backing: Arc<dyn Backing>, len: usize) -> Result<PageRunMut, BackingError> {
        let raw = backing.alloc(len)?;
        Ok(PageRunMut(Arc::new(Inner { mem: Mem::Pages(raw, backing), len })))
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether the run has no bytes; it never does.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.pages()
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `raw` is valid for `len` bytes while `self` lives; `self` is unique, and no `PageRun` of it exists: its
        // count is this one alone.
        unsafe { std::slice::from_raw_parts_mut(self.0.raw().ptr.as_ptr(), self.0.len) }
    }

    /// Ends writing: from here on the run is shared and read-only.
    pub fn freeze(self) -> PageRun {
        PageRun(self.0)
    }
}

impl fmt::Debug for PageRunMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageRunMut({} B, {:?})", self.0.len, self.0.raw().kind)
    }
}

/// A shared, read-only run. Clones refer to the same memory; the last one gives it back.
#[derive(Clone)]
pub struct PageRun(Arc<Inner>);

impl PageRun {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether the run has no bytes; it never does.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.pages()
    }

    /// Address of the first byte.
    pub fn addr(&self) -> *const u8 {
        self.0.raw().ptr.as_ptr()
    }

    /// I/O virtual address of the first byte, or [`BAD_IOVA`](crate::BAD_IOVA).
    pub fn iova(&self) -> u64 {
        self.0.raw().iova
    }

    /// Block within which the device sees the run as contiguous, in bytes; 0 means throughout.
    pub fn contig(&self) -> u32 {
        self.0.raw().contig
    }

    /// Kind of memory.
    pub fn kind(&self) -> BackingKind {
        self.0.raw().kind
    }

    /// Makes the run writable again if this is its only clone.
    ///
    /// # Errors
    /// The run itself, when others still hold it.
    pub fn try_thaw(mut self) -> Result<PageRunMut, PageRun> {
        // There are no weak counts: whoever finds itself alone stays so.
        if Arc::get_mut(&mut self.0).is_some() { Ok(PageRunMut(self.0)) } else { Err(self) }
    }

    /// The whole run as a slice. Runs over 4 GiB are cut to `u32::MAX` bytes.
    pub fn slice_all(&self) -> PageSlice {
        let mem = Memory(ManuallyDrop::new(self.0.clone()));
        PageSlice { mem, off: 0, len: u32::try_from(self.len()).unwrap_or(u32::MAX) }
    }

    /// `len` bytes from `off`, or `None` when they are not all inside the run.
    pub fn slice(&self, off: u32, len: u32) -> Option<PageSlice> {
        let end = u64::from(off) + u64::from(len);
        (end <= self.len() as u64).then(|| PageSlice {
            mem: Memory(ManuallyDrop::new(self.0.clone())),
            off,
            len,
        })
    }
}

impl fmt::Debug for PageRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageRun({} B, {:?}, {} refs)", self.len(), self.kind(), Arc::strong_count(&self.0))
    }
}

/// Memory that is sent: the pages of a run, or received pieces in a row. Clones refer to the same; the last one gives
/// pages back to their backing, and sends pieces home, on whichever thread it is dropped.
pub struct Memory(ManuallyDrop<Arc<Inner>>);

impl Memory {
    /// The bytes from `off` on that lie together: all the rest of a run, or of one received piece. None beyond the end.
    #[inline]
    pub fn bytes_at(&self, off: u32) -> &[u8] {
        match &self.0.mem {
            Mem::Received(g, _) => g.bytes_at(off),
            _ => self.0.pages().get(off as usize..).unwrap_or_default(),
        }
    }

    /// Number of bytes that lie together, of the `len` from `off` on; the caller sees that they are inside the memory.
    #[inline]
    pub fn together(&self, off: u32, len: u32) -> u32 {
        match &self.0.mem {
            Mem::Received(g, _) => len.min(g.bytes_at(off).len() as u32),
            _ => len,
        }
    }

    /// The bytes from `off` on that lie together, and where devices find them.
    #[inline]
    pub fn at(&self, off: u32) -> (&[u8], Io) {
        match &self.0.mem {
            Mem::Received(g, _) => g.at(off),
            _ => {
                let raw = self.0.raw();
                let io = Io { kind: raw.kind, iova: raw.iova, contig: raw.contig };
                (self.0.pages().get(off as usize..).unwrap_or_default(), io.on(off))
            }
        }
    }

    /// The run, where it is one.
    pub fn into_run(self) -> Option<PageRun> {
        let mut me = ManuallyDrop::new(self);
        // SAFETY: `me` is never dropped, so the reference is taken out once.
        let inner = unsafe { ManuallyDrop::take(&mut me.0) };
        if matches!(inner.mem, Mem::Pages(..)) {
            return Some(PageRun(inner));
        }
        put_away(inner);
        None
    }
}

impl Clone for Memory {
    #[inline]
    fn clone(&self) -> Memory {
        Memory(self.0.clone())
    }
}

impl Drop for Memory {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: taken out once, here: whoever takes it before forgets us.
        let inner = unsafe { ManuallyDrop::take(&mut self.0) };
        if matches!(inner.mem, Mem::Received(..)) {
            put_away(inner);
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refs = Arc::strong_count(&self.0);
        match &self.0.mem {
            Mem::Received(..) => write!(f, "Received({} B, {refs} refs)", self.0.len),
            _ => write!(f, "PageRun({} B, {:?}, {refs} refs)", self.0.len, self.0.raw().kind),
        }
    }
}

/// A reference on received memory goes. The last one sends the pieces home, and what held them back to the thread that made
/// it. Where two are the last at the same time, neither finds itself alone: the pieces go home, and the rest is freed.
#[inline(never)]
fn put_away(mut inner: Arc<Inner>) {
    if let Some(i) = Arc::get_mut(&mut inner)
        && let Mem::Received(gather, home) = &mut i.mem
        && gather.clear()
        && let Some(home) = home.take()
    {
        // No room: it is freed here.
        drop(home.push(inner));
    }
}

/// Part of a run, or of received payload: what a message sends. Made by [`PageRun::slice`] or [`PageSlice::received`];
/// always inside its memory.
#[derive(Clone, Debug)]
pub struct PageSlice {
    mem: Memory,
    off: u32,
    len: u32,
}

impl PageSlice {
    /// Received pieces, in order, as one: to send them on by reference, or some part of them. Over 4 GiB they are cut, to
    /// whole pieces. Once as many are under way as were before, on this thread, it allocates nothing.
    ///
    /// ```
    /// use hugepages::{HeapRxPool, LendOwner, LendSlab, PageSlice, RxPiece};
    ///
    /// let pool = HeapRxPool::new(2048, 8);
    /// let mut pieces = Vec::new();
    /// for b in [&b"came in "[..], b"two pieces"] {
    ///     let frag = pool.copy_of(b).ok_or("no buffer")?;
    ///     pieces.push(RxPiece::Lent(frag.lend(LendOwner::FORWARDER).map_err(|_| "budget spent")?));
    /// }
    /// let slab = LendSlab::new(1); // one lending, however many pieces
    /// let lent = slab.lend(PageSlice::received(pieces), 7)?;
    /// assert_eq!((lent.len(), lent.chunk(0), lent.chunk(10)), (18, &b"came in "[..], &b"o pieces"[..]));
    /// drop(lent);
    /// slab.reap(|_, _| ());
    /// pool.home().drain();
    /// assert_eq!(pool.out(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn received(pieces: impl IntoIterator<Item = RxPiece>) -> PageSlice {
        let home = SPARE.try_with(Arc::clone).ok();
        let mut inner = home
            .as_ref()
            .and_then(|h| h.pop())
            .unwrap_or_else(|| Arc::new(Inner { mem: Mem::Received(Gather::default(), None), len: 0 }));
        let mut len = 0;
        if let Some(i) = Arc::get_mut(&mut inner)
            && let Mem::Received(gather, to) = &mut i.mem
        {
            len = gather.fill(pieces);
            (*to, i.len) = (home, len as usize);
        }
        PageSlice { mem: Memory(ManuallyDrop::new(inner)), off: 0, len }
    }

    /// Offset in its memory, in bytes.
    pub fn off(&self) -> u32 {
        self.off
    }

    /// Length in bytes.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes: all together for a run, piece by piece for what was received. Nothing for an empty slice.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let left = (self.len - at) as usize;
            let bytes = if left == 0 { &[] } else { self.mem.bytes_at(self.off + at) };
            let bytes = bytes.get(..left).unwrap_or(bytes);
            at += bytes.len() as u32;
            (!bytes.is_empty()).then_some(bytes)
        })
    }

    /// `len` bytes from `off` of this slice, or `None` when they are not all inside it.
    pub fn slice(&self, off: u32, len: u32) -> Option<PageSlice> {
        let end = u64::from(off) + u64::from(len);
        (end <= u64::from(self.len)).then(|| PageSlice { mem: self.mem.clone(), off: self.off + off, len })
    }

    /// Takes the memory out.
    #[inline]
    pub fn into_memory(self) -> Memory {
        self.mem
    }

    /// Takes the run out, where it is one's.
    pub fn into_run(self) -> Option<PageRun> {
        self.mem.into_run()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PrivatePages;

    fn run(len: usize) -> PageRunMut {
        PageRunMut::new(Arc::new(PrivatePages), len).unwrap()
    }

    #[test]
    fn thaw_needs_the_only_clone() {
        let mut m = run(4096);
        m.bytes_mut()[5] = 9;
        let a = m.freeze();
        let b = a.clone();
        let a = a.try_thaw().unwrap_err();
        drop(b);
        assert_eq!(a.try_thaw().unwrap().bytes()[5], 9);
    }

    #[test]
    fn slices_stay_inside() {
        let r = run(100).freeze();
        assert_eq!(r.len(), 100);
        assert!(r.slice(0, 101).is_none());
        assert!(r.slice(u32::MAX, u32::MAX).is_none());
        let s = r.slice(10, 90).unwrap();
        assert_eq!(s.chunks().map(<[u8]>::len).collect::<Vec<_>>(), [90]);
        assert!(s.slice(1, 90).is_none());
        assert_eq!(s.slice(90, 0).unwrap().chunks().count(), 0);
        assert_eq!(s.slice(80, 10).unwrap().off(), 90);
    }
}
