//! A match entry with its MD, and the test of a message against it (docs/protocol/lnet.md §4).

use std::collections::VecDeque;

use super::DropWhy;
use super::aliases::Aliases;
use super::api::{MdMem, MdSpec};
use super::index::{Linked, Links};
use crate::lnd::{AppId, Payload, Sink};
use crate::stream::slab::Key;
use crate::wire::nid::PID_ANY;
use crate::wire::{LnetHdr, ProcessId};

/// Memory of an MD; a copying sink is absent while a message is stored in it.
#[derive(Debug)]
pub(super) enum Mem {
    Source(Payload),
    Sink(Option<Sink>),
}

#[derive(Debug)]
pub(super) struct Me {
    pub(super) app: AppId,
    pub(super) tag: u64,
    pub(super) portal: u32,
    pub(super) who: ProcessId,
    pub(super) bits: u64,
    pub(super) ignore: u64,
    pub(super) mem: Mem,
    pub(super) len: u32,
    pub(super) threshold: Option<u32>,
    pub(super) max_size: Option<u32>,
    pub(super) manage_remote: bool,
    pub(super) truncate: bool,
    pub(super) ack_disable: bool,
    /// Offset behind the last operation, used where the initiator's does not count.
    pub(super) offset: u32,
    pub(super) in_flight: u32,
    /// Out of its portal; goes when nothing is in flight.
    pub(super) dying: bool,
    /// Its place in its portal's list.
    pub(super) links: Links,
    /// Messages that wait for its sink.
    pub(super) waiters: VecDeque<Key>,
}

/// Request of a message to a portal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) put: bool,
    pub(super) portal: u32,
    pub(super) bits: u64,
    pub(super) offset: u32,
    pub(super) rlength: u32,
}

/// The outcome of testing one entry.
#[derive(Debug)]
pub(super) enum Test {
    Skip,
    Busy,
    Drop(DropWhy),
    Take { offset: u32, mlength: u32 },
}

impl Linked for Me {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }

    #[inline]
    fn next(&self) -> Key {
        self.links.next()
    }

    fn name(&self) -> (u32, u64) {
        (self.portal, self.bits)
    }
}

impl Me {
    pub(super) fn new(
        (app, tag): (AppId, u64),
        portal: u32,
        who: ProcessId,
        (bits, ignore): (u64, u64),
        len: u32,
        md: MdSpec,
    ) -> Me {
        let mem = match md.mem {
            MdMem::Source(p) => Mem::Source(p),
            MdMem::Sink(s) => Mem::Sink(Some(s)),
        };
        Me {
            app,
            tag,
            portal,
            who,
            bits,
            ignore,
            mem,
            len,
            threshold: md.threshold,
            max_size: md.max_size,
            manage_remote: md.manage_remote,
            truncate: md.truncate,
            ack_disable: md.ack_disable,
            offset: 0,
            in_flight: 0,
            dying: false,
            links: Links::NONE,
            waiters: VecDeque::new(),
        }
    }

    /// Step 1.
    pub(super) fn exhausted(&self) -> bool {
        self.threshold == Some(0) || self.max_size.is_some_and(|m| self.offset.saturating_add(m) > self.len)
    }

    /// Steps 1 to 7.
    #[inline]
    pub(super) fn test(&self, hdr: &LnetHdr, w: &Wanted, aliases: &Aliases) -> Test {
        if self.portal != w.portal
            || (self.bits ^ w.bits) & !self.ignore != 0
            || self.dying
            || self.exhausted()
            || w.put != matches!(self.mem, Mem::Sink(_))
            || (self.who.pid != PID_ANY && self.who.pid != hdr.src_pid)
            || (!self.who.nid.is_any() && !aliases.acts_for(self.who.nid, hdr.src_nid))
        {
            return Test::Skip;
        }
        if matches!(self.mem, Mem::Sink(None)) {
            return Test::Busy;
        }
        let offset = if self.manage_remote { w.offset } else { self.offset };
        // Kernels do not look, and die of a GET from there (lnet.md §3).
        let Some(left) = self.len.checked_sub(offset) else {
            return Test::Drop(DropWhy::BadOffset);
        };
        // The room behind the initiator's offset may be less than the size that kernels take for granted.
        let room = self.max_size.map_or(left, |m| m.min(left));
        if w.rlength <= room {
            Test::Take { offset, mlength: w.rlength }
        } else if self.truncate {
            Test::Take { offset, mlength: room }
        } else {
            Test::Drop(DropWhy::TooLong)
        }
    }
}
