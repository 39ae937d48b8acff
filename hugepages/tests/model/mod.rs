//! What models put in the place of a crate's `sync`, and how far they look.
//!
//! A model compiles a source file of a crate once more, under loom's atomics: every order in which its threads can run,
//! and every value that a load may give, is tried. Nothing of this is in a normal build.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each model uses its own part")]

use std::collections::VecDeque;
use std::sync::OnceLock;

pub use loom::cell::Cell;
pub use loom::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
pub use loom::sync::{Condvar, Mutex};
pub use loom::thread;

/// loom's types are larger than what they stand for.
pub const SLOT_MAX: usize = 4096;

/// A bounded queue of many producers and consumers, as crossbeam's is seen from outside: each call is one step.
#[derive(Debug)]
pub struct ArrayQueue<T> {
    queue: loom::sync::Mutex<VecDeque<T>>,
    capacity: usize,
}

impl<T> ArrayQueue<T> {
    pub fn new(capacity: usize) -> ArrayQueue<T> {
        ArrayQueue { queue: loom::sync::Mutex::new(VecDeque::new()), capacity }
    }

    pub fn push(&self, v: T) -> Result<(), T> {
        let mut q = self.queue.lock().unwrap();
        if q.len() >= self.capacity {
            return Err(v);
        }
        q.push_back(v);
        Ok(())
    }

    pub fn pop(&self) -> Option<T> {
        self.queue.lock().unwrap().pop_front()
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> usize {
        self.queue.lock().unwrap().len()
    }
}

/// Tries every execution with at most `switches` forced changes of thread; `make soak` adds one.
pub fn every(switches: usize, f: impl Fn() + Sync + Send + 'static) {
    static DEEPER: OnceLock<usize> = OnceLock::new();
    let deeper = *DEEPER.get_or_init(|| usize::from(std::env::var_os("SOAK_SECONDS").is_some()));
    let mut b = loom::model::Builder::new();
    b.preemption_bound = Some(switches + deeper);
    b.check(f);
}
