//! Want of buffers for messages: peers that hold one and send slowly, peers that wait for one that there is not.

use std::net::SocketAddr;

use transport::netsock::{Config, Refusal};
use transport::node::Input;
use transport::stream::{ConnId, Happened, Protocol, ShardId};
use transport::testing::net::{Net, SEC};
use transport::testing::netsock::{TmNode, addr};
use transport::wire::netsock::{Bdesc, Cookie, HDR_LEN, PacketHdr, PacketType};

const PORT: u16 = 5002;
const BUFFERS: usize = 64;

/// Peers of the test's making.
struct World {
    net: Net,
    tm: TmNode,
    port: u16,
}

impl World {
    fn new(buffers: &[usize]) -> World {
        let mut net = Net::new();
        let mut tm = TmNode::new(&mut net, Config::new(addr(2, PORT), 1));
        for len in buffers {
            tm.msg_recv(&mut net, *len, None);
        }
        World { net, tm, port: 40_000 }
    }

    fn connect(&mut self, host: u8) -> usize {
        self.port += 1;
        let from = SocketAddr::new([10, 0, 0, host].into(), self.port);
        let link = self.net.raw_connect_to(from, self.tm.node, PORT);
        self.net.run(SEC / 1000);
        link
    }

    /// A host connects, and sends so many bytes of a message of `total`.
    fn begin(&mut self, host: u8, total: usize, sent: usize) -> usize {
        let link = self.connect(host);
        self.net.raw_send(link, &message(host, total)[..HDR_LEN + sent]);
        self.net.run(SEC / 1000);
        link
    }

    fn ended(&self, link: usize) -> bool {
        let (fin, closed) = self.net.raw_ended(link);
        fin || closed
    }

    /// Bytes of the messages that came, by their hosts.
    fn took(&mut self) -> Vec<(Option<u8>, usize)> {
        let host = |n: u8| (1..=9).contains(&n).then_some(n);
        self.tm.take().iter().map(|e| (e.bytes.first().copied().and_then(host), e.bytes.len())).collect()
    }

    fn why(&self) -> Vec<Refusal> {
        std::iter::from_fn(|| self.tm.tm().notice()).map(|n| n.why).collect()
    }

    fn parked(&self) -> usize {
        self.tm.tm().gauges().parked
    }

    /// The runtime says that a peer was reset behind bytes that are not read.
    fn tell_reset(&mut self, link: usize) {
        let conn = ConnId { shard: ShardId(0), index: link as u32, generation: 1 };
        self.tm.tm().handle(self.net.now, Happened::Ended(conn));
        self.net.input(self.tm.node, Input::Timer);
        self.net.run(SEC / 1000);
    }
}

/// A message of a host, each of its bytes the host's number.
fn message(host: u8, total: usize) -> Vec<u8> {
    let h = PacketHdr {
        kind: PacketType::Put,
        src: Bdesc { addr: addr(host, 6001), cookie: Cookie { addr: 0x55a8_0000, generation: 1 } },
        dst: Bdesc { addr: addr(2, PORT), cookie: Cookie::NONE },
        idx: 0,
        nr: 1,
        size: total as u64,
        offset: 0,
        total: total as u64,
    };
    [&h.emit()[..], &vec![host; total]].concat()
}

/// One host began a message in each buffer, sent a byte each three seconds, and silenced the machine for all others. It has as
/// many connections that wait, all before the other host, and comes again when it is cut.
#[test]
fn half_messages_of_one_host_do_not_silence_a_machine() {
    let mut w = World::new(&[64 << 10; BUFFERS]);
    let mut greedy: Vec<usize> = (0..2 * BUFFERS).map(|_| w.begin(1, 60_000, 1)).collect();
    assert_eq!(w.parked(), BUFFERS);
    let third = w.connect(3);
    for round in 1..=3 {
        w.net.raw_send(third, &message(3, 100 * round));
        let (mut got, mut waited) = (Vec::new(), 0);
        while got.is_empty() && waited < 20 {
            w.net.run(SEC / 2);
            waited += 1;
            for link in &mut greedy {
                if w.ended(*link) {
                    *link = w.begin(1, 60_000, 1);
                } else if waited % 6 == 0 {
                    w.net.raw_send(*link, &[1]);
                }
            }
            got = w.took();
        }
        assert_eq!(got, [(Some(3), 100 * round)]);
        // Four seconds, and what the reconnecting takes.
        assert!(waited <= 10, "{waited} half seconds");
        let why = w.why();
        assert!(!why.is_empty() && why.iter().all(|w| *w == Refusal::Slow), "{why:?}");
        assert!(!w.ended(third));
        w.tm.msg_recv(&mut w.net, 64 << 10, None);
    }
    let mut named = 0;
    w.tm.tm().counts(&mut |name, n| named += if name == "netsock_refused_slow" { n } else { 0 });
    assert!(named >= BUFFERS as u64, "{named}");
}

/// A writer that is slow is in nobody's way: nobody waits, or only who has no use for its buffer. A Motr would die of the close.
#[test]
fn a_slow_writer_alone_is_not_cut() {
    let mut w = World::new(&[1000]);
    let slow = w.begin(1, 30, 1);
    for n in 1..30 {
        if n % 15 == 5 {
            // Longer than every buffer.
            w.begin(3, 2000, 2000);
            assert!(w.parked() > 0);
        }
        w.net.run(5 * SEC);
        assert!(!w.ended(slow), "{n}");
        w.net.raw_send(slow, &[1]);
    }
    w.net.run(SEC);
    assert_eq!(w.took(), [(Some(1), 30)]);
    assert!(w.why().iter().all(|w| *w == Refusal::NoRoom(2000)) && !w.ended(slow));
}

/// With another that waits, bytes at the rate keep the buffer; who stops then has what they have earned.
#[test]
fn bytes_at_the_rate_keep_a_buffer() {
    let whole = message(1, 1 << 20);
    for stops in [false, true] {
        let mut w = World::new(&[1 << 20]);
        let slow = w.begin(1, 1 << 20, 0);
        let other = w.begin(3, 10, 10);
        let (now, later) = whole[HDR_LEN..].split_at(20 * 20_000);
        for part in now.chunks(20_000) {
            w.net.raw_send(slow, part);
            w.net.run(SEC);
            assert!(!w.ended(slow));
        }
        assert_eq!((w.parked(), w.took()), (1, vec![]));
        if stops {
            // 400 kB at 16 KiB/s, and four seconds, of which twenty are over.
            w.net.run(8 * SEC);
            assert!(!w.ended(slow));
            w.net.run(SEC);
            assert!(w.ended(slow) && w.why() == [Refusal::Slow]);
            assert_eq!(w.took(), [(Some(3), 10)]);
        } else {
            w.net.raw_send(slow, later);
            w.net.run(SEC);
            assert_eq!(w.took(), [(Some(1), 1 << 20)]);
            w.tm.msg_recv(&mut w.net, 10, None);
            w.net.run(SEC);
            assert_eq!(w.took(), [(Some(3), 10)]);
            assert!(!w.ended(slow) && !w.ended(other) && w.why().is_empty());
        }
        w.tm.assert_at_rest(&w.net);
    }
}

/// A message that no buffer would hold waits for a minute, not for ever. What came of it is read before the end; a buffer that
/// is longer comes in time.
#[test]
fn a_message_longer_than_every_buffer_waits_for_a_minute() {
    let mut w = World::new(&[1000]);
    let (whole, half) = (w.begin(1, 2000, 2000), w.begin(1, 2000, 10));
    let huge = w.begin(1, 65 << 20, 10);
    w.net.raw_fin(whole);
    w.net.run(58 * SEC);
    assert_eq!((w.parked(), w.why()), (3, vec![]));
    assert!(![whole, half, huge].iter().any(|l| w.ended(*l)));
    w.net.run(3 * SEC);
    assert_eq!(w.parked(), 0);
    assert_eq!(w.why(), [2000, 2000, 65 << 20].map(Refusal::NoRoom));
    assert!(w.ended(whole) && !w.ended(half), "its peer is in mid-packet");
    assert!(w.ended(huge), "nobody reads so much for nothing");
    w.net.raw_send(half, &message(1, 2000)[HDR_LEN + 10..]);
    w.net.run(SEC);
    assert!(w.ended(half));
    let late = w.begin(3, 3000, 3000);
    w.net.run(50 * SEC);
    assert_eq!(w.took(), []);
    w.tm.msg_recv(&mut w.net, 3000, None);
    w.net.run(SEC);
    assert_eq!(w.took(), [(Some(3), 3000)]);
    // Buffers of this length there are, so it waits for one.
    w.net.raw_send(late, &message(3, 2500));
    w.net.run(100 * SEC);
    assert_eq!((w.parked(), w.ended(late)), (1, false));
}

/// A peer that was reset behind a message that waits: at once if there is no such buffer, else soon.
#[test]
fn who_was_reset_waits_no_longer() {
    let mut w = World::new(&[1000]);
    let held = w.begin(1, 1000, 1);
    let (fits, fits_soon, long) = (w.begin(3, 10, 10), w.begin(4, 10, 10), w.begin(5, 2000, 10));
    w.net.raw_send(held, &message(1, 1000)[HDR_LEN + 1..]);
    w.net.run(SEC / 10);
    assert_eq!((w.took(), w.parked()), (vec![(Some(1), 1000)], 3));
    [fits, fits_soon, long].iter().for_each(|l| w.tell_reset(*l));
    assert_eq!((w.parked(), w.ended(long)), (2, true));
    w.net.run(3 * SEC);
    w.tm.msg_recv(&mut w.net, 1000, None);
    w.net.run(SEC / 10);
    assert_eq!((w.took(), w.parked()), (vec![(Some(3), 10)], 1), "it had come whole");
    w.net.run(2 * SEC);
    assert_eq!((w.parked(), w.ended(fits_soon)), (0, true));
}
