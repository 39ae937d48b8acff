//! An arena: runs of one size from one backing, kept for reuse instead of going back to the kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;

use crate::backing::{Backing, BackingError, RawRun};
use crate::run::PageRunMut;

/// Where an arena's idle runs lie.
pub(crate) struct Shelf {
    backing: Arc<dyn Backing>,
    idle: ArrayQueue<Ptr>,
    out: AtomicUsize,
}

struct Ptr(RawRun);
// SAFETY: an idle run is plain memory that nobody refers to.
unsafe impl Send for Ptr {}

impl Shelf {
    pub(crate) fn give_back(&self, raw: RawRun) {
        self.out.fetch_sub(1, Ordering::Release);
        if let Err(Ptr(raw)) = self.idle.push(Ptr(raw)) {
            // SAFETY: the run came from this backing and its last owner just let go.
            unsafe { self.backing.free(raw) };
        }
    }
}

/// Why an arena gave no run.
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
    backing: Arc<dyn Backing>,
    shelf: Arc<Shelf>,
    run_len: usize,
    max: usize,
}

impl Arena {
    /// An arena of at most `max` runs of `run_len` bytes each.
    pub fn new(backing: Arc<dyn Backing>, run_len: usize, max: usize) -> Arena {
        let shelf = Arc::new(Shelf {
            backing: backing.clone(),
            idle: ArrayQueue::new(max.max(1)),
            out: AtomicUsize::new(0),
        });
        Arena { backing, shelf, run_len, max }
    }

    /// A run to write. Its old contents are unspecified but always initialised.
    ///
    /// # Errors
    /// [`ArenaError::Exhausted`] when `max` are out; else what the backing says.
    pub fn take(&self) -> Result<PageRunMut, ArenaError> {
        if self.shelf.out.fetch_add(1, Ordering::Acquire) >= self.max {
            self.shelf.out.fetch_sub(1, Ordering::Release);
            return Err(ArenaError::Exhausted(self.max));
        }
        let raw = match self.shelf.idle.pop() {
            Some(Ptr(raw)) => raw,
            None => self.backing.alloc(self.run_len).inspect_err(|_| {
                self.shelf.out.fetch_sub(1, Ordering::Release);
            })?,
        };
        Ok(PageRunMut::from_shelf(raw, self.run_len, self.backing.clone(), self.shelf.clone()))
    }

    /// Runs that are out.
    pub fn out(&self) -> usize {
        self.shelf.out.load(Ordering::Acquire)
    }

    /// Length of each run, in bytes.
    pub fn run_len(&self) -> usize {
        self.run_len
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        // The arena and every run have gone, so the idle ones can go back, too.
        while let Some(Ptr(raw)) = self.idle.pop() {
            // SAFETY: idle runs came from this backing and nobody refers to them.
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
