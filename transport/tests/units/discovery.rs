//! Peers are asked who they are before the first message to them, and told who we are (docs/protocol/lnet.md §6.3, §6.4).

use transport::lnd::tunables::Change;
use transport::lnd::{Config, LnetError, Payload, Shards, Sink};
use transport::lnet::{Event, MdMem, Op};
use transport::testing::capture::{self, Msg};
use transport::testing::net::{Net, SEC};
use transport::testing::pair::{Pair, discovering};
use transport::wire::{
    ByteOrder, KsockType, LnetBody, LnetHdr, Nid, PingInfo, ProcessId, Version, WireHandle, ping,
};

use crate::raw::{self, PEER, id, nid};

const HANDLE: WireHandle = WireHandle { interface: 1, object: 9 };

/// The info of a peer with these NIDs, from its first.
pub(crate) fn info_of(nids: impl IntoIterator<Item = Nid>, features: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    PingInfo::new(nids, 12345, features, 2).emit(&mut bytes);
    bytes
}

/// The raw peer's.
fn info(features: u32) -> Vec<u8> {
    info_of([nid(PEER)], features)
}

fn with(mut bytes: Vec<u8>, at: usize, word: u32) -> Vec<u8> {
    bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    bytes
}

/// A message of the raw peer's with this payload.
pub(crate) fn message(body: LnetBody, payload: &[u8]) -> Vec<u8> {
    let h = raw::header(body, payload.len() as u32);
    [&raw::ksock(KsockType::Lnet, 0, 0, 0)[..], &h.emit_as(Version::V3)[..], payload].concat()
}

pub(crate) fn push(payload: &[u8]) -> Vec<u8> {
    let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
    message(LnetBody::Put { ack: HANDLE, match_bits, hdr_data: 0, portal, offset: 0 }, payload)
}

/// A node that discovers, and the raw peer's connections to it.
pub(crate) struct Asked {
    pub(crate) net: Net,
    pub(crate) links: [usize; 3],
    seen: usize,
    tag: u64,
}

impl Asked {
    pub(crate) fn new(cfg: Config) -> Asked {
        let mut net = raw::net(cfg);
        let links = raw::open_set(&mut net, Version::V3);
        Asked { net, links, seen: 0, tag: 0 }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.net.raw_send(self.links[0], bytes);
        self.net.run(SEC / 10);
    }

    /// Messages that the node has sent on CONTROL since this was asked.
    pub(crate) fn said(&mut self) -> Vec<(LnetHdr, Vec<u8>)> {
        self.net.run(SEC / 10);
        let all = raw::messages(&self.net, self.links[0], 1, Version::V3);
        let some = all.into_iter().skip(self.seen).map(|m| match m {
            Msg::Lnet(_, h, payload) => (h, payload),
            other => panic!("{other:?}"),
        });
        let some: Vec<_> = some.collect();
        self.seen += some.len();
        some
    }

    /// An application's PUT to the peer.
    pub(crate) fn put(&mut self) {
        self.tag += 1;
        self.net.op(0, raw::put_op(self.tag, id(PEER), Payload::inline(b"app").unwrap(), false));
    }

    /// The node has sent a ping, and nothing else: gives its handle and its sink.
    fn asks(&mut self) -> (WireHandle, u32) {
        let said = self.said();
        let [(h, _)] = &said[..] else { panic!("{said:?}") };
        let LnetBody::Get { handle, match_bits: ping::MATCH_BITS, portal: 0, src_offset: 0, sink_length } =
            h.body
        else {
            panic!("{h:?}")
        };
        (handle, sink_length)
    }

    /// Answers the ping that the node has sent.
    pub(crate) fn answer(&mut self, info: &[u8]) {
        let (handle, sink) = self.asks();
        let part = &info[..info.len().min(sink as usize)];
        self.send(&message(LnetBody::Reply { handle }, part));
    }

    pub(crate) fn ack(&mut self, handle: WireHandle, mlength: u32) {
        let match_bits = ping::MATCH_BITS;
        self.send(&message(LnetBody::Ack { handle, match_bits, mlength }, &[]));
    }

    /// The tags of an application's PUTs that have ended, and how.
    fn ended(&mut self) -> Vec<(u64, Result<(), LnetError>)> {
        let end = |e| match e {
            Event::Send { tag, status, done: true } => (tag, status),
            other => panic!("{other:?}"),
        };
        self.net.take_events(0).into_iter().map(end).collect()
    }

    fn count(&self) -> transport::lnd::Counters {
        raw::counters(&self.net)
    }
}

pub(crate) fn is_push(h: &LnetHdr) -> Option<WireHandle> {
    match h.body {
        LnetBody::Put { ack, match_bits: ping::MATCH_BITS, portal: 0, .. } => Some(ack),
        _ => None,
    }
}

/// Whether it is the application's.
fn is_app(m: &(LnetHdr, Vec<u8>)) -> bool {
    matches!(m.0.body, LnetBody::Put { portal: 5, .. }) && m.1 == b"app"
}

#[test]
fn the_first_message_waits_until_the_peer_is_known() {
    for features in [0x1e, 0x02, 0x06, 0x0e, 0x16] {
        let mut a = Asked::new(discovering(1));
        (0..3).for_each(|_| a.put());
        a.net.run(SEC);
        assert!(a.ended().is_empty(), "they wait");
        assert_eq!(a.net.nodes[0].machine.gauges().queued, 3);
        a.answer(&info(features));
        let mut said = a.said();
        if features == 0x1e {
            // Those who take part are told of us; nobody waits for their ACK.
            let (h, payload) = said.remove(0);
            let own = PingInfo::parse(&payload).unwrap();
            assert_eq!((own.features, own.sequence, own.nis.len()), (0x1e, 2, 1));
            a.ack(is_push(&h).unwrap(), payload.len() as u32);
        }
        assert!(said.len() == 3 && said.iter().all(is_app), "{features:#x}: {said:?}");
        assert_eq!(a.ended(), [(1, Ok(())), (2, Ok(())), (3, Ok(()))]);
        a.put();
        assert!(matches!(&a.said()[..], [m] if is_app(m)), "it is known");
        let c = a.count();
        let pushes = u64::from(features == 0x1e);
        assert_eq!((c.discoveries, c.pushes_tx, c.pushes_acked), (1, pushes, pushes));
        a.net.assert_at_rest(0);
    }
}

#[test]
fn an_info_of_the_other_order_is_as_good() {
    let mut a = Asked::new(discovering(1));
    a.put();
    let mut bytes = Vec::new();
    PingInfo { order: ByteOrder::Big, ..PingInfo::new([nid(PEER)], 12345, 0x06, 2) }.emit(&mut bytes);
    a.answer(&bytes);
    assert!(matches!(&a.said()[..], [m] if is_app(m)));
}

/// lnet.md §6.2: a kernel asks again without pause, hundreds of times a second.
#[test]
fn an_answer_that_makes_no_sense_is_not_asked_for_again_without_pause() {
    let good = info(0x1e);
    for bad in [
        with(good.clone(), 0, 0x7069_6E68),
        with(good.clone(), 4, 0x1c),
        with(good.clone(), 12, 0),
        with(good.clone(), 12, 4097),
        with(good.clone(), 20, 0),
        good[..40].to_vec(),
        good[..15].to_vec(),
        Vec::new(),
    ] {
        let mut a = Asked::new(discovering(1));
        a.put();
        a.answer(&bad);
        // One whose end is missing is asked for with a larger sink: twice.
        for _ in 0..2 {
            if a.count().discoveries_failed == 0 {
                a.answer(&bad);
            }
        }
        assert_eq!(a.ended(), [(1, Err(LnetError::Malformed))], "{bad:x?}");
        let before = a.count().discoveries;
        for _ in 0..50 {
            a.put();
            a.net.run(SEC / 100);
        }
        assert!(a.ended().iter().all(|e| e.1 == Err(LnetError::Malformed)), "they end at once");
        assert_eq!((a.count().discoveries, a.said().len()), (before, 0));
        a.net.run(SEC);
        a.put();
        a.answer(&good);
        assert!(a.said().iter().any(is_app), "asked again with the next message");
        assert_eq!((a.ended(), a.count().err_ping_info), (vec![(52, Ok(()))], 1));
    }
}

#[test]
fn the_pauses_grow() {
    let mut a = Asked::new(discovering(1));
    for _ in 0..3000 {
        a.put();
        for (h, _) in a.said() {
            let LnetBody::Get { handle, .. } = h.body else { panic!("{h:?}") };
            a.send(&message(LnetBody::Reply { handle }, &with(info(0x1e), 4, 0x1c)));
        }
    }
    // 300 s and more: after 1, 2, 4 ... 64 s.
    assert!((8..=13).contains(&a.count().discoveries), "{}", a.count().discoveries);
}

#[test]
fn a_ping_that_nobody_answers_ends_what_waits_and_is_sent_once() {
    let mut a = Asked::new(Config { keepalive: 0, ..discovering(1) });
    a.put();
    a.asks();
    a.net.run(149 * SEC);
    assert!(a.ended().is_empty() && a.said().is_empty());
    a.net.run(3 * SEC);
    assert_eq!(a.ended(), [(1, Err(LnetError::TimedOut))]);
    a.put();
    a.answer(&info(0x06));
    assert!(a.said().iter().any(is_app), "the next message asks again, without a pause");
    // And one that cannot be sent says why.
    let mut net = raw::net(discovering(1));
    net.op(0, raw::put_op(1, id(2), Payload::empty(), true));
    net.run(10 * SEC);
    let events = net.take_events(0);
    assert!(
        matches!(events[..], [Event::Send { tag: 1, status: Err(LnetError::Refused), done: true }]),
        "{events:?}"
    );
    net.assert_quiet();
}

#[test]
fn a_longer_answer_is_asked_for_with_a_larger_sink() {
    for n in [20u32, 63, 4095] {
        let mut a = Asked::new(discovering(1));
        a.put();
        let (_, first) = {
            let nids = (0..n).map(|i| {
                Nid::tcp(if i == 0 { raw::peer_ip() } else { (0x0c00_0000 + i).to_be_bytes().into() }, 0)
            });
            let bytes = info_of(nids, 0x0e);
            a.answer(&bytes);
            a.answer(&bytes);
            (bytes.len(), 272)
        };
        assert_eq!(first, 272);
        assert!(a.said().iter().any(is_app), "{n}");
        // Of so many names some are kept.
        let kept = a.net.nodes[0].machine.nids_kept();
        assert!(kept >= n.min(32) as usize && kept <= 32, "{n}: {kept}");
        assert_eq!(a.net.nodes[0].machine.primary(Nid::tcp([12, 0, 0, 1].into(), 0)), nid(PEER));
    }
}

#[test]
fn the_tunable_turns_it_off_and_our_features_say_so() {
    let mut cfg = discovering(1);
    transport::lnd::tunables::set(&mut cfg, "lnet_peer_discovery_disabled", "1").unwrap();
    let mut a = Asked::new(cfg);
    a.put();
    assert!(matches!(&a.said()[..], [m] if is_app(m)));
    for (cfg, features) in [(raw::config(1), 0x0e), (discovering(1), 0x1e)] {
        let mut pair = Pair::of(discovering(2).with_nid(nid(2)), cfg.with_nid(nid(1)));
        let info = pair.ping(0).unwrap();
        assert_eq!((info.features, info.sequence), (features, 2));
    }
}

/// lnet.md §6.3: ACK and REPLY never trigger discovery, nor does the traffic of portal 0.
#[test]
fn answers_and_pings_ask_nobody() {
    let mut a = Asked::new(discovering(1));
    raw::attach(&mut a.net, 0, MdMem::Sink(Sink::Discard(4096)), true);
    let put = LnetBody::Put { ack: HANDLE, match_bits: 5, hdr_data: 0, portal: 5, offset: 0 };
    a.send(&message(put, b"x"));
    a.send(&raw::message(Version::V3, &raw::ping_get(0), 0));
    a.net.op(0, raw::ping_op(id(PEER)));
    let said = a.said();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(
        matches!(said[0].0.body, LnetBody::Ack { .. }) && matches!(said[1].0.body, LnetBody::Reply { .. })
    );
    assert!(matches!(said[2].0.body, LnetBody::Get { sink_length: 3960, .. }));
    assert_eq!(a.count().discoveries, 0);
}

/// lnet.md §6.4: a stranger's push is acknowledged and taken, and we push back without a ping, as we do not ask before our first message
/// either. One that is not Multi-Rail is asked, and of it nothing is taken.
#[test]
fn pushes_are_acknowledged_and_taken() {
    let two = info_of([nid(PEER), nid(67)], 0x1e);
    let mut a = Asked::new(discovering(1));
    a.send(&push(&two));
    let said = a.said();
    let [(ack, _), (own, _)] = &said[..] else { panic!("{said:?}") };
    assert_eq!(ack.body, LnetBody::Ack { handle: HANDLE, match_bits: ping::MATCH_BITS, mlength: 64 });
    a.ack(is_push(own).unwrap(), 48);
    a.put();
    assert!(matches!(&a.said()[..], [m] if is_app(m)), "it is known");
    assert_eq!((a.net.nodes[0].machine.primary(nid(67)), a.count().pushes_taken), (nid(PEER), 1));
    // Garbage, and an info that is none, leave all as it was.
    for bad in [vec![7; 48], vec![], with(two.clone(), 4, 0x1c)] {
        a.send(&push(&bad));
        assert!(matches!(&a.said()[..], [(h, _)] if matches!(h.body, LnetBody::Ack { .. })));
    }
    assert_eq!((a.net.nodes[0].machine.primary(nid(67)), a.count().pushes_taken), (nid(PEER), 1));
    assert_eq!(a.count().discoveries, 0);
    // One NID less.
    a.send(&push(&info(0x1e)));
    assert_eq!(a.net.nodes[0].machine.primary(nid(67)), nid(67));
    // A peer that is none of Multi-Rail's, and one that is not asked at all.
    for (cfg, asked) in [(discovering(1), true), (raw::config(1), false)] {
        let mut a = Asked::new(cfg);
        a.send(&push(&info_of([nid(PEER), nid(67)], 0x06)));
        if asked {
            a.seen += 1;
            a.answer(&info(0x06));
        }
        a.send(&push(&two));
        assert_eq!(a.net.nodes[0].machine.nids_kept(), 0);
        assert_eq!(
            (a.count().pushes_rx, a.count().pushes_taken, a.count().discoveries),
            (2, 0, u64::from(asked))
        );
    }
}

/// lnet.md §6.4: 272 of 8000 bytes are acknowledged, and the peer is asked with a larger sink; not once for each push.
#[test]
fn a_push_that_is_too_long_has_the_peer_asked() {
    let many =
        info_of((0..70).map(|n| if n == 0 { nid(PEER) } else { Nid::tcp([12, 0, 0, n].into(), 0) }), 0x1e);
    let mut a = Asked::new(discovering(1));
    a.send(&push(&many));
    let said = a.said();
    let [(ack, _), (get, _)] = &said[..] else { panic!("{said:?}") };
    assert_eq!(ack.body, LnetBody::Ack { handle: HANDLE, match_bits: ping::MATCH_BITS, mlength: 272 });
    let LnetBody::Get { handle, sink_length, .. } = get.body else { panic!("{get:?}") };
    assert_eq!(sink_length as usize, many.len());
    a.send(&message(LnetBody::Reply { handle }, &many));
    assert_eq!(a.net.nodes[0].machine.primary(Nid::tcp([12, 0, 0, 9].into(), 0)), nid(PEER));
    let own = a.said();
    a.ack(is_push(&own[0].0).unwrap(), 48);
    let before = a.count().discoveries;
    for n in 0..100 {
        a.send(&push(&many));
        for (h, _) in a.said() {
            if let LnetBody::Get { handle, .. } = h.body {
                a.send(&message(LnetBody::Reply { handle }, &many));
            }
            if let LnetBody::Ack { mlength, .. } = h.body {
                assert_eq!(mlength, 1040, "the room has grown, to its bound: {n}");
            }
        }
    }
    // 20 s and more.
    let asked = a.count().discoveries - before;
    assert!((5..=40).contains(&asked), "{asked}");
}

/// Of the NIDs that a push names 32 are kept, and are the peer's.
#[test]
fn of_a_push_32_nids_are_kept() {
    let other = |n: u8| Nid::tcp([12, 0, 0, n].into(), 0);
    let many = info_of((0..60).map(|n| if n == 0 { nid(PEER) } else { other(n) }), 0x1e);
    let mut a = Asked::new(discovering(1));
    // The room for it grows with the first one, which is cut.
    a.send(&push(&many));
    for (h, _) in a.said() {
        if let LnetBody::Get { handle, .. } = h.body {
            a.send(&message(LnetBody::Reply { handle }, &info(0x1e)));
        }
    }
    let own = a.said();
    a.ack(is_push(&own[0].0).unwrap(), 48);
    assert_eq!(a.net.nodes[0].machine.nids_kept(), 0);
    a.send(&push(&many));
    let whole = |m: &(LnetHdr, _)| matches!(m.0.body, LnetBody::Ack { mlength, .. } if mlength as usize == many.len());
    assert!(a.said().iter().any(whole));
    assert_eq!((a.net.nodes[0].machine.nids_kept(), a.count().pushes_taken), (32, 1));
    let kept = |n: u8| a.net.nodes[0].machine.primary(other(n)) == nid(PEER);
    assert!((1..32).all(kept) && !(32..60).any(kept));
}

/// A push that is not acknowledged is tried again with the next discovery, and not for ever.
#[test]
fn a_push_that_nobody_acknowledges_is_not_repeated_for_ever() {
    let mut a = Asked::new(Config { keepalive: 0, ..discovering(1) });
    for n in 1..=6u64 {
        a.put();
        for (h, _) in a.said() {
            if let LnetBody::Get { handle, .. } = h.body {
                a.send(&message(LnetBody::Reply { handle }, &info(0x1e)));
            }
        }
        let said = a.said();
        assert_eq!(said.iter().any(|m| is_push(&m.0).is_some()), n <= 3, "{n}: {said:?}");
        assert_eq!(a.ended(), [(n, Ok(()))], "the application's goes");
        a.net.run(160 * SEC);
    }
    assert_eq!((a.count().pushes_tx, a.count().pushes_acked), (3, 0));
}

#[test]
fn two_nodes_know_each_other_after_one_message() {
    let mut pair = Pair::of(discovering(1), discovering(2));
    pair.attach(1, MdMem::Sink(Sink::Lend(4096)));
    let some = || Payload::inline(b"some bytes").unwrap();
    assert_eq!(pair.put(0, some()), Ok(10));
    pair.run(SEC);
    let count = |pair: &Pair, n: usize| {
        let c = pair.nodes[n].machine.counters();
        [c.discoveries, c.pushes_tx, c.pushes_acked, c.pushes_rx]
    };
    // Whoever has been told asks no more (upper.md §4, lst-full-session).
    let both = [[1; 4], [0, 1, 1, 1]];
    assert_eq!([count(&pair, 0), count(&pair, 1)], both);
    pair.attach(0, MdMem::Sink(Sink::Lend(4096)));
    assert_eq!((pair.put(1, some()), pair.put(0, some())), (Ok(10), Ok(10)));
    assert_eq!([count(&pair, 0), count(&pair, 1)], both, "nobody asks again");
    // A change is told at once, to those that want to know.
    let change = |v| Change::new(&discovering(1), "lnet_peer_discovery_disabled", v).unwrap();
    pair.tune(0, &change("1"));
    pair.run(SEC);
    assert_eq!((count(&pair, 0)[1], count(&pair, 1)[3], pair.ping(1).unwrap().features), (2, 2, 0x0e));
    pair.tune(0, &change("0"));
    pair.run(SEC);
    assert_eq!((pair.ping(1).unwrap().features, count(&pair, 1)[3]), (0x1e, 3));
    assert_eq!(pair.nodes[1].machine.counters().pushes_taken, 3);
    pair.take_events(1);
    pair.take_events(0);
    pair.assert_quiet();
}

/// We ask and tell as a kernel does, byte for byte but for NIDs and handles.
#[test]
fn our_ping_and_our_push_are_a_kernel_s() {
    let path = format!("{}/../testdata/captures/lnet/v3-discover.pcap", env!("CARGO_MANIFEST_DIR"));
    let flow = &capture::flows(path.as_ref()).unwrap()[0];
    let (theirs, _) = capture::messages(&flow.a, true, flow.from_start, Version::V3).unwrap();
    let theirs: Vec<(LnetHdr, Vec<u8>)> = theirs
        .into_iter()
        .filter_map(|m| match m.msg {
            Msg::Lnet(_, h, payload) => Some((h, payload)),
            _ => None,
        })
        .collect();
    let mut a = Asked::new(discovering(1));
    a.put();
    let mut ours = a.said();
    let LnetBody::Get { handle, .. } = ours[0].0.body else { panic!("{ours:?}") };
    a.send(&message(LnetBody::Reply { handle }, &info(0x1e)));
    ours.extend(a.said().into_iter().take(1));
    let plain = |(h, payload): &(LnetHdr, Vec<u8>)| {
        let mut h = *h;
        (h.src_nid, h.dest_nid) = (nid(1), nid(2));
        match &mut h.body {
            LnetBody::Get { handle, .. } | LnetBody::Put { ack: handle, .. } => *handle = HANDLE,
            _ => {}
        }
        let mut payload = payload.clone();
        if payload.len() == 48 {
            // Entry 1: the NID.
            payload[32..40].fill(0);
        }
        (h, payload)
    };
    let first_two = |all: &[(LnetHdr, Vec<u8>)]| all.iter().take(2).map(plain).collect::<Vec<_>>();
    assert_eq!(first_two(&ours), first_two(&theirs));
}

/// upper.md §2: a message goes from any NID of a node to any of the other's, over a set of connections of each pair. One push is enough
/// for all of them; each NID is asked once whether it is the node that claims it.
#[test]
fn every_pair_of_nids_of_two_nodes_carries_messages() {
    let mut net = Net::new();
    net.add(discovering(1).also(nid(3)));
    net.add(discovering(2).also(nid(4)));
    for node in 0..2 {
        raw::attach(&mut net, node, MdMem::Sink(Sink::Discard(4096)), true);
    }
    net.run(SEC / 10);
    (0..2).for_each(|n| drop(net.take_events(n)));
    let mut tag = 0;
    for (node, from, to) in [(0, [1, 3], [2, 4]), (1, [2, 4], [1, 3])] {
        for (f, t) in from.into_iter().flat_map(|f| to.map(|t| (f, t))) {
            tag += 1;
            let mut op = raw::put_op(tag, id(t), Payload::inline(b"app").unwrap(), true);
            if let Op::Put { from, .. } = &mut op {
                *from = Some(nid(f));
            }
            net.op(node, op);
            net.run(SEC);
            let events = net.take_events(node);
            let acked = |e: &Event| matches!(e, Event::Ack { tag: t, status: Ok(()), .. } if *t == tag);
            assert!(events.iter().any(acked), "{f} to {t}: {events:?}");
        }
    }
    for n in 0..2 {
        let c = net.nodes[n].machine.counters();
        assert_eq!((c.discoveries, c.pushes_tx, c.pushes_acked, c.pushes_rx), (2 - n as u64, 1, 1, 1), "{n}");
        assert_eq!(net.nodes[n].machine.gauges().conns_up, 12, "a set for each pair");
    }
    assert_eq!(net.nodes[0].machine.primary(nid(4)), nid(2));
    assert_eq!(net.nodes[1].machine.primary(nid(3)), nid(1));
    (0..2).for_each(|n| drop(net.take_events(n)));
    net.assert_quiet();
}

#[test]
fn a_node_that_goes_down_ends_what_waits() {
    let mut a = Asked::new(discovering(1));
    a.put();
    a.asks();
    a.net.op(0, Op::Shutdown { tag: 99 });
    a.net.run(5 * SEC);
    let events = a.net.take_events(0);
    assert!(
        matches!(
            events[..],
            [
                Event::Send { tag: 1, status: Err(LnetError::ShuttingDown), done: true },
                Event::ShutDown { tag: 99 }
            ]
        ),
        "{events:?}"
    );
}

/// A peer's home asks it, whichever shard the application is on, and every shard learns its names; a home that moves
/// in the middle takes what waits along.
#[test]
fn a_peer_s_home_asks_it() {
    for moved in [false, true] {
        let mut net = Net::new();
        for s in 0..3 {
            net.add(Config { shards: Shards::new(s, 3).unwrap(), ..discovering(1) });
        }
        let other = net.add(discovering(2).also(nid(3)));
        net.op(other, raw::AT.attach(9, transport::lnet::MdSpec::new(MdMem::Sink(Sink::Discard(4096)))));
        net.run(SEC / 10);
        net.take_events(other);
        for n in 0..5 {
            net.op(n % 3, raw::put_op(n as u64, id(2), Payload::inline(b"app").unwrap(), true));
        }
        let home = net.home(0, [10, 0, 0, 2].into());
        if moved {
            let start = net.now;
            net.run_until(start + SEC, |n| n.nodes[home].machine.counters().discoveries == 1);
            let to = transport::stream::ShardId(((home + 1) % 3) as u16);
            let bucket = transport::stream::Bucket::of([10, 0, 0, 2].into());
            assert!(net.move_home(home, bucket, to));
        }
        net.run(SEC);
        let asked: u64 = (0..3).map(|n| net.nodes[n].machine.counters().discoveries).sum();
        assert_eq!(asked, 1, "{moved}");
        let mut ended: Vec<u64> = Vec::new();
        for n in 0..3 {
            assert_eq!(net.nodes[n].machine.primary(nid(3)), nid(2), "shard {n}");
            for e in net.take_events(n) {
                match e {
                    Event::Ack { tag, status: Ok(()), done: true, .. }
                    | Event::Send { tag, status: Ok(()), done: true } => {
                        ended.push(tag);
                    }
                    Event::Send { status: Ok(()), .. } | Event::Ack { status: Ok(()), .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        ended.sort_unstable();
        assert_eq!(ended, [0, 1, 2, 3, 4]);
        let puts = net.take_events(other).len();
        assert_eq!(puts, 5);
        (0..=other).for_each(|n| net.assert_at_rest(n));
    }
}

/// A crowd of strangers that push as much as they can: what is kept of it is bounded, each is asked once, and an honest
/// peer is discovered meanwhile.
#[test]
fn pushes_of_a_crowd_are_bounded() {
    let mut net = raw::net(discovering(1));
    let mut asked = 0;
    for n in 0..60u8 {
        let from = std::net::SocketAddr::from(([10, 9, 0, n], 700));
        let link = net.raw_connect(from, 0);
        let own = Nid::tcp([10, 9, 0, n].into(), 0);
        let hello = transport::wire::Hello {
            src_nid: own,
            ..raw::hello(Version::V3, transport::wire::ConnType::Control)
        };
        net.raw_send(link, &raw::start(&hello));
        net.run(SEC / 100);
        let nids = (0..4095u32).map(|i| {
            if i == 0 {
                own
            } else {
                Nid::tcp((0x0c00_0000 + u32::from(n) * 4096 + i).to_be_bytes().into(), 0)
            }
        });
        let bytes = info_of(nids, 0x1e);
        let say = |body, payload: &[u8]| {
            let h = LnetHdr { src_nid: own, ..raw::header(body, payload.len() as u32) };
            [&raw::ksock(KsockType::Lnet, 0, 0, 0)[..], &h.emit_as(Version::V3)[..], payload].concat()
        };
        let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
        let put = LnetBody::Put { ack: HANDLE, match_bits, hdr_data: 0, portal, offset: 0 };
        for _ in 0..5 {
            net.raw_send(link, &say(put, &bytes));
        }
        net.run(SEC / 10);
        for m in raw::messages(&net, link, 1, Version::V3) {
            if let Msg::Lnet(_, LnetHdr { body: LnetBody::Get { handle, sink_length, .. }, .. }, _) = m {
                asked += 1;
                net.raw_send(
                    link,
                    &say(LnetBody::Reply { handle }, &bytes[..bytes.len().min(sink_length as usize)]),
                );
            }
        }
        net.run(SEC / 10);
    }
    assert_eq!(asked, 60);
    let kept = net.nodes[0].machine.nids_kept();
    assert!((1..=60 * 32).contains(&kept), "{kept}");
    let held = net.nodes[0].machine.held();
    assert!(held.used < held.limit / 100, "{held:?}");
    let links = raw::open_set(&mut net, Version::V3);
    net.op(0, raw::put_op(1, ProcessId::lustre(nid(PEER)), Payload::inline(b"app").unwrap(), false));
    net.run(SEC / 10);
    assert!(
        matches!(&raw::messages(&net, links[0], 1, Version::V3)[..], [Msg::Lnet(_, h, _)] if matches!(h.body, LnetBody::Get { .. }))
    );
}
