//! One bound for all that strangers make a shard hold: answers that they do not read, handshakes that they do not finish,
//! connections, peers.
//!
//! It is shared by *host*, the address that connections come from: a host may invent process ids and NIDs, but not
//! addresses that packets come back to. Each host may hold as much as is free (dynamic thresholds, Choudhury and Hahne
//! 1998, as `tcpstack` shares its receive memory): one that takes all it can ends at half of the budget, n of them leave
//! one part in n + 1 to the others, and nothing has to be divided in advance. The same rule shares the places for
//! handshakes, and those parts of the NI's credits and of the lendings that answers may use.
//!
//! ```text
//!   over its share:   its connections are not read any more (PARSE_WAIT); what it reads or loses frees them
//!                     it gets no new connection, and no new peer
//!   others:           go on
//! ```
//!
//! A host of which no answer is held may always get one, however little is free: so a stalled host has answers of its
//! own that will end, by its reading or by the time-out of its connections, and nobody waits for another.
//!
//! A charge covers the memory that may be used in the end, not the need of the message: queues grow by doubling and shrink by
//! halves at a quarter ([`trim`]).

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use super::NiId;
use crate::stream::slab::{Key, Slab};

/// Charged for an ACK, REPLY or NOOP from when it is queued until TCP has acknowledged it or its pages are home, in bytes:
/// its place in a queue of ours and then in one of the runtime's.
pub(crate) const ANSWER: u64 = 1024;
/// Charged for a connection in whatever state: socklnd's record, the runtime's, and TCP's.
pub(crate) const CONN: u64 = 4096;
/// Charged for a peer: its records in both layers and in the tables by NID and by host, each with as much room again as it takes, what
/// discovery knows of it, what a router knows of one that has sent messages for others, and the least queue for messages that wait for
/// a connection. `bench/tests/alloc_peers.rs` measures it.
pub(crate) const PEER: u64 = 4096;
/// Charged once more for each line of a peer's that was ever used: it keeps [`FLOOR`] places.
pub(crate) const QUEUE: u64 = (FLOOR * MESSAGE) as u64;
/// A message that waits, in bytes: not less than a [`Tx`](super::Tx) of LNet's takes.
pub(crate) const MESSAGE: usize = 464;
/// Places that a queue keeps when it is empty, so that a peer with so many messages in flight costs no allocation.
pub(crate) const FLOOR: usize = 64;
/// Entries of a map below which it is not made smaller.
const SMALL_MAP: usize = 4096;
/// Address to which all sources that lead nowhere are charged together.
pub(crate) const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Uses of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// ACKs, REPLYs and NOOPs.
    Answers,
    /// Connections whose HELLO has not come.
    Handshakes,
    /// Connections that carry messages, and those that are closing.
    Conns,
    /// Peers.
    Peers,
}

/// Credits and lendings of the shard that messages on their way hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uses {
    /// Credits of the NI, one a message.
    pub(crate) credits: u32,
    /// Those of them that answers hold.
    pub(crate) answers: u32,
    /// Those of them that messages of other nodes hold, which are passed on.
    pub(crate) passed: u32,
    /// Those of them that messages of this node without pages hold.
    pub(crate) short: u32,
    /// Lendings that the pages of answers take: one a piece.
    pub(crate) pieces: u32,
    /// Router buffers of messages that came from there: the one thing here that is not on its way to a peer.
    pub(crate) buffers: u32,
    /// Bytes of those messages.
    pub(crate) bytes: u64,
}

/// Router buffers, and bytes in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) buffers: u32,
    pub(crate) bytes: u64,
}

/// Whether one that holds so much has to leave what is free to others, rather than have another message of `len` bytes: it may
/// hold as many buffers, and as many bytes, as are free, and as many buffers as one peer in any case.
pub(crate) fn crowds(held: Room, free: Room, one_peer: u32, len: u32) -> bool {
    held.buffers >= one_peer && (held.buffers >= free.buffers || held.bytes + u64::from(len) > free.bytes)
}

impl Uses {
    pub(crate) fn add(&mut self, n: Uses) {
        self.credits += n.credits;
        self.answers += n.answers;
        self.passed += n.passed;
        self.short += n.short;
        self.pieces += n.pieces;
        self.buffers += n.buffers;
        self.bytes += n.bytes;
    }

    /// Whether nothing waits for its end.
    #[inline]
    pub(crate) fn is_nothing(&self) -> bool {
        self.credits == 0 && self.buffers == 0
    }

    pub(crate) fn sub(&mut self, n: Uses) {
        self.credits = self.credits.saturating_sub(n.credits);
        self.answers = self.answers.saturating_sub(n.answers);
        self.passed = self.passed.saturating_sub(n.passed);
        self.short = self.short.saturating_sub(n.short);
        self.pieces = self.pieces.saturating_sub(n.pieces);
        self.buffers = self.buffers.saturating_sub(n.buffers);
        self.bytes = self.bytes.saturating_sub(n.bytes);
    }
}

/// The part of `all` that answers leave to the node's own operations, however many hosts do not read: a quarter.
pub(crate) fn own_part(all: u32) -> u32 {
    (all / 4).max(1)
}

/// Memory held now, by use. In bytes but for `hosts` and `stalled`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Most that may be.
    pub limit: u64,
    /// In all.
    pub used: u64,
    /// For answers that were not read.
    pub answers: u64,
    /// For handshakes.
    pub handshakes: u64,
    /// For connections.
    pub conns: u64,
    /// For peers.
    pub peers: u64,
    /// Hosts that something is held for.
    pub hosts: usize,
    /// Connections that are not read since their host is over its share.
    pub stalled: usize,
}

/// The peers at one address.
#[derive(Debug)]
struct Host {
    ip: IpAddr,
    used: u64,
    /// Of that, for answers.
    answers: u64,
    /// Of that, for connections, in whatever state.
    conns: u64,
    handshakes: usize,
    /// Credits and lendings that messages to it hold.
    uses: Uses,
    /// Connections that wait for its share to be enough, in the order they came.
    stalled: VecDeque<(NiId, Key)>,
    /// Peers whose answers wait for the host's share of the NI's credits.
    waiters: VecDeque<Key>,
    /// Stands in `Budget::ready`.
    ready: bool,
}

/// The budget of a shard.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: u64,
    by: [u64; 4],
    hosts: Slab<Host>,
    by_ip: HashMap<IpAddr, Key>,
    stalled: usize,
    /// Handshakes under way, by whichever NI.
    handshakes: usize,
    /// Hosts that are under their share again, with connections that wait for it.
    ready: VecDeque<Key>,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Budget {
        Budget {
            limit,
            used: 0,
            by: [0; 4],
            hosts: Slab::new(),
            by_ip: HashMap::new(),
            stalled: 0,
            handshakes: 0,
            ready: VecDeque::new(),
        }
    }

    /// Free bytes. More may be held than the limit: the node's own operations are charged, never refused.
    fn free(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// The host at `ip`; it lasts while something is charged to it.
    fn at(&mut self, ip: IpAddr) -> Key {
        let hosts = &mut self.hosts;
        *self.by_ip.entry(ip).or_insert_with(|| {
            hosts.insert(Host {
                ip,
                used: 0,
                answers: 0,
                conns: 0,
                handshakes: 0,
                uses: Uses::default(),
                stalled: VecDeque::new(),
                waiters: VecDeque::new(),
                ready: false,
            })
        })
    }

    /// The host's address.
    pub(crate) fn ip(&self, host: Key) -> Option<IpAddr> {
        self.hosts.get(host).map(|h| h.ip)
    }

    /// Charges the host at `ip`, and names it.
    pub(crate) fn charge_at(&mut self, ip: IpAddr, cause: Cause, bytes: u64) -> Key {
        let host = self.at(ip);
        self.charge(host, cause, bytes);
        host
    }

    pub(crate) fn charge(&mut self, host: Key, cause: Cause, bytes: u64) {
        let Some(h) = self.hosts.get_mut(host) else { return };
        h.used += bytes;
        match cause {
            Cause::Answers => h.answers += bytes,
            Cause::Conns => h.conns += bytes,
            Cause::Handshakes | Cause::Peers => {}
        }
        self.used += bytes;
        if let Some(by) = self.by.get_mut(cause as usize) {
            *by += bytes;
        }
    }

    /// Gives back what was charged. A host that nothing is charged to any more is forgotten.
    pub(crate) fn release(&mut self, host: Key, cause: Cause, bytes: u64) {
        let Some(h) = self.hosts.get_mut(host) else { return };
        h.used = h.used.saturating_sub(bytes);
        match cause {
            Cause::Answers => h.answers = h.answers.saturating_sub(bytes),
            Cause::Conns => h.conns = h.conns.saturating_sub(bytes),
            Cause::Handshakes | Cause::Peers => {}
        }
        let ended = h.used == 0 && h.uses.is_nothing();
        let wakes = !h.stalled.is_empty() && !h.ready;
        self.used = self.used.saturating_sub(bytes);
        if let Some(by) = self.by.get_mut(cause as usize) {
            *by = by.saturating_sub(bytes);
        }
        if ended || wakes {
            self.eased(host, ended);
        }
    }

    /// A host holds less: its stalled connections may go on, and a host without charges has `ended`.
    #[cold]
    fn eased(&mut self, host: Key, ended: bool) {
        if self.may_go_on(host)
            && let Some(h) = self.hosts.get_mut(host).filter(|h| !h.stalled.is_empty() && !h.ready)
        {
            h.ready = true;
            self.ready.push_back(host);
        }
        if ended {
            self.forget(host);
        }
    }

    fn forget(&mut self, host: Key) {
        if let Some(h) = self.hosts.remove(host) {
            self.stalled -= h.stalled.len().min(self.stalled);
            self.by_ip.remove(&h.ip);
            trim_map(&mut self.by_ip);
        }
    }

    /// Whether one more answer is too much for the host.
    pub(crate) fn over(&self, host: Key) -> bool {
        // A host holds no more than all do: while half is free, nobody is looked up.
        self.used.saturating_mul(2) + ANSWER > self.limit
            && self.hosts.get(host).is_some_and(|h| h.answers > 0 && h.used + ANSWER > self.free())
    }

    /// Whether stalled connections may go on: with room to spare, so that they do not stall at every message.
    fn may_go_on(&self, host: Key) -> bool {
        self.hosts.get(host).is_some_and(|h| h.answers == 0 || h.used <= self.free() / 2)
    }

    /// Whether a stranger at this host may get a connection or peer that comes to so many bytes.
    pub(crate) fn admits(&self, host: Key, bytes: u64) -> bool {
        self.hosts.get(host).is_some_and(|h| h.used <= self.free().saturating_sub(bytes))
    }

    /// Whether the connection of the host that was charged last may stay, where there are descriptors for `most`.
    pub(crate) fn may_stay(&self, host: Key, most: usize) -> bool {
        let before = |bytes: u64| usize::try_from(bytes / CONN).unwrap_or(usize::MAX).saturating_sub(1);
        let own = before(self.hosts.get(host).map_or(0, |h| h.conns));
        let now = before(self.by.iter().skip(Cause::Handshakes as usize).take(2).sum());
        now < most && (own == 0 || own < most - now)
    }

    /// Whether a connection of the host may begin a handshake, where there are places for `most`.
    pub(crate) fn may_shake(&self, host: Key, most: usize) -> bool {
        let (own, now) = (self.hosts.get(host).map_or(0, |h| h.handshakes), self.handshakes);
        now < most && (own == 0 || own < most - now)
    }

    /// A handshake begins: the charge of its connection is one for a handshake.
    pub(crate) fn shakes(&mut self, host: Key) {
        if let Some(h) = self.hosts.get_mut(host) {
            h.handshakes += 1;
        }
        self.handshakes += 1;
        self.recount(Cause::Conns, Cause::Handshakes);
    }

    /// A handshake is over.
    pub(crate) fn shook(&mut self, host: Key) {
        if let Some(h) = self.hosts.get_mut(host) {
            h.handshakes = h.handshakes.saturating_sub(1);
        }
        self.handshakes = self.handshakes.saturating_sub(1);
        self.recount(Cause::Handshakes, Cause::Conns);
    }

    /// A connection counts among others now.
    fn recount(&mut self, from: Cause, to: Cause) {
        if let Some(by) = self.by.get_mut(from as usize) {
            *by = by.saturating_sub(CONN);
        }
        if let Some(by) = self.by.get_mut(to as usize) {
            *by += CONN;
        }
    }

    /// A connection of the host is not read until there is room.
    pub(crate) fn stall(&mut self, host: Key, ni: NiId, conn: Key) {
        if let Some(h) = self.hosts.get_mut(host) {
            h.stalled.push_back((ni, conn));
            self.stalled += 1;
        }
    }

    /// A connection that may have stalled is gone.
    pub(crate) fn unstall(&mut self, host: Key, ni: NiId, conn: Key) {
        if let Some(h) = self.hosts.get_mut(host) {
            let before = h.stalled.len();
            h.stalled.retain(|c| *c != (ni, conn));
            self.stalled -= (before - h.stalled.len()).min(self.stalled);
        }
    }

    /// Whether [`Budget::resumes`] has something to look at.
    #[inline]
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next connection that may go on, and the NI whose LND has it.
    pub(crate) fn resumes(&mut self) -> Option<(NiId, Key)> {
        while let Some(host) = self.ready.front().copied() {
            let over = self.over(host);
            if let Some(h) = self.hosts.get_mut(host) {
                if let Some(conn) = (!over).then(|| h.stalled.pop_front()).flatten() {
                    self.stalled = self.stalled.saturating_sub(1);
                    return Some(conn);
                }
                h.ready = false;
            }
            self.ready.pop_front();
        }
        None
    }

    /// Whether an answer to the host must leave credits to others: of the NI's `most`, `now` are taken, or kept from answers.
    /// One answer may go for each host, however few are left: else some hosts that never read would hold them all, and no
    /// other would be answered. What is passed on to the host is before others of its kind alone, which `passed` says of this one.
    /// Never while half of them are free: a caller need not ask then.
    pub(crate) fn must_wait(&self, host: Key, now: u32, most: u32, passed: bool) -> bool {
        self.hosts.get(host).is_some_and(|h| {
            let before = h.uses.answers - if passed { 0 } else { h.uses.passed.min(h.uses.answers) };
            before > 0 && h.uses.answers >= most.saturating_sub(now)
        })
    }

    /// The same for the lendings that an answer of so many pieces needs, of which `free` are left to answers.
    pub(crate) fn must_wait_for_lendings(&self, host: Key, pieces: u32, free: u32) -> bool {
        self.hosts.get(host).is_some_and(|h| h.uses.pieces > 0 && h.uses.pieces + pieces > free)
    }

    /// Whether a message of the host's, of `len` bytes, must leave the router buffers that are free to others.
    pub(crate) fn must_wait_for_buffers(&self, host: Key, free: Room, one_peer: u32, len: u32) -> bool {
        let room = |u: &Uses| Room { buffers: u.buffers, bytes: u.bytes };
        self.hosts.get(host).is_some_and(|h| crowds(room(&h.uses), free, one_peer, len))
    }

    /// Messages to the host hold so much more.
    pub(crate) fn took(&mut self, host: Key, n: Uses) {
        if let Some(h) = self.hosts.get_mut(host) {
            h.uses.add(n);
        }
    }

    /// Messages to the host hold so much less; gives whether a peer may wait for that.
    pub(crate) fn gave(&mut self, host: Key, n: Uses) -> bool {
        let Some(h) = self.hosts.get_mut(host) else { return false };
        h.uses.sub(n);
        let waited_for = !h.waiters.is_empty();
        if h.used == 0 && h.uses.is_nothing() {
            self.forget(host);
        }
        waited_for
    }

    /// A peer waits for the host's share of the credits.
    pub(crate) fn waits(&mut self, host: Key, peer: Key) {
        if let Some(h) = self.hosts.get_mut(host) {
            h.waiters.push_back(peer);
        }
    }

    /// The peer that has waited longest.
    pub(crate) fn next_waiter(&mut self, host: Key) -> Option<Key> {
        self.hosts.get_mut(host)?.waiters.pop_front()
    }

    /// Memory held now, by use.
    pub(crate) fn held(&self) -> Held {
        let [answers, handshakes, conns, peers] = self.by;
        Held {
            limit: self.limit,
            used: self.used,
            answers,
            handshakes,
            conns,
            peers,
            hosts: self.hosts.len(),
            stalled: self.stalled,
        }
    }
}

/// Gives back half of a queue's memory once three quarters of its places are empty, as after a storm of messages. Costs nothing
/// for queues of up to [`FLOOR`] places.
pub(crate) fn trim<T>(q: &mut VecDeque<T>) {
    if q.capacity() > FLOOR && q.len() < q.capacity() / 4 {
        q.shrink_to((q.capacity() / 2).max(FLOOR));
    }
}

/// The same for the memory of a map.
pub(crate) fn trim_map<K: Eq + std::hash::Hash, V, S: std::hash::BuildHasher>(m: &mut HashMap<K, V, S>) {
    if m.capacity() > SMALL_MAP && m.len() < m.capacity() / 8 {
        m.shrink_to((m.len() * 2).max(SMALL_MAP));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    /// Answers that a host may be given until it is over.
    fn fill(b: &mut Budget, host: Key) -> u64 {
        let mut n = 0;
        while !b.over(host) {
            b.charge(host, Cause::Answers, ANSWER);
            n += 1;
        }
        n
    }

    #[test]
    fn one_host_ends_at_half_and_n_leave_one_part_in_n_plus_1() {
        let mut b = Budget::new(1000 * ANSWER);
        let hosts: Vec<_> = (1..4).map(|n| b.charge_at(ip(n), Cause::Conns, 0)).collect();
        let got: Vec<u64> = hosts.iter().map(|h| fill(&mut b, *h)).collect();
        assert_eq!(got, [500, 250, 125]);
        // Those that give back get no more than their share again.
        for h in &hosts {
            b.release(*h, Cause::Answers, ANSWER);
        }
        // Another still gets its part.
        let d = b.charge_at(ip(9), Cause::Conns, 0);
        assert_eq!(fill(&mut b, d), 64);
        assert_eq!(b.held().answers, b.held().used);
    }

    #[test]
    fn who_holds_no_answer_gets_one_and_what_stalled_goes_on_when_half_is_free() {
        let mut b = Budget::new(10 * ANSWER);
        let (full, poor) =
            (b.charge_at(ip(1), Cause::Peers, 10 * ANSWER), b.charge_at(ip(2), Cause::Peers, PEER));
        assert!(!b.over(poor));
        b.charge(poor, Cause::Answers, ANSWER);
        assert!(b.over(poor));
        let conn = Key { index: 7, generation: 0 };
        b.stall(poor, NiId(1), conn);
        assert_eq!((b.resumes(), b.held().stalled), (None, 1));
        b.release(poor, Cause::Answers, ANSWER);
        assert_eq!((b.resumes(), b.resumes(), b.held().stalled), (Some((NiId(1), conn)), None, 0));
        b.stall(poor, NiId(1), conn);
        b.unstall(poor, NiId(1), conn);
        b.release(poor, Cause::Peers, PEER);
        b.release(full, Cause::Peers, 10 * ANSWER);
        assert_eq!(b.held(), Held { limit: 10 * ANSWER, ..Held::default() });
    }

    #[test]
    fn handshakes_and_credits_are_shared_by_the_same_rule() {
        let mut b = Budget::new(1 << 20);
        let (x, y) = (b.charge_at(ip(1), Cause::Conns, 1), b.charge_at(ip(2), Cause::Conns, 1));
        let mut n = 0;
        while b.may_shake(x, 8) {
            b.shakes(x);
            n += 1;
        }
        assert_eq!((n, b.may_shake(y, 8), b.may_shake(y, 4)), (4, true, false));
        let mut used = 0;
        while !b.must_wait(x, used, 8, false) {
            b.took(x, Uses { credits: 1, answers: 1, pieces: 3, ..Uses::default() });
            used += 1;
        }
        assert_eq!((used, b.must_wait(y, used, 8, false)), (4, false));
        // Own operations to the same host are no answers.
        b.took(y, Uses { credits: 4, ..Uses::default() });
        assert!(!b.must_wait(y, 8, 8, false));
        let waits = |pieces, free| b.must_wait_for_lendings(x, pieces, free);
        assert_eq!((waits(3, 15), waits(3, 14), b.must_wait_for_lendings(y, 256, 0)), (false, true, false));
    }

    /// Field report 4: one host ends at half of the descriptors, also where it says nothing on them.
    #[test]
    fn descriptors_are_shared_by_the_same_rule() {
        let mut b = Budget::new(1 << 30);
        let mut fill = |last| {
            let mut n = 0;
            loop {
                let host = b.charge_at(ip(last), Cause::Conns, CONN);
                if !b.may_stay(host, 16) {
                    b.release(host, Cause::Conns, CONN);
                    return n;
                }
                if n == 0 {
                    b.shakes(host);
                }
                n += 1;
            }
        };
        assert_eq!([fill(1), fill(2), fill(3), fill(4), fill(5)], [8, 4, 2, 1, 1]);
    }

    #[test]
    fn memory_of_a_storm_goes_back() {
        let mut q: VecDeque<u64> = (0..10_000).collect();
        while let Some(n) = q.pop_front() {
            trim(&mut q);
            assert!(q.capacity() <= (4 * (10_000 - n as usize)).max(FLOOR), "{} at {n}", q.capacity());
        }
        assert_eq!(q.capacity(), FLOOR);
    }
}
