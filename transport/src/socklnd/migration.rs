//! socklnd's part of peers that move to another shard: the peers, their connections in whatever state (handshaking and
//! closing ones too), lends and dials. Keys are a shard's own, so each is exchanged for a new one on arrival; names that
//! others hold ([`ConnId`], [`LendId`](crate::stream::LendId), [`DialId`]) are unique over the node and stay.

use std::net::IpAddr;

use super::Socklnd;
use super::conn::Conn;
use super::lends::LendRec;
use super::peer::{DialState, Peer};
use crate::hash::OwnMap;
use crate::lnd::budget::NOBODY;
use crate::lnd::{Cx, LnetError, Upper};
use crate::stream::slab::{Key, Slab};
use crate::stream::{Bucket, ConnId, DialId};

/// Peers on their way to another shard.
#[derive(Debug)]
pub(crate) struct Migrating<U: Upper> {
    peers: Vec<(Key, Peer<U::Token>)>,
    conns: Vec<(Key, Conn<U>)>,
    lends: Vec<(Key, LendRec<U::Token>)>,
    dials: Vec<(DialId, Key)>,
    /// Hosts that peers and connections are charged to.
    hosts: Vec<(Key, IpAddr)>,
    /// Messages in copy jobs, which will come to the new home.
    copy_jobs: u32,
}

impl<U: Upper> Migrating<U> {
    /// Dials under way.
    pub(crate) fn dials(&self) -> impl Iterator<Item = DialId> + '_ {
        self.dials.iter().map(|(d, _)| *d)
    }

    /// Connections.
    pub(crate) fn conns(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.conns.iter().map(|(_, c)| c.id)
    }

    /// Hosts that were charged.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = Key> + '_ {
        self.hosts.iter().map(|(host, _)| *host)
    }

    /// LNet's entries of the peers.
    pub(crate) fn above(&self) -> Vec<Key> {
        self.peers.iter().map(|(_, p)| p.up).collect()
    }
}

/// Old keys and what became of them.
#[derive(Default)]
struct Renamed(OwnMap<Key, Key>);

impl Renamed {
    fn get(&self, old: Key) -> Key {
        self.0.get(&old).copied().unwrap_or(Key::NOWHERE)
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

impl<U: Upper> Socklnd<U> {
    /// Whether a bucket can be moved as a whole. Not while it shares something with another one: a peer whose NID is
    /// not the address that it comes from, or a REPLY that came over another peer's connection. Nor while a message of it comes
    /// or leaves in parts.
    pub(crate) fn may_migrate(&self, up: &U, b: Bucket) -> bool {
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
        let replies = keys(&self.conns).all(|(_, c)| match up.concerns(&c.rx.delivery) {
            Ok(Some(o)) => (o == b) == (c.bucket == b),
            _ => true,
        });
        let coming = keys(&self.conns).all(|(_, c)| c.bucket != b || !c.rx.comes_in_parts());
        let begun = keys(&self.begun).all(|(_, o)| self.peers.get(o.peer).is_none_or(|p| p.bucket != b));
        self.copy_jobs.movable() && peers && lends && replies && coming && begun
    }

    /// Packs a bucket.
    pub(crate) fn migrate_out(&mut self, cx: &mut Cx, b: Bucket) -> Migrating<U> {
        let of = |keep: &dyn Fn(&Peer<U::Token>) -> bool| -> Vec<Key> {
            keys(&self.peers).filter(|(_, p)| keep(p)).map(|(k, _)| k).collect()
        };
        let peers = of(&|p| p.bucket == b);
        let conns: Vec<Key> = keys(&self.conns).filter(|(_, c)| c.bucket == b).map(|(k, _)| k).collect();
        let lends: Vec<Key> =
            keys(&self.lends).filter(|(_, l)| l.name.bucket() == b).map(|(k, _)| k).collect();
        let hosts = self.unload(cx, &peers, &conns);
        let migrating = Migrating {
            hosts,
            dials: self.dials.iter().filter(|(_, p)| peers.contains(p)).map(|(d, p)| (*d, *p)).collect(),
            peers: take(&mut self.peers, &peers),
            conns: take(&mut self.conns, &conns),
            lends: take(&mut self.lends, &lends),
            copy_jobs: self.copy_jobs.take(b),
        };
        for (d, _) in &migrating.dials {
            self.dials.remove(d);
        }
        for (key, p) in &migrating.peers {
            self.peer_timers.cancel(*key);
            if self.by_peer.get(&p.id) == Some(key) {
                self.by_peer.remove(&p.id);
            }
        }
        for (key, c) in &migrating.conns {
            self.conn_timers.cancel(*key);
            self.by_id.remove(&c.id);
        }
        for (_, l) in &migrating.lends {
            self.migrated_lends.remove(&l.name);
        }
        migrating
    }

    /// Takes a bucket in.
    pub(crate) fn migrate_in(&mut self, up: &mut U, cx: &mut Cx, bucket: Bucket, migrating: Migrating<U>) {
        let Migrating { peers, conns, lends, dials, hosts, copy_jobs } = migrating;
        let at = |host: Key| hosts.iter().find(|(k, _)| *k == host).map_or(NOBODY, |(_, ip)| *ip);
        self.copy_jobs.put(bucket, copy_jobs);
        let mut renamed: [Renamed; 3] = Default::default();
        let [peer_names, conn_names, lend_names] = &mut renamed;
        for (old, p) in peers {
            let (id, above) = (p.id, p.up);
            let ip = at(p.host);
            let key = self.peers.insert(p);
            self.charge_peer(cx, key, ip);
            if let Some(p) = self.peers.get_mut(key) {
                p.up = up.peer_came(cx, above, key, p.host);
            }
            // All that is timed is looked at anew.
            self.peer_by(cx, key, cx.now);
            peer_names.0.insert(old, key);
            // One that only claims to be this peer lives here already: it goes.
            let other = self.by_peer.insert(id, key);
            if other.is_some() {
                self.close_set(up, cx, other, LnetError::ConnLost, false);
            }
        }
        for (old, c) in conns {
            let id = c.id;
            let (ip, shakes) = (at(c.host), c.admitted());
            self.next_ticket = self.next_ticket.max(c.rx.ticket);
            let key = self.conns.insert(c);
            self.charge_conn(cx, key, ip);
            if shakes {
                self.shakes(cx, key);
            }
            self.conn_by(cx, key, cx.now);
            conn_names.0.insert(old, key);
            self.by_id.insert(id, key);
        }
        for (old, mut l) in lends {
            l.peer = peer_names.get(l.peer);
            up.renamed(&mut l.done);
            let name = l.name;
            let key = self.lends.insert(l);
            lend_names.0.insert(old, key);
            self.migrated_lends.insert(name, key);
        }
        for (d, peer) in dials {
            self.dials.insert(d, peer_names.get(peer));
        }
        self.rename(up, cx, &renamed);
        match (cx.down, self.leaving.gone()) {
            (false, false) => {}
            // Its handshakes come to their end first, as ours do.
            (true, false) => up.stop(cx, self),
            (_, true) => self.let_go(up, cx),
        }
    }

    fn rename(&mut self, up: &mut U, cx: &mut Cx, [peers, conns, lends]: &[Renamed; 3]) {
        self.sets = self.sets.wrapping_add(1);
        for key in conns.0.values() {
            let Some(c) = self.conns.get_mut(*key) else { continue };
            c.peer = c.peer.and_then(|p| peers.0.get(&p).copied());
            c.lends = lends.all(std::mem::take(&mut c.lends)).collect();
            c.txq.iter_mut().for_each(|tx| up.renamed(&mut tx.done));
            // Bytes that the stream's owner was handed are as good as sent.
            c.sent = c.pushed;
            up.renamed_delivery(&mut c.rx.delivery);
        }
        for key in peers.0.values() {
            let Some(p) = self.peers.get_mut(*key) else { continue };
            p.conns = conns.all(std::mem::take(&mut p.conns)).collect();
            p.stalled = conns.all(std::mem::take(&mut p.stalled)).collect();
            // Of another LND's sets.
            p.usual = ([Key::NOWHERE; 2], 0);
            p.rename_dial(|c| conns.get(c));
            for pending in p.zc.pending_mut() {
                (pending.lend, pending.conn) = (lends.get(pending.lend), conns.get(pending.conn));
            }
            p.queue.iter_mut().for_each(|tx| up.renamed(&mut tx.done));
            let all = p.conns.clone();
            all.into_iter().for_each(|c| self.stall_again(cx, *key, c));
        }
    }
}
