//! Two ports of one process, joined: vhost on one side, virtio_user on the other. It needs no NIC, no privilege
//! beyond a folder for the socket, and has a real NIC's offloads: checksums, TSO, LRO.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::eal::Eal;
use super::port::EthPort;
use super::port_config::{PortConfig, PortError};
use super::sockdir;
use super::spec::PortSpec;

/// Configuration of the pair.
#[derive(Clone, Debug)]
pub struct PairConfig {
    /// Both ends; `queues`, `rx_desc` and `tx_desc` count for both.
    pub port: PortConfig,
    /// Descriptors of each virtio ring: a power of two, at most 32768. Small rings cost speed.
    pub queue_size: u16,
    /// Let 64 KiB super-segments cross whole.
    pub tso: bool,
    /// Packed rings instead of split ones.
    pub packed: bool,
}

impl Default for PairConfig {
    fn default() -> PairConfig {
        let port = PortConfig { mtu: 9000, ..PortConfig::default() };
        PairConfig { port, queue_size: 1024, tso: true, packed: false }
    }
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// Sockets of pairs that this process has made. Locked while one is made: whoever leaves then waits, and takes it away.
static MADE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Takes away what a process that ends now would leave behind: sockets of its pairs, and the EAL's run-time folder. For whoever is
/// about to be killed by a signal; ports that are closed and an EAL that is stopped leave nothing.
pub fn leave_nothing() {
    let made = made();
    for path in made.iter() {
        // Best effort: mostly the driver has taken it away.
        let _ = std::fs::remove_file(path);
    }
    // No other is made until the process has ended.
    std::mem::forget(made);
    super::eal::remove_runtime_dir();
}

fn made() -> MutexGuard<'static, Vec<PathBuf>> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of the folder's path up to which it is named as it is.
const PLAIN_MAX: usize = 24;

/// The pair's socket as both devices name it, and what keeps the name good.
fn socket(dir: &Path, n: u32, made: &mut Vec<PathBuf>) -> Result<(String, Option<OwnedFd>), PortError> {
    let path = dir.join(format!("pollnd-{}-{n}.sock", std::process::id()));
    // DPDK says of a folder that cannot be written that the driver refuses its configuration (field report 10).
    let cannot = |e: std::io::Error, remedy| PortError::NotFound {
        port: path.to_string_lossy().into_owned(),
        errno: e.to_string(),
        remedy,
    };
    made.push(path.clone());
    if dir.is_dir() {
        std::fs::File::create(&path).and_then(|_| std::fs::remove_file(&path)).map_err(|e| {
            cannot(e, "its socket has to be made there: set TMPDIR to a folder that can be written")
        })?;
    }
    let s = path.to_string_lossy();
    // Commas end an argument of a virtual device.
    if dir.as_os_str().len() <= PLAIN_MAX && !s.contains(',') && dir.is_dir() {
        return Ok((s.into_owned(), None));
    }
    sockdir::short(&path)
        .map(|(s, folder)| (s, Some(folder)))
        .map_err(|e| cannot(e, "its folder has to exist: set TMPDIR to one that does"))
}

/// A locally administered address for the virtio end; vhost ports have fixed ones of their own.
fn mac(pid: u32, n: u32) -> String {
    let [_, _, p1, p0] = pid.to_be_bytes();
    let [.., n0] = n.to_be_bytes();
    format!("02:70:6e:{p1:02x}:{p0:02x}:{n0:02x}")
}

/// Makes the pair: (net_vhost, net_virtio_user), both started, the link up.
///
/// The vhost side goes first, since the virtio side connects to its socket when it is probed; EAL arguments alone
/// cannot do that in one process. Close the virtio end first: it has to tell the vhost end.
///
/// # Errors
/// [`PortError`]; nothing stays open then.
pub fn virtio_pair(eal: &Eal, folder: &Path, config: &PairConfig) -> Result<(EthPort, EthPort), PortError> {
    let n = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut made = made();
    let (path, open) = socket(folder, n, &mut made)?;
    let c = &config.port;
    let tso = u8::from(config.tso);
    let vhost = PortSpec::Vdev {
        name: format!("net_vhost{n}"),
        args: format!("iface={path},queues={},tso={tso}", c.queues),
    };
    let virtio = PortSpec::Vdev {
        name: format!("net_virtio_user{n}"),
        args: format!(
            "path={path},queues={},queue_size={}{},mac={}",
            c.queues,
            config.queue_size,
            if config.packed { ",packed_vq=1" } else { "" },
            mac(std::process::id(), n)
        ),
    };
    let mut a = EthPort::open(eal, &vhost, &PortConfig { silent_tso: config.tso, ..c.clone() })?;
    drop(made);
    let b = EthPort::open(eal, &virtio, c)?;
    // The socket is the vhost end's, which is closed last.
    a.folder = open;
    for p in [&a, &b] {
        if !p.wait_link(Duration::from_secs(5)) {
            return Err(PortError::Call {
                port: p.name().into(),
                call: "waiting for the link",
                errno: "still down after 5 s".into(),
                remedy: "with huge pages the EAL needs --single-file-segments; look at the log lines above",
            });
        }
    }
    Ok((a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_10_a_folder_that_takes_no_socket_is_named_with_the_variable_that_names_it() {
        for folder in ["/proc", "/no/such/folder"] {
            let e = socket(Path::new(folder), 0, &mut Vec::new()).unwrap_err().to_string();
            assert!(e.contains(folder) && e.contains("TMPDIR"), "{e}");
        }
    }
}
