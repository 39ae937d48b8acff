//! Datagrams over the kernel's UDP.
//!
//! A socket bound to our end takes what comes. What we send goes by a socket of the same address that is connected to the
//! peer: the kernel tells only such a one what became of its datagrams (a port that nobody has, a packet that is too big for
//! the path), and of which path. What that peer sends comes by it from then on.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::SocketAddr;

use mio::event::Event;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use rustix::net::sockopt;
use smallvec::SmallVec;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use hugepages::Lent;

use super::config::remedy;
use super::conn::{SockRx, TxItem};
use super::listening::why;
use super::{READ_A_TURN, SMALL_READ, SockStreams};
use crate::stream::{DgramError, Happened, Pages, Path, SendMsg, dgram_headers};

/// Tokens from here on are datagram sockets'.
pub(super) const DATAGRAMS: usize = 1 << 41;
/// Socket buffers that the kernel is asked for, in bytes: it gives what `net.core.rmem_max` and `wmem_max` let it.
const BUFFER: usize = 4 << 20;
/// Connected sockets at a time; for another peer the one that was not used for longest goes.
const CONNECTED: usize = 512;
/// Most slices of one datagram: Linux takes no more (UIO_MAXIOV).
const IOV_MAX: usize = 1024;
const EMSGSIZE: i32 = 90;
const ENOBUFS: i32 = 105;

struct Udp {
    sock: UdpSocket,
    local: SocketAddr,
    /// The peer that it is connected to.
    remote: Option<SocketAddr>,
    tx: VecDeque<TxItem>,
    readable: bool,
    writable: bool,
    /// When it was last used, in uses.
    used: u64,
}

impl Udp {
    fn path(&self) -> Option<Path> {
        Some(Path::new(self.local, self.remote?))
    }

    /// The path's state by an error of a call; `None` where that says nothing.
    fn verdict(&self, e: &io::Error) -> Option<DgramError> {
        use io::ErrorKind as K;
        Some(match e.kind() {
            K::WouldBlock | K::Interrupted => return None,
            K::ConnectionRefused => DgramError::Refused,
            K::HostUnreachable | K::NetworkUnreachable | K::PermissionDenied => DgramError::Unreachable,
            // It was dropped on its way out, as others may be later on.
            _ if e.raw_os_error() == Some(ENOBUFS) => return None,
            _ if e.raw_os_error() == Some(EMSGSIZE) => {
                let v6 = self.local.is_ipv6();
                let mtu = if v6 { sockopt::ipv6_mtu(&self.sock) } else { sockopt::ip_mtu(&self.sock) };
                DgramError::TooBig(mtu.unwrap_or(0).saturating_sub(dgram_headers(v6)))
            }
            _ => DgramError::Local,
        })
    }
}

/// The datagram sockets.
#[derive(Default)]
pub(super) struct Datagrams {
    all: slab::Slab<Udp>,
    by_path: HashMap<Path, usize>,
    /// Those that wait for lendings.
    unlent: VecDeque<(Path, SendMsg)>,
    undelivered: VecDeque<(Path, DgramError)>,
    uses: u64,
}

fn socket(local: SocketAddr, reuse: bool) -> io::Result<Socket> {
    let s = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    s.set_reuse_address(reuse)?;
    s.set_nonblocking(true)?;
    let _ = s.set_recv_buffer_size(BUFFER);
    let _ = s.set_send_buffer_size(BUFFER);
    s.bind(&local.into())?;
    Ok(s)
}

/// A socket that takes what comes to `local`. Nobody else may have the address; our own connected sockets may from then on.
fn bound(local: SocketAddr) -> io::Result<Socket> {
    let s = socket(local, false)?;
    s.set_reuse_address(true)?;
    Ok(s)
}

/// A socket at `local` that is connected to `remote`. Its packets are never cut up.
fn connected(local: SocketAddr, remote: SocketAddr) -> io::Result<Socket> {
    let s = socket(local, true)?;
    if local.is_ipv6() {
        sockopt::set_ipv6_mtu_discover(&s, sockopt::Ipv6PathMtuDiscovery::DO)?;
    } else {
        sockopt::set_ip_mtu_discover(&s, sockopt::Ipv4PathMtuDiscovery::DO)?;
    }
    s.connect(&remote.into())?;
    Ok(s)
}

impl Datagrams {
    /// Takes datagrams at an address.
    fn bind(&mut self, local: SocketAddr, registry: &Registry) -> io::Result<()> {
        self.add(bound(local)?, local, None, registry).map(drop)
    }

    /// Takes none there any more, and sends none from there.
    pub(super) fn unbind(&mut self, local: SocketAddr, registry: &Registry) {
        self.by_path.retain(|path, _| path.local() != local);
        self.all.retain(|_, u| {
            let gone = u.local == local;
            if gone {
                let _ = registry.deregister(&mut u.sock);
            }
            !gone
        });
    }

    /// Whether there are none, and none can come.
    #[inline]
    pub(super) fn is_off(&self) -> bool {
        self.all.is_empty()
    }

    fn add(
        &mut self,
        sock: Socket,
        local: SocketAddr,
        remote: Option<SocketAddr>,
        registry: &Registry,
    ) -> io::Result<usize> {
        let place = self.all.vacant_entry();
        let i = place.key();
        let mut sock = UdpSocket::from_std(sock.into());
        registry.register(&mut sock, Token(DATAGRAMS + i), Interest::READABLE | Interest::WRITABLE)?;
        let (tx, used) = (VecDeque::new(), self.uses);
        // Datagrams that came before it was registered raise no edge.
        place.insert(Udp { sock, local, remote, tx, readable: true, writable: true, used });
        Ok(i)
    }

    /// The socket of a path.
    fn to(&mut self, path: Path, registry: &Registry) -> Result<usize, DgramError> {
        self.uses += 1;
        if let Some(i) = self.by_path.get(&path).copied() {
            if let Some(u) = self.all.get_mut(i) {
                u.used = self.uses;
            }
            return Ok(i);
        }
        let (local, remote) = (path.local(), path.remote());
        if !self.all.iter().any(|(_, u)| u.remote.is_none() && u.local == local) {
            return Err(DgramError::Local);
        }
        if self.by_path.len() >= CONNECTED {
            self.let_go(registry);
        }
        let sock = connected(local, remote).map_err(|e| match e.kind() {
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => DgramError::Unreachable,
            _ => {
                tracing::warn!(peer = %remote, local = %local, error = %e, "cannot make a socket for datagrams");
                DgramError::Local
            }
        })?;
        let i = self.add(sock, local, Some(remote), registry).map_err(|_| DgramError::Local)?;
        self.by_path.insert(path, i);
        Ok(i)
    }

    /// Lets the connected socket go that was not used for longest: what its peer sends comes by the other one again.
    fn let_go(&mut self, registry: &Registry) {
        let idle = self.all.iter().filter(|(_, u)| u.remote.is_some() && u.tx.is_empty());
        let Some((i, _)) = idle.min_by_key(|(_, u)| u.used) else { return };
        if let Some(mut u) = self.all.try_remove(i) {
            let _ = registry.deregister(&mut u.sock);
            if let Some(path) = u.path() {
                self.by_path.remove(&path);
            }
        }
    }

    /// The kernel has something to say about a socket.
    pub(super) fn ready(&mut self, e: &Event) {
        if let Some(u) = self.all.get_mut(e.token().0 - DATAGRAMS) {
            u.readable |= e.is_readable() || e.is_error();
            u.writable |= e.is_writable() || e.is_error();
        }
    }

    /// Whether the next turn has something to do, whatever arrives.
    pub(super) fn has_work(&self) -> bool {
        !self.undelivered.is_empty() || self.all.iter().any(|(_, u)| u.readable)
    }

    /// Datagrams that the kernel has not taken yet.
    fn write(&mut self) -> usize {
        let mut calls = 0;
        for (_, u) in &mut self.all {
            while u.writable
                && let Some(item) = u.tx.front()
            {
                let parts = std::iter::once(&item.hdr[..]).chain(item.pay.iter().flat_map(Lent::chunks));
                let iov: SmallVec<[IoSlice<'_>; 8]> = parts.map(IoSlice::new).collect();
                calls += 1;
                let wrote = SockRef::from(&u.sock).send_vectored(&iov);
                drop(iov);
                match wrote {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => u.writable = false,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    wrote => {
                        u.tx.pop_front();
                        let why = wrote.err().and_then(|e| u.verdict(&e));
                        self.undelivered.extend(u.path().zip(why));
                    }
                }
            }
        }
        calls
    }
}

/// Slices that the bytes lie in.
fn slices(pages: &Pages) -> usize {
    pages.iter().map(|p| p.chunks().count()).sum()
}

impl SockStreams {
    pub(super) fn bind_at(&mut self, at: SocketAddr) {
        let done = self.datagrams.bind(at, self.poll.registry());
        if let Err(e) = &done {
            tracing::warn!(%at, error = %e, "cannot take datagrams{}", remedy(e));
        }
        self.listeners.told.push_back((at, done.map_err(|e| why(&e))));
    }

    /// Queues a datagram; gives it back while no lending is free.
    fn queue_datagram(&mut self, path: Path, mut m: SendMsg) -> Option<SendMsg> {
        let i = match self.datagrams.to(path, self.poll.registry()) {
            Ok(i) if m.pay.len() < self.slab.capacity() && slices(&m.pay) < IOV_MAX => i,
            other => {
                let why = other.err().unwrap_or(DgramError::Local);
                self.datagrams.undelivered.push_back((path, why));
                self.orphans.extend(m.lend);
                return None;
            }
        };
        let mut pay: SmallVec<[Lent; 2]> = SmallVec::new();
        if let Some(lend) = m.lend {
            if let Err(short) = self.slab.lend_all(m.pay, lend.0, |l| pay.push(l)) {
                m.pay = short.slices;
                return Some(m);
            }
            match pay.len() {
                0 => self.orphans.push_back(lend),
                1 => {}
                n => drop(self.runs.insert(lend, n as u32)),
            }
        }
        if let Some(u) = self.datagrams.all.get_mut(i) {
            u.tx.push_back(TxItem { hdr: m.hdr, pay, done: 0 });
        }
        None
    }

    pub(super) fn send_datagram(&mut self, path: Path, m: SendMsg) {
        let waits = !self.datagrams.unlent.is_empty();
        if let Some(m) = if waits { Some(m) } else { self.queue_datagram(path, m) } {
            self.counters.lend_waits += 1;
            self.datagrams.unlent.push_back((path, m));
        }
    }

    /// Sends what waits.
    pub(super) fn flush_datagrams(&mut self) -> usize {
        while let Some((path, m)) = self.datagrams.unlent.pop_front() {
            if let Some(m) = self.queue_datagram(path, m) {
                self.datagrams.unlent.push_front((path, m));
                break;
            }
        }
        self.datagrams.write()
    }

    /// Reads datagrams, and tells what became of those that were sent.
    pub(super) fn read_datagrams(&mut self, sink: &mut dyn FnMut(Happened<'_>)) -> usize {
        let mut n = 0;
        for (_, u) in &mut self.datagrams.all {
            let mut got = 0;
            while u.readable && got < READ_A_TURN {
                let Some(mut buf) = self.pool.take() else { break };
                self.peak = self.peak.max(self.pool.out());
                match u.sock.recv_from(buf.space()) {
                    Ok((k, from)) => {
                        (got, n) = (got + k.max(SMALL_READ), n + 1);
                        let read = buf.space().get(..k).unwrap_or_default();
                        let small = (k <= SMALL_READ).then(|| self.small.copy_of(read)).flatten();
                        self.datagram.push_back(small.unwrap_or_else(|| buf.into_frag(0, k as u32)));
                        let path = Path::new(u.local, from);
                        sink(Happened::Datagram(path, k as u32, &mut SockRx(&mut self.datagram)));
                        self.datagram.clear();
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => u.readable = false,
                    Err(e) => self.datagrams.undelivered.extend(u.path().zip(u.verdict(&e))),
                }
            }
        }
        while let Some((path, why)) = self.datagrams.undelivered.pop_front() {
            n += 1;
            sink(Happened::Undelivered(path, why));
        }
        n
    }
}
