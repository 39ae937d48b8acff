//! Receive memory that a gap could use up.

use crate::common::bench::Bench;
use crate::common::{config, pattern};
use dataplane::mem::MemConfig;
use dataplane::pkt::Port;
use tcpstack::wire::ACK;
use tcpstack::{Listen, StackConfig};

/// A peer sends far more than the pool holds, all but the first segment. What fills the gap still finds a buffer.
#[test]
fn data_out_of_order_leaves_buffers_for_what_fills_the_gap() {
    let mem = MemConfig { mtu: 1500, tso_max: 0, csum: false, rx_bufs: 64, ..MemConfig::default() };
    // The window is offered before the stack has seen what a segment of this peer costs in memory.
    let mut b = Bench::with(StackConfig { rx_window: 1 << 20, ..config(1) }, &mem);
    b.s.listen(Listen { addr: crate::common::ip(1).into(), port: 988, backlog: 2 }).unwrap();
    let p = b.accept(2000, 100);
    let data = pattern(100 * 600, 1);
    let part = |i: usize| &data.bytes()[i * 600..][..600];
    for i in 1..100 {
        b.put(&p, ACK, p.seq.plus(600 * i as u64), p.ack, 1000, part(i));
    }
    b.frames();
    let (free, all) = b.s.port().rx_memory();
    assert!(free >= all / 8 && free < all * 2 / 3, "{free} of {all} bytes free");
    assert!(b.s.counters().rx_overflow > 40);
    let mut got = vec![];
    for i in 0..100 {
        b.put(&p, ACK, p.seq.plus(600 * i as u64), p.ack, 1000, part(i));
        got.extend(b.read(p.flow));
    }
    assert!(got == data.bytes(), "{} of {} bytes", got.len(), data.len());
}
