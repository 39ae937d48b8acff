//! Operations of applications (docs/protocol/lnet.md §3).

use std::net::IpAddr;

use super::api::{Event, MdMem, MessageCounts, Op, OpRefused, PIECES_MAX};
use super::cut::CutEvent;
use super::hop::{Hop, Way};
use super::ops::{LO, OpKind};
use super::remote::{Body, ShardMsg, Waiter};
use super::{DropWhy, Lnet, Msg, Resume, TxDone, Verdict};
use crate::lnd::budget::NOBODY;
use crate::lnd::{AppId, Cx, Lnd, LnetError, NiId, Payload, Sink};
use crate::stream::ShardId;
use crate::stream::slab::Key;
use crate::wire::{LnetBody, LnetHdr, Nid, ProcessId, WireHandle, lnet, ping};

/// Longest ping info that we ask for, in bytes: what `lctl ping` of 2.17 asks for (lnet.md §6.1).
const PING_LEN: u32 = 3960;

impl Lnet {
    /// An application's operation. It is taken out of its place.
    #[inline]
    pub(crate) fn command<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], app: AppId, op: &mut Op) {
        match self.way(cx, lnds, op) {
            Ok(way) if cx.cfg.shards.count <= 1 => self.start(cx, lnds, app, op, way),
            Ok(way) => self.pass_on(cx, lnds, app, op, way, None),
            Err(why) => self.refuse(cx, app, op, why),
        }
    }

    /// Starts an operation, or passes it on to the shard that it belongs to; it may have come from another one.
    pub(super) fn pass_on<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        app: AppId,
        op: &mut Op,
        way: Way,
        from: Option<ShardId>,
    ) {
        if self.holds(from, app, op, way) {
            return;
        }
        let owner = self.owner_of(cx, op, way);
        if owner == cx.cfg.shards.me {
            return self.start(cx, lnds, app, op, way);
        }
        // Entries are a shard's own.
        let way = match way {
            Way::Peer(hop) => Way::Peer(Hop { known: None, ..hop }),
            own => own,
        };
        self.post(owner, Body::Cmd(app, op.take(), way));
    }

    /// A message of another shard.
    pub(crate) fn shard_msg<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        from: ShardId,
        msg: ShardMsg,
    ) {
        match msg.0 {
            Body::Cmd(app, mut op, way) => self.pass_on(cx, lnds, app, &mut op, way, Some(from)),
            Body::Match(waiter) => {
                if let Some(lnd) = lnds.get_mut(waiter.ticket.ni.index()) {
                    self.match_request(cx, lnd, waiter);
                }
            }
            Body::Matched(asker, verdict) => {
                if let Some(lnd) = lnds.get_mut(asker.ticket.ni.index()) {
                    self.match_reply(cx, lnd, asker, verdict);
                }
            }
            Body::Held(ticket, lazily, owner) => {
                if let Some(lnd) = lnds.get_mut(ticket.ni.index()) {
                    self.held_there(cx, lnd, (ticket, lazily), owner);
                }
            }
            Body::Forget(ticket) => self.portals.forget(&ticket),
            Body::Answered(ni, target, tx) => {
                if let Some(lnd) = lnds.get_mut(ni.index()) {
                    self.answer_elsewhere(cx, lnd, target, tx);
                }
            }
            Body::Seek(seek) => self.sought(cx, seek),
            Body::Placed(ticket, placed) => {
                if let Some(lnd) = lnds.get_mut(ticket.ni.index()) {
                    self.placed(cx, lnd, ticket, placed);
                }
            }
            Body::AskGateway(gateway, shard) => self.asked_of_gateway(cx, gateway, shard),
            Body::Gateway(gateway, said) => self.told_of_gateway(cx, gateway, said.map(|s| *s)),
            Body::PutDone { grant, hdr, sink, status, data } => {
                // Any LND will do: no connection is meant.
                if let Some(lnd) = lnds.get_mut(NiId::default().index()) {
                    self.put_done(cx, lnd, (&grant, &hdr), sink, data, status);
                }
            }
            Body::GetDone { grant, status } => self.get_done(grant, status),
            Body::Forwarded(ni, via, boxed) => self.forwarded_here(cx, lnds, (ni, via), boxed),
            Body::Unmet(ni, via, boxed) => self.unmet(cx, lnds, (ni, via), boxed),
            Body::CutBegins(cut, ni, via, boxed) => self.cut_begins_here(cut, (ni, via), boxed),
            Body::CutPart(cut, pieces) => self.cut_hears(cx, lnds, cut, CutEvent::Part, pieces),
            Body::CutEnds(cut, last) => self.cut_ends(cx, lnds, cut, last),
            Body::Returned(back, boxed) => {
                self.spare_box(boxed);
                self.returned(cx, lnds, back);
            }
            Body::RoutingAsk(ask) => self.route_ask(cx, lnds, ask),
            Body::Heard(at, held) => self.heard_there(cx, from, &at, held),
            Body::Routing(told, push) => self.routing_told(cx, lnds, told, push),
            Body::Aliases(claim) => self.told_of(claim),
            Body::Contested(nid, claim) => self.contested(nid, claim),
            Body::Awaited(nid) => {
                self.aliases.await_word(nid);
                self.rails_changed();
            }
            Body::Statuses(claim) => drop(self.statuses(cx, lnds, &claim)),
            Body::Unheard(nid) => self.unheard_there(nid),
            Body::OwnFailed(ni) => self.own_failed(cx, ni),
            Body::OwnHealth(ni, value) => self.own_told(ni, value),
            Body::PeerHealth(nid, value) => drop(self.peer_told(nid, value)),
            Body::SetHealth(nid, value) => self.peer_set(cx, nid, value),
            Body::Recover(nid) => self.recover_from(cx, nid),
            Body::Link(ni, up) => self.link_is(cx, lnds, ni, up),
            Body::Stuck(ids) => self.find_stuck(cx, lnds, &ids),
            Body::Tell(via, features) => self.tell_there(cx, lnds, via, features),
            Body::TellBeside(id) => self.tell_nid(cx, lnds, id),
            Body::Resent(resent) => self.resent(cx, lnds, *resent),
        }
    }

    /// The shard that an operation belongs to.
    fn owner_of(&self, cx: &Cx, op: &Op, way: Way) -> ShardId {
        let shards = cx.cfg.shards;
        if let Way::Peer(hop) = way
            && let Some(b) = hop.bucket()
        {
            return cx.homes.at(b);
        }
        match op {
            // One on this node itself is done where the entries are.
            Op::Put { portal, .. }
            | Op::Get { portal, .. }
            | Op::Attach { portal, .. }
            | Op::Unlink { portal, .. }
            | Op::Lazy { portal, .. } => shards.owner_of(*portal),
            Op::Counts { shard, .. } if *shard < shards.count => ShardId(*shard),
            Op::Ping { .. } | Op::Discover { .. } | Op::Counts { .. } | Op::Shutdown { .. } => shards.me,
        }
    }

    /// Starts an operation on the shard that it belongs to.
    fn start<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], app: AppId, op: &mut Op, way: Way) {
        match &*op {
            Op::Shutdown { tag } if !cx.down => return self.shut_down(cx, lnds, app, *tag),
            Op::Counts { tag, .. } => {
                let counts = MessageCounts::of(&cx.counters);
                return self.complete(app, Event::Counts { tag: *tag, counts });
            }
            _ => {}
        }
        if let Way::Peer(hop) = way
            && !cx.down
            && self.nis.get(hop.ni.index()).is_none_or(|n| n.gone)
        {
            return self.start_otherwise(cx, lnds, app, op);
        }
        let (Way::Own(ni) | Way::Peer(Hop { ni, .. })) = way;
        let started = match lnds.get_mut(ni.index()) {
            Some(lnd) => self.try_start(cx, lnd, app, op, way),
            None => Err(OpRefused::ShuttingDown),
        };
        if let Err(why) = started {
            self.refuse(cx, app, op, why);
        }
    }

    /// Looks for another way for an operation of another shard's: the NI that it was to leave by was deleted meanwhile.
    #[cold]
    fn start_otherwise<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], app: AppId, op: &mut Op) {
        match self.way(cx, lnds, op) {
            Ok(way) => self.pass_on(cx, lnds, app, op, way, None),
            Err(why) => self.refuse(cx, app, op, why),
        }
    }

    #[cold]
    fn refuse(&mut self, cx: &mut Cx, app: AppId, op: &mut Op, why: OpRefused) {
        let tag = op.tag();
        // Its memory goes before its owner hears of it.
        drop(op.take());
        cx.counters.ops_refused += 1;
        self.complete(app, Event::Refused { tag, why });
    }

    fn try_start<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        app: AppId,
        op: &mut Op,
        way: Way,
    ) -> Result<(), OpRefused> {
        if cx.down {
            return Err(OpRefused::ShuttingDown);
        }
        let (ni, timed, via) = match way {
            Way::Own(ni) => (ni, LO, None),
            Way::Peer(hop) => (hop.ni, hop.ni, Some(hop.via.nid)),
        };
        // By a rail, another of the target's NIDs is asked, and answers.
        let asked = |target| match way {
            Way::Peer(hop) if hop.rail => ProcessId { nid: hop.via.nid, ..target },
            _ => target,
        };
        let marked = from_ni(op) || matches!(way, Way::Peer(hop) if hop.rail || !hop.only);
        match op {
            &mut Op::Put {
                tag,
                target,
                from,
                portal,
                match_bits,
                offset,
                hdr_data,
                ref mut payload,
                ack,
            } => {
                check_portal(portal)?;
                let len = check_len(payload.len())?;
                check_pieces(payload)?;
                let peer = self.target(cx, lnd, app, way)?;
                let (handle, done) = if ack {
                    let kind = OpKind::Put { sent: false, acked: false };
                    let (key, handle) = self.begin_op(cx, (app, tag), (asked(target).nid, via, timed), kind);
                    (handle, TxDone::Op(key))
                } else {
                    (WireHandle::NONE, TxDone::Put { app, tag, ni: timed, began: cx.now })
                };
                let body = LnetBody::Put { ack: handle, match_bits, hdr_data, portal, offset };
                match peer {
                    Some(peer) => {
                        let hdr = header(cx, self.nid_of(ni), asked(target), len, body);
                        let mut msg = Msg::lnet(hdr, payload.take(), done);
                        msg.strange = for_strangers(cx, app);
                        if marked {
                            mark(&mut msg, way, from.is_some());
                        }
                        self.launch(cx, lnd, peer, &mut msg);
                    }
                    None => {
                        let hdr = own_header(cx, from, target, len, body);
                        self.own_message(cx, lnd, hdr, payload.take(), done);
                    }
                }
            }
            &mut Op::Get { tag, target, from, portal, match_bits, ref mut sink } => {
                check_portal(portal)?;
                if portal == lnet::SELFTEST_PORTAL && via.is_some() {
                    return Err(OpRefused::SelftestGet(portal));
                }
                let sink_length = check_len(u64::from(sink.len()))?;
                let peer = self.target(cx, lnd, app, way)?;
                let sink = std::mem::replace(sink, Sink::Discard(0));
                let kind = OpKind::Get { sink: Some(sink) };
                let (key, handle) = self.begin_op(cx, (app, tag), (asked(target).nid, via, timed), kind);
                // The offset stays 0: kernels have died of others (lnet.md §3).
                let body = LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length };
                let (payload, done) = (Payload::empty(), TxDone::Op(key));
                match peer {
                    Some(peer) => {
                        let hdr = header(cx, self.nid_of(ni), asked(target), 0, body);
                        let mut msg = Msg::lnet(hdr, payload, done);
                        msg.strange = for_strangers(cx, app);
                        if marked {
                            mark(&mut msg, way, from.is_some());
                        }
                        self.launch(cx, lnd, peer, &mut msg);
                    }
                    None => self.own_message(cx, lnd, own_header(cx, from, target, 0, body), payload, done),
                }
            }
            &mut (Op::Ping { tag, target } | Op::Discover { tag, target, .. }) => {
                let Way::Peer(hop) = way else {
                    self.own_ping(cx, app, tag);
                    return Ok(());
                };
                let peer = self.target_peer(cx, lnd, hop.via, hop.known)?;
                if hop.only {
                    self.recent = Some(peer);
                }
                if let Op::Discover { force, .. } = op {
                    let far = !hop.rail && target.nid != hop.via.nid;
                    let subject =
                        if far { self.far_subject(ni, peer, target.nid) } else { Some(peer.into()) };
                    if let Some(subject) = subject {
                        self.discover(cx, lnd, subject, *force);
                    }
                }
                let kind = OpKind::Ping { placing: false, sink: PING_LEN };
                let (key, handle) = self.begin_op(cx, (app, tag), (asked(target).nid, via, ni), kind);
                let body = LnetBody::Get {
                    handle,
                    match_bits: ping::MATCH_BITS,
                    portal: ping::PORTAL,
                    src_offset: 0,
                    sink_length: PING_LEN,
                };
                let hdr = header(cx, self.nid_of(ni), asked(target), 0, body);
                let mut msg = Msg::lnet(hdr, Payload::empty(), TxDone::Op(key));
                if marked {
                    mark(&mut msg, way, false);
                }
                self.launch(cx, lnd, peer, &mut msg);
            }
            Op::Attach { .. } => {
                let Op::Attach { tag, portal, who, match_bits, ignore_bits, md } = op.take() else {
                    return Ok(());
                };
                check_portal(portal)?;
                if let MdMem::Source(source) = &md.mem {
                    check_pieces(source)?;
                }
                let me = self.portals.attach((app, tag), portal, who, (match_bits, ignore_bits), md)?;
                self.complete(app, Event::Attached { tag, me });
                let found = self.portals.matches_now(portal, me, &self.aliases);
                self.again.extend(found.into_iter().map(|(w, verdict)| Resume::Found(w, Box::new(verdict))));
            }
            Op::Lazy { portal: ping::PORTAL, .. } => return Err(OpRefused::LazyOwn(ping::PORTAL)),
            &mut Op::Lazy { portal, on, .. } => {
                let dropped = self.portals.lazy(portal, on)?;
                let drop = |w: Waiter| Resume::Found(w, Box::new(Verdict::Drop(DropWhy::NoMatch)));
                self.again.extend(dropped.into_iter().map(drop));
            }
            &mut Op::Unlink { me, .. } => {
                let (event, waiters) = self.portals.unlink(me)?;
                self.complete_some(event);
                self.wake_waiters(cx, lnd, waiters);
            }
            // They go their own ways; a shutdown once.
            Op::Counts { .. } | Op::Shutdown { .. } => return Err(OpRefused::ShuttingDown),
        }
        Ok(())
    }

    fn begin_op(
        &mut self,
        cx: &Cx,
        of: (AppId, u64),
        (target, via, ni): (Nid, Option<Nid>, NiId),
        kind: OpKind,
    ) -> (Key, WireHandle) {
        let deadline = cx.now + cx.cfg.transaction_timeout;
        self.ops.start(of, (target, via.unwrap_or(target), ni), kind, (cx.now, deadline))
    }

    /// The entry of the peer that it is given to, or `None` for this node itself; an error where too much waits for it.
    fn target<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        app: AppId,
        way: Way,
    ) -> Result<Option<Key>, OpRefused> {
        if self.fars.held >= cx.cfg.max_queued {
            return Err(OpRefused::QueueFull(self.fars.held));
        }
        let Way::Peer(Hop { via, known, only, .. }) = way else {
            let waiting = self.own.len() + self.own_work.len();
            if waiting >= cx.cfg.max_queued {
                return Err(OpRefused::QueueFull(waiting));
            }
            return Ok(None);
        };
        let key = match known.or_else(|| lnd.find(via)) {
            None if for_strangers(cx, app) => self.named_peer(cx, lnd, via, NOBODY)?,
            known => self.target_peer(cx, lnd, via, known)?,
        };
        if only {
            self.recent = Some(key);
        }
        Ok(Some(key))
    }

    /// An entry for a peer that is known by what a stranger says alone. Such names cost nothing: they get no more than half
    /// of the entries, and the host at `pays` pays for them; those that [`NOBODY`] pays for share what one host may hold.
    pub(super) fn named_peer<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        target: ProcessId,
        pays: IpAddr,
    ) -> Result<Key, OpRefused> {
        let full = OpRefused::TooManyPeers(cx.cfg.max_peers);
        if self.peers.len() >= cx.cfg.max_peers / 2 {
            return Err(full);
        }
        let key = self.target_peer(cx, lnd, target, None)?;
        let Some(entry) = self.peers.get(key).map(|p| p.entry) else { return Err(full) };
        lnd.charge_host(self, cx, entry, pays);
        if self.peers.get(key).is_some_and(|p| cx.budget.admits(p.host, 0)) {
            return Ok(key);
        }
        lnd.forget_if_idle(self, cx, entry);
        Err(full)
    }

    /// The entry of a peer to whom this LND's NI leads, made if need be.
    pub(super) fn target_peer<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        target: ProcessId,
        known: Option<Key>,
    ) -> Result<Key, OpRefused> {
        if self.nis.get(lnd.ni().index()).is_none_or(|n| n.gone) {
            return Err(if cx.down { OpRefused::ShuttingDown } else { OpRefused::Target(target.nid) });
        }
        if !cx.cfg.may_dial(target.nid) {
            return Err(OpRefused::Unprivileged(target.nid));
        }
        let key = match known.or_else(|| lnd.find(target)) {
            Some(key) => key,
            None => lnd.add(self, cx, target).ok_or(OpRefused::TooManyPeers(cx.cfg.max_peers))?,
        };
        let waiting = self.peers.get(key).map_or(0, |p| p.waits() + lnd.queued(p.entry));
        if waiting >= cx.cfg.max_queued {
            return Err(OpRefused::QueueFull(waiting));
        }
        Ok(key)
    }

    fn shut_down<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], app: AppId, tag: u64) {
        cx.down = true;
        self.shutdown = Some((app, tag));
        for lnd in lnds {
            self.end_work(cx, lnd);
            lnd.go_down(self, cx);
        }
    }

    /// Fails the operations of this node, as far as they wait here or with this LND.
    pub(super) fn end_work<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L) {
        let why = LnetError::ShuttingDown;
        self.end_own_messages(cx, lnd, why);
        self.fail_delayed(cx, why);
        self.end_fars(cx, why);
        let ni = lnd.ni();
        let own = |k: &Key| self.peers.get(*k).is_some_and(|p| p.ni == ni);
        let peers: Vec<Key> = self.peers.keys().filter(own).collect();
        for peer in peers {
            let n = self.peers.get(peer).map_or(0, |p| p.waiting.len());
            for _ in 0..n {
                let Some(tx) = self.peers.get_mut(peer).and_then(|p| p.waiting.pop_any()) else { break };
                self.end_waiting(cx, lnd, peer, tx, Err(why));
            }
            self.end_held(cx, lnd, peer, why);
        }
        lnd.fail_queues(self, cx, why);
        for op in self.ops.waiting() {
            let event = self.ops.fail(op, cx.now, why);
            self.complete_some(event);
        }
    }
}

/// Whether an operation names the NI that it leaves from.
#[inline]
fn from_ni(op: &Op) -> bool {
    matches!(op, Op::Put { from: Some(_), .. } | Op::Get { from: Some(_), .. })
}

/// A message that leaves from an NI that was named, may go to another NID than the one that was, or goes by a gateway: most do not.
#[cold]
fn mark(msg: &mut Msg, way: Way, pinned: bool) {
    msg.pinned = pinned;
    if let (Way::Peer(hop), Some(hdr)) = (way, &msg.hdr) {
        (msg.free, msg.routed) = (hop.rail, hdr.dest_nid != hop.via.nid);
    }
}

/// Whether an application speaks to whom strangers name.
#[inline]
fn for_strangers(cx: &Cx, app: AppId) -> bool {
    cx.cfg.strangers.contains(&app.home().0)
}

/// The header of a message of ours, from the NI `own`.
pub(super) fn header(cx: &Cx, own: Nid, target: ProcessId, payload_len: u32, body: LnetBody) -> LnetHdr {
    LnetHdr {
        dest_nid: target.nid,
        src_nid: own,
        dest_pid: target.pid,
        src_pid: cx.cfg.pid,
        payload_len,
        body,
    }
}

/// The header of a message to this node itself: between two of its NIs, or from the one that it goes to.
fn own_header(cx: &Cx, from: Option<Nid>, target: ProcessId, payload_len: u32, body: LnetBody) -> LnetHdr {
    let real = |nid| if nid == Nid::LO { cx.cfg.nid() } else { nid };
    let to = ProcessId { nid: real(target.nid), ..target };
    header(cx, from.map_or(to.nid, real), to, payload_len, body)
}

fn check_portal(portal: u32) -> Result<(), OpRefused> {
    if portal < lnet::PORTALS { Ok(()) } else { Err(OpRefused::Portal(portal)) }
}

/// Checks the number of pieces: a runtime lends no more at once than it has lendings.
fn check_pieces(payload: &Payload) -> Result<(), OpRefused> {
    match payload {
        Payload::Pages(p) if p.len() > PIECES_MAX => Err(OpRefused::Pieces(p.len())),
        _ => Ok(()),
    }
}

fn check_len(len: u64) -> Result<u32, OpRefused> {
    match u32::try_from(len) {
        Ok(n) if n <= lnet::MTU => Ok(n),
        _ => Err(OpRefused::TooLong(len)),
    }
}
