//! A shard's part in migrations, out and in: see [`crate::node::migration`] for the whole.

use std::collections::VecDeque;

use fsm::Fsm;
use hugepages::{Relay, RxFrag};

use super::Mesh;
use super::crossing::{Export, ExportEvent, Exported, Imported};
use super::mail::{Home, Mail, StreamEvent};
use crate::hash::OwnMap;
use crate::lnd::Owner;
use crate::node::migration::{
    InEvent, MigrateIn, MigrateOut, MigratingStream, MigrationMsg, OutEvent, PATIENCE,
};
use crate::node::{Input, Migrating};
use crate::stream::{Bucket, ConnId, ShardId};

/// The old home's side of a move.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) state: Fsm<MigrateOut>,
    pub(super) bucket: Bucket,
    pub(super) to: ShardId,
    /// Shards whose markers are not in: a bit each.
    pub(super) missing: u64,
    /// The others have been told.
    pub(super) told: bool,
    /// Time at which it is given up, in ns.
    pub(super) until: u64,
    /// Bytes that lay here, ready to go.
    pub(super) streams: Vec<MigratingStream>,
}

/// The new home's side of a move.
#[derive(Default)]
pub(super) struct Incoming {
    pub(super) state: Fsm<MigrateIn>,
    pub(super) bucket: Bucket,
    pub(super) from: ShardId,
    /// News that came over the old home.
    pub(super) old: Vec<StreamEvent>,
    /// News that came here at once.
    pub(super) direct: Vec<StreamEvent>,
}

impl Mesh {
    /// A stream of this lcore whose home is this lcore again needs the ring no more.
    pub(super) fn direct(&mut self, home: Home, c: ConnId) {
        // The home may have gone and come again since this was sent.
        let empty = self.exported.get(&c).is_some_and(|e| e.state == Export::Returning && e.in_flight == 0);
        let back = empty && self.shard_of(home) == self.shards.me;
        // One that ends says so over the ring.
        let ends = self.imported.get(&c).is_none_or(|h| h.fin || h.closed.is_some());
        if back && !ends {
            self.exported.remove(&c);
            self.imported.remove(&c);
            self.reread.push(c);
        }
    }

    pub(super) fn holding(&self, b: Bucket) -> bool {
        self.incoming.state == MigrateIn::Holding && self.incoming.bucket == b
    }

    fn say(&mut self, to: ShardId, msg: MigrationMsg) {
        self.post.send(to, Mail::Move(self.shards.me, msg));
    }

    fn out_event(&mut self, event: OutEvent) -> bool {
        self.outgoing.state.apply(event).is_some()
    }

    fn in_event(&mut self, event: InEvent) -> bool {
        self.incoming.state.apply(event).is_some()
    }

    pub(super) fn migration_msg(
        &mut self,
        from: ShardId,
        msg: MigrationMsg,
        sink: &mut dyn FnMut(Input<'_>),
    ) {
        match msg {
            MigrationMsg::Propose(b) => {
                if !self.closing && self.in_event(InEvent::Propose) {
                    (self.incoming.bucket, self.incoming.from) = (b, from);
                    self.say(from, MigrationMsg::Agree(b));
                } else {
                    self.say(from, MigrationMsg::Refuse(b));
                }
            }
            MigrationMsg::Agree(b) => {
                self.outgoing.until = (self.now)() + PATIENCE;
                if self.closing || !self.out_event(OutEvent::Agree) {
                    self.say(from, MigrationMsg::Cancel(b));
                }
            }
            MigrationMsg::Refuse(b) => {
                let was = self.outgoing.state;
                if self.out_event(OutEvent::Refuse) {
                    self.moves_refused += 1;
                }
                // A promise that was taken back is given back; one that was kept needs no word.
                if was == MigrateOut::Ready {
                    self.say(from, MigrationMsg::Cancel(b));
                }
            }
            MigrationMsg::Cancel(b) => {
                if self.incoming.bucket == b {
                    self.in_event(InEvent::Cancel);
                }
            }
            MigrationMsg::Commit(migrating, streams) => self.migrate_in(from, migrating, streams, sink),
            MigrationMsg::Moved(b, to) => {
                self.homes.set(b, to);
                sink(Input::Moved(b, to));
                self.say(from, MigrationMsg::Marker(b));
            }
            MigrationMsg::Marker(b) => {
                if self.outgoing.state == MigrateOut::Settling && self.outgoing.bucket == b {
                    self.outgoing.missing &= !(1 << from.0);
                    self.all_in();
                }
            }
            MigrationMsg::AllIn(b) => {
                if self.holding(b) {
                    self.unhold(sink);
                }
            }
            MigrationMsg::Busy(permille) => {
                if let Some(s) = self.siblings.iter_mut().find(|s| s.0 == from) {
                    s.1 = permille;
                }
            }
        }
    }

    /// The new home: takes the bucket in, and asks for the marker of what this lcore's own streams sent away.
    fn migrate_in(
        &mut self,
        from: ShardId,
        migrating: Box<Migrating>,
        streams: Vec<MigratingStream>,
        sink: &mut dyn FnMut(Input<'_>),
    ) {
        let (b, me) = (migrating.bucket(), self.shards.me);
        self.homes.set(b, me);
        self.in_event(InEvent::Commit);
        let own: Vec<ConnId> = migrating.conns().filter(|c| c.shard == me).collect();
        let foreign: Vec<ConnId> = migrating.conns().collect();
        sink(Input::MigrateIn(from, migrating));
        for c in foreign {
            self.imported.insert(c, Imported::new(Home::Of(b)));
        }
        for s in streams {
            let rx: VecDeque<RxFrag> = s.rx.into_iter().map(|l| self.relay.frag(l)).collect();
            self.imported.entry(s.conn).or_insert_with(|| Imported::new(Home::Of(b)));
            self.touch(s.conn, |h| {
                (h.rx, h.readable, h.fin, h.closed, h.closing) = (rx, true, s.fin, s.closed, s.closing);
            });
        }
        for c in own {
            if let Some(e) = self.exported.get_mut(&c) {
                e.state.apply(ExportEvent::Here);
                self.took(c, 0);
            }
        }
        self.say(from, MigrationMsg::Marker(b));
        if self.closing {
            self.unhold(sink);
        }
    }

    /// Tells the news that were held: first those that came over the old home.
    fn unhold(&mut self, sink: &mut dyn FnMut(Input<'_>)) {
        self.in_event(InEvent::AllIn);
        let b = self.incoming.bucket;
        sink(Input::Settled(b));
        for ev in std::mem::take(&mut self.incoming.old) {
            self.stream_event(Home::Of(b), ev, sink);
        }
        for ev in std::mem::take(&mut self.incoming.direct) {
            self.stream_event(Home::Of(b), ev, sink);
        }
    }

    /// The old home: tells the new one when all markers are in.
    fn all_in(&mut self) {
        if self.outgoing.missing == 0 && self.out_event(OutEvent::AllIn) {
            self.say(self.outgoing.to, MigrationMsg::AllIn(self.outgoing.bucket));
        }
    }

    /// The old home: the others are told only when the bucket lies in the new home's ring, so that nothing of theirs
    /// is there before it.
    pub(super) fn tell(&mut self) {
        if self.outgoing.state != MigrateOut::Settling
            || self.outgoing.told
            || !self.post.is_out_to(self.outgoing.to)
        {
            return;
        }
        self.outgoing.told = true;
        let (b, to, me) = (self.outgoing.bucket, self.outgoing.to, self.shards.me);
        for s in (0..self.shards.count).map(ShardId).filter(|s| *s != me && *s != to) {
            self.say(s, MigrationMsg::Moved(b, to));
        }
    }

    /// Lends what lies here of a bucket's streams to their new home; `false` when too much is lent already.
    fn pack(&mut self, b: Bucket, to: ShardId) -> bool {
        let (relay, owner) = (&self.relay, Owner::Shard(to).into());
        let mut packed = Vec::new();
        for (c, h) in self.imported.iter_mut().filter(|(_, h)| h.home == Home::Of(b)) {
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
            packed.push(MigratingStream { conn: *c, rx, fin: h.fin, closed: h.closed, closing: h.closing });
            if !all {
                unpack(&mut self.imported, relay, packed);
                return false;
            }
        }
        self.outgoing.streams = packed;
        true
    }
}

/// Puts back the bytes that [`Mesh::pack`] took.
fn unpack(imported: &mut OwnMap<ConnId, Imported>, relay: &Relay, packed: Vec<MigratingStream>) {
    for s in packed {
        let Some(h) = imported.get_mut(&s.conn) else { continue };
        s.rx.into_iter().rev().for_each(|l| h.rx.push_front(relay.frag(l)));
    }
}

/// The way out of a bucket, in steps, so that the machine is asked only when nothing of its own is under way:
/// `Mesh::propose`, then `Mesh::ready` until it names the bucket, then `Mesh::commit` or `Mesh::cancel`.
impl Mesh {
    /// Begins to move a bucket; `false` while another is on its way.
    pub(in crate::node) fn propose(&mut self, b: Bucket, to: ShardId) -> bool {
        let comes = self.incoming.state != MigrateIn::Idle && self.incoming.bucket == b;
        let known = to != self.shards.me && to.0 < self.shards.count;
        if self.closing || comes || !known || self.homes.at(b) != self.shards.me {
            return false;
        }
        if !self.out_event(OutEvent::Propose) {
            return false;
        }
        (self.outgoing.bucket, self.outgoing.to) = (b, to);
        self.say(to, MigrationMsg::Propose(b));
        true
    }

    /// The bucket that may be packed now.
    pub(in crate::node) fn ready(&mut self) -> Option<(Bucket, ShardId)> {
        if self.outgoing.state != MigrateOut::Ready {
            return None;
        }
        let (b, to) = (self.outgoing.bucket, self.outgoing.to);
        // All mail must be out, lest that of the new home overtake it.
        if !self.post.is_out() || !self.pack(b, to) {
            if (self.now)() > self.outgoing.until {
                self.cancel();
            }
            return None;
        }
        Some((b, to))
    }

    /// Sends off the packed bucket.
    pub(in crate::node) fn commit(&mut self, migrating: Box<Migrating>) {
        let (b, to, me) = (self.outgoing.bucket, self.outgoing.to, self.shards.me);
        self.homes.set(b, to);
        self.imported.retain(|_, h| h.home != Home::Of(b));
        let own: Vec<ConnId> = migrating.conns().filter(|c| c.shard == me).collect();
        for c in own {
            let exported = self.exported.entry(c).or_insert_with(|| Exported::new(Home::Of(b)));
            exported.state.apply(ExportEvent::Away);
            self.reread.push(c);
        }
        let streams = std::mem::take(&mut self.outgoing.streams);
        self.say(to, MigrationMsg::Commit(migrating, streams));
        self.outgoing.missing = (0..self.shards.count).filter(|s| *s != me.0).fold(0, |m, s| m | 1 << s);
        self.outgoing.told = false;
        self.out_event(OutEvent::Commit);
        self.tell();
    }

    /// Takes the proposal back: the bucket cannot go now.
    pub(in crate::node) fn cancel(&mut self) {
        let (b, to) = (self.outgoing.bucket, self.outgoing.to);
        unpack(&mut self.imported, &self.relay, std::mem::take(&mut self.outgoing.streams));
        if self.out_event(OutEvent::Cancel) {
            self.moves_refused += 1;
            self.say(to, MigrationMsg::Cancel(b));
        }
    }

    /// The shard goes down: waits for nobody any more.
    pub(in crate::node) fn closing(&mut self) {
        self.closing = true;
        // One that was asked and has gone does not answer; one that answers is told that nothing comes.
        if self.outgoing.state == MigrateOut::Asked {
            self.out_event(OutEvent::Refuse);
        }
        self.cancel();
        // The others go down as well and may have gone: what they would still send is lost with their streams.
        self.outgoing.missing = 0;
        self.tell();
        self.all_in();
        if self.incoming.state == MigrateIn::Promised {
            let (b, from) = (self.incoming.bucket, self.incoming.from);
            self.say(from, MigrationMsg::Refuse(b));
        }
    }

    /// Tells the shards of the same CPT how busy this one was, in thousandths.
    pub(in crate::node) fn tell_busy(&mut self, permille: u32) {
        for s in 0..self.siblings.len() {
            self.say(self.siblings[s].0, MigrationMsg::Busy(permille));
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
