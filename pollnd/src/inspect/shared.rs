//! State that the threads of a node's server share.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use transport::node::inspect::Inspection;
use transport::wire::Nid;

use super::askers::Asker;
use super::baseline::Baseline;
use super::seats::Seats;
use crate::args::NodeArgs;
use crate::config::reload::Live;
use crate::networks;

/// State that all threads of a node's server share.
pub(super) struct Shared {
    pub(super) front: Arc<Inspection>,
    pub(super) stop: AtomicBool,
    /// A capture is under way.
    pub(super) capturing: AtomicBool,
    /// Seats for commands that go through this node, if it has any.
    pub(super) guests: Option<Arc<Seats>>,
    /// Pings through this node so far.
    pub(super) serial: AtomicU64,
    /// Counts of lnetctl's statistics when they were reset.
    pub(super) baseline: Baseline,
    pub(super) about: About,
    pub(super) askers: Mutex<Vec<Asker>>,
}

/// Identity of a node.
#[derive(Clone)]
pub(crate) struct About {
    pub(crate) carrier: String,
    /// The network that its NIDs are of ([`super::claim::scope`]).
    pub(crate) scope: String,
    /// Its command.
    pub(crate) command: &'static str,
    /// Its arguments when it started.
    pub(crate) args: NodeArgs,
    /// Its configuration, if files may change it.
    pub(crate) live: Option<Arc<Live>>,
}

impl Shared {
    /// The answer to `hello`.
    pub(super) fn hello(&self) -> Value {
        let a = &self.about;
        let nids: Vec<String> = networks::nids(&self.args()).iter().map(Nid::to_string).collect();
        json!({
            "nid": nids.first(), "nids": nids, "carrier": a.carrier, "pid": std::process::id(), "command": a.command,
            "scope": a.scope, "guests": self.guests.is_some(),
        })
    }

    /// Its arguments as they are now: its NIs may be others.
    pub(super) fn args(&self) -> NodeArgs {
        self.about.live.as_ref().map_or_else(|| self.about.args.clone(), |live| live.current().node)
    }

    /// The NID of a machine that this node may be told to ask.
    pub(super) fn target(&self, nid: &str) -> Result<Nid, String> {
        let nid: Nid = nid.parse().map_err(|e| format!("{e}"))?;
        networks::target(&self.args(), nid)?;
        Ok(nid)
    }

    /// The configuration of this node.
    ///
    /// # Errors
    /// It is no `pollnd node`.
    pub(super) fn live(&self) -> Result<&Live, String> {
        self.about.live.as_deref().ok_or_else(|| {
            format!(
                "that is `pollnd {}`, which has no configuration file: name a `pollnd node`",
                self.about.command
            )
        })
    }

    /// Reason why nobody can go through this node.
    pub(super) fn no_guests(&self) -> String {
        format!("`pollnd {}` has no room for others: name a `pollnd node`", self.about.command)
    }
}

/// Writes one object.
pub(super) fn say(s: &mut UnixStream, v: &Value) -> io::Result<()> {
    let mut line = v.to_string();
    line.push('\n');
    s.write_all(line.as_bytes())
}
