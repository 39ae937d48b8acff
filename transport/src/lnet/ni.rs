//! The node's NIs, as LNet sees them: which one leads to a peer, and what messages by it hold.

use std::collections::VecDeque;

use fsm::Fsm;

use super::causes::NiHealth;
use super::drops::Dropped;
use super::figures::{NiFigures, Span, Spans};
use super::ni_stage::{Stage, Step};
use super::{Lnet, OpRefused};
use crate::lnd::budget::Uses;
use crate::lnd::{Config, Cx, Lnd, Moved, NiConfig, NiId};
use crate::stream::slab::Key;
use crate::wire::Nid;

/// An NI. Its LND has the same place in the list of those.
#[derive(Debug)]
pub(crate) struct Ni {
    /// The stage of its place.
    pub(super) stage: Fsm<Stage>,
    /// [`Nid::LO`] once it is deleted.
    pub(super) nid: Nid,
    /// Messages it may have in flight, where that is its own affair.
    most: Option<u32>,
    /// Credits and lendings that messages to all its peers hold.
    pub(super) uses: Uses,
    /// Peers to whom an operation of our own waits for one of its credits.
    pub(super) waiters: VecDeque<Key>,
    /// Most messages that held one of its credits at a time.
    pub(super) most_used: u32,
    /// Messages received by it that were dropped.
    pub(super) dropped: Dropped,
    pub(super) spans: Spans,
    /// Nothing goes by it: it is not running yet, it is deleted, or its LND goes down and has let go of all connections.
    pub(super) gone: bool,
    pub(super) health: NiHealth,
    /// Time of the last failure that was its fault, in ns.
    pub(super) failed_at: u64,
    /// Time of the last message to a Multi-Rail peer, or a gateway, by it, in messages.
    pub(super) used: u64,
}

impl Ni {
    /// One that begins at a place, and nothing goes by yet.
    pub(super) fn new(n: &NiConfig) -> Ni {
        let mut stage = Fsm::START;
        stage.apply(Step::Open);
        Ni {
            stage,
            nid: n.nid,
            most: n.credits,
            uses: Uses::default(),
            waiters: VecDeque::new(),
            most_used: 0,
            dropped: Dropped::default(),
            spans: Spans::default(),
            gone: true,
            health: NiHealth::default(),
            failed_at: 0,
            used: 0,
        }
    }

    /// Those of a node that starts: they run.
    pub(super) fn all(cfg: &Config) -> Vec<Ni> {
        let running = |n: &NiConfig| {
            let mut ni = Ni::new(n);
            ni.stage.apply(Step::Begin);
            Ni { gone: false, ..ni }
        };
        cfg.nis.iter().map(running).collect()
    }

    /// Messages it may have in flight, where that is its own affair.
    pub(super) fn most(&self) -> Option<u32> {
        self.most
    }

    /// Messages that it may have in flight.
    #[inline]
    pub(super) fn credits(&self, cx: &Cx) -> u32 {
        self.most.unwrap_or(cx.cfg.ni_credits)
    }

    /// Whether it has a way to `nid`: an interface has addresses of one family.
    pub(super) fn reaches(&self, nid: Nid) -> bool {
        nid.same_net(self.nid) && nid.is_large() == self.nid.is_large() && nid.ip().is_some()
    }
}

impl Lnet {
    /// Whether `nid` is this node.
    #[inline]
    pub(super) fn is_own(&self, nid: Nid) -> bool {
        let [first, others @ ..] = self.nis.as_slice() else { return nid == Nid::LO };
        nid == first.nid || nid == Nid::LO || others.iter().any(|n| n.nid == nid)
    }

    /// The NI's NID.
    #[inline]
    pub(super) fn nid_of(&self, ni: NiId) -> Nid {
        self.nis.get(ni.index()).map_or(Nid::LO, |n| n.nid)
    }

    /// The NI that an operation on `to` is to leave from.
    pub(super) fn ni_from(&self, from: Nid, to: Nid) -> Result<NiId, OpRefused> {
        let own = self.is_own(to);
        match self.nis.iter().position(|n| n.nid == from) {
            Some(at) if own || self.reaches(NiId(at as u8), to) => Ok(NiId(at as u8)),
            None if from == Nid::LO && own => Ok(NiId::default()),
            None if from != Nid::LO => Err(OpRefused::From(from)),
            _ => Err(OpRefused::FromAway { from, to }),
        }
    }

    /// The NI of that NID.
    pub(super) fn own_ni(&self, nid: Nid) -> Result<NiId, OpRefused> {
        let at = self.nis.iter().position(|n| n.nid == nid).ok_or(OpRefused::From(nid))?;
        Ok(NiId(at as u8))
    }

    /// Whether the NI has a way to `nid`.
    #[inline]
    pub(super) fn reaches(&self, ni: NiId, nid: Nid) -> bool {
        self.nis.get(ni.index()).is_some_and(|n| n.reaches(nid))
    }

    /// The LND of a peer.
    pub(super) fn lnd_of<'a, L: Lnd<Lnet>>(&self, lnds: &'a mut [L], peer: Key) -> Option<&'a mut L> {
        lnds.get_mut(self.peers.get(peer)?.ni.index())
    }

    /// Shows `each` the figures of every NI, in the order in which they came, and those of messages of this node to itself; `moved` tells what each NI's LND has moved.
    pub(crate) fn figures(&self, cx: &Cx, moved: impl Fn(NiId) -> Moved, each: &mut dyn FnMut(NiFigures)) {
        let all = cx.cfg.nis.iter().map(|n| NiId(n.place));
        all.filter_map(|at| self.figures_of(cx, at, moved(at))).for_each(&mut *each);
        let (bytes, own) = (cx.counters.own_bytes, &self.own_work);
        each(NiFigures {
            moved: Moved { sent: own.moved, send_bytes: bytes, received: own.moved, recv_bytes: bytes },
            dropped: own.dropped,
            latencies: self.ops.own_latencies,
            ..NiFigures::none()
        });
    }

    /// Figures of the NI at a place, whose LND has `moved` these messages.
    pub(super) fn figures_of(&self, cx: &Cx, at: NiId, moved: Moved) -> Option<NiFigures> {
        let (n, latencies) = (self.nis.get(at.index())?, self.ops.latencies.get(at.index())?);
        Some(NiFigures {
            nid: n.nid,
            moved,
            dropped: n.dropped,
            credits: n.credits(cx),
            credits_used: n.uses.credits,
            credits_most: n.most_used,
            health: n.health,
            silent: self.routing.is_down(at),
            spans: n.spans,
            latencies: *latencies,
        })
    }

    /// Figures of all NIs that were deleted, together.
    pub(crate) fn gone_figures(&self, cx: &Cx, moved: impl Fn(NiId) -> Moved) -> NiFigures {
        let runs = |at: &NiId| cx.cfg.nis.iter().any(|n| n.place == at.0);
        let gone = (0..self.nis.len()).map(|at| NiId(at as u8)).filter(|at| !runs(at));
        let gone = gone.filter_map(|at| self.figures_of(cx, at, moved(at)));
        gone.fold(self.gone, |sum, ni| sum.and(&ni))
    }

    /// Notes how long a message to a peer took, at it and its NI.
    #[inline]
    pub(super) fn timed(&mut self, peer: Key, of: fn(&mut Spans) -> &mut Span, ns: u64) {
        let Some(p) = self.peers.get_mut(peer) else { return };
        of(&mut p.figures.spans).record(ns);
        if let Some(ni) = self.nis.get_mut(p.ni.index()) {
            of(&mut ni.spans).record(ns);
        }
    }

    /// Messages that hold one of an NI's credits, over all NIs.
    pub(crate) fn credits_used(&self) -> usize {
        self.nis.iter().map(|n| n.uses.credits as usize).sum()
    }
}
