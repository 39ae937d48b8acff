//! Serving a connection: smoltcp is brought up to date and asked what may be sent; what is lost goes out first, then
//! what is new, each as far as the congestion window goes, then ACKs.

use dataplane::pkt::Port;

use super::Flow;
use super::timers::Clock;
use crate::config::{Counters, StackConfig};
use crate::engine::Engine;
use crate::io::{Io, Run};
use crate::memory::Memory;
use crate::opts::{OptBytes, TS_LEN};
use crate::phase::Phase;
use crate::scoreboard::RECORD_MAX;
use crate::seq::Seq;
use crate::wire::{self, Fields};

/// Segments taken from smoltcp for one connection in one turn at most.
const EMISSIONS: usize = 64;

/// Outcome of serving a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    Done,
    /// More to do at the next turn.
    Again,
    /// smoltcp did not take what it must, or the connection cannot go on.
    Broken,
}

/// The stack, as far as serving a connection needs it.
pub(crate) struct Serving<'a, P: Port> {
    pub(crate) now: u64,
    pub(crate) cfg: &'a StackConfig,
    pub(crate) engine: &'a mut Engine,
    pub(crate) io: &'a mut Io<P>,
    pub(crate) mem: &'a mut Memory,
    pub(crate) c: &'a mut Counters,
}

impl Flow {
    /// Brings smoltcp up to date, and sends as far as it, the peer and the port go.
    #[inline]
    pub(crate) fn serve<P: Port>(&mut self, cx: &mut Serving<'_, P>) -> Served {
        let mut phase = self.phase();
        if matches!(phase, Phase::Resolve | Phase::Closed) {
            return Served::Done;
        }
        let window = cx.engine.rx_window();
        let mut served = Served::Done;
        let unacked = self.rcv.nxt() - self.rcv.acked();
        // While the state is what it was and its permissions lead, smoltcp need not hear of each turn.
        let alone = phase == Phase::Established
            && !self.snd.wants_fin()
            && self.scaled.leads(&self.rcv, &self.snd, window);
        if alone {
            if unacked > 0 {
                if self.may_wait(phase, unacked) {
                    self.rcv.ack_soon();
                    return Served::Again;
                }
                self.rcv.ack_now();
            }
        } else {
            if !matches!(phase, Phase::SynSent | Phase::SynReceived)
                && !self.scaled.feed((cx.engine, cx.c, &self.key), &self.rcv, &mut self.snd)
            {
                return Served::Broken;
            }
            self.scaled.exchange(self.rcv.credited(), &self.snd);
            let closes = self.snd.wants_fin() && phase.may_send();
            if closes && self.permits_end() {
                // Only now: smoltcp does not take a window in LAST-ACK while bytes are unsent.
                self.scaled.close();
                phase = self.phase();
            }
            // smoltcp's account of received bytes lags ([`super::scaled`]), so it is not asked whether to acknowledge.
            let asks = self.scaled.wants_poll(&self.rcv, &self.snd, window);
            if (unacked > 0 || asks) && self.may_wait(phase, unacked) {
                self.rcv.ack_soon();
                return Served::Again;
            }
            if unacked > 0 {
                self.rcv.ack_now();
            }
            if asks && !self.take_permissions(cx) {
                served = Served::Again;
            }
            if closes && phase.may_send() && self.permits_end() {
                served = Served::Again; // everything is permitted now: the FIN is next
            }
        }
        let mss = cx.io.mss(false);
        self.rcv.advance_edge(self.scaled.edge(), cx.mem, cx.now, mss, &mut self.stats);
        if phase.synchronised() {
            self.seen.windows(self.snd.window() == 0, self.rcv.window_field() == 0, cx.now);
        }
        match self.transmit(phase, cx) {
            Ok(()) => served,
            Err(other) => other,
        }
    }

    /// Asks smoltcp for segments; `false` when it has more of them.
    #[inline]
    fn take_permissions<P: Port>(&mut self, cx: &mut Serving<'_, P>) -> bool {
        self.scaled.asked();
        for _ in 0..EMISSIONS {
            let Some(m) = self.scaled.emit(cx.engine) else { return true };
            self.syn_due |= self.scaled.record(&m, &mut self.rcv, &self.snd, cx.c);
            if m.plen == 0 || self.scaled.permits_all() {
                return true;
            }
        }
        false
    }

    /// Whether smoltcp permits all that it was given, and it was given all that was pushed.
    #[inline]
    fn permits_end(&self) -> bool {
        self.scaled.permits_all() && self.scaled.permit() >= self.snd.end()
    }

    /// Whether the only thing to say is an ACK of little, which may go with data at the next turn.
    #[inline]
    fn may_wait(&self, phase: Phase, unacked: u64) -> bool {
        self.rcv.only_bytes_due()
            && !self.scaled.must_ask()
            && !self.snd.has_lost()
            && unacked > 0
            && unacked < 2 * u64::from(self.snd.mss())
            && self.scaled.permit() >= self.snd.end()
            && self.snd.sent() == self.snd.limit(self.scaled.permit())
            && phase.may_send()
    }

    #[inline]
    fn transmit<P: Port>(&mut self, phase: Phase, cx: &mut Serving<'_, P>) -> Result<(), Served> {
        if self.syn_due {
            return self.send_syn(phase, cx);
        }
        let (io, c, cfg) = (&mut *cx.io, &mut *cx.c, cx.cfg);
        match phase {
            // A challenge, or where we are: the handshake itself sends no plain ACK.
            Phase::SynReceived => return self.send_acks(io, c),
            Phase::Resolve | Phase::SynSent => return Ok(()),
            _ => (),
        }
        let sent = self
            .resend(io, c, cfg)
            .and_then(|()| self.send_new(io, c, cfg))
            .and_then(|()| self.send_acks(io, c));
        if !self.snd.is_quiet() {
            self.timers.set(Clock::Data, self.snd.deadline());
        }
        sent?;
        if self.snd.is_shut(self.scaled.permit()) {
            self.timers.shut(cx.now, self.snd.rtt().rto(&cfg.rto));
        }
        Ok(())
    }

    fn send_syn<P: Port>(&mut self, phase: Phase, cx: &mut Serving<'_, P>) -> Result<(), Served> {
        // Ours offers; an answer takes of the peer's offers those that it has in common with us.
        let first = phase == Phase::SynSent;
        let (flags, ack) = if first { (wire::SYN, Seq(0)) } else { (wire::SYN | wire::ACK, self.rcv.seq(0)) };
        let win = self.scaled.edge().min(65_535) as u16;
        let ts = if first {
            cx.cfg.timestamps.then(|| self.stamps.offer(cx.now))
        } else {
            self.stamps.option(cx.now)
        };
        let sack = if first { cx.cfg.sack } else { self.rcv.sack() };
        let o = OptBytes::syn(cx.io.mss(self.v6()), sack, ts, self.scaled.offer_scale());
        let f = Fields { seq: self.snd.iss(), ack, flags, win };
        if !cx.io.control(self.hop.tmpl(), &f, &o, cx.c) {
            return Err(Served::Again);
        }
        self.syn_due = false;
        self.count_out(0);
        cx.c.syn_resent += u64::from(self.timers.syn_sent(cx.now, cx.cfg.rto.initial));
        Ok(())
    }

    /// Counts a frame that was sent with `bytes` of payload.
    #[inline]
    fn count_out(&mut self, bytes: u32) {
        let segs = self.snd.segments(bytes);
        self.stats.segs_out += segs;
        if bytes > 0 {
            self.stats.data_segs_out += segs;
            self.stats.bytes_sent += u64::from(bytes);
        }
    }

    /// Header fields of a segment at offset `off`.
    #[inline]
    pub(super) fn fields(&self, off: u64, flags: u8) -> Fields {
        Fields {
            seq: self.snd.seq(off),
            ack: self.rcv.seq(self.rcv.nxt()),
            flags: wire::ACK | flags,
            win: self.rcv.window_field(),
        }
    }

    #[inline]
    fn options(&self, now: u64, bare: bool) -> OptBytes {
        self.rcv.options(&self.stamps, now, bare)
    }

    /// An ACK is out, with `bare` options or those of payload.
    #[inline]
    fn acked_now(&mut self, bare: bool, now: u64, c: &mut Counters) {
        self.rcv.acked_now(&self.stamps, (bare, now), c, &mut self.stats);
    }

    /// Frames with bytes from `off` to `end`: one, or more with `most` bytes together. Returns what went, and how much
    /// in each segment.
    #[inline]
    fn data_frames<P: Port>(
        &mut self,
        io: &mut Io<P>,
        c: &mut Counters,
        (off, end, most): (u64, u64, u32),
    ) -> Result<(u32, u32), Served> {
        let (f, o) = (self.fields(off, 0), self.options(io.now(), false));
        let mss = self.snd.room_beside(&o);
        // SACK blocks are sent once.
        let most = if o.len() > usize::from(TS_LEN) { 0 } else { most };
        let run = Run { off, end, mss, most };
        match io.data(self.hop.tmpl(), &f, &o, self.snd.queue(), &run, c) {
            None => Err(Served::Again),
            Some(0) => Err(Served::Broken),
            Some(n) => {
                self.count_out(n);
                self.acked_now(false, io.now(), c);
                Ok((n, mss))
            }
        }
    }

    fn fin_frame<P: Port>(&mut self, io: &mut Io<P>, c: &mut Counters) -> Result<(), Served> {
        let f = self.fields(self.snd.end(), wire::FIN);
        if !io.control(self.hop.tmpl(), &f, &self.options(io.now(), true), c) {
            return Err(Served::Again);
        }
        self.count_out(0);
        self.acked_now(true, io.now(), c);
        Ok(())
    }

    #[inline]
    fn resend<P: Port>(&mut self, io: &mut Io<P>, c: &mut Counters, cfg: &StackConfig) -> Result<(), Served> {
        while let Some(lost) = self.snd.next_lost() {
            if io.deep(c) {
                return Err(Served::Again);
            }
            let Some(r) = self.snd.grant_lost(&lost) else { break };
            let (n, mss) = if r.start < r.end {
                self.data_frames(io, c, (r.start, r.end, 0))?
            } else {
                self.fin_frame(io, c)?;
                (1, u32::from(self.snd.mss()))
            };
            self.snd.sent_again(n, mss, io.now(), &cfg.rto);
            c.tx_resent += 1;
            c.tx_resent_bytes += u64::from(n);
            self.stats.resent += 1;
            self.stats.resent_bytes += u64::from(n);
        }
        Ok(())
    }

    #[inline]
    fn send_new<P: Port>(
        &mut self,
        io: &mut Io<P>,
        c: &mut Counters,
        cfg: &StackConfig,
    ) -> Result<(), Served> {
        let (now, permit) = (io.now(), self.scaled.permit());
        while self.snd.sent() < self.snd.limit(permit) && !self.snd.has_lost() {
            if io.deep(c) {
                return Err(Served::Again);
            }
            let Some(n) = self.snd.grant_new(permit, now, &cfg.rto) else { break };
            if self.snd.is_quiet() {
                self.timers.wait_from(now);
            }
            let from = self.snd.sent();
            let (n, mss) = self.data_frames(io, c, (from, from + n, RECORD_MAX))?;
            self.snd.sent_new(n, mss, now, &cfg.rto);
            self.seen.sent(now);
        }
        if self.scaled.permits_fin() && self.snd.fin_is_next() {
            self.fin_frame(io, c)?;
            self.timers.wait_from(now);
            self.snd.fin_went(now, &cfg.rto);
        }
        Ok(())
    }

    #[inline]
    fn send_acks<P: Port>(&mut self, io: &mut Io<P>, c: &mut Counters) -> Result<(), Served> {
        while self.rcv.owes() {
            if io.deep(c) {
                return Err(Served::Again);
            }
            let f = self.fields(self.snd.nxt(), 0);
            if !io.control(self.hop.tmpl(), &f, &self.options(io.now(), true), c) {
                return Err(Served::Again);
            }
            c.tx_pure_acks += 1;
            self.count_out(0);
            self.rcv.dup_ack_sent();
            self.acked_now(true, io.now(), c);
        }
        Ok(())
    }

    /// Sends a segment without data, one before what is next: whoever gets it answers with an ACK.
    pub(crate) fn probe<P: Port>(&mut self, io: &mut Io<P>, c: &mut Counters) -> bool {
        let mut f = self.fields(self.snd.una(), 0);
        f.seq = Seq(f.seq.0.wrapping_sub(1));
        self.count_out(0);
        io.control(self.hop.tmpl(), &f, &self.options(io.now(), true), c)
    }
}
