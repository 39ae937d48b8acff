//! ACKs and REPLYs (docs/protocol/lnet.md §5, §6).

use super::command::header;
use super::drops::From;
use super::remote::Body;
use super::{GetGrant, Lnet, Msg, TxDone};
use crate::lnd::budget::NOBODY;
use crate::lnd::{Cx, Lnd, LnetError, Payload};
use crate::stream::slab::Key;
use crate::wire::{LnetBody, LnetHdr, ProcessId, WireHandle, lnet};

impl Lnet {
    /// Answers the request `to`, which `peer` delivered. The answer goes to its source, on connections of that one's
    /// own if it is another (lnet.md §5). Part of its callers: an ACK's has no payload to be moved.
    #[inline]
    fn answer<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        (peer, to): (Key, &LnetHdr),
        body: LnetBody,
        payload: Payload,
        done: TxDone,
    ) {
        let target = ProcessId { nid: to.src_nid, pid: to.src_pid };
        let len = u32::try_from(payload.len()).unwrap_or(lnet::MTU);
        let by = self.peers.get(peer).map(|p| p.id);
        let mut tx = Msg::lnet(header(cx, to.dest_nid, target, len, body), payload, done);
        if target.nid.same_net(to.dest_nid) {
            return if by == Some(target) {
                self.launch_answer(cx, lnd, peer, &mut tx)
            } else {
                self.answer_elsewhere(cx, lnd, target, Box::new(tx))
            };
        }
        // The gateway that delivered the request takes the answer, as with kernels; one that is none, is down, or is said to be the source
        // itself by a NID of another network, does not.
        let net = target.nid.net();
        if let Some(id) = by
            && self.routes.get(net, id.nid).is_some_and(|r| r.takes(target.nid))
        {
            return self.launch_answer(cx, lnd, peer, &mut tx);
        }
        match self.gateway_to(target.nid, None, |ni, _| ni == lnd.ni()) {
            Some((_, via)) => self.answer_elsewhere(cx, lnd, via, Box::new(tx)),
            // Not even by the connection that it came on: kernels find no route (lnet.md §5).
            None => self.no_way_back(cx, (lnd.ni(), Some(peer)), tx),
        }
    }

    /// Sends an answer to a source that did not deliver its request itself: such a source may be anybody's invention. Or to a gateway
    /// that leads there, which is ours.
    pub(super) fn answer_elsewhere<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        target: ProcessId,
        mut tx: Box<Msg>,
    ) {
        let home = target.nid.ip().map(|ip| cx.homes.of(ip));
        if let Some(home) = home.filter(|h| *h != cx.cfg.shards.me) {
            return self.post(home, Body::Answered(lnd.ni(), target, tx));
        }
        let peer = match lnd.find(target) {
            _ if !self.reaches(lnd.ni(), target.nid) => None,
            None if self.is_own(target.nid) => None,
            None if !self.routes.is_gateway(target.nid) => self.named_peer(cx, lnd, target, NOBODY).ok(),
            known => self.target_peer(cx, lnd, target, known).ok(),
        };
        if let Some(peer) = peer
            && let Some(p) = self.peers.get(peer)
        {
            if !cx.budget.over(p.host) {
                return self.launch_answer(cx, lnd, peer, &mut tx);
            }
            let entry = p.entry;
            lnd.forget_if_idle(self, cx, entry);
        }
        self.no_way_back(cx, (lnd.ni(), None), *tx);
    }

    /// Drops an answer: it counts at the NI that its request came by, and at the peer that delivered that, where it is known here.
    #[cold]
    fn no_way_back(&mut self, cx: &mut Cx, from: From, tx: Msg) {
        cx.counters.drop_no_way_back += 1;
        if let Some(hdr) = &tx.hdr {
            self.drop_counted(from, hdr);
        }
        if let TxDone::Reply(grant) = tx.done {
            self.return_get(cx, grant, Err(LnetError::Unreachable));
        }
    }

    fn launch_answer<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, peer: Key, tx: &mut Msg) {
        tx.answer = true;
        self.launch(cx, lnd, peer, tx);
    }

    /// Tells the initiator of a PUT that it was stored.
    pub(super) fn send_ack<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        (peer, hdr): (Key, &LnetHdr),
        mlength: u32,
    ) {
        let LnetBody::Put { ack, match_bits, .. } = hdr.body else { return };
        let body = LnetBody::Ack { handle: ack, match_bits, mlength };
        self.answer(cx, lnd, (peer, hdr), body, Payload::empty(), TxDone::Nothing);
    }

    pub(super) fn send_reply<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        (peer, hdr): (Key, &LnetHdr),
        grant: GetGrant,
        payload: Payload,
    ) {
        let LnetBody::Get { handle, .. } = hdr.body else { return };
        let body = LnetBody::Reply { handle };
        self.answer(cx, lnd, (peer, hdr), body, payload, TxDone::Reply(grant));
    }

    /// Tells the initiator of a push that it was taken.
    pub(super) fn send_push_ack<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        peer: Key,
        hdr: &LnetHdr,
        mlength: u32,
    ) {
        let LnetBody::Put { ack, match_bits, .. } = hdr.body else { return };
        if ack != WireHandle::NONE {
            let body = LnetBody::Ack { handle: ack, match_bits, mlength };
            self.answer(cx, lnd, (peer, hdr), body, Payload::empty(), TxDone::Nothing);
        }
    }

    /// Answers a ping with as much of our info as is asked for (lnet.md §6.1).
    pub(super) fn pong<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        peer: Key,
        hdr: &LnetHdr,
        handle: WireHandle,
        (offset, sink): (u32, u32),
    ) {
        if u64::from(offset) > self.ping_info.len() {
            cx.counters.drop_bad_offset += 1;
            self.drop_counted((lnd.ni(), Some(peer)), hdr);
            return;
        }
        let payload = self.ping_info.slice(offset, sink);
        self.answer(cx, lnd, (peer, hdr), LnetBody::Reply { handle }, payload, TxDone::Nothing);
    }
}
