//! Peers of a node, remembered while it runs, and greeted when it comes back.
//!
//! A peer of a node that was killed takes the new one for the old until it hears of it: over a user-space TCP nobody tells it
//! that the old connections are dead. So a node that finds a list in the run folder pings those on it once, which shows
//! them its new incarnation.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use transport::node::inspect::Inspection;
use transport::wire::Nid;
use transport::wire::nid::PID_LUSTRE;

use crate::inspect::claim::{Claim, List, PEERS_MAX};
use crate::limits;

/// Interval at which the list is brought up to date.
const EVERY: Duration = Duration::from_secs(1);

/// Keeps the list while the node runs.
pub(crate) struct Known {
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
    list: List,
}

/// Nodes of the networks of `own` that have connections now.
fn connected(front: &Inspection, own: &[Nid]) -> Option<Vec<Nid>> {
    let mut all = Vec::new();
    let looked = front.peers(None, |p| {
        let near = own.iter().any(|n| p.id.nid.same_net(*n)) && !own.contains(&p.id.nid);
        let node = p.conns > 0 && p.id.pid == PID_LUSTRE && near;
        all.extend(node.then_some(p.id.nid));
        all.len() < PEERS_MAX
    });
    all.sort_unstable();
    looked.ok().map(|()| all)
}

impl Known {
    /// Begins to keep the list of `claim`, of the peers that `front` shows.
    pub(crate) fn keep(claim: &Claim, front: Arc<Inspection>, own: Vec<Nid>) -> Known {
        let (stop, stopped) = mpsc::channel();
        let list = claim.list();
        let written = claim.list();
        let thread = limits::thread("remembers peers", move || {
            // The list is from before: it goes as soon as something is known.
            let mut last = None;
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let now = connected(&front, &own).filter(|n| !n.is_empty());
                if now.is_none() || now == last {
                    continue;
                }
                if let Err(e) = written.write(now.as_deref().unwrap_or_default()) {
                    tracing::warn!("peers are not remembered: {e}");
                    return;
                }
                last = now;
            }
        });
        let thread = thread.inspect_err(|e| tracing::warn!("peers are not remembered: {e}")).ok();
        Known { stop, thread, list }
    }

    /// Ends it; a list of peers whose connections were closed in order is of no use.
    pub(crate) fn end(self, clean: bool) {
        drop(self.stop);
        if let Some(t) = self.thread {
            let _ = t.join();
        }
        if clean {
            self.list.remove();
        }
    }
}
