//! Router buffers: who holds one, who waits, and what hosts can do that fill them (docs/protocol/upper.md §1.3).

use transport::lnd::Config;
use transport::lnet::{BufferClass, RoutingAsk};
use transport::testing::data::bytes;
use transport::testing::kernel::lnet::Wire;
use transport::testing::net::{Cut, Net, SEC};
use transport::wire::{
    AcceptorReq, ByteOrder, ConnType, Hello, KsockHdr, KsockType, LnetBody, LnetHdr, Nid, Version,
    WireHandle, ping,
};

use crate::raw;
use crate::routing::{R, World, a, b, config, header, nid, put, small};
use crate::slow_hops::Hop;

#[test]
fn one_buffer_is_enough_and_others_pass_while_it_is_out() {
    for shards in [1, 2] {
        let mut w = World::of(&small([0, 0, 1], 0), shards);
        // Nothing that is sent to this one is acknowledged for a while.
        w.add(a(2), Version::V3);
        w.add(b(3), Version::V3);
        w.enable();
        w.say(a(2), b(3), put(9), bytes(16_384, 9));
        w.say(b(3), a(2), put(8), Vec::new());
        w.run(2 * SEC);
        assert_eq!(w.heard().len(), 2);
        w.net.latency = SEC / 10;
        let tokens: Vec<u64> = (0..5).map(|n| w.say(a(2), b(3), put(n), bytes(16_384, n))).collect();
        w.run(SEC / 4);
        let view = w.view(w.net.home(0, a(2).ip().unwrap()));
        assert_eq!(view.buffers[2].least_credits, -1, "{view:?}");
        assert_eq!(view.buffers[2].credits, -1, "one message of the connection waits");
        // Those without payload have buffers of their own, and a connection.
        let handle = WireHandle { interface: 3, object: 3 };
        w.say(a(2), b(3), LnetBody::Ack { handle, match_bits: 1, mlength: 1 }, Vec::new());
        w.run(SEC / 4);
        let heard = w.heard();
        let kinds: Vec<&str> = heard.iter().map(|h| h.hdr.body.name()).collect();
        assert!(kinds.contains(&"ACK"), "{kinds:?}");
        let mut puts = heard.iter().filter(|h| matches!(h.hdr.body, LnetBody::Put { .. })).count();
        assert!(puts < 5);
        w.run(20 * SEC);
        puts += w.heard().len();
        assert_eq!(puts, 5);
        assert_eq!(w.across.ended.iter().filter(|e| e.1 && tokens.contains(&e.0)).count(), 5);
        assert!(w.count().forward_waits >= 3);
        w.at_rest();
    }
}

#[test]
fn a_peer_holds_no_more_than_its_share_and_others_are_served() {
    let mut w = World::of(&small([0, 0, 64], 3), 1);
    for n in [2, 5] {
        w.add(a(n), Version::V3);
    }
    w.add(b(3), Version::V3);
    w.enable();
    // 10.1.0.66 takes nothing: what goes there holds its buffers until it is given up.
    Hop::connects(&mut w, 66, Version::V3);
    w.net.unplug(b(66).ip().unwrap(), Cut::Silence);
    for n in 0..9 {
        w.say(a(2), b(66), put(n), bytes(20_000, n));
    }
    w.run(SEC);
    let v = w.view(0).buffers[2];
    assert_eq!((v.credits, v.least_credits), (60, 60), "three, and one that waits");
    let of = |w: &World| {
        let mut all = Vec::new();
        w.net.nodes[0].machine.peer_figures(0, 1000, &mut |f| {
            all.extend((f.id.nid == a(2)).then_some((f.buffers, f.buffers_most)));
        });
        all
    };
    assert_eq!(of(&w), [(4, 4)], "the same, as the peer's");
    w.say(a(5), b(3), put(50), bytes(1 << 20, 50));
    w.run(SEC);
    assert_eq!(w.heard().len(), 1, "another peer's goes");
    w.run(300 * SEC);
    w.at_rest();
    assert_eq!(of(&w), [(0, 4)]);
}

#[test]
fn fewer_buffers_vanish_as_they_come_home_and_more_serve_who_waits() {
    let mut w = World::of(&small([0, 0, 6], 64), 1);
    for n in 2..8 {
        w.add(a(n), Version::V3);
    }
    w.enable();
    w.net.mute(b(66).ip().unwrap());
    for n in 2..8 {
        w.say(a(n), b(66), put(n.into()), bytes(5000, 1));
    }
    w.run(SEC);
    assert_eq!(w.view(0).buffers[2].credits, 0);
    w.ask(RoutingAsk::Buffers(BufferClass::Large, 2));
    let v = w.view(0);
    assert_eq!((v.asked[2], v.buffers[2].wanted, v.buffers[2].buffers), (2, 2, 6));
    w.say(a(2), b(66), put(1), bytes(5000, 1));
    w.run(SEC);
    assert_eq!(w.view(0).buffers[2].credits, -1, "six are out that are to be two, and one waits");
    w.ask(RoutingAsk::Buffers(BufferClass::Large, 7));
    w.run(SEC);
    assert_eq!(w.view(0).buffers[2].credits, 0, "it goes on");
    w.run(400 * SEC);
    w.at_rest();
    assert_eq!((w.count().drop_next_hop, w.view(0).buffers[2].buffers), (7, 7));
}

#[test]
fn a_held_connection_is_given_up_as_at_kernels_and_leaves_the_line() {
    let mut w = World::of(&small([0, 0, 1], 0), 1);
    w.add(a(2), Version::V3);
    w.add(a(5), Version::V3);
    w.add(a(6), Version::V3);
    w.add(b(3), Version::V3);
    w.enable();
    w.net.mute(b(66).ip().unwrap());
    w.net.mute(b(67).ip().unwrap());
    w.net.syn_timeout = 70 * SEC;
    w.say(a(2), b(66), put(1), bytes(5000, 1));
    w.run(SEC / 2);
    // The one buffer is this one's when that is given up.
    w.say(a(6), b(67), put(1), bytes(5000, 1));
    w.run(SEC / 2);
    w.say(a(5), b(3), put(2), bytes(5000, 2));
    w.run(40 * SEC);
    let v = w.view(0).buffers[2];
    assert_eq!(v.credits, -2);
    w.run(15 * SEC);
    assert_eq!(w.net.nodes[0].machine.counters().err_rx_timeout, 1, "as one whose rest does not come");
    assert_eq!(w.view(0).buffers[2].credits, 0);
    w.run(100 * SEC);
    // The first tells it that its connections are gone.
    for n in 3..5 {
        w.say(a(5), b(3), put(n), bytes(5000, n));
        w.run(5 * SEC);
    }
    assert!(!w.heard().is_empty());
    w.at_rest();
}

/// A connection from this address, of a peer that calls itself `peer`, which has sent a header for `to` and a part of the payload.
fn half(w: &mut World, (ip, port): ([u8; 4], u16), peer: Nid, to: Nid, len: u32) -> usize {
    let own = nid(R[0]);
    let link = w.net.raw_connect((ip, port).into(), 0);
    let req = AcceptorReq::new(own);
    let hello = Hello { src_nid: peer, dst_nid: own, ..raw::hello(Version::V3, ConnType::Control) };
    let ksock = KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0: 0, cookie1: 0 };
    let hdr = LnetHdr { payload_len: len, ..header(peer, to, put(1), 0) };
    let bytes = [
        &req.emit()[..req.wire_len()],
        &hello.emit(),
        &ksock.emit(ByteOrder::Little),
        &hdr.emit_as(Version::V3),
        &[7; 100],
    ]
    .concat();
    w.net.raw_send(link, &bytes);
    link
}

/// One host under many names begins large messages and does not go on with them.
#[test]
fn a_host_that_fills_the_router_leaves_others_their_part() {
    let mut w = World::on(&small([0, 0, 32], 0), 1);
    for n in 0..40u8 {
        half(&mut w, ([10, 0, 0, 66], 1000 - u16::from(n)), a(100 + n), b(3), 1 << 20);
    }
    w.run(SEC);
    let v = w.view(0).buffers[2];
    assert_eq!((v.credits, w.count().forward_waits), (32 - 16 - 24, 24), "half of them, and the others wait");
    for n in 0..10 {
        w.say(a(2), b(3), put(n), bytes(20_000, n));
    }
    w.run(SEC);
    assert_eq!(w.heard().len(), 10);
    // They end as at a kernel: their sets are closed since nothing more comes.
    w.run(120 * SEC);
    assert_eq!(w.net.nodes[0].machine.counters().err_rx_timeout, 40);
    w.at_rest();
}

/// The same where memory is scarcer than buffers.
#[test]
fn a_host_that_fills_the_memory_leaves_others_their_part() {
    let mut w = World::on(&Config { budget: 8 << 20, ..small([0, 0, 64], 1) }, 1);
    for n in 0..40u8 {
        half(&mut w, ([10, 0, 0, 66], 1000 - u16::from(n)), a(100 + n), b(3), 1 << 20);
    }
    w.run(SEC);
    assert_eq!(w.view(0).buffers[2].credits, 64 - 40);
    assert_eq!(w.count().forward_waits, 36, "four hold a half of the memory, and the others wait");
    for n in 0..10 {
        w.say(a(2), b(3), put(n), bytes(1 << 20, n));
    }
    w.run(SEC);
    assert_eq!(w.heard().len(), 10);
    w.run(120 * SEC);
    w.at_rest();
}

/// Many hosts send to one that takes nothing: what others are for passes, and so does what was sent to it before it is given up.
#[test]
fn one_that_takes_nothing_leaves_others_their_part() {
    for scarce in [false, true] {
        let cfg =
            if scarce { Config { budget: 8 << 20, ..small([0, 0, 1000], 4) } } else { small([0, 0, 64], 4) };
        let mut w = World::of(&cfg, 1);
        for n in 2..50 {
            w.add(a(n), Version::V3);
        }
        w.add(b(3), Version::V3);
        w.enable();
        w.net.mute(b(66).ip().unwrap());
        w.net.syn_timeout = 20 * SEC;
        let len = if scarce { 120_000 } else { 5000 };
        for n in 3..50 {
            for m in 0..8 {
                w.say(a(n), b(66), put(m), bytes(len, m));
            }
        }
        w.run(SEC);
        let held = w.count().forward_rx_msgs;
        assert!((30..64).contains(&held), "{held}");
        for n in 0..40 {
            w.say(a(2), b(3), put(n), bytes(len, n));
        }
        w.run(SEC);
        assert_eq!(w.heard().len(), 40);
        assert_eq!(w.count().forward_rx_msgs, held + 40, "those for the dead one wait as they did");
        w.run(1500 * SEC);
        w.heard();
        w.at_rest();
    }
}

/// The HELLO of a connection that a router has dialled to `nid`.
fn dialled_to(net: &Net, link: usize, nid: Nid) -> Option<Hello> {
    let wrote = net.wire(link, 0).0;
    let (_, skip) = AcceptorReq::parse(wrote).ok()?;
    let hello = Hello::parse(wrote.get(skip..)?).ok()?.0;
    (hello.dst_nid == nid).then_some(hello)
}

/// A next hop takes connections and reads nothing. Each set that it loses after a time-out would keep what waits behind it for
/// another one, with a handful less each time.
#[test]
fn what_waits_for_one_that_does_not_read_ends_in_time() {
    for shards in [1, 2] {
        let cfg = Config { peer_credits: 4, ..small([0, 0, 200], 64) };
        let mut w = World::of(&cfg, shards);
        for n in 2..6 {
            w.add(a(n), Version::V3);
        }
        w.add(b(3), Version::V3);
        w.enable();
        w.net.raw_listen(b(66).ip().unwrap());
        let mut answered: Vec<usize> = Vec::new();
        let say = |w: &mut World, all: std::ops::Range<u64>| {
            for n in all {
                w.say(a(2 + (n % 4) as u8), b(66), put(n), bytes(20_000, n));
            }
        };
        say(&mut w, 0..32);
        let mut serve = |w: &mut World, ns: u64| {
            let end = w.net.now + ns;
            while w.net.now < end {
                w.run(SEC / 4);
                for link in 0..w.net.links() {
                    if let Some(hello) = dialled_to(&w.net, link, b(66)).filter(|_| !answered.contains(&link))
                    {
                        w.net.raw_send(link, &raw::answer(&hello).emit());
                        answered.push(link);
                        // Its answer arrives, and nothing that is sent then.
                        let time = w.net.latency * 3 / 2;
                        w.run(time);
                        w.net.cut(link, Cut::Silence);
                    }
                }
            }
            answered.len()
        };
        assert!(serve(&mut w, 25 * SEC) > 0);
        say(&mut w, 32..64);
        serve(&mut w, SEC);
        let held = |w: &mut World| (0..shards.into()).map(|n| w.view(n).buffers[2].credits).sum::<i64>();
        let left = held(&mut w);
        assert!(left <= 140, "{shards}: sixty at least wait, and {left} are left");
        // Those on the connection end with it, and so do those that wait, though it has another one by then.
        let dials = serve(&mut w, 55 * SEC);
        assert!(dials > 3, "{dials}");
        assert_eq!(held(&mut w), 196, "but for the four on that one");
        serve(&mut w, 30 * SEC);
        assert_eq!((held(&mut w), w.count().drop_next_hop), (200, 64));
        w.net.raw_unlisten(b(66).ip().unwrap());
        w.say(a(2), b(3), put(1), bytes(20_000, 1));
        w.run(5 * SEC);
        assert_eq!(w.heard().len(), 1);
    }
}

/// Many hosts do: what is small, or without payload, passes; what is large waits in its line, and is served.
#[test]
fn hosts_that_fill_the_router_together_hold_up_only_their_class() {
    let mut w = World::on(&small([0, 0, 16], 0), 1);
    for n in 0..120u8 {
        half(&mut w, ([10, 0, 1, n + 1], 1000), Nid::tcp([10, 0, 1, n + 1].into(), 0), b(3), 1 << 20);
    }
    w.run(SEC);
    assert_eq!(w.view(0).buffers[2].credits, 16 - 120);
    let handle = WireHandle { interface: 3, object: 3 };
    w.say(a(2), b(3), LnetBody::Ack { handle, match_bits: 1, mlength: 1 }, Vec::new());
    w.say(a(2), b(3), put(2), bytes(4000, 2));
    w.say(b(3), a(2), put(3), bytes(20_000, 3));
    w.run(SEC);
    assert_eq!(w.heard().len(), 3, "and one to each network in any case");
    w.say(a(2), b(3), put(4), bytes(20_000, 4));
    w.run(SEC);
    assert!(w.heard().is_empty());
    w.run(130 * SEC);
    // The line moves when the first sets are closed. Its own may have been given up meanwhile, as at a kernel.
    w.say(a(2), b(3), put(5), bytes(20_000, 5));
    w.run(5 * SEC);
    assert!(!w.heard().is_empty());
    w.at_rest();
}

#[test]
fn what_is_longer_than_a_message_may_be_ends_its_set() {
    let mut w = World::on(&config(), 1);
    let link = half(&mut w, ([10, 0, 0, 66], 1000), a(66), b(3), (1 << 20) + 1);
    w.run(SEC);
    assert!(w.net.raw_ended(link).1);
    assert_eq!(w.net.nodes[0].machine.counters().err_payload_len, 1);
    w.at_rest();
}

/// A network that is stuck in one direction, and one buffer.
#[test]
fn the_other_way_is_open_while_one_is_stuck() {
    let mut w = World::of(&small([1, 1, 1], 0), 1);
    w.add(a(2), Version::V3);
    w.add(b(3), Version::V3);
    w.enable();
    w.net.mute(b(66).ip().unwrap());
    w.say(a(2), b(66), put(1), bytes(5000, 1));
    w.run(SEC / 10);
    assert_eq!(w.view(0).buffers[2].credits, 0);
    w.say(b(3), a(2), put(2), bytes(5000, 2));
    w.say(b(3), a(2), put(3), bytes(5000, 3));
    w.run(SEC);
    assert_eq!(w.heard().len(), 2, "one by one");
    w.run(200 * SEC);
    w.at_rest();
}

/// Two routers in a row have one buffer of a class each, and much for each other.
#[test]
fn routers_in_a_row_do_not_wait_for_each_other() {
    for shards in [1, 2] {
        let far = Nid::tcp([10, 2, 0, 3].into(), 2);
        let mut first = small([1, 1, 1], 0);
        first.routes.push("tcp2 10.1.0.8@tcp1".parse().unwrap());
        let mut second = Config { incarnation: 9, ..small([1, 1, 1], 0) }.with_nid(nid("10.1.0.8@tcp1"));
        second.nis.truncate(1);
        let mut second = second.also(nid("10.2.0.8@tcp2"));
        second.routes.push("tcp 10.1.0.9@tcp1".parse().unwrap());
        second.routing.forwarding = true;
        let mut w = World::of(&first, shards);
        let place = w.net.add(second);
        w.net.routing(place, None);
        w.add(a(2), Version::V3);
        w.across.add(&mut w.net, far, Version::V2, &[place], 3);
        w.enable();
        // Each has seen that the other routes, and that its other network is not silent.
        w.run(10 * SEC);
        let handle = WireHandle { interface: 5, object: 5 };
        let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
        let ping = LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: 272 };
        w.say(a(2), nid(R[0]), ping, Vec::new());
        let m = Wire { to: nid("10.2.0.8@tcp2"), body: ping, payload: Vec::new(), token: 999 };
        w.across.say(&mut w.net, (far, place), m);
        w.run(SEC / 2);
        assert_eq!(w.heard().len(), 2);
        for n in 0..40u64 {
            let len = [0, 1000, 5000, 40_000][n as usize % 4];
            w.say(a(2), far, put(n), bytes(len, n));
            let m = Wire { to: a(2), body: put(n), payload: bytes(len, n), token: 1000 + n };
            w.across.say(&mut w.net, (far, place), m);
        }
        w.run(10 * SEC);
        let heard = w.heard();
        for nid in [a(2), far] {
            let mut all: Vec<usize> = heard.iter().filter(|h| h.by == nid).map(|h| h.payload.len()).collect();
            all.sort_unstable();
            assert_eq!((all.len(), all.iter().sum::<usize>()), (40, 460_000), "{shards} {nid}");
        }
        let c = w.net.nodes[place].machine.counters();
        assert_eq!((c.forwarded_msgs, c.sets_closed, c.drop_next_hop), (80, 0, 0));
        assert!(c.forward_waits > 0);
        w.run(SEC);
        w.at_rest();
    }
}
