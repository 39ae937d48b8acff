//! NIs added to nodes that run, and deleted from them, while others go on (docs/protocol/upper.md §2).

use transport::lnd::{Config, LnetError, NIS_MAX, NiError, Payload, Shards, Sink};
use transport::lnet::routes::RouteAsk;
use transport::lnet::{Event, MdMem, MdSpec, NiStage, Op, OpRefused};
use transport::stream::{Bucket, ShardId};
use transport::testing::data::{Spot, bytes};
use transport::testing::net::{Net, SEC};
use transport::wire::{Nid, PingInfo, ProcessId};

const AT: Spot = Spot(7, 3);

fn nid(s: &str) -> Nid {
    s.parse().unwrap()
}

fn config(nids: &[&str], epoch: u64) -> Config {
    let [first, rest @ ..] = nids else { panic!() };
    rest.iter().fold(Config::new(nid(first), epoch), |c, n| c.also(nid(n)))
}

/// Two nodes of so many shards each; places of the second one's follow those of the first. The second takes PUTs.
fn nodes(a: &[&str], b: &[&str], shards: u16) -> Net {
    let mut net = Net::new();
    for (epoch, nids) in [(100, a), (200, b)] {
        for me in 0..shards {
            net.add(Config { shards: Shards::new(me, shards).unwrap(), ..config(nids, epoch) });
        }
    }
    let b = usize::from(shards);
    net.op(b, AT.attach(1, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20)))));
    net.run(SEC / 100);
    net.take_events(b);
    net
}

fn put(tag: u64, to: &str, len: usize) -> Op {
    AT.put(tag, ProcessId::lustre(nid(to)), Payload::copy_of(&bytes(len, tag)).unwrap(), true)
}

/// The answer of `to` to a ping of a node's.
fn ping(net: &mut Net, node: usize, to: &str) -> Result<PingInfo, String> {
    net.op(node, Op::Ping { tag: 77, target: ProcessId::lustre(nid(to)) });
    net.run(10 * SEC);
    // It may be the home of the peer that tells.
    let all = (0..net.nodes.len()).flat_map(|n| net.take_events(n)).collect::<Vec<_>>();
    let end = all.into_iter().find_map(|e| match e {
        Event::Ping { tag: 77, info, .. } => Some(info.map_err(|e| e.to_string())),
        Event::Refused { tag: 77, why } => Some(Err(why.to_string())),
        _ => None,
    });
    end.expect("the ping has ended")
}

/// Ends of a node's PUTs since the last look.
fn ended(net: &mut Net, nodes: std::ops::Range<usize>) -> Vec<(u64, Result<(), LnetError>)> {
    let all = nodes.flat_map(|n| net.take_events(n));
    let mut all: Vec<_> = all
        .filter_map(|e| match e {
            Event::Send { tag, status, done: true } | Event::Ack { tag, status, done: true, .. } => {
                Some((tag, status))
            }
            _ => None,
        })
        .collect();
    all.sort_by_key(|e| e.0);
    all
}

fn nids(info: &PingInfo) -> String {
    info.nids().map(|n| n.to_string()).collect::<Vec<_>>().join(" ")
}

/// NIDs of a node's NIs, as they are shown.
fn own(net: &Net, node: usize) -> String {
    let mut all = Vec::new();
    net.nodes[node].machine.nis(&mut |f| all.push(f.nid.to_string()));
    all.join(" ")
}

#[test]
fn an_ni_that_is_added_is_reached_and_told_of_and_one_that_is_deleted_is_not() {
    for shards in [1u16, 3] {
        let n = usize::from(shards);
        let mut net = nodes(&["10.0.0.1@tcp"], &["10.0.0.2@tcp", "10.1.0.2@tcp1"], shards);
        net.op(0, put(1, "10.0.0.2@tcp", 100_000));
        net.run(5 * SEC);
        assert_eq!(ended(&mut net, 0..n), [(1, Ok(()))]);
        let (before, refused) =
            (ping(&mut net, n, "10.0.0.1@tcp").unwrap(), ping(&mut net, n, "10.1.0.1@tcp1"));
        assert_eq!((before.sequence, &*nids(&before)), (2, "10.0.0.1@tcp"));
        assert!(refused.is_err(), "{refused:?}");

        let pushed = net.nodes[n..2 * n].iter().map(|x| x.machine.counters().pushes_taken).sum::<u64>();
        net.add_ni(0..n, nid("10.1.0.1@tcp1")).unwrap();
        net.run(2 * SEC);
        let now = net.nodes[n..2 * n].iter().map(|x| x.machine.counters().pushes_taken).sum::<u64>();
        assert_eq!(now, pushed + 1, "the peer is told once, unasked");
        let info = ping(&mut net, n, "10.1.0.1@tcp1").unwrap();
        assert_eq!((info.sequence, &*nids(&info)), (3, "10.0.0.1@tcp 10.1.0.1@tcp1"));
        // Of two rails both are used.
        for tag in 10..14 {
            net.op(0, put(tag, "10.0.0.2@tcp", 100_000));
        }
        net.run(5 * SEC);
        assert_eq!(ended(&mut net, 0..n), (10..14).map(|t| (t, Ok(()))).collect::<Vec<_>>());
        let sent = |net: &Net, of: &str| {
            let mut sent = 0;
            for x in &net.nodes[..n] {
                x.machine.nis(&mut |f| sent += if f.nid == nid(of) { f.moved.sent.put } else { 0 });
            }
            sent
        };
        assert!(sent(&net, "10.1.0.1@tcp1") >= 2, "{}", sent(&net, "10.1.0.1@tcp1"));

        let all = |net: &Net| {
            let mut sent = 0;
            for x in &net.nodes[..n] {
                x.machine.nis(&mut |f| sent += f.moved.sent.all());
                sent += x.machine.gone_nis().moved.sent.all();
            }
            sent
        };
        let by_first = sent(&net, "10.0.0.1@tcp");
        let before = all(&net);
        assert!(by_first > 0 && before > by_first);

        // The primary one goes: the other one is it now, to whoever asks.
        net.del_ni(0..n, nid("10.0.0.1@tcp")).unwrap();
        net.run(2 * SEC);
        (0..n).for_each(|x| net.let_nis_go(x));
        let info = ping(&mut net, n, "10.1.0.1@tcp1").unwrap();
        assert_eq!((info.sequence, &*nids(&info)), (4, "10.1.0.1@tcp1"));
        assert_eq!(own(&net, 0), "10.1.0.1@tcp1 0@lo");
        // What is asked for by the NID that the peer is known by goes by the NI that is left.
        net.op(0, put(20, "10.0.0.2@tcp", 100_000));
        net.run(5 * SEC);
        assert_eq!(ended(&mut net, 0..n), [(20, Ok(()))]);
        assert!(net.nodes[..n].iter().all(|x| x.machine.places_of_nis()[0].0 == NiStage::Free));
        // Messages of an NI that is deleted are counted on, and where another has its place.
        let after = all(&net);
        assert!(after > before, "{before} {after}");
        net.add_ni(0..n, nid("10.0.0.3@tcp")).unwrap();
        assert!(all(&net) >= after);
    }
}

#[test]
fn an_only_ni_has_a_link_too() {
    let mut net = nodes(&["10.0.0.1@tcp"], &["10.0.0.2@tcp"], 1);
    assert_eq!(ping(&mut net, 1, "10.0.0.1@tcp").unwrap().sequence, 2);
    let fatal = |net: &Net| {
        let mut fatal = false;
        net.nodes[0].machine.nis(&mut |f| fatal |= f.health.fatal);
        fatal
    };
    let ip = nid("10.0.0.1@tcp").ip().unwrap();
    net.link_state(0, ip, false);
    net.run(SEC);
    assert!(fatal(&net));
    // It is the only way.
    assert!(ping(&mut net, 0, "10.0.0.2@tcp").is_ok());
    net.link_state(0, ip, true);
    net.run(SEC);
    assert!(!fatal(&net));
    assert_eq!(ping(&mut net, 1, "10.0.0.1@tcp").unwrap().sequence, 4);
}

#[test]
fn the_last_one_may_go_and_come_back() {
    let mut net = nodes(&["10.0.0.1@tcp"], &["10.0.0.2@tcp"], 2);
    assert!(ping(&mut net, 0, "10.0.0.2@tcp").is_ok());
    net.op(0, AT.attach(5, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 10)))));
    net.del_ni(0..2, nid("10.0.0.1@tcp")).unwrap();
    net.run(SEC);
    assert!(ping(&mut net, 0, "10.0.0.2@tcp").unwrap_err().contains("no NI of this node leads"));
    assert!(ping(&mut net, 2, "10.0.0.1@tcp").is_err());
    let own = ping(&mut net, 0, "0@lo").unwrap();
    assert_eq!((own.sequence, &*nids(&own)), (3, ""));
    net.add_ni(0..2, nid("10.0.0.1@tcp")).unwrap();
    net.run(70 * SEC);
    assert_eq!(ping(&mut net, 2, "10.0.0.1@tcp").unwrap().sequence, 4);
    assert!(ping(&mut net, 0, "10.0.0.2@tcp").is_ok());
    // Match entries are the node's, and have stayed.
    assert_eq!(net.nodes[..2].iter().map(|x| x.machine.gauges().entries).sum::<usize>(), 1);
}

#[test]
fn what_waits_goes_by_another_rail_or_ends_with_the_reason() {
    let mut net = nodes(&["10.0.0.1@tcp", "10.1.0.1@tcp1"], &["10.0.0.2@tcp", "10.1.0.2@tcp1"], 1);
    net.op(0, put(1, "10.0.0.2@tcp", 64));
    net.run(5 * SEC);
    ended(&mut net, 0..1);
    // More than there are credits for, by both rails.
    let all = 10..60;
    for tag in all.clone() {
        net.op(0, put(tag, "10.0.0.2@tcp", 200_000));
    }
    net.op(0, Op::Ping { tag: 90, target: ProcessId::lustre(nid("10.0.0.2@tcp")) });
    net.del_ni(0..1, nid("10.1.0.1@tcp1")).unwrap();
    net.run(200 * SEC);
    let ends = ended(&mut net, 0..1);
    assert_eq!(ends.iter().map(|e| e.0).collect::<Vec<_>>(), all.collect::<Vec<_>>());
    let lost = ends.iter().filter(|e| e.1.is_err()).count();
    assert!(ends.iter().all(|e| matches!(e.1, Ok(()) | Err(LnetError::NoNi))), "{ends:?}");
    assert!(lost <= 8, "no more than had credits by that rail: {lost}");
    assert!(net.nodes[0].machine.counters().resend_count > 0);
    net.let_nis_go(0);
    let g = net.nodes[0].machine.gauges();
    assert_eq!((g.lends, g.cookies, g.credits_used, g.ops, g.queued), (0, 0, 0, 0, 0));
    // Without another rail all ends at once.
    net.op(0, put(100, "10.0.0.2@tcp", 900_000));
    net.op(0, Op::Ping { tag: 101, target: ProcessId::lustre(nid("10.0.0.2@tcp")) });
    net.del_ni(0..1, nid("10.0.0.1@tcp")).unwrap();
    net.run(SEC);
    let events = net.take_events(0);
    let put = events.iter().any(|e| {
        matches!(e, Event::Send { tag: 100, status: Err(LnetError::NoNi), done: true })
            || matches!(e, Event::Ack { tag: 100, status: Err(LnetError::NoNi), done: true, .. })
    });
    let ping = events.iter().any(|e| matches!(e, Event::Ping { tag: 101, info: Err(LnetError::NoNi), .. }));
    assert!(put && ping, "{events:?}");
}

/// A peer of one NID has another pair, too, where another NI leads to it.
#[test]
fn what_waits_for_a_peer_of_one_nid_goes_by_another_ni_of_its_network() {
    let a = ["10.0.0.1@tcp", "10.0.0.3@tcp"];
    for (shards, known) in [(1u16, false), (1, true), (2, true)] {
        let n = usize::from(shards);
        let mut net = nodes(&a, &["10.0.0.2@tcp"], shards);
        if known {
            net.op(0, put(1, "10.0.0.2@tcp", 64));
            net.run(5 * SEC);
            ended(&mut net, 0..n);
        }
        // More than there are credits for.
        for tag in 10..60 {
            net.op(0, put(tag, "10.0.0.2@tcp", 200_000));
        }
        net.op(0, Op::Ping { tag: 90, target: ProcessId::lustre(nid("10.0.0.2@tcp")) });
        net.run(net.latency / 2);
        // That which it goes by.
        let mut by = Vec::new();
        net.nodes[..n].iter().for_each(|x| x.machine.nis(&mut |f| by.push((f.credits_used, f.nid))));
        let by = by.iter().max().unwrap().1;
        net.del_ni(0..n, by).unwrap();
        net.run(200 * SEC);
        let ends = ended(&mut net, 0..n);
        assert_eq!(ends.iter().map(|e| e.0).collect::<Vec<_>>(), (10..60).collect::<Vec<_>>());
        let lost = ends.iter().filter(|e| e.1.is_err()).count();
        assert!(lost <= 8, "no more than had credits by that NI: {lost} of {ends:?}");
        assert!(net.nodes[..n].iter().any(|x| x.machine.counters().resend_count > 0));
        (0..n).for_each(|x| net.let_nis_go(x));
        let left: usize = net.nodes[..n].iter().map(|x| x.machine.gauges()).map(|g| g.ops + g.queued).sum();
        assert_eq!(left, 0);
        // By the last one nothing is left.
        net.op(0, put(100, "10.0.0.2@tcp", 900_000));
        let last = a.iter().find(|x| nid(x) != by).unwrap();
        net.del_ni(0..n, nid(last)).unwrap();
        net.run(SEC);
        assert_eq!(ended(&mut net, 0..n), [(100, Err(LnetError::NoNi))]);
    }
}

/// Two NIs on one address: one goes, and connections of the other one do not notice.
#[test]
fn an_address_that_two_have_stays_with_the_other() {
    let (a, b) = (["10.0.0.1@tcp", "10.0.0.1@tcp1"], ["10.0.0.2@tcp", "10.0.0.2@tcp1"]);
    let mut net = nodes(&a, &b, 2);
    for to in b {
        assert!(ping(&mut net, 0, to).is_ok());
    }
    // A dial of the peer's that has not said whom it wants.
    net.op(2, put(1, a[1], 10));
    net.run(net.latency * 3 / 2);
    net.del_ni(0..2, nid(a[0])).unwrap();
    net.run(5 * SEC);
    let (sets, links) = (net.nodes[3].machine.counters().sets_closed, net.links());
    for tag in 10..20 {
        net.op(0, put(tag, b[1], 50_000));
        net.run(SEC);
    }
    assert_eq!(ended(&mut net, 0..2).len(), 10);
    assert_eq!((net.nodes[3].machine.counters().sets_closed, net.links()), (sets, links));
    // It comes back on the address.
    net.add_ni(0..2, nid(a[0])).unwrap();
    net.run(5 * SEC);
    assert!(ping(&mut net, 2, a[0]).is_ok());
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let mut net = nodes(&["10.0.0.1@tcp"], &["10.0.0.2@tcp"], 1);
    let mut add = |s: &str| net.add_ni(0..1, nid(s)).map_err(|e| (e.errno(), e.to_string()));
    for (bad, errno, says) in [
        ("10.0.0.1@tcp", 17, "10.0.0.1@tcp is an NI of this node already"),
        ("224.0.0.1@tcp1", 22, "a multicast address"),
        ("10.0.0.9@o2ib", 22, "no IP address"),
    ] {
        let (number, e) = add(bad).unwrap_err();
        assert_eq!(number, errno, "{e}");
        assert!(e.contains(says), "{e}");
    }
    for n in 1..NIS_MAX {
        add(&format!("10.0.0.1@tcp{n}")).unwrap();
    }
    assert!(add("10.0.0.1@tcp99").is_err());
    assert_eq!(net.del_ni(0..1, nid("10.0.0.7@tcp")), Err(NiError::Unknown(nid("10.0.0.7@tcp"))));
    // An own network that a route leads to.
    net.del_ni(0..1, nid("10.0.0.1@tcp7")).unwrap();
    net.run(SEC);
    let now = net.now;
    let route = RouteAsk::Add("tcp7 10.0.0.2@tcp".parse().unwrap());
    net.nodes[0].machine.route(now, route).unwrap();
    let e = net.add_ni(0..1, nid("10.0.0.1@tcp7")).unwrap_err();
    assert!(e.errno() == 87 && e.to_string().contains("a route leads to tcp7"), "{e}");
}

/// As kernels do with the last NI of a network.
#[test]
fn routes_go_with_the_network_of_their_gateway() {
    let a = ["10.0.0.1@tcp", "10.1.0.1@tcp1", "10.1.0.3@tcp1"];
    let mut net = nodes(&a, &["10.0.0.2@tcp", "10.1.0.2@tcp1"], 1);
    let now = net.now;
    for r in ["tcp7 10.0.0.2@tcp", "tcp8 10.1.0.2@tcp1"] {
        net.nodes[0].machine.route(now, RouteAsk::Add(r.parse().unwrap())).unwrap();
    }
    let routes = |net: &Net| net.nodes[0].machine.routes().map(|r| r.gateway.to_string()).collect::<Vec<_>>();
    net.del_ni(0..1, nid(a[1])).unwrap();
    assert_eq!(routes(&net), ["10.0.0.2@tcp", "10.1.0.2@tcp1"], "another NI leads there");
    net.del_ni(0..1, nid(a[2])).unwrap();
    assert_eq!(routes(&net), ["10.0.0.2@tcp"]);
    net.run(200 * SEC);
}

#[test]
fn a_thousand_times_and_nothing_grows() {
    for shards in [1u16, 2] {
        let n = usize::from(shards);
        let mut net = nodes(&["10.0.0.1@tcp"], &["10.0.0.2@tcp", "10.1.0.2@tcp1"], shards);
        net.op(0, put(1, "10.0.0.2@tcp", 64));
        net.run(5 * SEC);
        ended(&mut net, 0..n);
        let held = |net: &Net| {
            let of = |x: usize| {
                let m = &net.nodes[x].machine;
                let g = m.gauges();
                assert_eq!(m.held_recounted(), m.held().used, "charges are what there is");
                (m.places(), m.nids_kept(), g.peers, g.conns, g.ops, g.queued, m.held().used)
            };
            (0..2 * n).map(of).collect::<Vec<_>>()
        };
        let mut first = Vec::new();
        for round in 0..1000u64 {
            net.add_ni(0..n, nid("10.1.0.1@tcp1")).unwrap();
            // Others go on meanwhile.
            net.op(0, put(round << 8, "10.0.0.2@tcp", 3000));
            net.op(0, put(round << 8 | 1, "10.1.0.2@tcp1", 20_000));
            net.run(SEC / 50);
            assert!(ended(&mut net, 0..n).iter().all(|e| e.1 == Ok(())), "round {round}");
            net.del_ni(0..n, nid("10.1.0.1@tcp1")).unwrap();
            net.run(SEC / 50);
            (0..2 * n).for_each(|x| {
                net.let_nis_go(x);
                net.take_events(x);
            });
            if round == 20 {
                first = held(&net);
            }
        }
        assert_eq!(held(&net), first);
        let found = ping(&mut net, n, "10.0.0.1@tcp").unwrap();
        assert_eq!(found.sequence, 2 + 2000);
        assert!(
            net.nodes[..n]
                .iter()
                .all(|x| x.machine.places_of_nis()[2..].iter().all(|p| p.0 == NiStage::Free))
        );
    }
}

/// A bucket that moves between the two shards' orders, to the one that has deleted the NI already.
#[test]
fn a_home_that_moves_meanwhile_leaves_nothing_behind() {
    let mut net = nodes(&["10.0.0.1@tcp", "10.1.0.1@tcp1"], &["10.0.0.2@tcp", "10.1.0.2@tcp1"], 2);
    let to = nid("10.1.0.2@tcp1");
    let ip = to.ip().unwrap();
    for (round, started) in [(0, false), (1, true)] {
        net.op(0, put(1, "10.0.0.2@tcp", 64));
        net.op(0, put(2, "10.1.0.2@tcp1", 64));
        net.run(5 * SEC);
        ended(&mut net, 0..2);
        let home = net.home(0, ip);
        let other = 1 - home;
        // With messages on their way, or without.
        let n = if started { 20 } else { 0 };
        for tag in 10..10 + n {
            net.op(home, put(tag, "10.1.0.2@tcp1", 100_000));
        }
        let now = net.now;
        let place =
            net.nodes[0].machine.places_of_nis().iter().position(|p| p.1 == Some(nid("10.1.0.1@tcp1")));
        let place = place.unwrap() as u8;
        net.nodes[other].machine.close_ni(now, place).unwrap();
        net.let_nis_go(other);
        assert!(net.move_home(home, Bucket::of(ip), ShardId(other as u16)), "round {round}");
        net.nodes[home].machine.close_ni(now, place).unwrap();
        net.let_nis_go(home);
        net.run(200 * SEC);
        assert_eq!(ended(&mut net, 0..2).len(), n as usize, "round {round}");
        for x in 0..2 {
            net.let_nis_go(x);
            let g = net.nodes[x].machine.gauges();
            assert_eq!(
                (g.lends, g.cookies, g.credits_used, g.ops, g.queued),
                (0, 0, 0, 0, 0),
                "round {round}"
            );
        }
        net.add_ni(0..2, nid("10.1.0.1@tcp1")).unwrap();
        net.run(5 * SEC);
        assert!(ping(&mut net, 2, "10.1.0.1@tcp1").is_ok());
    }
}

/// An operation that another shard has given an NI which is deleted meanwhile is not lost.
#[test]
fn an_operation_on_its_way_to_its_home_finds_another_ni_or_is_refused() {
    let mut net = nodes(&["10.0.0.1@tcp", "10.0.0.3@tcp"], &["10.0.0.2@tcp"], 2);
    net.op(0, put(1, "10.0.0.2@tcp", 64));
    net.op(1, put(2, "10.0.0.2@tcp", 64));
    net.run(5 * SEC);
    assert_eq!(ended(&mut net, 0..2).len(), 2);
    for tag in 10..30 {
        // One of the two is not its home.
        net.op(0, put(tag, "10.0.0.2@tcp", 64));
        net.op(1, put(100 + tag, "10.0.0.2@tcp", 64));
        net.del_ni(0..2, nid("10.0.0.1@tcp")).unwrap();
        net.run(5 * SEC);
        let ends = ended(&mut net, 0..2);
        assert_eq!(ends.len(), 2, "{ends:?}");
        assert!(ends.iter().all(|e| matches!(e.1, Ok(()) | Err(LnetError::NoNi))), "{ends:?}");
        (0..2).for_each(|x| net.let_nis_go(x));
        net.add_ni(0..2, nid("10.0.0.1@tcp")).unwrap();
        net.run(5 * SEC);
    }
    net.del_ni(0..2, nid("10.0.0.1@tcp")).unwrap();
    net.op(0, put(7, "10.0.0.2@tcp", 64));
    net.op(1, put(8, "10.0.0.2@tcp", 64));
    net.del_ni(0..2, nid("10.0.0.3@tcp")).unwrap();
    net.run(5 * SEC);
    let mut ends = 0;
    for e in (0..2).flat_map(|x| net.take_events(x)) {
        match e {
            Event::Refused { why: OpRefused::Target(_), .. } => ends += 1,
            Event::Send { status: Err(LnetError::NoNi), done: true, .. } => ends += 1,
            Event::Ack { status: Err(LnetError::NoNi), done: true, .. } => ends += 1,
            _ => {}
        }
    }
    assert_eq!(ends, 2);
}

/// An entry for `0@lo` is for this node by whichever NIDs it has, also by none.
#[test]
fn an_entry_for_lo_outlives_the_primary_ni() {
    let (first, second) = ("10.0.0.1@tcp", "10.1.0.1@tcp1");
    let mut net = nodes(&[first, second], &["10.0.0.2@tcp"], 1);
    let md = MdSpec { threshold: None, ..MdSpec::new(MdMem::Sink(Sink::Lend(1 << 10))) };
    let who = ProcessId::lustre(Nid::LO);
    net.op(0, Op::Attach { tag: 9, portal: 7, who, match_bits: 3, ignore_bits: 0, md });
    let arrives = |net: &mut Net, from: usize, tag, to: &str| {
        net.op(from, put(tag, to, 8));
        net.run(SEC);
        net.take_events(0).iter().any(|e| matches!(e, Event::Put(p) if p.hdr_data == tag))
    };
    assert!([first, second, "0@lo"].iter().zip(1..).all(|(to, tag)| arrives(&mut net, 0, tag, to)));
    assert!(!arrives(&mut net, 1, 9, first), "another node's");
    net.del_ni(0..1, nid(first)).unwrap();
    assert!([second, "0@lo"].iter().zip(11..).all(|(to, tag)| arrives(&mut net, 0, tag, to)));
    net.add_ni(0..1, nid("10.0.0.3@tcp")).unwrap();
    assert!(arrives(&mut net, 0, 21, "10.0.0.3@tcp") && !arrives(&mut net, 1, 22, "10.0.0.3@tcp"));
    for gone in [second, "10.0.0.3@tcp"] {
        net.del_ni(0..1, nid(gone)).unwrap();
    }
    assert!(arrives(&mut net, 0, 31, "0@lo"));
}

/// Our last NI goes and comes back while PUTs are under way: both know the other as before, also where a node's NIDs share an address.
#[test]
fn a_peer_is_asked_and_told_again_when_our_last_ni_has_come_back() {
    let (first, apart) = ("10.0.0.1@tcp1", "10.2.0.1@tcp2");
    for b in [["10.0.0.2@tcp1", "10.0.0.2@tcp2"], ["10.0.0.2@tcp1", "10.2.0.2@tcp2"]] {
        for second in ["10.0.0.1@tcp2", apart] {
            for (shards, pause) in [(1u16, 0), (1, SEC), (3, 0), (3, SEC)] {
                let what = format!("{b:?} {second} {shards} {pause}");
                let n = usize::from(shards);
                let mut net = nodes(&[first], &b, shards);
                let mut tag = 100;
                let mut traffic = |net: &mut Net| {
                    for node in 0..n {
                        for to in b {
                            tag += 1;
                            net.op(node, put(tag, to, 100_000));
                        }
                    }
                };
                let known = |net: &Net, nodes: std::ops::Range<usize>, by: &str| {
                    let of = |x: usize| {
                        let mut all = net.nodes[x].machine.nids_of(nid(by));
                        all.sort();
                        all
                    };
                    assert!(nodes.clone().all(|x| of(x) == of(nodes.start)), "{what}");
                    of(nodes.start)
                };
                traffic(&mut net);
                net.run(2 * SEC);
                net.add_ni(0..n, nid(second)).unwrap();
                traffic(&mut net);
                net.run(SEC);
                for gone in [first, second] {
                    traffic(&mut net);
                    net.del_ni(0..n, nid(gone)).unwrap();
                    net.run(pause);
                }
                net.run(SEC / 2);
                (0..n).for_each(|x| net.let_nis_go(x));
                net.add_ni(0..n, nid(first)).unwrap();
                net.run(2 * SEC);
                ended(&mut net, 0..n);
                net.op(0, put(1, b[0], 100));
                net.run(5 * SEC);
                assert_eq!(ended(&mut net, 0..n), [(1, Ok(()))], "{what}");
                let mut features = 0;
                for x in &net.nodes[..n] {
                    x.machine.peer_figures(0, usize::MAX / 2, &mut |f| features |= f.features);
                }
                assert_ne!(features & transport::wire::ping::FEAT_MULTI_RAIL, 0, "not asked: {what}");
                assert_eq!(known(&net, 0..n, b[0]), b.map(nid), "{what}");
                // It has been told of us, too, and hears of what changes.
                net.add_ni(0..n, nid(second)).unwrap();
                net.run(2 * SEC);
                assert_eq!(known(&net, n..2 * n, first), [nid(first), nid(second)], "{what}");
            }
        }
    }
}
