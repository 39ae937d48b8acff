//! Round-trip time and retransmission time-out (RFC 6298), in nanoseconds.

/// Bounds of the time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtoLimits {
    /// Before the first sample (RFC 6298 §2.1: 1 s).
    pub initial: u64,
    /// Least that is added to the round-trip time: more than a peer delays an ACK. RFC 6298 §2.4 has 1 s for the
    /// least of the sum; inside a data centre that is far too long, and with less the sum would come too close to
    /// the round-trip time of a long path that varies little.
    pub min: u64,
    /// Ceiling (§2.5: at least 60 s).
    pub max: u64,
}

impl Default for RtoLimits {
    fn default() -> RtoLimits {
        RtoLimits { initial: 1_000_000_000, min: 50_000_000, max: 60_000_000_000 }
    }
}

/// Smoothed estimate of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtt {
    srtt: u64,
    var: u64,
    backoff: u8,
    /// Samples before this are of the same round trip as the last one.
    next: u64,
}

/// Coarsest tick of timestamps, in ns, both ends' roundings included.
const ECHO_GRAIN: u64 = 2_000_000;

impl Rtt {
    /// An ACK has come, of new data if `news`. `direct` is how long ago the latest byte that it delivers was sent,
    /// if that was sent once only (Karn's rule, RFC 6298 §3). `echo` is the round trip by timestamps (RFC 7323 §4),
    /// all in ns: too coarse for a data centre, but it tells the sendings of a segment apart, so it counts where
    /// Karn's rule leaves no other and it says that the round trip is longer than believed.
    ///
    /// One sample counts a round trip: with more, the gains of RFC 6298 would forget the variation within one.
    #[inline]
    pub fn on_ack(&mut self, direct: Option<u64>, echo: Option<u64>, news: bool, now: u64) {
        if news {
            self.backoff = 0;
        }
        if now < self.next {
            return;
        }
        let longer = |e: &u64| self.srtt == 0 || *e > self.srtt + ECHO_GRAIN;
        if let Some(r) = direct.or(echo.filter(longer)) {
            self.sample(r);
            self.next = now + self.srtt;
        }
    }

    /// The SYN was answered after `r` ns, without having been sent twice.
    pub fn on_handshake(&mut self, r: u64) {
        self.sample(r);
    }

    fn sample(&mut self, r: u64) {
        let r = r.max(1);
        if self.srtt == 0 {
            (self.srtt, self.var) = (r, r / 2);
        } else {
            self.var = (3 * self.var + self.srtt.abs_diff(r)) / 4;
            self.srtt = (7 * self.srtt + r) / 8;
        }
    }

    /// The timer ran out: doubles the time-out until the next ACK of new data (§5.5).
    pub fn on_timeout(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    /// The time-out now, in ns.
    pub fn rto(&self, l: &RtoLimits) -> u64 {
        let base = if self.srtt == 0 { l.initial } else { self.srtt + (4 * self.var).max(l.min) };
        base.saturating_mul(1 << self.backoff.min(20)).min(l.max)
    }

    /// Smoothed round-trip time in ns; 0 before the first sample.
    pub fn srtt(&self) -> u64 {
        self.srtt
    }

    /// Variation of the round-trip time in ns; 0 before the first sample.
    pub fn var(&self) -> u64 {
        self.var
    }

    /// The reason for the time-outs is known and gone.
    pub fn clear_backoff(&mut self) {
        self.backoff = 0;
    }

    /// Time-outs in a row without an ACK of new data.
    pub fn backoff(&self) -> u8 {
        self.backoff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const L: RtoLimits = RtoLimits { initial: 1_000_000_000, min: 50_000_000, max: 60_000_000_000 };

    #[test]
    fn first_sample_then_smoothing_once_a_round_trip() {
        let mut r = Rtt::default();
        assert_eq!(r.rto(&L), 1_000_000_000);
        r.on_ack(Some(80_000_000), Some(7), true, 80_000_000);
        assert_eq!((r.srtt(), r.var(), r.rto(&L)), (80_000_000, 40_000_000, 240_000_000));
        r.on_ack(Some(10_000_000), None, true, 159_000_000);
        assert_eq!(r.srtt(), 80_000_000);
        r.on_ack(Some(80_000_000), None, true, 160_000_000);
        assert_eq!((r.srtt(), r.rto(&L)), (80_000_000, 200_000_000));
    }

    #[test]
    fn floor_backoff_and_ceiling() {
        let mut r = Rtt::default();
        r.on_ack(Some(20_000), None, true, 0);
        assert_eq!(r.rto(&L), L.min + 20_000);
        r.on_timeout();
        r.on_timeout();
        r.on_ack(None, None, false, 5);
        assert_eq!((r.rto(&L), r.backoff()), (4 * L.min + 80_000, 2));
        (0..40).for_each(|_| r.on_timeout());
        assert_eq!(r.rto(&L), L.max);
        r.on_ack(None, None, true, 10);
        assert_eq!(r.rto(&L), L.min + 20_000);
    }

    #[test]
    fn what_was_sent_twice_is_timed_by_its_timestamp_if_that_says_more() {
        let mut r = Rtt::default();
        r.on_ack(None, None, true, 0);
        assert_eq!(r.srtt(), 0);
        r.on_ack(None, Some(4_000_000), true, 0);
        assert_eq!(r.srtt(), 4_000_000);
        r.on_ack(None, Some(6_000_000), true, 10_000_000);
        assert_eq!(r.srtt(), 4_000_000, "within a tick or two it says nothing");
        r.on_ack(None, Some(12_000_000), true, 20_000_000);
        assert_eq!(r.srtt(), 5_000_000);
    }
}
