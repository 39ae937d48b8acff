//! Names of peers are theirs: a NID that one node claims and another has (docs/protocol/lnet.md §6).

use transport::lnd::{Config, Payload, Shards, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::testing::capture::Msg;
use transport::testing::net::{Net, SEC};
use transport::testing::pair::discovering;
use transport::wire::{ConnType, KsockType, LnetBody, PingInfo, Version, WireHandle, ping};

use crate::raw::{self, AT, attach, config, header, hello, id, nid, put_op, start};

/// A peer that is connected keeps its name, whatever another node says of itself when it is asked or pushes: events name the one who
/// sent, entries for the one take nothing of the other, and operations on the one go to it. Whichever shard is whose home.
#[test]
fn a_stranger_takes_no_connected_peer_s_name() {
    for shards in [1, 3] {
        // The stranger's name first, and the victim's; by an answer, and by a push.
        for (claim, pushes) in [([66, 2], false), ([2, 66], false), ([66, 2], true), ([2, 66], true)] {
            let mut net = Net::new();
            for s in 0..shards {
                let cfg = Config { shards: Shards::new(s, shards).unwrap(), ..discovering(1) };
                net.add(cfg);
            }
            let victim = net.add(config(2));
            net.op(0, AT.attach(9, MdSpec::new(MdMem::Sink(Sink::Lend(4096)))));
            // The victim is there first; it takes no part in discovery, so that nobody hears of it otherwise.
            net.op(victim, put_op(1, id(1), Payload::inline(b"mine").unwrap(), true));
            net.run(SEC);
            let home = net.home(0, [10, 0, 0, 66].into());
            let links = [ConnType::Control, ConnType::BulkIn, ConnType::BulkOut].map(|t| {
                let link = net.raw_connect(raw::at(1000 - t as u16), home);
                net.raw_send(link, &start(&hello(Version::V3, t)));
                net.run(SEC / 10);
                link
            });
            let mut info = Vec::new();
            PingInfo::new(claim.map(nid), 12345, 0x1e, 2).emit(&mut info);
            let say = |net: &mut Net, body, info: &[u8]| {
                let h = header(body, info.len() as u32);
                let ksm = raw::ksock(KsockType::Lnet, 0, 0, 0);
                net.raw_send(links[0], &[&ksm[..], &h.emit_as(Version::V3)[..], info].concat());
                net.run(SEC / 10);
            };
            let push = LnetBody::Put {
                ack: WireHandle::NONE,
                match_bits: ping::MATCH_BITS,
                hdr_data: 0,
                portal: 0,
                offset: 0,
            };
            if pushes {
                say(&mut net, push, &info);
            } else {
                net.op(0, put_op(2, id(66), Payload::inline(b"app").unwrap(), false));
                net.run(SEC / 10);
            }
            let asked = raw::messages(&net, links[0], 1, Version::V3);
            let handle = asked.iter().find_map(|m| match m {
                Msg::Lnet(_, h, _) => match h.body {
                    LnetBody::Get { handle, .. } => Some(handle),
                    _ => None,
                },
                _ => None,
            });
            assert_eq!(handle.is_none(), pushes, "it is asked unless it has told");
            if let Some(handle) = handle {
                say(&mut net, LnetBody::Reply { handle }, &info);
            }
            say(&mut net, push, &info);
            net.run(SEC);
            for shard in 0..usize::from(shards) {
                let m = &net.nodes[shard].machine;
                assert_eq!((m.primary(nid(2)), m.primary(nid(66))), (nid(2), nid(66)), "{shard} {claim:?}");
                net.take_events(shard);
            }
            net.op(victim, put_op(3, id(1), Payload::inline(b"mine").unwrap(), false));
            say(
                &mut net,
                LnetBody::Put { ack: WireHandle::NONE, match_bits: 5, hdr_data: 0, portal: 5, offset: 0 },
                b"!",
            );
            net.run(SEC);
            let named = |e| if let Event::Put(p) = e { Some((p.initiator, p.source)) } else { None };
            let mut all: Vec<_> =
                (0..usize::from(shards)).flat_map(|n| net.take_events(n)).filter_map(named).collect();
            all.sort_unstable();
            assert_eq!(all, [(id(2), nid(2)), (id(66), nid(66))], "{claim:?} {pushes}");
        }
    }
}

/// Two rails of a node that are both there before either has said so are one when both have, whichever is asked first.
#[test]
fn rails_that_are_there_before_they_are_asked_become_one() {
    let mut net = Net::new();
    net.add(discovering(1));
    let other = net.add(Config { discovery: false, ..discovering(2) }.also(nid(4)));
    for node in 0..2 {
        attach(&mut net, node, MdMem::Sink(Sink::Discard(4096)), true);
    }
    for from in [2, 4] {
        let mut op = put_op(1, id(1), Payload::inline(b"app").unwrap(), false);
        if let Op::Put { from: f, .. } = &mut op {
            *f = Some(nid(from));
        }
        net.op(other, op);
        net.run(SEC);
    }
    let conns = net.nodes[0].machine.gauges().conns_up;
    assert!(conns >= 4, "both rails are there: {conns}");
    assert_eq!(net.nodes[0].machine.primary(nid(4)), nid(4));
    net.op(0, put_op(7, id(2), Payload::inline(b"app").unwrap(), true));
    net.run(SEC);
    assert_eq!(net.nodes[0].machine.primary(nid(4)), nid(2));
    assert_eq!(net.nodes[0].machine.counters().discoveries, 2, "each of them was asked");
}
