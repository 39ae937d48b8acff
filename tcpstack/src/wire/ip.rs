//! The network layer: IPv4 and IPv6 headers, checked and brought to one form.

use super::{Drop, HDR, HDR6, put};
use crate::addr::Addr;
use crate::csum;

/// Most bytes of IPv6 extension headers that are walked; what has more is dropped. Nobody needs any for TCP.
pub const EXT_MAX: usize = 64;

/// IPv6 extension headers (RFC 8200 §4), by number.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DEST_OPTIONS: u8 = 60;

/// An IP header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Protocol of what follows the header and its extensions.
    pub proto: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Header length in bytes, options and extension headers included.
    pub hlen: usize,
    /// Bytes after the header.
    pub payload: usize,
}

/// Parses the IPv4 header at the start of `b`; `len` is the length of the packet from there on, link padding
/// included. `sum` says whether the header checksum is to be checked.
///
/// # Errors
/// [`Drop::Malformed`], [`Drop::Fragment`], [`Drop::Checksum`].
#[inline]
pub fn ip4(b: &[u8], len: usize, sum: bool) -> Result<Ip, Drop> {
    let bad = Drop::Malformed;
    let h = b.first_chunk::<HDR>().ok_or(bad)?;
    let hlen = usize::from(h[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([h[2], h[3]]));
    if h[0] >> 4 != 4 || hlen < HDR || total < hlen || total > len {
        return Err(bad);
    }
    let whole = b.get(..hlen).ok_or(bad)?;
    if sum {
        let mut s = csum::Sum::default();
        s.add(whole);
        if s.finish() != 0 {
            return Err(Drop::Checksum);
        }
    }
    // More-fragments flag or an offset (RFC 791 §3.1).
    if u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0 {
        return Err(Drop::Fragment);
    }
    let src = Addr::v4(u32::from_be_bytes([h[12], h[13], h[14], h[15]]));
    let dst = Addr::v4(u32::from_be_bytes([h[16], h[17], h[18], h[19]]));
    Ok(Ip { src, dst, proto: h[9], ttl: h[8], hlen, payload: total - hlen })
}

/// Parses the IPv6 header at the start of `b` and the extension headers behind it; `len` as for [`ip4`].
///
/// # Errors
/// [`Drop::Malformed`] where lengths contradict each other, there are too many extension headers, an option asks
/// to be dropped by who does not know it (RFC 8200 §4.2; the jumbo payload of RFC 2675 is one), or a routing
/// header is not done with (type 0 never is: RFC 5095); [`Drop::Fragment`]; [`Drop::Martian`] where an address
/// is an IPv4 one in disguise.
#[inline]
pub fn ip6(b: &[u8], len: usize) -> Result<Ip, Drop> {
    let bad = Drop::Malformed;
    let h = b.first_chunk::<HDR6>().ok_or(bad)?;
    let payload = usize::from(u16::from_be_bytes([h[4], h[5]]));
    if h[0] >> 4 != 6 || HDR6 + payload > len {
        return Err(bad);
    }
    let addr = |a: &[u8]| a.try_into().map(Addr).map_err(|_| bad);
    let (src, dst) = (addr(&h[8..24])?, addr(&h[24..40])?);
    if !src.is_v6() || !dst.is_v6() {
        return Err(Drop::Martian);
    }
    let mut ip = Ip { src, dst, proto: h[6], ttl: h[7], hlen: HDR6, payload };
    if matches!(ip.proto, HOP_BY_HOP | ROUTING | FRAGMENT | DEST_OPTIONS) {
        extensions(b, &mut ip)?;
    }
    Ok(ip)
}

/// Steps over extension headers. Every round consumes at least 8 bytes of [`EXT_MAX`].
#[cold]
fn extensions(b: &[u8], ip: &mut Ip) -> Result<(), Drop> {
    let bad = Drop::Malformed;
    loop {
        let at = ip.hlen;
        match ip.proto {
            FRAGMENT => return Err(Drop::Fragment),
            // RFC 8200 §4.3: directly behind the header or nowhere.
            HOP_BY_HOP if at != HDR6 => return Err(bad),
            HOP_BY_HOP | ROUTING | DEST_OPTIONS => (),
            _ => return Ok(()),
        }
        let n = (usize::from(*b.get(at + 1).ok_or(bad)?) + 1) * 8;
        if n > ip.payload || at + n > HDR6 + EXT_MAX {
            return Err(bad);
        }
        let Some(&[next, _, ref body @ ..]) = b.get(at..at + n) else { return Err(bad) };
        let fine = match (ip.proto, body) {
            (ROUTING, [kind, left, ..]) => *kind != 0 && *left == 0,
            (_, body) => options(body),
        };
        if !fine {
            return Err(bad);
        }
        ip.proto = next;
        ip.hlen += n;
        ip.payload -= n;
    }
}

/// Whether every option may be ignored by who does not know it: the upper two bits of its type are 0.
fn options(mut o: &[u8]) -> bool {
    while let Some((&kind, rest)) = o.split_first() {
        if kind == 0 {
            o = rest; // Pad1
            continue;
        }
        let Some(body) = rest.split_first().and_then(|(n, r)| r.get(usize::from(*n)..)) else { return false };
        if kind & 0xc0 != 0 {
            return false;
        }
        o = body;
    }
    true
}

/// Writes an IPv6 header for `payload` bytes of `proto`. `h` has its 40 bytes; to fewer nothing is written.
pub fn write_ip6(h: &mut [u8], src: &Addr, dst: &Addr, proto: u8, hops: u8, payload: usize) {
    let Some(h) = h.first_chunk_mut::<HDR6>() else { return };
    let [a, b] = (payload.min(65_535) as u16).to_be_bytes();
    h[..8].copy_from_slice(&[0x60, 0, 0, 0, a, b, proto, hops]);
    h[8..24].copy_from_slice(&src.0);
    h[24..HDR6].copy_from_slice(&dst.0);
}

/// Writes an IPv4 header for `payload` bytes of `proto` that nobody may cut up, and its checksum. `h` has its 20 bytes; to fewer
/// nothing is written.
pub fn write_ip4(h: &mut [u8], src: &Addr, dst: &Addr, proto: u8, payload: usize) {
    if h.len() < HDR {
        return;
    }
    let [a, b] = ((HDR + payload).min(65_535) as u16).to_be_bytes();
    put(h, 0, &[0x45, 0, a, b, 0, 0, 0x40, 0, 64, proto, 0, 0]);
    put(h, 12, src.octets());
    put(h, 16, dst.octets());
    fill_ip_csum(h);
}

/// Sets the type of service, or traffic class, of a header.
pub fn mark(ip: &mut [u8], tos: u8) {
    match ip {
        [first, class, ..] if *first >> 4 == 6 => {
            (*first, *class) = (0x60 | tos >> 4, *class & 15 | tos << 4)
        }
        [_, class, ..] => *class = tos,
        _ => {}
    }
    fill_ip_csum(ip);
}

/// Fills in the IPv4 header checksum. `ip` starts at the header; an IPv6 one has none and stays as it is.
pub fn fill_ip_csum(ip: &mut [u8]) {
    let first = ip.first().copied().unwrap_or(0);
    if first >> 4 != 4 {
        return;
    }
    let Some(h) = ip.get_mut(..(usize::from(first & 15) * 4).max(HDR)) else { return };
    put(h, 10, &[0, 0]);
    let mut s = csum::Sum::default();
    s.add(h);
    put(h, 10, &s.finish().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip_packet(payload: &[u8]) -> Vec<u8> {
        let mut b = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
        b[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
        fill_ip_csum(&mut b);
        b.extend_from_slice(payload);
        b
    }

    /// A packet from fd00::2 to fd00::1 whose first header behind IPv6's is `next`.
    fn ip6_packet(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut b = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        b[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        for last in [2, 1] {
            b.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        b.extend_from_slice(payload);
        b
    }

    fn parse6(next: u8, payload: &[u8]) -> Result<(u8, usize, usize), Drop> {
        let b = ip6_packet(next, payload);
        ip6(&b, b.len()).map(|i| (i.proto, i.hlen, i.payload))
    }

    #[test]
    fn ip_lengths_fragments_and_checksums() {
        let b = ip_packet(&[9; 30]);
        let ok = ip4(&b, b.len() + 6, true).unwrap();
        assert_eq!((ok.src, ok.dst), (Addr::v4(0x0a00_0002), Addr::v4(0x0a00_0001)));
        assert_eq!((ok.payload, ok.hlen, ok.proto, ok.ttl), (30, 20, 6, 64));
        assert_eq!(ip4(&b, 49, true), Err(Drop::Malformed), "shorter than it claims");
        let mut c = b.clone();
        c[8] ^= 1;
        assert_eq!(ip4(&c, 50, true), Err(Drop::Checksum));
        assert!(ip4(&c, 50, false).is_ok());
        for frag in [0x2000u16, 0x0001] {
            let mut c = b.clone();
            c[6..8].copy_from_slice(&frag.to_be_bytes());
            assert_eq!(ip4(&c, 50, false), Err(Drop::Fragment));
        }
        let mut c = b.clone();
        c[0] = 0x44;
        assert_eq!(ip4(&c, 50, false), Err(Drop::Malformed), "header shorter than 20 bytes");
    }

    #[test]
    fn ip_options_are_stepped_over() {
        let mut b = vec![0x46, 0, 0, 44, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1, 1, 1, 1, 0];
        b.extend_from_slice(&[0; 20]);
        let ip = ip4(&b, 44, false).unwrap();
        assert_eq!((ip.hlen, ip.payload), (24, 20));
    }

    #[test]
    fn an_ipv6_header_and_its_lengths() {
        let b = ip6_packet(6, &[9; 30]);
        let ip = ip6(&b, b.len() + 6).unwrap();
        assert_eq!((ip.src.to_string(), ip.dst.to_string()), ("fd00::2".into(), "fd00::1".into()));
        assert_eq!((ip.proto, ip.ttl, ip.hlen, ip.payload), (6, 64, 40, 30));
        assert_eq!(ip6(&b, 69), Err(Drop::Malformed), "shorter than it claims");
        assert_eq!(ip6(&b[..39], 70), Err(Drop::Malformed));
        let mut c = b.clone();
        c[0] = 0x45;
        assert_eq!(ip6(&c, 70), Err(Drop::Malformed), "another version");
        let mut c = b;
        c[8..20].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        assert_eq!(ip6(&c, 70), Err(Drop::Martian), "an IPv4 address in disguise");
    }

    #[test]
    fn extension_headers_are_stepped_over_within_a_bound() {
        const TCP: u8 = 6;
        let pad = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
        let with = |h: &[&[u8]]| [h.concat(), vec![7; 20]].concat();
        assert_eq!(parse6(HOP_BY_HOP, &with(&[&pad(TCP)])), Ok((TCP, 48, 20)));
        assert_eq!(
            parse6(HOP_BY_HOP, &with(&[&pad(DEST_OPTIONS), &pad(ROUTING), &[TCP, 0, 2, 0, 0, 0, 0, 0]])),
            Ok((TCP, 64, 20))
        );
        assert_eq!(parse6(DEST_OPTIONS, &with(&[&pad(59)])), Ok((59, 48, 20)), "no next header");
        let bad = Err(Drop::Malformed);
        for (what, next, h) in [
            ("routing type 0", ROUTING, [TCP, 0, 0, 0, 0, 0, 0, 0]),
            ("routing with segments left", ROUTING, [TCP, 0, 2, 1, 0, 0, 0, 0]),
            ("jumbo payload", HOP_BY_HOP, [TCP, 0, 0xc2, 4, 0, 1, 0, 0]),
            ("an option to be dropped when unknown", DEST_OPTIONS, [TCP, 0, 0x45, 4, 0, 0, 0, 0]),
            ("an option longer than its header", DEST_OPTIONS, [TCP, 0, 1, 5, 0, 0, 0, 0]),
            ("a header longer than the packet", DEST_OPTIONS, [TCP, 9, 1, 4, 0, 0, 0, 0]),
            ("hop-by-hop out of place", DEST_OPTIONS, pad(HOP_BY_HOP)),
        ] {
            assert_eq!(parse6(next, &with(&[&h])), bad, "{what}");
        }
        assert_eq!(parse6(FRAGMENT, &with(&[&[TCP, 0, 0, 0, 0, 0, 0, 1]])), Err(Drop::Fragment));
        assert_eq!(parse6(HOP_BY_HOP, &with(&[&pad(FRAGMENT)])), Err(Drop::Fragment));
        let many = |n: usize| {
            let mut h: Vec<u8> = (0..n).flat_map(|_| pad(DEST_OPTIONS)).collect();
            h[(n - 1) * 8] = TCP;
            parse6(DEST_OPTIONS, &with(&[&h]))
        };
        assert_eq!((many(8), many(9)), (Ok((TCP, 104, 20)), bad));
    }
}
