//! PUTs that match nothing, by a gateway: its connection is that of all who are behind it, so what one of them sends keeps it from
//! being read for a short time, now and then, and by services of our own not at all (docs/protocol/lnet.md §4, selftest.md §1).

use transport::lnd::{Config, Shards, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::stream::{Bucket, ShardId};
use transport::testing::data::{Spot, run};
use transport::testing::members::LstNode;
use transport::testing::net::{Net, SEC};
use transport::testing::pair::config;
use transport::wire::{ConnType, Hello, LnetBody, LnetHdr, Nid, Version, WireHandle};

use crate::raw;

const VERSIONS: [Version; 3] = [Version::V1, Version::V2, Version::V3];
/// Time for which one by a gateway waits, and for which none waits after it, in ns.
const WAIT: u64 = SEC / 4;
const REST: u64 = 4 * SEC;

/// Behind the gateway.
fn far(n: u8) -> Nid {
    Nid::tcp([10, 1, 0, n].into(), 1)
}

fn put(src_nid: Nid, portal: u32, match_bits: u64, len: u32) -> LnetHdr {
    let body = LnetBody::Put { ack: WireHandle::NONE, match_bits, hdr_data: 0, portal, offset: 0 };
    LnetHdr { src_nid, body, ..raw::put(len) }
}

/// 10.0.0.1 of so many shards, and a connection of the gateway's.
struct World {
    net: Net,
    shards: usize,
    link: usize,
    version: Version,
}

impl World {
    fn new(shards: u16, version: Version) -> World {
        let mut net = Net::new();
        for me in 0..shards {
            net.add(Config { shards: Shards::new(me, shards).unwrap(), ..config(1) });
        }
        World::beside(net, shards.into(), version)
    }

    fn beside(mut net: Net, shards: usize, version: Version) -> World {
        let home = net.home(0, raw::peer_ip());
        let link = net.raw_connect(raw::at(700), home);
        net.raw_send(link, &raw::start(&raw::hello(version, ConnType::Control)));
        net.run(SEC / 100);
        assert!(!net.wire(link, 1).1, "{version:?}");
        World { net, shards, link, version }
    }

    fn say(&mut self, hdr: &LnetHdr) {
        let bytes = raw::message(self.version, hdr, 0);
        self.net.raw_send(self.link, &bytes);
    }

    /// Whether the gateway's ping, behind all that was said, is answered at once.
    fn goes_on(&mut self) -> bool {
        let before = self.heard();
        self.say(&raw::ping_get(0));
        self.net.run(SEC / 100);
        self.heard() > before
    }

    fn heard(&self) -> usize {
        raw::messages(&self.net, self.link, 1, self.version).len()
    }

    fn sum(&self, of: impl Fn(&Net, usize) -> u64) -> u64 {
        (0..self.shards).map(|s| of(&self.net, s)).sum()
    }

    fn held(&self) -> u64 {
        self.sum(|n, s| n.nodes[s].machine.gauges().held as u64)
    }

    fn count(&self, name: &str) -> u64 {
        self.sum(|n, s| {
            let machine = &n.nodes[s].machine;
            let mut all: Vec<_> = machine.counters().iter().collect();
            machine.drops(&mut |k, v| all.push((k, v)));
            all.iter().filter(|(k, _)| *k == name).map(|(_, v)| v).sum()
        })
    }

    /// Match bits of PUTs that have been delivered.
    fn delivered(&mut self) -> Vec<u64> {
        let events = (0..self.shards).flat_map(|s| self.net.take_events(s)).collect::<Vec<_>>();
        let bits = |e: &Event| match e {
            Event::Put(p) if p.status.is_ok() => Some(p.match_bits),
            _ => None,
        };
        events.iter().filter_map(bits).collect()
    }

    fn lazy(&mut self, portal: u32) {
        self.net.op(0, Op::Lazy { tag: 1, portal, on: true });
        self.net.run(SEC / 100);
    }

    /// An entry for one PUT.
    fn once(&mut self, portal: u32, bits: u64) {
        let md = MdSpec { threshold: Some(1), ..MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20))) };
        self.net.op(0, Spot(portal, bits).attach(1, md));
        self.net.run(SEC / 1000);
    }
}

/// Every number of shards with portals of each, so that homes and owners are the same and others.
fn places() -> impl Iterator<Item = (u16, u32, Version)> {
    let places = [(1, 50), (2, 50), (2, 51), (3, 50), (3, 51), (3, 52)];
    places.into_iter().flat_map(|(s, p)| VERSIONS.map(|v| (s, p, v)))
}

/// lnet_selftest's portals: what is for no service, for one that tests have not been added for, or for none of a console's, is dropped at
/// once whoever sends it; so is what a service takes and cannot read.
#[test]
fn services_of_our_own_keep_nobody_waiting() {
    for version in VERSIONS {
        for portal in [50, 51, 52] {
            let mut net = Net::new();
            let mut lst = LstNode::new(&mut net, config(1));
            net.run(SEC / 100);
            lst.pump(&mut net);
            let mut w = World::beside(net, 1, version);
            let mut dropped = 0;
            for src in [far(9), raw::nid(raw::PEER)] {
                for bits in [6, 11, 12, 13, 77, u64::MAX] {
                    for len in [0, 100, 160, 161] {
                        w.say(&put(src, portal, bits, len));
                        dropped += 1;
                        assert!(w.goes_on(), "{version:?} {portal} {bits} {len} {src}");
                        assert_eq!(w.count(&format!("drop_no_match_portal_{portal}")), dropped);
                    }
                }
                // DEBUG's.
                w.say(&put(src, 51, 0, 160));
                w.say(&put(src, 51, 0, 161));
                assert!(w.goes_on(), "{version:?} {portal} {src}");
                lst.pump(&mut w.net);
            }
            assert_eq!((w.held(), w.count("lazy_stalls"), w.count("drop_too_long")), (0, 0, 2));
            assert_eq!((w.count("drop_no_match"), lst.member.counters().rpcs_dropped), (dropped, 2));
        }
    }
}

/// A service of an application's whose buffers are in use.
#[test]
fn one_by_a_gateway_waits_for_a_buffer_that_is_posted_in_time() {
    for (shards, portal, version) in places() {
        let mut w = World::new(shards, version);
        w.lazy(portal);
        w.once(portal, 7);
        for round in 0..3 {
            w.say(&put(far(9), portal, 7, 100));
            assert!(w.goes_on(), "{shards} {portal} {version:?}");
            w.say(&put(far(9), portal, 7, 100));
            assert!(!w.goes_on(), "it waits for its buffer");
            assert_eq!(w.held(), 1);
            w.net.run(WAIT - 2 * (SEC / 100) - SEC / 1000);
            w.once(portal, 7);
            w.net.run(SEC / 100);
            assert_eq!((w.held(), w.delivered()), (0, vec![7, 7]), "{round}");
            assert!(w.goes_on());
            w.once(portal, 7);
        }
        assert_eq!((w.count("lazy_stalls"), w.count("lazy_overdue"), w.count("drop_no_match")), (3, 0, 0));
    }
}

#[test]
fn one_by_a_gateway_that_nothing_matches_in_time_is_dropped_and_no_other_waits_for_a_while() {
    for (shards, portal, version) in places() {
        let mut w = World::new(shards, version);
        w.lazy(portal);
        w.once(portal, 7);
        w.say(&put(far(9), portal, 7, 100));
        w.net.run(SEC / 100);
        assert_eq!(w.delivered(), [7]);
        let mut dropped = 0;
        // For bits that nobody has, and for those of a service without buffers.
        for bits in [8, 7] {
            w.say(&put(far(9), portal, bits, 100));
            assert!(!w.goes_on());
            assert_eq!(w.held(), 1);
            w.net.run(WAIT);
            dropped += 1;
            assert_eq!((w.held(), w.count(&format!("drop_no_match_portal_{portal}"))), (0, dropped));
            assert!(w.heard() > 0 && w.goes_on(), "what came behind it goes on, and so does what comes");
            // One after the other, for as long as the next may not wait.
            for n in 0..30 {
                w.say(&put(far(10 + n), portal, bits, 100));
                assert!(w.goes_on(), "{shards} {portal} {version:?} {n}");
                w.net.run(SEC / 10);
                dropped += 1;
            }
            assert_eq!((w.held(), w.count(&format!("drop_no_match_portal_{portal}"))), (0, dropped));
            // Those that match are served all the while.
            w.once(portal, 9);
            w.say(&put(far(9), portal, 9, 100));
            assert!(w.goes_on());
            assert_eq!(w.delivered(), [9]);
            w.net.run(REST);
        }
        assert_eq!((w.count("lazy_stalls"), w.count("lazy_overdue")), (2, dropped));
        assert_eq!(
            (w.count("err_rx_timeout"), w.count("sets_closed"), w.net.raw_ended(w.link)),
            (0, 0, (false, false))
        );
    }
}

/// Its connection is its own, as at kernels.
#[test]
fn one_of_the_peer_itself_waits_as_long_as_its_connection() {
    for (shards, portal, version) in places() {
        let mut w = World::new(shards, version);
        w.lazy(portal);
        w.say(&put(raw::nid(raw::PEER), portal, 8, 100));
        w.net.run(40 * SEC);
        assert_eq!((w.held(), w.count("lazy_overdue"), w.count("err_rx_timeout")), (1, 0, 0));
        w.net.run(20 * SEC);
        assert_eq!((w.held(), w.count("lazy_overdue"), w.count("err_rx_timeout")), (0, 0, 1));
    }
}

/// The entry comes about when the wait ends, and is asked for while it does: it is used or not, and good for what comes later.
#[test]
fn an_entry_that_comes_with_the_end_of_the_wait_is_as_good_as_new() {
    for (shards, portal, _) in places().filter(|p| p.2 == Version::V3) {
        let mut seen = [false; 2];
        for us in (0..6000).step_by(97) {
            let mut w = World::new(shards, Version::V3);
            w.lazy(portal);
            w.say(&put(far(9), portal, 8, 100));
            w.net.run(WAIT - SEC / 1000 + us * 1000);
            w.net.op(0, Spot(portal, 8).attach(1, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20)))));
            w.net.run(SEC / 100);
            let (served, dropped) = (w.delivered().len() as u64, w.count("lazy_overdue"));
            assert_eq!((served + dropped, w.held()), (1, 0), "{shards} {portal} after {us} us");
            seen[usize::from(served == 1)] = true;
            w.say(&put(far(9), portal, 8, 100));
            assert!(w.goes_on());
            assert_eq!(w.delivered(), [8]);
        }
        assert_eq!(seen, [true, true], "{shards} {portal}");
    }
}

#[test]
fn its_time_runs_on_over_moves_of_its_home() {
    for (shards, portal, version) in places().filter(|p| p.0 > 1) {
        let mut w = World::new(shards, version);
        w.lazy(portal);
        let bucket = Bucket::of(raw::peer_ip());
        w.say(&put(far(9), portal, 8, 100));
        for _ in 0..3 {
            w.net.run(WAIT / 5);
            assert_eq!(w.held(), 1);
            let home = w.net.home(0, raw::peer_ip());
            assert!(w.net.move_home(home, bucket, ShardId((home as u16 + 1) % shards)));
        }
        w.net.run(WAIT / 5 * 2 + SEC / 100);
        assert_eq!((w.held(), w.count("lazy_overdue"), w.count("drop_no_match")), (0, 1, 1));
        // And so does the time in which none waits.
        let home = w.net.home(0, raw::peer_ip());
        assert!(w.net.move_home(home, bucket, ShardId((home as u16 + 1) % shards)));
        w.net.run(SEC / 100);
        w.say(&put(far(9), portal, 8, 100));
        assert!(w.goes_on());
        assert_eq!((w.held(), w.count("lazy_overdue")), (0, 2));
    }
}

/// A message of somebody else has the sink of an entry, and does not come to its end: one by a gateway waits for that sink as long as a
/// message may, and what its gateway brings behind it is served then. One of a peer's own waits on.
#[test]
fn a_sink_that_is_held_keeps_a_gateways_connection_for_one_time_out() {
    for (shards, version, routed) in
        [1, 4].into_iter().flat_map(|s| VERSIONS.into_iter().flat_map(move |v| [(s, v, true), (s, v, false)]))
    {
        let mut w = World::new(shards, version);
        let source = if routed { far(7) } else { raw::nid(raw::PEER) };
        let sink = |tag, portal, n| {
            let md = MdSpec { threshold: None, ..MdSpec::new(MdMem::Sink(Sink::Copy(run(n)))) };
            Spot(portal, 5).attach(tag, md)
        };
        w.net.op(0, sink(1, 8, 4096));
        w.net.op(0, sink(2, 9, 4096));
        w.net.run(SEC / 10);
        // Another peer begins a message, and goes on with a byte a second.
        let ip = [10, 0, 0, 77].into();
        let home = w.net.home(0, ip);
        let slow = w.net.raw_connect((ip, 700).into(), home);
        let from = Nid::tcp(ip, 0);
        w.net.raw_send(slow, &raw::start(&Hello { src_nid: from, ..raw::hello(version, ConnType::Control) }));
        w.net.run(SEC / 10);
        let whole = raw::message(version, &put(from, 8, 5, 4000), 0);
        w.net.raw_send(slow, &whole[..whole.len() - 1000]);
        w.net.run(SEC / 10);
        w.say(&put(source, 8, 5, 100));
        w.say(&put(source, 9, 5, 100));
        let came = |w: &mut World, shards: u16| {
            let all = (0..usize::from(shards)).flat_map(|n| w.net.take_events(n)).collect::<Vec<_>>();
            all.iter().filter(|e| matches!(e, Event::Put(p) if p.tag == 2)).count()
        };
        for n in 0..70 {
            w.net.raw_send(slow, &[9]);
            w.net.run(SEC);
            let served = routed && n >= 50;
            assert!(served || came(&mut w, shards) == 0, "{shards} {version:?} {routed}: {n}");
        }
        assert_eq!(came(&mut w, shards), usize::from(routed), "{shards} {version:?} {routed}");
        let overdue: u64 = (0..shards.into()).map(|n| w.net.nodes[n].machine.counters().sink_overdue).sum();
        assert_eq!(overdue, u64::from(routed));
    }
}
