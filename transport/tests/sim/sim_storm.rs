//! Many peers at once: all dial one node at the same time, and all lose it at the same time and find it again.
//!
//! ```text
//! cargo test --release -p pollnd-transport --test sim -- --ignored --nocapture thousand      with 1,000 peers
//! ```

use crate::{Ask, End, QUIET, World, nid};
use transport::lnd::Config;
use transport::testing::net::SEC;
use transport::testing::rng::Rng;
use transport::wire::Version;

/// After so long LNet sends a message again that failed.
const RESEND: u64 = SEC;
/// The node that all others speak with. Its NID is the lowest: it loses every race.
const SERVER: usize = 0;

fn world(peers: usize) -> World {
    let cfg = |n: usize| {
        // One of eight still speaks V2, and two V1.
        let version = match n % 8 {
            1 => Some(Version::V2),
            2 | 3 => Some(Version::V1),
            _ => None,
        };
        Config { version: version.filter(|_| n != SERVER), ..Config::new(nid(n, false), 0) }
    };
    let mut w = World::of(4096, (0..=peers).map(cfg));
    w.net.record = false;
    w.net.nic_hold = Some((Rng(1), 1_000_000));
    w
}

fn connections(w: &World) -> usize {
    w.net.nodes[SERVER].machine.gauges().conns_up
}

/// Asks until everything that was asked has succeeded, as LNet does; gives how many times something was asked.
fn until_all_is_done(w: &mut World, mut open: usize) -> usize {
    let mut asked = open;
    let until = w.net.now + 2 * QUIET;
    let mut again: Vec<(u64, usize, usize, Ask)> = Vec::new();
    while open > 0 {
        assert!(w.net.now < until, "{open} operations do not succeed");
        w.net.run(SEC / 100);
        for n in 0..w.net.nodes.len() {
            if n == SERVER || n % 16 == 1 {
                w.invariants(n);
            }
        }
        for e in w.take_ends() {
            if e.end == End::Ok {
                open -= 1;
            } else {
                assert!(e.end.may_resend(), "{e:?}");
                again.push((w.net.now + RESEND, e.node, e.to, e.ask));
            }
        }
        let (now, late): (Vec<_>, Vec<_>) = again.into_iter().partition(|(t, ..)| *t <= w.net.now);
        again = late;
        asked += now.len();
        for (_, node, to, ask) in now {
            w.ask(node, to, ask);
        }
    }
    asked
}

/// Operations of each kind between the server and these peers, from both sides.
fn ask_all(w: &mut World, peers: std::ops::RangeInclusive<usize>) -> usize {
    let many = peers.clone().count();
    for n in peers {
        w.ask(n, SERVER, Ask::Put(20_000, true));
        w.ask(n, SERVER, Ask::Get(20_000, false));
        w.ask(SERVER, n, Ask::Put(500, true));
    }
    3 * many
}

fn ms(ns: u64) -> f64 {
    ns as f64 * 1e-6
}

/// All peers dial at once, three connections each.
fn all_dial_at_once(peers: usize) {
    let mut w = world(peers);
    let start = w.net.now;
    for n in 1..=peers {
        w.ask(n, SERVER, Ask::Ping);
    }
    let until = start + 10 * SEC;
    w.net.run_until(until, |net| net.nodes[SERVER].machine.counters().conns_up >= 3 * peers as u64);
    let (took, events) = (w.net.now - start, w.net.steps);
    assert_eq!(connections(&w), 3 * peers);
    w.net.run(QUIET);
    w.at_rest();
    let ends = w.take_ends();
    assert!(ends.len() == peers && ends.iter().all(|e| e.end == End::Ok));
    assert_eq!((w.sum("dials_failed"), w.sum("err_too_many_embryonic")), (0, 0));
    println!(
        "{peers} peers dial at once: {} connections up after {:.3} ms of virtual time, {:.1} round trips, \
         {} dials, {events} events",
        3 * peers,
        ms(took),
        took as f64 / (2.0 * w.net.latency as f64),
        w.net.links()
    );
}

/// The server dies in the middle of everybody's operations, and is back `down` ns later as somebody new.
fn restart_storm(peers: usize, rst: bool, down: u64) {
    let mut w = world(peers);
    let asked = ask_all(&mut w, 1..=peers);
    until_all_is_done(&mut w, asked);
    w.net.run(5 * SEC);
    assert!(connections(&w) >= 3 * peers);
    // The server's counters begin again with it.
    let of_peers = |w: &World, counter: &str| w.sum(counter) - w.counter(SERVER, counter);
    let before = (w.net.links(), of_peers(&w, "dials_failed"), of_peers(&w, "races"));
    // In the middle: some answers are on their way, and many payloads, cookies pending.
    ask_all(&mut w, 1..=peers / 4);
    w.net.run(w.net.latency);
    ask_all(&mut w, peers / 4 + 1..=peers);
    w.net.run(w.net.latency / 2);
    let cookies: usize = w.net.nodes.iter().map(|n| n.machine.gauges().cookies).sum();
    assert!(cookies > peers / 3, "little was under way: {cookies}");
    let ended = w.take_ends().iter().filter(|e| e.node != SERVER).count();
    w.kill(SERVER, rst);
    w.net.run(down);
    w.revive(SERVER);
    let back = w.net.now;
    // Operations of the server's applications died with them: the new ones begin again.
    for n in 1..=peers {
        w.ask(SERVER, n, Ask::Put(500, true));
    }
    let open = 3 * peers - ended;
    let asked = until_all_is_done(&mut w, open);
    assert!(asked > open + peers, "the restart hurt nobody: asked {asked} times for {open}");
    let took = w.net.now - back;
    let dials = w.net.links() - before.0;
    let (failed, races) = (w.sum("dials_failed") - before.1, w.sum("races") - before.2);
    w.net.run(QUIET);
    w.at_rest();
    assert!(connections(&w) >= 3 * peers, "{} connections of {peers} sets", connections(&w));
    let again = ask_all(&mut w, 1..=peers);
    let second = until_all_is_done(&mut w, again);
    assert_eq!(second, again, "who has settled loses nothing");
    w.net.run(QUIET);
    w.at_rest();
    println!(
        "{peers} peers, restart ({}, {:.1} s down): all {open} operations done {:.2} s after the start, asked for {asked} \
         times; {dials} connections, {failed} dials failed, {races} NONEs; then {second} of {second} at the first try",
        if rst { "RST" } else { "silence" },
        down as f64 * 1e-9,
        took as f64 * 1e-9,
    );
}

#[test]
fn a_hundred_dial_at_once() {
    all_dial_at_once(100);
}

#[test]
fn a_hundred_lose_their_server() {
    for (rst, down) in [(true, 0), (true, 3 * SEC), (false, 3 * SEC), (false, 90 * SEC)] {
        restart_storm(100, rst, down);
    }
}

#[test]
#[ignore = "soak: make soak; a thousand peers, for the figures of docs/performance.md"]
fn a_thousand_soak() {
    all_dial_at_once(1000);
    for (rst, down) in [(true, 0), (true, 3 * SEC), (false, 3 * SEC), (false, 90 * SEC)] {
        restart_storm(1000, rst, down);
    }
}
