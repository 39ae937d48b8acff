//! The console of the model: what `lst` makes a kernel say (selftest.md §5).

use std::collections::BTreeMap;

use super::{Ask, Bulk, Selftest, Who};
use crate::testing::net::SEC;
use crate::testing::srpc::{BULK_LEN, Sid, Srpc, dest_list, kind, service};
use crate::wire::Nid;

/// The timer that looks after idle nodes, and how long a node is idle before, in ns.
const TICK: u64 = 8 * SEC;
const IDLE: u64 = 50 * SEC;
/// Until a console that nobody uses ends its session, in ns.
const LEFT_ALONE: u64 = 300 * SEC;
/// Between two questions whether a batch has stopped, in ns.
const AGAIN: u64 = SEC / 4;

/// Orders of its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cmd {
    /// `new_session`, with --force; features are LST_FEATURES.
    Session {
        /// Its name.
        name: String,
        /// Takes nodes from others' sessions.
        force: bool,
        /// Its features.
        features: u32,
    },
    /// `add_group`.
    Group(String, Vec<Nid>),
    /// `add_test`.
    Test(AddTest),
    /// `add_batch`: tests from now on are of a new batch.
    Batch,
    /// `run` of the batch.
    Run,
    /// `stop`, then questions until nothing is active.
    Stop {
        /// Abandons what is under way.
        force: bool,
    },
    /// `query`.
    Query,
    /// `stat` of these groups, once.
    Stat(Vec<String>),
    /// `ping` of a group.
    Ping(String),
    /// `end_session`.
    End,
}

impl Cmd {
    /// A line of `lst`, as far as the model knows it.
    ///
    /// # Panics
    /// It does not know the line.
    pub fn parse(line: &str) -> Cmd {
        let number = |o: &BTreeMap<&str, &str>, k: &str| {
            let text = o.get(k).copied().unwrap_or("0");
            text.parse::<i32>().unwrap_or_else(|_| panic!("{text}"))
        };
        let (features, line) = match line.strip_prefix("LST_FEATURES=0 ") {
            Some(rest) => (0, rest),
            None => (BULK_LEN, line),
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        let has = |w: &str| words.contains(&w);
        let one = || words.get(1).copied().unwrap_or_default().to_owned();
        match words[0] {
            "new_session" => {
                let name = words.last().copied().unwrap_or_default().to_owned();
                Cmd::Session { name, force: has("--force"), features }
            }
            "add_group" => Cmd::Group(one(), words[2..].iter().filter_map(|w| w.parse().ok()).collect()),
            "add_batch" => Cmd::Batch,
            "add_test" => {
                let at = words.iter().position(|w| matches!(*w, "brw" | "ping")).unwrap_or_default();
                let opts: BTreeMap<&str, &str> = words[1..at].chunks(2).map(|c| (c[0], c[1])).collect();
                let brw = (words[at] == "brw").then(|| {
                    let rest: BTreeMap<&str, &str> =
                        words[at + 2..].iter().filter_map(|w| w.split_once('=')).collect();
                    let flags = match rest.get("check") {
                        Some(&"simple") => 2,
                        Some(&"full") => 3,
                        Some(&"discard") => 4,
                        _ => 1,
                    };
                    let rw = if words[at + 1] == "read" { 1 } else { 2 };
                    (rw, flags, number(&rest, "size") as u32, number(&rest, "off") as u32)
                });
                let (a, b) = opts.get("--distribute").and_then(|d| d.split_once(':')).unwrap_or(("1", "1"));
                let dist = BTreeMap::from([("a", a), ("b", b)]);
                Cmd::Test(AddTest {
                    from: opts["--from"].to_owned(),
                    to: opts["--to"].to_owned(),
                    turns: number(&opts, "--loop"),
                    concur: number(&opts, "--concurrency") as u32,
                    distribute: (number(&dist, "a") as u32, number(&dist, "b") as u32),
                    brw,
                })
            }
            "run" => Cmd::Run,
            "stop" => Cmd::Stop { force: has("--force") },
            "query" => Cmd::Query,
            "stat" | "show_error" => Cmd::Stat(words[1..].iter().map(|w| (*w).to_owned()).collect()),
            "ping" => Cmd::Ping(one()),
            "end_session" => Cmd::End,
            other => panic!("the model knows no {other}"),
        }
    }
}

/// A test of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddTest {
    /// Groups of clients and of servers.
    pub from: String,
    /// The servers.
    pub to: String,
    /// RPCs of a unit; −1 for no end.
    pub turns: i32,
    /// Units a client and server.
    pub concur: u32,
    /// --distribute.
    pub distribute: (u32, u32),
    /// BRW: read (1) or write (2), flags, length, offset. None: ping.
    pub brw: Option<(u32, u32, u32, u32)>,
}

/// The console's knowledge of a node, from the sids of its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// In no session, or never heard of.
    Unknown,
    /// In ours.
    Active,
    /// In another's.
    Busy,
    /// It does not answer.
    Down,
}

/// End of an RPC of the console.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The node that it asked.
    pub node: Nid,
    /// The request.
    pub request: Srpc,
    /// The reply, or the error.
    pub reply: Result<Srpc, u32>,
}

/// Its state.
#[derive(Debug)]
pub struct Console {
    nid: Nid,
    stamp: u64,
    sid: Sid,
    name: String,
    force: bool,
    features: u32,
    groups: BTreeMap<String, Vec<Nid>>,
    /// State, and when it was last asked for something.
    nodes: BTreeMap<Nid, (NodeState, u64)>,
    batch: u64,
    next_batch: u64,
    clients: Vec<Nid>,
    /// RPCs under way, and those of clients that come once the servers have answered.
    open: usize,
    second: Vec<(Nid, Srpc, Vec<u8>)>,
    stopping: bool,
    again: Option<u64>,
    tick: Option<u64>,
    /// Time at which its user gave the last order.
    ordered: u64,
    /// Active tests by the last answers of all clients.
    pub active: u64,
    /// Ends of all of its RPCs.
    pub outcomes: Vec<Outcome>,
}

impl Console {
    pub(super) fn new(nid: Nid, stamp: u64) -> Console {
        Console {
            nid,
            stamp,
            sid: Sid::ANY,
            name: String::new(),
            force: false,
            features: BULK_LEN,
            groups: BTreeMap::new(),
            nodes: BTreeMap::new(),
            batch: 0,
            next_batch: 1,
            clients: Vec::new(),
            open: 0,
            second: Vec::new(),
            stopping: false,
            again: None,
            tick: None,
            ordered: 0,
            active: 0,
            outcomes: Vec::new(),
        }
    }

    /// An order is being carried out.
    pub fn busy(&self) -> bool {
        self.open > 0 || self.stopping || !self.second.is_empty()
    }

    /// State of a node.
    pub fn state(&self, node: Nid) -> NodeState {
        self.nodes.get(&node).map_or(NodeState::Unknown, |n| n.0)
    }

    /// Its session.
    pub fn sid(&self) -> Sid {
        self.sid
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        [self.tick, self.again].into_iter().flatten().min()
    }

    fn request(&self, kind: u32) -> Srpc {
        Srpc::new(kind, self.features).with_sid(self.sid)
    }

    /// The nodes of a group, or the one that is named itself.
    fn group(&self, name: &str) -> Vec<Nid> {
        let one = || name.parse().into_iter().collect();
        self.groups.get(name).cloned().unwrap_or_else(one)
    }

    fn active_of(&self, nodes: &[Nid]) -> Vec<Nid> {
        nodes.iter().copied().filter(|n| self.state(*n) == NodeState::Active).collect()
    }

    /// Requests for the clients of a test, with their destination lists (§5).
    fn client_rows(&self, t: &AddTest, plain: &Srpc, from: &[Nid], to: &[Nid]) -> Vec<(Nid, Srpc, Vec<u8>)> {
        let (dist, span) = (t.distribute.0.max(1) as usize, t.distribute.1.max(1) as usize);
        let row = |(k, nid): (usize, &Nid)| {
            let first = k / dist * span % to.len();
            let list: Vec<Nid> = (0..span).map(|i| to[(first + i) % to.len()]).collect();
            let q = plain.clone().with("is_client", 1).with("ndest", span as u64);
            let q = q.with("loop", u64::from(t.turns as u32)).with("concur", u64::from(t.concur));
            (*nid, q, dest_list(&list))
        };
        from.iter().enumerate().map(row).collect()
    }

    /// Requests for its servers.
    fn server_rows(t: &AddTest, plain: &Srpc, from: &[Nid], to: &[Nid]) -> Vec<(Nid, Srpc, Vec<u8>)> {
        let (dist, span) = (t.distribute.0.max(1) as usize, t.distribute.1.max(1) as usize);
        let most = from.len().div_ceil(dist).div_ceil(to.len().div_ceil(span));
        let all = (most * dist) as u64 * u64::from(t.concur);
        let q = plain.clone().with("loop", all).with("concur", u64::from(t.concur));
        to.iter().map(|nid| (*nid, q.clone(), Vec::new())).collect()
    }
}

impl Selftest {
    fn transact(&mut self, now: u64, rows: Vec<(Nid, Srpc, Vec<u8>)>) {
        for (to, q, list) in rows {
            self.console.open += 1;
            if let Some(n) = self.console.nodes.get_mut(&to) {
                n.1 = now;
            }
            let bulk = if list.is_empty() { Bulk::None } else { Bulk::Source(list) };
            self.ask(now, Who::Console, to, q, bulk);
        }
    }

    fn ask_all(&mut self, now: u64, nodes: Vec<Nid>, q: &Srpc) {
        self.transact(now, nodes.into_iter().map(|n| (n, q.clone(), Vec::new())).collect());
    }

    fn batch_request(&self, opc: u64, arg: u64) -> Srpc {
        let q = self.console.request(kind::BATCH).with("batch", self.console.batch);
        q.with("opc", opc).with("arg", arg)
    }

    pub(super) fn console_order(&mut self, now: u64, cmd: &Cmd) {
        let c = &mut self.console;
        assert!(!c.busy(), "the console is busy");
        c.ordered = now;
        match cmd {
            Cmd::Session { name, force, features } => {
                c.stamp += 1;
                c.sid = Sid(c.nid.to_nid4().unwrap_or(u64::MAX), c.stamp * 1000 + now / 1_000_000);
                (c.name, c.force, c.features) = (name.clone(), *force, *features);
                c.batch = c.next_batch;
                c.next_batch += 1;
                c.groups.clear();
                c.nodes.clear();
                c.clients.clear();
                c.tick = Some(now + TICK);
            }
            Cmd::Group(name, nids) => {
                c.groups.insert(name.clone(), nids.clone());
                for n in nids {
                    c.nodes.entry(*n).or_insert((NodeState::Unknown, now));
                }
                let q = c.request(kind::MAKE).with("force", u64::from(c.force)).with_text("name", &c.name);
                self.ask_all(now, nids.clone(), &q);
            }
            Cmd::Test(t) => {
                let (from, to) = (c.active_of(&c.group(&t.from)), c.active_of(&c.group(&t.to)));
                if from.is_empty() || to.is_empty() {
                    return;
                }
                let q = c.request(kind::TEST).with("batch", c.batch).with("stop_onerr", 1);
                let q = match t.brw {
                    Some(p) => q.with("service", service::BRW).with_brw(p),
                    None => q.with("service", service::PING),
                };
                // More servers a client than there are: the servers have their buffers before that is found out.
                let fits = t.distribute.1 as usize <= to.len();
                c.second = if fits { c.client_rows(t, &q, &from, &to) } else { Vec::new() };
                c.clients.extend(from.iter().filter(|f| !c.clients.contains(f)).collect::<Vec<_>>());
                let rows = Console::server_rows(t, &q, &from, &to);
                self.transact(now, rows);
            }
            Cmd::Batch => {
                c.batch = c.next_batch;
                c.next_batch += 1;
                c.clients.clear();
            }
            Cmd::Run => {
                let (clients, q) = (c.active_of(&c.clients.clone()), self.batch_request(1, 0));
                self.ask_all(now, clients, &q);
            }
            Cmd::Stop { force } => {
                c.stopping = true;
                let (clients, q) =
                    (c.active_of(&c.clients.clone()), self.batch_request(2, u64::from(*force)));
                self.ask_all(now, clients, &q);
                self.console_next(now);
            }
            Cmd::Query => self.query(now),
            Cmd::Stat(groups) => {
                let (nodes, q) = (groups.iter().flat_map(|g| c.group(g)).collect(), c.request(kind::STAT));
                self.ask_all(now, nodes, &q);
            }
            Cmd::Ping(group) => {
                let (nodes, q) = (c.group(group), c.request(kind::DEBUG));
                self.ask_all(now, nodes, &q);
            }
            Cmd::End => {
                let nodes: Vec<Nid> = c.nodes.keys().copied().collect();
                let (nodes, q) = (c.active_of(&nodes), c.request(kind::REMOVE));
                c.tick = None;
                self.ask_all(now, nodes, &q);
            }
        }
    }

    fn query(&mut self, now: u64) {
        self.console.active = 0;
        let clients = self.console.active_of(&self.console.clients.clone());
        let q = self.batch_request(3, 0);
        self.ask_all(now, clients, &q);
    }

    /// An RPC of the console has ended.
    pub(super) fn console_done(&mut self, now: u64, a: &Ask, why: u32) {
        let c = &mut self.console;
        let reply = match &a.reply {
            Some(r) if why == 0 => Ok(r.clone()),
            _ => Err(why),
        };
        c.open -= 1;
        if let Some(n) = c.nodes.get_mut(&a.to) {
            n.0 = match &reply {
                Ok(r) if r.sid().0 == u64::MAX => NodeState::Unknown,
                Ok(r) if r.sid() == c.sid => NodeState::Active,
                Ok(_) => NodeState::Busy,
                Err(_) => NodeState::Down,
            };
        }
        if let (kind::BATCH, 3, Ok(r)) = (a.request.kind(), a.request.get_or("opc"), &reply) {
            c.active += r.get("active");
        }
        // A test that a server has not taken is none for the clients.
        if a.request.kind() == kind::TEST && !reply.as_ref().is_ok_and(|r| r.get("status") == 0) {
            c.second.clear();
        }
        c.outcomes.push(Outcome { node: a.to, request: a.request.clone(), reply });
        if c.open == 0 {
            self.console_next(now);
        }
    }

    fn console_next(&mut self, now: u64) {
        let c = &mut self.console;
        if c.open > 0 {
            return;
        }
        let second = std::mem::take(&mut c.second);
        if !second.is_empty() {
            return self.transact(now, second);
        }
        if c.stopping {
            let asked = c.outcomes.last().is_some_and(|o| o.request.get_or("opc") == 3);
            let clients = !c.active_of(&c.clients).is_empty();
            if (asked && c.active == 0) || !clients {
                c.stopping = false;
            } else {
                c.again = Some(now + if asked { AGAIN } else { 0 });
            }
        }
    }

    pub(super) fn console_tick(&mut self, now: u64) {
        if self.console.again.is_some_and(|t| t <= now) {
            self.console.again = None;
            self.query(now);
        }
        if self.console.tick.is_some_and(|t| t <= now) {
            self.console.tick = Some(now + TICK);
            if self.console.ordered + LEFT_ALONE <= now && !self.console.busy() {
                return self.console_order(now, &Cmd::End);
            }
            let c = &self.console;
            let idle = |n: &(&Nid, &(NodeState, u64))| n.1.0 == NodeState::Active && n.1.1 + IDLE <= now;
            let idle: Vec<Nid> = c.nodes.iter().filter(idle).map(|n| *n.0).collect();
            let q = c.request(kind::DEBUG);
            self.ask_all(now, idle, &q);
        }
    }
}
