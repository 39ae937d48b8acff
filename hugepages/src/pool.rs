//! Huge-page pools of the machine: what there is, how to reserve, what to tell the user.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One pool: the pages of one size on one NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugePool {
    /// Page size in bytes.
    pub page_size: u64,
    /// NUMA node, or `None` where the kernel gives machine-wide numbers only.
    pub node: Option<u32>,
    /// Pages reserved.
    pub total: u64,
    /// Pages reserved and unused.
    pub free: u64,
}

/// Huge pages of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Pools, by node, then by page size.
    pub pools: Vec<HugePool>,
    /// Mounted hugetlbfs folders.
    pub mounts: Vec<PathBuf>,
}

/// Errors of reserving pages.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// The kernel has no pool of this size.
    #[error("this kernel has no huge pages of {0} KiB: see /sys/kernel/mm/hugepages")]
    NoPool(u64),
    /// The file could not be written.
    #[error("cannot reserve huge pages in {path}: {source}; as root: echo {want} > {path}")]
    Write {
        /// The pool's file.
        path: PathBuf,
        /// Pages wanted in all.
        want: u64,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel reserved fewer: memory is fragmented or short.
    #[error(
        "the kernel reserved {got} of {want} huge pages: free memory is short or fragmented; reserve at boot with hugepages={want}"
    )]
    Short {
        /// Pages wanted in all.
        want: u64,
        /// Pages there are.
        got: u64,
    },
}

fn read_u64(p: &Path) -> Option<u64> {
    fs::read_to_string(p).ok()?.trim().parse().ok()
}

fn pools_in(dir: &Path, node: Option<u32>) -> Vec<HugePool> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut v: Vec<_> = entries
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let total = read_u64(&e.path().join("nr_hugepages"))?;
            let free = read_u64(&e.path().join("free_hugepages"))?;
            Some(HugePool { page_size: kib * 1024, node, total, free })
        })
        .collect();
    v.sort_by_key(|p| p.page_size);
    v
}

/// Looks at the machine. `root` is `/` but for tests.
pub fn discover(root: &Path) -> Inventory {
    let mut pools = Vec::new();
    let nodes = root.join("sys/devices/system/node");
    let mut ids: Vec<u32> = fs::read_dir(&nodes)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok()?.strip_prefix("node")?.parse().ok())
        .collect();
    ids.sort_unstable();
    for id in ids {
        pools.extend(pools_in(&nodes.join(format!("node{id}/hugepages")), Some(id)));
    }
    if pools.is_empty() {
        pools = pools_in(&root.join("sys/kernel/mm/hugepages"), None);
    }
    let mounts = fs::read_to_string(root.join("proc/mounts")).unwrap_or_default();
    let mounts = mounts
        .lines()
        .filter_map(|l| {
            let mut w = l.split(' ');
            let (_, dir, kind) = (w.next()?, w.next()?, w.next()?);
            (kind == "hugetlbfs").then(|| PathBuf::from(dir))
        })
        .collect();
    Inventory { pools, mounts }
}

impl Inventory {
    /// Free huge memory of pages of `page_size` bytes, in bytes, over all nodes.
    pub fn free_bytes(&self, page_size: u64) -> u64 {
        self.pools.iter().filter(|p| p.page_size == page_size).map(|p| p.free * p.page_size).sum()
    }
}

/// Huge memory that this process can have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usable {
    /// Pages of all sizes that are free on the machine, in bytes.
    pub free: u64,
    /// Of those, what this process may take, in bytes.
    pub bytes: u64,
    /// Limits that keep the rest from it, each by its name.
    pub limits: Vec<String>,
}

/// Numbers of a list such as `0-3,7`.
fn listed(list: &str) -> Vec<u32> {
    let part = |p: &str| -> Option<std::ops::RangeInclusive<u32>> {
        let (a, b) = p.split_once('-').unwrap_or((p, p));
        Some(a.trim().parse().ok()?..=b.trim().parse::<u32>().ok()?.min(1023))
    };
    list.split(',').filter_map(part).flatten().collect()
}

/// The kernel's name of a page size in cgroup files: `2MB`, `1GB`.
fn size_name(bytes: u64) -> String {
    match (bytes >> 30, bytes >> 20) {
        (g, _) if g > 0 => format!("{g}GB"),
        (0, m) if m > 0 => format!("{m}MB"),
        _ => format!("{}KB", bytes >> 10),
    }
}

/// Folders of the cgroups that limit huge pages for this process, the innermost first, and whether they are of cgroup v1.
/// A process in a container may be told of a path that lies above what is mounted there: then the mount itself counts.
fn cgroups(root: &Path) -> Vec<(PathBuf, bool)> {
    let read = |p: &str| fs::read_to_string(root.join(p)).unwrap_or_default();
    let (mine, mounts) = (read("proc/self/cgroup"), read("proc/self/mounts"));
    let mut all = Vec::new();
    for line in mine.lines() {
        let mut w = line.splitn(3, ':');
        let (Some(_), Some(kinds), Some(path)) = (w.next(), w.next(), w.next()) else { continue };
        let v1 = kinds.split(',').any(|k| k == "hugetlb");
        if !v1 && !kinds.is_empty() {
            continue;
        }
        let mounted = mounts.lines().find_map(|l| {
            let w: Vec<_> = l.split(' ').collect();
            let [_, at, kind, options, ..] = w[..] else { return None };
            let fits = if v1 {
                kind == "cgroup" && options.split(',').any(|o| o == "hugetlb")
            } else {
                kind == "cgroup2"
            };
            fits.then(|| root.join(at.trim_start_matches('/')))
        });
        let Some(top) = mounted else { continue };
        let mut at = top.join(path.trim_start_matches('/'));
        if !at.is_dir() {
            at.clone_from(&top);
        }
        while at.starts_with(&top) {
            all.push((at.clone(), v1));
            if !at.pop() {
                break;
            }
        }
    }
    all
}

/// The least room that limits on pages of `size` leave, in bytes, and which limit that is.
fn cgroup_room(root: &Path, size: u64) -> Option<(u64, String)> {
    let name = size_name(size);
    let v2 = [("max", "current"), ("rsvd.max", "rsvd.current")];
    let v1 = [("limit_in_bytes", "usage_in_bytes"), ("rsvd.limit_in_bytes", "rsvd.usage_in_bytes")];
    let one = |dir: &Path, (limit, used): (&str, &str)| {
        let file = |f: &str| dir.join(format!("hugetlb.{name}.{f}"));
        // "max" is no number, and no limit.
        let most = read_u64(&file(limit))?;
        let room = most.saturating_sub(read_u64(&file(used)).unwrap_or(0));
        Some((room, format!("{} allows {} MiB more", file(limit).display(), room >> 20)))
    };
    let dirs = cgroups(root);
    let all = dirs.iter().flat_map(|(d, old)| (if *old { v1 } else { v2 }).map(|f| one(d, f)));
    all.flatten().min_by_key(|r| r.0)
}

/// Looks at what this process can have of the free pages: others have reserved some (`resv_hugepages`), its cgroup limits
/// it, or it may not use memory of every NUMA node. `root` is `/` but for tests.
pub fn usable(root: &Path) -> Usable {
    let pools = discover(root).pools;
    let status = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
    let allowed = status.lines().find_map(|l| l.strip_prefix("Mems_allowed_list:")).map(listed);
    let mut u = Usable::default();
    let mut sizes: Vec<u64> = pools.iter().map(|p| p.page_size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for size in sizes {
        let of_size = || pools.iter().filter(|p| p.page_size == size);
        let bytes = |p: &HugePool| p.free * p.page_size;
        let free: u64 = of_size().map(bytes).sum();
        u.free += free;
        let near = |p: &&HugePool| p.node.is_none_or(|n| allowed.as_ref().is_none_or(|a| a.contains(&n)));
        let mut left: u64 = of_size().filter(near).map(bytes).sum();
        let name = size_name(size);
        if left < free {
            u.limits.push(format!(
                "{} MiB of {name} pages are on NUMA nodes that this process may not use (cpuset.mems)",
                (free - left) >> 20
            ));
        }
        let file = root.join(format!("sys/kernel/mm/hugepages/hugepages-{}kB/resv_hugepages", size >> 10));
        let reserved = read_u64(&file).unwrap_or(0) * size;
        if reserved > 0 && left > 0 {
            u.limits.push(format!(
                "{} MiB of {name} pages are reserved by other programs ({})",
                reserved >> 20,
                file.display()
            ));
            left = left.min(free.saturating_sub(reserved));
        }
        if let Some((room, what)) = cgroup_room(root, size).filter(|r| r.0 < left) {
            u.limits.push(what);
            left = room;
        }
        u.bytes += left;
    }
    u
}

/// Makes the machine-wide pool of `page_size`-byte pages at least `want` pages large; never shrinks it.
/// Returns the pages there are. `root` is `/` but for tests.
///
/// # Errors
/// [`ReserveError`] names the file, what the kernel said, and the line that an administrator runs.
pub fn reserve(root: &Path, page_size: u64, want: u64) -> Result<u64, ReserveError> {
    let path = root.join(format!("sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages", page_size / 1024));
    let have = read_u64(&path).ok_or(ReserveError::NoPool(page_size / 1024))?;
    if have >= want {
        return Ok(have);
    }
    fs::write(&path, want.to_string()).map_err(|source| ReserveError::Write {
        path: path.clone(),
        want,
        source,
    })?;
    let got = read_u64(&path).unwrap_or(0);
    if got < want { Err(ReserveError::Short { want, got }) } else { Ok(got) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let d = tempfile::tempdir().unwrap();
        for (p, s) in files {
            let p = d.path().join(p);
            fs::create_dir_all(p.parent().unwrap()).unwrap();
            fs::write(p, s).unwrap();
        }
        d
    }

    const G: &str = "sys/kernel/mm/hugepages/hugepages-2048kB";

    #[test]
    fn pools_are_found_a_node_each_and_mounts_by_type() {
        let n = "sys/devices/system/node";
        let d = tree(&[
            (&format!("{n}/node1/hugepages/hugepages-2048kB/nr_hugepages"), "4\n"),
            (&format!("{n}/node1/hugepages/hugepages-2048kB/free_hugepages"), "3\n"),
            (&format!("{n}/node0/hugepages/hugepages-1048576kB/nr_hugepages"), "1\n"),
            (&format!("{n}/node0/hugepages/hugepages-1048576kB/free_hugepages"), "1\n"),
            ("proc/mounts", "proc /proc proc rw 0 0\nnodev /dev/hugepages hugetlbfs rw 0 0\n"),
        ]);
        let h = discover(d.path());
        assert_eq!(
            h.pools,
            [
                HugePool { page_size: 1 << 30, node: Some(0), total: 1, free: 1 },
                HugePool { page_size: 2 << 20, node: Some(1), total: 4, free: 3 },
            ]
        );
        assert_eq!(h.mounts, [PathBuf::from("/dev/hugepages")]);
        assert_eq!(h.free_bytes(2 << 20), 6 << 20);
    }

    #[test]
    fn without_nodes_the_machine_wide_pool_counts_and_nothing_at_all_is_no_error() {
        let d = tree(&[(&format!("{G}/nr_hugepages"), "8"), (&format!("{G}/free_hugepages"), "8")]);
        assert_eq!(discover(d.path()).pools[0].node, None);
        assert_eq!(discover(Path::new("/nonexistent")), Inventory::default());
    }

    const N: &str = "sys/devices/system/node";

    /// 8 pages of 2 MiB free on each of two nodes, and `more`.
    fn machine(more: &[(&str, &str)]) -> tempfile::TempDir {
        let pool = |n| format!("{N}/node{n}/hugepages/hugepages-2048kB");
        let files = [0, 1]
            .map(|n| [format!("{}/nr_hugepages", pool(n)), format!("{}/free_hugepages", pool(n))])
            .concat();
        let files: Vec<_> = files.iter().map(|f| (f.as_str(), "8\n")).collect();
        tree(&[&files[..], more].concat())
    }

    #[test]
    fn report_8_pages_that_others_have_reserved_or_that_lie_on_foreign_nodes_are_not_ours() {
        let all = Usable { free: 32 << 20, bytes: 32 << 20, limits: Vec::new() };
        assert_eq!(usable(machine(&[]).path()), all);
        let d = machine(&[(&format!("{G}/resv_hugepages"), "5\n")]);
        let u = usable(d.path());
        assert_eq!((u.free, u.bytes, u.limits.len()), (32 << 20, 22 << 20, 1));
        assert!(
            u.limits[0].contains("10 MiB of 2MB pages are reserved")
                && u.limits[0].contains("resv_hugepages")
        );
        let d = machine(&[("proc/self/status", "Name:\tx\nMems_allowed_list:\t1\n")]);
        let u = usable(d.path());
        assert_eq!((u.bytes, u.limits.len()), (16 << 20, 1));
        assert!(u.limits[0].contains("cpuset.mems"));
        assert_eq!(usable(Path::new("/nonexistent")), Usable::default());
    }

    #[test]
    fn report_8_the_cgroups_limit_counts_in_either_version_and_from_any_level() {
        let v2 = ("proc/self/mounts", "cg /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n");
        let max = |f: &'static str, v: &'static str| (f, v);
        for (files, room, named) in [
            // Nothing allowed, as in a pod that asked for none.
            (vec![max("sys/fs/cgroup/a/b/hugetlb.2MB.max", "0\n")], 0, "a/b/hugetlb.2MB.max allows 0 MiB"),
            // A level above; 6 MiB are in use there.
            (
                vec![
                    max("sys/fs/cgroup/a/hugetlb.2MB.max", "16777216"),
                    max("sys/fs/cgroup/a/hugetlb.2MB.current", "6291456"),
                ],
                10 << 20,
                "a/hugetlb.2MB.max allows 10 MiB",
            ),
            (vec![max("sys/fs/cgroup/a/b/hugetlb.2MB.rsvd.max", "2097152")], 2 << 20, "hugetlb.2MB.rsvd.max"),
            (vec![max("sys/fs/cgroup/a/b/hugetlb.2MB.max", "max\n")], 32 << 20, ""),
        ] {
            let base = [("proc/self/cgroup", "0::/a/b\n"), v2, ("sys/fs/cgroup/a/b/cgroup.procs", "")];
            let d = machine(&[&base[..], &files[..]].concat());
            let u = usable(d.path());
            assert_eq!(u.bytes, room, "{files:?}");
            assert_eq!(u.limits.len(), usize::from(!named.is_empty()), "{u:?}");
            assert!(u.limits.iter().all(|l| l.contains(named)), "{u:?}");
        }
        let d = machine(&[
            ("proc/self/cgroup", "4:cpu:/x\n3:hugetlb:/far/above\n"),
            ("proc/self/mounts", "cg /sys/fs/cgroup/hugetlb cgroup rw,hugetlb 0 0\n"),
            ("sys/fs/cgroup/hugetlb/hugetlb.2MB.limit_in_bytes", "4194304\n"),
        ]);
        let u = usable(d.path());
        assert_eq!(u.bytes, 4 << 20, "{u:?}");
        assert_eq!([1 << 30, 2 << 20, 64 << 10].map(size_name), ["1GB", "2MB", "64KB"]);
    }

    #[test]
    fn reserve_grows_never_shrinks_and_names_the_remedy() {
        let d = tree(&[(&format!("{G}/nr_hugepages"), "8\n")]);
        assert_eq!(reserve(d.path(), 2 << 20, 4).unwrap(), 8);
        assert_eq!(reserve(d.path(), 2 << 20, 64).unwrap(), 64);
        let e = reserve(d.path(), 1 << 30, 1).unwrap_err().to_string();
        assert!(e.contains("1048576 KiB"), "{e}");
        let e = ReserveError::Write { path: "/p".into(), want: 9, source: io::Error::from_raw_os_error(13) };
        assert!(e.to_string().contains("echo 9 > /p"), "{e}");
    }
}
