//! Phantom rings: the memory that smoltcp copies to and from, whose contents never matter.
//!
//! smoltcp insists on a transmit and a receive buffer for each socket and on a packet to parse. The payload is
//! elsewhere (shadow queue, receive fragments), so all sockets of an lcore share one region of address space that
//! is backed, over and over, by the same few pages of a memfd. The copies that smoltcp makes are short
//! (the `shown` module) and stay in the first level cache.
//!
//! This is the only module of the crate with `unsafe` in it.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::rc::Rc;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;

/// Physical memory behind a region, in bytes: repeated as often as the region needs.
const UNIT: usize = 16 << 10;
/// The first page of a scratch area has memory of its own: headers are read and written there.
const PAGE: usize = 4096;
/// Room for one packet, in bytes: the largest IPv4 packet and a page's rounding.
const SCRATCH: usize = PAGE + (60 << 10);

/// A mapping; unmapped when dropped.
struct Region {
    base: NonNull<u8>,
    len: usize,
}

impl Region {
    /// `len` bytes (a multiple of [`UNIT`], plus `own`), the first `own` of which are backed once and the rest by
    /// one unit, repeated.
    fn new(own: usize, len: usize) -> io::Result<Region> {
        let last = io::Error::last_os_error;
        // SAFETY: a terminated name; no other precondition.
        let fd = unsafe { libc::memfd_create(c"pollnd-phantom".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(last());
        }
        let map = |at: *mut libc::c_void, len: usize, prot, flags, fd, off: usize| {
            // SAFETY: `at` is null, or lies in the reservation below, which nobody else knows yet.
            let p = unsafe { libc::mmap(at, len, prot, flags, fd, off as libc::off_t) };
            if p == libc::MAP_FAILED { Err(last()) } else { NonNull::new(p.cast::<u8>()).ok_or_else(last) }
        };
        let fill = || {
            // SAFETY: our descriptor.
            if unsafe { libc::ftruncate(fd, (own + UNIT) as libc::off_t) } != 0 {
                return Err(last());
            }
            let reserve = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let base = map(std::ptr::null_mut(), len, libc::PROT_NONE, reserve, -1, 0)?;
            let region = Region { base, len };
            let rw = libc::PROT_READ | libc::PROT_WRITE;
            let fixed = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE;
            let mut at = 0;
            while at < len {
                let (n, off) = if at < own { (own, 0) } else { (UNIT.min(len - at), own) };
                // SAFETY: `at` is inside the reservation.
                map(unsafe { base.as_ptr().add(at) }.cast(), n, rw, fixed, fd, off)?;
                at += n;
            }
            Ok(region)
        };
        let r = fill();
        // SAFETY: our descriptor, used no more; the mappings keep the memory.
        unsafe { libc::close(fd) };
        r
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: a whole mapping of ours; whoever lends parts of it out keeps the region alive.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// The lcore's rings: every socket's buffers are a prefix of it.
#[derive(Clone)]
pub struct Rings(Rc<Region>);

impl Rings {
    /// Address space for buffers of up to `len` bytes (rounded up to 16 KiB).
    ///
    /// # Errors
    /// What the kernel says to the mappings: one for each 16 KiB (see `vm.max_map_count`).
    pub fn new(len: usize) -> io::Result<Rings> {
        Ok(Rings(Rc::new(Region::new(0, len.max(1).div_ceil(UNIT) * UNIT)?)))
    }

    /// Bytes of address space.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there is none; there always is.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// A socket, alone in its set, with phantom buffers of `rx` and `tx` bytes (cut to the rings' length).
    pub fn socket(&self, rx: usize, tx: usize) -> PhantomSocket {
        let buf = |len: usize| {
            // SAFETY: the region outlives the buffer: it is moved into a PhantomSocket, which drops it before its
            // share of the region and lets nobody move it out. Buffers of different sockets, and the two of one,
            // overlap on purpose. They are bytes, initialised, whose values nobody relies on: smoltcp writes junk
            // and copies junk. No two of them are touched at the same time: the region stays on one lcore (Rc)
            // and smoltcp's calls run one at a time, each using one buffer with one packet of the scratch area,
            // which is other memory.
            let s = unsafe { std::slice::from_raw_parts_mut(self.0.base.as_ptr(), len.min(self.0.len)) };
            tcp::SocketBuffer::new(s)
        };
        let mut s = tcp::Socket::new(buf(rx), buf(tx));
        s.set_nagle_enabled(false);
        s.set_ack_delay(None);
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(s);
        PhantomSocket { set, handle, _rings: self.clone() }
    }
}

/// A smoltcp socket in a set of its own. Fields are dropped in order: the set before its share of the rings.
pub struct PhantomSocket {
    set: SocketSet<'static>,
    handle: SocketHandle,
    _rings: Rings,
}

impl PhantomSocket {
    /// The socket.
    #[inline]
    pub fn get(&self) -> &tcp::Socket<'static> {
        self.set.get(self.handle)
    }

    /// Runs `f` on the socket. It must not move the socket elsewhere.
    #[inline]
    pub(crate) fn with<R>(&mut self, f: impl FnOnce(&mut tcp::Socket<'static>) -> R) -> R {
        f(self.set.get_mut(self.handle))
    }

    /// Runs `f` on the set, for the interface to poll. It must not take the socket out.
    #[inline]
    pub(crate) fn with_set<R>(&mut self, f: impl FnOnce(&mut SocketSet<'static>) -> R) -> R {
        f(&mut self.set)
    }
}

/// Room for one packet: a page for its headers, and phantom payload behind.
pub struct Scratch(Region);

impl Scratch {
    /// Most bytes of a packet.
    pub const MAX: usize = 65_535;

    /// A scratch area.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new() -> io::Result<Scratch> {
        Ok(Scratch(Region::new(PAGE, SCRATCH)?))
    }

    /// The first `len` bytes (at most [`Scratch::MAX`]) of the packet.
    #[inline]
    pub fn bytes(&self, len: usize) -> &[u8] {
        // SAFETY: inside the mapping, initialised (a memfd is zeroed), borrowed from `self`. Beyond the first page
        // two addresses may be the same memory; nobody writes while this borrow lasts.
        unsafe { std::slice::from_raw_parts(self.0.base.as_ptr(), len.min(Scratch::MAX)) }
    }

    /// The first `len` bytes, to write.
    #[inline]
    pub fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        // SAFETY: as in `bytes`, borrowed uniquely. What is written beyond the first page may show up elsewhere
        // beyond the first page; nobody relies on it.
        unsafe { std::slice::from_raw_parts_mut(self.0.base.as_ptr(), len.min(Scratch::MAX)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_stay_and_payload_is_repeated() {
        let mut s = Scratch::new().unwrap();
        let b = s.bytes_mut(99_999);
        assert_eq!(b.len(), 65_535);
        b[..PAGE].fill(1);
        b[PAGE..].fill(2);
        assert!(b[..PAGE].iter().all(|x| *x == 1), "the first page is not aliased");
        b[PAGE + 5] = 9;
        assert_eq!(s.bytes(65_535)[PAGE + UNIT + 5], 9, "the rest is");
    }

    #[test]
    fn sockets_outlive_the_handle_on_the_rings() {
        let r = Rings::new(1 << 20).unwrap();
        assert_eq!(r.len(), 1 << 20);
        let a = r.socket(1 << 20, 4 << 20);
        drop(r);
        assert_eq!((a.get().recv_capacity(), a.get().send_capacity()), (1 << 20, 1 << 20));
    }
}
