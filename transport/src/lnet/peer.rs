//! A peer of this node's, as LNet knows it: credits, and what waits for them.

use std::collections::VecDeque;

use super::buffers::Guest;
use super::{Msg, discovery};
use crate::lnd::NiId;
use crate::lnd::budget::Uses;
use crate::stream::slab::Key;
use crate::wire::ProcessId;

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
    pub(super) waiting: VecDeque<Msg>,
    /// Credits and lendings that messages to it hold; the credits are its own, too.
    pub(super) uses: Uses,
    /// Stands in its NI's list of peers that wait for one of its credits.
    pub(super) listed_for_ni: bool,
    /// Stands in its host's list of peers that wait for a credit of the NI.
    pub(super) listed_for_host: bool,
    pub(super) discovery: discovery::Peer,
    /// Only of one that has sent messages for others.
    pub(super) guest: Option<Box<Guest>>,
}

impl Peer {
    pub(super) fn new(ni: NiId, id: ProcessId, entry: Key, host: Key) -> Peer {
        Peer {
            id,
            ni,
            entry,
            host,
            waiting: VecDeque::new(),
            uses: Uses::default(),
            listed_for_ni: false,
            listed_for_host: false,
            discovery: discovery::Peer::NEW,
            guest: None,
        }
    }

    /// Messages that wait, for credits or until the peer is known.
    pub(super) fn waits(&self) -> usize {
        self.waiting.len() + self.discovery.waiting()
    }
}
