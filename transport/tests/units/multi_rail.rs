//! Multi-Rail: which pair of NIDs a message takes, what goes by another pair, and how NIDs become well again
//! (docs/protocol/upper.md §2, §3).

use transport::lnd::tunables::Change;
use transport::lnd::{Config, LnetError, Payload, Shards, Sink};
use transport::lnet::faults::{Fault, FaultAsk, FaultRate, FaultRule, NidPattern};
use transport::lnet::{BEST, Event, MdMem, MdSpec, Op, PeerNiView};
use transport::selftest::console::Said;
use transport::stream::{Bucket, ShardId};
use transport::testing::data::{Spot, bytes};
use transport::testing::members::LstNode;
use transport::testing::net::{Cut, Net, SEC};
use transport::wire::{Nid, ProcessId};

use crate::faults::for_all;

const AT: Spot = Spot(7, 3);
const A: [&str; 2] = ["10.0.0.11@tcp", "10.0.0.21@tcp"];
const B: [&str; 2] = ["10.0.0.12@tcp", "10.0.0.22@tcp"];
pub(super) const A_NETS: [&str; 2] = ["10.0.0.11@tcp", "10.1.0.11@tcp1"];
pub(super) const B_NETS: [&str; 2] = ["10.0.0.12@tcp", "10.1.0.12@tcp1"];

pub(super) fn nid(s: &str) -> Nid {
    s.parse().unwrap()
}

fn id(s: &str) -> ProcessId {
    ProcessId::lustre(nid(s))
}

fn config(nids: &[&str], epoch: u64) -> Config {
    let [first, rest @ ..] = nids else { panic!() };
    rest.iter().fold(Config::new(nid(first), epoch), |c, n| c.also(nid(n)))
}

/// Nodes of so many shards each; places of the second one's follow those of the first.
pub(super) fn nodes(a: &[&str], b: &[&str], shards: u16) -> Net {
    let mut net = Net::new();
    for (epoch, nids) in [(100, a), (200, b)] {
        for me in 0..shards {
            net.add(Config { shards: Shards::new(me, shards).unwrap(), ..config(nids, epoch) });
        }
    }
    let b = usize::from(shards);
    net.op(b, AT.attach(1, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20)))));
    net.run(SEC / 100);
    net.take_events(b);
    net
}

pub(super) fn put(tag: u64, to: &str, len: usize) -> Op {
    AT.put(tag, id(to), Payload::copy_of(&bytes(len, tag)).unwrap(), true)
}

fn from(mut op: Op, own: &str) -> Op {
    if let Op::Put { from, .. } | Op::Get { from, .. } = &mut op {
        *from = Some(nid(own));
    }
    op
}

/// Pairs of NIDs by which PUTs have come since the last look, with their tags, on all shards of a node.
pub(super) fn came(net: &mut Net, node: std::ops::Range<usize>) -> Vec<(u64, Nid, Nid)> {
    let mut all: Vec<_> = node
        .flat_map(|n| net.take_events(n))
        .filter_map(|e| match e {
            Event::Put(p) => Some((p.hdr_data, p.source, p.dest)),
            _ => None,
        })
        .collect();
    all.sort();
    all
}

/// Ends of a node's operations since the last look.
pub(super) fn ended(net: &mut Net, node: std::ops::Range<usize>) -> Vec<(u64, Result<(), LnetError>)> {
    let mut all: Vec<_> = node
        .flat_map(|n| net.take_events(n))
        .filter_map(|e| match e {
            Event::Send { tag, status, done: true } | Event::Ack { tag, status, done: true, .. } => {
                Some((tag, status))
            }
            Event::Ping { tag, info, .. } => Some((tag, info.map(|_| ()))),
            _ => None,
        })
        .collect();
    all.sort_by_key(|e| e.0);
    all
}

pub(super) fn view(net: &Net, node: usize, of: &str) -> PeerNiView {
    let mut found = None;
    net.nodes[node].machine.peer_nis(0, usize::MAX / 2, &mut |v| {
        if v.nid == nid(of) {
            found = Some(v);
        }
    });
    found.unwrap_or_else(|| panic!("{of} is not known"))
}

/// Messages received by an NI, on all shards of a node.
fn received(net: &Net, node: std::ops::Range<usize>, at: usize) -> u64 {
    let mut all = 0;
    for n in node {
        let mut i = 0;
        net.nodes[n].machine.nis(&mut |ni| {
            all += if i == at { ni.moved.received.all() } else { 0 };
            i += 1;
        });
    }
    all
}

pub(super) fn own_health(net: &Net, node: usize, at: usize) -> (u16, bool) {
    let mut all = Vec::new();
    net.nodes[node].machine.nis(&mut |n| all.push((n.health.value, n.health.fatal)));
    all[at]
}

/// Both know each other.
pub(super) fn acquaint(net: &mut Net, to: &str, shards: usize) {
    net.op(0, put(999, to, 8));
    net.run(5 * SEC);
    assert_eq!(ended(net, 0..shards), [(999, Ok(()))]);
    came(net, shards..2 * shards);
}

/// Own NI first, then the peer's: strict turns, by the NI of each net where there are several.
#[test]
fn messages_take_turns_among_equals() {
    for shards in [1u16, 3] {
        for (a, b) in [(A, B), (A_NETS, B_NETS)] {
            let n = usize::from(shards);
            let mut net = nodes(&a, &b, shards);
            acquaint(&mut net, b[0], n);
            for tag in 0..8 {
                net.op(0, put(tag, b[0], 64));
                net.run(SEC);
            }
            let pairs: Vec<_> = came(&mut net, n..2 * n).iter().map(|c| (c.1, c.2)).collect();
            let [p, q] = [(nid(a[0]), nid(b[0])), (nid(a[1]), nid(b[1]))];
            let turns = if pairs[0] == p { [p, q] } else { [q, p] };
            assert_eq!(pairs, turns.repeat(4), "{a:?}, {shards} shards");
            // Pings too may go to another NID than the one named.
            ended(&mut net, 0..n);
            let got = |net: &Net| [0, 1].map(|at| received(net, n..2 * n, at));
            let before = got(&net);
            for tag in 0..4 {
                net.op(0, Op::Ping { tag, target: id(b[0]) });
            }
            net.run(SEC);
            assert_eq!(ended(&mut net, 0..n), [0, 1, 2, 3].map(|t| (t, Ok(()))));
            let after = got(&net);
            assert_eq!([after[0] - before[0], after[1] - before[1]], [2, 2]);
        }
    }
}

/// An NI that is named is kept, and with it the NID that is named.
#[test]
fn an_ni_that_is_named_keeps_the_pair() {
    let mut net = nodes(&A, &B, 1);
    acquaint(&mut net, B[0], 1);
    let ways = [(0, 0), (0, 1), (1, 0), (1, 0), (1, 1)].map(|(f, t)| (A[f], B[t]));
    for (tag, (own, to)) in (0..).zip(ways) {
        // The second NID has to be told by its own node before anybody may act for it.
        net.op(0, from(put(tag, to, 20_000), own));
        net.run(SEC);
    }
    let pairs: Vec<_> = came(&mut net, 1..2).iter().map(|c| (c.1, c.2)).collect();
    assert_eq!(pairs, ways.map(|(f, t)| (nid(f), nid(t))));
}

/// Under load the pair with less under way goes first: one that hangs does not fill up.
#[test]
fn credits_count_before_turns() {
    let mut net = nodes(&A, &B, 1);
    acquaint(&mut net, B[0], 1);
    for tag in 0..4 {
        net.op(0, put(tag, B[0], 40_000));
    }
    net.run(SEC);
    came(&mut net, 1..2);
    ended(&mut net, 0..1);
    // The first rail acknowledges nothing any more.
    let ip = nid(A[0]).ip().unwrap();
    net.unplug(ip, Cut::Silence);
    for tag in 10..30 {
        net.op(0, put(tag, B[0], 40_000));
        net.run(SEC / 10);
    }
    let stuck = 20 - came(&mut net, 1..2).len();
    assert_eq!(stuck, 1, "more than one was given to a rail that has one under way");
}

/// Fails as the kernel's does: mr-resend-refused.
#[test]
fn what_was_refused_goes_by_another_pair_at_once() {
    for shards in [1u16, 3] {
        let n = usize::from(shards);
        let mut net = nodes(&A_NETS, &B_NETS, shards);
        acquaint(&mut net, B_NETS[0], n);
        for tag in 0..4 {
            net.op(0, put(tag, B_NETS[0], 20_000));
        }
        net.run(SEC);
        ended(&mut net, 0..n);
        came(&mut net, n..2 * n);
        let gone = nid(B_NETS[1]).ip().unwrap();
        net.unplug(gone, Cut::Reset);
        net.run(SEC / 100);
        let began = net.now;
        for tag in 0..4 {
            net.op(0, put(tag, B_NETS[0], 20_000));
        }
        net.run(SEC / 5);
        let by = came(&mut net, n..2 * n);
        assert_eq!(by.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 1, 2, 3], "each once");
        assert!(by.iter().all(|c| c.2 == nid(B_NETS[0])), "{by:?}");
        assert_eq!(ended(&mut net, 0..n), [0, 1, 2, 3].map(|t| (t, Ok(()))));
        let sum = |f: fn(&transport::lnd::Counters) -> u64| {
            (0..n).map(|i| f(net.nodes[i].machine.counters())).sum::<u64>()
        };
        let again = sum(|c| c.resend_count);
        assert!((1..=4).contains(&again), "{again}");
        assert_eq!((sum(|c| c.successful_resends), sum(|c| c.remote_dropped_count)), (again, again));
        // On every shard it is as bad, and the home has it pinged after 1, 2, 4 s.
        let home = net.home(0, gone);
        let v = view(&net, home, B_NETS[1]);
        assert_eq!((v.health, v.up, v.primary), (BEST - 100 * again as u16, true, nid(B_NETS[0])));
        net.run_until(began + 10 * SEC, |_| false);
        let v = view(&net, home, B_NETS[1]);
        assert_eq!(
            (v.ping_count, v.health),
            (3, BEST - 100 * again as u16 - 300),
            "pings fail as messages do"
        );
        for node in 0..n {
            net.op(node, put(50 + node as u64, B_NETS[0], 64));
        }
        net.run(SEC / 5);
        assert!(came(&mut net, n..2 * n).iter().all(|c| c.2 == nid(B_NETS[0])), "nobody chooses it");
        // It comes back: each answer is a step.
        net.plug(gone);
        net.run_until(net.now + 60 * SEC, |n| view(n, home, B_NETS[1]).health == BEST);
        let v = view(&net, home, B_NETS[1]);
        assert_eq!((v.health, v.ping_count), (BEST, 0));
        net.run(SEC / 100);
        for tag in 0..4 {
            net.op(0, put(tag, B_NETS[0], 64));
        }
        net.run(SEC);
        assert_eq!(came(&mut net, n..2 * n).iter().filter(|c| c.2 == nid(B_NETS[1])).count(), 2);
        net.run(200 * SEC);
        for node in 0..2 * n {
            net.assert_at_rest(node);
        }
    }
}

/// It goes again as often as it may, and never where nothing else leads.
#[test]
fn a_message_is_sent_again_no_more_than_it_may_be() {
    for (retries, ends) in [(0, LnetError::Refused), (1, LnetError::Refused), (2, LnetError::Unreachable)] {
        let mut net = Net::new();
        net.add(Config { retry_count: retries, ..config(&A, 100) });
        net.add(config(&B, 200));
        net.op(1, AT.attach(1, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20)))));
        acquaint(&mut net, B[0], 1);
        for b in B {
            net.unplug(nid(b).ip().unwrap(), Cut::Reset);
        }
        net.run(SEC);
        ended(&mut net, 0..1);
        net.op(0, put(1, B[0], 64));
        net.run(SEC / 10);
        let said = ended(&mut net, 0..1);
        assert_eq!(said, [(1, Err(ends))], "{retries}");
        assert_eq!(net.nodes[0].machine.counters().resend_count, u64::from(retries));
        assert_eq!(net.nodes[0].machine.counters().successful_resends, 0);
    }
    // One NID there, one NI here.
    let mut net = nodes(&A[..1], &B[..1], 1);
    acquaint(&mut net, B[0], 1);
    net.unplug(nid(B[0]).ip().unwrap(), Cut::Reset);
    net.run(SEC);
    net.op(0, put(1, B[0], 64));
    net.run(SEC);
    assert_eq!(ended(&mut net, 0..1), [(1, Err(LnetError::Refused))]);
    assert_eq!(net.nodes[0].machine.counters().resend_count, 0);
}

/// mr-resend-zc-put, mr-rail-silent: what is on its way is never sent twice.
#[test]
fn what_has_left_is_not_sent_again() {
    for how in [Cut::Reset, Cut::Silence] {
        let mut net = nodes(&A_NETS, &B_NETS, 1);
        acquaint(&mut net, B_NETS[0], 1);
        for tag in 0..2 {
            net.op(0, put(tag, B_NETS[0], 50_000));
        }
        net.run(SEC);
        ended(&mut net, 0..1);
        came(&mut net, 1..2);
        for tag in 10..14 {
            net.op(0, put(tag, B_NETS[0], 50_000));
        }
        // On the streams, not there yet.
        net.run(net.latency / 2);
        net.unplug(nid(B_NETS[1]).ip().unwrap(), how);
        net.run(300 * SEC);
        let by = came(&mut net, 1..2);
        let once: std::collections::BTreeSet<u64> = by.iter().map(|c| c.0).collect();
        assert_eq!(once.len(), by.len(), "nothing twice");
        assert_eq!(by.len(), 2, "{how:?}: {by:?}");
        let said = ended(&mut net, 0..1);
        assert_eq!(said.iter().filter(|s| s.1.is_ok()).count(), 2, "{said:?}");
        assert_eq!(said.len(), 4);
        assert_eq!(net.nodes[0].machine.counters().resend_count, 0);
    }
}

/// A set that dies with several messages is one failure of the own NI, and it is well again soon.
#[test]
fn an_own_ni_is_to_blame_once_for_a_set_that_dies() {
    let mut net = nodes(&A_NETS, &B_NETS, 1);
    acquaint(&mut net, B_NETS[0], 1);
    // Both sets are up when it begins.
    for tags in [0..6, 6..12] {
        net.run(SEC);
        for tag in tags {
            net.op(0, put(tag, B_NETS[0], 50_000));
        }
    }
    net.run(net.latency / 2);
    for link in 0..net.links() {
        if net.addresses(link).iter().any(|a| Some(a.ip()) == nid(A_NETS[1]).ip()) {
            net.cut(link, Cut::Reset);
        }
    }
    net.run(SEC / 100);
    let c = net.nodes[0].machine.counters();
    assert!(c.local_error_count > 1, "messages died with the set");
    assert_eq!(own_health(&net, 0, 1), (BEST - 100, false));
    net.run(10 * SEC);
    assert_eq!((own_health(&net, 0, 0), own_health(&net, 0, 1)), ((BEST, false), (BEST, false)));
}

/// mr-link-down-fatal.
#[test]
fn an_ni_without_a_link_is_down_and_peers_hear_of_it_by_another() {
    for shards in [1u16, 3] {
        let n = usize::from(shards);
        let mut net = nodes(&A_NETS, &B_NETS, shards);
        acquaint(&mut net, B_NETS[0], n);
        for tag in 0..4 {
            net.op(0, put(tag, B_NETS[0], 64));
        }
        net.run(SEC);
        ended(&mut net, 0..n);
        came(&mut net, n..2 * n);
        let ip = nid(A_NETS[0]).ip().unwrap();
        net.unplug(ip, Cut::Silence);
        net.link_state(0, ip, false);
        net.run(SEC / 10);
        assert_eq!(own_health(&net, 0, 0), (BEST, true), "the value stays");
        let theirs = net.home(n, ip);
        let v = view(&net, theirs, A_NETS[0]);
        assert!(!v.up && v.health == BEST, "{v:?}");
        // Nobody chooses it, here or there.
        for node in 0..n {
            net.op(node, put(10 + node as u64, B_NETS[0], 64));
        }
        net.run(SEC);
        let by = came(&mut net, n..2 * n);
        assert_eq!(by.len(), n);
        assert!(by.iter().all(|c| c.1 == nid(A_NETS[1]) && c.2 == nid(B_NETS[1])), "{by:?}");
        ended(&mut net, 0..n);
        net.op(n, Op::Ping { tag: 5, target: id(A_NETS[0]) });
        net.run(SEC);
        let events: Vec<_> = (n..2 * n).flat_map(|i| net.take_events(i)).collect();
        let info = events.iter().find_map(|e| match e {
            Event::Ping { tag: 5, info: Ok(info), .. } => Some(info),
            _ => None,
        });
        let info = info.unwrap();
        assert_eq!((info.nis[0].status, info.sequence), (transport::wire::ping::NiStatus::Down, 4));
        // And back.
        net.plug(ip);
        net.link_state(0, ip, true);
        net.run(SEC);
        assert!(view(&net, theirs, A_NETS[0]).up);
        assert_eq!(own_health(&net, 0, 0), (BEST, false));
    }
}

/// Messages that wait for the peers of an NI go by another when its link is lost.
#[test]
fn what_waits_at_a_dead_ni_goes_by_another() {
    let mut net = nodes(&A_NETS, &B_NETS, 1);
    acquaint(&mut net, B_NETS[0], 1);
    let ip = nid(A_NETS[1]).ip().unwrap();
    net.unplug(ip, Cut::Silence);
    // Half of them wait for a connection that does not come up.
    for tag in 0..40 {
        net.op(0, put(tag, B_NETS[0], 2000));
    }
    net.run(SEC);
    let before = came(&mut net, 1..2).len();
    assert!(before < 40, "{before}");
    net.link_state(0, ip, false);
    net.run(SEC);
    assert_eq!(before + came(&mut net, 1..2).len(), 40);
    assert_eq!(ended(&mut net, 0..1).iter().filter(|e| e.1.is_ok()).count(), 40);
}

/// A rule that fails messages does what the LND's failure would.
#[test]
fn a_health_error_on_purpose_sends_it_by_another_pair() {
    let fails = |cause: u16| FaultRule {
        source: NidPattern::Any,
        dest: NidPattern::One(nid(B_NETS[1])),
        rate: FaultRate::OneIn(1),
        portals: 1 << 7,
        messages: 0,
        fault: Fault::Fail(1 << cause),
    };
    // local_timeout, local_error, remote_dropped, network_timeout.
    for (cause, again) in [(5, true), (4, false), (7, true), (9, false)] {
        let mut net = nodes(&A_NETS, &B_NETS, 1);
        acquaint(&mut net, B_NETS[0], 1);
        let now = net.now;
        net.nodes[0].machine.fault(now, FaultAsk::Add(fails(cause))).unwrap();
        for tag in 0..2 {
            net.op(0, put(tag, B_NETS[0], 64));
        }
        net.run(SEC / 10);
        let said = ended(&mut net, 0..1);
        assert_eq!(
            said.iter().filter(|e| e.1.is_ok()).count(),
            if again { 2 } else { 1 },
            "{cause}: {said:?}"
        );
        let c = net.nodes[0].machine.counters();
        assert_eq!((c.resend_count, c.successful_resends), (u64::from(again), u64::from(again)));
        let local = cause < 6;
        assert_eq!(view(&net, 0, B_NETS[1]).health, if local { BEST } else { BEST - 100 });
        assert_eq!(own_health(&net, 0, 1).0, if local { BEST - 100 } else { BEST });
    }
}

/// A response that does not come makes the NID worse, and is asked for no second time.
#[test]
fn an_answer_that_does_not_come_has_the_nid_pinged() {
    let mut net = nodes(&A_NETS, &B_NETS, 1);
    acquaint(&mut net, B_NETS[0], 1);
    let change = Change::new(net.nodes[0].machine.config(), "lnet_transaction_timeout", "10").unwrap();
    net.tune(0, &change);
    let now = net.now;
    let drops = for_all(1 << 7, 2, Fault::Drop);
    net.nodes[1].machine.fault(now, FaultAsk::Add(drops)).unwrap();
    net.op(0, put(1, B_NETS[0], 64));
    net.run(12 * SEC);
    assert_eq!(ended(&mut net, 0..1), [(1, Err(LnetError::TimedOut))]);
    let c = net.nodes[0].machine.counters();
    assert_eq!((c.response_timeout_count, c.resend_count), (1, 0));
    net.run(5 * SEC);
    let worst =
        B_NETS.map(|b| view(&net, 0, b)).into_iter().max_by_key(|v| v.causes.iter().sum::<u64>()).unwrap();
    assert_eq!(
        (worst.causes.iter().sum::<u64>(), worst.health, worst.ping_count),
        (1, BEST, 0),
        "pinged, and well"
    );
}

/// While a NID is being pinged its home may move: the new one goes on.
#[test]
fn recovery_goes_on_at_a_new_home() {
    let mut net = nodes(&A_NETS, &B_NETS, 2);
    acquaint(&mut net, B_NETS[0], 2);
    let gone = nid(B_NETS[1]).ip().unwrap();
    net.unplug(gone, Cut::Reset);
    for tag in 0..4 {
        net.op(0, put(tag, B_NETS[0], 64));
    }
    net.run(SEC / 10);
    let (old, bucket) = (net.home(0, gone), Bucket::of(gone));
    assert!(view(&net, old, B_NETS[1]).health < BEST);
    let mut moved = false;
    for _ in 0..1000 {
        moved = net.move_home(old, bucket, ShardId(1 - old as u16));
        if moved {
            break;
        }
        net.run(SEC / 100);
    }
    assert!(moved);
    net.plug(gone);
    net.run(60 * SEC);
    let new = net.home(0, gone);
    assert_ne!(new, old);
    assert_eq!(view(&net, new, B_NETS[1]).health, BEST);
    let mut all = BEST;
    net.nodes[old].machine.peer_nis(0, 1000, &mut |v| all = all.min(v.health));
    assert_eq!(all, BEST, "the old one has heard of it");
}

/// lnet_selftest among nodes of two NIs each: sessions are known by their ids, bulk takes the pair of its request, and both rails are used.
#[test]
fn lnet_selftest_runs_over_both_rails() {
    for (a, b) in [(A, B), (A_NETS, B_NETS)] {
        let mut net = Net::new();
        let mut nodes = [config(&a, 100), config(&b, 200)].map(|c| LstNode::new(&mut net, c));
        let run = |net: &mut Net, nodes: &mut [LstNode; 2], ns: u64| {
            let end = net.now + ns;
            while net.now < end {
                net.run_until((net.now + 100_000).min(end), |_| false);
                nodes.iter_mut().for_each(|n| n.pump(net));
            }
        };
        for line in [
            "new_session rails",
            &format!("add_group c {}", a[0]),
            &format!("add_group s {}", b[0]),
            "add_batch w",
            "add_test --batch w --loop -1 --concurrency 8 --from c --to s brw write size=64k check=full",
            "add_test --batch w --loop -1 --concurrency 4 --from c --to s brw read size=64k check=full",
            "run w",
        ] {
            nodes[0].said.clear();
            nodes[0].type_in(&mut net, line);
            run(&mut net, &mut nodes, SEC);
            let said = &nodes[0].said;
            assert!(said.iter().any(|s| matches!(s, Said::End(0))), "{line}: {said:?}");
        }
        let [first, second] = [0, 1].map(|at| received(&net, 1..2, at));
        assert!(first > 100 && second > 100, "{first} and {second} messages by the two NIs");
        assert!(first.abs_diff(second) < (first + second) / 10, "in turn: {first}, {second}");
        nodes[0].said.clear();
        nodes[0].type_in(&mut net, "stop w");
        run(&mut net, &mut nodes, 3 * SEC);
        assert!(nodes[0].said.iter().any(|s| matches!(s, Said::End(0))), "{:?}", nodes[0].said);
        for node in 0..2 {
            let c = net.nodes[node].machine.counters();
            assert_eq!((c.drop_no_match, c.err_dest_nid, c.drop_stale_handle, c.resend_count), (0, 0, 0, 0));
        }
    }
}
