//! Ports joined by a network in virtual time: line rate, a bottleneck with a queue, delay, loss, outages.
//!
//! ```text
//!   port i                                              towards port j (a `Path`)
//!   stack ─> TX ring ─> TSO cut ─> line rate ─┬─> link down, MTU, tail drop ─> rate ─> loss ─> delay, jitter, ──> RX ring ─> stack
//!            (full: the stack waits)          │                                               reordering, copies,
//!                                             └─> paths towards others, by Ethernet address     corruption
//! ```
//!
//! Every draw comes from one seed and the time is the caller's, so a run repeats exactly. What waits in the TX ring
//! is never lost; what exceeds the bottleneck's queue is. Frames in flight are not the receiver's memory; those in
//! its ring, and what its stack and applications hold, are.
//!
//! ```
//! use std::cell::Cell;
//! use std::collections::VecDeque;
//! use std::rc::Rc;
//! use dataplane::link::{LinkConfig, Path, join};
//! use dataplane::pkt::{Port, TxPkt};
//!
//! let clock = Rc::new(Cell::new(0)); // ns
//! let path = Path { rate: 1_000_000_000, ..Path::default() }.delay(20_000);
//! let cfg = LinkConfig { paths: vec![path.clone(), path], ..LinkConfig::default() };
//! let mut ports = join(&cfg, 1, &clock);
//! let mut p = ports[0].tx_alloc().ok_or("no buffer")?;
//! p.copy_in(&[2, 0, 0, 0, 0, 2])?; // to port 1
//! p.copy_in(&[0; 94])?;
//! ports[0].tx_burst(&mut VecDeque::from([p]));
//! // 124 bytes with preamble, checksum and gap take 992 ns, then 20 us to the other end.
//! assert_eq!(ports[1].deadline(), Some(20_992));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub(crate) mod device;
mod pipe;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use arrayvec::ArrayVec;
use hugepages::{HeapRxPool, RxHome};

use crate::fault::Faults;
use crate::forward::forward_port;
use crate::mem::{MemConfig, MemPort, MemRx, MemTx, pair};
use crate::pkt::{Port, PortCaps, PortCounters, RX_BURST, TxPkt};
use pipe::{Eye, Pipe, serialise};

/// Bytes that a frame takes on the wire beside its own: preamble 8, checksum 4, gap 12.
pub const WIRE_OVERHEAD: usize = 24;

/// Losses in bursts (Gilbert-Elliott): chances a frame of entering and leaving the bad state, and of being lost
/// in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// Chance of going from good to bad.
    pub enter: f64,
    /// Chance of going back: bad lasts for 1 / `leave` frames on average.
    pub leave: f64,
    /// Chance of loss while bad.
    pub loss: f64,
    /// Bad ends after so many ns at the latest: where hardly a frame is sent, a fade passes all the same.
    pub most_ns: u64,
}

/// The path towards one port.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// Independent faults of each frame. `delay_ns` is the way's length, `reorder_ns` the most that a frame out of
    /// order comes late by.
    pub faults: Faults,
    /// Rate of the narrowest place in bit/s; 0 for none narrower than the senders' lines.
    pub rate: u64,
    /// Bytes that wait there at most, the frame being sent included; what exceeds them is lost.
    pub queue: u64,
    /// Added delay of up to so many ns, which keeps the order.
    pub jitter_ns: u64,
    /// Losses in bursts.
    pub burst: Option<Burst>,
    /// From a time on (ns), IP packets larger than this many bytes are lost without a word. In order of time.
    pub mtu: Vec<(u64, u16)>,
    /// Times from (inclusive) to (exclusive) in ns at which what is sent or arrives is lost. In order of time.
    pub down: Vec<(u64, u64)>,
}

impl Default for Path {
    fn default() -> Path {
        Path {
            faults: Faults::default(),
            rate: 0,
            queue: u64::MAX,
            jitter_ns: 0,
            burst: None,
            mtu: Vec::new(),
            down: Vec::new(),
        }
    }
}

impl Path {
    /// The same, `ns` long.
    #[must_use]
    pub fn delay(mut self, ns: u64) -> Path {
        self.faults.delay_ns = ns;
        self
    }

    fn is_down(&self, at: u64) -> bool {
        self.down.iter().any(|&(from, to)| from <= at && at < to)
    }

    fn mtu_at(&self, at: u64) -> Option<u16> {
        self.mtu.iter().rev().find(|m| m.0 <= at).map(|m| m.1)
    }
}

/// Ports and what joins them.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Configuration of the ports. `depth` is the TX ring in frames of the wire, `rx_bufs` the RX ring and all receive
    /// memory; `crossing` means nothing here, frames are copied to the wire.
    pub mem: MemConfig,
    /// Line rate of each port in bit/s; 0 for no limit.
    pub line: u64,
    /// The way towards each port; as many as there are ports.
    pub paths: Vec<Path>,
}

impl Default for LinkConfig {
    fn default() -> LinkConfig {
        let mem = MemConfig { tso_max: 0, ..MemConfig::default() };
        LinkConfig { mem, line: 0, paths: vec![Path::default(); 2] }
    }
}

macro_rules! link_counters {
    ($($(#[$d:meta])* $f:ident,)*) => {
        /// Frames towards one port, by what happened to them.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct LinkCounters { $($(#[$d])* pub $f: u64,)* }
        impl LinkCounters {
            /// Names and values.
            pub fn each(&self, mut f: impl FnMut(&'static str, u64)) { $(f(stringify!($f), self.$f);)* }
        }
    };
}

link_counters! {
    /// All that were sent.
    frames,
    /// Lost at random.
    lost,
    /// Lost in a burst.
    burst,
    /// Lost since the queue was full.
    queue,
    /// Lost since they were larger than the path's MTU.
    too_big,
    /// Lost since the link was down.
    down,
    /// Arrived and found no receive buffer.
    no_buffer,
    /// Sent twice.
    doubled,
    /// Held back while others passed.
    reordered,
    /// Damaged.
    corrupted,
}

/// Fate of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives at this time, in ns.
    Arrives(u64),
    /// It arrives at this time with one byte changed.
    Corrupted(u64),
    /// A copy that the network made arrives at this time. Told after the frame's own fate.
    Copy(u64),
    /// Lost at random.
    Lost,
    /// Lost in a burst.
    Burst,
    /// The queue was full.
    Queue,
    /// Larger than the path's MTU.
    TooBig,
    /// The link was down.
    Down,
    /// It arrived, and the receiver had no buffer. Told after `Arrives`.
    NoBuffer,
}

/// A frame, as an observer between the ports sees it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The port that sent it.
    pub from: usize,
    /// The port it goes to.
    pub to: usize,
    /// Time at which its last bit left the sender, in ns.
    pub at: u64,
    /// Its fate.
    pub fate: Fate,
    /// The frame, from its Ethernet header on. Checksums that were left to the device may not be complete.
    pub frame: &'a [u8],
}

/// Function that is called with every frame.
pub type Observer = Box<dyn FnMut(&Seen<'_>)>;

struct Hub {
    pipes: Vec<Pipe>,
    observer: Option<Observer>,
}

impl Hub {
    fn with<R>(&mut self, to: usize, f: impl FnOnce(&mut Pipe, Eye<'_>) -> R) -> Option<R> {
        let mut blind = |_: &Seen<'_>| ();
        let pipe = self.pipes.get_mut(to)?;
        Some(match &mut self.observer {
            Some(o) => f(pipe, o),
            None => f(pipe, &mut blind),
        })
    }
}

/// A port of a simulated network.
pub struct LinkPort {
    me: usize,
    caps: PortCaps,
    mem: MemPort,
    home: RxHome,
    hub: Rc<RefCell<Hub>>,
    clock: Rc<Cell<u64>>,
    line: u64,
    depth: usize,
    /// Time at which the line is free, and times at which the frames in the TX ring have left, in ps.
    free_ps: u64,
    ring: VecDeque<u64>,
    refused: bool,
    received: (u64, u64),
}

/// As many ports as `cfg` has paths, Ethernet addresses 02:00:00:00:00:01 and up. `clock` tells the time in ns.
pub fn join(cfg: &LinkConfig, seed: u64, clock: &Rc<Cell<u64>>) -> Vec<LinkPort> {
    let n = cfg.paths.len();
    // A frame lies in one buffer.
    let buf = cfg.mem.rx_buf.max(usize::from(cfg.mem.mtu) + 18);
    let pipe = |(i, p): (usize, &Path)| {
        let seed = seed.wrapping_mul(64).wrapping_add(i as u64 + 1);
        Pipe::new(i, p.clone(), seed, n, buf, cfg.mem.rx_bufs)
    };
    let pipes: Vec<Pipe> = cfg.paths.iter().enumerate().map(pipe).collect();
    let homes: Vec<RxHome> = pipes.iter().map(|p| p.pool.home().clone()).collect();
    let hub = Rc::new(RefCell::new(Hub { pipes, observer: None }));
    let port = |(me, home): (usize, RxHome)| {
        let (mem, _) = pair(&cfg.mem);
        let caps = PortCaps {
            name: format!("link{me}"),
            mac: [2, 0, 0, 0, 0, me as u8 + 1],
            lro: false,
            ..mem.caps().clone()
        };
        LinkPort {
            me,
            caps,
            mem,
            home,
            hub: hub.clone(),
            clock: clock.clone(),
            line: cfg.line,
            depth: cfg.mem.depth,
            free_ps: 0,
            ring: VecDeque::new(),
            refused: false,
            received: (0, 0),
        }
    };
    homes.into_iter().enumerate().map(port).collect()
}

impl LinkPort {
    /// Shows every frame of all ports to `o` from now on.
    pub fn observe(&mut self, o: Observer) {
        self.hub.borrow_mut().observer = Some(o);
    }

    /// Changes the way towards port `to`. Frames on their way keep what they had.
    pub fn set_path(&mut self, to: usize, path: Path) {
        self.hub.borrow_mut().with(to, |p, _| p.set_path(path));
    }

    /// Counts of the frames towards this port.
    pub fn link_counters(&self) -> LinkCounters {
        self.hub.borrow().pipes.get(self.me).map(|p| p.counters).unwrap_or_default()
    }

    /// Time of the next event here, in ns: a frame moves on or arrives, the TX ring has room for a stack that was
    /// refused, the link comes up.
    pub fn deadline(&self) -> Option<u64> {
        let hub = self.hub.borrow();
        let pipe = hub.pipes.get(self.me);
        let room = self.ring.front().filter(|_| self.refused).map(|t| t.div_ceil(1000));
        let now = self.clock.get();
        let up = pipe.and_then(|p| p.path().down.iter().map(|d| d.1).find(|t| *t > now));
        [pipe.and_then(Pipe::deadline), room, up].into_iter().flatten().min()
    }

    /// Whether a frame is there to be received now.
    pub fn ready(&self) -> bool {
        let now = self.clock.get();
        self.hub.borrow().pipes.get(self.me).and_then(Pipe::deadline).is_some_and(|t| t <= now)
    }

    /// Whether frames towards this port are on their way.
    pub fn expects(&self) -> bool {
        self.hub.borrow().pipes.get(self.me).is_some_and(Pipe::busy)
    }

    fn send(&mut self, p: &MemTx, now_ps: u64) {
        let meta = p.tx_meta();
        let mut hub = self.hub.borrow_mut();
        let n = hub.pipes.len();
        let mut dst = [0u8; 6];
        let mut first = true;
        p.for_each(&mut |b| {
            if std::mem::take(&mut first) && b.len() >= 6 {
                dst.copy_from_slice(&b[..6]);
            }
        });
        let one = usize::from(dst[5]).wrapping_sub(1);
        let (from, to) = if dst[0] & 1 == 1 { (0, n) } else { (one.min(n), (one.min(n) + 1).min(n)) };
        let pool: Option<HeapRxPool> = hub.pipes.get(from.min(n - 1)).map(|p| p.pool.clone());
        let Some(pool) = pool else { return };
        let mut frames = Vec::new();
        device::cut(p, &pool, &mut |f| frames.push(f));
        for (mut buf, len) in frames {
            let end = self.free_ps.max(now_ps) + serialise(len, self.line);
            self.free_ps = end;
            self.ring.push_back(end);
            let mut all = (from..to).filter(|j| *j != self.me).peekable();
            while let Some(j) = all.next() {
                let last = all.peek().is_none();
                let Some(pipe) = hub.pipes.get_mut(j) else { continue };
                if last && j == from {
                    pipe.offer(self.me, end, (buf, len), meta);
                    break;
                }
                let Some(mut copy) = pipe.pool.take() else { continue };
                copy.space()[..len].copy_from_slice(&buf.space()[..len]);
                pipe.offer(self.me, end, (copy, len), meta);
            }
        }
        for j in from..to {
            hub.with(j, |p, eye| p.advance(now_ps, eye));
        }
    }
}

impl Port for LinkPort {
    type Rx = MemRx;
    type Tx = MemTx;

    forward_port!(mem: tx_alloc, reclaim);

    fn caps(&self) -> &PortCaps {
        &self.caps
    }

    fn rx_burst(&mut self, out: &mut ArrayVec<MemRx, RX_BURST>) {
        let now = self.clock.get();
        let me = self.me;
        self.hub.borrow_mut().with(me, |p, eye| {
            p.land(now, eye);
            while out.remaining_capacity() > 0 {
                let Some(m) = p.receive() else { break };
                self.received.0 += 1;
                self.received.1 += u64::from(crate::pkt::RxPkt::len(&m));
                out.push(m);
            }
        });
    }

    fn tx_burst(&mut self, q: &mut VecDeque<MemTx>) -> usize {
        let now_ps = self.clock.get() * 1000;
        while self.ring.front().is_some_and(|t| *t <= now_ps) {
            self.ring.pop_front();
        }
        if !q.is_empty() {
            self.mem.begin_burst();
        }
        let mut n = 0;
        while self.ring.len() < self.depth {
            let Some(p) = q.pop_front() else { break };
            n += 1;
            if self.mem.admit(&p) {
                self.send(&p, now_ps);
                self.mem.retire(p);
            }
        }
        self.refused = !q.is_empty();
        n
    }

    fn home(&self) -> &RxHome {
        &self.home
    }

    fn rx_memory(&self) -> (u64, u64) {
        self.hub.borrow().pipes.get(self.me).map_or((0, 0), Pipe::memory)
    }

    fn link_up(&self) -> bool {
        let now = self.clock.get();
        self.hub.borrow().pipes.get(self.me).is_some_and(|p| !p.path().is_down(now))
    }

    fn counters(&self) -> PortCounters {
        let (rx_packets, rx_bytes) = self.received;
        PortCounters {
            rx_packets,
            rx_bytes,
            rx_nombuf: self.link_counters().no_buffer,
            ..self.mem.counters()
        }
    }
}

#[cfg(test)]
mod link_tests;
