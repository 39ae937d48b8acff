//! Homes on a simulated network: shards of one node, and peers that move between them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Ev, Lend, Net};
use crate::node::Input;
use crate::stream::{Bucket, LendId, ShardId};

impl Net {
    /// The shard of `node`'s node that is home to the peer at `ip`. Shards of one node are added one behind the other,
    /// the first as shard 0.
    pub fn home(&self, node: usize, ip: IpAddr) -> usize {
        let m = &self.nodes[node].machine;
        node - usize::from(m.config().shards.me.0) + usize::from(m.home_of(Bucket::of(ip)).0)
    }

    /// Moves the home of the peers in a bucket to another shard of the same node, at once; `false` when it cannot be
    /// moved now.
    pub fn move_home(&mut self, node: usize, b: Bucket, to: ShardId) -> bool {
        let shards = self.nodes[node].machine.config().shards;
        let first = node - usize::from(shards.me.0);
        let Some(migrating) = self.nodes[node].machine.migrate_out(self.now, b, to) else { return false };
        let new = first + usize::from(to.0);
        for link in &mut self.links {
            for end in 0..2 {
                if link[end].node == node && Bucket::of(link[1 - end].addr.ip()) == b {
                    link[end].node = new;
                }
            }
        }
        for ev in self.evs.values_mut() {
            match ev {
                Ev::Connect(n, spec, _) if *n == node && Bucket::of(spec.remote.ip()) == b => *n = new,
                Ev::DialFailed(n, id, ..) if *n == node && migrating.dials().any(|d| d == *id) => *n = new,
                _ => {}
            }
        }
        let mine: BTreeMap<LendId, Lend> = std::mem::take(&mut self.nodes[node].lends);
        for (id, l) in mine {
            self.nodes[if id.bucket() == b { new } else { node }].lends.insert(id, l);
        }
        let cookies: Vec<_> =
            self.cookies.keys().filter(|k| k.0 == node && Bucket::of(k.2.ip()) == b).copied().collect();
        for key in cookies {
            if let Some(c) = self.cookies.remove(&key) {
                self.cookies.insert((new, key.1, key.2, key.3), c);
            }
        }
        self.drain(node);
        self.input(new, Input::MigrateIn(shards.me, migrating));
        for other in (first..first + usize::from(shards.count)).filter(|o| *o != node && *o != new) {
            self.input(other, Input::Moved(b, to));
        }
        self.input(new, Input::Settled(b));
        true
    }
}
