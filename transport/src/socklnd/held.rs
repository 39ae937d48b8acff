//! Charges to hosts: socklnd's side of the [`Budget`](crate::lnd::budget::Budget).

use std::net::IpAddr;

use super::Socklnd;
use super::conn::Conn;
use super::peer::Peer;
use super::rx::{RxState, WaitFor};
use crate::lnd::budget::{ANSWER, CONN, Cause, NOBODY, PEER, QUEUE, trim_map};
use crate::lnd::{Cx, Hold, Upper};
use crate::stream::ConnId;
use crate::stream::slab::Key;
use crate::wire::ProcessId;

impl<U: Upper> Socklnd<U> {
    /// Whether a passive connection that has just come may begin its handshake; counts why not.
    pub(super) fn may_shake(&mut self, cx: &mut Cx, conn: Key) -> bool {
        let Some(host) = self.conns.get(conn).map(|c| c.host) else { return false };
        if !cx.budget.may_shake(host, cx.cfg.max_embryonic) {
            cx.counters.err_too_many_embryonic += 1;
            return false;
        }
        let fits = cx.budget.admits(host, 0) && cx.budget.may_stay(host, cx.cfg.max_conns);
        cx.counters.err_over_budget += u64::from(!fits);
        fits
    }

    /// A handshake begins that has a deadline.
    pub(super) fn shakes(&mut self, cx: &mut Cx, conn: Key) {
        if let Some(c) = self.conns.get(conn) {
            cx.budget.shakes(c.host);
        }
    }

    /// A handshake that had a deadline is over.
    pub(super) fn shook(&mut self, cx: &mut Cx, conn: Key) {
        if let Some(c) = self.conns.get(conn) {
            cx.budget.shook(c.host);
        }
    }

    /// A new entry for a peer, unless there are too many: one that `conn` speaks for, or one that we want to speak to.
    /// Counts why a HELLO's gets none.
    pub(super) fn add_peer(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        id: ProcessId,
        conn: Option<Key>,
    ) -> Option<Key> {
        if up.peers() >= cx.cfg.max_peers {
            cx.counters.err_too_many_peers += u64::from(conn.is_some());
            return None;
        }
        let host = match conn.and_then(|c| self.conns.get(c)).map(|c| c.host) {
            Some(host) if !cx.budget.admits(host, PEER) => {
                cx.counters.err_over_budget += 1;
                return None;
            }
            Some(host) => {
                cx.budget.charge(host, Cause::Peers, PEER);
                host
            }
            None => cx.budget.charge_at(id.nid.ip().unwrap_or(NOBODY), Cause::Peers, PEER),
        };
        let key = self.peers.insert(Peer::new(id, host, cx.cfg.conns(), cx.now));
        let above = up.peer_new(self.ni, id, key, host);
        if let Some(p) = self.peers.get_mut(key) {
            p.up = above;
        }
        self.by_peer.insert(id, key);
        Some(key)
    }

    /// Charges of a peer: for itself, and for its answers that are not on a stream without pages.
    fn charges(p: &Peer<U::Token>) -> (u64, u64) {
        (PEER + u64::from(p.queues) * QUEUE, (p.answers + p.lent) as u64 * ANSWER)
    }

    /// The peer is forgotten, or leaves: nothing is charged for it any more.
    pub(super) fn uncharge_peer(&mut self, cx: &mut Cx, peer: Key) {
        let Some(p) = self.peers.get(peer) else { return };
        let ((entry, answers), host) = (Self::charges(p), p.host);
        cx.budget.release(host, Cause::Answers, answers);
        cx.budget.release(host, Cause::Peers, entry);
    }

    /// Charges a peer to the host at `ip`.
    pub(super) fn charge_peer(&mut self, cx: &mut Cx, peer: Key, ip: IpAddr) {
        let Some(p) = self.peers.get_mut(peer) else { return };
        let (entry, answers) = Self::charges(p);
        p.host = cx.budget.charge_at(ip, Cause::Peers, entry);
        cx.budget.charge(p.host, Cause::Answers, answers);
    }

    /// Charges a peer to another host.
    pub(super) fn recharge_peer(&mut self, up: &mut U, cx: &mut Cx, peer: Key, ip: IpAddr) {
        let Some((host, conns)) = self.peers.get(peer).map(|p| (p.host, p.conns.clone())) else { return };
        // Charged to the new host first: a host without charges is forgotten.
        let Some(above) = self.peers.get(peer).map(|p| p.up) else { return };
        up.peer_unpays(cx, above);
        self.uncharge_peer(cx, peer);
        self.charge_peer(cx, peer, ip);
        if let Some(p) = self.peers.get(peer) {
            up.peer_pays(cx, above, p.host);
        }
        // These connections stalled for the host before.
        for conn in conns {
            let listed = self.peers.get(peer).is_some_and(|p| p.stalled.contains(&conn));
            if self.waits_for_budget(conn) && !listed {
                cx.budget.unstall(host, self.ni, conn);
                self.resume(up, cx, conn);
            }
        }
    }

    /// A connection of a peer is up. If it came from the peer's own address, the host at that address pays from now on.
    pub(super) fn charge_to(&mut self, up: &mut U, cx: &mut Cx, peer: Key, conn: Key, home: Option<IpAddr>) {
        if let Some(p) = self.peers.get_mut(peer) {
            p.let_go = false;
        }
        let (Some(p), Some(c)) = (self.peers.get(peer), self.conns.get(conn)) else { return };
        if p.host != c.host
            && home.is_some()
            && cx.budget.ip(c.host) == home
            && let Some(ip) = home
        {
            self.recharge_peer(up, cx, peer, ip);
        }
    }

    fn waits_for_budget(&self, conn: Key) -> bool {
        self.conns.get(conn).is_some_and(|c| c.rx.wait == WaitFor::Answers)
    }

    /// A connection of `peer` is not read until its host has room.
    pub(super) fn stall_for_budget(&mut self, up: &mut U, cx: &mut Cx, peer: Key, conn: Key) {
        cx.counters.budget_stalls += 1;
        if let Some(p) = self.peers.get(peer) {
            cx.budget.stall(p.host, self.ni, conn);
        }
        self.stall(up, cx, conn, WaitFor::Answers);
        // A FIN is heard of only behind the unread bytes, and a peer that vanished is not heard of at all.
        let deadline = cx.now + cx.cfg.timeout();
        if let Some(c) = self.conns.get_mut(conn) {
            c.rx.deadline = Some(deadline);
        }
        self.conn_by(cx, conn, deadline);
        self.end_unread(up, cx, conn);
    }

    /// The peer of a connection sends no more, and bytes from it are unread.
    pub(super) fn last_bytes(&mut self, up: &mut U, cx: &mut Cx, id: ConnId) {
        if let Some(key) = self.by_id.get(&id).copied() {
            self.sender_went(up, cx, key);
        }
    }

    /// The peer of a connection has gone: what it left for other nodes waits for router buffers for one time-out in all, and not for
    /// one a message.
    pub(super) fn sender_went(&mut self, up: &mut U, cx: &mut Cx, conn: Key) {
        let Some(c) = self.conns.get_mut(conn).filter(|c| c.over == u64::MAX) else { return };
        c.over = cx.now + cx.cfg.timeout();
        if c.up() && c.rx.state == RxState::ParseWait && c.rx.wait == WaitFor::Buffer {
            self.waits_once(up, cx, conn);
        }
    }

    /// A message of a peer that has gone waits for a router buffer.
    pub(super) fn waits_once(&mut self, up: &mut U, cx: &mut Cx, conn: Key) {
        let Some(c) = self.conns.get_mut(conn).filter(|c| c.over != u64::MAX) else { return };
        let over = c.over;
        (c.rx.deadline, c.rx.gives_way) = (Some(over), Some(Hold::Buffer));
        self.conn_by(cx, conn, over);
        if let Some(p) = self.conns.get(conn).and_then(|c| self.peers.get(c.peer?)) {
            up.sender_went(cx, p.up, over);
        }
    }

    /// The peer of a connection is gone, and bytes from it are unread.
    pub(super) fn peer_gone(&mut self, up: &mut U, cx: &mut Cx, id: ConnId) {
        let Some(key) = self.by_id.get(&id).copied() else { return };
        if let Some(c) = self.conns.get_mut(key) {
            c.ended = true;
        }
        self.sender_went(up, cx, key);
        self.end_unread(up, cx, key);
    }

    /// Ends a connection that waits for its peer to read answers, if the peer is gone: it will never read them, and nobody
    /// would get the answers to the unread messages.
    pub(super) fn end_unread(&mut self, up: &mut U, cx: &mut Cx, conn: Key) {
        if self.waits_for_budget(conn) && self.conns.get(conn).is_some_and(|c| c.ended && c.up()) {
            cx.counters.unread_ended += 1;
            self.conn_lost(up, cx, conn);
        }
    }

    /// Forgets the stall of a connection that is closed.
    pub(super) fn unstall(&mut self, cx: &mut Cx, peer: Key, conn: Key) {
        if self.waits_for_budget(conn)
            && let Some(p) = self.peers.get(peer)
        {
            cx.budget.unstall(p.host, self.ni, conn);
        }
    }

    /// An answer was queued for a peer.
    pub(super) fn answer_queued(&mut self, cx: &mut Cx, peer: Key) {
        if let Some(p) = self.peers.get_mut(peer) {
            p.answers += 1;
            cx.budget.charge(p.host, Cause::Answers, ANSWER);
        }
    }

    /// An answer is on a stream, with pages on loan or without; it is charged for until they are home, or until TCP has
    /// acknowledged it.
    pub(super) fn answer_pushed(&mut self, up: &mut U, cx: &mut Cx, peer: Key, conn: Key, lent: bool) {
        let (Some(p), Some(c)) = (self.peers.get_mut(peer), self.conns.get_mut(conn)) else { return };
        if p.answers == 0 {
            return;
        }
        p.answers -= 1;
        if lent {
            p.lent += 1;
        } else {
            c.owed += ANSWER;
            if c.host != p.host {
                cx.budget.charge(c.host, Cause::Answers, ANSWER);
                cx.budget.release(p.host, Cause::Answers, ANSWER);
            }
        }
        self.read_on(up, cx, peer);
    }

    /// The pages of an answer are home.
    pub(super) fn answer_home(&mut self, cx: &mut Cx, peer: Key) {
        if let Some(p) = self.peers.get_mut(peer).filter(|p| p.lent > 0) {
            p.lent -= 1;
            cx.budget.release(p.host, Cause::Answers, ANSWER);
        }
    }

    /// Forgets a connection that the runtime has closed.
    pub(super) fn drop_conn(&mut self, cx: &mut Cx, conn: Key) {
        let Some(c) = self.conns.remove(conn) else { return };
        cx.budget.release(c.host, Cause::Answers, c.owed);
        cx.budget.release(c.host, Cause::Conns, CONN);
        trim_map(&mut self.by_id);
    }

    /// A bucket leaves: nothing is charged for its peers and connections any more. Gives the addresses of their hosts.
    pub(super) fn unload(&mut self, cx: &mut Cx, peers: &[Key], conns: &[Key]) -> Vec<(Key, IpAddr)> {
        let of_peers = peers.iter().filter_map(|k| self.peers.get(*k)).map(|p| p.host);
        let of_conns = conns.iter().filter_map(|k| self.conns.get(*k)).map(|c| c.host);
        let mut hosts: Vec<_> =
            of_peers.chain(of_conns).filter_map(|h| Some((h, cx.budget.ip(h)?))).collect();
        hosts.sort_unstable();
        hosts.dedup();
        for conn in conns {
            let Some((host, owed, peer)) = self.conns.get(*conn).map(|c| (c.host, c.owed, c.peer)) else {
                continue;
            };
            if let Some(peer) = peer {
                self.unstall(cx, peer, *conn);
            }
            if self.conns.get(*conn).is_some_and(Conn::admitted) {
                self.shook(cx, *conn);
            }
            cx.budget.release(host, Cause::Answers, owed);
            cx.budget.release(host, Cause::Conns, CONN);
        }
        peers.iter().for_each(|p| self.uncharge_peer(cx, *p));
        hosts
    }

    /// Charges a connection that came from another shard to the host at `ip`.
    pub(super) fn charge_conn(&mut self, cx: &mut Cx, conn: Key, ip: IpAddr) {
        let Some(c) = self.conns.get_mut(conn) else { return };
        c.host = cx.budget.charge_at(ip, Cause::Conns, CONN);
        cx.budget.charge(c.host, Cause::Answers, c.owed);
    }

    /// Stalls a connection again that stalled on the shard it came from, if its host has no room here.
    pub(super) fn stall_again(&mut self, cx: &mut Cx, peer: Key, conn: Key) {
        let listed = self.peers.get(peer).is_some_and(|p| p.stalled.contains(&conn));
        if let Some(p) = self.peers.get(peer).filter(|_| !listed && self.waits_for_budget(conn)) {
            let host = p.host;
            cx.budget.stall(host, self.ni, conn);
            cx.budget.release(host, Cause::Answers, 0);
        }
    }

    /// Memory held by connections and peers, in bytes, counted anew.
    #[cfg(feature = "testing")]
    pub(crate) fn held_recounted(&self) -> u64 {
        let (conns, of_peers) = (self.conns.values(), self.peers.values());
        let of_peers = of_peers.map(Self::charges).map(|(entry, answers)| entry + answers);
        conns.map(|c| CONN + c.owed).chain(of_peers).sum()
    }
}
