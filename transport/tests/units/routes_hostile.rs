//! Routes and strangers: whatever other nodes say, and however many are named, a route believes its gateway alone, and what is kept
//! is bounded.

use transport::lnd::Config;
use transport::lnet::{Event, OpRefused};
use transport::testing::kernel::router::{FORWARDS, STARTING};
use transport::testing::net::SEC;
use transport::wire::{LnetBody, LnetHdr, Nid, PingInfo, WireHandle, ping};

use crate::routed::*;

/// However many nodes an application names behind a gateway, and whether they answer or not: what is kept of them is bounded, and
/// every operation ends.
#[test]
fn ten_thousand_nodes_behind_a_gateway() {
    let mut w = World::new(&[(config(CLIENT, &["tcp1 10.0.0.11@tcp"]), 1)]);
    w.router(&R1);
    w.run(SEC);
    let name = |n: u32| Nid::tcp((0x0a01_0000 + n).to_be_bytes().into(), 1).to_string();
    for n in 0..10_000u64 {
        w.op(0, 0, put(n, &name(100 + n as u32), 64));
        if n % 500 == 0 {
            w.run(SEC / 100);
        }
    }
    assert!(w.net.nodes[0].machine.fars() <= 8192);
    w.run(200 * SEC);
    let last = |e: &&Event| matches!(e, Event::Send { done: true, .. } | Event::Ack { done: true, .. });
    assert_eq!(w.events(0).iter().filter(last).count(), 10_000);
    let g = w.net.nodes[0].machine.gauges();
    assert_eq!((g.peers, g.ops, g.queued), (1, 0, 0), "no peers but the gateway");
    w.net.assert_at_rest(0);
    // One that does not end asks is refused in the end.
    let full = Config { max_queued: 50, ..config(CLIENT, &["tcp1 10.0.0.11@tcp"]) };
    let mut w = World::new(&[(full, 1)]);
    w.router(&R1);
    w.run(SEC);
    for n in 0..60 {
        w.op(0, 0, put(n, &name(100), 64));
    }
    let refused = |e: &Event| matches!(e, Event::Refused { why: OpRefused::QueueFull(50), .. });
    assert_eq!(w.events(0).iter().filter(|e| refused(e)).count(), 10);
}

/// Pushes of nodes that are no gateways, or in a gateway's name by somebody else, change no route; those of a gateway that
/// flaps change it each time, and cost one message to each other shard at most.
#[test]
fn a_route_believes_its_gateway_alone() {
    let mut w = World::pair(&[R1], 1);
    w.router(&R2);
    w.run(SEC);
    assert_eq!(w.states(0), "up");
    w.routers.list[1].features = STARTING;
    w.routers.push(&mut w.net, 1);
    w.run(SEC);
    assert_eq!(w.states(0), "up", "R2 is no gateway of ours");
    // R2 speaks in R1's name.
    let mut info = Vec::new();
    let nids = R1.iter().map(|n| nid(n));
    PingInfo::new(nids, 12345, STARTING, 3).emit(&mut info);
    let push = |ack, len: usize| LnetHdr {
        dest_nid: nid(CLIENT),
        src_nid: nid(R1[0]),
        dest_pid: 12345,
        src_pid: 12345,
        payload_len: len as u32,
        body: LnetBody::Put {
            ack,
            match_bits: ping::MATCH_BITS,
            hdr_data: 0,
            portal: ping::PORTAL,
            offset: 0,
        },
    };
    let len = info.len();
    w.routers.say(&mut w.net, 1, 0, &push(WireHandle::NONE, len), info.clone());
    w.run(SEC);
    assert_eq!(w.states(0), "up");
    w.routers.say(&mut w.net, 0, 0, &push(WireHandle::NONE, len), info);
    w.run(SEC);
    assert_eq!(w.states(0), "down");
    // Nonsense is nothing.
    for junk in [vec![], vec![0xff; 40], vec![7; 300]] {
        w.routers.say(&mut w.net, 0, 0, &push(WireHandle::NONE, junk.len()), junk);
        w.run(SEC);
    }
    assert_eq!(w.states(0), "down");
    for n in 0..2000u32 {
        w.routers.list[0].features = if n % 2 == 0 { FORWARDS } else { STARTING };
        w.routers.push(&mut w.net, 0);
        w.run(SEC / 1000);
    }
    w.run(SEC);
    assert_eq!(w.states(0), "down");
    w.at_rest();
}

/// An answer in the server's name with a handle that is not ours, or for an operation that has ended, is dropped; so is one for
/// a ping by somebody who is not the server.
#[test]
fn answers_that_nobody_asked_for() {
    for shards in [1, 4] {
        let mut w = World::pair(&[R1], shards);
        w.run(SEC);
        let node = w.net.home(0, nid(R1[0]).ip().unwrap());
        let cfg = w.net.nodes[node].machine.config().clone();
        let mut n = 0;
        for source in [SERVER, "10.1.0.66@tcp1", R1[0]] {
            for object in [0, 1, 2, 3, 4, 5, 1000, u64::MAX] {
                for interface in [cfg.interface_cookie, 7] {
                    let handle = WireHandle { interface, object };
                    for body in [
                        LnetBody::Reply { handle },
                        LnetBody::Ack { handle, match_bits: ping::MATCH_BITS, mlength: 48 },
                    ] {
                        let len = if matches!(body, LnetBody::Reply { .. }) { 64 } else { 0 };
                        let hdr = LnetHdr {
                            dest_nid: nid(CLIENT),
                            src_nid: nid(source),
                            dest_pid: 12345,
                            src_pid: 12345,
                            payload_len: len,
                            body,
                        };
                        w.routers.say(&mut w.net, 0, node, &hdr, vec![0; len as usize]);
                        n += 1;
                    }
                }
            }
        }
        w.run(5 * SEC);
        assert_eq!(w.count(0, |c| c.drop_stale_handle), n, "{shards}");
        assert_eq!(pinged(&mut w, 0, SERVER), Ok(()), "the connection goes on");
        w.at_rest();
    }
}
