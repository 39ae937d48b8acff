//! TCP options (RFC 9293 §3.1): parsed from every segment, and written into ours.
//!
//! | kind | length | what | where |
//! |---|---|---|---|
//! | 2 | 4 | MSS, in bytes | SYN |
//! | 3 | 3 | window scale (RFC 7323 §2.2), at most 14 | SYN |
//! | 4 | 2 | SACK permitted (RFC 2018 §2) | SYN |
//! | 5 | 2 + 8n | n SACK blocks (RFC 2018 §3), at most 4 | ACKs |
//! | 8 | 10 | timestamps (RFC 7323 §3.2) | everywhere once both SYNs had it |
//!
//! All numbers are big-endian. Nothing here allocates or can panic on any input.

use std::fmt;
use std::ops::Deref;

use arrayvec::ArrayVec;

use crate::seq::Seq;

/// Most bytes of options in a TCP header.
pub const OPTS_MAX: usize = 40;
/// Most SACK blocks in one segment: more do not fit into [`OPTS_MAX`] bytes.
pub const SACK_MAX: usize = 4;
/// Bytes that timestamps take in each segment, padding included (RFC 7323 appendix A).
pub const TS_LEN: u16 = 12;
/// Largest window scale (RFC 7323 §2.3).
pub const SCALE_MAX: u8 = 14;

/// The timestamps option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ts {
    /// TSval: the sender's clock.
    pub val: u32,
    /// TSecr: what the sender last took over from us; means nothing without an ACK.
    pub ecr: u32,
}

/// A SACK block as it stands in the option: bytes from `left` up to, not including, `right`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct SackBlock {
    /// First number of the block.
    pub left: Seq,
    /// One past its last number.
    pub right: Seq,
}

impl fmt::Debug for SackBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}..{:?}", self.left, self.right)
    }
}

/// Options of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Opts {
    /// MSS, in bytes; never 0.
    pub mss: Option<u16>,
    /// Window scale, at most 14.
    pub scale: Option<u8>,
    /// SACK may be sent to this peer.
    pub sack_permitted: bool,
    /// Timestamps.
    pub ts: Option<Ts>,
    /// SACK blocks in the order of the option, unchecked.
    pub sack: ArrayVec<SackBlock, SACK_MAX>,
}

fn be32(b: &[u8]) -> u32 {
    b.iter().take(4).fold(0, |n, b| n << 8 | u32::from(*b))
}

impl Opts {
    /// Reads the bytes between the fixed header and the payload. Unknown options are skipped, and so are known
    /// ones of a wrong length; a length below 2 or beyond the header ends the list (RFC 9293 §3.1, MUST-7).
    #[inline]
    pub fn parse(o: &[u8]) -> Opts {
        match o {
            [] => Opts::default(),
            // The layout of RFC 7323 appendix A, which is on nearly every segment.
            [1, 1, 8, 10, v0, v1, v2, v3, e0, e1, e2, e3] => Opts {
                ts: Some(Ts {
                    val: u32::from_be_bytes([*v0, *v1, *v2, *v3]),
                    ecr: u32::from_be_bytes([*e0, *e1, *e2, *e3]),
                }),
                ..Opts::default()
            },
            _ => Opts::parse_list(o),
        }
    }

    fn parse_list(mut o: &[u8]) -> Opts {
        let mut r = Opts::default();
        while let Some((&kind, rest)) = o.split_first() {
            match kind {
                0 => break,
                1 => o = rest,
                _ => {
                    let len = usize::from(rest.first().copied().unwrap_or(0));
                    let Some((option, tail)) = o.split_at_checked(len).filter(|_| len >= 2) else { break };
                    r.take(kind, option.get(2..).unwrap_or(&[]));
                    o = tail;
                }
            }
        }
        r
    }

    fn take(&mut self, kind: u8, body: &[u8]) {
        match (kind, body) {
            (2, &[a, b]) => self.mss = Some(u16::from_be_bytes([a, b])).filter(|m| *m != 0),
            (3, &[s]) => self.scale = Some(s.min(SCALE_MAX)),
            (4, []) => self.sack_permitted = true,
            (5, b) => {
                // The last option wins, as with all others.
                self.sack.clear();
                let blocks = b.as_chunks::<8>();
                if blocks.1.is_empty() {
                    let block = |c: &[u8; 8]| SackBlock { left: Seq(be32(c)), right: Seq(be32(&c[4..])) };
                    self.sack.extend(blocks.0.iter().take(SACK_MAX).map(block));
                }
            }
            (8, b) => {
                if let Ok(b) = <&[u8; 8]>::try_from(b) {
                    self.ts = Some(Ts { val: be32(b), ecr: be32(&b[4..]) });
                }
            }
            _ => (),
        }
    }
}

/// Options to be sent: whole 32-bit words.
#[derive(Clone, Copy)]
pub struct OptBytes {
    b: [u8; OPTS_MAX],
    n: u8,
}

impl OptBytes {
    /// No options.
    pub const NONE: OptBytes = OptBytes { b: [0; OPTS_MAX], n: 0 };

    /// A SYN's options: what is `None` or false stays away (RFC 7323 §2.2 and §3.2, RFC 2018 §2: an answer has
    /// only what was offered).
    pub fn syn(mss: u16, sack: bool, ts: Option<Ts>, scale: Option<u8>) -> OptBytes {
        let mut o = OptBytes::NONE;
        o.put(&[2, 4]);
        o.put(&mss.to_be_bytes());
        match (sack, ts) {
            // The two bytes of SACK permitted take the place of padding.
            (true, Some(t)) => {
                o.put(&[4, 2]);
                o.ts_body(t);
            }
            (true, None) => o.put(&[1, 1, 4, 2]),
            (false, Some(t)) => o.put_ts(t),
            (false, None) => (),
        }
        if let Some(s) = scale {
            o.put(&[1, 3, 3, s]);
        }
        o
    }

    /// Timestamps alone, if there are any.
    #[inline]
    pub fn plain(ts: Option<Ts>) -> OptBytes {
        let mut o = OptBytes::NONE;
        if let Some(t) = ts {
            o.put_ts(t);
        }
        o
    }

    /// Adds as many of the blocks as fit; returns how many.
    pub fn add_sack(&mut self, blocks: &[SackBlock]) -> usize {
        let room = (OPTS_MAX - usize::from(self.n)).saturating_sub(4) / 8;
        let k = blocks.len().min(room);
        if k > 0 {
            self.put(&[1, 1, 5, 2 + 8 * k as u8]);
            for b in blocks.iter().take(k) {
                self.put(&b.left.0.to_be_bytes());
                self.put(&b.right.0.to_be_bytes());
            }
        }
        k
    }

    #[inline]
    fn put_ts(&mut self, t: Ts) {
        self.put(&[1, 1]);
        self.ts_body(t);
    }

    #[inline]
    fn ts_body(&mut self, t: Ts) {
        self.put(&[8, 10]);
        self.put(&t.val.to_be_bytes());
        self.put(&t.ecr.to_be_bytes());
    }

    #[inline]
    fn put(&mut self, x: &[u8]) {
        let n = usize::from(self.n);
        if let Some(to) = self.b.get_mut(n..n + x.len()) {
            to.copy_from_slice(x);
            self.n += x.len() as u8;
        }
    }
}

impl Deref for OptBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.b.get(..usize::from(self.n)).unwrap_or(&[])
    }
}

impl fmt::Debug for OptBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Opts::parse(self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_options_of_a_syn() {
        let o = Opts::parse(&[2, 4, 5, 0xb4, 1, 3, 3, 7]);
        assert_eq!((o.mss, o.scale, o.sack_permitted, o.ts), (Some(1460), Some(7), false, None));
        // Linux: MSS, SACK permitted, timestamps, NOP, scale.
        let o = Opts::parse(&[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 200]);
        assert_eq!((o.mss, o.scale, o.sack_permitted), (Some(1460), Some(14), true));
        assert_eq!(o.ts, Some(Ts { val: 9, ecr: 0 }));
        assert_eq!(Opts::parse(&[2, 4, 0, 0]).mss, None);
    }

    #[test]
    fn a_malformed_option_ends_the_list_and_a_wrong_length_skips_one() {
        let none = Opts::default();
        assert_eq!(Opts::parse(&[2, 0, 2, 4, 5, 0xb4]), none);
        assert_eq!(Opts::parse(&[2, 1, 2, 4, 5, 0xb4]), none);
        assert_eq!(Opts::parse(&[3, 3]), none);
        assert_eq!(Opts::parse(&[8]), none);
        assert_eq!(Opts::parse(&[0, 2, 4, 5, 0xb4]), none);
        assert_eq!(Opts::parse(&[2, 4, 5, 0xb4, 8, 10, 1]).mss, Some(1460), "what came before stands");
        assert_eq!(Opts::parse(&[8, 4, 1, 1, 254, 3, 9, 2, 4, 5, 0xb4]).mss, Some(1460));
        assert_eq!(Opts::parse(&[5, 9, 0, 0, 0, 0, 0, 0, 0]).sack.len(), 0, "not whole blocks");
    }

    #[test]
    fn timestamps_in_the_usual_place_and_elsewhere() {
        let t = Some(Ts { val: 0x0102_0304, ecr: 0xfffe_fdfc });
        let b = [8, 10, 1, 2, 3, 4, 0xff, 0xfe, 0xfd, 0xfc];
        assert_eq!(Opts::parse(&[&[1, 1], &b[..]].concat()).ts, t);
        assert_eq!(Opts::parse(&[&b[..], &[1, 1]].concat()).ts, t);
        assert_eq!(Opts::parse(&[&b[..], &[0, 0]].concat()).ts, t);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let ts = Ts { val: 7, ecr: 8 };
        for (sack, t, scale, len) in [
            (true, Some(ts), Some(5), 20),
            (true, None, Some(5), 12),
            (false, Some(ts), None, 16),
            (false, None, None, 4),
        ] {
            let o = OptBytes::syn(8960, sack, t, scale);
            let p = Opts::parse(&o);
            assert_eq!(o.len(), len);
            assert_eq!((p.mss, p.sack_permitted, p.ts, p.scale), (Some(8960), sack, t, scale));
        }
        assert_eq!(OptBytes::plain(Some(ts)).len(), usize::from(TS_LEN));
        assert_eq!(Opts::parse(&OptBytes::plain(Some(ts))).ts, Some(ts));
    }

    #[test]
    fn four_blocks_fit_and_three_beside_timestamps() {
        let b: Vec<_> = (0..5).map(|i| SackBlock { left: Seq(i * 10), right: Seq(i * 10 + 5) }).collect();
        for (ts, n, len) in [(None, 4, 36), (Some(Ts::default()), 3, 40)] {
            let mut o = OptBytes::plain(ts);
            assert_eq!((o.add_sack(&b), o.len()), (n, len));
            assert_eq!(Opts::parse(&o).sack.as_slice(), &b[..n]);
        }
        let mut o = OptBytes::NONE;
        assert_eq!((o.add_sack(&[]), o.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..60)) {
            let o = Opts::parse(&b);
            prop_assert!(o.scale.is_none_or(|s| s <= SCALE_MAX) && o.mss != Some(0));
        }

        #[test]
        fn the_fast_path_and_the_list_agree(v in any::<[u8; 8]>()) {
            let b = [&[1, 1, 8, 10], &v[..]].concat();
            prop_assert_eq!(Opts::parse(&b), Opts::parse_list(&b));
        }
    }
}
