//! An established connection of two TCP stacks allocates nothing, whatever the port: options, timestamps and SACK
//! on, as they are by default.
//!
//! When this fails, `POLLND_DHAT=<file> cargo test -p pollnd-bench --test alloc_tcp` leaves heap profiles.
#![forbid(unsafe_code)]

use bench::stacks::Stacks;
use dataplane::mem::{Crossing, MemConfig};

#[global_allocator]
static HEAP: dhat::Alloc = dhat::Alloc;

/// Messages of 1 MiB before counting: every queue, table and pool has then reached its size.
const WARM: u64 = 2048;
/// Messages counted.
const COUNTED: u64 = 64;

/// Heap blocks and bytes allocated in [`COUNTED`] messages, and segments sent for them.
fn blocks(name: &str, mem: &MemConfig) -> (u64, u64, u64) {
    let (mut s, now) = Stacks::open(mem).unwrap();
    let now = s.complete(WARM, now).unwrap();
    let before = s.counters();
    let builder = match std::env::var("POLLND_DHAT") {
        Ok(file) => dhat::Profiler::builder().file_name(format!("{file}-{name}.json")),
        Err(_) => dhat::Profiler::builder().testing(),
    };
    let profiler = builder.build();
    s.complete(COUNTED, now).unwrap();
    let stats = dhat::HeapStats::get();
    drop(profiler);
    let after = s.counters();
    let sent = |i: usize| after[i].tx_segments - before[i].tx_segments;
    assert_eq!(after[0].tx_resent + after[1].tx_resent, 0, "off the loss path");
    (stats.total_blocks, stats.total_bytes, sent(0) + sent(1))
}

#[test]
fn a_warm_connection_allocates_nothing() {
    let share = MemConfig { crossing: Crossing::Share, ..MemConfig::default() };
    let plain = MemConfig { tso_max: 0, ..share.clone() };
    let cases = [
        ("mtu-1500-tso", MemConfig { mtu: 1500, ..share.clone() }),
        ("mtu-9000", MemConfig { mtu: 9000, ..plain.clone() }),
        ("mtu-1500", MemConfig { mtu: 1500, ..plain }),
        ("mtu-1500-no-offload", MemConfig { mtu: 1500, tso_max: 0, csum: false, ..share }),
        ("mtu-9000-copied", MemConfig::default()),
    ];
    let all = cases.map(|(name, mem)| (name, blocks(name, &mem)));
    println!("(blocks, bytes, segments) in {COUNTED} messages: {all:?}");
    assert!(all.iter().all(|(_, n)| (n.0, n.1) == (0, 0) && n.2 > COUNTED), "allocations: {all:?}");
}
