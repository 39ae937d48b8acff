//! Peers of other versions, and HELLOs that lie: the cases of the kernel's `ln_testprotocompat` (docs/protocol/lnet.md
//! §10, socklnd.md §1, §2.6, §2.7) in both roles, address lists of every length, and wrong NIDs.

use crate::raw::{self, *};
use transport::lnd::{Config, LnetError};
use transport::lnet::Event;
use transport::testing::net::{Net, SEC};
use transport::wire::{ByteOrder, ConnType, Hello, Nid, Version, acceptor};

/// Outcome of a handshake of the peer's.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// Our HELLO of this version; the connection is up.
    Accepted(Version),
    /// Our HELLO of V3 with type NONE, to our own NID; closed.
    None,
    /// The acceptor's refusal; closed.
    Refusal,
    /// Closed at once without a byte.
    Silent,
    /// Closed without a byte when it had taken too long.
    TooLong,
}

/// Sends `bytes` to a node with nothing else to do; the next try of the same peer has to be good.
fn passive(bytes: &[u8]) -> Outcome {
    let mut net = net(config(1));
    let link = open(&mut net, 900, bytes);
    let at_once = net.wire(link, 1).1;
    if net.wire(link, 1).0.is_empty() && !at_once {
        net.run(6 * SEC);
        assert!(net.wire(link, 1).1, "a handshake that is not finished in 5 s is over");
    }
    let (wrote, closed) = net.wire(link, 1);
    let incarnation = net.nodes[0].machine.config().incarnation;
    let outcome = match Hello::parse(wrote) {
        Ok((h, n)) if h.ctype != ConnType::None => {
            assert!(n == wrote.len() && !closed);
            Outcome::Accepted(h.version)
        }
        Ok((h, n)) => {
            let (src, dst) = (nid(1), nid(1));
            let base = hello(Version::V3, ConnType::None);
            let want = Hello { src_nid: src, dst_nid: dst, src_incarnation: incarnation, ..base };
            assert_eq!((h, n, closed), (want, wrote.len(), true));
            Outcome::None
        }
        Err(_) if wrote == acceptor::refusal() => Outcome::Refusal,
        Err(_) if at_once => Outcome::Silent,
        Err(_) => Outcome::TooLong,
    };
    assert!(wrote.is_empty() || !matches!(outcome, Outcome::Silent | Outcome::TooLong));
    if closed {
        assert_eq!(net.nodes[0].machine.gauges().peers, 0, "nothing is remembered");
        let link = open(&mut net, 901, &start(&hello(Version::V3, ConnType::Control)));
        assert!(!net.wire(link, 1).1, "the next try is good");
    }
    outcome
}

fn changed(mut bytes: Vec<u8>, at: usize, to: &[u8]) -> Vec<u8> {
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

fn with_request(hello: &[u8]) -> Vec<u8> {
    [request(nid(1)), hello.to_vec()].concat()
}

#[test]
fn bit_0_asked_with_a_hello_of_the_next_version() {
    let emit = |v| hello(v, ConnType::Control).emit().to_vec();
    // V1 2.0 begins as V2's first design does, but is none.
    assert_eq!(passive(&with_request(&changed(emit(Version::V1), 4, &[2]))), Outcome::None);
    assert_eq!(passive(&with_request(&changed(emit(Version::V2), 4, &[3]))), Outcome::Accepted(Version::V3));
    // A V4 HELLO is longer than V3's: the rest of it never comes.
    assert_eq!(passive(&with_request(&changed(emit(Version::V3), 4, &[4]))), Outcome::TooLong);
    assert_eq!(passive(&with_request(&changed(emit(Version::V4), 4, &[5]))), Outcome::None);
    let big = Hello { order: ByteOrder::Big, ..hello(Version::V3, ConnType::Control) };
    assert_eq!(passive(&with_request(&changed(big.emit().to_vec(), 7, &[5]))), Outcome::None);
}

#[test]
fn bit_1_asked_with_a_v1_hello_of_the_other_magic() {
    let v1 = hello(Version::V1, ConnType::Control).emit().to_vec();
    let magic = 0x4572_6963_u32;
    assert_eq!(passive(&with_request(&changed(v1, 0, &magic.to_le_bytes()))), Outcome::None);
}

#[test]
fn bit_2_asked_with_an_acceptor_request_of_the_next_version() {
    let h = hello(Version::V3, ConnType::Control).emit().to_vec();
    // The 12 bytes that a request of version 2 has more are the HELLO's: that names nobody here.
    let next = changed(request(nid(1)), 4, &[2]);
    assert_eq!(passive(&[next, h.clone()].concat()), Outcome::Silent);
    let v2 = transport::wire::AcceptorReq { version: 2, target: nid(1), order: ByteOrder::Little };
    let next = changed(v2.emit().to_vec(), 4, &[3]);
    assert_eq!(passive(&[next, h].concat()), Outcome::Refusal);
}

#[test]
fn bit_3_asked_with_the_lnet_magic_for_the_acceptor() {
    let h = hello(Version::V3, ConnType::Control).emit().to_vec();
    for magic in [0x4572_6963_u32.to_le_bytes(), 0x4572_6963_u32.to_be_bytes()] {
        let bytes = [changed(request(nid(1)), 0, &magic), h.clone()].concat();
        assert_eq!(passive(&bytes), Outcome::Refusal);
    }
}

/// We dial, the peer answers; gives what counters moved and how long until the ping had failed, in ns.
fn active(answer: impl Fn(&Hello) -> Vec<u8>, then_reset: bool) -> (Vec<&'static str>, u64) {
    let mut net = net(config(1));
    net.raw_listen(peer_ip());
    net.op(0, ping_op(id(PEER)));
    net.run(SEC / 10);
    let asked = dialled(&net, 0);
    let before = counters(&net);
    net.raw_send(0, &answer(&asked));
    if then_reset {
        net.raw_reset(0);
    }
    let started = net.now;
    net.run_until(started + 60 * SEC, |n| !n.nodes[0].events.is_empty());
    let took = net.now - started;
    let [Event::Ping { info: Err(LnetError::Unreachable), .. }] = &net.take_events(0)[..] else { panic!() };
    assert_eq!(net.links(), 1, "no second attempt yet");
    assert!(net.wire(0, 0).1);
    let moved = before.iter().zip(counters(&net).iter()).filter(|(a, b)| a != b).map(|(a, _)| a.0).collect();
    // It backs off: refused at once within the second, tried anew after it.
    net.op(0, ping_op(id(PEER)));
    assert_eq!((net.links(), net.take_events(0).len()), (1, 1));
    net.run(2 * SEC);
    net.op(0, ping_op(id(PEER)));
    net.run(SEC / 10);
    assert_eq!(net.links(), 2);
    (moved, took)
}

#[test]
fn answered_with_what_kernels_of_other_versions_would_say() {
    let emit = |h: &Hello, v| Hello { version: v, ..answer(h) }.emit().to_vec();
    let lnet_magic = 0x4572_6963_u32.to_le_bytes();
    type Answer<'a> = &'a dyn Fn(&Hello) -> Vec<u8>;
    let cases: [(&str, Answer<'_>, &str); 8] = [
        ("V4 + 1", &|h| changed(emit(h, Version::V4), 4, &[5]), "err_version"),
        ("V1 2.0", &|h| changed(emit(h, Version::V1), 4, &[2]), "err_version"),
        ("V1 1.1", &|h| changed(emit(h, Version::V1), 6, &[1]), "err_version"),
        ("V1 with the LNet magic", &|h| changed(emit(h, Version::V1), 0, &lnet_magic), "err_version"),
        ("the acceptor's refusal", &|_| acceptor::refusal().to_vec(), "err_magic"),
        ("a magic that is none", &|_| b"SSH-2.0-".to_vec(), "err_magic"),
        ("another NID", &|h| Hello { src_nid: nid(67), ..answer(h) }.emit().to_vec(), "err_hello_nid"),
        ("another pid", &|h| Hello { src_pid: 12_346, ..answer(h) }.emit().to_vec(), "err_hello_nid"),
    ];
    for (what, say, counter) in cases {
        for then_reset in [false, true] {
            let (moved, took) = active(say, then_reset);
            assert!(moved.contains(&counter) && moved.contains(&"dials_failed"), "{what}: {moved:?}");
            assert!(took < SEC / 100, "{what}: fatal at once");
        }
    }
    // Types that do not fit together.
    for ctype in [ConnType::Any, ConnType::BulkIn, ConnType::BulkOut] {
        let (moved, _) = active(|h| Hello { ctype, ..answer(h) }.emit().to_vec(), false);
        assert!(moved.contains(&"err_conn_type"), "{moved:?}");
    }
    // A HELLO that claims to be of V4 and is too short: the socket timeout ends it.
    let mut net = net(config(1));
    net.raw_listen(peer_ip());
    net.op(0, ping_op(id(PEER)));
    net.run(SEC / 10);
    net.raw_send(0, &changed(emit(&dialled(&net, 0), Version::V3), 4, &[4]));
    net.run(49 * SEC);
    assert!(!net.wire(0, 0).1);
    net.run(3 * SEC);
    assert_eq!((net.wire(0, 0).1, counters(&net).err_hello_timeout), (true, 1));
    assert!(matches!(net.take_events(0)[..], [Event::Ping { info: Err(LnetError::TimedOut), .. }]));
}

/// NONE in another version: remembered, and tried at once in it; NONE in ours: a second later (socklnd.md §2.7).
#[test]
fn answered_with_none_of_every_version() {
    for version in [Version::V1, Version::V2, Version::V3, Version::V4] {
        let mut net = net(config(1));
        net.raw_listen(peer_ip());
        net.op(0, ping_op(id(PEER)));
        net.run(SEC / 10);
        let none = Hello { version, ctype: ConnType::None, ..answer(&dialled(&net, 0)) };
        net.raw_send(0, &none.emit());
        net.run(SEC / 10);
        let again = if version == Version::V3 { 1 } else { 2 };
        assert_eq!(net.links(), again, "{version:?}");
        net.run(2 * SEC);
        assert_eq!((net.links(), dialled(&net, 1).version), (2, version));
    }
}

/// A HELLO of another version with a type is as good, and what follows is spoken in it.
#[test]
fn answered_in_another_version_is_accepted() {
    for version in [Version::V1, Version::V2, Version::V3, Version::V4] {
        let mut net = net(config(1));
        net.raw_listen(peer_ip());
        net.op(0, ping_op(id(PEER)));
        net.run(SEC / 10);
        net.raw_send(0, &Hello { version, ..answer(&dialled(&net, 0)) }.emit());
        net.run(SEC / 10);
        assert_eq!(raw::messages(&net, 0, 0, version).len(), 1, "the ping, in {version:?}");
        assert_eq!(dialled(&net, 1).version, version, "the next connection asks for it");
    }
}

#[test]
fn address_lists_of_every_length_are_taken() {
    for version in [Version::V1, Version::V2, Version::V3] {
        for order in [ByteOrder::Little, ByteOrder::Big] {
            if version == Version::V1 && order == ByteOrder::Big {
                continue;
            }
            for n in 0..=16 {
                let mut h = Hello { order, ..hello(version, ConnType::Control) };
                h.ips.extend((1..=n).map(|i| 0x0a00_0000 + i));
                assert_eq!(passive(&start(&h)), Outcome::Accepted(version), "{version:?} {order:?} {n}");
            }
        }
    }
    // In an answer, too: kernels up to 2.14 select some of ours there.
    for n in [1, 16] {
        let mut net = net(config(1));
        net.raw_listen(peer_ip());
        net.op(0, ping_op(id(PEER)));
        net.run(SEC / 10);
        let mut h = answer(&dialled(&net, 0));
        h.ips.extend(1..=n);
        net.raw_send(0, &h.emit());
        net.run(SEC / 10);
        assert_eq!(net.nodes[0].machine.gauges().conns_up, 1);
    }
}

#[test]
fn address_lists_that_lie() {
    // Offsets of the number of addresses, and of the first.
    for (version, count, first, unit) in
        [(Version::V1, 28, 72, 4u32), (Version::V2, 52, 56, 1), (Version::V3, 52, 56, 1)]
    {
        let with = |n: u32, sent: usize| {
            let mut h = hello(version, ConnType::Control);
            h.ips.extend((1..=16).take(sent));
            changed(h.emit().to_vec(), count, &(n * unit).to_le_bytes())
        };
        for n in [17, 18, 1000, u32::MAX / unit] {
            assert_eq!(passive(&with_request(&with(n, 16))), Outcome::Silent, "{version:?} {n}");
        }
        // More than were sent: the rest never comes.
        for sent in [0, 1, 15] {
            assert_eq!(
                passive(&with_request(&with(sent + 1, sent as usize))),
                Outcome::TooLong,
                "{version:?} {sent}"
            );
        }
        // A zero anywhere.
        for at in [0, 7, 15] {
            let bytes = changed(with(16, 16), first + 4 * at, &[0; 4]);
            assert_eq!(passive(&with_request(&bytes)), Outcome::Silent, "{version:?} zero at {at}");
        }
    }
    // Fewer than were sent: what is left over is no message.
    let mut h = hello(Version::V3, ConnType::Control);
    h.ips.extend([0x0707_0707; 8]);
    let mut net = net(config(1));
    let link = open(&mut net, 900, &with_request(&changed(h.emit().to_vec(), 52, &[1])));
    assert!(net.wire(link, 1).1);
    assert_eq!(counters(&net).err_ksock_type, 1);
    // V1 counts bytes: a length that is no whole number of addresses is cut to one.
    let mut h = hello(Version::V1, ConnType::Control);
    h.ips.extend([5, 6]);
    let odd = changed(h.emit().to_vec(), 28, &[11]);
    assert_eq!(passive(&with_request(&odd)), Outcome::Accepted(Version::V1));
}

/// V4's count is not looked at and no addresses follow: the next byte is a message's (socklnd.md §2.3).
#[test]
fn a_v4_hello_has_no_addresses_whatever_it_says() {
    for count in [1u32, 16, 17, u32::MAX] {
        let mut net = net(config(1));
        let h = changed(hello(Version::V4, ConnType::Control).emit().to_vec(), 76, &count.to_le_bytes());
        let link = open(&mut net, 900, &[with_request(&h), noop(0, 1)].concat());
        assert_eq!((net.wire(link, 1).1, counters(&net).noops_rx), (false, 1), "{count}");
    }
}

#[test]
fn hellos_from_nids_that_cannot_be() {
    let from = |src: &str| {
        let src_nid: Nid = if src == "any" { Nid::ANY } else { src.parse().unwrap() };
        start(&Hello { src_nid, ..hello(Version::V4, ConnType::Control) })
    };
    for src in ["any", "0@lo"] {
        assert_eq!(passive(&from(src)), Outcome::Silent, "{src}");
    }
    // A NID of another network is let in and gets ACKs, no answers (lnet.md §5); our own is as good as any (§9).
    for src in ["10.0.0.66@tcp1", "10.0.0.66@o2ib", "10.0.0.1@tcp"] {
        assert_eq!(passive(&from(src)), Outcome::Accepted(Version::V4), "{src}");
    }
    // One that is not the socket's address is taken for what it says (socklnd.md §2.6).
    assert_eq!(passive(&from("10.0.9.9@tcp")), Outcome::Accepted(Version::V4));
    // Its idea of its peer is not looked at.
    let h =
        Hello { dst_nid: nid(77), dst_pid: 5, dst_incarnation: 9, ..hello(Version::V3, ConnType::Control) };
    assert_eq!(passive(&start(&h)), Outcome::Accepted(Version::V3));
}

/// All of it again, a byte at a time: the outcome does not depend on how the bytes arrive.
#[test]
fn a_byte_at_a_time_it_is_the_same() {
    let v1 = hello(Version::V1, ConnType::Control).emit().to_vec();
    for (bytes, answer) in [
        (start(&hello(Version::V4, ConnType::BulkIn)), 80),
        (with_request(&changed(v1, 4, &[2])), 56),
        (changed(request(nid(1)), 4, &[7]), 16),
    ] {
        let mut net = Net::new();
        (net.chunk, net.piecemeal) = (1, true);
        net.add(Config { accept_timeout: 60 * SEC, ..config(1) });
        let link = net.raw_connect(at(900), 0);
        for b in bytes {
            net.raw_send(link, &[b]);
            net.run(SEC / 10);
        }
        assert_eq!(net.wire(link, 1).0.len(), answer);
    }
}
