//! Received packets: mbuf chains, taken apart by reference.

use std::ptr::NonNull;
use std::rc::Rc;

use dpdk_sys as sys;
use hugepages::{BackingKind, Io, RxFrag, RxHome, RxOps};

use crate::pkt::{Csum, RxMeta, RxPkt};

/// Ethernet with VLAN tag, IPv6 and TCP with all options come to 118 bytes; [`RxPkt::head`] promises 128.
pub(crate) const HEAD_CONTIGUOUS: u16 = 128;

unsafe fn retain(raw: NonNull<()>) {
    // SAFETY: `raw` is an mbuf of which the caller holds a reference, on its home lcore; nobody else counts on it,
    // so a plain addition is enough. A buffer of 9 KiB is never split into 65,535 parts that live at a time,
    // because parts under 512 bytes are copied out; should one be, the count saturates and the mbuf is leaked
    // rather than freed early.
    unsafe {
        let m = raw.cast::<sys::shim_mbuf>().as_ptr();
        (*m).refcnt = (*m).refcnt.saturating_add(1);
    }
}

unsafe fn release(raw: NonNull<()>) {
    // SAFETY: as above; the caller gives up its reference. The last one frees the segment into the cache of this
    // lcore, which is a polling one: fragments do not leave it, and lent ones come back over the ring.
    unsafe {
        let m = raw.cast::<sys::shim_mbuf>().as_ptr();
        match (*m).refcnt {
            u16::MAX => {}
            0 | 1 => sys::shim_pktmbuf_free_seg(m),
            n => (*m).refcnt = n - 1,
        }
    }
}

unsafe fn io(raw: NonNull<()>, data: NonNull<u8>) -> Io {
    // SAFETY: `raw` is an mbuf of which the caller holds a reference, so that nobody frees it, and what is read here nobody
    // writes; its home may change the count beside it. `data` lies in its buffer, which the pool laid out so that devices
    // see it as contiguous.
    unsafe {
        let m = raw.cast::<sys::shim_mbuf>().as_ptr();
        let begin = (*m).buf_addr.cast::<u8>().addr() + usize::from((*m).data_off);
        let iova = sys::shim_pktmbuf_iova(m).wrapping_add(data.addr().get().wrapping_sub(begin) as u64);
        Io { kind: BackingKind::Eal, iova, contig: 0 }
    }
}

/// Counts fragments on mbufs. A fragment that comes back when its lcore has gone stays out: only polling lcores touch mempools.
pub(crate) static MBUF_OPS: RxOps = RxOps { retain, release, io, outlives_home: false };

/// State that all packets of a queue share.
pub(crate) struct RxCtx {
    pub home: RxHome,
    pub truesize: u32,
    /// Frames come from a kernel's device, as they are inside of it ([`super::offload::Choice::local`]).
    pub local: bool,
}

/// A received packet: a chain of mbufs that this value owns.
pub struct EthRxPkt {
    m: NonNull<sys::shim_mbuf>,
    /// VLAN id that was taken out in software.
    vlan: Option<u16>,
    ctx: Rc<RxCtx>,
}

impl EthRxPkt {
    /// # Safety
    /// `m` heads a valid chain that the caller gives up; its first [`HEAD_CONTIGUOUS`] bytes, or all there are,
    /// lie in the first segment.
    pub(crate) unsafe fn new(m: NonNull<sys::shim_mbuf>, ctx: Rc<RxCtx>) -> EthRxPkt {
        EthRxPkt { m, vlan: None, ctx }
    }

    fn mbuf(&self) -> &sys::shim_mbuf {
        // SAFETY: the chain is ours.
        unsafe { self.m.as_ref() }
    }

    /// Takes an 802.1Q tag out of the first segment, in place: what the device does where it can.
    pub(crate) fn strip_vlan(&mut self) {
        let h = self.head_mut();
        if h.len() < 18 || h[12..14] != [0x81, 0x00] {
            return;
        }
        let tci = u16::from_be_bytes([h[14], h[15]]);
        h.copy_within(0..12, 4);
        // SAFETY: the chain is ours; the first segment has at least 18 bytes, so 4 can go from its front.
        unsafe {
            let m = self.m.as_mut();
            m.data_off += 4;
            m.data_len -= 4;
            m.pkt_len -= 4;
        }
        self.vlan = Some(tci & 0x0fff);
    }
}

/// Bytes of one segment.
///
/// # Safety
/// `m` is a valid mbuf that lives and is not written for `'a`.
pub(crate) unsafe fn seg_bytes<'a>(m: *const sys::shim_mbuf) -> &'a [u8] {
    // SAFETY: the caller vouches for `m`; data_off and data_len describe bytes inside its buffer.
    unsafe {
        let p = (*m).buf_addr.cast::<u8>().add(usize::from((*m).data_off));
        std::slice::from_raw_parts(p, usize::from((*m).data_len))
    }
}

/// Shows the bytes of a chain.
///
/// # Safety
/// `m` heads a valid chain that lives and is not written meanwhile.
pub(crate) unsafe fn chain_bytes(m: *const sys::shim_mbuf, f: &mut dyn FnMut(&[u8])) {
    let mut s = m;
    while !s.is_null() {
        // SAFETY: the caller vouches for the chain.
        unsafe {
            f(seg_bytes(s));
            s = (*s).next;
        }
    }
}

impl RxPkt for EthRxPkt {
    fn head(&self) -> &[u8] {
        // SAFETY: the chain is ours, and borrowed for as long as the slice.
        unsafe { seg_bytes(self.m.as_ptr()) }
    }

    fn head_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `head`, borrowed mutably; no fragment of a packet exists while the packet does.
        unsafe {
            let m = self.m.as_ref();
            let p = m.buf_addr.cast::<u8>().add(usize::from(m.data_off));
            std::slice::from_raw_parts_mut(p, usize::from(m.data_len))
        }
    }

    fn len(&self) -> u32 {
        self.mbuf().pkt_len
    }

    fn meta(&self) -> RxMeta {
        let m = self.mbuf();
        let f = m.ol_flags;
        let lro = f & sys::SHIM_MBUF_F_RX_LRO != 0;
        RxMeta {
            csum: match csum(f) {
                Csum::None if self.ctx.local && left_partial(self.head(), self.len()) => Csum::Partial,
                c => c,
            },
            lro_segsz: if lro { (m.tx_offload >> 24) as u16 } else { 0 },
            hash: if f & sys::SHIM_MBUF_F_RX_RSS_HASH != 0 { m.rss } else { 0 },
            vlan: if f & sys::SHIM_MBUF_F_RX_VLAN_STRIPPED != 0 {
                Some(m.vlan_tci & 0x0fff)
            } else {
                self.vlan
            },
            truesize: u32::from(m.nb_segs) * self.ctx.truesize,
        }
    }

    fn for_each(&self, f: &mut dyn FnMut(&[u8])) {
        // SAFETY: the chain is ours.
        unsafe { chain_bytes(self.m.as_ptr(), f) }
    }

    fn frags(self, off: u32, len: u32, out: &mut dyn FnMut(RxFrag)) {
        let me = std::mem::ManuallyDrop::new(self);
        // SAFETY: `me` is not dropped, so its context is read out exactly once.
        let ctx = unsafe { std::ptr::read(&raw const me.ctx) };
        let (mut skip, mut left) = (off, len);
        let mut seg = me.m.as_ptr();
        while let Some(m) = NonNull::new(seg) {
            // SAFETY: the chain was the packet's; each segment is taken off it here and has one owner from then
            // on: the fragment, or the pool. `skip` is at most the segment's length where it is added.
            unsafe {
                seg = m.as_ref().next;
                let r = &mut *m.as_ptr();
                r.next = std::ptr::null_mut();
                r.nb_segs = 1;
                let have = u32::from(r.data_len);
                let from = skip.min(have);
                let take = (have - from).min(left);
                skip -= from;
                if take == 0 {
                    sys::shim_pktmbuf_free_seg(m.as_ptr());
                    continue;
                }
                left -= take;
                let data = r.buf_addr.cast::<u8>().add(usize::from(r.data_off) + from as usize);
                out(ctx.home.frag(m.cast(), NonNull::new_unchecked(data), take, ctx.truesize, true));
            }
        }
    }
}

/// Offset of the IP header of a frame, and whether it is IPv6's.
fn ip_at(head: &[u8]) -> Option<(usize, bool)> {
    let kind = |at: usize| Some(u16::from_be_bytes([*head.get(at)?, *head.get(at + 1)?]));
    let (at, k) = match kind(12)? {
        0x8100 => (18, kind(16)?),
        k => (14, k),
    };
    match k {
        0x0800 => Some((at, false)),
        0x86dd => Some((at, true)),
        _ => None,
    }
}

/// Length of the IP packet by its own account, in bytes.
fn ip_len(head: &[u8], at: usize, v6: bool) -> Option<u32> {
    let be16 = |at: usize| Some(u32::from(u16::from_be_bytes([*head.get(at)?, *head.get(at + 1)?])));
    if v6 { Some(40 + be16(at + 4)?) } else { be16(at + 2) }
}

/// Whether a frame of `len` bytes has lost its end: AF_PACKET cuts what does not fit its ring's frames, as a
/// super-segment of a kernel does not (field report 19).
pub(crate) fn is_cut(head: &[u8], len: u32) -> bool {
    ip_at(head).and_then(|(at, v6)| Some(ip_len(head, at, v6)? + at as u32 > len)).unwrap_or(false)
}

/// Whether the TCP checksum of a frame is only begun: its field holds the sum of the pseudo-header, which a kernel
/// leaves to the device (field report 19). The driver does not pass on what the kernel knows of it; a complete
/// checksum is the same number in one of 65,536.
fn left_partial(head: &[u8], len: u32) -> bool {
    let look = || {
        let (at, v6) = ip_at(head)?;
        let (proto, tcp, addresses) = if v6 {
            (*head.get(at + 6)?, at + 40, head.get(at + 8..at + 40)?)
        } else {
            (*head.get(at + 9)?, at + usize::from(*head.get(at)? & 15) * 4, head.get(at + 12..at + 20)?)
        };
        let end = at as u32 + ip_len(head, at, v6)?;
        let body = end.checked_sub(tcp as u32).filter(|_| end <= len && proto == 6)?;
        let words = addresses.as_chunks::<2>().0.iter();
        let mut sum: u32 = words.map(|w| u32::from(u16::from_be_bytes(*w))).sum::<u32>() + 6 + body;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        Some(u32::from(u16::from_be_bytes([*head.get(tcp + 16)?, *head.get(tcp + 17)?])) == sum)
    };
    look().unwrap_or(false)
}

/// The device's verdict on the TCP checksum. A wrong IP header makes the packet bad as a whole.
fn csum(flags: u64) -> Csum {
    if flags & sys::SHIM_MBUF_F_RX_IP_CKSUM_MASK == sys::SHIM_MBUF_F_RX_IP_CKSUM_BAD {
        return Csum::Bad;
    }
    match flags & sys::SHIM_MBUF_F_RX_L4_CKSUM_MASK {
        sys::SHIM_MBUF_F_RX_L4_CKSUM_GOOD => Csum::Good,
        sys::SHIM_MBUF_F_RX_L4_CKSUM_BAD => Csum::Bad,
        // "Not correct in the packet, but the data's integrity is verified": it never crossed a wire.
        sys::SHIM_MBUF_F_RX_L4_CKSUM_NONE => Csum::Partial,
        _ => Csum::None,
    }
}

impl Drop for EthRxPkt {
    fn drop(&mut self) {
        // SAFETY: the chain is ours, on its home lcore (the packet is not Send).
        unsafe { sys::shim_pktmbuf_free(self.m.as_ptr()) };
    }
}

/// Joins the front of a chain until [`HEAD_CONTIGUOUS`] bytes, or all of them, are in the first segment. False when
/// the first buffer has no room: drop the packet.
///
/// # Safety
/// `m` heads a valid chain of the caller's.
pub(crate) unsafe fn pull_up(m: NonNull<sys::shim_mbuf>) -> bool {
    // SAFETY: the chain is the caller's; bytes are copied only within the room behind the first segment's data,
    // and segments that became empty are unlinked before they are freed.
    unsafe {
        let h = &mut *m.as_ptr();
        while h.data_len < HEAD_CONTIGUOUS && !h.next.is_null() {
            let n = &mut *h.next;
            let end = h.data_off + h.data_len;
            let want = (HEAD_CONTIGUOUS - h.data_len).min(n.data_len);
            if h.buf_len - end < want {
                return false;
            }
            let to = h.buf_addr.cast::<u8>().add(usize::from(end));
            std::ptr::copy_nonoverlapping(seg_bytes(n).as_ptr(), to, usize::from(want));
            h.data_len += want;
            n.data_off += want;
            n.data_len -= want;
            if n.data_len == 0 {
                h.next = n.next;
                h.nb_segs -= 1;
                n.next = std::ptr::null_mut();
                n.nb_segs = 1;
                sys::shim_pktmbuf_free_seg(n);
            }
        }
        true
    }
}

/// Copies a chain into fresh mbufs of `pool` and frees it: for ports that hand over the sender's own mbufs. `None`
/// when the pool is empty; the chain is freed all the same.
///
/// # Safety
/// `m` heads a valid chain that the caller gives up; `pool` is a live mempool of mbufs, used by this lcore.
pub(crate) unsafe fn copy_chain(
    m: NonNull<sys::shim_mbuf>,
    pool: *mut sys::rte_mempool,
) -> Option<NonNull<sys::shim_mbuf>> {
    // SAFETY: fresh mbufs are ours; every copy stays within the room of the current one, and a new one is chained
    // when it is full.
    unsafe {
        let head = NonNull::new(sys::shim_pktmbuf_alloc(pool));
        let mut tail = head.map_or(std::ptr::null_mut(), NonNull::as_ptr);
        let mut whole = head.is_some();
        if let Some(h) = head {
            let (src, dst) = (m.as_ref(), &mut *h.as_ptr());
            dst.ol_flags = src.ol_flags & !sys::SHIM_MBUF_F_EXTERNAL;
            dst.tx_offload = src.tx_offload;
            dst.vlan_tci = src.vlan_tci;
            chain_bytes(m.as_ptr(), &mut |mut b| {
                while !b.is_empty() && whole {
                    let room = (*tail).buf_len - (*tail).data_off - (*tail).data_len;
                    if room == 0 {
                        let n = sys::shim_pktmbuf_alloc(pool);
                        if n.is_null() {
                            whole = false;
                            return;
                        }
                        (*tail).next = n;
                        (*h.as_ptr()).nb_segs += 1;
                        tail = n;
                        continue;
                    }
                    let k = b.len().min(usize::from(room));
                    let at = usize::from((*tail).data_off + (*tail).data_len);
                    std::ptr::copy_nonoverlapping(b.as_ptr(), (*tail).buf_addr.cast::<u8>().add(at), k);
                    (*tail).data_len += k as u16;
                    (*h.as_ptr()).pkt_len += k as u32;
                    b = &b[k..];
                }
            });
        }
        sys::shim_pktmbuf_free(m.as_ptr());
        match head {
            Some(h) if !whole => {
                sys::shim_pktmbuf_free(h.as_ptr());
                None
            }
            h => h,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The field has two bits and four values: NONE has the bits of both BAD and GOOD, and is neither.
    #[test]
    fn checksum_flags_say_what_to_do_with_the_packet() {
        let four = [
            (sys::SHIM_MBUF_F_RX_L4_CKSUM_UNKNOWN, Csum::None),
            (sys::SHIM_MBUF_F_RX_L4_CKSUM_BAD, Csum::Bad),
            (sys::SHIM_MBUF_F_RX_L4_CKSUM_GOOD, Csum::Good),
            (sys::SHIM_MBUF_F_RX_L4_CKSUM_NONE, Csum::Partial),
        ];
        // Whatever else is said of the packet.
        for others in [0, !(sys::SHIM_MBUF_F_RX_L4_CKSUM_MASK | sys::SHIM_MBUF_F_RX_IP_CKSUM_MASK)] {
            assert_eq!(four.map(|(f, _)| csum(f | others)), four.map(|(_, want)| want));
        }
        assert_eq!(csum(0), Csum::None);
        assert_eq!(csum(sys::SHIM_MBUF_F_RX_L4_CKSUM_GOOD), Csum::Good);
        assert_eq!(csum(sys::SHIM_MBUF_F_RX_L4_CKSUM_BAD), Csum::Bad);
        assert_eq!(csum(sys::SHIM_MBUF_F_RX_L4_CKSUM_NONE), Csum::Partial);
        assert_eq!(csum(sys::SHIM_MBUF_F_RX_L4_CKSUM_GOOD | sys::SHIM_MBUF_F_RX_IP_CKSUM_BAD), Csum::Bad);
    }

    /// A frame of a kernel's TCP whose checksum field holds the pseudo-header's sum.
    fn begun(v6: bool, n: u16) -> Vec<u8> {
        let mut f = vec![0; 12];
        if v6 {
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            f.extend((20 + n).to_be_bytes());
            f.extend([6, 64]);
            f.extend([0xfd; 32]);
        } else {
            f.extend([8, 0, 0x45, 0]);
            f.extend((40 + n).to_be_bytes());
            f.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        let addresses: u32 = if v6 { 16 * 0xfdfd } else { 0x0a00 + 1 + 0x0a00 + 2 };
        let mut sum = addresses + 6 + 20 + u32::from(n);
        sum = (sum & 0xffff) + (sum >> 16);
        f.extend([0; 16]);
        f.extend((sum as u16).to_be_bytes());
        f.extend(vec![7; 2 + usize::from(n)]);
        f
    }

    #[test]
    fn report_19_a_checksum_that_is_only_begun_is_told_from_a_wrong_one() {
        for v6 in [false, true] {
            for n in [0, 1, 1400] {
                let f = begun(v6, n);
                let len = f.len() as u32;
                assert!(left_partial(&f, len), "{v6} {n}");
                // With an 802.1Q tag.
                let tagged = [&f[..12], &[0x81, 0, 0, 7], &f[12..]].concat();
                assert!(left_partial(&tagged, len + 4));
                for at in [14 + if v6 { 8 } else { 12 }, len as usize - usize::from(n) - 4] {
                    let mut bad = f.clone();
                    bad[at] ^= 1;
                    assert!(!left_partial(&bad, len), "{v6} {n} {at}");
                }
                for k in 0..f.len() {
                    assert!(!left_partial(&f[..k], k as u32), "a frame that ends early");
                }
            }
        }
    }

    #[test]
    fn report_19_a_frame_without_its_end_is_known_by_its_ip_header() {
        for v6 in [false, true] {
            let f = begun(v6, 1000);
            let len = f.len() as u32;
            assert!(!is_cut(&f, len) && !is_cut(&f, len + 6), "padding is no matter");
            assert!(is_cut(&f, len - 1));
        }
        assert!(!is_cut(&[0; 60], 60) && !is_cut(&[], 0));
    }
}
