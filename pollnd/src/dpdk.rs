//! A node on DPDK ports: the EAL, the ports, lcores, and the control threads that look after the ports.

mod ports;
mod socket;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bench::link::this_lcore;
use dataplane::capture::CapturePort;
use dataplane::clock::Clock;
use dataplane::cpt::Topology;
use dataplane::dpdk::{Eal, EalBacking, EthPort, QueueSeed};
use dataplane::lcore::{self, Lcore};
use dataplane::pkt::Port;
use hugepages::{Backing, LendSlab};
use tcpstack::{Stack, StackConfig};
use transport::lnd::TcpKind;
use transport::lnd::tunables::Change;
use transport::node::inspect::Inspection;
use transport::node::lcore::{Duplicates, LcoreStreams};
use transport::node::{
    App, Control, IdlePolicy, Lcores, NoApp, NodeBuilder, NodeEnd, Order, Protocols, Turn, run,
};
use transport::stream::ShardId;
use transport::wire::netsock::Addr;

pub(crate) use self::ports::usual_memory_mb;
use crate::args::{Idle, NodeArgs, Switch};
use crate::inspect::telemetry;
use crate::keeper::{Duties, Keeper, speed};
use crate::running::{MakeParts, Node, Started};
use crate::{cpus, limits, networks, settings, units};

type Ended = Result<Vec<Option<NodeEnd>>, String>;

/// Lcores of the node, from the pattern and the number asked for, near NUMA node `near`.
fn lcores(a: &NodeArgs, cores: &Topology, near: Option<u32>) -> Result<Vec<Lcore>, String> {
    let pattern = a.cpu_pattern.as_deref().unwrap_or("");
    let (all, shared) =
        cpus::choose(cores, pattern, a.lcores.into(), near, &cpus::polled()).map_err(|e| e.to_string())?;
    for w in shared {
        tracing::warn!("{w}");
    }
    Ok(all)
}

/// File for the packets of an lcore's queue of port `port`: each queue has its own.
fn capture_path(path: &Path, port: usize, me: ShardId) -> PathBuf {
    let mut p = path.as_os_str().to_owned();
    if port > 0 {
        p.push(format!(".port{port}"));
    }
    if me.0 > 0 {
        p.push(format!(".{}", me.0));
    }
    p.into()
}

/// Flags and reports of lcores for the control thread of a port.
#[derive(Default)]
struct Watched {
    restart: Arc<Mutex<Vec<Arc<AtomicBool>>>>,
    duplicates: Arc<Mutex<Vec<Duplicates>>>,
}

/// Parts of which the polling threads make their shards.
struct Plan {
    node: transport::node::Plan,
    /// The stack and the control thread of each port.
    ports: Vec<(StackConfig, Watched)>,
    pcap: Option<PathBuf>,
    eal: Eal,
    backing: Arc<dyn Backing>,
}

/// An lcore's queues: one of each port, or none.
type Seeds = Vec<QueueSeed>;

impl Plan {
    fn stack<P: Port>(&self, (config, _): &(StackConfig, Watched), port: P) -> Result<Stack<P>, String> {
        let slab = LendSlab::new(self.node.config().lendings as usize);
        Stack::new(config.clone(), port, slab).map_err(|e| e.to_string())
    }

    /// One shard, over the queues of its lcore.
    fn shard<P: Port + 'static>(
        &self,
        queues: Vec<P>,
        me: ShardId,
        make: Option<MakeParts>,
    ) -> Result<Box<dyn Turn>, String> {
        let (app, protocols): (Box<dyn App>, _) = match make {
            Some(make) => make(&self.backing)?,
            None => (Box::new(NoApp), Protocols::new()),
        };
        let watch = |watched: &Watched, rt: &LcoreStreams<P>| {
            watched.restart.lock().unwrap_or_else(PoisonError::into_inner).push(rt.restart_wanted());
            watched.duplicates.lock().unwrap_or_else(PoisonError::into_inner).push(rt.duplicates());
        };
        let stacks = self.ports.iter().zip(queues).map(|(p, q)| self.stack(p, q));
        let mut stacks = stacks.collect::<Result<Vec<_>, _>>()?;
        let turnable = match (self.ports.as_slice(), stacks.len()) {
            (_, 0) => self.node.turnable_with(me, None::<LcoreStreams<P>>, app, protocols),
            ([(_, watched)], _) => {
                let rt = self.node.lcore(me, stacks.remove(0)).map_err(|e| e.to_string())?;
                watch(watched, &rt);
                self.node.turnable_with(me, Some(rt), app, protocols)
            }
            (all, _) => {
                let rt = self.node.ports(me, stacks).map_err(|e| e.to_string())?;
                rt.each().zip(all).for_each(|(rt, (_, watched))| watch(watched, rt));
                self.node.turnable_with(me, Some(rt), app, protocols)
            }
        };
        turnable.map_err(|e| e.to_string())
    }

    fn make(&self, seeds: Seeds, me: ShardId, make: Option<MakeParts>) -> Result<Box<dyn Turn>, String> {
        let lcore = this_lcore(&self.eal)?;
        let queues = seeds.into_iter().map(|s| s.build(&lcore));
        let Some(path) = &self.pcap else { return self.shard(queues.collect(), me, make) };
        let clock = self.node.clock();
        let epoch = bench::sock::epoch().saturating_sub(clock.now());
        let capture = |(port, queue)| {
            let clock = clock.clone();
            let stamp = Box::new(move || epoch + clock.now());
            let tell = Box::new(|said| tracing::warn!("--pcap: {said}"));
            let path = capture_path(path, port, me);
            CapturePort::new(queue, &path, 65_535, stamp, tell).map_err(|e| e.to_string())
        };
        let captured = queues.enumerate().map(capture).collect::<Result<Vec<_>, _>>()?;
        self.shard(captured, me, make)
    }
}

/// Control threads of `ports`, which tell `front` the speed of the fastest link.
fn keep(
    plan: &Plan,
    ports: Vec<EthPort>,
    wanted: &[ports::Wanted],
    front: &Arc<Inspection>,
) -> Result<Vec<Keeper>, String> {
    let speeds: Vec<Option<u32>> = ports.iter().map(|p| speed(p.refresh_link())).collect();
    let all = Arc::new(Mutex::new(speeds.clone()));
    let mut keepers = Vec::new();
    let parts = ports.into_iter().zip(wanted).zip(&plan.ports).zip(speeds);
    for (i, (((port, w), (_, watched)), told)) in parts.enumerate() {
        let (front, all) = (front.clone(), all.clone());
        let speed = move |mbps| {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(own) = all.get_mut(i) {
                *own = Some(mbps);
            }
            let fastest = all.iter().copied().flatten().max();
            front.tune(Change::link(fastest)).is_ok()
        };
        let duties = Duties {
            restart: watched.restart.clone(),
            duplicates: watched.duplicates.clone(),
            speed: Box::new(speed),
            told,
        };
        keepers.push(Keeper::start(port, &w.spec, duties)?);
    }
    Ok(keepers)
}

/// Starts a node on DPDK ports.
///
/// # Errors
/// A part that is missing, and the remedy.
pub(crate) fn start(
    a: &NodeArgs,
    (make, instead): (MakeParts, Option<Addr>),
    control: Arc<Control>,
) -> Result<Started, String> {
    if a.nid.ip().is_none() {
        return Err(format!("{} has no IP address", a.nid));
    }
    let cores = Topology::detect().map_err(|e| e.to_string())?;
    let wanted = ports::wanted(a)?;
    let lcores = lcores(a, &cores, ports::node(&wanted))?;
    let of_node = Lcores {
        cpts: lcores.iter().map(|l| l.cpt).collect(),
        balanced: a.balance == Switch::On,
        queues: a.queues.unwrap_or(a.lcores),
        ..Lcores::new(a.lcores, 0, 0)
    };
    let node = a.ni.iter().fold(NodeBuilder::new(a.nid), |n, ni| n.also(*ni));
    let node = node.cores(cores.cpus().len()).lcores(of_node.clone()).faults(a.fault.clone());
    node.check().map_err(|e| e.to_string())?;
    ports::check(&wanted)?;
    limits::descriptors_for_eal()?;
    ports::warn_of_kernel(&wanted);
    networks::shared(&networks::asked(a)?).iter().for_each(|w| tracing::warn!("{w}"));
    let eal = Eal::start(&ports::eal(&wanted, &a.dpdk.eal)).map_err(|e| e.to_string())?;
    eal.notes().iter().for_each(|n| tracing::warn!("{n}"));
    let mut ports = ports::open(&eal, &wanted, &control)?;
    ports::warn_of_lcores(&ports, &lcores);
    // The stack is ours: reserved ports need nobody's leave.
    let config = settings::config(a, TcpKind::Port, true, ports::fastest(&ports))?;
    let describe = format!(
        "{}, {} on CPU {:?}, {}",
        ports::describe(&ports),
        units::many(lcores.len() as u64, "lcore"),
        lcores.iter().map(|l| l.cpu).collect::<Vec<_>>(),
        if eal.huge() { "huge pages" } else { "ordinary pages" }
    );
    let clock = Clock::calibrated();
    let front = Arc::new(Inspection::new(lcores.len(), clock.clone()));
    let (rx_bufs, rx_bytes) = ports::rx_of_queue(&ports);
    let queues = ports.first().map_or(1, EthPort::queues);
    let of_node = Lcores { queues, rx_bytes, rx_bufs, ..of_node };
    let stacks = wanted.iter().map(|w| Ok((w.stack(&config.tcp)?, Watched::default())));
    let stacks = stacks.collect::<Result<Vec<_>, String>>()?;
    let mut node = NodeBuilder::of(config).clock(clock).inspection(front.clone()).lcores(of_node);
    node = node.faults(a.fault.clone());
    if instead.is_some() {
        // Its address is asked for by whoever stands instead of LNet.
        node = node.listen_at([]);
    }
    let plan = Arc::new(Plan {
        node: node.plan().map_err(|e| e.to_string())?,
        ports: stacks,
        pcap: a.pcap.clone(),
        backing: Arc::new(EalBacking::new(&eal, ports.first().map_or(-1, EthPort::node))),
        eal: eal.clone(),
    });
    telemetry::offer(&eal, &control, &front);
    let idle = match a.idle {
        None => IdlePolicy::for_machine(cores.cpus().len(), lcores.len()),
        Some(Idle::Spin) => IdlePolicy::spins(u32::MAX, u32::MAX),
        Some(Idle::Yield) => IdlePolicy::spins(0, 1),
        Some(Idle::Sleep) => IdlePolicy::sleeps(lcores.len()),
    };
    let mut seeds = (0..queues).map(|q| ports.iter_mut().filter_map(|p| p.take_queue(q)).collect::<Seeds>());
    let mut make = Some(make);
    let (made, wait) = mpsc::channel::<()>();
    let threads = lcores
        .iter()
        .map(|l| {
            let (plan, control, make) = (plan.clone(), control.clone(), make.take());
            let (seeds, made) = (seeds.next().unwrap_or_default(), made.clone());
            lcore::spawn(&cores, l, move |l| -> Ended {
                let me = ShardId(u16::try_from(l.index).unwrap_or(u16::MAX));
                let node = plan.make(seeds, me, make).inspect_err(|_| control.give(Order::Drain))?;
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
            limits::thread("waits for an lcore", move || {
                t.join().map_err(|_| "an lcore panicked".to_owned())?.unwrap_or(Ok(Vec::new()))
            })
        })
        .collect::<Result<_, _>>()
        .inspect_err(|_| control.give(Order::Drain))?;
    drop(made);
    // Every polling thread has made its shard, or has failed to, when the last sender has gone.
    let _ = wait.recv();
    let keepers = keep(&plan, ports, &wanted, &front).inspect_err(|_| control.give(Order::Drain))?;
    let after = Box::new(move || {
        let ports = keepers.into_iter().map(Keeper::end).collect::<Result<Vec<_>, _>>()?;
        if ports::close(ports)? {
            // The pages that a driver kept are the EAL's: it stays until the process ends, as they do.
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
