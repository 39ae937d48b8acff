//! Ports of several queues: mirrored ones of a virtio link, through a stop and a start; a table that is read back, and
//! evened out where it leaves queues out; a port of which nobody can tell where packets go.

#![cfg(feature = "dpdk")]

mod dpdk;

use std::net::SocketAddr;

use dataplane::dpdk::{
    Closed, EthPort, EthQueue, Huge, Offloads, PairConfig, PollLcore, PortConfig, PortError, PortSpec, Want,
    virtio_pair,
};
use dataplane::pkt::{Port, TxMeta, TxPkt};
use dpdk::*;
use hugepages::LendSlab;

const QUEUES: u16 = 2;

fn config(queues: u16) -> PortConfig {
    PortConfig { queues, rx_bufs: 2048, tx_heads: 2048, tx_bare: 4096, ..PortConfig::default() }
}

fn build(p: &mut EthPort, lcore: &PollLcore) -> Vec<EthQueue> {
    (0..p.queues()).map(|q| p.take_queue(q).unwrap().build(lcore)).collect()
}

/// A frame that tells which queue it was sent on, attached pages and all, and arrives on the same one only.
fn cross(from: &mut [EthQueue], to: &mut [EthQueue], slab: &LendSlab, eal: &dataplane::dpdk::Eal) {
    for i in 0..from.len() {
        let r = run(eal, 5000, i as u8);
        let lent = slab.lend(r.slice_all(), 0).unwrap();
        let mut p = from[i].tx_alloc().unwrap();
        p.copy_in(&headers(5000)).unwrap();
        p.attach(&lent).unwrap();
        send(&mut from[i], p.finish(TxMeta::default()));
        let got = recv(&mut to[i]);
        assert_eq!(bytes(&got)[54..], *r.bytes(), "queue {i}");
        drop((got, lent));
        bring_home(&mut from[i], &mut to[i], slab, &mut Vec::new());
    }
    for q in to {
        let mut none = arrayvec::ArrayVec::new();
        q.rx_burst(&mut none);
        assert!(none.is_empty(), "nothing came to another queue");
    }
}

#[test]
fn several_queues() {
    let eal = eal(Huge::Auto, 512);
    let dir = tempfile::tempdir().unwrap();
    let link = PairConfig { port: PortConfig { mtu: 9000, ..config(QUEUES) }, ..PairConfig::default() };
    let (mut va, mut vb) = virtio_pair(&eal, dir.path(), &link).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!([va.describe_queues(), vb.describe_queues()], ["2 queues, mirrored"; 2]);
    let lcore = eal.enter().unwrap();
    let (mut a, mut b) = (build(&mut va, &lcore), build(&mut vb, &lcore));
    let slab = LendSlab::new(64);
    for (i, q) in (0..).zip(&b) {
        let s = &q.caps().steering;
        assert_eq!((s.queue(), s.queues(), s.how(), q.caps().mtu), (i, QUEUES, Some("mirrored"), 9000));
    }
    assert!(va.take_queue(0).is_none() && va.take_queue(QUEUES).is_none());
    for round in 0..2 {
        cross(&mut a, &mut b, &slab, &eal);
        cross(&mut b, &mut a, &slab, &eal);
        if round == 0 {
            // One lcore that polls on is enough to refuse; once all have yielded the port stops, and they go on
            // by themselves when it starts.
            b[0].park();
            let e = vb.stop(std::time::Duration::from_millis(20)).unwrap_err();
            assert!(matches!(e, PortError::Polled { queue: 0 | 1, .. }), "{e}");
            b.iter().for_each(EthQueue::park);
            vb.restart(LIMIT).unwrap();
            assert!(vb.wait_link(LIMIT) && va.wait_link(LIMIT));
        }
    }
    let c = [a[0].counters(), a[1].counters()];
    assert!(c.iter().all(|c| c.tx_packets >= 2 && c.rx_packets >= 2 && c.tx_attached == 2), "{c:?}");
    a.iter().chain(&b).for_each(EthQueue::park);
    drop((a, b));
    assert_eq!(vb.close(LIMIT).unwrap(), Closed::default());
    assert_eq!(va.close(LIMIT).unwrap(), Closed::default());

    // net_null counts queues without end; its table names the first one only until it is told otherwise.
    let spec: PortSpec = "net_null0".parse().unwrap();
    let mut null = EthPort::open(&eal, &spec, &config(4)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(null.describe_queues(), "4 queues, RSS");
    let queues = build(&mut null, &lcore);
    let local = |p| SocketAddr::from(([10, 0, 0, 1], p));
    let remote = SocketAddr::from(([10, 0, 0, 2], 988));
    for q in &queues {
        let s = &q.caps().steering;
        let class = s.ports_of(local(0).ip(), remote);
        let mine: Vec<u16> = (512..=1023).filter(|p| class.has(*p)).collect();
        assert_eq!(mine.len(), 128, "queue {}", s.queue());
        assert!(mine.iter().all(|p| s.owner(local(*p), remote) == s.queue()));
    }
    queues.iter().for_each(EthQueue::park);
    drop(queues);
    null.close(LIMIT).unwrap();
    drop(null);

    // A port that gets fewer queues than it has, or more, which changes nothing; and one that may not spread.
    let four = EthPort::open(&eal, &spec, &config(4)).unwrap_or_else(|e| panic!("{e}"));
    let four = four.with_fewer(&eal, &config(4), 9, "unused").unwrap();
    assert_eq!(four.queues(), 4);
    let mut two = four.with_fewer(&eal, &config(4), 2, "unused").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((two.describe_queues().as_str(), two.take_queue(2).is_some()), ("2 queues, RSS", false));
    let queues = build(&mut two, &lcore);
    assert!(queues.iter().all(|q| q.caps().steering.queues() == 2));
    queues.iter().for_each(EthQueue::park);
    drop(queues);
    assert_eq!(two.close(LIMIT).unwrap(), Closed::default());
    drop(two);
    let off = Offloads { rss: Want::Off, ..Offloads::default() };
    let alone = PortConfig { fewer: true, offloads: off, ..config(4) };
    let mut one = EthPort::open(&eal, &spec, &alone).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(one.describe_queues(), "1 queue (rss is off, and its queues are not mirrored)");
    one.close(LIMIT).unwrap();
    drop(one);

    // A ring is no link between queues of the same number, and has no hash.
    let spec: PortSpec = "net_ring0".parse().unwrap();
    let e = EthPort::open(&eal, &spec, &config(2)).unwrap_err().to_string();
    assert!(e.contains("net_ring0") && e.contains("one queue"), "{e}");
    let mut ring = EthPort::open(&eal, &spec, &PortConfig { fewer: true, ..config(2) })
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(ring.queues(), 1);
    let why = ring.describe_queues();
    assert!(why.starts_with("1 queue (") && (why.contains("net_ring") || why.contains("has one")), "{why}");
    ring.close(LIMIT).unwrap();
}
