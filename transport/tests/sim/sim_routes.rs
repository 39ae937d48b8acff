//! Nodes of ours on two networks, with up to three model routers between them that die, come back, stop forwarding, lose NIs and hold
//! bulk up, while routes come and go and homes move: every operation ends once, with one end; when the weather is over what is asked is
//! answered, and nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{judge, play, some_len};
use crate::routed::*;
use transport::lnd::{Config, Data};
use transport::lnet::routes::RouteAsk;
use transport::lnet::{Event, Op};
use transport::stream::{Bucket, ShardId};
use transport::testing::data::{bytes, lent, run as pages_of};
use transport::testing::kernel::router::{FORWARDS, STARTING};
use transport::testing::net::SEC;
use transport::testing::rng::Rng;
use transport::wire::Nid;

/// Seeds of `make test`.
const SEEDS: u64 = 500;
/// Longer than any operation lasts, and than it takes a route to be up again, in ns.
const QUIET: u64 = 120 * SEC;

/// NIDs of the n-th router.
fn nids(n: usize) -> [String; 2] {
    [format!("10.0.0.{}@tcp", 11 + n), format!("10.1.0.{}@tcp1", 11 + n)]
}

struct Play {
    w: World,
    r: Rng,
    routers: usize,
    /// Routes of each node, by the number of the router.
    routes: [Vec<usize>; 2],
    next: u64,
    /// Operations that have not ended, by node and tag.
    open: BTreeMap<(usize, u64), &'static str>,
    /// PUTs that were stored.
    stored: BTreeSet<u64>,
    ended: u64,
    good: u64,
    /// Operations on nodes that are not there.
    nobody: u64,
}

impl Play {
    fn new(seed: u64) -> Play {
        let mut r = Rng(seed);
        let (routers, shards) = (1 + r.below(3) as usize, r.pick(&[1, 1, 2, 4]));
        let mut routes: [Vec<usize>; 2] = Default::default();
        let mut node = |at: usize, own: &str| {
            let net = ["tcp1", "tcp"][at];
            for n in 0..routers {
                if r.chance(70) || n + 1 == routers && routes[at].is_empty() {
                    routes[at].push(n);
                }
            }
            let one = |n: &usize, priority| format!("{net} {} 1 {priority}", nids(*n)[at]);
            let all: Vec<String> = routes[at].iter().map(|n| one(n, r.below(2))).collect();
            let cfg = config(own, &all.iter().map(String::as_str).collect::<Vec<_>>());
            Config {
                alive_router_check_interval: 5 * SEC,
                router_ping_timeout: 3 * SEC,
                transaction_timeout: 20 * SEC,
                discovery: r.chance(80),
                ..cfg
            }
        };
        let (c, s) = (node(0, CLIENT), node(1, SERVER));
        let mut w = World::new(&[(c, shards), (s, shards)]);
        for n in 0..routers {
            let [a, b] = nids(n);
            w.router(&[&a, &b]);
        }
        w.run(SEC);
        (0..2).for_each(|n| w.attach(n));
        Play {
            w,
            r,
            routers,
            routes,
            next: 0,
            open: BTreeMap::new(),
            stored: BTreeSet::new(),
            ended: 0,
            good: 0,
            nobody: 0,
        }
    }

    fn hear(&mut self) {
        for node in 0..2 {
            for e in self.w.events(node) {
                let (tag, done, ok) = match &e {
                    Event::Send { tag, done, status } => (*tag, *done, status.is_ok()),
                    Event::Ack { tag, done, status, .. } => (*tag, *done, status.is_ok()),
                    Event::Reply { tag, status, .. } => (*tag, true, status.is_ok()),
                    Event::Ping { tag, info, .. } => (*tag, true, info.is_ok()),
                    Event::Refused { tag, .. } => (*tag, true, false),
                    Event::Put(p) => {
                        assert!(self.stored.insert(p.hdr_data), "{} is stored once more", p.hdr_data);
                        if let Data::Lent(_) = &p.data {
                            assert!(lent(&p.data) == bytes(p.mlength as usize, p.hdr_data), "{p:?}");
                        }
                        continue;
                    }
                    _ => continue,
                };
                if let Event::Reply { status: Ok(()), data, sink, .. } = &e {
                    let got = sink.as_ref().map_or_else(|| lent(data), |run| run.bytes().to_vec());
                    assert!(got == bytes(70_000, 0), "{node} {tag} got others' bytes");
                }
                if done {
                    let was = self.open.remove(&(node, tag));
                    assert!(was.is_some(), "{node} {tag} ends once more: {e:?}");
                    (self.ended, self.good) = (self.ended + 1, self.good + u64::from(ok));
                } else {
                    assert!(self.open.contains_key(&(node, tag)), "{node} {tag} had ended: {e:?}");
                }
            }
        }
    }

    fn ask(&mut self) {
        let node = self.r.below(2) as usize;
        let shard = self.r.below(self.w.places(node).len() as u64) as usize;
        let is_there = self.r.chance(90);
        self.nobody += u64::from(!is_there);
        let to = if is_there { [SERVER, CLIENT][node] } else { ["10.1.0.77@tcp1", "10.0.0.77@tcp"][node] };
        self.next += 1;
        let tag = self.next;
        let (what, op): (_, Op) = match self.r.below(4) {
            0 => ("ping", ping_op(tag, to)),
            1 => ("get", get(tag, to, transport::lnd::Sink::Copy(pages_of(70_000)))),
            2 => ("get", get(tag, to, transport::lnd::Sink::Lend(70_000))),
            _ => ("put", put(tag, to, some_len(&mut self.r))),
        };
        self.open.insert((node, tag), what);
        self.w.op(node, shard, op);
    }

    /// Something happens to a router.
    fn weather(&mut self) {
        let n = self.r.below(self.routers as u64) as usize;
        let alive = self.w.routers.list[n].alive;
        match self.r.below(6) {
            0 if alive => self.w.routers.kill(&mut self.w.net, n),
            0 | 1 if !alive => self.revive(n),
            1 | 2 => {
                self.w.routers.list[n].features = self.r.pick(&[FORWARDS, FORWARDS, STARTING]);
                self.say(n);
            }
            3 => {
                let down = nid(&nids(n)[self.r.below(2) as usize]);
                if !self.w.routers.list[n].down.remove(&down) {
                    self.w.routers.list[n].down.insert(down);
                }
                self.say(n);
            }
            4 => self.w.routers.list[n].mute ^= true,
            _ => self.w.routers.list[n].bulk_delay = self.r.pick(&[0, SEC / 10, 2 * SEC]),
        }
    }

    /// A router pushes what has changed, or leaves it to be found out.
    fn say(&mut self, n: usize) {
        if self.r.chance(60) && self.w.routers.list[n].alive {
            self.w.routers.push(&mut self.w.net, n);
        }
    }

    fn revive(&mut self, n: usize) {
        let [a, b] = nids(n);
        let hops = self.w.hops(&[&a, &b]);
        self.w.routers.restart(&mut self.w.net, n, &hops);
    }

    /// A route comes or goes.
    fn order(&mut self) {
        let node = self.r.below(2) as usize;
        let n = self.r.below(self.routers as u64) as usize;
        let (net, gateway): (_, Nid) = (["tcp1", "tcp"][node].parse().unwrap(), nid(&nids(n)[node]));
        let known = self.routes[node].iter().position(|x| *x == n);
        match known {
            Some(at) => {
                assert_eq!(self.w.route(node, RouteAsk::Del { net, gateway }), Ok(()));
                self.routes[node].remove(at);
            }
            None => {
                assert_eq!(
                    self.w.route(node, RouteAsk::Add(transport::lnd::Route::new(net, gateway))),
                    Ok(())
                );
                self.routes[node].push(n);
            }
        }
    }

    /// The home of a gateway moves.
    fn migrate(&mut self) {
        let node = self.r.below(2) as usize;
        let n = self.r.below(self.routers as u64) as usize;
        let (first, shards) = (self.w.places(node).start, self.w.places(node).len() as u64);
        let Some(ip) = nid(&nids(n)[node]).ip() else { return };
        let (home, to) = (self.w.net.home(first, ip), ShardId(self.r.below(shards) as u16));
        self.w.net.move_home(home, Bucket::of(ip), to);
    }

    fn calm(&mut self) {
        for n in 0..self.routers {
            if !self.w.routers.list[n].alive {
                self.revive(n);
            }
            let r = &mut self.w.routers.list[n];
            (r.features, r.mute, r.bulk_delay) = (FORWARDS, false, 0);
            r.down.clear();
        }
        for node in 0..2 {
            if self.routes[node].is_empty() {
                let (net, gateway) = (["tcp1", "tcp"][node].parse().unwrap(), nid(&nids(0)[node]));
                let route = RouteAsk::Add(transport::lnd::Route::new(net, gateway));
                assert_eq!(self.w.route(node, route), Ok(()));
                self.routes[node].push(0);
            }
        }
    }
}

fn one(seed: u64) -> [u64; 3] {
    let mut p = Play::new(seed);
    let steps = 20 + p.r.below(60);
    let wild = p.r.chance(70);
    for _ in 0..steps {
        match p.r.below(10) {
            0..=5 => p.ask(),
            6 | 7 if wild => p.weather(),
            8 if wild => p.order(),
            _ => p.migrate(),
        }
        let ns = p.r.pick(&[0, 1000, SEC / 1000, SEC / 20, SEC, 4 * SEC]);
        p.w.run(ns);
        p.hear();
    }
    p.calm();
    p.w.run(QUIET);
    p.hear();
    assert!(p.open.is_empty(), "never ended: {:?}", p.open);
    for node in 0..2 {
        assert!(p.w.views(node).iter().all(|v| v.up), "{:?}", p.w.views(node));
        // A kernel loses what it sends on a connection that has died unnoticed.
        let mut tries = (0..4).map(|_| pinged(&mut p.w, node, [SERVER, CLIENT][node]));
        assert!(tries.any(|t| t.is_ok()), "{node}");
        p.w.run(QUIET);
        p.w.events(node);
    }
    // Not in the middle of a check.
    let busy = |p: &Play| p.w.net.nodes.iter().any(|n| n.machine.gauges().ops > 0);
    (0..3).for_each(|_| p.w.run(if busy(&p) { SEC / 3 } else { 0 }));
    p.w.at_rest();
    if !wild {
        // Nothing was lost but what nobody is there for.
        assert_eq!(p.good + p.nobody, p.ended);
    }
    [p.ended, p.good, p.stored.len() as u64]
}

/// Operations that ended, ended well, and PUTs that were stored.
#[derive(Default)]
struct Totals([AtomicU64; 3]);

impl Totals {
    fn add(&self, more: [u64; 3]) {
        self.0.iter().zip(more).for_each(|(n, more)| {
            n.fetch_add(more, Ordering::Relaxed);
        });
    }

    fn each(&self) -> [u64; 3] {
        self.0.each_ref().map(|n| n.load(Ordering::Relaxed))
    }

    fn line(&self) -> String {
        let [ended, good, stored] = self.each();
        format!("{ended} operations, {good} of them to a good end; {stored} PUTs stored")
    }
}

#[test]
fn every_operation_ends_whatever_becomes_of_routers() {
    let totals = Totals::default();
    play("sim_routes::every", 0..SEEDS, |seed| totals.add(one(seed)));
    judge(totals.each(), [5000, 2500, 500], &totals.line());
}

/// Seeds that `make test` does not reach.
#[test]
#[ignore = "soak: make soak"]
fn soak() {
    let totals = Totals::default();
    let seeds = super::soak("sim_routes::every", |seed| totals.add(one(seed)));
    println!("{seeds} seeds: {}", totals.line());
}
