//! Tail loss probe (RFC 8985 §7): when the last segments of a flight are lost no ACK tells so; two round trips
//! later one segment more is sent, and its answer does.
//!
//! Two things are done differently, for round trips a thousand times shorter than the time-out:
//!
//! * A probe is also sent in recovery, when nothing has come for as long: the segments that recovery has sent are a
//!   tail like any other. And up to four probes go out, each twice as late as the one before, where RFC 8985 has one:
//!   a time-out of 50 ms is a thousand round trips (RFC 9002 §6.2 does both for QUIC, without a limit).
//! * How long a peer delays the ACK of a lone segment is learnt. A configured guess is halved towards what lone
//!   segments were seen to take, and doubled by each probe that a D-SACK shows to have been needless.

use std::ops::Range;

/// Least time to a probe, in ns: a poll loop answers no sooner when it is busy.
const PTO_MIN: u64 = 100_000;
/// Probes in a row without an answer.
const PROBES: u8 = 4;

/// Facts on which the time to a probe depends.
#[derive(Clone, Copy, Debug)]
pub struct Ctx {
    /// The time in ns.
    pub now: u64,
    /// Smoothed round-trip time in ns; 0 when there was no sample.
    pub srtt: u64,
    /// All that is out is one segment.
    pub lone: bool,
}

/// Outcome of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing was lost.
    Needless,
    /// The probe itself filled the hole: a loss that nothing else has told of.
    Repaired,
}

/// Probing state of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Tlp {
    /// End of what was out when the probe was sent; 0 when none is.
    end: u64,
    /// The probe's bytes, when they had been sent before.
    again: (u64, u64),
    /// Probes without an answer.
    tries: u8,
    /// Longest that the peer delays the ACK of a lone segment, as far as is known, and as first guessed, in ns.
    delay: u64,
    guess: u64,
}

impl Tlp {
    /// `guess` is how long a peer may delay an ACK, in ns.
    pub fn new(guess: u64) -> Tlp {
        Tlp { end: 0, again: (0, 0), tries: 0, delay: guess, guess }
    }

    /// Time at which to probe if nothing is heard, in ns; `u64::MAX` when no probe is to be sent.
    #[inline]
    pub fn due(&self, c: &Ctx) -> u64 {
        if self.tries >= PROBES {
            return u64::MAX;
        }
        let wait = if c.srtt == 0 { 1_000_000_000 } else { (2 * c.srtt).max(PTO_MIN) };
        let wait = (wait << self.tries) + if c.lone { self.delay } else { 0 };
        c.now.saturating_add(wait)
    }

    /// A probe was sent; `again` are its bytes when they were sent before. `end` is one past everything sent.
    pub fn probed(&mut self, end: u64, again: Option<Range<u64>>) {
        self.end = end;
        self.again = again.map_or((0, 0), |r| (r.start, r.end));
        self.tries += 1;
    }

    /// Whether a probe is out.
    #[inline]
    pub fn probes(&self) -> bool {
        self.end != 0
    }

    /// An ACK up to `una` came. `dsack` is what it says arrived twice, `news` whether it brings any progress, `plain`
    /// whether it sacks nothing. Whether a probe filled the hole shows only when more is acknowledged without word
    /// of the probe: an ACK of just everything may have been caused by what was late.
    #[inline]
    pub fn answered(
        &mut self,
        una: u64,
        dsack: Option<&Range<u64>>,
        news: bool,
        plain: bool,
    ) -> Option<Ended> {
        if news {
            self.tries = 0;
        }
        if self.end == 0 {
            return None;
        }
        let (from, to) = self.again;
        if dsack.is_some_and(|d| d.start < to && d.end > from) {
            let delay = (2 * self.delay).clamp(PTO_MIN, 2 * self.guess.max(PTO_MIN));
            *self = Tlp { end: 0, tries: 0, delay, ..*self };
            return Some(Ended::Needless);
        }
        if una < self.end || (una == self.end && to > 0 && (news || !plain)) {
            return None;
        }
        let repaired = una > self.end && to > 0;
        self.end = 0;
        Some(if repaired { Ended::Repaired } else { Ended::Needless })
    }

    /// Gives up the bytes that were out: no answer to a probe counts any more.
    pub fn reset(&mut self) {
        (self.end, self.tries) = (0, 0);
    }

    /// A lone segment, sent once, was acknowledged `extra` ns later than the least round trip.
    pub fn lone_acked(&mut self, extra: u64) {
        self.delay = if extra > self.delay { extra.min(2 * self.guess) } else { self.delay.midpoint(extra) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn due(t: &Tlp, srtt: u64, lone: bool) -> u64 {
        t.due(&Ctx { now: 0, srtt, lone })
    }

    #[test]
    fn two_round_trips_and_the_peers_delay_for_a_lone_segment() {
        let mut t = Tlp::new(25 * MS);
        assert_eq!(due(&t, 0, false), 1000 * MS);
        assert_eq!((due(&t, MS, false), due(&t, MS, true)), (2 * MS, 27 * MS));
        assert_eq!(due(&t, 1000, false), PTO_MIN);
        // A peer that answers at once is believed by and by; one that does not, at once.
        (0..10).for_each(|_| t.lone_acked(0));
        assert!(due(&t, MS, true) < 2 * MS + 30_000, "{}", due(&t, MS, true));
        t.lone_acked(40 * MS);
        assert_eq!(due(&t, MS, true), 42 * MS);
    }

    #[test]
    fn four_probes_each_twice_as_late_and_then_the_timer() {
        let mut t = Tlp::new(0);
        for wait in [2, 4, 8, 16] {
            assert_eq!(due(&t, MS, false), wait * MS);
            t.probed(100, None);
        }
        assert_eq!(due(&t, MS, false), u64::MAX);
        assert_eq!(t.answered(50, None, true, true), None);
        assert_eq!(due(&t, MS, false), 2 * MS, "an answer allows them anew");
    }

    #[test]
    fn whether_the_probe_filled_a_hole_shows_in_what_follows() {
        let probed = || {
            let mut t = Tlp::new(MS);
            t.probed(1000, Some(900..1000));
            t
        };
        // Everything is acknowledged, then more is: the hole was real.
        let mut t = probed();
        assert_eq!(t.answered(1000, None, true, true), None);
        assert_eq!(t.answered(1100, None, true, true), Some(Ended::Repaired));
        assert_eq!(t.answered(1200, None, true, true), None, "once");
        // A duplicate ACK, or a D-SACK, says that both came.
        let mut t = probed();
        assert_eq!(t.answered(1000, None, true, true), None);
        assert_eq!(t.answered(1000, None, false, true), Some(Ended::Needless));
        let mut t = probed();
        t.lone_acked(0);
        assert_eq!(due(&t, MS, true), 4 * MS + MS / 2);
        assert_eq!(t.answered(1000, Some(&(900..1000)), false, false), Some(Ended::Needless));
        assert_eq!(due(&t, MS, true), 3 * MS, "the peer delays after all");
        // New data as a probe never hides a hole.
        let mut t = Tlp::new(0);
        t.probed(1000, None);
        assert_eq!(t.answered(1100, None, true, true), Some(Ended::Needless));
        // Recovery has found the loss meanwhile.
        let mut t = probed();
        t.reset();
        assert_eq!(t.answered(1100, None, true, true), None);
    }
}
