//! lnet_selftest among 2 to 200 nodes, ours and model kernels (`transport::testing::kernel::selftest`) mixed: sessions of both
//! features, groups, tests of all kinds, consoles that are members, too; fault rules on some nodes; networks that lose packets
//! and connections, with nodes that are started again in the middle, consoles that vanish, and consoles that take nodes away
//! from others.
//!
//! ```text
//! SEED=17 TRACE=1 cargo test -p pollnd-transport --test sim -- --nocapture sim_selftest::every   one seed again
//! make soak SEEDS=5000                                                                            more of them
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

use super::lst_world::{World, nid};
use super::{number, play};
use transport::testing::net::{Cut, SEC};
use transport::testing::rng::Rng;

/// Seeds of `make test`.
const SEEDS: u64 = 500;
/// Longer than a session, an RPC and a message together last, in ns.
const QUIET: u64 = 600 * SEC;
/// Longer than an RPC of a test lasts, in ns, and shorter than a session.
const RPC_OVER: u64 = 70 * SEC;

/// Faults of a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// None.
    Calm,
    /// Fault rules that delay: nothing is lost, so everything counts as in calm.
    Delays,
    /// Fault rules that drop, fail and delay, and nothing else: what they took is known.
    Rules,
    /// Lost packets and connections, nodes that start again, consoles that vanish or take nodes away; rules in some.
    Storm,
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
    /// Without features lengths are pages, and nothing is discarded.
    fn draw(r: &mut Rng, endless: bool, servers: u64, big: bool, features: u32) -> Plan {
        let brw = r.chance(75).then(|| {
            let lens: &[u64] = match (big, features) {
                (true, 0) => &[4096],
                (true, _) => &[8, 4096],
                (_, 0) => &[4096, 4096, 20_480, 65_536],
                _ => &[8, 4096, 4096, 20_480, 65_536, 300_000],
            };
            let mut len = r.pick(lens);
            if !big && r.chance(2) {
                len = 1 << 20;
            }
            let checks: &[&str] = &["none", "simple", "full", "discard"];
            (r.pick(&[1, 2]), r.pick(if features == 0 { &checks[..3] } else { checks }), len)
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

#[derive(Default)]
struct Totals {
    rpcs: AtomicU64,
    bytes: AtomicU64,
    mixed: AtomicU64,
    calm: AtomicU64,
    delays: AtomicU64,
    rules: AtomicU64,
    dropped: AtomicU64,
    kills: AtomicU64,
    vanished: AtomicU64,
    forced: AtomicU64,
    pages: AtomicU64,
    pairs: AtomicU64,
    members: AtomicU64,
    told: AtomicU64,
    nodes: AtomicU64,
}

impl Totals {
    fn all(&self) -> [(&'static str, u64); 15] {
        [
            ("RPCs of tests", &self.rpcs),
            ("bytes of bulk", &self.bytes),
            ("seeds with kernels and nodes of ours", &self.mixed),
            ("without a fault", &self.calm),
            ("with delays alone", &self.delays),
            ("with fault rules", &self.rules),
            ("messages dropped by rules alone", &self.dropped),
            ("nodes started again", &self.kills),
            ("consoles vanished", &self.vanished),
            ("sessions taken over", &self.forced),
            ("sessions without features", &self.pages),
            ("networks of two", &self.pairs),
            ("consoles that were members", &self.members),
            ("STAT answers compared", &self.told),
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

/// Nodes of a seed: a few, and now and then many.
fn size(seed: u64, r: &mut Rng) -> usize {
    match seed % 250 {
        249 => 100 + r.below(101) as usize,
        n if n % 25 == 24 => 12 + r.below(30) as usize,
        n if n % 6 == 0 => 2,
        _ => 3 + r.below(5) as usize,
    }
}

/// A storm while the tests run; gives whether the console is gone.
fn storm(w: &mut World, r: &mut Rng, totals: &Totals, members: &[usize]) -> bool {
    let (console, rival) = (0, 1);
    let mut vanished = false;
    for _ in 0..1 + r.below(6) {
        match r.below(10) {
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
                let (place, rst) = (r.pick(members), r.chance(50));
                if vanished && place == console {
                    continue;
                }
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
                w.order(rival, &format!("add_group c {}", list(members)));
                if r.chance(50) {
                    w.order(rival, "end_session");
                }
            }
            _ => {}
        }
        let t = r.pick(&[SEC / 1000, SEC / 50, SEC / 5, SEC]);
        w.run(t);
    }
    vanished
}

fn list(places: &[usize]) -> String {
    places.iter().map(|p| nid(*p).to_string()).collect::<Vec<_>>().join(" ")
}

fn run(seed: u64, totals: &Totals) {
    let mut r = Rng(seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ 0x5e1f);
    let size = size(seed, &mut r);
    let big = size > 10;
    let kernels = r.pick(&[0, 25, 50, 50, 80]);
    let mut w = World::new(&mut r, size, kernels);
    let ours = w.ours.len() as u64;
    add(&totals.nodes, size as u64);
    add(&totals.mixed, u64::from(ours > 0 && ours < size as u64));
    add(&totals.pairs, u64::from(size == 2));
    let weather = match r.below(100) {
        0..40 => Weather::Calm,
        // Rules are kept by nodes of ours.
        40..55 if ours > 0 => Weather::Delays,
        55..75 if ours > 0 => Weather::Rules,
        _ => Weather::Storm,
    };
    let endless = r.chance(30);
    // Nothing is lost, so everything is known.
    let exact = matches!(weather, Weather::Calm | Weather::Delays);
    w.gives_up = !exact;
    match weather {
        Weather::Calm => add(&totals.calm, 1),
        Weather::Delays => add(&totals.delays, 1),
        Weather::Rules => add(&totals.rules, 1),
        Weather::Storm => {}
    }
    w.net.latency = r.pick(&[50_000, 300_000, 3_000_000]);
    if endless || !exact {
        // An endless test that nobody stops goes on for the life of a session.
        w.net.latency = r.pick(&[20_000_000, 50_000_000]);
    }
    w.net.loss = (weather == Weather::Storm && r.chance(50)).then(|| (Rng(r.word()), r.pick(&[2, 10])));
    let console = 0;
    // The rival is a member as well, and of some networks the console is.
    let own = size == 2 || r.chance(25);
    add(&totals.members, u64::from(own));
    let members: Vec<usize> = (usize::from(!own)..size).collect();
    let cut = 1 + r.below(members.len() as u64 - 1) as usize;
    let (mut c, mut s) = members.split_at(cut);
    if r.chance(50) {
        (c, s) = (s, c);
    }
    w.own.extend(own.then_some(console));
    if r.chance(10) && !endless {
        // Everybody asks everybody, themselves as well: that takes no time, so it has to end.
        (c, s) = (&members, &members);
        (w.own, w.own_bulk) = (members.clone(), true);
    }
    let ruled = matches!(weather, Weather::Delays | Weather::Rules) || (ours > 0 && !exact && r.chance(25));
    let early = r.chance(50);
    w.say(|| format!("{:?}, latency {}, {weather:?}, features {:?}", w.places, w.net.latency, w.features));
    let place_rules = |w: &mut World, r: &mut Rng, now: bool| {
        if ruled && now {
            w.place_rules(r, weather == Weather::Delays);
        }
    };
    place_rules(&mut w, &mut r, early);
    let features = w.features[console];
    add(&totals.pages, u64::from(features == 0));
    w.order(console, "new_session one");
    w.order(console, &format!("add_group c {}", list(c)));
    w.order(console, &format!("add_group s {}", list(s)));
    w.order(console, "add_batch b");
    let plans: Vec<Plan> =
        (0..1 + r.below(3)).map(|_| Plan::draw(&mut r, endless, s.len() as u64, big, features)).collect();
    for p in &plans {
        w.order(console, &p.line());
    }
    place_rules(&mut w, &mut r, !early);
    w.order(console, "run b");
    let mut vanished = false;
    if weather == Weather::Storm {
        vanished = storm(&mut w, &mut r, totals, &members);
    } else {
        let t = r.pick(&[SEC / 1000, SEC / 50, SEC / 5, SEC]);
        w.run(t);
    }
    if !vanished {
        if !endless && exact {
            // Until all units have done theirs.
            w.run(if weather == Weather::Calm { 60 * SEC } else { 90 * SEC });
        }
        w.order(console, "query b");
        let force = if r.chance(40) { " --force" } else { "" };
        w.order(console, &format!("stop b{force}"));
        w.run(if weather == Weather::Storm { SEC } else { RPC_OVER });
        w.order(console, if w.own_bulk { "stat c" } else { "stat c s" });
        if weather != Weather::Storm {
            add(&totals.told, w.stat_is_right(console));
        }
        w.order(console, "end_session");
    }
    if exact && !endless {
        counts_are_exact(&w, &plans, c, &members);
    }
    let all: Vec<_> = members.iter().map(|m| w.counts(*m)).collect();
    add(&totals.rpcs, all.iter().map(|c| c.sent).sum());
    add(&totals.bytes, all.iter().map(|c| c.bulk[0] + c.bulk[1]).sum());
    if vanished {
        w.run(SEC);
        w.restart(console);
    }
    w.run(QUIET);
    w.at_rest();
    if weather != Weather::Storm {
        add(&totals.dropped, w.rules_are_right());
    }
}

/// Every RPC and every byte of finite tests, where nothing was lost.
fn counts_are_exact(w: &World, plans: &[Plan], c: &[usize], members: &[usize]) {
    let rows = |p: &Plan| c.len() as u64 * p.span;
    let rpcs = |p: &Plan| rows(p) * p.concur * p.turns as u64;
    let bulk = |rw: u64| -> u64 {
        plans.iter().filter_map(|p| p.brw.filter(|b| b.0 == rw).map(|b| rpcs(p) * b.2)).sum()
    };
    let all: Vec<_> = members.iter().map(|m| w.counts(*m)).collect();
    let asked: u64 = plans.iter().map(rpcs).sum();
    assert_eq!(all.iter().map(|c| c.sent).sum::<u64>(), asked, "requests sent");
    assert_eq!(w.begun(), asked, "RPCs begun");
    let lists: u64 = plans.iter().map(|p| 12 * rows(p)).sum();
    let moved = [0, 1].map(|n| all.iter().map(|c| c.bulk[n]).sum::<u64>());
    assert_eq!(moved, [bulk(2) + lists, bulk(1)], "bytes got and put");
    assert_eq!(all.iter().map(|c| c.errors).sum::<u64>(), 0, "errors");
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
    let totals = Totals::default();
    let seeds = super::soak("sim_selftest::every", |seed| run(seed, &totals));
    println!("{seeds} seeds: {}", totals.line());
}
