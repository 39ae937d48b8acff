//! The stack of one lcore: connections, listeners, neighbours, and the turn that serves them all.

use arrayvec::ArrayVec;
use dataplane::pkt::{Port, RX_BURST, Reclaimed};
use dataplane::steer::Steering;
use dataplane::tap::TapEnd;
use hugepages::{HeapRxPool, LendSlab, Lent, RxFrag};

use crate::addr::Addr;
use crate::config::{
    Counters, FlowCounters, HDR_MAX, KeepAlive, Listen, ListenError, PushError, StackConfig, StackError,
};
use crate::cookie::Cookies;
use crate::ending::CloseWhy;
use crate::engine::Engine;
use crate::event::{Event, FlowId, Pos};
use crate::flow::Flow;
use crate::flows::Flows;
use crate::host::Host;
use crate::icmp::Limiter;
use crate::io::Io;
use crate::isn::Secret;
use crate::limit::Budget;
use crate::link::{Around, Duplicate, Link};
use crate::listen::Listeners;
use crate::memory::Memory;
use crate::phase::Phase;
use crate::pmtu::Paths;
use crate::siblings::Siblings;
use crate::stats::ConnStats;
use crate::udp::Datagrams;
use crate::wire::HDR;

mod addresses;
mod datagrams;
mod end;
mod icmp;
mod input;
mod open;
mod serve;

/// Result of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// That many packets, connections and timers; call again at once.
    Busy(u32),
    /// Nothing to do before [`Stack::deadline`] or a packet.
    Idle,
}

/// A TCP stack. It stays on its lcore; time is what the caller says (ns, never backwards).
pub struct Stack<P: Port> {
    cfg: StackConfig,
    now: u64,
    c: Counters,
    io: Io<P>,
    uplink: Uplink,
    engine: Engine,
    flows: Flows,
    listeners: Listeners,
    host: Host,
    link: Link,
    /// Stacks of the port's other queues.
    siblings: Siblings,
    datagrams: Datagrams,
    /// Path MTUs of destinations.
    paths: Paths,
    mem: Memory,
    slab: LendSlab,
    small: HeapRxPool,
    secret: Secret,
    cookies: Cookies,
    /// The window scale of our SYNs.
    own_scale: Option<u8>,
    /// ICMP errors looked into, and echo requests answered.
    errors: Limiter,
    icmp: Limiter,
    challenges: Budget,
    resets: Budget,
    /// Payload of the segment that is being taken in.
    frags: Vec<RxFrag>,
    /// Boxed, so that taking it out for a burst moves a pointer and not the burst.
    rx: Option<Box<ArrayVec<P::Rx, RX_BURST>>>,
}

/// The port's link, and whether the port keeps up.
struct Uplink {
    up: bool,
    /// Nothing moved in the last round for want of room in the port.
    blocked: bool,
    /// Connections served in this round that found the port without room.
    stuck: u32,
    /// Full receive bursts in a row.
    full_bursts: u32,
}

/// Full receive bursts in a row after which timers are looked at all the same.
const BURSTS_BEFORE_TIMERS: u32 = 64;
/// Timers handled in one turn at most.
const TIMERS_A_TURN: usize = 256;

impl<P: Port> Stack<P> {
    /// A stack on one queue pair. `slab` is where the lendings that will be pushed come from.
    ///
    /// # Errors
    /// [`StackError`] names the value that is out of range, or what the kernel refused.
    pub fn new(mut cfg: StackConfig, port: P, slab: LendSlab) -> Result<Stack<P>, StackError> {
        for w in [cfg.rx_window, cfg.tx_window] {
            if !(65_536..=1 << 30).contains(&w) {
                return Err(StackError::Window(w));
            }
        }
        cfg.min_pmtu = cfg.min_pmtu.max(256);
        // A tag with VID 0 says a priority and no VLAN (IEEE 802.1Q §6.9).
        cfg.vlan = cfg.vlan.filter(|v| *v != 0);
        let caps = port.caps();
        let host = Host::new(&cfg, caps.mac)?;
        let least = if host.v6() { addresses::LEAST_V6 } else { 576 };
        if caps.mtu < least {
            return Err(StackError::Mtu { port: caps.name.clone(), mtu: caps.mtu, least });
        }
        let secret = cfg.secret.map_or_else(Secret::random, Secret);
        let bytes = cfg.rx_window.max(cfg.tx_window);
        let mut engine = Engine::new(secret.0[0], cfg.rx_window as usize, cfg.tx_window as usize)
            .map_err(|source| StackError::Map { bytes, source })?;
        let io = Io::new(port, cfg.vlan, cfg.tos & !3, cfg.attach_min, cfg.tx_depth.max(1));
        let mem = Memory::new(cfg.rx_budget, io.port().rx_memory());
        let draws = |n| Secret([secret.0[0] ^ n, secret.0[1]]);
        Ok(Stack {
            own_scale: engine.own_scale(),
            engine,
            slab,
            small: HeapRxPool::new(cfg.copy_below.max(1) as usize, cfg.small_bufs),
            secret,
            flows: Flows::new(secret.0, cfg.time_wait, cfg.time_wait_max, TIMERS_A_TURN),
            listeners: Listeners::default(),
            host,
            link: Link::new(),
            errors: Limiter::new(1000, 200),
            datagrams: Datagrams::default(),
            paths: Paths::default(),
            c: Counters::default(),
            icmp: Limiter::new(100, 50),
            challenges: Budget::new(cfg.challenge_acks, draws(1)),
            resets: Budget::new(cfg.resets, draws(2)),
            cookies: Cookies::new(draws(3)),
            frags: Vec::with_capacity(64),
            now: 0,
            mem,
            uplink: Uplink { up: io.port().link_up(), blocked: false, stuck: 0, full_bursts: 0 },
            siblings: Siblings::new(io.port().caps().steering.clone()),
            rx: Some(Box::default()),
            io,
            cfg,
        })
    }

    /// Changes the keep-alive of connections: of idle ones that had none once they hear or send something.
    pub fn set_keepalive(&mut self, keepalive: Option<KeepAlive>) {
        self.cfg.keepalive = keepalive;
    }

    /// Accepts connections to a port. They appear as [`Event::Opened`].
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn listen(&mut self, l: Listen) -> Result<(), ListenError> {
        let addr = Addr::from(l.addr);
        if !l.addr.is_unspecified() && !self.host.owns(&addr) {
            return Err(ListenError::NotOurs(l.addr));
        }
        if !self.listeners.add(addr, l.port, l.backlog) {
            return Err(ListenError::Port(l.port));
        }
        Ok(())
    }

    /// Accepts no more connections to a port that [`Stack::listen`] named. Those that are half-open go on: whoever is told of
    /// one looks whether it is still listened for ([`Stack::listens_for`]).
    pub fn unlisten(&mut self, addr: std::net::IpAddr, port: u16) {
        self.listeners.remove(Addr::from(addr), port);
    }

    /// Whether somebody listens for connections to this end.
    pub fn listens_for(&self, local: std::net::SocketAddr) -> bool {
        self.listeners.for_end(Addr::from(local.ip()), local.port(), local.is_ipv6()).is_some()
    }

    /// One round: receive, act on what came, timers, emit, send.
    pub fn turn(&mut self, now: u64) -> Work {
        match (self.poll(now), self.flush(now)) {
            (Work::Busy(a), Work::Busy(b)) => Work::Busy(a.saturating_add(b)),
            (Work::Idle, w) | (w, Work::Idle) => w,
        }
    }

    /// The first half of a round: receive, act on what came, timers. Answers given before [`Stack::flush`] leave
    /// with it, and carry the acknowledgement of what they answer.
    pub fn poll(&mut self, now: u64) -> Work {
        self.set_now(now);
        self.look_at_link();
        let mut n = self.io.port().home().drain() as u32 + self.small.home().drain() as u32;
        let (link, mut around) = self.link();
        link.announce(&mut around);
        n += self.receive();
        if self.uplink.full_bursts.is_multiple_of(BURSTS_BEFORE_TIMERS) {
            n += self.run_timers(TIMERS_A_TURN);
        }
        if n == 0 { Work::Idle } else { Work::Busy(n) }
    }

    /// The second half of a round: emit and send.
    pub fn flush(&mut self, now: u64) -> Work {
        self.set_now(now);
        self.feed_starved();
        self.wake_resolved();
        let mut n = self.serve_all();
        if self.datagrams.is_used() {
            n += self.serve_datagrams();
        }
        // A connection that was served may have asked for a neighbour.
        self.poll_neighbours();
        if self.io.queued() > 0 {
            n += self.io.transmit();
        }
        // Packets that wait for the port or the link are no work: a caller that waits for quiet would wait for ever.
        self.uplink.blocked = n == 0 && self.waits();
        self.c.port_stalls += u64::from(self.uplink.blocked);
        if n == 0 { Work::Idle } else { Work::Busy(n) }
    }

    fn receive(&mut self) -> u32 {
        let mut rx = self.rx.take().unwrap_or_default();
        self.io.receive(&mut rx);
        let n = rx.len();
        self.c.rx_polls += 1;
        self.c.rx_empty_polls += u64::from(n == 0);
        self.c.rx_full_bursts += u64::from(n == RX_BURST);
        self.uplink.full_bursts = if n == RX_BURST { self.uplink.full_bursts + 1 } else { 0 };
        for p in rx.drain(..) {
            self.ingress(p);
        }
        self.rx = Some(rx);
        if n > 0 {
            self.mem.refresh(self.io.port().rx_memory());
        }
        n as u32
    }

    /// Whether something waits to be sent.
    fn waits(&self) -> bool {
        self.flows.dirty() > 0 || self.io.queued() > 0 || !self.datagrams.out.is_empty()
    }

    /// Time at which the next turn is due (ns) if no packet comes; `None` for never.
    pub fn deadline(&self) -> Option<u64> {
        let waits = self.waits();
        if waits && !self.uplink.blocked {
            return Some(self.now);
        }
        let retry = waits.then(|| self.retry_at());
        let share = Some(self.mem.next()).filter(|_| self.flows.starved() > 0);
        let own = [retry, share].into_iter();
        own.chain(self.link.deadlines()).chain(self.flows.deadlines()).flatten().min()
    }

    /// The next event.
    pub fn event(&mut self) -> Option<Event> {
        self.flows.event()
    }

    /// Appends header bytes (copied, at most [`HDR_MAX`]) and payload (by reference) to what is to be sent.
    /// Returns the offset of the end.
    ///
    /// # Errors
    /// [`PushError`]; nothing was accepted then.
    pub fn push(&mut self, id: FlowId, hdr: &[u8], pay: &[Lent]) -> Result<Pos, PushError> {
        if hdr.len() > HDR_MAX {
            return Err(PushError::HeaderTooLong(hdr.len()));
        }
        let least = self.cfg.backlog;
        let f = self.flows.get_mut(id).ok_or(PushError::NotOpen)?;
        if !f.may_push() {
            return Err(PushError::NotOpen);
        }
        let backlog = f.backlog();
        // The bytes that are always allowed are asked for first: the rest takes a look at the congestion window.
        if backlog >= least {
            let limit = f.backlog_max(least);
            if backlog >= limit {
                self.c.push_refused += 1;
                return Err(PushError::Full { backlog, limit });
            }
        }
        let end = f.push(hdr, pay);
        self.flows.mark(id.slot());
        Ok(end)
    }

    /// The next received bytes, in order. The window stays as it is until they are credited.
    #[inline]
    pub fn next(&mut self, id: FlowId) -> Option<RxFrag> {
        let f = self.flows.get_mut(id)?;
        let r = f.pop();
        if r.is_some() && !f.is_unread() && f.phase() == Phase::Closed {
            self.end(id.slot(), CloseWhy::Fin);
        }
        r
    }

    /// Whether received bytes, in order, are unread.
    pub fn unread(&self, id: FlowId) -> bool {
        self.flows.get(id).is_some_and(Flow::is_unread)
    }

    /// Gives `bytes` that were read back to the window; more than was read counts as what was.
    pub fn credit(&mut self, id: FlowId, bytes: u32) {
        let window = self.engine.rx_window();
        let (now, step) = (self.now, u64::from(self.io.mss(false)));
        let Some(f) = self.flows.get_mut(id) else { return };
        if f.credit(bytes, window, step, now) {
            self.flows.mark(id.slot());
        }
    }

    /// Whether [`Stack::event`] has something.
    pub fn has_events(&self) -> bool {
        self.flows.has_events() || self.datagrams.has_news()
    }

    /// Counts of the stack.
    pub fn counters(&self) -> Counters {
        Counters { neighbour_held: self.link.neighbours().held(), ..self.c }
    }

    /// Connections that are not over.
    pub fn flows(&self) -> u32 {
        self.flows.live()
    }

    /// TIME-WAIT entries.
    pub fn time_waits(&self) -> usize {
        self.flows.time_waits()
    }

    /// The router that announced itself and is used for IPv6 at `now` (ns), where no gateway is configured.
    pub fn router(&self, now: u64) -> Option<std::net::IpAddr> {
        self.host.router(now)
    }

    /// Another station that has an IP address of ours: told when one is seen first, and once a minute while that goes
    /// on. The counters `arp_duplicate_address` and `nd_duplicate_address` have every packet.
    #[inline]
    pub fn duplicate_address(&mut self) -> Option<Duplicate> {
        self.link.duplicate()
    }

    /// The port.
    pub fn port(&self) -> &P {
        self.io.port()
    }

    /// The port, for what the stack does not do with it (faults, link state). Not to receive or send.
    pub fn port_mut(&mut self) -> &mut P {
        self.io.port_mut()
    }

    /// Buffers that small payloads are copied into: (bytes in use, bytes in all).
    pub fn small_memory(&self) -> (u64, u64) {
        let size = self.small.buf_size() as u64;
        (self.small.out() as u64 * size, self.small.max() as u64 * size)
    }

    /// Received fragments that applications hold, of the port's buffers and of the small ones.
    pub fn lent_out(&self) -> u64 {
        (self.io.port().home().lent_out() + self.small.home().lent_out()) as u64
    }

    /// Whether the address is one of this stack's.
    pub fn owns(&self, ip: std::net::IpAddr) -> bool {
        self.host.owns(&Addr::from(ip))
    }

    /// Whether somebody listens on `port`, on any address.
    pub fn listens(&self, port: u16) -> bool {
        self.listeners.has(port)
    }

    /// The slab that lendings come from.
    pub fn slab(&self) -> &LendSlab {
        &self.slab
    }

    /// Asks the driver to let go of sent buffers.
    pub fn reclaim(&mut self, want: u32) -> Reclaimed {
        self.io.port_mut().reclaim(want)
    }

    /// Sends one harmless frame (an announcement of our address), for drivers that free only when something is sent.
    pub fn nudge(&mut self) {
        let (_, mut around) = self.link();
        Link::announce_once(&mut around);
        self.io.send();
    }

    /// Packets built and not yet taken by the port.
    pub fn tx_waiting(&self) -> usize {
        self.io.queued()
    }

    /// Drops the packets that the port has not taken, so that their pages come home: TCP sends again what is still wanted of them.
    pub fn drop_waiting(&mut self) {
        self.c.tx_unsent += self.io.drop_queued() as u64;
    }

    /// Most payload of one segment over IPv4, in bytes.
    pub fn mss(&self) -> u16 {
        self.io.mss(false)
    }

    /// Way of the port's packets to this stack's queue and to the others.
    pub fn steering(&self) -> &Steering {
        self.siblings.steering()
    }

    /// Shows the packets that pass to `tap`, or to nobody any more. Returns whom they were shown to so far.
    pub fn tap(&mut self, tap: Option<Box<TapEnd>>) -> Option<Box<TapEnd>> {
        self.io.tap(tap)
    }

    // ---- connections as they are seen from outside ----

    /// Counts of a connection; `None` when it is over.
    pub fn flow_counters(&self, id: FlowId) -> Option<FlowCounters> {
        self.flows.get(id).map(|f| f.counters(&self.cfg))
    }

    /// Names of the state of a connection's loss recovery ([`crate::recover`]) and of its congestion control.
    /// `None` when it is over.
    pub fn flow_recovery(&self, id: FlowId) -> Option<(&'static str, &'static str)> {
        self.flows.get(id).map(Flow::names)
    }

    /// Memory that a connection occupies, in bytes: its state, smoltcp's socket, its queues and its share of the
    /// tables. Lent pages and receive buffers are not counted. `None` when it is over.
    pub fn flow_memory(&self, id: FlowId) -> Option<usize> {
        let socket = size_of::<smoltcp::socket::tcp::Socket<'static>>();
        self.flows.get(id).map(|f| f.memory() + socket + Flows::BYTES)
    }

    /// A connection, as of the last turn; `None` when it is over.
    pub fn connection(&self, id: FlowId) -> Option<ConnStats> {
        self.flows.get(id).map(|f| f.conn_stats(self.now, &self.cfg, self.io.port().caps().mtu))
    }

    /// The connections in `count` slots from `first` on (see [`FlowId::slot`]), as of the last turn. Slots are
    /// numbered from 0 to [`Stack::slots`], so the whole table can be walked in pieces; a connection that lives
    /// through the walk is met once.
    pub fn connections(&self, first: u32, count: u32) -> impl Iterator<Item = (FlowId, ConnStats)> + '_ {
        let mtu = self.io.port().caps().mtu;
        self.flows.range(first, count).map(move |(id, f)| (id, f.conn_stats(self.now, &self.cfg, mtu)))
    }

    /// Slots of the table of connections, those in use and those once used.
    pub fn slots(&self) -> u32 {
        self.flows.slots()
    }

    // ---- within ----

    #[inline]
    fn set_now(&mut self, now: u64) {
        self.now = now.max(self.now);
        self.io.set_now(self.now);
    }

    /// The link, and the stack as far as it needs it.
    #[inline]
    fn link(&mut self) -> (&mut Link, Around<'_, P>) {
        let Stack { now, link, host, io, siblings, c, .. } = self;
        (link, Around { now: *now, host, io, siblings, c })
    }

    /// Adds a connection; returns its slot.
    fn add_flow(&mut self, mut f: Box<Flow>) -> u32 {
        if let Some((mtu, until)) = self.paths.get(&f.key().remote, self.now) {
            f.path_told(mtu, until);
        }
        f.join(&mut self.mem);
        self.flows.add(f)
    }
}

const _: () = assert!(HDR == 20);
