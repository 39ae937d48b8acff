//! The order in which a portal's entries are looked at, in lists whose links the entries hold: to attach, to find and to
//! unlink an entry of exact bits costs the same however many there are, and no memory once the table has its size.

use crate::hash::Secret;
use crate::stream::slab::{Key, Slab};

/// An entry's neighbours in its list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    before: Key,
    behind: Key,
}

impl Links {
    pub(super) const NONE: Links = Links { before: Key::NOWHERE, behind: Key::NOWHERE };

    /// The next entry of the list.
    #[inline]
    pub(super) fn next(self) -> Key {
        self.behind
    }
}

/// Something that is in a list of those of its kind.
pub(super) trait Linked {
    fn links(&mut self) -> &mut Links;
    fn next(&self) -> Key;
    /// Portal and match bits.
    fn name(&self) -> (u32, u64);
}

/// Entries in the order they came.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    first: Key,
    last: Key,
}

impl Default for List {
    fn default() -> List {
        List { first: Key::NOWHERE, last: Key::NOWHERE }
    }
}

impl List {
    /// The first entry, or nowhere.
    #[inline]
    pub(super) fn first(&self) -> Key {
        self.first
    }

    /// Adds an entry that is in no list.
    pub(super) fn push<T: Linked>(&mut self, entries: &mut Slab<T>, key: Key) {
        let last = std::mem::replace(&mut self.last, key);
        match entries.get_mut(last) {
            Some(before) => before.links().behind = key,
            None => self.first = key,
        }
        if let Some(me) = entries.get_mut(key) {
            *me.links() = Links { before: last, behind: Key::NOWHERE };
        }
    }

    /// Takes out an entry of this list.
    pub(super) fn remove<T: Linked>(&mut self, entries: &mut Slab<T>, key: Key) {
        let Some(me) = entries.get_mut(key) else { return };
        let Links { before, behind } = std::mem::replace(me.links(), Links::NONE);
        match entries.get_mut(before) {
            Some(b) => b.links().behind = behind,
            None => self.first = behind,
        }
        match entries.get_mut(behind) {
            Some(b) => b.links().before = before,
            None => self.last = before,
        }
    }
}

/// Lists that entries of exact bits share by a hash of portal and bits; those of the same bits are in one, in order.
#[derive(Debug)]
pub(super) struct Exact {
    lists: Vec<List>,
    len: usize,
    secret: Secret,
}

/// Lists at first. A power of two.
const LISTS: usize = 64;
/// Lists that stay when nearly all entries have gone.
const LISTS_KEPT: usize = 4096;

impl Exact {
    pub(super) fn new() -> Exact {
        Exact { lists: vec![List::default(); LISTS], len: 0, secret: Secret::draw() }
    }

    /// Lists that there are.
    #[cfg(feature = "testing")]
    pub(super) fn lists(&self) -> usize {
        self.lists.len()
    }

    #[inline]
    fn place(&self, portal: u32, bits: u64) -> usize {
        self.secret.hash(bits, portal.into()) as usize & (self.lists.len() - 1)
    }

    /// The first entry that may have these bits, or nowhere: entries of others stand between.
    #[inline]
    pub(super) fn first(&self, portal: u32, bits: u64) -> Key {
        self.lists.get(self.place(portal, bits)).map_or(Key::NOWHERE, List::first)
    }

    /// Adds an entry that is in no list.
    pub(super) fn push<T: Linked>(&mut self, entries: &mut Slab<T>, key: Key) {
        if self.len >= self.lists.len() {
            self.deal(entries, 2 * self.lists.len());
        }
        let Some((portal, bits)) = entries.get(key).map(T::name) else { return };
        let place = self.place(portal, bits);
        if let Some(list) = self.lists.get_mut(place) {
            list.push(entries, key);
            self.len += 1;
        }
    }

    /// Takes out an entry.
    pub(super) fn remove<T: Linked>(&mut self, entries: &mut Slab<T>, key: Key) {
        let Some((portal, bits)) = entries.get(key).map(T::name) else { return };
        let place = self.place(portal, bits);
        if let Some(list) = self.lists.get_mut(place) {
            list.remove(entries, key);
            self.len = self.len.saturating_sub(1);
        }
        if self.lists.len() > LISTS_KEPT && self.len < self.lists.len() / 8 {
            self.deal(entries, self.lists.len() / 4);
        }
    }

    /// So many lists, a power of two. Each is dealt out in its order, so that entries of the same bits keep theirs.
    #[cold]
    fn deal<T: Linked>(&mut self, entries: &mut Slab<T>, lists: usize) {
        for list in std::mem::replace(&mut self.lists, vec![List::default(); lists]) {
            let mut key = list.first();
            while let Some(me) = entries.get(key) {
                let ((portal, bits), next) = (me.name(), me.next());
                let place = self.place(portal, bits);
                if let Some(list) = self.lists.get_mut(place) {
                    list.push(entries, key);
                }
                key = next;
            }
        }
    }
}
