//! Questions about nodes behind a gateway that is lost with them: what waits for the answers goes on by another gateway
//! (docs/protocol/upper.md §1.5).

use transport::lnd::{LnetError, Payload};
use transport::lnet::Event;
use transport::lnet::routes::RouteAsk;
use transport::testing::data::{Spot, bytes};
use transport::testing::net::SEC;
use transport::wire::ProcessId;

use crate::routed::*;

/// A client with a gateway that answers for itself and swallows the rest, and with those of `others` that forward.
fn world(others: &[[&str; 2]], shards: u16) -> World {
    let one = |r: &[&str; 2], priority| format!("tcp1 {} 1 {priority}", r[0]);
    let routes: Vec<String> = [one(&R1, 0)].into_iter().chain(others.iter().map(|r| one(r, 5))).collect();
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    let back: Vec<String> = others.iter().map(|r| format!("tcp {}", r[1])).collect();
    let back: Vec<&str> = back.iter().map(String::as_str).collect();
    let mut w = World::new(&[(config(CLIENT, &routes), shards), (config(SERVER, &back), 1)]);
    let hops = w.hops(&R1);
    w.routers.add(&mut w.net, &R1.map(nid), &hops[..1]);
    for r in others {
        w.router(r);
    }
    w.run(SEC);
    w.attach(1);
    assert!(w.states(0).split(", ").all(|s| s == "up"));
    w
}

/// PUTs with and without ACK, which wait for the answer to the question that the gateway has swallowed.
fn puts_wait(w: &mut World) {
    for shard in 0..w.places(0).len() {
        let quiet = Payload::copy_of(&bytes(64, 2)).unwrap();
        w.op(0, shard, put(1, SERVER, 64));
        w.op(0, shard, Spot(PORTAL, BITS).put(2, ProcessId::lustre(nid(SERVER)), quiet, false));
    }
    w.run(SEC / 10);
    assert_eq!((w.events(0).len(), w.routers.list[0].dropped), (0, 1), "one question");
}

/// Of each PUT there is one last event, and that is a good one.
fn both_arrive(w: &mut World) {
    let (all, shards) = (w.events(0), w.places(0).len());
    let count = |f: fn(&Event) -> bool| all.iter().filter(|e| f(e)).count();
    assert_eq!(count(|e| matches!(e, Event::Ack { tag: 1, status: Ok(()), .. })), shards, "{all:?}");
    assert_eq!(count(|e| matches!(e, Event::Send { tag: 2, status: Ok(()), .. })), shards, "{all:?}");
    assert_eq!(w.events(1).iter().filter(|e| matches!(e, Event::Put(_))).count(), 2 * shards);
}

/// The connections of the first router are reset.
fn resets(w: &mut World) {
    let ip = nid(R1[0]).ip().unwrap();
    let of_it = |l: &usize| w.net.addresses(*l).iter().any(|a| a.ip() == ip);
    let links: Vec<usize> = (0..w.net.links()).filter(of_it).collect();
    links.into_iter().for_each(|l| w.net.raw_reset(l));
}

/// Messages to the node were held for 150 s, though another route was up.
#[test]
fn a_question_that_is_lost_with_its_gateway_is_asked_by_another() {
    for shards in [1, 4] {
        let mut w = world(&[R2], shards);
        puts_wait(&mut w);
        w.net.raw_unlisten(nid(R1[0]).ip().unwrap());
        resets(&mut w);
        w.run(3 * SEC);
        assert_eq!(w.states(0), "down, up");
        both_arrive(&mut w);
        // The question that was lost concerns nobody any more.
        w.op(0, 0, put(3, SERVER, 64));
        w.run(SEC);
        assert!(matches!(w.events(0)[..], [.., Event::Ack { tag: 3, status: Ok(()), .. }]));
        let asked = w.count(0, |c| c.discoveries);
        w.run(200 * SEC);
        assert_eq!((w.count(0, |c| c.discoveries), w.count(0, |c| c.err_no_answer)), (asked, 0));
        w.events(1);
        w.at_rest();
    }
}

/// A user who deletes the route by such a gateway has the same.
#[test]
fn a_question_by_a_route_that_is_deleted_is_asked_by_another() {
    for shards in [1, 4] {
        let mut w = world(&[R2], shards);
        puts_wait(&mut w);
        let (net, gateway) = ("tcp1".parse().unwrap(), nid(R1[0]));
        assert_eq!(w.route(0, RouteAsk::Del { net, gateway }), Ok(()));
        w.run(SEC);
        both_arrive(&mut w);
        w.at_rest();
    }
}

/// A gateway that has lost its connections, and answers again, is asked anew: there is no other.
#[test]
fn a_gateway_that_is_back_is_asked_anew() {
    for shards in [1, 4] {
        let mut w = world(&[], shards);
        puts_wait(&mut w);
        resets(&mut w);
        let hops = w.hops(&R1);
        w.routers.restart(&mut w.net, 0, &hops);
        assert_eq!(w.route(1, RouteAsk::Add("tcp 10.1.0.11@tcp1".parse().unwrap())), Ok(()));
        w.run(5 * SEC);
        assert_eq!((w.states(0).as_str(), w.states(1).as_str()), ("up", "up"));
        both_arrive(&mut w);
        w.at_rest();
    }
}

/// Where no route is up what waits ends, as what comes later does.
#[test]
fn without_another_route_what_waits_ends() {
    for deleted in [false, true] {
        let mut w = world(&[], 1);
        puts_wait(&mut w);
        if deleted {
            let (net, gateway) = ("tcp1".parse().unwrap(), nid(R1[0]));
            assert_eq!(w.route(0, RouteAsk::Del { net, gateway }), Ok(()));
        } else {
            w.net.raw_unlisten(nid(R1[0]).ip().unwrap());
            resets(&mut w);
        }
        w.run(3 * SEC);
        let all = w.events(0);
        let failed = |e: &Event| {
            matches!(
                e,
                Event::Ack { tag: 1, status: Err(LnetError::Unreachable), .. }
                    | Event::Send { tag: 1 | 2, status: Err(LnetError::Unreachable), .. }
            )
        };
        assert!(all.len() == 2 && all.iter().all(failed), "{all:?}");
        assert!(pinged(&mut w, 0, SERVER).is_err());
        w.at_rest();
    }
}

/// A gateway that swallows each question, and ends its connections, is not asked for ever.
#[test]
fn a_gateway_that_swallows_every_question_is_asked_a_bounded_number_of_times() {
    let mut w = world(&[], 1);
    puts_wait(&mut w);
    let before = w.count(0, |c| c.discoveries);
    let hops = w.hops(&R1);
    for _ in 0..30 {
        resets(&mut w);
        w.routers.restart(&mut w.net, 0, &hops[..1]);
        w.run(4 * SEC);
    }
    let asked = w.count(0, |c| c.discoveries) - before;
    assert!((10..=16).contains(&asked), "{asked}");
    let all = w.events(0);
    assert_eq!(
        all.iter().filter(|e| matches!(e, Event::Ack { .. } | Event::Send { .. })).count(),
        2,
        "{all:?}"
    );
    w.run(200 * SEC);
    w.at_rest();
}
