//! A Lustre kernel's socklnd on the simulated network, as docs/protocol/socklnd.md describes it (§2.6, §2.7, §3, §4,
//! §13): a model with a state of its own, which shares the wire formats with our machine and nothing else.
//!
//! What it does that a peer must live with: it counts the refusals of a NID and forgets them only when a dial of its own
//! succeeds; from the third on, one that finds a message waiting is the kernel's panic (field report L1). Once it has an
//! address for a NID it dials what its set lacks beside our dials. It ends a duplicate of its own with FIN, and what
//! came on that is lost without a trace. It says NONE to a lower NID while it connects, to a changed incarnation or
//! version (after closing the set), and to more of a type than it would open itself. It leaves with FIN what it has read
//! and with RST what it has not. A RST on a connection goes unnoticed until that is used.

use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;

use super::capture::{self, Msg};
use super::net::{Net, SEC};
use super::rng::Rng;
use crate::wire::{
    AcceptorReq, ByteOrder, ConnType, Hello, HelloStart, KsockHdr, KsockType, LnetBody, LnetHdr, Nid,
    PingInfo, ProcessId, Version, WireError, WireHandle, ping,
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
/// Where our side has a sink, and a source.
const SINK: u32 = 5;

/// How a kernel is set up.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// Its NID.
    pub nid: Nid,
    /// The newest version that it speaks: its `protocol`.
    pub version: Version,
    /// Connections of each type.
    pub conns_per_peer: usize,
    /// Its incarnation.
    pub incarnation: u64,
}

/// What its user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
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
    /// What.
    pub ask: Ask,
    /// Asked for while every connection that it knew of was alive.
    pub fair: bool,
    /// How it ended.
    pub end: Option<bool>,
    asked: u64,
}

impl KernelOp {
    /// When it was asked for, in ns.
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
    /// When our TCP had all of it, in ns.
    pub received: Option<u64>,
}

/// What it saw.
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Of ours: request, then HELLO.
    Request,
    Hello,
    /// Its own: connected, our answer is to come.
    Reply,
    Up,
    Closed,
}

#[derive(Debug)]
struct Conn {
    link: usize,
    state: State,
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
}

#[derive(Debug)]
struct Out {
    body: LnetBody,
    payload: Vec<u8>,
    since: u64,
}

/// What it knows of the NID that it speaks with.
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
    cookies: BTreeSet<u64>,
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
    /// What its user asked for.
    pub ops: Vec<KernelOp>,
    /// What it sent us.
    pub sent: Vec<Sent>,
    /// PUTs of ours that it took, by `hdr_data`.
    pub taken: Vec<u64>,
    /// What it saw.
    pub seen: Seen,
    /// Print what it does.
    pub verbose: bool,
}

impl Kernel {
    /// A kernel that listens, and whose only peer is the node at this place of the network.
    pub fn new(net: &mut Net, cfg: KernelConfig, node: usize, seed: u64) -> Kernel {
        net.raw_listen(cfg.nid.ip().unwrap_or([0, 0, 0, 0].into()));
        Kernel {
            them: net.nodes[node].machine.config().nid,
            rng: Rng(seed),
            cfg,
            node,
            peer: Peer::default(),
            conns: Vec::new(),
            due: BinaryHeap::new(),
            links: net.links(),
            port: 1023,
            next: 1 << 20,
            ops: Vec::new(),
            sent: Vec::new(),
            taken: Vec::new(),
            seen: Seen::default(),
            verbose: std::env::var("TRACE").is_ok(),
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

    /// What its user asks for.
    pub fn ask(&mut self, net: &mut Net, ask: Ask) {
        self.next += 1;
        let tag = self.next;
        let handle = WireHandle { interface: self.cfg.incarnation, object: tag };
        let (body, payload) = match ask {
            Ask::Ping => {
                let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
                (LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: 3960 }, Vec::new())
            }
            Ask::Put(len) => {
                let (match_bits, portal) = (5, SINK);
                let body = LnetBody::Put { ack: handle, match_bits, hdr_data: tag, portal, offset: 0 };
                (body, vec![tag as u8; len])
            }
        };
        let fair = self.conns.iter().all(|c| c.state == State::Closed || !(c.dead || self.gone(net, c)));
        self.ops.push(KernelOp { tag, ask, fair, end: None, asked: net.now });
        self.at(net.now + TIMEOUT + SEC, Due::Look);
        self.peer.route = true;
        self.launch(net, body, payload);
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
    fn launch(&mut self, net: &mut Net, body: LnetBody, payload: Vec<u8>) {
        self.connect(net);
        let Some(n) = self.choose(payload.len()) else {
            let since = net.now;
            if self.peer.route || self.peer.connecting.is_some() {
                return self.peer.queue.push_back(Out { body, payload, since });
            }
            return self.failed(&body);
        };
        self.send(net, n, body, &payload);
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

    fn send(&mut self, net: &mut Net, n: usize, body: LnetBody, payload: &[u8]) {
        if self.conns[n].dead {
            // It finds out by using it: the message is lost with the set.
            self.failed(&body);
            return self.end_set(net, "a connection is dead");
        }
        let version = self.conns[n].version;
        let mut cookie0 = 0;
        if version >= Version::V2 && payload.len() >= ZC_MIN {
            self.peer.next_cookie = self.peer.next_cookie.max(2);
            cookie0 = self.peer.next_cookie;
            self.peer.next_cookie += 1;
            self.peer.cookies.insert(cookie0);
        }
        let hdr = LnetHdr {
            dest_nid: self.them,
            src_nid: self.cfg.nid,
            dest_pid: ProcessId::lustre(self.them).pid,
            src_pid: ProcessId::lustre(self.cfg.nid).pid,
            payload_len: payload.len() as u32,
            body,
        };
        let mut bytes = Vec::new();
        if version.has_ksock() {
            let k = KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0, cookie1: 0 };
            bytes.extend(k.emit(ByteOrder::Little));
        }
        bytes.extend_from_slice(&hdr.emit_as(version));
        bytes.extend_from_slice(payload);
        self.say(net, || format!("sends {} on link {}", body.name(), self.conns[n].link));
        let end = self.write(net, n, &bytes);
        self.sent.push(Sent { link: self.conns[n].link, end, body, received: None });
    }

    fn write(&mut self, net: &mut Net, n: usize, bytes: &[u8]) -> u64 {
        net.raw_send(self.conns[n].link, bytes);
        self.conns[n].sent += bytes.len() as u64;
        self.conns[n].sent
    }

    fn failed(&mut self, body: &LnetBody) {
        let handle = match body {
            LnetBody::Get { handle, .. } | LnetBody::Put { ack: handle, .. } => *handle,
            LnetBody::Reply { .. } | LnetBody::Ack { .. } => return,
        };
        self.ended(handle, false);
    }

    fn ended(&mut self, handle: WireHandle, good: bool) {
        if let Some(op) = self.ops.iter_mut().find(|o| o.tag == handle.object && o.end.is_none()) {
            op.end = Some(good);
        }
    }

    fn flush(&mut self, net: &mut Net) {
        for _ in 0..self.peer.queue.len() {
            if let Some(m) = self.peer.queue.pop_front() {
                self.launch(net, m.body, m.payload);
            }
        }
    }

    fn fail_queue(&mut self) {
        for m in std::mem::take(&mut self.peer.queue) {
            self.failed(&m.body);
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
                let link = net.raw_connect(from, self.node);
                let Some(ctype) = self.peer.connecting else { return };
                let agreed = self.peer.agreed.map(|a| a.0).or(self.peer.wanted);
                let version = agreed.unwrap_or(self.cfg.version);
                self.conns.push(self.conn(net, link, State::Reply, ctype, version));
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

    fn conn(&self, net: &Net, link: usize, state: State, ctype: ConnType, version: Version) -> Conn {
        let dialled = state == State::Reply;
        let (seen, buf, sent, dead, since) = (0, Vec::new(), 0, false, net.now);
        Conn { link, state, ctype, version, dialled, seen, buf, sent, dead, since }
    }

    // ---- what comes

    /// Takes what has come since it last looked.
    fn look(&mut self, net: &mut Net) {
        for link in std::mem::replace(&mut self.links, net.links())..net.links() {
            let [from, to] = net.addresses(link);
            if Some(to.ip()) == self.cfg.nid.ip() && Some(from.ip()) == self.them.ip() {
                let c = self.conn(net, link, State::Request, ConnType::None, Version::V3);
                self.conns.push(c);
                self.at(net.now + ACCEPT_TIMEOUT, Due::Look);
            }
        }
        for n in 0..self.conns.len() {
            self.look_at(net, n);
        }
        let now = net.now;
        for s in self.sent.iter_mut().filter(|s| s.received.is_none()) {
            let dialled = self.conns.iter().any(|c| c.link == s.link && c.dialled);
            s.received = (net.arrived(s.link, usize::from(dialled)) >= s.end).then_some(now);
        }
        while self.peer.queue.front().is_some_and(|m| m.since + TIMEOUT <= now) {
            if let Some(m) = self.peer.queue.pop_front() {
                self.failed(&m.body);
            }
        }
        self.ops.iter_mut().filter(|o| o.end.is_none() && o.asked + TIMEOUT <= now).for_each(|o| {
            o.end = Some(false);
        });
    }

    fn look_at(&mut self, net: &mut Net, n: usize) {
        let Conn { link, dialled, seen, state, .. } = self.conns[n];
        let (ours, theirs) = (usize::from(!dialled), usize::from(dialled));
        let there = (net.arrived(link, ours) as usize).max(seen);
        if there > seen {
            let fresh = net.wire(link, theirs).0.get(seen..there).unwrap_or_default().to_vec();
            self.conns[n].seen = there;
            if state == State::Closed {
                self.seen.lost += 1;
                return;
            }
            self.conns[n].buf.extend(fresh);
            self.read(net, n);
        }
        let (fin, rst) = net.raw_ended(link);
        match self.conns[n].state {
            State::Closed => {}
            State::Up if rst => self.conns[n].dead = true,
            State::Up if fin => {
                self.seen.sets_ended += 1;
                self.end_set(net, "its peer ended a connection");
            }
            State::Reply if rst || fin || self.conns[n].since + TIMEOUT <= net.now => {
                self.say(net, || format!("link {link}: the dial failed"));
                self.close(net, n);
                self.retry(net, RETRY);
                self.fail_queue();
            }
            State::Request | State::Hello
                if rst || fin || self.conns[n].since + ACCEPT_TIMEOUT <= net.now =>
            {
                self.close(net, n);
            }
            _ => {}
        }
    }

    fn read(&mut self, net: &mut Net, n: usize) {
        loop {
            let Conn { state, version, .. } = self.conns[n];
            let buf = &self.conns[n].buf;
            match state {
                State::Request => match AcceptorReq::parse(buf) {
                    Err(WireError::Truncated { .. }) => return,
                    Ok((req, len)) if req.target == self.cfg.nid => {
                        self.conns[n].buf.drain(..len);
                        self.conns[n].state = State::Hello;
                    }
                    other => panic!("an acceptor request that a kernel refuses: {other:?}"),
                },
                State::Hello => {
                    // The version is enough for one that it does not know.
                    let whole = match HelloStart::parse(buf) {
                        Ok(s) if s.version <= self.cfg.version => Hello::parse(buf).is_ok(),
                        Ok(_) => true,
                        Err(_) => false,
                    };
                    if whole && !self.due.iter().any(|d| d.0.1 == Due::Accept(n)) {
                        let when = net.now + self.soon();
                        self.at(when, Due::Accept(n));
                    }
                    return;
                }
                State::Reply => match Hello::parse(buf) {
                    Err(WireError::Truncated { .. }) => return,
                    Ok((h, len)) => {
                        self.conns[n].buf.drain(..len);
                        self.answered(net, n, &h);
                    }
                    Err(e) => panic!("an answer that a kernel does not know: {e}"),
                },
                State::Up => match capture::message(buf, version, ByteOrder::Little) {
                    Err(WireError::Truncated { .. }) => return,
                    Ok((msg, len)) => {
                        self.conns[n].buf.drain(..len);
                        self.message(net, n, msg);
                    }
                    Err(e) => panic!("a message that a kernel does not know: {e}"),
                },
                State::Closed => return,
            }
        }
    }

    /// A HELLO of ours (socklnd.md §2.6).
    fn accept(&mut self, net: &mut Net, n: usize) {
        if self.conns[n].state != State::Hello {
            return;
        }
        let start = HelloStart::parse(&self.conns[n].buf);
        if start.is_ok_and(|s| s.version > self.cfg.version) {
            // The rest of the HELLO is unread: RST, in the same burst.
            let own = self.hello(self.cfg.version, ConnType::None, self.cfg.nid).emit();
            self.write(net, n, &own);
            self.seen.refused += 1;
            self.conns[n].state = State::Closed;
            return net.raw_reset(self.conns[n].link);
        }
        let Ok((h, len)) = Hello::parse(&self.conns[n].buf) else { return };
        self.conns[n].buf.drain(..len);
        assert_eq!(h.src_nid, self.them, "it is who it says");
        let mine = h.ctype.invert();
        let race = self.them < self.cfg.nid && self.peer.connecting.is_some();
        let stale = self.peer.agreed.is_some_and(|a| a != (h.version, h.src_incarnation));
        if !race && stale {
            self.say(net, || "another incarnation or version".to_owned());
            self.end_set(net, "another incarnation or version");
        }
        if race || stale || self.of(mine) >= self.cfg.conns_per_peer {
            let none = self.hello(h.version, ConnType::None, self.them).emit();
            self.say(net, || format!("link {}: NONE (race {race}, stale {stale})", self.conns[n].link));
            self.write(net, n, &none);
            self.seen.refused += 1;
            return self.close(net, n);
        }
        let own = self.hello(h.version, mine, self.them).emit();
        self.write(net, n, &own);
        self.established(net, n, mine, &h);
    }

    fn established(&mut self, net: &mut Net, n: usize, ctype: ConnType, h: &Hello) {
        self.peer.agreed = Some((h.version, h.src_incarnation));
        let c = &mut self.conns[n];
        (c.state, c.ctype, c.version) = (State::Up, ctype, h.version);
        self.say(net, || format!("link {}: {ctype:?} {:?} is up", self.conns[n].link, h.version));
        self.flush(net);
        self.connect(net);
        self.read(net, n);
    }

    /// Our answer to a HELLO of its own (socklnd.md §2.7).
    fn answered(&mut self, net: &mut Net, n: usize, h: &Hello) {
        let Conn { ctype, version, .. } = self.conns[n];
        assert_eq!(h.src_nid, self.them);
        if h.ctype == ConnType::None {
            self.close(net, n);
            if h.version == version {
                self.seen.nones += 1;
                return self.refused(net, "NONE", RETRY);
            }
            self.seen.version_nones += 1;
            self.peer.wanted = Some(h.version);
            return self.refused(net, "NONE for the version", 0);
        }
        assert_eq!(h.ctype.invert(), ctype, "the answer has the wrong type");
        if self.peer.agreed.is_some_and(|a| a != (h.version, h.src_incarnation)) {
            self.seen.stale += 1;
            self.close(net, n);
            self.end_set(net, "the answer is another's");
            return self.refused(net, "stale", 0);
        }
        self.peer.refusals = 0;
        self.peer.connecting = None;
        self.seen.dials += 1;
        if self.of(ctype) >= self.cfg.conns_per_peer {
            // It has one: its own goes, and says nothing. What comes on it is lost.
            self.seen.duplicates += 1;
            self.say(net, || format!("link {}: a duplicate", self.conns[n].link));
            self.seen.lost += u64::from(!std::mem::take(&mut self.conns[n].buf).is_empty());
            self.close(net, n);
            self.flush(net);
            return self.connect(net);
        }
        self.established(net, n, ctype, h);
    }

    fn close(&mut self, net: &mut Net, n: usize) {
        self.conns[n].state = State::Closed;
        if self.conns[n].buf.is_empty() {
            net.raw_fin(self.conns[n].link);
        } else {
            self.seen.lost += 1;
            net.raw_reset(self.conns[n].link);
        }
    }

    /// One fate.
    fn end_set(&mut self, net: &mut Net, why: &str) {
        self.say(net, || format!("closes the set: {why}"));
        for n in 0..self.conns.len() {
            if self.conns[n].state == State::Up {
                self.close(net, n);
            }
        }
        (self.peer.agreed, self.peer.wanted) = (None, None);
        self.peer.cookies.clear();
        self.peer.next_cookie = 2;
    }

    fn wrong(&mut self, net: &mut Net, why: &str) {
        self.seen.sets_wrong += 1;
        self.end_set(net, why);
    }

    fn message(&mut self, net: &mut Net, n: usize, msg: Msg) {
        let version = self.conns[n].version;
        let (k, lnet) = match msg {
            Msg::Noop(k) => (k, None),
            Msg::Lnet(k, h, payload) => (k, Some((h, payload))),
            Msg::Acceptor(_) | Msg::Hello(_) => return,
        };
        let keepalive = k.cookie1 == 1 && version >= Version::V3;
        if k.cookie1 != 0 && !keepalive {
            let acked: Vec<u64> = match (k.kind, k.cookie0) {
                (KsockType::Lnet, _) | (_, 0) => vec![k.cookie1],
                (_, c0) if c0 > k.cookie1 => vec![c0, k.cookie1],
                (_, c0) => (c0..=k.cookie1).collect(),
            };
            if acked.iter().any(|c| !self.peer.cookies.remove(c)) {
                return self.wrong(net, "an ACK of no cookie");
            }
        }
        let Some((h, payload)) = lnet else { return };
        self.say(net, || format!("takes {} on link {}", h.body.name(), self.conns[n].link));
        if k.cookie0 != 0 {
            // Its ACK must not wait behind messages.
            let any = (0..self.conns.len()).filter(|m| self.conns[*m].state == State::Up);
            let fits: Vec<usize> =
                any.filter(|m| version < Version::V3 || self.conns[*m].ctype == ConnType::BulkIn).collect();
            let Some(m) = (!fits.is_empty()).then(|| self.rng.pick(&fits)) else {
                return self.wrong(net, "a zero-copy request and no BULK_IN");
            };
            let noop = KsockHdr { kind: KsockType::Noop, csum: 0, cookie0: 0, cookie1: k.cookie0 };
            self.write(net, m, &noop.emit(ByteOrder::Little));
        }
        match h.body {
            LnetBody::Get { handle, match_bits: ping::MATCH_BITS, .. } => {
                let mut info = Vec::new();
                PingInfo::single(self.cfg.nid, h.dest_pid, 0x1e, 1).emit(&mut info);
                self.launch(net, LnetBody::Reply { handle }, info);
            }
            LnetBody::Get { handle, sink_length, .. } => {
                self.launch(net, LnetBody::Reply { handle }, vec![7; sink_length as usize]);
            }
            LnetBody::Put { ack, match_bits, hdr_data, .. } => {
                self.taken.push(hdr_data);
                if ack != WireHandle::NONE {
                    let mlength = payload.len() as u32;
                    self.launch(net, LnetBody::Ack { handle: ack, match_bits, mlength }, Vec::new());
                }
            }
            LnetBody::Reply { handle } | LnetBody::Ack { handle, .. } => self.ended(handle, true),
        }
    }
}
