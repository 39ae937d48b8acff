//! Nodes on a simulated network: virtual time, byte pipes with latency, kills and restarts.
//!
//! The pipes are TCP seen from above: ordered, lossless, acknowledged one latency after delivery. Pages are released
//! by the rule of the transmit path: TCP has acknowledged past their end and the hold is lifted, or the connection
//! is dead. Everything that a machine asks for is checked against its contract.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use hugepages::{HeapRxPool, RxFrag};

use crate::proto::{
    AppId, Close, CloseWhy, Config, ConnId, ConnInfo, DialError, DialId, DialSpec, Event, Input, LendId,
    Machine, Op, Output, Progress, SendMsg, ShardId, ShardMsg, StreamRx,
};

/// One second in ns.
pub const SEC: u64 = 1_000_000_000;

/// Bytes that arrive at once.
const SEGMENT: usize = 32 << 10;

/// Received bytes of one end, as the machine sees them.
#[derive(Default)]
pub struct Inbox {
    frags: VecDeque<RxFrag>,
    /// Bytes that the machine has taken.
    pub taken: u64,
}

impl StreamRx for Inbox {
    fn next(&mut self) -> Option<RxFrag> {
        let f = self.frags.pop_front()?;
        self.taken += u64::from(f.len());
        Some(f)
    }

    fn unread(&mut self, rest: RxFrag) {
        self.taken -= u64::from(rest.len());
        self.frags.push_front(rest);
    }
}

#[derive(Default)]
struct Lend {
    conn: Option<(usize, usize)>,
    end: u64,
    hold: bool,
}

/// One end of a connection.
struct End {
    node: usize,
    addr: SocketAddr,
    inbox: Inbox,
    pushed: u64,
    acked: u64,
    /// When the last byte pushed has left, in ns.
    leaves: u64,
    fin: bool,
    closed: bool,
    /// Bytes pushed, for tests that look at the wire.
    record: Vec<u8>,
}

enum Ev {
    /// With the life of the process that dialled: a later one knows nothing of it.
    Connect(usize, DialSpec, u32),
    Opened(usize, usize, Option<DialId>),
    Refused(usize, DialId, u32),
    Data(usize, usize, Vec<u8>),
    Ack(usize, usize, u64),
    Fin(usize, usize),
    Closed(usize, usize, CloseWhy),
    Shard(usize, ShardId, Box<ShardMsg>),
}

/// A node: a machine and what the runtime keeps for it.
pub struct Node {
    /// The machine.
    pub machine: Machine,
    /// What the applications heard, with the time.
    pub events: Vec<(u64, AppId, Event)>,
    /// Receive buffers.
    pub pool: HeapRxPool,
    /// Still running.
    pub alive: bool,
    /// SYNs to it are refused.
    pub deaf: bool,
    ip: IpAddr,
    lends: BTreeMap<LendId, Lend>,
    next_port: u16,
    life: u32,
}

/// The network.
pub struct Net {
    /// Virtual time in ns.
    pub now: u64,
    /// One way, in ns.
    pub latency: u64,
    /// Bytes a receive buffer holds at most.
    pub chunk: usize,
    /// The TCP of raw ends acknowledges what it gets.
    pub raw_acks: bool,
    /// Hand each receive buffer to the machine by itself.
    pub piecemeal: bool,
    /// The nodes.
    pub nodes: Vec<Node>,
    links: Vec<[End; 2]>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    evs: HashMap<u64, Ev>,
    serial: u64,
}

/// Where a machine's connection is.
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
            raw_acks: true,
            piecemeal: false,
            nodes: Vec::new(),
            links: Vec::new(),
            queue: BinaryHeap::new(),
            evs: HashMap::new(),
            serial: 0,
        }
    }

    /// Adds a node.
    pub fn add(&mut self, cfg: Config) -> usize {
        let ip = cfg.nid.ip().unwrap_or(IpAddr::from([0; 4]));
        self.nodes.push(Node {
            machine: Machine::new(cfg),
            events: Vec::new(),
            pool: HeapRxPool::new(self.chunk.max(64), 1 << 16),
            alive: true,
            deaf: false,
            ip,
            lends: BTreeMap::new(),
            next_port: 1023,
            life: 0,
        });
        self.nodes.len() - 1
    }

    fn at(&mut self, delay: u64, ev: Ev) {
        self.serial += 1;
        self.queue.push(Reverse((self.now + delay, self.serial)));
        self.evs.insert(self.serial, ev);
    }

    /// Gives a node an operation, as application 0.
    pub fn op(&mut self, node: usize, op: Op) {
        self.input(node, Input::Cmd(AppId(0), op));
    }

    /// What a node's applications have heard since the last call.
    pub fn take_events(&mut self, node: usize) -> Vec<Event> {
        self.nodes[node].events.drain(..).map(|(_, _, e)| e).collect()
    }

    /// Ends a node's process. Its peers get RSTs if `rst`, else silence.
    pub fn kill(&mut self, node: usize, rst: bool) {
        self.nodes[node].alive = false;
        self.nodes[node].life += 1;
        self.nodes[node].lends.clear();
        for link in 0..self.links.len() {
            for end in 0..2 {
                if self.links[link][end].node == node && !self.links[link][end].closed {
                    self.links[link][end].closed = true;
                    self.links[link][end].inbox.frags.clear();
                    if rst {
                        self.at(self.latency, Ev::Closed(link, 1 - end, CloseWhy::Reset));
                    }
                }
            }
        }
    }

    /// Starts a killed node again, with another incarnation.
    pub fn restart(&mut self, node: usize, cfg: Config) {
        self.nodes[node].machine = Machine::new(cfg);
        self.nodes[node].alive = true;
    }

    /// Sends raw bytes to `node` over a new connection from `from`; gives the connection's number.
    pub fn raw_connect(&mut self, from: SocketAddr, node: usize) -> usize {
        let to = SocketAddr::new(self.nodes[node].ip, 988);
        let link = self.link(usize::MAX, from, node, to);
        self.at(0, Ev::Opened(link, 1, None));
        link
    }

    /// Sends bytes on a connection made with [`Net::raw_connect`].
    pub fn raw_send(&mut self, link: usize, bytes: &[u8]) {
        self.at(self.latency, Ev::Data(link, 1, bytes.to_vec()));
    }

    /// The TCP of the raw side acknowledges all that it was sent so far.
    pub fn raw_ack(&mut self, link: usize) {
        let pushed = self.links[link][1].pushed;
        self.links[link][1].acked = pushed;
        self.at(self.latency, Ev::Ack(link, 1, pushed));
    }

    /// Ends the raw side of a connection with FIN.
    pub fn raw_fin(&mut self, link: usize) {
        self.at(self.latency, Ev::Fin(link, 1));
    }

    /// What a machine has written on a connection, and whether it has closed it.
    pub fn wire(&self, link: usize, end: usize) -> (&[u8], bool) {
        let e = &self.links[link][end];
        (&e.record, e.closed)
    }

    /// Number of connections so far.
    pub fn links(&self) -> usize {
        self.links.len()
    }

    fn link(&mut self, a: usize, a_addr: SocketAddr, b: usize, b_addr: SocketAddr) -> usize {
        let end = |node, addr| End {
            node,
            addr,
            inbox: Inbox::default(),
            pushed: 0,
            acked: 0,
            leaves: 0,
            fin: false,
            closed: false,
            record: Vec::new(),
        };
        self.links.push([end(a, a_addr), end(b, b_addr)]);
        self.links.len() - 1
    }

    /// Runs until nothing happens before `until`, in ns, or `stop` says so.
    pub fn run_until(&mut self, until: u64, mut stop: impl FnMut(&Net) -> bool) {
        let mut steps = 0u64;
        while !stop(self) {
            let next_ev = self.queue.peek().map(|Reverse((t, _))| *t);
            let live = |n: &Node| n.alive.then(|| n.machine.deadline()).flatten();
            let next_timer = self
                .nodes
                .iter()
                .enumerate()
                .filter_map(|(i, n)| Some((live(n)?, i)))
                .min()
                .filter(|(t, _)| *t <= until);
            match (next_ev.filter(|t| *t <= until), next_timer) {
                (Some(t), timer) if timer.is_none_or(|(tt, _)| t <= tt) => {
                    self.now = self.now.max(t);
                    let Some(Reverse((_, serial))) = self.queue.pop() else { break };
                    if let Some(ev) = self.evs.remove(&serial) {
                        self.step(ev);
                    }
                }
                (_, Some((t, i))) => {
                    self.now = self.now.max(t);
                    self.input(i, Input::Timer);
                }
                _ => {
                    self.now = self.now.max(until);
                    break;
                }
            }
            steps += 1;
            assert!(steps < 50_000_000, "the network does not come to rest");
        }
    }

    /// Runs for `ns`.
    pub fn run(&mut self, ns: u64) {
        self.run_until(self.now + ns, |_| false);
    }

    fn step(&mut self, ev: Ev) {
        match ev {
            Ev::Connect(from, spec, life) => {
                if self.nodes[from].life != life {
                    return;
                }
                let node = self.nodes.iter().position(|n| n.ip == spec.remote.ip() && n.alive && !n.deaf);
                let Some(first) = node else {
                    return self.at(self.latency, Ev::Refused(from, spec.id, life));
                };
                let shards = self.nodes[first].machine.config().shards;
                let node = first + usize::from(shards.home_of(spec.local_ip).0);
                let port = self.nodes[from].next_port;
                self.nodes[from].next_port = if port == 512 { 1023 } else { port - 1 };
                let link = self.link(from, SocketAddr::new(spec.local_ip, port), node, spec.remote);
                self.at(0, Ev::Opened(link, 1, None));
                self.at(self.latency, Ev::Opened(link, 0, Some(spec.id)));
            }
            Ev::Opened(link, end, dial) => {
                let e = &self.links[link];
                let info = ConnInfo { local: e[end].addr, remote: e[1 - end].addr, dial };
                self.input_at(link, end, Input::Opened(conn_id(link, end), info));
            }
            Ev::Refused(node, id, life) => {
                if self.nodes[node].life == life {
                    self.input(node, Input::DialFailed(id, DialError::Refused));
                }
            }
            Ev::Data(link, end, bytes) => {
                if self.links[link][end].closed {
                    return;
                }
                let node = self.links[link][end].node;
                if node == usize::MAX && !self.raw_acks {
                    return;
                }
                for part in bytes.chunks(self.chunk).filter(|_| node != usize::MAX) {
                    let frag =
                        self.nodes[node].pool.copy_of(part).expect("a buffer for every byte in flight");
                    self.links[link][end].inbox.frags.push_back(frag);
                    if self.piecemeal {
                        self.offer(link, end);
                    }
                }
                self.offer(link, end);
                let pos = self.links[link][1 - end].acked + bytes.len() as u64;
                self.links[link][1 - end].acked = pos;
                self.at(self.latency, Ev::Ack(link, 1 - end, pos));
            }
            Ev::Ack(link, end, acked) => {
                let sent = self.links[link][end].pushed;
                self.input_at(link, end, Input::Progress(conn_id(link, end), Progress { acked, sent }));
                let node = self.links[link][end].node;
                self.release(node, |l| l.conn == Some((link, end)) && l.end <= acked && !l.hold);
            }
            Ev::Fin(link, end) => {
                self.links[link][end].fin = true;
                self.offer(link, end);
            }
            Ev::Closed(link, end, why) => {
                if !std::mem::replace(&mut self.links[link][end].closed, true) || why == CloseWhy::Local {
                    self.links[link][end].inbox.frags.clear();
                    let node = self.links[link][end].node;
                    if node != usize::MAX && self.nodes[node].alive {
                        self.input(node, Input::Closed(conn_id(link, end), why));
                        self.release(node, |l| l.conn == Some((link, end)));
                    }
                }
            }
            Ev::Shard(node, from, msg) => self.input(node, Input::From(from, *msg)),
        }
    }

    /// Gives a machine the bytes of a connection, and its end.
    fn offer(&mut self, link: usize, end: usize) {
        let e = &mut self.links[link][end];
        if e.closed || e.node == usize::MAX || !self.nodes[e.node].alive {
            return;
        }
        let (node, id) = (e.node, conn_id(link, end));
        if !e.inbox.frags.is_empty() {
            let mut inbox = std::mem::take(&mut e.inbox);
            self.nodes[node].machine.handle(self.now, Input::Bytes(id, &mut inbox));
            self.links[link][end].inbox = inbox;
            self.drain(node);
        }
        let e = &self.links[link][end];
        if e.fin && e.inbox.frags.is_empty() && !e.closed {
            self.input(node, Input::PeerFin(id));
        }
    }

    fn input_at(&mut self, link: usize, end: usize, input: Input<'_>) {
        let e = &self.links[link][end];
        if e.node != usize::MAX && !e.closed && self.nodes[e.node].alive {
            self.input(e.node, input);
        }
    }

    /// Gives a node's machine an input and does what it says.
    pub fn input(&mut self, node: usize, input: Input<'_>) {
        self.nodes[node].machine.handle(self.now, input);
        self.drain(node);
    }

    fn release(&mut self, node: usize, which: impl Fn(&Lend) -> bool) {
        if node == usize::MAX {
            return;
        }
        let ids: Vec<LendId> =
            self.nodes[node].lends.iter().filter(|(_, l)| which(l)).map(|(id, _)| *id).collect();
        for id in ids {
            self.nodes[node].lends.remove(&id);
            self.input(node, Input::Released(id));
        }
    }

    fn drain(&mut self, node: usize) {
        while let Some(out) = self.nodes[node].machine.poll() {
            let end_of = |c: ConnId| (c.index as usize, c.generation as usize);
            match out {
                Output::Dial(spec) => {
                    let life = self.nodes[node].life;
                    self.at(self.latency, Ev::Connect(node, spec, life));
                }
                Output::Send(c, msg) => self.push(node, end_of(c), msg),
                Output::Unhold(_, id) => {
                    if let Some(l) = self.nodes[node].lends.get_mut(&id) {
                        l.hold = false;
                        let at = l.conn;
                        if let Some((link, end)) = at
                            && l.end <= self.links[link][end].acked
                        {
                            let acked = self.links[link][end].acked;
                            self.at(0, Ev::Ack(link, end, acked));
                        }
                    }
                }
                Output::Read(c) => {
                    let (link, end) = end_of(c);
                    self.at(0, Ev::Data(link, end, Vec::new()));
                }
                Output::Close(c, how) => {
                    let (link, end) = end_of(c);
                    assert!(!self.links[link][end].closed, "closed twice");
                    self.links[link][end].closed = true;
                    self.at(0, Ev::Closed(link, end, CloseWhy::Local));
                    match how {
                        Close::Fin => {
                            let left = self.links[link][end].leaves.saturating_sub(self.now);
                            self.at(left + self.latency, Ev::Fin(link, 1 - end));
                        }
                        Close::Abort => self.at(self.latency, Ev::Closed(link, 1 - end, CloseWhy::Reset)),
                    }
                }
                Output::Complete(app, e) => self.nodes[node].events.push((self.now, app, e)),
                Output::To(to, msg) => {
                    // Shards of one node are added one behind the other, the first as shard 0.
                    let me = self.nodes[node].machine.config().shards.me;
                    let other = node - usize::from(me.0) + usize::from(to.0);
                    self.at(1000, Ev::Shard(other, me, Box::new(msg)));
                }
            }
        }
    }

    fn push(&mut self, node: usize, (link, end): (usize, usize), msg: SendMsg) {
        assert_eq!(msg.lend.is_none(), msg.pay.is_empty(), "pages without a lend, or a lend without pages");
        assert!(!msg.hold || msg.lend.is_some());
        let e = &mut self.links[link][end];
        assert!(!e.closed, "a push after the close");
        let mut bytes = msg.hdr.to_vec();
        for p in &msg.pay {
            bytes.extend_from_slice(p.bytes());
        }
        assert!(e.pushed - e.acked < self.nodes[node].machine.config().tx_window, "the window is not kept");
        e.pushed += bytes.len() as u64;
        e.record.extend_from_slice(&bytes);
        let pushed = e.pushed;
        if let Some(id) = msg.lend {
            let lend = Lend { conn: Some((link, end)), end: pushed, hold: msg.hold };
            assert!(self.nodes[node].lends.insert(id, lend).is_none(), "a lend's name was used twice");
        }
        let acked = self.links[link][end].acked;
        // Transmitted at once: the position is known before any answer can be.
        let id = conn_id(link, end);
        self.nodes[node].machine.handle(self.now, Input::Progress(id, Progress { acked, sent: pushed }));
        // Segments follow one another at 100 Gb/s, so that messages of several connections overlap.
        for segment in bytes.chunks(SEGMENT) {
            let e = &mut self.links[link][end];
            e.leaves = e.leaves.max(self.now) + segment.len() as u64 * 8 / 100;
            let delay = e.leaves - self.now + self.latency;
            self.at(delay, Ev::Data(link, 1 - end, segment.to_vec()));
        }
    }
}

impl Default for Net {
    fn default() -> Net {
        Net::new()
    }
}
