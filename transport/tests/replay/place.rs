//! A node of two NIs, a router (`replay_router.rs`) or a node of two rails (`replay_two_nis.rs`): our machine in its place, on all
//! its connections, the others' bytes as they were recorded. It is asked for what applications of the captured node asked for; what
//! LNet does by itself, pings, pushes and answers, comes of itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

use hugepages::HeapRxPool;
use transport::lnd::{AppId, Config, Sink};
use transport::lnet::{Event, Op, RoutingAsk};
use transport::node::{Input, Machine, Output};
use transport::stream::{Action, CloseWhy, ConnInfo, DialError, DialSpec, Happened, Progress};
use transport::testing::capture::{Flow, Located, Msg, SignKind, flows, good_messages};
use transport::wire::{LnetBody, LnetHdr, Nid, PingInfo, ProcessId, Version, WireHandle, ping};

use crate::play::entry_for;
use crate::{Handles, Loans, Queue, SEC, folder, id};

/// The machine's time at the first frame of a capture, in ns.
pub(super) const START: u64 = 10_000 * SEC;
/// Longest time by which ours may say what was captured earlier or later, in ns: what users asked for, and what LNet says by itself.
pub(super) const NEAR: [u64; 2] = [SEC, 20 * SEC];
/// Tag and match bits of a request that no application of the captured node made: it has a connection dialled.
pub(super) const INVENTED: u64 = 99;
/// Longest time by which a kernel's dial may be later than ours, in ns.
const DIAL: u64 = SEC / 2;

/// A node's place in a capture.
#[derive(Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    /// Its NIDs, and those of each other node, the primary one first.
    pub(super) own: [&'static str; 2],
    pub(super) others: &'static [&'static [&'static str]],
    pub(super) tune: fn(&mut Config),
    /// Nothing that is captured between these times, in ms, comes to that NID: connections whose ends came then end at the second one.
    pub(super) silent: Option<(u64, u64, &'static str)>,
    /// Time in ms at which a user has another node discovered.
    pub(super) discovers: Option<u64>,
    /// Where the captured node ended a connection, for reasons that are not in the capture, ours is told that it was lost.
    pub(super) loses: bool,
    /// NIDs of a message that was on its way when the capture began, and is lost with its connections.
    pub(super) under_way: Option<(&'static str, &'static str)>,
    /// What applications put leaves by the pair that it left by: turns begin where they stood before the capture.
    pub(super) paired: bool,
    /// alive_router_check_interval and router_ping_timeout together, in s.
    pub(super) check: u64,
    /// Time of the order to route before its first frame, in ms; `None` where there was none.
    pub(super) enabled: Option<u64>,
    pub(super) buffers: [u32; 3],
    /// Time of its beginning in the capture, in ms: connections of before were its former life's.
    pub(super) begins: u64,
    /// Whether messages for others come.
    pub(super) forwards: bool,
}

impl Case {
    /// A router between 192.168.80.0 and 192.168.81.0.
    pub(super) const fn router(name: &'static str, check: u64, enabled: u64, buffers: [u32; 3]) -> Case {
        Case {
            name,
            own: ["192.168.80.12@tcp", "192.168.81.12@tcp1"],
            others: &[&["192.168.80.11@tcp"], &["192.168.81.13@tcp1"]],
            tune: |_| (),
            silent: None,
            discovers: None,
            loses: false,
            under_way: None,
            paired: true,
            check,
            enabled: Some(enabled),
            buffers,
            begins: 0,
            forwards: true,
        }
    }

    /// A node of two NIs that does not route, beside another one.
    pub(super) const fn rails(
        name: &'static str,
        own: [&'static str; 2],
        others: &'static [&'static [&'static str]],
    ) -> Case {
        Case { own, others, enabled: None, forwards: false, ..Case::router(name, 25, 0, [0; 3]) }
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        self.own.iter().any(|r| nid(r).ip() == Some(ip))
    }

    /// What the node that has this NID told of itself before the capture began.
    pub(super) fn info_of(&self, one: Nid) -> Vec<u8> {
        let node = self.others.iter().find(|n| n.iter().any(|s| nid(s) == one));
        let nids = node.copied().unwrap_or_default().iter().map(|s| nid(s));
        let mut info = Vec::new();
        PingInfo::new(nids, 12345, 0x1e, 2).emit(&mut info);
        info
    }
}

pub(super) struct Link {
    /// Number in the list beside the capture.
    pub(super) number: usize,
    pub(super) flow: Flow,
    /// Of the router.
    pub(super) dials: bool,
    pub(super) peer: Nid,
    pub(super) own: Nid,
    pub(super) version: Version,
    /// Messages that the router wrote in the capture, and those of the neighbour.
    pub(super) want: Vec<Located>,
    pub(super) theirs: Vec<Located>,
    pub(super) stream: Vec<u8>,
    pub(super) fed: usize,
    pub(super) inbox: Queue,
    pub(super) open: bool,
    pub(super) pushed: u64,
    /// Bytes written since the capture began, and before.
    pub(super) wrote: Vec<u8>,
    pub(super) skipped: usize,
}

/// A request of the router's own.
pub(super) struct Asked {
    /// Time at which it was captured, in ns.
    pub(super) at: u64,
    pub(super) peer: Nid,
    pub(super) hdr: LnetHdr,
    pub(super) payload: Vec<u8>,
    /// The captured handle, and ours when we have said the same.
    pub(super) handle: WireHandle,
    pub(super) ours: Option<WireHandle>,
}

pub(super) struct Play {
    pub(super) machine: Machine,
    pub(super) links: Vec<Link>,
    pub(super) pool: HeapRxPool,
    pub(super) loans: Loans,
    pub(super) chunk: usize,
    pub(super) now: u64,
    pub(super) begun: bool,
    pub(super) dials: Vec<(u64, DialSpec)>,
    pub(super) bound: HashMap<usize, DialSpec>,
    /// The router's own requests.
    pub(super) asked: Vec<Asked>,
    /// Added to our cookies of a pair of NIDs to have the captured ones.
    pub(super) cookies: BTreeMap<(Nid, Nid), u64>,
    /// Zero-copy ACKs in the order of their time: heard or given, connection, cookie.
    pub(super) acks: Vec<(bool, usize, u64)>,
    /// Answers to requests that ours has not made yet: connection, captured handle, bytes.
    pub(super) early: Vec<(usize, WireHandle, Vec<u8>)>,
    /// Connections that ours did not ask for.
    pub(super) undialled: Vec<usize>,
    pub(super) paired: bool,
    /// Messages of applications that have been asked for, by connection and place.
    pub(super) done: BTreeSet<(usize, usize)>,
    /// Connections on which something was lost that had come for a silent NID.
    pub(super) lost: BTreeSet<usize>,
    /// Ends of operations, with their errors.
    pub(super) failed: Vec<String>,
    /// What the others answer before the capture begins.
    pub(super) answers: VecDeque<(usize, LnetBody)>,
    /// Incarnations in the router's HELLOs: kernels have one for each NI.
    pub(super) incarnations: BTreeMap<Nid, u64>,
}

fn nid(s: &str) -> Nid {
    s.parse().unwrap()
}

fn of(ip: IpAddr) -> Nid {
    let net = if ip.to_string().starts_with("192.168.81.") { 1 } else { 0 };
    Nid::tcp(ip, net)
}

/// The handle of a request.
pub(super) fn handle_of(body: &mut LnetBody) -> Option<&mut WireHandle> {
    match body {
        LnetBody::Get { handle, .. } | LnetBody::Put { ack: handle, .. } => Some(handle),
        _ => None,
    }
}

/// Whether an application asks for this: LNet pings with other sinks, and pushes, by itself.
pub(super) fn is_users(hdr: &LnetHdr) -> bool {
    match hdr.body {
        LnetBody::Get { portal: ping::PORTAL, sink_length, .. } => sink_length == 3960,
        LnetBody::Put { portal: ping::PORTAL, .. } => false,
        LnetBody::Get { .. } | LnetBody::Put { .. } => true,
        LnetBody::Ack { .. } | LnetBody::Reply { .. } => false,
    }
}

/// A request of the node at `own`: its header without the handle, and that.
pub(super) fn request(own: Nid, hdr: &LnetHdr) -> Option<(LnetHdr, WireHandle)> {
    let mut bare = *hdr;
    let handle = handle_of(&mut bare.body).filter(|_| hdr.src_nid == own)?;
    let was = std::mem::replace(handle, WireHandle::NONE);
    Some((bare, was))
}

fn config(case: &Case) -> Config {
    let mut cfg = Config::new(nid(case.own[0]), 5).also(nid(case.own[1]));
    cfg.alive_router_check_interval = case.check * SEC;
    cfg.router_ping_timeout = 0;
    cfg.routing.buffers = case.buffers;
    // Kernels ask for zero-copy ACKs on V2, too.
    cfg.zc_v2 = true;
    // Kernels take as many of a type as they would open themselves.
    cfg.max_conns_per_type = 1;
    (case.tune)(&mut cfg);
    cfg
}

impl Play {
    pub(super) fn new(case: &Case, chunk: usize) -> Play {
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
            let dials = case.is_own(flow.active.ip());
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
                            let first = cookies.entry((own, peer)).or_insert(k.cookie0);
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
            paired: case.paired,
            done: BTreeSet::new(),
            lost: BTreeSet::new(),
            failed: Vec::new(),
            answers: VecDeque::new(),
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

    pub(super) fn input(&mut self, input: Input<'_>) {
        self.machine.handle(self.now, input);
        self.drain();
    }

    /// Bytes of a neighbour, in pieces.
    pub(super) fn bytes(&mut self, n: usize, bytes: &[u8]) {
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
                Output::Complete(_, e) => self.ended(e),
                Output::To(..) | Output::Offer(_) => unreachable!("one shard"),
            }
            self.loans.release(&mut self.machine, self.now);
        }
        self.pool.home().drain();
    }

    fn ended(&mut self, e: Event) {
        match e {
            Event::Ping { info: Err(why), tag, .. } if tag != INVENTED => {
                self.failed.push(format!("ping: {why}"))
            }
            Event::Send { status: Err(why), tag, .. } | Event::Reply { status: Err(why), tag, .. }
                if tag != INVENTED =>
            {
                self.failed.push(why.to_string());
            }
            Event::Refused { why, .. } => self.failed.push(why.to_string()),
            _ => {}
        }
    }

    pub(super) fn run(mut self, case: &Case) -> Play {
        let begins = START + case.begins * 1_000_000;
        self.now = begins - 100 * SEC;
        if let Some(enabled) = case.enabled {
            // Turned on before its neighbours come: they know it as it is.
            self.advance(begins - enabled * 1_000_000);
            self.machine.routing(self.now, Some(RoutingAsk::Enable));
            self.drain();
        }
        self.advance(begins - SEC / 1000);
        self.set_up(case);
        if let Some((own, peer)) = case.under_way {
            self.invents(nid(own), nid(peer));
        }
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
            let (ours, theirs) = if l.dials { (&l.flow.a, &l.flow.p) } else { (&l.flow.p, &l.flow.a) };
            for (dir, what) in [(theirs, 2), (ours, 5)] {
                let (mut end, mut at) = (0, 0);
                for s in &dir.segments {
                    end += s.bytes.len();
                    at = s.at.max(at);
                    script.push((at, n, what, end));
                }
            }
        }
        if let Some(at) = case.discovers {
            script.push((at * 1_000_000, 0, 6, 0));
        }
        if let Some((from, to, own)) = case.silent {
            let during = |at: u64| (from * 1_000_000..to * 1_000_000).contains(&at);
            let deaf = |n: &usize| self.links[*n].own == nid(own);
            script.retain(|(at, n, what, _)| {
                let gone = *what == 2 && during(*at) && deaf(n);
                if gone {
                    self.lost.insert(*n);
                }
                !gone
            });
            // What is behind a gap in the stream does not come either.
            script.retain(|(_, n, what, more)| !(self.lost.contains(n) && (*what, *more) == (3, 0)));
            for s in script.iter_mut().filter(|s| (s.2, s.3) == (3, 0) && during(s.0) && deaf(&s.1)) {
                s.0 = to * 1_000_000;
            }
        }
        script.sort_unstable_by_key(|(at, n, what, _)| (*at, *what, *n));
        for (at, n, what, more) in script {
            self.advance(START + at);
            match (what, more) {
                (0, 1) => self.dialled(n),
                (1, _) => self.opened(n),
                (2, end) => self.data(n, end),
                (5, end) => self.asked_by_users(n, end),
                (6, _) => self.discovers(),
                (3 | 4, 1) if case.loses && self.links[n].open => {
                    self.links[n].open = false;
                    self.input(Input::Stream(Happened::Closed(id(n), CloseWhy::Timeout)));
                }
                (3, 0) if self.links[n].open => self.input(Input::Stream(Happened::PeerFin(id(n)))),
                (4, 0) => self.reset(n),
                _ => {}
            }
        }
        self
    }

    /// Applications of the captured node had asked for what it wrote up to there.
    fn asked_by_users(&mut self, n: usize, end: usize) {
        for i in 0..self.links[n].want.len() {
            if self.links[n].want[i].range.start < end {
                self.ask(n, i);
            }
        }
    }

    /// Whether an application of this node asked for it.
    fn is_apps(&self, msg: &Msg) -> bool {
        matches!(msg, Msg::Lnet(_, h, _) if is_users(h) && self.links.iter().any(|l| l.own == h.src_nid))
    }

    /// Asks for a message, if it is an application's.
    fn ask(&mut self, n: usize, i: usize) {
        let msg = self.links[n].want[i].msg.clone();
        if !self.is_apps(&msg) || !self.done.insert((n, i)) {
            return;
        }
        let mut op = Handles::default().op(&self.machine, &msg);
        if let Some(Op::Put { from, .. } | Op::Get { from, .. }) = &mut op {
            *from = Some(self.links[n].own).filter(|_| self.paired);
        }
        self.input(Input::Cmd(AppId::FIRST, op.unwrap()));
    }

    /// A user has the other node discovered.
    fn discovers(&mut self) {
        let target = ProcessId::lustre(self.links[0].peer);
        self.input(Input::Cmd(AppId::FIRST, Op::Discover { tag: INVENTED, target, force: false }));
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
            // What an application wanted first on these connections.
            let all = (0..self.links.len()).filter(|l| self.links[*l].flow.passive.ip() == remote.ip());
            let wanted = all.flat_map(|l| (0..self.links[l].want.len()).map(move |i| (l, i)));
            let wanted = wanted.filter(|at| {
                let m = &self.links[at.0].want[at.1];
                self.is_apps(&m.msg) && !self.done.contains(at) && START + m.at >= self.now
            });
            if let Some((l, i)) = wanted.min_by_key(|(l, i)| self.links[*l].want[*i].at) {
                self.ask(l, i);
            }
        }
        if there(self).is_none() {
            self.undialled.push(self.links[n].number);
            if self.links[n].want.is_empty() {
                return;
            }
            self.invents(self.links[n].own, self.links[n].peer);
        }
        self.binds(n);
    }

    /// A request that no application of the captured node made.
    fn invents(&mut self, own: Nid, peer: Nid) {
        let op = Op::Get {
            tag: INVENTED,
            target: ProcessId::lustre(peer),
            from: Some(own),
            portal: ping::PORTAL,
            match_bits: INVENTED,
            sink: Sink::Lend(8),
        };
        self.input(Input::Cmd(AppId::FIRST, op));
    }

    /// A dial of ours becomes this connection.
    fn binds(&mut self, n: usize) {
        let remote = self.links[n].flow.passive;
        if let Some(at) = self.dials.iter().position(|(_, d)| d.remote == remote) {
            self.bound.insert(n, self.dials.remove(at).1);
        }
    }

    fn opened(&mut self, n: usize) {
        // Ours has dialled since, for what was asked when the kernel did.
        if self.links[n].dials && !self.bound.contains_key(&n) {
            self.binds(n);
        }
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
            self.attach(n, &m.msg);
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

    /// Entries that applications of the captured node had in place for a request of another node's.
    fn attach(&mut self, n: usize, msg: &Msg) {
        let entry =
            self.links[n].open.then(|| entry_for(msg, self.links.iter().flat_map(|l| &l.want))).flatten();
        if let Some(op) = entry {
            self.input(Input::Cmd(AppId::FIRST, op));
        }
    }
}
