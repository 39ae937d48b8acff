//! Messages that come: where their payload goes, and what they lead to (docs/protocol/lnet.md §4, §5).

use super::elsewhere::Unplaced;
use super::held::WaitOn;
use super::ops::PutTold;
use super::pushes::is_push;
use super::remote::{Asker, Body, Waiter, Who};
use super::{Delivery, DropWhy, GetGrant, Lnet, MatchReq, PutGrant, Resume, Verdict};
use crate::lnd::{Arrived, Cx, Data, Dest, Hold, Lnd, LnetError, Owner, Placement, Sink, Stored, Ticket};
use crate::stream::ShardId;
use crate::stream::slab::Key;
use crate::wire::{LnetBody, LnetHdr, Nid, PingInfo, WireHandle, lnet, ping};

/// Longest time that a PUT by a gateway waits on a lazy portal, in ns: enough for an application that posts a buffer whenever it has
/// emptied one, and less than what anybody else behind the gateway notices.
const LAZY_ROUTED: u64 = 250_000_000;
/// After one that found no entry in that time, none that its gateway brings waits for so many ns: strangers may keep the
/// gateway's connection from being read for one part in 17.
const LAZY_REST: u64 = 16 * LAZY_ROUTED;

/// Nothing of the message is wanted.
fn drop_it<L: Lnd<Lnet>>(lnet: &mut Lnet, cx: &mut Cx, lnd: &mut L, msg: &Arrived) {
    lnd.skip(lnet, cx, msg.key);
}

/// Whether somebody asks somebody who he is.
fn is_ping(hdr: &LnetHdr) -> bool {
    matches!(hdr.body, LnetBody::Get { portal: ping::PORTAL, .. })
}

/// Whether it goes to whoever is said to have asked.
fn is_answer(hdr: &LnetHdr) -> bool {
    matches!(hdr.body, LnetBody::Ack { .. } | LnetBody::Reply { .. })
}

impl Lnet {
    /// Finds out where the payload of a message goes.
    pub(super) fn parse<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived) {
        let hdr = &msg.hdr;
        if self.routing.listens() && is_ping(hdr) {
            self.net_heard(cx, lnd.ni());
        }
        let Some(ni) = self.nis.get(lnd.ni().index()) else { return drop_it(self, cx, lnd, msg) };
        if hdr.dest_nid != ni.nid {
            if hdr.dest_nid.same_net(ni.nid) || self.is_own(hdr.dest_nid) {
                cx.counters.err_dest_nid += 1;
                self.drop_counted((lnd.ni(), Some(msg.peer)), hdr);
                // Anybody can have such an answer sent to us, or such a message passed on: it costs itself alone.
                let is_own = hdr.dest_nid != Nid::LO && self.is_own(hdr.dest_nid);
                return match is_own && (is_answer(hdr) || hdr.src_nid != msg.sender) {
                    true => drop_it(self, cx, lnd, msg),
                    false => lnd.refuse(self, cx, msg.key),
                };
            }
            if self.faults.is_some() && !self.received_passes(cx, lnd, msg) {
                return;
            }
            return self.forward(cx, lnd, msg);
        }
        // One of another network has come by a router: it is served, and counted where no way leads back to it.
        if hdr.src_nid.is_any() {
            cx.counters.drop_not_for_us += 1;
            self.drop_counted((lnd.ni(), Some(msg.peer)), hdr);
            return drop_it(self, cx, lnd, msg);
        }
        if cx.cfg.drop_asym_route
            && !self.is_near(hdr.src_nid)
            && self.routes.get(hdr.src_nid.net(), msg.sender).is_none()
        {
            cx.counters.drop_asym_route += 1;
            self.drop_counted((lnd.ni(), Some(msg.peer)), hdr);
            return drop_it(self, cx, lnd, msg);
        }
        if self.faults.is_some() && !self.received_passes(cx, lnd, msg) {
            return;
        }
        match hdr.body {
            LnetBody::Ack { handle, mlength, .. } => {
                let op = self.ops.find(handle, hdr.src_nid, &self.aliases);
                match op.and_then(|op| self.ops.put_acked(op, Some(cx.now))) {
                    Some(PutTold { app, tag, done, began }) => {
                        self.timed(msg.peer, |s| &mut s.put_ack, cx.now.saturating_sub(began));
                        self.complete_ack(app, tag, mlength, done);
                    }
                    None if op.is_none() && self.seek_ack(cx, handle, hdr.src_nid, mlength) => {}
                    None => self.stale(cx, (lnd.ni(), Some(msg.peer)), hdr),
                }
                drop_it(self, cx, lnd, msg);
            }
            LnetBody::Reply { handle } => self.parse_reply(cx, lnd, msg, handle),
            LnetBody::Put { .. } | LnetBody::Get { .. } => self.parse_request(cx, lnd, msg),
        }
    }

    fn parse_reply<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived, handle: WireHandle) {
        let (hdr, sum) = (&msg.hdr, msg.sum.as_ref());
        let len = hdr.payload_len;
        let Some(op) = self.ops.find(handle, hdr.src_nid, &self.aliases) else {
            if !self.seek_place(cx, lnd, msg, handle) {
                self.stale(cx, (lnd.ni(), Some(msg.peer)), hdr);
                drop_it(self, cx, lnd, msg);
            }
            return;
        };
        match self.place_of(cx, op, len) {
            Ok((app, dest)) => {
                let sum = sum.filter(|_| len > 0).cloned();
                let placement = Placement::new(dest, len, Owner::App(app).into(), sum);
                lnd.recv(self, cx, msg.key, &mut Some(placement), Delivery::Reply(op), len);
            }
            Err(why) => {
                let from = (lnd.ni(), Some(msg.peer));
                match why {
                    Unplaced::Stale => self.stale(cx, from, hdr),
                    Unplaced::Failed => self.drop_counted(from, hdr),
                }
                drop_it(self, cx, lnd, msg);
            }
        }
    }

    fn parse_request<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived) {
        // A peer that asks and never reads would make our answers pile up.
        if !lnd.may_ask(cx, msg.entry) {
            return lnd.hold(self, cx, msg.key, Hold::Unread);
        }
        let hdr = &msg.hdr;
        if let LnetBody::Get {
            handle,
            match_bits: ping::MATCH_BITS,
            portal: ping::PORTAL,
            src_offset,
            sink_length,
        } = hdr.body
        {
            self.pong(cx, lnd, msg.peer, hdr, handle, (src_offset, sink_length));
            return drop_it(self, cx, lnd, msg);
        }
        if is_push(hdr) {
            let (mut placement, mlength) = self.push_place(hdr, msg.sum.clone());
            return lnd.recv(self, cx, msg.key, &mut placement, Delivery::Push(mlength), mlength);
        }
        if hdr.src_nid != msg.sender && !self.aliases.is_empty() {
            self.came_by(cx, lnd, msg);
        }
        let portal = match hdr.body {
            LnetBody::Put { portal, .. } | LnetBody::Get { portal, .. } => portal,
            _ => lnet::PORTALS,
        };
        let owner = cx.cfg.shards.owner_of(portal);
        if owner != cx.cfg.shards.me && portal < lnet::PORTALS {
            let Some(ticket) = lnd.ticket(msg.key) else { return drop_it(self, cx, lnd, msg) };
            let req = MatchReq { hdr: *hdr, sender: msg.sender };
            self.post(owner, Body::Match(Asker { ticket, req }));
            return lnd.hold(self, cx, msg.key, Hold::Match);
        }
        let verdict = self.portals.find(hdr, msg.sender, &self.aliases);
        self.apply(cx, lnd, msg, verdict)
    }

    /// Does what the portal's owner said.
    fn apply<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived, verdict: Verdict) {
        let hdr = &msg.hdr;
        match verdict {
            Verdict::Put(mut grant, sink) => {
                grant.ack &= matches!(hdr.body, LnetBody::Put { ack, .. } if ack != WireHandle::NONE);
                let whole = grant.mlength == hdr.payload_len && grant.mlength > 0;
                let discards = matches!(sink, Sink::Discard(_));
                let sum = msg.sum.as_ref().filter(|_| whole && !discards).cloned();
                let dest = Dest::Sink { sink, offset: grant.offset };
                let placement = Placement::new(dest, grant.mlength, Owner::App(grant.app).into(), sum);
                lnd.recv(self, cx, msg.key, &mut Some(placement), Delivery::Put(grant), grant.mlength);
            }
            Verdict::Get(grant, payload) => {
                self.send_reply(cx, lnd, (msg.peer, hdr), grant, payload);
                drop_it(self, cx, lnd, msg);
            }
            Verdict::Wait(on) => {
                if let Some(ticket) = lnd.ticket(msg.key) {
                    let req = MatchReq { hdr: *hdr, sender: msg.sender };
                    self.portals.wait(on, Waiter { who: Who::Conn(ticket), req });
                }
                match on {
                    WaitOn::Entry(_) => self.waits_for_sink(cx, lnd, msg),
                    WaitOn::Portal(_) => self.waits_lazily(cx, lnd, msg),
                }
            }
            Verdict::Drop(why) => {
                self.dropped(cx, (lnd.ni(), Some(msg.peer)), why, hdr);
                drop_it(self, cx, lnd, msg);
            }
        }
    }

    /// Another shard asks about a portal of ours.
    pub(super) fn match_request<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, asker: Asker) {
        match self.portals.find(&asker.req.hdr, asker.req.sender, &self.aliases) {
            Verdict::Wait(on) => {
                let Asker { ticket, req } = asker;
                self.portals.wait(on, Waiter { who: Who::Conn(ticket), req });
                let lazily = matches!(on, WaitOn::Portal(_));
                if lazily || req.hdr.src_nid != req.sender {
                    self.held_there(cx, lnd, (ticket, lazily), cx.cfg.shards.me);
                }
            }
            verdict => self.match_reply(cx, lnd, asker, verdict),
        }
    }

    /// The owner of a portal has answered.
    pub(super) fn match_reply<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        asker: Asker,
        verdict: Verdict,
    ) {
        let Asker { ticket, req } = asker;
        let home = cx.homes.at(ticket.bucket);
        if home != cx.cfg.shards.me {
            // The connection lives elsewhere, or has moved since it asked.
            return self.post(home, Body::Matched(asker, verdict));
        }
        if let Some(msg) = lnd.held(&ticket) {
            self.apply(cx, lnd, &msg, verdict);
            return lnd.read(self, cx, msg.key);
        }
        // The connection has died meanwhile: what was granted goes back.
        match verdict {
            Verdict::Put(grant, sink) => {
                let stored = (sink, Data::Discarded);
                self.return_put(cx, lnd, (&grant, &req.hdr), stored, Err(LnetError::ConnLost));
            }
            Verdict::Get(grant, _) => self.return_get(cx, grant, Err(LnetError::ConnLost)),
            Verdict::Wait(_) | Verdict::Drop(_) => {}
        }
    }

    /// Gives a message's payload, or its failure, to whom it concerns.
    pub(super) fn deliver<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        (peer, hdr): (Option<Key>, &LnetHdr),
        delivery: Delivery,
        stored: Stored,
    ) {
        let status = stored.status;
        if let Delivery::Push(mlength) = delivery {
            if let Some(peer) = peer.filter(|_| status.is_ok()) {
                self.send_push_ack(cx, lnd, peer, hdr, mlength);
                let bytes = match stored.dest {
                    Some(Dest::Own(bytes)) => bytes,
                    _ => Vec::new(),
                };
                self.pushed(cx, lnd, peer, hdr, &bytes);
            }
            return;
        }
        if let (Delivery::Reply(op), Some(peer), Ok(())) = (&delivery, peer, status)
            && let Some(began) = self.ops.get(*op).map(|r| r.began)
        {
            self.timed(peer, |s| &mut s.get_rtt, cx.now.saturating_sub(began));
        }
        match delivery {
            Delivery::Nothing | Delivery::Push(_) | Delivery::Object(_) => {}
            Delivery::Forward(lease) => self.forward_here(cx, lease, stored, hdr),
            Delivery::Cut(cut) => self.cut_here(cx, peer, cut, stored, hdr),
            Delivery::Put(grant) => {
                if let Some(peer) = peer.filter(|_| grant.ack && status.is_ok()) {
                    self.send_ack(cx, lnd, (peer, hdr), grant.mlength);
                }
                let sink = match stored.dest {
                    Some(Dest::Sink { sink, .. }) => sink,
                    _ => Sink::Discard(0),
                };
                self.return_put(cx, lnd, (&grant, hdr), (sink, stored.data), status);
            }
            Delivery::Reply(op) => self.replied(cx, op, stored, hdr.payload_len),
            Delivery::Elsewhere(object) => self.stored_elsewhere(cx, object, hdr.payload_len, stored),
        }
    }

    /// The REPLY to an operation of this shard's, of so many bytes, has been stored, or will not be.
    pub(super) fn replied(&mut self, cx: &mut Cx, op: Key, stored: Stored, len: u32) {
        let Stored { dest, data, status } = stored;
        let sink = match dest {
            Some(Dest::Sink { sink, .. }) => Some(sink),
            Some(Dest::Own(info)) => {
                let mut info = status.map(|()| info);
                if self.node_asked(cx, op, &mut info) {
                    return;
                }
                let info = info.and_then(|b| PingInfo::parse(&b).map_err(|_| LnetError::Malformed));
                cx.counters.err_ping_info += u64::from(info == Err(LnetError::Malformed));
                let event = self.ops.pong(op, cx.now, info);
                return self.complete_some(event);
            }
            None => None,
        };
        let event = self.ops.reply(op, cx.now, status, len, data, sink);
        self.complete_some(event);
    }

    /// Gives a PUT's grant back to the portal's owner.
    fn return_put<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        (grant, hdr): (&PutGrant, &LnetHdr),
        (sink, data): (Sink, Data),
        status: Result<(), LnetError>,
    ) {
        if grant.owner == cx.cfg.shards.me {
            self.put_done(cx, lnd, (grant, hdr), sink, data, status);
        } else {
            self.post(grant.owner, Body::PutDone { grant: *grant, hdr: *hdr, sink, status, data });
        }
    }

    /// Gives a GET's grant back to the portal's owner.
    pub(super) fn return_get(&mut self, cx: &Cx, grant: GetGrant, status: Result<(), LnetError>) {
        if grant.owner == cx.cfg.shards.me {
            self.get_done(grant, status);
        } else {
            self.post(grant.owner, Body::GetDone { grant, status });
        }
    }

    pub(super) fn put_done<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        of: (&PutGrant, &LnetHdr),
        sink: Sink,
        data: Data,
        status: Result<(), LnetError>,
    ) {
        let Lnet { portals, aliases, events, .. } = self;
        if let Some(waiters) = portals.put_done(of, (sink, data), status, aliases, events)
            && !waiters.is_empty()
        {
            self.wake_waiters(cx, lnd, waiters);
        }
    }

    pub(super) fn get_done(&mut self, grant: GetGrant, status: Result<(), LnetError>) {
        let event = self.portals.get_done(&grant, status, &self.aliases);
        self.complete_some(event);
    }

    pub(super) fn wake_waiters<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        waiters: impl IntoIterator<Item = Waiter>,
    ) {
        for Waiter { who, req } in waiters {
            match who {
                Who::Own(message) => self.own_resume(cx, lnd, message),
                Who::Conn(ticket) if cx.homes.at(ticket.bucket) != cx.cfg.shards.me => {
                    self.match_request(cx, lnd, Asker { ticket, req });
                }
                Who::Conn(ticket) if ticket.ni == lnd.ni() => lnd.again(self, cx, &ticket),
                Who::Conn(ticket) => self.again.push_back(Resume::Find(ticket)),
            }
        }
    }

    /// Goes on with one message that was held.
    pub(super) fn go_on<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) {
        match self.again.pop_front() {
            Some(Resume::Find(ticket)) => {
                if let Some(lnd) = lnds.get_mut(ticket.ni.index()) {
                    lnd.again(self, cx, &ticket);
                }
            }
            Some(Resume::Found(Waiter { who: Who::Conn(ticket), req }, verdict)) => {
                if let Some(lnd) = lnds.get_mut(ticket.ni.index()) {
                    self.match_reply(cx, lnd, Asker { ticket, req }, *verdict);
                }
            }
            Some(Resume::Found(Waiter { who: Who::Own(message), req }, verdict)) => {
                if let Some(lnd) = lnds.first_mut() {
                    self.own_found(cx, lnd, (message, &req.hdr), *verdict);
                }
            }
            None => {}
        }
    }

    /// A message of a connection at home here waits on a lazy portal of another shard's, or for a sink there.
    pub(super) fn held_there<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        (ticket, lazily): (Ticket, bool),
        owner: ShardId,
    ) {
        let home = cx.homes.at(ticket.bucket);
        if home != cx.cfg.shards.me {
            return self.post(home, Body::Held(ticket, lazily, owner));
        }
        match lnd.held(&ticket) {
            Some(msg) => {
                match lazily {
                    true => self.waits_lazily(cx, lnd, &msg),
                    false => self.waits_for_sink(cx, lnd, &msg),
                }
                lnd.read(self, cx, msg.key);
            }
            // It ended elsewhere, and that may have been heard before it waited.
            None => self.forget_at(cx, owner, ticket),
        }
    }

    fn forget_at(&mut self, cx: &Cx, owner: ShardId, ticket: Ticket) {
        if owner == cx.cfg.shards.me {
            self.portals.forget(&ticket);
        } else {
            self.post(owner, Body::Forget(ticket));
        }
    }

    /// A message waits for a sink that another one has, maybe of a slow sender. Of one by a gateway it has the message's own deadline: its
    /// connection is that of all who are behind that.
    fn waits_for_sink<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived) {
        let hold = if msg.hdr.src_nid == msg.sender { Hold::Match } else { Hold::Sink };
        lnd.hold(self, cx, msg.key, hold);
    }

    /// A message by a gateway has waited for its sink as long as it may.
    pub(super) fn sink_overdue<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived) {
        cx.counters.sink_overdue += 1;
        self.is_overdue(cx, lnd, msg);
    }

    /// A PUT waits on a lazy portal, at its connection's home. One of another node's has a short time, and none for a while after
    /// one that found no entry in its time: its connection is that of all who are behind the same gateway ([`LAZY_ROUTED`]).
    fn waits_lazily<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived) {
        if msg.hdr.src_nid == msg.sender {
            return lnd.hold(self, cx, msg.key, Hold::Lazy);
        }
        if self.peers.get(msg.peer).is_none_or(|p| cx.now >= p.figures.may_wait) {
            return lnd.hold(self, cx, msg.key, Hold::LazyFor(LAZY_ROUTED));
        }
        cx.counters.lazy_overdue += 1;
        self.is_overdue(cx, lnd, msg);
    }

    /// A PUT has waited as long as it may. So none that its gateway brings waits for a while.
    pub(super) fn waited_enough<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived) {
        if let Some(p) = self.peers.get_mut(msg.peer) {
            p.figures.may_wait = cx.now + LAZY_REST;
        }
        cx.counters.lazy_overdue += 1;
        self.is_overdue(cx, lnd, msg);
    }

    fn is_overdue<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived) {
        if let Some(ticket) = lnd.ticket(msg.key) {
            self.unheld(cx, msg.peer, ticket, &msg.hdr);
        }
        self.dropped(cx, (lnd.ni(), Some(msg.peer)), DropWhy::NoMatch, &msg.hdr);
        drop_it(self, cx, lnd, msg);
    }

    /// The connection of a message that waits for a match, or for a router buffer, has ended.
    pub(super) fn unheld(&mut self, cx: &Cx, peer: Key, ticket: Ticket, hdr: &LnetHdr) {
        if hdr.dest_nid != self.nid_of(ticket.ni) {
            return self.leave_line(peer, &ticket);
        }
        let (LnetBody::Put { portal, .. } | LnetBody::Get { portal, .. }) = hdr.body else { return };
        self.forget_at(cx, cx.cfg.shards.owner_of(portal), ticket);
    }
}
