//! From options to a node that runs.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, mpsc};
use std::time::{SystemTime, UNIX_EPOCH};

use hugepages::PrivatePages;
use transport::lnd::{AppId, Config, tunables};
use transport::net::{Domain, Host, LnetXprt, Sock};
use transport::netsock::Config as SockConfig;
use transport::node::builder::thread;
use transport::node::sock::{IdleMode, may_bind_privileged};
use transport::node::{App, Control, IdlePolicy, NodeBuilder, Order, joined, run};
use transport::stream::Protocol;
use transport::wire::Nid;
use transport::wire::netsock::Name;
use transport::wire::nid::PID_LUSTRE;

use crate::error::Error;
use crate::net::Net;
use crate::node::{Lines, Node, Started};
use crate::types::{
    POLLND_NET_OVER_LNET, POLLND_NO_LISTEN, POLLND_SPIN, POLLND_UNPRIVILEGED, pollnd_options,
};

/// Options with their texts read; an empty text is one that is not given.
pub(crate) struct Options<'a> {
    pub(crate) plain: &'a pollnd_options,
    pub(crate) nids: &'a str,
    pub(crate) listen: &'a str,
    pub(crate) tunables: &'a str,
    pub(crate) device: &'a str,
    pub(crate) eal_args: &'a str,
    pub(crate) gateway: &'a str,
    pub(crate) net_sock: &'a str,
}

/// Applications of the node's first lcore.
pub(crate) struct Apps {
    /// LNet's applications.
    pub(crate) app: Box<dyn App + Send>,
    /// The domain over netsock, and where it listens.
    pub(crate) beside: Option<(SocketAddr, Box<dyn Protocol + Send>)>,
}

/// A node's domains: over netsock, over LNet.
pub(crate) type Nets = [Option<Arc<Net>>; 2];

/// The parts of a list with commas.
fn listed<T: FromStr<Err: std::fmt::Display>>(what: &str, list: &str) -> Result<Vec<T>, Error> {
    let parts = list.split(',').map(str::trim).filter(|p| !p.is_empty());
    parts.map(|p| p.parse().map_err(|e| Error::invalid(format_args!("{what} {p:?}: {e}")))).collect()
}

impl Options<'_> {
    fn flag(&self, flag: u32) -> bool {
        self.plain.flags & flag != 0
    }

    /// The node's NIDs, of which there is one at least.
    fn nids(&self) -> Result<(Nid, Vec<Nid>), Error> {
        let all = listed("NID", self.nids)?;
        let first = all.first().copied().ok_or_else(|| {
            Error::invalid(
                "no NID: name the one that others reach this node by in nids, for example 10.0.0.1@tcp",
            )
        })?;
        Ok((first, all))
    }

    /// A builder that knows what is the same on all streams; `own_port`: TCP is ours, so that no port needs a privilege.
    pub(crate) fn builder(&self, own_port: bool) -> Result<(NodeBuilder, Vec<Nid>), Error> {
        let known = POLLND_UNPRIVILEGED | POLLND_SPIN | POLLND_NO_LISTEN | POLLND_NET_OVER_LNET;
        if self.plain.flags & !known != 0 {
            let strange = self.plain.flags & !known;
            return Err(Error::invalid(format_args!(
                "flags {strange:#x} of a node are not known: leave them out"
            )));
        }
        let (first, all) = self.nids()?;
        let port = |or| match u16::try_from(self.plain.port) {
            Ok(0) => Ok(or),
            Ok(p) => Ok(p),
            Err(_) => Err(Error::invalid(format_args!("port {}: ports are 1 to 65535", self.plain.port))),
        };
        let mut node = all.iter().skip(1).fold(NodeBuilder::new(first), |n, nid| n.also(*nid));
        let usual = Config::new(first, 1).port;
        let port = port(usual)?;
        if self.flag(POLLND_UNPRIVILEGED) {
            if port < 1024 {
                return Err(Error::invalid(format_args!(
                    "port {port} with POLLND_UNPRIVILEGED: give a port above 1023, the same one to all such nodes"
                )));
            }
            node = node.unprivileged(port);
        } else {
            let ip = first.ip().unwrap_or(IpAddr::from([0, 0, 0, 0]));
            let may = own_port
                || may_bind_privileged(ip).map_err(|e| {
                    let errno = e.raw_os_error().unwrap_or(libc::EIO);
                    Error::new(errno, format_args!("cannot make a socket for {ip}: {e}"))
                })?;
            node = node.config(|c| (c.port, c.privileged) = (port, may));
        }
        if own_port {
            node = node.config(|c| c.tcp_kind = transport::lnd::TcpKind::Port);
        }
        let mut wrong = None;
        node = node.config(|c| wrong = self.tune(c).err());
        if let Some(e) = wrong {
            return Err(e);
        }
        if self.flag(POLLND_NO_LISTEN) {
            node = node.listen_at([]);
        } else if !self.listen.is_empty() {
            node = node.listen_at(listed::<SocketAddr>("listen", self.listen)?);
        }
        if self.flag(POLLND_SPIN) {
            node = node.idle(IdleMode::Spin);
        }
        node.check()?;
        Ok((node, all))
    }

    fn tune(&self, c: &mut Config) -> Result<(), Error> {
        for one in self.tunables.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            let (name, value) = one.split_once('=').ok_or_else(|| {
                Error::invalid(format_args!("tunable {one:?}: write name=value, for example peer_credits=16"))
            })?;
            tunables::set(c, name.trim(), value.trim()).map_err(Error::invalid)?;
        }
        tunables::check(c).map_err(Error::invalid)?;
        for told in tunables::settle(c) {
            tracing::warn!("{told}");
        }
        Ok(())
    }

    fn sockets(&self, node: NodeBuilder, apps: Apps) -> Result<Started, Error> {
        let only_ports = [
            (!self.eal_args.is_empty(), "eal_args"),
            (!self.gateway.is_empty(), "gateway"),
            (self.plain.prefix != 0, "prefix"),
            (self.plain.mtu != 0, "mtu"),
            (self.plain.lcores != 0, "lcores"),
            (self.plain.memory_mb != 0, "memory_mb"),
        ];
        if let Some((_, name)) = only_ports.iter().find(|(given, _)| *given) {
            return Err(Error::invalid(format_args!(
                "{name}: for nodes on a port only; leave it out, or give device"
            )));
        }
        node.probe()?;
        let control = Arc::new(Control::default());
        let (made, wait) = mpsc::channel::<String>();
        let ctl = control.clone();
        let turn = move || {
            let Apps { app, beside } = apps;
            let shard = node.sockets(app).map_err(|e| e.to_string()).and_then(|shard| match beside {
                Some((at, protocol)) => shard.with(at.port(), protocol).map_err(|e| e.to_string()),
                None => Ok(shard),
            });
            match shard {
                Ok(shard) => {
                    drop(made);
                    // Its streams wait in the kernel.
                    let idle = IdlePolicy::spins(u32::MAX, u32::MAX);
                    run(vec![Box::new(shard)], &ctl, idle);
                }
                Err(e) => drop(made.send(e)),
            }
        };
        let polls = thread("polls", turn).map_err(|e| Error::new(libc::EAGAIN, e))?;
        // Ends with the sender, unless the node could not be made.
        if let Ok(why) = wait.recv() {
            let _ = polls.join();
            return Err(Error::new(libc::EIO, why));
        }
        let orders = control.clone();
        let stop = Box::new(move || {
            orders.give(Order::Drain);
            let panicked = "the node panicked: this is a bug of pollnd; its log says where";
            polls.join().map_err(|_| Error::new(libc::ENOTRECOVERABLE, panicked))
        });
        Ok(Started { stop, control, backing: Arc::new(PrivatePages) })
    }

    #[cfg(not(feature = "dpdk"))]
    fn port(&self, _: NodeBuilder, _: Apps, _: &[Nid]) -> Result<Started, Error> {
        Err(Error::new(
            libc::EOPNOTSUPP,
            format_args!(
                "device {}: this libpollnd was built without DPDK; build it with feature dpdk",
                self.device
            ),
        ))
    }

    /// The applications of the node's first lcore, and their other ends.
    fn apps(&self, nids: &[Nid]) -> Result<(Apps, Lines, Nets), Error> {
        let (lines, program) = Lines::new(self.plain.depth)?;
        let depth = lines.depth();
        let (mut nets, mut beside) = (Nets::default(), None);
        if !self.net_sock.is_empty() {
            let wrong =
                |e: &dyn std::fmt::Display| Error::invalid(format_args!("net_sock {:?}: {e}", self.net_sock));
            let Name::Addr(addr) = Name::parse(self.net_sock).map_err(|e| wrong(&e))? else {
                return Err(wrong(&"its port has to be known: give inet:stream:IP@PORT"));
            };
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
            let xprt = Sock::new(SockConfig::new(addr, now)).map_err(|e| wrong(&e))?;
            let at = addr
                .dialled()
                .ok_or_else(|| wrong(&"no TCP address of one machine: give inet:stream:IP@PORT"))?;
            let (net, tenant) = Net::new(depth);
            beside =
                Some((at, Box::new(Host::new(Domain::new(xprt, 0), tenant)) as Box<dyn Protocol + Send>));
            nets[0] = Some(net);
        }
        let mut app: Box<dyn App + Send> = Box::new(program);
        if self.flag(POLLND_NET_OVER_LNET) {
            let id = AppId::new(1).map_err(Error::invalid)?;
            let xprt = LnetXprt::new(id, nids.to_vec(), PID_LUSTRE);
            let (net, tenant) = Net::new(depth);
            app = Box::new(joined(app, Host::new(Domain::new(xprt, 0), tenant), [id]));
            nets[1] = Some(net);
        }
        Ok((Apps { app, beside }, lines, nets))
    }

    /// Starts the node.
    pub(crate) fn start(&self) -> Result<(Node, Nets), Error> {
        let own_port = !self.device.is_empty();
        let (mut node, nids) = self.builder(own_port)?;
        let (apps, lines, nets) = self.apps(&nids)?;
        if let Some((at, _)) = &apps.beside {
            let mut all = node.listens_at();
            all.push(*at);
            node = node.listen_at(all);
        }
        let started = if own_port { self.port(node, apps, &nids)? } else { self.sockets(node, apps)? };
        Ok((Node::new(lines, nids, started), nets))
    }
}
