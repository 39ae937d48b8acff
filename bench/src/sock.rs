//! The baseline: two nodes on kernel sockets over loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dataplane::clock::Clock;
use hugepages::{Backing, PrivatePages};
use transport::node::sock::{IdleMode, SockConfig, SockStreams, may_bind_privileged};
use transport::node::{self, App, NodeBuilder, Protocols};
use transport::wire::Nid;

use crate::ctl::Ctl;
use crate::pair::{Enter, Make, Running, Threads, listening, with_all};
use crate::workload::{Client, ClientConfig, Intake, Server};

/// Wall clock in ns: incarnation and epoch of a node that starts now.
pub fn epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64)
}

/// Configuration of the baseline.
#[derive(Clone, Copy, Debug)]
pub struct SockPair {
    /// Behaviour of the two threads when idle.
    pub idle: IdleMode,
    /// The server's way to take bulk in.
    pub intake: Intake,
    /// Sizes.
    pub client: ClientConfig,
    /// Messages in flight per peer (`peer_credits`).
    pub peer_credits: u32,
}

/// Addresses on loopback that another process with such nodes does not use.
pub(crate) fn addresses<const N: usize>() -> [Ipv4Addr; N] {
    let pid = std::process::id();
    std::array::from_fn(|i| i as u8 + 1)
        .map(|n| Ipv4Addr::new(127, 192 | (pid >> 8 & 0x3f) as u8, pid as u8, n))
}

/// A port on which all may listen: another node's socket may be bound to every address.
fn free_port(ips: &[Ipv4Addr], from: u16) -> u16 {
    let free = |port: &u16| {
        let listen = ips.iter().map(|ip| SocketAddr::from((*ip, *port))).collect();
        SockStreams::probe(&SockConfig { listen, ..SockConfig::default() }).is_ok()
    };
    (from..from + 16).find(free).unwrap_or(from)
}

/// The ports of nodes that all listen at these addresses on one: reserved where this process may use those, else from 10988 on.
pub(crate) fn port_for(ips: &[Ipv4Addr]) -> impl Fn(NodeBuilder) -> NodeBuilder + Clone + Send + use<> {
    // Where no socket can be made at all, the thread that needs one says so.
    let privileged = ips.first().is_some_and(|ip| may_bind_privileged(IpAddr::V4(*ip)).unwrap_or(false));
    let port = free_port(ips, if privileged { 988 } else { 10_988 });
    move |node| if privileged { node.config(|c| c.port = port) } else { node.unprivileged(port) }
}

/// Starts client and server, a thread each, on loopback, with the workload that [`Ctl`] orders. They use reserved ports
/// where this process may, else ports from 10988 on.
///
/// # Errors
/// As [`Running::start`].
pub fn start(p: SockPair, ctl: Arc<Ctl>) -> Result<Running, String> {
    let (c, s) = (ctl.clone(), ctl.clone());
    let client = move |[_, server]: [Nid; 2], backing: &Arc<dyn Backing>| {
        Client::new(p.client, c, server, backing).map_err(|e| e.to_string())
    };
    let server =
        move |_, backing: &Arc<dyn Backing>| Server::new(s, p.intake, backing).map_err(|e| e.to_string());
    start_with(p, &ctl, client, server)
}

/// The same with other applications, each made of its own NID, the other end's, and pages.
///
/// # Errors
/// As [`Running::start`].
pub fn start_with<C: App + 'static, S: App + 'static>(
    p: SockPair,
    ctl: &Arc<Ctl>,
    client: impl FnOnce([Nid; 2], &Arc<dyn Backing>) -> Result<C, String> + Send + 'static,
    server: impl FnOnce([Nid; 2], &Arc<dyn Backing>) -> Result<S, String> + Send + 'static,
) -> Result<Running, String> {
    let client = move |nids, backing: &_| Ok((client(nids, backing)?, Protocols::new()));
    start_beside(p, ctl, client, move |nids, backing| Ok((server(nids, backing)?, Protocols::new())))
}

/// The same with protocols beside LNet.
///
/// # Errors
/// As [`Running::start`].
pub fn start_beside<C: App + 'static, S: App + 'static>(
    p: SockPair,
    ctl: &Arc<Ctl>,
    client: impl FnOnce([Nid; 2], &Arc<dyn Backing>) -> Result<(C, Protocols), String> + Send + 'static,
    server: impl FnOnce([Nid; 2], &Arc<dyn Backing>) -> Result<(S, Protocols), String> + Send + 'static,
) -> Result<Running, String> {
    let [client_ip, server_ip] = addresses();
    let at_port = port_for(&[client_ip, server_ip]);
    let nid = |ip| Nid::tcp(IpAddr::V4(ip), 0);
    let node = move |ip: Ipv4Addr| {
        let node = NodeBuilder::new(nid(ip)).config(|c| c.peer_credits = p.peer_credits);
        at_port(node).idle(p.idle).clock(Clock::calibrated())
    };
    let of_server = node.clone();
    let client: Make = Box::new(move || {
        let backing: Arc<dyn Backing> = Arc::new(PrivatePages);
        let (app, protocols) = client([nid(client_ip), nid(server_ip)], &backing)?;
        let node =
            listening(node(client_ip), client_ip, &protocols).sockets(app).map_err(|e| e.to_string())?;
        Ok(Box::new(with_all(node, protocols)?) as _)
    });
    let server: Make = Box::new(move || {
        let backing: Arc<dyn Backing> = Arc::new(PrivatePages);
        let (app, protocols) = server([nid(server_ip), nid(client_ip)], &backing)?;
        let node =
            listening(of_server(server_ip), server_ip, &protocols).sockets(app).map_err(|e| e.to_string())?;
        Ok(Box::new(with_all(node, protocols)?) as _)
    });
    run(ctl, vec![client, server])
}

/// Starts nodes on kernel sockets, a thread each, wherever the kernel places it.
pub(crate) fn run(ctl: &Arc<Ctl>, nodes: Vec<Make>) -> Result<Running, String> {
    let enter: Enter = Arc::new(|_| Ok(()));
    let spin = node::IdlePolicy::spins(u32::MAX, u32::MAX);
    Running::start(Threads::Two, spin, ctl, &enter, nodes)
}
