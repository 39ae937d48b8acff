//! A node that routes: what it passes on and what not, its buffers, and what it tells of itself (docs/protocol/upper.md §1).

use transport::lnd::{Config, Counters, Shards};
use transport::lnet::{BufferClass, RoutingAsk, RoutingState, RoutingView};
use transport::stream::Bucket;
use transport::testing::data::bytes;
use transport::testing::kernel::across::{Across, Heard};
use transport::testing::kernel::lnet::Wire;
use transport::testing::net::{Cut, Net, SEC};
use transport::wire::{
    AcceptorReq, ByteOrder, ConnType, Hello, KsockHdr, KsockType, LnetBody, LnetHdr, NiStatus, Nid, PingInfo,
    ProcessId, Version, WireHandle, ping,
};

const R: [&str; 2] = ["10.0.0.9@tcp", "10.1.0.9@tcp1"];
/// Time for a router's users to check it, in ns.
const CHECK: u64 = 4 * SEC;

fn nid(s: &str) -> Nid {
    s.parse().unwrap()
}

/// On tcp.
fn a(n: u8) -> Nid {
    Nid::tcp([10, 0, 0, n].into(), 0)
}

/// On tcp1.
fn b(n: u8) -> Nid {
    Nid::tcp([10, 1, 0, n].into(), 1)
}

fn config() -> Config {
    Config {
        alive_router_check_interval: CHECK / 2,
        router_ping_timeout: CHECK / 2,
        ..Config::new(nid(R[0]), 1_700_000_000_000_000_000).also(nid(R[1]))
    }
}

/// A router of so many shards, and kernels beside it.
struct World {
    net: Net,
    across: Across,
    shards: usize,
    next: u64,
}

impl World {
    fn of(cfg: &Config, shards: u16) -> World {
        let mut net = Net::new();
        for me in 0..shards {
            let mut cfg = cfg.clone();
            cfg.shards = Shards::new(me, shards).unwrap();
            net.add(cfg);
        }
        let across = Across::new(&mut net);
        World { net, across, shards: shards.into(), next: 0 }
    }

    /// It routes, and knows 10.0.0.2 and 10.1.0.3, of V3.
    fn on(cfg: &Config, shards: u16) -> World {
        let mut w = World::of(cfg, shards);
        w.add(a(2), Version::V3);
        w.add(b(3), Version::V3);
        w.enable();
        w
    }

    fn enable(&mut self) {
        self.ask(RoutingAsk::Enable);
        self.run(CHECK + SEC / 100);
        assert_eq!(self.view(0).state, RoutingState::On);
    }

    fn add(&mut self, nid: Nid, version: Version) {
        self.across.add(&mut self.net, nid, version, &[0], 7);
    }

    fn ask(&mut self, ask: RoutingAsk) {
        // Whichever shard is asked.
        let shard = self.shards - 1;
        self.net.routing(shard, Some(ask));
    }

    fn view(&mut self, shard: usize) -> RoutingView {
        self.net.routing(shard, None)
    }

    fn run(&mut self, ns: u64) {
        let until = self.net.now + ns;
        self.across.run_until(&mut self.net, until);
    }

    fn say(&mut self, from: Nid, to: Nid, body: LnetBody, payload: Vec<u8>) -> u64 {
        self.next += 1;
        self.across.say(&mut self.net, (from, 0), Wire { to, body, payload, token: self.next });
        self.next
    }

    fn heard(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.across.heard)
    }

    fn count(&self) -> Counters {
        let all = self.net.nodes.iter().take(self.shards).map(|n| *n.machine.counters());
        all.reduce(|mut sum, c| {
            sum.forwarded_msgs += c.forwarded_msgs;
            sum.forwarded_bytes += c.forwarded_bytes;
            sum.forward_rx_msgs += c.forward_rx_msgs;
            sum.forward_rx_bytes += c.forward_rx_bytes;
            sum.forward_copied_bytes += c.forward_copied_bytes;
            sum.forward_waits += c.forward_waits;
            sum.drop_no_route += c.drop_no_route;
            sum.drop_route_loop += c.drop_route_loop;
            sum.drop_next_hop += c.drop_next_hop;
            sum.drop_not_for_us += c.drop_not_for_us;
            sum
        })
        .unwrap()
    }

    /// Nothing is on its way, and all buffers are home.
    fn at_rest(&mut self) {
        self.net.assert_quiet();
        for shard in 0..self.shards {
            let g = self.net.nodes[shard].machine.gauges();
            assert_eq!(g.on_their_way, 0, "{g:?}");
            let v = self.view(shard);
            assert!(v.buffers.iter().all(|p| p.credits == i64::from(p.wanted)), "{v:?}");
        }
    }

    /// The info that a node is told when it asks.
    fn info(&mut self, of: Nid, by: Nid) -> PingInfo {
        let handle = WireHandle { interface: 5, object: 5 };
        let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
        let body = LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: 272 };
        self.say(by, of, body, Vec::new());
        self.run(SEC / 10);
        let said = self.heard().into_iter().find(|h| matches!(h.hdr.body, LnetBody::Reply { .. })).unwrap();
        PingInfo::parse(&said.payload).unwrap()
    }
}

fn put(n: u64) -> LnetBody {
    let ack = WireHandle { interface: 1, object: n };
    LnetBody::Put { ack, match_bits: 100 + n, hdr_data: n, portal: 9, offset: 3 }
}

fn all_bodies(n: u64) -> [(LnetBody, usize); 6] {
    let handle = WireHandle { interface: 2, object: n };
    let get = LnetBody::Get { handle, match_bits: n, portal: 12, src_offset: 0, sink_length: 77 };
    let ping = LnetBody::Get {
        handle,
        match_bits: ping::MATCH_BITS,
        portal: ping::PORTAL,
        src_offset: 0,
        sink_length: 272,
    };
    [
        (put(n), 100_000),
        (get, 0),
        (ping, 0),
        (LnetBody::Ack { handle, match_bits: n, mlength: 9 }, 0),
        (LnetBody::Reply { handle }, 3000),
        (put(n + 1), 1 << 20),
    ]
}

/// The header that a message has on every hop.
fn header(from: Nid, to: Nid, body: LnetBody, len: usize) -> LnetHdr {
    let pid = ProcessId::lustre(from).pid;
    LnetHdr { dest_nid: to, src_nid: from, dest_pid: pid, src_pid: pid, payload_len: len as u32, body }
}

/// Each kind of message, both ways.
fn everything_across(w: &mut World) {
    let (from, to) = (a(2), b(3));
    for (from, to) in [(from, to), (to, from)] {
        let mut wanted = Vec::new();
        for (i, (body, len)) in (0u64..).zip(all_bodies(10)) {
            let payload = bytes(len, i);
            w.say(from, to, body, payload.clone());
            wanted.push((header(from, to, body, len), payload));
        }
        w.run(SEC);
        let heard = w.heard();
        assert!(heard.iter().all(|h| h.by == to));
        for (hdr, payload) in &wanted {
            let n = heard.iter().filter(|h| h.hdr == *hdr && h.payload == *payload).count();
            assert_eq!(n, 1, "{hdr:?} of {:?}", heard.iter().map(|h| h.hdr).collect::<Vec<_>>());
        }
        assert_eq!(heard.len(), wanted.len());
    }
    let ended = std::mem::take(&mut w.across.ended);
    assert!(ended.len() >= 12 && ended.iter().all(|e| e.1), "{ended:?}");
}

#[test]
fn each_kind_of_message_is_passed_on_as_it_is() {
    for shards in [1, 2, 4] {
        for versions in [
            [Version::V3, Version::V3],
            [Version::V2, Version::V3],
            [Version::V3, Version::V1],
            [Version::V1, Version::V2],
        ] {
            let mut w = World::of(&config(), shards);
            w.add(a(2), versions[0]);
            w.add(b(3), versions[1]);
            w.enable();
            everything_across(&mut w);
            let c = w.count();
            let bytes = 2 * (100_000 + 3000 + (1 << 20));
            assert_eq!((c.forwarded_msgs, c.forward_rx_msgs), (12, 12), "{shards} {versions:?}");
            assert_eq!((c.forwarded_bytes, c.forward_rx_bytes, c.forward_copied_bytes), (bytes, bytes, 0));
            w.run(SEC);
            w.at_rest();
        }
    }
}

/// A message from 10.0.0.2 that no hop takes: the rest of the connection is read, and its sender has its zero-copy ACK.
fn stays(w: &mut World, to: Nid, count: impl Fn(&Counters) -> u64) {
    let before = count(&w.count());
    let token = w.say(a(2), to, put(1), bytes(20_000, 1));
    w.run(SEC);
    assert_eq!(std::mem::take(&mut w.across.ended), [(token, true)], "{to}");
    assert_eq!(count(&w.count()), before + 1, "{to}");
    assert!(w.heard().is_empty());
    // The connection is good for what follows.
    assert_eq!(w.info(nid(R[0]), a(2)).nis.len(), 2);
}

#[test]
fn what_has_no_way_on_is_drained_and_acknowledged() {
    for shards in [1, 3] {
        let mut w = World::of(&config(), shards);
        w.add(a(2), Version::V3);
        w.add(b(3), Version::V3);
        let elsewhere = nid("10.9.0.3@tcp7");
        stays(&mut w, b(3), |c| c.drop_not_for_us);
        stays(&mut w, elsewhere, |c| c.drop_not_for_us);
        w.enable();
        stays(&mut w, elsewhere, |c| c.drop_no_route);
        // Back to the network that it began on, as if by a ring of routers.
        let (from, to) = (b(3), a(2));
        let pid = ProcessId::lustre(to).pid;
        let forged = LnetHdr { src_nid: a(77), ..header(from, to, put(2), 0) };
        assert_eq!(forged.dest_pid, pid);
        w.across.say_as(&mut w.net, (from, 0), forged, Vec::new());
        w.run(SEC);
        assert_eq!(w.count().drop_route_loop, 1);
        // What this node itself is said to have sent.
        let forged = LnetHdr { src_nid: nid(R[0]), ..header(from, to, put(3), 0) };
        w.across.say_as(&mut w.net, (from, 0), forged, Vec::new());
        w.run(SEC);
        assert_eq!(w.count().drop_route_loop, 2);
        assert!(w.heard().is_empty());
        assert_eq!(w.count().forwarded_msgs, 0);
        w.run(SEC);
        w.at_rest();
    }
}

#[test]
fn a_hop_that_is_not_there_costs_its_messages_and_nothing_else() {
    for shards in [1, 2] {
        let mut w = World::on(&config(), shards);
        w.add(b(4), Version::V3);
        // Nobody is at 10.1.0.66.
        for n in 0..20 {
            w.say(a(2), b(66), put(n), bytes(20_000, n));
        }
        w.say(a(2), b(3), put(99), bytes(20_000, 99));
        w.run(200 * SEC);
        let heard = w.heard();
        assert_eq!(heard.iter().map(|h| h.hdr.dest_nid).collect::<Vec<_>>(), [b(3)]);
        let c = w.count();
        assert_eq!((c.drop_next_hop, c.forwarded_msgs, c.forward_rx_msgs), (20, 1, 21));
        w.at_rest();
    }
}

/// Buffers of each class; a peer may hold so many.
fn small(buffers: [u32; 3], peer: u32) -> Config {
    let mut cfg = config();
    (cfg.routing.buffers, cfg.routing.peer_credits) = (buffers, peer);
    cfg
}

#[test]
fn one_buffer_is_enough_and_others_pass_while_it_is_out() {
    for shards in [1, 2] {
        let mut w = World::of(&small([0, 0, 1], 0), shards);
        // Nothing that is sent to this one is acknowledged for a while.
        w.add(a(2), Version::V3);
        w.add(b(3), Version::V3);
        w.enable();
        w.net.latency = SEC / 10;
        let tokens: Vec<u64> = (0..5).map(|n| w.say(a(2), b(3), put(n), bytes(16_384, n))).collect();
        w.run(SEC);
        let view = w.view(w.net.home(0, a(2).ip().unwrap()));
        assert_eq!(view.buffers[2].least_credits, -1, "{view:?}");
        assert_eq!(view.buffers[2].credits, -1, "one message of the connection waits");
        // Those without payload have buffers of their own, and a connection.
        let handle = WireHandle { interface: 3, object: 3 };
        w.say(a(2), b(3), LnetBody::Ack { handle, match_bits: 1, mlength: 1 }, Vec::new());
        w.run(SEC / 2);
        let heard = w.heard();
        assert!(heard.iter().any(|h| matches!(h.hdr.body, LnetBody::Ack { .. })), "{heard:?}");
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
    // Nobody answers at 10.1.0.66: what goes there holds its buffers until it is given up.
    w.net.mute(b(66).ip().unwrap());
    for n in 0..9 {
        w.say(a(2), b(66), put(n), bytes(20_000, n));
    }
    w.run(SEC);
    let v = w.view(0).buffers[2];
    assert_eq!((v.credits, v.least_credits), (60, 60), "three, and one that waits");
    w.say(a(5), b(3), put(50), bytes(1 << 20, 50));
    w.run(SEC);
    assert_eq!(w.heard().len(), 1, "another peer's goes");
    w.run(300 * SEC);
    w.at_rest();
    assert_eq!(w.count().forwarded_msgs, 1);
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
    assert_eq!(w.view(0).buffers[2].credits, -5, "six are out, of two, and one waits");
    w.ask(RoutingAsk::Buffers(BufferClass::Large, 7));
    w.run(SEC);
    assert_eq!(w.view(0).buffers[2].credits, 0, "it goes on");
    w.run(400 * SEC);
    w.at_rest();
    assert_eq!((w.count().drop_next_hop, w.view(0).buffers[2].buffers), (7, 7));
}

fn features(w: &mut World) -> u32 {
    w.info(nid(R[0]), a(2)).features
}

#[test]
fn routing_begins_and_ends_as_its_users_can_learn() {
    for shards in [1, 2, 4] {
        let mut w = World::of(&config(), shards);
        w.add(a(2), Version::V3);
        w.add(b(3), Version::V3);
        // Each tells of itself, and is told.
        for (nid, own) in [(a(2), nid(R[0])), (b(3), nid(R[1]))] {
            let mut info = Vec::new();
            PingInfo::new([nid], 12345, 0x1e, 2).emit(&mut info);
            let ack = WireHandle { interface: 4, object: 4 };
            let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
            w.say(nid, own, LnetBody::Put { ack, match_bits, hdr_data: 0, portal, offset: 0 }, info);
        }
        w.run(SEC);
        w.heard();
        w.across.told.clear();
        assert_eq!(features(&mut w), 0x1e);
        let sequence = w.info(nid(R[0]), a(2)).sequence;
        w.ask(RoutingAsk::Enable);
        w.run(CHECK - SEC);
        assert_eq!((w.view(0).state, features(&mut w)), (RoutingState::Starting, 0x1e));
        stays(&mut w, b(3), |c| c.drop_not_for_us);
        assert!(w.across.told.is_empty(), "nobody is told before it is so");
        w.run(SEC);
        assert_eq!((w.view(0).state, features(&mut w)), (RoutingState::On, 0x1a));
        let told = std::mem::take(&mut w.across.told);
        let by: Vec<Nid> = told.iter().map(|t| t.0).collect();
        assert!(by.len() == 2 && by.contains(&a(2)) && by.contains(&b(3)), "{by:?}");
        assert!(told.iter().all(|t| t.2.features == 0x1a && t.2.sequence == sequence), "{told:?}");
        everything_across(&mut w);
        // It is said at once that it ends, to who asks, and goes on until it has ended.
        w.ask(RoutingAsk::Disable);
        assert_eq!((w.view(0).state, features(&mut w)), (RoutingState::Stopping, 0x1e));
        everything_across(&mut w);
        w.run(CHECK);
        assert_eq!(w.view(0).state, RoutingState::Off);
        assert!(w.across.told.iter().all(|t| t.2.features != 0x1e), "who does not ask is not told");
        stays(&mut w, b(3), |c| c.drop_not_for_us);
        // Once more, and back before it has begun.
        w.ask(RoutingAsk::Enable);
        w.run(SEC);
        w.ask(RoutingAsk::Disable);
        w.run(2 * CHECK);
        assert_eq!((w.view(0).state, features(&mut w)), (RoutingState::Off, 0x1e));
        w.run(SEC);
        w.net.assert_quiet();
    }
}

#[test]
fn what_cannot_leave_does_not_keep_routing_from_ending() {
    let mut w = World::on(&small([0, 0, 2], 0), 1);
    w.net.syn_timeout = 1000 * SEC;
    w.net.mute(b(66).ip().unwrap());
    for n in 0..4 {
        w.say(a(2), b(66), put(n), bytes(5000, n));
    }
    w.run(SEC / 2);
    w.ask(RoutingAsk::Disable);
    w.run(CHECK + SEC);
    assert_eq!(w.view(0).state, RoutingState::Stopping, "messages are on their way");
    w.run(2 * CHECK);
    assert_eq!(w.view(0).state, RoutingState::Off);
    assert!(w.count().drop_not_for_us > 0, "what waited is dropped");
    w.run(1500 * SEC);
    w.net.assert_quiet();
}

#[test]
fn by_configuration_a_node_routes_from_its_start() {
    let mut cfg = config();
    cfg.routing.forwarding = true;
    for shards in [1, 3] {
        let mut w = World::of(&cfg, shards);
        w.add(a(2), Version::V3);
        w.add(b(3), Version::V3);
        w.run(SEC);
        assert_eq!(w.view(0).state, RoutingState::Starting);
        w.run(CHECK);
        assert!((0..w.shards).all(|s| w.view(s).state == RoutingState::On));
        everything_across(&mut w);
    }
}

/// The statuses that the kernels were told since this was asked, by NI.
fn statuses(w: &mut World) -> Vec<(Nid, [NiStatus; 2])> {
    let told = std::mem::take(&mut w.across.told);
    told.iter().map(|(by, _, i)| (*by, [i.nis[0].status, i.nis[1].status])).collect()
}

#[test]
fn a_silent_network_is_down_and_up_again_with_its_first_message() {
    use NiStatus::{Down, Up};
    for shards in [1, 4] {
        let mut w = World::of(&config(), shards);
        w.add(a(2), Version::V3);
        w.add(b(3), Version::V3);
        let introduce = |w: &mut World, nid: Nid, own: Nid| {
            let mut info = Vec::new();
            PingInfo::new([nid], 12345, 0x1e, 2).emit(&mut info);
            let ack = WireHandle { interface: 4, object: 4 };
            let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
            w.say(nid, own, LnetBody::Put { ack, match_bits, hdr_data: 0, portal, offset: 0 }, info);
        };
        introduce(&mut w, a(2), nid(R[0]));
        introduce(&mut w, b(3), nid(R[1]));
        w.enable();
        assert!(statuses(&mut w).iter().all(|s| s.1 == [Up, Up]));
        let sequence = w.info(nid(R[0]), a(2)).sequence;
        // Only tcp speaks.
        let mut told = Vec::new();
        for _ in 0..2 * CHECK / SEC {
            introduce(&mut w, a(2), nid(R[0]));
            w.run(SEC);
            told.extend(statuses(&mut w));
        }
        told.dedup();
        // Its push is heard on tcp1 as an ACK, which brings that up for a while.
        assert!(told.contains(&(a(2), [Up, Down])) && told.contains(&(b(3), [Up, Down])), "{told:?}");
        assert!(told.contains(&(a(2), [Up, Up])), "{told:?}");
        w.across.cut(&mut w.net, b(3), 0, Cut::Silence);
        for _ in 0..2 * CHECK / SEC {
            introduce(&mut w, a(2), nid(R[0]));
            w.run(SEC);
        }
        let info = w.info(nid(R[0]), a(2));
        assert_eq!((info.nis[1].status, info.sequence), (Down, sequence));
        assert_eq!(info.features, 0x1a);
        statuses(&mut w);
        // Both are silent, then.
        w.ask(RoutingAsk::Disable);
        w.run(SEC);
        assert_eq!(
            w.info(nid(R[0]), a(2)).nis[1].status,
            Up,
            "a node that does not route says nothing of that"
        );
    }
}

#[test]
fn a_held_connection_is_given_up_as_at_kernels_and_leaves_the_line() {
    let mut w = World::of(&small([0, 0, 1], 0), 1);
    w.add(a(2), Version::V3);
    w.add(a(5), Version::V3);
    w.add(b(3), Version::V3);
    w.enable();
    w.net.syn_timeout = 70 * SEC;
    w.net.mute(b(66).ip().unwrap());
    w.say(a(2), b(66), put(1), bytes(5000, 1));
    w.run(SEC);
    w.say(a(5), b(3), put(2), bytes(5000, 2));
    w.run(40 * SEC);
    let v = w.view(0).buffers[2];
    assert_eq!(v.credits, -1);
    w.run(15 * SEC);
    assert_eq!(w.net.nodes[0].machine.counters().err_rx_timeout, 1, "as one whose rest does not come");
    assert_eq!(w.view(0).buffers[2].credits, 0);
    w.run(100 * SEC);
    w.say(a(5), b(3), put(3), bytes(5000, 3));
    w.run(5 * SEC);
    assert_eq!(w.heard().len(), 1);
    w.at_rest();
}

#[test]
fn messages_on_their_way_end_with_the_node() {
    for shards in [1, 2] {
        let mut w = World::on(&small([0, 0, 2], 0), shards);
        w.net.mute(b(66).ip().unwrap());
        for n in 0..6 {
            w.say(a(2), b(66), put(n), bytes(5000, n));
            w.say(a(2), b(3), put(n), bytes(40_000, n));
        }
        w.run(SEC / 20);
        for shard in 0..w.shards {
            w.net.op(shard, transport::lnet::Op::Shutdown { tag: 1 });
        }
        w.run(200 * SEC);
        for shard in 0..w.shards {
            let g = w.net.nodes[shard].machine.gauges();
            assert_eq!((g.on_their_way, g.lends, g.conns, g.queued), (0, 0, 0, 0), "{g:?}");
        }
        w.net.assert_quiet();
    }
}

/// Homes of both peers move while messages wait for them, and for buffers.
#[test]
fn homes_move_under_messages_on_their_way() {
    for (shards, buffers) in [(2, 1), (2, 64), (4, 1), (4, 3)] {
        let mut w = World::on(&small([0, 0, buffers], 0), shards);
        let peers = [a(2), b(3)].map(|n| Bucket::of(n.ip().unwrap()));
        let mut said = 0u64;
        for round in 0..60u16 {
            for (from, to) in [(a(2), b(3)), (b(3), a(2))] {
                said += 1;
                w.say(from, to, put(said), bytes(20_000 + usize::from(round), said));
            }
            w.run(SEC / 5000);
            let bucket = peers[usize::from(round) % 2];
            let home = w.net.nodes[0].machine.home_of(bucket);
            let to = transport::stream::ShardId((home.0 + 1 + round % (shards - 1)) % shards);
            w.net.move_home(home.0.into(), bucket, to);
        }
        w.run(20 * SEC);
        let mut heard: Vec<u64> = w
            .heard()
            .iter()
            .map(|h| match h.hdr.body {
                LnetBody::Put { hdr_data, .. } => {
                    assert_eq!(h.payload, bytes(h.payload.len(), hdr_data));
                    hdr_data
                }
                _ => panic!("{h:?}"),
            })
            .collect();
        heard.sort_unstable();
        assert_eq!(heard, (1..=said).collect::<Vec<_>>(), "each once: {shards} {buffers}");
        w.at_rest();
        let moved: u64 = w.net.nodes.iter().map(|n| n.machine.counters().homes_left).sum();
        assert!(moved > 20, "{moved}");
    }
}

/// A connection from this address, of a peer that calls itself `peer`, which has sent a header for `to` and a part of the payload.
fn half(w: &mut World, (ip, port): ([u8; 4], u16), peer: Nid, to: Nid, len: u32) -> usize {
    let own = nid(R[0]);
    let link = w.net.raw_connect((ip, port).into(), 0);
    let req = AcceptorReq::new(own);
    let hello = Hello {
        version: Version::V3,
        order: ByteOrder::Little,
        tcp_magic: false,
        src_nid: peer,
        dst_nid: own,
        src_pid: 12345,
        dst_pid: 0,
        src_incarnation: 6,
        dst_incarnation: 0,
        ctype: ConnType::Control,
        ips: Default::default(),
    };
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

/// Two routers that have one buffer, and something for each other.
#[test]
fn routers_in_a_row_do_not_wait_for_each_other() {
    // The second one is a kernel to the first: it takes nothing while what it has sent waits.
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
    assert_eq!(w.heard().len(), 2, "the other way is open, one by one");
    w.run(200 * SEC);
    w.at_rest();
}
