//! What threads share, by the names under which a model replaces it (docs/testing.md).

pub(crate) use std::sync::atomic::AtomicU8;
