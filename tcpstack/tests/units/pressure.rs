//! Memory, rings, queues and links that give out: the stack says so in its counters, waits without spinning, and
//! goes on byte for byte when there is room again.

use crate::common::bench::{Bench, PEER_MAC, dial, segment};
use crate::common::{End, MS, SEC, TestStack, World, addr, config, ip, pattern};
use dataplane::fault::Faults;
use dataplane::mem::MemConfig;
use dataplane::pkt::Port;
use tcpstack::arp::Packet as Arp;
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{self, ACK, Fields, SYN};
use tcpstack::{Close, CloseWhy, Dial, Event, FlowId, Listen, PushError, StackConfig, Work};

/// A transfer in both directions between two stacks.
struct Transfer {
    w: World,
    a: End,
    b: End,
}

impl Transfer {
    fn new(mem: &MemConfig, cfg: impl Fn(u8) -> StackConfig, len: usize) -> Transfer {
        let mut w = World::new(mem, Faults::default(), 1, cfg(1), cfg(2));
        let (x, y) = (pattern(len, 1), pattern(len / 2, 2));
        let (mut a, mut b) = (End::new(x.clone(), y.clone(), 5, false), End::new(y, x, 6, false));
        let (f, g) = w.connect();
        (a.flow, b.flow) = (Some(f), Some(g));
        Transfer { w, a, b }
    }

    /// Runs until `until` (ns), or `done`.
    fn run(&mut self, until: u64, mut done: impl FnMut(&mut Transfer) -> bool) {
        for _ in 0..2_000_000 {
            if done(self) || self.w.now() >= until {
                return;
            }
            let now = self.w.now();
            let mut busy = self.w.a.turn(now) != Work::Idle;
            busy |= self.a.serve(&mut self.w.a);
            busy |= self.w.b.turn(now) != Work::Idle;
            busy |= self.b.serve(&mut self.w.b);
            let next = if busy { now + 1000 } else { self.w.next_time().unwrap_or(until).min(until) };
            self.w.clock.set(next.max(now + 1));
        }
        panic!("spins: {} {}", self.a.got, self.b.got);
    }

    fn progress(&self) -> (usize, usize) {
        (self.a.got, self.b.got)
    }

    fn finish(mut self) -> World {
        let end = self.w.now() + 300 * SEC;
        self.run(end, |t| t.a.done() && t.b.done());
        assert_eq!(
            (self.a.closed, self.b.closed),
            (Some(CloseWhy::Fin), Some(CloseWhy::Fin)),
            "{:?}",
            self.progress()
        );
        assert_eq!(self.progress(), (self.b.out.len(), self.a.out.len()));
        let end = self.w.now() + 10 * SEC;
        self.w.run_to(end);
        for _ in 0..12 {
            self.w.a.nudge();
            self.w.b.nudge();
            self.w.settle();
        }
        self.a.drop_held();
        self.b.drop_held();
        self.a.settle_lendings(&self.w.a);
        self.b.settle_lendings(&self.w.b);
        let (a, b) = (self.w.a.counters(), self.w.b.counters());
        assert_eq!((a.desync, b.desync, a.smoltcp_resent, b.smoltcp_resent), (0, 0, 0, 0));
        self.w
    }
}

/// Turns that a stack needs at one time until it has nothing to do.
fn turns(s: &mut TestStack, now: u64) -> u32 {
    (0..1000).find(|_| s.turn(now) == Work::Idle).expect("it spins")
}

fn plain(n: u8) -> StackConfig {
    StackConfig { backlog: 300_000, ..config(n) }
}

#[test]
fn without_transmit_buffers_nothing_spins_and_nothing_is_lost() {
    let mem = MemConfig { tx_bufs: 16, ..MemConfig::default() };
    let mut t = Transfer::new(&mem, plain, 8 << 20);
    t.run(u64::MAX, |t| t.b.got > 1 << 20);
    // Somebody takes every buffer of A's.
    let hoard: Vec<_> = std::iter::from_fn(|| t.w.a.port_mut().inner().tx_alloc()).collect();
    let now = t.w.now();
    t.run(now + 10 * MS, |_| false);
    let (was, c) = (t.progress(), t.w.a.counters());
    t.run(now + 3 * SEC, |_| false);
    let d = t.w.a.counters();
    assert_eq!((t.progress(), d.tx_segments), (was, c.tx_segments), "all stands still");
    assert!(d.tx_no_buffer > c.tx_no_buffer && d.port_stalls > c.port_stalls, "and is told");
    let now = t.w.now();
    assert!(turns(&mut t.w.a, now) <= 1);
    let due = t.w.a.deadline().unwrap();
    assert!(due > now && due <= now + MS, "tried again soon, not at once: in {} ns", due - now);
    drop(hoard);
    t.run(now + 100 * MS, |t| t.progress() != was);
    assert_ne!(t.progress(), was);
    t.finish();
}

#[test]
fn a_full_ring_holds_back_and_nothing_spins() {
    let mem = MemConfig { depth: 4, ..MemConfig::default() };
    let mut t = Transfer::new(&mem, |n| StackConfig { tx_depth: 8, ..plain(n) }, 4 << 20);
    t.run(u64::MAX, |t| t.b.got > 1 << 20);
    // B does not look at its port for a while.
    let (was, now) = (t.b.got, t.w.now());
    for i in 0..100 {
        t.a.serve(&mut t.w.a);
        assert!(turns(&mut t.w.a, now + i * 1000) < 20);
    }
    assert!(t.w.a.tx_waiting() <= 8 + 1, "{}", t.w.a.tx_waiting());
    assert!(t.w.a.counters().tx_deep > 0 && t.w.a.counters().port_stalls > 0);
    assert!(t.w.a.deadline().unwrap() > now + 99_000, "tried again later, not at once");
    assert_eq!(t.b.got, was);
    t.w.clock.set(now + 100_000);
    t.finish();
}

/// A port whose link is down where nobody sees it takes nothing: what waits for it is dropped, with the pages of connections that
/// are gone, and what is still wanted is sent again.
#[test]
fn what_a_port_does_not_take_is_dropped_and_sent_again() {
    let mem = MemConfig { depth: 4, ..MemConfig::default() };
    let mut t = Transfer::new(&mem, |n| StackConfig { tx_depth: 8, ..plain(n) }, 4 << 20);
    t.run(u64::MAX, |t| t.b.got > 1 << 20);
    let now = t.w.now();
    for i in 0..100 {
        t.a.serve(&mut t.w.a);
        turns(&mut t.w.a, now + i * 1000);
    }
    let waits = t.w.a.tx_waiting() as u64;
    assert!(waits > 0);
    t.w.a.drop_waiting();
    assert_eq!((t.w.a.tx_waiting(), t.w.a.counters().tx_unsent), (0, waits));
    t.w.clock.set(now + 100_000);
    t.finish();
    // Of a connection that has ended nothing but what waits holds pages.
    let mut b =
        Bench::with(config(1), &MemConfig { depth: 1, csum: false, tso_max: 0, ..MemConfig::default() });
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    let peer = b.accept(1, 100);
    for _ in 0..8 {
        b.push(peer.flow, 1000);
    }
    b.turn();
    b.s.abort_all();
    b.s.slab().reap(|_, _| ());
    assert!(b.s.tx_waiting() > 0 && b.s.slab().out() > 0 && b.s.slab().nic_held() == b.s.slab().out());
    b.s.drop_waiting();
    b.s.slab().reap(|_, _| ());
    assert_eq!((b.s.tx_waiting(), b.s.slab().out()), (0, 0));
}

#[test]
fn an_empty_receive_pool_shuts_the_window_until_buffers_come_home() {
    let mem = MemConfig { rx_bufs: 64, ..MemConfig::default() };
    let mut t = Transfer::new(&mem, plain, 8 << 20);
    t.run(u64::MAX, |t| t.b.got > 1 << 20);
    // The application reads, credits, and keeps every buffer.
    let mut kept = vec![];
    let g = t.b.flow.unwrap();
    let start = t.w.now();
    while t.w.now() < start + 3 * SEC {
        let now = t.w.now();
        t.w.a.turn(now);
        t.a.serve(&mut t.w.a);
        t.w.b.turn(now);
        while let Some(f) = t.w.b.next(g) {
            t.w.b.credit(g, f.len());
            kept.push(f);
        }
        let next = t.w.next_time().unwrap_or(now + MS);
        t.w.clock.set(next.clamp(now + 1000, now + MS));
    }
    let c = t.w.b.counters();
    let held: usize = kept.iter().map(|f| f.len() as usize).sum();
    assert!(c.window_starved > 0 && held > 100_000, "{c:?}");
    assert!(t.w.b.port().rx_memory().0 < 20 * 9216, "{:?}", t.w.b.port().rx_memory());
    let now = t.w.now();
    assert!(turns(&mut t.w.b, now) <= 1, "a shut window is no work");
    // They come home, and the peer is told without being asked.
    for f in kept.drain(..) {
        assert_eq!(f.bytes(), &t.b.expect.bytes()[t.b.got..t.b.got + f.len() as usize]);
        t.b.got += f.len() as usize;
    }
    let was = t.b.got;
    t.run(now + 20 * MS, |t| t.b.got > was);
    assert!(t.b.got > was, "within less than a probe's time");
    t.finish();
}

#[test]
fn lent_buffers_up_to_the_limit_shut_the_window_and_giving_them_back_opens_it() {
    let mem = MemConfig { rx_bufs: 64, ..MemConfig::default() };
    let mut t = Transfer::new(&mem, plain, 8 << 20);
    t.run(u64::MAX, |t| t.b.got > 1 << 20);
    let g = t.b.flow.unwrap();
    let owner = hugepages::LendOwner(1);
    let (mut lent, mut refused) = (vec![], 0);
    let start = t.w.now();
    while t.w.now() < start + 200 * MS {
        let now = t.w.now();
        t.w.a.turn(now);
        t.a.serve(&mut t.w.a);
        t.w.b.turn(now);
        while let Some(f) = t.w.b.next(g) {
            let n = f.len();
            assert_eq!(f.bytes(), &t.b.expect.bytes()[t.b.got..t.b.got + n as usize]);
            t.b.got += n as usize;
            match f.lend(owner) {
                Ok(l) => lent.push(l),
                Err(_) => refused += 1, // copied by whoever wants it; the buffer is free
            }
            t.w.b.credit(g, n);
        }
        let next = t.w.next_time().unwrap_or(now + MS);
        t.w.clock.set(next.clamp(now + 1000, now + MS));
        if t.b.got == t.b.expect.len() {
            break;
        }
    }
    assert!(!lent.is_empty() && refused > 0);
    assert!(t.w.b.lent_out() > 0 && t.b.got == t.b.expect.len(), "the other buffers carry on: {}", t.b.got);
    drop(lent);
    let w = t.finish();
    assert_eq!(w.b.lent_out(), 0);
}

#[test]
fn a_full_shadow_queue_refuses_and_says_when_there_is_room() {
    let mut b = Bench::with(
        StackConfig { backlog: 40_000, ..config(1) },
        &MemConfig { csum: false, tso_max: 0, ..MemConfig::default() },
    );
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    let p = b.accept(1, 100);
    b.push(p.flow, 40_000);
    assert_eq!(b.s.push(p.flow, b"x", &[]), Err(PushError::Full { backlog: 40_000, limit: 40_000 }));
    assert_eq!(b.s.counters().push_refused, 1);
    b.events();
    b.put(&p, ACK, p.seq, p.ack.plus(1), 1000, b"");
    assert!(matches!(b.events()[..], [Event::Progress { acked: 1, .. }]));
    assert_eq!(b.s.push(p.flow, b"x", &[]), Ok(40_001));
}

#[test]
fn a_link_that_goes_and_comes_heals_a_transfer_soon_after() {
    for outage in [5 * MS, 300 * MS, 20 * SEC, 90 * SEC] {
        let mut t = Transfer::new(&MemConfig::default(), plain, 8 << 20);
        t.run(u64::MAX, |t| t.b.got > 1 << 20);
        t.w.a.port_mut().inner().set_link(false);
        let end = t.w.now() + outage;
        t.run(end, |_| false);
        let was = t.progress();
        let now = t.w.now();
        assert!(turns(&mut t.w.a, now) <= 2);
        assert_ne!(t.w.a.deadline(), Some(now), "it does not spin while the link is down");
        t.w.a.port_mut().inner().set_link(true);
        t.run(end + 50 * MS, |t| t.progress() != was);
        assert_ne!(t.progress(), was, "after {outage} ns of silence");
        let w = t.finish();
        assert_eq!((w.a.counters().link_changes, w.b.counters().link_changes), (2, 2));
    }
}

#[test]
fn a_link_that_is_down_while_dialling_and_while_closing() {
    // SYN.
    let mut w = World::plain(&MemConfig::default());
    w.b.listen(Listen { addr: ip(2).into(), port: 988, backlog: 16 }).unwrap();
    // Both know each other's address, so that the SYN itself is what is lost.
    let now = w.now();
    let f = w.a.dial(now, Dial { local: addr(1, 1022), remote: addr(2, 988) }).unwrap();
    w.settle();
    w.a.close(f, Close::Abort);
    w.settle();
    drop((World::events(&mut w.a), World::events(&mut w.b)));
    w.a.port_mut().inner().set_link(false);
    let f = w.a.dial(now, Dial { local: addr(1, 1023), remote: addr(2, 988) }).unwrap();
    w.run_to(now + 20 * SEC);
    w.a.port_mut().inner().set_link(true);
    w.run_to(now + 20 * SEC + 50 * MS);
    assert!(World::events(&mut w.a).iter().any(|e| matches!(e, Event::Opened { flow, .. } if *flow == f)));
    let g = World::events(&mut w.b).into_iter().find_map(|e| match e {
        Event::Opened { flow, .. } => Some(flow),
        _ => None,
    });
    // FIN, both ways.
    w.a.push(f, b"last", &[]).unwrap();
    w.a.port_mut().inner().set_link(false);
    w.a.close(f, Close::Fin);
    w.b.close(g.unwrap(), Close::Fin);
    let now = w.now();
    w.run_to(now + 30 * SEC);
    w.a.port_mut().inner().set_link(true);
    w.run_to(now + 30 * SEC + 100 * MS);
    let mut got = vec![];
    while let Some(x) = w.b.next(g.unwrap()) {
        got.extend_from_slice(x.bytes());
    }
    assert_eq!(got, b"last");
    for s in [&mut w.a, &mut w.b] {
        let closed =
            World::events(s).into_iter().filter(|e| matches!(e, Event::Closed { why: CloseWhy::Fin, .. }));
        assert_eq!(closed.count(), 1);
    }
}

const MOVED: [u8; 6] = [2, 0, 0, 0, 0, 77];

/// Where the TCP segments on the wire go.
fn dsts(b: &mut Bench) -> Vec<[u8; 6]> {
    let eths = b.frames().into_iter().filter_map(|f| wire::eth(&f));
    eths.filter(|e| e.kind == wire::ETH_IPV4).map(|e| e.dst).collect()
}

#[test]
fn a_neighbour_that_announces_its_move_is_followed_at_once() {
    let mut b = Bench::new();
    let (f, syn) = dial(&mut b);
    let key = Key::new(ip(2).into(), 988, ip(1).into(), 1023);
    let sa = Fields { seq: Seq(9), ack: syn.seq.plus(1), flags: SYN | ACK, win: 9000 };
    b.send(&segment(&key, &sa, &[2, 4, 5, 0xb4], &[]));
    b.frames();
    b.wait(5 * SEC); // a change so soon after the last one would not be believed
    b.push(f, 4000);
    assert!(dsts(&mut b).iter().all(|d| *d == PEER_MAC));
    let mut frame = [0; 46];
    let p = Arp { op: 1, sha: MOVED, spa: ip(2).into(), tha: [0; 6], tpa: ip(2).into() };
    let n = p.frame(wire::BROADCAST, None, &mut frame);
    b.send(&frame[..n]);
    b.push(f, 2000);
    let sent = dsts(&mut b);
    assert!(!sent.is_empty() && sent.iter().all(|d| *d == MOVED), "{sent:?}");
    // What went to the old place is sent again to the new one.
    b.wait(SEC);
    let again = dsts(&mut b);
    assert!(!again.is_empty() && again.iter().all(|d| *d == MOVED), "{again:?}");
}

#[test]
fn a_neighbour_that_moved_without_a_word_is_asked_for_and_found() {
    let mut b = Bench::new();
    let (f, syn) = dial(&mut b);
    let key = Key::new(ip(2).into(), 988, ip(1).into(), 1023);
    let sa = Fields { seq: Seq(9), ack: syn.seq.plus(1), flags: SYN | ACK, win: 9000 };
    b.send(&segment(&key, &sa, &[2, 4, 5, 0xb4], &[]));
    b.frames();
    b.push(f, 4000);
    let mut answered = false;
    for _ in 0..400 {
        b.wait(25 * MS);
        for x in b.frames() {
            let e = wire::eth(&x).unwrap();
            if e.kind != wire::ETH_ARP {
                assert!(!answered || e.dst == MOVED, "to the old place after the answer");
                continue;
            }
            // Nobody is at the old address: what is asked there directly is not heard.
            if e.dst == wire::BROADCAST && !answered {
                answered = true;
                let mut frame = [0; 46];
                let p =
                    Arp { op: 2, sha: MOVED, spa: ip(2).into(), tha: [2, 0, 0, 0, 0, 1], tpa: ip(1).into() };
                let n = p.frame([2, 0, 0, 0, 0, 1], None, &mut frame);
                b.inject(&frame[..n]);
            }
        }
    }
    assert!(answered, "it was never asked for");
    let f1 = Fields { seq: Seq(10), ack: syn.seq.plus(4001), flags: ACK, win: 9000 };
    b.send(&segment(&key, &f1, &[], &[]));
    assert_eq!((b.s.flow_counters(f).unwrap().acked_bytes, b.closed()), (4000, None));
}

const FORGER: [u8; 6] = [6; 6];

/// An answer of a station at `mac` that it has the peer's address.
fn tell(b: &mut Bench, mac: [u8; 6]) {
    let mut frame = [0; 46];
    let p = Arp { op: 2, sha: mac, spa: ip(2).into(), tha: [2, 0, 0, 0, 0, 1], tpa: ip(1).into() };
    let n = p.frame([2, 0, 0, 0, 0, 1], None, &mut frame);
    b.inject(&frame[..n]);
}

/// A connection that the peer's lies are about, and its number to acknowledge 4000 bytes.
fn opened(b: &mut Bench) -> (FlowId, Key, Seq) {
    let (f, syn) = dial(b);
    let key = Key::new(ip(2).into(), 988, ip(1).into(), 1023);
    let sa = Fields { seq: Seq(9), ack: syn.seq.plus(1), flags: SYN | ACK, win: 9000 };
    b.send(&segment(&key, &sa, &[2, 4, 5, 0xb4], &[]));
    b.frames();
    (f, key, syn.seq.plus(4001))
}

/// A forger that answered the one question of a silence had the connection's segments until it ended: 50 s later.
#[test]
fn a_forged_answer_about_a_silent_neighbour_is_doubted_at_the_next_time_out() {
    let mut b = Bench::new();
    let (f, key, end) = opened(&mut b);
    b.push(f, 4000);
    let (mut lies, mut back) = (0, None);
    for t in 0..400 {
        b.wait(25 * MS);
        for x in b.frames() {
            let e = wire::eth(&x).unwrap();
            match (e.kind, e.dst) {
                // The forger is the first to answer three times, and what goes to it is lost.
                (wire::ETH_ARP, _) if lies < 3 => {
                    tell(&mut b, FORGER);
                    lies += 1;
                }
                (wire::ETH_ARP, wire::BROADCAST) => tell(&mut b, PEER_MAC),
                (wire::ETH_IPV4, PEER_MAC) if lies > 0 => back = back.or(Some(t)),
                _ => (),
            }
        }
    }
    assert!(lies == 3 && back.is_some(), "{lies} lies; back after {back:?}");
    b.send(&segment(&key, &Fields { seq: Seq(10), ack: end, flags: ACK, win: 9000 }, &[], &[]));
    assert_eq!((b.s.flow_counters(f).unwrap().acked_bytes, b.closed()), (4000, None));
}

/// Three questions that nobody answered were the last ones for an open connection.
#[test]
fn a_neighbour_that_answers_nobody_is_asked_for_at_each_time_out() {
    let mut b = Bench::new();
    let (f, ..) = opened(&mut b);
    b.push(f, 4000);
    let mut asked = 0;
    for _ in 0..80 {
        b.wait(250 * MS);
        asked += b.frames().iter().filter(|x| wire::eth(x).unwrap().kind == wire::ETH_ARP).count();
    }
    assert!((6..=20).contains(&asked), "{asked} questions in 20 s");
    assert_eq!(b.closed(), None);
}

/// An idle connection whose peer a forger has moved was given up after its keep-alive probes.
#[test]
fn keep_alive_probes_that_a_forger_gets_doubt_the_neighbour() {
    let mut b = Bench::new();
    let (_, key, end) = opened(&mut b);
    let answer = Fields { seq: Seq(10), ack: Seq(end.0.wrapping_sub(4000)), flags: ACK, win: 9000 };
    b.wait(5 * SEC);
    tell(&mut b, FORGER);
    let mut heard = 0;
    for _ in 0..80 {
        b.wait(SEC);
        for x in b.frames() {
            let e = wire::eth(&x).unwrap();
            match (e.kind, e.dst) {
                (wire::ETH_ARP, wire::BROADCAST) => tell(&mut b, PEER_MAC),
                (wire::ETH_IPV4, PEER_MAC) => {
                    heard += 1;
                    b.send(&segment(&key, &answer, &[], &[]));
                }
                _ => (),
            }
        }
    }
    assert!(heard > 0 && b.closed().is_none(), "{heard} probes heard");
}

#[test]
fn every_connection_can_be_ended_at_once_even_on_a_slow_port() {
    let mem = MemConfig { csum: false, tso_max: 0, ..MemConfig::default() };
    let mut b = Bench::with(StackConfig { tx_depth: 8, ..config(1) }, &mem);
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    let peers: Vec<_> = (1..=300).map(|port| b.accept(port, 100)).collect();
    b.push(peers[7].flow, 1000);
    b.segs();
    b.s.abort_all();
    let resets = b.segs().iter().filter(|g| g.seg.has(wire::RST)).count();
    b.s.slab().reap(|_, _| ());
    assert_eq!((resets, b.s.flows(), b.s.slab().out()), (300, 0, 0));
    // A port that takes nothing does not keep it.
    let mut b = Bench::with(config(1), &MemConfig { depth: 1, ..mem });
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    for port in 1..=100 {
        b.accept(port, 100);
    }
    b.s.abort_all();
    assert_eq!((b.segs().len(), b.s.flows()), (1, 0));
}

#[test]
fn a_fin_that_finds_no_buffer_goes_out_later() {
    let mut t = Transfer::new(&MemConfig { tx_bufs: 8, ..MemConfig::default() }, plain, 1);
    let hoard: Vec<_> = std::iter::from_fn(|| t.w.a.port_mut().inner().tx_alloc()).collect();
    let now = t.w.now();
    t.run(now + 2 * SEC, |_| false);
    assert!(!t.b.peer_fin && t.w.a.counters().port_stalls > 0);
    drop(hoard);
    t.finish();
}
