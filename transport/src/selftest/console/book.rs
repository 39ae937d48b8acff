//! A console's book: its nodes, groups, batches and tests.

use std::collections::BTreeMap;

use super::command::{NewTest, Side, States};
use crate::wire::Nid;

/// State of a node, as its answers and their absence tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// In our session.
    Active,
    /// In another one.
    Busy,
    /// It was in our session, and answers no more.
    Down,
    /// It has never answered, or is in no session.
    Unknown,
}

impl NodeState {
    /// As lst prints it.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Active => "Active",
            NodeState::Busy => "Busy",
            NodeState::Down => "Down",
            NodeState::Unknown => "Unknown",
        }
    }

    /// Whether it is one of `states`.
    pub fn among(self, states: States) -> bool {
        match self {
            NodeState::Active => states.active,
            NodeState::Busy => states.busy,
            NodeState::Down => states.down,
            NodeState::Unknown => states.unknown,
        }
    }
}

/// A node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) state: NodeState,
    /// Time at which it last answered, in ns.
    pub(super) heard: u64,
    /// Time at which its session would end if it were asked nothing more, in ns from there; 0 for never.
    pub(super) patience: u64,
    /// Groups that it is in.
    pub(super) groups: usize,
}

/// Nodes by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// ACTIVE.
    pub active: usize,
    /// BUSY.
    pub busy: usize,
    /// DOWN.
    pub down: usize,
    /// UNKNOWN.
    pub unknown: usize,
}

impl Counts {
    /// All of them.
    pub fn total(&self) -> usize {
        self.active + self.busy + self.down + self.unknown
    }
}

/// A group.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) nodes: Vec<Nid>,
}

/// A test.
#[derive(Clone, Debug)]
pub(super) struct Test {
    pub(super) spec: NewTest,
    pub(super) clients: Vec<Nid>,
    pub(super) servers: Vec<Nid>,
}

impl Test {
    /// Nodes of a side.
    pub(super) fn nodes(&self, side: Side) -> &[Nid] {
        match side {
            Side::Client => &self.clients,
            Side::Server => &self.servers,
        }
    }
}

/// A batch.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) running: bool,
    pub(super) tests: Vec<Test>,
}

impl Batch {
    /// Nodes of a side of all its tests, each once.
    pub(super) fn nodes(&self, side: Side) -> Vec<Nid> {
        let mut all = Vec::new();
        for nid in self.tests.iter().flat_map(|t| t.nodes(side)) {
            if !all.contains(nid) {
                all.push(*nid);
            }
        }
        all
    }

    /// A test by its number, from 1.
    pub(super) fn test(&self, n: u32) -> Option<&Test> {
        self.tests.get((n as usize).checked_sub(1)?)
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) nodes: BTreeMap<Nid, Node>,
    pub(super) groups: Vec<Group>,
    pub(super) batches: Vec<Batch>,
    /// Ids run on over the sessions.
    last_batch: u64,
}

impl Book {
    /// Forgets what belongs to a session.
    pub(super) fn clear(&mut self) {
        self.nodes.clear();
        self.groups.clear();
        self.batches.clear();
    }

    /// A group by its name.
    pub(super) fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|g| g.name == name)
    }

    /// A batch by its name.
    pub(super) fn batch(&self, name: &str) -> Option<&Batch> {
        self.batches.iter().find(|b| b.name == name)
    }

    /// A batch by its name.
    pub(super) fn batch_mut(&mut self, name: &str) -> Option<&mut Batch> {
        self.batches.iter_mut().find(|b| b.name == name)
    }

    /// Makes a batch.
    pub(super) fn add_batch(&mut self, name: &str) {
        self.last_batch += 1;
        let id = self.last_batch;
        self.batches.push(Batch { id, name: name.to_owned(), running: false, tests: Vec::new() });
    }

    /// The state of a node.
    pub(super) fn state(&self, nid: Nid) -> NodeState {
        self.nodes.get(&nid).map_or(NodeState::Unknown, |n| n.state)
    }

    /// Takes a node in, if it is new.
    pub(super) fn know(&mut self, nid: Nid) {
        let new = Node { state: NodeState::Unknown, heard: 0, patience: 0, groups: 0 };
        self.nodes.entry(nid).or_insert(new);
    }

    /// Puts a node into a group.
    pub(super) fn join(&mut self, group: &str, nid: Nid) {
        self.know(nid);
        let Some(g) = self.groups.iter_mut().find(|g| g.name == group) else { return };
        if !g.nodes.contains(&nid) {
            g.nodes.push(nid);
            if let Some(n) = self.nodes.get_mut(&nid) {
                n.groups += 1;
            }
        }
    }

    /// Takes nodes out of a group; those that are in none any more are forgotten.
    pub(super) fn leave(&mut self, group: &str, nids: &[Nid]) {
        let Some(g) = self.groups.iter_mut().find(|g| g.name == group) else { return };
        for nid in nids {
            if !g.nodes.contains(nid) {
                continue;
            }
            g.nodes.retain(|n| n != nid);
            if let Some(n) = self.nodes.get_mut(nid) {
                n.groups = n.groups.saturating_sub(1);
            }
        }
        self.sweep();
    }

    /// Forgets nodes that are in no group.
    pub(super) fn sweep(&mut self) {
        self.nodes.retain(|_, n| n.groups > 0);
    }

    /// Deletes a group; its nodes are out of it already.
    pub(super) fn delete(&mut self, group: &str) {
        let nodes = self.group(group).map(|g| g.nodes.clone()).unwrap_or_default();
        self.leave(group, &nodes);
        self.groups.retain(|g| g.name != group);
    }

    /// Nodes of a list by state.
    pub(super) fn count(&self, nids: &[Nid]) -> Counts {
        nids.iter().fold(Counts::default(), |mut c, nid| {
            match self.state(*nid) {
                NodeState::Active => c.active += 1,
                NodeState::Busy => c.busy += 1,
                NodeState::Down => c.down += 1,
                NodeState::Unknown => c.unknown += 1,
            }
            c
        })
    }

    /// Nodes of a list whose states are wanted, with them.
    pub(super) fn among(&self, nids: &[Nid], states: States) -> Vec<(Nid, NodeState)> {
        nids.iter().map(|n| (*n, self.state(*n))).filter(|(_, s)| s.among(states)).collect()
    }

    /// The batch in which a test has this group.
    pub(super) fn user(&self, group: &str) -> Option<&Batch> {
        self.batches.iter().find(|b| b.tests.iter().any(|t| t.spec.from == group || t.spec.to == group))
    }
}

/// The destinations of client `k` (selftest.md §5): `span` of them from ((k / dist) * span) mod ndst on, cyclic.
pub(super) fn destinations(k: usize, dist: u32, span: u32, servers: &[Nid]) -> Vec<Nid> {
    let first = (k as u64 / u64::from(dist.max(1))).wrapping_mul(u64::from(span));
    let first = first.checked_rem(servers.len() as u64).unwrap_or(0) as usize;
    servers.iter().cycle().skip(first).take((span as usize).min(servers.len())).copied().collect()
}

/// The loop count that servers are told (selftest.md §5), for which they keep buffers.
pub(super) fn server_loop(clients: usize, servers: usize, dist: u32, span: u32, concurrency: u32) -> u32 {
    let (dist64, span) = (u64::from(dist.max(1)), u64::from(span.max(1)));
    let shares = (servers as u64).div_ceil(span).max(1);
    let most = (clients as u64).div_ceil(dist64).div_ceil(shares);
    let n = most.saturating_mul(dist64).saturating_mul(u64::from(concurrency));
    u32::try_from(n).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nid(n: u8) -> Nid {
        format!("192.168.80.{n}@tcp").parse().unwrap()
    }

    /// upper.md §4, the capture lst-distribute-discard: clients 11 and 12 (which is on the wire), servers 13 and 14.
    #[test]
    fn clients_have_the_destinations_that_lst_gives_them() {
        let servers = [nid(13), nid(14)];
        for ((dist, span, concurrency), of_12, loops) in [
            ((1, 1, 2), &[14][..], 2),
            ((2, 1, 2), &[13], 4),
            ((1, 2, 2), &[13, 14], 4),
            ((2, 2, 1), &[13, 14], 2),
            ((1, 1, 1), &[14], 1),
        ] {
            let want: Vec<Nid> = of_12.iter().map(|n| nid(*n)).collect();
            assert_eq!(destinations(1, dist, span, &servers), want, "{dist}:{span}");
            assert_eq!(server_loop(2, 2, dist, span, concurrency), loops, "{dist}:{span}");
        }
        assert_eq!(destinations(2, 1, 2, &[nid(1), nid(2), nid(3)]), [nid(2), nid(3)]);
        assert_eq!(destinations(1, 1, 2, &[nid(1), nid(2), nid(3)]), [nid(3), nid(1)]);
        assert_eq!(server_loop(200, 1, 1, 1, 1024), 200 * 1024);
        assert_eq!(server_loop(usize::MAX, 1, u32::MAX, 1, 1024), u32::MAX);
    }

    #[test]
    fn nodes_are_known_as_long_as_a_group_has_them() {
        let mut b = Book::default();
        for g in ["a", "b"] {
            b.groups.push(Group { name: g.into(), nodes: Vec::new() });
            b.join(g, nid(1));
            b.join(g, nid(1));
        }
        b.join("b", nid(2));
        assert_eq!(b.count(&[nid(1), nid(2)]), Counts { unknown: 2, ..Counts::default() });
        b.delete("b");
        assert_eq!(b.nodes.keys().copied().collect::<Vec<_>>(), [nid(1)]);
        b.leave("a", &[nid(1), nid(7)]);
        assert!(b.nodes.is_empty() && b.group("a").is_some());
        b.add_batch("x");
        b.clear();
        b.add_batch("y");
        assert_eq!(b.batch("y").unwrap().id, 2, "ids run on over sessions");
    }
}
