//! Verbs about batches and their tests: add_test, run, stop, query, list_batch.

use super::book::{Test, destinations, server_loop};
use super::command::{NewTest, Shown, Side, States};
use super::desk::{Desk, Doing, FAILED, INTERRUPTED, Question, Row, SEC, Step, TRANSACTION, UNHEARD};
use super::members::no_batch;
use super::params::{Params, Rw, judge_v0};
use super::report::{Report, id};
use crate::wire::Nid;
use crate::wire::srpc::{Body, DEST_A_PAGE, FEAT_BULK_LEN, Service, TestParams, TestReq, opc, rw};

/// EPERM, which a console takes as success of a stop (selftest.md §9).
const EPERM: u32 = 1;

/// `add_test`.
pub(super) struct Adding {
    batch: String,
    test: Test,
    /// The servers know it: the clients are next.
    served: bool,
}

impl Adding {
    pub(super) fn begin(desk: &mut Desk, batch: String, spec: NewTest) -> Step {
        let Some(b) = desk.book.batch(&batch) else {
            return Step::End(desk.missing("test", &format!("batch {batch}"), "list_batch"));
        };
        if b.running {
            return Step::End(desk.invalid(format_args!("batch {batch} runs: stop it first")));
        }
        let group = |name: &str| desk.book.group(name).map(|g| g.nodes.clone());
        let (clients, servers) = match (group(&spec.from), group(&spec.to)) {
            (Some(c), Some(s)) => (c, s),
            (c, _) => {
                let name = if c.is_none() { &spec.from } else { &spec.to };
                return Step::End(desk.missing("test", &format!("group {name}"), "list_group"));
            }
        };
        let test = Test { spec, clients, servers };
        if let Err(e) = fits(desk, &test) {
            return Step::End(desk.invalid(e));
        }
        let asked = questions(desk, &batch, &test, Side::Server);
        Step::Ask(Box::new(Adding { batch, test, served: false }), asked, TRANSACTION)
    }
}

/// Whether a test can be: what a kernel would refuse, or not survive, does not go out.
fn fits(desk: &Desk, t: &Test) -> Result<(), String> {
    let spec = &t.spec;
    for (name, nodes) in [(&spec.from, &t.clients), (&spec.to, &t.servers)] {
        if desk.book.count(nodes).active == 0 {
            return Err(format!(
                "group {name} has no ACTIVE node: update_group {name} --refresh asks them again"
            ));
        }
    }
    if spec.span as usize > t.servers.len() {
        return Err(format!(
            "--distribute {}:{} gives each client {} servers, and group {} has {}",
            spec.dist,
            spec.span,
            spec.span,
            spec.to,
            t.servers.len()
        ));
    }
    if spec.span as usize > DEST_A_PAGE {
        return Err(format!(
            "--distribute {}:{}: a client has at most {DEST_A_PAGE} servers, as many as lst can tell a kernel of",
            spec.dist, spec.span
        ));
    }
    if let Some(nid) = t.servers.iter().find(|n| n.to_nid4().is_none()) {
        return Err(format!(
            "{nid} in group {}: lists of servers have room for IPv4 NIDs alone; give its IPv4 NID",
            spec.to
        ));
    }
    if desk.features() & FEAT_BULK_LEN == 0 {
        judge_v0(&spec.params)?;
    }
    Ok(())
}

fn params(p: &Params, features: u32) -> (Service, TestParams) {
    match p {
        Params::Ping => (Service::Ping, TestParams::Ping { size: 0, flags: 0 }),
        Params::Brw { rw: way, check, len, off } => {
            let opc = match way {
                Rw::Read => rw::READ,
                Rw::Write => rw::WRITE,
            };
            let flags = check.flags();
            let brw = if features & FEAT_BULK_LEN == 0 {
                TestParams::BrwV0 { opc, npages: len.div_ceil(4096), flags }
            } else {
                TestParams::Brw { opc: opc as u16, flags: flags as u16, len: *len, offset: *off }
            };
            (Service::Brw, brw)
        }
    }
}

/// The requests that add a test on one side.
fn questions(desk: &Desk, batch: &str, t: &Test, side: Side) -> Vec<Question> {
    let id = desk.book.batch(batch).map_or(0, |b| b.id);
    let spec = &t.spec;
    let (service, params) = params(&spec.params, desk.features());
    let loops = match side {
        Side::Client => spec.times.unwrap_or(u32::MAX),
        Side::Server => server_loop(t.clients.len(), t.servers.len(), spec.dist, spec.span, spec.concurrency),
    };
    let question = |(k, nid): (usize, &Nid)| {
        let dests = match side {
            Side::Client => destinations(k, spec.dist, spec.span, &t.servers),
            Side::Server => Vec::new(),
        };
        let body = Body::Test(TestReq {
            rpyid: 0,
            bulkid: 0,
            sid: desk.sid(),
            batch: id,
            service: service.id(),
            loops,
            concur: spec.concurrency,
            is_client: side == Side::Client,
            stop_onerr: true,
            ndest: dests.len() as u32,
            params,
        });
        Question { nid: *nid, body, dests }
    };
    t.nodes(side).iter().enumerate().map(question).collect()
}

impl Doing for Adding {
    fn go_on(mut self: Box<Self>, desk: &mut Desk, rows: Vec<Row>) -> Step {
        let status = desk.judge("add test", &rows, &[]);
        if status == 0 && !self.served {
            self.served = true;
            let asked = questions(desk, &self.batch, &self.test, Side::Client);
            return Step::Ask(self, asked, TRANSACTION);
        }
        // As with kernels, one that failed is listed, too: its state can be looked at.
        if let Some(b) = desk.book.batch_mut(&self.batch) {
            b.tests.push(self.test);
        }
        if status == 0 {
            desk.say(Report::TestAdded);
        }
        Step::End(status)
    }
}

fn request(desk: &Desk, batch: u64, opc: u32, testidx: u32, arg: u32, nodes: &[Nid]) -> Vec<Question> {
    let body = Body::Batch { rpyid: 0, sid: desk.sid(), batch, opc, testidx, arg };
    nodes.iter().map(|n| Question::new(*n, body)).collect()
}

/// `run`.
pub(super) struct Running {
    batch: String,
}

impl Running {
    pub(super) fn begin(desk: &mut Desk, batch: String, timeout_s: u32) -> Step {
        let Some(b) = desk.book.batch(&batch) else { return Step::End(no_batch(desk, &batch)) };
        let (number, nodes) = (b.id, b.nodes(Side::Client));
        if b.running {
            return Step::End(desk.fail(format!(
                "Failed to start batch: Operation not permitted: {batch} runs already; stop it, or query until it is stopped"
            )));
        }
        let inactive = States { busy: true, down: true, unknown: true, active: false };
        let away: Vec<String> = desk.book.among(&nodes, inactive).iter().map(|(n, _)| id(*n)).collect();
        if !away.is_empty() {
            return Step::End(desk.fail(format!(
                "Failed to start batch: Network is down: not ACTIVE are {}; update_group --refresh asks them again",
                away.join(", ")
            )));
        }
        let asked = request(desk, number, opc::RUN, 0, timeout_s, &nodes);
        let it = Box::new(Running { batch });
        if asked.is_empty() { it.go_on(desk, Vec::new()) } else { Step::Ask(it, asked, TRANSACTION) }
    }
}

impl Doing for Running {
    fn go_on(self: Box<Self>, desk: &mut Desk, rows: Vec<Row>) -> Step {
        let status = desk.judge("run batch", &rows, &[]);
        if let Some(b) = desk.book.batch_mut(&self.batch) {
            b.running = true;
        }
        if status == 0 {
            desk.say(Report::Running { batch: self.batch });
        }
        Step::End(status)
    }
}

/// `stop`, until nothing is active.
pub(super) struct Stopping {
    batch: String,
    number: u64,
    nodes: Vec<Nid>,
    /// The members were told: they are asked whether they have stopped.
    told: bool,
    /// They have answered that they have not: they are asked again.
    waiting: bool,
    /// Next pause, in ns.
    pause: u64,
    /// Members that are active still are waited for until then, in ns.
    until: u64,
}

/// Longest wait for members whose batch is to stop, in ns: RPCs of kernels time out after 64 s.
const STOP_WAIT: u64 = 100 * SEC;

impl Stopping {
    pub(super) fn begin(desk: &mut Desk, batch: String, force: bool) -> Step {
        let Some(b) = desk.book.batch(&batch) else { return Step::End(no_batch(desk, &batch)) };
        let (number, nodes) = (b.id, b.nodes(Side::Client));
        let asked = request(desk, number, opc::STOP, 0, u32::from(force), &nodes);
        let until = desk.now + STOP_WAIT;
        let it =
            Box::new(Stopping { batch, number, nodes, told: false, waiting: false, pause: SEC / 50, until });
        if asked.is_empty() { it.end(desk, 0) } else { Step::Ask(it, asked, TRANSACTION) }
    }

    fn end(self, desk: &mut Desk, status: u8) -> Step {
        if let Some(b) = desk.book.batch_mut(&self.batch) {
            b.running = false;
        }
        if status == 0 {
            desk.say(Report::Stopped { batch: self.batch });
        }
        Step::End(status)
    }

    fn query(mut self: Box<Self>, desk: &Desk) -> Step {
        let asked = request(desk, self.number, opc::QUERY, 0, 0, &self.nodes);
        self.waiting = false;
        Step::Ask(self, asked, TRANSACTION)
    }
}

/// Tests, or units, that a reply says are active.
fn active(r: &Row) -> Option<u32> {
    match r.good()?.body {
        Body::BatchReply { active, .. } => Some(active),
        _ => None,
    }
}

impl Doing for Stopping {
    fn go_on(mut self: Box<Self>, desk: &mut Desk, rows: Vec<Row>) -> Step {
        if self.waiting {
            if desk.interrupted {
                return Step::End(INTERRUPTED);
            }
            return self.query(desk);
        }
        let status = desk.judge("stop batch", &rows, if self.told { &[] } else { &[EPERM] });
        if status != 0 {
            return self.end(desk, status);
        }
        if !self.told {
            self.told = true;
            return self.query(desk);
        }
        if rows.iter().all(|r| active(r) == Some(0)) {
            return self.end(desk, 0);
        }
        if desk.now >= self.until {
            let busy = rows.iter().filter(|r| active(r) != Some(0)).map(|r| id(r.nid)).collect::<Vec<_>>();
            let text = format!(
                "stop batch {}: tests are active after {} s on {}; stop --force, or end_session, gives up what they wait for",
                self.batch,
                STOP_WAIT / SEC,
                busy.join(", ")
            );
            desk.say(Report::Failed { text });
            return Step::End(UNHEARD);
        }
        let until = desk.now + self.pause;
        self.pause = (self.pause * 2).min(SEC);
        self.waiting = true;
        Step::Wait(self, until)
    }
}

/// `query`.
#[derive(Clone)]
pub(super) struct Querying {
    pub(super) batch: String,
    pub(super) test: u32,
    pub(super) timeout_s: u32,
    /// Times that are left.
    pub(super) times: u32,
    pub(super) delay_s: u32,
    pub(super) shown: Shown,
    pub(super) side: Side,
    pub(super) waiting: bool,
    pub(super) status: u8,
}

impl Querying {
    pub(super) fn begin(mut self: Box<Self>, desk: &mut Desk) -> Step {
        let Some(b) = desk.book.batch(&self.batch) else { return Step::End(no_batch(desk, &self.batch)) };
        let number = b.id;
        let nodes = match self.test {
            0 => b.nodes(self.side),
            n => match b.test(n) {
                Some(t) => t.nodes(self.side).to_vec(),
                None => {
                    let (name, list) = (format!("test {n}"), format!("list_batch {}", self.batch));
                    return Step::End(desk.missing("test", &name, &list));
                }
            },
        };
        self.waiting = false;
        if nodes.is_empty() {
            // As lst: only where nodes are to be shown.
            if self.shown.any() {
                desk.say(Report::QueryEmpty);
            } else {
                self.tell(desk, &[]);
            }
            return Step::End(self.status);
        }
        let asked = request(desk, number, opc::QUERY, self.test, 0, &nodes);
        let patience = u64::from(self.timeout_s) * SEC;
        Step::Ask(self, asked, patience)
    }

    fn tell(&mut self, desk: &mut Desk, rows: &[Row]) {
        let (mut unknown, mut idle, mut running, mut failed) = (0, 0, 0, 0);
        for r in rows {
            match (&r.got, active(r)) {
                (Err(_), _) => unknown += 1,
                (Ok(_), Some(0)) => idle += 1,
                (Ok(_), Some(_)) => running += 1,
                (Ok(_), None) => failed += 1,
            }
        }
        if unknown > 0 {
            self.status = UNHEARD;
        }
        if unknown + running + failed == 0
            && self.test == 0
            && self.side == Side::Client
            && let Some(b) = desk.book.batch_mut(&self.batch)
        {
            b.running = false;
        }
        if !self.shown.any() {
            let (batch, test, total) = (self.batch.clone(), self.test, rows.len());
            desk.say(Report::Query { batch, test, unknown, total, idle, running, failed });
            return;
        }
        for r in rows {
            let active = match (&r.got, active(r)) {
                (_, Some(n)) => Ok(n > 0),
                (Ok(m), None) => Err(super::desk::strerror(m.body.status().unwrap_or(0))),
                (Err(f), None) => Err(super::desk::strerror(f.errno)),
            };
            let wanted = match active {
                Ok(true) => self.shown.running,
                Ok(false) => self.shown.idle,
                Err(_) => self.shown.failed,
            };
            if !wanted {
                continue;
            }
            let state = desk.book.state(r.nid);
            desk.say(Report::QueryNode { nid: r.nid, state, active });
        }
    }
}

impl Doing for Querying {
    fn go_on(mut self: Box<Self>, desk: &mut Desk, rows: Vec<Row>) -> Step {
        if desk.interrupted {
            return Step::End(INTERRUPTED);
        }
        if self.waiting {
            return self.begin(desk);
        }
        self.tell(desk, &rows);
        self.times = self.times.saturating_sub(1);
        if self.times == 0 {
            return Step::End(self.status);
        }
        self.waiting = true;
        let until = desk.now + u64::from(self.delay_s) * SEC;
        Step::Wait(self, until)
    }

    fn only_looks(&self) -> bool {
        true
    }
}

/// `list_batch`.
pub(super) fn list(desk: &mut Desk, name: Option<&str>, test: Option<u32>, side: Side, states: States) -> u8 {
    let Some(name) = name else {
        let names = desk.book.batches.iter().map(|b| b.name.clone()).collect();
        desk.say(Report::Names { what: "batches", names });
        return 0;
    };
    let Some(b) = desk.book.batch(name) else { return desk.missing("batch", name, "list_batch") };
    let row = |i: usize, t: &Test| Report::Test {
        index: i as u32 + 1,
        kind: t.spec.params.name(),
        times: t.spec.times,
        concurrency: t.spec.concurrency,
        clients: desk.book.count(&t.clients),
        servers: desk.book.count(&t.servers),
    };
    let reports = match test.map(|n| (n, b.test(n))) {
        Some((n, None)) => {
            let list = format!("list_batch {name}");
            return desk.missing("batch", &format!("test {n}"), &list);
        }
        Some((_, Some(t))) if states.any() => {
            vec![Report::BatchNodes { nodes: desk.book.among(t.nodes(side), states) }]
        }
        None if states.any() => {
            vec![Report::BatchNodes { nodes: desk.book.among(&b.nodes(side), states) }]
        }
        Some((n, Some(t))) => vec![row(n as usize - 1, t)],
        None => {
            let [clients, servers] = [Side::Client, Side::Server].map(|s| desk.book.count(&b.nodes(s)));
            let (tests, running) = (b.tests.len(), b.running);
            let head = Report::Batch { name: b.name.clone(), tests, running, clients, servers };
            let tests = b.tests.iter().enumerate().map(|(i, t)| row(i, t));
            std::iter::once(head).chain(tests).collect()
        }
    };
    desk.reports.extend(reports);
    0
}

/// `add_batch`.
pub(super) fn add(desk: &mut Desk, name: &str) -> u8 {
    if desk.book.batch(name).is_some() {
        desk.fail(format!("batch already exists: {name}; choose another name"));
        return FAILED;
    }
    desk.book.add_batch(name);
    0
}
