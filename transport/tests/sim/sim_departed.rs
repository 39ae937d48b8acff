//! A router whose next hop takes no connection, and a source that leaves more for it than there are router buffers, and goes: over a
//! port, over a port whose queue another lcore polls, and over kernel sockets. All that it left is over within one time-out.

use std::net::{IpAddr, TcpListener};
use std::sync::atomic::Ordering;

use dataplane::clock::Clock;
use transport::lnd::{Accept, Config};
use transport::node::NodeBuilder;
use transport::wire::{LnetBody, LnetHdr, Nid, Version, WireHandle};

use crate::nodes::{Now, beginning};
use crate::raw::message;
use crate::sim_ends::PEER;
use crate::sim_stalled::{Goes, OnPort, OnSockets, World, until};

const SEC: u64 = 1_000_000_000;
/// Messages that it leaves, of so many bytes: as much as a kernel takes that is not read, and the FIN behind it.
const LEFT: u64 = 8;
const LEN: u32 = 5_000;

/// It routes to tcp1, and has one large buffer.
fn routes(c: &mut Config) {
    let ip = c.nid().ip().unwrap();
    *c = c.clone().also(Nid::tcp(ip, 1));
    c.accept = Accept::Trust;
    (c.routing.forwarding, c.routing.buffers) = (true, [0, 0, 1]);
    (c.alive_router_check_interval, c.router_ping_timeout) = (SEC, SEC);
}

fn put(peer: Nid, to: Nid, n: u64) -> Vec<u8> {
    let body = LnetBody::Put { ack: WireHandle::NONE, match_bits: 1, hdr_data: n, portal: 9, offset: 0 };
    let h = LnetHdr { dest_nid: to, src_nid: peer, dest_pid: 12345, src_pid: 1001, payload_len: LEN, body };
    message(Version::V3, &h, 0)
}

/// Time goes on by so many seconds.
fn wait<W: World>(w: &mut W, now: &Now, secs: u64) {
    for _ in 0..20 * secs {
        now.fetch_add(SEC / 20, Ordering::Relaxed);
        (0..3).for_each(|_| w.turn());
    }
}

fn dropped<W: World>(w: &W, all: impl Fn(&W) -> Vec<u64>) -> u64 {
    all(w).iter().sum()
}

fn leaves<W: World>(mut w: W, now: &Now, to: Nid, how: Goes, all: impl Fn(&W) -> Vec<u64>) {
    let (_, peer) = w.nids();
    // It passes nothing on before its users have had time to ask it.
    wait(&mut w, now, 5);
    let conn = w.join(1001);
    let bytes: Vec<u8> = (0..LEFT).flat_map(|n| put(peer, to, n)).collect();
    w.send(conn, &bytes);
    wait(&mut w, now, 3);
    assert_eq!((dropped(&w, &all), w.machine().counters().forward_waits), (0, 1), "{how:?}");
    w.go(conn, how);
    // Half a time-out, and what finding such a node takes.
    wait(&mut w, now, 30);
    let came = w.machine().counters().msgs_rx;
    // One may be on its way to such a node.
    assert!(dropped(&w, &all) + 1 >= came, "{how:?}: {:?}", w.machine().counters());
    // A kernel that resets a connection sends no more of what it has.
    assert!(came == LEFT || how == Goes::Reset && came > 1, "{how:?}: {came}");
    // Of one that has said FIN ours is not acknowledged. A dial to the next hop may be under way.
    assert!(how == Goes::InOrder || w.left().0 <= 1, "{how:?}: its connection is there");
    wait(&mut w, now, 25);
    assert_eq!(dropped(&w, &all), came, "{how:?}: {:?}", w.machine().counters());
    until(&mut w, "its connection and its bytes are gone", |w| w.left().0 <= 1 && w.left().1 == 0);
}

fn drops(c: &transport::lnd::Counters) -> u64 {
    c.drop_next_hop + c.drop_stuck + c.drop_no_conn + c.drop_left_behind
}

const WAYS: [Goes; 2] = [Goes::Reset, Goes::InOrder];

#[test]
fn what_is_left_is_over_in_one_time_out_on_a_port() {
    for (across, how) in [false, true].into_iter().flat_map(|a| WAYS.map(|h| (a, h))) {
        let mut w = if across { OnPort::across_of(routes) } else { OnPort::of(routes) };
        w.mute = true;
        let now = w.now.clone();
        let all = |w: &OnPort| w.machines().map(|m| drops(m.counters())).collect();
        leaves(w, &now, Nid::tcp(IpAddr::V4(PEER), 1), how, all);
    }
}

#[test]
fn what_is_left_is_over_in_one_time_out_on_sockets() {
    for how in WAYS {
        let ip = |last| IpAddr::from([127, 44, 2, last]);
        // The kernel takes the connection, and nobody says anything.
        let hop = TcpListener::bind((ip(9), 0)).unwrap();
        let now = beginning();
        let port = hop.local_addr().unwrap().port();
        let cfg = Config { port, privileged: false, ..Config::new(Nid::tcp(ip(1), 0), 5) };
        let node = NodeBuilder::of(cfg).config(routes).clock(Clock::virtual_time(now.clone()));
        let w = OnSockets::of(ip(1), Nid::tcp(ip(1), 0), node);
        leaves(w, &now, Nid::tcp(ip(9), 1), how, |w| vec![drops(w.node.machine.counters())]);
    }
}
