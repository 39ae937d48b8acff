//! smoltcp 0.14, unmodified, as the state machine of one connection at a time.
//!
//! It is fed what a network without loss, in order, would have delivered, at a time that never moves. So none of
//! its timers fires, it never retransmits, and what it emits are permissions: so many bytes may be sent, this
//! much may be acknowledged, that window may be offered, a SYN, FIN or RST is due.
//!
//! Whatever a connection's addresses, smoltcp sees two stand-ins of IPv4: it takes the addresses for nothing
//! but finding the socket, of which there is one a set. So one engine serves both families, and its packets have
//! the shorter header.
//!
//! Permissions are an upper bound: the congestion window acts when the shim sends ([`crate::sender`]).

use std::io;
use std::net::Ipv4Addr;

use smoltcp::iface::{Config, Interface, PollResult};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};

use crate::flow::scaled::UNIT;
use crate::opts::Opts;
use crate::phantom::{PhantomSocket, Rings, Scratch};
use crate::seq::Seq;
use crate::table::Key;
use crate::wire::{self, HDR};

pub use smoltcp::socket::tcp::State;

/// Our address and the peer's, as far as smoltcp knows (TEST-NET-1, RFC 5737).
const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Largest packet that smoltcp sees, in bytes. The shim cuts it to what the path takes.
const MTU: usize = 61_440;
/// MSS that smoltcp is fed for the peer.
const SHOWN_MSS: u16 = (MTU - 2 * HDR) as u16;
/// Most payload of one feed, in smoltcp's bytes.
pub const FEED_MAX: u32 = SHOWN_MSS as u32;
/// The time that smoltcp lives in. Its challenge-ACK limiter starts at 0, its timers end at least 10 ms later.
const NOW: Instant = Instant::from_micros_const(1);

/// A segment for smoltcp, without payload.
#[derive(Clone, Copy, Debug)]
pub struct Feed {
    /// Sequence number, the peer's own.
    pub seq: Seq,
    /// Acknowledgement in smoltcp's numbers, if the ACK flag is to be set.
    pub ack: Option<Seq>,
    /// SYN, FIN, RST.
    pub flags: u8,
    /// Window field.
    pub win: u16,
    /// Window scale of a SYN.
    pub scale: Option<u8>,
}

/// A segment that smoltcp wants sent, in its own numbers.
#[derive(Clone, Copy, Debug)]
pub struct Emission {
    /// Sequence number.
    pub seq: Seq,
    /// Acknowledgement number.
    pub ack: Seq,
    /// Flags.
    pub flags: u8,
    /// Window field.
    pub win: u16,
    /// Window scale for our SYN on the wire, where smoltcp's SYN has one.
    pub scale: Option<u8>,
    /// Scale of `win`, where scaling was agreed on.
    pub shift: u8,
    /// Payload in smoltcp's bytes.
    pub plen: u32,
}

/// Reason why there is no socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// smoltcp takes no port 0.
    Address,
    /// The kernel has no more addresses for its buffers.
    Map(io::ErrorKind),
}

struct Dev {
    rx: Scratch,
    tx: Scratch,
    rx_len: usize,
    tx_len: usize,
}

struct Rx<'a>(&'a [u8]);
struct Tx<'a>(&'a mut Scratch, &'a mut usize);

impl RxToken for Rx<'_> {
    #[inline]
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Tx<'_> {
    #[inline]
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        *self.1 = len;
        f(self.0.bytes_mut(len))
    }
}

impl Device for Dev {
    type RxToken<'a> = Rx<'a>;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        let n = std::mem::take(&mut self.rx_len);
        (n > 0).then_some((Rx(self.rx.bytes(n)), Tx(&mut self.tx, &mut self.tx_len)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.tx, &mut self.tx_len))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = Medium::Ip;
        c.max_transmission_unit = MTU;
        c.checksum = ChecksumCapabilities::ignored();
        c
    }
}

/// One lcore's smoltcp.
pub struct Engine {
    iface: Interface,
    dev: Dev,
    rings: Rings,
    rx_window: usize,
    /// The same in smoltcp's bytes.
    rx_ring: usize,
}

/// The window scale that a receive buffer of `bytes` needs (RFC 7323 §2.3).
fn scale_of(bytes: usize) -> u8 {
    (usize::BITS - bytes.leading_zeros()).saturating_sub(u16::BITS).min(14) as u8
}

impl Engine {
    /// An engine. Windows are in bytes and bound what one connection has in flight.
    ///
    /// # Errors
    /// The kernel refuses the mappings of the phantom rings.
    pub fn new(seed: u64, rx_window: usize, tx_window: usize) -> io::Result<Engine> {
        let mut dev = Dev { rx: Scratch::new(), tx: Scratch::new(), rx_len: 0, tx_len: 0 };
        let mut cfg = Config::new(HardwareAddress::Ip);
        cfg.random_seed = seed;
        let mut iface = Interface::new(cfg, &mut dev, NOW);
        iface.update_ip_addrs(|a| {
            // Capacity is at least one; a /32 has no broadcast address to confuse a peer's with.
            let _ = a.push(IpCidr::new(IpAddress::Ipv4(LOCAL), 32));
        });
        let [rx_ring, tx_ring] = [rx_window, tx_window].map(|w| w / UNIT as usize);
        let rings = Rings::new(rx_ring, tx_ring)?;
        Ok(Engine { iface, dev, rings, rx_window, rx_ring })
    }

    /// A socket that listens for the SYN of `k`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn listen(&mut self, k: &Key) -> Result<PhantomSocket, Refused> {
        let mut s = self.socket()?;
        let ep = IpListenEndpoint { addr: Some(IpAddress::Ipv4(LOCAL)), port: k.lport() };
        s.with(|s| s.listen(ep)).map(|()| s).map_err(|_| Refused::Address)
    }

    /// The window scale that our SYNs offer.
    pub fn own_scale(&mut self) -> Option<u8> {
        let mut s = self.connect(&Key::v4(1, 1, 2, 2)).ok()?;
        self.poll(&mut s)?.scale
    }

    fn socket(&self) -> Result<PhantomSocket, Refused> {
        self.rings.socket().map_err(|e| Refused::Map(e.kind()))
    }

    /// A socket about to send the SYN of `k`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn connect(&mut self, k: &Key) -> Result<PhantomSocket, Refused> {
        let mut s = self.socket()?;
        let remote = IpEndpoint::new(IpAddress::Ipv4(REMOTE), k.rport());
        let local = IpEndpoint::new(IpAddress::Ipv4(LOCAL), k.lport());
        let cx = self.iface.context();
        s.with(|s| s.connect(cx, remote, local)).map(|()| s).map_err(|_| Refused::Address)
    }

    fn load(&mut self, k: &Key, f: &Feed, plen: u32) {
        let b = self.dev.rx.bytes_mut(2 * HDR + 8);
        let hlen = if f.flags & wire::SYN == 0 { HDR } else { HDR + 8 };
        let total = (HDR + hlen) as u32 + plen;
        b[..4].copy_from_slice(&[0x45, 0, (total >> 8) as u8, total as u8]);
        b[4..12].copy_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0]);
        b[12..16].copy_from_slice(&REMOTE.octets());
        b[16..20].copy_from_slice(&LOCAL.octets());
        b[20..24].copy_from_slice(&k.ports.rotate_left(16).to_be_bytes());
        b[24..28].copy_from_slice(&f.seq.0.to_be_bytes());
        b[28..32].copy_from_slice(&f.ack.map_or(0, |a| a.0).to_be_bytes());
        b[32] = (hlen as u8 / 4) << 4;
        b[33] = f.flags | if f.ack.is_some() { wire::ACK } else { 0 };
        b[34..36].copy_from_slice(&f.win.to_be_bytes());
        b[36..40].fill(0);
        if hlen > HDR {
            let m = SHOWN_MSS.to_be_bytes();
            let o = match f.scale {
                Some(s) => [2, 4, m[0], m[1], 3, 3, s, 0],
                None => [2, 4, m[0], m[1], 0, 0, 0, 0],
            };
            b[40..48].copy_from_slice(&o);
        }
        self.dev.rx_len = total as usize;
        self.dev.tx_len = 0;
    }

    /// Feeds a segment with `plen` of smoltcp's bytes (at most [`FEED_MAX`]). Returns smoltcp's answer of its
    /// own; to a normalised feed there is none but for a SYN out of place.
    #[inline]
    pub fn feed(&mut self, s: &mut PhantomSocket, k: &Key, f: &Feed, plen: u32) -> Option<Emission> {
        self.load(k, f, plen.min(FEED_MAX));
        s.with_set(|set| self.iface.poll_ingress_single(NOW, &mut self.dev, set));
        self.emitted()
    }

    /// The next segment that the socket wants sent.
    #[inline]
    pub fn poll(&mut self, s: &mut PhantomSocket) -> Option<Emission> {
        self.dev.tx_len = 0;
        if s.with_set(|set| self.iface.poll_egress(NOW, &mut self.dev, set)) == PollResult::None {
            return None;
        }
        self.emitted()
    }

    #[inline]
    fn emitted(&mut self) -> Option<Emission> {
        let len = std::mem::take(&mut self.dev.tx_len);
        if len < 2 * HDR {
            return None;
        }
        let b = self.dev.tx.bytes(len.min(HDR + 60));
        let w = |i: usize| u32::from_be_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let hlen = usize::from(b[32] >> 4) * 4;
        let flags = b[33];
        let scale = if flags & wire::SYN == 0 { None } else { Opts::parse(b.get(40..HDR + hlen)?).scale };
        Some(Emission {
            seq: Seq(w(24)),
            ack: Seq(w(28)),
            flags,
            win: u16::from_be_bytes([b[34], b[35]]),
            scale: scale.map(|_| scale_of(self.rx_window)),
            shift: scale_of(self.rx_ring),
            plen: len.checked_sub(HDR + hlen)? as u32,
        })
    }

    /// Receive window of a connection, in bytes.
    pub fn rx_window(&self) -> u32 {
        self.rx_window as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::v4(0x0a00_0001, 988, 0x0a00_0002, 1023)
    }

    fn engine() -> Engine {
        Engine::new(1, 1 << 28, 1 << 28).unwrap()
    }

    #[test]
    fn a_connection_opens_moves_super_segments_and_never_retransmits() {
        let (mut e, k) = (engine(), key());
        let mut s = e.connect(&k).unwrap();
        let syn = e.poll(&mut s).unwrap();
        assert_eq!((syn.flags, syn.scale, syn.shift, syn.plen), (wire::SYN, Some(13), 5, 0));
        assert!(e.poll(&mut s).is_none(), "time stands still: no second SYN");
        let f =
            Feed { seq: Seq(100), ack: Some(syn.seq.plus(1)), flags: wire::SYN, win: 65_535, scale: Some(7) };
        assert!(e.feed(&mut s, &k, &f, 0).is_none());
        assert_eq!(s.get().state(), State::Established);
        assert_eq!(e.poll(&mut s).unwrap().ack, Seq(101));
        let f = Feed { seq: Seq(101), ack: Some(syn.seq.plus(1)), flags: 0, win: 8192, scale: None };
        assert!(e.feed(&mut s, &k, &f, FEED_MAX).is_none());
        assert_eq!(s.get().recv_queue(), FEED_MAX as usize);
        s.with(|s| s.send(|b| (200_000, assert!(b.len() >= 200_000)))).unwrap();
        let sizes: Vec<u32> = std::iter::from_fn(|| e.poll(&mut s)).map(|m| m.plen).collect();
        assert_eq!(sizes, [61_400, 61_400, 61_400, 15_800]);
    }
}
