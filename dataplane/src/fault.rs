//! A wrapper round any port that treats received packets as a bad network would.
//!
//! Everything is drawn from one seeded generator, so a run can be repeated. Copies that it makes (for doubled
//! and corrupted packets) come from a pool of its own and are no concern of a zero-copy claim: this is a test
//! tool.

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use hugepages::{HeapRxPool, RxFrag};

use crate::forward::forward_port;
use crate::mem::MemRx;
use crate::pkt::{Csum, Port, RX_BURST, RxMeta, RxPkt};

/// Rates of each fault, as a fraction of received packets (0 to 1), and their sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// Packets lost.
    pub loss: f64,
    /// Packets that arrive twice.
    pub dup: f64,
    /// Packets that are held back while later ones pass.
    pub reorder: f64,
    /// Time that those are held, in ns.
    pub reorder_ns: u64,
    /// Packets with one byte changed. Their checksum claim becomes "not looked at", so that software must see it.
    pub corrupt: f64,
    /// Delay of every packet, in ns.
    pub delay_ns: u64,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults { loss: 0.0, dup: 0.0, reorder: 0.0, reorder_ns: 30_000, corrupt: 0.0, delay_ns: 0 }
    }
}

/// Counts of injected faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounters {
    /// Packets lost.
    pub lost: u64,
    /// Packets doubled.
    pub doubled: u64,
    /// Packets held back.
    pub reordered: u64,
    /// Packets corrupted.
    pub corrupted: u64,
}

/// A small, fast, seeded generator (xorshift64*). Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator; any seed is fine.
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    /// A number from 0 (inclusive) to `n` (exclusive); 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next_u64() % n }
    }
    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && ((self.next_u64() >> 11) as f64) < p * (1u64 << 53) as f64
    }
}

/// A packet of the wrapped port, or a copy that the wrapper made.
pub enum FaultRx<R> {
    /// As received.
    Real(R),
    /// Copied.
    Copy(Box<MemRx>),
}

impl<R: RxPkt> RxPkt for FaultRx<R> {
    fn head(&self) -> &[u8] {
        match self {
            FaultRx::Real(p) => p.head(),
            FaultRx::Copy(p) => p.head(),
        }
    }
    fn head_mut(&mut self) -> &mut [u8] {
        match self {
            FaultRx::Real(p) => p.head_mut(),
            FaultRx::Copy(p) => p.head_mut(),
        }
    }
    fn len(&self) -> u32 {
        match self {
            FaultRx::Real(p) => p.len(),
            FaultRx::Copy(p) => p.len(),
        }
    }
    fn meta(&self) -> RxMeta {
        match self {
            FaultRx::Real(p) => p.meta(),
            FaultRx::Copy(p) => p.meta(),
        }
    }
    fn for_each(&self, f: &mut dyn FnMut(&[u8])) {
        match self {
            FaultRx::Real(p) => p.for_each(f),
            FaultRx::Copy(p) => p.for_each(f),
        }
    }
    fn frags(self, off: u32, len: u32, out: &mut dyn FnMut(RxFrag)) {
        match self {
            FaultRx::Real(p) => p.frags(off, len, out),
            FaultRx::Copy(p) => p.frags(off, len, out),
        }
    }
}

/// A port whose received packets pass through [`Faults`].
pub struct FaultPort<P: Port> {
    inner: P,
    faults: Faults,
    rng: Rng,
    clock: Box<dyn Fn() -> u64>,
    held: VecDeque<(u64, FaultRx<P::Rx>)>,
    pool: HeapRxPool,
    counters: FaultCounters,
}

/// Packets held at most; beyond that the oldest is let through.
const HELD_MAX: usize = 65_536;

impl<P: Port> FaultPort<P> {
    /// Wraps `inner`. `clock` gives the time in ns (virtual or real).
    pub fn new(inner: P, faults: Faults, seed: u64, clock: Box<dyn Fn() -> u64>) -> FaultPort<P> {
        let pool = HeapRxPool::new(9216, 4096);
        FaultPort {
            inner,
            faults,
            rng: Rng::new(seed),
            clock,
            held: VecDeque::new(),
            pool,
            counters: FaultCounters::default(),
        }
    }

    /// Changes the rates.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Faults that were injected so far.
    pub fn fault_counters(&self) -> FaultCounters {
        self.counters
    }

    /// The wrapped port.
    pub fn inner(&mut self) -> &mut P {
        &mut self.inner
    }

    /// Time at which the next held packet is due, in ns.
    pub fn deadline(&self) -> Option<u64> {
        self.held.iter().map(|h| h.0).min()
    }

    fn copy(&self, p: &P::Rx, flip: Option<usize>) -> Option<MemRx> {
        let mut bytes = Vec::with_capacity(p.len() as usize);
        p.for_each(&mut |b| bytes.extend_from_slice(b));
        let mut meta = p.meta();
        if let Some(i) = flip {
            bytes[i] ^= 0x20;
            meta.csum = Csum::None;
        }
        MemRx::of_bytes(&self.pool, &bytes, meta)
    }

    fn take_in(&mut self, p: P::Rx, now: u64) {
        let f = self.faults;
        let due = now + f.delay_ns;
        if self.rng.chance(f.loss) {
            self.counters.lost += 1;
            return;
        }
        if self.rng.chance(f.dup)
            && let Some(c) = self.copy(&p, None)
        {
            self.counters.doubled += 1;
            self.held.push_back((due, FaultRx::Copy(Box::new(c))));
        }
        // Partial checksums have nothing to check a changed byte against; such packets are left whole.
        if p.meta().csum != Csum::Partial && self.rng.chance(f.corrupt) {
            let at = self.rng.below(u64::from(p.len())) as usize;
            if let Some(c) = self.copy(&p, Some(at)) {
                self.counters.corrupted += 1;
                self.held.push_back((due, FaultRx::Copy(Box::new(c))));
                return;
            }
        }
        let mut at = due;
        if self.rng.chance(f.reorder) {
            self.counters.reordered += 1;
            at += self.rng.below(f.reorder_ns) + 1;
        }
        self.held.push_back((at, FaultRx::Real(p)));
    }
}

impl<P: Port> Port for FaultPort<P> {
    type Rx = FaultRx<P::Rx>;
    type Tx = P::Tx;

    forward_port!(inner: caps, tx_alloc, tx_burst, reclaim, nap, arm, home, rx_memory, link_up, counters);

    fn rx_burst(&mut self, out: &mut ArrayVec<Self::Rx, RX_BURST>) {
        let now = (self.clock)();
        let mut got = ArrayVec::new();
        self.inner.rx_burst(&mut got);
        for p in got {
            self.take_in(p, now);
        }
        let mut i = 0;
        while i < self.held.len() && out.remaining_capacity() > 0 {
            if self.held[i].0 <= now || self.held.len() > HELD_MAX {
                if let Some((_, p)) = self.held.remove(i) {
                    out.push(p);
                }
            } else {
                i += 1;
            }
        }
        self.pool.home().drain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{MemConfig, MemPort, pair};
    use crate::pkt::TxPkt;
    use std::cell::Cell;
    use std::rc::Rc;

    fn run(faults: Faults, seed: u64) -> (Vec<Vec<u8>>, FaultCounters) {
        let (mut a, b): (MemPort, MemPort) = pair(&MemConfig { csum: false, ..MemConfig::default() });
        let clock = Rc::new(Cell::new(0));
        let c2 = clock.clone();
        let mut b = FaultPort::new(b, faults, seed, Box::new(move || c2.get()));
        let mut got = vec![];
        for i in 0..1000u32 {
            let mut t = a.tx_alloc().unwrap();
            t.copy_in(&i.to_be_bytes()).unwrap();
            a.tx_burst(&mut VecDeque::from([t]));
            clock.set(clock.get() + 1000);
            let mut v = ArrayVec::new();
            b.rx_burst(&mut v);
            for p in v {
                let mut x = vec![];
                p.for_each(&mut |s| x.extend_from_slice(s));
                got.push(x);
            }
        }
        (got, b.fault_counters())
    }

    #[test]
    fn without_faults_everything_arrives_in_order() {
        let (got, c) = run(Faults::default(), 1);
        assert_eq!(got, (0..1000u32).map(|i| i.to_be_bytes().to_vec()).collect::<Vec<_>>());
        assert_eq!(c, FaultCounters::default());
    }

    #[test]
    fn each_fault_happens_about_as_often_as_asked_and_a_seed_repeats() {
        let f = Faults { loss: 0.1, dup: 0.05, reorder: 0.1, corrupt: 0.02, ..Faults::default() };
        let (got, c) = run(f, 7);
        assert_eq!(run(f, 7).0, got);
        assert_ne!(run(f, 8).0, got);
        assert!((50..150).contains(&c.lost), "{c:?}");
        assert!((20..80).contains(&c.doubled) && (50..150).contains(&c.reordered), "{c:?}");
        assert!((5..40).contains(&c.corrupted), "{c:?}");
        assert!(!got.is_sorted());
    }
}
