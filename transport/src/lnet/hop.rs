//! The way of an operation: by which NI it leaves, and which peer it is given to (docs/protocol/lnet.md §8).
//!
//! It is chosen once, by the shard where the operation begins, and goes with it to the home of that peer: a choice that
//! takes turns would come out otherwise there.

use std::cmp::Reverse;

use super::api::{Op, OpRefused};
use super::{Lnet, ni::Ni};
use crate::lnd::{Cx, Lnd, NiId};
use crate::stream::slab::Key;
use crate::stream::{Bucket, ShardId};
use crate::wire::{Nid, ProcessId};

/// The first hop of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    /// The NI that it leaves by.
    pub(super) ni: NiId,
    /// The peer that it is given to.
    pub(super) via: ProcessId,
    /// That peer's entry, where it is at hand.
    pub(super) known: Option<Key>,
    /// It may be another NID of the target's own: headers name the one that it is given to.
    pub(super) rail: bool,
    /// There is no other way to the target.
    pub(super) only: bool,
}

impl Hop {
    /// Bucket of the peer: the operation belongs to its home.
    pub(super) fn bucket(&self) -> Option<Bucket> {
        self.via.nid.ip().map(Bucket::of)
    }

    /// Home of the peer.
    pub(super) fn home(&self, cx: &Cx) -> ShardId {
        self.bucket().map_or(cx.cfg.shards.me, |b| cx.homes.at(b))
    }
}

/// The way of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Nowhere, or to this node itself.
    Own(NiId),
    /// To a peer.
    Peer(Hop),
}

/// The NI for the next message by a gateway, of those that it may leave by: the best one, of equals the one with the least under way,
/// then the one whose turn it is (docs/protocol/upper.md §2), then the first.
pub(super) fn ni_to_gateway(nis: &[Ni], gateway: Nid, may: impl Fn(NiId, Nid) -> bool) -> Option<NiId> {
    let all = (0..).map(NiId).zip(nis);
    let may = all.filter(|(id, n)| !n.gone && n.reaches(gateway) && may(*id, n.nid));
    let rank = |(id, n): &(NiId, &Ni)| {
        let turn = (Reverse(n.uses.credits), Reverse(n.used), Reverse(id.0));
        (!n.health.fatal, n.health.value, turn)
    };
    may.max_by_key(rank).map(|(id, _)| id)
}

impl Lnet {
    /// The way of an operation on a target; [`Way::Own`] for those that have none.
    #[inline]
    pub(super) fn way<L: Lnd<Lnet>>(&mut self, cx: &Cx, lnds: &[L], op: &Op) -> Result<Way, OpRefused> {
        match op {
            Op::Put { target, from, .. } | Op::Get { target, from, .. } => {
                self.way_to(cx, lnds, *target, *from)
            }
            Op::Ping { target, .. } | Op::Discover { target, .. } => self.way_to(cx, lnds, *target, None),
            _ => Ok(Way::Own(NiId::default())),
        }
    }

    /// By which NI a message of this node's to `target` goes, and to whom.
    #[inline]
    pub(super) fn way_to<L: Lnd<Lnet>>(
        &mut self,
        cx: &Cx,
        lnds: &[L],
        target: ProcessId,
        from: Option<Nid>,
    ) -> Result<Way, OpRefused> {
        let from = match from {
            Some(nid) if self.routes.lead_to(target.nid.net()) => Some(self.own_ni(nid)?),
            Some(nid) => Some(self.ni_from(nid, target.nid)?),
            None => None,
        };
        if let Some(key) = self.recent
            && let Some(p) = self.peers.get(key).filter(|p| p.id == target)
            && from.is_none_or(|ni| ni == p.ni)
        {
            return Ok(Way::Peer(Hop { ni: p.ni, via: target, known: Some(key), rail: false, only: true }));
        }
        if self.is_own(target.nid) {
            return Ok(Way::Own(from.unwrap_or_default()));
        }
        if let Some(rail) = self.rail_to(cx, lnds, target, from, None) {
            return Ok(Way::Peer(rail));
        }
        if self.routes.lead_to(target.nid.net()) {
            let may = |ni, _| from.is_none_or(|f| f == ni);
            let way = self.way_behind(target.nid, None, may);
            return way.or_else(|why| self.way_to_gateway(target.nid, may).ok_or(why));
        }
        self.way_exactly(lnds, target, from)
    }

    /// The way to a node behind routers, that `but` is none of.
    fn way_behind(
        &mut self,
        target: Nid,
        but: Option<Nid>,
        may: impl Fn(NiId, Nid) -> bool,
    ) -> Result<Way, OpRefused> {
        let Some((ni, via)) = self.gateway_to(target, but, may) else {
            let long = self.routes.cannot_name(target);
            return Err(if long { OpRefused::LongNid(target) } else { OpRefused::NoRoute(target) });
        };
        Ok(Way::Peer(Hop { ni, via, known: None, rail: false, only: false }))
    }

    /// The way to the gateway that `target` is a NID of: to the one that it has on a network of ours.
    fn way_to_gateway(&self, target: Nid, may: impl Fn(NiId, Nid) -> bool) -> Option<Way> {
        let gateway = self.routes.gateway_of(target)?;
        let (ni, via) = (ni_to_gateway(&self.nis, gateway, may)?, ProcessId::lustre(gateway));
        Some(Way::Peer(Hop { ni, via, known: None, rail: true, only: false }))
    }

    /// By which NI, of those with NIDs that it may leave by, another node's message goes on, and to whom: exactly to its target, or to
    /// a gateway that is not its sender.
    pub(super) fn way_on<L: Lnd<Lnet>>(
        &mut self,
        lnds: &[L],
        target: ProcessId,
        sender: Nid,
        may: impl Fn(Nid) -> bool,
    ) -> Result<Way, OpRefused> {
        if self.routes.lead_to(target.nid.net()) {
            return self.way_behind(target.nid, Some(sender), |_, nid| may(nid));
        }
        self.way_exactly(lnds, target, None)
    }

    /// By which NI a message goes to exactly this NID of a peer's.
    #[inline]
    fn way_exactly<L: Lnd<Lnet>>(
        &self,
        lnds: &[L],
        target: ProcessId,
        from: Option<NiId>,
    ) -> Result<Way, OpRefused> {
        if self.is_own(target.nid) {
            return Ok(Way::Own(from.unwrap_or_default()));
        }
        let ni = from.or_else(|| self.ni_to(lnds, target)).ok_or(OpRefused::Target(target.nid))?;
        Ok(Way::Peer(Hop { ni, via: target, known: None, rail: false, only: true }))
    }

    /// The NI by which a message goes to `target`: of several the one whose LND knows it, or the first. `None` where none
    /// leads there.
    #[inline]
    fn ni_to<L: Lnd<Lnet>>(&self, lnds: &[L], target: ProcessId) -> Option<NiId> {
        let id = |at: usize| NiId(at as u8);
        if let [ni] = self.nis.as_slice() {
            return ni.reaches(target.nid).then_some(id(0));
        }
        let leads = |at: &usize| self.nis.get(*at).is_some_and(|n: &Ni| !n.gone && n.reaches(target.nid));
        let lives = |at: &usize| self.nis.get(*at).is_some_and(|n: &Ni| !n.health.fatal);
        // Without a link on any it is tried nevertheless.
        let some = (0..self.nis.len()).any(|at| leads(&at) && lives(&at));
        let leads = |at: &usize| leads(at) && (!some || lives(at));
        let mut all = (0..self.nis.len()).filter(leads);
        let knows = |at: &usize| lnds.get(*at).is_some_and(|l| l.find(target).is_some());
        all.clone().find(knows).or_else(|| all.next()).map(id)
    }
}
