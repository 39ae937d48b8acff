//! From a command line to a running node.

use std::net::IpAddr;
use std::sync::Arc;

use dataplane::clock::Clock;
use hugepages::{Backing, PrivatePages};
use transport::lnd::{self, Accept};
use transport::node::inspect::Inspection;
use transport::node::sock::{SockError, may_bind_privileged};
use transport::node::{BuildError, Control, NodeBuilder, Protocols};
use transport::wire::netsock::Addr;

use crate::args::{CarrierArg, NodeArgs};
#[cfg(feature = "dpdk")]
use crate::dpdk::start as start_dpdk;
use crate::inspect::client::{self, Running};
use crate::running::{Instead, MakeApp, MakeParts, Node, Role, Setup, Started, only_at};
use crate::{cpus, iface, limits, networks, settings, signals};

/// Starts the node.
///
/// # Errors
/// A part that is missing, and the remedy.
pub(crate) fn start(a: &NodeArgs, mut setup: Setup, make: MakeApp) -> Result<Node, String> {
    let dpdk = !(a.port.is_empty() && a.vdev.is_empty());
    let over_port = a.carrier.map_or(dpdk, |c| c == CarrierArg::Dpdk);
    let (at, make): (_, MakeParts) = match setup.instead.take() {
        None => (None, Box::new(move |b| Ok((make(b)?, Protocols::new())))),
        Some(Instead { at, make: protocol }) => {
            // Over a port it has all lcores' queues listen, whichever it is on; for datagrams it always asks itself.
            let own = at.dialled().filter(|_| !over_port).map_or(0, |at| at.port());
            (Some(at), Box::new(move |b| Ok((make(b)?, vec![(own, protocol(b)?)]))))
        }
    };
    let control = Arc::new(Control::default());
    match setup.interrupted.clone() {
        Some(told) => signals::tell(control.clone(), told)?,
        None => signals::watch(control.clone())?,
    }
    cpus::mention_quota(networks::on_port(a).then_some(a.lcores));
    networks::addresses(a)?;
    match a.carrier.unwrap_or(if dpdk { CarrierArg::Dpdk } else { CarrierArg::Sockets }) {
        CarrierArg::Sockets if dpdk => {
            Err("--carrier sockets does not go with --port or --vdev: leave one of them out".into())
        }
        CarrierArg::Sockets => {
            let (node, front) = start_sockets(a, setup.role, (make, at), control)?;
            Ok(node.come_up()?.seen_through(front, a, setup))
        }
        CarrierArg::Dpdk => {
            let (node, front) = start_dpdk(a, (make, at), control)?;
            Ok(node.come_up()?.seen_through(front, a, setup))
        }
    }
}

fn start_sockets(
    a: &NodeArgs,
    role: Role,
    (make, instead): (MakeParts, Option<Addr>),
    control: Arc<Control>,
) -> Result<Started, String> {
    networks::without_port(a)?;
    if a.lcores > 1 {
        return Err(format!(
            "--lcores {}: a node on kernel sockets has one thread; leave it out, or give --port",
            a.lcores
        ));
    }
    let ip = a.nid.ip().unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let privileged =
        may_bind_privileged(ip).map_err(|e| format!("cannot make a socket: {}", limits::told(&e)))?;
    if !privileged && instead.is_none() {
        tracing::warn!(
            "cannot bind ports below 1024: peers that accept only secure connections (Lustre's default) will refuse this node; \
             grant it with: setcap cap_net_bind_service=+ep $(command -v pollnd)"
        );
    }
    let mut config = settings::config(a, lnd::TcpKind::Sockets, privileged, iface::mbps(ip))?;
    limits::descriptors(&mut config, role == Role::Server);
    let at = match (config.accept, &config.listen_ports().collect::<Vec<_>>()[..]) {
        _ if instead.is_some() => instead.map_or_else(String::new, |at| {
            format!("{}port {}", if at.is_dgram() { "datagrams at " } else { "" }, at.port)
        }),
        (Accept::None, _) => "not listening".to_owned(),
        (_, [port, bulk]) => format!("ports {port} and {bulk}"),
        _ => format!("port {}", config.port),
    };
    let describe = format!(
        "kernel sockets, {at}{}",
        if privileged || instead.is_some() { "" } else { ", unprivileged" }
    );
    let clock = Clock::calibrated();
    let front = Arc::new(Inspection::new(1, clock.clone()));
    let mut node = NodeBuilder::of(config).clock(clock).inspection(front.clone()).faults(a.fault.clone());
    if let Some(at) = instead {
        node = only_at(node, at);
    }
    let probed = node.probe();
    if let Err(BuildError::Sock(e)) = &probed
        && instead.is_none()
        && let Some(other) = holder(e)
    {
        return Err(format!("{e}; {} has that address: {}", other.named(), remedy(role, other.pid)));
    }
    match probed {
        probed if instead.is_some() => probed.map_err(|e| e.to_string())?,
        // The listener there may be a node of this very NID, the kernel's or another user's: see field report 16.
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
    let node = node.start_with(control.clone(), make).map_err(|e| e.to_string())?;
    Ok((Node::new(vec![node.into_thread()], control, describe, None), front))
}

/// The node of this network namespace that listens where another program does, if it is one that tells of itself.
fn holder(e: &SockError) -> Option<Running> {
    match e {
        SockError::Listen { addr, .. } if in_use(e) => client::at_address(addr.ip()),
        _ => None,
    }
}

/// A remedy for the node that wants the address of process `pid`.
fn remedy(role: Role, pid: u32) -> String {
    match role {
        Role::Server => "end it, or give another address of this machine".to_owned(),
        Role::Dialler(_) => format!(
            "go through it with --node {pid} (a route to another network: `pollnd lnetctl --node {pid} route add`), or give --nid \
             another address of this machine"
        ),
    }
}

fn in_use(e: &SockError) -> bool {
    matches!(e, SockError::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse)
}

#[cfg(not(feature = "dpdk"))]
fn start_dpdk(_: &NodeArgs, _: (MakeParts, Option<Addr>), _: Arc<Control>) -> Result<Started, String> {
    Err("this pollnd was built without DPDK: build it with `cargo build --release -p pollnd` (feature dpdk is the default)".into())
}
