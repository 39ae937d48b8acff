//! smoltcp's socket of a connection: the scaled stream that it sees, and the permissions that it gives.
//!
//! smoltcp copies what it sends and receives: once on each side, out of and into its phantom rings. None of it is
//! payload, but copying it took longer than all else that a packet of 9,000 bytes costs. So its stream is scaled, in
//! which one byte stands for [`UNIT`] bytes of ours:
//!
//! ```text
//!   our stream    0 ─────────── 256 ────────── 512 ───── 700 ── 768        push, ACK and window to the byte
//!   smoltcp's     │      0       │      1       │      2         │        sent:     rounded up, cut by the shim
//!                                                                          acked, received, read: rounded down
//! ```
//!
//! smoltcp's permissions are an upper bound, cut to the bytes that there are and to the peer's window
//! ([`SendSide::limit`]). So it is given up to [`AHEAD`] bytes more than were pushed, as far as the peer's window goes, and
//! while what it permits leads both directions ([`Scaled::leads`]) it is neither fed nor asked: it hears of everything
//! together when the next permission is wanted, or the connection's state changes. ACKs are due by the shim's own account;
//! the window that smoltcp opens is short of what it could be by less than a unit.

use super::recv::RecvSide;
use super::send::SendSide;
use crate::config::Counters;
use crate::engine::{Emission, Engine, FEED_MAX, Feed, State};
use crate::phantom::PhantomSocket;
use crate::seq::Seq;
use crate::table::Key;
use crate::wire;

/// Bytes of a connection's stream that one of smoltcp's stands for. Small against a segment, so that rounding
/// costs no segment its place in a window.
pub(crate) const UNIT: u64 = 256;
/// Bytes that smoltcp is given before they are pushed, at most: as many messages go without asking it again.
const AHEAD: u64 = 1 << 20;
/// Scale of the windows that smoltcp is fed, for a peer that scales: enough for any, in units.
const SCALE: u8 = 7;

const _: () = assert!((65_535 << SCALE) * UNIT >= 1 << 30);

/// The socket, and how far both sides of it are. Offsets are of our stream, in whole units.
pub(super) struct Scaled {
    sock: PhantomSocket,
    /// It has to be asked for segments whether or not there is other reason to.
    poll: bool,
    fin_permit: bool,
    fin_fed: bool,
    /// Window field that it was fed last.
    field: Option<u16>,
    /// Window scale that its SYN offers.
    offer_scale: Option<u8>,
    /// Our number on the wire less smoltcp's.
    delta: u32,
    /// Bytes may be sent up to `permit`, of those that it was given up to `given`: what was pushed, and some ahead.
    permit: u64,
    given: u64,
    /// Units that it knows to be acknowledged.
    acks: u64,
    /// It was fed received bytes up to here, and has acknowledged them up to there.
    fed: u64,
    acked: u64,
    /// Right edge of the window that may be offered.
    edge: u64,
    /// Units given back to its receive buffer.
    read: u64,
}

/// Scale of the windows that smoltcp is fed. Without a scale the peer's largest window is 256 units.
fn scaled_shift(peers: u8) -> u8 {
    if peers > 0 { SCALE } else { 0 }
}

impl Scaled {
    pub(super) fn new(sock: PhantomSocket) -> Scaled {
        Scaled {
            sock,
            poll: false,
            fin_permit: false,
            fin_fed: false,
            field: None,
            offer_scale: None,
            delta: 0,
            permit: 0,
            given: 0,
            acks: 0,
            fed: 0,
            acked: 0,
            edge: 0,
            read: 0,
        }
    }

    /// The connection's state.
    #[inline]
    pub(super) fn state(&self) -> State {
        self.sock.state()
    }

    /// Bytes up to this offset may be sent; they may be fewer than that.
    #[inline]
    pub(super) fn permit(&self) -> u64 {
        self.permit
    }

    /// Whether all that it was given may be sent.
    #[inline]
    pub(super) fn permits_all(&self) -> bool {
        self.permit == self.given
    }

    /// Whether the FIN may be sent.
    #[inline]
    pub(super) fn permits_fin(&self) -> bool {
        self.fin_permit
    }

    /// Right edge of the window that may be offered.
    #[inline]
    pub(super) fn edge(&self) -> u64 {
        self.edge
    }

    /// Window scale that our SYN offers.
    pub(super) fn offer_scale(&self) -> Option<u8> {
        self.offer_scale
    }

    /// Asks it for segments when the connection is served next.
    pub(super) fn ask(&mut self) {
        self.poll = true;
    }

    /// Whether it has to be asked, for another reason than that bytes wait.
    #[inline]
    pub(super) fn must_ask(&self) -> bool {
        self.poll
    }

    /// Closes our direction.
    pub(super) fn close(&mut self) {
        self.sock.with(|s| s.close());
        self.poll = true;
    }

    /// Ends the connection, whatever its state was.
    pub(super) fn abort(&mut self) {
        self.sock.with(|s| s.abort());
    }

    /// The next segment that it wants sent.
    #[inline]
    pub(super) fn emit(&mut self, e: &mut Engine) -> Option<Emission> {
        e.poll(&mut self.sock)
    }

    /// Units that the peer has acknowledged, our FIN counted: it stands behind all that smoltcp was given.
    #[inline]
    fn units_acked(&self, snd: &SendSide) -> u64 {
        if snd.fin_acked() { self.given / UNIT + 1 } else { snd.una() / UNIT }
    }

    /// The peer's window as smoltcp is fed it, from `acked` units on.
    #[inline]
    fn scaled_window(snd: &SendSide, acked: u64) -> u16 {
        let edge = snd.edge().div_ceil(UNIT);
        let field = edge.saturating_sub(acked).div_ceil(1 << scaled_shift(snd.scale()));
        field.min(65_535) as u16
    }

    /// Feeds the peer's SYN; `acks` says that it acknowledges ours. Whether smoltcp has taken it.
    pub(super) fn feed_syn(
        &mut self,
        (e, c, key): (&mut Engine, &mut Counters, &Key),
        (rcv, snd): (&RecvSide, &SendSide),
        acks: bool,
        scale: Option<u8>,
    ) -> bool {
        let f = Feed {
            seq: rcv.irs(),
            ack: acks.then(|| Seq(snd.seq(0).0.wrapping_sub(self.delta))),
            flags: wire::SYN,
            win: u64::from(snd.window()).div_ceil(UNIT) as u16,
            scale: scale.map(|_| scaled_shift(snd.scale())),
        };
        c.fed += 1;
        self.poll = true;
        let answer = e.feed(&mut self.sock, key, &f, 0);
        answer.is_none() && self.state() == if acks { State::Established } else { State::SynReceived }
    }

    /// Brings smoltcp up to date: acknowledgement, window, data in order, FIN. `false` when it does not take what
    /// it must.
    pub(super) fn feed(
        &mut self,
        (e, c, key): (&mut Engine, &mut Counters, &Key),
        rcv: &RecvSide,
        snd: &mut SendSide,
    ) -> bool {
        let acked = self.units_acked(snd);
        let win = Self::scaled_window(snd, acked);
        // The last unit is rarely full; the FIN closes it.
        let end = rcv.end();
        let upto = if rcv.fin_rcvd() { end } else { end / UNIT * UNIT };
        loop {
            let n = (upto - self.fed).div_ceil(UNIT).min(u64::from(FEED_MAX));
            let fed = (self.fed + n * UNIT).min(upto);
            let fin = rcv.fin_rcvd() && !self.fin_fed && fed == end;
            // A window alone matters only while there may be something to send; in LAST-ACK smoltcp would answer. One
            // that rounds to what it was would be a duplicate ACK, and three of them a loss.
            let window = snd.window_news() && Some(win) != self.field && self.hears_windows();
            if n == 0 && !fin && acked <= self.acks && !window {
                return true;
            }
            let f = Feed {
                seq: rcv.seq(self.fed.div_ceil(UNIT) + u64::from(self.fin_fed)),
                ack: Some(Seq(snd.seq(acked).0.wrapping_sub(self.delta))),
                flags: if fin { wire::FIN } else { 0 },
                win,
                scale: None,
            };
            let before = self.sock.get().recv_queue();
            c.fed += 1;
            let answer = e.feed(&mut self.sock, key, &f, n as u32);
            self.fed = fed;
            (self.acks, self.field) = (acked, Some(win));
            snd.window_fed();
            self.fin_fed |= fin;
            let taken = self.sock.get().recv_queue() == before + n as usize;
            if answer.is_some() || !taken || !self.has_taken(snd.fin_acked()) {
                return false;
            }
        }
    }

    fn hears_windows(&self) -> bool {
        matches!(self.state(), State::SynReceived | State::Established | State::CloseWait)
    }

    /// Whether smoltcp has taken what it was fed of the SYN's and the FINs' fate.
    fn has_taken(&self, acked: bool) -> bool {
        let fin = self.fin_fed;
        match self.state() {
            State::Established | State::FinWait2 => !fin,
            State::FinWait1 => !fin && !acked,
            State::CloseWait => fin,
            State::Closing | State::LastAck => fin && !acked,
            State::TimeWait | State::Closed => fin && acked,
            State::Listen | State::SynSent | State::SynReceived => false,
        }
    }

    /// Hands bytes pushed, and some ahead, to smoltcp as far as its buffer goes, and gives those `credited` back.
    #[inline]
    pub(super) fn exchange(&mut self, credited: u64, snd: &SendSide) {
        let mut give = (credited / UNIT - self.read) as usize;
        // Ahead only of what the peer's window takes at once: a FIN waits until all that smoltcp has may be sent.
        let (end, edge) = (snd.end(), snd.edge());
        let ahead = if snd.wants_fin() { 0 } else { edge.min(end + AHEAD) / UNIT };
        let mut want = end.div_ceil(UNIT).max(ahead).saturating_sub(self.given / UNIT) as usize;
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
        self.read += gave;
        self.given += taken * UNIT;
    }

    /// Takes in what smoltcp emitted. Whether it is a SYN.
    #[inline]
    pub(super) fn record(
        &mut self,
        m: &Emission,
        rcv: &mut RecvSide,
        snd: &SendSide,
        c: &mut Counters,
    ) -> bool {
        c.emitted += 1;
        if m.flags & wire::SYN != 0 {
            self.delta = snd.iss().0.wrapping_sub(m.seq.0);
            self.offer_scale = m.scale;
            self.edge = (u64::from(m.win) * UNIT).min(65_535);
            rcv.offer(self.edge, m.scale.unwrap_or(0));
            return true;
        }
        if m.flags & wire::RST != 0 {
            return false;
        }
        if m.plen > 0 {
            let seq = Seq(m.seq.0.wrapping_add(self.delta));
            let since = i64::from(seq.since(snd.seq(self.acks)));
            let unit = (self.acks as i64 + since).max(0) as u64;
            let (off, end) = (unit * UNIT, (unit + u64::from(m.plen)) * UNIT);
            if off < self.permit {
                c.smoltcp_resent += self.permit.min(end) - off;
            }
            self.permit = self.permit.max(end.min(self.given));
        }
        if m.flags & wire::FIN != 0 {
            self.fin_permit = true;
        }
        let ack = self.fed + u64::from(self.fin_fed);
        let news = ack > self.acked;
        self.acked = ack;
        // The field is rounded down, so smoltcp's own edge may step back by less than one step of the scale. A
        // window that is not scaled on the wire is not larger than a field.
        let scale = rcv.scale();
        let shift = if scale > 0 { m.shift } else { 0 };
        let win = (u64::from(m.win) << shift).saturating_sub((1 << shift) - 1) * UNIT;
        self.edge = self.edge.max(ack + win.min(65_535 << scale));
        // An ACK that it hears late may be on the wire already.
        if news && rcv.nxt() > rcv.acked() {
            rcv.ack_now();
        } else if !news && m.plen == 0 {
            rcv.ack_soon();
        }
        false
    }

    /// Whether asking smoltcp for segments can bring anything.
    #[inline]
    pub(super) fn wants_poll(&self, rcv: &RecvSide, snd: &SendSide, rx_window: u32) -> bool {
        // Bytes may be read, and credited, before smoltcp has seen them: it is fed when the flow is served.
        let held = self.fed.saturating_sub(rcv.credited());
        let window = u64::from(rx_window).saturating_sub(held);
        let offered = self.edge.saturating_sub(rcv.nxt());
        self.poll
            || (self.permit < self.given && self.permit < snd.edge())
            || self.acked < self.fed + u64::from(self.fin_fed)
            || (window / 2 >= offered && window > 0)
    }

    /// The window that it permits leads both directions: all that was pushed may be sent, and no window is wanted that it would have
    /// to open. Then nothing that it is told would change anything.
    #[inline]
    pub(super) fn leads(&self, rcv: &RecvSide, snd: &SendSide, rx_window: u32) -> bool {
        self.permit >= snd.end() && self.edge >= rcv.wish() && !self.wants_poll(rcv, snd, rx_window)
    }

    /// It is asked now.
    #[inline]
    pub(super) fn asked(&mut self) {
        self.poll = false;
    }
}
