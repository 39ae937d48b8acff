//! A segment for a known connection: what it means to the shim (RFC 9293 §3.10.7, RFC 5961), before smoltcp sees
//! the normalised form.

use hugepages::RxFrag;

use crate::config::{Counters, StackConfig};
use crate::engine::Engine;
use crate::flow::{AckDue, Clock, Flow, NO_FIN};
use crate::limit::Budget;
use crate::opts::Opts;
use crate::phase::Phase;
use crate::sender::Sender;
use crate::seq::offset_of;
use crate::stamps::Verdict as Stamped;
use crate::window::Memory;
use crate::wire::{self, Seg};

/// Time between challenge ACKs of one connection, in ns (RFC 5961 §10 asks for a limit).
const CHALLENGE_GAP: u64 = 5_000_000;
/// Duplicate ACKs sent in one turn at most; more tell the peer nothing.
const DUP_ACKS_MAX: u8 = 8;

/// What a segment leads to beyond the connection's own state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing.
    Fine,
    /// The peer refused our SYN.
    Refused,
    /// The peer reset the connection.
    Reset,
    /// smoltcp did not take what it must.
    Broken,
    /// The peer deserves a RST for this segment; the connection stays.
    Reject,
}

/// What the segment routine needs of the stack.
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
    pub(crate) fn on_segment(
        &mut self,
        s: &Seg,
        o: &Opts,
        frags: &mut Vec<RxFrag>,
        cx: &mut Cx<'_>,
    ) -> Outcome {
        cx.c.rx_segments += 1;
        self.stats.segs_in += 1;
        match self.phase() {
            Phase::Resolve | Phase::Closed | Phase::TimeWait => Outcome::Fine,
            Phase::SynSent => self.in_syn_sent(s, o, cx),
            phase => self.in_sync(phase == Phase::SynReceived, s, o, frags, cx),
        }
    }

    /// The peer's SYN: its numbers, window and options. Ours offers, or will answer, what `cfg` says.
    pub(crate) fn take_syn(&mut self, s: &Seg, o: &Opts, cfg: &StackConfig, own_mss: u16, now: u64) {
        self.irs = s.seq;
        self.syn_window(s.win, s.seq);
        self.snd_scale = o.scale.unwrap_or(0);
        self.sack_ok = cfg.sack && o.sack_permitted;
        if let Some(t) = o.ts.filter(|_| cfg.timestamps) {
            self.stamps.agree(t.val, now);
        }
        let named = o.mss.unwrap_or_else(|| wire::default_mss(self.key.is_v6()));
        self.limit_mss(named.clamp(wire::MIN_MSS, own_mss));
        self.tx = Sender::new(cfg.congestion, u32::from(self.mss), self.sack_ok, cfg.tlp_ack_delay);
    }

    fn in_syn_sent(&mut self, s: &Seg, o: &Opts, cx: &mut Cx<'_>) -> Outcome {
        let acked = s.has(wire::ACK) && s.ack == self.iss.plus(1);
        if s.has(wire::RST) {
            cx.c.rx_bad_rst += u64::from(!acked);
            return if acked { Outcome::Refused } else { Outcome::Fine };
        }
        if s.has(wire::ACK) && !acked {
            // An old connection of the peer's (RFC 9293 §3.5.2): the RST ends it, then our SYN is tried again.
            // Once, or forged ACKs would use up the retries.
            cx.c.rx_ack_unsent += 1;
            if self.probes == 0 {
                self.probes = 1;
                self.clock_at = self.clock_at.min(cx.now + 1_000_000);
            }
            return Outcome::Reject;
        }
        if !s.has(wire::SYN) {
            return Outcome::Fine;
        }
        self.take_syn(s, o, cx.cfg, cx.own_mss, cx.now);
        self.last_rx = cx.now;
        if o.scale.is_none() {
            self.rcv_scale = 0;
        }
        let answer = self.feed_syn(cx.engine, cx.c, acked, o.scale);
        if acked {
            self.syn_answered(cx.now);
            self.ack_due = AckDue::Now;
        }
        let want = if acked { Phase::Established } else { Phase::SynReceived };
        if answer.is_some() || self.phase() != want {
            cx.c.desync += 1;
            return Outcome::Refused;
        }
        Outcome::Fine
    }

    /// The SYN needs no resending any more; its round trip is the first sample unless it was sent twice.
    fn syn_answered(&mut self, now: u64) {
        self.set_clock(Clock::Off, u64::MAX);
        if self.tries == 0 {
            let r = now.saturating_sub(self.stuck_since);
            self.rtt.on_handshake(r);
            self.tx.on_handshake(r, now);
        } else {
            self.tx.syn_was_lost(u32::from(self.mss));
        }
        self.tries = 0;
    }

    /// Answers what may be forged (RFC 5961 §3 to §5), within the connection's limit and the stack's.
    fn challenge(&mut self, cx: &mut Cx<'_>) {
        if cx.now < self.challenge_at || !cx.challenges.take(cx.now) {
            cx.c.challenge_limited += 1;
            return;
        }
        self.answer(cx);
    }

    /// Answers a segment without data that is out of place: a keep-alive, a probe, or the start of a loop of ACKs
    /// between two ends that disagree. The stack's limit is not for it, or strangers could silence it.
    fn answer(&mut self, cx: &mut Cx<'_>) {
        if cx.now < self.challenge_at {
            cx.c.challenge_limited += 1;
            return;
        }
        self.challenge_at = cx.now + CHALLENGE_GAP;
        self.ack_due = AckDue::Now;
        cx.c.challenge_acks += 1;
    }

    /// A segment after the peer's SYN; `embryo` says that ours is not acknowledged yet.
    fn in_sync(
        &mut self,
        embryo: bool,
        s: &Seg,
        o: &Opts,
        frags: &mut Vec<RxFrag>,
        cx: &mut Cx<'_>,
    ) -> Outcome {
        let mut s = *s;
        let nxt = self.rcv_nxt();
        let d = s.seq.since(self.rcv_seq(nxt));
        let window = self.wire_edge.saturating_sub(nxt);
        if s.has(wire::RST) {
            // RFC 5961 §3: exactly next resets, elsewhere in the window is challenged, outside is nothing.
            if d == 0 {
                return Outcome::Reset;
            }
            cx.c.rx_bad_rst += 1;
            if d > 0 && (d as u64) < window {
                self.challenge(cx);
            }
            return Outcome::Fine;
        }
        if s.has(wire::SYN) {
            let same = s.seq == self.irs;
            match embryo {
                // Our SYN-ACK was lost.
                true if same && !s.has(wire::ACK) => {
                    self.syn_due = true;
                    self.stamps.take(o.ts, cx.now);
                    return Outcome::Fine;
                }
                // Simultaneous open: the peer's SYN-ACK is the ACK of our SYN.
                true if same && s.plen == 0 => {
                    s.flags &= !wire::SYN;
                    s.seq = s.seq.plus(1);
                    s.win >>= self.snd_scale; // a SYN's window is not scaled
                }
                // RFC 5961 §4.
                _ => {
                    self.challenge(cx);
                    return Outcome::Fine;
                }
            }
        }
        match self.stamps.judge(o.ts, cx.now) {
            Stamped::Fine => (),
            Stamped::Missing => cx.c.ts_missing += 1,
            Stamped::Old => {
                cx.c.paws_rejected += 1;
                if s.plen > 0 || s.has(wire::FIN) {
                    let start = nxt as i64 + i64::from(d);
                    self.note_duplicate(start, (start + i64::from(s.plen)).min(self.nxt as i64));
                    self.ack_due = AckDue::Now;
                } else {
                    self.answer(cx);
                }
                return Outcome::Fine;
            }
        }
        if !s.has(wire::ACK) {
            cx.c.rx_malformed += 1;
            return Outcome::Fine;
        }
        let a = offset_of(s.ack, self.snd_seq(self.una), self.una);
        // Our SYN runs from when it was first sent: before that nobody can have seen its number.
        if embryo && (a != 0 || self.clock != Clock::Syn) {
            cx.c.rx_ack_unsent += 1;
            return Outcome::Reject;
        }
        if a > self.snd_max() as i64 {
            cx.c.rx_ack_unsent += 1;
            self.challenge(cx);
            return Outcome::Fine;
        }
        if a < self.una as i64 - i64::from(self.max_wnd) {
            // RFC 5961 §5.
            cx.c.rx_ack_old += 1;
            self.challenge(cx);
            return Outcome::Fine;
        }
        let d = i64::from(s.seq.since(self.rcv_seq(nxt)));
        if d > window as i64 {
            cx.c.rx_beyond_window += 1;
            if s.plen > 0 {
                self.ack_due = AckDue::Now;
            } else {
                self.answer(cx);
            }
            return Outcome::Fine;
        }
        if embryo {
            self.syn_answered(cx.now);
            self.wnd_news = true;
        }
        self.last_rx = cx.now;
        self.probes = 0;
        let (fin_acked, fin_rcvd) = (self.fin_acked(), self.fin_rcvd);
        let start = nxt as i64 + d;
        if start <= self.acked as i64 && start + i64::from(s.plen) >= self.acked as i64 {
            self.stamps.take(o.ts, cx.now);
        }
        self.on_ack(&s, o, a, cx);
        if s.plen > 0 || s.has(wire::FIN) {
            self.on_payload(&s, o, start, frags, cx);
        } else if d < 0 {
            // A keep-alive or window probe, or an old ACK: the answer says where we are.
            self.answer(cx);
        }
        // What changes the state is fed at once: smoltcp's socket says which one it is.
        let changes = embryo || self.fin_rcvd != fin_rcvd || self.fin_acked() != fin_acked;
        if changes && !self.feed(cx.engine, cx.c) {
            return Outcome::Broken;
        }
        Outcome::Fine
    }

    fn on_payload(&mut self, s: &Seg, o: &Opts, start: i64, frags: &mut Vec<RxFrag>, cx: &mut Cx<'_>) {
        let (mut start, mut end) = (start, start + i64::from(s.plen));
        if s.plen > 0 {
            self.stats.data_segs_in += 1;
            self.seen.received = Some(cx.now);
        }
        if s.has(wire::FIN) && !self.fin_rcvd && end >= self.nxt as i64 && end <= self.wire_edge as i64 {
            // The first FIN in the window stands; one that contradicts it is ignored.
            if self.fin_at == NO_FIN {
                self.fin_at = end as u64;
            }
        }
        let limit = self.wire_edge.min(self.fin_at) as i64;
        if end > limit {
            cx.c.rx_beyond_window += 1;
            end = limit;
        }
        let bare_fin = s.plen == 0 && end == self.nxt as i64 && !self.fin_rcvd;
        if end <= self.nxt as i64 && !bare_fin {
            cx.c.rx_duplicate += 1;
            self.ack_due = AckDue::Now;
        } else if start > self.nxt as i64 {
            cx.c.rx_out_of_order += 1;
            self.stats.out_of_order += 1;
            if self.sack_ok {
                // What came is in the blocks, so one ACK tells of all.
                self.ack_due = AckDue::Now;
            } else {
                self.dup_acks_due = (self.dup_acks_due + 1).min(DUP_ACKS_MAX);
            }
        }
        self.note_duplicate(start, end);
        let place = start.max(self.nxt as i64) as u64;
        if !frags.is_empty() {
            self.rcv.echoed(o.ts, cx.now);
        }
        if self.discards && start > self.nxt as i64 {
            return; // comes again when what is missing has come
        }
        let weight = frags.iter().map(|f| u64::from(f.truesize())).sum();
        let next = start <= self.nxt as i64;
        let fits = |f: &mut Flow, cx: &mut Cx<'_>| {
            f.ready.len() + frags.len() <= cx.cfg.ready_max
                && (weight == 0 || f.may_hold(cx.mem, weight, next, cx.now))
        };
        if !self.discards && !fits(self, cx) {
            cx.c.rx_overflow += 1;
            return;
        }
        let direct = self.ooo.is_empty() && start <= self.nxt as i64;
        let before = self.nxt;
        for mut f in frags.drain(..) {
            let len = i64::from(f.len());
            let skip = (self.nxt as i64 - start).clamp(0, len);
            let keep = (end - start).clamp(0, len) - skip;
            if keep > 0 {
                self.weigh(keep as u32, f.truesize());
                f.advance(skip as u32);
                f.truncate(keep as u32);
                if direct {
                    self.take(f);
                } else {
                    // What comes next in order is not kept but passed on, so the bound is not for it: a full
                    // store would refuse the very bytes that empty it.
                    let at = (start + skip) as u64;
                    let max = if at == self.nxt { u64::MAX } else { cx.ooo_max };
                    if self.ooo.insert(at, f, max).is_err() {
                        cx.c.rx_overflow += 1;
                    }
                    while let Some(f) = self.ooo.pop(self.nxt) {
                        self.take(f);
                    }
                }
            }
            start += len;
        }
        // RFC 5681 §4.2: what fills a gap is acknowledged at once.
        if !direct && self.nxt > before {
            self.ack_due = AckDue::Now;
        }
        if !direct && self.sack_ok {
            self.sacks.touch(place, &self.ooo);
        }
        if self.nxt == self.fin_at && !self.fin_rcvd {
            self.fin_rcvd = true;
            self.ack_due = AckDue::Now;
            if self.fin_acked() {
                self.set_clock(Clock::Off, u64::MAX);
            }
        }
    }

    /// Takes in what is next in order.
    #[inline]
    fn take(&mut self, f: RxFrag) {
        self.nxt += u64::from(f.len());
        if self.discards {
            (self.handed, self.credited) = (self.nxt, self.nxt);
            return;
        }
        self.ready_size += u64::from(f.truesize());
        self.ready.push_back(f);
    }

    /// Notes which part of a segment was here already (RFC 2883): the first one, where there are several.
    #[inline]
    fn note_duplicate(&mut self, start: i64, end: i64) {
        let nxt = self.nxt as i64;
        if !self.sack_ok || (start >= nxt && self.ooo.is_empty()) {
            return;
        }
        let all = start.max(0) as u64..end.max(0) as u64;
        let dup = if start < nxt { Some(all.start..all.end.min(self.nxt)) } else { self.ooo.overlap(&all) };
        dup.into_iter().for_each(|d| self.sacks.duplicate(d));
    }

    /// Keeps the running ratio of payload to pool memory.
    #[inline]
    fn weigh(&mut self, len: u32, truesize: u32) {
        let (b, t) = &mut self.density;
        *b += len;
        *t += truesize.max(len);
        if *t > 1 << 20 {
            *b = *b / 2 + 1;
            *t /= 2;
        }
    }
}
