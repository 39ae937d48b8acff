//! What a connection costs, in bytes of live heap: exact where `pollnd bench memory` sees pages.
#![forbid(unsafe_code)]

use bench::memory::measure;

#[global_allocator]
static HEAP: dhat::Alloc = dhat::Alloc;

fn live() -> Result<u64, String> {
    Ok(dhat::HeapStats::get().curr_bytes as u64)
}

#[test]
fn an_idle_connection_is_small_and_costs_the_same_however_many_there_are() {
    let _heap = dhat::Profiler::builder().testing().trim_backtraces(Some(2)).build();
    // Powers of two: tables that double have the same fill at each look.
    let less = measure(128, 512, &live).unwrap();
    let more = measure(256, 1024, &live).unwrap();
    println!("{}{}", less.table(), more.table());
    for m in [&less, &more] {
        assert!((256.0..8192.0).contains(&m.flow.each), "{m:?}");
        assert!(m.set.each > 3.0 * m.flow.each && m.set.each < 32_768.0, "{m:?}");
    }
    assert!(more.set.each < 1.25 * less.set.each, "cost of a set grows with their number: {less:?} {more:?}");
}

#[test]
fn numbers_that_cannot_be_measured_are_refused() {
    for (few, many) in [(0, 10), (10, 10), (10, 30_000)] {
        assert!(measure(few, many, &|| Ok(0)).unwrap_err().contains("0 < few < many"));
    }
}
