//! A hash for keys that the node itself makes (connections, handles, dials): nobody can aim at its buckets, and it
//! costs two instructions a word. Keys that come off the wire use the standard library's.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by a key of the node's own.
pub(super) type OwnMap<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// Multiplies and folds each word.
#[derive(Default)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }

    fn write_u16(&mut self, v: u16) {
        self.write_u64(u64::from(v));
    }

    fn write_u32(&mut self, v: u32) {
        self.write_u64(u64::from(v));
    }

    fn write_u64(&mut self, v: u64) {
        self.0 = (self.0.rotate_left(5) ^ v).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    #[test]
    fn neighbouring_keys_spread() {
        let b = BuildHasherDefault::<Mix>::default();
        // The map uses the low bits for the bucket and the top seven beside it.
        let low: HashSet<u64> = (0..4096u64).map(|k| b.hash_one(k) & 0xfff).collect();
        let top: HashSet<u64> = (0..4096u64).map(|k| b.hash_one(k) >> 57).collect();
        assert!(low.len() > 2000 && top.len() == 128, "{} {}", low.len(), top.len());
    }
}
