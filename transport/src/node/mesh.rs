//! The mesh: a shard's part in what crosses the shards of a node. A shard that is alone has none.
//!
//! The lcore that a NIC queue feeds owns the flow; the peer's home, found by the bucket of its address, runs its
//! protocol. Where they differ, actions and events cross as mail, and received bytes as lent fragments whose buffers go
//! home over their return ring. Where they are the same, nothing crosses.
//!
//! ```text
//!   owner                                                                home
//!   Opened, DialFailed, Progress, Bytes, LastBytes, PeerFin, Ended, Closed, Released  ──>  sink
//!   streams                                     <──  Dial, Send, Unhold, Close, Took, Listen, Unlisten
//!
//!   owner                                                                another owner
//!   what its stack hears that is another's                          <──> Sibling (tcpstack/src/siblings.rs)
//!
//!   home                                                                 another home
//!   messages of machines, events of applications, moves             <──> Shard, Event, Move
//! ```
//!
//! A home that owns a queue dials from it, by a port that brings the answers back there: while the peer stays, what
//! was dialled never crosses.
//!
//! A protocol's stream that is not LNet's has no home that moves: it stays with the shard that dialled it, or that asked to
//! listen at the address that it came to (`listening`). Such an address is listened at by every owner.
//!
//! Homes may move while streams run (`migration`): what concerns a stream carries its bucket and goes where
//! the bucket is by then.
//!
//! The streams of the lcore's own queue are lent to the mesh for the length of a call; `None` where it owns no queue.

mod crossing;
mod jobs;
mod listening;
mod mail;
mod migration;

use std::collections::VecDeque;

use hugepages::{LendBudget, Relay};

use self::crossing::{Exported, Imported};
use self::jobs::Helper;
use self::listening::Listening;
pub use self::mail::Rings;
use self::mail::{Home, Mail, Post, StreamEvent};
use self::migration::{Incoming, Outgoing};
use super::migration::{MigrateIn, MigrateOut};
use super::streams::{Streams, Work};
use crate::hash::OwnMap;
use crate::lnd::{AppId, Shards};
use crate::lnet::{Event, ShardMsg};
use crate::node::{CopyJob, Input};
use crate::stream::{Action, Bucket, ConnId, DialError, DialId, DialSpec, Homes, ShardId};

/// Letters opened in one turn.
const LETTERS_A_TURN: usize = 512;

/// A shard's part in what crosses shards. See the [module](self).
pub struct Mesh {
    now: Box<dyn Fn() -> u64>,
    shards: Shards,
    /// Shards that own queues, by queue: the ones that can dial.
    owners: Vec<ShardId>,
    post: Post,
    exported: OwnMap<ConnId, Exported>,
    imported: OwnMap<ConnId, Imported>,
    /// Imported streams with something to tell this turn.
    touched: Vec<ConnId>,
    /// Own streams to be read in the next turn.
    reread: Vec<ConnId>,
    events: VecDeque<(AppId, Event)>,
    relay: Relay,
    homes: Homes,
    /// Dials of the own queue that are under way.
    dials: OwnMap<DialId, Home>,
    listening: Listening,
    outgoing: Outgoing,
    incoming: Incoming,
    /// The other shards of the CPT, and how busy they last said they were, in thousandths.
    siblings: Vec<(ShardId, u32)>,
    helper: Helper,
    moves_refused: u64,
    passed_on: u64,
    closing: bool,
}

impl Mesh {
    /// The part of shard `shards.me` of a node whose queues `owners` (not empty) have, the first one the first. `now` is
    /// the node's clock in ns. `lend` bounds what applications may hold of fragments from other lcores; it must leave
    /// room in what those may lend ([`relay_budget`]), so that payload is copied here before a stream is held up there.
    pub fn new(
        shards: Shards,
        owners: Vec<ShardId>,
        rings: &Rings,
        lend: LendBudget,
        now: impl Fn() -> u64 + 'static,
    ) -> Mesh {
        Mesh {
            now: Box::new(now),
            shards,
            owners,
            post: Post::new(rings),
            helper: Helper::new(&rings.jobs),
            exported: OwnMap::default(),
            imported: OwnMap::default(),
            touched: Vec::new(),
            reread: Vec::new(),
            events: VecDeque::new(),
            relay: Relay::new(lend),
            homes: Homes::new(shards.count),
            dials: OwnMap::default(),
            listening: Listening::default(),
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            siblings: Vec::new(),
            moves_refused: 0,
            passed_on: 0,
            closing: false,
        }
    }

    /// With the other shards of its CPT: those that peers may be moved to.
    #[must_use]
    pub fn among(mut self, siblings: impl IntoIterator<Item = ShardId>) -> Mesh {
        let me = self.shards.me;
        // Nothing is known of them yet: taken for busy.
        self.siblings = siblings.into_iter().filter(|s| *s != me).map(|s| (s, 1000)).collect();
        let first = self.siblings.iter().map(|s| s.0).chain([me]).min();
        self.helper.join(first.filter(|_| !self.siblings.is_empty()));
        self
    }

    /// The time in ns.
    pub(super) fn now(&self) -> u64 {
        (self.now)()
    }

    /// Does what the machine wants of a stream, whoever owns it.
    pub(super) fn act<S: Streams>(&mut self, own: &mut Option<S>, action: &mut Action) {
        let me = self.shards.me;
        match *action {
            Action::Dial(d) => self.dial(own, &d),
            Action::Listen(at) => self.listen(own, at),
            Action::Unlisten(at) => self.unlisten(own, at),
            Action::Bind(at) => self.bind(own, at),
            Action::Read(c) if c.shard != me || self.imported.contains_key(&c) => {
                self.touch(c, |i| i.readable = true);
            }
            Action::Close(c, _) if self.imported.get(&c).is_some_and(|i| !i.closing) => {
                self.touch(c, |i| (i.closing, i.rx) = (true, VecDeque::new()));
                self.act(own, action);
            }
            Action::Send(c, _) | Action::Unhold(c, _) | Action::Close(c, _) if c.shard != me => {
                self.post.send(c.shard, Mail::Act(std::mem::replace(action, Action::Read(c))));
            }
            _ => self.act_here(own, action),
        }
    }

    /// The shard that is home now.
    fn shard_of(&self, home: Home) -> ShardId {
        home.shard(&self.homes)
    }

    fn dial<S: Streams>(&mut self, own: &mut Option<S>, d: &DialSpec) {
        let bucket = Bucket::of(d.remote.ip());
        if let Some(own) = own {
            self.dials.insert(d.id, Home::of_dial(d));
            return own.dial(d);
        }
        // Spread by peer, so that one owner does not get all.
        match self.owners.get(usize::from(bucket.0) % self.owners.len().max(1)).copied() {
            Some(owner) if owner != self.shards.me => {
                self.post.send(owner, Mail::Dial(self.shards.me, *d));
            }
            _ => self.cannot_dial(self.shards.me, d),
        }
    }

    fn cannot_dial(&mut self, home: ShardId, d: &DialSpec) {
        let event = StreamEvent::DialFailed(d.id, DialError::Local);
        self.post.send(home, Mail::Stream(Home::of_dial(d), event));
    }

    fn act_here<S: Streams>(&mut self, own: &mut Option<S>, action: &mut Action) {
        match own {
            Some(own) => own.act(action),
            None => self.act_nowhere(action),
        }
    }

    /// An action on a stream of this lcore, which owns no queue and so has none: as with one that has gone, the lend comes
    /// home.
    fn act_nowhere(&mut self, action: &Action) {
        match action {
            Action::Send(_, m) | Action::Datagram(_, m) => {
                if let Some(l) = m.lend {
                    let home = Home::of_lend(l);
                    self.post.send(self.shard_of(home), Mail::Stream(home, StreamEvent::Released(l)));
                }
            }
            Action::Dial(d) => self.cannot_dial(self.shards.me, d),
            Action::Unhold(..) | Action::Read(_) | Action::Close(..) => {}
            // Whoever has no streams is asked for none.
            Action::Listen(_) | Action::Unlisten(_) | Action::Bind(_) => {}
        }
    }

    /// Sends a message to another shard's machine.
    pub(super) fn post(&mut self, to: ShardId, m: ShardMsg) {
        self.post.send(to, Mail::Shard(self.shards.me, m));
    }

    /// Sends an event to the shard where its application lives.
    pub(super) fn post_event(&mut self, to: ShardId, app: AppId, ev: Event) {
        self.post.send(to, Mail::Event(app, Box::new(ev)));
    }

    /// The next event that another shard sent here.
    pub(super) fn posted_event(&mut self) -> Option<(AppId, Event)> {
        self.events.pop_front()
    }

    /// Gives a copy job to the other lcores of the CPT; gives it back where there are none, or they have enough.
    pub(super) fn offer(&mut self, b: CopyJob) -> Option<CopyJob> {
        self.helper.offer(b)
    }

    /// Turns the own streams and opens mail: all `Progress` of a stream's owner before any `Bytes`.
    pub(super) fn turn<S: Streams>(
        &mut self,
        now: u64,
        own: &mut Option<S>,
        sink: &mut dyn FnMut(Input<'_>),
    ) -> Work {
        self.relay.home().drain();
        let mut work = Work::Idle;
        if let Some(own) = own {
            work = self.turn_own(now, own, sink);
            self.pass_on_tellings(own);
        }
        let mut n = 0;
        while n < LETTERS_A_TURN {
            let Some(mail) = self.post.next(self.shards.me) else { break };
            n += 1;
            self.open(own, mail, sink);
        }
        n += self.touched.len();
        self.deliver(sink);
        work = work.and(Work::of(n));
        work.and(self.help(work == Work::Idle, sink))
    }

    /// Sends mail that waits for room.
    pub(super) fn flush(&mut self) {
        self.post.flush();
        self.tell();
    }

    /// Whether the next turn has something to do, whatever arrives.
    pub(super) fn has_work(&self) -> bool {
        !self.post.is_out()
            || !self.touched.is_empty()
            || !self.reread.is_empty()
            || self.outgoing.state == MigrateOut::Ready
            || self.helper.has_work()
    }

    /// Whether no other shard needs this one any more: it has no stream of theirs, and no peers are on their way.
    pub(super) fn settled(&self) -> bool {
        self.exported.is_empty()
            && self.helper.rests()
            && self.outgoing.state == MigrateOut::Idle
            && self.incoming.state == MigrateIn::Idle
    }

    /// Fragments of other lcores that applications hold now.
    pub(super) fn rx_lent_out(&self) -> u64 {
        self.relay.home().lent_out() as u64
    }

    /// Names and values of the mesh's counts.
    pub(super) fn details(&self, f: &mut dyn FnMut(&'static str, u64)) {
        f("moves_refused", self.moves_refused);
        f("passed_on", self.passed_on);
        f("conns_handed_over", self.listening.handed_over);
        self.helper.counts(f);
        f("mail_undeliverable", self.post.undeliverable);
    }

    /// Carries what the stack of this queue has to tell to those of the others.
    fn pass_on_tellings(&mut self, own: &mut impl Streams) {
        let Some(stack) = own.sibling() else { return };
        while let Some((to, msg)) = stack.tell() {
            if let Some(owner) = self.owners.get(usize::from(to)).copied() {
                self.post.send(owner, Mail::Sibling(msg));
            }
        }
    }

    fn open<S: Streams>(&mut self, own: &mut Option<S>, mail: Mail, sink: &mut dyn FnMut(Input<'_>)) {
        match mail {
            Mail::Dial(_, d) if own.is_some() => self.dial(own, &d),
            Mail::Dial(home, d) => self.cannot_dial(home, &d),
            Mail::Act(mut action) => self.act_here(own, &mut action),
            Mail::Took(c, n) => self.took(c, n),
            Mail::Stream(Home::Of(b), ev) => self.open_event(b, ev, sink),
            Mail::Stream(home, ev) => self.stream_event(home, ev, sink),
            Mail::Listen(home, at) => self.listen_for(own, home, at),
            Mail::Unlisten(home, at) => self.unlisten_for(own, home, at),
            Mail::PassedOn(b, ev) if self.holding(b) => self.incoming.old.push(*ev),
            Mail::PassedOn(b, ev) => self.stream_event(Home::Of(b), *ev, sink),
            Mail::Shard(from, m) => sink(Input::From(from, m)),
            Mail::Event(app, ev) => self.events.push_back((app, *ev)),
            Mail::Move(from, msg) => self.migration_msg(from, msg, sink),
            Mail::Sibling(msg) => {
                if let Some(stack) = own.as_mut().and_then(Streams::sibling) {
                    stack.hear(msg);
                }
            }
        }
    }

    fn open_event(&mut self, b: Bucket, ev: StreamEvent, sink: &mut dyn FnMut(Input<'_>)) {
        let home = self.homes.at(b);
        if home != self.shards.me {
            if let StreamEvent::Direct(_) = ev {
                return;
            }
            // It has moved, and the sender did not know.
            self.passed_on += 1;
            self.post.send(home, Mail::PassedOn(b, Box::new(ev)));
        } else if self.holding(b) {
            self.incoming.direct.push(ev);
        } else {
            self.stream_event(Home::Of(b), ev, sink);
        }
    }
}

/// The budget for fragments from an lcore whose receive pool has `bytes` in `buffers` buffers: half of what that
/// lcore lends to one home.
pub fn relay_budget(bytes: u64, buffers: usize) -> LendBudget {
    let b = LendBudget::of_pool(bytes, buffers);
    LendBudget { lcore_bytes: b.owner_bytes / 2, owner_bytes: b.owner_bytes / 4, handles: b.handles }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lnet::MeId;
    use crate::node::sock::SockStreams;
    use crate::stream::{Happened, InlineHdr, LendId, Pages, SendMsg};

    fn mesh() -> (Mesh, Option<SockStreams>) {
        let (shards, lend) = (Shards::new(0, 2).unwrap(), relay_budget(1 << 20, 64));
        (Mesh::new(shards, Vec::new(), &Rings::new(2), lend, || 0), None)
    }

    #[test]
    fn an_lcore_without_streams_loses_no_lend_and_no_dial() {
        let (mut mesh, mut own) = mesh();
        let conn = ConnId { shard: ShardId(0), index: 0, generation: 1 };
        let lend = Some(LendId(7));
        let msg = SendMsg { hdr: InlineHdr::new(), pay: Pages::new(), lend, hold: false, answer: false };
        mesh.act(&mut own, &mut Action::Send(conn, msg));
        let (remote, local_ip) = (([10, 0, 0, 2], 988).into(), [10, 0, 0, 1].into());
        let dial = DialSpec { id: DialId(3), remote, local_ip, privileged: true, until: 1 };
        mesh.act(&mut own, &mut Action::Dial(dial));
        let mut told = Vec::new();
        mesh.turn(1, &mut own, &mut |input| match input {
            Input::Stream(Happened::Released(l)) => told.push((l.0, None)),
            Input::Stream(Happened::DialFailed(d, why)) => told.push((d.0, Some(why))),
            _ => {}
        });
        assert_eq!(told, [(7, None), (3, Some(DialError::Local))]);
    }

    #[test]
    fn mail_for_a_shard_that_the_node_does_not_have_is_counted() {
        let (mut mesh, _) = mesh();
        let undeliverable = |mesh: &Mesh| {
            let mut n = None;
            mesh.details(&mut |name, v| n = if name == "mail_undeliverable" { Some(v) } else { n });
            n
        };
        let event = || Event::Attached { tag: 0, me: MeId(1) };
        mesh.post_event(ShardId(1), AppId::FIRST, event());
        assert_eq!(undeliverable(&mesh), Some(0));
        mesh.post_event(ShardId(2), AppId::FIRST, event());
        assert_eq!(undeliverable(&mesh), Some(1));
    }
}
