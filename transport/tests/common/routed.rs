//! Nodes of ours and model routers between them, in virtual time, for the tests of routes.
#![allow(dead_code, unreachable_pub)]

use transport::lnd::tunables::Change;
use transport::lnd::{Config, Payload, Shards, Sink};
use transport::lnet::routes::{RouteAsk, RouteView};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::node::Input;
use transport::testing::data::{Spot, bytes, lent, pages, run};
use transport::testing::kernel::router::Routers;
use transport::testing::net::{Net, SEC};
use transport::wire::{Nid, ProcessId};

pub(crate) const PORTAL: u32 = 7;
pub(crate) const BITS: u64 = 3;

pub(crate) const CLIENT: &str = "10.0.0.1@tcp";
pub(crate) const SERVER: &str = "10.1.0.1@tcp1";
pub(crate) const R1: [&str; 2] = ["10.0.0.11@tcp", "10.1.0.11@tcp1"];
pub(crate) const R2: [&str; 2] = ["10.0.0.12@tcp", "10.1.0.12@tcp1"];

pub(crate) fn nid(s: &str) -> Nid {
    s.parse().unwrap()
}

pub(crate) fn config(own: &str, routes: &[&str]) -> Config {
    let epoch = 1_700_000_000_000_000_000 + u64::from(own.as_bytes()[3]);
    Config { routes: routes.iter().map(|r| r.parse().unwrap()).collect(), ..Config::new(nid(own), epoch) }
}

/// Nodes of ours and routers between them. A node of several shards has as many places, one behind the other.
pub(crate) struct World {
    pub(crate) net: Net,
    pub(crate) routers: Routers,
    /// The first place of each node.
    pub(crate) nodes: Vec<(Nid, usize)>,
}

impl World {
    pub(crate) fn new(nodes: &[(Config, u16)]) -> World {
        let mut net = Net::new();
        let routers = Routers::new(&mut net);
        let mut all = Vec::new();
        for (cfg, shards) in nodes {
            all.push((cfg.nid(), net.nodes.len()));
            for me in 0..*shards {
                net.add(Config { shards: Shards::new(me, *shards).unwrap(), ..cfg.clone() });
            }
        }
        World { net, routers, nodes: all }
    }

    /// A client and a server, each with routes by those routers.
    pub(crate) fn pair(by: &[[&str; 2]], shards: u16) -> World {
        let to = |net: &str, at: usize| by.iter().map(|r| format!("{net} {}", r[at])).collect::<Vec<_>>();
        let (c, s) = (to("tcp1", 0), to("tcp", 1));
        let all = |r: &[String], own| config(own, &r.iter().map(String::as_str).collect::<Vec<_>>());
        let mut w = World::new(&[(all(&c, CLIENT), shards), (all(&s, SERVER), shards)]);
        for r in by {
            w.router(r);
        }
        w
    }

    pub(crate) fn hops(&self, nids: &[&str]) -> Vec<(Nid, usize)> {
        let hop = |(peer, first): &(Nid, usize)| {
            let own = nids.iter().map(|n| nid(n)).find(|n| n.same_net(*peer))?;
            Some((*peer, self.net.home(*first, own.ip()?)))
        };
        self.nodes.iter().filter_map(hop).collect()
    }

    pub(crate) fn router(&mut self, nids: &[&str]) -> usize {
        let hops = self.hops(nids);
        let nids: Vec<Nid> = nids.iter().map(|n| nid(n)).collect();
        self.routers.add(&mut self.net, &nids, &hops)
    }

    pub(crate) fn run(&mut self, ns: u64) {
        self.routers.run(&mut self.net, ns);
    }

    /// Places of a node.
    pub(crate) fn places(&self, node: usize) -> std::ops::Range<usize> {
        let end = self.nodes.get(node + 1).map_or(self.net.nodes.len(), |n| n.1);
        self.nodes[node].1..end
    }

    /// Gives a node an operation, at one of its shards.
    pub(crate) fn op(&mut self, node: usize, shard: usize, op: Op) {
        let at = self.places(node).start + shard;
        self.net.op(at, op);
    }

    pub(crate) fn events(&mut self, node: usize) -> Vec<Event> {
        self.places(node).flat_map(|at| self.net.take_events(at)).collect()
    }

    pub(crate) fn views(&self, node: usize) -> Vec<RouteView> {
        let all = self.places(node).map(|at| self.net.nodes[at].machine.routes().collect::<Vec<_>>());
        let all: Vec<_> = all.collect();
        assert!(all.iter().all(|v| *v == all[0]), "shards do not agree: {all:?}");
        all[0].clone()
    }

    /// State of a node's routes, in their order.
    pub(crate) fn states(&self, node: usize) -> String {
        let one = |v: RouteView| {
            format!("{}{}", if v.up { "up" } else { "down" }, if v.multi_hop { " multi" } else { "" })
        };
        self.views(node).into_iter().map(one).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn route(&mut self, node: usize, ask: RouteAsk) -> Result<(), i32> {
        let now = self.net.now;
        let mut done = Ok(());
        for at in self.places(node) {
            done = self.net.nodes[at].machine.route(now, ask).map_err(|e| e.errno());
            // As a runtime does: the deadline is asked for.
            self.net.input(at, Input::Timer);
        }
        done
    }

    pub(crate) fn tune(&mut self, node: usize, name: &str, value: &str) {
        for at in self.places(node) {
            let change = Change::new(self.net.nodes[at].machine.config(), name, value).unwrap();
            self.net.tune(at, &change);
        }
    }

    pub(crate) fn attach(&mut self, node: usize) {
        self.op(node, 0, Spot(PORTAL, BITS).attach(1, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20)))));
        self.op(node, 0, Spot(PORTAL + 1, BITS).attach(1, MdSpec::new(MdMem::Source(pages(70_000)))));
        self.run(SEC / 100);
        self.events(node);
    }

    pub(crate) fn at_rest(&self) {
        (0..self.net.nodes.len()).for_each(|n| self.net.assert_at_rest(n));
    }

    pub(crate) fn count(&self, node: usize, of: impl Fn(&transport::lnd::Counters) -> u64) -> u64 {
        self.places(node).map(|at| of(self.net.nodes[at].machine.counters())).sum()
    }
}

pub(crate) fn put(tag: u64, to: &str, len: usize) -> Op {
    Spot(PORTAL, BITS).put(tag, ProcessId::lustre(nid(to)), Payload::copy_of(&bytes(len, tag)).unwrap(), true)
}

pub(crate) fn get(tag: u64, to: &str, sink: Sink) -> Op {
    Spot(PORTAL + 1, BITS).get(tag, ProcessId::lustre(nid(to)), sink)
}

pub(crate) fn ping_op(tag: u64, to: &str) -> Op {
    Op::Ping { tag, target: ProcessId::lustre(nid(to)) }
}

/// PUTs, GETs and pings from every shard, all of which come to a good end.
pub(crate) fn all_ways(w: &mut World, from: usize, to: usize, target: &str) {
    let shards = w.places(from).len();
    for shard in 0..shards {
        let tag = (shard as u64) << 8;
        w.op(from, shard, put(tag, target, 100_000));
        w.op(from, shard, put(tag | 1, target, 64));
        w.op(from, shard, get(tag | 2, target, Sink::Lend(70_000)));
        w.op(from, shard, get(tag | 3, target, Sink::Copy(run(70_000))));
        w.op(from, shard, ping_op(tag | 4, target));
    }
    w.run(20 * SEC);
    let events = w.events(from);
    for tag in (0..shards as u64).map(|s| s << 8) {
        let acked =
            |t| events.iter().any(|e| matches!(e, Event::Ack { tag, status: Ok(()), .. } if *tag == t));
        assert!(acked(tag) && acked(tag | 1), "{events:?}");
        for (t, is_lent) in [(tag | 2, true), (tag | 3, false)] {
            let got = events.iter().find_map(|e| match e {
                Event::Reply { tag, status: Ok(()), data, sink, mlength: 70_000 } if *tag == t => {
                    Some(if is_lent { lent(data) } else { sink.as_ref()?.bytes().to_vec() })
                }
                _ => None,
            });
            assert!(got == Some(bytes(70_000, 0)), "{t:#x}: {events:?}");
        }
        let info = events.iter().find_map(|e| match e {
            Event::Ping { tag: t, info: Ok(info), .. } if *t == tag | 4 => Some(info.clone()),
            _ => None,
        });
        assert!(info.is_some_and(|i| i.nids().any(|n| n == nid(target))), "{events:?}");
    }
    let own = w.nodes[from].0;
    let came = w.events(to);
    let puts: Vec<_> =
        came.iter().filter_map(|e| if let Event::Put(p) = e { Some(p) } else { None }).collect();
    assert_eq!(puts.len(), 2 * shards);
    for p in puts {
        assert_eq!((p.source, p.dest, p.initiator.nid), (own, nid(target), own));
        assert!(lent(&p.data) == bytes(p.mlength as usize, p.hdr_data), "others' bytes");
        assert!(
            w.net.nodes[0].machine.config().nid() != p.sender && p.sender != own,
            "a router delivered it"
        );
    }
}

pub(crate) fn pinged(w: &mut World, node: usize, to: &str) -> Result<(), String> {
    w.op(node, 0, ping_op(77, to));
    w.run(SEC);
    match &w.events(node)[..] {
        [Event::Ping { tag: 77, info: Ok(_), .. }] => Ok(()),
        [Event::Ping { tag: 77, info: Err(e), .. }] => Err(e.to_string()),
        [Event::Refused { tag: 77, why }] => Err(why.to_string()),
        other => Err(format!("{other:?}")),
    }
}
