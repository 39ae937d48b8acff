//! NIDs that a peer claims, and that another node has (docs/protocol/lnet.md §6.4).

use transport::lnd::{Config, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::testing::capture::Msg;
use transport::testing::net::SEC;
use transport::testing::pair::discovering;
use transport::wire::{ConnType, Hello, KsockType, LnetBody, LnetHdr, Version, WireHandle};

use crate::discovery::{Asked, info_of, is_push, message, push};
use crate::raw::{self, PEER, id, nid};

/// A node whose NID another has claimed before it came is asked whether it is that one as soon as its HELLO names it; nobody acts for it
/// meanwhile, and it is its own unless it says otherwise: whether it knows of Multi-Rail or not, or says nothing.
#[test]
fn a_claim_does_not_outlast_the_coming_of_the_node_it_names() {
    let late = nid(67);
    for (said, kept) in [
        (Some(info_of([late], 0x1e)), false),
        (Some(info_of([late], 0x06)), false),
        (Some(info_of([late, nid(68)], 0x1e)), false),
        (Some(info_of([nid(PEER), late], 0x1e)), true),
        (None, false),
    ] {
        for leads in [false, true] {
            let mut a = Asked::new(Config { keepalive: 0, ..discovering(1) });
            let at = |tag, who| {
                let md = MdSpec { threshold: None, ..MdSpec::new(MdMem::Sink(Sink::Discard(4096))) };
                Op::Attach { tag, portal: 5, who: id(who), match_bits: 5, ignore_bits: 0, md }
            };
            a.net.op(0, at(67, 67));
            let liar = if leads { [late, nid(PEER)] } else { [nid(PEER), late] };
            a.put();
            a.answer(&info_of(liar, 0x1e));
            let own = a.said();
            a.ack(own.iter().find_map(|m| is_push(&m.0)).unwrap(), 48);
            a.net.take_events(0);
            assert_eq!(a.net.nodes[0].machine.primary(late), liar[0]);

            let link = a.net.raw_connect(([10, 0, 0, 67], 700).into(), 0);
            let hello = Hello { src_nid: late, ..raw::hello(Version::V3, ConnType::Control) };
            a.net.raw_send(link, &raw::start(&hello));
            a.net.run(SEC / 10);
            let its = raw::messages(&a.net, link, 1, Version::V3);
            let [Msg::Lnet(_, LnetHdr { body: LnetBody::Get { handle, portal: 0, .. }, .. }, _)] = its[..]
            else {
                panic!("it is asked: {its:?}")
            };
            let from = |src_nid, body, payload: &[u8]| {
                let h = LnetHdr { src_nid, ..raw::header(body, payload.len() as u32) };
                [&raw::ksock(KsockType::Lnet, 0, 0, 0)[..], &h.emit_as(Version::V3)[..], payload].concat()
            };
            let put =
                LnetBody::Put { ack: WireHandle::NONE, match_bits: 5, hdr_data: 0, portal: 5, offset: 0 };
            let matched = |a: &mut Asked, link, src| {
                a.net.raw_send(link, &from(src, put, b"x"));
                a.net.run(SEC / 10);
                let hit = |e| match e {
                    Event::Put(e) => Some((e.tag, e.initiator.nid)),
                    other => panic!("{other:?}"),
                };
                a.net.take_events(0).into_iter().find_map(hit)
            };
            let control = a.links[0];
            // The node that has come gets its own messages, and the claimant does not.
            assert_eq!(matched(&mut a, control, nid(PEER)), None, "{leads}");
            assert!(matched(&mut a, link, late).is_some_and(|m| m.0 == 67));
            // Nor does the claimant answer for it, were it to guess the handle.
            a.send(&message(LnetBody::Reply { handle }, &info_of([nid(PEER), late], 0x1e)));
            match &said {
                Some(info) => a.net.raw_send(link, &from(late, LnetBody::Reply { handle }, info)),
                None => a.net.run(160 * SEC),
            }
            a.net.run(SEC);
            let one = a.net.nodes[0].machine.primary(late) == a.net.nodes[0].machine.primary(nid(PEER));
            assert_eq!(one, kept, "{leads} {said:x?}");
            assert_eq!(matched(&mut a, control, nid(PEER)).is_some(), kept, "{leads} {said:x?}");
            // The claimant says it again.
            a.send(&push(&info_of(liar, 0x1e)));
            assert_eq!(matched(&mut a, control, nid(PEER)).is_some(), kept, "{leads} {said:x?}");
        }
    }
}
