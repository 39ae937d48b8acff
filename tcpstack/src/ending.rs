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

use std::collections::VecDeque;

use dataplane::pkt::Port;

use crate::flow::{Clock, Flow};
use crate::opts::OptBytes;
use crate::phase::Phase;
use crate::sack::Sacks;
use crate::stack::{Event, FlowId, Stack};
use crate::table::Place;
use crate::wire::{self, Fields};

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

impl Flow {
    /// The reader has gone: lets go of what is unread, and of all that still comes. What waits beyond a gap goes, too
    /// (RFC 2018 §8 allows it): the peer sends it again. Returns the bytes in order that nobody has read.
    pub(crate) fn discard(&mut self, now: u64, patience: u64) -> u64 {
        if !self.discards && self.phase().synchronised() {
            // From here on the peer has a bounded time to take what it is still to be sent.
            self.stuck_since = now;
            if self.clock == Clock::Persist {
                self.clock_at = self.clock_at.min(now + patience);
            }
        }
        self.discards = true;
        let unread = self.nxt - self.handed;
        (self.handed, self.credited) = (self.nxt, self.nxt);
        (self.ready, self.ready_size) = (VecDeque::new(), 0);
        self.ooo.clear();
        self.sacks = Sacks::default();
        unread
    }
}

impl<P: Port> Stack<P> {
    /// Closes. [`Event::Closed`] follows.
    pub fn close(&mut self, id: FlowId, how: Close) {
        let (now, patience) = (self.now, self.cfg.fin_timeout);
        let Some(f) = self.flow_mut(id) else { return };
        let phase = f.phase();
        if how == Close::Both {
            let unread = f.discard(now, patience);
            self.c.rx_discarded_bytes += unread;
        }
        match (how, phase) {
            (Close::Abort, _) => self.abort(id.slot, CloseWhy::LocalAbort),
            // Nothing was sent, so there is nothing to close in order (RFC 9293 §3.10.4).
            (_, Phase::Resolve | Phase::SynSent) => self.abort(id.slot, CloseWhy::LocalAbort),
            (Close::Both, Phase::Closed) => self.end(id.slot, CloseWhy::Fin),
            // Only the reader is left.
            (Close::Fin, Phase::Closed) => (),
            _ => {
                if let Some(f) = self.flow_mut(id) {
                    f.want_fin = true;
                }
                self.mark(id.slot);
            }
        }
    }

    /// Ends a connection with a RST.
    pub(crate) fn abort(&mut self, i: u32, why: CloseWhy) {
        let Some(mut f) = self.slots.get_mut(i as usize).and_then(|s| s.flow.take()) else { return };
        // In SYN-SENT there is nobody to tell (RFC 9293 §3.10.5), nor where no SYN-ACK was answered.
        let phase = f.phase();
        let mute = phase == Phase::SynReceived && why == CloseWhy::Timeout;
        f.shut();
        if !mute && !matches!(phase, Phase::Resolve | Phase::SynSent | Phase::Closed) {
            // smoltcp says whether a RST is due; where it is, the numbers are the shim's.
            if self.engine.poll(&mut f.sock).is_some_and(|m| m.flags & wire::RST != 0) {
                let r = Fields { win: 0, ..f.fields(f.snd_max(), wire::RST) };
                let o = OptBytes::plain(f.stamps.option(self.now));
                self.io.control(&f.tmpl, &r, &o, &mut self.c);
            }
        }
        if why == CloseWhy::LocalAbort {
            self.c.rx_discarded_bytes += f.discard(self.now, 0);
        }
        if let Some(s) = self.slots.get_mut(i as usize) {
            s.flow = Some(f);
        }
        self.end(i, why);
    }

    /// The one way a connection ends. Its place is free, nothing is sent or taken in any more, and every lending is let
    /// go. What came in order is kept for a reader until that has read it, and the first reason with it; where nothing
    /// is left to read, the connection is forgotten at once.
    pub(crate) fn end(&mut self, slot: u32, why: CloseWhy) {
        let id = self.id(slot);
        let Some(f) = self.at(slot) else { return };
        let first = f.why.is_none();
        let why = *f.why.get_or_insert(why);
        if f.ready.is_empty() {
            return self.release(slot, why);
        }
        f.shut();
        f.shadow.clear();
        f.ooo.clear();
        (f.waits, f.starved) = (false, false);
        f.set_clock(Clock::Off, u64::MAX);
        let (key, promise) = (f.key, std::mem::take(&mut f.rcv.promise));
        self.mem.forget(&promise);
        self.wheel.cancel(slot);
        if self.table.get(&key) == Some(Place::Flow(slot)) {
            self.table.remove(&key);
        }
        // A reader that waits for the peer waits in vain.
        if first {
            self.events.push_back(Event::Ended(id));
        }
    }

    /// Forgets a connection: every lending and buffer it held is let go, and the user is told if it knew of it.
    fn release(&mut self, slot: u32, why: CloseWhy) {
        let id = self.id(slot);
        let Some(f) = self.slots.get_mut(slot as usize).and_then(|s| {
            s.generation = s.generation.wrapping_add(1);
            s.flow.take()
        }) else {
            return;
        };
        if self.table.get(&f.key) == Some(Place::Flow(slot)) {
            self.table.remove(&f.key);
        }
        self.mem.forget(&f.rcv.promise);
        self.wheel.cancel(slot);
        self.idle.push(slot);
        self.live -= 1;
        self.c.closed += 1;
        if f.passive && !f.opened {
            self.c.half_open_lost += 1;
            self.half_open_done(f.listener);
        } else {
            self.events.push_back(Event::Closed { flow: id, why });
        }
    }

    pub(crate) fn half_open_done(&mut self, listener: u16) {
        if let Some(l) = self.listeners.get_mut(usize::from(listener)) {
            l.half_open = l.half_open.saturating_sub(1);
        }
    }
}
