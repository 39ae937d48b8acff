//! Peers as they stand, for those who look at a machine.

use smallvec::SmallVec;

use super::hello::HsEvent;
use super::io::{ConnId, DialError};
use super::machine::Machine;
use super::peer::{DialState, Peer};
use super::slab::Key;
use crate::wire::{ConnType, ProcessId, Version, acceptor};

/// What a dial came to that gave no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialWhy {
    /// TCP did not connect.
    #[error("{0}")]
    Tcp(DialError),
    /// TCP connected, and no answer to our HELLO came in time.
    #[error("it took the connection and said nothing")]
    Silent,
    /// TCP connected, and the peer closed the connection instead of answering our HELLO.
    #[error("it closed the connection without a word")]
    Closed,
    /// The peer's acceptor refused our request, in words of its own.
    #[error("its acceptor refused the request")]
    Refused,
    /// The answer to our HELLO is NONE, each time.
    #[error("it answers our HELLO with NONE")]
    None,
    /// No version that both speak.
    #[error("it speaks no version that this node speaks")]
    Version,
    /// The answer is no HELLO, or that of another node.
    #[error("its answer is not the HELLO of that node")]
    Malformed,
}

/// How far a connection to a peer has come.
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
}

/// A peer in a few words, for those who look at a node while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerBrief {
    /// Who it is.
    pub id: ProcessId,
    /// Its connections that passed the HELLO.
    pub conns: u32,
    /// The connection that is being made.
    pub contact: Contact,
    /// What the last dial came to, if it failed.
    pub why: Option<DialWhy>,
}

/// One peer at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Who it is.
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

impl Machine {
    /// Shows `each` every peer that is remembered.
    pub fn peers(&self, each: &mut dyn FnMut(PeerView)) {
        let keys = (0..self.peers.capacity()).filter_map(|i| self.peers.key_at(i));
        keys.filter_map(|k| self.peers.get(k)).for_each(|p| each(self.view(p)));
    }

    /// One peer in a few words; `None` for one that is not remembered.
    pub fn brief(&self, id: ProcessId) -> Option<PeerBrief> {
        self.by_peer.get(&id).and_then(|k| self.peers.get(*k)).map(brief)
    }

    /// Shows `each` the peers in `most` places of the table from `from`; gives the number of all places.
    pub fn briefs(&self, from: usize, most: usize, each: &mut dyn FnMut(PeerBrief)) -> usize {
        let all = self.peers.capacity();
        let some = (from..from.saturating_add(most).min(all)).filter_map(|i| self.peers.key_at(i));
        some.filter_map(|k| self.peers.get(k)).for_each(|p| each(brief(p)));
        all
    }

    /// A dial of this peer has failed.
    pub(super) fn came_to(&mut self, peer: Key, why: DialWhy) {
        if let Some(p) = self.peers.get_mut(peer) {
            p.why = Some(why);
        }
    }

    /// A handshake that we began has ended without a connection.
    pub(super) fn dial_came_to(&mut self, conn: Key, peer: Key, event: HsEvent) {
        let refused = self.conns.get(conn).is_some_and(|c| {
            let word = c.hs_buf.first_chunk::<4>();
            word.is_some_and(|w| [u32::from_le_bytes(*w), u32::from_be_bytes(*w)].contains(&acceptor::MAGIC))
        });
        self.came_to(
            peer,
            match event {
                HsEvent::Timeout => DialWhy::Silent,
                HsEvent::Lost => DialWhy::Closed,
                HsEvent::Busy => DialWhy::None,
                HsEvent::Version | HsEvent::Downgrade => DialWhy::Version,
                HsEvent::Bad | HsEvent::Unfit | HsEvent::Request | HsEvent::Hello if refused => {
                    DialWhy::Refused
                }
                HsEvent::Bad | HsEvent::Unfit | HsEvent::Request | HsEvent::Hello => DialWhy::Malformed,
            },
        );
    }

    fn view(&self, p: &Peer) -> PeerView {
        PeerView {
            id: p.id,
            conns: p.conns.iter().filter_map(|k| self.conns.get(*k)).map(|c| (c.id, c.ctype)).collect(),
            version: p.version,
            incarnation: p.incarnation,
            dialling: p.dial().under_way().is_some(),
            credits_used: p.uses.credits,
            waiting: p.waiting.len(),
            queued: p.queue.len(),
            cookies: p.zc.len(),
            answers: p.answers,
        }
    }
}

fn brief(p: &Peer) -> PeerBrief {
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
    }
}
