//! LNet's part of peers that move to another shard: their credits, what waits for those, and the operations on them.

use super::Lnet;
use super::api::Op;
use super::cut::Barred;
use super::discovery::About;
use super::hop::Way;
use super::ni::Ni;
use super::ops::OpRec;
use super::peer::Peer;
use super::queues::Total;
use crate::hash::OwnMap;
use crate::lnd::{AppId, Cx, Lnd};
use crate::stream::slab::Key;
use crate::stream::{Bucket, ShardId};
use crate::wire::Nid;

/// Peers on their way to another shard.
#[derive(Debug)]
pub(crate) struct Migrating {
    peers: Vec<(Key, Peer)>,
    ops: Vec<(Key, OpRec)>,
    barred: [Barred; 2],
}

/// A bucket that has come, while operations on it may still be on their way over its old home.
#[derive(Debug)]
pub(super) struct Arrival {
    bucket: Bucket,
    from: ShardId,
    held: Vec<(AppId, Op, Way)>,
}

/// Migrating operations by their new names, and peers until the LND has entries for them.
#[derive(Debug, Default)]
pub(super) struct Renamed {
    ops: OwnMap<Key, Key>,
    peers: OwnMap<Key, Peer>,
}

impl Lnet {
    /// Whether nothing that has come is still being taken in, and nothing is delayed.
    pub(crate) fn may_migrate(&self) -> bool {
        self.arrival.is_none() && self.delayed() == 0 && !self.far_waits()
    }

    /// Gives up the bucket's operations, and these peers.
    pub(crate) fn migrate_out(
        &mut self,
        cx: &mut Cx,
        b: Bucket,
        peers: &[Key],
        hosts: impl Iterator<Item = Key>,
    ) -> Migrating {
        self.recovery_leaves(cx, b);
        let mut peers: Vec<(Key, Peer)> =
            peers.iter().filter_map(|k| Some((*k, self.peers.remove(*k)?))).collect();
        let on_their_way = Total::default();
        for (key, p) in &mut peers {
            p.waiting.move_to(&on_their_way);
            self.discovery.held = self.discovery.held.saturating_sub(p.discovery.waiting());
            self.timers.cancel(*key);
            self.guest_leaves(p.host, p.guest.as_deref_mut());
            if let Some(serial) = p.discovery.serial() {
                self.discovery.asked.remove(&serial);
            }
            cx.budget.gave(p.host, p.uses);
            if let Some(ni) = self.nis.get_mut(p.ni.index()) {
                ni.uses.sub(p.uses);
            }
        }
        // Their credits of the NI and shares of their hosts serve others.
        for host in hosts {
            while self.wake_one(cx, host) {}
        }
        let waiters = |n: &mut Ni| std::mem::take(&mut n.waiters);
        for waiting in self.nis.iter_mut().flat_map(waiters).collect::<Vec<_>>() {
            if let Some(p) = self.peers.get_mut(waiting) {
                p.listed_for_ni = false;
                self.kicks.push_back(waiting);
            }
        }
        self.gateways_leave(b);
        self.fars_leave(b);
        let own: Vec<Nid> = self.nis.iter().map(|n| n.nid).collect();
        Migrating { peers, ops: self.ops.take(b, &own), barred: self.barred_leave(b) }
    }

    /// Takes a bucket in: first the operations; its peers follow one by one as the LND takes them in.
    pub(crate) fn migrate_in(&mut self, cx: &mut Cx, b: Bucket, from: ShardId, migrating: Migrating) {
        for (old, rec) in migrating.ops {
            let new = self.ops.put(cx.now, rec);
            self.renamed.ops.insert(old, new);
        }
        self.renamed.peers.extend(migrating.peers);
        self.barred_come(cx.now, migrating.barred);
        self.gateways_come(cx, b);
        self.arrival = Some(Arrival { bucket: b, from, held: Vec::new() });
    }

    /// The name here of an operation that came.
    pub(super) fn new_name(&self, old: Key) -> Key {
        self.renamed.ops.get(&old).copied().unwrap_or(Key::NOWHERE)
    }

    /// The LND has an entry for a peer that came.
    pub(super) fn take_in(&mut self, cx: &mut Cx, old: Key, entry: Key, host: Key) -> Key {
        let Some(mut p) = self.renamed.peers.remove(&old) else { return Key::NOWHERE };
        for tx in p.waiting.iter_mut().chain(p.discovery.held()) {
            if let Some(op) = tx.done.op() {
                *op = self.renamed.ops.get(op).copied().unwrap_or(Key::NOWHERE);
            }
        }
        p.waiting.move_to(&self.waiting);
        self.discovery.held += p.discovery.waiting();
        (p.entry, p.host) = (entry, host);
        (p.listed_for_ni, p.listed_for_host) = (false, false);
        if let Some(ni) = self.nis.get_mut(p.ni.index()) {
            ni.uses.add(p.uses);
        }
        cx.budget.took(host, p.uses);
        let waits = p.waiting.iter().map(|tx| tx.deadline).min();
        let serial = p.discovery.serial();
        let key = self.peers.insert(p);
        if let Some(serial) = serial {
            self.discovery.asked.insert(serial, About::Peer(key));
        }
        self.guest_comes(key, cx.now);
        if let Some(deadline) = waits {
            self.timers.by(cx.now, key, deadline);
            self.kicks.push_back(key);
        }
        key
    }

    /// All of it is here.
    pub(crate) fn migrated_in(&mut self) {
        self.renamed = Renamed::default();
    }

    /// Whether an operation must wait for those that went to the bucket's old home before it; it is taken then.
    pub(super) fn holds(&mut self, from: Option<ShardId>, app: AppId, op: &mut Op, way: Way) -> bool {
        let (Some(a), Way::Peer(hop)) = (&mut self.arrival, way) else { return false };
        let holds = hop.bucket() == Some(a.bucket) && from != Some(a.from);
        if holds {
            a.held.push((app, op.take(), way));
        }
        holds
    }

    /// Nothing comes over the old home any more.
    pub(crate) fn settled<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], b: Bucket) {
        if self.arrival.as_ref().is_some_and(|a| a.bucket == b)
            && let Some(a) = self.arrival.take()
        {
            for (app, mut op, way) in a.held {
                self.pass_on(cx, lnds, app, &mut op, way, None);
            }
        }
    }
}
