//! Initial sequence numbers (RFC 6528): a clock of 4 µs plus a keyed hash of the connection's addresses.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};

use crate::seq::Seq;
use crate::table::Key;

/// The secret behind a stack's sequence numbers and hash tables.
#[derive(Clone, Copy)]
pub struct Secret(pub [u64; 2]);

impl Secret {
    /// A secret from the system's random numbers.
    pub fn random() -> Secret {
        let one = |n| {
            let mut h = RandomState::new().build_hasher();
            h.write_u64(n);
            h.finish()
        };
        Secret([one(1), one(2)])
    }

    /// Initial sequence number of connection `k` at time `now` (ns).
    pub fn isn(self, k: &Key, now: u64) -> Seq {
        Seq((self.hash(k) as u32).wrapping_add((now / 4000) as u32))
    }

    /// Offset of connection `k` from the clock in its timestamps (RFC 7323 §5.4, §7.1).
    pub fn stamp_offset(self, k: &Key) -> u32 {
        // The other half of the hash: neither number tells of the other.
        (self.hash(k) >> 32) as u32
    }

    fn hash(self, k: &Key) -> u64 {
        let mut h = DefaultHasher::new();
        h.write_u64(self.0[0]);
        h.write_u64(self.0[1]);
        k.hash(&mut h);
        h.finish()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_with_time_and_differ_by_connection_and_secret() {
        let s = Secret([1, 2]);
        let a = Key::v4(1, 0, 2, 3);
        let b = Key { ports: 4, ..a };
        assert_eq!(s.isn(&a, 4_000_000).since(s.isn(&a, 0)), 1000);
        assert_ne!(s.isn(&a, 0), s.isn(&b, 0));
        assert_ne!(s.isn(&a, 0), Secret([1, 3]).isn(&a, 0));
        assert_ne!(s.stamp_offset(&a), s.stamp_offset(&b));
        assert_ne!(s.stamp_offset(&a), Secret([1, 3]).stamp_offset(&a));
        assert_ne!(Secret::random().0, Secret::random().0);
        assert_eq!(format!("{s:?}"), "Secret(..)");
    }
}
