//! Hashes. Keys that the node itself makes (connections, lends, handles, dials) cost few instructions a word: nobody can
//! aim at their buckets. Keys that peers choose or suggest (match bits; NIDs and pids, which are looked up for each message) are mixed with
//! secret words. Others, which are looked up now and then, keep the standard library's hash.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A map by a key of the node's own.
pub(crate) type OwnMap<K, V> = rustc_hash::FxHashMap<K, V>;

/// A map by a key that peers choose, with secret words of its own.
pub(crate) type PeerMap<K, V> = HashMap<K, V, Secret>;

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

impl Default for Secret {
    fn default() -> Secret {
        Secret::draw()
    }
}

impl BuildHasher for Secret {
    type Hasher = Keyed;

    #[inline]
    fn build_hasher(&self) -> Keyed {
        Keyed { secret: *self, so_far: 0 }
    }
}

/// A hash of many words with secret ones.
#[derive(Debug)]
pub(crate) struct Keyed {
    secret: Secret,
    so_far: u64,
}

impl Hasher for Keyed {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|w| self.write_u64(u64::from_le_bytes(*w)));
        if !rest.is_empty() {
            let last = rest.iter().rev().fold(0, |word, b| word << 8 | u64::from(*b));
            self.write_u64(last);
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.so_far = self.secret.hash(word, self.so_far);
    }

    #[inline]
    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    #[inline]
    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    #[inline]
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.so_far
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::wire::{Nid, ProcessId};

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

    /// NIDs of a network's machines, of its networks, and of both families: places as by chance, in the low bits and in the high ones.
    #[test]
    fn nids_spread() {
        const DRAWN: u32 = 64;
        let v4 = |n: u32| Nid::tcp(IpAddr::from((0x0a00_0000 | n).to_be_bytes()), 0);
        let far = |n: u32| Nid::tcp(IpAddr::from((n << 22 | 1).to_be_bytes()), 0);
        let net = |n: u32| Nid::tcp(IpAddr::from([10, 0, 0, 1]), n as u16);
        let v6 = |n: u32| Nid::tcp(IpAddr::from((0xfd00 << 112 | u128::from(n)).to_be_bytes()), 0);
        let prefix = |n: u32| Nid::tcp(IpAddr::from((0xfd00 << 112 | u128::from(n) << 64).to_be_bytes()), 0);
        let kinds: [&dyn Fn(u32) -> Nid; 5] = [&v4, &far, &net, &v6, &prefix];
        for (kind, shift) in (0..).zip(kinds).flat_map(|k| [(k, 0), (k, 54)]) {
            let fullest = |secret: Secret| {
                let mut places = [0u32; 1024];
                for n in 0..1024 {
                    let hash = secret.hash_one(ProcessId::lustre(kind.1(n)));
                    places[(hash >> shift & 1023) as usize] += 1;
                }
                places.into_iter().max().unwrap_or_default()
            };
            let sum: u32 = (0..DRAWN).map(|_| fullest(Secret::draw())).sum();
            assert!(sum < 12 * DRAWN, "{} >> {shift}: {sum}", kind.0);
        }
    }
}
