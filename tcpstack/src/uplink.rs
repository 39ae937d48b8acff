//! A port that takes nothing for a while, a link that comes back, and the last word before a port is given up.

use dataplane::pkt::Port;

use crate::config::Counters;
use crate::ending::CloseWhy;
use crate::stack::Stack;

/// When a port that had no buffer or no room is tried again, in ns.
const PORT_RETRY: u64 = 100_000;
/// When a link that is down is looked at again, in ns.
const LINK_RETRY: u64 = 10_000_000;
/// Connections that a link's return wakes in one tick of the wheel, so that they do not all send at once.
const WAKE_TOGETHER: u64 = 16;
const WAKE_GAP: u64 = 200_000;
/// Bursts without progress after which the rest of the peers go untold.
const LAST_TRIES: u32 = 64;

/// How often the port refused, and what was done all the same: to tell a connection that waits for the port from
/// one that gets on.
pub(crate) fn marks(c: &Counters) -> (u64, u64) {
    (c.tx_no_buffer + c.tx_deep, c.tx_segments + c.fed + c.emitted)
}

impl<P: Port> Stack<P> {
    /// When a blocked port is tried again (ns).
    pub(crate) fn retry_at(&self) -> u64 {
        self.now + if self.link { PORT_RETRY } else { LINK_RETRY }
    }

    /// Notices that the link went or came. When it comes, whoever waits for an answer that was lost with it asks
    /// again now, and not when a time-out that has doubled for as long as the outage lasted runs out.
    pub(crate) fn look_at_link(&mut self) {
        let up = self.io.port.link_up();
        if up == self.link {
            return;
        }
        self.link = up;
        self.c.link_changes += 1;
        if !up {
            return;
        }
        // Our neighbours may be behind another switch port now.
        self.announcer.again();
        let mut woken = 0;
        for i in 0..self.flows.slots() {
            let at = self.now + WAKE_GAP * (woken / WAKE_TOGETHER);
            if self.flows.at(i).is_some_and(|f| f.link_is_back(at)) {
                woken += 1;
                self.arm(i);
            }
        }
    }

    /// Ends every connection at once with a RST, as far as the port takes them: for when this stack will not be
    /// turned again. Nothing is left to be read or told.
    pub fn abort_all(&mut self) {
        let mut tries = 0;
        let mut i = 0;
        while i < self.flows.slots() {
            if self.io.q.len() < self.cfg.tx_depth || tries >= LAST_TRIES {
                self.abort(i, CloseWhy::LocalAbort);
                i += 1;
                continue;
            }
            let sent = self.io.port.tx_burst(&mut self.io.q);
            tries = if sent == 0 { tries + 1 } else { 0 };
        }
        for _ in 0..LAST_TRIES {
            if self.io.q.is_empty() {
                break;
            }
            self.io.port.tx_burst(&mut self.io.q);
        }
    }
}
