//! Timers: resending, probing, giving up.

use dataplane::pkt::Port;

use crate::flow::{Cx, Rung};
use crate::neighbour::Ev;
use crate::stack::Stack;

/// Starved connections looked at in one turn.
const STARVED_A_TURN: usize = 64;

impl<P: Port> Stack<P> {
    /// Sets the wheel to the earliest thing that connection `i` waits for, unless it wakes before anyway.
    pub(crate) fn arm(&mut self, i: u32) {
        let Some(f) = self.flows.at(i) else { return };
        let at = f.deadline(self.cfg.keepalive.as_ref());
        self.flows.arm(i, at);
    }

    /// Runs what is due; at most `max` connections.
    pub(crate) fn run_timers(&mut self, max: usize) -> u32 {
        self.poll_neighbours();
        self.flows.expire_time_waits(self.now);
        let fired = self.flows.fired(self.now, max);
        let n = fired.len() as u32;
        for i in &fired {
            self.ring(*i);
        }
        self.flows.fired_done(fired);
        n
    }

    fn ring(&mut self, i: u32) {
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
        let rung = f.ring(&mut cx);
        f.follow(&self.neigh);
        let (hop, doubt, why) = (*f.hop().addr(), f.doubts_hop(), f.silent_why());
        match rung {
            Rung::Early => (),
            Rung::Syn | Rung::Serve => {
                if doubt {
                    self.neigh.event(&hop, Ev::Doubt, self.now);
                }
                self.flows.mark(i);
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
        let n = self.flows.starved().min(STARVED_A_TURN);
        if n == 0 {
            return;
        }
        self.mem.refresh(self.io.port.rx_memory());
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
