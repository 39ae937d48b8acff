//! Datagrams: ports, checksums, neighbours, errors, and pages that go by reference.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::common::bench::{Bench, PEER_MAC, PLAIN, icmp_error};
use crate::common::{SEC, addr, config, ip, pattern};
use dataplane::mem::MemConfig;
use smallvec::SmallVec;
use tcpstack::addr::Addr;
use tcpstack::csum::{Sum, pseudo};
use tcpstack::table::Key;
use tcpstack::wire::{self, ETH_IPV4, ETH_IPV6};
use tcpstack::{Datagram, ListenError, StackConfig, Undelivered, udp};

const MINE: u16 = 7000;
const PEERS: u16 = 7001;
const V6: [&str; 2] = ["fd00::1", "fd00::2"];

fn v6(n: usize) -> IpAddr {
    V6[n - 1].parse::<Ipv6Addr>().unwrap().into()
}

/// A frame of the peer's on this path, seen from the peer.
fn frame(key: &Key, data: &[u8], summed: bool) -> Vec<u8> {
    let mut b = vec![0; 14];
    let kind = if key.is_v6() { ETH_IPV6 } else { ETH_IPV4 };
    wire::write_eth(&mut b, PEER_MAC, [2, 0, 0, 0, 0, 1], None, kind);
    let mut u = udp::header(key, data.len()).to_vec();
    u.extend_from_slice(data);
    if summed {
        let mut s = pseudo(&key.local, &key.remote, 17, u.len());
        s.add(&u);
        u[6..8].copy_from_slice(&s.finish().to_be_bytes());
    }
    let mut h = [0; 40];
    let l3 = if key.is_v6() { 40 } else { 20 };
    if key.is_v6() {
        wire::write_ip6(&mut h, &key.local, &key.remote, 17, 64, u.len());
    } else {
        wire::write_ip4(&mut h, &key.local, &key.remote, 17, u.len());
    }
    b.extend_from_slice(&h[..l3]);
    b.extend_from_slice(&u);
    b
}

/// A datagram of the stack's, its checksums looked at.
fn read(b: &[u8]) -> Option<(Key, Vec<u8>)> {
    let e = wire::eth(b)?;
    let l3 = &b[e.len..];
    let ip = if e.kind == ETH_IPV6 { wire::ip6(l3, l3.len()) } else { wire::ip4(l3, l3.len(), true) }.ok()?;
    if ip.proto != 17 {
        return None;
    }
    let u = &l3[ip.hlen..ip.hlen + ip.payload];
    let h = udp::parse(u, ip.payload).expect("a header");
    assert!(h.summed, "no checksum");
    let mut s = pseudo(&ip.src, &ip.dst, 17, u.len());
    s.add(u);
    assert_eq!(s.finish(), 0, "the checksum");
    assert!(e.kind == ETH_IPV6 || l3[6] & 0x40 != 0, "it may be cut up");
    Some((Key::new(ip.src, h.src, ip.dst, h.dst), u[8..usize::from(h.len)].to_vec()))
}

fn sent(b: &mut Bench) -> Vec<(Key, Vec<u8>)> {
    b.frames().iter().filter_map(|f| read(f)).collect()
}

fn bench(mem: &MemConfig) -> Bench {
    let mut b = Bench::with(config(1), mem);
    b.s.open_datagrams(ip(1).into(), MINE).unwrap();
    b
}

fn theirs() -> Key {
    Key::new(ip(2).into(), PEERS, ip(1).into(), MINE)
}

fn bytes(d: &Datagram) -> Vec<u8> {
    d.frags.iter().flat_map(|f| f.bytes().to_vec()).collect()
}

/// Sends a datagram of `hdr` and `pages` bytes to the peer.
fn send(b: &mut Bench, to: SocketAddr, hdr: &[u8], pages: usize) {
    let run = pattern(pages, 3);
    let lent = (pages > 0).then(|| b.s.slab().lend(run.slice_all(), 5).unwrap());
    let local = if to.is_ipv6() { SocketAddr::new(v6(1), MINE) } else { addr(1, MINE) };
    b.s.send_datagram(local, to, hdr, SmallVec::from_iter(lent));
}

#[test]
fn what_comes_to_an_open_port_is_taken_whole() {
    let mut b = bench(&PLAIN);
    assert_eq!(b.s.open_datagrams(ip(1).into(), MINE), Err(ListenError::Port(MINE)));
    assert_eq!(b.s.open_datagrams(ip(9).into(), MINE), Err(ListenError::NotOurs(ip(9).into())));
    for len in [0, 1, 300, 1472] {
        let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
        for summed in [true, false] {
            b.send(&frame(&theirs(), &data, summed));
            let d = b.s.datagram().expect("it came");
            assert_eq!((d.local, d.remote, d.len as usize), (addr(1, MINE), addr(2, PEERS), len));
            assert_eq!(bytes(&d), data);
        }
    }
    // Damaged, shorter than it says, cut up on its way.
    let good = frame(&theirs(), b"hello", true);
    for (at, v, fix) in [(44, 0, false), (39, 99, false), (39, 7, false), (20, 0x20, true)] {
        let mut f = good.clone();
        f[at] = v;
        if fix {
            wire::fill_ip_csum(&mut f[14..]);
        }
        b.send(&f);
    }
    let c = b.s.counters();
    assert_eq!((c.udp_rx, c.rx_bad_csum, c.rx_malformed, c.rx_fragments), (8, 1, 2, 1));
    assert!(b.s.datagram().is_none() && b.frames().is_empty());
}

#[test]
fn a_port_that_nobody_has_is_told_at_a_bounded_rate() {
    let mut b = bench(&PLAIN);
    let key = Key::new(ip(2).into(), PEERS, ip(1).into(), 9);
    let f = frame(&key, b"anybody?", true);
    b.send(&f);
    let r = b.frames().remove(0);
    let ip4 = wire::ip4(&r[14..], r.len() - 14, true).unwrap();
    assert_eq!((ip4.proto, ip4.dst, &r[34..36]), (1, ip(2).into(), &[3u8, 3][..]));
    let mut s = Sum::default();
    s.add(&r[34..]);
    assert_eq!((s.finish(), &r[42..70]), (0, &f[14..42]));
    (0..1000).for_each(|_| b.send(&f));
    let answers = b.frames().len() as u64;
    assert!((10..200).contains(&answers), "{answers}");
    let c = b.s.counters();
    assert_eq!((c.udp_no_port, c.icmp_limited), (1001, 1000 - answers));
}

#[test]
fn datagrams_wait_for_their_neighbour_and_go_by_reference() {
    let mut b = bench(&MemConfig { mtu: 9000, ..PLAIN });
    send(&mut b, addr(2, PEERS), b"head", 8000);
    send(&mut b, addr(2, PEERS), b"second", 0);
    b.turn();
    assert!(sent(&mut b).is_empty(), "nobody knows where to");
    b.arp(2, 2, 1);
    let got = sent(&mut b);
    assert_eq!(got.len(), 2);
    assert_eq!(got[0].0, Key::new(ip(1).into(), MINE, ip(2).into(), PEERS));
    assert_eq!((&got[0].1[..4], &got[0].1[4..]), (&b"head"[..], pattern(8000, 3).bytes()));
    assert_eq!((&got[1].1[..], b.s.counters().tx_attached_bytes), (&b"second"[..], 8000));
    b.turn();
    let mut home = 0;
    b.s.slab().clone().reap(|token, _| home += token);
    assert_eq!((home, b.s.slab().out()), (5, 0), "the pages are home");
    // Short pages ride in the first buffer.
    send(&mut b, addr(2, PEERS), b"", 40);
    b.turn();
    assert_eq!((sent(&mut b).len(), b.s.counters().tx_short_bytes), (1, 40));
}

#[test]
fn what_cannot_get_there_is_told_once() {
    let mut b = bench(&PLAIN);
    let heard =
        |b: &mut Bench| -> Vec<_> { std::iter::from_fn(|| b.s.undelivered()).map(|u| (u.1, u.2)).collect() };
    // Too long for the port; from a port that is not open; to no network of ours; to ourselves.
    send(&mut b, addr(2, PEERS), b"", 1473);
    b.s.send_datagram(addr(1, 1), addr(2, PEERS), b"x", SmallVec::new());
    send(&mut b, ([192, 0, 2, 1], 9).into(), b"x", 0);
    send(&mut b, addr(1, 9), b"x", 0);
    b.turn();
    let local = Undelivered::Local;
    let want = [
        (addr(2, PEERS), local),
        (addr(1, 9), local),
        (addr(2, PEERS), Undelivered::TooBig(1472)),
        (([192, 0, 2, 1], 9).into(), Undelivered::Unreachable),
    ];
    assert_eq!(heard(&mut b), want);
    // A neighbour that does not answer.
    send(&mut b, addr(7, PEERS), b"x", 100);
    send(&mut b, addr(7, PEERS), b"x", 0);
    b.wait(10 * SEC);
    assert_eq!(heard(&mut b), [(addr(7, PEERS), Undelivered::Unreachable); 2]);
    b.s.slab().clone().reap(|_, _| ());
    assert_eq!(b.s.slab().out(), 0);
}

#[test]
fn errors_count_only_about_what_was_sent() {
    let mut b = bench(&PLAIN);
    send(&mut b, addr(2, PEERS), b"x", 1400);
    b.turn();
    b.frames();
    b.arp(2, 2, 1);
    let f = b.frames().remove(0);
    let stranger = frame(&Key::new(ip(1).into(), MINE, ip(2).into(), 99), &[0; 1000], true);
    for (t, code) in [(3, 3), (3, 13), (3, 4)] {
        b.send(&icmp_error(&stranger, t, code, [0, 0, 3, 0]));
    }
    assert_eq!((b.s.undelivered(), b.s.counters().icmp_errors_ignored), (None, 3));
    for (t, code, want) in [
        (3, 3, Some(Undelivered::Refused)),
        (3, 13, Some(Undelivered::Unreachable)),
        (3, 1, None),
        (3, 4, Some(Undelivered::TooBig(1272))),
        // A size that no path has.
        (3, 4, None),
    ] {
        let mtu: u16 = if (t, code) == (3, 4) && want.is_none() { 100 } else { 1300 };
        let [x, y] = mtu.to_be_bytes();
        b.send(&icmp_error(&f, t, code, [0, 0, x, y]));
        assert_eq!(b.s.undelivered().map(|u| u.2), want, "{t}/{code}");
    }
    // The path's size holds from then on.
    send(&mut b, addr(2, PEERS), b"", 1273);
    b.turn();
    assert_eq!(b.s.undelivered().map(|u| u.2), Some(Undelivered::TooBig(1272)));
    send(&mut b, addr(2, PEERS), b"", 1272);
    b.turn();
    assert_eq!(sent(&mut b).len(), 1);
}

#[test]
fn over_ipv6_a_checksum_is_needed_and_errors_are_those_of_icmpv6() {
    let cfg = StackConfig { addrs: vec![(v6(1), 64)], ..config(1) };
    let mut b = Bench::with(cfg, &PLAIN);
    b.s.open_datagrams(v6(1), MINE).unwrap();
    let to = |port| Key::new(Addr::from(v6(2)), PEERS, Addr::from(v6(1)), port);
    b.send(&frame(&to(MINE), b"six", true));
    assert_eq!(bytes(&b.s.datagram().unwrap()), b"six");
    b.send(&frame(&to(MINE), b"six", false));
    assert_eq!((b.s.datagram().is_none(), b.s.counters().rx_bad_csum), (true, 1));
    b.frames();
    let f = frame(&to(9), b"nobody", true);
    b.send(&f);
    let r = b.frames().remove(0);
    let ip6 = wire::ip6(&r[14..], r.len() - 14).unwrap();
    assert_eq!((ip6.proto, &r[54..56], &r[62..]), (58, &[1u8, 4][..], &f[14..]));
    let mut s = pseudo(&ip6.src, &ip6.dst, 58, r.len() - 54);
    s.add(&r[54..]);
    assert_eq!(s.finish(), 0);
    send(&mut b, SocketAddr::new(v6(2), PEERS), b"asks", 0);
    b.turn();
    assert!(b.frames().iter().any(|f| f.len() > 54 && f[54] == 135), "nobody was asked where it is");
}
