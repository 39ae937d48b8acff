//! Hashes. Keys that the node itself makes (connections, lends, handles, dials) cost few instructions a word: nobody can
//! aim at their buckets. Match bits are the own applications' choice, too, but often one that peers know or suggest:
//! they are mixed with secret words. Other keys that peers choose (NIDs and pids, addresses) keep the
//! standard library's hash.

use std::hash::{BuildHasher, RandomState};

/// A map by a key of the node's own.
pub(crate) type OwnMap<K, V> = rustc_hash::FxHashMap<K, V>;

/// Secret words, drawn anew for each use, that decide about the places of keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secret(u64, u64);

impl Secret {
    /// Words that nobody knows.
    pub(crate) fn draw() -> Secret {
        let words = RandomState::new();
        // An even factor would lose a bit.
        Secret(words.hash_one(0u8), words.hash_one(1u8) | 1)
    }

    /// A hash of two words: both halves of a product, so that each bit of the key counts in all of it.
    #[inline]
    pub(crate) fn hash(self, a: u64, b: u64) -> u64 {
        let whole = u128::from(a ^ self.0 ^ b.rotate_left(32)) * u128::from(self.1);
        (whole as u64) ^ (whole >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys that differ in some bits only, high, low or spread, share places little more than by chance: of 1024 keys in as many places 5
    /// or 6 in the fullest. One pair of words in a thousand has 40 there, so many pairs are drawn.
    #[test]
    fn patterns_spread() {
        const DRAWN: u32 = 64;
        for shift in [0, 8, 20, 32, 48, 54] {
            let fullest = |secret: Secret| {
                let mut places = [0u32; 1024];
                for i in 0..1024u64 {
                    places[(secret.hash(i << shift, 52) & 1023) as usize] += 1;
                }
                places.into_iter().max().unwrap_or_default()
            };
            let sum: u32 = (0..DRAWN).map(|_| fullest(Secret::draw())).sum();
            assert!(sum < 12 * DRAWN, "{shift}: {sum}");
        }
    }
}
