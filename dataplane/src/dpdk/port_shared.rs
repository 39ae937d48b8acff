//! State of a port that its control thread and its lcores share.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::eal::Hold;
use super::gate::{GateCell, GateEvent};
use super::offload::Choice;
use super::trouble::Trouble;
use crate::pkt::PortCaps;

/// State of a port that its control thread and its lcores share.
pub(crate) struct PortShared {
    pub id: u16,
    pub caps: PortCaps,
    pub choice: Choice,
    /// The driver has receive interrupts, and was configured so.
    pub interrupts: bool,
    pub gates: Vec<GateCell>,
    pub link: AtomicBool,
    pub trouble: Trouble,
    /// Times that the port was stopped and started.
    pub restarts: AtomicU64,
    /// Times that it did not start.
    pub failed_starts: AtomicU64,
    /// Whether the port is started; held while gates change on behalf of the port.
    pub running: Mutex<bool>,
    pub _hold: Hold,
}

impl PortShared {
    /// Whether the port is started, for as long as that must not change.
    pub(crate) fn lock(&self) -> MutexGuard<'_, bool> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An lcore has taken queue `q`: it runs as soon as the port does.
    pub(crate) fn built(&self, q: usize) {
        let running = self.lock();
        self.gates[q].on(GateEvent::Built);
        if *running {
            self.gates[q].on(GateEvent::Resume);
        }
    }
}
