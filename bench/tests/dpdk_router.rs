//! What a node between two virtio links receives it sends on: nothing copied on the way, every checksum right, all home.

#![cfg(feature = "dpdk")]

use std::sync::Arc;

use bench::ctl::{Ctl, Traffic};
use bench::link::{self, Link, LinkConfig};
use bench::measure::{Stretch, stretch, wait_for};
use bench::pair::{Enter, NothingLost, Threads};
use bench::router;
use bench::workload::ClientConfig;
use dataplane::dpdk::{Eal, EalConfig};
use transport::node::{IdlePolicy, NodeEnd};

fn measured(ctl: &Arc<Ctl>, link: Link, traffic: Traffic) -> (Stretch, Vec<NodeEnd>) {
    let ready = || ctl.ready.load(std::sync::atomic::Ordering::Acquire);
    wait_for(ctl, "the nodes' start", 20, ready).unwrap();
    let s = stretch(ctl, traffic, 0.3, &mut |_| link.refresh()).unwrap();
    router::passed_on(ctl).unwrap();
    let end = link.stop().unwrap();
    let lost = NothingLost::of(ctl, &end.nodes).and_left(end.buffers_left);
    assert!(lost.ok, "{lost:?}");
    (s, end.nodes)
}

#[test]
fn puts_pass_through_a_node_by_reference() {
    let dir = tempfile::tempdir().unwrap();
    let eal = EalConfig { mem_mb: 768, no_pci: true, ..EalConfig::default() };
    let eal = Eal::start(&eal).unwrap_or_else(|e| panic!("{e}"));
    let enter: Enter = Arc::new(|_| Ok(()));
    let idle = IdlePolicy::spins(0, 1);
    // Fewer in flight than an owner's share of the receive pool.
    for (mtu, tso, bulk_flight, traffic) in [
        (9000, true, 4, Traffic::BulkChecked),
        (1500, false, 1, Traffic::BulkChecked),
        (9000, true, 4, Traffic::Rate),
    ] {
        let client = ClientConfig { bulk_flight, small_flight: 8, ..ClientConfig::default() };
        let cfg = LinkConfig { threads: Threads::One, client, mtu, tso, ..LinkConfig::default() };
        let ctl = Arc::new(Ctl::default());
        let line = router::start(&eal, dir.path(), cfg, &ctl, &enter, idle).unwrap();
        let (through, ends) = measured(&ctl, line, traffic);
        let [_, r, _] = &ends[..] else { panic!("{}", ends.len()) };
        assert_eq!(
            (r.proto.rx_copied_bytes, r.streams.tx_copied_bytes, r.streams.linearised),
            (0, 0, 0),
            "{mtu}"
        );
        if traffic == Traffic::BulkChecked {
            assert!(r.streams.tx_attached_bytes >= through.bytes, "{r:?}");
            let ctl = Arc::new(Ctl::default());
            let pair = link::start(&eal, dir.path(), cfg, &ctl, &enter, idle).unwrap();
            let (direct, _) = measured(&ctl, pair, traffic);
            println!(
                "MTU {mtu}: {:.1} Gbit a CPU second through a node, {:.1} without it",
                through.gbit_per_cpu_s(),
                direct.gbit_per_cpu_s()
            );
        }
    }
}
