//! Peers of several NIDs that go and come back, as they were or as others: they are asked again, and told again (docs/protocol/lnet.md
//! §6.3, docs/protocol/upper.md §2).

use std::ops::Range;

use transport::lnd::{Config, LnetError, Payload, PeerByHand, Shards, Sink};
use transport::lnet::faults::FaultAsk;
use transport::lnet::{Event, MdMem, MdSpec};
use transport::testing::data::{Spot, bytes};
use transport::testing::net::{Cut, Net, SEC};
use transport::wire::{Nid, ProcessId};

use crate::faults::no_pushes;
use crate::routed::{CLIENT, R1, SERVER, World, config as config_of, put};

const AT: Spot = Spot(7, 3);
const A: [&str; 2] = ["10.0.0.11@tcp", "10.1.0.11@tcp1"];
const B: [&str; 2] = ["10.0.0.12@tcp", "10.1.0.12@tcp1"];
/// A third rail of either.
const A_MORE: &str = "10.2.0.11@tcp2";
const B_MORE: &str = "10.1.0.32@tcp1";

fn nid(s: &str) -> Nid {
    s.parse().unwrap()
}

fn nids(all: &[&str]) -> Vec<Nid> {
    all.iter().map(|s| nid(s)).collect()
}

fn config(nids: &[&str], epoch: u64) -> Config {
    let [first, rest @ ..] = nids else { panic!() };
    rest.iter().fold(Config::new(nid(first), epoch), |c, n| c.also(nid(n)))
}

/// Our node of so many shards, and behind it a peer of one.
struct Two {
    net: Net,
    shards: u16,
    tag: u64,
}

impl Two {
    fn new(shards: u16, change: impl Fn(&mut Config)) -> Two {
        let mut net = Net::new();
        for me in 0..shards {
            let mut cfg = Config { shards: Shards::new(me, shards).unwrap(), ..config(&A, 100) };
            change(&mut cfg);
            net.add(cfg);
        }
        net.add(config(&B, 200));
        let mut two = Two { net, shards, tag: 0 };
        two.attach();
        two
    }

    fn peer(&self) -> usize {
        usize::from(self.shards)
    }

    fn ours(&self) -> Range<usize> {
        0..self.peer()
    }

    fn attach(&mut self) {
        let peer = self.peer();
        self.net.op(peer, AT.attach(1, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20)))));
        self.net.run(SEC / 100);
        self.net.take_events(peer);
    }

    /// The peer's process ends, and begins again with these NIDs.
    fn restarts(&mut self, with: &[&str], rst: bool) {
        let peer = self.peer();
        self.net.kill(peer, rst);
        self.net.run(SEC);
        self.net.restart(peer, Config { first_object: 1 << 20, ..config(with, 300) });
        self.attach();
    }

    /// One PUT from each shard; gives how they end.
    fn puts(&mut self, to: &str) -> Vec<Result<(), LnetError>> {
        for node in self.ours() {
            self.tag += 1;
            let put = AT.put(
                self.tag,
                ProcessId::lustre(nid(to)),
                Payload::copy_of(&bytes(64, self.tag)).unwrap(),
                true,
            );
            self.net.op(node, put);
        }
        self.net.run(5 * SEC);
        let ends = self.ours().flat_map(|n| self.net.take_events(n)).filter_map(|e| match e {
            Event::Ack { status, done: true, .. } | Event::Send { status, done: true, .. } => Some(status),
            _ => None,
        });
        ends.collect()
    }

    /// PUTs from all shards until all of them arrive: what is on streams that are dead is lost, where nobody has said that they are.
    fn until_all_arrive(&mut self, to: &str) {
        for _ in 0..100 {
            let ends = self.puts(to);
            if ends.len() == self.peer() && ends.iter().all(Result::is_ok) {
                return;
            }
        }
        panic!("nothing arrives at {to}");
    }

    /// Both of the peer's rails carry something, without a failure.
    fn both_are_used(&mut self) {
        let peer = self.peer();
        self.net.take_events(peer);
        for _ in 0..4 {
            assert!(self.puts(B[0]).iter().all(Result::is_ok));
        }
        let came: std::collections::BTreeSet<Nid> = self.came().into_iter().collect();
        assert_eq!(came.len(), 2, "{came:?}");
    }

    fn came(&mut self) -> Vec<Nid> {
        let peer = self.peer();
        let dest = |e| if let Event::Put(p) = e { Some(p.dest) } else { None };
        self.net.take_events(peer).into_iter().filter_map(dest).collect()
    }

    /// NIDs of the other that a node has, on all its shards, as its peer.
    fn known(&self, nodes: Range<usize>, by: &str) -> Vec<Nid> {
        let of = |n: usize| {
            let mut all = self.net.nodes[n].machine.nids_of(nid(by));
            all.sort();
            all
        };
        let first = of(nodes.start);
        assert!(nodes.clone().all(|n| of(n) == first), "{:?}", nodes.map(of).collect::<Vec<_>>());
        first
    }

    /// Questions to peers so far.
    fn asked(&self) -> u64 {
        self.ours().map(|n| self.net.nodes[n].machine.counters().discoveries).sum()
    }

    /// A peer of ours takes part in discovery, as our node shows it.
    fn shown_as_multi_rail(&self) -> bool {
        let mut features = 0;
        for n in self.ours() {
            self.net.nodes[n].machine.peer_figures(0, usize::MAX / 2, &mut |f| features |= f.features);
        }
        features & transport::wire::ping::FEAT_MULTI_RAIL != 0
    }

    /// A rail that our node gets, and then loses, is known to the peer by our push.
    fn our_pushes_come(&mut self) {
        let peer = self.peer();
        let ours = self.ours();
        self.net.add_ni(ours.clone(), nid(A_MORE)).unwrap();
        self.net.run(SEC);
        assert_eq!(self.known(peer..peer + 1, A[0]), nids(&[A[0], A[1], A_MORE]));
        self.net.del_ni(ours.clone(), nid(A_MORE)).unwrap();
        self.net.run(2 * SEC);
        ours.for_each(|n| self.net.let_nis_go(n));
        assert_eq!(self.known(peer..peer + 1, A[0]), nids(&A));
    }
}

/// With the same NIDs or others, in order or without a word, with an NI of ours that goes meanwhile or not.
#[test]
fn a_peer_that_was_restarted_is_asked_again_and_told_again() {
    for shards in [1u16, 3] {
        for (with, rst) in [(&B, true), (&B, false), (&[B[0], B_MORE], true), (&[B[1], B[0]], true)] {
            let mut two = Two::new(shards, |_| {});
            two.both_are_used();
            assert!(two.shown_as_multi_rail());
            let before = two.asked();
            two.restarts(with, rst);
            if rst {
                let said = two.puts(B[0]);
                assert_eq!(said, vec![Ok(()); two.peer()], "{with:?}");
            } else {
                // Streams to both rails have to be found dead.
                two.until_all_arrive(B[0]);
                two.net.run(200 * SEC);
                two.ours().for_each(|n| drop(two.net.take_events(n)));
                two.until_all_arrive(B[0]);
            }
            assert!(two.asked() > before, "{shards} {with:?} {rst}");
            let mut now = nids(with);
            now.sort();
            assert_eq!(two.known(two.ours(), B[0]), now, "{shards} {with:?} {rst}");
            assert!(two.shown_as_multi_rail(), "{shards} {with:?} {rst}");
            two.our_pushes_come();
            two.both_are_used();
            let before = two.asked();
            two.both_are_used();
            assert_eq!(two.asked(), before, "nobody asks without a reason");
        }
    }
}

/// The peer's NIs go, one after the other or at once, and come back, the same or others.
#[test]
fn a_peer_whose_last_ni_went_and_came_back_is_asked_again_and_told_again() {
    for shards in [1u16, 3] {
        for (first, back) in [(0, [B[0], B[1]]), (1, [B[0], B[1]]), (1, [B[1], B_MORE]), (0, [B_MORE, B[0]])]
        {
            for pause in [0, 3 * SEC] {
                let what = format!("{shards} {first} {back:?} {pause}");
                let mut two = Two::new(shards, |_| {});
                two.both_are_used();
                let (peer, before) = (two.peer(), two.asked());
                for gone in [B[first], B[1 - first]] {
                    two.net.del_ni(peer..peer + 1, nid(gone)).unwrap();
                    two.net.run(pause);
                }
                two.net.run(3 * SEC);
                two.net.let_nis_go(peer);
                for ni in back {
                    two.net.add_ni(peer..peer + 1, nid(ni)).unwrap();
                }
                two.net.run(SEC);
                // A NID that it had is its own until it has been asked by it.
                let known = back.into_iter().find(|n| B.contains(n)).unwrap();
                two.until_all_arrive(known);
                let mut now = nids(&back);
                now.sort();
                assert!(two.asked() > before, "{what}");
                assert_eq!(two.known(two.ours(), back[0]), now, "{what}");
                assert!(two.shown_as_multi_rail(), "{what}");
                two.our_pushes_come();
            }
        }
    }
}

/// Of a peer by hand the NIDs are the user's; it is asked and told again as others are.
#[test]
fn a_peer_by_hand_that_was_restarted_is_told_again() {
    for shards in [1u16, 3] {
        let by_hand: PeerByHand = B.join(",").parse().unwrap();
        let mut two = Two::new(shards, |cfg| cfg.peers = vec![by_hand.clone()]);
        two.both_are_used();
        let before = two.asked();
        two.restarts(&B, true);
        two.both_are_used();
        assert!(two.asked() > before);
        assert_eq!(two.known(two.ours(), B[0]), nids(&B));
        two.our_pushes_come();
    }
}

/// Without discovery nobody is asked, and the rails that the user has said are used as before.
#[test]
fn without_discovery_a_peer_that_was_restarted_is_used_as_before() {
    for shards in [1u16, 3] {
        let by_hand: PeerByHand = B.join(",").parse().unwrap();
        let mut two = Two::new(shards, |cfg| {
            cfg.peers = vec![by_hand.clone()];
            cfg.discovery = false;
        });
        two.both_are_used();
        two.restarts(&B, true);
        two.both_are_used();
        assert_eq!(two.asked(), 0);
    }
}

/// The NID by which the peer is known is lost, and the others are not: it is told by another one, and asked no more than once.
#[test]
fn a_peer_that_has_lost_a_rail_is_told_by_another() {
    for shards in [1u16, 3] {
        for lost in B {
            let mut two = Two::new(shards, |_| {});
            two.both_are_used();
            let before = two.asked();
            two.net.unplug(nid(lost).ip().unwrap(), Cut::Reset);
            two.net.run(SEC);
            for _ in 0..4 {
                assert!(two.puts(B[0]).iter().all(Result::is_ok), "{shards} {lost}");
            }
            two.our_pushes_come();
            assert!(two.asked() <= before + 4, "{shards} {lost}: {} questions", two.asked() - before);
        }
    }
}

/// Counts of a NID stay when its connections die, and go on with each recovery ping: the NIDs' sum is that of our NIs.
#[test]
fn counts_of_a_rail_that_was_lost_stay() {
    for shards in [1u16, 3] {
        for lost in B {
            let mut two = Two::new(shards, |_| {});
            let counts = |two: &Two| {
                let (mut by_nid, mut all) = ([0; 2], 0);
                for n in two.ours() {
                    let m = &two.net.nodes[n].machine;
                    m.peer_figures(0, usize::MAX / 2, &mut |f| {
                        let at = B.iter().position(|b| nid(b) == f.id.nid).unwrap();
                        by_nid[at] += f.moved.sent.all();
                    });
                    m.nis(&mut |f| all += if f.nid == Nid::LO { 0 } else { f.moved.sent.all() });
                }
                (by_nid, all)
            };
            two.both_are_used();
            let (before, all) = counts(&two);
            assert_eq!(before.iter().sum::<u64>(), all);
            let host = nid(lost).ip().unwrap();
            two.net.unplug(host, Cut::Reset);
            two.net.run(SEC);
            two.until_all_arrive(B[0]);
            // Its entry has gone, and is there again for each recovery ping.
            for _ in 0..20 {
                two.net.run(SEC);
                let (now, all) = counts(&two);
                assert_eq!(now.iter().sum::<u64>(), all, "{shards} {lost}");
                assert!(now.iter().zip(before).all(|(n, b)| *n >= b), "{shards} {lost} {before:?} {now:?}");
            }
            two.until_all_arrive(B[0]);
        }
    }
}

/// A node behind a router that has not taken our push is asked again, by whichever shard, and told.
#[test]
fn a_node_behind_a_router_is_asked_again_and_told_again() {
    for shards in [1u16, 3] {
        let second = "10.1.0.2@tcp1";
        let client = (config_of(CLIENT, &["tcp1 10.0.0.11@tcp"]), shards);
        let server = (config_of(SERVER, &["tcp 10.1.0.11@tcp1"]).also(nid(second)), 1);
        let mut w = World::new(&[client, server]);
        let at = usize::from(shards);
        let mut hops = w.hops(&R1);
        hops.push((nid(second), at));
        w.routers.add(&mut w.net, &nids(&R1), &hops);
        w.run(SEC);
        w.tune(0, "lnet_transaction_timeout", "10");
        w.attach(1);
        let mut tag = 0;
        let mut puts = |w: &mut World| {
            for shard in 0..at {
                tag += 1;
                w.op(0, shard, put(tag, SERVER, 64));
            }
            w.run(12 * SEC);
            let acked = |e: &Event| matches!(e, Event::Ack { status: Ok(()), .. });
            w.events(0).iter().filter(|e| acked(e)).count()
        };
        assert_eq!(puts(&mut w), at);
        let known = |w: &World| w.net.nodes[at].machine.nids_of(nid(CLIENT));
        assert_eq!((w.net.nodes[0].machine.nids_of(nid(SERVER)).len(), known(&w)), (2, Vec::new()));
        let now = w.net.now;
        w.net.nodes[at].machine.fault(now, FaultAsk::Add(no_pushes())).unwrap();
        w.net.add_ni(0..at, nid(A_MORE)).unwrap();
        w.run(60 * SEC);
        assert_eq!(known(&w), Vec::new());
        let now = w.net.now;
        w.net.nodes[at]
            .machine
            .fault(now, FaultAsk::Delete { delay: false, source: None, dest: None })
            .unwrap();
        let before = w.count(0, |c| c.discoveries);
        assert_eq!(puts(&mut w), at);
        assert!(w.count(0, |c| c.discoveries) > before, "{shards}");
        assert_eq!(known(&w), nids(&[CLIENT, A_MORE]), "{shards}");
    }
}
