//! NIs that come and go while the node runs (docs/protocol/upper.md §2).
//!
//! One that is deleted is chosen no more. Its connections close in order; what has not left by it goes by another pair of NIDs,
//! where there is one, or ends with an error (`resend.rs`), and so do operations that wait for an answer by it. Peers hear of both by a push of
//! the new list, as with kernels.

use super::ni::Ni;
use super::ni_stage::{Stage, Step};
use super::{Lnet, Msg};
use crate::lnd::{Cx, Lnd, LnetError, Moved, NiConfig, NiId};
use crate::stream::slab::Key;
use crate::wire::{NetId, Nid};

impl Lnet {
    /// The stage of a place.
    pub(crate) fn stage(&self, ni: NiId) -> Stage {
        self.nis.get(ni.index()).map_or(Stage::Free, |n| n.stage.get())
    }

    /// The NID at a place; none at one where nothing is, or what is there was deleted.
    pub(crate) fn nid_at(&self, ni: NiId) -> Option<Nid> {
        self.nis.get(ni.index()).map(|n| n.nid).filter(|n| *n != Nid::LO)
    }

    /// Whether an NI that is not deleted has this NID.
    pub(crate) fn has_nid(&self, nid: Nid) -> bool {
        nid != Nid::LO && self.nis.iter().any(|n| n.nid == nid)
    }

    /// Whether any route leads to the network.
    pub(crate) fn routes_lead_to(&self, net: NetId) -> bool {
        self.routes.lead_to(net)
    }

    /// Makes a place ready for an NI; gives whether it was free. The LND of the NI that was there has `moved` these messages.
    pub(crate) fn ni_open(&mut self, cx: &Cx, ni: &NiConfig, moved: Moved) -> bool {
        let at = NiId(ni.place);
        if self.stage(at) != Stage::Free || at.index() > self.nis.len() {
            return false;
        }
        if let Some(gone) = self.figures_of(cx, at, moved) {
            self.gone = self.gone.and(&gone);
        }
        match self.nis.get_mut(at.index()) {
            Some(place) => *place = Ni::new(ni),
            None => self.nis.push(Ni::new(ni)),
        }
        match self.ops.latencies.get_mut(at.index()) {
            Some(all) => *all = Default::default(),
            None => self.ops.latencies.push(Default::default()),
        }
        self.kept.forget(|ni, _| ni == at);
        self.begins_to_hear(cx, at);
        true
    }

    /// The NI at a place runs; gives whether it was ready.
    pub(crate) fn ni_begin(&mut self, cx: &mut Cx, at: NiId) -> bool {
        let Some(ni) = self.nis.get_mut(at.index()).filter(|n| n.stage == Stage::Ready) else { return false };
        ni.stage.apply(Step::Begin);
        ni.gone = false;
        cx.cfg.nis.push(NiConfig { nid: ni.nid, credits: ni.most(), place: at.0 });
        self.begin_watch(&cx.cfg);
        self.newest = Some(at);
        self.nis_changed(cx);
        true
    }

    /// The NI at a place is deleted; gives whether there was one.
    pub(crate) fn ni_close<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], at: NiId) -> bool {
        let Some(ni) = self.nis.get_mut(at.index()) else { return false };
        let ran = ni.stage == Stage::Running;
        if ni.stage.apply(Step::Close).is_none() {
            return false;
        }
        (ni.nid, ni.gone) = (Nid::LO, true);
        ni.waiters.clear();
        cx.cfg.nis.retain(|n| n.place != at.0);
        if ran {
            self.nis_changed(cx);
            self.end_routes();
        }
        self.end_ni(cx, lnds, at);
        true
    }

    /// Nothing is left of the NI at a place.
    pub(crate) fn ni_left(&mut self, at: NiId) {
        if let Some(ni) = self.nis.get_mut(at.index()) {
            ni.stage.apply(Step::Left);
        }
    }

    /// Peers are told that our NIs are others.
    fn nis_changed(&mut self, cx: &Cx) {
        self.sequence = self.sequence.wrapping_add(1);
        self.aliases.set_own(cx.cfg.nids());
        self.rails_changed();
        self.info_changed(cx.cfg.features(), &cx.cfg);
    }

    /// Ends what an NI has on its way, or sends it by others.
    fn end_ni<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], at: NiId) {
        let why = LnetError::NoNi;
        let of = |k: &Key| self.peers.get(*k).is_some_and(|p| p.ni == at);
        let peers: Vec<Key> = self.peers.keys().filter(of).collect();
        let Some(lnd) = lnds.get_mut(at.index()) else { return };
        for peer in &peers {
            let Some(p) = self.peers.get_mut(*peer) else { continue };
            let mut all: Vec<Msg> = std::iter::from_fn(|| p.waiting.pop_any()).collect();
            let held = p.discovery.more.as_mut().map(|m| std::mem::take(&mut m.held)).unwrap_or_default();
            self.discovery.held = self.discovery.held.saturating_sub(held.len());
            all.extend(held);
            for tx in all {
                if tx.answer {
                    self.end_waiting(cx, lnd, *peer, tx, Err(why));
                } else {
                    self.not_sent(cx, *peer, tx, why, None);
                }
            }
        }
        self.fail_delayed_to(cx, &peers, why);
        self.fars_end(cx, at, why);
        lnd.leave(self, cx);
        // What goes by another NI now is not ended.
        let again: Vec<Key> = self.unsent_ops().collect();
        for op in self.ops.waiting() {
            if self.ops.get(op).is_some_and(|r| r.ni == at) && !again.contains(&op) {
                let event = self.ops.fail(op, cx.now, why);
                self.complete_some(event);
            }
        }
    }
}
