//! Without huge pages, as any user can run it: the pair works, what DPDK asks of the EAL too.

#![cfg(feature = "dpdk")]

mod dpdk;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;
use dataplane::dpdk::{
    EthPort, Huge, PairConfig, PortConfig, PortError, PortSpec, TelemetryValue, telemetry, virtio_pair,
};
use dataplane::pkt::{Port, RxPkt, TxMeta, TxPkt};
use dpdk::*;

#[test]
fn ordinary_pages_errors_and_a_second_lcore() {
    let before = core_affinity::get_core_ids();
    let eal = eal(Huge::Off, 256);
    assert!(!eal.huge() && eal.args().contains(&"--no-huge".to_owned()));
    assert_eq!(core_affinity::get_core_ids(), before, "the EAL leaves the caller's affinity alone");

    // Errors name the port and the remedy.
    let open = |s: &str, c: &PortConfig| EthPort::open(&eal, &s.parse::<PortSpec>().unwrap(), c).unwrap_err();
    let ok = PortConfig::default();
    let e = open("net_nosuch0", &ok).to_string();
    assert!(e.contains("net_nosuch0") && e.contains("package"), "{e}");
    let e = open("0000:ff:1f.7", &ok).to_string();
    assert!(e.contains("0000:ff:1f.7") && e.contains("vfio-pci"), "{e}");
    assert!(matches!(open("elsewhere", &ok), PortError::NotFound { .. }));
    let e = open("net_null0", &PortConfig { queues: 5000, ..ok.clone() }).to_string();
    assert!(e.contains("queue pairs") && e.contains("5000"), "{e}");
    let e = open("net_null0", &PortConfig { rx_bufs: 1024, ..ok.clone() }).to_string();
    assert!(e.contains("1024 receive buffers") && e.contains("needed"), "{e}");
    let e = open("net_null0", &PortConfig { mtu: 9000, ..ok.clone() }).to_string();
    assert!(e.contains("lower the MTU") || e.contains("MTU in this range"), "{e}");

    let dir = tempfile::tempdir().unwrap();
    assert!(virtio_pair(&eal, &dir.path().join("not-there"), &PairConfig::default()).is_err());
    let (mut va, mut vb) = pair(&eal, dir.path());
    let lcore = eal.enter().unwrap();
    let mut a = va.take_queue(0).unwrap().build(&lcore);
    let seed = vb.take_queue(0).unwrap();

    // The other end polls on a thread of ours, which yields when the port is to be stopped.
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        let peer = s.spawn(|| {
            let lcore = eal.enter().unwrap();
            assert_ne!(lcore.id(), 0);
            let mut b = seed.build(&lcore);
            let mut next = 0u32;
            let mut batch = ArrayVec::new();
            while b.link_up() {
                b.rx_burst(&mut batch);
                for p in batch.drain(..) {
                    assert_eq!(p.head()[54..58], next.to_be_bytes(), "in order, each once");
                    next += 1;
                }
                done.store(next == 1000, Ordering::Release);
                std::thread::yield_now();
            }
            next
        });
        for i in 0..1000u32 {
            let mut p = a.tx_alloc().unwrap();
            p.copy_in(&headers(4)).unwrap();
            p.copy_in(&i.to_be_bytes()).unwrap();
            send(&mut a, p.finish(TxMeta::default()));
        }
        while !done.load(Ordering::Acquire) && !peer.is_finished() {
            std::thread::yield_now();
        }
        vb.stop(LIMIT).unwrap();
        assert_eq!(peer.join().unwrap(), 1000);
    });

    // An lcore that never answers is named; the port runs on.
    let e = va.stop(Duration::from_millis(20)).unwrap_err();
    assert!(matches!(e, PortError::Polled { queue: 0, .. }), "{e}");
    assert!(va.close(Duration::from_millis(20)).is_err());
    a.park();

    telemetry(&eal, "/pollnd/test", "A test.", |p| vec![("param".into(), TelemetryValue::Text(p.into()))])
        .unwrap();
    assert!(telemetry(&eal, "/pollnd/test", "", |_| Vec::new()).is_err());
    let e = telemetry(&eal, "bad name", "", |_| Vec::new()).unwrap_err().to_string();
    assert!(e.contains("bad name"), "{e}");

    vb.close(LIMIT).unwrap();
    va.close(LIMIT).unwrap();
    drop((a, va, vb, lcore));
    eal.cleanup_within(LIMIT).unwrap();
}
