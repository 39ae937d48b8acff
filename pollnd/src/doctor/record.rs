//! The record of what was done to a machine: written before each step and after it, so that a crash anywhere leaves what
//! is needed to take all of it back.
//!
//! ```text
//!            Begin            Finish
//!   PLANNED ───────> BEGUN ───────────> DONE
//!                      │ TakeBack        │ TakeBack
//!                      ├────────────────>├──────────> UNDONE
//!                      │ LetBe           │ LetBe
//!                      └────────────────>└──────────> LEFT (it can no longer be taken back)
//! ```
//!
//! On disk are steps that are BEGUN or DONE, and nothing once there are none.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fsm::Fsm;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::step::Step;
use crate::file;

fsm::fsm! {
    /// State of a step.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub(crate) enum State {
        /// Nothing has been done.
        Planned,
        /// A part of it may have been done.
        Begun,
        Done,
        /// It has been taken back.
        Undone,
        /// It can no longer be taken back.
        Left,
    }

    /// Events of a step.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Event {
        Begin,
        Finish,
        TakeBack,
        LetBe,
    }

    table State + Event {
        start Planned;
        else "nothing changes";
        Planned + Begin => Begun;
        Begun + Finish => Done;
        Begun | Done + TakeBack => Undone;
        Begun | Done + LetBe => Left;
    }
}

/// Folder of the record, unless systemd or a test names another.
const FOLDER: &str = "/var/lib/pollnd";
const NAME: &str = "fix.json";
/// Form of the file.
const VERSION: u32 = 1;

/// A step and its state.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) step: Step,
    /// The boot of the machine in which it was done.
    pub(crate) boot: String,
    pub(crate) state: Fsm<State>,
}

/// An entry as the file has it.
#[derive(Serialize, Deserialize)]
struct Line {
    state: State,
    boot: String,
    step: Step,
}

#[derive(Serialize, Deserialize)]
struct Lines {
    version: u32,
    steps: Vec<Line>,
}

/// The record, which is this process's alone while the value lives.
pub(crate) struct Record {
    path: PathBuf,
    folder: File,
    pub(crate) entries: Vec<Entry>,
}

/// Folder of the record.
pub(crate) fn folder() -> PathBuf {
    let named = std::env::var_os("STATE_DIRECTORY").filter(|d| !d.is_empty());
    named.map_or_else(|| FOLDER.into(), PathBuf::from)
}

/// The boot that this is: other numbers after each.
pub(crate) fn boot(root: &Path) -> String {
    let id = fs::read_to_string(root.join("proc/sys/kernel/random/boot_id"));
    id.unwrap_or_default().trim().to_owned()
}

impl Entry {
    pub(crate) fn new(step: Step, boot: &str) -> Entry {
        Entry { step, boot: boot.to_owned(), state: Fsm::START }
    }

    /// Whether there is something to take back.
    pub(crate) fn stands(&self) -> bool {
        matches!(self.state.get(), State::Begun | State::Done)
    }

    fn of(l: Line) -> Entry {
        let mut e = Entry::new(l.step, &l.boot);
        let events: &[Event] = match l.state {
            State::Planned | State::Undone | State::Left => &[],
            State::Begun => &[Event::Begin],
            State::Done => &[Event::Begin, Event::Finish],
        };
        for v in events {
            e.state.apply(*v);
        }
        e
    }
}

impl Record {
    /// Reads the record in `folder`, which is made.
    ///
    /// # Errors
    /// The folder or the file cannot be had, or is not this user's alone; another process has them.
    pub(crate) fn open(folder: &Path) -> Result<Record, String> {
        let path = folder.join(NAME);
        let fail = |e: std::io::Error| format!("{}: {e}", folder.display());
        DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(fail)?;
        let lock = File::open(folder).map_err(fail)?;
        own(folder, &lock.metadata().map_err(fail)?)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(format!(
                    "{}: another `pollnd doctor` is at work: wait until it has ended",
                    path.display()
                ));
            }
            Err(TryLockError::Error(e)) => return Err(fail(e)),
        }
        let entries = match fs::symlink_metadata(&path) {
            Ok(m) => own(&path, &m).and_then(|()| text(&path)).and_then(|t| {
                read(&t).map_err(|e| {
                    format!(
                        "{}: {e}; it says what to take back, so look at it, then move it away",
                        path.display()
                    )
                })
            })?,
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(format!("{}: {e}", path.display())),
        };
        Ok(Record { path, folder: lock, entries })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it: the file that is there is whole, before and after, and on disk when this returns.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn save(&mut self) -> Result<(), String> {
        self.entries.retain(Entry::stands);
        let written = if self.entries.is_empty() { self.remove() } else { self.replace() };
        written.and_then(|()| self.folder.sync_all()).map_err(|e| format!("{}: {e}", self.path.display()))
    }

    fn remove(&self) -> std::io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn replace(&self) -> std::io::Result<()> {
        let line = |e: &Entry| Line { state: e.state.get(), boot: e.boot.clone(), step: e.step.clone() };
        let all = Lines { version: VERSION, steps: self.entries.iter().map(line).collect() };
        let half = self.path.with_extension("json.half");
        let mut f = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&half)?;
        f.write_all(&serde_json::to_vec_pretty(&all)?)?;
        f.sync_all()?;
        fs::rename(&half, &self.path)
    }
}

/// Whether only this user can have written there: root does what the record says.
fn own(path: &Path, m: &Metadata) -> Result<(), String> {
    let (uid, mode) = (m.uid(), m.mode() & 0o7777);
    if !m.is_symlink() && uid == geteuid().as_raw() && mode & 0o022 == 0 {
        return Ok(());
    }
    Err(format!(
        "{}: somebody else may have written it (a link, or of user {uid} and mode {mode:o}), and what it says is done as root: \
         look at it, then move it away, or make it root's alone (chown root, chmod go-w)",
        path.display()
    ))
}

fn text(path: &Path) -> Result<String, String> {
    let name = path.display().to_string();
    let bytes = file::bytes(&name, path, "the record that `pollnd doctor --fix` wrote")?;
    String::from_utf8(bytes).map_err(|e| format!("{name}: {e}; look at it, then move it away"))
}

fn read(text: &str) -> Result<Vec<Entry>, String> {
    let all: Lines = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if all.version != VERSION {
        return Err(format!("it is of version {}, and this pollnd reads version {VERSION}", all.version));
    }
    if let Some(i) = all.steps.iter().position(|l| !l.step.is_possible()) {
        return Err(format!("steps[{i}] has a name or a number that no step has"));
    }
    Ok(all.steps.into_iter().map(Entry::of).filter(Entry::stands).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<State>(), @r"
        Planned + Begin -> Begun
        Begun + Finish -> Done
        Begun + TakeBack -> Undone
        Begun + LetBe -> Left
        Done + TakeBack -> Undone
        Done + LetBe -> Left
        otherwise: nothing changes
        ");
    }
}
