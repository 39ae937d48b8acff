//! Hostile and broken peers: a counted, named error, that peer's set closed, and nothing else disturbed.

use proptest::prelude::*;
use transport::lnd::{Accept, Config, Counters, Payload, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::testing::data::Spot;
use transport::testing::net::{Net, SEC};
use transport::wire::hello::Version;
use transport::wire::{
    AcceptorReq, ByteOrder, ConnType, Hello, KsockHdr, KsockType, LnetBody, LnetHdr, Nid, ProcessId,
    WireHandle, acceptor,
};

use crate::raw::{self, at, config, counters, hello, ksock, nid};

/// Node 0 is the victim, node 1 a well-behaved peer with a set of connections to it.
fn net() -> Net {
    let mut net = Net::new();
    net.add(config(1));
    net.add(config(2));
    net.op(0, Spot(5, 1).attach(0, MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20)))));
    undisturbed(&mut net, true);
    net
}

fn undisturbed(net: &mut Net, want: bool) {
    let ok = raw::pinged(net, 1, 1, SEC / 10) == Some(Ok(()));
    assert_eq!(ok, want, "the other peer is undisturbed");
}

fn put(len: u32) -> LnetHdr {
    let body = LnetBody::Put { ack: WireHandle::NONE, match_bits: 1, hdr_data: 0, portal: 5, offset: 0 };
    raw::header(body, len)
}

fn of_v3(h: &LnetHdr) -> Vec<u8> {
    raw::message(Version::V3, h, 0)
}

/// Sends `bytes` on a new connection; gives what the victim answered and whether it closed.
fn send(net: &mut Net, port: u16, bytes: &[u8]) -> (Vec<u8>, bool, usize) {
    let link = net.raw_connect(at(port), 0);
    net.raw_send(link, bytes);
    net.run(SEC / 10);
    let (wrote, closed) = net.wire(link, 1);
    (wrote.to_vec(), closed, link)
}

/// Exactly these counters moved, by one each.
fn only(before: &Counters, after: &Counters, names: &[&str]) {
    let ignored = [
        "noops_rx",
        "msgs_rx",
        "msgs_tx",
        "payload_tx_bytes",
        "payload_rx_bytes",
        "tx_inline_bytes",
        "conns_up",
        "sets_closed",
        "rx_lent_bytes",
    ];
    for ((name, a), (_, b)) in before.iter().zip(after.iter()) {
        if !ignored.contains(&name) {
            assert_eq!(b - a, u64::from(names.contains(&name)), "{name}, expected {names:?}");
        }
    }
}

#[test]
fn acceptor_requests() {
    let swap = |mut b: Vec<u8>, at: usize, to: &[u8]| {
        b[at..at + to.len()].copy_from_slice(to);
        b
    };
    let refusal = acceptor::refusal().to_vec();
    let lnet_magic = hello(Version::V3, ConnType::Control).emit().to_vec();
    for (bytes, answer, counter) in [
        (swap(raw::request(nid(1)), 0, b"GET "), vec![], "err_magic"),
        (lnet_magic, refusal.clone(), "err_magic"),
        (swap(raw::request(nid(1)), 4, &[3]), refusal.clone(), "err_version"),
        (swap(raw::request(nid(1)), 4, &[0]), refusal, "err_version"),
        (swap(raw::request(nid(1)), 8, &[9]), vec![], "err_target_nid"),
        (swap(raw::request(nid(1)), 14, &[9]), vec![], "err_target_nid"),
    ] {
        let mut net = net();
        let before = counters(&net);
        let (wrote, closed, _) = send(&mut net, 700, &bytes);
        assert_eq!((wrote, closed), (answer, true), "{counter}");
        only(&before, &counters(&net), &[counter]);
        undisturbed(&mut net, true);
    }
}

#[test]
fn ports_that_any_user_may_bind() {
    let mut net = net();
    let before = counters(&net);
    let (wrote, closed, _) = send(&mut net, 1024, &raw::start(&hello(Version::V3, ConnType::Control)));
    assert_eq!((wrote.len(), closed), (0, true));
    only(&before, &counters(&net), &["err_unprivileged"]);
    let mut open = Net::new();
    open.add(Config { accept: Accept::All, ..config(1) });
    let (wrote, closed, _) = send(&mut open, 40_000, &raw::start(&hello(Version::V3, ConnType::Control)));
    assert_eq!((wrote.len(), closed), (56, false));
}

/// Field report L7: what has been read to its end is closed with FIN, and what is left unread with RST, as kernels do.
#[test]
fn who_was_read_is_left_with_fin() {
    let h = hello(Version::V3, ConnType::Control);
    let emit = |h: &Hello| h.emit().to_vec();
    let with = |mut b: Vec<u8>, at: usize, to: &[u8]| {
        b[at..at + to.len()].copy_from_slice(to);
        b
    };
    let v1 = emit(&Hello { version: Version::V1, ..h.clone() });
    for (what, bytes, fin) in [
        ("a bad type", with(emit(&h), 48, &[4]), true),
        ("type NONE", emit(&hello(Version::V3, ConnType::None)), true),
        ("a V1 message that is no HELLO", with(v1, 24, &[3]), true),
        ("an address of zero", [with(emit(&h), 52, &[1]), vec![0; 4]].concat(), true),
        ("source ANY", with(emit(&h), 8, &[0xff; 8]), true),
        ("5 s of silence behind the request", vec![], true),
        ("5 s of silence inside the HELLO", emit(&h)[..20].to_vec(), true),
        ("a bad magic", with(emit(&h), 0, b"SSH-"), false),
        ("17 addresses", with(emit(&h), 52, &[17]), false),
    ] {
        let mut net = net();
        let (wrote, _, link) = send(&mut net, 700, &[raw::request(nid(1)), bytes].concat());
        net.run(6 * SEC);
        assert_eq!((wrote.len(), net.wire(link, 1).1, net.raw_ended(link)), (0, true, (fin, !fin)), "{what}");
    }
    // Bytes that come after that are reset by a kernel's TCP; our own takes them, and nobody has them.
    for discards in [false, true] {
        let mut net = net();
        net.discards = discards;
        let bad = with(emit(&h), 48, &[4]);
        let (_, _, link) = send(&mut net, 700, &[raw::request(nid(1)), bad].concat());
        let came = net.arrived(link, 1);
        assert_eq!(net.raw_ended(link), (true, false));
        net.raw_send(link, &[0; 100]);
        net.run(SEC);
        assert_eq!((net.arrived(link, 1), net.raw_ended(link)), (came, (true, !discards)));
    }
    // NONE goes before a FIN: a RST could overtake it.
    let mut net = net();
    let (wrote, _, link) = send(&mut net, 700, &[raw::request(nid(1)), with(emit(&h), 4, &[9])].concat());
    assert_eq!((wrote.len(), net.raw_ended(link)), (56, (true, false)));
}

#[test]
fn hellos() {
    let none_to_self = |net: &Net| {
        let c = net.nodes[0].machine.config();
        Hello {
            src_nid: nid(1),
            dst_nid: nid(1),
            src_incarnation: c.incarnation,
            ..hello(Version::V3, ConnType::None)
        }
        .emit()
        .to_vec()
    };
    let h = hello(Version::V3, ConnType::Control);
    let raw = |at: usize, to: &[u8]| {
        let mut b = h.emit().to_vec();
        b[at..at + to.len()].copy_from_slice(to);
        b
    };
    let v1 = |at: usize, to: &[u8]| {
        let mut b = Hello { version: Version::V1, ..h.clone() }.emit().to_vec();
        b[at..at + to.len()].copy_from_slice(to);
        b
    };
    for (bytes, none, counter) in [
        (raw(0, b"\0\0\0\0"), false, "err_magic"),
        (raw(4, &[5]), true, "err_version"),
        (raw(4, &[1]), true, "err_version"),
        (v1(6, &[1]), true, "err_version"),
        (v1(4, &[2, 0, 1]), true, "err_version"),
        (v1(24, &[3]), false, "err_hello_ips"),
        (v1(28, &[68]), false, "err_hello_ips"),
        (v1(40, &[9]), false, "err_conn_type"),
        (raw(8, &[0xff; 8]), false, "err_hello_nid"),
        (Hello { src_nid: Nid::LO, ..h.clone() }.emit().to_vec(), false, "err_hello_nid"),
        (hello(Version::V3, ConnType::None).emit().to_vec(), false, "err_conn_type"),
        (raw(48, &[4]), false, "err_conn_type"),
        (raw(52, &[17]), false, "err_hello_ips"),
        (raw(52, &[0xff; 4]), false, "err_hello_ips"),
        ([raw(52, &[1]), vec![0; 4]].concat(), false, "err_hello_ips"),
    ] {
        let mut net = net();
        let before = counters(&net);
        let answer = if none { none_to_self(&net) } else { vec![] };
        let (wrote, closed, _) = send(&mut net, 700, &[raw::request(nid(1)), bytes].concat());
        assert_eq!((wrote, closed), (answer, true), "{counter}");
        only(&before, &counters(&net), &[counter]);
        assert_eq!(net.nodes[0].machine.gauges().peers, 1);
        undisturbed(&mut net, true);
    }
}

#[test]
fn a_big_endian_hello_and_old_address_lists_are_taken() {
    let mut net = net();
    let mut h = Hello { order: ByteOrder::Big, ..hello(Version::V3, ConnType::Control) };
    h.ips.extend([1, 2, 3]);
    let req = AcceptorReq { order: ByteOrder::Big, ..AcceptorReq::new(nid(1)) };
    let noop = KsockHdr { kind: KsockType::Noop, csum: 0, cookie0: 0, cookie1: 1 }.emit(ByteOrder::Big);
    let bytes = [&req.emit()[..16], &h.emit()[..], &noop[..]].concat();
    let (wrote, closed, _) = send(&mut net, 700, &bytes);
    assert_eq!((wrote.len(), closed), (56, false));
    assert_eq!(counters(&net).noops_rx, 1);
}

#[test]
fn messages() {
    let lnet = |f: &dyn Fn(&mut LnetHdr)| {
        let mut h = put(8);
        f(&mut h);
        of_v3(&h)
    };
    let raw = |at: usize, to: &[u8]| {
        let mut b = of_v3(&put(8));
        b[at..at + to.len()].copy_from_slice(to);
        b
    };
    let get = |len: u32| {
        let body = LnetBody::Get {
            handle: WireHandle::NONE,
            match_bits: 1,
            portal: 5,
            src_offset: 0,
            sink_length: 1,
        };
        of_v3(&LnetHdr { body, ..put(len) })
    };
    let ack = |len: u32| {
        of_v3(&LnetHdr {
            body: LnetBody::Ack { handle: WireHandle::NONE, match_bits: 0, mlength: 0 },
            ..put(len)
        })
    };
    let sum = |csum: u32| [ksock(KsockType::Lnet, csum, 0, 0), put(8).emit().to_vec(), vec![9; 8]].concat();
    let right = transport::wire::ksock::checksum(&[9; 8]);
    for (bytes, closes, counter) in [
        (raw(0, &[0xc2]), true, "err_ksock_type"),
        (raw(24 + 24, &[4]), true, "err_lnet_type"),
        (raw(24 + 24, &[0xff; 4]), true, "err_lnet_type"),
        (raw(24 + 28, &[1, 0, 0x10, 0]), true, "err_payload_len"),
        (get(8), true, "err_payload_len"),
        (ack(8), true, "err_payload_len"),
        (lnet(&|h| h.dest_nid = nid(9)), true, "err_dest_nid"),
        (lnet(&|h| h.dest_nid = Nid::LO), true, "err_dest_nid"),
        (ksock(KsockType::Noop, 0, 0, 2), true, "err_cookie"),
        (ksock(KsockType::Noop, 0, 9, 5), true, "err_cookie"),
        (ksock(KsockType::Noop, 0, 2, u64::MAX), true, "err_cookie"),
        (ksock(KsockType::Noop, 0, 7, 1), true, "err_cookie"),
        (ksock(KsockType::Lnet, 0, 0, 3), true, "err_cookie"),
        (ksock(KsockType::Noop, 1, 0, 1), true, "err_checksum"),
        (ksock(KsockType::Noop, 0xffff_ffff, 0, 1), false, ""),
        (ksock(KsockType::Noop, 0, 5, 0), false, ""),
        (sum(right), false, "rx_lent_bytes"),
        (sum(!right), true, "err_checksum"),
        (ack(0), false, "drop_stale_handle"),
        (get(0), false, "drop_no_match"),
        (lnet(&|h| h.dest_nid = "10.0.0.1@tcp7".parse().unwrap()), false, "drop_not_for_us"),
        (lnet(&|h| h.src_nid = Nid::ANY), false, "drop_not_for_us"),
    ] {
        let mut net = net();
        let (_, closed, other) = send(&mut net, 701, &raw::start(&hello(Version::V3, ConnType::BulkIn)));
        assert!(!closed);
        let (_, closed, link) = send(&mut net, 700, &raw::start(&hello(Version::V3, ConnType::Control)));
        assert!(!closed);
        let before = counters(&net);
        net.raw_send(link, &bytes);
        net.run(SEC / 10);
        let moved: Vec<_> =
            before.iter().zip(counters(&net).iter()).filter(|(a, b)| a != b).map(|(_, b)| b).collect();
        assert_eq!((net.wire(link, 1).1, net.wire(other, 1).1), (closes, closes), "{counter}: {moved:?}");
        if counter.starts_with("err_") {
            only(&before, &counters(&net), &[counter]);
        } else if !counter.is_empty() {
            assert!(moved.iter().any(|(n, _)| *n == counter), "{counter}: {moved:?}");
        }
        net.take_events(0);
        undisturbed(&mut net, true);
        assert_eq!(net.nodes[0].machine.gauges().conns_up, if closes { 3 } else { 5 });
    }
}

#[test]
fn gets_that_crash_kernels_are_dropped_or_empty() {
    for (offset, empty) in [(48, true), (49, false), (u32::MAX, false)] {
        let mut net = net();
        let (_, _, link) = send(&mut net, 700, &raw::start(&hello(Version::V3, ConnType::Control)));
        let body = LnetBody::Get {
            handle: WireHandle { interface: 1, object: 2 },
            match_bits: 1 << 63,
            portal: 0,
            src_offset: offset,
            sink_length: 272,
        };
        net.raw_send(link, &of_v3(&LnetHdr { body, ..put(0) }));
        net.run(SEC / 10);
        let (wrote, closed) = net.wire(link, 1);
        assert_eq!((wrote.len(), closed), (if empty { 56 + 96 } else { 56 }, false));
        assert_eq!(counters(&net).drop_bad_offset, u64::from(!empty));
    }
}

#[test]
fn cut_at_every_byte_and_silent() {
    let whole = [raw::start(&hello(Version::V3, ConnType::Control)), of_v3(&put(40))].concat();
    for n in 0..whole.len() {
        let mut net = net();
        let before = counters(&net);
        let link = net.raw_connect(at(700), 0);
        net.raw_send(link, &whole[..n]);
        net.run(4 * SEC);
        assert!(!net.wire(link, 1).1, "{n}");
        net.run(if n < 72 { 7 * SEC } else { 55 * SEC });
        // Behind the HELLO the connection may be silent for ever; inside a message it may not.
        let closes = n != 72;
        assert_eq!(net.wire(link, 1).1, closes, "cut at {n}");
        let counter = match n {
            0..72 => "err_hello_timeout",
            72 => "keepalives_tx",
            _ => "err_rx_timeout",
        };
        let moved: Vec<_> =
            before.iter().zip(counters(&net).iter()).filter(|(a, b)| a != b).map(|(a, _)| a.0).collect();
        assert!(n == 72 || moved.contains(&counter), "cut at {n}: {moved:?}");
        undisturbed(&mut net, true);
    }
}

#[test]
fn cut_at_every_byte_with_fin() {
    let whole = [raw::start(&hello(Version::V3, ConnType::Control)), of_v3(&put(40))].concat();
    for n in 0..whole.len() {
        let mut net = net();
        let link = net.raw_connect(at(700), 0);
        net.raw_send(link, &whole[..n]);
        net.raw_fin(link);
        net.run(SEC / 10);
        assert!(net.wire(link, 1).1, "{n}");
        assert_eq!(counters(&net).err_eof_inside, u64::from(n != 72), "cut at {n}");
        assert_eq!(net.nodes[0].machine.gauges().conns_up, 3);
        undisturbed(&mut net, true);
    }
}

#[test]
fn a_hello_that_never_ends() {
    let mut net = net();
    let link = net.raw_connect(at(700), 0);
    // Each byte comes well within any idle time; together they take too long.
    for b in raw::start(&hello(Version::V3, ConnType::Control)) {
        net.raw_send(link, &[b]);
        net.run(SEC / 5);
        if net.wire(link, 1).1 {
            break;
        }
    }
    assert!(net.wire(link, 1).1);
    assert_eq!(counters(&net).err_hello_timeout, 1);
    undisturbed(&mut net, true);
}

#[test]
fn many_silent_connections_are_bounded() {
    let mut net = Net::new();
    net.add(Config { max_embryonic: 10, ..config(1) });
    for i in 0..50 {
        net.raw_connect(at(600 + i), 0);
    }
    net.run(SEC / 10);
    // One host gets half of the places, so that others find some.
    assert_eq!(net.nodes[0].machine.gauges().conns, 5);
    assert_eq!(counters(&net).err_too_many_embryonic, 45);
    net.run(10 * SEC);
    assert_eq!(net.nodes[0].machine.gauges().conns, 0);
    assert_eq!(counters(&net).err_hello_timeout, 5);
    // And their place is free again.
    let (wrote, closed, _) = send(&mut net, 700, &raw::start(&hello(Version::V3, ConnType::Control)));
    assert_eq!((wrote.len(), closed), (56, false));
}

#[test]
fn a_peer_that_asks_and_never_reads_is_held_back() {
    let mut net = Net::new();
    net.raw_acks = false;
    net.add(Config { max_answers: 16, tx_window: 2048, ..config(1) });
    let (_, _, link) = send(&mut net, 700, &raw::start(&hello(Version::V3, ConnType::Control)));
    let body = LnetBody::Get {
        handle: WireHandle { interface: 1, object: 2 },
        match_bits: 1 << 63,
        portal: 0,
        src_offset: 0,
        sink_length: 272,
    };
    let get = of_v3(&LnetHdr { body, ..put(0) });
    for _ in 0..500 {
        net.raw_send(link, &get);
    }
    net.run(SEC);
    let g = net.nodes[0].machine.gauges();
    assert!(g.queued <= 17, "{g:?}");
    net.run(60 * SEC);
    assert!(net.wire(link, 1).1);
    assert_eq!(counters(&net).err_tx_timeout, 1);
    assert_eq!(net.nodes[0].machine.gauges().queued, 0);
}

fn ping_body() -> LnetBody {
    LnetBody::Get {
        handle: WireHandle { interface: 1, object: 2 },
        match_bits: 1 << 63,
        portal: 0,
        src_offset: 0,
        sink_length: 272,
    }
}

#[test]
fn a_slow_reader_gets_every_answer() {
    let mut net = Net::new();
    net.raw_acks = false;
    net.add(Config { max_answers: 16, tx_window: 2048, ..config(1) });
    let (_, _, link) = send(&mut net, 700, &raw::start(&hello(Version::V3, ConnType::Control)));
    let body = ping_body();
    for _ in 0..300 {
        net.raw_send(link, &of_v3(&LnetHdr { body, ..put(0) }));
    }
    net.run(SEC / 10);
    assert!(counters(&net).msgs_rx < 40, "the window and the queue are full");
    for _ in 0..100 {
        net.raw_ack(link);
        net.run(SEC / 1000);
    }
    assert_eq!(counters(&net).msgs_rx, 300);
    assert_eq!(net.wire(link, 1).0.len(), 56 + 300 * (24 + 72 + 48));
}

#[test]
fn a_batch_of_messages_is_answered_while_its_rest_waits() {
    let mut net = Net::new();
    net.chunk = 8192;
    net.add(config(1));
    let (_, _, link) = send(&mut net, 700, &raw::start(&hello(Version::V3, ConnType::Control)));
    let (body, before) = (ping_body(), net.wire(link, 1).0.len());
    net.raw_send(link, &of_v3(&LnetHdr { body, ..put(0) }).repeat(40));
    let answers = |net: &Net| (net.wire(link, 1).0.len() - before) / (24 + 72 + 48);
    let mut steps = Vec::new();
    while steps.last() != Some(&40) {
        let had = answers(&net);
        net.run_until(net.now + SEC, |n| answers(n) > had);
        steps.push(answers(&net));
        assert!(steps.len() <= 3, "{steps:?}");
    }
    assert_eq!(steps, [16, 32, 40]);
}

#[test]
fn another_incarnation_closes_the_old_set() {
    let mut net = net();
    let (_, _, old) = send(&mut net, 700, &raw::start(&hello(Version::V3, ConnType::Control)));
    let h = Hello { src_incarnation: 7, ..hello(Version::V3, ConnType::Control) };
    let (wrote, closed, _) = send(&mut net, 701, &[raw::request(nid(1)), h.emit().to_vec()].concat());
    let answer = Hello::parse(&wrote).unwrap().0;
    assert_eq!((answer.ctype, answer.dst_nid, closed), (ConnType::Control, nid(66), false));
    assert!(net.wire(old, 1).1);
    assert_eq!((counters(&net).peers_rebooted, counters(&net).duplicates), (1, 0));
    undisturbed(&mut net, true);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Any bytes, anywhere in a connection's life: no panic, no disturbance, no growth.
    #[test]
    fn noise(stage in 0usize..4, bytes in prop::collection::vec(any::<u8>(), 0..600), chunk in 1usize..80) {
        let mut net = net();
        net.chunk = chunk;
        let prefix = [vec![], raw::request(nid(1)), raw::start(&hello(Version::V3, ConnType::Control)), [raw::start(&hello(Version::V3, ConnType::Control)), of_v3(&put(5))].concat()];
        let (_, _, link) = send(&mut net, 700, &prefix[stage]);
        net.raw_send(link, &bytes);
        net.run(120 * SEC);
        net.take_events(0);
        undisturbed(&mut net, true);
        prop_assert_eq!(net.nodes[0].machine.gauges().queued, 0);
    }

    /// A good conversation with one byte changed.
    #[test]
    fn damage(at: prop::sample::Index, to: u8) {
        let mut net = net();
        let mut bytes = [raw::start(&hello(Version::V3, ConnType::Control)), of_v3(&put(100)), ksock(KsockType::Noop, 0, 0, 1), of_v3(&put(3))].concat();
        let i = at.index(bytes.len());
        bytes[i] = to;
        let link = net.raw_connect(raw::at(700), 0);
        net.raw_send(link, &bytes);
        net.run(120 * SEC);
        net.take_events(0);
        undisturbed(&mut net, true);
    }
}

#[test]
fn refused_operations_say_why() {
    let mut net = net();
    let put = |portal, target, payload| Spot(portal, 0).put(3, target, payload, false);
    let to = ProcessId::lustre(nid(2));
    let six = ProcessId::lustre("fd00::1@tcp".parse().unwrap());
    for op in [
        put(64, to, Payload::empty()),
        put(0, ProcessId::lustre("10.0.0.2@tcp5".parse().unwrap()), Payload::empty()),
        put(0, six, Payload::empty()),
        Op::Get { tag: 3, target: to, from: None, portal: 1, match_bits: 0, sink: Sink::Lend((1 << 20) + 1) },
        Op::Unlink { tag: 3, portal: 1, me: transport::lnet::MeId(77) },
    ] {
        net.take_events(0);
        net.op(0, op);
        let events = net.take_events(0);
        let [Event::Refused { tag: 3, why }] = &events[..] else { panic!("{events:?}") };
        assert!(!why.to_string().is_empty());
    }
    assert_eq!(counters(&net).ops_refused, 5);
}
