//! A message on its way through this node: from a peer on one of its networks to the next hop on another
//! (docs/protocol/upper.md §1.1, §1.2).
//!
//! ```text
//!   parse     the NI is not the destination's: a way on, and a router buffer (buffers.rs), or dropped, or held
//!   recv      the whole payload, in the receive buffers it comes in       the LND acknowledges it towards its sender
//!   deliver   header and payload as they came, in line for their way
//!   settle    the next hop (hop.rs), at its peer's home ── Forwarded ──> perhaps on another shard
//!             it has no connection (no_conn.rs)         <──── Unmet ──── the buffer counts otherwise from then on, or it is dropped
//!   launch    credits, queues and cookies as for any message              another NI's LND, in its own version
//!   finalize  the next hop has it, or will not ── Returned ──> the buffer goes home
//! ```
//!
//! Nothing is kept of a GET: its REPLY finds its way by its own destination. Messages that are passed on share the NI's
//! credits as answers do, and the entries for peers as those whom strangers name: anybody may name anybody.

use super::drops::From;
use super::hop::{Hop, Way};
use super::lease::{Lease, Returned};
use super::remote::Body;
use super::stuck::PATIENCE;
use super::{Delivery, Lnet, Msg, TxDone};
use crate::lnd::budget::NOBODY;
use crate::lnd::{
    Arrived, Cx, Data, Dest, Hold, Lnd, LnetError, NiId, Owner, Payload, Pieces, Placement, RxPiece, Sink,
    Stored,
};
use crate::stream::INLINE_PAYLOAD_MAX;
use crate::stream::slab::Key;
use crate::wire::{LnetHdr, Nid, ProcessId};

/// Reason why a message is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stays {
    /// This node does not route, or the message is from nobody.
    NotForUs,
    /// No NI leads there, and no route that is up.
    NoRoute,
    /// It would go back to where it came from: the network, or the node.
    Loop,
    /// Its target takes nothing, and one is on its way to it.
    Stuck,
    /// Its next hop has no connection, and its source has more such messages than it may.
    NoConn,
    /// Its sender has gone, and it had no router buffer in a time-out.
    LeftBehind,
}

/// Payload from which a message may leave before it is whole, in bytes: what is shorter comes in one or two parts.
const CUT_FROM: u32 = 32 << 10;
/// Bytes of a part, or more: each costs a loan of its own.
const CUT_PART: u32 = 16 << 10;
/// Boxes kept for messages that go to another shard.
const SPARE: usize = 256;

/// Work on messages that are passed on, in the order in which it came up.
#[derive(Debug)]
pub(crate) enum Passing {
    /// One whose payload is here, to be sent on.
    Whole(Lease, LnetHdr, Payload),
    /// One that is not whole, by its name: parts of its payload follow (cut.rs).
    Begins(u64, Lease, LnetHdr),
    /// A part.
    Part(u64, Pieces),
    /// The last part, or none, and it is not whole.
    Ends(u64, Option<Pieces>),
}

/// A message of another node's as it is passed on.
pub(super) fn passed(hdr: &LnetHdr, payload: Payload, lease: Lease) -> Msg {
    let msg = Msg::lnet(*hdr, payload, TxDone::Forward(lease));
    Msg { strange: true, passed: true, forwarded: true, ..msg }
}

/// Bytes of a payload that were copied since receive buffers were not lent: those that ride in a header always are.
fn copied(pieces: &Pieces) -> u64 {
    let len = |p: &RxPiece| p.bytes().len();
    if pieces.iter().map(len).sum::<usize>() <= INLINE_PAYLOAD_MAX { 0 } else { pieces.copied() }
}

/// Whether a message of `src` that came by our NID `from` may leave by `to`: neither back, nor to the network that it began on.
fn goes_on(from: Nid, to: Nid, src: Nid) -> bool {
    !to.same_net(from) && !to.same_net(src)
}

/// Counts why a message is not passed on.
#[cold]
fn count_stay(cx: &mut Cx, why: Stays) {
    *match why {
        Stays::NotForUs => &mut cx.counters.drop_not_for_us,
        Stays::NoRoute => &mut cx.counters.drop_no_route,
        Stays::Loop => &mut cx.counters.drop_route_loop,
        Stays::Stuck => &mut cx.counters.drop_stuck,
        Stays::NoConn => &mut cx.counters.drop_no_conn,
        Stays::LeftBehind => &mut cx.counters.drop_left_behind,
    } += 1;
}

impl Lnet {
    /// A message for another node.
    pub(super) fn forward<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived) {
        let from = lnd.ni();
        let to = match self.may_pass(cx, (from, msg.sender), &msg.hdr) {
            Ok(to) => to,
            Err(why) => {
                self.stays(cx, (from, Some(msg.peer)), why, &msg.hdr);
                return lnd.skip(self, cx, msg.key);
            }
        };
        let Some(lease) = self.lease(cx, lnd, msg, to) else {
            // Behind the one message that such a node has nobody waits, as far as it is known here.
            return match self.stuck.has(msg.hdr.dest_nid, cx.now) {
                true => self.waits_no_more(cx, lnd, msg, Stays::Stuck),
                false if msg.over <= cx.now => self.left_behind(cx, lnd, msg),
                false => lnd.hold(self, cx, msg.key, Hold::Buffer),
            };
        };
        let len = lease.len;
        let sum = msg.sum.as_ref().filter(|_| len > 0).cloned();
        let dest = Dest::Sink { sink: Sink::Lend(len), offset: 0 };
        let placement = Placement::new(dest, len, Owner::Router.into(), sum);
        let placement = (len > 0).then_some(placement);
        if len >= CUT_FROM && cx.cfg.routing.cut_through && self.may_cut(cx, msg) {
            lnd.in_parts(msg.key, CUT_PART);
        }
        lnd.recv(self, cx, msg.key, &mut { placement }, Delivery::Forward(lease), len);
    }

    /// Drops a message that waits for a router buffer: what its sender left is over.
    #[cold]
    pub(super) fn left_behind<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived) {
        self.waits_no_more(cx, lnd, msg, Stays::LeftBehind);
    }

    /// Drops a message that has its place in a line.
    #[cold]
    fn waits_no_more<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived, why: Stays) {
        if let Some(ticket) = lnd.ticket(msg.key) {
            self.leave_line(msg.peer, &ticket);
        }
        self.stays(cx, (lnd.ni(), Some(msg.peer)), why, &msg.hdr);
        lnd.skip(self, cx, msg.key);
    }

    /// Whether a message that came by `from`, and from `sender`, is passed on, as far as its header tells, and to which of our
    /// networks.
    fn may_pass(&self, cx: &Cx, (from, sender): (NiId, Nid), hdr: &LnetHdr) -> Result<Nid, Stays> {
        if !self.routing.forwards() || hdr.src_nid.is_any() || cx.down {
            return Err(Stays::NotForUs);
        }
        if self.is_own(hdr.src_nid) {
            return Err(Stays::Loop);
        }
        let goes = |to: Nid| goes_on(self.nid_of(from), to, hdr.src_nid);
        let by =
            |hop: Nid| self.nis.iter().filter(move |n| !n.gone && n.reaches(hop)).map(move |n| (hop, n.nid));
        let behind = self.routes.takers(hdr.dest_nid).flat_map(by);
        let mut ways = by(hdr.dest_nid).chain(behind).peekable();
        if ways.peek().is_none() {
            return Err(Stays::NoRoute);
        }
        // A message ends at its destination, whoever that is.
        let back = |hop: Nid| hop != hdr.dest_nid && self.aliases.are_one(hop, sender);
        ways.find(|(hop, to)| goes(*to) && !back(*hop)).map(|(_, to)| to).ok_or(Stays::Loop)
    }

    /// Counts a message that is not passed on.
    #[cold]
    fn stays(&mut self, cx: &mut Cx, from: From, why: Stays, hdr: &LnetHdr) {
        count_stay(cx, why);
        self.drop_counted(from, hdr);
    }

    /// The same of one that has a router buffer, which goes home.
    #[cold]
    pub(super) fn stays_here(&mut self, cx: &mut Cx, lease: Lease, why: Stays) {
        count_stay(cx, why);
        self.homeward.push_back(Returned { lease, dropped: true });
    }

    /// The message has come whole, or will not.
    pub(super) fn forward_here(&mut self, cx: &mut Cx, lease: Lease, stored: Stored, hdr: &LnetHdr) {
        let payload = match (stored.status, stored.data) {
            (Err(_), _) => return self.homeward.push_back(lease.into()),
            (Ok(()), Data::Lent(pieces)) => {
                cx.counters.forward_copied_bytes += copied(&pieces);
                Payload::forwarded(pieces)
            }
            (Ok(()), _) => Payload::empty(),
        };
        cx.counters.forward_rx_msgs += 1;
        cx.counters.forward_rx_bytes += u64::from(lease.len);
        self.passing.push_back(Passing::Whole(lease, *hdr, payload));
    }

    /// The next hop did not take the message.
    pub(super) fn not_taken(&mut self, cx: &mut Cx, lease: Lease) {
        cx.counters.drop_next_hop += 1;
        self.stuck.ended(lease.to.nid);
        self.homeward.push_back(Returned { lease, dropped: true });
    }

    /// Whether [`Lnet::passes_on`] has something to do.
    #[inline]
    pub(super) fn has_to_pass(&self) -> bool {
        !self.passing.is_empty() || !self.homeward.is_empty() || self.buffers.moved
    }

    /// Goes on with one message, or takes one buffer home; gives whether there was one.
    #[cold]
    pub(super) fn passes_on<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) -> bool {
        if let Some(home) = self.homeward.pop_front() {
            self.returned(cx, lnds, home);
        } else if let Some(passing) = self.passing.pop_front() {
            match passing {
                Passing::Whole(lease, hdr, payload) => self.pass_to_next(cx, lnds, lease, &hdr, payload),
                Passing::Begins(cut, lease, hdr) => self.cut_begins(cx, lnds, cut, lease, &hdr),
                Passing::Part(cut, pieces) => self.cut_goes_on(cx, lnds, cut, pieces),
                Passing::Ends(cut, last) => self.cut_is_over(cx, lnds, cut, last),
            }
        } else if std::mem::take(&mut self.buffers.moved) {
            self.look_at_moved(cx, lnds);
        } else {
            return false;
        }
        true
    }

    /// A buffer goes home, to whichever shard the peer lives on by now.
    pub(super) fn returned<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], back: Returned) {
        let home = cx.homes.at(back.lease.bucket);
        if home == cx.cfg.shards.me {
            self.buffer_home(cx, lnds, back);
        } else {
            let boxed = self.spare.pop();
            self.post(home, Body::Returned(back, boxed));
        }
    }

    /// Sends a message to its next hop, if there is one.
    fn pass_to_next<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        lease: Lease,
        hdr: &LnetHdr,
        payload: Payload,
    ) {
        if let Some(hop) = self.next_hop(cx, lnds, lease, hdr) {
            self.forward_by(cx, lnds, hop, passed(hdr, payload, lease));
        }
    }

    /// The next hop of a message; where there is none it is counted, and its buffer goes home.
    pub(super) fn next_hop<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        lease: Lease,
        hdr: &LnetHdr,
    ) -> Option<Hop> {
        let target = ProcessId { nid: hdr.dest_nid, pid: hdr.dest_pid };
        let (from, src) = (self.nid_of(lease.ni), hdr.src_nid);
        let recent = self.recent_hop(lease.ni, target);
        if let Some(hop) = recent.filter(|h| goes_on(from, self.nid_of(h.ni), src)) {
            return Some(hop);
        }
        let why = match self.way_on(lnds, target, lease.peer.nid, |to| goes_on(from, to, src)) {
            Ok(Way::Peer(hop)) if goes_on(from, self.nid_of(hop.ni), src) => return Some(hop),
            Ok(_) => Stays::Loop,
            Err(_) => Stays::NoRoute,
        };
        self.stays_here(cx, lease, why);
        None
    }

    /// The next hop of the message before that came by that NI, where this one is for it, too: no table is asked.
    #[inline]
    fn recent_hop(&self, from: NiId, target: ProcessId) -> Option<Hop> {
        let key = self.recent_hops.get(from.index()).copied().flatten()?;
        let p = self.peers.get(key).filter(|p| p.id == target)?;
        let there = self.nis.get(p.ni.index()).is_some_and(|n| !n.gone);
        let direct = there && !self.routes.lead_to(target.nid.net());
        direct.then_some(Hop { ni: p.ni, via: target, known: Some(key), rail: false, only: true })
    }

    /// Sends a message to its next hop, at the home of that.
    pub(super) fn forward_by<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], hop: Hop, msg: Msg) {
        let home = hop.home(cx);
        if home == cx.cfg.shards.me {
            return self.forwarded(cx, lnds, (hop.ni, hop.via), hop.known, msg);
        }
        let mut spare = self.spare.pop().unwrap_or_default();
        *spare = Some(msg);
        self.post(home, Body::Forwarded(hop.ni, hop.via, spare));
    }

    /// The same by the name of the next hop.
    pub(super) fn forward_via<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        hop: (NiId, ProcessId),
        msg: Msg,
    ) {
        let hop = Hop { ni: hop.0, via: hop.1, known: None, rail: false, only: true };
        self.forward_by(cx, lnds, hop, msg);
    }

    /// A message has come to the home of its next hop, in a box.
    pub(super) fn forwarded_here<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        (ni, via): (NiId, ProcessId),
        mut boxed: Box<Option<Msg>>,
    ) {
        let home = via.nid.ip().map_or(cx.cfg.shards.me, |ip| cx.homes.of(ip));
        if home != cx.cfg.shards.me {
            return self.post(home, Body::Forwarded(ni, via, boxed));
        }
        let msg = boxed.take();
        self.spare_box(Some(boxed));
        if let Some(msg) = msg {
            self.forwarded(cx, lnds, (ni, via), None, msg);
        }
    }

    /// Keeps a box for the next message that goes to another shard.
    pub(super) fn spare_box(&mut self, boxed: Option<Box<Option<Msg>>>) {
        if self.spare.len() < SPARE {
            self.spare.extend(boxed);
        }
    }

    /// Sends a message to its next hop, whose home this is.
    fn forwarded<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        (ni, via): (NiId, ProcessId),
        known: Option<Key>,
        mut msg: Msg,
    ) {
        let Some(lnd) = lnds.get_mut(ni.index()).filter(|_| !cx.down) else {
            return self.unforwarded(cx, msg.done);
        };
        let found = known.or_else(|| lnd.find(via));
        if self.must_ask(lnd, found, &msg) {
            return self.ask_source(cx, lnds, (ni, via), msg);
        }
        if let TxDone::Forward(lease) = msg.done
            && let Some(hdr) = &msg.hdr
            && !self.stuck.is_empty()
            && !self.stuck.admits(hdr.dest_nid, cx.now)
        {
            return self.stays_here(cx, lease, Stays::Stuck);
        }
        // Wherever it waits from here on, for credits, for a connection, on one: it does not leave after that.
        msg.deadline = cx.now + cx.cfg.timeout();
        if let TxDone::Forward(lease) = &msg.done {
            msg.deadline = msg.deadline.min(lease.over.max(cx.now + PATIENCE));
        }
        if known.is_none()
            && let TxDone::Forward(lease) = &msg.done
            && let Some(recent) = self.recent_hops.get_mut(lease.ni.index())
        {
            *recent = found;
        }
        let peer = match found {
            None if !self.routes.is_gateway(via.nid) => self.named_peer(cx, lnd, via, NOBODY),
            known => self.target_peer(cx, lnd, via, known),
        };
        match peer {
            Ok(peer) => self.launch(cx, lnd, peer, &mut msg),
            Err(_) => self.unforwarded(cx, msg.done),
        }
    }

    fn unforwarded(&mut self, cx: &mut Cx, done: TxDone) {
        if let TxDone::Forward(lease) = done {
            self.not_taken(cx, lease);
        }
    }

    /// The next hop has the message, or will not.
    pub(super) fn forward_done(
        &mut self,
        cx: &mut Cx,
        hop: Key,
        lease: Lease,
        status: Result<(), LnetError>,
    ) {
        match status {
            Ok(()) => {
                self.hop_took(cx, hop, &lease);
                self.homeward.push_back(lease.into());
            }
            Err(_) => {
                self.stuck.took_none(lease.to.nid);
                self.not_taken(cx, lease);
            }
        }
    }
}
