//! Peers that move from one shard of a node to another while they talk to it: at every moment of a conversation, and at
//! random. Each operation ends once, each byte arrives once, everything is home at the end.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use transport::lnd::{Accept, Config, Data, Payload, Shards, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op, PutEvent};
use transport::stream::{Bucket, ShardId};
use transport::testing::data::{Spot, run, seeded, sum, summed};
use transport::testing::net::{Net, SEC};
use transport::testing::pair::id;
use transport::testing::rng::Rng;
use transport::wire::{ConnType, Hello, LnetHdr, ProcessId, Version};

use crate::raw;

/// A PUT whose `hdr_data` is the sum of its bytes.
fn put(tag: u64, target: ProcessId, portal: u32, (payload, sum): (Payload, u64), ack: bool) -> Op {
    Spot(portal, 7).put_with(tag, sum, target, payload, ack)
}

fn bucket(n: u8) -> Bucket {
    Bucket::of(IpAddr::from([10, 0, 0, n]))
}

/// Nodes `0..shards` are the shards of 10.0.0.1, the others peers with one shard each; each attaches a copying sink to
/// portals 1 and 3, a lending one to 2 and 4, a source to 5.
fn net(shards: u16, peers: &[u8], tweak: impl Fn(&mut Config)) -> Net {
    let mut net = Net::new();
    let add = |net: &mut Net, n: u8, shards: Shards| {
        let mut c = Config { shards, ..Config::new(id(n).nid, 100 + u64::from(n)) };
        tweak(&mut c);
        net.add(c)
    };
    for s in 0..shards {
        add(&mut net, 1, Shards::new(s, shards).unwrap());
    }
    let mut first = vec![0];
    first.extend(peers.iter().map(|n| add(&mut net, *n, Shards::SINGLE)));
    for node in first {
        for portal in 1..=4 {
            let sink = if portal % 2 == 1 { Sink::Copy(run(1 << 20)) } else { Sink::Lend(1 << 20) };
            net.op(node, Spot(portal, 7).attach(portal.into(), MdSpec::new(MdMem::Sink(sink))));
        }
        net.op(node, Spot(5, 7).attach(5, MdSpec::new(MdMem::Source(seeded(60_000, 5)))));
    }
    net.run(SEC / 100);
    net
}

fn checked(p: &PutEvent) {
    if let Data::Lent(_) = &p.data {
        assert_eq!(sum(&p.data), p.hdr_data, "{p:?}");
    }
}

/// Numbers of operations that ended, by their last events, and of PUTs and GETs that were served; every status is good.
fn tally(net: &mut Net) -> (Vec<u64>, usize) {
    let (mut tags, mut served) = (Vec::new(), 0);
    for node in 0..net.nodes.len() {
        for e in net.take_events(node) {
            match e {
                Event::Send { tag, status, done } => {
                    assert_eq!(status, Ok(()));
                    tags.extend(done.then_some(tag));
                }
                Event::Ack { tag, status, done, .. } => {
                    assert_eq!(status, Ok(()));
                    tags.extend(done.then_some(tag));
                }
                Event::Reply { tag, status, .. } => {
                    assert_eq!(status, Ok(()));
                    tags.push(tag);
                }
                Event::Ping { tag, info, .. } => {
                    assert!(info.is_ok());
                    tags.push(tag);
                }
                Event::Put(p) => {
                    assert_eq!(p.status, Ok(()));
                    checked(&p);
                    served += 1;
                }
                Event::Get(g) => {
                    assert_eq!(g.status, Ok(()));
                    served += 1;
                }
                Event::Attached { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    tags.sort_unstable();
    (tags, served)
}

/// Both sides speak first, in all ways: the conversation that is moved in.
fn conversation(net: &mut Net, shards: usize) -> (Vec<u64>, usize) {
    let (us, them) = (id(1), id(10));
    net.op(shards, Op::Ping { tag: 1, target: us });
    net.op(0, put(2, them, 1, summed(70_000, 1), true));
    net.op(shards, put(3, us, 1, summed(70_000, 2), true));
    net.op(shards, put(4, us, 1, summed(70_000, 3), false));
    net.op(shards, put(5, us, 2, summed(70_000, 4), true));
    net.op(0, Spot(5, 7).get(6, them, Sink::Lend(60_000)));
    net.op(shards, Spot(5, 7).get(7, us, Sink::Lend(60_000)));
    net.op(0, put(8, them, 2, (Payload::empty(), 0), true));
    net.op(0, Op::Ping { tag: 9, target: them });
    ((1..=9).collect(), 7)
}

#[test]
fn a_peer_may_move_at_every_moment_of_a_conversation() {
    let mut moved_in = std::collections::BTreeSet::new();
    for version in [None, Some(transport::wire::Version::V1)] {
        let mut k = 0;
        loop {
            let mut net = net(2, &[10], |c| (c.version, c.peer_credits) = (version, 3));
            let want = conversation(&mut net, 2);
            let (mut left, end) = (k, net.now + 20 * SEC);
            net.run_until(end, |_| {
                left -= 1;
                left < 0
            });
            let over = left >= 0;
            let from = net.home(0, IpAddr::from([10, 0, 0, 10]));
            let g = net.nodes[from].machine.gauges();
            moved_in.insert((g.conns > g.conns_up, g.lends > 0, g.cookies > 0, g.ops > 0, g.queued > 0));
            assert!(net.move_home(from, bucket(10), ShardId(1 - from as u16)));
            net.run(30 * SEC);
            assert_eq!(tally(&mut net), want, "moved after {k} events");
            net.assert_quiet();
            let total: u64 = (0..2).map(|s| net.nodes[s].machine.counters().homes_adopted).sum();
            assert_eq!((total, net.nodes[from].machine.gauges().peers), (1, 0));
            if over {
                break;
            }
            k += 1;
        }
        assert!(k > 80, "{k} moments");
    }
    // Handshakes, lends, cookies, operations and queues were moved, together and apart.
    assert!(moved_in.len() >= 8, "{moved_in:?}");
}

#[test]
fn a_peer_that_dies_around_a_move_leaves_nothing_behind() {
    for k in (0..260).step_by(3) {
        let mut net = net(2, &[10], |_| {});
        conversation(&mut net, 2);
        let (mut left, end) = (k, net.now + 20 * SEC);
        net.run_until(end, |_| {
            left -= 1;
            left < 0
        });
        let from = net.home(0, IpAddr::from([10, 0, 0, 10]));
        let kill_first = k % 2 == 0;
        if kill_first {
            net.kill(2, k % 4 == 0);
        }
        assert!(net.move_home(from, bucket(10), ShardId(1 - from as u16)));
        net.run(u64::try_from(k).unwrap() * 500);
        if !kill_first {
            net.kill(2, k % 4 == 1);
        }
        net.run(400 * SEC);
        for s in 0..2 {
            let g = net.nodes[s].machine.gauges();
            assert_eq!((g.cookies, g.lends, g.credits_used, g.ops, g.queued), (0, 0, 0, 0, 0), "{k} {s}");
            // A set of two that fell silent before its third stood has nothing to ask with for a sign of life.
            assert!(g.conns == 0 || g.conns_up == 2 && k % 4 >= 2, "{k} {s}: {g:?}");
        }
        // Every operation of ours has ended, well or not.
        let ended = (0..2).flat_map(|s| net.take_events(s)).filter(|e| match e {
            Event::Send { done, .. } | Event::Ack { done, .. } => *done,
            Event::Reply { .. } | Event::Ping { .. } => true,
            _ => false,
        });
        assert_eq!(ended.count(), 4, "moved after {k} events");
    }
}

#[test]
fn back_off_and_dials_move_along() {
    // Nobody listens there: the dial under way, its failure and the back-off belong to the home of the moment.
    let mut net = net(2, &[10], |_| {});
    net.nodes[2].deaf = true;
    let there = IpAddr::from([10, 0, 0, 10]);
    net.op(0, Op::Ping { tag: 1, target: id(10) });
    let from = net.home(0, there);
    assert!(net.move_home(from, bucket(10), ShardId(1 - from as u16)));
    net.run(SEC / 2);
    let ev =
        (0..2).flat_map(|s| net.take_events(s)).filter(|e| matches!(e, Event::Ping { info: Err(_), .. }));
    assert_eq!(ev.count(), 1);
    let now = net.home(0, there);
    assert_eq!(net.nodes[now].machine.counters().dials_failed, 1);
    assert!(net.move_home(now, bucket(10), ShardId(from as u16)));
    net.nodes[2].deaf = false;
    net.op(1, Op::Ping { tag: 2, target: id(10) });
    net.run(SEC / 4);
    let ev =
        (0..2).flat_map(|s| net.take_events(s)).filter(|e| matches!(e, Event::Ping { info: Err(_), .. }));
    assert_eq!(ev.count(), 1, "it backs off still");
    net.run(2 * SEC);
    net.op(1, Op::Ping { tag: 3, target: id(10) });
    net.run(SEC);
    let ev = (0..2).flat_map(|s| net.take_events(s)).filter(|e| matches!(e, Event::Ping { info: Ok(_), .. }));
    assert_eq!(ev.count(), 1);
    net.assert_quiet();
}

/// Peers of 10.0.0.1's first shard, each in a bucket of its own.
fn of_first_shard(net: &Net) -> impl Iterator<Item = u8> + use<> {
    let mut seen = Vec::new();
    let mut of: Vec<u8> = (20..200).filter(|n| net.home(0, IpAddr::from([10, 0, 0, *n])) == 0).collect();
    of.retain(|n| {
        !seen.contains(&bucket(*n)) && {
            seen.push(bucket(*n));
            true
        }
    });
    of.into_iter()
}

/// Sources that lead nowhere share what one host may hold: who waits for that goes on when one of them moves away.
#[test]
fn credits_that_leave_serve_who_waits() {
    let mut net = net(2, &[], |c| c.ni_credits = 4);
    let mut of = of_first_shard(&net);
    let (asker, mute) = (of.next().unwrap(), [of.next().unwrap(), of.next().unwrap(), of.next().unwrap()]);
    mute.iter().for_each(|n| net.raw_listen([10, 0, 0, *n].into()));
    let link = net.raw_connect(SocketAddr::new([10, 0, 0, asker].into(), 1000), 0);
    let hello = Hello { src_nid: id(asker).nid, ..raw::hello(Version::V3, ConnType::Control) };
    net.raw_send(link, &raw::start(&hello));
    net.run(SEC / 100);
    for n in mute {
        let hdr = LnetHdr { src_nid: id(n).nid, ..raw::ping_get(0) };
        net.raw_send(link, &raw::message(Version::V3, &hdr, 0));
        net.run(SEC / 100);
    }
    let g = net.nodes[0].machine.gauges();
    assert_eq!((net.links(), g.credits_used), (3, 2), "the third waits for credits: {g:?}");
    assert!(net.move_home(0, bucket(mute[0]), ShardId(1)));
    net.run(SEC / 100);
    let g = net.nodes[0].machine.gauges();
    assert_eq!((net.links(), g.credits_used), (4, 2), "and is dialled: {g:?}");
}

/// A shard that goes down waits for handshakes, those that come to it from another shard too.
#[test]
fn a_handshake_that_comes_to_a_shard_on_its_way_down_is_answered() {
    let mut net = net(2, &[], |_| {});
    let of_second = (20..200).find(|n| net.home(0, IpAddr::from([10, 0, 0, *n])) == 1).unwrap();
    let of_first = of_first_shard(&net).next().unwrap();
    let links = [(of_first, 0), (of_second, 1)].map(|(n, node)| {
        let link = net.raw_connect(SocketAddr::new([10, 0, 0, n].into(), 1000), node);
        net.raw_send(link, &raw::request(id(1).nid));
        link
    });
    net.run(SEC / 1000);
    net.op(1, Op::Shutdown { tag: 1 });
    assert!(net.move_home(0, bucket(of_first), ShardId(1)));
    for (link, n) in links.into_iter().zip([of_first, of_second]) {
        let hello = Hello { src_nid: id(n).nid, ..raw::hello(Version::V3, ConnType::Control) };
        net.raw_send(link, &hello.emit());
    }
    net.run(SEC / 100);
    for link in links {
        assert!(Hello::parse(net.wire(link, 1).0).is_ok(), "{link} was answered");
        assert!(!net.raw_ended(link).1);
    }
    // Nobody closes; then it is down all the same.
    net.run(5 * SEC);
    assert!(net.take_events(1).iter().any(|e| matches!(e, Event::ShutDown { tag: 1 })));
}

#[test]
fn a_peer_that_claims_another_ones_nid_stays_where_it_is() {
    let mut net = net(2, &[10], |c| c.accept = Accept::Trust);
    // A second node at another address that says it is 10.0.0.10.
    let other = (11..200).find(|n| bucket(*n) != bucket(10)).unwrap();
    let mut liar = Config::new(id(other).nid, 999);
    liar.accept = Accept::Trust;
    let liar = net.add(liar);
    net.op(liar, Op::Ping { tag: 1, target: id(1) });
    net.run(SEC);
    let home = net.home(0, IpAddr::from([10, 0, 0, other]));
    assert!(net.nodes[home].machine.may_migrate(bucket(other)), "an honest one may go");
    assert!(!net.nodes[1 - home].machine.may_migrate(bucket(other)), "from its home alone");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn random_traffic_with_random_moves(
        shards in 2u16..5,
        steps in prop::collection::vec((0u8..8, 0u8..4, 0u16..4, 1u64..120_000), 20..80),
        credits in 1u32..5,
        piecemeal: bool,
        shares: bool,
    ) {
        let peers = [10u8, 11, 12, 13];
        let n = usize::from(shards);
        let mut net = net(shards, &peers, |c| (c.peer_credits, c.offload_from) = (credits, 3000));
        net.piecemeal = piecemeal;
        // Copy jobs come back to wherever the home is by then.
        net.box_time = Some((Rng(u64::from(credits)), SEC / 10));
        net.nodes.iter_mut().for_each(|n| n.machine.offload(shares));
        let (mut want, mut served) = (Vec::new(), 0);
        for (tag, (what, peer, to, wait)) in steps.into_iter().enumerate() {
            let (tag, p, at) = (tag as u64, usize::from(peer), usize::from(to) % n);
            let (them, us, node) = (id(peers[p]), id(1), n + p);
            let size = (wait as usize * 7) % 150_000;
            let portal = 1 + u32::from(to) % 4;
            if what >= 6 {
                let from = net.home(0, IpAddr::from([10, 0, 0, peers[p]]));
                let to = ShardId(to % shards);
                prop_assert_eq!(net.move_home(from, bucket(peers[p]), to), from != usize::from(to.0));
            } else {
                want.push(tag);
                served += usize::from(what != 5);
                match what {
                    0 => net.op(at, put(tag, them, portal, summed(size, peer.into()), true)),
                    1 => net.op(node, put(tag, us, portal, summed(size, peer.into()), true)),
                    2 => net.op(at, put(tag, them, portal, summed(size, peer.into()), false)),
                    3 => net.op(at, Spot(5, 7).get(tag, them, Sink::Lend(60_000))),
                    4 => net.op(node, Spot(5, 7).get(tag, us, Sink::Lend(60_000))),
                    _ => net.op(at, Op::Ping { tag, target: them }),
                }
            }
            net.run(wait);
        }
        net.run(60 * SEC);
        prop_assert_eq!(tally(&mut net), (want, served));
        net.assert_quiet();
    }
}
