//! The receive window: how much each connection may be sent, and what of the lcore's memory stands behind it.
//!
//! ```text
//!   read and credited    unread                offered              permitted by smoltcp
//!   ─────────────────┬─────────────┬─────────────────────────┬───────────────────────────┐
//!                 credited        nxt                      edge                       permit
//!                    └──────── size, grown by what is read a round trip ┘
//! ```
//!
//! *How large.* The window starts at [`INITIAL`] bytes and grows by dynamic right-sizing (Fisk and Feng 2001, as in
//! Linux): twice what the reader took in one round trip, four times while that still rises, so that it stays ahead of
//! a sender in slow start. A reader that does not read gets no more. It ends at `StackConfig::rx_window`.
//!
//! *Which round trip.* A connection that only receives measures it by its own timestamps: the first segment with
//! payload that echoes a tick answers the first ACK that carried it, and that is timed in ns. Without timestamps it
//! is the sender's estimate, which begins with the handshake.
//!
//! *How much memory.* Everything is counted in pool memory, not in bytes: a buffer of 9 KiB with one byte in it is
//! 9 KiB. Of the memory that is free and not promised to others, one connection is promised half, and never so much
//! that what it holds already and the promise together exceed it, nor more than its host's share ([`crate::memory`]).
//! A connection that holds nothing is offered two segments even where all is promised, as long as memory is free. The
//! edge never moves back (RFC 9293 §3.8.6); a connection that was silent may come back to a promise that memory, or its
//! host's share, no longer covers: what finds no memory then is dropped, counted, and comes again.

use crate::addr::Addr;
use crate::memory::{Memory, Promise};
use crate::opts::Ts;
use crate::stamps::before;

/// Window that a connection begins with, in bytes: a round trip of 40 µs at 50 Gb/s.
pub(crate) const INITIAL: u32 = 256 << 10;
/// Bytes in order that wait for a reader may occupy so many times the memory that is open to others.
const READY_PART: u64 = 4;
/// Segments that a connection without anything unread is offered whatever others were promised, while memory is free.
const LITTLE: u64 = 2;
/// Round trip assumed where nothing was measured, in ns.
const UNKNOWN_RTT: u64 = 1_000_000;

/// The window that one connection offers: its size, and how far it is offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RxWindow {
    /// Right edge offered, as an offset of the stream, and as the peer last heard of it.
    edge: u64,
    sent_edge: u64,
    /// Recent payload and the pool memory behind it: what a window costs.
    density: (u32, u32),
    scale: u8,
    /// It is held back for want of pool memory.
    starved: bool,
    size: u32,
    /// Bytes read in the last round.
    last: u32,
    /// Where the round began: offset read, time.
    mark: u64,
    mark_at: u64,
    /// Round-trip time by our own timestamps, in ns; 0 for none.
    rtt: u64,
    /// The tick that is timed, and when the first segment with it was sent; `timing` until its echo comes.
    tick: u32,
    tick_at: u64,
    timing: bool,
    /// TSval of the last segment sent.
    val: u32,
    promise: Promise,
}

impl RxWindow {
    pub(crate) fn new(now: u64) -> RxWindow {
        RxWindow {
            edge: 0,
            sent_edge: 0,
            density: (1, 1),
            scale: 0,
            starved: false,
            size: INITIAL,
            last: 0,
            mark: 0,
            mark_at: now,
            rtt: 0,
            tick: 0,
            tick_at: 0,
            timing: false,
            val: 0,
            promise: Promise::default(),
        }
    }

    /// A segment with TSval `val` goes out.
    #[inline]
    pub(crate) fn stamped(&mut self, val: u32, now: u64) {
        if val != self.val {
            self.val = val;
            if !self.timing {
                (self.tick, self.tick_at, self.timing) = (val, now, true);
            }
        }
    }

    /// Payload came with these timestamps.
    #[inline]
    pub(crate) fn echoed(&mut self, ts: Option<Ts>, now: u64) {
        let Some(t) = ts.filter(|t| self.timing && !before(t.ecr, self.tick)) else { return };
        self.timing = false;
        // A later tick: the peer never saw this one as its last, and there is nothing to learn.
        if t.ecr == self.tick {
            let r = now.saturating_sub(self.tick_at).max(1);
            // A sender without data makes a sample long; so short ones count at once.
            self.rtt = if self.rtt == 0 || r < self.rtt { r } else { self.rtt + (r - self.rtt) / 8 };
        }
    }

    /// `read` is where the reader is; `srtt` the sender's estimate, or 0.
    pub(crate) fn consumed(&mut self, read: u64, now: u64, srtt: u64, mss: u32) {
        let rtt = [self.rtt, srtt, UNKNOWN_RTT].into_iter().find(|r| *r > 0).unwrap_or(UNKNOWN_RTT);
        if now.saturating_sub(self.mark_at) < rtt {
            return;
        }
        let n = (read - self.mark).min(1 << 30) as u32;
        let times = if n > self.last.saturating_add(self.last / 4) { 4 } else { 2 };
        let want = n.saturating_mul(times).saturating_add(16 * mss);
        self.size = self.size.max(want);
        (self.mark, self.mark_at, self.last) = (read, now, n);
    }

    /// Our SYN offers the window up to `edge`; later ones are scaled on the wire.
    pub(crate) fn offer(&mut self, edge: u64, scale: u8) {
        (self.edge, self.sent_edge, self.scale) = (edge, edge, scale);
    }

    /// The peer does not scale windows.
    pub(crate) fn unscaled(&mut self) {
        self.scale = 0;
    }

    /// Scale on the wire.
    #[inline]
    pub(crate) fn scale(&self) -> u8 {
        self.scale
    }

    /// Right edge offered.
    #[inline]
    pub(crate) fn edge(&self) -> u64 {
        self.edge
    }

    /// Bytes left of it, where `nxt` is the next offset expected.
    #[inline]
    pub(crate) fn left(&self, nxt: u64) -> u64 {
        self.edge.saturating_sub(nxt)
    }

    /// The window field that fits what was last offered.
    #[inline]
    pub(crate) fn field(&self, nxt: u64) -> u16 {
        (self.left(nxt) >> self.scale).min(65_535) as u16
    }

    /// The peer is told of the edge.
    #[inline]
    pub(crate) fn told(&mut self) {
        self.sent_edge = self.edge;
    }

    /// It is held back for want of pool memory.
    #[inline]
    pub(crate) fn is_starved(&self) -> bool {
        self.starved
    }

    /// Right edge that the reader's pace calls for.
    #[inline]
    pub(crate) fn wish(&self, credited: u64) -> u64 {
        credited + u64::from(self.size)
    }

    /// The same, as far as smoltcp permits.
    #[inline]
    fn wanted(&self, permit: u64, credited: u64) -> u64 {
        permit.min(self.wish(credited))
    }

    /// Whether the edge that the reader's pace calls for is worth a segment of its own.
    #[inline]
    pub(crate) fn is_worth(&self, permit: u64, credited: u64, nxt: u64, step: u64) -> bool {
        let edge = self.wanted(permit, credited);
        edge >= self.edge + step && self.doubles(edge, nxt)
    }

    /// Whether `edge` doubles what the peer still has, as far as it knows. Until something was received the next ACK
    /// is soon enough.
    #[inline]
    fn doubles(&self, edge: u64, nxt: u64) -> bool {
        nxt > 0 && edge.saturating_sub(nxt) >= 2 * self.sent_edge.saturating_sub(nxt)
    }

    /// Whether the edge offered has to be told at once.
    #[inline]
    pub(crate) fn is_news(&self, nxt: u64) -> bool {
        self.edge > self.sent_edge && self.doubles(self.edge, nxt)
    }

    /// Offers more to a connection that expects `nxt`, has read up to `credited` and holds `held` bytes of pool memory,
    /// as far as memory and smoltcp (`permit`) go. The edge moves in steps worth a segment (RFC 9293 §3.8.6.2.2) and
    /// never back. Whether it moved, and whether it is held back now and was not before.
    #[inline]
    pub(crate) fn advance(
        &mut self,
        (nxt, credited, held): (u64, u64, u64),
        permit: u64,
        m: &mut Memory,
        now: u64,
        mss: u16,
    ) -> (bool, bool) {
        let (want, step) = (self.wanted(permit, credited), u64::from(mss).min(u64::from(self.size) / 2));
        if want < self.edge + step {
            // Not worth a step: what memory there is makes no difference.
            self.starved = false;
            m.holds(&mut self.promise, held);
            return (false, false);
        }
        let (bytes, cost) = (u64::from(self.density.0.max(1)), u64::from(self.density.1.max(1)));
        let (open, share) = m.offers(&mut self.promise, held, now);
        let pool = (open / 2).min(open.saturating_sub(held)).min(share);
        let mut limit = nxt + pool.saturating_mul(bytes) / cost;
        // A connection that holds nothing may always be sent a little: promises to others must not silence it.
        let little = LITTLE * u64::from(mss);
        if held == 0 && m.has_little(&self.promise, little.saturating_mul(cost) / bytes) {
            limit = limit.max(nxt + little);
        }
        let was = std::mem::replace(&mut self.starved, limit < want);
        let target = want.min(limit);
        let moved = target >= self.edge + step;
        if moved {
            self.edge = target;
            let left = self.left(nxt);
            m.set(&mut self.promise, (left.saturating_mul(cost) / bytes).min(share));
        }
        (moved, self.starved && !was)
    }

    /// Whether a segment whose buffers occupy `weight` bytes may be kept beside `held` others: as long as the promise
    /// lasts, and beyond it (the peer puts less into a buffer than it did) as long as this connection has its part and
    /// no more, which for what is `next` in order is the larger one, and its host has its.
    #[inline]
    pub(crate) fn may_hold(
        &mut self,
        m: &mut Memory,
        (weight, held): (u64, u64),
        next: bool,
        now: u64,
    ) -> bool {
        self.received(m, now);
        let left = self.promise.bytes;
        let part = if next { READY_PART } else { 1 };
        let fits = (left >= weight && m.covers(weight))
            || (held + weight <= m.open_to(&self.promise, now).saturating_mul(part)
                && m.may_hold(&self.promise, weight, now));
        m.took(&mut self.promise, weight, fits);
        fits
    }

    /// Whether the next bytes in order may be kept, of `weight`, for a reader that waits, though [`RxWindow::may_hold`]
    /// says no: nothing before them is unread.
    #[inline]
    pub(crate) fn may_begin(&self, m: &mut Memory, weight: u64) -> bool {
        m.may_begin(&self.promise, weight)
    }

    /// The connection holds this much pool memory now.
    #[inline]
    pub(crate) fn holds(&mut self, m: &mut Memory, held: u64) {
        m.holds(&mut self.promise, held);
    }

    /// The connection is one of the host at `addr`.
    pub(crate) fn join(&mut self, m: &mut Memory, addr: &Addr) {
        self.promise = m.join(addr);
    }

    /// It is one no more, and holds nothing.
    pub(crate) fn leave(&mut self, m: &mut Memory) {
        m.leave(std::mem::take(&mut self.promise));
    }

    /// Keeps the running ratio of payload to pool memory.
    #[inline]
    pub(crate) fn weigh(&mut self, len: u32, truesize: u32) {
        let (b, t) = &mut self.density;
        *b += len;
        *t += truesize.max(len);
        if *t > 1 << 20 {
            *b = *b / 2 + 1;
            *t /= 2;
        }
    }

    /// Bytes were received, or the connection is open.
    #[inline]
    pub(crate) fn received(&mut self, m: &mut Memory, now: u64) {
        m.received(&mut self.promise, self.edge, now);
    }

    /// The connection ends: nothing is promised to it any more.
    pub(crate) fn end(&mut self, m: &mut Memory) {
        m.set(&mut self.promise, 0);
        self.starved = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn the_window_is_ahead_of_slow_start_and_follows_a_steady_reader() {
        let mut w = RxWindow::new(0);
        let (rtt, mut read, mut now) = (40_000, 0, 0);
        let mut sizes = vec![];
        for k in 0..6 {
            let flight = 90_000u64 << k;
            assert!(u64::from(w.size) >= flight, "round {k}: {} offered", w.size);
            (read, now) = (read + flight, now + rtt);
            w.consumed(read, now, rtt, 8948);
            sizes.push(w.size);
        }
        for _ in 0..10 {
            (read, now) = (read + 1_000_000, now + rtt);
            w.consumed(read, now, rtt, 8948);
        }
        assert_eq!(w.size, sizes[5], "no more than it grew to");
        let mut w = RxWindow::new(0);
        for i in 1..1000 {
            w.consumed(i * 1000, i * rtt, rtt, 1000);
        }
        assert_eq!(w.size, INITIAL, "a trickle needs no more than that");
    }

    #[test]
    fn within_a_round_trip_nothing_is_concluded() {
        let mut w = RxWindow::new(0);
        w.consumed(200_000, 10 * MS, 20 * MS, 1448);
        assert_eq!(w.size, INITIAL);
        w.consumed(300_000, 20 * MS, 20 * MS, 1448);
        assert_eq!(w.size, 1_200_000 + 16 * 1448);
    }

    #[test]
    fn the_first_echo_of_a_tick_times_the_round_trip() {
        let mut w = RxWindow::new(0);
        let ts = |ecr| Some(Ts { val: 0, ecr });
        w.stamped(7, 1000);
        w.stamped(7, 50_000);
        w.echoed(ts(6), 30_000);
        assert_eq!(w.rtt, 0);
        w.echoed(ts(7), 41_000);
        w.echoed(ts(7), 900_000);
        assert_eq!(w.rtt, 40_000, "the first segment with the tick to the first that echoes it");
        w.stamped(8, MS);
        w.echoed(ts(8), MS + 120_000);
        assert_eq!(w.rtt, 50_000, "longer ones count an eighth");
        w.stamped(9, 2 * MS);
        w.stamped(10, 3 * MS);
        w.echoed(ts(9), 2 * MS + 30_000);
        assert_eq!(w.rtt, 30_000, "a tick that comes meanwhile changes nothing");
        w.stamped(10, 4 * MS);
        w.echoed(ts(10), 4 * MS + 1);
        assert_eq!(w.rtt, 30_000, "it was sent before it could be timed");
        w.stamped(11, 5 * MS);
        w.echoed(ts(12), 5 * MS + 1);
        assert_eq!((w.rtt, w.timing), (30_000, false), "skipped");
    }
}
