//! Counts of dropped messages: of each NI and peer by type, and of PUTs and GETs by portal, so that whose service is absent, or has
//! too small buffers, is seen at a glance.

use std::ops::AddAssign;

use super::{DropWhy, Lnet};
use crate::lnd::counters::MsgType;
use crate::lnd::{ByType, Cx, NiId};
use crate::stream::slab::Key;
use crate::wire::{LnetBody, LnetHdr};

/// One name for each portal, and one for those that do not exist.
const NAMES: usize = 65;

macro_rules! by_portal {
    ($cause:literal) => {
        by_portal!($cause: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34
            35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 "none")
    };
    ($cause:literal: $($portal:tt)*) => { [$(concat!($cause, "_portal_", $portal)),*] };
}

/// Names of the counts, by cause and portal.
static ALL: [[&str; NAMES]; 3] =
    [by_portal!("drop_no_match"), by_portal!("drop_too_long"), by_portal!("drop_bad_offset")];

/// The counts, in the order of [`ALL`].
#[derive(Debug)]
pub(crate) struct Drops(Box<[[u64; NAMES]; 3]>);

impl Default for Drops {
    fn default() -> Drops {
        Drops(Box::new([[0; NAMES]; 3]))
    }
}

impl Drops {
    fn add(&mut self, why: DropWhy, portal: u32) {
        let portal = (portal as usize).min(NAMES - 1);
        if let Some(n) = self.0.get_mut(why as usize).and_then(|c| c.get_mut(portal)) {
            *n += 1;
        }
    }

    /// Shows `each` the counts that are not 0, by name.
    pub(crate) fn each(&self, each: &mut dyn FnMut(&'static str, u64)) {
        let all = ALL.iter().zip(self.0.iter()).flat_map(|(names, counts)| names.iter().zip(counts));
        all.filter(|(_, n)| **n > 0).for_each(|(name, n)| each(name, *n));
    }
}

/// Messages received that were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Their number.
    pub messages: ByType,
    /// Their payload in bytes.
    pub bytes: u64,
}

impl Dropped {
    fn count(&mut self, (kind, len): (MsgType, u32)) {
        self.messages.count(kind);
        self.bytes += u64::from(len);
    }
}

impl AddAssign for Dropped {
    fn add_assign(&mut self, more: Dropped) {
        self.messages += more.messages;
        self.bytes += more.bytes;
    }
}

/// The NI that a message came by, and the peer that delivered it, but for messages of this node to itself.
pub(super) type From = (NiId, Option<Key>);

impl Lnet {
    /// Counts a message received that is dropped, at the NI that it came by and at the peer that delivered it.
    #[cold]
    pub(super) fn drop_counted(&mut self, from: From, hdr: &LnetHdr) {
        self.drop_of_type(from, ((&hdr.body).into(), hdr.payload_len));
    }

    /// The same by its type and the length of its payload, in bytes.
    #[cold]
    pub(super) fn drop_of_type(&mut self, (ni, peer): From, what: (MsgType, u32)) {
        match self.nis.get_mut(ni.index()) {
            Some(n) => n.dropped.count(what),
            None => self.own_work.dropped.count(what),
        }
        if let Some(p) = peer.and_then(|p| self.peers.get_mut(p)) {
            p.figures.dropped.count(what);
        }
    }

    /// Counts an ACK or REPLY that nobody waits for.
    #[cold]
    pub(super) fn stale(&mut self, cx: &mut Cx, from: From, hdr: &LnetHdr) {
        cx.counters.drop_stale_handle += 1;
        self.drop_counted(from, hdr);
    }

    /// Counts a PUT or GET that is dropped.
    pub(super) fn dropped(&mut self, cx: &mut Cx, from: From, why: DropWhy, hdr: &LnetHdr) {
        self.drop_counted(from, hdr);
        match why {
            DropWhy::NoMatch => cx.counters.drop_no_match += 1,
            DropWhy::TooLong => cx.counters.drop_too_long += 1,
            DropWhy::BadOffset => cx.counters.drop_bad_offset += 1,
        }
        if let LnetBody::Put { portal, .. } | LnetBody::Get { portal, .. } = hdr.body {
            self.drops.add(why, portal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_and_portal_has_a_name() {
        let mut d = Drops::default();
        for (why, portal) in
            [(DropWhy::NoMatch, 0), (DropWhy::TooLong, 63), (DropWhy::BadOffset, 64), (DropWhy::NoMatch, 9)]
        {
            d.add(why, portal);
        }
        d.add(DropWhy::BadOffset, u32::MAX);
        let mut said = Vec::new();
        d.each(&mut |name, n| said.push((name, n)));
        assert_eq!(
            said,
            [
                ("drop_no_match_portal_0", 1),
                ("drop_no_match_portal_9", 1),
                ("drop_too_long_portal_63", 1),
                ("drop_bad_offset_portal_none", 2)
            ]
        );
    }
}
