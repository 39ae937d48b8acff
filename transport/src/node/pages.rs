//! Pages of what an lcore knows of peers.

use crate::node::Machine;
use crate::socklnd::PeerBrief;
use crate::wire::ProcessId;

/// Rows of one page at most.
pub const PAGE: usize = 32;

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
