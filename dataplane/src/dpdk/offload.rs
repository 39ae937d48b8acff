//! Features asked of a device, from those that it offers: a pure function, so that every driver's offer can be tested.

use dpdk_sys as sys;

use super::mempool::{RX_ROOM, RX_ROOM_SMALL, RX_ROOM_SUPER, SMALL_MTU};
use super::port_config::{Offloads, Want};
use crate::pkt::Reach;

/// Offer of a device (`rte_eth_dev_info`), as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub driver: String,
    pub rx: u64,
    pub tx: u64,
    /// Segments of a packet, 0 for no statement.
    pub seg_max: u16,
    /// Segments of a packet that is not segmented by the device, 0 for no statement.
    pub mtu_seg_max: u16,
    pub max_lro: u32,
    /// Largest IP packet on the link, in bytes.
    pub mtu: u16,
    pub rss: u64,
    pub queues: u16,
    /// TSO works although the driver does not say so (net_vhost whose guest side took `tso=1`).
    pub silent_tso: bool,
}

/// Features to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub rx: u64,
    pub tx: u64,
    pub rss: u64,
    pub tso: bool,
    /// TCP checksum by the device.
    pub tx_csum: bool,
    /// IPv4 header checksum by the device; done in software otherwise.
    pub tx_ip_csum: bool,
    pub rx_csum: bool,
    pub lro: bool,
    pub vlan_insert: bool,
    pub vlan_strip: bool,
    pub max_segs: u16,
    pub reach: Reach,
    /// Received mbufs are the sender's own (net_ring): copy at once.
    pub shares_mbufs: bool,
    /// Received packets may come from the kernel's own network devices, as they are inside of them: with checksums that
    /// are only begun, joined (GRO, super-segments of a veth's other end), and then cut to what the driver has room for.
    pub local: bool,
    /// The driver takes whatever it is given once its ring has room, which may be long: a guest that does not run.
    pub takes_all: bool,
    /// Frees sent mbufs late unless its threshold is near the ring size.
    pub lazy_free: bool,
    /// Data room of receive buffers, in bytes.
    pub rx_room: u16,
    /// Receive buffers made for how many that were asked for: more smaller ones or fewer larger ones, in the same memory.
    pub rx_share: (u32, u32),
}

impl Choice {
    /// Receive buffers of a queue that was to have so many; `least` are needed.
    pub(crate) fn rx_bufs(&self, asked: u32, least: u32) -> u32 {
        let (n, of) = self.rx_share;
        let bufs = u64::from(asked) * u64::from(n) / u64::from(of);
        // Fewer than are needed are for who asked to hear of.
        u32::try_from(bufs).unwrap_or(u32::MAX).max(asked.min(least))
    }
}

impl Offer {
    /// Takes what is to be left alone out of the offer.
    pub(crate) fn without(mut self, o: &Offloads) -> Offer {
        let off = |want: Want, features: u64| if want == Want::Off { features } else { 0 };
        self.tx &= !off(o.tso, sys::SHIM_ETH_TX_OFFLOAD_TCP_TSO);
        self.tx &= !off(o.tx_csum, sys::SHIM_ETH_TX_OFFLOAD_TCP_CKSUM | sys::SHIM_ETH_TX_OFFLOAD_IPV4_CKSUM);
        self.rx &= !off(o.rx_csum, sys::SHIM_ETH_RX_OFFLOAD_TCP_CKSUM | sys::SHIM_ETH_RX_OFFLOAD_IPV4_CKSUM);
        self.rx &= !off(o.lro, sys::SHIM_ETH_RX_OFFLOAD_TCP_LRO);
        self.rss &= !off(o.rss, u64::MAX);
        self.silent_tso &= o.tso != Want::Off;
        self
    }

    /// Hashes of TCP connections.
    pub(crate) fn hashes(&self) -> u64 {
        self.rss & (sys::SHIM_ETH_RSS_NONFRAG_IPV4_TCP | sys::SHIM_ETH_RSS_NONFRAG_IPV6_TCP)
    }
}

impl Choice {
    /// A feature that is to be there and is not, of a device with that `offer`.
    pub(crate) fn lacks(&self, offer: &Offer, o: &Offloads) -> Option<&'static str> {
        let all = [
            (o.tso, self.tso, "tso (TCP segmentation, with checksums)"),
            (o.tx_csum, self.tx_csum, "tx-csum (TCP checksums of what is sent)"),
            (o.rx_csum, self.rx_csum, "rx-csum (TCP checksums of what comes)"),
            (o.lro, self.lro, "lro (large receive offload)"),
            (o.rss, offer.hashes() != 0, "rss (spreading of TCP connections by a hash)"),
        ];
        all.into_iter().find(|(want, has, _)| *want == Want::On && !has).map(|(.., what)| what)
    }
}

/// Most buffers in one packet: a 64 KiB packet of 4 KiB pages, twice over; more only lengthens a driver's walk.
const MAX_SEGS: u16 = 40;

/// Memory that the driver's device can read. A driver that is not listed is taken for hardware.
fn reach(driver: &str, multi_seg: bool) -> Reach {
    match driver {
        _ if !multi_seg => Reach::None,
        // Frees the segments after the first one without sending them.
        "net_af_xdp" => Reach::None,
        // These copy with the CPU when they send.
        "net_vhost" | "net_tap" | "net_af_packet" | "net_memif" | "net_pcap" | "net_null" => Reach::Any,
        _ => Reach::Eal,
    }
}

/// Data room of a receive buffer, and how many of them there are in the place of how many of [`RX_ROOM`]. A buffer is held,
/// lent and counted as a whole: a small frame in a large one spends memory, and the lend budget, for nothing (field report
/// 20). Super-segments fill large ones, and are a short chain of them.
fn rx_buffers(o: &Offer, super_segments: bool) -> (u16, (u32, u32)) {
    let small = o.mtu <= SMALL_MTU && !super_segments;
    match &*o.driver {
        // The kernel wants each buffer of its area, mbuf and pool header included, inside a 4 KiB page.
        "net_af_xdp" => (3584, (1, 1)),
        // A slot of its ring, which may be set to a page, has to fit.
        "net_af_packet" if small => (4096, (2, 1)),
        _ if small => (RX_ROOM_SMALL, (4, 1)),
        // NICs that join segments may have no larger buffers.
        "net_vhost" if super_segments => (RX_ROOM_SUPER, (9, 16)),
        d if super_segments && d.starts_with("net_virtio") => (RX_ROOM_SUPER, (9, 16)),
        _ => (RX_ROOM, (1, 1)),
    }
}

pub(crate) fn negotiate(o: &Offer) -> Choice {
    let rx_has = |f: u64| o.rx & f == f;
    let tx_has = |f: u64| o.tx & f == f;
    let mut rx = 0;
    let mut tx = 0;
    let mut want_rx = |f: u64| {
        let got = rx_has(f);
        rx |= if got { f } else { 0 };
        got
    };
    let rx_csum = want_rx(sys::SHIM_ETH_RX_OFFLOAD_TCP_CKSUM);
    // Not judged alone: a port without the IPv4 half still says whether TCP's is right.
    want_rx(sys::SHIM_ETH_RX_OFFLOAD_IPV4_CKSUM);
    want_rx(sys::SHIM_ETH_RX_OFFLOAD_SCATTER);
    let lro = o.driver != "net_af_xdp" && want_rx(sys::SHIM_ETH_RX_OFFLOAD_TCP_LRO);
    let vlan_strip = want_rx(sys::SHIM_ETH_RX_OFFLOAD_VLAN_STRIP);
    // By ports or not at all: what is no TCP comes to one queue then.
    let rss = if o.queues > 1 { o.hashes() } else { 0 };
    if rss != 0 {
        want_rx(sys::SHIM_ETH_RX_OFFLOAD_RSS_HASH);
    }
    let mut want_tx = |f: u64| {
        let got = tx_has(f);
        tx |= if got { f } else { 0 };
        got
    };
    let multi_seg = want_tx(sys::SHIM_ETH_TX_OFFLOAD_MULTI_SEGS);
    // net_tap sums each segment of a packet by itself, as if it began at an even place: behind one of an odd length the sum is wrong.
    let tx_csum = o.driver != "net_tap" && want_tx(sys::SHIM_ETH_TX_OFFLOAD_TCP_CKSUM);
    let tx_ip_csum = want_tx(sys::SHIM_ETH_TX_OFFLOAD_IPV4_CKSUM);
    let vlan_insert = want_tx(sys::SHIM_ETH_TX_OFFLOAD_VLAN_INSERT);
    // A device that segments must complete the checksums of what it makes. (net_tap never takes a packet whose segment size and
    // headers, the link's too, exceed the MTU; an MSS that fills the MTU always does: field report 5.)
    let tso = multi_seg && tx_csum && (want_tx(sys::SHIM_ETH_TX_OFFLOAD_TCP_TSO) || o.silent_tso);
    let limit = |n: u16| if n == 0 { MAX_SEGS } else { n.min(MAX_SEGS) };
    let reach = reach(&o.driver, multi_seg);
    let max_segs = match reach {
        Reach::None => 1,
        _ => limit(o.seg_max).min(limit(o.mtu_seg_max)),
    };
    let (rx_room, rx_share) = rx_buffers(o, lro || o.silent_tso);
    Choice {
        rx,
        tx,
        rss,
        tso,
        tx_csum,
        tx_ip_csum,
        rx_csum,
        lro,
        vlan_insert,
        vlan_strip,
        max_segs,
        reach,
        shares_mbufs: o.driver == "net_ring",
        local: matches!(&*o.driver, "net_af_packet" | "net_af_xdp" | "net_pcap"),
        takes_all: o.driver == "net_vhost",
        lazy_free: o.driver.starts_with("net_virtio"),
        rx_room,
        rx_share,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn offer(driver: &str, rx: u64, tx: u64) -> Offer {
        Offer {
            driver: driver.into(),
            rx,
            tx,
            seg_max: u16::MAX,
            mtu_seg_max: u16::MAX,
            mtu: 1500,
            max_lro: 65_535,
            rss: 0,
            queues: 1,
            silent_tso: false,
        }
    }

    #[test]
    fn only_what_is_offered_is_asked_for() {
        let c = negotiate(&offer(
            "net_ring",
            sys::SHIM_ETH_RX_OFFLOAD_SCATTER,
            sys::SHIM_ETH_TX_OFFLOAD_MULTI_SEGS,
        ));
        assert_eq!((c.rx, c.tx), (sys::SHIM_ETH_RX_OFFLOAD_SCATTER, sys::SHIM_ETH_TX_OFFLOAD_MULTI_SEGS));
        assert!(!c.tso && !c.tx_csum && !c.rx_csum && !c.lro && c.shares_mbufs);
        let all = negotiate(&offer("net_ixgbe", u64::MAX, u64::MAX));
        assert!(
            all.tso
                && all.tx_csum
                && all.tx_ip_csum
                && all.rx_csum
                && all.lro
                && all.vlan_insert
                && all.vlan_strip
        );
        assert_eq!((all.reach, all.max_segs, all.rss), (Reach::Eal, MAX_SEGS, 0));
    }

    #[test]
    fn a_port_that_cannot_chain_or_loses_chains_gets_whole_copied_packets() {
        for o in [offer("net_x", 0, 0), offer("net_af_xdp", u64::MAX, u64::MAX)] {
            let c = negotiate(&o);
            assert_eq!((c.reach, c.max_segs), (Reach::None, 1), "{o:?}");
        }
    }

    #[test]
    fn report_5_net_tap_does_not_segment() {
        let c = negotiate(&offer("net_tap", u64::MAX, u64::MAX));
        let sums = sys::SHIM_ETH_TX_OFFLOAD_TCP_TSO | sys::SHIM_ETH_TX_OFFLOAD_TCP_CKSUM;
        assert!(!c.tso && !c.tx_csum && c.tx & sums == 0, "nor sums segments of odd lengths");
        assert!(c.tx_ip_csum, "of a header, which is in one piece");
    }

    #[test]
    fn report_20_a_buffer_fits_the_frames_that_come() {
        let room = |driver: &str, rx, mtu, silent_tso| {
            let c = negotiate(&Offer { mtu, silent_tso, ..offer(driver, rx, u64::MAX) });
            (c.rx_room, c.rx_bufs(1600, 1))
        };
        let lro = sys::SHIM_ETH_RX_OFFLOAD_TCP_LRO;
        // As many bytes for those that are small as for those that are large.
        let full = |(room, n): (u16, u32)| n * (u32::from(room) + 256);
        let usual = (RX_ROOM, 1600);
        for mtu in [576, 1500, SMALL_MTU] {
            assert_eq!(room("net_vhost", 0, mtu, false), (RX_ROOM_SMALL, 6400), "MTU {mtu}");
            assert!(mtu + 22 <= RX_ROOM_SMALL);
            assert!(full(room("net_tap", 0, mtu, false)) <= full(usual));
        }
        assert_eq!(room("net_ixgbe", 0, SMALL_MTU + 1, false), usual);
        assert_eq!(room("net_ixgbe", 0, 9000, false), usual);
        // Super-segments come in chains, which are to be short.
        for (driver, rx, mtu, silent) in [
            ("net_virtio", lro, 1500, false),
            ("net_virtio_user", lro, 9000, false),
            ("net_vhost", 0, 1500, true),
        ] {
            let long = room(driver, rx, mtu, silent);
            assert_eq!(long, (RX_ROOM_SUPER, 900), "{driver}");
            assert!(full(long) <= full(usual) && 4 * u32::from(long.0) > 65_535 + 22);
        }
        assert_eq!(room("net_ixgbe", lro, 1500, false), usual);
        assert_eq!(room("net_af_xdp", lro, 1500, false), (3584, 1600));
        assert_eq!(room("net_af_packet", 0, 1500, false), (4096, 3200));
    }

    #[test]
    fn fewer_receive_buffers_are_as_many_as_are_needed() {
        let c = negotiate(&Offer { silent_tso: true, ..offer("net_vhost", 0, 0) });
        let bufs = [(4096, 1856), (2048, 1856), (1856, 1856), (1000, 1856), (0, 1856), (u32::MAX, 1)];
        let got = bufs.map(|(asked, least)| c.rx_bufs(asked, least));
        assert_eq!(got, [2304, 1856, 1856, 1000, 0, (u64::from(u32::MAX) * 9 / 16) as u32]);
        let small = negotiate(&offer("net_vhost", 0, 0));
        assert_eq!([4096, u32::MAX].map(|n| small.rx_bufs(n, 1)), [16_384, u32::MAX]);
    }

    #[test]
    fn features_are_left_alone_or_missed_as_told() {
        let able = Offer { silent_tso: true, rss: u64::MAX, queues: 2, ..offer("net_x", u64::MAX, u64::MAX) };
        let with = |o: Offloads| negotiate(&able.clone().without(&o));
        let all = with(Offloads::default());
        assert!(all.tso && all.tx_csum && all.rx_csum && all.lro && all.rss != 0);
        assert_eq!(with(Offloads { rss: Want::Off, ..Offloads::default() }).rss, 0);
        let (off, on) = (Want::Off, Want::On);
        let c = with(Offloads { tso: off, ..Offloads::default() });
        assert!(!c.tso && c.tx_csum && c.tx_ip_csum && c.tx & sys::SHIM_ETH_TX_OFFLOAD_TCP_TSO == 0);
        let c = with(Offloads { tx_csum: off, ..Offloads::default() });
        assert!(!c.tso && !c.tx_csum && !c.tx_ip_csum && c.rx_csum);
        let c = with(Offloads { rx_csum: off, lro: off, ..Offloads::default() });
        assert!(!c.rx_csum && !c.lro && c.tso && c.tx_csum);
        let wish = Offloads { tso: on, tx_csum: on, rx_csum: on, lro: on, rss: on };
        assert_eq!(with(wish).lacks(&able, &wish), None);
        // A device that could spread is none without it because one queue is used.
        let one = Offer { queues: 1, ..able };
        assert_eq!(negotiate(&one).lacks(&one, &wish), None);
        let poor = offer("net_tap", u64::MAX, u64::MAX);
        assert!(negotiate(&poor).lacks(&poor, &wish).is_some_and(|w| w.starts_with("tso")));
        let bare = offer("net_x", 0, 0);
        for (wish, says) in [
            (Offloads { tx_csum: on, ..Offloads::default() }, "tx-csum"),
            (Offloads { rx_csum: on, ..Offloads::default() }, "rx-csum"),
            (Offloads { lro: on, ..Offloads::default() }, "lro"),
            (Offloads { rss: on, ..Offloads::default() }, "rss"),
        ] {
            assert!(negotiate(&bare).lacks(&bare, &wish).is_some_and(|w| w.starts_with(says)));
        }
    }

    /// A guest that boots, or is stopped, takes nothing for longer than any driver that refuses: nothing is copied for it.
    #[test]
    fn a_full_ring_of_a_guest_s_is_no_refusal() {
        let takes_all =
            ["net_vhost", "net_tap", "net_virtio", "net_ixgbe"].map(|d| negotiate(&offer(d, 0, 0)).takes_all);
        assert_eq!(takes_all, [true, false, false, false]);
    }

    #[test]
    fn silent_tso_needs_checksums_and_segments() {
        let base = sys::SHIM_ETH_TX_OFFLOAD_MULTI_SEGS | sys::SHIM_ETH_TX_OFFLOAD_TCP_CKSUM;
        let with = |tx| negotiate(&Offer { silent_tso: true, ..offer("net_vhost", 0, tx) });
        let c = with(base);
        assert!(c.tso && c.tx & sys::SHIM_ETH_TX_OFFLOAD_TCP_TSO == 0 && c.reach == Reach::Any);
        assert!(!with(sys::SHIM_ETH_TX_OFFLOAD_MULTI_SEGS).tso);
    }

    #[test]
    fn rss_is_for_several_queues_and_the_smaller_segment_limit_counts() {
        let o = Offer { rss: u64::MAX, queues: 4, mtu_seg_max: 8, ..offer("net_i40e", u64::MAX, u64::MAX) };
        let c = negotiate(&o);
        assert_eq!(c.max_segs, 8);
        assert!(
            c.rss & sys::SHIM_ETH_RSS_NONFRAG_IPV4_TCP != 0 && c.rx & sys::SHIM_ETH_RX_OFFLOAD_RSS_HASH != 0
        );
    }
}
