//! Whole nodes over in-memory ports in virtual time: what their tests have in common.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::clock::Clock;
use dataplane::fault::{FaultPort, Faults};
use dataplane::mem::{MemConfig, MemPort};
use dataplane::pkt::Port;
use hugepages::LendSlab;
use tcpstack::{Stack, StackConfig};
use transport::lnd::{AppId, Config};
use transport::lnet::Event;
use transport::node::lcore::LcoreStreams;
use transport::node::{App, Lcores, NodeBuilder, Ops, Shard, Work};
use transport::wire::{Nid, ProcessId};

/// Virtual time in ns.
pub(super) type Now = Arc<AtomicU64>;
pub(super) type Faulty = FaultPort<MemPort>;
pub(super) type Rt = LcoreStreams<Faulty>;
pub(super) type Log = Rc<RefCell<Vec<Event>>>;

/// Packets that are lost, doubled, late, out of order or damaged.
pub(super) fn bad_network() -> Faults {
    Faults { loss: 0.01, dup: 0.01, reorder: 0.02, corrupt: 0.002, delay_ns: 20_000, ..Faults::default() }
}

/// Does what a test puts down for it, and writes down what it hears.
#[derive(Default)]
pub(super) struct Script {
    pub(super) todo: Ops,
    pub(super) log: Log,
}

impl App for Script {
    fn turn(&mut self, _: u64, ops: &mut Ops) -> Work {
        let n = self.todo.len();
        ops.append(&mut self.todo);
        Work::of(n)
    }
    fn event(&mut self, _: u64, _: AppId, ev: Event, _: &mut Ops) {
        self.log.borrow_mut().push(ev);
    }
}

/// The beginning: not 0, so that an age ago is before it, too.
pub(super) fn beginning() -> Now {
    Arc::new(AtomicU64::new(1_000_000_000))
}

pub(super) fn nid(ip: Ipv4Addr) -> Nid {
    Nid::tcp(IpAddr::V4(ip), 0)
}

pub(super) fn target(ip: Ipv4Addr) -> ProcessId {
    ProcessId::lustre(nid(ip))
}

/// A node at `ip` that began at `epoch`.
pub(super) fn builder(ip: Ipv4Addr, epoch: u64, now: &Now) -> NodeBuilder {
    NodeBuilder::of(Config::new(nid(ip), epoch))
        .config(|c| c.tcp.backlog = 16)
        .clock(Clock::virtual_time(now.clone()))
}

/// So many lcores, the first `queues` of them with a queue of `mem`.
pub(super) fn lcores(count: u16, queues: u16, mem: &MemConfig) -> Lcores {
    Lcores { queues, ..Lcores::new(count, (mem.rx_buf * mem.rx_bufs) as u64, mem.rx_bufs) }
}

/// A stack that does the same with the same seed, and lends so many runs of pages at a time.
pub(super) fn stack<P: Port>(ip: Ipv4Addr, port: P, seed: u64, lendings: usize) -> Stack<P> {
    let cfg = StackConfig { secret: Some([seed, 1]), ..StackConfig::new(ip, 16) };
    Stack::new(cfg, port, LendSlab::new(lendings)).unwrap()
}

/// A port on a bad network.
pub(super) fn faulty(port: MemPort, faults: Faults, seed: u64, now: &Now) -> Faulty {
    let t = now.clone();
    FaultPort::new(port, faults, seed, Box::new(move || t.load(Ordering::Relaxed)))
}

/// Turns shards once and lets time pass: 1 us, or, where nothing moved, until the next deadline, at most 100 ms. Gives
/// whether something moved.
pub(super) fn turn<'a>(now: &Now, shards: impl IntoIterator<Item = &'a mut Shard<Rt, Script>>) -> bool {
    let mut shards: Vec<_> = shards.into_iter().collect();
    let work = shards.iter_mut().fold(Work::Idle, |work, s| work.and(s.turn()));
    let at = now.load(Ordering::Relaxed);
    let mut next = at + 1_000;
    if !work.is_busy() {
        let due = shards.iter_mut().flat_map(|s| {
            let held = s.streams().and_then(|r| r.stack().port().deadline());
            [s.deadline(), held]
        });
        next = due.flatten().min().unwrap_or(at + 1_000_000).clamp(next, at + 100_000_000);
    }
    now.store(next, Ordering::Relaxed);
    work.is_busy()
}

/// Whether nothing is out at a shard: no pages, no receive memory, no connection.
pub(super) fn all_home(s: &Shard<Rt, Script>) -> bool {
    let c = s.counters();
    (c.lendings_out, c.rx_lent_out, c.rx_pool_bytes_in_use, c.conns) == (0, 0, 0, 0)
}

/// Number of such events in a log.
pub(super) fn logged(log: &Log, f: impl Fn(&Event) -> bool) -> usize {
    log.borrow().iter().filter(|e| f(e)).count()
}
