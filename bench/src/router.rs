//! A router, and what passes through it: A ── R ── B.
//!
//! ```text
//!   A @tcp ── link ── @tcp R @tcp1 ── link ── B @tcp1
//! ```
//!
//! R routes, as any LNet router does, and has no application. A and B have a route by it. The links are virtio links (`linked`), or
//! the kernel's loopback ([`looped`]). Beside the same two ends on one link, the difference is R's own ([`cost`]).

pub mod cost;
#[cfg(feature = "dpdk")]
pub mod linked;
pub mod looped;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use transport::lnd::config::SEC;
use transport::lnd::route::Route;
use transport::lnd::{AppId, Config};
use transport::lnet::{Event, Op};
use transport::node::{App, NodeBuilder, Ops, Work};
use transport::wire::{Nid, ProcessId};

use crate::ctl::Ctl;
use crate::measure::{MeasureError, wait_for};
use crate::workload::APP;

/// Routing begins as soon as it may: its users look once a second.
fn at_once(c: &mut Config) {
    (c.alive_router_check_interval, c.router_ping_timeout) = (SEC, 2 * SEC);
}

/// When a router begins to send a long message on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    /// When it is whole.
    Stored,
    /// Before.
    Cut,
}

/// A node that routes between the networks of its two NIs.
fn between([near, far]: [Nid; 2], passes: Passes) -> NodeBuilder {
    NodeBuilder::new(near).also(far).config(move |c| {
        c.routing.forwarding = true;
        c.routing.cut_through = passes == Passes::Cut;
        at_once(c);
    })
}

/// A node that reaches the network of `beyond` by the router `gateway`.
fn beside(gateway: Nid, nid: Nid, beyond: Nid) -> NodeBuilder {
    NodeBuilder::new(nid).config(|c| {
        c.routes = vec![Route { net: beyond.net(), gateway, hop: None, priority: 0 }];
        at_once(c);
        // A machine that has other work is not a router that is dead.
        c.router_ping_timeout = 10 * SEC;
    })
}

/// Time between two questions whether there is a way, in ns. One that a router dropped is not answered, and ends late.
const AGAIN: u64 = SEC / 2;
/// Tag of those questions, which no client's operation has.
const ASKED: u64 = u64::MAX;

/// An application that begins when its target has answered a ping: there is a way then, there and back.
struct Reaching<A> {
    app: A,
    target: ProcessId,
    /// Time of the next ping, and of the latest turn, in ns.
    next: u64,
    now: u64,
    reached: bool,
    /// Tells whoever runs the nodes.
    told: Arc<AtomicBool>,
}

impl<A> Reaching<A> {
    fn new(app: A, target: Nid, told: Arc<AtomicBool>) -> Reaching<A> {
        Reaching { app, target: ProcessId::lustre(target), next: 0, now: 0, reached: false, told }
    }
}

impl<A: App> App for Reaching<A> {
    fn turn(&mut self, now: u64, ops: &mut Ops) -> Work {
        if self.reached {
            return self.app.turn(now, ops);
        }
        self.now = now;
        if now < self.next {
            return Work::Idle;
        }
        self.next = now + AGAIN;
        ops.push_back((APP, Op::Ping { tag: ASKED, target: self.target }));
        Work::of(1)
    }

    fn event(&mut self, now: u64, app: AppId, ev: Event, ops: &mut Ops) {
        match ev {
            Event::Ping { tag: ASKED, info: Ok(_), .. } => {
                self.reached = true;
                self.told.store(true, Ordering::Release);
            }
            Event::Ping { tag: ASKED, .. } | Event::Refused { tag: ASKED, .. } => {}
            ev => self.app.event(now, app, ev, ops),
        }
    }

    fn patience(&self) -> Option<u64> {
        if self.reached {
            return self.app.patience();
        }
        Some(self.next.saturating_sub(self.now))
    }

    fn ends(&mut self, now: u64) {
        self.app.ends(now);
    }
}

/// Waits until the ends reach each other.
fn reached(ctl: &Ctl, told: &AtomicBool) -> Result<(), MeasureError> {
    wait_for(ctl, "an answer through the router", 20, || told.load(Ordering::Acquire))
}

#[cfg(test)]
mod tests {
    use transport::lnd::LnetError;
    use transport::lnet::OpRefused;
    use transport::wire::ping::PingInfo;

    use super::*;

    /// Counts its turns and its events.
    #[derive(Default)]
    struct Counts(usize, usize);

    impl App for Counts {
        fn turn(&mut self, _: u64, _: &mut Ops) -> Work {
            self.0 += 1;
            Work::Idle
        }
        fn event(&mut self, _: u64, _: AppId, _: Event, _: &mut Ops) {
            self.1 += 1;
        }
    }

    /// The pings of a turn at `now`.
    fn pings(app: &mut Reaching<Counts>, now: u64) -> usize {
        let mut ops = Ops::new();
        app.turn(now, &mut ops);
        ops.iter().filter(|(_, op)| matches!(op, Op::Ping { tag: ASKED, .. })).count()
    }

    #[test]
    fn an_application_begins_when_its_target_has_answered() {
        let told = Arc::new(AtomicBool::new(false));
        let mut app = Reaching::new(Counts::default(), Nid::LO, told.clone());
        assert_eq!([1, 2].map(|now| pings(&mut app, now)), [1, 0]);
        assert_eq!(app.patience(), Some(AGAIN - 1));
        assert_eq!(
            [AGAIN, AGAIN + 1].map(|now| pings(&mut app, now)),
            [0, 1],
            "whether or not there was an answer"
        );
        let answer = |info| Event::Ping { tag: ASKED, info, rtt_ns: 1 };
        let refused = Event::Refused { tag: ASKED, why: OpRefused::Portal(64) };
        for ev in [answer(Err(LnetError::Unreachable)), refused] {
            app.event(AGAIN + 2, APP, ev, &mut Ops::new());
        }
        assert_eq!((pings(&mut app, AGAIN + 3), app.app.0, app.app.1), (0, 0, 0));
        assert!(!told.load(Ordering::Acquire));
        let info = PingInfo::new([Nid::LO], 0, 0, 1);
        for ev in [answer(Ok(info)), answer(Err(LnetError::TimedOut))] {
            app.event(2 * SEC, APP, ev, &mut Ops::new());
        }
        assert!(told.load(Ordering::Acquire));
        assert_eq!((pings(&mut app, 9 * SEC), app.app.0, app.app.1), (0, 1, 0), "late ones change nothing");
    }
}
