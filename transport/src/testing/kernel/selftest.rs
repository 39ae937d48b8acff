//! lnet_selftest of a model kernel (docs/protocol/selftest.md), with a state of its own and a reader of its own
//! (`testing::srpc`): a member in both roles and, on order, a console. It shares nothing with `selftest` or `wire::srpc`.
//! Requests that make a kernel panic (§6) make the model panic, and the test fail.
//!
//! It does no I/O: its LNet is [`Upper`], which `hosts` joins to the simulated network, and a replay to a capture.

mod brw;
pub mod console;
mod engine;
mod member;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

pub use self::console::{Cmd, Console};
use self::member::Session;
use super::lnet::{Came, Mem, Upper};
use crate::testing::net::SEC;
use crate::testing::rng::Rng;
use crate::testing::srpc::{BULK, FRAMEWORK, KINDS, Sid, Srpc, TESTS, errno, kind, service};
use crate::wire::{LnetHdr, Nid};

/// Until a test's RPC is given up, in ns.
const RPC_TIMEOUT: u64 = 64 * SEC;
/// Until an RPC of a console is given up, in ns.
const TRANS_TIMEOUT: u64 = 30 * SEC;
/// Until the services of a test have their buffers, in ns.
const BUFFERS: u64 = 100_000_000;

/// Bulk of an RPC that this node asks for.
#[derive(Clone, Debug)]
pub(super) enum Bulk {
    None,
    Source(Vec<u8>),
    Sink(u32),
}

/// Owner of an RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// A unit of a test: batch, test, unit.
    Unit(u64, usize, usize),
    /// The console.
    Console,
}

/// An RPC that this node has asked for.
#[derive(Debug)]
struct Ask {
    who: Who,
    to: Nid,
    request: Srpc,
    bulk: Bulk,
    sent: bool,
    bulk_done: bool,
    data: Vec<u8>,
    reply: Option<Srpc>,
    deadline: u64,
}

/// An RPC that this node serves.
#[derive(Debug)]
struct Work {
    from: Nid,
    request: Srpc,
}

/// Counts of RPCs as STAT gives them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RpcCounts {
    /// Failed ones.
    pub errors: u32,
    /// Requests sent.
    pub sent: u32,
    /// Requests received.
    pub rcvd: u32,
    /// Requests dropped.
    pub dropped: u32,
    /// RPCs given up.
    pub expired: u32,
    /// Bytes that this node got and put as a server.
    pub bulk_get: u64,
    /// The same for PUTs.
    pub bulk_put: u64,
}

/// A request that waits for buffers of its service.
#[derive(Clone, Debug)]
pub struct Stalled {
    /// Its sender.
    pub from: Nid,
    /// Its portal.
    pub portal: u32,
    /// Its service.
    pub service: u64,
    payload: Vec<u8>,
}

/// Meaning of a token.
const SENT: u64 = 0;
const REPLY: u64 = 1;
const DATA: u64 = 2;
const SENT_BY_CONSOLE: u64 = 3;
/// Works' tokens have this bit.
const WORK: u64 = 1 << 63;

/// The model.
#[derive(Debug)]
pub struct Selftest {
    /// Its LNet.
    pub lnet: Upper,
    rng: Rng,
    session: Option<Session>,
    /// Services of tests that have buffers.
    posted: BTreeSet<u64>,
    asks: BTreeMap<u64, Ask>,
    works: BTreeMap<u64, Work>,
    /// Replies that are due later: service buffers take their time.
    later: BinaryHeap<std::cmp::Reverse<(u64, u64)>>,
    next: u64,
    id: u64,
    /// Counts.
    pub rpc: RpcCounts,
    brw_errors: u32,
    ping_errors: u32,
    /// The console, once there was an order for one.
    pub console: Console,
    /// Requests that nothing takes: their connections stall.
    pub stalls: Vec<Stalled>,
    /// Sessions that expired.
    pub expired: u64,
    /// BRW and ping RPCs that units ended well, and badly.
    pub done: [u64; 2],
    /// RPCs that units have begun, and that the console has.
    pub issued: [u64; 2],
    /// Requests of these that have left.
    pub left: [u64; 2],
}

impl Selftest {
    /// A kernel that has lnet_selftest loaded. `stamp` is its time in seconds, the base of its ids and handles.
    pub fn new(nid: Nid, stamp: u64, seed: u64) -> Selftest {
        Selftest {
            lnet: Upper::new(nid, stamp << 32 | 0x18ec),
            rng: Rng(seed),
            session: None,
            posted: BTreeSet::new(),
            asks: BTreeMap::new(),
            works: BTreeMap::new(),
            later: BinaryHeap::new(),
            next: 1,
            id: stamp << 48,
            rpc: RpcCounts::default(),
            brw_errors: 0,
            ping_errors: 0,
            console: Console::new(nid, stamp),
            stalls: Vec::new(),
            expired: 0,
            done: [0; 2],
            issued: [0; 2],
            left: [0; 2],
        }
    }

    /// A message has come.
    ///
    /// # Panics
    /// The kernel would.
    pub fn hear(&mut self, now: u64, hdr: &LnetHdr, payload: Vec<u8>) {
        self.lnet.hear(now, hdr, payload);
        self.turn(now);
    }

    /// The socklnd tells what became of a message.
    pub fn sent(&mut self, now: u64, token: u64, ok: bool) {
        self.lnet.sent(token, ok);
        self.turn(now);
    }

    /// An order for its console.
    pub fn order(&mut self, now: u64, cmd: &Cmd) {
        self.console_order(now, cmd);
        self.turn(now);
    }

    /// Time at which it has something to do next, in ns.
    pub fn deadline(&self) -> Option<u64> {
        let asks = self.asks.values().map(|a| a.deadline).min();
        let later = self.later.peek().map(|l| l.0.0);
        let expiry = self.session.as_ref().map(|s| s.expiry);
        [asks, later, expiry, self.lnet.deadline(), self.console.deadline()].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: u64) {
        self.lnet.tick(now);
        while self.later.peek().is_some_and(|l| l.0.0 <= now) {
            if let Some(std::cmp::Reverse((_, work))) = self.later.pop() {
                self.buffers_are_there(now, work);
            }
        }
        let late: Vec<u64> = self.asks.iter().filter(|a| a.1.deadline <= now).map(|a| *a.0).collect();
        for ask in late {
            self.rpc.expired += 1;
            self.fail(now, ask, errno::ETIMEDOUT);
        }
        if self.session.as_ref().is_some_and(|s| s.expiry <= now) {
            self.expired += 1;
            self.end_session(now);
        }
        self.console_tick(now);
        self.turn(now);
    }

    /// Its session, how many of its batches are active, and units at work.
    pub fn state(&self) -> (Option<Sid>, usize, usize) {
        match &self.session {
            Some(s) => (Some(s.sid), s.active_batches(), s.active_units()),
            None => (None, 0, 0),
        }
    }

    /// RPCs of units under way.
    pub fn outstanding(&self) -> u64 {
        self.asks.values().filter(|a| a.who != Who::Console).count() as u64
    }

    /// RPCs under way as a client, as a server, and entries in place.
    pub fn under_way(&self) -> (usize, usize, usize) {
        (self.asks.len(), self.works.len(), self.lnet.entries())
    }

    /// A service has buffers from a session before.
    pub fn post(&mut self, service: u64) {
        self.posted.insert(service);
    }

    /// Services of tests that have buffers.
    pub(super) fn posted(&self) -> impl Iterator<Item = u64> {
        self.posted.iter().copied()
    }

    fn turn(&mut self, now: u64) {
        while let Some(c) = self.lnet.came.pop_front() {
            match c {
                Came::Request { from, portal, service, payload } => {
                    self.request(now, from, portal, service, &payload);
                }
                Came::Put { token, payload } => {
                    let (ask, part) = (token / 4, token % 4);
                    let Some(a) = self.asks.get_mut(&ask) else { continue };
                    if part == REPLY {
                        a.reply = Some(Srpc::of(&payload));
                    } else {
                        (a.bulk_done, a.data) = (true, payload);
                    }
                    self.looks_done(now, ask);
                }
                Came::Sent { token, ok } if token & WORK != 0 => self.work_sent(now, (token & !WORK) / 4, ok),
                Came::Sent { token, ok } => {
                    let (ask, part) = (token / 4, token % 4);
                    let request = matches!(part, SENT | SENT_BY_CONSOLE);
                    // A request counts that its RPC did not wait for.
                    if ok && request {
                        self.rpc.sent += 1;
                        self.left[usize::from(part == SENT_BY_CONSOLE)] += 1;
                    }
                    let Some(a) = self.asks.get_mut(&ask) else { continue };
                    if !ok {
                        self.fail(now, ask, errno::EIO);
                        continue;
                    }
                    if request {
                        a.sent = true;
                    } else {
                        a.bulk_done = true;
                    }
                    self.looks_done(now, ask);
                }
                Came::Got { token, payload } => self.work_got(now, (token & !WORK) / 4, payload),
            }
        }
    }

    // ---- the asking side of an RPC

    fn new_id(&mut self) -> u64 {
        self.id += 1;
        self.id
    }

    /// Reply entry, bulk entry, then the request.
    fn ask(&mut self, now: u64, who: Who, to: Nid, mut request: Srpc, bulk: Bulk) {
        self.next += 1;
        let (ask, rpyid) = (self.next, self.new_id());
        let (service, timeout) =
            (service_of(request.kind()), if who == Who::Console { TRANS_TIMEOUT } else { RPC_TIMEOUT });
        request = request.with("rpyid", rpyid);
        self.lnet.attach(to, rpyid, ask * 4 + REPLY, Mem::Sink(160));
        let mem = match &bulk {
            Bulk::None => None,
            Bulk::Source(bytes) => Some(Mem::Source(bytes.clone())),
            Bulk::Sink(len) => Some(Mem::Sink(*len as usize)),
        };
        let bulk_done = mem.is_none();
        if let Some(mem) = mem {
            let bulkid = self.new_id();
            request = request.with("bulkid", bulkid);
            self.lnet.attach(to, bulkid, ask * 4 + DATA, mem);
        }
        let portal = if service >= 10 { TESTS } else { FRAMEWORK };
        let (by, part) = if who == Who::Console { (1, SENT_BY_CONSOLE) } else { (0, SENT) };
        self.issued[by] += 1;
        self.lnet.put(now, to, (portal, service), request.bytes.clone(), ask * 4 + part);
        let (data, reply, deadline) = (Vec::new(), None, now + timeout);
        self.asks.insert(ask, Ask { who, to, request, bulk, sent: false, bulk_done, data, reply, deadline });
    }

    /// Request, reply and bulk come in any order; with a bad status there is no bulk to wait for.
    fn looks_done(&mut self, now: u64, ask: u64) {
        let Some(a) = self.asks.get(&ask) else { return };
        let Some(reply) = &a.reply else { return };
        if !reply.is_whole() || reply.kind() != a.request.kind() + 1 {
            return self.fail(now, ask, errno::EBADMSG);
        }
        if a.sent && (a.bulk_done || reply.get("status") != 0) {
            self.ended(now, ask, 0);
        }
    }

    fn fail(&mut self, now: u64, ask: u64, why: u32) {
        self.rpc.errors += 1;
        self.ended(now, ask, why);
    }

    fn ended(&mut self, now: u64, ask: u64, why: u32) {
        let Some(a) = self.asks.remove(&ask) else { return };
        self.lnet.unlink(a.to, a.request.get("rpyid"));
        if !matches!(a.bulk, Bulk::None) {
            self.lnet.unlink(a.to, a.request.get("bulkid"));
        }
        match a.who {
            Who::Unit(batch, test, unit) => self.unit_done(now, (batch, test, unit), &a, why),
            Who::Console => self.console_done(now, &a, why),
        }
    }

    // ---- the serving side

    fn request(&mut self, now: u64, from: Nid, portal: u32, service: u64, payload: &[u8]) {
        let has_buffers = match portal {
            FRAMEWORK => matches!(service, service::DEBUG..=service::STAT),
            _ => self.posted.contains(&service),
        };
        if !has_buffers {
            let payload = payload.to_vec();
            return self.stalls.push(Stalled { from, portal, service, payload });
        }
        self.rpc.rcvd += 1;
        let m = Srpc::of(payload);
        if !m.is_whole() || m.kind() != request_of(service) {
            self.rpc.dropped += 1;
            return;
        }
        self.next += 1;
        let work = self.next;
        self.works.insert(work, Work { from, request: m });
        if portal == FRAMEWORK { self.framework(now, work) } else { self.serve(now, work) }
    }

    /// Replies to what a work has asked.
    fn reply(&mut self, now: u64, work: u64, reply: &Srpc) {
        if let Some(w) = self.works.remove(&work) {
            self.lnet.put(now, w.from, (BULK, w.request.get("rpyid")), reply.bytes.clone(), 0);
        }
    }

    fn work_got(&mut self, now: u64, work: u64, payload: Option<Vec<u8>>) {
        let Some(w) = self.works.get(&work) else { return };
        let Some(payload) = payload else {
            // Whoever asked has given it up, and hears nothing.
            self.rpc.errors += 1;
            self.works.remove(&work);
            return;
        };
        self.rpc.bulk_get += payload.len() as u64;
        if w.request.kind() == kind::TEST {
            self.dests_came(now, work, &payload);
        } else {
            self.written(now, work, &payload);
        }
    }

    fn work_sent(&mut self, now: u64, work: u64, ok: bool) {
        let Some(w) = self.works.get(&work) else { return };
        let len = w.request.get("len");
        if ok {
            self.rpc.bulk_put += len;
            self.read_sent(now, work);
        } else {
            self.rpc.errors += 1;
            self.works.remove(&work);
        }
    }
}

/// The type of a service's requests.
fn request_of(service: u64) -> u32 {
    KINDS.iter().find(|k| k.0 == service).map_or(u32::MAX, |k| k.1)
}

/// The service that a request of this type is for.
fn service_of(kind: u32) -> u64 {
    KINDS.iter().find(|k| k.1 == kind).map_or(u64::MAX, |k| k.0)
}
