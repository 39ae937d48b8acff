//! Stacks of one node, one a queue of a port with several: who announces, who hears what, and segments that come to
//! the wrong queue.

use std::net::SocketAddr;

use crate::common::bench::{Bench, Got, PEER_MAC, PLAIN, icmp_error, segment};
use crate::common::{SEC, addr, config, ip, pattern};
use dataplane::mem::{MemPort, Spread, pair_of_queues};
use dataplane::steer::{KEY, Rss};
use hugepages::LendSlab;
use tcpstack::opts::OptBytes;
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{self, ACK, Fields, RST, SYN};
use tcpstack::{Counters, Dial, Event, FlowId, Listen, Stack, Work};

fn rss(queues: u16, turned: u16) -> Rss {
    Rss::new(KEY.to_vec(), (0..128).map(|i| (i + turned) % queues).collect())
}

/// A node of several stacks, and the other end of its wire.
struct Node {
    /// The stack of queue 0, and the wire.
    b: Bench,
    /// Those of the other queues.
    rest: Vec<Stack<MemPort>>,
}

impl Node {
    fn new(spread: Spread) -> Node {
        let (ports, mut wire) = pair_of_queues(&PLAIN, spread, Spread::Mirror(1));
        let mut stacks = ports.into_iter().map(|p| {
            let mut s = Stack::new(config(1), p, LendSlab::new(64)).unwrap();
            s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 8 }).unwrap();
            s
        });
        let b = Bench::over(stacks.next().unwrap(), wire.remove(0));
        Node { b, rest: stacks.collect() }
    }

    fn at(&mut self, q: usize) -> &mut Stack<MemPort> {
        if q == 0 { &mut self.b.s } else { &mut self.rest[q - 1] }
    }

    fn count(&mut self, q: usize) -> Counters {
        self.at(q).counters()
    }

    /// Turns all stacks, and carries what they tell, until nothing moves.
    fn turn(&mut self) {
        for _ in 0..1000 {
            let now = self.b.now;
            let mut busy = false;
            for q in 0..=self.rest.len() {
                busy |= self.at(q).turn(now) != Work::Idle;
                while let Some((to, n)) = self.at(q).tell() {
                    assert_ne!(usize::from(to), q);
                    busy = true;
                    self.at(usize::from(to)).hear(now, n);
                }
            }
            if !busy {
                return;
            }
        }
        panic!("the stacks spin");
    }

    fn send(&mut self, frame: &[u8]) {
        self.b.inject(frame);
        self.turn();
    }

    fn one(&mut self) -> Got {
        self.turn();
        self.b.one()
    }

    /// The highest free port of queue `q` towards the peer, as a runtime picks it.
    fn port_of(&mut self, q: usize) -> u16 {
        let class = self.at(q).steering().ports_of(ip(1).into(), addr(2, 988));
        (512..=1023).rev().find(|p| class.has(*p)).unwrap()
    }

    /// Dials from queue `q`; the peer answers ARP. Returns the connection, its key seen from the peer, and the SYN's
    /// number.
    fn dial(&mut self, q: usize) -> (FlowId, Key, Seq) {
        let (now, port) = (self.b.now, self.port_of(q));
        let local = SocketAddr::new(ip(1).into(), port);
        let f = self.at(q).dial(now, Dial { local, remote: addr(2, 988) }).unwrap();
        self.turn();
        self.arp(2);
        let syn = self.one().seg;
        assert_eq!((syn.flags, syn.key.rport()), (SYN, port));
        (f, Key::new(ip(2).into(), 988, ip(1).into(), port), syn.seq)
    }

    fn arp(&mut self, op: u16) {
        let mut b = [0; 46];
        let p =
            tcpstack::arp::Packet { op, sha: PEER_MAC, spa: ip(2).into(), tha: [0; 6], tpa: ip(1).into() };
        let n = p.frame(wire::BROADCAST, None, &mut b);
        self.send(&b[..n]);
    }

    /// The peer's SYN-ACK to a dial.
    fn syn_ack(&mut self, key: &Key, syn: Seq) {
        let f = Fields { seq: Seq(99), ack: syn.plus(1), flags: SYN | ACK, win: 60_000 };
        self.send(&segment(key, &f, &OptBytes::syn(1460, false, None, None), &[]));
    }

    fn data(&mut self, key: &Key, syn: Seq, off: u64, data: &[u8]) {
        let f = Fields { seq: Seq(100).plus(off), ack: syn.plus(1), flags: ACK, win: 60_000 };
        self.send(&segment(key, &f, &[], data));
    }

    fn read(&mut self, q: usize, f: FlowId) -> Vec<u8> {
        let mut v = vec![];
        while let Some(x) = self.at(q).next(f) {
            v.extend_from_slice(x.bytes());
        }
        v
    }
}

fn kinds(frames: &[Vec<u8>]) -> Vec<u16> {
    frames.iter().map(|f| wire::eth(f).unwrap().kind).collect()
}

#[test]
fn one_stack_announces_and_all_learn_what_one_hears() {
    let mut n = Node::new(Spread::Rss(4, rss(4, 0)));
    n.turn();
    assert_eq!(kinds(&n.b.frames()), [wire::ETH_ARP], "one announcement of four stacks");
    for q in 0..4 {
        // The question leaves by the queue of who asks; the answer comes to queue 0.
        let (f, key, syn) = n.dial(q);
        n.syn_ack(&key, syn);
        let opened = |e: &Event| matches!(e, Event::Opened { flow, passive: false, .. } if *flow == f);
        assert!(n.at(q).event().is_some_and(|e| opened(&e)), "queue {q}");
        n.b.frames();
        assert_eq!(n.count(q).arp_requests, 1, "each asks for itself");
    }
    // Somebody asks for us: one answer.
    n.arp(1);
    assert_eq!(kinds(&n.b.frames()), [wire::ETH_ARP]);
    assert_eq!([0, 1, 2, 3].map(|q| n.count(q).arp_replies), [1, 0, 0, 0]);
    for q in 0..4 {
        let c = n.count(q);
        assert_eq!((c.strays_handed, c.strays_lost, c.rst_sent), (0, 0, 0), "queue {q}");
        // Four answers and a question.
        assert_eq!((c.siblings_heard, c.siblings_told), if q == 0 { (0, 5) } else { (5, 0) });
    }
}

#[test]
fn the_link_is_told_of_an_address_again_two_seconds_later() {
    // The peer of a node that is new keeps the old one's Ethernet address for seconds, unless it hears one of the two.
    let mut n = Node::new(Spread::Rss(2, rss(2, 0)));
    n.turn();
    let first = n.b.frames();
    assert_eq!(kinds(&first), [wire::ETH_ARP]);
    n.b.wait(2 * SEC - 1);
    assert_eq!(kinds(&n.b.frames()), [] as [u16; 0]);
    n.b.wait(1);
    assert_eq!(n.b.frames(), first);
    n.b.wait(60 * SEC);
    assert_eq!(kinds(&n.b.frames()), [] as [u16; 0]);
}

#[test]
fn segments_on_the_wrong_queue_reach_their_connection() {
    for spread in [Spread::Rss(2, rss(2, 0)), Spread::Mirror(2)] {
        for q in [0, 1] {
            let mut n = Node::new(spread.clone());
            n.turn();
            n.b.frames();
            let (f, key, syn) = n.dial(q);
            // From here on all goes to the other one.
            n.at(0).port_mut().respread(Rss::new(KEY.to_vec(), vec![1 - q as u16; 128]));
            n.syn_ack(&key, syn);
            let long = pattern(1400, 5);
            n.data(&key, syn, 0, b"hello");
            n.data(&key, syn, 5, &long.bytes()[..1400]);
            let got = n.read(q, f);
            assert_eq!((&got[..5], &got[5..]), (&b"hello"[..], &long.bytes()[..1400]), "{spread:?} {q}");
            let (mine, other) = (n.count(q), n.count(1 - q));
            assert_eq!((mine.strays_taken, other.strays_handed, mine.strays_lost), (3, 3, 0));
            assert_eq!((mine.rst_sent, other.rst_sent, mine.rx_bytes), (0, 0, 1405));
            assert!(n.b.segs().iter().all(|g| !g.seg.has(RST)));
            assert_eq!(n.at(q).small_memory().0, 0, "copies went home");
        }
    }
}

#[test]
fn a_segment_of_nobody_is_reset_once_by_whose_it_would_be() {
    for (spread, handed) in [(Spread::Rss(2, rss(2, 0)), 0), (Spread::Mirror(2), 1)] {
        let mut n = Node::new(spread);
        n.turn();
        n.b.frames();
        let port = n.port_of(1);
        let key = Key::new(ip(2).into(), 988, ip(1).into(), port);
        for (k, flags) in [ACK, SYN | ACK, SYN].into_iter().enumerate() {
            n.send(&segment(&key, &Fields { seq: Seq(5), ack: Seq(6), flags, win: 0 }, &[], &[]));
            assert!(n.b.one().seg.has(RST));
            let k = k as u64 + 1;
            assert_eq!((n.count(0).rst_sent, n.count(1).rst_sent), (0, k));
            assert_eq!((n.count(0).strays_handed, n.count(1).strays_handed), (handed * k, 0));
        }
    }
}

#[test]
fn what_came_to_a_mirrored_listener_is_looked_for_once_round() {
    let mut n = Node::new(Spread::Mirror(4));
    n.turn();
    n.b.frames();
    let key = Key::new(ip(2).into(), 1023, ip(1).into(), 988);
    let f = Fields { seq: Seq(99), ack: Seq(0), flags: SYN, win: 60_000 };
    n.send(&segment(&key, &f, &OptBytes::syn(1460, false, None, None), &[]));
    let sa = n.b.one().seg;
    // All that follows comes to another queue than the SYN did.
    n.at(0).port_mut().respread(Rss::new(KEY.to_vec(), vec![2; 128]));
    let f = Fields { seq: Seq(100), ack: sa.seq.plus(1), flags: ACK, win: 60_000 };
    n.send(&segment(&key, &f, &[], b"hello"));
    let Some(Event::Opened { flow, passive: true, .. }) = n.at(0).event() else { panic!("not open") };
    assert_eq!(n.read(0, flow), b"hello");
    let strays = |n: &mut Node| [0, 1, 2, 3].map(|q| (n.count(q).strays_handed, n.count(q).strays_taken));
    assert_eq!(strays(&mut n), [(0, 1), (0, 0), (1, 0), (0, 0)], "from 2 by way of 3");
    // Nobody's: whoever is asked last resets it.
    let other = Key::new(ip(2).into(), 1022, ip(1).into(), 988);
    n.b.segs();
    n.send(&segment(&other, &f, &[], b"hello"));
    assert!(n.b.one().seg.has(RST));
    assert_eq!(strays(&mut n), [(0, 1), (0, 1), (2, 0), (0, 0)]);
    assert_eq!(n.count(1).rst_sent, 1);
}

#[test]
fn what_came_to_a_listener_stays_where_it_came() {
    for (spread, after) in [(Spread::Rss(2, rss(2, 0)), 1), (Spread::Mirror(2), 0)] {
        let mut n = Node::new(spread);
        n.turn();
        n.b.frames();
        // A port whose hash leads to queue 1; the mirrored wire has queue 0 alone.
        let at = |p: u16| Key::new(ip(2).into(), p, ip(1).into(), 988);
        let us = SocketAddr::new(ip(1).into(), 988);
        let owner = |n: &mut Node, p| n.at(0).steering().owner(us, addr(2, p));
        let by_hash = n.at(0).steering().is_by_hash();
        let port = (1000..1024).find(|p| !by_hash || owner(&mut n, *p) == 1).unwrap();
        let f = Fields { seq: Seq(99), ack: Seq(0), flags: SYN, win: 60_000 };
        n.send(&segment(&at(port), &f, &OptBytes::syn(1460, false, None, None), &[]));
        let sa = n.b.one().seg;
        let f = Fields { seq: Seq(100), ack: sa.seq.plus(1), flags: ACK, win: 60_000 };
        n.send(&segment(&at(port), &f, &[], &[]));
        let opened = |e: Option<Event>| matches!(e, Some(Event::Opened { passive: true, .. }));
        assert!(opened(n.at(after).event()));
        assert_eq!([0, 1].map(|q| n.count(q).strays_handed), [0, 0]);
    }
}

#[test]
fn a_router_s_word_about_another_queue_s_connection_reaches_it() {
    for spread in [Spread::Rss(2, rss(2, 0)), Spread::Mirror(2)] {
        let by_hash = matches!(spread, Spread::Rss(..));
        let mut n = Node::new(spread);
        n.turn();
        n.b.frames();
        let (f, key, syn) = n.dial(1);
        n.syn_ack(&key, syn);
        n.b.frames();
        let page = n.at(1).slab().lend(pattern(2920, 3).slice_all(), 1).unwrap();
        n.at(1).push(f, b"", &[page]).unwrap();
        n.turn();
        let sizes = |v: Vec<Got>| v.iter().map(|g| g.data.len()).collect::<Vec<_>>();
        let sent = n.b.segs();
        let first = segment(
            &Key::new(key.remote, key.rport(), key.local, key.lport()),
            &Fields { seq: sent[0].seg.seq, ack: Seq(100), flags: ACK, win: 1 },
            &[],
            &[0; 1460],
        );
        assert_eq!(sizes(sent), [1460, 1460]);
        // ICMP is nobody's flow: it comes to queue 0.
        n.send(&icmp_error(&first, 3, 4, [0, 0, 0x05, 0x78]));
        assert_eq!(sizes(n.b.segs()), [1360, 1360, 200]);
        let (here, there) = (n.count(0), n.count(1));
        assert_eq!((here.pmtu_lowered, there.pmtu_lowered, there.rto), (0, 1, 0));
        assert_eq!((here.icmp_errors, there.icmp_errors), (1, 1));
        assert_eq!(there.strays_taken, if by_hash { 0 } else { 1 }, "the SYN-ACK came to queue 0, too");
        // About nobody's connection: told to all, and nothing comes of it. No echo of it between the stacks.
        let stranger = Key::new(ip(1).into(), 700, ip(2).into(), 988);
        let other =
            segment(&stranger, &Fields { seq: Seq(1), ack: Seq(1), flags: ACK, win: 1 }, &[], &[0; 9]);
        n.send(&icmp_error(&other, 3, 4, [0, 0, 0x05, 0x78]));
        assert_eq!((n.count(1).icmp_errors_ignored, n.count(0).siblings_heard), (1, 0));
    }
}

#[test]
fn what_nobody_takes_in_is_bounded() {
    let mut n = Node::new(Spread::Mirror(2));
    n.turn();
    let port = n.port_of(1);
    let key = Key::new(ip(2).into(), 988, ip(1).into(), port);
    let f = Fields { seq: Seq(5), ack: Seq(6), flags: ACK, win: 0 };
    let frame = segment(&key, &f, &[], &[7; 1000]);
    for _ in 0..2000 {
        n.b.inject(&frame);
        n.b.now += SEC / 1000;
        n.b.turn();
        n.b.frames();
    }
    let c = n.count(0);
    assert_eq!((c.strays_handed, c.strays_handed + c.strays_lost), (512, 2000));
    // Once they are taken in there is room again.
    n.turn();
    n.send(&frame);
    assert_eq!((n.count(0).strays_handed, n.count(1).strays_taken), (513, 513));
}
