//! The queue of a port to which a TCP connection's packets come.
//!
//! A device with receive-side scaling hashes addresses and ports by Toeplitz's function under a key, and looks the
//! low bits of the hash up in its redirection table. The function is linear over XOR, so whoever picks the local
//! port picks the queue: a connection that we dial is brought to the queue of the lcore that dials it. A virtual
//! link without such a device has queues in pairs instead, and answers come back on the queue that they were asked
//! from.
//!
//! ```
//! use dataplane::steer::{KEY, Rss, Steering};
//!
//! let rss = Rss::new(KEY.to_vec(), (0..128).map(|i| i % 4).collect());
//! let mine = Steering::rss(2, 4, rss);
//! let (us, peer) = ("10.0.0.1".parse()?, "10.0.0.2:988".parse()?);
//! let class = mine.ports_of(us, peer);
//! // A quarter of the reserved ports lead here, whoever the peer is.
//! assert_eq!((512..=1023).filter(|p| class.has(*p)).count(), 128);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The key of Microsoft's verification suite for RSS, which most devices have from the start. Toeplitz's function
/// reads no more of a key than its input has, and 32 bits: 40 bytes for two addresses and ports of IPv6.
pub const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Source ports of a privileged dial: what a key has to spread over all queues.
const RESERVED: std::ops::RangeInclusive<u16> = 512..=1023;

/// The 32 bits of `key` from bit `at` on; zero bits beyond its end.
fn window(key: &[u8], at: usize) -> u32 {
    let byte = |i: usize| u64::from(key.get(i).copied().unwrap_or(0));
    let five = (0..5).fold(0, |acc, i| acc << 8 | byte(at / 8 + i));
    (five >> (8 - at % 8)) as u32
}

/// Toeplitz's function of `input`, which begins `at` bytes into the whole.
fn toeplitz(key: &[u8], at: usize, input: &[u8]) -> u32 {
    let mut h = 0;
    for (i, b) in input.iter().enumerate() {
        for bit in (0..8).filter(|bit| b & (0x80 >> bit) != 0) {
            h ^= window(key, (at + i) * 8 + bit);
        }
    }
    h
}

/// Receive-side scaling of a device: its key and its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rss {
    key: Vec<u8>,
    reta: Vec<u16>,
}

impl Rss {
    /// From the device's key and its redirection table: the queue of each value of the hash's low bits.
    pub fn new(key: Vec<u8>, reta: Vec<u16>) -> Rss {
        Rss { key, reta }
    }

    /// The hash of what a host at `src` sends to `dst`, both of one family.
    pub fn hash(&self, src: SocketAddr, dst: SocketAddr) -> u32 {
        let (start, at) = self.addresses(src.ip(), dst.ip());
        start
            ^ toeplitz(&self.key, at, &src.port().to_be_bytes())
            ^ toeplitz(&self.key, at + 2, &dst.port().to_be_bytes())
    }

    /// The addresses' part of the hash, and where the ports stand, in bytes.
    fn addresses(&self, src: IpAddr, dst: IpAddr) -> (u32, usize) {
        let part = |at, ip| match ip {
            IpAddr::V4(a) => toeplitz(&self.key, at, &a.octets()),
            IpAddr::V6(a) => toeplitz(&self.key, at, &a.octets()),
        };
        let each = if src.is_ipv4() { 4 } else { 16 };
        (part(0, src) ^ part(each, dst), 2 * each)
    }

    fn queue(&self, hash: u32) -> u16 {
        let n = self.reta.len().max(1);
        self.reta.get(hash as usize % n).copied().unwrap_or(0)
    }

    /// The queue that a frame comes to: TCP by addresses and ports; fragments and all else to the first entry's.
    pub fn queue_of_frame(&self, head: &[u8]) -> u16 {
        match tcp_ends(head) {
            Some((src, dst)) => self.queue(self.hash(src, dst)),
            None => self.queue(0),
        }
    }

    /// Whether some reserved port leads to each of `queues` queues, for every peer. A key with too little in it, or
    /// a table that leaves a queue out, does not.
    pub fn reaches_all(&self, queues: u16) -> bool {
        // Where the local port stands in the input, with IPv4 and IPv6. All that a peer decides is XORed on.
        let all = [4 + 4 + 2, 16 + 16 + 2].into_iter().all(|at| {
            let parts: Vec<u32> = RESERVED.map(|p| toeplitz(&self.key, at, &p.to_be_bytes())).collect();
            (0..self.reta.len() as u32)
                .all(|peer| (0..queues).all(|q| parts.iter().any(|part| self.queue(peer ^ part) == q)))
        });
        all && !self.reta.is_empty()
    }
}

/// Source and destination of a TCP segment that is no fragment, from its frame.
fn tcp_ends(head: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let be16 = |at: usize| head.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let l3 = if be16(12)? == 0x8100 { 18 } else { 14 };
    let v4 = |at: usize| <[u8; 4]>::try_from(head.get(at..at + 4)?).ok().map(IpAddr::from);
    let v6 = |at: usize| <[u8; 16]>::try_from(head.get(at..at + 16)?).ok().map(IpAddr::from);
    let (src, dst, l4) = match (be16(l3 - 2)?, *head.get(l3)? >> 4) {
        (0x0800, 4) if *head.get(l3 + 9)? == 6 && be16(l3 + 6)? & 0x3fff == 0 => {
            (v4(l3 + 12)?, v4(l3 + 16)?, l3 + usize::from(head[l3] & 15) * 4)
        }
        (0x86dd, 6) if *head.get(l3 + 6)? == 6 => (v6(l3 + 8)?, v6(l3 + 24)?, l3 + 40),
        _ => return None,
    };
    Some((SocketAddr::new(src, be16(l4)?), SocketAddr::new(dst, be16(l4 + 2)?)))
}

/// Inputs that decide the queue.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
enum By {
    /// There is one.
    #[default]
    Single,
    /// A hash.
    Rss(Arc<Rss>),
    /// The queue that we sent on.
    Mirror,
}

/// One of a port's queues, and how packets come to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steering {
    queue: u16,
    queues: u16,
    by: By,
}

impl Default for Steering {
    /// The only queue.
    fn default() -> Steering {
        Steering { queue: 0, queues: 1, by: By::Single }
    }
}

impl Steering {
    /// Queue `queue` of the `queues` of a device with receive-side scaling.
    pub fn rss(queue: u16, queues: u16, rss: impl Into<Arc<Rss>>) -> Steering {
        Steering { queue, queues: queues.max(1), by: By::Rss(rss.into()) }
    }

    /// Queue `queue` of `queues` that are answered on the queue they were asked from.
    pub fn mirror(queue: u16, queues: u16) -> Steering {
        Steering { queue, queues: queues.max(1), by: By::Mirror }
    }

    /// Number of this queue.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Number of the port's queues.
    pub fn queues(&self) -> u16 {
        self.queues
    }

    /// Spreading of packets, as a user reads it; `None` where there is one queue.
    pub fn how(&self) -> Option<&'static str> {
        match self.by {
            By::Single => None,
            _ if self.queues == 1 => None,
            By::Rss(_) => Some("RSS"),
            By::Mirror => Some("mirrored"),
        }
    }

    /// The queue of a connection from `local`, ours, to `remote`, if its port was chosen by [`Steering::ports_of`];
    /// by hash, of every connection.
    pub fn owner(&self, local: SocketAddr, remote: SocketAddr) -> u16 {
        self.ports_of(local.ip(), remote).owner(local.port())
    }

    /// Whether a hash alone decides the queue, whoever dialled.
    pub fn is_by_hash(&self) -> bool {
        matches!(self.by, By::Rss(_))
    }

    /// The local ports that bring what `remote` answers to this queue. Each queue has ports of its own.
    pub fn ports_of(&self, local: IpAddr, remote: SocketAddr) -> Class<'_> {
        let (start, at) = match &self.by {
            By::Rss(r) => {
                let (start, at) = r.addresses(remote.ip(), local);
                (start ^ toeplitz(&r.key, at, &remote.port().to_be_bytes()), at + 2)
            }
            By::Single | By::Mirror => (0, 0),
        };
        Class { of: self, start, at }
    }
}

/// Local ports towards one peer, by queue.
#[derive(Clone, Copy, Debug)]
pub struct Class<'a> {
    of: &'a Steering,
    /// All of the hash but the local port's part, which stands at this byte.
    start: u32,
    at: usize,
}

impl Class<'_> {
    /// Whether `port` leads to the queue that was asked.
    pub fn has(&self, port: u16) -> bool {
        self.owner(port) == self.of.queue
    }

    fn owner(&self, port: u16) -> u16 {
        match &self.of.by {
            By::Single => 0,
            By::Rss(r) => r.queue(self.start ^ toeplitz(&r.key, self.at, &port.to_be_bytes())),
            By::Mirror => port % self.of.queues,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rss(queues: u16) -> Rss {
        Rss::new(KEY.to_vec(), (0..128).map(|i| i % queues).collect())
    }

    /// "Verifying the RSS Hash Calculation", Microsoft, Windows driver documentation: destination, source, hash
    /// with ports.
    #[test]
    fn the_published_hashes() {
        for (dst, src, want) in [
            ("161.142.100.80:1766", "66.9.149.187:2794", 0x51cc_c178),
            ("65.69.140.83:4739", "199.92.111.2:14230", 0xc626_b0ea),
            ("12.22.207.184:38024", "24.19.198.95:12898", 0x5c2b_394a),
            ("209.142.163.6:2217", "38.27.205.30:48228", 0xafc7_327f),
            ("202.188.127.2:1303", "153.39.163.191:44251", 0x10e8_28a2),
            ("[3ffe:2501:200:3::1]:1766", "[3ffe:2501:200:1fff::7]:2794", 0x4020_7d3d),
            ("[ff02::1]:4739", "[3ffe:501:8::260:97ff:fe40:efab]:14230", 0xdde5_1bbf),
            ("[fe80::200:f8ff:fe21:67cf]:38024", "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251", 0x02d1_feef),
        ] {
            let (dst, src): (SocketAddr, SocketAddr) = (dst.parse().unwrap(), src.parse().unwrap());
            assert_eq!(rss(4).hash(src, dst), want, "{src} to {dst}");
        }
        // The same document's hashes of addresses alone.
        let alone = |src: &str, dst: &str| rss(4).addresses(src.parse().unwrap(), dst.parse().unwrap()).0;
        assert_eq!(alone("66.9.149.187", "161.142.100.80"), 0x323e_8fc2);
        assert_eq!(alone("3ffe:2501:200:1fff::7", "3ffe:2501:200:3::1"), 0x2cc1_8cd5);
    }

    proptest! {
        #[test]
        fn every_queue_has_its_part_of_the_reserved_ports_whoever_the_peer_is(
            us in any::<[u8; 4]>(), them in any::<[u8; 4]>(), us6 in any::<[u8; 16]>(), them6 in any::<[u8; 16]>(),
            port in any::<u16>(), bits in 0u32..=4, mirror in any::<bool>()
        ) {
            let queues = 1u16 << bits;
            for (us, them) in [(IpAddr::from(us), IpAddr::from(them)), (us6.into(), them6.into())] {
                let remote = SocketAddr::new(them, port);
                let mut taken = [false; 512];
                for q in 0..queues {
                    let s = if mirror { Steering::mirror(q, queues) } else { Steering::rss(q, queues, rss(queues)) };
                    let class = s.ports_of(us, remote);
                    let mine: Vec<u16> = RESERVED.filter(|p| class.has(*p)).collect();
                    prop_assert_eq!(mine.len(), 512 / usize::from(queues));
                    for p in mine {
                        let seen = std::mem::replace(&mut taken[usize::from(p) - 512], true);
                        prop_assert!(!seen, "port {} is in two classes", p);
                        prop_assert_eq!(s.owner(SocketAddr::new(us, p), remote), q);
                    }
                }
            }
        }

        #[test]
        fn arbitrary_frames_have_a_queue(b in proptest::collection::vec(any::<u8>(), 0..80), v in 0u8..16) {
            let mut b = b;
            prop_assert!(rss(4).queue_of_frame(&b) < 4);
            if b.len() > 24 {
                b[12..15].copy_from_slice(&[8, 0, 0x40 | v]);
                b[23] = 6;
                prop_assert!(rss(4).queue_of_frame(&b) < 4);
            }
        }
    }

    #[test]
    fn a_frame_goes_where_its_connection_belongs() {
        let (us, them): (SocketAddr, SocketAddr) =
            ("10.0.0.1:1020".parse().unwrap(), "10.0.0.2:988".parse().unwrap());
        let mut f = vec![0u8; 14];
        f[12] = 8;
        f.extend_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
        f.extend_from_slice(&[988u16.to_be_bytes(), 1020u16.to_be_bytes()].concat());
        for queues in [2, 3, 4, 8] {
            let r = rss(queues);
            let want = Steering::rss(0, queues, r.clone()).owner(us, them);
            assert_eq!(r.queue_of_frame(&f), want);
            let mut tagged = f[..12].to_vec();
            tagged.extend_from_slice(&[0x81, 0, 0, 7]);
            tagged.extend_from_slice(&f[12..]);
            assert_eq!(r.queue_of_frame(&tagged), want);
        }
        // ARP, ICMP, a fragment.
        for (at, v) in [(13, 6), (23, 1), (20, 0x20)] {
            let mut f = f.clone();
            f[at] = v;
            assert_eq!(rss(4).queue_of_frame(&f), 0);
        }
    }

    #[test]
    fn a_key_or_a_table_that_leaves_a_queue_out_is_found_out() {
        for queues in [1, 2, 3, 4, 5, 8, 16] {
            assert!(rss(queues).reaches_all(queues), "{queues}");
        }
        assert!(!Rss::new(vec![0; 40], (0..128).map(|i| i % 2).collect()).reaches_all(2));
        assert!(!Rss::new(KEY.to_vec(), vec![0; 128]).reaches_all(2));
        assert!(!Rss::new(KEY.to_vec(), Vec::new()).reaches_all(2));
    }

    #[test]
    fn one_queue_has_all_ports() {
        let s = Steering::default();
        let class = s.ports_of("10.0.0.1".parse().unwrap(), "10.0.0.2:988".parse().unwrap());
        assert!((0..=u16::MAX).all(|p| class.has(p)));
        assert_eq!((s.how(), Steering::mirror(1, 2).how()), (None, Some("mirrored")));
    }
}
