//! The gate of a queue: either its lcore may touch it, or the control thread that stops the port.
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

use fsm::AtomicFsm;

use crate::sync::AtomicU8;

fsm::fsm! {
    /// State of a queue's gate.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// Events of a gate.
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

    table Gate + GateEvent {
        start Absent;
        else "nothing changes";
        Absent + Built => Parked;
        Parked | Asked + Resume => Running;
        Running + Ask => Asked;
        Running | Asked + Yield => Parked;
        Parked | Running | Asked + Dropped => Absent;
    }
}

/// A gate shared by one lcore and the control thread.
#[derive(Debug, Default)]
pub(crate) struct GateCell(AtomicFsm<Gate, AtomicU8>);

impl GateCell {
    pub(crate) fn state(&self) -> Gate {
        self.0.get()
    }

    /// The poll loop's question: one load.
    #[inline]
    pub(crate) fn running(&self) -> bool {
        self.0.is(Gate::Running)
    }

    /// Applies an event; one that the table does not list changes nothing.
    pub(crate) fn on(&self, e: GateEvent) {
        self.0.apply(e);
    }

    /// Whether the control thread may touch the queue.
    pub(crate) fn quiet(&self) -> bool {
        matches!(self.state(), Gate::Absent | Gate::Parked)
    }
}
