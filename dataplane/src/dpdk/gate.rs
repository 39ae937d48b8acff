//! Who may touch a queue: its lcore, or the control thread that stops the port.
//!
//! DPDK forbids to stop a port while an lcore polls it. The control thread therefore asks, and the lcore answers at
//! its next burst:
//!
//! ```text
//!             Built              Resume                 Ask
//!  Absent ───────────> Parked ───────────> Running ───────────> Asked
//!     ^                 ^  ^                │  ^                  │ │
//!     │                 │  └───── Yield ────┘  └───── Resume ─────┘ │
//!     │                 └────────────────── Yield ──────────────────┘
//!     └── Dropped, from every state
//! ```

use crate::sync::{AtomicU8, Ordering};

/// State of a queue's gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Gate {
    /// No lcore has the queue.
    Absent,
    /// An lcore has it and keeps its hands off.
    Parked,
    /// An lcore polls it.
    Running,
    /// The control thread waits for the lcore to yield.
    Asked,
}

/// What can happen to a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GateEvent {
    /// An lcore took the queue.
    Built,
    /// The port runs.
    Resume,
    /// The port is to be stopped.
    Ask,
    /// The lcore lets go until it is resumed.
    Yield,
    /// The lcore gave the queue up.
    Dropped,
}

pub(crate) const STATES: [Gate; 4] = [Gate::Absent, Gate::Parked, Gate::Running, Gate::Asked];

/// The transition table. `None`: nothing changes.
pub(crate) fn next(s: Gate, e: GateEvent) -> Option<Gate> {
    match (s, e) {
        (Gate::Absent, GateEvent::Built) => Some(Gate::Parked),
        (Gate::Parked | Gate::Asked, GateEvent::Resume) => Some(Gate::Running),
        (Gate::Running, GateEvent::Ask) => Some(Gate::Asked),
        (Gate::Running | Gate::Asked, GateEvent::Yield) => Some(Gate::Parked),
        (Gate::Parked | Gate::Running | Gate::Asked, GateEvent::Dropped) => Some(Gate::Absent),
        _ => None,
    }
}

/// A gate shared by one lcore and the control thread.
#[derive(Debug)]
pub(crate) struct GateCell(AtomicU8);

impl Default for GateCell {
    fn default() -> GateCell {
        GateCell(AtomicU8::new(Gate::Absent as u8))
    }
}

impl GateCell {
    pub(crate) fn state(&self) -> Gate {
        STATES[usize::from(self.0.load(Ordering::Acquire) & 3)]
    }

    /// The poll loop's question: one load.
    #[inline]
    pub(crate) fn running(&self) -> bool {
        self.0.load(Ordering::Acquire) == Gate::Running as u8
    }

    /// Applies an event; returns the state after it.
    pub(crate) fn on(&self, e: GateEvent) -> Gate {
        let mut s = self.state();
        loop {
            let Some(n) = next(s, e) else { return s };
            match self.0.compare_exchange(s as u8, n as u8, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return n,
                Err(now) => s = STATES[usize::from(now & 3)],
            }
        }
    }

    /// Whether the control thread may touch the queue.
    pub(crate) fn quiet(&self) -> bool {
        matches!(self.state(), Gate::Absent | Gate::Parked)
    }
}
