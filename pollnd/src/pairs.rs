//! Pairs of nodes over a link of this process: the EAL under them, and the CPUs of their polling threads.

use std::sync::Arc;
use std::time::Duration;

use bench::pair::{Enter, Threads};
use bench::report::RanOn;
use dataplane::cpt::Topology;
use dataplane::dpdk::{Eal, EalConfig, dpdk_version};
use dataplane::lcore;
use transport::node::IdlePolicy;

use crate::args::common::EalArgs;
use crate::{cpus, limits, signals};

/// The EAL for a link in memory, without devices.
///
/// # Errors
/// The parts that it lacks, and the remedy.
pub(crate) fn eal(a: &EalArgs) -> Result<Eal, String> {
    limits::descriptors_for_eal()?;
    let eal = EalConfig { no_pci: true, raw: a.eal.clone(), ..EalConfig::default() };
    let eal = Eal::start(&eal).map_err(|e| e.to_string())?;
    eal.notes().iter().for_each(|n| tracing::warn!("{n}"));
    signals::last_wish(dataplane::dpdk::leave_nothing)?;
    Ok(eal)
}

/// Version and memory of the EAL, for a report.
pub(crate) fn tell(eal: &Eal, on: &mut RanOn) {
    on.dpdk = dpdk_version();
    on.memory = if eal.huge() { "2 MiB huge pages".into() } else { "ordinary pages (--no-huge)".into() };
}

/// Ends the EAL when all of a pair has been taken down.
pub(crate) fn clean_up(eal: &Eal) {
    if let Err(e) = eal.cleanup_within(Duration::from_secs(5)) {
        tracing::warn!("{e}");
    }
}

/// Threads for two nodes, what each does first (pin itself), and how they idle. One thread if there is one CPU, or
/// if only one is wanted; else two in the partition with the most cores, since a link in memory should be on one
/// NUMA node.
///
/// # Errors
/// The topology cannot be read.
pub(crate) fn threads(one: bool) -> Result<(Threads, Enter, IdlePolicy), String> {
    let machine = Topology::detect().map_err(|e| e.to_string())?;
    let cpus = machine.cpus().len();
    let (threads, polling) = if one || cpus < 2 { (Threads::One, 1) } else { (Threads::Two, 2) };
    let mut cpts = machine.cpts("").map_err(|e| e.to_string())?;
    cpts.sort_by_key(|c| std::cmp::Reverse(c.cores.iter().map(|k| k.cpus.len()).sum::<usize>()));
    cpts.truncate(1);
    let taken: Vec<usize> = cpus::polled().iter().map(|p| p.cpu).collect();
    let lcores = lcore::choose(&cpts, polling, None, &taken).map_err(|e| e.to_string())?;
    let enter: Enter = Arc::new(move |i| match lcores.get(i) {
        // A machine that hwloc was told about, and not this one: the kernel places the threads.
        Some(l) if machine.this_system => lcore::pin(&machine, l.cpu).map_err(|e| e.to_string()),
        _ => Ok(()),
    });
    Ok((threads, enter, IdlePolicy::for_machine(cpus, polling)))
}
