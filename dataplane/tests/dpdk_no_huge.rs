//! Without huge pages, as any user can run it: the pair works, what DPDK asks of the EAL too.

#![cfg(feature = "dpdk")]

mod dpdk;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;
use dataplane::dpdk::{
    Eal, EalBacking, EthPort, Huge, PairConfig, PortConfig, PortError, PortSpec, TelemetryValue, telemetry,
    virtio_pair,
};
use dataplane::pkt::{Port, RxPkt, TxMeta, TxPkt};
use dpdk::*;
use hugepages::PageRunMut;

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
    // Each is four small ones where small frames come.
    let e = open("net_null0", &PortConfig { rx_bufs: 256, ..ok.clone() }).to_string();
    assert!(e.contains("receive buffers") && e.contains("needed"), "{e}");
    let e = open("net_null0", &PortConfig { mtu: 9000, ..ok.clone() }).to_string();
    assert!(e.contains("lower the MTU") || e.contains("MTU in this range"), "{e}");

    // Field report 8: memory of a NUMA node that has none is taken from another.
    let far = PageRunMut::new(Arc::new(EalBacking::new(&eal, 7)), 8192).unwrap();
    assert_eq!(far.freeze().bytes().len(), 8192);

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
    let answer = ask_telemetry(&eal, "/pollnd/test,abc");
    assert_eq!(answer, r#"{"/pollnd/test":{"param":"abc"}}"#);
    let e = telemetry(&eal, "bad name", "", |_| Vec::new()).unwrap_err().to_string();
    assert!(e.contains("bad name"), "{e}");

    vb.close(LIMIT).unwrap();
    va.close(LIMIT).unwrap();
    drop((a, va, vb, lcore));
    eal.cleanup_within(LIMIT).unwrap();
}

/// Asks DPDK's telemetry socket, as dpdk-telemetry.py does: SOCK_SEQPACKET, one greeting, then question and answer.
fn ask_telemetry(eal: &Eal, question: &str) -> String {
    let prefix = eal.args().iter().skip_while(|a| *a != "--file-prefix").nth(1).unwrap();
    let dirs = ["/var/run".to_owned(), std::env::var("XDG_RUNTIME_DIR").unwrap_or("/tmp".into())];
    let paths = dirs.map(|d| format!("{d}/dpdk/{prefix}/dpdk_telemetry.v2"));
    let path = paths.iter().find(|p| std::path::Path::new(p).exists()).unwrap();
    // SAFETY: plain socket calls on a descriptor of our own, with buffers that outlive them.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0);
        let mut at: libc::sockaddr_un = std::mem::zeroed();
        at.sun_family = libc::AF_UNIX as u16;
        at.sun_path.iter_mut().zip(path.bytes()).for_each(|(to, b)| *to = b as libc::c_char);
        let len = size_of::<libc::sockaddr_un>() as u32;
        assert_eq!(libc::connect(fd, (&raw const at).cast(), len), 0, "{}", std::io::Error::last_os_error());
        let mut buf = [0u8; 16_384];
        assert!(libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), 0) > 0, "greeting");
        assert_eq!(libc::send(fd, question.as_ptr().cast(), question.len(), 0), question.len() as isize);
        let n = libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), 0);
        libc::close(fd);
        String::from_utf8_lossy(&buf[..usize::try_from(n).unwrap()]).into_owned()
    }
}
