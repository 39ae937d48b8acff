//! A port of plain memory: two ends, no device. For tests, simulations and the cost of a stack by itself.
//!
//! It is strict where devices are: a packet with too many buffers, or larger than the MTU without TSO, is
//! dropped and counted. It can be lazy where drivers are ([`MemConfig::lazy`]): sent pages stay referenced
//! until later bursts push them out.

mod frame;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use arrayvec::ArrayVec;
use hugepages::{HeapRxPool, NicRef, RxFrag, RxHome};

use self::frame::{Frame, Rack, SHARED_OPS, rack};
use crate::pkt::{Csum, Port, PortCaps, PortCounters, RX_BURST, Reach, Reclaimed, RxMeta, TxCsum, TxPkt};

pub use self::frame::{MemRx, MemTx};

/// Length of an Ethernet header with room for one VLAN tag, in bytes.
const L2_MAX: usize = 18;

/// How payload reaches the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// Copied into the receiver's buffers when sent, as vhost does. The sender's pages are free at once
    /// (unless `lazy`), and received fragments may be lent.
    Copy,
    /// By reference: the receiver reads the sender's pages. Nothing is lendable then.
    Share,
}

/// What an in-memory port pair is like.
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
    /// How payload crosses.
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

/// One end of an in-memory pair.
pub struct MemPort {
    caps: PortCaps,
    cfg: MemConfig,
    me: Rc<Side>,
    peer: Rc<Side>,
    held: VecDeque<Vec<NicRef>>,
    held_in_last: bool,
    rack: Rc<Rack>,
    counters: PortCounters,
}

/// Two ports joined back to back.
pub fn pair(cfg: &MemConfig) -> (MemPort, MemPort) {
    let side = || {
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
    };
    let (a, b) = (side(), side());
    let port = |n: u8, me: &Rc<Side>, peer: &Rc<Side>| MemPort {
        caps: PortCaps {
            name: format!("mem{n}"),
            mac: [2, 0, 0, 0, 0, n + 1],
            mtu: cfg.mtu,
            tso_max: cfg.tso_max,
            max_segs: cfg.max_segs,
            tx_csum: cfg.csum,
            rx_csum: cfg.csum,
            lro: cfg.tso_max > 0,
            vlan_insert: false,
            vlan_strip: false,
            reach: Reach::Any,
        },
        cfg: cfg.clone(),
        me: me.clone(),
        peer: peer.clone(),
        held: VecDeque::new(),
        held_in_last: false,
        rack: Rc::new(Rack {
            idle: RefCell::default(),
            made: Cell::new(0),
            out: Cell::new(0),
            max_segs: cfg.max_segs,
            reach: Reach::Any,
        }),
        counters: PortCounters::default(),
    };
    (port(0, &a, &b), port(1, &b, &a))
}

impl MemPort {
    /// Takes the link down or up again; packets sent while it is down are lost.
    pub fn set_link(&mut self, up: bool) {
        self.me.up.set(up);
        self.peer.up.set(up);
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
        let to = &*self.peer;
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
            return rack(f);
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
        if self.rack.out.get() >= self.cfg.tx_bufs {
            self.counters.tx_nombuf += 1;
            return None;
        }
        Some(MemTx { frame: Some(self.rack.take()), rack: self.rack.clone() })
    }

    fn tx_burst(&mut self, q: &mut VecDeque<MemTx>) -> usize {
        if !q.is_empty() {
            self.begin_burst();
        }
        let room = self.cfg.depth.saturating_sub(self.peer.inbox.borrow().len()).min(q.len());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pkt::{AttachError, Full, RxPkt, TxMeta};
    use hugepages::{LendSlab, Lent, PageRunMut, PrivatePages};
    use std::sync::Arc;

    fn page() -> hugepages::PageSlice {
        let mut r = PageRunMut::new(Arc::new(PrivatePages), 20_000).unwrap();
        r.bytes_mut().iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
        r.freeze().slice_all()
    }

    fn send(a: &mut MemPort, head: &[u8], lent: Option<&Lent>, segsz: u16) -> usize {
        let mut t = a.tx_alloc().unwrap();
        t.copy_in(head).unwrap();
        if let Some(l) = lent {
            t.attach(l).unwrap();
        }
        let t = t.finish(TxMeta { segsz, csum: TxCsum::Offload, ..TxMeta::default() });
        a.tx_burst(&mut VecDeque::from([t]))
    }

    fn recv(b: &mut MemPort) -> Option<MemRx> {
        let mut v = ArrayVec::new();
        b.rx_burst(&mut v);
        v.pop()
    }

    #[test]
    fn a_frame_crosses_copied_or_shared_and_pages_come_home() {
        for crossing in [Crossing::Copy, Crossing::Share] {
            let (mut a, mut b) = pair(&MemConfig { crossing, ..MemConfig::default() });
            let slab = LendSlab::new(4);
            let l = slab.lend(page(), 7).unwrap();
            assert_eq!(send(&mut a, b"head", Some(&l), 1448), 1);
            drop(l);
            let p = recv(&mut b).unwrap();
            assert_eq!((p.len(), p.meta().csum, p.meta().lro_segsz), (20_004, Csum::Partial, 1448));
            let mut all = vec![];
            p.for_each(&mut |x| all.extend_from_slice(x));
            assert_eq!(&all[..4], b"head");
            let mut got = vec![];
            let mut held = vec![];
            p.frags(5, 15_000, &mut |f| {
                got.extend_from_slice(f.bytes());
                held.push(f);
            });
            assert_eq!(got, all[5..15_005]);
            assert_eq!(slab.reap(|_, _| ()), usize::from(crossing == Crossing::Copy));
            drop(held);
            slab.reap(|t, _| assert_eq!(t, 7));
            assert_eq!((slab.out(), b.rx_out()), (0, 0));
        }
    }

    #[test]
    fn a_lazy_port_holds_pages_until_a_later_burst() {
        let (mut a, mut b) = pair(&MemConfig { lazy: 1, ..MemConfig::default() });
        let slab = LendSlab::new(4);
        let l = slab.lend(page(), 1).unwrap();
        send(&mut a, b"x", Some(&l), 9000);
        drop(l);
        assert_eq!(slab.reap(|_, _| ()), 0);
        assert_eq!(a.reclaim(1), Reclaimed::Nudge);
        send(&mut a, b"nudge", None, 0);
        send(&mut a, b"nudge", None, 0);
        assert_eq!(slab.reap(|_, _| ()), 1);
        drop((recv(&mut b), recv(&mut b)));
    }

    #[test]
    fn what_a_device_would_refuse_is_dropped_and_counted() {
        let (mut a, mut b) = pair(&MemConfig { mtu: 1500, tso_max: 0, max_segs: 2, ..MemConfig::default() });
        let slab = LendSlab::new(4);
        let l = slab.lend(page(), 1).unwrap();
        send(&mut a, b"x", Some(&l), 0);
        assert_eq!(a.counters().tx_dropped, 1);
        assert!(recv(&mut b).is_none());
        let mut t = a.tx_alloc().unwrap();
        t.attach(&l.window(0, 10).unwrap()).unwrap();
        assert!(matches!(t.attach(&l), Err(AttachError::Segments { max: 2 })));
        assert_eq!(t.copy_in(&[0; 8]), Err(Full), "bytes after pages would be out of order");
    }

    #[test]
    fn a_receiver_without_buffers_loses_the_frame_and_says_so() {
        let (mut a, mut b) = pair(&MemConfig { rx_bufs: 1, ..MemConfig::default() });
        send(&mut a, b"one", None, 0);
        send(&mut a, b"two", None, 0);
        assert_eq!(b.counters().rx_nombuf, 1);
        drop(recv(&mut b));
        send(&mut a, b"three", None, 0);
        assert!(recv(&mut b).is_some());
    }

    #[test]
    fn shared_frames_cost_receive_buffers_too_until_their_headers_are_done_with() {
        let (mut a, mut b) =
            pair(&MemConfig { rx_bufs: 1, crossing: Crossing::Share, ..MemConfig::default() });
        let slab = LendSlab::new(4);
        let l = slab.lend(page(), 1).unwrap();
        let all = b.rx_memory().0;
        send(&mut a, b"head", Some(&l), 1448);
        send(&mut a, b"lost", None, 0);
        assert_eq!((b.counters().rx_nombuf, b.rx_out(), b.rx_memory().0), (1, 1, 0));
        let mut kept = vec![];
        recv(&mut b).unwrap().frags(4, 100, &mut |f| kept.push(f));
        assert_eq!((b.rx_out(), b.rx_memory().0), (0, all), "only the sender's pages are held");
        send(&mut a, b"inline", None, 0);
        recv(&mut b).unwrap().frags(2, 100, &mut |f| kept.push(f));
        assert_eq!((b.rx_out(), kept[1].bytes()), (1, &b"line"[..]));
        let copy = kept[0].split_to(10);
        drop(l);
        assert_eq!(slab.reap(|_, _| ()), 0);
        drop((a, b));
        assert_eq!((copy.bytes()[3], kept[0].len()), (3, 90), "fragments outlive the ports");
        drop((copy, kept));
        assert_eq!(slab.reap(|_, _| ()), 1);
    }

    #[test]
    fn packets_that_nobody_received_let_go_of_their_pages() {
        let (mut a, b) = pair(&MemConfig { crossing: Crossing::Share, ..MemConfig::default() });
        let slab = LendSlab::new(4);
        let l = slab.lend(page(), 1).unwrap();
        send(&mut a, b"head", Some(&l), 1448);
        drop((a, b, l));
        assert_eq!(slab.reap(|_, _| ()), 1);
    }
}
