//! Nodes that take nothing, and the sources of a router that wait for them.
//!
//! A source may have so many router buffers (`peer_buffer_credits`). Where all of them have messages for a node that does not take them,
//! nothing more of that source goes on, whoever it is for; and anybody can bring that about who asks a server behind a router for what he
//! does not read. So a source is relieved of messages for nodes that take nothing.
//!
//! ```text
//!   home of the source      no buffer left, more to send, none home for PATIENCE: whom are its messages for?
//!                                            | Stuck: to all shards
//!                                            v
//!   home of the next hop    messages are here for it, and it took none, and no byte, for PATIENCE?
//!                             yes: they are dropped; the node's connections end where it is the next hop itself
//!                             no: nothing
//! ```
//!
//! So only what is whole, or leaves already (`cut.rs`, whose pace keeps the sender), says that a node takes nothing: the next hop's
//! home has nothing else. A message whose payload does not come is its sender's stall; it holds that one's buffer and marks nobody. The time
//! counts from when the first message came there, or from the last one or the last byte that the node took since. Messages that go
//! with their headers are TCP's at once, and say nothing.
//!
//! From then on, for [`TERM`] at most, one message at a time may be on its way to the node; others are dropped (`drop_stuck`), so no source
//! fills up with them again. With the first one that it reads it is as good as others, and nothing is remembered: its zero-copy ACK says
//! so, and in versions 1 and 2 TCP. Bytes alone are not enough: one that acknowledges no message would have all buffers again each time it
//! connects. What TCP alone has taken of one that could have said more (a message below `zc_min_payload`, or before its connections are all
//! up) forgives the first time in a term; after that [`ROW`] in a row do. Where no source waits nothing is dropped before its time-out, as
//! at kernels.
//!
//! Messages for a next hop that has no connection hold no such buffers, as far as there is room beside them (`no_conn.rs`).
//!
//! So is one relieved that has gone, and left more than there are buffers for, when half a time-out has passed, whosever messages hold the
//! buffers. What it left for others follows then; what has not found a buffer when the time-out is over is dropped (`drop_left_behind`).

use std::collections::{HashMap, HashSet};

use super::class::{BufferClass, GROUPS};
use super::guest::Guest;
use super::lease::Lease;
use super::remote::Body;
use super::{Lnet, TxDone};
use crate::hash::PeerMap;
use crate::lnd::config::SEC;
use crate::lnd::{Cx, Lnd};
use crate::stream::INLINE_PAYLOAD_MAX;
use crate::stream::slab::Key;
use crate::wire::{Nid, ProcessId};

/// Time in which a node takes no byte, in ns: more than a pause of one that works, or of a network that lost some segments in a row.
pub(super) const PATIENCE: u64 = 5 * SEC;
/// Time until it is asked again whether one takes nothing, in ns: it may have taken some just after the source had no buffer left.
const AGAIN: u64 = SEC;
/// Time for which one message at a time goes to such a node, in ns.
const TERM: u64 = 60 * SEC;
/// Messages in a row of which a node's TCP says that it took them, after which it is as good as others though it said nothing itself.
const ROW: u32 = 8;
/// Nodes that are known to take nothing, at most.
const MOST: usize = 4096;

#[derive(Debug)]
struct Strike {
    since: u64,
    /// A message is on its way to it.
    tried: bool,
    /// It has taken some since.
    forgiven: bool,
    /// Strikes, each within the term of the one before.
    times: u32,
    /// Messages in a row that its TCP took.
    row: u32,
}

/// Nodes that take nothing, by NID, at the homes of the next hops.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    strikes: PeerMap<Nid, Strike>,
    /// Those that messages of sources are for which have no buffer left: asked about in this turn.
    asked: HashSet<ProcessId>,
}

impl Stuck {
    /// Whether all nodes take what they are sent, as far as is known.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.strikes.is_empty()
    }

    /// Whether one message at a time may be on its way to it.
    #[inline]
    pub(super) fn has(&self, nid: Nid, now: u64) -> bool {
        !self.is_empty() && self.strikes.get(&nid).is_some_and(|s| !s.forgiven && now < s.since + TERM)
    }

    /// Gives whether that is new: several sources may ask about the same at a time.
    fn strike(&mut self, nid: Nid, now: u64) -> bool {
        let before = self.strikes.get(&nid);
        let is_new = before.is_none_or(|s| now >= s.since + PATIENCE);
        if is_new && (self.strikes.len() < MOST || before.is_some()) {
            let times = before.filter(|s| now < s.since + TERM).map_or(0, |s| s.times) + 1;
            self.strikes.insert(nid, Strike { since: now, tried: false, forgiven: false, times, row: 0 });
        }
        is_new
    }

    /// Whether a message may go to it, beside those on their way.
    pub(super) fn admits(&mut self, nid: Nid, now: u64) -> bool {
        if !self.has(nid, now) {
            return true;
        }
        self.strikes.get_mut(&nid).is_none_or(|s| !std::mem::replace(&mut s.tried, true))
    }

    /// A message is not on its way to it any more.
    #[inline]
    pub(super) fn ended(&mut self, nid: Nid) {
        if !self.is_empty()
            && let Some(s) = self.strikes.get_mut(&nid)
        {
            s.tried = false;
        }
    }

    /// It has read a message.
    #[inline]
    fn has_read(&mut self, nid: Nid) {
        if !self.is_empty() {
            self.strikes.remove(&nid);
        }
    }

    /// Its TCP has taken a message.
    #[inline]
    fn takes(&mut self, nid: Nid) {
        if !self.is_empty()
            && let Some(s) = self.strikes.get_mut(&nid)
        {
            s.row += 1;
            s.forgiven |= s.times == 1 || s.row >= ROW;
        }
    }

    /// It has not taken a message.
    pub(super) fn took_none(&mut self, nid: Nid) {
        if let Some(s) = self.strikes.get_mut(&nid) {
            s.row = 0;
        }
    }

    /// Forgets those whose term is over.
    fn forget(&mut self, now: u64) {
        self.strikes.retain(|_, s| now < s.since + TERM);
    }
}

impl Guest {
    /// Time at which it is to be relieved, in ns.
    fn relief(&self, timeout: u64) -> u64 {
        let full = self.full_since.iter().filter(|since| **since > 0).min();
        let full = full.map_or(u64::MAX, |since| since + PATIENCE);
        let half = self.over.saturating_sub(timeout / 2);
        let gone = if self.over > 0 { half.max(self.looked + PATIENCE) } else { u64::MAX };
        full.min(gone)
    }
}

impl Lnet {
    /// A source has no buffer of that group left, and more to send: it is looked at in a while.
    pub(super) fn has_no_buffer(&mut self, cx: &Cx, source: Key, class: BufferClass) {
        let Some(guest) = self.peers.get_mut(source).and_then(|p| p.guest.as_mut()) else { return };
        if let Some(since) = guest.full_since.get_mut(class.group()).filter(|since| **since == 0) {
            *since = cx.now.max(1);
            guest.no_conn.holds_up(class.group(), cx.now);
            self.timers.by(cx.now, source, cx.now + PATIENCE);
        }
    }

    /// A source has gone, and what it left waits for buffers: that is over by then.
    pub(super) fn source_went(&mut self, cx: &Cx, source: Key, over: u64) {
        let Some(guest) = self.peers.get_mut(source).and_then(|p| p.guest.as_mut()) else { return };
        guest.over = if guest.over > 0 { over.min(guest.over) } else { over };
        self.timers.by(cx.now, source, guest.relief(cx.cfg.timeout()));
    }

    /// A peer has connected.
    pub(super) fn source_is_back(&mut self, source: Key) {
        if let Some(guest) = self.peers.get_mut(source).and_then(|p| p.guest.as_mut()) {
            guest.over = 0;
        }
    }

    /// Relieves a source if it is time to: [`Lnet::ask_for_stuck`] asks about those whom its messages are for.
    pub(super) fn relieve(&mut self, cx: &Cx, source: Key) {
        let (timeout, most) = (cx.cfg.timeout(), cx.cfg.peer_router_credits());
        let Some(guest) = self.peers.get_mut(source).and_then(|p| p.guest.as_mut()) else { return };
        for group in 0..GROUPS {
            if !guest.is_held_up(group, most)
                && let Some(since) = guest.full_since.get_mut(group)
            {
                *since = 0;
            }
        }
        let due = guest.relief(timeout);
        if due == u64::MAX || guest.waiting.iter().all(|w| w.is_empty()) {
            return;
        }
        if cx.now < due {
            return self.timers.by(cx.now, source, due);
        }
        guest.looked = cx.now;
        let over = |since: &&mut u64| **since > 0 && **since + PATIENCE <= cx.now;
        guest.full_since.iter_mut().filter(over).for_each(|since| *since = cx.now + AGAIN - PATIENCE);
        self.timers.by(cx.now, source, guest.relief(timeout));
        // Of one that has gone all is over in time.
        let waiting = guest.waiting.iter().flatten().map(|w| w.to);
        let all = guest.all_to().map(|t| t.0).chain(waiting).filter(|_| guest.over > 0);
        self.stuck.asked.extend(guest.own_to().chain(all));
    }

    /// Asks all shards which of those that sources wait for take nothing.
    pub(super) fn ask_for_stuck<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) {
        if self.stuck.asked.is_empty() {
            return;
        }
        let asked: Vec<ProcessId> = self.stuck.asked.drain().collect();
        self.post_all(cx, || Body::Stuck(asked.clone().into()));
        self.find_stuck(cx, lnds, &asked);
    }

    /// Drops what waits here for those of them that take nothing. A next hop is looked at once, however many it leads to.
    #[cold]
    pub(super) fn find_stuck<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], asked: &[ProcessId]) {
        self.stuck.forget(cx.now);
        let mut found: HashMap<Key, HashSet<Nid>> = HashMap::new();
        for id in asked {
            let hops: HashSet<Key> = self.hops_that_rest(cx, lnds, *id).collect();
            if !hops.is_empty() && self.stuck.strike(id.nid, cx.now) {
                cx.counters.forward_stuck += 1;
                for hop in hops {
                    found.entry(hop).or_default().insert(id.nid);
                }
            }
        }
        for (hop, nids) in found {
            cx.counters.forward_stuck_looks += 1;
            let Some(p) = self.peers.get_mut(hop) else { continue };
            let (ni, entry, itself) = (p.ni, p.entry, nids.contains(&p.id.nid));
            let left = p.waiting.take_for(|nid| nids.contains(&nid));
            let Some(lnd) = lnds.get_mut(ni.index()) else { continue };
            left.into_iter().for_each(|tx| self.end_one_overdue(cx, lnd, hop, tx));
            lnd.end_passed_on(self, cx, entry, &nids, itself);
        }
    }

    /// Next hops of this shard on the way to a node that have messages of others, and have taken nothing for a while.
    fn hops_that_rest<L: Lnd<Lnet>>(&self, cx: &Cx, lnds: &[L], id: ProcessId) -> impl Iterator<Item = Key> {
        let gateways = self.routes.up_to(id.nid.net()).map(ProcessId::lustre);
        let hops = std::iter::once(id).chain(gateways);
        let keys = hops.flat_map(|hop| lnds.iter().filter_map(move |lnd| lnd.find(hop)));
        let then = cx.now.saturating_sub(PATIENCE);
        keys.filter(move |key| {
            let Some(p) = self.peers.get(*key).filter(|p| p.is_passed_to()) else { return false };
            p.figures.passes_since <= then
                && lnds.get(p.ni.index()).is_some_and(|lnd| lnd.took(p.entry) <= then)
        })
    }

    /// A next hop has read a message.
    #[inline]
    pub(super) fn hop_read(&mut self, done: &TxDone) {
        if let TxDone::Forward(lease) = done {
            self.stuck.has_read(lease.to.nid);
        }
    }

    /// A next hop has a message.
    #[inline]
    pub(super) fn hop_took(&mut self, cx: &Cx, hop: Key, lease: &Lease) {
        self.stuck.ended(lease.to.nid);
        if lease.len as usize > INLINE_PAYLOAD_MAX {
            self.stuck.takes(lease.to.nid);
            if let Some(p) = self.peers.get_mut(hop) {
                p.figures.passes_since = cx.now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_until_it_takes_or_its_term_is_over() {
        let (mut stuck, nid) = (Stuck::default(), Nid::LO);
        assert!(stuck.admits(nid, 5) && stuck.admits(nid, 5));
        assert!(stuck.strike(nid, 5) && !stuck.strike(nid, 4 + PATIENCE), "two ask about it");
        assert!(stuck.admits(nid, 6) && !stuck.admits(nid, 6));
        stuck.ended(nid);
        assert!(stuck.admits(nid, 7) && !stuck.admits(nid, 7));
        assert!(stuck.has(nid, 4 + TERM) && !stuck.has(nid, 5 + TERM));
        assert!(stuck.admits(nid, 5 + TERM) && stuck.admits(nid, 5 + TERM));
    }

    #[test]
    fn one_that_takes_is_as_good_as_others_however_often_it_did_not() {
        let (mut stuck, nid) = (Stuck::default(), Nid::LO);
        for n in 1..9 {
            assert!(stuck.strike(nid, n * PATIENCE));
            stuck.has_read(nid);
            assert!(stuck.is_empty() && stuck.admits(nid, n * PATIENCE) && stuck.admits(nid, n * PATIENCE));
        }
    }

    #[test]
    fn one_whose_tcp_alone_takes_some_is_believed_once_a_term() {
        let (mut stuck, nid) = (Stuck::default(), Nid::LO);
        let strike = |stuck: &mut Stuck, at| assert!(stuck.strike(nid, at) && stuck.has(nid, at));
        let take = |stuck: &mut Stuck, n| (0..n).for_each(|_| stuck.takes(nid));
        strike(&mut stuck, PATIENCE);
        take(&mut stuck, 1);
        assert!(!stuck.has(nid, PATIENCE));
        for n in 2..20 {
            strike(&mut stuck, n * PATIENCE);
            take(&mut stuck, ROW - 1);
            stuck.took_none(nid);
            take(&mut stuck, ROW - 1);
            assert!(stuck.has(nid, n * PATIENCE), "{n}");
        }
        take(&mut stuck, 1);
        assert!(!stuck.has(nid, 20 * PATIENCE), "so many in a row");
        // A term later nothing is remembered, as with one message that it reads.
        for at in [20 * PATIENCE + TERM, 21 * PATIENCE + TERM] {
            strike(&mut stuck, at);
            take(&mut stuck, 1);
            assert!(!stuck.has(nid, at));
            stuck.has_read(nid);
        }
    }

    #[test]
    fn so_many_are_remembered() {
        let mut stuck = Stuck::default();
        for n in 0..2 * MOST as u32 {
            assert!(stuck.strike(Nid::tcp(std::net::IpAddr::V4(n.into()), 0), 1));
        }
        assert_eq!(stuck.strikes.len(), MOST);
        stuck.forget(1 + TERM);
        stuck.strike(Nid::LO, 1 + TERM);
        assert_eq!(stuck.strikes.len(), 1);
    }
}
