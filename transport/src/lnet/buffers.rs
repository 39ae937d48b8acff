//! Router buffers: how many messages of other nodes a shard holds, by class and by peer (docs/protocol/upper.md §1.3).
//!
//! A buffer is leave to hold one message, not memory: its payload lies in the receive buffers that it came in, or in a copy
//! where those are all on loan. A message takes one when its header has come, and gives it back when the next hop has it, or
//! will not. Whoever finds none waits: its connection is not read on, so a connection waits with one message at most.
//!
//! ```text
//!   header        a buffer of the class, and one of the peer's:   lease ──> payload is read
//!                 none                                            held ──> the line of the class
//!   next hop done: lease home ──> the peer that has waited longest goes on, and then stands last
//! ```
//!
//! A line is of peers, so one with many connections gets no more than another. A peer that holds as many buffers as it may does
//! not stand in it. A host may hold as many as are free (as `lnd::budget` shares all else), and those of one peer in any case; its
//! peers do not stand in the line either while it holds more.
//!
//! One message of each class may always go to each network, however few buffers are free: else two routers that have something
//! for each other, and no buffer, would wait for each other for ever. So no ring of routers waits for itself unless the networks
//! form one.
//!
//! Each shard has its part of the node's buffers, at least one, and nobody asks another shard. What a peer holds and waits for
//! moves with it.

use std::collections::VecDeque;

use super::Lnet;
use super::lines::{Lines, Place};
use crate::lnd::budget::Uses;
use crate::lnd::{Arrived, Config, Cx, Lnd, NIS_MAX, NiId, Ticket};
use crate::stream::Bucket;
use crate::stream::slab::Key;
use crate::wire::{Nid, ProcessId};

/// Longest payload of a small buffer, in bytes: a page.
const SMALL: u32 = 4096;

/// Classes of router buffers, by payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferClass {
    /// None.
    Tiny,
    /// Up to 4 KiB.
    Small,
    /// More.
    Large,
}

impl BufferClass {
    /// All of them, in order.
    pub const ALL: [BufferClass; 3] = [BufferClass::Tiny, BufferClass::Small, BufferClass::Large];

    fn of(len: u32) -> BufferClass {
        match len {
            0 => BufferClass::Tiny,
            1..=SMALL => BufferClass::Small,
            _ => BufferClass::Large,
        }
    }

    /// Pages of 4 KiB of a kernel's buffer.
    pub fn pages(self) -> u32 {
        match self {
            BufferClass::Tiny => 0,
            BufferClass::Small => 1,
            BufferClass::Large => 256,
        }
    }
}

/// The buffers of a class, as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuffersView {
    /// Number of the buffers that there are: those that vanish when they come home are among them.
    pub buffers: u32,
    /// Number of those that are wanted.
    pub wanted: u32,
    /// Free ones less messages that wait for one.
    pub credits: i64,
    /// The least that that ever was.
    pub least_credits: i64,
}

/// A router buffer that a message holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    /// The NI that it came by.
    pub(super) ni: NiId,
    class: BufferClass,
    /// The network that it goes to, by the place of its first NI.
    out: u8,
    pub(super) len: u32,
    /// The connection's, whose home has the buffer.
    pub(super) bucket: Bucket,
    /// The peer that sent it, and its entry there, if it has not moved.
    peer: ProcessId,
    key: Key,
}

/// A peer that has sent messages for others.
#[derive(Debug, Default)]
pub(super) struct Guest {
    /// Buffers that they hold, by class and network that they go to, and bytes.
    held: [[u32; NIS_MAX]; 3],
    bytes: u64,
    /// Messages that wait for one, by class, and the network that each goes to.
    waiting: [VecDeque<(Ticket, u8)>; 3],
    /// Its places in the lines, by class.
    places: [Place; 3],
}

impl Guest {
    /// Some of what waited waits no more: it stands for what is left.
    fn wants_less(&mut self, class: usize, lines: &mut Lines) {
        let (Some(waiting), Some(place)) = (self.waiting.get(class), self.places.get_mut(class)) else {
            return;
        };
        if waiting.is_empty() {
            return lines.leave(place);
        }
        for out in (0..NIS_MAX as u8).filter(|out| waiting.iter().all(|w| w.1 != *out)) {
            lines.wants_no_more(place, out);
        }
    }
}

#[derive(Debug, Default)]
struct Pool {
    size: u32,
    used: u32,
    /// Those that are used, by the network that they go to.
    to: [u32; NIS_MAX],
    waiting: u32,
    least: i64,
    /// Peers that wait for a buffer, and may hold one more; those that wait until their host holds fewer.
    lines: Lines,
}

impl Pool {
    fn free(&self) -> u32 {
        self.size.saturating_sub(self.used)
    }

    fn credits(&self) -> i64 {
        i64::from(self.size) - i64::from(self.used) - i64::from(self.waiting)
    }

    /// Whether no message is on its way to that network.
    fn none_to(&self, out: u8) -> bool {
        self.to.get(usize::from(out)).is_some_and(|n| *n == 0)
    }

    fn take(&mut self, out: u8, n: u32) {
        self.used += n;
        if let Some(to) = self.to.get_mut(usize::from(out)) {
            *to += n;
        }
    }

    fn give(&mut self, out: u8, n: u32) {
        self.used = self.used.saturating_sub(n);
        if let Some(to) = self.to.get_mut(usize::from(out)) {
            *to = to.saturating_sub(n);
        }
    }

    fn note(&mut self) {
        self.least = self.least.min(self.credits());
    }
}

/// The router buffers of a shard.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    pools: [Pool; 3],
    bytes: u64,
    /// The message that is looked at now has had its turn in the line.
    turn: bool,
    /// A peer has come or gone with what it holds and waits for: the lines are to be looked at before this input is done.
    pub(super) moved: bool,
    /// Hosts of those that have gone since it was last looked: they hold less.
    relieved: Vec<Key>,
}

impl Buffers {
    /// The shard's part of `all` the node's buffers.
    pub(super) fn resize(&mut self, cfg: &Config, all: [u32; 3]) {
        let (count, me) = (u32::from(cfg.shards.count.max(1)), u32::from(cfg.shards.me.0));
        for (pool, n) in self.pools.iter_mut().zip(all) {
            let part = n / count + u32::from(me < n % count);
            let size = if n == 0 { 0 } else { part.max(1) };
            // From a greater or lesser number on, the least is the least of what was since.
            pool.least += i64::from(size) - i64::from(pool.size);
            pool.size = size;
            pool.note();
        }
    }

    /// Messages that hold one.
    pub(super) fn used(&self) -> u32 {
        self.pools.iter().map(|p| p.used).sum()
    }

    /// Messages that wait for one.
    fn waiting(&self) -> u32 {
        self.pools.iter().map(|p| p.waiting).sum()
    }

    pub(super) fn views(&self) -> [BuffersView; 3] {
        let view = |p: &Pool| BuffersView {
            buffers: p.size.max(p.used),
            wanted: p.size,
            credits: p.credits(),
            least_credits: p.least,
        };
        let [tiny, small, large] = &self.pools;
        [view(tiny), view(small), view(large)]
    }

    /// Whether there is a buffer, and memory for `len` bytes: one message may go, however long.
    fn has_room(&self, cx: &Cx, class: BufferClass, len: u32) -> bool {
        let fits = self.bytes == 0 || self.bytes + u64::from(len) <= cx.cfg.budget;
        fits && self.pool(class).is_some_and(|p| p.free() > 0)
    }

    fn pool(&self, class: BufferClass) -> Option<&Pool> {
        self.pools.get(class as usize)
    }

    fn pool_mut(&mut self, class: BufferClass) -> Option<&mut Pool> {
        self.pools.get_mut(class as usize)
    }
}

impl Lnet {
    /// Messages of other nodes that hold a buffer, or wait for one.
    pub(crate) fn on_their_way(&self) -> usize {
        (self.buffers.used() + self.buffers.waiting()) as usize
    }

    /// A buffer for a message that has come, and goes to the network of `to`, or its place in the line: it is to be held then.
    pub(super) fn lease<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        msg: &Arrived,
        to: Nid,
    ) -> Option<Lease> {
        let (len, class) = (msg.hdr.payload_len, BufferClass::of(msg.hdr.payload_len));
        let out = self.nis.iter().position(|n| n.nid.same_net(to))? as u8;
        let ticket = lnd.ticket(msg.key)?;
        let turn = std::mem::take(&mut self.buffers.turn);
        let room = self.buffers.has_room(cx, class, len);
        let most = cx.cfg.peer_router_credits();
        let (pool, p) = (self.buffers.pool_mut(class)?, self.peers.get_mut(msg.peer)?);
        let full = p.uses.buffers >= most;
        let guest = p.guest.get_or_insert_default();
        let (waiting, place) =
            (guest.waiting.get_mut(class as usize)?, guest.places.get_mut(class as usize)?);
        let first = pool.lines.len() == 0 && waiting.is_empty();
        let crowds = cx.budget.must_wait_for_buffers(p.host, pool.free(), most);
        let may = pool.none_to(out) || (room && (turn || first) && !crowds);
        if full || !may {
            // One whose turn it was keeps its place.
            let at = if turn { 0 } else { waiting.len() };
            waiting.insert(at, (ticket, out));
            pool.waiting += 1;
            pool.note();
            pool.lines.wants(msg.peer, place, out);
            if !full && !place.is_taken() {
                if crowds {
                    pool.lines.crowds(msg.peer, place, p.host);
                } else {
                    pool.lines.stand(msg.peer, place, waiting.iter().map(|w| w.1));
                }
            }
            return None;
        }
        pool.take(out, 1);
        pool.note();
        if let Some(held) = guest.held.get_mut(class as usize).and_then(|h| h.get_mut(usize::from(out))) {
            *held += 1;
        }
        guest.bytes += u64::from(len);
        let uses = Uses { buffers: 1, ..Uses::default() };
        p.uses.add(uses);
        cx.budget.took(p.host, uses);
        let (peer, key, bucket) = (p.id, msg.peer, ticket.bucket);
        self.buffers.bytes += u64::from(len);
        Some(Lease { ni: lnd.ni(), class, out, len, bucket, peer, key })
    }

    /// A buffer has come home; whoever has waited longest goes on. That of a peer that is forgotten went with it.
    pub(super) fn buffer_home<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], lease: Lease) {
        let key = match self.peers.get(lease.key) {
            Some(p) if p.id == lease.peer && p.ni == lease.ni => Some(lease.key),
            _ => lnds.get(lease.ni.index()).and_then(|l| l.find(lease.peer)),
        };
        let class = lease.class as usize;
        if let Some(key) = key
            && let Some(p) = self.peers.get_mut(key)
            && let Some(guest) = &mut p.guest
            && let Some(held) = guest.held.get_mut(class).and_then(|h| h.get_mut(usize::from(lease.out)))
            && *held > 0
        {
            *held -= 1;
            guest.bytes = guest.bytes.saturating_sub(lease.len.into());
            self.buffers.bytes = self.buffers.bytes.saturating_sub(lease.len.into());
            let uses = Uses { buffers: 1, ..Uses::default() };
            p.uses.sub(uses);
            cx.budget.gave(p.host, uses);
            let (entry, host) = (p.entry, p.host);
            if let Some(pool) = self.buffers.pool_mut(lease.class) {
                pool.give(lease.out, 1);
            }
            self.leave_the_crowd(host);
            self.stand_in_line(key);
            if let Some(lnd) = lnds.get_mut(lease.ni.index()) {
                lnd.forget_if_idle(self, cx, entry);
            }
        }
        self.serve_lines(cx, lnds);
        self.serve_networks(cx, lnds);
    }

    /// A peer that may hold one more buffer stands in each line in which it has something to wait for.
    fn stand_in_line(&mut self, key: Key) {
        let Some(guest) = self.peers.get_mut(key).and_then(|p| p.guest.as_mut()) else { return };
        let of_classes = guest.waiting.iter().zip(&mut guest.places).zip(&mut self.buffers.pools);
        for ((waiting, place), pool) in of_classes.filter(|((waiting, _), _)| !waiting.is_empty()) {
            pool.lines.stand(key, place, waiting.iter().map(|w| w.1));
        }
    }

    /// Of each class, the peer of a host that has waited longest for its sake stands in the line. Another one follows when it is
    /// served.
    fn leave_the_crowd(&mut self, host: Key) {
        for class in 0..self.buffers.pools.len() {
            let first = self.buffers.pools.get(class).and_then(|p| p.lines.crowded(host));
            self.leaves_the_crowd(class, first);
        }
    }

    /// A peer that waited for its host's sake stands in the line.
    fn leaves_the_crowd(&mut self, class: usize, key: Option<Key>) {
        if let Some(key) = key
            && let Some(pool) = self.buffers.pools.get_mut(class)
            && let Some(guest) = self.peers.get_mut(key).and_then(|p| p.guest.as_mut())
            && let (Some(place), Some(waiting)) = (guest.places.get_mut(class), guest.waiting.get(class))
        {
            pool.lines.leave(place);
            if !waiting.is_empty() {
                pool.lines.stand(key, place, waiting.iter().map(|w| w.1));
            }
        }
    }

    /// A peer is charged to another host from now on: it does not wait for this one's sake, which holds less.
    pub(super) fn guest_unpays(&mut self, host: Key, peer: Key) {
        let Some(guest) = self.peers.get(peer).and_then(|p| p.guest.as_ref()) else { return };
        self.buffers.moved = true;
        self.buffers.relieved.push(host);
        for (class, _) in guest.places.into_iter().enumerate().filter(|(_, place)| place.is_crowded()) {
            self.leaves_the_crowd(class, Some(peer));
        }
    }

    /// All that wait for their hosts' sake stand in the lines.
    fn no_crowd(&mut self) {
        for class in 0..self.buffers.pools.len() {
            while let Some(key) = self.buffers.pools.get(class).and_then(|p| p.lines.any_crowded()) {
                self.leaves_the_crowd(class, Some(key));
            }
        }
    }

    /// Goes on with messages that wait, as far as there are buffers.
    fn serve_lines<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) {
        for class in BufferClass::ALL {
            // Each peer in the line is looked at once, and once more when another was served.
            let mut left = self.buffers.pool(class).map_or(0, |p| p.lines.len());
            while left > 0 && (self.buffers.has_room(cx, class, 0) || !self.routing.forwards()) {
                left -= 1;
                let Some(ticket) = self.next_in_line(cx, class) else { continue };
                let used = self.buffers.used();
                self.go_on_with(cx, lnds, &ticket);
                if self.buffers.used() != used || !self.routing.forwards() {
                    left = self.buffers.pool(class).map_or(0, |p| p.lines.len());
                }
            }
        }
    }

    /// Goes on with messages that wait, for each network to which nothing is on its way: no buffer need be free for them.
    fn serve_networks<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) {
        for class in BufferClass::ALL {
            for out in 0..self.nis.len().min(NIS_MAX) as u8 {
                self.serve_network(cx, lnds, class, out);
            }
        }
    }

    /// If nothing is on its way to a network, what has waited longest for it goes on.
    fn serve_network<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], class: BufferClass, out: u8) {
        let most = cx.cfg.peer_router_credits();
        let Some(pool) = self.buffers.pool_mut(class).filter(|p| p.none_to(out)) else { return };
        // Those that hold as many buffers as they may are as few as the buffers.
        let found = pool.lines.for_net(out).find_map(|key| {
            let p = self.peers.get(key).filter(|p| p.uses.buffers < most)?;
            let at = p.guest.as_ref()?.waiting.get(class as usize)?.iter().position(|w| w.1 == out)?;
            Some((key, at))
        });
        let Some((key, at)) = found else { return };
        let Some(guest) = self.peers.get_mut(key).and_then(|p| p.guest.as_mut()) else { return };
        if let Some((ticket, _)) = guest.waiting.get_mut(class as usize).and_then(|w| w.remove(at)) {
            pool.waiting = pool.waiting.saturating_sub(1);
            guest.wants_less(class as usize, &mut pool.lines);
            self.go_on_with(cx, lnds, &ticket);
        }
    }

    /// Looks once more at a message whose turn it is.
    fn go_on_with<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], ticket: &Ticket) {
        self.buffers.turn = true;
        if let Some(lnd) = lnds.get_mut(ticket.ni.index()) {
            lnd.again(self, cx, ticket);
        }
        self.buffers.turn = false;
    }

    /// The longest waiting message of the peer that stands first, unless that has to wait for its host's sake.
    fn next_in_line(&mut self, cx: &Cx, class: BufferClass) -> Option<Ticket> {
        let forwards = self.routing.forwards();
        let pool = self.buffers.pool_mut(class)?;
        let key = pool.lines.first()?;
        let most = cx.cfg.peer_router_credits();
        let p = self.peers.get_mut(key)?;
        let (host, guest) = (p.host, p.guest.as_mut()?);
        let (waiting, place) =
            (guest.waiting.get_mut(class as usize)?, guest.places.get_mut(class as usize)?);
        pool.lines.leave(place);
        if waiting.is_empty() || (forwards && p.uses.buffers >= most) {
            return None;
        }
        if forwards && cx.budget.must_wait_for_buffers(host, pool.free(), most) {
            pool.lines.crowds(key, place, host);
            return None;
        }
        let ticket = waiting.pop_front().map(|w| w.0);
        pool.waiting = pool.waiting.saturating_sub(1);
        if !waiting.is_empty() {
            pool.lines.stand(key, place, waiting.iter().map(|w| w.1));
        }
        let next = pool.lines.crowded(host);
        self.leaves_the_crowd(class as usize, next);
        ticket
    }

    /// There are more buffers, or fewer, or nothing is passed on any more, and all that wait are dropped.
    pub(super) fn look_at_lines<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) {
        self.no_crowd();
        if !self.routing.forwards() {
            self.line_all_up();
        }
        self.serve_lines(cx, lnds);
        self.serve_networks(cx, lnds);
    }

    /// Peers have come or gone with what they hold and wait for.
    pub(super) fn look_at_moved<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) {
        if !self.routing.forwards() {
            return self.look_at_lines(cx, lnds);
        }
        while let Some(host) = self.buffers.relieved.pop() {
            self.leave_the_crowd(host);
        }
        self.serve_lines(cx, lnds);
        self.serve_networks(cx, lnds);
    }

    /// All that wait stand in a line.
    fn line_all_up(&mut self) {
        for key in self.peers.keys().collect::<Vec<_>>() {
            self.stand_in_line(key);
        }
    }

    /// The connection of a message that waits has ended.
    pub(super) fn leave_line(&mut self, peer: Key, ticket: &Ticket) {
        let Some(guest) = self.peers.get_mut(peer).and_then(|p| p.guest.as_mut()) else { return };
        for (class, pool) in self.buffers.pools.iter_mut().enumerate() {
            let Some(waiting) = guest.waiting.get_mut(class) else { continue };
            let before = waiting.len();
            waiting.retain(|(t, _)| t.conn != ticket.conn);
            if waiting.len() < before {
                pool.waiting = pool.waiting.saturating_sub((before - waiting.len()) as u32);
                guest.wants_less(class, &mut pool.lines);
            }
        }
    }

    /// A peer of a host leaves for another shard, or is forgotten: what it holds and waits for leaves, too.
    pub(super) fn guest_leaves(&mut self, host: Key, guest: Option<&mut Guest>) {
        let Some(guest) = guest else { return };
        self.buffers.moved = true;
        self.buffers.relieved.push(host);
        self.buffers.bytes = self.buffers.bytes.saturating_sub(guest.bytes);
        let all = guest.held.iter().zip(&guest.waiting).zip(&mut guest.places);
        for (pool, ((held, waiting), place)) in self.buffers.pools.iter_mut().zip(all) {
            pool.lines.leave(place);
            (0..).zip(held).for_each(|(out, n)| pool.give(out, *n));
            pool.waiting = pool.waiting.saturating_sub(waiting.len() as u32);
        }
    }

    /// A peer has come from another shard.
    pub(super) fn guest_comes(&mut self, key: Key) {
        let Some(guest) = self.peers.get_mut(key).and_then(|p| p.guest.as_mut()) else { return };
        self.buffers.bytes += guest.bytes;
        self.buffers.moved = true;
        guest.places = Default::default();
        for ((pool, held), waiting) in self.buffers.pools.iter_mut().zip(guest.held).zip(&guest.waiting) {
            (0..).zip(held).for_each(|(out, n)| pool.take(out, n));
            pool.waiting += waiting.len() as u32;
            pool.note();
        }
        self.stand_in_line(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lnd::Shards;
    use crate::wire::Nid;

    #[test]
    fn classes_by_payload() {
        let all = [0, 1, 4096, 4097, 1 << 20].map(BufferClass::of);
        use BufferClass::{Large, Small, Tiny};
        assert_eq!(all, [Tiny, Small, Small, Large, Large]);
    }

    #[test]
    fn shards_divide_the_buffers_and_each_has_one() {
        for (all, count) in [(1024, 3), (1, 4), (0, 2), (5, 4)] {
            let parts = (0..count).map(|me| {
                let mut cfg = Config::new(Nid::LO, 1);
                cfg.shards = Shards::new(me, count).unwrap();
                let mut b = Buffers::default();
                b.resize(&cfg, [0, 0, all]);
                b.views()[2].buffers
            });
            let parts: Vec<u32> = parts.collect();
            let least = u32::from(all > 0);
            assert!(parts.iter().all(|n| *n >= least && n.abs_diff(parts[0]) <= 1), "{parts:?}");
            assert_eq!(parts.iter().sum::<u32>(), if all == 0 { 0 } else { all.max(count.into()) });
        }
    }
}
