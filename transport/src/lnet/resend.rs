//! Messages that have not left, and go by another pair of NIDs (docs/protocol/upper.md §3).
//!
//! A message is sent again only if none of it has left: what is on a stream may have arrived. It goes at once, at most
//! `lnet_retry_count` times and before its deadline, under the handle that it has, from and to the NIDs of its new pair. Answers
//! are not, nor is what the node itself asks of a NID: those have no other pair. What goes by a gateway is not either: to that, it
//! would be another message. But what waited until the node behind a gateway was known, and cannot be by that one, goes by another.
//! A peer of one NID has another pair where the own NI was deleted and another one leads there.

use super::causes::Cause;
use super::hop::Hop;
use super::remote::{Body, Resent};
use super::{Lnet, Msg, TxDone};
use crate::lnd::{AppId, Cx, Lnd, LnetError, NiId};
use crate::stream::slab::Key;
use crate::wire::{Nid, ProcessId};

/// Gateways behind which a message waits until its node is known, one after the other.
const WAITS: u8 = 16;

/// A message that looks for another pair.
#[derive(Debug)]
pub(super) struct Unsent {
    tx: Box<Msg>,
    /// The pair that failed.
    ni: NiId,
    nid: Nid,
    pid: ProcessId,
    why: LnetError,
}

impl TxDone {
    /// The operation that waits for an answer, if it is one's.
    pub(super) fn op(&mut self) -> Option<&mut Key> {
        match self {
            TxDone::Op(op) => Some(op),
            TxDone::Again(done) => done.op(),
            _ => None,
        }
    }

    fn op_key(&self) -> Option<Key> {
        match self {
            TxDone::Op(op) => Some(*op),
            TxDone::Again(done) => done.op_key(),
            _ => None,
        }
    }

    /// Time at which a PUT without ACK was taken up, in ns, and whose it is.
    fn put(&self) -> Option<(AppId, u64)> {
        match self {
            TxDone::Put { app, began, .. } => Some((*app, *began)),
            TxDone::Again(done) => done.put(),
            _ => None,
        }
    }
}

impl Lnet {
    /// A message to a peer has not left, for that cause, or since its LND was told to give it back: it is sent again, or has ended.
    #[cold]
    pub(super) fn not_sent(
        &mut self,
        cx: &mut Cx,
        peer: Key,
        mut tx: Msg,
        why: LnetError,
        cause: Option<Cause>,
    ) {
        let Some((ni, id)) = self.peers.get(peer).map(|p| (p.ni, p.id)) else {
            return self.end(cx, peer, tx, Err(why));
        };
        if let Some(cause) = cause {
            self.charge(cx, (ni, id.nid), cause);
        }
        if !self.may_go_again(cx, &tx, (ni, id.nid)) {
            return self.end(cx, peer, tx, Err(why));
        }
        // Its credits are the failed pair's.
        let uses = tx.uses();
        tx.credit = false;
        if uses.credits > 0 {
            self.take_back(cx, peer, uses);
        }
        // Nobody asks for those alone: something else is to be settled, and then they are.
        self.kicks.push_back(Key::NOWHERE);
        self.unsent.push_back(Unsent { tx: Box::new(tx), ni, nid: id.nid, pid: id, why });
    }

    /// A message fails by a rule: if that is a cause for which one is sent again, it may be.
    pub(super) fn failed(&mut self, cx: &mut Cx, peer: Key, tx: Msg, why: LnetError, cause: Cause) {
        if cause.may_resend() {
            return self.not_sent(cx, peer, tx, why, Some(cause));
        }
        if let Some(p) = self.peers.get(peer) {
            self.charge(cx, (p.ni, p.id.nid), cause);
        }
        self.end(cx, peer, tx, Err(why));
    }

    /// The NI that a message to a peer of one NID leaves by in the place of one that was deleted.
    fn in_place_of(&self, ni: NiId, nid: Nid) -> Option<NiId> {
        self.nis.get(ni.index()).filter(|n| n.gone)?;
        self.ni_for(nid)
    }

    fn may_go_again(&self, cx: &Cx, tx: &Msg, (ni, nid): (NiId, Nid)) -> bool {
        // One for a node behind routers has the routes, which its next one takes.
        if cx.down || tx.answer || tx.routed || u32::from(tx.retries) >= cx.cfg.retry_count {
            return false;
        }
        if self.aliases.nids(nid).is_none() && (tx.pinned || self.in_place_of(ni, nid).is_none()) {
            return false;
        }
        self.has_time(cx, tx)
    }

    /// Whether a message is an application's whose time is not over.
    fn has_time(&self, cx: &Cx, tx: &Msg) -> bool {
        let (app, deadline) = match (tx.done.op_key(), tx.done.put()) {
            (Some(op), _) => match self.ops.get(op) {
                Some(rec) => (rec.app, rec.deadline),
                None => return false,
            },
            (None, Some((app, began))) => (app, began + cx.cfg.transaction_timeout),
            (None, None) => return false,
        };
        app != AppId::NODE && cx.now < deadline
    }

    /// A message for a node behind the gateway `via`, which could not be asked who it is, goes by another gateway, or by the same one where
    /// that is up.
    pub(super) fn by_another_gateway(
        &mut self,
        cx: &mut Cx,
        (ni, via): (NiId, ProcessId),
        tx: Msg,
        why: LnetError,
    ) {
        if cx.down || tx.retries >= WAITS || !self.has_time(cx, &tx) {
            return self.end(cx, Key::NOWHERE, tx, Err(why));
        }
        self.kicks.push_back(Key::NOWHERE);
        self.unsent.push_back(Unsent { tx: Box::new(tx), ni, nid: via.nid, pid: via, why });
    }

    /// The gateway for a message that does not go by the one with that NID.
    fn gateway_in_place_of(&mut self, tx: &Msg, nid: Nid) -> Option<Hop> {
        let hdr = tx.hdr.as_ref()?;
        let may = |_, own| !tx.pinned || own == hdr.src_nid;
        let other = self.gateway_to(hdr.dest_nid, Some(nid), may);
        let (ni, via) = other.or_else(|| self.gateway_to(hdr.dest_nid, None, may))?;
        Some(Hop { ni, via, known: None, rail: false, only: false })
    }

    /// Operations whose requests look for another pair.
    pub(super) fn unsent_ops(&self) -> impl Iterator<Item = Key> + '_ {
        self.unsent.iter().filter_map(|u| u.tx.done.op_key())
    }

    /// Goes on with one message that has not left; gives whether there was one.
    pub(super) fn go_again<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) -> bool {
        let Some(Unsent { mut tx, ni, nid, pid, why }) = self.unsent.pop_front() else { return false };
        let from = tx.pinned.then_some(ni);
        let target = if tx.free { ProcessId { nid: self.aliases.primary(nid), ..pid } } else { pid };
        let mut hop = match tx.routed {
            _ if cx.down => None,
            true => self.gateway_in_place_of(&tx, nid),
            false => self.rail_to(cx, lnds, target, from, Some((ni, nid))),
        };
        if hop.is_none() && !cx.down && !tx.pinned && !tx.routed {
            let other = self.in_place_of(ni, target.nid);
            hop = other.map(|ni| Hop { ni, via: target, known: None, rail: false, only: true });
        }
        let Some(hop) = hop else {
            self.end(cx, Key::NOWHERE, *tx, Err(why));
            return true;
        };
        if let Some(hdr) = &mut tx.hdr {
            hdr.src_nid = self.nid_of(hop.ni);
            if !tx.routed {
                hdr.dest_nid = hop.via.nid;
            }
        }
        // An ACK that rode on it has gone with its set.
        (tx.cookie0, tx.cookie1, tx.deadline, tx.passed) = (0, 0, u64::MAX, false);
        tx.retries = tx.retries.saturating_add(1);
        // One that has only waited is sent for the first time.
        if !tx.routed {
            if !matches!(tx.done, TxDone::Again(_)) {
                tx.done = TxDone::Again(Box::new(std::mem::take(&mut tx.done)));
            }
            cx.counters.resend_count += 1;
        }
        let home = hop.home(cx);
        if home == cx.cfg.shards.me {
            if let Some(rec) = tx.done.op_key().and_then(|op| self.ops.get_mut(op)) {
                rec.goes_by(hop.ni, hop.via.nid, tx.routed);
            }
            self.launch_again(cx, lnds, *tx, hop, why);
        } else {
            let rec = tx.done.op_key().and_then(|op| self.ops.give(op));
            let hop = Hop { known: None, ..hop };
            self.post(home, Body::Resent(Box::new(Resent { tx: *tx, rec, hop, why })));
        }
        true
    }

    /// A message that another shard could not send.
    pub(super) fn resent<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], resent: Resent) {
        let Resent { mut tx, rec, hop, why } = resent;
        let home = hop.home(cx);
        if home != cx.cfg.shards.me {
            return self.post(home, Body::Resent(Box::new(Resent { tx, rec, hop, why })));
        }
        if let Some(op) = tx.done.op() {
            let Some(mut rec) = rec else { return };
            rec.goes_by(hop.ni, hop.via.nid, tx.routed);
            *op = self.ops.put(cx.now, rec);
        }
        self.launch_again(cx, lnds, tx, hop, why);
    }

    fn launch_again<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        mut tx: Msg,
        hop: Hop,
        why: LnetError,
    ) {
        let peer = match lnds.get_mut(hop.ni.index()) {
            Some(lnd) if !cx.down => self.target_peer(cx, lnd, hop.via, hop.known).ok(),
            _ => None,
        };
        match (peer, lnds.get_mut(hop.ni.index())) {
            (Some(peer), Some(lnd)) => self.launch(cx, lnd, peer, &mut tx),
            _ => self.end(cx, Key::NOWHERE, tx, Err(why)),
        }
    }
}
