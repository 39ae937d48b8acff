//! Handshakes: from `Opened` to a connection that carries messages, or to its end.

use arrayvec::ArrayVec;

use super::Socklnd;
use super::conn::Conn;
use super::hello::{self, Active, Front, Handshake, HsAction, HsEvent, HsState, Passive};
use super::peer::{DialEvent, DialState, Peer};
use super::standing::StandEvent;
use crate::lnd::budget::{self, Cause};
use crate::lnd::config::SEC;
use crate::lnd::{Accept, Cx, LnetError, NiId, Upper};
use crate::stream::slab::Key;
use crate::stream::{Action, Bucket, Close, ConnId, ConnInfo, InlineHdr, Pages, SendMsg, StreamRx};
use crate::wire::nid::PID_USER_FLAG;
use crate::wire::{AcceptorReq, ConnType, Hello, Nid, ProcessId, Version, acceptor};

/// Highest port that only root may bind on kernels' usual settings (socklnd.md §1).
const LAST_PRIVILEGED: u16 = 1023;

impl<U: Upper> Socklnd<U> {
    fn register(&mut self, cx: &mut Cx, id: ConnId, info: &ConnInfo) -> Key {
        let ip = info.remote.ip();
        let host = cx.budget.charge_at(ip, Cause::Conns, budget::CONN);
        let hs = if info.dial.is_some() { Handshake::DIALLED } else { Handshake::ACCEPTED };
        let key = self.conns.insert(Conn::new(id, hs, Bucket::of(ip), host));
        self.by_id.insert(id, key);
        key
    }

    pub(super) fn opened_passive(&mut self, cx: &mut Cx, id: ConnId, info: ConnInfo) {
        let key = self.register(cx, id, &info);
        let unprivileged = info.remote.port() > LAST_PRIVILEGED;
        let refuse = if !self.takes_in(cx) || cx.cfg.accept == Accept::None {
            true
        } else if cx.cfg.accept == Accept::Secure && unprivileged {
            cx.counters.err_unprivileged += 1;
            true
        } else {
            !self.may_shake(cx, key)
        };
        if refuse {
            self.end_conn(cx, key, Close::Abort);
            return;
        }
        self.shakes(cx, key);
        let deadline = self.shake_by(cx);
        let rename = unprivileged && cx.cfg.accept == Accept::All;
        if let Some(c) = self.conns.get_mut(key) {
            c.hs_deadline = deadline;
            c.own_ip = info.remote.ip() == info.local.ip();
            c.renamed = rename.then_some(info.remote);
        }
        self.conn_by(cx, key, deadline);
    }

    pub(super) fn opened_active(&mut self, cx: &mut Cx, id: ConnId, info: ConnInfo) {
        let key = self.register(cx, id, &info);
        let dialled = info.dial.and_then(|d| self.dials.remove(&d));
        let Some((peer_key, peer)) = dialled.and_then(|p| Some((p, self.peers.get_mut(p)?))) else {
            // The dial was given up meanwhile.
            self.end_conn(cx, key, Close::Abort);
            return;
        };
        let DialState::Dialling(_, ctype) = peer.dial() else {
            self.end_conn(cx, key, Close::Abort);
            return;
        };
        peer.dial_event(DialEvent::Opened(key));
        let target = peer.id;
        let version = peer.version.unwrap_or_else(|| cx.cfg.first_version(target.nid));
        let deadline = cx.now + cx.cfg.timeout();
        peer.dial_deadline = deadline;
        if let Some(c) = self.conns.get_mut(key) {
            c.peer = Some(peer_key);
            c.ctype = ctype;
            c.version = version;
            c.own_ip = info.remote.ip() == info.local.ip();
            c.hs_deadline = deadline;
        }
        self.shakes(cx, key);
        self.conn_by(cx, key, deadline);
        // Request and HELLO leave together: the acceptor says nothing when it agrees (socklnd.md §0).
        let req = AcceptorReq::new(target.nid);
        let mut hdr = InlineHdr::new();
        append(&mut hdr, req.emit().get(..req.wire_len()).unwrap_or_default());
        append(
            &mut hdr,
            &hello::ours(&cx.cfg, self.incarnation, (self.nid, target.nid), ctype, version).emit(),
        );
        self.write(cx, key, hdr);
    }

    /// Sends handshake bytes.
    fn write(&mut self, cx: &mut Cx, key: Key, hdr: InlineHdr) {
        let deadline = cx.now + cx.cfg.timeout();
        let Some(c) = self.conns.get_mut(key) else { return };
        c.pushed += hdr.len() as u64;
        c.tx_deadline = deadline;
        let msg = SendMsg { hdr, pay: Pages::new(), lend: None, hold: false, answer: true };
        cx.act(Action::Send(c.id, msg));
    }

    /// Reads handshake messages off a stream, and no byte more.
    pub(super) fn handshake_bytes(&mut self, up: &mut U, cx: &mut Cx, key: Key, rx: &mut dyn StreamRx) {
        // A round reads further into a message, ends one, or returns; a handshake has no more rounds than this.
        for _ in 0..16 {
            let Some(c) = self.conns.get_mut(key) else { return };
            let front = match c.hs.get() {
                HsState::Passive(Passive::Request) => {
                    hello::request(&c.hs_buf, self.nid, &cx.cfg, &mut cx.counters)
                }
                HsState::Passive(Passive::Hello) | HsState::Active(Active::Reply) => {
                    hello::hello(&c.hs_buf, self.nid, &mut cx.counters)
                }
                _ => return,
            };
            match front {
                Front::Need(need) => {
                    if !collect(&mut c.hs_buf, rx, need) {
                        return;
                    }
                }
                Front::Request => {
                    c.hs_buf.clear();
                    let deadline = self.shake_by(cx);
                    if let Some(c) = self.conns.get_mut(key) {
                        c.hs_deadline = deadline;
                    }
                    self.conn_by(cx, key, deadline);
                    self.handshake_event(up, cx, key, HsEvent::Request);
                }
                Front::Elsewhere(ni) => {
                    c.hs_buf.clear();
                    return self.misroute(cx, key, ni);
                }
                Front::Hello(h) => {
                    c.hs_buf.clear();
                    self.handshake_hello(up, cx, key, &h);
                }
                Front::Fail(event) => self.handshake_event(up, cx, key, event),
            }
        }
    }

    /// A peer has connected to this NI's address, and wants another NI of this node: that one goes on with it.
    fn misroute(&mut self, cx: &mut Cx, key: Key, ni: NiId) {
        self.shook(cx, key);
        self.conn_timers.cancel(key);
        if let Some(c) = self.conns.get_mut(key) {
            self.by_id.remove(&c.id);
            // Its handshake is no longer counted, nor yet again.
            c.hs_deadline = u64::MAX;
        }
        self.misrouted.extend(self.conns.remove(key).map(|c| (ni, Box::new(c))));
    }

    /// Goes on with a connection that came to another NI's address. Its request has been read.
    pub(crate) fn take_over(&mut self, up: &mut U, cx: &mut Cx, conn: Conn<U>) {
        let (id, deadline) = (conn.id, self.shake_by(cx));
        let key = self.conns.insert(conn);
        self.by_id.insert(id, key);
        if !self.takes_in(cx) || !self.may_shake(cx, key) {
            return self.end_conn(cx, key, Close::Abort);
        }
        self.shakes(cx, key);
        if let Some(c) = self.conns.get_mut(key) {
            c.hs_deadline = deadline;
        }
        self.conn_by(cx, key, deadline);
        self.handshake_event(up, cx, key, HsEvent::Request);
        cx.act(Action::Read(id));
    }

    fn handshake_hello(&mut self, up: &mut U, cx: &mut Cx, key: Key, h: &Hello) {
        let Some(c) = self.conns.get_mut(key) else { return };
        c.order = h.order;
        c.claimed = Some(h.src_nid);
        if c.hs.get() == HsState::Active(Active::Reply) {
            let (peer_key, mine, asked) = (c.peer, c.ctype, c.version);
            let Some(peer) = peer_key.and_then(|p| self.peers.get(p)) else { return };
            let event = hello::judge_reply(h, peer.id, (asked, mine), &mut cx.counters);
            if event == HsEvent::Hello && peer.incarnation.is_some_and(|i| i != h.src_incarnation) {
                // The peer rebooted between two of our dials: open connections belong to a node that is gone. They are closed
                // first, so that this attempt counts as the first of the next set, and waits; a kernel dials again at once,
                // which loops (socklnd.md §2.7).
                cx.counters.peers_rebooted += 1;
                if let Some(p) = peer_key {
                    self.close_set_but(up, cx, p, LnetError::ConnLost, false, Some(key));
                }
                return self.handshake_event(up, cx, key, HsEvent::Busy);
            }
            if event == HsEvent::Hello {
                self.join(up, cx, key, h);
            }
            if matches!(event, HsEvent::Hello | HsEvent::Downgrade)
                && let Some(peer) = peer_key.and_then(|p| self.peers.get_mut(p))
            {
                peer.version = Some(h.version);
            }
            // An answer in another version is as good (socklnd.md §2.7).
            if let Some(c) = self.conns.get_mut(key) {
                c.version = h.version;
            }
            return self.handshake_event(up, cx, key, event);
        }
        // A peer with a newer version than is wanted here is answered in ours, and takes that (socklnd.md §2.7).
        let newer = |most: &Version| h.version > *most && h.version < Version::V4;
        let version = cx.cfg.version.filter(newer).unwrap_or(h.version);
        if version < Version::V4 && self.nid.to_nid4().is_none() {
            // Only V4 has room for the address of this NI.
            cx.counters.err_version += 1;
            return self.handshake_event(up, cx, key, HsEvent::Version);
        }
        (c.version, c.tcp_magic) = (version, h.tcp_magic && version == h.version);
        let renamed = c.renamed;
        let mine = match hello::judge_passive(h, renamed.is_some(), &mut cx.counters) {
            Ok(mine) => mine,
            Err(event) => return self.handshake_event(up, cx, key, event),
        };
        let Some(c) = self.conns.get_mut(key) else { return };
        c.ctype = mine;
        let id = match renamed {
            Some(at) => ProcessId {
                nid: Nid::tcp(at.ip(), self.nid.net_num()),
                pid: u32::from(at.port()) | PID_USER_FLAG,
            },
            None => ProcessId { nid: h.src_nid, pid: h.src_pid },
        };
        c.claimed = Some(id.nid);
        let event = self.admit(up, cx, key, id, mine, h);
        self.handshake_event(up, cx, key, event);
    }

    /// Takes the HELLO of a peer, whose entry is found or made. The HELLO is answered with the inverted type, also where a
    /// kernel would say NONE (socklnd.md §2.6, field report L1): kernels count the NONEs of all peers for good, and panic at the
    /// third if a message is waiting.
    fn admit(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        key: Key,
        id: ProcessId,
        mine: ConnType,
        h: &Hello,
    ) -> HsEvent {
        let incarnation = h.src_incarnation;
        let peer_key = match self.by_peer.get(&id) {
            Some(k) => *k,
            None => match self.add_peer(up, cx, id, Some(key)) {
                Some(k) => k,
                // NONE would bring it back every second.
                None => return HsEvent::Bad,
            },
        };
        let Some(c) = self.conns.get_mut(key) else { return HsEvent::Bad };
        c.peer = Some(peer_key);
        let (version, own_ip) = (c.version, c.own_ip);
        let Some(peer) = self.peers.get(peer_key) else { return HsEvent::Bad };
        let rebooted = peer.incarnation.is_some_and(|i| i != incarnation);
        let other = !peer.conns.is_empty() && peer.version.is_some_and(|v| v != version);
        if rebooted || other || self.ended_by(peer) {
            // Messages that wait for a connection go over the set that begins here.
            cx.counters.peers_rebooted += u64::from(rebooted);
            self.drop_set(up, cx, peer_key, LnetError::ConnLost, false, None);
            self.kick_upper(up, peer_key);
        }
        let Some(peer) = self.peers.get_mut(peer_key) else { return HsEvent::Bad };
        let same = peer.conns.iter().filter(|c| self.conns.get(**c).is_some_and(|c| c.ctype == mine)).count();
        if same >= usize::from(cx.cfg.max_conns_per_type) && !own_ip {
            // It has a set, and pings over that.
            return HsEvent::Busy;
        }
        peer.incarnation = Some(incarnation);
        peer.version = Some(version);
        // Peers begin with CONTROL. A peer that begins with another type believes to have CONTROL already, with the process that
        // we were before a restart; it ends this connection when it has read our incarnation.
        let bulk = matches!(mine, ConnType::BulkIn | ConnType::BulkOut);
        let carries = |c: &Key| {
            self.conns.get(*c).is_some_and(|c| matches!(c.ctype, ConnType::Control | ConnType::Any))
        };
        let misled = bulk && !peer.conns.iter().any(carries);
        if same > 0 || misled || peer.dial().under_way() == Some(mine) {
            cx.counters.duplicates += 1;
            if let Some(c) = self.conns.get_mut(key) {
                c.standing.apply(StandEvent::Doubted);
                self.sets = self.sets.wrapping_add(1);
            }
        }
        HsEvent::Hello
    }

    /// Applies the handshake's table.
    pub(super) fn handshake_event(&mut self, up: &mut U, cx: &mut Cx, key: Key, event: HsEvent) {
        self.leaving.shaken_at = cx.now;
        let event = self.or_v1(cx, key, event);
        let Some(c) = self.conns.get_mut(key) else { return };
        let (before, dialled) = (c.hs, !c.passive());
        let action = c.hs.apply(event);
        let (peer, mine) = (c.peer, c.ctype);
        let target = c.claimed.unwrap_or(self.nid);
        let mut how = Close::Abort;
        match action {
            HsAction::Wait => return,
            HsAction::Leave => how = Close::Fin,
            HsAction::AnswerAndUp | HsAction::Up => {
                self.shook(cx, key);
                if action == HsAction::AnswerAndUp {
                    self.write_hello(cx, key, target, mine, None);
                }
                return self.conn_up(up, cx, key);
            }
            HsAction::AnswerNone => {
                cx.counters.races += 1;
                self.write_hello(cx, key, target, ConnType::None, None);
                how = Close::Fin;
            }
            HsAction::AnswerVersion => {
                let ours = cx.cfg.first_version(self.nid);
                self.write_hello(cx, key, self.nid, ConnType::None, Some(ours));
                how = Close::Fin;
            }
            HsAction::Refuse => {
                let mut hdr = InlineHdr::new();
                append(&mut hdr, &acceptor::refusal());
                self.write(cx, key, hdr);
                how = Close::Fin;
            }
            HsAction::Retry => cx.counters.races += 1,
            HsAction::Again => cx.counters.downgrades += 1,
            HsAction::Close => {}
        }
        if event == HsEvent::Timeout {
            cx.counters.err_hello_timeout += 1;
        }
        if let Some(p) = peer.filter(|_| dialled) {
            self.dial_came_to(key, p, event);
        }
        self.close_conn(cx, key, before, how);
        match peer {
            Some(p) if dialled && action == HsAction::Retry => self.dial_busy(up, cx, p),
            Some(p) if dialled && action == HsAction::Again => self.dial_again(up, cx, p),
            Some(p) if dialled => self.dial_hard_failure(up, cx, p),
            Some(p) => self.forget_if_idle(up, cx, p),
            None => {}
        }
    }

    /// Answers in the version that the peer spoke, or in `version`.
    fn write_hello(&mut self, cx: &mut Cx, key: Key, dst: Nid, ctype: ConnType, version: Option<Version>) {
        let Some(c) = self.conns.get(key) else { return };
        let mut h =
            hello::ours(&cx.cfg, self.incarnation, (self.nid, dst), ctype, version.unwrap_or(c.version));
        h.tcp_magic = c.tcp_magic;
        let mut hdr = InlineHdr::new();
        append(&mut hdr, &h.emit());
        self.write(cx, key, hdr);
    }

    /// With `v1_on_reset`, a peer that resets the connection or garbles its answer to our HELLO is taken for one that speaks V1.
    fn or_v1(&mut self, cx: &mut Cx, key: Key, event: HsEvent) -> HsEvent {
        let Some(c) = self.conns.get(key) else { return event };
        let garbled = matches!(event, HsEvent::Lost | HsEvent::Bad | HsEvent::Unfit);
        let refused = c.hs.get() == HsState::Active(Active::Reply) && garbled;
        if !cx.cfg.v1_on_reset || !refused || c.version == Version::V1 {
            return event;
        }
        let Some(p) = c.peer.and_then(|p| self.peers.get_mut(p)) else { return event };
        // V1 cannot name a peer with a long address.
        if p.id.nid.to_nid4().is_none() || !p.conns.is_empty() {
            return event;
        }
        p.version = Some(Version::V1);
        HsEvent::Downgrade
    }

    /// Whether the peer has ended the set, which is read to its end still: a new connection belongs to the next one.
    fn ended_by(&self, peer: &Peer<U::Token>) -> bool {
        let fin = |c: &Key| self.conns.get(*c).is_some_and(|c| c.fin);
        peer.leaving.is_some() || peer.conns.iter().any(fin)
    }

    /// The answer to our HELLO is good: the connection joins the set, or begins one.
    fn join(&mut self, up: &mut U, cx: &mut Cx, key: Key, h: &Hello) {
        let Some(peer_key) = self.conns.get(key).and_then(|c| c.peer) else { return };
        let Some(peer) = self.peers.get(peer_key) else { return };
        let other = !peer.conns.is_empty() && peer.version.is_some_and(|v| v != h.version);
        if other || self.ended_by(peer) {
            self.drop_set(up, cx, peer_key, LnetError::ConnLost, false, Some(key));
            self.kick_upper(up, peer_key);
        }
        if let Some(peer) = self.peers.get_mut(peer_key) {
            peer.incarnation = Some(h.src_incarnation);
        }
    }

    fn conn_up(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        cx.counters.conns_up += 1;
        let now = cx.now;
        let Some(c) = self.conns.get_mut(key) else { return };
        (c.up_at, c.window) = (now, cx.cfg.tx_window);
        let Some(peer_key) = c.peer else { return };
        let Some(peer) = self.peers.get_mut(peer_key) else { return };
        peer.conns.push(key);
        self.sets = self.sets.wrapping_add(1);
        peer.last_alive = now;
        let home = peer.id.nid.ip();
        peer.why = None;
        if let Some(c) = self.conns.get_mut(key) {
            c.last_used = now / SEC;
            c.rx.begin(c.version);
            c.txq.begin(c.version, c.ctype);
        }
        if let DialState::Shaking(k, ctype) = peer.dial()
            && k == key
        {
            peer.dial_event(DialEvent::Up);
            peer.nones.forget(ctype);
            peer.interval = 0;
        }
        self.charge_to(up, cx, peer_key, key, home);
        if let Some(p) = self.peers.get(peer_key) {
            up.peer_connected(cx, p.up);
        }
        if cx.cfg.keepalive > 0 {
            self.peer_by(cx, peer_key, now + cx.cfg.keepalive);
        }
        self.flush(up, cx, peer_key);
        self.maybe_dial(cx, peer_key);
        self.late(up, cx, peer_key);
    }
}

/// Appends as much as fits: all of it, by the sizes of the formats.
pub(super) fn append<const N: usize>(buf: &mut ArrayVec<u8, N>, bytes: &[u8]) {
    let n = bytes.len().min(buf.remaining_capacity());
    let fits = buf.try_extend_from_slice(bytes.get(..n).unwrap_or_default());
    debug_assert!(fits.is_ok() && n == bytes.len());
}

/// Collects bytes until `buf` has `need` of them; gives whether it has.
pub(super) fn collect<const N: usize>(buf: &mut ArrayVec<u8, N>, rx: &mut dyn StreamRx, need: usize) -> bool {
    let need = need.min(N);
    let mut room = [0; N];
    let Some(room) = room.get_mut(..need.saturating_sub(buf.len())) else { return false };
    let got = rx.read(room);
    append(buf, room.get(..got).unwrap_or_default());
    buf.len() >= need
}
