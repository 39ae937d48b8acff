//! Headers that we write: what all segments of a connection have in common, and what differs.

use super::{ETH_IPV4, ETH_IPV6, HDR, HDR6, Mac, write_eth};
use crate::csum::Sum;
use crate::seq::Seq;
use crate::table::Key;

/// Ethernet with a tag, IPv6, TCP without options.
const LEN: usize = 18 + HDR6 + HDR;

/// What all segments of a connection have in common: link, IP and TCP headers without options.
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

    /// The header bytes, options not included.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.tcp_at() + HDR]
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

    /// Sum of the pseudo-header; `len` is TCP header and payload in bytes, or 0 where the device adds it.
    #[inline]
    pub fn pseudo(&self, len: usize) -> Sum {
        Sum::from_acc(u64::from(self.pseudo) + len as u64)
    }
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

/// Patches a header copied from a template: lengths and TCP fields. `ip` starts at the IP header; `hlen` is the
/// TCP header's length in bytes and `plen` the payload's. Checksums stay 0.
#[inline]
pub fn patch(ip: &mut [u8], f: &Fields, hlen: usize, plen: usize) {
    let v6 = ip.first().is_some_and(|b| b >> 4 == 6);
    // TSO hands at most 65,535 bytes over, so the length always fits.
    let (l3, at, own) = if v6 { (HDR6, 4, 0) } else { (HDR, 2, HDR) };
    let Some(ip) = ip.get_mut(..l3 + HDR) else { return };
    let total = (own + hlen + plen).min(65_535) as u16;
    ip[at..at + 2].copy_from_slice(&total.to_be_bytes());
    let t = &mut ip[l3..];
    t[4..8].copy_from_slice(&f.seq.0.to_be_bytes());
    t[8..12].copy_from_slice(&f.ack.0.to_be_bytes());
    t[12] = (hlen as u8 / 4) << 4;
    t[13] = f.flags;
    t[14..16].copy_from_slice(&f.win.to_be_bytes());
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
            let mut b = t.bytes().to_vec();
            let f = Fields { seq: Seq(5), ack: Seq(9), flags: ACK | PSH, win: 77 };
            let e = eth(&b).unwrap();
            patch(&mut b[e.len..], &f, 20, 0);
            fill_ip_csum(&mut b[e.len..]);
            assert_eq!((e.dst, e.src, e.vlan, e.len), ([6; 6], [2; 6], vlan, usize::from(t.l2)));
            let p = &b[e.len..];
            let ip = if t.v6() { ip6(p, 60) } else { ip4(p, 40, true) }.unwrap();
            assert_eq!((ip.hlen, ip.payload, ip.proto), (usize::from(t.l3), 20, 6));
            let s = tcp(&b[t.tcp_at()..], &ip).unwrap();
            // As the peer sees it: ends exchanged.
            assert_eq!(s.key, Key::new(key.remote, 1023, key.local, 988));
            assert_eq!((s.seq, s.ack, s.flags, s.win, s.plen), (f.seq, f.ack, f.flags, 77, 0));
        }
    }

    #[test]
    fn the_pseudo_header_sums_as_its_bytes() {
        let v4 = Key::v4(0x0a00_0001, 1, 0xc0a8_ff02, 2);
        let mut s = Sum::default();
        s.add(&[10, 0, 0, 1, 192, 168, 255, 2, 0, 6, 0x12, 0x34]);
        assert_eq!(Template::new([0; 6], [0; 6], None, &v4).pseudo(0x1234).folded(), s.folded());
        let (a, b) = (Addr::link_local([1; 6]), Addr::link_local([0xf2; 6]));
        let mut s = Sum::default();
        s.add(&a.0);
        s.add(&b.0);
        s.add(&[0, 0, 0x12, 0x34, 0, 0, 0, 6]);
        assert_eq!(
            Template::new([0; 6], [0; 6], None, &Key::new(a, 1, b, 2)).pseudo(0x1234).folded(),
            s.folded()
        );
    }
}
