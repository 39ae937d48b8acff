//! Facts about an NI of a node, as lnetctl shows them: its interface, and settings.

use transport::lnd::Config;
use transport::lnd::tunables::Tunable;
use transport::wire::Nid;

use crate::args::NodeArgs;
use crate::config::keys::{self, Means, Part, negated};
use crate::{iface, networks};

/// The interface of an NI: the kernel's with its address, or its port.
pub(super) fn interface(a: &NodeArgs, nid: Nid) -> Option<String> {
    if networks::on_port(a) {
        let ports = networks::ports(a).ok()?;
        return ports.iter().find(|p| p.nids.contains(&nid)).map(|p| device_name(p.device));
    }
    let ip = nid.ip()?;
    // Every address of that network is the loopback's.
    iface::owner(ip).map(|(name, _)| name).or_else(|| ip.is_loopback().then(|| "lo".into()))
}

/// The name that DPDK gives a port: a virtual device's without its arguments.
fn device_name(device: &str) -> String {
    device.split(',').next().unwrap_or(device).to_owned()
}

/// The tunable that a setting of `part` is, by lnetctl's name, if it is one.
pub(super) fn tuned(part: Part, name: &str) -> Option<&'static Tunable> {
    keys::of(part).find(|k| k.name == name).and_then(|k| match k.means {
        Means::Tunable(t) => Some(t),
        _ => None,
    })
}

/// Whole seconds of so many ns.
pub(super) fn seconds(ns: u64) -> i64 {
    i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX)
}

/// The value of a setting of `part`, by lnetctl's name; 0 for one that has no number.
pub(super) fn tunable(cfg: &Config, part: Part, name: &str) -> i64 {
    let number = |n: Option<i64>| n.unwrap_or(0);
    match keys::of(part).find(|k| k.name == name).map(|k| (k, k.means)) {
        Some((_, Means::Tunable(t))) => number(t.number(cfg)),
        Some((_, Means::Not(t))) => number(negated(&t.value(cfg)).parse().ok()),
        Some((k, Means::Only(..))) => number(k.default().parse().ok()),
        _ => 0,
    }
}
