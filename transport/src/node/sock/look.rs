//! Connections over kernel sockets, for somebody who looks at the node. The asker finds out what only the kernel knows
//! of them: it takes system calls.

use tcpstack::{ConnStats, Phase};

use super::conn::Conn;
use crate::node::inspect::{PAGE, Page, Row};

pub(super) fn look(conns: &[Option<Conn>], page: &mut Page) {
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
