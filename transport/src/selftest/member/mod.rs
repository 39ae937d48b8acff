//! A member of a group, as the kernel's module makes every node one: it serves BRW and PING to everybody, and once a console
//! has made a session, tests others as it is told (selftest.md §4).
//!
//! `session` is who may tell it, `framework` what it answers, `engine` what it asks as a client, `server` what it serves,
//! `source` the pages that data leaves from, `meter` what its own RPCs measured.

mod engine;
mod framework;
mod meter;
mod server;
mod session;
mod source;

use std::sync::Arc;

use hugepages::Backing;

use self::engine::Engine;
use self::framework::{Framework, Next, destinations};
use self::meter::bump;
pub use self::meter::{FOLD, Meter};
use self::server::{Part, Server, Wait, untag};
use self::session::Sessions;
use self::source::Source;
use super::rpc::{Rpcs, message};
use super::{Config, FRAMEWORK_PORTAL, Ops, TEST_PORTAL, first_id, pattern};
use crate::lnd::{AppId, Data, Sink};
use crate::lnet::{Event, MdMem, MdSpec, MessageCounts, Op, PutEvent};
use crate::stream::slab::Key;
use crate::wire::ProcessId;
use crate::wire::srpc::status::{EBADMSG, EINVAL, EPROTO};
use crate::wire::srpc::{
    self, Body, FEAT_BULK_LEN, FEATS, LnetCounters, Message, RpcCounters, Service, Sid, check, rw,
};

/// A member. It stands beside other applications on its lcore, and knows its events by their ids ([`Config::apps`]).
#[derive(Debug)]
pub struct Member {
    cfg: Config,
    sessions: Sessions,
    engine: Engine,
    server: Server,
    source: Source,
    /// Time of the last turn, in ns; `None` before the first.
    now: Option<u64>,
    /// Requests to test services are taken.
    serves: bool,
    opening: Opening,
}

/// Entries for test services that are not attached yet, by number, and replies that wait for them: whoever is told that a server's
/// test was added may send it requests at once, and those are dropped where nothing matches.
#[derive(Debug, Default)]
struct Opening {
    left: usize,
    replies: Vec<Key>,
}

impl Member {
    /// A member; pages that BRW data leaves from come from `backing`, once there is a BRW.
    pub fn new(cfg: Config, backing: &Arc<dyn Backing>) -> Member {
        let rpcs = Rpcs::new(cfg.apps.client, first_id(cfg.unix_ns, 0));
        Member {
            sessions: Sessions::default(),
            engine: Engine::new(rpcs),
            server: Server::new(cfg.apps.server, cfg.served),
            source: Source::new(backing),
            now: None,
            serves: false,
            opening: Opening::default(),
            cfg,
        }
    }

    /// Measures of its own RPCs, which may be watched while it runs.
    pub fn meter(&self) -> Arc<Meter> {
        self.engine.meter.clone()
    }

    /// Whether events of this application are the member's.
    pub fn is_for(&self, app: AppId) -> bool {
        app == self.cfg.apps.server || app == self.cfg.apps.client
    }

    /// The session that it is in.
    pub fn session(&self) -> Option<Sid> {
        self.sessions.get().map(|s| s.sid)
    }

    /// RPCs that it asks, and RPCs that it serves, now.
    pub fn under_way(&self) -> (usize, usize) {
        (self.engine.rpcs().len(), self.server.len())
    }

    /// Places in its tables and queues: of what was under way, those that were not given back.
    #[cfg(feature = "testing")]
    pub fn places(&self) -> usize {
        self.engine.places() + self.server.places()
    }

    /// Counts of its RPCs, as STAT tells them.
    pub fn counters(&self) -> RpcCounters {
        self.server.counters.and(self.engine.rpcs().counters())
    }

    /// One turn: time-outs, and RPCs that begin. Gives how much was done.
    pub fn turn(&mut self, now: u64, ops: &mut Ops) -> usize {
        if self.now.is_none() {
            self.engine.epoch = self.cfg.unix_ns.wrapping_sub(now);
            self.open(ops);
        }
        self.now = Some(now);
        let mut n = 0;
        if self.sessions.expires(now, &self.cfg) {
            n += 1;
            self.engine.clear(ops);
        }
        n + self.engine.turn(now, &self.cfg, &mut self.source, ops)
    }

    /// Time at which the next turn is due, in ns, if no event comes before.
    pub fn deadline(&self) -> Option<u64> {
        if self.now.is_none() || self.engine.has_ready() {
            return Some(0);
        }
        let rpcs = self.engine.rpcs().deadline();
        [self.sessions.deadline(&self.cfg), rpcs, self.engine.pausing_until()].into_iter().flatten().min()
    }

    /// Takes requests to the framework. Those to other services are dropped, and counted, as long as there is no entry. At kernels
    /// they wait for one, and their connection with them, since buffers of theirs may all be in use; an entry here lends each request its
    /// own, and never is, so what finds none would wait for good.
    fn open(&mut self, ops: &mut Ops) {
        for service in Service::all().filter(|s| !s.is_test() && *s != Service::Join) {
            self.entry(service, ops);
        }
    }

    fn entry(&self, service: Service, ops: &mut Ops) {
        let portal = if service.is_test() { TEST_PORTAL } else { FRAMEWORK_PORTAL };
        let md = MdSpec { ack_disable: true, ..MdSpec::new(MdMem::Sink(Sink::Lend(srpc::LEN as u32))) };
        let (tag, who, match_bits) = (service.id().into(), ProcessId::ANY, service.id().into());
        ops.push_back((
            self.cfg.apps.server,
            Op::Attach { tag, portal, who, match_bits, ignore_bits: 0, md },
        ));
    }

    /// An event of one of its applications.
    pub fn event(&mut self, now: u64, app: AppId, ev: Event, ops: &mut Ops) {
        if app == self.cfg.apps.client {
            if let Some(done) = self.engine.rpcs_mut().event(now, ev, ops) {
                self.engine.done(now, done, &self.cfg, &mut self.source, ops);
            }
            return;
        }
        match ev {
            Event::Put(p) => self.request(now, p, ops),
            Event::Send { tag, status, .. } => self.sent(tag, status.is_ok(), ops),
            Event::Reply { tag, status, mlength, data, .. } => {
                let (key, part) = untag(tag);
                if status.is_err() {
                    self.server.erred();
                    return self.server.give_up(key);
                }
                let got = &mut self.server.counters.bulk_get;
                *got = got.wrapping_add(mlength.into());
                if part == Part::List { self.listed(key, &data, ops) } else { self.fetched(key, &data, ops) }
            }
            Event::Counts { tag, counts } => self.counted(untag(tag).0, &counts, ops),
            Event::Attached { tag, .. } => self.opened(tag, ops),
            Event::Refused { tag, .. } => {
                let (key, part) = untag(tag);
                self.server.erred();
                if part == Part::Entry {
                    self.opened(tag, ops);
                } else {
                    self.server.give_up(key);
                }
            }
            _ => {}
        }
    }

    fn framework(&mut self) -> Framework<'_> {
        let rpc = self.server.counters.and(self.engine.rpcs().counters());
        Framework {
            cfg: &self.cfg,
            sessions: &mut self.sessions,
            engine: &mut self.engine,
            source: &mut self.source,
            rpc,
            serves: self.serves,
        }
    }

    /// Requests to test services are taken from the first server's test on, of whichever session.
    fn now_serves(&mut self, serves: bool, ops: &mut Ops) {
        if serves && !std::mem::replace(&mut self.serves, true) {
            for service in Service::all().filter(|s| s.is_test()) {
                self.opening.left += 1;
                self.entry(service, ops);
            }
        }
    }

    /// An entry is attached, or will not be; with the last one of a test service, replies that have waited go.
    fn opened(&mut self, tag: u64, ops: &mut Ops) {
        let service = u32::try_from(tag).ok().and_then(Service::by_id);
        if service.is_some_and(|s| s.is_test()) {
            self.opening.left = self.opening.left.saturating_sub(1);
        }
        if self.opening.left == 0 {
            for key in std::mem::take(&mut self.opening.replies) {
                self.server.reply(key, ops);
            }
        }
    }

    fn request(&mut self, now: u64, p: PutEvent, ops: &mut Ops) {
        let rcvd = &mut self.server.counters.rpcs_rcvd;
        *rcvd = rcvd.wrapping_add(1);
        let asked = |m: &Message| {
            let (service, request) = m.body.kind();
            request && u64::from(service.id()) == p.match_bits
        };
        let request = p.status.ok().and_then(|()| message(&p.data)).filter(asked);
        let Some(m) = request else {
            // Malformed, of a wrong length or for another service: no reply, the connection goes on.
            return self.server.dropped();
        };
        let (service, _) = m.body.kind();
        if m.version != srpc::VERSION {
            let refusal = self.framework().refusal(service, EPROTO);
            let features = if service.is_test() { FEATS } else { self.framework().features() };
            return self.answer(&p, &m, Message::new(features, refusal), ops);
        }
        if service.is_test() {
            return self.serve(&p, &m, ops);
        }
        let mut framework = self.framework();
        let next = framework.request(now, &m, ops);
        let (features, serves) = (framework.features(), framework.serves);
        self.now_serves(serves, ops);
        match next {
            Next::Reply(body) => self.answer(&p, &m, Message::new(features, body), ops),
            Next::Counted(body) => {
                let wait = Wait::Counts(self.cfg.shards.max(1), Box::default());
                if let Some(key) = self.server.hold(&p, &m, Message::new(features, body), wait) {
                    self.server.count(key, self.cfg.shards.max(1), ops);
                }
            }
            Next::Fetch(t) => {
                let (bulkid, len) = (t.bulkid, t.ndest * srpc::DEST_LEN as u32);
                let reply = Message::new(features, Body::TestReply { status: 0, sid: t.sid });
                if let Some(key) = self.server.hold(&p, &m, reply, Wait::List(t)) {
                    self.server.fetch(key, Part::List, bulkid, len, ops);
                }
            }
            Next::Drop => self.server.dropped(),
        }
    }

    /// A reply that waits for nothing but entries that are not attached yet.
    fn answer(&mut self, p: &PutEvent, request: &Message, reply: Message, ops: &mut Ops) {
        match self.server.hold(p, request, reply, Wait::Nothing) {
            Some(key) if self.opening.left > 0 => self.opening.replies.push(key),
            Some(key) => self.server.reply(key, ops),
            None => {}
        }
    }

    /// A request to a test service.
    fn serve(&mut self, p: &PutEvent, m: &Message, ops: &mut Ops) {
        let known = m.features & !FEATS == 0;
        let features = if known { m.features } else { FEATS };
        match m.body {
            Body::Ping { magic: srpc::PING_MAGIC, seq, .. } => {
                let status = if known { 0 } else { EPROTO };
                let body = Body::PingReply { status, magic: srpc::PING_MAGIC, seq };
                self.answer(p, m, Message::new(features, body), ops);
            }
            Body::Brw { bulkid, rw, len, flags, .. } => {
                let status = brw_status(m, rw, len, flags);
                let reply = Message::new(features, Body::BrwReply { status });
                if status != 0 {
                    return self.answer(p, m, reply, ops);
                }
                let Some(key) = self.server.hold(p, m, reply, Wait::Bulk { len, flags }) else { return };
                if rw == rw::WRITE {
                    return self.server.fetch(key, Part::Fetch, bulkid, len, ops);
                }
                match self.source.pages(len) {
                    Some(pages) => self.server.send(key, bulkid, pages, ops),
                    None => self.server.give_up(key),
                }
            }
            _ => self.server.dropped(),
        }
    }

    /// A PUT of the server's has left, or has not.
    fn sent(&mut self, tag: u64, good: bool, ops: &mut Ops) {
        let (key, part) = untag(tag);
        if !good {
            self.server.erred();
            return self.server.give_up(key);
        }
        if part == Part::Reply {
            self.server.release(key);
            return;
        }
        let Some(Wait::Bulk { len, .. }) = self.server.get_mut(key).map(|c| &c.wait) else { return };
        let len = u64::from(*len);
        let put = &mut self.server.counters.bulk_put;
        *put = put.wrapping_add(len);
        bump(&self.engine.meter.served_read, len);
        // As kernels do: the client has the data, and said so, when it hears of it.
        self.server.reply(key, ops);
    }

    /// Data of a write has come.
    fn fetched(&mut self, key: Key, data: &Data, ops: &mut Ops) {
        let Some(call) = self.server.get_mut(key) else { return };
        let Wait::Bulk { len, flags } = call.wait else { return };
        let good = match data {
            Data::Lent(pieces) => pattern::holds(pieces.iter().map(|p| p.bytes()), len, flags, call.order),
            _ => false,
        };
        if !good {
            call.reply.body = Body::BrwReply { status: EBADMSG };
        }
        bump(&self.engine.meter.served_written, len.into());
        self.server.reply(key, ops);
    }

    /// The destinations of a client's test have come.
    fn listed(&mut self, key: Key, data: &Data, ops: &mut Ops) {
        let Some(call) = self.server.get_mut(key) else { return };
        let order = call.order;
        let Wait::List(t) = std::mem::replace(&mut call.wait, Wait::Nothing) else { return };
        let bytes = match data {
            Data::Lent(pieces) => pieces.iter().flat_map(|p| p.bytes().iter().copied()).collect(),
            _ => Vec::new(),
        };
        let dests = destinations(order, &bytes, t.ndest);
        let mut framework = self.framework();
        let body = framework.add_test(&t, &dests);
        let (features, serves) = (framework.features(), framework.serves);
        self.now_serves(serves, ops);
        if let Some(call) = self.server.get_mut(key) {
            call.reply = Message::new(features, body);
        }
        self.server.reply(key, ops);
    }

    /// A shard has told its counts; the reply goes when all have.
    fn counted(&mut self, key: Key, counts: &MessageCounts, ops: &mut Ops) {
        let Some(call) = self.server.get_mut(key) else { return };
        let Wait::Counts(left, sum) = &mut call.wait else { return };
        add(sum, counts);
        *left = left.saturating_sub(1);
        if *left > 0 {
            return;
        }
        if let Body::StatReply { lnet, .. } = &mut call.reply.body {
            *lnet = **sum;
        }
        self.server.reply(key, ops);
    }
}

/// Status of a BRW request before its bulk.
fn brw_status(m: &Message, rw: u32, len: u32, flags: u32) -> u32 {
    let known = (rw::READ..=rw::WRITE).contains(&rw) && (check::NONE..=check::DISCARD).contains(&flags);
    if !known {
        return EINVAL;
    }
    if m.features & !FEATS != 0 {
        return EPROTO;
    }
    let paged = m.features & FEAT_BULK_LEN != 0 || len.is_multiple_of(srpc::DEST_PAGE as u32);
    if paged && (1..=srpc::BRW_MAX).contains(&len) { 0 } else { EINVAL }
}

/// Adds a shard's counts to those of a reply, whose words wrap.
fn add(sum: &mut LnetCounters, c: &MessageCounts) {
    let word = |w: &mut u32, n: u64| *w = w.wrapping_add(n as u32);
    word(&mut sum.errors, c.errors);
    word(&mut sum.send_count, c.sent);
    word(&mut sum.recv_count, c.received);
    word(&mut sum.drop_count, c.dropped);
    word(&mut sum.route_count, c.routed);
    sum.route_length = sum.route_length.wrapping_add(c.routed_bytes);
    sum.send_length = sum.send_length.wrapping_add(c.sent_bytes);
    sum.recv_length = sum.recv_length.wrapping_add(c.received_bytes);
    sum.drop_length = sum.drop_length.wrapping_add(c.dropped_bytes);
}

#[cfg(feature = "node")]
impl crate::node::App for Member {
    fn turn(&mut self, now: u64, ops: &mut Ops) -> crate::node::Work {
        crate::node::Work::of(Member::turn(self, now, ops))
    }

    fn event(&mut self, now: u64, app: AppId, ev: Event, ops: &mut Ops) {
        Member::event(self, now, app, ev, ops);
    }

    fn patience(&self) -> Option<u64> {
        // Told from the last turn on: too early by what has passed since, never too late.
        let since = self.now?;
        self.deadline().map(|t| t.saturating_sub(since))
    }
}
