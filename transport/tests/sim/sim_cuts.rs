//! Connections lost at every point of an exchange, one after the other: after every byte that comes to either end of
//! every connection, and after every event, in every version. Whatever is lost, every operation ends once, with an
//! error after which LNet may send again; nothing stays out; and the nodes find each other again.

use std::collections::BTreeMap;

use crate::{Ask, End, QUIET, World, nid, play};
use transport::lnd::Config;
use transport::testing::net::{Cut, CutAt, SEC};
use transport::wire::Version;

/// Pairs of nodes: who dials speaks first. The last falls back from V3.
const PAIRS: [(Option<Version>, Option<Version>); 5] = [
    (Some(Version::V1), Some(Version::V1)),
    (Some(Version::V2), Some(Version::V2)),
    (Some(Version::V3), Some(Version::V3)),
    (Some(Version::V4), Some(Version::V4)),
    (None, Some(Version::V2)),
];

/// A zero-copy request is made from so many payload bytes on: few, so that there are few places to cut.
const ZC_MIN: u32 = 100;

fn world(pair: usize) -> World {
    let (a, b) = PAIRS[pair];
    let v6 = a == Some(Version::V4);
    let cfg = |n, version: Option<Version>| Config {
        version: version.filter(|_| !v6),
        zc_v2: true,
        enable_csum: true,
        zc_min_payload: ZC_MIN,
        min_bulk: 160,
        keepalive: 0,
        ..Config::new(nid(n, v6), 0)
    };
    let mut w = World::of(256, [cfg(0, a), cfg(1, b)]);
    w.net.record = false;
    w.net.nic_hold = Some((transport::testing::rng::Rng(pair as u64), 300_000));
    w
}

/// An exchange: one that brings the connections up, and when they are, PUTs with pages and without, both ways, and a
/// GET. Goes on until so many events have been, and gives whether all was asked.
fn exchange(w: &mut World, steps: u64) -> bool {
    w.ask(0, 1, Ask::Ping);
    let until = w.net.now + 2 * SEC;
    while w.net.steps < steps && w.net.step_before(until) {}
    let whole = w.net.steps < steps;
    if whole {
        second_part(w);
        while w.net.steps < steps && w.net.step_before(until + QUIET) {}
    }
    whole
}

fn second_part(w: &mut World) {
    w.ask(0, 1, Ask::Put(210, true));
    w.ask(0, 1, Ask::Put(8, false));
    w.ask(0, 1, Ask::Get(220, true));
    w.ask(1, 0, Ask::Put(201, false));
}

/// After whatever was lost: everything ends, and what is asked again is done.
fn recovers(w: &mut World, asked: usize) {
    w.run(QUIET);
    w.at_rest();
    let ends = w.take_ends();
    assert!(ends.iter().all(|e| e.end == End::Ok || e.end.may_resend()), "{ends:?}");
    assert_eq!(ends.len(), asked);
    for (from, to) in [(0, 1), (1, 0)] {
        for attempt in 0..3 {
            w.ask(from, to, Ask::Put(250, true));
            w.run(QUIET);
            let ends = w.take_ends();
            if ends[0].end == End::Ok {
                break;
            }
            // Whoever lost a connection without a word finds out by what it sends.
            assert!(attempt < 2 && ends[0].end.may_resend(), "{from} to {to}: {ends:?}");
        }
    }
    w.at_rest();
}

/// Bytes that came to each end of each connection, and events, when nothing is lost.
fn whole(pair: usize) -> (BTreeMap<(usize, usize), u64>, u64) {
    let mut w = world(pair);
    exchange(&mut w, u64::MAX);
    w.run(QUIET);
    w.at_rest();
    let ends = w.take_ends();
    assert!(ends.iter().all(|e| e.end == End::Ok), "{ends:?}");
    assert!(pair == 0 || w.sum("zc_acked") > 1, "no cookies in {pair}");
    let arrived = (0..w.net.links()).flat_map(|l| [(l, 0), (l, 1)]);
    (arrived.map(|(l, e)| ((l, e), w.net.arrived(l, e))).collect(), w.net.steps)
}

#[test]
fn after_every_byte() {
    let mut cuts = Vec::new();
    for pair in 0..PAIRS.len() {
        for ((link, end), bytes) in whole(pair).0 {
            let ways = [Cut::Reset, Cut::ResetOne(end), Cut::ResetOne(1 - end), Cut::Fin, Cut::Silence];
            for at in 0..=bytes {
                cuts.extend(ways.map(|how| (pair, CutAt { link, end, at, how })));
            }
        }
    }
    println!("{} cuts", cuts.len());
    assert!(cuts.len() > 10_000, "there was little to cut");
    play("sim_cuts::byte", 0..cuts.len() as u64, |i| {
        let (pair, cut) = cuts[i as usize];
        let mut w = world(pair);
        w.net.cut_at = Some(cut);
        exchange(&mut w, u64::MAX);
        recovers(&mut w, 5);
    });
}

/// Strike after an event.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// The newest connection is lost, and what dials.
    Newest(Cut),
    /// All of them.
    All(Cut),
    /// A node dies and comes back so much later, in ns.
    Restart(usize, bool, u64),
    /// Nobody reads for a while, in ns.
    Pause(usize, u64),
}

#[test]
fn after_every_event() {
    let cuts = [Cut::Reset, Cut::ResetOne(0), Cut::ResetOne(1), Cut::Fin, Cut::Silence];
    let mut blows = Vec::new();
    blows.extend(cuts.iter().flat_map(|c| [Blow::Newest(*c), Blow::All(*c)]));
    for node in 0..2 {
        for rst in [false, true] {
            blows.extend([0, 3 * SEC, 70 * SEC].map(|later| Blow::Restart(node, rst, later)));
        }
        blows.extend([SEC, 100 * SEC].map(|t| Blow::Pause(node, t)));
    }
    let mut cases = Vec::new();
    for pair in 0..PAIRS.len() {
        for step in 0..whole(pair).1 {
            cases.extend(blows.iter().map(|b| (pair, step, *b)));
        }
    }
    println!("{} blows", cases.len());
    assert!(cases.len() > 5000, "there was little to lose");
    play("sim_cuts::event", 0..cases.len() as u64, |i| {
        let (pair, step, blow) = cases[i as usize];
        let mut w = world(pair);
        let whole = exchange(&mut w, step);
        let mut asked = if whole { 5 } else { 1 };
        match blow {
            Blow::Newest(how) | Blow::All(how) => {
                w.net.cut_dials(matches!(how, Cut::Reset | Cut::ResetOne(_)));
                let links = w.net.links();
                let all = matches!(blow, Blow::All(_));
                let first = if all { 0 } else { links.saturating_sub(1) };
                (first..links).for_each(|link| w.net.cut(link, how));
            }
            Blow::Restart(node, rst, later) => {
                w.hear();
                asked = w.ends.len() + w.open(1 - node);
                w.kill(node, rst);
                w.run(later);
                w.revive(node);
            }
            Blow::Pause(node, t) => {
                w.net.nodes[node].paused = true;
                w.run(t);
                w.net.resume(node);
            }
        }
        if !whole {
            w.run(2 * SEC);
            second_part(&mut w);
            asked += 4;
        }
        recovers(&mut w, asked);
    });
}
