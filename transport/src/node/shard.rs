//! One shard: a machine, its streams and its applications, turned by one thread.

use std::collections::VecDeque;

use super::app::{App, Ops};
use super::runtime::{Runtime, StreamCmd, Work};
use crate::proto::{AppId, Input, Machine, Op, Output};

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
    down: bool,
}

/// The id under which a shard's own operations complete.
pub const OWN_APP: AppId = AppId(u32::MAX);

/// Operations handled in one turn at most, so that an application which answers each event with an operation
/// cannot keep the streams from being served.
const OPS_A_TURN: usize = 256;

impl<R: Runtime, A: App> Shard<R, A> {
    /// A shard.
    pub fn new(machine: Machine, rt: R, app: A) -> Shard<R, A> {
        Shard { machine, rt, app, ops: Ops::new(), own: VecDeque::new(), down: false }
    }

    /// One turn: receive, time, applications, act, send.
    pub fn turn(&mut self) -> Work {
        let now = self.rt.now();
        let machine = &mut self.machine;
        let mut work = self.rt.turn(&mut |input| machine.handle(now, input));
        if self.machine.deadline().is_some_and(|t| t <= now) {
            self.machine.handle(now, Input::Timer);
            work = work.and(Work::Busy(1));
        }
        work = work.and(self.app.turn(now, &mut self.ops));
        while let Some(op) = self.own.pop_front() {
            self.ops.push_back((OWN_APP, op));
        }
        for _ in 0..OPS_A_TURN {
            self.act(now);
            let Some((app, op)) = self.ops.pop_front() else { break };
            self.machine.handle(now, Input::Cmd(app, op));
            work = work.and(Work::Busy(1));
        }
        self.act(now);
        work.and(self.rt.flush())
    }

    fn act(&mut self, now: u64) {
        while let Some(out) = self.machine.poll() {
            match out {
                Output::Dial(d) => self.rt.dial(&d),
                Output::Send(c, m) => self.rt.command(c, StreamCmd::Send(m)),
                Output::Unhold(c, l) => self.rt.command(c, StreamCmd::Unhold(l)),
                Output::Read(c) => self.rt.command(c, StreamCmd::Read),
                Output::Close(c, how) => self.rt.command(c, StreamCmd::Close(how)),
                Output::Complete(OWN_APP, crate::proto::Event::ShutDown { .. }) => self.down = true,
                Output::Complete(OWN_APP, _) => {}
                Output::Complete(app, ev) => self.app.event(now, app, ev, &mut self.ops),
                Output::To(to, m) => self.rt.post(to, m),
            }
        }
    }

    /// Starts the way down: no new operations, what waits fails, connections close.
    pub fn shut_down(&mut self) {
        self.own.push_back(Op::Shutdown { tag: 0 });
    }

    /// Whether the way down has ended: no connection, no lend.
    pub fn is_down(&self) -> bool {
        self.down
    }

    /// When the next turn is due if nothing arrives, in ns.
    pub fn deadline(&self) -> Option<u64> {
        match (self.machine.deadline(), self.rt.deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}
