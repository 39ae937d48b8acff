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

/// What the machine offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Pools, by node, then by page size.
    pub pools: Vec<HugePool>,
    /// Mounted hugetlbfs folders.
    pub mounts: Vec<PathBuf>,
}

/// Why pages could not be reserved.
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
        /// What the kernel said.
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
