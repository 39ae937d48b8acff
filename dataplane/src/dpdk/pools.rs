//! The mempools of a port's queues.

use std::sync::Arc;

use super::eal::Eal;
use super::mempool::{Mempool, PoolError};
use super::port_config::PortConfig;
use crate::pkt::TX_HEAD_ROOM;

/// The pools of one queue.
#[derive(Clone)]
pub(crate) struct QueuePools {
    pub rx: Arc<Mempool>,
    pub heads: Arc<Mempool>,
    pub bare: Arc<Mempool>,
}

/// The pools of each queue of `c`, whose rings have so many descriptors; and whether they are off the port's NUMA
/// `node`. Memory there may be used up, or never have been set aside, while another node has plenty: packets then cross
/// between nodes, which is slow, and works (field report 8).
pub(crate) fn pools_of(
    eal: &Eal,
    c: &PortConfig,
    rings: (u16, u16),
    rx_room: u16,
    node: i32,
) -> Result<(Vec<QueuePools>, bool), PoolError> {
    let all = |node| {
        (0..c.queues).map(|_| queue_pools(eal, c, rings, rx_room, node)).collect::<Result<Vec<_>, _>>()
    };
    match all(node) {
        Err(PoolError::Create { .. }) if node >= 0 => Ok((all(-1)?, true)),
        r => Ok((r?, false)),
    }
}

/// Mbufs that a pool needs for a ring: that, two caches (the main lcore fills the receive ring, its own lcore refills it), two bursts.
pub(crate) fn least(ring: u16) -> u32 {
    u32::from(ring) + 2 * 384 + 64
}

fn queue_pools(
    eal: &Eal,
    c: &PortConfig,
    rings: (u16, u16),
    rx_room: u16,
    node: i32,
) -> Result<QueuePools, PoolError> {
    let pool = |what, count: u32, ring: u16, room| {
        let need = least(ring);
        if count < need {
            let why = "one ring, the caches of two lcores and two bursts";
            return Err(PoolError::TooSmall { what, count, need, why });
        }
        Mempool::new(eal, what, count, room, node).map(Arc::new)
    };
    Ok(QueuePools {
        rx: pool("receive buffers", c.rx_bufs, rings.0, rx_room)?,
        heads: pool("packet heads", c.tx_heads, rings.1, TX_HEAD_ROOM as u16)?,
        bare: pool("attachments", c.tx_bare, rings.1, 0)?,
    })
}
