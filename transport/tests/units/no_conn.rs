//! Next hops without a connection: what is for them holds up nothing of their source's, and nothing is lost where a network starts
//! (docs/protocol/upper.md §1.6).

use transport::stream::{Bucket, ShardId};
use transport::testing::capture::Msg;
use transport::testing::data::bytes;
use transport::testing::net::{Cut, SEC};
use transport::testing::rng::Rng;
use transport::wire::{LnetBody, Nid, Version, WireHandle, ping};

use crate::raw;
use crate::routing::{R, World, a, b, nid, put, small};

/// Time in which ARP gives a host up, in ns.
const ARP: u64 = 3 * SEC;
/// Longest time for which messages for those without a connection hold a source up, in ns: the time that they have, and that in which it
/// is found that the last ones leave nowhere.
const HELD_UP: u64 = 3 * SEC + 5 * SEC;

/// A router with these buffers, whose sources have eight each.
fn world(buffers: [u32; 3], shards: u16) -> World {
    let mut w = World::on(&small(buffers, 8), shards);
    w.net.syn_timeout = ARP;
    // Connections to both, for all sizes.
    for (from, to) in [(a(2), b(3)), (b(3), a(2))] {
        for len in [0, 20_000] {
            w.say(from, to, put(len), bytes(len as usize, len));
        }
    }
    w.run(SEC);
    assert_eq!(w.heard().len(), 4);
    w
}

/// Addresses on tcp1 where nobody is, and whose dials fail as late as that.
fn nobody_at(w: &mut World, all: std::ops::Range<u32>) -> Vec<Nid> {
    let dead: Vec<Nid> =
        all.map(|n| Nid::tcp([10, 1, 1 + (n / 250) as u8, 1 + (n % 250) as u8].into(), 1)).collect();
    dead.iter().for_each(|d| w.net.mute(d.ip().unwrap()));
    dead
}

/// The source is answered by the router, and has a message at a node behind it.
fn passes(w: &mut World, len: usize) -> bool {
    let (handle, portal) = (WireHandle { interface: 5, object: 5 }, ping::PORTAL);
    let get = LnetBody::Get { handle, match_bits: ping::MATCH_BITS, portal, src_offset: 0, sink_length: 272 };
    w.say(a(2), nid(R[0]), get, Vec::new());
    w.say(a(2), b(3), put(1), bytes(len, 1));
    w.run(SEC / 10);
    let mut heard: Vec<&str> = w.heard().iter().map(|h| h.hdr.body.name()).collect();
    heard.sort_unstable();
    heard == ["PUT", "REPLY"]
}

/// A server sends a hundred messages to nodes that are not there, to a hundred or to ten, whatever they are: it has its checks answered, and what it
/// sends to others goes on, as if nothing were.
#[test]
fn a_hundred_who_are_not_there_cost_their_source_nothing() {
    for shards in [1, 2, 3] {
        for (len, nodes) in [(0, 100), (1000, 100), (20_000, 100), (0, 10), (20_000, 10)] {
            let mut w = world([2048, 16_384, 1024], shards);
            let dead = nobody_at(&mut w, 0..nodes);
            for n in 0..100 {
                w.say(a(2), dead[n % dead.len()], put(n as u64), bytes(len, n as u64));
                if n % 10 == 0 {
                    assert!(passes(&mut w, len), "{shards} {len} {n}: {:?}", w.count());
                }
            }
            for _ in 0..10 {
                assert!(passes(&mut w, len), "{shards} {len}: {:?}", w.count());
                w.run(SEC);
            }
            let c = w.count();
            let lost = c.drop_next_hop + c.drop_stuck + c.drop_no_conn;
            assert_eq!((lost, c.forward_stuck), (100, 0), "{shards} {len}: {c:?}");
            w.run(200 * SEC);
            w.at_rest();
        }
    }
}

/// They are more, all the time, than have room beside the source's buffers, and whoever dials them waits for a time-out: the source is held
/// up for some seconds in all, and what is for those who have a connection goes on then.
#[test]
fn more_than_have_room_hold_their_source_up_for_some_seconds() {
    for shards in [1, 2] {
        for (buffers, syn) in [([64, 64, 64], ARP), ([64, 64, 64], 20 * SEC)] {
            let mut w = world(buffers, shards);
            w.net.syn_timeout = syn;
            let dead = nobody_at(&mut w, 0..1000);
            let (mut held_up, begin) = (0, w.net.now);
            let mut n = 0;
            while w.net.now < begin + 50 * SEC {
                for _ in 0..5 {
                    w.say(a(2), dead[n % 1000], put(n as u64), Vec::new());
                    n += 1;
                }
                let now = w.net.now;
                w.say(a(2), b(3), put(7), Vec::new());
                while !w.heard().iter().any(|h| h.hdr.dest_nid == b(3)) {
                    w.run(SEC / 10);
                    assert!(w.net.now < now + HELD_UP, "{shards} {syn}: {:?}", w.count());
                }
                held_up += (w.net.now - now).saturating_sub(SEC / 10);
                w.run((now + SEC / 4).saturating_sub(w.net.now));
            }
            assert!(held_up <= HELD_UP, "{shards} {syn}: {held_up}");
            let c = w.count();
            assert!(c.drop_no_conn > 100, "{shards} {syn}: {c:?}");
            w.run(200 * SEC);
            w.at_rest();
            // A term later a source may be held up again, rather than that anything is dropped at once.
            let before = w.count().drop_no_conn;
            for n in 0..8 {
                w.say(a(2), dead[0], put(n), Vec::new());
            }
            w.run(60 * SEC);
            assert_eq!(w.count().drop_no_conn, before, "{shards} {syn}");
            w.at_rest();
        }
    }
}

/// There are far more buffers for small messages than for others, and small ones are for those who are not there: those of a host are counted
/// together, and its checks and its bulk find room all the same.
#[test]
fn small_messages_leave_room_to_others_of_their_host() {
    let mut w = world([64, 16_384, 64], 1);
    w.net.syn_timeout = 20 * SEC;
    let dead = nobody_at(&mut w, 0..1000);
    let say = |w: &mut World, some: &[Nid]| {
        for to in some {
            w.say(a(2), *to, put(5), bytes(1000, 5));
        }
        // Something of the other classes is on its way there, too: else one would go in any case.
        for len in [0, 20_000] {
            w.say(a(2), some[0], put(6), bytes(len, 6));
        }
    };
    say(&mut w, &dead[..200]);
    w.run(HELD_UP);
    for some in dead[200..].chunks(100) {
        say(&mut w, some);
        assert!(passes(&mut w, 0) && passes(&mut w, 20_000), "{:?}", w.count());
    }
    w.run(200 * SEC);
    w.at_rest();
}

/// A network starts: nobody has a connection to the router, SYNs are lost, two of three, and are sent again after 1, 3 and 7 s; all that a
/// server has for forty nodes comes, each node's in order.
#[test]
fn nothing_is_lost_where_connections_come_late() {
    for shards in [1, 2] {
        for (len, each) in [(0, 12), (20_000, 6)] {
            let mut w = World::of(&small([2048, 16_384, 1024], 8), shards);
            w.add(a(2), Version::V3);
            let nodes: Vec<Nid> = (20..60).map(b).collect();
            nodes.iter().for_each(|n| w.add(*n, Version::V3));
            w.enable();
            w.say(a(2), nid(R[0]), put(0), bytes(len, 0));
            w.run(SEC);
            w.heard();
            w.net.loss = Some((Rng(u64::from(shards)), 66));
            let mut wanted = 0;
            for n in 0..each {
                for node in &nodes {
                    w.say(a(2), *node, put(n), bytes(len, n));
                    wanted += 1;
                }
            }
            w.run(SEC / 100);
            w.net.loss = None;
            w.run(40 * SEC);
            let heard = w.heard();
            let c = w.count();
            assert_eq!((heard.len(), c.drop_no_conn + c.drop_next_hop), (wanted, 0), "{shards} {len}: {c:?}");
            assert!(c.forward_no_conn >= 40, "{shards} {len}: {c:?}");
            for node in &nodes {
                let of = heard.iter().filter(|h| h.hdr.dest_nid == *node);
                let numbers: Vec<u64> = of.map(|h| number(&h.hdr.body)).collect();
                assert_eq!(numbers, (0..each).collect::<Vec<u64>>(), "{shards} {len}");
            }
            w.at_rest();
        }
    }
}

fn number(body: &LnetBody) -> u64 {
    match body {
        LnetBody::Put { hdr_data, .. } => *hdr_data,
        _ => u64::MAX,
    }
}

/// More comes for one node than has room beside the source's buffers, and it answers a HELLO two seconds late: the source waits, as it does
/// at kernels, and nothing is lost.
#[test]
fn a_source_waits_for_one_that_answers_late() {
    for shards in [1, 2] {
        let mut w = world([64, 64, 64], shards);
        let ip = b(66).ip().unwrap();
        w.net.raw_listen(ip);
        let links = w.net.links();
        for n in 0..60 {
            w.say(a(2), b(66), put(n), bytes(5000, n));
        }
        let (mut seen, mut answered) = (Vec::new(), Vec::new());
        for _ in 0..80 {
            w.run(SEC / 10);
            for link in links..w.net.links() {
                let dialled = w.net.addresses(link)[1].ip() == ip && w.net.wire(link, 0).0.len() > 40;
                if dialled && !seen.iter().any(|(l, _)| *l == link) {
                    seen.push((link, w.net.now));
                }
            }
            let late = |at: u64| answered.is_empty() && w.net.now < at + 2 * SEC;
            let due = seen.iter().find(|(l, at)| !answered.contains(l) && !late(*at)).map(|s| s.0);
            if let Some(link) = due {
                answered.push(link);
                let hello = raw::dialled(&w.net, link);
                w.net.raw_send(link, &raw::answer(&hello).emit());
            }
        }
        let said = answered.iter().flat_map(|l| raw::messages(&w.net, *l, 0, Version::V3));
        let mut numbers: Vec<u64> = said
            .filter_map(|m| match m {
                Msg::Lnet(_, hdr, _) if hdr.dest_nid == b(66) => Some(number(&hdr.body)),
                _ => None,
            })
            .collect();
        numbers.sort_unstable();
        let c = w.count();
        assert_eq!(numbers, (0..60).collect::<Vec<u64>>(), "{shards}: {c:?}");
        assert_eq!((c.drop_no_conn, c.drop_next_hop), (0, 0), "{shards}: {c:?}");
        assert!(c.forward_waits > 0, "{shards}: {c:?}");
    }
}

/// A node comes up while others send to it: what they sent before has ended with the dials that failed, and what they send then comes.
#[test]
fn one_that_comes_up_is_as_good_as_others() {
    for shards in [1, 2] {
        let mut w = world([64, 64, 64], shards);
        let late = b(66);
        w.net.unplug(late.ip().unwrap(), Cut::Silence);
        for n in 0..30 {
            w.say(a(2), late, put(n), bytes(20_000, n));
            assert!(passes(&mut w, 0), "{shards} {n}");
            w.run(SEC / 2);
        }
        w.add(late, Version::V3);
        w.net.plug(late.ip().unwrap());
        // Its next dial is due then, at the latest.
        w.run(60 * SEC);
        w.heard();
        for n in 100..140 {
            w.say(a(2), late, put(n), bytes(20_000, n));
        }
        w.run(SEC);
        let numbers: Vec<u64> = w.heard().iter().map(|h| number(&h.hdr.body)).collect();
        assert_eq!(numbers, (100..140).collect::<Vec<u64>>(), "{shards}: {:?}", w.count());
        w.run(SEC);
        w.at_rest();
    }
}

/// Buffers of a source move with it, and are given back where it is by then.
#[test]
fn buffers_beside_a_sources_own_move_with_it() {
    let mut w = world([512, 512, 512], 2);
    let dead = nobody_at(&mut w, 0..60);
    for (n, to) in (0..).zip(&dead) {
        w.say(a(2), *to, put(n), bytes(20_000, n));
    }
    w.run(SEC / 2);
    let ip = a(2).ip().unwrap();
    let home = w.net.home(0, ip);
    assert_eq!(w.view(home).buffers[2].credits, 256 - 60);
    assert!(w.net.move_home(home, Bucket::of(ip), ShardId(1 - home as u16)));
    w.run(SEC / 2);
    assert_eq!(w.net.home(0, ip), 1 - home);
    assert_eq!([w.view(home).buffers[2].credits, w.view(1 - home).buffers[2].credits], [256, 256 - 60]);
    assert!(passes(&mut w, 20_000));
    w.run(20 * SEC);
    assert_eq!(w.count().drop_next_hop, 60);
    w.at_rest();
}
