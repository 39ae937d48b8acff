//! Options of a node that are no tunables, from its arguments, as files write them.

use clap::ValueEnum;

use super::keys::{Key, Means};
use super::merge::NO_TELEMETRY;
use crate::args::{Offload, ServeArgs, Switch};

/// Values of a switch of ports.
fn offloads(all: &[Offload]) -> Vec<String> {
    all.iter().filter_map(|o| Some(o.to_possible_value()?.get_name().to_owned())).collect()
}

/// Values of an option of ports.
fn each<T: ToString>(all: &[Option<T>]) -> Vec<String> {
    all.iter().map(|v| v.as_ref().map_or_else(|| "default".to_owned(), T::to_string)).collect()
}

/// An option's value in `a`, as files write it; none for what is as it is where nothing is said.
pub(super) fn options(a: &ServeArgs, key: &Key) -> Vec<String> {
    let n = &a.node;
    let one = |s: Option<String>| s.into_iter().collect();
    let unlike = |there: bool, s: &str| one(there.then(|| s.to_owned()));
    let telemetry = |w: &&String| *w == NO_TELEMETRY;
    match key.means {
        Means::Device => n.port.iter().chain(&n.vdev).cloned().collect(),
        Means::Each(flag) => match flag {
            "ni-ports" => n.ni_ports.iter().map(u16::to_string).collect(),
            "tso" => offloads(&n.tso),
            "tx-csum" => offloads(&n.tx_csum),
            "rx-csum" => offloads(&n.rx_csum),
            "lro" => offloads(&n.lro),
            "rss" => offloads(&n.rss),
            "mtu" => each(&n.mtu),
            "vlan" => each(&n.vlan),
            "prefix" => each(&n.prefix),
            "gateway" => each(&n.gateway),
            _ => Vec::new(),
        },
        Means::OnOff(_) => unlike(n.balance == Switch::Off, "off"),
        Means::Flag("no-selftest", _) => unlike(a.no_selftest, "false"),
        Means::Flag(..) => unlike(a.copy, "true"),
        Means::Eal => n.dpdk.eal.iter().filter(|w| !telemetry(w)).cloned().collect(),
        Means::Telemetry => unlike(n.dpdk.eal.iter().any(|w| telemetry(&w)), "false"),
        Means::Option(flag) => one(match flag {
            "budget" => n.budget.map(|v| v.to_string()),
            "metrics" => a.metrics.map(|v| v.to_string()),
            "run-for" => a.run_for.map(|v| v.to_string()),
            "lcores" => Some(n.lcores.to_string()).filter(|_| n.lcores != 1),
            "cpu-pattern" => n.cpu_pattern.clone(),
            "idle" => n.idle.and_then(|i| Some(i.to_possible_value()?.get_name().to_owned())),
            "queues" => n.queues.map(|v| v.to_string()),
            "pcap" => n.pcap.as_ref().map(|p| p.display().to_string()),
            _ => None,
        }),
        _ => Vec::new(),
    }
}
