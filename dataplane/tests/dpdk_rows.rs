//! Lifetimes of attached pages at the edges: windows and blocks, the count's limit, shared mbufs, what is left when
//! a port is closed.

#![cfg(feature = "dpdk")]

mod dpdk;

use std::ptr::NonNull;
use std::sync::Arc;

use dataplane::dpdk::{Closed, EalBacking, EthPort, Huge, PortConfig, PortSpec, RX_ROOM_SMALL};
use dataplane::pkt::{AttachError, Port, Reach, RxPkt, TxMeta, TxPkt};
use dpdk::*;
use hugepages::rx::LendOwner;
use hugepages::{
    AttachRefused, Backing, BackingError, BackingKind, LendSlab, NIC_REFS_MAX, PageRunMut, RawRun,
};

/// EAL memory that the device sees in blocks, as with physical addresses and no IOMMU.
struct Blocks(EalBacking, u32);

// SAFETY: passes everything on to a backing that keeps the promise; a smaller `contig` promises less.
unsafe impl Backing for Blocks {
    fn alloc(&self, len: usize) -> Result<RawRun, BackingError> {
        Ok(RawRun { contig: self.1, ..self.0.alloc(len)? })
    }
    unsafe fn free(&self, raw: RawRun) {
        // SAFETY: passed on.
        unsafe { self.0.free(raw) }
    }
    fn kind(&self) -> BackingKind {
        BackingKind::Eal
    }
}

fn segments<T: TxPkt>(p: &T) -> Vec<(NonNull<u8>, usize)> {
    let mut v = Vec::new();
    p.for_each(&mut |b| v.extend(b.first().map(|f| (NonNull::from(f), b.len()))));
    v
}

#[test]
fn edges_of_attachment() {
    let eal = eal(Huge::Auto, 256);
    let dir = tempfile::tempdir().unwrap();
    let (mut va, mut vb) = pair(&eal, dir.path());
    let lcore = eal.enter().unwrap();
    let mut a = va.take_queue(0).unwrap().build(&lcore);
    let mut b = vb.take_queue(0).unwrap().build(&lcore);
    let slab = LendSlab::new(16);

    // A run that the device sees in blocks is attached block by block, and crosses whole.
    let block = 16_384;
    let backing = Arc::new(Blocks(EalBacking::new(&eal, -1), block));
    let mut r = PageRunMut::new(backing, 60_000).unwrap();
    r.bytes_mut().iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
    let r = r.freeze();
    let l = slab.lend(r.slice(100, 50_000).unwrap(), 1).unwrap();
    let mut p = b.tx_alloc().unwrap();
    p.copy_in(&headers(50_000)).unwrap();
    p.attach(&l).unwrap();
    let segs = segments(&p);
    assert!(segs.len() >= 4, "{segs:?}");
    for (at, len) in &segs[1..] {
        let first = at.as_ptr() as usize / block as usize;
        assert_eq!(first, (at.as_ptr() as usize + len - 1) / block as usize, "within one block");
    }
    assert_eq!(segs[1..].iter().map(|s| s.1).sum::<usize>(), 50_000);
    send(&mut b, p.finish(TxMeta { segsz: 8948, csum: dataplane::pkt::TxCsum::Offload, ..L234 }));
    assert_eq!(bytes(&recv(&mut a))[54..], r.bytes()[100..50_100]);
    // A port that copies with the CPU needs no blocks.
    assert_eq!(a.caps().reach, Reach::Any);
    let mut p = a.tx_alloc().unwrap();
    p.attach(&l).unwrap();
    assert_eq!(segments(&p).len(), 1, "the head is empty");

    // At half of the 16-bit count the attachment is refused, and the packet is as before.
    let refs: Vec<_> = std::iter::from_fn(|| l.nic_ref(0, 1).ok()).collect();
    assert!(refs.len() > 32_000 && refs.len() < usize::from(NIC_REFS_MAX), "{}", refs.len());
    let (_, _, bare) = va.in_use(0).unwrap();
    let before = p.len();
    assert_eq!(p.attach(&l), Err(AttachError::Count(AttachRefused::Count)));
    assert_eq!((p.len(), va.in_use(0).unwrap().2), (before, bare), "nothing is left behind");
    drop(refs);
    p.attach(&l).unwrap();
    drop((p, l, r));
    bring_home(&mut b, &mut a, &slab, &mut Vec::new());

    // Without bare mbufs the attachment is refused; with them it works again.
    let l = slab.lend(run(&eal, 64, 0).slice_all(), 2).unwrap();
    let mut hoard = Vec::new();
    let e = loop {
        let mut p = b.tx_alloc().unwrap();
        let e = (0..30).find_map(|_| p.attach(&l).err());
        hoard.push(p);
        if let Some(e) = e {
            break e;
        }
    };
    assert_eq!(e, AttachError::NoBuffer);
    hoard.clear();
    assert!(b.tx_alloc().unwrap().attach(&l).is_ok());
    let all: Vec<_> = std::iter::from_fn(|| b.tx_alloc()).collect();
    assert!(all.len() > 3000 && b.counters().tx_nombuf == 1, "{}", all.len());
    drop((all, l));
    slab.reap(|_, _| ());
    assert_eq!(slab.out(), 0);

    // A port that hands over the sender's own mbufs: what arrives is a copy, and lendable; the page is free at once.
    let spec: PortSpec = "net_ring0".parse().unwrap();
    let mut ring = EthPort::open(&eal, &spec, &PortConfig::default()).unwrap();
    let mut q = ring.take_queue(0).unwrap().build(&lcore);
    let r = run(&eal, 20_000, 5);
    let l = slab.lend(r.slice_all(), 3).unwrap();
    let mut p = q.tx_alloc().unwrap();
    p.copy_in(&headers(20_000)).unwrap();
    p.attach(&l).unwrap();
    // It knows no VLANs either: the tag goes in and out in software.
    send(&mut q, p.finish(TxMeta { vlan: Some(7), ..L234 }));
    drop(l);
    let mut got = recv(&mut q);
    assert_eq!(got.meta().vlan, Some(7));
    assert_eq!(slab.reap(|_, _| ()), 1);
    assert_eq!(got.head_mut().len(), usize::from(RX_ROOM_SMALL) - 4, "copied into receive buffers");
    assert_eq!(bytes(&got)[54..], *r.bytes());
    assert_eq!(q.counters().linearised, 1);
    let mut lent = Vec::new();
    got.frags(54, 20_000, &mut |f| lent.extend(f.lend(LendOwner(1))));
    assert_eq!(lent.iter().map(|f| f.bytes().to_vec()).collect::<Vec<_>>().concat(), r.bytes());
    assert_eq!(ring.in_use(0).unwrap().0, q.home().lent_out() as u32);
    assert_eq!(q.home().lent_out(), 20_000_usize.div_ceil(usize::from(RX_ROOM_SMALL) - 4));
    drop(lent);
    assert_eq!(q.home().drain(), 20_000_usize.div_ceil(usize::from(RX_ROOM_SMALL) - 4));
    assert_eq!(q.rx_memory().0, q.rx_memory().1);
    q.park();
    assert_eq!(ring.close(LIMIT).unwrap(), Closed::default());
    drop((q, ring));

    // What is still out after the port was closed is reported, and its memory is not reused.
    let l = slab.lend(r.slice_all(), 4).unwrap();
    let mut p = b.tx_alloc().unwrap();
    p.attach(&l).unwrap();
    a.park();
    b.park();
    assert_eq!(vb.close(LIMIT).unwrap(), Closed { attachments_out: 1, heads_out: 1, rx_out: 0 });
    assert_eq!(va.close(LIMIT).unwrap(), Closed::default());
    drop(l);
    assert_eq!(slab.reap(|_, _| ()), 0, "the closed port's packet still refers to the page");
    drop(p);
    assert_eq!(slab.reap(|_, _| ()), 1);
    drop((a, b, va, vb, lcore, r));
    eal.cleanup().unwrap();
}
