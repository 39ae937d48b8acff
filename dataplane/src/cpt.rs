//! CPU partitions (CPTs): sets of cores near one NUMA node, one by default for each node that has cores.
//!
//! The machine's shape comes from hwloc, which honours `HWLOC_SYNTHETIC` and `HWLOC_XMLFILE`; threads are bound only
//! when what hwloc described is this system.

mod pattern;

use std::fmt;

use hwlocality::Topology as Hwloc;
use hwlocality::object::types::ObjectType;

use self::pattern::{List, Pattern, parse};

/// Errors of making partitions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CptError {
    /// hwloc failed.
    #[error(
        "hwloc cannot describe the machine ({0}); unset HWLOC_SYNTHETIC and HWLOC_XMLFILE, or correct them"
    )]
    Hwloc(String),
    /// The pattern is not in the syntax.
    #[error(
        "cpu_pattern \"{pattern}\": {what} at column {column}; write 0[0-3] 1[4-7] for CPUs, N 0[0] 1[1] for NUMA nodes, N for a partition each node, C[0] for that without the first CPU of each, X[0,8] for that without CPUs 0 and 8; lists have numbers, ranges 0-7 and strides 0-7/2, separated by commas, or * for all"
    )]
    Syntax {
        /// The whole pattern.
        pattern: String,
        /// The fault.
        what: &'static str,
        /// Place, counted from 1.
        column: usize,
    },
    /// The numbers of the partitions are not 0, 1, 2, ...
    #[error(
        "cpu_pattern \"{pattern}\": partition {number} is {what}; number the partitions 0 to {last}, each once"
    )]
    Numbering {
        /// The whole pattern.
        pattern: String,
        /// The partition.
        number: usize,
        /// Doubled, or out of range.
        what: &'static str,
        /// Highest number allowed.
        last: usize,
    },
    /// A CPU or node is not there, or not for this process.
    #[error(
        "cpu_pattern \"{pattern}\": {kind} {number} does not exist or is not for this process, which has {have}"
    )]
    Unknown {
        /// The whole pattern.
        pattern: String,
        /// CPU, or NUMA node.
        kind: &'static str,
        /// Its number.
        number: usize,
        /// The topology.
        have: String,
    },
    /// A CPU or node is in two partitions.
    #[error("cpu_pattern \"{pattern}\": {kind} {number} is named twice; name it once")]
    Twice {
        /// The whole pattern.
        pattern: String,
        /// CPU, or NUMA node.
        kind: &'static str,
        /// Its number.
        number: usize,
    },
    /// A place that no partition has.
    #[error(
        "cpu_pattern \"{pattern}\": no partition has a CPU at place {place}: they are counted from 0, up to {most}"
    )]
    Place {
        /// The whole pattern.
        pattern: String,
        /// The place.
        place: usize,
        /// Last place of the largest partition.
        most: usize,
    },
    /// All CPUs of a partition are left out.
    #[error("cpu_pattern \"{pattern}\": partition {cpt} has no CPU left; leave out fewer of {had}")]
    Empty {
        /// The whole pattern.
        pattern: String,
        /// The partition.
        cpt: usize,
        /// CPUs that it had.
        had: String,
    },
    /// More lcores than all partitions have CPUs.
    #[error(
        "{asked} lcores were asked for and the partitions have {have} CPUs: ask for 1 to {have}, or name more CPUs in \
         cpu_pattern"
    )]
    Together {
        /// Lcores asked for.
        asked: usize,
        /// CPUs that all partitions have.
        have: usize,
    },
    /// More lcores than the partition has CPUs.
    #[error("partition {cpt} has {have} CPUs and {asked} lcores were asked for: ask for 1 to {have}")]
    Lcores {
        /// The partition.
        cpt: u32,
        /// Lcores asked for.
        asked: usize,
        /// CPUs it has.
        have: usize,
    },
}

/// A physical core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// CPU numbers of its hardware threads, ascending.
    pub cpus: Vec<usize>,
    /// NUMA node, or `None` when the machine has no nodes.
    pub node: Option<u32>,
}

/// The machine as hwloc describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Physical cores that this process may use, by first CPU.
    pub cores: Vec<Core>,
    /// Whether this is the machine we run on, and not one from `HWLOC_SYNTHETIC` or a file.
    pub this_system: bool,
}

/// A CPU partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpt {
    /// Number, from 0.
    pub id: u32,
    /// NUMA node that all its cores are near, or `None` when they span several.
    pub node: Option<u32>,
    /// Its cores. With a pattern, only the CPUs named.
    pub cores: Vec<Core>,
}

impl Topology {
    /// Asks hwloc.
    ///
    /// # Errors
    /// [`CptError::Hwloc`].
    pub fn detect() -> Result<Topology, CptError> {
        // It is read to its end, which a device has not and a FIFO is late with.
        let file =
            std::env::var_os("HWLOC_XMLFILE").filter(|f| std::fs::metadata(f).is_ok_and(|m| !m.is_file()));
        if let Some(f) = file {
            return Err(CptError::Hwloc(format!("HWLOC_XMLFILE={}: it is no regular file", f.display())));
        }
        let t = Hwloc::new().map_err(|e| CptError::Hwloc(e.to_string()))?;
        Self::read(&t)
    }

    /// A machine from hwloc's synthetic description, such as `package:2 [numa] core:4 pu:2`.
    ///
    /// # Errors
    /// [`CptError::Hwloc`].
    pub fn synthetic(description: &str) -> Result<Topology, CptError> {
        let e = |e: &dyn fmt::Display| CptError::Hwloc(format!("\"{description}\": {e}"));
        let b = Hwloc::builder().from_synthetic(description).map_err(|x| e(&x))?;
        Self::read(&b.build().map_err(|x| e(&x))?)
    }

    fn read(t: &Hwloc) -> Result<Topology, CptError> {
        let this_system = t.is_this_system();
        let allowed: Option<Vec<usize>> = this_system
            .then(core_affinity::get_core_ids)
            .flatten()
            .map(|v| v.into_iter().map(|c| c.id).collect());
        let may = |cpu: &usize| allowed.as_ref().is_none_or(|a| a.contains(cpu));
        let nodes: Vec<(u32, Vec<usize>)> = t
            .objects_with_type(ObjectType::NUMANode)
            .filter_map(|o| {
                Some((u32::try_from(o.os_index()?).ok()?, o.cpuset()?.iter_set().map(usize::from).collect()))
            })
            .collect();
        let core = |cpus: Vec<usize>| {
            let first = *cpus.first()?;
            let node = nodes.iter().find(|n| n.1.contains(&first)).map(|n| n.0);
            Some(Core { cpus, node })
        };
        let sets = |kind| {
            t.objects_with_type(kind).filter_map(|o| {
                Some(o.cpuset()?.iter_set().map(usize::from).filter(may).collect::<Vec<usize>>())
            })
        };
        let mut cores: Vec<Core> = sets(ObjectType::Core).filter_map(core).collect();
        // Where it names no cores (some virtual machines, descriptions such as `numa:1 pu:2`), each CPU is one.
        let named: Vec<usize> = cores.iter().flat_map(|c| c.cpus.iter().copied()).collect();
        cores.extend(
            sets(ObjectType::PU).filter(|c| !c.iter().any(|cpu| named.contains(cpu))).filter_map(core),
        );
        cores.sort_by_key(|c| c.cpus[0]);
        if cores.is_empty() {
            return Err(CptError::Hwloc(match allowed {
                Some(a) => format!("it names no CPU of those that this process may use, {}", ranges(&a)),
                None => "it names no CPU".into(),
            }));
        }
        Ok(Topology { cores, this_system })
    }

    /// NUMA nodes with cores, ascending. A machine without nodes counts as one node 0.
    pub fn nodes(&self) -> Vec<u32> {
        let mut v: Vec<u32> = self.cores.iter().map(|c| c.node.unwrap_or(0)).collect();
        v.sort_unstable();
        v.dedup();
        v
    }

    /// CPU numbers, ascending.
    pub fn cpus(&self) -> Vec<usize> {
        let mut v: Vec<usize> = self.cores.iter().flat_map(|c| c.cpus.iter().copied()).collect();
        v.sort_unstable();
        v
    }

    /// The partitions of `pattern` (`cpu_pattern` of Lustre's libcfs). Empty and `N` mean one for each NUMA node, `C` and
    /// `X` the same with CPUs left out: by their places in each partition, or by their numbers.
    ///
    /// # Errors
    /// [`CptError`] names the value and the remedy.
    pub fn cpts(&self, pattern: &str) -> Result<Vec<Cpt>, CptError> {
        match parse(pattern)? {
            Pattern::Each => Ok(self.each()),
            Pattern::Without(cpus) => self.without(pattern, |_, cpu| cpus.contains(&cpu)),
            Pattern::WithoutPlaces(places) => {
                let most = self.each().iter().map(|c| c.cpus().len()).max().unwrap_or(1) - 1;
                if let Some(&place) = places.iter().find(|p| **p > most) {
                    return Err(CptError::Place { pattern: pattern.to_owned(), place, most });
                }
                self.without(pattern, |place, _| places.contains(&place))
            }
            Pattern::Cpus(groups) => {
                let groups = check(pattern, "CPU", groups, &self.cpus())?;
                Ok(partitions(groups.iter().map(|g| self.part(|_, cpu| g.contains(&cpu)))))
            }
            Pattern::Nodes(groups) => {
                let have: Vec<usize> = self.nodes().iter().map(|n| *n as usize).collect();
                let groups = check(pattern, "NUMA node", groups, &have)?;
                Ok(partitions(groups.iter().map(|g| self.part(|c, _| g.contains(&(c.number() as usize))))))
            }
        }
    }

    /// A partition for each NUMA node.
    fn each(&self) -> Vec<Cpt> {
        partitions(self.nodes().into_iter().map(|n| self.part(|c, _| c.number() == n)))
    }

    /// Cores with the CPUs that are wanted.
    fn part(&self, wanted: impl Fn(&Core, usize) -> bool) -> Vec<Core> {
        let some = |c: &Core| {
            let cpus: Vec<usize> = c.cpus.iter().copied().filter(|cpu| wanted(c, *cpu)).collect();
            (!cpus.is_empty()).then_some(Core { cpus, node: c.node })
        };
        self.cores.iter().filter_map(some).collect()
    }

    /// A partition for each NUMA node, less what `out` says of each CPU and its place.
    fn without(&self, pattern: &str, out: impl Fn(usize, usize) -> bool) -> Result<Vec<Cpt>, CptError> {
        let rest = self.each().into_iter().enumerate().map(|(cpt, c)| {
            let all = c.cpus();
            let kept: Vec<usize> = all
                .iter()
                .enumerate()
                .filter(|(place, cpu)| !out(*place, **cpu))
                .map(|(_, cpu)| *cpu)
                .collect();
            if kept.is_empty() {
                return Err(CptError::Empty { pattern: pattern.to_owned(), cpt, had: ranges(&all) });
            }
            Ok(self.part(|_, cpu| kept.contains(&cpu)))
        });
        Ok(partitions(rest.collect::<Result<Vec<_>, _>>()?.into_iter()))
    }
}

/// Numbers partitions of these cores.
fn partitions(parts: impl Iterator<Item = Vec<Core>>) -> Vec<Cpt> {
    parts
        .enumerate()
        .map(|(id, cores)| {
            let node =
                cores.first().and_then(|c| c.node).filter(|n| cores.iter().all(|c| c.node == Some(*n)));
            Cpt { id: id as u32, node, cores }
        })
        .collect()
}

/// The numbers of each partition: each is of a CPU or node that is there, and only one partition has it.
fn check(
    pattern: &str,
    kind: &'static str,
    groups: Vec<List>,
    have: &[usize],
) -> Result<Vec<Vec<usize>>, CptError> {
    let mut seen = Vec::new();
    let mut all = Vec::new();
    for group in groups {
        let group = match group {
            List::All => have.to_vec(),
            List::These(v) => v,
        };
        for &number in &group {
            let pattern = pattern.to_owned();
            if !have.contains(&number) {
                return Err(CptError::Unknown { pattern, kind, number, have: ranges(have) });
            }
            if seen.contains(&number) {
                return Err(CptError::Twice { pattern, kind, number });
            }
            seen.push(number);
        }
        all.push(group);
    }
    Ok(all)
}

impl Core {
    /// The number of its NUMA node; 0 on a machine without nodes.
    fn number(&self) -> u32 {
        self.node.unwrap_or(0)
    }
}

impl Cpt {
    /// Its CPUs, ascending.
    pub fn cpus(&self) -> Vec<usize> {
        let mut v: Vec<usize> = self.cores.iter().flat_map(|c| c.cpus.iter().copied()).collect();
        v.sort_unstable();
        v
    }

    /// CPUs that its lcores are pinned to. `None` asks for half of its cores, at least one. Lcores take the upper
    /// cores, so that CPU 0, where the kernel's own work gathers, comes last; hardware threads are shared only when
    /// there are more lcores than cores.
    ///
    /// # Errors
    /// [`CptError::Lcores`] for 0 or more than it has CPUs.
    pub fn lcores(&self, count: Option<usize>) -> Result<Vec<usize>, CptError> {
        let have: usize = self.cores.iter().map(|c| c.cpus.len()).sum();
        let n = count.unwrap_or((self.cores.len() / 2).max(1));
        if n == 0 || n > have {
            return Err(CptError::Lcores { cpt: self.id, asked: n, have });
        }
        let threads = self.cores.iter().map(|c| c.cpus.len()).max().unwrap_or(0);
        let mut v: Vec<usize> = (0..threads)
            .flat_map(|t| self.cores.iter().rev().filter_map(move |c| c.cpus.get(t).copied()))
            .take(n)
            .collect();
        v.sort_unstable();
        Ok(v)
    }
}

/// `0-3,8` for 0, 1, 2, 3, 8.
fn ranges(v: &[usize]) -> String {
    let mut out: Vec<(usize, usize)> = Vec::new();
    for &n in v {
        match out.last_mut() {
            Some(r) if r.1 + 1 == n => r.1 = n,
            _ => out.push((n, n)),
        }
    }
    let text = |r: &(usize, usize)| if r.0 == r.1 { r.0.to_string() } else { format!("{}-{}", r.0, r.1) };
    out.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod cpt_tests;
