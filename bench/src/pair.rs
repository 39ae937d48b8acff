//! Nodes, two of them as a rule, turned by one thread or by one thread each.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use transport::node::{
    App, Control, IdlePolicy, Inspect, NodeBuilder, NodeEnd, Order, Protocols, Shard, Streams, Turn, builder,
    run,
};

use crate::ctl::Ctl;

/// Makes a node on the thread that will turn it.
pub type Make = Box<dyn FnOnce() -> Result<Box<dyn Turn>, String> + Send>;

/// Threads that turn the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// All on one.
    One,
    /// One each.
    Two,
}

/// Runs before a node is made, on its thread: pins it, registers it.
pub type Enter = Arc<dyn Fn(usize) -> Result<(), String> + Send + Sync>;

/// Nodes that run.
pub struct Running {
    threads: Vec<JoinHandle<Result<Vec<NodeEnd>, String>>>,
    control: Arc<Control>,
}

/// A node that listens at the ports of protocols, too.
pub(crate) fn listening(node: NodeBuilder, ip: Ipv4Addr, protocols: &Protocols) -> NodeBuilder {
    if protocols.is_empty() {
        return node;
    }
    let at = protocols.iter().map(|(port, _)| SocketAddr::from((ip, *port)));
    let all: Vec<SocketAddr> = node.listens_at().into_iter().chain(at).collect();
    node.listen_at(all)
}

/// A node with its protocols.
pub(crate) fn with_all<S: Streams + Inspect, A: App>(
    node: Shard<S, A>,
    protocols: Protocols,
) -> Result<Shard<S, A>, String> {
    let with = |node: Shard<S, A>, (port, protocol)| node.with(port, protocol);
    protocols.into_iter().try_fold(node, with).map_err(|e| e.to_string())
}

fn turn_all(
    me: usize,
    makes: Vec<Make>,
    control: &Control,
    enter: &Enter,
    idle: IdlePolicy,
) -> Result<Vec<NodeEnd>, String> {
    enter(me)?;
    let nodes = makes.into_iter().map(|m| m()).collect::<Result<Vec<_>, _>>()?;
    run(nodes, control, idle).into_iter().map(|e| e.ok_or_else(|| "a node panicked".to_owned())).collect()
}

impl Running {
    /// Starts the nodes.
    ///
    /// # Errors
    /// A thread that the kernel does not give, and the remedy; those that had started are ended.
    pub fn start(
        threads: Threads,
        idle: IdlePolicy,
        ctl: &Arc<Ctl>,
        enter: &Enter,
        makes: Vec<Make>,
    ) -> Result<Running, String> {
        let groups = match threads {
            Threads::One => vec![makes],
            Threads::Two => makes.into_iter().map(|m| vec![m]).collect(),
        };
        let control = Arc::new(Control::default());
        let mut running = Running { threads: Vec::new(), control: control.clone() };
        for (i, makes) in groups.into_iter().enumerate() {
            let (ctl, control, enter) = (ctl.clone(), control.clone(), enter.clone());
            let polling = builder::thread("polls for a node", move || {
                turn_all(i, makes, &control, &enter, idle).inspect_err(|e| {
                    ctl.fail(e.clone());
                    control.give(Order::Drain);
                })
            });
            match polling {
                Ok(t) => running.threads.push(t),
                Err(e) => {
                    // The first reason counts.
                    let _ = running.stop();
                    return Err(e.to_string());
                }
            }
        }
        Ok(running)
    }

    /// Takes all nodes down and returns what they came to, in the order they were given.
    ///
    /// # Errors
    /// The obstacle to a node's start, or that one panicked.
    pub fn stop(self) -> Result<Vec<NodeEnd>, String> {
        self.control.give(Order::Drain);
        let mut ends = Vec::new();
        for t in self.threads {
            ends.extend(t.join().map_err(|_| "a polling thread panicked".to_owned())??);
        }
        Ok(ends)
    }
}

/// The nothing-lost line.
#[derive(Clone, Debug, serde::Serialize)]
pub struct NothingLost {
    /// All of the below.
    pub ok: bool,
    /// Operations started by the client.
    pub started: u64,
    /// Operations that completed, well or not.
    pub completed: u64,
    /// Completions without an operation.
    pub completed_twice: u64,
    /// Operations that failed.
    pub failed: u64,
    /// Checksums verified.
    pub crc_checked: u64,
    /// Checksums that differed.
    pub crc_bad: u64,
    /// Zero-copy cookies asked for and not acknowledged.
    pub cookies_pending: u64,
    /// Lendings that did not come home.
    pub lendings_out: u64,
    /// Received fragments still with applications.
    pub rx_lent_out: u64,
    /// Bytes of receive buffers not back in their pools.
    pub rx_pool_bytes_in_use: u64,
    /// Mbufs not back in their mempools when the ports were closed.
    pub buffers_left: u64,
    /// Both nodes went down in order.
    pub clean: bool,
}

impl NothingLost {
    /// Judges a run that is over.
    pub fn of(ctl: &Ctl, ends: &[NodeEnd]) -> NothingLost {
        let get = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed);
        let sum = |f: fn(&NodeEnd) -> u64| ends.iter().map(f).sum::<u64>();
        let mut n = NothingLost {
            ok: false,
            started: get(&ctl.started),
            completed: get(&ctl.completed) + get(&ctl.failed),
            completed_twice: get(&ctl.twice),
            failed: get(&ctl.failed),
            crc_checked: get(&ctl.crc_good) + get(&ctl.crc_bad),
            crc_bad: get(&ctl.crc_bad),
            cookies_pending: sum(|e| e.proto.zc_requested.saturating_sub(e.proto.zc_acked)),
            lendings_out: sum(|e| e.streams.lendings_out),
            rx_lent_out: sum(|e| e.streams.rx_lent_out),
            rx_pool_bytes_in_use: sum(|e| e.streams.rx_pool_bytes_in_use),
            buffers_left: 0,
            clean: ends.iter().all(|e| e.clean),
        };
        n.ok = n.started == n.completed
            && n.completed_twice == 0
            && n.failed == 0
            && n.crc_bad == 0
            && n.cookies_pending == 0
            && n.lendings_out == 0
            && n.rx_lent_out == 0
            && n.rx_pool_bytes_in_use == 0
            && n.clean;
        n
    }

    /// With so many mbufs that were not back in their mempools when the ports were closed.
    pub fn and_left(mut self, buffers: u64) -> NothingLost {
        self.buffers_left += buffers;
        self.ok &= buffers == 0;
        self
    }

    /// Of several runs, the sum.
    pub fn sum(all: &[NothingLost]) -> NothingLost {
        let s = |f: fn(&NothingLost) -> u64| all.iter().map(f).sum();
        NothingLost {
            ok: !all.is_empty() && all.iter().all(|n| n.ok),
            started: s(|n| n.started),
            completed: s(|n| n.completed),
            completed_twice: s(|n| n.completed_twice),
            failed: s(|n| n.failed),
            crc_checked: s(|n| n.crc_checked),
            crc_bad: s(|n| n.crc_bad),
            cookies_pending: s(|n| n.cookies_pending),
            lendings_out: s(|n| n.lendings_out),
            rx_lent_out: s(|n| n.rx_lent_out),
            rx_pool_bytes_in_use: s(|n| n.rx_pool_bytes_in_use),
            buffers_left: s(|n| n.buffers_left),
            clean: all.iter().all(|n| n.clean),
        }
    }
}
