//! Shards of one node, talking: a ring into each, and a runtime that hands over what belongs elsewhere.
//!
//! The lcore that a NIC queue feeds owns the flow; the peer's home, found by the bucket of its address, runs its
//! protocol. Where they differ, commands and events cross as parcels, and received bytes as lent fragments
//! whose buffers go home over their return ring. Where they are the same, nothing crosses.
//!
//! ```text
//!   owner                                                                home
//!   Opened, DialFailed, Progress, Bytes, PeerFin, Ended, Closed, Released  ──>  sink
//!   streams                                                         <──  Dial, Cmd (Send, Unhold, Close), Took
//!
//!   owner                                                                another owner
//!   what its stack hears that is another's                          <──> SiblingMsg (tcpstack/src/siblings.rs)
//! ```
//!
//! A home that owns a queue dials from it, by a port that brings the answers back there: while the peer stays, what
//! was dialled never crosses.
//!
//! Homes may move while streams run ([`super::moving`]): what concerns a stream carries its bucket and goes where
//! the bucket is by then.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use dataplane::tap::TapEnd;
use hugepages::{LendBudget, LendOwner, Relay, RxFrag, RxLent};
use tcpstack::SiblingMsg;

use super::counters::RtCounters;
use super::desk::Page;
use super::handover;
use super::moving::{Arrive, Leave, MoveMsg, Mover};
use super::runtime::{Runtime, StreamCmd, Work};
use crate::hash::OwnMap;
use crate::lnd::{AppId, Owner, Shards, Tcp};
use crate::lnet::{Event, ShardMsg};
use crate::node::{Input, MsgBox};
use crate::stream::{
    Bucket, CloseWhy, ConnId, ConnInfo, DialError, DialId, DialSpec, Happened, Homes, LendId, Progress,
    SendMsg, ShardId, StreamRx,
};
use help::Helper;
use moves::{Arriving, Leaving};

mod help;
mod moves;

/// What crosses from one lcore to another.
enum Parcel {
    Dial(ShardId, DialSpec),
    Cmd(ConnId, StreamCmd),
    /// Bytes of the stream that the home has taken.
    Took(ConnId, u64),
    /// From a stream's owner to its home.
    Stream(Bucket, StreamEvent),
    /// The same, over the home that the bucket had before.
    Old(Bucket, Box<StreamEvent>),
    Shard(ShardId, ShardMsg),
    /// For an application.
    Event(AppId, Box<Event>),
    Move(ShardId, MoveMsg),
    /// To oneself: all that a stream of this lcore sent here over the ring is out of it.
    Direct(Bucket, ConnId),
    /// From the TCP stack of one queue to that of another.
    SiblingMsg(SiblingMsg),
}

/// What its home hears of a stream.
enum StreamEvent {
    Opened(ConnId, ConnInfo),
    DialFailed(DialId, DialError),
    /// From whoever ran it.
    Boxed(MsgBox),
    Progress(ConnId, Progress),
    Bytes(ConnId, RxLent),
    PeerFin(ConnId),
    Ended(ConnId),
    Closed(ConnId, CloseWhy),
    Released(LendId),
}

/// Parcels that wait in one ring at most; beyond, they wait on the sender's side.
const RING: usize = 4096;
/// Parcels opened in one turn.
const PARCELS_A_TURN: usize = 512;
/// Bytes of one stream on their way to its home, or waiting there.
const IN_FLIGHT: u64 = 1 << 20;

/// The rings of a node: one into each shard, and a queue of boxes for each CPT.
pub struct Rings {
    ends: Vec<Arc<ArrayQueue<Parcel>>>,
    /// By the first shard of the CPT.
    boxes: Vec<Arc<ArrayQueue<MsgBox>>>,
}

impl Rings {
    /// Rings for `n` shards.
    pub fn new(n: u16) -> Rings {
        let n = usize::from(n.max(1));
        Rings {
            ends: (0..n).map(|_| Arc::new(ArrayQueue::new(RING))).collect(),
            boxes: (0..n).map(|_| Arc::new(ArrayQueue::new(help::BOXES))).collect(),
        }
    }
}

/// A connection that we own for another shard.
struct Away {
    bucket: Bucket,
    /// Bytes sent there and not yet taken.
    in_flight: u64,
    /// There is more to read than may be on its way.
    waits: bool,
    /// Its home has moved here: nothing more is sent over the ring, and when all that was is taken, none is needed.
    returns: bool,
}

/// A connection that another shard owns for us.
struct Here {
    bucket: Bucket,
    rx: VecDeque<RxFrag>,
    ring: bool,
    fin: bool,
    closed: Option<CloseWhy>,
    /// The machine has closed it, and takes nothing more.
    closing: bool,
    listed: bool,
}

impl Here {
    fn new(bucket: Bucket) -> Here {
        let rx = VecDeque::new();
        Here { bucket, rx, ring: false, fin: false, closed: None, closing: false, listed: false }
    }
}

/// A runtime among others. `R` is `None` on lcores that own no queue.
pub struct Linked<R: Runtime> {
    inner: Option<R>,
    now: Box<dyn Fn() -> u64>,
    shards: Shards,
    /// Shards that own queues, by queue: the ones that can dial.
    owners: Vec<ShardId>,
    rings: Vec<Arc<ArrayQueue<Parcel>>>,
    /// What a full ring had no room for, by shard.
    spill: Vec<VecDeque<Parcel>>,
    away: OwnMap<ConnId, Away>,
    here: OwnMap<ConnId, Here>,
    touched: Vec<ConnId>,
    /// Connections whose bytes could not be lent though none is on its way: looked at again each turn.
    starved: Vec<ConnId>,
    events: VecDeque<(AppId, Event)>,
    relay: Relay,
    homes: Homes,
    /// Dials of the own runtime that are under way.
    dials: OwnMap<DialId, Bucket>,
    leaving: Leaving,
    arriving: Arriving,
    siblings: Vec<(ShardId, u32)>,
    helper: Helper,
    moves_refused: u64,
    passed_on: u64,
    closing: bool,
}

struct View<'a> {
    rx: &'a mut VecDeque<RxFrag>,
    took: u64,
}

impl StreamRx for View<'_> {
    fn next(&mut self) -> Option<RxFrag> {
        let f = self.rx.pop_front()?;
        self.took += u64::from(f.len());
        Some(f)
    }
    fn unread(&mut self, rest: RxFrag) {
        self.took -= u64::from(rest.len());
        self.rx.push_front(rest);
    }
}

impl<R: Runtime> Linked<R> {
    /// Shard `shards.me` of a node whose queues `owners` (not empty) have, the first one the first. `now` is the node's clock in ns. `lend`
    /// bounds what applications may hold of fragments from other lcores; it must leave room in what those may
    /// lend ([`relay_budget`]), so that payload is copied here before a stream is held up there.
    pub fn new(
        inner: Option<R>,
        shards: Shards,
        owners: Vec<ShardId>,
        rings: &Rings,
        lend: LendBudget,
        now: Box<dyn Fn() -> u64>,
    ) -> Linked<R> {
        Linked {
            inner,
            now,
            shards,
            owners,
            spill: rings.ends.iter().map(|_| VecDeque::new()).collect(),
            rings: rings.ends.clone(),
            helper: Helper::new(&rings.boxes),
            away: OwnMap::default(),
            here: OwnMap::default(),
            touched: Vec::new(),
            starved: Vec::new(),
            events: VecDeque::new(),
            relay: Relay::new(lend),
            homes: Homes::new(shards.count),
            dials: OwnMap::default(),
            leaving: Leaving::default(),
            arriving: Arriving::default(),
            siblings: Vec::new(),
            moves_refused: 0,
            passed_on: 0,
            closing: false,
        }
    }

    /// With the other shards of its CPT: those that peers may be moved to.
    #[must_use]
    pub fn among(mut self, siblings: impl IntoIterator<Item = ShardId>) -> Linked<R> {
        let me = self.shards.me;
        // Nothing is known of them yet: taken for busy.
        self.siblings = siblings.into_iter().filter(|s| *s != me).map(|s| (s, 1000)).collect();
        let first = self.siblings.iter().map(|s| s.0).chain([me]).min();
        self.helper.join(first.filter(|_| !self.siblings.is_empty()));
        self
    }

    /// The runtime over this lcore's own queue.
    pub fn inner(&mut self) -> Option<&mut R> {
        self.inner.as_mut()
    }

    fn mail(&mut self, to: ShardId, p: Parcel) {
        post(&self.rings, &mut self.spill, to, p);
    }

    /// Passes on what the own queue brought: to the machine here, or to the shard that it is for.
    fn turn_inner(&mut self, sink: &mut dyn FnMut(Input<'_>)) -> Work {
        let Some(inner) = &mut self.inner else { return Work::Idle };
        let (away, rings, spill, me) = (&mut self.away, &self.rings, &mut self.spill, self.shards.me);
        let (homes, dials, here) = (&self.homes, &mut self.dials, &mut self.here);
        let starved = &mut self.starved;
        for c in starved.drain(..) {
            inner.command(c, StreamCmd::Read);
        }
        inner.turn(&mut |input| {
            let mut to = |b: Bucket, ev| post(rings, spill, homes.at(b), Parcel::Stream(b, ev));
            match input {
                Input::Stream(Happened::Opened(c, info)) => {
                    let bucket = Bucket::of(info.remote.ip());
                    info.dial.and_then(|d| dials.remove(&d));
                    if homes.at(bucket) == me {
                        return sink(Input::Stream(Happened::Opened(c, info)));
                    }
                    away.insert(c, Away { bucket, in_flight: 0, waits: false, returns: false });
                    to(bucket, StreamEvent::Opened(c, info));
                }
                Input::Stream(Happened::DialFailed(d, why)) => match dials.remove(&d) {
                    Some(b) if homes.at(b) != me => to(b, StreamEvent::DialFailed(d, why)),
                    _ => sink(Input::Stream(Happened::DialFailed(d, why))),
                },
                Input::Stream(Happened::Released(l)) if homes.at(l.bucket()) != me => {
                    to(l.bucket(), StreamEvent::Released(l))
                }
                Input::Stream(Happened::Progress(c, p)) => match away.get(&c) {
                    Some(a) => to(a.bucket, StreamEvent::Progress(c, p)),
                    None => sink(Input::Stream(Happened::Progress(c, p))),
                },
                Input::Stream(Happened::Bytes(c, stream)) => match away.get_mut(&c) {
                    // Read again when it needs the ring no more.
                    Some(a) if a.returns => {}
                    Some(a) => {
                        let owner = Owner::Shard(homes.at(a.bucket)).into();
                        if ship(c, a, owner, stream, &mut to) {
                            starved.push(c);
                        }
                    }
                    None => sink(Input::Stream(Happened::Bytes(c, stream))),
                },
                Input::Stream(Happened::PeerFin(c)) => match away.get(&c) {
                    Some(a) => to(a.bucket, StreamEvent::PeerFin(c)),
                    None => sink(Input::Stream(Happened::PeerFin(c))),
                },
                Input::Stream(Happened::Ended(c)) => match away.get(&c) {
                    Some(a) => to(a.bucket, StreamEvent::Ended(c)),
                    None => sink(Input::Stream(Happened::Ended(c))),
                },
                Input::Stream(Happened::Closed(c, why)) => match away.remove(&c) {
                    Some(a) => to(a.bucket, StreamEvent::Closed(c, why)),
                    None => {
                        here.remove(&c);
                        sink(Input::Stream(Happened::Closed(c, why)));
                    }
                },
                other => sink(other),
            }
        })
    }

    /// Carries what the stack of this queue has to tell to those of the others.
    fn pass_sibling_msgs(&mut self) {
        while let Some((to, msg)) = self.inner.as_mut().and_then(Runtime::tell) {
            if let Some(owner) = self.owners.get(usize::from(to)).copied() {
                self.mail(owner, Parcel::SiblingMsg(msg));
            }
        }
    }

    fn command_inner(&mut self, c: ConnId, cmd: StreamCmd) {
        if let Some(r) = &mut self.inner {
            r.command(c, cmd);
        }
    }

    fn dial_inner(&mut self, d: &DialSpec) {
        if let Some(r) = &mut self.inner {
            self.dials.insert(d.id, Bucket::of(d.remote.ip()));
            r.dial(d);
        }
    }

    fn touch(&mut self, c: ConnId, f: impl FnOnce(&mut Here)) {
        let Some(h) = self.here.get_mut(&c) else { return };
        f(h);
        if !h.listed {
            h.listed = true;
            self.touched.push(c);
        }
    }

    fn open(&mut self, p: Parcel, sink: &mut dyn FnMut(Input<'_>)) {
        match p {
            Parcel::Dial(home, d) if self.inner.is_none() => {
                let bucket = Bucket::of(d.remote.ip());
                self.mail(home, Parcel::Stream(bucket, StreamEvent::DialFailed(d.id, DialError::Local)));
            }
            Parcel::Dial(_, d) => self.dial_inner(&d),
            Parcel::Cmd(c, cmd) => self.command_inner(c, cmd),
            Parcel::Took(c, n) => self.took(c, n),
            Parcel::Stream(b, ev) => {
                let home = self.homes.at(b);
                if home != self.shards.me {
                    // It has moved, and the sender did not know.
                    self.passed_on += 1;
                    self.mail(home, Parcel::Old(b, Box::new(ev)));
                } else if self.holding(b) {
                    self.arriving.direct.push(Parcel::Stream(b, ev));
                } else {
                    self.stream_event(b, ev, sink);
                }
            }
            Parcel::Old(b, ev) if self.holding(b) => self.arriving.old.push(*ev),
            Parcel::Old(b, ev) => self.stream_event(b, *ev, sink),
            Parcel::Shard(from, m) => sink(Input::From(from, m)),
            Parcel::Event(app, ev) => self.events.push_back((app, *ev)),
            Parcel::Move(from, msg) => self.move_msg(from, msg, sink),
            Parcel::Direct(b, c) if self.holding(b) => self.arriving.direct.push(Parcel::Direct(b, c)),
            Parcel::Direct(b, c) => self.direct(b, c),
            Parcel::SiblingMsg(n) => {
                if let Some(r) = &mut self.inner {
                    r.hear(n);
                }
            }
        }
    }

    fn stream_event(&mut self, b: Bucket, ev: StreamEvent, sink: &mut dyn FnMut(Input<'_>)) {
        match ev {
            StreamEvent::Opened(c, info) => {
                self.here.insert(c, Here::new(b));
                sink(Input::Stream(Happened::Opened(c, info)));
            }
            StreamEvent::DialFailed(d, why) => sink(Input::Stream(Happened::DialFailed(d, why))),
            StreamEvent::Boxed(b) => sink(Input::Boxed(b)),
            StreamEvent::Progress(c, p) => sink(Input::Stream(Happened::Progress(c, p))),
            StreamEvent::Bytes(c, lent) => {
                let f = self.relay.frag(lent);
                self.touch(c, |h| {
                    if !h.closing {
                        h.rx.push_back(f);
                        h.ring = true;
                    }
                });
            }
            // The machine may wait for the peer, whatever lies here.
            StreamEvent::Ended(c) => sink(Input::Stream(Happened::Ended(c))),
            // One that just left the ring has nothing waiting here.
            StreamEvent::PeerFin(c) if !self.here.contains_key(&c) => {
                sink(Input::Stream(Happened::PeerFin(c)))
            }
            StreamEvent::PeerFin(c) => self.touch(c, |h| h.fin = true),
            StreamEvent::Closed(c, why) if !self.here.contains_key(&c) => {
                sink(Input::Stream(Happened::Closed(c, why)))
            }
            StreamEvent::Closed(c, why) => self.touch(c, |h| h.closed = Some(why)),
            StreamEvent::Released(l) => sink(Input::Stream(Happened::Released(l))),
        }
    }

    fn took(&mut self, c: ConnId, n: u64) {
        let Some(a) = self.away.get_mut(&c) else { return };
        a.in_flight = a.in_flight.saturating_sub(n);
        if a.returns {
            let (b, done) = (a.bucket, a.in_flight == 0);
            if done {
                self.mail(self.shards.me, Parcel::Direct(b, c));
            }
        } else if std::mem::take(&mut a.waits) {
            self.command_inner(c, StreamCmd::Read);
        }
    }

    /// Bytes and ends of streams that others own for us, after everything else that the parcels said.
    fn deliver(&mut self, sink: &mut dyn FnMut(Input<'_>)) {
        for c in std::mem::take(&mut self.touched) {
            let Some(h) = self.here.get_mut(&c) else { continue };
            h.listed = false;
            let mut took = 0;
            if std::mem::take(&mut h.ring) && !h.rx.is_empty() {
                let mut v = View { rx: &mut h.rx, took: 0 };
                sink(Input::Stream(Happened::Bytes(c, &mut v)));
                took = v.took;
            }
            if h.fin && h.rx.is_empty() {
                h.fin = false;
                sink(Input::Stream(Happened::PeerFin(c)));
            }
            // What came before the end is taken first, unless the machine has closed.
            if let Some(why) = h.closed.filter(|_| h.rx.is_empty()) {
                self.here.remove(&c);
                sink(Input::Stream(Happened::Closed(c, why)));
                continue;
            }
            if h.closed.is_some() {
                sink(Input::Stream(Happened::Ended(c)));
            }
            if took > 0 {
                self.mail(c.shard, Parcel::Took(c, took));
            }
        }
    }
}

/// The budget for fragments from an lcore whose receive pool has `bytes` in `buffers` buffers: half of what that
/// lcore lends to one home.
pub fn relay_budget(bytes: u64, buffers: usize) -> LendBudget {
    let b = LendBudget::of_pool(bytes, buffers);
    LendBudget { lcore_bytes: b.owner_bytes / 2, owner_bytes: b.owner_bytes / 4, handles: b.handles }
}

fn post(rings: &[Arc<ArrayQueue<Parcel>>], spill: &mut [VecDeque<Parcel>], to: ShardId, p: Parcel) {
    let i = usize::from(to.0);
    let (Some(ring), Some(spill)) = (rings.get(i), spill.get_mut(i)) else { return };
    handover::post(ring, spill, p);
}

/// Sends a stream's bytes to its home, as far as they may be on their way. True when nothing is, and yet nothing
/// could be lent.
fn ship(
    c: ConnId,
    a: &mut Away,
    owner: LendOwner,
    stream: &mut dyn StreamRx,
    to: &mut dyn FnMut(Bucket, StreamEvent),
) -> bool {
    while a.in_flight < IN_FLIGHT {
        let Some(f) = stream.next() else { return false };
        let n = u64::from(f.len());
        match f.lend(owner) {
            Ok(lent) => {
                a.in_flight += n;
                to(a.bucket, StreamEvent::Bytes(c, lent));
            }
            Err(f) => {
                // Too much is lent already. What is in flight comes back, and asks for more then.
                stream.unread(f);
                break;
            }
        }
    }
    a.waits = a.in_flight > 0;
    !a.waits
}

impl<R: Runtime> Runtime for Linked<R> {
    fn now(&self) -> u64 {
        (self.now)()
    }

    fn dial(&mut self, d: &DialSpec) {
        if self.inner.is_some() {
            return self.dial_inner(d);
        }
        // Spread by peer, so that one owner does not get all.
        let h = Bucket::of(d.remote.ip()).0;
        let Some(owner) = self.owners.get(usize::from(h) % self.owners.len().max(1)).copied() else { return };
        self.mail(owner, Parcel::Dial(self.shards.me, *d));
    }

    fn send(&mut self, c: ConnId, m: SendMsg) {
        if c.shard != self.shards.me {
            return self.mail(c.shard, Parcel::Cmd(c, StreamCmd::Send(m)));
        }
        if let Some(r) = &mut self.inner {
            r.send(c, m);
        }
    }

    fn command(&mut self, c: ConnId, cmd: StreamCmd) {
        match cmd {
            StreamCmd::Read if c.shard != self.shards.me || self.here.contains_key(&c) => {
                self.touch(c, |h| h.ring = true);
            }
            StreamCmd::Close(_) if self.here.get(&c).is_some_and(|h| !h.closing) => {
                self.touch(c, |h| (h.closing, h.rx) = (true, VecDeque::new()));
                self.command(c, cmd);
            }
            cmd if c.shard == self.shards.me => self.command_inner(c, cmd),
            cmd => self.mail(c.shard, Parcel::Cmd(c, cmd)),
        }
    }

    fn post(&mut self, to: ShardId, m: ShardMsg) {
        self.mail(to, Parcel::Shard(self.shards.me, m));
    }

    fn post_event(&mut self, to: ShardId, app: AppId, ev: Event) {
        self.mail(to, Parcel::Event(app, Box::new(ev)));
    }

    fn posted_event(&mut self) -> Option<(AppId, Event)> {
        self.events.pop_front()
    }

    fn offer(&mut self, b: MsgBox) -> Option<MsgBox> {
        self.helper.offer(b)
    }

    fn turn(&mut self, sink: &mut dyn FnMut(Input<'_>)) -> Work {
        self.relay.home().drain();
        let mut work = self.turn_inner(sink);
        self.pass_sibling_msgs();
        let mut n = 0;
        let mine = self.rings[usize::from(self.shards.me.0)].clone();
        while n < PARCELS_A_TURN {
            let Some(p) = mine.pop() else { break };
            n += 1;
            self.open(p, sink);
        }
        n += self.touched.len();
        self.deliver(sink);
        work = work.and(Work::of(n));
        work.and(self.help(work == Work::Idle, sink))
    }

    fn flush(&mut self) -> Work {
        for (ring, spill) in self.rings.iter().zip(&mut self.spill) {
            handover::flush(ring, spill);
        }
        self.tell();
        self.inner.as_mut().map_or(Work::Idle, Runtime::flush)
    }

    fn deadline(&self) -> Option<u64> {
        let waits =
            self.spill.iter().any(|s| !s.is_empty()) || !self.touched.is_empty() || !self.starved.is_empty();
        if waits || self.leaving.state == Leave::Ready || self.helper.has_work() {
            Some(0)
        } else {
            self.inner.as_ref().and_then(Runtime::deadline)
        }
    }

    fn wait(&mut self, until: Option<u64>) {
        if let Some(r) = &mut self.inner {
            r.wait(until);
        }
    }

    fn abort_all(&mut self) {
        if let Some(r) = &mut self.inner {
            r.abort_all();
        }
    }

    fn tune(&mut self, tcp: &Tcp) {
        if let Some(r) = &mut self.inner {
            r.tune(tcp);
        }
    }

    fn look(&mut self, page: &mut Page) {
        match &mut self.inner {
            Some(r) => r.look(page),
            None => page.from = None,
        }
    }

    fn details(&self, f: &mut dyn FnMut(&'static str, u64)) {
        if let Some(r) = &self.inner {
            r.details(f);
        }
        f("moves_refused", self.moves_refused);
        f("passed_on", self.passed_on);
        self.helper.counts(f);
    }

    fn tap(&mut self, tap: Option<Box<TapEnd>>) -> Option<Box<TapEnd>> {
        match &mut self.inner {
            Some(r) => r.tap(tap),
            None => tap,
        }
    }

    fn counters(&self) -> RtCounters {
        let mut c = self.inner.as_ref().map(Runtime::counters).unwrap_or_default();
        c.rx_lent_out += self.relay.home().lent_out() as u64;
        c
    }

    fn owns_streams(&self) -> bool {
        self.inner.is_some()
    }

    fn settled(&self) -> bool {
        self.away.is_empty()
            && self.helper.rests()
            && self.leaving.state == Leave::Idle
            && self.arriving.state == Arrive::Idle
    }

    fn mover(&mut self) -> Option<&mut dyn Mover> {
        Some(self)
    }
}
