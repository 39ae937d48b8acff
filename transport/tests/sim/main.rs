//! Nodes with applications on a simulated network: what was asked, what was heard, and what must hold at any time.
#![allow(
    clippy::new_without_default,
    missing_docs,
    unreachable_pub,
    reason = "a program of tests has no users"
)]

#[cfg(feature = "node")]
#[path = "../common/echo.rs"]
mod echo;
#[cfg(feature = "node")]
mod lst_world;
#[cfg(feature = "node")]
#[path = "../common/net_suite.rs"]
mod net_suite;
#[path = "../common/net_world.rs"]
mod net_world;
#[cfg(feature = "node")]
mod nodes;
#[cfg(feature = "node")]
#[path = "../common/rails.rs"]
mod rails;
#[path = "../common/raw.rs"]
mod raw;
#[path = "../common/routed.rs"]
mod routed;
#[cfg(feature = "node")]
mod sim_beside;
mod sim_cuts;
#[cfg(feature = "node")]
mod sim_departed;
mod sim_ends;
mod sim_fabric;
#[cfg(feature = "node")]
mod sim_forward;
mod sim_kernel;
#[cfg(feature = "node")]
mod sim_multi_rail;
mod sim_net;
#[cfg(feature = "node")]
mod sim_net_nodes;
mod sim_netsock;
#[cfg(feature = "node")]
mod sim_netsock_nodes;
#[cfg(feature = "node")]
mod sim_nis;
mod sim_node;
#[cfg(feature = "node")]
mod sim_queues;
#[cfg(feature = "node")]
mod sim_rails;
mod sim_routers;
mod sim_routes;
#[cfg(feature = "node")]
mod sim_selftest;
#[cfg(feature = "node")]
mod sim_shares;
#[cfg(feature = "node")]
mod sim_stalled;
mod sim_storm;
mod sim_versions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hugepages::PageRun;
use transport::lnd::{Config, Data, LnetError, Payload, RxPiece, Shards, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::testing::data::{self, Spot, byte, filled};
use transport::testing::net::{Net, SEC};
use transport::testing::rng::Rng;
use transport::wire::{Nid, ProcessId};

/// Longer than any time-out of an operation, in ns.
pub const QUIET: u64 = 400 * SEC;
/// Portal of a sink at every node.
const SINK: u32 = 5;
/// Portal of a source at every node, and its length in bytes.
const SOURCE: u32 = 6;
const SOURCE_LEN: usize = 150_000;

pub fn nid(n: usize, v6: bool) -> Nid {
    let n = n + 1;
    let text = if v6 { format!("fd77::{n:x}@tcp") } else { format!("10.0.{}.{}@tcp", n / 250, n % 250 + 1) };
    text.parse().unwrap()
}

fn check(bytes: impl Iterator<Item = u8>, seed: u64) {
    for (i, b) in bytes.enumerate() {
        assert_eq!(b, byte(seed, i), "at {i} of {seed}");
    }
}

fn bytes_of<'a>(pieces: impl Iterator<Item = &'a RxPiece>) -> impl Iterator<Item = u8> {
    pieces.flat_map(|p| p.bytes().iter().copied())
}

/// Wish of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Ping,
    /// So many bytes, with an ACK or without.
    Put(usize, bool),
    /// So many bytes, into memory of ours or lent.
    Get(usize, bool),
}

/// End of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Ok,
    Failed(LnetError),
    Refused,
}

impl End {
    /// Whether LNet may send the message again.
    pub fn may_resend(self) -> bool {
        use LnetError::{ConnLost, Refused, TimedOut, Unreachable};
        matches!(self, End::Failed(ConnLost | Refused | TimedOut | Unreachable))
    }
}

/// An operation that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub node: usize,
    pub to: usize,
    pub ask: Ask,
    pub end: End,
}

/// An operation that has not ended.
#[derive(Debug)]
struct Open {
    to: usize,
    ask: Ask,
    /// The pages of a PUT: ours again when it ends.
    run: Option<PageRun>,
}

/// A process of a node.
pub struct Process {
    /// The first of its machines in the network.
    pub first: usize,
    pub cfg: Config,
    pub shards: u16,
    open: BTreeMap<u64, Open>,
    /// It copies what is put there, and gives large copies away.
    ways: Ways,
}

/// Ways of a node to take payload in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ways {
    /// Payload is copied into one MD, else lent.
    pub copies: bool,
    /// Large messages go into copy jobs.
    pub shares: bool,
}

/// Nodes on a network.
pub struct World {
    pub net: Net,
    pub nodes: Vec<Process>,
    epoch: u64,
    next: u64,
    /// PUTs by tag that a sink has taken.
    stored: BTreeSet<u64>,
    /// Operations in the order they ended.
    pub ends: Vec<Ended>,
    /// Print what applications hear.
    pub verbose: bool,
    /// Whether a peer of a machine had connections when last looked at.
    had: BTreeMap<(usize, ProcessId), bool>,
}

impl World {
    pub fn new() -> World {
        World {
            net: Net::new(),
            nodes: Vec::new(),
            epoch: 1000,
            next: 1,
            stored: BTreeSet::new(),
            ends: Vec::new(),
            verbose: std::env::var("TRACE").is_ok(),
            had: BTreeMap::new(),
        }
    }

    /// Adds a node of so many shards; its incarnation is the world's choice.
    pub fn add(&mut self, cfg: Config, shards: u16) -> usize {
        self.add_with(cfg, shards, Ways::default())
    }

    /// The same, with its ways.
    pub fn add_with(&mut self, cfg: Config, shards: u16, ways: Ways) -> usize {
        self.epoch += 1;
        let first = self.net.nodes.len();
        self.nodes.push(Process { first, cfg, shards, open: BTreeMap::new(), ways });
        let n = self.nodes.len() - 1;
        for me in 0..shards {
            let cfg = self.config(n, me);
            self.net.add(cfg);
        }
        self.entries(n);
        n
    }

    /// Some nodes of one shard with the addresses of [`nid`], and so many receive buffers each.
    pub fn of(buffers: usize, cfgs: impl IntoIterator<Item = Config>) -> World {
        let mut w = World::new();
        w.net.buffers = buffers;
        for cfg in cfgs {
            w.add(cfg, 1);
        }
        w
    }

    fn config(&self, n: usize, me: u16) -> Config {
        let p = &self.nodes[n];
        let shards = Shards::new(me, p.shards).unwrap();
        Config { incarnation: self.epoch, interface_cookie: self.epoch, shards, ..p.cfg.clone() }
    }

    /// A sink and a source for everybody.
    fn entries(&mut self, n: usize) {
        static PAGES: OnceLock<PageRun> = OnceLock::new();
        let pages = PAGES.get_or_init(|| filled(SOURCE_LEN, SOURCE.into()).freeze());
        let source = Payload::Pages([pages.slice_all()].into_iter().collect());
        let Ways { copies, shares } = self.nodes[n].ways;
        let sink = if copies { Sink::Copy(data::run(1 << 20)) } else { Sink::Lend(1 << 20) };
        self.each_machine(n, |net, m| net.nodes[m].machine.offload(shares));
        for (portal, mem) in [(SINK, MdMem::Sink(sink)), (SOURCE, MdMem::Source(source))] {
            let md = MdSpec { truncate: true, ..MdSpec::new(mem) };
            self.net.op(self.nodes[n].first, Spot(portal, 9).attach(0, md));
        }
    }

    pub fn alive(&self, n: usize) -> bool {
        self.net.nodes[self.nodes[n].first].alive
    }

    /// Gives node `from` an operation, at its shard `shard`.
    pub fn ask_at(&mut self, from: usize, shard: u16, to: usize, ask: Ask) {
        let tag = self.next;
        let cfg = &self.nodes[to].cfg;
        // By one of its NIs, as it comes.
        let nid = cfg.nids().nth(tag as usize % cfg.nis.len()).unwrap();
        let target = ProcessId { nid, pid: cfg.pid };
        self.next += 1;
        let mut run = None;
        let op = match ask {
            Ask::Ping => Op::Ping { tag, target },
            Ask::Get(len, copied) => {
                let sink =
                    if copied && len > 0 { Sink::Copy(data::run(len)) } else { Sink::Lend(len as u32) };
                Spot(SOURCE, 9).get(tag, target, sink)
            }
            Ask::Put(len, ack) => {
                let payload = if len == 0 {
                    Payload::empty()
                } else {
                    let pages = filled(len, tag).freeze();
                    run = Some(pages.clone());
                    Payload::Pages([pages.slice_all()].into_iter().collect())
                };
                let hdr_data = tag << 20 | len as u64;
                Spot(SINK, 9).put_with(tag, hdr_data, target, payload, ack)
            }
        };
        if self.verbose {
            println!("{} {from}/{shard} asks {to}: {ask:?}, {tag}, {nid}", self.net.now);
        }
        self.nodes[from].open.insert(tag, Open { to, ask, run });
        self.net.op(self.nodes[from].first + usize::from(shard), op);
    }

    pub fn ask(&mut self, from: usize, to: usize, ask: Ask) {
        self.ask_at(from, 0, to, ask);
    }

    /// Takes what the applications heard: each operation ends once, and what was stored is what was sent.
    pub fn hear(&mut self) {
        for n in 0..self.nodes.len() {
            for machine in self.nodes[n].first..self.nodes[n].first + usize::from(self.nodes[n].shards) {
                for (at, _, e) in std::mem::take(&mut self.net.nodes[machine].events) {
                    if self.verbose {
                        println!("{at} {n} {e:.120?}");
                    }
                    self.heard(n, e);
                }
            }
        }
    }

    fn heard(&mut self, n: usize, e: Event) {
        let (tag, done, end) = match e {
            Event::Send { tag, status, done } => (tag, done, status.into()),
            Event::Ack { tag, status, done, .. } => {
                // Whoever has the ACK has been stored there, or has been heard of as lost meanwhile.
                (tag, done, status.into())
            }
            Event::Ping { tag, info, .. } => (tag, true, info.map(|_| ()).into()),
            Event::Refused { tag, .. } => (tag, true, End::Refused),
            Event::Reply { tag, status, data, sink, mlength } => {
                if status.is_ok() {
                    match &data {
                        Data::Lent(p) => check(bytes_of(p.iter()), SOURCE.into()),
                        Data::InSink => {
                            let run = sink.expect("the sink comes back");
                            check(run.bytes()[..mlength as usize].iter().copied(), SOURCE.into());
                        }
                        Data::Discarded => {}
                    }
                }
                (tag, true, status.into())
            }
            Event::Put(p) => {
                if p.status.is_ok() {
                    let (tag, len) = (p.hdr_data >> 20, p.hdr_data & 0xF_FFFF);
                    assert_eq!(u64::from(p.mlength), len, "{tag}");
                    match &p.data {
                        Data::Lent(pieces) => check(bytes_of(pieces.iter()), tag),
                        Data::InSink if self.nodes[n].ways.copies => {}
                        Data::InSink | Data::Discarded => assert_eq!(len, 0, "{tag}"),
                    }
                    assert!(self.stored.insert(tag), "{tag} was stored twice");
                }
                return;
            }
            Event::Attached { .. } | Event::Get(_) => return,
            Event::Unlink { .. } | Event::Counts { .. } | Event::ShutDown { .. } => {
                panic!("nobody asked for {e:?}")
            }
        };
        let open = &mut self.nodes[n].open;
        let Some(o) = open.get(&tag) else { panic!("{tag} of node {n} ended twice: {end:?}") };
        if !done {
            assert!(matches!(o.ask, Ask::Put(_, true)), "{tag} of node {n}: not the last event of {o:?}");
            return;
        }
        let Some(o) = open.remove(&tag) else { return };
        if let Some(run) = o.run {
            // Whoever is told of the end owns the pages: nobody else looks at them, the NIC included.
            let thawed = run.try_thaw().map_err(|_| format!("{tag} of node {n} ended, its pages are out"));
            thawed.unwrap().bytes_mut().fill(0xEE);
        }
        self.ends.push(Ended { node: n, to: o.to, ask: o.ask, end });
    }

    /// Invariants of a machine.
    pub fn invariants(&mut self, machine: usize) {
        let node = &self.net.nodes[machine];
        if !node.alive {
            return;
        }
        let cfg = node.machine.config();
        let (mut credits, mut cookies) = (0, 0);
        let had = &mut self.had;
        node.machine.peers(&mut |p| {
            credits += p.credits_used as usize;
            cookies += p.cookies;
            // One of each line of the node's own may leave, whatever those of others hold.
            let lines = if cfg.routing.forwarding { 2 } else { 1 };
            assert!(p.credits_used <= cfg.peer_credits + lines, "machine {machine}: {p:?}");
            // And a ping or push of the node's own.
            let most = cfg.max_queued + p.answers + usize::from(cfg.discovery);
            assert!(p.queued + p.waiting <= most, "machine {machine}: {p:?}");
            if p.conns.is_empty() {
                assert_eq!((p.incarnation, p.cookies), (None, 0), "machine {machine}: {p:?}");
            }
            let before = had.insert((machine, p.id), !p.conns.is_empty());
            // Forgotten with the last connection, but for what a dial that is under way has learnt since.
            if before == Some(true) && p.conns.is_empty() && !p.dialling {
                assert_eq!(p.version, None, "machine {machine}: {p:?}");
            }
        });
        let g = node.machine.gauges();
        assert_eq!((g.credits_used, g.cookies), (credits, cookies), "machine {machine}: {g:?}");
        // And an answer for each host that holds none.
        assert!(
            g.credits_used <= cfg.nis.len() * cfg.ni_credits as usize + g.peers,
            "machine {machine}: {g:?}"
        );
        assert!(g.cookies <= g.lends, "machine {machine}: a cookie without its pages: {g:?}");
        let held = node.machine.held();
        assert_eq!(held.used, node.machine.held_recounted(), "machine {machine}: {held:?}");
        let parts = held.answers + held.handshakes + held.conns + held.peers;
        assert_eq!(held.used, parts, "machine {machine}: {held:?}");
    }

    /// Runs for `ns`, and looks at every machine after each of its inputs.
    pub fn run(&mut self, ns: u64) {
        let until = self.net.now + ns;
        // Nobody has looked at what was done to nodes since.
        self.had.clear();
        while self.net.step_before(until) {
            if let Some(machine) = self.net.last {
                self.invariants(machine);
            }
        }
    }

    /// Ends a node's process. Its peers get RSTs, or silence.
    pub fn kill(&mut self, n: usize, rst: bool) {
        self.hear();
        if self.verbose {
            println!("{} {n} is killed", self.net.now);
        }
        let p = &mut self.nodes[n];
        p.open.clear();
        for machine in p.first..p.first + usize::from(p.shards) {
            self.net.kill(machine, rst);
            self.net.nodes[machine].mute = !rst;
            self.had.retain(|(m, _), _| *m != machine);
        }
    }

    /// Starts it again as somebody new.
    pub fn revive(&mut self, n: usize) {
        self.epoch += 1;
        for me in 0..self.nodes[n].shards {
            let machine = self.nodes[n].first + usize::from(me);
            let cfg = self.config(n, me);
            self.net.restart(machine, cfg);
            self.net.nodes[machine].mute = false;
        }
        self.entries(n);
    }

    /// Sets something of all machines of a node.
    pub fn each_machine(&mut self, n: usize, f: impl Fn(&mut Net, usize)) {
        let p = &self.nodes[n];
        for machine in p.first..p.first + usize::from(p.shards) {
            f(&mut self.net, machine);
        }
    }

    /// Everything has ended and is home.
    pub fn at_rest(&mut self) {
        // An answer that is on its way at this moment arrives.
        for _ in 0..10 {
            if self.net.nodes.iter().all(|n| n.machine.held().answers == 0) {
                break;
            }
            self.run(SEC / 10);
        }
        self.hear();
        for (n, p) in self.nodes.iter().enumerate() {
            for machine in p.first..p.first + usize::from(p.shards) {
                let node = &self.net.nodes[machine];
                let (g, c) = (node.machine.gauges(), node.machine.counters());
                assert!(p.open.is_empty(), "node {n}: never ended: {:?} {g:?} {c:?}", p.open);
                let out = (g.cookies, g.lends, g.credits_used, g.ops, g.queued, g.copy_jobs);
                assert_eq!(out, (0, 0, 0, 0, 0, 0), "node {n}: {g:?} {c:?}");
                let held = node.machine.held();
                assert_eq!((held.answers, held.handshakes, held.stalled), (0, 0, 0), "node {n}: {held:?}");
                let home = node.pool.home();
                while home.drain() > 0 {}
                assert_eq!(home.lent_out(), 0, "node {n}");
                for (name, v) in c.iter() {
                    assert!(v == 0 || !NEVER.contains(&name), "node {n}: {name} {v}");
                }
            }
        }
    }

    /// Operations that ended since the last call.
    pub fn take_ends(&mut self) -> Vec<Ended> {
        self.hear();
        std::mem::take(&mut self.ends)
    }

    /// Operations of a node that have not ended.
    pub fn open(&self, n: usize) -> usize {
        self.nodes[n].open.len()
    }

    /// PUTs that sinks have taken.
    pub fn stored(&self) -> u64 {
        self.stored.len() as u64
    }

    /// A counter of a machine.
    pub fn counter(&self, machine: usize, name: &str) -> u64 {
        self.net.nodes[machine].machine.counters().iter().filter(|c| c.0 == name).map(|c| c.1).sum()
    }

    /// Counters of a node.
    pub fn counts(&self, n: usize) -> Vec<(&'static str, u64)> {
        let p = &self.nodes[n];
        let all = (p.first..p.first + usize::from(p.shards)).map(|m| self.net.nodes[m].machine.counters());
        all.flat_map(|c| c.iter().filter(|c| c.1 > 0).collect::<Vec<_>>()).collect()
    }

    /// A counter summed over all machines.
    pub fn sum(&self, name: &str) -> u64 {
        (0..self.net.nodes.len()).map(|m| self.counter(m, name)).sum()
    }
}

impl From<Result<(), LnetError>> for End {
    fn from(r: Result<(), LnetError>) -> End {
        r.map_or_else(End::Failed, |()| End::Ok)
    }
}

/// Counters of messages that none of our nodes may ever send to another.
const NEVER: [&str; 11] = [
    "err_cookie",
    "err_checksum",
    "err_magic",
    "err_ksock_type",
    "err_lnet_type",
    "err_payload_len",
    "err_dest_nid",
    "err_hello_nid",
    "err_conn_type",
    "err_hello_ips",
    "err_target_nid",
];

/// Plays `one` with fresh seeds, from `SOAK_FIRST` on, until `SOAK_SEEDS` are played or `SOAK_SECONDS` are over; gives their number.
pub fn soak(name: &str, one: impl Fn(u64) + Sync) -> u64 {
    let first = number("SOAK_FIRST").unwrap_or(1_000_000);
    let last = first.saturating_add(number("SOAK_SEEDS").unwrap_or(u64::MAX / 2));
    let (start, time) = (Instant::now(), Duration::from_secs(number("SOAK_SECONDS").unwrap_or(600)));
    let mut at = first;
    while at < last && start.elapsed() < time {
        let end = last.min(at + 100);
        play(name, at..end, &one);
        at = end;
    }
    at - first
}

/// Plays `one` with every seed (or only with `SEED`) on two threads, and prints the command that repeats one that
/// failed.
pub fn play(name: &str, seeds: std::ops::Range<u64>, one: impl Fn(u64) + Sync) {
    let seeds = number("SEED").map_or(seeds, |s| s..s + 1);
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    let failed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one(seed))).is_err() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort_unstable();
    let again: Vec<String> = failed
        .iter()
        .map(|s| format!("SEED={s} TRACE=1 cargo test -p pollnd-transport --test sim -- --nocapture {name}"))
        .collect();
    assert!(again.is_empty(), "to see a failure again:\n  {}", again.join("\n  "));
}

/// Prints what came of all seeds; each of it must have come at least so often, unless one seed alone was played.
pub fn judge<const N: usize>(each: [u64; N], least: [u64; N], line: &str) {
    println!("{line}");
    let tame = each.iter().zip(least).any(|(n, least)| *n < least);
    assert!(number("SEED").is_some() || !tame, "the seeds are too tame: {line}");
}

/// An environment variable that is a number.
pub fn number(name: &str) -> Option<u64> {
    let s = std::env::var(name).ok()?;
    Some(s.parse().unwrap_or_else(|_| panic!("{name}={s:?} is not a number")))
}

/// A random operation's size.
pub fn some_len(r: &mut Rng) -> usize {
    r.pick(&[0usize, 40, 96, 97, 1000, 5000, 16_383, 16_384, 40_000, 250_000])
}
