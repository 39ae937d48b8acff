//! Messages that a warm router passes on allocate nothing, whatever their length, where both neighbours' homes are one lcore and
//! where they are two; and none of their payload is copied.
//!
//! When this fails, `POLLND_DHAT=<file> cargo test -p pollnd-bench --test alloc_router` leaves a heap profile with the places.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::clock::Clock;
use dataplane::mem::{MemConfig, MemPort, pair};
use hugepages::{LendSlab, PageRunMut, PrivatePages};
use tcpstack::{Stack, StackConfig};
use transport::lnd::config::SEC;
use transport::lnd::route::Route;
use transport::lnd::{AppId, Config, Payload, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op, RoutingState};
use transport::node::lcore::LcoreStreams;
use transport::node::{App, Lcores, NodeBuilder, Ops, Ports, Shard, Work};
use transport::stream::{Bucket, Pages, ShardId};
use transport::wire::{Nid, ProcessId};

#[global_allocator]
static HEAP: dhat::Alloc = dhat::Alloc;

const PORTAL: u32 = 61;

/// Puts to another node, so many messages under way, or takes what comes and drops it.
struct End {
    other: ProcessId,
    pages: Option<Pages>,
    flight: u64,
    begun: bool,
    came: Arc<AtomicU64>,
}

impl End {
    fn put(&self, pages: &Pages) -> (AppId, Op) {
        let put = Op::Put {
            tag: 1,
            target: self.other,
            from: None,
            portal: PORTAL,
            match_bits: 1,
            offset: 0,
            hdr_data: 0,
            payload: Payload::Pages(pages.clone()),
            ack: true,
        };
        (AppId::FIRST, put)
    }
}

impl App for End {
    fn turn(&mut self, _: u64, ops: &mut Ops) -> Work {
        if std::mem::replace(&mut self.begun, true) {
            return Work::Idle;
        }
        match &self.pages {
            Some(pages) => ops.extend((0..self.flight).map(|_| self.put(pages))),
            None => {
                let md = MdSpec::new(MdMem::Sink(Sink::Discard(1 << 20)));
                let (who, match_bits, portal) = (ProcessId::ANY, 1, PORTAL);
                let attach = Op::Attach { tag: 0, portal, who, match_bits, ignore_bits: 0, md };
                ops.push_back((AppId::FIRST, attach));
            }
        }
        Work::of(1)
    }

    fn event(&mut self, _: u64, _: AppId, ev: Event, ops: &mut Ops) {
        match (ev, &self.pages) {
            (Event::Ack { status, done: true, .. } | Event::Send { status, done: true, .. }, Some(pages)) => {
                assert_eq!(status, Ok(()));
                self.came.fetch_add(1, Ordering::Relaxed);
                ops.push_back(self.put(pages));
            }
            (Event::Refused { why, .. }, _) => panic!("{why}"),
            _ => {}
        }
    }
}

/// No application.
struct Nothing;

impl App for Nothing {
    fn turn(&mut self, _: u64, _: &mut Ops) -> Work {
        Work::Idle
    }
    fn event(&mut self, _: u64, _: AppId, _: Event, _: &mut Ops) {}
}

type Router = Shard<Ports<LcoreStreams<MemPort>>, Nothing>;

/// A ── R ── B, in virtual time.
struct Line {
    now: Arc<AtomicU64>,
    ends: [Shard<LcoreStreams<MemPort>, End>; 2],
    router: Vec<Router>,
    came: Arc<AtomicU64>,
}

fn on(net: usize, host: u8) -> Nid {
    Nid::tcp([10, 90 + net as u8, 0, host].into(), net as u16)
}

fn ip(nid: Nid) -> Ipv4Addr {
    match nid.ip() {
        Some(std::net::IpAddr::V4(ip)) => ip,
        other => panic!("{other:?}"),
    }
}

fn stack(nid: Nid, port: MemPort) -> Stack<MemPort> {
    Stack::new(StackConfig::new(ip(nid), 24), port, LendSlab::new(512)).unwrap()
}

impl Line {
    /// The router has so many shards, and its neighbours' homes are one or two of them.
    fn new(shards: u16, apart: bool, len: usize) -> Line {
        let mem = MemConfig { rx_bufs: 8192, ..MemConfig::default() };
        let now = Arc::new(AtomicU64::new(SEC));
        let clock = || Clock::virtual_time(now.clone());
        let router = [on(0, 9), on(1, 9)];
        let lcores =
            Lcores { queues: 1, ..Lcores::new(shards, (mem.rx_buf * mem.rx_bufs) as u64, mem.rx_bufs) };
        let cfg = Config::new(router[0], 1);
        let plan = NodeBuilder::of(cfg).also(router[1]).clock(clock()).lcores(lcores).config(|c| {
            c.routing.forwarding = true;
            (c.alive_router_check_interval, c.router_ping_timeout) = (SEC, SEC);
        });
        let plan = plan.plan().unwrap();
        let (a, ra) = pair(&mem);
        let (b, rb) = pair(&mem);
        let stacks = vec![stack(router[0], ra), stack(router[1], rb)];
        let router = if shards == 1 {
            vec![plan.single(plan.ports(ShardId(0), stacks).unwrap(), Nothing).unwrap()]
        } else {
            let own = plan.ports(ShardId(0), stacks).unwrap();
            let first = plan.meshed(ShardId(0), Some(own), Nothing).unwrap();
            std::iter::once(first)
                .chain((1..shards).map(|me| plan.meshed(ShardId(me), None, Nothing).unwrap()))
                .collect()
        };
        let home = |nid: Nid| router[0].machine.home_of(Bucket::of(nid.ip().unwrap()));
        let a_nid = on(0, 1);
        let b_nid = (1..200).map(|h| on(1, h)).find(|b| *b != on(1, 9) && (home(*b) != home(a_nid)) == apart);
        let nids = [a_nid, b_nid.unwrap()];
        let came = Arc::new(AtomicU64::new(0));
        let page = PageRunMut::new(Arc::new(PrivatePages), len).unwrap().freeze();
        let mut ports = [a, b].into_iter();
        let ends = [0, 1].map(|i| {
            let cfg = Config {
                routes: vec![Route { net: nids[1 - i].net(), gateway: on(i, 9), hop: None, priority: 0 }],
                ..Config::new(nids[i], 1)
            };
            let pages = (i == 0).then(|| Pages::from_iter([page.slice_all()]));
            let other = ProcessId::lustre(nids[1 - i]);
            let flight = if len > 100_000 { 4 } else { 16 };
            // A begins when there is a way.
            let app = End { other, pages, flight, begun: i == 0, came: came.clone() };
            NodeBuilder::of(cfg).clock(clock()).over(stack(nids[i], ports.next().unwrap()), app).unwrap()
        });
        Line { now, ends, router, came }
    }

    fn turn(&mut self) {
        self.now.fetch_add(1_000, Ordering::Relaxed);
        self.ends.iter_mut().for_each(|n| {
            n.turn();
        });
        self.router.iter_mut().for_each(|n| {
            n.turn();
        });
    }

    /// The router routes, and both ends know it.
    fn begin(&mut self) {
        for _ in 0..100_000 {
            self.turn();
            // Time in which nothing happens.
            self.now.fetch_add(100_000, Ordering::Relaxed);
            let up = self.ends.iter().all(|e| e.machine.routes().all(|r| r.up));
            if up && self.router[0].machine.routing(0, None).state == RoutingState::On {
                self.ends[0].app.begun = false;
                return;
            }
        }
        panic!("no way");
    }

    /// So many messages come across, and their ACKs back.
    fn pass(&mut self, n: u64) {
        let goal = self.came.load(Ordering::Relaxed) + n;
        for _ in 0..10_000_000 {
            if self.came.load(Ordering::Relaxed) >= goal {
                return;
            }
            self.turn();
        }
        let all = self.ends.iter().map(|e| &e.machine).chain(self.router.iter().map(|r| &r.machine));
        let counts: Vec<Vec<_>> = all.map(|m| m.counters().iter().filter(|c| c.1 > 0).collect()).collect();
        panic!("nothing moves: {counts:?}");
    }
}

fn profile(name: &str) -> dhat::Profiler {
    match std::env::var_os("POLLND_DHAT") {
        Some(mut file) => {
            file.push(format!("-{name}.json"));
            dhat::Profiler::builder().file_name(file).build()
        }
        None => dhat::Profiler::builder().testing().build(),
    }
}

#[test]
fn messages_that_a_warm_router_passes_on_allocate_nothing() {
    let mut all = Vec::new();
    for (shards, apart) in [(1, false), (2, false), (2, true)] {
        for (len, warm, counted) in [(64, 20_000, 2_000), (4096, 20_000, 2_000), (1 << 20, 1_000, 300)] {
            let name =
                format!("{shards} shards, homes {}, {len} bytes", if apart { "apart" } else { "together" });
            let mut line = Line::new(shards, apart, len);
            line.begin();
            line.pass(warm);
            let profiler = profile(&format!("{shards}-{apart}-{len}"));
            line.pass(counted);
            let stats = dhat::HeapStats::get();
            drop(profiler);
            let counts = |f: fn(&transport::lnd::Counters) -> u64| -> u64 {
                line.router.iter().map(|s| f(s.machine.counters())).sum()
            };
            // Messages and their ACKs.
            assert!(counts(|c| c.forwarded_msgs) >= 2 * (warm + counted), "{name}");
            let tcp = line.router.iter().map(|s| s.counters().tx_copied_bytes).sum();
            let copied: [u64; 2] = [counts(|c| c.forward_copied_bytes), tcp];
            println!(
                "{name}: {} blocks, {} bytes in {counted} messages",
                stats.total_blocks, stats.total_bytes
            );
            all.push((name, stats.total_blocks, stats.total_bytes, copied));
        }
    }
    assert!(
        all.iter().all(|n| (n.1, n.2, n.3) == (0, 0, [0, 0])),
        "allocations or copies of a router: {all:?}"
    );
}
