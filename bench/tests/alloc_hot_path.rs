//! Established connections allocate nothing: neither for a bulk message nor for a round trip.
//!
//! When this fails, `POLLND_DHAT=<file> cargo test -p pollnd-bench --test alloc_hot_path` leaves a heap profile
//! with the places (https://nnethercote.github.io/dh_view/dh_view.html shows it).
#![forbid(unsafe_code)]

use bench::ctl::Traffic;
use bench::inmem::{InMemory, Members};
use bench::selftest::Case;
use bench::workload::{ClientConfig, Intake};
use dataplane::mem::MemConfig;
use transport::lnd::{AppId, Config, Payload, Sink};
use transport::lnet::{Event, MdMem, MdSpec, MeId, Op};
use transport::node::{Input, Machine};
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
