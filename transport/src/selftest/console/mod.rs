//! `lst`, as a machine: a console of lnet_selftest with lst's verbs, options and texts (docs/selftest.md,
//! docs/protocol/selftest.md §5).
//!
//! Words come in by [`Console::type_in`], results come out of [`Console::said`]. In between it asks nodes, over [`Rpcs`], and
//! knows no socket and no clock. What would stop a kernel never goes out ([`params`]).
//!
//! ```text
//!   words -> command -> core: one verb at a time, its steps in members, batches, watch
//!                         desk: session, book, what is said (report)
//!                         Rpcs: questions out, answers in
//! ```

mod batches;
pub mod book;
pub mod command;
mod core;
mod desk;
pub mod help;
mod members;
pub mod nidlist;
pub mod params;
pub mod report;
mod watch;
mod words;

#[cfg(test)]
mod tests;

use self::core::{Core, Want};
use self::desk::Fail;
use super::{Ask, Bulk, Done, Ops, Rpcs, first_id};
use crate::lnd::{AppId, Payload};
use crate::lnet::Event;
use crate::wire::srpc::{DEST_PAGE, FEAT_BULK_LEN, dest};
use crate::wire::{Nid, ProcessId};

pub use self::core::Said;
pub use self::desk::{FAILED, INTERRUPTED, NO_SESSION, REFUSED, STATUSES, UNHEARD};
pub use self::words::split;

/// The name by which a node tells its consoles' RPCs apart (see [`first_id`]).
const INSTANCE: u8 = 2;

/// Setup of a console: its node's identity.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The event queue of its RPCs.
    pub app: AppId,
    /// The first NID of the node that is not `0@lo`: it names the sessions.
    pub own: Nid,
    /// Name of a session that is given none.
    pub name: String,
    /// Features that sessions begin with: [`FEATS`](crate::wire::srpc::FEATS), or 0.
    pub features: u32,
    /// Unix time in ns at the time 0 of its turns.
    pub unix_ns: u64,
}

/// A console: one session at most, one verb at a time.
pub struct Console {
    core: Core,
    rpcs: Rpcs,
}

impl Console {
    /// A console without a session.
    pub fn new(setup: Setup) -> Console {
        let epoch_ms = i64::try_from(setup.unix_ns / 1_000_000).unwrap_or(i64::MAX);
        Console {
            core: Core::new(setup.own, setup.features, epoch_ms, setup.name),
            rpcs: Rpcs::new(setup.app, first_id(setup.unix_ns, INSTANCE)),
        }
    }

    /// Types a verb, in words, and gives its number; it runs when those before it have ended, or wait for their next look, as
    /// `stat` does most of the time. `key` is LST_SESSION, and `features` LST_FEATURES, which `new_session` begins with: where there
    /// are such.
    pub fn type_in(&mut self, words: Vec<String>, key: Option<u32>, features: Option<u32>) -> u64 {
        self.core.type_in(words, key, features)
    }

    /// The next thing that it says.
    pub fn said(&mut self) -> Option<Said> {
        self.core.said().map(|(_, s)| s)
    }

    /// The next thing that it says, and the number of the verb that says it.
    pub fn said_by(&mut self) -> Option<(u64, Said)> {
        self.core.said()
    }

    /// Whether no verb is under way.
    pub fn is_idle(&self) -> bool {
        self.core.is_idle()
    }

    /// Whether a session is there.
    pub fn has_session(&self) -> bool {
        self.core.has_session()
    }

    /// RPCs that are under way.
    pub fn under_way(&self) -> usize {
        self.rpcs.len()
    }

    /// Ends the verbs that are under way: what repeats itself ends here, what only looks or has not begun is dropped, and what
    /// changes something comes to its end.
    pub fn interrupt(&mut self, now: u64, ops: &mut Ops) {
        self.core.interrupt(now);
        self.turn(now, ops);
    }

    /// The same for one verb, by its number.
    pub fn interrupt_one(&mut self, now: u64, verb: u64, ops: &mut Ops) {
        self.core.interrupt_one(now, verb);
        self.turn(now, ops);
    }

    /// An event of its application; `now` is in ns.
    pub fn event(&mut self, now: u64, ev: Event, ops: &mut Ops) {
        if let Some(done) = self.rpcs.event(now, ev, ops) {
            self.done(now, done);
        }
        self.turn(now, ops);
    }

    /// Goes on with what can go on; gives whether anything did.
    pub fn turn(&mut self, now: u64, ops: &mut Ops) -> bool {
        let mut busy = false;
        loop {
            for tag in std::mem::take(&mut self.core.dropped) {
                self.rpcs.abort(tag, ops);
            }
            while let Some(want) = self.core.wants.pop_front() {
                self.start(now, want, ops);
            }
            while let Some(done) = self.rpcs.turn(now, ops) {
                self.done(now, done);
            }
            if !self.core.turn(now) {
                return busy;
            }
            busy = true;
        }
    }

    /// Time at which it must be turned though no event comes, in ns.
    pub fn deadline(&self) -> Option<u64> {
        [self.core.deadline(), self.rpcs.deadline()].into_iter().flatten().min()
    }

    fn start(&mut self, now: u64, want: Want, ops: &mut Ops) {
        let Want { tag, nid, request, dests, timeout_ns } = want;
        let (service, _) = request.body.kind();
        let bulk = match dests.is_empty() {
            true => Bulk::None,
            false => match list(&dests, request.features) {
                Some(pages) => Bulk::Source(pages),
                None => {
                    let why = "no memory for the list of servers".to_owned();
                    return self.core.answer(now, tag, Err(Fail { errno: 12, why }));
                }
            },
        };
        let peer = ProcessId::lustre(nid);
        self.rpcs.start(now, Ask { tag, peer, from: None, service, request, bulk, timeout_ns }, ops);
    }

    fn done(&mut self, now: u64, done: Done) {
        let got = done.outcome.map_err(|e| Fail { errno: e.errno(), why: e.to_string() });
        self.core.answer(now, done.tag, got);
    }
}

/// The list of destinations of a TEST: entry by entry, or without BULK_LEN in whole pages (selftest.md §3, §5).
fn list(dests: &[Nid], features: u32) -> Option<Payload> {
    let mut bytes: Vec<u8> = dests.iter().flat_map(|n| dest(ProcessId::lustre(*n))).collect();
    if features & FEAT_BULK_LEN == 0 {
        bytes.resize(bytes.len().next_multiple_of(DEST_PAGE), 0);
    }
    Payload::copy_of(&bytes)
}
