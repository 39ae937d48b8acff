//! Captured kernels on the other end: their bytes go into our machine, in both roles, whole and byte at a time, and
//! what it writes on each connection is byte for byte what the kernel in its place wrote.
//!
//! Values that no protocol fixes come from the capture: incarnation, handles, ping features, and what applications asked
//! for. Everything else (handshakes, REPLYs, ACKs, zero-copy cookies and ACKs, choice of connection) is the machine's.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use crate::{Handles, Loans, Queue, SEC, answers, captures, folder, id, nid, pages};
use hugepages::HeapRxPool;
use transport::lnd::{AppId, Config, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::node::{Input, Machine, Output};
use transport::stream::{Action, CloseWhy, ConnInfo, Happened, Progress};
use transport::testing::capture::{Flow, Located, Msg, flows, messages};
use transport::testing::data::Spot;
use transport::wire::{
    AcceptorReq, ByteOrder, ConnType, Hello, KsockHdr, KsockType, LnetBody, LnetHdr, Nid, PingInfo,
    ProcessId, Version, ksock, ping,
};

/// One end of a captured kernel pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Active,
    Passive,
}

/// A connection in the replay.
struct Link {
    flow: Flow,
    /// Messages of our side in the capture, and how many are the applications' doing and done.
    ours: Vec<Located>,
    asked: BTreeSet<usize>,
    inbox: Queue,
    /// Bytes that the machine wrote since the captured part began.
    wrote: Vec<u8>,
    open: bool,
    recording: bool,
    pushed: u64,
}

struct Replay {
    machine: Machine,
    role: Role,
    links: Vec<Link>,
    pool: HeapRxPool,
    /// Bytes a fragment.
    chunk: usize,
    now: u64,
    loans: Loans,
    /// Dials of the machine that await their connection.
    dialled: usize,
    handles: Handles,
    /// Versions of the connections, in their order.
    versions: Vec<Version>,
    events: Vec<Event>,
}

fn path(name: &str) -> std::path::PathBuf {
    folder("lnet").join(name).with_extension("pcap")
}

impl Replay {
    fn new(name: &str, role: Role, chunk: usize) -> (Replay, Vec<(u64, usize, bool, Located)>) {
        let flows = flows(&path(name)).unwrap();
        let (me, peer) = match role {
            Role::Active => (nid(flows[0].active), nid(flows[0].passive)),
            Role::Passive => (nid(flows[0].passive), nid(flows[0].active)),
        };
        let (mut links, mut script) = (Vec::new(), Vec::new());
        for (n, flow) in flows.into_iter().enumerate() {
            let (a, left_a) = messages(&flow.a, true, flow.from_start, flow.version()).unwrap();
            let (p, left_p) = messages(&flow.p, false, flow.from_start, flow.version()).unwrap();
            assert_eq!((left_a, left_p), (0, 0));
            let (ours, theirs) = if role == Role::Active { (a, p) } else { (p, a) };
            // A kernel's reaper finds a keepalive due up to one tick before its NOOP is seen.
            let ahead = |m: &Located| if matches!(&m.msg, Msg::Noop(k) if k.cookie1 == 1) { SEC } else { 0 };
            script.extend(ours.iter().map(|m| (m.at - ahead(m), n, true, m.clone())));
            script.extend(theirs.iter().map(|m| (m.at, n, false, m.clone())));
            links.push(Link {
                flow,
                ours,
                asked: BTreeSet::new(),
                inbox: Queue::default(),
                wrote: Vec::new(),
                open: false,
                recording: true,
                pushed: 0,
            });
        }
        script.sort_by_key(|(at, n, ours, m)| (*at, *n, !ours, m.range.start));
        let cfg = Replay::config(me, role, &links);
        let pool = HeapRxPool::new(chunk.max(64), 1 << 14);
        let machine = Machine::new(cfg);
        let now = 1000 * SEC;
        let mut r = Replay {
            machine,
            role,
            links,
            pool,
            chunk,
            now,
            loans: Loans::default(),
            dialled: 0,
            handles: Handles::default(),
            versions: Vec::new(),
            events: Vec::new(),
        };
        r.versions = r.links.iter().map(|l| l.flow.version()).collect();
        r.attach_entries(&script);
        if !r.links[0].flow.from_start {
            r.open_set(me, peer);
        }
        (r, script)
    }

    /// Identity of a kernel, from its own messages.
    fn config(me: Nid, role: Role, links: &[Link]) -> Config {
        let mut cfg = Config::new(me, 1);
        // Pings and pushes of the captured node are operations.
        cfg.discovery = false;
        cfg.keepalive = 10 * SEC;
        let refused = links.first().is_some_and(|l| l.flow.refused());
        let mut bulk_in = 0;
        let acks_on_control = |l: &Link| {
            let control =
                l.ours.iter().any(|m| matches!(&m.msg, Msg::Hello(h) if h.ctype == ConnType::Control));
            control && l.ours.iter().any(|m| matches!(&m.msg, Msg::Noop(k) if k.cookie1 > 1))
        };
        cfg.nonblk_zcack = !links.iter().any(acks_on_control);
        for m in links.iter().flat_map(|l| &l.ours) {
            match &m.msg {
                Msg::Hello(h) => {
                    cfg.incarnation = h.src_incarnation;
                    cfg.typed_conns &= h.ctype != ConnType::Any;
                    bulk_in += u8::from(h.ctype == ConnType::BulkIn);
                    if h.version != Version::V4 && (role == Role::Active || refused) {
                        cfg.version.get_or_insert(h.version);
                    }
                }
                Msg::Noop(k) => cfg.enable_csum |= k.csum != 0,
                Msg::Lnet(k, _, payload) => {
                    cfg.enable_csum |= k.csum != 0;
                    cfg.zc_v2 |= k.cookie0 != 0;
                    let len = payload.len() as u32;
                    if k.cookie0 != 0 {
                        cfg.zc_min_payload = cfg.zc_min_payload.min(len);
                    } else if len >= cfg.zc_min_payload {
                        cfg.zc_min_payload = 16 << 20;
                    }
                    if let Ok(info) = PingInfo::parse(payload) {
                        (cfg.ping_features, cfg.ping_sequence) = (Some(info.features), Some(info.sequence));
                    }
                }
                _ => {}
            }
        }
        cfg.conns_per_peer = bulk_in.max(1);
        cfg
    }

    /// Entries for every request of the peer's, with the answers of the capture.
    fn attach_entries(&mut self, script: &[(u64, usize, bool, Located)]) {
        let mut replies = HashMap::new();
        for (_, _, ours, m) in script {
            if let Msg::Lnet(_, LnetHdr { body: LnetBody::Reply { handle }, .. }, payload) = &m.msg
                && *ours
            {
                replies.insert(*handle, payload.clone());
            }
        }
        for (_, _, ours, m) in script {
            let Msg::Lnet(_, h, _) = &m.msg else { continue };
            let (portal, match_bits, mem) = match h.body {
                _ if *ours => continue,
                LnetBody::Get { match_bits: ping::MATCH_BITS, .. } => continue,
                LnetBody::Get { portal, match_bits, handle, .. } => {
                    (portal, match_bits, MdMem::Source(pages(&replies[&handle])))
                }
                LnetBody::Put { portal, match_bits, .. } => {
                    (portal, match_bits, MdMem::Sink(Sink::Lend(1 << 20)))
                }
                _ => continue,
            };
            let md = MdSpec { threshold: Some(1), ..MdSpec::new(mem) };
            self.input(Input::Cmd(AppId::FIRST, Spot(portal, match_bits).attach(0, md)));
        }
    }

    /// The connections that a capture found open already: CONTROL, BULK_IN and BULK_OUT of the active end, on
    /// ports 1023, 1022 and 1021. The peer opens them, so that no message of ours is needed.
    fn open_set(&mut self, me: Nid, peer: Nid) {
        let types = [(1023, ConnType::Control), (1022, ConnType::BulkIn), (1021, ConnType::BulkOut)];
        for (port, active_type) in types {
            let n = self.links.iter().position(|l| l.flow.active.port() == port).unwrap_or_else(|| {
                let mut flow = self.links[0].flow.clone();
                flow.active.set_port(port);
                (flow.a, flow.p) = Default::default();
                self.links.push(Link {
                    flow,
                    ours: Vec::new(),
                    asked: BTreeSet::new(),
                    inbox: Queue::default(),
                    wrote: Vec::new(),
                    open: false,
                    recording: true,
                    pushed: 0,
                });
                self.links.len() - 1
            });
            self.links[n].recording = false;
            let remote = SocketAddr::new(peer.ip().unwrap(), port);
            let local = SocketAddr::new(me.ip().unwrap(), 988);
            self.links[n].open = true;
            self.input(Input::Stream(Happened::Opened(id(n), ConnInfo { local, remote, dial: None })));
            let ctype = if self.role == Role::Active { active_type.invert() } else { active_type };
            let hello = Hello {
                version: Version::V3,
                order: ByteOrder::Little,
                tcp_magic: false,
                src_nid: peer,
                dst_nid: me,
                src_pid: 12345,
                dst_pid: 0,
                src_incarnation: 77,
                dst_incarnation: 0,
                ctype,
                ips: Default::default(),
            };
            let req = AcceptorReq::new(me);
            let bytes = [&req.emit()[..req.wire_len()], &hello.emit()].concat();
            self.feed(n, &bytes);
            self.links[n].recording = true;
        }
        assert_eq!(self.machine.gauges().conns_up, 3);
        self.spend_cookies(peer);
    }

    /// Gives out the cookies that the set had given out before the capture began.
    fn spend_cookies(&mut self, peer: Nid) {
        let cookies = self.links.iter().flat_map(|l| &l.ours).filter_map(|m| match &m.msg {
            Msg::Lnet(k, _, _) if k.cookie0 != 0 => Some(k.cookie0),
            _ => None,
        });
        let first = cookies.min().unwrap_or(ksock::COOKIE_FIRST);
        let acks = self.links.iter().position(|l| !l.recording || l.open).unwrap_or_default();
        self.links.iter_mut().for_each(|l| l.recording = false);
        for cookie in ksock::COOKIE_FIRST..first {
            let payload = pages(&vec![0; self.machine.config().zc_min_payload as usize]);
            let target = ProcessId::lustre(peer);
            self.input(Input::Cmd(AppId::FIRST, Spot(60, 0).put(0, target, payload, false)));
            let noop = KsockHdr { kind: KsockType::Noop, csum: 0, cookie0: 0, cookie1: cookie };
            self.feed(acks, &noop.emit(ByteOrder::Little));
        }
        self.links.iter_mut().for_each(|l| l.recording = true);
    }

    fn input(&mut self, input: Input<'_>) {
        self.machine.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(out) = self.machine.poll() {
            match out {
                Output::Stream(Action::Send(c, msg)) => {
                    let n = c.index as usize;
                    let mut bytes = self.loans.sent(&msg);
                    if self.links[n].pushed > 0 {
                        self.handles
                            .as_captured(self.versions.get(n).copied().unwrap_or(Version::V3), &mut bytes);
                    }
                    let link = &mut self.links[n];
                    link.pushed += bytes.len() as u64;
                    if link.recording {
                        link.wrote.extend(bytes);
                    }
                    let p = Progress { acked: link.pushed, sent: link.pushed };
                    self.machine.handle(self.now, Input::Stream(Happened::Progress(c, p)));
                }
                Output::Stream(Action::Unhold(_, id)) => self.loans.unhold(id),
                Output::Stream(Action::Listen(_) | Action::Unlisten(_)) => {
                    unreachable!("LNet asks for no address")
                }
                Output::Stream(Action::Dial(spec)) => {
                    assert_eq!(self.role, Role::Active, "the passive end has no reason to dial");
                    let n = self.dialled;
                    self.dialled += 1;
                    let flow = &self.links[n].flow;
                    assert_eq!(spec.remote, flow.passive);
                    let info = ConnInfo { local: flow.active, remote: flow.passive, dial: Some(spec.id) };
                    self.links[n].open = true;
                    self.machine.handle(self.now, Input::Stream(Happened::Opened(id(n), info)));
                }
                Output::Complete(_, e) => self.events.push(e),
                Output::Stream(Action::Close(c, _)) if self.links[c.index as usize].flow.refused() => {
                    self.machine.handle(self.now, Input::Stream(Happened::Closed(c, CloseWhy::Local)));
                }
                Output::Stream(Action::Close(c, how)) => {
                    panic!("{c:?} closed: {how:?}; {:?}", self.machine.counters())
                }
                Output::Stream(Action::Datagram(..) | Action::Bind(_)) => {
                    unreachable!("LNet has no datagrams")
                }
                Output::Stream(Action::Read(_)) | Output::To(..) | Output::Offer(_) => {}
            }
            self.loans.release(&mut self.machine, self.now);
        }
        self.pool.home().drain();
    }

    /// Gives the machine bytes of the peer.
    fn feed(&mut self, n: usize, bytes: &[u8]) {
        for part in bytes.chunks(self.chunk) {
            let frag = self.pool.copy_of(part).unwrap();
            self.links[n].inbox.0.push_back(frag);
            let mut inbox = std::mem::take(&mut self.links[n].inbox);
            self.machine.handle(self.now, Input::Stream(Happened::Bytes(id(n), &mut inbox)));
            assert!(inbox.0.is_empty(), "the machine left bytes");
            self.drain();
        }
    }

    /// Asks the machine for a message that an application of the kernel asked for.
    fn ask(&mut self, n: usize, i: usize) {
        if !self.links[n].asked.insert(i) {
            return;
        }
        let msg = self.links[n].ours[i].msg.clone();
        // Keepalives come of time alone.
        if matches!(&msg, Msg::Noop(k) if k.cookie1 == 1) {
            return self.input(Input::Timer);
        }
        let Some(op) = self.handles.op(&self.machine, &msg) else { return };
        self.input(Input::Cmd(AppId::FIRST, op));
    }

    /// Asks for what the kernel had queued before the answer to `m`: their order is the applications' doing.
    fn ask_before_answer_to(&mut self, n: usize, m: &Msg) {
        if let Some(end) = self.links[n].ours.iter().position(|o| answers(m, &o.msg)) {
            (0..end).for_each(|i| self.ask(n, i));
        }
    }
}

/// Replays a capture; gives the machine afterwards.
fn replay(name: &str, role: Role, chunk: usize) -> Replay {
    let (mut r, script) = Replay::new(name, role, chunk);
    let start = r.now;
    if role == Role::Active && r.links[0].flow.from_start {
        // The first message that an application wanted is why the kernel dialled.
        let first = script.iter().find(|(_, _, ours, m)| *ours && matches!(m.msg, Msg::Lnet(..)));
        if let Some(first) = first {
            let i = r.links[first.1].ours.iter().position(|o| o.range == first.3.range).unwrap();
            r.ask(first.1, i);
        } else {
            // Nothing left: a ping that found no connection to go on.
            let target = ProcessId::lustre(nid(r.links[0].flow.passive));
            r.input(Input::Cmd(AppId::FIRST, Op::Ping { tag: 0, target }));
        }
    }
    for (at, n, ours, m) in script {
        r.now = start + at;
        if ours {
            let i = r.links[n].ours.iter().position(|o| o.range == m.range).unwrap();
            r.ask(n, i);
            continue;
        }
        if !r.links[n].open {
            assert_eq!(role, Role::Passive, "{name}: the machine has not dialled connection {n}");
            let (remote, local) = (r.links[n].flow.active, r.links[n].flow.passive);
            r.links[n].open = true;
            r.input(Input::Stream(Happened::Opened(id(n), ConnInfo { local, remote, dial: None })));
        }
        r.ask_before_answer_to(n, &m.msg);
        let dir = if role == Role::Active { &r.links[n].flow.p } else { &r.links[n].flow.a };
        let mut bytes = dir.bytes()[m.range.clone()].to_vec();
        if matches!(m.msg, Msg::Lnet(..)) {
            r.handles.as_ours(r.versions[n], ByteOrder::Little, &mut bytes);
        }
        r.feed(n, &bytes);
    }
    for (n, l) in r.links.iter().enumerate() {
        let want = if role == Role::Active { l.flow.a.bytes() } else { l.flow.p.bytes() };
        let same = want.iter().zip(&l.wrote).take_while(|(a, b)| a == b).count();
        let at = l.ours.iter().find(|m| m.range.contains(&same)).map(|m| format!("{:.600?}", m.msg));
        assert!(
            want == l.wrote,
            "{name} {role:?}: connection {n} differs at byte {same} of {} ({} written), in {at:?}",
            want.len(),
            l.wrote.len()
        );
    }
    let (g, c) = (r.machine.gauges(), r.machine.counters());
    // On V3 an untyped connection carries nothing: what was asked for stays.
    let stuck = name == "v3-typed_conns0" && role == Role::Active;
    assert_eq!(
        (g.cookies, g.lends, g.credits_used, g.ops, g.queued),
        if stuck { (0, 0, 1, 1, 1) } else { (0, 0, 0, 0, 0) },
        "{name} {role:?}: {g:?}"
    );
    let errors: Vec<_> = c
        .iter()
        .filter(|(n, v)| (n.starts_with("err_") || n.starts_with("drop_")) && *v > 0)
        .filter(|(n, _)| !(*n == "err_version" && r.links[0].flow.refused()))
        .collect();
    assert!(errors.is_empty(), "{name} {role:?}: {errors:?}");
    r
}

/// Both roles, whole messages and byte at a time.
fn everywhere(name: &str, check: impl Fn(&Replay)) {
    for role in [Role::Active, Role::Passive] {
        for chunk in [1 << 21, 1448, 1] {
            check(&replay(name, role, chunk));
        }
    }
}

#[test]
fn connect_ping() {
    everywhere("v3-connect-ping", |r| {
        assert_eq!(r.machine.gauges().conns_up, 3);
        if r.role == Role::Active {
            assert!(matches!(r.events[..], [Event::Ping { info: Ok(_), .. }]));
        }
    });
}

#[test]
fn discover() {
    everywhere("v3-discover", |r| {
        let acks =
            r.events.iter().filter(|e| matches!(e, Event::Ack { status: Ok(()), mlength: 48, .. })).count();
        assert_eq!((acks, r.machine.counters().pushes_rx), (1, 1));
    });
}

#[test]
fn selftest_write_of_a_mebibyte() {
    everywhere("v3-lst-brw-write-1M-checkfull", |r| {
        let c = r.machine.counters();
        match r.role {
            Role::Active => assert_eq!((c.zc_requested, c.zc_acked, c.zc_acks_tx), (1, 1, 0)),
            Role::Passive => {
                assert_eq!((c.zc_requested, c.zc_acks_tx), (0, 1));
                let big = r
                    .events
                    .iter()
                    .any(|e| matches!(e, Event::Reply { status: Ok(()), mlength: 1_048_576, .. }));
                assert!(big);
            }
        }
    });
}

#[test]
fn idle_keepalive() {
    everywhere("v3-idle-keepalive10", |r| {
        let want = if r.role == Role::Active { (3, 1) } else { (1, 3) };
        assert_eq!((r.machine.counters().keepalives_tx, r.machine.counters().noops_rx), want);
    });
}

/// Dials from both ends, and equals among connections: replay_sets.rs has them.
const SETS: [&str; 2] = ["v3-connect-race", "v3-conns_per_peer4"];

#[test]
fn every_other_capture() {
    let here = ["v3-connect-ping", "v3-discover", "v3-lst-brw-write-1M-checkfull", "v3-idle-keepalive10"];
    let mut names = captures("lnet");
    names.retain(|n| !here.contains(&n.as_str()) && !SETS.contains(&n.as_str()));
    assert_eq!(names.len(), 19);
    for name in names {
        if OLDER.iter().any(|(older, _)| *older == name) {
            for chunk in [1 << 21, 1448, 1] {
                replay(&name, Role::Active, chunk);
            }
        } else {
            everywhere(&name, |_| ());
        }
    }
}

/// Kernels that were told to speak an older version refuse the newer one.
const OLDER: [(&str, Version); 2] =
    [("mixed-active3-passive1", Version::V1), ("mixed-active3-passive2", Version::V2)];

/// In their place we take what they refuse, and answer in our version (field report L1: a kernel counts a NONE for its
/// version as any other).
#[test]
fn a_newer_version_is_answered_in_ours() {
    for (name, version) in OLDER {
        for chunk in [1 << 21, 1448, 1] {
            let (mut r, script) = Replay::new(name, Role::Passive, chunk);
            assert_eq!(r.machine.config().version, Some(version));
            let flow = r.links[0].flow.clone();
            r.links[0].open = true;
            let info = ConnInfo { local: flow.passive, remote: flow.active, dial: None };
            r.input(Input::Stream(Happened::Opened(id(0), info)));
            for (_, _, _, m) in script.iter().filter(|(_, n, ours, _)| *n == 0 && !ours) {
                r.feed(0, &flow.a.bytes()[m.range.clone()]);
            }
            let (said, len) = Hello::parse(&r.links[0].wrote).unwrap();
            let (asked, _) = Hello::parse(&flow.a.bytes()[16..]).unwrap();
            assert_eq!((asked.version, said.version, said.ctype), (Version::V3, version, ConnType::Control));
            assert_eq!((len, r.machine.gauges().conns_up), (r.links[0].wrote.len(), 1));
        }
    }
}
