//! Polling threads: planned over the partitions, pinned to one CPU each.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use crate::cpt::{Cpt, CptError, Topology};

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

/// Errors of pinning a thread.
#[derive(Debug, thiserror::Error)]
pub enum LcoreError {
    /// hwloc described another machine.
    #[error(
        "lcore on CPU {0} is not pinned: the topology is not this machine's; unset HWLOC_SYNTHETIC and HWLOC_XMLFILE"
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

/// `count` lcores over all partitions: on CPUs near NUMA node `near`, where the port is, before others; there on cores
/// before second threads of cores; evenly over the partitions as far as these have CPUs; on CPUs of `taken`, which
/// others poll, last of all. The near ones have the lowest numbers, and so the port's queues.
///
/// # Errors
/// [`CptError::Together`] for 0 or more than there are CPUs.
pub fn choose(
    cpts: &[Cpt],
    count: usize,
    near: Option<u32>,
    taken: &[usize],
) -> Result<Vec<Lcore>, CptError> {
    struct Candidate {
        lcore: Lcore,
        far: bool,
        /// Taken, far, and which thread of its core.
        class: (bool, bool, usize),
    }
    let mut all = Vec::new();
    for c in cpts {
        // Upper cores first: the kernel's own work gathers on CPU 0.
        for core in c.cores.iter().rev() {
            let far = near.is_some_and(|n| core.node.is_some_and(|m| m != n));
            for (thread, &cpu) in core.cpus.iter().enumerate() {
                let class = (taken.contains(&cpu), far, thread);
                let lcore = Lcore { index: 0, cpu, cpt: c.id, node: core.node };
                all.push(Candidate { lcore, far, class });
            }
        }
    }
    if count == 0 || count > all.len() {
        return Err(CptError::Together { asked: count, have: all.len() });
    }
    // Within a class one of each partition, then the next of each.
    let turn: Vec<usize> = (0..all.len())
        .map(|i| {
            let me = &all[i];
            all[..i].iter().filter(|c| c.class == me.class && c.lcore.cpt == me.lcore.cpt).count()
        })
        .collect();
    let mut order: Vec<_> = all.into_iter().zip(turn).collect();
    order.sort_by_key(|(c, turn)| (c.class, *turn, c.lcore.cpt));
    order.truncate(count);
    order.sort_by_key(|(c, _)| (c.far, c.lcore.cpt, c.lcore.cpu));
    let number = |(i, (c, _)): (usize, (Candidate, usize))| Lcore { index: i as u32, ..c.lcore };
    Ok(order.into_iter().enumerate().map(number).collect())
}

/// A CPU that a thread of another process polls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Polled {
    /// The CPU.
    pub cpu: usize,
    /// The process.
    pub pid: u32,
    /// The thread's name.
    pub thread: String,
}

/// First parts of the names of polling threads: ours ([`spawn`]), and those of DPDK's own programs.
const POLLERS: [&str; 4] = ["lcore-", "dpdk-worker", "dpdk-w", "rte-worker-"];

/// CPUs that threads of other processes than `me` poll, as far as this process may see them: threads with a poller's
/// name that are bound to one CPU. `root` is `/` but for tests.
pub fn polled(root: &Path, me: u32) -> Vec<Polled> {
    let names = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for process in names(&root.join("proc")) {
        let pid = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok());
        let Some(pid) = pid.filter(|p| *p != me) else { continue };
        for task in names(&process.path().join("task")) {
            let text = |f: &str| fs::read_to_string(task.path().join(f)).unwrap_or_default();
            let thread = text("comm").trim_end().to_owned();
            if !POLLERS.iter().any(|p| thread.starts_with(p)) {
                continue;
            }
            let status = text("status");
            let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap_or("");
            if let [cpu] = crate::doctor::parse_cpu_list(list)[..] {
                found.push(Polled { cpu, pid, thread });
            }
        }
    }
    found.sort_by_key(|p| (p.cpu, p.pid));
    found
}

/// Binds the calling thread to one CPU.
///
/// # Errors
/// [`LcoreError`] names the CPU and the remedy; the thread is then bound as before.
pub fn pin(machine: &Topology, cpu: usize) -> Result<(), LcoreError> {
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
    machine: &Topology,
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
        let m = Topology::synthetic("package:2 [numa] core:4 pu:1").unwrap();
        let l = plan(&m.cpts("").unwrap(), None).unwrap();
        let short: Vec<_> = l.iter().map(|l| (l.index, l.cpu, l.cpt, l.node)).collect();
        assert_eq!(short, [(0, 2, 0, Some(0)), (1, 3, 0, Some(0)), (2, 6, 1, Some(1)), (3, 7, 1, Some(1))]);
        assert!(plan(&m.cpts("").unwrap(), Some(5)).is_err());
    }

    fn two_nodes() -> Topology {
        Topology::synthetic("package:2 [numa(memory=8GB)] l3:1 core:4 pu:2").unwrap()
    }

    fn cpus(l: &[Lcore]) -> Vec<usize> {
        l.iter().map(|l| l.cpu).collect()
    }

    /// Field report 13: Lustre's LU-12352.
    #[test]
    fn partitions_of_different_sizes_are_filled_as_far_as_each_goes() {
        let m = Topology::synthetic("core:4 pu:1").unwrap();
        let cpts = m.cpts("0[0] 1[1-3]").unwrap();
        let take = |n| cpus(&choose(&cpts, n, None, &[]).unwrap());
        assert_eq!(
            [take(1), take(2), take(3), take(4)],
            [vec![0], vec![0, 3], vec![0, 2, 3], vec![0, 1, 2, 3]]
        );
        let l = choose(&cpts, 4, None, &[]).unwrap();
        assert_eq!(l.iter().map(|l| (l.index, l.cpt)).collect::<Vec<_>>(), [(0, 0), (1, 1), (2, 1), (3, 1)]);
        for n in [0, 5] {
            let e = choose(&cpts, n, None, &[]).unwrap_err();
            assert_eq!(e, CptError::Together { asked: n, have: 4 });
            assert!(e.to_string().contains("ask for 1 to 4"), "{e}");
        }
    }

    /// Field report 13: Lustre's LU-20409.
    #[test]
    fn lcores_are_near_the_port_first() {
        let m = two_nodes();
        let take = |n, near| cpus(&choose(&m.cpts("").unwrap(), n, near, &[]).unwrap());
        assert_eq!(take(1, Some(1)), [14]);
        assert_eq!(take(1, Some(0)), [6]);
        assert_eq!(take(3, Some(1)), [10, 12, 14]);
        // All cores of the near node, then their second threads, and only then the other node.
        assert_eq!(take(5, Some(1)), [8, 10, 12, 14, 15]);
        assert_eq!(take(9, Some(1)), [8, 9, 10, 11, 12, 13, 14, 15, 6]);
        // Nothing is known of the port: evenly.
        assert_eq!(take(4, None), [4, 6, 12, 14]);
        // One partition over both nodes.
        let all = m.cpts("0[*]").unwrap();
        assert_eq!(cpus(&choose(&all, 2, Some(0), &[]).unwrap()), [4, 6]);
        // A port on a node without CPUs is near to nobody.
        assert_eq!(take(2, Some(7)), [6, 14]);
    }

    /// Field report 13: a second node on the machine takes another CPU while there is one.
    #[test]
    fn cpus_that_others_poll_come_last() {
        let m = Topology::synthetic("core:2 pu:1").unwrap();
        let take = |n, taken: &[usize]| cpus(&choose(&m.cpts("").unwrap(), n, None, taken).unwrap());
        assert_eq!(take(1, &[]), [1]);
        assert_eq!(take(1, &[1]), [0]);
        assert_eq!(take(2, &[1]), [0, 1]);
        assert_eq!(take(1, &[0, 1]), [1]);
        let m = two_nodes();
        let taken = [8, 10, 12, 14];
        assert_eq!(cpus(&choose(&m.cpts("").unwrap(), 1, Some(1), &taken).unwrap()), [15]);
    }

    /// Field report 13.
    #[test]
    fn threads_that_poll_are_found_by_name_and_binding() {
        let d = tempfile::tempdir().unwrap();
        let put = |pid: u32, tid: u32, comm: &str, cpus: &str| {
            let t = d.path().join(format!("proc/{pid}/task/{tid}"));
            fs::create_dir_all(&t).unwrap();
            fs::write(t.join("comm"), format!("{comm}\n")).unwrap();
            fs::write(t.join("status"), format!("Name:\t{comm}\nCpus_allowed_list:\t{cpus}\n")).unwrap();
        };
        put(10, 10, "pollnd", "0-3");
        put(10, 11, "lcore-0", "3");
        put(10, 12, "lcore-1", "2");
        put(20, 20, "testpmd", "0");
        put(20, 21, "dpdk-worker1", "1");
        put(30, 31, "lcore-0", "0-3");
        put(40, 41, "kworker/2:1", "2");
        put(50, 51, "lcore-0", "1");
        fs::create_dir_all(d.path().join("proc/self/task/1")).unwrap();
        let found = polled(d.path(), 50);
        let short: Vec<_> = found.iter().map(|p| (p.cpu, p.pid, p.thread.as_str())).collect();
        assert_eq!(short, [(1, 20, "dpdk-worker1"), (2, 10, "lcore-1"), (3, 10, "lcore-0")]);
        assert!(polled(Path::new("/nonexistent"), 1).is_empty());
    }

    /// Field report 13: as above, of a real thread.
    #[test]
    fn a_thread_of_ours_is_seen_by_other_processes() {
        let m = Topology::detect().unwrap();
        let l = choose(&m.cpts("").unwrap(), 1, None, &[]).unwrap();
        let seen = spawn(&m, &l[0], |l| {
            let mine = |p: &Polled| p.pid == std::process::id() && p.cpu == l.cpu && p.thread == "lcore-0";
            // As another process sees it, and as this one does.
            [0, std::process::id()].map(|me| polled(Path::new("/"), me).iter().any(mine))
        });
        assert_eq!(seen.unwrap().join().unwrap(), Some([true, false]));
    }

    #[test]
    fn a_machine_from_a_description_is_never_bound_to() {
        let m = Topology::synthetic("core:4 pu:1").unwrap();
        let before = core_affinity::get_core_ids();
        let l = plan(&m.cpts("").unwrap(), None).unwrap();
        let e = spawn(&m, &l[0], |_| ()).unwrap_err();
        assert!(matches!(e, LcoreError::OtherMachine(2)), "{e}");
        assert_eq!(core_affinity::get_core_ids(), before);
    }

    #[test]
    fn a_pinned_thread_has_one_cpu_and_its_starter_keeps_its_own() {
        let m = Topology::detect().unwrap();
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
