//! lnet_selftest among 2 to 200 nodes, ours and model kernels (`transport::testing::kernel::selftest`) mixed: sessions,
//! groups, tests of all kinds, on networks that lose packets and connections, with nodes that are started again in the
//! middle, consoles that vanish, and consoles that take nodes away from others.
//!
//! ```text
//! SEED=17 TRACE=1 cargo test -p pollnd-transport --test sim -- --nocapture sim_selftest::every   one seed again
//! make soak SEEDS=5000                                                                            more of them
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{NEVER, number, play};
use transport::lnd::Config;
use transport::testing::kernel::hosts::Hosts;
use transport::testing::kernel::selftest::Cmd;
use transport::testing::members::LstNode;
use transport::testing::net::{Cut, Net, SEC};
use transport::testing::rng::Rng;
use transport::testing::srpc::kind;
use transport::wire::{Nid, Version};

/// Seeds of `make test`.
const SEEDS: u64 = 500;
/// Longer than a session, an RPC and a message together last, in ns.
const QUIET: u64 = 600 * SEC;
/// Services that a member always takes requests for, and those that it takes once it was a server.
const FRAMEWORK: usize = 6;
const TESTS: usize = 2;

/// Occupant of a NID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ours(usize),
    Kernel(usize),
}

/// A test as the order has it.
#[derive(Clone, Debug)]
struct Plan {
    turns: i64,
    concur: u64,
    span: u64,
    dist: u64,
    /// Read (1) or write (2), check, length.
    brw: Option<(u64, &'static str, u64)>,
}

impl Plan {
    fn draw(r: &mut Rng, endless: bool, servers: u64, big: bool) -> Plan {
        let brw = r.chance(75).then(|| {
            let lens: &[u64] = if big { &[8, 4096] } else { &[8, 4096, 4096, 20_480, 65_536, 300_000] };
            let mut len = r.pick(lens);
            if !big && r.chance(2) {
                len = 1 << 20;
            }
            (r.pick(&[1, 2]), r.pick(&["none", "simple", "full", "discard"]), len)
        });
        let turns = if endless { -1 } else { 1 + r.below(if big { 2 } else { 5 }) as i64 };
        let span = 1 + r.below(servers.min(3));
        Plan { turns, concur: r.pick(&[1, 1, 2, 4]), span, dist: r.pick(&[1, 1, 2]), brw }
    }

    fn line(&self) -> String {
        let what = match self.brw {
            None => "ping".to_owned(),
            Some((rw, check, len)) => {
                let rw = if rw == 1 { "read" } else { "write" };
                let check = if check == "none" { String::new() } else { format!(" check={check}") };
                format!("brw {rw}{check} size={len}")
            }
        };
        format!(
            "add_test --batch b --loop {} --concurrency {} --distribute {}:{} --from c --to s {what}",
            self.turns, self.concur, self.dist, self.span
        )
    }
}

struct World {
    net: Net,
    hosts: Hosts,
    ours: Vec<LstNode>,
    places: Vec<Place>,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    verbose: bool,
}

fn nid(place: usize) -> Nid {
    super::nid(place, false)
}

impl World {
    fn new(r: &mut Rng, size: usize, kernels: u64) -> World {
        let mut net = Net::new();
        net.chunk = 16 << 10;
        net.record = true;
        let (mut ours, mut places) = (Vec::new(), Vec::new());
        for n in 0..size {
            if r.chance(kernels) {
                places.push(Place::Kernel(usize::MAX));
            } else {
                let version = r.pick(&[None, None, None, Some(Version::V2), Some(Version::V1)]);
                let cfg = Config { version, ..Config::new(nid(n), 1_700_000_000_000_000_000 + n as u64) };
                places.push(Place::Ours(ours.len()));
                ours.push(LstNode::new(&mut net, cfg));
            }
        }
        let mut hosts = Hosts::new(&mut net, r.word());
        for (n, place) in places.iter_mut().enumerate() {
            match place {
                Place::Ours(o) => hosts.know(nid(n).ip().unwrap_or(IpAddr::from([0; 4])), ours[*o].node),
                Place::Kernel(h) => {
                    let version = r.pick(&[Version::V3, Version::V3, Version::V2, Version::V1]);
                    *h = hosts.add(&mut net, nid(n), version);
                }
            }
        }
        let verbose = std::env::var("TRACE").is_ok();
        let mut w = World { net, hosts, ours, places, due: BinaryHeap::new(), verbose };
        (0..w.ours.len()).for_each(|n| w.pump(n));
        w
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:.6} {}", self.net.now as f64 * 1e-9, what());
        }
    }

    fn pump(&mut self, n: usize) {
        self.ours[n].pump(&mut self.net);
        self.note(n);
    }

    fn note(&mut self, n: usize) {
        let due = self.ours[n].deadline(&self.net);
        self.due.extend(due.map(|d| Reverse((d, n))));
    }

    /// Lets the next thing happen.
    fn step(&mut self, until: u64) -> bool {
        while let Some(Reverse((t, n))) = self.due.peek().copied() {
            if self.ours[n].deadline(&self.net) == Some(t) {
                break;
            }
            self.due.pop();
            let later = self.ours[n].deadline(&self.net).filter(|d| *d > t);
            self.due.extend(later.map(|d| Reverse((d, n))));
        }
        let at = self.due.peek().map_or(until, |d| d.0.0.min(until)).max(self.net.now);
        self.net.last = None;
        let went = self.hosts.step(&mut self.net, at);
        if let Some(n) = self.net.last {
            self.pump(n);
            self.invariants(n);
        }
        let mut did = false;
        while let Some(Reverse((_, n))) = self.due.peek().copied().filter(|d| d.0.0 <= self.net.now) {
            self.due.pop();
            self.pump(n);
            did = true;
        }
        went || did || at < until
    }

    fn run(&mut self, ns: u64) {
        let until = self.net.now + ns;
        while self.step(until) {}
    }

    /// Bounds that hold at any time.
    fn invariants(&self, n: usize) {
        let node = &self.net.nodes[self.ours[n].node];
        if !node.alive {
            return;
        }
        let g = node.machine.gauges();
        assert!(g.cookies <= g.lends, "node {n}: a cookie without its pages: {g:?}");
        let (asked, served) = self.ours[n].member.under_way();
        let consoles = self.ours[n].console.under_way();
        // Reply and bulk of what is asked, and requests.
        let most = FRAMEWORK + TESTS + 2 * (asked + consoles);
        assert!(
            g.entries <= most + g.lends,
            "node {n}: {g:?}, {asked} asked, {consoles} of its console, {served} served"
        );
    }

    /// Gives a console an order, and waits until that has ended.
    fn order(&mut self, place: usize, line: &str) {
        self.say(|| format!("{place}: {line}"));
        // It may be looking after idle nodes.
        self.idle(place);
        match self.places[place] {
            Place::Kernel(h) => self.hosts.order(&mut self.net, h, &Cmd::parse(line)),
            Place::Ours(n) => {
                let line = line.replace("stat ", "stat --delay 1 --count 1 ");
                self.ours[n].type_in(&mut self.net, &line);
                self.note(n);
            }
        }
        self.idle(place);
        assert!(!self.busy(place), "{line} does not end");
        if let (Place::Ours(n), true) = (self.places[place], self.verbose) {
            self.ours[n].said.drain(..).for_each(|s| println!("    {s:?}"));
        }
    }

    fn idle(&mut self, place: usize) {
        let end = self.net.now + 200 * SEC;
        while self.busy(place) && self.net.now < end && self.step(end) {}
    }

    fn busy(&self, place: usize) -> bool {
        match self.places[place] {
            Place::Kernel(h) => self.hosts.list[h].selftest.console.busy(),
            Place::Ours(n) => !self.ours[n].console.is_idle(),
        }
    }

    fn kill(&mut self, place: usize, rst: bool) {
        self.say(|| format!("{place} is gone, rst {rst}"));
        match self.places[place] {
            Place::Kernel(h) => self.hosts.kill(&mut self.net, h),
            Place::Ours(n) => self.ours[n].kill(&mut self.net, rst),
        }
    }

    fn restart(&mut self, place: usize) {
        self.say(|| format!("{place} begins anew"));
        match self.places[place] {
            Place::Kernel(h) => self.hosts.restart(&self.net, h),
            Place::Ours(n) => {
                self.ours[n].restart(&mut self.net);
                self.note(n);
            }
        }
    }

    /// Errors, requests sent and received, bytes got and put, of a member.
    fn counts(&self, place: usize) -> [u64; 5] {
        match self.places[place] {
            Place::Kernel(h) => {
                let c = self.hosts.list[h].selftest.rpc;
                [c.errors.into(), c.sent.into(), c.rcvd.into(), c.bulk_get, c.bulk_put]
            }
            Place::Ours(n) => {
                let c = self.ours[n].member.counters();
                [c.errors.into(), c.rpcs_sent.into(), c.rpcs_rcvd.into(), c.bulk_get, c.bulk_put]
            }
        }
    }

    /// Everything has ended and is home; nobody is in a session.
    fn at_rest(&mut self) {
        for (place, at) in self.places.clone().into_iter().enumerate() {
            match at {
                Place::Ours(n) => {
                    let o = &self.ours[n];
                    let (node, under_way) = (o.node, o.member.under_way());
                    let g = self.net.nodes[node].machine.gauges();
                    assert_eq!(o.member.session(), None, "{place}: {g:?}");
                    assert_eq!((under_way, o.console.under_way()), ((0, 0), 0), "{place}: {g:?}");
                    assert!(g.entries <= FRAMEWORK + TESTS, "{place}: {g:?}");
                    self.net.assert_at_rest(node);
                    for (name, v) in self.net.nodes[node].machine.counters().iter() {
                        assert!(v == 0 || !NEVER.contains(&name), "{place}: {name} {v}");
                    }
                }
                Place::Kernel(h) => {
                    let s = &self.hosts.list[h].selftest;
                    assert_eq!(s.lnet.odd, Vec::<String>::new());
                    assert_eq!(s.state(), (None, 0, 0), "{place}");
                    assert_eq!(s.under_way(), (0, 0, 0), "{place}");
                }
            }
        }
    }

    /// STAT tells what a member counts.
    fn stat_is_right(&self, console: usize) {
        let Place::Kernel(h) = self.places[console] else { return };
        let all = &self.hosts.list[h].selftest.console.outcomes;
        for (place, at) in self.places.iter().enumerate() {
            let Place::Ours(n) = at else { continue };
            let stat = all.iter().rfind(|o| o.node == nid(place) && o.request.kind() == kind::STAT);
            let Some(Ok(r)) = stat.map(|o| &o.reply) else { continue };
            let c = self.ours[*n].member.counters();
            let told = ["rpc_errors", "rpcs_sent", "rpcs_rcvd", "bulk_get", "bulk_put"].map(|f| r.get(f));
            let is = [c.errors.into(), c.rpcs_sent.into(), c.rpcs_rcvd.into(), c.bulk_get, c.bulk_put];
            assert_eq!(told, is, "{place}: {r:?}");
            assert!(
                r.get("send_length") >= c.bulk_put && r.get("recv_length") >= c.bulk_get,
                "{place}: {r:?}"
            );
        }
    }
}

#[derive(Default)]
struct Totals {
    rpcs: AtomicU64,
    bytes: AtomicU64,
    mixed: AtomicU64,
    calm: AtomicU64,
    kills: AtomicU64,
    vanished: AtomicU64,
    forced: AtomicU64,
    nodes: AtomicU64,
}

impl Totals {
    fn all(&self) -> [(&'static str, u64); 8] {
        [
            ("RPCs of tests", &self.rpcs),
            ("bytes of bulk", &self.bytes),
            ("seeds with kernels and nodes of ours", &self.mixed),
            ("without a fault", &self.calm),
            ("nodes started again", &self.kills),
            ("consoles vanished", &self.vanished),
            ("sessions taken over", &self.forced),
            ("nodes", &self.nodes),
        ]
        .map(|(name, n)| (name, n.load(Ordering::Relaxed)))
    }

    fn line(&self) -> String {
        self.all().map(|(name, n)| format!("{n} {name}")).join(", ")
    }
}

fn add(to: &AtomicU64, n: u64) {
    to.fetch_add(n, Ordering::Relaxed);
}

fn run(seed: u64, totals: &Totals) {
    let mut r = Rng(seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ 0x5e1f);
    let size = match seed % 250 {
        249 => 100 + r.below(101) as usize,
        n if n % 25 == 24 => 12 + r.below(30) as usize,
        _ => 3 + r.below(5) as usize,
    };
    let big = size > 10;
    let kernels = r.pick(&[0, 25, 50, 50, 80]);
    let mut w = World::new(&mut r, size, kernels);
    let ours = w.ours.len() as u64;
    add(&totals.nodes, size as u64);
    add(&totals.mixed, u64::from(ours > 0 && ours < size as u64));
    let calm = r.chance(55);
    let endless = r.chance(30);
    add(&totals.calm, u64::from(calm));
    w.net.latency = r.pick(&[50_000, 300_000, 3_000_000]);
    if endless || !calm {
        // An endless test that nobody stops goes on for the life of a session.
        w.net.latency = r.pick(&[20_000_000, 50_000_000]);
    }
    w.net.loss = (!calm && r.chance(50)).then(|| (Rng(r.word()), r.pick(&[2, 10])));
    let (console, rival) = (0, 1);
    // The rival is a member as well; the console is none.
    let members: Vec<usize> = (1..size).collect();
    let cut = 1 + r.below(members.len() as u64 - 1) as usize;
    let (c, s) = members.split_at(cut);
    let list = |g: &[usize]| g.iter().map(|p| nid(*p).to_string()).collect::<Vec<_>>().join(" ");
    w.say(|| format!("{:?}, latency {}, calm {calm}", w.places, w.net.latency));
    w.order(console, "new_session one");
    w.order(console, &format!("add_group c {}", list(c)));
    w.order(console, &format!("add_group s {}", list(s)));
    w.order(console, "add_batch b");
    let plans: Vec<Plan> =
        (0..1 + r.below(3)).map(|_| Plan::draw(&mut r, endless, s.len() as u64, big)).collect();
    for p in &plans {
        w.order(console, &p.line());
    }
    w.order(console, "run b");
    let mut vanished = false;
    for _ in 0..1 + r.below(6) {
        match r.below(10) {
            _ if calm => {}
            0 | 1 => {
                let links = w.net.links() as u64;
                // Kernels alone have none.
                if links == 0 {
                    continue;
                }
                let link = r.below(links) as usize;
                let how = r.pick(&[Cut::Reset, Cut::ResetOne(0), Cut::ResetOne(1), Cut::Fin, Cut::Silence]);
                w.say(|| format!("link {link}: {how:?}"));
                w.net.cut(link, how);
            }
            2 | 3 => {
                let (place, rst) = (r.pick(&members), r.chance(50));
                add(&totals.kills, 1);
                w.kill(place, rst);
                let down = r.pick(&[0, SEC / 100, 3 * SEC, 70 * SEC]);
                w.run(down);
                w.restart(place);
            }
            4 if !vanished => {
                vanished = true;
                add(&totals.vanished, 1);
                w.kill(console, r.chance(50));
            }
            5 => {
                add(&totals.forced, 1);
                w.order(rival, "new_session --force two");
                w.order(rival, &format!("add_group c {}", list(&members)));
                if r.chance(50) {
                    w.order(rival, "end_session");
                }
            }
            _ => {}
        }
        let t = r.pick(&[SEC / 1000, SEC / 50, SEC / 5, SEC]);
        w.run(t);
    }
    if !vanished {
        if !endless && calm {
            // Until all units have done theirs.
            w.run(60 * SEC);
        }
        w.order(console, "query b");
        let force = if r.chance(40) { " --force" } else { "" };
        w.order(console, &format!("stop b{force}"));
        w.run(SEC);
        w.order(console, "stat c s");
        if calm {
            w.stat_is_right(console);
        }
        w.order(console, "end_session");
    }
    let all: Vec<[u64; 5]> = members.iter().map(|m| w.counts(*m)).collect();
    let sum = |n: usize| all.iter().map(|c| c[n]).sum::<u64>();
    if calm {
        let rows = |p: &Plan| c.len() as u64 * p.span;
        let bulk = |p: &Plan| p.brw.map_or(0, |b| b.2);
        if !endless {
            let rpcs: u64 = plans.iter().map(|p| rows(p) * p.concur * p.turns as u64).sum();
            assert_eq!(sum(1), rpcs, "requests sent");
            let put: u64 = plans
                .iter()
                .filter(|p| p.brw.is_some_and(|b| b.0 == 1))
                .map(|p| rows(p) * p.concur * p.turns as u64 * bulk(p))
                .sum();
            let got: u64 = plans
                .iter()
                .filter(|p| p.brw.is_some_and(|b| b.0 == 2))
                .map(|p| rows(p) * p.concur * p.turns as u64 * bulk(p))
                .sum();
            let lists: u64 = plans.iter().map(|p| 12 * rows(p)).sum();
            assert_eq!((sum(3), sum(4)), (got + lists, put), "bytes got and put");
            assert_eq!(sum(0), 0, "errors");
        }
    }
    add(&totals.rpcs, sum(1));
    add(&totals.bytes, sum(3) + sum(4));
    if vanished {
        w.run(SEC);
        w.restart(console);
    }
    w.run(QUIET);
    w.at_rest();
}

#[test]
fn everybody_serves_and_everything_comes_home() {
    let totals = Totals::default();
    play("sim_selftest::every", 0..SEEDS, |seed| run(seed, &totals));
    println!("{}", totals.line());
    if number("SEED").is_none() {
        assert!(totals.all().iter().all(|t| t.1 > 20), "the seeds are too tame: {}", totals.line());
    }
}

/// Seeds that `make test` does not reach.
#[test]
#[ignore = "soak: make soak"]
fn soak() {
    let first = number("SOAK_FIRST").unwrap_or(1_000_000);
    let last = first.saturating_add(number("SOAK_SEEDS").unwrap_or(u64::MAX / 2));
    let (start, time) = (Instant::now(), Duration::from_secs(number("SOAK_SECONDS").unwrap_or(600)));
    let (totals, mut at) = (Totals::default(), first);
    while at < last && start.elapsed() < time {
        let end = last.min(at + 100);
        play("sim_selftest::every", at..end, |seed| run(seed, &totals));
        at = end;
    }
    println!("{} seeds: {}", at - first, totals.line());
}
