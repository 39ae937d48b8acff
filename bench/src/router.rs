//! A node between two links, and what passes through it: A ── R ── B.
//!
//! ```text
//!   A 10.77.1.1@tcp ── virtio link ── 10.77.1.2@tcp R 10.77.2.1@tcp1 ── virtio link ── B 10.77.2.2@tcp1
//!     virtio_user                     vhost           virtio_user                      vhost
//! ```
//!
//! R is an application here, which is lent each PUT and puts it on by reference: what sending on costs a node beside what both
//! ends do. On one thread, with the same two ends on one link ([`crate::link`]), the difference is R's own.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dataplane::clock::Clock;
use dataplane::dpdk::{Eal, EalBacking, QueueSeed};
use hugepages::{Backing, LendSlab};
use tcpstack::{Stack, StackConfig};
use transport::lnd::{AppId, Data, Payload, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::node::{App, IdlePolicy, NodeBuilder, Ops, Protocols, Turn, Work};
use transport::wire::{Nid, ProcessId};

use crate::ctl::Ctl;
use crate::link::{Link, LinkConfig, end, ports, seed, this_lcore};
use crate::measure::{MeasureError, wait_for};
use crate::pair::{Enter, Make, Running};
use crate::workload::{APP, BULK_PORTAL, Client, MATCH, SMALL_PORTAL, Server};

/// Addresses, and the numbers of their networks.
const A: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 77, 1, 1), 0);
const NEAR: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 77, 1, 2), 0);
const FAR: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 77, 2, 1), 1);
const B: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 77, 2, 2), 1);

fn nid((ip, net): (Ipv4Addr, u16)) -> Nid {
    Nid::tcp(IpAddr::V4(ip), net)
}

/// Puts what it is lent on to the next node, as it came in. It has so many at a time, for each portal; what comes meanwhile
/// waits at the portal, as the sender's connection does.
struct Forwarder {
    next: ProcessId,
    ctl: Arc<Ctl>,
    asked: bool,
    most: [(u32, u64); 2],
}

fn entry(portal: u32) -> (AppId, Op) {
    let md = MdSpec { threshold: Some(1), ..MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20))) };
    let (tag, who) = (portal.into(), ProcessId::ANY);
    (APP, Op::Attach { tag, portal, who, match_bits: MATCH, ignore_bits: 0, md })
}

impl App for Forwarder {
    fn turn(&mut self, _: u64, ops: &mut Ops) -> Work {
        if std::mem::replace(&mut self.asked, true) {
            return Work::Idle;
        }
        for (portal, most) in self.most {
            ops.push_back((APP, Op::Lazy { tag: portal.into(), portal, on: true }));
            ops.extend((0..most).map(|_| entry(portal)));
        }
        Work::Busy(1)
    }

    fn event(&mut self, _: u64, _: AppId, ev: Event, ops: &mut Ops) {
        match ev {
            Event::Put(put) => {
                if let Err(e) = put.status {
                    return self.ctl.fail(e.to_string());
                }
                let payload = match put.data {
                    Data::Lent(pieces) => Payload::forwarded(pieces),
                    Data::InSink | Data::Discarded => Payload::empty(),
                };
                let (target, portal, hdr_data) = (self.next, put.portal, put.hdr_data);
                let (tag, match_bits) = (portal.into(), MATCH);
                ops.push_back((
                    APP,
                    Op::Put {
                        tag,
                        target,
                        from: None,
                        portal,
                        match_bits,
                        offset: 0,
                        hdr_data,
                        payload,
                        ack: false,
                    },
                ));
            }
            Event::Send { status: Err(e), .. } => self.ctl.fail(e.to_string()),
            Event::Send { tag, done: true, .. } => ops.extend(u32::try_from(tag).map(entry)),
            Event::Refused { why, .. } => self.ctl.fail(why.to_string()),
            _ => {}
        }
    }
}

/// R, on the thread that polls it.
fn between(
    eal: &Eal,
    seeds: [QueueSeed; 2],
    cfg: &LinkConfig,
    ctl: Arc<Ctl>,
) -> Result<Box<dyn Turn>, String> {
    let lcore = this_lcore(eal)?;
    let stack = |(seed, (ip, _)): (QueueSeed, (Ipv4Addr, u16))| {
        let queue = seed.build(&lcore);
        Stack::new(StackConfig::new(ip, 24), queue, LendSlab::new(cfg.lendings)).map_err(|e| e.to_string())
    };
    let stacks = seeds.into_iter().zip([NEAR, FAR]).map(stack).collect::<Result<Vec<_>, _>>()?;
    let most = [(BULK_PORTAL, cfg.client.bulk_flight), (SMALL_PORTAL, cfg.client.small_flight)];
    let app = Forwarder { next: ProcessId::lustre(nid(B)), ctl, asked: false, most };
    let node = NodeBuilder::new(nid(NEAR)).also(nid(FAR)).config(|c| c.peer_credits = cfg.peer_credits);
    let node = node.clock(Clock::calibrated()).over_ports(stacks, app).map_err(|e| e.to_string())?;
    Ok(Box::new(node))
}

/// Makes both links and starts the three nodes, with the workload that [`Ctl`] orders: A's operations are answered by R, which
/// has as many on the way as A has in flight; the server's counts are B's. On [`crate::pair::Threads::Two`] each node has a thread.
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
    // Each sends on the virtio side, which copies nothing.
    let (mut near, mut a) = ports(eal, sockdir, &cfg)?;
    let (mut b, mut far) = ports(eal, sockdir, &cfg)?;
    let (of_a, of_b, of_r) = (seed(&mut a)?, seed(&mut b)?, [seed(&mut near)?, seed(&mut far)?]);
    let backing: Arc<dyn Backing> = Arc::new(EalBacking::new(eal, a.node()));
    let (e, c, pages) = (eal.clone(), ctl.clone(), backing.clone());
    let client: Make = Box::new(move || {
        let app = Client::new(cfg.client, c, nid(NEAR), &pages).map_err(|e| e.to_string())?;
        end(&e, of_a, (nid(A), A.0), &cfg, (app, Protocols::new()))
    });
    let (e, c) = (eal.clone(), ctl.clone());
    let router: Make = Box::new(move || between(&e, of_r, &cfg, c));
    let (e, c) = (eal.clone(), ctl.clone());
    let server: Make = Box::new(move || {
        let app = Server::new(c, cfg.intake, &backing).map_err(|e| e.to_string())?;
        end(&e, of_b, (nid(B), B.0), &cfg, (app, Protocols::new()))
    });
    let running = Running::start(cfg.threads, idle, ctl, enter, vec![client, router, server])?;
    Ok(Link { running, ports: vec![a, near, far, b] })
}

/// Waits until all PUTs of A that are over have come to B: R has answered some that it has yet to put on.
///
/// # Errors
/// They do not come.
pub fn passed_on(ctl: &Ctl) -> Result<(), MeasureError> {
    let get = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
    wait_for(ctl, "what is between the ends", 20, || get(&ctl.arrived) >= get(&ctl.completed))
}
