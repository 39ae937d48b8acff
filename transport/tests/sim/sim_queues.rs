//! Whole nodes whose lcores each have a queue of the port, in virtual time: dialled connections live at the home of
//! their peer, passive ones where the device puts them, and a device that changes its mind loses nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

use dataplane::fault::Faults;
use dataplane::mem::{MemConfig, MemPort, Spread, pair_of_queues};
use dataplane::steer::{KEY, Rss};
use tcpstack::{Counters, Stack};
use transport::lnd::{AppId, Shards, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::node::lcore::LcoreStreams;
use transport::node::{Lcores, Shard};
use transport::stream::ShardId;
use transport::testing::data::{Spot, sum, summed};

use crate::nodes::{
    Faulty, Now, Rt, Script, all_home, bad_network, beginning, builder, faulty, lcores, logged, stack,
    target, turn,
};

struct Node {
    ip: Ipv4Addr,
    shards: Vec<Shard<Rt, Script>>,
}

impl Node {
    /// A node with a queue for each of `ports`, and `idle` lcores without one.
    fn new(ip: Ipv4Addr, ports: Vec<MemPort>, idle: u16, net: &Net, now: &Now) -> Node {
        let queues = ports.len() as u16;
        let count = queues + idle;
        // Each lcore is of a CPT of its own.
        let of_node = Lcores { cpts: (0..count.into()).collect(), ..lcores(count, queues, &net.mem) };
        let node = builder(ip, 1000 + net.seed, now).lcores(of_node).plan().unwrap();
        let mut ports = ports.into_iter();
        let shards = (0..count)
            .map(|i| {
                let own = ports.next().map(|p| {
                    let seed = net.seed * 100 + u64::from(ip.octets()[3]) * 10 + u64::from(i);
                    let port = faulty(p, net.faults, seed, now);
                    node.lcore(ShardId(i), stack(ip, port, seed, 512)).unwrap()
                });
                node.meshed(ShardId(i), own, Script::default()).unwrap()
            })
            .collect();
        Node { ip, shards }
    }

    fn home_of(&self, peer: Ipv4Addr) -> usize {
        usize::from(Shards::new(0, self.shards.len() as u16).unwrap().home_of(IpAddr::V4(peer)).0)
    }

    /// The stacks, by queue.
    fn stacks(&mut self) -> impl Iterator<Item = &mut Stack<Faulty>> {
        self.shards.iter_mut().filter_map(|s| s.streams().map(LcoreStreams::stack))
    }

    fn sum(&mut self, f: impl Fn(&Counters) -> u64) -> u64 {
        self.stacks().map(|s| f(&s.counters())).sum()
    }

    /// From now on every packet comes to another queue than before.
    fn turn_table(&mut self) {
        let queues = self.stacks().count() as u16;
        let Some(used) = self.stacks().position(|s| s.flows() > 0) else { panic!("no connection") };
        let Some(first) = self.stacks().next() else { panic!("no queue") };
        let turned = if first.steering().is_by_hash() {
            rss(queues, 1)
        } else {
            Rss::new(KEY.to_vec(), vec![(used as u16 + 1) % queues; 128])
        };
        first.port_mut().inner().respread(turned);
    }

    fn logged(&self, f: impl Fn(&Event) -> bool) -> usize {
        self.shards.iter().map(|s| logged(&s.app.log, &f)).sum()
    }
}

/// Link between two nodes.
struct Net {
    a: Spread,
    b: Spread,
    /// Lcores of each node beside those with a queue.
    idle: u16,
    faults: Faults,
    seed: u64,
    mem: MemConfig,
    /// The devices' tables are turned in the middle of the traffic, and nobody is told.
    turn: bool,
}

fn rss(queues: u16, turned: u16) -> Rss {
    Rss::new(KEY.to_vec(), (0..128).map(|i| (i + turned) % queues).collect())
}

impl Net {
    fn new(a: Spread, b: Spread) -> Net {
        let mem = MemConfig::default();
        Net { a, b, idle: 0, faults: Faults::default(), seed: 1, mem, turn: false }
    }

    fn rss(a: u16, b: u16) -> Net {
        Net::new(Spread::Rss(a, rss(a, 0)), Spread::Rss(b, rss(b, 0)))
    }
}

struct World {
    now: Now,
    nodes: [Node; 2],
}

impl World {
    /// Two nodes; the other one's home is shard `homes` of each.
    fn new(net: &Net, homes: [u16; 2]) -> World {
        let now = beginning();
        let (a, b) = pair_of_queues(&net.mem, net.a.clone(), net.b.clone());
        let pick = |here: usize, home: u16, block: u8| {
            let count = Shards::new(0, here as u16 + net.idle).unwrap();
            let fits = |ip: &Ipv4Addr| count.home_of(IpAddr::V4(*ip)) == ShardId(home);
            (1..=250).map(|i| Ipv4Addr::new(10, 5, block, i)).find(fits).unwrap()
        };
        let (ip_b, ip_a) = (pick(a.len(), homes[0], 1), pick(b.len(), homes[1], 2));
        let nodes = [Node::new(ip_a, a, net.idle, net, &now), Node::new(ip_b, b, net.idle, net, &now)];
        World { now, nodes }
    }

    /// Turns until `done`, jumping to the next deadline when nothing moves. At most two virtual minutes.
    fn run(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        let end = self.now.load(Ordering::Relaxed) + 120_000_000_000;
        while !done(self) {
            let now = self.now.load(Ordering::Relaxed);
            if now >= end {
                for n in &mut self.nodes {
                    n.stacks().for_each(|s| println!("{:?}", s.counters()));
                }
                panic!("{what}: not within two minutes");
            }
            turn(&self.now, self.nodes.iter_mut().flat_map(|n| &mut n.shards));
        }
    }

    fn shut_down(mut self) {
        for i in [0, 1] {
            self.nodes[i].shards.iter_mut().for_each(Shard::shut_down);
            self.run("down", |w| w.nodes[i].shards.iter().all(Shard::is_down));
        }
        self.run("everything home", |w| w.nodes.iter().flat_map(|n| &n.shards).all(all_home));
    }
}

/// Every connection is where it belongs: dialled ones at the home of their peer and with a port that brings them
/// there, passive ones on the queue that the hash says.
fn placed(w: &mut World) {
    for n in &mut w.nodes {
        let mut dialled = 0;
        for i in 0..n.shards.len() {
            let Some(rt) = n.shards[i].streams() else { continue };
            let stack = rt.stack();
            let steering = stack.steering().clone();
            let conns: Vec<(SocketAddr, SocketAddr, Option<bool>)> =
                stack.connections(0, 64).map(|(_, c)| (c.local, c.remote, c.passive)).collect();
            for (local, remote, passive) in conns {
                if passive == Some(false) {
                    dialled += 1;
                    let IpAddr::V4(peer) = remote.ip() else { panic!("{remote}") };
                    assert_eq!(n.home_of(peer), i, "{local} to {remote} is not at its peer's home");
                    assert!((512..=1023).contains(&local.port()) && local.port() != 988);
                }
                if steering.is_by_hash() || passive == Some(false) {
                    assert_eq!(usize::from(steering.owner(local, remote)), i, "{local} from {remote}");
                }
            }
        }
        println!("{}: {dialled} dialled", n.ip);
    }
}

/// PUTs both ways to a portal of each shard, and GETs; every byte checked, everything home at the end.
fn traffic(net: &Net, homes: [u16; 2], puts: u64, len: usize) {
    let mut w = World::new(net, homes);
    let ips = [w.nodes[0].ip, w.nodes[1].ip];
    let (source, source_crc) = summed(200_000, 99);
    let mut portals = [0; 2];
    for (n, portals) in w.nodes.iter_mut().zip(&mut portals) {
        *portals = n.shards.len();
        let attach = |portal, mem| (AppId::FIRST, Spot(portal, 7).attach(0, MdSpec::new(mem)));
        for p in 0..*portals as u32 {
            n.shards[0].app.todo.push_back(attach(10 + p, MdMem::Sink(Sink::Lend(1 << 20))));
        }
        n.shards[0].app.todo.push_back(attach(30, MdMem::Source(source.clone())));
    }
    let want = portals.map(|p| p + 1);
    w.run("attach", |w| {
        (0..2).all(|i| w.nodes[i].logged(|e| matches!(e, Event::Attached { .. })) == want[i])
    });
    let submit = |w: &mut World, part: std::ops::Range<u64>| {
        for (i, to) in [(0, 1), (1, 0)] {
            for k in part.clone() {
                let (payload, sum) = summed(len, k);
                let portal = 10 + (k as usize % portals[to]) as u32;
                let op = Spot(portal, 7).put_with(k, sum, target(ips[to]), payload, true);
                let shards = w.nodes[i].shards.len();
                w.nodes[i].shards[k as usize % shards].app.todo.push_back((AppId::FIRST, op));
            }
        }
    };
    let last = |e: &Event| {
        matches!(e, Event::Ack { done: true, .. } | Event::Send { done: true, .. } | Event::Reply { .. })
    };
    submit(&mut w, 0..puts / 2);
    w.run("some of it", |w| w.nodes.iter().all(|n| n.logged(last) > 0));
    placed(&mut w);
    if net.turn {
        w.nodes.iter_mut().for_each(Node::turn_table);
    }
    submit(&mut w, puts / 2..puts);
    for (i, to) in [(0, 1), (1, 0)] {
        let get = Spot(30, 7).get(9000, target(ips[to]), Sink::Lend(200_000));
        w.nodes[i].shards[0].app.todo.push_back((AppId::FIRST, get));
    }
    let all = puts as usize + 1;
    let seen = |n: &Node| n.logged(|e| matches!(e, Event::Put(_))) as u64;
    w.run("traffic", |w| w.nodes.iter().all(|n| n.logged(last) == all && seen(n) >= puts));
    placed(&mut w);
    for n in &mut w.nodes {
        let mut seen = 0;
        for e in n.shards.iter().flat_map(|s| s.app.log.borrow_mut().drain(..).collect::<Vec<_>>()) {
            match e {
                Event::Ack { status, mlength, .. } => assert_eq!((status, mlength), (Ok(()), len as u32)),
                Event::Send { status, .. } => assert_eq!(status, Ok(())),
                Event::Reply { status, data, .. } => assert_eq!((status, sum(&data)), (Ok(()), source_crc)),
                Event::Put(p) => {
                    seen += 1;
                    assert_eq!((p.status, p.mlength), (Ok(()), len as u32));
                    assert_eq!(sum(&p.data), p.hdr_data, "payload of PUT {seen}");
                }
                Event::Get(g) => assert_eq!(g.status, Ok(())),
                Event::Attached { .. } => {}
                e => panic!("{e:?}"),
            }
        }
        assert_eq!(seen, puts, "each once");
        let (handed, lost) = (n.sum(|c| c.strays_handed), n.sum(|c| c.strays_lost));
        // Late copies of what both dialled at once, and one of them closed, are looked for and then reset.
        if net.turn || net.faults.delay_ns == 0 {
            assert_eq!(handed > 0, net.turn, "{handed} segments handed over");
        }
        let reset = if net.faults.delay_ns == 0 { n.sum(|c| c.rst_sent) } else { 0 };
        assert_eq!((lost, reset), (0, 0));
        // One speaks for all, each asks for itself.
        assert!(n.sum(|c| c.arp_requests) <= n.stacks().count() as u64 * 3);
    }
    w.shut_down();
}

#[test]
fn two_and_four_queues_by_hash() {
    for (a, b) in [(2, 2), (2, 4), (4, 1)] {
        for homes in [[0, 0], [1, b - 1], [a - 1, 0]] {
            println!("{a} and {b} queues, homes {homes:?}");
            traffic(&Net::rss(a, b), homes, 12, 300_000);
        }
    }
}

#[test]
fn mirrored_queues() {
    for n in [2, 4] {
        for homes in [[0, 0], [1, 0], [n - 1, n - 1]] {
            println!("{n} queues, homes {homes:?}");
            traffic(&Net::new(Spread::Mirror(n), Spread::Mirror(n)), homes, 12, 300_000);
        }
    }
}

#[test]
fn lcores_without_a_queue_are_homes_behind_rings() {
    // The home of the peer is such an lcore, and one with a queue.
    for homes in [[2, 3], [3, 0], [1, 2]] {
        println!("homes {homes:?}");
        let net = Net { idle: 2, ..Net::rss(2, 2) };
        traffic_between_rings(&net, homes);
    }
}

/// As [`traffic`], where a dialled connection is its home's own only if the home has a queue.
fn traffic_between_rings(net: &Net, homes: [u16; 2]) {
    let mut w = World::new(net, homes);
    let ips = [w.nodes[0].ip, w.nodes[1].ip];
    for (i, to) in [(0, 1), (1, 0)] {
        w.nodes[i].shards[0].app.todo.push_back((AppId::FIRST, Op::Ping { tag: 1, target: target(ips[to]) }));
    }
    let pings = |n: &Node| n.logged(|e| matches!(e, Event::Ping { info: Ok(_), .. }));
    w.run("pings", |w| w.nodes.iter().all(|n| pings(n) == 1));
    for n in &mut w.nodes {
        assert_eq!((n.sum(|c| c.strays_handed), n.sum(|c| c.rst_sent)), (0, 0));
    }
    w.shut_down();
}

#[test]
fn a_device_that_turns_its_table_loses_nothing() {
    for net in [
        Net::rss(2, 2),
        Net::rss(4, 2),
        Net::new(Spread::Mirror(2), Spread::Mirror(2)),
        Net::new(Spread::Mirror(4), Spread::Mirror(4)),
    ] {
        println!("{:?}", net.a);
        traffic(&Net { turn: true, ..net }, [1, 0], 24, 200_000);
    }
}

#[test]
fn a_bad_network_changes_nothing_but_the_time() {
    let faults = bad_network();
    for seed in 1..=8 {
        println!("seed {seed}");
        let mem =
            MemConfig { tso_max: 0, csum: false, lazy: (seed % 3) as usize * 4, ..MemConfig::default() };
        let net = if seed % 2 == 0 { Net::rss(2, 4) } else { Net::new(Spread::Mirror(2), Spread::Mirror(2)) };
        let net = Net { faults, seed, mem, turn: seed % 4 < 2, ..net };
        traffic(&net, [(seed % 2) as u16, (seed / 2 % 2) as u16], 6, 200_000);
    }
}
