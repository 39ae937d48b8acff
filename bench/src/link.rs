//! Two nodes joined by an in-process virtio link: net_vhost on one side, net_virtio_user on the other. Nodes of several lcores
//! are in [`wide`](crate::wide).

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dataplane::clock::Clock;
use dataplane::dpdk::{Eal, EalBacking, EthPort, PairConfig, PollLcore, QueueSeed, virtio_pair};
use hugepages::{Backing, LendSlab};
use tcpstack::{Stack, StackConfig};
use transport::node::{App, IdlePolicy, NodeBuilder, NodeEnd, Protocols, Turn};
use transport::wire::Nid;

use crate::ctl::Ctl;
use crate::pair::{Enter, Make, Running, Threads, listening, with_all};
use crate::workload::{Client, ClientConfig, Intake, Server};

/// Configuration of the pair of nodes.
#[derive(Clone, Copy, Debug)]
pub struct LinkConfig {
    /// Threads that turn the nodes.
    pub threads: Threads,
    /// The server's way to take bulk in.
    pub intake: Intake,
    /// Sizes.
    pub client: ClientConfig,
    /// Messages in flight per peer (`peer_credits`).
    pub peer_credits: u32,
    /// MTU of the link in bytes.
    pub mtu: u16,
    /// Let super-segments cross whole.
    pub tso: bool,
    /// Lendings of an lcore.
    pub lendings: usize,
    /// Receive interrupts, for lcores that sleep.
    pub interrupts: bool,
}

impl Default for LinkConfig {
    fn default() -> LinkConfig {
        LinkConfig {
            threads: Threads::Two,
            intake: Intake::Lent,
            client: ClientConfig::default(),
            peer_credits: 8,
            mtu: 9000,
            tso: true,
            lendings: 4096,
            interrupts: false,
        }
    }
}

/// The nodes and their ports, running.
pub struct Link {
    pub(crate) running: Running,
    /// Of each link the virtio side first: it frees what it sent, and the vhost side sees the link go down.
    pub(crate) ports: Vec<EthPort>,
}

/// End of the nodes.
pub struct LinkEnd {
    /// Client, then server, what is between them in the middle; of nodes of several lcores by pairs of their lcores.
    pub nodes: Vec<NodeEnd>,
    /// Buffers of all ports that did not come home to their mempools.
    pub buffers_left: u64,
}

thread_local! {
    // A thread is registered with the EAL once, and stays so for all its queues.
    static LCORE: RefCell<Option<PollLcore>> = const { RefCell::new(None) };
}

/// This thread's registration as a polling lcore.
///
/// # Errors
/// The EAL takes no more lcores.
pub fn this_lcore(eal: &Eal) -> Result<PollLcore, String> {
    LCORE.with_borrow_mut(|l| match l {
        Some(l) => Ok(l.clone()),
        None => {
            let new = eal.enter().map_err(|e| e.to_string())?;
            *l = Some(new.clone());
            Ok(new)
        }
    })
}

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

fn nid(ip: Ipv4Addr) -> Nid {
    Nid::tcp(IpAddr::V4(ip), 0)
}

/// Both ends of a link, net_vhost's first.
pub(crate) fn ports(eal: &Eal, sockdir: &Path, cfg: &LinkConfig) -> Result<(EthPort, EthPort), String> {
    let mut pair = PairConfig { tso: cfg.tso, ..PairConfig::default() };
    pair.port.mtu = cfg.mtu;
    pair.port.interrupts = cfg.interrupts;
    virtio_pair(eal, sockdir, &pair).map_err(|e| e.to_string())
}

/// The only queue of a port.
pub(crate) fn seed(p: &mut EthPort) -> Result<QueueSeed, String> {
    p.take_queue(0).ok_or_else(|| format!("queue 0 of port {} is taken", p.name()))
}

/// The node of one end, as far as it is built, on the thread that polls it.
pub(crate) fn end<A: App + 'static>(
    eal: &Eal,
    seed: QueueSeed,
    (node, ip): (NodeBuilder, Ipv4Addr),
    cfg: &LinkConfig,
    (app, protocols): (A, Protocols),
) -> Result<Box<dyn Turn>, String> {
    let queue = seed.build(&this_lcore(eal)?);
    let slab = LendSlab::new(cfg.lendings);
    let stack = Stack::new(StackConfig::new(ip, 24), queue, slab).map_err(|e| e.to_string())?;
    let node = listening(node.config(|c| c.peer_credits = cfg.peer_credits), ip, &protocols);
    let node = node.clock(Clock::calibrated()).over(stack, app).map_err(|e| e.to_string())?;
    Ok(Box::new(with_all(node, protocols)?))
}

/// Makes the link and starts both nodes, with the workload that [`Ctl`] orders. The client sits on the virtio side, whose
/// sending copies nothing.
///
/// # Errors
/// The port that could not be had, and the remedy.
pub fn start(
    eal: &Eal,
    sockdir: &Path,
    cfg: LinkConfig,
    ctl: &Arc<Ctl>,
    enter: &Enter,
    idle: IdlePolicy,
) -> Result<Link, String> {
    let (c, s) = (ctl.clone(), ctl.clone());
    let client = move |[_, server]: [Nid; 2], backing: &Arc<dyn Backing>| {
        Client::new(cfg.client, c, server, backing).map_err(|e| e.to_string())
    };
    let server =
        move |_, backing: &Arc<dyn Backing>| Server::new(s, cfg.intake, backing).map_err(|e| e.to_string());
    start_with(eal, sockdir, cfg, ctl, (enter, idle), client, server)
}

/// The same with other applications, each made of its own NID, the other end's, and pages.
///
/// # Errors
/// As [`start`].
pub fn start_with<C: App + 'static, S: App + 'static>(
    eal: &Eal,
    sockdir: &Path,
    cfg: LinkConfig,
    ctl: &Arc<Ctl>,
    run: (&Enter, IdlePolicy),
    client: impl FnOnce([Nid; 2], &Arc<dyn Backing>) -> Result<C, String> + Send + 'static,
    server: impl FnOnce([Nid; 2], &Arc<dyn Backing>) -> Result<S, String> + Send + 'static,
) -> Result<Link, String> {
    let client = move |nids, backing: &_| Ok((client(nids, backing)?, Protocols::new()));
    start_beside(eal, sockdir, cfg, ctl, run, client, move |nids, backing| {
        Ok((server(nids, backing)?, Protocols::new()))
    })
}

/// The same with protocols beside LNet.
///
/// # Errors
/// As [`start`].
pub fn start_beside<C: App + 'static, S: App + 'static>(
    eal: &Eal,
    sockdir: &Path,
    cfg: LinkConfig,
    ctl: &Arc<Ctl>,
    (enter, idle): (&Enter, IdlePolicy),
    client: impl FnOnce([Nid; 2], &Arc<dyn Backing>) -> Result<(C, Protocols), String> + Send + 'static,
    server: impl FnOnce([Nid; 2], &Arc<dyn Backing>) -> Result<(S, Protocols), String> + Send + 'static,
) -> Result<Link, String> {
    let (mut vhost, mut virtio) = ports(eal, sockdir, &cfg)?;
    let (server_seed, client_seed) = (seed(&mut vhost)?, seed(&mut virtio)?);
    let backing: Arc<dyn Backing> = Arc::new(EalBacking::new(eal, virtio.node()));
    let (e, b) = (eal.clone(), backing.clone());
    let client: Make = Box::new(move || {
        let app = client([nid(CLIENT), nid(SERVER)], &b)?;
        end(&e, client_seed, (NodeBuilder::new(nid(CLIENT)), CLIENT), &cfg, app)
    });
    let e = eal.clone();
    let server: Make = Box::new(move || {
        let app = server([nid(SERVER), nid(CLIENT)], &backing)?;
        end(&e, server_seed, (NodeBuilder::new(nid(SERVER)), SERVER), &cfg, app)
    });
    let running = Running::start(cfg.threads, idle, ctl, enter, vec![client, server])?;
    Ok(Link { running, ports: vec![virtio, vhost] })
}

impl Link {
    /// Takes the nodes and the ports down.
    ///
    /// # Errors
    /// The obstacle to a node's start, or to a port's close.
    pub fn stop(self) -> Result<LinkEnd, String> {
        let nodes = self.running.stop()?;
        let mut buffers_left = 0;
        for mut p in self.ports {
            let c = p.close(Duration::from_secs(2)).map_err(|e| e.to_string())?;
            buffers_left += u64::from(c.attachments_out) + u64::from(c.heads_out) + u64::from(c.rx_out);
        }
        Ok(LinkEnd { nodes, buffers_left })
    }

    /// Tells the queues of a change of the link, and asks the driver. For the control thread, now and then.
    pub fn refresh(&self) {
        for p in &self.ports {
            p.refresh_link();
        }
    }
}
