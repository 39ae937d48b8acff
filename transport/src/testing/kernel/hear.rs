//! Input of the model kernel: connections, HELLOs, answers and messages.

use super::super::capture::{self, Msg};
use super::super::net::Net;
use super::super::srpc::{self, FRAMEWORK, TESTS};
use super::state::{Move, State};
use super::{ACCEPT_TIMEOUT, Conn, Due, Kernel, RETRY, TIMEOUT, Up};
use crate::wire::{
    AcceptorReq, ByteOrder, ConnType, Hello, HelloStart, KsockHdr, KsockType, LnetBody, Version, WireError,
    WireHandle, ping,
};

impl Kernel {
    /// Takes what has come since it last looked.
    pub(super) fn look(&mut self, net: &mut Net) {
        for link in std::mem::replace(&mut self.links, net.links())..net.links() {
            let [from, to] = net.addresses(link);
            if Some(to.ip()) == self.cfg.nid.ip() && Some(from.ip()) == self.them.ip() {
                let c = self.conn(net, link, Move::Accepted, ConnType::None, Version::V3);
                self.conns.push(c);
                self.at(net.now + ACCEPT_TIMEOUT, Due::Look);
            }
        }
        for n in 0..self.conns.len() {
            self.look_at(net, n);
        }
        let now = net.now;
        for s in self.sent.iter_mut().filter(|s| s.received.is_none()) {
            let dialled = self.conns.iter().any(|c| c.link == s.link && c.dialled);
            s.received = (net.arrived(s.link, usize::from(dialled)) >= s.end).then_some(now);
        }
        while self.peer.queue.front().is_some_and(|m| m.since + TIMEOUT <= now) {
            if let Some(m) = self.peer.queue.pop_front() {
                self.failed(&m.body, m.token);
            }
        }
        self.discovery_overdue(now);
        self.ops.iter_mut().filter(|o| o.end.is_none() && o.asked + TIMEOUT <= now).for_each(|o| {
            o.end = Some(false);
        });
    }

    fn look_at(&mut self, net: &mut Net, n: usize) {
        let Conn { link, dialled, seen, state, .. } = self.conns[n];
        let (ours, theirs) = (usize::from(!dialled), usize::from(dialled));
        let there = (net.arrived(link, ours) as usize).max(seen);
        if there > seen {
            let fresh = net.wire(link, theirs).0.get(seen..there).unwrap_or_default().to_vec();
            self.conns[n].seen = there;
            if state == State::Closed {
                self.seen.lost += 1;
                return;
            }
            self.conns[n].buf.extend(fresh);
            self.read(net, n);
        }
        let (fin, rst) = net.raw_ended(link);
        match self.conns[n].state.get() {
            State::New | State::Closed => {}
            State::Up if self.conns[n].stalled.is_some_and(|s| s.0 + TIMEOUT <= net.now) => {
                self.end_set(net, "nothing was read for too long");
            }
            State::Up if rst => self.conns[n].dead = true,
            State::Up if fin => {
                self.seen.sets_ended += 1;
                self.end_set(net, "its peer ended a connection");
            }
            State::Reply if rst || fin || self.conns[n].since + TIMEOUT <= net.now => {
                self.say(net, || format!("link {link}: the dial failed"));
                self.close(net, n);
                self.retry(net, RETRY);
                self.fail_queue();
            }
            State::Request | State::Hello
                if rst || fin || self.conns[n].since + ACCEPT_TIMEOUT <= net.now =>
            {
                self.close(net, n);
            }
            _ => {}
        }
    }

    pub(super) fn read(&mut self, net: &mut Net, n: usize) {
        loop {
            let Conn { state, version, .. } = self.conns[n];
            let buf = &self.conns[n].buf;
            match state.get() {
                State::Request => match AcceptorReq::parse(buf) {
                    Err(WireError::Truncated { .. }) => return,
                    Ok((req, len)) if req.target == self.cfg.nid => {
                        self.conns[n].buf.drain(..len);
                        self.conns[n].moves(Move::Requested);
                    }
                    other => panic!("an acceptor request that a kernel refuses: {other:?}"),
                },
                State::Hello => {
                    // The version is enough for one that it does not know.
                    let whole = match HelloStart::parse(buf) {
                        Ok(s) if s.version <= self.cfg.version => Hello::parse(buf).is_ok(),
                        Ok(_) => true,
                        Err(_) => false,
                    };
                    if whole && !self.due.iter().any(|d| d.0.1 == Due::Accept(n)) {
                        let when = net.now + self.soon();
                        self.at(when, Due::Accept(n));
                    }
                    return;
                }
                State::Reply => match Hello::parse(buf) {
                    Err(WireError::Truncated { .. }) => return,
                    Ok((h, len)) => {
                        self.conns[n].buf.drain(..len);
                        self.answered(net, n, &h);
                    }
                    Err(e) => panic!("an answer that a kernel does not know: {e}"),
                },
                State::Up if self.conns[n].stalled.is_some() => return,
                State::Up => match capture::message(buf, version, ByteOrder::Little) {
                    Err(WireError::Truncated { .. }) => return,
                    Ok((msg, len)) => {
                        self.conns[n].buf.drain(..len);
                        self.message(net, n, msg);
                    }
                    Err(e) => panic!("a message that a kernel does not know: {e}"),
                },
                State::New | State::Closed => return,
            }
        }
    }

    /// A HELLO of ours (socklnd.md §2.6).
    pub(super) fn accept(&mut self, net: &mut Net, n: usize) {
        if self.conns[n].state != State::Hello {
            return;
        }
        let start = HelloStart::parse(&self.conns[n].buf);
        if start.is_ok_and(|s| s.version > self.cfg.version) {
            // The rest of the HELLO is unread: RST, in the same burst.
            let own = self.hello(self.cfg.version, ConnType::None, self.cfg.nid).emit();
            self.write(net, n, &own);
            self.seen.refused += 1;
            self.conns[n].moves(Move::Close);
            return net.raw_reset(self.conns[n].link);
        }
        let Ok((h, len)) = Hello::parse(&self.conns[n].buf) else { return };
        self.conns[n].buf.drain(..len);
        assert_eq!(h.src_nid, self.them, "it is who it says");
        let mine = h.ctype.invert();
        let race = self.them < self.cfg.nid && self.peer.connecting.is_some();
        let stale = self.peer.agreed.is_some_and(|a| a != (h.version, h.src_incarnation));
        if !race && stale {
            self.say(net, || "another incarnation or version".to_owned());
            self.end_set(net, "another incarnation or version");
        }
        if race || stale || self.of(mine) >= self.cfg.conns_per_peer {
            let none = self.hello(h.version, ConnType::None, self.them).emit();
            self.say(net, || format!("link {}: NONE (race {race}, stale {stale})", self.conns[n].link));
            self.write(net, n, &none);
            self.seen.refused += 1;
            return self.close(net, n);
        }
        let own = self.hello(h.version, mine, self.them).emit();
        self.write(net, n, &own);
        self.established(net, n, mine, &h);
    }

    fn established(&mut self, net: &mut Net, n: usize, ctype: ConnType, h: &Hello) {
        self.peer.agreed = Some((h.version, h.src_incarnation));
        let c = &mut self.conns[n];
        c.moves(Move::Agreed);
        (c.ctype, c.version) = (ctype, h.version);
        self.say(net, || format!("link {}: {ctype:?} {:?} is up", self.conns[n].link, h.version));
        self.flush(net);
        self.connect(net);
        self.read(net, n);
    }

    /// Our answer to a HELLO of its own (socklnd.md §2.7).
    fn answered(&mut self, net: &mut Net, n: usize, h: &Hello) {
        let Conn { ctype, version, .. } = self.conns[n];
        assert_eq!(h.src_nid, self.them);
        if h.ctype == ConnType::None {
            self.close(net, n);
            if h.version == version {
                self.seen.nones += 1;
                return self.refused(net, "NONE", RETRY);
            }
            self.seen.version_nones += 1;
            self.peer.wanted = Some(h.version);
            return self.refused(net, "NONE for the version", 0);
        }
        assert_eq!(h.ctype.invert(), ctype, "the answer has the wrong type");
        if self.peer.agreed.is_some_and(|a| a != (h.version, h.src_incarnation)) {
            self.seen.stale += 1;
            self.close(net, n);
            self.end_set(net, "the answer is another's");
            return self.refused(net, "stale", 0);
        }
        self.peer.refusals = 0;
        self.peer.connecting = None;
        self.seen.dials += 1;
        if self.of(ctype) >= self.cfg.conns_per_peer {
            // It has one: its own goes, and says nothing. Bytes that come on it are lost.
            self.seen.duplicates += 1;
            self.say(net, || format!("link {}: a duplicate", self.conns[n].link));
            self.seen.lost += u64::from(!std::mem::take(&mut self.conns[n].buf).is_empty());
            self.close(net, n);
            self.flush(net);
            return self.connect(net);
        }
        self.established(net, n, ctype, h);
    }

    fn close(&mut self, net: &mut Net, n: usize) {
        self.conns[n].moves(Move::Close);
        if self.conns[n].buf.is_empty() {
            net.raw_close(self.conns[n].link);
        } else {
            self.seen.lost += 1;
            net.raw_reset(self.conns[n].link);
        }
    }

    /// One fate.
    pub(super) fn end_set(&mut self, net: &mut Net, why: &str) {
        self.say(net, || format!("closes the set: {why}"));
        for n in 0..self.conns.len() {
            if self.conns[n].state == State::Up {
                self.close(net, n);
            }
        }
        (self.peer.agreed, self.peer.wanted) = (None, None);
        for token in std::mem::take(&mut self.peer.cookies).into_values() {
            self.tell(Up::Ended(token, false));
        }
        self.peer.next_cookie = 2;
    }

    pub(super) fn wrong(&mut self, net: &mut Net, why: &str) {
        self.seen.sets_wrong += 1;
        self.end_set(net, why);
    }

    fn message(&mut self, net: &mut Net, n: usize, msg: Msg) {
        let version = self.conns[n].version;
        let (k, lnet) = match msg {
            Msg::Noop(k) => (k, None),
            Msg::Lnet(k, h, payload) => (k, Some((h, payload))),
            Msg::Acceptor(_) | Msg::Hello(_) => return,
        };
        let keepalive = k.cookie1 == 1 && version >= Version::V3;
        if k.cookie1 != 0 && !keepalive {
            let acked: Vec<u64> = match (k.kind, k.cookie0) {
                (KsockType::Lnet, _) | (_, 0) => vec![k.cookie1],
                (_, c0) if c0 > k.cookie1 => vec![c0, k.cookie1],
                (_, c0) => (c0..=k.cookie1).collect(),
            };
            for c in acked {
                match self.peer.cookies.remove(&c) {
                    Some(token) => self.tell(Up::Ended(token, true)),
                    None => return self.wrong(net, "an ACK of no cookie"),
                }
            }
        }
        let Some((h, payload)) = lnet else { return };
        self.say(net, || format!("takes {} on link {}", h.body.name(), self.conns[n].link));
        if k.cookie0 != 0 {
            // Its ACK must not wait behind messages.
            let any = (0..self.conns.len()).filter(|m| self.conns[*m].state == State::Up);
            let fits: Vec<usize> =
                any.filter(|m| version < Version::V3 || self.conns[*m].ctype == ConnType::BulkIn).collect();
            let Some(m) = (!fits.is_empty()).then(|| self.rng.pick(&fits)) else {
                return self.wrong(net, "a zero-copy request and no BULK_IN");
            };
            let noop = KsockHdr { kind: KsockType::Noop, csum: 0, cookie0: 0, cookie1: k.cookie0 };
            self.write(net, m, &noop.emit(ByteOrder::Little));
        }
        if let Some(above) = &mut self.above {
            if let LnetBody::Put { portal: portal @ (TESTS | FRAMEWORK), match_bits, .. } = h.body
                && !above.posted.contains(&(portal, match_bits))
                && payload.len() <= srpc::LEN
            {
                self.conns[n].stalled = Some((net.now, (portal, match_bits)));
                self.at(net.now + TIMEOUT, Due::Look);
            }
            return self.tell(Up::Came(h, payload));
        }
        match h.body {
            LnetBody::Get { handle, match_bits: ping::MATCH_BITS, .. } => {
                let info = self.own_info();
                self.launch(net, LnetBody::Reply { handle }, info, 0);
            }
            LnetBody::Get { handle, sink_length, .. } => {
                self.launch(net, LnetBody::Reply { handle }, vec![7; sink_length as usize], 0);
            }
            LnetBody::Put { ack, match_bits, hdr_data, portal, .. } => {
                if portal == ping::PORTAL {
                    self.pushed(net, &payload);
                } else {
                    self.taken.push(hdr_data);
                }
                if ack != WireHandle::NONE {
                    let mlength = payload.len() as u32;
                    self.launch(net, LnetBody::Ack { handle: ack, match_bits, mlength }, Vec::new(), 0);
                }
            }
            LnetBody::Reply { handle } | LnetBody::Ack { handle, .. } => {
                if !self.discovered(net, handle.object, &payload) {
                    self.ended(handle, true);
                }
            }
        }
    }
}
