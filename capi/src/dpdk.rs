//! A node on a DPDK port: the process's EAL, a port, an lcore for each queue, and a thread that looks at the link.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dataplane::clock::Clock;
use dataplane::cpt::Topology;
use dataplane::dpdk::{Eal, EalBacking, EalConfig, EthPort, PollLcore, PortConfig, PortSpec, QueueSeed};
use dataplane::lcore::{self, Lcore};
use hugepages::LendSlab;
use tcpstack::{Stack, StackConfig};
use transport::node::builder::thread;
use transport::node::lcore::keepalive;
use transport::node::{App, Control, IdlePolicy, Lcores, NoApp, NodeBuilder, Order, Plan, Turn, run};
use transport::stream::ShardId;
use transport::wire::Nid;

use crate::error::Error;
use crate::node::Started;
use crate::start::{Apps, Options};

/// Memory for pages of the program, in MiB, unless told.
const PAGES_MB: u32 = 64;
/// Least memory of the EAL, in MiB.
const LEAST_MB: u32 = 256;
/// Interval at which the link is looked at.
const LINK: Duration = Duration::from_millis(200);
/// Time for a driver to give back what it holds.
const CLOSE: Duration = Duration::from_secs(2);

/// The process's EAL, and the arguments it was started with. It is never taken down: pages of the program may be its.
static EAL: Mutex<Option<(Eal, Vec<String>)>> = Mutex::new(None);

fn io(text: impl std::fmt::Display) -> Error {
    Error::new(libc::EIO, text)
}

/// The EAL, started if it has not been.
fn eal(o: &Options<'_>, spec: &PortSpec, port: &PortConfig) -> Result<Eal, Error> {
    let raw: Vec<String> = o.eal_args.split_whitespace().map(str::to_owned).collect();
    let mut one = EAL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((eal, with)) = &*one {
        if !raw.is_empty() && raw != *with {
            return Err(Error::new(
                libc::EBUSY,
                format_args!(
                    "eal_args {:?}: the EAL of this process runs already, with {:?}; leave them out, or give them to the first node",
                    o.eal_args,
                    with.join(" ")
                ),
            ));
        }
        return Ok(eal.clone());
    }
    let pci = match spec {
        PortSpec::Pci(p) => Some(p.clone()),
        _ => None,
    };
    let pages = if o.plain.memory_mb == 0 { PAGES_MB } else { o.plain.memory_mb };
    let pool = u32::try_from(port.pool_bytes() >> 20).unwrap_or(u32::MAX);
    let config = EalConfig {
        mem_mb: pool.saturating_add(pages).max(LEAST_MB),
        no_pci: pci.is_none(),
        allow: pci.into_iter().collect(),
        raw: raw.clone(),
        ..EalConfig::default()
    };
    let eal = Eal::start(&config).map_err(io)?;
    eal.notes().iter().for_each(|n| tracing::warn!("{n}"));
    *one = Some((eal.clone(), raw));
    Ok(eal)
}

/// The TCP stack of the port.
fn stack(o: &Options<'_>, nids: &[Nid], ip: IpAddr) -> Result<StackConfig, Error> {
    let (most, usual) = if ip.is_ipv6() { (128, 64) } else { (32, 24) };
    let prefix = match u8::try_from(o.plain.prefix) {
        Ok(0) => usual,
        Ok(p) if p <= most => p,
        _ => {
            let p = o.plain.prefix;
            return Err(Error::invalid(format_args!(
                "prefix {p}: the network of {ip} has one of 1 to {most} bits"
            )));
        }
    };
    let mut c = StackConfig::new(ip, prefix);
    for more in nids.iter().filter_map(|n| n.ip()) {
        if c.addrs.iter().all(|(ip, _)| *ip != more) {
            let bits = if more.is_ipv6() == ip.is_ipv6() {
                prefix
            } else if more.is_ipv6() {
                128
            } else {
                32
            };
            c.addrs.push((more, bits));
        }
    }
    if !o.gateway.is_empty() {
        let g: IpAddr =
            o.gateway.parse().map_err(|e| Error::invalid(format_args!("gateway {:?}: {e}", o.gateway)))?;
        if g.is_ipv6() != ip.is_ipv6() {
            return Err(Error::invalid(format_args!(
                "gateway {g}: it has to be of the address family of {ip}"
            )));
        }
        c.gateways = vec![g];
    }
    Ok(c)
}

thread_local! {
    // A thread is registered with the EAL once, as long as it runs.
    static LCORE: RefCell<Option<PollLcore>> = const { RefCell::new(None) };
}

fn this_lcore(eal: &Eal) -> Result<PollLcore, String> {
    LCORE.with_borrow_mut(|l| match l {
        Some(l) => Ok(l.clone()),
        None => Ok(l.insert(eal.enter().map_err(|e| e.to_string())?).clone()),
    })
}

/// Parts of which the lcores make their shards.
struct Parts {
    plan: Plan,
    stack: StackConfig,
    eal: Eal,
}

impl Parts {
    fn shard(
        &self,
        me: ShardId,
        seed: Option<QueueSeed>,
        apps: Option<Apps>,
    ) -> Result<Box<dyn Turn>, String> {
        let lcore = this_lcore(&self.eal)?;
        let (app, beside): (Box<dyn App>, _) = match apps {
            Some(Apps { app, beside }) => (app, beside),
            None => (Box::new(NoApp), None),
        };
        let own = seed.map(|s| {
            let slab = LendSlab::new(self.plan.config().lendings as usize);
            let stack = Stack::new(self.stack.clone(), s.build(&lcore), slab).map_err(|e| e.to_string())?;
            self.plan.lcore(me, stack).map_err(|e| e.to_string())
        });
        match (own.transpose()?, beside) {
            (Some(streams), Some((at, protocol))) => {
                let shard = self.plan.single(streams, app).map_err(|e| e.to_string())?;
                Ok(Box::new(shard.with(at.port(), protocol).map_err(|e| e.to_string())?))
            }
            (own, _) => self.plan.turnable(me, own, app).map_err(|e| e.to_string()),
        }
    }
}

impl Options<'_> {
    /// Starts the node on its port.
    pub(crate) fn port(&self, node: NodeBuilder, apps: Apps, nids: &[Nid]) -> Result<Started, Error> {
        if !self.listen.is_empty() {
            return Err(Error::invalid(
                "listen: a node on a port listens on its NIDs' addresses; leave it out",
            ));
        }
        let spec: PortSpec = self.device.parse().map_err(Error::invalid)?;
        let ip =
            nids.iter().find_map(|n| n.ip()).ok_or_else(|| Error::invalid("no NID with an IP address"))?;
        let number = |n: u32, or: u16, what: &str| match u16::try_from(n) {
            Ok(0) => Ok(or),
            Ok(n) => Ok(n),
            Err(_) => Err(Error::invalid(format_args!("{what} {n}: at most 65535"))),
        };
        let (count, mtu) = (number(self.plain.lcores, 1, "lcores")?, number(self.plain.mtu, 1500, "mtu")?);
        if count > 1 && apps.beside.is_some() {
            return Err(Error::invalid(format_args!(
                "net_sock with lcores {count}: one lcore has the domain; give 1"
            )));
        }
        let cores = Topology::detect().map_err(io)?;
        let cpts = cores.cpts("").map_err(io)?;
        let taken: Vec<usize> =
            // Of this process's other nodes, too: 0 is no process of anybody's.
            lcore::polled("/".as_ref(), 0).into_iter().map(|p| p.cpu).collect();
        let lcores = lcore::choose(&cpts, count.into(), spec.node(), &taken).map_err(Error::invalid)?;
        let of_node = Lcores { cpts: lcores.iter().map(|l| l.cpt).collect(), ..Lcores::new(count, 0, 0) };
        let node = node.cores(cores.cpus().len()).lcores(of_node.clone());
        node.check()?;
        let config = PortConfig { mtu, queues: count, fewer: true, ..PortConfig::default() };
        EthPort::check(&spec, &config).map_err(Error::invalid)?;
        let mut stack = stack(self, nids, ip)?;
        let eal = eal(self, &spec, &config)?;
        let mut port = EthPort::open(&eal, &spec, &config).map_err(io)?;
        port.warnings().iter().for_each(|w| tracing::warn!("{w}"));
        let (bufs, bytes) = port.rx_memory();
        let queues = port.queues();
        let node = node.lcores(Lcores {
            queues,
            rx_bytes: bytes / u64::from(queues.max(1)),
            rx_bufs: bufs as usize / usize::from(queues.max(1)),
            ..of_node
        });
        let plan = node.clock(Clock::calibrated()).plan()?;
        let tcp = &plan.config().tcp;
        (stack.keepalive, stack.tos) = (keepalive(tcp), tcp.mark().unwrap_or(0));
        let backing = Arc::new(EalBacking::new(&eal, port.node()));
        let parts = Arc::new(Parts { plan, stack, eal });
        let control = Arc::new(Control::default());
        let polling = lcores.len() + taken.len();
        let idle = IdlePolicy::for_machine(cores.cpus().len(), polling);
        let threads = lcores_of(&cores, (&lcores, idle), &mut port, &parts, &control, apps)?;
        let (stopping, c) = (Arc::new(AtomicBool::new(false)), control.clone());
        let looks = stopping.clone();
        let keeper = thread("looks at the link", move || {
            while !looks.load(Ordering::Acquire) {
                port.refresh_link();
                std::thread::park_timeout(LINK);
            }
            port
        })
        .map_err(|e| {
            control.give(Order::Drain);
            Error::new(libc::EAGAIN, e)
        })?;
        let stop = Box::new(move || {
            c.give(Order::Drain);
            let ends: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
            stopping.store(true, Ordering::Release);
            keeper.thread().unpark();
            let mut port =
                keeper.join().map_err(|_| io("the thread of the link panicked: this is a bug of pollnd"))?;
            port.close(CLOSE).map_err(io)?;
            let panicked = || io("an lcore panicked: this is a bug of pollnd; its log says where");
            ends.into_iter().try_for_each(|e| match e {
                // A thread that could not be pinned has told so, and never ran.
                Ok(None | Some(Ok(()))) => Ok(()),
                Ok(Some(Err(text))) => Err(io(text)),
                Err(_) => Err(panicked()),
            })
        });
        Ok(Started { stop, control, backing })
    }
}

type Ended = Option<Result<(), String>>;

/// Starts the polling threads; comes back when each has made its shard, or has failed to.
fn lcores_of(
    cores: &Topology,
    (lcores, idle): (&[Lcore], IdlePolicy),
    port: &mut EthPort,
    parts: &Arc<Parts>,
    control: &Arc<Control>,
    apps: Apps,
) -> Result<Vec<std::thread::JoinHandle<Ended>>, Error> {
    let (made, wait) = mpsc::channel::<String>();
    let (mut apps, on_failure) = (Some(apps), control);
    let mut threads = Vec::new();
    for l in lcores {
        let me = ShardId(u16::try_from(l.index).unwrap_or(u16::MAX));
        let seed = if me.0 < port.queues() { port.take_queue(me.0) } else { None };
        let (parts, control, apps, made) = (parts.clone(), control.clone(), apps.take(), made.clone());
        let turn = move |_: &Lcore| {
            let shard = parts.shard(me, seed, apps).inspect_err(|e| {
                let _ = made.send(e.clone());
                control.give(Order::Drain);
            })?;
            drop(made);
            run(vec![shard], &control, idle);
            Ok(())
        };
        let started = lcore::spawn(cores, l, turn).inspect_err(|_| on_failure.give(Order::Drain));
        threads.push(started.map_err(io)?);
    }
    drop(made);
    // Ends with the last sender; what came was an lcore's failure.
    match wait.recv() {
        Ok(why) => {
            control.give(Order::Drain);
            threads.into_iter().for_each(|t| drop(t.join()));
            Err(io(why))
        }
        Err(_) => Ok(threads),
    }
}
