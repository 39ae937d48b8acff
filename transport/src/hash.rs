//! The hash of keys that the node itself makes (connections, lends, handles, dials): nobody can aim at its buckets, and
//! it costs few instructions a word. Keys that peers choose (NIDs and pids, addresses, match bits) keep the standard
//! library's, whose secret nobody knows.

/// A map by a key of the node's own.
pub(crate) type OwnMap<K, V> = rustc_hash::FxHashMap<K, V>;
