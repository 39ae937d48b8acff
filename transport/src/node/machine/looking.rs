//! Looking into a machine: its peers, its NIs, and the nodes behind routers.

use super::Machine;
use crate::lnd::NiId;
use crate::lnet::Lnet;
use crate::lnet::PeerNiView;
use crate::lnet::figures::{NiFigures, PeerFigures};
use crate::socklnd::{PeerBrief, PeerView, Socklnd};
use crate::stream::slab::Key;
use crate::wire::ProcessId;

impl Machine {
    /// Shows `each` every peer that is remembered.
    pub fn peers(&self, each: &mut dyn FnMut(PeerView)) {
        for lnd in &self.lnds {
            lnd.views(&mut |mut view, above| {
                (view.credits_used, view.waiting) = self.lnet.credits(above);
                each(view);
            });
        }
    }

    /// Shows `each` the figures of every NI, the primary one first, and behind them those of messages of the node to itself.
    pub fn nis(&self, each: &mut dyn FnMut(NiFigures)) {
        let moved = |ni: NiId| self.lnds.get(ni.index()).map(|l| l.moved).unwrap_or_default();
        self.lnet.figures(&self.cx, moved, each);
    }

    /// Figures of all NIs that were deleted, together.
    pub fn gone_nis(&self) -> NiFigures {
        let moved = |ni: NiId| self.lnds.get(ni.index()).map(|l| l.moved).unwrap_or_default();
        self.lnet.gone_figures(&self.cx, moved)
    }

    /// Operations that wait for an answer.
    pub fn ops(&self) -> usize {
        self.lnet.ops.len()
    }

    /// Messages that wait for credits, or until their peer is known.
    pub fn waiting(&self) -> usize {
        self.lnet.waiting()
    }

    /// The same, counted anew.
    #[cfg(feature = "testing")]
    pub fn waiting_recounted(&self) -> usize {
        self.lnet.waiting_recounted()
    }

    fn with_credits(&self, mut brief: PeerBrief, above: Key) -> PeerBrief {
        let (used, waiting) = self.lnet.credits(above);
        brief.credits_used = used;
        brief.queued = brief.queued.saturating_add(waiting as u32);
        brief
    }

    /// One peer in a few words; `None` for one that is not remembered.
    pub fn brief(&self, id: ProcessId) -> Option<PeerBrief> {
        let peer = self.lnds.iter().find_map(|l| l.brief(id)).map(|(b, above)| self.with_credits(b, above));
        peer.or_else(|| self.lnet.fars.by_id(id).map(|(id, held)| PeerBrief::routed(id, held)))
    }

    /// Shows `each` the peers in `most` places of the table from `from`; gives the number of all places.
    pub fn briefs(&self, from: usize, most: usize, each: &mut dyn FnMut(PeerBrief)) -> usize {
        let near = self.paged(from, most, |lnd, skip, room| {
            lnd.briefs(skip, room, &mut |b, above| each(self.with_credits(b, above)))
        });
        let fars = self.fars_from(from, most, near).filter_map(|at| self.lnet.fars.at(at));
        fars.for_each(|(id, held)| each(PeerBrief::routed(id, held)));
        near + self.lnet.fars.places()
    }

    /// Shows `each` the figures of the peers in `most` places of the table from `from`; gives the number of all places.
    pub fn peer_figures(&self, from: usize, most: usize, each: &mut dyn FnMut(PeerFigures)) -> usize {
        let near = self.paged(from, most, |lnd, skip, room| {
            lnd.moved(skip, room, &mut |id, moved, above| {
                self.lnet.peer_figures(id, moved, above).into_iter().for_each(&mut *each);
            })
        });
        let fars = self.lnet.fars.places();
        self.fars_from(from, most, near).filter_map(|at| self.lnet.far_figures(at)).for_each(&mut *each);
        let end = near + fars;
        let (skip, done) = (from.saturating_sub(end), end.saturating_sub(from));
        let kept = (skip..self.lnet.kept.places()).take(most.saturating_sub(done));
        kept.filter_map(|at| self.lnet.kept_figures(at)).for_each(each);
        end + self.lnet.kept.places()
    }

    /// Looks at `most` places from `from` of the tables of all LNDs, one behind the other; gives the number of all places.
    fn paged(
        &self,
        from: usize,
        most: usize,
        mut look: impl FnMut(&Socklnd<Lnet>, usize, usize) -> usize,
    ) -> usize {
        let mut before = 0;
        for lnd in &self.lnds {
            let (skip, done) = (from.saturating_sub(before), before.saturating_sub(from));
            before += look(lnd, skip, most.saturating_sub(done));
        }
        before
    }

    /// Of those places the ones of nodes behind routers, which come behind the `near` ones.
    fn fars_from(&self, from: usize, most: usize, near: usize) -> impl Iterator<Item = usize> + use<> {
        let (skip, done) = (from.saturating_sub(near), near.saturating_sub(from));
        (skip..self.lnet.fars.places()).take(most.saturating_sub(done))
    }

    /// Nodes behind routers that are known.
    #[cfg(feature = "testing")]
    pub fn fars(&self) -> usize {
        self.lnet.fars.len()
    }

    /// Shows `each` the NIDs of peers in `most` places from `from`; gives the number of all places. One that several of our NIs
    /// speak with is there for each.
    pub fn peer_nis(&self, from: usize, most: usize, each: &mut dyn FnMut(PeerNiView)) -> usize {
        self.lnet.ni_views(&self.cx, &self.lnds, from, most, each)
    }
}
