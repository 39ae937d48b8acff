//! A node that talks to itself: in memory for its own operations (docs/protocol/lnet.md §9), over a connection for
//! whoever dials it with its own NID (docs/protocol/socklnd.md §2.6).

use std::net::SocketAddr;

use transport::lnd::{Config, LnetError, Payload, Shards, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op, OpRefused};
use transport::testing::data::{self, Spot, bytes, lent, parted};
use transport::testing::net::{Net, SEC};
use transport::testing::pair::{id, nid};
use transport::wire::{ConnType, Hello, KsockType, LnetBody, LnetHdr, Nid, ProcessId, Version, WireHandle};

use crate::raw;

fn net(shards: u16) -> Net {
    let mut net = Net::new();
    for me in 0..shards {
        let mut cfg = Config::new(nid(1), 7);
        cfg.shards = Shards::new(me, shards).unwrap();
        net.add(cfg);
    }
    net
}

fn attach(net: &mut Net, portal: u32, md: MdSpec) {
    net.op(0, Spot(portal, 3).attach(99, md));
    // The portal may be another shard's.
    net.run(SEC);
}

fn at_rest(net: &Net) {
    for (i, n) in net.nodes.iter().enumerate() {
        let g = n.machine.gauges();
        assert_eq!((g.conns, g.peers, g.lends, g.credits_used, g.ops, g.queued), (0, 0, 0, 0, 0, 0), "{i}");
    }
    assert_eq!(net.links(), 0, "nothing of it is on a connection");
}

#[test]
fn puts_gets_and_pings_of_ourselves_need_no_connection() {
    for (shards, to) in [(1, nid(1)), (1, Nid::LO), (3, nid(1))] {
        let mut net = net(shards);
        for (portal, mem) in [(4, MdMem::Sink(Sink::Lend(1 << 20))), (5, MdMem::Source(parted(300_000, 0)))] {
            attach(&mut net, portal, MdSpec::new(mem));
        }
        let all = |net: &mut Net| (0..shards).flat_map(|n| net.take_events(n.into())).collect::<Vec<_>>();
        all(&mut net);

        net.op(0, Spot(4, 3).put(1, ProcessId::lustre(to), parted(200_000, 0), true));
        net.run(SEC);
        let events = all(&mut net);
        let [Event::Put(p), Event::Send { tag: 1, status: Ok(()), done: false }, acked] = &events[..] else {
            panic!("{events:?}")
        };
        assert!(matches!(acked, Event::Ack { tag: 1, status: Ok(()), mlength: 200_000, done: true }));
        assert_eq!((p.initiator, p.hdr_data, p.mlength), (id(1), 1, 200_000));
        assert_eq!(lent(&p.data), bytes(200_000, 0));

        net.op(0, Spot(4, 3).put(2, ProcessId::lustre(to), Payload::inline(b"abc").unwrap(), false));
        net.run(SEC);
        let events = all(&mut net);
        assert!(matches!(&events[..], [Event::Put(p), Event::Send { tag: 2, status: Ok(()), done: true }]
            if lent(&p.data) == b"abc"));

        let run = data::run(100_000);
        net.op(0, Spot(5, 3).get(3, id(1), Sink::Copy(run)));
        net.run(SEC);
        let events = all(&mut net);
        let reply = events.iter().find(|e| matches!(e, Event::Reply { .. })).unwrap();
        let Event::Reply { tag: 3, status: Ok(()), mlength: 100_000, sink: Some(run), .. } = reply else {
            panic!("{reply:?}")
        };
        assert_eq!(run.bytes(), &bytes(300_000, 0)[..100_000]);
        assert!(events.iter().any(|e| matches!(e, Event::Get(g) if g.mlength == 100_000)));

        net.op(0, Op::Ping { tag: 4, target: ProcessId::lustre(to) });
        let events = all(&mut net);
        assert!(matches!(&events[..], [Event::Ping { tag: 4, info: Ok(i), .. }] if i.nis[0].nid == nid(1)));
        at_rest(&net);
    }
}

#[test]
fn the_rules_of_matching_are_the_same() {
    let mut net = net(1);
    let run = data::run(1000);
    let md = MdSpec { threshold: Some(1), truncate: true, ..MdSpec::new(MdMem::Sink(Sink::Copy(run))) };
    attach(&mut net, 4, md);
    net.take_events(0);
    net.op(0, Spot(4, 3).put(1, id(1), parted(5000, 0), true));
    let events = net.take_events(0);
    let Event::Put(p) = &events[0] else { panic!("{events:?}") };
    assert_eq!((p.rlength, p.mlength), (5000, 1000));
    assert_eq!(p.unlinked.as_ref().unwrap().as_ref().unwrap().bytes(), &bytes(5000, 0)[..1000]);
    assert!(matches!(events[2], Event::Ack { mlength: 1000, done: true, .. }));

    // Nothing matches any more: it has left, and no ACK comes.
    net.op(0, Spot(4, 3).put(2, id(1), parted(5000, 0), true));
    net.op(0, Spot(9, 3).get(3, id(1), Sink::Lend(100)));
    net.op(0, Spot(4, 3).put(4, id(1), parted(500, 0), false));
    let events = net.take_events(0);
    assert!(
        matches!(
            &events[..],
            [Event::Send { tag: 2, done: false, .. }, Event::Send { tag: 4, status: Ok(()), done: true }]
        ),
        "{events:?}"
    );
    net.run(200 * SEC);
    let events = net.take_events(0);
    assert!(
        matches!(
            &events[..],
            [
                Event::Ack { tag: 2, status: Err(LnetError::TimedOut), done: true, .. },
                Event::Reply { tag: 3, status: Err(LnetError::TimedOut), .. }
            ]
        ),
        "{events:?}"
    );
    assert_eq!(net.nodes[0].machine.counters().drop_no_match, 3);
    at_rest(&net);
}

/// As that of a reply from 0@lo is: what is sent to 0@lo comes from the node's own NID.
#[test]
fn an_entry_for_lo_is_for_ourselves() {
    let mut net = net(1);
    let (lo, bits) = (ProcessId::lustre(Nid::LO), 3);
    let md = MdSpec::new(MdMem::Sink(Sink::Lend(100)));
    net.op(0, Op::Attach { tag: 99, portal: 4, who: lo, match_bits: bits, ignore_bits: 0, md });
    net.take_events(0);
    net.op(0, Spot(4, bits).put(1, lo, Payload::inline(b"abc").unwrap(), false));
    let events = net.take_events(0);
    assert!(
        matches!(&events[..], [Event::Put(p), Event::Send { tag: 1, .. }] if p.initiator == id(1)),
        "{events:?}"
    );
}

/// A connection of ourselves to ourselves, and what comes on it behind the HELLO.
fn dialled(net: &mut Net, port: u16, ctype: ConnType, rest: &[u8]) -> usize {
    let hello = Hello { src_nid: nid(1), src_incarnation: 7, ..raw::hello(Version::V3, ctype) };
    let link = net.raw_connect(SocketAddr::new([10, 0, 0, 1].into(), port), 0);
    net.raw_send(link, &[&raw::start(&hello), rest].concat());
    net.run(SEC / 10);
    link
}

/// A message to ourselves with `len` bytes to follow.
fn message(body: LnetBody, len: u32) -> Vec<u8> {
    let h = LnetHdr { src_nid: nid(1), ..raw::header(body, len) };
    [raw::ksock(KsockType::Lnet, 0, 0, 0), h.emit_as(Version::V3).to_vec()].concat()
}

fn put(len: u32, portal: u32) -> Vec<u8> {
    message(LnetBody::Put { ack: WireHandle::NONE, match_bits: 3, hdr_data: 0, portal, offset: 0 }, len)
}

#[test]
fn a_node_may_be_dialled_with_its_own_nid() {
    let mut net = net(1);
    attach(&mut net, 4, MdSpec::new(MdMem::Sink(Sink::Lend(1000))));
    let mut port = 1023;
    // Both ends of each connection are ours, so there are two of each type and more.
    for ctype in [ConnType::Control, ConnType::BulkIn, ConnType::BulkOut].repeat(2) {
        let link = dialled(&mut net, port, ctype, &[]);
        let (wrote, closed) = net.wire(link, 1);
        let (answer, _) = Hello::parse(wrote).unwrap();
        assert_eq!((answer.src_nid, answer.ctype, closed), (nid(1), ctype.invert(), false));
        port -= 1;
    }
    assert_eq!(net.nodes[0].machine.gauges().conns_up, 6);

    // An entry whose only run is filled by a message that trickles in holds back our own as it does others.
    let run = data::run(1000);
    attach(&mut net, 6, MdSpec::new(MdMem::Sink(Sink::Copy(run))));
    let slow = dialled(&mut net, port, ConnType::Control, &[put(1000, 6), vec![1; 400]].concat());
    net.take_events(0);
    net.op(0, Spot(6, 3).put(8, id(1), parted(900, 0), true));
    net.op(0, Spot(6, 3).put(9, id(1), parted(800, 0), false));
    assert!(net.take_events(0).is_empty());
    assert_eq!(net.nodes[0].machine.gauges().queued, 2);
    net.raw_send(slow, &[2; 600]);
    net.run(SEC / 10);
    let events = net.take_events(0);
    let lengths: Vec<u32> =
        events.iter().filter_map(|e| if let Event::Put(p) = e { Some(p.mlength) } else { None }).collect();
    assert_eq!(lengths, [1000, 900, 800]);
    assert!(events.iter().any(|e| matches!(e, Event::Ack { tag: 8, status: Ok(()), done: true, .. })));
    assert!(events.iter().any(|e| matches!(e, Event::Send { tag: 9, status: Ok(()), done: true })));
}

/// Whoever claims our own NID, asks and leaves without reading is not dialled for its answers: we would dial ourselves, and
/// keep that set for good.
#[test]
fn who_claims_our_nid_and_leaves_is_not_dialled() {
    for reset in [false, true] {
        let mut net = net(1);
        net.raw_acks = false;
        attach(&mut net, 6, MdSpec::new(MdMem::Source(parted(100_000, 0))));
        let gets: Vec<u8> = (0..20)
            .flat_map(|object| {
                let handle = WireHandle { interface: 5, object };
                let (match_bits, portal, src_offset) = (3, 6, 0);
                message(LnetBody::Get { handle, match_bits, portal, src_offset, sink_length: 100_000 }, 0)
            })
            .collect();
        let link = dialled(&mut net, 1023, ConnType::Control, &gets);
        let g = net.nodes[0].machine.gauges();
        assert!(g.conns == 1 && g.queued > 0, "{g:?}");
        if reset {
            net.raw_reset(link)
        } else {
            net.raw_fin(link)
        }
        net.run(200 * SEC);
        let g = net.nodes[0].machine.gauges();
        assert_eq!((g.conns, g.queued, g.lends, g.credits_used), (0, 0, 0, 0), "{g:?}");
        assert_eq!(net.nodes[0].machine.counters().conns_up, 1, "nobody was dialled");
    }
}

#[test]
fn what_waits_for_a_sink_is_bounded_and_ends_with_the_node() {
    let mut net = Net::new();
    net.add(Config { max_queued: 2, ..Config::new(nid(1), 7) });
    let run = data::run(1000);
    attach(&mut net, 6, MdSpec::new(MdMem::Sink(Sink::Copy(run))));
    dialled(&mut net, 1023, ConnType::Control, &[put(1000, 6), vec![1; 400]].concat());
    net.take_events(0);
    for tag in 1..=3 {
        net.op(0, Spot(6, 3).put(tag, id(1), parted(900, 0), tag == 2));
    }
    let events = net.take_events(0);
    assert!(matches!(events[..], [Event::Refused { tag: 3, why: OpRefused::QueueFull(2) }]), "{events:?}");
    net.op(0, Op::Shutdown { tag: 50 });
    net.run(SEC);
    let events = net.take_events(0);
    let ended = |t: u64| {
        let failed = |e: &&Event| matches!(e, Event::Send { tag, status: Err(LnetError::ShuttingDown), done: true } if *tag == t);
        events.iter().filter(failed).count()
    };
    assert_eq!((ended(1), ended(2)), (1, 1), "{events:?}");
    assert!(matches!(events.last(), Some(Event::ShutDown { tag: 50 })), "{events:?}");
}

/// docs/protocol/selftest.md, STAT: the kernel counts messages over 0@lo, both ways.
#[test]
fn messages_to_ourselves_are_counted_both_ways() {
    for shards in [1, 3] {
        let mut net = net(shards);
        attach(&mut net, 4, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20))));
        attach(&mut net, 5, MdSpec::new(MdMem::Source(parted(1000, 0))));
        let counts = |net: &mut Net| {
            let mut sum = [0; 6];
            for shard in 0..shards {
                net.op(0, Op::Counts { tag: 1, shard });
            }
            net.run(SEC);
            for ev in (0..shards).flat_map(|n| net.take_events(n.into())) {
                if let Event::Counts { counts: c, .. } = ev {
                    let all =
                        [c.sent, c.received, c.dropped, c.sent_bytes, c.received_bytes, c.dropped_bytes];
                    sum = std::array::from_fn(|i| sum[i] + all[i]);
                }
            }
            sum
        };
        for (op, want) in [
            (Spot(4, 3).put(1, id(1), parted(3000, 0), true), [2, 2, 0, 3000, 3000, 0]),
            (Spot(4, 3).put(1, id(1), parted(300, 0), false), [1, 1, 0, 300, 300, 0]),
            (Spot(5, 3).get(1, ProcessId::lustre(Nid::LO), Sink::Lend(500)), [2, 2, 0, 500, 500, 0]),
            (Op::Ping { tag: 1, target: ProcessId::lustre(Nid::LO) }, [2, 2, 0, 48, 48, 0]),
            (Spot(9, 3).put(1, id(1), parted(300, 0), true), [1, 1, 1, 300, 300, 300]),
            (Spot(9, 3).get(1, id(1), Sink::Lend(500)), [1, 1, 1, 0, 0, 0]),
        ] {
            let before = counts(&mut net);
            let name = format!("{op:?}");
            net.op(0, op);
            let after = counts(&mut net);
            assert_eq!(std::array::from_fn(|i| after[i] - before[i]), want, "{name}");
        }
    }
}

/// Messages of a node to itself leave room in each turn for others: so much is done for one input, the rest with the next timer, which is
/// due at once, and none overtakes another.
#[test]
fn messages_to_ourselves_keep_no_peer_waiting() {
    // Of two shards the operations come by mail.
    for (shards, len) in [(1, 1 << 20), (1, 160), (2, 1 << 20)] {
        let mut net = net(shards);
        let owner = usize::from(4 % shards);
        attach(&mut net, 4, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20))));
        (0..shards).for_each(|n| drop(net.take_events(n.into())));
        let n = 1000;
        for tag in 0..n {
            net.op(0, Spot(4, 3).put(tag, id(1), parted(len, 0), false));
        }
        let (mut heard, mut turns, mut done) = (Vec::new(), 0, 0);
        while heard.len() < 2 * n as usize {
            if net.nodes[owner].machine.gauges().queued > 0 {
                assert_eq!(net.nodes[owner].machine.deadline(), Some(0));
            }
            net.run_until(net.now + SEC, |net| net.nodes[owner].machine.counters().own_msgs > done);
            let now = net.nodes[owner].machine.counters().own_msgs;
            let most = 1 + (256 << 10) / (len as u64 + 1024);
            assert!(now - done <= most, "{} of {len} B in one turn", now - done);
            done = now;
            (0..shards).for_each(|n| heard.extend(net.take_events(n.into())));
            turns += 1;
            assert!(turns <= 2 * n, "it goes on");
        }
        let tag = |e: &Event| if let Event::Send { tag, .. } = e { Some(*tag) } else { None };
        assert_eq!(heard.iter().filter_map(tag).collect::<Vec<_>>(), (0..n).collect::<Vec<_>>());
        assert_eq!(net.nodes[owner].machine.gauges().queued, 0);
    }
}

/// A lazy portal that gets its entry has as much to do with each held message as if it came then.
#[test]
fn what_a_lazy_portal_held_is_done_in_turns() {
    let mut net = net(1);
    net.op(0, Op::Lazy { tag: 0, portal: 6, on: true });
    for tag in 0..20 {
        net.op(0, Spot(6, 3).put(tag, id(1), parted(1 << 20, 0), false));
    }
    assert_eq!(net.nodes[0].machine.gauges().queued, 20);
    net.op(0, Spot(6, 3).attach(99, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20)))));
    let done = net.nodes[0].machine.counters().own_msgs;
    assert!(done <= 1, "{done} of them in one turn");
    net.op(0, Spot(6, 3).put(20, id(1), Payload::inline(b"last").unwrap(), false));
    net.run(SEC);
    let events = net.take_events(0);
    let order: Vec<u64> = events
        .iter()
        .filter_map(|e| if let Event::Send { tag, .. } = e { Some(*tag) } else { None })
        .collect();
    assert_eq!(order, (0..=20).collect::<Vec<_>>());
    // A message that waits for its turn when the node goes down is failed once, and what was granted to it goes back.
    net.op(0, Op::Lazy { tag: 0, portal: 7, on: true });
    for tag in 0..20 {
        net.op(0, Spot(7, 3).put(tag, id(1), parted(1 << 20, 0), false));
    }
    net.op(0, Spot(7, 3).attach(98, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20)))));
    net.op(0, Op::Shutdown { tag: 50 });
    net.run(SEC);
    let events = net.take_events(0);
    let sent = events.iter().filter(|e| matches!(e, Event::Send { .. })).count();
    assert_eq!(sent, 20, "{events:?}");
    assert!(matches!(events.last(), Some(Event::ShutDown { tag: 50 })), "{events:?}");
}

/// A peer that says it is this node gets answers that others ask for in that name (lnet.md §5), and none of our own
/// operations.
#[test]
fn an_answer_to_who_claims_our_nid_turns_no_operation_to_them() {
    let mut net = net(1);
    let liar = Hello { src_nid: nid(1), dst_nid: nid(1), ..raw::hello(Version::V3, ConnType::Control) };
    let link = net.raw_connect(SocketAddr::new([10, 0, 0, 77].into(), 700), 0);
    net.raw_send(link, &raw::start(&liar));
    let other = net.raw_connect(raw::at(700), 0);
    net.raw_send(other, &raw::start(&raw::hello(Version::V3, ConnType::Control)));
    net.run(SEC / 10);
    assert_eq!(net.nodes[0].machine.gauges().conns_up, 2);
    let ping = LnetHdr { src_nid: nid(1), ..raw::ping_get(0) };
    net.raw_send(other, &raw::message(Version::V3, &ping, 0));
    net.run(SEC / 10);
    let before = net.wire(link, 1).0.len();
    let md = MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20)));
    attach(&mut net, 4, md);
    net.take_events(0);
    net.op(0, Spot(4, 3).put(3, id(1), Payload::inline(b"ours").unwrap(), false));
    let events = net.take_events(0);
    assert!(matches!(events[..], [Event::Put(_), Event::Send { tag: 3, status: Ok(()), .. }]), "{events:?}");
    net.run(SEC / 10);
    assert_eq!(net.wire(link, 1).0.len(), before, "nothing of it went to them");
}
