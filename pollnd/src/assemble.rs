//! From a command line to a running node.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use dataplane::clock::Clock;
use hugepages::{Backing, PrivatePages};
use transport::lnd::{self, Accept};
use transport::node::builder::Polling;
use transport::node::desk::Front;
use transport::node::sock::{SockError, may_bind_privileged};
use transport::node::{App, BuildError, Control, NodeBuilder, NodeEnd, Order};

use crate::args::{Carrier, NodeArgs};
#[cfg(feature = "dpdk")]
use crate::dpdk::start as start_dpdk;
use crate::inspect::claim::{self, Claim};
use crate::inspect::guests::{self, Guests};
use crate::inspect::server::{About, Server};
use crate::known::Known;
use crate::{cpus, iface, limits, settings, signals, units};

/// What the node is for.
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

/// What a node is besides its settings.
pub(crate) struct Setup {
    role: Role,
    /// Keeps its NID for it.
    claim: Option<Claim>,
    /// Seats for commands that go through it.
    guests: Option<Arc<Guests>>,
}

impl Setup {
    /// A node of `role`, whose NID is kept by `claim`.
    pub(crate) fn new(role: Role, claim: Option<Claim>) -> Setup {
        Setup { role, claim, guests: None }
    }

    /// Lets other commands go through it.
    pub(crate) fn with_guests(self, guests: Arc<Guests>) -> Setup {
        Setup { guests: Some(guests), ..self }
    }
}

/// Makes the application on the lcore; pages for it come from the backing.
pub(crate) type MakeApp = Box<dyn FnOnce(&Arc<dyn Backing>) -> Result<Box<dyn App>, String> + Send>;

/// A node that runs.
pub(crate) struct Node {
    threads: Vec<Polling>,
    control: Arc<Control>,
    describe: String,
    front: Arc<Front>,
    /// Its control socket.
    server: Option<Server>,
    /// Greets the peers from before the restart.
    greeter: Option<JoinHandle<()>>,
    known: Option<Known>,
    /// Its NID is free again when this goes.
    claim: Option<Claim>,
    /// What has to be taken down after the threads, on this thread.
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
        let front = Arc::new(Front::new(0, Clock::monotonic()));
        Node {
            threads,
            control,
            describe,
            front,
            server: None,
            greeter: None,
            known: None,
            claim: None,
            after,
        }
    }

    /// Gives the node when it has come up.
    ///
    /// # Errors
    /// What kept a polling thread from starting, or that a signal came first.
    fn come_up(self) -> Result<Node, String> {
        if !self.stopped() {
            return Ok(self);
        }
        self.stop()?;
        Err("told to go down before it was up".into())
    }

    /// Lets others look at the node while it runs, and remembers its peers. One that cannot have a control socket runs
    /// all the same.
    fn seen_through(mut self, front: Arc<Front>, a: &NodeArgs, setup: Setup) -> Node {
        let about = About {
            nid: a.nid.to_string(),
            carrier: self.describe.clone(),
            scope: claim::scope(a),
            command: setup.role.command(),
            args: a.clone(),
        };
        match Server::start(front.clone(), about, setup.guests.clone()) {
            Ok(s) => self.server = Some(s),
            Err(e) => tracing::warn!(
                "no control socket, so `pollnd connections` cannot ask this node{}: {e}",
                if setup.claim.is_some() { "" } else { ", and its NID is not locked" }
            ),
        }
        if let Some(claim) = setup.claim {
            if let (Some(guests), peers) = (setup.guests, claim.known())
                && !peers.is_empty()
            {
                let many = units::many(peers.len() as u64, "peer");
                tracing::info!("the restart is told to {many} from before it");
                let control = self.control.clone();
                let stop = move || control.order() > Order::Run;
                let greet = limits::thread("greets peers", move || guests::greet(&guests, &peers, stop));
                self.greeter = greet.inspect_err(|e| tracing::warn!("the restart is not told: {e}")).ok();
            }
            self.known = Some(Known::keep(&claim, front.clone(), a.nid));
            self.claim = Some(claim);
        }
        self.front = front;
        self
    }

    /// What asks its lcores.
    pub(crate) fn front(&self) -> &Front {
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

    /// What its polling threads are told; outlives the node.
    pub(crate) fn control(&self) -> Arc<Control> {
        self.control.clone()
    }

    /// Takes it down after `outcome`, whose error matters more than one on the way down.
    ///
    /// # Errors
    /// `outcome`'s; then as [`Node::stop`].
    pub(crate) fn stop_after(self, outcome: Result<(), String>) -> Result<Vec<NodeEnd>, String> {
        match (outcome, self.stop()) {
            (Ok(()), stopped) => stopped,
            (Err(e), Ok(_)) => Err(e),
            (Err(e), Err(down)) => Err(format!("{e}\non the way down: {down}")),
        }
    }

    /// Takes it down in order.
    ///
    /// # Errors
    /// What went wrong on a polling thread, or on the way down.
    pub(crate) fn stop(self) -> Result<Vec<NodeEnd>, String> {
        self.control.give(Order::Drain);
        let mut ends = Vec::new();
        for t in self.threads {
            let polled = t.join().map_err(|_| "a polling thread panicked outside of its nodes".to_owned())?;
            ends.extend(polled?.into_iter().flatten());
        }
        drop(self.server);
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

/// Starts the node.
///
/// # Errors
/// What is missing, and the remedy.
pub(crate) fn start(a: &NodeArgs, setup: Setup, make: MakeApp) -> Result<Node, String> {
    let control = Arc::new(Control::default());
    signals::watch(control.clone())?;
    cpus::mention_quota(settings::on_port(a).then_some(a.lcores));
    let dpdk = a.port.is_some() || a.vdev.is_some();
    settings::addresses(a)?;
    match a.carrier.unwrap_or(if dpdk { Carrier::Dpdk } else { Carrier::Sockets }) {
        Carrier::Sockets if dpdk => {
            Err("--carrier sockets does not go with --port or --vdev: leave one of them out".into())
        }
        Carrier::Sockets => {
            let (node, front) = start_sockets(a, setup.role, make, control)?;
            Ok(node.come_up()?.seen_through(front, a, setup))
        }
        Carrier::Dpdk => {
            let (node, front) = start_dpdk(a, make, control)?;
            Ok(node.come_up()?.seen_through(front, a, setup))
        }
    }
}

/// A node that runs, and the desks of its lcores.
pub(crate) type Started = (Node, Arc<Front>);

fn start_sockets(a: &NodeArgs, role: Role, make: MakeApp, control: Arc<Control>) -> Result<Started, String> {
    let given = [
        ("--prefix", a.prefix.is_some()),
        ("--gateway", a.gateway.is_some()),
        ("--vlan", a.vlan.is_some()),
        ("--mtu", a.mtu.is_some()),
        ("--cpu-pattern", a.cpu_pattern.is_some()),
        ("--pcap", a.pcap.is_some()),
        ("EAL arguments after --", !a.eal.is_empty()),
    ];
    if let Some((what, _)) = given.iter().find(|g| g.1) {
        return Err(format!("{what}: for DPDK ports only; leave it out, or give --port or --vdev"));
    }
    if a.lcores > 1 {
        return Err(format!(
            "--lcores {}: a node on kernel sockets has one thread; leave it out, or give --port",
            a.lcores
        ));
    }
    let ip = a.nid.ip().unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let privileged =
        may_bind_privileged(ip).map_err(|e| format!("cannot make a socket: {}", limits::told(&e)))?;
    if !privileged {
        tracing::warn!(
            "cannot bind ports below 1024: peers that accept only secure connections (Lustre's default) will refuse this node; \
             grant it with: setcap cap_net_bind_service=+ep $(command -v pollnd)"
        );
    }
    let mut config = settings::config(a, lnd::Carrier::Sockets, privileged, iface::mbps(ip))?;
    limits::descriptors(&mut config, role == Role::Server);
    let at = match (config.accept, &config.listen_ports().collect::<Vec<_>>()[..]) {
        (Accept::None, _) => "not listening".to_owned(),
        (_, [port, bulk]) => format!("ports {port} and {bulk}"),
        _ => format!("port {}", config.port),
    };
    let describe = format!("kernel sockets, {at}{}", if privileged { "" } else { ", unprivileged" });
    let clock = Clock::calibrated();
    let front = Arc::new(Front::new(1, clock.clone()));
    let mut node = NodeBuilder::of(config).clock(clock).front(front.clone());
    match node.probe() {
        // Who listens there may be a node of this very NID, the kernel's or another user's: see field report 16.
        Err(BuildError::Sock(e)) if in_use(&e) && role != Role::Server => {
            return Err(format!(
                "{e}; if that is a node of {}, ping from it, or give --nid another address: a second node of its NID would cut \
                 its connections off. If it is none, give --accept none",
                a.nid
            ));
        }
        Err(BuildError::Sock(e @ SockError::Listen { .. })) if role != Role::Server => {
            tracing::info!("{e}; going on without, peers cannot connect back");
            node = node.listen_at([]);
        }
        probed => probed.map_err(|e| e.to_string())?,
    }
    let make = move || {
        let backing: Arc<dyn Backing> = Arc::new(PrivatePages);
        make(&backing)
    };
    let node = node.start(control.clone(), make).map_err(|e| e.to_string())?;
    Ok((Node::new(vec![node.into_thread()], control, describe, None), front))
}

fn in_use(e: &SockError) -> bool {
    matches!(e, SockError::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse)
}

#[cfg(not(feature = "dpdk"))]
fn start_dpdk(_: &NodeArgs, _: MakeApp, _: Arc<Control>) -> Result<Started, String> {
    Err("this pollnd was built without DPDK: build it with `cargo build --release -p pollnd` (feature dpdk is the default)".into())
}
