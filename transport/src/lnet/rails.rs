//! Rails: the pair of own NI and peer's NID that a message to a Multi-Rail peer takes (docs/protocol/upper.md §2).
//!
//! It is chosen for each message: the net first, then the own NI on it, then the peer's NID there. Each time what is up goes before
//! what is down, then counts the health value, then how many messages are under way there as far as this shard knows, and of
//! equals it is the turn of the one that was used least recently. A message that is to leave from an NI goes to the NID that it names
//! while that one is as good as the others: so bulk of lnet_selftest takes the pair of its request. Answers choose nothing.
//!
//! A NID of which only another node says that it is its own has no other rails: nobody gets what is for it before its own node
//! has said so, too, but a gateway of ours to the NID's network.

use std::cmp::Reverse;

use smallvec::SmallVec;

use super::Lnet;
use super::hop::Hop;
use crate::hash::PeerMap;
use crate::lnd::{Cx, Lnd, NiId};
use crate::stream::Bucket;
use crate::stream::slab::Key;
use crate::wire::{Nid, ProcessId};

/// Peers whose rails are at hand; they are put together anew where there are more.
const SETS: usize = 4096;

/// A NID of a peer's.
#[derive(Debug)]
struct Rail {
    nid: Nid,
    /// Place of its net in the list of those.
    net: usize,
    up: bool,
    value: u16,
    /// Time of its last use, in messages.
    used: u64,
    /// The peer's entry by each of our NIs, as far as it is known.
    keys: SmallVec<[Option<Key>; 2]>,
}

/// The rails of one peer.
#[derive(Debug, Default)]
struct Set {
    rails: SmallVec<[Rail; 2]>,
    /// A NID of each net, and the time of its last use.
    nets: SmallVec<[(Nid, u64); 2]>,
    /// Nobody may act for the NID that applications name.
    alone: bool,
}

/// Rails of peers, by the NID that applications name.
#[derive(Debug, Default)]
pub(super) struct Rails {
    sets: PeerMap<Nid, Set>,
    clock: u64,
}

impl Rails {
    /// States or priorities have changed: sets are made anew when they are asked for.
    pub(super) fn forget(&mut self) {
        self.sets.clear();
    }

    /// Time of the next message, in messages.
    pub(super) fn turn(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

/// Keeps the place of the best so far; of equals the first.
struct Best<K>(Option<(K, usize)>);

impl<K: PartialOrd> Best<K> {
    fn see(&mut self, key: K, at: usize) {
        if self.0.as_ref().is_none_or(|b| key > b.0) {
            self.0 = Some((key, at));
        }
    }
}

impl Lnet {
    /// Puts the rails to a peer together; `false` where there is nothing to choose.
    #[cold]
    fn gather(&mut self, cx: &Cx, target: Nid) -> bool {
        let Some(nids) = self.aliases.nids(target) else { return false };
        let reached = |n: &Nid| cx.cfg.may_dial(*n) && self.nis.iter().any(|own| own.reaches(*n));
        // A message for a NID behind a gateway is given to that in any case: it may say that the NID is its own.
        let leads = |speaker| self.routes.get(target.net(), speaker).is_some();
        let alone = self.aliases.claim_on(target).is_some_and(|c| !leads(c.speaker));
        let mut set = Set { alone, ..Set::default() };
        for nid in nids.iter().filter(|n| if alone { **n == target } else { reached(n) }) {
            let same = |n: &(Nid, u64)| n.0.same_net(*nid) && n.0.is_large() == nid.is_large();
            let net = set.nets.iter().position(same).unwrap_or(set.nets.len());
            if net == set.nets.len() {
                set.nets.push((*nid, 0));
            }
            let (up, value) = self.health.of(*nid);
            let keys = SmallVec::from_elem(None, self.nis.len());
            set.rails.push(Rail { nid: *nid, net, up, value, used: 0, keys });
        }
        if self.rails.sets.len() >= SETS {
            self.rails.sets.clear();
        }
        self.rails.sets.insert(target, set);
        true
    }

    /// The way to a Multi-Rail peer, from this NI where one is given, and not by the pair `but`. `None` where no more is known of it than
    /// the NID that it is called by, or no pair is left.
    pub(super) fn rail_to<L: Lnd<Lnet>>(
        &mut self,
        cx: &Cx,
        lnds: &[L],
        target: ProcessId,
        from: Option<NiId>,
        but: Option<(NiId, Nid)>,
    ) -> Option<Hop> {
        if self.aliases.is_empty()
            || !self.rails.sets.contains_key(&target.nid) && !self.gather(cx, target.nid)
        {
            return None;
        }
        let Lnet { rails, nis, peers, .. } = self;
        let set = rails.sets.get_mut(&target.nid)?;
        let may = |ni: usize, rail: &Rail| {
            let id = NiId(ni as u8);
            from.is_none_or(|f| f == id)
                && but != Some((id, rail.nid))
                && nis.get(ni).is_some_and(|n| !n.gone && n.reaches(rail.nid))
        };
        let any = |ni: usize, rails: &[Rail], net: usize| rails.iter().any(|r| r.net == net && may(ni, r));

        let mut best = Best(None);
        for (net, (_, used)) in set.nets.iter().enumerate() {
            let theirs = set.rails.iter().filter(|r| r.net == net);
            let theirs =
                theirs.filter(|r| (0..nis.len()).any(|ni| may(ni, r))).map(|r| (r.up, r.value)).max();
            let ours = nis.iter().enumerate().filter(|(ni, _)| any(*ni, &set.rails, net));
            let ours = ours.map(|(_, n)| (!n.health.fatal, n.health.value)).max();
            if let Some((t, o)) = theirs.zip(ours) {
                best.see((t.0 && o.0, t.1, o.1, Reverse(*used)), net);
            }
        }
        let net = best.0?.1;
        let mut best = Best(None);
        for (at, ni) in nis.iter().enumerate().filter(|(ni, _)| any(*ni, &set.rails, net)) {
            let under_way = Reverse(ni.uses.credits);
            best.see((!ni.health.fatal, ni.health.value, under_way, Reverse(ni.used)), at);
        }
        let own = best.0?.1;
        let mut best = Best(None);
        for (at, rail) in set.rails.iter_mut().enumerate() {
            if rail.net != net || !may(own, rail) {
                continue;
            }
            let id = ProcessId { nid: rail.nid, ..target };
            let key = rail.keys.get_mut(own);
            let mut peer = key.as_ref().and_then(|k| peers.get((**k)?));
            let here = || rail.nid.ip().is_some_and(|ip| cx.homes.at(Bucket::of(ip)) == cx.cfg.shards.me);
            if peer.is_none_or(|p| p.id != id) && here() {
                let found = lnds.get(own).and_then(|l| l.find(id));
                peer = found.and_then(|k| peers.get(k));
                if let Some(key) = key {
                    *key = found;
                }
            }
            let under_way = Reverse(peer.filter(|p| p.id == id).map_or(0, |p| p.uses.credits));
            let named = from.is_some() && rail.nid == target.nid;
            best.see((rail.up, rail.value, named, under_way, Reverse(rail.used)), at);
        }
        let rail = set.rails.get_mut(best.0?.1)?;
        rails.clock += 1;
        rail.used = rails.clock;
        if let Some((_, used)) = set.nets.get_mut(net) {
            *used = rails.clock;
        }
        if let Some(ni) = nis.get_mut(own) {
            ni.used = rails.clock;
        }
        let (via, free) = (ProcessId { nid: rail.nid, ..target }, !set.alone);
        let known = rail.keys.get(own).copied().flatten();
        let known = known.filter(|k| self.peers.get(*k).is_some_and(|p| p.id == via));
        Some(Hop { ni: NiId(own as u8), via, known, rail: free, only: false })
    }

    /// The best own NI for a message to this very NID.
    pub(super) fn ni_for(&self, nid: Nid) -> Option<NiId> {
        let mut best = Best(None);
        for (at, ni) in self.nis.iter().enumerate().filter(|(_, n)| !n.gone && n.reaches(nid)) {
            best.see((!ni.health.fatal, ni.health.value, Reverse(ni.used)), at);
        }
        best.0.map(|b| NiId(b.1 as u8))
    }
}
