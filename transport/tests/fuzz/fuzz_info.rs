//! Ping infos, as answers to our pings and as pushes: valid ones, some changed, cut short or too long, and noise
//! (docs/protocol/lnet.md §6).
//!
//! Invariants: no panic; an info that is taken reads the same when it is written again; every push is acknowledged
//! once, with no more than there is room for; a peer is not asked more often than it has a reason for; of names no more are kept
//! than one peer may have; what applications ask for ends; and when the peer is gone everything is home.

use crate::fuzz::{Bytes, LEN, TIME};
use crate::raw::{self, *};
use transport::lnd::{Config, Payload};
use transport::lnet::Event;
use transport::testing::capture::Msg;
use transport::testing::net::SEC;
use transport::testing::pair::discovering;
use transport::wire::ping::{self, LEN_MAX};
use transport::wire::{ByteOrder, KsockType, LnetBody, Nid, PingInfo, Version, WireHandle};

/// An info, valid or not.
fn info(b: &mut Bytes<'_>) -> Vec<u8> {
    if b.below(8) == 0 {
        return b.rest(300);
    }
    let n = [1, 2, 5, 16, 40, 300][b.below(6) as usize];
    let nid_at = |i: u32| match i {
        0 => nid(PEER),
        i if i % 7 == 6 => format!("fd77::{i}@tcp").parse().unwrap(),
        i => Nid::tcp((0x0c00_0000 + i).to_be_bytes().into(), 0),
    };
    let first = u32::from(b.below(6) == 0);
    let features = [0x1e, 0x1e, 0x0e, 0x06, 0x3e, 0x1c][b.below(6) as usize];
    let order = if b.below(4) == 0 { ByteOrder::Big } else { ByteOrder::Little };
    let mut out = Vec::new();
    PingInfo { order, ..PingInfo::new((first..first + n).map(nid_at), 12345, features, b.u32()) }
        .emit(&mut out);
    for _ in 0..b.below(3) {
        let at = b.below(out.len() as u64) as usize;
        out[at] = b.u8();
    }
    if b.below(5) == 0 {
        out.truncate(b.below(out.len() as u64 + 1) as usize);
    }
    out
}

fn message(body: LnetBody, payload: &[u8]) -> Vec<u8> {
    let h = header(body, payload.len() as u32);
    [&ksock(KsockType::Lnet, 0, 0, 0)[..], &h.emit_as(Version::V3)[..], payload].concat()
}

fn run(input: &[u8]) {
    let mut b = Bytes::new(input);
    let mut net = raw::net(Config { transaction_timeout: 20 * SEC, keepalive: 0, ..discovering(1) });
    let links = open_set(&mut net, Version::V3);
    let (mut seen, mut pushes, mut reasons, mut asked, mut puts, mut ended) =
        (0, 0u64, 0u64, 0u64, 0u64, 0u64);
    let mut handles = Vec::new();
    while !b.done() && pushes + puts < 60 {
        match b.below(5) {
            0 => {
                puts += 1;
                reasons += 1;
                net.op(0, put_op(puts, id(PEER), Payload::inline(b"app").unwrap(), b.chance()));
            }
            1 | 2 => {
                let bytes = info(&mut b);
                if let Ok(i) = PingInfo::parse(&bytes) {
                    let mut again = Vec::new();
                    i.emit(&mut again);
                    let same = PingInfo::parse(&again).expect("what was taken can be written");
                    assert_eq!((same.nis, same.pid, same.sequence), (i.nis, i.pid, i.sequence));
                }
                assert!(ping::whole_len(&bytes).is_none_or(|n| n <= LEN_MAX));
                pushes += 1;
                reasons += 1;
                let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
                let ack = WireHandle { interface: 1, object: pushes };
                let put = LnetBody::Put { ack, match_bits, hdr_data: 0, portal, offset: 0 };
                net.raw_send(links[0], &message(put, &bytes));
            }
            3 => {
                if let Some((handle, sink)) = handles.pop() {
                    let bytes = info(&mut b);
                    let cut = bytes.len().min(sink as usize + b.below(2) as usize * 9);
                    net.raw_send(links[0], &message(LnetBody::Reply { handle }, &bytes[..cut]));
                    // One that was cut short is asked for again.
                    reasons += 1;
                }
            }
            _ => net.run(b.below(30) * SEC / 10),
        }
        net.run(SEC / 100);
        for m in raw::messages(&net, links[0], 1, Version::V3).into_iter().skip(seen) {
            seen += 1;
            let Msg::Lnet(_, h, _) = m else { panic!("{m:?}") };
            match h.body {
                LnetBody::Get { handle, sink_length, .. } => {
                    assert!((272..=LEN_MAX).contains(&sink_length));
                    asked += 1;
                    handles.push((handle, sink_length));
                }
                LnetBody::Ack { handle, mlength, .. } => {
                    assert!(handle.object >= 1 && handle.object <= pushes && mlength <= 1040);
                }
                LnetBody::Put { ack, match_bits: ping::MATCH_BITS, portal: 0, .. } if b.chance() => {
                    let (match_bits, mlength) = (ping::MATCH_BITS, h.payload_len);
                    net.raw_send(links[0], &message(LnetBody::Ack { handle: ack, match_bits, mlength }, &[]));
                }
                LnetBody::Put { .. } => {}
                LnetBody::Reply { .. } => panic!("{h:?}"),
            }
        }
    }
    assert!(asked <= reasons, "{asked} pings for {reasons} reasons");
    assert!(net.nodes[0].machine.nids_kept() <= 32);
    assert!(!net.wire(links[0], 1).1, "the connection lives");
    assert_eq!(raw::counters(&net).pushes_rx, pushes);
    let acks = raw::messages(&net, links[0], 1, Version::V3);
    let acks =
        acks.iter().filter(|m| matches!(m, Msg::Lnet(_, h, _) if matches!(h.body, LnetBody::Ack { .. })));
    assert_eq!(acks.count() as u64, pushes, "each push once");
    net.run(SEC);
    net.raw_reset(links[0]);
    net.run(300 * SEC);
    for e in net.take_events(0) {
        ended += u64::from(matches!(e, Event::Send { done: true, .. } | Event::Ack { done: true, .. }));
    }
    assert_eq!(ended, puts);
    net.assert_at_rest(0);
}

#[test]
fn infos_are_taken_or_not_and_nothing_stays() {
    bolero::check!().with_test_time(TIME).with_max_len(LEN).for_each(run);
}
