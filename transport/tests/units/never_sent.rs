//! Messages that are known to crash a Lustre kernel, or to send it round in circles, are never on our wire: each case drives a
//! machine to where a naive node would send it. The cases are those that docs/protocol tags; docs/conformance.md lists
//! them.

use crate::raw::{self, *};
use transport::lnd::{Accept, Config, Sink};
use transport::lnet::{Event, MdMem, Op, OpRefused};
use transport::testing::capture::Msg;
use transport::testing::data::Spot;
use transport::testing::net::{Net, SEC};
use transport::wire::ping::{FEAT_LARGE_ADDR, FEAT_MULTI_RAIL, FEAT_NI_STATUS};
use transport::wire::{ConnType, Hello, LnetBody, LnetHdr, Nid, PingInfo, ProcessId, Version};

/// Everything that both nodes of a pair wrote behind their HELLOs, over all connections.
fn all_messages(net: &Net, version: Version) -> Vec<Msg> {
    (0..net.links()).flat_map(|l| (0..2).flat_map(move |end| raw::messages(net, l, end, version))).collect()
}

/// Every kind of message that an application can cause, large and small, in both directions.
fn everything(net: &mut Net, ids: [ProcessId; 2]) {
    for (from, to) in [(0, 1), (1, 0)] {
        attach(net, to, MdMem::Sink(Sink::Lend(1 << 20)), true);
        let md = transport::lnet::MdSpec::new(MdMem::Source(pages(200_000)));
        net.op(to, Spot(6, 5).attach(8, md));
        for len in [1, 96, 928, 16_383, 16_384, 100_000, 1 << 20] {
            net.op(from, put_op(len, ids[to], pages(len as usize), true));
            let sink = Sink::Lend(200_000.min(len as u32));
            net.op(from, Spot(6, 5).get(len, ids[to], sink));
        }
        net.op(from, ping_op(ids[to]));
        net.run(5 * SEC);
        net.take_events(from);
        net.take_events(to);
    }
}

/// socklnd.md §6.3: the ACK to our cookie is queued on a connection that has messages, one of them takes it over, and
/// the kernel follows a null pointer. Only V2 (and V3 before our BULK_OUT is up) has such connections.
#[test]
fn a_zero_copy_request_on_v2() {
    for version in [Version::V1, Version::V2] {
        for typed_conns in [true, false] {
            let cfg = |n| Config { version: Some(version), typed_conns, ..config(n) };
            let mut net = net(cfg(1));
            net.add(cfg(2));
            everything(&mut net, [id(1), id(2)]);
            let all = all_messages(&net, version);
            let bulk = |m: &&Msg| matches!(m, Msg::Lnet(_, h, _) if h.payload_len >= 16_384);
            assert!(all.iter().filter(bulk).count() >= 8, "there was occasion");
            assert!(!all.iter().any(|m| matches!(m, Msg::Lnet(k, ..) if k.cookie0 != 0)), "{version:?}");
        }
    }
}

/// As above on V3: while our BULK_OUT is being dialled the messages go on CONTROL, and must not ask.
#[test]
fn a_zero_copy_request_before_bulk_out_is_up() {
    let mut net = net(config(1));
    net.raw_listen(peer_ip());
    for tag in 0..6 {
        net.op(0, put_op(tag, id(PEER), pages(200_000), true));
    }
    for n in 0..2 {
        net.run(SEC / 10);
        let asked = dialled(&net, n);
        assert_ne!(asked.ctype, ConnType::BulkOut);
        net.raw_send(n, &answer(&asked).emit());
        net.run(SEC / 10);
        let early = raw::messages(&net, 0, 0, Version::V3);
        assert!(early.len() > 3 && early.iter().all(|m| matches!(m, Msg::Lnet(k, ..) if k.cookie0 == 0)));
    }
    let asked = dialled(&net, 2);
    assert_eq!(asked.ctype, ConnType::BulkOut);
    net.raw_send(2, &answer(&asked).emit());
    net.run(SEC / 10);
    net.op(0, put_op(9, id(PEER), pages(200_000), true));
    net.run(SEC / 10);
    let asks = |m: &Msg| matches!(m, Msg::Lnet(k, ..) if k.cookie0 != 0);
    assert!(raw::messages(&net, 2, 0, Version::V3).iter().any(asks), "and then they do");
}

/// lnet.md §3: a GET whose source offset is beyond the MD panics the target.
#[test]
fn a_get_with_an_offset() {
    for version in [None, Some(Version::V1)] {
        let cfg = |n| Config { version, ..config(n) };
        let mut net = net(cfg(1));
        net.add(cfg(2));
        everything(&mut net, [id(1), id(2)]);
        let gets: Vec<u32> = all_messages(&net, version.unwrap_or(Version::V3))
            .iter()
            .filter_map(|m| match m {
                Msg::Lnet(_, LnetHdr { body: LnetBody::Get { src_offset, .. }, .. }, _) => Some(*src_offset),
                _ => None,
            })
            .collect();
        // Seven GETs and a ping each way.
        assert_eq!(gets, [0; 16]);
    }
}

/// lnet.md §3, field report L8: a GET to portal 50 that nothing matches is an assertion in a kernel with lnet_selftest, and
/// nothing ever matches one there. PUTs are what that portal is for.
#[test]
fn a_get_to_the_requests_of_selftest() {
    let mut net = net(config(1));
    net.raw_listen(peer_ip());
    let get =
        |tag, target, portal| Op::Get { tag, target, from: None, portal, match_bits: 0, sink: Sink::Lend(5) };
    net.op(0, get(7, id(PEER), 50));
    match &net.take_events(0)[..] {
        [Event::Refused { tag: 7, why: why @ OpRefused::SelftestGet(50) }] => {
            assert!(["50", "lnet_selftest", "another portal"].iter().all(|w| why.to_string().contains(w)));
        }
        other => panic!("{other:?}"),
    }
    net.run(SEC);
    assert_eq!(net.links(), 0);
    // To ourselves it reaches no kernel; its neighbours are like any portal.
    net.op(0, get(8, id(1), 50));
    net.op(0, get(9, id(PEER), 51));
    net.run(SEC);
    assert_eq!((net.links(), net.take_events(0).len()), (1, 0));
}

/// lnet.md §6.2: info without NI_STATUS, or otherwise invalid, makes a kernel ping again without pause.
#[test]
fn ping_info_that_a_kernel_does_not_accept() {
    for ping_features in [0, FEAT_NI_STATUS, 0x1e, FEAT_MULTI_RAIL, FEAT_LARGE_ADDR, 0x80, !0xe2] {
        let mut net = net(Config { ping_features: Some(ping_features), ..config(1) });
        let links = open_set(&mut net, Version::V3);
        let mut seen: Vec<Vec<u8>> = Vec::new();
        for sink in [272, 3960, 48] {
            let mut h = ping_get(0);
            if let LnetBody::Get { sink_length, .. } = &mut h.body {
                *sink_length = sink;
            }
            net.raw_send(links[0], &message(Version::V3, &h, 0));
            net.run(SEC);
        }
        for m in raw::messages(&net, links[0], 1, Version::V3) {
            let Msg::Lnet(_, h, bytes) = m else { panic!() };
            assert!(matches!(h.body, LnetBody::Reply { .. }));
            let info = PingInfo::parse(&bytes).expect("what a kernel would accept");
            assert_ne!(info.features & FEAT_NI_STATUS, 0, "{ping_features:#x}");
            assert_eq!((info.nis.len(), info.nis[0].nid), (1, nid(1)), "entry 1 is the NID that was pinged");
            seen.push(bytes);
        }
        assert!(seen.len() == 3 && seen.windows(2).all(|w| w[0] == w[1]), "and it does not change");
    }
}

/// socklnd.md §13, field report L1: NONEs bring down a kernel whose user pings us, whoever said them and however long ago.
/// Only who has 255 connections of a type, or speaks no version of ours, is told NONE.
#[test]
fn none_for_a_race_a_restart_or_a_version() {
    // NONEs among the answers to attempts a second apart; each first tells the node what to do.
    let nones = |net: &mut Net, me: u8, attempt: &mut dyn FnMut(&mut Net, u64) -> Hello| {
        let mut nones = 0;
        for n in 0..12 {
            let h = attempt(net, n);
            let link = open(net, 1000 - n as u16, &[request(nid(me)), h.emit().to_vec()].concat());
            let answer = Hello::parse(net.wire(link, 1).0).expect("an answer").0;
            if answer.ctype == ConnType::None {
                nones += 1;
            } else {
                assert_eq!(answer.ctype, h.ctype.invert());
            }
            net.run(SEC);
        }
        nones
    };
    let control = |src_incarnation| Hello { src_incarnation, ..hello(Version::V3, ConnType::Control) };
    // A race that lasts: our HELLO is never answered. The peer has the lower NID, or the higher.
    for me in [99, 1] {
        for ctype in TYPES {
            let mut net = net(config(me));
            net.raw_listen(peer_ip());
            net.op(0, ping_op(id(PEER)));
            net.run(SEC / 10);
            let h = Hello { ctype, ..control(6) };
            assert_eq!(nones(&mut net, me, &mut |_, _| h.clone()), 0);
            assert_eq!(net.nodes[0].machine.gauges().conns_up, 12);
        }
    }
    // A peer that is another one each time it dials, or each second time; then one that restarts in such a race.
    for step in [1, 2] {
        let mut net = raw::net(config(1));
        assert_eq!(nones(&mut net, 1, &mut |_, n| control(n / step)), 0);
    }
    let mut net = raw::net(config(99));
    net.raw_listen(peer_ip());
    let got = nones(&mut net, 99, &mut |net, n| {
        if n == 2 {
            net.op(0, ping_op(id(PEER)));
        }
        control(u64::from(n > 0))
    });
    assert_eq!(got, 0);
    // Another version each time; and newer ones than ours may be.
    for most in [None, Some(Version::V2), Some(Version::V1)] {
        let mut net = raw::net(Config { version: most, ..config(1) });
        let versions = [Version::V1, Version::V2, Version::V3];
        let got = nones(&mut net, 1, &mut |_, n| hello(versions[n as usize % 3], ConnType::Control));
        assert_eq!(got, 0, "{most:?}");
    }
    // More of one type than we let a peer have: NONE each time, as kernels say it. What it has is open, and a ping goes
    // over that.
    let mut net = raw::net(Config { max_conns_per_type: 1, ..config(1) });
    assert_eq!(nones(&mut net, 1, &mut |_, _| control(6)), 11);
    assert_eq!(net.nodes[0].machine.gauges().conns_up, 1);
}

/// socklnd.md §13: a V2 set that is a part of the types is risky for a kernel whose last connection closes while
/// messages wait. Ours begins with CONTROL, which takes everything, and none of it is closed alone.
#[test]
fn a_v2_set_without_control() {
    let mut net = net(Config { version: Some(Version::V2), ..config(1) });
    net.raw_listen(peer_ip());
    net.op(0, put_op(1, id(PEER), pages(100_000), true));
    net.run(SEC / 10);
    let asked = dialled(&net, 0);
    assert_eq!((asked.version, asked.ctype), (Version::V2, ConnType::Control));
    net.raw_send(0, &answer(&asked).emit());
    net.run(SEC / 10);
    assert_eq!(raw::messages(&net, 0, 0, Version::V2).len(), 1, "bulk goes on CONTROL at once");
    // The other types are refused for good: what is left is CONTROL.
    for n in 1..7 {
        let none = Hello { ctype: ConnType::None, ..answer(&dialled(&net, n)) };
        net.raw_send(n, &none.emit());
        net.run(2 * SEC);
    }
    assert_eq!((net.links(), net.nodes[0].machine.gauges().conns_up), (7, 1));
    assert!(!net.wire(0, 0).1);
    // A whole set ends whole.
    let mut net = raw::net(Config { version: Some(Version::V2), ..config(1) });
    net.raw_listen(peer_ip());
    net.op(0, ping_op(id(PEER)));
    for n in 0..3 {
        net.run(SEC / 10);
        let asked = dialled(&net, n);
        net.raw_send(n, &answer(&asked).emit());
    }
    net.run(SEC / 10);
    net.raw_fin(2);
    net.run_until(net.now + SEC, |n| (0..3).any(|l| n.wire(l, 0).1));
    assert!((0..3).all(|l| net.wire(l, 0).1), "in the same instant");
}

/// socklnd.md §9: a connection over IPv6 from a port above 1023 trips an assertion.
#[test]
fn an_ipv6_connection_from_an_unprivileged_port() {
    let (me, peer): (Nid, Nid) = ("fd77::1@tcp".parse().unwrap(), "fd77::2@tcp".parse().unwrap());
    let target = ProcessId::lustre(peer);
    for (privileged, accept, unprivileged_v6, dials) in [
        (true, Accept::Secure, false, true),
        (false, Accept::Secure, false, false),
        (false, Accept::Trust, false, false),
        // Somebody says that there are no kernels.
        (false, Accept::Trust, true, true),
    ] {
        let mut net = net(Config { privileged, accept, unprivileged_v6, ..Config::new(me, 5) });
        net.raw_listen(peer.ip().unwrap());
        for op in [
            ping_op(target),
            put_op(1, target, pages(10), true),
            Op::Get { tag: 1, target, from: None, portal: 1, match_bits: 0, sink: Sink::Lend(5) },
        ] {
            net.op(0, op);
            let refused = net.take_events(0);
            match &refused[..] {
                [] => assert!(dials),
                [Event::Refused { why: OpRefused::Unprivileged(n), .. }] => {
                    assert!(!dials && *n == peer);
                    let why = OpRefused::Unprivileged(*n).to_string();
                    assert!(
                        ["fd77::2@tcp", "cap_net_bind_service", "unprivileged_v6"]
                            .iter()
                            .all(|w| why.contains(w)),
                        "{why}"
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        net.run(SEC);
        assert_eq!(net.links() > 0, dials, "{accept:?} {unprivileged_v6}");
    }
    // IPv4 has no such case.
    let mut net = raw::net(Config { privileged: false, ..config(1) });
    net.raw_listen(peer_ip());
    net.op(0, ping_op(id(PEER)));
    net.run(SEC);
    assert_eq!(net.links(), 1);
}

/// socklnd.md §2.7: a peer whose HELLOs differ in incarnation is dialled about 40 times a second by a kernel. Not by
/// us, however often an application asks; and our own incarnation never differs (requirement_04).
#[test]
fn a_tight_loop_of_connections() {
    let mut net = net(config(1));
    net.raw_listen(peer_ip());
    let (mut answered, end) = (0, net.now + 30 * SEC);
    while net.now < end {
        net.op(0, ping_op(id(PEER)));
        net.run(SEC / 100);
        while answered < net.links() {
            let h = Hello { src_incarnation: answered as u64, ..answer(&dialled(&net, answered)) };
            net.raw_send(answered, &h.emit());
            answered += 1;
        }
        net.take_events(0);
    }
    // Each second a first connection, and a second that shows that the peer is another.
    assert!((20..=62).contains(&answered), "{answered} connections in 30 s");
    // And when nobody asks, it ends.
    net.run(200 * SEC);
    let before = net.links();
    net.run(60 * SEC);
    assert_eq!((net.links(), net.nodes[0].machine.gauges().conns), (before, 0));
}
