//! The router between two virtio links.
//!
//! ```text
//!   A 10.77.1.1@tcp ── virtio link ── 10.77.1.2@tcp R 10.77.2.1@tcp1 ── virtio link ── B 10.77.2.2@tcp1
//!     virtio_user                     vhost           virtio_user                      vhost
//! ```
//!
//! A PUT leaves each node by a virtio side, which copies nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dataplane::clock::Clock;
use dataplane::dpdk::{Eal, EalBacking, QueueSeed};
use hugepages::{Backing, LendSlab};
use tcpstack::{Stack, StackConfig};
use transport::node::{IdlePolicy, NoApp, Protocols, Turn};
use transport::wire::Nid;

use super::{Passes, Reaching, beside, between, reached};
use crate::ctl::Ctl;
use crate::link::{Link, LinkConfig, end, ports, seed, this_lcore};
use crate::pair::{Enter, Make, Running, Threads};
use crate::workload::{Client, Server};

/// Addresses, and the numbers of their networks.
const A: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 77, 1, 1), 0);
const NEAR: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 77, 1, 2), 0);
const FAR: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 77, 2, 1), 1);
const B: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 77, 2, 2), 1);

fn nid((ip, net): (Ipv4Addr, u16)) -> Nid {
    Nid::tcp(IpAddr::V4(ip), net)
}

/// R, on the thread that polls it.
fn router(
    eal: &Eal,
    seeds: [QueueSeed; 2],
    cfg: &LinkConfig,
    passes: Passes,
) -> Result<Box<dyn Turn>, String> {
    let lcore = this_lcore(eal)?;
    let stack = |(seed, (ip, _)): (QueueSeed, (Ipv4Addr, u16))| {
        let queue = seed.build(&lcore);
        Stack::new(StackConfig::new(ip, 24), queue, LendSlab::new(cfg.lendings)).map_err(|e| e.to_string())
    };
    let stacks = seeds.into_iter().zip([NEAR, FAR]).map(stack).collect::<Result<Vec<_>, _>>()?;
    let node = between([NEAR, FAR].map(nid), passes).config(|c| c.peer_credits = cfg.peer_credits);
    let node = node.clock(Clock::calibrated()).over_ports(stacks, NoApp).map_err(|e| e.to_string())?;
    Ok(Box::new(node))
}

/// Makes both links and starts the three nodes, with the workload that [`Ctl`] orders, and waits until the ends reach each other.
/// On [`Threads::Two`] R has one thread, and both ends the other, whose nodes are told of first.
///
/// # Errors
/// The port that could not be had, and the remedy; or that no message came through.
pub fn start(
    eal: &Eal,
    sockdir: &Path,
    (cfg, passes): (LinkConfig, Passes),
    ctl: &Arc<Ctl>,
    enter: &Enter,
    idle: IdlePolicy,
) -> Result<Link, String> {
    let (mut near, mut a) = ports(eal, sockdir, &cfg)?;
    let (mut b, mut far) = ports(eal, sockdir, &cfg)?;
    let (of_a, of_b, of_r) = (seed(&mut a)?, seed(&mut b)?, [seed(&mut near)?, seed(&mut far)?]);
    let backing: Arc<dyn Backing> = Arc::new(EalBacking::new(eal, a.node()));
    let told = Arc::new(AtomicBool::new(false));
    let (e, c, pages, t) = (eal.clone(), ctl.clone(), backing.clone(), told.clone());
    let client: Make = Box::new(move || {
        let app = Client::new(cfg.client, c, nid(B), &pages).map_err(|e| e.to_string())?;
        let app = Reaching::new(app, nid(B), t);
        end(&e, of_a, (beside(nid(NEAR), nid(A), nid(B)), A.0), &cfg, (app, Protocols::new()))
    });
    let e = eal.clone();
    let between: Make = Box::new(move || router(&e, of_r, &cfg, passes));
    let (e, c) = (eal.clone(), ctl.clone());
    let server: Make = Box::new(move || {
        let app = Server::new(c, cfg.intake, &backing).map_err(|e| e.to_string())?;
        end(&e, of_b, (beside(nid(FAR), nid(B), nid(A)), B.0), &cfg, (app, Protocols::new()))
    });
    let threads = match cfg.threads {
        Threads::One => vec![vec![client, between, server]],
        Threads::Two => vec![vec![client, server], vec![between]],
    };
    let running = Running::start_threads(threads, idle, ctl, enter)?;
    let link = Link { running, ports: vec![a, near, far, b] };
    if let Err(e) = reached(ctl, &told) {
        // The first reason counts.
        let _ = link.stop();
        return Err(e.to_string());
    }
    Ok(link)
}
