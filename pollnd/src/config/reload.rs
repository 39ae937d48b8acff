//! The configuration of a node that runs: prints it, and changes it as a whole or not at all.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use transport::lnd::{Config, NiConfig, PeerByHand, Route};
use transport::lnet::faults::FaultRule;
use transport::node::inspect::Inspection;

use super::adding::Import;
use super::kept;
use super::keys::{self, KEYS, Key, Means, Part};
use super::merge::{self, Bad, Loaded};
use super::model::{Model, Ni, Said};
use super::options::options;
use super::outcome::Outcome;
use super::own_nis::{self, Nis};
use super::reader::CREDITS;
use super::source::Source;
use super::steps::{Course, Lists, differs, retunes, was};
use super::write::Style;
use super::yaml::Place;
use crate::args::{Cli, Command, ServeArgs};
use crate::{iface, logging, networks, settings};

/// A running node's configuration.
pub(crate) struct Live {
    /// The command line that it was started with.
    argv: Vec<OsString>,
    /// The file that it named.
    path: Option<PathBuf>,
    /// The arguments in force.
    args: Mutex<ServeArgs>,
    /// The NIs that it has.
    pub(crate) nis: Nis,
    /// Held by whoever changes more than one thing.
    changing: Mutex<()>,
}

/// Keys of lnetctl's that an export always has.
fn always(key: &Key) -> bool {
    match key.part {
        Part::Tunables | Part::Global => !matches!(key.means, Means::Reading),
        Part::Lnd => ["conns_per_peer", "timeout", "tos"].contains(&key.name),
        _ => false,
    }
}

/// A running node's configuration: its arguments, and its tunables as they are in `cfg`.
pub(crate) fn running(a: &ServeArgs, cfg: &Config) -> Model {
    let at = Place::default();
    let ni = |n: &NiConfig| {
        let nid = n.nid;
        Ni {
            at,
            net: nid.net().to_string(),
            nid: Some(nid),
            interface: nid
                .ip()
                .and_then(iface::owner)
                .map(|(name, _)| name)
                .filter(|_| !networks::on_port(&a.node)),
            credits: n.credits.filter(|own| *own != cfg.ni_credits),
            credits_said: n.credits,
            cpt: None,
        }
    };
    let mut said = Vec::new();
    for key in KEYS.iter() {
        let values = match key.means {
            Means::Tunable(t) => vec![t.value(cfg)],
            Means::Not(t) => vec![keys::negated(&t.value(cfg))],
            Means::Only(..) => vec![key.default()],
            Means::Level => a.told.level.iter().filter(|_| logging::first().1).cloned().collect(),
            _ => options(a, key),
        };
        let other = values.len() > 1 || values.first().is_some_and(|v| *v != key.default());
        if !values.is_empty() && (other || always(key)) {
            said.push(Said { key, at, values });
        }
    }
    Model { nis: cfg.nis.iter().map(ni).collect(), said, ..Model::default() }
}

impl Live {
    /// That of a node with these arguments.
    pub(crate) fn new(a: &ServeArgs) -> Live {
        let (argv, path) = (a.told.argv.clone(), a.config.clone());
        Live { argv, path, args: Mutex::new(a.clone()), nis: Nis::default(), changing: Mutex::default() }
    }

    /// Waits until nobody else changes it.
    pub(crate) fn alone(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arguments(&self) -> MutexGuard<'_, ServeArgs> {
        self.args.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The arguments in force, with the NIs that there are; the NID is `0@lo` where there are none.
    pub(crate) fn current(&self) -> ServeArgs {
        let a = self.arguments().clone();
        self.nis.current(a)
    }

    /// Its configuration as a file.
    ///
    /// # Errors
    /// An lcore does not answer.
    pub(crate) fn export(&self, front: &Inspection) -> Result<String, String> {
        let cfg = front.config(0).map_err(|e| e.to_string())?;
        let args = self.current();
        let (_, routes) = front.routes(None).map_err(|e| e.to_string())?;
        let routes = routes.iter().map(|v| (v.route(), Place::default())).collect();
        let (_, peers) = front.by_hand(None).map_err(|e| e.to_string())?;
        let peers = peers.into_iter().map(|p| (p, Place::default())).collect();
        let (_, rules) = front.faults(None).map_err(|e| e.to_string())?;
        let faults = rules.iter().map(|v| (v.rule, Place::default())).collect();
        Ok(Style::PLAIN.yaml(&Model { routes, peers, faults, ..running(&args, &cfg) }))
    }

    /// Makes the node what it would be with a file, or with the one that it was started with as that is now.
    pub(crate) fn apply(&self, front: &Inspection, file: Option<Source>) -> Outcome {
        let loaded = match (file, self.path.as_deref()) {
            (Some(file), _) => merge::read(file),
            (None, Some(own)) => merge::load(own),
            (None, None) => return Outcome::Failed("it was started without --config: name a file".into()),
        };
        let file = match loaded {
            Ok(f) => f,
            Err(e) => return Outcome::Faults(e.into()),
        };
        let _alone = self.alone();
        let old = self.current();
        let running = match front.config(0) {
            Ok(cfg) => self.nis.running(&cfg),
            Err(e) => return Outcome::Failed(e.to_string().into()),
        };
        let new = match merge::with(&self.argv, Some(&file), Some(&running)) {
            Ok(Cli { command: Command::Node(a), .. }) => a,
            Ok(_) => return Outcome::Failed("the node was started by another command".into()),
            Err(Bad::Line(e)) => return Outcome::Faults(e.to_string().into()),
            Err(Bad::File(e)) => return Outcome::Faults(e.into()),
        };
        match self.change(front, &old, &new, &file) {
            Ok((changed, kept)) => {
                let notes = [&new.told.notes[..], &kept].concat();
                self.changed(&old, new, changed, notes)
            }
            Err(o) => o,
        }
    }

    /// Gives the node what a file says; all else stays as it is.
    pub(crate) fn import(&self, front: &Inspection, file: Source) -> Outcome {
        let file = match merge::read(file) {
            Ok(f) => f,
            Err(e) => return Outcome::Faults(e.into()),
        };
        let _alone = self.alone();
        let old = self.current();
        match (Import { front, nis: &self.nis, args: &old, file: &file }).run() {
            Ok((changed, notes)) => {
                let mut new = self.arguments().clone();
                if let Some(said) = file.model.said(Part::Log, "level") {
                    new.told.level = Some(said.value().to_owned());
                }
                self.changed(&old, new, changed, notes)
            }
            Err(o) => o,
        }
    }

    /// The node has changed, and has the arguments `new` from now on.
    fn changed(
        &self,
        old: &ServeArgs,
        new: ServeArgs,
        mut changed: Vec<String>,
        notes: Vec<String>,
    ) -> Outcome {
        changed.extend(level(old, &new));
        for n in &notes {
            tracing::warn!("{n}");
        }
        *self.arguments() = new;
        Outcome::Changed(changed, notes)
    }

    /// Makes the node what it would be with the arguments `new`, if nothing needs a restart; gives what is other now, and what is kept.
    fn change(
        &self,
        front: &Inspection,
        old: &ServeArgs,
        new: &ServeArgs,
        file: &Loaded,
    ) -> Result<(Vec<String>, Vec<String>), Outcome> {
        let failed = |e: String| Outcome::Failed(e.into());
        let faulty = |e: String| Outcome::Faults(format!("{e}\n").into());
        let before = front.config(0).map_err(|e| failed(e.to_string()))?;
        let after = settings::config(&new.node, before.tcp_kind, before.privileged, before.link_mbps);
        let after = after.map_err(faulty)?;
        let nids = networks::nids(&new.node);
        Route::check_all(&after.routes, &nids).map_err(|e| faulty(format!("route: {e}")))?;
        PeerByHand::check_all(&after.peers, &nids).map_err(|e| faulty(format!("peer: {e}")))?;
        let now = Lists::of(front).map_err(failed)?;
        let (routes, peers, faults) = (after.all_routes(), after.peers.clone(), new.node.fault.clone());
        let then = Lists { routes, peers, faults };
        let (then, kept) = kept::lists(&self.argv, file, &nids, &now, then);
        FaultRule::check_all(&then.faults).map_err(|e| faulty(format!("fault: {e}")))?;
        let renewal = self.nis.renewal(&new.node, &after).map_err(faulty)?;
        let mut restart = at_start(old, new, file);
        let said = file.model.said(Part::Tunables, CREDITS).map(|s| s.at);
        let other = own_nis::other_credits(&before, &after).into_iter();
        restart.extend(other.map(|(nid, was, is)| {
            differs(&format!("{CREDITS} of {nid}"), &is.to_string(), &was.to_string(), said, file)
        }));
        let (tuned, more) = retunes(&before, &after, file);
        restart.extend(more);
        if !restart.is_empty() {
            return Err(Outcome::Restart(restart));
        }
        let course = Course::new(file, tuned, renewal, &now, &then);
        Ok((course.make(front, &self.nis, &new.node).map_err(Outcome::Failed)?, kept))
    }
}

/// Options that are other, and read at start.
fn at_start(old: &ServeArgs, new: &ServeArgs, file: &Loaded) -> Vec<String> {
    let mut all = Vec::new();
    // Which port an NI is on is changed with the NIs.
    for key in KEYS.iter().filter(|k| !matches!(k.means, Means::Each("ni-ports"))) {
        let (was, is) = (options(old, key), options(new, key));
        if was != is {
            let shown = |v: &[String]| if v.is_empty() { key.default() } else { v.join(" ") };
            all.push(differs(
                key.name,
                &shown(&is),
                &shown(&was),
                file.model.said(key.part, key.name).map(|s| s.at),
                file,
            ));
        }
    }
    all
}

/// Logs what the file says now.
fn level(old: &ServeArgs, new: &ServeArgs) -> Option<String> {
    let (first, _) = logging::first();
    let shown = |a: &ServeArgs| a.told.level.clone().unwrap_or_else(|| first.clone());
    match logging::by_file(new.told.level.as_deref()) {
        Ok(true) if shown(old) != shown(new) => Some(was("log: level", &shown(old), &shown(new))),
        _ => None,
    }
}
