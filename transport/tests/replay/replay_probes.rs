//! The probes: a hand-driven peer and Lustre kernels. Our machine takes the place of each kernel, then of the hand.
//! Its dials, writes and closes are that node's, but for what `replay/tables.rs` lists with reasons.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::play::{Capture, Place, Play, kernel};
use crate::sessions::named;
use crate::tables::{Exception, KERNELS, PROBERS, UPPER, UPPER_LEFT_OUT};
use crate::{CHUNKS, SEC, captures, folder};
use transport::lnd::{Accept, Config};
use transport::testing::capture::flows;

/// Changes a node's settings.
type Tune = fn(&mut Config);

/// The differences in all probes, by capture and connection.
fn differences(dir: &str, place: Place, chunk: usize, tune: Tune) -> BTreeMap<(String, usize), String> {
    let kernels = place == Place::Kernel;
    // All nodes of the others are kernels.
    let is = |a: IpAddr| dir != "probes" || kernel(a) == kernels;
    let (mut out, mut conns) = (BTreeMap::new(), 0);
    for capture in captures(dir) {
        if dir == "upper" && UPPER_LEFT_OUT.iter().any(|l| named(l.0, &capture)) {
            continue;
        }
        let read = Capture::read(&format!("{dir}/{capture}"));
        for (me, list) in read.nodes(kernels, is) {
            let played = Play::new(&read, place, me, &list, chunk, tune).run();
            conns += played.links.len();
            for (conn, why) in played.differences() {
                out.insert((capture.clone(), conn), why);
            }
            // No page is out but for a zero-copy ACK that the capture ends before.
            let g = played.machine.gauges();
            assert!(g.lends <= g.cookies, "{capture} {me}: {g:?}");
        }
    }
    assert_eq!(conns, if dir == "probes" { 281 } else { 54 });
    out
}

fn holds(dir: &str, place: Place, table: &[Exception]) {
    for chunk in CHUNKS {
        let found = differences(dir, place, chunk, |_| ());
        let listed: BTreeMap<(String, usize), &Exception> =
            table.iter().flat_map(|e| e.conns.iter().map(move |c| ((e.capture.into(), *c), e))).collect();
        assert_eq!(listed.len(), table.iter().map(|e| e.conns.len()).sum::<usize>(), "listed twice");
        let as_listed = |(at, what): &(&(String, usize), &String)| {
            listed.get(*at).is_some_and(|e| what.starts_with(e.what))
        };
        let new = found.iter().filter(|f| !as_listed(f));
        let new = new.map(|((capture, conn), what)| format!("{capture} c{conn}: {what}"));
        let gone = listed.iter().filter(|(at, _)| !found.contains_key(at));
        let gone = gone.map(|((capture, conn), e)| format!("{capture} c{conn} no longer: {}", e.why));
        let wrong: Vec<String> = new.chain(gone).collect();
        assert!(wrong.is_empty(), "{place:?}, {chunk} bytes:\n{}", wrong.join("\n"));
    }
}

/// The tables number connections as the lists do.
#[test]
fn connections_have_the_numbers_of_the_lists() {
    let mut checked = 0;
    for capture in captures("probes") {
        let all = flows(&folder("probes").join(&capture).with_extension("pcap")).unwrap();
        let list = std::fs::read_to_string(folder("probes").join(&capture).with_extension("txt")).unwrap();
        for line in list.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, _, conn, "TCP", "SYN", from, "->", to] = words[..] else { continue };
            let n: usize = conn.strip_prefix('c').unwrap().parse().unwrap();
            // A SYN that is repeated until the capture ends counts as one, and the last list counts each.
            let Some(f) = all.get(n - 1).filter(|f| !f.a.segments.is_empty()) else { continue };
            assert_eq!(
                (f.active.to_string(), f.passive.to_string()),
                (from.into(), to.into()),
                "{capture} {conn}"
            );
            checked += 1;
        }
    }
    assert!(checked > 260, "{checked} connections");
}

/// A node that keeps other times, counts or credits is told from a kernel, on the connections where it shows.
#[test]
fn other_settings_are_noticed() {
    let settings: [(Tune, &str, &[usize]); 4] = [
        (|c| c.accept_timeout = 9 * SEC, "active-hellos", &[42, 43]),
        (|c| c.max_conns_per_type = 64, "active-sets", &[11, 13, 14]),
        (|c| c.min_bulk = 100_000, "zc-piggyback", &[1, 2]),
        (|c| c.accept = Accept::None, "zc-of-ours", &[1, 2, 3]),
    ];
    for (tune, capture, conns) in settings {
        let found = differences("probes", Place::Kernel, CHUNKS[0], tune);
        for conn in conns {
            assert!(found.contains_key(&(capture.into(), *conn)), "{capture} c{conn}: {:?}", found.keys());
        }
    }
}

#[test]
fn in_the_kernels_place() {
    holds("probes", Place::Kernel, KERNELS);
}

#[test]
fn in_the_hands_place() {
    holds("probes", Place::Prober, PROBERS);
}

/// The captures of `upper/` in which each address is a node of one NI: lnet_selftest among kernels.
#[test]
fn in_the_place_of_kernels_of_the_upper_half() {
    holds("upper", Place::Kernel, UPPER);
}
