//! Handshakes of every version and role, changed, cut and split at will (docs/protocol/socklnd.md §1, §2).
//!
//! The input says what the peer is and what it sends; the same bytes are sent twice, whole and in pieces. What must
//! hold: no panic, the same answer either way, nothing of it disturbs another peer, what is remembered is bounded, and
//! when the peer is gone nothing is left of it.

use crate::fuzz::{Bytes, LEN, TIME};
use crate::raw::*;
use transport::lnd::{Accept, Config};
use transport::lnet::Event;
use transport::testing::net::{Net, SEC};
use transport::wire::{AcceptorReq, ByteOrder, ConnType, Hello, Nid, Version};

const VERSIONS: [Version; 4] = [Version::V1, Version::V2, Version::V3, Version::V4];

/// Another NI of the node, on the same address.
fn second() -> Nid {
    "10.0.0.1@tcp1".parse().unwrap()
}

fn some_nid(b: &mut Bytes<'_>) -> Nid {
    match b.u8() % 8 {
        0 => Nid::ANY,
        1 => Nid::LO,
        2 => nid(b.u8()),
        3 => "10.0.0.66@tcp9".parse().unwrap(),
        4 => "fd77::9@tcp".parse().unwrap(),
        5 => nid(1),
        6 => second(),
        _ => nid(PEER),
    }
}

fn some_hello(b: &mut Bytes<'_>, base: &Hello) -> Hello {
    let mut h = base.clone();
    h.version = VERSIONS[b.below(4) as usize];
    h.order = if b.below(4) == 0 { ByteOrder::Big } else { ByteOrder::Little };
    h.tcp_magic = b.below(4) == 0;
    if b.below(3) == 0 {
        h.ctype = [ConnType::None, ConnType::Any, ConnType::Control, ConnType::BulkIn, ConnType::BulkOut]
            [b.below(5) as usize];
    }
    if b.below(4) == 0 {
        (h.src_nid, h.dst_nid) = (some_nid(b), some_nid(b));
        h.src_pid = b.u32();
        h.src_incarnation = b.below(3);
    }
    if h.version != Version::V4 {
        let n = b.below(17);
        h.ips.extend((0..n).map(|i| i as u32 + 1));
    }
    h
}

/// The handshake of the peer, some of its bytes changed, some left out at the end, some added.
fn bytes_of(b: &mut Bytes<'_>, base: &Hello, passive: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    if passive {
        let target = match b.below(8) {
            0 => some_nid(b),
            1 | 2 => second(),
            _ => nid(1),
        };
        let order = if b.chance() { ByteOrder::Big } else { ByteOrder::Little };
        let version = 1 + u32::from(b.below(3) == 0 || target.to_nid4().is_none());
        let req = AcceptorReq { version, target, order };
        bytes.extend_from_slice(&req.emit()[..req.wire_len()]);
    }
    bytes.extend_from_slice(&some_hello(b, base).emit());
    for _ in 0..[0, 0, 1, 3][b.below(4) as usize] {
        let at = b.below(bytes.len() as u64) as usize;
        bytes[at] = if b.chance() { b.u8() } else { bytes[at].wrapping_add(1) };
    }
    match b.u8() % 4 {
        0 => bytes.truncate(b.below(bytes.len() as u64 + 1) as usize),
        1 => bytes.extend(b.rest(150)),
        _ => {}
    }
    bytes
}

/// Places at which the bytes are cut into pieces.
fn pieces(b: &mut Bytes<'_>, bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut out, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let n = (1 + b.below(40) as usize).min(rest.len());
        let (piece, more) = rest.split_at(n);
        out.push(piece.to_vec());
        rest = more;
    }
    out
}

/// Plays one connection; gives what the machine wrote on it, whether it closed, and how many are up.
fn play(
    cfg: &Config,
    passive: bool,
    port: u16,
    sent: &dyn Fn(&Hello) -> Vec<Vec<u8>>,
) -> (Vec<u8>, bool, usize) {
    let mut net = Net::new();
    net.add(cfg.clone());
    net.add(config(2));
    net.op(1, ping_op(id(1)));
    net.run(SEC / 100);
    let before = net.nodes[0].machine.gauges();
    let (link, end) = if passive {
        (net.raw_connect(at(port), 0), 1)
    } else {
        net.raw_listen(peer_ip());
        net.op(0, ping_op(id(PEER)));
        net.run(SEC / 100);
        (net.links() - 1, 0)
    };
    let base = if passive { hello(Version::V3, ConnType::Control) } else { answer(&dialled(&net, link)) };
    net.run(SEC / 1000);
    let skip = net.wire(link, end).0.len();
    for piece in sent(&base) {
        net.raw_send(link, &piece);
        net.run(SEC / 1000);
    }
    let g = net.nodes[0].machine.gauges();
    assert!(g.conns <= before.conns + 2 && g.peers <= before.peers + 2 && g.queued <= 1, "{g:?}");
    let (wrote, closed) = net.wire(link, end);
    let outcome = (wrote[skip..].to_vec(), closed, g.conns_up);
    // The other peer has noticed nothing.
    net.take_events(1);
    net.op(1, ping_op(id(1)));
    net.run(SEC / 10);
    assert!(matches!(net.take_events(1)[..], [Event::Ping { info: Ok(_), .. }]));
    // The peer goes, and is forgotten.
    net.raw_reset(link);
    net.run(400 * SEC);
    let g = net.nodes[0].machine.gauges();
    assert_eq!(
        (g.conns, g.peers, g.ops, g.queued, g.credits_used),
        (before.conns, before.peers, 0, 0, 0),
        "{g:?}"
    );
    outcome
}

fn run(input: &[u8]) {
    let mut b = Bytes::new(input);
    let passive = b.chance();
    let accept = [Accept::Secure, Accept::All, Accept::Trust, Accept::None][(b.u8() % 8).min(3) as usize];
    let version =
        [None, None, None, Some(Version::V1), Some(Version::V2), Some(Version::V3)][b.below(6) as usize];
    let port = if b.below(4) == 0 { 40_000 } else { 700 };
    // The other peer has to be let in.
    let accept = if accept == Accept::None { Accept::Secure } else { accept };
    let cfg = Config { accept, version, v1_on_reset: b.chance(), ..config(1).also(second()) };
    let rest = b.rest(usize::MAX);
    let whole = |h: &Hello| vec![bytes_of(&mut Bytes::new(&rest), h, passive)];
    let cut = |h: &Hello| {
        let mut b = Bytes::new(&rest);
        let bytes = bytes_of(&mut b, h, passive);
        pieces(&mut b, &bytes)
    };
    assert_eq!(play(&cfg, passive, port, &whole), play(&cfg, passive, port, &cut));
}

#[test]
fn handshakes_end_one_way_or_the_other() {
    bolero::check!().with_test_time(TIME).with_max_len(LEN).for_each(run);
}
