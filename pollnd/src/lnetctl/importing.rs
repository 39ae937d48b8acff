//! `import`: a running node takes a configuration file, as with `pollnd config apply`.

use std::path::Path;

use serde_json::Value;

use super::Asked;
use super::refusal::{Refusal, text};
use crate::inspect::Request;

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
    let end = &answer["end"];
    let lines = |v: &Value| {
        let all: Vec<&str> = v.as_array()?.iter().filter_map(Value::as_str).collect();
        Some(all.join("; "))
    };
    if end["changed"].is_array() {
        return Ok(());
    }
    Err(if let Some(restart) = lines(&end["restart"]) {
        refused(libc::EBUSY, &format!("nothing was changed, this needs a restart: {restart}"))
    } else if let Some(faults) = end["faults"].as_str() {
        refused(libc::EINVAL, &faults.trim_end().replace('\n', "; "))
    } else {
        refused(libc::EIO, end["failed"].as_str().unwrap_or("the node's answer is not understood"))
    })
}
