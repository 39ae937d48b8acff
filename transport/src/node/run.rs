//! Turning shards: idling, draining, and what happens when one panics.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use dataplane::pkt::Nap;

use super::app::App;
use super::counters::StreamCounters;
use super::idle::IdlePolicy;
use super::inspect::Inspect;
use super::shard::Shard;
use super::streams::{Streams, Work};
use crate::lnd::Counters;

/// End of a node.
#[derive(Clone, Debug)]
pub struct NodeEnd {
    /// Protocol.
    pub proto: Counters,
    /// Streams and buffers.
    pub streams: StreamCounters,
    /// Whether it went down in order: no connection, no lend left.
    pub clean: bool,
    /// Gauges that keep it from that, by name, and how much each has.
    pub left: Vec<(&'static str, u64)>,
}

/// A shard whose types are forgotten.
pub trait Turn {
    /// See [`Shard::turn`].
    fn turn(&mut self) -> Work;
    /// See [`Shard::shut_down`].
    fn shut_down(&mut self);
    /// See [`Shard::is_down`].
    fn is_down(&self) -> bool;
    /// Waits for something to arrive, where streams can be waited for; else for `nap`.
    fn wait(&mut self, nap: Option<Nap>);
    /// Tells peers that it is over: nothing else is called after this.
    fn fail(&mut self);
    /// Counts.
    fn end(&self) -> NodeEnd;
}

impl<S: Streams + Inspect, A: App> Turn for Shard<S, A> {
    fn turn(&mut self) -> Work {
        Shard::turn(self)
    }
    fn shut_down(&mut self) {
        Shard::shut_down(self);
    }
    fn is_down(&self) -> bool {
        Shard::is_down(self)
    }
    fn wait(&mut self, nap: Option<Nap>) {
        Shard::wait(self, nap);
    }
    fn fail(&mut self) {
        self.abort_all();
    }
    fn end(&self) -> NodeEnd {
        NodeEnd {
            proto: self.machine.tally(),
            streams: self.counters(),
            clean: Shard::is_down(self),
            left: self.left(),
        }
    }
}

/// Order to the polling threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    /// Run.
    Run = 0,
    /// Go down in order, within the deadline.
    Drain = 1,
    /// Go at once.
    Leave = 2,
}

/// Between a controlling thread and its polling threads.
#[derive(Debug, Default)]
pub struct Control {
    order: AtomicU8,
    /// Turns that found nothing to do.
    pub idle_turns: AtomicU64,
    /// Turns that did something.
    pub busy_turns: AtomicU64,
    /// Shards that panicked.
    pub panics: AtomicU32,
    /// Counts of each polling thread's nodes, as of some moments ago.
    published: Mutex<HashMap<ThreadId, Vec<NodeEnd>>>,
}

impl Control {
    /// Gives an order; orders only grow.
    pub fn give(&self, o: Order) {
        self.order.fetch_max(o as u8, Ordering::AcqRel);
    }

    /// Counters of all nodes, as of at most a second ago, summed: for telemetry. Any thread may ask.
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum: Vec<(&'static str, u64)> = Vec::new();
        let mut add = |k, v| match sum.iter_mut().find(|e| e.0 == k) {
            Some(e) => e.1 += v,
            None => sum.push((k, v)),
        };
        for end in published.values().flatten() {
            end.proto.iter().chain(end.streams.iter()).for_each(|(k, v)| add(k, v));
        }
        add("idle_turns", self.idle_turns.load(Ordering::Relaxed));
        add("busy_turns", self.busy_turns.load(Ordering::Relaxed));
        sum
    }

    /// Leaves the counts where [`Control::snapshot`] finds them. Skipped while somebody reads.
    fn publish(&self, nodes: &[Option<Box<dyn Turn>>]) {
        if let Ok(mut p) = self.published.try_lock() {
            let mine = p.entry(std::thread::current().id()).or_default();
            mine.clear();
            mine.extend(nodes.iter().flatten().map(|n| n.end()));
        }
    }

    /// The order in force.
    pub fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Run,
            1 => Order::Drain,
            _ => Order::Leave,
        }
    }
}

/// Longest time for which a node that is down goes on receiving.
const SETTLE: Duration = Duration::from_millis(200);

/// Interval at which a polling thread publishes its counters.
const PUBLISH: Duration = Duration::from_millis(500);

/// Time limit for nodes to go down in order.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Turns `nodes` on this thread until told to stop. A panic in a turn is contained: that node is not touched
/// again, the others drain, and [`Control::panics`] counts it. `None` stands for a node that panicked.
pub fn run(nodes: Vec<Box<dyn Turn>>, ctl: &Control, idle: IdlePolicy) -> Vec<Option<NodeEnd>> {
    run_within(nodes, ctl, idle, DRAIN)
}

fn run_within(
    nodes: Vec<Box<dyn Turn>>,
    ctl: &Control,
    idle: IdlePolicy,
    drain: Duration,
) -> Vec<Option<NodeEnd>> {
    let mut nodes: Vec<Option<Box<dyn Turn>>> = nodes.into_iter().map(Some).collect();
    let mut drain_until: Option<Instant> = None;
    let mut down_since: Option<Instant> = None;
    let mut quiet = 0_u32;
    let mut turns = [0_u64; 2];
    let mut last_look = Instant::now();
    loop {
        let mut work = Work::Idle;
        for slot in &mut nodes {
            work = work.and(contained(slot, ctl, Work::Idle, |n| n.turn()));
        }
        turns[usize::from(work.is_busy())] += 1;
        if (turns[0] + turns[1]).is_multiple_of(1024) || quiet > idle.nap_after {
            ctl.idle_turns.fetch_add(std::mem::take(&mut turns[0]), Ordering::Relaxed);
            ctl.busy_turns.fetch_add(std::mem::take(&mut turns[1]), Ordering::Relaxed);
            if last_look.elapsed() >= PUBLISH {
                last_look = Instant::now();
                ctl.publish(&nodes);
            }
        }
        let order = ctl.order();
        if order >= Order::Drain && drain_until.is_none() {
            drain_until = Some(Instant::now() + drain);
            nodes.iter_mut().for_each(|s| contained(s, ctl, (), |n| n.shut_down()));
        }
        if work.is_busy() {
            quiet = 0;
        } else {
            quiet = quiet.saturating_add(1);
        }
        if let Some(t) = drain_until {
            let now = Instant::now();
            let down = nodes.iter().flatten().all(|n| n.is_down());
            // A port that never falls silent must not keep a node that is down from going.
            let settled = *down_since.get_or_insert(now) + SETTLE < now;
            if !down {
                down_since = None;
            }
            if order == Order::Leave || now > t || (down && (settled || !work.is_busy())) {
                if !down && order != Order::Leave {
                    tell_what_is_left(&nodes, drain);
                }
                break;
            }
        }
        if !work.is_busy() {
            let nap = idle.nap(quiet).filter(|_| nodes.len() == 1);
            if let [only] = &mut nodes[..] {
                contained(only, ctl, (), |n| n.wait(nap));
            }
            if nap.is_none() {
                idle.pass(quiet);
            }
        }
    }
    // A last look: what came home with the last turn is counted as home.
    for slot in &mut nodes {
        contained(slot, ctl, (), |n| {
            n.turn();
        });
    }
    nodes.iter().map(|s| s.as_ref().map(|n| n.end())).collect()
}

/// Says what keeps nodes from going down.
fn tell_what_is_left(nodes: &[Option<Box<dyn Turn>>], drain: Duration) {
    for (i, end) in nodes.iter().enumerate().filter_map(|(i, n)| Some((i, n.as_ref()?.end()))) {
        if !end.clean {
            let limit = drain.as_secs();
            tracing::error!(node = i, "not down in order within {limit} s: {} left", in_words(&end.left));
        }
    }
}

/// Gauges and how much each has, as one line.
pub fn in_words(left: &[(&'static str, u64)]) -> String {
    let all: Vec<String> = left.iter().map(|(name, n)| format!("{name} {n}")).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}

fn contained<T>(
    slot: &mut Option<Box<dyn Turn>>,
    ctl: &Control,
    otherwise: T,
    f: impl FnOnce(&mut dyn Turn) -> T,
) -> T {
    let Some(node) = slot else { return otherwise };
    match catch_unwind(AssertUnwindSafe(|| f(&mut **node))) {
        Ok(r) => r,
        Err(_) => {
            ctl.panics.fetch_add(1, Ordering::AcqRel);
            ctl.give(Order::Drain);
            // Never turned again. Its peers are told, so that they need not time out; dropping it hands its queue
            // back, so that the port can be stopped in order.
            let mut node = slot.take();
            let told = catch_unwind(AssertUnwindSafe(|| node.iter_mut().for_each(|n| n.fail())));
            let dropped = catch_unwind(AssertUnwindSafe(|| drop(node)));
            if told.is_err() || dropped.is_err() {
                tracing::error!("a node that panicked did so again while it was taken down");
            }
            otherwise
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        static DROPPED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
        static FAILED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            DROPPED.set(DROPPED.get() + 1);
            assert!(self.panic_at != 4, "while it is dropped, too");
        }
    }

    struct Fake {
        turns: u32,
        panic_at: u32,
        down: bool,
        busy: bool,
        /// Does not go down.
        deaf: bool,
    }

    impl Turn for Fake {
        fn turn(&mut self) -> Work {
            self.turns += 1;
            assert!(self.turns != self.panic_at, "as planned");
            if self.busy { Work::Busy(1) } else { Work::Idle }
        }
        fn shut_down(&mut self) {
            self.down = !self.deaf;
        }
        fn is_down(&self) -> bool {
            self.down
        }
        fn wait(&mut self, _: Option<Nap>) {}
        fn fail(&mut self) {
            FAILED.set(FAILED.get() + 1);
            assert!(self.panic_at != 1, "while its peers are told, too");
        }
        fn end(&self) -> NodeEnd {
            let left = if self.down { Vec::new() } else { vec![("conns", 2), ("lends", 1)] };
            NodeEnd { proto: Counters::default(), streams: StreamCounters::default(), clean: self.down, left }
        }
    }

    fn fake(panic_at: u32) -> Box<dyn Turn> {
        Box::new(Fake { turns: 0, panic_at, down: false, busy: false, deaf: false })
    }

    const IDLE: IdlePolicy = IdlePolicy::spins(0, 0);

    #[test]
    fn a_panic_takes_down_its_own_node_and_the_others_drain() {
        let ctl = Control::default();
        let ends = run(vec![fake(3), fake(0)], &ctl, IDLE);
        assert!(ends[0].is_none());
        assert!(ends[1].as_ref().unwrap().clean);
        assert_eq!(ctl.panics.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_node_that_is_always_busy_has_no_longer_to_drain_than_others() {
        let ctl = Control::default();
        ctl.give(Order::Drain);
        let busy = Box::new(Fake { turns: 0, panic_at: 0, down: false, busy: true, deaf: false });
        assert_eq!(run_within(vec![busy], &ctl, IDLE, Duration::from_millis(5)).len(), 1);
    }

    #[test]
    fn a_node_that_panicked_gives_back_what_it_holds_even_if_it_panics_again() {
        let ctl = Control::default();
        let before = (DROPPED.get(), FAILED.get());
        let ends = run(vec![fake(3), fake(4), fake(0)], &ctl, IDLE);
        assert!(ends[0].is_none() && ends[1].is_none() && ends[2].is_some());
        assert_eq!((DROPPED.get() - before.0, FAILED.get() - before.1), (3, 2));
        let ends = run(vec![fake(1), fake(0)], &ctl, IDLE);
        assert!(ends[0].is_none() && ends[1].is_some());
        assert_eq!((DROPPED.get() - before.0, FAILED.get() - before.1), (5, 3));
        assert_eq!(ctl.panics.load(Ordering::Relaxed), 3);
    }

    /// Field report 3: what keeps a node from going down has a name and a number.
    #[test]
    fn what_is_left_is_named() {
        let ctl = Control::default();
        ctl.give(Order::Leave);
        let stuck = Box::new(Fake { turns: 0, panic_at: 0, down: false, busy: false, deaf: true });
        let ends = run(vec![stuck], &ctl, IDLE);
        let end = ends[0].as_ref().unwrap();
        assert_eq!((end.clean, in_words(&end.left).as_str()), (false, "conns 2, lends 1"));
        assert_eq!(in_words(&[]), "nothing");
    }

    #[test]
    fn orders_only_grow() {
        let ctl = Control::default();
        ctl.give(Order::Leave);
        ctl.give(Order::Drain);
        assert_eq!(ctl.order(), Order::Leave);
        assert_eq!(run(vec![fake(0)], &ctl, IDLE).len(), 1);
    }
}
