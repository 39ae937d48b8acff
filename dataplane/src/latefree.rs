//! Sent pages that a driver is slow to let go: when to ask, when to nudge, when to stop the port.
//!
//! Some drivers free sent buffers only on a later, non-empty burst; one whose link is down or whose ring is stuck
//! frees nothing. The poll loop calls [`LateFree::step`] each turn with what is waiting, and does what it says:
//!
//! ```text
//!            waiting > 0                    idle, not freed by reclaim
//!   Quiet ────────────────> Reclaiming ───────────────────────────────> Nudging
//!     ^                      │  ^   │                                    │  │
//!     │ waiting == 0         │  │   │ no progress for 1 s                │  │ 16 nudges, or 10 ms
//!     ├──────────────────────┘  │   └────────────────┐                   │  v
//!     │                         │ progress           │                   │ Holding (asks no more,
//!     │                         └────────────────────┼───────────────────┤      one each 10 ms)
//!     │                                              v                   │  │
//!     │                                        Restarting <──────────────┴──┘ no progress for 1 s
//!     │ waiting == 0                                 │
//!     └──────────────────────────────────────────────┤ still waiting 1 s after the restart
//!                                                    v
//!                                               Quarantined (until waiting == 0)
//! ```

use fsm::Fsm;

/// Time that a driver may hold pages of an idle queue before frames to nudge it become rare, in ns; then one is
/// sent in each such time.
pub const NUDGE_NS: u64 = 10_000_000;
/// Most nudges in one such time.
pub const NUDGES_MAX: u32 = 16;
/// Without progress for this long, the port is stopped and started, in ns.
pub const STUCK_NS: u64 = 1_000_000_000;

fsm::fsm! {
    /// State of a queue's late pages.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum LateState {
        /// Nothing waits for the driver.
        Quiet,
        /// Something does; the driver is asked.
        Reclaiming,
        /// Asking does not help: harmless frames are sent.
        Nudging,
        /// Frames did not help either.
        Holding,
        /// The port was made to let go: by a restart, or by dropping what it had not taken.
        Restarting,
        /// The restart did not help: the pages are given up, and the owner is told so.
        Quarantined,
    }

    /// Events from one turn to the next.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum LateEvent {
        /// Nothing waits any more.
        Home,
        /// Fewer wait than before, or the first ones do.
        Progress,
        /// The driver was asked and freed nothing, and the queue has nothing else to send.
        Deaf,
        /// Nudges are used up.
        Spent,
        /// No progress for [`STUCK_NS`].
        Stuck,
    }

    /// Work for the poll loop.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum LateAction {
        /// Nothing.
        None,
        /// Call [`crate::pkt::Port::reclaim`] and pass its answer to [`LateFree::reclaimed`].
        Reclaim,
        /// Send one harmless frame.
        Nudge,
        /// Make the port let go: where it copies as it sends, drop what it has not taken; or else ask the control thread to stop and
        /// start it.
        Restart,
        /// Report the pages as quarantined: they are never reused.
        Quarantine,
    }

    table LateState + LateEvent => LateAction {
        start Quiet;
        else "nothing changes";
        Reclaiming | Nudging | Holding | Restarting | Quarantined + Home => Quiet, None;
        Quiet | Nudging | Holding | Restarting + Progress => Reclaiming, None;
        Reclaiming + Deaf => Nudging, None;
        Nudging + Spent => Holding, None;
        Reclaiming | Nudging | Holding + Stuck => Restarting, Restart;
        Restarting + Stuck => Quarantined, Quarantine;
    }
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LateCounters {
    /// Times that the driver was asked.
    pub reclaims: u64,
    /// Harmless frames.
    pub nudges: u64,
    /// Restarts asked for.
    pub restarts: u64,
    /// Times that pages were given up.
    pub quarantines: u64,
}

/// Follows one queue's late pages.
#[derive(Clone, Debug)]
pub struct LateFree {
    state: Fsm<LateState>,
    waiting: u64,
    /// Time of the last progress, ns.
    since: u64,
    nudging_since: u64,
    nudges: u32,
    counters: LateCounters,
}

impl Default for LateFree {
    fn default() -> LateFree {
        LateFree {
            state: Fsm::START,
            waiting: 0,
            since: 0,
            nudging_since: 0,
            nudges: 0,
            counters: LateCounters::default(),
        }
    }
}

impl LateFree {
    /// State now.
    pub fn state(&self) -> LateState {
        self.state.get()
    }

    /// Counts since the start.
    pub fn counters(&self) -> LateCounters {
        self.counters
    }

    /// One turn at `now` (ns): `waiting` lendings are held by the NIC alone; `idle` when the queue has nothing to
    /// send. A busy queue is left alone, since its own frames make the driver free.
    pub fn step(&mut self, now: u64, waiting: u64, idle: bool) -> LateAction {
        if waiting == 0 {
            self.waiting = 0;
            self.state.apply(LateEvent::Home);
            return LateAction::None;
        }
        if waiting < self.waiting || self.state == LateState::Quiet {
            self.since = now;
            self.nudges = 0;
            self.state.apply(LateEvent::Progress);
        }
        self.waiting = waiting;
        if now.saturating_sub(self.since) >= STUCK_NS
            && let Some(action) = self.state.apply(LateEvent::Stuck)
        {
            // The restart gets as long again.
            self.since = now;
            match action {
                LateAction::Restart => self.counters.restarts += 1,
                _ => self.counters.quarantines += 1,
            }
            return action;
        }
        if !idle {
            return LateAction::None;
        }
        match self.state.get() {
            LateState::Reclaiming => {
                self.counters.reclaims += 1;
                LateAction::Reclaim
            }
            LateState::Nudging => {
                if self.nudges >= NUDGES_MAX || now.saturating_sub(self.nudging_since) >= NUDGE_NS {
                    self.state.apply(LateEvent::Spent);
                    return LateAction::None;
                }
                self.nudge(now)
            }
            // The other end may just not have had the CPU to empty the ring: now and then one more frame.
            LateState::Holding if now.saturating_sub(self.nudging_since) >= NUDGE_NS => self.nudge(now),
            _ => LateAction::None,
        }
    }

    fn nudge(&mut self, now: u64) -> LateAction {
        if self.state == LateState::Holding {
            self.nudging_since = now;
        }
        self.nudges += 1;
        self.counters.nudges += 1;
        LateAction::Nudge
    }

    /// The answer to [`LateAction::Reclaim`]: the driver let go of `freed` buffers.
    pub fn reclaimed(&mut self, now: u64, freed: u32) {
        if freed == 0 && self.state.apply(LateEvent::Deaf).is_some() {
            self.nudging_since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<LateState>(), @r"
        Quiet + Progress -> Reclaiming, None
        Reclaiming + Home -> Quiet, None
        Reclaiming + Deaf -> Nudging, None
        Reclaiming + Stuck -> Restarting, Restart
        Nudging + Home -> Quiet, None
        Nudging + Progress -> Reclaiming, None
        Nudging + Spent -> Holding, None
        Nudging + Stuck -> Restarting, Restart
        Holding + Home -> Quiet, None
        Holding + Progress -> Reclaiming, None
        Holding + Stuck -> Restarting, Restart
        Restarting + Home -> Quiet, None
        Restarting + Progress -> Reclaiming, None
        Restarting + Stuck -> Quarantined, Quarantine
        Quarantined + Home -> Quiet, None
        otherwise: nothing changes
        ");
    }

    #[test]
    fn a_lazy_driver_is_asked_then_nudged_until_the_pages_are_home() {
        let mut l = LateFree::default();
        assert_eq!(l.step(0, 0, true), LateAction::None);
        assert_eq!(l.step(1, 3, false), LateAction::None, "a busy queue frees by itself");
        assert_eq!(l.step(2, 3, true), LateAction::Reclaim);
        l.reclaimed(2, 0);
        assert_eq!(l.step(3, 3, true), LateAction::Nudge);
        assert_eq!(l.step(4, 2, true), LateAction::Reclaim, "progress: ask again first");
        l.reclaimed(4, 2);
        assert_eq!(l.step(5, 0, true), LateAction::None);
        assert_eq!(l.state(), LateState::Quiet);
        assert_eq!(l.counters(), LateCounters { reclaims: 2, nudges: 1, ..Default::default() });
    }

    #[test]
    fn nudges_are_bounded_in_number_and_time() {
        for step in [1, NUDGE_NS / 4] {
            let mut l = LateFree::default();
            l.step(0, 1, true);
            l.reclaimed(0, 0);
            let n = (1..200).filter(|i| l.step(i * step, 1, true) == LateAction::Nudge).count() as u64;
            // Then one in 10 ms, until the port counts as stuck.
            assert_eq!(n, if step == 1 { u64::from(NUDGES_MAX) } else { 3 + 49 });
            assert!(n == l.counters().nudges && l.state() != LateState::Nudging);
        }
    }

    #[test]
    fn a_stuck_queue_is_restarted_once_and_then_quarantined_once() {
        let mut l = LateFree::default();
        let acts: Vec<_> = (0..50)
            .map(|i| l.step(i * STUCK_NS / 10, 5, false))
            .enumerate()
            .filter(|a| a.1 != LateAction::None)
            .collect();
        assert_eq!(acts, [(10, LateAction::Restart), (20, LateAction::Quarantine)]);
        assert_eq!(l.step(50 * STUCK_NS, 0, true), LateAction::None);
        assert_eq!(l.state(), LateState::Quiet, "pages may still come home when the port is closed");
    }
}
