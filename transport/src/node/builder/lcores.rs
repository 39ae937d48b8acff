//! The lcores of a node.

use crate::stream::ShardId;

/// The lcores of a node over the queues of a port: the first ones have a queue each, the others serve peers over rings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lcores {
    /// Their number.
    pub count: u16,
    /// Queues of the port, one for each of the first lcores.
    pub queues: u16,
    /// The CPT of each lcore; where none is named, all are of one. Lcores of a CPT take work from each other.
    pub cpts: Vec<u32>,
    /// Receive memory of a queue in bytes.
    pub rx_bytes: u64,
    /// Receive buffers of a queue.
    pub rx_bufs: usize,
    /// Busy lcores give peers to idle ones of their CPT.
    pub balanced: bool,
}

impl Lcores {
    /// So many lcores of one CPT, each with a queue that has `rx_bufs` receive buffers of `rx_bytes` bytes in all; peers
    /// stay where they are.
    pub fn new(count: u16, rx_bytes: u64, rx_bufs: usize) -> Lcores {
        Lcores { count, queues: count, cpts: Vec::new(), rx_bytes, rx_bufs, balanced: false }
    }

    /// The lcores of the CPT of `me`, which is one of them.
    pub(super) fn siblings(&self, me: ShardId) -> impl Iterator<Item = ShardId> {
        let cpt = |s: ShardId| self.cpts.get(usize::from(s.0));
        (0..self.count).map(ShardId).filter(move |s| cpt(*s) == cpt(me))
    }
}
