//! Sending data: what is lost first, then what is new, each as far as the congestion window goes.

use dataplane::pkt::Port;

use crate::config::{Counters, StackConfig};
use crate::egress::Served;
use crate::flow::Flow;
use crate::io::{Io, Run};
use crate::opts::TS_LEN;
use crate::scoreboard::RECORD_MAX;
use crate::sender::Ctx;
use crate::wire;

impl Flow {
    /// One past the last byte that may be sent: it was pushed, smoltcp permits its unit, and the peer's window has
    /// room.
    #[inline]
    pub(crate) fn limit(&self) -> u64 {
        self.permit.min(self.shadow.end()).min(self.una + u64::from(self.wnd)).max(self.sent)
    }

    /// Whether sending only `n` bytes now would be the silly window syndrome (RFC 9293 §3.8.6.2.1): the peer's window
    /// cuts a segment short, more is waiting, and an ACK that may open it further is on its way. With nothing in
    /// flight there is none, so what fits goes out.
    #[inline]
    fn silly(&self, n: u64) -> bool {
        n < u64::from(self.mss)
            && self.sent + n < self.shadow.end()
            && self.una < self.snd_max()
            && n < u64::from(self.max_wnd) / 2
    }

    /// Frames with bytes from `off` to `end`: one, or more with `most` bytes together. Returns what went, and how much
    /// in each segment.
    #[inline]
    fn data_frames<P: Port>(
        &mut self,
        io: &mut Io<P>,
        c: &mut Counters,
        (off, end, most): (u64, u64, u32),
    ) -> Result<(u32, u32), Served> {
        let (f, o) = (self.fields(off, 0), self.options(io.now, false));
        let mss = self.room_beside(&o);
        // What SACK blocks tell is told once.
        let most = if o.len() > usize::from(TS_LEN) { 0 } else { most };
        let run = Run { off, end, mss, most };
        match io.data(&self.tmpl, &f, &o, &mut self.shadow, &run, c) {
            None => Err(Served::Again),
            Some(0) => Err(Served::Broken),
            Some(n) => {
                self.count_out(n);
                self.acked_now(false, io.now, c);
                Ok((n, mss))
            }
        }
    }

    fn fin_frame<P: Port>(&mut self, io: &mut Io<P>, c: &mut Counters) -> Result<(), Served> {
        let f = self.fields(self.shadow.end(), wire::FIN);
        if !io.control(&self.tmpl, &f, &self.options(io.now, true), c) {
            return Err(Served::Again);
        }
        self.count_out(0);
        self.acked_now(true, io.now, c);
        Ok(())
    }

    pub(crate) fn resend<P: Port>(
        &mut self,
        io: &mut Io<P>,
        c: &mut Counters,
        cfg: &StackConfig,
    ) -> Result<(), Served> {
        let mss = u32::from(self.mss);
        while let Some(r) = self.tx.next_lost() {
            if io.deep(c) {
                return Err(Served::Again);
            }
            let n = self.tx.grant(r.end - r.start, mss);
            if n == 0 {
                break;
            }
            let end = (r.start + n).min(self.sent);
            let (n, mss) = if r.start < end {
                self.data_frames(io, c, (r.start, end, 0))?
            } else {
                self.fin_frame(io, c)?;
                (1, mss)
            };
            let now = io.now;
            self.tx.sent_again(n, &Ctx { now, mss, rtt: &mut self.rtt, limits: &cfg.rto });
            c.tx_resent += 1;
            c.tx_resent_bytes += u64::from(n);
            self.stats.resent += 1;
            self.stats.resent_bytes += u64::from(n);
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn send_new<P: Port>(
        &mut self,
        io: &mut Io<P>,
        c: &mut Counters,
        cfg: &StackConfig,
    ) -> Result<(), Served> {
        let (now, mss) = (io.now, u32::from(self.mss));
        while self.sent < self.limit() && !self.tx.has_lost() {
            if io.deep(c) {
                return Err(Served::Again);
            }
            self.tx.before_send(&Ctx { now, mss, rtt: &mut self.rtt, limits: &cfg.rto });
            let n = self.tx.grant(self.limit() - self.sent, mss);
            if n == 0 || self.silly(n) {
                break;
            }
            if self.una == self.snd_max() {
                self.stuck_since = now;
            }
            let (n, mss) = self.data_frames(io, c, (self.sent, self.sent + n, RECORD_MAX))?;
            self.sent += u64::from(n);
            self.seen.sent = Some(now);
            self.tx.sent(self.sent, &Ctx { now, mss, rtt: &mut self.rtt, limits: &cfg.rto });
        }
        if self.fin_permit && !self.fin_sent && self.sent == self.shadow.end() {
            self.fin_frame(io, c)?;
            self.stuck_since = now;
            self.fin_sent = true;
            let end = self.snd_max();
            self.tx.sent(end, &Ctx { now, mss, rtt: &mut self.rtt, limits: &cfg.rto });
        }
        Ok(())
    }
}
