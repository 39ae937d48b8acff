//! The way towards one port: what happens to a frame between the last bit out of the sender's NIC and the
//! receiver's ring.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use fsm::Fsm;
use hugepages::{HeapRxPool, LendBudget, RxFrag};

use super::device::{self, Frame};
use super::{Fate, LinkCounters, Path, Seen, WIRE_OVERHEAD};
use crate::fault::Rng;
use crate::mem::MemRx;
use crate::pkt::{Csum, RxMeta, TxCsum, TxMeta};

/// Picoseconds that `bytes` take at `rate` bit/s; 0 where nothing limits. A frame of 64 KiB at 1 bit/s still fits.
pub(crate) fn serialise(bytes: usize, rate: u64) -> u64 {
    let bits = (bytes + WIRE_OVERHEAD) as u64 * 8;
    if rate == 0 { 0 } else { (u128::from(bits) * 1_000_000_000_000 / u128::from(rate)) as u64 }
}

fsm::fsm! {
    /// A loss process with memory (Gilbert and Elliott): frames are lost in `Bad` only.
    ///
    /// ```text
    ///          Turn                  each frame draws once;
    ///   Good ─────────> Bad          the chain moves, then
    ///     ^              │           the state that holds now decides
    ///     └──── Turn ────┘           Turn: drawn, or bad for too long
    /// ```
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Weather {
        Good,
        Bad,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum WeatherEvent {
        Turn,
    }

    table Weather + WeatherEvent {
        start Good;
        else "it stays as it is";
        Good + Turn => Bad;
        Bad + Turn => Good;
    }
}

/// A frame on its way to the narrowest place.
struct Arrival {
    at_ps: u64,
    frame: Frame,
    meta: TxMeta,
    from: usize,
}

/// A frame on its way from there.
struct Flight {
    due: u64,
    serial: u64,
    from: usize,
    frag: RxFrag,
    csum: Csum,
}

impl PartialEq for Flight {
    fn eq(&self, o: &Flight) -> bool {
        self.cmp(o) == Ordering::Equal
    }
}
impl Eq for Flight {}
impl PartialOrd for Flight {
    fn partial_cmp(&self, o: &Flight) -> Option<Ordering> {
        Some(self.cmp(o))
    }
}
impl Ord for Flight {
    fn cmp(&self, o: &Flight) -> Ordering {
        (self.due, self.serial).cmp(&(o.due, o.serial))
    }
}

/// Towards one port.
pub(crate) struct Pipe {
    to: usize,
    path: Path,
    rng: Rng,
    weather: Fsm<Weather>,
    /// The last time at which it was good, in ns.
    bad_since: u64,
    sources: Vec<VecDeque<Arrival>>,
    free_ps: u64,
    waiting: VecDeque<(u64, u64)>,
    waiting_bytes: u64,
    last_due: u64,
    flights: BinaryHeap<Reverse<Flight>>,
    serial: u64,
    ring: VecDeque<MemRx>,
    ring_max: usize,
    pub(crate) pool: HeapRxPool,
    rx_bufs: usize,
    pub(crate) counters: LinkCounters,
}

/// Observer of frames.
pub(crate) type Eye<'a> = &'a mut dyn FnMut(&Seen<'_>);

impl Pipe {
    pub(crate) fn new(to: usize, path: Path, seed: u64, sources: usize, buf: usize, rx_bufs: usize) -> Pipe {
        let budget = LendBudget::of_pool((buf * rx_bufs) as u64, rx_bufs);
        Pipe {
            to,
            path,
            rng: Rng::new(seed),
            weather: Fsm::START,
            bad_since: 0,
            sources: (0..sources).map(|_| VecDeque::new()).collect(),
            free_ps: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            last_due: 0,
            flights: BinaryHeap::new(),
            serial: 0,
            ring: VecDeque::new(),
            ring_max: rx_bufs,
            // Frames in flight are not the receiver's memory; what is, is counted by `held`.
            pool: HeapRxPool::with_budget(buf, usize::MAX / buf, budget),
            rx_bufs,
            counters: LinkCounters::default(),
        }
    }

    pub(crate) fn set_path(&mut self, path: Path) {
        self.path = path;
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Receive buffers that the receiver holds: in its ring, its stack or its applications.
    fn held(&self) -> usize {
        let waiting: usize = self.sources.iter().map(VecDeque::len).sum();
        self.pool.out().saturating_sub(self.flights.len() + waiting)
    }

    /// Receive memory: (bytes free, bytes in all).
    pub(crate) fn memory(&self) -> (u64, u64) {
        let size = self.pool.buf_size() as u64;
        (self.rx_bufs.saturating_sub(self.held()) as u64 * size, self.rx_bufs as u64 * size)
    }

    /// The last bit of a frame left the NIC of `from` at `at_ps`.
    pub(crate) fn offer(&mut self, from: usize, at_ps: u64, frame: Frame, meta: TxMeta) {
        if let Some(q) = self.sources.get_mut(from) {
            q.push_back(Arrival { at_ps, frame, meta, from });
        }
    }

    /// Moves on everything that reached the narrowest place until `now_ps`, in the order in which it did.
    pub(crate) fn advance(&mut self, now_ps: u64, eye: Eye<'_>) {
        // Each source's frames come in order; with one source their future is known.
        let horizon = if self.sources.len() == 2 { u64::MAX } else { now_ps };
        loop {
            let first = self.sources.iter_mut().filter_map(|q| Some((q.front()?.at_ps, q)));
            let Some((at, q)) = first.min_by_key(|(at, _)| *at) else { return };
            if at > horizon {
                return;
            }
            let Some(a) = q.pop_front() else { return };
            self.carry(a, eye);
        }
    }

    fn fate(&mut self, at_ps: u64, len: usize) -> Result<u64, Fate> {
        let (p, c, at) = (&self.path, &mut self.counters, at_ps / 1000);
        c.frames += 1;
        if p.is_down(at) {
            c.down += 1;
            return Err(Fate::Down);
        }
        if p.mtu_at(at).is_some_and(|m| len > usize::from(m) + 14) {
            c.too_big += 1;
            return Err(Fate::TooBig);
        }
        while let Some(&(end, bytes)) = self.waiting.front()
            && end <= at_ps
        {
            self.waiting.pop_front();
            self.waiting_bytes -= bytes;
        }
        if p.rate > 0 && self.waiting_bytes + len as u64 > p.queue {
            c.queue += 1;
            return Err(Fate::Queue);
        }
        let end = self.free_ps.max(at_ps) + serialise(len, p.rate);
        self.free_ps = end;
        if p.rate > 0 {
            self.waiting.push_back((end, len as u64));
            self.waiting_bytes += len as u64;
        }
        if let Some(b) = p.burst {
            let drawn = self.rng.chance(if self.weather == Weather::Good { b.enter } else { b.leave });
            let old = self.weather == Weather::Bad && at > self.bad_since.saturating_add(b.most_ns);
            let before = self.weather.get();
            if drawn || old {
                self.weather.apply(WeatherEvent::Turn);
            }
            if before == Weather::Good {
                self.bad_since = at;
            }
            if self.weather == Weather::Bad && self.rng.chance(b.loss) {
                c.burst += 1;
                return Err(Fate::Burst);
            }
        }
        if self.rng.chance(p.faults.loss) {
            c.lost += 1;
            return Err(Fate::Lost);
        }
        let mut due = end.div_ceil(1000) + p.faults.delay_ns;
        due += self.rng.below(p.jitter_ns);
        if self.rng.chance(p.faults.reorder) {
            c.reordered += 1;
            due += 1 + self.rng.below(p.faults.reorder_ns);
        } else {
            due = due.max(self.last_due);
            self.last_due = due;
        }
        if p.is_down(due) {
            c.down += 1;
            return Err(Fate::Down);
        }
        Ok(due)
    }

    fn carry(&mut self, a: Arrival, eye: Eye<'_>) {
        let (mut buf, len) = a.frame;
        let to = self.to;
        let f = &mut buf.space()[..len];
        let at = a.at_ps / 1000;
        let fate = self.fate(a.at_ps, len);
        let due = match fate {
            Ok(due) => due,
            Err(fate) => return eye(&Seen { from: a.from, to, at, fate, frame: f }),
        };
        let mut csum = if a.meta.csum == TxCsum::Offload { Csum::Good } else { Csum::None };
        let twin = self.rng.chance(self.path.faults.dup).then(|| self.pool.take()).flatten().map(|mut t| {
            t.space()[..len].copy_from_slice(f);
            t
        });
        let l2 = usize::from(a.meta.l2).max(14);
        // The link header has a checksum of its own, which no receiver lets pass, and ARP has none.
        let ip =
            len > l2 && matches!(f[l2] >> 4, 4 | 6) && matches!(f[12..14], [8, 0] | [0x86, 0xdd] | [0x81, 0]);
        let mut fate = Fate::Arrives(due);
        if ip && self.rng.chance(self.path.faults.corrupt) {
            if a.meta.csum == TxCsum::Offload {
                device::tcp_checksum(f, &a.meta);
                csum = Csum::None;
            }
            let at = l2 + self.rng.below((len - l2) as u64) as usize;
            f[at] ^= 1 + self.rng.below(255) as u8;
            self.counters.corrupted += 1;
            fate = Fate::Corrupted(due);
        }
        eye(&Seen { from: a.from, to, at, fate, frame: f });
        self.launch(due, a.from, buf.into_frag(0, len as u32), csum);
        if let Some(mut t) = twin {
            self.counters.doubled += 1;
            eye(&Seen {
                from: a.from,
                to,
                at: a.at_ps / 1000,
                fate: Fate::Copy(due),
                frame: &t.space()[..len],
            });
            let csum = if a.meta.csum == TxCsum::Offload { Csum::Good } else { Csum::None };
            self.launch(due, a.from, t.into_frag(0, len as u32), csum);
        }
    }

    fn launch(&mut self, due: u64, from: usize, frag: RxFrag, csum: Csum) {
        self.serial += 1;
        self.flights.push(Reverse(Flight { due, serial: self.serial, from, frag, csum }));
    }

    /// Puts what has arrived by `now` into the receiver's ring; the ring and the pool have ends.
    pub(crate) fn land(&mut self, now: u64, eye: Eye<'_>) {
        self.advance(now.saturating_mul(1000), eye);
        while self.flights.peek().is_some_and(|Reverse(f)| f.due <= now) {
            let held = self.held();
            let Some(Reverse(f)) = self.flights.pop() else { return };
            if held >= self.rx_bufs || self.ring.len() >= self.ring_max {
                self.counters.no_buffer += 1;
                let frame = f.frag.bytes();
                eye(&Seen { from: f.from, to: self.to, at: f.due, fate: Fate::NoBuffer, frame });
                continue;
            }
            self.ring.push_back(MemRx::of_frag(f.frag, RxMeta { csum: f.csum, ..RxMeta::default() }));
        }
    }

    pub(crate) fn receive(&mut self) -> Option<MemRx> {
        self.ring.pop_front()
    }

    /// Time at which the next frame moves or arrives, in ns; in the past when one waits in the ring.
    pub(crate) fn deadline(&self) -> Option<u64> {
        if !self.ring.is_empty() {
            return Some(0);
        }
        let moves = self.sources.iter().filter_map(|q| q.front().map(|a| a.at_ps.div_ceil(1000)));
        self.flights.peek().map(|Reverse(f)| f.due).into_iter().chain(moves).min()
    }

    /// Whether something is on its way or in the ring.
    pub(crate) fn busy(&self) -> bool {
        self.deadline().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<Weather>(), @r"
        Good + Turn -> Bad
        Bad + Turn -> Good
        otherwise: it stays as it is
        ");
    }

    #[test]
    fn a_frame_takes_its_time_on_the_wire() {
        // 1514 bytes and 24 of preamble, checksum and gap at 25 Gbit/s.
        assert_eq!(serialise(1514, 25_000_000_000), 492_160);
        assert_eq!(serialise(1514, 0), 0);
        assert_eq!(serialise(9014, 1), 72_304_000_000_000_000);
    }
}
