//! Messages that wait for something of a portal's: a sink that is in another message's hands, or, on a lazy portal, an
//! entry that matches (docs/protocol/lnet.md §4).
//!
//! The end of a connection takes out what waits for it: a peer that comes and goes leaves nothing behind.

use std::collections::VecDeque;

use super::remote::{Waiter, Who};
use crate::hash::OwnMap;
use crate::lnd::Ticket;
use crate::stream::ConnId;
use crate::stream::slab::{Key, Slab};

/// Cause of the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitOn {
    /// The sink of this entry.
    Entry(Key),
    /// An entry of this lazy portal.
    Portal(u32),
}

/// All that wait at this shard's portals. The lists that order them keep names of those that are gone until they are used or full.
#[derive(Debug)]
pub(super) struct Waiting {
    all: Slab<Waiter>,
    /// A connection holds one message at most.
    by_conn: OwnMap<ConnId, Key>,
}

impl Waiting {
    pub(super) fn new() -> Waiting {
        Waiting { all: Slab::new(), by_conn: OwnMap::default() }
    }

    pub(super) fn get(&self, key: Key) -> Option<&Waiter> {
        self.all.get(key)
    }

    /// Adds one at the end of a list.
    pub(super) fn add(&mut self, list: &mut VecDeque<Key>, waiter: Waiter) {
        if list.len() == list.capacity() {
            list.retain(|k| self.all.get(*k).is_some());
            // Half of the list is free then, so the next look is as far away as it was long.
            list.reserve(list.len() + 1);
        }
        let key = self.all.insert(waiter);
        list.push_back(key);
        if let Who::Conn(ticket) = waiter.who {
            self.by_conn.insert(ticket.conn, key);
        }
    }

    /// Takes one out, which stays in its list by name.
    pub(super) fn take(&mut self, key: Key) -> Option<Waiter> {
        let waiter = self.all.remove(key)?;
        if let Who::Conn(ticket) = waiter.who
            && self.by_conn.get(&ticket.conn) == Some(&key)
        {
            self.by_conn.remove(&ticket.conn);
        }
        Some(waiter)
    }

    /// Takes out all of a list, in order.
    pub(super) fn take_all(&mut self, list: VecDeque<Key>) -> Vec<Waiter> {
        if list.is_empty() { Vec::new() } else { list.into_iter().filter_map(|k| self.take(k)).collect() }
    }

    /// The message waits no longer.
    pub(super) fn forget(&mut self, ticket: &Ticket) {
        if let Some(key) = self.by_conn.get(&ticket.conn).copied()
            && let Some(Waiter { who: Who::Conn(t), .. }) = self.all.get(key)
            && t.serial == ticket.serial
        {
            self.take(key);
        }
    }

    /// No message of this node to itself waits any longer.
    pub(super) fn forget_own(&mut self) {
        for key in self.all.keys().collect::<Vec<_>>() {
            if self.all.get(key).is_some_and(|w| matches!(w.who, Who::Own(_))) {
                self.all.remove(key);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}
