//! `import`: a running node takes a configuration file, as with `pollnd config apply`.

use std::path::Path;

use super::Asked;
use super::refusal::{Refusal, text};
use crate::config::reload::Outcome;
use crate::inspect::Request;
use crate::out;

fn refused(errno: i32, descr: &str) -> Refusal {
    Refusal::netlink("add", "import", errno, descr)
}

pub(super) fn import(file: &Path, mut node: Asked) -> Result<(), Refusal> {
    let path = std::path::absolute(file).map_err(|e| e.to_string())?;
    if let Err(e) = std::fs::metadata(&path) {
        let errno = e.raw_os_error().unwrap_or(libc::EIO);
        let descr = format!("cannot open '{}': {}", file.display(), text(errno));
        let missing = Refusal::old("yaml", "builder", libc::EPERM, descr);
        return Err(missing.with_status(super::refusal::status(errno)));
    }
    let answer = node.0.one(&Request::Apply { path: Some(path) })?;
    Err(match Outcome::read(&answer["end"]) {
        Outcome::Changed(_, notes) => {
            notes.iter().for_each(|n| out::note(n));
            return Ok(());
        }
        Outcome::Restart(all) => {
            refused(libc::EBUSY, &format!("nothing was changed, this needs a restart: {}", all.join("; ")))
        }
        Outcome::Faults(all) => refused(libc::EINVAL, &all.trim_end().replace('\n', "; ")),
        Outcome::Failed(e) => refused(libc::EIO, &e),
    })
}
