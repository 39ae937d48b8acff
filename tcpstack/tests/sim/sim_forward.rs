//! A node between two networks: what it receives on one port goes out of another as it came in, across loss on both.
//! Nothing is copied for that, and every buffer comes home.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};

use crate::common::*;
use dataplane::fault::{Faults, Rng};
use dataplane::mem::MemConfig;
use dataplane::pkt::Port;
use hugepages::{LendOwner, PageSlice, RxFrag, RxPiece};
use tcpstack::{Close, CloseWhy, Dial, Event, FlowId, Listen, PushError, Work};

fn faults(seed: u64) -> Faults {
    let lossy = if seed.is_multiple_of(3) { 0.0 } else { 0.03 };
    Faults {
        loss: lossy,
        dup: lossy / 2.0,
        reorder: lossy,
        reorder_ns: 100_000,
        corrupt: lossy / 2.0,
        delay_ns: 20_000,
    }
}

fn mem(seed: u64) -> MemConfig {
    let mut r = Rng::new(seed);
    let csum = r.chance(0.5);
    MemConfig {
        mtu: [1500, 9000][r.below(2) as usize],
        csum,
        tso_max: if csum && r.chance(0.5) { 65_535 } else { 0 },
        max_segs: [3, 17, 64][r.below(3) as usize],
        lazy: [0, 8][r.below(2) as usize],
        ..MemConfig::default()
    }
}

/// The end that receives: takes fragments in order, and makes messages of some of them.
struct Intake {
    pieces: Vec<RxPiece>,
    bytes: u64,
    most: u64,
    /// A fragment that could not be lent yet, and a message that the other end had no room for.
    frag: Option<RxFrag>,
    full: Option<PageSlice>,
    end: bool,
    rng: Rng,
}

impl Intake {
    fn new(seed: u64) -> Intake {
        let rng = Rng::new(seed);
        Intake { pieces: Vec::new(), bytes: 0, most: 1, frag: None, full: None, end: false, rng }
    }

    /// Nothing is left to be sent on.
    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.full.is_none() && self.frag.is_none()
    }

    /// Lends what has come, and gives whole messages to `out`. False where nothing was done.
    fn turn(&mut self, s: &mut TestStack, f: FlowId, out: &SyncSender<PageSlice>) -> bool {
        let mut did = false;
        loop {
            if let Some(m) = self.full.take() {
                match out.try_send(m) {
                    Ok(()) => did = true,
                    Err(TrySendError::Full(m)) => {
                        self.full = Some(m);
                        return did;
                    }
                    Err(TrySendError::Disconnected(_)) => panic!("the other network has ended"),
                }
            }
            let next = self.frag.take().or_else(|| s.next(f));
            let Some(frag) = next else {
                if self.end && !self.pieces.is_empty() {
                    self.full = Some(PageSlice::received(self.pieces.drain(..)));
                    continue;
                }
                return did;
            };
            let n = frag.len();
            match frag.lend(LendOwner::FORWARDER) {
                Ok(lent) => self.pieces.push(RxPiece::Lent(lent)),
                // A node would copy. Here it waits: buffers come home as the other end is done with them.
                Err(frag) => {
                    self.frag = Some(frag);
                    if self.pieces.is_empty() {
                        return did;
                    }
                    self.full = Some(PageSlice::received(self.pieces.drain(..)));
                    self.bytes = 0;
                    continue;
                }
            }
            did = true;
            s.credit(f, n);
            self.bytes += u64::from(n);
            if self.bytes >= self.most {
                self.full = Some(PageSlice::received(self.pieces.drain(..)));
                (self.bytes, self.most) = (0, 1 + self.rng.below(200_000));
            }
        }
    }
}

/// The end that sends them on: a message is one lending, or two where it is cut.
struct Outlet {
    todo: VecDeque<PageSlice>,
    /// Lendings, those of them that are home, and bytes that the connection has taken.
    lent: u64,
    home: u64,
    pushed: u64,
    closed: bool,
    rng: Rng,
}

impl Outlet {
    fn new(seed: u64) -> Outlet {
        Outlet { todo: VecDeque::new(), lent: 0, home: 0, pushed: 0, closed: false, rng: Rng::new(seed) }
    }

    fn reap(&mut self, s: &TestStack) {
        s.slab().reap(|_, _| self.home += 1);
    }

    /// Takes messages and pushes them. False where nothing was done.
    fn turn(&mut self, s: &mut TestStack, f: FlowId, from: &Receiver<PageSlice>) -> bool {
        self.reap(s);
        let (mut did, mut over) = (false, false);
        while self.todo.len() < 2 {
            match from.try_recv() {
                Ok(m) => {
                    let cut = if self.rng.chance(0.3) { self.rng.below(m.len().into()) as u32 } else { 0 };
                    let parts = [m.slice(0, cut), m.slice(cut, m.len() - cut)].into_iter().flatten();
                    self.todo.extend(parts.filter(|p| !p.is_empty()));
                }
                Err(e) => {
                    over = e == TryRecvError::Disconnected;
                    break;
                }
            }
        }
        while let Some(m) = self.todo.pop_front() {
            let lent = s.slab().lend(m.clone(), self.lent).unwrap();
            self.lent += 1;
            match s.push(f, &[], &[lent]) {
                Ok(_) => {
                    self.pushed += u64::from(m.len());
                    did = true;
                }
                Err(PushError::Full { .. }) => {
                    self.todo.push_front(m);
                    break;
                }
                Err(e) => panic!("{e}"),
            }
        }
        if over && self.todo.is_empty() && !self.closed {
            self.closed = true;
            s.close(f, Close::Fin);
            did = true;
        }
        did
    }
}

fn world(seed: u64) -> World {
    let mut w = World::new(&mem(seed), faults(seed), seed, config(1), config(2));
    w.b.listen(Listen { addr: ip(2).into(), port: 988, backlog: 4 }).unwrap();
    w
}

fn dial(w: &mut World) -> FlowId {
    let now = w.now();
    w.a.dial(now, Dial { local: addr(1, 1023), remote: addr(2, 988) }).unwrap()
}

/// An lcore's turn: whether something was done, when something happens by itself, and whether its stream has ended.
struct Turned {
    busy: bool,
    next: Option<u64>,
    over: bool,
}

/// The network that it comes from: `a` sends to `b`, which is the node's.
struct Inbound {
    w: World,
    a: End,
    node: Intake,
    flow: Option<FlowId>,
    closed: bool,
    out: Option<SyncSender<PageSlice>>,
    seed: u64,
}

impl Inbound {
    fn new(seed: u64, len: usize, out: SyncSender<PageSlice>) -> Inbound {
        let mut w = world(seed);
        let mut a = End::new(pattern(len, 1), pattern(1, 2), seed, false);
        a.flow = Some(dial(&mut w));
        Inbound { w, a, node: Intake::new(seed), flow: None, closed: false, out: Some(out), seed }
    }

    fn turn(&mut self, now: u64) -> Turned {
        let w = &mut self.w;
        w.clock.set(now);
        assert!(now < 600 * SEC, "seed {}: {:?}\n{:?}", self.seed, w.a.counters(), w.b.counters());
        let mut busy = w.a.turn(now) != Work::Idle;
        busy |= self.a.serve(&mut w.a);
        busy |= w.b.turn(now) != Work::Idle;
        for e in World::events(&mut w.b) {
            match e {
                Event::Opened { flow, .. } => self.flow = Some(flow),
                Event::PeerFin(_) => self.node.end = true,
                Event::Closed { why, .. } => {
                    assert_eq!(why, CloseWhy::Fin);
                    self.closed = true;
                }
                _ => {}
            }
        }
        if let (Some(f), Some(to)) = (self.flow, &self.out) {
            busy |= self.node.turn(&mut w.b, f, to);
            if self.node.end && self.node.is_empty() {
                self.out = None;
                w.b.close(f, Close::Fin);
                busy = true;
            }
        }
        Turned { busy, next: w.next_time(), over: self.a.done() && self.closed }
    }

    /// After the other network has ended.
    fn end(mut self) {
        assert_eq!(self.a.closed, Some(CloseWhy::Fin));
        rest(&mut self.w);
        self.a.settle_lendings(&self.w.a);
        let home = self.w.b.port().home();
        assert_eq!(home.lent_out(), 0, "seed {}", self.seed);
        assert_eq!(home.counters().lent, home.counters().returned);
    }
}

/// The network that it goes to: `a` is the node's, and `b` has what the first one sent.
struct Outbound {
    w: World,
    b: End,
    node: Outlet,
    flow: FlowId,
    open: bool,
    closed: bool,
    from: Receiver<PageSlice>,
    seed: u64,
}

impl Outbound {
    fn new(seed: u64, len: usize, from: Receiver<PageSlice>) -> Outbound {
        let mut w = world(seed ^ 0x5eed);
        let b = End::new(pattern(1, 2), pattern(len, 1), seed, false);
        let flow = dial(&mut w);
        Outbound { w, b, node: Outlet::new(seed), flow, open: false, closed: false, from, seed }
    }

    fn turn(&mut self, now: u64) -> Turned {
        let w = &mut self.w;
        w.clock.set(now);
        assert!(now < 600 * SEC, "seed {}: {:?}\n{:?}", self.seed, w.a.counters(), w.b.counters());
        let mut busy = w.a.turn(now) != Work::Idle;
        for e in World::events(&mut w.a) {
            match e {
                Event::Opened { .. } => self.open = true,
                Event::Closed { why, .. } => {
                    assert_eq!(why, CloseWhy::Fin);
                    self.closed = true;
                }
                _ => {}
            }
        }
        if self.open && !self.closed {
            busy |= self.node.turn(&mut w.a, self.flow, &self.from);
            // The other end has a byte to say.
            while let Some(x) = w.a.next(self.flow) {
                w.a.credit(self.flow, x.len());
            }
        }
        busy |= w.b.turn(now) != Work::Idle;
        busy |= self.b.serve(&mut w.b);
        Turned { busy, next: w.next_time(), over: self.b.done() && self.closed }
    }

    fn end(mut self) {
        let (w, seed, len) = (&mut self.w, self.seed, self.b.expect.len());
        assert_eq!((self.b.closed, self.b.got), (Some(CloseWhy::Fin), len), "seed {seed}");
        let c = w.a.counters();
        assert_eq!(c.tx_copied_bytes, 0, "seed {seed}: {c:?}");
        assert!(c.tx_attached_bytes + c.tx_short_bytes >= len as u64, "seed {seed}: {c:?}");
        self.b.drop_held();
        rest(w);
        self.node.reap(&w.a);
        assert_eq!((self.node.home, w.a.slab().out()), (self.node.lent, 0), "seed {seed}");
    }
}

/// Lets what is on its way arrive, and has drivers let go; then nothing is left of either stack.
fn rest(w: &mut World) {
    w.a.port_mut().set_faults(Faults::default());
    w.b.port_mut().set_faults(Faults::default());
    w.run_to(w.now() + 10 * SEC);
    (0..12).for_each(|_| {
        w.a.nudge();
        w.b.nudge();
        w.settle();
    });
    for s in [&w.a, &w.b] {
        let (free, all) = s.port().rx_memory();
        assert_eq!((s.flows(), free), (0, all), "receive buffers out");
    }
}

/// Places of the two lcores' turns to each other.
#[derive(Clone, Copy, PartialEq)]
enum Turns {
    /// One after the other: a seed is the same run each time.
    InOrder,
    /// Both at once: rings and counts are used by two threads at a time.
    AtOnce,
}

/// Both networks, the second one on a thread of its own. They have one time: it goes on when both have had their turn,
/// and by a jump only where neither had anything to do. So none waits for what the other's time would bring. Returns
/// the time at the end, in ns.
fn forward(seed: u64, turns: Turns) -> u64 {
    let len = 1 + Rng::new(seed ^ 0xf0).below(6_000_000) as usize;
    let (out, from) = sync_channel(3);
    let (clock, times) = sync_channel(1);
    let (tell, told) = sync_channel(1);
    let sends = std::thread::spawn(move || {
        let mut node = Outbound::new(seed, len, from);
        times.into_iter().for_each(|now| tell.send(node.turn(now)).unwrap());
        node.end();
    });
    let mut node = Inbound::new(seed, len, out);
    let mut now = node.w.now();
    loop {
        let first = (turns == Turns::InOrder).then(|| node.turn(now));
        clock.send(now).expect("the other lcore goes on");
        let x = first.unwrap_or_else(|| node.turn(now));
        let y: Turned = told.recv().expect("the other lcore goes on");
        if x.over && y.over {
            break;
        }
        now = if x.busy || y.busy {
            now + 1000
        } else {
            [x.next, y.next].into_iter().flatten().min().expect("something will happen").max(now + 1)
        };
    }
    drop(clock);
    sends.join().unwrap();
    node.end();
    now
}

#[test]
fn what_was_received_is_sent_on_by_another_lcore_byte_for_byte() {
    let seeds = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).map_or(0..24, |s| s..s + 1);
    let ends: Vec<u64> = seeds.clone().map(|seed| forward(seed, Turns::InOrder)).collect();
    let again: Vec<u64> = seeds.take(3).map(|seed| forward(seed, Turns::InOrder)).collect();
    assert_eq!(again, ends[..again.len()], "a seed is the same run each time");
}

#[test]
fn two_lcores_that_run_at_once_lose_nothing_of_it() {
    for seed in 100..106 {
        forward(seed, Turns::AtOnce);
    }
}
