//! Page runs: contiguous memory, unique while written, read-only once shared.

use std::fmt;
use std::sync::Arc;

use crate::backing::{Backing, BackingError, BackingKind, RawRun};

struct Inner {
    raw: Option<RawRun>,
    /// Bytes the user asked for; the backing may have rounded up.
    len: usize,
    backing: Arc<dyn Backing>,
}

// SAFETY: the memory is plain bytes; `PageRunMut` is its only writer and is unique, `PageRun` only reads.
unsafe impl Send for Inner {}
// SAFETY: as above: shared access is read-only.
unsafe impl Sync for Inner {}

impl Inner {
    fn raw(&self) -> &RawRun {
        // `raw` is taken in `drop` alone, after which no method can run.
        self.raw.as_ref().unwrap_or_else(|| unreachable!("run used after drop"))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(raw) = self.raw.take() {
            // SAFETY: `raw` came from this backing and the last owner is being dropped.
            unsafe { self.backing.free(raw) }
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
        Ok(PageRunMut(Arc::new(Inner { raw: Some(raw), len, backing })))
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
        // SAFETY: `raw` is valid for `len` bytes while `self` lives, and we hold it shared.
        unsafe { std::slice::from_raw_parts(self.0.raw().ptr.as_ptr(), self.0.len) }
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `self` is unique, and no `PageRun` of it exists: its count is this one alone.
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
        // SAFETY: `raw` is valid for `len` bytes while any clone lives; nobody writes a frozen run.
        unsafe { std::slice::from_raw_parts(self.0.raw().ptr.as_ptr(), self.0.len) }
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
        PageSlice { run: self.clone(), off: 0, len: u32::try_from(self.len()).unwrap_or(u32::MAX) }
    }

    /// `len` bytes from `off`, or `None` when they are not all inside the run.
    pub fn slice(&self, off: u32, len: u32) -> Option<PageSlice> {
        let end = u64::from(off) + u64::from(len);
        (end <= self.len() as u64).then(|| PageSlice { run: self.clone(), off, len })
    }
}

impl fmt::Debug for PageRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageRun({} B, {:?}, {} refs)", self.len(), self.kind(), Arc::strong_count(&self.0))
    }
}

/// Part of a run: what a message sends. Made by [`PageRun::slice`]; always inside its run.
#[derive(Clone, Debug)]
pub struct PageSlice {
    run: PageRun,
    off: u32,
    len: u32,
}

impl PageSlice {
    /// The run.
    pub fn run(&self) -> &PageRun {
        &self.run
    }

    /// Offset in the run, in bytes.
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

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.run.bytes()[self.off as usize..][..self.len as usize]
    }

    /// `len` bytes from `off` of this slice, or `None` when they are not all inside it.
    pub fn slice(&self, off: u32, len: u32) -> Option<PageSlice> {
        let end = u64::from(off) + u64::from(len);
        (end <= u64::from(self.len)).then(|| PageSlice { run: self.run.clone(), off: self.off + off, len })
    }

    /// Takes the run out.
    pub fn into_run(self) -> PageRun {
        self.run
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
        assert_eq!(s.bytes().len(), 90);
        assert!(s.slice(1, 90).is_none());
        assert_eq!(s.slice(90, 0).unwrap().bytes().len(), 0);
        assert_eq!(s.slice(80, 10).unwrap().off(), 90);
    }
}
