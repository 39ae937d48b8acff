//! What smoltcp is shown of a connection, and what it says.
//!
//! smoltcp copies what it sends and receives: once on each side, out of and into its phantom rings. None of it is
//! payload, but copying it took longer than all else that a packet of 9,000 bytes costs. So it is shown a stream in
//! which one byte stands for [`UNIT`] bytes of ours:
//!
//! ```text
//!   our stream    0 ─────────── 256 ────────── 512 ───── 700 ── 768        push, ACK and window to the byte
//!   smoltcp's     │      0       │      1       │      2         │        sent:     rounded up, cut by the shim
//!                                                                          acked, received, read: rounded down
//! ```
//!
//! What smoltcp permits is an upper bound, cut to the bytes that there are and to the peer's window
//! ([`Flow::limit`]). What it is told of received bytes lags by less than a unit until the FIN, so ACKs are due by
//! the shim's own account; the window that it opens is short of what it could be by less than a unit.

use crate::config::Counters;
use crate::engine::{Emission, Engine, FEED_MAX, Feed, State};
use crate::flow::{AckDue, Flow};
use crate::seq::Seq;
use crate::wire;

/// Bytes of a connection's stream that one of smoltcp's stands for. Small against a segment, so that rounding
/// costs no segment its place in a window.
pub(crate) const UNIT: u64 = 256;
/// Scale of the windows that smoltcp is shown, for a peer that scales: enough for any, in units.
const SCALE: u8 = 7;

const _: () = assert!((65_535 << SCALE) * UNIT >= 1 << 30);

impl Flow {
    /// Scale of the windows that smoltcp is shown. Without a scale the peer's largest window is 256 units.
    fn shown_scale(&self) -> u8 {
        if self.snd_scale > 0 { SCALE } else { 0 }
    }

    /// Units that the peer has acknowledged, our FIN counted.
    fn units_acked(&self) -> u64 {
        let end = self.shadow.end();
        if self.fin_sent && self.una > end { end.div_ceil(UNIT) + 1 } else { self.una / UNIT }
    }

    /// The peer's window as smoltcp is shown it, from `acked` units on.
    fn shown_window(&self, acked: u64) -> u16 {
        let edge = (self.una.saturating_add(u64::from(self.wnd))).div_ceil(UNIT);
        let field = edge.saturating_sub(acked).div_ceil(1 << self.shown_scale());
        field.min(65_535) as u16
    }

    /// Feeds the peer's SYN.
    pub(crate) fn feed_syn(
        &mut self,
        e: &mut Engine,
        c: &mut Counters,
        acks: bool,
        scale: Option<u8>,
    ) -> Option<Emission> {
        let f = Feed {
            seq: self.irs,
            ack: acks.then(|| Seq(self.iss.plus(1).0.wrapping_sub(self.delta))),
            flags: wire::SYN,
            win: u64::from(self.wnd).div_ceil(UNIT) as u16,
            scale: scale.map(|_| self.shown_scale()),
        };
        c.fed += 1;
        self.poll = true;
        e.feed(&mut self.sock, &self.key, &f, 0)
    }

    /// Brings smoltcp up to date: acknowledgement, window, data in order, FIN. `false` when it does not take what
    /// it must.
    pub(crate) fn feed(&mut self, e: &mut Engine, c: &mut Counters) -> bool {
        let acked = self.units_acked();
        let win = self.shown_window(acked);
        // The last unit is rarely full; the FIN closes it.
        let upto = if self.fin_rcvd { self.nxt } else { self.nxt / UNIT * UNIT };
        loop {
            let n = (upto - self.fed).div_ceil(UNIT).min(u64::from(FEED_MAX));
            let fed = (self.fed + n * UNIT).min(upto);
            let fin = self.fin_rcvd && !self.fin_fed && fed == self.fin_at;
            // A window alone matters only while there may be something to send; in LAST-ACK smoltcp would answer. One
            // that rounds to what it was would be a duplicate ACK, and three of them a loss.
            let state = self.sock.get().state();
            let speaks = matches!(state, State::SynReceived | State::Established | State::CloseWait);
            let window = self.wnd_news && speaks && Some(win) != self.fed_win;
            if n == 0 && !fin && acked <= self.fed_acks && !window {
                return true;
            }
            let f = Feed {
                seq: self.rcv_seq(self.fed.div_ceil(UNIT) + u64::from(self.fin_fed)),
                ack: Some(Seq(self.snd_seq(acked).0.wrapping_sub(self.delta))),
                flags: if fin { wire::FIN } else { 0 },
                win,
                scale: None,
            };
            let before = self.sock.get().recv_queue();
            c.fed += 1;
            let answer = e.feed(&mut self.sock, &self.key, &f, n as u32);
            self.fed = fed;
            (self.fed_acks, self.fed_win) = (acked, Some(win));
            self.wnd_news = false;
            self.fin_fed |= fin;
            if answer.is_some() || self.sock.get().recv_queue() != before + n as usize || !self.taken() {
                return false;
            }
        }
    }

    /// Whether smoltcp has taken what it was fed of the SYN's and the FINs' fate.
    fn taken(&self) -> bool {
        let (acked, fin) = (self.fin_acked(), self.fin_fed);
        match self.sock.get().state() {
            State::Established | State::FinWait2 => !fin,
            State::FinWait1 => !fin && !acked,
            State::CloseWait => fin,
            State::Closing | State::LastAck => fin && !acked,
            State::TimeWait => fin && acked,
            State::Closed => fin && acked,
            State::Listen | State::SynSent | State::SynReceived => false,
        }
    }

    /// Hands pushed bytes to smoltcp as far as its buffer goes, and gives credited ones back.
    pub(crate) fn exchange(&mut self) {
        let mut give = (self.credited / UNIT - self.given) as usize;
        let mut want = (self.shadow.end().div_ceil(UNIT) - self.fed_end / UNIT) as usize;
        if give == 0 && want == 0 {
            return;
        }
        let (mut gave, mut taken) = (0, 0);
        self.sock.with(|s| {
            // Twice, for the rings' wrap.
            for _ in 0..2 {
                if give > 0 {
                    // Nothing when smoltcp has not been fed what was read.
                    let n = s.recv(|b| (b.len().min(give), b.len().min(give))).unwrap_or(0);
                    give -= n;
                    gave += n as u64;
                }
                if want > 0 {
                    let n = s.send(|b| (b.len().min(want), b.len().min(want))).unwrap_or(0);
                    want -= n;
                    taken += n as u64;
                }
            }
        });
        self.given += gave;
        self.fed_end += taken * UNIT;
    }

    /// Takes in what smoltcp emitted.
    pub(crate) fn record(&mut self, m: &Emission, c: &mut Counters) {
        c.emitted += 1;
        if m.flags & wire::SYN != 0 {
            self.delta = self.iss.0.wrapping_sub(m.seq.0);
            self.offer_scale = m.scale;
            self.rcv_scale = m.scale.unwrap_or(0);
            self.smol_edge = (u64::from(m.win) * UNIT).min(65_535);
            (self.wire_edge, self.sent_edge) = (self.smol_edge, self.smol_edge);
            self.syn_due = true;
            return;
        }
        if m.flags & wire::RST != 0 {
            return;
        }
        if m.plen > 0 {
            let seq = Seq(m.seq.0.wrapping_add(self.delta));
            let since = i64::from(seq.since(self.snd_seq(self.fed_acks)));
            let unit = (self.fed_acks as i64 + since).max(0) as u64;
            let (off, end) = (unit * UNIT, (unit + u64::from(m.plen)) * UNIT);
            if off < self.permit {
                c.smoltcp_resent += self.permit.min(end) - off;
            }
            self.permit = self.permit.max(end.min(self.fed_end));
        }
        if m.flags & wire::FIN != 0 {
            self.fin_permit = true;
        }
        let ack = self.fed + u64::from(self.fin_fed);
        let news = ack > self.smol_acked;
        self.smol_acked = ack;
        // The field is rounded down, so smoltcp's own edge may step back by less than one step of the scale. A
        // window that is not scaled on the wire is not larger than a field.
        let shift = if self.rcv_scale > 0 { m.shift } else { 0 };
        let win = (u64::from(m.win) << shift).saturating_sub((1 << shift) - 1) * UNIT;
        self.smol_edge = self.smol_edge.max(ack + win.min(65_535 << self.rcv_scale));
        if news || m.plen == 0 {
            self.ack_due = self.ack_due.max(if news { AckDue::Now } else { AckDue::Soon });
        }
    }

    /// Whether asking smoltcp for segments can bring anything.
    pub(crate) fn wants_poll(&self, rx_window: u32) -> bool {
        // Bytes may be read, and credited, before smoltcp has seen them: it is fed when the flow is served.
        let held = self.fed.saturating_sub(self.credited);
        let window = u64::from(rx_window).saturating_sub(held);
        let offered = self.smol_edge.saturating_sub(self.rcv_nxt());
        self.poll
            || (self.permit < self.fed_end && self.permit < self.una + u64::from(self.wnd))
            || self.smol_acked < self.fed + u64::from(self.fin_fed)
            || (window / 2 >= offered && window > 0)
    }
}
