//! One shard: a machine, its streams and its applications, turned by one thread.
//! [`NodeBuilder`](super::NodeBuilder) makes it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::app::{App, Ops};
use super::balance::{Balancer, Sight};
use super::desk::{Ask, Attended, Desk, Pace};
use super::runtime::{Runtime, StreamCmd, Work};
use crate::lnd::AppId;
use crate::lnet::{Event, Op};
use crate::node::{BesideError, Input, Machine};
use crate::stream::{Action, Bucket, Protocol, ShardId};

/// The whole loop of an lcore, the same over every runtime.
pub struct Shard<R: Runtime, A: App> {
    /// Protocol.
    pub machine: Machine,
    /// Streams.
    pub rt: R,
    /// What uses the node.
    pub app: A,
    ops: Ops,
    /// Operations of the shard itself (shutdown) go under this id.
    own: VecDeque<Op>,
    me: ShardId,
    down: bool,
    desk: Option<Attended>,
    pace: Pace,
    balancer: Option<Balancer>,
}

/// Operations handled in one turn at most, so that an application which answers each event with an operation
/// cannot keep the streams from being served.
const OPS_A_TURN: usize = 256;

impl<R: Runtime, A: App> Shard<R, A> {
    /// A shard.
    pub fn new(machine: Machine, rt: R, app: A) -> Shard<R, A> {
        let me = machine.config().shards.me;
        Shard {
            machine,
            rt,
            app,
            ops: Ops::new(),
            own: VecDeque::new(),
            me,
            down: false,
            desk: None,
            pace: Pace::default(),
            balancer: None,
        }
    }

    /// One turn: receive, time, applications, act, send.
    pub fn turn(&mut self) -> Work {
        let now = self.rt.now();
        self.pace.begin(now);
        if self.desk.as_ref().is_some_and(|d| d.0.asked()) {
            self.answer();
        }
        let machine = &mut self.machine;
        let mut work = self.rt.turn(&mut |input| machine.handle(now, input));
        if self.machine.deadline().is_some_and(|t| t <= now) {
            self.machine.handle(now, Input::Timer);
            work = work.and(Work::Busy(1));
        }
        while let Some((app, ev)) = self.rt.posted_event() {
            self.event(now, app, ev);
        }
        // Applications hear what came in before they are asked for more: their next message then leaves in this turn,
        // with TCP's acknowledgement on it, and not behind a packet that has nothing else.
        self.act(now);
        work = work.and(self.app.turn(now, &mut self.ops));
        while let Some(op) = self.own.pop_front() {
            self.ops.push_back((AppId::NODE, op));
        }
        for _ in 0..OPS_A_TURN {
            self.act(now);
            let Some((app, op)) = self.ops.pop_front() else { break };
            self.machine.handle(now, Input::Cmd(app.on(self.me), op));
            work = work.and(Work::Busy(1));
        }
        self.act(now);
        self.balance(now);
        let work = work.and(self.part(now)).and(self.rt.flush());
        self.pace.end(work.is_busy());
        work
    }

    /// Lets the shard give peers to idle shards of its CPT when it is busy.
    #[must_use]
    pub fn balanced(mut self, on: bool) -> Shard<R, A> {
        self.balancer = on.then(Balancer::default);
        self
    }

    fn balance(&mut self, now: u64) {
        let Some(balancer) = self.balancer.as_mut().filter(|b| b.due(now)) else { return };
        let homes_only = !self.rt.owns_streams();
        let Some(mover) = self.rt.mover() else { return };
        let (machine, me) = (&self.machine, self.me);
        let sight = Sight {
            pace: self.pace,
            load: machine.load(),
            mine: &|b| machine.home_of(b) == me,
            homes_only,
            me,
            siblings: mover.siblings(),
            helped: mover.helped_bytes(),
        };
        let look = balancer.look(now, &sight);
        mover.tell_busy(look.own);
        if let Some((b, to)) = look.give
            && machine.may_leave(b)
        {
            mover.propose(b, to);
        }
        self.machine.share(look.share);
    }

    /// Gives the copies of large messages to whichever lcore of the CPT has time, or keeps them here: what a balanced
    /// shard decides by itself.
    pub fn share(&mut self, on: bool) {
        self.machine.share(on);
    }

    /// Moves a bucket of peers whose home is here to another shard; `false` while another one is on its way, or when
    /// it cannot be moved.
    pub fn move_home(&mut self, b: Bucket, to: ShardId) -> bool {
        self.machine.may_leave(b) && self.rt.mover().is_some_and(|m| m.propose(b, to))
    }

    /// Hands over the bucket that may go now: nothing about it is under way here at this moment.
    fn part(&mut self, now: u64) -> Work {
        let Some(mover) = self.rt.mover() else { return Work::Idle };
        let Some((b, to)) = mover.ready() else { return Work::Idle };
        match self.machine.leave(now, b, to) {
            Some(luggage) => mover.part(luggage),
            None => mover.stay(),
        }
        self.act(now);
        Work::Busy(1)
    }

    /// The same with a protocol beside socklnd ([`Machine::with`]); the node has to listen at its port, too.
    ///
    /// # Errors
    /// As [`Machine::with`].
    pub fn with(mut self, port: u16, protocol: Box<dyn Protocol + Send>) -> Result<Shard<R, A>, BesideError> {
        self.machine = self.machine.with(port, protocol)?;
        Ok(self)
    }

    /// Lets others look at the shard while it runs, through `desk`.
    #[must_use]
    pub fn at(mut self, desk: Option<Arc<Desk>>) -> Shard<R, A> {
        self.desk = desk.map(Attended);
        self
    }

    fn answer(&mut self) {
        let Some(desk) = self.desk.as_ref().map(|d| d.0.clone()) else { return };
        desk.answer(|ask| match ask {
            Ask::Page(page) => self.rt.look(page),
            Ask::Peers(peers) => peers.fill(&self.machine),
            Ask::Counts(c) => {
                (c.proto, c.rt, c.pace) = (self.machine.tally(), self.rt.counters(), self.pace);
                self.rt.details(&mut |name, n| c.add(name, n));
            }
            Ask::Tap(tap) => *tap = self.rt.tap(tap.take()),
            Ask::Config(c) => c.as_mut().clone_from(self.machine.config()),
            Ask::Tune(change) => {
                self.machine.tune(change);
                self.rt.tune(&self.machine.config().tcp);
            }
        });
    }

    /// Does what the machine wants: on streams first, since what is done there leads to nothing new in this turn.
    fn act(&mut self, now: u64) {
        loop {
            while let Some(action) = self.machine.action() {
                match action {
                    Action::Dial(d) => self.rt.dial(&d),
                    Action::Send(c, m) => self.rt.send(c, m),
                    Action::Unhold(c, l) => self.rt.command(c, StreamCmd::Unhold(l)),
                    Action::Read(c) => self.rt.command(c, StreamCmd::Read),
                    Action::Close(c, how) => self.rt.command(c, StreamCmd::Close(how)),
                }
            }
            if let Some(e) = self.machine.event() {
                let (app, at) = e.0.home();
                if at == self.me {
                    self.event(now, app, e.1);
                } else {
                    self.rt.post_event(at, app, e.1);
                }
            } else if let Some((to, m)) = self.machine.mail() {
                self.rt.post(to, m);
            } else if let Some(b) = self.machine.offer() {
                if let Some(mut b) = self.rt.offer(b) {
                    b.run(u32::MAX);
                    self.machine.handle(now, Input::Boxed(b));
                }
            } else {
                return;
            }
        }
    }

    fn event(&mut self, now: u64, app: AppId, ev: Event) {
        match (app, &ev) {
            (AppId::NODE, Event::ShutDown { .. }) => self.down = true,
            (AppId::NODE, _) => {}
            _ => self.app.event(now, app, ev, &mut self.ops),
        }
    }

    /// Starts the way down: no new operations, what waits fails, connections close.
    pub fn shut_down(&mut self) {
        self.own.push_back(Op::Shutdown { tag: 0 });
        if let Some(m) = self.rt.mover() {
            m.closing();
        }
    }

    /// Whether the way down has ended: no connection, no lend, nothing that another shard needs.
    pub fn is_down(&self) -> bool {
        self.down && self.rt.settled()
    }

    /// What keeps the shard from being down, by gauge: of the machine's what the shutdown waits for, of the runtime's
    /// what has not come home.
    pub fn left(&self) -> Vec<(&'static str, u64)> {
        if self.is_down() {
            return Vec::new();
        }
        let (g, rt) = (self.machine.gauges(), self.rt.counters());
        let all = [
            ("conns", g.conns as u64),
            ("lends", g.lends as u64),
            ("ops", g.ops as u64),
            ("entries", g.entries as u64),
            ("boxes", g.boxes as u64),
            ("queued", g.queued as u64),
            ("streams", rt.conns),
            ("lendings_out", rt.lendings_out),
            ("rx_lent_out", rt.rx_lent_out),
            ("other_lcores", u64::from(!self.rt.settled())),
        ];
        all.into_iter().filter(|(_, n)| *n > 0).collect()
    }

    /// When the next turn is due if nothing arrives, in ns.
    pub fn deadline(&self) -> Option<u64> {
        let app = self.app.patience().map(|ns| self.rt.now().saturating_add(ns));
        [self.machine.deadline(), self.rt.deadline(), app].into_iter().flatten().min()
    }
}
