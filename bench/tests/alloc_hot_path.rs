//! Established connections allocate nothing: neither for a bulk message nor for a round trip.
//!
//! When this fails, `POLLND_DHAT=<file> cargo test -p pollnd-bench --test alloc_hot_path` leaves a heap profile
//! with the places (https://nnethercote.github.io/dh_view/dh_view.html shows it).
#![forbid(unsafe_code)]

use bench::ctl::Traffic;
use bench::inmem::InMemory;
use bench::workload::{ClientConfig, Intake};
use dataplane::mem::MemConfig;

#[global_allocator]
static HEAP: dhat::Alloc = dhat::Alloc;

/// Operations before counting: every queue, table and pool has then reached its size.
const WARM: u64 = 3_000;
/// Operations counted.
const COUNTED: u64 = 1_000;

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

#[test]
fn a_warm_pair_of_nodes_allocates_nothing() {
    let cases = [
        ("bulk-put-lent", Traffic::Bulk, Intake::Lent),
        ("bulk-put-copied", Traffic::Bulk, Intake::Copied),
        ("bulk-get", Traffic::Get, Intake::Lent),
        ("small-put-ack", Traffic::Rtt, Intake::Lent),
        ("small-put-rate", Traffic::Rate, Intake::Lent),
    ];
    let all: Vec<_> =
        cases.into_iter().map(|(name, traffic, intake)| (name, blocks(name, traffic, intake))).collect();
    assert!(all.iter().all(|(_, n)| *n == (0, 0)), "allocations on the established path: {all:?}");
}
