//! Memory with an address that a C program knows: lent to operations, by readers many at a time, by a writer alone.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use hugepages::{BAD_IOVA, Backing, BackingError, BackingKind, PageRun, PageRunMut, PageSlice, RawRun};

use crate::error::Error;

/// Nobody uses it.
const IDLE: isize = 0;
/// An operation writes it.
const WRITTEN: isize = -1;
/// It was freed.
const FREED: isize = -2;

/// Alignment that memory of the caller's has to have, as that of the library has, in bytes.
const ALIGN: usize = 64;

struct Inner {
    raw: RawRun,
    len: usize,
    /// Place where it is freed; `None` for the caller's own.
    from: Option<Arc<dyn Backing>>,
    /// Operations that read it, or one of the values above.
    uses: AtomicIsize,
}

// SAFETY: the memory is plain bytes; `uses` admits one writer or many readers.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(from) = self.from.take() {
            let raw = self.raw(self.raw.len);
            // SAFETY: `raw` came from this backing, and every run over it holds an `Arc` of this value.
            unsafe { from.free(raw) }
        }
    }
}

impl Inner {
    fn raw(&self, len: usize) -> RawRun {
        let RawRun { ptr, iova, contig, kind, .. } = self.raw;
        RawRun { ptr, len, iova, contig, kind }
    }

    /// Goes from a number of uses to another, as `to` says; `None` where that is not possible.
    fn take(&self, to: impl Fn(isize) -> Option<isize>) -> Option<isize> {
        self.uses.fetch_update(Ordering::Acquire, Ordering::Relaxed, to).ok()
    }
}

// SAFETY: only `Block` calls `alloc`, after it has entered the use in `uses`: a reader's run is frozen before anybody else
// sees it, so it is never written; a writer's is the only one. `free` takes the use back.
unsafe impl Backing for Inner {
    fn alloc(&self, len: usize) -> Result<RawRun, BackingError> {
        Ok(self.raw(len))
    }

    unsafe fn free(&self, _: RawRun) {
        let less = |n: isize| Some(if n == WRITTEN { IDLE } else { n - 1 });
        let _ = self.uses.fetch_update(Ordering::Release, Ordering::Relaxed, less);
    }

    fn kind(&self) -> BackingKind {
        self.raw.kind
    }
}

/// Memory of a `pollnd_memory`.
pub(crate) struct Block(Arc<Inner>);

impl Block {
    /// New memory from a backing.
    pub(crate) fn new(from: Arc<dyn Backing>, len: usize) -> Result<Block, Error> {
        let raw = from.alloc(len).map_err(|e| match e {
            BackingError::BadLength(_) => Error::invalid(e),
            e => Error::new(libc::ENOMEM, e),
        })?;
        Ok(Block(Arc::new(Inner { raw, len, from: Some(from), uses: AtomicIsize::new(IDLE) })))
    }

    /// Memory of the caller's.
    ///
    /// # Safety
    /// It is there until [`Block::free`] has said yes.
    pub(crate) unsafe fn of(ptr: NonNull<u8>, len: usize) -> Result<Block, Error> {
        if len == 0 || len > 1 << 40 {
            return Err(Error::invalid(format_args!("memory of {len} bytes: give 1 byte to 1 TiB")));
        }
        if !ptr.as_ptr().addr().is_multiple_of(ALIGN) {
            return Err(Error::invalid(format_args!(
                "memory at {ptr:p}: align it to {ALIGN} bytes (aligned_alloc)"
            )));
        }
        let raw = RawRun { ptr, len, iova: BAD_IOVA, contig: 4096, kind: BackingKind::Private };
        Ok(Block(Arc::new(Inner { raw, len, from: None, uses: AtomicIsize::new(IDLE) })))
    }

    /// Address of the first byte.
    pub(crate) fn addr(&self) -> *mut u8 {
        self.0.raw.ptr.as_ptr()
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len
    }

    /// A run that is read, of all of it.
    fn read(&self) -> Result<PageRun, Error> {
        self.0.take(|n| (n >= IDLE).then(|| n + 1)).ok_or_else(|| self.busy("is filled by"))?;
        Ok(self.run(self.len())?.freeze())
    }

    /// `len` bytes from `offset` of a run that is read.
    pub(crate) fn slice(&self, offset: u32, len: u32) -> Result<PageSlice, Error> {
        self.read()?.slice(offset, len).ok_or_else(|| {
            let all = self.len();
            Error::invalid(format_args!(
                "{len} bytes from {offset} of memory of {all} bytes: they have to be inside"
            ))
        })
    }

    /// A run that is written, of the first `len` bytes.
    pub(crate) fn write(&self, len: usize) -> Result<PageRunMut, Error> {
        if len == 0 || len > self.len() {
            let all = self.len();
            return Err(Error::invalid(format_args!("{len} bytes of memory of {all}: give 1 to {all}")));
        }
        self.0.take(|n| (n == IDLE).then_some(WRITTEN)).ok_or_else(|| self.busy("is used by"))?;
        self.run(len)
    }

    /// Whether it may be freed; if so, no operation may use it from now on.
    pub(crate) fn free(&self) -> Result<(), Error> {
        self.0.take(|n| (n == IDLE).then_some(FREED)).map(|_| ()).ok_or_else(|| self.busy("is used by"))
    }

    fn run(&self, len: usize) -> Result<PageRunMut, Error> {
        PageRunMut::new(self.0.clone(), len).map_err(Error::invalid)
    }

    fn busy(&self, how: &str) -> Error {
        let at = self.addr();
        Error::new(
            libc::EBUSY,
            format_args!("memory at {at:p} {how} an operation that has not ended: take its last event first"),
        )
    }
}
