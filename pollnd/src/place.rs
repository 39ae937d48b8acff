//! Where the polling threads of a pair of nodes run.

use std::sync::Arc;

use bench::pair::{Enter, Threads};
use dataplane::cpt::Machine;
use dataplane::lcore;
use transport::node::Idle;

use crate::cpus;

/// Threads for two nodes, what each does first (pin itself), and how they idle. One thread if there is one CPU, or
/// if only one is wanted; else two in the partition with the most cores, since a link in memory should be on one
/// NUMA node.
///
/// # Errors
/// The topology cannot be read.
pub(crate) fn pair(one: bool) -> Result<(Threads, Enter, Idle), String> {
    let machine = Machine::detect().map_err(|e| e.to_string())?;
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
    Ok((threads, enter, Idle::for_machine(cpus, polling)))
}
