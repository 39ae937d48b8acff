//! A hierarchical timer wheel: one timer an id, set and cancelled in constant time, no allocation once grown.
//!
//! A tick is 2^12 ns (4 µs), a tenth of a data centre's round trip: reordering windows and probes are that fine.
//! Five levels of 64 slots reach 73 minutes; a later time waits in the last slot and is filed again when that comes
//! round. A timer never fires early, and late by at most one tick plus the time between turns. A turn in which
//! nothing is due costs one comparison.
#![forbid(unsafe_code)]

const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const LEVELS: usize = 5;
const TICK: u32 = 12;
const NIL: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    at: u64,
    prev: u32,
    next: u32,
    slot: u16,
}

const IDLE: u16 = u16::MAX;

/// The wheel. Ids are small numbers: slots of connections, of peers, of operations.
#[derive(Debug)]
pub struct Wheel {
    nodes: Vec<Node>,
    heads: [u32; SLOTS * LEVELS],
    used: [u64; LEVELS],
    tick: u64,
    /// Nothing is to be done before this tick.
    idle_until: u64,
    len: usize,
}

impl Wheel {
    /// Memory for one timer, in bytes.
    pub const BYTES_A_TIMER: usize = size_of::<Node>();

    /// A wheel that starts at `now` (ns).
    pub fn new(now: u64) -> Wheel {
        Wheel {
            nodes: Vec::new(),
            heads: [NIL; SLOTS * LEVELS],
            used: [0; LEVELS],
            tick: now >> TICK,
            idle_until: 0,
            len: 0,
        }
    }

    /// Sets the timer of `id` to `at` (ns), instead of what it was.
    pub fn set(&mut self, id: u32, at: u64) {
        if id as usize >= self.nodes.len() {
            self.nodes.resize(id as usize + 1, Node { at: 0, prev: NIL, next: NIL, slot: IDLE });
        }
        self.cancel(id);
        self.nodes[id as usize].at = at;
        self.file(id);
        self.len += 1;
        self.idle_until = 0;
    }

    /// Timers that there is memory for.
    pub fn places(&self) -> usize {
        self.nodes.capacity()
    }

    /// The time `id` is set to, if it is.
    #[inline]
    pub fn at(&self, id: u32) -> Option<u64> {
        self.nodes.get(id as usize).filter(|n| n.slot != IDLE).map(|n| n.at)
    }

    /// Time at which a timer that is set to `at` fires at the earliest (ns).
    pub fn fires(at: u64) -> u64 {
        ((at >> TICK) + 1) << TICK
    }

    /// Takes the timer of `id` away.
    pub fn cancel(&mut self, id: u32) {
        let Some(n) = self.nodes.get(id as usize).copied() else { return };
        if n.slot == IDLE {
            return;
        }
        if n.prev == NIL {
            self.heads[n.slot as usize] = n.next;
            if n.next == NIL {
                self.used[n.slot as usize >> BITS] &= !(1 << (n.slot as usize & (SLOTS - 1)));
            }
        } else {
            self.nodes[n.prev as usize].next = n.next;
        }
        if n.next != NIL {
            self.nodes[n.next as usize].prev = n.prev;
        }
        self.nodes[id as usize].slot = IDLE;
        self.len -= 1;
    }

    fn file(&mut self, id: u32) {
        let at = self.nodes[id as usize].at;
        // Up to the tick boundary after `at`: never early.
        let due = ((at >> TICK) + 1).max(self.tick + 1);
        let span = (1u64 << (BITS * LEVELS as u32)) - 1;
        let due = due.min(self.tick + span);
        let diff = due ^ self.tick;
        let level = ((63 - diff.leading_zeros()) / BITS).min(LEVELS as u32 - 1) as usize;
        let s = (due >> (BITS * level as u32)) as usize & (SLOTS - 1);
        let slot = level << BITS | s;
        let head = self.heads[slot];
        self.nodes[id as usize] = Node { at, prev: NIL, next: head, slot: slot as u16 };
        if head != NIL {
            self.nodes[head as usize].prev = id;
        }
        self.heads[slot] = id;
        self.used[level] |= 1 << s;
    }

    /// Timers set.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// No timer fires before this time (ns). `None` when none is set.
    pub fn next(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        (0..LEVELS).find_map(|l| self.next_in(l)).map(|t| t << TICK)
    }

    /// First tick at which something is to be done in level `l`.
    fn next_in(&self, l: usize) -> Option<u64> {
        if self.used[l] == 0 {
            return None;
        }
        let shift = BITS * l as u32;
        let cur = (self.tick >> shift) & (SLOTS as u64 - 1);
        // Slots at or before the current one lie in the next round (only the last level can have them).
        let ahead = self.used[l].rotate_right(cur as u32 + 1).trailing_zeros();
        Some(((self.tick >> shift) + 1 + u64::from(ahead)) << shift)
    }

    /// Turns the wheel to `now` (ns) and puts the ids whose time has come in `out`. At most `max` are taken; the
    /// rest fire at the next call.
    pub fn expire(&mut self, now: u64, max: usize, out: &mut Vec<u32>) {
        let target = now >> TICK;
        if target < self.idle_until {
            self.tick = target.max(self.tick);
            return;
        }
        while self.tick < target && out.len() < max {
            let Some(t) = (0..LEVELS).filter_map(|l| self.next_in(l)).min() else {
                (self.tick, self.idle_until) = (target, u64::MAX);
                return;
            };
            if t > target {
                (self.tick, self.idle_until) = (target, t);
                return;
            }
            self.tick = t;
            // Higher levels first: what they hold for this tick falls into lower slots, at most to level 0.
            for l in (0..LEVELS).rev() {
                let shift = BITS * l as u32;
                if t & ((1 << shift) - 1) != 0 {
                    continue;
                }
                let slot = l << BITS | ((t >> shift) as usize & (SLOTS - 1));
                self.empty_slot(l, slot, t, out);
            }
        }
    }

    fn empty_slot(&mut self, level: usize, slot: usize, t: u64, out: &mut Vec<u32>) {
        let mut id = std::mem::replace(&mut self.heads[slot], NIL);
        self.used[level] &= !(1 << (slot & (SLOTS - 1)));
        while id != NIL {
            let n = self.nodes[id as usize];
            self.nodes[id as usize].slot = IDLE;
            if (n.at >> TICK) < t {
                self.len -= 1;
                out.push(id);
            } else {
                self.file(id);
            }
            id = n.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn fires_each_once_never_early_and_within_a_tick() {
        let mut w = Wheel::new(1_000_000);
        let mut model: HashMap<u32, u64> = HashMap::new();
        let mut now = 1_000_000u64;
        let mut r = 7u64;
        let mut rnd = move || {
            r ^= r << 13;
            r ^= r >> 7;
            r ^= r << 17;
            r
        };
        let mut fired = 0;
        for _ in 0..20_000 {
            let id = (rnd() % 200) as u32;
            match rnd() % 4 {
                0 => {
                    w.cancel(id);
                    model.remove(&id);
                }
                1 | 2 => {
                    // from microseconds to an hour
                    let at = now + (rnd() % 1000) * 10u64.pow((rnd() % 10) as u32);
                    w.set(id, at);
                    model.insert(id, at);
                }
                _ => {
                    now += rnd() % 1000 * 10u64.pow((rnd() % 8) as u32);
                    let mut out = vec![];
                    w.expire(now, usize::MAX, &mut out);
                    fired += out.len();
                    for id in out {
                        assert!(model.remove(&id).unwrap() <= now, "early");
                    }
                    for at in model.values() {
                        assert!(*at + (2 << TICK) > now, "late: {at} at {now}");
                    }
                }
            }
            assert_eq!(w.len(), model.len());
            if let (Some(n), Some(m)) = (w.next(), model.values().min()) {
                assert!(n <= *m + (1 << TICK), "sleeps past a timer");
            }
            assert!(model.iter().all(|(id, at)| w.at(*id) == Some(*at)));
        }
        assert!(fired > 1000);
    }

    #[test]
    fn next_is_a_time_worth_waking_at() {
        let mut w = Wheel::new(0);
        assert_eq!(w.next(), None);
        w.set(3, 50_000_000);
        let mut out = vec![];
        let mut now = 0;
        let mut wakes = 0;
        while out.is_empty() {
            now = w.next().unwrap();
            w.expire(now, 10, &mut out);
            wakes += 1;
        }
        assert!((50_000_000..50_300_000).contains(&now) && wakes <= LEVELS, "{now} after {wakes}");
    }

    #[test]
    fn takes_no_more_than_asked_at_a_time() {
        let mut w = Wheel::new(0);
        for i in 0..10 {
            w.set(i, 1_000_000 * u64::from(i));
        }
        let mut out = vec![];
        w.expire(1_000_000_000, 4, &mut out);
        assert_eq!(out.len(), 4);
        w.expire(1_000_000_000, 100, &mut out);
        assert_eq!(out.len(), 10);
        assert!(w.is_empty());
    }
}
