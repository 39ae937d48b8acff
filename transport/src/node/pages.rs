//! Pages of what an lcore knows: of its connections, and of peers.

use std::net::IpAddr;

use tcpstack::{ConnStats, Phase};

use crate::node::Machine;
use crate::socklnd::PeerBrief;
use crate::stream::ConnId;
use crate::wire::ProcessId;

/// Rows of one page at most.
pub const PAGE: usize = 32;

/// Filter of a question about connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The peer's address.
    pub peer: Option<IpAddr>,
    /// The peer's port.
    pub port: Option<u16>,
    /// State.
    pub state: Option<Phase>,
}

impl Filter {
    /// Whether `c` is asked for.
    pub fn wants(&self, c: &ConnStats) -> bool {
        self.peer.is_none_or(|p| p == c.remote.ip())
            && self.port.is_none_or(|p| p == c.remote.port())
            && self.state.is_none_or(|s| s == c.state)
    }
}

/// A connection, and who has it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The stream: its lcore, and its place there.
    pub conn: ConnId,
    /// All that is known of it.
    pub stats: ConnStats,
    /// It is the kernel's, which knows the rest.
    pub kernel: bool,
}

/// A part of an lcore's connections.
#[derive(Debug)]
pub struct Page {
    /// Filter.
    pub filter: Filter,
    /// First place in the table; afterwards the first place of the next page, `None` at the end.
    pub from: Option<u32>,
    /// Answer; the asker has made room for [`PAGE`].
    pub rows: Vec<Row>,
}

impl Page {
    pub(super) fn new(filter: Filter, from: u32) -> Page {
        Page { filter, from: Some(from), rows: Vec::with_capacity(PAGE) }
    }

    /// Adds `row` if it is asked for.
    pub fn add(&mut self, row: Row) {
        if self.rows.len() < self.rows.capacity() && self.filter.wants(&row.stats) {
            self.rows.push(row);
        }
    }

    /// Gives this page's first place, and moves on by [`PAGE`] places of a table of `all`.
    pub fn step(&mut self, all: usize) -> usize {
        let from = self.from.unwrap_or(0) as usize;
        let next = from.saturating_add(PAGE);
        self.from = (next < all).then_some(next as u32);
        from
    }
}

/// A part of an lcore's peers.
#[derive(Debug)]
pub struct Peers {
    /// The only one that is asked for, if it is one.
    pub only: Option<ProcessId>,
    /// First place in the table; afterwards the first place of the next page, `None` at the end.
    pub from: Option<u32>,
    /// Answer; the asker has made room for [`PAGE`].
    pub rows: Vec<PeerBrief>,
}

impl Peers {
    /// Fills the page from what `m` knows.
    pub fn fill(&mut self, m: &Machine) {
        let room = self.rows.capacity();
        let rows = &mut self.rows;
        let mut add = |b| {
            if rows.len() < room {
                rows.push(b);
            }
        };
        if let Some(id) = self.only {
            self.from = None;
            return m.brief(id).into_iter().for_each(add);
        }
        let from = self.from.unwrap_or(0) as usize;
        let all = m.briefs(from, PAGE, &mut add);
        self.from = (from.saturating_add(PAGE) < all).then_some((from + PAGE) as u32);
    }
}

/// A part of a table.
#[derive(Debug)]
pub struct Rows<T> {
    /// First place in the table; afterwards the first place of the next page, `None` at the end.
    pub from: Option<u32>,
    /// Answer; the asker has made room for [`PAGE`].
    pub rows: Vec<T>,
}

impl<T> Rows<T> {
    /// Room for a page, from the first place on.
    pub(super) fn new() -> Rows<T> {
        Rows { from: Some(0), rows: Vec::with_capacity(PAGE) }
    }

    /// Fills the page from what `look` shows of so many places from one on; it gives the number of all places.
    pub(super) fn fill(&mut self, look: impl FnOnce(usize, usize, &mut dyn FnMut(T)) -> usize) {
        let (room, rows) = (self.rows.capacity(), &mut self.rows);
        let from = self.from.unwrap_or(0) as usize;
        let all = look(from, PAGE, &mut |row| {
            if rows.len() < room {
                rows.push(row);
            }
        });
        self.from = (from.saturating_add(PAGE) < all).then_some((from + PAGE) as u32);
    }
}
