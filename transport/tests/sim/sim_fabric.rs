//! Whole fabrics: 2 to 50 nodes on one to four networks, joined by one to three routers of ours, each of which is on all networks, or
//! on two of a row. End nodes are ours, with one to three NIs on their network and one to three shards, and model kernels
//! (`transport::testing::kernel::across`). Versions are mixed, router buffers may be one of a class; links, NIs, routers, nodes and
//! homes go and come.
//!
//! After each step: an operation has ended once, and a PUT is stored once at most, whole; nothing that a kernel said comes twice; no
//! shard of a router holds more buffers than it may. In worlds without losses all comes to a good end; in the others everything
//! is home in the end, routers have all their buffers, and everybody reaches everybody.
//!
//! ```text
//! SEED=17 TRACE=1 cargo test -p pollnd-transport --test sim -- --nocapture sim_fabric::every   one seed again
//! make soak SEEDS=5000                                                                         more of them
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{judge, play};
use transport::lnd::{Config, Data, Payload, Route, Shards, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::stream::{Bucket, ShardId};
use transport::testing::data::{Spot, bytes, lent, pages};
use transport::testing::kernel::across::{Across, Heard};
use transport::testing::kernel::lnet::{FEATURES, Wire};
use transport::testing::net::{Cut, Net, SEC};
use transport::testing::rng::Rng;
use transport::wire::{LnetBody, Nid, PingInfo, ProcessId, Version, WireHandle, ping};

/// Seeds of `make test`.
const SEEDS: u64 = 400;
/// Longer than anything waits, in ns.
const QUIET: u64 = 250 * SEC;
/// Time between two checks of a gateway, and between two pings of a kernel to each of its routers, in ns.
const CHECK: u64 = 4 * SEC;
/// PUTs and GETs go there.
const SINK: Spot = Spot(7, 3);
const SOURCE: Spot = Spot(8, 3);
const SOURCE_LEN: usize = 70_000;

/// A node of ours.
struct Node {
    /// Place of its first shard.
    at: usize,
    shards: u16,
    cfg: Config,
    life: u64,
    alive: bool,
    routes: bool,
    /// The network that it is on, where it is an end.
    net: usize,
}

/// An operation.
#[derive(Debug)]
struct Asked {
    what: &'static str,
    /// Things are lost in this world.
    disturbed: bool,
    /// Its ACK has not come.
    failed: bool,
}

struct World {
    net: Net,
    across: Across,
    nodes: Vec<Node>,
    kernels: Vec<(Nid, usize)>,
    nets: usize,
    /// Routers are in a row.
    row: bool,
    /// Nothing is lost.
    calm: bool,
    verbose: bool,
    next: u64,
    open: BTreeMap<(usize, u64), Asked>,
    stored: BTreeSet<u64>,
    /// PUTs that were acknowledged since it was last looked.
    acked: Vec<u64>,
    /// PUTs of kernels by their numbers, with their lengths.
    said: BTreeMap<u64, usize>,
    next_ping: u64,
    down: Vec<(usize, Nid)>,
    counts: [u64; 5],
}

/// Places of what came of a world: operations that ended, and ended well, PUTs of kernels that came, losses and returns, homes that
/// moved.
const ENDED: usize = 0;
const GOOD: usize = 1;
const CAME: usize = 2;
const WEATHER: usize = 3;
const MOVED: usize = 4;

fn at(net: usize, rail: usize, host: usize) -> Nid {
    Nid::tcp([10, net as u8, rail as u8, host as u8].into(), net as u16)
}

/// Host number of a router.
const ROUTER: usize = 200;

impl World {
    fn new(r: &mut Rng, big: bool) -> World {
        let mut net = Net::new();
        net.latency = r.pick(&[20_000, 200_000, 2_000_000]);
        net.syn_timeout = r.pick(&[SEC, 20 * SEC]);
        let nets = 1 + r.below(4) as usize;
        let most = 3.min(nets * 3 - 1);
        let row = nets > 2 && r.chance(40);
        let routers = match (nets, row) {
            (1, _) => 0,
            (_, true) => nets - 1,
            _ => 1 + r.below(most as u64) as usize,
        };
        let total = if big { 20 + r.below(31) } else { 2 + r.below(8) } as usize;
        let mut w = World {
            across: Across::new(&mut net),
            net,
            nodes: Vec::new(),
            kernels: Vec::new(),
            nets,
            row,
            calm: r.chance(40),
            verbose: std::env::var("TRACE").is_ok(),
            next: 0,
            open: BTreeMap::new(),
            stored: BTreeSet::new(),
            acked: Vec::new(),
            said: BTreeMap::new(),
            next_ping: 0,
            down: Vec::new(),
            counts: [0; 5],
        };
        for n in 0..routers {
            w.router(r, n);
        }
        let places: Vec<usize> = w.nodes.iter().map(|n| n.at).collect();
        let ends = total.saturating_sub(routers).max(2);
        for host in 0..ends {
            let on = r.below(nets as u64) as usize;
            // A kernel speaks with routers alone, and only a few do: each has a socklnd for each of its routers.
            if routers > 0 && host > 0 && w.kernels.len() < 6 && r.chance(30) {
                let near: Vec<usize> = (0..routers).filter(|n| w.is_on(*n, on)).map(|n| places[n]).collect();
                let version = r.pick(&[Version::V3, Version::V3, Version::V2, Version::V1]);
                w.across.add(&mut w.net, at(on, 0, 1 + host), version, &near, r.word());
                w.kernels.push((at(on, 0, 1 + host), on));
            } else {
                w.end(r, on, 1 + host, routers);
            }
        }
        (0..w.nodes.len()).for_each(|n| w.start(n));
        // Routers route, and their users know it.
        w.run(8 * CHECK);
        w
    }

    /// Whether a router is on a network.
    fn is_on(&self, router: usize, net: usize) -> bool {
        !self.row || router == net || router + 1 == net
    }

    /// Routes of a node on these networks, by the routers there.
    fn routes(&self, on: &[usize], routers: usize, me: Option<usize>) -> Vec<Route> {
        let mut out = Vec::new();
        for far in (0..self.nets).filter(|n| !on.contains(n)) {
            for near in on.iter().copied() {
                for router in (0..routers).filter(|n| Some(*n) != me && self.is_on(*n, near)) {
                    // In a row one leads up, and one down.
                    if !self.row || (far > near) == (router == near) {
                        out.push(Route::new(at(far, 0, 1).net(), at(near, 0, ROUTER + router)));
                    }
                }
            }
        }
        out
    }

    fn router(&mut self, r: &mut Rng, n: usize) {
        let on: Vec<usize> = (0..self.nets).filter(|net| self.is_on(n, *net)).collect();
        let nids: Vec<Nid> = on.iter().map(|net| at(*net, 0, ROUTER + n)).collect();
        let mut cfg = nids[1..].iter().fold(Config::new(nids[0], 0), |c, nid| c.also(*nid));
        let few = |r: &mut Rng| r.pick(&[1, 1, 2, 100]);
        cfg.routing.buffers = [few(r), few(r), few(r)];
        cfg.routing.peer_credits = r.pick(&[0, 1, 4]);
        cfg.routing.forwarding = true;
        cfg.version = r.pick(&[None, None, None, Some(Version::V2)]);
        cfg.routes = self.routes(&on, if self.row { self.nets - 1 } else { 0 }, Some(n));
        self.add(r, cfg, true, 0);
    }

    fn end(&mut self, r: &mut Rng, on: usize, host: usize, routers: usize) {
        let rails = r.pick(&[1, 1, 2, 3]);
        let nids: Vec<Nid> = (0..rails).map(|rail| at(on, rail, host)).collect();
        let mut cfg = nids[1..].iter().fold(Config::new(nids[0], 0), |c, nid| c.also(*nid));
        if rails == 1 {
            cfg.version = r.pick(&[None, None, None, Some(Version::V2), Some(Version::V1)]);
        }
        cfg.routes = self.routes(&[on], routers, None);
        self.add(r, cfg, false, on);
    }

    fn add(&mut self, r: &mut Rng, cfg: Config, routes: bool, net: usize) {
        let shards = r.pick(&[1, 1, 2, 3]);
        let cfg = Config {
            // A router's networks are silent after 10 s, and are pinged each 4.
            alive_router_check_interval: if routes { 2 * CHECK } else { CHECK },
            router_ping_timeout: CHECK / 2,
            transaction_timeout: 40 * SEC,
            ..cfg
        };
        let first = self.net.nodes.len();
        for me in 0..shards {
            self.net.add(Config { shards: Shards::new(me, shards).unwrap(), ..cfg.clone() });
        }
        self.nodes.push(Node { at: first, shards, cfg, life: 0, alive: false, routes, net });
    }

    fn start(&mut self, n: usize) {
        if self.verbose {
            println!("{:.6} {} begins", self.now(), self.nodes[n].cfg.nid());
        }
        let node = &mut self.nodes[n];
        (node.life, node.alive) = (node.life + 1, true);
        for me in 0..node.shards {
            let cfg = Config {
                incarnation: 1000 * (n as u64 + 1) + node.life,
                interface_cookie: node.life,
                shards: Shards::new(me, node.shards).unwrap(),
                ..node.cfg.clone()
            };
            let place = node.at + usize::from(me);
            self.net.restart(place, cfg);
            self.net.nodes[place].mute = false;
            // Its first deadline is noted.
            self.net.routing(place, None);
        }
        if !node.routes {
            let place = node.at;
            self.net.op(place, SINK.attach(1, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20)))));
            self.net.op(place, SOURCE.attach(2, MdSpec::new(MdMem::Source(pages(SOURCE_LEN)))));
        }
    }

    fn end_life(&mut self, n: usize, rst: bool) {
        if self.verbose {
            println!("{:.6} {} ends", self.now(), self.nodes[n].cfg.nid());
        }
        self.hear();
        self.open.retain(|(node, _), _| *node != n);
        let node = &mut self.nodes[n];
        node.alive = false;
        for place in node.at..node.at + usize::from(node.shards) {
            self.net.kill(place, rst);
            self.net.nodes[place].mute = !rst;
        }
    }

    fn run(&mut self, ns: u64) {
        let end = self.net.now + ns;
        while self.net.now < end {
            if self.net.now >= self.next_ping {
                self.next_ping = self.net.now + CHECK;
                self.kernels_ping();
            }
            let until = end.min(self.next_ping);
            while self.across.step(&mut self.net, until) {}
            self.kernels_hear();
        }
        self.hear();
    }

    /// Routers that live and are on a network.
    fn near(&self, net: usize) -> Vec<usize> {
        let routers = self.nodes.iter().enumerate().filter(|(_, n)| n.routes);
        routers.filter(|(i, n)| n.alive && self.is_on(*i, net)).map(|(i, _)| i).collect()
    }

    fn kernels_ping(&mut self) {
        let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
        for (nid, on) in self.kernels.clone() {
            for router in self.near(on) {
                let handle = WireHandle { interface: 9, object: 9 };
                let body = LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: 272 };
                let m = Wire { to: at(on, 0, ROUTER + router), body, payload: Vec::new(), token: 0 };
                self.across.say(&mut self.net, (nid, self.nodes[router].at), m);
            }
        }
    }

    /// Kernels answer what has come across.
    fn kernels_hear(&mut self) {
        for Heard { by, from, hdr, payload } in std::mem::take(&mut self.across.heard) {
            let (to, mut out) = (hdr.src_nid, Vec::new());
            let body = match hdr.body {
                LnetBody::Get { handle, portal: ping::PORTAL, .. } => {
                    PingInfo::new([by], hdr.dest_pid, FEATURES, 2).emit(&mut out);
                    LnetBody::Reply { handle }
                }
                LnetBody::Get { handle, sink_length, .. } => {
                    out = bytes(sink_length as usize, 0);
                    LnetBody::Reply { handle }
                }
                LnetBody::Put { ack, match_bits, hdr_data, portal, .. } => {
                    if portal == SINK.0 {
                        assert!(
                            payload == bytes(payload.len(), hdr_data),
                            "the payload of {hdr_data} is another's"
                        );
                        assert!(self.stored.insert(hdr_data), "{hdr_data} comes twice");
                    }
                    if ack == WireHandle::NONE {
                        continue;
                    }
                    LnetBody::Ack { handle: ack, match_bits, mlength: payload.len() as u32 }
                }
                LnetBody::Ack { .. } | LnetBody::Reply { .. } => continue,
            };
            self.across.say(&mut self.net, (by, from), Wire { to, body, payload: out, token: 0 });
        }
    }

    fn hear(&mut self) {
        for n in 0..self.nodes.len() {
            let Node { at, shards, .. } = self.nodes[n];
            for place in at..at + usize::from(shards) {
                for e in self.net.take_events(place) {
                    self.event(n, e);
                }
            }
        }
        for tag in std::mem::take(&mut self.acked) {
            assert!(self.stored.contains(&tag), "{tag} was acknowledged, and is not stored");
        }
        for node in self.nodes.iter().filter(|n| n.routes && n.alive) {
            for place in node.at..node.at + usize::from(node.shards) {
                let view = self.net.nodes[place].machine.routing_view();
                // One more may be on its way to each network, and what a peer holds moves with it.
                let out: u32 = view.buffers.iter().map(|b| b.buffers).sum();
                let wanted: u32 = view.buffers.iter().map(|b| b.wanted).sum();
                let more = 3 * self.nets as u32 * u32::from(node.shards);
                let moves = if node.shards > 1 { 3 * wanted } else { 0 };
                assert!(out <= wanted + more + moves, "{view:?}");
            }
        }
    }

    fn event(&mut self, n: usize, e: Event) {
        if self.verbose {
            println!(
                "{:.6} {} hears {}",
                self.now(),
                self.nodes[n].cfg.nid(),
                format!("{e:?}").chars().take(160).collect::<String>()
            );
        }
        let (tag, ok) = match &e {
            Event::Send { tag, status, done: false } | Event::Ack { tag, status, done: false, .. } => {
                let Some(asked) = self.open.get_mut(&(n, *tag)) else { panic!("{n} {tag} had ended: {e:?}") };
                asked.failed |= status.is_err();
                return;
            }
            Event::Send { tag, status, done: true } | Event::Ack { tag, status, done: true, .. } => {
                (*tag, status.is_ok())
            }
            Event::Reply { tag, status, data, .. } => {
                assert!(status.is_err() || lent(data) == bytes(SOURCE_LEN, 0), "{tag} got others' bytes");
                (*tag, status.is_ok())
            }
            Event::Ping { tag, info, .. } => (*tag, info.is_ok()),
            Event::Refused { tag, .. } => (*tag, false),
            Event::Put(p) => {
                if p.status.is_ok() {
                    assert!(self.stored.insert(p.hdr_data), "{} is stored once more", p.hdr_data);
                    if let Data::Lent(_) = &p.data {
                        assert!(lent(&p.data) == bytes(p.mlength as usize, p.hdr_data), "{p:?}");
                    }
                }
                return;
            }
            _ => return,
        };
        let Some(asked) = self.open.remove(&(n, tag)) else { panic!("{n} {tag} ends once more: {e:?}") };
        let ok = ok && !asked.failed;
        assert!(ok || asked.disturbed, "{n} {tag} {asked:?} fails for no reason: {e:?}");
        if ok && asked.what == "put" {
            self.acked.push(tag);
        }
        self.counts[ENDED] += 1;
        self.counts[GOOD] += u64::from(ok);
    }

    /// NIDs of end nodes, but for one of ours.
    fn others(&self, me: Option<usize>) -> Vec<(Nid, usize)> {
        let ours = self.nodes.iter().enumerate().filter(|(i, n)| !n.routes && Some(*i) != me);
        let ours = ours.flat_map(|(_, n)| n.cfg.nids().map(|nid| (nid, n.net)).collect::<Vec<_>>());
        ours.collect()
    }

    /// Somebody asks somebody for something.
    fn ask(&mut self, r: &mut Rng) {
        let ends: Vec<usize> =
            (0..self.nodes.len()).filter(|n| !self.nodes[*n].routes && self.nodes[*n].alive).collect();
        if ends.is_empty() {
            return;
        }
        let n = r.pick(&ends);
        let mut targets = self.others(Some(n));
        // Kernels know only routers.
        targets.extend(self.kernels.iter().filter(|k| k.1 != self.nodes[n].net));
        if targets.is_empty() {
            return;
        }
        let to = r.pick(&targets).0;
        self.ask_of(r, n, to);
    }

    fn ask_of(&mut self, r: &mut Rng, n: usize, to: Nid) {
        self.next += 1;
        let (tag, target) = (self.next, ProcessId::lustre(to));
        let len = match r.below(20) {
            0 => 1 << 20,
            1..=6 => r.pick(&[4096, 4097, 16_383, 16_384, 40_000, 200_000]),
            _ => r.pick(&[0, 1, 160, 161, 1000, 4000]),
        };
        let (what, op) = match r.below(4) {
            0 => ("ping", Op::Ping { tag, target }),
            1 => ("get", SOURCE.get(tag, target, Sink::Lend(SOURCE_LEN as u32))),
            _ => ("put", SINK.put(tag, target, Payload::copy_of(&bytes(len, tag)).unwrap(), true)),
        };
        let Node { at, shards, .. } = self.nodes[n];
        let place = at + r.below(shards.into()) as usize;
        if self.verbose {
            println!("{:.6} {} {what} {tag} of {len} to {to}", self.now(), self.nodes[n].cfg.nid());
        }
        self.open.insert((n, tag), Asked { what, disturbed: !self.calm, failed: false });
        self.net.op(place, op);
    }

    fn now(&self) -> f64 {
        self.net.now as f64 * 1e-9
    }

    /// A kernel puts something to somebody on another network.
    fn say(&mut self, r: &mut Rng) {
        if self.kernels.is_empty() {
            return;
        }
        let (from, on) = r.pick(&self.kernels);
        let mut targets = self.others(None);
        targets.extend(&self.kernels);
        targets.retain(|t| t.1 != on);
        if targets.is_empty() {
            return;
        }
        let (to, far) = r.pick(&targets);
        let near: Vec<usize> =
            self.near(on).into_iter().filter(|n| !self.row || (far > on) == (*n == on)).collect();
        if near.is_empty() {
            return;
        }
        self.next += 1;
        let tag = self.next;
        let len = r.pick(&[0, 100, 4000, 16_384, 100_000]);
        let body = LnetBody::Put {
            ack: WireHandle { interface: 8, object: tag },
            match_bits: SINK.1,
            hdr_data: tag,
            portal: SINK.0,
            offset: 0,
        };
        if self.verbose {
            println!("{:.6} {from} says {tag} of {len} to {to}", self.now());
        }
        self.said.insert(tag, len);
        let router = self.nodes[r.pick(&near)].at;
        let m = Wire { to, body, payload: bytes(len, tag), token: tag };
        self.across.say(&mut self.net, (from, router), m);
    }

    /// Something is lost, or comes back.
    fn weather(&mut self, r: &mut Rng) {
        self.counts[WEATHER] += 1;
        if !self.down.is_empty() && r.chance(50) {
            let (node, nid) = self.down.swap_remove(r.below(self.down.len() as u64) as usize);
            return self.link_back(node, nid);
        }
        let n = r.below(self.nodes.len() as u64) as usize;
        if !self.nodes[n].alive {
            return self.start(n);
        }
        if self.verbose {
            println!("{:.6} weather at {}", self.now(), self.nodes[n].cfg.nid());
        }
        match r.below(4) {
            0 => self.end_life(n, r.chance(60)),
            // A link of a node of several NIs: its driver tells, or nobody does.
            1 if self.nodes[n].cfg.nids().count() > 1 => {
                let nids: Vec<Nid> = self.nodes[n].cfg.nids().collect();
                let nid = r.pick(&nids);
                let ip = nid.ip().unwrap();
                self.net.unplug(ip, r.pick(&[Cut::Reset, Cut::Silence]));
                if r.chance(60) {
                    self.each(n, |net, place| net.link_state(place, ip, false));
                }
                self.down.push((n, nid));
            }
            2 if !self.kernels.is_empty() => {
                let (nid, on) = r.pick(&self.kernels);
                if let Some(router) = self.near(on).first().copied() {
                    let how = r.pick(&[Cut::Reset, Cut::Fin]);
                    self.across.cut(&mut self.net, nid, self.nodes[router].at, how);
                }
            }
            _ => {
                let links = self.net.links();
                if links > 0 {
                    let how = r.pick(&[Cut::Reset, Cut::Fin, Cut::Silence]);
                    self.net.cut(r.below(links as u64) as usize, how);
                }
            }
        }
    }

    fn each(&mut self, n: usize, f: impl Fn(&mut Net, usize)) {
        let Node { at, shards, .. } = self.nodes[n];
        (at..at + usize::from(shards)).for_each(|place| f(&mut self.net, place));
    }

    fn link_back(&mut self, n: usize, nid: Nid) {
        let ip = nid.ip().unwrap();
        self.net.plug(ip);
        if self.nodes[n].alive {
            self.each(n, |net, place| net.link_state(place, ip, true));
        }
    }

    /// The home of a peer moves.
    fn move_home(&mut self, r: &mut Rng) {
        let n = r.below(self.nodes.len() as u64) as usize;
        let Node { at, shards, alive, .. } = self.nodes[n];
        if shards == 1 || !alive {
            return;
        }
        let all: Vec<Nid> = self.nodes.iter().flat_map(|n| n.cfg.nids().collect::<Vec<_>>()).collect();
        let bucket = Bucket::of(r.pick(&all).ip().unwrap());
        let home = self.net.nodes[at].machine.home_of(bucket);
        let to = ShardId((home.0 + 1 + r.below(u64::from(shards) - 1) as u16) % shards);
        // All shards know where it lives: a runtime moves one bucket after the other.
        let same = (0..usize::from(shards)).all(|s| self.net.nodes[at + s].machine.home_of(bucket) == home);
        self.counts[MOVED] += u64::from(same && self.net.move_home(at + usize::from(home.0), bucket, to));
    }

    /// All is well again: everybody reaches everybody, and everything is home.
    fn judge(&mut self, r: &mut Rng) {
        for (n, nid) in std::mem::take(&mut self.down) {
            self.link_back(n, nid);
        }
        (0..self.nodes.len())
            .filter(|n| !self.nodes[*n].alive)
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|n| self.start(n));
        // Whoever lost a set without a word finds out, and routes are up.
        self.run(QUIET);
        let ends: Vec<usize> = (0..self.nodes.len()).filter(|n| !self.nodes[*n].routes).collect();
        for n in ends {
            let targets = self.others(Some(n));
            for _ in 0..3.min(targets.len()) {
                let to = r.pick(&targets).0;
                // A message that finds a set dead is lost with it.
                let reached = (0..4).any(|_| {
                    let before = self.counts[GOOD];
                    self.next += 1;
                    let (tag, target) = (self.next, ProcessId::lustre(to));
                    self.open.insert((n, tag), Asked { what: "ping", disturbed: !self.calm, failed: false });
                    let place = self.nodes[n].at;
                    self.net.op(place, Op::Ping { tag, target });
                    self.run(2 * SEC);
                    if self.open.contains_key(&(n, tag)) {
                        self.run(60 * SEC);
                    }
                    self.counts[GOOD] > before
                });
                assert!(reached, "{} does not reach {to}", self.nodes[n].cfg.nid());
            }
        }
        self.run(QUIET);
        assert!(self.open.is_empty(), "never ended: {:?}", self.open);
        // Not in the middle of a check.
        for _ in 0..40 {
            let busy = |w: &World| {
                w.net.nodes.iter().any(|n| {
                    let g = n.machine.gauges();
                    g.ops + g.queued + g.on_their_way > 0 || g.lends > 0 || g.credits_used > 0
                })
            };
            if !busy(self) {
                break;
            }
            self.run(SEC / 9);
        }
        let came = self.said.keys().filter(|t| self.stored.contains(t)).count();
        assert!(!self.calm || came == self.said.len(), "{came} of {} came from kernels", self.said.len());
        self.counts[CAME] = came as u64;
        for n in 0..self.nodes.len() {
            let Node { at, shards, routes, .. } = self.nodes[n];
            for place in at..at + usize::from(shards) {
                let m = &self.net.nodes[place].machine;
                let view = m.routing_view();
                for b in view.buffers.iter().filter(|_| routes) {
                    assert_eq!((b.credits, b.buffers), (i64::from(b.wanted), b.wanted), "{n}: {view:?}");
                }
                let c = *m.counters();
                assert_eq!(
                    c.err_cookie + c.err_ksock_type + c.err_lnet_type + c.err_dest_nid,
                    0,
                    "{n}: {c:?}"
                );
                assert!(!self.calm || c.drop_next_hop + c.drop_route_loop == 0, "{n}: {c:?}");
            }
        }
        self.net.assert_quiet();
    }
}

fn one(seed: u64) -> [u64; 5] {
    let r = &mut Rng(seed);
    let big = seed % 20 == 19;
    let mut w = World::new(r, big);
    for _ in 0..if big { 40 } else { 20 + r.below(40) } {
        match r.below(20) {
            0 | 1 if !w.calm => w.weather(r),
            2 | 3 => w.move_home(r),
            4..=6 => (0..1 + r.below(4)).for_each(|_| w.say(r)),
            7..=14 => (0..1 + r.below(6)).for_each(|_| w.ask(r)),
            _ => {}
        }
        let ns = r.pick(&[0, 5_000, SEC / 1000, SEC / 100, SEC / 3, 3 * SEC]);
        w.run(ns);
    }
    w.run(QUIET);
    w.judge(r);
    w.counts
}

/// Sums over all seeds.
#[derive(Default)]
struct Totals([AtomicU64; 5]);

impl Totals {
    fn add(&self, more: [u64; 5]) {
        self.0.iter().zip(more).for_each(|(n, more)| {
            n.fetch_add(more, Ordering::Relaxed);
        });
    }

    fn each(&self) -> [u64; 5] {
        self.0.each_ref().map(|n| n.load(Ordering::Relaxed))
    }

    fn line(&self) -> String {
        let [ended, good, came, weather, moved] = self.each();
        format!(
            "{ended} operations, {good} of them to a good end; {came} PUTs of kernels came; {weather} times something was lost or came \
             back; {moved} homes moved"
        )
    }
}

#[test]
fn every_fabric_comes_to_rest_and_loses_nothing_without_a_reason() {
    let totals = Totals::default();
    play("sim_fabric::every", 0..SEEDS, |seed| totals.add(one(seed)));
    judge(totals.each(), [20_000, 15_000, 1500, 700, 500], &totals.line());
}

/// Seeds that `make test` does not reach.
#[test]
#[ignore = "soak: make soak"]
fn soak() {
    let totals = Totals::default();
    let seeds = super::soak("sim_fabric::every", |seed| totals.add(one(seed)));
    println!("{seeds} seeds: {}", totals.line());
}
