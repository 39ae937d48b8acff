//! Messages that leave a router before they are whole: what begins, what ends it, and what a sender can do with it
//! (docs/protocol/upper.md §1.2).

use transport::lnd::Config;
use transport::stream::Bucket;
use transport::testing::data::bytes;
use transport::testing::net::{Cut, SEC};
use transport::wire::{AcceptorReq, ByteOrder, ConnType, Hello, KsockHdr, KsockType, Nid, Version};

use crate::raw;
use crate::routing::{R, World, a, b, config, everything_across, header, nid, put};

const MIB: usize = 1 << 20;

fn cutting() -> Config {
    let mut cfg = config();
    cfg.routing.cut_through = true;
    cfg
}

/// A router that has connections with 10.0.0.2 and 10.1.0.3, of V3.
fn world(cfg: &Config, shards: u16) -> World {
    let mut w = World::on(cfg, shards);
    know(&mut w, b(3));
    know(&mut w, a(2));
    w
}

/// The kernel has a set with the router.
fn know(w: &mut World, peer: Nid) {
    let own = if peer.same_net(nid(R[0])) { R[0] } else { R[1] };
    w.say(peer, nid(own), put(0), Vec::new());
    w.run(SEC);
    // Large messages have a connection of their own.
    w.say(peer, nid(own), put(0), bytes(20_000, 0));
    w.run(SEC);
    w.heard();
    w.across.ended.clear();
}

/// The model of a kernel hears that its set has ended when it sends; then it has another one.
fn finds_out(w: &mut World, peer: Nid) {
    know(w, peer);
    know(w, peer);
}

/// A sender that is driven by hand.
struct Hand {
    link: usize,
    payload: Vec<u8>,
    sent: usize,
}

impl Hand {
    /// The header of a message of `len` bytes from `from` to `to`, on a connection from that address.
    fn says(w: &mut World, (ip, port): ([u8; 4], u16), from: Nid, to: Nid, len: usize) -> Hand {
        let own = nid(R[0]);
        let link = w.net.raw_connect((ip, port).into(), w.net.home(0, ip.into()));
        let req = AcceptorReq::new(own);
        let hello = Hello { src_nid: from, dst_nid: own, ..raw::hello(Version::V3, ConnType::Control) };
        w.net.raw_send(link, &[&req.emit()[..req.wire_len()], &hello.emit()].concat());
        let mut hand = Hand { link, payload: Vec::new(), sent: 0 };
        hand.again(w, from, to, len);
        hand
    }

    /// The header of another one, on the same connection.
    fn again(&mut self, w: &mut World, from: Nid, to: Nid, len: usize) {
        let ksock = KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0: 0, cookie1: 0 };
        let hdr = header(from, to, put(1), len);
        w.net.raw_send(self.link, &[&ksock.emit(ByteOrder::Little)[..], &hdr.emit_as(Version::V3)].concat());
        (self.payload, self.sent) = (bytes(len, 1), 0);
    }

    /// So much more of the payload.
    fn gives(&mut self, w: &mut World, n: usize) {
        let to = self.payload.len().min(self.sent + n);
        w.net.raw_send(self.link, &self.payload[self.sent..to]);
        self.sent = to;
    }
}

/// Bytes that have come to a kernel over all its connections.
fn arrived(w: &World, at: Nid) -> u64 {
    let ends =
        (0..w.net.links()).flat_map(|l| w.net.addresses(l).into_iter().enumerate().map(move |e| (l, e)));
    let at = at.ip().unwrap();
    ends.filter(|(_, (_, addr))| addr.ip() == at).map(|(l, (end, _))| w.net.arrived(l, end)).sum()
}

/// The sender stops after a quarter, and time passes: the next hop has that quarter, in whatever shard its home is.
#[test]
fn the_first_byte_arrives_before_the_last_is_sent() {
    for shards in [1, 2, 4] {
        for on in [true, false] {
            let mut cfg = cutting();
            cfg.routing.cut_through = on;
            let mut w = world(&cfg, shards);
            let before = arrived(&w, b(3));
            let mut hand = Hand::says(&mut w, ([10, 0, 0, 66], 1000), a(66), b(3), MIB);
            hand.gives(&mut w, MIB / 4);
            w.run(SEC / 10);
            let came = arrived(&w, b(3)) - before;
            let c = w.count();
            assert_eq!((c.forward_rx_msgs, c.forwarded_msgs, w.across.heard.len()), (0, 0, 0));
            assert_eq!((came >= MIB as u64 / 4, c.forward_cut_msgs), (on, on.into()), "{shards}: {came}");
            for _ in 0..6 {
                hand.gives(&mut w, MIB / 8);
                w.run(SEC / 10);
            }
            let heard = w.heard();
            assert_eq!(heard.len(), 1, "{shards}");
            assert_eq!(heard[0].hdr, header(a(66), b(3), put(1), MIB));
            assert!(heard[0].payload == bytes(MIB, 1));
            let c = w.count();
            assert_eq!((c.forwarded_msgs, c.forwarded_bytes, c.forward_copied_bytes), (1, MIB as u64, 0));
            assert_eq!((c.forward_rx_msgs, c.sets_closed, c.drop_next_hop), (1, 0, 0));
            w.at_rest();
        }
    }
}

/// All kinds, all versions: headers and payload as they were said, and counted once.
#[test]
fn each_kind_of_message_is_passed_on_as_it_is() {
    let mut cut = 0;
    for shards in [1, 2, 4] {
        for versions in [
            [Version::V3, Version::V3],
            [Version::V2, Version::V3],
            [Version::V3, Version::V1],
            [Version::V1, Version::V2],
        ] {
            let mut w = World::of(&cutting(), shards);
            w.add(a(2), versions[0]);
            w.add(b(3), versions[1]);
            w.enable();
            know(&mut w, a(2));
            know(&mut w, b(3));
            w.across.ended.clear();
            // 1 MiB takes 13 ms.
            w.net.raw_pace = 50_000;
            everything_across(&mut w);
            let c = w.count();
            let bytes = 2 * (100_000 + 3000 + MIB as u64);
            assert_eq!((c.forwarded_msgs, c.forward_rx_msgs), (12, 12), "{shards} {versions:?}");
            assert_eq!((c.forwarded_bytes, c.forward_rx_bytes, c.forward_copied_bytes), (bytes, bytes, 0));
            assert_eq!((c.sets_closed, c.drop_next_hop, c.forward_cut_aborted), (0, 0, 0));
            // All four long ones, but where one is before another.
            cut += c.forward_cut_msgs;
            w.run(SEC);
            w.at_rest();
        }
    }
    assert!(cut >= 12, "{cut}");
}

/// Half of a message has left; gives the sender, and a message that waits behind it for the same next hop.
fn half_way(w: &mut World) -> (Hand, u64) {
    let mut hand = Hand::says(w, ([10, 0, 0, 66], 1000), a(66), b(3), MIB);
    hand.gives(w, MIB / 2);
    w.run(SEC / 50);
    assert_eq!(w.count().forward_cut_msgs, 1);
    let behind = w.say(a(2), b(3), put(5), bytes(20_000, 5));
    w.run(SEC / 50);
    assert_eq!((w.heard().len(), w.count().forwarded_msgs), (0, 0), "it waits");
    (hand, behind)
}

/// A sender that breaks off ends the next hop's set; what waits there shares its fate, and what comes next goes over another.
#[test]
fn what_breaks_off_ends_the_set_that_it_was_leaving_on_and_is_not_let_again() {
    for shards in [1, 2, 3] {
        for how in [Cut::Reset, Cut::Fin] {
            let mut w = world(&cutting(), shards);
            let (hand, behind) = half_way(&mut w);
            match how {
                Cut::Fin => w.net.raw_fin(hand.link),
                _ => w.net.raw_reset(hand.link),
            }
            w.run(SEC);
            let c = w.count();
            assert_eq!(
                (c.forward_cut_aborted, c.sets_closed, c.forwarded_msgs),
                (1, 2, 0),
                "{shards} {how:?}"
            );
            assert_eq!(c.drop_next_hop, 2, "both are counted");
            // Its source has its zero-copy ACK: it was here whole.
            assert_eq!(std::mem::take(&mut w.across.ended), [(behind, true)]);
            assert!(w.heard().is_empty());
            let views = w.net.nodes.iter().flat_map(|n| n.machine.counters().iter().collect::<Vec<_>>());
            let blamed = ["local_error_count", "remote_dropped_count", "network_timeout_count"];
            assert!(
                views.filter(|(name, _)| blamed.contains(name)).all(|(_, n)| n == 0),
                "nobody is to blame"
            );
            finds_out(&mut w, b(3));
            w.say(a(2), b(3), put(6), bytes(20_000, 6));
            w.run(5 * SEC);
            assert_eq!(w.heard().len(), 1, "redialled");
            // Whoever broke one off is stored from then on.
            let mut again = Hand::says(&mut w, ([10, 0, 0, 66], 999), a(66), b(3), MIB);
            again.gives(&mut w, MIB / 2);
            w.run(SEC);
            assert_eq!((w.count().forward_cut_msgs, w.count().forward_cut_barred), (1, 1));
            again.gives(&mut w, MIB);
            w.run(SEC);
            assert_eq!(w.heard().len(), 1);
            // And what is for that next hop is, whoever sends it.
            let mut other = Hand::says(&mut w, ([10, 0, 0, 67], 1000), a(67), b(3), MIB);
            other.gives(&mut w, MIB / 2);
            w.run(SEC / 20);
            assert_eq!((w.count().forward_cut_msgs, w.count().forward_cut_barred), (1, 2));
            other.gives(&mut w, MIB);
            w.run(SEC);
            assert_eq!(w.heard().len(), 1);
            // For a minute.
            w.run(60 * SEC);
            other.again(&mut w, a(67), b(3), MIB);
            other.gives(&mut w, MIB / 2);
            w.run(SEC / 20);
            assert_eq!(w.count().forward_cut_msgs, 2);
            other.gives(&mut w, MIB);
            w.run(SEC);
            assert_eq!((w.heard().len(), w.count().forward_cut_aborted), (1, 1));
            // Ten minutes after the first, the sender is let again.
            again.again(&mut w, a(66), b(3), MIB);
            again.gives(&mut w, MIB);
            w.run(560 * SEC);
            assert_eq!((w.heard().len(), w.count().forward_cut_barred), (1, 3));
            again.again(&mut w, a(66), b(3), MIB);
            again.gives(&mut w, MIB / 2);
            w.run(SEC / 20);
            again.gives(&mut w, MIB);
            w.run(SEC);
            assert_eq!((w.heard().len(), w.count().forward_cut_barred), (1, 3));
            w.at_rest();
        }
    }
}

/// Nobody holds a connection up for longer than a second by sending a header and nothing else, nor by sending slowly.
#[test]
fn who_is_too_slow_holds_nobody_up_for_long() {
    // A byte now and then; a part now and then, which is too little; nothing.
    let ms = SEC / 1000;
    for (more, every) in [(1, 20 * ms), (16 << 10, 32 * ms), (0, 20 * ms)] {
        for shards in [1, 2] {
            let mut w = world(&cutting(), shards);
            let (mut hand, _) = half_way(&mut w);
            let began = w.net.now;
            while w.count().forward_cut_aborted == 0 {
                assert!(w.net.now < began + SEC, "{more} bytes every {every} ns");
                hand.gives(&mut w, more);
                w.run(every);
            }
            w.run(SEC);
            let c = w.count();
            assert_eq!((c.sets_closed, c.drop_next_hop, c.forwarded_msgs), (1, 2, 0), "{more} {shards}");
            // Its own connection is good: it may be slow, and the rest of the message is read.
            hand.gives(&mut w, MIB);
            w.run(SEC);
            assert_eq!(w.net.raw_ended(hand.link), (false, false));
            finds_out(&mut w, b(3));
            w.say(a(2), b(3), put(7), bytes(20_000, 7));
            w.run(5 * SEC);
            assert_eq!(w.heard().len(), 1);
            w.at_rest();
        }
    }
}

/// A sender that keeps the pace, and takes long, holds a next hop up once.
#[test]
fn who_is_slow_is_stored_from_then_on() {
    for shards in [1, 2] {
        for slow in [false, true] {
            let mut w = world(&cutting(), shards);
            let (mut hand, _) = half_way(&mut w);
            for _ in 0..8 {
                hand.gives(&mut w, 64 << 10);
                w.run(if slow { SEC / 20 } else { SEC / 200 });
            }
            w.run(SEC);
            let before = w.count();
            assert_eq!((before.forward_cut_msgs, before.forward_cut_aborted), (1, 0));
            // That sender's, whoever they are for; and those for that next hop, whoever sends them, for a minute.
            let mut other = Hand::says(&mut w, ([10, 0, 0, 67], 1000), a(67), b(3), MIB);
            hand.again(&mut w, a(66), b(3), MIB);
            for (hand, n) in [(&mut hand, 1), (&mut other, 2)] {
                hand.gives(&mut w, MIB / 2);
                w.run(SEC / 50);
                let c = w.count();
                let (cut, barred) = if slow { (1, n) } else { (1 + n, 0) };
                assert_eq!((c.forward_cut_msgs, c.forward_cut_barred), (cut, barred), "{shards} {slow}");
                hand.gives(&mut w, MIB);
                w.run(5 * SEC);
            }
            assert_eq!(w.count().forwarded_msgs, before.forwarded_msgs + 2);
            w.run(60 * SEC);
            for (hand, nid, cut) in [(&mut hand, a(66), false), (&mut other, a(67), true)] {
                let before = w.count().forward_cut_msgs;
                hand.again(&mut w, nid, b(3), MIB);
                hand.gives(&mut w, MIB / 2);
                w.run(SEC / 50);
                hand.gives(&mut w, MIB);
                w.run(SEC);
                let cuts = w.count().forward_cut_msgs - before;
                assert_eq!(cuts, u64::from(!slow || cut), "{shards} {slow} {nid}");
            }
        }
    }
}

/// However many addresses there are from which messages are broken off, or stop, in five minutes: a next hop loses a set each minute at
/// most, also where its home moves meanwhile.
#[test]
fn a_crowd_takes_a_next_hop_down_once_a_minute_at_most() {
    for shards in [1, 2] {
        let mut w = world(&cutting(), shards);
        let (mut lost, mut moves): (Vec<u64>, u32) = (Vec::new(), 0);
        for n in 0..250u8 {
            let mut hand =
                Hand::says(&mut w, ([10, 0, 1, n], 1000), Nid::tcp([10, 0, 1, n].into(), 0), b(3), MIB);
            hand.gives(&mut w, MIB / 2);
            w.run(SEC / 50);
            if n % 2 == 0 {
                w.net.raw_reset(hand.link);
            }
            w.run(SEC);
            let (now, aborted) = (w.net.now, w.count().forward_cut_aborted);
            if aborted > lost.len() as u64 {
                lost.push(now);
                // It has connections again.
                finds_out(&mut w, b(3));
            }
            if n % 8 == 5 {
                let bucket = Bucket::of(b(3).ip().unwrap());
                let home = w.net.nodes[0].machine.home_of(bucket);
                let to = transport::stream::ShardId((home.0 + 1) % shards);
                moves += u32::from(w.net.move_home(home.0.into(), bucket, to));
            }
            assert_eq!(aborted, lost.len() as u64, "one at a time");
        }
        assert!(moves > 5 || shards == 1, "{moves}");
        assert!((4..=6).contains(&lost.len()), "{shards}: {lost:?}");
        assert!(lost.windows(2).all(|l| l[1] - l[0] >= 59 * SEC), "{shards}: {lost:?}");
    }
}

/// What is shorter than a part never begins, so a header and a byte hold nothing up.
#[test]
fn nothing_begins_before_a_useful_amount_is_here() {
    let mut w = world(&cutting(), 1);
    let mut hand = Hand::says(&mut w, ([10, 0, 0, 66], 1000), a(66), b(3), MIB);
    hand.gives(&mut w, (16 << 10) - 1);
    w.run(SEC);
    w.say(a(2), b(3), put(5), bytes(20_000, 5));
    w.run(SEC);
    assert_eq!((w.heard().len(), w.count().forward_cut_msgs), (1, 0));
    // And a message of less than two parts is stored.
    let mut short = Hand::says(&mut w, ([10, 0, 0, 67], 1000), a(67), b(3), (32 << 10) - 1);
    short.gives(&mut w, 20_000);
    w.run(SEC);
    assert_eq!(w.count().forward_cut_msgs, 0);
    hand.gives(&mut w, 1);
    w.run(SEC / 10);
    assert_eq!(w.count().forward_cut_msgs, 1);
    hand.gives(&mut w, MIB);
    short.gives(&mut w, MIB);
    w.run(SEC);
    assert_eq!(w.heard().len(), 2);
    w.at_rest();
}

/// The next hop's set ends: what still comes of the message is read and let go, and its sender's connection is good.
#[test]
fn where_the_next_hop_ends_in_the_middle_the_rest_is_drained() {
    for shards in [1, 2, 3] {
        let mut w = world(&cutting(), shards);
        let (mut hand, _) = half_way(&mut w);
        w.across.cut(&mut w.net, b(3), 0, Cut::Reset);
        w.run(SEC / 100);
        hand.gives(&mut w, MIB / 4);
        w.run(SEC / 100);
        w.net.nodes.iter().for_each(|n| while n.pool.home().drain() > 0 {});
        let held: usize = w.net.nodes.iter().map(|n| n.pool.home().lent_out()).sum();
        assert_eq!(held, 0, "nothing of it is kept");
        hand.gives(&mut w, MIB);
        w.run(SEC);
        let c = w.count();
        assert_eq!((c.forward_cut_aborted, c.drop_next_hop, c.forwarded_msgs), (0, 2, 0), "{shards}");
        assert_eq!((c.forward_rx_msgs, c.sets_closed), (2, 1));
        // The sender is not to blame.
        finds_out(&mut w, b(3));
        hand.again(&mut w, a(66), b(3), MIB);
        hand.gives(&mut w, MIB / 2);
        w.run(SEC / 20);
        hand.gives(&mut w, MIB);
        w.run(5 * SEC);
        assert_eq!((w.heard().len(), w.count().forward_cut_barred), (1, 0));
        w.at_rest();
    }
}

/// A sum over the payload is in a header, which leaves first: such a message is stored, on either hop.
#[test]
fn where_a_header_has_a_sum_the_message_is_stored_and_counted() {
    for shards in [1, 2] {
        let mut cfg = cutting();
        cfg.enable_csum = true;
        let mut w = World::of(&cfg, shards);
        w.add(a(2), Version::V3);
        w.add(b(3), Version::V2);
        w.enable();
        know(&mut w, a(2));
        know(&mut w, b(3));
        let mut hand = Hand::says(&mut w, ([10, 0, 0, 66], 1000), a(66), b(3), MIB);
        hand.gives(&mut w, MIB / 2);
        w.run(SEC / 10);
        assert_eq!((w.count().forward_cut_msgs, w.count().forward_cut_summed), (0, 1));
        hand.gives(&mut w, MIB);
        w.run(SEC);
        let heard = w.heard();
        assert!(heard.len() == 1 && heard[0].payload == bytes(MIB, 1));
        // The kernel's V2 messages have sums where ours do.
        let ksock = KsockHdr { kind: KsockType::Lnet, csum: 77, cookie0: 0, cookie1: 0 };
        let hdr = header(a(66), b(3), put(2), MIB);
        w.net.raw_send(hand.link, &[&ksock.emit(ByteOrder::Little)[..], &hdr.emit_as(Version::V3)].concat());
        w.net.raw_send(hand.link, &bytes(MIB / 2, 1));
        w.run(SEC / 10);
        assert_eq!((w.count().forward_cut_msgs, w.count().forward_cut_summed), (0, 2));
        w.net.raw_send(hand.link, &bytes(MIB / 2, 1));
        w.run(SEC);
        assert_eq!((w.count().err_checksum, w.heard().len()), (1, 0), "and it is wrong");
        w.at_rest();
    }
}

/// Messages that wait for each other's way: each is gathered and goes whole, in the order in which they came.
#[test]
fn the_order_of_a_connection_is_kept() {
    for shards in [1, 2] {
        let mut w = world(&cutting(), shards);
        w.net.raw_pace = 40_000;
        let lens = [MIB, 40_000, 200_000, MIB, 20_000, 70_000];
        for (n, len) in (0..).zip(lens.into_iter().cycle().take(18)) {
            w.say(a(2), b(3), put(n), bytes(len, n));
        }
        w.run(5 * SEC);
        let said: Vec<_> = w.heard().iter().map(|h| (h.hdr.payload_len as usize, h.payload.len())).collect();
        assert_eq!(said, lens.into_iter().cycle().take(18).map(|n| (n, n)).collect::<Vec<_>>());
        let c = w.count();
        assert!(c.forward_cut_msgs > 3, "{c:?}");
        assert_eq!(c.sets_closed, 0);
        w.at_rest();
    }
}

/// A bucket stays while a message of it comes, or leaves, in parts.
#[test]
fn homes_stay_while_a_message_is_in_parts() {
    for shards in [2, 3] {
        let mut w = world(&cutting(), shards);
        let mut hand = Hand::says(&mut w, ([10, 0, 0, 66], 1000), a(66), b(3), MIB);
        hand.gives(&mut w, MIB / 2);
        w.run(SEC / 20);
        let ips = [a(66).ip().unwrap(), b(3).ip().unwrap()];
        let moves = |w: &mut World| {
            ips.map(|ip| {
                let bucket = Bucket::of(ip);
                let home = w.net.nodes[0].machine.home_of(bucket);
                let to = transport::stream::ShardId((home.0 + 1) % shards);
                w.net.move_home(home.0.into(), bucket, to)
            })
        };
        assert_eq!((w.count().forward_cut_msgs, moves(&mut w)), (1, [false, false]));
        hand.gives(&mut w, MIB);
        w.run(SEC);
        assert_eq!((w.heard().len(), moves(&mut w)), (1, [true, true]));
        w.run(SEC);
        hand.again(&mut w, a(66), b(3), MIB);
        hand.gives(&mut w, MIB / 2);
        w.run(SEC / 20);
        assert_eq!(w.count().forward_cut_msgs, 2, "and on the new homes as on the old");
        hand.gives(&mut w, MIB);
        w.run(SEC);
        assert_eq!(w.heard().len(), 1);
        w.at_rest();
    }
}

/// The node goes down while a message is half way.
#[test]
fn messages_in_parts_end_with_the_node() {
    for shards in [1, 2] {
        let mut w = world(&cutting(), shards);
        half_way(&mut w);
        for shard in 0..w.shards {
            w.net.op(shard, transport::lnet::Op::Shutdown { tag: 1 });
        }
        w.run(100 * SEC);
        for shard in 0..w.shards {
            let g = w.net.nodes[shard].machine.gauges();
            assert_eq!((g.on_their_way, g.lends, g.conns, g.queued), (0, 0, 0, 0), "{g:?}");
        }
        w.net.assert_quiet();
    }
}
