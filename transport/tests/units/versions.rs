//! Versions of the protocol against each other: what two nodes agree on, how refusals and races end, and the rules
//! that only one version has (docs/protocol/socklnd.md §2 to §7, docs/protocol/origins.md).

use transport::lnd::{Accept, Config, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::testing::data::{Spot, bytes, lent, pages};
use transport::testing::net::{Net, SEC};
use transport::testing::pair::{self, AT, Pair, id, nid};
use transport::wire::{
    AcceptorReq, ByteOrder, ConnType, Hello, KsockHdr, KsockType, LnetBody, LnetHdr, Nid, ProcessId, Version,
    WireHandle, ksock, lnet, ping,
};

use crate::raw;

fn config(n: u8, version: Option<Version>) -> Config {
    Config { version, ..pair::config(n) }
}

fn attach(net: &mut Net, node: usize, portal: u32, mem: MdMem) {
    net.op(node, Spot(portal, 5).attach(99, MdSpec::new(mem)));
}

/// HELLOs that each end of a connection wrote.
fn hellos(net: &Net, link: usize) -> (Option<Hello>, Option<Hello>) {
    let (a, p) = (net.wire(link, 0).0, net.wire(link, 1).0);
    let skip = AcceptorReq::parse(a).map_or(0, |(_, n)| n);
    let parse = |b: &[u8]| Hello::parse(b).ok().map(|(h, _)| h);
    (parse(&a[skip..]), parse(p))
}

/// Messages of every size, both ways, whole and once.
fn exercise(net: &mut Net, sizes: &[usize], ids: [ProcessId; 2]) {
    for from in 0..2 {
        let to = 1 - from;
        attach(net, to, 26, MdMem::Sink(Sink::Lend(1 << 20)));
        attach(net, to, 27, MdMem::Source(pages(200_000)));
        net.take_events(to);
        for (i, n) in sizes.iter().enumerate() {
            net.op(from, AT.put(i as u64, ids[to], pages(*n), true));
        }
        net.op(from, Spot(27, 5).get(50, ids[to], Sink::Lend(200_000)));
        net.op(from, Op::Ping { tag: 51, target: ids[to] });
        net.run(20 * SEC);
        let (mut acks, mut reply, mut pong) = (0, false, false);
        for e in net.take_events(from) {
            match e {
                Event::Ack { status: Ok(()), tag, mlength, .. } => {
                    assert_eq!(mlength as usize, sizes[tag as usize]);
                    acks += 1;
                }
                Event::Reply { status: Ok(()), data, .. } => {
                    assert!(lent(&data) == bytes(200_000, 0));
                    reply = true;
                }
                Event::Ping { info: Ok(_), .. } => pong = true,
                Event::Send { status: Ok(()), .. } => {}
                // Leftovers of the other direction.
                Event::Attached { .. } | Event::Get(_) | Event::Put(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((acks, reply, pong), (sizes.len(), true, true));
        let mut got: Vec<usize> = Vec::new();
        for e in net.take_events(to) {
            let Event::Put(p) = e else { continue };
            let b = lent(&p.data);
            assert!(p.status.is_ok() && b == bytes(b.len(), 0));
            got.push(b.len());
        }
        got.sort_unstable();
        assert_eq!(got, sizes, "each message once");
    }
    for n in 0..2 {
        let g = net.nodes[n].machine.gauges();
        assert_eq!((g.cookies, g.lends, g.credits_used, g.ops, g.queued), (0, 0, 0, 0, 0), "{g:?}");
    }
}

const SIZES: [usize; 7] = [0, 64, 96, 900, 5000, 16_384, 300_000];

#[test]
fn every_pair_of_versions_agrees_on_the_older() {
    let all = [Some(Version::V1), Some(Version::V2), Some(Version::V3), None];
    let level = |v: Option<Version>| v.unwrap_or(Version::V3);
    for a in all {
        for b in all {
            let mut net = Pair::of(config(1, a), config(2, b));
            exercise(&mut net, &SIZES, [id(1), id(2)]);
            let want = level(a).min(level(b));
            let (asked, answer) = hellos(&net, 0);
            let (asked, answer) = (asked.unwrap(), answer.unwrap());
            assert_eq!((asked.version, answer.version), (level(a), want), "{a:?} {b:?}");
            // Nobody is refused for a version that the other may not speak: the answer is in its own.
            assert_eq!(answer.ctype, asked.ctype.invert());
            let counters = net.nodes[0].machine.counters();
            assert_eq!((counters.downgrades, counters.races), (0, 0));
            // Remembered: the rest of the set asks for what was agreed at once.
            assert_eq!(net.links(), 3);
            for link in 1..3 {
                let (x, y) = hellos(&net, link);
                assert_eq!((x.unwrap().version, y.unwrap().version), (want, want));
            }
            let zc = net.nodes[0].machine.counters().zc_requested;
            assert_eq!(zc > 0, want == Version::V3, "{a:?} {b:?}: {zc} zero-copy requests");
        }
    }
}

#[test]
fn ipv6_peers_speak_v4() {
    let six = |n: u8| format!("fd77::{n}@tcp").parse::<Nid>().unwrap();
    let cfg = |n: u8| Config::new(six(n), 9 + u64::from(n));
    let mut net = Pair::of(cfg(1), cfg(2));
    exercise(&mut net, &SIZES, [ProcessId::lustre(six(1)), ProcessId::lustre(six(2))]);
    let (a, p) = hellos(&net, 0);
    assert_eq!((a.unwrap().version, p.unwrap().version), (Version::V4, Version::V4));
    assert_eq!(net.wire(0, 0).0[4], 2, "a request of version 2");
    assert!(net.nodes[0].machine.counters().zc_requested > 0);
}

/// Both dial at the same time: each takes the other's connection beside its own, nobody is refused, nothing is lost.
fn race(a: Option<Version>, b: Option<Version>) -> Pair {
    let mut net = Pair::of(config(1, a), config(2, b));
    attach(&mut net, 0, 26, MdMem::Sink(Sink::Discard(1 << 20)));
    attach(&mut net, 1, 26, MdMem::Sink(Sink::Discard(1 << 20)));
    net.op(0, AT.put(1, id(2), pages(40_000), true));
    net.op(1, AT.put(2, id(1), pages(40_000), true));
    net.run(30 * SEC);
    for n in 0..2 {
        let acked = net.take_events(n).iter().any(|e| matches!(e, Event::Ack { status: Ok(()), .. }));
        let m = &net.nodes[n].machine;
        assert!(acked, "node {n}: {:?} {:?}", m.gauges(), m.counters());
        assert_eq!(m.gauges().conns_up, 4, "a set and a CONTROL more");
        let c = m.counters();
        assert_eq!((c.races, c.duplicates, c.sets_closed), (0, 1, 0), "node {n}: {c:?}");
    }
    net
}

#[test]
fn race_case_a_two_of_v2() {
    race(Some(Version::V2), Some(Version::V2));
}

#[test]
fn race_case_b_two_of_v1() {
    race(Some(Version::V1), Some(Version::V1));
}

#[test]
fn race_case_c_v2_dials_v1_while_it_dials_back() {
    for (a, b) in [(Version::V2, Version::V1), (Version::V1, Version::V2)] {
        let net = race(Some(a), Some(b));
        let last = hellos(&net, net.links() - 1);
        assert_eq!(last.1.map(|h| h.version), Some(Version::V1), "they end up with the older one");
    }
}

#[test]
fn race_of_v3() {
    race(None, None);
}

#[test]
fn what_was_agreed_is_forgotten_with_the_last_connection() {
    let mut net = Pair::of(config(1, None), config(2, Some(Version::V1)));
    net.op(0, Op::Ping { tag: 1, target: id(2) });
    net.run(SEC);
    assert_eq!(hellos(&net, 1).0.unwrap().version, Version::V1);
    net.kill(1, true);
    net.run(SEC);
    net.restart(1, Config { incarnation: 77, ..config(2, None) });
    let before = net.links();
    net.op(0, Op::Ping { tag: 2, target: id(2) });
    net.run(SEC);
    let (a, p) = hellos(&net, before);
    assert_eq!((a.unwrap().version, p.unwrap().version), (Version::V3, Version::V3));
}

/// The first design of V2 had the TCP magic with version 2.0 (docs/protocol/origins.md).
#[test]
fn a_v2_hello_with_the_tcp_magic_is_answered_in_kind() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let mut net = raw::net(config(1, None));
        let h = Hello { tcp_magic: true, order, ..raw::hello(Version::V2, ConnType::Any) };
        let link = raw::open(&mut net, 700, &raw::start(&h));
        let (wrote, closed) = net.wire(link, 1);
        let (answer, len) = Hello::parse(wrote).unwrap();
        assert_eq!((len, closed, answer.tcp_magic), (wrote.len(), false, true));
        assert_eq!((answer.version, answer.ctype), (Version::V2, ConnType::Any));
    }
}

#[test]
fn old_hellos_with_sixteen_addresses_are_taken() {
    for version in [Version::V1, Version::V2, Version::V3] {
        let mut net = raw::net(config(1, None));
        let mut h = raw::hello(version, ConnType::Control);
        h.ips.extend(1..=16);
        let link = raw::open(&mut net, 700, &raw::start(&h));
        let answer = Hello::parse(net.wire(link, 1).0).unwrap().0;
        assert_eq!((answer.version, answer.ctype, answer.ips.len()), (version, ConnType::Control, 0));
    }
}

#[test]
fn v4_is_answered_over_ipv4() {
    let mut net = raw::net(config(1, None));
    let link = raw::open(&mut net, 700, &raw::start(&raw::hello(Version::V4, ConnType::BulkIn)));
    let answer = Hello::parse(net.wire(link, 1).0).unwrap().0;
    assert_eq!((answer.version, answer.ctype), (Version::V4, ConnType::BulkOut));
}

#[test]
fn another_version_on_a_second_connection_closes_the_set() {
    let mut net = raw::net(config(1, None));
    let first = raw::open(&mut net, 700, &raw::start(&raw::hello(Version::V3, ConnType::Control)));
    assert!(!net.wire(first, 1).1);
    let second = raw::open(&mut net, 701, &raw::start(&raw::hello(Version::V2, ConnType::BulkIn)));
    let answer = Hello::parse(net.wire(second, 1).0).unwrap().0;
    assert_eq!((answer.version, answer.ctype), (Version::V2, ConnType::BulkOut), "and begins another");
    assert!(net.wire(first, 1).1 && !net.wire(second, 1).1);
}

#[test]
fn a_reset_means_v1_only_where_the_network_says_so() {
    for v1_on_reset in [false, true] {
        let peer = Config { accept: Accept::None, ..config(2, None) };
        let mut net = Pair::of(Config { v1_on_reset, ..config(1, None) }, peer);
        net.op(0, Op::Ping { tag: 1, target: id(2) });
        net.run(SEC / 2);
        let asked: Vec<_> = (0..net.links()).map(|l| hellos(&net, l).0.unwrap().version).collect();
        let want: &[Version] = if v1_on_reset { &[Version::V3, Version::V1] } else { &[Version::V3] };
        assert_eq!(asked, want);
    }
}

fn get_header(src: ProcessId) -> LnetHdr {
    LnetHdr {
        dest_nid: nid(1),
        src_nid: src.nid,
        dest_pid: 12345,
        src_pid: src.pid,
        payload_len: 0,
        body: LnetBody::Get {
            handle: WireHandle { interface: 1, object: 2 },
            match_bits: ping::MATCH_BITS,
            portal: ping::PORTAL,
            src_offset: 0,
            sink_length: 400,
        },
    }
}

/// socklnd.md §9: whatever it says, such a peer is its address and its port.
#[test]
fn an_unprivileged_peer_is_known_by_its_port() {
    let mut net = Net::new();
    net.add(Config { accept: Accept::All, ..config(1, None) });
    let mut h = raw::hello(Version::V2, ConnType::Any);
    h.src_nid = "10.9.9.9@tcp".parse().unwrap();
    let ksm = KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0: 0, cookie1: 0 }.emit(ByteOrder::Little);
    let get = get_header(ProcessId { nid: h.src_nid, pid: 12345 }).emit();
    let link = raw::open(&mut net, 5001, &[raw::start(&h), [&ksm[..], &get].concat()].concat());
    let wrote = net.wire(link, 1).0;
    let (answer, len) = Hello::parse(wrote).unwrap();
    assert_eq!(answer.ctype, ConnType::Any);
    let reply = LnetHdr::parse(&wrote[len + ksock::LEN..]).unwrap();
    assert!(matches!(reply.body, LnetBody::Reply { .. }));
    assert_eq!((reply.dest_nid, reply.dest_pid), (nid(raw::PEER), 0x8000_0000 | 5001));
    assert_eq!(net.nodes[0].machine.gauges().conns_up, 1);
}

#[test]
fn untyped_connections_carry_everything_on_v2_and_nothing_on_v3() {
    for (version, works) in [(Some(Version::V1), true), (Some(Version::V2), true), (None, false)] {
        let mut net = Pair::of(Config { typed_conns: false, ..config(1, version) }, config(2, version));
        if works {
            exercise(&mut net, &SIZES, [id(1), id(2)]);
            assert_eq!(net.links(), 1);
        } else {
            net.op(0, Op::Ping { tag: 1, target: id(2) });
            net.run(SEC);
            assert_eq!((net.links(), net.take_events(0).len()), (1, 0));
            assert_eq!(net.nodes[0].machine.gauges().queued, 1);
        }
    }
}

#[test]
fn zero_copy_on_v2_only_where_the_peer_is_known_to_bear_it() {
    for zc_v2 in [false, true] {
        let cfg = |n| Config { zc_v2, ..config(n, Some(Version::V2)) };
        let mut net = Pair::of(cfg(1), cfg(2));
        exercise(&mut net, &SIZES, [id(1), id(2)]);
        let (a, b) = (net.nodes[0].machine.counters(), net.nodes[1].machine.counters());
        assert_eq!((a.zc_requested > 0, a.zc_requested), (zc_v2, a.zc_acked));
        assert_eq!(b.zc_acks_tx, a.zc_requested);
    }
}

#[test]
fn v2_sums_are_right_and_a_wrong_one_closes_the_set() {
    let cfg = |n| Config { enable_csum: true, zc_v2: true, ..config(n, Some(Version::V2)) };
    let mut net = Pair::of(cfg(1), cfg(2));
    exercise(&mut net, &SIZES, [id(1), id(2)]);
    let wrote = net.wire(0, 0).0;
    let skip = AcceptorReq::parse(wrote).unwrap().1;
    let at = skip + Hello::parse(&wrote[skip..]).unwrap().1;
    assert_ne!(wrote[at + 4..at + 8], [0; 4], "messages carry sums");

    let mut net = Pair::of(Config { inject_csum_error: true, ..cfg(1) }, cfg(2));
    attach(&mut net, 1, 26, MdMem::Sink(Sink::Lend(1 << 20)));
    net.op(0, AT.put(1, id(2), pages(50_000), true));
    net.run(SEC);
    assert_eq!(net.nodes[1].machine.counters().err_checksum, 1);
    let failed =
        |e: &Event| matches!(e, Event::Ack { status: Err(_), .. } | Event::Send { status: Err(_), .. });
    assert!(net.take_events(0).iter().any(failed));
    let stored = |e: &Event| matches!(e, Event::Put(p) if p.status.is_ok());
    assert!(!net.take_events(1).iter().any(stored), "spoiled bytes are not delivered as good");
    net.op(0, AT.put(2, id(2), pages(50_000), true));
    net.run(5 * SEC);
    assert!(net.take_events(1).iter().any(stored), "the spoiling is for once");
}

#[test]
fn acks_that_may_block_leave_on_connections_with_messages() {
    for nonblk_zcack in [true, false] {
        let mut net = Pair::of(config(1, None), Config { nonblk_zcack, ..config(2, None) });
        attach(&mut net, 1, 26, MdMem::Sink(Sink::Discard(1 << 20)));
        // A set has to be up: what leaves before our BULK_OUT asks for nothing.
        net.op(0, Op::Ping { tag: 0, target: id(2) });
        net.run(SEC);
        let control =
            (0..net.links()).find(|l| hellos(&net, *l).0.unwrap().ctype == ConnType::Control).unwrap();
        let before = net.wire(control, 1).0.len();
        net.op(0, AT.put(1, id(2), pages(100_000), false));
        net.run(SEC);
        let on_control = net.wire(control, 1).0.len() > before;
        assert_eq!(on_control, !nonblk_zcack);
        assert_eq!(net.nodes[0].machine.counters().zc_acked, 1);
    }
}

#[test]
fn headers_of_v4_are_longer_by_the_nids() {
    assert_eq!((Version::V1.hdr_len(), Version::V3.hdr_len(), Version::V4.hdr_len()), (72, 96, 120));
    assert_eq!((lnet::LEN, lnet::LEN_V4), (72, 96));
}
