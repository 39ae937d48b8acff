//! A timer for each entry of a table.
//!
//! A timer is set to the earliest deadline of its entry, or before that. Deadlines move on with every message; the timer
//! follows only when it fires. So traffic sets hardly a timer, and a timer that fires costs the same however many there are.

use ::wheel::Wheel;

use super::slab::Key;

/// Timers of a kind that fire for one input; more wait for the next. A slot of the wheel fires as one.
const A_TURN: usize = 64;

/// A timer for each entry of a slab, by its position.
#[derive(Debug)]
pub(crate) struct Timers {
    wheel: Wheel,
    /// Nothing fires before this.
    wake: u64,
}

impl Timers {
    pub(crate) fn new() -> Timers {
        Timers { wheel: Wheel::new(0), wake: u64::MAX }
    }

    /// Has the entry looked at soon after `at`, or before.
    #[inline]
    pub(crate) fn by(&mut self, now: u64, entry: Key, at: u64) {
        if self.wheel.at(entry.index).is_none_or(|t| t > at) {
            self.set(now, entry, at);
        }
    }

    #[cold]
    fn set(&mut self, now: u64, entry: Key, at: u64) {
        if at == u64::MAX {
            return;
        }
        if self.wheel.is_empty() {
            // The wheel stood still while nothing was timed.
            self.wheel.expire(now, 1, &mut Vec::new());
        }
        self.wheel.set(entry.index, at);
        self.wake = self.wake.min(Wheel::fires(at.max(now)));
    }

    /// The entry has gone.
    pub(crate) fn cancel(&mut self, entry: Key) {
        self.wheel.cancel(entry.index);
        if self.wheel.is_empty() {
            self.wake = u64::MAX;
        }
    }

    /// Places for timers.
    #[cfg(feature = "testing")]
    pub(crate) fn places(&self) -> usize {
        self.wheel.places()
    }

    /// Time at which to call [`Timers::due`], in ns; `u64::MAX` when nothing is timed.
    pub(crate) fn wake(&self) -> u64 {
        self.wake
    }

    /// Puts the positions of some entries into `due` whose time has come.
    pub(crate) fn due(&mut self, now: u64, due: &mut Vec<u32>) {
        if self.wake <= now {
            self.wheel.expire(now, A_TURN, due);
            self.wake = self.wheel.next().unwrap_or(u64::MAX);
        }
    }
}
