//! The one way a connection ends.
//!
//! ```text
//!   who ends it                   to the peer            what nobody has read     the user hears Closed
//!   close in both directions      FIN after what was     discarded, and what      when the peer is done, or after
//!                                 pushed                 still comes, too         `fin_timeout`
//!   abort                         RST                    discarded                at once
//!   the peer, by RST              -                      kept until it is read    when it is read
//!   nobody answers, unreachable   RST                    kept until it is read    when it is read
//!   both ends, by FIN             -                      kept until it is read    when it is read
//!   close or abort after that     -                      discarded                at once
//! ```
//!
//! Where bytes are kept, the user hears `Ended` at once: what it does not read now for the peer's sake it never needs to.
//!
//! So whoever closes discards, and what came in order before an end that somebody else made is still delivered, as Linux
//! does. Linux answers a close with unread bytes by a RST (RFC 2525 §2.17), and so drops what it has not sent, and what
//! some peers have not read: a refusal, or a last answer. Here that is delivered, and the bytes cost nothing: they are
//! acknowledged and let go. A peer cannot hold such a connection up; its window may stay shut, or data may come, for
//! `fin_timeout` at most.

use dataplane::pkt::Port;

use crate::phase::Phase;
use crate::stack::{Event, FlowId, Stack};

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseWhy {
    /// Both sides closed in order.
    Fin,
    /// The peer reset it.
    Reset,
    /// The peer did not answer.
    Timeout,
    /// The peer refused our SYN.
    Refused,
    /// The network says that the peer cannot be reached.
    Unreachable,
    /// The next hop did not answer ARP or neighbour discovery.
    Unresolved,
    /// We aborted it.
    LocalAbort,
}

/// How to close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// In one direction: a FIN follows everything pushed. The peer may still send, and is still read.
    Fin,
    /// In both: as `Fin`, and nobody reads any more. What is unread, and what still comes, is acknowledged and
    /// discarded.
    Both,
    /// At once, with a RST; what was pushed is dropped.
    Abort,
}

impl<P: Port> Stack<P> {
    /// Closes. [`Event::Closed`] follows.
    pub fn close(&mut self, id: FlowId, how: Close) {
        let Some(f) = self.flows.get_mut(id) else { return };
        let phase = f.phase();
        if how == Close::Both {
            self.c.rx_discarded_bytes += f.discard(self.now, self.cfg.fin_timeout);
        }
        match (how, phase) {
            (Close::Abort, _) => self.abort(id.slot, CloseWhy::LocalAbort),
            // Nothing was sent, so there is nothing to close in order (RFC 9293 §3.10.4).
            (_, Phase::Resolve | Phase::SynSent) => self.abort(id.slot, CloseWhy::LocalAbort),
            (Close::Both, Phase::Closed) => self.end(id.slot, CloseWhy::Fin),
            // Only the reader is left.
            (Close::Fin, Phase::Closed) => (),
            _ => {
                f.finish();
                self.flows.mark(id.slot);
            }
        }
    }

    /// Ends a connection with a RST.
    pub(crate) fn abort(&mut self, i: u32, why: CloseWhy) {
        let Some(f) = self.flows.at(i) else { return };
        f.abort(why, &mut self.engine, &mut self.io, &mut self.c);
        if why == CloseWhy::LocalAbort {
            self.c.rx_discarded_bytes += f.discard(self.now, 0);
        }
        self.end(i, why);
    }

    /// The one way a connection ends. Its place is free, nothing is sent or taken in any more, and every lending is let
    /// go. What came in order is kept for a reader until that has read it, and the first reason with it; where nothing
    /// is left to read, the connection is forgotten at once.
    pub(crate) fn end(&mut self, slot: u32, why: CloseWhy) {
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
        let Some(f) = self.flows.remove(slot) else { return };
        self.c.closed += 1;
        match f.listener().filter(|_| !f.is_known()) {
            Some(l) => {
                self.c.half_open_lost += 1;
                self.half_open_done(l);
            }
            None => self.flows.tell(Event::Closed { flow: id, why }),
        }
    }

    pub(crate) fn half_open_done(&mut self, listener: u16) {
        if let Some(l) = self.listeners.get_mut(usize::from(listener)) {
            l.half_open = l.half_open.saturating_sub(1);
        }
    }
}
