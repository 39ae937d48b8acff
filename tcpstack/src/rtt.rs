//! Round-trip time and retransmission time-out (RFC 6298), in nanoseconds.

/// Bounds of the time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtoLimits {
    /// Before the first sample (RFC 6298 §2.1: 1 s).
    pub initial: u64,
    /// Floor. RFC 6298 §2.4 says 1 s; inside a data centre that is far too long.
    pub min: u64,
    /// Ceiling (§2.5: at least 60 s).
    pub max: u64,
}

impl Default for RtoLimits {
    fn default() -> RtoLimits {
        RtoLimits { initial: 1_000_000_000, min: 50_000_000, max: 60_000_000_000 }
    }
}

/// Smoothed estimate of one connection, and the one segment being timed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtt {
    srtt: u64,
    var: u64,
    min: u64,
    backoff: u8,
    /// End offset of the segment being timed and when it was sent.
    timed: Option<(u64, u64)>,
    /// Something was sent again since the last sample.
    resent: bool,
}

impl Rtt {
    /// A segment that ends at offset `end` was sent for the first time.
    #[inline]
    pub fn on_send(&mut self, end: u64, now: u64) {
        if self.timed.is_none() {
            self.timed = Some((end, now));
        }
    }

    /// Something was sent again: what is being timed says nothing any more (Karn's rule, RFC 6298 §3).
    pub fn on_resend(&mut self) {
        self.timed = None;
        self.resent = true;
    }

    /// The peer has acknowledged up to offset `una`, which is news. `echo` is the round trip by timestamps in ns
    /// (RFC 7323 §4): coarse, but it tells the sendings of a segment apart, so it counts where Karn's rule forbids
    /// the other sample.
    #[inline]
    pub fn on_ack(&mut self, una: u64, now: u64, echo: Option<u64>) {
        self.backoff = 0;
        match self.timed {
            Some((end, at)) if una >= end => {
                self.timed = None;
                self.sample(now.saturating_sub(at));
            }
            None if self.resent => echo.into_iter().for_each(|r| self.sample(r)),
            _ => return,
        }
        self.resent = false;
    }

    /// The SYN was answered after `r` ns, without having been sent twice.
    pub fn on_handshake(&mut self, r: u64) {
        self.sample(r);
    }

    fn sample(&mut self, r: u64) {
        let r = r.max(1);
        self.min = if self.min == 0 { r } else { self.min.min(r) };
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
        self.timed = None;
    }

    /// The time-out now, in ns.
    pub fn rto(&self, l: &RtoLimits) -> u64 {
        let base = if self.srtt == 0 { l.initial } else { (self.srtt + 4 * self.var).max(l.min) };
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

    /// The shortest round trip in ns; 0 before the first sample.
    pub fn min(&self) -> u64 {
        self.min
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
    fn first_sample_then_smoothing() {
        let mut r = Rtt::default();
        assert_eq!(r.rto(&L), 1_000_000_000);
        r.on_send(100, 0);
        r.on_send(200, 5); // only one is timed
        r.on_ack(99, 50, None);
        assert_eq!(r.srtt(), 0);
        r.on_ack(100, 80_000_000, Some(7));
        assert_eq!((r.srtt(), r.rto(&L)), (80_000_000, 240_000_000));
        r.on_send(300, 100_000_000);
        r.on_ack(300, 180_000_000, None);
        assert_eq!((r.srtt(), r.rto(&L)), (80_000_000, 200_000_000));
    }

    #[test]
    fn floor_backoff_and_ceiling() {
        let mut r = Rtt::default();
        r.on_send(1, 0);
        r.on_ack(1, 20_000, None);
        assert_eq!(r.rto(&L), L.min);
        r.on_timeout();
        r.on_timeout();
        assert_eq!((r.rto(&L), r.backoff()), (4 * L.min, 2));
        (0..40).for_each(|_| r.on_timeout());
        assert_eq!(r.rto(&L), L.max);
        r.on_ack(2, 30_000, None);
        assert_eq!(r.rto(&L), L.min);
    }

    #[test]
    fn a_resent_segment_is_timed_by_its_timestamp_alone() {
        let mut r = Rtt::default();
        r.on_send(1, 0);
        r.on_resend();
        r.on_ack(1, 9_000_000, None);
        assert_eq!(r.srtt(), 0);
        r.on_resend();
        r.on_ack(2, 9_000_000, Some(4_000_000));
        assert_eq!(r.srtt(), 4_000_000);
        r.on_ack(3, 9_000_000, Some(1));
        assert_eq!(r.srtt(), 4_000_000, "once");
    }
}
