//! Nodes behind routers: they are no peers of an LND, so what discovery knows of them stands here (docs/protocol/upper.md §1.5).
//!
//! Each is asked who it is before the first message of an application to it, as a peer is, by the gateway that the message was given to;
//! and by the same gateway it is told of us. Each shard knows those that it sends to.
//!
//! A question is lost with its gateway: when the route by that goes down or is deleted, and when its connections have ended and it answers
//! a check again. What waits goes on by a gateway that is up then, and asks anew there (resend.rs); without one it ends.

use std::collections::VecDeque;

use super::discovery::{self, About, News, PUSHERS, PUSHES, Step, Subject};
use super::{Lnet, Msg, TxDone};
use crate::hash::{OwnMap, PeerMap};
use crate::lnd::{Cx, Lnd, LnetError, NiId};
use crate::stream::Bucket;
use crate::stream::slab::{Key, Slab};
use crate::wire::{Nid, ProcessId};

/// Nodes behind routers that a shard knows at a time. Those that are not being asked give way to new ones, the oldest first.
const FARS_MAX: usize = 8192;
/// Entries that are looked at for one that may go.
const TRIES: usize = 64;

/// A node behind a router.
#[derive(Debug)]
pub(super) struct Far {
    pub(super) id: ProcessId,
    /// The gateway by which it is asked, and the NI that leads there.
    via: ProcessId,
    ni: NiId,
    pub(super) discovery: discovery::Peer,
}

impl Far {
    /// Whether it is being asked or told something.
    fn is_busy(&self, asked: &OwnMap<u64, About>) -> bool {
        self.discovery.busy() || self.discovery.serial().is_some_and(|s| asked.contains_key(&s))
    }
}

impl From<Key> for Subject {
    fn from(peer: Key) -> Subject {
        Subject { via: peer, far: None }
    }
}

/// The nodes behind routers that a shard knows.
#[derive(Debug)]
pub(crate) struct Fars {
    all: Slab<Far>,
    by_nid: PeerMap<Nid, Key>,
    by_age: VecDeque<Key>,
    /// Messages that wait for their answers.
    pub(super) held: usize,
}

impl Fars {
    pub(super) fn new() -> Fars {
        Fars { all: Slab::new(), by_nid: PeerMap::default(), by_age: VecDeque::new(), held: 0 }
    }

    pub(super) fn get(&self, key: Key) -> Option<&Far> {
        self.all.get(key)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Far> {
        self.all.get_mut(key)
    }

    /// The place of the node of a NID.
    pub(super) fn find(&self, nid: Nid) -> Option<Key> {
        self.by_nid.get(&nid).copied()
    }

    /// Nodes known.
    #[cfg(feature = "testing")]
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Places for them.
    pub(crate) fn places(&self) -> usize {
        self.all.capacity()
    }

    /// The node at a place: who it is, and how many messages wait until it is known.
    pub(crate) fn at(&self, place: usize) -> Option<(ProcessId, usize)> {
        let far = self.all.get(self.all.key_at(place)?)?;
        Some((far.id, far.discovery.waiting()))
    }

    /// The node at a place, and what discovery knows of it.
    pub(super) fn known_at(&self, place: usize) -> Option<(ProcessId, &discovery::Peer)> {
        let far = self.all.get(self.all.key_at(place)?)?;
        Some((far.id, &far.discovery))
    }

    /// The same of a node by its name.
    pub(crate) fn by_id(&self, id: ProcessId) -> Option<(ProcessId, usize)> {
        let far = self.all.get(*self.by_nid.get(&id.nid)?)?;
        (far.id == id).then(|| (far.id, far.discovery.waiting()))
    }

    /// Whether there is room for one more, made if need be.
    fn make_room(&mut self, asked: &OwnMap<u64, About>) -> bool {
        for _ in 0..TRIES {
            if self.all.len() < FARS_MAX {
                return true;
            }
            let Some(oldest) = self.by_age.pop_front() else { return false };
            match self.all.get(oldest) {
                Some(f) if f.is_busy(asked) => self.by_age.push_back(oldest),
                _ => self.remove(oldest),
            }
        }
        self.all.len() < FARS_MAX
    }

    fn remove(&mut self, key: Key) {
        if let Some(far) = self.all.remove(key) {
            self.by_nid.remove(&far.id.nid);
        }
        // Names of entries that are gone do not pile up.
        if self.by_age.len() > 2 * self.all.len() + TRIES {
            self.by_age.retain(|k| self.all.get(*k).is_some());
        }
    }
}

impl Lnet {
    /// The node behind the gateway `peer`, whose LND is that of `ni`; `None` where there is no room for one more.
    pub(super) fn far_subject(&mut self, ni: NiId, peer: Key, nid: Nid) -> Option<Subject> {
        let via = self.peers.get(peer)?.id;
        let asked = &self.discovery.asked;
        if let Some(key) = self.fars.by_nid.get(&nid).copied() {
            let far = self.fars.all.get_mut(key)?;
            if !far.is_busy(asked) {
                (far.via, far.ni) = (via, ni);
            }
            return Some(Subject { via: peer, far: Some(key) });
        }
        if !self.fars.make_room(asked) {
            return None;
        }
        let far = Far { id: ProcessId::lustre(nid), via, ni, discovery: discovery::Peer::NEW };
        let key = self.fars.all.insert(far);
        self.fars.by_nid.insert(nid, key);
        self.fars.by_age.push_back(key);
        Some(Subject { via: peer, far: Some(key) })
    }

    /// A node of which something has been heard, with the gateway that it was asked by.
    pub(super) fn far_again<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        far: Key,
    ) -> Option<Subject> {
        let (via, ni) = self.fars.get(far).map(|f| (f.via, f.ni))?;
        let lnd = lnds.get_mut(ni.index())?;
        let via = match lnd.find(via) {
            Some(peer) => peer,
            None => self.target_peer(cx, lnd, via, None).ok()?,
        };
        Some(Subject { via, far: Some(far) })
    }

    /// There is no way to its gateway any more: what waits for its answer ends.
    pub(super) fn far_lost(&mut self, cx: &mut Cx, far: Key) {
        let Some(f) = self.fars.get_mut(far) else { return };
        if f.discovery.standing.apply(Step::Failed).is_none() {
            f.discovery.standing.apply(Step::Untold);
        }
        self.end_far(cx, far, LnetError::Unreachable);
    }

    fn end_far(&mut self, cx: &mut Cx, far: Key, why: LnetError) {
        let Some(f) = self.fars.get_mut(far) else { return };
        let held = f.discovery.more.as_mut().map(|m| std::mem::take(&mut m.held)).unwrap_or_default();
        self.fars.held = self.fars.held.saturating_sub(held.len());
        for tx in held {
            self.end(cx, Key::NOWHERE, tx, Err(why));
        }
    }

    /// A gateway has lost what it was asked until then (ns) about nodes behind it, by routes that are down or, if `all`, by any.
    pub(super) fn questions_lost(&mut self, gateway: Nid, until: u64, all: bool) {
        for far in self.fars.all.keys() {
            let Some(f) = self.fars.get(far).filter(|f| f.discovery.busy() && f.via.nid == gateway) else {
                continue;
            };
            let Some(more) = &f.discovery.more else { continue };
            let asked = self.ops.by_object(more.object).and_then(|op| self.ops.get(op));
            let leads = || self.routes.get(f.id.nid.net(), gateway).is_some_and(|r| r.up);
            if asked.is_none_or(|r| r.began <= until) && (all || !leads()) {
                self.discovery.news.extend(f.discovery.serial().map(|serial| News::Lost(far, serial)));
            }
        }
    }

    /// The question of that number is lost: what waits for its answer looks for another gateway.
    pub(super) fn question_lost(&mut self, cx: &mut Cx, far: Key, serial: u64) {
        let Some(f) = self.fars.get_mut(far).filter(|f| f.discovery.serial() == Some(serial)) else { return };
        let (ni, via) = (f.ni, f.via);
        if f.discovery.standing.apply(Step::Failed).is_none() {
            return;
        }
        let more = f.discovery.more();
        more.sinks = 0;
        let (held, object) = (std::mem::take(&mut more.held), more.object);
        self.fars.held = self.fars.held.saturating_sub(held.len());
        self.discovery.asked.remove(&serial);
        if let Some(op) = self.ops.by_object(object) {
            // Nobody waits for it any more.
            drop(self.ops.fail(op, cx.now, LnetError::ConnLost));
        }
        cx.counters.discoveries_failed += 1;
        for tx in held {
            self.by_another_gateway(cx, (ni, via), tx, LnetError::Unreachable);
        }
    }

    /// A message whose node could not be asked by that gateway goes by another one, if any is up.
    pub(super) fn not_asked(&mut self, cx: &mut Cx, via: Key, tx: Msg, why: LnetError) {
        let by = self.peers.get(via).map(|p| (p.ni, p.id));
        let dest = tx.hdr.as_ref().map(|h| h.dest_nid);
        match by.zip(dest).filter(|(by, dest)| self.routes.takers(*dest).any(|g| g != by.1.nid)) {
            Some((by, _)) => self.by_another_gateway(cx, by, tx, why),
            None => self.not_sent(cx, via, tx, why, None),
        }
    }

    /// Ends all that waits for answers of such nodes: the node goes down.
    pub(super) fn end_fars(&mut self, cx: &mut Cx, why: LnetError) {
        for far in self.fars.all.keys().collect::<Vec<_>>() {
            self.end_far(cx, far, why);
        }
    }

    /// Those that were asked by an NI that is deleted are forgotten, and what waits for their answers ends.
    pub(super) fn fars_end(&mut self, cx: &mut Cx, ni: NiId, why: LnetError) {
        for key in self.fars.all.keys().collect::<Vec<_>>() {
            let Some(far) = self.fars.get(key).filter(|f| f.ni == ni) else { continue };
            if let Some(serial) = far.discovery.serial() {
                self.discovery.asked.remove(&serial);
            }
            self.end_far(cx, key, why);
            self.fars.remove(key);
        }
    }

    /// Our info has changed: nodes that want to know are told, by the gateways that they were asked by.
    pub(super) fn tell_fars<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], ours: u32) {
        for far in self.fars.all.keys().collect::<Vec<_>>() {
            let known = self.fars.get(far).filter(|f| !f.discovery.busy());
            let Some(more) = known.and_then(|f| f.discovery.more.as_ref()) else { continue };
            if more.features & ours & PUSHERS == PUSHERS
                && more.untold < PUSHES
                && let Some(subject) = self.far_again(cx, lnds, far)
                && let Some(lnd) = self.lnd_of(lnds, subject.via)
            {
                self.tell(cx, lnd, subject);
            }
        }
    }

    /// A node behind a router is to be asked again with the next message.
    pub(super) fn far_lose(&mut self, nid: Nid) {
        let far = self.fars.by_nid.get(&nid).copied().and_then(|key| self.fars.all.get_mut(key));
        if let Some(serial) = far.and_then(|f| f.discovery.lose()) {
            self.discovery.asked.remove(&serial);
        }
    }

    /// A message that waited goes by that gateway, whichever it was given to at first.
    pub(super) fn goes_by(&mut self, via: Key, tx: &Msg) {
        let Some(via) = self.peers.get(via).map(|p| p.id.nid) else { return };
        if let TxDone::Op(op) = tx.done
            && let Some(rec) = self.ops.get_mut(op)
        {
            rec.via = via;
        }
    }

    /// Whether messages wait for an answer of a node behind a router: buckets stay where they are meanwhile.
    pub(super) fn far_waits(&self) -> bool {
        self.fars.held > 0
    }

    /// The gateways of a bucket go to another shard, and with them what is asked of the nodes behind them.
    pub(super) fn fars_leave(&mut self, b: Bucket) {
        for key in self.fars.all.keys().collect::<Vec<_>>() {
            let Some(far) = self.fars.get(key) else { continue };
            if far.via.nid.ip().map(Bucket::of) == Some(b) && far.is_busy(&self.discovery.asked) {
                if let Some(serial) = far.discovery.serial() {
                    self.discovery.asked.remove(&serial);
                }
                self.fars.remove(key);
            }
        }
    }

    /// Whether a network is one of ours: its nodes are peers.
    pub(super) fn is_near(&self, nid: Nid) -> bool {
        self.nis.iter().any(|n| n.nid.same_net(nid))
    }
}
