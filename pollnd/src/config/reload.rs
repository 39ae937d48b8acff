//! The configuration of a node that runs: prints it, and changes it as a whole or not at all.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use clap::ValueEnum;
use serde_json::{Value, json};
use transport::lnd::tunables::{ALL, Change, Tunable};
use transport::lnd::{Config, Route};
use transport::lnet::routes::{RouteAsk, RouteView};
use transport::node::inspect::Inspection;
use transport::wire::Nid;

use super::keys::{self, KEYS, Key, Means, Part};
use super::merge::{self, Bad, Loaded, NO_TELEMETRY};
use super::model::{Model, Ni, Said};
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
}

/// Outcome of an attempt to change a node.
pub(crate) enum Outcome {
    /// These are other now; and what is to know of the file.
    Changed(Vec<String>, Vec<String>),
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
    let ni = |nid: Nid| Ni {
        at,
        net: nid.net().to_string(),
        nid: Some(nid),
        interface: nid
            .ip()
            .and_then(iface::owner)
            .map(|(name, _)| name)
            .filter(|_| !networks::on_port(&a.node)),
        cpt: None,
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
    Model { nis: cfg.nids().map(ni).collect(), said, routes: Vec::new(), passed: Vec::new() }
}

impl Live {
    /// That of a node with these arguments.
    pub(crate) fn new(a: &ServeArgs) -> Live {
        Live { argv: a.told.argv.clone(), path: a.config.clone(), args: Mutex::new(a.clone()) }
    }

    /// Its configuration as a file.
    ///
    /// # Errors
    /// An lcore does not answer.
    pub(crate) fn export(&self, front: &Inspection) -> Result<String, String> {
        let cfg = front.config(0).map_err(|e| e.to_string())?;
        let args = self.args.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, routes) = front.routes(None).map_err(|e| e.to_string())?;
        let routes = routes.iter().map(|v| (v.route(), Place::default())).collect();
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
        let mut args = self.args.lock().unwrap_or_else(PoisonError::into_inner);
        let new = match merge::with(&self.argv, Some(&file)) {
            Ok(Cli { command: Command::Node(a), .. }) => a,
            Ok(_) => return Outcome::Failed("the node was started by another command".into()),
            Err(Bad::Line(e)) => return Outcome::Faults(e.to_string()),
            Err(Bad::File(e)) => return Outcome::Faults(e),
        };
        match self.change(front, &args, &new, &file) {
            Ok(mut changed) => {
                changed.extend(level(&args, &new));
                for n in &new.told.notes {
                    tracing::warn!("{n}");
                }
                let notes = new.told.notes.clone();
                *args = new;
                Outcome::Changed(changed, notes)
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
        let (_, now) = front.routes(None).map_err(|e| failed(e.to_string()))?;
        let rerouted = reroutes(&now.iter().map(RouteView::route).collect::<Vec<_>>(), &after.all_routes());
        let mut restart = at_start(old, new, file);
        let mut changes: Vec<(&Tunable, Change, Change)> = Vec::new();
        for t in ALL.iter().filter(|t| t.value(&before) != t.value(&after)) {
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
        let tuned = changes.iter().map(|(t, to, back)| Step {
            told: was(t.name, &t.value(&before), &t.value(&after)),
            name: t.name,
            to: Order::Tune(*to),
            back: Order::Tune(*back),
        });
        let steps: Vec<Step> = tuned.chain(rerouted).collect();
        for (i, step) in steps.iter().enumerate() {
            if let Err(e) = step.to.give(front) {
                // Those made so far are taken back, the last first, on all lcores that answer.
                let made = steps.iter().take(i + 1).rev();
                let left = made.filter(|s| s.back.give(front).is_err() && !std::ptr::eq(*s, step)).count();
                let left = if left == 0 { "" } else { "; not all of it could be taken back" };
                return Err(failed(format!("{}: {e}{left}", step.name)));
            }
        }
        Ok(steps.into_iter().map(|s| s.told).collect())
    }
}

/// An order to a node that runs.
enum Order {
    Tune(Change),
    Route(RouteAsk),
}

impl Order {
    fn give(&self, front: &Inspection) -> Result<(), String> {
        match self {
            Order::Tune(change) => front.tune(*change).map_err(|e| e.to_string()),
            Order::Route(ask) => {
                let (done, _) = front.routes(Some(*ask)).map_err(|e| e.to_string())?;
                done.map_err(|e| e.to_string())
            }
        }
    }
}

/// A change of a node that runs.
struct Step {
    /// What is said of it.
    told: String,
    /// What it changes.
    name: &'static str,
    to: Order,
    /// What takes it back.
    back: Order,
}

/// Steps that make routes others: those that go come first, so that one may come again otherwise.
fn reroutes(now: &[Route], then: &[Route]) -> Vec<Step> {
    let del = |r: &Route| Order::Route(RouteAsk::Del { net: r.net, gateway: r.gateway });
    let add = |r: &Route| Order::Route(RouteAsk::Add(*r));
    let gone = now.iter().filter(|r| !then.contains(r)).map(|r| Step {
        told: format!("route: {} {} is gone", r.net, r.gateway),
        name: "route",
        to: del(r),
        back: add(r),
    });
    let new = then.iter().filter(|r| !now.contains(r)).map(|r| Step {
        told: format!("route: {r} is new"),
        name: "route",
        to: add(r),
        back: del(r),
    });
    gone.chain(new).collect()
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
    let nids = |a: &ServeArgs| {
        let all: Vec<String> =
            std::iter::once(a.nid).chain(a.node.ni.iter().copied()).map(|n| n.to_string()).collect();
        all.join(" ")
    };
    if nids(old) != nids(new) {
        let at = file.model.nis.first().map_or_else(String::new, |n| format!(" ({})", file.at(n.at)));
        all.push(format!("net: {}{at}, and the node runs with {}", nids(new), nids(old)));
    }
    for key in KEYS.iter() {
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
    /// What a node answered.
    pub(crate) fn read(answer: &Value) -> Outcome {
        let texts = |name: &str| -> Option<Vec<String>> {
            Some(answer[name].as_array()?.iter().filter_map(|t| t.as_str().map(str::to_owned)).collect())
        };
        let text = |name: &str| answer[name].as_str().map(str::to_owned);
        let changed = texts("changed").map(|all| Outcome::Changed(all, texts("notes").unwrap_or_default()));
        changed
            .or_else(|| texts("restart").map(Outcome::Restart))
            .or_else(|| text("faults").map(Outcome::Faults))
            .or_else(|| text("failed").map(Outcome::Failed))
            .unwrap_or_else(|| {
                Outcome::Failed("the node's answer is not understood: it is another release".to_owned())
            })
    }

    /// As a node answers.
    pub(crate) fn answer(&self) -> Value {
        match self {
            Outcome::Changed(all, notes) => json!({ "changed": all, "notes": notes }),
            Outcome::Restart(all) => json!({ "restart": all }),
            Outcome::Faults(e) => json!({ "faults": e }),
            Outcome::Failed(e) => json!({ "failed": e }),
        }
    }

    /// Told in the log, for a node that has had a signal.
    pub(crate) fn log(&self) {
        match self {
            Outcome::Changed(all, _) if all.is_empty() => tracing::info!("configuration: nothing is other"),
            Outcome::Changed(all, _) => tracing::info!("configuration: {}", all.join("; ")),
            Outcome::Restart(all) => tracing::error!(
                "configuration: nothing was changed, this needs a restart: {}",
                all.join("; ")
            ),
            Outcome::Faults(e) => tracing::error!("configuration: nothing was changed:\n{}", e.trim_end()),
            Outcome::Failed(e) => tracing::error!("configuration: {e}"),
        }
    }
}
