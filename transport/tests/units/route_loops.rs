//! Routers with routes by each other to a network that neither is on: what comes from one of them does not go back to it, by
//! whichever NIDs they reach each other (docs/protocol/upper.md §1.6).

use transport::lnd::{Config, Counters};
use transport::lnet::{RoutingAsk, RoutingState};
use transport::testing::data::bytes;
use transport::testing::kernel::across::{Across, Heard};
use transport::testing::kernel::lnet::Wire;
use transport::testing::net::{Net, SEC};
use transport::wire::Version;

use crate::routing::{header, nid, put};

/// NIDs of the routers: two that are on the same three networks, and one that is on the last of them and on another.
const A: [&str; 3] = ["10.0.0.1@tcp", "10.1.0.1@tcp1", "10.2.0.1@tcp2"];
const B: [&str; 3] = ["10.0.0.2@tcp", "10.1.0.2@tcp1", "10.2.0.2@tcp2"];
const C: [&str; 2] = ["10.2.0.3@tcp2", "10.9.0.3@tcp9"];
/// Senders beside A and B.
const X: &str = "10.0.0.66@tcp";
const Y: &str = "10.1.0.66@tcp1";
/// A node on C's other network, and one that no way leads back to.
const TO: &str = "10.9.0.50@tcp9";
const NOBODY: &str = "9.9.9.9@tcp7";
/// Time for routers to find each other and to begin, in ns.
const BEGIN: u64 = 12 * SEC;

struct World {
    net: Net,
    across: Across,
    sent: u64,
}

impl World {
    fn new(routers: &[(&[&str], &[&str])]) -> World {
        let mut net = Net::new();
        for (n, (own, routes)) in (0..).zip(routers) {
            let cfg = Config::new(nid(own[0]), 1_700_000_000_000_000_000 + n);
            let cfg = own[1..].iter().fold(cfg, |cfg, ni| cfg.also(nid(ni)));
            let routes = routes.iter().map(|r| r.parse().unwrap()).collect();
            let (alive_router_check_interval, router_ping_timeout) = (2 * SEC, 2 * SEC);
            let avoid_asym_router_failure = false;
            net.add(Config {
                routes,
                alive_router_check_interval,
                router_ping_timeout,
                avoid_asym_router_failure,
                ..cfg
            });
        }
        let mut across = Across::new(&mut net);
        for n in 0..routers.len() {
            net.routing(n, Some(RoutingAsk::Enable));
        }
        across.add(&mut net, nid(X), Version::V3, &[0], 1);
        across.add(&mut net, nid(Y), Version::V3, &[1], 2);
        if routers.len() > 2 {
            across.add(&mut net, nid(TO), Version::V3, &[2], 3);
        }
        let mut w = World { net, across, sent: 0 };
        w.run(BEGIN);
        for n in 0..routers.len() {
            assert_eq!(w.net.routing(n, None).state, RoutingState::On);
            assert!(w.net.nodes[n].machine.routes().all(|r| r.up), "{n}");
        }
        // Each is connected to its router.
        for (by, router, own) in [(X, 0, A[0]), (Y, 1, B[1])] {
            let m = Wire { to: nid(own), body: put(0), payload: Vec::new(), token: 1 };
            w.across.say(&mut w.net, (nid(by), router), m);
        }
        w.run(SEC);
        w
    }

    fn run(&mut self, ns: u64) {
        let until = self.net.now + ns;
        self.across.run_until(&mut self.net, until);
    }

    /// One that is beside this router gives it a message of `src` for `to`.
    fn tell(&mut self, by: &str, router: usize, src: &str, to: &str, len: usize) {
        self.sent += 1;
        let hdr = header(nid(src), nid(to), put(self.sent), len);
        self.across.say_as(&mut self.net, (nid(by), router), hdr, bytes(len, 1));
    }

    fn count(&self, node: usize, of: impl Fn(&Counters) -> u64) -> u64 {
        of(self.net.nodes[node].machine.counters())
    }

    fn loops(&self) -> [u64; 2] {
        [0, 1].map(|n| self.count(n, |c| c.drop_route_loop))
    }

    fn passed(&self) -> [u64; 2] {
        [0, 1].map(|n| self.count(n, |c| c.forwarded_msgs))
    }

    fn heard(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.across.heard)
    }

    /// Both sources send so many messages of `len` bytes each.
    fn both_tell(&mut self, len: usize, each: usize) {
        for _ in 0..each {
            self.tell(X, 0, NOBODY, TO, len);
            self.tell(Y, 1, NOBODY, TO, len);
        }
        self.run(SEC);
    }

    fn at_rest(&mut self) {
        self.run(SEC);
        for n in 0..self.net.nodes.len() {
            assert_eq!(self.net.nodes[n].machine.gauges().on_their_way, 0, "{n}");
        }
    }
}

/// Each takes what the other gives it, and has no other way.
#[test]
fn two_routers_do_not_give_each_other_what_came_from_the_other() {
    let mut w = World::new(&[(&A, &["tcp9 10.1.0.2@tcp1"]), (&B, &["tcp9 10.0.0.1@tcp"])]);
    w.heard();
    let before = [w.loops(), w.passed()];
    let mut told = 0;
    for len in [0, 100, 20_000] {
        w.both_tell(len, 10);
        told += 10;
        let done = [w.loops(), w.passed()];
        for n in [0, 1] {
            assert_eq!([done[0][n] - before[0][n], done[1][n] - before[1][n]], [told; 2], "{n}, {len} bytes");
        }
    }
    assert!(w.heard().is_empty());
    w.at_rest();
}

/// Both have a second gateway, that is taken instead, whichever has its turn.
#[test]
fn another_gateway_is_taken_instead() {
    for turn in ["1 0", "1 5", "1 9"] {
        let by_c = format!("tcp9 10.2.0.3@tcp2 {turn}");
        let mut w = World::new(&[
            (&A, &["tcp9 10.1.0.2@tcp1 1 5", &by_c]),
            (&B, &["tcp9 10.0.0.1@tcp 1 5", &by_c]),
            (&C, &[]),
        ]);
        w.heard();
        let (before, mut told) = (w.passed(), 0);
        for len in [0, 100, 20_000] {
            w.both_tell(len, 10);
            told += 20;
        }
        let heard = w.heard();
        let came = |h: &Heard| h.by == nid(TO) && h.from == 2 && h.hdr.src_nid == nid(NOBODY);
        assert_eq!((heard.iter().filter(|h| came(h)).count(), heard.len()), (told, told), "{turn}");
        let passed: u64 = w.passed().iter().zip(before).map(|(n, before)| n - before).sum();
        // By C at once, by turns, or by each other first.
        let hops = match turn {
            "1 0" => 1..=1,
            "1 9" => 2..=2,
            _ => 1..=2,
        };
        assert!((hops.start() * told..=hops.end() * told).contains(&(passed as usize)), "{turn}: {passed}");
        assert_eq!(w.loops(), [0, 0], "{turn}");
        w.at_rest();
    }
}

/// A gateway ends the set on which it is given what is for its own NID on another network, and with it what others have there.
#[test]
fn what_is_for_a_gateways_own_far_nid_is_not_passed_to_it() {
    let mut w = World::new(&[(&A, &["tcp9 10.2.0.3@tcp2"]), (&B, &["tcp9 10.2.0.3@tcp2"]), (&C, &[])]);
    w.heard();
    for len in [0, 100, 20_000] {
        w.tell(X, 0, NOBODY, C[1], len);
    }
    w.run(SEC);
    assert_eq!((w.count(0, |c| c.drop_no_route), w.count(2, |c| c.err_dest_nid)), (3, 0));
    assert_eq!(w.count(2, |c| c.sets_closed), 0);
    w.tell(X, 0, NOBODY, TO, 100);
    w.run(SEC);
    assert_eq!(w.heard().len(), 1);
    w.at_rest();
}
