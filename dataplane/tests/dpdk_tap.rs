//! A driver that refuses a packet for good in its burst: net_tap, in a network namespace of the test's own.

#![cfg(feature = "dpdk")]

mod dpdk;

use std::collections::VecDeque;

use dataplane::dpdk::{Closed, EthPort, Huge, PortConfig, PortSpec};
use dataplane::pkt::{Port, TxCsum, TxMeta, TxPkt};
use dpdk::*;
use hugepages::LendSlab;

/// A packet socket that hears all of the interface that is number `index` in this thread's namespace.
fn listen(iface: &std::ffi::CStr) -> i32 {
    // SAFETY: plain socket calls with an address that is filled in and outlives them.
    unsafe {
        let all = (libc::ETH_P_ALL as u16).to_be();
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, i32::from(all));
        let mut at: libc::sockaddr_ll = std::mem::zeroed();
        at.sll_family = libc::AF_PACKET as u16;
        at.sll_protocol = all;
        at.sll_ifindex = libc::if_nametoindex(iface.as_ptr()) as i32;
        let len = size_of::<libc::sockaddr_ll>() as u32;
        assert!(at.sll_ifindex > 0 && libc::bind(fd, (&raw const at).cast(), len) == 0);
        fd
    }
}

#[test]
fn report_5_what_a_driver_refuses_for_good_goes_out_another_way() {
    let test = "report_5_what_a_driver_refuses_for_good_goes_out_another_way";
    // SAFETY: changes this thread's namespace only.
    if !std::path::Path::new("/dev/net/tun").exists() || unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        println!("SKIP: {test}: a namespace with a TAP device takes root and /dev/net/tun");
        return;
    }
    let eal = eal(Huge::Off, 256);
    let spec: PortSpec = "net_tap0,iface=pt0".parse().unwrap();
    let mut port = EthPort::open(&eal, &spec, &PortConfig::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(port.caps().tso_max, 0, "a stack is not told that it may");
    let lcore = eal.enter().unwrap();
    let mut q = port.take_queue(0).unwrap().build(&lcore);
    assert!(port.wait_link(LIMIT));
    let fd = listen(c"pt0");
    // Segment size and headers are more than the MTU: the driver takes it never, and says so in no other way.
    let slab = LendSlab::new(4);
    let pages = run(&eal, 5000, 3);
    let lent = slab.lend(pages.slice_all(), 1).unwrap();
    let mut p = q.tx_alloc().unwrap();
    p.copy_in(&headers(5000)).unwrap();
    p.attach(&lent).unwrap();
    let refused = p.finish(TxMeta { segsz: 1448, csum: TxCsum::Offload, ..L234 });
    // One that it takes waits behind it.
    let mut small = q.tx_alloc().unwrap();
    small.copy_in(&headers(4)).unwrap();
    small.copy_in(b"last").unwrap();
    let mut waiting = VecDeque::from([refused, small.finish(TxMeta::default())]);
    while !waiting.is_empty() {
        q.tx_burst(&mut waiting);
    }
    let c = q.counters();
    assert_eq!((c.tx_refused, c.tx_dropped, c.linearised), (1, 0, 4), "{c:?}");
    let told = port.troubles();
    assert!(
        told.len() == 1 && told[0].contains("net_tap") && told[0].contains("port_tx_refused"),
        "{told:?}"
    );
    // The kernel sees the bytes once, in order, in frames that it can take.
    let mut payload = Vec::new();
    let mut buf = [0u8; 4096];
    while !payload.ends_with(b"last") {
        // SAFETY: a buffer of the length named.
        let n = unsafe { libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), 0) };
        let Ok(n) = usize::try_from(n) else { continue };
        // Neighbour discovery of the kernel's is there, too.
        if buf[12..14] == [8, 0] && buf[23] == 6 {
            assert!(n <= 1514);
            let total = usize::from(u16::from_be_bytes([buf[16], buf[17]]));
            payload.extend_from_slice(&buf[54..14 + total]);
        }
    }
    assert_eq!(payload[..5000], *pages.bytes());
    assert_eq!(&payload[5000..], b"last");
    // The pages came home as soon as their bytes were copied.
    drop((lent, pages));
    let mut home = 0;
    slab.reap(|_, _| home += 1);
    assert_eq!((home, slab.out()), (1, 0));
    q.park();
    assert_eq!(port.close(LIMIT).unwrap(), Closed::default());
    drop((q, port, lcore));
    eal.cleanup_within(LIMIT).unwrap();
}
