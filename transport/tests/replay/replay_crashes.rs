//! The last messages that kernels received before they panicked, into our machine in their place: it answers like a
//! node that has met nothing unusual, and goes on (socklnd.md §6.3, §13; lnet.md §3; selftest.md §5).

use crate::CHUNKS;
use crate::play::{Capture, Link, Place, Play};
use transport::lnd::LnetError;
use transport::lnet::Event;
use transport::stream::Close;
use transport::testing::capture::{Dir, Msg, Segment, good_messages};
use transport::wire::{KsockType, LnetBody, LnetHdr};

/// One machine in the place of the kernel at `addr`, through all the lives that kernel had.
fn survivor(capture: &str, addr: &str, chunk: usize) -> Play {
    let read = Capture::read(&format!("probes/{capture}"));
    let [(me, list)] = &read.nodes(false, |a| a.to_string() == addr)[..] else { unreachable!() };
    Play::new(&read, Place::Kernel, *me, list, chunk, |_| ()).run()
}

fn link(played: &Play, number: usize) -> &Link {
    played.links.iter().find(|l| l.number == number).unwrap()
}

/// Bytes that the machine wrote on a connection that it accepted, behind its HELLO.
fn wrote(l: &Link) -> Vec<Msg> {
    let mut dir = Dir::default();
    dir.segments.push(Segment { at: 0, bytes: l.wrote.clone() });
    let (list, left, bad) = good_messages(&dir, false, true, l.flow.version());
    assert_eq!((left, bad), (0, None));
    assert!(matches!(list[0].msg, Msg::Hello(_)));
    list.into_iter().skip(1).map(|m| m.msg).collect()
}

/// A zero-copy ACK for `cookie`, then an ACK of 48 bytes: the answers to a PUT that wants both.
fn put_is_answered(l: &Link, cookie: u64) {
    match &wrote(l)[..] {
        [Msg::Noop(k), Msg::Lnet(_, LnetHdr { body: LnetBody::Ack { mlength: 48, .. }, .. }, _)] => {
            assert_eq!((k.kind, k.cookie0, k.cookie1), (KsockType::Noop, 0, cookie));
        }
        other => panic!("c{}: {other:?}", l.number),
    }
    assert_eq!(l.closed, None, "c{}", l.number);
}

/// 2.15.8: a GET whose offset lies beyond the ping info is dropped, and the set stays until the peer leaves it.
#[test]
fn a_get_beyond_the_md() {
    for chunk in CHUNKS {
        let p = survivor("crashes-and-stall", "192.168.77.15", chunk);
        assert_eq!(p.machine.counters().drop_bad_offset, 1);
        assert_eq!(wrote(link(&p, 1)), []);
        let fin = link(&p, 2).closed.unwrap();
        for number in [1, 2, 3] {
            assert_eq!(link(&p, number).closed, Some(fin), "with the FIN of the second");
        }
        assert_eq!(fin, (fin.0, Close::Fin));
        // The next peer finds the same node.
        put_is_answered(link(&p, 4), 100);
    }
}

/// 2.15.8 and 2.17.57: a V2 PUT that wants an ACK and has a zero-copy cookie gets both.
#[test]
fn an_ack_and_a_cookie_on_one_connection() {
    for chunk in CHUNKS {
        put_is_answered(link(&survivor("crashes-and-stall", "192.168.77.11", chunk), 5), 100);
        // With a checksum, too.
        put_is_answered(link(&survivor("active-sets", "192.168.77.11", chunk), 69), 0x4d);
    }
}

/// 2.17.57: what a BRW request asks for is the application's affair. It is delivered.
#[test]
fn a_bulk_request_with_unknown_flags() {
    for chunk in CHUNKS {
        let p = survivor("crashes-and-stall", "192.168.77.11", chunk);
        let brw = p.events.iter().filter(|e| matches!(e, Event::Put(p) if p.portal == 50)).count();
        assert_eq!(brw, 1);
        assert_eq!(wrote(link(&p, 6)), []);
        let (at, how) = link(&p, 6).closed.unwrap();
        assert_eq!((at, how), (link(&p, 7).closed.unwrap().0, Close::Fin), "with the FIN of the second");
    }
}

/// 2.17.57: a ping to a node that says NONE three times fails, and that is all.
#[test]
fn three_refusals() {
    for chunk in CHUNKS {
        let p = survivor("crashes-and-stall", "192.168.77.11", chunk);
        let pings: Vec<_> = p.events.iter().filter(|e| matches!(e, Event::Ping { .. })).collect();
        assert!(matches!(pings[..], [Event::Ping { info: Err(LnetError::Unreachable), .. }]), "{pings:?}");
        // Later peers find the same node.
        for n in [12, 15, 18] {
            assert!(!wrote(link(&p, n)).is_empty() || link(&p, n).closed.is_some(), "a HELLO, and more");
        }
    }
}

/// All versions: a PUT for no service stalls a connection, and its set is closed by the receive timeout. Other connections
/// of the set go on until then.
#[test]
fn a_put_for_no_service() {
    for chunk in CHUNKS {
        let p = survivor("crashes-and-stall", "192.168.77.11", chunk);
        let replies = |n| {
            let reply = |m: &Msg| matches!(m, Msg::Lnet(_, LnetHdr { body: LnetBody::Reply { .. }, .. }, _));
            wrote(link(&p, n)).iter().filter(|m| reply(m)).count()
        };
        assert_eq!(replies(12), 1, "the GET on another connection, and not the one behind it");
        // Its cookie is not acknowledged.
        let acks: Vec<_> = wrote(link(&p, 20));
        assert!(acks.iter().all(|m| !matches!(m, Msg::Noop(k) if k.cookie1 == 9)), "{acks:?}");
        assert!((12..=20).all(|n| link(&p, n).closed.is_some()));
        let c = p.machine.counters();
        assert_eq!((c.lazy_stalls, c.drop_no_match, c.err_rx_timeout), (3, 0, 3));
        assert_eq!(p.machine.gauges().held, 0);
    }
}
