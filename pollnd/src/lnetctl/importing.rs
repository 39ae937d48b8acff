//! `import`: a running node takes a configuration file, as with `pollnd config apply`, but keeps its NIs; or loses what one names.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use transport::lnd::{PeerByHand, Route};

use super::Asked;
use super::refusal::{Refusal, text};
use crate::config::merge;
use crate::config::model::Ni;
use crate::config::reload::Outcome;
use crate::fault_rules::{self, RuleText};
use crate::inspect::Request;
use crate::inspect::account::Ask;
use crate::inspect::faults::Order;
use crate::inspect::ni_orders::NetOrder;
use crate::out;

fn refused(errno: i32, descr: &str) -> Refusal {
    Refusal::netlink("add", "import", errno, descr)
}

/// Longest text that is taken from standard input, in bytes: more than a file may have, which then says so.
const TEXT_MAX: u64 = 2 << 20;

/// The file to import.
pub(super) struct Source {
    path: PathBuf,
    /// It has what standard input said, and goes with this.
    own: bool,
}

impl Source {
    /// A file that cannot be read is told of as lnetctl does.
    pub(super) fn of(file: Option<&Path>) -> Result<Source, Refusal> {
        let Some(file) = file.filter(|f| *f != Path::new("-")) else {
            return Source::of_input().map_err(|e| format!("standard input cannot be imported: {e}").into());
        };
        let path = std::path::absolute(file).map_err(|e| e.to_string())?;
        if let Err(e) = std::fs::metadata(&path) {
            let errno = e.raw_os_error().unwrap_or(libc::EIO);
            let descr = format!("cannot open '{}': {}", file.display(), text(errno));
            let missing = Refusal::old("yaml", "builder", libc::EPERM, descr);
            return Err(missing.with_status(super::refusal::status(errno)));
        }
        Ok(Source { path, own: false })
    }

    /// The node opens files by itself.
    fn of_input() -> io::Result<Source> {
        let mut all = Vec::new();
        io::stdin().lock().take(TEXT_MAX).read_to_end(&mut all)?;
        let path = std::env::temp_dir().join(format!("pollnd-import-{}.yaml", std::process::id()));
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let s = Source { path, own: made.is_ok() };
        made?.write_all(&all)?;
        Ok(s)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if self.own {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Deletes what the file names. What is not there is told of at the end, and all else is gone then: lnetctl goes on likewise.
pub(super) fn del(file: &Source, mut node: Asked) -> Result<(), Refusal> {
    let told = |e: String| Refusal::netlink("del", "import", libc::EINVAL, e.trim_end().replace('\n', "; "));
    let model = merge::load(&file.path).map_err(told)?.model;
    let route = |r: &Route| Ask::DelRoute { net: r.net.to_string(), gateway: r.gateway.to_string() };
    let peer = |p: &PeerByHand| Some(Ask::DelPeer { primary: p.primary()?.to_string(), nids: Vec::new() });
    let ni = |n: &Ni| {
        let (nid, interfaces) = (n.nid.map(|n| n.to_string()), n.interface.iter().cloned().collect());
        // The NID says the network, too, and interfaces may have other addresses by now.
        let interfaces = if nid.is_some() { Vec::new() } else { interfaces };
        Ask::DelNet(Box::new(NetOrder { net: Some(n.net.clone()), nid, interfaces, ..NetOrder::default() }))
    };
    // Routes would go with their networks.
    let routes = model.routes.iter().map(|(r, _)| route(r));
    let peers = model.peers.iter().filter_map(|(p, _)| peer(p));
    let mut left = Vec::new();
    let mut last = 0;
    for ask in routes.chain(peers).chain(model.nis.iter().map(ni)) {
        let missing = |errno, e: &str| Refusal::netlink("del", "import", errno, e);
        match node.order(ask, missing) {
            Ok(()) => {}
            // No node any more.
            Err(e) if e.errno == 0 => return Err(e),
            Err(e) => {
                last = e.errno;
                left.push(e.descr);
            }
        }
    }
    for (rule, _) in &model.faults {
        let order = Order::Remove(RuleText::of(rule));
        let gone = node.0.one(&Request::Fault { delay: fault_rules::delays(rule), order })?;
        if gone["end"] == 0 {
            last = libc::ENOENT;
            left.push(format!("there is no fault rule {}", fault_rules::words(rule)));
        }
    }
    if left.is_empty() { Ok(()) } else { Err(Refusal::netlink("del", "import", last, left.join("; "))) }
}

pub(super) fn import(file: &Source, mut node: Asked) -> Result<(), Refusal> {
    let answer = node.0.one(&Request::Apply { path: Some(file.path.clone()), adds: true })?;
    Err(match Outcome::read(&answer["end"]) {
        Outcome::Changed(changed, notes) => {
            // lnetctl says nothing on standard output.
            let nis = changed.iter().filter(|c| c.starts_with("net: "));
            notes.iter().chain(nis).for_each(out::note);
            return Ok(());
        }
        Outcome::Restart(all) => {
            refused(libc::EBUSY, &format!("nothing was changed, this needs a restart: {}", all.join("; ")))
        }
        Outcome::Faults(all) => refused(libc::EINVAL, &all.trim_end().replace('\n', "; ")),
        Outcome::Failed(e) => refused(libc::EIO, &e),
    })
}
