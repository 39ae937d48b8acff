//! CPU partitions (CPTs): sets of cores near one NUMA node, one by default for each node that has cores.
//!
//! The machine's shape comes from hwloc, which honours `HWLOC_SYNTHETIC` and `HWLOC_XMLFILE`; threads are bound only
//! when what hwloc described is this system.

use std::fmt;

use hwlocality::Topology;
use hwlocality::object::types::ObjectType;

/// Highest CPU or node number accepted in a pattern; the kernel's own limit is 8,192 CPUs.
const NUMBER_MAX: usize = 65_535;

/// Why there are no partitions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CptError {
    /// hwloc failed.
    #[error(
        "hwloc cannot describe the machine ({0}); unset HWLOC_SYNTHETIC and HWLOC_XMLFILE, or correct them"
    )]
    Topology(String),
    /// The pattern is not in the syntax.
    #[error(
        "cpu_pattern \"{pattern}\": {what} at column {column}; write 0[0-3] 1[4-7] for CPUs, N 0[0] 1[1] for NUMA nodes, N for a partition each node; lists have numbers, ranges 0-7 and strides 0-7/2, separated by commas"
    )]
    Syntax {
        /// The whole pattern.
        pattern: String,
        /// What was wrong.
        what: &'static str,
        /// Where, counted from 1.
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
        /// What there is.
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

/// What hwloc says of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
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

impl Machine {
    /// Asks hwloc.
    ///
    /// # Errors
    /// [`CptError::Topology`].
    pub fn detect() -> Result<Machine, CptError> {
        let t = Topology::new().map_err(|e| CptError::Topology(e.to_string()))?;
        Self::read(&t)
    }

    /// A machine from hwloc's synthetic description, such as `package:2 [numa] core:4 pu:2`.
    ///
    /// # Errors
    /// [`CptError::Topology`].
    pub fn synthetic(description: &str) -> Result<Machine, CptError> {
        let e = |e: &dyn fmt::Display| CptError::Topology(format!("\"{description}\": {e}"));
        let b = Topology::builder().from_synthetic(description).map_err(|x| e(&x))?;
        Self::read(&b.build().map_err(|x| e(&x))?)
    }

    fn read(t: &Topology) -> Result<Machine, CptError> {
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
        let mut cores: Vec<Core> = t
            .objects_with_type(ObjectType::Core)
            .filter_map(|o| {
                let cpus: Vec<usize> = o.cpuset()?.iter_set().map(usize::from).filter(may).collect();
                let first = *cpus.first()?;
                let node = nodes.iter().find(|n| n.1.contains(&first)).map(|n| n.0);
                Some(Core { cpus, node })
            })
            .collect();
        cores.sort_by_key(|c| c.cpus[0]);
        if cores.is_empty() {
            return Err(CptError::Topology("it names no core that this process may use".into()));
        }
        Ok(Machine { cores, this_system })
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

    /// The partitions of `pattern` (`cpu_pattern` of Lustre's libcfs). Empty and `N` mean one for each NUMA node.
    ///
    /// # Errors
    /// [`CptError`] names the value and the remedy.
    pub fn cpts(&self, pattern: &str) -> Result<Vec<Cpt>, CptError> {
        let p = parse(pattern)?;
        let by_node = p.groups.is_empty() || p.nodes;
        let groups = if p.groups.is_empty() {
            self.nodes().into_iter().map(|n| vec![n as usize]).collect()
        } else {
            self.check(pattern, &p)?;
            p.groups
        };
        Ok(groups
            .iter()
            .enumerate()
            .map(|(id, g)| {
                let cores: Vec<Core> = self
                    .cores
                    .iter()
                    .filter_map(|c| {
                        if by_node {
                            return g.contains(&(c.node.unwrap_or(0) as usize)).then(|| c.clone());
                        }
                        let cpus: Vec<usize> = c.cpus.iter().copied().filter(|cpu| g.contains(cpu)).collect();
                        (!cpus.is_empty()).then_some(Core { cpus, node: c.node })
                    })
                    .collect();
                let node = cores[0].node.filter(|n| cores.iter().all(|c| c.node == Some(*n)));
                Cpt { id: id as u32, node, cores }
            })
            .collect())
    }

    /// Every number names a CPU or node that is there, and only one partition has it.
    fn check(&self, pattern: &str, p: &Pattern) -> Result<(), CptError> {
        let have: Vec<usize> =
            if p.nodes { self.nodes().iter().map(|n| *n as usize).collect() } else { self.cpus() };
        let kind = if p.nodes { "NUMA node" } else { "CPU" };
        let mut seen = Vec::new();
        for &number in p.groups.iter().flatten() {
            let pattern = pattern.to_owned();
            if !have.contains(&number) {
                return Err(CptError::Unknown { pattern, kind, number, have: ranges(&have) });
            }
            if seen.contains(&number) {
                return Err(CptError::Twice { pattern, kind, number });
            }
            seen.push(number);
        }
        Ok(())
    }
}

impl Cpt {
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

/// A pattern, taken apart: partition by partition, in order.
#[derive(Debug, PartialEq, Eq)]
struct Pattern {
    nodes: bool,
    groups: Vec<Vec<usize>>,
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

struct Cursor<'a> {
    pattern: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.pattern.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(|c| c.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn take(&mut self, c: u8) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }

    fn err<T>(&self, what: &'static str) -> Result<T, CptError> {
        Err(CptError::Syntax { pattern: self.pattern.to_owned(), what, column: self.at + 1 })
    }

    fn number(&mut self) -> Result<usize, CptError> {
        let mut n = 0usize;
        let start = self.at;
        while let Some(d) = self.peek().filter(u8::is_ascii_digit) {
            n = n * 10 + usize::from(d - b'0');
            if n > NUMBER_MAX {
                return self.err("a number over 65535");
            }
            self.at += 1;
        }
        if self.at == start { self.err("no number") } else { Ok(n) }
    }

    /// What stands between brackets: numbers, ranges, ranges with a stride.
    fn list(&mut self) -> Result<Vec<usize>, CptError> {
        let mut v = Vec::new();
        loop {
            self.blanks();
            let low = self.number()?;
            let high = if self.take(b'-') { self.number()? } else { low };
            if high < low {
                return self.err("a range that ends before it starts");
            }
            let stride = if self.take(b'/') { self.number()? } else { 1 };
            if stride == 0 {
                return self.err("a stride of 0");
            }
            v.extend((low..=high).step_by(stride));
            if v.len() > NUMBER_MAX + 1 {
                return self.err("a list of more than 65536 numbers");
            }
            self.blanks();
            if self.take(b']') {
                return Ok(v);
            }
            if !self.take(b',') {
                return self.err("neither , nor ]");
            }
        }
    }
}

fn parse(pattern: &str) -> Result<Pattern, CptError> {
    let mut c = Cursor { pattern, at: 0 };
    c.blanks();
    let nodes = c.take(b'N') || c.take(b'n');
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    loop {
        c.blanks();
        if c.peek().is_none() {
            break;
        }
        let number = c.number()?;
        c.blanks();
        if !c.take(b'[') {
            return c.err("no [ behind a partition's number");
        }
        groups.push((number, c.list()?));
    }
    let last = groups.len().saturating_sub(1);
    let mut ordered = vec![Vec::new(); groups.len()];
    for (number, list) in groups {
        let bad = |what| CptError::Numbering { pattern: pattern.to_owned(), number, what, last };
        let slot: &mut Vec<usize> = ordered.get_mut(number).ok_or_else(|| bad("out of range"))?;
        if !slot.is_empty() {
            return Err(bad("there twice"));
        }
        *slot = list;
    }
    Ok(Pattern { nodes, groups: ordered })
}

#[cfg(test)]
mod tests;
