//! Fragments that arrived on another lcore, lent once more.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;

use crate::backing::{BackingKind, Io};
use crate::rx::{LendBudget, RxFrag, RxHome, RxLent, RxOps};

struct LentBuf {
    refs: Cell<u32>,
    lent: Option<RxLent>,
    free: std::rc::Weak<RefCell<FreeList>>,
}

// Boxed on purpose: a buffer's address is its handle and must not move.
#[allow(clippy::vec_box)]
type FreeList = Vec<Box<LentBuf>>;

/// Turns lent fragments of other lcores into fragments of this one, which may be split and lent again.
#[derive(Clone)]
pub struct Relay {
    free: Rc<RefCell<FreeList>>,
    home: RxHome,
}

unsafe fn relay_retain(raw: NonNull<()>) {
    // SAFETY: `raw` is a leaked LentBuf with at least one reference.
    let b = unsafe { raw.cast::<LentBuf>().as_ref() };
    b.refs.set(b.refs.get() + 1);
}

unsafe fn relay_release(raw: NonNull<()>) {
    let p = raw.cast::<LentBuf>();
    // SAFETY: as above; the caller owns one reference.
    let n = unsafe { p.as_ref() }.refs.get() - 1;
    // SAFETY: as above.
    unsafe { p.as_ref() }.refs.set(n);
    if n == 0 {
        // SAFETY: the last reference has gone; the box was leaked by `Relay::frag`.
        let mut b = unsafe { Box::from_raw(p.as_ptr()) };
        // Sends the buffer home.
        b.lent = None;
        if let Some(free) = b.free.upgrade() {
            free.borrow_mut().push(b);
        }
    }
}

unsafe fn relay_io(raw: NonNull<()>, data: NonNull<u8>) -> Io {
    // SAFETY: `raw` is a leaked LentBuf with at least one reference, until the last of which nobody writes `lent`. The counts
    // beside it, which its lcore changes meanwhile, are not touched.
    let lent = unsafe { &(*raw.cast::<LentBuf>().as_ptr()).lent };
    lent.as_ref().map_or(Io::of(BackingKind::Private), |l| l.io_of(data))
}

static RELAY_OPS: RxOps =
    RxOps { retain: relay_retain, release: relay_release, io: relay_io, outlives_home: true };

impl Relay {
    /// A relay with its own budget for what is lent again.
    pub fn new(budget: LendBudget) -> Relay {
        Relay { free: Rc::default(), home: RxHome::new(&RELAY_OPS, budget) }
    }

    /// `lent` as a fragment of this lcore.
    pub fn frag(&self, lent: RxLent) -> RxFrag {
        let (data, len, truesize) = (NonNull::from(lent.bytes()).cast(), lent.len(), lent.truesize());
        let mut b = self.free.borrow_mut().pop().unwrap_or_else(|| {
            Box::new(LentBuf { refs: Cell::new(0), lent: None, free: Rc::downgrade(&self.free) })
        });
        b.refs.set(1);
        b.lent = Some(lent);
        let raw = NonNull::from(Box::leak(b));
        // SAFETY: the lent fragment inside keeps the bytes; it is dropped with the last reference.
        unsafe { self.home.frag(raw.cast(), data, len, truesize, true) }
    }

    /// The home: drain it each turn.
    pub fn home(&self) -> &RxHome {
        &self.home
    }
}
