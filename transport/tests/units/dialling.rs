//! Dials again, their number and times, to a peer that says NONE or does not answer (docs/protocol/socklnd.md §2.7, §3,
//! §4).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::clock::Clock;
use transport::lnd::{Config, LnetError};
use transport::lnet::{Event, Op};
use transport::node::sock::{SockConfig, SockStreams};
use transport::node::{Inspect, Streams};
use transport::socklnd::{Contact, DialWhy};
use transport::stream::{DialError, DialId, DialSpec, Happened};
use transport::testing::net::{Net, SEC};
use transport::testing::pair::{Pair, config, nid};
use transport::wire::{AcceptorReq, ByteOrder, ConnType, Hello, ProcessId, Version};

use crate::raw;

/// Between two attempts, in ns.
const APART: u64 = 15 * SEC;

/// Types in the order in which node 0 asked for them.
fn asked(net: &Net) -> Vec<ConnType> {
    (0..net.links())
        .filter_map(|l| {
            let b = net.wire(l, 0).0;
            let (_, n) = AcceptorReq::parse(b).ok()?;
            Some(Hello::parse(&b[n..]).ok()?.0.ctype)
        })
        .collect()
}

#[test]
fn a_peer_that_says_none_three_times_is_left_with_what_is_open() {
    use ConnType::{BulkIn, BulkOut, Control};
    let two = Config { conns_per_peer: 2, min_reconnect: APART, ..config(1) };
    let mut net = Pair::of(two, Config { max_conns_per_type: 1, ..config(2) });
    assert_eq!(raw::pinged(&mut net, 0, 2, SEC / 2), Some(Ok(())));
    assert_eq!(asked(&net), [Control, BulkIn, BulkOut, BulkIn]);
    net.run(APART);
    assert_eq!(asked(&net)[3..], [BulkIn; 2], "once more");
    net.run(APART);
    // The third NONE ends this type and no other (LU-17258).
    assert_eq!(asked(&net)[3..], [BulkIn, BulkIn, BulkIn, BulkOut], "and again");
    net.run(2 * APART);
    assert_eq!(asked(&net)[3..], [BulkIn, BulkIn, BulkIn, BulkOut, BulkOut, BulkOut], "three times each");
    for _ in 0..10 {
        assert_eq!(raw::pinged(&mut net, 0, 2, SEC / 2), Some(Ok(())));
        net.run(APART);
    }
    assert_eq!((asked(&net).len(), net.nodes[0].machine.gauges().conns_up), (9, 3), "then no more");
    // The open connection closes: it is a new peer now, and bears all of them.
    net.kill(1, true);
    net.run(SEC);
    net.restart(1, Config { incarnation: 5, ..config(2) });
    net.run(2 * APART);
    assert_eq!(raw::pinged(&mut net, 0, 2, SEC / 2), Some(Ok(())));
    assert_eq!(net.nodes[0].machine.gauges().conns_up, 5);
}

#[test]
fn with_nothing_open_the_third_none_is_a_failure() {
    let slow = Config { min_reconnect: APART, ..config(1) };
    let mut net = Pair::of(slow, Config { max_conns_per_type: 0, ..config(2) });
    assert_eq!(raw::pinged(&mut net, 0, 2, SEC / 2), None, "it waits");
    net.run(APART);
    assert_eq!((net.links(), raw::ping_end(&mut net, 0)), (2, None));
    net.run(APART);
    assert_eq!((net.links(), raw::ping_end(&mut net, 0)), (3, Some(Err(LnetError::Unreachable))));
    // It is not dialled for the shortest interval, then three times more.
    assert_eq!((raw::pinged(&mut net, 0, 2, SEC / 2), net.links()), (Some(Err(LnetError::Unreachable)), 3));
    net.run(APART);
    raw::pinged(&mut net, 0, 2, SEC / 2);
    net.run(3 * APART);
    assert_eq!((net.links(), net.nodes[0].machine.counters().dials_failed), (6, 2));
}

#[test]
fn the_time_between_two_attempts_is_min_reconnectms() {
    let slow = Config { min_reconnect: APART, ..config(1) };
    let mut net = Pair::of(slow, Config { max_conns_per_type: 0, ..config(2) });
    raw::pinged(&mut net, 0, 2, SEC / 2);
    for n in 2..=3 {
        net.run(APART - SEC);
        assert_eq!(net.links(), n - 1);
        net.run(SEC);
        assert_eq!(net.links(), n);
    }
}

/// An answer with another incarnation closes the set first, and counts as the first attempt of the next one: the third NONE
/// had a dial begun that was given up in the same breath.
#[test]
fn another_incarnation_at_the_third_attempt_dials_nobody_at_once() {
    let mut net = Net::new();
    net.add(Config { min_reconnect: APART, ..config(1) });
    net.raw_listen([10, 0, 0, 2].into());
    raw::pinged(&mut net, 0, 2, SEC / 2);
    let says = |net: &mut Net, link: usize, change: fn(&mut Hello)| {
        let mut h = raw::answer(&raw::dialled(net, link));
        change(&mut h);
        net.raw_send(link, &h.emit());
        net.run(SEC / 2);
    };
    says(&mut net, 0, |_| {});
    assert_eq!(raw::dialled(&net, 1).ctype, ConnType::BulkIn);
    for link in 1..3 {
        says(&mut net, link, |h| h.ctype = ConnType::None);
        net.run(APART);
    }
    assert_eq!((net.links(), raw::dialled(&net, 3).ctype), (4, ConnType::BulkIn));
    says(&mut net, 3, |h| h.src_incarnation += 1);
    assert_eq!(net.links(), 4);
    assert_eq!(net.nodes[0].machine.gauges().conns_up, 0, "that set was another node's");
    // Somebody wants it still.
    net.op(0, Op::Ping { tag: 2, target: ProcessId::lustre(nid(2)) });
    net.run(APART);
    assert_eq!((net.links(), raw::dialled(&net, 4).ctype), (5, ConnType::Control));
}

/// The kernel went on for two minutes with a dial that the protocol had given up after 50 s.
#[test]
fn a_dial_that_is_over_leaves_no_socket() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 44, 0, 4], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let remote = listener.local_addr().unwrap().as_socket().unwrap();
    // Once its queue is full the kernel drops SYNs.
    let full: Vec<_> = (0..4)
        .map(|_| {
            let s = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            s.set_nonblocking(true).unwrap();
            let _ = s.connect(&remote.into());
            s
        })
        .collect();
    let now = Arc::new(AtomicU64::new(SEC));
    let clock = Clock::virtual_time(now.clone());
    let mut rt = SockStreams::new(SockConfig::default(), clock).unwrap();
    let until = 51 * SEC;
    let (id, local_ip) = (DialId(7), [127, 44, 0, 5].into());
    rt.dial(&DialSpec { id, remote, local_ip, privileged: false, until });
    let mut turn = |at: u64| {
        now.store(at, Ordering::Relaxed);
        let mut told = Vec::new();
        rt.turn(rt.now(), &mut |i| match i {
            Happened::DialFailed(d, why) => told.push((d, why)),
            Happened::Opened(..) => panic!("its queue was full"),
            _ => {}
        });
        (told, rt.counters().conns)
    };
    assert_eq!(turn(until - 1), (vec![], 1));
    assert_eq!(turn(until), (vec![(id, DialError::TimedOut)], 0));
    assert_eq!(turn(until + SEC), (vec![], 0));
    drop(full);
}

#[test]
fn who_has_been_dialled_does_not_dial() {
    for higher in [false, true] {
        // Either way round: node 1 has the other's connections before it has anything to say.
        let (a, b) = if higher { (config(2), config(1)) } else { (config(1), config(2)) };
        let target = ProcessId::lustre(a.nid());
        let mut net = Pair::of(a, b);
        let to = ProcessId::lustre(net.nodes[1].machine.config().nid());
        net.op(0, Op::Ping { tag: 1, target: to });
        net.run(SEC / 2);
        net.op(1, Op::Ping { tag: 2, target });
        net.run(5 * SEC);
        assert!(net.take_events(1).iter().any(|e| matches!(e, Event::Ping { info: Ok(_), .. })));
        assert_eq!((net.links(), net.nodes[1].machine.counters().races), (3, 0));
    }
}

/// Field report 17: what a dial came to can be asked for, until one succeeds; and how far one has come that lasts.
#[test]
fn what_a_dial_came_to_is_remembered() {
    let hello = |ctype| Hello {
        version: Version::V3,
        order: ByteOrder::Little,
        tcp_magic: false,
        src_nid: nid(2),
        dst_nid: nid(1),
        src_pid: 12345,
        dst_pid: 0,
        src_incarnation: 7,
        dst_incarnation: 0,
        ctype,
        ips: Default::default(),
    };
    let brief = |net: &Net| net.nodes[0].machine.brief(ProcessId::lustre(nid(2))).unwrap();
    let refusal = [&0xACCE_7100u32.to_le_bytes()[..], &1u32.to_le_bytes(), &[0; 48]].concat();
    let stranger = Hello { src_nid: nid(3), ..hello(ConnType::Control) };
    for (says, fin, why) in [
        (Some(hello(ConnType::None).emit().to_vec()), false, DialWhy::None),
        (Some(refusal), false, DialWhy::Refused),
        (Some(b"HTTP/1.1 400 Bad Request".repeat(4)), false, DialWhy::Malformed),
        (Some(stranger.emit().to_vec()), false, DialWhy::Malformed),
        (None, true, DialWhy::Closed),
        (None, false, DialWhy::Silent),
    ] {
        let mut net = Net::new();
        net.add(config(1));
        net.raw_listen([10, 0, 0, 2].into());
        raw::pinged(&mut net, 0, 2, SEC / 2);
        assert_eq!((brief(&net).contact, brief(&net).why), (Contact::Shaking, None));
        says.iter().for_each(|b| net.raw_send(0, b));
        if fin {
            net.raw_fin(0);
        }
        net.run(if why == DialWhy::Silent { 60 * SEC } else { SEC / 2 });
        assert_eq!((brief(&net).conns, brief(&net).why), (0, Some(why)), "{why:?}");
    }
    let mut net = Pair::of(config(1), config(2));
    (net.nodes[1].mute, net.nodes[1].deaf) = (true, true);
    raw::pinged(&mut net, 0, 2, SEC / 2);
    assert_eq!(brief(&net).contact, Contact::Connecting);
    net.run(30 * SEC);
    assert_eq!(brief(&net).why, Some(DialWhy::Tcp(DialError::TimedOut)));
    (net.nodes[1].mute, net.nodes[1].deaf) = (false, true);
    net.run(60 * SEC);
    raw::pinged(&mut net, 0, 2, SEC / 2);
    assert_eq!(
        (brief(&net).contact, brief(&net).why),
        (Contact::Waiting, Some(DialWhy::Tcp(DialError::Refused)))
    );
    net.nodes[1].deaf = false;
    net.run(60 * SEC);
    assert_eq!(raw::pinged(&mut net, 0, 2, SEC / 2), Some(Ok(())));
    assert_eq!((brief(&net).conns, brief(&net).why), (3, None));
}
