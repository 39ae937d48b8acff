//! NIDs of peers for those who look in: whose they are, and how well they are (`lnetctl peer show`).

use super::causes::{BEST, Causes};
use super::discovery::Standing;
use super::figures::PeerFigures;
use super::peer::Figures;
use super::{Lnet, Peer};
use crate::lnd::{Cx, Lnd, Moved};
use crate::stream::slab::Key;
use crate::wire::{Nid, ProcessId, ping};

/// A NID of a peer, as a shard knows it whose affair it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerNiView {
    /// It.
    pub nid: Nid,
    /// The primary NID of its node.
    pub primary: Nid,
    /// Our NI that speaks with it; `None` for a NID that is known by hearsay alone.
    pub own: Option<Nid>,
    /// Its node is Multi-Rail, as far as it has said.
    pub multi_rail: bool,
    /// It is up, as far as its node says.
    pub up: bool,
    /// Health, from 0 to [`BEST`].
    pub health: u16,
    /// Failures by cause: those that are the peer's.
    pub causes: Causes,
    /// It is pinged until it is well.
    pub recovering: bool,
    /// Recovery pings since the last one that was answered.
    pub ping_count: u32,
    /// Time until the next one, in ns; 0 where none is to be sent.
    pub next_ping: u64,
}

impl Lnet {
    /// Figures of a peer's NID, of whose LND they are `id` and `moved`.
    pub(crate) fn peer_figures(&self, id: ProcessId, moved: Moved, peer: Key) -> Option<PeerFigures> {
        let p = self.peers.get(peer)?;
        let nids = self.aliases.nids(id.nid).unwrap_or_default();
        let mut shown = p.figures.of(id, nids);
        shown.moved += moved;
        Some(PeerFigures {
            features: p.discovery.told().map_or(0, |t| t.0),
            told: p.discovery.stands() == Standing::Known,
            credits_used: p.uses.credits,
            waiting: p.waits() as u32,
            waiting_bytes: p.waiting.iter().map(|tx| tx.payload.len()).sum(),
            buffers: p.buffers(),
            ..shown
        })
    }

    /// Figures of the node behind a router at that place: its messages are its gateway's.
    pub(crate) fn far_figures(&self, at: usize) -> Option<PeerFigures> {
        let (id, known) = self.fars.known_at(at)?;
        let nids = self.aliases.nids(id.nid).unwrap_or_default();
        Some(PeerFigures {
            routed: true,
            features: known.told().map_or(0, |t| t.0),
            told: known.stands() == Standing::Known,
            ..Figures::default().of(id, nids)
        })
    }

    fn ni_view(&self, cx: &Cx, nid: Nid, peer: Option<&Peer>) -> PeerNiView {
        let primary = self.aliases.primary(nid);
        let features = peer.and_then(|p| p.discovery.told()).map_or(0, |t| t.0);
        let health = self.health.peers.get(&nid);
        let (ping_count, next) = self.recovery.of(nid);
        PeerNiView {
            nid,
            primary,
            own: peer.map(|p| self.nid_of(p.ni)),
            multi_rail: self.aliases.multi_rail(nid).unwrap_or(features & ping::FEAT_MULTI_RAIL != 0),
            up: health.is_none_or(|p| !p.down),
            health: health.map_or(BEST, |p| p.value),
            causes: health.map(|p| p.causes).unwrap_or_default(),
            recovering: self.recovery.has(nid),
            ping_count,
            next_ping: next.saturating_sub(cx.now),
        }
    }

    /// Shows `each` the NIDs of peers in `most` places from `from`: first the peers that we speak with, once for each NI of ours, then
    /// the NIDs that are known by hearsay alone. Gives the number of all places.
    pub(crate) fn ni_views<L: Lnd<Lnet>>(
        &self,
        cx: &Cx,
        lnds: &[L],
        from: usize,
        most: usize,
        each: &mut dyn FnMut(PeerNiView),
    ) -> usize {
        let peers = self.peers.capacity();
        let end = from.saturating_add(most);
        for p in (from..end.min(peers)).filter_map(|i| self.peers.get(self.peers.key_at(i)?)) {
            each(self.ni_view(cx, p.id.nid, Some(p)));
        }
        let known = |nid: Nid| lnds.iter().any(|l| l.find(ProcessId::lustre(nid)).is_some());
        let here = |nid: Nid| nid.ip().is_some_and(|ip| cx.homes.of(ip) == cx.cfg.shards.me);
        let told = self.aliases.all();
        let all = peers + told.len();
        for nid in told.skip(from.saturating_sub(peers)).take(end.saturating_sub(from.max(peers))) {
            if here(nid) && !known(nid) {
                each(self.ni_view(cx, nid, None));
            }
        }
        all
    }
}
