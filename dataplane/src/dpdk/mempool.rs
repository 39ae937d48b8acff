//! Mempools of mbufs: receive buffers, heads of packets to be sent, and bare mbufs that pages are attached to.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use dpdk_sys as sys;

use super::eal::{Eal, Hold, HoldKind, errno, strerror};

/// Bytes before the data of a fresh mbuf, where drivers put their own header.
pub const HEADROOM: u16 = sys::SHIM_PKTMBUF_HEADROOM;

/// Data room of a receive buffer, in bytes: a 9,000-byte packet with its link header and VLAN tags in one piece.
pub const RX_ROOM: u16 = 9216;

/// Data room where no larger frame comes: one of 1,500 bytes fills three quarters of it, and a sixth of the other.
pub const RX_ROOM_SMALL: u16 = 2048;

/// Data room where a device hands over super-segments: one of 64 KiB is four of them. Each piece of it has a cost where it comes in, and
/// another where a router sends it on.
pub const RX_ROOM_SUPER: u16 = 16_448;

/// Largest IP packet for [`RX_ROOM_SMALL`]: its link header and two VLAN tags are 22 bytes.
pub(crate) const SMALL_MTU: u16 = RX_ROOM_SMALL - 22;

/// Errors of making a mempool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Too small for its users.
    #[error("a mempool of {count} {what} is too small: {need} are needed ({why}); raise the count")]
    TooSmall {
        /// Its contents.
        what: &'static str,
        /// Elements asked for.
        count: u32,
        /// Elements needed.
        need: u32,
        /// The users.
        why: &'static str,
    },
    /// DPDK refused.
    #[error(
        "no mempool of {count} {what} of {room} bytes on NUMA node {node} ({errno}): give the EAL more memory (-m MiB)"
    )]
    Create {
        /// Its contents.
        what: &'static str,
        /// Elements asked for.
        count: u32,
        /// Data room in bytes.
        room: u16,
        /// NUMA node, -1 for any.
        node: i32,
        /// DPDK's name for the error.
        errno: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// The EAL is stopped.
    #[error("the EAL is stopped: no mempool can be made")]
    Stopped,
}

/// A mempool. Its mbufs are allocated and freed by polling lcores alone; this handle only counts.
pub struct Mempool {
    raw: NonNull<sys::rte_mempool>,
    count: u32,
    room: u16,
    hold: Option<Hold>,
}

// SAFETY: the pool itself is made for use by many lcores; the methods here only read its counts.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Size of an lcore's cache for a pool of `count`: DPDK wants the pool at least 1.5 times as large.
fn cache_size(count: u32) -> u32 {
    (count / 4).min(256)
}

impl Mempool {
    /// A pool of `count` mbufs with `room` bytes for data each (0 for attachments), on NUMA node `node`.
    ///
    /// # Errors
    /// [`PoolError`] names the pool and the remedy.
    pub fn new(
        eal: &Eal,
        what: &'static str,
        count: u32,
        room: u16,
        node: i32,
    ) -> Result<Mempool, PoolError> {
        if count < 64 {
            return Err(PoolError::TooSmall { what, count, need: 64, why: "one burst each way" });
        }
        let hold = eal.hold(HoldKind::Pools).ok_or(PoolError::Stopped)?;
        let full = if room == 0 { 0 } else { room + HEADROOM };
        let name = format!("pn{}_{}", SERIAL.fetch_add(1, Ordering::Relaxed), what.replace(' ', "_"));
        let name: String = name.chars().take(24).collect();
        let failed = |e| {
            let remedy = match e {
                libc::ENOMEM => "give the EAL more memory (-m MiB)",
                _ => "is the package librte-mempool-ring installed? DPDK loads it from its plugin folder",
            };
            PoolError::Create { what, count, room, node, errno: strerror(e), remedy }
        };
        let name = CString::new(name).map_err(|_| failed(libc::EINVAL))?;
        // SAFETY: the EAL runs (the hold keeps it); the name is terminated.
        let raw =
            unsafe { sys::rte_pktmbuf_pool_create(name.as_ptr(), count, cache_size(count), 0, full, node) };
        let raw = NonNull::new(raw).ok_or_else(|| failed(errno()))?;
        Ok(Mempool { raw, count, room, hold: Some(hold) })
    }

    /// Mbufs in all.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Data room of an mbuf in bytes, headroom not counted.
    pub fn room(&self) -> u16 {
        self.room
    }

    /// Memory that one mbuf occupies, in bytes.
    pub fn truesize(&self) -> u32 {
        size_of::<sys::shim_mbuf>() as u32
            + u32::from(self.room)
            + if self.room == 0 { 0 } else { u32::from(HEADROOM) }
    }

    /// Mbufs that somebody holds: rings, packets, applications. Walks every lcore's cache; not for the poll loop.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives as long as `self`.
        unsafe { sys::rte_mempool_in_use_count(self.raw.as_ptr()) }
    }

    /// Free mbufs, as seen from the pool's own lcore; cheap.
    pub fn avail_here(&self) -> u32 {
        // SAFETY: as above.
        unsafe { sys::shim_mempool_avail_near(self.raw.as_ptr()) }
    }

    pub(crate) fn raw(&self) -> *mut sys::rte_mempool {
        self.raw.as_ptr()
    }
}

impl Drop for Mempool {
    fn drop(&mut self) {
        if self.in_use() == 0 {
            // SAFETY: no mbuf of it is out, so nothing refers to its memory.
            unsafe { sys::rte_mempool_free(self.raw.as_ptr()) };
        } else {
            // Quarantine: someone may still write to or read from a buffer. The memory stays, and so does the
            // hold, so that the EAL is not stopped under it.
            std::mem::forget(self.hold.take());
        }
    }
}

impl std::fmt::Debug for Mempool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mempool({} of {} B, {} in use)", self.count, self.room, self.in_use())
    }
}
