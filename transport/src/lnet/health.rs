//! Health of this node's NIs and of peers' (docs/protocol/upper.md §3): a value from 0 to [`BEST`], which failures lower and
//! recovery raises, and by which rails are chosen.
//!
//! A peer's value is the affair of that NID's home, an own NI's that of the first shard; the others are told of each change, and keep
//! a copy to choose by. Only peers with several NIDs have one: where there is nothing to choose, nothing is kept.

use super::Lnet;
use super::aliases::{Aliases, Nids};
use super::causes::{BEST, Cause, Causes};
use super::remote::Body;
use crate::hash::PeerMap;
use crate::lnd::config::SEC;
use crate::lnd::{Cx, Lnd, LnetError, NIS_MAX, NiId};
use crate::stream::ShardId;
use crate::stream::slab::Key;
use crate::wire::{Nid, ProcessId};

/// NIDs of peers of which a value is kept: about 2 MiB. Of no more the names are known (`transport/src/lnet/aliases.rs`), and where
/// a name is forgotten its value may be.
const KEPT: usize = 16_384;
/// The shard that has the values of own NIs.
const KEEPER: ShardId = ShardId(0);

/// One of several NIDs of a peer.
#[derive(Debug)]
pub(super) struct PeerNi {
    pub(super) value: u16,
    /// It says of itself that it is down.
    pub(super) down: bool,
    /// It was pinged for that, until its node had gone.
    pub(super) moot: bool,
    pub(super) causes: Causes,
}

impl PeerNi {
    fn new() -> PeerNi {
        PeerNi { value: BEST, down: false, moot: false, causes: Causes::default() }
    }

    fn is_well(&self) -> bool {
        self.value == BEST && !self.down
    }
}

/// Values of peers' NIs.
#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) peers: PeerMap<Nid, PeerNi>,
    /// Time at which own NIs get better, in ns; 0 for none that is ill.
    pub(super) own_due: u64,
}

impl Health {
    /// Whether a peer's NI is up, as far as it says, and its value.
    pub(super) fn of(&self, nid: Nid) -> (bool, u16) {
        self.peers.get(&nid).map_or((true, BEST), |p| (!p.down, p.value))
    }

    /// That of a NID; `None` where all places are taken by others of which it matters.
    fn entry(&mut self, aliases: &Aliases, nid: Nid) -> Option<&mut PeerNi> {
        if !self.peers.contains_key(&nid) && self.peers.len() >= KEPT {
            self.peers.retain(|n, p| !p.is_well() && aliases.nids(*n).is_some());
            if self.peers.len() >= KEPT {
                return None;
            }
        }
        Some(self.peers.entry(nid).or_insert_with(PeerNi::new))
    }
}

impl Lnet {
    /// Rails are to be looked at anew: what they are chosen by has changed.
    #[cold]
    pub(super) fn rails_changed(&mut self) {
        self.recent = None;
        self.recent_hops = [None; NIS_MAX];
        self.rails.forget();
    }

    /// A message by this NI to this NID of a peer has failed.
    #[cold]
    pub(super) fn charge(&mut self, cx: &mut Cx, (ni, nid): (NiId, Nid), cause: Cause) {
        cause.count(&mut cx.counters);
        if !cause.is_local() {
            return self.peer_failed(cx, nid, cause);
        }
        let Some(own) = self.nis.get_mut(ni.index()) else { return };
        if let Some(n) = own.health.causes.get_mut(cause as usize) {
            *n += 1;
        }
        // Kernels lower it for each message: one set that dies with eight of them would make the NI the worst of all, for all peers.
        if std::mem::replace(&mut own.failed_at, cx.now) != cx.now {
            self.own_failed(cx, ni);
        }
    }

    /// A message that a peer was sent died on its way.
    #[cold]
    pub(super) fn died(&mut self, cx: &mut Cx, peer: Key, why: LnetError) {
        let pair = self.peers.get(peer).map(|p| (p.ni, p.id.nid));
        if let Some((pair, cause)) = pair.zip(Cause::died(why)) {
            self.charge(cx, pair, cause);
        }
    }

    /// An operation has had no answer in its time.
    #[cold]
    pub(super) fn unanswered(&mut self, cx: &mut Cx, op: Key) {
        let Some((via, target)) = self.ops.get(op).map(|r| (r.via, r.target)) else { return };
        if self.is_own(via) {
            return;
        }
        if via != target {
            // Nothing else tells that a node behind a router has gone.
            self.far_lose(target);
            self.unheard(cx, target);
        }
        cx.counters.response_timeout_count += 1;
        self.peer_failed(cx, via, Cause::RemoteTimeout);
    }

    /// An own NI has failed, here or on another shard.
    pub(super) fn own_failed(&mut self, cx: &Cx, ni: NiId) {
        if cx.cfg.shards.me != KEEPER {
            return self.post(KEEPER, Body::OwnFailed(ni));
        }
        let Some(own) = self.nis.get(ni.index()) else { return };
        let value = own.health.value.saturating_sub(cx.cfg.health_sensitivity);
        self.own_is(cx, ni, value);
    }

    /// An own NI has this value now.
    pub(super) fn own_is(&mut self, cx: &Cx, ni: NiId, value: u16) {
        self.post_all(cx, || Body::OwnHealth(ni, value));
        self.own_told(ni, value);
        if self.nis.iter().all(|n| n.health.value == BEST) {
            self.health.own_due = 0;
        } else if self.health.own_due == 0 {
            self.health.own_due = cx.now + SEC;
            self.recover_by(self.health.own_due);
        }
    }

    /// The keeper of the own NIs' values says so.
    pub(super) fn own_told(&mut self, ni: NiId, value: u16) {
        if let Some(own) = self.nis.get_mut(ni.index()).filter(|n| n.health.value != value) {
            own.health.value = value;
            self.rails_changed();
        }
    }

    /// Own NIs get better: a ping of oneself, which is how kernels do it, fails only without a link.
    pub(super) fn own_recover(&mut self, cx: &Cx) {
        match self.health.own_due {
            0 => return,
            later if later > cx.now => return self.recover_by(later),
            _ => self.health.own_due = 0,
        }
        for at in 0..self.nis.len() {
            let Some(own) = self.nis.get(at).filter(|n| n.health.value < BEST) else { continue };
            if own.health.fatal {
                self.health.own_due = cx.now + SEC;
                self.recover_by(self.health.own_due);
                continue;
            }
            let value = (own.health.value + cx.cfg.health_sensitivity.max(1)).min(BEST);
            self.own_is(cx, NiId(at as u8), value);
        }
    }

    /// A message to a peer's NI has failed by that one's fault.
    fn peer_failed(&mut self, cx: &Cx, nid: Nid, cause: Cause) {
        if self.aliases.nids(nid).is_none() || cx.cfg.health_sensitivity == 0 {
            return;
        }
        let Some(p) = self.health.entry(&self.aliases, nid) else { return };
        if let Some(n) = p.causes.get_mut(cause as usize) {
            *n += 1;
        }
        // That one which is down does not answer says nothing new of it.
        let by = if p.down && self.recovery.pings(nid) { 0 } else { cx.cfg.health_sensitivity };
        let value = p.value.saturating_sub(by);
        self.peer_is(cx, nid, value);
        self.recover_from(cx, nid);
    }

    /// A peer's NI has this value now.
    pub(super) fn peer_is(&mut self, cx: &Cx, nid: Nid, value: u16) {
        if self.peer_told(nid, value) {
            self.post_all(cx, || Body::PeerHealth(nid, value));
        }
    }

    /// The home of a peer's NI says so; gives whether that is new.
    pub(super) fn peer_told(&mut self, nid: Nid, value: u16) -> bool {
        let changed = self
            .health
            .entry(&self.aliases, nid)
            .is_some_and(|p| std::mem::replace(&mut p.value, value) != value);
        if changed {
            self.rails_changed();
        }
        changed
    }

    /// A peer says which of its NIs are down; `down` has a bit for each of `nids`. Gives whether anything is new.
    ///
    /// Messages that wait for one that is down go by another pair. It is pinged until it is up, should the news of that be lost.
    pub(super) fn peer_says<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        nids: &[Nid],
        down: u32,
    ) -> bool {
        let (mut changed, mut lost, mut again) = (false, Nids::new(), Nids::new());
        for (i, nid) in nids.iter().enumerate() {
            let now = down.checked_shr(i as u32).is_some_and(|d| d & 1 != 0);
            let before = !self.health.of(*nid).0;
            if before != now
                && let Some(p) = self.health.entry(&self.aliases, *nid)
            {
                (p.down, p.moot) = (now, false);
                changed = true;
                lost.extend(now.then_some(*nid));
            } else if now && let Some(p) = self.health.peers.get_mut(nid) {
                // Its node is back.
                again.extend(std::mem::take(&mut p.moot).then_some(*nid));
            }
        }
        if changed {
            self.rails_changed();
        }
        for nid in &lost {
            for at in 0..lnds.len() {
                if let Some(peer) = lnds.get(at).and_then(|l| l.find(ProcessId::lustre(*nid))) {
                    self.leave_peer(cx, lnds, peer);
                }
            }
        }
        for nid in lost.into_iter().chain(again) {
            let here = nid.ip().is_some_and(|ip| cx.homes.of(ip) == cx.cfg.shards.me);
            if here && nids.iter().filter(|n| self.ni_for(**n).is_some()).count() > 1 {
                self.recover_from(cx, nid);
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded() {
        let (mut h, mut names) = (Health::default(), Aliases::default());
        let nid = |n: u32| Nid::tcp((0x0a00_0000 + n).to_be_bytes().into(), 0);
        let learn = |names: &mut Aliases, n: u32| {
            let ip = nid(n).ip().unwrap();
            assert!(names.learn(ip, ip, &[nid(n), nid(n + 1)]));
        };
        for n in (0..KEPT as u32).step_by(2) {
            learn(&mut names, n);
        }
        for n in 0..KEPT as u32 {
            h.entry(&names, nid(n)).unwrap().value = if n == 7 { BEST } else { 5 };
        }
        h.entry(&names, nid(1 << 20)).expect("one that is well makes room").value = 5;
        assert_eq!((h.peers.len(), h.of(nid(7)), h.of(nid(8))), (KEPT, (true, BEST), (true, 5)));
        assert!(h.entry(&names, nid(1 << 21)).is_some(), "the one before is nobody's that is known");
        assert!(!h.peers.contains_key(&nid(1 << 20)));
        // Peers that are forgotten since others came make room, too.
        learn(&mut names, 1 << 22);
        assert!(h.entry(&names, nid(1 << 22)).is_some() && h.entry(&names, nid(1 + (1 << 22))).is_some());
        assert!(h.peers.len() <= KEPT);
    }
}
