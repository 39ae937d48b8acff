//! The sending side's judgement: what is lost, how much may be out, and when to act without word from the peer.
//!
//! ```text
//!   ACK ──> Scoreboard ── what arrived ──> Rack ── what is lost ──> State ──┬─> Cc, Prr ──> room()
//!     │      (RFC 2018)                    (RFC 8985)   (recover.rs)         └─> next_lost()
//!     └──> NewReno, where the peer has no SACK (RFC 6582)
//!   silence ──> deadline(): reordering window over | tail loss probe | RTO (RFC 6298)
//! ```
//!
//! The window acts where bytes are sent: lost ones first, then new ones, each while there is [`Sender::room`]. A
//! reduction that proves needless is undone: when D-SACKs account for every byte that was sent again (RFC 3708), or
//! when the first answer to a resend carries a timestamp from before it (Eifel, RFC 3522 and 4015).

use std::ops::Range;

use fsm::Fsm;

use crate::cc::{Ack, Cc, Congestion, CongestionControl};
use crate::newreno::NewReno;
use crate::prr::Prr;
use crate::rack::{self, Rack};
use crate::recover::{Event, State};
use crate::rtt::{RtoLimits, Rtt};
use crate::scoreboard::{Record, Scoreboard};
use crate::tlp::{self, Ended, Tlp};

mod in_order;
mod silence;

pub use silence::Silence;

/// No timer.
pub const NEVER: u64 = u64::MAX;

/// Facts about the connection, and the time, for each call.
pub struct Ctx<'a> {
    /// The time in ns.
    pub now: u64,
    /// Payload of a full segment, in bytes.
    pub mss: u32,
    /// Round-trip estimate.
    pub rtt: &'a mut Rtt,
    /// Bounds of the time-out.
    pub limits: &'a RtoLimits,
}

impl Ctx<'_> {
    #[inline]
    fn rto(&self) -> u64 {
        self.rtt.rto(self.limits)
    }
}

/// An acknowledgement, in stream offsets; everything in it has been checked to lie within what was sent.
pub struct AckIn<'a> {
    /// Everything before this is acknowledged.
    pub una: u64,
    /// It counts as a duplicate (RFC 5681 §2).
    pub dup: bool,
    /// SACK blocks behind `una`.
    pub blocks: &'a mut [Range<u64>],
    /// Bytes that arrived twice (RFC 2883).
    pub dsack: Option<Range<u64>>,
    /// Round trip by timestamps, in ns.
    pub echo: Option<u64>,
    /// Most bytes to send again at a time where the size of a hole is not known.
    pub hole_max: u32,
}

/// Results of an acknowledgement, for the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Fast recovery began.
    pub entered: bool,
    /// A reduction was undone.
    pub undone: bool,
    /// A probe turned out to have repaired a loss.
    pub probe_repaired: bool,
    /// Reordering was seen for the first time.
    pub reordering: bool,
    /// The peer let go of what it had sacked.
    pub reneged: bool,
    /// Blocks that would have cut too many records.
    pub ignored: u32,
}

/// Resends of the recovery under way, or of the last one: whether all of it was for nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Undo {
    /// Something was reduced, and could be restored.
    armed: bool,
    /// First byte that was out when it began.
    from: u64,
    /// Time at which the first byte was sent again, in ns; 0 when none was.
    at: u64,
    /// Bytes sent again that no D-SACK has accounted for.
    left: u64,
    /// The answer to the first resend has come.
    answered: bool,
}

/// The sending side of one connection.
pub struct Sender {
    board: Scoreboard,
    rack: Rack,
    tlp: Tlp,
    state: Fsm<State>,
    cc: Cc,
    prr: Prr,
    newreno: NewReno,
    undo: Undo,
    /// Window in recovery.
    cwnd: u64,
    /// Recovery ends when this is acknowledged.
    recover: u64,
    /// First byte not acknowledged at the last time-out.
    timeout_una: u64,
    /// Bytes sent again that no D-SACK has accounted for, in all.
    resent: u64,
    /// The peer has promised SACK, and has sent a block of it: what lies between may take the blocks away.
    sack: bool,
    blocks_seen: bool,
    /// One segment may go beyond the window.
    force: bool,
    /// Something waited for the window in this round trip, which ends when `round` is acknowledged.
    gated: bool,
    round: u64,
    /// Most in flight in it.
    peak: u64,
    /// Both, of the round trip before.
    before: (bool, u64),
    last_sent: u64,
    /// Bytes that arrived behind a gap: the window grows by them when the gap is filled.
    owed: u64,
    rto_at: u64,
    pto_at: u64,
    reo_at: u64,
}

impl Sender {
    /// The sending side of a connection with segments of `mss` bytes. `delay` is how long the peer may delay an
    /// ACK, in ns.
    pub fn new(which: Congestion, mss: u32, sack: bool, delay: u64) -> Sender {
        Sender {
            board: Scoreboard::default(),
            rack: Rack::default(),
            tlp: Tlp::new(delay),
            state: Fsm::START,
            cc: Cc::new(which, mss),
            prr: Prr::default(),
            newreno: NewReno::default(),
            undo: Undo::default(),
            cwnd: 0,
            recover: 0,
            timeout_una: NEVER,
            resent: 0,
            sack,
            blocks_seen: false,
            force: false,
            gated: false,
            round: 0,
            peak: 0,
            before: (false, 0),
            last_sent: 0,
            owed: 0,
            rto_at: NEVER,
            pto_at: NEVER,
            reo_at: NEVER,
        }
    }

    /// Our SYN, or its answer, was sent twice: the initial window is one segment (RFC 5681 §3.1).
    pub fn syn_was_lost(&mut self, mss: u32) {
        self.cc.on_timeout(0, mss, false);
    }

    /// Round trip of the handshake, in ns.
    pub fn on_handshake(&mut self, rtt: u64, now: u64) {
        self.rack.min_rtt.sample(rtt, now);
    }

    /// State of recovery.
    pub fn state(&self) -> State {
        self.state.get()
    }

    /// The algorithm in charge of the window.
    pub fn cc(&self) -> &Cc {
        &self.cc
    }

    /// Records of the bytes that are out.
    pub fn board(&self) -> &Scoreboard {
        &self.board
    }

    /// Least round-trip time of late, in ns; 0 before the first sample.
    pub fn min_rtt(&self) -> u64 {
        self.rack.min_rtt.get()
    }

    /// The window, in bytes.
    #[inline]
    pub fn cwnd(&self) -> u64 {
        if self.state == State::Recovery { self.cwnd } else { self.cc.window().cwnd }
    }

    /// Slow start threshold in bytes; `u64::MAX` before the first loss.
    pub fn ssthresh(&self) -> u64 {
        self.cc.window().ssthresh
    }

    /// RACK's reordering window now, in ns.
    pub fn reo_wnd(&self, srtt: u64, mss: u32) -> u64 {
        let c = rack::Ctx { now: 0, srtt, recovering: self.state.get().recovering(), mss };
        self.rack.window(self.board.sacked(), &c)
    }

    /// Duplicate ACKs are all there is to go by.
    #[inline]
    fn plain(&self) -> bool {
        !(self.sack && self.blocks_seen)
    }

    /// Bytes in flight, as far as is known (RFC 6675 `pipe`).
    #[inline]
    pub fn pipe(&self, mss: u32) -> u64 {
        let flight = self.board.flight();
        if !self.plain() || self.state == State::Loss {
            return flight;
        }
        // Without SACK each duplicate ACK is a segment that has left the network; the last one is never believed.
        let gone = u64::from(self.newreno.arrived()) * u64::from(mss);
        flight - gone.min(flight.saturating_sub(u64::from(mss)))
    }

    /// Bytes that may be sent now. Less than a segment is none, but for what ends with a short one.
    #[inline]
    pub fn room(&self, mss: u32) -> u64 {
        let pipe = self.pipe(mss);
        let room = self.cwnd().saturating_sub(pipe);
        if self.force || pipe == 0 { room.max(u64::from(mss)) } else { room }
    }

    /// Bytes of `len` to send now: whole segments, or all. 0 when the window does not allow it, which is
    /// remembered.
    #[inline]
    pub fn grant(&mut self, len: u64, mss: u32) -> u64 {
        let room = self.room(mss);
        if len <= room {
            return len;
        }
        self.gated = true;
        room - room % u64::from(mss.max(1))
    }

    /// The first bytes to send again.
    #[inline]
    pub fn next_lost(&mut self) -> Option<Range<u64>> {
        self.board.next_lost()
    }

    /// Whether something is to be sent again.
    #[inline]
    pub fn has_lost(&self) -> bool {
        self.board.lost() > 0
    }

    /// Time at which silence has to be acted on, in ns; [`NEVER`] when nothing is out.
    #[inline]
    pub fn deadline(&self) -> u64 {
        self.rto_at.min(self.pto_at).min(self.reo_at)
    }

    #[inline]
    fn arm_probe(&mut self, c: &Ctx<'_>) {
        let out = self.board.end() - self.board.una();
        self.pto_at = NEVER;
        if self.sack && self.state != State::Loss && out > 0 && self.reo_at == NEVER {
            let t = tlp::Ctx { now: c.now, srtt: c.rtt.srtt(), lone: out <= u64::from(c.mss) };
            self.pto_at = Some(self.tlp.due(&t)).filter(|at| *at < self.rto_at).unwrap_or(NEVER);
        }
    }

    /// Before new data: nothing was out for longer than a time-out (RFC 5681 §4.1)?
    #[inline]
    pub fn before_send(&mut self, c: &Ctx<'_>) {
        if self.board.una() == self.board.end()
            && self.last_sent > 0
            && c.now.saturating_sub(self.last_sent) > c.rto()
        {
            self.cc.on_idle(c.mss);
            self.last_sent = c.now;
        }
    }

    /// Bytes up to `end` were sent for the first time.
    #[inline]
    pub fn sent(&mut self, end: u64, c: &Ctx<'_>) {
        let n = end - self.board.end().min(end);
        self.board.sent(end, c.now, c.mss);
        self.went_out(n, c);
        self.peak = self.peak.max(self.pipe(c.mss));
        if self.rto_at == NEVER {
            self.rto_at = c.now + c.rto();
        }
        self.arm_probe(c);
    }

    fn went_out(&mut self, n: u64, c: &Ctx<'_>) {
        self.last_sent = c.now;
        self.force = false;
        if self.state == State::Recovery {
            self.prr.sent(n);
        }
    }

    /// The first `n` bytes of [`Sender::next_lost`] were sent again.
    pub fn sent_again(&mut self, n: u32, c: &Ctx<'_>) {
        let head = self.next_lost().is_some_and(|r| r.start == self.board.una());
        self.board.resent(n, c.now, c.mss);
        self.went_out(u64::from(n), c);
        self.resent += u64::from(n);
        if self.state.get().recovering() {
            self.undo.left += u64::from(n);
            if self.undo.at == 0 {
                self.undo.at = c.now.max(1);
            }
        }
        if head || self.rto_at == NEVER {
            self.rto_at = c.now + c.rto();
        }
        self.arm_probe(c);
    }

    /// Times what is out anew, after an ACK that brought `got` bytes, or `news`.
    #[inline]
    fn rearm(&mut self, news: bool, got: u64, c: &Ctx<'_>) {
        if self.board.una() == self.board.end() {
            (self.rto_at, self.pto_at, self.reo_at) = (NEVER, NEVER, NEVER);
        } else {
            if news {
                self.rto_at = c.now + c.rto();
            }
            if got > 0 {
                self.arm_probe(c);
            }
        }
    }

    /// Takes in an acknowledgement. `original(t)` says whether it was caused by something sent before time `t` (ns),
    /// as its timestamp tells.
    #[inline]
    pub fn on_ack(&mut self, a: &mut AckIn<'_>, original: impl Fn(u64) -> bool, c: &mut Ctx<'_>) -> Heard {
        let mut h = Heard::default();
        let una = self.board.una();
        let news = a.una > una;
        let out = self.board.end() - una;
        let sacked = self.board.sacked();

        // Arrivals in order of sequence, so that reordering is not seen where there is none.
        let (rack, mss, now) = (&mut self.rack, c.mss, c.now);
        let (mut newest, mut answers) = (0, false);
        let resent_at = if self.undo.at == 0 { NEVER } else { self.undo.at };
        let mut arrived = |r: &Record, newest: &mut u64| {
            h.reordering |= rack.delivered(r, now, r.resent && original(r.sent_at));
            if !r.resent {
                *newest = r.sent_at.max(*newest);
            }
        };
        let cum = self.board.ack(a.una, |r| {
            answers |= r.resent && r.sent_at >= resent_at;
            arrived(r, &mut newest);
        });
        let mut got = cum.delivered;
        if cum.resent > 0 {
            newest = 0; // what followed the hole may have been there for long
        }
        if !a.blocks.is_empty() {
            self.blocks_seen = true;
            a.blocks.sort_unstable_by_key(|b| b.start);
            for b in a.blocks.iter() {
                let (s, taken) = self.board.sack(b.clone(), mss, |r| arrived(r, &mut newest));
                got += s.delivered;
                h.ignored += u32::from(!taken);
            }
        }
        let lone = out <= u64::from(mss) && a.una == una + out;
        self.take_rtt(newest, news, lone, a.echo, c);
        h.reneged = cum.reneged;
        if cum.reneged {
            self.board.lose_all(true);
        }

        // Without SACK a duplicate ACK stands for a segment, which the next ACK of new data covers.
        let mut first = false;
        if self.plain() {
            let credit = u64::from(self.newreno.arrived()) * u64::from(mss);
            if news {
                got = got.saturating_sub(credit).max(1);
                self.newreno.acked();
            } else if a.dup {
                got += u64::from(mss);
                first = self.newreno.dup(una);
            }
        }

        if let Some(d) = &a.dsack {
            self.take_dsack(d);
        }
        h.undone = self.undo_if_needless(answers, &original);
        match self.tlp.answered(a.una, a.dsack.as_ref(), got > 0, a.blocks.is_empty() && a.dsack.is_none()) {
            Some(Ended::Repaired) if !self.state.get().recovering() => {
                h.probe_repaired = true;
                self.reduce(c);
                self.cc.on_recovered();
                self.undo.armed = false;
            }
            _ => (),
        }
        if self.state.get().recovering() && a.una >= self.recover {
            self.finish();
        }

        let lost = if cum.reneged { self.board.lost() } else { self.find_lost(first, news, a.hole_max, c) };
        if lost > 0 && !self.state.get().recovering() {
            // Bytes sacked before this ACK are not among those that recovery sees delivered.
            self.enter(out - sacked, c);
            h.entered = true;
        }
        self.note_gap();
        self.adapt(got, news, news && lost == 0, c);
        self.rearm(news, got, c);
        h
    }

    fn take_rtt(&mut self, newest: u64, news: bool, lone: bool, echo: Option<u64>, c: &mut Ctx<'_>) {
        if newest > 0 {
            let r = c.now.saturating_sub(newest);
            self.rack.min_rtt.sample(r, c.now);
            if lone {
                self.tlp.lone_acked(r.saturating_sub(self.rack.min_rtt.get()));
            }
        }
        let direct = (newest > 0).then(|| c.now.saturating_sub(newest));
        c.rtt.on_ack(direct, echo, news, c.now);
    }

    fn take_dsack(&mut self, d: &Range<u64>) {
        let n = d.end - d.start;
        if self.resent < n {
            return; // the network doubled it: nothing that we sent twice
        }
        self.resent -= n;
        self.rack.dsack(self.board.una(), self.board.end());
        if self.undo.armed && d.start >= self.undo.from {
            self.undo.left = self.undo.left.saturating_sub(n);
        }
    }

    /// Restores the window when what was sent again is known to have arrived before. `answers` says that the ACK
    /// covers something that this recovery sent again.
    fn undo_if_needless(&mut self, answers: bool, original: impl Fn(u64) -> bool) -> bool {
        if !self.undo.armed || self.undo.at == 0 {
            return false;
        }
        let by_dsack = self.undo.left == 0;
        let by_echo = answers && !self.undo.answered && original(self.undo.at);
        self.undo.answered |= answers;
        if !by_dsack && !by_echo {
            return false;
        }
        self.undo.armed = false;
        self.cc.undo();
        if self.state.get().recovering() {
            self.board.unlose();
            self.finish_as_is();
        }
        true
    }

    /// Looks for losses; returns how many bytes are newly deemed lost.
    fn find_lost(&mut self, first: bool, news: bool, hole_max: u32, c: &Ctx<'_>) -> u64 {
        let una = self.board.una();
        if !self.plain() {
            return self.detect(c);
        }
        if first && !self.state.get().recovering() {
            let r = self.newreno.first(una, c.mss);
            return self.board.lose(r);
        }
        if news && self.state == State::Recovery {
            let r = self.newreno.partial(una, self.recover, c.mss, hole_max);
            return r.map_or(0, |r| self.board.lose(r));
        }
        0
    }

    fn detect(&mut self, c: &Ctx<'_>) -> u64 {
        // Nothing overtook anything: an ACK in order costs no look at the records.
        if self.board.sacked() == 0 && !self.state.get().recovering() && self.board.lost() == 0 {
            self.reo_at = NEVER;
            return 0;
        }
        let k = rack::Ctx {
            now: c.now,
            srtt: c.rtt.srtt(),
            recovering: self.state.get().recovering(),
            mss: c.mss,
        };
        let f = self.rack.detect(&mut self.board, &k);
        self.reo_at = f.again;
        f.lost
    }

    /// Bytes that were in flight, for the algorithm: all of the window if that was the limit.
    fn used(&self) -> u64 {
        let out = self.board.end() - self.board.una();
        let w = self.cc.window();
        match self.state.get() {
            // The window has not been taken over from recovery yet.
            State::Recovery => out.min(w.ssthresh),
            _ if self.gated || self.before.0 => w.cwnd,
            _ => out.min(w.cwnd),
        }
    }

    fn reduce(&mut self, c: &Ctx<'_>) {
        let used = self.used();
        self.owed = 0;
        self.cc.on_loss(used, c.mss);
    }

    fn enter(&mut self, before: u64, c: &Ctx<'_>) {
        self.reduce(c);
        let _ = self.state.apply(Event::Lost);
        self.recover = self.board.end();
        self.prr = Prr::start(before, self.cc.window().ssthresh);
        self.undo = Undo { armed: true, from: self.board.una(), ..Undo::default() };
        self.force = true;
        self.tlp.reset();
    }

    fn finish(&mut self) {
        if self.state == State::Recovery {
            self.cc.on_recovered();
        }
        self.finish_as_is();
    }

    fn finish_as_is(&mut self) {
        self.rack.recovered();
        self.newreno.recovered(self.board.una());
        let _ = self.state.apply(Event::Done { gap: self.gap() });
        self.timeout_una = NEVER;
    }

    fn gap(&self) -> bool {
        self.board.sacked() > 0 || (self.plain() && self.newreno.arrived() > 0)
    }

    #[inline]
    fn note_gap(&mut self) {
        let ev = if self.gap() { Event::Gap } else { Event::Whole };
        let _ = self.state.apply(ev);
    }

    /// Adapts the window to `got` bytes that arrived; `news` says that something was acknowledged in order.
    #[inline]
    fn adapt(&mut self, got: u64, news: bool, safe: bool, c: &Ctx<'_>) {
        let cwnd = self.cc.window().cwnd;
        let peak = self.peak.max(self.before.1);
        let limited = self.gated || self.before.0 || (cwnd < self.ssthresh() && cwnd < 2 * peak);
        if self.board.una() >= self.round {
            self.round = self.board.end();
            self.before = (self.gated, self.peak);
            (self.gated, self.peak) = (false, self.pipe(c.mss));
        }
        let mut a = Ack { acked: got, now: c.now, srtt: c.rtt.srtt(), mss: c.mss, limited };
        match self.state.get() {
            State::Recovery => {
                let pipe = self.pipe(c.mss);
                self.cwnd = pipe + self.prr.on_ack(got, pipe, c.mss, safe);
            }
            _ if got == 0 => (),
            State::Loss => {
                // Bytes that a resend's ACK covers may have arrived long before (RFC 3465 §2.3).
                a.acked = got.min(2 * u64::from(c.mss));
                a.limited = true;
                self.cc.on_ack(&a);
            }
            // RFC 5681 §3.1 and RFC 3042 §2: duplicate ACKs let new data out, but do not make the window grow.
            _ if !news => self.owed += got,
            State::Open | State::Disorder => {
                a.acked += std::mem::take(&mut self.owed);
                self.cc.on_ack(&a);
            }
        }
    }

    /// The path, which was gone, is back: what is out is asked for again at `at` (ns), or before.
    pub fn path_is_back(&mut self, at: u64) {
        if self.rto_at != NEVER {
            self.rto_at = self.rto_at.min(at);
        }
    }

    /// A router has dropped what is out for its size (RFC 1191 §6.4): it is sent again, cut anew. That says nothing
    /// of congestion, so the window stays as it is.
    pub fn too_big(&mut self) {
        let (una, end) = (self.board.una(), self.board.end());
        self.board.lose(una..end);
    }
}
