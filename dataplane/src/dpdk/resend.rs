//! A packet that the driver refuses as it is, sent another way: cut, in one piece, with its checksums in it.
//!
//! `rte_eth_tx_prepare` says of a packet that the driver will never take it. Some drivers say nothing there and refuse
//! in the burst (net_tap wants segment size and headers within the MTU), which looks like a full ring; so one that has
//! been at the head of the queue for [`REFUSED_AFTER`] without any of the queue taken counts as refused, too, unless the driver
//! takes everything (`Choice::takes_all`). What went another way and is refused again is dropped.

use std::time::{Duration, Instant};

use crate::link::device::{ip_checksum, renumber, tcp_checksum};
use crate::pkt::{TxCsum, TxMeta};

/// Time that a driver may take nothing at all before its queue's first packet counts as refused.
pub(crate) const REFUSED_AFTER: Duration = Duration::from_millis(500);
/// Fruitless bursts between two looks at the time.
const LOOK: u32 = 1024;

/// Bursts in a row of which the driver took nothing.
#[derive(Debug, Default)]
pub(crate) struct Fruitless {
    bursts: u32,
    since: Option<Instant>,
}

impl Fruitless {
    /// The driver took something.
    pub(crate) fn taken(&mut self) {
        self.bursts = 0;
    }

    /// It took nothing. True when the first packet counts as refused; the count then begins again.
    pub(crate) fn nothing(&mut self, now: impl FnOnce() -> Instant) -> bool {
        self.bursts = self.bursts.saturating_add(1);
        if self.bursts == 1 {
            self.since = None;
        }
        if !self.bursts.is_multiple_of(LOOK) {
            return false;
        }
        let now = now();
        let refused = now - *self.since.get_or_insert(now) >= REFUSED_AFTER;
        if refused {
            *self = Fruitless::default();
        }
        refused
    }
}

/// The frames that carry `packet` where the device does nothing for it: no longer than its segment size, complete.
pub(crate) fn frames(packet: &[u8], m: &TxMeta) -> Vec<Vec<u8>> {
    let head = (usize::from(m.l2) + usize::from(m.l3) + usize::from(m.l4)).min(packet.len());
    let (header, payload) = packet.split_at(head);
    let step = match usize::from(m.segsz) {
        0 => payload.len(),
        s => s,
    };
    // One frame at the least: a packet without payload.
    let cuts = payload.len().div_ceil(step.max(1)).max(1);
    let piece = |k: usize| {
        let off = k * step;
        let end = payload.len().min(off + step);
        let mut f = [header, &payload[off..end]].concat();
        if cuts > 1 {
            renumber(&mut f, m, k, off, k + 1 == cuts);
        }
        if m.csum == TxCsum::Offload {
            ip_checksum(&mut f, m);
            tcp_checksum(&mut f, m);
        }
        f
    };
    (0..cuts).map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ethernet, IPv4, TCP and `n` bytes.
    fn packet(n: usize) -> Vec<u8> {
        let mut p = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
        p.extend((40 + n as u16).to_be_bytes());
        p.extend([0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        p.extend([3, 0xff, 3, 0xdc, 0, 0, 0, 100, 0, 0, 0, 2, 0x50, 0x19, 0xff, 0xff, 0xaa, 0xaa, 0, 0]);
        p.extend((0..n).map(|i| i as u8));
        p
    }

    fn ones(b: &[u8], start: u64) -> u64 {
        let mut s: u64 = start
            + b.chunks(2).map(|c| u64::from(c[0]) << 8 | u64::from(*c.get(1).unwrap_or(&0))).sum::<u64>();
        while s > 0xffff {
            s = (s & 0xffff) + (s >> 16);
        }
        s
    }

    #[test]
    fn report_5_a_refused_super_segment_goes_out_as_complete_frames() {
        let m = TxMeta { l2: 14, l3: 20, l4: 20, segsz: 1000, csum: TxCsum::Offload, v6: false, vlan: None };
        let f = frames(&packet(2500), &m);
        assert_eq!(f.iter().map(Vec::len).collect::<Vec<_>>(), [1054, 1054, 554]);
        let payload: Vec<u8> = f.iter().flat_map(|f| f[54..].to_vec()).collect();
        assert_eq!(payload, packet(2500)[54..]);
        for (k, f) in f.iter().enumerate() {
            assert_eq!(u16::from_be_bytes([f[16], f[17]]) as usize, f.len() - 14);
            assert_eq!(u16::from_be_bytes([f[18], f[19]]) as usize, 9 + k);
            assert_eq!(u32::from_be_bytes(f[38..42].try_into().unwrap()), 100 + 1000 * k as u32);
            // PSH and FIN belong to the last one.
            assert_eq!(f[47] & 0x09 != 0, k == 2);
            assert_eq!(ones(&f[14..34], 0), 0xffff, "the IPv4 header");
            assert_eq!(ones(&f[34..], ones(&f[26..34], 6 + f.len() as u64 - 34)), 0xffff, "TCP");
        }
    }

    #[test]
    fn a_packet_that_needs_no_cut_is_made_whole_and_complete_and_one_that_is_complete_stays() {
        let m = TxMeta { l2: 14, l3: 20, l4: 20, segsz: 0, csum: TxCsum::Offload, v6: false, vlan: None };
        for n in [0, 1, 1460] {
            let f = frames(&packet(n), &m);
            assert_eq!(f.len(), 1);
            assert_eq!(f[0][54..], packet(n)[54..]);
            assert_eq!(ones(&f[0][34..], ones(&f[0][26..34], 20 + n as u64 + 6)), 0xffff);
        }
        let done = TxMeta { csum: TxCsum::Done, ..m };
        assert_eq!(frames(&packet(100), &done), [packet(100)]);
        // No TCP at all: an ARP request has no headers that we know.
        assert_eq!(frames(&[7; 60], &TxMeta::default()), [[7; 60].to_vec()]);
    }

    #[test]
    fn only_a_queue_that_is_not_served_for_long_is_refused() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut f = Fruitless::default();
        let spin = |f: &mut Fruitless, ms, n| (0..n).any(|_| f.nothing(|| at(ms)));
        assert!(!spin(&mut f, 0, LOOK));
        assert!(!spin(&mut f, 499, LOOK), "a full ring");
        f.taken();
        assert!(!spin(&mut f, 700, LOOK) && !spin(&mut f, 1199, LOOK));
        assert!(spin(&mut f, 1200, LOOK));
        assert!(!spin(&mut f, 1300, LOOK) && spin(&mut f, 1800, LOOK), "the next one has as long");
    }
}
