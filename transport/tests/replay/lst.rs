//! A node of a capture's lnet_selftest dialogue, played by somebody else: an [`Actor`] hears what that node heard, in the
//! capture's time and never before it has said what that node had said, and everything that it says is held against the
//! capture: message for message, field for field.
//!
//! Names that a node gives (ids of RPCs, handles, stamps of sessions, batches) are turned into each other, one to one. Other
//! differences are told by name; `replay_selftest` knows their reasons.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use transport::testing::dialogue::{Said, rpcs};
use transport::testing::srpc::{self, Srpc};
use transport::wire::{LnetBody, LnetHdr, Nid, PingInfo, WireHandle, ping};

use crate::sessions::{named, nodes};

/// A message that an actor has sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub to: Nid,
    pub body: LnetBody,
    pub payload: Vec<u8>,
}

/// Somebody in the place of a captured node.
pub trait Actor {
    /// A message comes.
    fn tell(&mut self, hdr: LnetHdr, payload: Vec<u8>);
    /// Virtual time in ns.
    fn now(&self) -> u64;
    /// Time passes.
    fn pass(&mut self, ns: u64);
    /// Messages that it has sent since the last call.
    fn take(&mut self) -> Vec<Sent>;
    /// Carries out the next order of its console's user; `false` when there is none, or while it is busy.
    fn next_order(&mut self) -> bool {
        false
    }
}

/// Names that each side gives, one to one.
#[derive(Default)]
struct Names {
    ours: HashMap<u64, u64>,
    captured: HashMap<u64, u64>,
}

impl Names {
    /// `captured` and `ours` are the same name; `false` when they cannot be.
    fn same(&mut self, captured: u64, ours: u64) -> bool {
        *self.ours.entry(captured).or_insert(ours) == ours
            && *self.captured.entry(ours).or_insert(captured) == captured
    }

    fn ours(&self, captured: u64) -> u64 {
        self.ours.get(&captured).copied().unwrap_or(captured)
    }
}

/// The fields of a request that are names, and the space of each.
const NAMES: [(&str, usize); 4] = [("rpyid", 0), ("bulkid", 0), ("sid_stamp", 1), ("batch", 2)];

/// Fields of a STAT reply that count since lnet_selftest was loaded: of two the difference is held against the capture.
const GROWS: [&str; 7] =
    ["brw_errors", "ping_errors", "rpc_errors", "rpcs_sent", "rpcs_rcvd", "bulk_get", "bulk_put"];

/// Longest time for which something is waited for, in ns.
const PATIENCE: u64 = 75_000_000_000;
/// Time before a console's message at which its user has typed, in ns.
const TYPED: u64 = 20_000_000;

/// Room that `lnetctl ping` and `lctl ping` ask for, in bytes: what a user asked, not LNet.
const USERS_PING: u32 = 3960;

/// Peers of whom `me` asks who they are in a dialogue, and those whom it tells of itself: the others knew each other before.
pub fn discovered(me: Nid, said: &[Said]) -> [BTreeSet<Nid>; 2] {
    [false, true].map(|tells| {
        let its = |s: &&Said| s.hdr.src_nid == me && s.is_ping() && !is_users_ping(s);
        let put = |s: &&Said| matches!(s.hdr.body, LnetBody::Put { .. });
        said.iter().filter(its).filter(|s| put(s) == tells).map(|s| s.hdr.dest_nid).collect()
    })
}

fn is_users_ping(s: &Said) -> bool {
    matches!(s.hdr.body, LnetBody::Get { portal: ping::PORTAL, sink_length: USERS_PING, .. })
}

/// Findings of a replay.
#[derive(Debug, Default)]
pub struct Found {
    /// Messages compared.
    pub compared: usize,
    /// Differences by name, with an example.
    pub differences: BTreeMap<String, String>,
}

pub struct Replay<'a, A> {
    me: Nid,
    said: &'a [Said],
    actor: &'a mut A,
    pool: Vec<(usize, Sent)>,
    sent: usize,
    spaces: [Names; 3],
    handles: Names,
    /// Flags of BRW RPCs, by the captured id of their bulk.
    checks: HashMap<u64, u64>,
    /// RPC of each message, and the place in the actor's order of the last one of an RPC that was compared.
    rpc_of: HashMap<*const Said, usize>,
    last: HashMap<usize, usize>,
    /// The last STAT of each node: captured, and the actor's.
    stats: HashMap<Nid, (Srpc, Srpc)>,
    found: Found,
}

impl<'a, A: Actor> Replay<'a, A> {
    /// Plays `me` of a dialogue.
    pub fn play(me: Nid, said: &'a [Said], actor: &'a mut A) -> Found {
        let mut r = Replay {
            me,
            said,
            actor,
            pool: Vec::new(),
            sent: 0,
            spaces: Default::default(),
            handles: Names::default(),
            checks: HashMap::new(),
            rpc_of: rpcs_of(said),
            last: HashMap::new(),
            stats: HashMap::new(),
            found: Found::default(),
        };
        r.run();
        r.found
    }

    fn run(&mut self) {
        let me = self.me;
        let members = nodes(self.said);
        let mine: Vec<&Said> = self
            .said
            .iter()
            .filter(|s| s.hdr.src_nid == me || s.hdr.dest_nid == me)
            .filter(|s| members.contains(&s.hdr.src_nid) && members.contains(&s.hdr.dest_nid))
            .filter(|s| self.is_lst(s) || self.is_discovery(s))
            .collect();
        // Whatever was said before lnet_selftest began is said at once.
        let Some(first) = mine.iter().find(|s| self.is_lst(s)).map(|s| s.at) else { return };
        let base = self.actor.now();
        for s in mine {
            if let Some(q) = s.srpc().filter(|q| q.has("bulkid") && q.has("flags")) {
                self.checks.insert(q.get("bulkid"), q.get("flags"));
            }
            let due = (base + s.at).saturating_sub(first);
            if s.hdr.src_nid == me {
                self.expect(s, due);
            } else {
                self.pass(due.saturating_sub(self.actor.now()));
                self.tell(s);
            }
        }
        self.pass(3_000_000_000);
        for (_, m) in std::mem::take(&mut self.pool) {
            self.differ(format!("besides: {}", name(&m.body, &m.payload)), format!("{m:?}"));
        }
    }

    /// Of lnet_selftest: not discovery.
    fn is_lst(&self, s: &Said) -> bool {
        match s.hdr.body {
            LnetBody::Put { portal, .. } | LnetBody::Get { portal, .. } => {
                (srpc::TESTS..=srpc::BULK).contains(&portal)
            }
            LnetBody::Ack { .. } => false,
            LnetBody::Reply { handle } => self.said.iter().any(
                |g| matches!(g.hdr.body, LnetBody::Get { handle: h, portal: srpc::BULK, .. } if h == handle),
            ),
        }
    }

    /// Of discovery: pings and pushes with their answers, but for pings that a user of this node asked for.
    fn is_discovery(&self, s: &Said) -> bool {
        match s.hdr.body {
            LnetBody::Put { .. } | LnetBody::Get { .. } => {
                s.is_ping() && (s.hdr.src_nid != self.me || !is_users_ping(s))
            }
            LnetBody::Reply { .. } | LnetBody::Ack { .. } => self.said.iter().any(|q| {
                let request = matches!(q.hdr.body, LnetBody::Put { .. } | LnetBody::Get { .. });
                request
                    && q.handle() == s.handle()
                    && (q.hdr.src_nid, q.hdr.dest_nid) == (s.hdr.dest_nid, s.hdr.src_nid)
                    && self.is_discovery(q)
            }),
        }
    }

    fn differ(&mut self, what: String, example: String) {
        let example: String = example.chars().take(1500).collect();
        self.found.differences.entry(what).or_insert(example);
    }

    fn pass(&mut self, ns: u64) {
        if ns > 0 {
            self.actor.pass(ns);
        }
        for m in self.actor.take() {
            self.pool.push((self.sent, m));
            self.sent += 1;
        }
    }

    /// A message of another node, with the names that the actor knows.
    fn tell(&mut self, s: &Said) {
        let (mut hdr, mut payload) = (s.hdr, s.payload.clone());
        match &mut hdr.body {
            LnetBody::Put { match_bits, portal: srpc::BULK, .. } | LnetBody::Get { match_bits, .. } => {
                *match_bits = self.spaces[0].ours(*match_bits);
            }
            LnetBody::Reply { handle } | LnetBody::Ack { handle, .. } => {
                handle.object = self.handles.ours(handle.object);
                // The interface is whoever's made it.
                handle.interface = u64::MAX;
            }
            _ => {}
        }
        if let Some(mut m) = s.srpc().filter(|m| m.kind() % 2 == 1 && m.has("sid_stamp")) {
            let stamp = self.spaces[1].ours(m.get("sid_stamp"));
            m = m.with("sid_stamp", stamp);
            payload = m.bytes;
        }
        self.actor.tell(hdr, payload);
        self.pass(0);
    }

    /// The actor has to send what the captured node sent. The user types when he did: an order that came long before its answer
    /// would be given up.
    fn expect(&mut self, s: &Said, due: u64) {
        let typed = due.saturating_sub(TYPED);
        let end = self.actor.now().max(due) + PATIENCE;
        let mut step = 200_000;
        let at = loop {
            self.pass(0);
            if let Some(at) = self.best(s) {
                break at;
            }
            if self.actor.now() >= end {
                return self.differ(
                    format!("missing: {}", name(&s.hdr.body, &s.payload)),
                    format!("{} ms: {:?} {:?}", s.at / 1_000_000, s.hdr.body, s.srpc()),
                );
            }
            // Whatever is under way comes first; then it is the user's turn.
            let now = self.actor.now();
            if step > 2_000_000 && now >= typed && self.actor.next_order() {
                step = 200_000;
                continue;
            }
            self.pass(if now < typed { step.min(typed - now) } else { step });
            step = (step * 5 / 4).min(1_000_000_000);
        };
        let (order, ours) = self.pool.remove(at);
        self.compare(s, &ours, order);
        self.found.compared += 1;
    }

    /// The message that is the captured one: with the fewest differences of those that may be it.
    fn best(&self, s: &Said) -> Option<usize> {
        let may = |m: &Sent| {
            if m.to != s.hdr.dest_nid {
                return false;
            }
            match (m.body, s.hdr.body) {
                (
                    LnetBody::Put { portal: a, match_bits: x, .. },
                    LnetBody::Put { portal: b, match_bits: y, .. },
                ) => (a, x) == (b, y),
                (LnetBody::Get { match_bits: x, .. }, LnetBody::Get { match_bits: y, .. }) => x == y,
                (LnetBody::Reply { handle: x }, LnetBody::Reply { handle: y }) => x == y,
                (LnetBody::Ack { .. }, LnetBody::Ack { .. }) => m.body == s.hdr.body,
                _ => false,
            }
        };
        let cost = |m: &Sent| {
            let (a, b) = (Srpc::of(&m.payload), Srpc::of(&s.payload));
            if s.portal() == Some(srpc::BULK) || s.portal().is_none() {
                return 0;
            }
            if a.kind() != b.kind() {
                return 1000;
            }
            a.differs(&b).into_iter().filter(|d| NAMES.iter().all(|n| n.0 != *d)).count()
        };
        let all = self.pool.iter().enumerate().filter(|(_, (_, m))| may(m));
        let best = all.min_by_key(|(_, (_, m))| cost(m)).map(|(n, (_, m))| (n, cost(m)));
        best.filter(|b| b.1 < 1000).map(|b| b.0)
    }

    fn compare(&mut self, s: &Said, ours: &Sent, order: usize) {
        let what = name(&s.hdr.body, &s.payload);
        // All of the header but who gave the handle.
        let same = match (s.hdr.body, ours.body) {
            (
                LnetBody::Put { ack: a, hdr_data: b, offset: c, .. },
                LnetBody::Put { ack: x, hdr_data: y, offset: z, .. },
            ) => {
                let none = [a, x].map(|h| h == WireHandle::NONE);
                let acks = if none == [false; 2] {
                    self.handles.same(a.object, x.object)
                } else {
                    none == [true; 2]
                };
                acks && (b, c) == (y, z)
            }
            (
                LnetBody::Get { handle: a, src_offset: b, sink_length: c, portal: d, .. },
                LnetBody::Get { handle: x, src_offset: y, sink_length: z, portal: w, .. },
            ) => self.handles.same(a.object, x.object) && (b, c, d) == (y, z, w),
            _ => true,
        };
        if !same {
            self.differ(format!("{what}: header"), format!("{:?}, captured {:?}", ours.body, s.hdr.body));
        }
        if let Some(rpc) = self.rpc_of.get(&std::ptr::from_ref(s))
            && self.last.insert(*rpc, order).is_some_and(|before| before > order)
        {
            self.differ(format!("{what}: order"), format!("{s:?}"));
        }
        if let (Ok(theirs), Ok(mine)) = (PingInfo::parse(&s.payload), PingInfo::parse(&ours.payload)) {
            return self.compare_info(&what, &mine, &theirs);
        }
        let Some(theirs) = s.srpc() else { return self.compare_bulk(s, ours, &what) };
        let mine = Srpc::of(&ours.payload);
        if self.checks.contains_key(&s.bits().unwrap_or_default()) {
            return self.compare_bulk(s, ours, &what);
        }
        let before = match mine.kind() == srpc::kind::STAT + 1 {
            true => self.stats.insert(s.hdr.dest_nid, (theirs.clone(), mine.clone())),
            false => None,
        };
        for field in mine.differs(&theirs) {
            if let (true, Some((c, o))) = (GROWS.contains(&field), &before) {
                let grown = |now: &Srpc, then: &Srpc| now.get(field).wrapping_sub(then.get(field));
                if grown(&theirs, c) == grown(&mine, o) {
                    continue;
                }
                self.differ(
                    format!("{what}.{field}: grows otherwise"),
                    format!("{mine:?}, captured {theirs:?}"),
                );
                continue;
            }
            let named = NAMES.iter().find(|n| n.0 == field && mine.kind().is_multiple_of(2));
            let same = named.is_some_and(|n| self.spaces[n.1].same(theirs.get(field), mine.get(field)));
            if !same {
                self.differ(format!("{what}.{field}"), format!("{mine:?}, captured {theirs:?}"));
            }
        }
        for (field, space) in NAMES {
            if mine.kind().is_multiple_of(2) && mine.has(field) && mine.get(field) == theirs.get(field) {
                self.spaces[space].same(theirs.get(field), mine.get(field));
            }
        }
    }

    fn compare_info(&mut self, what: &str, mine: &PingInfo, theirs: &PingInfo) {
        let fields = [
            ("features", mine.features == theirs.features),
            ("pid", mine.pid == theirs.pid),
            ("sequence", mine.sequence == theirs.sequence),
            ("NIs", (&mine.nis, &mine.large) == (&theirs.nis, &theirs.large)),
            ("order", mine.order == theirs.order),
        ];
        for (field, _) in fields.into_iter().filter(|f| !f.1) {
            self.differ(format!("{what}.{field}"), format!("{mine:?}, captured {theirs:?}"));
        }
    }

    /// Bulk: its length always, its bytes as far as somebody checks them.
    fn compare_bulk(&mut self, s: &Said, ours: &Sent, what: &str) {
        if ours.payload.len() != s.payload.len() {
            return self
                .differ(format!("{what}: length"), format!("{} of {}", ours.payload.len(), s.payload.len()));
        }
        let bits = s.bits().or_else(|| {
            let of = |g: &&Said| matches!(g.hdr.body, LnetBody::Get { handle, .. } if handle == s.handle());
            self.said.iter().find(of).and_then(Said::bits)
        });
        let check = bits.and_then(|b| self.checks.get(&b)).copied();
        let differs = |n: usize| ours.payload[n] != s.payload[n];
        let ends = |n: usize| n % 4096 < 8 || n % 4096 >= 4088;
        let wrong = match check {
            // A destination list.
            None | Some(3) => (0..s.payload.len()).any(differs),
            Some(2) => (0..s.payload.len()).filter(|n| ends(*n)).any(differs),
            Some(_) => false,
        };
        if wrong {
            self.differ(format!("{what}: bytes"), format!("check {check:?}, {} bytes", s.payload.len()));
        } else if ours.payload != s.payload {
            self.differ(format!("{what}: bytes that nobody checks"), String::new());
        }
    }
}

/// The RPC that each message is of.
fn rpcs_of(said: &[Said]) -> HashMap<*const Said, usize> {
    let mut out = HashMap::new();
    for (n, r) in rpcs(said).into_iter().enumerate() {
        for m in r.bulk.into_iter().chain(r.reply).chain([r.request]) {
            out.insert(std::ptr::from_ref(&said[m]), n);
        }
    }
    out
}

/// A short name of a message.
pub fn name(body: &LnetBody, payload: &[u8]) -> String {
    let m = Srpc::of(payload);
    match body {
        LnetBody::Put { .. } if m.is_whole() => m.name().to_owned(),
        LnetBody::Put { portal: srpc::BULK, .. } => "bulk PUT".to_owned(),
        LnetBody::Put { portal: ping::PORTAL, .. } => "push".to_owned(),
        LnetBody::Get { portal: ping::PORTAL, .. } => "ping".to_owned(),
        LnetBody::Reply { .. } if PingInfo::parse(payload).is_ok() => "ping REPLY".to_owned(),
        LnetBody::Ack { .. } => "push ACK".to_owned(),
        _ => format!("bulk {}", body.name()),
    }
}

/// The handle of a message to an actor that gave it.
pub fn with_interface(mut hdr: LnetHdr, interface: u64) -> LnetHdr {
    if let LnetBody::Reply { handle } | LnetBody::Ack { handle, .. } = &mut hdr.body {
        *handle = WireHandle { interface, object: handle.object };
    }
    hdr
}

/// A reason for a difference: its name (a `*` at the end for all that begin so), captures that it is in (none: any), why.
pub struct Reason {
    pub what: &'static str,
    pub captures: &'static [&'static str],
    pub why: &'static str,
}

/// Makes a reason.
pub const fn r(what: &'static str, captures: &'static [&'static str], why: &'static str) -> Reason {
    Reason { what, captures, why }
}

const BEFORE: &str = "a kernel counts from when lnet_selftest was loaded, and its LNet from its start; in its place we count from \
                      here on";

const OTHERS: &str = "others spoke with the kernel meanwhile: it put bulk, and nobody had asked for any here";

const BETWEEN: &str = "RPCs between the end of one capture and the beginning of the other are in neither";

/// Differences that whoever takes a kernel's place has.
pub const COMMON: &[Reason] = &[
    r(
        "MKSN_REPLY.name",
        &["lst-distribute-discard", "lst-session-expiry", "lst-stop-force"],
        "a kernel's buffers keep what earlier replies left in them: the name of a session that it was once busy with",
    ),
    r("PING_REQST.nanos", &[], "the client's clock"),
    r("PING_REQST.seconds", &[], "the client's clock"),
    r("STAT_REPLY.bulk_get", &[], BEFORE),
    r("STAT_REPLY.bulk_put", &[], BEFORE),
    r("STAT_REPLY.drop_*", &[], BEFORE),
    r("STAT_REPLY.msgs_*", &[], BEFORE),
    r("STAT_REPLY.recv_*", &[], BEFORE),
    r("STAT_REPLY.send_*", &[], BEFORE),
    r("STAT_REPLY.rpc*", &[], BEFORE),
    r("STAT_REPLY.bulk_put: grows otherwise", &["selftest-requests"], OTHERS),
    r("STAT_REPLY.rpc_errors: grows otherwise", &["selftest-requests"], OTHERS),
    r("STAT_REPLY.rpcs_rcvd: grows otherwise", &["selftest-requests"], OTHERS),
    r("STAT_REPLY.rpcs_sent: grows otherwise", &["selftest-requests"], OTHERS),
    r("STAT_REPLY.running_ms", &[], "milliseconds since the session began"),
    r("STAT_REPLY.sid_*", &["active-sets"], "the session is from before the capture"),
    r("STAT_REPLY.status", &["active-sets"], "the session is from before the capture"),
    r("besides: DEBUG_REPLY", &["active-hellos"], "asked by a pid to which there was no connection"),
    r("besides: PING_REPLY", &["lst-full-session"], "the capture ends before"),
    r("besides: STAT_REPLY", &["selftest-requests"], "the kernel had died of another probe"),
    r("bulk PUT: bytes that nobody checks", &[], "what is not checked is whatever was there"),
    r("bulk REPLY: bytes that nobody checks", &[], "what is not checked is whatever was there"),
    r(
        "bulk PUT: order",
        &["v1-forced-connect-ping-lst", "v3-zc-off"],
        "without a zero-copy ACK to wait for, the reply overtakes the bulk on another connection",
    ),
    r(
        "besides: BRW_REQST",
        &["lst-stop-force"],
        "the console's own member heard of the stop before the others; its units stop when its user is seen to type, one RPC later",
    ),
    r("STAT_REPLY.bulk_get: grows otherwise", &["lst-stop-force"], BETWEEN),
    r("STAT_REPLY.rpcs_rcvd: grows otherwise", &["lst-stop-force"], BETWEEN),
    r("STAT_REPLY.rpcs_sent: grows otherwise", &["lst-stop-force"], BETWEEN),
    r(
        "besides: BRW_REPLY",
        &["mr-resend-zc-put"],
        "a rail of the server's died under its bulk: it had no zero-copy ACK, and said no more",
    ),
];

/// Findings of all replays of a kind.
#[derive(Default)]
pub struct Verdict {
    pub compared: usize,
    /// Difference, capture, node, example.
    all: Vec<(String, String, Nid, String)>,
}

impl Verdict {
    pub fn add(&mut self, capture: &str, me: Nid, found: Found) {
        self.compared += found.compared;
        for (what, example) in found.differences {
            self.all.push((what, capture.to_owned(), me, example));
        }
    }

    /// Every difference has a reason, and every reason a difference.
    pub fn holds<'r>(&self, reasons: impl Iterator<Item = &'r Reason> + Clone) {
        let is = |r: &Reason, what: &str, capture: &str| {
            let begins = |p: &str| what.starts_with(p) && !what[p.len()..].contains(':');
            let same = r.what.strip_suffix('*').map_or(r.what == what, begins);
            same && (r.captures.is_empty() || r.captures.iter().any(|c| named(c, capture)))
        };
        let new = self.all.iter().filter(|(w, c, ..)| !reasons.clone().any(|r| is(r, w, c)));
        let mut wrong: Vec<String> = new.map(|(w, c, me, e)| format!("{c} {me}: {w}: {e}")).collect();
        for r in reasons {
            let lacks = |c: &&str| !self.all.iter().any(|(w, in_, ..)| named(c, in_) && is(r, w, in_));
            let gone: Vec<&str> = r.captures.iter().copied().filter(lacks).collect();
            if !gone.is_empty() || !self.all.iter().any(|(w, c, ..)| is(r, w, c)) {
                wrong.push(format!("no longer: {} {gone:?} ({})", r.what, r.why));
            }
        }
        assert!(wrong.is_empty(), "{} messages compared\n{}", self.compared, wrong.join("\n"));
    }
}
