//! The configuration of a node that runs: prints it, and changes it as a whole or not at all.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use clap::ValueEnum;
use serde_json::{Value, json};
use transport::lnd::tunables::{ALL, Change, Tunable};
use transport::lnd::{Config, NiConfig, Route};
use transport::lnet::routes::{RouteAsk, RouteView};
use transport::node::inspect::Inspection;

use super::keys::{self, KEYS, Key, Means, Part};
use super::merge::{self, Bad, Loaded, NO_TELEMETRY};
use super::model::{Model, Ni, Said};
use super::own_nis::{self, Nis};
use super::reader::CREDITS;
use super::write::Style;
use super::yaml::Place;
use crate::args::{Cli, Command, Offload, ServeArgs, Switch};
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

/// Outcome of an attempt to change a node.
pub(crate) enum Outcome {
    /// These are other now.
    Changed(Vec<String>),
    /// Nothing is: these need a restart.
    Restart(Vec<String>),
    /// Nothing is: the file is wrong.
    Faults(String),
    /// Nothing is, or what is cannot be known.
    Failed(String),
}

/// Values of a switch of ports.
fn offloads(all: &[Offload]) -> Vec<String> {
    all.iter().filter_map(|o| Some(o.to_possible_value()?.get_name().to_owned())).collect()
}

/// Values of an option of ports.
fn each<T: ToString>(all: &[Option<T>]) -> Vec<String> {
    all.iter().map(|v| v.as_ref().map_or_else(|| "default".to_owned(), T::to_string)).collect()
}

/// An option's value in `a`, as files write it; none for what is as it is where nothing is said.
fn options(a: &ServeArgs, key: &Key) -> Vec<String> {
    let n = &a.node;
    let one = |s: Option<String>| s.into_iter().collect();
    let unlike = |there: bool, s: &str| one(there.then(|| s.to_owned()));
    let telemetry = |w: &&String| *w == NO_TELEMETRY;
    match key.means {
        Means::Device => n.port.iter().chain(&n.vdev).cloned().collect(),
        Means::Each(flag) => match flag {
            "ni-ports" => n.ni_ports.iter().map(u16::to_string).collect(),
            "tso" => offloads(&n.tso),
            "tx-csum" => offloads(&n.tx_csum),
            "rx-csum" => offloads(&n.rx_csum),
            "lro" => offloads(&n.lro),
            "rss" => offloads(&n.rss),
            "mtu" => each(&n.mtu),
            "vlan" => each(&n.vlan),
            "prefix" => each(&n.prefix),
            "gateway" => each(&n.gateway),
            _ => Vec::new(),
        },
        Means::OnOff(_) => unlike(n.balance == Switch::Off, "off"),
        Means::Flag("no-selftest", _) => unlike(a.no_selftest, "false"),
        Means::Flag(..) => unlike(a.copy, "true"),
        Means::Eal => n.dpdk.eal.iter().filter(|w| !telemetry(w)).cloned().collect(),
        Means::Telemetry => unlike(n.dpdk.eal.iter().any(|w| telemetry(&w)), "false"),
        Means::Option(flag) => one(match flag {
            "budget" => n.budget.map(|v| v.to_string()),
            "metrics" => a.metrics.map(|v| v.to_string()),
            "run-for" => a.run_for.map(|v| v.to_string()),
            "lcores" => Some(n.lcores.to_string()).filter(|_| n.lcores != 1),
            "cpu-pattern" => n.cpu_pattern.clone(),
            "idle" => n.idle.and_then(|i| Some(i.to_possible_value()?.get_name().to_owned())),
            "queues" => n.queues.map(|v| v.to_string()),
            "pcap" => n.pcap.as_ref().map(|p| p.display().to_string()),
            _ => None,
        }),
        _ => Vec::new(),
    }
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
            net: nid.to_string().rsplit('@').next().unwrap_or_default().to_owned(),
            nid: Some(nid),
            interface: nid
                .ip()
                .and_then(iface::owner)
                .map(|(name, _)| name)
                .filter(|_| !networks::on_port(&a.node)),
            credits: n.credits.filter(|own| *own != cfg.ni_credits),
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
    Model { nis: cfg.nis.iter().map(ni).collect(), said, routes: Vec::new(), passed: Vec::new() }
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
        let routes = routes.iter().map(|v| (route(v), Place::default())).collect();
        Ok(Style::PLAIN.yaml(&Model { routes, ..running(&args, &cfg) }))
    }

    /// Has the node take the file at `path`, or the one that it was started with.
    pub(crate) fn apply(&self, front: &Inspection, path: Option<&Path>) -> Outcome {
        let Some(path) = path.or(self.path.as_deref()) else {
            return Outcome::Failed("it was started without --config: name a file".into());
        };
        let file = match merge::load(path) {
            Ok(f) => f,
            Err(e) => return Outcome::Faults(e),
        };
        let _alone = self.alone();
        let old = self.current();
        let new = match merge::with(&self.argv, Some(&file)) {
            Ok(Cli { command: Command::Node(a), .. }) => a,
            Ok(_) => return Outcome::Failed("the node was started by another command".into()),
            Err(Bad::Line(e)) => return Outcome::Faults(e.to_string()),
            Err(Bad::File(e)) => return Outcome::Faults(e),
        };
        match self.change(front, &old, &new, &file) {
            Ok(mut changed) => {
                changed.extend(level(&old, &new));
                for n in &new.told.notes {
                    tracing::warn!("{n}");
                }
                *self.arguments() = new;
                Outcome::Changed(changed)
            }
            Err(o) => o,
        }
    }

    /// Changes tunables, if nothing needs a restart.
    fn change(
        &self,
        front: &Inspection,
        old: &ServeArgs,
        new: &ServeArgs,
        file: &Loaded,
    ) -> Result<Vec<String>, Outcome> {
        let failed = |e: String| Outcome::Failed(e);
        let before = front.config(0).map_err(|e| failed(e.to_string()))?;
        let after = settings::config(&new.node, before.tcp_kind, before.privileged, before.link_mbps);
        let after = after.map_err(|e| Outcome::Faults(format!("{e}\n")))?;
        let nids = networks::nids(&new.node);
        Route::check_all(&after.routes, &nids).map_err(|e| Outcome::Faults(format!("route: {e}\n")))?;
        let (_, now) = front.routes(None).map_err(|e| failed(e.to_string()))?;
        let routes: Vec<Route> = now.iter().map(route).collect();
        let rerouted = reroutes(&routes, &after.routes);
        let renewal = self.nis.renewal(&new.node, &after).map_err(|e| Outcome::Faults(format!("{e}\n")))?;
        let mut restart = at_start(old, new, file);
        let said = file.model.said(Part::Tunables, CREDITS);
        let other = own_nis::other_credits(&before, &after).into_iter();
        restart.extend(other.map(|(nid, was, is)| {
            differs(&format!("{CREDITS} of {nid}"), &is.to_string(), &was.to_string(), said, file)
        }));
        let mut changes: Vec<Changed> = Vec::new();
        // Credits are looked at NI by NI.
        let other = |t: &&Tunable| t.name != CREDITS && t.value(&before) != t.value(&after);
        for t in ALL.iter().filter(other) {
            match Change::towards(&before, &after, t)
                .and_then(|c| Ok((c, Change::towards(&after, &before, t)?)))
            {
                Ok((to, back)) => changes.push((t, to, back)),
                Err(_) => {
                    let said = file.model.tunables().find(|s| s.0 == t.name).map(|s| s.2);
                    restart.push(differs(
                        said.map_or(t.name, |s| s.key.name),
                        &t.value(&after),
                        &t.value(&before),
                        said,
                        file,
                    ));
                }
            }
        }
        if !restart.is_empty() {
            return Err(Outcome::Restart(restart));
        }
        for (i, (t, to, _)) in changes.iter().enumerate() {
            if let Err(e) = front.tune(*to) {
                // Changes made so far are taken back on all lcores that answer.
                let back =
                    changes.iter().take(i + 1).filter_map(|(_, _, back)| front.tune(*back).err()).next();
                let left =
                    back.map_or_else(String::new, |_| "; not all of it could be taken back".to_owned());
                return Err(failed(format!("{}: {e}{left}", t.name)));
            }
        }
        let mut told: Vec<String> =
            changes.iter().map(|(t, ..)| was(t.name, &t.value(&before), &t.value(&after))).collect();
        // Routes may lead by NIs that are new, or to networks that become the node's own.
        let goes = |ask: &&RouteAsk| matches!(ask, RouteAsk::Del { .. });
        let (gone, fresh): (Vec<&RouteAsk>, Vec<&RouteAsk>) = rerouted.iter().partition(goes);
        let begin = || self.nis.begin(front, &new.node, &renewal);
        let (mut begun, mut done) = (None, Vec::new());
        for ask in gone.into_iter().map(Some).chain([None]).chain(fresh.into_iter().map(Some)) {
            let Some(ask) = ask else {
                let fail = |e| failed(format!("{e}{}", unroute(front, &done, &routes, &changes)));
                told.extend(begin().map_err(fail)?);
                begun = Some(renewal.new_ones());
                continue;
            };
            let fail = |e: String| {
                let left = begun.map_or("", |n| self.nis.take_back(front, &new.node, &renewal, n));
                failed(format!("route: {e}{left}{}", unroute(front, &done, &routes, &changes)))
            };
            match front.routes(Some(*ask)) {
                Ok((Ok(()), _)) => {}
                Ok((Err(e), _)) => return Err(fail(e.to_string())),
                Err(e) => return Err(fail(e.to_string())),
            }
            done.push(*ask);
            told.push(match ask {
                RouteAsk::Add(r) => format!("route: {r} is new"),
                RouteAsk::Del { net, gateway } => format!("route: {net} {gateway} is gone"),
            });
        }
        told.extend(self.nis.finish(front, &renewal).map_err(failed)?);
        Ok(told)
    }
}

/// A route as a configuration has it.
fn route(v: &RouteView) -> Route {
    Route { net: v.net, gateway: v.gateway, hop: v.hop, priority: v.priority }
}

/// A tunable that is another, the way there and the way back.
type Changed = (&'static Tunable, Change, Change);

/// Takes back orders about the routes that there were `before`, and changes of tunables; gives what is left of it to be said.
fn unroute(front: &Inspection, done: &[RouteAsk], before: &[Route], changes: &[Changed]) -> &'static str {
    let undone = |ask: &RouteAsk| {
        let back = match *ask {
            RouteAsk::Add(r) => RouteAsk::Del { net: r.net, gateway: r.gateway },
            RouteAsk::Del { net, gateway } => {
                let was = before.iter().find(|r| (r.net, r.gateway) == (net, gateway));
                was.map_or(*ask, |r| RouteAsk::Add(*r))
            }
        };
        matches!(front.routes(Some(back)), Ok((Ok(()), _)))
    };
    let routes = done.iter().rev().filter(|ask| !undone(ask)).count();
    let tunables = changes.iter().filter(|(_, _, back)| front.tune(*back).is_err()).count();
    if routes + tunables == 0 { "" } else { "; not all of it could be taken back" }
}

/// Orders that make routes others: those that go come first, so that one may come again otherwise.
fn reroutes(now: &[Route], then: &[Route]) -> Vec<RouteAsk> {
    let gone = now.iter().filter(|r| !then.contains(r));
    let new = then.iter().filter(|r| !now.contains(r));
    let del = |r: &Route| RouteAsk::Del { net: r.net, gateway: r.gateway };
    gone.map(del).chain(new.map(|r| RouteAsk::Add(*r))).collect()
}

fn was(name: &str, before: &str, after: &str) -> String {
    let shown = |s: &str| if s.is_empty() { "nothing".to_owned() } else { s.to_owned() };
    format!("{name}: was {}, is {}", shown(before), shown(after))
}

fn differs(name: &str, wanted: &str, now: &str, said: Option<&Said>, file: &Loaded) -> String {
    let shown = |s: &str| if s.is_empty() { "nothing".to_owned() } else { s.to_owned() };
    let place = said.map_or_else(|| "where nothing is said".to_owned(), |s| file.at(s.at));
    format!("{name}: {} ({place}), and the node runs with {}", shown(wanted), shown(now))
}

/// Options that are other, and read at start.
fn at_start(old: &ServeArgs, new: &ServeArgs, file: &Loaded) -> Vec<String> {
    let mut all = Vec::new();
    // Which port an NI is on is changed with the NIs.
    for key in KEYS.iter().filter(|k| !matches!(k.means, Means::Each("ni-ports"))) {
        let (was, is) = (options(old, key), options(new, key));
        if was != is {
            let shown = |v: &[String]| if v.is_empty() { key.default() } else { v.join(" ") };
            all.push(differs(key.name, &shown(&is), &shown(&was), file.model.said(key.part, key.name), file));
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

impl Outcome {
    /// As a node answers.
    pub(crate) fn answer(&self) -> Value {
        match self {
            Outcome::Changed(all) => json!({ "changed": all }),
            Outcome::Restart(all) => json!({ "restart": all }),
            Outcome::Faults(e) => json!({ "faults": e }),
            Outcome::Failed(e) => json!({ "failed": e }),
        }
    }

    /// Told in the log, for a node that has had a signal.
    pub(crate) fn log(&self) {
        match self {
            Outcome::Changed(all) if all.is_empty() => tracing::info!("configuration: nothing is other"),
            Outcome::Changed(all) => tracing::info!("configuration: {}", all.join("; ")),
            Outcome::Restart(all) => tracing::error!(
                "configuration: nothing was changed, this needs a restart: {}",
                all.join("; ")
            ),
            Outcome::Faults(e) => tracing::error!("configuration: nothing was changed:\n{}", e.trim_end()),
            Outcome::Failed(e) => tracing::error!("configuration: {e}"),
        }
    }
}
