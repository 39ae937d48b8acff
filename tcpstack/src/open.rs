//! Beginnings: dialling, and answering a SYN.

use std::net::SocketAddr;

use dataplane::pkt::Port;

use crate::addr::Addr;
use crate::config::{Dial, DialError};
use crate::engine::Refused;
use crate::flow::Flow;
use crate::opts::Opts;
use crate::phase::Phase;
use crate::seq::Seq;
use crate::stack::{FlowId, Stack};
use crate::stamps::Stamps;
use crate::table::{Key, Place};
use crate::wire::{Mac, Seg};

/// Distance kept from the last number of a connection whose place is taken over, in bytes: more than a window.
const REUSE_GAP: u64 = 1 << 20;

impl Flow {
    pub(crate) fn local(&self) -> SocketAddr {
        SocketAddr::new(self.key.local.to_ip(), self.key.lport())
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.key.remote.to_ip(), self.key.rport())
    }
}

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
        if self.live >= self.cfg.max_flows {
            return Err(DialError::TooMany(self.live));
        }
        let key = Key::new(local, d.local.port(), remote, d.remote.port());
        let place = self.table.get(&key);
        if matches!(place, Some(Place::Flow(_))) {
            return Err(DialError::InUse(d.local.port()));
        }
        let sock = self.engine.connect(&key).map_err(|e| match e {
            Refused::Address => DialError::BadPeer(d.remote),
            Refused::Map(kind) => DialError::Map { live: self.live, kind },
        })?;
        let after = match place {
            Some(Place::TimeWait(t)) => self.tw.remove(t).map(|e| e.snd_nxt),
            _ => None,
        };
        let tmpl = self.io.template([0; 6], &key);
        let mut f = Box::new(Flow::new(key, sock, tmpl, hop, self.now));
        f.iss = self.first_seq(&key, after);
        f.stamps = Stamps::new(self.secret.stamp_offset(&key));
        f.poll = true;
        self.c.dialled += 1;
        let slot = self.add_flow(f);
        self.mark(slot);
        Ok(self.id(slot))
    }

    /// RFC 6528, and beyond what an earlier connection in the same place has used.
    fn first_seq(&self, key: &Key, after: Option<Seq>) -> Seq {
        let isn = self.secret.isn(key, self.now);
        after.map_or(isn, |a| isn.max(a.plus(REUSE_GAP)))
    }

    /// Who listens for a SYN: on exactly this address, or else on all.
    pub(crate) fn listener(&self, k: &Key) -> Option<usize> {
        let at = |a: Addr| self.listeners.iter().position(|l| l.port == k.lport() && l.addr == a);
        let any4 = if k.is_v6() { None } else { Some(Addr::v4(0)) };
        at(k.local).or_else(|| any4.and_then(at)).or_else(|| at(Addr::UNSPECIFIED))
    }

    /// Whether a listener can have no further half-open connection.
    pub(crate) fn full(&self, l: usize) -> bool {
        self.live >= self.cfg.max_flows || self.listeners.get(l).is_none_or(|l| l.half_open >= l.backlog)
    }

    /// Answers a SYN for nobody's connection: a new half-open one if somebody listens and the backlog has room.
    pub(crate) fn accept(&mut self, s: &Seg, o: &Opts, src: Mac, after: Option<Seq>) {
        let Some(l) = self.listener(&s.key) else {
            return self.reject(s, src);
        };
        if self.full(l) {
            return self.send_cookie(l, s, o, src);
        }
        let Ok(sock) = self.engine.listen(&s.key) else {
            self.c.syn_dropped += 1;
            return;
        };
        let hop = self.host.route(&s.key.remote, self.now).unwrap_or(s.key.remote);
        let tmpl = self.io.template(src, &s.key);
        let mut f = Box::new(Flow::new(s.key, sock, tmpl, hop, self.now));
        f.iss = self.first_seq(&s.key, after);
        f.hop_epoch = self.neigh.epoch();
        f.passive = true;
        f.stats.segs_in = 1;
        f.listener = l as u16;
        f.stamps = Stamps::new(self.secret.stamp_offset(&s.key));
        f.take_syn(s, o, &self.cfg, self.io.mss(s.key.is_v6()), self.now);
        let answer = f.feed_syn(&mut self.engine, &mut self.c, false, o.scale);
        if answer.is_some() || f.phase() != Phase::SynReceived {
            self.c.desync += 1;
            return;
        }
        self.listeners[l].half_open += 1;
        self.c.accepted += 1;
        let slot = self.add_flow(f);
        self.mark(slot);
    }
}
