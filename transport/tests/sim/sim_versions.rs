//! Many nodes of many versions on a simulated network: they dial each other at the same time, lose connections and
//! die in the middle of anything, come back as somebody new, read slowly, have queues that are always full; and every
//! operation still ends once, with everything home, and after it all they speak with each other again.
//!
//! ```text
//! SEED=17 TRACE=1 cargo test -p pollnd-transport --test sim -- --nocapture every      one seed again
//! make soak SEEDS=5000                                                                  more of them
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Ask, End, Ended, QUIET, Ways, World, judge, nid, play, some_len};
use transport::lnd::{Accept, Config};
use transport::testing::net::{Cut, SEC};
use transport::testing::rng::Rng;
use transport::wire::{Nid, Version};

/// Seeds of `make test`.
const SEEDS: u64 = 500;

/// Traits of a case as a whole.
struct Kind {
    v6: bool,
    /// Not everybody is root, and everybody trusts everybody.
    trust: bool,
    /// Some are users' processes, in the one way that kernels bear (socklnd.md §9): they dial only, untyped V2.
    users: bool,
    /// Limits so low that operations and peers are refused.
    tight: bool,
    /// Everybody has an NI on a second network, too.
    second: Option<Second>,
}

/// Address of the second NI of a node.
#[derive(Clone, Copy, Debug)]
enum Second {
    SameAddress,
    OwnAddress,
}

/// A node's configuration, its incarnation apart the same for its whole life.
fn config(r: &mut Rng, n: usize, many: usize, kind: &Kind) -> Config {
    let version = r.pick(&[None, None, Some(Version::V1), Some(Version::V2), Some(Version::V3)]);
    // On V3 and V4 untyped connections carry nothing.
    let untyped = !kind.v6 && matches!(version, Some(Version::V1 | Version::V2)) && r.chance(30);
    let mut cfg = Config {
        version,
        typed_conns: !untyped,
        // Everybody here is one of ours, and bears it.
        zc_v2: r.chance(50),
        enable_csum: r.chance(50),
        nonblk_zcack: r.chance(70),
        round_robin: r.chance(50),
        conns_per_peer: r.pick(&[1, 1, 2, 3, 4]),
        peer_credits: r.pick(&[1, 3, 8]),
        ni_credits: r.pick(&[1, 2, 64]),
        tx_window: r.pick(&[60_000, 1 << 20]),
        max_answers: r.pick(&[1, 4, 1000]),
        offload_from: r.pick(&[1, 5000, 64 << 10]),
        keepalive: r.pick(&[0, 30 * SEC]),
        v1_on_reset: !kind.v6 && r.chance(5),
        ..Config::new(nid(n, kind.v6), 0)
    };
    if kind.trust {
        (cfg.accept, cfg.privileged) = (Accept::Trust, r.chance(50));
        // There are no kernels here.
        cfg.unprivileged_v6 = true;
    }
    if kind.users {
        cfg.accept = Accept::All;
        if n > 0 && r.chance(50) {
            (cfg.accept, cfg.privileged, cfg.version) = (Accept::None, false, Some(Version::V2));
            (cfg.typed_conns, cfg.conns_per_peer, cfg.zc_v2) = (false, 1, false);
        }
    }
    if kind.tight {
        cfg.max_queued = r.pick(&[1, 4]);
        cfg.max_peers = r.pick(&[1, many]);
        cfg.max_embryonic = r.pick(&[1, 2]);
        cfg.max_conns_per_type = r.pick(&[1, 64]);
    }
    match kind.second {
        None => cfg,
        Some(Second::SameAddress) => cfg.also(Nid::tcp(nid(n, kind.v6).ip().unwrap(), 1)),
        // Beyond all first ones.
        Some(Second::OwnAddress) => cfg.also(Nid::tcp(nid(n + 5000, kind.v6).ip().unwrap(), 1)),
    }
}

fn case(r: &mut Rng) -> (World, Kind) {
    let many = if r.chance(2) { 50 } else { 2 + r.below(6) as usize };
    let v6 = r.chance(20);
    let trust = r.chance(10);
    // A node that dials by typed connections without privilege, and is no peer that is believed, gets no answer (socklnd.md §9).
    let users = !v6 && !trust && r.chance(15);
    let second = r.pick(&[None, None, Some(Second::SameAddress), Some(Second::OwnAddress)]);
    let kind = Kind { v6, trust, users, tight: r.chance(15), second };
    let mut w = World::new();
    w.net.latency = r.pick(&[1_000, 50_000, 3_000_000]);
    w.net.piecemeal = r.chance(50);
    w.net.chunk = r.pick(&[64, 1448, 9000]);
    w.net.window = r.pick(&[4096, 65_536, 1 << 20]);
    w.net.nic_hold = r.chance(70).then(|| (Rng(r.word()), r.pick(&[100_000, 10_000_000, 2 * SEC])));
    w.net.box_time = Some((Rng(r.word()), r.pick(&[1, 100_000, 20_000_000, 2 * SEC])));
    w.net.record = false;
    for n in 0..many {
        let cfg = config(r, n, many, &kind);
        let ways = Ways { copies: r.chance(40), shares: r.chance(50) };
        w.add_with(cfg, r.pick(&[1, 1, 1, 2, 3]), ways);
    }
    (w, kind)
}

fn operate(w: &mut World, r: &mut Rng) {
    let many = w.nodes.len() as u64;
    let (from, to) = (r.below(many) as usize, r.below(many) as usize);
    // Now and then a node asks itself.
    if (from == to && !r.chance(30)) || !w.alive(from) {
        return;
    }
    let ask = match r.below(5) {
        0 => Ask::Ping,
        1 => Ask::Get(some_len(r), r.chance(50)),
        k => Ask::Put(some_len(r), k == 2),
    };
    let shard = r.below(w.nodes[from].shards.into()) as u16;
    w.ask_at(from, shard, to, ask);
}

fn lose(w: &mut World, r: &mut Rng) {
    if w.net.links() == 0 || r.chance(20) {
        return w.net.cut_dials(r.chance(50));
    }
    // The newest are those that are likely to be open.
    let back = r.below(w.net.links().min(12) as u64) as usize;
    let end = r.below(2) as usize;
    let how = r.pick(&[Cut::Reset, Cut::ResetOne(end), Cut::Fin, Cut::Silence]);
    w.net.cut(w.net.links() - 1 - back, how);
}

fn disturb(w: &mut World, r: &mut Rng) {
    let n = r.below(w.nodes.len() as u64) as usize;
    match r.below(8) {
        0 | 1 if w.alive(n) => w.kill(n, r.chance(60)),
        0 | 1 => w.revive(n),
        2 => {
            let (deaf, mute) = (r.chance(50), r.chance(50));
            w.each_machine(n, |net, m| (net.nodes[m].deaf, net.nodes[m].mute) = (deaf, mute));
        }
        3 => w.each_machine(n, |net, m| net.nodes[m].paused = true),
        4 => w.each_machine(n, |net, m| net.resume(m)),
        _ => lose(w, r),
    }
}

/// Outcome of a seed.
#[derive(Default)]
struct Totals {
    stored: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    downgrades: AtomicU64,
    duplicates: AtomicU64,
    zc: AtomicU64,
    copy_jobs: AtomicU64,
}

impl Totals {
    fn add(&self, w: &World) {
        let add = |to: &AtomicU64, n: u64| to.fetch_add(n, Ordering::Relaxed);
        add(&self.stored, w.stored());
        add(&self.failed, w.ends.iter().filter(|e| matches!(e.end, End::Failed(_))).count() as u64);
        add(&self.refused, w.ends.iter().filter(|e| e.end == End::Refused).count() as u64);
        add(&self.downgrades, w.sum("downgrades"));
        add(&self.duplicates, w.sum("duplicates"));
        add(&self.zc, w.sum("zc_acked"));
        add(&self.copy_jobs, w.sum("boxes"));
    }

    fn each(&self) -> [u64; 7] {
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        [
            &self.stored,
            &self.failed,
            &self.refused,
            &self.downgrades,
            &self.duplicates,
            &self.zc,
            &self.copy_jobs,
        ]
        .map(of)
    }

    fn line(&self) -> String {
        let [stored, failed, refused, downgrades, duplicates, zc, jobs] = self.each();
        format!(
            "{stored} PUTs stored, {failed} operations failed, {refused} refused, {downgrades} downgrades, \
             {duplicates} duplicates, {zc} zero-copy ACKs, {jobs} copy jobs"
        )
    }
}

fn run(seed: u64, totals: &Totals) {
    let mut r = Rng(seed);
    let (mut w, kind) = case(&mut r);
    for _ in 0..30 + r.below(60) {
        match r.below(20) {
            0 | 1 => disturb(&mut w, &mut r),
            2..=6 => {
                let t = r.pick(&[0, 10_000, 200_000, 2_000_000, SEC, 5 * SEC]);
                w.run(t);
            }
            _ => operate(&mut w, &mut r),
        }
        w.hear();
    }
    if w.nodes.len() < 8 && r.chance(5) {
        w.run(3600 * SEC);
    }
    for n in 0..w.nodes.len() {
        if !w.alive(n) {
            w.revive(n);
        }
        w.each_machine(n, |net, m| {
            (net.nodes[m].deaf, net.nodes[m].mute) = (false, false);
            net.resume(m);
        });
    }
    w.run(QUIET);
    w.at_rest();
    totals.add(&w);
    w.ends.clear();
    if !kind.tight {
        again(&mut w, &mut r);
    }
}

/// After it all, nodes that are asked to speak with each other do.
fn again(w: &mut World, r: &mut Rng) {
    for _ in 0..8 {
        // Whoever lost a connection without a word finds out by what it sends next; LNet asks again then.
        let many = w.nodes.len() as u64;
        let (from, to) = (r.below(many) as usize, r.below(many) as usize);
        let attempts = if from == to || w.nodes[to].cfg.accept == Accept::None { 0 } else { 3 };
        for attempt in 0..attempts {
            w.ask(from, to, Ask::Put(20_000, true));
            w.run(QUIET);
            let ends = w.take_ends();
            let [Ended { end, .. }] = ends[..] else { panic!("one operation, not {ends:?}") };
            if end == End::Ok {
                break;
            }
            assert!(
                attempt < 2 && end.may_resend(),
                "{from} to {to}, attempt {attempt}: {end:?}; {:?} and {:?}",
                w.counts(from),
                w.counts(to)
            );
        }
    }
    w.at_rest();
}

#[test]
fn every_operation_ends_once_whatever_the_versions() {
    let totals = Totals::default();
    play("sim_versions::every", 0..SEEDS, |seed| run(seed, &totals));
    // A peer that names another version is answered in it: only one that resets is taken for one of V1.
    judge(totals.each(), [2000, 200, 20, 5, 1000, 200, 200], &totals.line());
}

/// Seeds that `make test` does not reach.
#[test]
#[ignore = "soak: make soak"]
fn soak() {
    let totals = Totals::default();
    let seeds = super::soak("sim_versions::every", |seed| run(seed, &totals));
    println!("{seeds} seeds: {}", totals.line());
}
