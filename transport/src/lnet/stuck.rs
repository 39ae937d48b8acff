//! Nodes that take nothing, and the sources of a router that wait for them.
//!
//! A source may have so many router buffers (`peer_buffer_credits`). Where all of them have messages for a node that does not take them,
//! nothing of that source goes on, whoever it is for; and anybody can bring that about who asks a server behind a router for what he
//! does not read. So a source that has no buffer left, and more to send, of whose messages none has left for [`PATIENCE`], is relieved:
//! messages for each NID that has taken nothing for as long are dropped where they wait, and where that node is the next hop itself its
//! connections end.
//!
//! For [`TERM`] from then on one message at a time may be on its way to the NID; what comes besides is dropped (`drop_stuck`). A NID that
//! takes a message is as good as others again, unless it was stuck twice within [`MEMORY`].

use std::collections::HashMap;

use super::Lnet;
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
pub(super) struct Stuck(HashMap<Nid, Strike>);

impl Stuck {
    /// Whether one message at a time may be on its way to it.
    #[inline]
    pub(super) fn has(&self, nid: Nid, now: u64) -> bool {
        !self.0.is_empty() && self.0.get(&nid).is_some_and(|s| now < s.until)
    }

    /// Gives whether that is new: several sources may find the same at a time.
    fn strike(&mut self, nid: Nid, now: u64) -> bool {
        self.0.retain(|_, s| now < s.since + MEMORY);
        if self.0.len() >= MOST && !self.0.contains_key(&nid) {
            return true;
        }
        let s = self.0.entry(nid).or_insert(Strike { since: now, times: 0, until: 0 });
        let new = s.times == 0 || now >= s.since + PATIENCE;
        if new {
            *s = Strike { since: now, times: s.times.saturating_add(1), until: now + TERM };
        }
        new
    }

    /// The NID has taken a message.
    #[inline]
    pub(super) fn takes(&mut self, nid: Nid) {
        if !self.0.is_empty()
            && let Some(s) = self.0.get_mut(&nid).filter(|s| s.times < 2)
        {
            s.until = 0;
        }
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

    /// Relieves a source if it is time to.
    pub(super) fn relieve<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], source: Key) {
        let Some(p) = self.peers.get_mut(source) else { return };
        let full = p.uses.buffers >= cx.cfg.peer_router_credits();
        let Some(guest) = p.guest.as_mut().filter(|g| g.full_since > 0) else { return };
        if !full || guest.waiting.iter().all(|w| w.is_empty()) {
            guest.full_since = 0;
            return;
        }
        let due = guest.full_since + PATIENCE;
        if cx.now < due {
            return self.timers.by(cx.now, source, due);
        }
        guest.full_since = cx.now;
        self.timers.by(cx.now, source, cx.now + PATIENCE);
        let then = cx.now.saturating_sub(PATIENCE);
        let mut nids: Vec<Nid> = Vec::new();
        for (nid, ..) in &guest.to {
            if !nids.contains(nid) && self.buffers.rests_since(*nid, then) {
                nids.push(*nid);
            }
        }
        for nid in nids {
            self.sticks(cx, lnds, nid);
            self.post_all(cx, || Body::Stuck(nid));
        }
    }

    /// A NID takes nothing, and others wait: what waits for it is dropped.
    #[cold]
    pub(super) fn sticks<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], nid: Nid) {
        if !self.stuck.strike(nid, cx.now) {
            return;
        }
        cx.counters.forward_stuck += 1;
        let gateways: Vec<Nid> = self.routes.up_to(nid.net()).collect();
        let of =
            |k: &Key| self.peers.get(*k).is_some_and(|p| p.id.nid == nid || gateways.contains(&p.id.nid));
        for peer in self.peers.keys().filter(of).collect::<Vec<_>>() {
            let Some(p) = self.peers.get_mut(peer) else { continue };
            let (ni, entry, itself) = (p.ni, p.entry, p.id.nid == nid);
            let left = p.waiting.take_for(nid);
            let Some(lnd) = lnds.get_mut(ni.index()) else { continue };
            left.into_iter().for_each(|tx| self.end_one_overdue(cx, lnd, peer, tx));
            lnd.end_passed_on(self, cx, entry, nid, itself);
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
        assert_eq!(stuck.0.len(), MOST);
        stuck.strike(Nid::LO, 1 + MEMORY);
        assert_eq!(stuck.0.len(), 1);
    }
}
