//! The run folder, in which nodes have their control sockets: `PID.sock`, in a folder of their user's.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, geteuid, test_kill_process};

/// Folders that are tried, in order.
pub(super) fn dirs() -> Vec<PathBuf> {
    let xdg = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty());
    let mut all: Vec<PathBuf> = xdg.map(|d| Path::new(&d).join("pollnd")).into_iter().collect();
    all.push("/run/pollnd".into());
    all.push(format!("/tmp/pollnd-{}", geteuid().as_raw()).into());
    all
}

/// Longest path of a socket, in bytes (unix(7): 108 with the zero behind it).
const SOCKET_PATH: usize = 107;
/// Longest name of a socket: process numbers have up to seven digits.
const SOCKET_NAME: usize = "/4194304.sock".len();

/// An error for a folder whose path leaves a socket in it no room.
fn too_long(dir: &Path) -> Option<String> {
    let (len, most) = (dir.as_os_str().len(), SOCKET_PATH - SOCKET_NAME);
    (len > most).then(|| {
        format!("{}: its path has {len} bytes, and one with sockets in it at most {most}", dir.display())
    })
}

/// Makes the folder, or says why it may not be used: others must not be able to put sockets there.
fn usable(dir: &Path) -> Result<(), String> {
    if let Some(e) = too_long(dir) {
        return Err(e);
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(format!("{}: {e}", dir.display())),
    }
    let m = fs::symlink_metadata(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    if !m.is_dir() || m.uid() != geteuid().as_raw() || m.mode() & 0o022 != 0 {
        return Err(format!("{}: not a folder that this user alone can write to", dir.display()));
    }
    Ok(())
}

/// The run folder: the first that this user alone can write to.
///
/// # Errors
/// Each folder that was tried, and why it is not used.
pub(super) fn dir() -> Result<PathBuf, String> {
    let mut why = Vec::new();
    for dir in dirs() {
        match usable(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) => why.push(e),
        }
    }
    Err(why.join("; "))
}

/// The path of this process's socket; its folder is there, without sockets of processes that have gone.
///
/// # Errors
/// As [`dir`].
pub(super) fn own() -> Result<PathBuf, String> {
    let dir = dir()?;
    if let Some(e) = dirs().first().and_then(|d| too_long(d)) {
        tracing::warn!(
            "{e}: the control socket is in {} instead, where other commands look, too; set XDG_RUNTIME_DIR to a shorter path",
            dir.display()
        );
    }
    drop(running(&dir));
    Ok(dir.join(format!("{}.sock", std::process::id())))
}

/// Whether there is such a process.
fn lives(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|p| test_kill_process(p) != Err(Errno::SRCH))
}

/// Sockets in `dir` that somebody serves: process number and path. Those that nobody serves are removed.
fn running(dir: &Path) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|e| {
            let path = e.ok()?.path();
            let pid = path.file_name()?.to_str()?.strip_suffix(".sock")?.parse().ok()?;
            match UnixStream::connect(&path) {
                Ok(_) => Some((pid, path)),
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    // Its process was killed. One that lives has it bound, and is about to serve it.
                    if !lives(pid) {
                        let _ = fs::remove_file(&path);
                    }
                    None
                }
                Err(_) => None,
            }
        })
        .collect();
    found.sort_unstable();
    found
}

/// Sockets of all nodes that run and may be asked.
pub(super) fn all() -> Vec<(u32, PathBuf)> {
    dirs().iter().flat_map(|d| running(d)).collect()
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, socket};

    use super::*;

    /// A node that has bound its socket, and does not serve it yet, keeps it; that of one that is gone goes.
    #[test]
    fn sockets_of_processes_that_live_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = child.id();
        child.wait().unwrap();
        let path = |pid: u32| dir.path().join(format!("{pid}.sock"));
        let sockets = [std::process::id(), gone].map(|pid| {
            let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
            bind(&fd, &SocketAddrUnix::new(path(pid)).unwrap()).unwrap();
            fd
        });
        assert_eq!(running(dir.path()), []);
        assert!(path(std::process::id()).exists() && !path(gone).exists());
        drop(sockets);
    }
}
