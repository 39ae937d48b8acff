//! Messages of every version behind a good handshake: a stream of valid ones, of which some are changed, cut short, or
//! followed by noise (docs/protocol/socklnd.md §5, §6, §8).
//!
//! The same bytes are sent twice, whole and in pieces. What must hold: no panic; what is valid is taken, every cookie
//! in it ACKed once, and the connection lives; the answer does not depend on the pieces; another peer is undisturbed;
//! and when the peer is gone everything is home: credits, lends, operations, receive buffers.

use crate::fuzz::{Bytes, LEN, TIME};
use crate::raw::{self, *};
use transport::lnd::{Config, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::testing::capture::Msg;
use transport::testing::data::Spot;
use transport::testing::net::{Net, SEC};
use transport::wire::{KsockHdr, KsockType, LnetBody, Version, WireHandle, ksock, ping};

const VERSIONS: [Version; 4] = [Version::V1, Version::V2, Version::V3, Version::V4];

/// A portal without entries, at which PUTs wait, or do not.
const LAZY: u32 = 5;

/// Portals 1 to 4 of the node: lent, copied, cut short and dropped, given.
fn entries(net: &mut Net) {
    let copy = transport::testing::data::run(4096);
    for (portal, mem, truncate) in [
        (1, MdMem::Sink(Sink::Lend(1 << 20)), false),
        (2, MdMem::Sink(Sink::Copy(copy)), true),
        (3, MdMem::Sink(Sink::Discard(100)), true),
        (4, MdMem::Source(pages(3000)), true),
    ] {
        let md = MdSpec { truncate, ..MdSpec::new(mem) };
        net.op(0, Spot(portal, 5).attach(1, md));
    }
    net.take_events(0);
}

/// A valid message, and whether it carries a cookie.
fn valid(b: &mut Bytes<'_>, version: Version, cookie: &mut u64) -> (Vec<u8>, bool) {
    if version.has_ksock() && b.below(5) == 0 {
        let alive = u64::from(version >= Version::V3) & b.below(2);
        return (noop(b.below(2) * alive, alive), false);
    }
    let handle = WireHandle { interface: b.below(3), object: b.below(3) };
    let (portal, match_bits) = (b.below(6) as u32, 5 + b.below(8) / 7);
    let offset = if b.below(4) == 0 { b.u32() } else { 0 };
    let body = match b.u8() % 6 {
        0 => LnetBody::Ack { handle, match_bits, mlength: b.u32() },
        1 => LnetBody::Reply { handle },
        2 => LnetBody::Get {
            handle,
            match_bits,
            portal,
            src_offset: offset,
            sink_length: b.below(5000) as u32,
        },
        3 => LnetBody::Get {
            handle,
            match_bits: ping::MATCH_BITS,
            portal: ping::PORTAL,
            src_offset: b.below(60) as u32,
            sink_length: b.below(400) as u32,
        },
        _ => {
            let ack = if b.chance() { handle } else { WireHandle::NONE };
            LnetBody::Put { ack, match_bits, hdr_data: 7, portal, offset }
        }
    };
    let len = match body {
        LnetBody::Put { .. } | LnetBody::Reply { .. } => [0, 1, 90, 3000][b.below(4) as usize],
        _ => 0,
    };
    let h = header(body, len);
    let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
    let asks = version.has_ksock() && b.below(3) == 0;
    *cookie += u64::from(asks);
    let mut k =
        KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0: if asks { *cookie } else { 0 }, cookie1: 0 };
    let lnet: Vec<u8> = [h.emit_as(version).to_vec(), payload.clone()].concat();
    if b.below(4) == 0 {
        k.csum = match version {
            Version::V2 => {
                ksock::checksum(&[k.emit(transport::wire::ByteOrder::Little).to_vec(), lnet.clone()].concat())
            }
            _ => ksock::checksum(&payload),
        };
    }
    let ksm = if version.has_ksock() { k.emit(transport::wire::ByteOrder::Little).to_vec() } else { vec![] };
    ([ksm, lnet].concat(), asks)
}

struct Stream {
    bytes: Vec<u8>,
    /// Messages and cookies in it; `None` when some of it is not valid.
    valid: Option<(u64, u64)>,
}

fn stream(b: &mut Bytes<'_>, version: Version) -> Stream {
    let (mut bytes, mut cookie, mut lnet, mut asks) = (Vec::new(), 1u64, 0, 0);
    for _ in 0..1 + b.below(12) {
        let (m, asked) = valid(b, version, &mut cookie);
        lnet += u64::from(m.len() > ksock::LEN);
        asks += u64::from(asked);
        bytes.extend(m);
    }
    let mut good = true;
    if b.chance() {
        for _ in 0..1 + b.below(3) {
            let at = b.below(bytes.len() as u64) as usize;
            let to = if b.chance() { b.u8() } else { bytes[at] ^ 1 << (b.u8() % 8) };
            good &= bytes[at] == to;
            bytes[at] = to;
        }
    }
    match b.u8() % 6 {
        0 => {
            bytes.truncate(b.below(bytes.len() as u64) as usize);
            good = false;
        }
        1 => {
            bytes.extend(b.rest(100));
            good = false;
        }
        _ => {}
    }
    Stream { bytes, valid: good.then_some((lnet, asks)) }
}

/// Plays a stream on one connection of a set; gives what the machine wrote on all three, and whether it closed them.
fn play(version: Version, which: usize, s: &Stream, piece: usize, lazy: bool) -> (Vec<Vec<u8>>, bool) {
    let mut net = Net::new();
    net.chunk = piece;
    net.add(Config { tx_window: 1 << 30, ..config(1) });
    net.add(config(2));
    net.op(1, ping_op(id(1)));
    net.run(SEC / 100);
    entries(&mut net);
    net.op(0, Op::Lazy { tag: 1, portal: LAZY, on: lazy });
    let links = open_set(&mut net, version);
    let before = counters(&net);
    for part in s.bytes.chunks(piece.max(1)) {
        net.raw_send(links[which], part);
    }
    net.run(SEC / 10);
    // A message that has waited is dropped now, and so is the rest that asks for nothing that is there.
    net.op(0, Op::Lazy { tag: 1, portal: LAZY, on: false });
    net.run(SEC / 10);
    let after = counters(&net);
    let closed = links.map(|l| net.wire(l, 1).1);
    assert!(closed.iter().all(|c| *c == closed[0]), "one fate");
    let wrote: Vec<Vec<u8>> = links.iter().map(|l| net.wire(*l, 1).0.to_vec()).collect();
    if let Some((lnet, asks)) = s.valid {
        assert!(!closed[0], "a valid stream is taken: {:?}", after);
        assert_eq!(after.msgs_rx - before.msgs_rx, lnet);
        assert_eq!(after.zc_acks_tx, asks);
        let acked: Vec<Msg> = links.iter().flat_map(|l| raw::messages(&net, *l, 1, version)).collect();
        let cookies = |m: &Msg| match m {
            // One at a time: none waits in a queue here.
            Msg::Noop(k) | Msg::Lnet(k, ..) => u64::from(k.cookie1 != 0),
            _ => 0,
        };
        assert_eq!(acked.iter().map(cookies).sum::<u64>(), asks, "every cookie once");
    }
    let g = net.nodes[0].machine.gauges();
    // A changed byte may name another source, which is then asked for its answer: at most one for each change.
    assert!(g.peers <= 2 + 3 && g.conns <= 6 && g.queued <= 3, "{g:?}");
    // The other peer has noticed nothing.
    net.take_events(1);
    net.op(1, ping_op(id(1)));
    net.run(SEC / 10);
    assert!(matches!(net.take_events(1)[..], [Event::Ping { info: Ok(_), .. }]));
    // The peer goes, and everything is home.
    net.raw_reset(links[0]);
    net.take_events(0);
    net.run(200 * SEC);
    net.take_events(0);
    net.assert_at_rest(0);
    assert_eq!(net.nodes[0].machine.gauges().conns, 3);
    let home = net.nodes[0].pool.home();
    while home.drain() > 0 {}
    assert_eq!(home.lent_out(), 0, "receive buffers lent");
    (wrote, closed[0])
}

fn run(input: &[u8]) {
    let mut b = Bytes::new(input);
    let version = VERSIONS[b.below(4) as usize];
    let (which, piece) = (b.below(3) as usize, 1 + b.below(200) as usize);
    let s = stream(&mut b, version);
    let lazy = b.chance();
    assert_eq!(play(version, which, &s, 1 << 16, lazy), play(version, which, &s, piece, lazy));
}

#[test]
fn messages_of_every_version_are_taken_or_refused() {
    bolero::check!().with_test_time(TIME).with_max_len(LEN).for_each(run);
}
