//! One queue pair of a port, on the lcore that polls it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arrayvec::ArrayVec;
use dpdk_sys as sys;
use hugepages::{LendBudget, RxHome};

use super::eal::PollLcore;
use super::gate::{Gate, GateCell, GateEvent};
use super::mempool::Mempool;
use super::port_shared::PortShared;
use super::resend::Fruitless;
use super::rx::{EthRxPkt, HEAD_CONTIGUOUS, MBUF_OPS, RxCtx, copy_chain, is_cut, pull_up};
use super::tx::{EthTxPkt, TxCtx};
use super::wake::Wake;
use crate::pkt::{Armed, Nap, Port, PortCaps, PortCounters, RX_BURST, Reclaimed, RxPkt, TxPkt};
use crate::steer::Steering;

/// Most packets handed to the driver at a time.
const TX_BURST: usize = 32;

/// Bytes that a receive burst should not exceed by much. vhost copies what it hands over: a burst of 32 super-segments reads
/// and writes 2 MiB each, as much as a core's second-level cache has, before anybody looks at the first of them.
const RX_BURST_BYTES: usize = 256 << 10;
/// Least packets asked for: vector receive functions take descriptors four at a time.
const RX_LEAST: usize = 4;

/// Packets to ask the driver for where the last `n` had `bytes` together.
fn next_burst(n: usize, bytes: usize) -> usize {
    let each = bytes.checked_div(n).unwrap_or(0).max(1);
    (RX_BURST_BYTES / each / RX_LEAST * RX_LEAST).clamp(RX_LEAST, RX_BURST)
}

/// A queue pair on its way to its lcore.
pub struct QueueSeed {
    pub(crate) shared: Arc<PortShared>,
    pub(crate) queue: u16,
    pub(crate) rx: Arc<Mempool>,
    pub(crate) heads: Arc<Mempool>,
    pub(crate) bare: Arc<Mempool>,
    pub(crate) rx_desc: u16,
    pub(crate) steering: Steering,
}

impl QueueSeed {
    /// The queue, on the calling lcore.
    pub fn build(self, lcore: &PollLcore) -> EthQueue {
        let truesize = self.rx.truesize();
        // A buffer in the ring cannot be lent.
        let bufs = self.rx.count().saturating_sub(u32::from(self.rx_desc)).max(1);
        let budget = LendBudget::of_pool(u64::from(bufs) * u64::from(truesize), bufs as usize);
        let home = RxHome::new(&MBUF_OPS, budget);
        let c = &self.shared.choice;
        let tx = Rc::new(TxCtx {
            name: self.shared.caps.name.clone(),
            heads: self.heads.clone(),
            bare: self.bare.clone(),
            reach: c.reach,
            max_segs: c.max_segs,
            hw_vlan: c.vlan_insert,
            hw_ip_csum: c.tx_ip_csum,
            attached: Cell::new(0),
        });
        self.shared.built(usize::from(self.queue));
        EthQueue {
            id: self.shared.id,
            queue: self.queue,
            copy_rx: c.shares_mbufs,
            takes_all: c.takes_all,
            soft_strip: !c.vlan_strip,
            caps: PortCaps { steering: self.steering, ..self.shared.caps.clone() },
            rx: Rc::new(RxCtx { home, truesize, local: c.local }),
            tx,
            rx_pool: self.rx,
            rx_bufs: bufs,
            counters: PortCounters::default(),
            rx_ask: RX_BURST,
            fruitless: Fruitless::default(),
            done_cleanup: true,
            wake: Wake::new(self.shared.id, self.queue, self.shared.interrupts),
            shared: self.shared,
            _lcore: lcore.clone(),
        }
    }

    /// Number of the queue.
    pub fn queue(&self) -> u16 {
        self.queue
    }
}

/// One receive and one transmit queue, polled by the lcore it was built on.
///
/// While the port is stopped, or is being stopped, bursts do nothing; the lcore keeps calling them and the queue
/// goes on by itself when the port is started again.
pub struct EthQueue {
    id: u16,
    queue: u16,
    copy_rx: bool,
    takes_all: bool,
    soft_strip: bool,
    caps: PortCaps,
    rx: Rc<RxCtx>,
    tx: Rc<TxCtx>,
    rx_pool: Arc<Mempool>,
    rx_bufs: u32,
    counters: PortCounters,
    /// Packets that the next receive burst asks for.
    rx_ask: usize,
    fruitless: Fruitless,
    /// The driver knows `rte_eth_tx_done_cleanup`, as far as we know.
    done_cleanup: bool,
    wake: Wake,
    shared: Arc<PortShared>,
    // Last: what is above gives mbufs back, which takes an lcore.
    _lcore: PollLcore,
}

impl EthQueue {
    fn gate(&self) -> &GateCell {
        &self.shared.gates[usize::from(self.queue)]
    }

    /// Whether the queue may be touched; answers the control thread when it asks.
    #[inline]
    fn running(&self) -> bool {
        if self.gate().running() {
            return true;
        }
        self.answer();
        false
    }

    #[cold]
    fn answer(&self) {
        if self.gate().state() == Gate::Asked {
            self.wake.let_go();
            self.gate().on(GateEvent::Yield);
        }
    }

    /// Lets go of the queue until the port is started (again): what a burst does when the control thread has
    /// asked. For a thread that is both.
    pub fn park(&self) {
        self.wake.let_go();
        self.gate().on(GateEvent::Yield);
    }

    /// Number of the queue.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Mbufs with pages attached that the driver, or packets not sent yet, hold.
    pub fn attachments_out(&self) -> u32 {
        self.tx.bare.count() - self.tx.bare.avail_here()
    }

    /// Receives up to `most` packets, as far as `out` has room; gives the number that the driver had.
    #[inline]
    pub(crate) fn receive(&mut self, most: usize, out: &mut ArrayVec<EthRxPkt, RX_BURST>) -> usize {
        let room = out.remaining_capacity().min(most);
        if room == 0 || !self.running() {
            return 0;
        }
        let mut ptrs = [std::ptr::null_mut(); RX_BURST];
        // SAFETY: the port runs, this is the queue's lcore, and the array has room for `room` pointers.
        let n = unsafe { sys::shim_eth_rx_burst(self.id, self.queue, ptrs.as_mut_ptr(), room as u16) };
        self.counters.rx_packets += u64::from(n);
        for m in ptrs.iter().take(usize::from(n)).filter_map(|m| NonNull::new(*m)) {
            if let Some(p) = self.take_in(m) {
                // At most `room` packets.
                out.push(p);
            }
        }
        usize::from(n)
    }

    fn take_in(&mut self, m: NonNull<sys::shim_mbuf>) -> Option<EthRxPkt> {
        let mut m = m;
        // SAFETY: the driver gave the chain to us; it is freed when it is not handed on.
        unsafe {
            if self.copy_rx {
                self.counters.linearised += 1;
                m = match copy_chain(m, self.rx_pool.raw()) {
                    Some(c) => c,
                    None => {
                        self.counters.rx_nombuf += 1;
                        return None;
                    }
                };
            }
            if m.as_ref().data_len < HEAD_CONTIGUOUS && !m.as_ref().next.is_null() {
                self.counters.linearised += 1;
                if !pull_up(m) {
                    sys::shim_pktmbuf_free(m.as_ptr());
                    return None;
                }
            }
            self.counters.rx_bytes += u64::from(m.as_ref().pkt_len);
            let mut p = EthRxPkt::new(m, self.rx.clone());
            if self.rx.local && is_cut(p.head(), p.len()) {
                self.counters.rx_cut += 1;
                self.shared.trouble.cut();
                return None;
            }
            if self.soft_strip {
                p.strip_vlan();
            }
            Some(p)
        }
    }

    /// The driver will never take the first of `q` as it is: it would block the rest for ever. It goes out another way
    /// (field report 5), once; what is refused even so is dropped.
    #[cold]
    fn refused(&mut self, q: &mut VecDeque<EthTxPkt>, errno: i32) {
        let Some(p) = q.pop_front() else { return };
        self.counters.tx_refused += 1;
        let plain = if p.again { None } else { p.plain(&self.rx_pool) };
        self.shared.trouble.refused(errno, plain.is_none());
        match plain {
            Some(all) => {
                self.counters.linearised += all.len() as u64;
                all.into_iter().rev().for_each(|p| q.push_front(p));
            }
            None => self.counters.tx_dropped += 1,
        }
    }

    /// Offers up to [`TX_BURST`] packets from the front of `q`; (offered, taken).
    fn tx_some(&mut self, q: &mut VecDeque<EthTxPkt>) -> (usize, usize) {
        let mut ptrs: ArrayVec<*mut sys::shim_mbuf, TX_BURST> = ArrayVec::new();
        let mut bytes: ArrayVec<u32, TX_BURST> = ArrayVec::new();
        let mut ready = true;
        for p in q.iter().take(TX_BURST) {
            ptrs.push(p.raw());
            bytes.push(p.len());
            ready &= p.prepared;
        }
        let mut n = ptrs.len() as u16;
        if !ready {
            // SAFETY: valid chains of ours, on the lcore of the queue. Packets that were prepared before are
            // prepared to the same again.
            n = unsafe { sys::shim_eth_tx_prepare(self.id, self.queue, ptrs.as_mut_ptr(), n) };
            q.iter_mut().take(usize::from(n)).for_each(|p| p.prepared = true);
            if n == 0 {
                self.refused(q, super::eal::errno());
                return (1, 1);
            }
        }
        // SAFETY: as above; the driver owns the chains it takes from here on.
        let sent = usize::from(unsafe { sys::shim_eth_tx_burst(self.id, self.queue, ptrs.as_mut_ptr(), n) });
        for p in q.drain(..sent) {
            p.sent();
        }
        if sent > 0 {
            self.fruitless.taken();
        } else if !self.takes_all && self.link_up() && self.fruitless.nothing(Instant::now) {
            self.refused(q, 0);
        }
        self.counters.tx_packets += sent as u64;
        self.counters.tx_bytes += bytes[..sent].iter().map(|b| u64::from(*b)).sum::<u64>();
        (usize::from(n), sent)
    }
}

impl Port for EthQueue {
    type Rx = EthRxPkt;
    type Tx = EthTxPkt;

    fn caps(&self) -> &PortCaps {
        &self.caps
    }

    fn rx_burst(&mut self, out: &mut ArrayVec<EthRxPkt, RX_BURST>) {
        let before = self.counters.rx_bytes;
        let n = self.receive(self.rx_ask, out);
        if n > 0 {
            self.rx_ask = next_burst(n, (self.counters.rx_bytes - before) as usize);
            self.wake.busy();
        }
    }

    fn tx_alloc(&mut self) -> Option<EthTxPkt> {
        let p = EthTxPkt::alloc(&self.tx);
        self.counters.tx_nombuf += u64::from(p.is_none());
        p
    }

    fn tx_burst(&mut self, q: &mut VecDeque<EthTxPkt>) -> usize {
        let mut sent = 0;
        while !q.is_empty() && self.running() {
            let (offered, taken) = self.tx_some(q);
            sent += taken;
            if taken < offered {
                break;
            }
        }
        sent
    }

    fn reclaim(&mut self, want: u32) -> Reclaimed {
        if !self.running() {
            return Reclaimed::Freed(0);
        }
        let before = self.attachments_out();
        if before == 0 {
            return Reclaimed::Clean;
        }
        if self.done_cleanup {
            // SAFETY: the port runs and this is the queue's lcore.
            let r = unsafe { sys::rte_eth_tx_done_cleanup(self.id, self.queue, want) };
            if r == -libc::ENOTSUP || r == -libc::ENODEV {
                self.done_cleanup = false;
            }
        }
        match before - self.attachments_out().min(before) {
            0 => Reclaimed::Nudge,
            n => Reclaimed::Freed(n),
        }
    }

    fn nap(&mut self, nap: Nap) {
        if self.running() {
            self.counters.naps += 1;
            self.wake.nap(nap);
        } else {
            std::thread::sleep(nap.short);
        }
    }

    fn arm(&mut self) -> Armed {
        if self.running() { self.wake.arm() } else { Armed::Never }
    }

    fn home(&self) -> &RxHome {
        &self.rx.home
    }

    fn rx_memory(&self) -> (u64, u64) {
        let t = u64::from(self.rx.truesize);
        (u64::from(self.rx_pool.avail_here().min(self.rx_bufs)) * t, u64::from(self.rx_bufs) * t)
    }

    fn link_up(&self) -> bool {
        self.shared.link.load(Ordering::Acquire)
    }

    fn counters(&self) -> PortCounters {
        let mut c = self.counters;
        c.tx_attached = self.tx.attached.get();
        let mut s = sys::rte_eth_stats::default();
        // The port's counts are told once, by its first queue.
        if self.queue == 0 {
            c.restarts = self.shared.restarts.load(Ordering::Relaxed);
            c.failed_starts = self.shared.failed_starts.load(Ordering::Relaxed);
        }
        // A device that is given up for a while has none, and DPDK logs each question.
        // SAFETY: a place for the answer; a port that is not there answers with an error.
        if self.queue == 0 && self.gate().running() && unsafe { sys::rte_eth_stats_get(self.id, &mut s) } == 0
        {
            c.rx_nombuf += s.rx_nombuf;
        }
        c
    }
}

impl Drop for EthQueue {
    fn drop(&mut self) {
        // Applications' lent buffers that have come back are freed while this thread is still an lcore.
        self.rx.home.drain();
        self.gate().on(GateEvent::Dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_as_many_packets_as_fit_a_cache() {
        for (n, each, next) in [(1, 64, 32), (32, 1514, 32), (4, 65_535, 4), (1, 9014, 28), (3, 32 << 10, 8)]
        {
            assert_eq!(next_burst(n, n * each), next, "{n} of {each} bytes");
        }
        // A driver that gives more than a cache at once, and one that gives nothing of length.
        assert_eq!((next_burst(1, 10 << 20), next_burst(5, 0)), (RX_LEAST, RX_BURST));
    }
}
