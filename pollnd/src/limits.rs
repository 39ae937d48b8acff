//! Limits of the machine for a process: memory, descriptors, threads.

use std::thread::JoinHandle;
use std::{fs, io};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use transport::lnd::Config;
use transport::node::builder;

/// Of the machine's memory, what strangers may make a node hold.
const PART: u64 = 64;
/// Bounds of that for one lcore, in bytes.
const LEAST: u64 = 32 << 20;
const MOST: u64 = 1 << 30;

/// Memory of the machine or of this container, in bytes, where that is told.
fn memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let machine = total(&info)?;
    let container = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    Some(container.and_then(|s| s.trim().parse().ok()).map_or(machine, |c: u64| c.min(machine)))
}

/// The first line of `/proc/meminfo`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

fn share(memory: u64, lcores: u64) -> u64 {
    (memory / PART / lcores.max(1)).clamp(LEAST, MOST)
}

/// Whether the machine has so much memory at all.
///
/// # Errors
/// It has not; `what` asks for it.
pub(crate) fn fits(what: &str, bytes: u64) -> Result<(), String> {
    match memory() {
        Some(m) if bytes > m => Err(format!(
            "{what}: that takes {} MiB of memory, and this machine has {}: give less",
            bytes >> 20,
            m >> 20
        )),
        _ => Ok(()),
    }
}

/// Default of [`Config::budget`] for each of so many lcores, in bytes.
pub(crate) fn budget(lcores: u16) -> u64 {
    memory().map_or(LEAST, |m| share(m, lcores.into()))
}

/// Lets this process have as many descriptors as it may; gives how many that is, where there is a limit.
pub(crate) fn raise() -> Option<u64> {
    let l = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: l.maximum, maximum: l.maximum }) {
        Ok(()) => l.maximum,
        Err(_) => l.current,
    }
}

/// Whether the process may have no more descriptors.
pub(crate) fn none_left(e: &io::Error) -> bool {
    Errno::from_io_error(e) == Some(Errno::MFILE)
}

/// An error, and the remedy where the process has no more descriptors.
pub(crate) fn told(e: &io::Error) -> String {
    if none_left(e) {
        return format!(
            "{e}: this process may have no more descriptors; raise ulimit -n (LimitNOFILE= of the service)"
        );
    }
    e.to_string()
}

/// Descriptors without which the EAL does not start, or aborts: its own files, devices and pages.
#[cfg(feature = "dpdk")]
const EAL_DESCRIPTORS: u64 = 32;

/// Whether the process may have the descriptors of the EAL, which blames something else without them.
///
/// # Errors
/// Their number, and the remedy.
#[cfg(feature = "dpdk")]
pub(crate) fn descriptors_for_eal() -> Result<(), String> {
    match raise() {
        Some(n) if n < EAL_DESCRIPTORS => Err(format!(
            "{n} descriptors are allowed (RLIMIT_NOFILE), and DPDK does not start with fewer than {EAL_DESCRIPTORS}: raise ulimit -n \
             (LimitNOFILE= of the service), or use kernel sockets"
        )),
        _ => Ok(()),
    }
}

/// Starts a thread that does `what`.
///
/// # Errors
/// The kernel's, and the remedy.
pub(crate) fn thread<T: Send + 'static>(
    what: &'static str,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, String> {
    builder::thread(what, f).map_err(|e| e.to_string())
}

/// So many peers are not worth a warning.
const FEW_PEERS: u64 = 1024;
/// Files of a node's own, in which there is some room for its dials, and for who asks it over its control socket.
const OWN: u64 = 64;

/// Lets this process have as many descriptors as it may, and `config` use them for connections. One that serves says where
/// they are fewer than the peers of `config` that may be connected need.
pub(crate) fn descriptors(config: &mut Config, serves: bool) {
    let soft = raise();
    config.max_conns = soft.map_or(usize::MAX, for_conns);
    if let Some((have, peers)) = soft.filter(|_| serves).and_then(|n| short(n, config)) {
        let told = format!(
            "{have} descriptors are allowed (RLIMIT_NOFILE): enough for the connections of {peers} peers, and max_peers is {}; \
             further ones wait until others leave. Raise it: ulimit -Hn, or LimitNOFILE= of the service",
            config.max_peers
        );
        // Few machines have more peers, and most allow some ten thousand descriptors.
        if peers < FEW_PEERS {
            tracing::warn!("{told}");
        } else {
            tracing::info!("{told}");
        }
    }
}

/// Of so many descriptors, those for connections.
fn for_conns(have: u64) -> usize {
    usize::try_from(have - OWN.min(have / 3)).unwrap_or(usize::MAX)
}

/// Descriptors, and for how many peers they are enough, where those are fewer than allowed.
fn short(have: u64, config: &Config) -> Option<(u64, u64)> {
    // Each peer has CONTROL and bulk connections.
    let each = if config.typed_conns { 1 + 2 * u64::from(config.conns()) } else { u64::from(config.conns()) };
    let peers = have.saturating_sub(OWN) / each.max(1);
    (peers < config.max_peers as u64).then_some((have, peers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::wire::Nid;

    #[test]
    fn a_share_of_the_machine_within_bounds() {
        assert_eq!(total("MemTotal:       16000000 kB\nMemFree: 1 kB\n"), Some(16_000_000 << 10));
        assert_eq!(total("nothing"), None);
        assert_eq!(share(16 << 30, 1), 256 << 20);
        assert_eq!(share(16 << 30, 4), 64 << 20);
        assert_eq!((share(1 << 30, 1), share(1 << 40, 1)), (LEAST, MOST));
    }

    /// Field report 4: fewer descriptors than the peers allowed need are said.
    #[test]
    fn descriptors_that_peers_need() {
        let c = Config { conns_per_peer: 1, ..Config::new(Nid::LO, 0) };
        assert_eq!(short(48, &c), Some((48, 0)));
        assert_eq!(short(4096, &c), Some((4096, 1344)));
        assert_eq!(short(1 << 20, &c), None);
        assert_eq!((for_conns(48), for_conns(1024), for_conns(u64::MAX)), (32, 960, usize::MAX - 64));
    }
}
