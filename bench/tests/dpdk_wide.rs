//! Nodes of several lcores over a virtio link with a queue for each: every lcore has messages of its own, lnet_selftest goes
//! to all of them, and nothing is lost. There are more lcores than cores, which yield to each other.

#![cfg(feature = "dpdk")]

use std::path::Path;
use std::sync::Arc;

use bench::ctl::Ctl;
use bench::link::{Link, LinkConfig, LinkEnd};
use bench::pair::{Enter, NothingLost};
use bench::selftest::{Orders, Serving, Tester};
use bench::suite::plan::Plan;
use bench::suite::run::{self, Measured};
use bench::suite::{Carrier, Op, Options, Side};
use bench::wide::{self, LCORES_MAX, MakeApp, Nids};
use dataplane::dpdk::{Eal, EalConfig};
use transport::node::{IdlePolicy, NodeEnd};

/// Lcores of each node.
const LCORES: u16 = 3;
/// Seconds of a case: it goes on until something has arrived in it.
const SECONDS: f64 = 0.1;
/// Operations at a time to each peer.
const FLIGHT: u32 = 4;

const SIDE: Side = Side { carrier: Carrier::Link, lcores: 2 * LCORES as u32 };

fn plan(ops: &[Op]) -> Plan {
    let options = Options {
        sizes: vec![64, 1 << 20],
        concurrency: vec![FLIGHT],
        base_concurrency: FLIGHT,
        seconds: SECONDS,
        rounds: 1,
        ..Options::default()
    };
    Plan { options, ops: ops.to_vec() }
}

fn config() -> LinkConfig {
    LinkConfig { peer_credits: FLIGHT, ..LinkConfig::default() }
}

/// Shards of the client and of the server.
fn shards(end: &LinkEnd) -> [Vec<&NodeEnd>; 2] {
    let of = |which: usize| end.nodes.iter().skip(which).step_by(2).collect();
    [of(0), of(1)]
}

fn nothing_lost(ctl: &Ctl, end: &LinkEnd) {
    let lost = NothingLost::of(ctl, &end.nodes).and_left(end.buffers_left);
    let left: Vec<_> = end.nodes.iter().map(|e| &e.left).collect();
    assert!(lost.ok, "{lost:?} {left:?}");
    assert_eq!(end.nodes.len(), 2 * usize::from(LCORES));
}

fn all_moved(got: &Measured) {
    assert!(!got.is_empty());
    for (case, round) in got {
        let (n, latency) = (round.cost.messages, round.latency.count);
        assert!(
            n > 0 && round.cost.bytes >= n * u64::from(case.size) / 2 && latency > 0,
            "{case:?} {round:?}"
        );
    }
}

/// Each lcore's peer has connections of its own, which the lcore's own queue carries: pages leave by the queue of the lcore whose
/// peer they are for.
fn raw(eal: &Eal, dir: &Path, run: (&Enter, IdlePolicy)) {
    let (link, ctl) = wide::start(eal, dir, (config(), LCORES), run).unwrap();
    let [cases, none] = plan(&[Op::Put, Op::Get]).parts(SIDE);
    assert_eq!((cases.len(), none.len()), (4, 0));
    let got = run::raw(&ctl, &cases, SECONDS, &mut |_| ());
    let end = link.stop().unwrap();
    all_moved(&got.unwrap());
    nothing_lost(&ctl, &end);
    for (i, shard) in shards(&end).into_iter().flat_map(|s| s.into_iter().enumerate()) {
        let (p, s) = (&shard.proto, &shard.streams);
        assert!(p.msgs_tx > 0 && p.msgs_rx > 0 && p.conns_up == 3, "lcore {i}: {p:?}");
        assert!(p.payload_tx_bytes >= 1 << 20, "lcore {i}: {p:?}");
        // With what was sent again; pages of another lcore's peer would be missing there.
        let sent = s.tx_attached_bytes + s.tx_short_bytes + p.tx_inline_bytes;
        assert!(sent >= p.payload_tx_bytes && s.tx_copied_bytes == 0, "lcore {i}: {p:?} {s:?}");
    }
}

/// One member on each node's first lcore, and destinations on all.
fn brw(eal: &Eal, dir: &Path, run: (&Enter, IdlePolicy)) {
    let (ctl, orders) = (Arc::new(Ctl::default()), Arc::new(Orders::default()));
    let [_, cases] = plan(&[Op::BrwWrite, Op::BrwRead]).parts(SIDE);
    let apps = |[clients, servers]: &Nids| {
        let (ends, all) = ([clients[0], servers[0]], servers.clone());
        let tests = cases.iter().map(run::brw_case).collect();
        let (c, o, serving) = (ctl.clone(), orders.clone(), orders.clone());
        let client: MakeApp =
            Box::new(move |b| Ok(Box::new(Tester::new(tests, ends, 1, &c, &o, b)?.spread(&all, b)?)));
        let server: MakeApp = Box::new(move |b| Ok(Box::new(Serving::new(1, &serving, b)?)));
        [vec![client], vec![server]]
    };
    let link: Link = wide::start_apps(eal, dir, (config(), LCORES), &ctl, run, apps).unwrap();
    let got = orders.wait(&ctl).and_then(|()| run::brw(&ctl, &orders, &cases, SECONDS, &mut |_| ()));
    let end = link.stop().unwrap();
    all_moved(&got.unwrap());
    nothing_lost(&ctl, &end);
    for (i, shard) in shards(&end).into_iter().flat_map(|s| s.into_iter().enumerate()) {
        let p = &shard.proto;
        assert!(p.conns_up == 3 && p.payload_tx_bytes >= 1 << 20, "lcore {i}: {p:?}");
    }
}

#[test]
fn every_lcore_has_a_peer_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mem_mb = wide::memory_mb(&config(), LCORES).max(512);
    let eal = EalConfig { mem_mb, no_pci: true, ..EalConfig::default() };
    let eal = Eal::start(&eal).unwrap_or_else(|e| panic!("{e}"));
    let enter: Enter = Arc::new(|_| Ok(()));
    let run = (&enter, IdlePolicy::spins(0, 1));
    raw(&eal, dir.path(), run);
    brw(&eal, dir.path(), run);
    let many = wide::start(&eal, dir.path(), (config(), LCORES_MAX + 1), run).map(drop);
    assert!(many.unwrap_err().contains("17 lcores a node: a node of the link has 1 to 16"));
}
