//! A router between two virtio links sends on what it receives: nothing copied on the way, every checksum right, all home.

#![cfg(feature = "dpdk")]

use std::sync::Arc;

use bench::ctl::{Ctl, Traffic};
use bench::link::{self, Link, LinkConfig};
use bench::measure::{Stretch, stretch, wait_for};
use bench::pair::{Enter, NothingLost, Threads};
use bench::router::{self, Passes};
use dataplane::dpdk::{Eal, EalConfig};
use transport::node::{IdlePolicy, NodeEnd};

fn measured(ctl: &Arc<Ctl>, link: Link, traffic: Traffic) -> (Stretch, Vec<NodeEnd>) {
    let ready = || ctl.ready.load(std::sync::atomic::Ordering::Acquire);
    wait_for(ctl, "the nodes' start", 20, ready).unwrap();
    let s = stretch(ctl, traffic, 0.3, &mut |_| link.refresh()).unwrap();
    let end = link.stop().unwrap();
    let lost = NothingLost::of(ctl, &end.nodes).and_left(end.buffers_left);
    assert!(lost.ok, "{lost:?}");
    (s, end.nodes)
}

#[test]
fn puts_pass_through_a_router_by_reference() {
    let dir = tempfile::tempdir().unwrap();
    let eal = EalConfig { mem_mb: 768, no_pci: true, ..EalConfig::default() };
    let eal = Eal::start(&eal).unwrap_or_else(|e| panic!("{e}"));
    let enter: Enter = Arc::new(|_| Ok(()));
    let idle = IdlePolicy::spins(0, 1);
    let kinds = [
        (9000, true, Traffic::BulkChecked, Passes::Stored),
        (1500, false, Traffic::BulkChecked, Passes::Stored),
        (9000, true, Traffic::BulkChecked, Passes::Cut),
        (1500, false, Traffic::BulkChecked, Passes::Cut),
        (9000, true, Traffic::Rate, Passes::Stored),
    ];
    for (mtu, tso, traffic, passes) in kinds {
        let cfg = LinkConfig { threads: Threads::One, mtu, tso, ..LinkConfig::default() };
        let ctl = Arc::new(Ctl::default());
        let line = router::linked::start(&eal, dir.path(), (cfg, passes), &ctl, &enter, idle).unwrap();
        let (through, ends) = measured(&ctl, line, traffic);
        let [_, r, _] = &ends[..] else { panic!("{}", ends.len()) };
        assert_eq!(
            [
                r.proto.forward_copied_bytes,
                r.proto.rx_copied_bytes,
                r.streams.tx_copied_bytes,
                r.streams.linearised
            ],
            [0; 4],
            "{mtu} {traffic:?}"
        );
        assert!(r.proto.forwarded_msgs >= through.messages, "{r:?}");
        assert_eq!(r.proto.forward_cut_msgs > 0, passes == Passes::Cut, "{r:?}");
        assert_eq!(r.proto.forward_cut_aborted, 0);
        if traffic == Traffic::BulkChecked {
            assert!(r.streams.tx_attached_bytes >= through.bytes, "{r:?}");
            let ctl = Arc::new(Ctl::default());
            let pair = link::start(&eal, dir.path(), cfg, &ctl, &enter, idle).unwrap();
            let (direct, _) = measured(&ctl, pair, traffic);
            println!(
                "MTU {mtu}, {passes:?}: {:.1} Gbit a CPU second through a router, {:.1} without it",
                through.gbit_per_cpu_s(),
                direct.gbit_per_cpu_s()
            );
        }
    }
}
