//! The link layer: Ethernet with at most one VLAN tag.

use super::{be16, mac};

/// EtherType of IPv4.
pub const ETH_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETH_IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ETH_ARP: u16 = 0x0806;
const ETH_VLAN: u16 = 0x8100;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The broadcast address.
pub const BROADCAST: Mac = [0xff; 6];

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

/// Parses the Ethernet header.
#[inline]
pub fn eth(b: &[u8]) -> Option<Eth> {
    let h = b.first_chunk::<14>()?;
    let (dst, src) = (mac(h, 0)?, mac(h, 6)?);
    match u16::from_be_bytes([h[12], h[13]]) {
        ETH_VLAN => Some(Eth { dst, src, kind: be16(b, 16)?, vlan: Some(be16(b, 14)? & 0xfff), len: 18 }),
        kind => Some(Eth { dst, src, kind, vlan: None, len: 14 }),
    }
}

/// Writes an Ethernet header to the start of `b` (at least 18 bytes) and returns its length.
pub fn write_eth(b: &mut [u8], src: Mac, dst: Mac, vlan: Option<u16>, kind: u16) -> usize {
    let mut n = 0;
    let mut put = |x: &[u8]| {
        b[n..n + x.len()].copy_from_slice(x);
        n += x.len();
    };
    put(&dst);
    put(&src);
    if let Some(v) = vlan {
        put(&ETH_VLAN.to_be_bytes());
        put(&v.to_be_bytes());
    }
    put(&kind.to_be_bytes());
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tagged_and_plain_ethernet() {
        let mut b = [0; 18];
        assert_eq!(write_eth(&mut b, [1; 6], [2; 6], Some(42), ETH_ARP), 18);
        assert_eq!(eth(&b), Some(Eth { dst: [2; 6], src: [1; 6], kind: ETH_ARP, vlan: Some(42), len: 18 }));
        assert_eq!(write_eth(&mut b, [1; 6], [2; 6], None, ETH_IPV4), 14);
        assert_eq!(eth(&b).map(|e| (e.kind, e.vlan, e.len)), Some((ETH_IPV4, None, 14)));
        assert_eq!(eth(&b[..13]), None);
    }
}
