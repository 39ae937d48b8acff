//! Figures of NIDs of which no entry is left, while the node that they are of is known: a NID whose connections have died is
//! one that is looked at then.
//!
//! An entry that comes for the same NID by the same NI of ours has them again. Of peers with one NID nothing is kept. Strangers
//! decide how many there are: the oldest give way.

use std::collections::VecDeque;

use super::Lnet;
use super::figures::PeerFigures;
use super::peer::Figures;
use crate::hash::PeerMap;
use crate::lnd::{Moved, NiId};
use crate::stream::slab::{Key, Slab};
use crate::wire::{Nid, ProcessId};

/// Most that are kept: about half a MiB.
const KEPT: usize = 1024;

/// One of our NIs, and who was spoken with by it.
type Name = (NiId, ProcessId);

/// The figures that a shard keeps.
#[derive(Debug)]
pub(crate) struct Kept {
    all: Slab<(Name, Box<Figures>)>,
    by_name: PeerMap<Name, Key>,
    by_age: VecDeque<Key>,
}

impl Kept {
    pub(super) fn new() -> Kept {
        Kept { all: Slab::new(), by_name: PeerMap::default(), by_age: VecDeque::new() }
    }

    /// Places for them.
    pub(crate) fn places(&self) -> usize {
        self.all.capacity()
    }

    /// Those of a new entry.
    pub(super) fn take(&mut self, ni: NiId, id: ProcessId) -> Box<Figures> {
        let key = if self.by_name.is_empty() { None } else { self.by_name.remove(&(ni, id)) };
        key.and_then(|k| self.all.remove(k)).map_or_else(Box::default, |kept| kept.1)
    }

    /// Those of an entry that goes.
    fn put(&mut self, ni: NiId, id: ProcessId, figures: Box<Figures>) {
        while self.all.len() >= KEPT
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.remove(oldest);
        }
        self.take(ni, id);
        let key = self.all.insert(((ni, id), figures));
        self.by_name.insert((ni, id), key);
        self.by_age.push_back(key);
        // Names of those that were taken do not pile up.
        if self.by_age.len() > 2 * KEPT {
            self.by_age.retain(|k| self.all.get(*k).is_some());
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some((name, _)) = self.all.remove(key) {
            self.by_name.remove(&name);
        }
    }

    /// Forgets those for which that holds.
    pub(super) fn forget(&mut self, which: impl Fn(NiId, Nid) -> bool) {
        for key in self.all.keys().collect::<Vec<_>>() {
            if self.all.get(key).is_some_and(|((ni, id), _)| which(*ni, id.nid)) {
                self.remove(key);
            }
        }
    }
}

impl Lnet {
    /// The entry of a NID goes, by which its LND has `moved` these messages.
    pub(super) fn keep_figures(&mut self, ni: NiId, id: ProcessId, mut figures: Box<Figures>, moved: &Moved) {
        figures.moved += *moved;
        if self.aliases.nids(id.nid).is_some() && figures.moved != Moved::default() {
            figures.may_wait = 0;
            self.kept.put(ni, id, figures);
        }
    }

    /// Figures of the NID at that place, of which there is no entry.
    pub(crate) fn kept_figures(&self, at: usize) -> Option<PeerFigures> {
        let ((_, id), f) = self.kept.all.get(self.kept.all.key_at(at)?)?;
        // Of a node that is known no longer nothing is told.
        let nids = self.aliases.nids(id.nid)?;
        Some(f.of(*id, nids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_taken_once() {
        let mut kept = Kept::new();
        let id = |n: u32| ProcessId::lustre(Nid::tcp(n.to_be_bytes().into(), 0));
        let of = |most| Box::new(Figures { most, ..Figures::default() });
        for n in 0..5000 {
            kept.put(NiId(0), id(n), of(n));
            if n % 3 == 0 {
                assert_eq!(kept.take(NiId(0), id(n)).most, n);
            }
        }
        assert!(kept.all.len() <= KEPT && kept.by_name.len() == kept.all.len());
        assert!(kept.by_age.len() <= 2 * KEPT + 1);
        assert_eq!((kept.take(NiId(1), id(4999)).most, kept.take(NiId(0), id(4999)).most), (0, 4999));
        assert_eq!(kept.take(NiId(0), id(4999)).most, 0);
        kept.forget(|ni, nid| ni == NiId(0) && nid != id(4997).nid);
        assert_eq!((kept.all.len(), kept.take(NiId(0), id(4997)).most), (1, 4997));
    }
}
