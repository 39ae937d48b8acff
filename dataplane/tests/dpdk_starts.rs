//! Ports that are stopped and started, driver by driver: a driver that copies as it sends holds no page after its burst, so that
//! a restart would bring none home; every port goes on after a restart; and one that does not start, a TAP whose device is
//! elsewhere, has no link, is counted, and runs when its device is back.

#![cfg(feature = "dpdk")]

mod dpdk;

use std::path::Path;
use std::process::Command;

use dataplane::dpdk::{Closed, Eal, EthPort, EthQueue, Huge, PollLcore, PortConfig, PortSpec};
use dataplane::pkt::{Port, Reach, TxMeta, TxPkt};
use dpdk::*;
use hugepages::LendSlab;

fn ip(args: &[&str]) {
    let o = Command::new("ip").args(args).output().unwrap();
    assert!(o.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&o.stderr));
}

/// A namespace that goes with this value.
struct Elsewhere(String);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn open(eal: &Eal, lcore: &PollLcore, spec: &str) -> (EthPort, EthQueue) {
    let spec: PortSpec = spec.parse().unwrap();
    let mut port = EthPort::open(eal, &spec, &PortConfig::default()).unwrap_or_else(|e| panic!("{e}"));
    let q = port.take_queue(0).unwrap().build(lcore);
    assert!(port.wait_link(LIMIT), "{port:?}");
    (port, q)
}

/// A packet with a page of ours; the page is the packet's alone afterwards.
fn packet(eal: &Eal, q: &mut EthQueue, slab: &LendSlab) -> <EthQueue as Port>::Tx {
    let l = slab.lend(run(eal, 1000, 1).slice_all(), 1).unwrap();
    let mut p = q.tx_alloc().unwrap();
    p.copy_in(&headers(1000)).unwrap();
    p.attach(&l).unwrap();
    p.finish(TxMeta::default())
}

/// Sends a packet; whether its page is home at once.
fn is_home_after(eal: &Eal, q: &mut EthQueue, slab: &LendSlab) -> bool {
    let p = packet(eal, q, slab);
    assert_eq!((slab.out(), slab.nic_held()), (1, 1));
    send(q, p);
    slab.reap(|_, _| ());
    slab.out() == 0
}

/// A restart while packets wait, which the port has not taken: it brings no page home, and the port goes on.
fn restarted(eal: &Eal, port: &mut EthPort, q: &mut EthQueue, slab: &LendSlab) {
    let before = q.counters();
    let waits = packet(eal, q, slab);
    q.park();
    port.restart(LIMIT).unwrap_or_else(|e| panic!("{port:?}: {e}"));
    slab.reap(|_, _| ());
    assert_eq!(slab.out(), 1, "{port:?}");
    drop(waits);
    slab.reap(|_, _| ());
    assert_eq!(slab.out(), 0, "{port:?}");
    let after = q.counters();
    assert_eq!(
        (after.restarts - before.restarts, after.failed_starts),
        (1, before.failed_starts),
        "{port:?}"
    );
    assert!(port.is_running() && port.wait_link(LIMIT) && q.link_up(), "{port:?}");
}

fn closed(mut port: EthPort, q: EthQueue) {
    q.park();
    assert_eq!(port.close(LIMIT).unwrap(), Closed::default());
    assert!(!port.is_running() && !port.refresh_link().up);
    drop((q, port));
}

#[test]
fn each_driver_is_stopped_and_started() {
    let test = "each_driver_is_stopped_and_started";
    // SAFETY: changes this thread's namespace only.
    if !Path::new("/dev/net/tun").exists() || unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        println!("SKIP: {test}: a namespace with a TAP device takes root and /dev/net/tun");
        return;
    }
    let eal = eal(Huge::Auto, 256);
    let lcore = eal.enter().unwrap();
    let slab = LendSlab::new(16);
    ip(&["link", "add", "sv0", "type", "veth", "peer", "name", "sv1"]);
    for v in ["sv0", "sv1"] {
        ip(&["link", "set", v, "up"]);
    }
    // One that takes no pages at all.
    let (mut port, mut q) = open(&eal, &lcore, "net_null0");
    assert_eq!(q.caps().reach, Reach::None);
    for n in 1..=2 {
        q.park();
        port.restart(LIMIT).unwrap();
        let mut p = q.tx_alloc().unwrap();
        p.copy_in(&headers(0)).unwrap();
        send(&mut q, p.finish(TxMeta::default()));
        assert_eq!((q.counters().restarts, q.counters().tx_packets, q.link_up()), (n, n, true));
    }
    closed(port, q);
    for spec in ["net_af_packet0,iface=sv0", "net_tap0,iface=st0"] {
        let (mut port, mut q) = open(&eal, &lcore, spec);
        assert_eq!(q.caps().reach, Reach::Any, "{spec}");
        for _ in 0..2 {
            assert!(is_home_after(&eal, &mut q, &slab), "{spec}: it copies as it sends");
            restarted(&eal, &mut port, &mut q, &slab);
        }
        closed(port, q);
    }

    // Of a virtio pair the vhost end copies, and the other end's ring holds pages, a restart or not, until later frames go.
    let dir = tempfile::tempdir().unwrap();
    let (mut va, mut vb) = pair(&eal, dir.path());
    let (mut a, mut b) = (va.take_queue(0).unwrap().build(&lcore), vb.take_queue(0).unwrap().build(&lcore));
    assert_eq!((a.caps().reach, b.caps().reach), (Reach::Any, Reach::Eal));
    assert!(is_home_after(&eal, &mut a, &slab), "vhost copies");
    drop(recv(&mut b));
    restarted(&eal, &mut va, &mut a, &slab);
    assert!(!is_home_after(&eal, &mut b, &slab), "the ring holds it");
    b.park();
    vb.restart(LIMIT).unwrap();
    drop(recv(&mut a));
    bring_home(&mut b, &mut a, &slab, &mut Vec::new());
    assert_eq!((slab.out(), b.counters().restarts, b.counters().failed_starts), (0, 1, 0));
    closed(vb, b);
    closed(va, a);

    // A TAP whose device was moved cannot be started: its driver asks for the device by name.
    let away = Elsewhere(format!("pollnd-starts-{}", std::process::id()));
    // SAFETY: a number.
    let here = format!("/proc/{}/task/{}/ns/net", std::process::id(), unsafe { libc::gettid() });
    let (mut port, mut q) = open(&eal, &lcore, "net_tap1,iface=st1");
    ip(&["netns", "add", &away.0]);
    ip(&["link", "set", "st1", "netns", &away.0]);
    assert!(port.refresh_link().up, "out of sight, not down");
    q.park();
    for n in 1..=2 {
        let e = port.restart(LIMIT).unwrap_err().to_string();
        assert!(e.contains("net_tap1") && e.contains("rte_eth_dev_start"), "{e}");
        assert_eq!((port.is_running(), port.refresh_link().up, q.link_up()), (false, false, false));
        assert!(port.start().is_err());
        let c = q.counters();
        assert_eq!((c.restarts, c.failed_starts), (n, 2 * n));
    }
    ip(&["-n", &away.0, "link", "set", "st1", "netns", &here]);
    port.start().unwrap();
    assert!(port.is_running() && port.wait_link(LIMIT) && q.link_up());
    assert!(is_home_after(&eal, &mut q, &slab));
    assert_eq!(q.counters().failed_starts, 4);
    closed(port, q);
    drop((away, lcore));
    eal.cleanup_within(LIMIT).unwrap();
}
