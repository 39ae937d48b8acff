//! Primitives that threads share, by the names under which a model replaces it (docs/testing.md).

pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};
pub(crate) use std::sync::{Condvar, Mutex};

pub(crate) use crossbeam_queue::ArrayQueue;
