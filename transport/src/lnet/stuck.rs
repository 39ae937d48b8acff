//! Nodes that take nothing, and the sources of a router that wait for them.
//!
//! A source may have so many router buffers (`peer_buffer_credits`). Where all of them have messages for a node that does not take them,
//! nothing of that source goes on, whoever it is for; and anybody can bring that about who asks a server behind a router for what he
//! does not read. So a source that has no buffer left, and more to send, of whose messages none has left for [`PATIENCE`], is relieved:
//! messages for each NID that has taken nothing for as long are dropped where they wait, and where that node is the next hop itself its
//! connections end.
//!
//! So is one that has gone, and left more than there are buffers for, when half a time-out has passed, whosever messages hold the buffers.
//! What it left for others follows then; what has not found a buffer when the time-out is over is dropped (`drop_left_behind`).
//!
//! For [`TERM`] from then on one message at a time may be on its way to the NID; what comes besides is dropped (`drop_stuck`). A NID that
//! takes a message is as good as others again, unless it was stuck twice within [`MEMORY`].

use std::collections::{HashMap, HashSet};

use super::Lnet;
use super::guest::Guest;
use super::remote::Body;
use crate::lnd::config::SEC;
use crate::lnd::{Cx, Lnd};
use crate::stream::slab::Key;
use crate::wire::Nid;

/// Time in which none of a source's messages has left, in ns: more than a pause of a node that works.
pub(super) const PATIENCE: u64 = 2 * SEC;
/// Time for which such a NID has one buffer at most, in ns.
const TERM: u64 = 60 * SEC;
/// Time for which it is remembered that it was stuck, in ns.
const MEMORY: u64 = 600 * SEC;
/// NIDs that are remembered.
const MOST: usize = 4096;

#[derive(Debug)]
struct Strike {
    since: u64,
    times: u32,
    /// The end of its term, in ns; 0 where it has taken a message meanwhile.
    until: u64,
}

/// NIDs that were stuck.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    strikes: HashMap<Nid, Strike>,
    /// Those found in this turn: what waits for them is dropped in one go.
    found: Vec<Nid>,
}

impl Stuck {
    /// Whether one message at a time may be on its way to it.
    #[inline]
    pub(super) fn has(&self, nid: Nid, now: u64) -> bool {
        !self.strikes.is_empty() && self.strikes.get(&nid).is_some_and(|s| now < s.until)
    }

    /// Gives whether that is new: several sources may find the same at a time.
    fn strike(&mut self, nid: Nid, now: u64) -> bool {
        if self.strikes.len() >= MOST && !self.strikes.contains_key(&nid) {
            return true;
        }
        let s = self.strikes.entry(nid).or_insert(Strike { since: now, times: 0, until: 0 });
        let new = s.times == 0 || now >= s.since + PATIENCE;
        if new {
            *s = Strike { since: now, times: s.times.saturating_add(1), until: now + TERM };
        }
        new
    }

    /// Forgets what is long ago.
    fn forget(&mut self, now: u64) {
        self.strikes.retain(|_, s| now < s.since + MEMORY);
    }

    /// The NID has taken a message.
    #[inline]
    pub(super) fn takes(&mut self, nid: Nid) {
        if !self.strikes.is_empty()
            && let Some(s) = self.strikes.get_mut(&nid).filter(|s| s.times < 2)
        {
            s.until = 0;
        }
    }
}

impl Guest {
    /// Time at which it is to be relieved, in ns.
    fn relief(&self, timeout: u64) -> u64 {
        let full = if self.full_since > 0 { self.full_since + PATIENCE } else { u64::MAX };
        let half = self.over.saturating_sub(timeout / 2);
        let gone = if self.over > 0 { half.max(self.looked + PATIENCE) } else { u64::MAX };
        full.min(gone)
    }
}

impl Lnet {
    /// A source has no buffer left, and more to send: it is looked at in a while.
    pub(super) fn has_no_buffer(&mut self, cx: &Cx, source: Key) {
        let Some(guest) = self.peers.get_mut(source).and_then(|p| p.guest.as_mut()) else { return };
        if guest.full_since == 0 {
            guest.full_since = cx.now.max(1);
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

    /// Relieves a source if it is time to: nodes that take nothing are found, and [`Lnet::drop_for_found`] sees to them.
    pub(super) fn relieve(&mut self, cx: &Cx, source: Key) {
        let timeout = cx.cfg.timeout();
        let Some(p) = self.peers.get_mut(source) else { return };
        let full = p.uses.buffers >= cx.cfg.peer_router_credits();
        let Some(guest) = p.guest.as_mut() else { return };
        let waits = guest.waiting.iter().any(|w| !w.is_empty());
        if !full || !waits {
            guest.full_since = 0;
        }
        let due = guest.relief(timeout);
        if !waits || due == u64::MAX {
            return;
        }
        if cx.now < due {
            return self.timers.by(cx.now, source, due);
        }
        guest.looked = cx.now;
        if guest.full_since > 0 {
            guest.full_since = cx.now;
        }
        self.timers.by(cx.now, source, guest.relief(timeout));
        let then = cx.now.saturating_sub(PATIENCE);
        let waiting = guest.waiting.iter().flatten().filter(|_| guest.over > 0).map(|w| w.to);
        for nid in guest.to.iter().map(|t| t.0).chain(waiting) {
            if self.buffers.rests_since(nid, then) && self.stuck.strike(nid, cx.now) {
                self.stuck.found.push(nid);
            }
        }
    }

    /// Drops what waits for the nodes that were found, here and on all shards.
    pub(super) fn drop_for_found<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) {
        if self.stuck.found.is_empty() {
            return;
        }
        self.stuck.forget(cx.now);
        let found = std::mem::take(&mut self.stuck.found);
        self.post_all(cx, || Body::Stuck(found.clone().into()));
        self.drop_for(cx, lnds, found);
    }

    /// Another shard has found nodes that take nothing while others wait.
    #[cold]
    pub(super) fn stick<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], nids: &[Nid]) {
        self.stuck.forget(cx.now);
        let new = nids.iter().copied().filter(|nid| self.stuck.strike(*nid, cx.now)).collect();
        self.drop_for(cx, lnds, new);
    }

    /// Drops what waits for these nodes. Entries for peers are looked at once, however many nodes there are.
    #[cold]
    fn drop_for<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], nids: Vec<Nid>) {
        let nids: HashSet<Nid> = nids.into_iter().collect();
        if nids.is_empty() {
            return;
        }
        cx.counters.forward_stuck += nids.len() as u64;
        let mut nets: Vec<_> = nids.iter().map(|nid| nid.net()).collect();
        nets.sort_unstable();
        nets.dedup();
        let gateways: HashSet<Nid> = nets.into_iter().flat_map(|net| self.routes.up_to(net)).collect();
        for peer in self.peers.keys().collect::<Vec<_>>() {
            cx.counters.forward_stuck_looks += 1;
            let Some(p) = self.peers.get_mut(peer) else { continue };
            let (ni, entry, itself) = (p.ni, p.entry, nids.contains(&p.id.nid));
            if !itself && !gateways.contains(&p.id.nid) {
                continue;
            }
            let left = p.waiting.take_for(|nid| nids.contains(&nid));
            let Some(lnd) = lnds.get_mut(ni.index()) else { continue };
            left.into_iter().for_each(|tx| self.end_one_overdue(cx, lnd, peer, tx));
            lnd.end_passed_on(self, cx, entry, &nids, itself);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_takes_again_is_forgiven_once() {
        let (mut stuck, nid) = (Stuck::default(), Nid::LO);
        assert!(!stuck.has(nid, 5));
        stuck.strike(nid, 5);
        assert!(stuck.has(nid, 5) && !stuck.has(nid, 5 + TERM));
        stuck.takes(nid);
        assert!(!stuck.has(nid, 6));
        stuck.strike(nid, 7);
        stuck.takes(nid);
        assert!(!stuck.has(nid, 8), "another source has found the same");
        stuck.strike(nid, 8 + PATIENCE);
        stuck.takes(nid);
        assert!(stuck.has(nid, 9 + PATIENCE), "it was stuck before");
        let later = 8 + PATIENCE + MEMORY;
        stuck.forget(later);
        stuck.strike(nid, later);
        stuck.takes(nid);
        assert!(!stuck.has(nid, later + 1), "long ago");
    }

    #[test]
    fn so_many_are_remembered() {
        let mut stuck = Stuck::default();
        for n in 0..2 * MOST as u32 {
            stuck.strike(Nid::tcp(std::net::IpAddr::V4(n.into()), 0), 1);
        }
        assert_eq!(stuck.strikes.len(), MOST);
        stuck.forget(1 + MEMORY);
        stuck.strike(Nid::LO, 1 + MEMORY);
        assert_eq!(stuck.strikes.len(), 1);
    }
}
