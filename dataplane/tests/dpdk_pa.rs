//! I/O addresses that are physical ones: received buffers go out of a port again from where they are.

#![cfg(feature = "dpdk")]

mod dpdk;

use dataplane::dpdk::{Eal, EalConfig, Huge};
use dpdk::*;
use hugepages::LendSlab;

#[test]
fn received_buffers_are_sent_on_by_physical_address() {
    // Refused without the right to: the EAL then says so.
    let _ = hugepages::pool::reserve(std::path::Path::new("/"), 2 << 20, 128);
    let raw = ["--iova-mode", "pa"].map(String::from).into();
    let c = EalConfig { huge: Huge::On, mem_mb: 256, no_pci: true, raw, ..EalConfig::default() };
    let eal = match Eal::start(&c) {
        Ok(eal) => eal,
        Err(e) => {
            println!("SKIP: received_buffers_are_sent_on_by_physical_address: {e}");
            return;
        }
    };
    assert!(!eal.iova_is_va());
    let dir = tempfile::tempdir().unwrap();
    let (mut va, mut vb) = pair(&eal, dir.path());
    let lcore = eal.enter().unwrap();
    let mut a = va.take_queue(0).unwrap().build(&lcore);
    let mut b = vb.take_queue(0).unwrap().build(&lcore);
    let slab = LendSlab::new(4);
    forwarded(&eal, &mut b, &mut a, &slab, 5);
    forwarded(&eal, &mut a, &mut b, &slab, 9);
    a.park();
    b.park();
    for p in [&mut vb, &mut va] {
        assert_eq!(p.close(LIMIT).unwrap(), Default::default(), "{}", p.name());
    }
}
