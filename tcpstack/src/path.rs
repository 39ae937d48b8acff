//! What ICMP errors and silence do to connections (RFC 5927, RFC 1122 §4.2.3.9, RFC 1191, RFC 8201).
//!
//! Anybody can send an ICMP message. So one counts only when the segment it quotes is out: of a connection that
//! exists, with a sequence number that has been sent and is not acknowledged. Even then none ends a connection that
//! is open: it is remembered as the reason, should the peer stay silent. A dial is ended by what says that nobody
//! is there or that it is forbidden.

use dataplane::pkt::Port;

use crate::config::StackConfig;
use crate::ending::CloseWhy;
use crate::flow::Flow;
use crate::icmp_error::{Cause, Report};
use crate::phase::Phase;
use crate::pmtu::{Ev, FLOOR6, State, plateau};
use crate::segment::Cx;
use crate::seq::offset_of;
use crate::stack::Stack;
use crate::table::Place;
use crate::wire::HDR;

impl Flow {
    /// IP and TCP headers without options, in bytes.
    fn headers(&self) -> u16 {
        u16::from(self.tmpl.l3) + HDR as u16
    }

    /// The largest IP packet sent, in bytes.
    pub(crate) fn packet_size(&self) -> u16 {
        self.path.mss(self.headers()).saturating_add(self.headers())
    }

    /// Takes the MSS that the peer and the port allow, before what the path does.
    pub(crate) fn limit_mss(&mut self, mss: u16) {
        self.path.set_limit(mss);
        self.resize();
    }

    /// Brings the MSS in line with the path. Segments are cut when they are sent, so all that follows has it.
    pub(crate) fn resize(&mut self) {
        self.set_mss(self.path.mss(self.headers()));
    }

    fn path_event(&mut self, ev: Ev, cfg: &StackConfig, now: u64) -> bool {
        let floor = if self.tmpl.v6() { FLOOR6 } else { cfg.min_pmtu };
        let size = self.packet_size();
        let changed = self.path.step(ev, (size, floor), now);
        if changed {
            self.resize();
        }
        changed
    }

    /// The retransmission timer has run out. What the peer has no room for does not vanish on the path.
    pub(crate) fn on_silence(&mut self, cx: &mut Cx<'_>) {
        let full = (self.snd_max() - self.una).min(u64::from(self.wnd)) >= u64::from(self.mss);
        if full && self.path_event(Ev::Silent(self.rtt.backoff()), cx.cfg, cx.now) {
            cx.c.pmtu_black_holes += 1;
        }
    }

    /// The peer has acknowledged `n` bytes more.
    #[inline]
    pub(crate) fn on_arrival(&mut self, n: u64, cx: &mut Cx<'_>) {
        self.soft_error = false;
        let full = n >= u64::from(self.mss) && self.una >= self.trial_from + u64::from(self.mss);
        if self.path.state() == State::Trial && full {
            self.path_event(Ev::Arrived, cx.cfg, cx.now);
        }
    }

    /// Why a connection ends whose peer is silent.
    pub(crate) fn silent_why(&self) -> CloseWhy {
        let told = self.soft_error && self.phase() != Phase::SynReceived;
        if told { CloseWhy::Unreachable } else { CloseWhy::Timeout }
    }
}

impl<P: Port> Stack<P> {
    /// An ICMP error has come, with the right checksum; `None` when it is not about a segment.
    pub(crate) fn on_icmp_error(&mut self, r: Option<Report>) {
        self.judge(r, true);
    }

    /// `ask` says whether another stack of the node may know of the connection.
    pub(crate) fn judge(&mut self, r: Option<Report>, ask: bool) {
        let heeded = r.is_some_and(|r| {
            let looked_into = self.errors.take(self.now);
            let here = matches!(self.table.get(&r.key), Some(Place::Flow(_)));
            looked_into && if here { self.heed(&r) } else { ask && self.pass_error(&r) }
        });
        let c = &mut self.c;
        *if heeded { &mut c.icmp_errors } else { &mut c.icmp_errors_ignored } += 1;
    }

    fn heed(&mut self, r: &Report) -> bool {
        let Some(Place::Flow(i)) = self.table.get(&r.key) else { return false };
        let Some(f) = self.at(i) else { return false };
        match f.phase() {
            Phase::SynSent if r.seq == f.iss => match r.cause {
                Cause::Refused => self.abort(i, CloseWhy::Refused),
                Cause::Prohibited => self.abort(i, CloseWhy::Unreachable),
                Cause::Soft => f.soft_error = true,
                Cause::TooBig(_) => return false,
            },
            Phase::Resolve | Phase::SynSent | Phase::SynReceived | Phase::TimeWait | Phase::Closed => {
                return false;
            }
            _ => {
                let off = offset_of(r.seq, f.snd_seq(f.una), f.una);
                if off < f.una as i64 || off > f.snd_max() as i64 {
                    return false;
                }
                match r.cause {
                    Cause::TooBig(mtu) => return off < f.snd_max() as i64 && self.too_big(i, mtu, r.len),
                    // RFC 5927 §5.2: what would be hard is soft once both ends are synchronised.
                    Cause::Refused | Cause::Prohibited | Cause::Soft => f.soft_error = true,
                }
            }
        }
        true
    }

    /// A packet of `len` bytes was too big. What is out is sent again at once in smaller segments, without blaming
    /// congestion (RFC 1191 §6.4, RFC 8201 §5.4). What names more than was sent, or less than any path has, is not
    /// believed.
    fn too_big(&mut self, i: u32, mtu: u32, len: u16) -> bool {
        let (now, floor) = (self.now, self.cfg.min_pmtu);
        let Some(f) = self.slots.get_mut(i as usize).and_then(|s| s.flow.as_deref_mut()) else {
            return false;
        };
        let (v6, size) = (f.tmpl.v6(), f.packet_size());
        let mtu = if mtu == 0 && !v6 { plateau(len).max(floor) } else { mtu.min(65_535) as u16 };
        let floor = if v6 { FLOOR6 } else { floor };
        if len > self.io.mtu || mtu >= len || mtu < floor {
            self.c.pmtu_ignored += 1;
            return false;
        }
        if mtu >= size {
            return true; // about what went out before the last change
        }
        self.paths.learn(&f.key.remote, mtu, now);
        if f.path_event(Ev::TooBig(mtu), &self.cfg, now) {
            self.c.pmtu_lowered += 1;
            f.tx.too_big();
        }
        self.mark(i);
        true
    }

    /// What was learned of the path has aged: more is tried, unless another connection has heard since.
    pub(crate) fn path_due(&mut self, f: &mut Flow) {
        let heard = self.paths.get(&f.key.remote, self.now);
        match heard.filter(|_| matches!(f.path.state(), State::Told { .. })) {
            Some((mtu, until)) => f.path.tell(mtu, until),
            None => {
                f.trial_from = f.snd_max();
                self.c.pmtu_raised += u64::from(f.path_event(Ev::Tick, &self.cfg, self.now));
            }
        }
        f.resize();
    }
}
