//! A port of plain memory: two ends, no device. For tests, simulations and the cost of a stack by itself.
//!
//! It is strict where devices are: a packet with too many buffers, or larger than the MTU without TSO, is
//! dropped and counted. It can be lazy where drivers are ([`MemConfig::lazy`]): sent pages stay referenced
//! until later bursts push them out.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::rc::Rc;

use arrayvec::ArrayVec;
use hugepages::{HeapRxPool, Lent, NicRef, RxFrag, RxHome, RxOps};
use smallvec::SmallVec;

use crate::pkt::{
    AttachError, Csum, Full, Port, PortCaps, PortCounters, RX_BURST, Reach, Reclaimed, RxMeta, RxPkt,
    TX_HEAD_ROOM, TxCsum, TxMeta, TxPkt,
};

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

/// A packet being sent.
pub struct MemTx {
    head: Vec<u8>,
    segs: Vec<NicRef>,
    seg_bytes: u32,
    meta: TxMeta,
    max_segs: u16,
    reach: Reach,
    out: Rc<Cell<usize>>,
}

impl Drop for MemTx {
    fn drop(&mut self) {
        self.out.set(self.out.get() - 1);
    }
}

impl TxPkt for MemTx {
    fn head_mut(&mut self) -> &mut [u8] {
        &mut self.head
    }
    fn copy_in(&mut self, b: &[u8]) -> Result<(), Full> {
        if self.head.len() + b.len() > TX_HEAD_ROOM || !self.segs.is_empty() {
            return Err(Full);
        }
        self.head.extend_from_slice(b);
        Ok(())
    }
    fn attach(&mut self, s: &Lent) -> Result<(), AttachError> {
        if self.segs.len() + 1 >= usize::from(self.max_segs) {
            return Err(AttachError::Segments { max: self.max_segs });
        }
        if !self.reach.covers(s.page_run()) {
            return Err(AttachError::Unreachable { port: "mem".into(), kind: s.page_run().kind() });
        }
        self.segs.push(s.nic_ref(0, s.len())?);
        self.seg_bytes += s.len();
        Ok(())
    }
    fn len(&self) -> u32 {
        self.head.len() as u32 + self.seg_bytes
    }
    fn for_each(&self, f: &mut dyn FnMut(&[u8])) {
        f(&self.head);
        self.segs.iter().for_each(|s| f(s.bytes()));
    }
    fn finish(mut self, m: TxMeta) -> MemTx {
        self.meta = m;
        self
    }
    fn tx_meta(&self) -> TxMeta {
        self.meta
    }
}

/// Buffers of a received packet. A super-segment of 64 KiB in default buffers takes no allocation.
type RxSegs = SmallVec<[RxFrag; 10]>;

/// A received packet.
pub struct MemRx {
    head: ArrayVec<u8, 128>,
    segs: RxSegs,
    len: u32,
    meta: RxMeta,
}

impl MemRx {
    /// A packet that lies in one buffer.
    pub(crate) fn of_frag(frag: RxFrag, meta: RxMeta) -> MemRx {
        let head = frag.bytes().iter().copied().take(128).collect();
        let (len, truesize) = (frag.len(), frag.truesize());
        let mut segs = RxSegs::new();
        segs.push(frag);
        MemRx { head, segs, len, meta: RxMeta { truesize, ..meta } }
    }

    /// A packet of `bytes` in one buffer of `pool`, or `None` when none is left or it does not fit.
    pub fn of_bytes(pool: &HeapRxPool, bytes: &[u8], meta: RxMeta) -> Option<MemRx> {
        let mut segs = RxSegs::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = rest.len().min(pool.buf_size());
            segs.push(pool.copy_of(&rest[..n])?);
            rest = &rest[n..];
        }
        let truesize = segs.iter().map(RxFrag::truesize).sum();
        Some(MemRx {
            head: bytes.iter().copied().take(128).collect(),
            segs,
            len: bytes.len() as u32,
            meta: RxMeta { truesize, ..meta },
        })
    }
}

impl RxPkt for MemRx {
    fn head(&self) -> &[u8] {
        &self.head
    }
    fn head_mut(&mut self) -> &mut [u8] {
        &mut self.head
    }
    fn len(&self) -> u32 {
        self.len
    }
    fn meta(&self) -> RxMeta {
        self.meta
    }
    fn for_each(&self, f: &mut dyn FnMut(&[u8])) {
        let mut skip = self.head.len();
        f(&self.head);
        for s in &self.segs {
            let b = s.bytes();
            let k = skip.min(b.len());
            skip -= k;
            if k < b.len() {
                f(&b[k..]);
            }
        }
    }
    fn frags(self, off: u32, len: u32, out: &mut dyn FnMut(RxFrag)) {
        let (mut off, mut len) = (off, len);
        for mut s in self.segs {
            if off >= s.len() {
                off -= s.len();
                continue;
            }
            s.advance(off);
            off = 0;
            s.truncate(len);
            len -= s.len();
            if !s.is_empty() {
                out(s);
            }
            if len == 0 {
                break;
            }
        }
    }
}

// ---- sharing: a received fragment that holds a NIC reference of the sender ----

struct SharedSeg {
    refs: Cell<u32>,
    nic: NicRef,
}

unsafe fn shared_retain(raw: NonNull<()>) {
    // SAFETY: `raw` is a leaked SharedSeg with a reference left.
    let s = unsafe { raw.cast::<SharedSeg>().as_ref() };
    s.refs.set(s.refs.get() + 1);
}

unsafe fn shared_release(raw: NonNull<()>) {
    // SAFETY: as in `shared_retain`; the caller owns the reference that goes.
    let s = unsafe { raw.cast::<SharedSeg>().as_ref() };
    let n = s.refs.get() - 1;
    s.refs.set(n);
    if n == 0 {
        // SAFETY: leaked by `share`, and this was the last reference.
        drop(unsafe { Box::from_raw(raw.cast::<SharedSeg>().as_ptr()) });
    }
}

static SHARED_OPS: RxOps = RxOps { retain: shared_retain, release: shared_release };

fn share(home: &RxHome, nic: NicRef) -> RxFrag {
    let len = nic.bytes().len() as u32;
    let data = NonNull::from(nic.bytes()).cast();
    let raw = NonNull::from(Box::leak(Box::new(SharedSeg { refs: Cell::new(1), nic })));
    debug_assert_eq!(len as usize, {
        // SAFETY: just leaked, one reference.
        unsafe { raw.as_ref().nic.bytes().len() }
    });
    // SAFETY: the NIC reference inside keeps the pages; it falls with the last fragment.
    unsafe { home.frag(raw.cast(), data, len, len, false) }
}

// ---- the pair ----

struct Side {
    inbox: RefCell<VecDeque<MemRx>>,
    pool: HeapRxPool,
    shared_home: RxHome,
    nombuf: Cell<u64>,
    up: Cell<bool>,
}

/// One end of an in-memory pair.
pub struct MemPort {
    caps: PortCaps,
    cfg: MemConfig,
    me: Rc<Side>,
    peer: Rc<Side>,
    held: VecDeque<Vec<NicRef>>,
    held_in_last: bool,
    spare: Vec<(Vec<u8>, Vec<NicRef>)>,
    tx_out: Rc<Cell<usize>>,
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
        spare: Vec::new(),
        tx_out: Rc::new(Cell::new(0)),
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
        self.me.pool.out()
    }

    /// The receive pool, to make packets of one's own.
    pub fn pool(&self) -> &HeapRxPool {
        &self.me.pool
    }

    fn deliver(&mut self, p: &mut MemTx) {
        let meta = p.meta;
        let rx_meta = RxMeta {
            csum: if meta.csum == TxCsum::Offload { Csum::Partial } else { Csum::None },
            lro_segsz: meta.segsz,
            ..RxMeta::default()
        };
        let pool = &self.peer.pool;
        let mut segs = RxSegs::new();
        let head: ArrayVec<u8, 128> = p.head.iter().copied().take(128).collect();
        let ok = match self.cfg.crossing {
            Crossing::Share => match pool.copy_of(&p.head) {
                Some(h) => {
                    segs.push(h);
                    segs.extend(p.segs.drain(..).map(|n| share(&self.peer.shared_home, n)));
                    true
                }
                None => false,
            },
            Crossing::Copy => copy_chain(pool, p, &mut segs),
        };
        if !ok {
            self.peer.nombuf.set(self.peer.nombuf.get() + 1);
            return;
        }
        let truesize = segs.iter().map(RxFrag::truesize).sum();
        let pkt = MemRx { head, segs, len: p.len(), meta: RxMeta { truesize, ..rx_meta } };
        self.peer.inbox.borrow_mut().push_back(pkt);
    }

    /// Whether a device would send `p`; counts it as sent or dropped.
    pub(crate) fn admit(&mut self, p: &MemTx) -> bool {
        let payload_max =
            if p.meta.segsz > 0 { self.cfg.tso_max as usize } else { usize::from(self.cfg.mtu) };
        if p.len() as usize > payload_max + L2_MAX || p.segs.len() + 1 > usize::from(self.cfg.max_segs) {
            self.counters.tx_dropped += 1;
            return false;
        }
        self.counters.tx_packets += 1;
        self.counters.tx_bytes += u64::from(p.len());
        self.counters.tx_attached += p.segs.len() as u64;
        true
    }

    /// Takes back what was sent: at once, or late where the port is lazy.
    pub(crate) fn retire(&mut self, mut p: MemTx) {
        let (mut head, mut segs) = (std::mem::take(&mut p.head), std::mem::take(&mut p.segs));
        if self.cfg.lazy > 0 {
            self.held.push_back(segs);
            segs = Vec::new();
        }
        segs.clear();
        head.clear();
        if self.spare.len() < 256 {
            self.spare.push((head, segs));
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

fn copy_chain(pool: &HeapRxPool, p: &MemTx, segs: &mut RxSegs) -> bool {
    let mut cur: Option<(hugepages::HeapRxBuf, usize)> = None;
    let mut ok = true;
    p.for_each(&mut |mut b| {
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
                segs.push(buf.into_frag(0, at as u32));
            }
        }
    });
    if let Some((buf, at)) = cur {
        segs.push(buf.into_frag(0, at as u32));
    }
    ok
}

impl Port for MemPort {
    type Rx = MemRx;
    type Tx = MemTx;

    fn caps(&self) -> &PortCaps {
        &self.caps
    }

    fn rx_burst(&mut self, out: &mut ArrayVec<MemRx, RX_BURST>) {
        let mut inbox = self.me.inbox.borrow_mut();
        while out.remaining_capacity() > 0 {
            let Some(p) = inbox.pop_front() else { break };
            self.counters.rx_packets += 1;
            self.counters.rx_bytes += u64::from(p.len);
            out.push(p);
        }
    }

    fn tx_alloc(&mut self) -> Option<MemTx> {
        if self.tx_out.get() >= self.cfg.tx_bufs {
            self.counters.tx_nombuf += 1;
            return None;
        }
        self.tx_out.set(self.tx_out.get() + 1);
        let new = || (Vec::with_capacity(TX_HEAD_ROOM), Vec::with_capacity(16));
        let (head, segs) = self.spare.pop().unwrap_or_else(new);
        Some(MemTx {
            head,
            segs,
            seg_bytes: 0,
            meta: TxMeta::default(),
            max_segs: self.cfg.max_segs,
            reach: self.caps.reach,
            out: self.tx_out.clone(),
        })
    }

    fn tx_burst(&mut self, q: &mut VecDeque<MemTx>) -> usize {
        let mut n = 0;
        if !q.is_empty() {
            self.begin_burst();
        }
        while self.peer.inbox.borrow().len() < self.cfg.depth {
            let Some(mut p) = q.pop_front() else { break };
            n += 1;
            if self.admit(&p) {
                if self.me.up.get() {
                    self.deliver(&mut p);
                }
                self.retire(p);
            }
        }
        n
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
        let size = self.me.pool.buf_size() as u64;
        ((self.me.pool.max() - self.me.pool.out()) as u64 * size, self.me.pool.max() as u64 * size)
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
    use hugepages::{LendSlab, PageRunMut, PrivatePages};
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
}
