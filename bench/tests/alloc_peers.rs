//! Cost of a peer that nobody is connected to, in bytes of live heap, against the charge of its host for it.
#![forbid(unsafe_code)]

use transport::lnd::{AppId, Config, Payload};
use transport::lnet::Op;
use transport::node::{Input, Machine, Output};
use transport::stream::{Action, DialError, Happened};
use transport::wire::{Nid, ProcessId};

#[global_allocator]
static HEAP: dhat::Alloc = dhat::Alloc;

/// A node that has had a message for so many peers, each of which refused its connection: bytes that it holds, and bytes charged.
fn node_with(peers: u32) -> (u64, u64) {
    let live = || dhat::HeapStats::get().curr_bytes as u64;
    let before = live();
    let mut m = Machine::new(Config::new("10.0.0.1@tcp".parse().unwrap(), 1));
    for n in 0..peers {
        let target = ProcessId::lustre(Nid::tcp((0x0b00_0000 + n).to_be_bytes().into(), 0));
        let (payload, now) = (Payload::inline(b"for you").unwrap(), 1_000_000 + u64::from(n));
        let (portal, match_bits, offset, hdr_data) = (5, 5, 0, 0);
        let put =
            Op::Put { tag: 1, target, from: None, portal, match_bits, offset, hdr_data, payload, ack: false };
        m.handle(now, Input::Cmd(AppId::FIRST, put));
        let mut dial = None;
        while let Some(out) = m.poll() {
            if let Output::Stream(Action::Dial(d)) = out {
                dial = Some(d.id);
            }
        }
        let dial = dial.expect("it is dialled");
        m.handle(now, Input::Stream(Happened::DialFailed(dial, DialError::Refused)));
        while m.poll().is_some() {}
    }
    assert_eq!(m.gauges().peers, peers as usize);
    (live() - before, m.held().peers)
}

#[test]
fn a_peer_is_charged_what_it_takes() {
    let _heap = dhat::Profiler::builder().testing().trim_backtraces(Some(2)).build();
    // Tables that double are full, or just after it half empty.
    for peers in [1024, 1025, 4096, 4097, 14_000, 16_384, 16_385] {
        let (held, charged) = node_with(peers);
        let each = |n: u64| n as f64 / f64::from(peers);
        println!("{peers} peers: {:.0} B of heap each, {:.0} B charged", each(held), each(charged));
        assert!(charged >= held, "{peers} peers: {} B of heap each, {} B charged", each(held), each(charged));
        assert!(
            charged < 4 * held,
            "{peers} peers: {} B of heap each, {} B charged",
            each(held),
            each(charged)
        );
    }
}
