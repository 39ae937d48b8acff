//! ICMP errors about our own segments (RFC 792, RFC 1122 §3.2.2.1, RFC 1191, RFC 4443 §3): what they say, and of
//! which segment. Whether to believe it is for the connection to judge (RFC 5927).

use crate::addr::Addr;
use crate::seq::Seq;
use crate::table::Key;
use crate::udp::UDP;

/// Contents of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nobody takes it: no such port or protocol.
    Refused,
    /// It is forbidden.
    Prohibited,
    /// It did not arrive; the next one may (RFC 1122 §4.2.3.9 calls these soft).
    Soft,
    /// It was too big; the MTU of the next link in bytes, 0 when it is not named.
    TooBig(u32),
}

/// A message about a segment of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The cause.
    pub cause: Cause,
    /// The connection, seen from us.
    pub key: Key,
    /// Sequence number of the segment.
    pub seq: Seq,
    /// Length of its packet, in bytes.
    pub len: u16,
}

/// A message about a datagram of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The cause.
    pub cause: Cause,
    /// Its path, seen from us.
    pub key: Key,
    /// Length of its packet, in bytes.
    pub len: u16,
}

/// The packet that a message quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quoted {
    /// A TCP segment.
    Segment(Report),
    /// A UDP datagram.
    Datagram(Lost),
}

/// Bytes of a message that are looked at: its own header, the longest IP header, and the first of TCP.
pub const LOOKED_AT: usize = 8 + 60 + 8;

fn be32(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at + 4).and_then(|s| s.try_into().ok()).map(u32::from_be_bytes)
}

fn be16(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..at + 2).and_then(|s| s.try_into().ok()).map(u16::from_be_bytes)
}

/// Parses the ICMP message `m`, whose checksum is right. `None` for what is no error about a TCP segment, or not
/// one that is acted on: source quench (RFC 6633) and redirects are not.
pub fn parse4(m: &[u8]) -> Option<Quoted> {
    let cause = match (*m.first()?, *m.get(1)?) {
        (3, 2 | 3) => Cause::Refused,
        (3, 9 | 10 | 13) => Cause::Prohibited,
        (3, 4) => Cause::TooBig(u32::from(be16(m, 6)?)),
        (3, 0..=15) | (11, 0 | 1) | (12, _) => Cause::Soft,
        _ => return None,
    };
    let q = m.get(8..)?;
    let first = *q.first()?;
    let ihl = usize::from(first & 15) * 4;
    // A later fragment has no ports.
    if first >> 4 != 4 || ihl < 20 || be16(q, 6)? & 0x1fff != 0 {
        return None;
    }
    let (src, dst) = (Addr::v4(be32(q, 12)?), Addr::v4(be32(q, 16)?));
    report(cause, *q.get(9)?, (src, dst), q.get(ihl..)?, be16(q, 2)?)
}

/// As [`parse4`], of ICMPv6.
pub fn parse6(m: &[u8]) -> Option<Quoted> {
    let cause = match (*m.first()?, *m.get(1)?) {
        (1, 4) | (4, 1) => Cause::Refused,
        (1, 1 | 5 | 6) => Cause::Prohibited,
        (2, _) => Cause::TooBig(be32(m, 4)?),
        (1, 0..=6) | (3, 0 | 1) | (4, _) => Cause::Soft,
        _ => return None,
    };
    let q = m.get(8..)?;
    // We send no extension headers.
    if q.first()? >> 4 != 6 {
        return None;
    }
    let addr = |at: usize| q.get(at..at + 16).and_then(|s| s.try_into().ok()).map(Addr).filter(Addr::is_v6);
    let (src, dst) = (addr(8)?, addr(24)?);
    report(cause, *q.get(6)?, (src, dst), q.get(40..)?, be16(q, 4)?.saturating_add(40))
}

fn report(cause: Cause, proto: u8, (local, remote): (Addr, Addr), l4: &[u8], len: u16) -> Option<Quoted> {
    let key = Key { local, remote, ports: be32(l4, 0)? };
    match proto {
        6 => Some(Quoted::Segment(Report { cause, key, seq: Seq(be32(l4, 4)?), len })),
        UDP => Some(Quoted::Datagram(Lost { cause, key, len })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Fields, Template, patch};
    use proptest::prelude::*;

    fn quoted(key: &Key) -> Vec<u8> {
        let f = Fields { seq: Seq(77), ack: Seq(1), flags: 16, win: 5 };
        let h = Template::new([0; 6], [0; 6], None, key).head(&f, &[]);
        let mut b = h.bytes()[14..].to_vec();
        patch(&mut b, usize::from(h.l3), f.seq, f.flags, 20 + 1000, 0);
        b
    }

    fn message(t: u8, code: u8, rest: [u8; 4], quote: &[u8]) -> Vec<u8> {
        let mut m = vec![t, code, 0, 0];
        m.extend_from_slice(&rest);
        m.extend_from_slice(quote);
        m
    }

    #[test]
    fn causes_of_both_families() {
        let (k4, k6) = (
            Key::v4(0x0a00_0001, 988, 0x0a00_0002, 7),
            Key::new(Addr::link_local([1; 6]), 988, Addr::link_local([2; 6]), 7),
        );
        let four = |t, c| parse4(&message(t, c, [0, 0, 5, 0x78], &quoted(&k4)[..28]));
        let Some(Quoted::Segment(r)) = four(3, 3) else { panic!() };
        assert_eq!((r.cause, r.key, r.seq, r.len), (Cause::Refused, k4, Seq(77), 1040));
        let six = |t, c| parse6(&message(t, c, [0, 0, 5, 0x78], &quoted(&k6)[..48]));
        let Some(Quoted::Segment(r)) = six(2, 0) else { panic!() };
        assert_eq!((r.cause, r.key, r.seq, r.len), (Cause::TooBig(1400), k6, Seq(77), 1060));
        let cause = |q| match q {
            Quoted::Segment(r) => r.cause,
            Quoted::Datagram(l) => l.cause,
        };
        let cause4 = |t, c| four(t, c).map(cause);
        let cause6 = |t, c| six(t, c).map(cause);
        let (refused, no, soft) = (Some(Cause::Refused), Some(Cause::Prohibited), Some(Cause::Soft));
        for (t, c, want) in [
            (3, 2, refused),
            (3, 13, no),
            (3, 0, soft),
            (3, 1, soft),
            (3, 5, soft),
            (11, 0, soft),
            (12, 0, soft),
        ] {
            assert_eq!(cause4(t, c), want, "{t}/{c}");
        }
        for (t, c) in [(4, 0), (5, 1), (0, 0), (8, 0), (3, 16), (13, 0)] {
            assert_eq!(cause4(t, c), None, "{t}/{c}");
        }
        assert_eq!(cause4(3, 4), Some(Cause::TooBig(1400)));
        for (t, c, want) in [
            (1, 4, refused),
            (4, 1, refused),
            (1, 1, no),
            (1, 0, soft),
            (1, 3, soft),
            (3, 0, soft),
            (4, 0, soft),
        ] {
            assert_eq!(cause6(t, c), want, "{t}/{c}");
        }
        for (t, c) in [(1, 7), (128, 0), (137, 0), (100, 0)] {
            assert_eq!(cause6(t, c), None, "{t}/{c}");
        }
    }

    #[test]
    fn a_quote_has_to_be_a_segment_or_a_datagram() {
        let q = quoted(&Key::v4(0x0a00_0001, 988, 0x0a00_0002, 7));
        let parse = |q: &[u8]| parse4(&message(3, 3, [0; 4], q));
        assert!(parse(&q[..28]).is_some());
        assert_eq!(parse(&q[..27]), None, "no sequence number");
        for (at, v, what) in
            [(9, 1, "ICMP"), (7, 1, "a later fragment"), (0, 0x44, "a short header"), (0, 0x65, "IPv6")]
        {
            let mut q = q.clone();
            q[at] = v;
            assert_eq!(parse(&q), None, "{what}");
        }
        let mut options = q[..20].to_vec();
        options[0] = 0x46;
        options.extend_from_slice(&[1, 1, 1, 1]);
        options.extend_from_slice(&q[20..28]);
        assert!(matches!(parse(&options), Some(Quoted::Segment(r)) if r.seq == Seq(77)));
        let mut datagram = q[..24].to_vec();
        datagram[9] = UDP;
        let key = Key::v4(0x0a00_0001, 988, 0x0a00_0002, 7);
        assert_eq!(parse(&datagram), Some(Quoted::Datagram(Lost { cause: Cause::Refused, key, len: 1040 })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            t in 0u8..16, c in 0u8..16, b in proptest::collection::vec(any::<u8>(), 0..100), ihl in 0u8..16
        ) {
            let _ = (parse4(&b), parse6(&b));
            for first in [0x40 | ihl, 0x60] {
                let mut q = b.clone();
                if let [v, ..] = &mut q[..] {
                    *v = first;
                }
                let m = message(t, c, [0; 4], &q);
                let _ = (parse4(&m), parse6(&m));
            }
        }
    }
}
