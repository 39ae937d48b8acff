//! Two nodes in virtual time: everything that an application can ask for, and that nothing is lost.

use transport::lnd::{Config, Data, LnetError, Payload, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::testing::data::{Spot, filled, lent, parted, run};
use transport::testing::net::{Net, SEC};
use transport::testing::pair::{Pair, config, id, nid};

const MIB: usize = 1 << 20;

fn put(tag: u64, to: u8, bits: u64, payload: Payload, ack: bool) -> Op {
    Spot(26, bits).put_with(tag, 77, id(to), payload, ack)
}

fn attach(tag: u64, bits: u64, mem: MdMem, threshold: Option<u32>) -> Op {
    Spot(26, bits).attach(tag, MdSpec { threshold, ..MdSpec::new(mem) })
}

/// The façade's own words.
#[test]
fn a_pair_pings_puts_and_gets_both_ways() {
    let mut pair = Pair::new();
    for (from, to) in [(0, 1), (1, 0)] {
        assert_eq!(pair.ping(from).unwrap().nis[0].nid, nid(to as u8 + 1));
        // Nothing matches: a PUT that is dropped has no ACK, which its time-out tells.
        assert_eq!(pair.put(from, parted(70_000, 1)), Err(LnetError::TimedOut));
        pair.attach(to, MdMem::Sink(Sink::Lend(MIB as u32)));
        for payload in [Payload::empty(), Payload::inline(&[7; 60]).unwrap(), parted(70_000, 1)] {
            let len = payload.len() as u32;
            assert_eq!(pair.put(from, payload), Ok(len));
            assert!(matches!(&pair.take_events(to)[..], [Event::Put(p)] if p.mlength == len));
        }
        pair.attach(to, MdMem::Source(parted(70_000, 3)));
        assert!(lent(&pair.get(from, 70_000).unwrap()) == filled(70_000, 3).bytes());
        // It is told of when its pages are home, after the REPLY has come.
        pair.drive(to, |e| matches!(e, Event::Get(_)));
        assert!(pair.take_events(to).is_empty());
        assert!(pair.take_events(from).is_empty(), "each event was the façade's");
    }
    pair.run(SEC);
    pair.assert_quiet();
}

#[test]
fn ping_opens_three_connections_and_answers() {
    let mut net = Pair::new();
    net.op(0, Op::Ping { tag: 5, target: id(2) });
    net.run(SEC / 2);
    let [Event::Ping { tag: 5, info: Ok(info), rtt_ns }] = &net.take_events(0)[..] else { panic!() };
    assert_eq!(info.nis[0].nid, nid(2));
    assert!(*rtt_ns > 0);
    for n in 0..2 {
        assert_eq!(net.nodes[n].machine.gauges().conns_up, 3);
    }
    net.assert_quiet();
    // And back, over the connections that are there.
    net.op(1, Op::Ping { tag: 6, target: id(1) });
    net.run(SEC / 2);
    assert!(matches!(&net.take_events(1)[..], [Event::Ping { tag: 6, info: Ok(_), .. }]));
    assert_eq!(net.links(), 3);
}

#[test]
fn bulk_put_is_lent_and_released_once() {
    let mut net = Pair::new();
    net.op(1, attach(9, 0x42, MdMem::Sink(Sink::Lend(MIB as u32)), None));
    net.op(0, Op::Ping { tag: 1, target: id(2) });
    net.run(SEC / 2);
    net.take_events(0);
    assert!(matches!(net.take_events(1)[..], [Event::Attached { tag: 9, .. }]));
    let want = filled(MIB, 3).bytes().to_vec();
    for tag in 0..20 {
        net.op(0, put(tag, 2, 0x42, parted(MIB, 3), true));
    }
    // Peer credits hold 12 of them back.
    assert_eq!(net.nodes[0].machine.gauges().credits_used, 8);
    net.run(SEC);
    let (mut sends, mut acks, mut dones) = (0, 0, 0);
    for e in net.take_events(0) {
        match e {
            Event::Send { status: Ok(()), done, .. } => {
                (sends, dones) = (sends + 1, dones + usize::from(done))
            }
            Event::Ack { status: Ok(()), mlength, done, .. } => {
                assert_eq!(mlength as usize, MIB);
                (acks, dones) = (acks + 1, dones + usize::from(done));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((sends, acks, dones), (20, 20, 20));
    let events = net.take_events(1);
    assert_eq!(events.len(), 20);
    for e in events {
        let Event::Put(p) = e else { panic!() };
        assert_eq!((p.tag, p.rlength as usize, p.mlength as usize, p.hdr_data), (9, MIB, MIB, 77));
        assert_eq!((p.initiator, p.sender, p.unlinked.is_none()), (id(1), nid(1), true));
        assert!(lent(&p.data) == want);
        net.nodes[1].pool.home().drain();
    }
    net.nodes[1].pool.home().drain();
    let (tx, rx) = (*net.nodes[0].machine.counters(), *net.nodes[1].machine.counters());
    assert_eq!((tx.zc_requested, tx.zc_acked, rx.zc_acks_tx), (20, 20, 20));
    assert_eq!(rx.rx_lent_bytes + rx.rx_copied_bytes, 20 * MIB as u64);
    assert_eq!(tx.tx_inline_bytes, 0);
    net.assert_quiet();
}

#[test]
fn copying_sinks_come_back_and_gets_are_answered() {
    let mut net = Pair::new();
    let want = filled(70_000, 9).bytes().to_vec();
    net.op(1, attach(1, 1, MdMem::Sink(Sink::Copy(run(MIB))), Some(1)));
    net.op(1, attach(2, 2, MdMem::Source(parted(70_000, 9)), Some(2)));
    net.op(0, put(10, 2, 1, parted(70_000, 9), false));
    net.op(0, Spot(26, 2).get(11, id(2), Sink::Copy(run(70_000))));
    net.op(0, Spot(26, 2).get(12, id(2), Sink::Lend(70_000)));
    net.run(SEC / 2);
    for e in net.take_events(0) {
        match e {
            Event::Send { tag: 10, status: Ok(()), done: true } => {}
            Event::Reply {
                tag: 11,
                status: Ok(()),
                mlength: 70_000,
                data: Data::InSink,
                sink: Some(run),
            } => {
                assert!(run.bytes() == want);
            }
            Event::Reply { tag: 12, status: Ok(()), mlength: 70_000, data, sink: None } => {
                assert!(lent(&data) == want);
            }
            other => panic!("{other:?}"),
        }
    }
    net.nodes[0].pool.home().drain();
    let mut gets = 0;
    for e in net.take_events(1) {
        match e {
            Event::Attached { .. } => {}
            Event::Put(p) => {
                let run = p.unlinked.flatten().expect("the run comes back with the last event");
                assert!(run.bytes()[..70_000] == want[..]);
            }
            Event::Get(g) => {
                gets += 1;
                assert_eq!((g.status, g.mlength, g.unlinked), (Ok(()), 70_000, gets == 2));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(gets, 2);
    assert_eq!(net.nodes[1].machine.counters().rx_copied_bytes, 70_000);
    assert_eq!(net.nodes[1].machine.gauges().entries, 0);
    net.assert_quiet();
}

#[test]
fn one_byte_at_a_time_is_the_same() {
    for piecemeal in [false, true] {
        let mut net = Pair::new();
        (net.chunk, net.piecemeal) = (1, piecemeal);
        net.op(1, attach(1, 1, MdMem::Sink(Sink::Copy(run(20_000))), None));
        net.op(0, put(10, 2, 1, parted(20_000, 4), true));
        net.op(0, Op::Ping { tag: 11, target: id(2) });
        net.run(SEC / 2);
        let events = net.take_events(0);
        assert!(
            events.iter().any(|e| matches!(e, Event::Ack { tag: 10, status: Ok(()), mlength: 20_000, .. }))
        );
        assert!(events.iter().any(|e| matches!(e, Event::Ping { tag: 11, info: Ok(_), .. })));
        assert!(matches!(net.take_events(1)[1], Event::Put(ref p) if p.mlength == 20_000));
        net.assert_quiet();
    }
}

#[test]
fn matching_rules() {
    let mut net = Pair::new();
    let small = |n: usize| Payload::inline(&vec![7; n]).unwrap();
    // Exact entries FIFO; a full MD is skipped; too long is dropped unless truncated.
    net.op(1, attach(1, 1, MdMem::Sink(Sink::Lend(50)), Some(1)));
    net.op(1, attach(2, 1, MdMem::Sink(Sink::Lend(96)), None));
    let md = MdSpec { truncate: true, ..MdSpec::new(MdMem::Sink(Sink::Lend(10))) };
    net.op(1, Op::Attach { tag: 3, portal: 26, who: id(1), match_bits: 0x100, ignore_bits: 0xff, md });
    let md = MdSpec { manage_remote: false, max_size: Some(40), ..MdSpec::new(MdMem::Sink(Sink::Lend(100))) };
    net.op(1, Spot(26, 5).attach(4, md));
    net.run(SEC / 10);
    net.take_events(1);
    for (tag, bits, len) in [
        (0, 1, 60),
        (1, 1, 20),
        (2, 1, 60),
        (3, 0x1ab, 60),
        (4, 0x2ab, 60),
        (5, 5, 30),
        (6, 5, 40),
        (7, 5, 40),
        (8, 5, 1),
    ] {
        net.op(0, put(tag, 2, bits, small(len), true));
    }
    net.run(SEC);
    let got: Vec<(u64, u32, u32, u32)> = net
        .take_events(1)
        .iter()
        .map(|e| match e {
            Event::Put(p) => (p.tag, p.rlength, p.mlength, p.offset),
            Event::Unlink { .. } => (99, 0, 0, 0),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(got, [(1, 20, 20, 0), (2, 60, 60, 0), (3, 60, 10, 0), (4, 30, 30, 0), (4, 40, 40, 30)]);
    let c = net.nodes[1].machine.counters();
    assert_eq!((c.drop_too_long, c.drop_no_match), (1, 3));
    // A PUT that was dropped never gets an ACK: the initiator waits its time.
    net.run(200 * SEC);
    let late = net
        .take_events(0)
        .iter()
        .filter(|e| matches!(e, Event::Ack { status: Err(LnetError::TimedOut), .. }))
        .count();
    assert_eq!(late, 4);
    net.assert_quiet();
}

#[test]
fn a_busy_run_holds_up_only_who_wants_it() {
    let mut net = Net::new();
    for n in 1..=3 {
        net.add(config(n));
    }
    net.op(2, attach(1, 1, MdMem::Sink(Sink::Copy(run(MIB))), None));
    for n in 0..2 {
        net.op(n, Op::Ping { tag: 0, target: id(3) });
    }
    net.run(SEC / 2);
    for n in 0..2 {
        for tag in 1..=4 {
            net.op(n, put(tag, 3, 1, parted(MIB, 1), true));
        }
        net.op(n, Op::Ping { tag: 9, target: id(3) });
    }
    net.run(SEC);
    for n in 0..2 {
        let events = net.take_events(n);
        assert_eq!(events.iter().filter(|e| matches!(e, Event::Ack { status: Ok(()), .. })).count(), 4);
        assert!(events.iter().any(|e| matches!(e, Event::Ping { tag: 9, info: Ok(_), .. })));
    }
    assert_eq!(net.take_events(2).iter().filter(|e| matches!(e, Event::Put(_))).count(), 8);
    (0..3).for_each(|n| net.assert_at_rest(n));
}

#[test]
fn both_dial_at_once_and_one_set_is_left() {
    let mut net = Pair::new();
    net.op(0, Op::Ping { tag: 1, target: id(2) });
    net.op(1, Op::Ping { tag: 2, target: id(1) });
    net.run(10 * SEC);
    assert!(matches!(net.take_events(0)[..], [Event::Ping { info: Ok(_), .. }]));
    assert!(matches!(net.take_events(1)[..], [Event::Ping { info: Ok(_), .. }]));
    for n in 0..2 {
        // Each took the other's CONTROL beside its own (field report L1); what they both lacked, one of them made.
        assert_eq!(net.nodes[n].machine.gauges().conns_up, 4);
        let c = net.nodes[n].machine.counters();
        assert_eq!((c.races, c.duplicates, c.sets_closed), (0, 1, 0));
    }
    net.assert_quiet();
}

#[test]
fn a_killed_peer_ends_every_message_once() {
    for rst in [true, false] {
        let mut net = Pair::new();
        net.op(1, attach(1, 1, MdMem::Sink(Sink::Discard(MIB as u32)), None));
        net.op(0, Op::Ping { tag: 0, target: id(2) });
        net.run(SEC / 2);
        net.take_events(0);
        for tag in 0..30 {
            net.op(0, put(tag, 2, 1, parted(MIB, 1), tag % 2 == 0));
        }
        net.kill(1, rst);
        net.run(400 * SEC);
        let mut dones: Vec<u64> = net
            .take_events(0)
            .iter()
            .filter_map(|e| match e {
                Event::Send { tag, done: true, .. } | Event::Ack { tag, done: true, .. } => Some(*tag),
                _ => None,
            })
            .collect();
        dones.sort_unstable();
        assert_eq!(dones, (0..30).collect::<Vec<_>>(), "rst {rst}");
        net.assert_at_rest(0);
        // It comes back as another incarnation, and is reached again.
        let again = Config { incarnation: 5, ..config(2) };
        net.restart(1, again);
        net.op(0, Op::Ping { tag: 99, target: id(2) });
        net.run(100 * SEC);
        assert!(matches!(net.take_events(0)[..], [Event::Ping { tag: 99, info: Ok(_), .. }]));
    }
}

#[test]
fn an_absent_peer_is_unreachable_with_back_off() {
    let mut net = Pair::new();
    net.nodes[1].deaf = true;
    net.op(0, Op::Ping { tag: 0, target: id(2) });
    net.run(SEC / 10);
    assert!(matches!(net.take_events(0)[..], [Event::Ping { info: Err(LnetError::Refused), .. }]));
    net.op(0, Op::Ping { tag: 1, target: id(2) });
    assert!(matches!(net.take_events(0)[..], [Event::Ping { info: Err(LnetError::Unreachable), .. }]));
    net.nodes[1].deaf = false;
    net.run(2 * SEC);
    net.op(0, Op::Ping { tag: 2, target: id(2) });
    net.run(SEC);
    assert!(matches!(net.take_events(0)[..], [Event::Ping { info: Ok(_), .. }]));
    assert_eq!(net.nodes[0].machine.counters().dials_failed, 1);
    net.assert_quiet();
}

#[test]
fn attempts_get_rarer_and_are_forgiven() {
    let mut net = Pair::new();
    net.nodes[1].deaf = true;
    for tag in 0..2000 {
        net.op(0, Op::Ping { tag, target: id(2) });
        net.run(SEC / 10);
    }
    assert_eq!(net.take_events(0).len(), 2000);
    // 1, 2, 4, 8, 16, 32, 60 and 60 s.
    let failed = net.nodes[0].machine.counters().dials_failed;
    assert!((7..=9).contains(&failed), "{failed} attempts in 200 s");
    net.run(300 * SEC);
    assert_eq!(net.nodes[0].machine.gauges().peers, 0);
}

#[test]
fn keepalive_when_idle_and_nothing_else() {
    let mut net = Pair::new();
    net.op(0, Op::Ping { tag: 0, target: id(2) });
    net.run(SEC);
    let before = *net.nodes[0].machine.counters();
    net.run(100 * SEC);
    let (a, b) = (*net.nodes[0].machine.counters(), *net.nodes[1].machine.counters());
    assert!(a.keepalives_tx + b.keepalives_tx >= 3);
    assert_eq!((a.msgs_tx, a.sets_closed, a.conns_up), (before.msgs_tx, 0, 3));
    assert_eq!(b.noops_rx, a.keepalives_tx);
    net.assert_quiet();
}

#[test]
fn shutdown_ends_everything_and_says_so() {
    let mut net = Pair::new();
    net.op(0, attach(1, 1, MdMem::Sink(Sink::Copy(run(4096))), None));
    net.op(0, Op::Ping { tag: 0, target: id(2) });
    net.run(SEC / 2);
    net.take_events(0);
    for tag in 10..30 {
        net.op(0, put(tag, 2, 1, parted(MIB, 1), true));
    }
    net.op(0, Op::Shutdown { tag: 7 });
    net.run(SEC);
    let events = net.take_events(0);
    assert_eq!(
        events
            .iter()
            .filter(|e| matches!(e, Event::Send { done: true, .. } | Event::Ack { done: true, .. }))
            .count(),
        20
    );
    assert!(events.iter().any(|e| matches!(e, Event::Unlink { tag: 1, sink: Some(_), .. })));
    assert!(matches!(events.last(), Some(Event::ShutDown { tag: 7 })));
    net.op(0, Op::Ping { tag: 8, target: id(2) });
    assert!(matches!(net.take_events(0)[..], [Event::Refused { tag: 8, .. }]));
    let g = net.nodes[0].machine.gauges();
    assert_eq!((g.conns, g.lends, g.peers, g.ops, g.entries), (0, 0, 0, 0, 0));
    net.run(SEC);
    assert_eq!(net.nodes[1].machine.gauges().conns, 0);
    net.assert_quiet();
}

/// Field report L5: whoever goes down lets handshakes come to their end, those that it began and those that its peer did,
/// and closes with FIN; at whatever moment it goes.
#[test]
fn a_node_that_goes_down_cuts_no_handshake_off() {
    let mut went = [0; 3];
    for (asker, leaver) in [(0, 0), (0, 1), (1, 0)] {
        for step in 0..60 {
            let mut net = Pair::new();
            net.op(asker, Op::Ping { tag: 1, target: id(2 - asker as u8) });
            let from = net.steps;
            let until = net.now + SEC / 100;
            net.run_until(until, |n| n.steps >= from + step);
            if asker != leaver && net.nodes[leaver].machine.gauges().conns == 0 {
                // It knows of nobody yet, and is down at once.
                continue;
            }
            net.op(leaver, Op::Shutdown { tag: 9 });
            let (other, asked_at) = (1 - leaver, net.now);
            // A process that is down is there no more.
            let until = net.now + 3 * SEC;
            net.run_until(until, |n| {
                n.nodes[leaver].events.iter().any(|(_, _, e)| matches!(e, Event::ShutDown { .. }))
            });
            let what = format!("{asker} asks, {leaver} leaves after {step} events");
            assert!(net.now < asked_at + SEC, "{what}");
            net.run(SEC);
            let c = *net.nodes[other].machine.counters();
            assert_eq!((net.resets, c.dials_failed, c.err_eof_inside), (0, 0, 0), "{what}: {c:?}");
            assert_eq!(c.conns_up, net.links() as u64, "{what}: {c:?}");
            let answer = net.take_events(asker).into_iter().find_map(|e| match e {
                Event::Ping { info, .. } => Some(info.map(drop)),
                _ => None,
            });
            assert!(asker == leaver || answer == Some(Ok(())), "{what}: {answer:?}");
            went[net.links().min(3) - 1] += 1;
            net.assert_quiet();
        }
    }
    assert!(went.iter().all(|n| *n > 3), "{went:?} runs with one, two and three connections");
}

/// Field report L5: mute peers, and those that are not there, do not hold it up for more than a second.
#[test]
fn a_node_that_goes_down_does_not_wait_for_the_mute() {
    for (after, longest) in [(0, SEC + SEC / 10), (2 * SEC, SEC / 10)] {
        let mut net = Pair::new();
        let ip = std::net::IpAddr::from([10, 0, 0, 9]);
        net.raw_listen(ip);
        net.op(0, Op::Ping { tag: 1, target: id(9) });
        (net.nodes[1].mute, net.nodes[1].deaf) = (true, true);
        net.op(0, Op::Ping { tag: 2, target: id(2) });
        let silent = net.raw_connect(std::net::SocketAddr::new(ip, 1000), 0);
        net.run(after);
        let at = net.now;
        net.op(0, Op::Shutdown { tag: 9 });
        net.run_until(at + 20 * SEC, |n| n.nodes[0].machine.gauges().conns == 0);
        assert!(net.now <= at + longest, "{} ns", net.now - at);
        assert!(net.wire(silent, 1).1);
        let events = net.take_events(0);
        assert!(matches!(events.last(), Some(Event::ShutDown { tag: 9 })), "{events:?}");
    }
}
