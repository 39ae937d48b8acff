//! Figures of NIs: latencies and counts that virtual time and a known exchange give, exactly.

use transport::lnd::{ByType, Moved, Payload, Sink};
use transport::lnet::figures::{Dropped, Latency, NiFigures, Span, Spans, Timed};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::testing::data::{Spot, pages};
use transport::testing::net::{Net, SEC};
use transport::testing::pair::{AT, Pair, config, discovering, id, nid};
use transport::wire::{Nid, ProcessId};

fn figures(net: &Net, node: usize) -> Vec<NiFigures> {
    let mut all = Vec::new();
    net.nodes[node].machine.nis(&mut |ni| all.push(ni));
    all
}

/// Operations that took so many ns each.
fn took(all: &[u64]) -> Latency {
    let mut l = Latency { buckets: [0; 26], sum_ns: all.iter().sum() };
    for ns in all {
        l.buckets[(0..).find(|b| Latency::bound(*b).is_none_or(|bound| *ns <= bound)).unwrap()] += 1;
    }
    l
}

/// Virtual time that `f` takes, in ns.
fn timed<T>(pair: &mut Pair, f: impl FnOnce(&mut Pair) -> T) -> u64 {
    let began = pair.now;
    f(pair);
    pair.now - began
}

fn of(ni: &NiFigures) -> [Latency; 4] {
    Timed::ALL.map(|op| ni.latencies[op as usize])
}

const NONE: Latency = Latency { buckets: [0; 26], sum_ns: 0 };

/// One way takes 50 us, so that whatever is answered takes 100 and the time of its bytes; a PUT of a few bytes without ACK has left at
/// once, and one of pages when TCP and the peer have let go of them.
#[test]
fn latencies_are_those_of_virtual_time() {
    let few = || Payload::copy_of(&[7; 64]).unwrap();
    let mut pair = Pair::new();
    pair.attach(1, MdMem::Sink(Sink::Lend(1 << 20)));
    // The first one dials.
    let pings = [(); 4].map(|()| timed(&mut pair, |p| p.ping(0).unwrap()));
    let acked = [(); 5].map(|()| timed(&mut pair, |p| p.put(0, few()).unwrap()));
    let left = [few(), pages(100_000)].map(|payload| {
        timed(&mut pair, |p| {
            p.op(0, AT.put(9, id(2), payload, false));
            p.drive(0, |e| matches!(e, Event::Send { tag: 9, status: Ok(()), done: true }))
        })
    });
    pair.op(1, Spot(9, 5).attach(3, MdSpec::new(MdMem::Source(pages(4000)))));
    let mut get = |bits, good| {
        timed(&mut pair, |p| {
            p.op(0, Spot(9, bits).get(7, id(2), Sink::Lend(4000)));
            p.drive(0, |e| matches!(e, Event::Reply { tag: 7, status, .. } if status.is_ok() == good))
        })
    };
    let gets = [(); 2].map(|()| get(5, true));
    // One that fails is in no bucket.
    get(6, false);
    let round_trip = 100_000..101_000;
    assert!(
        pings[0] > 200_000 && pings[1..].iter().chain(&acked).chain(&gets).all(|t| round_trip.contains(t))
    );
    assert!(left[0] == 0 && left[1] > 100_000, "{left:?}");
    let ni = figures(&pair, 0)[0];
    assert_eq!(of(&ni), [took(&left), took(&acked), took(&gets), took(&pings)]);
    assert_eq!(ni.latencies[Timed::PutAck as usize].at_most(0.5), Some(131_072));
    assert_eq!(of(&figures(&pair, 1)[0]), [NONE; 4], "the target began none");
}

/// Messages to the node itself are those of `0@lo`, as with kernels; asking who a peer is is nobody's operation.
#[test]
fn each_ni_has_its_own_figures() {
    let nets = |n: u8| discovering(n).also(Nid::tcp([10, 1, 0, n].into(), 1));
    let mut net = Net::new();
    net.add(nets(1));
    net.add(nets(2));
    let other = ProcessId::lustre(Nid::tcp([10, 1, 0, 2].into(), 1));
    net.op(1, AT.attach(1, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20)))));
    net.op(0, AT.attach(1, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20)))));
    net.run(SEC);
    net.op(0, AT.put(2, other, Payload::copy_of(&[7; 100]).unwrap(), true));
    net.op(0, AT.put(3, id(1), Payload::copy_of(&[7; 10]).unwrap(), true));
    net.op(0, Op::Ping { tag: 4, target: id(1) });
    net.run(SEC);
    // Nobody matches it.
    let mut op = Spot(9, 9).put(5, other, Payload::copy_of(&[7; 50]).unwrap(), false);
    if let Op::Put { from, .. } = &mut op {
        *from = Some(Nid::tcp([10, 1, 0, 1].into(), 1));
    }
    net.op(0, op);
    net.run(SEC);
    let [first, second, own] = figures(&net, 0)[..] else { panic!() };
    assert_eq!((first.nid, second.nid, own.nid), (nid(1), Nid::tcp([10, 1, 0, 1].into(), 1), Nid::LO));
    assert_eq!((of(&first), first.moved, first.credits_used), ([NONE; 4], Moved::default(), 0));
    let counts = |l: [Latency; 4]| l.map(|l| l.count());
    assert_eq!((counts(of(&second)), counts(of(&own))), ([1, 1, 0, 0], [0, 1, 0, 1]));
    let c = *net.nodes[0].machine.counters();
    // A PUT, its ACK, and the two of the ping.
    let (each, bytes) = (ByType { put: 1, get: 1, reply: 1, ack: 1 }, c.own_bytes);
    assert_eq!(own.moved, Moved { sent: each, send_bytes: bytes, received: each, recv_bytes: bytes });
    let m = second.moved;
    assert_eq!((m.sent.all(), m.send_bytes), (c.msgs_tx, c.payload_tx_bytes));
    assert_eq!((m.received.all(), m.recv_bytes), (c.msgs_rx, c.payload_rx_bytes));
    // A PUT and one that is dropped; and the peers asked who they are, and told.
    assert_eq!(m.sent, ByType { put: 3, get: 1, reply: 0, ack: 1 });
    assert_eq!(m.received, ByType { put: 1, get: 0, reply: 1, ack: 2 });
    assert_eq!(second.spans.put_ack.samples, 2, "the PUT and the push");
    let [quiet, there, _] = figures(&net, 1)[..] else { panic!() };
    let dropped = Dropped { messages: ByType { put: 1, ..ByType::default() }, bytes: 50 };
    assert_eq!((quiet.dropped, there.dropped), (Dropped::default(), dropped));
    assert_eq!((there.moved.received, there.moved.sent), (m.sent, m.received));
    assert_eq!((there.moved.recv_bytes, there.credits), (m.send_bytes, config(1).ni_credits));

    // The peer's are those of its NI, as there is one peer.
    let of_peers = |node: usize| {
        let mut all = Vec::new();
        let places = net.nodes[node].machine.peer_figures(0, 64, &mut |p| all.push(p));
        assert!(places <= 64, "all of them");
        all
    };
    let [peer] = &of_peers(0)[..] else { panic!() };
    assert_eq!((peer.id, peer.moved, peer.spans, peer.told), (other, m, second.spans, true));
    assert_eq!(peer.nids[..], [id(2).nid, other.nid]);
    let [peer] = &of_peers(1)[..] else { panic!() };
    assert_eq!((peer.moved, peer.dropped, peer.credits_used, peer.waiting), (there.moved, dropped, 0, 0));
}

/// Times are those of the latencies; with as many messages as there are credits and one more, one has waited.
#[test]
fn spans_and_most_credits_are_those_of_the_messages() {
    let mut pair = Pair::new();
    pair.attach(1, MdMem::Sink(Sink::Lend(1 << 20)));
    let pings = [(); 3].map(|()| timed(&mut pair, |p| p.ping(0).unwrap()));
    let most = |pair: &Pair| {
        let mut all = Vec::new();
        pair.nodes[0].machine.peer_figures(0, 64, &mut |p| all.push((p.most, p.spans)));
        all[0]
    };
    let rtt = Span {
        samples: 3,
        min_ns: *pings.iter().min().unwrap(),
        max_ns: *pings.iter().max().unwrap(),
        sum_ns: pings.iter().sum(),
    };
    assert_eq!(most(&pair).1, Spans { get_rtt: rtt, ..Spans::default() });
    assert_eq!((rtt.mean_ns(), Span::default().mean_ns()), (rtt.sum_ns / 3, 0));
    let credits = config(1).peer_credits;
    for tag in 0..u64::from(credits) + 1 {
        pair.op(0, AT.put(100 + tag, id(2), pages(100_000), false));
    }
    for tag in 0..u64::from(credits) + 1 {
        pair.drive(0, |e| matches!(e, Event::Send { tag: t, status: Ok(()), done: true } if *t == 100 + tag));
    }
    let (most, spans) = most(&pair);
    assert_eq!((most, spans.put_egress.samples), (credits + 1, u64::from(credits) + 1));
    assert_eq!(figures(&pair, 0)[0].spans, spans);
}
