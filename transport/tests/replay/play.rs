//! A machine in the place of one node of a capture, in the capture's time: every frame of the others reaches it when
//! it did, timers run in between, and what it dials, writes and closes is held against what the node did.
//!
//! The capture supplies what no protocol fixes: incarnation, ping features, which requests applications made and
//! when, what they answered, and how long a SYN took. [`Play::differences`] has everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hugepages::HeapRxPool;
use transport::lnd::{Accept, AppId, Config, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::node::{Input, Machine, Output};
use transport::stream::{Action, Close, CloseWhy, ConnInfo, DialError, DialSpec, Happened, Progress};
use transport::testing::capture::{Dir, Flow, Located, Msg, SignKind, flows, good_messages};
use transport::testing::data::Spot;
use transport::wire::{
    ByteOrder, ConnType, Hello, LnetBody, LnetHdr, Nid, PingInfo, Version, WireHandle, lnet, ping,
};

use super::{Handles, Loans, Queue, SEC, answers, folder, id, pages};

/// Longest time by which a kernel's reaction may be later than ours, in ns.
pub(super) const REACTION: u64 = SEC / 2;

/// State of a connection for the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Before,
    Open,
    Over,
}

/// A connection of the node.
pub struct Link {
    /// As in the capture's list, from 1.
    pub number: usize,
    /// Captured traffic.
    pub flow: Flow,
    /// Address of the other end.
    pub peer: IpAddr,
    /// The node connected.
    pub(super) dials: bool,
    pub(super) version: Version,
    order: ByteOrder,
    pub(super) ours: Vec<Located>,
    asked: BTreeSet<usize>,
    pub(super) theirs: Vec<Located>,
    /// Bytes that the other end sent, and how much of it has been given to the machine.
    stream: Vec<u8>,
    fed: usize,
    inbox: Queue,
    state: State,
    pushed: u64,
    /// Bytes that the machine wrote.
    pub wrote: Vec<u8>,
    /// Time at which and how the machine closed it.
    pub closed: Option<(u64, Close)>,
    /// It did so since the other end had.
    pub(super) followed: bool,
    pub(super) wrong: Vec<String>,
}

impl Link {
    /// First sign of this kind by the node (or the other end), in ns.
    pub(super) fn sign(&self, ours: bool, kinds: &[SignKind]) -> Option<u64> {
        let active = ours == self.dials;
        self.flow.signs.iter().filter(|s| s.active == active && kinds.contains(&s.kind)).map(|s| s.at).min()
    }

    /// Bytes that the captured node wrote.
    pub fn want(&self) -> Vec<u8> {
        if self.dials { self.flow.a.bytes() } else { self.flow.p.bytes() }
    }
}

/// Event on a connection, at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Syn,
    Open,
    /// Up to this position of the stream.
    Data(usize),
    Fin,
    Reset,
}

/// Time, connection, by the node itself, what.
pub(super) type Step = (u64, usize, bool, What);

/// Place that the machine takes: of a kernel, which closes for its own reasons, or of a hand that may close at
/// will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A kernel's.
    Kernel,
    /// The hand-driven prober's.
    Prober,
}

/// A replay.
pub struct Play {
    /// The machine.
    pub machine: Machine,
    /// The connections of the node.
    pub links: Vec<Link>,
    /// Events that applications were told of.
    pub events: Vec<Event>,
    pub(super) place: Place,
    handles: Handles,
    pool: HeapRxPool,
    chunk: usize,
    /// Now, in the capture's time, in ns.
    now: u64,
    pub(super) dials: Vec<(u64, DialSpec)>,
    /// The dial that became a connection, by the connection's place.
    bound: BTreeMap<usize, DialSpec>,
    loans: Loans,
}

/// The kernels of the probes (testdata/captures/index.md); the other addresses are the hand's.
pub fn kernel(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V4(a) if [11, 12, 13, 15].contains(&a.octets()[3]))
}

/// The machine's time at the first frame of a capture, in ns.
const START: u64 = 1000 * SEC;

/// The connections of a capture.
pub struct Capture(Vec<Flow>);

impl Capture {
    /// Reads `name`, a path below testdata/captures.
    pub fn read(name: &str) -> Capture {
        Capture(flows(&folder(name).with_extension("pcap")).unwrap())
    }

    /// Leaves out how kernels ended connections that were refused: who is not refused does not end them.
    #[must_use]
    pub fn without_refusals(mut self) -> Capture {
        for f in self.0.iter_mut().filter(|f| f.refused() && kernel(f.active.ip())) {
            f.signs.retain(|s| matches!(s.kind, SignKind::Syn | SignKind::Open));
        }
        self
    }

    /// The nodes whose address `is` wanted, and the connections of each in each of its lives: a kernel that crashed
    /// comes back with another incarnation. Only kernels have several lives.
    pub fn nodes(&self, kernels: bool, is: impl Fn(IpAddr) -> bool) -> Vec<(IpAddr, Vec<usize>)> {
        let mut out: Vec<(IpAddr, Option<u64>, Vec<usize>)> = Vec::new();
        for (n, f) in self.0.iter().enumerate() {
            for (addr, dir) in [(f.active.ip(), &f.a), (f.passive.ip(), &f.p)] {
                if !is(addr) {
                    continue;
                }
                let said = kernels.then(|| incarnation(f, dir, addr == f.active.ip())).flatten();
                let known = out.iter_mut().rev().find(|(a, ..)| *a == addr);
                match known {
                    Some((_, life, list)) if said.is_none() || life.is_none() || *life == said => {
                        *life = life.or(said);
                        list.push(n);
                    }
                    _ => out.push((addr, said, vec![n])),
                }
            }
        }
        out.into_iter().map(|(a, _, list)| (a, list)).collect()
    }
}

/// The incarnation in the HELLO of one direction.
fn incarnation(f: &Flow, dir: &Dir, active: bool) -> Option<u64> {
    let (list, ..) = good_messages(dir, active, f.from_start, f.version());
    list.iter().find_map(|m| match &m.msg {
        Msg::Hello(h) => Some(h.src_incarnation),
        _ => None,
    })
}

impl Play {
    /// The node at `me` with the connections at these places of the capture's list, fed in pieces of `chunk` bytes.
    /// `tune` has the last word on its configuration.
    pub fn new(
        capture: &Capture,
        place: Place,
        me: IpAddr,
        numbers: &[usize],
        chunk: usize,
        tune: impl FnOnce(&mut Config),
    ) -> Play {
        let mut links = Vec::new();
        for n in numbers.iter().copied() {
            let flow = capture.0[n].clone();
            let dials = flow.active.ip() == me;
            let version = flow.version();
            let (a, ..) = good_messages(&flow.a, true, flow.from_start, version);
            let (p, ..) = good_messages(&flow.p, false, flow.from_start, version);
            let (ours, theirs) = if dials { (a, p) } else { (p, a) };
            let order = theirs.iter().find_map(|m| match &m.msg {
                Msg::Hello(h) => Some(h.order),
                _ => None,
            });
            let begun = flow.from_start;
            links.push(Link {
                number: n + 1,
                peer: if dials { flow.passive.ip() } else { flow.active.ip() },
                dials,
                version,
                order: order.unwrap_or(ByteOrder::Little),
                asked: if begun { BTreeSet::new() } else { (0..ours.len()).collect() },
                ours,
                theirs,
                stream: if dials { flow.p.bytes() } else { flow.a.bytes() },
                fed: 0,
                inbox: Queue::default(),
                state: if begun { State::Before } else { State::Over },
                pushed: 0,
                wrote: Vec::new(),
                closed: None,
                followed: false,
                wrong: if begun { Vec::new() } else { vec!["begins before the capture".into()] },
                flow,
            });
        }
        let mut cfg = config(me, place, &links);
        tune(&mut cfg);
        Play {
            machine: Machine::new(cfg),
            links,
            events: Vec::new(),
            place,
            handles: Handles::default(),
            pool: HeapRxPool::new(chunk.max(64), 1 << 14),
            chunk,
            now: 0,
            dials: Vec::new(),
            bound: BTreeMap::new(),
            loans: Loans::default(),
        }
    }

    /// Plays the capture to its end.
    pub fn run(mut self) -> Play {
        if self.place == Place::Kernel {
            // lnet_selftest's, which kernels have loaded.
            for portal in [50, 51] {
                self.input(Input::Cmd(AppId::FIRST, Op::Lazy { tag: 0, portal, on: true }));
            }
        }
        for (at, link, ours, what) in self.script() {
            self.advance(at);
            if ours {
                self.ours(link, what);
            } else {
                self.theirs(link, what);
            }
        }
        self
    }

    /// All that happens, in order: time, connection, by the node itself, what.
    pub(super) fn script(&self) -> Vec<Step> {
        let mut script = Vec::new();
        for (n, l) in self.links.iter().enumerate() {
            for s in &l.flow.signs {
                let what = match s.kind {
                    SignKind::Syn => What::Syn,
                    SignKind::Open => What::Open,
                    SignKind::Fin => What::Fin,
                    SignKind::Reset => What::Reset,
                };
                script.push((s.at, n, s.active == l.dials, what));
            }
            for (active, dir) in [(true, &l.flow.a), (false, &l.flow.p)] {
                let (mut end, mut at) = (0, 0);
                for s in &dir.segments {
                    end += s.bytes.len();
                    at = s.at.max(at);
                    script.push((at, n, active == l.dials, What::Data(end)));
                }
            }
        }
        script.sort_by_key(|(at, n, ours, what)| (*at, *what, *n, *ours));
        script
    }

    /// Lets time pass.
    fn advance(&mut self, to: u64) {
        while let Some(d) = self.machine.deadline().filter(|d| *d <= START + to) {
            self.now = self.now.max(d.saturating_sub(START));
            self.input(Input::Timer);
        }
        self.now = self.now.max(to);
    }

    /// An act of the captured node: the machine is asked for what applications wanted, and for nothing else.
    fn ours(&mut self, n: usize, what: What) {
        match what {
            What::Syn => self.dialled(n),
            What::Open => {
                if let Some(spec) = self.bound.get(&n).copied() {
                    let l = &mut self.links[n];
                    l.state = State::Open;
                    let (local, remote) = (l.flow.active, l.flow.passive);
                    self.input(Input::Stream(Happened::Opened(
                        id(n),
                        ConnInfo { local, remote, dial: Some(spec.id) },
                    )));
                }
            }
            What::Data(end) => {
                for i in 0..self.links[n].ours.len() {
                    // A message leaves when its first byte does.
                    if self.links[n].ours[i].range.start < end {
                        self.ask(n, i);
                    }
                }
            }
            What::Fin | What::Reset => {
                // A hand closes when it likes. To the machine that is a connection that got lost.
                if self.place == Place::Prober && self.links[n].state == State::Open {
                    self.links[n].state = State::Over;
                    self.input(Input::Stream(Happened::Closed(id(n), CloseWhy::Timeout)));
                }
            }
        }
    }

    /// The captured node's SYN: the machine has dialled, or does so for what the node's application wanted.
    fn dialled(&mut self, n: usize) {
        let remote = self.links[n].flow.passive;
        // A kernel's second is not quite one: the next attempt is due soon, so it is due now.
        let again = self.links[..n].iter().rfind(|l| l.peer == remote.ip()).is_some_and(|l| l.flow.refused());
        if again
            && !self.dials.iter().any(|(_, d)| d.remote == remote)
            && let Some(d) = self.machine.deadline().filter(|d| *d <= START + self.now + REACTION)
        {
            self.advance(d - START);
        }
        if !self.dials.iter().any(|(_, d)| d.remote == remote) {
            let mut wanted: Vec<(u64, usize, usize)> = Vec::new();
            for (l, link) in self.links.iter().enumerate().filter(|(_, l)| l.peer == remote.ip()) {
                for (i, m) in link.ours.iter().enumerate() {
                    if !link.asked.contains(&i) && is_request(&m.msg) && m.at >= self.now {
                        wanted.push((m.at, l, i));
                    }
                }
            }
            match wanted.into_iter().min() {
                Some((_, l, i)) => self.ask(l, i),
                None => {
                    let op = self.handles.ping(&self.machine, Nid::tcp(remote.ip(), 0));
                    self.input(Input::Cmd(AppId::FIRST, op));
                }
            }
        }
        match self.dials.iter().position(|(_, d)| d.remote == remote) {
            Some(at) => {
                let (when, spec) = self.dials.remove(at);
                if when + REACTION < self.now {
                    let early = (self.now - when) / 1_000_000;
                    self.links[n].wrong.push(format!("dials {early} ms earlier"));
                }
                self.bound.insert(n, spec);
            }
            None => self.links[n].wrong.push("does not dial".into()),
        }
    }

    /// An act of the other end.
    fn theirs(&mut self, n: usize, what: What) {
        let (state, dials) = (self.links[n].state, self.links[n].dials);
        match what {
            What::Syn => {}
            What::Open if !dials && state == State::Before => {
                let l = &mut self.links[n];
                l.state = State::Open;
                let (local, remote) = (l.flow.passive, l.flow.active);
                self.input(Input::Stream(Happened::Opened(id(n), ConnInfo { local, remote, dial: None })));
            }
            What::Data(end) => self.data(n, end),
            What::Fin if state == State::Open => {
                self.links[n].followed = true;
                self.input(Input::Stream(Happened::PeerFin(id(n))));
                self.links[n].followed &= self.links[n].closed.is_some();
            }
            What::Reset if state == State::Open => {
                self.links[n].state = State::Over;
                self.input(Input::Stream(Happened::Closed(id(n), CloseWhy::Reset)));
            }
            What::Reset if dials && state == State::Before => {
                self.links[n].state = State::Over;
                if let Some(spec) = self.bound.get(&n).copied() {
                    self.input(Input::Stream(Happened::DialFailed(spec.id, DialError::Refused)));
                }
            }
            What::Open | What::Fin | What::Reset => {}
        }
    }

    /// Bytes of the other end, up to `end` of its stream.
    fn data(&mut self, n: usize, end: usize) {
        let from = std::mem::replace(&mut self.links[n].fed, end);
        if self.links[n].state != State::Open {
            return;
        }
        let begun: Vec<Located> =
            self.links[n].theirs.iter().filter(|m| (from..end).contains(&m.range.start)).cloned().collect();
        for m in begun {
            self.attach(n, &m.msg);
            self.ask_before_answer_to(n, &m.msg);
            if matches!(m.msg, Msg::Lnet(..)) {
                let l = &mut self.links[n];
                self.handles.as_ours(l.version, l.order, &mut l.stream[m.range]);
            }
        }
        let bytes = self.links[n].stream[from..end].to_vec();
        for part in bytes.chunks(self.chunk) {
            if self.links[n].state != State::Open {
                return;
            }
            let frag = self.pool.copy_of(part).unwrap();
            let mut inbox = std::mem::take(&mut self.links[n].inbox);
            inbox.0.push_back(frag);
            self.machine.handle(START + self.now, Input::Stream(Happened::Bytes(id(n), &mut inbox)));
            self.links[n].inbox = inbox;
            self.drain();
        }
    }

    /// Entries that applications of the captured node had in place for a request of the other end's.
    fn attach(&mut self, n: usize, msg: &Msg) {
        let open = self.links[n].state == State::Open;
        let entry = open.then(|| entry_for(msg, self.links.iter().flat_map(|l| &l.ours))).flatten();
        if let Some(op) = entry {
            self.input(Input::Cmd(AppId::FIRST, op));
        }
    }

    /// Asks the machine for a message that an application of the captured node asked for.
    fn ask(&mut self, n: usize, i: usize) {
        if !self.links[n].asked.insert(i) {
            return;
        }
        let msg = self.links[n].ours[i].msg.clone();
        if let Some(op) = self.handles.op(&self.machine, &msg) {
            self.input(Input::Cmd(AppId::FIRST, op));
        }
    }

    /// Asks for what the node had queued before the answer to `m`: their order is the applications' doing.
    fn ask_before_answer_to(&mut self, n: usize, m: &Msg) {
        let peer = self.links[n].peer;
        for l in 0..self.links.len() {
            if self.links[l].peer == peer
                && let Some(end) = self.links[l].ours.iter().position(|o| answers(m, &o.msg))
            {
                (0..end).for_each(|i| self.ask(l, i));
            }
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.machine.handle(START + self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        let now = START + self.now;
        while let Some(out) = self.machine.poll() {
            match out {
                Output::Stream(Action::Send(c, msg)) => {
                    let link = &mut self.links[c.index as usize];
                    let mut bytes = self.loans.sent(&msg);
                    let invented = link.pushed > 0 && !self.handles.as_captured(link.version, &mut bytes);
                    link.pushed += bytes.len() as u64;
                    if !invented {
                        link.wrote.extend(bytes);
                    }
                    let p = Progress { acked: link.pushed, sent: link.pushed };
                    self.machine.handle(now, Input::Stream(Happened::Progress(c, p)));
                }
                Output::Stream(Action::Unhold(_, id)) => self.loans.unhold(id),
                Output::Stream(Action::Listen(_) | Action::Unlisten(_)) => {
                    unreachable!("LNet asks for no address")
                }
                Output::Stream(Action::Dial(spec)) => self.dials.push((self.now, spec)),
                Output::Complete(_, e) => {
                    if let Event::Refused { why, .. } = &e {
                        let l = self.links.last_mut().unwrap();
                        l.wrong.push(format!("refused an operation: {why}"));
                    }
                    self.events.push(e);
                }
                Output::Stream(Action::Close(c, how)) => {
                    let link = &mut self.links[c.index as usize];
                    if link.state == State::Open {
                        link.closed = Some((self.now, how));
                    }
                    link.state = State::Over;
                    link.inbox.0.clear();
                    self.machine.handle(now, Input::Stream(Happened::Closed(c, CloseWhy::Local)));
                }
                Output::Stream(Action::Datagram(..) | Action::Bind(_)) => {
                    unreachable!("LNet has no datagrams")
                }
                Output::Stream(Action::Read(c)) => {
                    let n = c.index as usize;
                    let mut inbox = std::mem::take(&mut self.links[n].inbox);
                    self.machine.handle(now, Input::Stream(Happened::Bytes(c, &mut inbox)));
                    self.links[n].inbox = inbox;
                }
                Output::To(..) | Output::Offer(_) => {}
            }
            self.loans.release(&mut self.machine, now);
        }
        self.pool.home().drain();
    }
}

/// The entry that an application of the captured node had in place for a request, going by what that node wrote.
pub fn entry_for<'a>(msg: &Msg, wrote: impl Iterator<Item = &'a Located>) -> Option<Op> {
    let Msg::Lnet(_, h, payload) = msg else { return None };
    let answer = |is: &dyn Fn(&LnetBody) -> bool| {
        wrote.into_iter().find_map(|m| match &m.msg {
            Msg::Lnet(_, a, p) if is(&a.body) => Some((a.body, p.clone())),
            _ => None,
        })
    };
    let (portal, match_bits, mem, truncate) = match h.body {
        LnetBody::Get { match_bits: ping::MATCH_BITS, .. } => return None,
        LnetBody::Get { portal, match_bits, handle, .. } => {
            let (_, bytes) = answer(&|b| matches!(b, LnetBody::Reply { handle: a } if *a == handle))?;
            (portal, match_bits, MdMem::Source(pages(&bytes)), false)
        }
        LnetBody::Put { portal, match_bits, ack, .. } => {
            let ours = answer(&|b| matches!(b, LnetBody::Ack { handle, .. } if *handle == ack));
            let room = match ours {
                Some((LnetBody::Ack { mlength, .. }, _)) if ack != WireHandle::NONE => mlength,
                // Room for pushes, and for what selftest has services for.
                _ if (portal, match_bits) == (ping::PORTAL, ping::MATCH_BITS) => 272,
                _ if matches!((portal, match_bits), (50, 11 | 12) | (51, 0..=5) | (52, _)) => {
                    payload.len() as u32
                }
                _ => return None,
            };
            (portal, match_bits, MdMem::Sink(Sink::Lend(room)), true)
        }
        _ => return None,
    };
    let md = MdSpec { threshold: Some(1), truncate, manage_remote: false, ..MdSpec::new(mem) };
    (portal < lnet::PORTALS).then(|| Spot(portal, match_bits).attach(0, md))
}

/// Whether an application asks for this.
fn is_request(m: &Msg) -> bool {
    matches!(m, Msg::Lnet(_, LnetHdr { body: LnetBody::Put { .. } | LnetBody::Get { .. }, .. }, _))
}

/// Identity of a node, from its own messages.
fn config(me: IpAddr, place: Place, links: &[Link]) -> Config {
    let mut cfg = Config::new(Nid::tcp(me, 0), 1);
    // Pings and pushes of the captured node are operations.
    cfg.discovery = false;
    // One of the kernels takes everybody (testdata/captures/index.md).
    if me.to_string() == "192.168.77.13" {
        cfg.accept = Accept::All;
    }
    // Kernels take as many of a type as they would open themselves, and the probes' open one.
    cfg.max_conns_per_type = 1;
    let mut first: Option<&Hello> = None;
    let mut types = BTreeSet::new();
    for m in links.iter().flat_map(|l| &l.ours) {
        match &m.msg {
            Msg::Hello(h) => {
                first.get_or_insert(h);
                types.insert(h.ctype);
            }
            Msg::Lnet(_, _, payload) => {
                if let Ok(info) = PingInfo::parse(payload) {
                    (cfg.ping_features, cfg.ping_sequence) = (Some(info.features), Some(info.sequence));
                }
            }
            _ => {}
        }
    }
    if let Some(h) = first {
        cfg.incarnation = h.src_incarnation;
        cfg.pid = h.src_pid;
        if place == Place::Prober {
            // Choices of the hand that a node can be told to make. It sends no keepalives.
            cfg.version = Some(h.version).filter(|v| *v != Version::V4);
            cfg.typed_conns = types.into_iter().any(|t| t != ConnType::Any);
            cfg.keepalive = 0;
        }
    }
    cfg
}
