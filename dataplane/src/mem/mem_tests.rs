//! The in-memory port.

use super::*;
use crate::pkt::{AttachError, Full, RxPkt, TxMeta};
use hugepages::{LendSlab, Lent, PageRunMut, PrivatePages};
use std::sync::Arc;

fn page() -> hugepages::PageSlice {
    let mut r = PageRunMut::new(Arc::new(PrivatePages), 20_000).unwrap();
    r.bytes_mut().iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
    r.freeze().slice_all()
}

fn send(a: &mut MemPort, head: &[u8], lent: Option<&Lent>, segsz: u16) -> usize {
    let mut t = a.tx_alloc().unwrap();
    t.copy_in(head).unwrap();
    if let Some(l) = lent {
        t.attach(l).unwrap();
    }
    let t = t.finish(TxMeta { segsz, csum: TxCsum::Offload, ..TxMeta::default() });
    a.tx_burst(&mut VecDeque::from([t]))
}

fn recv(b: &mut MemPort) -> Option<MemRx> {
    let mut v = ArrayVec::new();
    b.rx_burst(&mut v);
    v.pop()
}

#[test]
fn a_frame_crosses_copied_or_shared_and_pages_come_home() {
    for crossing in [Crossing::Copy, Crossing::Share] {
        let (mut a, mut b) = pair(&MemConfig { crossing, ..MemConfig::default() });
        let slab = LendSlab::new(4);
        let l = slab.lend(page(), 7).unwrap();
        assert_eq!(send(&mut a, b"head", Some(&l), 1448), 1);
        drop(l);
        let p = recv(&mut b).unwrap();
        assert_eq!((p.len(), p.meta().csum, p.meta().lro_segsz), (20_004, Csum::Partial, 1448));
        let mut all = vec![];
        p.for_each(&mut |x| all.extend_from_slice(x));
        assert_eq!(&all[..4], b"head");
        let mut got = vec![];
        let mut held = vec![];
        p.frags(5, 15_000, &mut |f| {
            got.extend_from_slice(f.bytes());
            held.push(f);
        });
        assert_eq!(got, all[5..15_005]);
        assert_eq!(slab.reap(|_, _| ()), usize::from(crossing == Crossing::Copy));
        drop(held);
        slab.reap(|t, _| assert_eq!(t, 7));
        assert_eq!((slab.out(), b.rx_out()), (0, 0));
    }
}

#[test]
fn a_lazy_port_holds_pages_until_a_later_burst() {
    let (mut a, mut b) = pair(&MemConfig { lazy: 1, ..MemConfig::default() });
    let slab = LendSlab::new(4);
    let l = slab.lend(page(), 1).unwrap();
    send(&mut a, b"x", Some(&l), 9000);
    drop(l);
    assert_eq!(slab.reap(|_, _| ()), 0);
    assert_eq!(a.reclaim(1), Reclaimed::Nudge);
    send(&mut a, b"nudge", None, 0);
    send(&mut a, b"nudge", None, 0);
    assert_eq!(slab.reap(|_, _| ()), 1);
    drop((recv(&mut b), recv(&mut b)));
}

#[test]
fn what_a_device_would_refuse_is_dropped_and_counted() {
    let (mut a, mut b) = pair(&MemConfig { mtu: 1500, tso_max: 0, max_segs: 2, ..MemConfig::default() });
    let slab = LendSlab::new(4);
    let l = slab.lend(page(), 1).unwrap();
    send(&mut a, b"x", Some(&l), 0);
    assert_eq!(a.counters().tx_dropped, 1);
    assert!(recv(&mut b).is_none());
    let mut t = a.tx_alloc().unwrap();
    t.attach(&l.window(0, 10).unwrap()).unwrap();
    assert!(matches!(t.attach(&l), Err(AttachError::Segments { max: 2 })));
    assert_eq!(t.copy_in(&[0; 8]), Err(Full), "bytes after pages would be out of order");
}

#[test]
fn a_receiver_without_buffers_loses_the_frame_and_says_so() {
    let (mut a, mut b) = pair(&MemConfig { rx_bufs: 1, ..MemConfig::default() });
    send(&mut a, b"one", None, 0);
    send(&mut a, b"two", None, 0);
    assert_eq!(b.counters().rx_nombuf, 1);
    drop(recv(&mut b));
    send(&mut a, b"three", None, 0);
    assert!(recv(&mut b).is_some());
}

#[test]
fn shared_frames_cost_receive_buffers_too_until_their_headers_are_done_with() {
    let (mut a, mut b) = pair(&MemConfig { rx_bufs: 1, crossing: Crossing::Share, ..MemConfig::default() });
    let slab = LendSlab::new(4);
    let l = slab.lend(page(), 1).unwrap();
    let all = b.rx_memory().0;
    send(&mut a, b"head", Some(&l), 1448);
    send(&mut a, b"lost", None, 0);
    assert_eq!((b.counters().rx_nombuf, b.rx_out(), b.rx_memory().0), (1, 1, 0));
    let mut kept = vec![];
    recv(&mut b).unwrap().frags(4, 100, &mut |f| kept.push(f));
    assert_eq!((b.rx_out(), b.rx_memory().0), (0, all), "only the sender's pages are held");
    send(&mut a, b"inline", None, 0);
    recv(&mut b).unwrap().frags(2, 100, &mut |f| kept.push(f));
    assert_eq!((b.rx_out(), kept[1].bytes()), (1, &b"line"[..]));
    let copy = kept[0].split_to(10);
    drop(l);
    assert_eq!(slab.reap(|_, _| ()), 0);
    drop((a, b));
    assert_eq!((copy.bytes()[3], kept[0].len()), (3, 90), "fragments outlive the ports");
    drop((copy, kept));
    assert_eq!(slab.reap(|_, _| ()), 1);
}

#[test]
fn packets_that_nobody_received_let_go_of_their_pages() {
    let (mut a, b) = pair(&MemConfig { crossing: Crossing::Share, ..MemConfig::default() });
    let slab = LendSlab::new(4);
    let l = slab.lend(page(), 1).unwrap();
    send(&mut a, b"head", Some(&l), 1448);
    drop((a, b, l));
    assert_eq!(slab.reap(|_, _| ()), 1);
}

/// A frame of TCP from 10.0.0.2:988 to 10.0.0.1:`port`.
fn segment(port: u16) -> Vec<u8> {
    let mut f = vec![0u8; 12];
    f.extend_from_slice(&[8, 0, 0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    f.extend_from_slice(&[988u16.to_be_bytes(), port.to_be_bytes()].concat());
    f
}

#[test]
fn queues_are_filled_as_their_steering_says() {
    let rss = |flip: u16| Rss::new(crate::steer::KEY.to_vec(), (0..128).map(|i| (i + flip) % 4).collect());
    let (mut a, mut b) = pair_of_queues(&MemConfig::default(), Spread::Rss(4, rss(0)), Spread::Mirror(2));
    let local = |p| std::net::SocketAddr::from(([10, 0, 0, 1], p));
    let remote = std::net::SocketAddr::from(([10, 0, 0, 2], 988));
    let mut seen = [0; 4];
    for port in 1000..=1023 {
        // Whichever queue it was sent on.
        assert_eq!(send(&mut b[usize::from(port % 2)], &segment(port), None, 0), 1);
        for p in &mut a {
            let mine = p.caps().steering.owner(local(port), remote) == p.caps().steering.queue();
            assert_eq!(recv(p).is_some(), mine, "port {port}");
            seen[usize::from(p.caps().steering.queue())] += u32::from(mine);
        }
    }
    assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
    send(&mut b[1], b"ARP or what not", None, 0);
    assert!(recv(&mut a[0]).is_some());
    a[0].respread(rss(1));
    let was = usize::from(a[0].caps().steering.owner(local(1023), remote));
    send(&mut b[0], &segment(1023), None, 0);
    assert!(recv(&mut a[was]).is_none() && recv(&mut a[(was + 1) % 4]).is_some());
    for (from, to) in [(0, 0), (1, 1), (2, 0), (3, 1)] {
        send(&mut a[from], &segment(7), None, 0);
        assert!(recv(&mut b[to]).is_some(), "mirrored");
    }
    a[3].set_link(false);
    assert!(a.iter().chain(&b).all(|p| !p.link_up()));
}
