//! IPv6: connections, neighbour discovery, echo, and what is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::common::bench::{Bench, Got, PEER_MAC, segment};
use crate::common::{SEC, config, ip};
use dataplane::mem::MemConfig;
use tcpstack::addr::Addr;
use tcpstack::csum::pseudo;
use tcpstack::nd::{self, FRAME_MAX, ICMP6, Message, Packet, Say};
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{self, ACK, FIN, Fields, RST, SYN};
use tcpstack::{Close, CloseWhy, Dial, DialError, Event, FlowId, Listen, ListenError, StackConfig};

const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// fd00::n
fn six(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n)
}

fn a(n: u16) -> Addr {
    six(n).into()
}

fn only6() -> StackConfig {
    StackConfig { addrs: vec![(six(1).into(), 64)], ..config(1) }
}

fn plain() -> MemConfig {
    MemConfig { mtu: 1500, tso_max: 0, csum: false, ..MemConfig::default() }
}

fn bench() -> Bench {
    let mut b = Bench::with(only6(), &plain());
    b.s.listen(Listen { addr: six(1).into(), port: 988, backlog: 2 }).unwrap();
    b
}

/// The messages of neighbour and listener discovery among the frames that the stack sent, with where they went.
fn said(b: &mut Bench) -> Vec<([u8; 6], Addr, Addr, Vec<u8>)> {
    b.frames()
        .into_iter()
        .filter_map(|f| {
            let e = wire::eth(&f)?;
            let i = wire::ip6(&f[e.len..], f.len() - e.len).ok().filter(|i| i.proto == ICMP6)?;
            let m = f[e.len + i.hlen..].to_vec();
            let mut s = pseudo(&i.src, &i.dst, ICMP6, m.len());
            s.add(&m);
            assert_eq!(s.finish(), 0, "ICMPv6 checksum");
            Some((e.dst, i.src, i.dst, m))
        })
        .collect()
}

/// The neighbour that the stack asks for.
fn asked(b: &mut Bench) -> Addr {
    let v = said(b);
    assert_eq!(v.len(), 1, "{v:?}");
    let (mac, src, dst, m) = &v[0];
    assert_eq!(*mac, dst.group_mac());
    match nd::parse(m, src, dst, 255) {
        Some(Message::Solicit { target, source: Some(OWN_MAC) }) => target,
        m => panic!("{m:?}"),
    }
}

fn speak(b: &mut Bench, p: &Packet, mac: [u8; 6], to: Option<[u8; 6]>) {
    let mut f = [0; FRAME_MAX];
    let n = p.frame(mac, to, None, &mut f);
    b.send(&f[..n]);
}

fn advertise(b: &mut Bench, target: Addr, mac: [u8; 6]) {
    let p = Packet { src: target, dst: a(1), say: Say::Advert { target, solicited: true } };
    speak(b, &p, mac, Some(OWN_MAC));
}

fn at(n: u16, port: u16) -> SocketAddr {
    (six(n), port).into()
}

fn dial(b: &mut Bench) -> (FlowId, Got) {
    let f = b.s.dial(b.now, Dial { local: at(1, 1023), remote: at(2, 988) }).unwrap();
    b.turn();
    assert_eq!(asked(b), a(2));
    advertise(b, a(2), PEER_MAC);
    (f, b.one())
}

/// Segments that the peer of [`open`] sends.
fn put(b: &mut Bench, flags: u8, seq: u32, ack: Seq, data: &[u8]) {
    let key = Key::new(a(2), 988, a(1), 1023);
    b.send(&segment(&key, &Fields { seq: Seq(seq), ack, flags, win: 65_535 }, &[], data));
}

/// A connection that the stack dialled; our next number is 101. Returns it and the stack's next number.
fn open(b: &mut Bench) -> (FlowId, Seq) {
    let (f, syn) = dial(b);
    let key = Key::new(a(2), 988, a(1), 1023);
    let sa = Fields { seq: Seq(100), ack: syn.seg.seq.plus(1), flags: SYN | ACK, win: 65_535 };
    b.send(&segment(&key, &sa, &[2, 4, 5, 0xa0], &[]));
    assert_eq!(b.one().seg.flags, ACK);
    b.events();
    (f, syn.seg.seq.plus(1))
}

#[test]
fn a_connection_from_solicitation_to_fin() {
    let mut b = bench();
    let (f, una) = open(&mut b);
    b.push(f, 3000);
    let v = b.segs();
    assert_eq!(v.iter().map(|g| g.data.len()).collect::<Vec<_>>(), [1440, 1440, 120], "an MSS of 1500 - 60");
    assert_eq!(v[0].seg.key, Key::new(a(2), 988, a(1), 1023));
    put(&mut b, ACK, 101, una.plus(3000), b"answer");
    assert_eq!(b.read(f), b"answer");
    b.s.close(f, Close::Fin);
    b.turn();
    let fin = b.segs().pop().unwrap().seg;
    assert_eq!((fin.flags & FIN, fin.ack), (FIN, Seq(107)));
    put(&mut b, ACK | FIN, 107, fin.seq.plus(1), b"");
    assert_eq!((b.closed(), b.s.time_waits()), (Some(CloseWhy::Fin), 1));
    assert_eq!(b.s.counters().desync, 0);
}

#[test]
fn a_connection_that_the_peer_begins_and_a_stray() {
    let mut b = bench();
    let key = Key::new(a(2), 7, a(1), 988);
    b.send(&segment(
        &key,
        &Fields { seq: Seq(5), ack: Seq(0), flags: SYN, win: 1000 },
        &[2, 4, 4, 0xd0],
        b"",
    ));
    let sa = b.one().seg;
    assert_eq!((sa.flags, sa.ack), (SYN | ACK, Seq(6)));
    b.send(&segment(&key, &Fields { seq: Seq(6), ack: sa.seq.plus(1), flags: ACK, win: 9 }, &[], b"hi"));
    let opened = b.events().into_iter().find_map(|e| match e {
        Event::Opened { flow, local, remote, passive: true } => Some((flow, local, remote)),
        _ => None,
    });
    let (flow, local, remote) = opened.unwrap();
    assert_eq!((local, remote, b.read(flow)), (at(1, 988), at(2, 7), b"hi".to_vec()));
    b.segs();
    let stray = Key::new(a(2), 8, a(1), 9);
    b.send(&segment(&stray, &Fields { seq: Seq(5), ack: Seq(6), flags: ACK, win: 0 }, &[], b"abc"));
    let r = b.one().seg;
    assert_eq!((r.flags & RST, r.seq, r.key), (RST, Seq(6), stray));
}

#[test]
fn a_device_that_sums_gets_the_pseudo_header_and_a_super_segment() {
    let mut b = Bench::with(only6(), &MemConfig { mtu: 1500, tso_max: 65_535, ..MemConfig::default() });
    let f = b.s.dial(b.now, Dial { local: at(1, 1023), remote: at(2, 988) }).unwrap();
    b.turn();
    b.frames();
    advertise(&mut b, a(2), PEER_MAC);
    let frame = b.frames().remove(0);
    let (want, syn) = (pseudo(&a(1), &a(2), 6, frame.len() - 54).folded(), &frame[54..]);
    assert_eq!(&syn[16..18], &want.to_be_bytes());
    let isn = Seq(u32::from_be_bytes([syn[4], syn[5], syn[6], syn[7]]));
    let key = Key::new(a(2), 988, a(1), 1023);
    let sa = Fields { seq: Seq(100), ack: isn.plus(1), flags: SYN | ACK, win: 65_535 };
    b.send(&segment(&key, &sa, &[2, 4, 5, 0xa0], &[]));
    b.frames();
    b.push(f, 50_000);
    let big = b.frames().remove(0);
    // Whole segments as far as there are any; the device adds the length to the sum (TSO).
    assert_eq!(big.len() - 74, 10 * 1440, "the initial window");
    assert_eq!(&big[70..72], &pseudo(&a(1), &a(2), 6, 0).folded().to_be_bytes());
    assert_eq!(usize::from(u16::from_be_bytes([big[18], big[19]])), big.len() - 54, "payload length");
}

#[test]
fn the_link_is_told_of_our_groups_and_asked_for_our_addresses_and_routers() {
    let (p, wire) = dataplane::mem::pair(&plain());
    let s = tcpstack::Stack::new(only6(), p, hugepages::LendSlab::new(4)).unwrap();
    let mut b = Bench::over(s, wire);
    b.turn();
    let kinds = |b: &mut Bench| said(b).iter().map(|x| x.3[0]).collect::<Vec<_>>();
    let v = said(&mut b);
    assert_eq!(v.iter().map(|x| x.3[0]).collect::<Vec<_>>(), [143, 135, 135, 136, 136, 133]);
    assert_eq!((v[0].2.to_string(), v[0].3[7]), ("ff02::16".into(), 2));
    assert_eq!(&v[0].3[12..28], &a(1).solicited_node().0);
    assert_eq!((v[1].1, v[1].2), (Addr::UNSPECIFIED, a(1).solicited_node()));
    assert_eq!(&v[2].3[8..24], &Addr::link_local(OWN_MAC).0);
    // A station that knew the address elsewhere is told where it is now.
    let told = Message::Advert { target: a(1), solicited: false, overrides: true, mac: Some(OWN_MAC) };
    assert_eq!((v[3].2, nd::parse(&v[3].3, &v[3].1, &v[3].2, 255)), (Addr::ALL_NODES, Some(told)));
    assert_eq!(b.s.counters().mld_reports, 1);
    // Every two seconds, until what a lost frame carried was said again.
    for rest in [&[136, 136][..], &[143, 136, 136, 133], &[], &[143, 133]] {
        b.wait(2 * SEC);
        assert_eq!(kinds(&mut b), rest);
    }
    b.wait(60 * SEC);
    assert_eq!(kinds(&mut b), []);
    // A querier is answered, or a switch would stop passing the group on.
    let mut q = [0u8; FRAME_MAX];
    let p = Packet { src: Addr::link_local(PEER_MAC), dst: Addr::ALL_NODES, say: Say::Routers };
    p.frame(PEER_MAC, None, None, &mut q);
    q[54] = 130;
    q[21] = 1;
    let mut f = q[..14 + 40 + 24].to_vec();
    f[18..20].copy_from_slice(&24u16.to_be_bytes());
    sum6(&mut f);
    b.send(&f);
    assert_eq!(kinds(&mut b), [143]);
}

/// Sets the checksum of the ICMPv6 message in a frame without extension headers.
fn sum6(f: &mut [u8]) {
    f[56..58].fill(0);
    let ip = wire::ip6(&f[14..], f.len() - 14).unwrap();
    let mut s = pseudo(&ip.src, &ip.dst, ICMP6, f.len() - 54);
    s.add(&f[54..]);
    let c = s.finish().to_be_bytes();
    f[56..58].copy_from_slice(&c);
}

#[test]
fn solicitations_are_answered_and_only_from_the_link() {
    let mut b = bench();
    let mut f = [0; FRAME_MAX];
    let n = Packet::solicit(a(2), a(1), None).frame(PEER_MAC, None, None, &mut f);
    b.send(&f[..n]);
    let v = said(&mut b);
    let want = Message::Advert { target: a(1), solicited: true, overrides: true, mac: Some(OWN_MAC) };
    assert_eq!((v.len(), v[0].0, v[0].2), (1, PEER_MAC, a(2)));
    assert_eq!(nd::parse(&v[0].3, &v[0].1, &v[0].2, 255), Some(want));
    // It is known from its question: no other is asked.
    b.s.dial(b.now, Dial { local: at(1, 1), remote: at(2, 988) }).unwrap();
    b.turn();
    assert_eq!(b.one().seg.flags, SYN);
    b.frames();
    let mut far = f;
    far[21] = 254;
    let n3 = Packet::solicit(a(2), a(3), None).frame(PEER_MAC, None, None, &mut f);
    b.send(&far[..n]);
    b.send(&f[..n3]);
    let mut bad = far;
    (bad[21], bad[56]) = (255, bad[56] ^ 1);
    b.send(&bad[..n]);
    assert_eq!(said(&mut b), []);
    let c = b.s.counters();
    assert_eq!((c.rx_protocol, c.rx_not_ours, c.rx_bad_csum, c.nd_adverts), (1, 1, 1, 1 + 2));
}

#[test]
fn somebody_with_our_address_is_named_and_answered_now_and_then() {
    let mut b = bench();
    let thief = [2, 0, 0, 0, 0, 9];
    // It makes sure that nobody has the address (RFC 4862 §5.4.3), then says that it has it.
    speak(&mut b, &Packet::solicit(Addr::UNSPECIFIED, a(1), None), thief, None);
    let v = said(&mut b);
    assert_eq!((v.len(), v[0].2, v[0].3[0], v[0].3[4]), (1, Addr::ALL_NODES, 136, 0x20));
    assert_eq!(b.s.duplicate_address().map(|d| (d.addr, d.mac)), Some((six(1).into(), thief)));
    let p = Packet {
        src: Addr::link_local(thief),
        dst: Addr::ALL_NODES,
        say: Say::Advert { target: a(1), solicited: false },
    };
    speak(&mut b, &p, thief, None);
    assert_eq!((said(&mut b).len(), b.s.counters().nd_duplicate_address), (0, 2));
    b.wait(10 * SEC);
    said(&mut b);
    speak(&mut b, &p, thief, None);
    assert_eq!(said(&mut b).len(), 1);
    // A packet of our own that comes back is nothing.
    speak(&mut b, &Packet::solicit(Addr::UNSPECIFIED, a(1), None), OWN_MAC, None);
    assert_eq!(b.s.counters().nd_duplicate_address, 3);
}

/// The kernel's end of net_tap has the port's Ethernet address: all that it said over IPv6 was dropped.
#[test]
fn a_neighbour_with_our_ethernet_address_is_answered() {
    let mut b = bench();
    speak(&mut b, &Packet::solicit(a(2), a(1), None), OWN_MAC, None);
    let v = said(&mut b);
    assert_eq!((v.len(), v[0].0, v[0].2, v[0].3[0]), (1, OWN_MAC, a(2), 136));
    let key = Key::new(a(2), 1, a(1), 988);
    let mut syn = segment(&key, &Fields { seq: Seq(5), ack: Seq(0), flags: SYN, win: 1000 }, &[], b"");
    syn[6..12].copy_from_slice(&OWN_MAC);
    b.send(&syn);
    assert_eq!((b.one().seg.flags, b.s.counters().rx_martian), (SYN | ACK, 0));
}

#[test]
fn a_neighbour_that_does_not_answer_is_unreachable_and_one_that_moves_is_followed() {
    let mut b = bench();
    b.s.dial(b.now, Dial { local: at(1, 1), remote: at(3, 988) }).unwrap();
    b.wait(4 * SEC);
    let n = said(&mut b).iter().filter(|x| x.3[0] == 135).count();
    assert_eq!((n, b.closed()), (3, Some(CloseWhy::Unresolved)));
    let (f, una) = open(&mut b);
    b.wait(2 * SEC);
    b.frames();
    let p = Packet { src: a(2), dst: Addr::ALL_NODES, say: Say::Advert { target: a(2), solicited: false } };
    speak(&mut b, &p, [2, 0, 0, 0, 0, 7], None);
    b.push(f, 100);
    let frame = b.frames().remove(0);
    assert_eq!(wire::eth(&frame).unwrap().dst, [2, 0, 0, 0, 0, 7]);
    // Another move within the second is not believed.
    speak(&mut b, &p, [2, 0, 0, 0, 0, 8], None);
    put(&mut b, ACK, 101, una.plus(100), b"x");
    b.push(f, 100);
    assert!(b.frames().iter().all(|f| wire::eth(f).unwrap().dst == [2, 0, 0, 0, 0, 7]));
    assert_eq!(b.s.counters().neighbour_held, 1);
}

#[test]
fn an_advertised_router_is_the_next_hop_outside_the_network() {
    let mut b = bench();
    let far = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5), 988));
    let dial = Dial { local: at(1, 1), remote: far };
    assert_eq!(b.s.dial(b.now, dial), Err(DialError::NoRoute(far.ip())));
    let router = Addr::link_local(PEER_MAC);
    let mut f = [0; FRAME_MAX];
    // As a router solicitation has it, with eight bytes more before the option.
    let n =
        Packet { src: router, dst: Addr::ALL_NODES, say: Say::Routers }.frame(PEER_MAC, None, None, &mut f);
    let mut ra = f[..n].to_vec();
    ra.splice(62..62, [0; 8]);
    ra[54] = 134;
    ra[60..62].copy_from_slice(&30u16.to_be_bytes());
    ra[18..20].copy_from_slice(&24u16.to_be_bytes());
    sum6(&mut ra);
    b.send(&ra);
    assert_eq!(b.s.router(b.now), Some(router.to_ip()));
    b.s.dial(b.now, dial).unwrap();
    b.turn();
    let frame = b.frames().remove(0);
    assert_eq!((wire::eth(&frame).unwrap().dst, &frame[38..54]), (PEER_MAC, &Addr::from(far.ip()).0[..]));
    b.wait(30 * SEC);
    assert_eq!(b.s.router(b.now), None);
}

#[test]
fn echo_is_answered_and_limited() {
    let mut b = bench();
    let mut f = vec![0u8; 54 + 8 + 56];
    wire::write_eth(&mut f, PEER_MAC, OWN_MAC, None, wire::ETH_IPV6);
    wire::write_ip6(&mut f[14..54], &a(2), &a(1), ICMP6, 64, 64);
    (f[54], f[70]) = (128, 77);
    sum6(&mut f);
    b.send(&f);
    let v = said(&mut b);
    assert_eq!((v.len(), v[0].0, v[0].1, v[0].2), (1, PEER_MAC, a(1), a(2)));
    assert_eq!((v[0].3[0], v[0].3[16], v[0].3.len()), (129, 77, 64));
    let mut bad = f.clone();
    bad[80] ^= 1;
    b.send(&bad);
    // To a group nothing is answered.
    let mut group = f.clone();
    wire::write_eth(&mut group, PEER_MAC, Addr::ALL_NODES.group_mac(), None, wire::ETH_IPV6);
    wire::write_ip6(&mut group[14..54], &a(2), &Addr::ALL_NODES, ICMP6, 64, 64);
    sum6(&mut group);
    b.send(&group);
    assert_eq!(said(&mut b), []);
    for _ in 0..500 {
        b.send(&f);
    }
    let c = b.s.counters();
    assert_eq!(c.icmp_echo + c.icmp_limited, 501);
    assert!(c.icmp_echo <= 50, "{}", c.icmp_echo);
}

#[test]
fn what_is_refused_is_counted_under_its_name() {
    let mut b = bench();
    let key = Key::new(a(2), 1, a(1), 988);
    let syn = segment(&key, &Fields { seq: Seq(5), ack: Seq(0), flags: SYN, win: 0 }, &[], b"");
    let mut extended = |next: u8, ext: &[u8]| {
        let mut f = syn.clone();
        f[20] = next;
        f.splice(54..54, ext.iter().copied());
        let n = (f.len() - 54) as u16;
        f[18..20].copy_from_slice(&n.to_be_bytes());
        b.send(&f);
        b.segs().len()
    };
    assert_eq!(extended(44, &[6, 0, 0, 0, 0, 0, 0, 1]), 0, "a fragment");
    assert_eq!(extended(43, &[6, 0, 0, 0, 0, 0, 0, 0]), 0, "routing type 0");
    assert_eq!(extended(0, &[6, 0, 0xc2, 4, 0, 1, 0, 0]), 0, "a jumbogram");
    assert_eq!(extended(99, &[]), 0, "a protocol that nobody speaks");
    assert_eq!(extended(60, &[6, 0, 1, 4, 0, 0, 0, 0]), 1, "destination options are stepped over");
    let mut with = |at: usize, v: &[u8]| {
        let mut f = syn.clone();
        f[at..at + v.len()].copy_from_slice(v);
        b.send(&f);
    };
    with(22, &[0xff, 2]); // from a group
    with(22, &[0; 16]); // from nobody
    with(22, &a(1).0); // from ourselves
    with(22, &Addr::v4(0x0a00_0002).0); // from an IPv4 address in disguise
    with(38, &a(3).0); // to another address
    with(38, &Addr::ALL_NODES.0); // to a group
    with(0, &[0x33, 0x33, 0, 0, 0, 1]); // to us, by Ethernet multicast
    with(67, &[0xff]); // TCP checksum
    let c = b.s.counters();
    assert_eq!((c.rx_fragments, c.rx_malformed, c.rx_protocol), (1, 2, 1));
    assert_eq!((c.rx_martian, c.rx_not_ours, c.rx_bad_csum), (4, 3, 1));
    assert_eq!((b.s.flows(), b.frames().len()), (1, 0));
}

#[test]
fn both_families_at_once_and_each_listener_its_own() {
    let cfg = StackConfig {
        addrs: vec![(ip(1).into(), 24), (six(1).into(), 64), (six(11).into(), 64)],
        ..config(1)
    };
    let mut b = Bench::with(cfg, &plain());
    let l = |addr: IpAddr, port| Listen { addr, port, backlog: 9 };
    b.s.listen(l(six(11).into(), 988)).unwrap();
    b.s.listen(l(Ipv4Addr::UNSPECIFIED.into(), 988)).unwrap();
    b.s.listen(l(Ipv6Addr::UNSPECIFIED.into(), 989)).unwrap();
    b.s.listen(l(ip(1).into(), 989)).unwrap();
    assert_eq!(b.s.listen(l(six(11).into(), 988)), Err(ListenError::Port(988)));
    assert_eq!(b.s.listen(l(six(5).into(), 990)), Err(ListenError::NotOurs(six(5).into())));
    let mut try_syn = |from: Addr, to: Addr, port: u16| {
        let key = Key::new(from, 1000 + port, to, port);
        b.send(&segment(&key, &Fields { seq: Seq(5), ack: Seq(0), flags: SYN, win: 9 }, &[], b""));
        b.one().seg.flags
    };
    let four = |n: u8| Addr::from(ip(n));
    assert_eq!(try_syn(four(2), four(1), 988), SYN | ACK);
    assert_eq!(try_syn(a(2), a(11), 988), SYN | ACK);
    assert_eq!(try_syn(a(2), a(1), 988), RST | ACK, "the listener is on another address");
    assert_eq!(try_syn(a(2), a(1), 989), SYN | ACK);
    assert_eq!(try_syn(four(2), four(1), 989), SYN | ACK);
    let d = Dial { local: (ip(1), 5).into(), remote: at(2, 988) };
    assert_eq!(b.s.dial(b.now, d), Err(DialError::Family(d.local, d.remote)));
    let d = Dial { local: at(1, 5), remote: at(11, 988) };
    assert_eq!(b.s.dial(b.now, d), Err(DialError::BadPeer(d.remote)), "ourselves");
}

#[test]
fn a_stack_without_ipv6_does_not_hear_it() {
    let mut b = Bench::new();
    speak(&mut b, &Packet::solicit(a(2), a(1), None), PEER_MAC, None);
    assert_eq!((b.frames().len(), b.s.counters().rx_protocol), (0, 1));
}
