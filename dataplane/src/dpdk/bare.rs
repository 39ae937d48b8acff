//! A link without anything above it: frames that are made once and sent again and again, for its own rate.

use std::collections::VecDeque;
use std::sync::Arc;

use arrayvec::ArrayVec;
use hugepages::{BackingError, LendSlab, LendSlabError, Lent, PageRunMut};

use super::{Eal, EalBacking, EthQueue};
use crate::pkt::{Port, RX_BURST, RxPkt, TxCsum, TxMeta, TxPkt};

const PIECES: usize = 16;
const PIECE: usize = 4090;

/// Kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareLoad {
    /// 64 bytes: 60, and the checksum that no virtual link adds.
    Small,
    /// TSO super-segments of 64 KiB in 16 attached pieces, to be cut into segments of so many bytes.
    Tso(u16),
}

/// Why there is nothing to send.
#[derive(Debug, thiserror::Error)]
pub enum BareError {
    /// No memory for the payload.
    #[error(transparent)]
    Memory(#[from] BackingError),
    /// No lending for it.
    #[error(transparent)]
    Lend(#[from] LendSlabError),
}

/// Sends frames as fast as a port takes them.
pub struct BareSender {
    load: BareLoad,
    q: VecDeque<<EthQueue as Port>::Tx>,
    head: Vec<u8>,
    pages: Vec<Lent>,
    slab: LendSlab,
}

fn headers(payload: usize) -> Vec<u8> {
    let mut h = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    h.extend(((40 + payload) as u16).to_be_bytes());
    h.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    h.extend([3, 0xff, 3, 0xdc, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    h
}

impl BareSender {
    /// A sender on this thread.
    ///
    /// # Errors
    /// No memory for the payload.
    pub fn new(eal: &Eal, load: BareLoad) -> Result<BareSender, BareError> {
        let (slab, mut pages) = (LendSlab::new(PIECES), Vec::new());
        let mut head = headers(if load == BareLoad::Small { 6 } else { PIECES * PIECE });
        if load == BareLoad::Small {
            head.resize(60, 0);
        } else {
            let backing = Arc::new(EalBacking::new(eal, -1));
            for i in 0..PIECES {
                let run = PageRunMut::new(backing.clone(), PIECE)?.freeze();
                pages.push(slab.lend(run.slice_all(), i as u64)?);
            }
        }
        Ok(BareSender { load, q: VecDeque::with_capacity(64), head, pages, slab })
    }

    /// Sends a burst, as far as the port takes it.
    pub fn turn(&mut self, p: &mut EthQueue) {
        while self.q.len() < RX_BURST {
            let Some(mut t) = p.tx_alloc() else { break };
            if t.copy_in(&self.head).is_err() || self.pages.iter().any(|l| t.attach(l).is_err()) {
                break;
            }
            let meta = match self.load {
                BareLoad::Small => TxMeta::default(),
                BareLoad::Tso(segsz) => {
                    TxMeta { l2: 14, l3: 20, l4: 20, segsz, csum: TxCsum::Offload, ..TxMeta::default() }
                }
            };
            self.q.push_back(t.finish(meta));
        }
        p.tx_burst(&mut self.q);
    }

    /// Sends small frames until the driver has let go of every page, and parks the port; `other` keeps the far end moving.
    pub fn finish(mut self, p: &mut EthQueue, mut other: impl FnMut()) {
        self.q.clear();
        self.pages.clear();
        for _ in 0..1_000_000 {
            self.slab.reap(|_, _| ());
            if self.slab.out() == 0 {
                break;
            }
            if self.q.is_empty()
                && let Some(mut t) = p.tx_alloc()
                && t.copy_in(&[0; 60]).is_ok()
            {
                self.q.push_back(t.finish(TxMeta::default()));
            }
            p.tx_burst(&mut self.q);
            other();
        }
        p.park();
    }
}

/// Receives frames and drops them.
#[derive(Default)]
pub struct BareReceiver(ArrayVec<<EthQueue as Port>::Rx, RX_BURST>);

impl BareReceiver {
    /// Receives a burst; gives the frames, and their bytes.
    pub fn turn(&mut self, p: &mut EthQueue) -> (u64, u64) {
        p.rx_burst(&mut self.0);
        let n = (self.0.len() as u64, self.0.iter().map(|b| u64::from(b.len())).sum());
        self.0.clear();
        n
    }
}
