//! Peers by hand: used as a user says, whatever nodes say of themselves (docs/protocol/upper.md §2).

use std::ops::Range;

use transport::lnd::{Config, Payload, PeerByHand, PeerError, Shards, Sink};
use transport::lnet::by_hand::PeerAsk;
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::node::Input;
use transport::testing::data::{Spot, bytes};
use transport::testing::net::{Net, SEC};
use transport::wire::{Nid, ProcessId};

const AT: Spot = Spot(7, 3);
const A: [&str; 2] = ["10.0.0.11@tcp", "10.1.0.11@tcp1"];
const B: [&str; 2] = ["10.0.0.12@tcp", "10.1.0.12@tcp1"];

fn nid(s: &str) -> Nid {
    s.parse().unwrap()
}

fn peer(s: &str) -> PeerByHand {
    s.parse().unwrap()
}

fn del(primary: &str, nids: &[&str]) -> PeerAsk {
    PeerAsk::Del { primary: nid(primary), nids: nids.iter().map(|n| nid(n)).collect() }
}

fn config(nids: [&str; 2], epoch: u64, discovery: bool) -> Config {
    Config { discovery, ..Config::new(nid(nids[0]), epoch).also(nid(nids[1])) }
}

/// A node of so many shards that has these peers by hand, and another one behind it.
fn nodes(by_hand: &[&str], shards: u16, discovery: bool) -> Net {
    let mut net = Net::new();
    let peers: Vec<PeerByHand> = by_hand.iter().map(|p| peer(p)).collect();
    for me in 0..shards {
        let shards = Shards::new(me, shards).unwrap();
        net.add(Config { shards, peers: peers.clone(), ..config(A, 100, discovery) });
    }
    net.add(config(B, 200, discovery));
    let b = usize::from(shards);
    net.op(b, AT.attach(1, MdSpec { threshold: None, ..MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20))) }));
    net.run(SEC / 100);
    net.take_events(b);
    net
}

/// A peer that has never answered is gone as soon as it is deleted and nothing is under way to it, however long its back-off.
#[test]
fn a_deleted_peer_that_never_answered_is_not_kept() {
    const GONE: &str = "10.0.0.77@tcp";
    for (shards, silent) in [(1, false), (1, true), (2, false), (2, true)] {
        let mut net = nodes(&["10.0.0.77@tcp,10.1.0.77@tcp1"], shards, true);
        if silent {
            net.mute([10, 0, 0, 77].into());
            net.mute([10, 1, 0, 77].into());
        }
        let held = |net: &Net| -> usize {
            (0..usize::from(shards)).map(|n| net.nodes[n].machine.gauges().peers).sum()
        };
        net.op(0, Op::Ping { tag: 7, target: ProcessId::lustre(nid(GONE)) });
        net.run(5 * SEC);
        assert!(held(&net) > 0, "{shards} {silent}");
        assert_eq!(ask(&mut net, shards, &del(GONE, &[])), Ok(()));
        net.run(SEC / 100);
        // An operation that is out ends as it does.
        assert_eq!(held(&net) > 0, silent, "{shards} {silent}");
        if silent {
            net.run(160 * SEC);
            assert_eq!(held(&net), 0, "{shards} {silent}");
        }
    }
}

/// Gives the order to all shards: all take it, or none.
fn ask(net: &mut Net, shards: u16, order: &PeerAsk) -> Result<(), PeerError> {
    let mut said = Vec::new();
    for n in 0..usize::from(shards) {
        said.push(net.nodes[n].machine.peer_by_hand(net.now, order));
        // As a runtime does: the deadline is asked for.
        net.input(n, Input::Timer);
    }
    assert!(said.iter().all(|s| *s == said[0]), "{said:?}");
    said[0]
}

/// Sends so many PUTs to `to`; gives the NIDs that they came to, in order of their tags.
fn puts(net: &mut Net, shards: u16, to: &str, tags: Range<u64>) -> Vec<Nid> {
    let b = usize::from(shards);
    for tag in tags.clone() {
        let target = ProcessId::lustre(nid(to));
        net.op(0, AT.put(tag, target, Payload::copy_of(&bytes(64, tag)).unwrap(), true));
        net.run(SEC);
    }
    let mut ends = 0;
    for n in 0..b {
        for e in net.take_events(n) {
            if let Event::Ack { status, done: true, .. } | Event::Send { status, done: true, .. } = e {
                assert_eq!(status, Ok(()));
                ends += 1;
            }
        }
    }
    assert_eq!(ends, tags.clone().count());
    let mut all: Vec<_> = net
        .take_events(b)
        .into_iter()
        .filter_map(|e| match e {
            Event::Put(p) => Some((p.hdr_data, p.dest)),
            _ => None,
        })
        .collect();
    all.sort();
    all.into_iter().map(|p| p.1).collect()
}

fn primaries(net: &Net, shards: u16, of: &str) -> Nid {
    let all: Vec<Nid> = (0..usize::from(shards)).map(|n| net.nodes[n].machine.primary(nid(of))).collect();
    assert!(all.iter().all(|n| *n == all[0]), "{all:?}");
    all[0]
}

/// Without discovery nobody else could tell: both NIDs take turns at once, from the configuration's beginning or from an order on.
#[test]
fn several_nids_take_turns_before_anybody_has_told_of_them() {
    for shards in [1u16, 3] {
        for discovery in [false, true] {
            for at_start in [false, true] {
                let text = format!("{},{}", B[1], B[0]);
                let by_hand = [&*text];
                let mut net = nodes(if at_start { &by_hand } else { &[] }, shards, discovery);
                if !at_start {
                    assert_eq!(ask(&mut net, shards, &PeerAsk::Add(peer(&text))), Ok(()));
                }
                // The user's order holds, though the node itself names the other one first.
                assert_eq!(primaries(&net, shards, B[0]), nid(B[1]));
                let came = puts(&mut net, shards, B[1], 0..4);
                assert!(came.windows(2).all(|w| w[0] != w[1]), "{came:?}");
                assert_eq!(primaries(&net, shards, B[0]), nid(B[1]));
            }
        }
    }
}

/// What a node says of itself does not join what the user has apart, and takes no NID of a peer by hand.
#[test]
fn nothing_that_nodes_say_changes_a_peer_by_hand() {
    for shards in [1u16, 3] {
        for text in ["10.0.0.12@tcp non-mr", "10.0.0.12@tcp"] {
            let mut net = nodes(&[text], shards, true);
            let came = puts(&mut net, shards, B[0], 0..4);
            assert_eq!(came, [nid(B[0]); 4], "{text}");
            assert_eq!(
                (primaries(&net, shards, B[0]), primaries(&net, shards, B[1])),
                (nid(B[0]), nid(B[1]))
            );
        }
        // One of its NIDs is another's by hand.
        let mut net = nodes(&["10.9.9.9@tcp,10.1.0.12@tcp1"], shards, true);
        let came = puts(&mut net, shards, B[0], 0..4);
        assert_eq!(came, [nid(B[0]); 4]);
        assert_eq!(primaries(&net, shards, B[1]), nid("10.9.9.9@tcp"));
    }
}

/// One that is deleted is what its node says of itself again: connected as it is, it is asked at once.
#[test]
fn a_peer_that_is_deleted_is_discovered_again() {
    for shards in [1u16, 3] {
        let mut net = nodes(&[B[0]], shards, true);
        assert_eq!(puts(&mut net, shards, B[0], 0..4), [nid(B[0]); 4]);
        assert_eq!(ask(&mut net, shards, &del(B[0], &[])), Ok(()));
        net.run(SEC);
        assert_eq!(primaries(&net, shards, B[1]), nid(B[0]));
        let came = puts(&mut net, shards, B[0], 4..8);
        assert!(came[0] != came[1], "{came:?}");
        assert_eq!(net.nodes[0].machine.by_hand().count(), 0);
        // The same of one that discovery has told of.
        assert_eq!(
            ask(&mut net, shards, &del(B[1], &[])),
            Err(PeerError::Primary { nid: nid(B[1]), primary: nid(B[0]) })
        );
        assert_eq!(ask(&mut net, shards, &del(B[0], &[])), Ok(()));
        net.run(SEC);
        assert_eq!(primaries(&net, shards, B[1]), nid(B[0]));
    }
}

/// Orders while messages are on their way: each of those ends well.
#[test]
fn messages_of_a_peer_that_is_deleted_end_in_order() {
    let mut net = nodes(&[], 1, true);
    puts(&mut net, 1, B[0], 0..1);
    let target = ProcessId::lustre(nid(B[0]));
    for tag in 1..9 {
        let order = match tag % 2 {
            1 => PeerAsk::Add(peer(&B.join(","))),
            _ => del(B[0], &[]),
        };
        net.op(0, AT.put(tag, target, Payload::copy_of(&bytes(100_000, tag)).unwrap(), true));
        assert_eq!(ask(&mut net, 1, &order), Ok(()), "{tag}");
    }
    net.run(10 * SEC);
    let mut tags: Vec<u64> = net
        .take_events(0)
        .into_iter()
        .filter_map(|e| match e {
            Event::Ack { tag, status, done: true, .. } | Event::Send { tag, status, done: true } => {
                assert_eq!(status, Ok(()), "{tag}");
                Some(tag)
            }
            _ => None,
        })
        .collect();
    tags.sort_unstable();
    assert_eq!(tags, (1..9).collect::<Vec<_>>());
}

#[test]
fn orders_that_cannot_be_change_nothing() {
    let mut net = nodes(&["10.0.0.2@tcp,10.0.0.3@tcp"], 2, true);
    let add = |s: &str| PeerAsk::Add(peer(s));
    let first = nid("10.0.0.2@tcp");
    let before: Vec<_> = net.nodes[1].machine.by_hand().collect();
    for (order, e) in [
        (add("10.0.0.2@tcp"), PeerError::There(first)),
        (add("10.0.0.2@tcp,10.0.0.3@tcp"), PeerError::Has { nid: nid("10.0.0.3@tcp"), primary: first }),
        (add("10.0.0.3@tcp"), PeerError::Taken { nid: nid("10.0.0.3@tcp"), primary: first }),
        (add("10.0.0.4@tcp,10.0.0.3@tcp"), PeerError::Taken { nid: nid("10.0.0.3@tcp"), primary: first }),
        (add("10.0.0.4@tcp,10.0.0.11@tcp"), PeerError::Own(nid(A[0]))),
        (del("10.0.0.3@tcp", &[]), PeerError::Primary { nid: nid("10.0.0.3@tcp"), primary: first }),
        (
            del("10.0.0.2@tcp", &["10.0.0.9@tcp"]),
            PeerError::NotOf { nid: nid("10.0.0.9@tcp"), primary: first },
        ),
    ] {
        assert_eq!(ask(&mut net, 2, &order), Err(e));
    }
    assert_eq!(net.nodes[1].machine.by_hand().collect::<Vec<_>>(), before);
    // More NIDs, and fewer.
    assert_eq!(ask(&mut net, 2, &add("10.0.0.2@tcp,10.0.0.4@tcp")), Ok(()));
    assert_eq!(primaries(&net, 2, "10.0.0.4@tcp"), first);
    assert_eq!(ask(&mut net, 2, &del("10.0.0.2@tcp", &["10.0.0.3@tcp"])), Ok(()));
    assert_eq!(primaries(&net, 2, "10.0.0.3@tcp"), nid("10.0.0.3@tcp"));
    assert_eq!(net.nodes[0].machine.by_hand().count(), 2);
}
