//! Serving connections: those that have something to send or to hear, and those whose time has come.

use dataplane::pkt::Port;

use super::Stack;
use crate::config::Counters;
use crate::ending::CloseWhy;
use crate::flow::{Cx, Expiry, Flow, Served, Serving};
use crate::neighbour::{Ev, Lookup};
use crate::phase::Phase;

/// Starved connections looked at in one turn.
const STARVED_A_TURN: usize = 64;

/// Count of the port's refusals, and what was done all the same: to tell a connection that waits for the port from
/// one that gets on.
fn marks(c: &Counters) -> (u64, u64) {
    (c.tx_no_buffer + c.tx_deep, c.tx_segments + c.fed + c.emitted)
}

impl<P: Port> Stack<P> {
    /// A connection about to be served: its next hop is found, or followed where it has moved.
    #[inline]
    fn relink(&mut self, i: u32, f: &mut Flow) {
        if f.hop().is_known() {
            f.follow(self.link.neighbours());
            return;
        }
        match self.link.lookup(f.hop().addr(), self.now) {
            Lookup::Known(mac) => {
                f.hop_found(mac, self.link.neighbours().epoch());
                self.flows.resolves_no_more(i);
            }
            Lookup::Wait => self.flows.resolve(i),
        }
    }

    /// Serves whoever waited for a neighbour that is known by now; once a turn at most, and only after news.
    #[inline]
    pub(super) fn wake_resolved(&mut self) {
        if !self.flows.is_resolving() || !self.link.has_news() {
            return;
        }
        let near = self.link.neighbours();
        for i in self.flows.resolved(|f| near.peek(f.hop().addr()).is_some()) {
            self.flows.mark(i);
        }
    }

    /// Sends questions for neighbours that are due; whoever waits for one that is not there ends.
    #[inline]
    pub(super) fn poll_neighbours(&mut self) {
        if !self.link.is_due(self.now) {
            return;
        }
        let (link, mut around) = self.link();
        let dead = link.poll(&mut around);
        if dead.is_empty() {
            return;
        }
        self.datagrams.dead(&dead);
        for i in self.flows.resolved(|f| dead.contains(f.hop().addr())) {
            self.end(i, CloseWhy::Unresolved);
        }
    }

    /// Serves every connection on the list once.
    pub(super) fn serve_all(&mut self) -> u32 {
        let n = self.flows.dirty();
        self.uplink.stuck = 0;
        for _ in 0..n {
            match self.flows.next_dirty() {
                Some((i, Some(f))) => self.serve(i, f),
                Some((_, None)) => (),
                None => break,
            }
        }
        n as u32 - self.uplink.stuck
    }

    #[inline]
    fn serve(&mut self, i: u32, mut f: Box<Flow>) {
        self.relink(i, &mut f);
        if f.path_due(self.now) {
            self.path_due(&mut f);
        }
        let sent = f.sent();
        let before = marks(&self.c);
        let served = f.serve(&mut Serving {
            now: self.now,
            cfg: &self.cfg,
            engine: &mut self.engine,
            io: &mut self.io,
            mem: &mut self.mem,
            c: &mut self.c,
        });
        if f.sent() > sent {
            self.flows.tell_progress(i);
        }
        let (phase, again) = (f.phase(), served == Served::Again);
        let after = marks(&self.c);
        self.uplink.stuck += u32::from(again && after.0 > before.0 && after.1 == before.1);
        if f.is_starved() {
            self.c.window_starved += u64::from(self.flows.starve(i));
        }
        self.flows.put(i, f);
        if again {
            self.flows.mark(i);
        }
        match (served, phase) {
            (Served::Broken, _) => {
                self.c.desync += 1;
                self.abort(i, CloseWhy::Reset);
            }
            (Served::Done, Phase::TimeWait) => {
                // The rest is a table entry, once everything received has been read.
                if let Some(f) = self.flows.at(i) {
                    let e = f.time_wait();
                    self.flows.enter_time_wait(e, self.now);
                }
                self.end(i, CloseWhy::Fin);
            }
            (Served::Done, Phase::Closed) => self.end(i, CloseWhy::Fin),
            _ => self.arm(i),
        }
    }

    // ---- timers ----

    /// Sets the wheel to the earliest thing that connection `i` waits for, unless it wakes before anyway.
    pub(super) fn arm(&mut self, i: u32) {
        let Some(f) = self.flows.at(i) else { return };
        let at = f.deadline(self.cfg.keepalive.as_ref());
        self.flows.arm(i, at);
    }

    /// Runs what is due; at most `max` connections.
    pub(super) fn run_timers(&mut self, max: usize) -> u32 {
        self.poll_neighbours();
        self.flows.expire_time_waits(self.now);
        let fired = self.flows.fired(self.now, max);
        let n = fired.len() as u32;
        for i in &fired {
            self.on_timer(*i);
        }
        self.flows.fired_done(fired);
        n
    }

    fn on_timer(&mut self, i: u32) {
        let Some(f) = self.flows.at(i) else { return };
        let v6 = f.v6();
        let mut cx = Cx {
            now: self.now,
            cfg: &self.cfg,
            engine: &mut self.engine,
            c: &mut self.c,
            challenges: &mut self.challenges,
            mem: &mut self.mem,
            own_mss: self.io.mss(v6),
            super_max: self.io.super_max(v6),
            ooo_max: 0,
        };
        let expiry = f.on_timer(&mut cx);
        f.follow(self.link.neighbours());
        if f.doubts_hop() && matches!(expiry, Expiry::Syn | Expiry::Serve | Expiry::Probe) {
            self.link.event(f.hop().addr(), Ev::Doubt, self.now);
        }
        match expiry {
            Expiry::Early => (),
            Expiry::Syn | Expiry::Serve => self.flows.mark(i),
            Expiry::Probe => {
                f.probe(&mut self.io, &mut self.c);
            }
            Expiry::GiveUp => {
                let why = f.silent_why();
                return self.abort(i, why);
            }
        }
        self.arm(i);
    }

    /// Connections whose window was held back for want of pool memory get another look.
    pub(super) fn feed_starved(&mut self) {
        let n = self.flows.starved().min(STARVED_A_TURN);
        if n == 0 {
            return;
        }
        self.mem.refresh(self.io.port().rx_memory());
        let mss = self.io.mss(false);
        for _ in 0..n {
            let Some(i) = self.flows.next_starved() else { break };
            let Some(f) = self.flows.at(i) else { continue };
            let moved = f.advance_edge(&mut self.mem, self.now, mss);
            if f.is_starved() {
                self.flows.starve(i);
            }
            if moved {
                self.flows.mark(i);
            }
        }
    }
}
