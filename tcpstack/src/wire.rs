//! Header views: Ethernet (one VLAN), IPv4, IPv6, TCP. Nothing here allocates or can panic on any input.

mod eth;
mod ip;
#[allow(clippy::indexing_slicing, reason = "writes headers into arrays of its own; it reads nothing")]
mod template;

pub use eth::{BROADCAST, ETH_ARP, ETH_IPV4, ETH_IPV6, Eth, Mac, eth, write_eth};
pub use ip::{EXT_MAX, Ip, fill_ip_csum, ip4, ip6, mark, write_ip4, write_ip6};
pub use template::{Fields, Head, Template, patch};

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

/// Length of a TCP or IPv4 header without options, in bytes.
pub const HDR: usize = 20;
/// Length of an IPv6 header without extensions, in bytes.
pub const HDR6: usize = 40;
/// Smallest MSS that is taken seriously, in bytes (Linux's TCP_MIN_SND_MSS).
pub const MIN_MSS: u16 = 48;
/// MSS of a peer that names none (RFC 9293 §3.7.1).
pub const DEFAULT_MSS: u16 = 536;

/// MSS of a peer that names none, in bytes (RFC 9293 §3.7.1, MUST-15): what the family's least MTU carries.
pub fn default_mss(v6: bool) -> u16 {
    if v6 { 1220 } else { DEFAULT_MSS }
}

/// Reason why a packet was not taken further.
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

#[inline]
fn be16(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*b.get(at)?, *b.get(at + 1)?]))
}

/// Copies `bytes` to `at`, where they fit.
pub(crate) fn put(b: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(room) = b.get_mut(at..).and_then(|b| b.get_mut(..bytes.len())) {
        room.copy_from_slice(bytes);
    }
}

#[inline]
fn mac(b: &[u8], at: usize) -> Option<Mac> {
    b.get(at..at + 6).and_then(|s| s.try_into().ok())
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
pub fn tcp(b: &[u8], ip: &Ip) -> Result<Seg, Drop> {
    let bad = Drop::Malformed;
    let Some(h) = b.first_chunk::<HDR>() else { return Err(bad) };
    let hlen = usize::from(h[12] >> 4) * 4;
    if hlen < HDR || hlen > ip.payload {
        return Err(bad);
    }
    // Both port numbers, the peer's first; ours belongs in the upper half.
    let ports = u32::from_be_bytes([h[0], h[1], h[2], h[3]]).rotate_left(16);
    if ports & 0xffff == 0 || ports >> 16 == 0 {
        return Err(bad);
    }
    Ok(Seg {
        key: Key { local: ip.dst, remote: ip.src, ports },
        seq: Seq(u32::from_be_bytes([h[4], h[5], h[6], h[7]])),
        ack: Seq(u32::from_be_bytes([h[8], h[9], h[10], h[11]])),
        flags: h[13] & 0x3f,
        win: u16::from_be_bytes([h[14], h[15]]),
        hlen,
        plen: (ip.payload - hlen) as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..160), len in 0usize..200) {
            let _ = eth(&b);
            for ip in [ip4(&b, len, false), ip6(&b, len)].into_iter().flatten() {
                let _ = tcp(&b[ip.hlen.min(b.len())..], &ip);
            }
        }
    }
}
