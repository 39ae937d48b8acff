//! Router buffers by the NID that their messages are for: one that takes nothing must not hold what others need.
//!
//! Messages for a NID may hold as many buffers, and bytes, as are free, and in any case as many as one peer may. A peer whose next
//! message is for one that holds more waits until one of those messages has left (`lines.rs`). One without a buffer of the class has
//! a turn, unless less than a quarter is free, so that slow senders to a NID do not keep others from it.

use std::collections::hash_map::Entry;

use super::class::{BufferClass, CLASSES};
use crate::hash::PeerMap;
use crate::lnd::budget::{Room, crowds};
use crate::wire::Nid;

/// Buffers and bytes that messages for a NID hold.
#[derive(Debug, Default)]
struct Share {
    held: [u32; CLASSES],
    bytes: u64,
}

/// Shares of all NIDs that messages are on their way to.
#[derive(Debug, Default)]
pub(super) struct Shares(PeerMap<Nid, Share>);

impl Shares {
    /// Whether a message of `len` bytes for `to` has to leave what is free to those for others.
    pub(super) fn crowds(&self, to: Nid, class: BufferClass, free: Room, one_peer: u32, len: u32) -> bool {
        self.0.get(&to).is_some_and(|s| {
            let buffers = s.held.get(class as usize).copied().unwrap_or(0);
            crowds(Room { buffers, bytes: s.bytes }, free, one_peer, len)
        })
    }

    /// Messages for `to` have buffers.
    pub(super) fn take(&mut self, to: Nid, class: BufferClass, n: Room) {
        let s = self.0.entry(to).or_default();
        if let Some(held) = s.held.get_mut(class as usize) {
            *held += n.buffers;
        }
        s.bytes += n.bytes;
    }

    /// Messages for `to` have given theirs back.
    pub(super) fn give(&mut self, to: Nid, class: BufferClass, n: Room) {
        let Entry::Occupied(mut there) = self.0.entry(to) else { return };
        let s = there.get_mut();
        if let Some(held) = s.held.get_mut(class as usize) {
            *held = held.saturating_sub(n.buffers);
        }
        s.bytes = s.bytes.saturating_sub(n.bytes);
        if s.held.iter().all(|n| *n == 0) {
            there.remove();
        }
    }
}
