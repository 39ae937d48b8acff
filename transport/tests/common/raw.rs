//! A peer whose every byte is the test's, beside nodes on the simulated net. The peer is 10.0.0.66, nodes are counted
//! from 10.0.0.1.
#![allow(dead_code, unreachable_pub, unused_imports)]

use std::net::{IpAddr, SocketAddr};

use transport::lnd::{Config, Counters, LnetError, Payload};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::testing::capture::{self, Dir, Msg, Segment};
use transport::testing::data::Spot;
pub use transport::testing::data::pages;
use transport::testing::net::{Net, SEC};
pub use transport::testing::pair::{config, id, nid};
use transport::wire::{
    AcceptorReq, ByteOrder, ConnType, Hello, KsockHdr, KsockType, LnetBody, LnetHdr, Nid, ProcessId, Version,
    WireHandle, ping,
};

pub const PEER: u8 = 66;
/// Portal and match bits of [`put`] and [`put_op`].
pub const AT: Spot = Spot(5, 5);
pub const TYPES: [ConnType; 3] = [ConnType::Control, ConnType::BulkIn, ConnType::BulkOut];

pub fn net(cfg: Config) -> Net {
    let mut net = Net::new();
    net.add(cfg);
    net
}

pub fn at(port: u16) -> SocketAddr {
    SocketAddr::new([10, 0, 0, PEER].into(), port)
}

pub fn peer_ip() -> IpAddr {
    [10, 0, 0, PEER].into()
}

pub fn request(target: Nid) -> Vec<u8> {
    let req = AcceptorReq::new(target);
    req.emit()[..req.wire_len()].to_vec()
}

/// The peer's HELLO to node 1.
pub fn hello(version: Version, ctype: ConnType) -> Hello {
    Hello {
        version,
        order: ByteOrder::Little,
        tcp_magic: false,
        src_nid: nid(PEER),
        dst_nid: nid(1),
        src_pid: 12345,
        dst_pid: 0,
        src_incarnation: 6,
        dst_incarnation: 0,
        ctype,
        ips: Default::default(),
    }
}

/// Request and HELLO.
pub fn start(h: &Hello) -> Vec<u8> {
    [request(nid(1)), h.emit().to_vec()].concat()
}

pub fn ksock(kind: KsockType, csum: u32, cookie0: u64, cookie1: u64) -> Vec<u8> {
    KsockHdr { kind, csum, cookie0, cookie1 }.emit(ByteOrder::Little).to_vec()
}

pub fn noop(cookie0: u64, cookie1: u64) -> Vec<u8> {
    ksock(KsockType::Noop, 0, cookie0, cookie1)
}

pub fn header(body: LnetBody, payload_len: u32) -> LnetHdr {
    LnetHdr { dest_nid: nid(1), src_nid: nid(PEER), dest_pid: 12345, src_pid: 12345, payload_len, body }
}

/// A PUT to portal 5, match bits 5.
pub fn put(len: u32) -> LnetHdr {
    header(LnetBody::Put { ack: WireHandle::NONE, match_bits: 5, hdr_data: 0, portal: 5, offset: 0 }, len)
}

/// A ping.
pub fn ping_get(src_offset: u32) -> LnetHdr {
    let handle = WireHandle { interface: 1, object: 2 };
    header(
        LnetBody::Get {
            handle,
            match_bits: ping::MATCH_BITS,
            portal: ping::PORTAL,
            src_offset,
            sink_length: 272,
        },
        0,
    )
}

/// A message of `version` with a zero-copy cookie (0 for none) and payload.
pub fn message(version: Version, h: &LnetHdr, cookie: u64) -> Vec<u8> {
    let ksm = if version.has_ksock() { ksock(KsockType::Lnet, 0, cookie, 0) } else { vec![] };
    [ksm, h.emit_as(version).to_vec(), vec![9; h.payload_len as usize]].concat()
}

/// Opens a connection from the peer, sends `bytes`, and gives its number.
pub fn open(net: &mut Net, port: u16, bytes: &[u8]) -> usize {
    let link = net.raw_connect(at(port), 0);
    net.raw_send(link, bytes);
    net.run(SEC / 10);
    link
}

/// The peer's whole set to node 1: its CONTROL, BULK_IN and BULK_OUT.
pub fn open_set(net: &mut Net, version: Version) -> [usize; 3] {
    let mut port = 1000;
    TYPES.map(|t| {
        port -= 1;
        let link = open(net, port, &start(&hello(version, t)));
        assert!(!net.wire(link, 1).1, "{version:?} {t:?}");
        link
    })
}

/// Bytes that the machine wrote on a connection behind its HELLO, if it accepted.
pub fn behind_hello(net: &Net, link: usize) -> Vec<u8> {
    let wrote = net.wire(link, 1).0;
    let (_, n) = Hello::parse(wrote).expect("a HELLO");
    wrote[n..].to_vec()
}

/// The ksock headers of the NOOPs in `bytes`, which hold nothing else.
pub fn noops(bytes: &[u8]) -> Vec<(u64, u64)> {
    let one = |b: &[u8]| {
        let h = KsockHdr::parse(b, ByteOrder::Little).unwrap();
        assert_eq!(h.kind, KsockType::Noop);
        (h.cookie0, h.cookie1)
    };
    bytes.chunks(24).map(one).collect()
}

/// The HELLO that the machine of node 0 wrote on a connection that it dialled.
pub fn dialled(net: &Net, link: usize) -> Hello {
    let wrote = net.wire(link, 0).0;
    let (_, skip) = AcceptorReq::parse(wrote).expect("a request");
    Hello::parse(&wrote[skip..]).expect("a HELLO").0
}

/// The peer's answer to a HELLO of node 1's.
pub fn answer(asked: &Hello) -> Hello {
    let ctype = asked.ctype.invert();
    Hello { src_nid: asked.dst_nid, dst_nid: asked.src_nid, ctype, ..hello(asked.version, ctype) }
}

pub fn counters(net: &Net) -> Counters {
    *net.nodes[0].machine.counters()
}

pub fn attach(net: &mut Net, node: usize, mem: MdMem, truncate: bool) {
    net.op(node, AT.attach(9, MdSpec { truncate, ..MdSpec::new(mem) }));
    net.take_events(node);
}

pub fn put_op(tag: u64, target: ProcessId, payload: Payload, ack: bool) -> Op {
    AT.put(tag, target, payload, ack)
}

pub fn ping_op(target: ProcessId) -> Op {
    Op::Ping { tag: 1, target }
}

/// A ping of node 10.0.0.`to`'s by node `from`, and what comes of it within so many ns.
pub fn pinged(net: &mut Net, from: usize, to: u8, within: u64) -> Option<Result<(), LnetError>> {
    net.take_events(from);
    net.op(from, ping_op(id(to)));
    net.run(within);
    ping_end(net, from)
}

/// Outcome of a node's ping.
pub fn ping_end(net: &mut Net, node: usize) -> Option<Result<(), LnetError>> {
    net.take_events(node).into_iter().find_map(|e| match e {
        Event::Ping { info, .. } => Some(info.map(drop)),
        _ => None,
    })
}

/// Everything that a machine wrote on its end of a connection of `version`, behind request and HELLO.
pub fn messages(net: &Net, link: usize, end: usize, version: Version) -> Vec<Msg> {
    let mut dir = Dir::default();
    dir.segments.push(Segment { at: 0, bytes: net.wire(link, end).0.to_vec() });
    let (all, left) = capture::messages(&dir, end == 0, true, version).expect("what we write is well-formed");
    assert_eq!(left, 0, "whole messages");
    all.into_iter().map(|l| l.msg).filter(|m| !matches!(m, Msg::Acceptor(_) | Msg::Hello(_))).collect()
}
