//! Homes on the move: everything that a machine knows of a bucket's peers, packed on one shard and adopted by another.
//!
//! What is packed: peers, their connections in whatever state (handshaking and closing ones too), lends, dials, and the
//! operations on them. Keys are a shard's own, so each is exchanged for a new one on arrival; names that others hold
//! ([`ConnId`], [`LendId`](super::LendId), [`DialId`], wire handles) are unique over the node and stay.
//!
//! The runtime sees to it that nothing reaches either machine in between, and that what was on its way to the old home
//! arrives at the new one before anything that was sent there at once (`transport::node::moving`). Operations are held
//! back here from [`Input::Adopt`](super::Input::Adopt) to [`Input::Settled`](super::Input::Settled), but for those
//! that the old home passes on, so that an application's keep their order.

use std::net::IpAddr;

use super::api::Op;
use super::budget::NOBODY;
use super::conn::Conn;
use super::homes::Bucket;
use super::io::{AppId, ConnId, DialId, ShardId};
use super::lnet::ops::OpRec;
use super::lnet::{Delivery, TxDone};
use super::machine::{LendRec, Machine};
use super::peer::{DialState, Peer};
use super::slab::{Key, Slab};
use super::txq::Tx;
use crate::hash::OwnMap;

/// A key that no slab knows.
const NOWHERE: Key = Key { index: u32::MAX, generation: u32::MAX };

/// A bucket's peers between two homes.
#[derive(Debug)]
pub struct Luggage {
    bucket: Bucket,
    peers: Vec<(Key, Peer)>,
    conns: Vec<(Key, Conn)>,
    lends: Vec<(Key, LendRec)>,
    ops: Vec<(Key, OpRec)>,
    dials: Vec<(DialId, Key)>,
    /// Whom peers and connections are charged to.
    hosts: Vec<(Key, IpAddr)>,
    /// Messages in boxes, which will come to the new home.
    boxes: u32,
}

impl Luggage {
    /// Whose peers.
    pub fn bucket(&self) -> Bucket {
        self.bucket
    }

    /// Dials under way to them.
    pub fn dials(&self) -> impl Iterator<Item = DialId> + '_ {
        self.dials.iter().map(|(d, _)| *d)
    }

    /// Their connections.
    pub fn conns(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.conns.iter().map(|(_, c)| c.id)
    }
}

/// A bucket that has come, while operations on it may still be on their way over its old home.
#[derive(Debug)]
pub(super) struct Arrival {
    bucket: Bucket,
    from: ShardId,
    held: Vec<(AppId, Op)>,
}

/// Old keys and what became of them.
#[derive(Default)]
struct Renamed(OwnMap<Key, Key>);

impl Renamed {
    fn get(&self, old: Key) -> Key {
        self.0.get(&old).copied().unwrap_or(NOWHERE)
    }

    fn all(&self, keys: impl IntoIterator<Item = Key>) -> impl Iterator<Item = Key> {
        keys.into_iter().filter_map(|k| self.0.get(&k).copied())
    }
}

fn keys<T>(slab: &Slab<T>) -> impl Iterator<Item = (Key, &T)> {
    (0..slab.capacity()).filter_map(|i| {
        let key = slab.key_at(i)?;
        slab.get(key).map(|v| (key, v))
    })
}

fn take<T>(slab: &mut Slab<T>, of: &[Key]) -> Vec<(Key, T)> {
    of.iter().filter_map(|k| Some((*k, slab.remove(*k)?))).collect()
}

fn rename_done(done: &mut TxDone, ops: &Renamed) {
    if let TxDone::Op(op) = done {
        *op = ops.get(*op);
    }
}

pub(super) fn shaking(c: &Conn) -> bool {
    c.hs.shaking() && c.hs_deadline != u64::MAX
}

impl Machine {
    /// Where operations on a bucket's peers belong.
    pub fn home_of(&self, b: Bucket) -> ShardId {
        self.homes.at(b)
    }

    /// Whether a bucket can be moved as a whole. Not while it shares something with another one: a peer whose NID is
    /// not the address that it comes from, or a REPLY that came over another peer's connection.
    pub fn may_leave(&self, b: Bucket) -> bool {
        let at = |c: &Key| self.conns.get(*c).map(|c| c.bucket);
        let peers = keys(&self.peers).all(|(_, p)| {
            let shaking = match p.dial() {
                DialState::Shaking(c, _) => Some(c),
                _ => None,
            };
            let mut conns = p.conns.iter().chain(shaking.iter()).filter_map(at);
            (p.bucket != b || p.leaving.is_none())
                && conns.all(|c| c == p.bucket || (c != b && p.bucket != b))
        });
        let lends = keys(&self.lends).all(|(_, l)| {
            let owner = self.peers.get(l.peer).is_some_and(|p| p.bucket == b);
            owner == (l.name.bucket() == b)
        });
        let replies = keys(&self.conns).all(|(_, c)| match c.rx.delivery {
            Delivery::Reply(op) => self.ops.bucket_of(op).is_none_or(|o| (o == b) == (c.bucket == b)),
            _ => true,
        });
        !self.down
            && self.arrival.is_none()
            && self.boxes.movable()
            && self.homes.at(b) == self.cfg.shards.me
            && peers
            && lends
            && replies
    }

    /// Packs a bucket for `to`; `None` when it cannot be moved now. All that this shard was told of its connections
    /// must have been handled, and all outputs carried out.
    pub fn leave(&mut self, now: u64, b: Bucket, to: ShardId) -> Option<Box<Luggage>> {
        if !self.may_leave(b) || to == self.cfg.shards.me {
            return None;
        }
        self.now = self.now.max(now);
        self.homes.set(b, to);
        let of = |keep: &dyn Fn(&Peer) -> bool| -> Vec<Key> {
            keys(&self.peers).filter(|(_, p)| keep(p)).map(|(k, _)| k).collect()
        };
        let peers = of(&|p| p.bucket == b);
        let conns: Vec<Key> = keys(&self.conns).filter(|(_, c)| c.bucket == b).map(|(k, _)| k).collect();
        let lends: Vec<Key> =
            keys(&self.lends).filter(|(_, l)| l.name.bucket() == b).map(|(k, _)| k).collect();
        let hosts = self.unload(&peers, &conns);
        let luggage = Luggage {
            bucket: b,
            hosts,
            dials: self.dials.iter().filter(|(_, p)| peers.contains(p)).map(|(d, p)| (*d, *p)).collect(),
            peers: take(&mut self.peers, &peers),
            conns: take(&mut self.conns, &conns),
            lends: take(&mut self.lends, &lends),
            ops: self.ops.take(b, self.cfg.nid),
            boxes: self.boxes.take(b),
        };
        for (d, _) in &luggage.dials {
            self.dials.remove(d);
        }
        for (key, p) in &luggage.peers {
            self.peer_timers.cancel(*key);
            self.ni.sub(p.uses);
            if self.by_peer.get(&p.id) == Some(key) {
                self.by_peer.remove(&p.id);
            }
        }
        for (key, c) in &luggage.conns {
            self.conn_timers.cancel(*key);
            self.by_id.remove(&c.id);
        }
        for (_, l) in &luggage.lends {
            self.adopted.remove(&l.name);
        }
        // What they held of the NI's credits and of their hosts' shares serves others.
        for (host, _) in &luggage.hosts {
            while self.wake_one(*host) {}
        }
        for waiting in std::mem::take(&mut self.ni_waiters) {
            if let Some(p) = self.peers.get_mut(waiting) {
                p.listed_for_ni = false;
                self.kicks.push_back(waiting);
            }
        }
        self.counters.homes_left += 1;
        self.settle();
        Some(Box::new(luggage))
    }

    /// Takes a bucket in.
    pub(super) fn adopt(&mut self, from: ShardId, luggage: Luggage) {
        let Luggage { bucket, peers, conns, lends, ops, dials, hosts, boxes } = luggage;
        let at = |host: Key| hosts.iter().find(|(k, _)| *k == host).map_or(NOBODY, |(_, ip)| *ip);
        self.boxes.put(bucket, boxes);
        self.homes.set(bucket, self.cfg.shards.me);
        self.counters.homes_adopted += 1;
        let mut renamed: [Renamed; 4] = Default::default();
        let [peer_names, conn_names, lend_names, op_names] = &mut renamed;
        for (old, rec) in ops {
            op_names.0.insert(old, self.ops.put(self.now, rec));
        }
        for (old, p) in peers {
            let id = p.id;
            self.ni.add(p.uses);
            let ip = at(p.host);
            let key = self.peers.insert(p);
            self.charge_peer(key, ip);
            // All that is timed is looked at anew.
            self.peer_by(key, self.now);
            peer_names.0.insert(old, key);
            // One that only claims to be this peer lives here already: it goes.
            let other = self.by_peer.insert(id, key);
            if other.is_some() {
                self.close_set(other, super::api::LnetError::ConnLost, false);
            }
        }
        for (old, c) in conns {
            let id = c.id;
            let (ip, shakes) = (at(c.host), shaking(&c));
            self.next_ticket = self.next_ticket.max(c.rx.ticket);
            let key = self.conns.insert(c);
            self.charge_conn(key, ip);
            if shakes {
                self.shakes(key);
            }
            self.conn_by(key, self.now);
            conn_names.0.insert(old, key);
            self.by_id.insert(id, key);
        }
        for (old, mut l) in lends {
            l.peer = peer_names.get(l.peer);
            rename_done(&mut l.done, op_names);
            let name = l.name;
            let key = self.lends.insert(l);
            lend_names.0.insert(old, key);
            self.adopted.insert(name, key);
        }
        for (d, peer) in dials {
            self.dials.insert(d, peer_names.get(peer));
        }
        self.rename(&renamed);
        self.arrival = Some(Arrival { bucket, from, held: Vec::new() });
        match (self.down, self.leaving.gone()) {
            (false, _) => {}
            // Its handshakes come to their end first, as ours do.
            (true, false) => self.end_work(),
            (true, true) => self.let_go(),
        }
    }

    fn rename(&mut self, [peers, conns, lends, ops]: &[Renamed; 4]) {
        let done = |tx: &mut Tx| rename_done(&mut tx.done, ops);
        for key in conns.0.values() {
            let Some(c) = self.conns.get_mut(*key) else { continue };
            c.peer = c.peer.and_then(|p| peers.0.get(&p).copied());
            c.lends = lends.all(std::mem::take(&mut c.lends)).collect();
            c.txq.iter_mut().for_each(done);
            // What was handed to the stream's owner is as good as sent there.
            c.sent = c.pushed;
            if let Delivery::Reply(op) = &mut c.rx.delivery {
                *op = ops.get(*op);
            }
        }
        for key in peers.0.values() {
            let Some(p) = self.peers.get_mut(*key) else { continue };
            p.conns = conns.all(std::mem::take(&mut p.conns)).collect();
            p.stalled = conns.all(std::mem::take(&mut p.stalled)).collect();
            p.rename_dial(|c| conns.get(c));
            for pending in p.zc.pending_mut() {
                (pending.lend, pending.conn) = (lends.get(pending.lend), conns.get(pending.conn));
            }
            p.waiting.iter_mut().chain(&mut p.queue).for_each(done);
            (p.listed_for_ni, p.listed_for_host) = (false, false);
            if !p.waiting.is_empty() {
                self.kicks.push_back(*key);
            }
            let all = p.conns.clone();
            all.into_iter().for_each(|c| self.stall_again(*key, c));
        }
    }

    /// Where the address of the peer falls that an operation is on; `None` for those that are on none.
    pub(super) fn bucket_of(&self, op: &Op) -> Option<Bucket> {
        match op {
            Op::Put { target, .. } | Op::Get { target, .. } | Op::Ping { target, .. }
                if !self.is_own(target.nid) =>
            {
                target.nid.ip().map(Bucket::of)
            }
            _ => None,
        }
    }

    /// Whether an operation must wait for those that went to the bucket's old home before it.
    pub(super) fn holds(&mut self, from: Option<ShardId>, app: AppId, op: Op) -> Option<(AppId, Op)> {
        let bucket = self.bucket_of(&op);
        match &mut self.arrival {
            Some(a) if bucket == Some(a.bucket) && from != Some(a.from) => {
                a.held.push((app, op));
                None
            }
            _ => Some((app, op)),
        }
    }

    /// Nothing comes over the old home any more.
    pub(super) fn settled(&mut self, b: Bucket) {
        if self.arrival.as_ref().is_some_and(|a| a.bucket == b)
            && let Some(a) = self.arrival.take()
        {
            for (app, op) in a.held {
                self.command(app, op, None);
            }
        }
    }
}

impl super::lnet::ops::Ops {
    /// The bucket of an operation's target.
    fn bucket_of(&self, op: Key) -> Option<Bucket> {
        self.get(op).and_then(OpRec::bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luggage_may_cross_threads() {
        fn check<T: Send>() {}
        check::<Luggage>();
    }
}
