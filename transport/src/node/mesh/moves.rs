//! A shard's part in moves, out and in: see [`crate::node::moving`] for the whole.

use std::collections::VecDeque;

use fsm::Fsm;
use hugepages::{Relay, RxFrag};

use super::Mesh;
use super::crossing::{Exported, Imported};
use super::mail::{Mail, StreamEvent};
use crate::hash::OwnMap;
use crate::lnd::Owner;
use crate::node::moving::{Arrive, ArriveEvent, Leave, LeaveEvent, MoveMsg, PATIENCE, StreamLeft};
use crate::node::{Input, Luggage};
use crate::stream::{Bucket, ConnId, ShardId};

/// The old home's side of a move.
#[derive(Default)]
pub(super) struct Leaving {
    pub(super) state: Fsm<Leave>,
    pub(super) bucket: Bucket,
    pub(super) to: ShardId,
    /// Shards whose markers are not in: a bit each.
    pub(super) missing: u64,
    /// The others have been told.
    pub(super) told: bool,
    /// When it is given up, in ns.
    pub(super) until: u64,
    /// Bytes that lay here, ready to go.
    pub(super) streams: Vec<StreamLeft>,
}

/// The new home's side of a move.
#[derive(Default)]
pub(super) struct Arriving {
    pub(super) state: Fsm<Arrive>,
    pub(super) bucket: Bucket,
    pub(super) from: ShardId,
    /// What came over the old home.
    pub(super) old: Vec<StreamEvent>,
    /// What came here at once.
    pub(super) direct: Vec<StreamEvent>,
}

impl Mesh {
    /// A stream of this lcore whose home is this lcore again needs the ring no more.
    pub(super) fn direct(&mut self, b: Bucket, c: ConnId) {
        // The home may have gone and come again since this was sent.
        let empty = self.exported.get(&c).is_some_and(|a| a.returns && a.in_flight == 0);
        let back = empty && self.homes.at(b) == self.shards.me;
        // One that ends says so over the ring.
        let ends = self.imported.get(&c).is_none_or(|h| h.fin || h.closed.is_some());
        if back && !ends {
            self.exported.remove(&c);
            self.imported.remove(&c);
            self.reread.push(c);
        }
    }

    pub(super) fn holding(&self, b: Bucket) -> bool {
        self.arriving.state == Arrive::Holding && self.arriving.bucket == b
    }

    fn say(&mut self, to: ShardId, msg: MoveMsg) {
        self.post.send(to, Mail::Move(self.shards.me, msg));
    }

    fn leave_event(&mut self, event: LeaveEvent) -> bool {
        self.leaving.state.apply(event).is_some()
    }

    fn arrive_event(&mut self, event: ArriveEvent) -> bool {
        self.arriving.state.apply(event).is_some()
    }

    pub(super) fn move_msg(&mut self, from: ShardId, msg: MoveMsg, sink: &mut dyn FnMut(Input<'_>)) {
        match msg {
            MoveMsg::Ask(b) => {
                if !self.closing && self.arrive_event(ArriveEvent::Ask) {
                    (self.arriving.bucket, self.arriving.from) = (b, from);
                    self.say(from, MoveMsg::Yes(b));
                } else {
                    self.say(from, MoveMsg::No(b));
                }
            }
            MoveMsg::Yes(b) => {
                self.leaving.until = (self.now)() + PATIENCE;
                if self.closing || !self.leave_event(LeaveEvent::Yes) {
                    self.say(from, MoveMsg::Cancel(b));
                }
            }
            MoveMsg::No(b) => {
                let was = self.leaving.state;
                if self.leave_event(LeaveEvent::No) {
                    self.moves_refused += 1;
                }
                // A promise that was taken back is given back; one that was kept needs no word.
                if was == Leave::Ready {
                    self.say(from, MoveMsg::Cancel(b));
                }
            }
            MoveMsg::Cancel(b) => {
                if self.arriving.bucket == b {
                    self.arrive_event(ArriveEvent::Cancel);
                }
            }
            MoveMsg::Adopt(luggage, streams) => self.adopt(from, luggage, streams, sink),
            MoveMsg::Moved(b, to) => {
                self.homes.set(b, to);
                sink(Input::Moved(b, to));
                self.say(from, MoveMsg::Marker(b));
            }
            MoveMsg::Marker(b) => {
                if self.leaving.state == Leave::Settling && self.leaving.bucket == b {
                    self.leaving.missing &= !(1 << from.0);
                    self.all_in();
                }
            }
            MoveMsg::AllIn(b) => {
                if self.holding(b) {
                    self.unhold(sink);
                }
            }
            MoveMsg::Busy(permille) => {
                if let Some(s) = self.siblings.iter_mut().find(|s| s.0 == from) {
                    s.1 = permille;
                }
            }
        }
    }

    /// The new home: takes the bucket in, and asks for the marker of what this lcore's own streams sent away.
    fn adopt(
        &mut self,
        from: ShardId,
        luggage: Box<Luggage>,
        streams: Vec<StreamLeft>,
        sink: &mut dyn FnMut(Input<'_>),
    ) {
        let (b, me) = (luggage.bucket(), self.shards.me);
        self.homes.set(b, me);
        self.arrive_event(ArriveEvent::Adopt);
        let own: Vec<ConnId> = luggage.conns().filter(|c| c.shard == me).collect();
        let foreign: Vec<ConnId> = luggage.conns().collect();
        sink(Input::Adopt(from, luggage));
        for c in foreign {
            self.imported.insert(c, Imported::new(b));
        }
        for s in streams {
            let rx: VecDeque<RxFrag> = s.rx.into_iter().map(|l| self.relay.frag(l)).collect();
            self.imported.entry(s.conn).or_insert_with(|| Imported::new(b));
            self.touch(s.conn, |h| {
                (h.rx, h.readable, h.fin, h.closed, h.closing) = (rx, true, s.fin, s.closed, s.closing);
            });
        }
        for c in own {
            if let Some(a) = self.exported.get_mut(&c) {
                (a.returns, a.waits) = (true, false);
                self.took(c, 0);
            }
        }
        self.say(from, MoveMsg::Marker(b));
        if self.closing {
            self.unhold(sink);
        }
    }

    /// Opens what was held: first what came over the old home.
    fn unhold(&mut self, sink: &mut dyn FnMut(Input<'_>)) {
        self.arrive_event(ArriveEvent::AllIn);
        let b = self.arriving.bucket;
        sink(Input::Settled(b));
        for ev in std::mem::take(&mut self.arriving.old) {
            self.stream_event(b, ev, sink);
        }
        for ev in std::mem::take(&mut self.arriving.direct) {
            self.stream_event(b, ev, sink);
        }
    }

    /// The old home: tells the new one when all markers are in.
    fn all_in(&mut self) {
        if self.leaving.missing == 0 && self.leave_event(LeaveEvent::AllIn) {
            self.say(self.leaving.to, MoveMsg::AllIn(self.leaving.bucket));
        }
    }

    /// The old home: the others are told only when the bucket lies in the new home's ring, so that nothing of theirs
    /// is there before it.
    pub(super) fn tell(&mut self) {
        if self.leaving.state != Leave::Settling || self.leaving.told || !self.post.is_out_to(self.leaving.to)
        {
            return;
        }
        self.leaving.told = true;
        let (b, to, me) = (self.leaving.bucket, self.leaving.to, self.shards.me);
        for s in (0..self.shards.count).map(ShardId).filter(|s| *s != me && *s != to) {
            self.say(s, MoveMsg::Moved(b, to));
        }
    }

    /// Lends what lies here of a bucket's streams to their new home; `false` when too much is lent already.
    fn pack(&mut self, b: Bucket, to: ShardId) -> bool {
        let (relay, owner) = (&self.relay, Owner::Shard(to).into());
        let mut packed = Vec::new();
        for (c, h) in self.imported.iter_mut().filter(|(_, h)| h.bucket == b) {
            let mut rx = Vec::with_capacity(h.rx.len());
            while let Some(f) = h.rx.pop_front() {
                match f.lend(owner) {
                    Ok(l) => rx.push(l),
                    Err(f) => {
                        h.rx.push_front(f);
                        break;
                    }
                }
            }
            let all = h.rx.is_empty();
            packed.push(StreamLeft { conn: *c, rx, fin: h.fin, closed: h.closed, closing: h.closing });
            if !all {
                unpack(&mut self.imported, relay, packed);
                return false;
            }
        }
        self.leaving.streams = packed;
        true
    }
}

/// Puts back what [`Mesh::pack`] took.
fn unpack(imported: &mut OwnMap<ConnId, Imported>, relay: &Relay, packed: Vec<StreamLeft>) {
    for s in packed {
        let Some(h) = imported.get_mut(&s.conn) else { continue };
        s.rx.into_iter().rev().for_each(|l| h.rx.push_front(relay.frag(l)));
    }
}

/// How a bucket goes out, in steps, so that the machine is asked only when nothing of its own is under way:
/// [`Mesh::propose`], then [`Mesh::ready`] until it names the bucket, then [`Mesh::part`] or [`Mesh::stay`].
impl Mesh {
    /// Begins to move a bucket; `false` while another is on its way.
    pub(in crate::node) fn propose(&mut self, b: Bucket, to: ShardId) -> bool {
        let arrives = self.arriving.state != Arrive::Idle && self.arriving.bucket == b;
        let known = to != self.shards.me && to.0 < self.shards.count;
        if self.closing || arrives || !known || self.homes.at(b) != self.shards.me {
            return false;
        }
        if !self.leave_event(LeaveEvent::Propose) {
            return false;
        }
        (self.leaving.bucket, self.leaving.to) = (b, to);
        self.say(to, MoveMsg::Ask(b));
        true
    }

    /// The bucket that may be packed now.
    pub(in crate::node) fn ready(&mut self) -> Option<(Bucket, ShardId)> {
        if self.leaving.state != Leave::Ready {
            return None;
        }
        let (b, to) = (self.leaving.bucket, self.leaving.to);
        // What was told to others must be out, lest the new home overtake it.
        if !self.post.is_out() || !self.pack(b, to) {
            if (self.now)() > self.leaving.until {
                self.stay();
            }
            return None;
        }
        Some((b, to))
    }

    /// Here it is, packed.
    pub(in crate::node) fn part(&mut self, luggage: Box<Luggage>) {
        let (b, to, me) = (self.leaving.bucket, self.leaving.to, self.shards.me);
        self.homes.set(b, to);
        self.imported.retain(|_, h| h.bucket != b);
        let own: Vec<ConnId> = luggage.conns().filter(|c| c.shard == me).collect();
        for c in own {
            let a = self.exported.entry(c).or_insert(Exported {
                bucket: b,
                in_flight: 0,
                waits: false,
                returns: false,
            });
            a.returns = false;
            self.reread.push(c);
        }
        let streams = std::mem::take(&mut self.leaving.streams);
        self.say(to, MoveMsg::Adopt(luggage, streams));
        self.leaving.missing = (0..self.shards.count).filter(|s| *s != me.0).fold(0, |m, s| m | 1 << s);
        self.leaving.told = false;
        self.leave_event(LeaveEvent::Parted);
        self.tell();
    }

    /// It cannot go.
    pub(in crate::node) fn stay(&mut self) {
        let (b, to) = (self.leaving.bucket, self.leaving.to);
        unpack(&mut self.imported, &self.relay, std::mem::take(&mut self.leaving.streams));
        if self.leave_event(LeaveEvent::Off) {
            self.moves_refused += 1;
            self.say(to, MoveMsg::Cancel(b));
        }
    }

    /// The shard goes down: waits for nobody any more.
    pub(in crate::node) fn closing(&mut self) {
        self.closing = true;
        // One that was asked and has gone does not answer; one that answers is told that nothing comes.
        if self.leaving.state == Leave::Asked {
            self.leave_event(LeaveEvent::No);
        }
        self.stay();
        // The others go down as well and may have gone: what they would still send is lost with their streams.
        self.leaving.missing = 0;
        self.tell();
        self.all_in();
        if self.arriving.state == Arrive::Promised {
            let (b, from) = (self.arriving.bucket, self.arriving.from);
            self.say(from, MoveMsg::No(b));
        }
    }

    /// Tells the shards of the same CPT how busy this one was, in thousandths.
    pub(in crate::node) fn tell_busy(&mut self, permille: u32) {
        for s in 0..self.siblings.len() {
            self.say(self.siblings[s].0, MoveMsg::Busy(permille));
        }
    }

    /// Bytes copied and summed here for other homes, since the start.
    pub(in crate::node) fn helped_bytes(&self) -> u64 {
        self.helper.helped_bytes()
    }

    /// The shards of the same CPT, and how busy they last said they were.
    pub(in crate::node) fn siblings(&self) -> &[(ShardId, u32)] {
        &self.siblings
    }
}
