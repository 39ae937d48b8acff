//! Messages in copy jobs: copied and summed elsewhere while their connection goes on (LU-11415). What follows from a message
//! follows in the order of the stream, once, and after its bytes are in their place.

use crate::raw::*;
use transport::lnd::{Config, Data, LnetError, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::testing::capture::Msg;
use transport::testing::data;
use transport::testing::net::{Net, SEC};
use transport::testing::rng::Rng;
use transport::wire::ksock::Checksum;
use transport::wire::{ConnType, KsockType, LnetBody, LnetHdr, Version, WireHandle};

/// Longest time that a copy job is out.
const OUT: u64 = SEC / 10;
/// Messages from here on go into copy jobs.
const FROM: u32 = 1000;

fn offloading(seed: u64, tweak: impl Fn(&mut Config)) -> Net {
    let mut cfg = Config { offload_from: FROM, ..config(1) };
    tweak(&mut cfg);
    let mut net = net(cfg);
    net.box_time = Some((Rng(seed), OUT));
    net.nodes[0].machine.offload(true);
    net
}

/// `n` entries that take one PUT each, all of the same match bits: what is put is copied into the first that is left.
fn one_shot(net: &mut Net, n: u64, len: usize) {
    for tag in 0..n {
        let md = MdSpec { threshold: Some(1), ..MdSpec::new(MdMem::Sink(Sink::Copy(data::run(len)))) };
        net.op(0, AT.attach(tag, md));
    }
    net.take_events(0);
}

fn put_of(n: u64, len: u32) -> LnetHdr {
    let ack = WireHandle { interface: 1, object: n };
    header(LnetBody::Put { ack, match_bits: 5, hdr_data: n, portal: 5, offset: 0 }, len)
}

/// A message with a cookie, and a sum if there is to be one: of the payload in V3, of all in V2 (socklnd.md §5.3).
fn summed(version: Version, h: &LnetHdr, cookie: u64, fill: u8, sum: bool) -> Vec<u8> {
    let payload = vec![fill; h.payload_len as usize];
    let lnet = h.emit_as(version).to_vec();
    let whole = |csum| [ksock(KsockType::Lnet, csum, cookie, 0), lnet.clone(), payload.clone()].concat();
    if !sum {
        return whole(0);
    }
    let mut s = Checksum::default();
    s.update(&if version == Version::V2 { whole(0) } else { payload.clone() });
    whole(s.value())
}

fn good_puts(events: &[Event]) -> Vec<u64> {
    let one = |e: &Event| match e {
        Event::Put(p) => {
            assert_eq!(p.status, Ok(()));
            Some(p.hdr_data)
        }
        _ => None,
    };
    events.iter().filter_map(one).collect()
}

/// Cookies that were ACKed, on all connections of the set: each NOOP one, or two, or a range.
fn acked(net: &Net, links: [usize; 3], version: Version) -> u64 {
    let all = links.iter().flat_map(|l| messages(net, *l, 1, version));
    let cookies = |m: Msg| match m {
        Msg::Noop(k) | Msg::Lnet(k, ..) if k.cookie1 > 1 => match k.cookie0 {
            0 => 1,
            from if from > k.cookie1 => 2,
            from => k.cookie1 - from + 1,
        },
        _ => 0,
    };
    all.map(cookies).sum()
}

#[test]
fn what_follows_from_messages_follows_in_their_order() {
    // Copy jobs, small ones behind them, an empty one, one that nothing matches.
    let lens = [5000, 100, 70_000, 999, 0, 1000, 20_000, 4];
    for (seed, version) in (0..40).flat_map(|s| [Version::V2, Version::V3, Version::V4].map(|v| (s, v))) {
        let mut net = offloading(seed, |_| {});
        net.chunk = 1448;
        one_shot(&mut net, lens.len() as u64, 70_000);
        let links = open_set(&mut net, version);
        let mut sent = Vec::new();
        for (n, len) in (10_u64..).zip(lens) {
            sent.extend(summed(version, &put_of(n, len), 100 + n, n as u8, seed % 2 == 0));
        }
        net.raw_send(links[1], &sent);
        let (mut events, mut most) = (Vec::new(), 0);
        let until = net.now + SEC;
        while net.step_before(until) {
            events.extend(net.take_events(0));
            let done = events.iter().filter(|e| matches!(e, Event::Put(_))).count();
            let acks = acked(&net, links, version) as usize;
            assert!(acks <= done, "an ACK before its message is in its place");
            most = most.max(net.nodes[0].machine.gauges().copy_jobs);
        }
        assert!(most > 1, "several are out at once: {most}");
        assert_eq!(good_puts(&events), (10..18).collect::<Vec<_>>(), "{version:?} {seed}");
        for (n, e) in (10_u8..).zip(events) {
            let Event::Put(p) = e else { panic!("{e:?}") };
            assert!(matches!(p.data, Data::InSink));
            let run = p.unlinked.flatten().unwrap();
            assert!(run.bytes()[..p.mlength as usize].iter().all(|b| *b == n));
            assert!(run.bytes()[p.mlength as usize..].iter().all(|b| *b == 0));
        }
        let c = counters(&net);
        // The one of 999 bytes is work enough when it is summed as well.
        assert_eq!((c.boxes, acked(&net, links, version)), (5 - seed % 2, 8), "{version:?} {seed}");
        assert_eq!(c.rx_copied_bytes, u64::from(lens.iter().sum::<u32>()));
        // LNet's ACKs come in that order, too.
        let answers: Vec<u64> = links
            .iter()
            .flat_map(|l| messages(&net, *l, 1, version))
            .filter_map(|m| match m {
                Msg::Lnet(_, h, _) => match h.body {
                    LnetBody::Ack { handle, .. } => Some(handle.object),
                    _ => None,
                },
                _ => None,
            })
            .collect();
        assert_eq!(answers, (10..18).collect::<Vec<_>>());
        net.assert_quiet();
    }
}

#[test]
fn what_stores_nothing_waits_for_what_is_before_it() {
    let mut net = offloading(1, |_| {});
    one_shot(&mut net, 1, 5000);
    let link = open(&mut net, 700, &start(&hello(Version::V2, ConnType::Any)));
    let both = [message(Version::V2, &put_of(1, 5000), 0), message(Version::V2, &ping_get(0), 0)].concat();
    net.raw_send(link, &both);
    let mut stored = false;
    let until = net.now + SEC;
    while net.step_before(until) {
        stored |= !good_puts(&net.take_events(0)).is_empty();
        let replies = messages(&net, link, 1, Version::V2).len();
        assert!(stored || replies == 0, "the ping was answered before the PUT was stored");
    }
    // The ACK and the REPLY.
    assert_eq!((stored, messages(&net, link, 1, Version::V2).len(), counters(&net).boxes), (true, 2, 1));
    net.assert_quiet();
}

#[test]
fn no_more_than_so_many_stand_behind_a_copy_job() {
    for seed in 0..4 {
        let mut net = offloading(seed, |_| {});
        net.nodes[0].pool = hugepages::HeapRxPool::new(2048, 4096);
        one_shot(&mut net, 1, 5000);
        attach(&mut net, 0, MdMem::Sink(Sink::Lend(100)), false);
        let links = open_set(&mut net, Version::V3);
        let mut sent = message(Version::V3, &put_of(0, 5000), 0);
        (1..500).for_each(|n| sent.extend(message(Version::V3, &put_of(n, 10), 0)));
        net.raw_send(links[1], &sent);
        net.run(60_000);
        assert_eq!(net.nodes[0].machine.gauges().copy_jobs, 1);
        assert_eq!(counters(&net).msgs_rx, 64, "the rest is not read");
        net.run(SEC);
        assert_eq!(good_puts(&net.take_events(0)), (0..500).collect::<Vec<_>>());
        net.assert_quiet();
    }
}

#[test]
fn a_box_outlives_its_connection() {
    for (seed, how) in (0..20).flat_map(|s| [0, 1, 2].map(|h| (s, h))) {
        let mut net = offloading(seed, |_| {});
        one_shot(&mut net, 4, 5000);
        let links = open_set(&mut net, Version::V3);
        let lens = [5000, 10, 3000];
        let mut sent: Vec<u8> =
            (0..).zip(lens).flat_map(|(n, len)| message(Version::V3, &put_of(n, len), 100 + n)).collect();
        // And a part of a message.
        sent.extend(&message(Version::V3, &put_of(9, 4000), 109)[..2000]);
        net.raw_send(links[1], &sent);
        net.run(200_000);
        assert_eq!(net.nodes[0].machine.gauges().copy_jobs, 2, "both are out");
        match how {
            0 => net.raw_reset(links[1]),
            1 => net.raw_fin(links[1]),
            // Nonsense, which closes the set.
            _ => net.raw_send(links[0], &[0xff; 24]),
        }
        net.run(SEC);
        let events = net.take_events(0);
        let end_of = |n| {
            let of = |e: &Event| match e {
                Event::Put(p) if p.hdr_data == n => Some(p.status),
                _ => None,
            };
            events.iter().filter_map(of).collect::<Vec<_>>()
        };
        assert_eq!([0, 1, 2].map(end_of), [const { [Ok(())] }; 3], "what came whole is good, once");
        assert_eq!(end_of(9), [Err(LnetError::ConnLost)]);
        assert!(links.iter().all(|l| net.wire(*l, 1).1), "{how}");
        // While a set that its peer ended is read to its end, what is owed on it may still go.
        assert!(counters(&net).zc_acks_tx == 0 || how < 2);
        assert_eq!(net.nodes[0].machine.gauges().conns, 0);
        net.assert_quiet();
    }
}

#[test]
fn the_node_goes_down_when_its_copy_jobs_are_back() {
    for seed in 0..20 {
        let mut net = offloading(seed, |_| {});
        one_shot(&mut net, 1, 5000);
        let links = open_set(&mut net, Version::V3);
        net.raw_send(links[1], &message(Version::V3, &put_of(1, 5000), 0));
        net.run(200_000);
        net.op(0, Op::Shutdown { tag: 5 });
        net.run(SEC);
        let events = net.take_events(0);
        let [Event::Put(p), Event::ShutDown { tag: 5 }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(p.status, Ok(()));
        net.assert_quiet();
    }
}

#[test]
fn a_wrong_sum_closes_the_set_wherever_it_is_found() {
    for (seed, copies) in (0..20).flat_map(|s| [true, false].map(|c| (s, c))) {
        let mut net = offloading(seed, |_| {});
        if copies {
            one_shot(&mut net, 3, 5000);
        } else {
            attach(&mut net, 0, MdMem::Sink(Sink::Lend(5000)), false);
        }
        let links = open_set(&mut net, Version::V3);
        let mut sent = summed(Version::V3, &put_of(1, 5000), 101, 1, true);
        let mut bad = summed(Version::V3, &put_of(2, 5000), 102, 2, true);
        *bad.last_mut().unwrap() ^= 1;
        sent.extend(bad);
        sent.extend(summed(Version::V3, &put_of(3, 5000), 103, 3, true));
        net.raw_send(links[1], &sent);
        net.run(SEC);
        let ends: Vec<_> = net
            .take_events(0)
            .iter()
            .filter_map(|e| match e {
                Event::Put(p) => Some((p.hdr_data, p.status)),
                _ => None,
            })
            .collect();
        assert_eq!(counters(&net).boxes, 3);
        assert!(ends.contains(&(2, Err(LnetError::Checksum))), "{ends:?}");
        assert!(ends.contains(&(1, Ok(()))) && ends.contains(&(3, Ok(()))), "{ends:?}");
        assert_eq!((ends.len(), counters(&net).err_checksum), (3, 1));
        assert!(links.iter().all(|l| net.wire(*l, 1).1));
        net.assert_quiet();
    }
}

/// Where no more may be lent, what was kept is copied here and the rest as it comes.
#[test]
fn a_spent_budget_makes_the_home_copy_itself() {
    let mut net = Net::new();
    (net.buffers, net.chunk, net.window) = (64, 1000, 8000);
    net.add(Config { offload_from: FROM, ..config(1) });
    net.nodes[0].machine.offload(true);
    net.box_time = Some((Rng(1), OUT));
    one_shot(&mut net, 3, 20_000);
    let links = open_set(&mut net, Version::V3);
    for n in 1..=3 {
        net.raw_send(links[1], &summed(Version::V3, &put_of(n, 20_000), 100 + n, n as u8, true));
        net.run(if n == 3 { SEC } else { 10 });
    }
    let events = net.take_events(0);
    assert_eq!(good_puts(&events), [1, 2, 3]);
    for e in events {
        let Event::Put(p) = e else { panic!("{e:?}") };
        let run = p.unlinked.flatten().unwrap();
        assert!(run.bytes().iter().all(|b| u64::from(*b) == p.hdr_data));
    }
    let c = counters(&net);
    assert_eq!((c.rx_copied_bytes, c.err_checksum), (60_000, 0));
    assert!(c.boxes < 3, "{}", c.boxes);
    net.assert_quiet();
}

/// The peer lost its set and made another while a message of the old one was out: its cookie means nothing there.
#[test]
fn an_ack_does_not_go_to_a_younger_connection() {
    for version in [Version::V2, Version::V3, Version::V4] {
        let mut net = offloading(3, |_| {});
        one_shot(&mut net, 1, 5000);
        let old = open(&mut net, 700, &start(&hello(version, ConnType::BulkOut)));
        net.raw_send(old, &message(version, &put(5000), 44));
        net.run(60_000);
        assert_eq!(net.nodes[0].machine.gauges().copy_jobs, 1);
        let young = net.raw_connect(at(701), 0);
        net.raw_send(young, &start(&hello(version, ConnType::Control)));
        net.run(SEC);
        assert_eq!(noops(&behind_hello(&net, old)), [(0, 44)], "{version:?}");
        assert!(behind_hello(&net, young).is_empty());
    }
}

/// A node that dials from ports of anybody's may have two names at a peer: one for what it dialled, one for what the peer
/// did. A cookie is of one of them.
#[test]
fn an_unprivileged_node_acks_where_the_request_came() {
    for privileged in [true, false] {
        let mut net = net(Config { privileged, ..config(1) });
        attach(&mut net, 0, MdMem::Sink(Sink::Lend(9000)), false);
        let links = open_set(&mut net, Version::V3);
        let other = open(&mut net, 600, &start(&hello(Version::V3, ConnType::BulkIn)));
        for (n, link) in (2..).zip([links[1], other]) {
            net.raw_send(link, &message(Version::V3, &put(5000), n));
            net.run(SEC / 10);
        }
        let at_home = [links[1], other].map(|l| noops(&behind_hello(&net, l)));
        if privileged {
            let all: Vec<_> =
                links.iter().chain([&other]).flat_map(|l| noops(&behind_hello(&net, *l))).collect();
            assert_eq!(all.len(), 2);
        } else {
            assert_eq!(at_home, [vec![(0, 2)], vec![(0, 3)]]);
        }
    }
}
