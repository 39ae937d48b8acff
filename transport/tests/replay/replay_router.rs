//! Captured routers (docs/protocol/upper.md §1): our machine in the router's place, both neighbours as they were recorded,
//! whole and byte at a time. What it writes on each connection is byte for byte what the kernel wrote, in its order, but for what
//! [`DIFFER`] lists, message by message.
//!
//! Most captures begin with connections that are there: those are made first, and the neighbours tell of themselves on them, as
//! they had. Left to the capture are incarnations, the router's own handles, and the number of its first zero-copy cookie.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use hugepages::HeapRxPool;
use transport::lnd::{AppId, Config};
use transport::lnet::{Event, Op, RoutingAsk, RoutingState};
use transport::node::{Input, Machine, Output};
use transport::stream::{Action, CloseWhy, ConnInfo, DialError, DialSpec, Happened, Progress};
use transport::testing::capture::{Dir, Flow, Located, Msg, Segment, SignKind, flows, good_messages};
use transport::wire::{
    AcceptorReq, ByteOrder, ConnType, Hello, KsockHdr, KsockType, LnetBody, LnetHdr, Nid, PingInfo,
    ProcessId, Version, WireHandle, ksock, ping,
};

use crate::{CHUNKS, Loans, Queue, SEC, folder, id};

/// The machine's time at the first frame of a capture, in ns.
const START: u64 = 10_000 * SEC;
/// Longest time by which a kernel's dial may be later than ours, in ns.
const DIAL: u64 = SEC / 2;
const ROUTER: [&str; 2] = ["192.168.80.12@tcp", "192.168.81.12@tcp1"];

/// A capture, and the router's state in it.
struct Case {
    name: &'static str,
    /// alive_router_check_interval and router_ping_timeout together, in s.
    check: u64,
    /// Time of the order to route before its first frame, in ms; `None` where there was none.
    enabled: Option<u64>,
    buffers: [u32; 3],
    /// Time of its beginning in the capture, in ms: connections of before were its former life's.
    begins: u64,
    /// Whether messages for others come.
    forwards: bool,
}

const fn case(name: &'static str, check: u64, enabled: u64, buffers: [u32; 3]) -> Case {
    Case { name, check, enabled: Some(enabled), buffers, begins: 0, forwards: true }
}

const CASES: [Case; 7] = [
    Case { forwards: false, ..case("rt-setup", 25, 4_700, [0; 3]) },
    case("rt-ping-discover", 25, 26_000, [0; 3]),
    case("rt-lst-write-1M", 25, 26_000, [0; 3]),
    case("rt-lst-write-4k", 25, 26_000, [0; 3]),
    case("rt-buffers-exhausted", 10, 11_000, [0, 1, 1]),
    // The client's LNet ends and begins anew with V2; its network is silent three times for longer than two checks.
    case("rt-v2-to-v3", 10, 11_000, [0; 3]),
    // Of the router that died nothing is in the capture; the one that returned is not told to route.
    Case {
        enabled: None,
        begins: 235_000,
        forwards: false,
        ..case("rt-router-dies-and-returns", 25, 0, [0; 3])
    },
];

struct Link {
    /// Number in the list beside the capture.
    number: usize,
    flow: Flow,
    /// Of the router.
    dials: bool,
    peer: Nid,
    own: Nid,
    version: Version,
    /// Messages that the router wrote in the capture, and those of the neighbour.
    want: Vec<Located>,
    theirs: Vec<Located>,
    stream: Vec<u8>,
    fed: usize,
    inbox: Queue,
    open: bool,
    pushed: u64,
    /// Bytes written since the capture began, and before.
    wrote: Vec<u8>,
    skipped: usize,
}

/// A request of the router's own.
struct Asked {
    /// Time at which it was captured, in ns.
    at: u64,
    peer: Nid,
    hdr: LnetHdr,
    payload: Vec<u8>,
    /// The captured handle, and ours when we have said the same.
    handle: WireHandle,
    ours: Option<WireHandle>,
}

const TICK: &str = "a kernel looks for silent networks once a second, ours when the time is over: here the last ping came at 26.54, the kernel \
                    says down at 36.73, and a question comes at 36.67";
const LINE: &str = "a kernel's threads put an answer and a push in line in either order (#83 and #405 of rt-v2-to-v3); ours answers first";

/// Differences by capture and connection, how often, and why.
const DIFFER: &[(&str, usize, &str, usize, &str)] = &[
    (
        "rt-v2-to-v3",
        6,
        "not dialled",
        1,
        "a kernel remembers a peer that has closed all its connections, and dials it to push; ours tells it when it is heard again",
    ),
    ("rt-v2-to-v3", 7, "later: PUT Down Up", 1, "the same: it is pushed once it has told of itself"),
    ("rt-v2-to-v3", 7, "later: PUT Up Up", 2, LINE),
    ("rt-v2-to-v3", 3, "missing: REPLY Up Up", 1, TICK),
    ("rt-v2-to-v3", 3, "besides: REPLY Down Up", 1, TICK),
    ("rt-v2-to-v3", 3, "later: ACK of 0", 1, TICK),
    ("rt-router-dies-and-returns", 11, "later: PUT Up Up", 1, LINE),
];

struct Play {
    machine: Machine,
    links: Vec<Link>,
    pool: HeapRxPool,
    loans: Loans,
    chunk: usize,
    now: u64,
    begun: bool,
    dials: Vec<(u64, DialSpec)>,
    bound: HashMap<usize, DialSpec>,
    /// The router's own requests.
    asked: Vec<Asked>,
    /// Added to our cookies for a peer to have the captured ones.
    cookies: BTreeMap<Nid, u64>,
    /// Zero-copy ACKs in the order of their time: heard or given, connection, cookie.
    acks: Vec<(bool, usize, u64)>,
    /// Answers to requests that ours has not made yet: connection, captured handle, bytes.
    early: Vec<(usize, WireHandle, Vec<u8>)>,
    /// Connections that ours did not ask for.
    undialled: Vec<usize>,
    /// Pushes that the neighbours acknowledge before the capture begins.
    pushes: Vec<(usize, LnetBody)>,
    /// Incarnations in the router's HELLOs: kernels have one for each NI.
    incarnations: BTreeMap<Nid, u64>,
}

fn nid(s: &str) -> Nid {
    s.parse().unwrap()
}

fn of(ip: IpAddr) -> Nid {
    let net = if ip.to_string().starts_with("192.168.81.") { 1 } else { 0 };
    Nid::tcp(ip, net)
}

fn router(ip: IpAddr) -> bool {
    ROUTER.iter().any(|r| nid(r).ip() == Some(ip))
}

/// The handle of a request.
fn handle_of(body: &mut LnetBody) -> Option<&mut WireHandle> {
    match body {
        LnetBody::Get { handle, .. } | LnetBody::Put { ack: handle, .. } => Some(handle),
        _ => None,
    }
}

/// A request of the node at `own`: its header without the handle, and that.
fn request(own: Nid, hdr: &LnetHdr) -> Option<(LnetHdr, WireHandle)> {
    let mut bare = *hdr;
    let handle = handle_of(&mut bare.body).filter(|_| hdr.src_nid == own)?;
    let was = std::mem::replace(handle, WireHandle::NONE);
    Some((bare, was))
}

/// The type of a kernel's connection, by its port in a set of three.
fn by_port(port: u16) -> ConnType {
    match port {
        1023 => ConnType::Control,
        1022 => ConnType::BulkIn,
        _ => ConnType::BulkOut,
    }
}

fn config(case: &Case) -> Config {
    let mut cfg = Config::new(nid(ROUTER[0]), 5).also(nid(ROUTER[1]));
    cfg.alive_router_check_interval = case.check * SEC;
    cfg.router_ping_timeout = 0;
    cfg.routing.buffers = case.buffers;
    // Kernels ask for zero-copy ACKs on V2, too.
    cfg.zc_v2 = true;
    // Kernels take as many of a type as they would open themselves.
    cfg.max_conns_per_type = 1;
    cfg
}

impl Play {
    fn new(case: &Case, chunk: usize) -> Play {
        let all = flows(&folder("upper").join(case.name).with_extension("pcap")).unwrap();
        let cfg = config(case);
        let (mut links, mut asked) = (Vec::new(), Vec::new());
        let (mut cookies, mut incarnations) = (BTreeMap::new(), BTreeMap::new());
        for (number, flow) in (1..).zip(all) {
            let first = flow.signs.first().map(|s| s.at).into_iter();
            let first =
                first.chain([&flow.a, &flow.p].iter().filter_map(|d| Some(d.segments.first()?.at))).min();
            if first.is_none_or(|at| at < case.begins * 1_000_000) {
                continue;
            }
            let dials = router(flow.active.ip());
            let (mine, other) = if dials { (flow.active, flow.passive) } else { (flow.passive, flow.active) };
            let (own, peer) = (of(mine.ip()), of(other.ip()));
            // The capture of V2 connections that were there is none of these.
            let version = flow.version();
            let (a, ..) = good_messages(&flow.a, true, flow.from_start, version);
            let (p, ..) = good_messages(&flow.p, false, flow.from_start, version);
            let (want, theirs) = if dials { (a, p) } else { (p, a) };
            for m in &want {
                match &m.msg {
                    Msg::Hello(h) => drop(incarnations.insert(own, h.src_incarnation)),
                    Msg::Lnet(k, h, payload) => {
                        if let Some((hdr, handle)) = request(own, h) {
                            let (at, payload) = (m.at, payload.clone());
                            asked.push(Asked { at, peer, hdr, payload, handle, ours: None });
                        }
                        if k.cookie0 != 0 {
                            let first = cookies.entry(peer).or_insert(k.cookie0);
                            *first = (*first).min(k.cookie0);
                        }
                    }
                    _ => {}
                }
            }
            let stream = if dials { flow.p.bytes() } else { flow.a.bytes() };
            links.push(Link {
                number,
                flow,
                dials,
                peer,
                own,
                version,
                want,
                theirs,
                stream,
                fed: 0,
                inbox: Queue::default(),
                open: false,
                pushed: 0,
                wrote: Vec::new(),
                skipped: 0,
            });
        }
        Play {
            machine: Machine::new(cfg),
            links,
            // Messages that are held up stay in their buffers, in the smallest pieces, too.
            pool: HeapRxPool::new(chunk.max(64), if chunk == 1 { 1 << 20 } else { 1 << 12 }),
            loans: Loans::default(),
            chunk,
            now: 0,
            begun: false,
            dials: Vec::new(),
            bound: HashMap::new(),
            asked,
            cookies: cookies.into_iter().map(|(peer, first)| (peer, first - 2)).collect(),
            acks: Vec::new(),
            early: Vec::new(),
            undialled: Vec::new(),
            pushes: Vec::new(),
            incarnations,
        }
    }

    fn advance(&mut self, to: u64) {
        while let Some(d) = self.machine.deadline().filter(|d| *d <= to) {
            self.now = self.now.max(d);
            self.input(Input::Timer);
        }
        self.now = self.now.max(to);
    }

    fn input(&mut self, input: Input<'_>) {
        self.machine.handle(self.now, input);
        self.drain();
    }

    /// Bytes of a neighbour, in pieces.
    fn bytes(&mut self, n: usize, bytes: &[u8]) {
        for part in bytes.chunks(self.chunk) {
            if !self.links[n].open {
                return;
            }
            let frag = self.pool.copy_of(part).unwrap();
            self.links[n].inbox.0.push_back(frag);
            self.read(n);
        }
    }

    fn read(&mut self, n: usize) {
        let mut inbox = std::mem::take(&mut self.links[n].inbox);
        self.machine.handle(self.now, Input::Stream(Happened::Bytes(id(n), &mut inbox)));
        self.links[n].inbox = inbox;
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(out) = self.machine.poll() {
            match out {
                Output::Stream(Action::Send(c, msg)) => {
                    let bytes = self.loans.sent(&msg);
                    let n = c.index as usize;
                    self.links[n].pushed += bytes.len() as u64;
                    let said = self.links[n].pushed;
                    self.said(n, bytes);
                    let p = Progress { acked: said, sent: said };
                    self.machine.handle(self.now, Input::Stream(Happened::Progress(c, p)));
                }
                Output::Stream(Action::Unhold(_, lend)) => self.loans.unhold(lend),
                Output::Stream(Action::Dial(spec)) => self.dials.push((self.now, spec)),
                Output::Stream(Action::Close(c, _)) => {
                    let link = &mut self.links[c.index as usize];
                    link.open = false;
                    link.inbox.0.clear();
                    self.machine.handle(self.now, Input::Stream(Happened::Closed(c, CloseWhy::Local)));
                }
                Output::Stream(Action::Read(c)) => self.read(c.index as usize),
                Output::Stream(other) => unreachable!("{other:?}"),
                Output::Complete(_, Event::Ping { .. }) => {}
                Output::Complete(_, e) => unreachable!("{e:?}"),
                Output::To(..) | Output::Offer(_) => unreachable!("one shard"),
            }
            self.loans.release(&mut self.machine, self.now);
        }
        self.pool.home().drain();
    }

    /// Keeps the bytes that the machine writes, with the cookies and handles that the kernel had.
    fn said(&mut self, n: usize, mut bytes: Vec<u8>) {
        let (peer, own, version) = (self.links[n].peer, self.links[n].own, self.links[n].version);
        let ksm = version.hdr_len() - version.lnet_len();
        if !self.begun {
            if let Some(Ok(h)) = bytes.get(ksm..).map(|b| LnetHdr::parse_as(version, b))
                && let LnetBody::Put { ack: handle, match_bits, portal: ping::PORTAL, .. } = h.body
            {
                self.pushes.push((n, LnetBody::Ack { handle, match_bits, mlength: h.payload_len }));
            }
            self.links[n].skipped += bytes.len();
            return;
        }
        let skip = AcceptorReq::parse(&bytes).map_or(0, |(_, len)| len);
        if let Some(&src_incarnation) = self.incarnations.get(&own)
            && let Ok((h, len)) = Hello::parse(&bytes[skip..])
            && self.links[n].wrote.is_empty()
        {
            let hello = Hello { src_incarnation, ..h }.emit();
            bytes[skip..skip + len].copy_from_slice(&hello);
        }
        let shaken = self.links[n].wrote.len() + self.links[n].skipped > 0;
        if shaken && let Ok(k) = KsockHdr::parse(&bytes, ByteOrder::Little) {
            if k.kind == KsockType::Noop {
                self.acks.push((false, n, k.cookie1));
            }
            if k.kind == KsockType::Lnet && k.cookie0 != 0 {
                let cookie0 = k.cookie0 + self.cookies.get(&peer).copied().unwrap_or(0);
                bytes[..ksock::LEN].copy_from_slice(&KsockHdr { cookie0, ..k }.emit(ByteOrder::Little));
            }
            if k.kind == KsockType::Lnet
                && let Ok(mut h) = LnetHdr::parse_as(version, &bytes[ksm..])
                && let Some((hdr, ours)) = request(own, &h)
            {
                // A user's ping, which has a connection dialled: nothing that the router wrote stands for it.
                if matches!(h.body, LnetBody::Get { sink_length: 3960, .. }) {
                    return;
                }
                // The one of the same content that was captured next to this time.
                let (payload, now) = (&bytes[ksm + version.lnet_len()..], self.now.saturating_sub(START));
                let same =
                    |a: &&mut Asked| (a.peer, a.hdr, a.ours) == (peer, hdr, None) && a.payload == *payload;
                if let Some(a) = self.asked.iter_mut().filter(same).min_by_key(|a| a.at.abs_diff(now)) {
                    a.ours = Some(ours);
                    *handle_of(&mut h.body).unwrap() = a.handle;
                }
                bytes[ksm..ksm + version.lnet_len()].copy_from_slice(&h.emit_as(version));
            }
        }
        self.links[n].wrote.extend(bytes);
    }

    /// A message of a neighbour, with the cookies and handles that our machine has.
    fn turn(&mut self, n: usize, m: &Located) {
        let (peer, version) = (self.links[n].peer, self.links[n].version);
        let more = self.cookies.get(&peer).copied().unwrap_or(0);
        let bytes = &mut self.links[n].stream[m.range.clone()];
        let ksm = version.hdr_len() - version.lnet_len();
        match &m.msg {
            Msg::Noop(k) if k.cookie1 > 1 => {
                self.acks.push((true, n, k.cookie1));
                let cookie0 = if k.cookie0 == 0 { 0 } else { k.cookie0 - more };
                let k = KsockHdr { cookie0, cookie1: k.cookie1 - more, ..*k };
                bytes[..ksock::LEN].copy_from_slice(&k.emit(ByteOrder::Little));
            }
            Msg::Lnet(_, h, _) => {
                let mut h = *h;
                if let LnetBody::Reply { handle } | LnetBody::Ack { handle, .. } = &mut h.body
                    && let Some(a) = self.asked.iter().find(|a| (a.peer, a.handle) == (peer, *handle))
                    && let Some(ours) = a.ours
                {
                    *handle = ours;
                    bytes[ksm..ksm + version.lnet_len()].copy_from_slice(&h.emit_as(version));
                }
            }
            _ => {}
        }
    }

    /// Connections that were there when the capture began, and neighbours that had told of themselves.
    fn set_up(&mut self) {
        let there: Vec<usize> = (0..self.links.len()).filter(|n| !self.links[*n].flow.from_start).collect();
        for n in there.iter().copied() {
            let (peer, own, version) = (self.links[n].peer, self.links[n].own, self.links[n].version);
            let (local, remote) = (self.links[n].flow.passive, self.links[n].flow.active);
            self.links[n].open = true;
            self.input(Input::Stream(Happened::Opened(id(n), ConnInfo { local, remote, dial: None })));
            let req = AcceptorReq::new(own);
            let hello = Hello {
                version,
                order: ByteOrder::Little,
                tcp_magic: false,
                src_nid: peer,
                dst_nid: own,
                src_pid: 12345,
                dst_pid: 0,
                src_incarnation: 1,
                dst_incarnation: 0,
                ctype: by_port(remote.port()),
                ips: Default::default(),
            };
            let bytes = [&req.emit()[..req.wire_len()], &hello.emit()].concat();
            self.bytes(n, &bytes);
        }
        for n in there {
            if by_port(self.links[n].flow.active.port()) != ConnType::Control {
                continue;
            }
            let mut info = Vec::new();
            PingInfo::new([self.links[n].peer], 12345, 0x1e, 2).emit(&mut info);
            let ack = WireHandle { interface: 7, object: 7 };
            let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
            self.message(n, LnetBody::Put { ack, match_bits, hdr_data: 0, portal, offset: 0 }, &info);
        }
        for (n, ack) in std::mem::take(&mut self.pushes) {
            self.message(n, ack, &[]);
        }
    }

    /// A message of a neighbour that is in no capture.
    fn message(&mut self, n: usize, body: LnetBody, payload: &[u8]) {
        let l = &self.links[n];
        let h = LnetHdr {
            dest_nid: l.own,
            src_nid: l.peer,
            dest_pid: 12345,
            src_pid: 12345,
            payload_len: payload.len() as u32,
            body,
        };
        let k = KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0: 0, cookie1: 0 };
        let bytes = [&k.emit(ByteOrder::Little)[..], &h.emit_as(l.version), payload].concat();
        self.bytes(n, &bytes);
    }

    fn run(mut self, case: &Case) -> Play {
        let begins = START + case.begins * 1_000_000;
        self.now = begins - 100 * SEC;
        if let Some(enabled) = case.enabled {
            // Turned on before its neighbours come: they know it as it is.
            self.advance(begins - enabled * 1_000_000);
            self.machine.routing(self.now, Some(RoutingAsk::Enable));
            self.drain();
        }
        self.advance(begins - SEC / 1000);
        self.set_up();
        self.advance(begins);
        self.begun = true;
        let mut script: Vec<(u64, usize, u8, usize)> = Vec::new();
        for (n, l) in self.links.iter().enumerate() {
            let opened = l.flow.signs.iter().find(|s| s.kind == SignKind::Open).map(|s| s.at);
            for s in &l.flow.signs {
                let what = match s.kind {
                    // The answer to the end of the connection that had the port before.
                    SignKind::Reset if opened.is_some_and(|at| s.at < at) => continue,
                    SignKind::Syn => 0,
                    SignKind::Open => 1,
                    SignKind::Fin => 3,
                    SignKind::Reset => 4,
                };
                script.push((s.at, n, what, usize::from(s.active == l.dials)));
            }
            let dir = if l.dials { &l.flow.p } else { &l.flow.a };
            let (mut end, mut at) = (0, 0);
            for s in &dir.segments {
                end += s.bytes.len();
                at = s.at.max(at);
                script.push((at, n, 2, end));
            }
        }
        script.sort_unstable_by_key(|(at, n, what, _)| (*at, *what, *n));
        for (at, n, what, more) in script {
            self.advance(START + at);
            match (what, more) {
                (0, 1) => self.dialled(n),
                (1, _) => self.opened(n),
                (2, end) => self.data(n, end),
                (3, 0) if self.links[n].open => self.input(Input::Stream(Happened::PeerFin(id(n)))),
                (4, 0) => self.reset(n),
                _ => {}
            }
        }
        self
    }

    /// The router's SYN: ours has dialled, or does when the kernel's tick is due.
    fn dialled(&mut self, n: usize) {
        let remote = self.links[n].flow.passive;
        let there = |p: &Play| p.dials.iter().position(|(_, d)| d.remote == remote);
        if there(self).is_none()
            && let Some(d) = self.machine.deadline().filter(|d| *d <= self.now + DIAL)
        {
            self.advance(d);
        }
        if there(self).is_none() {
            self.undialled.push(self.links[n].number);
            let target = ProcessId::lustre(self.links[n].peer);
            self.input(Input::Cmd(AppId::FIRST, Op::Ping { tag: 0, target }));
        }
        if let Some(at) = there(self) {
            self.bound.insert(n, self.dials.remove(at).1);
        }
    }

    fn opened(&mut self, n: usize) {
        let l = &mut self.links[n];
        if l.open || !l.flow.from_start {
            return;
        }
        let (local, remote) =
            if l.dials { (l.flow.active, l.flow.passive) } else { (l.flow.passive, l.flow.active) };
        let dial = match (l.dials, self.bound.get(&n)) {
            (true, None) => return,
            (true, Some(spec)) => Some(spec.id),
            (false, _) => None,
        };
        l.open = true;
        self.input(Input::Stream(Happened::Opened(id(n), ConnInfo { local, remote, dial })));
    }

    fn reset(&mut self, n: usize) {
        if std::mem::take(&mut self.links[n].open) {
            self.input(Input::Stream(Happened::Closed(id(n), CloseWhy::Reset)));
        } else if let Some(spec) = self.bound.get(&n).filter(|_| self.links[n].pushed == 0).copied() {
            self.input(Input::Stream(Happened::DialFailed(spec.id, DialError::Refused)));
        }
    }

    fn data(&mut self, n: usize, end: usize) {
        let from = std::mem::replace(&mut self.links[n].fed, end);
        let begun: Vec<Located> = {
            let l = &self.links[n];
            l.theirs.iter().filter(|m| (from..end).contains(&m.range.start)).cloned().collect()
        };
        let (mut bytes, mut at) = (Vec::new(), from);
        for m in &begun {
            self.turn(n, m);
            let Some(handle) = self.is_early(n, &m.msg) else { continue };
            assert!(m.range.end <= end, "an answer is in one piece");
            bytes.extend(&self.links[n].stream[at..m.range.start]);
            self.early.push((n, handle, self.links[n].stream[m.range.clone()].to_vec()));
            at = m.range.end;
        }
        bytes.extend(&self.links[n].stream[at..end]);
        self.bytes(n, &bytes);
        self.late_answers();
    }

    /// The handle of a request that the router has made by then, and ours has not: what is said of it comes when it has.
    fn is_early(&self, n: usize, msg: &Msg) -> Option<WireHandle> {
        let Msg::Lnet(_, LnetHdr { body: LnetBody::Reply { handle } | LnetBody::Ack { handle, .. }, .. }, _) =
            msg
        else {
            return None;
        };
        let made = |a: &Asked| (a.peer, a.handle, a.ours) == (self.links[n].peer, *handle, None);
        self.asked.iter().any(made).then_some(*handle)
    }

    /// Answers that came before ours had asked.
    fn late_answers(&mut self) {
        for (n, handle, mut bytes) in std::mem::take(&mut self.early) {
            let version = self.links[n].version;
            let ksm = version.hdr_len() - version.lnet_len();
            let ours = self.asked.iter().find(|a| (a.peer, a.handle) == (self.links[n].peer, handle));
            let Some(ours) = ours.and_then(|a| a.ours) else {
                self.early.push((n, handle, bytes));
                continue;
            };
            let mut h = LnetHdr::parse_as(version, &bytes[ksm..]).unwrap();
            if let LnetBody::Reply { handle } | LnetBody::Ack { handle, .. } = &mut h.body {
                *handle = ours;
            }
            bytes[ksm..ksm + version.lnet_len()].copy_from_slice(&h.emit_as(version));
            self.bytes(n, &bytes);
        }
    }

    /// Differences by connection, message by message.
    fn differences(&self) -> Vec<(usize, String)> {
        let mut out: Vec<_> = self.undialled.iter().map(|n| (*n, "not dialled".to_owned())).collect();
        for l in &self.links {
            let mut dir = Dir::default();
            dir.segments.push(Segment { at: 0, bytes: l.wrote.clone() });
            let (ours, left, bad) = good_messages(&dir, l.dials, l.flow.from_start, l.version);
            if left > 0 || bad.is_some() {
                out.push((l.number, format!("{left} bytes are no message, {bad:?}")));
                continue;
            }
            let captured = if l.dials { l.flow.a.bytes() } else { l.flow.p.bytes() };
            let (mut besides, mut both): (Vec<&Located>, Vec<_>) = (ours.iter().collect(), Vec::new());
            for m in &l.want {
                let same = |o: &&Located| l.wrote[o.range.clone()] == captured[m.range.clone()];
                match besides.iter().position(same) {
                    Some(at) => both.push((m, besides.remove(at).range.start)),
                    None => out.push((l.number, format!("missing: {}", name(&m.msg)))),
                }
            }
            out.extend(besides.iter().map(|m| (l.number, format!("besides: {}", name(&m.msg)))));
            for (n, (m, at)) in both.iter().enumerate() {
                if both[n..].iter().any(|after| after.1 < *at) {
                    out.push((l.number, format!("later: {}", name(&m.msg))));
                }
            }
        }
        out
    }
}

/// A message, in a few words.
fn name(msg: &Msg) -> String {
    let Msg::Lnet(_, h, payload) = msg else { return msg.name().into() };
    match PingInfo::parse(payload) {
        Ok(info) => {
            let nis: Vec<_> = info.nis.iter().map(|n| format!("{:?}", n.status)).collect();
            format!("{} {}", h.body.name(), nis.join(" "))
        }
        Err(_) => format!("{} of {}", h.body.name(), payload.len()),
    }
}

#[test]
fn in_a_routers_place_ours_writes_what_the_kernel_wrote() {
    let (mut wrong, mut found) = (Vec::new(), vec![0; DIFFER.len()]);
    for case in &CASES {
        for chunk in CHUNKS {
            let mut played = Play::new(case, chunk).run(case);
            let view = played.machine.routing(played.now, None);
            let state = if case.enabled.is_some() { RoutingState::On } else { RoutingState::Off };
            assert_eq!(view.state, state, "{}", case.name);
            for (n, what) in played.differences() {
                match DIFFER.iter().position(|d| (d.0, d.1, d.2) == (case.name, n, what.as_str())) {
                    Some(at) => found[at] += 1,
                    None => wrong.push(format!("{} {chunk}, connection {n}: {what}", case.name)),
                }
            }
            let c = played.machine.counters();
            let across = c.forward_rx_msgs;
            let lost = c.drop_no_route + c.drop_route_loop + c.drop_not_for_us + c.drop_next_hop;
            let copied = if chunk == 1 { 0 } else { c.forward_copied_bytes };
            let good = across == c.forwarded_msgs && lost + copied == 0;
            if !good || (across > 0) != case.forwards {
                wrong.push(format!(
                    "{} {chunk}: {across} messages came, {} left",
                    case.name, c.forwarded_msgs
                ));
            }
        }
    }
    let not_so = DIFFER.iter().zip(found).filter(|(d, n)| *n != d.3 * CHUNKS.len());
    wrong.extend(not_so.map(|(d, n)| format!("{n} times: {d:?}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// With one large buffer each zero-copy ACK to the source follows the next hop's of the message before (upper.md §1.3).
#[test]
fn with_one_buffer_the_source_is_acknowledged_when_the_next_hop_has_acknowledged() {
    let case = CASES.iter().find(|c| c.name == "rt-buffers-exhausted").unwrap();
    for chunk in CHUNKS {
        let mut played = Play::new(case, chunk).run(case);
        // To the source on connection 1: 9 to 13; from the next hop on connection 4: 2 to 6.
        let acks: Vec<(bool, u64)> = played.acks.iter().map(|(heard, _, cookie)| (*heard, *cookie)).collect();
        let turns = (0..5).flat_map(|k| [(false, 9 + k), (true, 2 + k)]);
        assert_eq!(acks, turns.collect::<Vec<_>>(), "{chunk}");
        let view = played.machine.routing(played.now, None);
        assert_eq!((view.buffers[2].credits, view.buffers[2].least_credits), (1, -1));
        assert!(played.machine.counters().forward_waits >= 4);
    }
}
