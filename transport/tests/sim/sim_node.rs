//! Whole nodes over in-memory ports in virtual time: TCP, socklnd and LNet together, on a bad network, with the
//! peer's home on another lcore than its flows.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;

use dataplane::fault::Faults;
use dataplane::mem::{MemConfig, pair};
use hugepages::PageSlice;
use transport::lnd::{AppId, Data, Payload, Shards, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op, PIECES_MAX};
use transport::node::Shard;
use transport::stream::{Bucket, ShardId};
use transport::testing::data::{Spot, run, sum, summed};
use transport::wire::ProcessId;

use crate::nodes::{
    Now, Rt, Script, all_home, bad_network, beginning, builder, faulty, lcores, logged, nid, stack, target,
    turn,
};

pub(super) struct World {
    now: Now,
    pub(super) client: Shard<Rt, Script>,
    pub(super) servers: Vec<Shard<Rt, Script>>,
    /// The client's, at the server.
    bucket: Bucket,
    /// The client's home moves on after so many turns.
    pub(super) move_every: Option<u64>,
    /// Payload is copied, in copy jobs.
    copy_jobs: bool,
    turns: u64,
}

pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 1);

impl World {
    /// A client, and a server of `shards` shards of which only the first has a queue. The client's address is
    /// such that its home is shard `home`.
    pub(super) fn new(shards: u16, home: u16, faults: Faults, seed: u64, mem: &MemConfig) -> World {
        World::lending(512, shards, home, faults, seed, mem)
    }

    /// The same; each node lends so many runs of pages at a time.
    fn lending(lendings: usize, shards: u16, home: u16, faults: Faults, seed: u64, mem: &MemConfig) -> World {
        let now = beginning();
        let count = Shards::new(0, shards).unwrap();
        let client_ip = (2..=250)
            .map(|i| Ipv4Addr::new(10, 5, 1, i))
            .find(|ip| count.home_of(IpAddr::V4(*ip)) == ShardId(home))
            .unwrap();
        let (a, b) = pair(mem);
        let client = stack(client_ip, faulty(a, faults, seed * 2, &now), seed * 2, lendings);
        let client = builder(client_ip, 1000 + seed, &now).over(client, Script::default()).unwrap();
        let own = stack(SERVER, faulty(b, faults, seed * 2 + 1, &now), seed * 2 + 1, lendings);
        let node = builder(SERVER, 2000 + seed, &now).lcores(lcores(shards, 1, mem)).plan().unwrap();
        let mut own = Some(node.lcore(ShardId(0), own).unwrap());
        let servers =
            (0..shards).map(|i| node.meshed(ShardId(i), own.take(), Script::default()).unwrap()).collect();
        let bucket = Bucket::of(IpAddr::V4(client_ip));
        World { now, client, servers, bucket, move_every: None, copy_jobs: false, turns: 0 }
    }

    /// Turns until `done`, jumping to the next deadline when nothing moves. At most two virtual minutes.
    pub(super) fn run(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        let end = self.now.load(Ordering::Relaxed) + 120_000_000_000;
        let mut idle = 0;
        while !done(self) {
            let now = self.now.load(Ordering::Relaxed);
            if now >= end {
                for e in self.client.app.log.borrow().iter() {
                    println!("client: {e:?}");
                }
                for (i, m) in std::iter::once(&self.client.machine)
                    .chain(self.servers.iter().map(|s| &s.machine))
                    .enumerate()
                {
                    println!(
                        "machine {i}: {:?}",
                        m.counters().iter().filter(|c| c.1 > 0).collect::<Vec<_>>()
                    );
                }
                println!(
                    "{:?} {:?}",
                    self.client.counters(),
                    self.client.streams().unwrap().stack().counters()
                );
                panic!("{what}: not within two minutes");
            }
            self.turns += 1;
            if self.move_every.is_some_and(|n| self.turns.is_multiple_of(n)) {
                self.move_on();
            }
            let moved = turn(&self.now, std::iter::once(&mut self.client).chain(&mut self.servers));
            idle = if moved { 0 } else { idle + 1 };
            assert!(idle < 1_000_000, "{what}: nothing moves");
        }
    }

    /// Moves the client's home to the next shard, unless a move is under way.
    fn move_on(&mut self) {
        let (b, n) = (self.bucket, self.servers.len() as u16);
        let home = self.servers.iter_mut().find(|s| s.machine.home_of(b) == s.machine.config().shards.me());
        if let Some(s) = home {
            let me = s.machine.config().shards.me().0;
            s.move_home(b, ShardId((me + 1) % n));
        }
    }

    pub(super) fn moves(&self) -> u64 {
        self.servers.iter().map(|s| s.machine.counters().homes_adopted).sum()
    }

    pub(super) fn shut_down(mut self) {
        self.client.shut_down();
        self.run("client down", |w| w.client.is_down());
        self.servers.iter_mut().for_each(|s| s.shut_down());
        self.run("server down", |w| w.servers.iter().all(|s| s.is_down()));
        // Late copies are still on their way, and pages wait for the driver to let go.
        self.run("everything home", |w| w.servers.iter().chain([&w.client]).all(all_home));
    }
}

/// PUTs to a portal of each shard, a GET and pings; every byte checked, everything home at the end.
fn traffic(w: World, puts: u64, len: usize) {
    traffic_until(w, puts, len, |_| {});
}

/// The same; `judge` looks before the end.
fn traffic_until(mut w: World, puts: u64, len: usize, judge: impl Fn(&World)) {
    let n = w.servers.len() as u32;
    let mut entries = 0;
    let each = if w.copy_jobs { puts as u32 } else { n };
    for portal in (0..each).map(|i| 10 + i % n) {
        // Each is good for one PUT where it is copied, so that its run comes back.
        let sink = if w.copy_jobs { Sink::Copy(run(len)) } else { Sink::Lend(1 << 20) };
        let mut op = Spot(portal, 7).attach(portal.into(), MdSpec::new(MdMem::Sink(sink)));
        if let Op::Attach { md, .. } = &mut op {
            md.threshold = w.copy_jobs.then_some(1);
        }
        w.servers[0].app.todo.push_back((AppId::FIRST, op));
        entries += 1;
    }
    let share = w.copy_jobs;
    w.servers.iter_mut().for_each(|s| s.offload(share));
    let (source, source_crc) = summed(300_000, 99);
    w.servers[0]
        .app
        .todo
        .push_back((AppId::FIRST, Spot(20, 7).attach(20, MdSpec::new(MdMem::Source(source)))));
    let server_log = w.servers[0].app.log.clone();
    w.run("attach", |_| logged(&server_log, |e| matches!(e, Event::Attached { .. })) == entries + 1);
    for i in 0..puts {
        let (p, crc) = summed(len, i);
        w.client
            .app
            .todo
            .push_back((AppId::FIRST, Spot(10 + i as u32 % n, 7).put_with(i, crc, target(SERVER), p, true)));
    }
    let target = ProcessId::lustre(nid(SERVER));
    w.client.app.todo.push_back((AppId::FIRST, Op::Ping { tag: 5000, target }));
    let sink = Sink::Lend(300_000);
    w.client.app.todo.push_back((
        AppId::FIRST,
        Op::Get { tag: 6000, target, from: None, portal: 20, match_bits: 7, sink },
    ));
    let log = w.client.app.log.clone();
    let last = |e: &Event| {
        matches!(
            e,
            Event::Send { done: true, .. }
                | Event::Ack { done: true, .. }
                | Event::Ping { .. }
                | Event::Reply { .. }
        )
    };
    w.run("traffic", |_| logged(&log, last) as u64 == puts + 2);
    for e in log.borrow_mut().drain(..) {
        match e {
            Event::Ack { status, mlength, .. } => assert_eq!((status, mlength), (Ok(()), len as u32)),
            Event::Send { status, .. } => assert_eq!(status, Ok(())),
            Event::Ping { info, .. } => assert_eq!(info.unwrap().nis[0].nid, nid(SERVER)),
            Event::Reply { status, data, .. } => assert_eq!((status, sum(&data)), (Ok(()), source_crc)),
            e => panic!("{e:?}"),
        }
    }
    let mut seen = 0;
    for e in server_log.borrow_mut().drain(..) {
        if let Event::Put(p) = e {
            seen += 1;
            assert_eq!((p.status, p.mlength), (Ok(()), len as u32));
            let mut h = crc32fast::Hasher::new();
            match (&p.data, &p.unlinked) {
                (Data::Lent(parts), None) => parts.iter().for_each(|p| h.update(p.bytes())),
                (Data::InSink, Some(Some(run))) => h.update(&run.bytes()[..len]),
                _ => panic!("{:?}", p.data),
            }
            assert_eq!(u64::from(h.finalize()), p.hdr_data, "payload of PUT {seen}");
        }
    }
    assert_eq!(seen, puts);
    judge(&w);
    w.shut_down();
}

#[test]
fn one_shard_over_a_good_link() {
    traffic(World::new(1, 0, Faults::default(), 1, &MemConfig::default()), 24, 1 << 20);
}

#[test]
fn a_peer_whose_home_is_not_the_lcore_that_owns_its_flows() {
    for home in [0, 1, 2] {
        traffic(World::new(3, home, Faults::default(), 1, &MemConfig::default()), 24, 300_000);
    }
}

#[test]
fn a_bad_network_changes_nothing_but_the_time() {
    let faults = bad_network();
    for seed in 1..=12 {
        println!("seed {seed}");
        let mem = MemConfig {
            tso_max: 0,
            mtu: 9000,
            csum: false,
            lazy: (seed % 3) as usize * 4,
            ..MemConfig::default()
        };
        traffic(World::new(2, (seed % 2) as u16, faults, seed, &mem), 8, 200_000);
    }
}

#[test]
fn a_home_that_moves_again_and_again_loses_nothing() {
    for (shards, every) in [(2, 3), (2, 7), (2, 20), (3, 5), (3, 11), (4, 4)] {
        for home in 0..shards {
            let mut w = World::new(shards, home, Faults::default(), 1, &MemConfig::default());
            w.move_every = Some(every);
            traffic_until(w, 200, 100_000, |w| assert!(w.moves() > 4, "{shards} {every}: {}", w.moves()));
        }
    }
}

#[test]
fn a_home_that_moves_on_a_bad_network_loses_nothing() {
    let faults = Faults { loss: 0.01, dup: 0.01, reorder: 0.02, delay_ns: 20_000, ..Faults::default() };
    let moves = std::cell::Cell::new(0);
    for seed in 1..=8 {
        println!("seed {seed}");
        let mem = MemConfig { tso_max: 0, mtu: 9000, csum: false, ..MemConfig::default() };
        let mut w = World::new(2 + (seed % 2) as u16, (seed % 2) as u16, faults, seed, &mem);
        w.move_every = Some(3 + 5 * seed);
        traffic_until(w, 8, 200_000, |w| moves.set(moves.get() + w.moves()));
    }
    assert!(moves.get() > 40, "{}", moves.get());
}

/// Copies are made by whichever shard takes them, with the home at the queue and elsewhere, while it moves, and on a bad
/// network.
#[test]
fn copy_jobs_go_round_a_node_and_lose_nothing() {
    for (shards, home, every, loss) in [
        (2, 0, None, 0.0),
        (2, 1, None, 0.0),
        (3, 0, Some(7), 0.0),
        (3, 1, Some(40), 0.01),
        (1, 0, None, 0.0),
    ] {
        let faults = Faults { loss, dup: loss, reorder: loss, ..Faults::default() };
        let mut w = World::new(shards, home, faults, 5, &MemConfig::default());
        (w.move_every, w.copy_jobs) = (every, true);
        traffic_until(w, 40, 300_000, |w| {
            let sum = |name| {
                let mut n = 0;
                w.servers.iter().for_each(|s| s.details(&mut |k, v| n += if k == name { v } else { 0 }));
                n
            };
            let given: u64 = w.servers.iter().map(|s| s.machine.counters().boxes).sum();
            let (helped, bytes) = (sum("boxes_helped"), sum("boxes_helped_bytes"));
            assert!(given > 5 && helped <= given && bytes == helped * 300_000, "{given} {helped} {bytes}");
            assert_eq!(helped > 0, shards > 1, "{given} given away, {helped} run by others");
        });
    }
}

#[test]
fn a_node_goes_down_in_order_while_a_peer_moves() {
    for turns in 0..12 {
        let mut w = World::new(3, 0, Faults::default(), 1, &MemConfig::default());
        let target = ProcessId::lustre(nid(SERVER));
        w.client.app.todo.push_back((AppId::FIRST, Op::Ping { tag: 1, target }));
        let log = w.client.app.log.clone();
        w.run("ping", |_| logged(&log, |e| matches!(e, Event::Ping { .. })) == 1);
        w.move_on();
        for _ in 0..turns {
            w.servers.iter_mut().for_each(|s| {
                s.turn();
            });
        }
        // Each goes at another moment, and is not turned any more once it is down.
        for i in 0..3 {
            w.servers[i].shut_down();
            w.servers.iter_mut().filter(|s| !s.is_down()).for_each(|s| {
                s.turn();
            });
        }
        for _ in 0..10_000 {
            w.now.fetch_add(10_000, Ordering::Relaxed);
            w.client.turn();
            w.servers.iter_mut().filter(|s| !s.is_down()).for_each(|s| {
                s.turn();
            });
        }
        assert!(w.servers.iter().all(|s| s.is_down()), "after {turns} turns");
    }
}

#[test]
fn the_peers_of_a_shard_that_panicked_hear_of_it_at_once() {
    for (shards, what) in [(1, "its own runtime"), (3, "one that links shards")] {
        let mut w = World::new(shards, 0, Faults::default(), 1, &MemConfig::default());
        let target = ProcessId::lustre(nid(SERVER));
        w.client.app.todo.push_back((AppId::FIRST, Op::Ping { tag: 1, target }));
        let log = w.client.app.log.clone();
        w.run("ping", |_| logged(&log, |e| matches!(e, Event::Ping { .. })) == 1);
        assert!(w.client.counters().conns > 0);
        transport::node::Turn::fail(&mut w.servers[0]);
        let at = w.now.load(Ordering::Relaxed);
        // Only the client is turned from here on, and no time passes in which it could notice by itself.
        for _ in 0..10 {
            w.client.turn();
        }
        // A dial may have begun meanwhile: what was read in front of a RST can call for one.
        let stack = w.client.streams().unwrap().stack();
        let open = stack.connections(0, stack.slots()).filter(|(_, c)| c.state.synchronised()).count();
        assert_eq!((open, w.client.machine.gauges().conns_up), (0, 0), "{what}");
        assert_eq!(w.now.load(Ordering::Relaxed), at);
    }
}

/// A payload of `n` pieces that lie apart.
fn pieces(n: usize, each: usize) -> (Payload, u64) {
    let (mut all, mut sum) = (smallvec::SmallVec::new(), crc32fast::Hasher::new());
    for i in 0..n {
        let (Payload::Pages(p), _) = summed(each, i as u64) else { unreachable!() };
        p.iter().flat_map(PageSlice::chunks).for_each(|b| sum.update(b));
        all.extend(p);
    }
    (Payload::Pages(all), u64::from(sum.finalize()))
}

/// One of the lends that a message needs fails: nothing of it is sent until all succeed, and then all of it.
#[test]
fn a_message_goes_whole_or_waits_while_one_of_its_lends_fails() {
    let mut w = World::lending(8, 1, 0, Faults::default(), 1, &MemConfig::default());
    let (log, server_log) = (w.client.app.log.clone(), w.servers[0].app.log.clone());
    w.servers[0]
        .app
        .todo
        .push_back((AppId::FIRST, Spot(10, 7).attach(10, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20))))));
    w.run("attach", |_| logged(&server_log, |e| matches!(e, Event::Attached { .. })) == 1);
    let slab = w.client.streams().unwrap().stack().slab().clone();
    let (Payload::Pages(p), _) = summed(64, 0) else { unreachable!() };
    let mut others: Vec<_> = (0..7).map(|_| slab.lend(p[0].clone(), u64::MAX).unwrap()).collect();
    let (payload, crc) = pieces(3, 20_000);
    w.client.app.todo.push_back((AppId::FIRST, Spot(10, 7).put_with(1, crc, target(SERVER), payload, true)));
    // One lending is free, then two: of three.
    for free in [1, 2] {
        for _ in 0..2000 {
            w.now.fetch_add(10_000, Ordering::Relaxed);
            w.client.turn();
            w.servers[0].turn();
        }
        assert_eq!(slab.capacity() as u64 - slab.out(), free, "a part of the message was lent");
        assert_eq!(logged(&server_log, |e| matches!(e, Event::Put(_))), 0);
        drop(others.pop());
    }
    // SEND and ACK, in either order.
    let good =
        |e: &Event| matches!(e, Event::Send { status: Ok(()), .. } | Event::Ack { status: Ok(()), .. });
    w.run("put", |_| logged(&log, good) == 2);
    assert!(w.client.counters().lend_waits > 0);
    let got = server_log.borrow_mut().drain(..).find_map(|e| match e {
        Event::Put(p) => Some(p),
        _ => None,
    });
    let got = got.unwrap();
    let Data::Lent(parts) = &got.data else { panic!("{:?}", got.data) };
    let mut h = crc32fast::Hasher::new();
    parts.iter().for_each(|p| h.update(p.bytes()));
    assert_eq!((got.mlength, u64::from(h.finalize())), (60_000, crc));
    drop((got, others));
    w.shut_down();
}

/// A message that can never be lent, since it has more pieces than a runtime has lendings, ends in an error and holds
/// back no other.
#[test]
fn a_message_of_more_pieces_than_there_are_lendings_fails_alone() {
    let mut w = World::lending(2, 1, 0, Faults::default(), 1, &MemConfig::default());
    let log = w.client.app.log.clone();
    let (payload, crc) = pieces(3, 20_000);
    w.client.app.todo.push_back((AppId::FIRST, Spot(10, 7).put_with(1, crc, target(SERVER), payload, true)));
    let failed = |e: &Event| matches!(e, Event::Send { tag: 1, .. } | Event::Ack { tag: 1, .. });
    w.run("put", |_| logged(&log, failed) > 0);
    let all = |e: &Event| matches!(e, Event::Send { status: Err(_), .. } | Event::Ack { status: Err(_), .. });
    assert_eq!(logged(&log, all), logged(&log, failed), "{:?}", log.borrow());
    let target = ProcessId::lustre(nid(SERVER));
    w.client.app.todo.push_back((AppId::FIRST, Op::Ping { tag: 2, target }));
    w.run("ping", |_| logged(&log, |e| matches!(e, Event::Ping { info: Ok(_), .. })) == 1);
    // As many as LNet knows are the most that an operation may have, whatever the runtime.
    for (tag, n) in [(3, PIECES_MAX), (4, PIECES_MAX + 1)] {
        let (payload, crc) = pieces(n, 64);
        w.client.app.todo.push_back((AppId::FIRST, Spot(10, 7).put_with(tag, crc, target, payload, true)));
    }
    let refused = |e: &Event| matches!(e, Event::Refused { .. });
    w.run("refusal", |_| logged(&log, refused) > 0);
    let log = log.borrow();
    let Some(Event::Refused { tag: 4, why }) = log.iter().find(|e| refused(e)) else { panic!("{log:?}") };
    assert_eq!(why.to_string(), "a payload of 257 pieces; at most 256 are allowed: join some");
}

/// 900 was a shard's own id: what an application of that id asked for came to nobody.
#[test]
fn an_application_of_any_id_hears_of_its_own() {
    let mut w = World::new(1, 0, Faults::default(), 1, &MemConfig::default());
    let log = w.client.app.log.clone();
    for (i, n) in [0, 900, 937, 938, AppId::MAX].into_iter().enumerate() {
        let target = ProcessId::lustre(nid(SERVER));
        w.client.app.todo.push_back((AppId::new(n).unwrap(), Op::Ping { tag: n.into(), target }));
        w.run("ping", |_| logged(&log, |e| matches!(e, Event::Ping { info: Ok(_), .. })) == i + 1);
    }
    w.shut_down();
}

/// From 1,024 on, an id had no part of the lend budget, and all that was lent to it was copied.
#[test]
fn an_application_of_any_id_has_a_part_of_the_lend_budget() {
    for n in [0, 900, 938, AppId::MAX] {
        let mut w = World::new(1, 0, Faults::default(), 1, &MemConfig::default());
        let log = w.servers[0].app.log.clone();
        let app = AppId::new(n).unwrap();
        w.servers[0]
            .app
            .todo
            .push_back((app, Spot(10, 7).attach(10, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20))))));
        w.run("attach", |_| logged(&log, |e| matches!(e, Event::Attached { .. })) == 1);
        let (payload, crc) = summed(100_000, 1);
        w.client
            .app
            .todo
            .push_back((AppId::FIRST, Spot(10, 7).put_with(1, crc, target(SERVER), payload, true)));
        w.run("put", |_| logged(&log, |e| matches!(e, Event::Put(_))) == 1);
        let c = w.servers[0].machine.counters();
        assert_eq!((c.rx_lent_bytes, c.rx_copied_bytes), (100_000, 0), "application {n}");
        log.borrow_mut().clear();
        w.shut_down();
    }
}

/// Field report L5 over our own TCP: at whatever turn a node goes down, no dial of its peer fails, and each connection that it
/// has made itself gets through its handshake.
#[test]
fn a_node_that_goes_down_resets_no_dial() {
    for (turns, client_leaves) in (0..200).step_by(5).flat_map(|n| [(n, false), (n, true)]) {
        let mut w = World::new(1, 0, Faults::default(), 1, &MemConfig::default());
        let target = ProcessId::lustre(nid(SERVER));
        w.client.app.todo.push_back((AppId::FIRST, Op::Ping { tag: 1, target }));
        for _ in 0..turns {
            w.now.fetch_add(1_000, Ordering::Relaxed);
            w.client.turn();
            w.servers[0].turn();
        }
        if client_leaves {
            w.client.shut_down();
            w.run("client down", |w| w.client.is_down());
            let c = *w.servers[0].machine.counters();
            assert_eq!((c.dials_failed, c.err_eof_inside), (0, 0), "after {turns} turns");
            let taken = w.servers[0].streams().unwrap().stack().counters().accepted;
            assert_eq!(c.conns_up, taken, "after {turns} turns");
        } else {
            w.servers[0].shut_down();
            w.run("server down", |w| w.servers[0].is_down());
            assert_eq!(w.client.machine.counters().dials_failed, 0, "after {turns} turns");
        }
        w.shut_down();
    }
}
