//! Proportional rate reduction (RFC 6937): in recovery, what may be sent follows what arrives.
//!
//! While more is in flight than the target, `target / before` bytes go out for each byte that arrives; below it, as
//! many as arrive and one segment more (slow start), as long as the recovery makes progress; else as many as arrive.

/// The reduction under way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prr {
    /// In flight when recovery began.
    before: u64,
    target: u64,
    delivered: u64,
    out: u64,
}

impl Prr {
    /// Recovery begins with `before` bytes in flight; it is to end with `target`.
    pub fn start(before: u64, target: u64) -> Prr {
        Prr { before: before.max(1), target, delivered: 0, out: 0 }
    }

    /// Something was sent.
    pub fn sent(&mut self, n: u64) {
        self.out += n;
    }

    /// An ACK delivered `n` bytes and `flight` are in flight. `safe` says that it acknowledges new data and that
    /// nothing more was deemed lost. Returns how many bytes may be sent.
    pub fn on_ack(&mut self, n: u64, flight: u64, mss: u32, safe: bool) -> u64 {
        self.delivered += n;
        if flight > self.target {
            let due = (self.delivered as u128 * self.target as u128).div_ceil(self.before as u128) as u64;
            return due.saturating_sub(self.out);
        }
        let mut limit = self.delivered.saturating_sub(self.out).max(n);
        if safe {
            limit += u64::from(mss);
        }
        limit.min(self.target - flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6937 §4's example: 20 segments out, one lost, target 10.
    #[test]
    fn one_loss_halves_over_a_round_trip() {
        let mut p = Prr::start(20_000, 10_000);
        let (mut flight, mut sent) = (19_000u64, 0);
        let mut log = vec![];
        for i in 0..19u64 {
            flight -= 1000;
            let may = p.on_ack(1000, flight, 1000, false) / 1000 * 1000;
            let may = if i == 0 { may.max(1000) } else { may };
            p.sent(may);
            (flight, sent) = (flight + may, sent + may);
            log.push(may / 1000);
        }
        assert_eq!(log, [1, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 1, 1]);
        assert_eq!((flight, sent), (10_000, 10_000));
    }

    #[test]
    fn below_the_target_it_grows_by_a_segment_an_ack_while_there_is_progress() {
        let mut p = Prr::start(20_000, 10_000);
        assert_eq!(p.on_ack(1000, 2000, 1000, true), 2000);
        p.sent(2000);
        assert_eq!(p.on_ack(1000, 2000, 1000, false), 1000, "what arrives, and no more, when more is lost");
        p.sent(1000);
        assert_eq!(p.on_ack(3000, 9500, 1000, true), 500, "never beyond the target");
    }
}
