//! What a flood leaves in memory: nothing, however long it lasts.

mod common;

use common::bench::{Bench, segment};
use common::{config, ip};
use dataplane::fault::Rng;
use dataplane::mem::MemConfig;
use tcpstack::Listen;
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{ACK, Fields, SYN};

#[global_allocator]
static HEAP: dhat::Alloc = dhat::Alloc;

fn flood(b: &mut Bench, r: &mut Rng, n: u32) -> usize {
    for i in 0..n {
        let key = Key::new(ip(2).into(), 1 + r.below(65_535) as u16, ip(1).into(), 988);
        let flags = [SYN, SYN, ACK][i as usize % 3];
        let f = Fields { seq: Seq(r.next_u64() as u32), ack: Seq(r.next_u64() as u32), flags, win: 1000 };
        b.send(&segment(&key, &f, &[2, 4, 5, 0xb4], &[]));
        b.frames();
    }
    dhat::HeapStats::get().curr_bytes
}

#[test]
fn a_flood_leaves_nothing_in_memory() {
    let _heap = dhat::Profiler::builder().testing().trim_backtraces(Some(2)).build();
    let mut b = Bench::with(config(1), &MemConfig { csum: false, tso_max: 0, ..MemConfig::default() });
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 64 }).unwrap();
    let mut r = Rng::new(3);
    let early = flood(&mut b, &mut r, 3_000);
    let late = flood(&mut b, &mut r, 100_000);
    let c = b.s.counters();
    assert!(c.syn_cookies_sent > 60_000 && c.syn_cookies_failed > 30_000, "{c:?}");
    assert_eq!((b.s.flows(), late.saturating_sub(early)), (64, 0), "bytes more after thirty times as many");
}
