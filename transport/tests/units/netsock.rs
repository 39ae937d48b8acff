//! netsock's transfer machine against peers of the test's making, byte for byte: the probes of docs/protocol/netsock.md §14, the
//! faults of §12, what Motr dies of, and the bounds on what strangers make a machine hold.

use std::net::SocketAddr;

use transport::netsock::{AddError, Config, Op, Queue, Refusal, Tm};
use transport::stream::{Action, Close, CloseWhy, ConnId, ConnInfo, Happened, Protocol, ShardId};
use transport::testing::data::bytes;
use transport::testing::net::{Net, SEC};
use transport::testing::netsock::{End, TmNode, addr, into, pages};
use transport::wire::netsock::{Addr, Bdesc, Cookie, HDR_LEN, PacketError, PacketHdr, PacketType, errno};

const PORT: u16 = 5002;
/// A peer's machine, from whose host the tests connect.
const THEIRS: u16 = 6001;

fn ours(net: &mut Net) -> TmNode {
    TmNode::new(net, Config::new(addr(2, PORT), 1_700_000_000_000_000_000))
}

/// A peer of the test's making at 10.0.0.1.
struct Raw {
    port: u16,
}

impl Raw {
    fn new(net: &mut Net) -> Raw {
        net.raw_listen([10, 0, 0, 1].into());
        Raw { port: 40_000 }
    }

    fn connect(&mut self, net: &mut Net, to: &TmNode) -> usize {
        self.port += 1;
        let link = net.raw_connect_to(SocketAddr::new([10, 0, 0, 1].into(), self.port), to.node, PORT);
        net.run(SEC / 1000);
        link
    }
}

fn cookie(n: u64) -> Cookie {
    Cookie { addr: 0x55a8_0000 + n * 8, generation: n }
}

/// A packet of the peer's.
fn packet(kind: PacketType, dst: Cookie, len: u64) -> PacketHdr {
    let src = Bdesc { addr: addr(1, THEIRS), cookie: cookie(1) };
    let dst = Bdesc { addr: addr(2, PORT), cookie: dst };
    PacketHdr { kind, src, dst, idx: 0, nr: 1, size: len, offset: 0, total: len }
}

fn put(dst: Cookie, payload: &[u8]) -> Vec<u8> {
    [&packet(PacketType::Put, dst, payload.len() as u64).emit()[..], payload].concat()
}

fn get(dst: Cookie) -> Vec<u8> {
    packet(PacketType::Get, dst, 0).emit().to_vec()
}

/// Whether the machine has ended a connection that a peer made.
fn ended(net: &Net, link: usize) -> bool {
    let (fin, closed) = net.raw_ended(link);
    fin || closed
}

fn why(tm: &TmNode) -> Vec<Refusal> {
    std::iter::from_fn(|| tm.tm().notice()).map(|n| n.why).collect()
}

fn ok(tag: u64, queue: Queue, from: Option<Addr>, bytes: &[u8]) -> End {
    End { tag, queue, status: 0, from, bytes: bytes.to_vec() }
}

/// p1: also a byte a segment. The sender is the one that the header names, though nothing listens there.
#[test]
fn a_message_comes_whole_or_byte_by_byte() {
    let mut net = Net::new();
    let (mut tm, mut raw) = (ours(&mut net), Raw::new(&mut net));
    let tags = [tm.msg_recv(&mut net, 100, None), tm.msg_recv(&mut net, 100, None)];
    let lent = tm.msg_recv_lent(&mut net, 100);
    let link = raw.connect(&mut net, &tm);
    net.raw_send(link, &put(Cookie::NONE, b"whole"));
    net.run(SEC / 100);
    for b in put(Cookie::NONE, b"in pieces") {
        net.raw_send(link, &[b]);
        net.run(SEC / 1000);
    }
    net.raw_send(link, &put(Cookie::NONE, b"lent"));
    net.run(SEC / 100);
    let from = Some(addr(1, THEIRS));
    let want = [(tags[0], &b"whole"[..]), (tags[1], b"in pieces"), (lent, b"lent")];
    assert_eq!(tm.take(), want.map(|(t, b)| ok(t, Queue::MsgRecv, from, b)));
    assert!(!ended(&net, link));
    tm.assert_at_rest(&net);
}

/// p2: the answer is on the connection that the GET came by; its source is the descriptor, its target what the GET named.
#[test]
fn a_get_is_answered_on_its_connection_with_both_descriptors_as_they_were() {
    let mut net = Net::new();
    let (mut tm, mut raw) = (ours(&mut net), Raw::new(&mut net));
    let (tag, desc) = tm.passive_send(&mut net, 3000, 9, None);
    let link = raw.connect(&mut net, &tm);
    net.raw_send(link, &get(desc.cookie));
    net.run(SEC / 10);
    let (wire, closed) = net.wire(link, 1);
    let h = PacketHdr::parse(wire).unwrap();
    assert_eq!((h.kind, h.src, h.dst), (PacketType::Put, desc, packet(PacketType::Get, desc.cookie, 0).src));
    assert_eq!((h.idx, h.nr, h.size, h.offset, h.total), (0, 1, 3000, 0, 3000));
    assert!(wire[HDR_LEN..] == bytes(3000, 9) && !closed);
    assert_eq!(net.links(), 1, "no connection is dialled for it");
    assert_eq!(tm.take(), [ok(tag, Queue::PassiveSend, None, b"")]);
    // p23: a second GET finds nobody. Motr serves it again, and dies.
    net.raw_send(link, &get(desc.cookie));
    net.run(SEC / 10);
    assert!(ended(&net, link));
    assert_eq!(why(&tm), [Refusal::Stale]);
    tm.assert_at_rest(&net);
}

/// p4, p5, p16: Motr dies of two packets, loses buffers to them, or takes memory for each of 2^32.
#[test]
fn packets_of_several_are_refused_and_buffers_stay_whole() {
    for nr in [2, 3, u32::MAX] {
        for bulk in [false, true] {
            let mut net = Net::new();
            let (mut tm, mut raw) = (ours(&mut net), Raw::new(&mut net));
            let message = tm.msg_recv(&mut net, 100, None);
            let (tag, desc) = tm.passive_recv(&mut net, 100, None);
            let dst = if bulk { desc.cookie } else { Cookie::NONE };
            let link = raw.connect(&mut net, &tm);
            let h = PacketHdr { nr, total: 20, ..packet(PacketType::Put, dst, 10) };
            net.raw_send(link, &[&h.emit()[..], &[7; 10]].concat());
            net.run(SEC / 10);
            assert!(ended(&net, link));
            assert_eq!(why(&tm), [Refusal::Parts(nr)]);
            assert_eq!(tm.take(), []);
            let link = raw.connect(&mut net, &tm);
            net.raw_send(link, &[put(desc.cookie, b"bulk"), put(Cookie::NONE, b"message")].concat());
            net.run(SEC / 10);
            let want = [
                ok(tag, Queue::PassiveRecv, None, b"bulk"),
                ok(message, Queue::MsgRecv, Some(addr(1, THEIRS)), b"message"),
            ];
            assert_eq!(tm.take(), want);
            tm.assert_at_rest(&net);
        }
    }
}

/// p6, p7: the same packet twice, and one that is too long before one that fits (which may be shorter than the buffer).
#[test]
fn a_descriptor_is_used_once_and_survives_what_does_not_fit() {
    let mut net = Net::new();
    let (mut tm, mut raw) = (ours(&mut net), Raw::new(&mut net));
    let (tag, desc) = tm.passive_recv(&mut net, 100, None);
    let link = raw.connect(&mut net, &tm);
    net.raw_send(link, &put(desc.cookie, &[1; 200]));
    net.run(SEC / 10);
    assert!(ended(&net, link));
    assert_eq!(why(&tm), [Refusal::TooLong { total: 200, room: 100 }]);
    assert_eq!(why(&tm), []);
    let link = raw.connect(&mut net, &tm);
    net.raw_send(link, &put(desc.cookie, &[2; 50]).repeat(2));
    net.run(SEC / 10);
    assert_eq!(tm.take(), [ok(tag, Queue::PassiveRecv, None, &[2; 50])]);
    assert!(ended(&net, link));
    assert_eq!(why(&tm), [Refusal::Stale]);
    tm.assert_at_rest(&net);
}

/// p8: a message that no buffer holds stops its own connection, and goes on when a buffer holds it; others come through.
#[test]
fn want_of_buffers_stops_one_connection_alone() {
    let mut net = Net::new();
    let (mut tm, mut raw) = (ours(&mut net), Raw::new(&mut net));
    let small = tm.msg_recv(&mut net, 100, None);
    let (a, b) = (raw.connect(&mut net, &tm), raw.connect(&mut net, &tm));
    net.raw_send(a, &[put(Cookie::NONE, &[1; 200]), put(Cookie::NONE, b"behind")].concat());
    net.run(SEC / 10);
    net.raw_send(b, &put(Cookie::NONE, b"other"));
    net.run(50 * SEC);
    let from = Some(addr(1, THEIRS));
    assert_eq!(tm.take(), [ok(small, Queue::MsgRecv, from, b"other")]);
    assert_eq!(tm.tm().gauges().parked, 1);
    // Too small, and it would be the turn of the one that waits.
    let next = tm.msg_recv(&mut net, 199, None);
    net.run(SEC);
    assert_eq!(tm.take(), []);
    let big = tm.msg_recv(&mut net, 200, None);
    net.run(SEC);
    let want = [ok(big, Queue::MsgRecv, from, &[1; 200]), ok(next, Queue::MsgRecv, from, b"behind")];
    assert_eq!(tm.take(), want);
    assert!(!ended(&net, a) && !ended(&net, b));
    tm.assert_at_rest(&net);
}

/// p9, p10, and every other byte of a packet: what was half filled is whole again, and takes the next packet.
#[test]
fn a_peer_that_closes_at_any_byte_leaves_buffers_whole() {
    let payload = bytes(40, 3);
    for reset in [false, true] {
        for at in 0..=HDR_LEN + payload.len() {
            let mut net = Net::new();
            let (mut tm, mut raw) = (ours(&mut net), Raw::new(&mut net));
            let message = tm.msg_recv(&mut net, 64, None);
            let (bulk, desc) = tm.passive_recv(&mut net, 64, None);
            let (fetched, source) = tm.passive_send(&mut net, 64, 1, None);
            let whole = at == HDR_LEN + payload.len();
            for dst in [Cookie::NONE, desc.cookie] {
                let link = raw.connect(&mut net, &tm);
                net.raw_send(link, &put(dst, &payload)[..at]);
                net.run(SEC / 1000);
                if reset {
                    net.raw_reset(link)
                } else {
                    net.raw_fin(link)
                }
                net.run(SEC / 10);
                assert!(reset || ended(&net, link), "{at}");
            }
            let mut got = tm.take();
            assert_eq!(got.len(), if whole { 2 } else { 0 }, "{at}: {got:?}");
            let link = raw.connect(&mut net, &tm);
            if !whole {
                net.raw_send(link, &[put(Cookie::NONE, &payload), put(desc.cookie, &payload)].concat());
            }
            net.raw_send(link, &get(source.cookie));
            net.run(SEC / 10);
            got.extend(tm.take());
            let tags: Vec<u64> = got.iter().map(|e| e.tag).collect();
            assert_eq!(tags, [message, bulk, fetched], "{at}");
            assert!(got[..2].iter().all(|e| e.bytes == payload && e.status == 0));
            assert_eq!(why(&tm), []);
            tm.assert_at_rest(&net);
        }
    }
}

/// p11: each of Motr's malformed headers, and why it is refused. Buffers and other connections do not notice.
#[test]
fn each_malformed_header_ends_its_connection_by_name() {
    let mut net = Net::new();
    let (mut tm, mut raw) = (ours(&mut net), Raw::new(&mut net));
    let message = tm.msg_recv(&mut net, 100, None);
    let (bulk, desc) = tm.passive_recv(&mut net, 100, None);
    let (fetched, source) = tm.passive_send(&mut net, 10, 1, None);
    let good = packet(PacketType::Put, Cookie::NONE, 2);
    let with = |f: &dyn Fn(&mut PacketHdr)| {
        let mut h = good;
        f(&mut h);
        h.emit().to_vec()
    };
    // Changed, and the checksum made anew.
    let summed = |at: usize, to: u8| {
        let mut b = good.emit();
        b[at] = to;
        let sum = transport::wire::netsock::fnv1(&b[..144]);
        b[152..].copy_from_slice(&sum.to_le_bytes());
        b.to_vec()
    };
    let flipped = |at: usize| {
        let mut b = good.emit();
        b[at] ^= 1;
        b.to_vec()
    };
    let gets = packet(PacketType::Get, source.cookie, 0);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("HeaderMagic", flipped(0)),
        ("FooterMagic", flipped(144)),
        ("Checksum", flipped(152)),
        ("Checksum", flipped(20)),
        ("Tag", summed(14, 2)),
        ("Tag", summed(12, 3)),
        ("Tag", summed(8, 0x80)),
        ("Index", with(&|h| h.nr = 0)),
        ("Index", with(&|h| h.idx = 1)),
        ("Wraps", with(&|h| (h.nr, h.offset) = (2, u64::MAX))),
        ("PastTotal", with(&|h| h.size = 3)),
        ("FirstOffset", with(&|h| (h.size, h.offset) = (1, 1))),
        ("LastEnd", with(&|h| h.size = 1)),
        ("NotOurs", with(&|h| h.dst.addr.port = 5003)),
        ("NotTheirs", with(&|h| h.src.addr = addr(9, THEIRS))),
        ("NoBuffer", with(&|h| h.src.cookie = Cookie::NONE)),
        ("Stale", with(&|h| h.dst.cookie = Cookie { addr: 64, generation: 1 })),
        ("Stale", with(&|h| h.dst.cookie = Cookie { generation: 1, ..desc.cookie })),
        ("WrongQueue(PassiveSend)", with(&|h| h.dst.cookie = source.cookie)),
        ("WrongQueue(PassiveRecv)", PacketHdr { dst: desc, ..gets }.emit().to_vec()),
        ("GetCookie", packet(PacketType::Get, Cookie::NONE, 0).emit().to_vec()),
        ("GetCookie", PacketHdr { src: Bdesc { cookie: Cookie::NONE, ..gets.src }, ..gets }.emit().to_vec()),
        ("GetShape", PacketHdr { size: 5, total: 5, ..gets }.emit().to_vec()),
        ("GetShape", PacketHdr { nr: 2, ..gets }.emit().to_vec()),
        ("LastEnd", PacketHdr { total: 5, ..gets }.emit().to_vec()),
        ("TooLong", PacketHdr { size: 101, total: 101, dst: desc, ..good }.emit().to_vec()),
    ];
    for (name, header) in cases {
        let link = raw.connect(&mut net, &tm);
        let size = PacketHdr::parse(&header).map_or(50, |h| h.size as usize);
        net.raw_send(link, &[&header[..], &vec![0; size]].concat());
        net.run(SEC / 10);
        assert!(ended(&net, link), "{name}");
        let got = why(&tm);
        assert!(got.len() == 1 && format!("{:?}", got[0]).contains(name), "{name}: {got:?}");
        let number = [(errno::EFBIG, "Wraps"), (errno::EMSGSIZE, "TooLong"), (errno::EPERM, "WrongQueue")];
        let want = number.iter().find(|(_, n)| name.starts_with(n)).map_or(errno::EPROTO, |n| n.0);
        assert_eq!(got[0].errno(), want, "{name}");
        assert_eq!(tm.take(), [], "{name}");
    }
    // Motr takes both: a message of no bytes, and one whose sender is at port 0.
    let second = tm.msg_recv(&mut net, 10, None);
    let link = raw.connect(&mut net, &tm);
    let mut h = good;
    h.src.addr.port = 0;
    let all =
        [&put(Cookie::NONE, b"")[..], &h.emit(), b"hi", &put(desc.cookie, b"bulk"), &get(source.cookie)];
    net.raw_send(link, &all.concat());
    net.run(SEC / 10);
    let ends: Vec<(u64, i32, usize)> = tm.take().iter().map(|e| (e.tag, e.status, e.bytes.len())).collect();
    assert_eq!(ends, [(message, 0, 0), (second, 0, 2), (bulk, 0, 4), (fetched, 0, 0)]);
    assert!(!ended(&net, link));
    assert_eq!(why(&tm), []);
    tm.assert_at_rest(&net);
}

/// A close in mid-packet kills Motr: a refused packet is read to its end before the close.
#[test]
fn a_refused_packet_is_read_to_its_end_before_its_connection_ends() {
    let mut net = Net::new();
    let (mut tm, mut raw) = (ours(&mut net), Raw::new(&mut net));
    let (tag, desc) = tm.passive_recv(&mut net, 1 << 20, None);
    assert!(tm.cancel(&mut net, tag));
    let link = raw.connect(&mut net, &tm);
    let packet = put(desc.cookie, &bytes(1 << 20, 1));
    for part in packet.chunks(100_000) {
        assert!(!ended(&net, link), "Motr is in mid-packet");
        net.raw_send(link, part);
        net.run(SEC);
    }
    assert!(ended(&net, link));
    assert_eq!(why(&tm), [Refusal::Stale]);
    assert_eq!(tm.tm().stats().drained, 1 << 20);
    assert_eq!(tm.take().iter().map(|e| e.status).collect::<Vec<_>>(), [errno::ECANCELED]);
    tm.assert_at_rest(&net);
}

/// A receive that is given up while it is filled lets the rest of the packet pass; the stream goes on behind it.
#[test]
fn a_cancel_or_timeout_in_mid_payload_keeps_the_stream_in_step() {
    for by_time in [false, true] {
        let mut net = Net::new();
        let (mut tm, mut raw) = (ours(&mut net), Raw::new(&mut net));
        let until = by_time.then_some(net.now + 2 * SEC);
        let tag = tm.msg_recv(&mut net, 1000, until);
        let link = raw.connect(&mut net, &tm);
        let first = put(Cookie::NONE, &bytes(1000, 1));
        net.raw_send(link, &first[..500]);
        net.run(SEC / 10);
        assert!(by_time || tm.cancel(&mut net, tag));
        net.run(3 * SEC);
        let status = if by_time { errno::ETIMEDOUT } else { errno::ECANCELED };
        assert_eq!(tm.take(), [End { tag, queue: Queue::MsgRecv, status, from: None, bytes: vec![] }]);
        let next = tm.msg_recv(&mut net, 1000, None);
        net.raw_send(link, &[&first[500..], &put(Cookie::NONE, b"next")].concat());
        net.run(SEC);
        assert_eq!(tm.take(), [ok(next, Queue::MsgRecv, Some(addr(1, THEIRS)), b"next")]);
        assert!(!ended(&net, link));
        tm.assert_at_rest(&net);
    }
}

/// p15: a send that is given up in mid-packet ends its connection, so that nobody reads a header out of payload; what waited
/// behind it goes by the next connection.
#[test]
fn a_cancel_in_mid_packet_ends_the_connection() {
    let mut net = Net::new();
    net.window = 10_000;
    net.raw_acks = false;
    let (mut tm, _raw) = (ours(&mut net), Raw::new(&mut net));
    let to = addr(1, THEIRS);
    let big = tm.msg_send(&mut net, to, 20 << 20, 1, None);
    let small = tm.msg_send(&mut net, to, 10, 2, None);
    net.run(SEC / 10);
    assert_eq!(tm.take(), []);
    assert!(tm.cancel(&mut net, big));
    assert!(!tm.cancel(&mut net, big), "once");
    net.raw_acks = true;
    net.run(SEC);
    let ends: Vec<(u64, i32)> = tm.take().iter().map(|e| (e.tag, e.status)).collect();
    assert_eq!(ends, [(big, errno::ECANCELED), (small, 0)]);
    assert_eq!(net.links(), 2);
    assert!(net.wire(0, 0).1);
    let h = PacketHdr::parse(net.wire(1, 0).0).unwrap();
    assert_eq!((h.size, h.dst.cookie), (10, Cookie::NONE));
    tm.assert_at_rest(&net);
}

/// p12, and the rule against a close in Motr's mid-packet: ours waits for the end of theirs.
#[test]
fn a_connection_does_not_end_while_the_peer_is_in_mid_packet() {
    let mut net = Net::new();
    net.window = 10_000;
    let (mut tm, _raw) = (ours(&mut net), Raw::new(&mut net));
    let to = addr(1, THEIRS);
    let desc = Bdesc { addr: to, cookie: cookie(5) };
    let fetch = tm.active_recv(&mut net, desc, 1000, None);
    net.run(SEC / 10);
    let asked = PacketHdr::parse(net.wire(0, 0).0).unwrap();
    assert_eq!((asked.kind, asked.dst, asked.nr, asked.total), (PacketType::Get, desc, 1, 0));
    net.raw_acks = false;
    let big = tm.msg_send(&mut net, to, 20 << 20, 1, None);
    let answer = PacketHdr { src: asked.dst, dst: asked.src, ..packet(PacketType::Put, Cookie::NONE, 800) };
    let answer = [&answer.emit()[..], &bytes(800, 4)].concat();
    net.raw_send(0, &answer[..600]);
    net.run(SEC / 10);
    assert!(tm.cancel(&mut net, big));
    net.run(SEC);
    assert!(!net.wire(0, 0).1, "the peer is in mid-packet");
    net.raw_send(0, &answer[600..]);
    net.run(SEC);
    assert!(net.wire(0, 0).1);
    let ends: Vec<(u64, i32, usize)> = tm.take().iter().map(|e| (e.tag, e.status, e.bytes.len())).collect();
    assert_eq!(ends, [(fetch, 0, 800), (big, errno::ECANCELED, 0)]);
    tm.assert_at_rest(&net);
}

/// p13: Motr does not dial again. Here it is tried until the time is over, and what waits goes when somebody listens.
#[test]
fn a_refused_dial_is_tried_again_until_the_timeout() {
    let mut net = Net::new();
    let mut tm = ours(&mut net);
    let mut other = TmNode::new(&mut net, Config::new(addr(1, THEIRS), 1));
    net.nodes[other.node].deaf = true;
    let until = Some(net.now + 4 * SEC);
    let late = tm.msg_send(&mut net, other.addr, 10, 1, until);
    net.run(5 * SEC);
    let end = |tag, status| End { tag, queue: Queue::MsgSend, status, from: None, bytes: vec![] };
    assert_eq!(tm.take(), [end(late, errno::ETIMEDOUT)]);
    let dials = tm.tm().stats().dials;
    assert!((4..20).contains(&dials), "{dials}");
    let until = Some(net.now + 40 * SEC);
    let sent = tm.msg_send(&mut net, other.addr, 10, 2, until);
    net.run(12 * SEC);
    let came = other.msg_recv(&mut net, 10, None);
    net.nodes[other.node].deaf = false;
    net.run(20 * SEC);
    assert_eq!(tm.take(), [end(sent, 0)]);
    assert_eq!(other.take(), [ok(came, Queue::MsgRecv, Some(tm.addr), &bytes(10, 2))]);
    // p13b: at most one connection, whatever waits for it.
    assert_eq!(net.links(), 1);
    let quiet = tm.tm().stats().dials;
    net.run(100 * SEC);
    assert_eq!(tm.tm().stats().dials, quiet, "nothing waits, so nobody dials");
}

/// p14: after a close between packets the next one is dialled for.
#[test]
fn a_connection_that_the_peer_closed_is_dialled_again_for_the_next_message() {
    let mut net = Net::new();
    let (mut tm, _raw) = (ours(&mut net), Raw::new(&mut net));
    for n in 0..3 {
        let tag = tm.msg_send(&mut net, addr(1, THEIRS), 10, n, None);
        net.run(SEC / 10);
        assert_eq!(tm.take().iter().map(|e| (e.tag, e.status)).collect::<Vec<_>>(), [(tag, 0)]);
        net.raw_fin(n as usize);
        net.run(SEC);
    }
    assert_eq!((net.links(), tm.tm().gauges().peers), (3, 0));
}

/// p25, p26, and an answer that is too long: by another connection, with another source, for too small a buffer.
#[test]
fn an_answer_may_come_by_another_connection_but_from_no_other_buffer() {
    let mut net = Net::new();
    let (mut tm, mut raw) = (ours(&mut net), Raw::new(&mut net));
    let desc = Bdesc { addr: addr(1, THEIRS), cookie: cookie(5) };
    let asked = |net: &mut Net, tm: &mut TmNode| {
        let tag = tm.active_recv(net, desc, 100, None);
        net.run(SEC / 10);
        let link = (0..net.links()).rfind(|l| net.addresses(*l)[1].port() == THEIRS).unwrap();
        let wire = net.wire(link, 0).0;
        (tag, PacketHdr::parse(&wire[wire.len() - HDR_LEN..]).unwrap(), link)
    };
    let answer = |asked: &PacketHdr, len: usize| {
        let h =
            PacketHdr { src: asked.dst, dst: asked.src, ..packet(PacketType::Put, Cookie::NONE, len as u64) };
        [&h.emit()[..], &bytes(len, 6)].concat()
    };
    let (tag, h, _) = asked(&mut net, &mut tm);
    let link = raw.connect(&mut net, &tm);
    net.raw_send(link, &answer(&h, 60));
    net.run(SEC / 10);
    assert_eq!(tm.take(), [ok(tag, Queue::ActiveRecv, None, &bytes(60, 6))]);
    // Another source. Nothing else will come by a connection that has ended: the buffer is told.
    let (tag, h, link) = asked(&mut net, &mut tm);
    let mut wrong = h;
    wrong.dst.cookie.generation += 1;
    net.raw_send(link, &answer(&wrong, 60));
    net.run(SEC / 10);
    assert_eq!(why(&tm), [Refusal::Foreign]);
    assert_eq!(tm.take().iter().map(|e| (e.tag, e.status)).collect::<Vec<_>>(), [(tag, errno::ECONNRESET)]);
    let (tag, h, link) = asked(&mut net, &mut tm);
    net.raw_send(link, &answer(&h, 101));
    net.run(SEC / 10);
    assert_eq!(why(&tm), [Refusal::TooLong { total: 101, room: 100 }]);
    assert_eq!(tm.take().iter().map(|e| (e.tag, e.status)).collect::<Vec<_>>(), [(tag, errno::EMSGSIZE)]);
    // An answer that comes too late, since the buffer was given up: the connection stays.
    let (tag, h, link) = asked(&mut net, &mut tm);
    assert!(tm.cancel(&mut net, tag));
    net.raw_send(link, &answer(&h, 60));
    net.run(SEC / 10);
    assert_eq!((why(&tm), tm.tm().stats().drained >= 60), (vec![], true));
    assert!(!net.raw_ended(link).0);
    assert_eq!(tm.take().len(), 1);
    tm.assert_at_rest(&net);
}

/// A peer that closes before it has answered: the fetch ends with an error, once, and is not asked again.
#[test]
fn a_get_whose_connection_is_lost_ends_and_is_not_sent_again() {
    let mut net = Net::new();
    let (mut tm, _raw) = (ours(&mut net), Raw::new(&mut net));
    let desc = Bdesc { addr: addr(1, THEIRS), cookie: cookie(5) };
    let tag = tm.active_recv(&mut net, desc, 100, None);
    net.run(SEC / 10);
    net.raw_fin(0);
    net.run(100 * SEC);
    assert_eq!(tm.take().iter().map(|e| (e.tag, e.status)).collect::<Vec<_>>(), [(tag, errno::ECONNRESET)]);
    assert_eq!(net.links(), 1);
    tm.assert_at_rest(&net);
}

/// A stranger that stops in mid-packet, at each kind of place, is given up; one that is silent between packets is not.
#[test]
fn a_peer_that_stops_in_mid_packet_is_given_up() {
    for at in [1, HDR_LEN - 1, HDR_LEN, HDR_LEN + 5] {
        let mut net = Net::new();
        let (mut tm, mut raw) = (ours(&mut net), Raw::new(&mut net));
        let tag = tm.msg_recv(&mut net, 100, None);
        let (link, idle) = (raw.connect(&mut net, &tm), raw.connect(&mut net, &tm));
        net.raw_send(link, &put(Cookie::NONE, &[1; 10])[..at]);
        net.run(59 * SEC);
        assert!(!ended(&net, link), "{at}");
        net.run(2 * SEC);
        assert!(ended(&net, link) && !ended(&net, idle), "{at}");
        assert_eq!(why(&tm), [Refusal::Stalled]);
        net.raw_send(idle, &put(Cookie::NONE, b"here"));
        net.run(SEC);
        assert_eq!(tm.take(), [ok(tag, Queue::MsgRecv, Some(addr(1, THEIRS)), b"here")]);
        tm.assert_at_rest(&net);
    }
}

#[test]
fn a_host_has_so_many_connections_and_no_more() {
    let mut net = Net::new();
    let cfg = Config { conns_of_host: 3, conns: 5, ..Config::new(addr(2, PORT), 1) };
    let (tm, mut raw) = (TmNode::new(&mut net, cfg), Raw::new(&mut net));
    let links: Vec<usize> = (0..4).map(|_| raw.connect(&mut net, &tm)).collect();
    assert_eq!(links.iter().map(|l| ended(&net, *l)).collect::<Vec<_>>(), [false, false, false, true]);
    assert_eq!(why(&tm), [Refusal::TooMany(3)]);
    net.raw_reset(links[0]);
    net.run(SEC);
    let again = raw.connect(&mut net, &tm);
    assert!(!ended(&net, again));
    let other = |net: &mut Net, n| {
        let l = net.raw_connect_to(SocketAddr::new([10, 0, 0, n].into(), 7), tm.node, PORT);
        net.run(SEC / 100);
        l
    };
    let more: Vec<bool> = [11, 12, 13].map(|n| other(&mut net, n)).map(|l| ended(&net, l)).to_vec();
    assert_eq!(more, [false, false, true]);
    assert_eq!(tm.tm().gauges().conns, 5);
}

#[test]
fn buffers_that_cannot_be_are_refused_with_their_errors() {
    let mut net = Net::new();
    let mut tm = ours(&mut net);
    let now = net.now;
    let mut add = |op: Op, until| tm.try_add(&mut net, op, None, until).map_err(|u| u.why).err();
    let data = || pages(10, 1).0;
    let at = |a: Addr| Bdesc { addr: a, cookie: cookie(1) };
    assert_eq!(add(Op::MsgRecv(into(10)), Some(now)), Some(AddError::Past));
    assert_eq!(add(Op::MsgRecv(into(0)), None), Some(AddError::Empty));
    let nonsense = Addr { family: 99, ..addr(1, 1) };
    for a in [nonsense, addr(1, 0), Addr { protocol: 17, ..addr(1, 1) }, Addr::stream(([0u16; 8], 5).into())]
    {
        assert_eq!(add(Op::ActiveSend { desc: at(a), data: data() }, None), Some(AddError::Addr(a)));
        assert_eq!(add(Op::ActiveRecv { desc: at(a), sink: into(1) }, None), Some(AddError::Addr(a)));
        assert_eq!(add(Op::MsgSend { to: a, data: data() }, None), Some(AddError::Addr(a)));
    }
    let none = Bdesc { addr: addr(1, 1), cookie: Cookie::NONE };
    assert_eq!(add(Op::ActiveSend { desc: none, data: data() }, None), Some(AddError::NoCookie));
    let numbers = [AddError::Past, AddError::Empty, AddError::NoCookie, AddError::Down].map(|e| e.errno());
    assert_eq!(numbers, [62, 22, 71, 108]);
    assert!(matches!(
        transport::netsock::Tm::new(Config::new(addr(1, 0), 1)).err(),
        Some(transport::netsock::TmError::Addr(_))
    ));
    assert_eq!(PacketError::Wraps { size: 1, offset: 2 }.errno(), errno::EFBIG);
}

/// Each of the six queues between two machines of ours, buffers lent and copied, over many pieces.
#[test]
fn all_queues_between_two_of_ours() {
    let mut net = Net::new();
    net.window = 200_000;
    let mut a = ours(&mut net);
    let mut b = TmNode::new(&mut net, Config::new(addr(1, THEIRS), 1));
    for len in [1, 100, 70_000, 5 << 20] {
        let m = b.msg_recv(&mut net, len, None);
        let (p, to) = b.passive_recv(&mut net, len, None);
        let (q, from) = b.passive_send(&mut net, len, 3, None);
        let sent = a.msg_send(&mut net, b.addr, len, 1, None);
        let filled = a.active_send(&mut net, to, (len, 2), None);
        let fetched = a.active_recv(&mut net, from, len, None);
        net.run(20 * SEC);
        let mut got = b.take();
        got.extend(a.take());
        got.sort_by_key(|e| (e.queue as u8, e.tag));
        let want = [
            ok(m, Queue::MsgRecv, Some(a.addr), &bytes(len, 1)),
            ok(sent, Queue::MsgSend, None, b""),
            ok(p, Queue::PassiveRecv, None, &bytes(len, 2)),
            ok(q, Queue::PassiveSend, None, b""),
            ok(fetched, Queue::ActiveRecv, None, &bytes(len, 3)),
            ok(filled, Queue::ActiveSend, None, b""),
        ];
        assert!(got == want, "{len}: {:?}", got.iter().map(|e| (e.queue, e.status)).collect::<Vec<_>>());
        a.assert_at_rest(&net);
        b.assert_at_rest(&net);
    }
    assert_eq!(net.links(), 1, "one connection, both directions");
}

/// A node that goes down: everything ends, with ECANCELED, and no connection stays.
#[test]
fn a_machine_that_goes_down_ends_all_buffers() {
    let mut net = Net::new();
    net.window = 10_000;
    let (mut tm, mut raw) = (ours(&mut net), Raw::new(&mut net));
    net.raw_acks = false;
    let link = raw.connect(&mut net, &tm);
    tm.msg_recv(&mut net, 100, None);
    let (_, desc) = tm.passive_recv(&mut net, 100, None);
    tm.passive_send(&mut net, 100, 1, None);
    tm.msg_send(&mut net, addr(1, THEIRS), 20 << 20, 1, None);
    tm.active_send(&mut net, Bdesc { addr: addr(1, THEIRS), cookie: cookie(1) }, (100, 1), None);
    net.raw_send(link, &put(desc.cookie, &[1; 100])[..200]);
    net.run(SEC);
    let now = net.now;
    Protocol::shut_down(&mut *tm.tm(), now);
    net.input(tm.node, transport::node::Input::Timer);
    net.run(SEC);
    let statuses: Vec<i32> = tm.take().iter().map(|e| e.status).collect();
    assert_eq!(statuses, [errno::ECANCELED; 5]);
    assert_eq!(tm.tm().gauges().conns, 0);
    let e = tm.try_add(&mut net, Op::MsgRecv(into(1)), None, None).map_err(|u| u.why).err();
    assert_eq!(e, Some(AddError::Down));
    tm.assert_at_rest(&net);
}

/// Going down, a connection between packets ends in order: what came is acknowledged. A peer that does not close, too, has a moment.
#[test]
fn a_machine_that_goes_down_parts_in_order() {
    let mut net = Net::new();
    let (mut tm, mut raw) = (ours(&mut net), Raw::new(&mut net));
    let tag = tm.msg_recv(&mut net, 100, None);
    let link = raw.connect(&mut net, &tm);
    net.raw_send(link, &put(Cookie::NONE, b"last"));
    net.run(SEC / 10);
    assert_eq!(tm.take(), [ok(tag, Queue::MsgRecv, Some(addr(1, THEIRS)), b"last")]);
    let now = net.now;
    Protocol::shut_down(&mut *tm.tm(), now);
    net.input(tm.node, transport::node::Input::Timer);
    net.run(SEC / 10);
    assert_eq!(net.raw_ended(link), (true, false), "a FIN, no reset");
    assert_eq!(tm.tm().gauges().conns, 0);
    tm.assert_at_rest(&net);

    let mut tm = Tm::new(Config::new(addr(2, PORT), 1)).unwrap();
    let [remote, local] = [(1, THEIRS), (2, PORT)].map(|(n, port)| addr(n, port).dialled().unwrap());
    let conn = ConnId { shard: ShardId(0), index: 7, generation: 1 };
    tm.handle(0, Happened::Opened(conn, ConnInfo { remote, local, dial: None }));
    tm.shut_down(SEC);
    assert!(matches!(tm.act(), Some(Action::Close(c, Close::Fin)) if c == conn));
    let at = tm.deadline().unwrap();
    tm.timer(at);
    assert!(at > SEC && matches!(tm.act(), Some(Action::Close(c, Close::Abort)) if c == conn));
    assert!(tm.act().is_none() && tm.deadline().is_none());
    tm.handle(at, Happened::Closed(conn, CloseWhy::Local));
    assert_eq!(tm.gauges().conns, 0);
}
