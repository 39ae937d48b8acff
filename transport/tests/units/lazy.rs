//! Lazy portals (docs/protocol/lnet.md §3, §4): a PUT that nothing matches waits, and with it its connection, until an entry
//! comes, the portal is lazy no longer, or the connection ends; and no longer.

use std::net::IpAddr;

use transport::lnd::{Config, Payload, Shards, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op, OpRefused, PutEvent};
use transport::stream::{Bucket, ShardId};
use transport::testing::data::{Spot, lent, seeded};
use transport::testing::net::{Net, SEC};
use transport::testing::pair::{config, id, nid};
use transport::wire::{ConnType, LnetBody, LnetHdr, ProcessId, Version, WireHandle};

use crate::raw;

const PEER: u8 = 10;
/// Long enough for a BULK connection of its own, and for a zero-copy ACK.
const LONG: usize = 100_000;
/// The receive timeout: shorter than what peers wait for a zero-copy ACK.
const TIMEOUT: u64 = 30 * SEC;

/// Nodes `0..shards` are the shards of 10.0.0.1, all of whose portals but 0 are lazy; behind them two peers.
fn net(shards: u16) -> Net {
    let mut net = Net::new();
    for s in 0..shards {
        net.add(Config { shards: Shards::new(s, shards).unwrap(), timeout: TIMEOUT, ..config(1) });
    }
    for n in [PEER, PEER + 1] {
        net.add(config(n));
    }
    for portal in 1..8 {
        net.op(0, Op::Lazy { tag: 1, portal, on: true });
    }
    net.run(SEC / 100);
    net
}

/// Every number of shards with portals of each, so that homes and owners are the same and others.
fn places() -> impl Iterator<Item = (u16, u32)> {
    [(1, 5), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)].into_iter()
}

/// An entry for one PUT.
fn once(portal: u32, tag: u64) -> Op {
    let md = MdSpec { threshold: Some(1), ..MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20))) };
    Spot(portal, 7).attach(tag, md)
}

fn put(portal: u32, tag: u64) -> Op {
    Spot(portal, 7).put(tag, id(1), seeded(LONG, tag), true)
}

/// Inputs of our shards.
fn told(net: &mut Net, shards: u16) -> Vec<Event> {
    (0..usize::from(shards)).flat_map(|s| net.take_events(s)).collect()
}

fn puts(net: &mut Net, shards: u16) -> Vec<PutEvent> {
    let put = |e| if let Event::Put(p) = e { Some(p) } else { None };
    told(net, shards).into_iter().filter_map(put).collect()
}

fn sum(net: &Net, shards: u16, of: impl Fn(&Net, usize) -> u64) -> u64 {
    (0..usize::from(shards)).map(|s| of(net, s)).sum()
}

fn held(net: &Net, shards: u16) -> u64 {
    sum(net, shards, |n, s| n.nodes[s].machine.gauges().held as u64)
}

fn count(net: &Net, shards: u16, name: &str) -> u64 {
    sum(net, shards, |n, s| {
        let machine = &n.nodes[s].machine;
        let mut all: Vec<_> = machine.counters().iter().collect();
        machine.drops(&mut |k, v| all.push((k, v)));
        all.iter().filter(|(k, _)| *k == name).map(|(_, v)| v).sum()
    })
}

fn pings(net: &mut Net, peer: usize) {
    net.take_events(peer);
    net.op(peer, Op::Ping { tag: 99, target: id(1) });
    net.run(SEC);
    let events = net.take_events(peer);
    assert!(events.iter().any(|e| matches!(e, Event::Ping { tag: 99, info: Ok(_), .. })), "{events:?}");
}

#[test]
fn a_put_waits_for_its_entry_and_its_connection_with_it() {
    for (shards, portal) in places() {
        let (mut net, peer) = (net(shards), usize::from(shards));
        // The whole set, so that both go by its BULK_OUT.
        pings(&mut net, peer);
        net.op(peer, put(portal, 1));
        net.run(SEC);
        net.op(peer, put(portal, 2));
        net.run(9 * SEC);
        assert_eq!((held(&net, shards), puts(&mut net, shards).len()), (1, 0), "the second is not read yet");
        // The peer's other connections go on, and so do other peers.
        pings(&mut net, peer);
        pings(&mut net, peer + 1);
        // No other portal's entry, nor one for other bits or another sender, releases it.
        let to = |portal, match_bits, who| Op::Attach {
            tag: 3,
            portal,
            who,
            match_bits,
            ignore_bits: 0,
            md: MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20))),
        };
        net.op(0, to(portal + 3, 7, ProcessId::ANY));
        net.op(0, to(portal, 8, ProcessId::ANY));
        let another = ProcessId { nid: nid(77), ..ProcessId::ANY };
        net.op(0, to(portal, 7, another));
        net.run(SEC);
        assert_eq!((held(&net, shards), puts(&mut net, shards).len()), (1, 0));
        for tag in [1, 2] {
            net.op(0, once(portal, tag));
            net.run(SEC);
            let [p] = &puts(&mut net, shards)[..] else { panic!("one PUT for one entry") };
            assert_eq!((p.tag, p.hdr_data, p.status, p.unlinked.is_some()), (tag, tag, Ok(()), true));
            assert_eq!(lent(&p.data), transport::testing::data::bytes(LONG, tag));
        }
        net.run(SEC);
        let acked = |e: &Event| matches!(e, Event::Ack { status: Ok(()), .. });
        assert_eq!(net.take_events(peer).iter().filter(|e| acked(e)).count(), 2);
        assert_eq!(count(&net, shards, "lazy_stalls"), 2);
        assert_eq!(count(&net, shards, "drop_no_match") + count(&net, shards, "sets_closed"), 0);
        net.assert_quiet();
    }
}

#[test]
fn entries_serve_those_that_wait_in_their_order() {
    for (shards, portal) in places() {
        let (mut net, peer) = (net(shards), usize::from(shards));
        for n in [1, 0] {
            net.op(peer + n, put(portal, n as u64));
            net.run(SEC);
        }
        assert_eq!(held(&net, shards), 2);
        net.op(0, once(portal, 1));
        net.run(SEC);
        let first = puts(&mut net, shards);
        assert!(matches!(&first[..], [p] if p.hdr_data == 1), "{first:?}");
        drop(first);
        assert_eq!(held(&net, shards), 1, "the other waits on");
        let md = MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20)));
        net.op(0, Spot(portal, 7).attach(2, md));
        net.run(SEC);
        let second = puts(&mut net, shards);
        assert!(matches!(&second[..], [p] if p.hdr_data == 0), "{second:?}");
        drop(second);
        net.assert_quiet();
    }
}

#[test]
fn what_waits_is_dropped_when_the_portal_is_lazy_no_longer() {
    for (shards, portal) in places() {
        let (mut net, peer) = (net(shards), usize::from(shards));
        net.op(peer, put(portal, 1));
        net.op(peer + 1, put(portal, 2));
        net.run(SEC);
        assert_eq!(held(&net, shards), 2);
        net.op(0, Op::Lazy { tag: 1, portal: portal + 3, on: false });
        net.run(SEC);
        assert_eq!(held(&net, shards), 2, "another portal's");
        net.op(0, Op::Lazy { tag: 1, portal, on: false });
        net.run(SEC);
        assert_eq!(held(&net, shards), 0);
        assert_eq!(count(&net, shards, &format!("drop_no_match_portal_{portal}")), 2);
        // The connection goes on behind it, and what comes is dropped at once.
        net.op(peer, put(portal, 3));
        net.run(SEC);
        assert_eq!(count(&net, shards, "drop_no_match"), 3);
        net.op(0, once(portal, 4));
        net.op(peer, put(portal, 5));
        net.run(SEC);
        assert!(matches!(&puts(&mut net, shards)[..], [p] if p.hdr_data == 5));
        assert!(told(&mut net, shards).is_empty());
    }
}

#[test]
fn gets_are_dropped_as_elsewhere() {
    for (shards, portal) in places() {
        let (mut net, peer) = (net(shards), usize::from(shards));
        net.op(peer, Spot(portal, 7).get(1, id(1), Sink::Lend(100)));
        net.run(SEC);
        assert_eq!(held(&net, shards), 0);
        assert_eq!(count(&net, shards, &format!("drop_no_match_portal_{portal}")), 1);
        // The asker hears of it by the time-out of transactions alone.
        net.run(148 * SEC);
        assert!(net.take_events(peer).is_empty());
        net.run(2 * SEC);
        assert!(matches!(net.take_events(peer)[..], [Event::Reply { tag: 1, status: Err(_), .. }]));
    }
}

/// A kernel gives up a message that does not go on arriving, whatever that is due to.
#[test]
fn a_stalled_set_is_closed_by_the_receive_timeout() {
    for (shards, portal) in places() {
        let (mut net, peer) = (net(shards), usize::from(shards));
        net.op(peer, put(portal, 1));
        net.run(TIMEOUT - SEC);
        assert_eq!((held(&net, shards), count(&net, shards, "err_rx_timeout")), (1, 0));
        net.run(2 * SEC);
        assert_eq!((held(&net, shards), count(&net, shards, "err_rx_timeout")), (0, 1));
        // It is given up for good: an entry that comes now is another message's.
        net.op(0, once(portal, 2));
        net.run(SEC);
        assert!(puts(&mut net, shards).is_empty());
        net.op(peer, put(portal, 3));
        net.run(60 * SEC);
        assert!(matches!(&puts(&mut net, shards)[..], [p] if p.hdr_data == 3 && p.status.is_ok()));
    }
}

/// Each moment of the message's life: before it is asked about, while the owner is asked, while it waits.
#[test]
fn the_end_of_a_connection_leaves_nothing_that_waits() {
    for (shards, portal) in places() {
        for rst in [true, false] {
            let mut seen = 0;
            for k in 0.. {
                let (mut net, peer) = (net(shards), usize::from(shards));
                net.op(peer, put(portal, 1));
                let (mut left, end) = (k, net.now + 2 * SEC);
                net.run_until(end, |_| {
                    left -= 1;
                    left < 0
                });
                let over = left >= 0;
                seen += held(&net, shards);
                net.kill(peer, rst);
                net.run(if rst { SEC } else { 60 * SEC });
                assert_eq!(held(&net, shards), 0, "killed after {k} events");
                // The entry is as good as new.
                net.op(0, once(portal, 2));
                net.run(SEC);
                net.op(peer + 1, put(portal, 3));
                net.run(SEC);
                let served = puts(&mut net, shards);
                assert!(matches!(&served[..], [p] if p.hdr_data == 3), "killed after {k} events: {served:?}");
                if over {
                    break;
                }
            }
            assert!(seen > 0, "no moment at which it waited");
        }
    }
}

/// A peer that comes and goes may ask as often as it likes.
#[test]
fn peers_that_come_and_go_leave_no_room_taken() {
    let mut net = raw::net(config(1));
    net.op(0, Op::Lazy { tag: 1, portal: 5, on: true });
    for round in 0..300 {
        let link = raw::open(&mut net, 700, &raw::start(&raw::hello(Version::V3, ConnType::Control)));
        net.raw_send(link, &raw::message(Version::V3, &raw::put(100), 0));
        net.run(SEC / 10);
        assert_eq!(held(&net, 1), 1, "{round}");
        net.raw_reset(link);
        net.run(SEC / 10);
        assert_eq!(held(&net, 1), 0, "{round}");
    }
    net.assert_at_rest(0);
}

/// The hand's CONTROL stalls: what it sends behind the PUT waits, and what it sends on BULK_IN does not.
#[test]
fn only_that_connection_stalls() {
    for whole in [true, false] {
        let mut net = raw::net(config(1));
        net.op(0, Op::Lazy { tag: 1, portal: 5, on: true });
        let links = raw::open_set(&mut net, Version::V3);
        let [control, bulk, _] = links;
        let message = raw::message(Version::V3, &raw::put(100), 0);
        let ping = raw::message(Version::V3, &raw::ping_get(0), 0);
        // With all of its payload and a ping behind it, or with its header alone.
        let sent = if whole { [message.clone(), ping.clone()].concat() } else { message[..96].to_vec() };
        net.raw_send(control, &sent);
        net.run(SEC);
        net.raw_send(bulk, &ping);
        net.run(SEC);
        let replies =
            |net: &Net| links.iter().map(|l| raw::messages(net, *l, 1, Version::V3).len()).sum::<usize>();
        assert_eq!((replies(&net), held(&net, 1)), (1, 1));
        net.op(0, Spot(5, 5).attach(1, MdSpec::new(MdMem::Sink(Sink::Discard(100)))));
        net.run(SEC / 10);
        assert_eq!(held(&net, 1), 0);
        if !whole {
            assert!(puts(&mut net, 1).is_empty(), "its payload is still to come");
            net.raw_send(control, &[message[96..].to_vec(), ping].concat());
            net.run(SEC / 10);
        }
        assert_eq!((replies(&net), puts(&mut net, 1).len()), (2, 1));
        net.assert_at_rest(0);
    }
}

#[test]
fn a_home_may_move_while_a_message_waits() {
    let at = Bucket::of(IpAddr::from([10, 0, 0, PEER]));
    for (shards, portal) in places().filter(|(s, _)| *s > 1) {
        for (moves, end) in (1..4).flat_map(|m| (0..3).map(move |e| (m, e))) {
            let (mut net, peer) = (net(shards), usize::from(shards));
            net.op(peer, put(portal, 1));
            net.run(SEC);
            for _ in 0..moves {
                let home = usize::from(net.nodes[0].machine.home_of(at).0);
                assert!(net.move_home(home, at, ShardId((home as u16 + 1) % shards)));
                net.run(SEC);
                assert_eq!(held(&net, shards), 1);
            }
            match end {
                0 => {
                    net.op(0, once(portal, 2));
                    net.run(SEC);
                    assert!(matches!(&puts(&mut net, shards)[..], [p] if p.status.is_ok()));
                }
                1 => {
                    net.op(0, Op::Lazy { tag: 1, portal, on: false });
                    net.run(SEC);
                    assert_eq!(count(&net, shards, "drop_no_match"), 1);
                    pings(&mut net, peer);
                }
                _ => {
                    // Its time runs on over the moves.
                    net.run(TIMEOUT);
                    assert_eq!(count(&net, shards, "err_rx_timeout"), 1);
                }
            }
            assert_eq!(held(&net, shards), 0);
        }
    }
}

/// The home moves while the owner is being asked, at each moment of it; then the peer dies.
#[test]
fn a_home_may_move_while_its_owner_is_asked() {
    let at = Bucket::of(IpAddr::from([10, 0, 0, PEER]));
    for (shards, portal) in places().filter(|(s, _)| *s > 1) {
        for k in 0.. {
            let (mut net, peer) = (net(shards), usize::from(shards));
            pings(&mut net, peer);
            net.op(peer, put(portal, 1));
            let (mut left, end) = (k, net.now + 2 * SEC);
            net.run_until(end, |_| {
                left -= 1;
                left < 0
            });
            let over = left >= 0;
            let home = usize::from(net.nodes[0].machine.home_of(at).0);
            net.move_home(home, at, ShardId((home as u16 + 1) % shards));
            net.kill(peer, true);
            net.run(2 * SEC);
            assert_eq!(held(&net, shards), 0, "{shards} shards, portal {portal}, after {k} events");
            if over {
                break;
            }
        }
    }
}

#[test]
fn a_node_goes_down_with_what_waits() {
    for (shards, portal) in places() {
        let (mut net, peer) = (net(shards), usize::from(shards));
        net.op(peer, put(portal, 1));
        net.op(0, Spot(portal, 7).put(2, id(1), Payload::inline(b"to myself").unwrap(), false));
        net.run(SEC);
        assert_eq!(held(&net, shards), 2);
        for s in 0..usize::from(shards) {
            net.op(s, Op::Shutdown { tag: 3 });
        }
        net.run(60 * SEC);
        let events = told(&mut net, shards);
        let down = events.iter().filter(|e| matches!(e, Event::ShutDown { .. })).count();
        assert_eq!(down, usize::from(shards), "{events:?}");
        assert!(events.iter().any(|e| matches!(e, Event::Send { tag: 2, status: Err(_), done: true })));
        assert_eq!(held(&net, shards), 0);
    }
}

#[test]
fn messages_to_ourselves_wait_too() {
    for (shards, portal) in places() {
        let mut net = net(shards);
        net.op(0, put(portal, 1));
        net.op(0, put(portal, 2));
        net.run(SEC);
        assert_eq!((held(&net, shards), told(&mut net, shards).len()), (2, 0));
        net.op(0, once(portal, 3));
        net.run(SEC);
        let events = told(&mut net, shards);
        assert!(
            matches!(
                &events[..],
                [
                    Event::Attached { .. },
                    Event::Put(PutEvent { hdr_data: 1, .. }),
                    Event::Send { tag: 1, .. },
                    Event::Ack { tag: 1, status: Ok(()), .. }
                ]
            ),
            "{events:?}"
        );
        net.op(0, Op::Lazy { tag: 1, portal, on: false });
        net.run(SEC);
        let events = told(&mut net, shards);
        assert!(matches!(events[..], [Event::Send { tag: 2, status: Ok(()), done: false }]), "{events:?}");
        assert_eq!(held(&net, shards), 0);
    }
}

/// Pushes of ping info come to portal 0, and are acknowledged at once whatever happens.
#[test]
fn lnets_own_portal_and_those_that_do_not_exist_are_refused() {
    let mut net = raw::net(config(1));
    for (portal, refused) in [(0, OpRefused::LazyOwn(0)), (64, OpRefused::Portal(64))] {
        net.op(0, Op::Lazy { tag: 8, portal, on: true });
        match &net.take_events(0)[..] {
            [Event::Refused { tag: 8, why }] => assert_eq!(*why, refused),
            other => panic!("{other:?}"),
        }
    }
    // A PUT to a portal that does not exist is dropped.
    let link = raw::open(&mut net, 700, &raw::start(&raw::hello(Version::V3, ConnType::Control)));
    let body = LnetBody::Put { ack: WireHandle::NONE, match_bits: 5, hdr_data: 0, portal: 64, offset: 0 };
    net.raw_send(link, &raw::message(Version::V3, &LnetHdr { body, ..raw::put(10) }, 0));
    net.run(SEC);
    assert_eq!((held(&net, 1), count(&net, 1, "drop_no_match_portal_none")), (0, 1));
}
