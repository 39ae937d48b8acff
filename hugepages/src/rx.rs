//! Received fragments: parts of receive buffers, on their lcore or lent to an application.
//!
//! A receive buffer belongs to a pool that only one lcore (its *home*) touches. [`RxFrag`] is a counted
//! reference on it that stays on that lcore. [`RxLent`] may go to any thread; dropping it pushes the buffer on
//! the home's return ring, and the home frees it on its next turn. So an application thread never touches a
//! mempool.
//!
//! ```
//! use hugepages::{HeapRxPool, LendOwner};
//!
//! let pool = HeapRxPool::new(2048, 64);
//! let mut frag = pool.copy_of(b"header, then payload").ok_or("no buffer")?;
//! let header = frag.split_to(8);
//! let lent = frag.lend(LendOwner(1)).map_err(|_| "budget spent")?;
//! drop(header);
//! std::thread::spawn(move || assert_eq!(lent.bytes(), b"then payload")).join().unwrap();
//! assert_eq!(pool.out(), 1); // still out: only the home frees
//! pool.home().drain();
//! assert_eq!(pool.out(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use crate::backing::{BackingKind, Io, OwnPages};
use crate::sync::ArrayQueue;

/// Counting of a home's buffers. The functions but `io` are called on the home lcore only, as long as there is one.
///
/// # Safety of implementations
/// `retain` adds one reference to the buffer behind `raw`; `release` takes one away and frees it at 0. `io` may be called on
/// any thread.
#[derive(Debug)]
pub struct RxOps {
    /// Adds a reference.
    pub retain: unsafe fn(raw: NonNull<()>),
    /// Takes a reference away; the last one frees the buffer.
    pub release: unsafe fn(raw: NonNull<()>),
    /// Address at which devices find `data`, a byte in the buffer; the caller holds a reference.
    pub io: unsafe fn(raw: NonNull<()>, data: NonNull<u8>) -> Io,
    /// Whether any thread may release what is left once the home has gone: the memory is nobody's then. Else it stays.
    pub outlives_home: bool,
}

/// Counts of one home.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RxCounters {
    /// Fragments lent since the start.
    pub lent: u64,
    /// Lent fragments that came back.
    pub returned: u64,
    /// Lends refused for the budget (the payload was copied).
    pub refused: u64,
    /// Pool bytes lent now.
    pub lent_bytes: u64,
}

struct Returned {
    raw: usize,
    truesize: u32,
    owner: LendOwner,
}

/// The ring that lent fragments come home on.
pub struct ReturnRing {
    ring: ArrayQueue<Returned>,
    ops: &'static RxOps,
}

impl Drop for ReturnRing {
    /// The home has gone, and so has the last fragment that it lent: what came back meanwhile is freed by whoever is here.
    fn drop(&mut self) {
        while self.ops.outlives_home
            && let Some(r) = self.ring.pop()
        {
            if let Some(raw) = NonNull::new(std::ptr::with_exposed_provenance_mut::<()>(r.raw)) {
                // SAFETY: as in `RxHome::drain`, and nobody else has a reference of this home's any more: its pool, its
                // fragments and those that it lent each hold the home or this ring.
                unsafe { (self.ops.release)(raw) };
            }
        }
    }
}

struct HomeInner {
    ops: &'static RxOps,
    ring: Arc<ReturnRing>,
    budget: LendBudget,
    lent_handles: Cell<usize>,
    counters: Cell<RxCounters>,
    owners: RefCell<Vec<u64>>,
    /// Bytes that are left to [`LendOwner::FORWARDER`] now; 0 until it asks for some.
    aside: Cell<u64>,
}

/// Bounds on what may be lent at a time, in pool bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LendBudget {
    /// For the lcore; half of its pool by default.
    pub lcore_bytes: u64,
    /// For one owner (an application's event queue); a quarter of the pool by default.
    pub owner_bytes: u64,
    /// Fragments out at a time; also the size of the return ring.
    pub handles: usize,
}

impl LendBudget {
    /// The default shares of a pool of `bytes` in `buffers` buffers.
    pub fn of_pool(bytes: u64, buffers: usize) -> LendBudget {
        LendBudget { lcore_bytes: bytes / 2, owner_bytes: bytes / 4, handles: (buffers * 4).max(64) }
    }
}

/// Holder of lent buffers. Every number is an owner with a share of its own; small ones take less memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LendOwner(pub u16);

impl LendOwner {
    /// Whoever sends on what it is lent. Once it has asked for a lend, the others leave half of its share to it: they may keep what
    /// they are lent for long, and together could take all. What it is lent itself is bounded as everybody's.
    pub const FORWARDER: LendOwner = LendOwner(0);
}

/// The lcore's end of a receive pool: makes fragments and takes lent ones back.
#[derive(Clone)]
pub struct RxHome(Rc<HomeInner>);

impl RxHome {
    /// A home whose buffers are counted by `ops`.
    pub fn new(ops: &'static RxOps, budget: LendBudget) -> RxHome {
        RxHome(Rc::new(HomeInner {
            ops,
            ring: Arc::new(ReturnRing { ring: ArrayQueue::new(budget.handles.max(1)), ops }),
            budget,
            lent_handles: Cell::new(0),
            counters: Cell::default(),
            owners: RefCell::default(),
            aside: Cell::new(0),
        }))
    }

    /// A fragment that owns one reference on `raw`.
    ///
    /// # Safety
    /// `data..data + len` lies in the buffer `raw` and is not written while any fragment of it lives; the
    /// caller gives up one reference on `raw`, which `ops.release` understands. `truesize` is the pool memory
    /// that the buffer occupies, in bytes.
    #[inline]
    pub unsafe fn frag(
        &self,
        raw: NonNull<()>,
        data: NonNull<u8>,
        len: u32,
        truesize: u32,
        lendable: bool,
    ) -> RxFrag {
        RxFrag { data, len, truesize, lendable, raw, home: self.clone() }
    }

    /// Frees what has come back. Called from the poll loop; cheap when nothing has.
    #[inline]
    pub fn drain(&self) -> usize {
        // A buffer that is not out cannot have come back.
        if self.0.lent_handles.get() == 0 { 0 } else { self.take_back() }
    }

    fn take_back(&self) -> usize {
        let (mut n, mut bytes) = (0, 0);
        while n < 1024 {
            let Some(r) = self.0.ring.ring.pop() else { break };
            n += 1;
            if let Some(raw) = NonNull::new(std::ptr::with_exposed_provenance_mut::<()>(r.raw)) {
                // SAFETY: the fragment that was lent owned this reference and gave it up in `RxLent::drop`.
                unsafe { (self.0.ops.release)(raw) };
            }
            bytes += u64::from(r.truesize);
            if let Some(o) = self.0.owners.borrow_mut().get_mut(usize::from(r.owner.0)) {
                *o = o.saturating_sub(u64::from(r.truesize));
                if r.owner == LendOwner::FORWARDER {
                    self.set_aside(*o);
                }
            }
        }
        if n > 0 {
            self.0.lent_handles.set(self.0.lent_handles.get().saturating_sub(n));
            let mut c = self.0.counters.get();
            c.returned += n as u64;
            c.lent_bytes = c.lent_bytes.saturating_sub(bytes);
            self.0.counters.set(c);
        }
        n
    }

    /// Counts since the start.
    pub fn counters(&self) -> RxCounters {
        self.0.counters.get()
    }

    /// Fragments that are out with applications.
    pub fn lent_out(&self) -> usize {
        self.0.lent_handles.get()
    }

    /// The forwarder has so much now.
    fn set_aside(&self, has: u64) {
        self.0.aside.set((self.0.budget.owner_bytes / 2).saturating_sub(has));
    }

    fn charge(&self, owner: LendOwner, truesize: u32) -> bool {
        let mut c = self.0.counters.get();
        let t = u64::from(truesize);
        let mut owners = self.0.owners.borrow_mut();
        let i = usize::from(owner.0);
        if i >= owners.len() {
            owners.resize(i + 1, 0);
        }
        let forwards = owner == LendOwner::FORWARDER;
        let aside = if forwards { 0 } else { self.0.aside.get() };
        let fits = owners[i] + t <= self.0.budget.owner_bytes
            && c.lent_bytes + t + aside <= self.0.budget.lcore_bytes
            && self.0.lent_handles.get() < self.0.ring.ring.capacity();
        if fits {
            owners[i] += t;
            c.lent += 1;
            c.lent_bytes += t;
            self.0.lent_handles.set(self.0.lent_handles.get() + 1);
        } else {
            c.refused += 1;
        }
        if forwards {
            self.set_aside(owners[i]);
        }
        self.0.counters.set(c);
        fits
    }
}

/// Part of a receive buffer, in order, on its home lcore.
pub struct RxFrag {
    data: NonNull<u8>,
    len: u32,
    truesize: u32,
    lendable: bool,
    raw: NonNull<()>,
    home: RxHome,
}

impl RxFrag {
    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: promised by whoever made the fragment (`RxHome::frag`), for as long as its reference lives.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len as usize) }
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Pool memory that the buffer behind it occupies, in bytes.
    #[inline]
    pub fn truesize(&self) -> u32 {
        self.truesize
    }

    /// Cuts the fragment: the first `n` bytes are returned, the rest stays. Both hold the buffer.
    /// `n` over the length takes everything.
    pub fn split_to(&mut self, n: u32) -> RxFrag {
        let n = n.min(self.len);
        // SAFETY: we hold a reference, so the buffer lives; the new fragment owns the one added here.
        unsafe { (self.home.0.ops.retain)(self.raw) };
        let head = RxFrag {
            data: self.data,
            len: n,
            truesize: self.truesize,
            lendable: self.lendable,
            raw: self.raw,
            home: self.home.clone(),
        };
        self.advance(n);
        head
    }

    /// Drops the first `n` bytes; all of them when `n` is over the length.
    #[inline]
    pub fn advance(&mut self, n: u32) {
        let n = n.min(self.len);
        // SAFETY: `n` is at most the length, so the pointer stays inside the buffer or one past its end.
        self.data = unsafe { self.data.add(n as usize) };
        self.len -= n;
    }

    /// Keeps the first `n` bytes only.
    #[inline]
    pub fn truncate(&mut self, n: u32) {
        self.len = self.len.min(n);
    }

    /// Lends the fragment to an application thread, within the home's budget.
    ///
    /// # Errors
    /// The fragment itself when the budget is spent or the buffer may not be lent: copy it, and count.
    pub fn lend(self, owner: LendOwner) -> Result<RxLent, RxFrag> {
        if !self.lendable || !self.home.charge(owner, self.truesize) {
            return Err(self);
        }
        let ring = self.home.0.ring.clone();
        let me = std::mem::ManuallyDrop::new(self);
        // SAFETY: `me` is never dropped, so its handle on the home is read out exactly once; the reference on
        // the buffer passes to the RxLent.
        let home = unsafe { std::ptr::read(&raw const me.home) };
        drop(home);
        Ok(RxLent { data: me.data, len: me.len, truesize: me.truesize, owner, raw: me.raw, ring })
    }
}

impl Drop for RxFrag {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the fragment owns one reference and gives it up here, on its home lcore (it is not Send).
        unsafe { (self.home.0.ops.release)(self.raw) };
    }
}

impl std::fmt::Debug for RxFrag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RxFrag({} B of {})", self.len, self.truesize)
    }
}

/// A received fragment in an application's hands. Dropping it sends the buffer home.
pub struct RxLent {
    data: NonNull<u8>,
    len: u32,
    truesize: u32,
    owner: LendOwner,
    raw: NonNull<()>,
    ring: Arc<ReturnRing>,
}

// SAFETY: the bytes are read-only while lent, and `raw` is only passed back over the ring.
unsafe impl Send for RxLent {}
// SAFETY: shared access only reads.
unsafe impl Sync for RxLent {}

impl RxLent {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the buffer is not reused before this value is dropped and its home has drained the ring.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len as usize) }
    }

    /// Length in bytes.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Pool memory that the buffer behind it occupies, in bytes.
    pub(crate) fn truesize(&self) -> u32 {
        self.truesize
    }

    /// Address at which devices find it: on the way out again it need not be copied.
    pub fn io(&self) -> Io {
        self.io_of(self.data)
    }

    /// Address at which devices find a byte of it.
    pub(crate) fn io_of(&self, data: NonNull<u8>) -> Io {
        // SAFETY: we hold a reference on the buffer.
        unsafe { (self.ring.ops.io)(self.raw, data) }
    }
}

impl Drop for RxLent {
    fn drop(&mut self) {
        let r = Returned {
            raw: self.raw.as_ptr().expose_provenance(),
            truesize: self.truesize,
            owner: self.owner,
        };
        // The budget bounds what is out by the ring's capacity, so the push cannot fail.
        let pushed = self.ring.ring.push(r);
        debug_assert!(pushed.is_ok(), "return ring full");
    }
}

impl std::fmt::Debug for RxLent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RxLent({} B)", self.len)
    }
}

// ---- a pool of ordinary memory: kernel sockets, simulations, small copies ----

/// Bytes from which on a buffer has pages of its own: those of a peak go back to the kernel when they are let go.
const OWN_PAGES: usize = 32 << 10;

/// Memory of a buffer.
enum HeapMem {
    Heap(Box<[u8]>),
    Pages(OwnPages),
}

impl HeapMem {
    fn new(size: usize) -> HeapMem {
        let pages = (size >= OWN_PAGES).then(|| OwnPages::new(size).ok()).flatten();
        pages.map_or_else(|| HeapMem::Heap(vec![0; size].into_boxed_slice()), HeapMem::Pages)
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            HeapMem::Heap(b) => b,
            HeapMem::Pages(p) => p.bytes(),
        }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            HeapMem::Heap(b) => b,
            HeapMem::Pages(p) => p.bytes_mut(),
        }
    }
}

struct HeapBuf {
    refs: Cell<u32>,
    data: HeapMem,
    pool: std::rc::Weak<PoolInner>,
}

struct PoolInner {
    // Boxed on purpose: a buffer's address is its handle and must not move.
    #[allow(clippy::vec_box)]
    idle: RefCell<Vec<Box<HeapBuf>>>,
    out: Cell<usize>,
    max: usize,
    size: usize,
}

/// Receive buffers of ordinary memory, for runtimes without mbufs.
#[derive(Clone)]
pub struct HeapRxPool {
    inner: Rc<PoolInner>,
    home: RxHome,
}

unsafe fn heap_retain(raw: NonNull<()>) {
    // SAFETY: `raw` is a leaked HeapBuf with at least one reference.
    let b = unsafe { raw.cast::<HeapBuf>().as_ref() };
    b.refs.set(b.refs.get() + 1);
}

unsafe fn heap_release(raw: NonNull<()>) {
    let p = raw.cast::<HeapBuf>();
    // SAFETY: `raw` is a leaked HeapBuf and the caller owns one reference.
    let b = unsafe { p.as_ref() };
    let n = b.refs.get() - 1;
    b.refs.set(n);
    if n == 0 {
        // SAFETY: the last reference has gone; the box was leaked by `HeapRxPool::take`.
        let boxed = unsafe { Box::from_raw(p.as_ptr()) };
        if let Some(pool) = boxed.pool.upgrade() {
            pool.out.set(pool.out.get() - 1);
            pool.idle.borrow_mut().push(boxed);
        }
    }
}

unsafe fn heap_io(_: NonNull<()>, _: NonNull<u8>) -> Io {
    Io::of(BackingKind::Private)
}

static HEAP_OPS: RxOps =
    RxOps { retain: heap_retain, release: heap_release, io: heap_io, outlives_home: true };

impl HeapRxPool {
    /// A pool of at most `max` buffers of `size` bytes, with the default lend budget.
    pub fn new(size: usize, max: usize) -> HeapRxPool {
        HeapRxPool::with_budget(size, max, LendBudget::of_pool((size * max) as u64, max))
    }

    /// A pool with a lend budget of the caller's.
    pub fn with_budget(size: usize, max: usize, budget: LendBudget) -> HeapRxPool {
        let inner = PoolInner { idle: RefCell::default(), out: Cell::new(0), max, size };
        HeapRxPool { inner: Rc::new(inner), home: RxHome::new(&HEAP_OPS, budget) }
    }

    /// A buffer to fill, or `None` when all are out.
    #[inline]
    pub fn take(&self) -> Option<HeapRxBuf> {
        if self.inner.out.get() >= self.inner.max {
            return None;
        }
        let buf = self.inner.idle.borrow_mut().pop();
        let buf = buf.unwrap_or_else(|| self.one_more());
        self.inner.out.set(self.inner.out.get() + 1);
        Some(HeapRxBuf { buf: Some(buf), home: self.home.clone() })
    }

    /// A new buffer.
    #[cold]
    fn one_more(&self) -> Box<HeapBuf> {
        // All are out: room for this one to come home without an allocation then.
        self.inner.idle.borrow_mut().reserve(self.inner.out.get() + 1);
        let data = HeapMem::new(self.inner.size);
        Box::new(HeapBuf { refs: Cell::new(0), data, pool: Rc::downgrade(&self.inner) })
    }

    /// A fragment with a copy of `bytes`, or `None` when no buffer is left or they do not fit in one.
    pub fn copy_of(&self, bytes: &[u8]) -> Option<RxFrag> {
        if bytes.len() > self.inner.size {
            return None;
        }
        let mut b = self.take()?;
        b.space()[..bytes.len()].copy_from_slice(bytes);
        Some(b.into_frag(0, bytes.len() as u32))
    }

    /// Lets go of all but `keep` of the buffers that lie idle; they are made again as they are needed.
    pub fn trim(&self, keep: usize) {
        self.inner.idle.borrow_mut().truncate(keep);
    }

    /// The home: drain it each turn.
    pub fn home(&self) -> &RxHome {
        &self.home
    }

    /// Buffers that are out.
    pub fn out(&self) -> usize {
        self.inner.out.get()
    }

    /// Buffers in all.
    pub fn max(&self) -> usize {
        self.inner.max
    }

    /// Size of a buffer in bytes.
    pub fn buf_size(&self) -> usize {
        self.inner.size
    }
}

/// A buffer being filled.
pub struct HeapRxBuf {
    buf: Option<Box<HeapBuf>>,
    home: RxHome,
}

impl HeapRxBuf {
    /// The whole buffer.
    #[inline]
    pub fn space(&mut self) -> &mut [u8] {
        self.buf.as_mut().map_or(&mut [], |b| b.data.bytes_mut())
    }

    /// Turns `len` bytes from `off` into a fragment; what lies outside the buffer is cut off.
    #[inline]
    pub fn into_frag(self, off: u32, len: u32) -> RxFrag {
        let mut me = std::mem::ManuallyDrop::new(self);
        let buf = me.buf.take().unwrap_or_else(|| unreachable!("a buffer is taken once"));
        let size = buf.data.bytes().len() as u32;
        let off = off.min(size);
        let len = len.min(size - off);
        buf.refs.set(1);
        let raw = NonNull::from(Box::leak(buf));
        // SAFETY: the buffer was just leaked with one reference, which the fragment takes over; it is written
        // no more until the last reference has gone; `off` is inside it.
        unsafe {
            let data =
                NonNull::new_unchecked(raw.as_ref().data.bytes().as_ptr().cast_mut().add(off as usize));
            // `me` is never dropped, so its handle on the home is read out exactly once.
            let home = std::ptr::read(&raw const me.home);
            RxFrag { data, len, truesize: size, lendable: true, raw: raw.cast(), home }
        }
    }
}

impl Drop for HeapRxBuf {
    fn drop(&mut self) {
        if let Some(b) = self.buf.take()
            && let Some(pool) = b.pool.upgrade()
        {
            pool.out.set(pool.out.get() - 1);
            pool.idle.borrow_mut().push(b);
        }
    }
}
