//! One process a NID: the lock that it holds while it runs, and the list of peers that it leaves when it is killed.
//!
//! Two processes with one NID would cut each other's connections off: to a peer the second is the first after a restart. So
//! whoever starts a node locks `NID.SCOPE.lock` of each NI in the run folder (flock: a process that is killed holds
//! nothing) and writes its process number and command there. With its NI a NID goes, and its lock: another process may have it. The scope is the network that the NID is of: the network namespace for
//! kernel sockets, the port for a DPDK port.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use transport::wire::Nid;

use super::run_dir;
use crate::args::{CarrierArg, NodeArgs};

/// Peers that are remembered at most.
pub(crate) const PEERS_MAX: usize = 256;
/// Longest list that is read, in bytes.
const LIST_MAX: u64 = 64 << 10;
/// Longest part of a file's name that comes from a port.
const PORT_NAME: usize = 120;

/// NIDs that are ours alone while this value lives.
#[derive(Debug)]
pub(crate) struct Claim {
    /// That of the primary NID.
    lock: Arc<Lock>,
    /// Those of further NIs.
    further: Vec<Claim>,
}

/// The lock of one NID, and the list of peers that is kept beside it.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    peers: PathBuf,
    /// `None` while the node has no NI of that NID.
    held: Mutex<Option<File>>,
}

impl Lock {
    fn held(&self) -> MutexGuard<'_, Option<File>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The NI of the NID was deleted: others may take it. The list of peers goes with it.
    pub(crate) fn release(&self) {
        if let Some(file) = self.held().take() {
            let _ = fs::remove_file(&self.peers);
            self.give_back(file);
        }
    }

    /// The NID is to be an NI's of this node again, `nid` in `scope`.
    ///
    /// # Errors
    /// The process that has it now.
    pub(crate) fn retake(&self, nid: Nid, scope: &str, command: &str) -> Result<(), Holder> {
        let mut held = self.held();
        if held.is_none() {
            *held = take(nid, scope, command)?.and_then(|again| again.lock.held().take());
        }
        Ok(())
    }

    fn give_back(&self, file: File) {
        // While the lock is held: see `take_in`.
        let _ = fs::remove_file(&self.path);
        drop(file);
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(file) = self.held().take() {
            self.give_back(file);
        }
    }
}

/// The holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Process number, where it could be read.
    pub(crate) pid: Option<u32>,
    /// Its command.
    pub(crate) command: String,
}

impl Holder {
    /// Reason why `nid`, which `option` names, may not be used a second time, and the remedy.
    pub(crate) fn refusal(&self, option: &str, nid: Nid) -> String {
        let (who, kill) = match self.pid {
            Some(pid) => (format!(" (process {pid})"), format!("end it (kill {pid})")),
            None => (String::new(), "end it".to_owned()),
        };
        format!(
            "{nid}: `pollnd {}`{who} runs with this NID here, and a second node of it would cut its connections off: wait \
             until it has ended, {kill}, or give {option} another address of this machine",
            self.command
        )
    }
}

/// The network that the NID of `a` is of.
pub(crate) fn scope(a: &NodeArgs) -> String {
    match a.port.first().or(a.vdev.first()) {
        Some(port) if a.carrier != Some(CarrierArg::Sockets) => {
            let plain = |c: char| if c.is_ascii_alphanumeric() || "-._:".contains(c) { c } else { '_' };
            let name: Vec<char> = port.chars().map(plain).collect();
            let tail = name.len().saturating_sub(PORT_NAME);
            format!("port-{}", name.get(tail..).unwrap_or_default().iter().collect::<String>())
        }
        _ => {
            let ns = fs::read_link("/proc/self/ns/net").unwrap_or_default();
            format!("net{}", ns.display().to_string().replace(|c: char| !c.is_ascii_digit(), ""))
        }
    }
}

/// Process numbers in the locks on `nid`, in whatever scope, each with the folder that it is in; some may have ended.
pub(super) fn candidates(nid: Nid) -> Vec<(PathBuf, u32)> {
    let mut all = Vec::new();
    for dir in run_dir::dirs() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for path in entries.flatten().map(|e| e.path()) {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if !name.starts_with(&format!("{nid}.")) || !name.ends_with(".lock") {
                continue;
            }
            let mut who = String::new();
            // Others may have put something there that waits to be written to.
            let mut options = OpenOptions::new();
            let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(&path);
            let read = file.and_then(|f| f.take(256).read_to_string(&mut who));
            let pid = read.ok().and_then(|_| who.split_once(' ')?.0.parse().ok());
            all.extend(pid.map(|pid| (dir.clone(), pid)));
        }
    }
    all
}

/// Takes the NIDs of further NIs beside the primary one's `claim`.
///
/// # Errors
/// One that another process has, with the remedy.
pub(crate) fn further(
    mut claim: Option<Claim>,
    primary: Nid,
    nis: &[Nid],
    scope: &str,
    command: &str,
) -> Result<Option<Claim>, String> {
    let Some(first) = &mut claim else { return Ok(claim) };
    for (i, nid) in nis.iter().enumerate() {
        // One that is named twice is refused as such.
        if *nid == primary || nis.iter().take(i).any(|n| n == nid) {
            continue;
        }
        first.further.extend(take(*nid, scope, command).map_err(|h| h.refusal("--ni", *nid))?);
    }
    Ok(claim)
}

/// Takes `nid` in `scope` for `command`. Without a folder for locks there is none to take, and it is said.
///
/// # Errors
/// The holder.
pub(crate) fn take(nid: Nid, scope: &str, command: &str) -> Result<Option<Claim>, Holder> {
    let taken = match run_dir::dir() {
        Ok(dir) => take_in(&dir, nid, scope, command),
        Err(e) => Err(Refused::Unguarded(e)),
    };
    match taken {
        Ok(c) => Ok(Some(c)),
        Err(Refused::Held(h)) => Err(h),
        Err(Refused::Unguarded(e)) => {
            // The control socket is missing for the same reason, and says so.
            tracing::info!("no lock on {nid}, so a second process with this NID is not noticed: {e}");
            Ok(None)
        }
    }
}

#[derive(Debug)]
enum Refused {
    Held(Holder),
    Unguarded(String),
}

fn take_in(dir: &Path, nid: Nid, scope: &str, command: &str) -> Result<Claim, Refused> {
    let path = dir.join(format!("{nid}.{scope}.lock"));
    let fail = |e: std::io::Error| Refused::Unguarded(format!("{}: {e}", path.display()));
    let mut asked = 0;
    for _ in 0..100 {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {
                // The holder before takes the file away before the lock: then it is another file's name by now.
                let (mine, there) = (file.metadata().map_err(fail)?, fs::metadata(&path));
                if there.is_ok_and(|t| (t.ino(), t.dev()) == (mine.ino(), mine.dev())) {
                    let who = format!("{} {command}\n", std::process::id());
                    file.set_len(0)
                        .and_then(|()| file.rewind())
                        .and_then(|()| file.write_all(who.as_bytes()))
                        .map_err(fail)?;
                    let peers = path.with_extension("peers");
                    let lock = Lock { path, peers, held: Mutex::new(Some(file)) };
                    return Ok(Claim { lock: Arc::new(lock), further: Vec::new() });
                }
            }
            Err(TryLockError::WouldBlock) => {
                let mut who = String::new();
                let _ = file.take(256).read_to_string(&mut who);
                asked += 1;
                // The file may be of the one before, until the new one has written its own.
                if let Some((pid, command)) = who.trim_end().split_once(' ').filter(|_| asked > 3) {
                    let holder = Holder { pid: pid.parse().ok(), command: command.to_owned() };
                    return Err(Refused::Held(holder));
                }
            }
            Err(TryLockError::Error(e)) => return Err(fail(e)),
        }
        // It was given back, or taken, this very moment.
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(Refused::Held(Holder { pid: None, command: String::new() }))
}

impl Claim {
    /// Peers that a process of this NID was connected to when it was killed.
    pub(crate) fn known(&self) -> Vec<Nid> {
        let mut text = String::new();
        if let Ok(f) = File::open(&self.lock.peers) {
            // A list that cannot be read is no list.
            let _ = f.take(LIST_MAX).read_to_string(&mut text);
        }
        text.lines().filter_map(|l| l.parse().ok()).take(PEERS_MAX).collect()
    }

    /// The list of peers of the primary NID.
    pub(crate) fn list(&self) -> List {
        List { lock: self.lock.clone() }
    }

    /// The lock of the primary NID, for whoever deletes its NI.
    pub(crate) fn lock(&self) -> Weak<Lock> {
        Arc::downgrade(&self.lock)
    }
}

/// The list of peers of a NID. It is another process's where its lock is not held.
pub(crate) struct List {
    lock: Arc<Lock>,
}

impl List {
    /// Writes it: as a whole or not at all. It need not outlive the machine.
    ///
    /// # Errors
    /// The file, and what is wrong with it.
    pub(crate) fn write(&self, peers: &[Nid]) -> Result<(), String> {
        let held = self.lock.held();
        if held.is_none() {
            return Ok(());
        }
        let path = &self.lock.peers;
        let new = path.with_extension("peers.new");
        let text: String = peers.iter().take(PEERS_MAX).map(|n| format!("{n}\n")).collect();
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, path))
            .map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Takes it away: all connections were closed in order.
    pub(crate) fn remove(&self) {
        if self.lock.held().is_some() {
            let _ = fs::remove_file(&self.lock.peers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nid(n: u8) -> Nid {
        format!("10.0.0.{n}@tcp").parse().unwrap()
    }

    #[test]
    fn a_nid_is_one_process_s_at_a_time_and_free_when_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let take = |n, scope, command| take_in(dir.path(), nid(n), scope, command);
        let first = take(1, "net1", "node").unwrap();
        let other = [take(2, "net1", "put"), take(1, "net2", "put"), take(1, "port-net_tap0", "get")];
        assert!(other.iter().all(Result::is_ok));
        let Err(Refused::Held(h)) = take(1, "net1", "ping") else { panic!("taken twice") };
        assert_eq!(h, Holder { pid: Some(std::process::id()), command: "node".into() });
        let text = h.refusal("--nid", nid(1));
        assert!(text.contains("10.0.0.1@tcp: `pollnd node` (process "), "{text}");
        assert!(text.contains(&format!("kill {}", std::process::id())) && text.contains("--nid"), "{text}");
        drop(first);
        let again = take(1, "net1", "get").unwrap();
        // One that was killed leaves its file.
        let path = again.lock.path.clone();
        std::mem::forget(again);
        assert!(path.exists());
    }

    /// Its list goes, and is not written while another process may have the NID.
    #[test]
    fn a_nid_whose_ni_was_deleted_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let take = || take_in(dir.path(), nid(1), "net1", "node");
        let first = take().unwrap();
        let (lock, list) = (first.lock().upgrade().unwrap(), first.list());
        list.write(&[nid(2)]).unwrap();
        lock.release();
        assert!(!lock.path.exists() && first.known().is_empty());
        let other = take().unwrap();
        other.list().write(&[nid(3)]).unwrap();
        list.write(&[nid(4)]).unwrap();
        list.remove();
        lock.release();
        assert_eq!((other.known(), other.lock.path.exists()), (vec![nid(3)], true));
        drop((lock, list, first));
        assert!(matches!(take(), Err(Refused::Held(_))), "it is the other's");
    }

    #[test]
    fn many_at_once_and_one_has_it() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..20 {
            let won: Vec<bool> = std::thread::scope(|s| {
                let all: Vec<_> =
                    (0..4).map(|_| s.spawn(|| take_in(dir.path(), nid(1), "net1", "node"))).collect();
                let all: Vec<_> = all.into_iter().map(|t| t.join().unwrap()).collect();
                all.iter().map(Result::is_ok).collect()
            });
            assert_eq!(won.iter().filter(|w| **w).count(), 1, "{won:?}");
        }
    }

    #[test]
    fn the_list_of_peers_outlives_its_process_and_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let claim = take_in(dir.path(), nid(1), "net1", "node").unwrap();
        assert!(claim.known().is_empty());
        let many: Vec<Nid> =
            (0..300u16).map(|n| Nid::tcp([10, 1, (n >> 8) as u8, n as u8].into(), 0)).collect();
        claim.list().write(&many).unwrap();
        drop(claim);
        let claim = take_in(dir.path(), nid(1), "net1", "node").unwrap();
        assert_eq!(claim.known(), many[..PEERS_MAX]);
        fs::write(&claim.lock.peers, "10.0.0.9@tcp\nnonsense\n\n10.0.0.8@tcp").unwrap();
        assert_eq!(claim.known(), [nid(9), nid(8)]);
        claim.list().remove();
        assert!(claim.known().is_empty());
    }
}
