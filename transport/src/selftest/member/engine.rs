//! Batches, tests and the units of client tests (selftest.md §4, §4.1).
//!
//! ```text
//!          Run                   Stop
//!   IDLE ───────> RUNNING ──────────────> STOPPING      Run: each unit asks one RPC after the other
//!    ^               │                       │          Stop: none begins; by force, those under way are given up
//!    └───────────────┴───────────────────────┘
//!           Done: the last unit has ended
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::rpc::{Ask, Bulk, Done, Rpcs};
use super::super::{Config, Ops};
use super::meter::{Meter, Recent, bump};
use super::source::Source;
use crate::stream::slab::{Key, Slab};
use crate::wire::srpc::status::{EINVAL, ENOENT, ENOMEM};
use crate::wire::srpc::{self, Body, Message, Service, TestParams, TestReq, check, rw};
use crate::wire::{ByteOrder, ProcessId};

fsm::fsm! {
    /// State of a test.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum TestState {
        /// No unit is active.
        Idle,
        /// Units ask.
        Running,
        /// Units end with the RPC that they have asked.
        Stopping,
    }

    /// Its events.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum TestEvent {
        /// Its batch is run.
        Run,
        /// Its batch is stopped.
        Stop,
        /// Its last unit has ended.
        Done,
    }

    table TestState + TestEvent {
        start Idle;
        else "nothing changes";
        Idle + Run => Running;
        Running + Stop => Stopping;
        Running | Stopping + Done => Idle;
    }
}

/// RPCs of a client test.
#[derive(Clone, Copy, Debug)]
enum Work {
    Ping,
    Brw { rw: u32, len: u32, flags: u32 },
}

/// Page of a node, in bytes, as the kernels' tests count them.
const PAGE: u32 = 4096;

impl Work {
    /// RPCs as a test wants them.
    ///
    /// # Errors
    /// EINVAL for all that a kernel's client refuses, and for what would crash kernels, ours or the server's (selftest.md §6).
    fn of(t: &TestReq) -> Result<Work, u32> {
        let (rw, flags, len, offset) = match t.params {
            TestParams::Ping { .. } => return Ok(Work::Ping),
            TestParams::BrwV0 { opc, npages, flags } => {
                (opc, flags, npages.checked_mul(PAGE).ok_or(EINVAL)?, 0)
            }
            TestParams::Brw { opc, flags, len, offset } => (opc.into(), flags.into(), len, offset % PAGE),
            TestParams::Other(_) => return Err(EINVAL),
        };
        let known = (rw::READ..=rw::WRITE).contains(&rw) && (check::NONE..=check::DISCARD).contains(&flags);
        let sized = (1..=srpc::BRW_MAX).contains(&len) && len % 8 == 0 && offset % 8 == 0;
        let paged = sized && (offset + len).div_ceil(PAGE) == len.div_ceil(PAGE);
        if known && paged { Ok(Work::Brw { rw, len, flags }) } else { Err(EINVAL) }
    }
}

#[derive(Debug)]
struct Test {
    state: fsm::Fsm<TestState>,
    /// Of a client; a server's test does nothing when it is run.
    client: Option<Client>,
}

#[derive(Debug)]
struct Client {
    work: Work,
    features: u32,
    loops: i32,
    stop_onerr: bool,
    units: Vec<Key>,
    active: u32,
}

#[derive(Clone, Copy, Debug)]
struct Unit {
    test: Key,
    dest: ProcessId,
    /// RPCs left; below 0 for no end.
    left: i32,
    active: bool,
    /// Name of the RPC under way.
    rpc: Option<u64>,
    seq: u32,
    /// Its next RPC waits for the next turn, or for the end of a pause.
    waits: bool,
}

/// Tests of a batch, in the order they came.
#[derive(Debug)]
struct Batch {
    id: u64,
    tests: Vec<Key>,
}

/// The client of a member, and its batches.
#[derive(Debug)]
pub(super) struct Engine {
    rpcs: Rpcs,
    batches: Vec<Batch>,
    tests: Slab<Test>,
    units: Slab<Unit>,
    /// Units whose next RPC begins with the next turn, after a start.
    ready: VecDeque<Key>,
    /// Units whose last RPC failed, and when their pauses end, in ns.
    pausing: VecDeque<(u64, Key)>,
    /// None of them goes on before, in ns.
    pause_until: u64,
    /// Number of the next PING: counts from 0 for each client's test that is added, as kernels' do.
    seq: u32,
    pub(super) brw_errors: u32,
    pub(super) ping_errors: u32,
    pub(super) meter: Arc<Meter>,
    recent: Recent,
    /// Unix time in ns at time 0 of the node.
    pub(super) epoch: u64,
}

/// Tests of a session at most, and batches: anybody may make one.
const TESTS_MAX: usize = 4096;
/// RPCs begun by a turn at most: a thousand units that start do not keep the streams from being served.
const A_TURN: usize = 256;
/// Pause of a unit after an RPC that failed, in ns. Kernels' units stand in line for a thread after each RPC; here nothing
/// else would pace one that fails at once.
const PAUSE: u64 = 10_000_000;
/// Units that go on after their pauses, each [`PAUSES_SLOT`] at most: however many destinations fail, the failed RPCs cost a small
/// part of an lcore.
const PAUSES: usize = 16;
/// In ns.
const PAUSES_SLOT: u64 = 1_000_000;

impl Engine {
    pub(super) fn new(rpcs: Rpcs) -> Engine {
        Engine {
            rpcs,
            batches: Vec::new(),
            tests: Slab::new(),
            units: Slab::new(),
            ready: VecDeque::new(),
            pausing: VecDeque::new(),
            pause_until: 0,
            seq: 0,
            brw_errors: 0,
            ping_errors: 0,
            meter: Arc::default(),
            recent: Recent::default(),
            epoch: 0,
        }
    }

    /// Places for units, in whatever state, and for their RPCs.
    #[cfg(feature = "testing")]
    pub(super) fn places(&self) -> usize {
        let waiting = self.ready.capacity() + self.pausing.capacity();
        self.units.capacity() + waiting + self.batches.capacity() + self.tests.capacity() + self.rpcs.places()
    }

    pub(super) fn rpcs(&self) -> &Rpcs {
        &self.rpcs
    }

    pub(super) fn rpcs_mut(&mut self) -> &mut Rpcs {
        &mut self.rpcs
    }

    fn batch(&self, id: u64) -> Option<&Batch> {
        self.batches.iter().find(|b| b.id == id)
    }

    /// The batch, made by the first test that names it.
    ///
    /// # Errors
    /// ENOMEM: it would be one more than [`TESTS_MAX`], or its test would.
    pub(super) fn batch_or_new(&mut self, id: u64) -> Result<(), u32> {
        if self.tests.len() >= TESTS_MAX {
            return Err(ENOMEM);
        }
        match self.batch(id) {
            Some(_) => Ok(()),
            None if self.batches.len() >= TESTS_MAX => Err(ENOMEM),
            None => {
                self.batches.push(Batch { id, tests: Vec::new() });
                Ok(())
            }
        }
    }

    fn active_tests(&self, batch: &Batch) -> u32 {
        let active = |k: &&Key| self.tests.get(**k).is_some_and(|t| t.state.get() != TestState::Idle);
        u32::try_from(batch.tests.iter().filter(active).count()).unwrap_or(u32::MAX)
    }

    /// Whether a batch runs.
    pub(super) fn is_active(&self, batch: u64) -> bool {
        self.batch(batch).is_some_and(|b| self.active_tests(b) > 0)
    }

    /// Batches that run.
    pub(super) fn active_batches(&self) -> u32 {
        let n = self.batches.iter().filter(|b| self.active_tests(b) > 0).count();
        u32::try_from(n).unwrap_or(u32::MAX)
    }

    /// Adds a test; one of a client with its destinations.
    ///
    /// # Errors
    /// The status to answer with.
    pub(super) fn add(
        &mut self,
        cfg: &Config,
        t: &TestReq,
        features: u32,
        dests: &[ProcessId],
    ) -> Result<(), u32> {
        let client = if t.is_client {
            let work = Work::of(t)?;
            let wanted = dests.len().saturating_mul(t.concur as usize);
            if wanted == 0 || wanted.saturating_add(self.units.len()) > cfg.units {
                return Err(if wanted == 0 { EINVAL } else { ENOMEM });
            }
            let (loops, stop_onerr) = (t.loops.cast_signed(), t.stop_onerr);
            Some(Client { work, features, loops, stop_onerr, units: Vec::with_capacity(wanted), active: 0 })
        } else {
            None
        };
        let test = self.tests.insert(Test { state: fsm::Fsm::START, client });
        if let Some(b) = self.batches.iter_mut().find(|b| b.id == t.batch) {
            b.tests.push(test);
        }
        let Some(client) = self.tests.get_mut(test).and_then(|t| t.client.as_mut()) else { return Ok(()) };
        if matches!(client.work, Work::Ping) {
            self.seq = 0;
        }
        for dest in dests {
            for _ in 0..t.concur {
                let unit =
                    Unit { test, dest: *dest, left: 0, active: false, rpc: None, seq: 0, waits: false };
                client.units.push(self.units.insert(unit));
            }
        }
        Ok(())
    }

    /// Runs a batch: all units of its client tests.
    ///
    /// # Errors
    /// ENOENT: there is no such batch.
    pub(super) fn run(&mut self, batch: u64) -> Result<(), u32> {
        let b = self.batches.iter().find(|b| b.id == batch).ok_or(ENOENT)?;
        if self.active_tests(b) > 0 {
            return Ok(());
        }
        for key in &b.tests {
            let Some(test) = self.tests.get_mut(*key) else { continue };
            let Some(client) = test.client.as_mut() else { continue };
            if test.state.apply(TestEvent::Run).is_none() {
                continue;
            }
            client.active = u32::try_from(client.units.len()).unwrap_or(u32::MAX);
            for unit in &client.units {
                if let Some(u) = self.units.get_mut(*unit) {
                    (u.left, u.active, u.waits) = (client.loops, true, true);
                    self.ready.push_back(*unit);
                }
            }
        }
        Ok(())
    }

    /// Stops a batch: units that wait end at once, others with the RPC that they have asked; by force, those are given up.
    ///
    /// # Errors
    /// ENOENT: there is no such batch.
    pub(super) fn stop(&mut self, batch: u64, force: bool, ops: &mut Ops) -> Result<(), u32> {
        let at = self.batches.iter().position(|b| b.id == batch).ok_or(ENOENT)?;
        if self.halt(at, force, ops) {
            // Else a batch that is run and stopped again and again leaves more of them each time.
            let units = &self.units;
            let waits = |k: &Key| units.get(*k).is_some_and(|u| u.waits);
            self.ready.retain(waits);
            self.pausing.retain(|(_, k)| waits(k));
        }
        Ok(())
    }

    /// Stops the batch in place `at`; whether units of it stand in the queues still.
    fn halt(&mut self, at: usize, force: bool, ops: &mut Ops) -> bool {
        let mut queued = false;
        let Some(b) = self.batches.get(at) else { return queued };
        for key in &b.tests {
            let Some(test) = self.tests.get_mut(*key) else { continue };
            if test.state.apply(TestEvent::Stop).is_none() && !force {
                continue;
            }
            let Some(client) = test.client.as_mut() else { continue };
            for unit in &client.units {
                let Some(u) = self.units.get_mut(*unit) else { continue };
                queued |= u.waits;
                if std::mem::take(&mut u.waits) && std::mem::take(&mut u.active) {
                    client.active = client.active.saturating_sub(1);
                }
                if let Some(rpc) = u.rpc.filter(|_| force) {
                    self.rpcs.cancel(rpc, ops);
                }
            }
            if client.active == 0 {
                let _ = test.state.apply(TestEvent::Done);
            }
        }
        queued
    }

    /// Whether there is such a batch.
    pub(super) fn has_batch(&self, id: u64) -> bool {
        self.batch(id).is_some()
    }

    /// Active tests of a batch, or active units of its `testidx`-th test.
    ///
    /// # Errors
    /// ENOENT: there is no such batch or test; EINVAL: a test of negative number.
    pub(super) fn query(&self, batch: u64, testidx: u32) -> Result<u32, u32> {
        let b = self.batch(batch).ok_or(ENOENT)?;
        if testidx.cast_signed() < 0 {
            return Err(EINVAL);
        }
        if testidx == 0 {
            return Ok(self.active_tests(b));
        }
        let key = b.tests.get(testidx as usize - 1).ok_or(ENOENT)?;
        Ok(self.tests.get(*key).and_then(|t| t.client.as_ref()).map_or(0, |c| c.active))
    }

    /// A session ends: its batches are stopped by force and forgotten. What comes of its RPCs finds no unit.
    pub(super) fn clear(&mut self, ops: &mut Ops) {
        for at in 0..self.batches.len() {
            self.halt(at, true, ops);
        }
        (self.batches, self.tests) = (Vec::new(), Slab::new());
        (self.ready, self.pausing) = (VecDeque::new(), VecDeque::new());
        for i in 0..self.units.capacity() {
            if let Some(key) = self.units.key_at(i) {
                self.units.remove(key);
            }
        }
        self.rpcs.give_back();
        (self.brw_errors, self.ping_errors) = (0, 0);
    }

    /// Time-outs, and units that wait for their turn. Gives how much was done.
    pub(super) fn turn(&mut self, now: u64, cfg: &Config, source: &mut Source, ops: &mut Ops) -> usize {
        let mut n = 0;
        while let Some(done) = self.rpcs.turn(now, ops) {
            n += 1;
            self.done(now, done, cfg, source, ops);
        }
        for _ in 0..A_TURN {
            let Some(unit) = self.ready.pop_front() else { break };
            n += 1;
            self.next(now, unit, cfg, source, ops);
        }
        if self.pausing_until().is_some_and(|t| t <= now) {
            self.pause_until = now.saturating_add(PAUSES_SLOT);
            for _ in 0..PAUSES {
                let Some((_, unit)) = self.pausing.pop_front_if(|(t, _)| *t <= now) else { break };
                n += 1;
                self.next(now, unit, cfg, source, ops);
            }
        }
        self.recent.fold(now, &self.meter);
        n
    }

    /// Whether [`Engine::turn`] has something to do now.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Time at which the next unit goes on after its pause, in ns.
    pub(super) fn pausing_until(&self) -> Option<u64> {
        self.pausing.front().map(|(t, _)| self.pause_until.max(*t))
    }

    /// A unit's next RPC, unless its test stops.
    fn next(&mut self, now: u64, key: Key, cfg: &Config, source: &mut Source, ops: &mut Ops) {
        let Some(unit) = self.units.get_mut(key) else { return };
        unit.waits = false;
        let Some(test) = self.tests.get(unit.test) else { return };
        let Some(client) = &test.client else { return };
        if test.state.get() != TestState::Running {
            return self.unit_done(key);
        }
        let (body, service, bulk) = match client.work {
            Work::Ping => {
                let unix = self.epoch.wrapping_add(now);
                let (secs, nanos) = (unix / super::super::SEC, unix % super::super::SEC);
                unit.seq = self.seq;
                self.seq = self.seq.wrapping_add(1);
                let magic = srpc::PING_MAGIC;
                (Body::Ping { rpyid: 0, magic, seq: unit.seq, secs, nanos }, Service::Ping, Bulk::None)
            }
            Work::Brw { rw, len, flags } => {
                let bulk = match (rw, source.pages(len)) {
                    (rw::READ, _) => Bulk::Checked { len, flags },
                    (_, Some(pages)) => Bulk::Source(pages),
                    (_, None) => {
                        self.brw_errors = self.brw_errors.wrapping_add(1);
                        return self.unit_done(key);
                    }
                };
                (Body::Brw { rpyid: 0, bulkid: 0, rw, len, flags }, Service::Brw, bulk)
            }
        };
        if unit.left > 0 {
            unit.left -= 1;
        }
        let ask = Ask {
            tag: key.word(),
            peer: unit.dest,
            from: None,
            service,
            request: Message::new(client.features, body),
            bulk,
            timeout_ns: cfg.rpc_timeout,
        };
        unit.rpc = Some(self.rpcs.start(now, ask, ops));
    }

    /// An RPC of a unit has ended: it asks the next, or ends.
    pub(super) fn done(&mut self, now: u64, done: Done, cfg: &Config, source: &mut Source, ops: &mut Ops) {
        let key = Key::from_word(done.tag);
        let Some(unit) = self.units.get_mut(key) else { return };
        unit.rpc = None;
        let seq = unit.seq;
        let Some(test) = self.tests.get(unit.test) else { return };
        let Some(client) = &test.client else { return };
        let (work, rtt) = (client.work, done.rtt_ns);
        let good = judge(work, seq, done);
        let stopping = test.state.get() != TestState::Running;
        let ends = stopping || unit.left == 0 || (good != Verdict::Good && client.stop_onerr);
        match (good, work) {
            (Verdict::Good, _) => {
                bump(&self.meter.rpcs, 1);
                match work {
                    Work::Brw { rw: rw::READ, len, .. } => bump(&self.meter.read, len.into()),
                    Work::Brw { len, .. } => bump(&self.meter.written, len.into()),
                    Work::Ping => {}
                }
                self.recent.note(now, rtt);
            }
            // One that was given up counts for no error of the test.
            (Verdict::NoReply, _) if stopping => {}
            (_, Work::Ping) => self.ping_errors = self.ping_errors.wrapping_add(1),
            (_, Work::Brw { .. }) => self.brw_errors = self.brw_errors.wrapping_add(1),
        }
        let given_up = stopping && good == Verdict::NoReply;
        if !good.is_ok() && !given_up {
            bump(&self.meter.failed, 1);
        }
        if ends {
            return self.unit_done(key);
        }
        if good.is_ok() {
            return self.next(now, key, cfg, source, ops);
        }
        if let Some(u) = self.units.get_mut(key) {
            u.waits = true;
            self.pausing.push_back((now.saturating_add(PAUSE), key));
        }
    }

    fn unit_done(&mut self, key: Key) {
        let Some(unit) = self.units.get_mut(key).filter(|u| u.active) else { return };
        (unit.active, unit.rpc) = (false, None);
        let Some(test) = self.tests.get_mut(unit.test) else { return };
        let Some(client) = &mut test.client else { return };
        client.active = client.active.saturating_sub(1);
        if client.active == 0 {
            let _ = test.state.apply(TestEvent::Done);
        }
    }
}

/// Judgement on an RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    NoReply,
    /// An error status, or data that is wrong.
    Bad,
}

impl Verdict {
    fn is_ok(self) -> bool {
        self == Verdict::Good
    }
}

fn judge(work: Work, seq: u32, done: Done) -> Verdict {
    let Ok(reply) = done.outcome else { return Verdict::NoReply };
    let good = match (work, reply.body) {
        // A kernel's client looks at magic and number alone.
        (Work::Ping, Body::PingReply { magic, seq: got, .. }) => magic == srpc::PING_MAGIC && got == seq,
        (Work::Brw { rw: rw::WRITE, .. }, Body::BrwReply { status }) => status == 0,
        (Work::Brw { .. }, Body::BrwReply { status: 0 }) => {
            let [little, big] = done.right;
            if reply.order == ByteOrder::Little { little } else { big }
        }
        _ => false,
    };
    if good { Verdict::Good } else { Verdict::Bad }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<TestState>(), @r"
        Idle + Run -> Running
        Running + Stop -> Stopping
        Running + Done -> Idle
        Stopping + Done -> Idle
        otherwise: nothing changes
        ");
    }

    /// All that a kernel's client refuses when a test is added, and all that crashes kernels (selftest.md §6).
    #[test]
    fn what_a_client_never_does() {
        let brw = |opc, flags, len, offset| TestReq {
            rpyid: 1,
            bulkid: 2,
            sid: srpc::Sid { nid4: 1, stamp: 1 },
            batch: 1,
            service: Service::Brw.id(),
            loops: 1,
            concur: 1,
            is_client: true,
            stop_onerr: true,
            ndest: 1,
            params: TestParams::Brw { opc, flags, len, offset },
        };
        let bad = [
            (0, 1, 4096, 0),
            (3, 1, 4096, 0),
            (1, 0, 4096, 0),
            (1, 9, 4096, 0),
            (1, 1, 0, 0),
            (1, 1, (1 << 20) + 8, 0),
            (2, 1, 4100, 0),
            (2, 1, 4096, 4),
            // More pages than its length alone: the client panics.
            (2, 1, 4096, 8),
            (1, 1, 1 << 20, 8),
            (1, 1, 8192, 4096 + 8),
        ];
        for (opc, flags, len, offset) in bad {
            assert_eq!(
                Work::of(&brw(opc, flags, len, offset)).err(),
                Some(EINVAL),
                "{opc} {flags} {len} {offset}"
            );
        }
        for (opc, flags, len, offset) in
            [(1, 1, 8, 0), (2, 4, 1 << 20, 0), (1, 3, 4088, 8), (2, 2, 4096, 4096)]
        {
            assert!(Work::of(&brw(opc, flags, len, offset)).is_ok(), "{opc} {flags} {len} {offset}");
        }
        for (npages, good) in [(0, false), (1, true), (256, true), (257, false), (u32::MAX, false)] {
            let params = TestParams::BrwV0 { opc: 1, npages, flags: 3 };
            assert_eq!(Work::of(&TestReq { params, ..brw(1, 1, 8, 0) }).is_ok(), good, "{npages} pages");
        }
    }
}
