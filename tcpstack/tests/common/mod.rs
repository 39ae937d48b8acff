//! Two stacks joined by an in-memory link with faults, in virtual time.
#![allow(dead_code, unreachable_pub)]

pub mod bench;

use std::cell::Cell;
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use dataplane::fault::{FaultPort, Faults, Rng};
use dataplane::mem::{MemConfig, MemPort, pair};
use dataplane::pkt::Port;
use hugepages::{LendSlab, PageRun, PageRunMut, PrivatePages};
use tcpstack::{Close, CloseWhy, Dial, Event, FlowId, Listen, PushError, Stack, StackConfig, Work};

pub type TestPort = FaultPort<MemPort>;
pub type TestStack = Stack<TestPort>;

pub const SEC: u64 = 1_000_000_000;
pub const MS: u64 = 1_000_000;

pub fn ip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, n)
}

pub fn addr(n: u8, port: u16) -> SocketAddr {
    (ip(n), port).into()
}

/// Bytes that tell their place and direction.
pub fn pattern(len: usize, salt: u64) -> PageRun {
    let mut r = PageRunMut::new(Arc::new(PrivatePages), len.max(1)).unwrap();
    for (i, b) in r.bytes_mut().iter_mut().enumerate() {
        *b = ((i as u64 ^ salt << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
    }
    r.freeze()
}

pub fn config(n: u8) -> StackConfig {
    StackConfig { secret: Some([u64::from(n) * 77, 0xfeed]), ..StackConfig::new(ip(n), 24) }
}

pub struct World {
    pub clock: Rc<Cell<u64>>,
    pub a: TestStack,
    pub b: TestStack,
}

impl World {
    pub fn new(mem: &MemConfig, faults: Faults, seed: u64, ca: StackConfig, cb: StackConfig) -> World {
        let (pa, pb) = pair(mem);
        let clock = Rc::new(Cell::new(SEC));
        let fault = |p, s| {
            let c = clock.clone();
            FaultPort::new(p, faults, s, Box::new(move || c.get()))
        };
        let a = Stack::new(ca, fault(pa, seed * 2 + 1), LendSlab::new(4096)).unwrap();
        let b = Stack::new(cb, fault(pb, seed * 2 + 2), LendSlab::new(4096)).unwrap();
        World { clock, a, b }
    }

    pub fn plain(mem: &MemConfig) -> World {
        World::new(mem, Faults::default(), 1, config(1), config(2))
    }

    pub fn now(&self) -> u64 {
        self.clock.get()
    }

    /// The next time at which something happens by itself, after now.
    pub fn next_time(&self) -> Option<u64> {
        let due = [self.a.deadline(), self.b.deadline(), self.a.port().deadline(), self.b.port().deadline()];
        due.into_iter().flatten().min()
    }

    /// Turns both stacks until neither has anything to do at this time.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            let now = self.now();
            let x = self.a.turn(now);
            let y = self.b.turn(now);
            if x == Work::Idle && y == Work::Idle {
                return;
            }
        }
        panic!("the stacks do not come to rest at {} ns", self.now());
    }

    /// Runs on, by jumps, to `until` (ns).
    pub fn run_to(&mut self, until: u64) {
        for _ in 0..1_000_000 {
            self.settle();
            match self.next_time() {
                Some(t) if t <= until => self.clock.set(t.max(self.now() + 1)),
                _ => {
                    self.clock.set(until);
                    return self.settle();
                }
            }
        }
        panic!("no end");
    }

    pub fn events(s: &mut TestStack) -> Vec<Event> {
        std::iter::from_fn(|| s.event()).collect()
    }

    /// B listens on 988, A dials from 1023; both ends are returned open.
    pub fn connect(&mut self) -> (FlowId, FlowId) {
        self.b.listen(Listen { addr: ip(2).into(), port: 988, backlog: 16 }).unwrap();
        let now = self.now();
        let f = self.a.dial(now, Dial { local: addr(1, 1023), remote: addr(2, 988) }).unwrap();
        self.settle();
        let opened = |e: Vec<Event>| {
            e.into_iter()
                .find_map(|e| match e {
                    Event::Opened { flow, .. } => Some(flow),
                    _ => None,
                })
                .expect("open")
        };
        let g = opened(World::events(&mut self.b));
        assert_eq!(opened(World::events(&mut self.a)), f);
        (f, g)
    }
}

/// One end of a transfer: sends a pattern, checks the other's.
pub struct End {
    pub flow: Option<FlowId>,
    pub out: PageRun,
    pub pushed: usize,
    pub expect: PageRun,
    pub got: usize,
    pub closed: Option<CloseWhy>,
    pub peer_fin: bool,
    pub acked: u64,
    /// What has been sent at least once, as far as events told.
    pub sent: u64,
    fin: bool,
    rng: Rng,
    tokens: HashSet<u64>,
    next_token: u64,
    /// Bytes read and not credited; a slow reader credits them late.
    owed: u32,
    pub slow: bool,
    held: Vec<hugepages::RxFrag>,
}

impl End {
    pub fn new(out: PageRun, expect: PageRun, seed: u64, slow: bool) -> End {
        End {
            flow: None,
            out,
            pushed: 0,
            expect,
            got: 0,
            closed: None,
            peer_fin: false,
            acked: 0,
            sent: 0,
            fin: false,
            rng: Rng::new(seed),
            tokens: HashSet::new(),
            next_token: 0,
            owed: 0,
            slow,
            held: vec![],
        }
    }

    /// Whether something was done.
    pub fn serve<P: Port>(&mut self, s: &mut Stack<P>) -> bool {
        let mut did = false;
        while let Some(e) = s.event() {
            did = true;
            match e {
                Event::Opened { flow, .. } => {
                    assert!(self.flow.is_none_or(|f| f == flow));
                    self.flow = Some(flow);
                }
                Event::Readable(_) | Event::Ended(_) => (),
                Event::Progress { acked, sent, .. } => {
                    assert!(acked <= sent && sent <= self.pushed as u64 && acked >= self.acked);
                    (self.acked, self.sent) = (acked, sent);
                }
                Event::PeerFin(_) => self.peer_fin = true,
                Event::Closed { why, .. } => {
                    assert!(self.closed.replace(why).is_none());
                    self.flow = None;
                }
            }
        }
        s.slab().reap(|t, _| assert!(self.tokens.remove(&t), "released twice"));
        let Some(f) = self.flow else { return did };
        did |= self.write(s, f);
        if !self.slow {
            did |= self.read(s, f, u32::MAX);
        }
        did
    }

    fn write<P: Port>(&mut self, s: &mut Stack<P>, f: FlowId) -> bool {
        let mut did = false;
        while self.pushed < self.out.len() {
            let left = self.out.len() - self.pushed;
            let h = (self.rng.below(193) as usize).min(left);
            let n = if self.rng.chance(0.5) {
                self.rng.below(60_000) as usize
            } else {
                self.rng.below(300) as usize
            };
            let n = n.min(left - h);
            let mut pay = vec![];
            let at = (self.pushed + h) as u32;
            let cut = self.rng.below(n as u64 + 1) as u32;
            for (o, l) in [(0, cut), (cut, n as u32 - cut)] {
                let lent = s.slab().lend(self.out.slice(at + o, l).unwrap(), self.next_token).unwrap();
                self.tokens.insert(self.next_token);
                self.next_token += 1;
                pay.push(lent);
            }
            match s.push(f, &self.out.bytes()[self.pushed..self.pushed + h], &pay) {
                Ok(pos) => {
                    self.pushed += h + n;
                    assert_eq!(pos, self.pushed as u64);
                    did = true;
                }
                Err(PushError::Full { .. }) => return did,
                Err(PushError::NotOpen) => return did,
                Err(e) => panic!("{e}"),
            }
        }
        if !self.fin {
            self.fin = true;
            s.close(f, Close::Fin);
            did = true;
        }
        did
    }

    /// Reads up to `max` bytes, and credits what a lazy reader would by then.
    pub fn read<P: Port>(&mut self, s: &mut Stack<P>, f: FlowId, max: u32) -> bool {
        let mut n = 0;
        while n < max {
            let Some(x) = s.next(f) else { break };
            let b = x.bytes();
            assert!(self.got + b.len() <= self.expect.len(), "more than was sent");
            assert_eq!(b, &self.expect.bytes()[self.got..self.got + b.len()], "at {}", self.got);
            self.got += b.len();
            n += x.len();
            self.owed += x.len();
            if self.rng.chance(0.3) {
                self.held.push(x);
            }
            if self.held.len() > 20 {
                self.held.clear();
            }
        }
        let give = if self.rng.chance(0.3) { self.owed / 2 } else { self.owed };
        s.credit(f, give);
        self.owed -= give;
        n > 0
    }

    pub fn done(&self) -> bool {
        self.closed.is_some()
    }

    /// Lets go of what the reader still holds.
    pub fn drop_held(&mut self) {
        self.held.clear();
    }

    /// Nothing lent is left out.
    pub fn settle_lendings<P: Port>(&mut self, s: &Stack<P>) {
        s.slab().reap(|t, _| assert!(self.tokens.remove(&t)));
        assert!(self.tokens.is_empty(), "{} lendings out", self.tokens.len());
    }
}
