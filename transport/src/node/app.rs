//! Applications: on the shard's own lcore, or on threads of their own behind a pair of rings.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;

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

struct Rings {
    ops: ArrayQueue<Op>,
    events: ArrayQueue<Event>,
    gone: AtomicBool,
}

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
        self.rings.ops.push(op).map_err(|op| RingFull(Box::new(op)))
    }

    /// The next event, if there is one.
    pub fn event(&self) -> Option<Event> {
        self.rings.events.pop()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.rings.gone.store(true, Ordering::Release);
    }
}

/// The shard's end of a [`Handle`].
pub struct RingApp {
    rings: Arc<Rings>,
    id: AppId,
    /// Events that the ring had no room for. While there are any, no new operation is taken.
    backlog: VecDeque<Event>,
}

/// A handle of `depth` operations and events, and the application that serves it as `id`.
pub fn rings(id: AppId, depth: usize) -> (Handle, RingApp) {
    let depth = depth.max(1);
    let rings = Arc::new(Rings {
        ops: ArrayQueue::new(depth),
        events: ArrayQueue::new(depth),
        gone: AtomicBool::new(false),
    });
    (Handle { rings: rings.clone() }, RingApp { rings, id, backlog: VecDeque::new() })
}

/// Operations taken from a ring in one turn, so that one thread cannot hold the lcore.
const OPS_A_TURN: usize = 64;

impl App for RingApp {
    fn turn(&mut self, _: u64, ops: &mut Ops) -> Work {
        let mut n = 0;
        while let Some(ev) = self.backlog.pop_front() {
            if self.gone() {
                continue;
            }
            if let Err(ev) = self.rings.events.push(ev) {
                self.backlog.push_front(ev);
                return Work::of(n);
            }
            n += 1;
        }
        while n < OPS_A_TURN {
            let Some(op) = self.rings.ops.pop() else { break };
            ops.push_back((self.id, op));
            n += 1;
        }
        Work::of(n)
    }

    fn event(&mut self, _: u64, _: AppId, ev: Event, _: &mut Ops) {
        if self.gone() {
            return;
        }
        if !self.backlog.is_empty() {
            self.backlog.push_back(ev);
        } else if let Err(ev) = self.rings.events.push(ev) {
            self.backlog.push_back(ev);
        }
    }
}

impl RingApp {
    /// Whether the thread has dropped its handle.
    pub fn gone(&self) -> bool {
        self.rings.gone.load(Ordering::Acquire)
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
        let (h, mut app) = rings(AppId(3), 1);
        let mut ops = Ops::new();
        for me in 0..3 {
            app.event(0, AppId(3), Event::Attached { tag: 0, me: MeId(me) }, &mut ops);
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
        app.event(0, AppId(3), Event::Attached { tag: 0, me: MeId(9) }, &mut ops);
        assert!(app.gone() && app.backlog.is_empty());
    }
}
