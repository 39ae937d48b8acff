//! NIDs that a gateway has on another network than ours: what is for them goes to the gateway by none of them, whoever names them
//! (docs/protocol/upper.md §1.5, docs/protocol/lnet.md §5).

use transport::lnet::BEST;
use transport::testing::kernel::router::FORWARDS;
use transport::testing::net::SEC;
use transport::wire::{ConnType, LnetBody, LnetHdr, ProcessId, Version, WireHandle, ping};

use crate::raw;
use crate::routed::*;

/// A message for a gateway's NID on another network goes to that which it has on ours, whether the gateway is Multi-Rail or not.
#[test]
fn a_gateway_is_reached_by_whichever_of_its_nids() {
    for shards in [1, 4] {
        for features in [FORWARDS, FORWARDS & !ping::FEAT_MULTI_RAIL] {
            let mut w = World::pair(&[R1], shards);
            w.routers.list[0].features = features;
            w.run(SEC);
            for nid in R1 {
                assert_eq!(pinged(&mut w, 0, nid), Ok(()), "{shards} {features} {nid}");
                assert_eq!(pinged(&mut w, 1, nid), Ok(()), "{shards} {features} {nid}");
            }
            w.at_rest();
            assert_eq!((w.routers.list[0].dropped, w.routers.list[0].strayed), (0, 0));
        }
    }
}

/// Requests that are answered: a ping, a push, a PUT and a GET.
fn questions() -> [(LnetBody, u32); 4] {
    let handle = WireHandle { interface: 1, object: 2 };
    let (bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
    let put = |match_bits, portal| LnetBody::Put { ack: handle, match_bits, hdr_data: 0, portal, offset: 0 };
    let get = |match_bits, portal, sink_length| LnetBody::Get {
        handle,
        match_bits,
        portal,
        src_offset: 0,
        sink_length,
    };
    [
        (get(bits, portal, 272), 0),
        (put(bits, portal), 48),
        (put(BITS, PORTAL), 64),
        (get(BITS, PORTAL + 1, 70_000), 0),
    ]
}

/// A node on the client's network, connected to it, that asks in the name of `source`, so many times; gives the number of its requests.
fn asks_in_the_name_of(w: &mut World, source: ProcessId, times: u64) -> u64 {
    let at = w.net.home(0, raw::peer_ip());
    let link = w.net.raw_connect(raw::at(700), at);
    w.net.raw_send(link, &raw::start(&raw::hello(Version::V3, ConnType::Control)));
    w.run(SEC / 10);
    for _ in 0..times {
        for (body, len) in questions() {
            let hdr = LnetHdr { src_nid: source.nid, src_pid: source.pid, ..raw::header(body, len) };
            w.net.raw_send(link, &raw::message(Version::V3, &hdr, 0));
            w.run(SEC / 50);
        }
    }
    w.run(SEC);
    times * questions().len() as u64
}

/// The least health of what the node knows of NIDs.
fn least_health(w: &World, node: usize) -> u16 {
    let mut least = BEST;
    for at in w.places(node) {
        w.net.nodes[at].machine.peer_nis(0, usize::MAX, &mut |v| least = least.min(v.health));
    }
    least
}

/// Whoever asks in the name of a gateway's NID on another network gets no answer sent to that gateway, which would end its set for it:
/// pings of such a source cut a node off from its router.
#[test]
fn an_answer_to_a_gateways_far_nid_costs_no_connection_to_it() {
    for shards in [1, 4] {
        for by in [&[R1][..], &[R1, R2]] {
            let mut w = World::pair(by, shards);
            w.run(SEC);
            w.attach(0);
            assert_eq!(pinged(&mut w, 0, SERVER), Ok(()));
            let links = w.net.links();
            let sent = asks_in_the_name_of(&mut w, ProcessId::lustre(nid(R1[1])), 10);
            // So does one that the router itself passes on, as kernels do.
            let node = w.net.home(0, nid(R1[0]).ip().unwrap());
            for (body, len) in questions() {
                let hdr = LnetHdr { src_nid: nid(R1[1]), ..raw::header(body, len) };
                w.routers.say(&mut w.net, 0, node, &hdr, vec![9; len as usize]);
            }
            w.run(SEC);
            w.events(0);
            assert!(w.routers.list.iter().all(|r| r.strayed == 0), "{shards}");
            let others = w.routers.list.get(1).map_or(0, |r| r.dropped);
            assert_eq!(w.count(0, |c| c.drop_no_way_back) + others, sent + 4, "{shards}");
            assert_eq!(others > 0, by.len() > 1, "another gateway takes them");
            assert_eq!((w.net.links(), w.count(0, |c| c.sets_closed)), (links + 1, 0), "{shards}");
            assert_eq!((least_health(&w, 0), w.count(0, |c| c.remote_dropped_count)), (BEST, 0), "{shards}");
            assert!(w.states(0).split(", ").all(|s| s == "up"), "{shards}");
            assert_eq!(pinged(&mut w, 0, SERVER), Ok(()));
            w.at_rest();
        }
    }
}

/// The same of a process of the gateway's that nobody has: the answer finds nobody, and the gateway is as well as before.
#[test]
fn an_answer_to_a_process_that_is_not_there_costs_no_health() {
    for shards in [1, 4] {
        let mut w = World::pair(&[R1], shards);
        w.run(SEC);
        w.attach(0);
        asks_in_the_name_of(&mut w, ProcessId { nid: nid(R1[0]), pid: 77 }, 5);
        w.events(0);
        assert_eq!((least_health(&w, 0), w.states(0).as_str()), (BEST, "up"), "{shards}");
        assert_eq!(pinged(&mut w, 0, SERVER), Ok(()));
    }
}
