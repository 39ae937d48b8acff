//! Model of a queue's gate: an lcore that polls and a control thread that stops the port never touch the queue at the
//! same time. loom sees the accesses.

#[path = "../src/dpdk/gate.rs"]
#[allow(dead_code, unreachable_pub)]
mod gate;
#[path = "../../hugepages/tests/model/mod.rs"]
mod model;

use std::sync::Arc;

use gate::{Gate, GateCell, GateEvent};
use loom::thread;

/// The names of the crate's `sync`.
mod sync {
    use std::sync::atomic::Ordering;

    pub(crate) use super::model::{Cell, every};

    /// loom's atomic byte: the table is applied to it as to the standard library's.
    #[derive(Debug)]
    pub(crate) struct AtomicU8(super::model::AtomicU8);

    impl fsm::AtomicByte for AtomicU8 {
        fn new(n: u8) -> AtomicU8 {
            AtomicU8(super::model::AtomicU8::new(n))
        }
        fn load(&self, order: Ordering) -> u8 {
            self.0.load(order)
        }
        fn compare_exchange(&self, current: u8, new: u8, done: Ordering, not: Ordering) -> Result<u8, u8> {
            self.0.compare_exchange(current, new, done, not)
        }
    }
}

/// A gate and the queue behind it.
struct Queue {
    gate: GateCell,
    touched: sync::Cell<u32>,
}

// SAFETY: the gate keeps the two threads apart, which is what the model is to show: loom stops at an access that it
// does not.
unsafe impl Sync for Queue {}
// SAFETY: a number, and an atomic.
unsafe impl Send for Queue {}

fn touch(q: &Queue) {
    q.touched.set(q.touched.get() + 1);
}

/// What an lcore does at a burst (`dataplane/src/dpdk/queue.rs`).
fn burst(q: &Queue) {
    if q.gate.running() {
        touch(q);
    } else if q.gate.state() == Gate::Asked {
        q.gate.on(GateEvent::Yield);
    }
}

/// The control thread stops and starts the port, or gives up: in either case it touches the queue only while nobody
/// polls it, and what it did is seen afterwards.
#[test]
fn nobody_touches_a_queue_that_another_does() {
    sync::every(3, || {
        let q = Arc::new(Queue { gate: GateCell::default(), touched: sync::Cell::new(0) });
        q.gate.on(GateEvent::Built);
        q.gate.on(GateEvent::Resume);
        let lcore = {
            let q = q.clone();
            thread::spawn(move || {
                (0..3).for_each(|_| burst(&q));
                q.gate.on(GateEvent::Dropped);
            })
        };
        q.gate.on(GateEvent::Ask);
        for _ in 0..2 {
            if q.gate.quiet() {
                touch(&q);
                break;
            }
            thread::yield_now();
        }
        // Whether it had its way or not.
        q.gate.on(GateEvent::Resume);
        lcore.join().unwrap();
        assert!(q.gate.quiet());
        touch(&q);
    });
}

/// An lcore that takes its queue while the port is being stopped waits for the start.
#[test]
fn a_queue_taken_meanwhile_is_parked() {
    sync::every(3, || {
        let q = Arc::new(Queue { gate: GateCell::default(), touched: sync::Cell::new(0) });
        let lcore = {
            let q = q.clone();
            thread::spawn(move || {
                q.gate.on(GateEvent::Built);
                (0..2).for_each(|_| burst(&q));
                q.gate.on(GateEvent::Yield);
                q.gate.on(GateEvent::Dropped);
            })
        };
        q.gate.on(GateEvent::Ask);
        if q.gate.quiet() {
            touch(&q);
        }
        q.gate.on(GateEvent::Resume);
        lcore.join().unwrap();
        assert!(q.gate.quiet());
        touch(&q);
    });
}
