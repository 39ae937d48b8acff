//! The framework of the model: session, batches, and what a request is answered (selftest.md §4).

use std::collections::BTreeMap;

use super::engine::Test;
use super::{BUFFERS, DATA, Selftest, Stalled, WORK, request_of};
use crate::testing::net::SEC;
use crate::testing::srpc::{BULK_LEN, Sid, Srpc, VERSION, dests, errno, kind, service};

/// Seconds that a session outlives its last framework RPC, and the slots of the timer that ends it, in ns.
const TIMEOUT_S: u64 = 100;
const SLOT: u64 = 8 * SEC;
/// Longest destination list, in entries, and most units a destination.
const MAX_DESTS: u64 = 256 * 341;
const MAX_CONCUR: u64 = 1024;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) sid: Sid,
    name: String,
    pub(super) features: u32,
    refs: u32,
    began: u64,
    pub(super) expiry: u64,
    /// Pings of its units.
    pub(super) pings: u64,
    pub(super) batches: BTreeMap<u64, Batch>,
}

#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) tests: Vec<Test>,
    pub(super) stopping: bool,
}

impl Batch {
    pub(super) fn active(&self) -> usize {
        self.tests.iter().filter(|t| t.active() > 0).count()
    }
}

impl Session {
    pub(super) fn active_batches(&self) -> usize {
        self.batches.values().filter(|b| b.active() > 0).count()
    }

    pub(super) fn active_units(&self) -> usize {
        self.batches.values().flat_map(|b| &b.tests).map(Test::active).sum()
    }
}

impl Selftest {
    fn sid(&self) -> Sid {
        self.session.as_ref().map_or(Sid::ANY, |s| s.sid)
    }

    /// Features of every reply.
    fn features(&self) -> u32 {
        self.session.as_ref().map_or(BULK_LEN, |s| s.features)
    }

    /// A reply of the framework: what all of them begin with.
    fn answer(&self, request: &Srpc, status: u32) -> Srpc {
        let r = Srpc::new(request.kind() + 1, self.features()).with("status", u64::from(status));
        r.with_sid(self.sid())
    }

    fn timer(&mut self, now: u64) {
        if let Some(s) = &mut self.session {
            s.expiry = (now + TIMEOUT_S * SEC).next_multiple_of(SLOT);
        }
    }

    /// A request of the framework.
    pub(super) fn framework(&mut self, now: u64, work: u64) {
        let Some(w) = self.works.get(&work) else { return };
        let (request, kind) = (w.request.clone(), w.request.kind());
        let asks_nothing = matches!(kind, kind::MAKE | kind::DEBUG);
        if request.word("version") != VERSION {
            let r = self.answer(&request, errno::EPROTO);
            return self.reply(now, work, &r);
        }
        let unknown = request.features() & !BULK_LEN != 0;
        let gate = match &self.session {
            _ if asks_nothing => unknown,
            Some(s) => s.features != request.features(),
            None => false,
        };
        if gate {
            let mut r = self.answer(&request, errno::EPROTO);
            if unknown && asks_nothing {
                r = r.with("features", u64::from(BULK_LEN));
            }
            return self.reply(now, work, &r);
        }
        let r = match kind {
            kind::MAKE => Some(self.make(now, &request)),
            kind::REMOVE => Some(self.remove(now, &request)),
            kind::DEBUG => Some(self.debug(&request)),
            kind::STAT => Some(self.stat(now, &request)),
            kind::BATCH => self.batch(now, &request),
            kind::TEST => self.test(now, work, &request),
            _ => None,
        };
        self.timer(now);
        match r {
            Some(r) => self.reply(now, work, &r),
            // TEST goes on by itself.
            None if kind == kind::TEST => {}
            None => drop(self.works.remove(&work)),
        }
    }

    fn make(&mut self, now: u64, q: &Srpc) -> Srpc {
        if q.get("sid_nid") == u64::MAX {
            return self.answer(q, errno::EINVAL);
        }
        if let Some(s) = &mut self.session {
            if s.sid == q.sid() {
                s.refs += 1;
                return self.answer(q, 0).with("timeout", TIMEOUT_S);
            }
            if q.get("force") == 0 {
                let name = s.name.clone();
                return self.answer(q, errno::EBUSY).with("timeout", TIMEOUT_S).with_text("name", &name);
            }
            self.end_session(now);
        }
        self.session = Some(Session {
            sid: q.sid(),
            name: q.text("name"),
            features: q.features(),
            refs: 1,
            began: now,
            expiry: u64::MAX,
            pings: 0,
            batches: BTreeMap::new(),
        });
        (self.brw_errors, self.ping_errors) = (0, 0);
        self.answer(q, 0).with("timeout", TIMEOUT_S)
    }

    fn remove(&mut self, now: u64, q: &Srpc) -> Srpc {
        if q.sid() == Sid::ANY {
            return self.answer(q, errno::EINVAL);
        }
        match &mut self.session {
            None => self.answer(q, errno::ESRCH),
            Some(s) if s.sid != q.sid() => self.answer(q, errno::EBUSY),
            Some(s) => {
                s.refs -= 1;
                if s.refs == 0 {
                    self.end_session(now);
                }
                self.answer(q, 0)
            }
        }
    }

    /// Batches are stopped by force, and the session is gone.
    pub(super) fn end_session(&mut self, now: u64) {
        let batches: Vec<u64> = self.session.iter().flat_map(|s| s.batches.keys().copied()).collect();
        for id in batches {
            self.stop(now, id, true);
        }
        self.session = None;
    }

    fn debug(&self, q: &Srpc) -> Srpc {
        match &self.session {
            None => self.answer(q, errno::ESRCH),
            Some(s) => self.answer(q, 0).with("timeout", TIMEOUT_S).with_text("name", &s.name),
        }
    }

    fn stat(&self, now: u64, q: &Srpc) -> Srpc {
        let status = match (&self.session, q.sid()) {
            (_, Sid::ANY) => errno::EINVAL,
            (Some(s), sid) if s.sid == sid => 0,
            _ => errno::ESRCH,
        };
        let r = self.answer(q, status);
        let (rpc, net) = (self.rpc, self.lnet.counts);
        let running = self.session.as_ref().map_or(0, |s| (now - s.began) / 1_000_000);
        let active = self.session.as_ref().map_or(0, Session::active_batches);
        let all = [
            ("running_ms", running),
            ("active_batches", active as u64),
            ("brw_errors", u64::from(self.brw_errors)),
            ("ping_errors", u64::from(self.ping_errors)),
            ("rpc_errors", u64::from(rpc.errors)),
            ("rpcs_sent", u64::from(rpc.sent)),
            ("rpcs_rcvd", u64::from(rpc.rcvd)),
            ("rpcs_dropped", u64::from(rpc.dropped)),
            ("rpcs_expired", u64::from(rpc.expired)),
            ("bulk_get", rpc.bulk_get),
            ("bulk_put", rpc.bulk_put),
            ("send_count", net.send.0),
            ("recv_count", net.recv.0),
            ("drop_count", net.drop.0),
            ("send_length", net.send.1),
            ("recv_length", net.recv.1),
            ("drop_length", net.drop.1),
        ];
        all.into_iter().fold(r, |r, (name, v)| r.with(name, v))
    }

    fn batch(&mut self, now: u64, q: &Srpc) -> Option<Srpc> {
        let id = q.get("batch");
        let session = self.session.as_ref().filter(|s| s.sid == q.sid());
        let Some(s) = session else { return Some(self.answer(q, errno::ESRCH)) };
        let Some(b) = s.batches.get(&id) else { return Some(self.answer(q, errno::ENOENT)) };
        match q.get("opc") {
            1 => {
                if b.active() == 0 {
                    self.run(now, id);
                }
                Some(self.answer(q, 0))
            }
            2 => {
                self.stop(now, id, q.get("arg") != 0);
                Some(self.answer(q, 0))
            }
            3 => match q.get("testidx") as usize {
                0 => Some(self.answer(q, 0).with("active", b.active() as u64)),
                n => match b.tests.get(n - 1) {
                    Some(t) => Some(self.answer(q, 0).with("active", t.active() as u64)),
                    None => Some(self.answer(q, errno::ENOENT)),
                },
            },
            _ => None,
        }
    }

    fn test(&mut self, now: u64, work: u64, q: &Srpc) -> Option<Srpc> {
        let [turns, concur, ndest, serves] = ["loop", "concur", "ndest", "service"].map(|f| q.get(f));
        let client = q.get("is_client") != 0;
        let refused = turns == 0
            || concur == 0
            || concur > MAX_CONCUR
            || q.sid() == Sid::ANY
            || ndest > MAX_DESTS
            || (client && ndest == 0);
        if refused {
            return Some(self.answer(q, errno::EINVAL));
        }
        let Some(s) = self.session.as_mut().filter(|s| s.sid == q.sid()) else {
            return Some(self.answer(q, errno::ENOENT));
        };
        if !matches!(serves, service::BRW | service::PING) {
            return Some(self.answer(q, errno::EINVAL));
        }
        let b = s.batches.entry(q.get("batch")).or_default();
        if b.active() > 0 {
            return Some(self.answer(q, errno::EBUSY));
        }
        if client {
            let (to, len) = (self.works.get(&work)?.from, 12 * ndest as u32);
            self.lnet.get(now, to, q.get("bulkid"), len, WORK | (work * 4 + DATA));
        } else {
            b.tests.push(Test::server());
            self.later.push(std::cmp::Reverse((now + BUFFERS, work)));
        }
        None
    }

    /// The service of a test for a server has its buffers.
    pub(super) fn buffers_are_there(&mut self, now: u64, work: u64) {
        let Some(w) = self.works.get(&work) else { return };
        let request = w.request.clone();
        self.posted.insert(request.get("service"));
        let r = self.answer(&request, 0);
        self.reply(now, work, &r);
        let (taken, left) =
            std::mem::take(&mut self.stalls).into_iter().partition(|s| self.posted.contains(&s.service));
        self.stalls = left;
        let taken: Vec<Stalled> = taken;
        for s in taken {
            self.request(now, s.from, s.portal, s.service, &s.payload);
        }
    }

    /// The destinations of a test for a client.
    pub(super) fn dests_came(&mut self, now: u64, work: u64, list: &[u8]) {
        let Some(w) = self.works.get(&work) else { return };
        let request = w.request.clone();
        assert_eq!(request.kind(), request_of(service::TEST));
        let status = match Test::client(&request, dests(list, request.get("ndest") as usize)) {
            Ok(t) => match self.session.as_mut().filter(|s| s.sid == request.sid()) {
                Some(s) => {
                    // A client's test counts its pings anew.
                    if request.get("service") == service::PING {
                        s.pings = 0;
                    }
                    s.batches.entry(request.get("batch")).or_default().tests.push(t);
                    0
                }
                None => errno::ENOENT,
            },
            Err(status) => status,
        };
        let r = self.answer(&request, status);
        self.reply(now, work, &r);
    }
}
