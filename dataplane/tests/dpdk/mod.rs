//! Shared by the tests that start an EAL; each is a process of its own.

#![allow(dead_code, unreachable_pub)]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use dataplane::dpdk::{
    Eal, EalBacking, EalConfig, EthPort, EthQueue, EthRxPkt, Huge, PairConfig, virtio_pair,
};
use dataplane::pkt::{AttachError, Port, Reach, RxPkt, TxCsum, TxMeta, TxPkt};
use hugepages::{BackingKind, Io, LendOwner, LendSlab, PageRun, PageRunMut, PageSlice, RxPiece};

pub const LIMIT: Duration = Duration::from_secs(5);

/// An EAL for virtual ports. Huge pages are reserved when the test may and the machine can.
pub fn eal(huge: Huge, mem_mb: u32) -> Eal {
    if huge != Huge::Off {
        // Refused without the right to: `Huge::Auto` then takes ordinary pages.
        let _ = hugepages::pool::reserve(Path::new("/"), 2 << 20, u64::from(mem_mb).div_ceil(2));
    }
    let c = EalConfig { huge, mem_mb, no_pci: true, ..EalConfig::default() };
    Eal::start(&c).unwrap_or_else(|e| panic!("{e}"))
}

pub fn pair(eal: &Eal, dir: &Path) -> (EthPort, EthPort) {
    virtio_pair(eal, dir, &PairConfig::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// A run of EAL memory with a pattern that depends on `seed`.
pub fn run(eal: &Eal, len: usize, seed: u8) -> PageRun {
    let mut r = PageRunMut::new(Arc::new(EalBacking::new(eal, -1)), len).unwrap();
    for (i, b) in r.bytes_mut().iter_mut().enumerate() {
        *b = (i as u8).wrapping_mul(31).wrapping_add(seed).wrapping_add((i >> 8) as u8);
    }
    r.freeze()
}

/// Ethernet, IPv4 and TCP headers for `payload` bytes; the TCP checksum field holds the pseudo-header's sum.
pub fn headers(payload: usize) -> Vec<u8> {
    let mut h = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let total = (40 + payload) as u16;
    h.extend([0x45, 0]);
    h.extend(total.to_be_bytes());
    h.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    h.extend([3, 0xff, 3, 0xdc, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    h
}

pub const L234: TxMeta =
    TxMeta { l2: 14, l3: 20, l4: 20, segsz: 0, csum: TxCsum::Done, v6: false, vlan: None };

/// Sends until all of `q` is with the driver.
pub fn send_all<P: Port>(p: &mut P, q: &mut VecDeque<P::Tx>) {
    for _ in 0..100_000 {
        p.tx_burst(q);
        if q.is_empty() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("{} packets were never taken", q.len());
}

pub fn send<P: Port>(p: &mut P, pkt: P::Tx) {
    send_all(p, &mut VecDeque::from([pkt]));
}

/// The next packet to arrive.
pub fn recv(p: &mut EthQueue) -> EthRxPkt {
    let mut v = ArrayVec::new();
    for _ in 0..1_000_000 {
        p.rx_burst(&mut v);
        if let Some(x) = v.pop() {
            assert!(v.is_empty(), "one packet was sent");
            return x;
        }
        std::thread::yield_now();
    }
    panic!("nothing arrived");
}

/// A harmless frame: too short for any protocol, of the type for local experiments (IEEE 802, 0x88b5).
pub fn nudge(from: &mut EthQueue, to: &mut EthQueue) {
    let mut p = from.tx_alloc().unwrap();
    let mut f = [0u8; 60];
    f[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    f[12..14].copy_from_slice(&[0x88, 0xb5]);
    p.copy_in(&f).unwrap();
    send(from, p.finish(TxMeta::default()));
    drop(recv(to));
}

pub fn bytes<P: RxPkt>(p: &P) -> Vec<u8> {
    let mut v = Vec::new();
    p.for_each(&mut |b| v.extend_from_slice(b));
    v
}

/// Nudges until every lending is home; how many frames that took. Tokens are collected.
pub fn bring_home(from: &mut EthQueue, to: &mut EthQueue, slab: &LendSlab, tokens: &mut Vec<u64>) -> u32 {
    for n in 0..64 {
        slab.reap(|t, _| tokens.push(t));
        if slab.out() == 0 {
            return n;
        }
        from.reclaim(64);
        nudge(from, to);
    }
    panic!("{} lendings did not come home in 64 nudges", slab.out());
}

/// Packets that `to` receives go back the way they came, each buffer as it is, and between them a copy that a device does not reach.
/// The buffers are their pool's again when the driver has let go.
pub fn forwarded(eal: &Eal, from: &mut EthQueue, to: &mut EthQueue, slab: &LendSlab, seed: u8) {
    let r = run(eal, 40_000, seed);
    let l = slab.lend(r.slice_all(), 1).unwrap();
    let mut p = from.tx_alloc().unwrap();
    p.copy_in(&headers(40_000)).unwrap();
    p.attach(&l).unwrap();
    send(from, p.finish(TxMeta { segsz: 8948, csum: TxCsum::Offload, ..L234 }));
    let mut pieces = Vec::new();
    recv(to).frags(54, 40_000, &mut |f| {
        pieces.push(RxPiece::Lent(f.lend(LendOwner::FORWARDER).unwrap()));
    });
    drop(l);
    bring_home(from, to, slab, &mut Vec::new());
    let lent = pieces.len();
    assert!(lent >= 2, "40,000 bytes in one buffer");
    for p in &pieces {
        let RxPiece::Lent(p) = p else { unreachable!() };
        for by in [0, p.len() - 1] {
            // SAFETY: asks the EAL's page tables for an address; every value is allowed.
            let at = unsafe { dpdk_sys::rte_mem_virt2iova(p.bytes()[by as usize..].as_ptr().cast()) };
            let want = Io { kind: BackingKind::Eal, iova: at, contig: 0 };
            assert_eq!(p.io().on(by), want, "where the EAL says, to the last byte");
        }
    }
    pieces.push(RxPiece::Copied([7; 100].into()));
    let whole = slab.lend(PageSlice::received(pieces), 2).unwrap();
    let mut p = to.tx_alloc().unwrap();
    p.copy_in(&headers(40_000)).unwrap();
    assert_eq!(p.attach(&whole), Err(AttachError::Scattered), "only what lies together");
    let mut at = 0;
    while at < 40_000 {
        let n = whole.chunk(at).len() as u32;
        p.attach(&whole.window(at, n).unwrap()).unwrap();
        at += n;
    }
    let copy = whole.window(40_000, 100).unwrap();
    match to.caps().reach {
        Reach::Eal => assert!(matches!(p.attach(&copy), Err(AttachError::Unreachable { .. }))),
        _ => assert_eq!(to.tx_alloc().unwrap().attach(&copy), Ok(())),
    }
    send(to, p.finish(TxMeta { segsz: 8948, csum: TxCsum::Offload, ..L234 }));
    assert!(bytes(&recv(from))[54..] == *r.bytes(), "what came is what went");
    drop((copy, whole));
    bring_home(to, from, slab, &mut Vec::new());
    assert_eq!(to.home().drain(), lent);
    assert_eq!(to.home().lent_out(), 0);
}
