//! Calls of LNDs on LNet.

use super::causes::Cause;
use super::peer::Peer;
use super::{Delivery, Lnet, Msg, TxDone};
use crate::lnd::budget::Uses;
use crate::lnd::{Arrived, Cx, Hold, Lnd, LnetError, Moved, NiId, Nobody, Pieces, Stored, Ticket, Upper};
use crate::lnet::ops::OpRec;
use crate::stream::Bucket;
use crate::stream::slab::Key;
use crate::wire::{LnetHdr, ProcessId};

impl Upper for Lnet {
    type Token = TxDone;
    type Delivery = Delivery;

    #[inline]
    fn parse<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived) {
        Lnet::parse(self, cx, lnd, msg);
    }

    fn part(&mut self, cx: &mut Cx, delivery: &mut Delivery, pieces: Pieces, hdr: &LnetHdr) {
        self.part_here(cx, delivery, pieces, hdr);
    }

    #[inline]
    fn deliver<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        peer: Option<Key>,
        delivery: Delivery,
        stored: Stored,
        hdr: &LnetHdr,
    ) {
        Lnet::deliver(self, cx, lnd, (peer, hdr), delivery, stored);
    }

    #[inline]
    fn read(&mut self, token: &TxDone) {
        self.hop_read(token);
    }

    #[inline]
    fn finalize(&mut self, cx: &mut Cx, peer: Key, uses: Uses, token: TxDone, status: Result<(), LnetError>) {
        if let Err(why) = status {
            self.died(cx, peer, why);
        }
        self.finish(cx, peer, uses, token, status);
    }

    fn unsent(&mut self, cx: &mut Cx, peer: Key, tx: Msg, why: LnetError) {
        // The port of an NI without a link is to blame, ours or the peer's, whose state says so. That a process does not speak for a NID
        // tells nothing of it: any pid may be named.
        let spared = self.peers.get(peer).is_some_and(|p| {
            let dead =
                self.nis.get(p.ni.index()).is_some_and(|n| n.health.fatal) || !self.health.of(p.id.nid).0;
            dead || p.id != ProcessId::lustre(p.id.nid)
        });
        self.not_sent(cx, peer, tx, why, Cause::unsent(why).filter(|_| !spared));
    }

    fn unheld(&mut self, cx: &mut Cx, peer: Key, ticket: Ticket, hdr: &LnetHdr) {
        Lnet::unheld(self, cx, peer, ticket, hdr);
    }

    fn overdue<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived, held: Hold) {
        match held {
            Hold::Buffer => self.left_behind(cx, lnd, msg),
            Hold::Sink => self.sink_overdue(cx, lnd, msg),
            _ => self.waited_enough(cx, lnd, msg),
        }
    }

    fn sender_went(&mut self, cx: &mut Cx, peer: Key, over: u64) {
        self.source_went(cx, peer, over);
    }

    fn peer_new(&mut self, ni: NiId, id: ProcessId, entry: Key, host: Key) -> Key {
        let figures = self.kept.take(ni, id);
        self.peers.insert(Peer::new(ni, id, entry, host, (&self.waiting, figures)))
    }

    fn peers(&self) -> usize {
        self.peers.len()
    }

    fn peer_connected(&mut self, cx: &mut Cx, peer: Key) {
        self.source_is_back(peer);
        self.came(cx, peer);
    }

    fn peer_lost(&mut self, cx: &mut Cx, peer: Key) {
        self.lost_sight(cx, peer);
    }

    fn peer_gone(&mut self, peer: Key, moved: &Moved) {
        self.undiscover(peer);
        if let Some(mut p) = self.peers.remove(peer) {
            self.guest_leaves(p.host, p.guest.as_deref_mut());
            self.keep_figures(p.ni, p.id, p.figures, moved);
        }
        self.timers.cancel(peer);
    }

    fn peer_came(&mut self, cx: &mut Cx, old: Key, entry: Key, host: Key) -> Key {
        self.take_in(cx, old, entry, host)
    }

    fn peer_unpays(&mut self, cx: &mut Cx, peer: Key) {
        let Some((host, uses)) = self.peers.get(peer).map(|p| (p.host, p.uses)) else { return };
        // Credits that it holds come home to another host: whoever waits for them here would not hear of it.
        while self.wake_one(cx, host) {}
        cx.budget.gave(host, uses);
        self.guest_unpays(host, peer);
    }

    fn peer_pays(&mut self, cx: &mut Cx, peer: Key, host: Key) {
        let Some(p) = self.peers.get_mut(peer) else { return };
        (p.host, p.listed_for_host) = (host, false);
        cx.budget.took(host, p.uses);
        self.kicks.push_back(peer);
    }

    #[inline]
    fn idle(&self, peer: Key) -> bool {
        self.peers
            .get(peer)
            .is_none_or(|p| p.waiting.is_empty() && p.uses.is_nothing() && !p.discovery.busy())
            && !self.delays_to(peer)
    }

    #[inline]
    fn waiting(&self, peer: Key) -> usize {
        self.peers.get(peer).map_or(0, Peer::waits)
    }

    #[inline]
    fn kick(&mut self, peer: Key) {
        self.kicks.push_back(peer);
    }

    fn stop<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L) {
        self.end_work(cx, lnd);
    }

    fn gone<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L) {
        if !cx.down {
            // Its NI was deleted, and the others go on.
            return;
        }
        self.end_work(cx, lnd);
        if let Some(ni) = self.nis.get_mut(lnd.ni().index()) {
            ni.gone = true;
        }
        // Entries stay while messages may come by another NI.
        if !self.nis.iter().all(|n| n.gone) {
            return;
        }
        for me in self.portals.attached() {
            if let Ok((event, waiters)) = self.portals.unlink(me) {
                self.complete_some(event);
                self.wake_waiters(cx, lnd, waiters);
            }
        }
    }

    fn concerns(&self, delivery: &Delivery) -> Result<Option<Bucket>, Nobody> {
        match delivery {
            Delivery::Nothing | Delivery::Push(_) => Err(Nobody),
            Delivery::Put(_) | Delivery::Forward(_) | Delivery::Cut(_) | Delivery::Elsewhere(_) => Ok(None),
            Delivery::Reply(op) => self.ops.get(*op).map(OpRec::bucket).ok_or(Nobody),
            Delivery::Object(object) => {
                let op = self.ops.by_object(*object).and_then(|op| self.ops.get(op));
                op.map(OpRec::bucket).ok_or(Nobody)
            }
        }
    }

    fn seal(&self, delivery: Delivery) -> Delivery {
        match delivery {
            Delivery::Reply(op) => self.ops.get(op).map_or(Delivery::Nothing, |r| Delivery::Object(r.object)),
            d => d,
        }
    }

    fn unseal(&self, delivery: Delivery) -> Delivery {
        match delivery {
            Delivery::Object(object) => self.ops.by_object(object).map_or(Delivery::Nothing, Delivery::Reply),
            d => d,
        }
    }

    fn renamed(&self, token: &mut TxDone) {
        if let Some(op) = token.op() {
            *op = self.new_name(*op);
        }
    }

    fn renamed_delivery(&self, delivery: &mut Delivery) {
        if let Delivery::Reply(op) = delivery {
            *op = self.new_name(*op);
        }
    }
}
