//! The one place where a node is assembled: protocol, streams and applications, over kernel sockets or over the queues
//! of a port.
//!
//! A [`NodeBuilder`] is told what the node is to be. It refuses what cannot be before it starts anything, and says what
//! would do instead. Then it gives one of these:
//!
//! * a node over kernel sockets on a thread of its own ([`NodeBuilder::run`], [`NodeBuilder::start`]), as
//!   `examples/hello_lnet.rs` shows;
//! * the same as a shard that the caller turns ([`NodeBuilder::sockets`]);
//! * a shard over one TCP stack ([`NodeBuilder::over`]), in virtual time if its clock is virtual;
//! * a [`Plan`], from which each lcore of a node of several makes its own shard, on its own thread.
//!
//! Two nodes on kernel sockets, turned by hand until a ping has been answered:
//!
//! ```
//! use transport::lnd::AppId;
//! use transport::lnet::{Event, Op};
//! use transport::node::{NoApp, NodeBuilder, rings};
//! use transport::wire::{Nid, ProcessId};
//!
//! let (here, there): (Nid, Nid) = ("127.0.88.1@tcp".parse()?, "127.0.88.2@tcp".parse()?);
//! let node = |nid| NodeBuilder::new(nid).unprivileged(20_988);
//! let mut server = node(there).sockets(NoApp)?;
//! let (handle, app) = rings(AppId::FIRST, 16);
//! let mut client = node(here).listen_at([]).sockets(app)?;
//!
//! handle.submit(Op::Ping { tag: 1, target: ProcessId::lustre(there) })?;
//! let info = loop {
//!     client.turn();
//!     server.turn();
//!     if let Some(Event::Ping { info, .. }) = handle.event() {
//!         break info?;
//!     }
//! };
//! assert_eq!(info.nis[0].nid, there);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod lcores;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use dataplane::clock::Clock;
use dataplane::pkt::Port;
use tcpstack::{Listen, ListenError, Stack};

pub use self::lcores::Lcores;
use super::app::App;
use super::idle::IdlePolicy;
use super::inspect::{Inspect, Inspection, Mailbox};
use super::lcore::LcoreStreams;
use super::machine::BesideError;
use super::mesh::{Mesh, Rings, relay_budget};
use super::ports::{PORTS_MAX, Ports};
use super::run::{Control, NodeEnd, Order, Turn, run};
use super::shard::{NotAlone, Shard};
use super::sock::{self, SockConfig, SockError, SockStreams};
use super::streams::Streams;
use crate::lnd::{Accept, Config, NIS_MAX, PeerByHand, PeerError, Route, RouteError, SHARDS_MAX, Shards};
use crate::lnet::faults::{FaultAsk, FaultError, FaultRule};
use crate::node::Machine;
use crate::stream::{Protocol, ShardId};
use crate::wire::{Nid, NidParseError};

/// Reason why a node is not assembled. Nothing has been started.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The NID has no address.
    #[error("{0} has no IP address: a node needs a NID that others reach it by, for example 10.0.0.1@tcp")]
    NoAddress(Nid),
    /// No NI, or more than names of loans have room for.
    #[error("{0} NIs: a node has 1 to {NIS_MAX}; run a second node for more")]
    Nis(usize),
    /// Two NIs are the same.
    #[error("{0} is named twice: give each NI an address of its own, or a network of its own, for example {other}", other = next_net(*.0))]
    Twice(Nid),
    /// The address is no single machine's.
    #[error(transparent)]
    Nid(#[from] NidParseError),
    /// No lcore, or more than names of streams and lends have room for.
    #[error("{0} lcores: a node has 1 to {SHARDS_MAX}; run a second node, with a NID of its own, for more")]
    Lcores(u16),
    /// Lcores would have to share a core.
    #[error(
        "{lcores} lcores on {cores} cores: an lcore polls and needs a core to itself; ask for {cores} at most"
    )]
    Cores {
        /// Lcores asked for.
        lcores: u16,
        /// Cores that there are.
        cores: usize,
    },
    /// The queues do not go with the lcores.
    #[error("{queues} queues for {lcores} lcores: an lcore polls one queue or none; take 1 to {lcores}")]
    Queues {
        /// Queues of the port.
        queues: u16,
        /// Lcores asked for.
        lcores: u16,
    },
    /// Not every lcore has a CPT.
    #[error("CPTs of {named} lcores, but {lcores} lcores: name the CPT of each, or none to have one for all")]
    Cpts {
        /// Lcores whose CPT is named.
        named: usize,
        /// Lcores asked for.
        lcores: u16,
    },
    /// Several lcores where one thread turns the node.
    #[error(
        "{0} lcores: a node on kernel sockets, or on one TCP stack, has one thread; give it one lcore, or the queues of a port"
    )]
    OneThread(u16),
    /// There is no such lcore.
    #[error("lcore {me} of a node of {lcores} lcores: they are numbered from 0")]
    NoSuchLcore {
        /// Which was asked for.
        me: u16,
        /// Their number.
        lcores: u16,
    },
    /// The kernel refuses an address, a port or the poller.
    #[error(transparent)]
    Sock(#[from] SockError),
    /// An NI has no port.
    #[error(
        "{nid} is on none of the node's ports, whose addresses are its stacks'; give one of them {ip}, or leave the NI out"
    )]
    NoPort {
        /// The NI.
        nid: Nid,
        /// Its address.
        ip: IpAddr,
    },
    /// Two ports have the same address.
    #[error("{nid} is on two of the node's ports: take {ip} away from one of them")]
    TwoPorts {
        /// The NI.
        nid: Nid,
        /// Its address.
        ip: IpAddr,
    },
    /// Too many ports.
    #[error("{0} ports: an lcore polls 1 to {PORTS_MAX}")]
    Ports(usize),
    /// The stack refuses to listen.
    #[error("cannot listen on {at}: {source}; the stack needs the NID's address, and each port once")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// The stack's error.
        source: ListenError,
    },
    /// A route that the node cannot have.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A peer by hand that it cannot have.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// A fault rule that it cannot have.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// No thread.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// A protocol beside LNet cannot have its port.
    #[error(transparent)]
    Beside(#[from] BesideError),
}

/// The same address in another network.
fn next_net(nid: Nid) -> Nid {
    nid.ip().map_or(nid, |ip| Nid::tcp(ip, nid.net_num().wrapping_add(1)))
}

/// The kernel gives no thread.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot start a thread that {what}: {source}: this user or container may have no more processes and threads; raise ulimit \
     -u, TasksMax= of the service, or the container's pids.max"
)]
pub struct NoThread {
    /// Its work, as a verb in the third person.
    pub what: &'static str,
    /// The kernel's error.
    pub source: io::Error,
}

/// Starts a thread that does `what`, by running `f`.
///
/// # Errors
/// [`NoThread`]
pub fn thread<T: Send + 'static>(
    what: &'static str,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, NoThread> {
    std::thread::Builder::new().spawn(f).map_err(|source| NoThread { what, source })
}

/// Protocols beside LNet, each with the port that it has.
pub type Protocols = Vec<(u16, Box<dyn Protocol + Send>)>;

/// A polling thread, and what the nodes that it turned came to: `None` for one that panicked.
///
/// # Errors
/// The obstacle to making the nodes.
pub type Polling = JoinHandle<Result<Vec<Option<NodeEnd>>, String>>;

/// The plan of a node. See the [module](self).
#[derive(Clone)]
pub struct NodeBuilder {
    config: Config,
    clock: Option<Clock>,
    inspection: Option<Arc<Inspection>>,
    listen: Option<Vec<SocketAddr>>,
    idle: sock::IdleMode,
    lcores: Lcores,
    cores: Option<usize>,
    faults: Vec<FaultRule>,
}

impl NodeBuilder {
    /// A node `nid` that starts now, with the kernel's defaults.
    pub fn new(nid: Nid) -> NodeBuilder {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
        NodeBuilder::of(Config::new(nid, now))
    }

    /// A node of this configuration, but for its place among shards, which the builder decides.
    pub fn of(config: Config) -> NodeBuilder {
        NodeBuilder {
            config,
            clock: None,
            inspection: None,
            listen: None,
            idle: sock::IdleMode::default(),
            lcores: Lcores::new(1, 0, 0),
            cores: None,
            faults: Vec::new(),
        }
    }

    /// One more NI.
    #[must_use]
    pub fn also(self, nid: Nid) -> NodeBuilder {
        NodeBuilder { config: self.config.also(nid), ..self }
    }

    /// Changes the configuration.
    #[must_use]
    pub fn config(mut self, change: impl FnOnce(&mut Config)) -> NodeBuilder {
        change(&mut self.config);
        self
    }

    /// Listens on and dials to `port`, above 1023, and believes every HELLO: for nodes whose users trust each other, and
    /// need no privilege so.
    #[must_use]
    pub fn unprivileged(self, port: u16) -> NodeBuilder {
        self.config(|c| (c.port, c.privileged, c.accept) = (port, false, Accept::Trust))
    }

    /// The clock of all shards; the kernel's monotonic one unless told.
    #[must_use]
    pub fn clock(self, clock: Clock) -> NodeBuilder {
        NodeBuilder { clock: Some(clock), ..self }
    }

    /// Lets others look at the node while it runs.
    #[must_use]
    pub fn inspection(self, inspection: Arc<Inspection>) -> NodeBuilder {
        NodeBuilder { inspection: Some(inspection), ..self }
    }

    /// Listens here, rather than on the NID's address at the configuration's ports.
    #[must_use]
    pub fn listen_at(self, at: impl IntoIterator<Item = SocketAddr>) -> NodeBuilder {
        NodeBuilder { listen: Some(at.into_iter().collect()), ..self }
    }

    /// Idling of a node on kernel sockets.
    #[must_use]
    pub fn idle(self, idle: sock::IdleMode) -> NodeBuilder {
        NodeBuilder { idle, ..self }
    }

    /// The lcores of a node over a port.
    #[must_use]
    pub fn lcores(self, lcores: Lcores) -> NodeBuilder {
        NodeBuilder { lcores, ..self }
    }

    /// The machine has so many cores, and each lcore polls on one of its own.
    #[must_use]
    pub fn cores(self, cores: usize) -> NodeBuilder {
        NodeBuilder { cores: Some(cores), ..self }
    }

    /// Begins with these fault rules, on every shard.
    #[must_use]
    pub fn faults(self, faults: Vec<FaultRule>) -> NodeBuilder {
        NodeBuilder { faults, ..self }
    }

    /// Addresses that the node listens on.
    pub fn listens_at(&self) -> Vec<SocketAddr> {
        if let Some(at) = &self.listen {
            return at.clone();
        }
        let mut at: Vec<SocketAddr> = Vec::new();
        for ip in self.config.nids().filter_map(Nid::ip) {
            let all = self.config.listen_ports().map(|p| SocketAddr::new(ip, p));
            // NIs of several networks may have one address.
            let new: Vec<SocketAddr> = all.filter(|a| !at.contains(a)).collect();
            at.extend(new);
        }
        at
    }

    /// Whether there can be such a node, as far as that can be told without asking the kernel.
    ///
    /// # Errors
    /// The part that cannot be, and what can.
    pub fn check(&self) -> Result<(), BuildError> {
        let (nids, l) = (self.config.nids().collect::<Vec<Nid>>(), &self.lcores);
        if nids.is_empty() || nids.len() > NIS_MAX {
            return Err(BuildError::Nis(nids.len()));
        }
        for (i, nid) in nids.iter().enumerate() {
            nid.station()?;
            nid.ip().ok_or(BuildError::NoAddress(*nid))?;
            if nids.iter().take(i).any(|n| n == nid) {
                return Err(BuildError::Twice(*nid));
            }
        }
        Route::check_all(&self.config.routes, &nids)?;
        PeerByHand::check_all(&self.config.peers, &nids)?;
        FaultRule::check_all(&self.faults)?;
        let lcores = l.count;
        if lcores == 0 || lcores > SHARDS_MAX {
            return Err(BuildError::Lcores(lcores));
        }
        if let Some(cores) = self.cores.filter(|cores| usize::from(lcores) > *cores) {
            return Err(BuildError::Cores { lcores, cores });
        }
        if l.queues == 0 || l.queues > lcores {
            return Err(BuildError::Queues { queues: l.queues, lcores });
        }
        match l.cpts.len() {
            named if named != 0 && named != usize::from(lcores) => Err(BuildError::Cpts { named, lcores }),
            _ => Ok(()),
        }
    }

    /// Whether there can be such a node over this machine's sockets now: opens and closes what the node would open.
    ///
    /// # Errors
    /// As [`NodeBuilder::check`]; an address that is not this machine's, a port that is in use or needs a privilege.
    pub fn probe(&self) -> Result<(), BuildError> {
        SockStreams::probe(&self.sock_config()?)?;
        Ok(())
    }

    fn one_thread(&self) -> Result<(), BuildError> {
        self.check()?;
        if self.lcores.count == 1 { Ok(()) } else { Err(BuildError::OneThread(self.lcores.count)) }
    }

    fn sock_config(&self) -> Result<SockConfig, BuildError> {
        self.one_thread()?;
        let listen = self.listens_at();
        if listen.is_empty() {
            self.config.nids().filter_map(Nid::ip).try_for_each(sock::may_use)?;
        }
        let lendings = self.config.lendings as usize;
        Ok(SockConfig { listen, idle: self.idle, lendings, tcp: self.config.tcp, ..SockConfig::default() })
    }

    /// The node over kernel sockets, listening, for the caller to turn.
    ///
    /// # Errors
    /// As [`NodeBuilder::probe`].
    pub fn sockets<A: App>(self, app: A) -> Result<Shard<SockStreams, A>, BuildError> {
        let (streams, plan) = (self.sock_config()?, self.plan()?);
        plan.single(SockStreams::new(streams, plan.clock.clone())?, app)
    }

    /// The node over one TCP stack, listening, for the caller to turn.
    ///
    /// # Errors
    /// As [`NodeBuilder::check`]; a stack that cannot listen there.
    pub fn over<P: Port, A: App>(
        self,
        stack: Stack<P>,
        app: A,
    ) -> Result<Shard<LcoreStreams<P>, A>, BuildError> {
        self.one_thread()?;
        let plan = self.plan()?;
        plan.single(plan.lcore(ShardId(0), stack)?, app)
    }

    /// The same over the TCP stacks of several ports: each NI is on the one that has its address.
    ///
    /// # Errors
    /// As [`NodeBuilder::over`]; an NI on no port, or on two.
    pub fn over_ports<P: Port, A: App>(
        self,
        stacks: Vec<Stack<P>>,
        app: A,
    ) -> Result<Shard<Ports<LcoreStreams<P>>, A>, BuildError> {
        self.one_thread()?;
        let plan = self.plan()?;
        plan.single(plan.ports(ShardId(0), stacks)?, app)
    }

    /// The node over kernel sockets, on a thread of its own that `control` stops. `make` makes the application there: it
    /// need not be `Send`. Returns when the node listens, or when its thread has failed, which [`Running::stop`] tells.
    ///
    /// # Errors
    /// As [`NodeBuilder::probe`]; no thread.
    pub fn start<A: App + 'static>(
        self,
        control: Arc<Control>,
        make: impl FnOnce() -> Result<A, String> + Send + 'static,
    ) -> Result<Running, BuildError> {
        self.start_with(control, move || Ok((make()?, Protocols::new())))
    }

    /// The same with protocols beside LNet, whose ports must be among those that the node listens at
    /// ([`NodeBuilder::listen_at`]).
    ///
    /// # Errors
    /// As [`NodeBuilder::start`].
    pub fn start_with<A: App + 'static>(
        self,
        control: Arc<Control>,
        make: impl FnOnce() -> Result<(A, Protocols), String> + Send + 'static,
    ) -> Result<Running, BuildError> {
        self.probe()?;
        let (made, wait) = mpsc::channel::<()>();
        let ctl = control.clone();
        let turn = move || {
            let node = |(app, protocols)| {
                let shard = self.sockets(app).map_err(|e| e.to_string())?;
                with_all(shard, protocols).map_err(|e| e.to_string())
            };
            let shard = make().and_then(node).inspect_err(|_| ctl.give(Order::Drain))?;
            drop(made);
            // Its streams wait in the kernel.
            Ok(run(vec![Box::new(shard)], &ctl, IdlePolicy::spins(u32::MAX, u32::MAX)))
        };
        let thread = thread("polls", turn)?;
        // Nothing is ever sent: this ends with the sender.
        let _ = wait.recv();
        Ok(Running { thread, control })
    }

    /// The node over kernel sockets with this application, on a thread of its own.
    ///
    /// # Errors
    /// As [`NodeBuilder::start`].
    pub fn run<A: App + Send + 'static>(self, app: A) -> Result<Running, BuildError> {
        self.start(Arc::default(), move || Ok(app))
    }

    /// The common parts of the node's shards, each of which is made on the thread that turns it.
    ///
    /// # Errors
    /// As [`NodeBuilder::check`].
    pub fn plan(self) -> Result<Plan, BuildError> {
        self.check()?;
        if let Some(front) = &self.inspection {
            front.cpts_are(&self.lcores.cpts);
        }
        Ok(Plan {
            listen: self.listens_at(),
            clock: self.clock.unwrap_or_else(Clock::monotonic),
            rings: Rings::new(self.lcores.count),
            config: self.config,
            inspection: self.inspection,
            lcores: self.lcores,
            faults: self.faults,
        })
    }
}

/// The common parts of a node's shards. They are made one by one, in any order, on any thread.
pub struct Plan {
    config: Config,
    listen: Vec<SocketAddr>,
    clock: Clock,
    inspection: Option<Arc<Inspection>>,
    lcores: Lcores,
    rings: Rings,
    faults: Vec<FaultRule>,
}

impl Plan {
    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The clock of all shards.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    fn shards(&self, me: ShardId) -> Result<Shards, BuildError> {
        let lcores = self.lcores.count;
        Shards::new(me.0, lcores).map_err(|_| BuildError::NoSuchLcore { me: me.0, lcores })
    }

    fn machine(&self, shards: Shards) -> Machine {
        let mut machine = Machine::new(Config { shards, ..self.config.clone() });
        let now = self.clock.now();
        for rule in &self.faults {
            // They were looked at: none is refused.
            let _ = machine.fault(now, FaultAsk::Add(*rule));
        }
        machine
    }

    fn mailbox(&self, me: ShardId) -> Option<Arc<Mailbox>> {
        self.inspection.as_ref().and_then(|f| f.mailbox(usize::from(me.0)))
    }

    /// Streams of lcore `me` over `stack`, listening.
    ///
    /// # Errors
    /// The stack cannot listen there.
    pub fn lcore<P: Port>(&self, me: ShardId, stack: Stack<P>) -> Result<LcoreStreams<P>, BuildError> {
        self.placed(|ip| usize::from(stack.owns(ip)))?;
        self.listening(me, stack, self.listen.iter().copied())
    }

    /// Checks that each NI is on one port; `ports` says on how many an address is.
    fn placed(&self, ports: impl Fn(IpAddr) -> usize) -> Result<(), BuildError> {
        for (nid, ip) in self.config.nids().filter_map(|n| Some((n, n.ip()?))) {
            match ports(ip) {
                0 => return Err(BuildError::NoPort { nid, ip }),
                1 => {}
                _ => return Err(BuildError::TwoPorts { nid, ip }),
            }
        }
        Ok(())
    }

    /// The same over a stack of each of several ports, to which the NIs go by their addresses.
    ///
    /// # Errors
    /// An NI on no port, or on two; a stack that cannot listen.
    pub fn ports<P: Port>(
        &self,
        me: ShardId,
        stacks: Vec<Stack<P>>,
    ) -> Result<Ports<LcoreStreams<P>>, BuildError> {
        if stacks.is_empty() || stacks.len() > PORTS_MAX {
            return Err(BuildError::Ports(stacks.len()));
        }
        self.placed(|ip| stacks.iter().filter(|s| s.owns(ip)).count())?;
        let on = |stack: &Stack<P>, ip: IpAddr| ip.is_unspecified() || stack.owns(ip);
        if let Some(at) = self.listen.iter().find(|a| !stacks.iter().any(|s| on(s, a.ip()))) {
            return Err(BuildError::Listen { at: *at, source: ListenError::NotOurs(at.ip()) });
        }
        let all = stacks.into_iter().map(|stack| {
            let ips: Vec<IpAddr> =
                self.config.nids().filter_map(Nid::ip).filter(|ip| stack.owns(*ip)).collect();
            let at = self.listen.iter().copied().filter(|a| on(&stack, a.ip())).collect::<Vec<_>>();
            Ok((ips, self.listening(me, stack, at)?))
        });
        Ok(Ports::new(all.collect::<Result<Vec<_>, BuildError>>()?))
    }

    fn listening<P: Port>(
        &self,
        me: ShardId,
        mut stack: Stack<P>,
        all: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<LcoreStreams<P>, BuildError> {
        let backlog = self.config.tcp.backlog.into();
        for at in all {
            let l = Listen { addr: at.ip(), port: at.port(), backlog };
            stack.listen(l).map_err(|source| BuildError::Listen { at, source })?;
        }
        Ok(LcoreStreams::new(stack, self.clock.clone(), me, backlog))
    }

    /// The only shard of a node of one lcore: nothing stands between it and its streams.
    ///
    /// # Errors
    /// The node has several.
    pub fn single<S: Streams + Inspect, A: App>(
        &self,
        streams: S,
        app: A,
    ) -> Result<Shard<S, A>, BuildError> {
        let shards = self.shards(ShardId(0))?;
        let alone = Shard::alone(self.machine(shards), streams, app);
        let several = |e: NotAlone| BuildError::OneThread(e.count);
        Ok(alone.map_err(several)?.at(self.mailbox(ShardId(0))))
    }

    /// Shard `me`, over the streams of its own queue if it has one, and joined to the others.
    ///
    /// # Errors
    /// There is no such shard.
    pub fn meshed<S: Streams + Inspect, A: App>(
        &self,
        me: ShardId,
        own: Option<S>,
        app: A,
    ) -> Result<Shard<S, A>, BuildError> {
        let (shards, l, clock) = (self.shards(me)?, &self.lcores, self.clock.clone());
        let owners = (0..l.queues).map(ShardId).collect();
        let lend = relay_budget(l.rx_bytes, l.rx_bufs);
        let mesh = Mesh::new(shards, owners, &self.rings, lend, move || clock.now()).among(l.siblings(me));
        let shard = Shard::meshed(self.machine(shards), mesh, own, app);
        Ok(shard.at(self.mailbox(me)).balanced(l.balanced))
    }

    /// Shard `me`, to be run: joined to others where there are any.
    ///
    /// # Errors
    /// There is no such shard.
    pub fn turnable<S: Streams + Inspect + 'static, A: App + 'static>(
        &self,
        me: ShardId,
        own: Option<S>,
        app: A,
    ) -> Result<Box<dyn Turn>, BuildError> {
        self.turnable_with(me, own, app, Protocols::new())
    }

    /// The same with protocols beside LNet.
    ///
    /// # Errors
    /// There is no such shard; a port that is taken.
    pub fn turnable_with<S: Streams + Inspect + 'static, A: App + 'static>(
        &self,
        me: ShardId,
        own: Option<S>,
        app: A,
        protocols: Protocols,
    ) -> Result<Box<dyn Turn>, BuildError> {
        let shard = match own {
            Some(streams) if self.lcores.count == 1 => self.single(streams, app)?,
            own => self.meshed(me, own, app)?,
        };
        Ok(Box::new(with_all(shard, protocols)?))
    }
}

/// Adds protocols to a shard.
fn with_all<S: Streams + Inspect, A: App>(
    shard: Shard<S, A>,
    protocols: Protocols,
) -> Result<Shard<S, A>, BesideError> {
    protocols.into_iter().try_fold(shard, |shard, (port, protocol)| shard.with(port, protocol))
}

/// A node that a thread of its own turns. It goes on when this value is dropped, until its [`Control`] says otherwise.
pub struct Running {
    thread: Polling,
    control: Arc<Control>,
}

impl Running {
    /// Orders for the node.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// The thread, for a caller that joins several.
    pub fn into_thread(self) -> Polling {
        self.thread
    }

    /// Takes the node down in order, within [`DRAIN`](super::run::DRAIN).
    ///
    /// # Errors
    /// The obstacle to its start, or that it panicked.
    pub fn stop(self) -> Result<NodeEnd, String> {
        self.control.give(Order::Drain);
        let panicked = || "the node panicked: this is a bug of pollnd; its log says where".to_owned();
        let ends = self.thread.join().map_err(|_| panicked())??;
        ends.into_iter().flatten().next().ok_or_else(panicked)
    }
}
