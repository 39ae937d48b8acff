//! An arena: runs of one size from one backing, kept for reuse instead of going back to the kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;

use crate::backing::{Backing, BackingError, BackingKind, RawRun};
use crate::run::PageRunMut;

/// The backing that an arena's runs see: memory that they give back is kept for the next one.
struct FreeList {
    backing: Arc<dyn Backing>,
    free: ArrayQueue<Ptr>,
    /// Runs that are out.
    out: AtomicUsize,
}

struct Ptr(RawRun);
// SAFETY: memory on the free list is plain bytes that nobody refers to.
unsafe impl Send for Ptr {}

// SAFETY: memory is handed out once at a time: fresh from the backing, or from the list, on which it is put only by
// `free`, when nothing refers to it. All of it has the one length of the arena.
unsafe impl Backing for FreeList {
    fn alloc(&self, len: usize) -> Result<RawRun, BackingError> {
        match self.free.pop() {
            Some(Ptr(raw)) => Ok(raw),
            None => self.backing.alloc(len),
        }
    }

    unsafe fn free(&self, raw: RawRun) {
        self.out.fetch_sub(1, Ordering::Release);
        if let Err(Ptr(raw)) = self.free.push(Ptr(raw)) {
            // SAFETY: passed on from the caller; `alloc` had it from this backing.
            unsafe { self.backing.free(raw) };
        }
    }

    fn kind(&self) -> BackingKind {
        self.backing.kind()
    }
}

/// Errors of an arena.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// All runs are out.
    #[error("all {0} runs of the arena are out: wait for one to come home, or make the arena larger")]
    Exhausted(usize),
    /// The backing refused.
    #[error(transparent)]
    Backing(#[from] BackingError),
}

/// A bounded stock of equal runs. Taking one costs no system call once the arena is warm.
pub struct Arena {
    list: Arc<FreeList>,
    run_len: usize,
    max: usize,
}

impl Arena {
    /// An arena of at most `max` runs of `run_len` bytes each.
    pub fn new(backing: Arc<dyn Backing>, run_len: usize, max: usize) -> Arena {
        let list = FreeList { backing, free: ArrayQueue::new(max.max(1)), out: AtomicUsize::new(0) };
        Arena { list: Arc::new(list), run_len, max }
    }

    /// A run to write. Its old contents are unspecified but always initialised.
    ///
    /// # Errors
    /// [`ArenaError::Exhausted`] when `max` are out; else what the backing says.
    pub fn take(&self) -> Result<PageRunMut, ArenaError> {
        let out = &self.list.out;
        if out.fetch_add(1, Ordering::Acquire) >= self.max {
            out.fetch_sub(1, Ordering::Release);
            return Err(ArenaError::Exhausted(self.max));
        }
        let run = PageRunMut::new(self.list.clone(), self.run_len);
        Ok(run.inspect_err(|_| {
            out.fetch_sub(1, Ordering::Release);
        })?)
    }

    /// Runs that are out.
    pub fn out(&self) -> usize {
        self.list.out.load(Ordering::Acquire)
    }

    /// Length of each run, in bytes.
    pub fn run_len(&self) -> usize {
        self.run_len
    }
}

impl Drop for FreeList {
    fn drop(&mut self) {
        // The arena and every run have gone, so the free ones can go back, too.
        while let Some(Ptr(raw)) = self.free.pop() {
            // SAFETY: memory on the list came from this backing and nobody refers to it.
            unsafe { self.backing.free(raw) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PrivatePages;

    #[test]
    fn runs_are_reused_and_bounded() {
        let a = Arena::new(Arc::new(PrivatePages), 8192, 2);
        let (x, y) = (a.take().unwrap(), a.take().unwrap());
        let px = x.bytes().as_ptr();
        assert!(matches!(a.take(), Err(ArenaError::Exhausted(2))));
        drop(x);
        assert_eq!(a.out(), 1);
        assert_eq!(a.take().unwrap().bytes().as_ptr(), px);
        drop(y);
        assert_eq!(a.out(), 0);
    }

    #[test]
    fn a_frozen_run_comes_home_when_its_last_clone_goes() {
        let a = Arena::new(Arc::new(PrivatePages), 4096, 1);
        let r = a.take().unwrap().freeze();
        let s = r.slice(0, 10).unwrap();
        drop(r);
        assert_eq!(a.out(), 1);
        drop(s);
        assert_eq!(a.out(), 0);
    }
}
