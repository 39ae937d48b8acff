//! Multi-Rail: a node of one to three NIs beside a kernel of as many (`transport::testing::kernel`, one model for each of its
//! NIDs, which say of each other that they are one), of whose rails any dies and comes back under load. What never left goes by
//! another rail, nothing comes twice, and in the end all NIDs are well and used. And what a second rail is worth.
//!
//! ```text
//! SEED=17 TRACE=1 cargo test -p pollnd-transport --test sim -- --nocapture sim_multi_rail::rails   one seed again
//! make soak SEEDS=5000                                                                            more of them
//! ```

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::clock::Clock;
use dataplane::link::{LinkConfig, LinkPort, Path, join};
use dataplane::mem::MemConfig;
use transport::lnd::{Config, LnetError, Payload, Sink};
use transport::lnet::{BEST, Event, MdMem, MdSpec};
use transport::node::lcore::LcoreStreams;
use transport::node::{NodeBuilder, Ports, Shard};
use transport::testing::data::{Spot, pages};
use transport::testing::kernel::{Kernel, KernelConfig};
use transport::testing::net::{Cut, Net, SEC};
use transport::testing::rng::Rng;
use transport::wire::{Nid, ProcessId, Version};

use super::{number, play};
use crate::nodes::{Log, Now, Script, beginning, stack};
use crate::raw::AT;

/// Seeds of `make test`.
const SEEDS: u64 = 300;
/// Time between two looks of the kernels, in ns.
const STEP: u64 = 200_000;
/// Longer than any dead connection is taken for a live one, in ns.
const FOUND: u64 = 120 * SEC;
/// Longer than any operation lasts, in ns.
const QUIET: u64 = 200 * SEC;

fn ours(rail: usize) -> Nid {
    Nid::tcp([10, rail as u8, 0, 1].into(), rail as u16)
}

fn theirs(rail: usize) -> Nid {
    Nid::tcp([10, rail as u8, 0, 2].into(), rail as u16)
}

fn ip(nid: Nid) -> IpAddr {
    nid.ip().unwrap()
}

#[derive(Debug)]
struct Asked {
    acked: bool,
    end: Option<Result<(), LnetError>>,
    /// Time at which it was asked for, in ns.
    at: u64,
    /// Rails were lost between its beginning and its end.
    disturbed: bool,
}

struct World {
    net: Net,
    kernels: Vec<Kernel>,
    next: u64,
    asked: BTreeMap<u64, Asked>,
    down: BTreeSet<usize>,
    /// Time at which a rail was last lost, in ns.
    lost_at: Option<u64>,
    verbose: bool,
}

impl World {
    fn new(rails: usize, r: &mut Rng) -> World {
        let mut net = Net::new();
        net.latency = r.pick(&[50_000, 300_000]);
        net.syn_timeout = r.pick(&[SEC, 20 * SEC]);
        let cfg = (1..rails).fold(Config::new(ours(0), 7), |c, i| c.also(ours(i)));
        net.add(Config { transaction_timeout: 60 * SEC, ..cfg });
        let nids: Vec<Nid> = (0..rails).map(theirs).collect();
        let kernel = |net: &mut Net, i: usize| {
            let cfg = KernelConfig {
                nid: theirs(i),
                nids: nids.clone(),
                peer: Some(ours(i)),
                version: Version::V3,
                conns_per_peer: 1,
                incarnation: 77 + i as u64,
                discovery: false,
            };
            Kernel::new(net, cfg, 0, 5)
        };
        let kernels = (0..rails).map(|i| kernel(&mut net, i)).collect();
        let verbose = std::env::var("TRACE").is_ok();
        World { net, kernels, next: 1, asked: BTreeMap::new(), down: BTreeSet::new(), lost_at: None, verbose }
    }

    fn run(&mut self, ns: u64) {
        let end = self.net.now + ns;
        while self.net.now < end {
            let until = end.min(self.net.now + STEP.max(ns / 20_000));
            if let Some((first, others)) = self.kernels.split_first_mut() {
                first.run_until(&mut self.net, until);
                others.iter_mut().for_each(|k| k.catch_up(&mut self.net));
            }
        }
        self.hear();
    }

    fn hear(&mut self) {
        for e in self.net.take_events(0) {
            let (tag, status) = match e {
                Event::Send { tag, status, done: true } | Event::Ack { tag, status, done: true, .. } => {
                    (tag, status)
                }
                Event::Refused { why, .. } => panic!("{why}"),
                _ => continue,
            };
            let a = self.asked.get_mut(&tag).unwrap();
            assert_eq!(a.end, None, "{tag} ends twice");
            a.end = Some(status);
        }
    }

    fn put(&mut self, r: &mut Rng) {
        let (tag, acked) = (self.next, r.chance(60));
        self.next += 1;
        let len = r.pick(&[8usize, 900, 5000, 40_000, 200_000]);
        // Connections that were lost without a word are found dead by their time-outs.
        let disturbed = self.lost_at.is_some_and(|at| self.net.now < at + FOUND);
        self.asked.insert(tag, Asked { acked, end: None, at: self.net.now, disturbed });
        self.net.op(0, AT.put(tag, ProcessId::lustre(theirs(0)), pages(len), acked));
    }

    fn comes_back(&mut self, rail: usize) {
        self.net.plug(ip(theirs(rail)));
        self.net.plug(ip(ours(rail)));
        self.net.link_state(0, ip(ours(rail)), true);
        // Handshakes that were under way when it died: the kernel's keepalives have found out.
        self.kernels[rail].loses_peer(&mut self.net);
    }

    /// A rail dies, or comes back; at least one is left.
    fn change(&mut self, rails: usize, r: &mut Rng) {
        let rail = r.below(rails as u64) as usize;
        if self.verbose {
            println!("{:.3} rail {rail} changes, down {:?}", self.net.now as f64 * 1e-9, self.down);
        }
        if self.down.remove(&rail) {
            return self.comes_back(rail);
        }
        // One at a time, and while the others are well: what never left has another rail then.
        if rails == 1 || !self.down.is_empty() || !self.is_well() {
            return;
        }
        self.lost_at = Some(self.net.now);
        self.down.insert(rail);
        self.hear();
        // One without an ACK ends when it has left, which is not there.
        let now = self.net.now;
        let under_way = |a: &&mut Asked| a.end.is_none() || !a.acked && a.at + SEC > now;
        self.asked.values_mut().filter(under_way).for_each(|a| a.disturbed = true);
        match r.below(3) {
            0 => self.net.unplug(ip(theirs(rail)), Cut::Reset),
            1 => self.net.unplug(ip(theirs(rail)), Cut::Silence),
            _ => {
                self.net.unplug(ip(ours(rail)), Cut::Silence);
                self.net.link_state(0, ip(ours(rail)), false);
            }
        }
        self.kernels[rail].loses_peer(&mut self.net);
    }

    /// Whether all NIDs are at their best, here and there.
    fn is_well(&self) -> bool {
        let mut well = true;
        let m = &self.net.nodes[0].machine;
        m.peer_nis(0, 10_000, &mut |v| well &= v.health == BEST && v.up);
        m.nis(&mut |n| well &= n.health.value == BEST && !n.health.fatal);
        well
    }

    fn check(&mut self, rails: usize) {
        let mut taken: BTreeMap<u64, usize> = BTreeMap::new();
        for tag in self.kernels.iter().flat_map(|k| &k.taken) {
            *taken.entry(*tag).or_default() += 1;
        }
        for (tag, a) in &self.asked {
            let n = taken.get(tag).copied().unwrap_or(0);
            assert!(n <= 1, "{tag} came {n} times");
            match a.end {
                None => panic!("{tag} has not ended: {a:?}"),
                Some(Ok(())) if a.acked => assert_eq!(n, 1, "{tag} was acknowledged"),
                Some(Ok(())) => assert!(n == 1 || a.disturbed, "{tag} was lost without a cause"),
                // It had left.
                Some(Err(LnetError::ConnLost | LnetError::TimedOut)) if a.disturbed => {}
                Some(Err(e)) => panic!("{tag} might have gone by another rail: {e} ({a:?})"),
            }
        }
        let mut seen = 0;
        self.net.nodes[0].machine.peer_nis(0, 10_000, &mut |v| {
            seen += 1;
            assert_eq!((v.health, v.up, v.ping_count), (BEST, true, 0), "{v:?}");
        });
        assert!(seen >= rails);
        let mut nis = 0;
        self.net.nodes[0].machine.nis(&mut |n| {
            nis += 1;
            assert_eq!((n.health.value, n.health.fatal), (BEST, false), "{}", n.nid);
        });
        assert_eq!(nis, rails + 1);
        self.net.assert_at_rest(0);
    }
}

fn rails(seed: u64) -> u64 {
    let r = &mut Rng(seed);
    let rails = 1 + (seed % 3) as usize;
    let mut w = World::new(rails, r);
    // Each NID says itself whose it is: one that cannot when it is asked is no rail (`transport/src/lnet/claims.rs`).
    for _ in 0..2 * rails {
        w.put(r);
        w.run(SEC);
    }
    for _ in 0..30 {
        for _ in 0..r.below(12) {
            w.put(r);
        }
        if r.chance(30) {
            w.change(rails, r);
        }
        w.run(r.pick(&[SEC / 1000, SEC / 50, SEC, 4 * SEC]));
    }
    for rail in std::mem::take(&mut w.down) {
        w.comes_back(rail);
    }
    // The longest pause before a NID is pinged again, and all its steps.
    for _ in 0..10 {
        w.run(QUIET);
        if w.is_well() {
            break;
        }
    }
    // All are used again, in turn.
    let before: Vec<usize> = w.kernels.iter().map(|k| k.taken.len()).collect();
    for _ in 0..3 * rails {
        let tag = w.next;
        w.next += 1;
        w.asked.insert(tag, Asked { acked: true, end: None, at: w.net.now, disturbed: false });
        w.net.op(0, AT.put(tag, ProcessId::lustre(theirs(0)), pages(64), true));
        w.run(SEC / 10);
    }
    w.run(QUIET);
    for (i, k) in w.kernels.iter().enumerate() {
        let mut used = Vec::new();
        w.net.nodes[0].machine.nis(&mut |n| used.push(n.credits_used));
        let mut known = Vec::new();
        w.net.nodes[0].machine.peer_nis(0, 1000, &mut |v| known.push((v.nid, v.primary, v.health)));
        let turns = k.taken.len() - before[i];
        assert_eq!(turns, 3, "rail {i} of {rails}: {used:?} credits in use, {known:?}");
    }
    w.check(rails);
    w.net.nodes[0].machine.counters().successful_resends
}

#[test]
fn rails_die_and_come_back_under_load() {
    let again = AtomicU64::new(0);
    play("sim_multi_rail::rails", 0..SEEDS, |seed| {
        again.fetch_add(rails(seed), Ordering::Relaxed);
    });
    let again = again.load(Ordering::Relaxed);
    assert!(
        number("SEED").is_some() || again > SEEDS,
        "{again} messages were sent again: hardly any rail died"
    );
}

/// Seeds that `make test` does not reach.
#[test]
#[ignore = "soak: make soak"]
fn soak() {
    let again = AtomicU64::new(0);
    let seeds = super::soak("sim_multi_rail::rails", |seed| {
        again.fetch_add(rails(seed), Ordering::Relaxed);
    });
    println!("{seeds} seeds: {} messages were sent again", again.load(Ordering::Relaxed));
}

// ---- the worth of a second rail

type Node = Shard<Ports<LcoreStreams<LinkPort>>, Script>;

/// Bytes of each PUT, and PUTs.
const EACH: usize = 1 << 20;
const PUTS: u64 = 48;

/// Nodes with so many ports of 10 Gbit/s each, pairwise joined, an NI of a net of its own on each.
fn joined(rails: usize, now: &Now, wire: &Rc<Cell<u64>>) -> [(Node, Log); 2] {
    let cfg = LinkConfig {
        mem: MemConfig { tso_max: 0, ..MemConfig::default() },
        line: 10_000_000_000,
        paths: vec![Path::default().delay(5_000); 2],
    };
    let mut ends = [Vec::new(), Vec::new()];
    for rail in 0..rails {
        for (end, port) in ends.iter_mut().zip(join(&cfg, 1 + rail as u64, wire)) {
            end.push(port);
        }
    }
    let nids: [fn(usize) -> Nid; 2] = [ours, theirs];
    let mut ends = ends.into_iter();
    nids.map(|nid| {
        let IpAddr::V4(_) = ip(nid(0)) else { panic!() };
        let stacks = (0..).zip(ends.next().unwrap()).map(|(i, port)| {
            let IpAddr::V4(own) = ip(nid(i)) else { panic!() };
            stack(own, port, 3, 1024)
        });
        let (app, log) = (Script::default(), Log::default());
        let app = Script { log: log.clone(), ..app };
        let builder = (1..rails).fold(NodeBuilder::of(Config::new(nid(0), 1)), |b, i| b.also(nid(i)));
        let node = builder.clock(Clock::virtual_time(now.clone())).over_ports(stacks.collect(), app).unwrap();
        (node, log)
    })
}

/// Time that the PUTs take, in ns.
fn lasts(rails: usize) -> u64 {
    let (now, wire) = (beginning(), Rc::new(Cell::new(0)));
    wire.set(now.load(Ordering::Relaxed));
    let [(mut a, log), (mut b, _)] = joined(rails, &now, &wire);
    let spot = Spot(5, 5);
    b.app.todo.push_back((
        transport::lnd::AppId::FIRST,
        spot.attach(1, MdSpec::new(MdMem::Sink(Sink::Discard(1 << 20)))),
    ));
    let target = ProcessId::lustre(theirs(0));
    let Payload::Pages(run) = pages(EACH) else { panic!() };
    let payload = || Payload::Pages(run.clone());
    let acked =
        |log: &Log| log.borrow().iter().filter(|e| matches!(e, Event::Ack { status: Ok(()), .. })).count();
    let turn = |a: &mut Node, b: &mut Node| {
        a.turn();
        b.turn();
        wire.set(now.fetch_add(500, Ordering::Relaxed) + 500);
    };
    // All connections first.
    for tag in 0..8 {
        a.app.todo.push_back((transport::lnd::AppId::FIRST, spot.put(tag, target, payload(), true)));
    }
    while acked(&log) < 8 {
        turn(&mut a, &mut b);
    }
    let began = now.load(Ordering::Relaxed);
    for tag in 0..PUTS {
        a.app.todo.push_back((transport::lnd::AppId::FIRST, spot.put(100 + tag, target, payload(), true)));
    }
    while acked(&log) < 8 + PUTS as usize {
        turn(&mut a, &mut b);
        assert!(now.load(Ordering::Relaxed) < began + 10 * SEC, "{} of {PUTS}", acked(&log));
    }
    now.load(Ordering::Relaxed) - began
}

/// A second rail is worth most of itself if the line is what limits.
#[test]
fn two_rails_carry_nearly_twice_as_much() {
    let [one, two] = [1, 2].map(lasts);
    let gbit = |ns: u64| (PUTS * EACH as u64 * 8) as f64 / ns as f64;
    println!("one rail {:.2} Gbit/s, two rails {:.2} Gbit/s", gbit(one), gbit(two));
    assert!(gbit(one) > 8.5, "one rail does not fill its line of 10 Gbit/s: {:.2}", gbit(one));
    assert!(one as f64 >= 1.8 * two as f64, "{:.2} and {:.2} Gbit/s", gbit(one), gbit(two));
}
