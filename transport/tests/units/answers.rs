//! Answers go to the source that a request names, whoever delivered it (docs/protocol/lnet.md §5).

use transport::lnd::{AppId, Config, LnetError, Payload, Shards};
use transport::lnet::{Event, MdMem, MdSpec, Op, OpRefused};
use transport::node::Input;
use transport::testing::capture::Msg;
use transport::testing::data::{Spot, pages};
use transport::testing::net::{Net, SEC};
use transport::wire::{
    ByteOrder, ConnType, LnetBody, LnetHdr, Nid, ProcessId, Version, WireHandle, ksock, ping,
};

use crate::raw::{self, nid};

/// A connection of 10.0.0.66 to shard `node` of 10.0.0.1.
fn connect(net: &mut Net, node: usize) -> usize {
    let link = net.raw_connect(raw::at(700), node);
    net.raw_send(link, &raw::start(&raw::hello(Version::V3, ConnType::Control)));
    net.run(SEC / 10);
    assert_eq!(net.wire(link, 1).0.len(), 56, "a HELLO");
    link
}

/// A GET that says it comes from `src`.
fn get(src: Nid, portal: u32, match_bits: u64) -> Vec<u8> {
    let handle = WireHandle { interface: 1, object: 1 };
    let body = LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: 272 };
    raw::message(Version::V3, &LnetHdr { src_nid: src, ..raw::header(body, 0) }, 0)
}

fn stale(net: &Net, node: usize) -> u64 {
    net.nodes[node].machine.counters().drop_stale_handle
}

/// lnet.md §6.4, field report L7: a push of ping info is acknowledged though nobody wants it, at most 272 bytes of it, and
/// what its checksum is wrong for closes the set.
#[test]
fn a_push_is_acknowledged_and_its_sum_judged() {
    let handle = WireHandle { interface: 1, object: 9 };
    let push = |len, ack| {
        let body =
            LnetBody::Put { ack, match_bits: ping::MATCH_BITS, hdr_data: 0, portal: ping::PORTAL, offset: 0 };
        raw::header(body, len)
    };
    for version in [Version::V1, Version::V2, Version::V3] {
        for (len, taken) in [(0u32, 0), (48, 48), (272, 272), (8000, 272)] {
            let mut net = raw::net(raw::config(1));
            let links = raw::open_set(&mut net, version);
            net.raw_send(links[0], &raw::message(version, &push(len, handle), 0));
            net.raw_send(links[0], &raw::message(version, &push(len, WireHandle::NONE), 0));
            net.raw_send(links[0], &raw::message(version, &raw::ping_get(0), 0));
            net.run(SEC);
            let said = raw::messages(&net, links[0], 1, version);
            let [Msg::Lnet(_, a, _), Msg::Lnet(_, r, _)] = &said[..] else { panic!("{said:?}") };
            let want = LnetBody::Ack { handle, match_bits: ping::MATCH_BITS, mlength: taken };
            assert!(a.body == want && matches!(r.body, LnetBody::Reply { .. }), "{version:?} {len}: {a:?}");
            net.assert_at_rest(0);
        }
    }
    for (version, good) in
        [(Version::V2, true), (Version::V2, false), (Version::V3, true), (Version::V3, false)]
    {
        let mut net = raw::net(raw::config(1));
        let links = raw::open_set(&mut net, version);
        let mut bytes = raw::message(version, &push(48, handle), 0);
        let over = if version == Version::V2 { &bytes[..] } else { &bytes[24 + 72..] };
        let sum = ksock::checksum(over);
        ksock::put_csum(&mut bytes, sum.wrapping_add(u32::from(!good)), ByteOrder::Little);
        net.raw_send(links[0], &bytes);
        net.run(SEC);
        assert_eq!(links.map(|l| net.wire(l, 1).1), [!good; 3], "{version:?} {good}");
        let c = raw::counters(&net);
        assert_eq!(
            (c.err_checksum, raw::messages(&net, links[0], 1, version).len()),
            (u64::from(!good), usize::from(good))
        );
    }
}

#[test]
fn the_source_gets_it_whether_connected_or_not() {
    let mut net = Net::new();
    for n in 1..=3 {
        net.add(Config::new(nid(n), u64::from(n)));
    }
    net.op(1, Op::Ping { tag: 0, target: ProcessId::lustre(nid(1)) });
    net.run(SEC);
    assert_eq!(net.nodes[0].machine.gauges().conns_up, 3);
    let link = connect(&mut net, 0);
    for (source, node, conns) in [(nid(2), 1, 4), (nid(3), 2, 7), (nid(3), 2, 7)] {
        let before = stale(&net, node);
        net.raw_send(link, &get(source, ping::PORTAL, ping::MATCH_BITS));
        net.run(SEC);
        assert_eq!(stale(&net, node), before + 1, "a REPLY that it did not ask for");
        assert_eq!(net.nodes[0].machine.gauges().conns_up, conns);
    }
    assert_eq!(net.wire(link, 1), (&net.wire(link, 1).0[..56], false), "nothing for who delivered it");
}

#[test]
fn the_source_may_live_on_another_shard() {
    let shards = Shards::new(0, 3).unwrap();
    let mut net = Net::new();
    for s in 0..3 {
        net.add(Config { shards: Shards::new(s, 3).unwrap(), ..Config::new(nid(1), 1) });
    }
    for n in 10..18 {
        net.add(Config::new(nid(n), u64::from(n)));
    }
    let home = |n: u8| usize::from(shards.home_of([10, 0, 0, n].into()).0);
    let link = connect(&mut net, home(66));
    for n in 10..18 {
        net.raw_send(link, &get(nid(n), ping::PORTAL, ping::MATCH_BITS));
    }
    net.run(SEC);
    assert!((10..18).any(|n| home(n) != home(66)));
    for node in 3..11 {
        assert_eq!(stale(&net, node), 1, "node {node}");
    }
}

/// Sources may be invented: they do not crowd out peers, and what was taken for their answer comes back.
#[test]
fn sources_that_lead_nowhere_are_counted() {
    let mut net = Net::new();
    // The hand and node 1 are half of what fits.
    net.add(Config { max_peers: 4, ..Config::new(nid(1), 1) });
    net.add(Config::new(nid(2), 2));
    net.op(1, Op::Ping { tag: 0, target: ProcessId::lustre(nid(1)) });
    net.run(SEC);
    let link = connect(&mut net, 0);
    let mem = MdMem::Source(Payload::inline(&[7; 40]).unwrap());
    let (portal, match_bits, ignore_bits) = (9, 3, 0);
    let md = MdSpec { threshold: Some(1), truncate: true, ..MdSpec::new(mem) };
    let op = Op::Attach { tag: 0, portal, who: ProcessId::ANY, match_bits, ignore_bits, md };
    net.input(0, Input::Cmd(AppId::FIRST, op));
    net.take_events(0);
    for (i, source) in [nid(77), nid(1), nid(78)].into_iter().enumerate() {
        let (portal, bits) = if i == 0 { (portal, match_bits) } else { (ping::PORTAL, ping::MATCH_BITS) };
        net.raw_send(link, &get(source, portal, bits));
        net.run(SEC / 10);
        assert_eq!(net.nodes[0].machine.counters().drop_no_way_back, 1 + i as u64);
        assert_eq!(net.nodes[0].machine.gauges().peers, 2);
    }
    let events = net.take_events(0);
    assert!(
        matches!(&events[..], [Event::Get(g)] if g.unlinked
            && matches!(g.status, Err(LnetError::Unreachable | LnetError::Refused))),
        "{events:?}"
    );
    // Those that are known get theirs.
    net.raw_send(link, &get(nid(2), ping::PORTAL, ping::MATCH_BITS));
    net.run(SEC / 10);
    assert_eq!(stale(&net, 1), 1);
    let g = net.nodes[0].machine.gauges();
    assert_eq!((g.credits_used, g.queued, g.entries), (0, 0, 0), "{g:?}");
}

/// One application, and one that speaks to whom strangers name.
fn apps() -> [AppId; 2] {
    [1, 2].map(|n| AppId::new(n).unwrap())
}

/// A reply of lnet_selftest to 10.0.0.n.
fn put_to(n: u8) -> Op {
    Op::Put {
        tag: n.into(),
        target: ProcessId::lustre(nid(n)),
        from: Some(nid(1)),
        portal: 52,
        match_bits: 1,
        offset: 0,
        hdr_data: 0,
        payload: Payload::empty(),
        ack: false,
    }
}

/// An application that speaks to whom strangers name does not fill the table, or the budget, with names that lead nowhere:
/// one connection with 66000 requests from sources that it had invented kept every newcomer out for two minutes.
#[test]
fn names_of_strangers_leave_room_for_peers() {
    let [own, strangers] = apps();
    for (max_peers, budget, room) in [(8, 1 << 20, 4), (1000, 128 << 10, 16)] {
        let mut net = Net::new();
        let names = vec![strangers];
        net.add(Config { max_peers, budget, strangers: names, ..Config::new(nid(1), 1) });
        net.add(Config::new(nid(2), 2));
        for n in 100..230 {
            net.input(0, Input::Cmd(strangers, put_to(n)));
        }
        // Their dials have failed: what is known of them stays for a while.
        net.run(3 * SEC);
        assert_eq!(net.nodes[0].machine.gauges().peers, room);
        let why = OpRefused::TooManyPeers(max_peers);
        let refused = |e: &&Event| matches!(e, Event::Refused { why: w, .. } if *w == why);
        assert_eq!(net.take_events(0).iter().filter(refused).count(), 130 - room);
        // A newcomer gets in, and our own operations go on.
        net.op(1, Op::Ping { tag: 0, target: ProcessId::lustre(nid(1)) });
        net.input(0, Input::Cmd(own, put_to(99)));
        net.run(SEC);
        assert!(matches!(&net.take_events(1)[..], [Event::Ping { info: Ok(_), .. }]));
        assert_eq!(net.nodes[0].machine.gauges().peers, room + 2);
    }
}

/// Dials that hang hold credits: 300 requests from invented sources that answer no HELLO had all of the NI's for 50 s.
#[test]
fn names_of_strangers_that_hang_leave_credits_to_others() {
    let [own, strangers] = apps();
    let mut net = Net::new();
    net.add(Config { ni_credits: 8, strangers: vec![strangers], ..Config::new(nid(1), 1) });
    for n in [2, 3] {
        net.add(Config::new(nid(n), u64::from(n)));
    }
    net.op(1, Op::Ping { tag: 0, target: ProcessId::lustre(nid(1)) });
    net.run(SEC);
    for n in 100..130 {
        net.raw_listen([10, 0, 0, n].into());
        net.input(0, Input::Cmd(strangers, put_to(n)));
    }
    net.run(SEC);
    assert!(net.nodes[0].machine.gauges().credits_used <= 4);
    net.take_events(0);
    net.input(0, Input::Cmd(own, Op::Ping { tag: 3, target: ProcessId::lustre(nid(3)) }));
    net.input(0, Input::Cmd(strangers, put_to(2)));
    net.run(SEC);
    let events = net.take_events(0);
    assert!(events.iter().any(|e| matches!(e, Event::Ping { tag: 3, info: Ok(_), .. })), "{events:?}");
    assert!(events.iter().any(|e| matches!(e, Event::Send { tag: 2, status: Ok(()), .. })), "{events:?}");
    // None of them outlasts the time-out of a dial by more than the wait for a credit.
    net.run(120 * SEC);
    assert_eq!(
        net.take_events(0).iter().filter(|e| matches!(e, Event::Send { status: Err(_), .. })).count(),
        30
    );
    let g = net.nodes[0].machine.gauges();
    assert_eq!((g.credits_used, g.queued), (0, 0), "{g:?}");
}

/// Credits that bulk of such an application held came home as an operation's of our own: after 128 PUTs of pages all
/// of the NI's were out, for good.
#[test]
fn bulk_that_strangers_ask_for_gives_its_credits_back() {
    let [_, strangers] = apps();
    let mut net = Net::new();
    net.add(Config { ni_credits: 8, strangers: vec![strangers], ..Config::new(nid(1), 1) });
    net.add(Config::new(nid(2), 2));
    for tag in 0..40 {
        net.input(
            0,
            Input::Cmd(strangers, Spot(7, 7).put(tag, ProcessId::lustre(nid(2)), pages(8192), false)),
        );
        net.run(SEC);
    }
    let sent = |e: &Event| matches!(e, Event::Send { status: Ok(()), .. });
    assert_eq!(net.take_events(0).iter().filter(|e| sent(e)).count(), 40);
    let g = net.nodes[0].machine.gauges();
    assert_eq!((g.credits_used, g.queued), (0, 0), "{g:?}");
}
