//! Peers as they are now, for inspection.

use smallvec::SmallVec;

use super::Socklnd;
use super::hello::HsEvent;
use super::peer::{DialState, DialWhy, Peer};
use crate::lnd::{Moved, Upper};
use crate::stream::ConnId;
use crate::stream::slab::Key;
use crate::wire::{ConnType, ProcessId, Version, acceptor};

/// Progress of a connection to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// Nothing is under way.
    Idle,
    /// TCP is connecting.
    Connecting,
    /// TCP is connected; HELLOs are exchanged.
    Shaking,
    /// After a failure: the next attempt waits for its time.
    Waiting,
    /// None is ever made: it is behind a router.
    Routed,
}

/// A peer in short, for inspection of a node that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerBrief {
    /// Its NID and process id.
    pub id: ProcessId,
    /// Its connections that passed the HELLO.
    pub conns: u32,
    /// The connection that is being made.
    pub contact: Contact,
    /// Reason why the last dial failed, if it did.
    pub why: Option<DialWhy>,
    /// Those of its connections that passed the HELLO, with our own end's type, as far as there is room here.
    pub typed: [Option<(ConnId, ConnType)>; BRIEF_CONNS],
    /// Messages that hold a credit.
    pub credits_used: u32,
    /// Messages that wait: for a credit, or for a connection.
    pub queued: u32,
}

impl PeerBrief {
    /// A node behind a router, and messages that wait until it is known.
    pub(crate) fn routed(id: ProcessId, queued: usize) -> PeerBrief {
        PeerBrief {
            id,
            conns: 0,
            contact: Contact::Routed,
            why: None,
            typed: [None; BRIEF_CONNS],
            credits_used: 0,
            queued: u32::try_from(queued).unwrap_or(u32::MAX),
        }
    }
}

/// Connections that a [`PeerBrief`] names at most. A peer has three, or more where `conns_per_peer` says so.
pub const BRIEF_CONNS: usize = 8;

/// One peer at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its NID and process id.
    pub id: ProcessId,
    /// Its connections that passed the HELLO, with our own end's type, oldest first.
    pub conns: SmallVec<[(ConnId, ConnType); 4]>,
    /// The version agreed on, or asked for by a refusal.
    pub version: Option<Version>,
    /// The incarnation of the present set of connections.
    pub incarnation: Option<u64>,
    /// A connection is being dialled, or HELLOs are exchanged on it.
    pub dialling: bool,
    /// Messages that hold a credit.
    pub credits_used: u32,
    /// Messages that wait for a credit.
    pub waiting: usize,
    /// Messages that wait for a connection.
    pub queued: usize,
    /// Zero-copy cookies pending.
    pub cookies: usize,
    /// ACKs, REPLYs and NOOPs not yet on a stream.
    pub answers: usize,
}

impl<U: Upper> Socklnd<U> {
    /// Shows `each` every peer that is remembered, with LNet's entry, whose counts are not filled in.
    pub(crate) fn views(&self, each: &mut dyn FnMut(PeerView, Key)) {
        let keys = self.peers.keys();
        keys.filter_map(|k| self.peers.get(k)).for_each(|p| each(self.view(p), p.up));
    }

    /// One peer in a few words, with LNet's entry, whose counts are not filled in; `None` for one that is not remembered.
    pub(crate) fn brief(&self, id: ProcessId) -> Option<(PeerBrief, Key)> {
        self.by_peer.get(&id).and_then(|k| self.peers.get(*k)).map(|p| (self.in_short(p), p.up))
    }

    /// Shows `each` the peers in `most` places of the table from `from`, as [`Socklnd::brief`] has them; gives the number of all
    /// places.
    pub(crate) fn briefs(&self, from: usize, most: usize, each: &mut dyn FnMut(PeerBrief, Key)) -> usize {
        let all = self.peers.capacity();
        let some = (from..from.saturating_add(most).min(all)).filter_map(|i| self.peers.key_at(i));
        some.filter_map(|k| self.peers.get(k)).for_each(|p| each(self.in_short(p), p.up));
        all
    }

    /// Shows `each` the peers in `most` places of the table from `from` with their messages and LNet's entries; gives the number of
    /// all places.
    pub(crate) fn moved(
        &self,
        from: usize,
        most: usize,
        each: &mut dyn FnMut(ProcessId, Moved, Key),
    ) -> usize {
        let all = self.peers.capacity();
        let some = (from..from.saturating_add(most).min(all)).filter_map(|i| self.peers.key_at(i));
        some.filter_map(|k| self.peers.get(k)).for_each(|p| each(p.id, *p.moved, p.up));
        all
    }

    /// A dial of this peer has failed.
    pub(super) fn came_to(&mut self, peer: Key, why: DialWhy) {
        if let Some(p) = self.peers.get_mut(peer) {
            p.why = Some(why);
        }
    }

    /// A handshake that we began has ended without a connection: notes why.
    pub(super) fn dial_came_to(&mut self, conn: Key, peer: Key, event: HsEvent) {
        let refused = self.conns.get(conn).is_some_and(|c| {
            let word = c.hs_buf.first_chunk::<4>();
            word.is_some_and(|w| [u32::from_le_bytes(*w), u32::from_be_bytes(*w)].contains(&acceptor::MAGIC))
        });
        self.came_to(
            peer,
            match event {
                HsEvent::Timeout => DialWhy::Silent,
                HsEvent::Lost | HsEvent::Ended => DialWhy::Closed,
                HsEvent::Busy => DialWhy::None,
                HsEvent::Version | HsEvent::Downgrade => DialWhy::Version,
                HsEvent::Bad | HsEvent::Unfit | HsEvent::Request | HsEvent::Hello if refused => {
                    DialWhy::Refused
                }
                HsEvent::Bad | HsEvent::Unfit | HsEvent::Request | HsEvent::Hello => DialWhy::Malformed,
            },
        );
    }

    fn view(&self, p: &Peer<U::Token>) -> PeerView {
        PeerView {
            id: p.id,
            conns: p.conns.iter().filter_map(|k| self.conns.get(*k)).map(|c| (c.id, c.ctype)).collect(),
            version: p.version,
            incarnation: p.incarnation,
            dialling: p.dial().under_way().is_some(),
            credits_used: 0,
            waiting: 0,
            queued: p.queue.len(),
            cookies: p.zc.len(),
            answers: p.answers,
        }
    }

    fn in_short(&self, p: &Peer<U::Token>) -> PeerBrief {
        let mut typed = [None; BRIEF_CONNS];
        let conns = p.conns.iter().filter_map(|k| self.conns.get(*k));
        typed.iter_mut().zip(conns).for_each(|(t, c)| *t = Some((c.id, c.ctype)));
        PeerBrief {
            id: p.id,
            conns: p.conns.len() as u32,
            contact: match p.dial() {
                DialState::Idle => Contact::Idle,
                DialState::Dialling(..) => Contact::Connecting,
                DialState::Shaking(..) => Contact::Shaking,
                DialState::Waiting(_) | DialState::BackOff(_) => Contact::Waiting,
            },
            why: p.why,
            typed,
            credits_used: 0,
            queued: p.queue.len() as u32,
        }
    }
}
