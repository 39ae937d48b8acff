//! Sources of page runs.

use std::io;
use std::ptr::NonNull;

/// The I/O virtual address of memory that no device can reach (DPDK's `RTE_BAD_IOVA`).
pub const BAD_IOVA: u64 = u64::MAX;

/// Kind of memory of a run. A port uses it to tell whether its device can reach the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackingKind {
    /// Anonymous private pages; no device can reach them.
    Private,
    /// Pages of a memfd: another process, or a vhost backend, can map them.
    Memfd,
    /// Huge pages mapped from the kernel's pool.
    Huge,
    /// Memory of the DPDK EAL: registered with every port of the process.
    Eal,
}

/// Place of memory as devices see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// Kind of memory.
    pub kind: BackingKind,
    /// I/O virtual address of the first byte, or [`BAD_IOVA`]. Where `contig` is not 0 it only says whether there is one.
    pub iova: u64,
    /// The device sees the memory as contiguous within aligned blocks of this many bytes (a power of two), or
    /// throughout when it is 0.
    pub contig: u32,
}

impl Io {
    /// Memory that no device can reach.
    pub fn of(kind: BackingKind) -> Io {
        Io { kind, iova: BAD_IOVA, contig: 0 }
    }

    /// The place `by` bytes further on in the same memory.
    #[inline]
    pub fn on(self, by: u32) -> Io {
        let iova = if self.iova == BAD_IOVA { BAD_IOVA } else { self.iova.wrapping_add(u64::from(by)) };
        Io { iova, ..self }
    }
}

/// A piece of memory fresh from a backing, not yet owned by a run.
#[derive(Debug)]
pub struct RawRun {
    /// First byte. Aligned to at least 64 bytes.
    pub ptr: NonNull<u8>,
    /// Length in bytes.
    pub len: usize,
    /// I/O virtual address of the first byte, or [`BAD_IOVA`].
    pub iova: u64,
    /// The device sees the run as contiguous within aligned blocks of this many bytes (a power of two), or
    /// throughout when it is 0.
    pub contig: u32,
    /// Kind of memory.
    pub kind: BackingKind,
}

/// Errors of a backing.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The length was zero or does not fit the address space.
    #[error("cannot map {0} bytes: a run has 1 byte to 1 TiB")]
    BadLength(usize),
    /// The kernel refused.
    #[error("cannot map {len} bytes of {what}: {source}{}", remedy(.what, .source))]
    Map {
        /// Bytes asked for.
        len: usize,
        /// Kind of memory.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The EAL has no such block left.
    #[error(
        "the EAL has no {len} bytes left on NUMA node {node}: give it more memory (-m MiB, or more huge pages)"
    )]
    Eal {
        /// Bytes asked for.
        len: usize,
        /// NUMA node, or -1 for any.
        node: i32,
    },
}

fn remedy(what: &str, e: &io::Error) -> &'static str {
    if what == "huge pages" && e.raw_os_error() == Some(libc::ENOMEM) {
        "; reserve more: echo N > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    } else {
        ""
    }
}

/// A source of page runs.
///
/// # Safety
/// `alloc` returns memory that is valid for reads and writes of `len` bytes, that nobody else uses, until it is
/// passed to `free`, which happens at most once, from any thread.
pub unsafe trait Backing: Send + Sync {
    /// Memory of at least `len` bytes.
    ///
    /// # Errors
    /// [`BackingError`] says what was asked for and what the kernel answered.
    fn alloc(&self, len: usize) -> Result<RawRun, BackingError>;

    /// Takes a run back.
    ///
    /// # Safety
    /// `raw` came from `alloc` of this backing, unchanged, and nothing refers to its memory any more.
    unsafe fn free(&self, raw: RawRun);

    /// Kind of memory that this backing gives.
    fn kind(&self) -> BackingKind;
}

fn check_len(len: usize) -> Result<(), BackingError> {
    if len == 0 || len > 1 << 40 { Err(BackingError::BadLength(len)) } else { Ok(()) }
}

fn round_up(len: usize, to: usize) -> usize {
    len.div_ceil(to) * to
}

fn map(len: usize, flags: i32, fd: i32, what: &'static str) -> Result<NonNull<u8>, BackingError> {
    // SAFETY: a fresh mapping at an address of the kernel's choice touches no existing memory.
    let p =
        unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
    if p == libc::MAP_FAILED {
        return Err(BackingError::Map { len, what, source: io::Error::last_os_error() });
    }
    NonNull::new(p.cast()).ok_or_else(|| BackingError::Map {
        len,
        what,
        source: io::Error::from_raw_os_error(libc::EFAULT),
    })
}

/// Frees what [`map`] made.
///
/// # Safety
/// `raw` is a whole mapping that nothing refers to.
unsafe fn unmap(raw: &RawRun) {
    // SAFETY: the caller vouches that this is one of our mappings and unused; a failure leaves it mapped.
    unsafe { libc::munmap(raw.ptr.as_ptr().cast(), raw.len) };
}

/// Anonymous private memory in ordinary pages. For kernel sockets, simulations and tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrivatePages;

// SAFETY: each run is a mapping of its own, unmapped once by `free`.
unsafe impl Backing for PrivatePages {
    fn alloc(&self, len: usize) -> Result<RawRun, BackingError> {
        check_len(len)?;
        let len = round_up(len, 4096);
        let ptr = map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, "private pages")?;
        Ok(RawRun { ptr, len, iova: BAD_IOVA, contig: 4096, kind: BackingKind::Private })
    }
    unsafe fn free(&self, raw: RawRun) {
        // SAFETY: passed on from the caller.
        unsafe { unmap(&raw) }
    }
    fn kind(&self) -> BackingKind {
        BackingKind::Private
    }
}

/// Private memory in pages of its own: it is the kernel's again when this is dropped. What an allocator is given back in any order
/// stays with the process, as far as a little that is in use lies behind it.
#[derive(Debug)]
pub struct OwnPages {
    raw: Option<RawRun>,
    len: usize,
}

// SAFETY: the memory is plain bytes, this its only owner.
unsafe impl Send for OwnPages {}
// SAFETY: as above; shared access is read-only.
unsafe impl Sync for OwnPages {}

impl OwnPages {
    /// `len` bytes, zeroed.
    ///
    /// # Errors
    /// Those of [`PrivatePages`].
    pub fn new(len: usize) -> Result<OwnPages, BackingError> {
        Ok(OwnPages { raw: Some(PrivatePages.alloc(len)?), len })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the run is valid for `len` bytes, at least as many as were asked for, while `self` lives.
        self.raw.as_ref().map_or(&[], |r| unsafe { std::slice::from_raw_parts(r.ptr.as_ptr(), self.len) })
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        // SAFETY: as above; `self` is the only owner.
        self.raw.as_mut().map_or(&mut [], |r| unsafe { std::slice::from_raw_parts_mut(r.ptr.as_ptr(), len) })
    }

    /// Cuts off what lies behind `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Drop for OwnPages {
    fn drop(&mut self) {
        if let Some(raw) = self.raw.take() {
            // SAFETY: it came from there, and nobody refers to it any more.
            unsafe { PrivatePages.free(raw) }
        }
    }
}

/// Shared memory of a memfd, in ordinary pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memfd;

// SAFETY: as for `PrivatePages`; the descriptor is closed once the mapping stands.
unsafe impl Backing for Memfd {
    fn alloc(&self, len: usize) -> Result<RawRun, BackingError> {
        check_len(len)?;
        let len = round_up(len, 4096);
        let err = |source| BackingError::Map { len, what: "memfd pages", source };
        // SAFETY: the name is a terminated string; the call has no other precondition.
        let fd = unsafe { libc::memfd_create(c"pollnd-pages".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(err(io::Error::last_os_error()));
        }
        // SAFETY: `fd` is a descriptor that we just opened.
        let r = unsafe { libc::ftruncate(fd, len as libc::off_t) };
        let mapped = if r == 0 {
            map(len, libc::MAP_SHARED, fd, "memfd pages")
        } else {
            Err(err(io::Error::last_os_error()))
        };
        // SAFETY: `fd` is ours and not used again.
        unsafe { libc::close(fd) };
        Ok(RawRun { ptr: mapped?, len, iova: BAD_IOVA, contig: 4096, kind: BackingKind::Memfd })
    }
    unsafe fn free(&self, raw: RawRun) {
        // SAFETY: passed on from the caller.
        unsafe { unmap(&raw) }
    }
    fn kind(&self) -> BackingKind {
        BackingKind::Memfd
    }
}

/// Huge pages of 2 MiB straight from the kernel's pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct HugePages;

/// Size in bytes of the huge pages that [`HugePages`] maps.
pub const HUGE_2M: usize = 2 << 20;

// SAFETY: as for `PrivatePages`.
unsafe impl Backing for HugePages {
    fn alloc(&self, len: usize) -> Result<RawRun, BackingError> {
        check_len(len)?;
        let len = round_up(len, HUGE_2M);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        let ptr = map(len, flags, -1, "huge pages")?;
        Ok(RawRun { ptr, len, iova: BAD_IOVA, contig: HUGE_2M as u32, kind: BackingKind::Huge })
    }
    unsafe fn free(&self, raw: RawRun) {
        // SAFETY: passed on from the caller.
        unsafe { unmap(&raw) }
    }
    fn kind(&self) -> BackingKind {
        BackingKind::Huge
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_memfd_runs_are_writable_and_rounded_to_pages() {
        for b in [&PrivatePages as &dyn Backing, &Memfd] {
            let r = b.alloc(5000).unwrap();
            assert_eq!(r.len, 8192);
            assert_eq!(r.iova, BAD_IOVA);
            assert_eq!(r.kind, b.kind());
            // SAFETY: the run is ours and 8192 bytes long.
            unsafe {
                r.ptr.as_ptr().add(8191).write(7);
                assert_eq!(r.ptr.as_ptr().add(8191).read(), 7);
                b.free(r);
            }
        }
    }

    #[test]
    fn own_pages_are_as_long_as_asked_and_may_be_cut_off() {
        let mut p = OwnPages::new(5000).unwrap();
        assert!(p.bytes() == [0; 5000]);
        p.bytes_mut()[4999] = 7;
        assert_eq!(p.bytes()[4999], 7);
        p.truncate(9000);
        assert_eq!(p.bytes().len(), 5000);
        p.truncate(20);
        assert_eq!((p.bytes().len(), p.bytes_mut().len()), (20, 20));
        assert!(OwnPages::new(0).is_err());
    }

    #[test]
    fn a_run_of_nothing_and_one_beyond_all_memory_are_refused_by_name() {
        assert!(PrivatePages.alloc(0).unwrap_err().to_string().contains("0 bytes"));
        assert!(PrivatePages.alloc(usize::MAX).unwrap_err().to_string().contains("1 TiB"));
    }
}
