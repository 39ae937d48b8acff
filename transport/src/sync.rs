//! Primitives that threads share, by the names under which a model replaces it (docs/testing.md).

pub(crate) use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use crossbeam_queue::ArrayQueue;
