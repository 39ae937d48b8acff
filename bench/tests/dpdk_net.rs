//! Motr's `net` contract by threads' handles over the virtio link, over both transports.

#![cfg(feature = "dpdk")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bench::link::this_lcore;
use dataplane::clock::Clock;
use dataplane::dpdk::{Eal, EalBacking, EalConfig, PairConfig, virtio_pair};
use hugepages::{Backing, LendSlab};
use tcpstack::{Stack, StackConfig};
use transport::lnd::{AppId, Config};
use transport::net::{Domain, Host, LnetXprt, Sock, threaded};
use transport::netsock::Config as SockConfig;
use transport::node::{NoApp, NodeBuilder, Turn};
use transport::wire::Nid;
use transport::wire::netsock::Addr;

#[path = "../../transport/tests/common/net_suite.rs"]
mod net_suite;

use net_suite::{Side, contract};

const PORT: u16 = 7011;
const IPS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 78, 0, 1), Ipv4Addr::new(10, 78, 0, 2)];

fn exchange(eal: &Eal, dir: &Path, sock: bool) {
    let backing: Arc<dyn Backing> = Arc::new(EalBacking::new(eal, -1));
    let (vhost, virtio) = virtio_pair(eal, dir, &PairConfig::default()).unwrap();
    let mut ports = [virtio, vhost];
    let (handles, apps): (Vec<_>, Vec<_>) = (0..2).map(|_| threaded(64)).unzip();
    let nodes = ports.iter_mut().zip(apps).zip(IPS).map(|((port, app), ip)| -> Box<dyn Turn> {
        let queue = port.take_queue(0).unwrap().build(&this_lcore(eal).unwrap());
        let stack = Stack::new(StackConfig::new(ip, 24), queue, LendSlab::new(4096)).unwrap();
        let cfg = Config::new(Nid::tcp(ip.into(), 0), 5);
        let node = NodeBuilder::of(cfg.clone()).clock(Clock::calibrated());
        if sock {
            let addr = SocketAddr::new(ip.into(), PORT);
            let net = Domain::new(Sock::new(SockConfig::new(Addr::stream(addr), 1)).unwrap(), 0);
            let node = node.listen_at([988, PORT].map(|p| SocketAddr::new(ip.into(), p)));
            Box::new(node.over(stack, NoApp).unwrap().with(PORT, Box::new(Host::new(net, app))).unwrap())
        } else {
            let net = Domain::new(LnetXprt::new(AppId::FIRST, cfg.nids().collect(), cfg.pid), 0);
            Box::new(node.over(stack, Host::new(net, app)).unwrap())
        }
    });
    let mut nodes: Vec<Box<dyn Turn>> = nodes.collect();
    let mut pass = || {
        nodes.iter_mut().for_each(|n| {
            n.turn();
        });
    };
    let sides = handles.into_iter().zip(IPS).map(|(h, ip)| {
        let name = if sock { format!("inet:stream:{ip}@{PORT}") } else { format!("{ip}@tcp:12345:34:1") };
        Side::start(h, backing.clone(), &name, &mut pass)
    });
    let mut sides = sides.collect::<Vec<_>>().into_iter();
    let (a, b) = (sides.next().unwrap(), sides.next().unwrap());
    contract(a, b, &mut pass);
    nodes.iter_mut().for_each(|n| n.shut_down());
    for _ in 0..5_000_000 {
        if nodes.iter().all(|n| n.is_down()) {
            break;
        }
        nodes.iter_mut().for_each(|n| {
            n.turn();
        });
    }
    let ends: Vec<_> = nodes.iter().map(|n| n.end()).collect();
    assert!(ends.iter().all(|e| e.clean), "{:?}", ends.iter().map(|e| &e.left).collect::<Vec<_>>());
    // The virtio side has copied nothing that it sent.
    let sent = &ends[0].streams;
    assert_eq!((sent.tx_copied_bytes, sent.linearised), (0, 0));
    assert!(sent.tx_attached_bytes >= 4 << 20, "{sent:?}");
    drop(nodes);
    for mut p in ports {
        let left = p.close(Duration::from_secs(2)).unwrap();
        assert_eq!((left.attachments_out, left.heads_out, left.rx_out), (0, 0, 0), "{}", p.name());
    }
}

#[test]
fn the_contract_over_the_virtio_link() {
    let dir = tempfile::tempdir().unwrap();
    let eal = EalConfig { mem_mb: 512, no_pci: true, ..EalConfig::default() };
    let eal = Eal::start(&eal).unwrap_or_else(|e| panic!("{e}"));
    exchange(&eal, dir.path(), true);
    exchange(&eal, dir.path(), false);
}
