//! Headers that we write: what all segments of a connection have in common, and what differs.

use super::{ETH_IPV4, ETH_IPV6, HDR, HDR6, Mac, write_eth};
use crate::csum::Sum;
use crate::seq::Seq;
use crate::table::Key;

/// Ethernet with a tag, IPv6, TCP without options.
const LEN: usize = 18 + HDR6 + HDR;
/// Most bytes of options.
const OPTIONS: usize = 40;

/// Headers of all segments of a connection: link, IP and TCP, without options.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    bytes: [u8; LEN],
    /// Length of the link header: 14, or 18 with a tag that the stack writes itself.
    pub l2: u8,
    /// Length of the IP header: 20 or 40.
    pub l3: u8,
    /// Sum of the pseudo-header without its length, folded.
    pseudo: u16,
}

impl Template {
    /// A template for segments from our end of `key`. `vlan` is written into the header when given.
    pub fn new(src: Mac, dst: Mac, vlan: Option<u16>, key: &Key) -> Template {
        let mut bytes = [0; LEN];
        let v6 = key.local.is_v6();
        let l2 = write_eth(&mut bytes, src, dst, vlan, if v6 { ETH_IPV6 } else { ETH_IPV4 });
        let mut n = l2;
        let mut put = |x: &[u8]| {
            bytes[n..n + x.len()].copy_from_slice(x);
            n += x.len();
        };
        if v6 {
            // Version; traffic class and flow label 0; length later; TCP; hop limit 64.
            put(&[0x60, 0, 0, 0, 0, 0, 6, 64]);
        } else {
            // Version and header length; DSCP 0; length later; id 0 with "don't fragment" (RFC 6864); TTL 64; TCP.
            put(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0]);
        }
        put(key.local.octets());
        put(key.remote.octets());
        let l3 = if v6 { HDR6 } else { HDR } as u8;
        put(&key.ports.to_be_bytes());
        put(&[0; 8]);
        put(&[5 << 4, 0, 0, 0, 0, 0, 0, 0]);
        let pseudo = crate::csum::pseudo(&key.local, &key.remote, 6, 0).folded();
        Template { bytes, l2: l2 as u8, l3, pseudo }
    }

    /// With `tos` as type of service (IPv4) or traffic class (IPv6).
    #[must_use]
    pub fn marked(mut self, tos: u8) -> Template {
        let at = usize::from(self.l2);
        if self.v6() {
            // The four bits of the version come first.
            self.bytes[at] = 0x60 | tos >> 4;
            self.bytes[at + 1] = tos << 4;
        } else {
            self.bytes[at + 1] = tos;
        }
        self
    }

    /// Where the TCP header begins, in bytes.
    #[inline]
    pub fn tcp_at(&self) -> usize {
        usize::from(self.l2) + usize::from(self.l3)
    }

    /// Whether it is for IPv6.
    #[inline]
    pub fn v6(&self) -> bool {
        usize::from(self.l3) == HDR6
    }

    /// Changes the next hop.
    pub fn set_dst(&mut self, mac: Mac) {
        self.bytes[..6].copy_from_slice(&mac);
    }

    /// A header with everything that a run of segments has in common.
    pub fn head(&self, f: &Fields, options: &[u8]) -> Head {
        let mut h = Head::EMPTY;
        self.head_in(&mut h, f, options);
        h
    }

    /// The same, in its place.
    #[inline]
    pub fn head_in(&self, h: &mut Head, f: &Fields, options: &[u8]) {
        let (at, n) = (self.tcp_at(), options.len().min(OPTIONS) & !3);
        (h.len, h.l2, h.l3, h.pseudo) = ((at + HDR + n) as u8, self.l2, self.l3, self.pseudo);
        h.bytes[..LEN].copy_from_slice(&self.bytes);
        if let Some(t) = h.bytes.get_mut(at..at + HDR + n) {
            t[8..12].copy_from_slice(&f.ack.0.to_be_bytes());
            t[12] = ((HDR + n) as u8 / 4) << 4;
            t[14..16].copy_from_slice(&f.win.to_be_bytes());
            t[HDR..].copy_from_slice(&options[..n]);
        }
    }
}

/// A header for a run of segments: sequence number, flags, lengths and checksums are for [`patch`] to fill in.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; LEN + OPTIONS],
    len: u8,
    /// Length of the link header in bytes.
    pub l2: u8,
    /// Length of the IP header in bytes.
    pub l3: u8,
    pseudo: u16,
}

impl Head {
    /// No header.
    pub const EMPTY: Head = Head { bytes: [0; LEN + OPTIONS], len: 0, l2: 0, l3: 0, pseudo: 0 };

    /// Link, IP and TCP header.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// Length of the TCP header with its options, in bytes.
    #[inline]
    pub fn hlen(&self) -> usize {
        usize::from(self.len) - usize::from(self.l2) - usize::from(self.l3)
    }

    /// Whether it is for IPv6.
    #[inline]
    pub fn v6(&self) -> bool {
        usize::from(self.l3) == HDR6
    }

    /// Sum of the pseudo-header; `len` is TCP header and payload in bytes, or 0 where the device adds it.
    #[inline]
    pub fn pseudo(&self, len: usize) -> Sum {
        Sum::from_acc(u64::from(self.pseudo) + len as u64)
    }
}

/// The fields of a header that the user of a [`Template`] sets.
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

/// Fills in what differs from segment to segment. `ip` starts at the IP header, of `l3` bytes; `len` is that of TCP
/// header and payload; `csum` goes into the TCP header as it stands.
#[inline]
pub fn patch(ip: &mut [u8], l3: usize, seq: Seq, flags: u8, len: usize, csum: u16) {
    // TSO hands at most 65,535 bytes over, so the length always fits.
    let (at, own) = if l3 == HDR6 { (4, 0) } else { (2, HDR) };
    let Some(ip) = ip.get_mut(..l3 + HDR) else { return };
    ip[at..at + 2].copy_from_slice(&((own + len).min(65_535) as u16).to_be_bytes());
    let t = &mut ip[l3..];
    t[4..8].copy_from_slice(&seq.0.to_be_bytes());
    t[13] = flags;
    t[16..18].copy_from_slice(&csum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::{ACK, PSH, eth, fill_ip_csum, ip4, ip6, tcp};
    use super::*;
    use crate::addr::Addr;

    #[test]
    fn a_template_parses_back() {
        let keys = [
            Key::v4(0x0a00_0001, 988, 0x0a00_0002, 1023),
            Key::new(Addr::link_local([1; 6]), 988, Addr::link_local([2; 6]), 1023),
        ];
        for (key, vlan) in keys.into_iter().flat_map(|k| [(k, None), (k, Some(7))]) {
            let mut t = Template::new([2; 6], [4; 6], vlan, &key);
            t.set_dst([6; 6]);
            let f = Fields { seq: Seq(5), ack: Seq(9), flags: ACK | PSH, win: 77 };
            let h = t.head(&f, &[1, 1, 1, 0]);
            let mut b = h.bytes().to_vec();
            let e = eth(&b).unwrap();
            patch(&mut b[e.len..], usize::from(h.l3), f.seq, f.flags, h.hlen(), 0);
            fill_ip_csum(&mut b[e.len..]);
            assert_eq!((e.dst, e.src, e.vlan, e.len), ([6; 6], [2; 6], vlan, usize::from(t.l2)));
            let p = &b[e.len..];
            let ip = if t.v6() { ip6(p, 64) } else { ip4(p, 44, true) }.unwrap();
            assert_eq!((ip.hlen, ip.payload, ip.proto), (usize::from(t.l3), 24, 6));
            assert_eq!(b[t.tcp_at() + 20..], [1, 1, 1, 0]);
            let s = tcp(&b[t.tcp_at()..], &ip).unwrap();
            // As the peer sees it: ends exchanged.
            assert_eq!(s.key, Key::new(key.remote, 1023, key.local, 988));
            assert_eq!((s.seq, s.ack, s.flags, s.win, s.hlen, s.plen), (f.seq, f.ack, f.flags, 77, 24, 0));
        }
    }

    #[test]
    fn a_mark_is_where_receivers_look_for_it() {
        let f = Fields { seq: Seq(5), ack: Seq(9), flags: ACK, win: 77 };
        let v4 = Key::v4(0x0a00_0001, 988, 0x0a00_0002, 1023);
        let v6 = Key::new(Addr::link_local([1; 6]), 988, Addr::link_local([2; 6]), 1023);
        for (key, vlan, first) in
            [(v4, None, [0x45, 0xb8]), (v4, Some(7), [0x45, 0xb8]), (v6, None, [0x6b, 0x80])]
        {
            let t = Template::new([2; 6], [4; 6], vlan, &key);
            let (plain, marked) = (t.head(&f, &[]), t.marked(0xb8).head(&f, &[]));
            let at = usize::from(t.l2);
            assert_eq!(marked.bytes()[at..at + 2], first);
            assert_eq!(marked.bytes()[at + 2..], plain.bytes()[at + 2..], "nothing else differs");
        }
    }

    #[test]
    fn the_pseudo_header_sums_as_its_bytes() {
        let f = Fields { seq: Seq(0), ack: Seq(0), flags: 0, win: 0 };
        let pseudo = |k: &Key| Template::new([0; 6], [0; 6], None, k).head(&f, &[]).pseudo(0x1234);
        let v4 = Key::v4(0x0a00_0001, 1, 0xc0a8_ff02, 2);
        let mut s = Sum::default();
        s.add(&[10, 0, 0, 1, 192, 168, 255, 2, 0, 6, 0x12, 0x34]);
        assert_eq!(pseudo(&v4).folded(), s.folded());
        let (a, b) = (Addr::link_local([1; 6]), Addr::link_local([0xf2; 6]));
        let mut s = Sum::default();
        s.add(&a.0);
        s.add(&b.0);
        s.add(&[0, 0, 0x12, 0x34, 0, 0, 0, 6]);
        assert_eq!(pseudo(&Key::new(a, 1, b, 2)).folded(), s.folded());
    }
}
