//! From a connection's bytes to the port's packets.

use std::collections::VecDeque;

use dataplane::pkt::{AttachError, Port, TX_HEAD_ROOM, TxCsum, TxMeta, TxPkt};

use crate::config::Counters;
use crate::csum::{Sum, pseudo};
use crate::shadow::{Chunk, Shadow};
use crate::wire::{self, Fields, HDR, HDR6, Mac, Template};

/// The port, its queue, and how packets have to look for it.
pub(crate) struct Io<P: Port> {
    pub(crate) port: P,
    pub(crate) q: VecDeque<P::Tx>,
    pub(crate) mac: Mac,
    /// Largest IP packet of the port, in bytes.
    pub(crate) mtu: u16,
    /// Largest IP packet that the port segments; 0 where it does not.
    super_max: u32,
    pub(crate) vlan: Option<u16>,
    /// The time of the turn, in ns.
    pub(crate) now: u64,
    hw_vlan: bool,
    offload: bool,
    attach_min: u32,
    depth: usize,
}

/// IP and TCP headers without options, in bytes.
fn headers(v6: bool) -> u32 {
    (if v6 { HDR6 + HDR } else { 2 * HDR }) as u32
}

impl<P: Port> Io<P> {
    pub(crate) fn new(port: P, vlan: Option<u16>, attach_min: u32, depth: usize) -> Io<P> {
        let c = port.caps();
        let offload = c.tx_csum;
        // TSO without checksum offload does not exist in hardware; plain segments then.
        let tso = if offload { c.tso_max.min(65_535) } else { 0 };
        let (mac, hw_vlan, mtu) = (c.mac, c.vlan_insert, c.mtu);
        Io {
            q: VecDeque::with_capacity(depth + 64),
            mac,
            mtu,
            super_max: tso,
            vlan,
            now: 0,
            hw_vlan,
            offload,
            attach_min: attach_min.max(1),
            depth,
            port,
        }
    }

    /// Our own MSS: what one packet of the port's MTU carries without options (RFC 6691).
    #[inline]
    pub(crate) fn mss(&self, v6: bool) -> u16 {
        self.mtu - headers(v6) as u16
    }

    /// Most payload of one packet that the port segments; 0 where it does not.
    #[inline]
    pub(crate) fn super_max(&self, v6: bool) -> u32 {
        self.super_max.saturating_sub(headers(v6))
    }

    /// VLAN id that the stack itself has to write into headers.
    pub(crate) fn soft_vlan(&self) -> Option<u16> {
        self.vlan.filter(|_| !self.hw_vlan)
    }

    /// Whether the port's queue is so deep that nothing more should be emitted.
    #[inline]
    pub(crate) fn deep(&self, c: &mut Counters) -> bool {
        let deep = self.q.len() >= self.depth;
        c.tx_deep += u64::from(deep);
        deep
    }

    /// Answers to strangers (RST, ARP, echo) may use the queue beyond the depth at which connections stop, up to
    /// twice that.
    fn alloc(&mut self, c: &mut Counters) -> Option<P::Tx> {
        if self.q.len() >= 2 * self.depth {
            c.tx_deep += 1;
            return None;
        }
        let t = self.port.tx_alloc();
        c.tx_no_buffer += u64::from(t.is_none());
        t
    }

    fn open(&mut self, t: &Template, options: &[u8], c: &mut Counters) -> Option<P::Tx> {
        let mut tx = self.alloc(c)?;
        tx.copy_in(t.bytes()).and_then(|()| tx.copy_in(options)).ok()?;
        Some(tx)
    }

    fn seal(&mut self, mut tx: P::Tx, t: &Template, f: &Fields, hlen: usize, segsz: u16) {
        let (l2, tcp_at) = (usize::from(t.l2), t.tcp_at());
        let plen = (tx.len() as usize).saturating_sub(tcp_at + hlen);
        let Some(ip) = tx.head_mut().get_mut(l2..) else { return };
        wire::patch(ip, f, hlen, plen);
        let mut meta = TxMeta {
            l2: t.l2,
            l3: t.l3,
            l4: hlen as u8,
            segsz,
            v6: t.v6(),
            vlan: self.vlan.filter(|_| self.hw_vlan),
            ..TxMeta::default()
        };
        let csum = if self.offload {
            meta.csum = TxCsum::Offload;
            let len = if segsz > 0 { 0 } else { hlen + plen };
            t.pseudo(len).folded()
        } else {
            let mut sum = t.pseudo(hlen + plen);
            let mut skip = tcp_at;
            tx.for_each(&mut |b| {
                let k = skip.min(b.len());
                skip -= k;
                sum.add(&b[k..]);
            });
            sum.finish()
        };
        let head = tx.head_mut();
        if !self.offload
            && let Some(ip) = head.get_mut(l2..)
        {
            wire::fill_ip_csum(ip);
        }
        if let Some(x) = head.get_mut(tcp_at + 16..tcp_at + 18) {
            x.copy_from_slice(&csum.to_be_bytes());
        }
        self.q.push_back(tx.finish(meta));
    }

    /// A segment without payload. `false` when the port has no buffer.
    pub(crate) fn control(&mut self, t: &Template, f: &Fields, options: &[u8], c: &mut Counters) -> bool {
        let Some(tx) = self.open(t, options, c) else { return false };
        c.tx_segments += 1;
        self.seal(tx, t, f, HDR + options.len(), 0);
        true
    }

    /// A segment with `options` and at most `len` bytes of `s` from `off` on, `mss` of them in each packet on the
    /// wire. Returns how many bytes it carries: fewer where buffers run out or copied bytes would have to follow attached ones. `None` when the
    /// port has no buffer.
    #[inline]
    pub(crate) fn data(
        &mut self,
        t: &Template,
        f: &Fields,
        options: &[u8],
        s: &mut Shadow,
        (off, len, mss): (u64, u32, u32),
        c: &mut Counters,
    ) -> Option<u32> {
        // Whole segments as far as there are any, so that only the last one of the stream is short.
        let hlen = HDR + options.len();
        // A port that does not segment gets one segment at a time, however small the peer wants them.
        let segments = self.super_max > u32::from(self.mtu);
        let cap = if segments { self.super_max(t.v6()).saturating_sub(options.len() as u32) } else { mss };
        let cap = cap.max(mss);
        let want = if len <= mss { len } else { (len.min(cap) / mss).max(1) * mss };
        let mut tx = self.open(t, options, c)?;
        let (n, attached) = fill(&mut tx, s, off, want, self.attach_min, c);
        if n == 0 {
            return Some(0);
        }
        c.tx_segments += 1;
        c.tx_bytes += u64::from(n);
        c.tx_attached_bytes += u64::from(attached);
        let mut f = *f;
        if off + u64::from(n) == s.end() {
            f.flags |= wire::PSH;
        }
        self.seal(tx, t, &f, hlen, if n > mss { mss as u16 } else { 0 });
        Some(n)
    }

    /// A frame of bytes that are complete, checksums included. `false` when the port has no buffer.
    pub(crate) fn raw(&mut self, b: &[u8], c: &mut Counters) -> bool {
        let vlan = self.vlan.filter(|_| self.hw_vlan);
        let Some(mut tx) = self.alloc(c) else { return false };
        if tx.copy_in(b).is_err() {
            return false;
        }
        let l2 = if self.soft_vlan().is_some() { 18 } else { 14 };
        self.q.push_back(tx.finish(TxMeta { l2, vlan, ..TxMeta::default() }));
        true
    }
}

/// Puts up to `want` bytes of `s` from `off` on into `tx`. Returns how many, and how many of them by reference.
#[inline]
fn fill<T: TxPkt>(
    tx: &mut T,
    s: &mut Shadow,
    off: u64,
    want: u32,
    attach_min: u32,
    c: &mut Counters,
) -> (u32, u32) {
    let (mut n, mut attached) = (0u32, 0u32);
    while n < want {
        let Some(chunk) = s.chunk(off + u64::from(n), want - n) else { break };
        let room = if attached == 0 { TX_HEAD_ROOM.saturating_sub(tx.len() as usize) } else { 0 };
        let (bytes, counter) = match chunk {
            Chunk::Inline(b) => (b, &mut c.tx_header_bytes),
            Chunk::Lent { lent, off, len } => {
                let Some(w) = lent.window(off, len) else { break };
                let short = len < attach_min && room >= len as usize;
                let refused = if short { None } else { tx.attach(&w).err() };
                match refused {
                    None if !short => {
                        n += len;
                        attached += len;
                        continue;
                    }
                    // The packet is full: the rest goes into the next one.
                    Some(AttachError::Segments { .. }) if n > 0 => break,
                    _ => (),
                }
                let counter = if short { &mut c.tx_inline_bytes } else { &mut c.tx_copied_bytes };
                (&lent.bytes()[off as usize..][..len as usize], counter)
            }
        };
        let k = bytes.len().min(room);
        if k == 0 || tx.copy_in(&bytes[..k]).is_err() {
            break;
        }
        *counter += k as u64;
        n += k as u32;
    }
    (n, attached)
}

/// Completes a small IPv4 packet in `b` (link header of `l2` bytes, 20 bytes of IP header with addresses set):
/// length, TTL, protocol, checksum.
pub(crate) fn small_ip(b: &mut [u8], l2: usize, proto: u8) {
    let total = (b.len() - l2.min(b.len())) as u16;
    let Some(ip) = b.get_mut(l2..) else { return };
    let Some(h) = ip.get_mut(..12) else { return };
    h.copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, proto, 0, 0]);
    h[2..4].copy_from_slice(&total.to_be_bytes());
    wire::fill_ip_csum(ip);
}

/// The sum of a packet's part above IP, pseudo-header included: 0xffff when the checksum is right.
pub(crate) fn upper_sum<R: dataplane::pkt::RxPkt>(p: &R, off: usize, ip: &wire::Ip) -> u16 {
    sum_from(p, off, ip.payload, pseudo(&ip.src, &ip.dst, ip.proto, ip.payload))
}

/// The sum of `len` bytes of a packet from `off` on, added to `sum`.
pub(crate) fn sum_from<R: dataplane::pkt::RxPkt>(p: &R, off: usize, len: usize, mut sum: Sum) -> u16 {
    let (mut skip, mut left) = (off, len);
    p.for_each(&mut |b| {
        let k = skip.min(b.len());
        skip -= k;
        let n = left.min(b.len() - k);
        left -= n;
        sum.add(&b[k..k + n]);
    });
    sum.folded()
}
