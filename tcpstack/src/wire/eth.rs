//! The link layer: Ethernet, with at most one VLAN tag and one that says a priority only.

use super::{be16, mac, put};

/// EtherType of IPv4.
pub const ETH_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETH_IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ETH_ARP: u16 = 0x0806;
const ETH_VLAN: u16 = 0x8100;
/// A provider's tag (IEEE 802.1ad).
const ETH_STAG: u16 = 0x88a8;
/// Most tags of a frame.
const TAGS: usize = 2;

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
    /// VLAN id in the packet itself. VID 0 says a priority and no VLAN, so it is none.
    pub vlan: Option<u16>,
    /// Length of the header in bytes: 14, and 4 for each tag.
    pub len: usize,
}

/// Parses the Ethernet header.
#[inline]
pub fn eth(b: &[u8]) -> Option<Eth> {
    let h = b.first_chunk::<14>()?;
    let (dst, src) = (mac(h, 0)?, mac(h, 6)?);
    let (kind, vlan, len) = match u16::from_be_bytes([h[12], h[13]]) {
        kind @ (ETH_VLAN | ETH_STAG) => tags(b, kind)?,
        kind => (kind, None, 14),
    };
    Some(Eth { dst, src, kind, vlan, len })
}

/// Steps over tags as Linux does: those with VID 0 wherever they are and of either kind, and one VLAN's. A tag that is
/// not stepped over is what the EtherType says: no protocol of ours. Gives the EtherType, the VLAN and the header's length.
#[cold]
fn tags(b: &[u8], mut kind: u16) -> Option<(u16, Option<u16>, usize)> {
    let (mut vlan, mut len) = (None, 14);
    for _ in 0..TAGS {
        let vid = be16(b, len)? & 0xfff;
        match (kind, vid) {
            (ETH_VLAN | ETH_STAG, 0) => (),
            (ETH_VLAN, _) if vlan.is_none() => vlan = Some(vid),
            _ => break,
        }
        kind = be16(b, len + 2)?;
        len += 4;
        if !matches!(kind, ETH_VLAN | ETH_STAG) {
            break;
        }
    }
    Some((kind, vlan, len))
}

/// Writes an Ethernet header to the start of `b` (at least 18 bytes) and returns its length.
pub fn write_eth(b: &mut [u8], src: Mac, dst: Mac, vlan: Option<u16>, kind: u16) -> usize {
    let mut n = 0;
    let mut push = |x: &[u8]| {
        put(b, n, x);
        n += x.len();
    };
    push(&dst);
    push(&src);
    if let Some(v) = vlan {
        push(&ETH_VLAN.to_be_bytes());
        push(&v.to_be_bytes());
    }
    push(&kind.to_be_bytes());
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

    /// Field report 14: priority-tagged frames.
    #[test]
    fn vid_0_is_untagged() {
        const STAG: u16 = 0x88a8;
        let frame = |tags: &[(u16, u16)]| {
            let mut b = vec![1; 12];
            for (kind, tci) in tags {
                b.extend_from_slice(&kind.to_be_bytes());
                b.extend_from_slice(&tci.to_be_bytes());
            }
            b.extend_from_slice(&[8, 0, 0x45, 0, 0, 0]);
            b
        };
        let see = |tags: &[(u16, u16)]| eth(&frame(tags)).map(|e| (e.kind, e.vlan, e.len));
        for (tags, is) in [
            (&[(ETH_VLAN, 0)][..], (ETH_IPV4, None, 18)),
            (&[(ETH_VLAN, 0xf000)], (ETH_IPV4, None, 18)), // priority 7, drop eligible
            (&[(STAG, 0x6000)], (ETH_IPV4, None, 18)),
            (&[(ETH_VLAN, 0), (ETH_VLAN, 0)], (ETH_IPV4, None, 22)),
            (&[(ETH_VLAN, 0), (ETH_VLAN, 5)], (ETH_IPV4, Some(5), 22)),
            (&[(ETH_VLAN, 0xe005), (ETH_VLAN, 0)], (ETH_IPV4, Some(5), 22)),
            (&[(ETH_VLAN, 5), (ETH_VLAN, 6)], (ETH_VLAN, Some(5), 18)),
            (&[(STAG, 5)], (STAG, None, 14)),
            (&[(ETH_VLAN, 0), (ETH_VLAN, 0), (ETH_VLAN, 0)], (ETH_VLAN, None, 22)),
        ] {
            assert_eq!(see(tags), Some(is), "{tags:x?}");
            let (b, len) = (frame(tags), is.2);
            for cut in 0..len {
                assert!(eth(&b[..cut]).is_none(), "{tags:x?} cut to {cut}");
            }
        }
    }
}
