//! Huge pages of 2 MiB, reserved on one NUMA node.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::back::Back;
use super::kernel::Kernel;

/// KiB of a page.
pub(crate) const PAGE_KIB: u64 = 2048;

/// More huge pages on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HugePages {
    /// NUMA node; none where the kernel has one pool for the machine.
    pub(crate) node: Option<u32>,
    /// Pages that there were, and of them free ones.
    pub(crate) before: u64,
    pub(crate) free: u64,
    /// Pages that there are to be.
    pub(crate) want: u64,
}

impl HugePages {
    fn file(&self) -> String {
        let pool = format!("hugepages-{PAGE_KIB}kB/nr_hugepages");
        match self.node {
            Some(n) => format!("sys/devices/system/node/node{n}/hugepages/{pool}"),
            None => format!("sys/kernel/mm/hugepages/{pool}"),
        }
    }

    fn path(&self, k: &dyn Kernel) -> PathBuf {
        k.at(&self.file())
    }

    /// Pages that are reserved; and those beyond them that are in use and go when they are freed, which the kernel counts
    /// among the former.
    fn counts(&self, k: &dyn Kernel) -> Option<(u64, u64)> {
        let path = self.path(k);
        let read = |p: &Path| fs::read_to_string(p).ok()?.trim().parse::<u64>().ok();
        let surplus = read(&path.with_file_name("surplus_hugepages")).unwrap_or(0);
        Some((read(&path)?.saturating_sub(surplus), surplus))
    }

    fn there(&self, k: &dyn Kernel) -> Option<u64> {
        Some(self.counts(k)?.0)
    }

    /// So many more pages on a node, of which `free` are free; `None` where there is no such pool.
    pub(super) fn more(k: &dyn Kernel, node: Option<u32>, free: u64, more: u64) -> Option<HugePages> {
        let step = HugePages { node, before: 0, free, want: 0 };
        let before = step.there(k)?;
        Some(HugePages { before, want: before + more, ..step })
    }

    pub(super) fn commands(&self) -> Vec<String> {
        vec![format!("echo {} > /{}", self.want, self.file())]
    }

    pub(super) fn apply(&self, k: &dyn Kernel) -> Result<(), String> {
        let there = self.there(k);
        if there != Some(self.before) {
            let now = there.map_or("none can be read".into(), |n| format!("{n} pages are there now"));
            return Err(format!("/{}: {now}, not {}: look again", self.file(), self.before));
        }
        k.told(&self.path(k), &self.want.to_string())?;
        if self.there(k) < Some(self.want) {
            // Free memory may only be in pieces: the kernel moves pages together where it is told to.
            let compact = k.at("proc/sys/vm/compact_memory");
            if compact.exists() {
                k.told(&compact, "1")?;
            }
            k.told(&self.path(k), &self.want.to_string())?;
        }
        let got = self.there(k).unwrap_or(0);
        if got >= self.want {
            return Ok(());
        }
        Err(format!(
            "the kernel reserved {} of {} huge pages of 2 MiB{}, {} MiB are missing: free memory is short, or in pieces even \
             after /proc/sys/vm/compact_memory; end what takes memory, ask for less (--huge-pages), or reserve them at boot \
             (hugepages={} on the kernel's command line)",
            got.saturating_sub(self.before),
            self.want - self.before,
            on(self.node),
            (self.want - got) * PAGE_KIB / 1024,
            self.want,
        ))
    }

    pub(super) fn undo(&self, k: &dyn Kernel, finished: bool) -> Back {
        let Some(now) = self.there(k) else {
            return Back::Left(format!("/{} cannot be read any more", self.file()));
        };
        if now == self.before {
            return Back::Undone(format!("{now} pages{}, as before", on(self.node)));
        }
        let ours = if finished { now == self.want } else { (self.before..=self.want).contains(&now) };
        if !ours {
            return Back::Left(format!(
                "somebody has set another number of pages since ({now}, not {}): to go back to {}: echo {} > /{}",
                self.want,
                self.before,
                self.before,
                self.file()
            ));
        }
        if let Err(e) = k.told(&self.path(k), &self.before.to_string()) {
            return Back::NotNow(e);
        }
        match self.counts(k) {
            Some((n, 0)) if n == self.before => {
                Back::Undone(format!("{n} pages{}, as before", on(self.node)))
            }
            Some((n, used)) if n == self.before => Back::Undone(format!(
                "{n} pages{}, as before; {used} more are in use, and go when they are freed",
                on(self.node)
            )),
            n => Back::NotNow(format!("the kernel keeps {} pages{}", n.unwrap_or_default().0, on(self.node))),
        }
    }
}

/// ` on node 0`, or nothing where there are no nodes.
fn on(node: Option<u32>) -> String {
    node.map_or_else(String::new, |n| format!(" on node {n}"))
}

impl fmt::Display for HugePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = self.want - self.before;
        write!(
            f,
            "reserve {more} more huge pages of 2 MiB{} ({} MiB; {} are there, {} of them free)",
            on(self.node),
            more * PAGE_KIB / 1024,
            self.before,
            self.free
        )
    }
}
