//! Tunables of nodes that run: what each changes, and when (docs/protocol/socklnd.md §10, docs/tunables.md).

use transport::lnd::tunables::Change;
use transport::lnd::{Accept, Config, LnetError, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::testing::data::pages;
use transport::testing::net::{Net, SEC};
use transport::testing::pair::{AT, config, id};
use transport::wire::{Nid, ProcessId, Version};

use crate::raw::pinged;

/// Nodes 10.0.0.1 to `n`, which take PUTs in; `change` makes their configurations other than the defaults.
fn nodes(n: u8, change: impl Fn(&mut Config)) -> Net {
    let mut net = Net::new();
    for i in 1..=n {
        let mut c = config(i);
        change(&mut c);
        let node = net.add(c);
        net.op(node, AT.attach(9, MdSpec::new(MdMem::Sink(Sink::Discard(1 << 20)))));
    }
    net
}

fn tune(net: &mut Net, node: usize, name: &str, value: &str) {
    let change = Change::new(net.nodes[node].machine.config(), name, value).unwrap();
    net.tune(node, &change);
}

/// A PUT of so many bytes from node 0 to node 1, to its end.
fn put(net: &mut Net, len: usize) {
    net.take_events(0);
    net.op(0, AT.put(1, id(2), pages(len), true));
    net.run(2 * SEC);
    assert!(net.take_events(0).iter().any(|e| matches!(e, Event::Ack { status: Ok(()), .. })));
}

#[test]
fn zc_min_payload_holds_for_the_next_message() {
    let mut net = nodes(2, |_| {});
    pinged(&mut net, 0, 2, 2 * SEC).unwrap().unwrap();
    let asked = |net: &Net| net.nodes[0].machine.counters().zc_requested;
    put(&mut net, 16_384);
    assert_eq!(asked(&net), 1);
    tune(&mut net, 0, "zc_min_payload", "16385");
    put(&mut net, 16_384);
    assert_eq!(asked(&net), 1);
    put(&mut net, 16_385);
    assert_eq!(asked(&net), 2);
}

#[test]
fn min_bulk_holds_for_the_next_message() {
    let mut net = nodes(2, |_| {});
    pinged(&mut net, 0, 2, 2 * SEC).unwrap().unwrap();
    // Links in the order of their making: CONTROL, BULK_IN, BULK_OUT.
    let sent = |net: &Net| [0, 2].map(|l| net.wire(l, 0).0.len());
    let before = sent(&net);
    put(&mut net, 4000);
    let bulk = sent(&net);
    assert_eq!((bulk[0] - before[0], bulk[1] - before[1]), (0, 4096));
    tune(&mut net, 0, "min_bulk", "4097");
    put(&mut net, 4000);
    assert_eq!((sent(&net)[0] - bulk[0], sent(&net)[1] - bulk[1]), (4096, 0));
}

#[test]
fn keepalive_begins_and_ends_while_the_node_runs() {
    let mut net = nodes(2, |c| c.keepalive = 0);
    pinged(&mut net, 0, 2, 2 * SEC).unwrap().unwrap();
    let asked = |net: &Net| net.nodes[0].machine.counters().keepalives_tx;
    net.run(300 * SEC);
    assert_eq!(asked(&net), 0);
    tune(&mut net, 0, "keepalive", "20");
    net.run(100 * SEC);
    let some = asked(&net);
    assert!((3..=10).contains(&some), "{some}");
    tune(&mut net, 0, "keepalive", "0");
    net.run(300 * SEC);
    assert_eq!(asked(&net), some);
}

/// Time that node 0 waits for an answer of a peer that has gone without a word, in s.
fn patience(net: &mut Net) -> u64 {
    net.kill(1, false);
    net.op(0, Op::Ping { tag: 3, target: id(2) });
    let from = net.now;
    net.run_until(from + 400 * SEC, |n| n.nodes[0].machine.counters().sets_closed > 0);
    (net.now - from) / SEC
}

#[test]
fn sock_timeout_holds_for_what_is_sent_next() {
    for (changes, least) in [
        (&[][..], 50),
        (&[("sock_timeout", "7")], 7),
        // LNet's: (150 - 1) / 3, then (150 - 1) / 15.
        (&[("sock_timeout", "0")], 49),
        (&[("sock_timeout", "0"), ("lnet_retry_count", "14")], 9),
    ] {
        let mut net = nodes(2, |_| {});
        pinged(&mut net, 0, 2, 2 * SEC).unwrap().unwrap();
        for (n, v) in changes {
            tune(&mut net, 0, n, v);
        }
        let waited = patience(&mut net);
        // The reaper looks once a second.
        assert!((least..=least + 2).contains(&waited), "{changes:?}: {waited} s");
    }
}

#[test]
fn an_answer_is_waited_for_as_long_as_lnet_says() {
    let mut net = nodes(2, |_| {});
    pinged(&mut net, 0, 2, 2 * SEC).unwrap().unwrap();
    tune(&mut net, 0, "lnet_transaction_timeout", "20");
    net.kill(1, false);
    net.op(0, Op::Ping { tag: 4, target: id(2) });
    let from = net.now;
    net.run_until(from + 400 * SEC, |n| n.nodes[0].machine.counters().err_no_answer > 0);
    assert!((20..=22).contains(&((net.now - from) / SEC)), "{}", (net.now - from) / SEC);
    assert!(matches!(net.take_events(0)[..], [Event::Ping { tag: 4, info: Err(LnetError::TimedOut), .. }]));
}

#[test]
fn the_bounds_of_back_off_hold_for_the_next_failure() {
    let mut net = nodes(2, |_| {});
    net.nodes[1].deaf = true;
    tune(&mut net, 0, "min_reconnectms", "30000");
    assert_eq!(pinged(&mut net, 0, 2, 2 * SEC), Some(Err(LnetError::Refused)));
    net.nodes[1].deaf = false;
    net.run(24 * SEC);
    assert_eq!(pinged(&mut net, 0, 2, 2 * SEC), Some(Err(LnetError::Unreachable)), "30 s are not over");
    net.run(8 * SEC);
    pinged(&mut net, 0, 2, 2 * SEC).unwrap().unwrap();
}

#[test]
fn conns_per_peer_holds_for_peers_that_become_known_later() {
    let mut net = nodes(4, |_| {});
    let up = |net: &Net, n: usize| net.nodes[n].machine.gauges().conns_up;
    pinged(&mut net, 0, 2, 2 * SEC).unwrap().unwrap();
    assert_eq!(up(&net, 1), 3);
    tune(&mut net, 0, "conns_per_peer", "4");
    pinged(&mut net, 0, 3, 2 * SEC).unwrap().unwrap();
    pinged(&mut net, 0, 2, 2 * SEC).unwrap().unwrap();
    assert_eq!([1, 2].map(|n| up(&net, n)), [3, 9]);
    // By the speed of the link, which is told later: 25 Gbit/s.
    tune(&mut net, 0, "conns_per_peer", "0");
    net.nodes[0].machine.tune(0, &Change::link(Some(25_000)));
    pinged(&mut net, 0, 4, 2 * SEC).unwrap().unwrap();
    assert_eq!(up(&net, 3), 7);
}

#[test]
fn a_peer_may_have_255_connections_of_a_type() {
    let mut net = nodes(2, |_| {});
    tune(&mut net, 0, "conns_per_peer", "127");
    pinged(&mut net, 0, 2, 2 * SEC).unwrap().unwrap();
    net.run(10 * SEC);
    assert_eq!(net.nodes[1].machine.gauges().conns_up, 255);
    assert_eq!(
        (net.nodes[0].machine.counters().races, net.nodes[1].machine.config().max_conns_per_type),
        (0, 255)
    );
}

#[test]
fn a_sum_is_spoilt_once() {
    let mut net = nodes(2, |c| c.version = Some(Version::V2));
    tune(&mut net, 0, "enable_csum", "1");
    pinged(&mut net, 0, 2, 2 * SEC).unwrap().unwrap();
    put(&mut net, 10_000);
    tune(&mut net, 0, "inject_csum_error", "1");
    assert_ne!(pinged(&mut net, 0, 2, 2 * SEC), Some(Ok(())));
    assert!(!net.nodes[0].machine.config().inject_csum_error, "it is used up");
    assert_eq!(net.nodes[1].machine.counters().err_checksum, 1);
    net.run(5 * SEC);
    pinged(&mut net, 0, 2, 2 * SEC).unwrap().unwrap();
    put(&mut net, 10_000);
    assert_eq!(net.nodes[1].machine.counters().err_checksum, 1);
}

#[test]
fn accept_timeout_holds_for_the_next_connection() {
    let mut net = nodes(1, |c| c.accept = Accept::Trust);
    let dropped = |net: &Net| net.nodes[0].machine.counters().err_hello_timeout;
    let port = |p: u16| std::net::SocketAddr::from(([10, 0, 0, 9], p));
    net.raw_connect(port(4001), 0);
    net.run(4 * SEC);
    assert_eq!(dropped(&net), 0);
    net.run(2 * SEC);
    assert_eq!(dropped(&net), 1);
    tune(&mut net, 0, "accept_timeout", "20");
    net.raw_connect(port(4002), 0);
    net.run(19 * SEC);
    assert_eq!(dropped(&net), 1);
    net.run(2 * SEC);
    assert_eq!(dropped(&net), 2);
}

#[test]
fn an_ipv6_peer_is_dialled_from_an_unprivileged_port_only_with_consent() {
    let ids = ["fd77::1@tcp", "fd77::2@tcp"].map(|n| n.parse::<Nid>().unwrap());
    let mut net = Net::new();
    for (i, nid) in ids.into_iter().enumerate() {
        net.add(Config { privileged: i > 0, accept: Accept::Trust, ..Config::new(nid, 1 + i as u64) });
    }
    let op = |tag| Op::Ping { tag, target: ProcessId::lustre(ids[1]) };
    net.op(0, op(1));
    net.run(SEC);
    let [Event::Refused { tag: 1, why }] = &net.take_events(0)[..] else { panic!() };
    assert!(
        why.to_string().contains("fd77::2@tcp") && why.to_string().contains("unprivileged_v6=1"),
        "{why}"
    );
    assert_eq!(net.links(), 0, "not one SYN");
    // Whoever may use the ports is not held up; and then the other, with consent.
    net.op(1, Op::Ping { tag: 2, target: ProcessId::lustre(ids[0]) });
    net.run(SEC);
    assert!(net.take_events(1).iter().any(|e| matches!(e, Event::Ping { tag: 2, info: Ok(_), .. })));
    let mut net = Net::new();
    for (i, nid) in ids.into_iter().enumerate() {
        let consent = Config { privileged: false, unprivileged_v6: true, ..Config::new(nid, 1 + i as u64) };
        net.add(Config { accept: Accept::Trust, ..consent });
    }
    net.op(0, op(3));
    net.run(SEC);
    assert!(net.take_events(0).iter().any(|e| matches!(e, Event::Ping { tag: 3, info: Ok(_), .. })));
    assert_eq!(net.nodes[1].machine.gauges().conns_up, 3);
}
