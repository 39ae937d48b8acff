//! Many nodes of many versions on a simulated network: they dial each other at the same time, die in the middle of
//! anything and come back as somebody new, and every operation still ends once, with everything home.
//!
//! `SEED=n` repeats one case; `SEEDS=n` runs so many (`make soak`).

use std::collections::BTreeMap;
use std::sync::Arc;

use hugepages::{PageRunMut, PrivatePages};
use transport::proto::{Config, Data, Event, MdMem, MdSpec, Op, Payload, RxPiece, Sink};
use transport::testing::net::{Net, SEC};
use transport::wire::{Nid, ProcessId, Version};

/// A seeded generator (splitmix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

fn nid(n: usize, v6: bool) -> Nid {
    let text = if v6 { format!("fd77::{:x}@tcp", n + 1) } else { format!("10.0.0.{}@tcp", n + 1) };
    text.parse().unwrap()
}

fn byte(seed: u64, i: usize) -> u8 {
    (i as u64).wrapping_add(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0]
}

fn payload(len: usize, seed: u64) -> Payload {
    if len <= 96 {
        let b: Vec<u8> = (0..len).map(|i| byte(seed, i)).collect();
        return Payload::inline(&b).unwrap();
    }
    let mut run = PageRunMut::new(Arc::new(PrivatePages), len).unwrap();
    run.bytes_mut().iter_mut().enumerate().for_each(|(i, b)| *b = byte(seed, i));
    Payload::Pages([run.freeze().slice_all()].into_iter().collect())
}

/// A node's configuration, its incarnation apart the same for its whole life.
fn config(r: &mut Rng, n: usize, v6: bool) -> Config {
    let version = r.pick(&[None, None, Some(Version::V1), Some(Version::V2), Some(Version::V3)]);
    // On V3 and V4 untyped connections carry nothing.
    let untyped = !v6 && matches!(version, Some(Version::V1 | Version::V2)) && r.chance(30);
    Config {
        version,
        typed_conns: !untyped,
        // Everybody here is one of ours, and bears it.
        zc_v2: r.chance(50),
        enable_csum: r.chance(50),
        nonblk_zcack: r.chance(70),
        round_robin: r.chance(50),
        conns_per_peer: r.pick(&[1, 1, 2, 3]),
        peer_credits: r.pick(&[1, 3, 8]),
        ni_credits: r.pick(&[2, 64]),
        tx_window: r.pick(&[60_000, 1 << 20]),
        max_answers: r.pick(&[4, 1000]),
        ..Config::new(nid(n, v6), 0)
    }
}

fn start(cfg: &Config, epoch: u64) -> Config {
    Config { incarnation: epoch, interface_cookie: epoch, ..cfg.clone() }
}

struct Case {
    net: Net,
    cfgs: Vec<Config>,
    /// Operations of each node's present life that have not ended, with what they are.
    open: Vec<BTreeMap<u64, String>>,
    epoch: u64,
    next: u64,
    stored: u64,
    seed: u64,
}

impl Case {
    fn new(seed: u64) -> (Case, Rng) {
        let mut r = Rng(seed);
        let many = if r.chance(2) { 50 } else { 2 + r.below(6) as usize };
        let v6 = r.chance(20);
        let mut net = Net::new();
        net.latency = r.pick(&[1_000, 50_000, 3_000_000]);
        net.piecemeal = r.chance(50);
        net.chunk = r.pick(&[64, 1448, 9000]);
        let cfgs: Vec<Config> = (0..many).map(|n| config(&mut r, n, v6)).collect();
        let mut case =
            Case { net, open: vec![BTreeMap::new(); many], cfgs, epoch: 1000, next: 1, stored: 0, seed };
        for n in 0..many {
            case.epoch += 1;
            let cfg = start(&case.cfgs[n], case.epoch);
            case.net.add(cfg);
            case.entries(n);
        }
        (case, r)
    }

    /// A sink and a source for everybody.
    fn entries(&mut self, n: usize) {
        for (portal, mem) in [(5, MdMem::Sink(Sink::Lend(1 << 20))), (6, MdMem::Source(payload(150_000, 6)))]
        {
            let md = MdSpec { truncate: true, ..MdSpec::new(mem) };
            let (who, match_bits) = (ProcessId::ANY, 9);
            self.net.op(n, Op::Attach { tag: 0, portal, who, match_bits, ignore_bits: 0, md });
        }
    }

    fn operate(&mut self, r: &mut Rng) {
        let many = self.cfgs.len() as u64;
        let from = r.below(many) as usize;
        let to = r.below(many) as usize;
        if from == to || !self.net.nodes[from].alive {
            return;
        }
        let target = ProcessId::lustre(self.cfgs[to].nid);
        let tag = self.next;
        self.next += 1;
        let len = r.pick(&[0usize, 40, 96, 97, 1000, 5000, 16_383, 16_384, 40_000, 250_000]);
        let (op, what) = match r.below(5) {
            0 => (Op::Ping { tag, target }, "ping".to_owned()),
            1 => {
                let sink = Sink::Lend(len as u32);
                (Op::Get { tag, target, portal: 6, match_bits: 9, sink }, format!("GET of {len} from {to}"))
            }
            k => {
                let (payload, ack) = (payload(len, tag), k == 2);
                let hdr_data = tag << 20 | len as u64;
                let (portal, match_bits, offset) = (5, 9, 0);
                let op = Op::Put { tag, target, portal, match_bits, offset, hdr_data, payload, ack };
                (op, format!("PUT of {len} to {to}, ack {ack}"))
            }
        };
        self.open[from].insert(tag, what);
        self.net.op(from, op);
    }

    /// Takes what the applications heard: each operation ends once, and what was stored is what was sent.
    fn hear(&mut self) {
        for n in 0..self.cfgs.len() {
            for e in self.net.take_events(n) {
                let what = format!("{e:.80?}");
                if std::env::var("SEED").is_ok() {
                    println!("{n} {what}");
                }
                let ended = match e {
                    Event::Send { tag, done: true, .. } | Event::Ack { tag, done: true, .. } => tag,
                    Event::Ping { tag, .. } | Event::Refused { tag, .. } => tag,
                    Event::Reply { tag, status, data, .. } => {
                        if let (Ok(()), Data::Lent(p)) = (status, &data) {
                            check(p.iter(), 6);
                        }
                        tag
                    }
                    Event::Put(p) => {
                        if p.status.is_ok() {
                            let (tag, len) = (p.hdr_data >> 20, p.hdr_data & 0xF_FFFF);
                            assert_eq!(u64::from(p.mlength), len, "seed {}", self.seed);
                            let Data::Lent(pieces) = &p.data else { panic!("seed {}", self.seed) };
                            check(pieces.iter(), tag);
                            self.stored += 1;
                        }
                        continue;
                    }
                    _ => continue,
                };
                assert!(
                    self.open[n].remove(&ended).is_some(),
                    "seed {}: {ended} of node {n} ended twice: {what}",
                    self.seed
                );
            }
        }
    }

    /// What holds at any time.
    fn invariants(&self) {
        for (n, node) in self.net.nodes.iter().enumerate().filter(|(_, n)| n.alive) {
            let (g, cfg) = (node.machine.gauges(), &self.cfgs[n]);
            assert!(g.credits_used <= cfg.ni_credits as usize, "seed {} node {n}: {g:?}", self.seed);
            assert!(g.cookies <= g.lends, "seed {} node {n}: a cookie without its pages: {g:?}", self.seed);
        }
    }

    fn kill(&mut self, r: &mut Rng, n: usize) {
        self.net.kill(n, r.chance(60));
        self.net.take_events(n);
        self.open[n].clear();
    }

    fn revive(&mut self, n: usize) {
        self.epoch += 1;
        let cfg = start(&self.cfgs[n], self.epoch);
        self.net.restart(n, cfg);
        self.entries(n);
    }
}

fn check<'a>(pieces: impl Iterator<Item = &'a RxPiece>, seed: u64) {
    let mut at = 0;
    for p in pieces {
        for (i, b) in p.bytes().iter().enumerate() {
            assert_eq!(*b, byte(seed, at + i), "at {}", at + i);
        }
        at += p.bytes().len();
    }
}

/// Gives the messages stored, and the refusals and races that it took.
fn run(seed: u64) -> (u64, u64, u64) {
    let (mut case, mut r) = Case::new(seed);
    let steps = 30 + r.below(60);
    for _ in 0..steps {
        match r.below(20) {
            0 => {
                let n = r.below(case.cfgs.len() as u64) as usize;
                if case.net.nodes[n].alive {
                    case.kill(&mut r, n);
                } else {
                    case.revive(n);
                }
            }
            1 => {
                let n = r.below(case.cfgs.len() as u64) as usize;
                case.net.nodes[n].deaf = r.chance(50);
            }
            2..=6 => {
                let t = r.pick(&[0, 10_000, 200_000, 2_000_000, SEC, 5 * SEC]);
                case.net.run(t);
            }
            _ => case.operate(&mut r),
        }
        case.hear();
        case.invariants();
    }
    for n in 0..case.cfgs.len() {
        case.net.nodes[n].deaf = false;
        if !case.net.nodes[n].alive {
            case.revive(n);
        }
    }
    // Longer than any time-out of an operation.
    case.net.run(400 * SEC);
    case.hear();
    for (n, open) in case.open.iter().enumerate() {
        let m = &case.net.nodes[n].machine;
        assert!(
            open.is_empty(),
            "seed {seed} node {n}: never ended: {open:?} {:?} {:?}",
            m.gauges(),
            m.counters()
        );
    }
    let (mut downgrades, mut races) = (0, 0);
    for (n, node) in case.net.nodes.iter().enumerate() {
        let g = node.machine.gauges();
        assert_eq!(
            (g.cookies, g.lends, g.credits_used, g.ops, g.queued),
            (0, 0, 0, 0, 0),
            "seed {seed} node {n}: {g:?}"
        );
        let home = node.pool.home();
        while home.drain() > 0 {}
        assert_eq!(home.lent_out(), 0, "seed {seed} node {n}");
        let c = node.machine.counters();
        downgrades += c.downgrades;
        races += c.races;
        for (name, v) in c.iter() {
            // What none of our nodes may ever say to another.
            let never = [
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
            assert!(v == 0 || !never.contains(&name), "seed {seed} node {n}: {name} {v}");
        }
    }
    (case.stored, downgrades, races)
}

#[test]
fn every_operation_ends_once_whatever_the_versions() {
    let var = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let seeds = var("SEED").map_or(0..var("SEEDS").unwrap_or(500), |s| s..s + 1);
    let half = |odd: u64| {
        let mine = seeds.clone().filter(move |s| s % 2 == odd);
        std::thread::spawn(move || {
            let (mut sum, mut failed) = ((0, 0, 0), vec![]);
            for seed in mine {
                match std::panic::catch_unwind(|| run(seed)) {
                    Ok(x) => sum = (sum.0 + x.0, sum.1 + x.1, sum.2 + x.2),
                    Err(_) => failed.push(seed),
                }
            }
            (sum, failed)
        })
    };
    let threads = [half(0), half(1)];
    let mut total = (0, 0, 0);
    let mut failed = vec![];
    for t in threads {
        let (sum, bad) = t.join().unwrap();
        total = (total.0 + sum.0, total.1 + sum.1, total.2 + sum.2);
        failed.extend(bad);
    }
    assert!(failed.is_empty(), "repeat with SEED=n: {failed:?}");
    println!(
        "{} seeds: {} stored, {} downgrades, {} races",
        seeds.end - seeds.start,
        total.0,
        total.1,
        total.2
    );
    if seeds.end - seeds.start >= 500 {
        assert!(total.0 > 2000 && total.1 > 200 && total.2 > 100, "the seeds are too tame: {total:?}");
    }
}
