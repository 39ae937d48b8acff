//! Tables of socklnd by themselves, for tests that drive them beside a model.

use std::cell::Cell;

use super::zc::{Pending, ZcTable, acks};
use crate::stream::slab::Key;
use crate::wire::{KsockHdr, Version};

/// The zero-copy cookies of one peer, and how often the table looked at one.
pub struct Cookies {
    table: ZcTable,
    looks: Cell<u64>,
}

impl Cookies {
    /// A table whose first cookie is `next`.
    pub fn starting_at(next: u64) -> Cookies {
        Cookies { table: ZcTable::starting_at(next), looks: Cell::new(0) }
    }

    /// Gives out a cookie for a message whose headers end at position `head` of its stream.
    pub fn request(&mut self, head: u64, deadline: u64) -> u64 {
        let conn = Key { index: 0, generation: 0 };
        self.table.request(conn, conn, head, deadline)
    }

    /// Applies the ACK words of a header that came when everything before `sent` had been transmitted; gives the
    /// cookies whose hold was lifted.
    ///
    /// # Errors
    /// The cookie that was not to be ACKed.
    pub fn ack(&mut self, version: Version, h: &KsockHdr, sent: u64) -> Result<Vec<u64>, u64> {
        let mut lifted = Vec::new();
        let head_sent = |p: &Pending| {
            self.looks.set(self.looks.get() + 1);
            p.head <= sent
        };
        self.table.ack(acks(version, h), head_sent, |p| lifted.push(p.cookie))?;
        Ok(lifted)
    }

    /// Cookies whose ACK is to come.
    pub fn pending(&self) -> usize {
        self.table.len()
    }

    /// Time at which the oldest of them is overdue.
    pub fn deadline(&self) -> Option<u64> {
        self.table.deadline()
    }

    /// Times that ACKs made the table look at a cookie.
    pub fn looks(&self) -> u64 {
        self.looks.get()
    }

    /// Ends the set; gives what was pending.
    pub fn reset(&mut self) -> Vec<u64> {
        let mut failed = Vec::new();
        self.table.reset(|p| failed.push(p.cookie));
        failed
    }
}
