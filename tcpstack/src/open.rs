//! Beginnings: dialling, and answering a SYN.

use dataplane::pkt::Port;

use crate::addr::Addr;
use crate::config::{Dial, DialError};
use crate::engine::Refused;
use crate::flow::{Begun, Flow, Hop};
use crate::opts::Opts;
use crate::phantom::PhantomSocket;
use crate::seq::Seq;
use crate::stack::{FlowId, Stack};
use crate::table::{Key, Place};
use crate::wire::{Mac, Seg};

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

    /// Who listens for a SYN: on exactly this address, or else on all.
    pub(crate) fn listener(&self, k: &Key) -> Option<usize> {
        let at = |a: Addr| self.listeners.iter().position(|l| l.port == k.lport() && l.addr == a);
        let any4 = if k.is_v6() { None } else { Some(Addr::v4(0)) };
        at(k.local).or_else(|| any4.and_then(at)).or_else(|| at(Addr::UNSPECIFIED))
    }

    /// Whether a listener can have no further half-open connection.
    pub(crate) fn full(&self, l: usize) -> bool {
        self.flows.live() >= self.cfg.max_flows
            || self.listeners.get(l).is_none_or(|l| l.half_open >= l.backlog)
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
        let iss = self.first_seq(&s.key, after);
        let Some(mut f) = self.embryo(sock, l, (s, o), iss, src) else { return };
        f.count_syn();
        let slot = self.half_open(l, f);
        self.flows.mark(slot);
    }

    /// A connection that begins with the SYN `s` to listener `l`; `None` when smoltcp does not take that.
    pub(crate) fn embryo(
        &mut self,
        sock: PhantomSocket,
        l: usize,
        (s, o): (&Seg, &Opts),
        iss: Seq,
        src: Mac,
    ) -> Option<Box<Flow>> {
        let key = s.key;
        let addr = self.host.route(&key.remote, self.now).unwrap_or(key.remote);
        let hop = Hop::known(self.io.template(src, &key), addr, self.neigh.epoch());
        let stamps = self.secret.stamp_offset(&key);
        let mss = self.io.mss(key.is_v6());
        let with = (&self.cfg, &mut self.engine, &mut self.c);
        let f = Flow::accept(Begun { key, sock, hop, iss, stamps }, l as u16, (s, o), mss, with, self.now);
        self.c.desync += u64::from(f.is_none());
        f.map(Box::new)
    }

    /// Adds a half-open connection to listener `l`; returns its slot.
    pub(crate) fn half_open(&mut self, l: usize, f: Box<Flow>) -> u32 {
        if let Some(l) = self.listeners.get_mut(l) {
            l.half_open += 1;
        }
        self.c.accepted += 1;
        self.add_flow(f)
    }
}
