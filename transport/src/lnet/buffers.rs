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
//! not stand in it; it may have as many for messages of up to a page as for longer ones, so that checks, ACKs and requests do not wait for
//! a node that is slow to take bulk. Those of messages whose next hop has no connection are counted beside (`no_conn.rs`). A host may hold
//! as many as are free, and as many bytes (as `lnd::budget` shares all else), and those of one peer in any case; its peers do not stand in
//! the line either while it holds more. Nor does a peer whose next message is for a NID that has as large a share already (`shares.rs`);
//! but one without a buffer of the class does, unless less than a quarter is free.
//!
//! One message of each class may always go to each network, however few buffers are free: else two routers that have something
//! for each other, and no buffer, would wait for each other for ever. So no ring of routers waits for itself unless the networks
//! form one.
//!
//! Each shard has its part of the node's buffers, at least one, and nobody asks another shard. What a peer holds and waits for
//! moves with it.

use super::Lnet;
use super::class::{BufferClass, CLASSES};
use super::guest::{Guest, Waiting};
use super::lease::{Lease, Returned, Seat};
use super::lines::{Lines, Place, Sake};
use super::shares::Shares;
use crate::lnd::budget::Room;
use crate::lnd::{Arrived, Config, Cx, Lnd, NIS_MAX, Ticket};
use crate::stream::slab::Key;
use crate::wire::{Nid, ProcessId};

/// The buffers of a class, as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuffersView {
    /// Number of the buffers that there are: those that vanish when they come home are among them.
    pub buffers: u32,
    /// Number of those that are wanted.
    pub wanted: u32,
    /// Free ones less messages that wait for one.
    pub credits: i64,
    /// The least that that was since there are as many, or were more.
    pub least_credits: i64,
}

#[derive(Debug, Default)]
struct Pool {
    size: u32,
    used: u32,
    /// Those that are used, by the network that they go to.
    to: [u32; NIS_MAX],
    waiting: u32,
    least: i64,
    /// Peers that wait for a buffer, and may hold one more; those that wait until others hold fewer.
    lines: Lines,
}

impl Pool {
    fn free(&self) -> u32 {
        self.size.saturating_sub(self.used)
    }

    fn credits(&self) -> i64 {
        i64::from(self.free()) - i64::from(self.waiting)
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

    /// So many are wanted. With more than there are the least begins anew, as at kernels (upper.md §1.3); with fewer it stays, unless
    /// it is more than is left.
    fn resize(&mut self, size: u32) {
        let more = size > self.size.max(self.used);
        self.size = size;
        if more {
            self.least = self.credits();
        }
        self.note();
    }

    fn note(&mut self) {
        self.least = self.least.min(self.credits());
    }
}

/// The router buffers of a shard.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    pools: [Pool; CLASSES],
    bytes: u64,
    shares: Shares,
    /// The message that is looked at now has had its turn in the line.
    turn: bool,
    /// A peer has come or gone with what it holds and waits for: the lines are to be looked at before this input is done.
    pub(super) moved: bool,
    /// Those who hold less, or wait for less, since it was last looked.
    relieved: Vec<Sake>,
}

impl Buffers {
    /// The shard's part of `all` the node's buffers.
    pub(super) fn resize(&mut self, cfg: &Config, all: [u32; 3]) {
        let (count, me) = (u32::from(cfg.shards.count.max(1)), u32::from(cfg.shards.me.0));
        for (pool, n) in self.pools.iter_mut().zip(all) {
            let part = n / count + u32::from(me < n % count);
            let size = if n == 0 { 0 } else { part.max(1) };
            pool.resize(size);
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

    /// Free buffers of the class, and free bytes.
    pub(super) fn free(&self, cx: &Cx, class: BufferClass) -> Room {
        let buffers = self.pool(class).map_or(0, Pool::free);
        Room { buffers, bytes: cx.cfg.budget.saturating_sub(self.bytes) }
    }

    /// Free buffers of the class that has fewest, of those that have any.
    pub(super) fn least_free(&self) -> u32 {
        self.pools.iter().filter(|p| p.size > 0).map(Pool::free).min().unwrap_or(0)
    }

    /// Whether less than a quarter is free.
    fn scarce(&self, cx: &Cx, class: BufferClass) -> bool {
        let (free, size) = (self.free(cx, class), self.pool(class).map_or(0, |p| p.size));
        free.buffers < size / 4 || free.bytes < cx.cfg.budget / 4
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
        let dest = ProcessId { nid: msg.hdr.dest_nid, pid: msg.hdr.dest_pid };
        let free = self.buffers.free(cx, class);
        let behind = self.buffers.shares.crowds(dest.nid, class, free, most, len);
        let scarce = self.buffers.scarce(cx, class);
        let (pool, p) = (self.buffers.pool_mut(class)?, self.peers.get_mut(msg.peer)?);
        let guest = p.guest.get_or_insert_default();
        let full = guest.is_full(class, most);
        let behind = behind && (scarce || !guest.has_none(class));
        let (waiting, place) =
            (guest.waiting.get_mut(class as usize)?, guest.places.get_mut(class as usize)?);
        let first = pool.lines.len() == 0 && waiting.is_empty();
        let crowds = cx.budget.must_wait_for_buffers(p.host, free, most, len);
        let may = pool.none_to(out) || (room && (turn || first) && !crowds && !behind);
        if full || !may {
            // One whose turn it was keeps its place.
            let at = if turn { 0 } else { waiting.len() };
            waiting.insert(at, Waiting { ticket, out, to: dest, len });
            pool.waiting += 1;
            pool.note();
            pool.lines.wants(msg.peer, place, out);
            if !full && !place.is_taken() {
                if crowds {
                    pool.lines.crowds(msg.peer, place, Sake::Host(p.host));
                } else if behind && waiting.len() == 1 {
                    pool.lines.crowds(msg.peer, place, Sake::Dest(dest.nid));
                } else {
                    pool.lines.stand(msg.peer, place, waiting.iter().map(|w| w.out));
                }
            }
            p.figures.most_buffers = p.figures.most_buffers.max(p.buffers());
            if full {
                self.has_no_buffer(cx, msg.peer, class);
            }
            return None;
        }
        pool.take(out, 1);
        pool.note();
        let (ni, bucket, peer, key) = (lnd.ni(), ticket.bucket, p.id, msg.peer);
        let kind = (&msg.hdr.body).into();
        let (over, seat) = (msg.over, Seat::own(out));
        let lease = Lease { ni, to: dest, kind, len, over, seat, bucket, peer, key };
        guest.take(&lease);
        p.uses.add(lease.uses());
        p.figures.most_buffers = p.figures.most_buffers.max(p.buffers());
        cx.budget.took(p.host, lease.uses());
        self.buffers.bytes += u64::from(len);
        self.buffers.shares.take(dest.nid, class, lease.room());
        Some(lease)
    }

    /// A buffer has come home; whoever has waited longest goes on. That of a peer that is forgotten went with it.
    pub(super) fn buffer_home<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], home: Returned) {
        let lease = home.lease;
        let key = self.guest_of(lnds, &lease);
        if home.dropped {
            self.drop_of_type((lease.ni, key), (lease.kind, lease.len));
        }
        if let Some(key) = key
            && let Some(p) = self.peers.get_mut(key)
            && let Some(guest) = &mut p.guest
            && guest.comes_home(&lease, cx.now, cx.cfg.peer_router_credits())
        {
            let behind = guest.places.get(lease.class() as usize).is_some_and(Place::is_behind);
            self.buffers.bytes = self.buffers.bytes.saturating_sub(lease.len.into());
            p.uses.sub(lease.uses());
            cx.budget.gave(p.host, lease.uses());
            let (entry, host) = (p.entry, p.host);
            if let Some(pool) = self.buffers.pool_mut(lease.class()) {
                pool.give(lease.seat.out(), 1);
            }
            self.buffers.shares.give(lease.to.nid, lease.class(), lease.room());
            if self.buffers.waiting() > 0 {
                self.leave_the_crowd(Sake::Dest(lease.to.nid));
                self.leave_the_crowd(Sake::Host(host));
                if behind {
                    self.leaves_the_crowd(lease.class() as usize, Some(key));
                }
                self.stand_in_line(key);
            }
            if let Some(lnd) = lnds.get_mut(lease.ni.index()) {
                lnd.forget_if_idle(self, cx, entry);
            }
        }
        if self.buffers.waiting() > 0 {
            self.serve_lines(cx, lnds);
            self.serve_networks(cx, lnds);
        }
    }

    /// The peer that a buffer is charged to, if it is here.
    pub(super) fn guest_of<L: Lnd<Lnet>>(&self, lnds: &[L], lease: &Lease) -> Option<Key> {
        match self.peers.get(lease.key) {
            Some(p) if p.id == lease.peer && p.ni == lease.ni => Some(lease.key),
            _ => lnds.get(lease.ni.index()).and_then(|l| l.find(lease.peer)),
        }
    }

    /// A peer that may hold one more buffer stands in each line in which it has something to wait for.
    pub(super) fn stand_in_line(&mut self, key: Key) {
        let Some(guest) = self.peers.get_mut(key).and_then(|p| p.guest.as_mut()) else { return };
        let of_classes = guest.waiting.iter().zip(&mut guest.places).zip(&mut self.buffers.pools);
        for ((waiting, place), pool) in of_classes.filter(|((waiting, _), _)| !waiting.is_empty()) {
            pool.lines.stand(key, place, waiting.iter().map(|w| w.out));
        }
    }

    /// Of each class, the peer that has waited longest for their sake stands in the line. Another one follows when it is served, or
    /// waits for somebody else's.
    fn leave_the_crowd(&mut self, sake: Sake) {
        for class in 0..self.buffers.pools.len() {
            self.one_leaves_the_crowd(class, sake);
        }
    }

    fn one_leaves_the_crowd(&mut self, class: usize, sake: Sake) {
        let first = self.buffers.pools.get(class).and_then(|p| p.lines.crowded(sake));
        self.leaves_the_crowd(class, first);
    }

    /// A peer that waited for others' sake stands in the line.
    fn leaves_the_crowd(&mut self, class: usize, key: Option<Key>) {
        if let Some(key) = key
            && let Some(pool) = self.buffers.pools.get_mut(class)
            && let Some(guest) = self.peers.get_mut(key).and_then(|p| p.guest.as_mut())
            && let (Some(place), Some(waiting)) = (guest.places.get_mut(class), guest.waiting.get(class))
        {
            pool.lines.leave(place);
            if !waiting.is_empty() {
                pool.lines.stand(key, place, waiting.iter().map(|w| w.out));
            }
        }
    }

    /// A peer is charged to another host from now on: it does not wait for this one's sake, which holds less.
    pub(super) fn guest_unpays(&mut self, host: Key, peer: Key) {
        let Some(guest) = self.peers.get(peer).and_then(|p| p.guest.as_ref()) else { return };
        self.buffers.moved = true;
        self.buffers.relieved.push(Sake::Host(host));
        for (class, _) in guest.places.into_iter().enumerate().filter(|(_, place)| place.is_crowded()) {
            self.leaves_the_crowd(class, Some(peer));
        }
    }

    /// All that wait for others' sake stand in the lines.
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
            let guest = self.peers.get(key)?.guest.as_ref().filter(|g| !g.is_full(class, most))?;
            let at = guest.waiting.get(class as usize)?.iter().position(|w| w.out == out)?;
            Some((key, at))
        });
        let Some((key, at)) = found else { return };
        let Some(guest) = self.peers.get_mut(key).and_then(|p| p.guest.as_mut()) else { return };
        let removed = guest.waiting.get_mut(class as usize).and_then(|w| w.remove(at));
        if let Some(Waiting { ticket, .. }) = removed {
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

    /// The longest waiting message of the peer that stands first, unless that has to wait for others' sake.
    fn next_in_line(&mut self, cx: &Cx, class: BufferClass) -> Option<Ticket> {
        let forwards = self.routing.forwards();
        let (free, scarce) = (self.buffers.free(cx, class), self.buffers.scarce(cx, class));
        let Buffers { shares, pools, .. } = &mut self.buffers;
        let pool = pools.get_mut(class as usize)?;
        let key = pool.lines.first()?;
        let most = cx.cfg.peer_router_credits();
        let p = self.peers.get_mut(key)?;
        let (host, guest) = (p.host, p.guest.as_mut()?);
        let full = guest.is_full(class, most);
        let turn = !scarce && guest.has_none(class);
        let (waiting, place) =
            (guest.waiting.get_mut(class as usize)?, guest.places.get_mut(class as usize)?);
        pool.lines.leave(place);
        let first = *waiting.front()?;
        let sakes = [Sake::Host(host), Sake::Dest(first.to.nid)];
        let crowds = [
            cx.budget.must_wait_for_buffers(host, free, most, first.len),
            !turn && shares.crowds(first.to.nid, class, free, most, first.len),
        ];
        let waits = sakes.iter().zip(crowds).find_map(|(sake, crowds)| crowds.then_some(*sake));
        let ticket = match waits {
            _ if forwards && full => None,
            Some(sake) if forwards => {
                pool.lines.crowds(key, place, sake);
                None
            }
            _ => {
                waiting.pop_front();
                pool.waiting = pool.waiting.saturating_sub(1);
                if !waiting.is_empty() {
                    pool.lines.stand(key, place, waiting.iter().map(|w| w.out));
                }
                Some(first.ticket)
            }
        };
        // Whoever waits for the same sake is next, unless this one begins to.
        for sake in sakes.into_iter().filter(|s| ticket.is_some() || Some(*s) != waits) {
            self.one_leaves_the_crowd(class as usize, sake);
        }
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
        while let Some(sake) = self.buffers.relieved.pop() {
            self.leave_the_crowd(sake);
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
        let Some(p) = self.peers.get_mut(peer) else { return };
        let (host, Some(guest)) = (p.host, p.guest.as_mut()) else { return };
        for (class, pool) in self.buffers.pools.iter_mut().enumerate() {
            let Some(waiting) = guest.waiting.get_mut(class) else { continue };
            let (before, relieved) = (waiting.len(), &mut self.buffers.relieved);
            // Whoever waits for the same sake may have been behind this one.
            waiting.retain(|w| {
                let stays = w.ticket.conn != ticket.conn;
                relieved.extend((!stays).then_some(Sake::Dest(w.to.nid)));
                stays
            });
            if waiting.len() < before {
                self.buffers.moved = true;
                relieved.push(Sake::Host(host));
                pool.waiting = pool.waiting.saturating_sub((before - waiting.len()) as u32);
                guest.wants_less(class, &mut pool.lines);
            }
        }
    }

    /// A peer of a host leaves for another shard, or is forgotten: what it holds and waits for leaves, too.
    pub(super) fn guest_leaves(&mut self, host: Key, guest: Option<&mut Guest>) {
        let Some(guest) = guest else { return };
        self.buffers.moved = true;
        self.buffers.relieved.push(Sake::Host(host));
        for (to, class, n) in guest.all_to() {
            self.buffers.shares.give(to.nid, class, n);
        }
        let waits = guest.waiting.iter().flatten().map(|w| w.to.nid);
        self.buffers.relieved.extend(guest.all_to().map(|t| t.0.nid).chain(waits).map(Sake::Dest));
        self.buffers.bytes = self.buffers.bytes.saturating_sub(guest.bytes);
        let all = guest.held.iter().zip(&guest.waiting).zip(&mut guest.places);
        for (pool, ((held, waiting), place)) in self.buffers.pools.iter_mut().zip(all) {
            pool.lines.leave(place);
            (0..).zip(held).for_each(|(out, n)| pool.give(out, *n));
            pool.waiting = pool.waiting.saturating_sub(waiting.len() as u32);
        }
    }

    /// A peer has come from another shard.
    pub(super) fn guest_comes(&mut self, key: Key, now: u64) {
        let Some(guest) = self.peers.get_mut(key).and_then(|p| p.guest.as_mut()) else { return };
        self.buffers.bytes += guest.bytes;
        self.buffers.moved = true;
        guest.places = Default::default();
        for (to, class, n) in guest.all_to() {
            self.buffers.shares.take(to.nid, class, n);
        }
        for ((pool, held), waiting) in self.buffers.pools.iter_mut().zip(guest.held).zip(&guest.waiting) {
            (0..).zip(held).for_each(|(out, n)| pool.take(out, n));
            pool.waiting += waiting.len() as u32;
            pool.note();
        }
        self.stand_in_line(key);
        // Whether it is to be relieved is looked at anew.
        self.timers.by(now, key, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lnd::Shards;
    use crate::wire::Nid;

    /// A kernel's pool, with its words for it (upper.md §1.3).
    #[derive(Default)]
    struct Kernel {
        nbuffers: i64,
        req_nbuffers: i64,
        credits: i64,
        mincredits: i64,
    }

    impl Kernel {
        fn adjust(&mut self, n: i64) {
            let more = n - self.nbuffers;
            let grows = n > self.req_nbuffers && more > 0;
            self.req_nbuffers = n;
            if grows {
                self.nbuffers = n;
                self.credits += more;
                self.mincredits = self.credits;
            }
        }

        fn post(&mut self) {
            self.credits -= 1;
            self.mincredits = self.mincredits.min(self.credits);
        }

        fn give_back(&mut self) {
            if self.credits >= self.req_nbuffers {
                self.nbuffers -= 1;
            } else {
                self.credits += 1;
            }
        }
    }

    /// Buffers that are free vanish at once here, and one by one as they come home at kernels: so all are out when there are to
    /// be fewer.
    #[test]
    fn the_least_credits_are_a_kernels_whatever_size_is_asked_for() {
        let mut all_pools = Vec::new();
        for (first, out, then) in
            (1..8).flat_map(|f| (0..f).flat_map(move |o| (1..9).map(move |t| (f, o, t))))
        {
            let (mut pool, mut kernel) = (Pool::default(), Kernel::default());
            pool.resize(first);
            kernel.adjust(first.into());
            let out = if then < first { first } else { out };
            for _ in 0..out {
                pool.take(0, 1);
                pool.note();
                kernel.post();
            }
            pool.resize(then);
            kernel.adjust(then.into());
            let seen = |p: &Pool| (i64::from(p.size.max(p.used)), p.credits(), p.least);
            let named = |k: &Kernel| (k.nbuffers, k.credits, k.mincredits);
            assert_eq!(seen(&pool), named(&kernel), "{first}, {out} out, then {then}");
            // One waits, and all come home.
            if then <= out {
                pool.waiting += 1;
                pool.note();
                kernel.post();
                assert_eq!(seen(&pool).2, named(&kernel).2, "{first}, {out} out, then {then}, and one waits");
                pool.waiting -= 1;
                kernel.credits += 1;
            }
            for _ in 0..out {
                pool.give(0, 1);
                kernel.give_back();
            }
            all_pools.push((seen(&pool), named(&kernel)));
        }
        assert!(all_pools.iter().all(|(ours, theirs)| ours == theirs), "{all_pools:?}");
    }

    /// All buffers are home again, and nothing has waited.
    #[test]
    fn fewer_buffers_alone_are_no_debt() {
        let mut pool = Pool::default();
        pool.resize(512);
        (0..10).for_each(|_| pool.take(0, 1));
        pool.note();
        (0..10).for_each(|_| pool.give(0, 1));
        for (size, least) in [(1, 1), (1, 1), (0, 0), (64, 64)] {
            pool.resize(size);
            assert_eq!((pool.credits(), pool.least), (size.into(), least));
        }
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
