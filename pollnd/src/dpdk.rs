//! A node on a DPDK port: the EAL, the port, lcores, and the control thread that looks after them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bench::link::this_lcore;
use dataplane::capture::CapturePort;
use dataplane::clock::Clock;
use dataplane::cpt::Machine as Cores;
use dataplane::dpdk::{Eal, EalBacking, EalConfig, EthPort, LinkState, PortConfig, PortSpec, QueueSeed};
use dataplane::lcore::{self, Lcore};
use dataplane::pkt::Port;
use hugepages::{Backing, LendSlab};
use tcpstack::{Listen, Stack, StackConfig};
use transport::node::desk::Front;
use transport::node::lcore::{LcoreRt, keepalive};
use transport::node::links::{Linked, Rings, relay_budget};
use transport::node::{Control, Idle, NoApp, NodeEnd, Order, Shard, Turn, run};
use transport::proto::tunables::Change;
use transport::proto::{Carrier, Config, Machine, ShardId, Shards};

use crate::args::{NodeArgs, Switch};
use crate::assemble::{MakeApp, Node, Started, until_made};
use crate::cpus;
use crate::inspect::telemetry;
use crate::settings;

/// Lendings of an lcore.
const LENDINGS: usize = 8192;
/// Memory for pages of applications and for slack, in MiB.
const PAGES_MB: u64 = 64;
/// Smallest window of a connection that the TCP stack has, in bytes.
const WINDOW_MIN: u32 = 64 << 10;
/// How often the control thread looks at links and late drivers.
const LOOK: Duration = Duration::from_millis(100);

/// How often once a link that was up is down.
const LOOK_DOWN: Duration = Duration::from_secs(1);

type Ended = Result<Vec<Option<NodeEnd>>, String>;

fn port_spec(a: &NodeArgs) -> Result<PortSpec, String> {
    match (&a.port, &a.vdev) {
        (Some(_), Some(_)) => Err("--port and --vdev do not go together: a node has one port".into()),
        (Some(s), None) | (None, Some(s)) => s.parse::<PortSpec>().map_err(|e| e.to_string()),
        (None, None) => {
            Err("--carrier dpdk needs --port (a PCI address) or --vdev (such as net_tap0)".into())
        }
    }
}

/// Looks for the socket of a vhost link, whose absence drivers tell only in their log.
fn vhost_socket(spec: &PortSpec) -> Result<(), String> {
    let PortSpec::Vdev { name, args } = spec else { return Ok(()) };
    let value = |key: &str| args.split(',').find_map(|a| a.strip_prefix(key)).map(Path::new);
    let listens = |p: &Path| match p.parent().filter(|d| !d.as_os_str().is_empty() && !d.is_dir()) {
        Some(d) => Err(format!(
            "{name} cannot make its socket {}: the folder {} does not exist; make it, or give another path",
            p.display(),
            d.display()
        )),
        None if p.exists() => Err(format!(
            "{name} cannot make its socket {0}: it exists; a node that was killed leaves it behind: if no other serves it, rm {0}",
            p.display()
        )),
        None => Ok(()),
    };
    if name.starts_with("net_vhost") {
        value("iface=").map_or(Ok(()), listens)
    } else if name.starts_with("net_virtio_user") {
        let Some(p) = value("path=") else { return Ok(()) };
        if args.split(',').any(|a| a == "server=1") {
            return listens(p);
        }
        if p.exists() {
            return Ok(());
        }
        Err(format!(
            "{name}: there is no vhost socket {0}: start the other end first (a node with --vdev net_vhost0,iface={0}, \
             a virtual switch), or correct the path",
            p.display()
        ))
    } else {
        Ok(())
    }
}

/// Memory that the port's pools and the applications' pages take, in MiB.
fn memory_mb(c: &PortConfig) -> u32 {
    // Data room, headroom, mbuf and mempool header: a little over 9.5 KiB; heads 2.4 KiB; bare mbufs 256 B.
    let queue = u64::from(c.rx_bufs) * 9_728 + u64::from(c.tx_heads) * 2_496 + u64::from(c.tx_bare) * 256;
    u32::try_from(((u64::from(c.queues) * queue) >> 20) + PAGES_MB).unwrap_or(u32::MAX)
}

/// Lcores of the node, from the pattern and the number asked for, near the port.
fn lcores(a: &NodeArgs, cores: &Cores, spec: &PortSpec) -> Result<Vec<Lcore>, String> {
    let pattern = a.cpu_pattern.as_deref().unwrap_or("");
    let (all, shared) = cpus::choose(cores, pattern, a.lcores.into(), spec.node(), &cpus::polled())
        .map_err(|e| e.to_string())?;
    for w in shared {
        tracing::warn!("{w}");
    }
    Ok(all)
}

/// Prefix length and gateway of the port's network.
fn network(a: &NodeArgs, ip: IpAddr) -> Result<(u8, Option<IpAddr>), String> {
    let (most, usual) = if ip.is_ipv6() { (128, 64) } else { (32, 24) };
    let prefix = a.prefix.unwrap_or(usual);
    if prefix > most {
        return Err(format!("--prefix {prefix}: the network of {} has a prefix of 1 to {most} bits", a.nid));
    }
    match a.gateway {
        Some(g) if g.is_ipv6() != ip.is_ipv6() => {
            Err(format!("--gateway {g}: it has to be of the address family of {}", a.nid))
        }
        g => Ok((prefix, g)),
    }
}

fn stack_config(plan: &Plan) -> StackConfig {
    let (a, tcp) = (&plan.args, &plan.config.tcp);
    let (prefix, gateway) = plan.network;
    let mut c = StackConfig::new(plan.ip, prefix);
    c.gateways = gateway.into_iter().collect();
    c.vlan = a.vlan;
    c.keepalive = keepalive(tcp);
    c.tos = tcp.mark().unwrap_or(0);
    // Less than a stack can do with is taken for as little as it can.
    let window = |bytes: u32, or: u32| if bytes == 0 { or } else { bytes.max(WINDOW_MIN) };
    c.rx_window = window(tcp.rx_buffer, c.rx_window);
    if tcp.tx_buffer > 0 {
        c.tx_window = window(tcp.tx_buffer, 0);
        c.backlog = c.tx_window.into();
    }
    c
}

/// The speed that a port tells, in Mbit/s, if it knows.
fn speed(l: LinkState) -> Option<u32> {
    (l.up && l.mbps > 0 && l.mbps != u32::MAX).then_some(l.mbps)
}

/// Where the packets of an lcore's queue go: each queue has a file.
fn capture_path(path: &Path, me: ShardId) -> PathBuf {
    if me.0 == 0 {
        return path.into();
    }
    let mut p = path.as_os_str().to_owned();
    p.push(format!(".{}", me.0));
    p.into()
}

/// What the polling threads are made from.
struct Plan {
    args: NodeArgs,
    ip: IpAddr,
    /// Prefix length, and gateway.
    network: (u8, Option<IpAddr>),
    config: Config,
    clock: Clock,
    rings: Rings,
    /// The CPT of each shard's lcore.
    cpts: Vec<u32>,
    front: Arc<Front>,
    eal: Eal,
    backing: Arc<dyn Backing>,
    restart: Mutex<Vec<Arc<AtomicBool>>>,
    /// Lcores with a queue, by queue.
    owners: Vec<ShardId>,
}

impl Plan {
    fn runtime<P: Port>(&self, port: P, me: ShardId) -> Result<LcoreRt<P>, String> {
        let slab = LendSlab::new(LENDINGS);
        let mut stack = Stack::new(stack_config(self), port, slab).map_err(|e| e.to_string())?;
        let backlog = self.config.tcp.backlog.into();
        for port in self.config.listen_ports() {
            stack.listen(Listen { addr: self.ip, port, backlog }).map_err(|e| e.to_string())?;
        }
        let rt = LcoreRt::new(stack, self.clock.clone(), me);
        self.restart.lock().unwrap_or_else(PoisonError::into_inner).push(rt.restart_wanted());
        Ok(rt)
    }

    /// The shards of the same CPT, this one too.
    fn siblings(&self, me: ShardId) -> impl Iterator<Item = ShardId> {
        let cpt = |s: usize| self.cpts.get(s).copied();
        (0..self.args.lcores).map(ShardId).filter(move |s| cpt(usize::from(s.0)) == cpt(usize::from(me.0)))
    }

    /// One shard, over `port` if its lcore has a queue.
    fn shard<P: Port + 'static>(
        &self,
        port: Option<P>,
        me: ShardId,
        make: Option<MakeApp>,
    ) -> Result<Box<dyn Turn>, String> {
        let mut config = self.config.clone();
        let shards = Shards { me, count: self.args.lcores };
        config.shards = shards;
        let machine = Machine::new(config);
        let app = match make {
            Some(make) => make(&self.backing)?,
            None => Box::new(NoApp),
        };
        let desk = self.front.desk(usize::from(me.0));
        let own = port.map(|p| self.runtime(p, me)).transpose()?;
        match own {
            Some(rt) if shards.count == 1 => Ok(Box::new(Shard::new(machine, rt, app).at(desk))),
            own => {
                let clock = self.clock.clone();
                let now = Box::new(move || clock.now());
                let bufs = PortConfig::default().rx_bufs;
                let lend = relay_budget(u64::from(bufs) * 9216, bufs as usize);
                let rt = Linked::new(own, shards, self.owners.clone(), &self.rings, lend, now);
                let balance = self.args.balance == Switch::On;
                Ok(Box::new(Shard::new(machine, rt.among(self.siblings(me)), app).at(desk).balanced(balance)))
            }
        }
    }

    fn make(
        &self,
        seed: Option<QueueSeed>,
        me: ShardId,
        make: Option<MakeApp>,
    ) -> Result<Box<dyn Turn>, String> {
        let lcore = this_lcore(&self.eal)?;
        let queue = seed.map(|s| s.build(&lcore));
        match (&self.args.pcap, queue) {
            (Some(path), Some(q)) => {
                let path = &capture_path(path, me);
                let epoch = bench::sock::epoch().saturating_sub(self.clock.now());
                let clock = self.clock.clone();
                let stamp = Box::new(move || epoch + clock.now());
                let port = CapturePort::new(q, path, 65_535, stamp).map_err(|e| e.to_string())?;
                self.shard(Some(port), me, make)
            }
            (_, queue) => self.shard(queue, me, make),
        }
    }
}

/// Looks after the port while the lcores poll it.
struct Keeper {
    stop: Sender<()>,
    thread: JoinHandle<EthPort>,
}

fn keep(mut port: EthPort, plan: &Arc<Plan>) -> Keeper {
    let (stop, stopped): (Sender<()>, Receiver<()>) = mpsc::channel();
    let plan = plan.clone();
    let thread = std::thread::spawn(move || {
        let (mut look, mut was_up) = (LOOK, false);
        let mut told = plan.config.link_mbps;
        while stopped.recv_timeout(look) == Err(mpsc::RecvTimeoutError::Timeout) {
            let link = port.refresh_link();
            let up = link.up;
            if let Some(mbps) = speed(link).filter(|m| told != Some(*m)) {
                // An lcore that is held up is told at the next look.
                told = plan.front.tune(Change::link(Some(mbps))).ok().map(|()| mbps);
            }
            was_up |= up;
            // A virtio_user port whose other end has gone logs each look.
            look = if up || !was_up { LOOK } else { LOOK_DOWN };
            let flags = plan.restart.lock().unwrap_or_else(PoisonError::into_inner);
            let mut wanted = false;
            for f in flags.iter() {
                wanted |= f.swap(false, Ordering::AcqRel);
            }
            drop(flags);
            if wanted {
                tracing::warn!(
                    port = port.name(),
                    "its driver has held sent pages for a second: stopping and starting it"
                );
                if let Err(e) = port.restart(Duration::from_secs(2)) {
                    tracing::error!("{e}");
                }
            }
        }
        port
    });
    Keeper { stop, thread }
}

/// Starts a node on a DPDK port.
///
/// # Errors
/// What is missing, and the remedy.
pub(crate) fn start(a: &NodeArgs, make: MakeApp, control: Arc<Control>) -> Result<Started, String> {
    let spec = port_spec(a)?;
    let ip = a.nid.ip().ok_or_else(|| format!("{} has no IP address", a.nid))?;
    let network = network(a, ip)?;
    let cores = Cores::detect().map_err(|e| e.to_string())?;
    let lcores = lcores(a, &cores, &spec)?;
    let mtu = a.mtu.unwrap_or(1500);
    let port_config = PortConfig { mtu, queues: a.lcores, fewer: true, ..PortConfig::default() };
    EthPort::check(&spec, &port_config).map_err(|e| e.to_string())?;
    vhost_socket(&spec)?;
    let pci = match &spec {
        PortSpec::Pci(p) => Some(p.clone()),
        _ => None,
    };
    let eal = EalConfig {
        mem_mb: memory_mb(&port_config).max(256),
        no_pci: pci.is_none(),
        allow: pci.into_iter().collect(),
        raw: a.eal.clone(),
        ..EalConfig::default()
    };
    let eal = Eal::start(&eal).map_err(|e| e.to_string())?;
    let mut port = EthPort::open(&eal, &spec, &port_config).map_err(|e| e.to_string())?;
    for w in port.warnings() {
        tracing::warn!("{w}");
    }
    if usize::from(port.queues()) < lcores.len() {
        tracing::warn!(
            "port {} has {} for {} lcores: those without a queue serve peers over rings",
            port.name(),
            port.describe_queues(),
            lcores.len()
        );
    }
    for l in &lcores {
        if let Some(n) = l.node.filter(|n| port.node() >= 0 && *n != port.node().unsigned_abs()) {
            tracing::warn!(
                "lcore {} is on NUMA node {n}, port {} on node {}: choose CPUs near the port with --cpu-pattern",
                l.index,
                port.name(),
                port.node()
            );
        }
    }
    // The stack is ours: reserved ports need nobody's leave.
    let config = settings::config(a, Carrier::Port, true, speed(port.refresh_link()))?;
    let describe = format!(
        "port {} ({}), {}, {} lcore(s) on CPU {:?}, MTU {}, {}",
        port.name(),
        port.driver(),
        port.describe_queues(),
        lcores.len(),
        lcores.iter().map(|l| l.cpu).collect::<Vec<_>>(),
        port.caps().mtu,
        if eal.huge() { "huge pages" } else { "ordinary pages" }
    );
    let clock = Clock::calibrated();
    let front = Arc::new(Front::new(lcores.len(), clock.clone()));
    let plan = Arc::new(Plan {
        args: a.clone(),
        ip,
        network,
        config,
        clock,
        rings: Rings::new(a.lcores),
        cpts: lcores.iter().map(|l| l.cpt).collect(),
        front: front.clone(),
        backing: Arc::new(EalBacking::new(&eal, port.node())),
        eal: eal.clone(),
        restart: Mutex::default(),
        owners: (0..port.queues()).map(ShardId).collect(),
    });
    telemetry::offer(&eal, &control, &front);
    let idle = Idle::for_machine(cores.cpus().len(), lcores.len());
    let mut seeds = (0..port.queues()).map(|q| port.take_queue(q)).collect::<Vec<_>>().into_iter();
    let mut make = Some(make);
    let (made, wait) = mpsc::channel::<()>();
    let threads = lcores
        .iter()
        .map(|l| {
            let (plan, control, seed, make) =
                (plan.clone(), control.clone(), seeds.next().flatten(), make.take());
            let made = made.clone();
            lcore::spawn(&cores, l, move |l| -> Ended {
                let me = ShardId(u16::try_from(l.index).unwrap_or(u16::MAX));
                let node = plan.make(seed, me, make).inspect_err(|_| control.give(Order::Drain))?;
                drop(made);
                Ok(run(vec![node], &control, idle))
            })
            .map_err(|e| e.to_string())
        })
        .collect::<Result<Vec<_>, _>>()
        .inspect_err(|_| control.give(Order::Drain))?;
    // A thread that could not be pinned has told so already and ended.
    let threads = threads
        .into_iter()
        .map(|t| {
            std::thread::spawn(move || {
                t.join().map_err(|_| "an lcore panicked".to_owned())?.unwrap_or(Ok(Vec::new()))
            })
        })
        .collect();
    drop(made);
    until_made(&wait);
    let keeper = keep(port, &plan);
    drop(plan);
    let after = Box::new(move || {
        drop(keeper.stop);
        let mut port = keeper.thread.join().map_err(|_| "the control thread panicked".to_owned())?;
        let left = port.close(Duration::from_secs(2)).map_err(|e| e.to_string())?;
        if left.attachments_out > 0 {
            tracing::error!(
                "port {}: its driver kept {} attached pages: they are not used again",
                port.name(),
                left.attachments_out
            );
        }
        drop(port);
        if left.attachments_out > 0 {
            // The pages that the driver kept are the EAL's: it stays until the process ends, as they do.
            return Ok(());
        }
        // A peer that has gone for good leaves pages lent: the process ends, and they with it.
        if let Err(e) = eal.cleanup_within(Duration::from_secs(1)) {
            tracing::warn!("{e}");
        }
        Ok(())
    });
    Ok((Node::new(threads, control, describe, Some(after)), front))
}
