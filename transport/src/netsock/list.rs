//! Lists through entries of a slab: an entry is in one at most, and leaves it from any place without a search.

use crate::stream::slab::{Key, Slab};

/// An entry's neighbours in its list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    prev: Key,
    next: Key,
}

impl Links {
    pub(super) const NONE: Links = Links { prev: Key::NOWHERE, next: Key::NOWHERE };
}

/// Entries that lists go through.
pub(super) trait Linked {
    fn links(&self) -> Links;
    fn links_mut(&mut self) -> &mut Links;
}

/// A list. Whoever removes an entry says from which list.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: Key,
    tail: Key,
}

impl List {
    pub(super) const EMPTY: List = List { head: Key::NOWHERE, tail: Key::NOWHERE };

    pub(super) fn is_empty(&self) -> bool {
        self.head == Key::NOWHERE
    }

    pub(super) fn head(&self) -> Option<Key> {
        (!self.is_empty()).then_some(self.head)
    }

    /// The entry behind `key`.
    pub(super) fn after<T: Linked>(slab: &Slab<T>, key: Key) -> Option<Key> {
        slab.get(key).map(|e| e.links().next).filter(|k| *k != Key::NOWHERE)
    }

    pub(super) fn push_back<T: Linked>(&mut self, slab: &mut Slab<T>, key: Key) {
        let last = std::mem::replace(&mut self.tail, key);
        match slab.get_mut(last) {
            Some(e) => e.links_mut().next = key,
            None => self.head = key,
        }
        if let Some(e) = slab.get_mut(key) {
            *e.links_mut() = Links { prev: last, next: Key::NOWHERE };
        }
    }

    pub(super) fn push_front<T: Linked>(&mut self, slab: &mut Slab<T>, key: Key) {
        let first = std::mem::replace(&mut self.head, key);
        match slab.get_mut(first) {
            Some(e) => e.links_mut().prev = key,
            None => self.tail = key,
        }
        if let Some(e) = slab.get_mut(key) {
            *e.links_mut() = Links { prev: Key::NOWHERE, next: first };
        }
    }

    /// Takes an entry of this list out of it.
    pub(super) fn remove<T: Linked>(&mut self, slab: &mut Slab<T>, key: Key) {
        let Some(e) = slab.get_mut(key) else { return };
        let Links { prev, next } = std::mem::replace(e.links_mut(), Links::NONE);
        match slab.get_mut(prev) {
            Some(e) => e.links_mut().next = next,
            None => self.head = next,
        }
        match slab.get_mut(next) {
            Some(e) => e.links_mut().prev = prev,
            None => self.tail = prev,
        }
    }

    pub(super) fn pop_front<T: Linked>(&mut self, slab: &mut Slab<T>) -> Option<Key> {
        let key = self.head()?;
        self.remove(slab, key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Entry(Links);

    impl Linked for Entry {
        fn links(&self) -> Links {
            self.0
        }
        fn links_mut(&mut self) -> &mut Links {
            &mut self.0
        }
    }

    #[test]
    fn entries_leave_from_any_place() {
        for gone in 0..4 {
            let (mut slab, mut list) = (Slab::new(), List::EMPTY);
            let keys: Vec<Key> = (0..4).map(|_| slab.insert(Entry(Links::NONE))).collect();
            keys[1..].iter().for_each(|k| list.push_back(&mut slab, *k));
            list.push_front(&mut slab, keys[0]);
            list.remove(&mut slab, keys[gone]);
            let mut left = Vec::new();
            let mut at = list.head();
            while let Some(k) = at {
                left.push(k);
                at = List::after(&slab, k);
            }
            let want: Vec<Key> = keys.iter().copied().filter(|k| *k != keys[gone]).collect();
            assert_eq!(left, want);
            let popped: Vec<Key> = std::iter::from_fn(|| list.pop_front(&mut slab)).collect();
            assert_eq!(popped, want);
            assert!(list.is_empty());
        }
    }
}
