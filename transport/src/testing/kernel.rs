//! A Lustre kernel's socklnd on the simulated network, as docs/protocol/socklnd.md describes it (§2.6, §2.7, §3, §4,
//! §13): a model with a state of its own, which shares the wire formats with our machine and nothing else.
//!
//! A peer must live with this behaviour: it counts the refusals of a NID and forgets them only when a dial of its own
//! succeeds; from the third on, one that finds a message waiting is the kernel's panic (field report L1). Once it has an
//! address for a NID it dials what its set lacks beside our dials. It ends a duplicate of its own with FIN, and what
//! came on that is lost without a trace. It says NONE to a lower NID while it connects, to a changed incarnation or
//! version (after closing the set), and to more of a type than it would open itself. It leaves with FIN what it has read
//! and with RST what it has not. A RST on a connection goes unnoticed until that is used.

pub mod across;
mod discover;
mod hear;
pub mod hosts;
pub mod lnet;
pub mod router;
pub mod selftest;
mod state;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use fsm::Fsm;

use self::discover::Known;
use self::state::{Move, State};
use super::net::{Cut, Net, SEC};
use super::rng::Rng;
use crate::wire::{
    AcceptorReq, ByteOrder, ConnType, Hello, KsockHdr, KsockType, LnetBody, LnetHdr, Nid, ProcessId, Version,
    WireHandle, ping,
};

/// Refusals from which on one that finds a message waiting is a panic.
const REFUSALS: u32 = 3;
/// Until a refused dial is tried again, in ns.
const RETRY: u64 = SEC;
/// Until an answer to a HELLO, or a queued message, is given up, in ns.
const TIMEOUT: u64 = 50 * SEC;
/// Until a request and a HELLO are given up that do not come, in ns.
const ACCEPT_TIMEOUT: u64 = 5 * SEC;
/// Payload from which on an ACK is asked for, and a message goes over BULK_OUT, in bytes.
const ZC_MIN: usize = 16_384;
const MIN_BULK: usize = 1024;
/// Portal at which our side has a sink, and a source.
const SINK: u32 = 5;

/// Lets the next thing happen to the net or to one of these kernels, which look at links whose ends are `of` them; `false`, with
/// the time at `until`, when there is none before that.
fn step<K>(
    kernels: &mut BTreeMap<K, Kernel>,
    net: &mut Net,
    until: u64,
    of: impl Fn(&Kernel, &[IpAddr]) -> bool,
) -> bool {
    let due = kernels.values().filter_map(Kernel::next_due).min();
    let at = due.map_or(until, |d| d.min(until)).max(net.now);
    let went = net.step_before(at);
    if !went {
        kernels.values_mut().for_each(|k| k.fire(net));
    }
    let seen = net.raw_seen.as_mut().map(std::mem::take).unwrap_or_default();
    for link in seen {
        let ends = net.addresses(link).map(|a| a.ip());
        kernels.values_mut().filter(|k| of(k, &ends)).for_each(|k| k.look(net));
    }
    went || at < until
}

/// Setup of a kernel.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// Its NID: of several the one that this model stands for.
    pub nid: Nid,
    /// All NIDs of its node, the primary one first; none for that one alone.
    pub nids: Vec<Nid>,
    /// The NID that it speaks with, where that is not the node's primary one.
    pub peer: Option<Nid>,
    /// The newest version that it speaks: its `protocol`.
    pub version: Version,
    /// Connections of each type.
    pub conns_per_peer: usize,
    /// Its incarnation.
    pub incarnation: u64,
    /// It asks its peer who it is before the first PUT, and tells it who it is itself.
    pub discovery: bool,
}

/// Orders of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelCmd {
    /// `lctl ping`.
    Ping,
    /// A PUT of so many bytes that wants an ACK.
    Put(usize),
}

/// An operation of its user.
#[derive(Clone, Debug)]
pub struct KernelOp {
    /// The `hdr_data` of a PUT, and the handle of either.
    pub tag: u64,
    /// The order.
    pub ask: KernelCmd,
    /// Asked for while every connection that it knew of was alive.
    pub fair: bool,
    /// Its end.
    pub end: Option<bool>,
    asked: u64,
}

impl KernelOp {
    /// Time at which it was asked for, in ns.
    pub fn asked(&self) -> u64 {
        self.asked
    }
}

/// A message on its way to us.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The connection, the stream position of its end, and the message.
    pub link: usize,
    /// Bytes to its end.
    pub end: u64,
    /// Its header.
    pub body: LnetBody,
    /// Time at which our TCP had all of it, in ns.
    pub received: Option<u64>,
}

/// Counts of what it saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// NONEs that it was told for a race or a duplicate.
    pub nones: u64,
    /// NONEs that it was told for its version.
    pub version_nones: u64,
    /// Answers of another incarnation or version than the set's.
    pub stale: u64,
    /// Dials of its own that succeeded.
    pub dials: u64,
    /// Duplicates of its own that it ended.
    pub duplicates: u64,
    /// NONEs that it said.
    pub refused: u64,
    /// Sets that it closed since the peer had ended one of it.
    pub sets_ended: u64,
    /// Sets that it closed for what the peer did wrong.
    pub sets_wrong: u64,
    /// Messages lost since they came on what it had closed.
    pub lost: u64,
    /// Pushes of its own, and those that we acknowledged.
    pub pushes: u64,
    /// See above.
    pub pushes_acked: u64,
    /// Pushes of ours that it took.
    pub pushes_taken: u64,
}

#[derive(Debug)]
struct Conn {
    link: usize,
    state: Fsm<State>,
    ctype: ConnType,
    version: Version,
    dialled: bool,
    /// Bytes taken off the network, those of them that wait, and bytes sent.
    seen: usize,
    buf: Vec<u8>,
    sent: u64,
    /// A RST that it has not noticed.
    dead: bool,
    since: u64,
    /// Not read on, since, for want of a buffer for this portal and service.
    stalled: Option<(u64, (u32, u64))>,
}

#[derive(Debug)]
struct Out {
    /// Its destination, where that is another than the peer.
    to: Option<Nid>,
    body: LnetBody,
    payload: Vec<u8>,
    since: u64,
    token: u64,
}

/// Events for the LNet above.
#[derive(Debug)]
pub(crate) enum Up {
    /// A message has come.
    Came(LnetHdr, Vec<u8>),
    /// A message of this name has left for good, or not.
    Ended(u64, bool),
}

/// An LNet above, in place of the few answers that this model gives by itself.
#[derive(Debug, Default)]
pub(crate) struct Above {
    pub(crate) ups: Vec<Up>,
    /// Portals and services that have buffers.
    pub(crate) posted: BTreeSet<(u32, u64)>,
}

/// Knowledge of the NID that it speaks with.
#[derive(Debug, Default)]
struct Peer {
    /// It has an address to dial.
    route: bool,
    refusals: u32,
    agreed: Option<(Version, u64)>,
    /// The version to dial with next, which a refusal asked for.
    wanted: Option<Version>,
    connecting: Option<ConnType>,
    retry_at: u64,
    queue: VecDeque<Out>,
    /// With the names of their messages.
    cookies: BTreeMap<u64, u64>,
    next_cookie: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// The SYN arrives.
    Syn,
    /// The SYN-ACK has come: request and HELLO leave.
    Shake(usize),
    /// A thread gets to a HELLO of ours.
    Accept(usize),
    Retry,
    Look,
}

/// A kernel that speaks with one node of the network.
pub struct Kernel {
    cfg: KernelConfig,
    rng: Rng,
    node: usize,
    them: Nid,
    peer: Peer,
    conns: Vec<Conn>,
    due: BinaryHeap<std::cmp::Reverse<(u64, Due)>>,
    links: usize,
    port: u16,
    next: u64,
    known: Known,
    /// PUTs of its user that wait until it knows its peer.
    held: Vec<Out>,
    /// Features that its peer last told.
    features: u32,
    /// Operations of its user.
    pub ops: Vec<KernelOp>,
    /// Messages that it sent us.
    pub sent: Vec<Sent>,
    /// PUTs of ours that it took, by `hdr_data`.
    pub taken: Vec<u64>,
    /// Counts of what it saw.
    pub seen: Seen,
    /// Print what it does.
    pub verbose: bool,
    above: Option<Above>,
    /// Headers of messages that it forwards, by their names.
    routed: BTreeMap<u64, LnetHdr>,
}

/// The NID that a node has on the network of a kernel's.
fn on_net_of(net: &Net, node: usize, nid: Nid) -> Nid {
    let cfg = net.nodes[node].machine.config();
    cfg.nids().find(|n| n.same_net(nid)).unwrap_or(cfg.nid())
}

impl Kernel {
    /// A kernel that listens, and whose only peer is the node at this place of the network.
    pub fn new(net: &mut Net, cfg: KernelConfig, node: usize, seed: u64) -> Kernel {
        net.raw_listen(cfg.nid.ip().unwrap_or([0, 0, 0, 0].into()));
        Kernel {
            them: cfg.peer.unwrap_or_else(|| on_net_of(net, node, cfg.nid)),
            rng: Rng(seed),
            cfg,
            node,
            peer: Peer::default(),
            conns: Vec::new(),
            due: BinaryHeap::new(),
            links: net.links(),
            port: 1023,
            next: 1 << 20,
            known: Known::No,
            held: Vec::new(),
            features: 0,
            ops: Vec::new(),
            sent: Vec::new(),
            taken: Vec::new(),
            seen: Seen::default(),
            verbose: std::env::var("TRACE").is_ok(),
            above: None,
            routed: BTreeMap::new(),
        }
    }

    /// It ends: what it had open is reset, or nobody hears of it.
    pub fn end(&mut self, net: &mut Net, cut: Cut) {
        for c in self.conns.iter().filter(|c| c.state != State::Closed) {
            net.cut(c.link, cut);
        }
    }

    fn tell(&mut self, up: Up) {
        if let Some(a) = &mut self.above {
            a.ups.push(up);
        }
    }

    /// Lets the network and the kernel go on until then, in ns.
    pub fn run_until(&mut self, net: &mut Net, until: u64) {
        loop {
            let at = self.due.peek().map_or(until, |d| d.0.0.min(until));
            while net.now <= at && net.step_before(at) {
                self.look(net);
                if self.due.peek().is_some_and(|d| d.0.0 < at) {
                    break;
                }
            }
            while self.due.peek().is_some_and(|d| d.0.0 <= net.now) {
                if let Some(std::cmp::Reverse((_, due))) = self.due.pop() {
                    self.timer(net, due);
                }
            }
            if net.now >= until {
                return;
            }
        }
    }

    /// Takes what has come while another model ran the network.
    pub fn catch_up(&mut self, net: &mut Net) {
        self.look(net);
        while self.due.peek().is_some_and(|d| d.0.0 <= net.now) {
            if let Some(std::cmp::Reverse((_, due))) = self.due.pop() {
                self.timer(net, due);
            }
        }
    }

    /// Its TCP has found out that its peer is out of reach: its set ends.
    pub fn loses_peer(&mut self, net: &mut Net) {
        self.look(net);
        self.end_set(net, "the peer is out of reach");
    }

    /// Takes an order of its user.
    pub fn ask(&mut self, net: &mut Net, ask: KernelCmd) {
        self.next += 1;
        let tag = self.next;
        let handle = WireHandle { interface: self.cfg.incarnation, object: tag };
        let (body, payload) = match ask {
            KernelCmd::Ping => {
                let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
                (LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: 3960 }, Vec::new())
            }
            KernelCmd::Put(len) => {
                let (match_bits, portal) = (5, SINK);
                let body = LnetBody::Put { ack: handle, match_bits, hdr_data: tag, portal, offset: 0 };
                (body, vec![tag as u8; len])
            }
        };
        // One that waits for discovery shares the fate of what was asked before.
        let known = matches!(self.known, Known::No | Known::Yes);
        let fair =
            known && self.conns.iter().all(|c| c.state == State::Closed || !(c.dead || self.gone(net, c)));
        self.ops.push(KernelOp { tag, ask, fair, end: None, asked: net.now });
        self.at(net.now + TIMEOUT + SEC, Due::Look);
        self.peer.route = true;
        if matches!(ask, KernelCmd::Put(_)) && self.discovers(net, body, &payload) {
            return;
        }
        self.launch(net, body, payload, 0);
    }

    /// Features that its peer last told it, by an answer or a push.
    pub fn features(&self) -> u32 {
        self.features
    }

    /// Connections of its that are up.
    pub fn up(&self) -> usize {
        self.conns.iter().filter(|c| c.state == State::Up).count()
    }

    /// A dial of its own is under way.
    pub fn dialling(&self) -> bool {
        self.peer.connecting.is_some()
    }

    fn gone(&self, net: &Net, c: &Conn) -> bool {
        let end = usize::from(c.dialled);
        net.wire(c.link, end).1 && c.state != State::Closed
    }

    fn say(&self, net: &Net, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:.6} kernel: {}", net.now as f64 * 1e-9, what());
        }
    }

    fn at(&mut self, when: u64, due: Due) {
        self.due.push(std::cmp::Reverse((when, due)));
    }

    /// A thread of the kernel needs so long until it gets to something.
    fn soon(&mut self) -> u64 {
        self.rng.below(1_500_000)
    }

    // ---- sending

    /// Sends a message on the connection that fits best, or queues it; dials what is missing either way.
    fn launch(&mut self, net: &mut Net, body: LnetBody, payload: Vec<u8>, token: u64) {
        self.launch_to(net, None, body, payload, token);
    }

    /// The same for one that the peer is to pass on, where a destination is given.
    fn launch_to(&mut self, net: &mut Net, to: Option<Nid>, body: LnetBody, payload: Vec<u8>, token: u64) {
        self.connect(net);
        let since = net.now;
        let out = Out { to, body, payload, since, token };
        match self.choose(out.payload.len()) {
            Some(n) => self.send(net, n, &out),
            None if self.peer.route || self.peer.connecting.is_some() => self.peer.queue.push_back(out),
            None => self.failed(&body, token),
        }
    }

    fn choose(&mut self, len: usize) -> Option<usize> {
        let bulk = len + 96 >= MIN_BULK;
        let fit = |c: &Conn| match (c.ctype, c.version >= Version::V3) {
            (ConnType::Any, false) => 2,
            (ConnType::Control, _) => 2 - i32::from(bulk),
            (ConnType::BulkOut, _) => 1 + i32::from(bulk),
            (ConnType::BulkIn, false) => 1,
            _ => 0,
        };
        let best = self.conns.iter().filter(|c| c.state == State::Up).map(fit).max().filter(|f| *f > 0)?;
        let all: Vec<usize> = (0..self.conns.len())
            .filter(|n| self.conns[*n].state == State::Up && fit(&self.conns[*n]) == best)
            .collect();
        Some(self.rng.pick(&all))
    }

    fn send(&mut self, net: &mut Net, n: usize, out: &Out) {
        let Out { to, body, token, .. } = *out;
        let (dest, payload) = (to.unwrap_or(self.them), &out.payload[..]);
        if self.conns[n].dead {
            // It finds out by using it: the message is lost with the set.
            self.failed(&body, token);
            return self.end_set(net, "a connection is dead");
        }
        let version = self.conns[n].version;
        let mut cookie0 = 0;
        if version >= Version::V2 && payload.len() >= ZC_MIN {
            self.peer.next_cookie = self.peer.next_cookie.max(2);
            cookie0 = self.peer.next_cookie;
            self.peer.next_cookie += 1;
            self.peer.cookies.insert(cookie0, token);
        }
        let hdr = LnetHdr {
            dest_nid: dest,
            src_nid: self.cfg.nid,
            dest_pid: ProcessId::lustre(dest).pid,
            src_pid: ProcessId::lustre(self.cfg.nid).pid,
            payload_len: payload.len() as u32,
            body,
        };
        let hdr = self.routed.remove(&token).unwrap_or(hdr);
        let mut bytes = Vec::new();
        if version.has_ksock() {
            let k = KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0, cookie1: 0 };
            bytes.extend(k.emit(ByteOrder::Little));
        }
        bytes.extend_from_slice(&hdr.emit_as(version));
        bytes.extend_from_slice(payload);
        self.say(net, || format!("sends {} on link {}", body.name(), self.conns[n].link));
        let end = self.write(net, n, &bytes);
        if self.above.is_none() {
            self.sent.push(Sent { link: self.conns[n].link, end, body, received: None });
        } else if cookie0 == 0 {
            self.tell(Up::Ended(token, true));
        }
    }

    /// A message of any header, on a connection that is up.
    fn raw(&mut self, net: &mut Net, hdr: LnetHdr, payload: &[u8]) {
        let Some(n) = self.choose(payload.len()) else { panic!("no connection is up") };
        let version = self.conns[n].version;
        let mut bytes = Vec::new();
        if version.has_ksock() {
            let k = KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0: 0, cookie1: 0 };
            bytes.extend(k.emit(ByteOrder::Little));
        }
        bytes.extend_from_slice(&hdr.emit_as(version));
        bytes.extend_from_slice(payload);
        self.write(net, n, &bytes);
    }

    fn write(&mut self, net: &mut Net, n: usize, bytes: &[u8]) -> u64 {
        net.raw_send(self.conns[n].link, bytes);
        self.conns[n].sent += bytes.len() as u64;
        self.conns[n].sent
    }

    fn failed(&mut self, body: &LnetBody, token: u64) {
        self.routed.remove(&token);
        self.tell(Up::Ended(token, false));
        let handle = match body {
            LnetBody::Get { handle, .. } | LnetBody::Put { ack: handle, .. } => *handle,
            LnetBody::Reply { .. } | LnetBody::Ack { .. } => return,
        };
        match self.known {
            Known::Asked(n, _) | Known::Pushed(n, _) if n == handle.object => self.undiscovered(),
            _ => self.ended(handle, false),
        }
    }

    fn ended(&mut self, handle: WireHandle, good: bool) {
        if let Some(op) = self.ops.iter_mut().find(|o| o.tag == handle.object && o.end.is_none()) {
            op.end = Some(good);
        }
    }

    fn flush(&mut self, net: &mut Net) {
        for _ in 0..self.peer.queue.len() {
            if let Some(m) = self.peer.queue.pop_front() {
                self.launch_to(net, m.to, m.body, m.payload, m.token);
            }
        }
    }

    fn fail_queue(&mut self) {
        for m in std::mem::take(&mut self.peer.queue) {
            self.failed(&m.body, m.token);
        }
    }

    // ---- dialling

    fn of(&self, ctype: ConnType) -> usize {
        self.conns.iter().filter(|c| c.state == State::Up && c.ctype == ctype).count()
    }

    fn missing(&self) -> Option<ConnType> {
        let (c, i, o) = (self.of(ConnType::Control), self.of(ConnType::BulkIn), self.of(ConnType::BulkOut));
        let want = self.cfg.conns_per_peer;
        // One untyped connection carries everything.
        if self.of(ConnType::Any) > 0 {
            None
        } else if c == 0 {
            Some(ConnType::Control)
        } else if i < want && i <= o {
            Some(ConnType::BulkIn)
        } else if o < want {
            Some(ConnType::BulkOut)
        } else {
            None
        }
    }

    fn connect(&mut self, net: &Net) {
        if !self.peer.route || self.peer.connecting.is_some() || net.now < self.peer.retry_at {
            return;
        }
        if let Some(ctype) = self.missing() {
            self.peer.connecting = Some(ctype);
            let when = net.now + net.latency + self.soon();
            self.at(when, Due::Syn);
        }
    }

    fn retry(&mut self, net: &mut Net, after: u64) {
        self.peer.connecting = None;
        self.peer.retry_at = net.now + after;
        self.at(net.now + after, Due::Retry);
    }

    /// A refusal: one more of the count that only its own success resets.
    fn refused(&mut self, net: &mut Net, why: &str, after: u64) {
        self.peer.refusals += 1;
        self.say(net, || format!("refused ({why}), {} in all", self.peer.refusals));
        let waits = self.peer.queue.iter().any(|m| matches!(m.body, LnetBody::Get { .. }));
        assert!(
            self.peer.refusals < REFUSALS || !waits,
            "the kernel panics: refusal {} ({why}) with a message waiting",
            self.peer.refusals
        );
        self.retry(net, after);
    }

    fn hello(&self, version: Version, ctype: ConnType, dst_nid: Nid) -> Hello {
        Hello {
            version,
            order: ByteOrder::Little,
            tcp_magic: false,
            src_nid: self.cfg.nid,
            dst_nid,
            src_pid: ProcessId::lustre(self.cfg.nid).pid,
            dst_pid: 0,
            src_incarnation: self.cfg.incarnation,
            dst_incarnation: 0,
            ctype,
            ips: Default::default(),
        }
    }

    fn timer(&mut self, net: &mut Net, due: Due) {
        match due {
            Due::Syn => {
                let target = &net.nodes[self.node];
                if !target.alive || target.deaf {
                    // Refused, or nobody there: what waits fails.
                    self.retry(net, RETRY);
                    return self.fail_queue();
                }
                self.port = if self.port == 512 { 1023 } else { self.port - 1 };
                let from = SocketAddr::new(self.cfg.nid.ip().unwrap_or([0, 0, 0, 0].into()), self.port);
                let at = SocketAddr::new(self.them.ip().unwrap_or([0, 0, 0, 0].into()), 988);
                // Of a node's shards the one that is home to this address gets it.
                let link = net.raw_connect_at(from, net.home(self.node, from.ip()), at);
                let Some(ctype) = self.peer.connecting else { return };
                let agreed = self.peer.agreed.map(|a| a.0).or(self.peer.wanted);
                let version = agreed.unwrap_or(self.cfg.version);
                self.conns.push(self.conn(net, link, Move::Connected, ctype, version));
                self.at(net.now + net.latency, Due::Shake(self.conns.len() - 1));
                self.at(net.now + TIMEOUT, Due::Look);
            }
            Due::Shake(n) => {
                let Conn { link, ctype, version, state, .. } = self.conns[n];
                if state == State::Reply {
                    let req = AcceptorReq::new(self.them);
                    let hello = self.hello(version, ctype, self.them).emit();
                    self.say(net, || format!("dials {ctype:?} {version:?}: link {link}"));
                    self.write(net, n, req.emit().get(..req.wire_len()).unwrap_or_default());
                    self.write(net, n, &hello);
                }
            }
            Due::Accept(n) => self.accept(net, n),
            Due::Retry => self.connect(net),
            Due::Look => self.look(net),
        }
    }

    fn conn(&self, net: &Net, link: usize, begins: Move, ctype: ConnType, version: Version) -> Conn {
        let mut state = Fsm::START;
        state.apply(begins);
        let dialled = begins == Move::Connected;
        let (seen, buf, sent, dead, since) = (0, Vec::new(), 0, false, net.now);
        Conn { link, state, ctype, version, dialled, seen, buf, sent, dead, since, stalled: None }
    }
}
