//! Messages of this node to itself: delivered in memory, never on TCP (docs/protocol/lnet.md §9).
//!
//! An operation on one of this node's own NIDs, or on `0@lo`, is done by the shard that owns the portal, by the rules that
//! any other initiator's message meets: matching, truncation, ACK, events, and the time-out of an ACK or REPLY that
//! nothing sends. Payload is copied once and counted in `rx_copied_bytes`: the initiator's pages are its own again
//! with the SEND event, whatever the target does with what it was given.
//!
//! A turn does [`A_TURN`] of them; the rest waits in order for the next ones. So peers are served in between, however many of our
//! applications talk to each other. Each counts as sent and as received, in `own_msgs` and `own_bytes`, as kernels
//! count what goes over `0@lo`.

use std::collections::VecDeque;

use super::api::Event;
use super::drops::Dropped;
use super::figures::Timed;
use super::ops::{LO, OpKind};
use super::remote::{Waiter, Who};
use super::{GetGrant, Lnet, MatchReq, PutGrant, TxDone, Verdict};
use crate::lnd::{AppId, ByType, Cx, Data, Dest, Lnd, LnetError, Owner, Payload, Placement, Sink, trim};
use crate::stream::slab::Key;
use crate::wire::{LnetBody, LnetHdr, PingInfo, WireHandle};

/// Work of a turn on messages to ourselves: bytes copied, each message for [`A_MESSAGE`] more. The last one may be over that.
const A_TURN: i64 = 256 << 10;
/// Cost of a message beside its bytes: a match and an event take as long as a copy of about so many.
const A_MESSAGE: i64 = 1 << 10;

/// A GET and its REPLY.
const ANSWERED: ByType = ByType { put: 0, get: 1, reply: 1, ack: 0 };

/// A message to ourselves.
#[derive(Debug)]
pub(crate) struct OwnMessage {
    hdr: LnetHdr,
    payload: Payload,
    done: TxDone,
}

/// Messages to ourselves for the next turns, and what this one may still do.
#[derive(Debug)]
pub(super) struct OwnWork {
    /// Those that have not been looked at, and those for which a lazy portal has an entry now, or has none any more.
    next: VecDeque<(OwnMessage, Option<Verdict>)>,
    left: i64,
    /// Time of this turn, in ns.
    turn: u64,
    /// Messages so far: each was sent and received.
    pub(super) moved: ByType,
    /// Those of them that were dropped.
    pub(super) dropped: Dropped,
}

impl OwnWork {
    pub(super) fn new() -> OwnWork {
        OwnWork {
            next: VecDeque::new(),
            left: A_TURN,
            turn: 0,
            moved: ByType::default(),
            dropped: Dropped::default(),
        }
    }

    /// Places for messages that wait.
    #[cfg(feature = "testing")]
    pub(super) fn places(&self) -> usize {
        self.next.capacity()
    }

    /// Messages that wait for the next turns.
    pub(super) fn len(&self) -> usize {
        self.next.len()
    }

    /// Whether a message may be done now: none is before it, and the turn has work left.
    fn may(&mut self, now: u64) -> bool {
        if now > self.turn {
            (self.turn, self.left) = (now, A_TURN);
        }
        self.left > 0 && self.next.is_empty()
    }
}

impl Lnet {
    /// A turn begins: goes on with messages to ourselves.
    #[inline]
    pub(super) fn own_turn<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) {
        if self.own_work.next.is_empty() {
            return;
        }
        (self.own_work.turn, self.own_work.left) = (cx.now, A_TURN);
        // Any LND will do: no connection is meant.
        let Some(lnd) = lnds.first_mut() else { return };
        while self.own_work.left > 0
            && let Some((message, verdict)) = self.own_work.next.pop_front()
        {
            self.own_do(cx, lnd, message, verdict);
        }
        trim(&mut self.own_work.next);
    }

    /// Does a message, or keeps it for the next turn.
    fn own_soon<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        message: OwnMessage,
        verdict: Option<Verdict>,
    ) {
        if self.own_work.may(cx.now) {
            self.own_do(cx, lnd, message, verdict);
        } else {
            self.own_work.next.push_back((message, verdict));
        }
    }

    fn own_do<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        message: OwnMessage,
        verdict: Option<Verdict>,
    ) {
        let hdr = &message.hdr;
        let verdict = verdict.unwrap_or_else(|| self.portals.find(hdr, hdr.src_nid, &self.aliases));
        self.own_verdict(cx, lnd, message, verdict);
    }

    /// Counts messages with so much payload in all, of which so much was copied.
    fn own_count(&mut self, cx: &mut Cx, messages: ByType, bytes: u64, copied: u32) {
        cx.counters.own_msgs += messages.all();
        cx.counters.own_bytes += bytes;
        self.own_work.moved += messages;
        self.own_work.left -= A_MESSAGE + i64::from(copied);
    }

    /// Answers a ping of ourselves.
    pub(crate) fn own_ping(&mut self, cx: &mut Cx, app: AppId, tag: u64) {
        self.own_count(cx, ANSWERED, self.ping_info.len(), 0);
        let info = PingInfo::parse(&self.ping_info.pieces().collect::<Vec<_>>().concat());
        let info = info.map_err(|_| LnetError::Malformed);
        self.ops.took(Timed::Ping, LO, 0);
        self.complete(app, Event::Ping { tag, info, rtt_ns: 0 });
    }

    /// Sends a PUT or GET to ourselves: it is done when this returns, unless it waits for a sink or for the next turn.
    pub(crate) fn own_message<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        hdr: LnetHdr,
        payload: Payload,
        done: TxDone,
    ) {
        self.own_soon(cx, lnd, OwnMessage { hdr, payload, done }, None);
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
                let mut one = ByType::default();
                one.count(&hdr.body);
                self.own_count(cx, one, payload.len(), 0);
                cx.counters.rx_dropped_bytes += payload.len();
                self.dropped(cx, (LO, None), why, &hdr);
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
            (Some(m), verdict) => self.own_soon(cx, lnd, m, Some(verdict)),
            // It has been failed meanwhile.
            (None, verdict) => self.own_give_back(cx, lnd, hdr, verdict),
        }
    }

    /// A message has been failed after this was granted.
    fn own_give_back<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, hdr: &LnetHdr, verdict: Verdict) {
        let why = Err(LnetError::ShuttingDown);
        match verdict {
            Verdict::Put(grant, sink) => self.put_done(cx, lnd, (&grant, hdr), sink, Data::Discarded, why),
            Verdict::Get(grant, _) => self.get_done(grant, why),
            Verdict::Wait(_) | Verdict::Drop(_) => {}
        }
    }

    /// Fails what waits.
    pub(crate) fn end_own_messages<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, why: LnetError) {
        while let Some((m, verdict)) = self.own_work.next.pop_front() {
            self.own_sent(cx, m.done, Err(why));
            if let Some(verdict) = verdict {
                self.own_give_back(cx, lnd, &m.hdr, verdict);
            }
        }
        for key in self.own.keys().collect::<Vec<_>>() {
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
        self.own_count(cx, ByType { put: 1, ..ByType::default() }, payload.len(), grant.mlength);
        let wants_ack = matches!(hdr.body, LnetBody::Put { ack, .. } if ack != WireHandle::NONE);
        let op = match done {
            TxDone::Op(op) if wants_ack && grant.ack => Some(op),
            _ => None,
        };
        self.put_done(cx, lnd, (&grant, hdr), sink.unwrap_or(Sink::Discard(0)), data, Ok(()));
        self.own_sent(cx, done, Ok(()));
        if let Some(op) = op {
            self.own_count(cx, ByType { ack: 1, ..ByType::default() }, 0, 0);
            let event = self.ops.acked(op, cx.now, Ok(()), grant.mlength);
            self.complete_some(event);
        }
    }

    fn own_get(&mut self, cx: &mut Cx, grant: GetGrant, source: &Payload, done: TxDone) {
        self.own_count(cx, ANSWERED, grant.mlength.into(), grant.mlength);
        if let TxDone::Op(op) = done
            && let Some(rec) = self.ops.get_mut(op)
            && let OpKind::Get { sink } = &mut rec.kind
            && let Some(sink) = sink.take()
        {
            let owner = Owner::App(rec.app);
            let dest = Dest::Sink { sink, offset: 0 };
            let (sink, data) = own_copy(cx, dest, grant.mlength, owner, source);
            let event = self.ops.reply(op, cx.now, Ok(()), grant.mlength, data, sink);
            self.complete_some(event);
        }
        self.get_done(grant, Ok(()));
    }

    /// The message has left, or will not.
    fn own_sent(&mut self, cx: &Cx, done: TxDone, status: Result<(), LnetError>) {
        match done {
            TxDone::Put { app, tag, ni, began } => self.put_left(cx, (app, tag), (ni, began), status),
            TxDone::Op(op) => {
                let event = self.ops.sent(op, cx.now, status);
                self.complete_some(event);
            }
            // No other node's comes here, and nothing that this node sends to itself is sent again.
            TxDone::Nothing | TxDone::Reply(_) | TxDone::Forward(_) | TxDone::Again(_) => {}
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
