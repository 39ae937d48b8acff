//! Connection sets: dialling, and closing as one (docs/protocol/socklnd.md §3, §4).

use super::api::LnetError;
use super::io::{Close, DialId, DialSpec, Output};
use super::machine::Machine;
use super::peer::{self, DialEvent, DialState, Have, MAX_NONES};
use super::slab::Key;
use crate::wire::nid::PID_USER_FLAG;

impl Machine {
    /// Applies the dial table; gives whether the event meant anything.
    fn dial_event(&mut self, peer: Key, event: DialEvent) -> bool {
        let Some(p) = self.peers.get_mut(peer) else { return false };
        match peer::next(p.dial, event) {
            Some(next) => {
                p.dial = next;
                true
            }
            None => false,
        }
    }

    /// Dials the next missing connection if the peer is one that we dial, and may now.
    pub(super) fn maybe_dial(&mut self, key: Key) {
        let now = self.now;
        let Some(p) = self.peers.get_mut(key) else { return };
        // A port that a peer dialled from is nobody's to dial (socklnd.md §9).
        if !p.active
            || p.content
            || self.down
            || p.id.pid & PID_USER_FLAG != 0
            || !self.cfg.may_dial(p.id.nid)
        {
            return;
        }
        // One that lives here though its NID says elsewhere only answers: who dials it is that home.
        if self.homes.at(p.bucket) != self.cfg.shards.me {
            return;
        }
        if matches!(p.dial, DialState::Waiting(t) | DialState::BackOff(t) if t <= now) {
            p.dial = DialState::Idle;
        }
        if p.dial != DialState::Idle || p.whole == p.conns.len() {
            return;
        }
        let mut have = Have::default();
        p.conns.iter().filter_map(|c| self.conns.get(*c)).for_each(|c| have.add(c.ctype));
        let Some(ctype) = p.missing(have, self.cfg.typed_conns) else {
            p.whole = p.conns.len();
            return;
        };
        let nid = p.id.nid;
        let (Some(remote), Some(local_ip)) = (self.cfg.addr_of(nid, ctype), self.cfg.nid.ip()) else {
            return;
        };
        let id = DialId(self.next_dial);
        self.next_dial = self.next_dial.wrapping_add(u64::from(self.cfg.shards.count.max(1)));
        p.dial_deadline = now + self.cfg.timeout();
        let deadline = p.dial_deadline;
        self.dial_event(key, DialEvent::Want(id, ctype));
        self.dials.insert(id, key);
        self.peer_by(key, deadline);
        let privileged = self.cfg.privileged;
        self.out.push_back(Output::Dial(DialSpec { id, peer: nid, remote, local_ip, privileged, ctype }));
    }

    pub(super) fn dial_failed(&mut self, id: DialId) {
        if let Some(peer) = self.dials.remove(&id) {
            self.dial_hard_failure(peer);
        }
    }

    /// The dial came to nothing: back off, and fail what waits for a connection.
    pub(super) fn dial_hard_failure(&mut self, key: Key) {
        self.counters.dials_failed += 1;
        let now = self.now;
        let Some(p) = self.peers.get_mut(key) else { return };
        if let DialState::Dialling(id, _) = p.dial {
            self.dials.remove(&id);
        }
        p.failed_at = now;
        let until = now + p.back_off(&self.cfg);
        self.dial_event(key, DialEvent::Failed(until));
        self.peer_by(key, until);
        self.fail_queue(key, LnetError::Unreachable);
    }

    /// The peer said NONE: a race was lost, or it has enough. It is asked again after the shortest interval, three times
    /// for each type (docs/protocol/socklnd.md §2.7, §3).
    pub(super) fn dial_busy(&mut self, key: Key) {
        let until = self.now + self.cfg.min_reconnect;
        let Some(p) = self.peers.get_mut(key) else { return };
        p.nones += 1;
        if p.nones < MAX_NONES {
            self.dial_event(key, DialEvent::None(until));
            return self.peer_by(key, until);
        }
        p.nones = 0;
        if p.conns.is_empty() {
            return self.dial_hard_failure(key);
        }
        // What is open carries on.
        p.content = true;
        self.dial_event(key, DialEvent::Enough);
    }

    /// The peer wants another version, which has been noted: asks again at once. A peer that cannot make up its mind
    /// waits like one that says NONE.
    pub(super) fn dial_again(&mut self, key: Key) {
        let Some(p) = self.peers.get_mut(key) else { return };
        if p.nones > 0 {
            return self.dial_busy(key);
        }
        p.nones += 1;
        self.dial_event(key, DialEvent::Again);
        self.maybe_dial(key);
    }

    /// Fails the messages that wait for a connection.
    pub(super) fn fail_queue(&mut self, key: Key, why: LnetError) {
        // Ending a message may queue another; only those there now are failed.
        let n = self.peers.get(key).map_or(0, |p| p.queue.len());
        for _ in 0..n {
            let Some(tx) = self.peers.get_mut(key).and_then(|p| p.queue.pop_front()) else { break };
            self.end_tx(key, tx, Err(why));
        }
    }

    /// Closes all connections of a peer: they share one fate (socklnd.md §4). In order with FIN when the peer went
    /// in order and nothing is under way, else with RST.
    pub(super) fn close_set(&mut self, key: Option<Key>, why: LnetError, clean: bool) {
        let Some((key, p)) = key.and_then(|k| Some((k, self.peers.get_mut(k)?))) else { return };
        let conns = std::mem::take(&mut p.conns);
        p.whole = usize::MAX;
        p.stalled.clear();
        p.incarnation = None;
        p.version = None;
        p.nones = 0;
        p.content = false;
        let shaking = match p.dial {
            DialState::Shaking(conn, _) => Some(conn),
            DialState::Dialling(id, _) => {
                self.dials.remove(&id);
                None
            }
            _ => None,
        };
        // Who was told to wait waits: a peer whose every HELLO has another incarnation would be dialled without pause.
        if !matches!(p.dial, DialState::BackOff(_) | DialState::Waiting(_)) {
            self.dial_event(key, DialEvent::Clear);
        }
        self.counters.sets_closed += u64::from(!conns.is_empty());
        for conn in conns {
            let quiet = self.conns.get(conn).is_some_and(super::conn::Conn::quiet);
            let how = if clean && quiet { Close::Fin } else { Close::Abort };
            self.fail_conn(key, conn, why, how);
        }
        if let Some(conn) = shaking {
            self.end_conn(conn, Close::Abort);
        }
        if let Some(p) = self.peers.get_mut(key) {
            // Every pending cookie's hold was lifted with its connection's lends.
            p.zc.reset(|_| {});
        }
        self.fail_queue(key, why);
        self.kicks.push_back(key);
        self.forget_if_idle(key);
    }

    /// Ends one established connection of a set that is being closed.
    fn fail_conn(&mut self, peer: Key, key: Key, why: LnetError, how: Close) {
        let Some(c) = self.conns.get_mut(key) else { return };
        let (id, acked) = (c.id, c.acked);
        for lend in std::mem::take(&mut c.lends) {
            let Some(rec) = self.lends.get_mut(lend) else { continue };
            if rec.held || rec.end > acked {
                rec.failed = Some(why);
            }
            if std::mem::take(&mut rec.held) {
                self.out.push_back(Output::Unhold(id, rec.name));
            }
        }
        self.end_conn(key, how);
        self.abandon_rx(key, why);
        while let Some(tx) = self.conns.get_mut(key).and_then(|c| c.txq.pop()) {
            self.end_tx(peer, tx, Err(why));
        }
    }

    /// Closes a connection; `Closed` will follow.
    pub(super) fn end_conn(&mut self, key: Key, how: Close) {
        let Some(c) = self.conns.get_mut(key) else { return };
        let before = c.hs;
        c.hs = before.ended();
        // Only handshakes that were admitted are counted: those have a deadline.
        if before.shaking() && c.hs_deadline != u64::MAX {
            self.embryonic = self.embryonic.saturating_sub(1);
        }
        if !before.dead() && self.by_id.contains_key(&c.id) {
            let id = c.id;
            self.out.push_back(Output::Close(id, how));
        }
    }

    /// Drops a peer's entry when nothing depends on it.
    pub(super) fn forget_if_idle(&mut self, key: Key) {
        let Some(p) = self.peers.get(key) else { return };
        if p.idle() {
            let id = p.id;
            self.peers.remove(key);
            self.peer_timers.cancel(key);
            // A peer that moved here may have taken the name over.
            if self.by_peer.get(&id) == Some(&key) {
                self.by_peer.remove(&id);
            }
        } else if p.unwanted() {
            // Time alone keeps it: how long to back off, NONEs that were told.
            self.peer_by(key, self.now);
        }
    }
}
