//! Frames of all sizes cross the in-process virtio pair both ways; attached pages come home.

#![cfg(feature = "dpdk")]

mod dpdk;

use std::sync::Arc;

use dataplane::dpdk::{BareEnd, CleanupError, Eal, EalBacking, EalConfig, EalError, EthQueue, Huge};
use dataplane::pkt::{AttachError, Csum, Full, Port, Reach, RxPkt, TX_HEAD_ROOM, TxCsum, TxMeta, TxPkt};
use dpdk::*;
use hugepages::rx::LendOwner;
use hugepages::{LendSlab, PageRunMut, PrivatePages};

fn copied(from: &mut EthQueue, to: &mut EthQueue, vlan: Option<u16>) {
    let mut p = from.tx_alloc().unwrap();
    let mut want = headers(1000);
    want.extend((0..1000).map(|i| i as u8));
    p.copy_in(&want).unwrap();
    send(from, p.finish(TxMeta { vlan, ..TxMeta::default() }));
    let got = recv(to);
    assert_eq!(bytes(&got), want);
    assert_eq!(got.meta().vlan, vlan);
    assert_eq!(got.len(), 1054);
}

fn attached(
    eal: &Eal,
    from: &mut EthQueue,
    to: &mut EthQueue,
    slab: &LendSlab,
    pieces: usize,
    each: usize,
    segsz: u16,
) {
    let payload = pieces * each;
    let mut want = headers(payload);
    let mut p = from.tx_alloc().unwrap();
    p.copy_in(&want).unwrap();
    let mut lent = Vec::new();
    for i in 0..pieces {
        let r = run(eal, each, i as u8);
        want.extend_from_slice(r.bytes());
        let l = slab.lend(r.slice_all(), i as u64).unwrap();
        p.attach(&l).unwrap();
        lent.push(l);
    }
    assert_eq!(p.len() as usize, want.len());
    assert_eq!(p.copy_in(b"late"), Err(Full), "copied bytes come before attached ones");
    send(from, p.finish(TxMeta { segsz, csum: TxCsum::Offload, ..L234 }));
    let got = recv(to);
    let meta = got.meta();
    assert_eq!(meta.lro_segsz, segsz);
    assert_eq!(meta.csum, Csum::Partial, "the sum was left to a device that no frame went through");
    assert_eq!(got.len() as usize, want.len());
    let all = bytes(&got);
    // IPv4 header: summed by somebody; all ones with its checksum (RFC 1071).
    let sum: u32 = all[14..34].as_chunks::<2>().0.iter().map(|c| u32::from(u16::from_be_bytes(*c))).sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    assert!(all[54..] == want[54..], "payload differs");
    // By reference, from the middle of the payload.
    let mut frags = Vec::new();
    got.frags(100, 5000, &mut |f| frags.push(f));
    assert_eq!(frags.iter().flat_map(|f| f.bytes().to_vec()).collect::<Vec<_>>(), want[100..5100]);
    drop(frags);
    assert_eq!(slab.out(), pieces as u64);
    assert_eq!(slab.reap(|_, _| ()), 0, "the stream still holds them");
    drop(lent);
    let mut tokens = Vec::new();
    let n = bring_home(from, to, slab, &mut tokens);
    tokens.sort_unstable();
    assert_eq!(tokens, (0..pieces as u64).collect::<Vec<_>>(), "each once ({n} nudges)");
    assert_eq!(slab.counters().stale, 0);
}

#[test]
fn frames_cross_and_pages_come_home() {
    let eal = eal(Huge::Auto, 256);
    assert!(matches!(Eal::start(&EalConfig::default()), Err(EalError::AlreadyStarted)));
    let dir = tempfile::tempdir().unwrap();
    let (mut va, mut vb) = pair(&eal, dir.path());
    assert_eq!((va.driver(), vb.driver()), ("net_vhost", "net_virtio_user"));
    let lcore = eal.enter().unwrap();
    assert_eq!(lcore.id(), 0, "the thread that started the EAL is its main lcore");
    let seed = va.take_queue(0).unwrap();
    assert!(va.take_queue(0).is_none() && va.take_queue(1).is_none());
    let mut a = seed.build(&lcore);
    let mut b = vb.take_queue(0).unwrap().build(&lcore);
    assert!(a.link_up() && b.link_up());
    eprintln!("{:?}\n{:?}\n{va:?}\n{vb:?}", a.caps(), b.caps());
    for c in [a.caps(), b.caps()] {
        assert!(c.tso_max > 65_000 && c.tx_csum && c.max_segs >= 17, "{c:?}");
    }
    assert_eq!((a.caps().reach, b.caps().reach), (Reach::Any, Reach::Eal));
    let base = (va.in_use(0).unwrap(), vb.in_use(0).unwrap());

    for vlan in [None, Some(7)] {
        copied(&mut a, &mut b, vlan);
        copied(&mut b, &mut a, vlan);
    }
    // A ping-pong of frames of two lengths: each end takes the other's, and no frame of another kind.
    let (mut ask, mut answer) = (BareEnd::new(226), BareEnd::new(162));
    for _ in 0..3 {
        ask.send(&mut b);
        assert_eq!((answer.receive(&mut a), ask.receive(&mut b)), (1, 0));
        answer.send(&mut a);
        assert_eq!((ask.receive(&mut b), answer.receive(&mut a)), (1, 0));
    }
    let mut arp = b.tx_alloc().unwrap();
    arp.copy_in(&[0xff; 60]).unwrap();
    send(&mut b, arp.finish(TxMeta::default()));
    assert_eq!(answer.receive(&mut a), 0);
    let slab = LendSlab::new(64);
    for (pieces, each, segsz) in [(1, 8960, 0), (2, 4480, 0), (16, 4090, 8948), (1, 65_440, 8948)] {
        attached(&eal, &mut a, &mut b, &slab, pieces, each, segsz);
        attached(&eal, &mut b, &mut a, &slab, pieces, each, segsz);
    }

    // Memory that the device cannot read is refused where it matters and copied by the CPU where not.
    let private = PageRunMut::new(Arc::new(PrivatePages), 4096).unwrap().freeze();
    let l = slab.lend(private.slice_all(), 1).unwrap();
    let mut p = b.tx_alloc().unwrap();
    p.copy_in(b"x").unwrap();
    let e = p.attach(&l).unwrap_err();
    assert!(matches!(e, AttachError::Unreachable { .. }) && e.to_string().contains("Private"), "{e}");
    assert_eq!(p.len(), 1, "the packet is as before");
    a.tx_alloc().unwrap().attach(&l).unwrap();
    drop(l);

    // Too many buffers, and a run longer than 65,535 bytes, which takes several.
    let long = run(&eal, 300_000, 3);
    let l = slab.lend(long.slice_all(), 2).unwrap();
    let max = b.caps().max_segs;
    p.attach(&l).unwrap();
    assert_eq!(p.len(), 300_001);
    let mut all = Vec::new();
    p.for_each(&mut |b| all.extend_from_slice(b));
    assert!(all[1..] == *long.bytes());
    let r = (0..max).find_map(|_| p.attach(&l).err());
    assert_eq!(r, Some(AttachError::Segments { max }));
    drop((p, l));
    assert_eq!(slab.reap(|_, _| ()), 2);
    assert_eq!(a.tx_alloc().unwrap().copy_in(&[0; TX_HEAD_ROOM + 1]), Err(Full));

    // A lent receive buffer is dropped elsewhere and freed here.
    let mut p = b.tx_alloc().unwrap();
    p.copy_in(&headers(0)).unwrap();
    send(&mut b, p.finish(TxMeta::default()));
    let mut lent = None;
    recv(&mut a).frags(0, 54, &mut |f| lent = f.lend(LendOwner(1)).ok());
    let lent = lent.unwrap();
    let before = va.in_use(0).unwrap().0;
    std::thread::spawn(move || assert_eq!(lent.bytes().len(), 54)).join().unwrap();
    assert_eq!(va.in_use(0).unwrap().0, before, "only the home lcore frees");
    assert_eq!(a.home().drain(), 1);
    assert_eq!(va.in_use(0).unwrap().0, before - 1);

    let heard = b.counters().rx_packets;
    forwarded(&eal, &mut b, &mut a, &slab, 5);
    forwarded(&eal, &mut a, &mut b, &slab, 9);
    let heard = b.counters().rx_packets - heard;

    // While anything is out the EAL stays.
    let held = run(&eal, 4096, 0);
    assert!(matches!(eal.cleanup(), Err(CleanupError::InUse { runs: 2.., pools: 6, ports: 2, lcores: 1 })));
    assert_eq!(EalBacking::new(&eal, -1).alloc_fails(), (true, true));

    // A driver that frees late lets everything go when it is stopped.
    let l = slab.lend(held.slice_all(), 9).unwrap();
    let mut p = b.tx_alloc().unwrap();
    p.copy_in(&headers(4096)).unwrap();
    p.attach(&l).unwrap();
    send(&mut b, p.finish(TxMeta { csum: TxCsum::Offload, ..L234 }));
    drop((recv(&mut a), l));
    slab.reap(|_, _| ());
    assert_eq!(slab.out(), 1, "virtio frees on a later burst");
    b.park();
    vb.restart(LIMIT).unwrap();
    assert_eq!(slab.reap(|t, _| assert_eq!(t, 9)), 1);
    assert!(vb.wait_link(LIMIT) && va.wait_link(LIMIT));
    copied(&mut a, &mut b, None);
    copied(&mut b, &mut a, None);
    nudge(&mut b, &mut a);

    let c = b.counters();
    assert_eq!(c.tx_nombuf + c.tx_dropped + c.linearised, 0, "{c:?}");
    assert!(c.tx_attached >= 20 && c.rx_packets == 10 + heard && c.tx_bytes > 150_000, "{c:?}");
    let now = (va.in_use(0).unwrap(), vb.in_use(0).unwrap());
    assert_eq!((now.0.0, now.1.0), (base.0.0, base.1.0), "receive pools at baseline");

    a.park();
    b.park();
    for p in [&mut vb, &mut va] {
        assert_eq!(p.close(LIMIT).unwrap(), Default::default(), "{}", p.name());
    }
    drop((a, b, va, vb, lcore, held, long));
    assert_eq!(eal.cleanup(), Ok(()));
    assert_eq!(eal.cleanup(), Err(CleanupError::Stopped));
    assert!(eal.enter().is_err());
}

trait AllocFails {
    fn alloc_fails(&self) -> (bool, bool);
}

impl AllocFails for EalBacking {
    /// Whether a run of nothing and one beyond the EAL's memory are refused.
    fn alloc_fails(&self) -> (bool, bool) {
        use hugepages::Backing;
        (self.alloc(0).is_err(), self.alloc(1 << 40).is_err_and(|e| e.to_string().contains("more memory")))
    }
}
