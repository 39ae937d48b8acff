//! Shared types of threads, by the names under which a model replaces them: the tests `model_*` compile sources of this crate
//! once more, with a `sync` of their own (docs/testing.md).

pub(crate) use std::cell::Cell;
pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU16, AtomicU64, Ordering, fence};

pub(crate) use crossbeam_queue::ArrayQueue;

/// Bytes of a lending's slot at most: two cache lines.
pub(crate) const SLOT_MAX: usize = 128;
