//! Shared types of threads, by the names under which a model replaces them (docs/testing.md).

pub(crate) use std::sync::atomic::AtomicU8;
