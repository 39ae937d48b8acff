//! Ethernet, ARP, IPv4, ICMP, and segments of no connection.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::common::bench::{Bench, PEER_MAC, segment};
use crate::common::{SEC, addr, config, ip};
use dataplane::mem::MemConfig;
use dataplane::pkt::{Port, TxCsum, TxMeta, TxPkt};
use tcpstack::arp::Packet as Arp;
use tcpstack::csum::Sum;
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{self, ACK, Fields, RST, SYN};
use tcpstack::{Dial, Event, Listen, StackConfig};

#[test]
fn strays_get_a_reset_and_resets_get_nothing() {
    let mut b = Bench::new();
    let key = Key::new(ip(2).into(), 7, ip(1).into(), 8);
    b.send(&segment(&key, &Fields { seq: Seq(5), ack: Seq(6), flags: ACK, win: 0 }, &[], b"abc"));
    let r = b.one().seg;
    assert_eq!((r.flags & RST, r.seq, r.key), (RST, Seq(6), Key::new(ip(2).into(), 7, ip(1).into(), 8)));
    b.send(&segment(&key, &Fields { seq: Seq(5), ack: Seq(0), flags: SYN, win: 0 }, &[], b""));
    let r = b.one().seg;
    assert_eq!((r.flags, r.ack), (RST | ACK, Seq(6)));
    b.send(&segment(&key, &Fields { seq: Seq(5), ack: Seq(6), flags: RST, win: 0 }, &[], b""));
    assert_eq!((b.segs().len(), b.s.counters().rst_sent), (0, 2));
}

#[test]
fn bad_packets_are_dropped_and_counted_each_under_its_name() {
    let mut b = Bench::new();
    let key = Key::new(ip(2).into(), 1, ip(1).into(), 988);
    let good = segment(&key, &Fields { seq: Seq(5), ack: Seq(0), flags: SYN, win: 0 }, &[], b"");
    let mut with = |at: usize, v: u8, fix: bool| {
        let mut f = good.clone();
        f[at] = v;
        if fix {
            wire::fill_ip_csum(&mut f[14..]);
        }
        b.send(&f);
    };
    with(0, 4, false); // another station
    with(30, 11, true); // another IP address
    with(47, 0xff, false); // TCP checksum (flags changed)
    with(24, 9, false); // IP checksum
    with(20, 0x20, true); // fragment
    with(23, 99, true); // a protocol that nobody speaks
    with(6, 1, false); // group address as Ethernet source
    with(46, 0x30, false); // TCP header of 12 bytes
    with(12, 0x86, false); // not IP
    b.send(&good[..30]);
    // Sources that no host has, in segments that are right otherwise: a multicast group, our network's broadcast.
    for src in [[224, 0, 0, 2], [10, 0, 0, 255]] {
        let key = Key::new(Ipv4Addr::from(src).into(), 1, ip(1).into(), 988);
        b.send(&segment(&key, &Fields { seq: Seq(5), ack: Seq(0), flags: SYN, win: 0 }, &[], b""));
    }
    let c = b.s.counters();
    assert_eq!((c.rx_not_ours, c.rx_bad_csum, c.rx_fragments, c.rx_protocol), (2, 2, 1, 2));
    assert_eq!((c.rx_martian, c.rx_malformed), (3, 2));
    assert_eq!((b.s.flows(), b.frames().len()), (0, 0));
}

#[test]
fn echo_is_answered_and_limited() {
    let mut b = Bench::new();
    let mut f = vec![0u8; 14 + 20 + 8 + 56];
    wire::write_eth(&mut f, PEER_MAC, [2, 0, 0, 0, 0, 1], None, wire::ETH_IPV4);
    f[14..34].copy_from_slice(&[0x45, 0, 0, 84, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    wire::fill_ip_csum(&mut f[14..]);
    f[34] = 8;
    f[50] = 77;
    let mut s = Sum::default();
    s.add(&f[34..]);
    let c = s.finish().to_be_bytes();
    f[36..38].copy_from_slice(&c);
    b.send(&f);
    let r = b.frames().remove(0);
    let e = wire::eth(&r).unwrap();
    let ip4 = wire::ip4(&r[14..], r.len() - 14, true).unwrap();
    assert_eq!((e.dst, ip4.src, ip4.dst, r[34], r[50]), (PEER_MAC, ip(1).into(), ip(2).into(), 0, 77));
    for _ in 0..500 {
        b.send(&f);
    }
    let c = b.s.counters();
    assert_eq!((c.icmp_echo, c.icmp_limited), (50, 451));
}

#[test]
fn arp_is_answered_and_a_thief_of_our_address_is_named() {
    let mut b = Bench::new();
    b.arp(1, 2, 1);
    let r = b.frames().remove(0);
    let p = Arp::parse(&r[14..]).unwrap();
    assert_eq!((p.op, p.spa, p.tha), (2, ip(1).into(), PEER_MAC));
    b.arp(1, 1, 1);
    assert_eq!(b.s.counters().arp_duplicate_address, 1);
    let told = b.s.duplicate_address().unwrap();
    assert_eq!((told.addr, told.mac, told.packets), (ip(1).into(), PEER_MAC, 1));
    assert_eq!(
        told.to_string(),
        "10.0.0.1 is in use by another station, 02:00:00:00:00:02 (packets that said so since this was last told: 1): \
         peers reach either one of the two; give one of them another address"
    );
    // Field report 21: told, and not once a packet.
    (0..50).for_each(|_| b.arp(1, 1, 1));
    b.wait(59 * SEC);
    b.arp(1, 1, 1);
    assert_eq!(b.s.duplicate_address(), None);
    b.wait(SEC);
    b.arp(2, 1, 1);
    assert_eq!(b.s.duplicate_address().map(|d| d.packets), Some(52));
}

#[test]
fn a_vlan_is_tagged_and_others_are_not_heard() {
    let mut b = Bench::with(StackConfig { vlan: Some(9), ..config(1) }, &MemConfig::default());
    b.arp(1, 2, 1);
    assert_eq!((b.frames().len(), b.s.counters().rx_not_ours), (0, 1));
    let mut f = [0; 46];
    let p = Arp { op: 1, sha: PEER_MAC, spa: ip(2).into(), tha: [0; 6], tpa: ip(1).into() };
    p.frame(wire::BROADCAST, Some(9), &mut f);
    b.send(&f);
    let r = b.frames().remove(0);
    assert_eq!(wire::eth(&r).map(|e| (e.vlan, e.len)), Some((Some(9), 18)));
}

/// `frame` with these tags (EtherType and TCI) behind its Ethernet addresses.
fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut b = frame[..12].to_vec();
    for (kind, tci) in tags {
        b.extend_from_slice(&kind.to_be_bytes());
        b.extend_from_slice(&tci.to_be_bytes());
    }
    b.extend_from_slice(&frame[12..]);
    b
}

/// Field report 14: frames with a priority and no VLAN (VID 0), as a Cisco UCS or VPP sends them.
#[test]
fn vid_0_is_untagged_for_arp_and_both_families() {
    const PRIORITY: [(u16, u16); 3] = [(0x8100, 0), (0x8100, 0xe000), (0x88a8, 0x6000)];
    let six = |n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n);
    for tag in PRIORITY {
        let both = vec![(ip(1).into(), 24), (six(1).into(), 64)];
        let mem = MemConfig { mtu: 1500, tso_max: 0, csum: false, ..MemConfig::default() };
        let mut b = Bench::with(StackConfig { addrs: both, ..config(1) }, &mem);
        for host in [ip(1).into(), six(1).into()] {
            b.s.listen(Listen { addr: host, port: 988, backlog: 2 }).unwrap();
        }
        let mut f = [0; 46];
        let p = Arp { op: 1, sha: PEER_MAC, spa: ip(2).into(), tha: [0; 6], tpa: ip(1).into() };
        let n = p.frame(wire::BROADCAST, None, &mut f);
        b.send(&tagged(&f[..n], &[tag]));
        let r = b.frames().remove(0);
        assert_eq!(Arp::parse(&r[14..]).map(|p| (p.op, p.tha)), Some((2, PEER_MAC)), "{tag:x?}");
        for (from, to) in [(ip(2).into(), ip(1).into()), (six(2).into(), six(1).into())] {
            let key = Key::new(from, 1, to, 988);
            let syn = Fields { seq: Seq(100), ack: Seq(0), flags: SYN, win: 65_535 };
            b.send(&tagged(&segment(&key, &syn, &[], b""), &[tag]));
            let sa = b.one().seg;
            assert_eq!(sa.flags, SYN | ACK, "{tag:x?}");
            let data = Fields { seq: Seq(101), ack: sa.seq.plus(1), flags: ACK, win: 1000 };
            b.send(&tagged(&segment(&key, &data, &[], b"hello"), &[tag]));
            let f = b.events().into_iter().find_map(|e| match e {
                Event::Readable(f) => Some(f),
                _ => None,
            });
            assert_eq!(b.read(f.unwrap()), b"hello", "{tag:x?}");
            b.segs();
        }
        assert_eq!((b.s.counters().rx_not_ours, b.s.counters().rx_malformed), (0, 0));
    }
}

/// As on Linux, where such frames come to the device below and not to its VLAN.
#[test]
fn vid_0_is_not_for_a_vlan_but_may_stand_before_or_in_its_tag() {
    let mut b = Bench::with(StackConfig { vlan: Some(9), ..config(1) }, &MemConfig::default());
    let mut f = [0; 46];
    let p = Arp { op: 1, sha: PEER_MAC, spa: ip(2).into(), tha: [0; 6], tpa: ip(1).into() };
    let n = p.frame(wire::BROADCAST, None, &mut f);
    const VLAN: (u16, u16) = (0x8100, 9);
    for (tags, heard) in [
        (&[(0x8100, 0)][..], false),
        (&[(0x8100, 8)], false),
        (&[VLAN, (0x8100, 9)], false),
        (&[(0x88a8, 9)], false),
        (&[VLAN], true),
        (&[(0x8100, 0), VLAN], true),
        (&[VLAN, (0x8100, 0)], true),
        (&[(0x88a8, 0), VLAN], true),
    ] {
        b.send(&tagged(&f[..n], tags));
        assert_eq!(b.frames().len(), usize::from(heard), "{tags:x?}");
    }
    // A stack without a VLAN that was given VID 0 has none.
    let mut b = Bench::with(StackConfig { vlan: Some(0), ..config(1) }, &MemConfig::default());
    b.arp(1, 2, 1);
    assert_eq!(wire::eth(&b.frames().remove(0)).map(|e| e.len), Some(14));
}

#[test]
fn a_gateway_is_the_next_hop_outside_the_network() {
    let mut b = Bench::with(
        StackConfig { gateways: vec![ip(2).into()], ..config(1) },
        &MemConfig { csum: false, ..MemConfig::default() },
    );
    b.s.dial(b.now, Dial { local: addr(1, 1), remote: ([192, 168, 5, 5], 988).into() }).unwrap();
    b.turn();
    let ask = Arp::parse(&b.frames().remove(0)[14..]).unwrap();
    assert_eq!(ask.tpa, ip(2).into());
    b.arp(2, 2, 1);
    let f = b.frames().remove(0);
    assert_eq!(wire::eth(&f).unwrap().dst, PEER_MAC);
    assert_eq!(&f[30..34], [192, 168, 5, 5]);
}

#[test]
fn a_port_that_verified_the_checksum_is_believed() {
    let mut b = Bench::new();
    let key = Key::new(ip(2).into(), 1, ip(1).into(), 988);
    let mut f = segment(&key, &Fields { seq: Seq(5), ack: Seq(0), flags: SYN, win: 0 }, &[], b"");
    f[50] ^= 0xff;
    let mut t = b.wire.tx_alloc().unwrap();
    t.copy_in(&f).unwrap();
    // Offload makes it arrive as partial: it never crossed a wire.
    b.wire.tx_burst(&mut VecDeque::from([t.finish(TxMeta { csum: TxCsum::Offload, ..TxMeta::default() })]));
    b.turn();
    assert_eq!(b.one().seg.flags, SYN | ACK);
}
