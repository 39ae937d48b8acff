//! Addresses of both families in 16 bytes: IPv4 as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2), so that keys, caches and
//! checksums need not know families.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address, network byte order; IPv4 is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Addr(pub [u8; 16]);

/// The first 12 bytes of an IPv4 address.
const MAPPED: u128 = 0xffff;

impl Addr {
    /// `::`, which no host has.
    pub const UNSPECIFIED: Addr = Addr([0; 16]);
    /// All nodes of the link, `ff02::1`.
    pub const ALL_NODES: Addr = Addr([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    /// All routers of the link, `ff02::2`.
    pub const ALL_ROUTERS: Addr = Addr([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);

    /// An IPv4 address in host order.
    #[inline]
    pub const fn v4(a: u32) -> Addr {
        let [a, b, c, d] = a.to_be_bytes();
        Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// The IPv4 address in host order, if it is one.
    #[inline]
    pub fn as_v4(&self) -> Option<u32> {
        let x = u128::from_be_bytes(self.0);
        (x >> 32 == MAPPED).then_some(x as u32)
    }

    /// Whether it is an IPv6 address.
    #[inline]
    pub fn is_v6(&self) -> bool {
        u128::from_be_bytes(self.0) >> 32 != MAPPED
    }

    /// The bytes as a packet carries them: the last 4, or all 16.
    #[inline]
    pub fn octets(&self) -> &[u8] {
        if self.is_v6() { &self.0 } else { &self.0[12..] }
    }

    /// Whether a host may send from it. IPv4: not this network, loopback, multicast, reserved or broadcast. IPv6:
    /// not unspecified, loopback, multicast, nor any of the forms that stand for IPv4 addresses on no wire
    /// (RFC 4291 §2.5.5).
    #[inline]
    pub fn is_unicast(&self) -> bool {
        match self.as_v4() {
            Some(a) => !matches!(a >> 24, 0 | 127 | 224..),
            None => self.0[0] != 0xff && self.0[..12] != [0; 12],
        }
    }

    /// Whether it is for one link only: `fe80::/10`.
    pub fn is_link_local(&self) -> bool {
        self.0[0] == 0xfe && self.0[1] & 0xc0 == 0x80
    }

    /// Whether the first `bits` of both agree; `bits` counts from the address's own first bit.
    pub fn same_prefix(&self, other: &Addr, bits: u8) -> bool {
        if self.is_v6() != other.is_v6() {
            return false;
        }
        let skip = if self.is_v6() { 0 } else { 96 };
        let bits = (u32::from(bits) + skip).min(128);
        let x = u128::from_be_bytes(self.0) ^ u128::from_be_bytes(other.0);
        x.checked_shr(128 - bits).unwrap_or(0) == 0
    }

    /// The link-local address that goes with an Ethernet address (RFC 4291 appendix A).
    pub fn link_local(mac: [u8; 6]) -> Addr {
        let [a, b, c, d, e, f] = mac;
        Addr([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }

    /// The group in which neighbours ask for this address (RFC 4291 §2.7.1).
    pub fn solicited_node(&self) -> Addr {
        let [.., a, b, c] = self.0;
        Addr([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
    }

    /// The Ethernet address of an IPv6 group (RFC 2464 §7).
    pub fn group_mac(&self) -> [u8; 6] {
        let [.., a, b, c, d] = self.0;
        [0x33, 0x33, a, b, c, d]
    }

    /// As the standard library has it.
    pub fn to_ip(self) -> IpAddr {
        match self.as_v4() {
            Some(a) => Ipv4Addr::from(a).into(),
            None => Ipv6Addr::from(self.0).into(),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(a: Ipv4Addr) -> Addr {
        Addr::v4(a.into())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(a: Ipv6Addr) -> Addr {
        Addr(a.octets())
    }
}

impl From<IpAddr> for Addr {
    fn from(a: IpAddr) -> Addr {
        match a {
            IpAddr::V4(a) => a.into(),
            IpAddr::V6(a) => a.into(),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a(s: &str) -> Addr {
        s.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn both_families_keep_their_form() {
        for s in ["10.0.0.1", "255.255.255.255", "::", "fd00::1", "ff02::1"] {
            assert_eq!(a(s).to_string(), s);
            assert_eq!(a(s).is_v6(), s.contains(':'), "{s}");
            assert_eq!(a(s).octets().len(), if s.contains(':') { 16 } else { 4 });
        }
        assert_eq!((a("10.0.0.1").as_v4(), a("fd00::1").as_v4()), (Some(0x0a00_0001), None));
    }

    #[test]
    fn odd_source_addresses_are_martians() {
        for (s, ok) in [
            ("10.0.0.1", true),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("127.0.0.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("fd00::1", true),
            ("fe80::1", true),
            ("::", false),
            ("::1", false),
            ("::10.0.0.1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(a(s).is_unicast(), ok, "{s}");
        }
    }

    #[test]
    fn prefixes_count_in_their_own_family() {
        let same = |x, y, n| a(x).same_prefix(&a(y), n);
        assert!(same("10.0.0.1", "10.0.0.200", 24) && !same("10.0.0.1", "10.0.1.1", 24));
        assert!(same("10.0.0.1", "99.0.0.1", 0) && !same("10.0.0.1", "10.0.0.2", 32));
        assert!(same("fd00::1", "fd00::ffff", 64) && !same("fd00::1", "fd00:0:0:1::1", 64));
        assert!(
            same("fd00::1", "1::", 0) && !same("fd00::1", "fd00::2", 128) && same("fd00::1", "fd00::2", 126)
        );
        assert!(!same("::", "0.0.0.0", 0), "families do not mix");
        assert!(same("10.0.0.1", "10.0.0.1", 255), "more bits than there are mean all of them");
    }

    #[test]
    fn what_follows_from_an_ethernet_address() {
        let l = Addr::link_local([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        assert_eq!(l, a("fe80::5054:ff:fe12:3456"));
        assert!(l.is_link_local() && !a("fec0::1").is_link_local());
        let g = l.solicited_node();
        assert_eq!((g, g.group_mac()), (a("ff02::1:ff12:3456"), [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]));
    }
}
