//! Serving a connection: smoltcp is brought up to date and asked what may be sent; the shim sends it, and what
//! has to be sent again.

use dataplane::pkt::Port;

use crate::ending::CloseWhy;
use crate::flow::{Flow, Served, Serving};
use crate::phase::Phase;
use crate::stack::Stack;
use crate::uplink::marks;

impl<P: Port> Stack<P> {
    /// Serves every connection on the list once.
    pub(crate) fn serve_all(&mut self) -> u32 {
        let n = self.flows.dirty();
        self.stuck = 0;
        for _ in 0..n {
            match self.flows.next_dirty() {
                Some((i, Some(f))) => self.serve(i, f),
                Some((_, None)) => (),
                None => break,
            }
        }
        n as u32 - self.stuck
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
        self.stuck += u32::from(again && after.0 > before.0 && after.1 == before.1);
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
}
