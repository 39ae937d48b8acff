//! A table whose keys are never valid twice.

/// Names an entry of a [`Slab`]; dead once the entry is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl Key {
    /// A key that no slab knows.
    pub(crate) const NOWHERE: Key = Key { index: u32::MAX, generation: u32::MAX };

    /// As one word.
    pub(crate) fn word(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// From [`Key::word`].
    pub(crate) fn from_word(w: u64) -> Key {
        Key { index: w as u32, generation: (w >> 32) as u32 }
    }
}

/// Entries in reused slots: no allocation once it has been as full as it gets. One of which nearly all have gone gives back
/// the slots behind the last that is in use.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    len: usize,
    /// Generation of the next new slot: above those of slots that were given back.
    floor: u32,
}

/// Slots that are kept whatever is in use.
pub(crate) const SLOTS_KEPT: usize = 1024;

impl<T> Slab<T> {
    pub(crate) fn new() -> Slab<T> {
        Slab { slots: Vec::new(), free: Vec::new(), len: 0, floor: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        self.insert_with(|_| value)
    }

    /// Inserts what `make` makes of the key.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Key) -> T) -> Key {
        self.len += 1;
        while let Some(index) = self.free.pop() {
            // A slot that was given back may have come again since.
            if let Some((generation, slot @ None)) = self.slots.get_mut(index as usize) {
                let key = Key { index, generation: *generation };
                *slot = Some(make(key));
                return key;
            }
        }
        let key = Key { index: self.slots.len() as u32, generation: self.floor };
        self.slots.push((self.floor, Some(make(key))));
        key
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let (generation, slot) = self.slots.get(key.index as usize)?;
        if *generation == key.generation { slot.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (generation, slot) = self.slots.get_mut(key.index as usize)?;
        if *generation == key.generation { slot.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let (generation, slot) = self.slots.get_mut(key.index as usize)?;
        if *generation != key.generation {
            return None;
        }
        let value = slot.take()?;
        self.len -= 1;
        *generation = generation.wrapping_add(1);
        // A slot that has used up its generations is retired: its keys would come again.
        if *generation != 0 {
            self.free.push(key.index);
        }
        if self.slots.len() > SLOTS_KEPT
            && self.len < self.slots.len() / 8
            && self.slots.last().is_some_and(|(_, slot)| slot.is_none())
        {
            self.trim();
        }
        Some(value)
    }

    /// Gives back the slots behind the last one in use. Each was made once, so this costs what that did.
    #[cold]
    fn trim(&mut self) {
        // A retired slot stays: its keys would come again.
        while self.slots.len() > SLOTS_KEPT
            && let Some((generation, None)) = self.slots.last()
            && *generation != 0
        {
            self.floor = self.floor.max(*generation);
            self.slots.pop();
        }
        let kept = self.slots.len();
        if self.slots.capacity() >= 4 * kept {
            self.slots.shrink_to(2 * kept);
            self.free.retain(|at| (*at as usize) < kept);
            self.free.shrink_to(2 * kept);
        }
    }

    /// The key in use at a position below [`Slab::capacity`], if any.
    pub(crate) fn key_at(&self, index: usize) -> Option<Key> {
        let (generation, slot) = self.slots.get(index)?;
        slot.is_some().then_some(Key { index: index as u32, generation: *generation })
    }

    /// The keys in use.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        (0..self.capacity()).filter_map(|at| self.key_at(at))
    }

    /// The entries.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> + '_ {
        self.slots.iter().filter_map(|(_, slot)| slot.as_ref())
    }

    /// Positions that [`Slab::key_at`] may know.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A storm gives its memory back when it is over, up to what came in its middle and stays, and none of its keys is
    /// valid again, whatever goes first.
    #[test]
    fn slots_that_nobody_needs_go_back() {
        let mut s = Slab::new();
        let first = s.insert(0);
        let mut old = Vec::new();
        for round in 0..3 {
            let mut keys: Vec<Key> = (0..65_536).map(|n| s.insert(n)).collect();
            let full = s.capacity();
            assert!((65_537..=65_538).contains(&full), "{round}: {full}");
            let stays = keys.remove(40_000);
            if round == 1 {
                keys.reverse();
            }
            for key in &keys {
                assert!(s.remove(*key).is_some());
            }
            assert!(s.capacity() <= SLOTS_KEPT.max(stays.index as usize + 1), "{round}: {}", s.capacity());
            // Small traffic goes on beside it.
            for _ in 0..100 {
                let key = s.insert(1);
                s.remove(key);
                old.push(key);
            }
            s.remove(stays);
            assert_eq!((s.len(), s.capacity()), (1, SLOTS_KEPT), "{round}");
            assert!(s.slots.capacity() <= 4 * SLOTS_KEPT && s.free.capacity() <= 4 * SLOTS_KEPT);
            old.extend(keys);
            old.push(stays);
            assert_eq!(s.get(first), Some(&0));
        }
        let again: Vec<Key> = (0..65_536).map(|n| s.insert(n)).collect();
        assert!(old.iter().all(|k| s.get(*k).is_none()), "a key of another life");
        assert!(again.iter().enumerate().all(|(n, k)| s.get(*k) == Some(&n)), "a slot of two keys");
        // A slab that is about as full as it was keeps all.
        for key in again.iter().skip(10_000) {
            s.remove(*key);
        }
        assert!(s.capacity() >= 65_537);
    }

    #[test]
    fn keys_die_with_their_entry() {
        let mut s = Slab::new();
        let a = s.insert('a');
        assert_eq!(s.remove(a), Some('a'));
        let b = s.insert('b');
        assert_eq!(a.index, b.index);
        assert_eq!(s.get(a), None);
        assert_eq!(s.remove(a), None);
        assert_eq!(s.get(b), Some(&'b'));
        assert_eq!(Key::from_word(b.word()), b);
        assert_eq!((s.len(), s.capacity(), s.key_at(0)), (1, 1, Some(b)));
        let c = s.insert('c');
        let d = s.insert('d');
        s.remove(c);
        assert_eq!((s.keys().collect(), s.values().collect()), (vec![b, d], vec![&'b', &'d']));
    }
}
