//! Page runs in EAL memory: what every port of the process can reach.

use std::collections::HashMap;
use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use dpdk_sys as sys;
use hugepages::{Backing, BackingError, BackingKind, RawRun};

use super::eal::{Eal, HoldKind};

/// Alignment of a run in bytes: a page, so that runs never share one.
const ALIGN: usize = 4096;

/// A source of page runs in EAL memory.
///
/// Where devices use virtual addresses, runs come from the EAL's heap. Where they use physical ones, each run is a
/// memzone that is contiguous for the device, so a run is never larger than a huge page unless the EAL found
/// neighbours. Every run is contiguous throughout (`contig` 0).
pub struct EalBacking {
    eal: Eal,
    node: i32,
    /// Memzones by address; only with physical addresses.
    zones: Mutex<HashMap<usize, usize>>,
}

static ZONE_SERIAL: AtomicU64 = AtomicU64::new(0);

impl EalBacking {
    /// Runs on NUMA node `node` while that has memory, or on any for -1.
    pub fn new(eal: &Eal, node: i32) -> EalBacking {
        EalBacking { eal: eal.clone(), node, zones: Mutex::default() }
    }

    fn zones(&self) -> std::sync::MutexGuard<'_, HashMap<usize, usize>> {
        // A panic elsewhere leaves the map whole: every change is one insert or remove.
        self.zones.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A block on the wanted node, or on any where that has none left.
    fn block(&self, len: usize) -> Option<(NonNull<u8>, u64)> {
        let on = |node| {
            if self.eal.iova_is_va() { Self::heap_block(len, node) } else { self.zone_block(len, node) }
        };
        on(self.node).or_else(|| if self.node >= 0 { on(-1) } else { None })
    }

    fn heap_block(len: usize, node: i32) -> Option<(NonNull<u8>, u64)> {
        // SAFETY: the EAL runs (its Runs count is held); a null type name is allowed.
        unsafe {
            let p = NonNull::new(sys::rte_malloc_socket(std::ptr::null(), len, ALIGN as u32, node))?;
            Some((p.cast(), sys::rte_malloc_virt2iova(p.as_ptr())))
        }
    }

    fn zone_block(&self, len: usize, node: i32) -> Option<(NonNull<u8>, u64)> {
        let name =
            CString::new(format!("pollnd_run_{}", ZONE_SERIAL.fetch_add(1, Ordering::Relaxed))).ok()?;
        // SAFETY: the EAL runs; the name is a terminated string; the zone stays until `free`.
        unsafe {
            let z = sys::rte_memzone_reserve_aligned(
                name.as_ptr(),
                len,
                node,
                sys::RTE_MEMZONE_IOVA_CONTIG,
                ALIGN as u32,
            );
            let zone = NonNull::new(z.cast_mut())?;
            let p = NonNull::new(sys::shim_memzone_addr(zone.as_ptr()))?;
            self.zones().insert(p.as_ptr() as usize, zone.as_ptr() as usize);
            Some((p.cast(), sys::shim_memzone_iova(zone.as_ptr())))
        }
    }
}

// SAFETY: each run is a heap block or memzone of its own, freed once by `free`; the EAL is kept running while any
// is out, so they stay mapped.
unsafe impl Backing for EalBacking {
    fn alloc(&self, len: usize) -> Result<RawRun, BackingError> {
        if len == 0 || len > 1 << 40 {
            return Err(BackingError::BadLength(len));
        }
        let len = len.div_ceil(ALIGN) * ALIGN;
        let none = BackingError::Eal { len, node: self.node };
        if !self.eal.retain(HoldKind::Runs) {
            return Err(none);
        }
        let Some((ptr, iova)) = self.block(len) else {
            self.eal.release(HoldKind::Runs);
            return Err(none);
        };
        // The heap's memory is what an earlier user left; runs promise initialised bytes, and old ones are not
        // to be shown to a peer.
        // SAFETY: the block is ours and `len` bytes long.
        unsafe { ptr.write_bytes(0, len) };
        Ok(RawRun { ptr, len, iova, contig: 0, kind: BackingKind::Eal })
    }

    unsafe fn free(&self, raw: RawRun) {
        let zone = self.zones().remove(&(raw.ptr.as_ptr() as usize));
        // SAFETY: `raw` came from `alloc` and nothing refers to it (the caller vouches); it is freed the way it
        // was made; the EAL runs because the run's count is given back after.
        unsafe {
            match zone {
                Some(z) => {
                    sys::rte_memzone_free(std::ptr::with_exposed_provenance(z));
                }
                None => sys::rte_free(raw.ptr.as_ptr().cast()),
            }
        }
        self.eal.release(HoldKind::Runs);
    }

    fn kind(&self) -> BackingKind {
        BackingKind::Eal
    }
}
