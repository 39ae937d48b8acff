//! `lnetctl import`: a node that runs gets what a file says, and keeps all else (docs/lnetctl.md).

use transport::lnd::tunables::{self, TuneError};
use transport::lnd::{Config, PeerByHand, Route};
use transport::lnet::faults::FaultRule;
use transport::node::inspect::Inspection;
use transport::wire::Nid;

use super::keys::{Key, Means, Part};
use super::merge::{self, Loaded};
use super::options::options;
use super::outcome::Outcome;
use super::own_nis::{Nis, Renewal, Wanted};
use super::reader::CREDITS;
use super::steps::{Course, Lists, differs, retunes};
use crate::args::ServeArgs;
use crate::inspect::failure::Failure;
use crate::{networks, settings};

const SEC: u64 = 1_000_000_000;

/// A node that runs, and the file that it imports.
pub(super) struct Import<'a> {
    pub(super) front: &'a Inspection,
    pub(super) nis: &'a Nis,
    /// The arguments in force, with the NIs that there are.
    pub(super) args: &'a ServeArgs,
    pub(super) file: &'a Loaded,
}

/// Tunables of router buffers, by class.
const ROUTER_BUFFERS: [&str; 3] = ["tiny_router_buffers", "small_router_buffers", "large_router_buffers"];

/// The value that 0 stands for in a tunable of lnetctl's: `lnetctl export` writes that in place of 0.
fn in_force(cfg: &Config, name: &str) -> Option<String> {
    match name {
        "conns_per_peer" => Some(cfg.conns().to_string()),
        "sock_timeout" => Some((cfg.timeout() / SEC).to_string()),
        _ => {
            let class = ROUTER_BUFFERS.iter().position(|n| *n == name)?;
            cfg.routing.buffers().get(class).map(u32::to_string)
        }
    }
}

/// The routes of a node that has those of `now`, and is given those of the file: one that is there is made what the file says.
fn routes(file: &Loaded, now: &[Route], site: &[Route], nids: &[Nid]) -> Result<Vec<Route>, Failure> {
    let mut all = now.to_vec();
    for (route, at) in &file.model.routes {
        // One that is there is what the file says then.
        let there = all.iter().position(|r| (r.net, r.gateway) == (route.net, route.gateway));
        let others: Vec<&Route> =
            all.iter().enumerate().filter(|(i, _)| Some(*i) != there).map(|(_, r)| r).collect();
        let check = route.check(nids, others.into_iter());
        check.map_err(|e| Failure::numbered(file.fault(*at, format_args!("route: {e}")), e.errno()))?;
        match there.and_then(|i| all.get_mut(i)) {
            Some(r) => *r = *route,
            None => all.push(*route),
        }
    }
    for route in site {
        if route.check(nids, all.iter()).is_ok() {
            all.push(*route);
        }
    }
    Ok(all)
}

/// The peers by hand of a node that has those of `now`, and is given those of the file: one that is there gets more NIDs. A node that has asked
/// itself who it is exports itself.
fn peers(file: &Loaded, now: &[PeerByHand], nids: &[Nid]) -> Result<Vec<PeerByHand>, Failure> {
    let mut all = now.to_vec();
    for (peer, at) in &file.model.peers {
        if peer.nids.iter().all(|n| nids.contains(n)) {
            continue;
        }
        let there = all.iter().position(|p| p.primary() == peer.primary());
        let mut then = peer.clone();
        if let Some(p) = there.and_then(|i| all.get(i)).filter(|_| peer.multi_rail) {
            then.nids.clone_from(&p.nids);
            then.nids.extend(peer.nids.iter().filter(|n| !p.nids.contains(n)));
        }
        let others = all.iter().filter(|p| p.primary() != peer.primary());
        then.check(nids, others.map(|p| &p.nids[..]))
            .map_err(|e| Failure::numbered(file.fault(*at, format_args!("peer: {e}")), e.errno()))?;
        match there.and_then(|i| all.get_mut(i)) {
            Some(p) => *p = then,
            None => all.push(then),
        }
    }
    Ok(all)
}

/// The fault rules of a node that has those of `now`, and is given these: each that is not there, behind those that are.
pub(super) fn rules<'a>(given: impl IntoIterator<Item = &'a FaultRule>, now: &[FaultRule]) -> Vec<FaultRule> {
    let mut all = now.to_vec();
    let mut there = now.to_vec();
    for rule in given {
        match there.iter().position(|r| r == rule) {
            Some(at) => drop(there.swap_remove(at)),
            None => all.push(*rule),
        }
    }
    all
}

impl Import<'_> {
    /// Has the node take the file: all of it, or nothing. Gives what is other now, and what is to know of the file.
    ///
    /// # Errors
    /// Why it is nothing.
    pub(super) fn run(&self) -> Result<(Vec<String>, Vec<String>), Outcome> {
        let (front, file) = (self.front, self.file);
        let failed = |e: String| Outcome::Failed(e.into());
        let faulty = |e: String| Outcome::Faults(e.into());
        let mut notes: Vec<String> =
            file.model.passed.iter().map(|p| format!("{}: {}", file.at(p.at), p.text)).collect();
        let before = front.config(0).map_err(|e| failed(e.to_string()))?;
        let after = self.tuned(&before, &mut notes).map_err(faulty)?;
        let (renewal, other) = self.renewal(&before).map_err(Outcome::Faults)?;
        let nids: Vec<Nid> = self.nis.nids().into_iter().chain(renewal.comes()).collect();

        let now = Lists::of(front).map_err(failed)?;
        let then = Lists {
            routes: routes(file, &now.routes, &after.site_routes, &nids).map_err(Outcome::Faults)?,
            peers: peers(file, &now.peers, &nids).map_err(Outcome::Faults)?,
            faults: rules(file.model.faults.iter().map(|(r, _)| r), &now.faults),
        };
        FaultRule::check_all(&then.faults).map_err(|e| faulty(format!("fault: {e}\n")))?;

        let mut restart = self.at_start().map_err(faulty)?;
        restart.extend(other);
        let (tuned, more) = retunes(&before, &after, file);
        restart.extend(more);
        if !restart.is_empty() {
            return Err(Outcome::Restart(restart));
        }
        let course = Course::new(file, tuned, renewal, &now, &then);
        Ok((course.make(front, self.nis, &self.args.node).map_err(Outcome::Failed)?, notes))
    }

    /// The configuration `before` with the tunables of the file.
    fn tuned(&self, before: &Config, notes: &mut Vec<String>) -> Result<Config, String> {
        let file = self.file;
        let mut after = before.clone();
        after.site_routes.clear();
        let options = file.model.said(Part::Node, "options");
        for path in options.iter().flat_map(|s| &s.values) {
            settings::from_files(&mut after, path.as_ref(), notes).map_err(|e| e + "\n")?;
        }
        let mut last = None;
        for (name, value, said) in file.model.tunables().filter(|t| t.0 != CREDITS) {
            let fault = |e: TuneError| file.fault(said.at, format_args!("{}: {e}", said.key.name));
            let now = tunables::find(name).map_err(fault)?.value(before);
            if in_force(before, name) == Some(value.clone()) && now == "0" {
                continue;
            }
            tunables::set(&mut after, name, &value).map_err(fault)?;
            if ["lnet_retry_count", "lnet_transaction_timeout"].contains(&name) {
                last = last.max(Some(said.at));
            }
        }
        tunables::check(&after).map_err(|e| file.fault(last.unwrap_or_default(), e))?;
        Ok(after)
    }

    /// NIs that come, each with the credits that it says, or else the node's; and what needs a restart, since an NI that is there is to have others.
    fn renewal(&self, before: &Config) -> Result<(Renewal, Vec<String>), Failure> {
        let file = self.file;
        let own = merge::nids(file)?;
        let there = self.nis.nids();
        let (mut renewal, mut restart) = (Renewal::default(), Vec::new());
        for (nid, ni) in own.iter().zip(&file.model.nis) {
            let says = ni.credits_said;
            if there.contains(nid) {
                let has = before.nis.iter().find(|n| n.nid == *nid).and_then(|n| n.credits);
                let (has, name) = (has.unwrap_or(before.ni_credits), format!("{CREDITS} of {nid}"));
                let other = says.filter(|n| *n != has);
                restart.extend(
                    other.map(|n| differs(&name, &n.to_string(), &has.to_string(), Some(ni.at), file)),
                );
                continue;
            }
            let name = ni.interface.as_deref();
            let place = nid.ip().map_or(Ok(0), |ip| networks::place_for(&self.args.node, name, ip));
            let place = place.map_err(|e| file.fault(ni.at, e))?;
            // The node's own number stays as it is.
            renewal.add(Wanted { nid: *nid, place, credits: Some(says.unwrap_or(before.ni_credits)) });
        }
        Ok((renewal, restart))
    }

    /// Options of the file that the node has otherwise, which are read at start.
    fn at_start(&self) -> Result<Vec<String>, String> {
        let file = self.file;
        let then = merge::alone(file)?;
        let read = |k: &Key| {
            matches!(
                k.means,
                Means::Option(_)
                    | Means::Each(_)
                    | Means::Device
                    | Means::OnOff(_)
                    | Means::Flag(..)
                    | Means::Eal
                    | Means::Telemetry
            ) && !matches!(k.means, Means::Each("ni-ports"))
        };
        let differs = |s: &super::model::Said| {
            let shown = |a: &ServeArgs| match options(a, s.key) {
                all if all.is_empty() => s.key.default(),
                all => all.join(" "),
            };
            let (is, was) = (shown(&then), shown(self.args));
            (is != was).then(|| differs(s.key.name, &is, &was, Some(s.at), file))
        };
        Ok(file.model.said.iter().filter(|s| read(s.key)).filter_map(differs).collect())
    }
}
