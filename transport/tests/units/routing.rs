//! A node that routes: what it passes on and what not, its buffers, and what it tells of itself (docs/protocol/upper.md §1).

use transport::lnd::tunables::Change;
use transport::lnd::{ByType, Config, Counters, Shards};
use transport::lnet::figures::Dropped;
use transport::lnet::{BufferClass, RoutingAsk, RoutingState, RoutingView};
use transport::stream::Bucket;
use transport::testing::data::bytes;
use transport::testing::kernel::across::{Across, Heard};
use transport::testing::kernel::lnet::Wire;
use transport::testing::net::{Net, Node, SEC};
use transport::wire::{LnetBody, LnetHdr, NiStatus, Nid, PingInfo, ProcessId, Version, WireHandle, ping};

pub(crate) const R: [&str; 2] = ["10.0.0.9@tcp", "10.1.0.9@tcp1"];
/// Time for a router's users to check it, in ns.
const CHECK: u64 = 4 * SEC;

pub(crate) fn nid(s: &str) -> Nid {
    s.parse().unwrap()
}

/// On tcp.
pub(crate) fn a(n: u8) -> Nid {
    Nid::tcp([10, 0, 0, n].into(), 0)
}

/// On tcp1.
pub(crate) fn b(n: u8) -> Nid {
    Nid::tcp([10, 1, 0, n].into(), 1)
}

pub(crate) fn config() -> Config {
    Config {
        alive_router_check_interval: CHECK / 2,
        router_ping_timeout: CHECK / 2,
        ..Config::new(nid(R[0]), 1_700_000_000_000_000_000).also(nid(R[1]))
    }
}

/// A router of so many shards, and kernels beside it.
pub(crate) struct World {
    pub(crate) net: Net,
    pub(crate) across: Across,
    pub(crate) shards: usize,
    next: u64,
}

impl World {
    pub(crate) fn of(cfg: &Config, shards: u16) -> World {
        let mut net = Net::new();
        for me in 0..shards {
            let mut cfg = cfg.clone();
            cfg.shards = Shards::new(me, shards).unwrap();
            net.add(cfg);
        }
        // Deadlines that they begin with are noted.
        for n in 0..shards.into() {
            net.routing(n, None);
        }
        let across = Across::new(&mut net);
        World { net, across, shards: shards.into(), next: 0 }
    }

    /// It routes, and knows 10.0.0.2 and 10.1.0.3, of V3.
    pub(crate) fn on(cfg: &Config, shards: u16) -> World {
        let mut w = World::of(cfg, shards);
        w.add(a(2), Version::V3);
        w.add(b(3), Version::V3);
        w.enable();
        w
    }

    pub(crate) fn enable(&mut self) {
        self.ask(RoutingAsk::Enable);
        self.run(CHECK + SEC / 100);
        assert_eq!(self.view(0).state, RoutingState::On);
    }

    pub(crate) fn add(&mut self, nid: Nid, version: Version) {
        self.across.add(&mut self.net, nid, version, &[0], 7);
    }

    pub(crate) fn ask(&mut self, ask: RoutingAsk) {
        // Whichever shard is asked.
        let shard = self.shards - 1;
        self.net.routing(shard, Some(ask));
    }

    pub(crate) fn view(&mut self, shard: usize) -> RoutingView {
        self.net.routing(shard, None)
    }

    pub(crate) fn run(&mut self, ns: u64) {
        let until = self.net.now + ns;
        self.across.run_until(&mut self.net, until);
    }

    pub(crate) fn say(&mut self, from: Nid, to: Nid, body: LnetBody, payload: Vec<u8>) -> u64 {
        self.next += 1;
        self.across.say(&mut self.net, (from, 0), Wire { to, body, payload, token: self.next });
        self.next
    }

    pub(crate) fn heard(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.across.heard)
    }

    pub(crate) fn count(&self) -> Counters {
        self.net.nodes.iter().take(self.shards).map(|n| *n.machine.counters()).sum()
    }

    /// Nothing is on its way, and all buffers are home.
    pub(crate) fn at_rest(&mut self) {
        self.net.assert_quiet();
        for shard in 0..self.shards {
            let g = self.net.nodes[shard].machine.gauges();
            assert_eq!(g.on_their_way, 0, "{g:?}");
            let v = self.view(shard);
            assert!(v.buffers.iter().all(|p| p.credits == i64::from(p.wanted)), "{v:?}");
        }
        self.drops_add_up();
    }

    /// Messages that LNet has dropped on all shards, as its NIs count them.
    pub(crate) fn dropped(&self) -> Dropped {
        let mut sum = Dropped::default();
        for n in self.net.nodes.iter().take(self.shards) {
            n.machine.nis(&mut |f| sum += f.dropped);
        }
        sum
    }

    /// Whatever LNet drops, for whichever reason, counts at an NI.
    fn drops_add_up(&self) {
        let c = self.count();
        let unwanted = c.drop_no_match + c.drop_too_long + c.drop_bad_offset + c.drop_stale_handle;
        let not_ours = c.drop_not_for_us + c.err_dest_nid + c.drop_asym_route + c.drop_fault;
        let not_passed = c.drop_no_route
            + c.drop_route_loop
            + c.drop_next_hop
            + c.drop_stuck
            + c.drop_no_conn
            + c.drop_left_behind;
        let all = unwanted + not_ours + not_passed + c.drop_no_way_back;
        assert_eq!(self.dropped().messages.all(), all, "{c:?}");
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

pub(crate) fn put(n: u64) -> LnetBody {
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
pub(crate) fn header(from: Nid, to: Nid, body: LnetBody, len: usize) -> LnetHdr {
    let pid = ProcessId::lustre(from).pid;
    LnetHdr { dest_nid: to, src_nid: from, dest_pid: pid, src_pid: pid, payload_len: len as u32, body }
}

/// Each kind of message, both ways.
pub(crate) fn everything_across(w: &mut World) {
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

/// A NID of a form that V3 does not know would leave as the wildcard, which no router takes.
#[test]
fn what_the_next_hop_has_no_form_for_stays() {
    for shards in [1, 2] {
        for (version, cut) in
            [(Version::V3, false), (Version::V3, true), (Version::V2, true), (Version::V1, false)]
        {
            let mut cfg = config();
            cfg.routing.cut_through = cut;
            let mut w = World::of(&cfg, shards);
            w.add(a(2), Version::V4);
            w.add(b(3), version);
            w.enable();
            everything_across(&mut w);
            let mut odd = a(2).to_nid16();
            odd[0] = 1;
            let sources = [nid("2001:db8::1@tcp3"), nid("2001:db8::1@tcp"), Nid::from_nid16(odd)];
            let mut told = 0;
            for from in sources {
                for (i, (body, len)) in (0u64..).zip(all_bodies(10)) {
                    let hdr = LnetHdr { payload_len: len as u32, ..header(from, b(3), body, len) };
                    w.across.say_as(&mut w.net, (a(2), 0), hdr, bytes(len, i));
                    told += 1;
                }
            }
            w.run(2 * SEC);
            assert!(w.heard().is_empty(), "{version:?}");
            assert_eq!(w.count().drop_next_hop, told, "{version:?}");
            everything_across(&mut w);
            w.run(SEC);
            w.at_rest();
        }
    }
}

/// A message from 10.0.0.2 that no hop takes: the rest of the connection is read, and its sender has its zero-copy ACK.
fn stays(w: &mut World, to: Nid, count: impl Fn(&Counters) -> u64) {
    let before = count(&w.count());
    w.across.ended.clear();
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
        w.info(nid(R[1]), b(3));
        w.across.say_as(&mut w.net, (from, 0), forged, Vec::new());
        w.run(SEC);
        assert_eq!(w.count().drop_route_loop, 1);
        // A message that names this node itself as its source.
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
        // They count at the NI that they came by, and at the peer that they came from.
        let dropped = Dropped { messages: ByType { put: 20, ..ByType::default() }, bytes: 400_000 };
        assert_eq!(w.dropped(), dropped);
        let (mut by_ni, mut by_peer) = (Dropped::default(), Dropped::default());
        for n in w.net.nodes.iter().take(shards as usize) {
            n.machine.nis(&mut |f| {
                if f.nid == nid(R[0]) {
                    by_ni += f.dropped;
                }
            });
            n.machine.peer_figures(0, 64, &mut |f| {
                if f.id.nid == a(2) {
                    by_peer += f.dropped;
                }
            });
        }
        assert_eq!((by_ni, by_peer), (dropped, dropped), "{shards}");
        w.at_rest();
    }
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
        w.run(CHECK - 2 * SEC);
        assert_eq!((w.view(0).state, features(&mut w)), (RoutingState::Starting, 0x1e));
        stays(&mut w, b(3), |c| c.drop_not_for_us);
        assert!(w.across.told.is_empty(), "nobody is told before it is so");
        w.run(2 * SEC);
        assert_eq!((w.view(0).state, features(&mut w)), (RoutingState::On, 0x1a));
        let told = std::mem::take(&mut w.across.told);
        let by: Vec<Nid> = told.iter().map(|t| t.0).collect();
        assert!(by.len() == 2 && by.contains(&a(2)) && by.contains(&b(3)), "{by:?}");
        assert!(told.iter().all(|t| t.2.features == 0x1a && t.2.sequence == sequence), "{told:?}");
        everything_across(&mut w);
        // It is said at once that it ends, to who asks, and goes on until it has ended.
        w.ask(RoutingAsk::Disable);
        assert_eq!((features(&mut w), w.view(0).state), (0x1e, RoutingState::Stopping));
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

/// All shards hear of a tunable, and one decides; an order by lnetctl's verb shows in the configuration of each.
#[test]
fn routing_follows_its_tunables_and_they_follow_it() {
    for shards in [1, 3] {
        let mut w = World::of(&config(), shards);
        let all = |w: &World| {
            let of = |n: &Node| (n.machine.config().routing.forwarding, n.machine.config().routing.buffers);
            w.net.nodes.iter().take(shards.into()).map(of).collect::<Vec<_>>()
        };
        let tune = |w: &mut World, name: &str, value: &str| {
            for at in 0..shards.into() {
                let change = Change::new(w.net.nodes[at].machine.config(), name, value).unwrap();
                w.net.tune(at, &change);
            }
            w.run(SEC / 100);
        };
        w.run(SEC);
        tune(&mut w, "forwarding", "enabled");
        assert_eq!(w.view(0).state, RoutingState::Starting);
        tune(&mut w, "small_router_buffers", "9");
        tune(&mut w, "forwarding", "enabled");
        w.run(CHECK + SEC);
        assert_eq!(w.view(0).state, RoutingState::On);
        assert_eq!(all(&w), vec![(true, [0, 9, 0]); shards.into()]);
        let sum: u32 = (0..shards.into()).map(|n| w.view(n).buffers[1].buffers).sum();
        assert_eq!(sum, 9);
        w.ask(RoutingAsk::Buffers(BufferClass::Large, 5));
        w.ask(RoutingAsk::Disable);
        w.run(SEC / 100);
        assert_eq!(all(&w), vec![(false, [0, 9, 5]); shards.into()]);
        tune(&mut w, "forwarding", "disabled");
        assert_eq!(w.view(0).state, RoutingState::Stopping);
        w.run(3 * CHECK);
        assert_eq!(w.view(0).state, RoutingState::Off);
        // Before the first turn, too.
        let mut cfg = config();
        cfg.routing.forwarding = true;
        let mut w = World::of(&cfg, shards);
        tune(&mut w, "large_router_buffers", "3");
        assert_eq!(all(&w), vec![(true, [0, 0, 3]); shards.into()]);
        assert_eq!(w.view(0).state, RoutingState::Starting);
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

/// Only pings count (docs/protocol/upper.md §1.5): neither the ACKs of its own pushes, nor what it passes on, keep a network up.
#[test]
fn a_network_without_pings_is_down_and_up_again_with_the_first_one() {
    use NiStatus::{Down, Up};
    for shards in [1, 4] {
        let mut w = World::of(&config(), shards);
        w.add(a(2), Version::V3);
        w.add(b(3), Version::V3);
        for (nid, own) in [(a(2), nid(R[0])), (b(3), nid(R[1]))] {
            let mut info = Vec::new();
            PingInfo::new([nid], 12345, 0x1e, 2).emit(&mut info);
            let ack = WireHandle { interface: 4, object: 4 };
            let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
            w.say(nid, own, LnetBody::Put { ack, match_bits, hdr_data: 0, portal, offset: 0 }, info);
        }
        w.enable();
        assert!(statuses(&mut w).iter().all(|s| s.1 == [Up, Up]));
        let sequence = w.info(nid(R[0]), a(2)).sequence;
        // Both speak, and only tcp pings.
        let speak = |w: &mut World, n: u64| {
            w.say(b(3), a(2), put(n), Vec::new());
            w.info(nid(R[0]), a(2))
        };
        for n in 0..3 * CHECK / SEC {
            speak(&mut w, n);
            w.run(SEC - SEC / 10);
        }
        let told = statuses(&mut w);
        let (tcp, tcp1): (Vec<_>, Vec<_>) = told.iter().partition(|t| t.0 == a(2));
        assert_eq!((tcp, tcp1), (vec![&(a(2), [Up, Down])], vec![&(b(3), [Up, Down])]), "each is told once");
        let info = speak(&mut w, 100);
        assert_eq!((info.nis[1].status, info.sequence, info.features), (Down, sequence, 0x1a));
        // A ping for somebody else counts, too.
        let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
        let handle = WireHandle { interface: 6, object: 6 };
        let asks = LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: 272 };
        w.say(b(3), a(2), asks, Vec::new());
        w.run(SEC / 10);
        let told = statuses(&mut w);
        assert!(told.contains(&(a(2), [Up, Up])) && told.contains(&(b(3), [Up, Up])), "{told:?}");
        assert_eq!((told.len(), w.heard().len()), (2, 1));
        for n in 0..2 * CHECK / SEC {
            speak(&mut w, 200 + n);
            w.run(SEC);
        }
        assert_eq!(w.info(nid(R[0]), a(2)).nis[1].status, Down);
        w.ask(RoutingAsk::Disable);
        w.run(SEC);
        let info = w.info(nid(R[0]), a(2));
        assert_eq!(info.nis[1].status, Up, "a node that does not route says nothing of that");
    }
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

/// Buffers of each class; a peer may hold so many.
pub(crate) fn small(buffers: [u32; 3], peer: u32) -> Config {
    let mut cfg = config();
    (cfg.routing.buffers, cfg.routing.peer_credits) = (buffers, peer);
    cfg
}
