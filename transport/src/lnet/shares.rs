//! Router buffers by the NID that their messages are for: one that takes nothing must not hold what others need.
//!
//! Messages for a NID may hold as many buffers, and bytes, as are free, and in any case as many as one peer may. A peer whose next
//! message is for one that holds more waits here until one of those messages has left, or all have. One without a buffer of the
//! class has a turn, unless less than a quarter is free, so that slow senders to a NID do not keep others from it.

use std::collections::{HashMap, VecDeque};

use super::buffers::{BufferClass, CLASSES};
use crate::lnd::budget::{Room, crowds};
use crate::stream::slab::Key;
use crate::wire::Nid;

/// What messages for a NID hold, and the peers that wait for the sake of others.
#[derive(Debug, Default)]
struct Share {
    held: [u32; CLASSES],
    bytes: u64,
    /// Some was given back since a peer was woken.
    eased: bool,
    waiters: [VecDeque<Key>; CLASSES],
}

/// Shares of all NIDs that messages are on their way to.
#[derive(Debug, Default)]
pub(super) struct Shares(HashMap<Nid, Share>);

impl Shares {
    /// Whether a message of `len` bytes for `to` has to leave what is free to those for others.
    pub(super) fn crowds(&self, to: Nid, class: BufferClass, free: Room, one_peer: u32, len: u32) -> bool {
        self.0.get(&to).is_some_and(|s| {
            let buffers = s.held.get(class as usize).copied().unwrap_or(0);
            crowds(Room { buffers, bytes: s.bytes }, free, one_peer, len)
        })
    }

    /// A message for `to` has a buffer.
    pub(super) fn take(&mut self, to: Nid, class: BufferClass, n: Room) {
        let s = self.0.entry(to).or_default();
        if let Some(held) = s.held.get_mut(class as usize) {
            *held += n.buffers;
        }
        s.bytes += n.bytes;
    }

    /// Messages for `to` have given theirs back.
    pub(super) fn give(&mut self, to: Nid, class: BufferClass, n: Room) {
        let Some(s) = self.0.get_mut(&to) else { return };
        if let Some(held) = s.held.get_mut(class as usize) {
            *held = held.saturating_sub(n.buffers);
        }
        s.bytes = s.bytes.saturating_sub(n.bytes);
        s.eased = true;
    }

    /// A peer waits for messages for `to` to hold fewer.
    pub(super) fn wait(&mut self, to: Nid, class: BufferClass, peer: Key) {
        let share = self.0.get_mut(&to);
        if let Some(waiters) = share.and_then(|s| s.waiters.get_mut(class as usize)) {
            waiters.push_back(peer);
        }
    }

    /// A peer that need not wait for `to` any longer: the first of the class, once, or all where nothing is on its way there.
    pub(super) fn wake(&mut self, to: Nid, class: BufferClass) -> Option<(BufferClass, Key)> {
        let s = self.0.get_mut(&to)?;
        if s.held.iter().any(|n| *n > 0) {
            let woken = std::mem::take(&mut s.eased);
            let first = || s.waiters.get_mut(class as usize)?.pop_front();
            return woken.then(first).flatten().map(|key| (class, key));
        }
        for (class, waiters) in BufferClass::ALL.into_iter().zip(&mut s.waiters) {
            if let Some(key) = waiters.pop_front() {
                return Some((class, key));
            }
        }
        self.0.remove(&to);
        None
    }

    /// Those who wait, who do so no more, in the order of their keys.
    pub(super) fn wake_all(&mut self, class: BufferClass) -> Vec<Key> {
        let waiters = self.0.values_mut().filter_map(|s| s.waiters.get_mut(class as usize));
        let mut all: Vec<Key> = waiters.flat_map(|w| w.drain(..)).collect();
        all.sort_unstable();
        all
    }

    /// A peer waits for `to` no more.
    pub(super) fn leave(&mut self, to: Nid, class: BufferClass, peer: Key) {
        let share = self.0.get_mut(&to);
        if let Some(waiters) = share.and_then(|s| s.waiters.get_mut(class as usize)) {
            waiters.retain(|k| *k != peer);
        }
    }
}
