//! The receiving side of a connection: order, the reader, the window offered, and what is to be acknowledged.
//!
//! ```text
//!   handed on, credited    unread            offered              permitted by smoltcp
//!   ───────────────────┬─────────────┬─────────────────────┬───────────────────────────┐
//!          credited, handed         nxt              window.edge()               permit
//! ```
//!
//! Offsets are of the stream (0 is the first byte); the peer's FIN takes one more.

use std::collections::VecDeque;
use std::ops::Range;

use arrayvec::ArrayVec;
use hugepages::{HeapRxPool, RxFrag};

use super::input::Cx;
use crate::addr::Addr;
use crate::config::{Counters, FlowCounters};
use crate::memory::Memory;
use crate::opts::{OptBytes, Opts, SACK_MAX, SackBlock};
use crate::reasm::Reasm;
use crate::sack::Sacks;
use crate::seq::Seq;
use crate::stamps::Stamps;
use crate::stats::ConnStats;
use crate::window::RxWindow;
use crate::wire::{self, Seg};

/// Duplicate ACKs sent in one turn at most; more tell the peer nothing.
const DUP_ACKS_MAX: u8 = 8;
/// Fragments waiting for a reader from which small ones are joined.
const JOIN_FROM: usize = 64;
/// No FIN.
const NO_FIN: u64 = u64::MAX;

/// Whether an ACK has to go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AckDue {
    No,
    /// With data, or at the next turn.
    Soon,
    /// At this turn.
    Now,
}

/// The receiving side.
pub(super) struct RecvSide {
    irs: Seq,
    nxt: u64,
    handed: u64,
    credited: u64,
    /// Highest offset acknowledged on the wire.
    acked: u64,
    fin_at: u64,
    fin_rcvd: bool,
    /// Nobody reads: bytes are acknowledged and discarded.
    discards: bool,
    /// Both SYNs had SACK permitted.
    sack: bool,
    ack_due: AckDue,
    dup_acks_due: u8,
    ready: VecDeque<RxFrag>,
    /// Pool memory behind them, in bytes.
    ready_size: u64,
    window: RxWindow,
    ooo: Reasm,
    sacks: Sacks,
}

impl RecvSide {
    pub(super) fn new(now: u64) -> RecvSide {
        RecvSide {
            irs: Seq(0),
            nxt: 0,
            handed: 0,
            credited: 0,
            acked: 0,
            fin_at: NO_FIN,
            fin_rcvd: false,
            discards: false,
            sack: false,
            ack_due: AckDue::No,
            dup_acks_due: 0,
            ready: VecDeque::new(),
            ready_size: 0,
            window: RxWindow::new(now),
            ooo: Reasm::default(),
            sacks: Sacks::default(),
        }
    }

    /// The peer's SYN has this number; `sack` says that both SYNs permit SACK.
    pub(super) fn begin(&mut self, irs: Seq, sack: bool) {
        (self.irs, self.sack) = (irs, sack);
    }

    // ---- what it is at ----

    pub(super) fn irs(&self) -> Seq {
        self.irs
    }

    /// Sequence number of an offset.
    #[inline]
    pub(super) fn seq(&self, off: u64) -> Seq {
        self.irs.plus(1).plus(off)
    }

    /// End of the bytes received in order.
    #[inline]
    pub(super) fn end(&self) -> u64 {
        self.nxt
    }

    /// Next offset expected, the FIN counted (RCV.NXT).
    #[inline]
    pub(super) fn nxt(&self) -> u64 {
        self.nxt + u64::from(self.fin_rcvd)
    }

    /// The peer's FIN has come, and everything before it.
    #[inline]
    pub(super) fn fin_rcvd(&self) -> bool {
        self.fin_rcvd
    }

    /// Both SYNs had SACK permitted.
    #[inline]
    pub(super) fn sack(&self) -> bool {
        self.sack
    }

    /// Nobody reads.
    #[inline]
    pub(super) fn discards(&self) -> bool {
        self.discards
    }

    /// Bytes that the reader has given back.
    #[inline]
    pub(super) fn credited(&self) -> u64 {
        self.credited
    }

    /// Highest offset acknowledged on the wire.
    #[inline]
    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// Bytes left of the window offered.
    #[inline]
    pub(super) fn window_left(&self) -> u64 {
        self.window.left(self.nxt())
    }

    /// The window field that fits what was last offered.
    #[inline]
    pub(super) fn window_field(&self) -> u16 {
        self.window.field(self.nxt())
    }

    /// Pool memory behind what was received and not handed on, in bytes.
    #[inline]
    fn held(&self) -> u64 {
        self.ready_size + self.ooo.truesize()
    }

    // ---- segments ----

    /// Takes in payload and FIN of a segment that begins at offset `start`. What is not kept is left in `frags`. Whether
    /// the FIN is in with it.
    pub(super) fn on_payload(
        &mut self,
        (s, o, start): (&Seg, &Opts, i64),
        frags: &mut Vec<RxFrag>,
        st: &mut FlowCounters,
        cx: &mut Cx<'_>,
    ) -> bool {
        let (mut start, mut end) = (start, start + i64::from(s.plen));
        let edge = self.window.edge();
        if s.has(wire::FIN) && !self.fin_rcvd && end >= self.nxt as i64 && end <= edge as i64 {
            // The first FIN in the window stands; one that contradicts it is ignored.
            if self.fin_at == NO_FIN {
                self.fin_at = end as u64;
            }
        }
        let limit = edge.min(self.fin_at) as i64;
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
            st.out_of_order += 1;
            if self.sack {
                // The blocks have all that came, so one ACK tells of it.
                self.ack_due = AckDue::Now;
            } else {
                self.dup_acks_due = (self.dup_acks_due + 1).min(DUP_ACKS_MAX);
            }
        }
        self.note_duplicate(start, end);
        let place = start.max(self.nxt as i64) as u64;
        if !frags.is_empty() {
            self.window.echoed(o.ts, cx.now);
        }
        if self.discards && start > self.nxt as i64 {
            return false; // comes again when the missing bytes have come
        }
        let weight = frags.iter().map(|f| u64::from(f.truesize())).sum();
        let next = start <= self.nxt as i64;
        if !self.discards && !self.fits(frags.len(), weight, next, cx) {
            cx.c.rx_overflow += 1;
            return false;
        }
        let direct = self.ooo.is_empty() && start <= self.nxt as i64;
        let before = self.nxt;
        for mut f in frags.drain(..) {
            let len = i64::from(f.len());
            let skip = (self.nxt as i64 - start).clamp(0, len);
            let keep = (end - start).clamp(0, len) - skip;
            if keep > 0 {
                self.window.weigh(keep as u32, f.truesize());
                f.advance(skip as u32);
                f.truncate(keep as u32);
                if direct {
                    self.take(f);
                } else {
                    // Bytes that come next in order are not kept but passed on, so the bound is not for them: a full
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
        // RFC 5681 §4.2: a segment that fills a gap is acknowledged at once.
        if !direct && self.nxt > before {
            self.ack_due = AckDue::Now;
        }
        if !direct && self.sack {
            self.sacks.touch(place, &self.ooo);
        }
        self.tell_held(cx.mem);
        let fin = self.nxt == self.fin_at && !self.fin_rcvd;
        if fin {
            self.fin_rcvd = true;
            self.ack_due = AckDue::Now;
        }
        fin
    }

    #[inline]
    fn fits(&mut self, frags: usize, weight: u64, next: bool, cx: &mut Cx<'_>) -> bool {
        if self.ready.len() + frags > cx.cfg.ready_max {
            return false;
        }
        let held = if next { self.ready_size } else { self.held() };
        if weight == 0 || self.window.may_hold(cx.mem, (weight, held), next, cx.now) {
            return true;
        }
        if !next || !self.ready.is_empty() {
            return false;
        }
        // The next bytes in order are taken where the reader waits: they free those behind them. Where their host has
        // too much, they take the place of those.
        if !self.window.may_begin(cx.mem, weight) {
            if self.ooo.truesize() < weight {
                return false;
            }
            self.forget_out_of_order();
        }
        true
    }

    /// Lets go of bytes beyond a gap (RFC 2018 §8 allows it): the peer sends them again.
    fn forget_out_of_order(&mut self) {
        self.ooo.clear();
        self.sacks = Sacks::default();
    }

    /// The connection's host has what is held here.
    #[inline]
    fn tell_held(&mut self, m: &mut Memory) {
        let held = self.held();
        self.window.holds(m, held);
    }

    /// The peer is at `addr`, with whose other connections it shares receive memory.
    pub(super) fn join(&mut self, m: &mut Memory, addr: &Addr) {
        self.window.join(m, addr);
    }

    /// The connection is open.
    pub(super) fn opened(&mut self, m: &mut Memory, now: u64) {
        self.window.received(m, now);
    }

    /// The connection is forgotten.
    pub(super) fn leave(&mut self, m: &mut Memory) {
        self.window.leave(m);
    }

    /// Takes in the next bytes in order.
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
    pub(super) fn note_duplicate(&mut self, start: i64, end: i64) {
        let nxt = self.nxt as i64;
        if !self.sack || (start >= nxt && self.ooo.is_empty()) {
            return;
        }
        let all = start.max(0) as u64..end.max(0) as u64;
        let dup = if start < nxt { Some(all.start..all.end.min(self.nxt)) } else { self.ooo.overlap(&all) };
        dup.into_iter().for_each(|d| self.sacks.duplicate(d));
    }

    /// Bytes were received in order.
    #[inline]
    pub(super) fn received(&mut self, m: &mut Memory, pool: &HeapRxPool, c: &mut Counters, now: u64) {
        self.window.received(m, now);
        if self.ready.len() > JOIN_FROM {
            self.join_last(pool, c);
            self.tell_held(m);
        }
    }

    /// Joins the last two fragments that wait for the reader, if both fit into one small buffer: a peer that sends
    /// bytes one by one must not take a buffer with each.
    fn join_last(&mut self, pool: &HeapRxPool, c: &mut Counters) {
        let mut last = self.ready.iter().rev().take(2);
        let (Some(b), Some(a)) = (last.next(), last.next()) else { return };
        let (n, m) = (a.bytes().len(), a.bytes().len() + b.bytes().len());
        if m > pool.buf_size() {
            return;
        }
        let Some(mut to) = pool.take() else { return };
        to.space()[..n].copy_from_slice(a.bytes());
        to.space()[n..m].copy_from_slice(b.bytes());
        self.ready_size -= u64::from(a.truesize()) + u64::from(b.truesize());
        let joined = to.into_frag(0, m as u32);
        self.ready_size += u64::from(joined.truesize());
        self.ready.truncate(self.ready.len() - 2);
        self.ready.push_back(joined);
        c.rx_small_bytes += m as u64;
    }

    // ---- the reader ----

    /// The next bytes in order. Their host has them until the window is looked at again.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<RxFrag> {
        let f = self.ready.pop_front()?;
        self.handed += u64::from(f.len());
        self.ready_size -= u64::from(f.truesize());
        Some(f)
    }

    /// Bytes in order wait for the reader.
    #[inline]
    pub(super) fn is_unread(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The reader gives `bytes` back, as many as it has at most; `false` when that is none.
    #[inline]
    pub(super) fn credit(&mut self, bytes: u32) -> bool {
        let n = u64::from(bytes).min(self.handed - self.credited);
        self.credited += n;
        n > 0
    }

    /// The reader has gone: lets go of what is unread, and of all that still comes, and of what is beyond a gap. Returns the
    /// bytes in order that nobody has read.
    pub(super) fn discard(&mut self, m: &mut Memory) -> u64 {
        self.discards = true;
        let unread = self.nxt - self.handed;
        (self.handed, self.credited) = (self.nxt, self.nxt);
        (self.ready, self.ready_size) = (VecDeque::new(), 0);
        self.forget_out_of_order();
        self.tell_held(m);
        unread
    }

    /// The connection is over: only what came in order is kept.
    pub(super) fn end_of_all(&mut self, m: &mut Memory) {
        self.ooo.clear();
        self.tell_held(m);
        self.window.end(m);
    }

    // ---- the window offered ----

    /// Our SYN offers the window up to `edge`; on the wire later ones are scaled.
    pub(super) fn offer(&mut self, edge: u64, scale: u8) {
        self.window.offer(edge, scale);
    }

    /// The peer does not scale windows.
    pub(super) fn unscaled(&mut self) {
        self.window.unscaled();
    }

    /// Scale of our windows on the wire.
    #[inline]
    pub(super) fn scale(&self) -> u8 {
        self.window.scale()
    }

    /// The reader gave bytes back, smoltcp permits windows up to `permit`. Whether the peer should hear of it.
    #[inline]
    pub(super) fn on_read(&mut self, permit: u64, (srtt, mss): (u64, u16), step: u64, now: u64) -> bool {
        self.window.consumed(self.credited, now, srtt, u32::from(mss));
        self.window.is_worth(permit, self.credited, self.nxt(), step)
    }

    /// Right edge of the window that the reader's pace calls for.
    #[inline]
    pub(super) fn wish(&self) -> u64 {
        self.window.wish(self.credited)
    }

    /// Offers more, as far as smoltcp, memory and reader go. Whether the edge moved.
    #[inline]
    pub(super) fn advance_edge(
        &mut self,
        permit: u64,
        m: &mut Memory,
        now: u64,
        mss: u16,
        st: &mut FlowCounters,
    ) -> bool {
        let nxt = self.nxt();
        if nxt == 0 {
            return false; // what its SYN offered will do until something comes
        }
        let (moved, held_back) = self.window.advance((nxt, self.credited, self.held()), permit, m, now, mss);
        st.window_held += u64::from(held_back);
        if moved && self.window.is_news(nxt) {
            self.ack_due = AckDue::Now;
        }
        moved
    }

    /// The window is held back for want of pool memory.
    #[inline]
    pub(super) fn is_starved(&self) -> bool {
        self.window.is_starved()
    }

    // ---- acknowledgements ----

    /// An ACK has to go out at this turn.
    #[inline]
    pub(super) fn ack_now(&mut self) {
        self.ack_due = AckDue::Now;
    }

    /// An ACK has to go out with data, or at the next turn.
    #[inline]
    pub(super) fn ack_soon(&mut self) {
        self.ack_due = self.ack_due.max(AckDue::Soon);
    }

    /// Whether ACKs have to go out at this turn. A peer without SACK counts duplicate ACKs, one for each segment out
    /// of order (RFC 5681 §3.2).
    #[inline]
    pub(super) fn owes(&self) -> bool {
        self.dup_acks_due > 0 || self.ack_due == AckDue::Now || self.sacks.owes()
    }

    /// Whether no ACK is due for another reason than that bytes were received in order.
    #[inline]
    pub(super) fn only_bytes_due(&self) -> bool {
        self.ack_due == AckDue::No && self.dup_acks_due == 0 && !self.sacks.owes()
    }

    /// A bare ACK went out: one duplicate less is due.
    pub(super) fn dup_ack_sent(&mut self) {
        self.dup_acks_due = self.dup_acks_due.saturating_sub(1);
    }

    /// A segment with an ACK is out, with `bare` options or those of payload.
    #[inline]
    pub(super) fn acked_now(
        &mut self,
        stamps: &Stamps,
        (bare, now): (bool, u64),
        c: &mut Counters,
        st: &mut FlowCounters,
    ) {
        self.window.stamped(stamps.val(now), now);
        self.acked = self.nxt();
        self.window.told();
        self.ack_due = AckDue::No;
        if self.reports() {
            let room = sack_room(stamps);
            let (blocks, dups) = self.sacks.blocks(&self.ooo, room, bare);
            c.sack_blocks += blocks.len() as u64;
            c.dsacks += dups as u64;
            st.sack_blocks_out += blocks.len() as u64;
            st.dsacks_out += dups as u64;
            self.sacks.sent(&self.ooo, room, bare);
        }
    }

    /// Whether segments carry SACK blocks.
    #[inline]
    fn reports(&self) -> bool {
        self.sack && (!self.ooo.is_empty() || self.sacks.owes())
    }

    /// Options of every segment but a SYN; `bare` says that it has no payload.
    #[inline]
    pub(super) fn options(&self, stamps: &Stamps, now: u64, bare: bool) -> OptBytes {
        let mut o = OptBytes::plain(stamps.option(now));
        if self.reports() {
            let (blocks, _) = self.sacks.blocks(&self.ooo, sack_room(stamps), bare);
            let wire = |r: &Range<u64>| SackBlock { left: self.seq(r.start), right: self.seq(r.end) };
            o.add_sack(&blocks.iter().map(wire).collect::<ArrayVec<_, SACK_MAX>>());
        }
        o
    }

    // ---- for those who ask ----

    /// Memory of the queue, in bytes; buffers not counted.
    pub(super) fn memory(&self) -> usize {
        self.ready.capacity() * size_of::<RxFrag>()
    }

    /// Pool memory behind bytes out of order.
    pub(super) fn out_of_order(&self) -> u64 {
        self.ooo.truesize()
    }

    pub(super) fn report(&self, r: &mut ConnStats) {
        r.recv_queue = Some(self.nxt - self.handed.min(self.nxt));
        r.out_of_order_bytes = Some(self.ooo.truesize());
        r.rcv_wnd = Some(self.window_left());
    }
}

/// SACK blocks that an option of ours takes.
#[inline]
fn sack_room(stamps: &Stamps) -> usize {
    if stamps.on() { SACK_MAX - 1 } else { SACK_MAX }
}
