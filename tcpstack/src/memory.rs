//! Receive memory of a stack, and its shares: by host, the address that connections come from.
//!
//! ```text
//!   pool ─┬─ a sixteenth    for what is next in order, of whoever holds nothing or little
//!         ├─ a sixteenth    promised to nobody
//!         └─ the rest ─┬─ held        unread, or out of order          ─┐
//!                      ├─ promised    offered in windows, not come yet  ├─ by host
//!                      └─ open                                         ─┘
//! ```
//!
//! A host may invent ports and process ids, but not addresses that packets come back to. So all its connections together
//! may hold as much as is free besides (dynamic thresholds, Choudhury and Hahne 1998): one host that is not read ends at
//! half of the memory, the next one at half of what that leaves, and n of them leave one part in 2^n at the least, one
//! in n + 1 where they all take what they can. What a host may still come to is all that is promised to it.
//!
//! A promise counts as long as its connection receives: one that has been silent for two epochs cannot be asked for the
//! window back, and may never use it. When it does, the host's share decides what is kept. So windows that were offered
//! to many connections of one host are never memory that others wait for.
//!
//! Two things are kept whatever the others hold: a host with less than a 64th of the pool may have a little from
//! the reserve, and the next bytes in order of a connection that holds nothing are kept until its host holds two thirds.
//!
//! A host has a record while it has a connection, so there are at most as many as those. A connection knows its host's;
//! nothing is looked up for a packet.

use std::collections::HashMap;

use crate::addr::Addr;

/// Part of the pool that is promised to nobody and holds nothing out of order: what is next in order, and frees
/// what waits behind it, must always find a buffer.
const RESERVE: u64 = 8;
/// Part of the pool that a host may hold as long as half of the reserve is there.
const LITTLE: u64 = 64;
/// The first segments of connections that hold nothing may bring their host to so many times the memory that is free.
const BEGUN_PART: u64 = 2;
/// Time for which a connection counts as receiving, at least, in ns.
const EPOCH: u64 = 100_000_000;

/// What one connection holds, and the part of its promise that has not come yet, in bytes of pool memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    pub(crate) bytes: u64,
    held: u64,
    /// Epoch in which it last received.
    epoch: u64,
    /// Record of its host.
    host: u32,
}

impl Default for Promise {
    /// Of no host.
    fn default() -> Promise {
        Promise { bytes: 0, held: 0, epoch: 0, host: u32::MAX }
    }
}

/// Sums of what is promised, by the epoch in which those last received to whom it is. Who has been silent for longer does
/// not count: what was promised cannot be taken back, and may never be used.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    epoch: u64,
    now: u64,
    before: u64,
}

impl Sums {
    #[inline]
    fn turn(&mut self, epoch: u64) {
        if epoch != self.epoch {
            self.before = if epoch == self.epoch + 1 { self.now } else { 0 };
            (self.now, self.epoch) = (0, epoch);
        }
    }

    #[inline]
    fn all(&self) -> u64 {
        self.now + self.before
    }

    /// The sum that counts what was promised as of `epoch`, if one does.
    #[inline]
    fn of(&mut self, epoch: u64) -> Option<&mut u64> {
        match self.epoch - epoch.min(self.epoch) {
            0 => Some(&mut self.now),
            1 => Some(&mut self.before),
            _ => None,
        }
    }

    /// What was promised as of `epoch`, `bytes`, as far as it counts.
    #[inline]
    fn part(&self, bytes: u64, epoch: u64) -> u64 {
        if self.epoch - epoch.min(self.epoch) < 2 { bytes } else { 0 }
    }
}

/// The connections of one address.
#[derive(Debug)]
struct Host {
    addr: Addr,
    conns: u32,
    held: u64,
    promised: Sums,
    /// Part of what is promised that it can come to, and that is in the sum over hosts, as of `promised.epoch`.
    counted: u64,
}

/// Receive memory of a stack, by the host that it is held by and promised to.
#[derive(Debug)]
pub(crate) struct Memory {
    budget: u64,
    /// Free memory, less the reserve, and less half of it.
    free: u64,
    covered: u64,
    /// What each host may hold of `covered`.
    little: u64,
    /// Bytes beyond a gap may be kept.
    gaps: bool,
    counted: Sums,
    hosts: Vec<Host>,
    /// Records without a connection.
    spare: Vec<u32>,
    by_addr: HashMap<Addr, u32>,
}

impl Memory {
    /// `budget` bounds what is in use, in bytes.
    pub(crate) fn new(budget: u64, pool: (u64, u64)) -> Memory {
        let mut m = Memory {
            budget,
            free: 0,
            covered: 0,
            little: 0,
            gaps: false,
            counted: Sums { epoch: 2, ..Sums::default() },
            hosts: Vec::new(),
            spare: Vec::new(),
            by_addr: HashMap::new(),
        };
        m.refresh(pool);
        m
    }

    /// Takes what the port says: bytes free, bytes in all.
    #[inline]
    pub(crate) fn refresh(&mut self, (free, all): (u64, u64)) {
        let left = self.budget.saturating_sub(all.saturating_sub(free));
        self.free = free.saturating_sub(all / RESERVE).min(left);
        self.gaps = free >= all / 4;
        self.covered = free.saturating_sub(all / RESERVE / 2);
        self.little = all / LITTLE;
    }

    // ---- hosts ----

    /// A connection of the host at `addr` begins.
    pub(crate) fn join(&mut self, addr: &Addr) -> Promise {
        let host = match self.by_addr.get(addr) {
            Some(i) => *i,
            None => {
                let h = Host { addr: *addr, conns: 0, held: 0, promised: Sums::default(), counted: 0 };
                let i = self.spare.pop().unwrap_or(self.hosts.len() as u32);
                match self.hosts.get_mut(i as usize) {
                    Some(place) => *place = h,
                    None => self.hosts.push(h),
                }
                self.by_addr.insert(*addr, i);
                i
            }
        };
        if let Some(h) = self.hosts.get_mut(host as usize) {
            h.conns += 1;
        }
        Promise { host, ..Promise::default() }
    }

    /// A connection is forgotten: it holds nothing, and nothing is promised to it.
    pub(crate) fn leave(&mut self, mut p: Promise) {
        self.holds(&mut p, 0);
        self.set(&mut p, 0);
        let Some(h) = self.hosts.get_mut(p.host as usize) else { return };
        h.conns = h.conns.saturating_sub(1);
        if h.conns == 0 {
            self.by_addr.remove(&h.addr);
            self.spare.push(p.host);
        }
    }

    #[inline]
    fn host(&self, p: &Promise) -> Option<&Host> {
        self.hosts.get(p.host as usize)
    }

    /// Changes what is noted of a host, and then counts what it can still come to.
    #[inline]
    fn change(&mut self, p: &Promise, change: impl FnOnce(&mut Host)) {
        let Some(h) = self.hosts.get_mut(p.host as usize) else { return };
        if let Some(sum) = self.counted.of(h.promised.epoch) {
            *sum = sum.saturating_sub(h.counted);
        }
        h.promised.turn(self.counted.epoch);
        change(h);
        let open = self.free.saturating_sub(self.counted.all());
        h.counted = h.promised.all().min(open.saturating_sub(h.held) / 2);
        self.counted.now += h.counted;
    }

    // ---- what is promised ----

    #[inline]
    fn turn_epoch(&mut self, now: u64) {
        self.counted.turn(now / EPOCH + 2);
    }

    /// A connection received.
    #[inline]
    pub(crate) fn received(&mut self, p: &mut Promise, now: u64) {
        self.turn_epoch(now);
        let (was, epoch) = (*p, self.counted.epoch);
        if was.epoch != epoch {
            p.epoch = epoch;
            self.change(&was, |h| {
                if let Some(sum) = h.promised.of(was.epoch) {
                    *sum = sum.saturating_sub(was.bytes);
                }
                h.promised.now += was.bytes;
            });
        }
    }

    /// A promise is now this large.
    #[inline]
    pub(crate) fn set(&mut self, p: &mut Promise, bytes: u64) {
        let was = *p;
        if was.bytes != bytes {
            p.bytes = bytes;
            self.change(&was, |h| {
                if let Some(sum) = h.promised.of(was.epoch) {
                    *sum = (*sum + bytes).saturating_sub(was.bytes);
                }
            });
        }
    }

    /// A connection holds this much now.
    #[inline]
    pub(crate) fn holds(&mut self, p: &mut Promise, held: u64) {
        let was = *p;
        if was.held != held {
            p.held = held;
            // The port says so after the burst.
            let more = held.saturating_sub(was.held);
            (self.free, self.covered) = (self.free.saturating_sub(more), self.covered.saturating_sub(more));
            self.change(&was, |h| h.held = (h.held + held).saturating_sub(was.held));
        }
    }

    /// Free memory that is not promised to other connections, nor to other hosts.
    #[inline]
    pub(crate) fn open_to(&mut self, p: &Promise, now: u64) -> u64 {
        self.turn_epoch(now);
        // Brings the sums of its host to this epoch.
        self.change(p, |_| ());
        let Some(h) = self.host(p) else { return self.free.saturating_sub(self.counted.all()) };
        self.open_to_host(h).saturating_sub(Memory::siblings(h, p).min(h.counted))
    }

    #[inline]
    fn open_to_host(&self, h: &Host) -> u64 {
        self.free.saturating_sub(self.counted.all().saturating_sub(h.counted))
    }

    /// What is promised to the other connections of its host.
    #[inline]
    fn siblings(h: &Host, p: &Promise) -> u64 {
        h.promised.all().saturating_sub(h.promised.part(p.bytes, p.epoch))
    }

    /// Promise that a connection may have as far as its host's share goes, as of the last [`Memory::open_to`].
    #[inline]
    pub(crate) fn left_to_host(&self, p: &Promise) -> u64 {
        let Some(h) = self.host(p) else { return 0 };
        (self.open_to_host(h).saturating_sub(h.held) / 2).saturating_sub(Memory::siblings(h, p))
    }

    // ---- what is held ----

    /// Pool memory that out-of-order data of one connection may occupy now, where `max` is the configured limit.
    /// The last quarter is for what fills gaps: were it held out of order, too, no buffer would be left for the
    /// segment that everything waits for.
    #[inline]
    pub(crate) fn out_of_order(&self, max: u64) -> u64 {
        if self.gaps { max } else { 0 }
    }

    /// Whether buffers of `weight` are there for what was promised.
    #[inline]
    pub(crate) fn covers(&self, weight: u64) -> bool {
        weight <= self.covered
    }

    /// Most that a host may hold now.
    #[inline]
    fn share(&self) -> u64 {
        self.free.max(self.covered.min(self.little))
    }

    /// Whether a connection's host may hold `weight` more: as much as is free.
    #[inline]
    pub(crate) fn may_hold(&self, p: &Promise, weight: u64) -> bool {
        self.host(p).is_none_or(|h| h.held + weight <= self.share())
    }

    /// Whether it may, for a connection that holds nothing which could be read: each may have a segment until the host
    /// has the larger part of all, and a host of which nothing is held always.
    #[inline]
    pub(crate) fn may_begin(&self, p: &Promise, weight: u64) -> bool {
        self.host(p).is_none_or(|h| h.held == 0 || h.held + weight <= self.share() * BEGUN_PART)
    }

    /// Whether a connection that holds nothing is offered `weight` whatever was promised to others.
    #[inline]
    pub(crate) fn has_little(&self, p: &Promise, weight: u64) -> bool {
        weight <= self.free || self.host(p).is_some_and(|h| h.held + weight <= self.covered.min(self.little))
    }

    /// Time at which there may be more without any packet (ns).
    pub(crate) fn next(&self) -> u64 {
        (self.counted.epoch - 1) * EPOCH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 8000;
    /// What may be held of it.
    const ROOM: u64 = 7000;

    /// Memory whose pool has what connections hold taken out.
    struct Pool {
        m: Memory,
        conns: Vec<Promise>,
        now: u64,
    }

    impl Pool {
        fn new() -> Pool {
            Pool { m: Memory::new(u64::MAX, (ALL, ALL)), conns: vec![], now: 0 }
        }

        fn join(&mut self, addr: Addr) -> usize {
            self.conns.push(self.m.join(&addr));
            self.conns.len() - 1
        }

        fn held(&self) -> u64 {
            self.conns.iter().map(|p| p.held).sum()
        }

        /// Offers connection `i` as much as it may be; returns what it has been promised then.
        fn offer(&mut self, i: usize) -> u64 {
            let p = &mut self.conns[i];
            let open = self.m.open_to(p, self.now);
            let n = (open / 2).min(open.saturating_sub(p.held)).min(self.m.left_to_host(p));
            let bytes = n.max(p.bytes);
            self.m.set(p, bytes);
            bytes
        }

        fn receive(&mut self, i: usize) {
            self.m.received(&mut self.conns[i], self.now);
        }

        /// As many buffers of 10 as its host's share lets in.
        fn fill(&mut self, i: usize) {
            while self.m.may_hold(&self.conns[i], 10) {
                let held = self.conns[i].held + 10;
                self.m.holds(&mut self.conns[i], held);
                self.m.refresh((ALL - self.held(), ALL));
            }
        }

        fn leave(&mut self, i: usize) {
            self.m.leave(std::mem::take(&mut self.conns[i]));
            self.m.refresh((ALL - self.held(), ALL));
        }
    }

    fn v6(n: u8) -> Addr {
        Addr([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n])
    }

    #[test]
    fn what_is_promised_to_one_is_not_open_to_others() {
        let mut m = Memory::new(u64::MAX, (1450, 2000));
        let mut p = [1, 2, 3].map(|n| m.join(&Addr::v4(n)));
        assert_eq!(m.open_to(&p[0], 0), 1200, "an eighth is kept");
        m.received(&mut p[0], 5);
        m.set(&mut p[0], 600);
        assert_eq!((m.open_to(&p[0], 5), m.open_to(&p[1], 5)), (1200, 600));
        m.received(&mut p[1], 5);
        m.set(&mut p[1], 300);
        m.set(&mut p[0], 500);
        assert_eq!((m.open_to(&p[0], 5), m.open_to(&p[2], 5)), (900, 450), "of 900 it can come to half");
        // Silence: an epoch later it still counts, two epochs later no more, and again when it receives.
        m.received(&mut p[1], EPOCH);
        assert_eq!(m.open_to(&p[2], EPOCH), 450);
        m.received(&mut p[1], 2 * EPOCH);
        assert_eq!(m.open_to(&p[2], 2 * EPOCH), 900);
        m.set(&mut p[0], 400);
        assert_eq!(m.open_to(&p[2], 2 * EPOCH), 900);
        m.received(&mut p[0], 2 * EPOCH);
        assert_eq!(m.open_to(&p[2], 2 * EPOCH), 500);
        m.leave(std::mem::take(&mut p[1]));
        assert_eq!((m.open_to(&p[2], 2 * EPOCH), m.open_to(&p[2], 9 * EPOCH)), (800, 1200));
        m.leave(std::mem::take(&mut p[0]));
        assert_eq!(m.counted.all(), 0);
    }

    #[test]
    fn the_budget_is_for_what_is_in_use() {
        let mut m = Memory::new(500, (2000, 2000));
        assert_eq!(m.free, 500);
        m.refresh((1700, 2000));
        assert_eq!(m.free, 200);
        m.refresh((1000, 2000));
        assert_eq!(m.free, 0);
    }

    #[test]
    fn connections_of_one_host_are_promised_and_hold_no_more_than_one_would() {
        for (addr, other) in [(Addr::v4(1), v6(1)), (v6(1), v6(2)), (v6(1), Addr::v4(1))] {
            for conns in [1, 2, 80, 1000] {
                let mut t = Pool::new();
                let all: Vec<usize> = (0..conns).map(|_| t.join(addr)).collect();
                let honest = t.join(other);
                for i in &all {
                    t.receive(*i);
                    t.offer(*i);
                }
                assert_eq!(
                    t.offer(honest),
                    ROOM / 4,
                    "half of what {conns} connections leave, who have half"
                );
                all.iter().for_each(|i| t.fill(*i));
                assert_eq!(t.held(), ROOM / 2, "{conns} connections");
                assert_eq!(t.offer(honest), ROOM / 4, "of which half is promised");
                t.fill(honest);
                assert_eq!(t.held(), ROOM / 2 + ROOM / 4, "{conns} connections");
            }
        }
    }

    /// Windows that were offered to silent connections come back all at once.
    #[test]
    fn promises_of_many_times_the_memory_count_as_what_their_host_can_come_to() {
        let mut t = Pool::new();
        let all: Vec<usize> = (0..160).map(|i| t.join(Addr::v4(1 + i / 80))).collect();
        for i in &all {
            t.now += 3 * EPOCH;
            t.receive(*i);
            assert_eq!(t.offer(*i), ROOM / 2, "to each while the others are silent");
        }
        all.iter().for_each(|i| t.receive(*i));
        let honest = t.join(Addr::v4(9));
        let open = t.m.open_to(&t.conns[honest], t.now);
        assert!(open >= ROOM / 4, "{open} of {ROOM}");
        all.iter().for_each(|i| t.fill(*i));
        assert!(t.held() <= ROOM * 3 / 4, "two hosts hold {}", t.held());
        assert!(t.offer(honest) >= ROOM / 9);
    }

    #[test]
    fn n_hosts_leave_a_part_and_whoever_comes_then_has_a_little() {
        let mut t = Pool::new();
        for n in 1..=5 {
            let one = t.join(Addr::v4(n));
            t.fill(one);
            assert!(ROOM - t.held() + 20 >= ROOM >> n, "{n} hosts hold {}", t.held());
        }
        // Others than connections hold the rest, and of the reserve what is not for newcomers.
        t.m.refresh((ALL / 16 + 200, ALL));
        let new = t.join(Addr::v4(99));
        assert!(t.m.has_little(&t.conns[new], ALL / 64) && !t.m.has_little(&t.conns[0], 10));
        assert!(t.m.may_hold(&t.conns[new], ALL / 64) && !t.m.may_hold(&t.conns[new], ALL / 64 + 1));
        assert!(!t.m.may_hold(&t.conns[0], 10));
    }

    #[test]
    fn the_first_segments_of_many_connections_end_at_two_thirds() {
        let mut t = Pool::new();
        let mut begun = 0;
        for _ in 0..1000 {
            let i = t.join(Addr::v4(1));
            if t.m.may_hold(&t.conns[i], 10) || t.m.may_begin(&t.conns[i], 10) {
                t.m.holds(&mut t.conns[i], 10);
                t.m.refresh((ALL - t.held(), ALL));
                begun += 1;
            }
        }
        assert_eq!(begun, 467, "of 10 bytes each");
        let other = t.join(Addr::v4(2));
        assert!(t.m.may_begin(&t.conns[other], ROOM), "a host that holds nothing always may");
    }

    #[test]
    fn a_connection_that_ends_gives_its_part_back_and_the_last_one_the_record() {
        let mut t = Pool::new();
        let (a, b, other) = (t.join(Addr::v4(1)), t.join(Addr::v4(1)), t.join(Addr::v4(2)));
        t.receive(a);
        t.offer(a);
        t.fill(a);
        let left = t.m.open_to(&t.conns[other], t.now);
        t.leave(a);
        assert!(t.m.open_to(&t.conns[other], t.now) > left);
        assert!(t.m.may_hold(&t.conns[b], ROOM), "its sibling is not charged for it");
        assert_eq!((t.m.by_addr.len(), t.m.spare.len()), (2, 0));
        t.leave(b);
        assert_eq!((t.m.by_addr.len(), t.m.spare.len()), (1, 1));
        for n in 0..1000 {
            let i = t.join(v6(n as u8));
            t.leave(i);
        }
        assert_eq!((t.m.by_addr.len(), t.m.hosts.len()), (1, 2), "records are used again");
    }
}
