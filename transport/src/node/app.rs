//! Applications: on the shard's own lcore, or on threads of their own behind a pair of rings.

use std::collections::VecDeque;
use std::sync::Arc;

use super::handover::{Lines, Served};
use super::runtime::Work;
use crate::proto::{AppId, Event, Op};

/// Operations that an application wants to start, in order.
pub type Ops = VecDeque<(AppId, Op)>;

/// Something that uses a node from its polling lcore: no ring between, no thread. It must not block.
pub trait App {
    /// Called every turn of the shard; `now` is in ns.
    fn turn(&mut self, now: u64, ops: &mut Ops) -> Work;
    /// Something happened.
    fn event(&mut self, now: u64, app: AppId, ev: Event, ops: &mut Ops);
}

/// An application that does nothing.
#[derive(Debug, Default)]
pub struct NoApp;

impl App for NoApp {
    fn turn(&mut self, _: u64, _: &mut Ops) -> Work {
        Work::Idle
    }
    fn event(&mut self, _: u64, _: AppId, _: Event, _: &mut Ops) {}
}

impl<A: App + ?Sized> App for Box<A> {
    fn turn(&mut self, now: u64, ops: &mut Ops) -> Work {
        (**self).turn(now, ops)
    }
    fn event(&mut self, now: u64, app: AppId, ev: Event, ops: &mut Ops) {
        (**self).event(now, app, ev, ops);
    }
}

type Rings = Lines<Op, Event>;

/// A thread's handle on one shard: a command ring and an event ring. One handle for each (thread, lcore).
pub struct Handle {
    rings: Arc<Rings>,
}

/// The command ring is full: take events, then try again.
#[derive(Debug, thiserror::Error)]
#[error("the command ring is full: take events and submit again")]
pub struct RingFull(pub Box<Op>);

impl Handle {
    /// Submits an operation.
    ///
    /// # Errors
    /// [`RingFull`] gives it back.
    pub fn submit(&self, op: Op) -> Result<(), RingFull> {
        self.rings.submit(op).map_err(|op| RingFull(Box::new(op)))
    }

    /// The next event, if there is one.
    pub fn event(&self) -> Option<Event> {
        self.rings.event()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.rings.leave();
    }
}

/// The shard's end of a [`Handle`]. While events wait for room in their ring, no new operation is taken.
pub struct RingApp {
    id: AppId,
    served: Served<Op, Event>,
}

/// A handle of `depth` operations and events, and the application that serves it as `id`.
pub fn rings(id: AppId, depth: usize) -> (Handle, RingApp) {
    let rings = Arc::new(Rings::new(depth.max(1)));
    (
        Handle { rings: rings.clone() },
        RingApp { id, served: Served { lines: rings, backlog: VecDeque::new() } },
    )
}

/// Operations taken from a ring in one turn, so that one thread cannot hold the lcore.
const OPS_A_TURN: usize = 64;

impl App for RingApp {
    fn turn(&mut self, _: u64, ops: &mut Ops) -> Work {
        let id = self.id;
        Work::of(self.served.turn(OPS_A_TURN, |op| ops.push_back((id, op))))
    }

    fn event(&mut self, _: u64, _: AppId, ev: Event, _: &mut Ops) {
        self.served.deliver(ev);
    }
}

impl RingApp {
    /// Whether the thread has dropped its handle.
    pub fn gone(&self) -> bool {
        self.served.lines.gone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::MeId;

    fn unlink(tag: u64) -> Op {
        Op::Unlink { tag, portal: 0, me: MeId(1) }
    }

    #[test]
    fn a_full_event_ring_loses_nothing_and_holds_back_new_operations() {
        let (h, mut app) = rings(AppId::FIRST, 1);
        let mut ops = Ops::new();
        for me in 0..3 {
            app.event(0, AppId::FIRST, Event::Attached { tag: 0, me: MeId(me) }, &mut ops);
        }
        h.submit(unlink(7)).unwrap();
        assert!(h.submit(unlink(8)).is_err());
        app.turn(0, &mut ops);
        assert!(ops.is_empty(), "an application that does not listen may not ask");
        for want in 0..3 {
            assert!(matches!(h.event(), Some(Event::Attached { me, .. }) if me == MeId(want)));
            app.turn(0, &mut ops);
        }
        assert_eq!(ops.len(), 1);
        drop(h);
        app.event(0, AppId::FIRST, Event::Attached { tag: 0, me: MeId(9) }, &mut ops);
        assert!(app.gone() && app.served.backlog.is_empty());
    }
}
