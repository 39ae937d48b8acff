//! The net test between two nodes on one thread over the in-memory port, in virtual time: what is counted is the same each time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dataplane::mem::{MemConfig, MemPort, pair};
use hugepages::{Backing, PrivatePages};
use transport::lnd::{AppId, Config};
use transport::net::{Domain, Host, LnetXprt, NetApp, Sock, Xprt};
use transport::netsock;
use transport::node::{NoApp, NodeEnd, Turn};

use super::{Client, Job, NetCtl, Node, NodeConfig, name};
use crate::inmem::{CLIENT, SERVER, Time, nid, node};

/// Turns after which something that did not happen is given up.
const PATIENCE: u64 = 2_000_000;

/// A client and the node that it asks.
pub struct NetPair {
    /// The client's counts.
    pub client: Arc<NetCtl>,
    server: Arc<NetCtl>,
    time: Time,
    nodes: [Box<dyn Turn>; 2],
}

fn host<X: Xprt, A: NetApp<X>>(xprt: X, at: &str, app: A) -> Result<Host<X, A>, String> {
    let mut net = Domain::new(xprt, 0);
    let tm = net.tm_init();
    net.start(tm, at).map_err(|e| e.to_string())?;
    Ok(Host::new(net, app))
}

type Ip = std::net::Ipv4Addr;

fn one<A: NetApp<Sock> + NetApp<LnetXprt> + Send + 'static>(
    (ip, port, at): (Ip, MemPort, &str),
    time: &Time,
    sock: bool,
    app: A,
) -> Result<Box<dyn Turn>, String> {
    if sock {
        let xprt = Sock::new(netsock::Config::new(name(nid(ip))?, 1)).map_err(|e| e.to_string())?;
        let shard = node(ip, port, time, NoApp)?;
        return Ok(Box::new(shard.with(0, Box::new(host(xprt, at, app)?)).map_err(|e| e.to_string())?));
    }
    let cfg = Config::new(nid(ip), 1);
    let xprt = LnetXprt::new(AppId::FIRST, cfg.nids().collect(), cfg.pid);
    Ok(Box::new(node(ip, port, time, host(xprt, at, app)?)?))
}

impl NetPair {
    /// Makes both, over netsock or over LNet; `job`'s target is the node.
    ///
    /// # Errors
    /// No memory, or no such nodes.
    pub fn new(mem: &MemConfig, job: Job, cfg: NodeConfig, sock: bool) -> Result<NetPair, String> {
        let (time, backing): (_, Arc<dyn Backing>) = (Time::new(), Arc::new(PrivatePages));
        let (client, server) = (Arc::new(NetCtl::default()), Arc::new(NetCtl::default()));
        let at = |ip: Ip| match sock {
            true => name(nid(ip)).map(|a| a.to_string()),
            false => Ok(format!("{}:12345:34:1", nid(ip))),
        };
        let (here, there) = (at(CLIENT)?, at(SERVER)?);
        let (a, b) = pair(mem);
        let answering = Node::new(cfg, server.clone(), &backing);
        let asking = Client::new(Job { target: there.clone(), ..job }, client.clone(), &backing);
        let nodes = [
            one((CLIENT, a, &here), &time, sock, asking)?,
            one((SERVER, b, &there), &time, sock, answering)?,
        ];
        Ok(NetPair { client, server, time, nodes })
    }

    fn turn(&mut self) {
        self.time.step();
        for n in &mut self.nodes {
            n.turn();
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&NetPair) -> bool) -> Result<(), String> {
        for _ in 0..PATIENCE {
            if done(self) {
                return Ok(());
            }
            if let Some(e) = self.client.first_error().or_else(|| self.server.first_error()) {
                return Err(e);
            }
            self.turn();
        }
        Err(format!("{what}: not within {PATIENCE} turns"))
    }

    /// Runs until `n` more operations have ended well.
    ///
    /// # Errors
    /// One failed, or nothing moves any more.
    pub fn complete(&mut self, n: u64) -> Result<(), String> {
        let goal = self.client.completed.load(Ordering::Relaxed) + n;
        self.until("operations", |p| p.client.completed.load(Ordering::Relaxed) >= goal)
    }

    /// Stops both machines, then both nodes; gives what those came to, the client's first.
    ///
    /// # Errors
    /// They do not go down.
    pub fn stop(mut self) -> Result<[NodeEnd; 2], String> {
        for ctl in [self.client.clone(), self.server.clone()] {
            ctl.stop.store(true, Ordering::Relaxed);
            self.until("the end of a transfer machine", |_| ctl.done.load(Ordering::Acquire))?;
        }
        self.nodes.iter_mut().for_each(|n| n.shut_down());
        self.until("the end of both nodes", |p| p.nodes.iter().all(|n| n.is_down()))?;
        // Pages that came home with the last turn are reaped in the next.
        for _ in 0..16 {
            self.turn();
        }
        let [a, b] = &self.nodes;
        Ok([a.end(), b.end()])
    }
}
