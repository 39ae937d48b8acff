//! Connections over kernel sockets, for somebody who looks at the node. The asker finds out what only the kernel knows
//! of them: it takes system calls.

use dataplane::tap::TapEnd;
use tcpstack::{ConnStats, Phase};

use super::SockStreams;
use super::conn::Conn;
use crate::node::counters::StreamCounters;
use crate::node::inspect::{Inspect, PAGE, Page, Row};

fn look_at(conns: &[Option<Conn>], page: &mut Page) {
    let first = page.step(conns.len());
    for c in conns.iter().skip(first).take(PAGE).flatten() {
        let state = match c.dialling() {
            Some(_) => Phase::SynSent,
            None if c.eof => Phase::CloseWait,
            None => Phase::Established,
        };
        let not_sent = c.waiting();
        let stats = ConnStats {
            passive: Some(c.info.dial.is_none()),
            not_sent: Some(not_sent),
            backlog: Some(not_sent),
            bytes_sent: Some(c.written),
            ..ConnStats::new(c.info.local, c.info.remote, state)
        };
        page.add(Row { conn: c.id, stats, kernel: true });
    }
}

impl Inspect for SockStreams {
    fn look(&mut self, page: &mut Page) {
        look_at(&self.conns, page);
    }

    fn details(&self, _: &mut dyn FnMut(&'static str, u64)) {
        // The kernel counts the rest.
    }

    fn tap(&mut self, tap: Option<Box<TapEnd>>) -> Option<Box<TapEnd>> {
        tap
    }

    fn counters(&self) -> StreamCounters {
        StreamCounters {
            lent: self.slab.counters().lent,
            lendings_out: self.slab.out(),
            rx_lent_out: (self.pool.home().lent_out() + self.small.home().lent_out()) as u64,
            rx_pool_bytes_in_use: [&self.pool, &self.small]
                .iter()
                .map(|p| (p.out() * p.buf_size()) as u64)
                .sum(),
            rx_pool_bytes: [&self.pool, &self.small].iter().map(|p| (p.max() * p.buf_size()) as u64).sum(),
            conns: self.conns.iter().flatten().count() as u64,
            ..self.counters
        }
    }
}
