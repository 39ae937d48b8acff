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

/// Entries in reused slots: no allocation once it has been as full as it gets.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Slab<T> {
        Slab { slots: Vec::new(), free: Vec::new(), len: 0 }
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
        if let Some(index) = self.free.pop()
            && let Some((generation, slot)) = self.slots.get_mut(index as usize)
        {
            let key = Key { index, generation: *generation };
            *slot = Some(make(key));
            return key;
        }
        let key = Key { index: self.slots.len() as u32, generation: 0 };
        self.slots.push((0, Some(make(key))));
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
        Some(value)
    }

    /// The key in use at a position below [`Slab::capacity`], if any.
    pub(crate) fn key_at(&self, index: usize) -> Option<Key> {
        let (generation, slot) = self.slots.get(index)?;
        slot.is_some().then_some(Key { index: index as u32, generation: *generation })
    }

    /// Positions that [`Slab::key_at`] may know.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
