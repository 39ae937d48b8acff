//! CUBIC (RFC 9438): after a loss the window comes back to where it was by the third power of time, fast at first,
//! flat near the old size, then ever faster; on short paths, where that would be slower than Reno, it is as fast as
//! Reno. A loss takes 30 %.

use super::{Ack, CWND_MAX, CongestionControl, Window, restart};

/// RFC 9438 §4.6 and §5.
const BETA: f64 = 0.7;
const C: f64 = 0.4;
/// Growth of the Reno-friendly window in segments a round trip (§4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// CUBIC's state. Windows of the formulas are in bytes here.
#[derive(Clone, Copy, Debug)]
pub struct Cubic {
    w: Window,
    /// Window before the last loss, and where the curve is flat.
    max: f64,
    /// The Reno-friendly window, and up to where it grows at [`ALPHA`].
    est: f64,
    prior: f64,
    /// Time from the beginning of the epoch to the flat part, in s.
    k: f64,
    /// Time at which this epoch of congestion avoidance began, in ns; `None` before its first ACK.
    epoch: Option<u64>,
    /// Last ACK of the epoch, in ns.
    last: u64,
    /// Growth that did not make a whole byte.
    rest: f64,
}

impl Cubic {
    /// The state at the beginning of a connection.
    pub fn new(mss: u32) -> Cubic {
        Cubic { w: Window::new(mss), max: 0.0, est: 0.0, prior: 0.0, k: 0.0, epoch: None, last: 0, rest: 0.0 }
    }

    fn reduce(&mut self, flight: u64, mss: u32) {
        self.w.remember();
        let cwnd = self.w.cwnd as f64;
        // Fast convergence (§4.7): a window that did not come back to where it was makes room for others.
        self.max = if cwnd < self.max { cwnd * (1.0 + BETA) / 2.0 } else { cwnd };
        self.prior = cwnd;
        self.w.ssthresh = (flight * 7 / 10).max(2 * u64::from(mss));
        self.epoch = None;
    }

    /// The window that the curve has at `t` s, with `mss` for the unit of the formula.
    fn curve(&self, t: f64, mss: f64) -> f64 {
        self.max + C * mss * (t - self.k).powi(3)
    }

    fn avoid(&mut self, acked: u64, a: &Ack) {
        let (cwnd, mss) = (self.w.cwnd as f64, f64::from(a.mss));
        let epoch = *self.epoch.get_or_insert_with(|| {
            self.max = self.max.max(cwnd);
            self.k = ((self.max - cwnd) / (C * mss)).cbrt();
            (self.est, self.rest) = (cwnd, 0.0);
            a.now
        });
        let t = a.now.saturating_sub(epoch) as f64 * 1e-9;
        let alpha = if self.est >= self.prior { 1.0 } else { ALPHA };
        self.est += alpha * mss * acked as f64 / cwnd;
        let grow = if self.curve(t, mss) < self.est {
            self.est - cwnd
        } else {
            let target = self.curve(t + a.srtt as f64 * 1e-9, mss).clamp(cwnd, 1.5 * cwnd);
            (target - cwnd) * acked as f64 / cwnd
        };
        self.rest += grow.max(0.0).min(acked as f64);
        let whole = self.rest as u64;
        self.rest -= whole as f64;
        self.w.cwnd = (self.w.cwnd + whole).min(CWND_MAX);
    }
}

impl CongestionControl for Cubic {
    #[inline]
    fn on_ack(&mut self, a: &Ack) {
        let idle = a.now.saturating_sub(std::mem::replace(&mut self.last, a.now));
        if !a.limited {
            // Time in which the window was not used is none for the curve (§5.8).
            self.epoch = self.epoch.map(|e| e + idle);
            return;
        }
        let left = self.w.slow_start(a.acked);
        if left > 0 {
            self.avoid(left, a);
        }
    }
    fn on_loss(&mut self, flight: u64, mss: u32) {
        self.reduce(flight, mss);
    }
    fn on_timeout(&mut self, flight: u64, mss: u32, first: bool) {
        if first {
            self.reduce(flight, mss);
        }
        // §4.8: after the slow start the curve begins where that ended.
        self.max = 0.0;
        self.w.cwnd = u64::from(mss);
    }
    fn on_recovered(&mut self) {
        self.w.cwnd = self.w.ssthresh;
    }
    fn undo(&mut self) {
        self.w.cwnd = self.w.cwnd.max(self.w.prior.0);
        self.w.ssthresh = self.w.ssthresh.max(self.w.prior.1);
        self.max = self.max.max(self.w.cwnd as f64);
        self.epoch = None;
    }
    fn on_idle(&mut self, mss: u32) {
        restart(&mut self.w, mss);
        self.epoch = None;
    }
    #[inline]
    fn window(&self) -> &Window {
        &self.w
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1460;
    const MS: u64 = 1_000_000;

    /// Segments after `rounds` round trips of `rtt` ns, all of the window acknowledged in each.
    fn after(c: &mut Cubic, start: u64, rtt: u64, rounds: u64) -> f64 {
        for i in 0..rounds {
            let acked = c.w.cwnd;
            c.on_ack(&Ack { acked, now: start + i * rtt, srtt: rtt, mss: MSS, limited: true });
        }
        c.w.cwnd as f64 / f64::from(MSS)
    }

    fn lossy(segments: u64) -> Cubic {
        let mut c = Cubic::new(MSS);
        c.w.cwnd = segments * u64::from(MSS);
        c.on_loss(c.w.cwnd, MSS);
        c.on_recovered();
        c
    }

    #[test]
    fn a_loss_takes_30_percent_and_the_window_is_back_after_k() {
        let mut c = lossy(1000);
        assert_eq!(c.w.cwnd, 700 * u64::from(MSS));
        // K = cbrt(300 / 0.4) = 9.086 s
        let w = after(&mut c, 0, 100 * MS, 46);
        assert!((960.0..970.0).contains(&w), "half way it is nearly there: {w}");
        let w = after(&mut c, 4600 * MS, 100 * MS, 45);
        assert!((996.0..1001.0).contains(&w), "{w}");
        let w = after(&mut c, 9100 * MS, 100 * MS, 46);
        assert!((1030.0..1050.0).contains(&w), "beyond, as fast as it came: {w}");
    }

    #[test]
    fn on_a_short_path_it_is_reno() {
        let mut c = lossy(20);
        assert_eq!(c.w.cwnd, 14 * u64::from(MSS));
        // 0.529 of a segment a round trip up to the old window, then one.
        let w = after(&mut c, 0, 40_000, 10);
        assert!((19.0..19.6).contains(&w), "{w}");
        let w = after(&mut c, 400_000, 40_000, 10);
        assert!((27.0..29.5).contains(&w), "{w}");
    }

    #[test]
    fn a_second_loss_below_the_old_window_converges_faster() {
        let mut c = lossy(1000);
        c.on_loss(c.w.cwnd, MSS);
        assert_eq!((c.max / f64::from(MSS)).round(), 595.0, "700 * 1.7 / 2");
        let mut c = lossy(1000);
        c.w.cwnd *= 2;
        c.on_loss(c.w.cwnd, MSS);
        assert_eq!((c.max / f64::from(MSS)).round(), 1400.0);
    }

    #[test]
    fn time_without_need_of_the_window_does_not_count() {
        let (mut a, mut b) = (lossy(1000), lossy(1000));
        after(&mut a, 0, 100 * MS, 10);
        after(&mut b, 0, 100 * MS, 10);
        let one = |now, limited| Ack { acked: 1460, now, srtt: 100 * MS, mss: MSS, limited };
        let cwnd = b.w.cwnd;
        for t in [901, 30_000, 60_900] {
            b.on_ack(&one(t * MS, false));
        }
        assert_eq!(b.w.cwnd, cwnd);
        let (x, y) = (after(&mut a, 1000 * MS, 100 * MS, 5), after(&mut b, 61_000 * MS, 100 * MS, 5));
        assert!((x - y).abs() < 2.0, "{x} {y}");
    }

    #[test]
    fn after_a_timeout_the_curve_begins_anew_and_undo_goes_back() {
        let mut c = lossy(100);
        c.on_timeout(70 * u64::from(MSS), MSS, true);
        assert_eq!((c.w.cwnd, c.w.ssthresh), (u64::from(MSS), 49 * u64::from(MSS)));
        let w = after(&mut c, 0, 10 * MS, 6);
        assert!((49.0..51.0).contains(&w), "slow start to the threshold: {w}");
        let w = after(&mut c, 60 * MS, 10 * MS, 20);
        assert!((56.0..62.0).contains(&w), "{w}");
        c.undo();
        assert!(c.w.cwnd >= 70 * u64::from(MSS));
    }
}
