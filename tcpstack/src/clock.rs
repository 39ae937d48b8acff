//! Timers: resending, probing, giving up.

use dataplane::pkt::Port;

use crate::flow::{Clock, Flow};
use crate::neighbour::Ev;
use crate::phase::Phase;
use crate::segment::Cx;
use crate::sender::{Ctx, Rang};
use crate::stack::Stack;

/// Starved connections looked at in one turn.
const STARVED_A_TURN: usize = 64;

/// What a connection's timer leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rung {
    /// Nothing is due yet.
    Early,
    /// Something is to be sent.
    Serve,
    /// A probe is to be sent.
    Probe,
    /// It is over.
    GiveUp,
}

impl<P: Port> Stack<P> {
    /// Sets the wheel to the earliest thing that connection `i` waits for, unless it wakes before anyway.
    pub(crate) fn arm(&mut self, i: u32) {
        let ka = self.cfg.keepalive;
        let Some(f) = self.slots.get(i as usize).and_then(|s| s.flow.as_deref()) else { return };
        let at = f.clock_at.min(ka.map_or(u64::MAX, |k| f.keepalive_at(&k)));
        if at != u64::MAX && self.wheel.at(i).is_none_or(|w| w > at) {
            self.wheel.set(i, at);
        }
    }

    /// Runs what is due; at most `max` connections.
    pub(crate) fn run_timers(&mut self, max: usize) -> u32 {
        self.poll_neighbours();
        while let Some(e) = self.tw.expired(self.now) {
            self.table.remove(&e.key);
        }
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.expire(self.now, max, &mut fired);
        let n = fired.len() as u32;
        for i in fired.drain(..) {
            self.ring(i);
        }
        self.fired = fired;
        n
    }

    fn ring(&mut self, i: u32) {
        let Some(f) = self.slots.get_mut(i as usize).and_then(|s| s.flow.as_deref_mut()) else { return };
        let mut cx = Cx {
            now: self.now,
            cfg: &self.cfg,
            engine: &mut self.engine,
            c: &mut self.c,
            challenges: &mut self.challenges,
            mem: &mut self.mem,
            own_mss: self.io.mss(f.tmpl.v6()),
            super_max: self.io.super_max(f.tmpl.v6()),
            ooo_max: 0,
        };
        let rung = f.ring(&mut cx);
        f.follow(&self.neigh);
        let (hop, doubt, why) = (f.next_hop, f.rtt.backoff() == 2, f.silent_why());
        match rung {
            Rung::Early => (),
            Rung::Serve => {
                if doubt {
                    self.neigh.event(&hop, Ev::Doubt, self.now);
                }
                self.mark(i);
            }
            Rung::Probe => {
                f.probe(&mut self.io, &mut self.c);
            }
            Rung::GiveUp => return self.abort(i, why),
        }
        self.arm(i);
    }

    /// Connections whose window was held back for want of pool memory get another look.
    pub(crate) fn feed_starved(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        self.mem.refresh(self.io.port.rx_memory());
        for _ in 0..self.starved.len().min(STARVED_A_TURN) {
            let Some(i) = self.starved.pop_front() else { break };
            let mss = self.io.mss(false);
            let slot = self.slots.get_mut(i as usize);
            let Some(f) =
                slot.and_then(|s| s.flow.as_deref_mut()).filter(|f| f.waits && f.phase() != Phase::Resolve)
            else {
                continue;
            };
            let moved = f.advance_edge(&mut self.mem, self.now, mss);
            f.waits = f.starved;
            if moved && f.window_news() {
                f.ack_due = crate::flow::AckDue::Now;
            }
            if f.starved {
                self.starved.push_back(i);
            }
            if moved {
                self.mark(i);
            }
        }
    }
}

impl Flow {
    pub(crate) fn keepalive_at(&self, k: &crate::config::KeepAlive) -> u64 {
        let idle = self.phase().synchronised() && self.una == self.snd_max();
        if idle { self.last_rx + k.idle + u64::from(self.probes) * k.interval } else { u64::MAX }
    }

    fn ring(&mut self, cx: &mut Cx<'_>) -> Rung {
        if self.clock_at <= cx.now {
            return self.ring_clock(cx);
        }
        let Some(k) = cx.cfg.keepalive.filter(|k| self.keepalive_at(k) <= cx.now) else { return Rung::Early };
        if self.probes >= k.count {
            return Rung::GiveUp;
        }
        self.probes += 1;
        cx.c.keepalive_probes += 1;
        Rung::Probe
    }

    fn ring_clock(&mut self, cx: &mut Cx<'_>) -> Rung {
        let stuck = cx.now.saturating_sub(self.stuck_since) > cx.cfg.user_timeout;
        let rto = self.rtt.rto(&cx.cfg.rto);
        match self.clock {
            Clock::Off => {
                self.clock_at = u64::MAX;
                Rung::Early
            }
            Clock::Syn if self.passive && self.tries >= cx.cfg.synack_retries => Rung::GiveUp,
            Clock::Syn if self.tries >= cx.cfg.syn_retries => Rung::GiveUp,
            Clock::Syn => {
                self.tries += 1;
                self.syn_due = true;
                self.clock_at = cx.now + rto;
                Rung::Serve
            }
            Clock::Data if stuck && (self.discards || !self.shrunk_by_a_live_peer(cx)) => Rung::GiveUp,
            Clock::Data => self.ring_data(cx),
            // Closed for good, and the peer may not hold that up by a shut window (Linux has a bound for its orphans, too).
            Clock::Persist
                if self.discards && cx.now.saturating_sub(self.stuck_since) >= cx.cfg.fin_timeout =>
            {
                Rung::GiveUp
            }
            // A peer that answers may keep its window shut for ever (RFC 9293 §3.8.6.1).
            Clock::Persist if cx.now.saturating_sub(self.last_rx) > cx.cfg.user_timeout && stuck => {
                Rung::GiveUp
            }
            Clock::Persist => {
                self.tries = self.tries.saturating_add(1);
                cx.c.window_probes += 1;
                let wait = rto.saturating_mul(1 << self.tries.min(16)).min(cx.cfg.rto.max);
                self.clock_at = cx.now + wait;
                if self.discards {
                    self.clock_at = self.clock_at.min(self.stuck_since + cx.cfg.fin_timeout);
                }
                Rung::Probe
            }
            // A peer that still sends after our FIN is not lost, where it is read.
            Clock::Fin if !self.discards && cx.now < self.last_rx + cx.cfg.fin_timeout => {
                self.clock_at = self.last_rx + cx.cfg.fin_timeout;
                Rung::Early
            }
            Clock::Fin => Rung::GiveUp,
        }
    }

    /// What is out lies beyond the window since the peer took some of it back, and the peer still answers: it may
    /// for as long as it likes (RFC 9293 §3.8.6, SHLD-17, and §3.8.6.1, MUST-37).
    fn shrunk_by_a_live_peer(&self, cx: &Cx<'_>) -> bool {
        let beyond = self.una + u64::from(self.wnd) < self.snd_max();
        beyond && cx.now.saturating_sub(self.last_rx) <= cx.cfg.user_timeout
    }

    /// Nothing was heard of what is out: the reordering window is over, a probe or a time-out is due.
    fn ring_data(&mut self, cx: &mut Cx<'_>) -> Rung {
        let new_data = self.sent < self.limit();
        let mss = u32::from(self.mss);
        let mut k = Ctx { now: cx.now, mss, rtt: &mut self.rtt, limits: &cx.cfg.rto };
        let rang = self.tx.ring(new_data, &mut k);
        self.set_clock(Clock::Data, self.tx.deadline());
        match rang {
            Rang::Early => return Rung::Early,
            Rang::Timeout => {
                cx.c.rto += 1;
                self.stats.rto += 1;
                self.on_silence(cx);
            }
            Rang::Probe => {
                cx.c.tlp_probes += 1;
                self.stats.tlp_probes += 1;
            }
            Rang::Reorder { entered } => {
                cx.c.fast_recoveries += u64::from(entered);
                self.stats.fast_recoveries += u64::from(entered);
            }
        }
        Rung::Serve
    }
}
