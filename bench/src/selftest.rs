//! lnet_selftest between two nodes: the client's application is a member and a console that orders the tests, the server's
//! is a member. One pair of nodes runs one test after the other, as whoever holds the [`Orders`] says.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dataplane::clock::pause;
use hugepages::{Backing, PageRunMut};
use serde::Serialize;
use smallvec::smallvec;
use transport::lnd::{AppId, Payload};
use transport::lnet::Event;
use transport::node::{App, Ops, Work};
use transport::selftest::{AppIds, Ask, Bulk, Config, Done, Member, Meter, Rpcs, first_id};
use transport::wire::srpc::{self, Body, Message, Name, Service, Sid, TestParams, TestReq, opc};
use transport::wire::{Nid, ProcessId};

use crate::ctl::Ctl;
use crate::measure::{MeasureError, Rtt, Stretch, cpu_time, sleep, wait_for};

/// A test: RPCs of one kind, so many at a time, until it is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// PINGs.
    Ping {
        /// At a time.
        concur: u32,
    },
    /// BRWs.
    Brw {
        /// [`srpc::rw`].
        rw: u32,
        /// [`srpc::check`].
        check: u32,
        /// Bytes.
        len: u32,
        /// At a time.
        concur: u32,
    },
}

/// Tests that run together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// Those of the client's node, which the server's node serves.
    pub there: Vec<Test>,
    /// Those of the server's node, which the client's node serves.
    pub back: Vec<Test>,
}

impl Case {
    /// One BRW test.
    pub fn brw(rw: u32, check: u32, len: u32, concur: u32) -> Case {
        Case { there: vec![Test::Brw { rw, check, len, concur }], back: Vec::new() }
    }

    /// One PING test.
    pub fn ping(concur: u32) -> Case {
        Case { there: vec![Test::Ping { concur }], back: Vec::new() }
    }

    /// Both nodes in both roles: large and small BRWs each way, all bytes checked, and PINGs.
    pub fn both_roles() -> Case {
        use srpc::{check::FULL, rw};
        let brw = |rw, len, concur| Test::Brw { rw, check: FULL, len, concur };
        let all = [
            brw(rw::WRITE, srpc::BRW_MAX, 2),
            brw(rw::READ, srpc::BRW_MAX, 2),
            brw(rw::WRITE, 4096, 4),
            brw(rw::READ, 65_528, 4),
            Test::Ping { concur: 2 },
        ];
        Case { there: all.to_vec(), back: all.to_vec() }
    }
}

/// Orders to the console on the client's lcore, and how far it is. Numbers of cases are places in the list that it was
/// given, counted from 1; 0 is none.
#[derive(Debug, Default)]
pub struct Orders {
    wanted: AtomicU64,
    running: AtomicU64,
    /// Measures of the client's member, once its node is there.
    pub client: OnceLock<Arc<Meter>>,
    /// Payload of what the console and the member on its node tell each other, in bytes: it goes by memory, with a copy.
    pub own: AtomicU64,
    /// Measures of the server's member, once its node is up.
    pub server: OnceLock<Arc<Meter>>,
}

impl Orders {
    /// Waits until both nodes are up.
    ///
    /// # Errors
    /// They do not come up.
    pub fn wait(&self, ctl: &Ctl) -> Result<(), MeasureError> {
        wait_for(ctl, "the start of both nodes", PATIENCE, || {
            self.client.get().is_some() && self.server.get().is_some()
        })
    }

    /// Ends the session.
    ///
    /// # Errors
    /// A node does not answer.
    pub fn end(&self, ctl: &Ctl) -> Result<(), MeasureError> {
        self.run(LAST);
        wait_for(ctl, "the end of the session", PATIENCE, || self.running() == LAST)
    }

    /// Ends the session after a failure: the test that runs is given up, RPCs under way come to their end. Waits for `limit`
    /// at most, and no longer than `wanted`; whether the session has ended.
    pub fn give_up(&self, limit: Duration, wanted: impl Fn() -> bool) -> bool {
        self.run(LAST);
        let end = Instant::now() + limit;
        while self.running() != LAST && Instant::now() < end && wanted() {
            pause(Duration::from_millis(1));
        }
        self.running() == LAST
    }

    /// Ends the case that runs, then runs this one; 0: none.
    pub fn run(&self, case: u64) {
        self.wanted.store(case, Ordering::Release);
    }

    /// The case that runs; 0 once the last one has ended.
    pub fn running(&self) -> u64 {
        self.running.load(Ordering::Acquire)
    }
}

/// A case, measured.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sample {
    /// Payload moved, in Gbit/s.
    pub gbps: f64,
    /// The same for a second of CPU time of both nodes, spinning counted, in Gbit.
    pub gbit_per_cpu_s: f64,
    /// RPCs a second.
    pub per_s: f64,
    /// From request to the end of the RPC, in us; none where that was not measured.
    pub p50_us: Option<f64>,
    /// As `p50_us`.
    pub p99_us: Option<f64>,
    /// As `p50_us`.
    pub p999_us: Option<f64>,
}

/// The case that ends the session.
const LAST: u64 = u64::MAX;
/// Waits, in seconds: for a case to run, and to come to its end.
const PATIENCE: u64 = 30;

/// Runs a case for `secs` after a warm-up of a fifth of that, and ends it.
///
/// # Errors
/// An RPC failed, or nothing moves.
pub fn measure(ctl: &Ctl, orders: &Orders, case: u64, secs: f64) -> Result<Sample, MeasureError> {
    orders.wait(ctl)?;
    let (s, rtt) = stretch(ctl, orders, case, secs)?;
    Ok(Sample {
        gbps: s.gbps(),
        gbit_per_cpu_s: s.gbit_per_cpu_s(),
        per_s: s.rate(),
        p50_us: Some(rtt.p50_us),
        p99_us: Some(rtt.p99_us),
        p999_us: Some(rtt.p999_us),
    })
}

/// The same as counts, with the round trips; the server's node may be another program.
///
/// # Errors
/// As [`measure`].
pub fn stretch(ctl: &Ctl, orders: &Orders, case: u64, secs: f64) -> Result<(Stretch, Rtt), MeasureError> {
    let Some(meter) = orders.client.get() else { return Ok(Default::default()) };
    let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let bytes = || get(&meter.read) + get(&meter.written);
    orders.run(case);
    wait_for(ctl, "the case", PATIENCE, || orders.running() == case)?;
    let (begun, warm) = (get(&meter.rpcs), Duration::from_secs_f64(secs / 5.0));
    sleep(ctl, warm, &mut |_| ())?;
    wait_for(ctl, "the first RPC", PATIENCE, || get(&meter.rpcs) != begun)?;
    drop(meter.take_rtt());
    let (t0, c0, b0, n0) = (Instant::now(), cpu_time(), bytes(), get(&meter.rpcs));
    sleep(ctl, Duration::from_secs_f64(secs), &mut |_| ())?;
    wait_for(ctl, "an RPC", PATIENCE, || get(&meter.rpcs) != n0)?;
    let s = Stretch {
        wall_s: t0.elapsed().as_secs_f64(),
        cpu_s: (cpu_time() - c0).as_secs_f64(),
        messages: get(&meter.rpcs) - n0,
        bytes: bytes() - b0,
    };
    // The member gives round trips away a few times a second: a short stretch is over before the first.
    let mut rtt = None;
    wait_for(ctl, "the first round trip", PATIENCE, || {
        rtt = meter.take_rtt().filter(|h| !h.is_empty());
        rtt.is_some()
    })?;
    let rtt = rtt.map(|h| Rtt::of(&h)).unwrap_or_default();
    orders.run(0);
    wait_for(ctl, "the end of the case", PATIENCE, || orders.running() == 0)?;
    let failed = get(&meter.failed);
    if failed > 0 {
        return Err(MeasureError::Failed(format!("{failed} RPCs failed")));
    }
    Ok((s, rtt))
}

/// A request of the console's.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "some ten of them, once a case")]
enum Step {
    /// One that is answered with 0.
    Ask(ProcessId, Body, Option<Payload>),
    /// Until no test of the batch is active.
    Drained(ProcessId, u64),
    /// The case now runs.
    Runs(u64),
}

impl Step {
    /// The thing that is asked for.
    fn asks(&self) -> &'static str {
        match self {
            Step::Ask(_, Body::MakeSession { .. }, _) => "a session",
            Step::Ask(_, Body::RemoveSession { .. }, _) => "the session's end",
            Step::Ask(_, Body::Test(_), _) => "a test",
            Step::Ask(_, Body::Batch { .. }, _) => "a batch's start or stop",
            Step::Ask(..) => "something else",
            Step::Drained(..) => "the number of running tests",
            Step::Runs(_) => "nothing",
        }
    }
}

/// A member, and the console that orders it.
pub struct Tester {
    member: Member,
    rpcs: Rpcs,
    apps: AppIds,
    ctl: Arc<Ctl>,
    orders: Arc<Orders>,
    cases: Vec<Case>,
    own: ProcessId,
    server: ProcessId,
    /// Lists of destinations: the server's NIDs, and this node's; each with its number of them.
    lists: [(Payload, u32); 2],
    steps: VecDeque<Step>,
    asked: bool,
    case: u64,
    batch: u64,
    begun: bool,
    /// Nodes that have the session.
    joined: Vec<ProcessId>,
    force: bool,
}

/// Ids of the applications, behind those of the bench's own.
///
/// # Errors
/// None that a caller could mend.
pub fn apps() -> Result<AppIds, String> {
    AppIds::from(10).map_err(|e| e.to_string())
}

/// A member; its session does not expire, however long it is told nothing.
fn member(unix_ns: u64, backing: &Arc<dyn Backing>) -> Result<Member, String> {
    let cfg = Config { session_timeout: 0, ..Config::new(apps()?, unix_ns) };
    Ok(Member::new(cfg, backing))
}

/// The server's application, whose measures the orders tell once its node is up.
pub struct Serving {
    member: Member,
    orders: Arc<Orders>,
}

impl Serving {
    /// A member alone.
    ///
    /// # Errors
    /// None that a caller could mend.
    pub fn new(unix_ns: u64, orders: &Arc<Orders>, backing: &Arc<dyn Backing>) -> Result<Serving, String> {
        Ok(Serving { member: member(unix_ns, backing)?, orders: orders.clone() })
    }
}

impl App for Serving {
    fn turn(&mut self, now: u64, ops: &mut Ops) -> Work {
        if self.orders.server.get().is_none() {
            let _ = self.orders.server.set(self.member.meter());
        }
        App::turn(&mut self.member, now, ops)
    }

    fn event(&mut self, now: u64, app: AppId, ev: Event, ops: &mut Ops) {
        self.member.event(now, app, ev, ops);
    }

    fn patience(&self) -> Option<u64> {
        self.member.patience()
    }
}

/// Destinations of a test, of one page at most, and their number.
fn list_of(to: &[ProcessId], backing: &Arc<dyn Backing>) -> Result<(Payload, u32), String> {
    if to.is_empty() || to.len() > srpc::DEST_A_PAGE {
        return Err(format!("{} destinations: a test here has 1 to {}", to.len(), srpc::DEST_A_PAGE));
    }
    let mut run = PageRunMut::new(backing.clone(), to.len() * srpc::DEST_LEN).map_err(|e| e.to_string())?;
    for (entry, to) in run.bytes_mut().chunks_exact_mut(srpc::DEST_LEN).zip(to) {
        entry.copy_from_slice(&srpc::dest(*to));
    }
    Ok((Payload::Pages(smallvec![run.freeze().slice_all()]), to.len() as u32))
}

impl Tester {
    /// The client's application on the node `own`, which tests `server`.
    ///
    /// # Errors
    /// No memory for the list of destinations.
    pub fn new(
        cases: Vec<Case>,
        [own, server]: [Nid; 2],
        unix_ns: u64,
        ctl: &Arc<Ctl>,
        orders: &Arc<Orders>,
        backing: &Arc<dyn Backing>,
    ) -> Result<Tester, String> {
        let apps = apps()?;
        let [own, server] = [own, server].map(ProcessId::lustre);
        let list = |to| list_of(&[to], backing);
        let member = member(unix_ns, backing)?;
        let _ = orders.client.set(member.meter());
        Ok(Tester {
            member,
            rpcs: Rpcs::new(apps.console, first_id(unix_ns, 1)),
            apps,
            ctl: ctl.clone(),
            orders: orders.clone(),
            cases,
            own,
            server,
            lists: [list(server)?, list(own)?],
            steps: VecDeque::new(),
            asked: false,
            case: 0,
            batch: 0,
            begun: false,
            joined: Vec::new(),
            force: true,
        })
    }

    /// The same, which leaves a server alone that is in another session.
    #[must_use]
    pub fn unforced(self) -> Tester {
        Tester { force: false, ..self }
    }

    /// The same with a server of several NIDs: as many RPCs at a time as a test says go to each of them.
    ///
    /// # Errors
    /// None, too many, or no memory for the list.
    pub fn spread(mut self, servers: &[Nid], backing: &Arc<dyn Backing>) -> Result<Tester, String> {
        let servers: Vec<ProcessId> = servers.iter().copied().map(ProcessId::lustre).collect();
        self.lists[0] = list_of(&servers, backing)?;
        Ok(self)
    }

    /// Console's sessions have its NID in 64 bits.
    fn sid(&self) -> Sid {
        Sid { nid4: self.own.nid.to_nid4().unwrap_or(1), stamp: 1 }
    }

    fn batch_op(&self, opc: u32) -> Body {
        Body::Batch { rpyid: 0, sid: self.sid(), batch: self.batch, opc, testidx: 0, arg: 0 }
    }

    fn at(&self, case: u64) -> Option<&Case> {
        (case as usize).checked_sub(1).and_then(|i| self.cases.get(i))
    }

    /// Steps from the case that runs to the one that is wanted.
    fn plan(&mut self) {
        let wanted = self.orders.wanted.load(Ordering::Acquire);
        if wanted == self.case {
            return;
        }
        if !self.begun && wanted != LAST {
            self.begun = true;
            for to in [self.own, self.server] {
                let (sid, force) = (self.sid(), self.force.into());
                let make = Body::MakeSession { rpyid: 0, sid, force, name: Name::new("bench") };
                self.steps.push_back(Step::Ask(to, make, None));
            }
        }
        if self.case != 0 {
            let back = self.at(self.case).is_some_and(|c| !c.back.is_empty());
            for to in std::iter::once(self.own).chain(back.then_some(self.server)) {
                self.steps.push_back(Step::Ask(to, self.batch_op(opc::STOP), None));
                self.steps.push_back(Step::Drained(to, self.batch));
            }
        }
        self.case = wanted;
        if wanted == LAST {
            // The server first: whoever waits for the end waits for that.
            for to in std::mem::take(&mut self.joined).into_iter().rev() {
                let remove = Body::RemoveSession { rpyid: 0, sid: self.sid() };
                self.steps.push_back(Step::Ask(to, remove, None));
            }
            self.begun = false;
        }
        if let Some(case) = self.at(wanted).cloned() {
            self.batch += 1;
            let [there, back] = self.lists.clone();
            let sides =
                [(case.there, self.own, self.server, there), (case.back, self.server, self.own, back)];
            for (tests, client, server, (list, ndest)) in &sides {
                for test in tests {
                    let req = TestReq { ndest: *ndest, ..self.test(*test) };
                    let serve = Body::Test(TestReq { is_client: false, ndest: 0, ..req });
                    self.steps.push_back(Step::Ask(*server, serve, None));
                    self.steps.push_back(Step::Ask(*client, Body::Test(req), Some(list.clone())));
                }
            }
            // A batch that runs takes no more tests.
            for (tests, client, ..) in &sides {
                if !tests.is_empty() {
                    self.steps.push_back(Step::Ask(*client, self.batch_op(opc::RUN), None));
                }
            }
        }
        self.steps.push_back(Step::Runs(wanted));
    }

    fn test(&self, t: Test) -> TestReq {
        let (service, concur, params) = match t {
            Test::Ping { concur } => (Service::Ping, concur, TestParams::Ping { size: 0, flags: 0 }),
            Test::Brw { rw, check, len, concur } => {
                let params = TestParams::Brw { opc: rw as u16, flags: check as u16, len, offset: 0 };
                (Service::Brw, concur, params)
            }
        };
        TestReq {
            rpyid: 0,
            bulkid: 0,
            sid: self.sid(),
            batch: self.batch,
            service: service.id(),
            loops: u32::MAX,
            concur,
            is_client: true,
            stop_onerr: true,
            ndest: 1,
            params,
        }
    }

    /// The next step, if no RPC is under way.
    fn step(&mut self, now: u64, ops: &mut Ops) {
        if self.asked {
            return;
        }
        let (peer, body, bulk) = match self.steps.front() {
            None => return,
            Some(Step::Runs(case)) => {
                self.orders.running.store(*case, Ordering::Release);
                self.ctl.ready.store(true, Ordering::Release);
                self.steps.pop_front();
                return;
            }
            Some(Step::Drained(peer, batch)) => {
                let sid = self.sid();
                let query = Body::Batch { rpyid: 0, sid, batch: *batch, opc: opc::QUERY, testidx: 0, arg: 0 };
                (*peer, query, None)
            }
            Some(Step::Ask(peer, body, bulk)) => (*peer, *body, bulk.clone()),
        };
        self.asked = true;
        if peer == self.own {
            let list = bulk.as_ref().map_or(0, Payload::len);
            self.orders.own.fetch_add(2 * srpc::LEN as u64 + list, Ordering::Relaxed);
        }
        let (service, _) = body.kind();
        let ask = Ask {
            tag: 0,
            peer,
            from: None,
            service,
            request: Message::new(srpc::FEATS, body),
            bulk: bulk.map_or(Bulk::None, Bulk::Source),
            timeout_ns: 10_000_000_000,
        };
        self.rpcs.start(now, ask, ops);
    }

    fn answered(&mut self, done: &Done) {
        self.asked = false;
        let reply = match &done.outcome {
            Ok(m) => m.body,
            Err(e) => return self.refused(&e.to_string()),
        };
        match reply {
            Body::BatchReply { status: 0, active: 1.., .. }
                if matches!(self.steps.front(), Some(Step::Drained(..))) =>
            {
                return;
            }
            body if body.status() != Some(0) => {
                let status = body.status().map_or_else(|| "another answer".into(), |s| format!("status {s}"));
                return self.refused(&status);
            }
            _ => {}
        }
        if let Some(Step::Ask(to, Body::MakeSession { .. }, _)) = self.steps.pop_front() {
            self.joined.push(to);
        }
    }

    fn refused(&mut self, why: &str) {
        let asked = self.steps.front().map_or("nothing", Step::asks);
        self.ctl.fail(format!("asked for {asked}, it answers: {why}"));
        self.steps.pop_front();
        // A test that is refused does not keep the session from its end.
        let ends = |s: &Step| matches!(s, Step::Ask(_, Body::RemoveSession { .. }, _) | Step::Runs(LAST));
        self.steps.retain(ends);
    }
}

impl App for Tester {
    fn turn(&mut self, now: u64, ops: &mut Ops) -> Work {
        let mut n = self.member.turn(now, ops);
        while let Some(done) = self.rpcs.turn(now, ops) {
            n += 1;
            self.answered(&done);
        }
        if self.steps.is_empty() {
            self.plan();
        }
        self.step(now, ops);
        Work::of(n)
    }

    fn event(&mut self, now: u64, app: AppId, ev: Event, ops: &mut Ops) {
        if app != self.apps.console {
            return self.member.event(now, app, ev, ops);
        }
        if let Some(done) = self.rpcs.event(now, ev, ops) {
            self.answered(&done);
        }
    }

    fn patience(&self) -> Option<u64> {
        // An order comes from another thread, which wakes nobody.
        Some(1_000_000)
    }
}
