//! Messages of this node to itself: delivered in memory, never on TCP (docs/protocol/lnet.md §9).
//!
//! What is asked of this node's own NID, or of `0@lo`, is done by the shard that owns the portal, by the rules that
//! any other initiator's message meets: matching, truncation, ACK, events, and the time-out of an ACK or REPLY that
//! nothing sends. Payload is copied once and counted in `rx_copied_bytes`: the initiator's pages are its own again
//! with the SEND event, whatever the target does with what it was given.

use super::{GetGrant, PutGrant, TxDone, Verdict};
use crate::proto::api::{Data, Event, LnetError, Payload, Sink};
use crate::proto::io::AppId;
use crate::proto::lnet::MatchReq;
use crate::proto::lnet::ops::OpKind;
use crate::proto::lnet::remote::Waiter;
use crate::proto::machine::Machine;
use crate::proto::owner::Owner;
use crate::proto::placement::{Dest, Placement};
use crate::proto::slab::Key;
use crate::wire::{LnetBody, LnetHdr, Nid, PingInfo, WireHandle};

/// A message to ourselves.
#[derive(Debug)]
pub(in crate::proto) struct OwnMessage {
    hdr: LnetHdr,
    payload: Payload,
    done: TxDone,
}

impl Machine {
    /// Whether `nid` is this node.
    pub(in crate::proto) fn is_own(&self, nid: Nid) -> bool {
        nid == self.cfg.nid || nid == Nid::LO
    }

    /// Answers a ping of ourselves.
    pub(in crate::proto) fn own_ping(&mut self, app: AppId, tag: u64) {
        let info = PingInfo::parse(&self.ping_info).map_err(|_| LnetError::Malformed);
        self.complete(app, Event::Ping { tag, info, rtt_ns: 0 });
    }

    /// Sends a PUT or GET to ourselves: it is done when this returns, unless it waits for a sink.
    pub(in crate::proto) fn own_message(&mut self, hdr: LnetHdr, payload: Payload, done: TxDone) {
        let req = MatchReq { hdr: LnetHdr { dest_nid: self.cfg.nid, ..hdr }, sender: self.cfg.nid };
        match self.portals.find(req) {
            Verdict::Put(grant, sink) => self.own_put(grant, sink, &payload, done),
            Verdict::Get(grant, source) => self.own_get(grant, &source, done),
            Verdict::Busy(me) => {
                let key = self.own.insert(OwnMessage { hdr, payload, done });
                self.portals.wait(me, Waiter::Own(key));
            }
            Verdict::Drop(why) => {
                // As on the wire: it has left, and nobody answers.
                self.count_drop(why);
                self.own_sent(done, Ok(()));
            }
        }
    }

    /// Goes on with a message whose entry is free again, or gone.
    pub(in crate::proto) fn own_resume(&mut self, key: Key) {
        if let Some(m) = self.own.remove(key) {
            self.own_message(m.hdr, m.payload, m.done);
        }
    }

    /// Fails what waits.
    pub(in crate::proto) fn end_own_messages(&mut self, why: LnetError) {
        for key in (0..self.own.capacity()).filter_map(|i| self.own.key_at(i)).collect::<Vec<_>>() {
            if let Some(m) = self.own.remove(key) {
                self.own_sent(m.done, Err(why));
            }
        }
    }

    fn own_put(&mut self, grant: PutGrant, sink: Sink, payload: &Payload, done: TxDone) {
        let dest = Dest::Sink { sink, offset: grant.offset };
        let (sink, data) = self.own_copy(dest, grant.mlength, Owner::App(grant.app), payload);
        let wants_ack = matches!(grant.req.hdr.body, LnetBody::Put { ack, .. } if ack != WireHandle::NONE);
        let op = match done {
            TxDone::Op(op) if wants_ack && grant.ack => Some(op),
            _ => None,
        };
        self.put_done(grant, sink.unwrap_or(Sink::Discard(0)), Ok(()), data);
        self.own_sent(done, Ok(()));
        if let Some(op) = op {
            let event = self.ops.acked(op, Ok(()), grant.mlength);
            self.complete_some(event);
        }
    }

    fn own_get(&mut self, grant: GetGrant, source: &Payload, done: TxDone) {
        if let TxDone::Op(op) = done
            && let Some(rec) = self.ops.get_mut(op)
            && let OpKind::Get { sink } = &mut rec.kind
            && let Some(sink) = sink.take()
        {
            let owner = Owner::App(rec.app);
            let dest = Dest::Sink { sink, offset: 0 };
            let (sink, data) = self.own_copy(dest, grant.mlength, owner, source);
            let event = self.ops.reply(op, Ok(()), grant.mlength, data, sink);
            self.complete_some(event);
        }
        self.get_done(grant, Ok(()));
    }

    fn own_copy(
        &mut self,
        dest: Dest,
        mlength: u32,
        owner: Owner,
        payload: &Payload,
    ) -> (Option<Sink>, Data) {
        let mut p = Placement::new(dest, mlength, owner.into(), None);
        payload.pieces().for_each(|b| p.store(b, &mut self.counters));
        let (dest, data, _) = p.finish();
        match dest {
            Dest::Sink { sink, .. } => (Some(sink), data),
            Dest::Own(_) => (None, data),
        }
    }

    /// The message has left, or will not.
    fn own_sent(&mut self, done: TxDone, status: Result<(), LnetError>) {
        match done {
            TxDone::Put { app, tag } => self.complete(app, Event::Send { tag, status, done: true }),
            TxDone::Op(op) => {
                let event = self.ops.sent(op, self.now, status);
                self.complete_some(event);
            }
            TxDone::Nothing | TxDone::Reply(_) => {}
        }
    }
}
