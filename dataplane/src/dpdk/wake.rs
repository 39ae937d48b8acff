//! Sleep of a queue until a packet comes: receive interrupts where the driver has them.
//!
//! ```text
//!            Registered           Enabled             Disabled (it slept, or a packet came)
//!   Fresh ──────────────> Off ─────────────> Armed ───────────────────────────────────────> Off
//!     │                    │
//!     └──> Never <─────────┘ Refused          Off + LetGo (the port is to be stopped) ──> Fresh
//! ```
//!
//! The lcore looks once more between `Armed` and its sleep: a packet that came before the interrupt was enabled raises none.

use std::cell::Cell;
use std::time::Duration;

use dpdk_sys as sys;
use fsm::Fsm;

use crate::pkt::{Armed, Nap};

fsm::fsm! {
    /// State of a queue's interrupt.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Interrupt {
        /// Nothing was tried yet.
        Fresh,
        /// The driver has no interrupts, or refuses them.
        Never,
        /// Registered, and off.
        Off,
        /// On: the next nap sleeps.
        Armed,
    }

    /// Events of a queue's interrupt.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Event {
        /// The lcore's epoll instance has it.
        Registered,
        /// The driver has none, or will not have it.
        Refused,
        /// It is on.
        Enabled,
        /// It is off.
        Disabled,
        /// The epoll instance has it no longer.
        LetGo,
    }

    table Interrupt + Event {
        start Fresh;
        else "nothing changes";
        Fresh + Registered => Off;
        Fresh | Off + Refused => Never;
        Off + Enabled => Armed;
        Armed + Disabled => Off;
        Off + LetGo => Fresh;
    }
}

/// The interrupt of a receive queue. All calls are its lcore's.
#[derive(Debug)]
pub(super) struct Wake {
    state: Cell<Fsm<Interrupt>>,
    id: u16,
    queue: u16,
}

impl Wake {
    /// That of queue `queue` of port `id`; `has` where the port was configured with interrupts.
    pub(super) fn new(id: u16, queue: u16, has: bool) -> Wake {
        let wake = Wake { state: Cell::new(Fsm::START), id, queue };
        if !has {
            wake.apply(Event::Refused);
        }
        wake
    }

    fn apply(&self, event: Event) {
        let mut state = self.state.get();
        state.apply(event);
        self.state.set(state);
    }

    /// Has a packet wake the lcore, whose epoll instance all of its queues share.
    #[cold]
    pub(super) fn arm(&self) -> Armed {
        if self.state.get() == Interrupt::Fresh {
            let there = self.control(sys::RTE_INTR_EVENT_ADD as i32);
            self.apply(if there { Event::Registered } else { Event::Refused });
        }
        match self.state.get().get() {
            Interrupt::Armed => return Armed::Before,
            Interrupt::Fresh | Interrupt::Never => return Armed::Never,
            Interrupt::Off => {}
        }
        // SAFETY: the port runs, and this is the queue's lcore.
        let r = unsafe { sys::rte_eth_dev_rx_intr_enable(self.id, self.queue) };
        self.apply(if r == 0 { Event::Enabled } else { Event::Refused });
        if r == 0 { Armed::Now } else { Armed::Never }
    }

    /// Sleeps until a packet comes, `nap.long` at most; without interrupts, or with 0 there, for `nap.short`. Once in two calls it only arms
    /// the interrupt, for one more look. The port runs.
    #[cold]
    pub(super) fn nap(&self, nap: Nap) {
        if nap.long.is_zero() {
            return std::thread::sleep(nap.short);
        }
        match self.arm() {
            Armed::Now => {}
            Armed::Before => {
                self.sleep(nap.long);
                self.disarm();
            }
            Armed::Never => std::thread::sleep(nap.short),
        }
    }

    /// A packet came: no interrupts while the queue is polled.
    #[inline]
    pub(super) fn busy(&self) {
        if self.state.get() == Interrupt::Armed {
            self.disarm();
        }
    }

    #[cold]
    fn disarm(&self) {
        // SAFETY: as above. Where it fails, interrupts come that nobody waits for.
        unsafe { sys::rte_eth_dev_rx_intr_disable(self.id, self.queue) };
        self.apply(Event::Disabled);
    }

    /// The port is about to be stopped, which takes its interrupts down.
    #[cold]
    pub(super) fn let_go(&self) {
        self.busy();
        if self.state.get() == Interrupt::Off {
            self.control(sys::RTE_INTR_EVENT_DEL as i32);
            self.apply(Event::LetGo);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<Interrupt>(), @r"
        Fresh + Registered -> Off
        Fresh + Refused -> Never
        Off + Refused -> Never
        Off + Enabled -> Armed
        Off + LetGo -> Fresh
        Armed + Disabled -> Off
        otherwise: nothing changes
        ");
    }
}
