//! Looks at a node that runs: its lcores, its peers, its connections, one after the other on a thread of their own.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::rates::{Identity, Sample};
use crate::inspect::Request;
use crate::inspect::client::{self, Client, Running};
use crate::limits;

/// Most peers, and most connections, of a look.
const MOST: u32 = 4096;

/// A node that is looked at, by whatever process it is: one that comes back is found by its NID.
pub(super) struct Looker {
    client: Option<Client>,
    node: Running,
    began: Instant,
}

impl Looker {
    /// The node that `which` names, or the only one.
    ///
    /// # Errors
    /// As [`client::any`].
    pub(super) fn new(which: Option<&str>) -> Result<Looker, String> {
        let (client, node) = client::any(which)?;
        Ok(Looker { client: Some(client), node, began: Instant::now() })
    }

    /// A look.
    ///
    /// # Errors
    /// The node has gone, or does not answer.
    pub(super) fn look(&mut self) -> Result<Sample, String> {
        let mut client = match self.client.take() {
            Some(c) => c,
            None => self.found_again()?,
        };
        let at = self.began.elapsed();
        let mut sample = Sample { at, node: identity(&self.node), ..Sample::default() };
        rows(&mut client, &Request::Lcores {}, &mut sample.lcores)?;
        let peers = rows(&mut client, &Request::Peers { most: Some(MOST) }, &mut sample.peers)?;
        let all = Request::Connections { peer: None, port: None, state: None, most: Some(MOST) };
        let conns = rows(&mut client, &all, &mut sample.conns)?;
        sample.cut = peers.max(conns) >= u64::from(MOST);
        // One that failed is not asked again: what it says next may answer an earlier question.
        self.client = Some(client);
        Ok(sample)
    }

    fn found_again(&mut self) -> Result<Client, String> {
        let nid = self.node.nid.parse().map_err(|e| format!("{}: {e}", self.node.nid))?;
        let again = client::running(nid, |r| r.scope == self.node.scope);
        let (client, node) = again.ok_or_else(|| format!("{} does not run", self.node.nid))?;
        self.node = node;
        Ok(client)
    }
}

fn identity(r: &Running) -> Identity {
    Identity { pid: r.pid, nids: r.nids.clone(), carrier: r.carrier.clone() }
}

/// Takes the rows that answer a question; gives how many there were.
fn rows<T: DeserializeOwned>(c: &mut Client, r: &Request, into: &mut Vec<T>) -> Result<u64, String> {
    let end = c.try_rows(r, |v: Value| {
        into.push(serde_json::from_value(v).map_err(|e| format!("the node's answer is none: {e}"))?);
        Ok(())
    })?;
    Ok(end["end"].as_u64().unwrap_or(0))
}

/// Looks on a thread of their own, each when it is asked for.
pub(super) struct Looks {
    ask: Sender<()>,
    answers: Receiver<Result<Sample, String>>,
    /// Begin of the look that is under way.
    pub(super) since: Option<Instant>,
}

impl Looks {
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn by(mut looker: Looker) -> Result<Looks, String> {
        let ((ask, asked), (answer, answers)) = (channel::<()>(), channel());
        limits::thread("looks at the node", move || {
            while asked.recv().is_ok() && answer.send(looker.look()).is_ok() {}
        })?;
        Ok(Looks { ask, answers, since: None })
    }

    /// Begins a look, unless one is under way.
    pub(super) fn begin(&mut self) {
        if self.since.is_none() && self.ask.send(()).is_ok() {
            self.since = Some(Instant::now());
        }
    }

    /// The look that has come to its end.
    pub(super) fn end(&mut self) -> Option<Result<Sample, String>> {
        let answer = self.answers.try_recv().ok()?;
        self.since = None;
        Some(answer)
    }
}
