//! NIDs of nodes behind a router that another node claims (docs/protocol/upper.md §2): who is known by its own word keeps its NID, who is
//! known by use alone is asked once.

use transport::lnet::Event;
use transport::testing::net::SEC;
use transport::wire::{LnetBody, LnetHdr, PingInfo, WireHandle, ping};

use crate::routed::*;

const ALL: u32 = 0x1e;

/// R2, which is no gateway of the client's, says that it has these NIDs.
fn r2_says(w: &mut World, nids: &[&str]) {
    let mut info = Vec::new();
    PingInfo::new(nids.iter().map(|n| nid(n)), 12345, ALL, 3).emit(&mut info);
    let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
    let hdr = LnetHdr {
        dest_nid: nid(CLIENT),
        src_nid: nid(R2[0]),
        dest_pid: 12345,
        src_pid: 12345,
        payload_len: info.len() as u32,
        body: LnetBody::Put { ack: WireHandle::NONE, match_bits, hdr_data: 0, portal, offset: 0 },
    };
    let home = w.net.home(0, nid(R2[0]).ip().unwrap());
    w.routers.say(&mut w.net, 1, home, &hdr, info);
    w.run(SEC);
}

/// Whether the client takes both for one node, on all shards.
fn one(w: &World, a: &str, b: &str) -> bool {
    let all = w.places(0).map(|at| {
        let m = &w.net.nodes[at].machine;
        m.primary(nid(a)) == m.primary(nid(b))
    });
    let all: Vec<bool> = all.collect();
    assert!(all.iter().all(|same| *same == all[0]), "shards do not agree: {all:?}");
    all[0]
}

fn asked(w: &World) -> u64 {
    w.count(0, |c| c.discoveries)
}

/// The client puts, and the server hears it.
fn arrives(w: &mut World, tag: u64, to: &str) {
    w.op(0, 0, put(tag, to, 64));
    w.run(2 * SEC);
    let acked = |e: &Event| matches!(e, Event::Ack { tag: t, status: Ok(()), .. } if *t == tag);
    assert!(w.events(0).iter().any(acked));
    let came = w.events(1);
    assert!(came.iter().any(|e| matches!(e, Event::Put(p) if p.dest == nid(to))), "{came:?}");
}

fn world(shards: u16) -> World {
    let mut w = World::pair(&[R1], shards);
    w.router(&R2);
    w.run(SEC);
    for node in [0, 1] {
        w.attach(node);
    }
    w
}

/// Claims that name the claimant first, or last.
const CLAIMS: [[&str; 2]; 2] = [[R2[0], SERVER], [SERVER, R2[0]]];

#[test]
fn one_that_has_said_who_it_is_keeps_its_nid() {
    for (shards, claim) in [1, 2].into_iter().flat_map(|s| CLAIMS.map(|c| (s, c))) {
        let mut w = world(shards);
        arrives(&mut w, 1, SERVER);
        let before = asked(&w);
        for n in 0..3 {
            r2_says(&mut w, &claim);
            assert!(!one(&w, SERVER, R2[0]), "{shards} {claim:?}");
            arrives(&mut w, 10 + n, SERVER);
        }
        assert_eq!(asked(&w), before, "{shards} {claim:?}: its own word holds");
    }
}

#[test]
fn one_that_is_known_by_use_alone_is_asked_once() {
    for (shards, claim) in [1, 2].into_iter().flat_map(|s| CLAIMS.map(|c| (s, c))) {
        let (c, s) = (format!("tcp1 {}", R1[0]), format!("tcp {}", R1[1]));
        let mut w = World::new(&[(config(CLIENT, &[&c]), shards), (config(SERVER, &[&s]), 1)]);
        // R1 does not know the server at first: what is for it is lost.
        let (r1, hops) = (R1.map(nid), w.hops(&R1));
        w.routers.add(&mut w.net, &r1, &hops[..1]);
        w.router(&R2);
        w.run(SEC);
        w.op(0, 0, put(1, SERVER, 64));
        w.run(200 * SEC);
        w.routers.kill(&mut w.net, 0);
        w.routers.restart(&mut w.net, 0, &hops);
        w.run(300 * SEC);
        w.events(0);
        let before = asked(&w);
        for n in 0..3 {
            r2_says(&mut w, &claim);
            w.run(10 * SEC);
            assert!(!one(&w, SERVER, R2[0]), "{shards} {claim:?}: it has answered");
            assert!(asked(&w) <= before + u64::from(shards), "{shards} {claim:?} {n}");
        }
        assert!(asked(&w) > before);
    }
}

/// The node of the NID is asked with the first message to it, or from it, whoever claimed it first.
#[test]
fn a_claim_that_came_first_ends_with_the_first_use() {
    for (shards, claim) in [1, 2].into_iter().flat_map(|s| CLAIMS.map(|c| (s, c))) {
        for comes in [false, true] {
            let mut w = world(shards);
            r2_says(&mut w, &claim);
            assert!(one(&w, SERVER, R2[0]), "{shards}: nothing else is known");
            let before = asked(&w);
            if comes {
                w.op(1, 0, put(1, CLIENT, 64));
                w.run(2 * SEC);
                let from = |e: &Event| match e {
                    Event::Put(p) => Some(p.source),
                    _ => None,
                };
                assert_eq!(w.events(0).iter().find_map(from), Some(nid(SERVER)));
            } else {
                arrives(&mut w, 1, SERVER);
            }
            assert!(!one(&w, SERVER, R2[0]), "{shards} {claim:?} {comes}");
            let times = asked(&w) - before;
            assert!((1..=u64::from(shards)).contains(&times) || comes, "{shards} {claim:?}: {times}");
            for n in 0..3 {
                r2_says(&mut w, &claim);
                assert!(!one(&w, SERVER, R2[0]), "{shards} {claim:?} {comes} {n}");
                arrives(&mut w, 10 + n, SERVER);
            }
        }
    }
}
