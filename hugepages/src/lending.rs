//! Lendings: who still needs the pages of a message that is being sent.
//!
//! A lending is made per (message, run) on the lcore that transmits, or per message that is received payload sent on.
//! Three parties may hold it:
//!
//! ```text
//!   stream  ── Lent clones, until TCP has acknowledged past the piece ─┐
//!   runtime ── one Lent clone, until the peer's zero-copy ACK ─────────┼─> last one drops the first NIC count
//!   NIC     ── NicRef per attached frame (u16, atomic, DPDK's) ────────┴─> at 0: freed list -> reap() -> released
//! ```
//!
//! So "released" means: acknowledged by the peer AND by TCP AND let go by the NIC, in any order, exactly once.
//! ```
//! use std::sync::Arc;
//! use hugepages::{LendSlab, PageRunMut, PrivatePages};
//!
//! let slab = LendSlab::new(16);
//! let run = PageRunMut::new(Arc::new(PrivatePages), 1 << 20)?.freeze();
//! let stream = slab.lend(run.slice_all(), 7)?; // token 7
//! let nic = stream.nic_ref(0, 65_000)?; // attached to a frame
//! drop(stream); // TCP has acknowledged
//! assert_eq!(slab.reap(|_, _| unreachable!()), 0); // the NIC has not let go
//! drop(nic);
//! assert_eq!(slab.reap(|token, _run| assert_eq!(token, 7)), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `Lent` counts without atomics and stays on its lcore. The NIC's count may fall on any thread, inside a
//! driver: that path only links the slot into a list.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use crate::backing::{BackingKind, Io};
use crate::run::{Memory, PageSlice};
use crate::sync::{AtomicPtr, AtomicU16, AtomicU64, Cell, Ordering, SLOT_MAX, fence};

/// The most references that a NIC may hold on one lending. DPDK's count is a `u16`; at half of its range the
/// attachment is refused and the caller copies instead.
pub const NIC_REFS_MAX: u16 = 32_768;

/// Same layout as DPDK's `struct rte_mbuf_ext_shared_info`: an mbuf points at it while pages are attached.
#[repr(C)]
#[derive(Debug)]
pub struct ShInfo {
    /// Called by whoever drops the last count, with the buffer address and `fcb_opaque`.
    pub free_cb: extern "C" fn(*mut c_void, *mut c_void),
    /// The slot's address with the slot's generation in the bits that its alignment leaves free.
    pub fcb_opaque: *mut c_void,
    /// NIC references, plus one while any [`Lent`] lives.
    pub refcnt: AtomicU16,
}

#[repr(C, align(128))]
struct Slot {
    sh: ShInfo,
    local: Cell<u32>,
    /// Below [`GENERATIONS`]: told apart are a callback for the slot's present use and one that comes after it.
    generation: Cell<usize>,
    index: u32,
    token: Cell<u64>,
    next: Cell<*mut Slot>,
    shared: *const Shared,
    mem: UnsafeCell<Option<Memory>>,
}

const _: () = assert!(size_of::<Slot>() <= SLOT_MAX);

/// State that the driver-side callback may touch: an intrusive stack and two counters.
struct Shared {
    freed: AtomicPtr<Slot>,
    stale: AtomicU64,
    /// Lendings with a [`Lent`] left. Touched by the slab's own lcore alone.
    live: Cell<u64>,
}

/// Generations that a slot's address has room for. The low bits of an address are free whatever its width is: user
/// space has 47 bits of them with four levels of page tables, 56 with five (x86-64), up to 52 on AArch64.
const GENERATIONS: usize = align_of::<Slot>();

fn pack(slot: *mut Slot, generation: usize) -> *mut c_void {
    slot.map_addr(|a| a | (generation & (GENERATIONS - 1))).cast()
}

fn unpack(opaque: *mut c_void) -> (*mut Slot, usize) {
    (opaque.map_addr(|a| a & !(GENERATIONS - 1)).cast(), opaque.addr() & (GENERATIONS - 1))
}

/// Runs in a driver, on any thread, when the last NIC reference falls: links the slot into the freed list.
/// No DPDK call, no lock, no allocation, and it cannot panic.
extern "C" fn on_free(_addr: *mut c_void, opaque: *mut c_void) {
    // DPDK's free path reads a count of 1 relaxed and stores 0 plainly (`rte_mbuf_ext_refcnt_update`): it has not
    // seen what those did who let go before. This fence pairs with their releases.
    fence(Ordering::Acquire);
    let (slot, generation) = unpack(opaque);
    // SAFETY: `opaque` was packed by `lend` for a slot whose slab is leaked, not freed, while any count is out;
    // at count 0 this call is the only one that touches the slot until `reap` takes it from the list.
    unsafe {
        let shared = &*(*slot).shared;
        if (*slot).generation.get() != generation {
            shared.stale.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut head = shared.freed.load(Ordering::Relaxed);
        loop {
            (*slot).next.set(head);
            match shared.freed.compare_exchange_weak(head, slot, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(h) => head = h,
            }
        }
    }
}

/// Errors of lending pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LendSlabError {
    /// Every slot is lent out.
    #[error("all {0} lendings of this lcore are out: the message waits until one comes home")]
    Full(usize),
}

/// Slices that were not lent, since not all of them could be.
#[derive(Debug, thiserror::Error)]
#[error(
    "{asked} lendings are needed and {free} of {capacity} are free: the message waits until some come home, or has to be of fewer pieces"
)]
pub struct Short<A> {
    /// Bytes that were to be lent.
    pub slices: A,
    /// Slots needed.
    pub asked: usize,
    /// Slots free.
    pub free: usize,
    /// Slots in all.
    pub capacity: usize,
}

impl<A> Short<A> {
    /// Whether waiting is of no use: the slab is too small for such a message.
    pub fn never(&self) -> bool {
        self.asked > self.capacity
    }
}

/// Errors of attaching pages to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttachRefused {
    /// The NIC already holds [`NIC_REFS_MAX`] references on the lending.
    #[error("the NIC holds {NIC_REFS_MAX} references on these pages: the frame is copied instead")]
    Count,
}

/// Counts of a slab since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlabCounters {
    /// Lendings made.
    pub lent: u64,
    /// Lendings released.
    pub released: u64,
    /// Attachments refused for the reference limit.
    pub refused_count: u64,
    /// Callbacks of an older generation of a slot; always 0 unless a driver frees twice.
    pub stale: u64,
}

struct SlabInner {
    slots: NonNull<Slot>,
    cap: usize,
    idle: UnsafeCell<Vec<u32>>,
    shared: *const Shared,
    lent: Cell<u64>,
    released: Cell<u64>,
    refused: Cell<u64>,
}

impl SlabInner {
    fn reap(&self, mut f: impl FnMut(u64, Memory)) -> usize {
        // SAFETY: `shared` lives as long as the slab.
        let shared = unsafe { &*self.shared };
        if shared.freed.load(Ordering::Relaxed).is_null() {
            return 0;
        }
        // Pairs with the releases of all who linked slots: what they did comes before our reuse. No fence, since loom
        // takes one for more than it is (it acquires what other threads have read, too), and would hide a fault.
        let mut slot = shared.freed.swap(ptr::null_mut(), Ordering::Acquire);
        let mut n = 0;
        while !slot.is_null() {
            // SAFETY: slots on the list have no other user; each is linked once.
            let (next, token, mem, index) = unsafe {
                let s = &*slot;
                let mem = (*s.mem.get()).take();
                s.generation.set((s.generation.get() + 1) % GENERATIONS);
                (s.next.get(), s.token.get(), mem, s.index)
            };
            // SAFETY: as in `lend`; `f` runs after this borrow has ended.
            unsafe { (*self.idle.get()).push(index) };
            self.released.set(self.released.get() + 1);
            n += 1;
            if let Some(mem) = mem {
                f(token, mem);
            }
            slot = next;
        }
        n
    }
}

/// Slabs that were dropped while a NIC still counted in them. Nobody uses them again; here they are in reach of whoever
/// looks for lost memory.
static QUARANTINE: std::sync::Mutex<Vec<Kept>> = std::sync::Mutex::new(Vec::new());

struct Kept(#[expect(dead_code, reason = "it is held, not used")] NonNull<Slot>);

// SAFETY: nobody looks behind the pointer.
unsafe impl Send for Kept {}

impl Drop for SlabInner {
    fn drop(&mut self) {
        self.reap(|_, _| ());
        if self.lent.get() != self.released.get() {
            // A NIC may still count in a slot: its memory stays (quarantine) rather than be reused.
            let mut kept = QUARANTINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            kept.push(Kept(self.slots));
            return;
        }
        // SAFETY: every slot is home, so no Lent, NicRef or driver refers to slots or shared part.
        unsafe {
            drop(Box::from_raw(ptr::slice_from_raw_parts_mut(self.slots.as_ptr(), self.cap)));
            drop(Box::from_raw(self.shared.cast_mut()));
        }
    }
}

/// The lendings of one lcore. Not `Send`: it stays with the lcore that transmits.
#[derive(Clone)]
pub struct LendSlab(Rc<SlabInner>);

impl LendSlab {
    /// A slab of `cap` slots of 128 bytes (at most 2^32 - 1; 0 counts as 1).
    pub fn new(cap: usize) -> LendSlab {
        let cap = cap.clamp(1, u32::MAX as usize);
        let shared = Box::into_raw(Box::new(Shared {
            freed: AtomicPtr::new(ptr::null_mut()),
            stale: AtomicU64::new(0),
            live: Cell::new(0),
        }));
        let slots: Box<[Slot]> = (0..cap)
            .map(|i| Slot {
                sh: ShInfo { free_cb: on_free, fcb_opaque: ptr::null_mut(), refcnt: AtomicU16::new(0) },
                local: Cell::new(0),
                generation: Cell::new(0),
                index: i as u32,
                token: Cell::new(0),
                next: Cell::new(ptr::null_mut()),
                shared,
                mem: UnsafeCell::new(None),
            })
            .collect();
        // A boxed slice's pointer is never null.
        let slots = NonNull::new(Box::into_raw(slots).cast::<Slot>()).unwrap_or(NonNull::dangling());
        LendSlab(Rc::new(SlabInner {
            slots,
            cap,
            idle: UnsafeCell::new((0..cap as u32).rev().collect()),
            shared,
            lent: Cell::new(0),
            released: Cell::new(0),
            refused: Cell::new(0),
        }))
    }

    /// Lends `slice` under `token`, which [`LendSlab::reap`] gives back. One slot, however many pieces it was received in.
    ///
    /// # Errors
    /// [`LendSlabError::Full`] when every slot is out.
    pub fn lend(&self, slice: PageSlice, token: u64) -> Result<Lent, LendSlabError> {
        // SAFETY: `idle` is touched by `lend` and `reap` alone, which never overlap (one thread, no reentry).
        let Some(i) = (unsafe { &mut *self.0.idle.get() }).pop() else {
            return Err(LendSlabError::Full(self.0.cap));
        };
        let (off, len) = (slice.off(), slice.len());
        // SAFETY: `i` came from the idle list, so it is in bounds and nobody else refers to the slot.
        unsafe {
            let slot = self.0.slots.as_ptr().add(i as usize);
            (*slot).local.set(1);
            (*slot).token.set(token);
            *(*slot).mem.get() = Some(slice.into_memory());
            (*slot).sh.fcb_opaque = pack(slot, (*slot).generation.get());
            (*slot).sh.refcnt.store(1, Ordering::Relaxed);
            self.0.lent.set(self.0.lent.get() + 1);
            (*self.0.shared).live.set((*self.0.shared).live.get() + 1);
            Ok(Lent { slot: NonNull::new_unchecked(slot), off, len, _local: PhantomData })
        }
    }

    /// Takes in every lending whose last count has fallen and calls `f` with its token and its memory, once each.
    /// Called from the poll loop.
    pub fn reap(&self, f: impl FnMut(u64, Memory)) -> usize {
        self.0.reap(f)
    }

    /// Lends every one of `slices` under `token`, in order, and gives each [`Lent`] to `each`; or none of them, where
    /// fewer slots are free: a message goes whole or waits whole.
    ///
    /// # Errors
    /// [`Short`] gives the slices back.
    pub fn lend_all<A>(&self, slices: A, token: u64, mut each: impl FnMut(Lent)) -> Result<(), Short<A>>
    where
        A: AsRef<[PageSlice]> + IntoIterator<Item = PageSlice>,
    {
        let asked = slices.as_ref().len();
        // SAFETY: as in `lend`; the borrow ends with the statement.
        let free = unsafe { (*self.0.idle.get()).len() };
        if asked > free {
            return Err(Short { slices, asked, free, capacity: self.0.cap });
        }
        for slice in slices {
            let lent = self.lend(slice, token);
            debug_assert!(lent.is_ok(), "free slots were counted");
            lent.into_iter().for_each(&mut each);
        }
        Ok(())
    }

    /// Lendings that are out.
    pub fn out(&self) -> u64 {
        self.0.lent.get() - self.0.released.get()
    }

    /// Lendings that only a NIC still holds.
    pub fn nic_held(&self) -> u64 {
        // SAFETY: `shared` lives as long as the slab; `live` is this lcore's.
        self.out() - unsafe { &*self.0.shared }.live.get()
    }

    /// Slots in all.
    pub fn capacity(&self) -> usize {
        self.0.cap
    }

    /// Counts since the slab was made.
    pub fn counters(&self) -> SlabCounters {
        // SAFETY: `shared` lives as long as the slab.
        let stale = unsafe { &*self.0.shared }.stale.load(Ordering::Relaxed);
        SlabCounters {
            lent: self.0.lent.get(),
            released: self.0.released.get(),
            refused_count: self.0.refused.get(),
            stale,
        }
    }

    /// Notes an attachment that was refused (the caller copied).
    pub fn note_refused(&self) {
        self.0.refused.set(self.0.refused.get() + 1);
    }
}

/// A lcore-local reference on a lending: a window of its memory. Clone adds one, drop takes one away.
pub struct Lent {
    slot: NonNull<Slot>,
    off: u32,
    len: u32,
    _local: PhantomData<Rc<()>>,
}

impl Lent {
    #[inline]
    fn slot(&self) -> &Slot {
        // SAFETY: the slot is not reused, and its slab's memory not freed, while a Lent holds a count.
        unsafe { self.slot.as_ref() }
    }

    #[inline]
    fn mem(&self) -> &Memory {
        // SAFETY: `mem` is Some from `lend` to `reap`, and reap waits for this Lent.
        unsafe { (*self.slot().mem.get()).as_ref() }.unwrap_or_else(|| unreachable!("lending without memory"))
    }

    /// Offset of the window in its memory, in bytes.
    #[inline]
    pub fn off(&self) -> u32 {
        self.off
    }

    /// Length of the window in bytes.
    #[inline]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether the window is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes from `off` of the window on that lie together: all the rest, or that of one received piece. None beyond the
    /// window.
    #[inline]
    pub fn chunk(&self, off: u32) -> &[u8] {
        let left = self.len.saturating_sub(off);
        let bytes = if left == 0 { &[] } else { self.mem().bytes_at(self.off + off) };
        bytes.get(..left as usize).unwrap_or(bytes)
    }

    /// Number of bytes that lie together, of the `len` from `off` on, which are inside the window.
    #[inline]
    pub fn together(&self, off: u32, len: u32) -> u32 {
        self.mem().together(self.off + off, len)
    }

    /// The bytes of the window: all together for a run, piece by piece for what was received.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let bytes = self.chunk(at);
            at += bytes.len() as u32;
            (!bytes.is_empty()).then_some(bytes)
        })
    }

    /// The same bytes as of [`Lent::chunk`] with offset 0, for a port to judge whether its device reaches them, and to attach.
    #[inline]
    pub fn place(&self) -> Place<'_> {
        let (bytes, io) = self.mem().at(self.off);
        Place {
            slot: self.slot,
            bytes: bytes.get(..self.len as usize).unwrap_or(bytes),
            io,
            _of: PhantomData,
        }
    }

    /// The token it was lent under.
    pub fn token(&self) -> u64 {
        self.slot().token.get()
    }

    /// A reference on `len` bytes from `off` of this window, or `None` when they are not all inside it.
    #[inline]
    pub fn window(&self, off: u32, len: u32) -> Option<Lent> {
        let end = u64::from(off) + u64::from(len);
        if end > u64::from(self.len) {
            return None;
        }
        let mut l = self.clone();
        l.off += off;
        l.len = len;
        Some(l)
    }

    /// A reference for a NIC on `len` bytes from `off` of this window, which lie together.
    ///
    /// # Errors
    /// As for [`Place::nic_ref`].
    #[inline]
    pub fn nic_ref(&self, off: u32, len: u32) -> Result<NicRef, AttachRefused> {
        let (bytes, io) = self.mem().at(self.off + off.min(self.len));
        let left = self.len.saturating_sub(off) as usize;
        let bytes = bytes.get(..left).unwrap_or(bytes);
        Place { slot: self.slot, bytes, io, _of: PhantomData }.nic_ref(0, len)
    }
}

/// Bytes of a lending that lie together.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    slot: NonNull<Slot>,
    bytes: &'a [u8],
    io: Io,
    _of: PhantomData<&'a Lent>,
}

impl<'a> Place<'a> {
    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Address at which a device finds them.
    #[inline]
    pub fn io(&self) -> Io {
        self.io
    }

    /// Kind of memory.
    #[inline]
    pub fn kind(&self) -> BackingKind {
        self.io.kind
    }

    /// A reference for a NIC on `len` bytes from `off` on. The caller already holds one (the [`Lent`] that this is of), so the
    /// count never rises from 0.
    ///
    /// # Errors
    /// [`AttachRefused::Count`] when the NIC holds too many; the caller copies and counts.
    #[inline]
    pub fn nic_ref(&self, off: u32, len: u32) -> Result<NicRef, AttachRefused> {
        let bytes = &self.bytes[off as usize..][..len as usize];
        // SAFETY: the slot is not reused while the Lent that we borrow holds a count.
        let sh = unsafe { &self.slot.as_ref().sh };
        let old = sh.refcnt.fetch_add(1, Ordering::Relaxed);
        debug_assert!(old >= 1, "attach on a lending that nobody holds");
        if old >= NIC_REFS_MAX {
            sh.refcnt.fetch_sub(1, Ordering::Relaxed);
            return Err(AttachRefused::Count);
        }
        Ok(NicRef { slot: self.slot, data: NonNull::from(bytes).cast(), len })
    }
}

impl Clone for Lent {
    #[inline]
    fn clone(&self) -> Lent {
        let s = self.slot();
        s.local.set(s.local.get() + 1);
        Lent { slot: self.slot, off: self.off, len: self.len, _local: PhantomData }
    }
}

impl Drop for Lent {
    #[inline]
    fn drop(&mut self) {
        let s = self.slot();
        let n = s.local.get() - 1;
        s.local.set(n);
        if n == 0 {
            // SAFETY: the slab's shared part outlives its slots; `live` is this lcore's, and so is this Lent.
            let live = unsafe { &(*s.shared).live };
            live.set(live.get() - 1);
            drop_nic_count(self.slot);
        }
    }
}

impl std::fmt::Debug for Lent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lent(token {}, {}+{})", self.token(), self.off, self.len)
    }
}

/// Takes one NIC count away, and plays the driver's part if it was the last.
#[inline]
fn drop_nic_count(slot: NonNull<Slot>) {
    // SAFETY: the caller gives up a count it holds, so the slot is live until the subtraction; after it the
    // slot is touched only if the count fell to 0, when it is ours alone.
    unsafe {
        let opaque = slot.as_ref().sh.fcb_opaque;
        let cb = slot.as_ref().sh.free_cb;
        if slot.as_ref().sh.refcnt.fetch_sub(1, Ordering::AcqRel) == 1 {
            cb(ptr::null_mut(), opaque);
        }
    }
}

/// One NIC reference on pages of a lending. DPDK takes it over with [`NicRef::into_raw`]; dropping it gives it
/// back, as a driver's free would.
pub struct NicRef {
    slot: NonNull<Slot>,
    data: NonNull<u8>,
    len: u32,
}

// SAFETY: the count is atomic, the memory is read-only and stays while the count is held.
unsafe impl Send for NicRef {}

impl NicRef {
    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the lending, and with it its memory, stays while this reference holds a count.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len as usize) }
    }

    /// Gives the reference to DPDK: shared info, address and length of the piece. From here on the driver's
    /// `rte_mbuf_ext_refcnt_update(-1)` is what drops it.
    pub fn into_raw(self) -> (NonNull<ShInfo>, *const u8, u32) {
        let me = std::mem::ManuallyDrop::new(self);
        // `sh` is the slot's first field.
        (me.slot.cast(), me.data.as_ptr(), me.len)
    }
}

impl Drop for NicRef {
    #[inline]
    fn drop(&mut self) {
        drop_nic_count(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slot's address may have any width: five levels of page tables give user space 56 bits, and nothing of them
    /// may be taken for the generation.
    #[test]
    fn an_address_of_any_width_comes_back_with_its_generation() {
        for addr in [0x0000_7fff_ffff_ff80_usize, 0x00ff_ffff_ffff_ff80, 0xffff_ffff_ffff_ff80] {
            let slot: *mut Slot = ptr::without_provenance_mut(addr);
            for generation in [0, 1, GENERATIONS - 1] {
                assert_eq!(unpack(pack(slot, generation)), (slot, generation), "{addr:#x}");
            }
        }
    }
}
