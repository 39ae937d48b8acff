//! ACKs in order, where nothing is in doubt: nearly all are, and few of the rules have anything to say.

use super::{Ctx, NEVER, Sender};
use crate::recover::State;

impl Sender {
    /// Whether nothing is in doubt: what is out was sent once, and nothing says that any of it was lost or overtaken.
    #[inline]
    pub fn is_untroubled(&self) -> bool {
        self.state == State::Open
            && self.resent == 0
            && !self.undo.armed
            && !self.tlp.probes()
            && self.newreno.arrived() == 0
            && self.board.sacked() == 0
            && self.board.lost() == 0
    }

    /// [`Sender::on_ack`] for an ACK of new data up to `una` that has no blocks, where [`Sender::is_untroubled`]: what all
    /// its rules come to then. `echo` is asked where the time of sending does not tell the round trip.
    #[inline]
    pub fn on_ack_in_order(&mut self, una: u64, echo: impl FnOnce() -> Option<u64>, c: &mut Ctx<'_>) {
        let (before, out) = (self.board.una(), self.board.end() - self.board.una());
        let (got, last) = self.board.ack_in_order(una);
        let newest = last.map_or(0, |r| r.sent_at);
        if let Some(r) = &last {
            self.rack.delivered(r, c.now, false);
        }
        let (news, lone) = (una > before, out <= u64::from(c.mss) && una == before + out);
        let echo = if newest > 0 { None } else { echo() };
        self.take_rtt(newest, news, lone, echo, c);
        let got = if self.plain() && news { got.max(1) } else { got };
        self.tlp.answered(una, None, got > 0, true);
        if !self.plain() {
            self.reo_at = NEVER;
        }
        self.adapt(got, news, news, c);
        self.rearm(news, got, c);
    }
}

#[cfg(test)]
mod tests {
    use super::super::AckIn;
    use super::*;
    use crate::cc::Congestion;
    use crate::rtt::{RtoLimits, Rtt};

    /// All that a sender decides by, and the estimate of the round trip.
    fn state(s: &Sender, rtt: &Rtt) -> String {
        let timers = [s.rto_at, s.pto_at, s.reo_at];
        let window = (s.cwnd(), s.gated, s.round, s.peak, s.before, s.owed);
        format!("{:?} {:?} {:?} {:?} {rtt:?} {timers:?} {window:?}", s.board, s.rack, s.tlp, s.cc)
    }

    /// The short way comes to what all the rules come to.
    #[test]
    fn an_ack_in_order_is_judged_as_any_other() {
        let (mss, limits) = (1000, RtoLimits::default());
        for (sack, which) in [(true, Congestion::Cubic), (false, Congestion::Reno), (true, Congestion::Reno)]
        {
            let mut two = [(); 2].map(|()| (Sender::new(which, mss, sack, 40_000_000), Rtt::default()));
            let (mut now, mut una, mut end, mut r) = (0u64, 0u64, 0u64, 7u64);
            let mut random = move |n: u64| {
                r ^= r << 13;
                r ^= r >> 7;
                r ^= r << 17;
                r % n
            };
            for _ in 0..2000 {
                now += random(3_000_000);
                let (send, ack) = (random(3) * random(5000), random(2) == 0);
                end += send;
                una = if ack && end > una { una + 1 + random(end - una) } else { una };
                let echo = (random(2) == 0).then_some(random(9_000_000));
                let news = una > two[0].0.board.una();
                let [short, long] = [0, 1].map(|i| {
                    let (s, rtt) = &mut two[i];
                    let mut c = Ctx { now, mss, rtt, limits: &limits };
                    if send > 0 {
                        s.before_send(&c);
                        let n = s.grant(send, mss);
                        s.sent(end, &c);
                        assert!(n <= send);
                    }
                    if news && i == 0 {
                        assert!(s.is_untroubled());
                        s.on_ack_in_order(una, || echo, &mut c);
                    } else if news {
                        let (dup, dsack, hole_max) = (false, None, 0);
                        let mut a = AckIn { una, dup, blocks: &mut [], dsack, echo, hole_max };
                        assert_eq!(s.on_ack(&mut a, |_| false, &mut c), super::super::Heard::default());
                    }
                    state(s, rtt)
                });
                assert_eq!(short, long);
            }
        }
    }
}
