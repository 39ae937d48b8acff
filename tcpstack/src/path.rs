//! What ICMP errors and silence do to connections (RFC 5927, RFC 1122 §4.2.3.9, RFC 1191, RFC 8201).
//!
//! Anybody can send an ICMP message. So one counts only when the segment it quotes is out: of a connection that
//! exists, with a sequence number that has been sent and is not acknowledged. Even then none ends a connection that
//! is open: it is remembered as the reason, should the peer stay silent. A dial is ended by what says that nobody
//! is there or that it is forbidden.

use dataplane::pkt::Port;

use crate::flow::{Flow, Heeded};
use crate::icmp_error::Report;
use crate::pmtu::{FLOOR6, plateau};
use crate::stack::Stack;
use crate::table::Place;

impl<P: Port> Stack<P> {
    /// An ICMP error has come, with the right checksum; `None` when it is not about a segment.
    pub(crate) fn on_icmp_error(&mut self, r: Option<Report>) {
        self.judge(r, true);
    }

    /// `ask` says whether another stack of the node may know of the connection.
    pub(crate) fn judge(&mut self, r: Option<Report>, ask: bool) {
        let heeded = r.is_some_and(|r| {
            let looked_into = self.errors.take(self.now);
            let here = matches!(self.flows.find(&r.key), Some(Place::Flow(_)));
            looked_into && if here { self.heed(&r) } else { ask && self.pass_error(&r) }
        });
        let c = &mut self.c;
        *if heeded { &mut c.icmp_errors } else { &mut c.icmp_errors_ignored } += 1;
    }

    fn heed(&mut self, r: &Report) -> bool {
        let Some(Place::Flow(i)) = self.flows.find(&r.key) else { return false };
        match self.flows.at(i).map(|f| f.heed(r)) {
            None | Some(Heeded::No) => return false,
            Some(Heeded::Noted) => (),
            Some(Heeded::TooBig(mtu)) => return self.too_big(i, mtu, r.len),
            Some(Heeded::Ends(why)) => self.abort(i, why),
        }
        true
    }

    /// A packet of `len` bytes was too big. A size above what was sent, or below what any path has, is not believed.
    fn too_big(&mut self, i: u32, mtu: u32, len: u16) -> bool {
        let (now, floor) = (self.now, self.cfg.min_pmtu);
        let Some(f) = self.flows.at(i) else { return false };
        let (v6, size) = (f.v6(), f.packet_size());
        let mtu = if mtu == 0 && !v6 { plateau(len).max(floor) } else { mtu.min(65_535) as u16 };
        let floor = if v6 { FLOOR6 } else { floor };
        if len > self.io.mtu || mtu >= len || mtu < floor {
            self.c.pmtu_ignored += 1;
            return false;
        }
        if mtu >= size {
            return true; // about what went out before the last change
        }
        self.paths.learn(&f.key().remote, mtu, now);
        self.c.pmtu_lowered += u64::from(f.too_big(mtu, &self.cfg, now));
        self.flows.mark(i);
        true
    }

    /// What was learned of the path has aged: more is tried, unless another connection has heard since.
    pub(crate) fn path_due(&mut self, f: &mut Flow) {
        let heard = self.paths.get(&f.key().remote, self.now);
        self.c.pmtu_raised += u64::from(f.path_aged(heard, &self.cfg, self.now));
    }
}
