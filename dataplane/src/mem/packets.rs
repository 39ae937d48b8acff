//! Packets of the in-memory port.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::{Rc, Weak};

use hugepages::{BackingKind, HeapRxPool, Io, Lent, NicRef, RxFrag, RxOps};

use super::Side;
use crate::pkt::{AttachError, Full, Reach, RxMeta, RxPkt, TX_HEAD_ROOM, TxMeta, TxPkt};

/// A packet from the sender's first byte to the receiver's last fragment.
///
/// Boxed and used again, so that queues move pointers and nothing is allocated once there are enough.
pub(super) struct Frame {
    /// The receiver's packet and fragments that refer to it; only while it is received.
    pub(super) refs: Cell<u32>,
    /// Bytes that the sender copied in: headers, small payload.
    pub(super) head: Vec<u8>,
    /// Pages that the sender attached. They cross with the frame when pages are shared.
    pub(super) pages: Vec<NicRef>,
    pub(super) page_bytes: u32,
    pub(super) tx: TxMeta,
    /// The receiver's buffers with all bytes, where the port copies; none where pages are shared.
    pub(super) bufs: Vec<RxFrag>,
    pub(super) rx: RxMeta,
    /// The receiver, once it has the packet; `charged` while that costs it a receive buffer.
    pub(super) to: Option<Rc<Side>>,
    pub(super) charged: bool,
    /// Home to which it goes when nobody needs it any more.
    pub(super) free_list: Weak<FreeList>,
}

/// Frames of one sender that nobody uses.
pub(super) struct FreeList {
    // Boxed on purpose: a frame's address is its handle and must not move.
    #[allow(clippy::vec_box)]
    pub(super) idle: RefCell<Vec<Box<Frame>>>,
    pub(super) made: Cell<usize>,
    /// Packets being filled or waiting to be sent.
    pub(super) out: Cell<usize>,
    pub(super) max_segs: u16,
    pub(super) reach: Reach,
}

impl Frame {
    fn new(free_list: Weak<FreeList>, head: Vec<u8>) -> Box<Frame> {
        Box::new(Frame {
            refs: Cell::new(0),
            head,
            pages: Vec::new(),
            page_bytes: 0,
            tx: TxMeta::default(),
            bufs: Vec::new(),
            rx: RxMeta::default(),
            to: None,
            charged: false,
            free_list,
        })
    }

    pub(super) fn len(&self) -> u32 {
        self.head.len() as u32 + self.page_bytes
    }

    pub(super) fn for_each(&self, f: &mut dyn FnMut(&[u8])) {
        f(&self.head);
        self.pages.iter().for_each(|s| f(s.bytes()));
    }

    /// Gives the receive buffer back that the packet cost.
    fn discharge(&mut self) {
        if let Some(to) = self.to.as_deref().filter(|_| self.charged) {
            to.charged.set(to.charged.get() - 1);
        }
        self.charged = false;
    }
}

/// Lets go of everything in a frame and puts it back.
pub(super) fn give_back(mut f: Box<Frame>) {
    f.discharge();
    f.to = None;
    f.pages.clear();
    f.bufs.clear();
    f.head.clear();
    f.page_bytes = 0;
    if let Some(r) = f.free_list.upgrade() {
        r.idle.borrow_mut().push(f);
    }
}

impl FreeList {
    pub(super) fn take(self: &Rc<FreeList>) -> Box<Frame> {
        self.out.set(self.out.get() + 1);
        if let Some(f) = self.idle.borrow_mut().pop() {
            return f;
        }
        self.made.set(self.made.get() + 1);
        // Room for all to come home without an allocation then.
        self.idle.borrow_mut().reserve(self.made.get());
        let mut f = Frame::new(Rc::downgrade(self), Vec::with_capacity(TX_HEAD_ROOM));
        f.pages.reserve(16);
        f.bufs.reserve(8);
        f
    }
}

/// A packet being sent.
pub struct MemTx {
    /// `None` once it has crossed.
    pub(super) frame: Option<Box<Frame>>,
    pub(super) free_list: Rc<FreeList>,
}

impl MemTx {
    /// The frame, for the receiver.
    pub(super) fn cross(mut self) -> Option<Box<Frame>> {
        self.frame.take()
    }
}

impl Drop for MemTx {
    fn drop(&mut self) {
        self.free_list.out.set(self.free_list.out.get() - 1);
        if let Some(f) = self.frame.take() {
            give_back(f);
        }
    }
}

impl TxPkt for MemTx {
    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        self.frame.as_mut().map_or(&mut [], |f| &mut f.head)
    }
    #[inline]
    fn copy_in(&mut self, b: &[u8]) -> Result<(), Full> {
        let f = self.frame.as_mut().ok_or(Full)?;
        if f.head.len() + b.len() > TX_HEAD_ROOM || !f.pages.is_empty() {
            return Err(Full);
        }
        f.head.extend_from_slice(b);
        Ok(())
    }
    #[inline]
    fn attach(&mut self, s: &Lent) -> Result<(), AttachError> {
        let Some(f) = self.frame.as_mut() else { return Err(AttachError::NoBuffer) };
        if f.pages.len() + 1 >= usize::from(self.free_list.max_segs) {
            return Err(AttachError::Segments { max: self.free_list.max_segs });
        }
        let place = s.place();
        if !self.free_list.reach.covers(place.io()) {
            return Err(AttachError::Unreachable { port: "mem".into(), kind: place.kind() });
        }
        if place.bytes().len() < s.len() as usize {
            return Err(AttachError::Scattered);
        }
        f.pages.push(place.nic_ref(0, s.len())?);
        f.page_bytes += s.len();
        Ok(())
    }
    #[inline]
    fn len(&self) -> u32 {
        self.frame.as_ref().map_or(0, |f| f.len())
    }
    fn for_each(&self, f: &mut dyn FnMut(&[u8])) {
        if let Some(x) = &self.frame {
            x.for_each(f);
        }
    }
    #[inline]
    fn finish(mut self, m: TxMeta) -> MemTx {
        if let Some(f) = &mut self.frame {
            f.tx = m;
        }
        self
    }
    fn tx_meta(&self) -> TxMeta {
        self.frame.as_ref().map_or(TxMeta::default(), |f| f.tx)
    }
}

/// Bytes of a received packet that its head shows.
const HEAD_MAX: usize = 128;

/// A received packet.
pub struct MemRx {
    /// `None` once it was taken apart.
    pub(super) frame: Option<Box<Frame>>,
}

impl MemRx {
    /// A packet that lies in one buffer.
    pub(crate) fn of_frag(frag: RxFrag, meta: RxMeta) -> MemRx {
        let bytes = frag.bytes();
        let mut f = Frame::new(Weak::new(), bytes[..bytes.len().min(HEAD_MAX)].to_vec());
        f.page_bytes = (bytes.len() - f.head.len()) as u32;
        f.rx = RxMeta { truesize: frag.truesize(), ..meta };
        f.bufs.push(frag);
        MemRx { frame: Some(f) }
    }

    /// A packet of `bytes` in buffers of `pool`, or `None` when none is left.
    pub fn of_bytes(pool: &HeapRxPool, bytes: &[u8], meta: RxMeta) -> Option<MemRx> {
        let mut f = Frame::new(Weak::new(), bytes[..bytes.len().min(HEAD_MAX)].to_vec());
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = rest.len().min(pool.buf_size());
            f.bufs.push(pool.copy_of(&rest[..n])?);
            rest = &rest[n..];
        }
        f.page_bytes = (bytes.len() - f.head.len()) as u32;
        let truesize = f.bufs.iter().map(RxFrag::truesize).sum();
        f.rx = RxMeta { truesize, ..meta };
        Some(MemRx { frame: Some(f) })
    }
}

impl Drop for MemRx {
    fn drop(&mut self) {
        if let Some(f) = self.frame.take() {
            give_back(f);
        }
    }
}

impl RxPkt for MemRx {
    #[inline]
    fn head(&self) -> &[u8] {
        self.frame.as_ref().map_or(&[], |f| &f.head[..f.head.len().min(HEAD_MAX)])
    }
    fn head_mut(&mut self) -> &mut [u8] {
        let Some(f) = &mut self.frame else { return &mut [] };
        let n = f.head.len().min(HEAD_MAX);
        &mut f.head[..n]
    }
    #[inline]
    fn len(&self) -> u32 {
        self.frame.as_ref().map_or(0, |f| f.len())
    }
    #[inline]
    fn meta(&self) -> RxMeta {
        self.frame.as_ref().map_or(RxMeta::default(), |f| f.rx)
    }
    fn for_each(&self, f: &mut dyn FnMut(&[u8])) {
        let Some(x) = &self.frame else { return };
        if x.bufs.is_empty() {
            return x.for_each(f);
        }
        let mut skip = x.head.len();
        f(&x.head);
        for s in &x.bufs {
            let b = s.bytes();
            let k = skip.min(b.len());
            skip -= k;
            if k < b.len() {
                f(&b[k..]);
            }
        }
    }
    #[inline]
    fn frags(mut self, off: u32, len: u32, out: &mut dyn FnMut(RxFrag)) {
        let Some(mut f) = self.frame.take() else { return };
        if f.bufs.is_empty() {
            return share(f, off, len, out);
        }
        let (mut off, mut len) = (off, len);
        for mut s in f.bufs.drain(..) {
            if off >= s.len() || len == 0 {
                off = off.saturating_sub(s.len());
                continue;
            }
            s.advance(off);
            off = 0;
            s.truncate(len);
            len -= s.len();
            out(s);
        }
        give_back(f);
    }
}

// ---- sharing: fragments of a frame that still holds the sender's references ----

unsafe fn shared_retain(raw: NonNull<()>) {
    // SAFETY: `raw` is a leaked Frame with a reference left.
    let f = unsafe { raw.cast::<Frame>().as_ref() };
    f.refs.set(f.refs.get() + 1);
}

unsafe fn shared_release(raw: NonNull<()>) {
    // SAFETY: as in `shared_retain`; the caller owns the reference that goes.
    let f = unsafe { raw.cast::<Frame>().as_ref() };
    let n = f.refs.get() - 1;
    f.refs.set(n);
    if n == 0 {
        // SAFETY: leaked by `share`, and this was the last reference.
        give_back(unsafe { Box::from_raw(raw.cast::<Frame>().as_ptr()) });
    }
}

unsafe fn shared_io(_: NonNull<()>, _: NonNull<u8>) -> Io {
    Io::of(BackingKind::Private)
}

pub(super) static SHARED_OPS: RxOps =
    RxOps { retain: shared_retain, release: shared_release, io: shared_io, outlives_home: false };

/// Takes a frame apart that shares its sender's pages.
fn share(mut f: Box<Frame>, off: u32, len: u32, out: &mut dyn FnMut(RxFrag)) {
    let Some(to) = f.to.clone() else { return give_back(f) };
    if off as usize >= f.head.len() {
        // Nothing of the receive buffer itself is handed out.
        f.discharge();
    }
    f.refs.set(1);
    let raw = NonNull::from(Box::leak(f));
    {
        // SAFETY: just leaked; the reference taken above keeps it until the end of this block. Nobody changes it
        // while it has references but through its cells.
        let f = unsafe { raw.as_ref() };
        let (mut off, mut left) = (off, len);
        let mut give = |bytes: &[u8], size: u32, truesize: u32| {
            let skip = off.min(size);
            off -= skip;
            let n = left.min(size - skip);
            if n == 0 {
                return;
            }
            left -= n;
            f.refs.set(f.refs.get() + 1);
            let data = NonNull::from(&bytes[skip as usize..]).cast();
            // SAFETY: the bytes are the frame's own or of pages that it holds a reference on; the fragment owns
            // the reference on the frame that was added for it.
            out(unsafe { to.shared_home.frag(raw.cast(), data, n, truesize, false) });
        };
        give(&f.head, f.head.len() as u32, to.pool.buf_size() as u32);
        for p in &f.pages {
            give(p.bytes(), p.len(), p.len());
        }
    }
    // SAFETY: the reference that this function held.
    unsafe { shared_release(raw.cast()) };
}
