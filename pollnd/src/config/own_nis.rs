//! NIs of a node that runs: added one by one, deleted one by one, or made those of a file (docs/config.md).
//!
//! The rule for files is [`decide`]; `import` is `adding.rs` beside this file:
//!
//! | who takes it | NIs of the file | NIs that it does not name |
//! |---|---|---|
//! | `import` | those that are not there are added | stay |
//! | `config apply`, SIGHUP; the node was started by its file | those that are not there are added | are deleted |
//! | the same; it was started by `--nid` | are passed over, as at start | stay; those of the command line are added where they were deleted |

use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use bench::sock::epoch;
use transport::lnd::{Config, NewNi, NiConfig};
use transport::node::inspect::{Inspection, Site};
use transport::wire::Nid;

use crate::args::{NodeArgs, ServeArgs};
use crate::inspect::claim::{self, Claim, Lock};
use crate::inspect::failure::Failure;
use crate::networks;

/// An NI that a node is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) nid: Nid,
    /// The place of its port; 0 on kernel sockets.
    pub(crate) place: usize,
    /// Messages it may have in flight; `None` for the node's number.
    pub(crate) credits: Option<u32>,
}

/// An NI of a node that runs.
#[derive(Debug)]
struct Ni {
    nid: Nid,
    place: usize,
    /// Keeps its NID for it. The lock of the NID that the node was started with is held by whoever runs it.
    _claim: Option<Claim>,
}

/// An NI, and the place of its port.
pub(super) type Placed = (Nid, usize);

/// A node that runs, to which a file is given.
pub(crate) struct Running {
    /// The NIs that it has, with their own credits.
    pub(super) nis: Vec<(Placed, Option<u32>)>,
}

/// The NIs that a node is to have that has these `now` and is given those of a file, and of them those that nobody names: `line` are those of
/// its command line, where that has some.
pub(super) fn decide(line: Option<&[Placed]>, file: &[Placed], now: &[Placed]) -> (Vec<Placed>, Vec<Nid>) {
    let (named, mut all) = line.map_or_else(|| (file, Vec::new()), |line| (line, now.to_vec()));
    let unnamed = |n: &&Placed| !named.iter().any(|m| m.0 == n.0);
    let kept = all.iter().filter(unnamed).map(|n| n.0).collect();
    for ni in named {
        match all.iter_mut().find(|n| n.0 == ni.0) {
            // An NI that changed its port would go first.
            Some(there) => *there = *ni,
            None => all.push(*ni),
        }
    }
    (all, kept)
}

/// Gives a node's arguments these NIs; the NID is `0@lo` where there are none.
pub(super) fn set_nis(a: &mut ServeArgs, nis: &[Placed]) {
    a.nid = nis.first().map_or(Nid::LO, |n| n.0);
    a.node.nid = a.nid;
    a.node.ni = nis.iter().skip(1).map(|n| n.0).collect();
    a.node.ni_ports = match networks::count(&a.node) > 1 {
        true => nis.iter().map(|n| n.1 as u16).collect(),
        false => Vec::new(),
    };
}

/// The NIs of a node that runs, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Nis(Mutex<Here>);

#[derive(Debug, Default)]
struct Here {
    all: Vec<Ni>,
    /// The NID that the node was started with, its lock, and the name of the node's command.
    first: Option<Nid>,
    lock: Weak<Lock>,
    command: &'static str,
}

impl Here {
    /// The node has no NI of this NID: if it is the one that it was started with, another process may have it.
    fn let_go(&self, nid: Nid) {
        if self.first == Some(nid)
            && let Some(lock) = self.lock.upgrade()
        {
            lock.release();
        }
    }
}

impl Nis {
    fn nis(&self) -> MutexGuard<'_, Here> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the NIDs of a node that starts, but for the first one's, which its caller has taken: where that is `locked` the others are, too.
    ///
    /// # Errors
    /// One that another process has; NIs that do not go with the ports.
    pub(crate) fn starts(
        &self,
        a: &NodeArgs,
        command: &'static str,
        locked: Option<&Claim>,
    ) -> Result<(), String> {
        let mut nis = self.nis();
        (nis.first, nis.command) = (Some(a.nid), command);
        nis.lock = locked.map(Claim::lock).unwrap_or_default();
        for (nid, place) in networks::with_places(a)? {
            // One that is named twice is refused as such.
            if nis.all.iter().any(|n| n.nid == nid) {
                continue;
            }
            let claim = match locked.is_some() && nid != a.nid {
                true => claim::take(nid, &claim::scope(a), command).map_err(|h| h.refusal("--ni", nid))?,
                false => None,
            };
            nis.all.push(Ni { nid, place, _claim: claim });
        }
        Ok(())
    }

    /// The node has ended: its NIDs are free.
    pub(crate) fn ended(&self) {
        self.nis().all.clear();
    }

    /// The NIDs, in the order in which they came.
    pub(crate) fn nids(&self) -> Vec<Nid> {
        self.nis().all.iter().map(|n| n.nid).collect()
    }

    fn placed(&self) -> Vec<Placed> {
        self.nis().all.iter().map(|n| (n.nid, n.place)).collect()
    }

    /// A node that runs with the configuration `cfg`, and is given a file.
    pub(super) fn running(&self, cfg: &Config) -> Running {
        let own = |nid| cfg.nis.iter().find(|n| n.nid == nid).and_then(|n| n.credits);
        Running { nis: self.placed().into_iter().map(|n| (n, own(n.0))).collect() }
    }

    /// The arguments `a` with the NIs that there are; the NID is `0@lo` where there are none.
    pub(crate) fn current(&self, mut a: ServeArgs) -> ServeArgs {
        set_nis(&mut a, &self.placed());
        a
    }

    /// Adds an NI to the node, whose arguments are `a`.
    ///
    /// # Errors
    /// Another process has the NID; the node refuses it.
    pub(crate) fn add(&self, front: &Inspection, a: &NodeArgs, ni: &Wanted) -> Result<(), Failure> {
        let Wanted { nid, place, credits } = *ni;
        networks::one_more(a, nid, place).map_err(|e| Failure::numbered(e, libc::EINVAL))?;
        let ip = nid.ip().ok_or_else(|| format!("{nid} has no IP address"))?;
        let mut nis = self.nis();
        if nis.all.iter().any(|n| n.nid == nid) {
            let e = transport::lnd::NiError::Twice(nid);
            return Err(Failure::numbered(&e, e.errno()));
        }
        let scope = claim::scope(a);
        let claim = match nis.lock.upgrade().filter(|_| nis.first == Some(nid)) {
            Some(lock) => lock.retake(nid, &scope, nis.command).map(|()| None),
            None => claim::take(nid, &scope, nis.command),
        };
        let claim = claim.map_err(|h| Failure::numbered(h.refusal("it", nid), libc::EADDRINUSE))?;
        let prefix = networks::ports(a).ok().and_then(|all| Some(all.get(place)?.prefix(ip)));
        let site = Site { ip, prefix: prefix.unwrap_or_default(), port: place as u8 };
        let new = NewNi { nid, credits, incarnation: epoch() };
        let done = front.add_ni(&new, &site).map_err(|e| e.to_string());
        if !matches!(done, Ok(Ok(()))) {
            nis.let_go(nid);
        }
        done?.map_err(|e| Failure::numbered(&e, e.errno()))?;
        tracing::info!("{nid} is an NI of this node now");
        nis.all.push(Ni { nid, place, _claim: claim });
        Ok(())
    }

    /// Deletes an NI of the node.
    ///
    /// # Errors
    /// It has none of that NID.
    pub(crate) fn del(&self, front: &Inspection, nid: Nid) -> Result<(), Failure> {
        let mut nis = self.nis();
        let done = front.del_ni(nid).map_err(|e| e.to_string())?;
        done.map_err(|e| Failure::numbered(&e, e.errno()))?;
        tracing::info!("{nid} is no NI of this node any more");
        nis.all.retain(|n| n.nid != nid);
        nis.let_go(nid);
        Ok(())
    }

    /// The NIs that a node of `a` has and this one does not, and those that go: on another port one is another.
    ///
    /// # Errors
    /// NIs that do not go with the ports.
    pub(super) fn renewal(&self, a: &NodeArgs, then: &Config) -> Result<Renewal, String> {
        let places = networks::with_places(a)?;
        let now = self.placed();
        let gone = now.iter().filter(|n| !places.contains(n)).copied().collect();
        let own = |nid| then.nis.iter().find(|n| n.nid == nid).and_then(|n| n.credits);
        // The node's own number stays as it is.
        let credits = |nid| Some(own(nid).unwrap_or(then.ni_credits));
        let new = places.into_iter().filter(|n| !now.contains(n));
        let fresh = new.map(|(nid, place)| Wanted { nid, place, credits: credits(nid) }).collect();
        Ok(Renewal { gone, fresh })
    }

    /// Adds the new ones of a renewal: all of them, or none.
    ///
    /// # Errors
    /// The first that cannot be added.
    pub(super) fn begin(
        &self,
        front: &Inspection,
        a: &NodeArgs,
        renewal: &Renewal,
    ) -> Result<Vec<String>, (Nid, Failure)> {
        for (i, ni) in renewal.fresh.iter().enumerate() {
            if let Err(Failure { text, errno }) = self.add_again(front, a, ni, renewal) {
                let left = self.take_back(front, a, renewal, i);
                return Err((ni.nid, Failure { text: format!("net: {text}{left}"), errno }));
            }
        }
        Ok(renewal.fresh.iter().map(|ni| format!("net: {} is new", ni.nid)).collect())
    }

    /// Adds one; where it changes its port it goes first.
    fn add_again(
        &self,
        front: &Inspection,
        a: &NodeArgs,
        ni: &Wanted,
        renewal: &Renewal,
    ) -> Result<(), Failure> {
        if renewal.gone.iter().any(|g| g.0 == ni.nid) {
            self.del(front, ni.nid)?;
        }
        self.add(front, a, ni)
    }

    /// Takes back the first `n` additions of a renewal; gives what is left of it to be said.
    pub(super) fn take_back(
        &self,
        front: &Inspection,
        a: &NodeArgs,
        renewal: &Renewal,
        n: usize,
    ) -> &'static str {
        let mut all = true;
        for ni in renewal.fresh.iter().take(n) {
            all &= self.del(front, ni.nid).is_ok();
        }
        for (nid, place) in renewal.gone.iter().filter(|g| renewal.fresh.iter().any(|f| f.nid == g.0)) {
            let there = self.nids().contains(nid);
            let ni = Wanted { nid: *nid, place: *place, credits: None };
            all &= there || self.add(front, a, &ni).is_ok();
        }
        if all { "" } else { "; not all of it could be taken back" }
    }

    /// Deletes those of a renewal that go.
    ///
    /// # Errors
    /// The first that cannot be deleted.
    pub(super) fn finish(&self, front: &Inspection, renewal: &Renewal) -> Result<Vec<String>, Failure> {
        let gone = renewal.gone.iter().filter(|g| !renewal.fresh.iter().any(|f| f.nid == g.0));
        gone.map(|(nid, _)| {
            let named = |e: Failure| Failure { text: format!("net: {}", e.text), ..e };
            self.del(front, *nid).map_err(named)?;
            Ok(format!("net: {nid} is gone"))
        })
        .collect()
    }
}

/// NIs that come and go with a file, each with the place of its port.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Renewal {
    gone: Vec<(Nid, usize)>,
    fresh: Vec<Wanted>,
}

/// NIs that stay, and are to have other credits, with those that they have and are to have: that takes a restart.
pub(super) fn other_credits(before: &Config, after: &Config) -> Vec<(Nid, u32, u32)> {
    let other = |n: &NiConfig| {
        let then = after.nis.iter().find(|t| t.nid == n.nid)?;
        let (was, is) = (n.credits.unwrap_or(before.ni_credits), then.credits.unwrap_or(after.ni_credits));
        (was != is).then_some((n.nid, was, is))
    };
    before.nis.iter().filter_map(other).collect()
}

impl Renewal {
    /// One more that comes.
    pub(super) fn add(&mut self, ni: Wanted) {
        self.fresh.push(ni);
    }

    /// NIDs of NIs that come.
    pub(super) fn comes(&self) -> impl Iterator<Item = Nid> + '_ {
        self.fresh.iter().map(|n| n.nid)
    }

    /// Number of NIs that come.
    pub(super) fn new_ones(&self) -> usize {
        self.fresh.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_a_file_decides_which_nis_there_are() {
        let ni = |n: u8, place| (Nid::tcp([10, 0, 0, n].into(), 0), place);
        // 1 by the command line or the first file, 2 by hand, 3 of the new file.
        let (now, file) = ([ni(1, 0), ni(2, 0)], [ni(1, 1), ni(3, 0)]);
        assert_eq!(decide(None, &file, &now), (file.to_vec(), vec![]));
        let line = [ni(1, 0), ni(4, 0)];
        // 4 was deleted.
        let all = vec![ni(1, 0), ni(2, 0), ni(4, 0)];
        assert_eq!(decide(Some(&line), &file, &now), (all, vec![ni(2, 0).0]));
    }
}
