//! Messages of this node to itself: delivered in memory, never on TCP (docs/protocol/lnet.md §9).
//!
//! An operation on one of this node's own NIDs, or on `0@lo`, is done by the shard that owns the portal, by the rules that
//! any other initiator's message meets: matching, truncation, ACK, events, and the time-out of an ACK or REPLY that
//! nothing sends. Payload is copied once and counted in `rx_copied_bytes`: the initiator's pages are its own again
//! with the SEND event, whatever the target does with what it was given.

use super::api::Event;
use super::ops::OpKind;
use super::remote::{Waiter, Who};
use super::{GetGrant, Lnet, MatchReq, PutGrant, TxDone, Verdict};
use crate::lnd::{AppId, Cx, Data, Dest, Lnd, LnetError, Owner, Payload, Placement, Sink};
use crate::stream::slab::Key;
use crate::wire::{LnetBody, LnetHdr, PingInfo, WireHandle};

/// A message to ourselves.
#[derive(Debug)]
pub(crate) struct OwnMessage {
    hdr: LnetHdr,
    payload: Payload,
    done: TxDone,
}

impl Lnet {
    /// Answers a ping of ourselves.
    pub(crate) fn own_ping(&mut self, app: AppId, tag: u64) {
        let info = PingInfo::parse(&self.ping_info.pieces().collect::<Vec<_>>().concat());
        let info = info.map_err(|_| LnetError::Malformed);
        self.complete(app, Event::Ping { tag, info, rtt_ns: 0 });
    }

    /// Sends a PUT or GET to ourselves: it is done when this returns, unless it waits for a sink.
    pub(crate) fn own_message<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        hdr: LnetHdr,
        payload: Payload,
        done: TxDone,
    ) {
        let verdict = self.portals.find(&hdr, hdr.src_nid, &self.aliases);
        self.own_verdict(cx, lnd, OwnMessage { hdr, payload, done }, verdict);
    }

    /// Does what the portal said.
    fn own_verdict<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, message: OwnMessage, verdict: Verdict) {
        let OwnMessage { hdr, payload, done } = message;
        match verdict {
            Verdict::Put(grant, sink) => self.own_put(cx, lnd, (grant, sink), (&hdr, &payload), done),
            Verdict::Get(grant, source) => self.own_get(cx, grant, &source, done),
            Verdict::Wait(on) => {
                let req = MatchReq { hdr, sender: hdr.src_nid };
                let who = Who::Own(self.own.insert(OwnMessage { hdr, payload, done }));
                self.portals.wait(on, Waiter { who, req });
            }
            Verdict::Drop(why) => {
                // As on the wire: it has left, and nobody answers.
                self.dropped(cx, why, &hdr);
                self.own_sent(cx, done, Ok(()));
            }
        }
    }

    /// Goes on with a message whose entry is free again, or gone.
    pub(crate) fn own_resume<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, key: Key) {
        if let Some(m) = self.own.remove(key) {
            self.own_message(cx, lnd, m.hdr, m.payload, m.done);
        }
    }

    /// Goes on with a message for which an entry has come, or comes no more.
    pub(crate) fn own_found<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        (key, hdr): (Key, &LnetHdr),
        verdict: Verdict,
    ) {
        match (self.own.remove(key), verdict) {
            (Some(m), verdict) => self.own_verdict(cx, lnd, m, verdict),
            // It has been failed meanwhile: what was granted goes back.
            (None, Verdict::Put(grant, sink)) => {
                self.put_done(cx, lnd, (&grant, hdr), sink, Data::Discarded, Err(LnetError::ShuttingDown));
            }
            (None, Verdict::Get(grant, _)) => self.get_done(grant, Err(LnetError::ShuttingDown)),
            (None, Verdict::Wait(_) | Verdict::Drop(_)) => {}
        }
    }

    /// Fails what waits.
    pub(crate) fn end_own_messages(&mut self, cx: &Cx, why: LnetError) {
        for key in (0..self.own.capacity()).filter_map(|i| self.own.key_at(i)).collect::<Vec<_>>() {
            if let Some(m) = self.own.remove(key) {
                self.own_sent(cx, m.done, Err(why));
            }
        }
        self.portals.forget_own();
    }

    fn own_put<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        (grant, sink): (PutGrant, Sink),
        (hdr, payload): (&LnetHdr, &Payload),
        done: TxDone,
    ) {
        let dest = Dest::Sink { sink, offset: grant.offset };
        let (sink, data) = own_copy(cx, dest, grant.mlength, Owner::App(grant.app), payload);
        let wants_ack = matches!(hdr.body, LnetBody::Put { ack, .. } if ack != WireHandle::NONE);
        let op = match done {
            TxDone::Op(op) if wants_ack && grant.ack => Some(op),
            _ => None,
        };
        self.put_done(cx, lnd, (&grant, hdr), sink.unwrap_or(Sink::Discard(0)), data, Ok(()));
        self.own_sent(cx, done, Ok(()));
        if let Some(op) = op {
            let event = self.ops.acked(op, Ok(()), grant.mlength);
            self.complete_some(event);
        }
    }

    fn own_get(&mut self, cx: &mut Cx, grant: GetGrant, source: &Payload, done: TxDone) {
        if let TxDone::Op(op) = done
            && let Some(rec) = self.ops.get_mut(op)
            && let OpKind::Get { sink } = &mut rec.kind
            && let Some(sink) = sink.take()
        {
            let owner = Owner::App(rec.app);
            let dest = Dest::Sink { sink, offset: 0 };
            let (sink, data) = own_copy(cx, dest, grant.mlength, owner, source);
            let event = self.ops.reply(op, Ok(()), grant.mlength, data, sink);
            self.complete_some(event);
        }
        self.get_done(grant, Ok(()));
    }

    /// The message has left, or will not.
    fn own_sent(&mut self, cx: &Cx, done: TxDone, status: Result<(), LnetError>) {
        match done {
            TxDone::Put { app, tag } => self.complete(app, Event::Send { tag, status, done: true }),
            TxDone::Op(op) => {
                let event = self.ops.sent(op, cx.now, status);
                self.complete_some(event);
            }
            TxDone::Nothing | TxDone::Reply(_) => {}
        }
    }
}

fn own_copy(cx: &mut Cx, dest: Dest, mlength: u32, owner: Owner, payload: &Payload) -> (Option<Sink>, Data) {
    let mut p = Placement::new(dest, mlength, owner.into(), None);
    payload.pieces().for_each(|b| p.store(b, &mut cx.counters));
    let (dest, data, _) = p.finish();
    match dest {
        Dest::Sink { sink, .. } => (Some(sink), data),
        Dest::Own(_) => (None, data),
    }
}
