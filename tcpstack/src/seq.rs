//! Sequence numbers (RFC 9293 §3.4) and the 64-bit stream offsets that the rest of the crate counts in.
//!
//! Offset 0 is the first byte of a direction; the SYN lies before it, the FIN takes one place after the last byte.

use std::fmt;

/// A TCP sequence number. Compared modulo 2^32.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// The number `n` further on (modulo 2^32; only the low 32 bits of `n` count).
    #[inline]
    pub fn plus(self, n: u64) -> Seq {
        Seq(self.0.wrapping_add(n as u32))
    }

    /// Signed distance from `base` to `self`: positive when `self` is later.
    #[inline]
    pub fn since(self, base: Seq) -> i32 {
        self.0.wrapping_sub(base.0) as i32
    }

    /// Whether `self` is later than `other`.
    #[inline]
    pub fn after(self, other: Seq) -> bool {
        self.since(other) > 0
    }

    /// The later of the two.
    pub fn max(self, other: Seq) -> Seq {
        if other.after(self) { other } else { self }
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Stream offset of `seq`, given that `base_seq` is the number of offset `base`. May be negative for a number
/// before the stream's first byte.
#[inline]
pub fn offset_of(seq: Seq, base_seq: Seq, base: u64) -> i64 {
    base as i64 + i64::from(seq.since(base_seq))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_holds_across_the_wrap() {
        let a = Seq(u32::MAX - 1);
        let b = a.plus(4);
        assert_eq!(b, Seq(2));
        assert!(b.after(a) && !a.after(b) && !a.after(a));
        assert_eq!((b.since(a), a.since(b)), (4, -4));
        assert_eq!((a.max(b), b.max(a)), (b, b));
        assert_eq!(format!("{b:?}"), "#2");
    }

    #[test]
    fn offsets_run_past_4_gib() {
        let base = (5u64 << 32) + 10;
        assert_eq!(offset_of(Seq(110), Seq(10), base), base as i64 + 100);
        assert_eq!(offset_of(Seq(u32::MAX), Seq(10), base), base as i64 - 11);
        assert_eq!(offset_of(Seq(9), Seq(10), 0), -1);
    }
}
