//! What the fuzz targets share: bytes read as decisions, and how long to go on.
#![allow(dead_code, unreachable_pub)]

use std::time::Duration;

use dataplane::fault::Rng;

/// How long one target looks for new inputs in `make test`; `make fuzz` says longer by BOLERO_RANDOM_TEST_TIME_MS.
pub const TIME: Duration = Duration::from_secs(8);
/// Longest input that is found at random, in bytes, and most bytes that follow from it.
pub const LEN: usize = 256;
const TAIL: u64 = 1500;

/// An input, read from the front. One of 8 bytes or more goes on for a while with bytes that follow from it: long
/// sequences need no long inputs. Behind all that are zeros.
pub struct Bytes<'a> {
    front: &'a [u8],
    tail: Rng,
    left: u64,
}

impl Bytes<'_> {
    pub fn new(input: &[u8]) -> Bytes<'_> {
        let seed = input
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
        let mut tail = Rng::new(seed);
        let left = if input.len() < 8 { 0 } else { tail.below(TAIL) };
        Bytes { front: input, tail, left }
    }

    pub fn done(&self) -> bool {
        self.front.is_empty() && self.left == 0
    }

    pub fn u8(&mut self) -> u8 {
        if let Some((x, rest)) = self.front.split_first() {
            self.front = rest;
            return *x;
        }
        if self.left == 0 {
            return 0;
        }
        self.left -= 1;
        self.tail.next_u64() as u8
    }

    /// What is left, at most `max` bytes of it.
    pub fn rest(&mut self, max: usize) -> Vec<u8> {
        let mut v = vec![];
        while v.len() < max && !self.done() {
            v.push(self.u8());
        }
        v
    }

    pub fn u16(&mut self) -> u16 {
        u16::from(self.u8()) << 8 | u16::from(self.u8())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    /// From 0 up to, not including, `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        let x = if n <= 256 { u64::from(self.u8()) } else { u64::from(self.u32()) };
        x % n.max(1)
    }

    pub fn chance(&mut self) -> bool {
        self.u8() & 1 == 1
    }
}
