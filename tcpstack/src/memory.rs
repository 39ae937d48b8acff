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
//! Connections share what is open by dynamic thresholds (Choudhury and Hahne 1998, see `window.rs`), and n of them leave a
//! part in n + 1 of windows, in 4n + 1 of what is held. A host may invent ports and process ids, but not addresses that
//! packets come back to. So the same rule stands for hosts: all connections of one hold and are promised together at most
//! [`HOST_PART`] times what is open besides, which is what a single connection may hold. However many connections a host
//! has, it leaves a fifth to the others; n hosts that take all they can leave one part in 5^n.
//!
//! A promise is kept. It counts as long as its connection receives: one that has been silent
//! for two epochs cannot be asked for the window back, and may never use it. When it does, as much of it is promised again
//! as its host's share allows then; the same holds for the window of a SYN, which was offered unseen. So windows that were
//! offered to many connections of one host are never memory that others wait for.
//!
//! Two things are kept whatever the others hold: a host with less than a 64th of the pool may have a little from
//! the reserve, and the next bytes in order of a connection that holds nothing are kept until its host holds
//! [`BEGUN_PART`] times what is free.
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
/// A host may hold so many times the memory that is open to others.
const HOST_PART: u64 = 4;
/// A connection may hold and be promised so many times what its host has left of that. A single one has its host's whole
/// share with it, as [`crate::window`] sees it.
const CONN_PART: u64 = 8;
/// The first segments of connections that hold nothing may bring their host to so many times the memory that is free.
const BEGUN_PART: u64 = 8;
/// Time for which a connection counts as receiving, at least, in ns.
const EPOCH: u64 = 100_000_000;

/// Memory that one connection holds, and the part of its promise that has not come yet, in bytes of pool memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    pub(crate) bytes: u64,
    held: u64,
    /// Epoch in which it last received; 0 before it is open.
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
    /// None yet, in this epoch.
    fn at(epoch: u64) -> Sums {
        Sums { epoch, ..Sums::default() }
    }

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

    /// Whether what was promised as of `epoch` counts.
    #[inline]
    fn has(&self, epoch: u64) -> bool {
        self.epoch - epoch.min(self.epoch) < 2
    }

    /// A promise as of `epoch`, which was `was`, is `bytes` now.
    #[inline]
    fn change(&mut self, epoch: u64, was: u64, bytes: u64) {
        if self.has(epoch) {
            let sum = if epoch == self.epoch { &mut self.now } else { &mut self.before };
            *sum = (*sum + bytes).saturating_sub(was);
        }
    }
}

/// The connections of one address.
#[derive(Debug)]
struct Host {
    addr: Addr,
    conns: u32,
    held: u64,
    promised: Sums,
}

/// Receive memory of a stack, by the host that it is held by and promised to.
#[derive(Debug)]
pub(crate) struct Memory {
    budget: u64,
    /// Free memory, less the reserve, and less half of it.
    free: u64,
    covered: u64,
    /// Bytes of `covered` that each host may hold.
    little: u64,
    /// Bytes beyond a gap may be kept.
    gaps: bool,
    promised: Sums,
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
            promised: Sums::at(2),
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
                let h = Host { addr: *addr, conns: 0, held: 0, promised: Sums::at(self.promised.epoch) };
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

    /// The record of a connection's host, with sums of this epoch.
    #[inline]
    fn host(&mut self, p: &Promise) -> Option<&mut Host> {
        let h = self.hosts.get_mut(p.host as usize)?;
        h.promised.turn(self.promised.epoch);
        Some(h)
    }

    // ---- what is promised ----

    #[inline]
    fn turn_epoch(&mut self, now: u64) {
        if now >= self.next() {
            self.promised.turn(now / EPOCH + 2);
        }
    }

    /// A promise is `bytes` as of `epoch`.
    #[inline]
    fn change(&mut self, p: &mut Promise, epoch: u64, bytes: u64) {
        let was = *p;
        (p.epoch, p.bytes) = (epoch, bytes);
        let change = |s: &mut Sums| {
            s.change(was.epoch, was.bytes, 0);
            s.change(epoch, 0, bytes);
        };
        change(&mut self.promised);
        if let Some(h) = self.host(&was) {
            change(&mut h.promised);
        }
    }

    /// A connection receives, or is open, whose SYN offered `first`. Of that, and of what one was offered that has been
    /// silent, what its host has left of its share is promised.
    #[inline]
    pub(crate) fn received(&mut self, p: &mut Promise, first: u64, now: u64) {
        self.turn_epoch(now);
        let epoch = self.promised.epoch;
        if p.epoch != epoch {
            let offered = if p.epoch == 0 { first } else { p.bytes };
            let counts = offered == 0 || self.promised.has(p.epoch);
            let bytes = if counts { offered } else { offered.min(self.left_to(p, now)) };
            self.change(p, epoch, bytes);
        }
    }

    /// A promise is now this large.
    #[inline]
    pub(crate) fn set(&mut self, p: &mut Promise, bytes: u64) {
        let was = std::mem::replace(&mut p.bytes, bytes);
        if was != bytes {
            self.promised.change(p.epoch, was, bytes);
            if let Some(h) = self.host(p) {
                h.promised.change(p.epoch, was, bytes);
            }
        }
    }

    /// Buffers of `weight` came for a connection, which has [`Memory::received`], and are `kept` or not.
    #[inline]
    pub(crate) fn took(&mut self, p: &mut Promise, weight: u64, kept: bool) {
        let used = p.bytes.min(weight);
        let more = if kept { weight } else { 0 };
        p.bytes -= used;
        p.held += more;
        self.promised.now = self.promised.now.saturating_sub(used);
        if let Some(h) = self.host(p) {
            h.promised.now = h.promised.now.saturating_sub(used);
            h.held += more;
        }
    }

    /// A connection holds this much now.
    #[inline]
    pub(crate) fn holds(&mut self, p: &mut Promise, held: u64) {
        let was = std::mem::replace(&mut p.held, held);
        if was != held
            && let Some(h) = self.hosts.get_mut(p.host as usize)
        {
            h.held = (h.held + held).saturating_sub(was);
        }
    }

    /// Of what is promised, the part that is not to this connection.
    #[inline]
    fn promised_to_others(s: &Sums, p: &Promise) -> u64 {
        s.all().saturating_sub(if s.has(p.epoch) { p.bytes } else { 0 })
    }

    /// Free memory that is not promised to other connections.
    #[inline]
    pub(crate) fn open_to(&mut self, p: &Promise, now: u64) -> u64 {
        self.turn_epoch(now);
        self.free.saturating_sub(Memory::promised_to_others(&self.promised, p))
    }

    /// Free memory that is not promised to other hosts; what this one holds; what its other connections are promised.
    #[inline]
    fn of_host(&mut self, p: &Promise, now: u64) -> (u64, u64, u64) {
        self.turn_epoch(now);
        let (free, all) = (self.free, self.promised.all());
        match self.host(p) {
            Some(h) => {
                let others = all.saturating_sub(h.promised.all());
                (free.saturating_sub(others), h.held, Memory::promised_to_others(&h.promised, p))
            }
            None => (0, 0, 0),
        }
    }

    /// The largest promise that a connection may have as far as its host's share goes, of which it is left no more than its
    /// part beside the other connections.
    #[inline]
    fn left_to(&mut self, p: &Promise, now: u64) -> u64 {
        let of_host = self.of_host(p, now);
        Memory::left(of_host, p.held)
    }

    /// The same, of a connection that holds `held` and a host as [`Memory::of_host`] has it.
    #[inline]
    fn left((open, of_host, siblings): (u64, u64, u64), held: u64) -> u64 {
        let left = ((open * HOST_PART).saturating_sub(of_host) / (HOST_PART + 1)).saturating_sub(siblings);
        (left * CONN_PART).saturating_sub(held) / (CONN_PART + 1)
    }

    /// A connection holds this much now. Free memory that is not promised to others, and the largest promise that its host's share
    /// allows.
    #[inline]
    pub(crate) fn offers(&mut self, p: &mut Promise, held: u64, now: u64) -> (u64, u64) {
        self.turn_epoch(now);
        let (free, all) = (self.free, self.promised.all());
        let own = if self.promised.has(p.epoch) { p.bytes } else { 0 };
        let open = free.saturating_sub(all.saturating_sub(own));
        let was = std::mem::replace(&mut p.held, held);
        let share = self.host(p).map_or(0, |h| {
            h.held = (h.held + held).saturating_sub(was);
            let of_host = h.promised.all();
            let left = free.saturating_sub(all.saturating_sub(of_host));
            Memory::left((left, h.held, of_host.saturating_sub(own)), held)
        });
        (open, share)
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

    /// Whether a connection's host may hold `weight` more, which was promised to none of its connections.
    #[inline]
    pub(crate) fn may_hold(&mut self, p: &Promise, weight: u64, now: u64) -> bool {
        let (open, held, siblings) = self.of_host(p, now);
        held + siblings + weight <= open.saturating_sub(siblings) * HOST_PART
    }

    /// Bytes that any host may hold, as long as half of the reserve is there.
    #[inline]
    fn least(&self) -> u64 {
        self.covered.min(self.little)
    }

    /// Whether it may, for a connection that holds nothing which could be read: each may have a segment until the host
    /// has the larger part of all, and a host of which little or nothing is held always.
    #[inline]
    pub(crate) fn may_begin(&mut self, p: &Promise, weight: u64) -> bool {
        let most = (self.free * BEGUN_PART).max(self.least());
        self.host(p).is_none_or(|h| h.held == 0 || h.held + weight <= most)
    }

    /// Whether a connection that holds nothing is offered `weight` whatever was promised to others.
    #[inline]
    pub(crate) fn has_little(&mut self, p: &Promise, weight: u64) -> bool {
        let little = self.least();
        weight <= self.free || self.host(p).is_some_and(|h| h.held + weight <= little)
    }

    /// Time at which there may be more without any packet (ns).
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        (self.promised.epoch - 1) * EPOCH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 8000;
    /// The part of it that may be held.
    const ROOM: u64 = 7000;
    const BUF: u64 = 10;

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

        fn joined(&mut self, addr: Addr, conns: u64) -> Vec<usize> {
            (0..conns).map(|_| self.join(addr)).collect()
        }

        fn held(&self) -> u64 {
            self.conns.iter().map(|p| p.held).sum()
        }

        /// Offers connection `i` what it may be; returns what it is promised then.
        fn offer(&mut self, i: usize) -> u64 {
            let p = &mut self.conns[i];
            let (open, share) = self.m.offers(p, p.held, self.now);
            let n = (open / 2).min(open.saturating_sub(p.held)).min(share);
            let bytes = n.max(p.bytes);
            self.m.set(p, bytes);
            bytes
        }

        fn receive(&mut self, i: usize) {
            self.m.received(&mut self.conns[i], 0, self.now);
        }

        /// A buffer comes, as promised or beyond; whether it is kept.
        fn take(&mut self, i: usize) -> bool {
            let (p, m) = (&mut self.conns[i], &mut self.m);
            let promised = p.bytes >= BUF && m.covers(BUF);
            let fits =
                promised || (p.held + BUF <= m.open_to(p, self.now) * 4 && m.may_hold(p, BUF, self.now));
            if fits {
                m.took(p, BUF, true);
                self.m.refresh((ALL - self.held(), ALL));
            }
            fits
        }

        /// As many buffers as are kept.
        fn fill(&mut self, i: usize) {
            while self.take(i) {}
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
        m.received(&mut p[0], 0, 5);
        m.set(&mut p[0], 600);
        assert_eq!((m.open_to(&p[0], 5), m.open_to(&p[1], 5)), (1200, 600));
        m.received(&mut p[1], 0, 5);
        m.set(&mut p[1], 300);
        m.set(&mut p[0], 500);
        assert_eq!((m.open_to(&p[0], 5), m.open_to(&p[2], 5)), (900, 400));
        // Silence: an epoch later it still counts, two epochs later no more, and again when it receives.
        m.received(&mut p[1], 0, EPOCH);
        assert_eq!(m.open_to(&p[2], EPOCH), 400);
        m.received(&mut p[1], 0, 2 * EPOCH);
        assert_eq!(m.open_to(&p[2], 2 * EPOCH), 900);
        m.set(&mut p[0], 550);
        assert_eq!(m.open_to(&p[2], 2 * EPOCH), 900);
        m.received(&mut p[0], 0, 2 * EPOCH);
        assert_eq!(m.open_to(&p[2], 2 * EPOCH), 350);
        m.leave(std::mem::take(&mut p[1]));
        assert_eq!((m.open_to(&p[2], 2 * EPOCH), m.open_to(&p[2], 9 * EPOCH)), (650, 1200));
        m.leave(std::mem::take(&mut p[0]));
        assert_eq!(m.promised.all(), 0);
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
    fn connections_of_one_host_are_promised_and_hold_no_more_than_one_may() {
        for (addr, other) in [(Addr::v4(1), v6(1)), (v6(1), v6(2)), (v6(1), Addr::v4(1))] {
            for conns in [1, 2, 80, 1000] {
                let mut t = Pool::new();
                let all = t.joined(addr, conns);
                let honest = t.join(other);
                for i in &all {
                    t.receive(*i);
                    t.offer(*i);
                }
                let promised: u64 = all.iter().map(|i| t.conns[*i].bytes).sum();
                assert!(promised <= ROOM * 4 / 5, "{promised} to {conns} connections");
                t.receive(honest);
                assert_eq!(t.offer(honest), (ROOM - promised) / 2);
                assert!(t.conns[honest].bytes >= ROOM / 10, "{conns}");
                all.iter().for_each(|i| t.fill(*i));
                assert!(t.held() <= ROOM * 4 / 5, "{conns} connections hold {}", t.held());
                t.fill(honest);
                assert!(t.conns[honest].held >= ROOM / 10, "what was promised is kept");
            }
        }
    }

    /// All that was promised within two epochs is kept, whoever else was promised or holds what was left.
    #[test]
    fn what_is_promised_is_kept() {
        let mut t = Pool::new();
        let all: Vec<usize> = (0..60).map(|n| t.join(Addr::v4(n % 4))).collect();
        for round in 0..3 {
            t.now += EPOCH / 4;
            for i in &all {
                t.receive(*i);
                let promised = t.offer(*i);
                for _ in 0..promised / BUF / (2 - round % 2) {
                    assert!(t.take(*i), "round {round}, connection {i}");
                }
            }
        }
        assert!(t.held() > ROOM * 9 / 10, "{}", t.held());
    }

    /// Windows that were offered to silent connections come back all at once.
    #[test]
    fn silent_connections_come_back_to_their_hosts_share() {
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
        assert!(open >= ROOM / 25, "{open} of {ROOM}");
        all.iter().for_each(|i| t.fill(*i));
        assert!(t.held() <= ROOM * 24 / 25, "two hosts hold {}", t.held());
        assert!(t.offer(honest) >= ROOM / 50);
    }

    #[test]
    fn n_hosts_leave_a_part_and_whoever_comes_then_has_a_little() {
        let mut t = Pool::new();
        for n in 1..=4 {
            let one = t.join(Addr::v4(n));
            t.fill(one);
            assert!(ROOM - t.held() + BUF >= ROOM / 5u64.pow(n), "{n} hosts hold {}", t.held());
        }
        // Others than connections hold the rest, and of the reserve what is not for newcomers.
        t.m.refresh((ALL / 16 + 200, ALL));
        let new = t.join(Addr::v4(99));
        assert!(t.m.has_little(&t.conns[new], ALL / 64) && !t.m.has_little(&t.conns[0], BUF));
        assert!(t.m.may_begin(&t.conns[new], ALL) && !t.m.may_begin(&t.conns[0], BUF));
        t.m.holds(&mut t.conns[new], BUF);
        assert!(t.m.may_begin(&t.conns[new], ALL / 64 - BUF) && !t.m.may_begin(&t.conns[new], ALL / 64));
        assert!(!t.m.may_hold(&t.conns[0], BUF, t.now));
    }

    #[test]
    fn the_first_segments_of_many_connections_leave_a_ninth() {
        let mut t = Pool::new();
        for i in t.joined(Addr::v4(1), 1000) {
            if t.take(i) || t.m.may_begin(&t.conns[i], BUF) {
                t.m.holds(&mut t.conns[i], BUF);
                t.m.refresh((ALL - t.held(), ALL));
            }
        }
        // The last one may begin while the free memory is a ninth yet.
        assert_eq!(t.held() / BUF, ROOM * 8 / 9 / BUF + 1);
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
        assert!(t.m.may_hold(&t.conns[b], ROOM, t.now), "its sibling is not charged for it");
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
