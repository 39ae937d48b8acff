//! ARP for Ethernet and IPv4 (RFC 826): the packets. What they say goes to [`crate::neighbour`].

use crate::wire::{self, ETH_ARP, Mac};

/// Length of an ARP packet behind the link header, in bytes.
pub const LEN: usize = 28;
/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Request (1) or reply (2).
    pub op: u16,
    /// Sender's Ethernet address.
    pub sha: Mac,
    /// Sender's IPv4 address, host order.
    pub spa: u32,
    /// Target's Ethernet address.
    pub tha: Mac,
    /// Target's IPv4 address, host order.
    pub tpa: u32,
}

impl Packet {
    /// Parses; `None` for another hardware or protocol, or when it is cut short.
    pub fn parse(b: &[u8]) -> Option<Packet> {
        let b = b.first_chunk::<LEN>()?;
        if b[..6] != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let mac = |i: usize| b.get(i..i + 6)?.try_into().ok();
        let ip = |i: usize| b.get(i..i + 4)?.try_into().ok().map(u32::from_be_bytes);
        let op = u16::from_be_bytes([b[6], b[7]]);
        Some(Packet { op, sha: mac(8)?, spa: ip(14)?, tha: mac(18)?, tpa: ip(24)? })
    }

    /// A question for `tpa`. One for our own address announces that we have it (RFC 5227 §2.3).
    pub fn request(sha: Mac, spa: u32, tpa: u32) -> Packet {
        Packet { op: 1, sha, spa, tha: [0; 6], tpa }
    }

    /// The whole frame, link header included; returns its length (at most 46 bytes).
    pub fn frame(&self, dst: Mac, vlan: Option<u16>, out: &mut [u8; 46]) -> usize {
        let n = wire::write_eth(out, self.sha, dst, vlan, ETH_ARP);
        let mut b = [0; LEN];
        b[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
        b[6..8].copy_from_slice(&self.op.to_be_bytes());
        b[8..14].copy_from_slice(&self.sha);
        b[14..18].copy_from_slice(&self.spa.to_be_bytes());
        b[18..24].copy_from_slice(&self.tha);
        b[24..28].copy_from_slice(&self.tpa.to_be_bytes());
        wire::put(out, n, &b);
        n + LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_packet_parses_back_and_foreign_ones_do_not() {
        let (a, b) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let p = Packet { op: 2, sha: a, spa: 0x0a00_0001, tha: b, tpa: 0x0a00_0002 };
        let mut f = [0; 46];
        for (vlan, n) in [(None, 42), (Some(5), 46)] {
            assert_eq!(p.frame(b, vlan, &mut f), n);
            assert_eq!(Packet::parse(&f[n - LEN..n]), Some(p));
        }
        f[18 + 1] = 6;
        assert_eq!(Packet::parse(&f[18..]), None, "another hardware type");
        assert_eq!(Packet::parse(&[0; 27]), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Packet::parse(&b);
        }
    }
}
