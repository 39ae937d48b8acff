//! The wait of a thread for its ring: it sleeps until the lcore has put something in. The lcore looks at one flag; a lock is
//! taken only where somebody sleeps. `tests/model_node.rs` compiles this file under loom (docs/testing.md).

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::sync::{AtomicBool, Condvar, Mutex, Ordering, fence};

/// Longest sleep of a waiting thread before it looks whether the node lives.
const LOOK: Duration = Duration::from_millis(500);

/// Wakes threads that wait for what an lcore puts into a ring.
#[derive(Debug, Default)]
pub struct Bell {
    waiting: AtomicBool,
    gone: AtomicBool,
    lock: Mutex<()>,
    rung: Condvar,
}

impl Bell {
    /// Says that there may be something to take.
    pub fn ring(&self) {
        // Either whoever looks after the flag was set sees the ring's new entry, or its flag is seen here.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) && self.waiting.swap(false, Ordering::SeqCst) {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.rung.notify_all();
        }
    }

    /// Says that the node has ended: nothing more is put into rings.
    pub fn leave(&self) {
        self.gone.store(true, Ordering::Release);
        self.waiting.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Whether the node has ended.
    pub fn gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Waits until `look` finds something, or the time is over (`None`: for ever); gives the find. Looks once more after the
    /// node has ended.
    pub fn wait<T>(&self, until: Option<Instant>, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            let gone = self.gone();
            if let Some(found) = look() {
                return Some(found);
            }
            let left = until.map(|u| u.saturating_duration_since(Instant::now()));
            if gone || left.is_some_and(|l| l.is_zero()) {
                return None;
            }
            let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.waiting.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if let Some(found) = look() {
                return Some(found);
            }
            if !self.gone() {
                let time = left.map_or(LOOK, |l| l.min(LOOK));
                drop(self.rung.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}
