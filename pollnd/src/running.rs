//! A node that runs: its threads, its control socket, its way down.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane::clock::Clock;
use hugepages::Backing;
use transport::node::builder::Polling;
use transport::node::inspect::Inspection;
use transport::node::{App, Control, NodeBuilder, NodeEnd, Order, Protocols};
use transport::stream::Protocol;
use transport::wire::Nid;
use transport::wire::netsock::Addr;

use crate::args::NodeArgs;
use crate::config::reload::Live;
use crate::inspect::claim::{self, Claim};
use crate::inspect::seats::{self, Seats};
use crate::inspect::server::Server;
use crate::inspect::shared::About;
use crate::known::Known;
use crate::links::Links;
use crate::signals::Interrupt;
use crate::{limits, networks, units};

/// Interval at which a node that goes down hears what comes to free seats.
const HEARING: Duration = Duration::from_millis(2);

/// Purpose of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It serves others, and must be able to listen.
    Server,
    /// It asks others, by a command of this name. It listens too, since a kernel may connect back, but can do without.
    Dialler(&'static str),
}

impl Role {
    /// The name of its command.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Role::Server => "node",
            Role::Dialler(name) => name,
        }
    }
}

/// Parts of a node besides its settings.
pub(crate) struct Setup {
    /// The purpose.
    pub(crate) role: Role,
    /// Keeps its NIDs for it.
    claim: Option<Claim>,
    /// Seats for commands that go through it.
    guests: Option<Arc<Seats>>,
    /// Told of signals, in place of going down.
    pub(crate) interrupted: Option<Arc<Interrupt>>,
    /// A protocol in the place of LNet's connections.
    pub(crate) instead: Option<Instead>,
    /// Its configuration, if files may change it.
    live: Option<Arc<Live>>,
}

/// Makes a protocol on the lcore; pages for it come from the backing.
type MakeProtocol = Box<dyn FnOnce(&Arc<dyn Backing>) -> Result<Box<dyn Protocol + Send>, String> + Send>;

/// A protocol on streams with a port of its own. The node listens at no other.
pub(crate) struct Instead {
    /// The address and port, of streams or of datagrams.
    pub(crate) at: Addr,
    /// Makes it; pages for it come from the backing.
    pub(crate) make: MakeProtocol,
}

/// The node takes at this address what a protocol is for, and nothing else.
pub(crate) fn only_at(node: NodeBuilder, at: Addr) -> NodeBuilder {
    // For datagrams the protocol asks by itself.
    node.listen_at(at.dialled())
}

impl Setup {
    /// A node of `role`, whose NIDs are kept by `claim`.
    pub(crate) fn new(role: Role, claim: Option<Claim>) -> Setup {
        Setup { role, claim, guests: None, interrupted: None, instead: None, live: None }
    }

    /// Lets other commands go through it.
    pub(crate) fn with_guests(self, guests: Arc<Seats>) -> Setup {
        Setup { guests: Some(guests), ..self }
    }

    /// Lets files change it while it runs.
    pub(crate) fn with_live(self, live: Arc<Live>) -> Setup {
        Setup { live: Some(live), ..self }
    }

    /// Listens for a protocol, and not for LNet.
    pub(crate) fn instead(self, protocol: Option<Instead>) -> Setup {
        Setup { instead: protocol, ..self }
    }

    /// Has signals told to the command, which ends in order; one more ends the node at once.
    pub(crate) fn interrupted(self, told: Arc<Interrupt>) -> Setup {
        Setup { interrupted: Some(told), ..self }
    }
}

/// Makes the application on the lcore; pages for it come from the backing.
pub(crate) type MakeApp = Box<dyn FnOnce(&Arc<dyn Backing>) -> Result<Box<dyn App>, String> + Send>;

/// The same with its protocols.
pub(crate) type MakeParts =
    Box<dyn FnOnce(&Arc<dyn Backing>) -> Result<(Box<dyn App>, Protocols), String> + Send>;

/// A node that runs.
pub(crate) struct Node {
    threads: Vec<Polling>,
    control: Arc<Control>,
    describe: String,
    front: Arc<Inspection>,
    /// Its control socket.
    server: Option<Server>,
    /// Greets the peers from before the restart.
    greeter: Option<JoinHandle<()>>,
    known: Option<Known>,
    links: Option<Box<Links>>,
    guests: Option<Arc<Seats>>,
    /// Its NIDs are free again when this goes.
    claim: Option<Claim>,
    /// Work on this thread after the threads have ended.
    after: Option<Box<dyn FnOnce() -> Result<(), String>>>,
}

impl Node {
    /// A node that the given threads turn; `after` runs on the stopping thread once they have ended.
    pub(crate) fn new(
        threads: Vec<Polling>,
        control: Arc<Control>,
        describe: String,
        after: Option<Box<dyn FnOnce() -> Result<(), String>>>,
    ) -> Node {
        let front = Arc::new(Inspection::new(0, Clock::monotonic()));
        Node {
            threads,
            control,
            describe,
            front,
            server: None,
            greeter: None,
            known: None,
            links: None,
            guests: None,
            claim: None,
            after,
        }
    }

    /// Gives the node when it has come up.
    ///
    /// # Errors
    /// The obstacle to a polling thread's start, or that a signal came first.
    pub(crate) fn come_up(self) -> Result<Node, String> {
        if !self.stopped() {
            return Ok(self);
        }
        self.stop()?;
        Err("told to go down before it was up".into())
    }

    /// Lets others look at the node while it runs, and remembers its peers. One that cannot have a control socket runs
    /// all the same.
    pub(crate) fn seen_through(mut self, front: Arc<Inspection>, a: &NodeArgs, setup: Setup) -> Node {
        let nids: Vec<Nid> = [a.nid].iter().chain(&a.ni).copied().collect();
        let about = About {
            carrier: self.describe.clone(),
            scope: claim::scope(a),
            command: setup.role.command(),
            args: a.clone(),
            live: setup.live.clone(),
        };
        match Server::start(front.clone(), about, setup.guests.clone()) {
            Ok(s) => self.server = Some(s),
            Err(e) => tracing::warn!(
                "no control socket, so `pollnd connections` cannot ask this node{}: {e}",
                if setup.claim.is_some() { "" } else { ", and its NID is not locked" }
            ),
        }
        self.guests = setup.guests.clone();
        if let Some(claim) = setup.claim {
            if let (Some(guests), peers) = (setup.guests, claim.known())
                && !peers.is_empty()
            {
                let many = units::many(peers.len() as u64, "peer");
                tracing::info!("the restart is told to {many} from before it");
                let control = self.control.clone();
                let stop = move || control.order() > Order::Run;
                let greet = limits::thread("greets peers", move || seats::greet(&guests, &peers, stop));
                self.greeter = greet.inspect_err(|e| tracing::warn!("the restart is not told: {e}")).ok();
            }
            self.known = Some(Known::keep(&claim, front.clone(), nids));
            self.claim = Some(claim);
        }
        if !networks::on_port(a) {
            self.links = Links::watch(front.clone())
                .inspect_err(|e| tracing::warn!("the links of interfaces are not watched: {e}"))
                .map(Box::new)
                .ok();
        }
        self.front = front;
        self
    }

    /// The inspection of its lcores.
    pub(crate) fn front(&self) -> &Arc<Inspection> {
        &self.front
    }

    /// In words, for people.
    pub(crate) fn describe(&self) -> &str {
        &self.describe
    }

    /// Whether it goes, or has gone, down.
    pub(crate) fn stopped(&self) -> bool {
        self.control.order() > Order::Run || self.threads.iter().all(JoinHandle::is_finished)
    }

    /// The orders to its polling threads; outlives the node.
    pub(crate) fn control(&self) -> Arc<Control> {
        self.control.clone()
    }

    /// Takes it down after `outcome`, whose error matters more than one on the way down.
    ///
    /// # Errors
    /// `outcome`'s; then as [`Node::stop`].
    pub(crate) fn stop_after(self, outcome: Result<(), String>) -> Result<Vec<NodeEnd>, String> {
        both(outcome, self.stop())
    }

    /// Takes it down in order.
    ///
    /// # Errors
    /// An error of a polling thread, or of the way down.
    pub(crate) fn stop(self) -> Result<Vec<NodeEnd>, String> {
        self.control.give(Order::Drain);
        while let Some(guests) = &self.guests
            && !self.threads.iter().all(JoinHandle::is_finished)
        {
            // Answers that come to a free seat may hold memory that the node waits for.
            guests.hear();
            dataplane::clock::pause(HEARING);
        }
        let mut ends = Vec::new();
        for t in self.threads {
            let polled = t.join().map_err(|_| "a polling thread panicked outside of its nodes".to_owned())?;
            ends.extend(polled?.into_iter().flatten());
        }
        drop(self.server);
        if let Some(l) = self.links {
            l.end();
        }
        if let Some(t) = self.greeter {
            let _ = t.join();
        }
        if let Some(k) = self.known {
            k.end(ends.iter().all(|e| e.clean));
        }
        if let Some(f) = self.after {
            f()?;
        }
        drop(self.claim);
        match self.control.panics.load(Ordering::Acquire) {
            0 => Ok(ends),
            n => Err(format!(
                "of the node's shards {n} panicked: this is a bug of pollnd; the lines above say where"
            )),
        }
    }
}

/// The result of a command and of its node's way down: the command's error matters more.
///
/// # Errors
/// Either's, or both in one text.
pub(crate) fn both<T>(outcome: Result<(), String>, down: Result<T, String>) -> Result<T, String> {
    match (outcome, down) {
        (Ok(()), down) => down,
        (Err(e), Ok(_)) => Err(e),
        (Err(e), Err(down)) => Err(format!("{e}\non the way down: {down}")),
    }
}

/// A node that runs, and the desks of its lcores.
pub(crate) type Started = (Node, Arc<Inspection>);
