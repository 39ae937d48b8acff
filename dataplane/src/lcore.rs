//! Polling threads: planned over the partitions, pinned to one CPU each.

use std::io;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use crate::cpt::{Cpt, CptError, Machine};

/// A polling thread to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lcore {
    /// Number among all lcores of the node, from 0.
    pub index: u32,
    /// CPU that it is pinned to.
    pub cpu: usize,
    /// Its partition.
    pub cpt: u32,
    /// NUMA node of the CPU, if the machine has nodes.
    pub node: Option<u32>,
}

/// Why a thread is not pinned.
#[derive(Debug, thiserror::Error)]
pub enum LcoreError {
    /// What hwloc described is another machine.
    #[error(
        "lcore on CPU {0} is not pinned: the topology is not this machine's; unset HWLOC_SYNTHETIC and HWLOC_XMLFILE, or run without pinning"
    )]
    OtherMachine(usize),
    /// The kernel refused.
    #[error(
        "lcore cannot be pinned to CPU {cpu}: this process may use {allowed:?}; choose another in cpu_pattern, or widen the process's CPU set (taskset, cgroup)"
    )]
    Refused {
        /// The CPU.
        cpu: usize,
        /// CPUs that the process may use.
        allowed: Vec<usize>,
    },
    /// The thread did not start.
    #[error("lcore thread does not start: {0}")]
    Spawn(#[from] io::Error),
}

/// The lcores of all partitions: `each` a partition, or the default.
///
/// # Errors
/// [`CptError::Lcores`] names the partition that has too few CPUs.
pub fn plan(cpts: &[Cpt], each: Option<usize>) -> Result<Vec<Lcore>, CptError> {
    let mut v = Vec::new();
    for c in cpts {
        for cpu in c.lcores(each)? {
            let node = c.cores.iter().find(|k| k.cpus.contains(&cpu)).and_then(|k| k.node);
            v.push(Lcore { index: v.len() as u32, cpu, cpt: c.id, node });
        }
    }
    Ok(v)
}

/// Binds the calling thread to one CPU.
///
/// # Errors
/// [`LcoreError`] names the CPU and the remedy; the thread is then bound as before.
pub fn pin(machine: &Machine, cpu: usize) -> Result<(), LcoreError> {
    if !machine.this_system {
        return Err(LcoreError::OtherMachine(cpu));
    }
    let allowed: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|c| c.id).collect();
    if allowed.contains(&cpu) && core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
        return Ok(());
    }
    Err(LcoreError::Refused { cpu, allowed })
}

/// Starts a thread named after the lcore, pins it, and runs `f` there.
///
/// # Errors
/// [`LcoreError`] when it does not start or cannot be pinned; `f` does not run then.
pub fn spawn<T: Send + 'static>(
    machine: &Machine,
    lcore: &Lcore,
    f: impl FnOnce(&Lcore) -> T + Send + 'static,
) -> Result<JoinHandle<Option<T>>, LcoreError> {
    let (tell, told) = mpsc::channel();
    let (m, l) = (machine.clone(), lcore.clone());
    let handle = Builder::new().name(format!("lcore-{}", lcore.index)).spawn(move || {
        let pinned = pin(&m, l.cpu);
        let ok = pinned.is_ok();
        // The starter waits for this before it returns.
        let _ = tell.send(pinned);
        ok.then(|| f(&l))
    })?;
    told.recv().unwrap_or(Err(LcoreError::Spawn(io::Error::other("it died while it was being pinned"))))?;
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lcores_are_numbered_over_all_partitions_and_know_their_node() {
        let m = Machine::synthetic("package:2 [numa] core:4 pu:1").unwrap();
        let l = plan(&m.cpts("").unwrap(), None).unwrap();
        let short: Vec<_> = l.iter().map(|l| (l.index, l.cpu, l.cpt, l.node)).collect();
        assert_eq!(short, [(0, 2, 0, Some(0)), (1, 3, 0, Some(0)), (2, 6, 1, Some(1)), (3, 7, 1, Some(1))]);
        assert!(plan(&m.cpts("").unwrap(), Some(5)).is_err());
    }

    #[test]
    fn a_machine_from_a_description_is_never_bound_to() {
        let m = Machine::synthetic("core:4 pu:1").unwrap();
        let before = core_affinity::get_core_ids();
        let l = plan(&m.cpts("").unwrap(), None).unwrap();
        let e = spawn(&m, &l[0], |_| ()).unwrap_err();
        assert!(matches!(e, LcoreError::OtherMachine(2)), "{e}");
        assert_eq!(core_affinity::get_core_ids(), before);
    }

    #[test]
    fn a_pinned_thread_has_one_cpu_and_its_starter_keeps_its_own() {
        let m = Machine::detect().unwrap();
        assert!(m.this_system, "run the tests without HWLOC_SYNTHETIC");
        let before = core_affinity::get_core_ids();
        let l = plan(&m.cpts("").unwrap(), Some(1)).unwrap();
        let cpu = l[0].cpu;
        let got = spawn(&m, &l[0], |_| core_affinity::get_core_ids()).unwrap().join().unwrap().unwrap();
        assert_eq!(got, Some(vec![core_affinity::CoreId { id: cpu }]));
        assert_eq!(core_affinity::get_core_ids(), before);
        let e = pin(&m, 100_000).unwrap_err().to_string();
        assert!(e.contains("100000") && e.contains("taskset"), "{e}");
    }
}
