//! The application on the node's lcore, behind its rings, and the wait for its events: a thread that has nothing to take
//! sleeps until the lcore has something. The lcore looks at one flag; a lock is taken only where somebody sleeps.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use transport::lnd::AppId;
use transport::lnet::Event;
use transport::node::{App, Ops, RingApp, Work};

/// Longest sleep of the lcore while the program is active, in ns: no ring wakes one that waits for its sockets.
pub(crate) const ACTIVE: u64 = 50_000;
/// The same when it has been quiet for [`LINGER`].
pub(crate) const QUIET: u64 = 1_000_000;
/// Time after the last operation or event for which the program is active, in ns.
pub(crate) const LINGER: u64 = 10_000_000;
/// Longest sleep of a waiting thread before it looks whether the node lives.
const LOOK: Duration = Duration::from_millis(500);

/// Wakes those who wait for events.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    waiting: AtomicBool,
    gone: AtomicBool,
    lock: Mutex<()>,
    rung: Condvar,
}

impl Bell {
    /// There may be something to take.
    pub(crate) fn ring(&self) {
        // What was put into a ring is seen by whoever looks after the flag was set, or its flag is seen here.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) && self.waiting.swap(false, Ordering::SeqCst) {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.rung.notify_all();
        }
    }

    /// The node has ended: nothing more is put into rings.
    pub(crate) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
        self.waiting.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Whether the node has ended.
    pub(crate) fn gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// What `look` finds, waited for until the time is over (`None`: for ever); `None` then. Looks once more after the node
    /// has ended.
    pub(crate) fn wait<T>(&self, until: Option<Instant>, mut look: impl FnMut() -> Option<T>) -> Option<T> {
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

/// The program on the lcore.
pub(crate) struct Program {
    ring: RingApp,
    bell: Arc<Bell>,
    now: u64,
    active_until: u64,
}

impl Program {
    pub(crate) fn new(ring: RingApp, bell: Arc<Bell>) -> Program {
        Program { ring, bell, now: 0, active_until: 0 }
    }

    fn active(&mut self) {
        self.active_until = self.now + LINGER;
        self.bell.ring();
    }
}

impl App for Program {
    fn turn(&mut self, now: u64, ops: &mut Ops) -> Work {
        self.now = now;
        let work = self.ring.turn(now, ops);
        if work.is_busy() {
            self.active();
        }
        work
    }

    fn event(&mut self, now: u64, app: AppId, ev: Event, ops: &mut Ops) {
        self.ring.event(now, app, ev, ops);
        self.active();
    }

    fn patience(&self) -> Option<u64> {
        Some(if self.now < self.active_until { ACTIVE } else { QUIET })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.bell.leave();
    }
}
