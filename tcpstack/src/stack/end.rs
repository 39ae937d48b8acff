//! The end of connections ([`crate::ending`]), and their fate when the port's link goes and comes.

use dataplane::pkt::Port;

use super::Stack;
use crate::ending::{Close, CloseWhy};
use crate::event::{Event, FlowId};
use crate::phase::Phase;

/// Time at which a port that had no buffer or no room is tried again, in ns.
const PORT_RETRY: u64 = 100_000;
/// Time at which a link that is down is looked at again, in ns.
const LINK_RETRY: u64 = 10_000_000;
/// Connections that a link's return wakes in one tick of the wheel, so that they do not all send at once.
const WAKE_TOGETHER: u64 = 16;
const WAKE_GAP: u64 = 200_000;
/// Bursts without progress after which the rest of the peers go untold.
const LAST_TRIES: u32 = 64;

impl<P: Port> Stack<P> {
    /// Closes. [`Event::Closed`] follows.
    pub fn close(&mut self, id: FlowId, how: Close) {
        let Some(f) = self.flows.get_mut(id) else { return };
        let phase = f.phase();
        if how == Close::Both {
            self.c.rx_discarded_bytes += f.discard(&mut self.mem, self.now, self.cfg.fin_timeout);
        }
        match (how, phase) {
            (Close::Abort, _) => self.abort(id.slot(), CloseWhy::LocalAbort),
            // Nothing was sent, so there is nothing to close in order (RFC 9293 §3.10.4).
            (_, Phase::Resolve | Phase::SynSent) => self.abort(id.slot(), CloseWhy::LocalAbort),
            (Close::Both, Phase::Closed) => self.end(id.slot(), CloseWhy::Fin),
            // Only the reader is left.
            (Close::Fin, Phase::Closed) => (),
            _ => {
                f.finish();
                self.flows.mark(id.slot());
            }
        }
    }

    /// Ends a connection with a RST.
    pub(super) fn abort(&mut self, i: u32, why: CloseWhy) {
        let Some(f) = self.flows.at(i) else { return };
        f.abort(why, &mut self.engine, &mut self.io, &mut self.c);
        if why == CloseWhy::LocalAbort {
            self.c.rx_discarded_bytes += f.discard(&mut self.mem, self.now, 0);
        }
        self.end(i, why);
    }

    /// The one way a connection ends. Its place is free, nothing is sent or taken in any more, and every lending is let
    /// go. What came in order is kept for a reader until that has read it, and the first reason with it; where nothing
    /// is left to read, the connection is forgotten at once.
    pub(super) fn end(&mut self, slot: u32, why: CloseWhy) {
        let Some(f) = self.flows.at(slot) else { return };
        let (first, why) = f.end(why);
        f.let_go(&mut self.mem);
        if !f.is_unread() {
            return self.release(slot, why);
        }
        let key = *f.key();
        self.flows.unlink(slot, &key);
        // A reader that waits for the peer waits in vain.
        if first {
            let id = self.flows.id(slot);
            self.flows.tell(Event::Ended(id));
        }
    }

    /// Forgets a connection: every lending and buffer it held is let go, and the user is told if it knew of it.
    fn release(&mut self, slot: u32, why: CloseWhy) {
        let id = self.flows.id(slot);
        let Some(mut f) = self.flows.remove(slot) else { return };
        f.leave(&mut self.mem);
        self.c.closed += 1;
        match f.listener().filter(|_| !f.is_known()) {
            Some(l) => {
                self.c.half_open_lost += 1;
                self.listeners.done(l);
            }
            None => self.flows.tell(Event::Closed { flow: id, why }),
        }
    }

    // ---- the port ----

    /// Time at which a blocked port is tried again (ns).
    pub(super) fn retry_at(&self) -> u64 {
        self.now + if self.uplink.up { PORT_RETRY } else { LINK_RETRY }
    }

    /// Notices that the link went or came. When it comes, whoever waits for an answer that was lost with it asks
    /// again now, and not when a time-out that has doubled for as long as the outage lasted runs out.
    pub(super) fn look_at_link(&mut self) {
        let up = self.io.port().link_up();
        if up == self.uplink.up {
            return;
        }
        self.uplink.up = up;
        self.c.link_changes += 1;
        if !up {
            return;
        }
        // Our neighbours may be behind another switch port now.
        self.link.again();
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
            if self.io.queued() < self.cfg.tx_depth || tries >= LAST_TRIES {
                self.abort(i, CloseWhy::LocalAbort);
                i += 1;
                continue;
            }
            let sent = self.io.send();
            tries = if sent == 0 { tries + 1 } else { 0 };
        }
        for _ in 0..LAST_TRIES {
            if self.io.queued() == 0 {
                break;
            }
            self.io.send();
        }
    }
}
