//! Reno (RFC 5681): a segment more each round trip, half after a loss. Bytes are counted (RFC 3465).

use super::{Ack, CWND_MAX, CongestionControl, Window, restart};

/// Reno's state.
#[derive(Clone, Copy, Debug)]
pub struct Reno {
    w: Window,
    /// Bytes acknowledged since the window last grew.
    counted: u64,
}

impl Reno {
    /// The state at the beginning of a connection.
    pub fn new(mss: u32) -> Reno {
        Reno { w: Window::new(mss), counted: 0 }
    }

    fn halve(&mut self, flight: u64, mss: u32) {
        self.w.remember();
        self.w.ssthresh = (flight / 2).max(2 * u64::from(mss));
        self.counted = 0;
    }
}

impl CongestionControl for Reno {
    #[inline]
    fn on_ack(&mut self, a: &Ack) {
        if !a.limited {
            return;
        }
        self.counted += self.w.slow_start(a.acked);
        if self.counted >= self.w.cwnd {
            self.counted -= self.w.cwnd;
            self.w.cwnd = (self.w.cwnd + u64::from(a.mss)).min(CWND_MAX);
        }
    }
    fn on_loss(&mut self, flight: u64, mss: u32) {
        self.halve(flight, mss);
    }
    fn on_timeout(&mut self, flight: u64, mss: u32, first: bool) {
        if first {
            self.halve(flight, mss);
        }
        self.w.cwnd = u64::from(mss);
    }
    fn on_recovered(&mut self) {
        self.w.cwnd = self.w.ssthresh;
    }
    fn undo(&mut self) {
        self.w.cwnd = self.w.cwnd.max(self.w.prior.0);
        self.w.ssthresh = self.w.ssthresh.max(self.w.prior.1);
    }
    fn on_idle(&mut self, mss: u32) {
        restart(&mut self.w, mss);
        self.counted = 0;
    }
    #[inline]
    fn window(&self) -> &Window {
        &self.w
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(acked: u64, limited: bool) -> Ack {
        Ack { acked, now: 0, srtt: 0, mss: 1000, limited }
    }

    #[test]
    fn doubles_then_grows_by_a_segment_a_round_trip_then_halves() {
        let mut r = Reno::new(1000);
        r.on_ack(&ack(10_000, false));
        assert_eq!(r.window().cwnd, 10_000, "not limited by the window: no growth");
        r.on_ack(&ack(10_000, true));
        assert_eq!(r.window().cwnd, 20_000);
        r.on_loss(20_000, 1000);
        assert_eq!((r.window().cwnd, r.window().ssthresh), (20_000, 10_000));
        r.on_recovered();
        (0..10).for_each(|_| r.on_ack(&ack(1000, true)));
        assert_eq!(r.window().cwnd, 11_000);
        r.undo();
        assert_eq!((r.window().cwnd, r.window().ssthresh), (20_000, u64::MAX));
    }

    #[test]
    fn a_timeout_leaves_one_segment_and_the_threshold_halves_once() {
        let mut r = Reno::new(1000);
        r.on_timeout(8000, 1000, true);
        r.on_timeout(1000, 1000, false);
        assert_eq!((r.window().cwnd, r.window().ssthresh), (1000, 4000));
        r.on_ack(&ack(5000, true));
        assert_eq!(r.window().cwnd, 4000, "slow start ends at the threshold");
        r.on_loss(100, 1000);
        assert_eq!(r.window().ssthresh, 2000, "never below two segments");
        r.on_idle(1000);
        assert_eq!(r.window().cwnd, 4000, "never grows by idleness");
    }
}
