//! A peer that has sent messages for others: the router buffers that it holds, by network and by whom they are for, and what waits for
//! one (`buffers.rs`).

use std::collections::VecDeque;

use super::beside::NoConn;
use super::class::{BufferClass, CLASSES, GROUPS};
use super::lease::{Charge, Lease};
use super::lines::{Lines, Place};

use crate::lnd::budget::Room;
use crate::lnd::{NIS_MAX, Ticket};
use crate::wire::ProcessId;

/// A peer that has sent messages for others.
#[derive(Debug, Default)]
pub(super) struct Guest {
    /// Buffers that they hold, by class and network that they go to, and bytes.
    pub(super) held: [[u32; NIS_MAX]; CLASSES],
    pub(super) bytes: u64,
    /// Buffers by group.
    of_group: [u32; GROUPS],
    /// Buffers and bytes by whom they are for: no more entries than buffers of its own.
    to: Vec<(ProcessId, BufferClass, Room)>,
    /// Those of messages for next hops without a connection.
    pub(super) no_conn: NoConn,
    /// Messages that wait for one, by class.
    pub(super) waiting: [VecDeque<Waiting>; CLASSES],
    /// Its places in the lines, by class.
    pub(super) places: [Place; CLASSES],
    /// Since when it has no buffer of a group left and more to send, and none has come home, in ns; 0 where that is not so.
    pub(super) full_since: [u64; GROUPS],
    /// It has gone, and what it left is over by then, in ns; 0 where that is not so.
    pub(super) over: u64,
    /// Time at which it was looked at last whether it is to be relieved, in ns.
    pub(super) looked: u64,
}

/// A message that waits for a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    /// Its network, whom it is for, and its length in bytes.
    pub(super) out: u8,
    pub(super) to: ProcessId,
    pub(super) len: u32,
}

impl Guest {
    pub(super) fn take(&mut self, lease: &Lease) {
        let held =
            self.held.get_mut(lease.class() as usize).and_then(|h| h.get_mut(usize::from(lease.seat.out())));
        if let Some(held) = held {
            *held += 1;
        }
        self.bytes += u64::from(lease.len);
        self.take_own(lease);
    }

    fn take_own(&mut self, lease: &Lease) {
        if let Some(held) = self.of_group.get_mut(lease.class().group()) {
            *held += 1;
        }
        let n = lease.room();
        match self.to.iter_mut().find(|(to, class, _)| (*to, *class) == (lease.to, lease.class())) {
            Some((.., room)) => (room.buffers, room.bytes) = (room.buffers + 1, room.bytes + n.bytes),
            None => self.to.push((lease.to, lease.class(), n)),
        }
    }

    /// The same as [`Guest::give`]; where the buffer was one of its own, it may be held up no more. It may have `most` of its own.
    pub(super) fn comes_home(&mut self, lease: &Lease, now: u64, most: u32) -> bool {
        let group = lease.class().group();
        if lease.seat.charge() != Charge::Beside {
            if self.no_conn.is_held_up(group) {
                let was_held_up = self.is_held_up(group, most);
                self.no_conn.goes_on(group, was_held_up, most, now);
            }
            if let Some(since) = self.full_since.get_mut(group) {
                *since = 0;
            }
        }
        self.give(lease)
    }

    /// Gives back what a message held; false where it held nothing.
    fn give(&mut self, lease: &Lease) -> bool {
        let held =
            self.held.get_mut(lease.class() as usize).and_then(|h| h.get_mut(usize::from(lease.seat.out())));
        let Some(held) = held.filter(|n| **n > 0) else { return false };
        *held -= 1;
        self.bytes = self.bytes.saturating_sub(lease.len.into());
        match lease.seat.charge() {
            Charge::Own => self.give_own(lease),
            Charge::Beside => self.no_conn.give(lease),
            Charge::NoConn => {
                self.no_conn.give_own(lease.class().group());
                self.give_own(lease);
            }
        }
        true
    }

    fn give_own(&mut self, lease: &Lease) {
        if let Some(held) = self.of_group.get_mut(lease.class().group()) {
            *held = held.saturating_sub(1);
        }
        if let Some(at) = self.to.iter().position(|(to, class, _)| (*to, *class) == (lease.to, lease.class()))
            && let Some((.., room)) = self.to.get_mut(at)
        {
            room.buffers -= 1;
            room.bytes = room.bytes.saturating_sub(lease.len.into());
            if room.buffers == 0 {
                self.to.swap_remove(at);
            }
        }
    }

    /// The buffer of a message is none of its own any more, but one beside those.
    pub(super) fn set_beside(&mut self, lease: &Lease) {
        let group = lease.class().group();
        self.give_own(lease);
        self.no_conn.take(lease);
        self.no_conn.is_free(group);
        self.full_since.get_mut(group).map(std::mem::take);
    }

    /// Those whom the buffers of its own are for.
    pub(super) fn own_to(&self) -> impl Iterator<Item = ProcessId> + '_ {
        self.to.iter().map(|t| t.0)
    }

    /// Those whom all its buffers are for, and how many of each class.
    pub(super) fn all_to(&self) -> impl Iterator<Item = (ProcessId, BufferClass, Room)> + '_ {
        self.to.iter().copied().chain(self.no_conn.beside())
    }

    /// Whether it holds as many buffers of the class's group as it may, which is `most`.
    pub(super) fn is_full(&self, class: BufferClass, most: u32) -> bool {
        self.of_group.get(class.group()).is_some_and(|held| *held >= most)
    }

    /// Whether messages of a group wait, and it holds as many buffers of that as it may.
    pub(super) fn is_held_up(&self, group: usize, most: u32) -> bool {
        let mut of_group = BufferClass::ALL.iter().zip(&self.waiting).filter(|(c, _)| c.group() == group);
        of_group.any(|(class, waiting)| !waiting.is_empty() && self.is_full(*class, most))
    }

    /// Whether it has no buffer of the class: it may have one, whoever that is for, unless they are scarce. It may be that the senders
    /// of others are slow, and not whoever those are for.
    pub(super) fn has_none(&self, class: BufferClass) -> bool {
        self.held.get(class as usize).is_none_or(|h| h.iter().all(|n| *n == 0))
    }

    /// Some of what waited waits no more: it stands for what is left.
    pub(super) fn wants_less(&mut self, class: usize, lines: &mut Lines) {
        let (Some(waiting), Some(place)) = (self.waiting.get(class), self.places.get_mut(class)) else {
            return;
        };
        if waiting.is_empty() {
            return lines.leave(place);
        }
        for out in (0..NIS_MAX as u8).filter(|out| waiting.iter().all(|w| w.out != *out)) {
            lines.wants_no_more(place, out);
        }
    }
}
