//! More SYNs than a listener keeps half-open connections: SYN cookies, while it lasts.
//!
//! A cookie costs no memory, so it is the answer exactly when the backlog is full. The ACK that brings it back is
//! looked at only for as long after the last overflow as a cookie can be good; a forged one costs a hash. From a
//! good one the connection is built as if its SYN had just come: smoltcp is fed that SYN and says its SYN-ACK to
//! nobody. Its own number in it does not matter: what stands on the wire is [`crate::flow::Flow`]'s, less a
//! constant.

use dataplane::pkt::Port;

use crate::cookie::{Abilities, VALID};
use crate::opts::{OptBytes, Opts, Ts};
use crate::seq::Seq;
use crate::stack::Stack;
use crate::stamps;
use crate::wire::{self, Fields, Mac, Seg};

impl<P: Port> Stack<P> {
    /// Answers a SYN for which listener `l` has no room.
    pub(crate) fn send_cookie(&mut self, l: usize, s: &Seg, o: &Opts, src: Mac) {
        // Answers to strangers are no reason for connections to wait for the port.
        let quiet = self.io.q.len() < self.cfg.tx_depth / 2;
        let room = self.cfg.syn_cookies && self.flows.live() < self.cfg.max_flows && quiet;
        let mss = o.mss.unwrap_or_else(|| wire::default_mss(s.key.is_v6()));
        let cookie = if room { self.cookies.issue(&s.key, s.seq, mss, self.now) } else { None };
        let Some(seq) = cookie else {
            self.c.syn_dropped += 1;
            return;
        };
        if let Some(l) = self.listeners.get_mut(l) {
            l.overflow_at = Some(self.now);
        }
        let can = Abilities { scale: o.scale, sack: self.cfg.sack && o.sack_permitted };
        let ts = o.ts.filter(|_| self.cfg.timestamps).map(|t| Ts {
            val: can.write(stamps::clock(self.secret.stamp_offset(&s.key), self.now)),
            ecr: t.val,
        });
        let (sack, scale) = match ts {
            Some(_) => (can.sack, self.own_scale.filter(|_| can.scale.is_some())),
            None => (false, None),
        };
        let options = OptBytes::syn(self.io.mss(s.key.is_v6()), sack, ts, scale);
        let win = self.cfg.rx_window.min(65_535) as u16;
        let f = Fields { seq, ack: s.seq.plus(1), flags: wire::SYN | wire::ACK, win };
        let tmpl = self.io.template(src, &s.key);
        let sent = self.io.control(&tmpl, &f, &options, &mut self.c);
        self.c.syn_cookies_sent += u64::from(sent);
    }

    /// Builds the connection of a cookie that comes back; `None` when `s` brings none. It is half-open until `s`
    /// has been taken in.
    pub(crate) fn take_cookie(&mut self, s: &Seg, o: &Opts, src: Mac) -> Option<u32> {
        let l = self.listener(&s.key)?;
        let overflow_at = self.listeners.get(l)?.overflow_at?;
        if self.now.saturating_sub(overflow_at) >= VALID || !s.has(wire::ACK) || s.has(wire::RST) {
            return None;
        }
        let before = |n: Seq| Seq(n.0.wrapping_sub(1));
        let (irs, iss) = (before(s.seq), before(s.ack));
        let Some(mss) = self.cookies.check(&s.key, irs, iss, self.now) else {
            self.c.syn_cookies_failed += 1;
            return None;
        };
        if self.flows.live() >= self.cfg.max_flows {
            return None;
        }
        let sock = self.engine.listen(&s.key).ok()?;
        // The SYN as it must have been. Its window was not scaled: this one's field, unscaled, is no more than that.
        let syn = Seg { seq: irs, flags: wire::SYN, plen: 0, ..*s };
        let ts = o.ts.filter(|_| self.cfg.timestamps);
        let can = ts.map_or(Abilities { scale: None, sack: false }, |t| Abilities::read(t.ecr));
        let said = Opts { mss: Some(mss), scale: can.scale, sack_permitted: can.sack, ts, ..Opts::default() };
        let mut f = self.embryo(sock, l, (&syn, &said), iss, src)?;
        let scale = can.scale.and(self.own_scale);
        if !f.cookie_was_out(scale, &mut self.engine, &mut self.c) {
            self.c.desync += 1;
            return None;
        }
        self.c.syn_cookies_accepted += 1;
        Some(self.half_open(l, f))
    }
}
