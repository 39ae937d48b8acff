//! Streams of an lcore: a TCP stack over one queue pair of a port, lendings, and the way home for pages.

mod conns;
mod dgram;
mod listening;
mod look;
mod rx;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;
use dataplane::clock::Clock;
use dataplane::latefree::{LateAction, LateFree};
use dataplane::pkt::{Armed, Nap, Port, Reach, Reclaimed};
use hugepages::{LendSlab, Lent};
use smallvec::SmallVec;
use tcpstack::{CloseWhy as Why, Dial, Duplicate, FlowId, KeepAlive, PushError, Stack};

use self::conns::{Conn, Conns, Queued};
use self::dgram::Datagrams;
use self::listening::Listened;
use self::rx::FlowRx;
use super::conn_state::{ConnEvent, ConnState};
use super::counters::StreamCounters;
use super::idle::{LINK_DOWN_NAP, cut};
use super::nis::Site;
use super::streams::{Sibling, Streams, Told, Work};
use super::unlent::{Dials, Unlent, must_leave};
use crate::hash::OwnMap;
use crate::lnd::config::SEC;
use crate::lnd::{NiError, Tcp};
use crate::stream::{
    Close, CloseWhy, ConnId, ConnInfo, DialError, DialId, DialSpec, Happened, INLINE_MAX, InlineHdr, LendId,
    Path, Progress, SendMsg, ShardId,
};

/// Source ports of a privileged dial (socklnd.md §1), tried from the top.
const PRIVILEGED: std::ops::RangeInclusive<u16> = 512..=1023;
/// Source ports of an unprivileged dial (RFC 6335 §6), tried from the top.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 49_152..=65_535;

// A push takes what a message has in front of its pages: longer, it would be refused for good.
const _: () = assert!(INLINE_MAX <= tcpstack::HDR_MAX);

/// Other stations with our addresses that may wait to be logged.
const DUPLICATES: usize = 8;

/// A message's pages on loan.
struct Lend {
    id: LendId,
    conn: ConnId,
    /// Tells users of a slot apart: a page may come home after its message was given up.
    serial: u32,
    /// Lendings that have not come home.
    runs: u32,
    /// Kept until the zero-copy ACK.
    hold: SmallVec<[Lent; 2]>,
}

/// Other stations with addresses of ours, from an lcore to the thread that warns of them.
#[derive(Clone)]
pub struct Duplicates(Arc<ArrayQueue<Duplicate>>);

impl Duplicates {
    /// The next one.
    pub fn next_one(&self) -> Option<Duplicate> {
        self.0.pop()
    }
}

/// Streams over one queue of a port, for the lcore that polls it.
pub struct LcoreStreams<P: Port> {
    stack: Stack<P>,
    slab: LendSlab,
    clock: Clock,
    now: u64,
    shard: ShardId,
    conns: Conns,
    lends: slab::Slab<Lend>,
    held: OwnMap<LendId, usize>,
    opened: VecDeque<(ConnId, ConnInfo)>,
    failed: VecDeque<(DialId, DialError)>,
    listened: VecDeque<Listened>,
    backlog: u32,
    orphans: VecDeque<LendId>,
    datagrams: Datagrams,
    unlent: Unlent,
    dials: Dials,
    /// Connections with something to tell this turn.
    touched: Vec<ConnId>,
    /// Connections whose messages wait for room.
    stalled: VecDeque<ConnId>,
    late: LateFree,
    serial: u32,
    restart: Arc<AtomicBool>,
    duplicates: Duplicates,
    counters: StreamCounters,
}

fn conn_id(shard: ShardId, f: FlowId) -> ConnId {
    ConnId { shard, index: f.slot(), generation: f.generation() }
}

fn close_why(w: Why) -> CloseWhy {
    match w {
        Why::Fin => CloseWhy::Fin,
        Why::Reset | Why::Refused => CloseWhy::Reset,
        Why::Timeout => CloseWhy::Timeout,
        Why::Unreachable | Why::Unresolved => CloseWhy::Unreachable,
        Why::LocalAbort => CloseWhy::Local,
    }
}

fn dial_error(w: Why) -> DialError {
    match w {
        Why::Refused | Why::Reset | Why::Fin => DialError::Refused,
        Why::Timeout => DialError::TimedOut,
        Why::Unreachable => DialError::Unreachable,
        Why::Unresolved => DialError::NoNeighbour,
        Why::LocalAbort => DialError::Local,
    }
}

/// TCP keep-alive as the tunables have it, for a stack.
pub fn keepalive(tcp: &Tcp) -> Option<KeepAlive> {
    let ns = |secs: u32| u64::from(secs) * SEC;
    tcp.keepalive().map(|(idle, every, count)| KeepAlive { idle: ns(idle), interval: ns(every), count })
}

impl<P: Port> LcoreStreams<P> {
    /// Streams over `stack`; pages are lent from the stack's slab. A protocol's listeners hold back `backlog` connections at most.
    pub fn new(stack: Stack<P>, clock: Clock, shard: ShardId, backlog: u32) -> LcoreStreams<P> {
        LcoreStreams {
            backlog,
            slab: stack.slab().clone(),
            stack,
            now: clock.now(),
            clock,
            shard,
            conns: Conns::default(),
            lends: slab::Slab::new(),
            held: OwnMap::default(),
            opened: VecDeque::new(),
            failed: VecDeque::new(),
            listened: VecDeque::new(),
            orphans: VecDeque::new(),
            datagrams: Datagrams::default(),
            unlent: Unlent::default(),
            dials: Dials::default(),
            touched: Vec::new(),
            stalled: VecDeque::new(),
            late: LateFree::default(),
            serial: 0,
            restart: Arc::default(),
            duplicates: Duplicates(Arc::new(ArrayQueue::new(DUPLICATES))),
            counters: StreamCounters::default(),
        }
    }

    /// The stack, to listen on it or look at it.
    pub fn stack(&mut self) -> &mut Stack<P> {
        &mut self.stack
    }

    fn insert(&mut self, flow: FlowId, dial: Option<DialId>) -> ConnId {
        let id = conn_id(self.shard, flow);
        self.conns.insert(Conn::new(id, flow, dial));
        id
    }

    fn touch(&mut self, id: ConnId, f: impl FnOnce(&mut Conn)) {
        if let Some(c) = self.conns.get(id) {
            f(c);
            if !c.listed {
                c.listed = true;
                self.touched.push(id);
            }
        }
    }

    fn gather(&mut self) {
        while let Some(ev) = self.stack.event() {
            match ev {
                tcpstack::Event::Opened { flow, local, passive: true, .. }
                    if !self.stack.listens_for(local) =>
                {
                    // It was half-open when the listening ended.
                    self.stack.close(flow, tcpstack::Close::Abort);
                }
                tcpstack::Event::Opened { flow, local, remote, passive } => {
                    let id = if passive { self.insert(flow, None) } else { conn_id(self.shard, flow) };
                    let dial = self.conns.get(id).and_then(|c| {
                        c.state.apply(ConnEvent::Opened);
                        c.dial
                    });
                    self.opened.push_back((id, ConnInfo { local, remote, dial }));
                }
                tcpstack::Event::Readable(flow) => {
                    self.touch(conn_id(self.shard, flow), |c| c.readable = true)
                }
                tcpstack::Event::Progress { flow, acked, sent } => {
                    self.touch(conn_id(self.shard, flow), |c| c.progress = Some(Progress { acked, sent }));
                }
                tcpstack::Event::PeerFin(flow) => self.touch(conn_id(self.shard, flow), |c| c.fin = true),
                tcpstack::Event::Ended(flow) => self.touch(conn_id(self.shard, flow), |c| c.ended = true),
                tcpstack::Event::Closed { flow, why } => {
                    let id = conn_id(self.shard, flow);
                    if self.conns.get(id).is_some_and(|c| c.state != ConnState::Dialling) {
                        self.touch(id, |c| c.gone = Some(close_why(why)));
                    } else if let Some(c) = self.conns.take(id) {
                        self.failed.extend(c.dial.map(|d| (d, dial_error(why))));
                    }
                }
            }
        }
    }

    /// Lends the message's pages and pushes it, or keeps it until there is room. Gives it back while no lending
    /// is free.
    #[expect(clippy::result_large_err, reason = "the message itself comes back, unboxed")]
    fn lend_out(&mut self, id: ConnId, mut m: SendMsg) -> Result<(), SendMsg> {
        let Some(flow) = self.conns.get(id).filter(|c| c.state != ConnState::Closing).map(|c| c.flow) else {
            self.orphans.extend(m.lend);
            return Ok(());
        };
        let mut pay: SmallVec<[Lent; 2]> = SmallVec::new();
        if let Some(lend) = m.lend {
            if must_leave(&self.slab, &m) {
                return Err(m);
            }
            let serial = self.serial.wrapping_add(1);
            let token = u64::from(serial) << 32 | self.lends.vacant_key() as u64;
            match self.slab.lend_all(m.pay, token, |l| pay.push(l)) {
                Ok(()) => {}
                Err(short) if short.never() => {
                    tracing::error!(conn = ?id, "a message cannot be sent, so its connection ends: {short}");
                    self.orphans.push_back(lend);
                    self.stack.close(flow, tcpstack::Close::Abort);
                    return Ok(());
                }
                Err(short) => {
                    m.pay = short.slices;
                    return Err(m);
                }
            }
            if pay.is_empty() {
                self.orphans.push_back(lend);
            } else {
                let hold = if m.hold { pay.clone() } else { SmallVec::new() };
                self.serial = serial;
                let key =
                    self.lends.insert(Lend { id: lend, conn: id, serial, runs: pay.len() as u32, hold });
                if m.hold {
                    self.held.insert(lend, key);
                }
            }
        }
        let waits = self.conns.get(id).is_some_and(|c| !c.waiting.is_empty());
        if waits || self.stack.push(flow, &m.hdr, &pay).is_err_and(|e| matches!(e, PushError::Full { .. })) {
            if !waits {
                self.stalled.push_back(id);
            }
            if let Some(c) = self.conns.get(id) {
                c.waiting.push_back(Queued { hdr: m.hdr, pay });
            }
        }
        Ok(())
    }

    fn retry(&mut self) {
        if !self.unlent.is_empty() {
            let mut unlent = std::mem::take(&mut self.unlent);
            unlent.retry(|id, m| self.lend_out(id, m).err());
            self.unlent = unlent;
        }
        for _ in 0..self.stalled.len() {
            let Some(i) = self.stalled.pop_front() else { return };
            let Some(c) = self.conns.get(i) else { continue };
            while let Some(q) = c.waiting.pop_front() {
                if self.stack.push(c.flow, &q.hdr, &q.pay).is_err_and(|e| matches!(e, PushError::Full { .. }))
                {
                    c.waiting.push_front(q);
                    self.stalled.push_back(i);
                    break;
                }
            }
        }
    }

    fn remove(&mut self, id: ConnId) {
        // Messages that wait there drop their pages, which then come home like any others.
        let Some(c) = self.conns.take(id) else { return };
        self.unlent.close(id, &mut self.orphans);
        if !self.held.is_empty() {
            let lends = &mut self.lends;
            self.held.retain(|_, key| match lends.get_mut(*key) {
                Some(l) if l.conn == c.id => {
                    l.hold.clear();
                    false
                }
                _ => true,
            });
        }
    }

    fn reap(&mut self, sink: &mut dyn FnMut(Happened<'_>)) -> usize {
        let (lends, mut n) = (&mut self.lends, 0);
        self.slab.reap(|token, run| {
            // Whoever hears that pages are home may write to them at once.
            drop(run);
            let (key, serial) = (token as u32 as usize, (token >> 32) as u32);
            let Some(l) = lends.get_mut(key).filter(|l| l.serial == serial) else { return };
            l.runs -= 1;
            if l.runs == 0 {
                let id = l.id;
                lends.remove(key);
                n += 1;
                sink(Happened::Released(id));
            }
        });
        while let Some(lend) = self.orphans.pop_front() {
            n += 1;
            sink(Happened::Released(lend));
        }
        n
    }

    /// Gives dials up whose time is over: TCP would go on for two minutes.
    fn end_dials(&mut self) {
        while let Some(id) = self.dials.over(self.now) {
            if let Some(c) = self.conns.get(id).filter(|c| c.state == ConnState::Dialling)
                && let Some(dial) = c.dial
            {
                let flow = c.flow;
                self.conns.take(id);
                self.stack.close(flow, tcpstack::Close::Abort);
                self.failed.push_back((dial, DialError::TimedOut));
            }
        }
    }

    /// Makes a driver that frees late let go of pages (ARCHITECTURE.md, life of a page).
    fn chase_pages(&mut self) {
        match self.late.step(self.now, self.slab.nic_held(), self.stack.tx_waiting() == 0) {
            LateAction::None => {}
            LateAction::Reclaim => {
                let freed = match self.stack.reclaim(u32::MAX) {
                    Reclaimed::Freed(n) => n,
                    Reclaimed::Clean | Reclaimed::Nudge => 0,
                };
                self.late.reclaimed(self.now, freed);
            }
            LateAction::Nudge => self.stack.nudge(),
            // A port that copies as it sends holds no page of ours: they are in packets that it does not take, and a restart
            // brings none of them home.
            LateAction::Restart if self.stack.port().caps().reach != Reach::Eal => self.stack.drop_waiting(),
            LateAction::Restart => self.restart.store(true, Ordering::Release),
            LateAction::Quarantine => self.give_up(),
        }
    }

    /// The driver keeps pages of connections that are gone: their messages are completed, and the pages stay
    /// where they are, never to be used again while the driver may read them.
    fn give_up(&mut self) {
        let conns = &mut self.conns;
        let orphans = &mut self.orphans;
        let before = self.lends.len();
        self.lends.retain(|_, l| {
            let keep = conns.get(l.conn).is_some();
            if !keep {
                orphans.push_back(l.id);
            }
            keep
        });
        self.counters.quarantined += (before - self.lends.len()) as u64;
    }

    /// Tells what a connection came to, in the order of its stream: bytes, the peer's FIN, the end. The end waits until
    /// everything before it was taken, or the machine has closed.
    fn tell_stream(&mut self, id: ConnId, sink: &mut dyn FnMut(Happened<'_>)) -> usize {
        let Some(c) = self.conns.get(id) else { return 0 };
        let (flow, mut n) = (c.flow, 0);
        c.listed = false;
        if std::mem::take(&mut c.readable) && c.state != ConnState::Closing {
            n += 1;
            sink(Happened::Bytes(id, &mut FlowRx { stack: &mut self.stack, flow, rest: &mut c.rest }));
            if matches!(&c.rest, Some((frag, _)) if frag.is_empty()) {
                c.rest = None;
            }
        }
        if c.fin && c.state.would(ConnEvent::Fin).is_some() {
            if c.rest.is_none() {
                c.rest = self.stack.next(flow).map(|f| (f, false));
            }
            if c.rest.is_none() {
                c.state.apply(ConnEvent::Fin);
                n += 1;
                sink(Happened::PeerFin(id));
            } else if c.state.apply(ConnEvent::Last).is_some() {
                n += 1;
                sink(Happened::LastBytes(id));
            }
        }
        if let Some(why) = c.gone.filter(|_| c.rest.is_none()) {
            n += 1;
            self.remove(id);
            sink(Happened::Closed(id, why));
        } else if (c.gone.is_some() || c.ended && (c.rest.is_some() || self.stack.unread(flow)))
            && c.state.apply(ConnEvent::End).is_some()
        {
            // Not all was taken: whether it ever will be is the machine's to say.
            n += 1;
            sink(Happened::Ended(id));
        }
        n
    }

    /// Other stations with our addresses, for the control thread to warn of.
    pub fn duplicates(&self) -> Duplicates {
        self.duplicates.clone()
    }

    /// Set while the port should be stopped and started, since its driver has held pages for a second. The
    /// control thread does it and clears the flag.
    pub fn restart_wanted(&self) -> Arc<AtomicBool> {
        self.restart.clone()
    }
}

impl<P: Port> Streams for LcoreStreams<P> {
    fn now(&self) -> u64 {
        self.clock.now()
    }

    fn dial(&mut self, d: &DialSpec) {
        let ports = if d.privileged { PRIVILEGED } else { EPHEMERAL };
        let steering = self.stack.steering().clone();
        // Only what brings the peer's answers to this queue; other lcores have ports of their own towards it.
        let class = steering.ports_of(d.local_ip, d.remote);
        for port in ports.rev().filter(|p| class.has(*p)) {
            if self.stack.listens(port) {
                continue;
            }
            let dial = Dial { local: SocketAddr::new(d.local_ip, port), remote: d.remote };
            match self.stack.dial(self.now, dial) {
                Ok(flow) => {
                    let id = self.insert(flow, Some(d.id));
                    self.dials.add(d.until, id);
                    return;
                }
                Err(tcpstack::DialError::InUse(_)) => {}
                Err(e) => {
                    let no_route = matches!(e, tcpstack::DialError::NoRoute(_));
                    self.failed
                        .push_back((d.id, if no_route { DialError::NoRoute } else { DialError::Local }));
                    return;
                }
            }
        }
        self.failed.push_back((d.id, DialError::NoPort));
    }

    fn listen(&mut self, at: SocketAddr) {
        self.listen_at(at);
    }

    fn unlisten(&mut self, at: SocketAddr) {
        self.unlisten_at(at);
    }

    fn open_ni(&mut self, site: &Site, at: &[SocketAddr]) -> Result<(), NiError> {
        // Alone, it is the port that is meant where there is one.
        if site.port == 0 { self.open_address(site, at) } else { Err(NiError::NoPort(site.port)) }
    }

    fn close_ni(&mut self, at: SocketAddr) {
        self.stack.unlisten(at.ip(), at.port());
    }

    fn drop_address(&mut self, ip: IpAddr) {
        self.stack.remove_address(ip);
    }

    #[inline]
    fn send_short(&mut self, id: ConnId, hdr: &InlineHdr) -> bool {
        // Where anything of the shard waits for lendings, the general way knows the order.
        self.unlent.is_empty()
            && self.conns.get(id).is_some_and(|c| {
                c.state != ConnState::Closing
                    && c.waiting.is_empty()
                    && !self.stack.push(c.flow, hdr, &[]).is_err_and(|e| matches!(e, PushError::Full { .. }))
            })
    }

    fn send(&mut self, id: ConnId, m: SendMsg) {
        if self.unlent.before(id, &m) {
            self.counters.lend_waits += 1;
            return self.unlent.push(id, m);
        }
        if let Err(m) = self.lend_out(id, m) {
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
        if let Some(l) = self.held.remove(&lend).and_then(|key| self.lends.get_mut(key)) {
            l.hold.clear();
        }
    }

    fn read(&mut self, id: ConnId) {
        self.touch(id, |c| c.readable = true);
    }

    fn close(&mut self, id: ConnId, how: Close) {
        let how = match how {
            Close::Fin => tcpstack::Close::Both,
            Close::Abort => tcpstack::Close::Abort,
        };
        let Some(c) = self.conns.get(id) else { return };
        let flow = c.flow;
        // Whoever closes takes nothing more, and what found no room is not sent.
        c.state.apply(ConnEvent::Close);
        c.rest = None;
        c.waiting = VecDeque::new();
        self.unlent.close(id, &mut self.orphans);
        self.stack.close(flow, how);
        self.touch(id, |_| ());
    }

    fn turn(&mut self, now: u64, sink: &mut dyn FnMut(Happened<'_>)) -> Work {
        self.now = now;
        let busy = self.stack.poll(now);
        self.gather();
        self.end_dials();
        if let Some(d) = self.stack.duplicate_address() {
            self.duplicates.0.force_push(d);
        }
        let mut n = 0;
        let mut touched = std::mem::take(&mut self.touched);
        for id in &touched {
            if let Some(p) = self.conns.get(*id).and_then(|c| c.progress.take()) {
                n += 1;
                sink(Happened::Progress(*id, p));
            }
        }
        // A slot's earlier connection ends before the next one begins.
        if self.conns.displaced() {
            for id in &touched {
                if self.conns.is_displaced(*id) {
                    n += self.tell_stream(*id, sink);
                }
            }
        }
        while let Some((dial, why)) = self.failed.pop_front() {
            n += 1;
            sink(Happened::DialFailed(dial, why));
        }
        while let Some((at, done)) = self.listened.pop_front() {
            n += 1;
            sink(Happened::Listening(at, done));
        }
        while let Some((id, info)) = self.opened.pop_front() {
            n += 1;
            sink(Happened::Opened(id, info));
        }
        for id in &touched {
            n += self.tell_stream(*id, sink);
        }
        touched.clear();
        if self.datagrams.used {
            n += self.read_datagrams(sink);
        }
        // Connections that were touched meanwhile (never from within the sink) stay listed.
        touched.append(&mut self.touched);
        self.touched = touched;
        n += self.reap(sink);
        self.chase_pages();
        busy_or(busy, n)
    }

    fn flush(&mut self) -> Work {
        if !self.stalled.is_empty() || !self.unlent.is_empty() {
            self.retry();
        }
        self.retry_datagrams();
        busy_or(self.stack.flush(self.now), 0)
    }

    fn deadline(&self) -> Option<u64> {
        // Consequences of an action are told at the next turn.
        let tells = !self.touched.is_empty() || !self.listened.is_empty() || self.stack.has_events();
        if tells { Some(self.now) } else { self.stack.deadline() }
    }

    fn wait(&mut self, until: Option<u64>, nap: Option<Nap>) {
        // Nothing comes and nothing goes: a core that spins meanwhile is lost to others (field report L5).
        if !self.linked() {
            std::thread::sleep(LINK_DOWN_NAP);
        } else if let Some(nap) = nap.and_then(|n| cut(n, self.now, until)) {
            self.stack.port_mut().nap(nap);
        }
    }

    fn arm(&mut self) -> Armed {
        self.stack.port_mut().arm()
    }

    fn linked(&self) -> bool {
        self.stack.port().link_up()
    }

    fn abort_all(&mut self) {
        self.stack.abort_all();
    }

    fn tune(&mut self, tcp: &Tcp) {
        self.stack.set_keepalive(keepalive(tcp));
    }

    fn sibling(&mut self) -> Option<&mut dyn Sibling> {
        Some(self)
    }
}

impl<P: Port> Sibling for LcoreStreams<P> {
    fn tell(&mut self) -> Option<(u16, Told)> {
        self.stack.tell().map(|(queue, msg)| (queue, Told { port: 0, msg }))
    }

    fn hear(&mut self, told: Told) {
        self.stack.hear(self.now, told.msg);
    }
}

fn busy_or(w: tcpstack::Work, n: usize) -> Work {
    match w {
        tcpstack::Work::Busy(k) => Work::of(n.saturating_add(k as usize)),
        tcpstack::Work::Idle => Work::of(n),
    }
}
