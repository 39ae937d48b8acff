//! Router buffers of a source whose messages are for next hops that had no connection (`no_conn.rs`): those that are counted beside its own,
//! and for how long the others have held it up.

use std::collections::HashMap;

use super::class::{BufferClass, CLASSES, GROUPS};
use super::lease::Lease;
use crate::lnd::budget::{Room, crowds};
use crate::lnd::config::SEC;
use crate::wire::ProcessId;

/// Time for which messages for those without a connection may hold a source up, in ns: SYNs are repeated after 1 and 3 s.
const PATIENCE: u64 = 3 * SEC;
/// Time after which they may do so again, in ns.
const TERM: u64 = 60 * SEC;
/// Part of what is free that a source may have beside its own buffers, and those of that for messages to one NID: one in so many.
pub(super) const PART: u32 = 2;
const NID_PART: u32 = 4;

/// Buffers of a source whose messages are for next hops that had no connection.
#[derive(Debug, Default)]
pub(super) struct NoConn {
    /// Those beside its own, by class, and by whom they are for.
    beside: [Room; CLASSES],
    to: HashMap<(ProcessId, BufferClass), Room>,
    /// Those of its own, by group.
    own: [u32; GROUPS],
    /// Since when it has no buffer of a group left and more to send, in ns; 0 where that is not so.
    since: [u64; GROUPS],
    /// Time for which such messages have held it up in this term, and the beginning of that, in ns.
    spent: u64,
    began: u64,
}

impl NoConn {
    /// Whether a message may have a buffer beside the source's own, where so much is free; a peer may have `most` of its own.
    pub(super) fn has_room(&self, lease: &Lease, free: Room, most: u32) -> bool {
        let part = |r: Room, n: u32| Room { buffers: r.buffers / n, bytes: r.bytes / u64::from(n) };
        let class = lease.class();
        let of_class = self.beside.get(class as usize).copied().unwrap_or_default();
        let all = Room { bytes: self.beside.iter().map(|r| r.bytes).sum(), ..of_class };
        let same = self.to.get(&(lease.to, class)).copied().unwrap_or_default();
        let (free, least) = (part(free, PART), (most / 2).max(1));
        !crowds(all, free, least, lease.len) && !crowds(same, part(free, NID_PART), most, lease.len)
    }

    /// A message has a buffer beside the source's own.
    pub(super) fn take(&mut self, lease: &Lease) {
        let n = lease.room();
        let of_class = self.beside.get_mut(lease.class() as usize);
        for room in of_class.into_iter().chain([self.to.entry((lease.to, lease.class())).or_default()]) {
            (room.buffers, room.bytes) = (room.buffers + n.buffers, room.bytes + n.bytes);
        }
    }

    /// It has given that back.
    pub(super) fn give(&mut self, lease: &Lease) {
        let (n, name) = (lease.room(), (lease.to, lease.class()));
        let of_class = self.beside.get_mut(lease.class() as usize);
        for room in of_class.into_iter().chain(self.to.get_mut(&name)) {
            room.buffers = room.buffers.saturating_sub(n.buffers);
            room.bytes = room.bytes.saturating_sub(n.bytes);
        }
        if self.to.get(&name).is_some_and(|r| r.buffers == 0) {
            self.to.remove(&name);
        }
    }

    /// Those beside the source's own, by whom they are for.
    pub(super) fn beside(&self) -> impl Iterator<Item = (ProcessId, BufferClass, Room)> + '_ {
        self.to.iter().map(|((to, class), n)| (*to, *class, *n))
    }

    /// A message has one of the source's own.
    pub(super) fn take_own(&mut self, group: usize) {
        if let Some(own) = self.own.get_mut(group) {
            *own += 1;
        }
    }

    /// It has given that back.
    pub(super) fn give_own(&mut self, group: usize) {
        if let Some(own) = self.own.get_mut(group) {
            *own = own.saturating_sub(1);
        }
    }

    /// The source has no buffer of a group left, and more to send.
    pub(super) fn holds_up(&mut self, group: usize, now: u64) {
        if let Some(since) = self.since.get_mut(group).filter(|since| **since == 0) {
            *since = now.max(1);
        }
    }

    /// A buffer of its own comes home, of which it had `most`: it was held up until now, or not, by such messages if they had half of them.
    pub(super) fn goes_on(&mut self, group: usize, was_held_up: bool, most: u32, now: u64) {
        let Some(since) = self.since.get_mut(group).filter(|since| **since > 0) else { return };
        let since = std::mem::take(since);
        if was_held_up && self.own.get(group).is_some_and(|own| 2 * own >= most) {
            if now >= self.began.saturating_add(TERM) {
                (self.began, self.spent) = (now, 0);
            }
            self.spent = self.spent.saturating_add(now.saturating_sub(since));
        }
    }

    /// The source has one of the group.
    pub(super) fn is_free(&mut self, group: usize) {
        self.since.get_mut(group).map(std::mem::take);
    }

    /// Whether the source was seen without a buffer of the group.
    #[inline]
    pub(super) fn is_held_up(&self, group: usize) -> bool {
        self.since.get(group).is_some_and(|since| *since > 0)
    }

    /// Whether such messages may hold it up.
    pub(super) fn has_time(&self, now: u64) -> bool {
        self.spent < PATIENCE || now >= self.began.saturating_add(TERM)
    }
}

#[cfg(test)]
mod tests {
    use super::super::lease::Seat;
    use super::*;
    use crate::lnd::NiId;
    use crate::stream::slab::Key;
    use crate::wire::Nid;

    #[test]
    fn what_holds_a_source_up_has_some_seconds_a_term() {
        let (mut n, now, most) = (NoConn::default(), 100 * SEC, 8);
        let held_up = |n: &mut NoConn, at: u64, time: u64, was_held_up: bool| {
            n.holds_up(0, at);
            // A message that holds it up longer does not begin anew.
            n.holds_up(0, at + time / 2);
            assert!(n.is_held_up(0) && !n.is_held_up(1));
            n.goes_on(0, was_held_up, most, at + time);
            assert!(!n.is_held_up(0));
        };
        (0..3).for_each(|_| n.take_own(0));
        held_up(&mut n, now, 50 * SEC, true);
        assert!(n.has_time(now), "others have more than half");
        n.take_own(0);
        held_up(&mut n, now, 50 * SEC, false);
        assert!(n.has_time(now), "nothing waited");
        held_up(&mut n, now, SEC, true);
        held_up(&mut n, now + SEC, PATIENCE - SEC - 1, true);
        assert!(n.has_time(now + PATIENCE));
        held_up(&mut n, now + PATIENCE, 1, true);
        let began = now + SEC;
        assert!(!n.has_time(began + TERM - 1) && n.has_time(began + TERM));
        held_up(&mut n, began + TERM, SEC, true);
        assert!(n.has_time(began + TERM + SEC), "a term begins anew");
        (0..5).for_each(|_| n.give_own(0));
        assert_eq!(n.own, [0; GROUPS]);
    }

    #[test]
    fn room_is_a_part_of_what_is_free() {
        let lease = |to: u32, len: u32| Lease {
            ni: NiId::default(),
            to: ProcessId::lustre(Nid::tcp([10, 0, 0, to as u8].into(), 0)),
            kind: crate::lnd::counters::MsgType::Put,
            len,
            over: 0,
            seat: Seat::own(0),
            bucket: Default::default(),
            peer: ProcessId::ANY,
            key: Key::NOWHERE,
        };
        let (mut n, all, most) = (NoConn::default(), 100, 4);
        let has = |n: &mut NoConn, to: u32, len: u32, held: u32| {
            let free = Room { buffers: all - held, bytes: 1000 };
            let has = n.has_room(&lease(to, len), free, most);
            has.then(|| n.take(&lease(to, len)));
            has
        };
        // One NID has a quarter of a half.
        let of_one = (0..20).take_while(|held| has(&mut n, 1, 1, *held)).count();
        assert_eq!(of_one, 11);
        let of_all = (11..100).take_while(|held| has(&mut n, *held, 1, *held)).count();
        assert_eq!(of_one + of_all, 33, "so many are half of the rest");
        assert_eq!(n.beside().map(|(.., r)| r.buffers).sum::<u32>(), 33);
        assert!(has(&mut n, 99, 0, 33), "another class has room of its own");
        assert!(has(&mut n, 1, 5000, 33) && has(&mut n, 1, 5000, 33), "and a few may have some in any case");
        assert!(!has(&mut n, 2, 5000, 33), "for bytes are scarce");
        (0..20).for_each(|_| n.give(&lease(1, 1)));
        (11..100).for_each(|to| n.give(&lease(to, 1)));
        n.give(&lease(99, 0));
        (0..2).for_each(|_| n.give(&lease(1, 5000)));
        assert!(n.to.is_empty() && n.beside == [Room::default(); CLASSES]);
    }
}
