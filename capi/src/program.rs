//! The application on the node's lcore, behind its rings: it rings for whoever waits for events.

use std::sync::Arc;

use transport::lnd::AppId;
use transport::lnet::Event;
use transport::node::{App, Bell, Ops, RingApp, Work};

/// Longest sleep of the lcore while the program is active, in ns: no ring wakes one that waits for its sockets.
pub(crate) const ACTIVE: u64 = 50_000;
/// The same when it has been quiet for [`LINGER`].
pub(crate) const QUIET: u64 = 1_000_000;
/// Time after the last operation or event for which the program is active, in ns.
pub(crate) const LINGER: u64 = 10_000_000;
/// The program on the lcore.
pub(crate) struct Program {
    ring: RingApp,
    bell: Arc<Bell>,
    now: u64,
    active_until: u64,
}

impl Program {
    pub(crate) fn new(ring: RingApp, bell: Arc<Bell>) -> Program {
        Program { ring, bell, now: 0, active_until: 0 }
    }

    fn active(&mut self) {
        self.active_until = self.now + LINGER;
        self.bell.ring();
    }
}

impl App for Program {
    fn turn(&mut self, now: u64, ops: &mut Ops) -> Work {
        self.now = now;
        let work = self.ring.turn(now, ops);
        if work.is_busy() {
            self.active();
        }
        work
    }

    fn event(&mut self, now: u64, app: AppId, ev: Event, ops: &mut Ops) {
        self.ring.event(now, app, ev, ops);
        self.active();
    }

    fn patience(&self) -> Option<u64> {
        Some(if self.now < self.active_until { ACTIVE } else { QUIET })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.bell.leave();
    }
}
