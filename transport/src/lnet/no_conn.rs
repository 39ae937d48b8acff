//! Messages of other nodes whose next hop has no connection: they do not hold their source's router buffers while it is dialled.
//!
//! A source may have so many router buffers (`peer_buffer_credits`). A dial to a node that is not there takes some seconds, so a few
//! messages for a few such nodes would hold up all that the source sends, checks of the router among it; and anybody can bring that about
//! who asks a server behind a router in the names of nodes that are not there. So such messages are counted beside the source's own.
//!
//! ```text
//!   home of the next hop     no connection:  Unmet ──> home of the source     connected: to the next hop, at once
//!   home of the source       room beside its buffers:           Beside ──┐
//!                            none, and time left to be held up: NoConn ──┤ to the next hop, which is dialled
//!                            neither:                           dropped, `drop_no_conn`
//! ```
//!
//! Beside a source's own buffers it may have half of those that are free, and of the bytes, of which messages for one NID may have a
//! quarter, or `peer_buffer_credits`. All that its host has may not be more than half of what is free of any class, either, and leaves room
//! for the source's own. So nothing is lost where a network starts, and many nodes are dialled at a time, or some do not answer at once.
//! A message that finds no room there has a buffer of the source's own, as at kernels, and the source is not read on when it has none left. That may
//! be so for 3 s in a minute (`beside.rs`), beside what `stuck.rs` waits for. After that such a message is dropped at once: those for nodes that
//! have a connection go on.
//!
//! A message asks once. Between shards it goes to its source's home and back, so about the time that a connection comes up one that was
//! sent behind it may overtake it, as messages on several connections do (docs/protocol/upper.md §1.2).

use super::beside::PART;
use super::forward::Stays;
use super::lease::{Charge, Lease};
use super::remote::Body;
use super::{Lnet, Msg, TxDone};
use crate::lnd::budget::Room;
use crate::lnd::{Cx, Lnd, NiId};
use crate::stream::slab::Key;
use crate::wire::ProcessId;

impl Lnet {
    /// Whether a message has to ask its source's home, since its next hop has no connection.
    #[inline]
    pub(super) fn must_ask<L: Lnd<Lnet>>(&self, lnd: &L, hop: Option<Key>, tx: &Msg) -> bool {
        let asks = matches!(&tx.done, TxDone::Forward(lease) if lease.seat.charge() == Charge::Own);
        asks && !hop.and_then(|hop| self.peers.get(hop)).is_some_and(|p| lnd.connected(p.entry))
    }

    /// Asks the home of a message's source what its buffer is to count as.
    #[cold]
    pub(super) fn ask_source<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        hop: (NiId, ProcessId),
        msg: Msg,
    ) {
        let TxDone::Forward(lease) = &msg.done else { return };
        let home = cx.homes.at(lease.bucket);
        if home == cx.cfg.shards.me {
            return self.asked_here(cx, lnds, hop, msg);
        }
        let mut boxed = self.spare.pop().unwrap_or_default();
        *boxed = Some(msg);
        self.post(home, Body::Unmet(hop.0, hop.1, boxed));
    }

    /// The next hop of a message, which came in a box, has no connection.
    #[cold]
    pub(super) fn unmet<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        hop: (NiId, ProcessId),
        mut boxed: Box<Option<Msg>>,
    ) {
        let msg = boxed.take();
        self.spare_box(Some(boxed));
        if let Some(msg) = msg {
            self.ask_source(cx, lnds, hop, msg);
        }
    }

    fn asked_here<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        (ni, via): (NiId, ProcessId),
        mut msg: Msg,
    ) {
        let TxDone::Forward(lease) = &mut msg.done else { return };
        cx.counters.forward_no_conn += 1;
        let Some(charge) = self.charge_unmet(cx, lnds, lease) else {
            let lease = *lease;
            return self.stays_here(cx, lease, Stays::NoConn);
        };
        lease.seat.set(charge);
        self.forward_via(cx, lnds, (ni, via), msg);
    }

    /// The account of such a message's buffer from now on; `None` where it is to be dropped.
    fn charge_unmet<L: Lnd<Lnet>>(&mut self, cx: &Cx, lnds: &[L], lease: &Lease) -> Option<Charge> {
        let (class, most) = (lease.class(), cx.cfg.peer_router_credits());
        let free = self.buffers.free(cx, class);
        // Its host is to have room for the source's own, too, of all classes: what it holds is counted together.
        let least = self.buffers.least_free();
        let buffers = (least / PART).min(least.saturating_sub(most.saturating_mul(2)));
        let part = Room { buffers, bytes: free.bytes / u64::from(PART) };
        // That of a peer that is forgotten went with it.
        let key = self.guest_of(lnds, lease);
        let Some(p) = key.and_then(|key| self.peers.get_mut(key)) else { return Some(Charge::NoConn) };
        let (host, Some(guest)) = (p.host, p.guest.as_mut()) else { return Some(Charge::NoConn) };
        let others = cx.budget.must_wait_for_buffers(host, part, most, lease.len);
        if guest.no_conn.has_room(lease, free, most) && !others {
            guest.set_beside(lease);
            let waits = guest.waiting.iter().any(|w| !w.is_empty());
            if let Some(key) = key.filter(|_| waits) {
                self.stand_in_line(key);
                self.buffers.moved = true;
            }
            return Some(Charge::Beside);
        }
        guest.no_conn.has_time(cx.now).then(|| {
            guest.no_conn.take_own(class.group());
            Charge::NoConn
        })
    }
}
