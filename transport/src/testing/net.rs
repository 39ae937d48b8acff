//! Nodes on a simulated network: virtual time, byte pipes with latency, kills and restarts.
//!
//! The pipes are TCP seen from above: ordered, lossless, acknowledged one latency after delivery. Pages are released
//! by the rule of the transmit path: TCP has acknowledged past their end and the hold is lifted, or the connection
//! is dead; and the NIC has let go. Everything that a machine asks for is checked against its contract.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use hugepages::HeapRxPool;

pub use self::dgram::Weather;
use self::ends::EndEvent;
pub use self::pipe::{Cut, Inbox};
use self::pipe::{End, Link};
use super::rng::Rng;
use crate::lnd::tunables::Change;
use crate::lnd::{AppId, Config};
use crate::lnet::{Event, Op, RoutingAsk, RoutingView, ShardMsg};
use crate::node::{CopyJob, Input, Machine, Output};
use crate::stream::{
    Action, Close, CloseWhy, ConnId, ConnInfo, DgramError, DialError, DialId, DialSpec, Happened, LendId,
    Pages, Path, ShardId,
};

mod dgram;
mod ends;
mod homes;
mod listening;
mod lives;
mod loss;
mod nis;
mod pipe;
mod raw;
mod unplugged;

/// One second in ns.
pub const SEC: u64 = 1_000_000_000;

/// Highest port that only root may bind.
const LAST_PRIVILEGED: u16 = 1023;

/// The NIC's view of a message: it keeps the pages until it lets go, so nobody can write into them before.
struct NoCopy(#[expect(dead_code, reason = "held, never looked at")] Pages);

struct Lend {
    conn: (usize, usize),
    end: u64,
    hold: bool,
    /// The NIC lets go then, in ns.
    nic_until: u64,
    /// Only the NIC is waited for, and an event will say when it has let go.
    asked: bool,
    pages: NoCopy,
}

/// Cookies that a set of connections has used, and those of its connections that carried them.
#[derive(Default)]
struct Cookies {
    used: HashSet<u64>,
    on: Vec<(usize, usize)>,
}

enum Ev {
    /// With the life of the process that dialled: a later one knows nothing of it.
    Connect(usize, DialSpec, u32),
    Opened(usize, usize, Option<DialId>),
    DialFailed(usize, DialId, DialError, u32),
    Data(usize, usize, Vec<u8>),
    Read(usize, usize),
    Ack(usize, usize, u64),
    Fin(usize, usize),
    Closed(usize, usize, CloseWhy),
    /// Pages of an end may be free now.
    Look(usize, usize),
    /// With the life of the process, as above.
    Shard(usize, ShardId, Box<ShardMsg>, u32),
    /// A copy job that somebody has run; the same.
    JobDone(usize, CopyJob, u32),
    Datagram(usize, Path, Vec<u8>),
    Undelivered(usize, Path, DgramError, u32),
    /// The NIC has let go of a datagram.
    Left(usize, LendId, NoCopy, u32),
}

/// A node: a machine and what the runtime keeps for it.
pub struct Node {
    /// The machine.
    pub machine: Machine,
    /// Events that the applications heard, with the time.
    pub events: Vec<(u64, AppId, Event)>,
    /// Receive buffers.
    pub pool: HeapRxPool,
    /// Still running.
    pub alive: bool,
    /// SYNs to it are refused.
    pub deaf: bool,
    /// SYNs to it are lost.
    pub mute: bool,
    /// Its machine is given no bytes: what comes waits in the receive buffers. See [`Net::resume`].
    pub paused: bool,
    /// Messages that the machine has sent to other shards of its node.
    pub mailed: u64,
    ip: IpAddr,
    lends: BTreeMap<LendId, Lend>,
    next_port: u16,
    life: u32,
    /// The deadline of the machine that the network has noted.
    timer: Option<u64>,
}

impl Node {
    fn source_port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = if port == 512 { LAST_PRIVILEGED } else { port - 1 };
        port
    }
}

/// A connection that is lost once so many bytes have come to one of its ends.
#[derive(Clone, Copy, Debug)]
pub struct CutAt {
    /// The connection, in the order they were made.
    pub link: usize,
    /// The end that the bytes come to: 0 is the one that dialled.
    pub end: usize,
    /// Bytes that still come.
    pub at: u64,
    /// Way in which it is lost.
    pub how: Cut,
}

/// The network.
pub struct Net {
    /// Virtual time in ns.
    pub now: u64,
    /// One way, in ns.
    pub latency: u64,
    /// Bytes a receive buffer holds at most.
    pub chunk: usize,
    /// Receive buffers of a node that is added.
    pub buffers: usize,
    /// The TCP of raw ends acknowledges what it gets.
    pub raw_acks: bool,
    /// Time that a raw end needs to send 4 KiB, in ns; 0: whatever it says leaves at once.
    pub raw_pace: u64,
    /// Bytes for an end that its machine has closed are acknowledged and dropped, as by our own TCP; else reset, as by a kernel's.
    pub discards: bool,
    /// Hand each receive buffer to the machine by itself.
    pub piecemeal: bool,
    /// Bytes that may be on their way to an end, or wait there, in each direction.
    pub window: u64,
    /// Longest time that a NIC keeps pages that it has sent, in ns, and the randomness for it.
    pub nic_hold: Option<(Rng, u64)>,
    /// Longest time that a copy job is out, in ns, and the randomness for it.
    pub box_time: Option<(Rng, u64)>,
    /// Time of a dial that nobody answers, in ns.
    pub syn_timeout: u64,
    /// Packets that are lost, in percent, and the randomness for it.
    pub loss: Option<(Rng, u64)>,
    /// Faults of datagrams.
    pub weather: Weather,
    /// Keep what each end pushes.
    pub record: bool,
    /// A connection to be lost.
    pub cut_at: Option<CutAt>,
    /// Events so far.
    pub steps: u64,
    /// Connections that machines have reset.
    pub resets: u64,
    /// The node that the last event was for.
    pub last: Option<usize>,
    /// Connections with a raw end at which something happened, where somebody wants them.
    pub raw_seen: Option<Vec<usize>>,
    /// The nodes.
    pub nodes: Vec<Node>,
    links: Vec<Link>,
    raw_listeners: Vec<IpAddr>,
    /// Addresses at which nobody answers, not even with a RST.
    silent_at: Vec<IpAddr>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    evs: HashMap<u64, Ev>,
    serial: u64,
    timers: BinaryHeap<Reverse<(u64, usize)>>,
    by_ip: HashMap<IpAddr, usize>,
    /// Nodes of the addresses that protocols listen at, or have listened at.
    listens: HashMap<SocketAddr, Option<usize>>,
    /// Time in ns, node and target of each dial, where somebody wants to know.
    pub dialled: Option<Vec<(u64, usize, SocketAddr)>>,
    /// Addresses that are lost, and what dials to them or from them come to.
    unplugged: HashMap<IpAddr, DialError>,
    /// Cookies by node, peer and network.
    cookies: HashMap<(usize, IpAddr, SocketAddr, Option<u16>), Cookies>,
}

/// A machine's name for the end of a link.
fn conn_id(link: usize, end: usize) -> ConnId {
    ConnId { shard: ShardId(0), index: link as u32, generation: end as u32 }
}

impl Net {
    /// An empty network with 50 us latency and 1448-byte buffers.
    pub fn new() -> Net {
        Net {
            now: SEC,
            latency: 50_000,
            chunk: 1448,
            buffers: 1 << 16,
            raw_acks: true,
            raw_pace: 0,
            discards: false,
            piecemeal: false,
            window: u64::MAX / 4,
            nic_hold: None,
            box_time: None,
            syn_timeout: 20 * SEC,
            loss: None,
            weather: Weather::fair(),
            record: true,
            cut_at: None,
            steps: 0,
            resets: 0,
            last: None,
            raw_seen: None,
            nodes: Vec::new(),
            links: Vec::new(),
            raw_listeners: Vec::new(),
            silent_at: Vec::new(),
            queue: BinaryHeap::new(),
            evs: HashMap::new(),
            serial: 0,
            timers: BinaryHeap::new(),
            by_ip: HashMap::new(),
            listens: HashMap::new(),
            dialled: None,
            unplugged: HashMap::new(),
            cookies: HashMap::new(),
        }
    }

    /// Adds a node.
    pub fn add(&mut self, cfg: Config) -> usize {
        let ip = cfg.nid().ip().unwrap_or(IpAddr::from([0; 4]));
        for ip in cfg.nids().filter_map(crate::wire::Nid::ip) {
            self.by_ip.entry(ip).or_insert(self.nodes.len());
        }
        self.nodes.push(Node {
            machine: Machine::new(cfg),
            events: Vec::new(),
            pool: HeapRxPool::new(self.chunk.max(64), self.buffers),
            alive: true,
            deaf: false,
            mute: false,
            paused: false,
            mailed: 0,
            ip,
            lends: BTreeMap::new(),
            next_port: LAST_PRIVILEGED,
            life: 0,
            timer: None,
        });
        // One with routes asks their gateways.
        self.note_timer(self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn at(&mut self, delay: u64, ev: Ev) {
        self.serial += 1;
        self.queue.push(Reverse((self.now + delay, self.serial)));
        self.evs.insert(self.serial, ev);
    }

    /// Gives a node an operation, as application 0.
    pub fn op(&mut self, node: usize, op: Op) {
        self.input(node, Input::Cmd(AppId::FIRST, op));
    }

    /// Changes a tunable of a node that runs.
    pub fn tune(&mut self, node: usize, change: &Change) {
        self.nodes[node].machine.tune(self.now, change);
        self.drain(node);
    }

    /// SYNs to that address are lost.
    pub fn mute(&mut self, ip: IpAddr) {
        self.silent_at.push(ip);
    }

    /// Gives a node an order about routing, or just looks.
    pub fn routing(&mut self, node: usize, ask: Option<RoutingAsk>) -> RoutingView {
        let view = self.nodes[node].machine.routing(self.now, ask);
        self.drain(node);
        view
    }

    /// Events that a node's applications have heard since the last call.
    pub fn take_events(&mut self, node: usize) -> Vec<Event> {
        self.nodes[node].events.drain(..).map(|(_, _, e)| e).collect()
    }

    /// Number of connections so far.
    pub fn links(&self) -> usize {
        self.links.len()
    }

    fn link(&mut self, a: usize, a_addr: SocketAddr, b: usize, b_addr: SocketAddr) -> usize {
        self.links.push(Link {
            ends: [End::new(a, a_addr), End::new(b, b_addr)],
            silent: false,
            resets: false,
            lost: [false; 2],
            network: None,
        });
        self.links.len() - 1
    }

    /// Runs until nothing happens before `until`, in ns, or `stop` says so.
    pub fn run_until(&mut self, until: u64, mut stop: impl FnMut(&Net) -> bool) {
        let mut steps = 0u64;
        while !stop(self) && self.step_before(until) {
            steps += 1;
            assert!(steps < 50_000_000, "the network does not come to rest");
        }
    }

    /// Lets the next thing happen; `false`, with the time at `until`, when there is none before that.
    pub fn step_before(&mut self, until: u64) -> bool {
        let next_ev = self.queue.peek().map(|Reverse((t, _))| *t).filter(|t| *t <= until);
        let next_timer = self.next_timer().filter(|(t, _)| *t <= until);
        match (next_ev, next_timer) {
            (Some(t), timer) if timer.is_none_or(|(tt, _)| t <= tt) => {
                self.now = self.now.max(t);
                let Some(Reverse((_, serial))) = self.queue.pop() else { return false };
                self.last = None;
                if let Some(ev) = self.evs.remove(&serial) {
                    self.steps += 1;
                    self.step(ev);
                }
                true
            }
            (_, Some((t, i))) => {
                self.timers.pop();
                self.nodes[i].timer = None;
                self.now = self.now.max(t);
                self.steps += 1;
                self.last = Some(i);
                self.input(i, Input::Timer);
                true
            }
            _ => {
                self.now = self.now.max(until);
                false
            }
        }
    }

    /// Runs for `ns`.
    pub fn run(&mut self, ns: u64) {
        self.run_until(self.now + ns, |_| false);
    }

    /// Nothing is out at a node: no cookie, lend, credit, operation, queued message or copy job, no receive buffer.
    pub fn assert_at_rest(&self, node: usize) {
        let m = &self.nodes[node].machine;
        assert_eq!(m.waiting(), m.waiting_recounted(), "node {node}");
        let g = self.nodes[node].machine.gauges();
        let held = g.held + g.on_their_way;
        let out = (g.cookies, g.lends, g.credits_used, g.ops, g.queued, held, g.copy_jobs);
        assert_eq!(out, (0, 0, 0, 0, 0, 0, 0), "node {node}: {g:?}");
        let home = self.nodes[node].pool.home();
        while home.drain() > 0 {}
        assert_eq!(home.lent_out(), 0, "node {node} holds receive buffers");
    }

    /// Nothing is out at any node ([`Net::assert_at_rest`]).
    pub fn assert_quiet(&self) {
        (0..self.nodes.len()).for_each(|node| self.assert_at_rest(node));
    }

    /// The next deadline of a machine that lives, and whose it is.
    fn next_timer(&mut self) -> Option<(u64, usize)> {
        while let Some(Reverse((t, i))) = self.timers.peek().copied() {
            let n = &self.nodes[i];
            if n.alive && n.timer == Some(t) && n.machine.deadline() == Some(t) {
                return Some((t, i));
            }
            self.timers.pop();
            if self.nodes[i].timer == Some(t) {
                self.nodes[i].timer = None;
                self.note_timer(i);
            }
        }
        None
    }

    /// Notes a machine's deadline after it was given an input.
    fn note_timer(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        let deadline = n.machine.deadline();
        if n.alive && deadline != n.timer {
            n.timer = deadline;
            self.timers.extend(deadline.map(|t| Reverse((t, node))));
        }
    }

    fn step(&mut self, ev: Ev) {
        self.last = match &ev {
            Ev::Connect(node, ..)
            | Ev::DialFailed(node, ..)
            | Ev::Shard(node, ..)
            | Ev::JobDone(node, ..)
            | Ev::Datagram(node, ..)
            | Ev::Undelivered(node, ..)
            | Ev::Left(node, ..) => Some(*node),
            Ev::Opened(link, end, _)
            | Ev::Data(link, end, _)
            | Ev::Read(link, end)
            | Ev::Ack(link, end, _)
            | Ev::Fin(link, end)
            | Ev::Closed(link, end, _)
            | Ev::Look(link, end) => Some(self.links[*link][*end].node).filter(|n| *n != usize::MAX),
        };
        if let Some(seen) = &mut self.raw_seen
            && let Ev::Opened(link, ..)
            | Ev::Data(link, ..)
            | Ev::Ack(link, ..)
            | Ev::Fin(link, ..)
            | Ev::Closed(link, ..) = &ev
            && self.links[*link].ends.iter().any(|e| e.node == usize::MAX)
        {
            seen.push(*link);
        }
        match ev {
            Ev::Connect(from, spec, life) => self.connect(from, spec, life),
            Ev::Opened(link, end, dial) => {
                let e = &self.links[link];
                if let (true, Some(id)) = (e.silent, dial) {
                    let node = e[end].node;
                    if e[end].closed() {
                        // Whoever dialled has died meanwhile.
                        return;
                    }
                    let life = self.nodes[node].life;
                    return self.at(self.syn_timeout, Ev::DialFailed(node, id, DialError::TimedOut, life));
                }
                let info = ConnInfo { local: e[end].addr, remote: e[1 - end].addr, dial };
                self.input_at(link, end, Input::Stream(Happened::Opened(conn_id(link, end), info)));
            }
            Ev::DialFailed(node, id, why, life) => {
                if self.nodes[node].life == life {
                    self.input(node, Input::Stream(Happened::DialFailed(id, why)));
                }
            }
            Ev::Data(link, end, bytes) => self.data(link, end, bytes),
            Ev::Read(link, end) => self.offer(link, end),
            Ev::Ack(link, end, acked) => self.ack(link, end, acked),
            Ev::Fin(link, end) => self.fin(link, end),
            Ev::Closed(link, end, why) => {
                if why == CloseWhy::Local || !self.links[link].silent || self.links[link].resets {
                    self.closed(link, end, why);
                }
            }
            Ev::Look(link, end) => self.look_for_releases(self.links[link][end].node, (link, end)),
            Ev::Shard(node, from, msg, life) => {
                if self.nodes[node].life == life {
                    self.input(node, Input::From(from, *msg));
                }
            }
            Ev::Datagram(node, path, bytes) => self.datagram(node, path, &bytes),
            Ev::Undelivered(node, path, why, life) => {
                if self.nodes[node].life == life {
                    self.input(node, Input::Stream(Happened::Undelivered(path, why)));
                }
            }
            Ev::Left(node, lend, pages, life) => {
                drop(pages);
                if self.nodes[node].life == life {
                    self.input(node, Input::Stream(Happened::Released(lend)));
                }
            }
            Ev::JobDone(node, mut b, life) => {
                if self.nodes[node].life == life {
                    while !b.run(1) {}
                    // To the home of today.
                    let m = &self.nodes[node].machine;
                    let first = node - usize::from(m.config().shards.me.0);
                    self.input(first + usize::from(m.home_of(b.bucket()).0), Input::JobDone(b));
                }
            }
        }
    }

    fn connect(&mut self, from: usize, spec: DialSpec, life: u32) {
        if self.nodes[from].life != life {
            return;
        }
        let lost = |ip: &IpAddr| self.unplugged.get(ip).copied();
        if let Some(why) = lost(&spec.remote.ip()).or_else(|| lost(&spec.local_ip)) {
            let delay = if why == DialError::Refused { self.latency } else { self.syn_timeout };
            return self.at(delay, Ev::DialFailed(from, spec.id, why, life));
        }
        if self.raw_listeners.contains(&spec.remote.ip()) {
            let local = SocketAddr::new(spec.local_ip, self.nodes[from].source_port());
            let link = self.link(from, local, usize::MAX, spec.remote);
            let delay = self.latency + self.lost_syns();
            return self.at(delay, Ev::Opened(link, 0, Some(spec.id)));
        }
        let first = self.by_ip.get(&spec.remote.ip()).copied();
        let Some(first) = first.filter(|n| self.hears(*n, spec.remote)) else {
            let mute =
                first.is_some_and(|n| self.nodes[n].mute) || self.silent_at.contains(&spec.remote.ip());
            let (delay, why) = if mute {
                (self.syn_timeout, DialError::TimedOut)
            } else {
                (self.latency, DialError::Refused)
            };
            return self.at(delay, Ev::DialFailed(from, spec.id, why, life));
        };
        let node = self.listener(spec.remote).unwrap_or_else(|| self.home(first, spec.local_ip));
        let port = self.nodes[from].source_port();
        // Another range, so that it is seen who is not root.
        let port = if spec.privileged { port } else { port + 40_000 };
        let link = self.link(from, SocketAddr::new(spec.local_ip, port), node, spec.remote);
        self.at(0, Ev::Opened(link, 1, None));
        self.at(self.latency, Ev::Opened(link, 0, Some(spec.id)));
    }

    /// Loses the connection requests that are on their way: answered by RSTs, or by nobody.
    pub fn cut_dials(&mut self, rst: bool) {
        let dials: Vec<u64> =
            self.evs.iter().filter_map(|(k, e)| matches!(e, Ev::Connect(..)).then_some(*k)).collect();
        for serial in dials {
            let Some(Ev::Connect(node, spec, life)) = self.evs.remove(&serial) else { continue };
            let (delay, why) = if rst {
                (self.latency, DialError::Refused)
            } else {
                (self.syn_timeout, DialError::TimedOut)
            };
            self.at(delay, Ev::DialFailed(node, spec.id, why, life));
        }
    }

    fn input_at(&mut self, link: usize, end: usize, input: Input<'_>) {
        let e = &self.links[link][end];
        if e.node != usize::MAX && !e.closed() && self.nodes[e.node].alive {
            self.input(e.node, input);
        }
    }

    /// Gives a node's machine an input and does what it says.
    pub fn input(&mut self, node: usize, input: Input<'_>) {
        self.nodes[node].machine.handle(self.now, input);
        self.drain(node);
    }

    /// Gives back the pages of an end that nobody needs any more: TCP has acknowledged them and the hold is lifted,
    /// or the connection is dead; and the NIC has let go.
    fn look_for_releases(&mut self, node: usize, at: (usize, usize)) {
        if node == usize::MAX {
            return;
        }
        let e = &self.links[at.0][at.1];
        let (acked, dead, now) = (e.acked, e.dead(), self.now);
        let (mut free, mut later) = (Vec::new(), Vec::new());
        for (id, l) in self.nodes[node].lends.iter_mut().filter(|(_, l)| l.conn == at) {
            if !dead && (l.end > acked || l.hold) {
                continue;
            }
            if l.nic_until <= now {
                free.push(*id);
            } else if !std::mem::replace(&mut l.asked, true) {
                later.push(l.nic_until - now);
            }
        }
        for delay in later {
            self.at(delay, Ev::Look(at.0, at.1));
        }
        for id in free {
            // Gone before the machine hears of it: whoever is told may write into the pages.
            if let Some(l) = self.nodes[node].lends.remove(&id) {
                drop(l.pages);
                self.input(node, Input::Stream(Happened::Released(id)));
            }
        }
    }

    /// Checks the cookie of a message that asks for a zero-copy ACK: none is used twice by one set of connections.
    fn cookie(&mut self, node: usize, (link, end): (usize, usize), hdr: &[u8]) {
        let to = self.links[link][1 - end].addr;
        // A set is of one pair of NIDs: one address may be of several networks.
        let at = if to.port() > LAST_PRIVILEGED { to } else { SocketAddr::new(to.ip(), 0) };
        let key = (node, self.links[link][end].addr.ip(), at, self.links[link].network);
        let Cookies { used, on } = self.cookies.entry(key).or_default();
        let open = |(l, e): &(usize, usize)| !self.links[*l][*e].closed();
        if !on.iter().any(open) {
            used.clear();
            on.clear();
        }
        if !on.contains(&(link, end)) {
            on.push((link, end));
        }
        let word = hdr[8..16].try_into().map(u64::from_le_bytes).unwrap_or_default();
        assert!(word > 1 && used.insert(word), "cookie {word} is used twice by node {node}");
    }

    fn drain(&mut self, node: usize) {
        while let Some(out) = self.nodes[node].machine.poll() {
            let end_of = |c: ConnId| (c.index as usize, c.generation as usize);
            match out {
                Output::Stream(Action::Dial(spec)) => {
                    self.dialled.iter_mut().for_each(|d| d.push((self.now, node, spec.remote)));
                    let life = self.nodes[node].life;
                    self.at(self.latency, Ev::Connect(node, spec, life));
                }
                Output::Stream(Action::Send(c, msg)) => self.push(node, end_of(c), msg),
                Output::Stream(Action::Unhold(_, id)) => {
                    if let Some(l) = self.nodes[node].lends.get_mut(&id) {
                        l.hold = false;
                        let (link, end) = l.conn;
                        self.at(0, Ev::Look(link, end));
                    }
                }
                Output::Stream(Action::Read(c)) => {
                    let (link, end) = end_of(c);
                    self.at(0, Ev::Read(link, end));
                }
                Output::Stream(Action::Datagram(path, msg)) => self.send_datagram(node, path, msg),
                Output::Stream(Action::Close(c, how)) => {
                    let (link, end) = end_of(c);
                    assert!(!self.links[link][end].closed(), "closed twice");
                    self.links[link][end].moves(EndEvent::Close);
                    self.at(0, Ev::Closed(link, end, CloseWhy::Local));
                    match how {
                        Close::Fin => self.close_in_order(link, end),
                        Close::Abort => {
                            self.resets += 1;
                            self.links[link][end].backlog.clear();
                            self.reset(link, 1 - end);
                        }
                    }
                }
                Output::Stream(Action::Listen(at) | Action::Bind(at)) => {
                    let done = Happened::Listening(at, self.listen(node, at));
                    self.nodes[node].machine.handle(self.now, Input::Stream(done));
                }
                Output::Stream(Action::Unlisten(at)) => self.unlisten(node, at),
                Output::Complete(app, e) => self.nodes[node].events.push((self.now, app, e)),
                Output::Offer(b) => {
                    let delay = self.box_time.as_mut().map_or(1000, |(rng, most)| rng.below(*most));
                    let life = self.nodes[node].life;
                    self.at(delay, Ev::JobDone(node, b, life));
                }
                Output::To(to, msg) => {
                    // Shards of one node are added one behind the other, the first as shard 0.
                    let me = self.nodes[node].machine.config().shards.me;
                    let other = node - usize::from(me.0) + usize::from(to.0);
                    let life = self.nodes[other].life;
                    self.nodes[node].mailed += 1;
                    self.at(1000, Ev::Shard(other, me, Box::new(msg), life));
                }
            }
        }
        self.note_timer(node);
    }
}

impl Default for Net {
    fn default() -> Net {
        Net::new()
    }
}
