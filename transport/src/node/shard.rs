//! One shard: a machine, its streams, its mesh to other shards and its applications, turned by one thread.
//! [`NodeBuilder`](super::NodeBuilder) makes it.

mod nis;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::pkt::Nap;

use super::app::{App, Ops};
use super::balance::{Balancer, LoadView};
use super::counters::StreamCounters;
use super::inspect::{Attended, Inspect, LoopStats, Mailbox, Question};
use super::mesh::Mesh;
use super::streams::{Streams, Work};
use crate::lnd::{AppId, NIS_MAX, OUT_KEPT, Shards};
use crate::lnet::{Event, Op};
use crate::node::{BesideError, Input, Machine};
use crate::stream::{Bucket, Protocol, ShardId};

/// All that a machine has to do with: streams, and the other shards of its node where there are any.
enum Outside<S> {
    /// Streams alone: the node has no other shard.
    Alone(S),
    /// A mesh to the other shards, and the streams of the lcore's own queue if it owns one.
    Meshed(Box<Mesh>, Option<S>),
}

impl<S> Outside<S> {
    fn streams(&self) -> Option<&S> {
        match self {
            Outside::Alone(s) => Some(s),
            Outside::Meshed(_, own) => own.as_ref(),
        }
    }

    fn streams_mut(&mut self) -> Option<&mut S> {
        match self {
            Outside::Alone(s) => Some(s),
            Outside::Meshed(_, own) => own.as_mut(),
        }
    }

    fn mesh(&self) -> Option<&Mesh> {
        match self {
            Outside::Alone(_) => None,
            Outside::Meshed(mesh, _) => Some(mesh),
        }
    }

    fn mesh_mut(&mut self) -> Option<&mut Mesh> {
        match self {
            Outside::Alone(_) => None,
            Outside::Meshed(mesh, _) => Some(mesh),
        }
    }
}

/// A machine whose configuration names other shards cannot be alone: it would have mail for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "shard {me} of {count} cannot be alone: join it to the others with Shard::meshed, or configure Shards::SINGLE"
)]
pub struct NotAlone {
    /// Its number.
    pub me: u16,
    /// Number of shards of its node.
    pub count: u16,
}

/// The whole loop of an lcore, the same over every kind of streams.
pub struct Shard<S: Streams + Inspect, A: App> {
    /// Protocol.
    pub machine: Machine,
    outside: Outside<S>,
    /// Application.
    pub app: A,
    ops: Ops,
    /// Operations of the shard itself (shutdown) go under this id.
    own: VecDeque<Op>,
    me: ShardId,
    down: bool,
    /// The application was told that the node goes down.
    told: bool,
    mailbox: Option<Attended>,
    loop_stats: LoopStats,
    balancer: Option<Balancer>,
    /// Time of the next look at the links of ports, in ns.
    links_at: u64,
    /// Places of NIs that were deleted, and are not over, whose addresses no other NI had then.
    left_addresses: Vec<(u8, IpAddr)>,
}

/// Operations handled in one turn at most, so that an application which answers each event with an operation
/// cannot keep the streams from being served.
const OPS_A_TURN: usize = 256;
/// Operations whose messages are put on streams, and whose events are told, together.
const OPS_AT_ONCE: usize = 16;

impl<S: Streams + Inspect, A: App> Shard<S, A> {
    /// The only shard of a node.
    ///
    /// # Errors
    /// [`NotAlone`]: the machine's configuration names others.
    pub fn alone(machine: Machine, streams: S, app: A) -> Result<Shard<S, A>, NotAlone> {
        let Shards { me, count } = machine.config().shards;
        if count != 1 {
            return Err(NotAlone { me: me.0, count });
        }
        Ok(Shard::new(machine, Outside::Alone(streams), app))
    }

    /// A shard among others, with the streams of its own queue if it owns one.
    pub fn meshed(machine: Machine, mesh: Mesh, own: Option<S>, app: A) -> Shard<S, A> {
        Shard::new(machine, Outside::Meshed(Box::new(mesh), own), app)
    }

    fn new(machine: Machine, outside: Outside<S>, app: A) -> Shard<S, A> {
        let me = machine.config().shards.me;
        Shard {
            machine,
            outside,
            app,
            ops: Ops::new(),
            own: VecDeque::new(),
            me,
            down: false,
            told: false,
            mailbox: None,
            loop_stats: LoopStats::default(),
            balancer: None,
            links_at: 0,
            left_addresses: Vec::new(),
        }
    }

    /// The streams of its own queue; `None` where it owns none.
    pub fn streams(&mut self) -> Option<&mut S> {
        self.outside.streams_mut()
    }

    /// The time in ns.
    pub fn now(&self) -> u64 {
        match &self.outside {
            Outside::Alone(s) => s.now(),
            Outside::Meshed(mesh, _) => mesh.now(),
        }
    }

    /// One turn: receive, time, applications, act, send.
    pub fn turn(&mut self) -> Work {
        let now = self.now();
        self.loop_stats.begin(now);
        if self.mailbox.as_ref().is_some_and(|d| d.0.asked()) {
            self.answer();
        }
        let machine = &mut self.machine;
        let mut work = match &mut self.outside {
            Outside::Alone(s) => s.turn(now, &mut |happened| machine.hear(now, happened)),
            Outside::Meshed(mesh, own) => mesh.turn(now, own, &mut |input| machine.handle(now, input)),
        };
        if self.machine.deadline().is_some_and(|t| t <= now) {
            self.machine.handle(now, Input::Timer);
            if self.links_at <= now {
                self.look_at_links(now);
            }
            work = work.and(Work::Busy(1));
        }
        while let Some((app, ev)) = self.outside.mesh_mut().and_then(Mesh::posted_event) {
            match app {
                AppId::NODE => self.down |= matches!(ev, Event::ShutDown { .. }),
                _ => self.app.event(now, app, ev, &mut self.ops),
            }
        }
        // Applications hear what came in before they are asked for more: their next message then leaves in this turn,
        // with TCP's acknowledgement on it, and not behind a packet that has nothing else.
        self.act(now);
        if self.machine.goes_down() && !std::mem::replace(&mut self.told, true) {
            self.app.ends(now);
        }
        work = work.and(self.app.turn(now, &mut self.ops));
        while let Some(op) = self.own.pop_front() {
            self.ops.push_back((AppId::NODE, op));
        }
        let mut done = 0;
        loop {
            let before = done;
            while done < OPS_A_TURN.min(before + OPS_AT_ONCE)
                && let Some((app, op)) = self.ops.get_mut(done)
            {
                self.machine.command(now, app.on(self.me), op);
                done += 1;
            }
            if done == before {
                break;
            }
            self.act(now);
        }
        if done > 0 {
            // Not one by one: each would be moved once more to be dropped.
            self.ops.drain(..done);
            // A storm's room goes back with its end.
            if self.ops.is_empty() && self.ops.capacity() > OUT_KEPT {
                self.ops.shrink_to(OUT_KEPT);
            }
            work = work.and(Work::of(done));
        }
        if self.machine.has_leaving_nis() {
            self.let_nis_go();
        }
        self.balance(now);
        let work = work.and(self.migrate(now)).and(self.flush());
        self.loop_stats.end(work.is_busy());
        work
    }

    /// Tells the machine which of its NIs have a link.
    #[cold]
    fn look_at_links(&mut self, now: u64) {
        let Some(every) = self.machine.config().links_every() else {
            self.links_at = u64::MAX;
            return;
        };
        self.links_at = now + every;
        let Some(streams) = self.outside.streams() else { return };
        for at in 0..NIS_MAX {
            let Some(ip) = self.machine.config().nis.get(at).map(|n| n.nid.ip()) else { return };
            if let Some(ip) = ip {
                self.machine.link(now, ip, streams.has_link(ip));
            }
        }
    }

    /// Lets the shard give peers to idle shards of its CPT when it is busy.
    #[must_use]
    pub fn balanced(mut self, on: bool) -> Shard<S, A> {
        self.balancer = on.then(Balancer::default);
        self
    }

    fn balance(&mut self, now: u64) {
        let Some(balancer) = self.balancer.as_mut().filter(|b| b.due(now)) else { return };
        let Outside::Meshed(mesh, own) = &mut self.outside else { return };
        let (machine, me) = (&self.machine, self.me);
        let view = LoadView {
            loop_stats: self.loop_stats,
            load: machine.load(),
            mine: &|b| machine.home_of(b) == me,
            homes_only: own.is_none(),
            me,
            siblings: mesh.siblings(),
            helped: mesh.helped_bytes(),
        };
        let decision = balancer.decide(now, &view);
        mesh.tell_busy(decision.own);
        if let Some((b, to)) = decision.give
            && machine.may_migrate(b)
        {
            mesh.propose(b, to);
        }
        self.machine.offload(decision.offload);
    }

    /// Gives the copies of large messages to whichever lcore of the CPT has time, or keeps them here. A balanced shard
    /// decides that by itself.
    pub fn offload(&mut self, on: bool) {
        self.machine.offload(on);
    }

    /// Moves a bucket of peers whose home is here to another shard; `false` while another one is on its way, or when
    /// it cannot be moved.
    pub fn move_home(&mut self, b: Bucket, to: ShardId) -> bool {
        self.machine.may_migrate(b) && self.outside.mesh_mut().is_some_and(|m| m.propose(b, to))
    }

    /// Hands over the bucket that may go now: nothing about it is under way here at this moment.
    fn migrate(&mut self, now: u64) -> Work {
        let Some(mesh) = self.outside.mesh_mut() else { return Work::Idle };
        let Some((b, to)) = mesh.ready() else { return Work::Idle };
        match self.machine.migrate_out(now, b, to) {
            Some(migrating) => mesh.commit(migrating),
            None => mesh.cancel(),
        }
        self.act(now);
        Work::Busy(1)
    }

    /// The same with a protocol beside socklnd ([`Machine::with`]); the node has to listen at its port, too.
    ///
    /// # Errors
    /// As [`Machine::with`].
    pub fn with(mut self, port: u16, protocol: Box<dyn Protocol + Send>) -> Result<Shard<S, A>, BesideError> {
        self.machine = self.machine.with(port, protocol)?;
        Ok(self)
    }

    /// Lets others look at the shard while it runs, through `mailbox`.
    #[must_use]
    pub fn at(mut self, mailbox: Option<Arc<Mailbox>>) -> Shard<S, A> {
        self.mailbox = mailbox.map(Attended);
        self
    }

    fn answer(&mut self) {
        let Some(mailbox) = self.mailbox.as_ref().map(|d| d.0.clone()) else { return };
        let now = self.now();
        mailbox.answer(|ask| match ask {
            Question::Page(page) => match self.outside.streams_mut() {
                Some(s) => s.look(page),
                None => page.from = None,
            },
            Question::Peers(peers) => peers.fill(&self.machine),
            Question::Figures(p) => p.fill(|from, most, each| self.machine.peer_figures(from, most, each)),
            Question::PeerNis(p) => p.fill(|from, most, each| self.machine.peer_nis(from, most, each)),
            Question::Counts(c) => {
                (c.proto, c.streams, c.loop_stats) = (self.machine.tally(), self.counters(), self.loop_stats);
                self.details(&mut |name, n| c.add(name, n));
                self.machine.drops(&mut |name, n| c.add(name, n));
                self.machine.beside(&mut |name, n| c.add(name, n));
                self.machine.nis(&mut |ni| c.add_ni(ni));
                c.gone = self.machine.gone_nis();
                (c.ops, c.waiting) = (self.machine.ops() as u64, self.machine.waiting() as u64);
            }
            Question::Tap(tap) => {
                if let Some(s) = self.outside.streams_mut() {
                    *tap = s.tap(tap.take());
                }
            }
            Question::Faults(about) => {
                if let Some(ask) = about.ask {
                    about.done = self.machine.fault(now, ask);
                }
                let room = about.rules.capacity();
                about.rules.extend(self.machine.fault_rules().take(room));
            }
            Question::Link(ip, up) => self.machine.link(now, *ip, *up),
            Question::Routing(view) => **view = self.machine.routing_view(),
            Question::Routes(about) => {
                if let Some(ask) = about.ask {
                    about.done = self.machine.route(now, ask);
                }
                let room = about.routes.capacity();
                about.routes.extend(self.machine.routes().take(room));
            }
            Question::ByHand(about) => {
                if let Some(ask) = about.ask.as_ref() {
                    about.done = self.machine.peer_by_hand(now, ask);
                }
                let room = about.nids.capacity();
                about.nids.extend(self.machine.by_hand().take(room));
            }
            Question::Health(about) => about.done = self.machine.set_health(now, &about.ask),
            Question::Nis(about) => self.asked_of_nis(now, about),
            Question::Config(c) => c.as_mut().clone_from(self.machine.config()),
            Question::Tune(change) => {
                self.machine.tune(now, change);
                if let Some(s) = self.outside.streams_mut() {
                    s.tune(&self.machine.config().tcp);
                }
            }
        });
    }

    /// Counts of what carries the streams.
    pub fn counters(&self) -> StreamCounters {
        let mut c = self.outside.streams().map(Inspect::counters).unwrap_or_default();
        c.rx_lent_out += self.outside.mesh().map_or(0, Mesh::rx_lent_out);
        c
    }

    /// Names and values of what else is counted, of the streams and of the mesh.
    pub fn details(&self, f: &mut dyn FnMut(&'static str, u64)) {
        if let Some(s) = self.outside.streams() {
            s.details(f);
        }
        if let Some(mesh) = self.outside.mesh() {
            mesh.details(f);
        }
    }

    /// Does what the machine wants: on streams first, since what is done there leads to nothing new in this turn.
    fn act(&mut self, now: u64) {
        loop {
            match &mut self.outside {
                Outside::Alone(s) => self.machine.act(|action| s.act(action)),
                Outside::Meshed(mesh, own) => self.machine.act(|action| mesh.act(own, action)),
            }
            let Shard { machine, outside, app: user, ops, down, me, .. } = self;
            machine.tell(|app, event| {
                let (app, at) = app.home();
                match outside {
                    Outside::Meshed(mesh, _) if at != *me => mesh.post_event(at, app, event),
                    _ if app == AppId::NODE => *down |= matches!(event, Event::ShutDown { .. }),
                    _ => user.event(now, app, event, ops),
                }
            });
            if let Outside::Meshed(mesh, _) = outside {
                while let Some((to, m)) = machine.mail() {
                    mesh.post(to, m);
                }
            }
            let Some(b) = machine.offer() else { return };
            let kept = match outside {
                Outside::Alone(_) => Some(b),
                Outside::Meshed(mesh, _) => mesh.offer(b),
            };
            if let Some(mut b) = kept {
                b.run(u32::MAX);
                machine.handle(now, Input::JobDone(b));
            }
        }
    }

    /// Sends what was asked for in this turn: first mail, then frames.
    fn flush(&mut self) -> Work {
        match &mut self.outside {
            Outside::Alone(s) => s.flush(),
            Outside::Meshed(mesh, own) => {
                mesh.flush();
                own.as_mut().map_or(Work::Idle, Streams::flush)
            }
        }
    }

    /// Starts the way down: no new operations, what waits fails, connections close.
    pub fn shut_down(&mut self) {
        self.own.push_back(Op::Shutdown { tag: 0 });
        if let Some(mesh) = self.outside.mesh_mut() {
            mesh.closing();
        }
    }

    /// Whether the way down has ended: no connection, no lend, nothing that another shard needs.
    pub fn is_down(&self) -> bool {
        self.down && self.settled()
    }

    /// Whether no other shard needs this one any more.
    fn settled(&self) -> bool {
        self.outside.mesh().is_none_or(Mesh::settled)
    }

    /// Gauges that keep the shard from being down: of the machine those that the shutdown waits for, of the streams those
    /// of buffers that have not come home.
    pub fn left(&self) -> Vec<(&'static str, u64)> {
        if self.is_down() {
            return Vec::new();
        }
        let (g, rt) = (self.machine.gauges(), self.counters());
        let all = [
            ("conns", g.conns as u64),
            ("lends", g.lends as u64),
            ("ops", g.ops as u64),
            ("entries", g.entries as u64),
            ("boxes", g.copy_jobs as u64),
            ("queued", g.queued as u64),
            ("streams", rt.conns),
            ("lendings_out", rt.lendings_out),
            ("rx_lent_out", rt.rx_lent_out),
            ("other_lcores", u64::from(!self.settled())),
        ];
        all.into_iter().filter(|(_, n)| *n > 0).collect()
    }

    /// Time at which the next turn is due if nothing arrives, in ns.
    pub fn deadline(&self) -> Option<u64> {
        let app = self.app.patience().map(|ns| self.now().saturating_add(ns));
        let mesh = self.outside.mesh().filter(|m| m.has_work()).map(|_| 0);
        let streams = self.outside.streams().and_then(Streams::deadline);
        [self.machine.deadline(), mesh, streams, app].into_iter().flatten().min()
    }

    /// Waits for something to arrive, until the deadline at the latest. Where streams can only be polled it sleeps for `nap`, and
    /// returns at once without one.
    pub fn wait(&mut self, nap: Option<Nap>) {
        let until = self.deadline();
        match self.outside.streams_mut() {
            Some(s) => s.wait(until, nap),
            // Other lcores hand it work by rings, which wake nobody.
            None => {
                let nap = nap.and_then(|n| super::idle::cut(n, self.now(), until));
                nap.into_iter().for_each(|n| std::thread::sleep(n.short));
            }
        }
    }

    /// Ends every stream at once, as far as peers can still be told: for a shard that will not be turned again.
    pub fn abort_all(&mut self) {
        if let Some(s) = self.outside.streams_mut() {
            s.abort_all();
        }
    }
}
