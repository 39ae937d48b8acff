//! Two NIs of one LNet network in two subnets: a link that is lost cuts off pairs of NIs that are up and NIDs that are not, and both
//! nodes hear which NIDs those are (docs/protocol/upper.md §2, §3).

use transport::lnd::{Config, LnetError, Payload, PeerByHand, Shards, Sink};
use transport::lnet::faults::FaultAsk;
use transport::lnet::{Event, MdMem, MdSpec, Op, PeerNiView};
use transport::testing::data::{Spot, bytes};
use transport::testing::net::{Cut, Net, SEC};
use transport::wire::{Nid, ProcessId};

use crate::faults::no_pushes;

const AT: Spot = Spot(7, 3);
const A: [&str; 2] = ["10.1.0.1@tcp", "10.2.0.1@tcp"];
const B: [&str; 2] = ["10.1.0.2@tcp", "10.2.0.2@tcp"];

fn nid(s: &str) -> Nid {
    s.parse().unwrap()
}

fn ip(s: &str) -> std::net::IpAddr {
    nid(s).ip().unwrap()
}

struct Two {
    net: Net,
    /// Shards of each.
    n: usize,
    tag: u64,
}

impl Two {
    fn new(shards: u16, by_hand: bool) -> Two {
        let mut net = Net::new();
        for (epoch, own, other) in [(100, A, B), (200, B, A)] {
            for me in 0..shards {
                let mut cfg = Config::new(nid(own[0]), epoch).also(nid(own[1]));
                cfg.shards = Shards::new(me, shards).unwrap();
                if by_hand {
                    cfg.peers = vec![other.join(",").parse::<PeerByHand>().unwrap()];
                }
                net.add(cfg);
            }
        }
        let mut two = Two { net, n: usize::from(shards), tag: 0 };
        for node in [0, two.n] {
            let md = MdSpec { threshold: None, ..MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20))) };
            two.net.op(node, AT.attach(1, md));
        }
        two.net.run(SEC / 100);
        two
    }

    /// A PUT and a ping from each shard of a node, all of which end well.
    fn all_arrive(&mut self, from: usize, to: &str, what: &str) {
        for node in from..from + self.n {
            self.tag += 1;
            let target = ProcessId::lustre(nid(to));
            let payload = Payload::copy_of(&bytes(64, self.tag)).unwrap();
            self.net.op(node, AT.put(self.tag, target, payload, true));
            self.net.op(node, Op::Ping { tag: self.tag, target });
        }
        self.net.run(SEC);
        let ends = (from..from + self.n).flat_map(|n| self.net.take_events(n)).filter_map(|e| match e {
            Event::Ack { status, done: true, .. } | Event::Send { status, done: true, .. } => Some(status),
            Event::Ping { info, .. } => Some(info.map(|_| ())),
            _ => None,
        });
        let ends: Vec<Result<(), LnetError>> = ends.collect();
        assert_eq!(ends, vec![Ok(()); 2 * self.n], "{what}");
    }

    /// The link of a rail is lost, and both nodes' ports say so.
    fn loses(&mut self, rail: usize) {
        for (node, nids) in [(0, A), (self.n, B)] {
            self.net.unplug(ip(nids[rail]), Cut::Silence);
            self.net.link_state(node, ip(nids[rail]), false);
        }
    }

    fn regains(&mut self, rail: usize) {
        for (node, nids) in [(0, A), (self.n, B)] {
            self.net.plug(ip(nids[rail]));
            self.net.link_state(node, ip(nids[rail]), true);
        }
    }

    /// A NID of the other, as the shard of a node knows it whose affair it is.
    fn view(&self, node: usize, of: &str) -> PeerNiView {
        let mut found = None;
        self.net.nodes[self.net.home(node, ip(of))].machine.peer_nis(0, usize::MAX / 2, &mut |v| {
            if v.nid == nid(of) {
                found = Some(v);
            }
        });
        found.unwrap_or_else(|| panic!("{of} is not known"))
    }
}

/// Whichever pairs were used before, and whichever the nodes know each other by.
#[test]
fn nobody_sends_to_a_nid_whose_link_is_lost() {
    for shards in [1u16, 3] {
        for (first, by_hand) in [(0, false), (1, false), (0, true)] {
            for (used, rail) in (0..5).flat_map(|used| [(used, 0), (used, 1)]) {
                let what = format!("{shards} shards, {first} {by_hand}, {used} used, rail {rail}");
                let mut two = Two::new(shards, by_hand);
                let b = two.n;
                two.all_arrive(0, B[first], &what);
                for _ in 0..used {
                    two.all_arrive(0, B[first], &what);
                    two.all_arrive(b, A[first], &what);
                }
                two.net.run(5 * SEC);
                // One that has never spoken may be another node's: what is for it goes nowhere else.
                let may_name = |two: &Two, node, nid: &&str| by_hand || two.view(node, nid).own.is_some();
                let theirs: Vec<&str> = B.into_iter().filter(|n| may_name(&two, 0, n)).collect();
                let ours: Vec<&str> = A.into_iter().filter(|n| may_name(&two, b, n)).collect();
                assert!(!theirs.is_empty() && (used < 4 || (theirs.len(), ours.len()) == (2, 2)), "{what}");
                two.loses(rail);
                two.net.run(SEC / 20);
                let up = [two.view(0, B[rail]).up, two.view(b, A[rail]).up];
                assert_eq!(up, [false; 2], "{what}");
                for _ in 0..3 {
                    theirs.iter().for_each(|nid| two.all_arrive(0, nid, &what));
                    ours.iter().for_each(|nid| two.all_arrive(b, nid, &what));
                }
                two.regains(rail);
                two.net.run(200 * SEC);
                assert!(two.view(0, B[rail]).up && two.view(b, A[rail]).up, "{what}");
                theirs.iter().for_each(|nid| two.all_arrive(0, nid, &what));
            }
        }
    }
}

/// The news of a link that is back gets lost: recovery pings ask for it.
#[test]
fn a_nid_is_up_again_though_nobody_has_heard_its_node_say_so() {
    for shards in [1u16, 3] {
        let mut two = Two::new(shards, false);
        two.all_arrive(0, B[0], "at first");
        two.net.run(5 * SEC);
        two.loses(1);
        two.net.run(SEC / 2);
        let v = two.view(0, B[1]);
        assert!(!v.up && v.next_ping > 0, "{v:?}");
        let now = two.net.now;
        (0..two.n).for_each(|n| {
            two.net.nodes[n].machine.fault(now, FaultAsk::Add(no_pushes())).unwrap();
        });
        let taken =
            |two: &Two| -> u64 { (0..two.n).map(|n| two.net.nodes[n].machine.counters().pushes_taken).sum() };
        let before = taken(&two);
        two.net.run(30 * SEC);
        assert!(!two.view(0, B[1]).up);
        two.regains(1);
        two.net.run(300 * SEC);
        assert_eq!(taken(&two), before, "no push was heard");
        let v = two.view(0, B[1]);
        assert_eq!((v.up, v.next_ping), (true, 0));
        for n in 0..two.n {
            let mut all = true;
            two.net.nodes[n].machine.peer_nis(0, usize::MAX / 2, &mut |v| all &= v.up);
            assert!(all, "every shard has heard of it");
        }
    }
}

/// Messages that wait for a connection to a NID go by another pair when its node says that it is down.
#[test]
fn what_waits_for_a_nid_that_goes_down_goes_by_another_pair() {
    for shards in [1u16, 3] {
        for by_hand in [true, false] {
            let mut two = Two::new(shards, by_hand);
            let b = two.n;
            // Nobody answers there, which only the other's port sees. It has told of itself by the other NI.
            two.net.unplug(ip(B[1]), Cut::Silence);
            let payload = Payload::copy_of(&bytes(64, 7)).unwrap();
            let mut op = AT.put(7, ProcessId::lustre(nid(A[0])), payload, true);
            if let Op::Put { from, .. } = &mut op {
                *from = Some(nid(B[0]));
            }
            two.net.op(b, op);
            two.net.run(5 * SEC);
            for tag in 100..140 {
                let payload = Payload::copy_of(&bytes(2000, tag)).unwrap();
                two.net.op(0, AT.put(tag, ProcessId::lustre(nid(B[0])), payload, true));
            }
            two.net.run(SEC / 10);
            let acked = |net: &mut Net| {
                let all = (0..b).flat_map(|n| net.take_events(n));
                all.filter(|e| matches!(e, Event::Ack { status: Ok(()), .. })).count()
            };
            let before = acked(&mut two.net);
            assert!((1..40).contains(&before), "{before}");
            two.net.link_state(b, ip(B[1]), false);
            two.net.run(SEC);
            assert_eq!(before + acked(&mut two.net), 40, "{shards} {by_hand}");
        }
    }
}
