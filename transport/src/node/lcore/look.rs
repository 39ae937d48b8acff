//! Streams of an lcore, for somebody who looks at the node.

use dataplane::pkt::Port;
use dataplane::tap::TapEnd;

use super::{LcoreStreams, conn_id};
use crate::node::counters::{OF_STACK, StreamCounters};
use crate::node::inspect::{Inspect, PAGE, Page, Row};

impl<P: Port> Inspect for LcoreStreams<P> {
    fn look(&mut self, page: &mut Page) {
        let first = page.step(self.stack.slots() as usize) as u32;
        for (flow, stats) in self.stack.connections(first, PAGE as u32) {
            page.add(Row { conn: conn_id(self.shard, flow), stats, kernel: false });
        }
    }

    fn details(&self, f: &mut dyn FnMut(&'static str, u64)) {
        // Each name is told once: pages of figures have no place for a second one.
        self.stack.counters().each(|name, n| {
            if !OF_STACK.contains(&name) {
                f(name, n);
            }
        });
        self.stack.port().counters().each(f);
    }

    fn tap(&mut self, tap: Option<Box<TapEnd>>) -> Option<Box<TapEnd>> {
        self.stack.tap(tap)
    }

    fn counters(&self) -> StreamCounters {
        let (s, p) = (self.stack.counters(), self.stack.port().counters());
        let (free, all) = self.stack.port().rx_memory();
        let (small_out, small_all) = self.stack.small_memory();
        StreamCounters {
            tx_copied_bytes: s.tx_copied_bytes,
            tx_short_bytes: s.tx_short_bytes,
            tx_attached_bytes: s.tx_attached_bytes,
            linearised: p.linearised,
            lent: self.slab.counters().lent,
            lendings_out: self.slab.out(),
            rx_lent_out: self.stack.lent_out(),
            rx_pool_bytes_in_use: all - free + small_out,
            rx_pool_bytes: all + small_all,
            retransmits: Some(s.tx_resent),
            nudges: self.late.counters().nudges,
            conns: self.conns.len() as u64,
            ..self.counters
        }
    }
}
