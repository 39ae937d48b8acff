//! Users of routers with several NIs: by which one messages go to a gateway (docs/protocol/upper.md §2), beside model routers.

use transport::lnd::{Config, NiConfig};
use transport::lnet::{Event, Op};
use transport::testing::net::{Cut, SEC};

use crate::routed::*;

/// An operation that names the NI that it leaves from goes by a gateway on that one's network.
#[test]
fn the_ni_of_an_operation_decides_about_its_gateway() {
    let mut cfg = config(CLIENT, &["tcp1 10.0.0.11@tcp", "tcp1 10.2.0.12@tcp2"]);
    cfg.nis.push(NiConfig::new(nid("10.2.0.1@tcp2")));
    let server = config(SERVER, &["tcp 10.1.0.11@tcp1", "tcp2 10.1.0.12@tcp1"]);
    let mut w = World::new(&[(cfg, 1), (server, 1)]);
    w.router(&R1);
    let hops = vec![(nid("10.2.0.1@tcp2"), 0), (nid(SERVER), w.nodes[1].1)];
    let nids = ["10.2.0.12@tcp2", "10.1.0.12@tcp1"].map(nid);
    w.routers.add(&mut w.net, &nids, &hops);
    w.run(SEC);
    assert_eq!((w.states(0).as_str(), w.states(1).as_str()), ("up, up", "up, up"));
    w.attach(1);
    for (n, from) in [(0, "10.0.0.1@tcp"), (1, "10.2.0.1@tcp2"), (1, "10.2.0.1@tcp2"), (0, "10.0.0.1@tcp")] {
        let before = w.routers.list[n].forwarded.len();
        let mut op = put(3, SERVER, 64);
        if let Op::Put { from: f, .. } = &mut op {
            *f = Some(nid(from));
        }
        w.op(0, 0, op);
        w.run(SEC);
        let came = w.events(1);
        assert!(matches!(&came[..], [Event::Put(p)] if p.source == nid(from)), "{came:?}");
        assert!(w.routers.list[n].forwarded.len() > before);
        w.events(0);
    }
    w.at_rest();
}

/// A client of two NIs on the network of its gateway.
fn two_nis() -> World {
    let client = config(CLIENT, &["tcp1 10.0.0.11@tcp"]).also(nid("10.0.0.2@tcp"));
    let client = Config { alive_router_check_interval: 5 * SEC, router_ping_timeout: 3 * SEC, ..client };
    let mut w = World::new(&[(client, 1), (config(SERVER, &["tcp 10.1.0.11@tcp1"]), 1)]);
    let mut hops = w.hops(&R1);
    hops.push((nid("10.0.0.2@tcp"), 0));
    w.routers.add(&mut w.net, &R1.map(nid), &hops);
    w.run(SEC);
    w.attach(1);
    assert_eq!(pinged(&mut w, 0, SERVER), Ok(()));
    w
}

/// The NIs of this node are other ways to the gateway, but it is not the target.
#[test]
fn what_does_not_reach_a_gateway_is_not_sent_to_it_instead() {
    for op in [put(5, SERVER, 64), put(5, SERVER, 70_000), ping_op(5, SERVER)] {
        let mut w = two_nis();
        // The route is up still, since nobody asks, and whoever dials is refused.
        w.tune(0, "alive_router_check_interval", "0");
        w.net.unplug(nid(R1[0]).ip().unwrap(), Cut::Reset);
        w.run(SEC / 100);
        w.op(0, 0, op);
        w.run(60 * SEC);
        let all = w.events(0);
        let ended = |e: &Event| {
            matches!(
                e,
                Event::Send { tag: 5, status: Err(_), done: true } | Event::Ping { tag: 5, info: Err(_), .. }
            )
        };
        assert_eq!(all.iter().filter(|e| ended(e)).count(), 1, "{all:?}");
        assert_eq!(w.count(0, |c| c.resend_count), 0);
    }
}

/// Messages by a gateway leave by each NI on its network in turn, and by the one whose messages go while another's do not.
#[test]
fn all_nis_lead_to_a_gateway() {
    let mut w = two_nis();
    let sources = |w: &mut World, n: u64| {
        let mut by = [0, 0];
        for tag in 0..n {
            w.op(0, 0, put(tag, SERVER, 70_000));
            w.run(SEC / 100);
        }
        for e in w.events(1) {
            if let Event::Put(p) = e {
                by[usize::from(p.source == nid("10.0.0.2@tcp"))] += 1;
            }
        }
        by
    };
    assert_eq!(sources(&mut w, 20), [10, 10]);
    // Messages of one wait for TCP, and nothing has failed yet.
    w.net.unplug(nid(CLIENT).ip().unwrap(), Cut::Silence);
    let [stuck, gone] = sources(&mut w, 20);
    assert!(stuck == 0 && gone >= 15, "{gone} of 20 go by the NI whose messages are taken");
}

/// An NI without a link does not take the routes with it.
#[test]
fn a_gateway_is_reached_by_an_ni_that_has_a_link() {
    let mut w = two_nis();
    w.net.unplug(nid(CLIENT).ip().unwrap(), Cut::Silence);
    w.net.link_state(0, nid(CLIENT).ip().unwrap(), false);
    w.run(20 * SEC);
    assert_eq!(w.states(0), "up");
    w.op(0, 0, put(9, SERVER, 70_000));
    w.run(5 * SEC);
    let came = w.events(1);
    assert!(came.iter().any(|e| matches!(e, Event::Put(p) if p.source == nid("10.0.0.2@tcp"))), "{came:?}");
}
