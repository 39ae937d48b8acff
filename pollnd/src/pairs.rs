//! Pairs of nodes over a link of this process: the EAL under them, and the CPUs of their polling threads.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use bench::pair::{Enter, Threads};
use bench::report::RanOn;
use dataplane::cpt::{Cpt, Topology};
use dataplane::dpdk::{Eal, EalConfig, dpdk_version};
use dataplane::lcore;
use transport::node::IdlePolicy;

use crate::args::common::EalArgs;
use crate::{cpus, limits, signals};

/// Memory of the EAL for a link whose nodes have an lcore each, in MiB.
pub(crate) const USUAL_MB: u32 = 512;

/// The EAL for a link in memory, without devices.
///
/// # Errors
/// The parts that it lacks, and the remedy.
pub(crate) fn eal(a: &EalArgs) -> Result<Eal, String> {
    eal_of(a, USUAL_MB)
}

/// The same with so much memory, in MiB.
///
/// # Errors
/// As [`eal`].
pub(crate) fn eal_of(a: &EalArgs, mem_mb: u32) -> Result<Eal, String> {
    limits::descriptors_for_eal()?;
    let eal = EalConfig { no_pci: true, mem_mb, raw: a.eal.clone(), ..EalConfig::default() };
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

/// Number of CPUs that this process may use, each of which an lcore may poll.
///
/// # Errors
/// The topology cannot be read.
pub(crate) fn cpus() -> Result<usize, String> {
    Ok(Topology::detect().map_err(|e| e.to_string())?.cpus().len())
}

/// Threads for two nodes, what each does first (pin itself), and how they idle. One thread if there is one CPU, or
/// if only one is wanted; else two.
///
/// # Errors
/// The topology cannot be read.
pub(crate) fn threads(one: bool) -> Result<(Threads, Enter, IdlePolicy), String> {
    let machine = Topology::detect().map_err(|e| e.to_string())?;
    let (threads, polling) =
        if one || machine.cpus().len() < 2 { (Threads::One, 1) } else { (Threads::Two, 2) };
    let (enter, idle) = pinned(machine, polling)?;
    Ok((threads, enter, idle))
}

/// The first act of each of so many polling threads of two nodes (it pins itself), and how they idle. They are in the
/// partition with the most CPUs, since a link in memory should be on one NUMA node; in more only where that has too few.
///
/// # Errors
/// There are fewer CPUs.
pub(crate) fn pinned(machine: Topology, polling: usize) -> Result<(Enter, IdlePolicy), String> {
    let mut cpts = machine.cpts("").map_err(|e| e.to_string())?;
    let enough = largest(&mut cpts, polling);
    cpts.truncate(enough);
    let taken: Vec<usize> = cpus::polled().iter().map(|p| p.cpu).collect();
    let lcores = lcore::choose(&cpts, polling, None, &taken).map_err(|e| e.to_string())?;
    let idle = IdlePolicy::for_machine(machine.cpus().len(), polling);
    let enter: Enter = Arc::new(move |i| match lcores.get(i) {
        // A machine that hwloc was told about, and not this one: the kernel places the threads.
        Some(l) if machine.this_system => lcore::pin(&machine, l.cpu).map_err(|e| e.to_string()),
        _ => Ok(()),
    });
    Ok((enter, idle))
}

/// Puts partitions with more CPUs first; the number of those that have `polling` together, or of all.
fn largest(cpts: &mut [Cpt], polling: usize) -> usize {
    let cpus = |c: &Cpt| c.cores.iter().map(|k| k.cpus.len()).sum::<usize>();
    cpts.sort_by_key(|c| Reverse(cpus(c)));
    let mut have = 0;
    let enough = cpts.iter().position(|c| {
        have += cpus(c);
        have >= polling
    });
    enough.map_or(cpts.len(), |i| i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_on_one_numa_node_as_far_as_that_goes() {
        let m = Topology::synthetic("package:3 [numa] core:4 pu:1").unwrap();
        let mut cpts = m.cpts("").unwrap();
        // The last has a CPU more than the first, which has two less than it had.
        cpts[0].cores.truncate(2);
        cpts[1].cores.truncate(3);
        for (polling, nodes) in
            [(1, vec![2]), (4, vec![2]), (5, vec![2, 1]), (8, vec![2, 1, 0]), (99, vec![2, 1, 0])]
        {
            let mut cpts = cpts.clone();
            let n = largest(&mut cpts, polling);
            assert_eq!(cpts[..n].iter().map(|c| c.id).collect::<Vec<_>>(), nodes, "{polling}");
        }
    }
}
