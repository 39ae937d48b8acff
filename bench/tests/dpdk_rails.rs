//! Two nodes of two NIs over virtio links: an NI on each of two, and tcp and tcp1 on one.

#![cfg(feature = "dpdk")]

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bench::link::this_lcore;
use dataplane::clock::Clock;
use dataplane::dpdk::{Eal, EalBacking, EalConfig, EthPort, PairConfig, virtio_pair};
use hugepages::{Backing, LendSlab};
use tcpstack::{Stack, StackConfig};
use transport::lnd::Config;
use transport::node::{NodeBuilder, Shard};
use transport::wire::Nid;

#[path = "../../transport/tests/common/rails.rs"]
mod rails;

use rails::{End, all_ways, app, at_rest};

fn nids(all: [&str; 2]) -> [Nid; 2] {
    all.map(|n| n.parse().unwrap())
}

fn exchange(eal: &Eal, dir: &Path, links: usize, a: [Nid; 2], b: [Nid; 2]) {
    let backing: Arc<dyn Backing> = Arc::new(EalBacking::new(eal, -1));
    let pairs: Vec<_> = (0..links).map(|_| virtio_pair(eal, dir, &PairConfig::default()).unwrap()).collect();
    let (mut vhost, mut virtio): (Vec<EthPort>, Vec<EthPort>) = pairs.into_iter().unzip();
    let node = |ports: &mut [EthPort], n: [Nid; 2], app| {
        let stacks = ports.iter_mut().enumerate().map(|(i, p)| {
            let queue = p.take_queue(0).unwrap().build(&this_lcore(eal).unwrap());
            let mut ips: Vec<IpAddr> = n.iter().filter_map(|n| n.ip()).collect();
            ips.dedup();
            let own = if links == 1 { &ips[..] } else { &ips[i..=i] };
            let cfg = StackConfig {
                addrs: own.iter().map(|ip| (*ip, 24)).collect(),
                ..StackConfig::new(own[0], 24)
            };
            Stack::new(cfg, queue, LendSlab::new(4096)).unwrap()
        });
        let stacks = stacks.collect();
        let node = NodeBuilder::of(Config::new(n[0], 5)).also(n[1]).clock(Clock::calibrated());
        node.over_ports(stacks, app).unwrap()
    };
    let ((ha, aa), (hb, ab)) = (app(), app());
    let mut shards = [node(&mut virtio, a, aa), node(&mut vhost, b, ab)];
    let from = End { handle: &ha, nids: &a, backing: &backing };
    let to = End { handle: &hb, nids: &b, backing: &backing };
    let turn = |shards: &mut [Shard<_, _>]| {
        shards.iter_mut().for_each(|s: &mut Shard<_, _>| {
            s.turn();
        });
    };
    all_ways(&from, &to, &mut || turn(&mut shards));
    all_ways(&to, &from, &mut || turn(&mut shards));
    let mut rest = 0;
    while !shards.iter_mut().all(|s| at_rest(std::slice::from_mut(s), 2)) {
        turn(&mut shards);
        rest += 1;
        assert!(rest < 5_000_000, "{:?}", shards.each_ref().map(|s| s.machine.gauges()));
    }
    // The virtio side has copied nothing that it sent.
    let sent = shards[0].streams().map(|s| transport::node::Inspect::counters(s)).unwrap();
    assert_eq!((sent.tx_copied_bytes, sent.linearised), (0, 0));
    assert!(sent.tx_attached_bytes >= 1_000_000, "{sent:?}");
    shards.iter_mut().for_each(Shard::shut_down);
    let mut turns = 0;
    while !shards.iter().all(Shard::is_down) {
        turn(&mut shards);
        turns += 1;
        assert!(turns < 5_000_000, "{:?}", shards.each_ref().map(Shard::left));
    }
    drop(shards);
    for mut p in virtio.into_iter().chain(vhost) {
        let left = p.close(Duration::from_secs(2)).unwrap();
        assert_eq!((left.attachments_out, left.heads_out, left.rx_out), (0, 0, 0), "{}", p.name());
    }
}

#[test]
fn puts_gets_and_pings_on_each_ni() {
    let dir = tempfile::tempdir().unwrap();
    let eal = EalConfig { mem_mb: 512, no_pci: true, ..EalConfig::default() };
    let eal = Eal::start(&eal).unwrap_or_else(|e| panic!("{e}"));
    let two = [["10.78.0.1@tcp", "10.79.0.1@tcp1"], ["10.78.0.2@tcp", "10.79.0.2@tcp1"]].map(nids);
    let one = [["10.78.0.1@tcp", "10.78.0.1@tcp1"], ["10.78.0.2@tcp", "10.78.0.2@tcp1"]].map(nids);
    exchange(&eal, dir.path(), 2, two[0], two[1]);
    exchange(&eal, dir.path(), 1, one[0], one[1]);
    exchange(&eal, dir.path(), 1, two[0], two[1]);
}
