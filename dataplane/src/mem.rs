//! A port of plain memory: two ends, no device. For tests, simulations and the cost of a stack by itself.
//!
//! It is strict where devices are: a packet with too many buffers, or larger than the MTU without TSO, is
//! dropped and counted. It can be lazy where drivers are ([`MemConfig::lazy`]): sent pages stay referenced
//! until later bursts push them out.

#[cfg(test)]
mod mem_tests;
mod packets;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use arrayvec::ArrayVec;
use hugepages::{HeapRxPool, NicRef, RxFrag, RxHome};

use self::packets::{Frame, FreeList, SHARED_OPS, give_back};
use crate::pkt::{Csum, Port, PortCaps, PortCounters, RX_BURST, Reach, Reclaimed, RxMeta, TxCsum, TxPkt};
use crate::steer::{Rss, Steering};

pub use self::packets::{MemRx, MemTx};

/// Length of an Ethernet header with room for one VLAN tag, in bytes.
const L2_MAX: usize = 18;

/// Ways of payload to the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// Copied into the receiver's buffers when sent, as vhost does. The sender's pages are free at once
    /// (unless `lazy`), and received fragments may be lent.
    Copy,
    /// By reference: the receiver reads the sender's pages. Nothing is lendable then.
    Share,
}

/// Configuration of an in-memory port pair.
#[derive(Clone, Debug)]
pub struct MemConfig {
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Largest IP packet for TSO in bytes; 0 for none.
    pub tso_max: u32,
    /// Most buffers a packet.
    pub max_segs: u16,
    /// Checksums are left to the port (and arrive as partial).
    pub csum: bool,
    /// Crossing of payload.
    pub crossing: Crossing,
    /// Packets whose pages stay referenced after sending, as in a driver that frees late.
    pub lazy: usize,
    /// Packets in flight towards one end before sending stalls.
    pub depth: usize,
    /// Size of a receive buffer, in bytes.
    pub rx_buf: usize,
    /// Receive buffers of each end.
    pub rx_bufs: usize,
    /// Transmit packets out at a time.
    pub tx_bufs: usize,
}

impl Default for MemConfig {
    fn default() -> MemConfig {
        MemConfig {
            mtu: 9000,
            tso_max: 65_535,
            max_segs: 64,
            csum: true,
            crossing: Crossing::Copy,
            lazy: 0,
            depth: 1024,
            rx_buf: 9216,
            rx_bufs: 2048,
            tx_bufs: 4096,
        }
    }
}

// ---- the pair ----

struct Side {
    inbox: RefCell<VecDeque<Box<Frame>>>,
    pool: HeapRxPool,
    /// Receive buffers that frames with shared pages stand for.
    charged: Cell<usize>,
    shared_home: RxHome,
    nombuf: Cell<u64>,
    up: Cell<bool>,
}

impl Side {
    fn rx_out(&self) -> usize {
        self.pool.out() + self.charged.get()
    }
}

/// Spreading of the packets towards one end over its queues.
#[derive(Clone, Debug)]
pub enum Spread {
    /// So many queues; what was sent on queue i of the other end comes to queue i, modulo their number.
    Mirror(u16),
    /// So many queues, filled as a device with receive-side scaling does.
    Rss(u16, Rss),
}

impl Spread {
    fn queues(&self) -> u16 {
        match self {
            Spread::Mirror(n) | Spread::Rss(n, _) => (*n).max(1),
        }
    }

    fn steering(&self, queue: u16) -> Steering {
        match self {
            _ if self.queues() == 1 => Steering::default(),
            Spread::Mirror(n) => Steering::mirror(queue, *n),
            Spread::Rss(n, rss) => Steering::rss(queue, *n, rss.clone()),
        }
    }
}

/// An end with several queues.
struct End {
    sides: Vec<Rc<Side>>,
    spread: RefCell<Spread>,
}

impl End {
    fn pick(&self, from: u16, f: &Frame) -> &Rc<Side> {
        let n = self.sides.len();
        let i = match &*self.spread.borrow() {
            Spread::Mirror(_) => usize::from(from),
            Spread::Rss(_, rss) => usize::from(rss.queue_of_frame(&f.head)),
        };
        &self.sides[i % n]
    }

    /// Packets in the fullest queue.
    fn waiting(&self) -> usize {
        self.sides.iter().map(|s| s.inbox.borrow().len()).max().unwrap_or(0)
    }
}

/// One queue of one end of an in-memory pair.
pub struct MemPort {
    caps: PortCaps,
    cfg: MemConfig,
    me: Rc<Side>,
    /// The other end's only queue; one of them where `to` has several.
    peer: Rc<Side>,
    /// This end and the other one, where either has several queues.
    mine: Option<Rc<End>>,
    to: Option<Rc<End>>,
    held: VecDeque<Vec<NicRef>>,
    held_in_last: bool,
    free_list: Rc<FreeList>,
    counters: PortCounters,
}

/// Two ports joined back to back, of one queue each.
pub fn pair(cfg: &MemConfig) -> (MemPort, MemPort) {
    let (side, other) = (new_side(cfg), new_side(cfg));
    let one = |n, me: &Rc<Side>, peer: &Rc<Side>| port(cfg, n, Steering::default(), me, peer);
    (one(0, &side, &other), one(1, &other, &side))
}

/// Two ports joined back to back, whose queues are filled as `a` and `b` say: a port for each queue of either.
pub fn pair_of_queues(cfg: &MemConfig, a: Spread, b: Spread) -> (Vec<MemPort>, Vec<MemPort>) {
    let end = |spread: Spread| {
        let sides = (0..spread.queues()).map(|_| new_side(cfg)).collect();
        Rc::new(End { sides, spread: RefCell::new(spread) })
    };
    let (a, b) = (end(a), end(b));
    let ports = |n, mine: &Rc<End>, to: &Rc<End>| {
        let one = |(queue, me): (u16, &Rc<Side>)| {
            let steering = mine.spread.borrow().steering(queue);
            let mut p = port(cfg, n, steering, me, &to.sides[0]);
            (p.mine, p.to) = (Some(mine.clone()), Some(to.clone()));
            p
        };
        (0..).zip(&mine.sides).map(one).collect()
    };
    (ports(0, &a, &b), ports(1, &b, &a))
}

fn new_side(cfg: &MemConfig) -> Rc<Side> {
    let pool = HeapRxPool::new(cfg.rx_buf, cfg.rx_bufs);
    let budget = hugepages::LendBudget { lcore_bytes: 0, owner_bytes: 0, handles: 1 };
    let shared_home = RxHome::new(&SHARED_OPS, budget);
    Rc::new(Side {
        inbox: RefCell::default(),
        pool,
        charged: Cell::new(0),
        shared_home,
        nombuf: Cell::new(0),
        up: Cell::new(true),
    })
}

fn port(cfg: &MemConfig, end: u8, steering: Steering, me: &Rc<Side>, peer: &Rc<Side>) -> MemPort {
    MemPort {
        caps: PortCaps {
            name: format!("mem{end}"),
            mac: [2, 0, 0, 0, 0, end + 1],
            mtu: cfg.mtu,
            tso_max: cfg.tso_max,
            max_segs: cfg.max_segs,
            tx_csum: cfg.csum,
            rx_csum: cfg.csum,
            lro: cfg.tso_max > 0,
            vlan_insert: false,
            vlan_strip: false,
            reach: Reach::Any,
            steering,
        },
        cfg: cfg.clone(),
        me: me.clone(),
        peer: peer.clone(),
        mine: None,
        to: None,
        held: VecDeque::new(),
        held_in_last: false,
        free_list: Rc::new(FreeList {
            idle: RefCell::default(),
            made: Cell::new(0),
            out: Cell::new(0),
            max_segs: cfg.max_segs,
            reach: Reach::Any,
        }),
        counters: PortCounters::default(),
    }
}

impl MemPort {
    /// Takes the link down or up again; packets sent while it is down are lost.
    pub fn set_link(&mut self, up: bool) {
        self.me.up.set(up);
        self.peer.up.set(up);
        let ends = [&self.mine, &self.to];
        ends.into_iter().flatten().flat_map(|e| &e.sides).for_each(|s| s.up.set(up));
    }

    /// Spreads what comes to this end otherwise from now on, and tells nobody; the number of queues stays. Of a
    /// port of one queue nothing changes.
    pub fn respread(&self, rss: Rss) {
        if let Some(e) = &self.mine {
            e.spread.replace(Spread::Rss(e.sides.len() as u16, rss));
        }
    }

    /// Receive buffers that are out.
    pub fn rx_out(&self) -> usize {
        self.me.rx_out()
    }

    /// The receive pool, to make packets of one's own.
    pub fn pool(&self) -> &HeapRxPool {
        &self.me.pool
    }

    fn deliver(&mut self, mut f: Box<Frame>) {
        let to = match &self.to {
            None => &*self.peer,
            Some(e) => &**e.pick(self.caps.steering.queue(), &f),
        };
        let truesize = match self.cfg.crossing {
            Crossing::Share if to.rx_out() < to.pool.max() && f.head.len() <= to.pool.buf_size() => {
                to.charged.set(to.charged.get() + 1);
                f.charged = true;
                Some(to.pool.buf_size() as u32 + f.page_bytes)
            }
            Crossing::Copy if copy_chain(&to.pool, &mut f) => {
                if self.cfg.lazy > 0 {
                    self.held.push_back(std::mem::take(&mut f.pages));
                }
                f.pages.clear();
                Some(f.bufs.iter().map(RxFrag::truesize).sum())
            }
            _ => None,
        };
        let Some(truesize) = truesize else {
            to.nombuf.set(to.nombuf.get() + 1);
            return give_back(f);
        };
        f.rx = RxMeta {
            csum: if f.tx.csum == TxCsum::Offload { Csum::Partial } else { Csum::None },
            lro_segsz: f.tx.segsz,
            truesize,
            ..RxMeta::default()
        };
        to.inbox.borrow_mut().push_back(f);
    }

    /// Whether a device would send `p`; counts it as sent or dropped.
    #[inline]
    pub(crate) fn admit(&mut self, p: &MemTx) -> bool {
        let segs = p.frame.as_ref().map_or(0, |f| f.pages.len());
        let most = if p.tx_meta().segsz > 0 { self.cfg.tso_max as usize } else { usize::from(self.cfg.mtu) };
        if p.len() as usize > most + L2_MAX || segs + 1 > usize::from(self.cfg.max_segs) {
            self.counters.tx_dropped += 1;
            return false;
        }
        self.counters.tx_packets += 1;
        self.counters.tx_bytes += u64::from(p.len());
        self.counters.tx_attached += segs as u64;
        true
    }

    /// Takes back what was sent: at once, or late where the port is lazy.
    pub(crate) fn retire(&mut self, mut p: MemTx) {
        if self.cfg.lazy > 0
            && let Some(f) = &mut p.frame
        {
            self.held.push_back(std::mem::take(&mut f.pages));
        }
    }

    /// A burst begins: lets go of what a lazy port has held for long enough.
    pub(crate) fn begin_burst(&mut self) {
        self.let_go(self.cfg.lazy);
    }

    fn let_go(&mut self, keep: usize) -> u32 {
        let mut n = 0;
        while self.held.len() > keep {
            self.held.pop_front();
            n += 1;
        }
        n
    }
}

/// Copies a frame's bytes into buffers of `pool`. `false` when it has too few; those taken stay in the frame.
fn copy_chain(pool: &HeapRxPool, f: &mut Frame) -> bool {
    let mut cur: Option<(hugepages::HeapRxBuf, usize)> = None;
    let mut ok = true;
    let mut bufs = std::mem::take(&mut f.bufs);
    f.for_each(&mut |mut b| {
        while ok && !b.is_empty() {
            if cur.is_none() {
                cur = pool.take().map(|t| (t, 0));
            }
            let Some((buf, at)) = &mut cur else {
                ok = false;
                return;
            };
            let n = b.len().min(pool.buf_size() - *at);
            buf.space()[*at..*at + n].copy_from_slice(&b[..n]);
            *at += n;
            b = &b[n..];
            if *at == pool.buf_size()
                && let Some((buf, at)) = cur.take()
            {
                bufs.push(buf.into_frag(0, at as u32));
            }
        }
    });
    if let Some((buf, at)) = cur {
        bufs.push(buf.into_frag(0, at as u32));
    }
    f.bufs = bufs;
    ok
}

impl Port for MemPort {
    type Rx = MemRx;
    type Tx = MemTx;

    fn caps(&self) -> &PortCaps {
        &self.caps
    }

    #[inline]
    fn rx_burst(&mut self, out: &mut ArrayVec<MemRx, RX_BURST>) {
        let mut inbox = self.me.inbox.borrow_mut();
        while out.remaining_capacity() > 0 {
            let Some(mut f) = inbox.pop_front() else { break };
            self.counters.rx_packets += 1;
            self.counters.rx_bytes += u64::from(f.len());
            // Not before: a frame in the inbox that refers to its owner would keep it for ever.
            f.to = Some(self.me.clone());
            out.push(MemRx { frame: Some(f) });
        }
    }

    #[inline]
    fn tx_alloc(&mut self) -> Option<MemTx> {
        if self.free_list.out.get() >= self.cfg.tx_bufs {
            self.counters.tx_nombuf += 1;
            return None;
        }
        Some(MemTx { frame: Some(self.free_list.take()), free_list: self.free_list.clone() })
    }

    fn tx_burst(&mut self, q: &mut VecDeque<MemTx>) -> usize {
        if !q.is_empty() {
            self.begin_burst();
        }
        let waiting = match &self.to {
            None => self.peer.inbox.borrow().len(),
            Some(e) => e.waiting(),
        };
        let room = self.cfg.depth.saturating_sub(waiting).min(q.len());
        for p in q.drain(..room) {
            if !self.admit(&p) {
                continue;
            }
            if !self.me.up.get() {
                self.retire(p);
            } else if let Some(f) = p.cross() {
                self.deliver(f);
            }
        }
        room
    }

    fn reclaim(&mut self, want: u32) -> Reclaimed {
        self.held_in_last = !self.held.is_empty();
        match (want, self.held_in_last) {
            (_, false) => Reclaimed::Clean,
            (_, true) => Reclaimed::Nudge,
        }
    }

    fn home(&self) -> &RxHome {
        self.me.pool.home()
    }

    fn rx_memory(&self) -> (u64, u64) {
        let (size, max) = (self.me.pool.buf_size() as u64, self.me.pool.max());
        (max.saturating_sub(self.me.rx_out()) as u64 * size, max as u64 * size)
    }

    fn link_up(&self) -> bool {
        self.me.up.get()
    }

    fn counters(&self) -> PortCounters {
        PortCounters { rx_nombuf: self.me.nombuf.get(), ..self.counters }
    }
}
