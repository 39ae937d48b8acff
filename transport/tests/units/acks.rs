//! Zero-copy ACKs and their limits (docs/protocol/socklnd.md §5.3, §6.3): ours to the peer, and the peer's to us.

use crate::raw::{self, *};
use transport::lnd::{Config, LnetError, Sink};
use transport::lnet::{Event, MdMem};
use transport::testing::capture::Msg;
use transport::testing::net::SEC;
use transport::wire::{ConnType, KsockType, Version};

const WITH_COOKIES: [Version; 3] = [Version::V2, Version::V3, Version::V4];

/// A PUT with a cookie and this sum.
fn summed(version: Version, len: u32, portal_matches: bool, csum: u32) -> Vec<u8> {
    let mut h = put(len);
    if !portal_matches && let transport::wire::LnetBody::Put { portal, .. } = &mut h.body {
        *portal = 7;
    }
    [ksock(KsockType::Lnet, csum, 40, 0), h.emit_as(version).to_vec(), vec![9; len as usize]].concat()
}

#[test]
fn never_after_a_failed_checksum() {
    for version in WITH_COOKIES {
        for (len, matches, room, verified) in
            [(500, true, 1000, true), (500, true, 400, false), (500, false, 1000, false)]
        {
            let mut net = net(config(1));
            attach(&mut net, 0, MdMem::Sink(Sink::Lend(room)), true);
            let links = open_set(&mut net, version);
            net.raw_send(links[0], &summed(version, len, matches, 0xbad));
            net.run(SEC / 10);
            let acks: usize = links.iter().map(|l| behind_hello(&net, *l).len() / 24).sum();
            let closed = net.wire(links[1], 1).1;
            // Payload that was cut or matched nothing is not verified, and ACKed.
            assert_eq!((acks, closed), if verified { (0, true) } else { (1, false) }, "{version:?} {room}");
            assert_eq!(
                (counters(&net).err_checksum, counters(&net).zc_acks_tx),
                (verified.into(), acks as u64)
            );
            let failed = |e: &Event| matches!(e, Event::Put(p) if p.status == Err(LnetError::Checksum));
            assert_eq!(net.take_events(0).iter().any(failed), verified);
        }
    }
}

#[test]
fn a_spoiled_noop_acks_nothing() {
    for version in [Version::V3, Version::V4] {
        let mut net = net(config(1));
        let links = open_set(&mut net, version);
        net.op(0, put_op(1, id(PEER), pages(20_000), false));
        net.run(SEC / 10);
        assert_eq!(net.nodes[0].machine.gauges().cookies, 1);
        net.raw_send(links[0], &ksock(KsockType::Noop, 0xbad, 0, 2));
        net.run(SEC / 10);
        assert_eq!((counters(&net).zc_acked, counters(&net).err_checksum), (0, 1));
        assert!(links.iter().all(|l| net.wire(*l, 1).1));
        let [Event::Send { status: Err(LnetError::ConnLost), .. }] = &net.take_events(0)[..] else {
            panic!()
        };
    }
}

/// A kernel that has only an untyped connection of V3 closes it at a request (socklnd.md §9). An ACK there is valid on
/// any connection, so ours goes back where the request came from.
#[test]
fn a_request_is_answered_where_it_came_if_nowhere_else() {
    for version in WITH_COOKIES {
        for ctype in [ConnType::Any, ConnType::Control, ConnType::BulkIn, ConnType::BulkOut] {
            let mut net = net(config(1));
            let link = open(&mut net, 700, &start(&hello(version, ctype)));
            net.raw_send(link, &message(version, &put(10), 9));
            net.run(SEC / 10);
            assert_eq!(noops(&behind_hello(&net, link)), [(0, 9)], "{version:?} {ctype:?}");
        }
    }
}

#[test]
fn what_was_owed_to_an_old_set_dies_with_it() {
    let mut net = net(Config { tx_window: 24, ..config(1) });
    net.raw_acks = false;
    let links = open_set(&mut net, Version::V3);
    links.iter().for_each(|l| net.raw_ack(*l));
    net.run(SEC / 100);
    for cookie in 50..60 {
        net.raw_send(links[2], &message(Version::V3, &put(10), cookie));
    }
    net.run(SEC / 10);
    assert_eq!(noops(&behind_hello(&net, links[2])), [(0, 50)], "the others wait");
    net.raw_reset(links[0]);
    net.run(SEC / 10);
    let mut again = links;
    for (i, t) in TYPES.iter().enumerate() {
        again[i] = open(&mut net, 800 - i as u16, &start(&hello(Version::V3, *t)));
        net.raw_ack(again[i]);
    }
    net.raw_send(again[2], &message(Version::V3, &put(10), 2));
    for _ in 0..20 {
        net.run(SEC / 100);
        again.iter().for_each(|l| net.raw_ack(*l));
    }
    assert_eq!(noops(&behind_hello(&net, again[2])), [(0, 2)]);
}

#[test]
fn an_ack_for_a_cookie_of_an_old_set_closes_the_new_one() {
    let mut net = net(config(1));
    let links = open_set(&mut net, Version::V3);
    net.op(0, put_op(1, id(PEER), pages(20_000), false));
    net.run(SEC / 10);
    net.raw_reset(links[0]);
    net.run(SEC / 10);
    net.take_events(0);
    let port = |i: usize| 800 - i as u16;
    let again: Vec<usize> = TYPES
        .iter()
        .enumerate()
        .map(|(i, t)| open(&mut net, port(i), &start(&hello(Version::V3, *t))))
        .collect();
    net.raw_send(again[0], &noop(0, 2));
    net.run(SEC / 10);
    assert_eq!(counters(&net).err_cookie, 1);
    assert!(again.iter().all(|l| net.wire(*l, 1).1));
    net.assert_at_rest(0);
}

/// V2 knows no keepalive: 1 is a cookie as any, and rides on a message as any (socklnd.md §6.3).
#[test]
fn cookie_1_of_a_v2_peer_is_echoed() {
    let mut net = net(Config { tx_window: 96, ..config(1) });
    net.raw_acks = false;
    let link = open(&mut net, 700, &start(&hello(Version::V2, ConnType::Any)));
    net.raw_ack(link);
    net.run(SEC / 100);
    // The first answer fills the window, the ACK waits, and the second answer takes its place.
    for bytes in [
        message(Version::V2, &ping_get(0), 0),
        message(Version::V2, &put(10), 1),
        message(Version::V2, &ping_get(0), 0),
    ] {
        net.raw_send(link, &bytes);
    }
    for _ in 0..5 {
        net.run(SEC / 100);
        net.raw_ack(link);
    }
    let words: Vec<u64> = raw::messages(&net, link, 1, Version::V2)
        .iter()
        .map(|m| match m {
            Msg::Lnet(k, ..) => k.cookie1,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(words, [0, 1]);
}
