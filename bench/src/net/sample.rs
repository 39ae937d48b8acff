//! A stretch of a client's work, measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::clock::pause;
use hugepages::Backing;
use serde::Serialize;
use transport::net::{Domain, Host, NetApp, Sock};
use transport::netsock::Config;
use transport::node::Protocols;
use transport::wire::Nid;
use transport::wire::netsock::Addr;

use super::NetCtl;
use crate::ctl::Ctl;
use crate::measure::cpu_time;
use crate::sock::epoch;

/// Port of the transfer machines of a pair.
const PORT: u16 = 7000;
/// Longest wait for the first operation, and for the end, in seconds.
const PATIENCE: u64 = 20;

/// Figures of a stretch, both ends counted.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sample {
    /// Payload, in GiB a second.
    pub gib_per_s: f64,
    /// Payload, in GiB a second of CPU time.
    pub gib_per_cpu_s: f64,
    /// Operations a second.
    pub per_s: f64,
    /// Operations a second of CPU time.
    pub per_cpu_s: f64,
    /// Percentiles of an operation's time, in us.
    pub p50_us: f64,
    /// As `p50_us`.
    pub p99_us: f64,
    /// As `p50_us`.
    pub p999_us: f64,
    /// The longest, in us.
    pub max_us: f64,
    /// Operations that took longer than [`STALL`](super::STALL), of a million.
    pub stalls_ppm: f64,
}

/// The end-point of a node of a pair.
///
/// # Errors
/// The NID has no address.
pub fn name(nid: Nid) -> Result<Addr, String> {
    let ip = nid.ip().ok_or_else(|| format!("{nid} has no IP address"))?;
    Ok(Addr::stream((ip, PORT).into()))
}

/// A transfer machine of netsock on a node of a pair, with its application.
///
/// # Errors
/// There can be none at this address.
pub fn beside<A: NetApp<Sock> + Send + 'static>(
    nid: Nid,
    backing: &Arc<dyn Backing>,
    make: impl FnOnce(&Arc<dyn Backing>) -> A,
) -> Result<Protocols, String> {
    let addr = name(nid)?;
    let xprt = Sock::new(Config::new(addr, epoch())).map_err(|e| e.to_string())?;
    let mut net = Domain::new(xprt, 0);
    let tm = net.tm_init();
    net.start(tm, &addr.to_string()).map_err(|e| e.to_string())?;
    Ok(vec![(PORT, Box::new(Host::new(net, make(backing))))])
}

fn wait(ctl: &Ctl, all: [&NetCtl; 2], what: &str, mut is: impl FnMut() -> bool) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(PATIENCE);
    while !is() {
        if let Some(e) = ctl.first_error().or_else(|| all.iter().find_map(|c| c.first_error())) {
            return Err(e);
        }
        if Instant::now() > end {
            return Err(format!("{what} did not happen within {PATIENCE} s"));
        }
        pause(Duration::from_millis(1));
    }
    Ok(())
}

/// Measures `secs` of what `client` does with `node`, after a fifth of that to warm up; then both stop. `ctl` is the nodes'.
///
/// # Errors
/// An operation that failed, or nothing that happens.
pub fn measure(ctl: &Ctl, client: &NetCtl, node: &NetCtl, secs: f64) -> Result<Sample, String> {
    let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let all = [client, node];
    wait(ctl, all, "the first operation", || get(&client.completed) > 0)?;
    pause(Duration::from_secs_f64(secs / 5.0));
    client.forget_times();
    let counts = || [&client.completed, &client.bytes, &client.stalls].map(get);
    let (c0, t0, cpu0) = (counts(), Instant::now(), cpu_time());
    pause(Duration::from_secs_f64(secs));
    wait(ctl, all, "an operation", || get(&client.completed) > c0[0])?;
    let (c1, wall, cpu) = (counts(), t0.elapsed().as_secs_f64(), (cpu_time() - cpu0).as_secs_f64().max(1e-9));
    let (rtt, max_us) = client.times();
    client.stop.store(true, Ordering::Relaxed);
    wait(ctl, all, "the end of the client", || client.done.load(Ordering::Acquire))?;
    node.stop.store(true, Ordering::Relaxed);
    wait(ctl, all, "the end of the node", || node.done.load(Ordering::Acquire))?;
    let [n, bytes, stalls] = [0, 1, 2].map(|i| (c1[i] - c0[i]) as f64);
    let gib = bytes / f64::from(1 << 30);
    Ok(Sample {
        gib_per_s: gib / wall,
        gib_per_cpu_s: gib / cpu,
        per_s: n / wall,
        per_cpu_s: n / cpu,
        p50_us: rtt.p50_us,
        p99_us: rtt.p99_us,
        p999_us: rtt.p999_us,
        max_us,
        stalls_ppm: stalls * 1e6 / n.max(1.0),
    })
}
