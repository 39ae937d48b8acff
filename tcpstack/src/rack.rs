//! RACK (RFC 8985 §6): what was sent well before something that has arrived is lost.
//!
//! "Well before" is the round trip of what arrived plus a window for reordering. The window is a quarter of the least
//! round trip seen; it grows by as much in each round trip in which a D-SACK showed that a resend was needless, and
//! falls back after 16 recoveries without one. Until reordering has been seen it is 0 in recovery, and as soon as
//! three segments are sacked. Because it goes by time of sending, a lost resend is found like any other loss.

use crate::scoreboard::{Record, Scoreboard, Verdict};

/// Sacked segments that stand for a loss as three duplicate ACKs do.
const DUP_THRESH: u64 = 3;
/// Recoveries without a D-SACK after which a widened window falls back (RFC 8985 §6.2).
const PERSIST: u8 = 16;
/// Time that a least round trip counts, in ns, before a path that became longer is believed.
const MIN_RTT_WINDOW: u64 = 10_000_000_000;

/// Least round-trip time of the last 10 to 20 seconds, in ns.
#[derive(Clone, Copy, Debug, Default)]
pub struct MinRtt {
    now: u64,
    before: u64,
    since: u64,
}

impl MinRtt {
    /// Takes in a sample in ns.
    pub fn sample(&mut self, rtt: u64, now: u64) {
        let rtt = rtt.max(1);
        if self.now == 0 || now.saturating_sub(self.since) > MIN_RTT_WINDOW {
            self.before = if self.now == 0 { rtt } else { self.now };
            (self.now, self.since) = (rtt, now);
        }
        self.now = self.now.min(rtt);
    }

    /// The least; 0 before the first sample.
    pub fn get(&self) -> u64 {
        self.now.min(self.before)
    }
}

/// Facts for [`Rack::detect`].
#[derive(Clone, Copy, Debug)]
pub struct Ctx {
    /// The time in ns.
    pub now: u64,
    /// Smoothed round-trip time in ns.
    pub srtt: u64,
    /// A recovery is under way.
    pub recovering: bool,
    /// Segment size in bytes.
    pub mss: u32,
}

/// Result of [`Rack::detect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Bytes newly deemed lost.
    pub lost: u64,
    /// Time at which to look again, in ns; `u64::MAX` when nothing is in doubt.
    pub again: u64,
}

/// RACK's state of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Rack {
    /// Time of sending, and end, of what was sent last of all that arrived.
    xmit: u64,
    end: u64,
    /// Its round-trip time in ns.
    rtt: u64,
    /// Least round-trip time.
    pub min_rtt: MinRtt,
    /// Highest end that arrived.
    fack: u64,
    reordering: bool,
    mult: u8,
    persist: u8,
    /// A D-SACK counts again once this is acknowledged.
    round: u64,
}

impl Default for Rack {
    fn default() -> Rack {
        Rack {
            xmit: 0,
            end: 0,
            rtt: 0,
            min_rtt: MinRtt::default(),
            fack: 0,
            reordering: false,
            mult: 1,
            persist: 0,
            round: 0,
        }
    }
}

#[inline]
fn sent_after(t1: u64, end1: u64, t2: u64, end2: u64) -> bool {
    t1 > t2 || (t1 == t2 && end1 > end2)
}

impl Rack {
    /// A record has arrived. `original` says that the acknowledgement was caused by an earlier transmission of it
    /// than the last one. Returns whether this is the first sign of reordering.
    #[inline]
    pub fn delivered(&mut self, r: &Record, now: u64, original: bool) -> bool {
        let (end, rtt) = (r.end(), now.saturating_sub(r.sent_at));
        let first = end < self.fack && !r.resent && !self.reordering;
        self.fack = self.fack.max(end);
        self.reordering |= first;
        // An answer to a resend that came sooner than any was to the transmission before it.
        if r.resent && (original || rtt < self.min_rtt.get()) {
            return first;
        }
        if sent_after(r.sent_at, end, self.xmit, self.end) {
            (self.xmit, self.end, self.rtt) = (r.sent_at, end, rtt);
        }
        first
    }

    /// A D-SACK has shown a resend to be needless; `una` and `end` bound what is out.
    pub fn dsack(&mut self, una: u64, end: u64) {
        self.persist = PERSIST;
        if una >= self.round {
            self.round = end.max(una + 1);
            self.mult = self.mult.saturating_add(1);
        }
    }

    /// A recovery is over.
    pub fn recovered(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.mult = 1;
        }
    }

    /// The reordering window now, in ns.
    pub fn window(&self, sacked: u64, c: &Ctx) -> u64 {
        if !self.reordering && (c.recovering || sacked >= DUP_THRESH * u64::from(c.mss)) {
            return 0;
        }
        (u64::from(self.mult) * self.min_rtt.get() / 4).min(c.srtt)
    }

    /// Whether reordering was ever seen.
    pub fn reordering(&self) -> bool {
        self.reordering
    }

    /// Marks what is lost by now.
    pub fn detect(&self, board: &mut Scoreboard, c: &Ctx) -> Found {
        let wait = self.rtt + self.window(board.sacked(), c);
        let mut again = u64::MAX;
        let lost = board.judge(|r| {
            if !sent_after(self.xmit, self.end, r.sent_at, r.end()) {
                // New data goes out in order, so what follows an original was sent even later.
                return if r.resent { Verdict::Keep } else { Verdict::Stop };
            }
            let due = r.sent_at + wait;
            if due <= c.now {
                return Verdict::Lost;
            }
            again = if again == u64::MAX { due } else { again.max(due) };
            Verdict::Keep
        });
        Found { lost, again }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 100;

    fn ctx(now: u64) -> Ctx {
        Ctx { now, srtt: 40, recovering: false, mss: MSS }
    }

    /// Ten segments sent at 0, 10, .. 90; round trips of 40.
    fn sent() -> (Scoreboard, Rack) {
        let mut b = Scoreboard::default();
        for i in 1..=10 {
            b.sent(i * 100, (i - 1) * 10, MSS);
        }
        let mut r = Rack::default();
        r.min_rtt.sample(40, 40);
        (b, r)
    }

    fn sack(b: &mut Scoreboard, r: &mut Rack, x: std::ops::Range<u64>, now: u64) {
        b.sack(x, MSS, |rec| {
            r.delivered(rec, now, false);
        });
    }

    #[test]
    fn what_was_sent_a_quarter_round_trip_before_what_arrived_is_lost() {
        let (mut b, mut r) = sent();
        sack(&mut b, &mut r, 100..200, 50);
        // Sent at 0; 40 of round trip and 10 of window: 50 is due now.
        assert_eq!(r.detect(&mut b, &ctx(49)), Found { lost: 0, again: 50 });
        assert_eq!(r.detect(&mut b, &ctx(50)), Found { lost: 100, again: u64::MAX });
        assert_eq!(b.next_lost(), Some(0..100));
    }

    #[test]
    fn three_sacked_segments_leave_no_doubt_unless_reordering_was_seen() {
        let (mut b, mut r) = sent();
        sack(&mut b, &mut r, 100..400, 41);
        assert_eq!(r.window(b.sacked(), &ctx(41)), 0);
        assert!(!r.reordering());
        b.ack(100, |rec| assert!(r.delivered(rec, 42, false), "the first to come late"));
        assert!(r.reordering());
        assert_eq!(r.window(300, &ctx(41)), 10);
        assert_eq!(r.window(300, &Ctx { recovering: true, ..ctx(41) }), 10);
    }

    #[test]
    fn a_lost_resend_is_found_by_what_was_sent_after_it() {
        let (mut b, mut r) = sent();
        sack(&mut b, &mut r, 100..500, 95);
        assert_eq!(r.detect(&mut b, &ctx(95)).lost, 100);
        b.resent(100, 95, MSS);
        b.sent(1100, 96, MSS);
        // Acknowledgements of what was sent before it say nothing of it.
        sack(&mut b, &mut r, 500..1000, 140);
        assert_eq!(r.detect(&mut b, &Ctx { recovering: true, ..ctx(140) }).lost, 0);
        sack(&mut b, &mut r, 1000..1100, 141);
        assert_eq!(r.detect(&mut b, &Ctx { recovering: true, ..ctx(141) }).lost, 100);
        assert_eq!(b.next_lost(), Some(0..100));
    }

    #[test]
    fn an_answer_too_early_for_the_resend_was_to_the_original() {
        let (mut b, mut r) = sent();
        sack(&mut b, &mut r, 100..500, 80);
        r.detect(&mut b, &ctx(80));
        b.resent(100, 80, MSS);
        b.ack(500, |rec| {
            r.delivered(rec, 90, false);
        });
        assert_eq!(r.xmit, 40, "sooner than any round trip");
        // A timestamp says so, too, however late it comes.
        let rec =
            Record { start: 0, sent_at: 80, len: 100, fate: crate::scoreboard::Fate::Flight, resent: true };
        r.delivered(&rec, 500, true);
        assert_eq!(r.xmit, 40);
        r.delivered(&rec, 500, false);
        assert_eq!(r.xmit, 80);
    }

    #[test]
    fn the_window_grows_once_a_round_trip_by_dsack_and_falls_back_after_16_recoveries() {
        let (_, mut r) = sent();
        r.reordering = true;
        r.dsack(0, 1000);
        r.dsack(500, 1000);
        assert_eq!(r.window(0, &ctx(0)), 20, "once a round trip");
        r.dsack(1000, 2000);
        assert_eq!(r.window(0, &ctx(0)), 30);
        r.dsack(2000, 3000);
        r.dsack(3000, 4000);
        assert_eq!(r.window(0, &ctx(0)), 40, "never more than SRTT");
        (0..15).for_each(|_| r.recovered());
        assert_eq!(r.mult, 5);
        r.recovered();
        assert_eq!(r.window(0, &ctx(0)), 10);
    }

    #[test]
    fn the_least_round_trip_is_forgotten_after_20_seconds() {
        let mut m = MinRtt::default();
        assert_eq!(m.get(), 0);
        let s = 1_000_000_000;
        m.sample(40, 0);
        m.sample(90, 11 * s);
        assert_eq!(m.get(), 40);
        m.sample(95, 22 * s);
        assert_eq!(m.get(), 90);
    }
}
