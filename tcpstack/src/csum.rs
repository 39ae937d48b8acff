//! The Internet checksum (RFC 1071), over pieces of any length.

use crate::addr::Addr;

/// A running ones' complement sum. Pieces may have odd lengths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    acc: u64,
    odd: bool,
}

impl Sum {
    /// A sum that already holds `n` 16-bit words' worth of `acc`.
    pub fn from_acc(acc: u64) -> Sum {
        Sum { acc, odd: false }
    }

    /// Adds bytes as they follow those added before.
    pub fn add(&mut self, b: &[u8]) {
        let mut b = b;
        if self.odd {
            let Some((first, rest)) = b.split_first() else { return };
            self.acc += u64::from(*first);
            self.odd = false;
            b = rest;
        }
        let (words, rest) = b.as_chunks::<8>();
        let (mut lo, mut hi) = (0u64, 0u64);
        // 32-bit halves of 64-bit words cannot overflow 64-bit sums within a packet; order of bytes inside a
        // word is fixed by from_be_bytes.
        for w in words {
            let w = u64::from_be_bytes(*w);
            hi += w >> 32;
            lo += w & 0xffff_ffff;
        }
        self.acc += fold32(lo) + fold32(hi);
        let (pairs, rest) = rest.as_chunks::<2>();
        for w in pairs {
            self.acc += u64::from(u16::from_be_bytes(*w));
        }
        if let [last] = rest {
            self.acc += u64::from(*last) << 8;
            self.odd = true;
        }
    }

    /// The sum, folded, not inverted: what a pseudo-header seed is.
    pub fn folded(self) -> u16 {
        let mut a = fold32(self.acc);
        while a > 0xffff {
            a = (a & 0xffff) + (a >> 16);
        }
        a as u16
    }

    /// The checksum field: the folded sum inverted.
    pub fn finish(self) -> u16 {
        !self.folded()
    }
}

fn fold32(a: u64) -> u64 {
    let a = (a & 0xffff_ffff) + (a >> 32);
    (a & 0xffff) + (a >> 16)
}

/// Sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1) of protocol `proto`; `len` is the upper layer's header
/// and payload in bytes, or 0 where the device adds it.
///
/// One formula serves both families: what a mapped IPv4 address has before its four bytes is 0xffff, the other
/// name of zero in ones' complement.
pub fn pseudo(src: &Addr, dst: &Addr, proto: u8, len: usize) -> Sum {
    let mut s = Sum::default();
    s.add(&src.0);
    s.add(&dst.0);
    s.acc += u64::from(proto) + len as u64;
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(b: &[u8]) -> u16 {
        let mut a = 0u64;
        for w in b.chunks(2) {
            a += u64::from(w[0]) << 8 | u64::from(*w.get(1).unwrap_or(&0));
        }
        while a > 0xffff {
            a = (a & 0xffff) + (a >> 16);
        }
        !(a as u16)
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let mut s = Sum::default();
        s.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(s.folded(), 0xddf2);
    }

    #[test]
    fn pieces_of_any_length_sum_as_the_whole() {
        let data: Vec<u8> = (0..1000u32).map(|i| ((i * 7919) >> 3) as u8).collect();
        for cuts in [[1, 2, 3], [7, 8, 9], [333, 334, 335], [1, 500, 999]] {
            let mut s = Sum::default();
            let mut at = 0;
            for c in cuts {
                s.add(&data[at..c]);
                s.add(&[]);
                at = c;
            }
            s.add(&data[at..]);
            assert_eq!(s.finish(), naive(&data));
        }
        let mut s = Sum::default();
        s.add(&vec![0xff; 65_535]);
        assert_eq!(s.finish(), naive(&vec![0xff; 65_535]));
    }
}
