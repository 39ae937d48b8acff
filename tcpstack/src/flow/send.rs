//! The sending side of a connection: bytes pushed, sent and acknowledged, the peer's window, and the path.
//!
//! ```text
//!   acknowledged    sent          permitted by smoltcp     pushed
//!   ────────────┬───────────┬──────────────────────────┬────────────
//!              una         sent                      permit       end
//!               └──────────── the peer's window ─┘
//! ```
//!
//! Offsets are of the stream (0 is the first byte); the FIN takes one more. [`crate::sender`] judges losses and the
//! congestion window, RFC 9293 §3.8.6 has the rules of the peer's window.

use std::ops::Range;

use arrayvec::ArrayVec;
use hugepages::Lent;

use super::input::Cx;
use crate::cc::Congestion;
use crate::config::{FlowCounters, StackConfig};
use crate::ending::CloseWhy;
use crate::opts::{OptBytes, Opts, SACK_MAX, SackBlock, TS_LEN};
use crate::pmtu::{Ev, FLOOR6, Path, State};
use crate::rtt::{RtoLimits, Rtt};
use crate::sender::{AckIn, Ctx, Heard, Sender, Silence};
use crate::seq::{Seq, offset_of};
use crate::shadow::Shadow;
use crate::stamps::{Stamps, before};
use crate::stats::ConnStats;
use crate::wire::{self, HDR, Seg};

type Blocks = ArrayVec<Range<u64>, SACK_MAX>;

/// Most that is taken to be sent on a connection with a large congestion window, in bytes.
const BACKLOG_MAX: u64 = 32 << 20;

/// The sending side.
pub(super) struct SendSide {
    iss: Seq,
    una: u64,
    sent: u64,
    /// The peer's window, in bytes from `una`, and the largest that it ever offered.
    wnd: u32,
    max_wnd: u32,
    /// Sequence number of the segment that said so (SND.WL1).
    wl1: Seq,
    /// smoltcp has not been fed this window.
    wnd_news: bool,
    scale: u8,
    want_fin: bool,
    fin_sent: bool,
    /// Both SYNs had SACK permitted.
    sack: bool,
    v6: bool,
    /// The network said that the peer cannot be reached.
    unreachable: bool,
    /// IP and TCP headers without options, and the options of each segment, in bytes.
    headers: u16,
    options: u16,
    /// Payload of a full segment: the path's MSS less the options that each segment carries.
    mss: u16,
    path: Path,
    /// Offset at which a try of the full size began.
    trial_from: u64,
    queue: Shadow,
    sender: Sender,
    rtt: Rtt,
}

/// The peer's SYN, as far as it concerns the sending side.
pub(super) struct SynSays {
    pub(super) window: u16,
    pub(super) seq: Seq,
    pub(super) scale: u8,
    pub(super) sack: bool,
    /// Timestamps are agreed on.
    pub(super) stamps: bool,
    /// MSS of the peer or of the port, whichever is less, in bytes.
    pub(super) mss: u16,
}

/// Result of an acknowledgement for the sending side.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acked {
    /// It acknowledges new bytes.
    pub(super) news: bool,
    /// It was news, a duplicate, or had SACK blocks: the deadline of the resend timer may have changed.
    pub(super) judged: bool,
    /// The peer's window changed, and is open.
    pub(super) opened: bool,
}

impl SendSide {
    /// A side that has sent nothing; `l3` is the length of the IP header in bytes.
    pub(super) fn new(iss: Seq, l3: u8, v6: bool) -> SendSide {
        SendSide {
            iss,
            una: 0,
            sent: 0,
            wnd: 0,
            max_wnd: 0,
            wl1: Seq(0),
            wnd_news: false,
            scale: 0,
            want_fin: false,
            fin_sent: false,
            sack: false,
            v6,
            unreachable: false,
            headers: u16::from(l3) + HDR as u16,
            options: 0,
            mss: wire::DEFAULT_MSS,
            path: Path::default(),
            trial_from: 0,
            queue: Shadow::default(),
            sender: Sender::new(Congestion::default(), u32::from(wire::DEFAULT_MSS), false, 0),
            rtt: Rtt::default(),
        }
    }

    /// Takes in the peer's SYN.
    pub(super) fn begin(&mut self, s: &SynSays, cfg: &StackConfig) {
        // A SYN's window is never scaled.
        (self.wnd, self.max_wnd, self.wl1) = (u32::from(s.window), u32::from(s.window), s.seq);
        (self.scale, self.sack) = (s.scale, s.sack);
        self.options = if s.stamps { TS_LEN } else { 0 };
        self.path.set_limit(s.mss);
        self.resize();
        self.sender = Sender::new(cfg.congestion, u32::from(self.mss), s.sack, cfg.tlp_ack_delay);
    }

    /// The handshake is over; its round trip took `first` ns, if our SYN was sent once only.
    pub(super) fn open(&mut self, first: Option<u64>, now: u64) {
        match first {
            Some(r) => {
                self.rtt.on_handshake(r);
                self.sender.on_handshake(r, now);
            }
            None => self.sender.syn_was_lost(u32::from(self.mss)),
        }
    }

    // ---- state ----

    pub(super) fn iss(&self) -> Seq {
        self.iss
    }

    /// Sequence number on the wire of an offset.
    #[inline]
    pub(super) fn seq(&self, off: u64) -> Seq {
        self.iss.plus(1).plus(off)
    }

    /// Everything before this offset is acknowledged, the FIN counted.
    #[inline]
    pub(super) fn una(&self) -> u64 {
        self.una
    }

    /// Everything before this offset was sent at least once.
    #[inline]
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// End of the bytes pushed.
    #[inline]
    pub(super) fn end(&self) -> u64 {
        self.queue.end()
    }

    /// One past the highest offset sent, the FIN counted (SND.NXT).
    #[inline]
    pub(super) fn nxt(&self) -> u64 {
        self.sent + u64::from(self.fin_sent)
    }

    /// Whether all that was sent is acknowledged.
    #[inline]
    pub(super) fn is_quiet(&self) -> bool {
        self.una == self.nxt()
    }

    /// The peer has acknowledged our FIN.
    #[inline]
    pub(super) fn fin_acked(&self) -> bool {
        self.fin_sent && self.una > self.queue.end()
    }

    /// The user has closed: a FIN follows everything pushed.
    #[inline]
    pub(super) fn wants_fin(&self) -> bool {
        self.want_fin
    }

    /// Bytes pushed and not acknowledged.
    #[inline]
    pub(super) fn backlog(&self) -> u64 {
        self.queue.end() - self.una.min(self.queue.end())
    }

    /// Scale of the peer's windows.
    pub(super) fn scale(&self) -> u8 {
        self.scale
    }

    /// Right edge of the peer's window, as an offset.
    #[inline]
    pub(super) fn edge(&self) -> u64 {
        self.una.saturating_add(u64::from(self.wnd))
    }

    /// The peer's window, in bytes.
    #[inline]
    pub(super) fn window(&self) -> u32 {
        self.wnd
    }

    /// smoltcp has not been fed the window.
    #[inline]
    pub(super) fn window_news(&self) -> bool {
        self.wnd_news
    }

    /// smoltcp has been fed the window.
    #[inline]
    pub(super) fn window_fed(&mut self) {
        self.wnd_news = false;
    }

    /// smoltcp has to be fed the window, even if it has not changed: with it the SYN is acknowledged.
    pub(super) fn feed_window(&mut self) {
        self.wnd_news = true;
    }

    /// Payload of a full segment, in bytes.
    #[inline]
    pub(super) fn mss(&self) -> u16 {
        self.mss
    }

    #[inline]
    pub(super) fn rtt(&self) -> &Rtt {
        &self.rtt
    }

    /// Time at which silence has to be acted on, in ns.
    #[inline]
    pub(super) fn deadline(&self) -> u64 {
        self.sender.deadline()
    }

    // ---- the user ----

    /// Most that may be waiting for its acknowledgement, in bytes, where `least` is what is always allowed.
    #[inline]
    pub(super) fn backlog_max(&self, least: u64) -> u64 {
        least.max((2 * self.sender.cwnd()).min(BACKLOG_MAX))
    }

    /// Appends header bytes by copy and payload by reference; returns the offset of the end.
    #[inline]
    pub(super) fn push(&mut self, hdr: &[u8], pay: &[Lent]) -> u64 {
        self.queue.push_inline(hdr);
        for l in pay {
            self.queue.push_lent(l);
        }
        self.queue.end()
    }

    /// A FIN is to follow everything pushed.
    pub(super) fn finish(&mut self) {
        self.want_fin = true;
    }

    /// Lets go of everything that was pushed.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }

    // ---- acknowledgements (RFC 9293 §3.10.7.4, RFC 2018, RFC 2883) ----

    /// The offset that an acknowledgement number stands for, near `una`.
    #[inline]
    pub(super) fn offset_of(&self, n: Seq) -> i64 {
        offset_of(n, self.seq(self.una), self.una)
    }

    /// An acknowledgement below this offset is too old to be of the connection's present (RFC 5961 §5).
    #[inline]
    pub(super) fn oldest(&self) -> i64 {
        self.una as i64 - i64::from(self.max_wnd)
    }

    /// Whether an ICMP error quotes a segment that is out; and whether it is more than the end of what is.
    pub(super) fn is_out(&self, n: Seq) -> Option<bool> {
        let off = self.offset_of(n);
        let (una, nxt) = (self.una as i64, self.nxt() as i64);
        (una..=nxt).contains(&off).then_some(off < nxt)
    }

    /// Takes in the ACK of offset `a`, which is none of bytes never sent.
    #[inline]
    pub(super) fn on_ack(
        &mut self,
        s: &Seg,
        o: &Opts,
        a: i64,
        stamps: &Stamps,
        st: &mut FlowCounters,
        cx: &mut Cx<'_>,
    ) -> Acked {
        let news = a > self.una as i64;
        let wnd = u32::from(s.win) << self.scale;
        // Linux's form of RFC 9293 §3.10.7.4: a window counts when its segment is newer, or it
        // grew, or it is shut.
        let newer = s.seq.after(self.wl1);
        let update =
            a >= self.una as i64 && (news || newer || (s.seq == self.wl1 && (wnd > self.wnd || wnd == 0)));
        let changed = update && wnd != self.wnd;
        if update {
            self.wl1 = s.seq;
            self.wnd_news |= changed;
            self.wnd = wnd;
            self.max_wnd = self.max_wnd.max(wnd);
        }
        // RFC 5681 §2.
        let dup =
            a == self.una as i64 && s.plen == 0 && !s.has(wire::FIN) && !changed && self.nxt() > self.una;
        st.dup_acks += u64::from(dup);
        let sacks = self.sack && !o.sack.is_empty();
        let judged = news || dup || sacks;
        if news && !sacks && self.sender.is_untroubled() {
            self.advance(a as u64, st, cx);
            let mss = u32::from(self.mss);
            let mut k = Ctx { now: cx.now, mss, rtt: &mut self.rtt, limits: &cx.cfg.rto };
            self.sender.on_ack_in_order(self.una, || stamps.rtt(o.ts, cx.now), &mut k);
        } else if judged {
            self.judge(o, (a, news, dup), stamps, st, cx);
        }
        Acked { news, judged, opened: changed && self.wnd > 0 }
    }

    /// Judges losses by an ACK of offset `a`: `news` says that it acknowledges new bytes, `dup` that it is a duplicate.
    fn judge(
        &mut self,
        o: &Opts,
        (a, news, dup): (i64, bool, bool),
        stamps: &Stamps,
        st: &mut FlowCounters,
        cx: &mut Cx<'_>,
    ) {
        let sacks = self.sack && !o.sack.is_empty();
        let (mut blocks, dsack) = if sacks { self.sacked(&o.sack, a, st, cx) } else { Default::default() };
        let echo = if news { stamps.rtt(o.ts, cx.now) } else { None };
        if news {
            self.advance(a as u64, st, cx);
        }
        let ecr = o.ts.filter(|_| stamps.on()).map(|t| t.ecr);
        let original = |t: u64| ecr.is_some_and(|e| before(e, stamps.val(t)));
        let mut k = Ctx { now: cx.now, mss: u32::from(self.mss), rtt: &mut self.rtt, limits: &cx.cfg.rto };
        let hole_max = cx.super_max;
        let mut ack = AckIn { una: self.una, dup, blocks: &mut blocks, dsack, echo, hole_max };
        let heard = self.sender.on_ack(&mut ack, original, &mut k);
        if heard != Heard::default() {
            note(&heard, st, cx);
        }
    }

    /// Everything before `a` is acknowledged.
    #[inline]
    fn advance(&mut self, a: u64, st: &mut FlowCounters, cx: &mut Cx<'_>) {
        let (end, n) = (self.queue.end(), a - self.una);
        st.acked_bytes += a.min(end) - self.una.min(end);
        self.una = a;
        self.queue.release(a);
        self.unreachable = false;
        let full = n >= u64::from(self.mss) && self.una >= self.trial_from + u64::from(self.mss);
        if self.path.state() == State::Trial && full {
            self.path_event(Ev::Arrived, cx.cfg, cx.now);
        }
    }

    /// The blocks of an ACK of `a` that make sense, and what it says arrived twice: that is the first block, when it
    /// lies below the ACK or within the second block (RFC 2883 §4). Others are counted.
    fn sacked(
        &self,
        list: &[SackBlock],
        a: i64,
        st: &mut FlowCounters,
        cx: &mut Cx<'_>,
    ) -> (Blocks, Option<Range<u64>>) {
        let (mut blocks, mut dsack) = (Blocks::new(), None);
        let off = |b: &SackBlock| (self.offset_of(b.left), self.offset_of(b.right));
        let (end, above) = (self.nxt() as i64, a.max(self.una as i64));
        let oldest = self.oldest().max(0);
        let second = list.get(1).map(off);
        for (i, b) in list.iter().enumerate() {
            let (l, r) = off(b);
            let sound = l < r && l >= oldest && r <= end;
            if sound && i == 0 && (r <= a || second.is_some_and(|(x, y)| l >= x && r <= y)) {
                dsack = Some(l as u64..r as u64);
                cx.c.rx_dsack += 1;
                st.dsacks += 1;
            } else if sound && l > above {
                blocks.push(l as u64..r as u64);
                cx.c.rx_sack_blocks += 1;
                st.sack_blocks += 1;
            } else if !sound || a >= self.una as i64 {
                // An ACK that was overtaken may name what is acknowledged by now; any other is wrong.
                cx.c.rx_sack_ignored += 1;
            }
        }
        (blocks, dsack)
    }

    // ---- sending ----

    /// One past the last byte that may be sent: it was pushed, smoltcp permits its unit, and the peer's window has
    /// room.
    #[inline]
    pub(super) fn limit(&self, permit: u64) -> u64 {
        permit.min(self.queue.end()).min(self.una + u64::from(self.wnd)).max(self.sent)
    }

    /// Whether sending only `n` bytes now would be the silly window syndrome (RFC 9293 §3.8.6.2.1): the peer's window
    /// cuts a segment short, more is waiting, and an ACK that may open it further is on its way. With nothing in
    /// flight there is none, so what fits goes out.
    #[inline]
    fn silly(&self, n: u64) -> bool {
        n < u64::from(self.mss)
            && self.sent + n < self.queue.end()
            && self.una < self.nxt()
            && n < u64::from(self.max_wnd) / 2
    }

    /// Whether bytes wait to be sent again.
    #[inline]
    pub(super) fn has_lost(&self) -> bool {
        self.sender.has_lost()
    }

    /// Bytes to send again.
    #[inline]
    pub(super) fn next_lost(&mut self) -> Option<Range<u64>> {
        self.sender.next_lost()
    }

    /// Part of `lost` that the congestion window lets go again now. A range of no bytes at the end of those sent
    /// stands for the FIN.
    pub(super) fn grant_lost(&mut self, lost: &Range<u64>) -> Option<Range<u64>> {
        let n = self.sender.grant(lost.end - lost.start, u32::from(self.mss));
        (n > 0).then(|| lost.start..(lost.start + n).min(self.sent))
    }

    /// `n` bytes were sent again, in segments of `mss`.
    pub(super) fn sent_again(&mut self, n: u32, mss: u32, now: u64, limits: &RtoLimits) {
        self.sender.sent_again(n, &Ctx { now, mss, rtt: &mut self.rtt, limits });
    }

    /// Number of bytes never sent before that may go now: the windows and [`SendSide::silly`] say so.
    #[inline]
    pub(super) fn grant_new(&mut self, permit: u64, now: u64, limits: &RtoLimits) -> Option<u64> {
        let mss = u32::from(self.mss);
        self.sender.before_send(&Ctx { now, mss, rtt: &mut self.rtt, limits });
        let n = self.sender.grant(self.limit(permit) - self.sent, mss);
        (n > 0 && !self.silly(n)).then_some(n)
    }

    /// `n` bytes were sent for the first time, in segments of `mss`.
    #[inline]
    pub(super) fn sent_new(&mut self, n: u32, mss: u32, now: u64, limits: &RtoLimits) {
        self.sent += u64::from(n);
        self.sender.sent(self.sent, &Ctx { now, mss, rtt: &mut self.rtt, limits });
    }

    /// Whether everything pushed was sent and no FIN was.
    #[inline]
    pub(super) fn fin_is_next(&self) -> bool {
        !self.fin_sent && self.sent == self.queue.end()
    }

    /// The FIN was sent for the first time.
    pub(super) fn fin_went(&mut self, now: u64, limits: &RtoLimits) {
        self.fin_sent = true;
        let (end, mss) = (self.nxt(), u32::from(self.mss));
        self.sender.sent(end, &Ctx { now, mss, rtt: &mut self.rtt, limits });
    }

    /// The peer's window is shut, or smoltcp's is, while bytes wait and nothing is out.
    #[inline]
    pub(super) fn is_shut(&self, permit: u64) -> bool {
        self.is_quiet() && self.sent < self.queue.end() && self.limit(permit) == self.sent
    }

    /// The queue that frames take their payload from.
    #[inline]
    pub(super) fn queue(&mut self) -> &mut Shadow {
        &mut self.queue
    }

    /// Payload of a full segment that carries these options.
    #[inline]
    pub(super) fn room_beside(&self, o: &OptBytes) -> u32 {
        (u32::from(self.mss) + u32::from(self.options)).saturating_sub(o.len() as u32).max(1)
    }

    /// Segments that a frame with `bytes` of payload is on the wire.
    #[inline]
    pub(super) fn segments(&self, bytes: u32) -> u64 {
        let mss = u32::from(self.mss);
        if bytes <= mss { 1 } else { u64::from(bytes.div_ceil(mss)) }
    }

    // ---- silence ----

    /// Nothing was heard of what is out, and the deadline has come.
    pub(super) fn on_silence(&mut self, permit: u64, now: u64, limits: &RtoLimits) -> Silence {
        let new_data = self.sent < self.limit(permit);
        self.sender
            .on_silence(new_data, &mut Ctx { now, mss: u32::from(self.mss), rtt: &mut self.rtt, limits })
    }

    /// The retransmission timer has run out. What the peer has no room for does not vanish on the path. Whether
    /// segments are smaller from here on.
    pub(super) fn on_timeout(&mut self, cfg: &StackConfig, now: u64) -> bool {
        let full = (self.nxt() - self.una).min(u64::from(self.wnd)) >= u64::from(self.mss);
        full && self.path_event(Ev::Silent(self.rtt.backoff()), cfg, now)
    }

    /// Whether what is out lies beyond the window since the peer took some of it back.
    pub(super) fn is_shrunk(&self) -> bool {
        self.una + u64::from(self.wnd) < self.nxt()
    }

    /// The link is back: what is out is looked into at `at` (ns).
    pub(super) fn path_is_back(&mut self, at: u64) {
        self.sender.path_is_back(at);
        self.rtt.clear_backoff();
    }

    // ---- the path (RFC 1191, RFC 8201) ----

    /// The largest IP packet sent, in bytes.
    pub(super) fn packet_size(&self) -> u16 {
        self.path.mss(self.headers).saturating_add(self.headers)
    }

    /// Brings the MSS in line with the path. Segments are cut when they are sent, so all that follows has it.
    fn resize(&mut self) {
        self.mss = self.path.mss(self.headers).max(wire::MIN_MSS) - self.options;
    }

    fn path_event(&mut self, ev: Ev, cfg: &StackConfig, now: u64) -> bool {
        let floor = if self.v6 { FLOOR6 } else { cfg.min_pmtu };
        let size = self.packet_size();
        let changed = self.path.step(ev, (size, floor), now);
        if changed {
            self.resize();
        }
        changed
    }

    /// Whether a larger size is to be tried at `now` (ns).
    #[inline]
    pub(super) fn path_due(&self, now: u64) -> bool {
        self.path.due(now)
    }

    /// A router said that `mtu` bytes are the most; that counts until then (ns).
    pub(super) fn path_told(&mut self, mtu: u16, until: u64) {
        self.path.tell(mtu, until);
        self.resize();
    }

    /// The size in use has aged: `heard` is what another connection has heard since. Whether a larger one is tried.
    pub(super) fn path_aged(&mut self, heard: Option<(u16, u64)>, cfg: &StackConfig, now: u64) -> bool {
        match heard.filter(|_| matches!(self.path.state(), State::Told)) {
            Some((mtu, until)) => {
                self.path_told(mtu, until);
                false
            }
            None => {
                self.trial_from = self.nxt();
                let raised = self.path_event(Ev::Tick, cfg, now);
                self.resize();
                raised
            }
        }
    }

    /// A router said that `mtu` bytes are the most. What is out is sent again at once in smaller segments, without
    /// blaming congestion (RFC 1191 §6.4, RFC 8201 §5.4). Whether segments are smaller from here on.
    pub(super) fn too_big(&mut self, mtu: u16, cfg: &StackConfig, now: u64) -> bool {
        let lowered = self.path_event(Ev::TooBig(mtu), cfg, now);
        if lowered {
            self.sender.too_big();
        }
        lowered
    }

    /// The network says that the peer cannot be reached: the reason, should it stay silent.
    pub(super) fn told_unreachable(&mut self) {
        self.unreachable = true;
    }

    /// Reason why the connection ends if the peer stays silent.
    pub(super) fn silent_why(&self) -> CloseWhy {
        if self.unreachable { CloseWhy::Unreachable } else { CloseWhy::Timeout }
    }

    // ---- for those who ask ----

    /// Memory of the queues, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.queue.memory() + self.sender.board().memory()
    }

    /// Names of the state of loss recovery and of congestion control.
    pub(super) fn names(&self) -> (&'static str, &'static str) {
        (self.sender.state().name(), self.sender.cc().name())
    }

    pub(super) fn report(&self, r: &mut ConnStats, limits: &RtoLimits) {
        let (mss, srtt) = (u32::from(self.mss), self.rtt.srtt());
        let rtt = Some(srtt).filter(|t| *t > 0);
        r.recovery = Some(self.sender.state().name());
        r.backlog = Some(self.backlog());
        r.not_sent = Some(self.queue.end().saturating_sub(self.sent));
        r.in_flight = Some(self.sent.saturating_sub(self.una));
        r.pipe = Some(self.sender.pipe(mss));
        r.lost = Some(self.sender.board().lost());
        r.sacked = Some(self.sender.board().sacked());
        r.cwnd = Some(self.sender.cwnd());
        r.ssthresh = Some(self.sender.ssthresh()).filter(|t| *t < u64::MAX);
        r.srtt_ns = rtt;
        r.rttvar_ns = rtt.map(|_| self.rtt.var());
        r.min_rtt_ns = rtt.map(|_| self.sender.min_rtt());
        r.reo_wnd_ns = rtt.map(|t| self.sender.reo_wnd(t, mss));
        r.rto_ns = Some(self.rtt.rto(limits));
        r.backoff = Some(u64::from(self.rtt.backoff()));
        r.snd_wnd = Some(u64::from(self.wnd));
        r.mss = Some(u64::from(self.mss));
    }

    /// Adds its own to a connection's counts.
    pub(super) fn count(&self, n: &mut FlowCounters, limits: &RtoLimits) {
        let (mss, srtt) = (u32::from(self.mss), self.rtt.srtt());
        n.cwnd = self.sender.cwnd();
        n.ssthresh = self.sender.ssthresh();
        n.in_flight = self.sender.pipe(mss);
        n.srtt_ns = srtt;
        n.rttvar_ns = self.rtt.var();
        n.min_rtt_ns = self.sender.min_rtt();
        n.rto_ns = self.rtt.rto(limits);
        n.reo_wnd_ns = self.sender.reo_wnd(srtt, mss);
        n.peer_window = u64::from(self.wnd);
        n.backlog = self.backlog();
    }
}

/// Counts the results of an ACK.
fn note(h: &Heard, f: &mut FlowCounters, cx: &mut Cx<'_>) {
    let c = &mut *cx.c;
    for (seen, total, own) in [
        (h.entered, &mut c.fast_recoveries, &mut f.fast_recoveries),
        (h.undone, &mut c.undone, &mut f.undone),
        (h.probe_repaired, &mut c.tlp_recoveries, &mut f.tlp_recoveries),
        (h.reordering, &mut c.reordering_seen, &mut f.reordering_seen),
    ] {
        *total += u64::from(seen);
        *own += u64::from(seen);
    }
    c.sack_reneged += u64::from(h.reneged);
    c.rx_sack_ignored += u64::from(h.ignored);
}
