//! LNet's side of the machine: operations of applications, and what incoming messages lead to
//! (docs/protocol/lnet.md §3 to §6).

use super::api::{Data, Event, LnetError, MdMem, Op, OpRefused, PIECES_MAX, Payload, Sink};
use super::budget::NOBODY;
use super::config::SEC;
use super::homes::Bucket;
use super::io::{AppId, Close, ConnId, Output, ShardId};
use super::lnet::ops::OpKind;
use super::lnet::remote::{Body, ConnWaiter, Waiter};
use super::lnet::{Delivery, DropWhy, GetGrant, MatchReq, PutGrant, TxDone, Verdict};
use super::machine::Machine;
use super::owner::Owner;
use super::placement::{Dest, Placement};
use super::rx::{RxEvent, RxState, WaitFor};
use super::slab::Key;
use super::txq::Tx;
use crate::wire::ksock::Checksum;
use crate::wire::{LnetBody, LnetHdr, Nid, ProcessId, WireHandle, lnet, ping};

/// Longest ping info that we ask for, in bytes: what `lctl ping` of 2.17 asks for (lnet.md §6.1).
const PING_LEN: u32 = 3960;
/// How long a node that goes down waits for its peers to close, in ns: those that are there do within a round trip.
const LINGER: u64 = SEC / 2;

impl Machine {
    /// The shard that an operation belongs to; `None` when it must be refused here.
    pub(super) fn owner_of(&self, op: &Op) -> Option<ShardId> {
        let shards = self.cfg.shards;
        if let Some(b) = self.bucket_of(op) {
            return Some(self.homes.at(b));
        }
        match op {
            // What is for this node is done where the entries are.
            Op::Put { target, portal, .. } | Op::Get { target, portal, .. } if self.is_own(target.nid) => {
                Some(shards.owner_of(*portal))
            }
            Op::Ping { target, .. } if self.is_own(target.nid) => Some(shards.me),
            Op::Put { .. } | Op::Get { .. } | Op::Ping { .. } => None,
            Op::Attach { portal, .. } | Op::Unlink { portal, .. } => Some(shards.owner_of(*portal)),
            Op::Shutdown { .. } => Some(shards.me),
        }
    }

    /// Starts an operation on the shard that it belongs to.
    pub(super) fn start(&mut self, app: AppId, op: Op) {
        let tag = match &op {
            Op::Put { tag, .. }
            | Op::Get { tag, .. }
            | Op::Ping { tag, .. }
            | Op::Attach { tag, .. }
            | Op::Unlink { tag, .. }
            | Op::Shutdown { tag } => *tag,
        };
        if let Err(why) = self.try_start(app, op) {
            self.counters.ops_refused += 1;
            self.complete(app, Event::Refused { tag, why });
        }
    }

    fn try_start(&mut self, app: AppId, op: Op) -> Result<(), OpRefused> {
        if self.down {
            return Err(OpRefused::ShuttingDown);
        }
        match op {
            Op::Put { tag, target, portal, match_bits, offset, hdr_data, payload, ack } => {
                check_portal(portal)?;
                let len = check_len(payload.len())?;
                check_pieces(&payload)?;
                let peer = self.target(target)?;
                let (handle, done) = if ack {
                    let kind = OpKind::Put { sent: false, acked: false };
                    let (key, handle) = self.begin_op(app, tag, target.nid, kind);
                    (handle, TxDone::Op(key))
                } else {
                    (WireHandle::NONE, TxDone::Put { app, tag })
                };
                let body = LnetBody::Put { ack: handle, match_bits, hdr_data, portal, offset };
                let hdr = self.header(target, len, body);
                match peer {
                    Some(peer) => self.launch(peer, Tx::lnet(hdr, payload, done)),
                    None => self.own_message(hdr, payload, done),
                }
            }
            Op::Get { tag, target, portal, match_bits, sink } => {
                check_portal(portal)?;
                if portal == lnet::SELFTEST_PORTAL && !self.is_own(target.nid) {
                    return Err(OpRefused::SelftestGet(portal));
                }
                let sink_length = check_len(u64::from(sink.len()))?;
                let peer = self.target(target)?;
                let (key, handle) = self.begin_op(app, tag, target.nid, OpKind::Get { sink: Some(sink) });
                // The offset stays 0: kernels have died of others (lnet.md §3).
                let body = LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length };
                let hdr = self.header(target, 0, body);
                match peer {
                    Some(peer) => self.launch(peer, Tx::lnet(hdr, Payload::empty(), TxDone::Op(key))),
                    None => self.own_message(hdr, Payload::empty(), TxDone::Op(key)),
                }
            }
            Op::Ping { tag, target } if self.is_own(target.nid) => self.own_ping(app, tag),
            Op::Ping { tag, target } => {
                let peer = self.target_peer(target)?;
                let kind = OpKind::Ping { asked: self.now, placing: false };
                let (key, handle) = self.begin_op(app, tag, target.nid, kind);
                let body = LnetBody::Get {
                    handle,
                    match_bits: ping::MATCH_BITS,
                    portal: ping::PORTAL,
                    src_offset: 0,
                    sink_length: PING_LEN,
                };
                let hdr = self.header(target, 0, body);
                self.launch(peer, Tx::lnet(hdr, Payload::empty(), TxDone::Op(key)));
            }
            Op::Attach { tag, portal, who, match_bits, ignore_bits, md } => {
                check_portal(portal)?;
                if let MdMem::Source(source) = &md.mem {
                    check_pieces(source)?;
                }
                let me = self.portals.attach((app, tag), portal, who, (match_bits, ignore_bits), md)?;
                self.complete(app, Event::Attached { tag, me });
            }
            Op::Unlink { me, .. } => {
                let (event, waiters) = self.portals.unlink(me)?;
                self.complete_some(event);
                self.wake_waiters(waiters);
            }
            Op::Shutdown { tag } => self.shut_down(app, tag),
        }
        Ok(())
    }

    fn begin_op(&mut self, app: AppId, tag: u64, target: Nid, kind: OpKind) -> (Key, WireHandle) {
        let deadline = self.now + self.cfg.transaction_timeout;
        self.ops.start((app, tag), target, kind, (self.now, deadline))
    }

    fn header(&self, target: ProcessId, payload_len: u32, body: LnetBody) -> LnetHdr {
        LnetHdr {
            dest_nid: target.nid,
            src_nid: self.cfg.nid,
            dest_pid: target.pid,
            src_pid: self.cfg.pid,
            payload_len,
            body,
        }
    }

    /// The peer's entry, or `None` for this node itself.
    fn target(&mut self, target: ProcessId) -> Result<Option<Key>, OpRefused> {
        if !self.is_own(target.nid) {
            return self.target_peer(target).map(Some);
        }
        let waiting = self.own.len();
        if waiting >= self.cfg.max_queued { Err(OpRefused::QueueFull(waiting)) } else { Ok(None) }
    }

    /// The peer's entry, made if need be.
    fn target_peer(&mut self, target: ProcessId) -> Result<Key, OpRefused> {
        let nid = target.nid;
        // An interface has addresses of one family.
        let reachable = nid.to_nid4().is_some() == self.cfg.nid.to_nid4().is_some();
        if nid.ip().is_none() || !nid.same_net(self.cfg.nid) || !reachable {
            return Err(OpRefused::Target(nid));
        }
        if !self.cfg.may_dial(nid) {
            return Err(OpRefused::Unprivileged(nid));
        }
        let recent = self.recent.filter(|k| self.peers.get(*k).is_some_and(|p| p.id == target));
        let key = match recent.or_else(|| self.by_peer.get(&target).copied()) {
            Some(key) => key,
            None => self.add_peer(target, None).ok_or(OpRefused::TooManyPeers(self.cfg.max_peers))?,
        };
        self.recent = Some(key);
        let waiting = self.peers.get(key).map_or(0, |p| p.waiting.len() + p.queue.len());
        if waiting >= self.cfg.max_queued {
            return Err(OpRefused::QueueFull(waiting));
        }
        Ok(key)
    }

    fn shut_down(&mut self, app: AppId, tag: u64) {
        self.down = true;
        self.shutdown = Some((app, tag));
        self.end_work();
        self.go_down();
    }

    /// Fails the operations of this node.
    pub(super) fn end_work(&mut self) {
        let why = LnetError::ShuttingDown;
        self.end_own_messages(why);
        for peer in (0..self.peers.capacity()).filter_map(|i| self.peers.key_at(i)).collect::<Vec<_>>() {
            let n = self.peers.get(peer).map_or(0, |p| p.waiting.len());
            for _ in 0..n {
                let Some(tx) = self.peers.get_mut(peer).and_then(|p| p.waiting.pop_front()) else { break };
                self.end_tx(peer, tx, Err(why));
            }
            self.fail_queue(peer, why);
        }
        for op in self.ops.waiting() {
            let event = self.ops.fail(op, self.now, why);
            self.complete_some(event);
        }
    }

    /// Ends everything: no operation, no connection is left but what has to be waited for.
    pub(super) fn let_go(&mut self) {
        let why = LnetError::ShuttingDown;
        self.cut_off();
        let peers: Vec<Key> = (0..self.peers.capacity()).filter_map(|i| self.peers.key_at(i)).collect();
        for peer in peers {
            self.close_set(Some(peer), why, true);
        }
        for conn in (0..self.conns.capacity()).filter_map(|i| self.conns.key_at(i)).collect::<Vec<_>>() {
            self.end_conn(conn, Close::Abort);
        }
        self.end_work();
        for me in self.portals.attached() {
            if let Ok((event, waiters)) = self.portals.unlink(me) {
                self.complete_some(event);
                self.wake_waiters(waiters);
            }
        }
    }

    /// Going down, a connection closes: its peer has some time to do so, too.
    pub(super) fn lingers(&mut self, conn: Key) {
        let at = self.now + LINGER;
        if let Some(c) = self.conns.get_mut(conn) {
            c.hs_deadline = at;
        }
        self.conn_by(conn, at);
    }

    /// What is closing already waits no longer: a peer that is gone, or does not close, would never let it end.
    fn cut_off(&mut self) {
        for conn in (0..self.conns.capacity()).filter_map(|i| self.conns.key_at(i)) {
            if let Some(c) = self.conns.get(conn).filter(|c| c.hs.dead())
                && self.by_id.contains_key(&c.id)
            {
                self.out.push_back(Output::Close(c.id, Close::Abort));
            }
        }
    }

    /// Going down: the peer had its time to close this connection.
    pub(super) fn linger(&mut self, conn: Key) {
        let Some(c) = self.conns.get(conn).filter(|c| self.leaving.gone() && c.hs.dead()) else { return };
        let (id, at) = (c.id, c.hs_deadline);
        if at > self.now {
            // The timer was one of the connection's life.
            return self.conn_by(conn, at);
        }
        self.out.push_back(Output::Close(id, Close::Abort));
        self.lingers(conn);
    }

    /// PARSE: finds out what a message's header leads to.
    pub(super) fn parse(&mut self, key: Key) {
        let Some(c) = self.conns.get(key) else { return };
        let (Some(hdr), Some(ksock), Some(peer)) = (c.rx.hdr, c.rx.ksock, c.peer) else { return };
        // What stores no payload acts at once: behind all that is before it on the stream.
        let stores = matches!(hdr.body, LnetBody::Put { .. } | LnetBody::Reply { .. });
        if c.boxed.as_ref().is_some_and(|b| !b.is_empty() && (b.is_full() || !stores)) {
            return self.stall(key, WaitFor::Boxes);
        }
        // The placement goes on from the sum over the headers, where that is what the sum is over.
        let checked = (ksock.csum != 0).then(|| c.rx.sum.clone().unwrap_or_default());
        if hdr.dest_nid != self.cfg.nid || hdr.src_nid.is_any() || !hdr.src_nid.same_net(self.cfg.nid) {
            self.counters.drop_not_for_us += 1;
            return self.begin(key, None, Delivery::Nothing, 0);
        }
        match hdr.body {
            LnetBody::Ack { handle, mlength, .. } => {
                let event =
                    self.ops.find(handle, hdr.src_nid).and_then(|op| self.ops.acked(op, Ok(()), mlength));
                self.counters.drop_stale_handle += u64::from(event.is_none());
                self.complete_some(event);
                self.begin(key, None, Delivery::Nothing, 0);
            }
            LnetBody::Reply { handle } => self.parse_reply(key, handle, hdr, checked),
            LnetBody::Put { .. } | LnetBody::Get { .. } => self.parse_request(key, peer, hdr),
        }
    }

    fn parse_reply(&mut self, key: Key, handle: WireHandle, hdr: LnetHdr, checked: Option<Checksum>) {
        let len = hdr.payload_len;
        let found = self.ops.find(handle, hdr.src_nid);
        let Some((op, rec)) = found.and_then(|op| Some((op, self.ops.get_mut(op)?))) else {
            self.counters.drop_stale_handle += 1;
            return self.begin(key, None, Delivery::Nothing, 0);
        };
        let owner = Owner::App(rec.app).into();
        let dest = match &mut rec.kind {
            OpKind::Get { sink } => match sink.take() {
                Some(s) if s.len() >= len => Ok(Dest::Sink { sink: s, offset: 0 }),
                Some(s) => {
                    *sink = Some(s);
                    Err(LnetError::TooLong)
                }
                // A second answer while the first is being read.
                None => {
                    self.counters.drop_stale_handle += 1;
                    return self.begin(key, None, Delivery::Nothing, 0);
                }
            },
            OpKind::Ping { placing, .. } if !*placing && len <= PING_LEN => {
                *placing = true;
                Ok(Dest::Own(Vec::with_capacity(len as usize)))
            }
            _ => Err(LnetError::Malformed),
        };
        match dest {
            Ok(dest) => {
                let placement = Placement::new(dest, len, owner, checked.filter(|_| len > 0));
                self.begin(key, Some(placement), Delivery::Reply(op), len);
            }
            Err(why) => {
                self.counters.drop_too_long += u64::from(why == LnetError::TooLong);
                let event = self.ops.fail(op, self.now, why);
                self.complete_some(event);
                self.begin(key, None, Delivery::Nothing, 0);
            }
        }
    }

    fn parse_request(&mut self, key: Key, peer: Key, hdr: LnetHdr) {
        let Some(p) = self.peers.get_mut(peer) else { return };
        let sender = p.id.nid;
        // A peer that asks and never reads would make our answers pile up.
        if p.answers >= self.cfg.max_answers {
            p.stalled.push(key);
            self.stall(key, WaitFor::Answers);
            return self.end_unread(key);
        }
        if self.budget.over(p.host) {
            return self.stall_for_budget(peer, key);
        }
        let req = MatchReq { hdr, sender };
        if let LnetBody::Get {
            handle,
            match_bits: ping::MATCH_BITS,
            portal: ping::PORTAL,
            src_offset,
            sink_length,
        } = hdr.body
        {
            self.pong(peer, &hdr, handle, src_offset, sink_length);
            return self.begin(key, None, Delivery::Nothing, 0);
        }
        let portal = match hdr.body {
            LnetBody::Put { portal, .. } | LnetBody::Get { portal, .. } => portal,
            _ => lnet::PORTALS,
        };
        let owner = self.cfg.shards.owner_of(portal);
        if owner != self.cfg.shards.me && portal < lnet::PORTALS {
            let Some(waiter) = self.waiter(key, req) else { return };
            self.stall(key, WaitFor::Match);
            return self.post(owner, Body::Ask { waiter });
        }
        let verdict = self.portals.find(req);
        self.apply(key, req, verdict);
    }

    pub(super) fn stall(&mut self, key: Key, wait: WaitFor) {
        if let Some(c) = self.conns.get_mut(key) {
            c.rx.wait = wait;
            c.rx.deadline = None;
        }
        self.rx_event(key, RxEvent::Wait);
    }

    /// Does what the portal's owner said.
    fn apply(&mut self, key: Key, req: MatchReq, verdict: Verdict) {
        let Some(c) = self.conns.get(key) else { return };
        let (Some(ksock), Some(peer)) = (c.rx.ksock, c.peer) else { return };
        let sum = c.rx.sum.clone();
        match verdict {
            Verdict::Put(grant, sink) => {
                let ack = matches!(req.hdr.body, LnetBody::Put { ack, .. } if ack != WireHandle::NONE);
                let grant = PutGrant { ack: grant.ack && ack, ..grant };
                let whole = grant.mlength == req.hdr.payload_len && grant.mlength > 0;
                let discards = matches!(sink, Sink::Discard(_));
                let checked = (ksock.csum != 0 && whole && !discards).then(|| sum.unwrap_or_default());
                let dest = Dest::Sink { sink, offset: grant.offset };
                let placement = Placement::new(dest, grant.mlength, Owner::App(grant.app).into(), checked);
                self.begin(key, Some(placement), Delivery::Put(grant), grant.mlength);
            }
            Verdict::Get(grant, payload) => {
                self.send_reply(peer, grant, payload);
                self.begin(key, None, Delivery::Nothing, 0);
            }
            Verdict::Busy(me) => {
                if let Some(waiter) = self.waiter(key, req) {
                    self.portals.wait(me, Waiter::Conn(waiter));
                }
                self.stall(key, WaitFor::Match);
            }
            Verdict::Drop(_) if is_push(&req.hdr) => self.push_put(key, &req.hdr, ksock.csum != 0),
            Verdict::Drop(why) => {
                self.count_drop(why);
                self.begin(key, None, Delivery::Nothing, 0);
            }
        }
    }

    /// A peer pushes its ping info, and nobody here wants to know: it is checked and acknowledged all the same, as each
    /// node does (lnet.md §6.4, field report L7).
    fn push_put(&mut self, key: Key, hdr: &LnetHdr, summed: bool) {
        let sum = self.conns.get(key).and_then(|c| c.rx.sum.clone());
        let mlength = hdr.payload_len.min(ping::PUSH_ROOM);
        let checked = (summed && mlength == hdr.payload_len && mlength > 0).then(|| sum.unwrap_or_default());
        let dest = Dest::Own(Vec::with_capacity(mlength as usize));
        let placement = Placement::new(dest, mlength, Owner::App(AppId::NODE).into(), checked);
        self.begin(key, Some(placement).filter(|_| mlength > 0), Delivery::Push(mlength), mlength);
    }

    /// Tells the initiator of a push that it was taken.
    pub(super) fn send_push_ack(&mut self, peer: Key, hdr: &LnetHdr, mlength: u32) {
        let LnetBody::Put { ack, match_bits, .. } = hdr.body else { return };
        if ack != WireHandle::NONE {
            let body = LnetBody::Ack { handle: ack, match_bits, mlength };
            self.answer(peer, hdr, body, Payload::empty(), TxDone::Nothing);
        }
    }

    pub(super) fn count_drop(&mut self, why: DropWhy) {
        match why {
            DropWhy::NoMatch => self.counters.drop_no_match += 1,
            DropWhy::TooLong => self.counters.drop_too_long += 1,
            DropWhy::BadOffset => self.counters.drop_bad_offset += 1,
        }
    }

    /// Another shard asks about a portal of ours.
    pub(super) fn asked(&mut self, waiter: ConnWaiter) {
        match self.portals.find(waiter.req) {
            Verdict::Busy(me) => self.portals.wait(me, Waiter::Conn(waiter)),
            verdict => {
                let ConnWaiter { conn, bucket, ticket, .. } = waiter;
                let home = self.homes.at(bucket);
                if home == self.cfg.shards.me {
                    self.answered(conn, bucket, ticket, verdict);
                } else {
                    self.post(home, Body::Answer { conn, bucket, ticket, verdict });
                }
            }
        }
    }

    fn waiter(&self, key: Key, req: MatchReq) -> Option<ConnWaiter> {
        self.conns.get(key).map(|c| ConnWaiter { conn: c.id, bucket: c.bucket, ticket: c.rx.ticket, req })
    }

    /// The owner of a portal has answered.
    pub(super) fn answered(&mut self, conn: ConnId, bucket: Bucket, ticket: u64, verdict: Verdict) {
        let home = self.homes.at(bucket);
        if home != self.cfg.shards.me {
            // The connection has moved since it asked.
            return self.post(home, Body::Answer { conn, bucket, ticket, verdict });
        }
        let key = self.by_id.get(&conn).copied();
        let waiting = key.and_then(|k| self.conns.get(k)).filter(|c| c.up() && c.rx.ticket == ticket);
        let req = waiting
            .filter(|c| c.rx.state == RxState::ParseWait && c.rx.wait == WaitFor::Match)
            .and_then(|c| {
                let sender = c.peer.and_then(|p| self.peers.get(p))?.id.nid;
                c.rx.hdr.map(|hdr| MatchReq { hdr, sender })
            });
        if let (Some(key), Some(req)) = (key, req) {
            self.apply(key, req, verdict);
            return self.read_again(key);
        }
        // The connection has died meanwhile: what was granted goes back.
        match verdict {
            Verdict::Put(grant, sink) => {
                self.return_put(grant, sink, Err(LnetError::ConnLost), Data::Discarded)
            }
            Verdict::Get(grant, _) => self.return_get(grant, Err(LnetError::ConnLost)),
            Verdict::Busy(_) | Verdict::Drop(_) => {}
        }
    }

    /// Gives a PUT's grant back to the portal's owner.
    pub(super) fn return_put(
        &mut self,
        grant: PutGrant,
        sink: Sink,
        status: Result<(), LnetError>,
        data: Data,
    ) {
        if grant.owner == self.cfg.shards.me {
            self.put_done(grant, sink, status, data);
        } else {
            self.post(grant.owner, Body::PutDone { grant, sink, status, data });
        }
    }

    /// Gives a GET's grant back to the portal's owner.
    pub(super) fn return_get(&mut self, grant: GetGrant, status: Result<(), LnetError>) {
        if grant.owner == self.cfg.shards.me {
            self.get_done(grant, status);
        } else {
            self.post(grant.owner, Body::GetDone { grant, status });
        }
    }

    pub(super) fn put_done(
        &mut self,
        grant: PutGrant,
        sink: Sink,
        status: Result<(), LnetError>,
        data: Data,
    ) {
        if let Some((app, event, waiters)) = self.portals.put_done(&grant, sink, status, data) {
            self.complete(app, event);
            self.wake_waiters(waiters);
        }
    }

    pub(super) fn get_done(&mut self, grant: GetGrant, status: Result<(), LnetError>) {
        let event = self.portals.get_done(&grant, status);
        self.complete_some(event);
    }

    fn wake_waiters(&mut self, waiters: impl IntoIterator<Item = Waiter>) {
        for w in waiters {
            let w = match w {
                Waiter::Own(message) => {
                    self.own_resume(message);
                    continue;
                }
                Waiter::Conn(w) => w,
            };
            if self.homes.at(w.bucket) != self.cfg.shards.me {
                self.asked(w);
            } else if let Some(key) = self.by_id.get(&w.conn).copied()
                && self.conns.get(key).is_some_and(|c| c.rx.ticket == w.ticket && c.rx.wait == WaitFor::Match)
            {
                self.resume(key);
            }
        }
    }

    /// Answers the request `to`, which `peer` delivered. The answer goes to its source, on connections of that one's
    /// own if it is another (lnet.md §5).
    fn answer(&mut self, peer: Key, to: &LnetHdr, body: LnetBody, payload: Payload, done: TxDone) {
        let target = ProcessId { nid: to.src_nid, pid: to.src_pid };
        let len = u32::try_from(payload.len()).unwrap_or(lnet::MTU);
        let tx = Tx::lnet(self.header(target, len, body), payload, done);
        if self.peers.get(peer).is_some_and(|p| p.id == target) {
            return self.launch_answer(peer, tx);
        }
        self.answer_elsewhere(target, Box::new(tx));
    }

    /// Sends an answer to a source that did not deliver its request itself. Such sources may be anybody's invention:
    /// they get no more than half of the entries for peers.
    pub(super) fn answer_elsewhere(&mut self, target: ProcessId, tx: Box<Tx>) {
        let home = target.nid.ip().map(|ip| self.homes.of(ip));
        if let Some(home) = home.filter(|h| *h != self.cfg.shards.me) {
            return self.post(home, Body::Answered(target, tx));
        }
        let room = self.peers.len() < self.cfg.max_peers / 2 && !self.is_own(target.nid);
        let known = self.by_peer.contains_key(&target);
        if (room || known)
            && let Ok(peer) = self.target_peer(target)
        {
            if !known {
                // All of them share what one host may hold: their addresses cost nothing.
                self.recharge_peer(peer, NOBODY);
            }
            if self.peers.get(peer).is_some_and(|p| !self.budget.over(p.host)) {
                return self.launch_answer(peer, *tx);
            }
            self.forget_if_idle(peer);
        }
        self.counters.drop_no_way_back += 1;
        self.give_up(tx.done);
    }

    fn launch_answer(&mut self, peer: Key, mut tx: Tx) {
        tx.answer = true;
        self.launch(peer, tx);
    }

    /// Tells the initiator of a PUT that it was stored.
    pub(super) fn send_ack(&mut self, peer: Key, grant: &PutGrant) {
        let LnetBody::Put { ack, match_bits, .. } = grant.req.hdr.body else { return };
        let body = LnetBody::Ack { handle: ack, match_bits, mlength: grant.mlength };
        self.answer(peer, &grant.req.hdr, body, Payload::empty(), TxDone::Nothing);
    }

    fn send_reply(&mut self, peer: Key, grant: GetGrant, payload: Payload) {
        let LnetBody::Get { handle, .. } = grant.req.hdr.body else { return };
        self.answer(peer, &grant.req.hdr, LnetBody::Reply { handle }, payload, TxDone::Reply(grant));
    }

    /// Answers a ping with as much of our info as is asked for (lnet.md §6.1).
    fn pong(&mut self, peer: Key, hdr: &LnetHdr, handle: WireHandle, offset: u32, sink: u32) {
        let Some(rest) = self.ping_info.get(offset as usize..) else {
            self.counters.drop_bad_offset += 1;
            return;
        };
        let part = rest.get(..sink as usize).unwrap_or(rest);
        // One NI's info always fits inline.
        let payload = Payload::inline(part).unwrap_or_else(Payload::empty);
        self.answer(peer, hdr, LnetBody::Reply { handle }, payload, TxDone::Nothing);
    }
}

/// Whether a message is a push of ping info.
fn is_push(h: &LnetHdr) -> bool {
    matches!(h.body, LnetBody::Put { portal: ping::PORTAL, match_bits: ping::MATCH_BITS, .. })
}

fn check_portal(portal: u32) -> Result<(), OpRefused> {
    if portal < lnet::PORTALS { Ok(()) } else { Err(OpRefused::Portal(portal)) }
}

/// What a runtime lends at once is bounded by its lendings.
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
