//! Credits of peers and of the NI (docs/protocol/lnet.md §7): a message is sent when it has one of each.
//!
//! Messages that a router passes on may hold all credits of a slow next hop, and of the NI those that answers may have, and so may
//! bulk of the node's own: a message that goes by the connection for short ones, and one by that for bulk, may go to each peer all the same,
//! and wait in lines of their own (`queues.rs`). So checks of routers are answered whatever is passed on, and who reads bulk slowly behind a router keeps nobody's
//! short messages waiting, as long as the router reads the connection that those go by.

use super::figures::Timed;
use super::ops::PutTold;
use super::queues::Line;
use super::{Lnet, Msg, TxDone};
use crate::lnd::budget::{Uses, own_part};
use crate::lnd::{AppId, Cx, Lnd, LnetError, NiId, Way};
use crate::stream::slab::Key;

impl Lnet {
    /// Sends a message to a peer, now or when it has credits, and takes it out of its place.
    pub(super) fn launch<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, peer: Key, tx: &mut Msg) {
        let Some(p) = self.peers.get(peer) else {
            return self.end(cx, peer, tx.take(), Err(LnetError::ConnLost));
        };
        let unsure = cx.cfg.discovery && (tx.routed || p.discovery.unsure()) && !tx.answer;
        if (unsure || self.faults.is_some()) && !tx.passed {
            return self.pass(cx, lnd, peer, tx);
        }
        let entry = p.entry;
        tx.bulk = !tx.forwarded && lnd.is_apart(cx, entry, tx);
        let line = Line::of(tx);
        let held_up = self.held_up(cx, (p.ni, p.host), tx);
        if p.waiting.front(line).is_some() || !p.has_credit(cx.cfg.peer_credits, line) || held_up {
            return self.wait_for_credit(cx, lnd, peer, tx.take(), held_up);
        }
        let way = lnd.way(cx, entry, tx);
        // A message that is on a stream at once, without pages, holds no credit meanwhile and waits in no queue.
        if tx.is_short() && way.is_some_and(|w| w.clear) {
            return lnd.send(self, cx, entry, tx, way);
        }
        if tx.answer {
            lnd.answer_queued(cx, entry);
        }
        self.give_credit(cx, lnd, peer, tx, way);
    }

    /// Launches a message unless its peer is to be asked first, or a fault rule holds it up.
    #[cold]
    fn pass<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, peer: Key, tx: &mut Msg) {
        let unsure = tx.routed || self.peers.get(peer).is_some_and(|p| p.discovery.unsure());
        if (!unsure || self.is_known_first(cx, lnd, peer, tx)) && self.sent_passes(cx, lnd, peer, tx) {
            tx.passed = true;
            self.launch(cx, lnd, peer, tx);
        }
    }

    /// Keeps a message until there is a credit for it, and what else it is `held_up` by.
    fn wait_for_credit<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        peer: Key,
        mut tx: Msg,
        held_up: bool,
    ) {
        let Some(p) = self.peers.get_mut(peer) else { return };
        if tx.answer {
            lnd.answer_queued(cx, p.entry);
        }
        cx.counters.credit_waits += 1;
        // Without a connection it waits no longer for credits than for that: dials that hang hold them.
        if tx.shares() && !tx.forwarded {
            tx.deadline = cx.now + cx.cfg.timeout();
        }
        if tx.forwarded {
            p.begins_to_pass(cx.now);
        }
        let (deadline, shares) = (tx.deadline, tx.shares());
        let first = p.waiting.front(Line::of(&tx)).is_none();
        p.waiting.push(tx);
        let out = p.uses.credits.saturating_add(p.waiting.len() as u32);
        p.figures.most = p.figures.most.max(out);
        let long = p.waiting.long();
        if long > 0 {
            lnd.charge_queues(cx, p.entry, long);
        }
        if held_up && first {
            self.list(cx, peer, shares);
        }
        if deadline != u64::MAX {
            self.timers.by(cx.now, peer, deadline);
        }
    }

    /// Whether a message to a peer of the host has to wait for what the shard has for all. Answers, and what strangers ask for,
    /// leave a part of it to our own operations, and share the rest by host; who has to wait there has some out, so it is woken.
    #[inline]
    fn held_up(&self, cx: &Cx, (at, host): (NiId, Key), tx: &Msg) -> bool {
        let Some(ni) = self.nis.get(at.index()) else { return true };
        let (ni, most) = (&ni.uses, ni.credits(cx));
        let own = own_part(most);
        if !tx.shares() {
            return ni.credits >= most && ni.credits - ni.answers >= own;
        }
        let now = ni.credits.max(ni.answers + own);
        if now >= most / 2 && cx.budget.must_wait(host, now, most, tx.forwarded) {
            return true;
        }
        let (pieces, all) = (tx.pieces(), cx.cfg.lendings);
        if pieces == 0 {
            return false;
        }
        // Lendings are not an NI's, as credits are.
        let taken: u32 = self.nis.iter().map(|n| n.uses.pieces).sum();
        let free = all.saturating_sub(own_part(all)).saturating_sub(taken);
        cx.budget.must_wait_for_lendings(host, pieces, free)
    }

    /// The first message of a line that waits for this peer is held up: it is looked at again when there is room.
    fn list(&mut self, cx: &mut Cx, peer: Key, shares: bool) {
        let Some(p) = self.peers.get_mut(peer) else { return };
        if shares && !std::mem::replace(&mut p.listed_for_host, true) {
            cx.budget.waits(p.host, peer);
        } else if !shares
            && !std::mem::replace(&mut p.listed_for_ni, true)
            && let Some(ni) = self.nis.get_mut(p.ni.index())
        {
            ni.waiters.push_back(peer);
        }
    }

    /// The way of a message that could leave at once, with nothing before it: the peer has a connection, and there are credits.
    pub(super) fn way_now<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        peer: Key,
        tx: &Msg,
    ) -> Option<Way> {
        let p = self.peers.get(peer)?;
        let entry = p.entry;
        let full = !p.waiting.is_empty() || !p.has_credit(cx.cfg.peer_credits, Line::of(tx));
        if full || self.held_up(cx, (p.ni, p.host), tx) {
            return None;
        }
        lnd.way(cx, entry, tx).filter(|w| w.clear)
    }

    /// Gives a message what it holds on its way, and sends it.
    fn give_credit<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        peer: Key,
        tx: &mut Msg,
        way: Option<Way>,
    ) {
        if let Some(entry) = self.take_credit(cx, peer, tx) {
            lnd.send(self, cx, entry, tx, way);
        }
    }

    /// Gives a message what it holds on its way; gives the LND's entry of its peer.
    #[inline]
    pub(super) fn take_credit(&mut self, cx: &mut Cx, peer: Key, tx: &mut Msg) -> Option<Key> {
        tx.credit = true;
        let uses = tx.uses();
        let p = self.peers.get_mut(peer)?;
        if tx.forwarded {
            p.begins_to_pass(cx.now);
        }
        p.uses.add(uses);
        p.figures.most = p.figures.most.max(p.uses.credits);
        cx.budget.took(p.host, uses);
        let entry = p.entry;
        if let Some(ni) = self.nis.get_mut(p.ni.index()) {
            ni.uses.add(uses);
            ni.most_used = ni.most_used.max(ni.uses.credits);
        }
        Some(entry)
    }

    /// Sends what waits for credits, as far as they go.
    pub(super) fn send_waiting<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, peer: Key) {
        // A message sent here may end at once and give its credit back: the kicks that follow see to the rest.
        for _ in 0..=cx.cfg.peer_credits.max(1) {
            let Some(line) = self.line_that_may_go(cx, peer) else { break };
            let Some(p) = self.peers.get_mut(peer) else { return };
            let Some(mut tx) = p.waiting.pop(line) else { break };
            if !tx.forwarded {
                tx.deadline = u64::MAX;
            }
            let way = lnd.way(cx, p.entry, &tx);
            self.give_credit(cx, lnd, peer, &mut tx, way);
        }
        if let Some(entry) = self.peers.get(peer).map(|p| p.entry) {
            lnd.forget_if_idle(self, cx, entry);
        }
    }

    /// The line whose first message may leave now; one that is held up is listed.
    fn line_that_may_go(&mut self, cx: &mut Cx, peer: Key) -> Option<Line> {
        for line in self.peers.get(peer)?.waiting.turns() {
            let p = self.peers.get(peer)?;
            let Some(tx) = p.waiting.front(line).filter(|_| p.has_credit(cx.cfg.peer_credits, line)) else {
                continue;
            };
            if !self.held_up(cx, (p.ni, p.host), tx) {
                return Some(line);
            }
            let shares = tx.shares();
            self.list(cx, peer, shares);
        }
        None
    }

    pub(super) fn take_back(&mut self, cx: &mut Cx, peer: Key, uses: Uses) {
        // A peer is there as long as it holds a credit.
        if let Some(p) = self.peers.get_mut(peer) {
            p.uses.sub(uses);
            let (host, at) = (p.host, p.ni);
            if let Some(ni) = self.nis.get_mut(at.index()) {
                ni.uses.sub(uses);
            }
            if !p.waiting.is_empty() {
                self.kicks.push_back(peer);
            }
            // Two, so that a host uses what others have given back, too.
            if cx.budget.gave(host, uses) && self.wake_one(cx, host) {
                self.wake_one(cx, host);
            }
            self.wake_own(cx, at);
        }
    }

    /// Looks again at the peer to whom an operation of our own has waited longest for a credit of the NI, if there is one.
    fn wake_own(&mut self, cx: &Cx, at: NiId) {
        let Some(ni) = self.nis.get_mut(at.index()) else { return };
        let most = ni.credits(cx);
        while (ni.uses.credits < most || ni.uses.credits - ni.uses.answers < own_part(most))
            && let Some(next) = ni.waiters.pop_front()
        {
            let Some(p) = self.peers.get_mut(next) else { continue };
            p.listed_for_ni = false;
            // One without credits of its own is looked at when it gets some.
            if p.may_go_on(cx.cfg.peer_credits) {
                self.kicks.push_back(next);
                break;
            }
        }
    }

    /// Wakes the peer that has waited longest for its host's share, of those that still do. Gives whether there is one.
    pub(super) fn wake_one(&mut self, cx: &mut Cx, host: Key) -> bool {
        while let Some(peer) = cx.budget.next_waiter(host) {
            if let Some(p) = self.peers.get_mut(peer).filter(|p| p.host == host) {
                p.listed_for_host = false;
                if !p.waiting.is_empty() {
                    self.kicks.push_back(peer);
                    return true;
                }
            }
        }
        false
    }

    /// A message has left, or will not.
    pub(super) fn finish(
        &mut self,
        cx: &mut Cx,
        peer: Key,
        uses: Uses,
        done: TxDone,
        status: Result<(), LnetError>,
    ) {
        match done {
            TxDone::Nothing => {}
            TxDone::Put { app, tag, ni, began } => {
                if status.is_ok() {
                    self.timed(peer, |s| &mut s.put_egress, cx.now.saturating_sub(began));
                }
                self.put_left(cx, (app, tag), (ni, began), status);
            }
            TxDone::Op(op) if status.is_ok() => {
                if let Some(PutTold { app, tag, done, began }) = self.ops.put_sent(op) {
                    self.timed(peer, |s| &mut s.put_egress, cx.now.saturating_sub(began));
                    self.complete_send(app, tag, status, done);
                }
            }
            TxDone::Op(op) => {
                let event = self.ops.sent(op, cx.now, status);
                self.complete_some(event);
            }
            TxDone::Reply(grant) => self.return_get(cx, grant, status),
            TxDone::Forward(lease) => self.forward_done(cx, peer, lease, status),
            TxDone::Again(done) => {
                cx.counters.successful_resends += u64::from(status.is_ok());
                cx.counters.failed_resends += u64::from(status.is_err());
                return self.finish(cx, peer, uses, *done, status);
            }
        }
        if uses.credits > 0 {
            self.take_back(cx, peer, uses);
        }
    }

    /// A PUT without ACK has left, or will not.
    #[inline]
    pub(super) fn put_left(
        &mut self,
        cx: &Cx,
        (app, tag): (AppId, u64),
        (ni, began): (NiId, u64),
        status: Result<(), LnetError>,
    ) {
        if status.is_ok() {
            self.ops.took(Timed::Put, ni, cx.now.saturating_sub(began));
        }
        self.complete_send(app, tag, status, true);
    }

    /// Ends a message that was never the LND's.
    pub(super) fn end(&mut self, cx: &mut Cx, peer: Key, tx: Msg, status: Result<(), LnetError>) {
        let uses = tx.uses();
        self.finish(cx, peer, uses, tx.done, status);
    }

    /// Ends a message that waited for a credit.
    pub(super) fn end_waiting<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        peer: Key,
        tx: Msg,
        status: Result<(), LnetError>,
    ) {
        if let Some(p) = self.peers.get(peer).filter(|_| tx.answer) {
            let entry = p.entry;
            lnd.answer_dropped(self, cx, entry);
        }
        self.end(cx, peer, tx, status);
    }

    /// Ends answers that have waited too long for credits where there is no connection, whose own time-outs would see to
    /// them; they stand in the order of their deadlines, as messages of other nodes do. Those end in any case: each connection that
    /// such a peer takes, and does not read, would keep them a time-out longer.
    pub(super) fn end_overdue<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, peer: Key) {
        self.end_overdue_forwards(cx, lnd, peer);
        for line in Line::OWN {
            self.end_overdue_of(cx, lnd, peer, line);
        }
    }

    fn end_overdue_of<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, peer: Key, line: Line) {
        while let Some(p) = self.peers.get_mut(peer) {
            match p.waiting.front(line).map_or(u64::MAX, |tx| tx.deadline) {
                u64::MAX => return,
                d if d > cx.now => return self.timers.by(cx.now, peer, d),
                _ if lnd.connected(p.entry) => {
                    return self.timers.by(cx.now, peer, cx.now + cx.cfg.timeout());
                }
                _ => {}
            }
            let Some(tx) = p.waiting.pop(line) else { return };
            self.end_one_overdue(cx, lnd, peer, tx);
        }
    }

    fn end_overdue_forwards<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, peer: Key) {
        while let Some(p) = self.peers.get_mut(peer)
            && let Some(first) = p.waiting.front(Line::PassedOn)
        {
            if first.deadline > cx.now {
                return self.timers.by(cx.now, peer, first.deadline);
            }
            let Some(tx) = p.waiting.pop(Line::PassedOn) else { return };
            self.end_one_overdue(cx, lnd, peer, tx);
        }
    }

    pub(super) fn end_one_overdue<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, peer: Key, tx: Msg) {
        let Some(entry) = self.peers.get(peer).map(|p| p.entry) else { return };
        cx.counters.err_queue_timeout += 1;
        self.end_waiting(cx, lnd, peer, tx, Err(LnetError::TimedOut));
        // An operation behind it may have room.
        self.kicks.push_back(peer);
        lnd.forget_if_idle(self, cx, entry);
    }
}
