//! Answers of the framework (selftest.md §4): requests about the session, batches and tests. None of them waits but one for a
//! client's test, whose destinations are fetched first.

use super::super::{Config, Ops};
use super::engine::Engine;
use super::session::{Act, Session, Sessions};
use super::source::Source;
use crate::wire::srpc::status::{EBUSY, EINVAL, ENOENT, ENOMEM, EPROTO, ESRCH};
use crate::wire::srpc::{
    BRW_MAX, Body, DEST_A_PAGE, DEST_LEN, DEST_MAX, DEST_PAGE, FEATS, FrameworkCounters, LnetCounters,
    Message, Name, RpcCounters, Service, Sid, TestReq, opc, parse_dest,
};
use crate::wire::{ByteOrder, ProcessId};

/// Most units for a destination.
const CONCUR_MAX: u32 = 1024;

/// Consequence of a request.
#[derive(Debug)]
pub(super) enum Next {
    /// This reply.
    Reply(Body),
    /// The same, once LNet's counts are in it.
    Counted(Body),
    /// The destination list is fetched, then [`add_test`] goes on.
    Fetch(Box<TestReq>),
    /// No reply.
    Drop,
}

/// The member, as the framework sees it.
pub(super) struct Framework<'a> {
    pub(super) cfg: &'a Config,
    pub(super) sessions: &'a mut Sessions,
    pub(super) engine: &'a mut Engine,
    pub(super) source: &'a mut Source,
    pub(super) rpc: RpcCounters,
    /// A server's test was added: requests of its service are taken from now on.
    pub(super) serves: bool,
}

impl Framework<'_> {
    /// Seconds that a session lasts without requests, as replies tell them.
    fn timeout(&self) -> u32 {
        u32::try_from(self.cfg.session_timeout / super::super::SEC).unwrap_or(u32::MAX)
    }

    /// Features that replies carry.
    pub(super) fn features(&self) -> u32 {
        self.sessions.get().map_or(FEATS, |s| s.features)
    }

    /// A reply of the service with a status, and nothing else that is of use.
    pub(super) fn refusal(&self, service: Service, status: u32) -> Body {
        let sid = self.sessions.sid();
        match service {
            Service::MakeSession => {
                Body::MakeSessionReply { status, sid, timeout: self.timeout(), name: Name::default() }
            }
            Service::RemoveSession => Body::RemoveSessionReply { status, sid },
            Service::Batch => Body::BatchReply { status, sid, active: 0, time: 0 },
            Service::Test => Body::TestReply { status, sid },
            Service::Stat => Body::StatReply {
                status,
                sid,
                fw: FrameworkCounters::default(),
                rpc: self.rpc,
                lnet: LnetCounters::default(),
            },
            Service::Debug | Service::Join => {
                Body::DebugReply { status, sid, timeout: 0, nbatch: 0, name: Name::default() }
            }
            Service::Brw => Body::BrwReply { status },
            Service::Ping => Body::PingReply { status, magic: 0, seq: 0 },
        }
    }

    /// A request of the framework.
    pub(super) fn request(&mut self, now: u64, m: &Message, ops: &mut Ops) -> Next {
        let (service, _) = m.body.kind();
        self.sessions.heard(now);
        let alien = match service {
            Service::MakeSession | Service::Debug => m.features & !FEATS != 0,
            _ => self.sessions.get().is_some_and(|s| s.features != m.features),
        };
        if alien {
            return Next::Reply(self.refusal(service, EPROTO));
        }
        match m.body {
            Body::MakeSession { sid, force, name, .. } => {
                Next::Reply(self.make(Session { sid, name, features: m.features, started: now }, force, ops))
            }
            Body::RemoveSession { sid, .. } => Next::Reply(self.remove(sid, ops)),
            Body::Debug { .. } => Next::Reply(self.debug()),
            Body::Stat { sid, .. } => Next::Counted(self.stat(now, sid)),
            Body::Batch { sid, batch, opc, testidx, arg, .. } => {
                self.batch(sid, batch, (opc, testidx, arg), ops)
            }
            Body::Test(t) => self.test(&t),
            _ => Next::Drop,
        }
    }

    fn make(&mut self, new: Session, force: u32, ops: &mut Ops) -> Body {
        let act = self.sessions.make(new, force != 0);
        if act == Act::Begin {
            self.engine.clear(ops);
        }
        // The name is told to those alone who may not have the node.
        let held = self.sessions.get().filter(|_| act == Act::Busy);
        let name = held.map_or_else(Name::default, |s| s.name);
        Body::MakeSessionReply {
            status: act.status(),
            sid: self.sessions.sid(),
            timeout: self.timeout(),
            name,
        }
    }

    fn remove(&mut self, sid: Sid, ops: &mut Ops) -> Body {
        let act = self.sessions.end(sid);
        if act == Act::End {
            self.engine.clear(ops);
        }
        Body::RemoveSessionReply { status: act.status(), sid: self.sessions.sid() }
    }

    fn debug(&self) -> Body {
        match self.sessions.get() {
            Some(s) => {
                Body::DebugReply { status: 0, sid: s.sid, timeout: self.timeout(), nbatch: 0, name: s.name }
            }
            None => self.refusal(Service::Debug, ESRCH),
        }
    }

    fn stat(&self, now: u64, sid: Sid) -> Body {
        let status = match self.sessions.is(sid) {
            true => 0,
            false if sid.is_any() => EINVAL,
            false => ESRCH,
        };
        let running = |s: &Session| now.saturating_sub(s.started) / 1_000_000;
        let fw = FrameworkCounters {
            running_ms: self.sessions.get().map_or(0, running) as u32,
            active_batches: self.engine.active_batches(),
            zombie_sessions: 0,
            brw_errors: self.engine.brw_errors,
            ping_errors: self.engine.ping_errors,
        };
        let lnet = LnetCounters::default();
        Body::StatReply { status, sid: self.sessions.sid(), fw, rpc: self.rpc, lnet }
    }

    fn batch(&mut self, sid: Sid, batch: u64, (op, testidx, arg): (u32, u32, u32), ops: &mut Ops) -> Next {
        if !self.sessions.is(sid) {
            return Next::Reply(self.refusal(Service::Batch, ESRCH));
        }
        let done = match op {
            _ if !self.engine.has_batch(batch) => Err(ENOENT),
            opc::RUN => self.engine.run(batch).map(|()| 0),
            opc::STOP => self.engine.stop(batch, arg != 0, ops).map(|()| 0),
            opc::QUERY => self.engine.query(batch, testidx),
            _ => return Next::Drop,
        };
        let (status, active) = done.map_or_else(|status| (status, 0), |active| (0, active));
        Next::Reply(Body::BatchReply { status, sid: self.sessions.sid(), active, time: 0 })
    }

    fn test(&mut self, t: &TestReq) -> Next {
        match self.may_add(t) {
            Err(status) => Next::Reply(self.refusal(Service::Test, status)),
            Ok(()) if t.is_client => Next::Fetch(Box::new(*t)),
            Ok(()) => Next::Reply(self.add_test(t, &[])),
        }
    }

    /// Whether a test may be added; its batch is there from then on.
    fn may_add(&mut self, t: &TestReq) -> Result<(), u32> {
        let service = Service::by_id(t.service).filter(|s| s.is_test());
        let odd = t.loops == 0
            || t.concur == 0
            || t.concur > CONCUR_MAX
            || t.sid.is_any()
            || t.ndest > DEST_MAX
            || (t.is_client && t.ndest == 0);
        if odd || service.is_none() {
            return Err(EINVAL);
        }
        if !self.sessions.is(t.sid) {
            return Err(ENOENT);
        }
        self.engine.batch_or_new(t.batch)?;
        if self.engine.is_active(t.batch) { Err(EBUSY) } else { Ok(()) }
    }

    /// Adds a test, whose destinations have come if it is a client's.
    pub(super) fn add_test(&mut self, t: &TestReq, dests: &[ProcessId]) -> Body {
        let brw = t.service == Service::Brw.id();
        let added = self.may_add(t).and_then(|()| {
            // Memory for the data is found now, not when it is wanted.
            if brw && self.source.pages(BRW_MAX).is_none() {
                return Err(ENOMEM);
            }
            let features = self.features();
            self.engine.add(self.cfg, t, features, dests)
        });
        self.serves |= added.is_ok() && !t.is_client;
        self.refusal(Service::Test, added.err().unwrap_or(0))
    }
}

/// Destinations of a list, which has 341 a page. Kernels' consoles cut the last page short when there are more: those that
/// were cut off are left out.
pub(super) fn destinations(order: ByteOrder, bytes: &[u8], n: u32) -> Vec<ProcessId> {
    let pages = bytes.chunks(DEST_PAGE);
    let entries = pages.flat_map(|page| page.chunks_exact(DEST_LEN).take(DEST_A_PAGE));
    entries.take(n as usize).map(|raw| parse_dest(order, raw)).collect()
}
