//! Users of routers: routes, gateways, nodes behind them (docs/protocol/upper.md §1, docs/protocol/lnet.md §8), beside model routers.

use transport::lnd::{ByType, Config, LnetError, Route};
use transport::lnet::figures::Dropped;
use transport::lnet::routes::RouteAsk;
use transport::lnet::{Event, Op};
use transport::node::Input;
use transport::socklnd::Contact;
use transport::stream::{Bucket, ShardId};
use transport::testing::kernel::router::{FORWARDS, Router, STARTING};
use transport::testing::net::SEC;
use transport::wire::{LnetBody, LnetHdr, Nid, ProcessId, Version, ping};

use crate::routed::*;

#[test]
fn puts_gets_and_pings_go_by_the_gateway() {
    const LONG: [&str; 2] = ["fd00::11@tcp", "fd01::11@tcp1"];
    for shards in [1, 2, 4] {
        for by in [&[R1][..], &[R1, R2], &[LONG]] {
            let is_long = by == [LONG];
            let (mut w, ends) = if is_long {
                let ends = ["fd00::1@tcp", "fd01::1@tcp1"];
                let c = config(ends[0], &["tcp1 fd00::11@tcp"]);
                let s = config(ends[1], &["tcp fd01::11@tcp1"]);
                let mut w = World::new(&[(c, shards), (s, shards)]);
                w.router(&LONG);
                (w, ends)
            } else {
                (World::pair(by, shards), [CLIENT, SERVER])
            };
            assert_eq!(w.states(0), vec!["down multi"; by.len()].join(", "));
            w.run(SEC);
            assert_eq!(w.states(0), vec!["up"; by.len()].join(", "), "{shards} {by:?}");
            (0..2).for_each(|n| w.attach(n));
            all_ways(&mut w, 0, 1, ends[1]);
            all_ways(&mut w, 1, 0, ends[0]);
            w.at_rest();
            // The peers of each are routers alone, and nothing else was ever dialled.
            let routers: Vec<Nid> = by.iter().flatten().map(|n| nid(n)).collect();
            for at in 0..w.net.nodes.len() {
                w.net.nodes[at].machine.peers(&mut |p| assert!(routers.contains(&p.id.nid), "{p:?}"));
            }
            let by_us = |l: &usize| !routers.iter().any(|r| r.ip() == Some(w.net.addresses(*l)[0].ip()));
            for link in (0..w.net.links()).filter(by_us) {
                let to = w.net.addresses(link)[1].ip();
                assert!(routers.iter().any(|r| r.ip() == Some(to)), "{to}");
            }
            assert_eq!(w.count(0, |c| c.drop_no_way_back + c.drop_stale_handle + c.err_dest_nid), 0);
        }
    }
}

/// A node with a long NID and one without do not come together by a router that knows one of them in version 3.
#[test]
fn a_long_nid_needs_links_that_can_name_it() {
    let mut w = World::new(&[(config(CLIENT, &["tcp1 10.0.0.11@tcp"]), 1)]);
    w.router(&R1);
    w.run(SEC);
    let e = pinged(&mut w, 0, "fd01::1@tcp1").unwrap_err();
    assert!(e.contains("by gateways on IPv4") && e.contains("protocol=4"), "{e}");
    assert!(w.states(0) == "up" && w.routers.list[0].dropped == 0);
    w.at_rest();
}

/// A node with a long NID and one without reach each other over hops of version 4, each by the NID that the router has beside it.
#[test]
fn a_long_nid_is_told_over_ipv4_in_version_4() {
    for shards in [1, 4] {
        let ends = ["fd00::1@tcp", SERVER];
        let v4 = |nid, routes: &[&str]| Config { version: Some(Version::V4), ..config(nid, routes) };
        let c = v4(ends[0], &["tcp1 fd00::11@tcp"]);
        let s = v4(ends[1], &["tcp 10.1.0.11@tcp1"]);
        let mut w = World::new(&[(c, shards), (s, shards)]);
        w.router(&["fd00::11@tcp", R1[1]]);
        w.run(SEC);
        (0..2).for_each(|n| w.attach(n));
        all_ways(&mut w, 0, 1, ends[1]);
        all_ways(&mut w, 1, 0, ends[0]);
        w.at_rest();
        assert_eq!(w.count(0, |c| c.drop_no_way_back) + w.count(1, |c| c.drop_no_way_back), 0, "{shards}");
    }
}

/// A route is down before its gateway has answered, while that does not forward, and while its NI on the network is down; with the
/// answer, or with a push, it changes in all shards.
#[test]
fn a_route_follows_the_word_of_its_gateway() {
    for shards in [1, 4] {
        let mut w = World::pair(&[R1], shards);
        w.routers.list[0].features = STARTING;
        assert_eq!((w.states(0).as_str(), w.states(1).as_str()), ("down multi", "down multi"));
        w.run(SEC);
        assert_eq!(w.states(0), "down", "it has answered, is on the network, and does not forward");
        let links = w.net.links();
        let e = pinged(&mut w, 0, SERVER).unwrap_err();
        assert!(e.contains("no route to 10.1.0.1@tcp1 is up"), "{e}");
        assert_eq!((w.net.links(), w.routers.list[0].dropped), (links, 0), "nothing was sent");
        // It begins to forward, and says so unasked.
        w.routers.list[0].features = FORWARDS;
        w.routers.push(&mut w.net, 0);
        w.run(SEC / 100);
        assert_eq!((w.states(0).as_str(), w.states(1).as_str()), ("up", "up"));
        assert_eq!(pinged(&mut w, 0, SERVER), Ok(()));
        // Its NI on either network is down: both ends hear of it.
        for (down, states) in [(R1[1], ["down", "down"]), (R1[0], ["down", "down"])] {
            w.routers.list[0].down.insert(nid(down));
            w.routers.push(&mut w.net, 0);
            w.run(SEC / 100);
            assert_eq!([w.states(0), w.states(1)], states, "{down}");
            w.routers.list[0].down.clear();
            w.routers.push(&mut w.net, 0);
            w.run(SEC / 100);
            assert_eq!([w.states(0), w.states(1)], ["up", "up"]);
        }
        w.at_rest();
        let checks = w.count(0, |c| c.router_checks);
        assert_eq!(checks, 1, "by one shard, once");
    }
}

/// Without `avoid_asym_router_failure` an NI of the gateway's on the other network does not matter, and of a gateway that is not
/// there nothing is known; with one hop told it has to be there.
#[test]
fn an_ni_beyond_the_gateway_matters_where_it_is_the_last() {
    for (route, avoid, on_net, up) in [
        ("tcp1 10.0.0.11@tcp", true, true, false),
        ("tcp1 10.0.0.11@tcp", false, true, true),
        ("tcp1 10.0.0.11@tcp 2", true, true, false),
        ("tcp1 10.0.0.11@tcp", true, false, true),
        ("tcp1 10.0.0.11@tcp 1", true, false, false),
        ("tcp1 10.0.0.11@tcp 1", false, false, true),
        ("tcp1 10.0.0.11@tcp 2", true, false, true),
    ] {
        let mut cfg = config(CLIENT, &[route]);
        cfg.avoid_asym_router_failure = avoid;
        let mut w = World::new(&[(cfg, 1)]);
        let second = if on_net { "10.1.0.11@tcp1" } else { "10.1.0.11@tcp9" };
        w.router(&["10.0.0.11@tcp", second]);
        w.routers.list[0].down.insert(nid(second));
        w.run(SEC);
        // A hop of 1 that was given makes no single hop of it, as with kernels (testdata/texts/lnetctl/route-show-v.yaml).
        let want = format!("{}{}", if up { "up" } else { "down" }, if on_net { "" } else { " multi" });
        assert_eq!(w.states(0), want, "{route} {avoid} {on_net}");
        // A tunable holds at once.
        w.tune(0, "avoid_asym_router_failure", "0");
        assert!(w.states(0).starts_with("up"), "{route} {avoid} {on_net}");
    }
}

/// Every interval a ping and a push, by one shard, whether there is traffic or not, wherever the gateway's home is.
#[test]
fn gateways_are_checked_for_ever() {
    for shards in [1, 4] {
        let mut w = World::pair(&[R1], shards);
        w.run(SEC);
        let bucket = Bucket::of(nid(R1[0]).ip().unwrap());
        let gaps = |times: &[(u64, Nid)], of: &str| {
            let at: Vec<u64> = times.iter().filter(|t| t.1 == nid(of)).map(|t| t.0).collect();
            at.windows(2).map(|w| (w[1] - w[0]) / SEC).collect::<Vec<_>>()
        };
        for round in 0..4 {
            w.run(150 * SEC);
            assert_eq!(w.states(0), "up");
            if shards > 1 {
                // Between two checks, and again while one is under way.
                let home = w.net.home(0, nid(R1[0]).ip().unwrap());
                let to = ShardId(((home + 1) % 4) as u16);
                assert!(w.net.move_home(home, bucket, to), "{round}");
            }
        }
        let r = &w.routers.list[0];
        for times in [&r.pings, &r.pushes] {
            let gaps = gaps(times, CLIENT);
            assert!(gaps.len() >= 9 && gaps.iter().all(|g| (59..=61).contains(g)), "{gaps:?}");
        }
        assert_eq!(w.count(0, |c| c.router_checks_failed), 0);
        w.at_rest();
    }
}

/// A check that is under way when its gateway's home moves begins again there.
#[test]
fn a_check_that_is_under_way_moves_with_its_home() {
    let mut w = World::pair(&[R1], 2);
    w.run(SEC);
    let home = w.net.home(0, nid(R1[0]).ip().unwrap());
    w.routers.list[0].mute = true;
    w.run(61 * SEC);
    assert_eq!((w.states(0).as_str(), w.count(0, |c| c.router_checks)), ("up", 2));
    w.routers.list[0].mute = false;
    assert!(w.net.move_home(home, Bucket::of(nid(R1[0]).ip().unwrap()), ShardId(1 - home as u16)));
    w.run(SEC);
    assert_eq!(w.count(0, |c| c.router_checks), 3);
    // The first one's time-out is nobody's business any more.
    w.run(58 * SEC);
    assert_eq!((w.states(0).as_str(), w.count(0, |c| c.router_checks_failed)), ("up", 0));
    w.at_rest();
}

/// A gateway that is dead is noticed by its check; there is no more than one attempt to connect an interval; and when it is back so is
/// the route.
#[test]
fn a_gateway_dies_and_returns() {
    for refuses in [false, true] {
        let mut w = World::pair(&[R1], 1);
        for n in 0..2 {
            w.tune(n, "alive_router_check_interval", "15");
            w.tune(n, "router_ping_timeout", "10");
        }
        w.run(SEC);
        assert_eq!(pinged(&mut w, 0, SERVER), Ok(()));
        w.routers.kill(&mut w.net, 0);
        if refuses {
            w.net.raw_unlisten(nid(R1[0]).ip().unwrap());
        }
        let (died, mut lost) = (w.net.now, None);
        w.op(0, 0, ping_op(1, SERVER));
        while w.net.now < died + 160 * SEC {
            w.run(SEC);
            if lost.is_none() && w.states(0) == "down" {
                lost = Some((w.net.now - died) / SEC);
            }
        }
        // The check that comes next, and its time-out.
        assert!(lost.is_some_and(|s| (10..=75).contains(&s)), "{lost:?}");
        let ended = w.events(0);
        let [Event::Ping { tag: 1, info: Err(_), .. }] = ended[..] else { panic!("{ended:?}") };
        assert!(pinged(&mut w, 0, SERVER).unwrap_err().contains("no route"));
        let (links, failed) = (w.net.links(), w.count(0, |c| c.dials_failed));
        w.run(60 * SEC);
        let tried = (w.net.links() - links) as u64 + w.count(0, |c| c.dials_failed) - failed;
        assert!(tried <= 5, "{tried} attempts in four intervals");
        if refuses {
            w.net.raw_listen(nid(R1[0]).ip().unwrap());
        }
        let hops = w.hops(&R1);
        w.routers.restart(&mut w.net, 0, &hops);
        w.routers.list[0].features = STARTING;
        w.run(70 * SEC);
        assert_eq!(w.states(0), "down");
        w.routers.list[0].features = FORWARDS;
        w.run(20 * SEC);
        assert_eq!(w.states(0), "up");
        assert_eq!(pinged(&mut w, 0, SERVER), Ok(()));
        w.run(200 * SEC);
        w.at_rest();
    }
}

/// A gateway whose connections end is asked at once: one that refuses the next is passed over before the next check would have come,
/// and one that takes it stays.
#[test]
fn a_gateway_whose_connections_end_is_asked_at_once() {
    for shards in [1, 4] {
        for refuses in [false, true] {
            let mut w = World::pair(&[R1, R2], shards);
            w.run(5 * SEC);
            assert_eq!(pinged(&mut w, 0, SERVER), Ok(()));
            let ip = nid(R1[0]).ip().unwrap();
            let checks = w.count(0, |c| c.router_checks);
            if refuses {
                w.net.raw_unlisten(ip);
            }
            let of_it = |l: &usize| w.net.addresses(*l).iter().any(|a| a.ip() == ip);
            let links: Vec<usize> = (0..w.net.links()).filter(of_it).collect();
            links.into_iter().for_each(|l| w.net.raw_reset(l));
            w.run(SEC / 4);
            let asked = w.count(0, |c| c.router_checks) - checks;
            if refuses {
                assert_eq!((w.states(0).as_str(), asked), ("down, up", 1), "{shards}");
                let (by, other) = (w.routers.list[1].forwarded.len(), w.routers.list[0].forwarded.len());
                for _ in 0..8 {
                    assert_eq!(pinged(&mut w, 0, SERVER), Ok(()), "{shards}");
                }
                assert!(w.routers.list[1].forwarded.len() >= by + 8);
                assert_eq!(w.routers.list[0].forwarded.len(), other);
                // It is back after a while, and found before an interval has passed.
                w.run(5 * SEC);
                w.net.raw_listen(ip);
                let hops = w.hops(&R1);
                w.routers.restart(&mut w.net, 0, &hops);
                w.run(10 * SEC);
                assert_eq!(w.states(0), "up, up", "{shards}");
            } else {
                assert_eq!((w.states(0).as_str(), asked), ("up, up", 1), "{shards}");
            }
        }
    }
}

/// Two gateways take turns; one that is lost is passed over, and what has a lower priority is taken when nothing else is up.
#[test]
fn gateways_take_turns_and_stand_in_for_each_other() {
    let mut w = World::new(&[
        (config(CLIENT, &["tcp1 10.0.0.11@tcp", "tcp1 10.0.0.12@tcp", "tcp1 10.0.0.13@tcp 1 5"]), 1),
        (config(SERVER, &["tcp 10.1.0.11@tcp1", "tcp 10.1.0.12@tcp1", "tcp 10.1.0.13@tcp1"]), 1),
    ]);
    w.router(&R1);
    w.router(&R2);
    w.router(&["10.0.0.13@tcp", "10.1.0.13@tcp1"]);
    w.run(SEC);
    let turns = |w: &mut World| {
        let before: Vec<usize> = w.routers.list.iter().map(|r| r.forwarded.len()).collect();
        for _ in 0..6 {
            assert_eq!(pinged(w, 0, SERVER), Ok(()));
        }
        let pings = |(r, n): (&Router, usize)| {
            r.forwarded[n..].iter().filter(|h| matches!(h.body, LnetBody::Get { .. })).count()
        };
        w.routers.list.iter().zip(before).map(pings).collect::<Vec<_>>()
    };
    assert_eq!(turns(&mut w), [3, 3, 0]);
    // Answers went back by the gateway that brought the request.
    for r in &w.routers.list {
        let replies = r.forwarded.iter().filter(|h| matches!(h.body, LnetBody::Reply { .. })).count();
        assert_eq!(2 * replies, r.forwarded.len());
    }
    let set = |w: &mut World, r: usize, features| {
        w.routers.list[r].features = features;
        w.routers.push(&mut w.net, r);
        w.run(SEC / 10);
    };
    set(&mut w, 0, STARTING);
    assert_eq!(turns(&mut w), [0, 6, 0]);
    set(&mut w, 1, STARTING);
    assert_eq!(turns(&mut w), [0, 0, 6]);
    set(&mut w, 2, STARTING);
    assert!(pinged(&mut w, 0, SERVER).is_err());
    set(&mut w, 0, FORWARDS);
    assert_eq!(turns(&mut w), [6, 0, 0]);
    w.at_rest();
}

/// The request goes by one gateway, the answer comes by the other: over another connection, and with several shards mostly to
/// another shard than the operation's.
#[test]
fn answers_that_come_by_another_gateway_find_their_operation() {
    for shards in [1, 2, 4] {
        for moved in [false, true] {
            let by = ["10.0.0.11@tcp", "10.0.0.12@tcp", "10.0.0.13@tcp", "10.0.0.14@tcp"];
            // Homes of both gateways differ, for the sake of the test.
            let home = |w: &World, g: &str| w.net.home(0, nid(g).ip().unwrap());
            let probe = World::new(&[(config(CLIENT, &[]), shards)]);
            let other = by.iter().find(|g| shards == 1 || home(&probe, g) != home(&probe, by[0]));
            let Some(other) = other.filter(|o| **o != by[0] || shards == 1) else { panic!("{shards}") };
            let other = if *other == by[0] { by[1] } else { other };
            let far = |g: &str| g.replace("10.0.0", "10.1.0").replace("tcp", "tcp1");
            let mut w = World::new(&[
                (config(CLIENT, &[&format!("tcp1 {}", by[0])]), shards),
                (config(SERVER, &[&format!("tcp {}", far(other))]), shards),
            ]);
            w.router(&[by[0], &far(by[0])]);
            w.router(&[other, &far(other)]);
            w.run(SEC);
            (0..2).for_each(|n| w.attach(n));
            if moved && shards > 1 {
                // The operation's home is not the shard that begins it.
                let from = home(&w, by[0]);
                let to = ShardId((from as u16 + 1) % shards);
                assert!(w.net.move_home(from, Bucket::of(nid(by[0]).ip().unwrap()), to));
            }
            all_ways(&mut w, 0, 1, SERVER);
            all_ways(&mut w, 1, 0, CLIENT);
            // Two ways, each one direction.
            let seen = |r: usize| {
                let to = |n: &str| w.routers.list[r].forwarded.iter().any(|h| h.dest_nid == nid(n));
                (to(SERVER), to(CLIENT))
            };
            assert_eq!((seen(0), seen(1)), ((true, false), (false, true)));
            assert_eq!(w.count(0, |c| c.drop_stale_handle) + w.count(1, |c| c.drop_stale_handle), 0);
            w.at_rest();
        }
    }
}

/// A message from another network by a node that is no gateway to it is taken, as kernels take it, and answered by a route;
/// `lnet_drop_asym_route` drops it.
#[test]
fn messages_by_another_node_than_a_gateway() {
    for drops in [false, true] {
        let mut client = config(CLIENT, &["tcp1 10.0.0.12@tcp"]);
        client.drop_asym_route = drops;
        let mut w =
            World::new(&[(client, 1), (config(SERVER, &["tcp 10.1.0.11@tcp1", "tcp 10.1.0.12@tcp1"]), 1)]);
        w.router(&R1);
        w.router(&R2);
        w.run(SEC);
        // R1 brings the first, to whom the client has no route, and R2 the second.
        for by in [R1, R2] {
            let said = pinged(&mut w, 1, CLIENT);
            assert_eq!(said.is_ok(), by == R2 || !drops, "{drops} {by:?}: {said:?}");
            w.run(200 * SEC);
            w.events(1);
        }
        assert_eq!(w.count(0, |c| c.drop_asym_route), u64::from(drops));
        w.at_rest();
    }
}

/// A source that no route leads back to gets no answer, not by the connection that it came on either.
#[test]
fn there_is_no_way_back_without_a_route() {
    let mut w = World::new(&[(config(CLIENT, &[]), 1), (config(SERVER, &["tcp 10.1.0.11@tcp1"]), 1)]);
    w.router(&R1);
    w.run(SEC);
    w.op(1, 0, ping_op(1, CLIENT));
    w.run(200 * SEC);
    assert_eq!(w.count(0, |c| c.drop_no_way_back), 1);
    let ended = w.events(1);
    assert!(matches!(ended[..], [Event::Ping { info: Err(LnetError::TimedOut), .. }]), "{ended:?}");
    // With one that is down it is the same.
    let route: Route = "tcp1 10.0.0.11@tcp 1".parse().unwrap();
    w.routers.list[0].down.insert(nid(R1[1]));
    assert_eq!(w.route(0, RouteAsk::Add(route)), Ok(()));
    w.run(SEC);
    assert_eq!(w.states(0), "down");
    w.op(1, 0, ping_op(1, CLIENT));
    w.run(200 * SEC);
    assert_eq!(w.count(0, |c| c.drop_no_way_back), 2);
    // Both answers count at the NI, and at the router that had brought the pings.
    let (mut by_ni, mut by_peer) = (Dropped::default(), Dropped::default());
    w.net.nodes[0].machine.nis(&mut |f| by_ni += f.dropped);
    w.net.nodes[0].machine.peer_figures(0, 64, &mut |f| by_peer += f.dropped);
    assert_eq!(by_ni.messages, ByType { reply: 2, ..ByType::default() });
    assert_eq!(by_peer, by_ni);
    w.at_rest();
}

/// Nodes behind a router are asked who they are before the first message, by the gateway, and told of us; once.
#[test]
fn nodes_behind_a_router_are_discovered() {
    let mut w = World::pair(&[R1], 1);
    w.run(SEC);
    w.attach(1);
    for n in 0..3 {
        w.op(0, 0, put(n, SERVER, 64));
        w.run(SEC);
    }
    let seen = &w.routers.list[0].forwarded;
    let kind = |h: &LnetHdr| {
        let by = if h.src_nid == nid(CLIENT) { '>' } else { '<' };
        match h.body {
            LnetBody::Get { portal: ping::PORTAL, sink_length, .. } => format!("{by}ping {sink_length}"),
            LnetBody::Put { portal: ping::PORTAL, .. } => format!("{by}push"),
            LnetBody::Put { .. } => format!("{by}put"),
            LnetBody::Reply { .. } => format!("{by}reply"),
            LnetBody::Ack { .. } => format!("{by}ack"),
            LnetBody::Get { .. } => format!("{by}get"),
        }
    };
    let said: Vec<String> = seen.iter().map(kind).collect();
    assert_eq!(said[..2], [">ping 272", "<reply"]);
    let count = |s: &str| said.iter().filter(|x| *x == s).count();
    assert_eq!((count(">ping 272"), count(">push"), count(">put"), count("<ack")), (1, 1, 3, 4), "{said:?}");
    // It is shown beside the gateway, without connections and credits.
    let id = ProcessId::lustre(nid(SERVER));
    let m = &w.net.nodes[0].machine;
    let b = m.brief(id).unwrap();
    assert_eq!((b.contact, b.conns, b.credits_used, b.queued), (Contact::Routed, 0, 0, 0));
    let mut seen = Vec::new();
    let mut from = 0;
    while from < m.briefs(from, 1, &mut |b| seen.push(b.id.nid)) {
        from += 1;
    }
    assert_eq!(seen, [nid(R1[0]), nid(SERVER)]);
    // One that does not answer: what waits ends with the ping's error, and the next message asks again.
    w.net.kill(1, true);
    w.net.nodes[1].mute = true;
    w.op(0, 0, put(9, "10.1.0.77@tcp1", 64));
    w.run(200 * SEC);
    let ended = w.events(0);
    let last = ended.last().unwrap();
    assert!(matches!(last, Event::Send { tag: 9, status: Err(LnetError::TimedOut), done: true }), "{last:?}");
    w.net.assert_at_rest(0);
}

/// Orders while the node runs, and what they say.
#[test]
fn routes_come_and_go_while_a_node_runs() {
    for shards in [1, 2] {
        let mut w =
            World::new(&[(config(CLIENT, &[]), shards), (config(SERVER, &["tcp 10.1.0.11@tcp1"]), shards)]);
        w.router(&R1);
        w.run(SEC);
        assert!(pinged(&mut w, 0, SERVER).unwrap_err().contains("no NI of this node leads"));
        let add = |r: &str| RouteAsk::Add(r.parse().unwrap());
        assert_eq!(w.route(0, add("tcp 10.0.0.11@tcp")), Err(17), "our own network");
        assert_eq!(w.route(0, add("tcp1 10.2.0.11@tcp2")), Err(113), "not on a network of ours");
        assert_eq!(w.route(0, add("tcp1 10.0.0.1@tcp")), Err(22), "ourselves");
        assert_eq!(w.route(0, add("tcp1 10.0.0.11@tcp")), Ok(()));
        assert_eq!(w.route(0, add("tcp1 10.0.0.11@tcp 3 3")), Err(17), "twice");
        assert_eq!(w.states(0), "down multi");
        w.run(SEC / 10);
        assert_eq!(w.states(0), "up");
        // One more by the same gateway is weighed by what that has said, and asked at once.
        assert_eq!(w.route(0, add("tcp7 10.0.0.11@tcp")), Ok(()));
        assert_eq!(w.states(0), "up, up multi");
        assert_eq!(pinged(&mut w, 0, SERVER), Ok(()));
        let del = |net: &str| RouteAsk::Del { net: net.parse().unwrap(), gateway: nid(R1[0]) };
        assert_eq!(w.route(0, del("tcp9")), Err(2));
        w.op(0, 0, ping_op(1, SERVER));
        assert_eq!(w.route(0, del("tcp1")), Ok(()));
        w.run(SEC);
        let ended = w.events(0);
        assert!(
            matches!(ended[..], [Event::Ping { tag: 1, info: Ok(_), .. }]),
            "what is under way ends: {ended:?}"
        );
        assert!(pinged(&mut w, 0, SERVER).unwrap_err().contains("no NI of this node leads"));
        assert_eq!(w.route(0, del("tcp7")), Ok(()));
        assert_eq!(w.views(0), []);
        let checks = w.count(0, |c| c.router_checks);
        w.run(300 * SEC);
        assert_eq!(w.count(0, |c| c.router_checks), checks, "nobody asks a gateway of no route");
        w.at_rest();
    }
}

/// A route that is there gets another priority and other hops while messages go by it: none is without a way.
#[test]
fn a_route_is_changed_in_place() {
    for shards in [1, 2] {
        let both = ["tcp1 10.0.0.11@tcp", "tcp1 10.0.0.12@tcp -1 5"];
        let server = (config(SERVER, &["tcp 10.1.0.11@tcp1"]), shards);
        let mut w = World::new(&[(config(CLIENT, &both), shards), server]);
        w.router(&R1);
        w.run(SEC);
        let set = |r: &str| RouteAsk::Set(r.parse().unwrap());
        let checks = w.count(0, |c| c.router_checks);
        for (i, r) in
            ["tcp1 10.0.0.11@tcp -1 9", "tcp1 10.0.0.11@tcp 2", "tcp1 10.0.0.11@tcp 1 3"].iter().enumerate()
        {
            w.op(0, 0, ping_op(i as u64, SERVER));
            assert_eq!(w.route(0, set(r)), Ok(()));
            assert_eq!(w.states(0), "up, down multi", "at once, {r}");
            w.op(0, 0, ping_op(10 + i as u64, SERVER));
            w.run(SEC);
            let ended = w.events(0);
            let good = |e: &&Event| matches!(e, Event::Ping { info: Ok(_), .. });
            assert_eq!((ended.iter().filter(good).count(), ended.len()), (2, 2), "{ended:?}");
            assert_eq!(w.views(0)[0].route(), r.parse().unwrap(), "at its place");
        }
        assert_eq!(w.count(0, |c| c.router_checks), checks, "nobody need ask its gateway again");
        assert_eq!(w.route(0, set("tcp1 10.0.0.13@tcp")), Err(2), "it is not there");
        let none = transport::lnd::Route { hop: Some(0), ..w.views(0)[0].route() };
        assert_eq!(w.route(0, RouteAsk::Set(none)), Err(22), "0 hops");
        w.at_rest();
    }
}

/// Shards hear of a route one after the other; the gateway may have answered before the last of them does.
#[test]
fn a_shard_that_hears_of_a_route_late_is_told_of_its_gateway() {
    for home_first in [true, false] {
        let mut w = World::new(&[(config(CLIENT, &[]), 4), (config(SERVER, &["tcp 10.1.0.11@tcp1"]), 1)]);
        w.router(&R1);
        w.run(SEC);
        let home = w.net.home(0, nid(R1[0]).ip().unwrap());
        let (first, last): (Vec<usize>, Vec<usize>) = w.places(0).partition(|at| (*at == home) == home_first);
        let add = RouteAsk::Add("tcp1 10.0.0.11@tcp".parse().unwrap());
        for (some, up) in [(first, home_first), (last, true)] {
            for at in &some {
                w.net.nodes[*at].machine.route(w.net.now, add).unwrap();
                w.net.input(*at, Input::Timer);
            }
            w.run(SEC);
            let is_up = |at: &usize| w.net.nodes[*at].machine.routes().all(|r| r.up);
            assert!(some.iter().all(|at| is_up(at) == up), "{home_first}");
        }
        assert_eq!((w.states(0).as_str(), w.count(0, |c| c.router_checks)), ("up", 1));
    }
}

/// A node with a route goes down in order, whatever its gateway does.
#[test]
fn a_node_with_routes_goes_down() {
    for mute in [false, true] {
        let mut w = World::pair(&[R1], 2);
        w.run(SEC);
        w.routers.list[0].mute = mute;
        w.op(0, 0, put(1, "10.1.0.77@tcp1", 64));
        w.run(60 * SEC);
        for at in w.places(0) {
            w.net.op(at, Op::Shutdown { tag: 5 });
        }
        w.run(60 * SEC);
        let down = w.events(0).iter().filter(|e| matches!(e, Event::ShutDown { tag: 5 })).count();
        assert_eq!(down, 2, "{mute}");
        w.places(0).for_each(|n| w.net.assert_at_rest(n));
    }
}
