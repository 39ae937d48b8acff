//! Fault rules at work (docs/protocol/upper.md §6): what they drop, fail and delay, and that nothing stays behind.

use transport::lnd::{Config, LnetError, Payload, Sink};
use transport::lnet::faults::{Fault, FaultAsk, FaultRate, FaultRule, FaultView, NidPattern};
use transport::lnet::{Event, MdMem, Op};
use transport::node::Input;
use transport::testing::data::{bytes, pages};
use transport::testing::net::{Net, SEC};
use transport::testing::pair::{AT, Pair, config, discovering, id, nid};
use transport::testing::rng::Rng;

use crate::routing::{self, World, a, b, put};

const ACK: u8 = 1;
const PUT: u8 = 2;
const GET: u8 = 4;
const REPLY: u8 = 8;

fn rule(messages: u8, fault: Fault) -> FaultRule {
    let all = NidPattern::Net(nid(9));
    FaultRule { source: all, dest: all, rate: FaultRate::OneIn(1), portals: 0, messages, fault }
}

/// A rule for all such messages, from whomever to whomever; bit n of `portals` is portal n's, and no bit is all of them.
pub(crate) fn for_all(portals: u64, messages: u8, fault: Fault) -> FaultRule {
    let any = NidPattern::Any;
    FaultRule { source: any, dest: any, portals, ..rule(messages, fault) }
}

/// A rule that lets no push of discovery through: a PUT to portal 0.
pub(crate) fn no_pushes() -> FaultRule {
    for_all(1, PUT, Fault::Drop)
}

fn add(pair: &mut Pair, node: usize, rule: FaultRule) {
    let now = pair.now;
    assert_eq!(pair.nodes[node].machine.fault(now, FaultAsk::Add(rule)), Ok(1));
}

fn del(pair: &mut Pair, node: usize, delay: bool) {
    let now = pair.now;
    let all = FaultAsk::Delete { delay, source: None, dest: None };
    assert_eq!(pair.nodes[node].machine.fault(now, all), Ok(1));
}

/// Does what is asked; as a runtime does, the deadline is asked for.
fn ask(net: &mut Net, node: usize, ask: FaultAsk) -> usize {
    let n = net.nodes[node].machine.fault(net.now, ask).unwrap();
    net.input(node, Input::Timer);
    n
}

/// The ways of deleting a delay rule.
fn deletions(rule: FaultRule) -> [FaultAsk; 3] {
    let del = |source, dest| FaultAsk::Delete { delay: true, source, dest };
    [del(None, None), del(None, Some(rule.dest)), FaultAsk::Remove(rule)]
}

fn view(pair: &Pair, node: usize) -> FaultView {
    pair.nodes[node].machine.fault_rules().next().unwrap()
}

/// Two nodes that know each other; the second has a sink.
fn pair() -> Pair {
    let short = |n| Config { transaction_timeout: 20 * SEC, ..config(n) };
    let mut pair = Pair::of(short(1), short(2));
    pair.attach(1, MdMem::Sink(Sink::Lend(1 << 20)));
    pair.ping(0).unwrap();
    // The whole set is up.
    pair.run(SEC);
    pair
}

fn quiet(mut pair: Pair) {
    pair.run(SEC);
    (0..2).for_each(|n| drop(pair.take_events(n)));
    pair.run(SEC);
    pair.assert_quiet();
}

/// A rule for GETs where they are sent counts nothing; one for REPLYs where they come has the ping fail.
#[test]
fn a_drop_rule_works_on_what_is_received() {
    let mut pair = pair();
    add(&mut pair, 0, rule(GET, Fault::Drop));
    pair.ping(0).unwrap();
    assert_eq!((view(&pair, 0).met, view(&pair, 0).hit), (0, 0));
    del(&mut pair, 0, false);
    add(&mut pair, 0, rule(REPLY, Fault::Drop));
    let before = *pair.nodes[0].machine.counters();
    assert_eq!(pair.ping(0), Err(LnetError::TimedOut));
    let (c, v) = (*pair.nodes[0].machine.counters(), view(&pair, 0));
    assert_eq!((v.met, v.hit, v.by_type), (1, 1, [0, 0, 0, 1]));
    assert_eq!((c.drop_fault - before.drop_fault, c.rx_dropped_bytes - before.rx_dropped_bytes), (1, 48));
    del(&mut pair, 0, false);
    pair.ping(0).unwrap();
    quiet(pair);
}

/// Payload that is dropped is read, and its zero-copy cookie acknowledged: the sender's pages come home, and no ACK comes.
#[test]
fn what_is_dropped_is_drained_and_its_cookie_acknowledged() {
    let mut pair = pair();
    add(&mut pair, 1, rule(PUT, Fault::Drop));
    for len in [0, 100, 5000, 1 << 20] {
        assert_eq!(pair.put(0, pages(len)), Err(LnetError::TimedOut), "{len}");
    }
    let zc = pair.nodes[0].machine.counters();
    assert!(zc.zc_requested > 0 && zc.zc_requested == zc.zc_acked, "{zc:?}");
    assert_eq!(zc.sets_closed, 0);
    assert!(!pair.take_events(1).iter().any(|e| matches!(e, Event::Put(_))));
    del(&mut pair, 1, false);
    assert_eq!(pair.put(0, pages(5000)), Ok(5000));
    // And the ACK, where the initiator drops that.
    add(&mut pair, 0, rule(ACK, Fault::Drop));
    assert_eq!(pair.put(0, pages(5000)), Err(LnetError::TimedOut));
    quiet(pair);
}

#[test]
fn with_a_health_error_what_is_sent_fails_at_once() {
    let mut pair = pair();
    for (bit, why) in [(3, LnetError::Unreachable), (5, LnetError::TimedOut), (7, LnetError::ConnLost)] {
        add(&mut pair, 0, rule(GET | PUT, Fault::Fail(1 << bit)));
        let (before, sent) = (pair.now, pair.nodes[0].machine.counters().msgs_tx);
        assert_eq!((pair.ping(0), pair.put(0, pages(100_000))), (Err(why), Err(why)));
        assert_eq!(pair.now, before, "nothing was waited for");
        assert_eq!(pair.nodes[0].machine.counters().msgs_tx, sent, "nothing left");
        assert_eq!((view(&pair, 0).hit, view(&pair, 0).by_type), (2, [0, 1, 1, 0]));
        del(&mut pair, 0, false);
    }
    // It is not asked about what comes, and an answer that fails costs nobody else.
    add(&mut pair, 1, rule(ACK | REPLY | PUT, Fault::Fail(1)));
    assert_eq!(pair.put(0, pages(100)), Err(LnetError::TimedOut));
    assert_eq!(pair.ping(0), Err(LnetError::TimedOut));
    assert_eq!(view(&pair, 1).by_type, [1, 0, 0, 1]);
    quiet(pair);
}

#[test]
fn what_is_sent_late_is_passed_by_others() {
    let mut pair = pair();
    add(&mut pair, 0, rule(GET, Fault::Delay(2 * SEC)));
    let before = pair.now;
    pair.op(0, Op::Ping { tag: 1, target: id(2) });
    pair.run(SEC);
    assert_eq!(pair.put(0, pages(100)), Ok(100));
    assert!(pair.now - before < 2 * SEC, "a PUT does not wait");
    let Event::Ping { rtt_ns, info: Ok(_), .. } = pair.drive(0, |e| matches!(e, Event::Ping { tag: 1, .. }))
    else {
        panic!("no answer")
    };
    assert!((2 * SEC..2 * SEC + SEC / 10).contains(&rtt_ns), "{rtt_ns}");
    assert_eq!(pair.nodes[0].machine.counters().fault_delays, 1);
    quiet(pair);
}

/// A message that is received late holds up those behind it on its connection, and no other; it is judged once.
#[test]
fn what_is_received_late_holds_up_its_connection() {
    let mut pair = pair();
    add(&mut pair, 1, FaultRule { rate: FaultRate::OneIn(1), ..rule(PUT, Fault::Delay(3 * SEC)) });
    let before = pair.now;
    pair.op(0, AT.put(1, id(2), pages(100_000), true));
    pair.run(SEC);
    assert!(pair.ping(0).is_ok() && pair.now - before < 2 * SEC, "CONTROL goes on");
    pair.op(0, AT.put(2, id(2), pages(100_000), true));
    let acked = |tag| move |e: &Event| matches!(e, Event::Ack { tag: t, status: Ok(()), .. } if *t == tag);
    pair.drive(0, acked(1));
    assert!((3 * SEC..4 * SEC).contains(&(pair.now - before)));
    pair.drive(0, acked(2));
    assert!((6 * SEC..7 * SEC).contains(&(pair.now - before)), "{}", pair.now - before);
    assert_eq!((view(&pair, 1).met, view(&pair, 1).hit), (2, 2));
    quiet(pair);
}

/// A node that goes down, and a peer that dies, while messages are delayed.
#[test]
fn delayed_messages_end_with_the_node_and_with_the_peer() {
    let mut pair = pair();
    add(&mut pair, 0, rule(PUT, Fault::Delay(100 * SEC)));
    pair.op(0, AT.put(1, id(2), pages(5000), false));
    pair.op(0, Op::Shutdown { tag: 2 });
    pair.run(5 * SEC);
    let events = pair.take_events(0);
    assert!(
        matches!(
            events[..],
            [Event::Send { tag: 1, status: Err(LnetError::ShuttingDown), .. }, Event::ShutDown { tag: 2 }]
        ),
        "{events:?}"
    );
    let mut pair = self::pair();
    add(&mut pair, 0, rule(PUT, Fault::Delay(100 * SEC)));
    add(&mut pair, 1, rule(GET, Fault::Delay(100 * SEC)));
    pair.op(0, AT.put(1, id(2), pages(5000), false));
    pair.op(0, Op::Ping { tag: 3, target: id(2) });
    pair.run(SEC);
    pair.kill(1, true);
    let end = pair.drive(0, |e| matches!(e, Event::Send { .. }));
    assert!(matches!(end, Event::Send { tag: 1, status: Err(_), .. }), "{end:?}");
    pair.run(60 * SEC);
    assert_eq!(pair.nodes[0].machine.gauges().ops, 0);
    pair.assert_at_rest(0);
}

/// Whatever deletes a rule lets the messages go that it delays, at once and in their order, and none of another rule.
#[test]
fn a_deleted_rule_lets_its_messages_go() {
    let short = FaultRule { dest: NidPattern::Any, ..rule(GET, Fault::Delay(5 * SEC)) };
    let long = rule(PUT, Fault::Delay(1000 * SEC));
    // At the node that sends them, and at the one that receives them.
    for (node, way) in [0, 1].into_iter().flat_map(|n| deletions(long).map(|d| (n, d))) {
        let mut pair = pair();
        add(&mut pair, node, long);
        for tag in 1..=3 {
            pair.op(0, AT.put(tag, id(2), pages(100_000), true));
        }
        pair.run(SEC);
        assert_eq!(ask(&mut pair, node, FaultAsk::Add(short)), 1);
        let began = pair.now;
        pair.op(0, Op::Ping { tag: 9, target: id(2) });
        pair.run(SEC);
        assert!(pair.take_events(0).is_empty() && pair.take_events(1).is_empty());
        let both = way == deletions(long)[0];
        assert_eq!(ask(&mut pair, node, way), 1 + usize::from(both), "{way:?}");
        pair.run(SEC / 10);
        let came = pair.take_events(1).iter().filter(|e| matches!(e, Event::Put(_))).count();
        assert_eq!(came, 3, "{way:?}");
        let ended = pair.take_events(0);
        let acks: Vec<u64> = ended
            .iter()
            .filter_map(|e| match e {
                Event::Ack { tag, status: Ok(()), .. } => Some(*tag),
                _ => None,
            })
            .collect();
        assert_eq!(acks, [1, 2, 3], "{way:?} {ended:?}");
        let ping = |e: &Event| matches!(e, Event::Ping { info: Ok(_), .. });
        assert_eq!(ended.iter().any(ping), both, "{way:?} {ended:?}");
        if !both {
            pair.drive(0, ping);
            assert!(pair.now - began >= 5 * SEC, "its rule is there");
        }
        quiet(pair);
    }
}

/// A router's rule, on each of its shards: what it held goes on to the next hop, and what comes behind it.
#[test]
fn a_router_passes_on_what_a_deleted_rule_held() {
    for (shards, way) in [1, 2].into_iter().flat_map(|n| deletions(router_rule()).map(|d| (n, d))) {
        let mut w = World::on(&routing::config(), shards);
        for shard in 0..w.shards {
            assert_eq!(ask(&mut w.net, shard, FaultAsk::Add(router_rule())), 1);
        }
        w.say(a(2), b(3), put(1), bytes(100_000, 1));
        w.say(a(2), b(3), put(2), bytes(5000, 2));
        w.run(SEC);
        assert!(w.heard().is_empty());
        for shard in 0..w.shards {
            assert_eq!(ask(&mut w.net, shard, way), 1);
        }
        w.run(SEC / 10);
        assert_eq!(w.heard().len(), 2, "{shards} {way:?}");
        w.say(b(3), a(2), put(3), bytes(100_000, 3));
        w.run(SEC / 10);
        assert_eq!(w.heard().len(), 1);
        w.at_rest();
    }
}

fn router_rule() -> FaultRule {
    for_all(0, PUT, Fault::Delay(1000 * SEC))
}

/// A connection, a peer and a node that have gone while their messages were delayed: their end is no other's, and comes once.
#[test]
fn a_deleted_rule_finds_peers_gone() {
    let late = rule(PUT, Fault::Delay(1000 * SEC));
    for way in deletions(late) {
        // The sender of what was received.
        let mut pair = self::pair();
        add(&mut pair, 1, late);
        pair.op(0, AT.put(1, id(2), pages(100_000), true));
        pair.run(SEC);
        pair.kill(0, true);
        pair.run(SEC);
        assert_eq!(ask(&mut pair, 1, way), 1);
        pair.run(60 * SEC);
        assert!(!pair.take_events(1).iter().any(|e| matches!(e, Event::Put(_))));
        pair.assert_at_rest(1);
        // The one to whom it was to be sent.
        let mut pair = self::pair();
        add(&mut pair, 0, late);
        pair.op(0, AT.put(1, id(2), pages(5000), false));
        pair.run(SEC);
        pair.kill(1, true);
        pair.run(SEC);
        assert_eq!(ask(&mut pair, 0, way), 1);
        pair.run(60 * SEC);
        let ended = pair.take_events(0);
        assert!(matches!(ended[..], [Event::Send { tag: 1, status: Err(_), done: true }]), "{ended:?}");
        pair.assert_at_rest(0);
    }
    // A node that holds what it received goes down, and so does what still comes.
    let mut pair = self::pair();
    add(&mut pair, 1, late);
    pair.op(0, AT.put(1, id(2), pages(5000), false));
    pair.run(SEC);
    pair.op(1, Op::Shutdown { tag: 2 });
    pair.op(0, AT.put(3, id(2), pages(5000), false));
    pair.run(5 * SEC);
    let events = pair.take_events(1);
    assert!(matches!(events.last(), Some(Event::ShutDown { tag: 2 })), "{events:?}");
    assert!(!events.iter().any(|e| matches!(e, Event::Put(_))), "{events:?}");
    assert_eq!(pair.nodes[1].machine.gauges().queued, 0);
}

/// Random rules on both sides, with discovery and without: each operation ends once, and nothing stays.
#[test]
fn random_rules_leave_nothing_behind() {
    for seed in 0..40 {
        let mut rng = Rng(seed);
        let of = |n| if seed % 2 == 0 { discovering(n) } else { config(n) };
        let short = |n| Config { transaction_timeout: 20 * SEC, ..of(n) };
        let mut pair = Pair::of(short(1), short(2));
        pair.attach(1, MdMem::Sink(Sink::Lend(1 << 20)));
        pair.attach(0, MdMem::Sink(Sink::Lend(1 << 20)));
        for _ in 0..4 {
            let fault = [Fault::Drop, Fault::Fail(0x3ff), Fault::Delay(rng.below(5 * SEC) + 1)];
            let rate = [FaultRate::OneIn(1 + rng.below(5) as u32), FaultRate::Every(1 + rng.below(3) as u32)];
            let fault = rng.pick(&fault);
            let r = FaultRule { rate: rng.pick(&rate), ..rule(rng.below(16) as u8, fault) };
            let node = rng.below(2) as usize;
            add(&mut pair, node, r);
        }
        let mut ops = 0;
        for tag in 1..=60 {
            let from = rng.below(2) as usize;
            let target = id(2 - from as u8);
            let len = rng.pick(&[0, 100, 5000, 100_000]);
            match rng.below(3) {
                0 => pair.op(from, Op::Ping { tag, target }),
                1 => pair.op(from, AT.put(tag, target, pages(len), rng.chance(50))),
                _ => pair.op(from, AT.put(tag, target, Payload::empty(), true)),
            }
            ops += 1;
            let pause = rng.below(SEC / 2);
            pair.run(pause);
        }
        pair.run(200 * SEC);
        let mut ended = 0;
        for n in 0..2 {
            ended += pair
                .take_events(n)
                .iter()
                .filter(|e| {
                    matches!(
                        e,
                        Event::Ping { .. } | Event::Send { done: true, .. } | Event::Ack { done: true, .. }
                    )
                })
                .count();
        }
        assert_eq!(ended, ops, "seed {seed}");
        for n in 0..2 {
            for delay in [false, true] {
                let now = pair.now;
                let _ =
                    pair.nodes[n].machine.fault(now, FaultAsk::Delete { delay, source: None, dest: None });
            }
        }
        pair.run(SEC);
        pair.assert_quiet();
    }
}
