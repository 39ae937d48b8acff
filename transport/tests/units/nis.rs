//! Nodes of several NIs: on addresses of their own, and of two networks on one address (docs/protocol/lnet.md §5,
//! docs/protocol/socklnd.md §1).

use transport::lnd::{Accept, AppId, Config, LnetError, Payload, Shards, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op, OpRefused};
use transport::node::Input;
use transport::stream::{Bucket, ShardId};
use transport::testing::data::{Spot, bytes, lent, pages};
use transport::testing::net::{Net, SEC};
use transport::wire::{ConnType, Hello, LnetBody, LnetHdr, Nid, ProcessId, Version, WireHandle};

use crate::raw;

const PORTAL: u32 = 7;
const BITS: u64 = 3;

fn nid(s: &str) -> Nid {
    s.parse().unwrap()
}

/// A node with these NIs, the first the primary one.
fn config(nids: &[&str]) -> Config {
    let [first, rest @ ..] = nids else { panic!() };
    let epoch = 1_700_000_000_000_000_000 + u64::from(first.as_bytes()[first.find('@').unwrap() - 1]);
    rest.iter().fold(Config::new(nid(first), epoch), |c, n| c.also(nid(n)))
}

/// Nodes that know each other by two networks. Four ways to have them.
fn places() -> [(Vec<&'static str>, Vec<&'static str>); 4] {
    [
        // Two ports each.
        (vec!["10.0.0.1@tcp", "10.1.0.1@tcp1"], vec!["10.0.0.2@tcp", "10.1.0.2@tcp1"]),
        // One address each.
        (vec!["10.0.0.1@tcp", "10.0.0.1@tcp1"], vec!["10.0.0.2@tcp", "10.0.0.2@tcp1"]),
        // One address here, two there.
        (vec!["10.0.0.1@tcp", "10.0.0.1@tcp1"], vec!["10.0.0.2@tcp", "10.1.0.2@tcp1"]),
        // Of two families, and in another order.
        (vec!["fd00::1@tcp", "10.0.0.1@tcp"], vec!["10.0.0.2@tcp", "fd00::2@tcp"]),
    ]
}

fn attach(net: &mut Net, node: usize, mem: MdMem, portal: u32) {
    net.op(node, Spot(portal, BITS).attach(1, MdSpec::new(mem)));
    net.run(SEC / 100);
    net.take_events(node);
}

fn put(tag: u64, to: Nid, len: usize) -> Op {
    Spot(PORTAL, BITS).put(tag, ProcessId::lustre(to), Payload::copy_of(&bytes(len, tag)).unwrap(), true)
}

fn get(tag: u64, to: Nid, len: u32) -> Op {
    Spot(PORTAL + 1, BITS).get(tag, ProcessId::lustre(to), Sink::Lend(len))
}

fn ping(tag: u64, to: Nid) -> Op {
    Op::Ping { tag, target: ProcessId::lustre(to) }
}

/// PUT, GET and ping from `a` to each NID of `b`, whose operations all come to a good end.
fn all_ways(net: &mut Net, a: usize, b: usize, from: &[Nid], to: &[Nid]) {
    for (i, nid) in (0u64..).zip(to.iter().copied()) {
        net.op(a, put(i << 8, nid, 100_000));
        net.op(a, put(i << 8 | 1, nid, 64));
        net.op(a, get(i << 8 | 2, nid, 70_000));
        net.op(a, ping(i << 8 | 3, nid));
    }
    net.run(20 * SEC);
    let events = net.take_events(a);
    let acked = |t| events.iter().any(|e| matches!(e, Event::Ack { tag, status: Ok(()), .. } if *tag == t));
    for (i, nid) in (0u64..).zip(to) {
        assert!(acked(i << 8) && acked(i << 8 | 1), "{nid}: {events:?}");
        let got = events.iter().find_map(|e| match e {
            Event::Reply { tag, status: Ok(()), data, .. } if *tag == (i << 8 | 2) => Some(lent(data)),
            _ => None,
        });
        assert_eq!(got.unwrap().len(), 70_000, "{nid}");
        let info = events.iter().find_map(|e| match e {
            Event::Ping { tag, info: Ok(info), .. } if *tag == (i << 8 | 3) => Some(info.clone()),
            _ => None,
        });
        let mut said: Vec<Nid> = info.unwrap().nis.iter().map(|n| n.nid).collect();
        said.sort();
        let mut small: Vec<Nid> = to.iter().copied().filter(|n| n.to_nid4().is_some()).collect();
        small.sort();
        assert_eq!(said, small, "all NIs, whichever was asked");
    }
    // Each request came from the NI of its network.
    let puts = net.take_events(b);
    for (i, nid) in (0u64..).zip(to) {
        let own = from.iter().find(|n| n.same_net(*nid) && n.to_nid4().is_some() == nid.to_nid4().is_some());
        let initiators = puts.iter().filter_map(|e| match e {
            Event::Put(p) if p.hdr_data >> 8 == i => Some(p.source),
            _ => None,
        });
        assert_eq!(initiators.collect::<Vec<_>>(), [*own.unwrap(); 2], "{puts:?}");
    }
}

#[test]
fn puts_gets_and_pings_go_by_the_ni_of_their_network() {
    for (a, b) in places() {
        let mut net = Net::new();
        // A node that knows more of a peer than the NID that it is told sends by the others, too (`multi_rail.rs`).
        net.add(Config { discovery: false, ..config(&a) });
        net.add(Config { discovery: false, ..config(&b) });
        let nids = |n: &[&str]| n.iter().map(|s| nid(s)).collect::<Vec<_>>();
        let (a, b) = (nids(&a), nids(&b));
        for node in 0..2 {
            attach(&mut net, node, MdMem::Sink(Sink::Lend(1 << 20)), PORTAL);
            attach(&mut net, node, MdMem::Source(pages(70_000)), PORTAL + 1);
        }
        all_ways(&mut net, 0, 1, &a, &b);
        all_ways(&mut net, 1, 0, &b, &a);
        for node in 0..2 {
            net.assert_at_rest(node);
            let g = net.nodes[node].machine.gauges();
            assert_eq!((g.peers, g.conns_up), (2, 6), "a set for each pair of NIDs: {g:?}");
            let c = net.nodes[node].machine.counters();
            assert_eq!((c.err_dest_nid, c.err_target_nid, c.drop_not_for_us, c.races), (0, 0, 0, 0));
            net.op(node, Op::Shutdown { tag: 9 });
        }
        net.run(60 * SEC);
        for node in 0..2 {
            assert!(net.take_events(node).iter().any(|e| matches!(e, Event::ShutDown { tag: 9 })));
            assert_eq!(net.nodes[node].machine.gauges().conns, 0);
        }
    }
}

fn by(mut op: Op, nid: Nid) -> Op {
    if let Op::Put { from, .. } | Op::Get { from, .. } = &mut op {
        *from = Some(nid);
    }
    op
}

/// An operation leaves from the NI that it names, whichever the last one to that peer left from; what came tells both NIDs.
#[test]
fn an_operation_leaves_from_the_ni_that_it_names() {
    let (a, b) = (["10.0.0.1@tcp", "10.0.1.1@tcp", "10.1.0.1@tcp1"], ["10.0.0.2@tcp", "10.0.1.2@tcp"]);
    let mut net = Net::new();
    net.add(config(&a));
    net.add(config(&b));
    for node in 0..2 {
        attach(&mut net, node, MdMem::Sink(Sink::Lend(1 << 20)), PORTAL);
        attach(&mut net, node, MdMem::Source(pages(70_000)), PORTAL + 1);
    }
    let ways = [(0, 0), (1, 0), (0, 0), (1, 1), (0, 1), (1, 1)].map(|(f, t)| (nid(a[f]), nid(b[t])));
    for (tag, (from, to)) in (1..).zip(ways) {
        net.op(0, by(put(tag, to, 100_000), from));
        net.run(SEC);
        net.op(0, by(get(tag, to, 70_000), from));
        net.run(SEC);
        let came = net.take_events(1);
        let [Event::Put(p), Event::Get(g)] = &came[..] else { panic!("{came:?}") };
        assert_eq!((p.source, p.dest, p.sender, p.portal), (from, to, from, PORTAL));
        assert_eq!((g.source, g.dest, g.sender, g.portal), (from, to, from, PORTAL + 1));
        let ended = net.take_events(0);
        let [Event::Send { .. }, Event::Ack { status: Ok(()), .. }, Event::Reply { status: Ok(()), .. }] =
            ended[..]
        else {
            panic!("{ended:?}")
        };
    }
    // To this node itself: from the NID that it goes to, or the one it names.
    for (from, said) in [(None, a[1]), (Some(a[2]), a[2]), (Some("0@lo"), a[0])] {
        let op = put(20, nid(a[1]), 10);
        net.op(0, if let Some(f) = from { by(op, nid(f)) } else { op });
        let came = net.take_events(0);
        let [Event::Put(p), Event::Send { .. }, Event::Ack { status: Ok(()), .. }] = &came[..] else {
            panic!("{came:?}")
        };
        assert_eq!((p.source, p.dest), (nid(said), nid(a[1])));
    }
    let refused = |net: &mut Net, from: &str, to: &str| {
        net.op(0, by(get(30, nid(to), 10), nid(from)));
        match &net.take_events(0)[..] {
            [Event::Refused { tag: 30, why }] => *why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&mut net, "10.0.0.9@tcp", b[0]), OpRefused::From(nid("10.0.0.9@tcp")));
    assert_eq!(refused(&mut net, b[0], b[0]), OpRefused::From(nid(b[0])));
    for away in [a[2], "0@lo"] {
        let why = refused(&mut net, away, b[0]);
        assert_eq!(why, OpRefused::FromAway { from: nid(away), to: nid(b[0]) });
        assert!(why.to_string().contains(away) && why.to_string().contains(b[0]));
    }
}

/// The kernel has no way to a network that none of its NIs is on, and asks no NI of the other family.
#[test]
fn a_network_without_an_ni_is_refused() {
    let mut net = Net::new();
    net.add(config(&["10.0.0.1@tcp", "fd00::1@tcp1"]));
    for to in ["10.0.0.2@tcp2", "10.0.0.2@tcp1", "fd00::2@tcp"] {
        net.op(0, ping(5, nid(to)));
        let said = net.take_events(0);
        let [Event::Refused { tag: 5, why: OpRefused::Target(n) }] = said[..] else { panic!("{said:?}") };
        assert_eq!(n, nid(to));
    }
    assert_eq!(net.nodes[0].machine.gauges().peers, 0);
}

/// A message for this node never leaves it, whichever NI is named.
#[test]
fn every_ni_is_this_node() {
    let mut net = Net::new();
    net.add(config(&["10.0.0.1@tcp", "10.1.0.1@tcp1"]));
    attach(&mut net, 0, MdMem::Sink(Sink::Lend(1 << 20)), PORTAL);
    for (i, to) in (0..).zip(["10.1.0.1@tcp1", "10.0.0.1@tcp", "0@lo"]) {
        net.op(0, put(i, nid(to), 5000));
        net.op(0, ping(i, nid(to)));
    }
    let events = net.take_events(0);
    let from = events.iter().filter_map(|e| match e {
        Event::Put(p) => Some(p.initiator.nid.to_string()),
        _ => None,
    });
    assert_eq!(from.collect::<Vec<_>>(), ["10.1.0.1@tcp1", "10.0.0.1@tcp", "10.0.0.1@tcp"]);
    assert_eq!(events.iter().filter(|e| matches!(e, Event::Ping { info: Ok(_), .. })).count(), 3);
    assert_eq!((net.links(), net.nodes[0].machine.gauges().peers), (0, 0));
}

/// A CONTROL connection of 10.0.0.66 that asks for `request`, with its HELLO.
fn raw_set(net: &mut Net, request: Nid, port: u16, from: Nid) -> usize {
    let to = Hello { src_nid: from, dst_nid: request, ..raw::hello(Version::V3, ConnType::Control) };
    let link = net.raw_connect(raw::at(port), 0);
    net.raw_send(link, &[raw::request(request), to.emit().to_vec()].concat());
    net.run(SEC / 10);
    link
}

/// lnet.md §5: what is for one NI and comes by another ends the set, and so does what is for 0@lo or for a NID of the network
/// that is nobody's here. What is for elsewhere is dropped.
#[test]
fn a_message_for_one_ni_that_comes_by_another_ends_the_set() {
    let by = [("10.0.0.1@tcp", "10.0.0.66@tcp"), ("10.0.0.1@tcp1", "10.0.0.66@tcp1")];
    for one_address in [true, false] {
        let second = if one_address { "10.0.0.1@tcp1" } else { "10.1.0.1@tcp1" };
        for (i, (own, peer)) in by.into_iter().enumerate() {
            let own = if i == 1 { second } else { own };
            for (dest, ends) in [
                ("10.0.0.1@tcp", i == 1),
                (second, i == 0),
                ("0@lo", true),
                ("10.0.0.9@tcp", i == 0),
                ("10.0.0.9@tcp1", i == 1),
                ("10.0.0.9@tcp7", false),
            ] {
                let mut net = Net::new();
                net.add(Config { accept: Accept::Trust, ..config(&["10.0.0.1@tcp", second]) });
                let link = raw_set(&mut net, nid(own), 700, nid(peer));
                assert_eq!(net.wire(link, 1).0.len(), 56, "a HELLO for {own}");
                let hdr = LnetHdr { dest_nid: nid(dest), src_nid: nid(peer), ..raw::ping_get(0) };
                net.raw_send(link, &raw::message(Version::V3, &hdr, 0));
                net.run(SEC);
                let c = *net.nodes[0].machine.counters();
                assert_eq!(net.wire(link, 1).1, ends, "{dest} by {own}");
                assert_eq!(c.err_dest_nid, u64::from(ends), "{dest} by {own}");
                assert_eq!(c.drop_not_for_us, u64::from(!ends && dest != own), "{dest} by {own}");
                net.assert_at_rest(0);
            }
        }
    }
}

/// lnet.md §5: but an answer for one NI that comes by another costs itself alone, and so does a message of another node than its sender:
/// anybody can bring them about.
#[test]
fn what_others_bring_about_ends_no_set() {
    let handle = WireHandle { interface: 1, object: 2 };
    let get = raw::ping_get(0).body;
    for (src, body, len) in [
        ("10.0.0.66@tcp", LnetBody::Reply { handle }, 64),
        ("10.0.0.66@tcp", LnetBody::Ack { handle, match_bits: 1, mlength: 9 }, 0),
        ("10.9.0.9@tcp9", LnetBody::Reply { handle }, 0),
        ("10.9.0.9@tcp9", get, 0),
    ] {
        for (dest, ends) in [("10.1.0.1@tcp1", false), ("0@lo", true), ("10.0.0.9@tcp", true)] {
            let mut net = Net::new();
            net.add(config(&["10.0.0.1@tcp", "10.1.0.1@tcp1"]));
            let link = raw_set(&mut net, nid("10.0.0.1@tcp"), 700, nid("10.0.0.66@tcp"));
            let hdr = LnetHdr { dest_nid: nid(dest), src_nid: nid(src), ..raw::header(body, len) };
            net.raw_send(link, &raw::message(Version::V3, &hdr, 0));
            net.run(SEC);
            assert_eq!((net.wire(link, 1).1, raw::counters(&net).err_dest_nid), (ends, 1), "{dest} {body:?}");
            if !ends {
                net.raw_send(link, &raw::message(Version::V3, &raw::ping_get(0), 0));
                net.run(SEC);
                assert_eq!(raw::messages(&net, link, 1, Version::V3).len(), 1, "{dest} {body:?}");
            }
            net.assert_at_rest(0);
        }
    }
}

/// The answer to who connects names the NI that was asked for, and a request for nobody is closed.
#[test]
fn a_request_chooses_the_ni() {
    let mut net = Net::new();
    net.add(config(&["10.0.0.1@tcp", "10.0.0.1@tcp1", "10.0.0.1@tcp2"]));
    for (i, own) in (0..).zip(["10.0.0.1@tcp2", "10.0.0.1@tcp", "10.0.0.1@tcp1"]) {
        let link = raw_set(&mut net, nid(own), 700 + i, Nid::tcp(raw::peer_ip(), nid(own).net_num()));
        let (bytes, closed) = net.wire(link, 1);
        let (h, _) = Hello::parse(bytes).unwrap();
        assert_eq!((h.src_nid, h.ctype, closed), (nid(own), ConnType::Control, false));
    }
    assert_eq!(net.nodes[0].machine.gauges().peers, 3);
    let link = raw_set(&mut net, nid("10.0.0.1@tcp3"), 710, nid("10.0.0.66@tcp3"));
    assert_eq!(net.wire(link, 1), (&[][..], true));
    assert_eq!(net.nodes[0].machine.counters().err_target_nid, 1);
}

/// The answer to an older HELLO named the NI ANY, which no peer takes for it: NIDs of V1 to V3 have 8 bytes.
#[test]
fn an_ni_with_a_long_address_speaks_v4_alone() {
    for version in [Version::V1, Version::V2, Version::V3, Version::V4] {
        let mut net = Net::new();
        net.add(Config { accept: Accept::Trust, ..config(&["10.0.0.1@tcp", "fd00::1@tcp"]) });
        let own = nid("fd00::1@tcp");
        let link = net.raw_connect(raw::at(700), 0);
        let to = raw::hello(version, ConnType::Control);
        net.raw_send(link, &[raw::request(own), to.emit().to_vec()].concat());
        net.run(SEC / 10);
        let (bytes, closed) = net.wire(link, 1);
        let (h, up) = (Hello::parse(bytes).unwrap().0, version == Version::V4);
        let ctype = if up { ConnType::Control } else { ConnType::None };
        assert_eq!((h.version, h.src_nid, h.ctype, closed), (Version::V4, own, ctype, !up), "{version:?}");
        assert_eq!(net.nodes[0].machine.counters().err_version, u64::from(!up));
    }
}

/// Requests for another NI of the address meet the same limits.
#[test]
fn requests_for_another_ni_take_no_more_than_others() {
    for own in ["10.0.0.1@tcp", "10.0.0.1@tcp1"] {
        let mut net = Net::new();
        net.add(Config { max_embryonic: 8, ..config(&["10.0.0.1@tcp", "10.0.0.1@tcp1"]) });
        for port in 0..40 {
            let link = net.raw_connect(raw::at(600 + port), 0);
            net.raw_send(link, &raw::request(nid(own)));
            net.run(SEC / 100);
        }
        let (g, c) = (net.nodes[0].machine.gauges(), net.nodes[0].machine.counters());
        assert!(g.conns <= 8, "{own}: {g:?}");
        assert_eq!(c.err_too_many_embryonic, 40 - g.conns as u64, "{own}");
        // Each has the usual time for its HELLO.
        net.run(6 * SEC);
        let (g, held) = (net.nodes[0].machine.gauges(), net.nodes[0].machine.held());
        assert_eq!((g.conns, held.used, held.handshakes, held.conns), (0, 0, 0, 0), "{own}");
    }
}

/// Memory that strangers may make a node hold does not grow with its NIs.
#[test]
fn limits_are_of_all_nis_together() {
    let all = ["10.0.0.1@tcp", "10.0.0.1@tcp1", "10.1.0.1@tcp2"];
    let mut net = Net::new();
    net.add(Config { max_embryonic: 8, max_peers: 4, accept: Accept::Trust, ..config(&all) });
    for host in 0..12 {
        for own in all {
            let link = net.raw_connect(([10, 0, 1, host], 700).into(), 0);
            net.raw_send(link, &raw::request(nid(own)));
            net.run(SEC / 100);
        }
    }
    let (g, c) = (net.nodes[0].machine.gauges(), *net.nodes[0].machine.counters());
    assert_eq!((g.conns, c.err_too_many_embryonic), (8, 28));
    net.run(6 * SEC);
    assert_eq!(net.nodes[0].machine.held().used, 0);
    for port in 0..4 {
        for (at, own) in (0..).zip(all) {
            raw_set(&mut net, nid(own), 700 + port * 3 + at, Nid::tcp([10, 2, 0, port as u8].into(), at));
        }
    }
    let (g, c) = (net.nodes[0].machine.gauges(), *net.nodes[0].machine.counters());
    assert_eq!((g.peers, g.conns_up, c.err_too_many_peers), (4, 4, 8));
}

/// More NIs than fit beside a header: their list goes out from pages.
#[test]
fn the_ping_info_of_many_nis_is_whole() {
    let all: Vec<String> = (0..16).map(|n| Nid::tcp([10, 0, n, 1].into(), n.into()).to_string()).collect();
    let mut net = Net::new();
    net.add(config(&all.iter().map(String::as_str).collect::<Vec<_>>()));
    net.add(config(&["10.0.3.2@tcp3"]));
    net.op(1, ping(4, nid("10.0.3.1@tcp3")));
    net.run(SEC);
    let said = net.take_events(1);
    let [Event::Ping { info: Ok(info), .. }] = &said[..] else { panic!("{said:?}") };
    assert_eq!(info.nis.iter().map(|n| n.nid.to_string()).collect::<Vec<_>>(), all);
    net.run(SEC);
    (0..2).for_each(|n| net.assert_at_rest(n));
}

/// The message that holds an entry's sink comes by one NI, those that wait for it by another.
#[test]
fn what_waits_by_one_ni_goes_on_when_a_message_by_another_ends() {
    for shards in [1, 2] {
        let mut net = Net::new();
        for me in 0..shards {
            let shards = Shards::new(me, shards).unwrap();
            net.add(Config { shards, ..config(&["10.0.0.1@tcp", "10.1.0.1@tcp1"]) });
        }
        let first = net.nodes.len();
        net.add(config(&["10.0.0.2@tcp"]));
        net.add(config(&["10.1.0.3@tcp1"]));
        let sink = transport::testing::data::run(1 << 20);
        attach(&mut net, 0, MdMem::Sink(Sink::Copy(sink)), PORTAL);
        net.run(SEC);
        // The first message is long; the second comes while it holds the sink.
        net.chunk = 100;
        net.window = 20_000;
        net.op(first, put(1, nid("10.0.0.1@tcp"), 900_000));
        net.run(SEC / 500);
        net.op(first + 1, put(2, nid("10.1.0.1@tcp1"), 5000));
        net.run(10 * SEC);
        for (node, tag) in [(first, 1), (first + 1, 2)] {
            let events = net.take_events(node);
            let acked = |e: &Event| matches!(e, Event::Ack { tag: t, status: Ok(()), .. } if *t == tag);
            assert!(events.iter().any(acked), "{shards}: {events:?}");
        }
        (0..net.nodes.len()).for_each(|n| net.assert_at_rest(n));
    }
}

/// Credits are an NI's own: one that has none left holds up nobody at another.
#[test]
fn credits_of_one_ni_are_not_anothers() {
    let mut net = Net::new();
    let mut cfg = config(&["10.0.0.1@tcp", "10.1.0.1@tcp1"]);
    cfg.nis[0].credits = Some(1);
    net.add(cfg);
    for n in 2..6 {
        net.add(config(&[format!("10.0.0.{n}@tcp").as_str(), format!("10.1.0.{n}@tcp1").as_str()]));
        attach(&mut net, n - 1, MdMem::Sink(Sink::Lend(1 << 20)), PORTAL);
    }
    // Nobody acknowledges meanwhile: what has a credit keeps it.
    net.latency = SEC;
    for n in 2..6u64 {
        net.op(0, put(n, nid(&format!("10.0.0.{n}@tcp")), 50_000));
        net.op(0, put(n + 100, nid(&format!("10.1.0.{n}@tcp1")), 50_000));
    }
    let waits = net.nodes[0].machine.counters().credit_waits;
    assert_eq!((waits, net.nodes[0].machine.gauges().credits_used), (3, 5));
    net.run(60 * SEC);
    let acks = net.take_events(0).iter().filter(|e| matches!(e, Event::Ack { status: Ok(()), .. })).count();
    assert_eq!(acks, 8);
    net.assert_at_rest(0);
}

/// Lendings are the shard's: answers by all NIs together leave a quarter of them to operations of our own.
#[test]
fn lendings_of_answers_are_counted_over_all_nis() {
    let all = ["10.0.0.1@tcp", "10.0.0.1@tcp1", "10.1.0.1@tcp2", "10.1.0.1@tcp3"];
    let mut net = Net::new();
    (net.record, net.raw_acks) = (false, false);
    net.add(Config { lendings: 64, accept: Accept::Trust, ..config(&all) });
    let run = transport::testing::data::run(4096).freeze();
    let pieces = (0..16).map(|i| run.slice(i * 256, 256).unwrap()).collect();
    attach(&mut net, 0, MdMem::Source(Payload::Pages(pieces)), PORTAL);
    let mut links = Vec::new();
    for (at, own) in (0u8..).zip(all) {
        let (own, host) = (nid(own), [10, 0, 9, at + 1].into());
        let src_nid = Nid::tcp(host, own.net_num());
        let link = net.raw_connect((host, 700).into(), 0);
        let to = Hello { src_nid, dst_nid: own, ..raw::hello(Version::V3, ConnType::Control) };
        let handle = WireHandle { interface: 1, object: 2 };
        let body =
            LnetBody::Get { handle, match_bits: BITS, portal: PORTAL, src_offset: 0, sink_length: 4096 };
        let get = LnetHdr { dest_nid: own, src_nid, body, ..raw::ping_get(0) };
        net.raw_send(link, &[raw::request(own), to.emit().to_vec()].concat());
        net.run(SEC / 100);
        net.raw_send(link, &raw::message(Version::V3, &get, 0).repeat(6));
        net.run(SEC / 100);
        links.push(link);
    }
    // The first host has 32 of the 48 that are for answers, each of the others those of one message.
    let g = net.nodes[0].machine.gauges();
    assert_eq!((g.lends, g.queued > 10), (2 + 3, true), "{g:?}");
    links.into_iter().for_each(|link| net.raw_reset(link));
    net.run(SEC);
    let g = net.nodes[0].machine.gauges();
    assert_eq!((g.lends, g.queued, g.credits_used), (0, 0, 0), "{g:?}");
}

/// Peers of all NIs move with their bucket, in the middle of what they do.
#[test]
fn buckets_move_with_the_peers_of_all_nis() {
    for one_address in [true, false] {
        let (own, peer) = if one_address {
            (["10.0.0.1@tcp", "10.0.0.1@tcp1"], ["10.0.0.2@tcp", "10.0.0.2@tcp1"])
        } else {
            (["10.0.0.1@tcp", "10.1.0.1@tcp1"], ["10.0.0.2@tcp", "10.1.0.2@tcp1"])
        };
        let mut net = Net::new();
        for me in 0..2 {
            net.add(Config { shards: Shards::new(me, 2).unwrap(), ..config(&own) });
        }
        net.add(config(&peer));
        attach(&mut net, 2, MdMem::Sink(Sink::Lend(1 << 20)), PORTAL);
        let mut done = 0;
        for round in 0..6u64 {
            for (i, to) in (0..).zip(peer) {
                net.op(0, put(round << 8 | i, nid(to), 200_000));
                net.op(0, put(round << 8 | i | 16, nid(to), 10));
            }
            for at in peer.map(|p| Bucket::of(nid(p).ip().unwrap())) {
                net.run(SEC / 9000 * round);
                let home = usize::from(net.nodes[0].machine.home_of(at).0);
                net.move_home(home, at, ShardId(1 - home as u16));
            }
            net.run(5 * SEC);
            let events = (0..2).flat_map(|n| net.take_events(n)).collect::<Vec<_>>();
            done += events.iter().filter(|e| matches!(e, Event::Ack { status: Ok(()), .. })).count();
        }
        assert_eq!(done, 24, "{one_address}");
        let moved: u64 = (0..2).map(|n| net.nodes[n].machine.counters().homes_adopted).sum();
        assert!(moved >= 6, "{one_address}: {moved}");
        net.take_events(2);
        (0..3).for_each(|n| net.assert_at_rest(n));
    }
}

/// A connection that has gone from one NI to another moves, answers and ends like others, between request and HELLO too.
#[test]
fn a_handshake_by_another_ni_moves_and_goes_down_with_the_node() {
    for (moves, down) in [(false, true), (true, false), (true, true)] {
        let mut net = Net::new();
        for me in 0..2 {
            let shards = Shards::new(me, 2).unwrap();
            net.add(Config { shards, accept: Accept::Trust, ..config(&["10.0.0.1@tcp", "10.0.0.1@tcp1"]) });
        }
        let (own, peer, at) = (nid("10.0.0.1@tcp1"), nid("10.0.0.66@tcp1"), Bucket::of(raw::peer_ip()));
        let mut home = usize::from(net.nodes[0].machine.home_of(at).0);
        let link = net.raw_connect(raw::at(700), home);
        let turn = |net: &mut Net, home: &mut usize| {
            net.run(SEC / 10);
            if moves {
                net.move_home(*home, at, ShardId(1 - *home as u16));
                net.run(SEC / 10);
                *home = usize::from(net.nodes[0].machine.home_of(at).0);
            }
        };
        net.raw_send(link, &raw::request(own));
        turn(&mut net, &mut home);
        if down {
            (0..2).for_each(|n| net.op(n, Op::Shutdown { tag: 9 }));
        }
        let to = Hello { src_nid: peer, dst_nid: own, ..raw::hello(Version::V3, ConnType::Control) };
        net.raw_send(link, &to.emit());
        turn(&mut net, &mut home);
        if !down {
            for n in 1..4u64 {
                let hdr = LnetHdr { dest_nid: own, src_nid: peer, ..raw::ping_get(0) };
                net.raw_send(link, &raw::message(Version::V3, &hdr, 0));
                turn(&mut net, &mut home);
                assert_eq!(net.wire(link, 1).0.len() as u64, 56 + n * (96 + 64), "{n}");
            }
            (0..2).for_each(|n| net.op(n, Op::Shutdown { tag: 9 }));
        }
        net.run(60 * SEC);
        for n in 0..2 {
            assert!(
                net.take_events(n).iter().any(|e| matches!(e, Event::ShutDown { tag: 9 })),
                "{moves} {down}"
            );
            let (g, held) = (net.nodes[n].machine.gauges(), net.nodes[n].machine.held());
            assert_eq!((g.conns, g.peers, held.used), (0, 0, 0), "{moves} {down}");
        }
    }
}

/// Two NIs of one network are two neighbours to a peer. An operation goes by the one that it has connections with.
#[test]
fn a_peer_of_two_nis_of_one_network_has_a_set_with_each() {
    let own = ["10.0.0.1@tcp", "10.0.9.1@tcp"];
    for first in [0, 1] {
        let mut net = Net::new();
        for me in 0..2 {
            net.add(Config { shards: Shards::new(me, 2).unwrap(), ..config(&own) });
        }
        net.add(config(&["10.0.0.2@tcp"]));
        attach(&mut net, 2, MdMem::Sink(Sink::Lend(1 << 20)), PORTAL);
        let (peer, at) = (nid("10.0.0.2@tcp"), Bucket::of([10, 0, 0, 2].into()));
        let asks = |net: &mut Net, ni: usize| {
            net.op(2, ping(1, nid(own[ni])));
            net.run(SEC);
            assert!(matches!(net.take_events(2)[..], [Event::Ping { info: Ok(_), .. }]));
        };
        let goes_by = |net: &mut Net, tag| {
            net.op(0, put(tag, peer, 100_000));
            net.run(SEC);
            let acks = (0..2)
                .flat_map(|n| net.take_events(n))
                .filter(|e| matches!(e, Event::Ack { status: Ok(()), .. }));
            assert_eq!(acks.count(), 1);
            let all = net.take_events(2);
            let from = all
                .iter()
                .find_map(|e| if let Event::Put(p) = e { Some(p.source.to_string()) } else { None });
            from.unwrap()
        };
        asks(&mut net, first);
        assert_eq!(goes_by(&mut net, 2), own[first]);
        asks(&mut net, 1 - first);
        assert_eq!(goes_by(&mut net, 3), own[first], "the last target is looked up no more");
        for round in 0..3 {
            let home = usize::from(net.nodes[0].machine.home_of(at).0);
            net.move_home(home, at, ShardId(1 - home as u16));
            net.run(SEC);
            assert!(own.contains(&&goes_by(&mut net, 4 + round)[..]));
            (0..2).for_each(|ni| asks(&mut net, ni));
        }
        let peers = net.nodes[0].machine.gauges().peers + net.nodes[1].machine.gauges().peers;
        assert_eq!(peers, 2);
        (0..3).for_each(|n| net.assert_at_rest(n));
    }
}

/// Going down, a node waits for the handshakes of all NIs, and ends the operations of all.
#[test]
fn a_node_goes_down_by_all_its_nis() {
    let mut net = Net::new();
    net.add(config(&["10.0.0.1@tcp", "10.1.0.1@tcp1"]));
    for n in [2, 3] {
        net.raw_listen([10, 0, 0, n].into());
        net.raw_listen([10, 1, 0, n].into());
    }
    attach(&mut net, 0, MdMem::Sink(Sink::Lend(4096)), PORTAL);
    net.op(0, put(1, nid("10.0.0.2@tcp"), 50_000));
    net.op(0, ping(2, nid("10.1.0.3@tcp1")));
    net.run(SEC);
    net.op(0, Op::Shutdown { tag: 3 });
    net.op(0, ping(4, nid("10.1.0.3@tcp1")));
    net.run(100 * SEC);
    let events = net.take_events(0);
    let why = LnetError::ShuttingDown;
    assert!(
        events.iter().any(|e| matches!(e, Event::Send { tag: 1, status: Err(e), .. } if *e == why)),
        "{events:?}"
    );
    assert!(events.iter().any(|e| matches!(e, Event::Ping { tag: 2, info: Err(e), .. } if *e == why)));
    let refused = |e: &Event| matches!(e, Event::Refused { tag: 4, why: OpRefused::ShuttingDown });
    assert!(events.iter().any(refused));
    let unlinked = events.iter().position(|e| matches!(e, Event::Unlink { .. }));
    let last = events.iter().position(|e| matches!(e, Event::ShutDown { tag: 3 }));
    assert!(unlinked < last && last == Some(events.len() - 1), "{events:?}");
    net.assert_at_rest(0);
}

/// Applications of another shard reach peers by every NI, and hear of it.
#[test]
fn operations_cross_shards_by_every_ni() {
    let mut net = Net::new();
    for me in 0..3 {
        net.add(Config { shards: Shards::new(me, 3).unwrap(), ..config(&["10.0.0.1@tcp", "10.0.0.1@tcp1"]) });
    }
    for n in 2..12 {
        net.add(config(&[format!("10.0.0.{n}@tcp").as_str(), format!("10.0.0.{n}@tcp1").as_str()]));
    }
    for shard in 0..3 {
        for n in 2..12u64 {
            for (i, net_name) in (0..).zip(["tcp", "tcp1"]) {
                let to = nid(&format!("10.0.0.{n}@{net_name}"));
                net.input(shard, Input::Cmd(AppId::FIRST, ping(n << 1 | i, to)));
            }
        }
    }
    net.run(30 * SEC);
    let all: Vec<Event> = (0..3).flat_map(|n| net.take_events(n)).collect();
    let good = all.iter().filter(|e| matches!(e, Event::Ping { info: Ok(_), .. })).count();
    assert_eq!((good, all.len()), (60, 60));
    (0..net.nodes.len()).for_each(|n| net.assert_at_rest(n));
}
