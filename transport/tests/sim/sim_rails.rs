//! Nodes of two NIs over kernel sockets and over TCP stacks on the queues of one port and of two: alone, and with their
//! peers' homes on lcores that have no queue.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dataplane::mem::{MemConfig, MemPort, pair};
use hugepages::{Backing, LendSlab, PrivatePages};
use tcpstack::{Stack, StackConfig};
use transport::lnd::Config;
use transport::node::inspect::{Filter, Inspection};
use transport::node::lcore::LcoreStreams;
use transport::node::{BuildError, Inspect, NodeBuilder, Ports, RingApp, Shard, Streams};
use transport::stream::ShardId;
use transport::wire::Nid;

use crate::nodes::{beginning, lcores, stack};
use crate::rails::{End, all_ways, app, at_rest};

fn memory() -> Arc<dyn Backing> {
    Arc::new(PrivatePages)
}

fn nids(all: [&str; 2]) -> [Nid; 2] {
    all.map(|n| n.parse().unwrap())
}

/// Turns all shards once.
type Turn<'a, S> = &'a mut dyn FnMut(&mut [Shard<S, RingApp>]);

fn down<S: Streams + Inspect>(shards: &mut [Shard<S, RingApp>], turn: Turn<'_, S>) {
    shards.iter_mut().for_each(Shard::shut_down);
    for _ in 0..2_000_000 {
        if shards.iter().all(Shard::is_down) {
            return;
        }
        turn(shards);
    }
    panic!("a shard does not go down: {:?}", shards.iter().map(Shard::left).collect::<Vec<_>>());
}

#[test]
fn over_kernel_sockets() {
    for (a, b) in [
        (["127.46.0.1@tcp", "127.46.1.1@tcp1"], ["127.46.0.2@tcp", "127.46.1.2@tcp1"]),
        (["127.46.0.3@tcp", "127.46.0.3@tcp1"], ["127.46.0.4@tcp", "127.46.0.4@tcp1"]),
    ] {
        let (a, b) = (nids(a), nids(b));
        let node = |n: [Nid; 2], app| {
            NodeBuilder::of(Config::new(n[0], 5)).also(n[1]).unprivileged(9890).sockets(app).unwrap()
        };
        let ((ha, aa), (hb, ab)) = (app(), app());
        let mut shards = [node(a, aa), node(b, ab)];
        let (from, to) = (
            End { handle: &ha, nids: &a, backing: &memory() },
            End { handle: &hb, nids: &b, backing: &memory() },
        );
        let turn = |shards: &mut [Shard<_, RingApp>]| {
            shards.iter_mut().for_each(|s| {
                s.turn();
            });
        };
        all_ways(&from, &to, &mut || turn(&mut shards));
        all_ways(&to, &from, &mut || turn(&mut shards));
        for _ in 0..100_000 {
            turn(&mut shards);
            if shards.iter_mut().all(|s| at_rest(std::slice::from_mut(s), 2)) {
                break;
            }
        }
        assert!(shards.iter_mut().all(|s| at_rest(std::slice::from_mut(s), 2)));
        down(&mut shards, &mut |s| turn(s));
    }
}

fn ip(n: Nid) -> Ipv4Addr {
    let Some(IpAddr::V4(ip)) = n.ip() else { panic!() };
    ip
}

/// Stacks with both addresses on one port.
fn both(port: MemPort, n: [Nid; 2], seed: u64) -> Stack<MemPort> {
    let mut cfg = StackConfig { secret: Some([seed, 1]), ..StackConfig::new(ip(n[0]), 16) };
    if n[0].ip() != n[1].ip() {
        cfg.addrs.push((ip(n[1]).into(), 16));
    }
    Stack::new(cfg, port, LendSlab::new(512)).unwrap()
}

/// The nodes' streams: over one port, or over two with an NI each.
fn streams(two: bool, nodes: [[Nid; 2]; 2], mem: &MemConfig) -> [Vec<Stack<MemPort>>; 2] {
    let links: Vec<_> = (0..if two { 2 } else { 1 }).map(|_| pair(mem)).collect();
    let (left, right): (Vec<_>, Vec<_>) = links.into_iter().unzip();
    let mut of = [left, right].into_iter();
    nodes.map(|n| {
        let ports = of.next().unwrap();
        let each = (0..).zip(ports);
        each.map(|(i, p)| if two { stack(ip(n[i]), p, 3, 512) } else { both(p, n, 3) }).collect()
    })
}

/// The first node has one lcore; the second so many, of which the first has the queues.
fn over_queues(two: bool, a: [&str; 2], b: [&str; 2], shards: u16) {
    let (mem, now) = (MemConfig::default(), beginning());
    let (a, b) = (nids(a), nids(b));
    let clock = || dataplane::clock::Clock::virtual_time(now.clone());
    let node = |n: [Nid; 2], epoch| NodeBuilder::of(Config::new(n[0], epoch)).also(n[1]).clock(clock());
    let [left, right] = streams(two, [a, b], &mem);
    let (ha, aa) = app();
    let mut client = [node(a, 1).over_ports(left, aa).unwrap()];
    let inspection = Arc::new(Inspection::new(shards.into(), clock()));
    let plan = node(b, 2).lcores(lcores(shards, 1, &mem)).inspection(inspection.clone()).plan().unwrap();
    let mut own = Some(plan.ports(ShardId(0), right).unwrap());
    let (handles, apps): (Vec<_>, Vec<_>) = (0..shards).map(|_| app()).unzip();
    let mut servers: Vec<Shard<Ports<LcoreStreams<MemPort>>, RingApp>> = (0..)
        .map(ShardId)
        .zip(apps)
        .map(|(i, app)| match shards {
            1 => plan.single(own.take().unwrap(), app).unwrap(),
            _ => plan.meshed(i, own.take(), app).unwrap(),
        })
        .collect();
    let pass = |busy| now.fetch_add(if busy { 1_000 } else { 20_000 }, Ordering::Relaxed);
    // The application sits on the last lcore.
    let hb = handles.last().unwrap();
    let (from, to) =
        (End { handle: &ha, nids: &a, backing: &memory() }, End { handle: hb, nids: &b, backing: &memory() });
    let mut turn = || {
        let mut work = client[0].turn();
        servers.iter_mut().for_each(|s| work = work.and(s.turn()));
        pass(work.is_busy());
    };
    all_ways(&from, &to, &mut turn);
    all_ways(&to, &from, &mut turn);
    (0..20_000).for_each(|_| turn());
    assert!(at_rest(&mut client, 2) && at_rest(&mut servers, 2));
    let copied = client[0].streams().unwrap().counters().tx_copied_bytes;
    assert_eq!(copied, 0, "pages go out by reference by every port");
    // Looking in shows the connections of all ports, each by its own name.
    let mut rows = Vec::new();
    std::thread::scope(|s| {
        let asked = s.spawn(|| {
            inspection.connections(Filter::default(), |row| {
                rows.push((row.conn, row.stats.local.ip()));
                true
            })
        });
        while !asked.is_finished() {
            servers.iter_mut().for_each(|s| {
                s.turn();
            });
        }
        asked.join().unwrap().unwrap();
    });
    rows.sort();
    rows.dedup_by_key(|r| r.0);
    assert_eq!(rows.len(), 6, "{rows:?}");
    for nid in b {
        assert!(rows.iter().filter(|r| Some(r.1) == nid.ip()).count() >= 3, "{rows:?}");
    }
    client[0].shut_down();
    for _ in 0..2_000_000 {
        if client[0].is_down() {
            break;
        }
        pass(client[0].turn().is_busy());
        servers.iter_mut().for_each(|s| {
            s.turn();
        });
    }
    assert!(client[0].is_down(), "{:?}", client[0].left());
    down(&mut servers, &mut |all| {
        all.iter_mut().for_each(|s| {
            s.turn();
        });
        pass(false);
    });
}

const TWO: [[&str; 2]; 2] = [["10.6.0.1@tcp", "10.7.0.1@tcp1"], ["10.6.0.2@tcp", "10.7.0.2@tcp1"]];
const ONE: [[&str; 2]; 2] = [["10.6.0.1@tcp", "10.6.0.1@tcp1"], ["10.6.0.2@tcp", "10.6.0.2@tcp1"]];

#[test]
fn two_nis_on_two_ports() {
    over_queues(true, TWO[0], TWO[1], 1);
}

#[test]
fn two_nis_on_two_ports_with_homes_on_other_lcores() {
    over_queues(true, TWO[0], TWO[1], 3);
}

#[test]
fn two_nis_on_one_port() {
    over_queues(false, TWO[0], TWO[1], 1);
}

#[test]
fn tcp_and_tcp1_on_one_port() {
    over_queues(false, ONE[0], ONE[1], 1);
    over_queues(false, ONE[0], ONE[1], 2);
}

#[test]
fn an_ni_is_on_one_port() {
    let (a, b) = (nids(TWO[0]), nids(ONE[0]));
    let node = |n: [Nid; 2]| NodeBuilder::of(Config::new(n[0], 1)).also(n[1]);
    let mem = MemConfig::default();
    let one = |ip: [u8; 4]| stack(ip.into(), pair(&mem).0, 3, 64);
    let said = |r: Result<Shard<_, RingApp>, BuildError>| r.err().unwrap().to_string();
    let e = said(node(a).over_ports(vec![one([10, 6, 0, 1]), one([10, 8, 0, 1])], app().1));
    assert!(e.contains("10.7.0.1@tcp1 is on none") && e.contains("give one of them 10.7.0.1"), "{e}");
    let e = said(node(b).over_ports(vec![one([10, 6, 0, 1]), one([10, 6, 0, 1])], app().1));
    assert!(e.contains("10.6.0.1@tcp is on two") && e.contains("take 10.6.0.1 away"), "{e}");
    let e = said(node(b).over_ports(Vec::<Stack<MemPort>>::new(), app().1));
    assert!(e.contains("0 ports") && e.contains("1 to 16"), "{e}");
    let two = || vec![one([10, 6, 0, 1]), one([10, 7, 0, 1])];
    let elsewhere = "10.9.0.1:988".parse().unwrap();
    let e = said(node(a).listen_at([elsewhere]).over_ports(two(), app().1));
    assert!(e.contains("10.9.0.1:988") && e.contains("the NID's address"), "{e}");
    node(a).listen_at(["0.0.0.0:988".parse().unwrap()]).over_ports(two(), app().1).unwrap();
    let e = node(a).over(one([10, 6, 0, 1]), app().1).err().unwrap().to_string();
    assert!(e.contains("10.7.0.1@tcp1 is on none"), "{e}");
}
