//! CPUs that the polling threads of a node get, and what others do with them.

use std::path::Path;

#[cfg(feature = "dpdk")]
use dataplane::cpt::{CptError, Topology};
use dataplane::doctor::cpu_quota;
#[cfg(feature = "dpdk")]
use dataplane::lcore::{self, Lcore, Polled};

use crate::units;

/// Says that a CPU quota is in force, for a node of so many lcores: they use it up, and the kernel then stops the
/// process until the period ends. A node on kernel sockets has none and does so only when it is busy.
pub(crate) fn mention_quota(lcores: Option<u16>) {
    let Some(q) = cpu_quota(Path::new("/")) else { return };
    let stop = q.stop_us(lcores.unwrap_or(1).into()).map(|us| us as f64 / 1000.0);
    match (stop, lcores) {
        (Some(ms), Some(n)) => tracing::warn!(
            "a CPU quota is in force, {q}: of a node with {} that poll each is stopped for {ms} ms at a time; {}",
            units::many(n.into(), "lcore"),
            q.remedy()
        ),
        (Some(ms), None) => tracing::warn!(
            "a CPU quota is in force, {q}: a busy node is stopped for up to {ms} ms at a time; {}",
            q.remedy()
        ),
        (None, _) => tracing::info!("a CPU quota is in force, {q}: more than this node uses up"),
    }
}

/// CPUs that a node of one lcore polls unless told otherwise; none where that is not known.
#[cfg(feature = "dpdk")]
pub(crate) fn usual() -> Vec<usize> {
    let chosen = Topology::detect().and_then(|m| choose(&m, "", 1, None, &polled()));
    chosen.map_or_else(|_| Vec::new(), |(lcores, _)| lcores.iter().map(|l| l.cpu).collect())
}

/// Nodes over kernel sockets poll none.
#[cfg(not(feature = "dpdk"))]
pub(crate) fn usual() -> Vec<usize> {
    Vec::new()
}

/// CPUs that other processes poll.
#[cfg(feature = "dpdk")]
pub(crate) fn polled() -> Vec<Polled> {
    lcore::polled(Path::new("/"), std::process::id())
}

/// `count` lcores in the partitions of `pattern`, near NUMA node `near` and on CPUs that nobody else polls as far as
/// that goes; and a warning for each that somebody else does.
///
/// # Errors
/// A fault of the pattern, or too many lcores for it.
#[cfg(feature = "dpdk")]
pub(crate) fn choose(
    machine: &Topology,
    pattern: &str,
    count: usize,
    near: Option<u32>,
    others: &[Polled],
) -> Result<(Vec<Lcore>, Vec<String>), CptError> {
    let cpts = machine.cpts(pattern)?;
    let taken: Vec<usize> = others.iter().map(|p| p.cpu).collect();
    let lcores = lcore::choose(&cpts, count, near, &taken)?;
    let shared = |l: &Lcore| {
        let p = others.iter().find(|p| p.cpu == l.cpu)?;
        Some(format!(
            "lcore {} is on CPU {}, which {} of process {} polls as well: each is stopped while the other runs; give one \
             of them other CPUs with --cpu-pattern, or fewer lcores",
            l.index, l.cpu, p.thread, p.pid
        ))
    };
    let warnings = lcores.iter().filter_map(shared).collect();
    Ok((lcores, warnings))
}

#[cfg(all(test, feature = "dpdk"))]
mod tests {
    use super::*;

    /// Field report 13.
    #[test]
    fn two_nodes_on_one_machine_take_different_cpus_while_there_are_some() {
        let m = Topology::synthetic("core:2 pu:1").unwrap();
        let other = |cpu| Polled { cpu, pid: 77, thread: "lcore-0".into() };
        let take = |pattern: &str, n, others: &[Polled]| {
            let (l, w) = choose(&m, pattern, n, None, others).unwrap();
            (l.iter().map(|l| l.cpu).collect::<Vec<_>>(), w)
        };
        assert_eq!(take("", 1, &[]), (vec![1], vec![]));
        assert_eq!(take("", 1, &[other(1)]), (vec![0], vec![]));
        let (cpus, said) = take("", 2, &[other(1)]);
        assert_eq!((cpus, said.len()), (vec![0, 1], 1));
        assert!(
            said[0].starts_with("lcore 1 is on CPU 1, which lcore-0 of process 77 polls as well"),
            "{said:?}"
        );
        // CPUs that were named are taken.
        let (cpus, said) = take("0[1]", 1, &[other(1)]);
        assert_eq!((cpus, said.len()), (vec![1], 1));
        assert_eq!(take("0[0] 1[1]", 2, &[]).0, [0, 1]);
    }
}
