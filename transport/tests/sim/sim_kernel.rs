//! A node beside a kernel (`transport::testing::kernel`): both dial at once, whichever has the higher NID, whatever
//! versions and numbers of connections they were told, with packets that are lost and processes that come and go. No
//! kernel is told NONE, none panics, no set is lost by a race, and what is received is delivered (field reports L1, L2).
//!
//! ```text
//! SEED=17 TRACE=1 cargo test -p pollnd-transport --test sim -- --nocapture sim_kernel::every   one seed again
//! make soak SEEDS=5000                                                                          more of them
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{judge, play};
use crate::raw::AT;
use transport::lnd::{Config, Payload, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::testing::data::pages;
use transport::testing::kernel::{Kernel, KernelCmd, KernelConfig};
use transport::testing::net::{Net, SEC};
use transport::testing::pair::nid;
use transport::testing::rng::Rng;
use transport::wire::{LnetBody, ProcessId, Version, ping};

/// Seeds of `make test`.
const SEEDS: u64 = 1500;
/// Longer than any operation lasts, in ns.
const QUIET: u64 = 200 * SEC;
const KERNEL: u8 = 2;

/// An operation of ours.
#[derive(Debug)]
struct Asked {
    life: u64,
    put: bool,
    end: Option<bool>,
}

struct World {
    net: Net,
    kernel: Kernel,
    cfg: Config,
    life: u64,
    /// Time at which processes of ours ended, in ns.
    ends: Vec<u64>,
    /// Ended in order, with FINs.
    orderly: u64,
    next: u64,
    asked: BTreeMap<u64, Asked>,
    /// PUTs of the kernel's that we stored, by `hdr_data`.
    stored: Vec<u64>,
    calm: bool,
    verbose: bool,
}

impl World {
    fn new(r: &mut Rng) -> World {
        let me = r.pick(&[1, 3]);
        let version = r.pick(&[None, None, None, None, Some(Version::V2), Some(Version::V1)]);
        let untyped = version.is_some() && r.chance(20);
        let cfg = Config {
            version,
            typed_conns: !untyped,
            conns_per_peer: r.pick(&[1, 1, 4]),
            discovery: r.chance(70),
            ..Config::new(nid(me), 0)
        };
        let mut net = Net::new();
        net.latency = r.pick(&[50_000, 300_000, 3_000_000]);
        net.discards = r.chance(50);
        let calm = r.chance(60);
        let percent = r.pick(&[5, 20, 40]);
        net.loss = (!calm).then(|| (Rng(r.word()), percent));
        net.add(cfg.clone());
        let kernel = KernelConfig {
            nids: Vec::new(),
            peer: None,
            nid: nid(KERNEL),
            version: r.pick(&[Version::V3, Version::V3, Version::V3, Version::V2, Version::V1]),
            conns_per_peer: r.pick(&[1, 1, 4]),
            incarnation: 77,
            discovery: r.chance(70),
        };
        let verbose = std::env::var("TRACE").is_ok();
        if verbose {
            println!(
                "we are {me}, {version:?}, {} conns, typed {}; {kernel:?}; calm {calm}",
                cfg.conns_per_peer, cfg.typed_conns
            );
        }
        let kernel = Kernel::new(&mut net, kernel, 0, r.word());
        let mut w = World {
            net,
            kernel,
            cfg,
            life: 0,
            ends: Vec::new(),
            orderly: 0,
            next: 0,
            asked: BTreeMap::new(),
            stored: Vec::new(),
            calm,
            verbose,
        };
        w.start();
        w
    }

    /// A process of ours begins.
    fn start(&mut self) {
        self.life += 1;
        let cfg = Config { incarnation: 1000 + self.life, interface_cookie: self.life, ..self.cfg.clone() };
        self.net.restart(0, cfg);
        self.net.nodes[0].mute = false;
        let md = MdSpec { truncate: true, ..MdSpec::new(MdMem::Sink(Sink::Discard(1 << 20))) };
        self.net.op(0, AT.attach(0, md));
    }

    /// It ends: in order, with RSTs as a killed one over kernel sockets does, or without a word.
    fn end(&mut self, how: u64) {
        self.hear();
        self.settled();
        self.asked.retain(|_, a| a.end.is_some());
        if how == 0 {
            let before = self.kernel.seen.sets_ended;
            self.net.op(0, Op::Shutdown { tag: 0 });
            // A peer that dials meanwhile is answered, and hears the end of that set, too.
            self.run(SEC * 3 / 2);
            self.orderly += 1 + self.kernel.seen.sets_ended - before;
        }
        self.net.take_events(0);
        if self.verbose {
            println!("{:.6} life {} ends, {how}", self.net.now as f64 * 1e-9, self.life);
        }
        // A kernel that waits for the answer of a process that died without a word does so for 50 s, and says NONE to the
        // next one until then.
        self.calm &= how != 2 || !self.kernel.dialling();
        self.net.kill(0, how == 1);
        self.net.nodes[0].mute = how == 2;
        self.ends.push(self.net.now);
    }

    /// Conditions of a process at its end.
    fn settled(&self) {
        let c = self.net.nodes[0].machine.counters();
        for name in
            ["err_cookie", "err_ksock_type", "err_lnet_type", "err_magic", "err_conn_type", "err_hello_nid"]
        {
            let n: u64 = c.iter().filter(|x| x.0 == name).map(|x| x.1).sum();
            assert_eq!(n, 0, "{name}");
        }
        if self.calm {
            assert_eq!((c.sets_closed, c.dials_failed), (0, 0), "a set was lost: {c:?}");
        }
    }

    fn ask(&mut self, r: &mut Rng) {
        self.next += 1;
        let (tag, target) = (self.next, ProcessId::lustre(nid(KERNEL)));
        let put = r.chance(50);
        let op = if put {
            let len = r.pick(&[0usize, 60, 5000, 40_000]);
            AT.put(tag, target, if len == 0 { Payload::empty() } else { pages(len) }, true)
        } else {
            Op::Ping { tag, target }
        };
        if self.verbose {
            println!("{:.6} we ask {tag}, put {put}", self.net.now as f64 * 1e-9);
        }
        self.asked.insert(tag, Asked { life: self.life, put, end: None });
        self.net.op(0, op);
    }

    fn run(&mut self, ns: u64) {
        let until = self.net.now + ns;
        self.kernel.run_until(&mut self.net, until);
        self.hear();
    }

    fn hear(&mut self) {
        for e in self.net.take_events(0) {
            let (tag, good) = match e {
                Event::Ping { tag, info, .. } => (tag, info.is_ok()),
                Event::Ack { tag, status, done: true, .. } | Event::Send { tag, status, done: true } => {
                    (tag, status.is_ok())
                }
                Event::Put(p) if p.status.is_ok() => {
                    self.stored.push(p.hdr_data);
                    continue;
                }
                Event::Refused { why, .. } => panic!("refused: {why}"),
                _ => continue,
            };
            if let Some(a) = self.asked.get_mut(&tag) {
                assert_eq!(a.end, None, "{tag} ends twice");
                a.end = Some(good);
                if self.verbose {
                    println!("{:.6} ours {tag} ends, {good}", self.net.now as f64 * 1e-9);
                }
            }
        }
    }

    /// Conditions at the end of it all.
    fn judge(&mut self) {
        self.hear();
        self.settled();
        let seen = self.kernel.seen;
        assert_eq!((seen.nones, seen.version_nones), (0, 0), "we said NONE: {seen:?}");
        assert_eq!(seen.sets_wrong, 0, "{seen:?}");
        if self.calm {
            // Each push is acknowledged, whoever was asked first; one of a process that ended is nobody's.
            let left = seen.pushes - seen.pushes_acked;
            assert!(
                left <= self.ends.len() as u64,
                "{left} pushes of the kernel were not acknowledged: {seen:?}"
            );
        }
        for (tag, a) in &self.asked {
            let end = a.end.unwrap_or_else(|| panic!("{tag} of life {} never ended", a.life));
            assert!(end || !self.calm, "{tag} of life {} failed", a.life);
            assert!(!(end && a.put) || self.kernel.taken.contains(tag), "{tag} was ACKed and not taken");
        }
        for s in &self.kernel.sent {
            if let (LnetBody::Put { hdr_data, portal, .. }, Some(at)) = (s.body, s.received)
                && portal != ping::PORTAL
            {
                assert!(self.stored.contains(&hdr_data), "PUT {hdr_data} was received at {at} and lost");
            }
        }
        for op in &self.kernel.ops {
            let alive = !self.ends.iter().any(|e| (op.asked()..op.asked() + 60 * SEC).contains(e));
            assert!(op.end.is_some());
            assert!(!self.calm || !op.fair || !alive || op.end == Some(true), "{op:?} of the kernel failed");
        }
        if self.calm {
            assert!(seen.sets_ended <= self.orderly, "a set was lost by a race: {seen:?}");
            let ours = self.net.nodes[0].machine.gauges().conns_up;
            assert!(ours == 0 || ours == self.kernel.up(), "{ours} of ours, {} of its", self.kernel.up());
        }
    }
}

#[derive(Default)]
struct Totals {
    ours: AtomicU64,
    its: AtomicU64,
    dials: AtomicU64,
    duplicates: AtomicU64,
    refused: AtomicU64,
    stale: AtomicU64,
    ends: AtomicU64,
    pushes: AtomicU64,
    taken: AtomicU64,
}

impl Totals {
    fn add(&self, w: &World) {
        let add = |to: &AtomicU64, n: u64| to.fetch_add(n, Ordering::Relaxed);
        add(&self.ours, w.asked.values().filter(|a| a.end == Some(true)).count() as u64);
        add(&self.its, w.kernel.ops.iter().filter(|o| o.end == Some(true)).count() as u64);
        add(&self.dials, w.kernel.seen.dials);
        add(&self.duplicates, w.kernel.seen.duplicates);
        add(&self.refused, w.kernel.seen.refused);
        add(&self.stale, w.kernel.seen.stale);
        add(&self.ends, w.ends.len() as u64);
        add(&self.pushes, w.kernel.seen.pushes_acked);
        add(&self.taken, w.kernel.seen.pushes_taken);
    }

    fn each(&self) -> [u64; 9] {
        let [pushes, taken] = [&self.pushes, &self.taken];
        [
            &self.ours,
            &self.its,
            &self.dials,
            &self.duplicates,
            &self.refused,
            &self.stale,
            &self.ends,
            pushes,
            taken,
        ]
        .map(|n| n.load(Ordering::Relaxed))
    }

    fn line(&self) -> String {
        let [ours, its, dials, duplicates, refused, stale, ends, pushes, taken] = self.each();
        format!(
            "{ours} operations of ours and {its} of kernels done; kernels' dials: {dials}, {duplicates} of them duplicates; \
             {refused} NONEs of kernels, none of ours; {stale} answers of a new incarnation; {ends} processes ended; {pushes} pushes of kernels and {taken} of ours"
        )
    }
}

fn run(seed: u64, totals: &Totals) {
    let mut r = Rng(seed);
    let mut w = World::new(&mut r);
    for _ in 0..10 + r.below(25) {
        match r.below(12) {
            0 => {
                let how = r.below(3);
                w.end(how);
                let down = r.pick(&[0, SEC / 1000, SEC / 10, 2 * SEC]);
                w.run(down);
                w.start();
                // A command does at once what it was started for.
                (0..1 + r.below(2)).for_each(|_| w.ask(&mut r));
            }
            1..=4 => w.ask(&mut r),
            5..=7 => {
                let ask =
                    r.pick(&[KernelCmd::Ping, KernelCmd::Ping, KernelCmd::Put(100), KernelCmd::Put(40_000)]);
                w.kernel.ask(&mut w.net, ask);
            }
            _ => {
                let t = r.pick(&[10_000, SEC / 1000, SEC / 1000, SEC / 100, SEC / 3, 2 * SEC, 6 * SEC]);
                w.run(t);
            }
        }
        w.hear();
    }
    w.run(QUIET);
    w.judge();
    totals.add(&w);
}

#[test]
fn every_kernel_lives_and_no_set_is_lost() {
    let totals = Totals::default();
    play("sim_kernel::every", 0..SEEDS, |seed| run(seed, &totals));
    judge(totals.each(), [1000, 1000, 500, 100, 100, 20, 500, 300, 300], &totals.line());
}

/// Seeds that `make test` does not reach.
#[test]
#[ignore = "soak: make soak"]
fn soak() {
    let totals = Totals::default();
    let seeds = super::soak("sim_kernel::every", |seed| run(seed, &totals));
    println!("{seeds} seeds: {}", totals.line());
}
