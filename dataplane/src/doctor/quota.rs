//! CPU quotas of control groups (cgroups): a thread that polls uses them up and is then stopped until the period ends.

use std::fmt;
use std::path::{Path, PathBuf};

use super::text;

/// The tightest CPU quota in force for this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// CPU time in each period, in µs.
    pub quota_us: u64,
    /// The period, in µs.
    pub period_us: u64,
    /// The file that sets it.
    pub file: PathBuf,
}

impl Quota {
    /// For how long `lcores` polling threads are stopped in each period, in µs; `None` if the quota is more than what
    /// they use up.
    pub fn stop_us(&self, lcores: u64) -> Option<u64> {
        let lcores = lcores.max(1);
        (self.quota_us <= lcores.saturating_mul(self.period_us))
            .then(|| self.period_us.saturating_sub(self.quota_us / lcores))
    }

    /// The line that lifts it.
    pub fn remedy(&self) -> String {
        let (file, unlimited) = (self.file.display(), if self.v1() { "-1" } else { "max" });
        format!(
            "lift it: echo {unlimited} > {file}   (as root), or where it was set: CPUQuota= of a systemd unit, --cpus of \
             a container, limits.cpu of a pod"
        )
    }

    fn v1(&self) -> bool {
        self.file.ends_with(QUOTA)
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| us as f64 / 1000.0;
        write!(
            f,
            "{} ms of CPU time in every {} ms ({})",
            ms(self.quota_us),
            ms(self.period_us),
            self.file.display()
        )
    }
}

/// cgroup version 1: in µs, -1 for none.
const QUOTA: &str = "cpu.cfs_quota_us";
const PERIOD: &str = "cpu.cfs_period_us";
/// cgroup version 2: both in µs, `max` for none.
const MAX: &str = "cpu.max";

/// The quota that the control group in `dir` sets, if it does.
fn at(dir: &Path) -> Option<Quota> {
    let quota = |quota: &str, period: &str, file: &str| {
        let (quota_us, period_us) = (quota.parse().ok()?, period.parse().ok().filter(|p| *p > 0)?);
        Some(Quota { quota_us, period_us, file: dir.join(file) })
    };
    if let Some(max) = text(&dir.join(MAX)) {
        let (q, p) = max.split_once(' ')?;
        return quota(q, p.trim(), MAX);
    }
    quota(&text(&dir.join(QUOTA))?, &text(&dir.join(PERIOD))?, QUOTA)
}

/// Folders of this process's control groups with a CPU controller, and the mount that each is in.
fn groups(root: &Path) -> Vec<(PathBuf, PathBuf)> {
    let cgroups = text(&root.join("proc/self/cgroup")).unwrap_or_default();
    let mounts = text(&root.join("proc/self/mountinfo")).unwrap_or_default();
    // Number, controllers, path; version 2 has number 0 and no controllers.
    let path = |v2: bool| {
        cgroups.lines().find_map(|l| {
            let mut w = l.splitn(3, ':');
            let (n, controllers, path) = (w.next()?, w.next()?, w.next()?);
            let is = if v2 {
                n == "0" && controllers.is_empty()
            } else {
                controllers.split(',').any(|c| c == "cpu")
            };
            is.then_some(path)
        })
    };
    let mut v = Vec::new();
    for l in mounts.lines() {
        // Number, parent, device, root of the mount, mount point, options, ..., -, type, source, options.
        let Some((mount, fs)) = l.split_once(" - ") else { continue };
        let (mount, fs): (Vec<_>, Vec<_>) =
            (mount.split_whitespace().collect(), fs.split_whitespace().collect());
        let (&[_, _, _, top, point, ..], &[kind, _, options, ..]) = (&mount[..], &fs[..]) else { continue };
        let v2 = kind == "cgroup2";
        let v1 = kind == "cgroup" && options.split(',').any(|o| o == "cpu");
        let Some(path) = (v1 || v2).then(|| path(v2)).flatten() else { continue };
        // In a container the path may be the host's, or above the mount: the mount's own folder is ours then.
        let rest = path.strip_prefix(top.trim_end_matches('/')).filter(|p| !p.contains(".."));
        let mount = root.join(point.trim_start_matches('/'));
        v.push((mount.join(rest.unwrap_or("").trim_start_matches('/')), mount));
    }
    v
}

/// The tightest CPU quota of this process's control groups and those above them. `root` is `/` but for tests.
pub fn cpu_quota(root: &Path) -> Option<Quota> {
    let mut all: Vec<Quota> = Vec::new();
    for (dir, mount) in groups(root) {
        all.extend(dir.ancestors().take_while(|d| d.starts_with(&mount)).filter_map(at));
    }
    // The least share: a quota over its period, without division.
    all.into_iter().min_by(|a, b| {
        let share = |a: &Quota, b: &Quota| u128::from(a.quota_us) * u128::from(b.period_us);
        share(a, b).cmp(&share(b, a))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field report 13: a tree with these files, and the quota that it has.
    fn quota(files: &[(&str, &str)]) -> Option<(Quota, tempfile::TempDir)> {
        let d = tempfile::tempdir().unwrap();
        for (p, s) in files {
            let p = d.path().join(p);
            std::fs::create_dir_all(p.parent().unwrap()).unwrap();
            std::fs::write(p, s).unwrap();
        }
        cpu_quota(d.path()).map(|q| (q, d))
    }

    const V2: &str =
        "22 1 0:5 / /proc rw - proc proc rw\n30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_tightest_quota_of_the_group_and_those_above_it() {
        let files = [
            ("proc/self/mountinfo", V2),
            ("proc/self/cgroup", "0::/system.slice/pollnd.service\n"),
            ("sys/fs/cgroup/system.slice/pollnd.service/cpu.max", "400000 100000\n"),
            ("sys/fs/cgroup/system.slice/cpu.max", "50000 100000\n"),
        ];
        let (q, d) = quota(&files).unwrap();
        assert_eq!((q.quota_us, q.period_us), (50_000, 100_000));
        assert_eq!(q.file, d.path().join("sys/fs/cgroup/system.slice/cpu.max"));
        assert_eq!([q.stop_us(1), q.stop_us(2)], [Some(50_000), Some(75_000)]);
        assert!(q.to_string().starts_with("50 ms of CPU time in every 100 ms ("), "{q}");
        assert!(q.remedy().contains("echo max > "), "{}", q.remedy());
        let four = Quota { quota_us: 400_000, ..q };
        assert_eq!([1, 3, 4, 8].map(|n| four.stop_us(n)), [None, None, Some(0), Some(50_000)]);
        // None is set.
        let files = [files[0], files[1], ("sys/fs/cgroup/system.slice/cpu.max", "max 100000\n")];
        assert!(quota(&files).is_none());
    }

    #[test]
    fn version_1_and_containers() {
        let v1 = "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  32 30 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n";
        let group = "9:cpuset:/x\n4:cpu,cpuacct:/docker/abc\n0::/\n";
        let dir = "sys/fs/cgroup/cpu,cpuacct/docker/abc";
        let files = [
            ("proc/self/mountinfo", v1),
            ("proc/self/cgroup", group),
            (&format!("{dir}/cpu.cfs_quota_us"), "30000\n"),
            (&format!("{dir}/cpu.cfs_period_us"), "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ];
        let (q, _d) = quota(&files).unwrap();
        assert_eq!(q.stop_us(1), Some(70_000));
        assert!(q.remedy().contains("echo -1 > "), "{}", q.remedy());
        // The path is the host's, the mount is the container's own.
        for (mount, path) in [("/docker/abc", "/docker/abc"), ("/", "/docker/abc"), ("/", "/../abc")] {
            let mounts = format!("30 23 0:26 {mount} /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
            let files = [
                ("proc/self/mountinfo", mounts.as_str()),
                ("proc/self/cgroup", &format!("0::{path}\n")),
                ("sys/fs/cgroup/cpu.max", "150000 100000\n"),
            ];
            assert_eq!(quota(&files).unwrap().0.quota_us, 150_000, "{mount} {path}");
        }
        for broken in ["", "x", "- -", "1 2 3 4 5 - cgroup2", "1 2 3 / /s rw - cgroup2 c rw"] {
            assert!(quota(&[("proc/self/mountinfo", broken), ("proc/self/cgroup", "0::/\n:\n")]).is_none());
        }
    }
}
