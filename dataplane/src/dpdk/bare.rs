//! A link without anything above it: frames that are made once and sent again and again, for its own rate.

use std::collections::VecDeque;
use std::sync::Arc;

use arrayvec::ArrayVec;
use hugepages::{BackingError, LendSlab, LendSlabError, Lent, PageRunMut};

use super::{Eal, EalBacking, EthQueue};
use crate::pkt::{Port, RX_BURST, RxPkt, TxCsum, TxMeta, TxPkt};

const PIECES: usize = 16;
const PIECE: usize = 4090;
/// Ethernet, IPv4 and TCP without options, in bytes.
const HEADERS: usize = 54;
/// Bytes of them that all frames have in common: the length of the IPv4 packet follows.
const SAME: usize = 16;

/// Kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareLoad {
    /// 64 bytes: 60, and the checksum that no virtual link adds.
    Small,
    /// TSO super-segments of 64 KiB in 16 attached pieces, to be cut into segments of so many bytes.
    Tso(u16),
}

/// Reason why there is nothing to send.
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
    /// The first of them that the next frame takes.
    next: usize,
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
    /// A sender on this thread, whose payload comes from `frames` different frames' pages in turn.
    ///
    /// # Errors
    /// No memory for the payload.
    pub fn new(eal: &Eal, load: BareLoad, frames: usize) -> Result<BareSender, BareError> {
        let pieces = PIECES * frames.max(1);
        let (slab, mut pages) = (LendSlab::new(pieces), Vec::new());
        let mut head = headers(if load == BareLoad::Small { 6 } else { PIECES * PIECE });
        if load == BareLoad::Small {
            head.resize(60, 0);
        } else {
            let backing = Arc::new(EalBacking::new(eal, -1));
            for i in 0..pieces {
                let run = PageRunMut::new(backing.clone(), PIECE)?.freeze();
                pages.push(slab.lend(run.slice_all(), i as u64)?);
            }
        }
        Ok(BareSender { load, q: VecDeque::with_capacity(64), head, pages, next: 0, slab })
    }

    /// Sends a burst, as far as the port takes it.
    pub fn turn(&mut self, p: &mut EthQueue) {
        while self.q.len() < RX_BURST {
            let Some(mut t) = p.tx_alloc() else { break };
            let mut payload = self.pages.iter().skip(self.next).take(PIECES);
            if t.copy_in(&self.head).is_err() || payload.any(|l| t.attach(l).is_err()) {
                break;
            }
            self.next = if self.next + PIECES < self.pages.len() { self.next + PIECES } else { 0 };
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
pub struct BareReceiver {
    burst: ArrayVec<<EthQueue as Port>::Rx, RX_BURST>,
    held: Vec<<EthQueue as Port>::Rx>,
    hold: usize,
}

impl BareReceiver {
    /// One that drops `frames` at a time, when so many have come, and asks for as many as a node does: as whoever takes
    /// messages whole.
    pub fn holding(frames: usize) -> BareReceiver {
        BareReceiver { held: Vec::with_capacity(frames), hold: frames, ..BareReceiver::default() }
    }

    /// Receives a burst; gives the frames, and their bytes.
    pub fn turn(&mut self, p: &mut EthQueue) -> (u64, u64) {
        if self.hold > 1 {
            p.rx_burst(&mut self.burst);
        } else {
            p.receive(RX_BURST, &mut self.burst);
        }
        let n = (self.burst.len() as u64, self.burst.iter().map(|b| u64::from(b.len())).sum());
        for f in self.burst.drain(..) {
            self.held.push(f);
            if self.held.len() >= self.hold {
                self.held.clear();
            }
        }
        n
    }

    /// Drops what is held.
    pub fn finish(mut self) {
        self.held.clear();
    }
}

/// One end of a bare ping-pong: small TCP frames that are made anew each time, as a stack makes them.
pub struct BareEnd {
    head: Vec<u8>,
    q: VecDeque<<EthQueue as Port>::Tx>,
    rx: ArrayVec<<EthQueue as Port>::Rx, RX_BURST>,
}

impl BareEnd {
    /// An end that sends frames of `len` bytes, headers of 54 bytes at least.
    pub fn new(len: usize) -> BareEnd {
        let mut head = headers(len.saturating_sub(HEADERS));
        head.resize(len.max(HEADERS), 0);
        BareEnd { head, q: VecDeque::with_capacity(RX_BURST), rx: ArrayVec::new() }
    }

    /// Sends one frame, and what the port did not take before; its checksum is left to the device.
    pub fn send(&mut self, p: &mut EthQueue) {
        let meta = TxMeta { l2: 14, l3: 20, l4: 20, csum: TxCsum::Offload, ..TxMeta::default() };
        if let Some(mut t) = p.tx_alloc()
            && t.copy_in(&self.head).is_ok()
        {
            self.q.push_back(t.finish(meta));
        }
        p.tx_burst(&mut self.q);
    }

    /// Receives a burst, looks at each frame's headers, and drops them; gives the number of those that are as [`BareEnd::send`] makes them.
    pub fn receive(&mut self, p: &mut EthQueue) -> usize {
        p.rx_burst(&mut self.rx);
        let n = self.rx.iter().filter(|f| f.head().starts_with(&self.head[..SAME])).count();
        self.rx.clear();
        n
    }
}
