//! Connection sets: dialling, duplicates, and closing as one (docs/protocol/socklnd.md §3, §4).

use super::Socklnd;
use super::hello::{Handshake, HsEvent};
use super::peer::{DialEvent, DialState, DialWhy, Have, LastCall, MAX_NONES};
use super::standing::{StandAction, StandEvent, Standing};
use crate::lnd::budget::trim_map;
use crate::lnd::{Cx, LnetError, Upper};
use crate::stream::slab::Key;
use crate::stream::{Action, Close, DialError, DialId, DialSpec};
use crate::wire::ConnType;
use crate::wire::nid::PID_USER_FLAG;

/// Time that a set that is being closed is still read, in ns: what has been received by then is delivered (field report
/// L2). Streams that another lcore owns need some turns of it and of ours.
const LAST_CALL: u64 = 2_000_000;

impl<U: Upper> Socklnd<U> {
    /// Tells LNet that there may be room for the peer's messages again.
    pub(super) fn kick_upper(&mut self, up: &mut U, peer: Key) {
        if let Some(p) = self.peers.get(peer) {
            up.kick(p.up);
        }
    }

    fn dial_event(&mut self, peer: Key, event: DialEvent) -> bool {
        self.peers.get_mut(peer).is_some_and(|p| p.dial_event(event))
    }

    /// Dials the next missing connection if the peer is one that we dial, and may now.
    pub(super) fn maybe_dial(&mut self, cx: &mut Cx, key: Key) {
        let now = cx.now;
        let Some(p) = self.peers.get_mut(key) else { return };
        // A port that a peer dialled from is nobody's to dial (socklnd.md §9), and what is for this node needs no connection
        // (lnet.md §9): one that claims our NID is answered on its own, or not at all.
        if !p.active
            || p.leaving.is_some()
            || cx.down
            || self.leaving.begun()
            || p.id.pid & PID_USER_FLAG != 0
            || cx.cfg.nids().any(|own| own == p.id.nid)
            || !cx.cfg.may_dial(p.id.nid)
        {
            return;
        }
        // A peer whose NID has another home is only answered here: that home dials it.
        if cx.homes.at(p.bucket) != cx.cfg.shards.me {
            return;
        }
        if matches!(p.dial(), DialState::Waiting(t) | DialState::BackOff(t) if t <= now) {
            p.dial_event(DialEvent::Due);
        }
        if p.dial() != DialState::Idle || p.whole == p.conns.len() {
            return;
        }
        let mut have = Have::default();
        p.conns.iter().filter_map(|c| self.conns.get(*c)).for_each(|c| have.add(c.ctype));
        let Some(ctype) = p.missing(have, cx.cfg.typed_conns) else {
            p.whole = p.conns.len();
            return;
        };
        let nid = p.id.nid;
        let (Some(remote), Some(local_ip)) = (cx.cfg.addr_of(nid, ctype), self.nid.ip()) else {
            return;
        };
        let id = DialId::of_protocol(self.ni.0, self.next_dial);
        self.next_dial = self.next_dial.wrapping_add(u64::from(cx.cfg.shards.count.max(1)));
        p.dial_deadline = now + cx.cfg.timeout();
        let deadline = p.dial_deadline;
        self.dial_event(key, DialEvent::Want(id, ctype));
        self.dials.insert(id, key);
        self.peer_by(cx, key, deadline);
        let privileged = cx.cfg.privileged;
        let spec = DialSpec { id, remote, local_ip, privileged, until: deadline };
        cx.act(Action::Dial(spec));
    }

    pub(super) fn dial_failed(&mut self, up: &mut U, cx: &mut Cx, id: DialId, why: DialError) {
        if let Some(peer) = self.dials.remove(&id) {
            self.came_to(peer, DialWhy::Tcp(why));
            self.dial_hard_failure(up, cx, peer);
        }
    }

    /// Handles a failed dial: backs off, and fails the messages that wait for a connection.
    pub(super) fn dial_hard_failure(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        cx.counters.dials_failed += 1;
        let now = cx.now;
        let Some(p) = self.peers.get_mut(key) else { return };
        let dial = p.dial();
        if let DialState::Dialling(id, _) = dial {
            self.dials.remove(&id);
        }
        p.failed_at = now;
        let until = now + p.back_off(&cx.cfg);
        p.dial_event(DialEvent::Failed(until));
        self.peer_by(cx, key, until);
        self.refused(up, cx, key, dial.under_way());
        let refused = self.peers.get(key).is_some_and(|p| p.why == Some(DialWhy::Tcp(DialError::Refused)));
        self.fail_queue(up, cx, key, if refused { LnetError::Refused } else { LnetError::Unreachable });
        if self.peers.get(key).is_some_and(|p| p.let_go) {
            self.forget_if_idle(up, cx, key);
        }
    }

    /// Handles NONE: a race was lost, or the peer has enough connections. It is dialled again after the shortest interval,
    /// three times for each type (docs/protocol/socklnd.md §2.7, §3).
    pub(super) fn dial_busy(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let until = cx.now + cx.cfg.min_reconnect;
        let Some(p) = self.peers.get_mut(key) else { return };
        let Some(ctype) = p.dial().under_way() else { return };
        if p.nones.add(ctype) < MAX_NONES {
            p.dial_event(DialEvent::None(until));
            self.peer_by(cx, key, until);
            return self.refused(up, cx, key, Some(ctype));
        }
        if p.conns.is_empty() {
            p.nones.forget(ctype);
            return self.dial_hard_failure(up, cx, key);
        }
        // Open connections carry on, and the other types are still wanted.
        p.dial_event(DialEvent::Enough);
        self.refused(up, cx, key, Some(ctype));
        self.maybe_dial(cx, key);
    }

    /// Dials again at once in the version that the peer asked for. A peer that keeps changing its mind waits like one that
    /// says NONE.
    pub(super) fn dial_again(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let Some(p) = self.peers.get_mut(key) else { return };
        let Some(ctype) = p.dial().under_way() else { return };
        if p.nones.of(ctype) > 0 {
            return self.dial_busy(up, cx, key);
        }
        p.nones.add(ctype);
        p.dial_event(DialEvent::Again);
        self.refused(up, cx, key, Some(ctype));
        self.maybe_dial(cx, key);
    }

    /// Handles the failure of our dial of a type: a held connection that the peer made beside it is used now, unless another
    /// of that type may be.
    fn refused(&mut self, up: &mut U, cx: &mut Cx, key: Key, ctype: Option<ConnType>) {
        let Some(p) = self.peers.get(key) else { return };
        let mut held = None;
        for k in &p.conns {
            match self.conns.get(*k).filter(|c| Some(c.ctype) == ctype).map(|c| c.standing.get()) {
                Some(Standing::Held) => held = held.or(Some(*k)),
                Some(_) => return,
                None => {}
            }
        }
        if let Some(held) = held {
            self.stand(up, cx, held, StandEvent::Refused);
        }
    }

    /// Applies the table of a connection's standing. The caller ends what the action says.
    pub(super) fn stand(&mut self, up: &mut U, cx: &mut Cx, key: Key, event: StandEvent) -> StandAction {
        let Some(c) = self.conns.get_mut(key) else { return StandAction::None };
        let action = c.standing.apply(event).unwrap_or(StandAction::None);
        self.sets = self.sets.wrapping_add(1);
        if action == StandAction::Use
            && let Some(peer) = c.peer
        {
            self.flush(up, cx, peer);
        }
        action
    }

    /// Fails the messages that wait for a connection.
    pub(super) fn fail_queue(&mut self, up: &mut U, cx: &mut Cx, key: Key, why: LnetError) {
        // Ending a message may queue another; only those there now are failed.
        let n = self.peers.get(key).map_or(0, |p| p.queue.len());
        for _ in 0..n {
            let Some(tx) = self.peers.get_mut(key).and_then(|p| p.queue.pop_front()) else { break };
            self.end_tx(up, cx, key, tx, Err(why));
        }
    }

    /// Ends a possible duplicate after its peer has: the set ends with it only if there is no other connection.
    pub(super) fn end_alone(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let Some(peer) = self.conns.get(key).and_then(|c| c.peer) else { return };
        cx.counters.duplicates_ended += 1;
        self.part_from(up, cx, peer, key, LnetError::ConnLost, Close::Fin);
        let Some(p) = self.peers.get_mut(peer) else { return };
        if !p.conns.is_empty() {
            return self.maybe_dial(cx, peer);
        }
        match p.dial() {
            DialState::Dialling(..) | DialState::Shaking(..) => p.incarnation = None,
            DialState::Waiting(_) => (p.incarnation, p.version) = (None, None),
            // Nothing was sent on it: the messages that wait cause another dial.
            DialState::Idle | DialState::BackOff(_) => {
                // Those with messages may have ended before it.
                up.peer_lost(cx, p.up);
                self.renew_set(up, cx, peer, LnetError::ConnLost, true)
            }
        }
    }

    /// Ends the set of a connection that is gone, once the bytes that its other connections have received are read.
    pub(super) fn conn_lost(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        if self.stand(up, cx, key, StandEvent::Ended) == StandAction::EndAlone {
            return self.end_alone(up, cx, key);
        }
        let Some(peer) = self.conns.get(key).and_then(|c| c.peer) else { return };
        if self.peers.get(peer).is_some_and(|p| p.conns.len() > 1) {
            self.part_from(up, cx, peer, key, LnetError::ConnLost, Close::Abort);
            // One is left at least, but it may be the only one.
            return self.last_call(up, cx, Some(peer), LnetError::ConnLost, false);
        }
        if self.peers.get(peer).is_some_and(|p| p.leaving.is_some()) {
            // It had its last call, and was read to its end.
            return self.leave_set(up, cx, peer);
        }
        self.close_set(up, cx, Some(peer), LnetError::ConnLost, false);
    }

    /// Takes a connection out of its set, and ends it.
    fn part_from(&mut self, up: &mut U, cx: &mut Cx, peer: Key, key: Key, why: LnetError, how: Close) {
        self.sets = self.sets.wrapping_add(1);
        if let Some(p) = self.peers.get_mut(peer) {
            p.conns.retain(|k| *k != key);
            p.stalled.retain(|k| *k != key);
            p.zc.lost(key);
            p.whole = usize::MAX;
        }
        self.fail_conn(up, cx, peer, key, why, how);
    }

    /// The peer ended the set. Nothing more is sent on its connections; what has been received on them is read, and then
    /// they are closed.
    pub(super) fn last_call(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        key: Option<Key>,
        why: LnetError,
        clean: bool,
    ) {
        let Some((key, p)) = key.and_then(|k| Some((k, self.peers.get_mut(k)?))) else { return };
        if let Some(l) = &mut p.leaving {
            l.clean &= clean;
            return;
        }
        let until = cx.now + LAST_CALL;
        self.sets = self.sets.wrapping_add(1);
        p.leaving = Some(LastCall { why, clean, until });
        let conns = p.conns.clone();
        self.peer_by(cx, key, until);
        conns.into_iter().for_each(|c| self.read_again(cx, c));
        self.fail_queue(up, cx, key, why);
    }

    /// Closes a set that has been read to its end. Messages queued meanwhile go over the next one.
    pub(super) fn leave_set(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let Some(l) = self.peers.get(key).and_then(|p| p.leaving) else { return };
        self.renew_set(up, cx, key, l.why, l.clean);
    }

    /// Closes a set; messages that wait for a connection go over the next one.
    fn renew_set(&mut self, up: &mut U, cx: &mut Cx, key: Key, why: LnetError, clean: bool) {
        self.drop_set(up, cx, key, why, clean, None);
        self.flush(up, cx, key);
        self.kick_upper(up, key);
        self.forget_if_idle(up, cx, key);
    }

    /// Closes all connections of a peer: they share one fate (socklnd.md §4). In order with FIN when the peer went
    /// in order and nothing is under way, else with RST.
    pub(super) fn close_set(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        key: Option<Key>,
        why: LnetError,
        clean: bool,
    ) {
        if let Some(key) = key.filter(|k| self.peers.get(*k).is_some()) {
            self.close_set_but(up, cx, key, why, clean, None);
        }
    }

    /// Closes all connections of a peer, and keeps the dial on the connection `but`.
    pub(super) fn close_set_but(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        key: Key,
        why: LnetError,
        clean: bool,
        but: Option<Key>,
    ) {
        self.drop_set(up, cx, key, why, clean, but);
        self.fail_queue(up, cx, key, why);
        self.kick_upper(up, key);
        self.forget_if_idle(up, cx, key);
    }

    /// Closes the connections of a set with all their messages, but not the messages that wait for a connection. A dial is
    /// given up with the set, unless it is on the connection `but`.
    pub(super) fn drop_set(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        key: Key,
        why: LnetError,
        clean: bool,
        but: Option<Key>,
    ) {
        let Some(p) = self.peers.get_mut(key) else { return };
        let conns = std::mem::take(&mut p.conns);
        self.sets = self.sets.wrapping_add(1);
        p.whole = usize::MAX;
        p.stalled.clear();
        p.incarnation = None;
        p.version = None;
        p.nones = Default::default();
        p.leaving = None;
        let shaking = match p.dial() {
            DialState::Shaking(conn, _) if Some(conn) == but => None,
            DialState::Shaking(conn, _) => {
                p.dial_event(DialEvent::Clear);
                Some(conn)
            }
            DialState::Dialling(id, _) => {
                p.dial_event(DialEvent::Clear);
                self.dials.remove(&id);
                None
            }
            // The wait after a NONE goes on: a peer whose every HELLO has another incarnation would be dialled without
            // pause.
            DialState::Idle | DialState::Waiting(_) | DialState::BackOff(_) => None,
        };
        let lost = !conns.is_empty();
        cx.counters.sets_closed += u64::from(lost);
        for conn in conns {
            let quiet = self.conns.get(conn).is_some_and(super::conn::Conn::quiet);
            let how = if clean && quiet { Close::Fin } else { Close::Abort };
            self.fail_conn(up, cx, key, conn, why, how);
        }
        if let Some(conn) = shaking {
            self.end_conn(cx, conn, Close::Abort);
        }
        if let Some(p) = self.peers.get_mut(key) {
            // Every pending cookie's hold was lifted with its connection's lends.
            p.zc.reset(|_| {});
        }
        if let Some(p) = self.peers.get(key).filter(|_| lost) {
            up.peer_lost(cx, p.up);
        }
    }

    /// Ends one established connection of a set that is being closed.
    fn fail_conn(&mut self, up: &mut U, cx: &mut Cx, peer: Key, key: Key, why: LnetError, how: Close) {
        self.unstall(cx, peer, key);
        let Some(c) = self.conns.get_mut(key) else { return };
        let (id, acked) = (c.id, c.acked);
        let begun = std::mem::replace(&mut c.begun, Key::NOWHERE);
        for lend in std::mem::take(&mut c.lends) {
            let Some(rec) = self.lends.get_mut(lend) else { continue };
            if rec.held || rec.end > acked {
                rec.failed = Some(why);
            }
            if std::mem::take(&mut rec.held) {
                cx.act(Action::Unhold(id, rec.name));
            }
        }
        self.end_conn(cx, key, how);
        self.abandon_rx(up, cx, key, why);
        if begun != Key::NOWHERE {
            self.begun_fails(up, cx, begun, why);
        }
        while let Some(tx) = self.conns.get_mut(key).and_then(|c| c.txq.pop()) {
            self.end_tx(up, cx, peer, tx, Err(why));
        }
    }

    /// Closes a connection; `Closed` will follow.
    pub(super) fn end_conn(&mut self, cx: &mut Cx, key: Key, how: Close) {
        let Some(c) = self.conns.get_mut(key) else { return };
        let before = c.hs;
        c.hs.apply(HsEvent::Ended);
        self.close_conn(cx, key, before, how);
    }

    /// Closes the stream of a connection that has died, and was in the state `before`.
    pub(super) fn close_conn(&mut self, cx: &mut Cx, key: Key, before: Handshake, how: Close) {
        let Some(c) = self.conns.get(key) else { return };
        let id = c.id;
        // Only handshakes that were admitted are counted: those have a deadline.
        if before.shaking() && c.hs_deadline != u64::MAX {
            self.shook(cx, key);
        }
        if !before.dead() && self.by_id.contains_key(&id) {
            cx.act(Action::Close(id, how));
        }
        if !before.dead() && self.leaving.gone() {
            self.lingers(cx, key);
        }
    }

    /// Drops a peer's entry when nothing depends on it.
    pub(super) fn forget_if_idle(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let Some(p) = self.peers.get_mut(key) else { return };
        if p.let_go && p.unwanted() && up.waiting(p.up) == 0 {
            p.interval = 0;
            p.dial_event(DialEvent::Due);
        }
        if p.idle() && up.idle(p.up) {
            let id = p.id;
            up.peer_gone(p.up, &p.moved);
            self.uncharge_peer(cx, key);
            self.peers.remove(key);
            self.peer_timers.cancel(key);
            // A peer that moved here may have taken the name over.
            if self.by_peer.get(&id) == Some(&key) {
                self.by_peer.remove(&id);
                trim_map(&mut self.by_peer);
            }
        } else if p.unwanted() && up.waiting(p.up) == 0 {
            // Only its back-off and its count of NONEs keep the entry, for their time.
            self.peer_by(cx, key, cx.now);
        }
    }
}
