//! Phantom rings: the memory that smoltcp copies to and from, whose contents never matter.
//!
//! smoltcp insists on a transmit and a receive buffer for each socket. The payload is elsewhere (shadow queue, receive
//! fragments), so a socket needs addresses rather than memory. The buffers of all sockets of an lcore are cut from
//! groups of addresses, each of which maps the same file (a memfd) of about a MiB:
//!
//! ```text
//!   group 0   [ rx tx │ rx tx │ .. ]   addresses: no byte belongs to two buffers
//!   group 1   [ rx tx │ rx tx │ .. ]
//!                │       │
//!   file      [ ..      ..      .. ]   memory: one file an lcore, whatever the number of sockets
//! ```
//!
//! A buffer is exclusive as long as its socket lives, and its addresses are used again afterwards. That a byte may change
//! through other addresses of the same page is nobody's business: smoltcp writes junk and copies junk. The copies are
//! short (the `scaled` module).
//!
//! A new group costs one system call for several connections, and only beyond the most that there ever were at a time;
//! its pages are entered as they are touched. The first group is there from the start, pages and all.
//!
//! This is the only module of the crate with `unsafe` in it.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;

/// Length of the file, and of a group, in bytes: this, or one pair of buffers where that is longer.
const FILE: usize = 1 << 20;
const PAGE: usize = 4096;

/// The addresses of one group; unmapped when dropped.
struct Group {
    base: NonNull<u8>,
    len: usize,
}

#[cfg(not(miri))]
mod map {
    use std::fs::File;
    use std::io;
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::ptr::NonNull;

    /// The file behind all groups.
    pub(super) struct Memory(File);

    impl Memory {
        pub(super) fn new(len: usize) -> io::Result<Memory> {
            // SAFETY: a terminated name; no other precondition.
            let fd = unsafe { libc::memfd_create(c"pollnd-phantom".as_ptr(), libc::MFD_CLOEXEC) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: a new descriptor, which nobody else has.
            let file = unsafe { File::from_raw_fd(fd) };
            file.set_len(len as u64)?;
            Ok(Memory(file))
        }

        /// New addresses for all `len` bytes of it; `now` enters the pages at once.
        pub(super) fn map(&self, len: usize, now: bool) -> io::Result<NonNull<u8>> {
            let flags = libc::MAP_SHARED | if now { libc::MAP_POPULATE } else { 0 };
            let rw = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: the kernel chooses addresses that nobody has; the file is as long as the mapping.
            let p = unsafe { libc::mmap(std::ptr::null_mut(), len, rw, flags, self.0.as_raw_fd(), 0) };
            if p == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            NonNull::new(p.cast()).ok_or_else(io::Error::last_os_error)
        }
    }

    /// # Safety
    /// `base` came from [`Memory::map`] with this length, and nobody has a reference into it any more.
    pub(super) unsafe fn unmap(base: NonNull<u8>, len: usize) {
        // SAFETY: a whole mapping, which the caller gives up.
        unsafe { libc::munmap(base.as_ptr().cast(), len) };
    }
}

/// Miri maps no files: there each group has memory of its own.
#[cfg(miri)]
mod map {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::io;
    use std::ptr::NonNull;

    pub(super) struct Memory;

    fn layout(len: usize) -> io::Result<Layout> {
        Layout::from_size_align(len, super::PAGE).map_err(io::Error::other)
    }

    impl Memory {
        pub(super) fn new(_: usize) -> io::Result<Memory> {
            Ok(Memory)
        }

        pub(super) fn map(&self, len: usize, _: bool) -> io::Result<NonNull<u8>> {
            // SAFETY: the length is not 0.
            NonNull::new(unsafe { alloc_zeroed(layout(len)?) })
                .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
        }
    }

    pub(super) unsafe fn unmap(base: NonNull<u8>, len: usize) {
        if let Ok(l) = layout(len) {
            // SAFETY: the caller gives up a whole allocation of this layout.
            unsafe { dealloc(base.as_ptr(), l) };
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: a whole mapping of ours; whoever has a part of it keeps the pool, and so the group, alive.
        unsafe { map::unmap(self.base, self.len) };
    }
}

struct Pool {
    memory: map::Memory,
    /// Length of the file and of each group, in bytes.
    len: usize,
    /// Lengths of the two buffers of a socket, in bytes.
    rx: usize,
    tx: usize,
    groups: Vec<Group>,
    /// Pairs of buffers without a socket, the last one used on top: its pages are entered, and may be in the cache.
    free: Vec<NonNull<u8>>,
}

impl Pool {
    fn grow(&mut self, now: bool) -> io::Result<()> {
        let base = self.memory.map(self.len, now)?;
        self.groups.push(Group { base, len: self.len });
        let pair = self.rx + self.tx;
        for i in (0..self.len / pair).rev() {
            // SAFETY: the whole pair lies inside the group.
            self.free.push(unsafe { base.add(i * pair) });
        }
        Ok(())
    }
}

/// The lcore's rings: where its sockets' buffers come from.
#[derive(Clone)]
pub struct Rings(Rc<RefCell<Pool>>);

impl Rings {
    /// Rings for sockets with receive and transmit buffers of `rx` and `tx` bytes.
    ///
    /// # Errors
    /// The kernel refuses the file or its first mapping.
    pub fn new(rx: usize, tx: usize) -> io::Result<Rings> {
        let (rx, tx) = (rx.max(1), tx.max(1));
        let len = FILE.max(rx + tx).next_multiple_of(PAGE);
        let memory = map::Memory::new(len)?;
        let mut pool = Pool { memory, len, rx, tx, groups: Vec::new(), free: Vec::new() };
        pool.grow(true)?;
        Ok(Rings(Rc::new(RefCell::new(pool))))
    }

    /// Mappings, and sockets for which there are addresses without another one.
    pub fn groups(&self) -> (usize, usize) {
        let p = self.0.borrow();
        (p.groups.len(), p.groups.len() * (p.len / (p.rx + p.tx)))
    }

    fn lease(&self) -> io::Result<Lease> {
        let mut p = self.0.borrow_mut();
        if p.free.is_empty() {
            p.grow(false)?;
        }
        let at = p.free.pop().ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Lease { at, rings: self.clone() })
    }

    /// A socket, alone in its set, with phantom buffers.
    ///
    /// # Errors
    /// The kernel refuses another mapping: above all since there are too many (`vm.max_map_count`).
    pub fn socket(&self) -> io::Result<PhantomSocket> {
        let lease = self.lease()?;
        let (rx, tx) = {
            let p = self.0.borrow();
            (p.rx, p.tx)
        };
        // SAFETY: both buffers lie in the lease's pair, side by side, initialised (a file begins as zeros); nobody else
        // has an address in it until the lease ends. It is moved into the PhantomSocket below, which drops it after the
        // socket and lets nobody move that out; so `'static` is never longer than the mapping, which the lease keeps.
        // Pages of the file may change through other addresses, those of other sockets' buffers, while smoltcp runs
        // for them: never during a call for this one, since the pool stays on one lcore (Rc). No value in it is relied
        // on.
        let buf = |off, len| unsafe { std::slice::from_raw_parts_mut(lease.at.add(off).as_ptr(), len) };
        let (a, b): (&'static mut [u8], &'static mut [u8]) = (buf(0, rx), buf(rx, tx));
        // A page that is first read has its neighbours entered, too, which count as memory of this process; the first
        // page is all that an idle connection uses.
        for first in [a.first_mut(), b.first_mut()].into_iter().flatten() {
            // SAFETY: an exclusive reference. Volatile, or the compiler would see that nobody reads it.
            unsafe { std::ptr::write_volatile(first, 0) };
        }
        let mut s = tcp::Socket::new(tcp::SocketBuffer::new(a), tcp::SocketBuffer::new(b));
        s.set_nagle_enabled(false);
        s.set_ack_delay(None);
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(s);
        Ok(PhantomSocket { set, handle, state: tcp::State::Closed, _lease: lease })
    }
}

/// A pair of buffers in use; goes back to the pool when dropped.
struct Lease {
    at: NonNull<u8>,
    rings: Rings,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.rings.0.borrow_mut().free.push(self.at);
    }
}

/// A smoltcp socket in a set of its own. Fields are dropped in order: the set before the addresses of its buffers.
pub struct PhantomSocket {
    set: SocketSet<'static>,
    handle: SocketHandle,
    /// The socket's state, which is asked for several times a segment and moved here alone.
    state: tcp::State,
    _lease: Lease,
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
        let r = f(self.set.get_mut(self.handle));
        self.state = self.get().state();
        r
    }

    /// Runs `f` on the set, for the interface to poll. It must not take the socket out.
    #[inline]
    pub(crate) fn with_set<R>(&mut self, f: impl FnOnce(&mut SocketSet<'static>) -> R) -> R {
        let r = f(&mut self.set);
        self.state = self.get().state();
        r
    }

    /// The socket's state.
    #[inline]
    pub fn state(&self) -> tcp::State {
        self.state
    }
}

/// Room for one packet of smoltcp's: headers, and phantom payload behind.
pub struct Scratch(Box<[u8]>);

impl Scratch {
    /// Most bytes of a packet.
    pub const MAX: usize = 65_535;

    /// A scratch area.
    #[expect(clippy::new_without_default, reason = "64 KiB are nothing to make by the way")]
    pub fn new() -> Scratch {
        Scratch(vec![0; Scratch::MAX].into())
    }

    /// The first `len` bytes (at most [`Scratch::MAX`]) of the packet.
    #[inline]
    pub fn bytes(&self, len: usize) -> &[u8] {
        self.0.get(..len).unwrap_or(&self.0)
    }

    /// The first `len` bytes, to write.
    #[inline]
    pub fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        let len = len.min(Scratch::MAX);
        self.0.get_mut(..len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two live exclusive references to the same bytes are undefined behaviour, whatever the order of use.
    #[test]
    fn no_address_belongs_to_two_buffers() {
        let r = Rings::new(50_000, 70_001).unwrap();
        let mut live: Vec<PhantomSocket> = (0..20).map(|_| r.socket().unwrap()).collect();
        let gone: Vec<usize> = live.drain(3..9).map(|s| s._lease.at.addr().get()).collect();
        live.extend((0..7).map(|_| r.socket().unwrap()));
        let mut spans: Vec<(usize, usize)> = vec![];
        for s in &mut live {
            let at = s._lease.at.addr().get();
            for (off, len) in [(0, 50_000), (50_000, 70_001)] {
                spans.push((at + off, at + off + len));
            }
            // smoltcp's own view agrees: its transmit buffer is the second.
            assert_eq!((s.get().recv_capacity(), s.get().send_capacity()), (50_000, 70_001));
        }
        spans.sort_unstable();
        assert!(spans.windows(2).all(|w| w[0].1 <= w[1].0), "{spans:x?}");
        let again = live.iter().filter(|s| gone.contains(&s._lease.at.addr().get())).count();
        assert_eq!(again, 6, "addresses are used again");
        assert_eq!(r.groups(), (3, 24), "8 sockets a mapping");
    }

    #[test]
    fn as_many_connections_as_a_stack_takes_fit_the_kernels_bound_on_mappings() {
        // The default windows, and the default of vm.max_map_count.
        let ring = (16 << 20) / crate::flow::scaled::UNIT as usize;
        let r = Rings::new(ring, ring).unwrap();
        let (groups, sockets) = r.groups();
        assert_eq!((groups, sockets), (1, 8));
        assert!(65_536 / sockets < 65_530 / 4);
    }

    #[test]
    fn sockets_outlive_the_handle_on_the_rings() {
        let r = Rings::new(1 << 20, 4 << 20).unwrap();
        let a = r.socket().unwrap();
        drop(r);
        assert_eq!((a.get().recv_capacity(), a.get().send_capacity()), (1 << 20, 4 << 20));
    }

    #[test]
    fn a_scratch_area_gives_what_it_has() {
        let mut s = Scratch::new();
        s.bytes_mut(99_999)[65_534] = 9;
        assert_eq!((s.bytes(99_999).len(), s.bytes(65_535)[65_534], s.bytes(40).len()), (65_535, 9, 40));
    }
}
