//! A timer costs what it is about, however much else is timed: 10,000 idle peers are looked at when their own time comes.

use std::net::SocketAddr;

use hugepages::HeapRxPool;
use transport::lnd::{AppId, Config, LnetError};
use transport::lnet::{Event, Op};
use transport::node::{Input, Machine, Output};
use transport::stream::{Action, Close, CloseWhy, ConnId, ConnInfo, Happened, Progress, ShardId};
use transport::testing::data::Queue;
use transport::testing::net::SEC;
use transport::wire::{ConnType, Nid, ProcessId, Version};

use crate::raw::{hello, start};

const MS: u64 = 1_000_000;
/// Within this a timer fires, in ns: two ticks of the wheel.
const TICK: u64 = 8_192;

struct Crowd {
    m: Machine,
    pool: HeapRxPool,
    conns: u32,
    /// When connections were closed, and how.
    closed: Vec<(u64, u32, Close)>,
    events: Vec<Event>,
    /// They do not close their ends when we send a FIN.
    stubborn: bool,
}

impl Crowd {
    fn new(cfg: Config) -> Crowd {
        let m = Machine::new(cfg);
        Crowd {
            m,
            pool: HeapRxPool::new(4096, 64),
            conns: 0,
            closed: vec![],
            events: vec![],
            stubborn: false,
        }
    }

    fn input(&mut self, now: u64, input: Input<'_>) {
        self.m.handle(now, input);
        let mut closed = vec![];
        while let Some(o) = self.m.poll() {
            match o {
                Output::Stream(Action::Close(c, how)) => closed.push((now, c, how)),
                Output::Complete(_, event) => self.events.push(event),
                _ => (),
            }
        }
        for (now, c, how) in closed {
            self.closed.push((now, c.index, how));
            if how == Close::Abort || !self.stubborn {
                self.input(now, Input::Stream(Happened::Closed(c, CloseWhy::Local)));
            }
        }
    }

    /// Somebody connects and says nothing.
    fn open(&mut self, now: u64) -> ConnId {
        let id = ConnId { shard: ShardId(0), index: self.conns, generation: 0 };
        self.conns += 1;
        let [_, b, c, d] = id.index.to_be_bytes();
        let remote = SocketAddr::new([10, b + 1, c, d].into(), 1000);
        let local = SocketAddr::new([10, 0, 0, 1].into(), 988);
        self.input(now, Input::Stream(Happened::Opened(id, ConnInfo { local, remote, dial: None })));
        id
    }

    /// A peer of its own connects and is done with its handshake.
    fn peer(&mut self, now: u64) {
        let id = self.open(now);
        let [_, b, c, d] = id.index.to_be_bytes();
        let nid: Nid = format!("10.{}.{c}.{d}@tcp", b + 1).parse().unwrap();
        let h = transport::wire::Hello { src_nid: nid, ..hello(Version::V3, ConnType::Control) };
        let mut q = Queue::default();
        q.0.push_back(self.pool.copy_of(&start(&h)).unwrap());
        self.input(now, Input::Stream(Happened::Bytes(id, &mut q)));
        // Its TCP has all that we wrote.
        self.input(now, Input::Stream(Happened::Progress(id, Progress { acked: u64::MAX, sent: u64::MAX })));
    }

    /// Gives the timer its inputs until `until`; says how many.
    fn run(&mut self, until: u64) -> u64 {
        let mut inputs = 0;
        while let Some(t) = self.m.deadline().filter(|t| *t <= until) {
            self.input(t, Input::Timer);
            inputs += 1;
            assert!(inputs < 1_000_000, "the timer spins at {t}");
        }
        inputs
    }

    fn fired(&self) -> u64 {
        self.m.counters().timers_fired
    }
}

fn config() -> Config {
    Config { max_embryonic: 1024, keepalive: 0, ..Config::new("10.0.0.1@tcp".parse().unwrap(), 5) }
}

/// Found by review: each of 1,024 handshakes that began at different times made one walk over all connections and
/// peers. Each is ended at its own time, exactly.
#[test]
fn staggered_handshakes_cost_one_look_each() {
    let mut c = Crowd::new(config());
    for _ in 0..2_000 {
        c.peer(SEC);
    }
    assert_eq!(c.m.gauges().conns_up, 2_000);
    // The deadline of a handshake that is over is found to be over when it comes.
    c.run(100 * SEC);
    let (before, at) = (c.fired(), 100 * SEC);
    let ids: Vec<u32> = (0..1_024).map(|i| c.open(at + i * MS).index).collect();
    assert_eq!(c.m.gauges().conns, 3_024);
    c.run(200 * SEC);
    assert_eq!(c.m.counters().err_hello_timeout, 1_024);
    for ((when, index, _), (i, id)) in c.closed.iter().zip(ids.iter().enumerate()) {
        let due = at + i as u64 * MS + 5 * SEC;
        assert!(index == id && (due..due + TICK).contains(when), "{index} closed at {when}, due at {due}");
    }
    assert_eq!((c.closed.len(), c.fired() - before), (1_024, 1_024), "one look each");
    assert_eq!(c.m.deadline(), None, "nothing is timed any more");
}

/// A lcore that comes late has its turns bounded: some fire at each, and none is forgotten.
#[test]
fn what_is_overdue_is_spread_over_inputs() {
    let mut c = Crowd::new(config());
    for i in 0..1_000 {
        c.open(SEC + i * 10_000);
    }
    let late = 20 * SEC;
    let (mut before, mut inputs) = (0, 0);
    while c.m.deadline().is_some_and(|t| t <= late) {
        c.input(late, Input::Timer);
        let n = c.fired() - before;
        before += n;
        inputs += 1;
        assert!(n <= 128, "{n} for one input");
    }
    assert_eq!((c.closed.len(), before), (1_000, 1_000));
    assert!(inputs >= 8, "{inputs}");
}

/// Operations that nobody answers end at their own time, each looked at once; those that have ended cost nothing.
#[test]
fn operations_cost_one_look_each() {
    let mut c = Crowd::new(Config { transaction_timeout: 50 * SEC, ..config() });
    c.peer(SEC);
    let nid: Nid = "10.1.0.0@tcp".parse().unwrap();
    for i in 0..8 {
        c.input(SEC + i * MS, Input::Cmd(AppId::FIRST, Op::Ping { tag: i, target: ProcessId::lustre(nid) }));
    }
    let before = c.fired();
    c.run(SEC + 40 * SEC);
    let early = c.events.len();
    c.run(SEC + 60 * SEC);
    let ended = |e: &&Event| matches!(e, Event::Ping { info: Err(LnetError::TimedOut), .. });
    assert_eq!((early, c.events.iter().filter(ended).count()), (0, 8), "{:?}", c.events);
    assert!(c.fired() - before <= 8 + 2, "{} looks", c.fired() - before);
}

/// As a node goes down a peer has half a second to close its end, whatever timer its connection had before; a mute one that
/// comes when all else has closed has until a second has passed, and then the same (field reports 3 and L5).
#[test]
fn who_does_not_close_as_a_node_goes_down_is_reset_in_time() {
    let mut c = Crowd { stubborn: true, ..Crowd::new(config()) };
    c.peer(SEC);
    // The time for its HELLO ends 100 ms later.
    let down = 6 * SEC - 100 * MS;
    c.run(down);
    c.input(down, Input::Cmd(AppId::FIRST, Op::Shutdown { tag: 7 }));
    c.open(down + 10 * MS);
    c.run(down + 60 * SEC);
    let closed: Vec<_> = c.closed.iter().map(|(t, i, how)| ((t - down) / (10 * MS), *i, *how)).collect();
    assert_eq!(
        closed,
        [(0, 0, Close::Fin), (50, 0, Close::Abort), (100, 1, Close::Fin), (150, 1, Close::Abort)]
    );
    assert!(matches!(c.events.last(), Some(Event::ShutDown { tag: 7 })), "{:?}", c.events);
}

/// A dial to which no TCP answers is waited for as long as somebody there might have answered, and no longer: nobody is owed anything.
#[test]
fn a_dial_that_nobody_answers_holds_no_node_up() {
    for (age, longest) in [(10 * MS, 50 * MS), (200 * MS, 0)] {
        let mut c = Crowd::new(config());
        let target = ProcessId::lustre("10.7.0.1@tcp".parse().unwrap());
        c.input(SEC, Input::Cmd(AppId::FIRST, Op::Ping { tag: 1, target }));
        c.run(SEC + age);
        c.input(SEC + age, Input::Cmd(AppId::FIRST, Op::Shutdown { tag: 7 }));
        let down = |c: &Crowd| matches!(c.events.last(), Some(Event::ShutDown { tag: 7 }));
        assert_eq!(down(&c), longest == 0, "{:?}", c.events);
        c.run(SEC + age + longest);
        assert!(down(&c), "{:?}", c.events);
        let failed = |e: &Event| matches!(e, Event::Ping { tag: 1, info: Err(LnetError::ShuttingDown), .. });
        assert!(c.events.iter().any(failed), "{:?}", c.events);
    }
}
