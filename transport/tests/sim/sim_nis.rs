//! NIs that come and go under load: a node of two or three NIs beside a kernel of as many (`transport::testing::kernel`, one model
//! for each of its NIDs), of which any is deleted and added again, the one that the node began with, too. Nothing comes twice;
//! what was not on its way by an NI that was deleted arrives, what was ends with that reason at the latest; in the end
//! all are used again, and nothing is left.
//!
//! ```text
//! SEED=17 TRACE=1 cargo test -p pollnd-transport --test sim -- --nocapture sim_nis::nis   one seed again
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use transport::lnd::{Config, LnetError};
use transport::lnet::{Event, NiStage};
use transport::testing::data::pages;
use transport::testing::kernel::{Kernel, KernelConfig};
use transport::testing::net::{Net, SEC};
use transport::testing::rng::Rng;
use transport::wire::{Nid, ProcessId, Version};

use super::play;
use crate::raw::AT;

/// Seeds of `make test`.
const SEEDS: u64 = 300;
/// Time between two looks of the kernels, in ns.
const STEP: u64 = 200_000;
/// Longer than any operation lasts, in ns.
const QUIET: u64 = 200 * SEC;

/// Of one net, or of a net each.
fn nid(host: u8, rail: usize, one_net: bool) -> Nid {
    if one_net {
        Nid::tcp([10, 0, 0, host * 16 + rail as u8].into(), 0)
    } else {
        Nid::tcp([10, rail as u8, 0, host].into(), rail as u16)
    }
}

#[derive(Debug)]
struct Asked {
    end: Option<Result<(), LnetError>>,
    /// An NI was deleted between its beginning and its end.
    disturbed: bool,
}

struct World {
    net: Net,
    kernels: Vec<Kernel>,
    one_net: bool,
    next: u64,
    asked: BTreeMap<u64, Asked>,
    /// NIs that are deleted.
    gone: BTreeSet<usize>,
    verbose: bool,
}

impl World {
    fn new(rails: usize, one_net: bool, r: &mut Rng) -> World {
        let mut net = Net::new();
        net.latency = r.pick(&[50_000, 300_000]);
        net.nic_hold = Some((Rng(r.word()), SEC / 100));
        let own = |i| nid(1, i, one_net);
        let cfg = (1..rails).fold(Config::new(own(0), 7), |c, i| c.also(own(i)));
        net.add(Config { transaction_timeout: 60 * SEC, ..cfg });
        let nids: Vec<Nid> = (0..rails).map(|i| nid(2, i, one_net)).collect();
        let mut kernels = Vec::new();
        for t in 0..rails {
            for o in (0..rails).filter(|o| one_net || *o == t) {
                let cfg = KernelConfig {
                    nid: nids[t],
                    nids: nids.clone(),
                    peer: Some(own(o)),
                    version: Version::V3,
                    conns_per_peer: 1,
                    incarnation: 77 + t as u64,
                    discovery: false,
                };
                kernels.push(Kernel::new(&mut net, cfg, 0, (t * rails + o) as u64));
            }
        }
        let verbose = std::env::var("TRACE").is_ok();
        World { net, kernels, one_net, next: 1, asked: BTreeMap::new(), gone: BTreeSet::new(), verbose }
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
        self.net.let_nis_go(0);
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
        let tag = self.next;
        self.next += 1;
        let len = r.pick(&[8usize, 900, 5000, 40_000, 200_000]);
        self.asked.insert(tag, Asked { end: None, disturbed: false });
        self.net.op(0, AT.put(tag, ProcessId::lustre(nid(2, 0, self.one_net)), pages(len), true));
    }

    /// An NI is deleted, or comes back; at least one is left.
    fn change(&mut self, rails: usize, r: &mut Rng) {
        let rail = r.below(rails as u64) as usize;
        if self.verbose {
            println!("{:.3} NI {rail} changes, gone {:?}", self.net.now as f64 * 1e-9, self.gone);
        }
        if self.gone.contains(&rail) {
            return self.comes_back(rail);
        }
        if self.gone.len() + 1 == rails {
            return;
        }
        self.hear();
        self.asked.values_mut().filter(|a| a.end.is_none()).for_each(|a| a.disturbed = true);
        self.gone.insert(rail);
        self.net.del_ni(0..1, nid(1, rail, self.one_net)).unwrap();
    }

    fn comes_back(&mut self, rail: usize) {
        // Its place, and all others, may be closing still.
        let stages = self.net.nodes[0].machine.places_of_nis();
        assert!(stages.iter().any(|p| p.0 == NiStage::Free));
        self.gone.remove(&rail);
        self.net.add_ni(0..1, nid(1, rail, self.one_net)).unwrap();
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
                Some(Ok(())) => assert_eq!(n, 1, "{tag} was acknowledged"),
                Some(Err(LnetError::NoNi)) if a.disturbed => {}
                Some(Err(e)) => panic!("{tag} might have arrived: {e} ({a:?})"),
            }
        }
        let mut own = Vec::new();
        self.net.nodes[0].machine.nis(&mut |n| own.push((n.nid, n.credits_used)));
        assert_eq!(own.len(), rails + 1);
        assert!(own.iter().all(|n| n.1 == 0), "{own:?}");
        let stages = self.net.nodes[0].machine.places_of_nis();
        assert_eq!(stages.iter().filter(|p| p.0 != NiStage::Free).count(), rails);
        let m = &self.net.nodes[0].machine;
        assert_eq!(m.held_recounted(), m.held().used, "charges are what there is");
        self.net.assert_at_rest(0);
    }
}

fn nis(seed: u64) -> u64 {
    let r = &mut Rng(seed);
    let (rails, one_net) = (2 + (seed % 2) as usize, seed % 4 >= 2);
    let mut w = World::new(rails, one_net, r);
    // Each NID says itself whose it is.
    for _ in 0..2 * rails * rails {
        w.put(r);
        w.run(SEC);
    }
    for _ in 0..30 {
        for _ in 0..r.below(12) {
            w.put(r);
        }
        if r.chance(40) {
            w.change(rails, r);
        }
        w.run(r.pick(&[SEC / 1000, SEC / 50, SEC, 4 * SEC]));
    }
    for rail in std::mem::take(&mut w.gone) {
        w.comes_back(rail);
    }
    w.run(QUIET);
    // All are used again.
    let used = |w: &World| {
        let mut sent = BTreeMap::new();
        w.net.nodes[0].machine.nis(&mut |n| {
            sent.insert(n.nid.to_string(), n.moved.sent.put);
        });
        sent
    };
    let before = used(&w);
    for _ in 0..4 * rails {
        w.put(r);
        w.run(SEC / 10);
    }
    w.run(QUIET);
    for (own, n) in used(&w) {
        assert!(own == "0@lo" || n > before[&own], "{own} is not used");
    }
    w.check(rails);
    w.net.nodes[0].machine.counters().resend_count
}

#[test]
fn nis_come_and_go_under_load() {
    let again = AtomicU64::new(0);
    play("sim_nis::nis", 0..SEEDS, |seed| {
        again.fetch_add(nis(seed), Ordering::Relaxed);
    });
    let again = again.load(Ordering::Relaxed);
    assert!(
        std::env::var("SEED").is_ok() || again > SEEDS,
        "{again} messages went by another NI: hardly any was deleted in time"
    );
}
