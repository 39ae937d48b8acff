//! Applications: on the shard's own lcore, or on threads of their own behind a pair of rings.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::bell::Bell;
use super::handover::{Lines, Served};
use super::streams::Work;
use crate::lnd::AppId;
use crate::lnet::{Event, Op};

/// Operations that an application wants to start, in order.
pub type Ops = VecDeque<(AppId, Op)>;

/// Something that uses a node from its polling lcore: no ring between, no thread. It must not block.
pub trait App {
    /// Called every turn of the shard; `now` is in ns.
    fn turn(&mut self, now: u64, ops: &mut Ops) -> Work;
    /// Something happened.
    fn event(&mut self, now: u64, app: AppId, ev: Event, ops: &mut Ops);
    /// Longest time for which the lcore may sleep when nothing arrives, in ns; `None`: as long as its streams allow.
    fn patience(&self) -> Option<u64> {
        None
    }
    /// The node goes down, and takes no operation any more. Called once; one that has operations out hears of each besides.
    fn ends(&mut self, _now: u64) {}
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
    fn patience(&self) -> Option<u64> {
        (**self).patience()
    }
    fn ends(&mut self, now: u64) {
        (**self).ends(now);
    }
}

type AppLines = Lines<Op, Event>;

/// A thread's handle on one shard: a command ring and an event ring. One handle for each (thread, lcore).
pub struct Handle {
    rings: Arc<AppLines>,
    bell: Arc<Bell>,
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

    /// The next event, waited for so long at most; `None` then, and at once when there is none and the shard has ended.
    pub fn wait(&self, limit: Duration) -> Option<Event> {
        // Without an end where it is too far away to be told.
        self.bell.wait(Instant::now().checked_add(limit), || self.event())
    }

    /// Whether the shard has ended, with its node: no more events come than those that wait.
    pub fn ended(&self) -> bool {
        self.bell.gone()
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
    bell: Arc<Bell>,
}

impl Drop for RingApp {
    fn drop(&mut self) {
        self.bell.leave();
    }
}

/// A handle of `depth` operations and events, and the application that serves it as `id`.
pub fn rings(id: AppId, depth: usize) -> (Handle, RingApp) {
    let (rings, bell) = (Arc::new(AppLines::new(depth.max(1))), Arc::new(Bell::default()));
    (
        Handle { rings: rings.clone(), bell: bell.clone() },
        RingApp { id, served: Served { lines: rings, backlog: VecDeque::new() }, bell },
    )
}

/// Operations taken from a ring in one turn, so that one thread cannot hold the lcore.
const OPS_A_TURN: usize = 64;

impl App for RingApp {
    fn turn(&mut self, _: u64, ops: &mut Ops) -> Work {
        let (id, late) = (self.id, !self.served.backlog.is_empty());
        let work = Work::of(self.served.turn(OPS_A_TURN, |op| ops.push_back((id, op))));
        if late {
            self.bell.ring();
        }
        work
    }

    fn event(&mut self, _: u64, _: AppId, ev: Event, _: &mut Ops) {
        self.served.deliver(ev);
        self.bell.ring();
    }
}

impl RingApp {
    /// Whether the thread has dropped its handle.
    pub fn gone(&self) -> bool {
        self.served.lines.gone()
    }
}

/// An application on its lcore, and beside it others that come and go, on threads of their own behind rings. While none
/// is there the rings are not looked at.
pub struct Beside<A> {
    main: A,
    guests: Vec<RingApp>,
    there: Arc<AtomicUsize>,
}

/// Longest sleep of an lcore while a guest is there, in ns: no ring wakes one that waits for its sockets.
const GUEST_PATIENCE: u64 = 50_000;

/// A place beside an application, for one thread at a time.
pub struct Seat {
    handle: Handle,
    there: Arc<AtomicUsize>,
}

/// An [`App`] with room for guests beside `main`, of the ids `ids`, each with a ring of `depth` operations and events; and
/// their seats.
pub fn beside<A: App>(main: A, ids: impl IntoIterator<Item = AppId>, depth: usize) -> (Beside<A>, Vec<Seat>) {
    let there = Arc::new(AtomicUsize::new(0));
    let (mut guests, mut seats) = (Vec::new(), Vec::new());
    for id in ids {
        let (handle, app) = rings(id, depth);
        guests.push(app);
        seats.push(Seat { handle, there: there.clone() });
    }
    (Beside { main, guests, there }, seats)
}

impl Seat {
    /// Sits down: the handle may be used until the result is dropped. Whoever leaves has heard the last event of each of its
    /// operations.
    pub fn take(&mut self) -> Sitting<'_> {
        self.there.fetch_add(1, Ordering::AcqRel);
        Sitting(self)
    }
}

/// A guest that is there.
pub struct Sitting<'a>(&'a mut Seat);

impl std::ops::Deref for Sitting<'_> {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.0.handle
    }
}

impl Drop for Sitting<'_> {
    fn drop(&mut self) {
        self.0.there.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<A: App> App for Beside<A> {
    fn turn(&mut self, now: u64, ops: &mut Ops) -> Work {
        let work = self.main.turn(now, ops);
        if self.there.load(Ordering::Relaxed) == 0 {
            return work;
        }
        self.guests.iter_mut().fold(work, |w, g| w.and(g.turn(now, ops)))
    }

    fn event(&mut self, now: u64, app: AppId, ev: Event, ops: &mut Ops) {
        match self.guests.iter_mut().find(|g| g.id == app) {
            Some(g) => g.event(now, app, ev, ops),
            None => self.main.event(now, app, ev, ops),
        }
    }

    fn patience(&self) -> Option<u64> {
        let guests = (self.there.load(Ordering::Relaxed) > 0).then_some(GUEST_PATIENCE);
        [self.main.patience(), guests].into_iter().flatten().min()
    }

    fn ends(&mut self, now: u64) {
        self.main.ends(now);
    }
}

/// Two applications on one lcore.
pub struct Joined<A, B> {
    main: A,
    other: B,
    ids: Vec<AppId>,
}

/// An [`App`] of two: `other` hears the events of the ids `ids`, `main` those of all others.
pub fn joined<A: App, B: App>(main: A, other: B, ids: impl IntoIterator<Item = AppId>) -> Joined<A, B> {
    Joined { main, other, ids: ids.into_iter().collect() }
}

impl<A: App, B: App> App for Joined<A, B> {
    fn turn(&mut self, now: u64, ops: &mut Ops) -> Work {
        self.main.turn(now, ops).and(self.other.turn(now, ops))
    }

    fn event(&mut self, now: u64, app: AppId, ev: Event, ops: &mut Ops) {
        if self.ids.contains(&app) {
            self.other.event(now, app, ev, ops);
        } else {
            self.main.event(now, app, ev, ops);
        }
    }

    fn patience(&self) -> Option<u64> {
        [self.main.patience(), self.other.patience()].into_iter().flatten().min()
    }

    fn ends(&mut self, now: u64) {
        self.main.ends(now);
        self.other.ends(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lnet::MeId;

    /// Gives its name as the tag of an operation once, and counts what it hears.
    struct Main(Vec<u64>);

    impl App for Main {
        fn turn(&mut self, _: u64, _: &mut Ops) -> Work {
            Work::Idle
        }
        fn event(&mut self, _: u64, _: AppId, ev: Event, _: &mut Ops) {
            if let Event::Attached { tag, .. } = ev {
                self.0.push(tag);
            }
        }
    }

    #[test]
    fn guests_beside_an_application_have_their_own_operations_and_events() {
        let id = |n| AppId::new(n).unwrap();
        let (mut app, mut seats) = beside(Main(Vec::new()), [id(1), id(2)], 4);
        let mut ops = Ops::new();
        let attached = |tag| Event::Attached { tag, me: MeId(1) };
        assert_eq!(app.patience(), None);
        let second = seats[1].take();
        // Field report 16: an lcore that slept 100 ms before each of a guest's operations moved 80 messages a second.
        assert_eq!(app.patience(), Some(GUEST_PATIENCE));
        second.submit(unlink(7)).unwrap();
        assert!(app.turn(0, &mut ops).is_busy());
        assert!(matches!(ops.pop_front(), Some((app, Op::Unlink { tag: 7, .. })) if app == id(2)));
        for (n, tag) in [(0, 10), (1, 11), (2, 12), (9, 19)] {
            app.event(0, id(n), attached(tag), &mut ops);
        }
        assert_eq!(app.main.0, [10, 19]);
        assert!(matches!(second.event(), Some(Event::Attached { tag: 12, .. })));
        assert!(second.event().is_none());
        drop(second);
        assert_eq!(app.there.load(Ordering::Relaxed), 0);
        assert_eq!(app.patience(), None);
        let first = seats[0].take();
        assert!(matches!(first.event(), Some(Event::Attached { tag: 11, .. })));
    }

    #[test]
    fn joined_applications_have_their_own_operations_and_events() {
        let id = |n| AppId::new(n).unwrap();
        let (handle, other) = rings(id(7), 4);
        let mut app = joined(Main(Vec::new()), other, [id(7), id(8)]);
        let mut ops = Ops::new();
        handle.submit(unlink(3)).unwrap();
        assert!(app.turn(0, &mut ops).is_busy());
        assert!(matches!(ops.pop_front(), Some((app, Op::Unlink { tag: 3, .. })) if app == id(7)));
        for n in [0, 7, 9] {
            app.event(0, id(n), Event::Attached { tag: n.into(), me: MeId(1) }, &mut ops);
        }
        assert_eq!(app.main.0, [0, 9]);
        assert!(matches!(handle.event(), Some(Event::Attached { tag: 7, .. })));
        assert_eq!(app.patience(), None);
    }

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

    /// A thread sleeps until there is an event, and hears of the end.
    #[test]
    fn a_thread_waits_for_events_until_its_shard_ends() {
        let (handle, mut app) = rings(AppId::FIRST, 1);
        let long = Duration::from_secs(60);
        assert!(handle.wait(Duration::ZERO).is_none() && !handle.ended());
        let heard = std::thread::spawn(move || {
            let tags: Vec<u64> = std::iter::from_fn(|| handle.wait(long))
                .map(|ev| match ev {
                    Event::Attached { tag, .. } => tag,
                    other => panic!("{other:?}"),
                })
                .collect();
            (tags, handle.ended())
        });
        // The second waits for room in the ring, and rings when it has it.
        let mut ops = Ops::new();
        (0..2).for_each(|tag| app.event(0, AppId::FIRST, Event::Attached { tag, me: MeId(1) }, &mut ops));
        while !app.served.backlog.is_empty() {
            app.turn(0, &mut ops);
            std::thread::yield_now();
        }
        drop(app);
        assert_eq!(heard.join().unwrap(), (vec![0, 1], true));
    }
}
