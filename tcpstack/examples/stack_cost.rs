//! What the stack itself costs: two of them joined by the in-memory port on one thread, 1 MiB messages one way,
//! each answered by 64 bytes. Prints Gbit of payload per CPU-second, both ends and the port included.
//!
//! ```text
//! cargo run --release -p pollnd-tcpstack --example stack_cost [seconds [part of a case's name]]
//! ```
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::mem::{Crossing, MemConfig, MemPort, pair};
use hugepages::{LendSlab, PageRun, PageRunMut, PrivatePages};
use tcpstack::{Close, Dial, Event, FlowId, Listen, Stack, StackConfig, Work};

const MSG: usize = 1 << 20;
const REPLY: usize = 64;
const AHEAD: u64 = 4;

/// CPU time of this thread: the first number of its schedstat, in ns.
fn cpu() -> Duration {
    let s = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(s.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

struct Side {
    s: Stack<MemPort>,
    flow: Option<FlowId>,
    got: u64,
    sent: u64,
}

impl Side {
    fn new(n: u8, p: MemPort) -> Side {
        let cfg = StackConfig::new(Ipv4Addr::new(10, 0, 0, n), 24);
        let s = Stack::new(cfg, p, LendSlab::new(1024)).expect("stack");
        Side { s, flow: None, got: 0, sent: 0 }
    }

    fn turn(&mut self, now: u64) -> bool {
        let busy = self.s.turn(now) != Work::Idle;
        while let Some(e) = self.s.event() {
            match e {
                Event::Opened { flow, .. } => self.flow = Some(flow),
                Event::Readable(f) => {
                    let mut n = 0;
                    while let Some(x) = self.s.next(f) {
                        n += x.len();
                    }
                    self.got += u64::from(n);
                    self.s.credit(f, n);
                }
                Event::Progress { .. } | Event::PeerFin(_) | Event::Closed { .. } => (),
            }
        }
        self.s.slab().reap(|_, _| ());
        busy
    }
}

fn message() -> PageRun {
    PageRunMut::new(Arc::new(PrivatePages), MSG).expect("pages").freeze()
}

fn run(name: &str, mem: &MemConfig, time: Duration) {
    if !std::env::args().nth(2).is_none_or(|only| name.contains(&only)) {
        return;
    }
    let (pa, pb) = pair(mem);
    let (mut a, mut b) = (Side::new(1, pa), Side::new(2, pb));
    b.s.listen(Listen { addr: Ipv4Addr::new(10, 0, 0, 2).into(), port: 988, backlog: 4 }).expect("listen");
    let (local, remote) =
        ((Ipv4Addr::new(10, 0, 0, 1), 1023).into(), (Ipv4Addr::new(10, 0, 0, 2), 988).into());
    a.s.dial(1, Dial { local, remote }).expect("dial");
    let pages: Vec<_> = (0..8).map(|_| message()).collect();
    let start = Instant::now();
    let (mut cpu0, mut got0, mut t0) = (cpu(), 0, Instant::now());
    let mut warm = false;
    while t0.elapsed() < time {
        let now = start.elapsed().as_nanos() as u64 + 1;
        for _ in 0..16 {
            if let Some(f) = a.flow {
                while a.sent < a.got / REPLY as u64 + AHEAD {
                    let run = &pages[a.sent as usize % pages.len()];
                    let l = a.s.slab().lend(run.slice_all(), a.sent).expect("slot");
                    if a.s.push(f, &[0; 96], &[l]).is_err() {
                        break;
                    }
                    a.sent += 1;
                }
            }
            a.turn(now);
            b.turn(now);
            if let Some(f) = b.flow {
                while b.sent < b.got / (MSG as u64 + 96) && b.s.push(f, &[1; REPLY], &[]).is_ok() {
                    b.sent += 1;
                }
            }
        }
        if !warm && start.elapsed() > Duration::from_millis(200) {
            warm = true;
            (cpu0, got0, t0) = (cpu(), b.got, Instant::now());
        }
    }
    let (used, bytes) = ((cpu() - cpu0).as_secs_f64(), b.got - got0);
    let (ca, cb) = (a.s.counters(), b.s.counters());
    println!(
        "{name:<34} {:>8.1} Gbit/CPU-s  {:>6.0} ns a MiB message  {} frames, {} ACKs, {} resent, {} B copied",
        bytes as f64 * 8e-9 / used,
        used * 1e9 / (bytes as f64 / MSG as f64),
        ca.tx_segments,
        cb.tx_pure_acks,
        ca.tx_resent,
        ca.tx_copied_bytes + ca.tx_inline_bytes,
    );
    if let (Some(f), Some(g)) = (a.flow, b.flow) {
        let bytes = |s: &Stack<MemPort>, f| s.flow_memory(f).unwrap_or(0);
        println!("{:<34} {} B a connection (sender), {} B (receiver)", "", bytes(&a.s, f), bytes(&b.s, g));
        a.s.close(f, Close::Abort);
    }
}

fn main() {
    let secs = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(1.0);
    let time = Duration::from_secs_f64(secs);
    let share = MemConfig { crossing: Crossing::Share, ..MemConfig::default() };
    run("MTU 1500 with TSO, shared pages", &MemConfig { mtu: 1500, ..share.clone() }, time);
    run("MTU 9000 without TSO, shared pages", &MemConfig { mtu: 9000, tso_max: 0, ..share.clone() }, time);
    run("MTU 1500 without TSO, shared pages", &MemConfig { mtu: 1500, tso_max: 0, ..share }, time);
    run("MTU 1500 with TSO, port copies", &MemConfig { mtu: 1500, ..MemConfig::default() }, time);
}
