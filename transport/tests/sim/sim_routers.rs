//! Routers of ours between two networks of model kernels (`transport::testing::kernel::across`): one to three of them, of one to
//! three shards, with as little as one buffer of a class; versions mixed, homes that move, routers and links that go and come. In
//! half of the worlds long messages leave before they are whole, and break off in the middle.
//!
//! At any time: no message comes twice, each is what was said, header and payload; no shard holds more buffers than it has. At
//! the end: all buffers, lends and receive buffers are home, and everybody reaches everybody by every router that lives. In
//! worlds without losses each message arrives.
//!
//! ```text
//! SEED=17 TRACE=1 cargo test -p pollnd-transport --test sim -- --nocapture sim_routers::every   one seed again
//! make soak SEEDS=5000                                                                          more of them
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{judge, play};
use transport::lnd::{Config, Shards};
use transport::lnet::{BufferClass, RoutingAsk, RoutingState};
use transport::stream::{Bucket, ShardId};
use transport::testing::data::bytes;
use transport::testing::kernel::across::Across;
use transport::testing::kernel::lnet::Wire;
use transport::testing::net::{Cut, Net, SEC};
use transport::testing::rng::Rng;
use transport::wire::{LnetBody, LnetHdr, Nid, ProcessId, Version, WireHandle};

/// Seeds of `make test`.
const SEEDS: u64 = 1000;
/// Longer than anything waits, in ns.
const QUIET: u64 = 250 * SEC;
/// Time for a router's users to check it, in ns.
const CHECK: u64 = SEC / 50;

/// A router of ours.
struct Router {
    /// Its first shard's place.
    at: usize,
    shards: u16,
    cfg: Config,
    life: u64,
    alive: bool,
    /// Most buffers that it had in this life, by class.
    most: [u32; 3],
}

/// A message that was said.
struct Said {
    hdr: LnetHdr,
    len: usize,
    heard: bool,
}

struct World {
    net: Net,
    across: Across,
    routers: Vec<Router>,
    /// Kernels on each network.
    kernels: [Vec<Nid>; 2],
    said: BTreeMap<u64, Said>,
    next: u64,
    /// Nothing is lost.
    calm: bool,
    verbose: bool,
    copies: bool,
    arrived: u64,
    deaths: u64,
    moved: u64,
}

fn on(net: usize, host: usize) -> Nid {
    Nid::tcp([10, net as u8, 0, host as u8].into(), net as u16)
}

impl World {
    fn new(r: &mut Rng) -> World {
        let mut net = Net::new();
        net.latency = r.pick(&[20_000, 200_000, 3_000_000]);
        net.discards = r.chance(50);
        net.record = true;
        // Where messages may leave before they are whole, they take their time to come.
        let cuts = r.chance(50);
        if cuts {
            net.raw_pace = r.pick(&[1_000, 20_000, 200_000]);
        }
        let copies = r.chance(20);
        if copies {
            // What takes its time takes buffers meanwhile.
            net.buffers = if cuts { 8000 } else { 3000 };
        }
        let calm = r.chance(50);
        let verbose = std::env::var("TRACE").is_ok();
        let mut routers = Vec::new();
        for n in 0..1 + r.below(3) as usize {
            let shards = r.pick(&[1, 1, 2, 3]);
            let (a, b) = (on(0, 200 + n), on(1, 200 + n));
            let mut cfg = Config {
                alive_router_check_interval: CHECK / 2,
                router_ping_timeout: CHECK / 2,
                discovery: r.chance(50),
                version: r.pick(&[None, None, None, Some(Version::V2), Some(Version::V1)]),
                ..Config::new(a, 0).also(b)
            };
            let few = |r: &mut Rng| r.pick(&[1, 1, 2, 5, 100]);
            cfg.routing.buffers = [few(r), few(r), few(r)];
            cfg.routing.peer_credits = r.pick(&[0, 1, 4]);
            cfg.routing.forwarding = true;
            cfg.routing.cut_through = cuts && r.chance(80);
            let at = net.nodes.len();
            routers.push(Router { at, shards, cfg, life: 0, alive: false, most: [0; 3] });
            for me in 0..shards {
                let mut cfg = routers[n].cfg.clone();
                cfg.shards = Shards::new(me, shards).unwrap();
                net.add(cfg);
            }
        }
        let mut across = Across::new(&mut net);
        let places: Vec<usize> = routers.iter().map(|r| r.at).collect();
        let kernels = [0, 1].map(|side| {
            (0..1 + r.below(3) as usize)
                .map(|n| {
                    let nid = on(side, 1 + n);
                    let version = r.pick(&[Version::V3, Version::V3, Version::V2, Version::V1]);
                    across.add(&mut net, nid, version, &places, r.word());
                    nid
                })
                .collect()
        });
        let (arrived, deaths, moved) = (0, 0, 0);
        let said = BTreeMap::new();
        let mut w = World {
            net,
            across,
            routers,
            kernels,
            said,
            next: 0,
            calm,
            verbose,
            copies,
            arrived,
            deaths,
            moved,
        };
        (0..w.routers.len()).for_each(|n| w.start(n));
        w.run(2 * CHECK);
        w
    }

    fn start(&mut self, n: usize) {
        let router = &mut self.routers[n];
        router.life += 1;
        router.alive = true;
        router.most = router.cfg.routing.buffers;
        for me in 0..router.shards {
            let cfg = Config {
                incarnation: 1000 * (n as u64 + 1) + router.life,
                interface_cookie: router.life,
                shards: Shards::new(me, router.shards).unwrap(),
                ..router.cfg.clone()
            };
            self.net.restart(router.at + usize::from(me), cfg);
            self.net.nodes[router.at + usize::from(me)].mute = false;
            // Its first deadline is noted.
            self.net.routing(router.at + usize::from(me), None);
        }
    }

    fn end(&mut self, n: usize, rst: bool) {
        let router = &mut self.routers[n];
        router.alive = false;
        self.deaths += 1;
        for me in 0..usize::from(router.shards) {
            self.net.kill(router.at + me, rst);
            self.net.nodes[router.at + me].mute = !rst;
        }
    }

    fn run(&mut self, ns: u64) {
        let until = self.net.now + ns;
        while self.across.step(&mut self.net, until) {}
        self.hear();
    }

    fn hear(&mut self) {
        for h in std::mem::take(&mut self.across.heard) {
            let tag = match h.hdr.body {
                LnetBody::Put { hdr_data, .. } => hdr_data,
                LnetBody::Get { match_bits, .. } => match_bits,
                LnetBody::Ack { match_bits, .. } => match_bits,
                LnetBody::Reply { handle } => handle.object,
            };
            let said = self.said.get_mut(&tag).unwrap_or_else(|| panic!("nobody said {h:?}"));
            assert_eq!(h.hdr, said.hdr, "{tag}");
            assert_eq!(h.by, said.hdr.dest_nid);
            assert!(h.payload == bytes(said.len, tag), "the payload of {tag} is another's");
            assert!(!std::mem::replace(&mut said.heard, true), "{tag} comes twice");
            self.arrived += 1;
        }
        for r in self.routers.iter().filter(|r| r.alive) {
            let shards = u32::from(r.shards);
            for (class, most) in r.most.iter().enumerate() {
                let out = |s: usize| self.net.nodes[r.at + s].machine.routing_view().buffers[class].buffers;
                let all: u32 = (0..usize::from(r.shards)).map(out).sum();
                // One more may be on its way to each network, and what a peer holds moves with it.
                let bound = most + shards + 2 * shards;
                let bound = if shards == 1 { most + 1 } else { 2 * bound };
                assert!(all <= bound, "{all} buffers of {most} are out");
            }
        }
    }

    /// Somebody says something to somebody on the other network.
    fn say(&mut self, r: &mut Rng) {
        let alive: Vec<usize> = (0..self.routers.len()).filter(|n| self.routers[*n].alive).collect();
        if alive.is_empty() {
            return;
        }
        let router = self.routers[r.pick(&alive)].at;
        let side = r.below(2) as usize;
        let (from, to) = (r.pick(&self.kernels[side]), r.pick(&self.kernels[1 - side]));
        self.say_to(r, (from, router), to);
    }

    /// Somebody says something long, and half way its link is cut, or the next hop's, or the router dies.
    fn half_way(&mut self, r: &mut Rng) {
        let n = r.below(self.routers.len() as u64) as usize;
        if !self.routers[n].alive {
            return;
        }
        let router = self.routers[n].at;
        let side = r.below(2) as usize;
        let (from, to) = (r.pick(&self.kernels[side]), r.pick(&self.kernels[1 - side]));
        // Where receive buffers are few the world has no room for much on its way.
        let len = if self.copies { 200_000 } else { 1 << 20 };
        self.say_len(r, (from, router), to, len);
        let all = self.net.raw_pace * (len as u64 >> 12);
        self.run(all / 8 + r.below(all) + 2 * self.net.latency);
        match r.below(5) {
            0 => self.end(n, r.chance(60)),
            1 => self.across.cut(&mut self.net, to, router, Cut::Reset),
            _ => self.across.cut(&mut self.net, from, router, r.pick(&[Cut::Reset, Cut::Fin])),
        }
    }

    fn say_to(&mut self, r: &mut Rng, way: (Nid, usize), to: Nid) {
        let len = match r.below(30) {
            0 => 1 << 20,
            1..=8 => r.pick(&[4096, 4097, 16_383, 16_384, 40_000, 200_000]),
            _ => r.pick(&[0, 1, 48, 160, 161, 1000, 4000]),
        };
        self.say_len(r, way, to, len);
    }

    fn say_len(&mut self, r: &mut Rng, (from, router): (Nid, usize), to: Nid, len: usize) {
        self.next += 1;
        let tag = self.next;
        let handle = WireHandle { interface: 1, object: tag };
        let portal = 8 + (tag % 40) as u32;
        let (body, len) = match r.below(6) {
            0 => {
                let get = LnetBody::Get { handle, match_bits: tag, portal, src_offset: 0, sink_length: 9 };
                (get, 0)
            }
            1 => (LnetBody::Ack { handle, match_bits: tag, mlength: 5 }, 0),
            2 => (LnetBody::Reply { handle }, len),
            _ => (LnetBody::Put { ack: handle, match_bits: 7, hdr_data: tag, portal, offset: 1 }, len),
        };
        let pid = ProcessId::lustre(from).pid;
        let hdr = LnetHdr {
            dest_nid: to,
            src_nid: from,
            dest_pid: pid,
            src_pid: pid,
            payload_len: len as u32,
            body,
        };
        if self.verbose {
            println!(
                "{:.6} {from} says {tag} ({} of {len}) to {to} by {router}",
                self.net.now as f64 * 1e-9,
                body.name()
            );
        }
        self.said.insert(tag, Said { hdr, len, heard: false });
        let m = Wire { to, body, payload: bytes(len, tag), token: tag };
        self.across.say(&mut self.net, (from, router), m);
    }

    /// The home of a peer moves.
    fn move_home(&mut self, r: &mut Rng) {
        let router = r.below(self.routers.len() as u64) as usize;
        let Router { at, shards, alive, .. } = self.routers[router];
        if shards == 1 || !alive {
            return;
        }
        let side = r.below(2) as usize;
        let nid = r.pick(&self.kernels[side]);
        let bucket = Bucket::of(nid.ip().unwrap());
        let home = self.net.nodes[at].machine.home_of(bucket);
        let to = ShardId((home.0 + 1 + r.below(u64::from(shards) - 1) as u16) % shards);
        let from = at + usize::from(home.0);
        // All shards know where it lives: a runtime moves one bucket after the other.
        let same = (0..usize::from(shards)).all(|s| self.net.nodes[at + s].machine.home_of(bucket) == home);
        self.moved += u64::from(same && self.net.move_home(from, bucket, to));
    }

    fn judge(&mut self, r: &mut Rng) {
        for n in 0..self.routers.len() {
            if !self.routers[n].alive {
                self.start(n);
            }
        }
        // Whoever lost a set without a word finds out, and has it again.
        self.run(QUIET);
        for round in 0..4 {
            for n in 0..self.routers.len() {
                let router = self.routers[n].at;
                assert_eq!(self.net.routing(router, None).state, RoutingState::On);
                for (side, other) in [(0, 1), (1, 0)] {
                    for from in self.kernels[side].clone() {
                        for to in self.kernels[other].clone() {
                            if self.calm || round == 3 {
                                self.say_to(r, (from, router), to);
                                continue;
                            }
                            // On each kind of connection, so that whoever lost one finds out.
                            self.say_len(r, (from, router), to, 0);
                            self.say_len(r, (from, router), to, 4000);
                        }
                    }
                }
            }
            if self.calm || round == 3 {
                break;
            }
            // A message that tells a kernel that its connections are dead is lost; so is one that finds the next hop's so.
            self.run(QUIET);
        }
        let fresh: Vec<u64> = {
            let pairs = 2 * self.kernels[0].len() * self.kernels[1].len() * self.routers.len();
            (0..pairs as u64).map(|n| self.next - n).collect()
        };
        self.run(QUIET);
        if self.verbose || self.calm {
            for n in &self.net.nodes {
                let c: Vec<_> = n.machine.counters().iter().filter(|c| c.1 > 0).collect();
                let ended = c.iter().any(|(name, n)| *name == "sets_closed" && *n > 0);
                assert!(!ended || !self.calm, "{c:?}");
                if self.verbose {
                    println!("{c:?}");
                }
            }
        }
        for tag in fresh {
            assert!(self.said[&tag].heard, "{:?} of the last ones is lost", self.said[&tag].hdr);
        }
        let lost: Vec<u64> = self.said.iter().filter(|s| !s.1.heard).map(|s| *s.0).collect();
        assert!(!self.calm || lost.is_empty(), "lost without a reason: {lost:?}");
        for r in &self.routers {
            for shard in 0..usize::from(r.shards) {
                let view = self.net.routing(r.at + shard, None);
                for b in view.buffers {
                    assert_eq!((b.credits, b.buffers), (i64::from(b.wanted), b.wanted), "{view:?}");
                }
                let c = *self.net.nodes[r.at + shard].machine.counters();
                assert!(self.copies || c.forward_copied_bytes == 0, "{c:?}");
                assert!(!self.calm || c.sets_closed + c.drop_next_hop == 0, "{c:?}");
                assert_eq!(c.err_cookie + c.err_ksock_type + c.err_lnet_type + c.err_dest_nid, 0, "{c:?}");
            }
            let all = |f: &dyn Fn(&transport::lnd::Counters) -> u64| -> u64 {
                (0..usize::from(r.shards)).map(|s| f(self.net.nodes[r.at + s].machine.counters())).sum()
            };
            let (came, left) = (all(&|c| c.forward_rx_msgs), all(&|c| c.forwarded_msgs));
            assert!(
                left <= came
                    && came
                        <= left + all(&|c| c.drop_next_hop + c.drop_no_route + c.drop_stuck + c.drop_no_conn),
                "{came} {left}"
            );
        }
        self.net.assert_quiet();
    }
}

#[derive(Default)]
struct Totals {
    arrived: AtomicU64,
    waits: AtomicU64,
    deaths: AtomicU64,
    moved: AtomicU64,
    copied: AtomicU64,
    lost: AtomicU64,
    cut: AtomicU64,
    aborted: AtomicU64,
}

impl Totals {
    fn add(&self, w: &World) {
        let add = |to: &AtomicU64, n: u64| to.fetch_add(n, Ordering::Relaxed);
        let all = |f: &dyn Fn(&transport::lnd::Counters) -> u64| -> u64 {
            w.net.nodes.iter().map(|n| f(n.machine.counters())).sum()
        };
        add(&self.arrived, w.arrived);
        add(&self.waits, all(&|c| c.forward_waits));
        add(&self.deaths, w.deaths);
        add(&self.moved, w.moved);
        add(&self.copied, all(&|c| c.forward_copied_bytes));
        add(&self.lost, w.said.values().filter(|s| !s.heard).count() as u64);
        add(&self.cut, all(&|c| c.forward_cut_msgs));
        add(&self.aborted, all(&|c| c.forward_cut_aborted));
    }

    fn each(&self) -> [u64; 8] {
        let Totals { arrived, waits, deaths, moved, copied, lost, cut, aborted } = self;
        [arrived, waits, deaths, moved, copied, lost, cut, aborted].map(|n| n.load(Ordering::Relaxed))
    }

    fn line(&self) -> String {
        let [arrived, waits, deaths, moved, copied, lost, cut, aborted] = self.each();
        format!(
            "{arrived} messages came across, {lost} were lost with routers and links; {waits} waits for buffers; {deaths} routers \
             died; {moved} homes moved; {copied} bytes copied where receive buffers were few; {cut} began to leave before they were \
             whole, {aborted} of them broke off"
        )
    }
}

fn run(seed: u64, totals: &Totals) {
    let mut r = Rng(seed);
    let mut w = World::new(&mut r);
    for _ in 0..20 + r.below(40) {
        match r.below(20) {
            0 if !w.calm => {
                let n = r.below(w.routers.len() as u64) as usize;
                if w.routers[n].alive {
                    w.end(n, r.chance(60));
                } else {
                    w.start(n);
                }
            }
            1 if !w.calm => {
                let side = r.below(2) as usize;
                let nid = r.pick(&w.kernels[side]);
                let router = w.routers[r.below(w.routers.len() as u64) as usize].at;
                // The model finds out about a silent one never; kernels' TCP does after some time.
                let how = r.pick(&[Cut::Reset, Cut::Fin]);
                w.across.cut(&mut w.net, nid, router, how);
            }
            2..=4 => w.move_home(&mut r),
            14 if !w.calm && w.net.raw_pace > 0 => w.half_way(&mut r),
            5 => {
                let n = r.below(w.routers.len() as u64) as usize;
                let many = r.pick(&[1, 2, 5, 100]);
                let class = r.pick(&BufferClass::ALL);
                let router = &mut w.routers[n];
                if router.alive {
                    router.cfg.routing.buffers[class as usize] = many;
                    router.most[class as usize] = router.most[class as usize].max(many);
                    w.net.routing(router.at, Some(RoutingAsk::Buffers(class, many)));
                }
            }
            6..=13 => (0..1 + r.below(6)).for_each(|_| w.say(&mut r)),
            _ => {
                let t = r.pick(&[5_000, 50_000, SEC / 1000, SEC / 1000, SEC / 100, SEC / 3]);
                w.run(t);
            }
        }
    }
    w.run(QUIET);
    w.judge(&mut r);
    totals.add(&w);
}

#[test]
fn every_message_across_comes_once_and_whole() {
    let totals = Totals::default();
    play("sim_routers::every", 0..SEEDS, |seed| run(seed, &totals));
    judge(totals.each(), [1000, 100, 10, 20, 2000, 10, 100, 5], &totals.line());
}

/// Seeds that `make test` does not reach.
#[test]
#[ignore = "soak: make soak"]
fn soak() {
    let totals = Totals::default();
    let seeds = super::soak("sim_routers::every", |seed| run(seed, &totals));
    println!("{seeds} seeds: {}", totals.line());
}
