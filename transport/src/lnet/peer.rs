//! A peer of this node's, as LNet knows it: credits, and what waits for them.

use super::aliases::OF_ONE;
use super::discovery;
use super::drops::Dropped;
use super::figures::{PeerFigures, Spans};
use super::guest::Guest;
use super::queues::{Line, Queues, Total};
use crate::lnd::budget::Uses;
use crate::lnd::{Moved, NiId};
use crate::stream::slab::Key;
use crate::wire::{Nid, ProcessId};

/// A peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(super) id: ProcessId,
    /// The NI by which it is reached.
    pub(super) ni: NiId,
    /// The LND's entry.
    pub(super) entry: Key,
    /// The host that is charged for it.
    pub(super) host: Key,
    /// Messages that wait for a credit.
    pub(super) waiting: Queues,
    /// Credits and lendings that messages to it hold; the credits are its own, too.
    pub(super) uses: Uses,
    /// Stands in its NI's list of peers that wait for one of its credits.
    pub(super) listed_for_ni: bool,
    /// Stands in its host's list of peers that wait for a credit of the NI.
    pub(super) listed_for_host: bool,
    pub(super) discovery: discovery::Peer,
    /// Only of one that has sent messages for others.
    pub(super) guest: Option<Box<Guest>>,
    pub(super) figures: Box<Figures>,
}

/// Figures of a peer, for those who look in, and what is as seldom needed.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// Messages of entries that it had before.
    pub(super) moved: Moved,
    /// Messages received from it that were dropped.
    pub(super) dropped: Dropped,
    pub(super) spans: Spans,
    /// Most messages that held one of its credits, or waited for one, at a time.
    pub(super) most: u32,
    /// The same of router buffers.
    pub(super) most_buffers: u32,
    /// Time from which PUTs that it brings from others may wait on lazy portals, in ns.
    pub(super) may_wait: u64,
    /// Time since which messages of other nodes wait for it, or are on their way to it, and none that had to be taken has been, in ns.
    pub(super) passes_since: u64,
}

impl Figures {
    /// As they are shown of a peer with these NIDs, with what there is without an entry.
    pub(super) fn of(&self, id: ProcessId, nids: &[Nid]) -> PeerFigures {
        PeerFigures {
            id,
            nids: nids.iter().copied().take(OF_ONE).collect(),
            routed: false,
            features: 0,
            told: false,
            moved: self.moved,
            dropped: self.dropped,
            spans: self.spans,
            credits_used: 0,
            waiting: 0,
            waiting_bytes: 0,
            most: self.most,
            buffers: 0,
            buffers_most: self.most_buffers,
        }
    }
}

impl Peer {
    pub(super) fn new(
        ni: NiId,
        id: ProcessId,
        entry: Key,
        host: Key,
        (waiting, figures): (&Total, Box<Figures>),
    ) -> Peer {
        Peer {
            id,
            ni,
            entry,
            host,
            waiting: Queues::new(waiting),
            uses: Uses::default(),
            listed_for_ni: false,
            listed_for_host: false,
            discovery: discovery::Peer::NEW,
            guest: None,
            figures,
        }
    }

    /// Whether a message of that line may have one of its `most` credits. One of each line of this node's may always, however many
    /// those of the other lines hold.
    #[inline]
    pub(super) fn has_credit(&self, most: u32, line: Line) -> bool {
        self.uses.credits < most || self.has_own_credit(line)
    }

    fn has_own_credit(&self, line: Line) -> bool {
        let Uses { credits, passed, short, .. } = self.uses;
        match line {
            Line::Short => short == 0,
            Line::Bulk => credits == passed + short,
            Line::PassedOn => false,
        }
    }

    /// Whether a message of this node's waits for it and may have a credit.
    pub(super) fn may_go_on(&self, most: u32) -> bool {
        Line::OWN.into_iter().any(|line| self.waiting.front(line).is_some() && self.has_credit(most, line))
    }

    /// Whether messages of other nodes wait for it, or are on their way to it.
    pub(super) fn is_passed_to(&self) -> bool {
        self.uses.passed > 0 || self.waiting.front(Line::PassedOn).is_some()
    }

    /// One more message of another node is for it.
    #[inline]
    pub(super) fn begins_to_pass(&mut self, now: u64) {
        if !self.is_passed_to() {
            self.figures.passes_since = now;
        }
    }

    /// Messages from it for other nodes that hold a router buffer, or wait for one.
    pub(super) fn buffers(&self) -> u32 {
        let waiting = self.guest.as_ref().map_or(0, |g| g.waiting.iter().map(|w| w.len()).sum());
        self.uses.buffers.saturating_add(waiting as u32)
    }

    /// Messages that wait, for credits or until the peer is known.
    pub(super) fn waits(&self) -> usize {
        self.waiting.len() + self.discovery.waiting()
    }
}
