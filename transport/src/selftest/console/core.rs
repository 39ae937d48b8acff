//! The console without its RPCs: verbs in, questions to nodes out, answers in, reports out.

use std::collections::{BTreeMap, VecDeque};

use super::batches::{self, Adding, Querying, Running, Stopping};
use super::book::{Book, Group, NodeState};
use super::command::{self, Command, States};
use super::desk::{
    Desk, Doing, FAILED, Fail, INTERRUPTED, NO_SESSION, Question, Row, SEC, Session, Step, TRANSACTION,
};
use super::help;
use super::members::{self, Ending, Inviting, Leaving, Pinging};
use super::report::Report;
use super::watch::{Errors, Sleeping, Watching};
use crate::wire::Nid;
use crate::wire::srpc::{Body, Message, Sid};

/// Interval at which members that were long silent are asked for a sign (selftest.md §5).
const PINGER: u64 = 8 * SEC;

/// A request that the console wants sent.
#[derive(Clone, Debug)]
pub(super) struct Want {
    pub(super) tag: u64,
    pub(super) nid: Nid,
    pub(super) request: Message,
    pub(super) dests: Vec<Nid>,
    pub(super) timeout_ns: u64,
}

/// Output of a verb, piece by piece.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A result.
    Report(Report),
    /// The verb has ended, with this exit status.
    End(u8),
    /// So it has, and the user wants to leave.
    Exit,
}

/// A verb that was typed.
#[derive(Clone, Debug)]
struct Typed {
    verb: u64,
    words: Vec<String>,
    key: Option<u32>,
    /// Features that a session begins with, where it is told.
    features: Option<u32>,
}

/// An answer that is waited for.
#[derive(Clone, Copy, Debug)]
enum Slot {
    /// Row of the transaction.
    Row(usize),
    /// A sign of life.
    Pinger(Nid),
}

/// State of the verb at work.
enum State {
    Idle,
    Asking { doing: Box<dyn Doing>, nids: Vec<Nid>, rows: Vec<Option<Row>>, left: usize },
    Waiting { doing: Box<dyn Doing>, until: u64 },
}

/// A verb that waits for its next look, while others run.
struct Parked {
    verb: u64,
    doing: Box<dyn Doing>,
    until: u64,
}

/// The console.
pub(super) struct Core {
    desk: Desk,
    state: State,
    /// The verb at work, by number, and the number of the latest.
    verb: u64,
    verbs: u64,
    typed: VecDeque<Typed>,
    parked: Vec<Parked>,
    said: VecDeque<(u64, Said)>,
    pub(super) wants: VecDeque<Want>,
    /// Questions whose answers nobody waits for any more.
    pub(super) dropped: Vec<u64>,
    slots: BTreeMap<u64, Slot>,
    tag: u64,
    own: Nid,
    /// Name of a session that is given none.
    name: String,
    /// Features that sessions begin with.
    features: u32,
    /// Unix time in ms when `now` was 0; the last stamp.
    epoch_ms: i64,
    stamp: i64,
    /// Time of the last verb.
    used: u64,
    /// The session of the last step.
    sid: Sid,
    next_ping: u64,
    /// A session that ends because nobody uses it: nobody waits for the status.
    silent: bool,
}

impl Core {
    pub(super) fn new(own: Nid, features: u32, epoch_ms: i64, name: String) -> Core {
        let (book, reports) = (Book::default(), VecDeque::new());
        Core {
            desk: Desk { book, session: None, now: 0, reports, interrupted: false },
            state: State::Idle,
            verb: 0,
            verbs: 0,
            typed: VecDeque::new(),
            parked: Vec::new(),
            said: VecDeque::new(),
            wants: VecDeque::new(),
            dropped: Vec::new(),
            slots: BTreeMap::new(),
            tag: 0,
            own,
            name,
            features,
            epoch_ms,
            stamp: 0,
            used: 0,
            sid: Sid::INVALID,
            next_ping: 0,
            silent: false,
        }
    }

    /// Types a verb, and gives its number; it runs when those before it have ended, or wait for their next look.
    pub(super) fn type_in(&mut self, words: Vec<String>, key: Option<u32>, features: Option<u32>) -> u64 {
        self.verbs += 1;
        self.typed.push_back(Typed { verb: self.verbs, words, key, features });
        self.verbs
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle) && self.typed.is_empty() && self.parked.is_empty()
    }

    /// Whether a session is there.
    pub(super) fn has_session(&self) -> bool {
        self.desk.session.is_some()
    }

    /// The next thing said, and the number of the verb that says it.
    pub(super) fn said(&mut self) -> Option<(u64, Said)> {
        self.said.pop_front()
    }

    /// Interrupts all verbs.
    pub(super) fn interrupt(&mut self, now: u64) {
        let typed = self.typed.iter().map(|t| t.verb);
        let all: Vec<u64> = typed.chain(self.parked.iter().map(|p| p.verb)).chain([self.verb]).collect();
        all.into_iter().for_each(|v| self.interrupt_one(now, v));
    }

    /// Ends a verb that repeats itself, and drops one that only looks; what changes something comes to its end.
    pub(super) fn interrupt_one(&mut self, now: u64, verb: u64) {
        self.desk.now = now;
        if let Some(at) = self.typed.iter().position(|t| t.verb == verb) {
            self.typed.remove(at);
            self.said.push_back((verb, Said::End(INTERRUPTED)));
        } else if let Some(at) = self.parked.iter().position(|p| p.verb == verb) {
            let p = self.parked.remove(at);
            let before = std::mem::replace(&mut self.desk.interrupted, true);
            let status = match p.doing.go_on(&mut self.desk, Vec::new()) {
                Step::End(status) => status,
                _ => INTERRUPTED,
            };
            self.desk.interrupted = before;
            self.said.extend(self.desk.reports.drain(..).map(|r| (verb, Said::Report(r))));
            self.said.push_back((verb, Said::End(status)));
        } else if verb == self.verb && !matches!(self.state, State::Idle) {
            self.desk.interrupted = true;
            match std::mem::replace(&mut self.state, State::Idle) {
                State::Waiting { doing, .. } => self.go_on(doing, Vec::new()),
                State::Asking { doing, .. } if doing.only_looks() => {
                    let status = doing.cut();
                    self.forget(|s| matches!(s, Slot::Row(_)));
                    self.apply(Step::End(status));
                }
                other => self.state = other,
            }
        }
    }

    /// Lets go of questions: nobody waits for their answers any more.
    fn forget(&mut self, which: impl Fn(&Slot) -> bool) {
        let tags: Vec<u64> = self.slots.iter().filter(|(_, s)| which(s)).map(|(t, _)| *t).collect();
        for t in tags {
            self.slots.remove(&t);
            self.dropped.push(t);
        }
        self.wants.retain(|w| self.slots.contains_key(&w.tag));
    }

    /// An answer, or none.
    pub(super) fn answer(&mut self, now: u64, tag: u64, got: Result<Message, Fail>) {
        self.desk.now = now;
        match self.slots.remove(&tag) {
            None => {}
            Some(Slot::Pinger(nid)) => self.desk.hear(nid, &got),
            Some(Slot::Row(i)) => {
                let State::Asking { nids, rows, left, .. } = &mut self.state else { return };
                let (Some(nid), Some(row)) = (nids.get(i).copied(), rows.get_mut(i)) else { return };
                self.desk.hear(nid, &got);
                *row = Some(Row { nid, got });
                *left = left.saturating_sub(1);
            }
        }
    }

    /// Goes on with what can go on; gives whether anything did.
    pub(super) fn turn(&mut self, now: u64) -> bool {
        self.desk.now = now;
        let ready = match &self.state {
            State::Idle => false,
            State::Asking { left, .. } => *left == 0,
            State::Waiting { until, .. } => now >= *until,
        };
        if ready {
            match std::mem::replace(&mut self.state, State::Idle) {
                State::Asking { doing, rows, .. } => self.go_on(doing, rows.into_iter().flatten().collect()),
                State::Waiting { doing, .. } => self.go_on(doing, Vec::new()),
                State::Idle => {}
            }
            return true;
        }
        if let State::Waiting { .. } = &self.state
            && (!self.typed.is_empty() || self.parked.iter().any(|p| now >= p.until))
            && let State::Waiting { doing, until } = std::mem::replace(&mut self.state, State::Idle)
        {
            // A verb that waits for its next look keeps nobody from typing.
            self.parked.push(Parked { verb: self.verb, doing, until });
        }
        if !self.parked.is_empty() {
            self.used = now;
        }
        if matches!(self.state, State::Idle) {
            if let Some(typed) = self.typed.pop_front() {
                self.desk.interrupted = false;
                self.used = now;
                self.verb = typed.verb;
                let step = self.begin(&typed);
                self.apply(step);
                return true;
            }
            if let Some(at) = self.parked.iter().position(|p| now >= p.until) {
                let p = self.parked.remove(at);
                self.desk.interrupted = false;
                self.verb = p.verb;
                // Its session may have ended meanwhile; one that only waits needs none.
                if self.desk.session.is_some() || !p.doing.only_looks() {
                    self.go_on(p.doing, Vec::new());
                } else {
                    let status = self.desk.fail("No session exists: it has ended");
                    self.apply(Step::End(status));
                }
                return true;
            }
            let idle = self.desk.session.as_ref().map_or(0, |s| u64::from(s.timeout_s) * SEC);
            if idle > 0 && now.saturating_sub(self.used) >= idle {
                self.silent = true;
                let step = Ending { then: None }.begin(&mut self.desk);
                self.apply(step);
                return true;
            }
        } else {
            self.used = now;
        }
        if self.desk.session.is_some() && now >= self.next_ping {
            self.next_ping = now + PINGER;
            return self.ping_the_silent();
        }
        false
    }

    /// Time at which it must be turned again though nothing comes, in ns.
    pub(super) fn deadline(&self) -> Option<u64> {
        let wait = match &self.state {
            State::Waiting { until, .. } => Some(*until),
            _ => None,
        };
        let ping = self.desk.session.as_ref().map(|_| self.next_ping);
        let parked = self.parked.iter().map(|p| p.until);
        parked.chain([wait, ping].into_iter().flatten()).min()
    }

    /// Asks members for a sign that have said nothing for half of the time after which their session ends.
    fn ping_the_silent(&mut self) -> bool {
        let now = self.desk.now;
        let silent = self.desk.book.nodes.iter().filter(|(_, n)| {
            n.state == NodeState::Active && n.patience > 0 && now.saturating_sub(n.heard) >= n.patience / 2
        });
        let nids: Vec<Nid> = silent.map(|(nid, _)| *nid).collect();
        let sid = self.desk.sid();
        for nid in &nids {
            let q = Question::new(*nid, Body::Debug { rpyid: 0, sid, flags: 0 });
            self.want(q, Slot::Pinger(*nid), TRANSACTION);
        }
        !nids.is_empty()
    }

    fn want(&mut self, q: Question, slot: Slot, timeout_ns: u64) {
        self.tag += 1;
        self.slots.insert(self.tag, slot);
        let request = Message::new(self.desk.features(), q.body);
        self.wants.push_back(Want { tag: self.tag, nid: q.nid, request, dests: q.dests, timeout_ns });
    }

    fn go_on(&mut self, doing: Box<dyn Doing>, rows: Vec<Row>) {
        let step = doing.go_on(&mut self.desk, rows);
        self.apply(step);
    }

    fn apply(&mut self, step: Step) {
        let verb = self.verb;
        self.said.extend(self.desk.reports.drain(..).map(|r| (verb, Said::Report(r))));
        let sid = self.desk.sid();
        if std::mem::replace(&mut self.sid, sid) != sid {
            // Signs of life were asked for in the name of the session that has ended.
            self.forget(|s| matches!(s, Slot::Pinger(_)));
        }
        match step {
            Step::Ask(doing, asked, patience) => {
                let nids = asked.iter().map(|q| q.nid).collect();
                let (left, rows) = (asked.len(), asked.iter().map(|_| None).collect());
                for (i, q) in asked.into_iter().enumerate() {
                    self.want(q, Slot::Row(i), patience);
                }
                self.state = State::Asking { doing, nids, rows, left };
            }
            Step::Wait(doing, until) => self.state = State::Waiting { doing, until },
            Step::End(_) if std::mem::take(&mut self.silent) => {}
            Step::End(status) => self.said.push_back((verb, Said::End(status))),
        }
    }

    fn begin(&mut self, typed: &Typed) -> Step {
        let command = match command::parse(&typed.words) {
            Ok(None) => return Step::End(0),
            Ok(Some(c)) => c,
            Err(e) => return Step::End(self.desk.fail(e.0)),
        };
        let free = matches!(
            command,
            Command::NewSession { .. }
                | Command::EndSession
                | Command::Help { .. }
                | Command::Verbs
                | Command::Exit
                | Command::Sleep { .. }
        );
        match (&self.desk.session, typed.key) {
            (None, _) if !free => {
                let status = self.desk.fail("No session exists: begin one with new_session NAME");
                let groups = matches!(command, Command::ListGroup { .. });
                return Step::End(if groups { NO_SESSION } else { status });
            }
            (Some(s), Some(key)) if key != s.key && (!free || matches!(command, Command::EndSession)) => {
                let text = format!(
                    "Unmatched session key or not root: session {} has key {}, and LST_SESSION says {key}",
                    s.name, s.key
                );
                return Step::End(self.desk.fail(text));
            }
            _ => {}
        }
        self.run(command, typed.key, typed.features)
    }

    fn run(&mut self, command: Command, key: Option<u32>, asked: Option<u32>) -> Step {
        let desk = &mut self.desk;
        match command {
            Command::NewSession { name, timeout_s, force, features } => {
                return self.new_session(name, timeout_s, force, asked.unwrap_or(features), key);
            }
            Command::ShowSession => {
                if let Some(s) = desk.session.clone() {
                    let nodes = desk.book.nodes.len();
                    desk.say(members::session(&s, nodes, false));
                }
            }
            Command::EndSession if desk.session.is_none() => {}
            Command::EndSession => return Ending { then: None }.begin(desk),
            Command::Ping { who, timeout_s } => return Pinging::begin(desk, &who, timeout_s),
            Command::AddGroup { name, ids } => return Inviting::add(desk, name, ids),
            Command::UpdateGroup { name, change } => return members::update(desk, name, change),
            Command::DelGroup { name } => return Leaving::delete(desk, name),
            Command::ListGroup { names, states } => list_groups(desk, &names, states),
            Command::AddBatch { name } => return Step::End(batches::add(desk, &name)),
            Command::ListBatch { name, test, side, states } => {
                return Step::End(batches::list(desk, name.as_deref(), test, side, states));
            }
            Command::AddTest { batch, test } => return Adding::begin(desk, batch, test),
            Command::Run { batch, timeout_s } => return Running::begin(desk, batch, timeout_s),
            Command::Stop { batch, force } => return Stopping::begin(desk, batch, force),
            Command::Query { batch, test, timeout_s, times, delay_s, shown, side } => {
                let (waiting, status) = (false, 0);
                let q = Querying { batch, test, timeout_s, times, delay_s, shown, side, waiting, status };
                return Box::new(q).begin(desk);
            }
            Command::Stat { names, columns, delay_s, count, timeout_s } => {
                return Watching::begin(desk, &names, columns, delay_s, count, timeout_s);
            }
            Command::ShowError { names, session_only } => return Errors::begin(desk, &names, session_only),
            Command::Sleep { seconds } => return Sleeping::begin(desk, seconds),
            Command::Help { verb } => match help::of(verb.as_deref()) {
                Ok(text) => desk.say(Report::Help { text }),
                Err(text) => return Step::End(desk.fail(text)),
            },
            Command::Verbs => {
                let text = command::verbs().collect::<Vec<_>>().join("\n");
                desk.say(Report::Help { text });
            }
            Command::Exit => {
                self.said.push_back((self.verb, Said::Exit));
            }
        }
        Step::End(0)
    }

    fn new_session(
        &mut self,
        name: Option<String>,
        timeout_s: u32,
        force: bool,
        features: u32,
        key: Option<u32>,
    ) -> Step {
        if let Some(s) = self.desk.session.as_ref().filter(|_| !force) {
            // One that was begun without LST_SESSION has the key 0, and nobody else's end_session reaches it.
            let reach = if key.is_some() { format!(" with LST_SESSION={}", s.key) } else { String::new() };
            let text = format!(
                "Failed to create session: Operation not supported: session {} is there; end_session it{reach}, or give --force",
                s.name
            );
            self.desk.fail(text);
            return Step::End(FAILED);
        }
        // Never used twice, though the clock stands still.
        self.stamp = (self.epoch_ms.saturating_add((self.desk.now / 1_000_000) as i64)).max(self.stamp + 1);
        let session = Session {
            name: name.unwrap_or_else(|| self.name.clone()),
            sid: Sid { nid4: nid4(self.own), stamp: self.stamp },
            nid: self.own,
            key: key.unwrap_or(0),
            features: features & self.features,
            fixed: false,
            timeout_s,
            force,
        };
        self.next_ping = self.desk.now + PINGER;
        Ending { then: Some(session) }.begin(&mut self.desk)
    }
}

/// The NID in a session's name, which has room for 4 bytes of address: of an IPv6 NID the last ones, which name it all the same.
fn nid4(own: Nid) -> u64 {
    own.to_nid4().unwrap_or_else(|| {
        let raw = own.to_nid16();
        let low = raw.get(12..16).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
        (2 << 48) | u64::from(low)
    })
}

fn list_groups(desk: &mut Desk, names: &[String], states: States) {
    if names.is_empty() && !states.any() {
        let names = desk.book.groups.iter().map(|g| g.name.clone()).collect();
        return desk.say(Report::Names { what: "groups", names });
    }
    let all = |g: &Group| g.name.clone();
    let names = if names.is_empty() { desk.book.groups.iter().map(all).collect() } else { names.to_vec() };
    let mut first = true;
    for name in names {
        let Some(g) = desk.book.group(&name) else {
            desk.missing("group", &name, "list_group");
            continue;
        };
        let report = if states.any() {
            Report::GroupNodes { nodes: desk.book.among(&g.nodes, states), name }
        } else {
            Report::GroupCounts { counts: desk.book.count(&g.nodes), name, first: std::mem::take(&mut first) }
        };
        desk.say(report);
    }
}
