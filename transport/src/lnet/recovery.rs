//! Recovery: one of several NIDs of a peer that has failed is pinged until it is well again (docs/protocol/upper.md §3).
//!
//! ```text
//!           Failed / plan                    Due / ping
//!   WELL --------------------> WAITING <------------------> PINGING
//!    ^  ^                       |  ^      Unanswered / plan    |
//!    |  '------- Over ----------'  '----- Better / plan -------|
//!    '------------------------------------ Best ---------------'
//! ```
//!
//! A NID of which its node says that it is down is pinged so, too: its node says with a push when it is up again, but pushes get lost, and
//! the answer to a ping says it as well. So what was lost is mended after `lnet_max_recovery_ping_interval` at the latest. An answer that
//! still says that it is down is none.
//!
//! The first ping follows a failure after 1 s, the next ones after 2, 4, 8 s and so on, up to `lnet_max_recovery_ping_interval`; after
//! an answer it begins anew. Each answer raises the value by a step; a ping that fails lowers it as any message would. After
//! `lnet_recovery_limit` it is over, until the next failure. The NID's home does it, by whichever own NI is best.
//!
//! Strangers may tell of any NIDs. Of one that nothing but a node's word says is down, pings end when that node's last connection has,
//! and go on when it says so again. Such an entry for a peer is charged to the host that told of it, and goes with the ping.

use std::collections::BTreeSet;

use fsm::Fsm;

use super::Lnet;
use super::asking::ROOM;
use super::causes::BEST;
use super::ops::OpKind;
use super::remote::Body;
use crate::hash::{OwnMap, PeerMap};
use crate::lnd::config::SEC;
use crate::lnd::{AppId, Config, Cx, Lnd, LnetError, NiId};
use crate::stream::Bucket;
use crate::stream::slab::Key;
use crate::wire::{Nid, ProcessId, WireHandle};

/// NIDs that are pinged at a time, about 2 MiB: there are names of no more (`transport/src/lnet/aliases.rs`).
const PATIENTS: usize = 16_384;

fsm::fsm! {
    /// Recovery of a peer's NI.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Stage {
        /// Nothing.
        Well,
        /// It is to be pinged in a while.
        Waiting,
        /// It is being pinged.
        Pinging,
    }

    /// Causes of change.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Step {
        /// A message to it has failed.
        Failed,
        /// Its time has come.
        Due,
        /// It has answered, and is not at its best.
        Better,
        /// It has answered, and is.
        Best,
        /// It has not answered.
        Unanswered,
        /// It has been tried for as long as it may; or the user says that it is well.
        Over,
    }

    /// Actions on a transition.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Act {
        /// Nothing.
        Nothing,
        /// Choose the time of the next ping.
        Plan,
        /// Ping it.
        Ping,
    }

    table Stage + Step => Act {
        start Well;
        else "it is ignored";
        Well + Failed => Waiting, Plan;
        Waiting + Due => Pinging, Ping;
        Waiting + Over => Well, Nothing;
        Pinging + Better | Unanswered => Waiting, Plan;
        Pinging + Best => Well, Nothing;
    }
}

/// A NID that is pinged until it is well.
#[derive(Debug)]
struct Patient {
    stage: Fsm<Stage>,
    /// Pings since the last one that was answered.
    ping_count: u32,
    /// Time of the next one, in ns.
    next_ping: u64,
    /// Time of the last one, in ns, and of the failure that it all began with.
    pinged: u64,
    since: u64,
}

/// NIDs that are pinged until they are well.
#[derive(Debug)]
pub(super) struct Recovery {
    patients: PeerMap<Nid, Patient>,
    /// Times of pings.
    due: BTreeSet<(u64, Nid)>,
    /// Pings under way, by number.
    asked: OwnMap<u64, Nid>,
    /// Nothing is to be done before, for own NIs neither, in ns: it is asked for in each turn.
    wake: u64,
}

impl Default for Recovery {
    fn default() -> Recovery {
        let (patients, due, asked) = (PeerMap::default(), BTreeSet::new(), OwnMap::default());
        Recovery { patients, due, asked, wake: u64::MAX }
    }
}

impl Recovery {
    /// Pings of a NID since the last one that was answered, and the time of the next one in ns; 0 for none.
    pub(super) fn of(&self, nid: Nid) -> (u32, u64) {
        self.patients.get(&nid).map_or((0, 0), |p| (p.ping_count, p.next_ping))
    }

    /// Whether a ping of the NID is on its way.
    pub(super) fn pings(&self, nid: Nid) -> bool {
        self.patients.get(&nid).is_some_and(|p| p.stage == Stage::Pinging)
    }

    /// Whether a NID is pinged until it is well.
    pub(super) fn has(&self, nid: Nid) -> bool {
        self.patients.contains_key(&nid)
    }

    /// Goes through the table; gives whether the NID is to be pinged.
    fn step(&mut self, cx: &Cx, nid: Nid, step: Step) -> bool {
        let Some(p) = self.patients.get_mut(&nid) else { return false };
        let now = cx.now;
        match p.stage.apply(step) {
            Some(Act::Ping) => {
                (p.ping_count, p.pinged) = (p.ping_count.saturating_add(1), now);
                return true;
            }
            Some(Act::Plan) => {
                if step == Step::Better {
                    (p.pinged, p.ping_count) = (now, 0);
                }
                let after = 1u64.checked_shl(p.ping_count).map_or(u64::MAX, |s| s.saturating_mul(SEC));
                p.next_ping = p.pinged.saturating_add(after.min(cx.cfg.max_recovery_interval)).max(now);
                self.wake = self.wake.min(p.next_ping);
                self.due.insert((p.next_ping, nid));
            }
            Some(Act::Nothing) | None => {}
        }
        if p.stage == Stage::Well {
            self.patients.remove(&nid);
        }
        false
    }
}

impl Lnet {
    /// There is something to do at once, if links are to be looked at.
    pub(super) fn begin_watch(&mut self, cfg: &Config) {
        if cfg.links_every().is_some() {
            self.recover_by(0);
        }
    }

    /// Time at which there is something to do for NIs that are not well, in ns; `u64::MAX` for never.
    #[inline]
    pub(super) fn recovery_wake(&self) -> u64 {
        self.recovery.wake
    }

    /// By then, in ns, something is to be done for own NIs.
    pub(super) fn recover_by(&mut self, at: u64) {
        self.recovery.wake = self.recovery.wake.min(at);
    }

    /// A NID has failed: it is pinged until it is well.
    pub(super) fn recover_from(&mut self, cx: &Cx, nid: Nid) {
        let now = cx.now;
        // Some may be nobody's any more.
        if self.recovery.patients.len() >= PATIENTS && !self.recovery.has(nid) {
            let Recovery { patients, due, .. } = &mut self.recovery;
            patients.retain(|n, p| {
                let stays = p.stage == Stage::Pinging || self.aliases.nids(*n).is_some();
                if !stays {
                    due.remove(&(p.next_ping, *n));
                }
                stays
            });
            if patients.len() >= PATIENTS {
                return;
            }
        }
        let new = || Patient { stage: Fsm::START, ping_count: 0, next_ping: 0, pinged: now, since: now };
        self.recovery.patients.entry(nid).or_insert_with(new);
        self.recovery.step(cx, nid, Step::Failed);
    }

    /// The user says that a NID is well: a ping that is under way decides, and none is to come.
    pub(super) fn recovered(&mut self, cx: &Cx, nid: Nid) {
        if let Some(next) = self.recovery.patients.get(&nid).map(|p| p.next_ping) {
            self.recovery.due.remove(&(next, nid));
            self.recovery.step(cx, nid, Step::Over);
        }
    }

    /// Whether nothing says that the NID is not well but the word of a node that has gone.
    fn is_moot(&self, nid: Nid) -> bool {
        self.health.of(nid) == (false, BEST) && self.aliases.told_by(nid).is_some_and(|(_, there)| !there)
    }

    /// Ends the pings of a NID of which that is so.
    pub(super) fn end_moot(&mut self, cx: &Cx, nid: Nid) {
        if self.recovery.has(nid) && self.is_moot(nid) {
            self.recovered(cx, nid);
            if let Some(p) = self.health.peers.get_mut(&nid) {
                p.moot = true;
            }
        }
    }

    /// Pings the NIDs whose time has come.
    pub(super) fn recover<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) {
        self.recovery.wake = u64::MAX;
        if cx.down {
            self.recovery.due.clear();
            return;
        }
        self.own_recover(cx);
        while let Some((at, nid)) = self.recovery.due.first().copied().filter(|d| d.0 <= cx.now) {
            self.recovery.due.remove(&(at, nid));
            self.end_moot(cx, nid);
            let Some(since) = self.recovery.patients.get(&nid).map(|p| p.since) else { continue };
            let (limit, me) = (cx.cfg.recovery_limit, cx.cfg.shards.me);
            let home = nid.ip().map_or(me, |ip| cx.homes.of(ip));
            // It may have said so itself meanwhile.
            let well = self.health.of(nid) == (true, BEST);
            let over = well || limit > 0 && cx.now >= since.saturating_add(limit);
            if over || home != me || self.aliases.nids(nid).is_none() {
                self.recovery.step(cx, nid, Step::Over);
                if home != me && !over {
                    self.post(home, Body::Recover(nid));
                }
            } else if self.recovery.step(cx, nid, Step::Due) && !self.recovery_ping(cx, lnds, nid) {
                self.recovery.step(cx, nid, Step::Unanswered);
            }
        }
        // The links of ports are looked at where timers are (`transport/src/node/shard.rs`).
        if let Some(every) = cx.cfg.links_every() {
            self.recover_by(cx.now + every);
        }
        if let Some(next) = self.recovery.due.first() {
            self.recovery.wake = self.recovery.wake.min(next.0);
        }
    }

    /// NIDs of a bucket that leaves are their new home's affair.
    pub(super) fn recovery_leaves(&mut self, cx: &Cx, b: Bucket) {
        let of = |nid: &Nid| nid.ip().map(Bucket::of) == Some(b);
        let left: Vec<(u64, Nid)> =
            self.recovery.asked.iter().filter(|a| of(a.1)).map(|a| (*a.0, *a.1)).collect();
        for (serial, nid) in left {
            self.recovery.asked.remove(&serial);
            // It is passed on when its time comes.
            self.recovery.step(cx, nid, Step::Unanswered);
        }
    }

    /// Pings an NI; `false` where that cannot be.
    fn recovery_ping<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], nid: Nid) -> bool {
        let target = ProcessId::lustre(nid);
        let Some(ni) = self.ni_for(nid) else { return false };
        let Some(lnd) = lnds.get_mut(ni.index()) else { return false };
        let known = lnd.find(target);
        // Nothing but its node's word says that there is such a NID.
        let hearsay = known.is_none() && self.health.of(nid) == (false, BEST);
        let teller = self.aliases.told_by(nid).filter(|_| hearsay);
        let peer = match teller {
            Some((host, _)) => self.named_peer(cx, lnd, target, host),
            None => self.target_peer(cx, lnd, target, known),
        };
        let Ok(peer) = peer else { return false };
        let sink = self.discovery.sink.max(ROOM);
        let kind = OpKind::Ping { placing: false, sink };
        let (serial, op, handle) = self.unnoted_op(cx.now, (nid, nid, ni), kind, cx.cfg.lnd_timeout());
        self.recovery.asked.insert(serial, nid);
        let mut tx = self.ping_of(cx, ni, target, (op, handle), sink);
        self.launch(cx, lnd, peer, &mut tx);
        // Its back-off is that of recovery.
        if teller.is_some()
            && let Some(entry) = self.peers.get(peer).map(|p| p.entry)
        {
            lnd.let_go(self, cx, entry);
        }
        true
    }

    /// Begins an operation of the node's own on `target`, given to `via`, that is to end within so many ns; gives its number, which the
    /// caller notes.
    pub(super) fn unnoted_op(
        &mut self,
        now: u64,
        way: (Nid, Nid, NiId),
        kind: OpKind,
        patience: u64,
    ) -> (u64, Key, WireHandle) {
        let serial = self.discovery.serial();
        let of = (AppId::NODE, serial);
        let (op, handle) = self.ops.start(of, way, kind, (now, now + patience));
        (serial, op, handle)
    }

    /// An operation of the node's own has ended: whether it was a recovery ping.
    pub(super) fn recovery_heard<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        serial: u64,
        answer: &Result<Vec<u8>, LnetError>,
    ) -> bool {
        let Some(nid) = self.recovery.asked.remove(&serial) else { return false };
        if let Ok(bytes) = answer {
            self.patient_says(cx, lnds, nid, bytes);
        }
        if answer.is_err() || !self.health.of(nid).0 {
            self.recovery.step(cx, nid, Step::Unanswered);
            return true;
        }
        let value = (self.health.of(nid).1 + cx.cfg.health_sensitivity.max(1)).min(BEST);
        self.peer_is(cx, nid, value);
        self.recovery.step(cx, nid, if value == BEST { Step::Best } else { Step::Better });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Stage;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<Stage>(), @r"
        Well + Failed -> Waiting, Plan
        Waiting + Due -> Pinging, Ping
        Waiting + Over -> Well, Nothing
        Pinging + Better -> Waiting, Plan
        Pinging + Best -> Well, Nothing
        Pinging + Unanswered -> Waiting, Plan
        otherwise: it is ignored
        ");
    }
}
