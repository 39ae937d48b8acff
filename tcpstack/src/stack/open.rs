//! The beginning of connections: dialled, or by a SYN; and SYN cookies, while there are more SYNs than a listener keeps half-open
//! connections.
//!
//! A cookie costs no memory, so it is the answer exactly when the backlog is full. The ACK that brings it back is
//! looked at only for as long after the last overflow as a cookie can be good; a forged one costs a hash. From a
//! good one the connection is built as if its SYN had just come: smoltcp is fed that SYN and says its SYN-ACK to
//! nobody. Its own number in it does not matter: the connection's stands on the wire, which is smoltcp's plus a constant.

use dataplane::pkt::Port;

use super::Stack;
use crate::addr::Addr;
use crate::config::{Dial, DialError};
use crate::cookie::Abilities;
use crate::engine::Refused;
use crate::event::FlowId;
use crate::flow::{Begun, Flow, Hop};
use crate::opts::{OptBytes, Opts, Ts};
use crate::phantom::PhantomSocket;
use crate::seq::Seq;
use crate::stamps;
use crate::table::{Key, Place};
use crate::wire::{self, Fields, Mac, Seg};

/// Distance kept from the last number of a connection whose place is taken over, in bytes: more than a window.
const REUSE_GAP: u64 = 1 << 20;

impl<P: Port> Stack<P> {
    /// Begins a connection. [`crate::Event::Opened`] or `Closed` follows.
    ///
    /// # Errors
    /// [`DialError`]; nothing was begun then.
    pub fn dial(&mut self, now: u64, d: Dial) -> Result<FlowId, DialError> {
        self.set_now(now);
        let (local, remote) = (Addr::from(d.local.ip()), Addr::from(d.remote.ip()));
        if local.is_v6() != remote.is_v6() {
            return Err(DialError::Family(d.local, d.remote));
        }
        if !self.host.owns(&local) || d.local.port() == 0 {
            return Err(DialError::NotOurs(d.local.ip()));
        }
        if !remote.is_unicast() || d.remote.port() == 0 || self.host.owns(&remote) {
            return Err(DialError::BadPeer(d.remote));
        }
        let hop = self.host.route(&remote, self.now).ok_or(DialError::NoRoute(d.remote.ip()))?;
        let live = self.flows.live();
        if live >= self.cfg.max_flows {
            return Err(DialError::TooMany(live));
        }
        let key = Key::new(local, d.local.port(), remote, d.remote.port());
        let place = self.flows.find(&key);
        if matches!(place, Some(Place::Flow(_))) {
            return Err(DialError::InUse(d.local.port()));
        }
        let sock = self.engine.connect(&key).map_err(|e| match e {
            Refused::Address => DialError::BadPeer(d.remote),
            Refused::Map(kind) => DialError::Map { live, kind },
        })?;
        let after = match place {
            Some(Place::TimeWait(t)) => self.flows.leave_time_wait(t),
            _ => None,
        };
        let hop = Hop::unknown(self.io.template([0; 6], &key), hop);
        let (iss, stamps) = (self.first_seq(&key, after), self.secret.stamp_offset(&key));
        let f = Box::new(Flow::dial(Begun { key, sock, hop, iss, stamps }, self.now));
        self.c.dialled += 1;
        let slot = self.add_flow(f);
        self.flows.mark(slot);
        Ok(self.flows.id(slot))
    }

    /// RFC 6528, and beyond what an earlier connection in the same place has used.
    fn first_seq(&self, key: &Key, after: Option<Seq>) -> Seq {
        let isn = self.secret.isn(key, self.now);
        after.map_or(isn, |a| isn.max(a.plus(REUSE_GAP)))
    }

    /// Whether a listener can have no further half-open connection.
    pub(super) fn full(&self, l: u16) -> bool {
        self.flows.live() >= self.cfg.max_flows || self.listeners.is_full(l)
    }

    /// Answers a SYN for nobody's connection: a new half-open one if somebody listens and the backlog has room.
    pub(super) fn accept(&mut self, s: &Seg, o: &Opts, src: Mac, after: Option<Seq>) {
        let Some(l) = self.listeners.find(&s.key) else {
            return self.reject(s, src);
        };
        if self.full(l) {
            return self.send_cookie(l, s, o, src);
        }
        let Ok(sock) = self.engine.listen(&s.key) else {
            self.c.syn_dropped += 1;
            return;
        };
        let iss = self.first_seq(&s.key, after);
        let Some(mut f) = self.embryo(sock, l, (s, o), iss, src) else { return };
        f.count_syn();
        let slot = self.half_open(l, f);
        self.flows.mark(slot);
    }

    /// A connection that begins with the SYN `s` to listener `l`; `None` when smoltcp does not take that.
    fn embryo(
        &mut self,
        sock: PhantomSocket,
        l: u16,
        (s, o): (&Seg, &Opts),
        iss: Seq,
        src: Mac,
    ) -> Option<Box<Flow>> {
        let key = s.key;
        let addr = self.host.route(&key.remote, self.now).unwrap_or(key.remote);
        let hop = Hop::known(self.io.template(src, &key), addr, self.link.neighbours().epoch());
        let stamps = self.secret.stamp_offset(&key);
        let mss = self.io.mss(key.is_v6());
        let with = (&self.cfg, &mut self.engine, &mut self.c);
        let f = Flow::accept(Begun { key, sock, hop, iss, stamps }, l, (s, o), mss, with, self.now);
        self.c.desync += u64::from(f.is_none());
        f.map(Box::new)
    }

    /// Adds a half-open connection to listener `l`; returns its slot.
    fn half_open(&mut self, l: u16, f: Box<Flow>) -> u32 {
        self.listeners.begun(l);
        self.c.accepted += 1;
        self.add_flow(f)
    }

    /// Answers a SYN for which listener `l` has no room.
    fn send_cookie(&mut self, l: u16, s: &Seg, o: &Opts, src: Mac) {
        // Answers to strangers are no reason for connections to wait for the port.
        let quiet = self.io.queued() < self.cfg.tx_depth / 2;
        let room = self.cfg.syn_cookies && self.flows.live() < self.cfg.max_flows && quiet;
        let mss = o.mss.unwrap_or_else(|| wire::default_mss(s.key.is_v6()));
        let cookie = if room { self.cookies.issue(&s.key, s.seq, mss, self.now) } else { None };
        let Some(seq) = cookie else {
            self.c.syn_dropped += 1;
            return;
        };
        self.listeners.overflowed(l, self.now);
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
    pub(super) fn take_cookie(&mut self, s: &Seg, o: &Opts, src: Mac) -> Option<u32> {
        let l = self.listeners.find(&s.key)?;
        if !self.listeners.has_cookies(l, self.now) || !s.has(wire::ACK) || s.has(wire::RST) {
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
