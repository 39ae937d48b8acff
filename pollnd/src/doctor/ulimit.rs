//! Limits of a user's processes: a file that PAM reads at login.

use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::back::Back;
use super::kernel::Kernel;

/// The file, below the root.
pub(crate) const FILE: &str = "etc/security/limits.d/90-pollnd.conf";
/// Descriptors, as the service has them.
const DESCRIPTORS: u64 = 1 << 20;

/// Locked memory and descriptors of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    pub(crate) user: String,
    /// Most descriptors that the kernel lets a process have.
    pub(crate) descriptors: u64,
}

impl Limits {
    /// For `user`, where the kernel allows so many descriptors.
    pub(crate) fn new(user: &str, most: Option<u64>) -> Limits {
        Limits { user: user.to_owned(), descriptors: most.unwrap_or(DESCRIPTORS).min(DESCRIPTORS) }
    }

    /// The whole file.
    pub(crate) fn text(&self) -> String {
        let Limits { user, descriptors } = self;
        format!(
            "# pollnd doctor --fix: vfio pins the memory of a node, and each connection over kernel sockets is a descriptor.\n\
             # pollnd doctor --undo removes this file.\n\
             {user} - memlock unlimited\n\
             {user} - nofile {descriptors}\n"
        )
    }

    pub(super) fn commands(&self) -> Vec<String> {
        let lines = self.text();
        let lines = lines.lines().filter(|l| !l.starts_with('#'));
        lines
            .enumerate()
            .map(|(i, l)| format!("echo '{l}' {} /{FILE}", if i == 0 { ">" } else { ">>" }))
            .collect()
    }

    pub(super) fn apply(&self, k: &dyn Kernel) -> Result<(), String> {
        write_new(&k.at(FILE), &self.text())
    }

    pub(super) fn undo(&self, k: &dyn Kernel) -> Back {
        let path = k.at(FILE);
        // Of a process that was killed while it wrote.
        let _ = fs::remove_file(half(&path));
        match fs::read_to_string(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Back::Undone(format!("no /{FILE} is there")),
            Err(e) => Back::NotNow(format!("/{FILE}: {e}")),
            Ok(t) if t == self.text() => match fs::remove_file(&path) {
                Ok(()) => Back::Undone(format!("/{FILE} is removed; logins from before keep their limits")),
                Err(e) => Back::NotNow(format!("/{FILE}: {e}")),
            },
            Ok(_) => {
                Back::Left(format!("/{FILE} has been changed since: remove it by hand if it is of no use"))
            }
        }
    }
}

/// The file as long as it is being written; PAM reads what ends with `.conf`.
fn half(path: &Path) -> PathBuf {
    path.with_extension("half")
}

/// Writes a file that is whole or not there, and never another's.
fn write_new(path: &Path, text: &str) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    let half = half(path);
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(fail)?;
    let mut f = File::create(&half).map_err(fail)?;
    f.write_all(text.as_bytes()).and_then(|()| f.sync_all()).map_err(fail)?;
    let linked = fs::hard_link(&half, path);
    fs::remove_file(&half).map_err(fail)?;
    linked.map_err(fail)?;
    File::open(folder).and_then(|d| d.sync_all()).map_err(fail)
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "let processes of {} lock memory and have {} descriptors, from the next login on (the service has its own: \
             LimitMEMLOCK, LimitNOFILE)",
            self.user, self.descriptors
        )
    }
}
