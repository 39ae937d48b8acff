//! Peers as they stand, for those who look at a machine.

use smallvec::SmallVec;

use super::io::ConnId;
use super::machine::Machine;
use super::peer::Peer;
use crate::wire::{ConnType, ProcessId, Version};

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

    fn view(&self, p: &Peer) -> PeerView {
        PeerView {
            id: p.id,
            conns: p.conns.iter().filter_map(|k| self.conns.get(*k)).map(|c| (c.id, c.ctype)).collect(),
            version: p.version,
            incarnation: p.incarnation,
            dialling: p.dial().under_way().is_some(),
            credits_used: p.credits_used,
            waiting: p.waiting.len(),
            queued: p.queue.len(),
            cookies: p.zc.len(),
            answers: p.answers,
        }
    }
}
