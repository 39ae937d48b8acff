//! A segment for a connection: judged (RFC 9293 §3.10.7, RFC 5961), and taken in by its parts before smoltcp sees the
//! normalised form.

use hugepages::RxFrag;

use super::Flow;
use crate::config::{Counters, StackConfig};
use crate::engine::Engine;
use crate::limit::Budget;
use crate::memory::Memory;
use crate::opts::Opts;
use crate::phase::Phase;
use crate::stamps::Verdict as Stamped;
use crate::wire::{self, Seg};

use super::timers::Clock;

/// Changes that a segment brought, for the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The connection is open now.
    pub(crate) opened: bool,
    /// The peer has acknowledged bytes.
    pub(crate) acked: bool,
    /// Bytes received in order.
    pub(crate) received: u64,
    /// The peer's FIN is in.
    pub(crate) fin: bool,
}

/// Fate of a connection, or of a segment, that ends here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The peer refused our SYN.
    Refused,
    /// The peer reset the connection.
    Reset,
    /// The peer deserves a RST for this segment; the connection stays.
    Reject,
    /// smoltcp did not take what it must.
    Broken,
}

/// The stack, as far as a connection's input and timers need it.
pub(crate) struct Cx<'a> {
    pub(crate) now: u64,
    pub(crate) cfg: &'a StackConfig,
    pub(crate) engine: &'a mut Engine,
    pub(crate) c: &'a mut Counters,
    pub(crate) challenges: &'a mut Budget,
    pub(crate) mem: &'a mut Memory,
    pub(crate) own_mss: u16,
    pub(crate) super_max: u32,
    /// Pool memory that out-of-order data may occupy now, in bytes.
    pub(crate) ooo_max: u64,
}

impl Flow {
    /// Takes in a segment. `frags` holds its payload; what is not kept is left in it.
    #[inline]
    pub(crate) fn on_segment(
        &mut self,
        s: &Seg,
        o: &Opts,
        frags: &mut Vec<RxFrag>,
        cx: &mut Cx<'_>,
    ) -> Result<Changes, Fate> {
        cx.c.rx_segments += 1;
        self.stats.segs_in += 1;
        let (una, end) = (self.snd.una(), self.rcv.end());
        let fin = match self.phase() {
            Phase::Resolve | Phase::Closed | Phase::TimeWait => false,
            Phase::SynSent => self.in_syn_sent(s, o, cx)?,
            phase => self.in_sync(phase == Phase::SynReceived, s, o, frags, cx)?,
        };
        let opened = !self.opened && self.phase().synchronised();
        if opened {
            self.opened = true;
            self.rcv.opened(cx.mem, cx.now);
        }
        Ok(Changes { opened, acked: self.snd.una() > una, received: self.rcv.end() - end, fin })
    }

    fn in_syn_sent(&mut self, s: &Seg, o: &Opts, cx: &mut Cx<'_>) -> Result<bool, Fate> {
        let acked = s.has(wire::ACK) && s.ack == self.snd.seq(0);
        if s.has(wire::RST) {
            cx.c.rx_bad_rst += u64::from(!acked);
            return if acked { Err(Fate::Refused) } else { Ok(false) };
        }
        if s.has(wire::ACK) && !acked {
            // An old connection of the peer's (RFC 9293 §3.5.2): the RST ends it, then our SYN is tried again.
            cx.c.rx_ack_unsent += 1;
            self.timers.syn_again(cx.now);
            return Err(Fate::Reject);
        }
        if !s.has(wire::SYN) {
            return Ok(false);
        }
        self.take_syn(s, o, cx.cfg, cx.own_mss, cx.now);
        self.timers.syn_heard(cx.now);
        if o.scale.is_none() {
            self.rcv.unscaled();
        }
        let taken =
            self.scaled.feed_syn((cx.engine, cx.c, &self.key), (&self.rcv, &self.snd), acked, o.scale);
        if acked {
            self.syn_answered(cx.now);
            self.rcv.ack_now();
        }
        if !taken {
            cx.c.desync += 1;
            return Err(Fate::Refused);
        }
        Ok(false)
    }

    /// The SYN needs no resending any more; its round trip is the first sample unless it was sent twice.
    fn syn_answered(&mut self, now: u64) {
        let first = self.timers.syn_answered(now);
        self.snd.open(first, now);
    }

    /// Answers a segment that may be forged (RFC 5961 §3 to §5), within the connection's limit and the stack's.
    fn challenge(&mut self, cx: &mut Cx<'_>) {
        if !self.timers.may_challenge(cx.now) || !cx.challenges.take(cx.now) {
            cx.c.challenge_limited += 1;
            return;
        }
        self.answer(cx);
    }

    /// Answers a segment without data that is out of place: a keep-alive, a probe, or the start of a loop of ACKs
    /// between two ends that disagree. The stack's limit is not for it, or strangers could silence it.
    fn answer(&mut self, cx: &mut Cx<'_>) {
        if !self.timers.may_challenge(cx.now) {
            cx.c.challenge_limited += 1;
            return;
        }
        self.timers.challenged(cx.now);
        self.rcv.ack_now();
        cx.c.challenge_acks += 1;
    }

    /// A segment after the peer's SYN; `embryo` says that ours is not acknowledged yet. Whether the peer's FIN is in with it.
    #[inline]
    fn in_sync(
        &mut self,
        embryo: bool,
        s: &Seg,
        o: &Opts,
        frags: &mut Vec<RxFrag>,
        cx: &mut Cx<'_>,
    ) -> Result<bool, Fate> {
        let mut s = *s;
        let nxt = self.rcv.nxt();
        let d = s.seq.since(self.rcv.seq(nxt));
        let window = self.rcv.window_left();
        if s.has(wire::RST) {
            // RFC 5961 §3: exactly next resets, elsewhere in the window is challenged, outside is nothing.
            if d == 0 {
                return Err(Fate::Reset);
            }
            cx.c.rx_bad_rst += 1;
            if d > 0 && (d as u64) < window {
                self.challenge(cx);
            }
            return Ok(false);
        }
        if s.has(wire::SYN) {
            let same = embryo && s.seq == self.rcv.irs();
            if same && !s.has(wire::ACK) {
                // Our SYN-ACK was lost.
                self.syn_due = true;
                self.stamps.take(o.ts, cx.now);
                return Ok(false);
            }
            if !same || s.plen > 0 {
                // RFC 5961 §4.
                self.challenge(cx);
                return Ok(false);
            }
            // Simultaneous open: the peer's SYN-ACK is the ACK of our SYN.
            s.flags &= !wire::SYN;
            s.seq = s.seq.plus(1);
            s.win >>= self.snd.scale(); // a SYN's window is not scaled
        }
        match self.stamps.judge(o.ts, cx.now) {
            Stamped::Fine => (),
            Stamped::Missing => cx.c.ts_missing += 1,
            Stamped::Old => {
                cx.c.paws_rejected += 1;
                if s.plen > 0 || s.has(wire::FIN) {
                    let start = nxt as i64 + i64::from(d);
                    let end = (start + i64::from(s.plen)).min(self.rcv.end() as i64);
                    self.rcv.note_duplicate(start, end);
                    self.rcv.ack_now();
                } else {
                    self.answer(cx);
                }
                return Ok(false);
            }
        }
        if !s.has(wire::ACK) {
            cx.c.rx_malformed += 1;
            return Ok(false);
        }
        let a = self.snd.offset_of(s.ack);
        // Our SYN runs from when it was first sent: before that nobody can have seen its number.
        if embryo && (a != 0 || self.timers.clock() != Clock::Syn) {
            cx.c.rx_ack_unsent += 1;
            return Err(Fate::Reject);
        }
        if a > self.snd.nxt() as i64 {
            cx.c.rx_ack_unsent += 1;
            self.challenge(cx);
            return Ok(false);
        }
        if a < self.snd.oldest() {
            cx.c.rx_ack_old += 1;
            self.challenge(cx);
            return Ok(false);
        }
        let d = i64::from(s.seq.since(self.rcv.seq(nxt)));
        if d > window as i64 {
            cx.c.rx_beyond_window += 1;
            if s.plen > 0 {
                self.rcv.ack_now();
            } else {
                self.answer(cx);
            }
            return Ok(false);
        }
        if embryo {
            self.syn_answered(cx.now);
            self.snd.feed_window();
        }
        self.timers.heard(cx.now);
        let start = nxt as i64 + d;
        let acked = self.rcv.acked() as i64;
        if start <= acked && start + i64::from(s.plen) >= acked {
            self.stamps.take(o.ts, cx.now);
        }
        let news = self.on_ack(&s, o, a, cx);
        let mut fin = false;
        if s.plen > 0 || s.has(wire::FIN) {
            if s.plen > 0 {
                self.stats.data_segs_in += 1;
                self.seen.received(cx.now);
            }
            fin = self.rcv.on_payload((&s, o, start), frags, &mut self.stats, cx);
        } else if d < 0 {
            // A keep-alive or window probe, or an old ACK: the answer says where we are.
            self.answer(cx);
        }
        // A change of state is fed at once: smoltcp's socket says which state that is.
        if embryo || fin || (news && self.snd.fin_acked()) {
            self.change_state(cx)?;
        }
        Ok(fin)
    }

    /// Feeds smoltcp the ACK of our SYN or FIN, or the peer's FIN.
    #[cold]
    fn change_state(&mut self, cx: &mut Cx<'_>) -> Result<(), Fate> {
        if self.snd.fin_acked() && self.rcv.fin_rcvd() {
            self.timers.stop();
        }
        if self.scaled.feed((cx.engine, cx.c, &self.key), &self.rcv, &mut self.snd) {
            Ok(())
        } else {
            Err(Fate::Broken)
        }
    }

    /// Takes in the ACK of offset `a`, which is none of bytes never sent. Whether it acknowledges new ones.
    #[inline]
    fn on_ack(&mut self, s: &Seg, o: &Opts, a: i64, cx: &mut Cx<'_>) -> bool {
        let acked = self.snd.on_ack(s, o, a, &self.stamps, &mut self.stats, cx);
        if acked.judged {
            self.timers.acked(acked.news, &self.snd, self.rcv.fin_rcvd(), cx.cfg.fin_timeout, cx.now);
        }
        if acked.opened {
            self.timers.window_opened();
        }
        acked.news
    }
}
