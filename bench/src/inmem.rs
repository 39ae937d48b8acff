//! Two nodes on one thread over the in-memory port, in virtual time: what pollnd itself costs.
//!
//! No device, no kernel and no second thread take part, and every turn is the same number of nanoseconds later
//! than the one before. So two runs do the same work instruction for instruction, and allocations and
//! instructions can be counted instead of timed.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::clock::Clock;
use dataplane::mem::{MemConfig, MemPort, pair};
use hugepages::{Backing, LendSlab, PrivatePages};
use tcpstack::{Stack, StackConfig};
use transport::lnd::{Accept, Config};
use transport::node::lcore::LcoreStreams;
use transport::node::{App, NodeBuilder, Shard, Turn};
use transport::wire::Nid;

use crate::ctl::{Ctl, Traffic};
use crate::measure::MeasureError;
use crate::selftest::{Case, Orders, Serving, Tester};
use crate::workload::{Client, ClientConfig, Intake, Server};

/// From one turn to the next, in ns.
pub const TURN_NS: u64 = 1_000;
/// Unix time in ns of members: any.
const UNIX_NS: u64 = 1_700_000_000_000_000_000;
/// Turns after which something that did not happen is given up.
const PATIENCE: u64 = 2_000_000;

pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);

/// Virtual time that both ends share, in ns.
#[derive(Clone, Debug)]
pub(crate) struct Time(Arc<AtomicU64>);

impl Time {
    pub(crate) fn new() -> Time {
        // Not 0: "an age ago" is before the start, too.
        Time(Arc::new(AtomicU64::new(1_000_000_000)))
    }
    pub(crate) fn clock(&self) -> Clock {
        Clock::virtual_time(self.0.clone())
    }
    pub(crate) fn step(&self) -> u64 {
        self.skip(TURN_NS)
    }
    pub(crate) fn skip(&self, ns: u64) -> u64 {
        self.0.fetch_add(ns, Ordering::Relaxed) + ns
    }
}

pub(crate) fn nid(ip: Ipv4Addr) -> Nid {
    Nid::tcp(IpAddr::V4(ip), 0)
}

/// A TCP stack with constant sequence numbers, so that runs are alike.
pub(crate) fn stack(ip: Ipv4Addr, port: MemPort) -> Result<Stack<MemPort>, String> {
    let mut config = StackConfig::new(ip, 24);
    config.secret = Some([u64::from(u32::from(ip)), 0x706f_6c6c_6e64]);
    Stack::new(config, port, LendSlab::new(4096)).map_err(|e| e.to_string())
}

/// A node that runs in the same way each time.
pub(crate) fn builder(ip: Ipv4Addr, time: &Time) -> NodeBuilder {
    NodeBuilder::of(Config::new(nid(ip), 1)).config(|c| c.accept = Accept::Trust).clock(time.clock())
}

/// One node, listening.
pub(crate) fn node<A: App>(
    ip: Ipv4Addr,
    port: MemPort,
    time: &Time,
    app: A,
) -> Result<Shard<LcoreStreams<MemPort>, A>, String> {
    node_with(ip, port, time, app, |_| ())
}

/// One node, listening, with its settings changed.
pub(crate) fn node_with<A: App>(
    ip: Ipv4Addr,
    port: MemPort,
    time: &Time,
    app: A,
    change: impl FnOnce(&mut Config),
) -> Result<Shard<LcoreStreams<MemPort>, A>, String> {
    let node = builder(ip, time).config(|c| {
        c.tcp.backlog = 4096;
        // As many as the client's small messages in flight, which credits would hold back otherwise.
        c.peer_credits = 64;
        change(c);
    });
    node.over(stack(ip, port)?, app).map_err(|e| e.to_string())
}

/// The two nodes.
pub struct InMemory {
    /// Their outputs and inputs.
    pub ctl: Arc<Ctl>,
    time: Time,
    client: Shard<LcoreStreams<MemPort>, Client>,
    server: Shard<LcoreStreams<MemPort>, Server>,
}

impl InMemory {
    /// Makes both nodes; the first operation connects them.
    ///
    /// # Errors
    /// No memory for pages.
    pub fn new(mem: &MemConfig, client: ClientConfig, intake: Intake) -> Result<InMemory, String> {
        let (ctl, time) = (Arc::new(Ctl::default()), Time::new());
        let backing: Arc<dyn Backing> = Arc::new(PrivatePages);
        let (a, b) = pair(mem);
        let app = Client::new(client, ctl.clone(), nid(SERVER), &backing).map_err(|e| e.to_string())?;
        let client = node(CLIENT, a, &time, app)?;
        let app = Server::new(ctl.clone(), intake, &backing).map_err(|e| e.to_string())?;
        let server = node(SERVER, b, &time, app)?;
        Ok(InMemory { ctl, time, client, server })
    }

    /// One turn of each.
    pub fn turn(&mut self) {
        self.time.step();
        self.client.turn();
        self.server.turn();
    }

    fn until(&mut self, what: &'static str, done: impl Fn(&InMemory) -> bool) -> Result<(), MeasureError> {
        for _ in 0..PATIENCE {
            if done(self) {
                return Ok(());
            }
            if let Some(e) = self.ctl.first_error() {
                return Err(MeasureError::Failed(e));
            }
            self.turn();
        }
        Err(MeasureError::Stuck { what, secs: PATIENCE * TURN_NS / 1_000_000_000 })
    }

    /// Runs `traffic` until `n` more operations have completed; the traffic goes on.
    ///
    /// # Errors
    /// An operation failed, or nothing moves any more.
    pub fn complete(&mut self, traffic: Traffic, n: u64) -> Result<(), MeasureError> {
        if self.ctl.traffic() != traffic {
            self.ctl.set_traffic(traffic);
        }
        let goal = self.ctl.completed.load(Ordering::Relaxed) + n;
        self.until("the operations' completion", |m| m.ctl.completed.load(Ordering::Relaxed) >= goal)
    }

    /// Ends the traffic and waits for what is outstanding.
    ///
    /// # Errors
    /// As [`InMemory::complete`].
    pub fn rest(&mut self) -> Result<(), MeasureError> {
        self.ctl.set_traffic(Traffic::Quiet);
        self.until("rest", |m| m.ctl.is_quiet())
    }

    /// Takes both nodes down in order; gives what they came to, the client first.
    ///
    /// # Errors
    /// They do not go down.
    pub fn stop(mut self) -> Result<[transport::node::NodeEnd; 2], MeasureError> {
        self.rest()?;
        self.client.shut_down();
        self.server.shut_down();
        self.until("the end of both nodes", |m| m.client.is_down() && m.server.is_down())?;
        // Pages that came home with the last turn are reaped in the next.
        (0..16).for_each(|_| self.turn());
        Ok([Turn::end(&self.client), Turn::end(&self.server)])
    }
}

/// Two members of lnet_selftest, the first with the console that orders them.
pub struct Members {
    /// The console's orders, and the client's measures.
    pub orders: Arc<Orders>,
    ctl: Arc<Ctl>,
    time: Time,
    client: Shard<LcoreStreams<MemPort>, Tester>,
    server: Shard<LcoreStreams<MemPort>, Serving>,
}

impl Members {
    /// Makes both nodes.
    ///
    /// # Errors
    /// No memory for pages.
    pub fn new(mem: &MemConfig, cases: Vec<Case>) -> Result<Members, String> {
        let (ctl, orders, time) = (Arc::new(Ctl::default()), Arc::new(Orders::default()), Time::new());
        let backing: Arc<dyn Backing> = Arc::new(PrivatePages);
        let (a, b) = pair(mem);
        let app = Tester::new(cases, [nid(CLIENT), nid(SERVER)], UNIX_NS, &ctl, &orders, &backing)?;
        let client = node(CLIENT, a, &time, app)?;
        let server = node(SERVER, b, &time, Serving::new(UNIX_NS, &orders, &backing)?)?;
        Ok(Members { orders, ctl, time, client, server })
    }

    fn until(&mut self, what: &'static str, done: impl Fn(&Members) -> bool) -> Result<(), MeasureError> {
        for _ in 0..PATIENCE {
            if done(self) {
                return Ok(());
            }
            if let Some(e) = self.ctl.first_error() {
                return Err(MeasureError::Failed(e));
            }
            self.time.step();
            self.client.turn();
            self.server.turn();
        }
        Err(MeasureError::Stuck { what, secs: PATIENCE * TURN_NS / 1_000_000_000 })
    }

    /// Runs a case until `n` more RPCs have ended well; it goes on.
    ///
    /// # Errors
    /// An RPC failed, or nothing moves any more.
    pub fn complete(&mut self, case: u64, n: u64) -> Result<(), MeasureError> {
        let rpcs = |m: &Members| m.orders.client.get().map_or(0, |m| m.rpcs.load(Ordering::Relaxed));
        if self.orders.running() != case {
            self.orders.run(case);
            self.until("the case", |m| m.orders.running() == case)?;
        }
        let goal = rpcs(self) + n;
        self.until("the RPCs' end", |m| rpcs(m) >= goal)
    }

    /// Ends the case and takes both nodes down in order; gives what they came to, the client first.
    ///
    /// # Errors
    /// They do not go down.
    pub fn stop(mut self) -> Result<[transport::node::NodeEnd; 2], MeasureError> {
        self.orders.run(0);
        self.until("rest", |m| m.orders.running() == 0)?;
        self.client.shut_down();
        self.server.shut_down();
        self.until("the end of both nodes", |m| m.client.is_down() && m.server.is_down())?;
        for _ in 0..16 {
            self.time.step();
            self.client.turn();
            self.server.turn();
        }
        Ok([Turn::end(&self.client), Turn::end(&self.server)])
    }
}
