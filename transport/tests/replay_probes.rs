//! The probes: a hand-driven peer and Lustre kernels. Our machine takes the place of each kernel, then of the hand.
//! What it dials, writes and closes is what that node did, but for what `replay/tables.rs` lists with reasons.

mod replay;

use std::collections::BTreeMap;
use std::net::IpAddr;

use replay::play::{Capture, Place, Play, kernel};
use replay::tables::{Exception, KERNELS, PROBERS};
use replay::{CHUNKS, captures};

/// The differences in all probes, by capture and connection.
fn differences(place: Place, chunk: usize) -> BTreeMap<(String, usize), String> {
    let kernels = place == Place::Kernel;
    let is = |a: IpAddr| kernel(a) == kernels;
    let (mut out, mut conns) = (BTreeMap::new(), 0);
    for capture in captures("probes") {
        let read = Capture::read(&format!("probes/{capture}"));
        for (me, list) in read.nodes(kernels, is) {
            let played = Play::new(&read, place, me, &list, chunk, |_| ()).run();
            conns += played.links.len();
            for (conn, why) in played.differences() {
                out.insert((capture.clone(), conn), why);
            }
            let g = played.machine.gauges();
            assert!(g.lends <= g.cookies, "{capture} {me}: {g:?}");
        }
    }
    assert_eq!(conns, 281, "connections");
    out
}

fn holds(place: Place, table: &[Exception]) {
    for chunk in CHUNKS {
        let found = differences(place, chunk);
        let listed: BTreeMap<(String, usize), &str> =
            table.iter().flat_map(|e| e.conns.iter().map(|c| ((e.capture.into(), *c), e.why))).collect();
        assert_eq!(listed.len(), table.iter().map(|e| e.conns.len()).sum::<usize>(), "listed twice");
        for (at, what) in &found {
            assert!(listed.contains_key(at), "{place:?}, {chunk} bytes, {} c{}: {what}", at.0, at.1);
        }
        for (at, why) in &listed {
            assert!(found.contains_key(at), "{place:?}, {chunk} bytes, {} c{} no longer: {why}", at.0, at.1);
        }
    }
}

#[test]
fn in_the_kernels_place() {
    holds(Place::Kernel, KERNELS);
}

#[test]
fn in_the_hands_place() {
    holds(Place::Prober, PROBERS);
}
