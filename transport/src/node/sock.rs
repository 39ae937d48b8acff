//! Streams over the kernel's sockets: the node that runs anywhere, and the honest baseline.
//!
//! The kernel copies every byte, each way; no copy is added here: pages are written from where they lie, and bytes
//! that were read into a buffer can be lent from it. A page is free once the kernel has taken it
//! (and its zero-copy ACK has come, where one was asked for).

mod accept;
mod config;
mod conn;
mod dgram;
mod listening;
mod look;
mod set_up;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use dataplane::pkt::Nap;
use hugepages::{HeapRxPool, LendSlab, Lent, RxFrag};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use smallvec::SmallVec;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use self::accept::Accepting;
pub use self::config::{IdleMode, SockConfig, SockError};
use self::config::{is_exhausted, remedy};
use self::conn::{Conn, EINPROGRESS, SockRx, TxItem, close_why, dial_error};
use self::dgram::{DATAGRAMS, Datagrams};
use self::listening::Listeners;
use self::set_up::set_up;
use super::conn_state::{ConnEvent, ConnState};
use super::counters::StreamCounters;
use super::nis::Site;
use super::streams::{Sibling, Streams, Work};
use super::unlent::{Dials, Unlent, must_leave};
use crate::hash::OwnMap;
use crate::lnd::{NiError, Tcp};
use crate::stream::{
    Close, CloseWhy, ConnId, ConnInfo, DialError, DialId, DialSpec, Happened, LendId, Path, Progress, SendMsg,
};

/// Whether this process may bind ports below 1024 on `ip`, or would if `ip` were an address of this machine.
///
/// # Errors
/// No socket can be made at all: the process or the machine has no descriptors or no memory left.
pub fn may_bind_privileged(ip: IpAddr) -> io::Result<bool> {
    let any = match ip {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    // Any free port will do; a used one says nothing.
    let tries = [ip, any].into_iter().flat_map(|ip| (512..1024).rev().map(move |p| SocketAddr::new(ip, p)));
    let mut answers = tries.filter_map(|addr| match bind(addr) {
        Ok(_) => Some(Ok(true)),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Some(Ok(false)),
        Err(e) if is_exhausted(&e) => Some(Err(e)),
        Err(_) => None,
    });
    answers.next().unwrap_or(Ok(false))
}

/// Whether streams can begin at `ip`: it is an address of this machine.
///
/// # Errors
/// [`SockError::Address`].
pub fn may_use(ip: IpAddr) -> Result<(), SockError> {
    bind(SocketAddr::new(ip, 0)).map(drop).map_err(|source| SockError::Address { ip, source })
}

fn bind(local: SocketAddr) -> io::Result<Socket> {
    let s = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
    s.set_reuse_address(true)?;
    s.bind(&local.into())?;
    Ok(s)
}

struct Hold {
    conn: ConnId,
    lend: LendId,
    lents: SmallVec<[Lent; 2]>,
}

/// Kernel sockets.
pub struct SockStreams {
    cfg: SockConfig,
    clock: dataplane::clock::Clock,
    poll: Poll,
    events: Events,
    listeners: Listeners,
    conns: Vec<Option<Conn>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    pool: HeapRxPool,
    small: HeapRxPool,
    slab: LendSlab,
    holds: OwnMap<LendId, Hold>,
    /// Lendings outstanding for a message of more than one run.
    runs: OwnMap<LendId, u32>,
    unlent: Unlent,
    dials: Dials,
    failed: VecDeque<(DialId, DialError)>,
    opened: VecDeque<ConnId>,
    orphans: VecDeque<LendId>,
    accepting: Accepting,
    datagrams: Datagrams,
    /// The datagram that is shown.
    datagram: VecDeque<RxFrag>,
    /// Most receive buffers that were out since `trim_at`, and when those that nobody needed are let go, in ns.
    peak: usize,
    trim_at: u64,
    polled: bool,
    counters: StreamCounters,
}

const LISTENER: usize = 1 << 40;
/// Bytes taken from one connection in one turn at most.
const READ_A_TURN: usize = 1 << 20;
/// Size of a connection's first read, in bytes; each time that all of it came and was taken the next is four times as large.
const FIRST_READ: usize = 16 << 10;
/// Interval after which receive buffers that nobody needed are let go, in ns.
const TRIM_EVERY: u64 = 1_000_000_000;
/// Longest sleep: other threads' wishes (a ring, a signal, a look) wake nobody who waits for sockets.
const LONGEST_SLEEP: Duration = Duration::from_millis(10);
/// Time limit for a closing connection to send the bytes that were pushed, in ns.
const CLOSING: u64 = 10_000_000_000;
/// Reads below this size are copied out of the big buffer, which is used again at once.
const SMALL_READ: usize = 2048;
/// Of those copies' buffers, so many are kept however few are needed.
const SMALL_KEPT: usize = 1024;

impl SockStreams {
    /// Listens, where asked to.
    ///
    /// # Errors
    /// [`SockError`] names the address and the remedy.
    pub fn new(cfg: SockConfig, clock: dataplane::clock::Clock) -> Result<SockStreams, SockError> {
        let poll = Poll::new().map_err(SockError::Poll)?;
        let mut listeners = Listeners::default();
        for addr in &cfg.listen {
            let opened = listeners.open(*addr, cfg.tcp.backlog.into(), poll.registry());
            opened.map_err(|source| SockError::Listen { addr: *addr, source })?;
        }
        Ok(SockStreams {
            datagrams: Datagrams::default(),
            datagram: VecDeque::new(),
            poll,
            events: Events::with_capacity(256),
            listeners,
            conns: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            pool: HeapRxPool::new(cfg.rx_buf, cfg.rx_bufs),
            small: HeapRxPool::new(SMALL_READ, cfg.rx_bufs * 4),
            slab: LendSlab::new(cfg.lendings),
            holds: OwnMap::default(),
            runs: OwnMap::default(),
            unlent: Unlent::default(),
            dials: Dials::default(),
            failed: VecDeque::new(),
            opened: VecDeque::new(),
            orphans: VecDeque::new(),
            accepting: Accepting::default(),
            peak: 0,
            trim_at: 0,
            polled: false,
            counters: StreamCounters::default(),
            cfg,
            clock,
        })
    }

    /// Whether streams of this configuration could listen now; opens and closes what [`SockStreams::new`] opens.
    ///
    /// # Errors
    /// As [`SockStreams::new`].
    pub fn probe(cfg: &SockConfig) -> Result<(), SockError> {
        for addr in &cfg.listen {
            let s = bind(*addr).and_then(|s| s.listen(1));
            s.map_err(|source| SockError::Listen { addr: *addr, source })?;
        }
        Ok(())
    }

    /// Addresses listened on (with the port that the kernel chose, if 0 was asked for).
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.all().filter_map(|l| l.local_addr().ok()).collect()
    }

    fn insert(&mut self, mut sock: TcpStream, info: ConnInfo) -> io::Result<ConnId> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.generations.push(0);
            (self.conns.len() - 1) as u32
        });
        let i = index as usize;
        let set_up = set_up(&self.cfg.tcp, &sock, info.local.is_ipv6()).and_then(|()| {
            self.poll.registry().register(&mut sock, Token(i), Interest::READABLE | Interest::WRITABLE)
        });
        if let Err(e) = set_up {
            self.free.push(index);
            return Err(e);
        }
        self.generations[i] = self.generations[i].wrapping_add(1);
        let id = ConnId { shard: self.cfg.shard, index, generation: self.generations[i] };
        let mut conn = Conn::new(sock, id, info);
        if info.dial.is_none() {
            conn.state.apply(ConnEvent::Opened);
        }
        self.conns[i] = Some(conn);
        Ok(id)
    }

    fn start_dial(&mut self, d: &DialSpec) -> Result<(), DialError> {
        let ports: &mut dyn Iterator<Item = u16> =
            if d.privileged { &mut (512..=1023).rev() } else { &mut std::iter::once(0) };
        for port in ports {
            let sock = match bind(SocketAddr::new(d.local_ip, port)) {
                Ok(s) => s,
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => continue,
                Err(e) => {
                    tracing::warn!(peer = %d.remote, local = %d.local_ip, port, error = %e, "cannot bind to dial{}", remedy(&e));
                    return Err(DialError::Local);
                }
            };
            let started = sock.set_nonblocking(true).and_then(|()| sock.connect(&d.remote.into()));
            match started {
                Ok(()) => {}
                Err(e) if e.raw_os_error() == Some(EINPROGRESS) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) => {
                    continue;
                }
                Err(e) => return Err(dial_error(&e)),
            }
            let sock = TcpStream::from_std(sock.into());
            let local = sock.local_addr().map_err(|_| DialError::Local)?;
            let info = ConnInfo { local, remote: d.remote, dial: Some(d.id) };
            let id = self.insert(sock, info).map_err(|_| DialError::Local)?;
            self.dials.add(d.until, id);
            return Ok(());
        }
        Err(DialError::NoPort)
    }

    fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(id.index as usize)?.as_mut().filter(|c| c.id == id)
    }

    /// Lends the pages of `m` and queues it. Gives it back while no lending is free.
    #[expect(clippy::result_large_err, reason = "the message itself comes back, unboxed")]
    fn enqueue(&mut self, id: ConnId, mut m: SendMsg) -> Result<(), SendMsg> {
        let Some(lend) = m.lend else {
            if let Some(c) = self.conn(id) {
                c.tx.push_back(TxItem { hdr: m.hdr, pay: SmallVec::new(), done: 0 });
            }
            return Ok(());
        };
        if self.conn(id).is_none() {
            self.orphans.push_back(lend);
            return Ok(());
        }
        if must_leave(&self.slab, &m) {
            return Err(m);
        }
        let mut pay: SmallVec<[Lent; 2]> = SmallVec::new();
        match self.slab.lend_all(m.pay, lend.0, |l| pay.push(l)) {
            Ok(()) => {}
            Err(short) if short.never() => {
                tracing::error!(conn = ?id, "a message cannot be sent, so its connection ends: {short}");
                self.orphans.push_back(lend);
                if let Some(c) = self.conn(id) {
                    c.dead = Some(CloseWhy::Local);
                }
                return Ok(());
            }
            Err(short) => {
                m.pay = short.slices;
                return Err(m);
            }
        }
        match pay.len() {
            0 => self.orphans.push_back(lend),
            1 => {}
            n => drop(self.runs.insert(lend, n as u32)),
        }
        if m.hold {
            self.holds.insert(lend, Hold { conn: id, lend, lents: pay.clone() });
        }
        if let Some(c) = self.conn(id) {
            c.tx.push_back(TxItem { hdr: m.hdr, pay, done: 0 });
        }
        Ok(())
    }

    fn poll_kernel(&mut self, timeout: Option<Duration>) {
        if self.poll.poll(&mut self.events, timeout).is_err() {
            return;
        }
        for e in &self.events {
            if e.token().0 >= DATAGRAMS {
                self.datagrams.ready(e);
            } else if e.token().0 >= LISTENER {
                self.accepting.again = true;
            } else if let Some(c) = self.conns.get_mut(e.token().0).and_then(Option::as_mut) {
                c.readable |= e.is_readable() || e.is_read_closed() || e.is_error();
                c.writable |= e.is_writable() || e.is_write_closed() || e.is_error();
                c.ended |= e.is_error();
                c.fin |= e.is_read_closed();
            }
        }
    }

    fn finish_dials(&mut self) {
        for i in 0..self.conns.len() {
            let Some(c) = &mut self.conns[i] else { continue };
            let Some(dial) = c.dialling() else { continue };
            if !c.writable {
                continue;
            }
            let failed = match (c.sock.take_error(), c.sock.peer_addr()) {
                (Ok(Some(e)) | Err(e), _) => Some(dial_error(&e)),
                (Ok(None), Ok(_)) => None,
                (Ok(None), Err(e)) if e.kind() == io::ErrorKind::NotConnected => continue,
                (Ok(None), Err(e)) => Some(dial_error(&e)),
            };
            match failed {
                Some(why) => {
                    self.failed.push_back((dial, why));
                    self.remove(i);
                }
                None => {
                    c.state.apply(ConnEvent::Opened);
                    let id = c.id;
                    self.opened.push_back(id);
                }
            }
        }
    }

    fn remove(&mut self, i: usize) {
        let Some(mut c) = self.conns[i].take() else { return };
        let _ = self.poll.registry().deregister(&mut c.sock);
        if c.close == Some(Close::Abort) {
            let _ = SockRef::from(&c.sock).set_linger(Some(Duration::ZERO));
        }
        self.free.push(i as u32);
        self.accepting.descriptor_free();
        self.unlent.close(c.id, &mut self.orphans);
        if !self.holds.is_empty() {
            self.holds.retain(|_, h| h.conn != c.id);
        }
    }

    /// Receive buffers that each host's unread bytes take, while they are short.
    fn unread_by_host(&self) -> Option<BTreeMap<IpAddr, usize>> {
        if self.pool.out() < self.pool.max() / 2 {
            return None;
        }
        let mut by = BTreeMap::new();
        for c in self.conns.iter().flatten().filter(|c| !c.rx.is_empty()) {
            *by.entry(c.info.remote.ip()).or_default() += c.rx.len();
        }
        Some(by)
    }

    /// Reads what connections have, and gives it to the machine as it comes: what that does not take stays one buffer a
    /// connection, and holds the socket back. That is the flow control.
    fn read_some(&mut self, sink: &mut dyn FnMut(Happened<'_>)) -> usize {
        let mut n = 0;
        let short = self.unread_by_host();
        for c in self.conns.iter_mut().flatten() {
            if c.state == ConnState::Dialling {
                continue;
            }
            if std::mem::take(&mut c.wanted) && !c.rx.is_empty() && c.state != ConnState::Closing {
                n += 1;
                sink(Happened::Bytes(c.id, &mut SockRx(&mut c.rx)));
            }
            let mut got = 0;
            while got < READ_A_TURN && c.readable && c.rx.is_empty() && c.dead.is_none() && !c.eof {
                // One that takes what it can gets no more than is left: others must be heard, too.
                let held = short.as_ref().and_then(|s| s.get(&c.info.remote.ip())).copied().unwrap_or(0);
                if held > 0 && held >= self.pool.max() - self.pool.out() {
                    self.counters.rx_host_waits += 1;
                    break;
                }
                let Some(mut buf) = self.pool.take() else { break };
                self.peak = self.peak.max(self.pool.out());
                let ask = c.ask.min(self.cfg.rx_buf);
                let space = buf.space();
                let space = space.get_mut(..ask).unwrap_or_default();
                match c.sock.read(space) {
                    Ok(0) => c.eof = true,
                    Ok(k) => {
                        got += k;
                        n += 1;
                        let read = space.get(..k).unwrap_or_default();
                        let small = (k <= SMALL_READ).then(|| self.small.copy_of(read)).flatten();
                        c.rx.push_back(small.unwrap_or_else(|| buf.into_frag(0, k as u32)));
                        if c.state != ConnState::Closing {
                            sink(Happened::Bytes(c.id, &mut SockRx(&mut c.rx)));
                        }
                        let full = k == ask;
                        if full && c.rx.is_empty() {
                            c.ask = (ask * 4).min(self.cfg.rx_buf);
                        }
                        if k < ask / 2 {
                            // Less than was asked for: very likely all there is; a later turn looks again.
                            break;
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => c.readable = false,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => c.dead = Some(close_why(&e)),
                }
            }
            if c.eof && c.rx.is_empty() && c.state.apply(ConnEvent::Fin).is_some() {
                n += 1;
                sink(Happened::PeerFin(c.id));
            }
            // A machine that waits reads no further, and would not hear of the FIN.
            if c.fin && !c.rx.is_empty() && c.dead.is_none() && c.state.apply(ConnEvent::Last).is_some() {
                n += 1;
                sink(Happened::LastBytes(c.id));
            }
            // The kernel tells of a RST when it is read up to that, which a machine that waits for the peer never does.
            if c.ended && !c.rx.is_empty() && c.dead.is_none() && c.state.apply(ConnEvent::End).is_some() {
                n += 1;
                sink(Happened::Ended(c.id));
            }
        }
        n
    }

    /// Lets receive buffers go that were not needed for a while, and ends connections that do not get rid of what was
    /// pushed before they were closed.
    fn tidy(&mut self, now: u64) {
        if now < self.trim_at {
            return;
        }
        self.trim_at = now + TRIM_EVERY;
        let out = self.pool.out();
        self.pool.trim(self.peak.saturating_sub(out));
        self.small.trim(SMALL_KEPT);
        self.peak = out;
        for c in self.conns.iter_mut().flatten() {
            match c.closing_since {
                None if c.close.is_some() => c.closing_since = Some(now),
                Some(t) if c.dead.is_none() && now.saturating_sub(t) >= CLOSING => {
                    c.close = Some(Close::Abort);
                    c.dead = Some(CloseWhy::Timeout);
                }
                _ => {}
            }
        }
    }

    fn write_some(&mut self) -> usize {
        let mut n = 0;
        for c in self.conns.iter_mut().flatten() {
            if c.state != ConnState::Dialling && c.dead.is_none() {
                n += c.write();
            }
        }
        n
    }

    fn retry_waiting(&mut self) {
        if !self.unlent.is_empty() {
            let mut unlent = std::mem::take(&mut self.unlent);
            unlent.retry(|id, m| self.enqueue(id, m).err());
            self.unlent = unlent;
        }
    }

    /// Closes what the kernel would go on dialling for two minutes.
    fn end_dials(&mut self, now: u64) {
        while let Some(id) = self.dials.over(now) {
            if let Some(dial) = self.conn(id).and_then(|c| c.dialling()) {
                self.failed.push_back((dial, DialError::TimedOut));
                self.remove(id.index as usize);
            }
        }
    }

    fn reap(&mut self, sink: &mut dyn FnMut(Happened<'_>)) {
        let runs = &mut self.runs;
        self.slab.reap(|token, run| {
            // Whoever hears that pages are home may write to them at once.
            drop(run);
            let lend = LendId(token);
            if let Some(left) = runs.get_mut(&lend) {
                *left -= 1;
                if *left > 0 {
                    return;
                }
                runs.remove(&lend);
            }
            sink(Happened::Released(lend));
        });
        while let Some(lend) = self.orphans.pop_front() {
            sink(Happened::Released(lend));
        }
    }
}

impl Streams for SockStreams {
    fn now(&self) -> u64 {
        self.clock.now()
    }

    fn dial(&mut self, d: &DialSpec) {
        if let Err(why) = self.start_dial(d) {
            self.failed.push_back((d.id, why));
        }
    }

    fn listen(&mut self, at: SocketAddr) {
        self.listen_at(at);
    }

    fn unlisten(&mut self, at: SocketAddr) {
        self.unlisten_at(at);
        self.datagrams.unbind(at, self.poll.registry());
    }

    fn open_ni(&mut self, site: &Site, at: &[SocketAddr]) -> Result<(), NiError> {
        self.open_addresses(site.ip, at)
    }

    fn close_ni(&mut self, at: SocketAddr) {
        self.close_address(at);
    }

    // The address is the machine's, and stays.
    fn drop_address(&mut self, _: IpAddr) {}

    fn send(&mut self, id: ConnId, m: SendMsg) {
        if self.unlent.before(id, &m) {
            self.counters.lend_waits += 1;
            return self.unlent.push(id, m);
        }
        if let Err(m) = self.enqueue(id, m) {
            self.counters.lend_waits += 1;
            self.unlent.push(id, m);
        }
    }

    fn bind(&mut self, at: SocketAddr) {
        self.bind_at(at);
    }

    fn datagram(&mut self, path: Path, m: SendMsg) {
        self.send_datagram(path, m);
    }

    fn unhold(&mut self, _: ConnId, lend: LendId) {
        if let Some(h) = self.holds.remove(&lend) {
            debug_assert_eq!(h.lend, lend);
            drop(h.lents);
        }
    }

    fn read(&mut self, id: ConnId) {
        if let Some(c) = self.conn(id) {
            c.wanted = true;
        }
    }

    fn close(&mut self, id: ConnId, how: Close) {
        self.unlent.close(id, &mut self.orphans);
        if let Some(c) = self.conn(id) {
            c.close = Some(how);
            c.state.apply(ConnEvent::Close);
            if how == Close::Abort {
                c.dead = Some(CloseWhy::Local);
            }
        }
    }

    fn turn(&mut self, now: u64, sink: &mut dyn FnMut(Happened<'_>)) -> Work {
        if !std::mem::take(&mut self.polled) {
            self.poll_kernel(Some(Duration::ZERO));
        }
        self.pool.home().drain();
        self.small.home().drain();
        if self.accepting.due(now) {
            self.accept_all();
        }
        let mut n = 0;
        self.finish_dials();
        self.end_dials(now);
        while let Some((dial, why)) = self.failed.pop_front() {
            n += 1;
            sink(Happened::DialFailed(dial, why));
        }
        while let Some((at, done)) = self.listeners.told.pop_front() {
            n += 1;
            sink(Happened::Listening(at, done));
        }
        while let Some(id) = self.opened.pop_front() {
            n += 1;
            if let Some(c) = self.conn(id) {
                sink(Happened::Opened(id, c.info));
            }
        }
        for c in self.conns.iter_mut().flatten() {
            if c.told != c.written {
                c.told = c.written;
                n += 1;
                sink(Happened::Progress(c.id, Progress { acked: c.written, sent: c.written }));
            }
        }
        n += self.read_some(sink);
        if !self.datagrams.is_off() {
            n += self.read_datagrams(sink);
        }
        for i in 0..self.conns.len() {
            if let Some((id, why)) = self.conns[i].as_ref().and_then(|c| Some((c.id, c.dead?))) {
                n += 1;
                // Bytes from before a RST are read before the machine hears of it, as far as it asks (field report L2).
                let unread = |c: &Conn| c.wanted && !c.rx.is_empty() && c.state != ConnState::Closing;
                if why != CloseWhy::Local && self.conns[i].as_ref().is_some_and(unread) {
                    continue;
                }
                self.remove(i);
                sink(Happened::Closed(id, why));
            }
        }
        self.reap(sink);
        self.tidy(now);
        Work::of(n)
    }

    fn flush(&mut self) -> Work {
        self.retry_waiting();
        let datagrams = if self.datagrams.is_off() { 0 } else { self.flush_datagrams() };
        Work::of(self.write_some() + datagrams)
    }

    fn deadline(&self) -> Option<u64> {
        // Something that the kernel will not wake us for.
        let pending = !self.failed.is_empty()
            || !self.listeners.told.is_empty()
            || !self.orphans.is_empty()
            || self.accepting.again
            || self.datagrams.has_work()
            || self.conns.iter().flatten().any(|c| {
                c.dead.is_some()
                    || c.told != c.written
                    || (c.state != ConnState::Dialling && c.readable && c.rx.is_empty() && !c.eof)
                    || (c.wanted && !c.rx.is_empty())
                    || (c.eof && c.rx.is_empty() && c.state.would(ConnEvent::Fin).is_some())
            });
        if pending { Some(0) } else { self.accepting.retry_at }
    }

    fn wait(&mut self, until: Option<u64>, _: Option<Nap>) {
        let timeout = match (self.cfg.idle, until) {
            (IdleMode::Spin, _) => Some(Duration::ZERO),
            (IdleMode::Block, None) => None,
            (IdleMode::Block, Some(t)) => Some(Duration::from_nanos(t.saturating_sub(self.now()))),
        };
        self.poll_kernel(Some(timeout.map_or(LONGEST_SLEEP, |t| t.min(LONGEST_SLEEP))));
        self.polled = true;
    }

    fn abort_all(&mut self) {
        // The kernel tells peers when the sockets go with this value.
    }

    fn tune(&mut self, tcp: &Tcp) {
        self.cfg.tcp = *tcp;
    }

    fn sibling(&mut self) -> Option<&mut dyn Sibling> {
        None
    }
}
