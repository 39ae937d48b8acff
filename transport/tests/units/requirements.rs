//! The checklist of docs/protocol/socklnd.md §12, each requirement a test of its name. The peer is raw bytes, so that
//! what is asked for is on the wire.

use crate::raw::{self, *};
use transport::lnd::{LnetError, Sink};
use transport::lnet::{Event, MdMem};
use transport::testing::capture::Msg;
use transport::testing::net::{Net, SEC};
use transport::wire::{
    AcceptorReq, ByteOrder, ConnType, Hello, KsockType, LnetBody, LnetHdr, Nid, ProcessId, Version,
    WireHandle,
};

const VERSIONS: [Version; 4] = [Version::V1, Version::V2, Version::V3, Version::V4];

#[test]
fn requirement_01_ports_512_to_1023_and_exact_nid() {
    // Listening: no port above 1023 is let in, every one up to it is.
    for (port, let_in) in [(1, true), (511, true), (512, true), (1023, true), (1024, false), (65_535, false)]
    {
        let mut net = net(config(1));
        let link = open(&mut net, port, &start(&hello(Version::V3, ConnType::Control)));
        let (wrote, closed) = net.wire(link, 1);
        assert_eq!((wrote.len(), closed), if let_in { (56, false) } else { (0, true) }, "port {port}");
    }
    // The NID asked for is ours to the last byte, in either form of the request and either order.
    let targets = ["10.0.0.1@tcp", "10.0.0.2@tcp", "10.0.0.1@tcp1", "0@lo", "10.0.0.1@o2ib", "fd77::1@tcp"];
    for (i, target) in targets.iter().enumerate() {
        for (version, order) in [(1, ByteOrder::Little), (1, ByteOrder::Big), (2, ByteOrder::Little)] {
            let target: Nid = target.parse().unwrap();
            if version == 1 && target.to_nid4().is_none() {
                continue;
            }
            let req = AcceptorReq { version, target, order };
            let mut net = net(config(1));
            let h = hello(Version::V3, ConnType::Control).emit().to_vec();
            let link = open(&mut net, 700, &[req.emit()[..req.wire_len()].to_vec(), h].concat());
            let (wrote, closed) = net.wire(link, 1);
            let want = if i == 0 { (56, false) } else { (0, true) };
            assert_eq!((wrote.len(), closed), want, "{target} v{version} {order:?}");
        }
    }
    // Dialling: port 988, from 1023 downwards (the runtimes' part is below).
    let mut net = net(config(1));
    net.raw_listen(peer_ip());
    net.op(0, ping_op(id(PEER)));
    net.run(SEC / 10);
    let wrote = net.wire(0, 0).0;
    assert_eq!(AcceptorReq::parse(wrote).unwrap().0, AcceptorReq::new(nid(PEER)));
}

/// Kernel sockets take 1023, then 1022.
#[cfg(feature = "node")]
#[test]
fn requirement_01_dials_come_from_reserved_ports() {
    use std::net::{IpAddr, TcpListener};
    use transport::node::Streams;
    use transport::node::sock::{SockConfig, SockStreams, may_bind_privileged};
    use transport::stream::{DialId, DialSpec};

    let local_ip = IpAddr::from([127, 0, 66, 1]);
    if !may_bind_privileged(local_ip).unwrap() {
        println!("SKIP: requirement_01_dials_come_from_reserved_ports: no right to bind ports below 1024");
        return;
    }
    let listener = TcpListener::bind("127.0.66.2:0").unwrap();
    let remote = listener.local_addr().unwrap();
    let mut rt = SockStreams::new(SockConfig::default(), dataplane::clock::Clock::monotonic()).unwrap();
    let dials: Vec<u16> = (0..2)
        .map(|n| {
            rt.dial(&DialSpec { id: DialId(n), remote, local_ip, privileged: true, until: u64::MAX });
            listener.accept().unwrap().1.port()
        })
        .collect();
    assert_eq!(dials, [1023, 1022]);
}

#[test]
fn requirement_02_v3_first_and_v1_to_v4_accepted() {
    for version in VERSIONS {
        for ctype in TYPES {
            let mut net = net(config(1));
            let link = open(&mut net, 700, &start(&hello(version, ctype)));
            let (wrote, closed) = net.wire(link, 1);
            let (h, n) = Hello::parse(wrote).unwrap();
            assert_eq!((n, closed), (wrote.len(), false));
            assert_eq!((h.version, h.ctype, h.ips.len()), (version, ctype.invert(), 0));
            assert_eq!((h.src_nid, h.src_pid), (nid(1), 12345));
        }
    }
    let mut net = net(config(1));
    net.raw_listen(peer_ip());
    net.op(0, ping_op(id(PEER)));
    net.run(SEC / 10);
    assert_eq!(dialled(&net, 0).version, Version::V3);

    let six: Nid = "fd77::2@tcp".parse().unwrap();
    let mut net = raw::net(transport::lnd::Config::new("fd77::1@tcp".parse().unwrap(), 5));
    net.raw_listen(six.ip().unwrap());
    net.op(0, ping_op(ProcessId::lustre(six)));
    net.run(SEC / 10);
    let (req, _) = AcceptorReq::parse(net.wire(0, 0).0).unwrap();
    assert_eq!((req.version, req.target, dialled(&net, 0).version), (2, six, Version::V4));
}

#[test]
fn requirement_03_three_types_dialled_and_duplicates_accepted() {
    let mut net = net(config(1));
    net.raw_listen(peer_ip());
    net.op(0, ping_op(id(PEER)));
    for (n, want) in TYPES.iter().enumerate() {
        net.run(SEC / 10);
        assert_eq!(net.links(), n + 1, "one at a time");
        let asked = dialled(&net, n);
        assert_eq!(asked.ctype, *want);
        net.raw_send(n, &answer(&asked).emit());
    }
    net.run(SEC / 10);
    assert_eq!((net.links(), net.nodes[0].machine.gauges().conns_up), (3, 3));

    // Kernels have room for 255 of a type; none is refused.
    let mut net = raw::net(config(1));
    for n in 0..255u16 {
        let link = open(&mut net, 1023 - n, &start(&hello(Version::V3, ConnType::BulkOut)));
        let (h, _) = Hello::parse(net.wire(link, 1).0).unwrap();
        assert_eq!(h.ctype, ConnType::BulkIn, "number {n}");
    }
    assert_eq!(net.nodes[0].machine.gauges().conns_up, 255);
}

#[test]
fn requirement_04_one_incarnation_in_every_hello() {
    let mut seen = Vec::new();
    let mut net = net(config(1));
    let mine = net.nodes[0].machine.config().incarnation;
    // Passive: accepted, of every version; refused for its version; refused for another incarnation of the peer.
    for (i, version) in VERSIONS.into_iter().enumerate() {
        let h = Hello { src_pid: 100 + i as u32, ..hello(version, ConnType::Control) };
        let link = open(&mut net, 900 + i as u16, &start(&h));
        seen.push(Hello::parse(net.wire(link, 1).0).unwrap().0);
    }
    let mut unknown = start(&hello(Version::V3, ConnType::Control));
    unknown[16 + 4] = 9;
    let link = open(&mut net, 800, &unknown);
    seen.push(Hello::parse(net.wire(link, 1).0).unwrap().0);
    let h = Hello { src_pid: 102, src_incarnation: 7, ..hello(Version::V3, ConnType::Control) };
    let link = open(&mut net, 801, &start(&h));
    seen.push(Hello::parse(net.wire(link, 1).0).unwrap().0);
    assert_eq!(seen.iter().filter(|h| h.ctype == ConnType::None).count(), 1);
    // Active, a week later.
    net.run(7 * 86_400 * SEC);
    net.raw_listen([10, 0, 0, 67].into());
    let first = net.links();
    net.op(0, ping_op(id(67)));
    net.run(SEC);
    seen.push(dialled(&net, first));
    assert_eq!(seen.len(), 7);
    assert!(seen.iter().all(|h| h.src_incarnation == mine));
}

/// Messages that carry a cookie, by what becomes of them, and the bytes of each that are read before its ACK is due.
fn asking(version: Version, cookie: u64) -> Vec<(&'static str, Vec<u8>, usize)> {
    let of = |h, read: usize| (message(version, &h, cookie), version.hdr_len() + read);
    let with = |name, (bytes, read)| (name, bytes, read);
    let mut other = put(3000);
    other.body = LnetBody::Put { ack: WireHandle::NONE, match_bits: 77, hdr_data: 0, portal: 5, offset: 0 };
    let mut beyond = put(3000);
    beyond.body =
        LnetBody::Put { ack: WireHandle::NONE, match_bits: 5, hdr_data: 0, portal: 9999, offset: 0 };
    let handle = WireHandle { interface: 3, object: 4 };
    let get = LnetBody::Get { handle, match_bits: 9, portal: 8, src_offset: 0, sink_length: 5 };
    let elsewhere = LnetHdr { dest_nid: "10.0.0.1@tcp7".parse().unwrap(), ..put(300) };
    vec![
        with("stored", of(put(2000), 2000)),
        with("cut to the MD's 2500 bytes", of(put(3000), 2500)),
        with("empty", of(put(0), 0)),
        with("matches nothing", of(other, 0)),
        with("a portal that is none", of(beyond, 0)),
        with("a REPLY for nobody", of(header(LnetBody::Reply { handle }, 3000), 0)),
        with("an ACK for nobody", of(header(LnetBody::Ack { handle, match_bits: 0, mlength: 0 }, 0), 0)),
        with("a GET for nobody", of(header(get, 0), 0)),
        with("for another network", of(elsewhere, 0)),
    ]
}

#[test]
fn requirement_05_every_cookie_acked_once_and_at_once() {
    for version in [Version::V2, Version::V3, Version::V4] {
        // Cookies are echoed unjudged (socklnd.md §6.3), but for 1 on V3, which says keepalive there.
        for cookie in [2, 1 << 40, u64::MAX] {
            for (what, bytes, read) in asking(version, cookie) {
                let mut net = net(config(1));
                attach(&mut net, 0, MdMem::Sink(Sink::Lend(2500)), true);
                let links = open_set(&mut net, version);
                let acks = |net: &Net| -> Vec<(usize, (u64, u64))> {
                    let all =
                        links.iter().flat_map(|l| noops(&behind_hello(net, *l)).into_iter().map(|n| (*l, n)));
                    all.collect()
                };
                // On V2 an ACK goes where small messages go; later versions have BULK_IN for it, which is our end
                // of the peer's BULK_OUT.
                let on = if version == Version::V2 { links[0] } else { links[2] };
                net.raw_send(links[2], &bytes[..read - 1]);
                net.run(SEC / 100);
                assert!(acks(&net).is_empty(), "{version:?} {what}: an ACK before the payload was read");
                net.raw_send(links[2], &bytes[read - 1..read]);
                net.run(SEC / 100);
                assert_eq!(acks(&net), [(on, (0, cookie))], "{version:?} {what}: slop is still to come");
                net.raw_send(links[2], &bytes[read..]);
                net.run(2 * SEC);
                assert_eq!(acks(&net).len(), 1, "{version:?} {what}");
                assert!(!net.wire(links[2], 1).1);
                assert_eq!(counters(&net).msgs_rx, 1);
            }
        }
    }
}

#[test]
fn requirement_05_acks_are_taken_as_singles_pairs_ranges_and_piggyback() {
    let mut net = net(transport::lnd::Config { peer_credits: 64, ..config(1) });
    let links = open_set(&mut net, Version::V3);
    for tag in 2..12 {
        net.op(0, put_op(tag, id(PEER), pages(20_000), false));
    }
    net.run(SEC / 100);
    assert_eq!(net.nodes[0].machine.gauges().cookies, 10, "2 to 11");
    // On any connection of the set.
    net.raw_send(links[0], &noop(0, 2));
    net.raw_send(links[1], &noop(5, 3));
    net.raw_send(links[2], &noop(6, 9));
    let ride = [ksock_lnet(0, 4), put(0).emit().to_vec()].concat();
    net.raw_send(links[0], &ride);
    net.raw_send(links[1], &noop(11, 10));
    net.run(SEC);
    let sent = net.take_events(0);
    let good = sent.iter().filter(|e| matches!(e, Event::Send { status: Ok(()), done: true, .. })).count();
    assert_eq!(good, 10, "{sent:?}");
    net.assert_at_rest(0);
    assert_eq!(net.nodes[0].machine.gauges().conns_up, 3);
}

fn ksock_lnet(cookie0: u64, cookie1: u64) -> Vec<u8> {
    ksock(KsockType::Lnet, 0, cookie0, cookie1)
}

#[test]
fn requirement_06_no_zero_copy_before_bulk_out_and_none_on_v2() {
    let asked = |net: &Net, links: &[usize]| {
        let all = links.iter().flat_map(|l| messages_of(net, *l));
        all.filter(|m| matches!(m, Msg::Lnet(k, ..) if k.cookie0 != 0)).count()
    };
    for version in VERSIONS {
        let mut net = net(config(1));
        let control = open(&mut net, 999, &start(&hello(version, ConnType::Control)));
        let bulk_in = open(&mut net, 998, &start(&hello(version, ConnType::BulkOut)));
        net.op(0, put_op(1, id(PEER), pages(1 << 20), false));
        net.run(SEC / 10);
        assert_eq!(counters(&net).msgs_tx, 1);
        assert_eq!(
            asked(&net, &[control, bulk_in]),
            0,
            "{version:?}: the peer has no connection for the ACK"
        );
        let bulk_out = open(&mut net, 997, &start(&hello(version, ConnType::BulkIn)));
        net.op(0, put_op(2, id(PEER), pages(1 << 20), false));
        net.run(SEC / 10);
        let want = usize::from(version >= Version::V3);
        assert_eq!(asked(&net, &[control, bulk_in, bulk_out]), want, "{version:?}");
    }
}

/// Everything that a machine wrote behind its HELLO.
fn messages_of(net: &Net, link: usize) -> Vec<Msg> {
    let (h, _) = Hello::parse(net.wire(link, 1).0).unwrap();
    raw::messages(net, link, 1, h.version)
}

#[test]
fn requirement_07_a_noop_with_cookie_1_is_ignored() {
    for version in [Version::V3, Version::V4] {
        let mut net = net(config(1));
        let links = open_set(&mut net, version);
        let before = links.map(|l| net.wire(l, 1).0.len());
        for link in links {
            for bytes in [noop(0, 1), noop(1, 1), noop(0, 0), noop(7, 0)] {
                net.raw_send(link, &bytes);
            }
            let ride = [ksock_lnet(0, 1), put(0).emit_as(version).to_vec()].concat();
            net.raw_send(link, &ride);
        }
        net.run(SEC);
        assert_eq!(links.map(|l| net.wire(l, 1).0.len()), before, "no answer");
        assert_eq!((counters(&net).noops_rx, counters(&net).msgs_rx, counters(&net).err_cookie), (12, 3, 0));
        assert_eq!(net.nodes[0].machine.gauges().conns_up, 3);
    }
}

#[test]
fn requirement_08_a_set_has_one_fate() {
    type End = fn(&mut Net, usize);
    let ends: [(&str, End); 5] = [
        ("FIN", |net, l| net.raw_fin(l)),
        ("RST", |net, l| net.raw_reset(l)),
        ("a header that is none", |net, l| net.raw_send(l, &[7; 24])),
        ("an unmatched ACK", |net, l| net.raw_send(l, &noop(0, 9))),
        ("a message that stops", |net, l| {
            net.raw_send(l, &message(Version::V3, &put(100), 0)[..150]);
            net.run(60 * SEC);
        }),
    ];
    for (what, end) in ends {
        for which in 0..3 {
            let mut net = net(config(1));
            let other = Hello { src_pid: 99, ..hello(Version::V3, ConnType::Control) };
            let other = open(&mut net, 600, &start(&other));
            let links = open_set(&mut net, Version::V3);
            end(&mut net, links[which]);
            net.run(SEC);
            assert!(links.iter().all(|l| net.wire(*l, 1).1), "{what} on {which} closes all three");
            assert!(!net.wire(other, 1).1, "another pid of that node is another peer");
            net.assert_at_rest(0);
        }
    }
}

/// Field report L2: what the others of a set have received when one of it ends is delivered before they close.
#[test]
fn requirement_08_what_was_received_before_the_end_is_delivered() {
    type End = fn(&mut Net, usize);
    for (end, which) in [(Net::raw_fin as End, "FIN"), (Net::raw_reset as End, "RST")] {
        for ended in 0..3 {
            let mut net = net(config(1));
            attach(&mut net, 0, MdMem::Sink(Sink::Lend(1 << 20)), true);
            let links = open_set(&mut net, Version::V3);
            // More than a machine takes in one call, on both others; and what stands behind half a message's end.
            let bytes = message(Version::V3, &put(10), 0).repeat(40);
            net.nodes[0].paused = which == "FIN";
            for other in (0..3).filter(|n| *n != ended) {
                net.raw_send(links[other], &bytes);
            }
            end(&mut net, links[ended]);
            net.run(SEC / 1000);
            net.resume(0);
            net.run(SEC);
            assert!(links.iter().all(|l| net.wire(*l, 1).1), "{which} on {ended} closes all three");
            let puts =
                net.take_events(0).into_iter().filter(|e| matches!(e, Event::Put(p) if p.status.is_ok()));
            assert_eq!(puts.count(), 80, "{which} on {ended}");
            net.assert_at_rest(0);
        }
    }
}

/// A message without payload has come whole with its header. While its MD is another message's, a FIN behind it is not heard;
/// unless the peer connects anew before: then the set is over, and what it asked with it.
#[test]
fn requirement_08_a_whole_message_that_waits_for_its_md_is_taken_before_a_fin() {
    for anew in [false, true] {
        let mut net = net(config(1));
        attach(&mut net, 0, MdMem::Sink(Sink::Copy(transport::testing::data::run(4096))), true);
        let slow = open(&mut net, 999, &start(&hello(Version::V3, ConnType::Control)));
        let other = Hello { src_pid: 7, ..hello(Version::V3, ConnType::Control) };
        let quick = open(&mut net, 998, &start(&other));
        let long = message(Version::V3, &put(1000), 0);
        let (begun, rest) = long.split_at(long.len() - 600);
        net.raw_send(slow, begun);
        net.run(SEC / 100);
        net.raw_send(quick, &message(Version::V3, &LnetHdr { src_pid: 7, ..put(0) }, 0));
        net.raw_fin(quick);
        net.run(SEC / 100);
        assert!(net.take_events(0).is_empty(), "the second waits for the first");
        let next = anew.then(|| open(&mut net, 997, &start(&other)));
        net.raw_send(slow, rest);
        net.run(SEC);
        let good = |e: &Event| matches!(e, Event::Put(p) if p.status == Ok(()));
        let puts = net.take_events(0).iter().filter(|e| good(e)).count();
        assert_eq!((puts, counters(&net).err_eof_inside), (if anew { 1 } else { 2 }, 0));
        assert!(net.wire(quick, 1).1 && next.is_none_or(|n| !net.wire(n, 1).1), "the new one stays");
        net.assert_at_rest(0);
    }
}

/// Field report L2: a connection that may be a duplicate ends alone, by FIN or RST, until something has come or gone on
/// it; then the set ends with it.
#[test]
fn requirement_08_a_duplicate_ends_alone() {
    type End = fn(&mut Net, usize);
    for end in [Net::raw_fin as End, Net::raw_reset as End] {
        for used in [false, true] {
            let mut net = net(config(1));
            let links = open_set(&mut net, Version::V3);
            for (n, ctype) in TYPES.into_iter().enumerate() {
                let second = open(&mut net, 800 + n as u16, &start(&hello(Version::V3, ctype)));
                assert_eq!(counters(&net).duplicates, n as u64 + 1);
                if used && n == 2 {
                    net.raw_send(second, &noop(0, 1));
                }
                net.run(SEC / 10);
                end(&mut net, second);
                net.run(SEC / 10);
                assert!(net.wire(second, 1).1);
                let closed = used && n == 2;
                assert_eq!(links.map(|l| net.wire(l, 1).1), [closed; 3], "{ctype:?}");
            }
            let c = counters(&net);
            assert_eq!((c.duplicates_ended, c.sets_closed), (3 - u64::from(used), u64::from(used)));
        }
    }
    // Nothing is sent on it while it is held, also when it would be the newest; after 5 s it is one like any other.
    let mut net = net(config(1));
    let links = open_set(&mut net, Version::V3);
    let second = open(&mut net, 800, &start(&hello(Version::V3, ConnType::Control)));
    let on = |net: &Net, link| raw::messages(net, link, 1, Version::V3).len();
    net.run(2 * SEC);
    net.op(0, ping_op(id(PEER)));
    net.run(SEC);
    assert_eq!((on(&net, links[0]), on(&net, second)), (1, 0));
    net.run(3 * SEC);
    net.op(0, ping_op(id(PEER)));
    net.run(SEC);
    assert_eq!((on(&net, links[0]), on(&net, second)), (1, 1));
}

/// A message that is asked for while a set ends, or waits for a connection that proves to be a duplicate, goes over the next one.
#[test]
fn requirement_08_what_is_asked_for_meanwhile_goes_over_the_next_set() {
    type End = fn(&mut Net, usize);
    for last in [Net::raw_fin as End, Net::raw_reset as End] {
        for whole in [true, false] {
            let mut net = net(config(1));
            net.raw_listen(peer_ip());
            let mut links = if whole {
                open_set(&mut net, Version::V3).to_vec()
            } else {
                // A set that a former process of ours had: its bulk alone.
                vec![open(&mut net, 800, &start(&hello(Version::V3, ConnType::BulkIn)))]
            };
            let end = links.pop().unwrap();
            links.iter().for_each(|l| net.raw_reset(*l));
            net.run(SEC / 5000);
            let before = net.links();
            net.op(0, ping_op(id(PEER)));
            last(&mut net, end);
            net.run(SEC / 100);
            assert!(net.wire(end, 1).1);
            let events = net.take_events(0);
            assert!(events.is_empty() && net.links() == before + 1, "whole {whole}: {events:?}");
        }
    }
}

#[test]
fn requirement_09_none_waits_a_second_and_is_not_said() {
    // NONE: no attempt before a second has passed.
    let mut net = net(config(1));
    net.raw_listen(peer_ip());
    net.op(0, ping_op(id(PEER)));
    net.run(SEC / 10);
    let asked = dialled(&net, 0);
    let none = Hello { ctype: ConnType::None, ..answer(&asked) };
    net.raw_send(0, &none.emit());
    net.run(SEC / 1000);
    let told = net.now;
    net.run_until(told + 2 * SEC, |n| n.links() > 1);
    assert!(net.now >= told + SEC - SEC / 1000, "{} ns", net.now - told);
    assert_eq!((net.links(), net.take_events(0).len()), (2, 0), "the ping still waits");
    // At the third in a row it is given up, with an error.
    for n in 1..3 {
        net.run(SEC / 10);
        net.raw_send(n, &none.emit());
        net.run(2 * SEC);
    }
    assert_eq!(net.links(), 3);
    assert!(matches!(net.take_events(0)[..], [Event::Ping { info: Err(LnetError::Unreachable), .. }]));

    // A race: while we dial, a lower NID is let in as a higher one is (field report L1).
    for me in [99, 1] {
        for ctype in TYPES {
            let mut net = raw::net(config(me));
            net.raw_listen(peer_ip());
            net.op(0, ping_op(id(PEER)));
            net.run(SEC / 10);
            let h = Hello { dst_nid: nid(me), ..hello(Version::V3, ctype) };
            let link = open(&mut net, 999, &[request(nid(me)), h.emit().to_vec()].concat());
            let (wrote, closed) = net.wire(link, 1);
            let got = Hello::parse(wrote).unwrap().0.ctype;
            assert_eq!((got, closed), (ctype.invert(), false), "we are {me}, {ctype:?}");
        }
    }
}

#[test]
fn requirement_10_slop_is_drained_and_only_one_connection_waits() {
    let mut net = net(config(1));
    attach(&mut net, 0, MdMem::Sink(Sink::Lend(10)), true);
    let links = open_set(&mut net, Version::V3);
    // 990 bytes of slop, in pieces, and the next message right behind it.
    let bytes = [message(Version::V3, &put(1000), 0), message(Version::V3, &ping_get(0), 0)].concat();
    for part in bytes.chunks(100) {
        net.raw_send(links[0], part);
        net.run(SEC / 1000);
    }
    assert_eq!((counters(&net).msgs_rx, counters(&net).rx_dropped_bytes), (2, 990));
    assert_eq!(behind_hello(&net, links[0]).len(), 24 + 72 + 48, "the ping is answered");

    // The MD's one run is in the hands of a message half read: the second waits for it, the third connection does not.
    let mut net = raw::net(config(1));
    let run = transport::testing::data::run(4096);
    attach(&mut net, 0, MdMem::Sink(Sink::Copy(run)), false);
    let links = open_set(&mut net, Version::V3);
    let long = message(Version::V3, &put(4000), 0);
    net.raw_send(links[0], &long[..2000]);
    net.raw_send(
        links[1],
        &[message(Version::V3, &put(40), 0), message(Version::V3, &ping_get(0), 0)].concat(),
    );
    net.raw_send(links[2], &message(Version::V3, &ping_get(0), 0));
    net.run(SEC / 10);
    assert_eq!(counters(&net).msgs_rx, 1, "the ping on the third");
    net.raw_send(links[0], &long[2000..]);
    net.run(SEC / 10);
    assert_eq!(counters(&net).msgs_rx, 4, "and then the others, in order");
    let puts: Vec<_> = net.take_events(0).into_iter().filter(|e| matches!(e, Event::Put(_))).collect();
    assert_eq!(puts.len(), 2);
}
