//! Packets to be sent: a head mbuf with copied bytes, then bare mbufs with pages attached.

use std::cell::Cell;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use dpdk_sys as sys;
use hugepages::{BAD_IOVA, Lent, Place, ShInfo};

use super::mempool::Mempool;
use super::resend::frames;
use super::rx::chain_bytes;
use crate::pkt::{AttachError, Full, Reach, TX_HEAD_ROOM, TxCsum, TxMeta, TxPkt};

// An mbuf points at a `ShInfo` as if it were DPDK's.
const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    type Theirs = sys::shim_shared_info;
    assert!(size_of::<ShInfo>() == size_of::<Theirs>() && align_of::<ShInfo>() == align_of::<Theirs>());
    assert!(offset_of!(ShInfo, free_cb) == offset_of!(Theirs, free_cb));
    assert!(offset_of!(ShInfo, fcb_opaque) == offset_of!(Theirs, fcb_opaque));
    assert!(offset_of!(ShInfo, refcnt) == offset_of!(Theirs, refcnt));
};

/// State that all packets of a queue share.
pub(crate) struct TxCtx {
    pub name: String,
    pub heads: Arc<Mempool>,
    pub bare: Arc<Mempool>,
    pub reach: Reach,
    pub max_segs: u16,
    /// The device inserts VLAN tags; done here otherwise.
    pub hw_vlan: bool,
    /// The device completes IPv4 header checksums; done here otherwise.
    pub hw_ip_csum: bool,
    pub attached: Cell<u64>,
}

/// A packet to be sent: a chain of mbufs that this value owns.
pub struct EthTxPkt {
    m: NonNull<sys::shim_mbuf>,
    tail: NonNull<sys::shim_mbuf>,
    meta: TxMeta,
    pub(crate) prepared: bool,
    /// The driver refused it as it was, and this is another form of it.
    pub(crate) again: bool,
    ctx: Rc<TxCtx>,
}

/// The pieces of `addr..addr + len`, each at most 65,535 bytes (`buf_len` is 16 bits wide) and inside one aligned
/// block of `contig` bytes (0: no such bound).
fn windows(addr: usize, len: u32, contig: u32) -> impl Iterator<Item = (u32, u16)> {
    let mut at = 0u32;
    std::iter::from_fn(move || {
        let left = len - at;
        if left == 0 {
            return None;
        }
        let mut n = left.min(u32::from(u16::MAX));
        if contig > 0 {
            let into = (addr + at as usize) & (contig as usize - 1);
            n = n.min(contig - into as u32);
        }
        let piece = (at, n as u16);
        at += n;
        Some(piece)
    })
}

impl EthTxPkt {
    pub(crate) fn alloc(ctx: &Rc<TxCtx>) -> Option<EthTxPkt> {
        // SAFETY: the pool lives as long as the context; this is its lcore.
        let m = NonNull::new(unsafe { sys::shim_pktmbuf_alloc(ctx.heads.raw()) })?;
        Some(EthTxPkt {
            m,
            tail: m,
            meta: TxMeta::default(),
            prepared: false,
            again: false,
            ctx: ctx.clone(),
        })
    }

    /// The packet in forms that ask nothing of the device, in buffers that hold each in one piece: heads, or those of
    /// `large` for what a head has no room for. `None` without enough of them; the packet is gone then.
    pub(crate) fn plain(self, large: &Arc<Mempool>) -> Option<Vec<EthTxPkt>> {
        let mut bytes = Vec::with_capacity(self.len() as usize);
        self.for_each(&mut |b| bytes.extend_from_slice(b));
        let (ctx, mut m) = (self.ctx.clone(), self.meta);
        if m.vlan.is_some() && !ctx.hw_vlan {
            // The tag is among the bytes.
            (m.l2, m.vlan) = (m.l2 + 4, None);
        }
        drop(self);
        let pack = |f: Vec<u8>| {
            let (pool, room) = match f.len() {
                n if n <= TX_HEAD_ROOM => (&ctx.heads, TX_HEAD_ROOM),
                _ => (large, usize::from(large.room())),
            };
            // SAFETY: the pool lives as long as the context or the caller's handle; this is its lcore.
            let raw = NonNull::new(unsafe { sys::shim_pktmbuf_alloc(pool.raw()) })?;
            let mut p = EthTxPkt {
                m: raw,
                tail: raw,
                meta: TxMeta::default(),
                prepared: false,
                again: true,
                ctx: ctx.clone(),
            };
            if f.len() > room {
                return None;
            }
            // SAFETY: a fresh mbuf of ours, whose data room behind the headroom is `room` bytes.
            unsafe {
                let h = p.m.as_mut();
                let to = h.buf_addr.cast::<u8>().add(usize::from(h.data_off));
                std::ptr::copy_nonoverlapping(f.as_ptr(), to, f.len());
                (h.data_len, h.pkt_len) = (f.len() as u16, f.len() as u32);
            }
            Some(p.finish(TxMeta { csum: TxCsum::Done, segsz: 0, ..m }))
        };
        frames(&bytes, &m).into_iter().map(pack).collect()
    }

    pub(crate) fn raw(&self) -> *mut sys::shim_mbuf {
        self.m.as_ptr()
    }

    /// The driver has taken the chain.
    pub(crate) fn sent(self) {
        let me = std::mem::ManuallyDrop::new(self);
        // SAFETY: `me` is not dropped, so its context is read out exactly once.
        drop(unsafe { std::ptr::read(&raw const me.ctx) });
    }

    fn mbuf(&self) -> &sys::shim_mbuf {
        // SAFETY: the chain is ours.
        unsafe { self.m.as_ref() }
    }

    /// A bare mbuf with the piece attached.
    fn piece(&self, p: &Place<'_>, off: u32, len: u16) -> Result<NonNull<sys::shim_mbuf>, AttachError> {
        let io = p.io();
        let iova = if io.contig == 0 {
            io.on(off).iova
        } else {
            // SAFETY: asks the EAL's page tables for an address; every value is allowed.
            unsafe { sys::rte_mem_virt2iova(p.bytes().as_ptr().wrapping_add(off as usize).cast()) }
        };
        if iova == BAD_IOVA && self.ctx.reach == Reach::Eal {
            return Err(self.unreachable(p));
        }
        // SAFETY: the pool lives as long as the context; this is its lcore.
        let Some(m) = NonNull::new(unsafe { sys::shim_pktmbuf_alloc(self.ctx.bare.raw()) }) else {
            return Err(AttachError::NoBuffer);
        };
        let nic = match p.nic_ref(off, u32::from(len)) {
            Ok(nic) => nic,
            Err(e) => {
                // SAFETY: a fresh mbuf that nothing refers to.
                unsafe { sys::shim_pktmbuf_free_seg(m.as_ptr()) };
                return Err(e.into());
            }
        };
        let (sh, addr, _) = nic.into_raw();
        // SAFETY: `m` is a fresh mbuf without a data room. The shared info has DPDK's layout (asserted above),
        // outlives every count on it, and the count that `nic` held passes to the mbuf. Drivers only read the
        // data of a packet that is sent.
        unsafe {
            sys::shim_pktmbuf_attach_extbuf(
                m.as_ptr(),
                addr.cast_mut().cast(),
                iova,
                len,
                sh.as_ptr().cast(),
            );
            (*m.as_ptr()).data_len = len;
            (*m.as_ptr()).pkt_len = u32::from(len);
        }
        Ok(m)
    }

    fn unreachable(&self, p: &Place<'_>) -> AttachError {
        AttachError::Unreachable { port: self.ctx.name.clone(), kind: p.kind() }
    }

    /// Puts an 802.1Q tag behind the addresses, in the headroom: what the device does where it can.
    fn insert_vlan(&mut self, vid: u16) -> bool {
        // SAFETY: the head mbuf is ours; 4 bytes are taken from its headroom only when it has them.
        let h = unsafe {
            let m = self.m.as_mut();
            if m.data_off < 4 || m.data_len < 14 {
                return false;
            }
            m.data_off -= 4;
            m.data_len += 4;
            m.pkt_len += 4;
            self.head_mut()
        };
        h.copy_within(4..16, 0);
        h[12..14].copy_from_slice(&[0x81, 0x00]);
        h[14..16].copy_from_slice(&(vid & 0x0fff).to_be_bytes());
        true
    }
}

/// Fills in the checksum of an IPv4 header, whose length is a multiple of 4.
fn ipv4_header_csum(h: &mut [u8]) {
    h[10..12].fill(0);
    let mut sum: u32 = h.as_chunks::<2>().0.iter().map(|c| u32::from(u16::from_be_bytes(*c))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    h[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// DPDK's packed `tx_offload` word: l2_len 7 bits, l3_len 9, l4_len 8, tso_segsz 16.
fn tx_offload(l2: u8, l3: u8, l4: u8, segsz: u16) -> u64 {
    u64::from(l2 & 0x7f) | u64::from(l3) << 7 | u64::from(l4) << 16 | u64::from(segsz) << 24
}

impl TxPkt for EthTxPkt {
    fn head_mut(&mut self) -> &mut [u8] {
        // SAFETY: the head mbuf is ours and borrowed mutably for as long as the slice.
        unsafe {
            let m = self.m.as_ref();
            let p = m.buf_addr.cast::<u8>().add(usize::from(m.data_off));
            std::slice::from_raw_parts_mut(p, usize::from(m.data_len))
        }
    }

    fn copy_in(&mut self, b: &[u8]) -> Result<(), Full> {
        // SAFETY: the head mbuf is ours; its data room is TX_HEAD_ROOM behind the headroom, and the sum is checked.
        unsafe {
            let m = self.m.as_mut();
            if usize::from(m.data_len) + b.len() > TX_HEAD_ROOM || self.tail != self.m {
                return Err(Full);
            }
            let to = m.buf_addr.cast::<u8>().add(usize::from(m.data_off) + usize::from(m.data_len));
            std::ptr::copy_nonoverlapping(b.as_ptr(), to, b.len());
            m.data_len += b.len() as u16;
            m.pkt_len += b.len() as u32;
        }
        Ok(())
    }

    fn attach(&mut self, s: &Lent) -> Result<(), AttachError> {
        let place = s.place();
        if !self.ctx.reach.covers(place.io()) {
            return Err(self.unreachable(&place));
        }
        if place.bytes().len() < s.len() as usize {
            return Err(AttachError::Scattered);
        }
        let contig = if self.ctx.reach == Reach::Eal { place.io().contig } else { 0 };
        let addr = place.bytes().as_ptr() as usize;
        let pieces = windows(addr, s.len(), contig).count();
        if usize::from(self.mbuf().nb_segs) + pieces > usize::from(self.ctx.max_segs) {
            return Err(AttachError::Segments { max: self.ctx.max_segs });
        }
        let (mut first, mut last): (Option<NonNull<sys::shim_mbuf>>, Option<NonNull<sys::shim_mbuf>>) =
            (None, None);
        for (off, len) in windows(addr, s.len(), contig) {
            match self.piece(&place, off, len) {
                Ok(m) => {
                    if let Some(l) = last {
                        // SAFETY: pieces of the chain being built are ours.
                        unsafe { (*l.as_ptr()).next = m.as_ptr() };
                    }
                    first = first.or(Some(m));
                    last = Some(m);
                }
                Err(e) => {
                    if let Some(f) = first {
                        // SAFETY: the chain built so far is ours and not linked to the packet; freeing it detaches
                        // the pieces, which gives their counts back.
                        unsafe { sys::shim_pktmbuf_free(f.as_ptr()) };
                    }
                    return Err(e);
                }
            }
        }
        let (Some(f), Some(l)) = (first, last) else { return Ok(()) };
        // SAFETY: all of it is ours.
        unsafe {
            (*self.tail.as_ptr()).next = f.as_ptr();
            let h = self.m.as_mut();
            h.nb_segs += pieces as u16;
            h.pkt_len += s.len();
        }
        self.tail = l;
        self.ctx.attached.set(self.ctx.attached.get() + 1);
        Ok(())
    }

    fn len(&self) -> u32 {
        self.mbuf().pkt_len
    }

    fn for_each(&self, f: &mut dyn FnMut(&[u8])) {
        // SAFETY: the chain is ours; attached pages are read-only.
        unsafe { chain_bytes(self.m.as_ptr(), f) }
    }

    fn finish(mut self, meta: TxMeta) -> Self {
        self.meta = meta;
        let mut flags = 0;
        let mut l2 = meta.l2;
        if meta.csum == TxCsum::Offload {
            flags |= sys::SHIM_MBUF_F_TX_TCP_CKSUM;
            flags |= if meta.v6 { sys::SHIM_MBUF_F_TX_IPV6 } else { sys::SHIM_MBUF_F_TX_IPV4 };
            if !meta.v6 && self.ctx.hw_ip_csum {
                flags |= sys::SHIM_MBUF_F_TX_IP_CKSUM;
            } else if !meta.v6 {
                let (from, to) = (usize::from(meta.l2), usize::from(meta.l2) + usize::from(meta.l3));
                if let Some(ip) = self.head_mut().get_mut(from..to).filter(|h| h.len() >= 20) {
                    ipv4_header_csum(ip);
                }
            }
            if meta.segsz > 0 {
                flags |= sys::SHIM_MBUF_F_TX_TCP_SEG;
            }
        }
        let mut tci = 0;
        if let Some(vid) = meta.vlan {
            if self.ctx.hw_vlan {
                flags |= sys::SHIM_MBUF_F_TX_VLAN;
                tci = vid & 0x0fff;
            } else if self.insert_vlan(vid) {
                l2 += 4;
            }
        }
        // SAFETY: the head mbuf is ours.
        unsafe {
            let m = self.m.as_mut();
            m.ol_flags |= flags;
            m.vlan_tci = tci;
            m.tx_offload = tx_offload(l2, meta.l3, meta.l4, meta.segsz);
        }
        self.prepared = flags == 0;
        self
    }

    fn tx_meta(&self) -> TxMeta {
        self.meta
    }
}

impl Drop for EthTxPkt {
    fn drop(&mut self) {
        // SAFETY: the chain is ours and no driver has it; this is its lcore (the packet is not Send).
        unsafe { sys::shim_pktmbuf_free(self.m.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_the_piece_within_16_bits_and_blocks() {
        let w = |a, l, c| windows(a, l, c).collect::<Vec<_>>();
        assert_eq!(w(0, 65_536, 0), [(0, 65_535), (65_535, 1)]);
        assert_eq!(w(0x1ff0, 0x2020, 0x1000), [(0, 0x10), (0x10, 0x1000), (0x1010, 0x1000), (0x2010, 0x10)]);
        assert_eq!(w(0x1000, 0x1000, 0x1000), [(0, 0x1000)]);
        assert!(w(5, 0, 0).is_empty());
        let big = w(123, 10 << 20, 2 << 20);
        assert_eq!(big.iter().map(|p| u64::from(p.1)).sum::<u64>(), 10 << 20);
    }

    #[test]
    fn the_offload_word_is_packed_as_dpdk_packs_it() {
        // SAFETY: a function of its arguments.
        let theirs = |l2, l3, l4, segsz| unsafe { sys::shim_mbuf_tx_offload(l2, l3, l4, segsz) };
        assert_eq!(tx_offload(18, 40, 32, 8948), theirs(18, 40, 32, 8948));
        assert_eq!(tx_offload(127, 255, 255, u16::MAX), theirs(127, 255, 255, u16::MAX));
    }

    #[test]
    fn the_ipv4_header_sums_to_ones() {
        // RFC 1071: the sum over a header with its checksum is all ones.
        let mut h = [0x45, 0, 0xff, 0xff, 1, 2, 0x40, 0, 64, 6, 9, 9, 10, 0, 0, 1, 10, 0, 0, 2];
        ipv4_header_csum(&mut h);
        let mut sum: u32 = h.as_chunks::<2>().0.iter().map(|c| u32::from(u16::from_be_bytes(*c))).sum();
        sum = (sum & 0xffff) + (sum >> 16);
        assert_eq!(sum, 0xffff);
    }
}
