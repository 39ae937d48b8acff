//! From a connection's bytes to the port's packets.

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use dataplane::pkt::{AttachError, Port, RX_BURST, TX_HEAD_ROOM, TxCsum, TxMeta, TxPkt};
use dataplane::tap::TapEnd;
use hugepages::Lent;

use crate::config::Counters;
use crate::csum::{Sum, pseudo};
use crate::seq::Seq;
use crate::shadow::{Chunk, Shadow};
use crate::table::Key;
use crate::udp::{self, Outgoing, UDP};
use crate::wire::{self, ETH_IPV4, ETH_IPV6, Fields, HDR, HDR6, Head, Mac, Template};

/// The port, its queue, and how packets have to look for it.
pub(crate) struct Io<P: Port> {
    port: P,
    /// Packets built, which the port has not taken yet.
    q: VecDeque<P::Tx>,
    mac: Mac,
    /// Largest IP packet of the port, in bytes.
    mtu: u16,
    /// Largest IP packet that the port segments; 0 where it does not.
    super_max: u32,
    vlan: Option<u16>,
    /// Type of service, or traffic class, of TCP's packets.
    tos: u8,
    /// The time of the turn, in ns.
    now: u64,
    hw_vlan: bool,
    offload: bool,
    attach_min: u32,
    depth: usize,
    /// The one to whom packets that pass are shown.
    tap: Option<Box<TapEnd>>,
}

/// Which bytes to send, and in what pieces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// From this offset...
    pub(crate) off: u64,
    /// ...to this one.
    pub(crate) end: u64,
    /// Payload of a packet on the wire.
    pub(crate) mss: u32,
    /// Bytes at most, in more than one frame.
    pub(crate) most: u32,
}

/// IP and TCP headers without options, in bytes.
#[inline]
fn headers(v6: bool) -> u32 {
    (if v6 { HDR6 + HDR } else { 2 * HDR }) as u32
}

impl<P: Port> Io<P> {
    pub(crate) fn new(port: P, vlan: Option<u16>, tos: u8, attach_min: u32, depth: usize) -> Io<P> {
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
            tos,
            now: 0,
            hw_vlan,
            offload,
            attach_min: attach_min.max(1),
            depth,
            tap: None,
            port,
        }
    }

    /// The port.
    pub(crate) fn port(&self) -> &P {
        &self.port
    }

    /// The port, for all that is not done here.
    pub(crate) fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// Our Ethernet address.
    #[inline]
    pub(crate) fn mac(&self) -> Mac {
        self.mac
    }

    /// Largest IP packet of the port, in bytes.
    pub(crate) fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The time of the turn, in ns.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// A turn begins at `now` (ns).
    #[inline]
    pub(crate) fn set_now(&mut self, now: u64) {
        self.now = now;
    }

    /// Packets built, which the port has not taken yet.
    #[inline]
    pub(crate) fn queued(&self) -> usize {
        self.q.len()
    }

    /// Shows the packets that pass to `tap`, or to nobody any more. Returns whom they were shown to so far.
    pub(crate) fn tap(&mut self, tap: Option<Box<TapEnd>>) -> Option<Box<TapEnd>> {
        std::mem::replace(&mut self.tap, tap)
    }

    /// Receives a burst.
    #[inline]
    pub(crate) fn receive(&mut self, burst: &mut ArrayVec<P::Rx, RX_BURST>) {
        self.port.rx_burst(burst);
        if let Some(t) = &mut self.tap {
            burst.iter().for_each(|p| t.received(p, self.now));
        }
    }

    /// Sends what is queued, as far as the port takes it, shown to nobody; returns how many packets that was.
    pub(crate) fn send(&mut self) -> usize {
        self.port.tx_burst(&mut self.q)
    }

    /// Drops the packets that the port has not taken; returns how many there were.
    pub(crate) fn drop_queued(&mut self) -> usize {
        let n = self.q.len();
        self.q.clear();
        n
    }

    /// Sends what is queued, as far as the port takes it; returns how many packets that was.
    #[inline]
    pub(crate) fn transmit(&mut self) -> u32 {
        (match &mut self.tap {
            None => self.port.tx_burst(&mut self.q),
            Some(t) => t.send(&mut self.port, &mut self.q, self.now),
        }) as u32
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

    /// Headers of our segments on the connection `key`; the next hop is `dst`.
    pub(crate) fn template(&self, dst: Mac, key: &Key) -> Template {
        Template::new(self.mac, dst, self.soft_vlan(), key).marked(self.tos)
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

    /// An empty packet with a header in it.
    #[inline]
    fn open(&mut self, head: &Head, c: &mut Counters) -> Option<P::Tx> {
        let mut tx = self.alloc(c)?;
        tx.copy_in(head.bytes()).ok()?;
        Some(tx)
    }

    /// Fills in what differs from segment to segment, and queues it. `plen` is the payload in bytes.
    #[inline]
    fn seal(&mut self, mut tx: P::Tx, head: &Head, seq: Seq, flags: u8, plen: usize, segsz: u16) {
        let (l2, l3, hlen) = (usize::from(head.l2), usize::from(head.l3), head.hlen());
        let mut meta = TxMeta {
            l2: head.l2,
            l3: head.l3,
            l4: hlen as u8,
            segsz,
            v6: head.v6(),
            vlan: self.vlan.filter(|_| self.hw_vlan),
            ..TxMeta::default()
        };
        let mut csum = 0;
        if self.offload {
            meta.csum = TxCsum::Offload;
            csum = head.pseudo(if segsz > 0 { 0 } else { hlen + plen }).folded();
        }
        let Some(ip) = tx.head_mut().get_mut(l2..) else { return };
        wire::patch(ip, l3, seq, flags, hlen + plen, csum);
        if !self.offload {
            if !head.v6() {
                wire::fill_ip_csum(ip);
            }
            let mut sum = head.pseudo(hlen + plen);
            let mut skip = l2 + l3;
            tx.for_each(&mut |b| {
                let k = skip.min(b.len());
                skip -= k;
                sum.add(&b[k..]);
            });
            if let Some(x) = tx.head_mut().get_mut(l2 + l3 + 16..l2 + l3 + 18) {
                x.copy_from_slice(&sum.finish().to_be_bytes());
            }
        }
        self.q.push_back(tx.finish(meta));
    }

    /// A segment without payload. `false` when the port has no buffer.
    pub(crate) fn control(&mut self, t: &Template, f: &Fields, options: &[u8], c: &mut Counters) -> bool {
        let mut head = Head::EMPTY;
        t.head_in(&mut head, f, options);
        let Some(tx) = self.open(&head, c) else { return false };
        c.tx_segments += 1;
        self.seal(tx, &head, f.seq, f.flags, 0, 0);
        true
    }

    /// Segments with `options` and the bytes of `s` in `run`, until that is sent or the port's queue is deep.
    /// Returns how much went: less where buffers run out or copied bytes would have to follow attached ones. `None`
    /// when the port has no buffer for the first.
    #[inline]
    pub(crate) fn data(
        &mut self,
        t: &Template,
        f: &Fields,
        options: &[u8],
        s: &mut Shadow,
        run: &Run,
        c: &mut Counters,
    ) -> Option<u32> {
        let (mss, mut head) = (run.mss, Head::EMPTY);
        t.head_in(&mut head, f, options);
        // A port that does not segment gets one segment at a time, however small the peer wants them.
        let segments = self.super_max > u32::from(self.mtu);
        let cap = if segments { self.super_max(t.v6()).saturating_sub(options.len() as u32) } else { mss };
        // Whole segments as far as there are any, so that only the last one of the stream is short.
        let cap = if cap > mss { cap / mss * mss } else { mss };
        let (mut off, mut seq, mut sent) = (run.off, f.seq, 0);
        loop {
            let left = (run.end - off).min(u64::from(u32::MAX)) as u32;
            // After the first only whole ones: whether a short one is due is not decided here.
            if sent > 0 && (left < cap || sent + cap > run.most || self.q.len() >= self.depth) {
                break;
            }
            let want = if left >= cap {
                cap
            } else if left > mss {
                left / mss * mss
            } else {
                left
            };
            let Some(mut tx) = self.open(&head, c) else {
                return (sent > 0).then_some(sent);
            };
            let (n, attached) = fill(&mut tx, s, off, want, self.attach_min, c);
            if n == 0 {
                break;
            }
            c.tx_segments += 1;
            c.tx_bytes += u64::from(n);
            c.tx_attached_bytes += u64::from(attached);
            off += u64::from(n);
            let push = if off == s.end() { wire::PSH } else { 0 };
            self.seal(tx, &head, seq, f.flags | push, n as usize, if n > mss { mss as u16 } else { 0 });
            seq = seq.plus(u64::from(n));
            sent += n;
            if n < want {
                break;
            }
        }
        Some(sent)
    }

    /// A datagram to the next hop `dst`, its pages by reference; `None` when the port has no buffer, `false` when the port
    /// cannot take it at all.
    pub(crate) fn datagram(&mut self, dst: Mac, o: &Outgoing, c: &mut Counters) -> Option<bool> {
        let (v6, len) = (o.key.is_v6(), udp::HEADER + o.len());
        let (kind, l3) = if v6 { (ETH_IPV6, HDR6) } else { (ETH_IPV4, HDR) };
        let mut tx = self.alloc(c)?;
        let mut b = [0; 18 + HDR6 + udp::HEADER];
        let l2 = wire::write_eth(&mut b, self.mac, dst, self.soft_vlan(), kind);
        let at = l2 + l3;
        let ip = b.get_mut(l2..at)?;
        if v6 {
            wire::write_ip6(ip, &o.key.local, &o.key.remote, UDP, 64, len);
        } else {
            wire::write_ip4(ip, &o.key.local, &o.key.remote, UDP, len);
        }
        wire::mark(ip, self.tos);
        wire::put(&mut b, at, &udp::header(&o.key, o.len()));
        let fits = tx.copy_in(b.get(..at + udp::HEADER)?).and_then(|()| tx.copy_in(&o.hdr)).is_ok();
        if !fits || !o.pay.iter().all(|l| attach_all(&mut tx, l, self.attach_min, c)) {
            return Some(false);
        }
        let mut sum = pseudo(&o.key.local, &o.key.remote, UDP, len);
        let mut skip = at;
        tx.for_each(&mut |b| {
            let k = skip.min(b.len());
            skip -= k;
            sum.add(b.get(k..).unwrap_or_default());
        });
        // None at all is 0, so a sum of 0 is sent as its other form (RFC 768).
        let sum = match sum.finish() {
            0 => 0xffff,
            s => s,
        };
        wire::put(tx.head_mut(), at + 6, &sum.to_be_bytes());
        let vlan = self.vlan.filter(|_| self.hw_vlan);
        let meta =
            TxMeta { l2: l2 as u8, l3: l3 as u8, l4: udp::HEADER as u8, v6, vlan, ..TxMeta::default() };
        self.q.push_back(tx.finish(meta));
        Some(true)
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

/// Appends a window, piece by piece where it was received.
fn attach_all<T: TxPkt>(tx: &mut T, l: &Lent, attach_min: u32, c: &mut Counters) -> bool {
    let mut at = 0;
    while at < l.len() {
        let n = l.chunk(at).len() as u32;
        let Some(piece) = l.window(at, n).filter(|_| n > 0) else { return false };
        if !attach(tx, &piece, attach_min, c) {
            return false;
        }
        at += n;
    }
    true
}

/// Appends a window of bytes that lie together: by reference, or copied where it is short or the port does not take it. `false`
/// where neither is possible.
fn attach<T: TxPkt>(tx: &mut T, l: &Lent, attach_min: u32, c: &mut Counters) -> bool {
    let short = l.len() < attach_min;
    if !short && tx.attach(l).is_ok() {
        c.tx_attached_bytes += u64::from(l.len());
        return true;
    }
    // Bytes cannot be copied behind pages.
    if tx.copy_in(l.chunk(0)).is_ok() {
        *if short { &mut c.tx_short_bytes } else { &mut c.tx_copied_bytes } += u64::from(l.len());
        return true;
    }
    let attached = short && tx.attach(l).is_ok();
    c.tx_attached_bytes += if attached { l.len().into() } else { 0 };
    attached
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
                let counter = if short { &mut c.tx_short_bytes } else { &mut c.tx_copied_bytes };
                (&lent.chunk(off)[..len as usize], counter)
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

/// Copies a packet's bytes from `off` on into `b`; returns how many.
pub(crate) fn gather<R: dataplane::pkt::RxPkt>(p: &R, off: usize, b: &mut [u8]) -> usize {
    let (mut skip, mut at) = (off, 0);
    p.for_each(&mut |x| {
        let k = skip.min(x.len());
        skip -= k;
        let n = (x.len() - k).min(b.len() - at);
        b[at..at + n].copy_from_slice(&x[k..k + n]);
        at += n;
    });
    at
}
