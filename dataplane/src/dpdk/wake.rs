//! Sleep of a queue until a packet comes: receive interrupts where the driver has them.
//!
//! ```text
//!   Fresh ──(registered)──> Off ──(enabled)──> Armed ──(slept, or a packet came)──> Off
//!     │                      │                   │
//!     └──(no interrupts)──> Never <──────────────┘ (the driver refuses)      Off, Armed ──(the port stops)──> Fresh
//! ```
//!
//! The lcore looks once more between `Armed` and its sleep: a packet that came before the interrupt was enabled raises none.

use std::cell::Cell;
use std::time::Duration;

use dpdk_sys as sys;

use crate::pkt::Nap;

/// State of a queue's interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was tried yet.
    Fresh,
    /// The driver has no interrupts, or refuses them.
    Never,
    /// Registered, and off.
    Off,
    /// On: the next nap sleeps.
    Armed,
}

/// The interrupt of a receive queue. All calls are its lcore's.
#[derive(Debug)]
pub(super) struct Wake {
    state: Cell<State>,
    id: u16,
    queue: u16,
}

impl Wake {
    /// That of queue `queue` of port `id`; `has` where the port was configured with interrupts.
    pub(super) fn new(id: u16, queue: u16, has: bool) -> Wake {
        Wake { state: Cell::new(if has { State::Fresh } else { State::Never }), id, queue }
    }

    /// Sleeps until a packet comes, `nap.long` at most; without interrupts, or with 0 there, for `nap.short`. Once in two calls it only arms
    /// the interrupt, for one more look. The port runs.
    #[cold]
    pub(super) fn nap(&self, nap: Nap) {
        if nap.long.is_zero() {
            return std::thread::sleep(nap.short);
        }
        if self.state.get() == State::Fresh {
            let off = self.control(sys::RTE_INTR_EVENT_ADD as i32);
            self.state.set(if off { State::Off } else { State::Never });
        }
        match self.state.get() {
            State::Off => {
                // SAFETY: the port runs, and this is the queue's lcore.
                let r = unsafe { sys::rte_eth_dev_rx_intr_enable(self.id, self.queue) };
                self.state.set(if r == 0 { State::Armed } else { State::Never });
            }
            State::Armed => {
                self.sleep(nap.long);
                self.disarm();
            }
            State::Fresh | State::Never => std::thread::sleep(nap.short),
        }
    }

    /// A packet came: no interrupts while the queue is polled.
    #[inline]
    pub(super) fn busy(&self) {
        if self.state.get() == State::Armed {
            self.disarm();
        }
    }

    #[cold]
    fn disarm(&self) {
        // SAFETY: as above. Where it fails, interrupts come that nobody waits for.
        unsafe { sys::rte_eth_dev_rx_intr_disable(self.id, self.queue) };
        self.state.set(State::Off);
    }

    /// The port is about to be stopped, which takes its interrupts down.
    #[cold]
    pub(super) fn let_go(&self) {
        self.busy();
        if self.state.get() == State::Off {
            self.control(sys::RTE_INTR_EVENT_DEL as i32);
            self.state.set(State::Fresh);
        }
    }

    fn control(&self, op: i32) -> bool {
        let data = std::ptr::null_mut();
        // SAFETY: the queue's lcore, whose own epoll instance it is registered with; there is no data.
        unsafe {
            sys::rte_eth_dev_rx_intr_ctl_q(self.id, self.queue, sys::RTE_EPOLL_PER_THREAD, op, data) == 0
        }
    }

    fn sleep(&self, longest: Duration) {
        let ms = i32::try_from(longest.as_millis()).unwrap_or(i32::MAX).max(1);
        // SAFETY: plain data, all-zero valid.
        let mut event: sys::rte_epoll_event = unsafe { std::mem::zeroed() };
        // SAFETY: room for one event, on the thread whose epoll instance it is.
        unsafe { sys::rte_epoll_wait(sys::RTE_EPOLL_PER_THREAD, &mut event, 1, ms) };
    }
}
