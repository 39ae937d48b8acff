//! Established connections allocate nothing: neither for a bulk message nor for a round trip.
//!
//! When this fails, `POLLND_DHAT=<file> cargo test -p pollnd-bench --test alloc_hot_path` leaves a heap profile
//! with the places (https://nnethercote.github.io/dh_view/dh_view.html shows it).
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bench::ctl::Traffic;
use bench::inmem::{InMemory, Members};
use bench::net::{self, Job, NetPair, NodeConfig, Work};
use bench::selftest::Case;
use bench::workload::{ClientConfig, Intake};
use dataplane::clock::Clock;
use dataplane::mem::{MemConfig, pair};
use hugepages::{HeapRxPool, LendOwner, LendSlab, PageRun, PageRunMut, PageSlice, PrivatePages, RxFrag};
use tcpstack::{Stack, StackConfig};
use transport::lnd::{AppId, Config, Data, Payload, Sink};
use transport::lnet::{Event, MdMem, MdSpec, MeId, Op};
use transport::netsock::{self, Sink as Into, Tm};
use transport::node::{self, App, Input, Machine, NodeBuilder, Ops};
use transport::stream::{Action, ConnId, ConnInfo, Happened, Pages, Progress, Protocol, ShardId, StreamRx};
use transport::wire::netsock::Addr;
use transport::wire::srpc::{check, rw};
use transport::wire::{Nid, ProcessId};

#[global_allocator]
static HEAP: dhat::Alloc = dhat::Alloc;

/// Operations before counting: every queue, table and pool has then reached its size.
const WARM: u64 = 3_000;
/// Operations counted.
const COUNTED: u64 = 1_000;

/// One profile at a time: the heap is the process's.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn profile(name: &str) -> dhat::Profiler {
    match std::env::var_os("POLLND_DHAT") {
        Some(file) => {
            let mut file = file;
            file.push(format!("-{name}.json"));
            dhat::Profiler::builder().file_name(file).build()
        }
        None => dhat::Profiler::builder().testing().build(),
    }
}

/// Heap blocks allocated in [`COUNTED`] operations of a warm pair of nodes.
fn blocks(name: &str, traffic: Traffic, intake: Intake) -> (u64, u64) {
    let mut nodes = InMemory::new(&MemConfig::default(), ClientConfig::default(), intake).unwrap();
    nodes.complete(traffic, WARM).unwrap();
    let profiler = profile(name);
    nodes.complete(traffic, COUNTED).unwrap();
    let stats = dhat::HeapStats::get();
    drop(profiler);
    let ends = nodes.stop().unwrap();
    assert!(ends.iter().all(|e| e.clean), "{name}: {ends:?}");
    println!("{name}: {} blocks, {} bytes in {COUNTED} operations", stats.total_blocks, stats.total_bytes);
    (stats.total_blocks, stats.total_bytes)
}

/// Portal of one-use entries: lnet_selftest's replies and bulk.
const PORTAL: u32 = 52;
/// Entries that stand there all the time.
const STANDING: u64 = 500;

fn entry(nid: Nid, match_bits: u64) -> Op {
    let md = MdSpec { threshold: Some(1), ..MdSpec::new(MdMem::Sink(Sink::Discard(4096))) };
    let who = ProcessId::lustre(nid);
    Op::Attach { tag: match_bits, portal: PORTAL, who, match_bits, ignore_bits: 0, md }
}

/// Two entries of exact bits: one that a PUT takes, one that is unlinked.
fn entries(m: &mut Machine, nid: Nid, n: u64) {
    let attach = |m: &mut Machine, bits: u64| -> MeId {
        m.handle(n, Input::Cmd(AppId::FIRST, entry(nid, bits)));
        match m.event() {
            Some((_, Event::Attached { me, .. })) => me,
            other => panic!("{other:?}"),
        }
    };
    let (_, second) = (attach(m, 2 * n), attach(m, 2 * n + 1));
    let (target, payload) = (ProcessId::lustre(nid), Payload::inline(&[7; 32]).unwrap());
    let (tag, from, offset, hdr_data) = (n, None, 0, 0);
    let put = Op::Put {
        tag,
        target,
        from,
        portal: PORTAL,
        match_bits: 2 * n,
        offset,
        hdr_data,
        payload,
        ack: false,
    };
    m.handle(n, Input::Cmd(AppId::FIRST, put));
    assert!(matches!(m.event(), Some((_, Event::Put(p))) if p.unlinked.is_some() && p.mlength == 32));
    assert!(matches!(m.event(), Some((_, Event::Send { status: Ok(()), done: true, .. }))));
    m.handle(n, Input::Cmd(AppId::FIRST, Op::Unlink { tag: n, portal: PORTAL, me: second }));
    assert!(matches!(m.event(), Some((_, Event::Unlink { .. }))));
}

#[test]
fn a_warm_pair_of_nodes_allocates_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cases = [
        ("bulk-put-lent", Traffic::Bulk, Intake::Lent),
        ("bulk-put-copied", Traffic::Bulk, Intake::Copied),
        ("bulk-get", Traffic::Get, Intake::Lent),
        ("small-put-ack", Traffic::Rtt, Intake::Lent),
        ("small-put-rate", Traffic::Rate, Intake::Lent),
    ];
    let mut all: Vec<_> =
        cases.into_iter().map(|(name, traffic, intake)| (name, blocks(name, traffic, intake))).collect();
    let nid = Nid::tcp([10, 0, 0, 1].into(), 0);
    let mut m = Machine::new(Config::new(nid, 1));
    for n in 0..STANDING {
        m.handle(0, Input::Cmd(AppId::FIRST, entry(nid, 1 << 40 | n << 20)));
        assert!(m.event().is_some());
    }
    (0..WARM).for_each(|n| entries(&mut m, nid, n));
    let profiler = profile("one-use-entries");
    (WARM..WARM + COUNTED).for_each(|n| entries(&mut m, nid, n));
    let stats = dhat::HeapStats::get();
    drop(profiler);
    assert_eq!(m.gauges().entries as u64, STANDING);
    all.push(("one-use-entries", (stats.total_blocks, stats.total_bytes)));
    assert!(all.iter().all(|(_, n)| *n == (0, 0)), "allocations on the established path: {all:?}");
}

/// lnet_selftest's RPCs, too, of each kind, at both ends; and no payload of BRW is copied.
#[test]
fn a_warm_pair_of_members_allocates_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cases = [
        ("brw-write", Case::brw(rw::WRITE, check::NONE, 1 << 20, 8)),
        ("brw-write-full", Case::brw(rw::WRITE, check::FULL, 1 << 20, 8)),
        ("brw-read-full", Case::brw(rw::READ, check::FULL, 1 << 20, 8)),
        ("brw-write-small", Case::brw(rw::WRITE, check::NONE, 4096, 32)),
        ("brw-read-small", Case::brw(rw::READ, check::SIMPLE, 4096, 32)),
        ("selftest-ping", Case::ping(32)),
    ];
    let mut all = Vec::new();
    for (name, case) in cases {
        let mut nodes = Members::new(&MemConfig::default(), vec![case]).unwrap();
        nodes.complete(1, WARM).unwrap();
        let profiler = profile(name);
        nodes.complete(1, COUNTED).unwrap();
        let stats = dhat::HeapStats::get();
        drop(profiler);
        let own = nodes.orders.clone();
        let ends = nodes.stop().unwrap();
        assert!(ends.iter().all(|e| e.clean), "{name}: {ends:?}");
        println!("{name}: {} blocks, {} bytes in {COUNTED} RPCs", stats.total_blocks, stats.total_bytes);
        let copied: u64 = ends.iter().map(|e| e.proto.rx_copied_bytes + e.streams.tx_copied_bytes).sum();
        // The console and the member on its node speak by memory.
        let copied = copied - own.own.load(std::sync::atomic::Ordering::Relaxed);
        all.push((name, stats.total_blocks, stats.total_bytes, copied));
    }
    assert!(all.iter().all(|n| (n.1, n.2, n.3) == (0, 0, 0)), "allocations or copies of an RPC: {all:?}");
}

/// Bytes of a payload that goes there and back.
const THERE: u32 = 1 << 20;
/// Such payloads under way: fewer than an application's share of the receive pool.
const FLIGHT: u64 = 2;
const BACK_PORTAL: u32 = 61;

/// Puts payload to another node, or puts back by reference what it was lent.
struct Ball {
    other: ProcessId,
    /// The first PUTs take these pages; one who has none puts back.
    serve: Option<Pages>,
    begun: bool,
    came: Arc<AtomicU64>,
}

impl Ball {
    fn put(&self, payload: Payload) -> (AppId, Op) {
        let (target, match_bits, portal) = (self.other, 1, BACK_PORTAL);
        let op = Op::Put {
            tag: 1,
            target,
            from: None,
            portal,
            match_bits,
            offset: 0,
            hdr_data: 0,
            payload,
            ack: false,
        };
        (AppId::FIRST, op)
    }
}

impl App for Ball {
    fn turn(&mut self, _: u64, ops: &mut Ops) -> node::Work {
        if !std::mem::replace(&mut self.begun, true) {
            let md = MdSpec::new(MdMem::Sink(Sink::Lend(THERE)));
            let (tag, who, match_bits, portal) = (0, ProcessId::ANY, 1, BACK_PORTAL);
            let attach = Op::Attach { tag, portal, who, match_bits, ignore_bits: 0, md };
            ops.push_back((AppId::FIRST, attach));
            if let Some(pages) = &self.serve {
                ops.extend((0..FLIGHT).map(|_| self.put(Payload::Pages(pages.clone()))));
            }
        }
        node::Work::Idle
    }

    fn event(&mut self, _: u64, _: AppId, ev: Event, ops: &mut Ops) {
        match ev {
            Event::Put(p) => {
                assert_eq!((p.status, p.mlength), (Ok(()), THERE));
                self.came.fetch_add(1, Ordering::Relaxed);
                let payload = match (p.data, &self.serve) {
                    (_, Some(pages)) => Payload::Pages(pages.clone()),
                    (Data::Lent(pieces), None) => Payload::forwarded(pieces),
                    (other, None) => panic!("{other:?}"),
                };
                ops.push_back(self.put(payload));
            }
            Event::Send { status, .. } => assert_eq!(status, Ok(())),
            _ => {}
        }
    }
}

/// Payload that is sent on as it came in, too; and none of it is copied.
#[test]
fn a_warm_node_that_sends_on_what_it_receives_allocates_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (name, mem) in [
        ("sent-on", MemConfig { rx_bufs: 8192, ..MemConfig::default() }),
        (
            "sent-on-1448",
            MemConfig { mtu: 1500, tso_max: 0, rx_buf: 2048, rx_bufs: 16_384, ..MemConfig::default() },
        ),
    ] {
        let now = Arc::new(AtomicU64::new(1_000_000_000));
        let ips = [1, 2].map(|n| std::net::Ipv4Addr::new(10, 79, 0, n));
        let came = Arc::new(AtomicU64::new(0));
        let page = PageRunMut::new(Arc::new(PrivatePages), THERE as usize).unwrap().freeze();
        let (a, b) = pair(&mem);
        let mut nodes = [(0, a), (1, b)].map(|(i, port)| {
            let nid = |i: usize| Nid::tcp(ips[i].into(), 0);
            let serve = (i == 0).then(|| Pages::from_iter([page.slice_all()]));
            let other = ProcessId::lustre(nid(1 - i));
            let app = Ball { other, serve, begun: false, came: came.clone() };
            let stack = Stack::new(StackConfig::new(ips[i], 24), port, LendSlab::new(64)).unwrap();
            let node = NodeBuilder::of(Config::new(nid(i), 1)).clock(Clock::virtual_time(now.clone()));
            node.over(stack, app).unwrap()
        });
        let mut run = |n: u64| {
            let goal = came.load(Ordering::Relaxed) + 2 * n;
            for _ in 0..10_000_000 {
                if came.load(Ordering::Relaxed) >= goal {
                    return;
                }
                now.fetch_add(1_000, Ordering::Relaxed);
                nodes.iter_mut().for_each(|n| {
                    n.turn();
                });
            }
            panic!("{name}: nothing moves");
        };
        run(WARM / 4);
        let profiler = profile(name);
        run(COUNTED / 4);
        let stats = dhat::HeapStats::get();
        drop(profiler);
        println!(
            "{name}: {} blocks, {} bytes in {} messages",
            stats.total_blocks,
            stats.total_bytes,
            COUNTED / 4
        );
        let copied: Vec<_> = nodes
            .iter_mut()
            .map(|n| {
                let tcp = n.streams().map(|s| s.stack().counters().tx_copied_bytes);
                (n.machine.counters().rx_copied_bytes, tcp)
            })
            .collect();
        assert_eq!((stats.total_blocks, stats.total_bytes, copied), (0, 0, vec![(0, Some(0)); 2]), "{name}");
    }
}

/// Bytes that came in, as a machine reads them.
struct Inbox(VecDeque<RxFrag>);

impl StreamRx for Inbox {
    fn next(&mut self) -> Option<RxFrag> {
        self.0.pop_front()
    }
    fn unread(&mut self, rest: RxFrag) {
        self.0.push_front(rest);
    }
}

/// Two transfer machines of netsock, the first of which has dialled the second; their TCP acknowledges at once.
struct Machines {
    tms: [Tm; 2],
    pool: HeapRxPool,
    inbox: Inbox,
    pushed: [u64; 2],
    now: u64,
    /// A page to send, and memory to receive in.
    page: PageRun,
    vector: Option<netsock::RecvVec>,
    pieces: Vec<netsock::Piece>,
}

const CONN: ConnId = ConnId { shard: ShardId(0), index: 0, generation: 0 };
const PAGE: usize = 65536;

impl Machines {
    fn new() -> Machines {
        let run = || PageRunMut::new(std::sync::Arc::new(PrivatePages), PAGE).unwrap();
        let at = |n: u8| Addr::stream(std::net::SocketAddr::from(([10, 0, 0, n], 5000)));
        Machines {
            tms: [1, 2].map(|n| Tm::new(netsock::Config::new(at(n), 1)).unwrap()),
            pool: HeapRxPool::new(PAGE, 64),
            inbox: Inbox(VecDeque::new()),
            pushed: [0; 2],
            now: 1,
            page: run().freeze(),
            vector: Some(netsock::RecvVec::new([run()])),
            pieces: Vec::new(),
        }
    }

    fn add(&mut self, at: usize, op: netsock::Op) -> Option<transport::wire::netsock::Bdesc> {
        self.now += 1000;
        let until = Some(self.now + 1_000_000_000);
        self.tms[at].add(self.now, op, 0, until).map_err(|u| u.why).unwrap().desc
    }

    /// Does what the machines say, until both are silent.
    fn settle(&mut self) {
        while let Some((me, action)) = (0..2).find_map(|n| Some((n, self.tms[n].act()?))) {
            match action {
                Action::Dial(d) => {
                    let (local, remote) = (std::net::SocketAddr::new(d.local_ip, 50_000), d.remote);
                    let info = ConnInfo { local, remote, dial: Some(d.id) };
                    self.tms[me].handle(self.now, Happened::Opened(CONN, info));
                    let info = ConnInfo { local: remote, remote: local, dial: None };
                    self.tms[1 - me].handle(self.now, Happened::Opened(CONN, info));
                }
                Action::Send(c, m) => {
                    let parts = [&m.hdr[..]].into_iter().chain(m.pay.iter().flat_map(PageSlice::chunks));
                    for part in parts.filter(|p| !p.is_empty()) {
                        self.pushed[me] += part.len() as u64;
                        self.inbox.0.push_back(self.pool.copy_of(part).unwrap());
                    }
                    let lend = m.lend;
                    drop(m);
                    self.tms[1 - me].handle(self.now, Happened::Bytes(c, &mut self.inbox));
                    let p = Progress { acked: self.pushed[me], sent: self.pushed[me] };
                    self.tms[me].handle(self.now, Happened::Progress(c, p));
                    if let Some(l) = lend {
                        self.tms[me].handle(self.now, Happened::Released(l));
                    }
                }
                Action::Read(c) => self.tms[me].handle(self.now, Happened::Bytes(c, &mut self.inbox)),
                other => panic!("{other:?}"),
            }
        }
        let mut ends = 0;
        while let Some(c) = (0..2).find_map(|n| self.tms[n].done()) {
            assert_eq!(c.status, 0);
            ends += 1;
            match c.sink {
                Some(Into::Into(v)) => self.vector = Some(netsock::RecvVec::new(v.into_runs())),
                Some(Into::Lend { mut pieces, .. }) => {
                    pieces.clear();
                    self.pieces = pieces;
                }
                None => {}
            }
        }
        assert_eq!(ends, 2);
        self.pool.home().drain();
    }

    fn data(&self) -> Pages {
        Pages::from_iter([self.page.slice_all()])
    }

    fn into(&mut self) -> Into {
        Into::Into(self.vector.take().unwrap())
    }

    /// A message, which is lent; a passive receive that is filled; a passive send that is fetched.
    fn round(&mut self) {
        let pieces = std::mem::take(&mut self.pieces);
        let most = PAGE as u64;
        self.add(1, netsock::Op::MsgRecv(Into::Lend { most, owner: LendOwner(1), pieces }));
        let (to, data) = (self.tms[1].addr(), self.data());
        self.add(0, netsock::Op::MsgSend { to, data });
        self.settle();
        let sink = self.into();
        let desc = self.add(1, netsock::Op::PassiveRecv(sink)).unwrap();
        let data = self.data();
        self.add(0, netsock::Op::ActiveSend { desc, data });
        self.settle();
        let data = self.data();
        let desc = self.add(1, netsock::Op::PassiveSend(data)).unwrap();
        let sink = self.into();
        self.add(0, netsock::Op::ActiveRecv { desc, sink });
        self.settle();
    }
}

/// netsock's transfer machines, too: a message, a bulk each way.
#[test]
fn a_warm_pair_of_transfer_machines_allocates_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut machines = Machines::new();
    (0..WARM).for_each(|_| machines.round());
    let profiler = profile("netsock");
    (0..COUNTED).for_each(|_| machines.round());
    let stats = dhat::HeapStats::get();
    drop(profiler);
    println!("netsock: {} blocks, {} bytes in {COUNTED} rounds", stats.total_blocks, stats.total_bytes);
    assert_eq!((stats.total_blocks, stats.total_bytes, machines.tms[1].stats().copied), (0, 0, 0));
}

/// Motr's contract above both transports, too: end-points that come and go with messages, buffers that are registered for each,
/// bulk by descriptors, payload lent and copied.
#[test]
fn a_warm_pair_of_domains_allocates_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut all = Vec::new();
    for sock in [true, false] {
        for (name, work, size, intake) in [
            ("ping", Work::Ping, 4096, net::Intake::Copied),
            ("active-recv-lent", Work::ActiveRecv, 1 << 20, net::Intake::Lent),
            ("active-recv-copied", Work::ActiveRecv, 1 << 20, net::Intake::Copied),
            ("active-send-lent", Work::ActiveSend, 1 << 20, net::Intake::Lent),
            ("active-send-copied", Work::ActiveSend, 65_536, net::Intake::Copied),
        ] {
            let (target, timeout) = (String::new(), 20_000_000_000);
            let (flight, limit, begin_for, check) = (8, u64::MAX, None, false);
            let job = Job { work, target, size, flight, limit, begin_for, timeout, check, intake };
            let cfg = NodeConfig { messages: 32, message: 4096, bulks: 8, bulk: 1 << 20, intake };
            let mut pair = NetPair::new(&MemConfig::default(), job, cfg, sock).unwrap();
            pair.complete(WARM).unwrap();
            let name = format!("{}-{name}", if sock { "sock" } else { "lnet" });
            let profiler = profile(&name);
            pair.complete(COUNTED).unwrap();
            let stats = dhat::HeapStats::get();
            drop(profiler);
            let ends = pair.stop().unwrap();
            assert!(ends.iter().all(|e| e.clean), "{name}: {:?}", ends.map(|e| e.left));
            println!(
                "{name}: {} blocks, {} bytes in {COUNTED} operations",
                stats.total_blocks, stats.total_bytes
            );
            all.push((name, stats.total_blocks, stats.total_bytes));
        }
    }
    assert!(all.iter().all(|n| (n.1, n.2) == (0, 0)), "allocations of the contract: {all:?}");
}
