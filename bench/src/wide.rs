//! Two nodes of several lcores each, joined by an in-process virtio link that has a queue for each lcore.
//!
//! Message work of a peer is its home's, and the home follows the peer's address: two nodes of one NID each would keep one
//! lcore of each busy, however many there are. So a node here has as many peers as lcores: an NI for each, at an address whose
//! home at the other node is the lcore of the same number, and in a network of its own, so that a target says by which NI
//! it is reached.
//!
//! ```text
//!   client                                        server
//!   lcore 0   10.77.0.a@tcp   ──── queue 0 ────   10.77.0.x@tcp    lcore 0
//!   lcore 1   10.77.0.b@tcp1  ──── queue 1 ────   10.77.0.y@tcp1   lcore 1
//! ```
//!
//! A connection that an lcore dials leaves by its queue and comes out of the queue of the same number, at the home of the NI
//! that dialled. Raw messages ([`start`]) have a client and a server on each lcore, with portals that it owns: nothing
//! crosses between lcores, and what is measured is what they can do. An application of the first lcore alone ([`start_apps`]), as
//! lnet_selftest is in every node, has its operations passed on to the other lcores and their events back.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use dataplane::clock::Clock;
use dataplane::dpdk::{Eal, EalBacking, EthPort, PairConfig, virtio_pair};
use hugepages::{Backing, LendSlab};
use tcpstack::{Stack, StackConfig};
use transport::lnd::NIS_MAX;
use transport::node::{App, IdlePolicy, Lcores, NoApp, NodeBuilder};
use transport::stream::{Homes, ShardId};
use transport::wire::Nid;

use crate::ctl::Ctl;
use crate::link::{Link, LinkConfig, this_lcore};
use crate::pair::{Enter, Make, Running};
use crate::workload::{Client, ClientConfig, Portals, Server};

/// Most lcores of a node of such a link: it has an NI for each.
pub const LCORES_MAX: u16 = NIS_MAX as u16;

/// Last bytes of the client's addresses, and of the server's.
const HOSTS: [RangeInclusive<u8>; 2] = [1..=126, 129..=254];
/// Bits of the network that both are in.
const PREFIX: u8 = 24;
/// Pages of the applications on an lcore of both nodes, and slack, in MiB.
const PAGES_MB: u64 = 16;

/// Makes an application on its lcore; pages for it come from the backing.
pub type MakeApp = Box<dyn FnOnce(&Arc<dyn Backing>) -> Result<Box<dyn App>, String> + Send>;

/// NIDs of the client and of the server, one of each for each lcore.
pub type Nids = [Vec<Nid>; 2];

/// NIDs of nodes of so many lcores.
///
/// # Errors
/// There is no address left whose home is an lcore: of nodes of 1 to [`LCORES_MAX`] lcores there is.
fn nids(lcores: u16) -> Result<Nids, String> {
    let homes = Homes::new(lcores);
    let of = |hosts: &RangeInclusive<u8>| {
        let each = |i: u16| {
            let mut ips = hosts.clone().map(|h| IpAddr::from(Ipv4Addr::new(10, 77, 0, h)));
            let ip = ips.find(|ip| homes.of(*ip) == ShardId(i));
            ip.map(|ip| Nid::tcp(ip, i)).ok_or_else(|| format!("no address has its home on lcore {i}"))
        };
        (0..lcores).map(each).collect::<Result<Vec<Nid>, String>>()
    };
    let [clients, servers] = &HOSTS;
    Ok([of(clients)?, of(servers)?])
}

fn pair_config(cfg: &LinkConfig, lcores: u16) -> PairConfig {
    let mut pair = PairConfig { tso: cfg.tso, ..PairConfig::default() };
    (pair.port.mtu, pair.port.interrupts, pair.port.queues) = (cfg.mtu, cfg.interrupts, lcores);
    pair
}

/// Memory of the EAL that such a link takes, in MiB.
pub fn memory_mb(cfg: &LinkConfig, lcores: u16) -> u32 {
    let pools = (2 * pair_config(cfg, lcores).port.pool_bytes()) >> 20;
    u32::try_from(pools + PAGES_MB * u64::from(lcores)).unwrap_or(u32::MAX)
}

/// Shards of the node at `port`, each to be made on its lcore.
fn shards(
    eal: &Eal,
    port: &mut EthPort,
    nids: &[Nid],
    cfg: &LinkConfig,
    apps: Vec<MakeApp>,
    backing: &Arc<dyn Backing>,
) -> Result<Vec<Make>, String> {
    let [first, others @ ..] = nids else { return Err("a node of no lcore".into()) };
    let addrs: Vec<(IpAddr, u8)> = nids.iter().filter_map(|n| Some((n.ip()?, PREFIX))).collect();
    let Some((ip, _)) = addrs.first() else { return Err(format!("{first} has no IP address")) };
    let stack = StackConfig { addrs: addrs.clone(), ..StackConfig::new(*ip, PREFIX) };
    let lcores = nids.len() as u16;
    let (bufs, bytes) = port.rx_memory();
    let of_node = Lcores::new(lcores, bytes / u64::from(lcores), bufs as usize / usize::from(lcores));
    let node = others.iter().fold(NodeBuilder::new(*first), |n, ni| n.also(*ni));
    let node = node.config(|c| c.peer_credits = cfg.peer_credits).lcores(of_node);
    let plan = Arc::new(node.clock(Clock::calibrated()).plan().map_err(|e| e.to_string())?);
    let each = |(i, app): (u16, MakeApp)| -> Result<Make, String> {
        let seed =
            port.take_queue(i).ok_or_else(|| format!("port {} has no queue {i} to take", port.name()))?;
        let (eal, plan, stack, backing, me) =
            (eal.clone(), plan.clone(), stack.clone(), backing.clone(), ShardId(i));
        let lendings = cfg.lendings;
        Ok(Box::new(move || {
            let queue = seed.build(&this_lcore(&eal)?);
            let stack = Stack::new(stack, queue, LendSlab::new(lendings)).map_err(|e| e.to_string())?;
            let streams = plan.lcore(me, stack).map_err(|e| e.to_string())?;
            plan.turnable(me, Some(streams), app(&backing)?).map_err(|e| e.to_string())
        }))
    };
    (0..lcores).zip(apps).map(each).collect()
}

/// Makes the link and starts both nodes, `lcores` lcores each, with the applications that `apps` makes for the client's
/// lcores and for the server's, the first one's first; the others have none. The client sits on the virtio side, whose sending copies
/// nothing. Threads are numbered by pairs: the client's first lcore, the server's, the client's second.
///
/// # Errors
/// The port that could not be had, and the remedy; more than [`LCORES_MAX`] lcores.
pub fn start_apps(
    eal: &Eal,
    sockdir: &Path,
    (cfg, lcores): (LinkConfig, u16),
    ctl: &Arc<Ctl>,
    (enter, idle): (&Enter, IdlePolicy),
    apps: impl FnOnce(&Nids) -> [Vec<MakeApp>; 2],
) -> Result<Link, String> {
    if lcores == 0 || lcores > LCORES_MAX {
        return Err(format!(
            "{lcores} lcores a node: a node of the link has 1 to {LCORES_MAX}, and an NI for each"
        ));
    }
    let nids = nids(lcores)?;
    let (mut vhost, mut virtio) =
        virtio_pair(eal, sockdir, &pair_config(&cfg, lcores)).map_err(|e| e.to_string())?;
    let backing: Arc<dyn Backing> = Arc::new(EalBacking::new(eal, virtio.node()));
    let none = || std::iter::repeat_with(|| -> MakeApp { Box::new(|_| Ok(Box::new(NoApp))) });
    let [clients, servers] = apps(&nids).map(|a| a.into_iter().chain(none()).take(lcores.into()).collect());
    let clients = shards(eal, &mut virtio, &nids[0], &cfg, clients, &backing)?;
    let servers = shards(eal, &mut vhost, &nids[1], &cfg, servers, &backing)?;
    let threads = clients.into_iter().zip(servers).flat_map(|(c, s)| [vec![c], vec![s]]).collect();
    let running = Running::start_threads(threads, idle, ctl, enter)?;
    Ok(Link { running, ports: vec![virtio, vhost] })
}

/// The same with the workload that a [`Ctl`] orders, on each lcore: whoever runs the nodes asks the one that comes back.
///
/// # Errors
/// As [`start_apps`].
pub fn start(
    eal: &Eal,
    sockdir: &Path,
    (cfg, lcores): (LinkConfig, u16),
    run: (&Enter, IdlePolicy),
) -> Result<(Link, Arc<Ctl>), String> {
    let others: Vec<Arc<Ctl>> = (1..lcores).map(|_| Arc::default()).collect();
    let lead = Arc::new(Ctl::leading(others.clone()));
    let all: Vec<Arc<Ctl>> = std::iter::once(lead.clone()).chain(others).collect();
    let apps = move |[_, servers]: &Nids| {
        let own = |i| Portals::owned_by(i, lcores);
        let client = |((i, ctl), target): ((u16, &Arc<Ctl>), &Nid)| -> MakeApp {
            let (cfg, ctl, target) = (ClientConfig { portals: own(i), ..cfg.client }, ctl.clone(), *target);
            Box::new(move |b| Ok(Box::new(Client::new(cfg, ctl, target, b).map_err(|e| e.to_string())?)))
        };
        let server = |(i, ctl): (u16, &Arc<Ctl>)| -> MakeApp {
            let (ctl, portals) = (ctl.clone(), own(i));
            Box::new(move |b| {
                Ok(Box::new(Server::new(ctl, cfg.intake, b).map_err(|e| e.to_string())?.at(portals)))
            })
        };
        [(0..).zip(&all).zip(servers).map(client).collect(), (0..).zip(&all).map(server).collect()]
    };
    let link = start_apps(eal, sockdir, (cfg, lcores), &lead, run, apps)?;
    Ok((link, lead))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peers_of_a_node_have_their_homes_on_its_lcores_in_order() {
        for lcores in 1..=LCORES_MAX {
            let (homes, nids) = (Homes::new(lcores), nids(lcores).unwrap());
            for all in &nids {
                let at: Vec<u16> = all.iter().map(|n| homes.of(n.ip().unwrap()).0).collect();
                assert_eq!(at, (0..lcores).collect::<Vec<_>>());
                let nets: Vec<u16> = all.iter().map(|n| n.net_num()).collect();
                assert_eq!(nets, at, "each in its own network");
            }
            assert!(nids[0].iter().all(|c| nids[1].iter().all(|s| s.ip() != c.ip())), "{nids:?}");
        }
    }

    #[test]
    fn memory_grows_with_the_lcores() {
        let mb = |n| memory_mb(&LinkConfig::default(), n);
        assert!(mb(1) < 200 && mb(2) < 400 && mb(16) > 1024, "{} {} {}", mb(1), mb(2), mb(16));
    }
}
