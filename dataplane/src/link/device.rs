//! From a packet handed to a NIC to the frames on the wire: cutting (TSO) and checksums, as a device does both.

use hugepages::{HeapRxBuf, HeapRxPool};

use crate::mem::MemTx;
use crate::pkt::{TxCsum, TxMeta, TxPkt};

const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// A frame, the buffer that it lies in, and its length in bytes.
pub(crate) type Frame = (HeapRxBuf, usize);

/// Sum of 16-bit words in network byte order, not folded; a last odd byte counts as the upper half of a word.
fn sum(b: &[u8]) -> u64 {
    let (words, rest) = b.as_chunks::<2>();
    let s: u64 = words.iter().map(|w| u64::from(u16::from_be_bytes(*w))).sum();
    s + rest.first().map_or(0, |x| u64::from(*x) << 8)
}

fn fold(mut s: u64) -> u16 {
    while s > 0xffff {
        s = (s & 0xffff) + (s >> 16);
    }
    !(s as u16)
}

fn put(b: &mut [u8], at: usize, v: u16) {
    if let Some(x) = b.get_mut(at..at + 2) {
        x.copy_from_slice(&v.to_be_bytes());
    }
}

fn get(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).map_or(0, |x| u16::from_be_bytes([x[0], x[1]]))
}

/// Makes the lengths, numbers and flags of one frame out of those of a super-segment: payload `off..off + n` of it,
/// the `k`th cut.
pub(crate) fn renumber(f: &mut [u8], m: &TxMeta, k: usize, off: usize, last: bool) {
    let (ip, tcp) = (usize::from(m.l2), usize::from(m.l2) + usize::from(m.l3));
    if m.v6 {
        put(f, ip + 4, (f.len() - ip - 40) as u16);
    } else {
        put(f, ip + 2, (f.len() - ip) as u16);
        let id = get(f, ip + 4).wrapping_add(k as u16);
        put(f, ip + 4, id);
    }
    if let Some(s) = f.get_mut(tcp + 4..tcp + 8) {
        let seq = u32::from_be_bytes([s[0], s[1], s[2], s[3]]).wrapping_add(off as u32);
        s.copy_from_slice(&seq.to_be_bytes());
    }
    if let Some(flags) = f.get_mut(tcp + 13) {
        *flags &= if last { !0 } else { !TCP_FIN_PSH };
        *flags &= if k == 0 { !0 } else { !TCP_CWR };
    }
}

/// Completes the header checksum of an IPv4 frame.
pub(crate) fn ip_checksum(f: &mut [u8], m: &TxMeta) {
    let at = usize::from(m.l2);
    if m.v6 {
        return;
    }
    put(f, at + 10, 0);
    let c = f.get(at..at + usize::from(m.l3)).map_or(0, |h| fold(sum(h)));
    put(f, at + 10, c);
}

/// Completes the TCP checksum of a frame that was to be completed by the device. Frames that arrive whole are said
/// to be verified instead; only one that is about to be damaged needs a checksum that tells.
pub(crate) fn tcp_checksum(f: &mut [u8], m: &TxMeta) {
    let (ip, tcp) = (usize::from(m.l2), usize::from(m.l2) + usize::from(m.l3));
    put(f, tcp + 16, 0);
    let (Some(addresses), Some(body)) =
        (f.get(if m.v6 { ip + 8..ip + 40 } else { ip + 12..ip + 20 }), f.get(tcp..))
    else {
        return;
    };
    let c = fold(sum(addresses) + 6 + body.len() as u64 + sum(body));
    put(f, tcp + 16, c);
}

/// Cuts `p` into frames in buffers of `pool` and hands them to `out` in order. `false` when a buffer was missing.
pub(crate) fn cut(p: &MemTx, pool: &HeapRxPool, out: &mut dyn FnMut(Frame)) -> bool {
    let m = p.tx_meta();
    let head = usize::from(m.l2) + usize::from(m.l3) + usize::from(m.l4);
    let payload = (p.len() as usize).saturating_sub(head);
    let (step, head) = match usize::from(m.segsz) {
        s if s > 0 && payload > s => (s, head),
        _ => (p.len() as usize, 0),
    };
    let total = p.len() as usize - head;
    let mut header: Vec<u8> = Vec::new();
    let mut open: Option<Frame> = None;
    let (mut k, mut off) = (0, 0);
    let mut whole = true;
    p.for_each(&mut |mut b| {
        let n = (head - header.len()).min(b.len());
        header.extend_from_slice(&b[..n]);
        b = &b[n..];
        while whole && !b.is_empty() {
            if open.is_none() {
                open = pool.take().map(|mut buf| {
                    buf.space()[..head].copy_from_slice(&header);
                    (buf, head)
                });
            }
            let Some((buf, len)) = &mut open else {
                whole = false;
                return;
            };
            let want = step.min(total - off);
            let n = b.len().min(head + want - *len);
            buf.space()[*len..*len + n].copy_from_slice(&b[..n]);
            *len += n;
            b = &b[n..];
            if *len == head + want
                && let Some((mut buf, len)) = open.take()
            {
                let f = &mut buf.space()[..len];
                if head > 0 {
                    renumber(f, &m, k, off, off + want == total);
                }
                if m.csum == TxCsum::Offload {
                    ip_checksum(f, &m);
                }
                (k, off) = (k + 1, off + want);
                out((buf, len));
            }
        }
    });
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{MemConfig, pair};
    use crate::pkt::Port;

    /// A super-segment of `n` payload bytes with sequence number 1000, FIN, PSH and CWR set.
    fn packet(v6: bool, n: usize, segsz: u16) -> (MemTx, Vec<u8>) {
        let (mut port, _) = pair(&MemConfig::default());
        let l3 = if v6 { 40u8 } else { 20 };
        let mut b = vec![0; 14 + usize::from(l3) + 20];
        let tcp = 14 + usize::from(l3);
        if v6 {
            b[14] = 0x60;
            b[20] = 6;
            (22..54).for_each(|i| b[i] = i as u8);
        } else {
            b[14] = 0x45;
            b[23] = 6;
            b[18..20].copy_from_slice(&0xffffu16.to_be_bytes());
            b[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        }
        b[tcp + 4..tcp + 8].copy_from_slice(&1000u32.to_be_bytes());
        b[tcp + 12] = 0x50;
        b[tcp + 13] = 0x10 | TCP_FIN_PSH | TCP_CWR;
        let data: Vec<u8> = (0..n).map(|i| (i * 7) as u8).collect();
        let mut t = port.tx_alloc().unwrap();
        t.copy_in(&b).unwrap();
        t.copy_in(&data).unwrap();
        let m = TxMeta { l2: 14, l3, l4: 20, segsz, csum: TxCsum::Offload, v6, vlan: None };
        (t.finish(m), data)
    }

    #[test]
    fn a_super_segment_becomes_frames_that_carry_every_byte_once() {
        let pool = HeapRxPool::new(2048, 64);
        for v6 in [false, true] {
            let (t, data) = packet(v6, 1000, 300);
            let (m, mut frames) = (t.tx_meta(), vec![]);
            assert!(cut(&t, &pool, &mut |(mut b, n)| frames.push(b.space()[..n].to_vec())));
            let tcp = 14 + usize::from(m.l3);
            let seqs: Vec<_> =
                frames.iter().map(|f| u32::from_be_bytes(f[tcp + 4..tcp + 8].try_into().unwrap())).collect();
            assert_eq!(seqs, [1000, 1300, 1600, 1900]);
            let flags: Vec<_> = frames.iter().map(|f| f[tcp + 13]).collect();
            assert_eq!(flags, [0x90, 0x10, 0x10, 0x19], "CWR on the first, FIN and PSH on the last");
            let got: Vec<u8> = frames.iter().flat_map(|f| f[tcp + 20..].to_vec()).collect();
            assert_eq!(got, data);
            if v6 {
                assert_eq!(frames.iter().map(|f| get(f, 18)).collect::<Vec<_>>(), [320, 320, 320, 120]);
            } else {
                assert_eq!(frames.iter().map(|f| get(f, 16)).collect::<Vec<_>>(), [340, 340, 340, 140]);
                assert_eq!(frames.iter().map(|f| get(f, 18)).collect::<Vec<_>>(), [0xffff, 0, 1, 2]);
                assert!(frames.iter().all(|f| fold(sum(&f[14..34])) == 0), "header checksums");
            }
        }
    }

    #[test]
    fn a_completed_checksum_covers_addresses_length_and_payload() {
        let pool = HeapRxPool::new(2048, 4);
        for v6 in [false, true] {
            let (t, _) = packet(v6, 333, 0);
            let m = t.tx_meta();
            let mut frame = vec![];
            assert!(cut(&t, &pool, &mut |(mut b, n)| frame = b.space()[..n].to_vec()));
            tcp_checksum(&mut frame, &m);
            let check = |f: &[u8]| {
                let (ip, tcp) = (14, 14 + usize::from(m.l3));
                let a = if v6 { sum(&f[ip + 8..ip + 40]) } else { sum(&f[ip + 12..ip + 20]) };
                fold(a + 6 + (f.len() - tcp) as u64 + sum(&f[tcp..]))
            };
            assert_eq!(check(&frame), 0);
            for at in [14 + usize::from(m.l3) - 1, 60 + usize::from(m.l3), frame.len() - 1] {
                frame[at] ^= 0x11;
                assert_ne!(check(&frame), 0, "byte {at}");
                frame[at] ^= 0x11;
            }
        }
    }

    #[test]
    fn without_buffers_it_says_so() {
        let pool = HeapRxPool::new(2048, 2);
        let (t, _) = packet(false, 1000, 300);
        let mut kept = vec![];
        assert!(!cut(&t, &pool, &mut |f| kept.push(f)));
        assert_eq!(kept.len(), 2);
    }
}
