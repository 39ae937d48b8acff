//! Header views: Ethernet (one VLAN tag), IPv4, TCP. Nothing here allocates or can panic on any input.

use crate::csum;
use crate::seq::Seq;
use crate::table::Key;

/// FIN flag.
pub const FIN: u8 = 0x01;
/// SYN flag.
pub const SYN: u8 = 0x02;
/// RST flag.
pub const RST: u8 = 0x04;
/// PSH flag.
pub const PSH: u8 = 0x08;
/// ACK flag.
pub const ACK: u8 = 0x10;

/// EtherType of IPv4.
pub const ETH_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETH_ARP: u16 = 0x0806;
const ETH_VLAN: u16 = 0x8100;

/// Length of a TCP or IPv4 header without options, in bytes.
pub const HDR: usize = 20;
/// Smallest MSS that is taken seriously, in bytes (Linux's TCP_MIN_SND_MSS).
pub const MIN_MSS: u16 = 48;
/// MSS of a peer that names none (RFC 9293 §3.7.1).
pub const DEFAULT_MSS: u16 = 536;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The broadcast address.
pub const BROADCAST: Mac = [0xff; 6];

/// Why a packet was not taken further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// Too short, or its lengths contradict each other.
    Malformed,
    /// Not for our Ethernet or IP address, or another VLAN's.
    NotOurs,
    /// An EtherType or IP protocol that we do not speak.
    Protocol,
    /// An IP fragment: not reassembled.
    Fragment,
    /// A wrong checksum.
    Checksum,
    /// A source address that no host may have (multicast, broadcast, unspecified, our own).
    Martian,
}

/// The link layer of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eth {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// EtherType behind any VLAN tag.
    pub kind: u16,
    /// VLAN id in the packet itself.
    pub vlan: Option<u16>,
    /// Length of the header in bytes: 14 or 18.
    pub len: usize,
}

fn be16(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*b.get(at)?, *b.get(at + 1)?]))
}

fn be32(b: &[u8], at: usize) -> Option<u32> {
    let s = b.get(at..at + 4)?;
    Some(u32::from_be_bytes([s[0], s[1], s[2], s[3]]))
}

fn mac(b: &[u8], at: usize) -> Option<Mac> {
    b.get(at..at + 6).and_then(|s| s.try_into().ok())
}

/// Parses the Ethernet header.
pub fn eth(b: &[u8]) -> Option<Eth> {
    let (dst, src) = (mac(b, 0)?, mac(b, 6)?);
    match be16(b, 12)? {
        ETH_VLAN => Some(Eth { dst, src, kind: be16(b, 16)?, vlan: Some(be16(b, 14)? & 0xfff), len: 18 }),
        kind => Some(Eth { dst, src, kind, vlan: None, len: 14 }),
    }
}

/// An IPv4 header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip4 {
    /// Source address, host order.
    pub src: u32,
    /// Destination address, host order.
    pub dst: u32,
    /// Protocol number.
    pub proto: u8,
    /// Header length in bytes, options included.
    pub ihl: usize,
    /// Bytes after the header.
    pub payload: usize,
}

/// Parses the IPv4 header at the start of `b`; `len` is the length of the packet from there on, link padding
/// included. `sum` says whether the header checksum is to be checked.
///
/// # Errors
/// [`Drop::Malformed`], [`Drop::Fragment`], [`Drop::Checksum`].
pub fn ip4(b: &[u8], len: usize, sum: bool) -> Result<Ip4, Drop> {
    let bad = Drop::Malformed;
    let first = *b.first().ok_or(bad)?;
    let ihl = usize::from(first & 15) * 4;
    let total = usize::from(be16(b, 2).ok_or(bad)?);
    if first >> 4 != 4 || ihl < HDR || total < ihl || total > len || b.len() < ihl {
        return Err(bad);
    }
    if sum {
        let mut s = csum::Sum::default();
        s.add(&b[..ihl]);
        if s.finish() != 0 {
            return Err(Drop::Checksum);
        }
    }
    // More-fragments flag or an offset (RFC 791 §3.1).
    if be16(b, 6).ok_or(bad)? & 0x3fff != 0 {
        return Err(Drop::Fragment);
    }
    Ok(Ip4 {
        src: be32(b, 12).ok_or(bad)?,
        dst: be32(b, 16).ok_or(bad)?,
        proto: b[9],
        ihl,
        payload: total - ihl,
    })
}

/// Whether a host may send from this address: not this network, loopback, multicast, reserved or broadcast.
pub fn unicast(a: u32) -> bool {
    !matches!(a >> 24, 0 | 127 | 224..)
}

/// A TCP segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seg {
    /// Addresses, seen from us.
    pub key: Key,
    /// Sequence number of the first byte (or of the SYN).
    pub seq: Seq,
    /// Acknowledgement number; means nothing without [`ACK`].
    pub ack: Seq,
    /// Flags.
    pub flags: u8,
    /// Window field as it stands, not scaled.
    pub win: u16,
    /// Header length in bytes.
    pub hlen: usize,
    /// Payload in bytes.
    pub plen: u32,
}

impl Seg {
    /// Whether all flags of `f` are set.
    #[inline]
    pub fn has(&self, f: u8) -> bool {
        self.flags & f == f
    }
}

/// Parses a TCP header at the start of `b`, which may end within the options.
///
/// # Errors
/// [`Drop::Malformed`].
#[inline]
pub fn tcp(b: &[u8], ip: &Ip4) -> Result<Seg, Drop> {
    let bad = Drop::Malformed;
    let Some(h) = b.get(..HDR) else { return Err(bad) };
    let hlen = usize::from(h[12] >> 4) * 4;
    if hlen < HDR || hlen > ip.payload {
        return Err(bad);
    }
    let w = |i: usize| u32::from_be_bytes([h[i], h[i + 1], h[i + 2], h[i + 3]]);
    // Both port numbers, the peer's first; ours belongs in the upper half.
    let ports = w(0).rotate_left(16);
    if ports & 0xffff == 0 || ports >> 16 == 0 {
        return Err(bad);
    }
    Ok(Seg {
        key: Key { local: ip.dst, remote: ip.src, ports },
        seq: Seq(w(4)),
        ack: Seq(w(8)),
        flags: h[13] & 0x3f,
        win: u16::from_be_bytes([h[14], h[15]]),
        hlen,
        plen: (ip.payload - hlen) as u32,
    })
}

/// What all segments of a connection have in common: link, IP and TCP headers without options.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    bytes: [u8; 58],
    /// Length of the link header: 14, or 18 with a tag that the stack writes itself.
    pub l2: u8,
}

impl Template {
    /// A template for segments from our end of `key`. `vlan` is written into the header when given.
    pub fn new(src: Mac, dst: Mac, vlan: Option<u16>, key: &Key) -> Template {
        let mut bytes = [0; 58];
        let mut h = Header { b: &mut bytes, n: 0 };
        h.eth(src, dst, vlan, ETH_IPV4);
        let l2 = h.n as u8;
        // Version and header length; DSCP 0; length later; id 0 with "don't fragment" (RFC 6864); TTL 64; TCP.
        h.put(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0]);
        h.put(&key.local.to_be_bytes());
        h.put(&key.remote.to_be_bytes());
        h.put(&key.ports.to_be_bytes());
        h.put(&[0; 8]);
        h.put(&[5 << 4, 0, 0, 0, 0, 0, 0, 0]);
        Template { bytes, l2 }
    }

    /// The header bytes, options not included.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.l2) + 2 * HDR]
    }

    /// Changes the next hop.
    pub fn set_dst(&mut self, mac: Mac) {
        self.bytes[..6].copy_from_slice(&mac);
    }
}

struct Header<'a> {
    b: &'a mut [u8],
    n: usize,
}

impl Header<'_> {
    fn put(&mut self, x: &[u8]) {
        self.b[self.n..self.n + x.len()].copy_from_slice(x);
        self.n += x.len();
    }
    fn eth(&mut self, src: Mac, dst: Mac, vlan: Option<u16>, kind: u16) {
        self.put(&dst);
        self.put(&src);
        if let Some(v) = vlan {
            self.put(&ETH_VLAN.to_be_bytes());
            self.put(&v.to_be_bytes());
        }
        self.put(&kind.to_be_bytes());
    }
}

/// Writes an Ethernet header to the start of `b` (at least 18 bytes) and returns its length.
pub fn write_eth(b: &mut [u8], src: Mac, dst: Mac, vlan: Option<u16>, kind: u16) -> usize {
    let mut h = Header { b, n: 0 };
    h.eth(src, dst, vlan, kind);
    h.n
}

/// The fields that differ from segment to segment.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// Sequence number.
    pub seq: Seq,
    /// Acknowledgement number.
    pub ack: Seq,
    /// Flags.
    pub flags: u8,
    /// Window field, scaled.
    pub win: u16,
}

/// Patches a header copied from a template: lengths and TCP fields. `ip` starts at the IPv4 header; `hlen` is the
/// TCP header's length in bytes and `plen` the payload's. Checksums stay 0.
#[inline]
pub fn patch(ip: &mut [u8], f: &Fields, hlen: usize, plen: usize) {
    let Some(ip) = ip.get_mut(..2 * HDR) else { return };
    // TSO hands at most 65,535 bytes over, so the length always fits.
    let total = (HDR + hlen + plen).min(65_535) as u16;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[24..28].copy_from_slice(&f.seq.0.to_be_bytes());
    ip[28..32].copy_from_slice(&f.ack.0.to_be_bytes());
    ip[32] = (hlen as u8 / 4) << 4;
    ip[33] = f.flags;
    ip[34..36].copy_from_slice(&f.win.to_be_bytes());
}

/// Fills in the IPv4 header checksum. `ip` starts at the header.
pub fn fill_ip_csum(ip: &mut [u8]) {
    let ihl = usize::from(ip.first().map_or(0, |b| b & 15)) * 4;
    let Some(h) = ip.get_mut(..ihl.max(HDR)) else { return };
    h[10..12].fill(0);
    let mut s = csum::Sum::default();
    s.add(h);
    let c = s.finish().to_be_bytes();
    h[10..12].copy_from_slice(&c);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip_packet(payload: &[u8]) -> Vec<u8> {
        let mut b = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
        b[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
        fill_ip_csum(&mut b);
        b.extend_from_slice(payload);
        b
    }

    #[test]
    fn tagged_and_plain_ethernet() {
        let mut b = [0; 18];
        assert_eq!(write_eth(&mut b, [1; 6], [2; 6], Some(42), ETH_ARP), 18);
        assert_eq!(eth(&b), Some(Eth { dst: [2; 6], src: [1; 6], kind: ETH_ARP, vlan: Some(42), len: 18 }));
        assert_eq!(write_eth(&mut b, [1; 6], [2; 6], None, ETH_IPV4), 14);
        assert_eq!(eth(&b).map(|e| (e.kind, e.vlan, e.len)), Some((ETH_IPV4, None, 14)));
        assert_eq!(eth(&b[..13]), None);
    }

    #[test]
    fn ip_lengths_fragments_and_checksums() {
        let b = ip_packet(&[9; 30]);
        let ok = ip4(&b, b.len() + 6, true).unwrap();
        assert_eq!((ok.src, ok.dst, ok.payload, ok.ihl), (0x0a00_0002, 0x0a00_0001, 30, 20));
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
        assert_eq!((ip.ihl, ip.payload), (24, 20));
    }

    #[test]
    fn a_template_parses_back() {
        let key = Key::new(0x0a00_0001, 988, 0x0a00_0002, 1023);
        for vlan in [None, Some(7)] {
            let mut t = Template::new([2; 6], [4; 6], vlan, &key);
            t.set_dst([6; 6]);
            let mut b = t.bytes().to_vec();
            let f = Fields { seq: Seq(5), ack: Seq(9), flags: ACK | PSH, win: 77 };
            let e = eth(&b).unwrap();
            patch(&mut b[e.len..], &f, 20, 0);
            fill_ip_csum(&mut b[e.len..]);
            assert_eq!((e.dst, e.src, e.vlan, e.len), ([6; 6], [2; 6], vlan, usize::from(t.l2)));
            let ip = ip4(&b[e.len..], 40, true).unwrap();
            let s = tcp(&b[e.len + 20..], &ip).unwrap();
            // As the peer sees it: ends exchanged.
            assert_eq!(s.key, Key::new(0x0a00_0002, 1023, 0x0a00_0001, 988));
            assert_eq!((s.seq, s.ack, s.flags, s.win, s.plen), (f.seq, f.ack, f.flags, 77, 0));
        }
    }

    #[test]
    fn odd_source_addresses_are_martians() {
        for (a, ok) in
            [(0x0a00_0001, true), (0, false), (0x7f00_0001, false), (0xe000_0001, false), (u32::MAX, false)]
        {
            assert_eq!(unicast(a), ok, "{a:x}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..160), len in 0usize..200) {
            let _ = eth(&b);
            if let Ok(ip) = ip4(&b, len, false) {
                let _ = tcp(&b[ip.ihl.min(b.len())..], &ip);
            }
        }
    }
}
