//! The configuration of a node that runs: prints it, and changes it as a whole or not at all.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use clap::ValueEnum;
use serde_json::{Value, json};
use transport::lnd::tunables::{ALL, Change, Tunable};
use transport::lnd::{Config, NiConfig, PeerByHand, Route};
use transport::lnet::by_hand::PeerAsk;
use transport::lnet::faults::{FaultAsk, FaultRule};
use transport::lnet::routes::{RouteAsk, RouteView};
use transport::node::inspect::Inspection;

use super::keys::{self, KEYS, Key, Means, Part};
use super::merge::{self, Bad, Loaded, NO_TELEMETRY};
use super::model::{Model, Ni, Said};
use super::own_nis::{self, Nis, Taking};
use super::reader::CREDITS;
use super::source::Source;
use super::write::Style;
use super::yaml::Place;
use crate::args::{Cli, Command, Offload, ServeArgs, Switch};
use crate::{fault_rules, iface, logging, networks, settings};

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

    /// Has the node take a file, or read the one that it was started with.
    pub(crate) fn apply(&self, front: &Inspection, file: Option<Source>, taking: Taking) -> Outcome {
        let loaded = match (file, self.path.as_deref()) {
            (Some(file), _) => merge::read(file),
            (None, Some(own)) => merge::load(own),
            (None, None) => return Outcome::Failed("it was started without --config: name a file".into()),
        };
        let mut file = match loaded {
            Ok(f) => f,
            Err(e) => return Outcome::Faults(e),
        };
        if taking == Taking::Adding {
            self.keep_own_sections(&mut file.model);
        }
        let _alone = self.alone();
        let old = self.current();
        let running = match front.config(0) {
            Ok(cfg) => self.nis.running(&cfg, taking),
            Err(e) => return Outcome::Failed(e.to_string()),
        };
        let new = match merge::with(&self.argv, Some(&file), Some(&running)) {
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
                let notes = new.told.notes.clone();
                *self.arguments() = new;
                Outcome::Changed(changed, notes)
            }
            Err(o) => o,
        }
    }

    /// What lnetctl's files have no section for stays as the node's own file has it, unless `model` says other.
    fn keep_own_sections(&self, model: &mut Model) {
        let Some(Ok(own)) = self.path.as_deref().map(merge::load) else { return };
        let ours = |s: &Said| matches!(s.key.part, Part::Node | Part::Dpdk | Part::Telemetry | Part::Log);
        for s in own.model.said.into_iter().filter(ours) {
            if model.said(s.key.part, s.key.name).is_none() {
                model.said.push(s);
            }
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
        PeerByHand::check_all(&after.peers, &nids).map_err(|e| Outcome::Faults(format!("peer: {e}\n")))?;
        let (_, now) = front.by_hand(None).map_err(|e| failed(e.to_string()))?;
        let (lost, found) = repeers(&now, &after.peers);
        let (_, now) = front.routes(None).map_err(|e| failed(e.to_string()))?;
        let (gone, fresh) =
            reroutes(&now.iter().map(RouteView::route).collect::<Vec<_>>(), &after.all_routes());
        let (_, now) = front.faults(None).map_err(|e| failed(e.to_string()))?;
        let rules = now.iter().map(|v| v.rule).collect::<Vec<_>>();
        let (ended, begun) = rerules(&rules, &new.node.fault);
        let renewal = self.nis.renewal(&new.node, &after).map_err(|e| Outcome::Faults(format!("{e}\n")))?;
        let mut restart = at_start(old, new, file);
        let said = file.model.said(Part::Tunables, CREDITS);
        let other = own_nis::other_credits(&before, &after).into_iter();
        restart.extend(other.map(|(nid, was, is)| {
            differs(&format!("{CREDITS} of {nid}"), &is.to_string(), &was.to_string(), said, file)
        }));
        let mut changes: Vec<(&Tunable, Change, Change)> = Vec::new();
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
        let tuned = changes.iter().map(|(t, to, back)| Step {
            told: was(t.name, &t.value(&before), &t.value(&after)),
            name: t.name,
            to: Order::Tune(*to),
            back: Order::Tune(*back),
        });
        let first: Vec<Step> = tuned.chain(gone).chain(lost).chain(ended).collect();
        // Routes may lead by NIs that are new, or to networks that become the node's own.
        let fresh: Vec<Step> = fresh.into_iter().chain(found).chain(begun).collect();
        run(front, &first).map_err(failed)?;
        let back = || if undo(front, &first) { "" } else { LEFT };
        let nis = self.nis.begin(front, &new.node, &renewal);
        let nis = nis.map_err(|e| failed(format!("{e}{}", back())))?;
        run(front, &fresh).map_err(|e| {
            let left = self.nis.take_back(front, &new.node, &renewal, renewal.new_ones());
            failed(format!("{e}{left}{}", back()))
        })?;
        let all = first.into_iter().map(|s| s.told).chain(nis);
        let mut told: Vec<String> = all.chain(fresh.into_iter().map(|s| s.told)).collect();
        told.extend(self.nis.finish(front, &renewal).map_err(failed)?);
        Ok(told)
    }
}

/// An order to a node that runs.
enum Order {
    Tune(Change),
    Route(RouteAsk),
    Peer(PeerAsk),
    Fault(FaultAsk),
}

impl Order {
    fn give(&self, front: &Inspection) -> Result<(), String> {
        match self {
            Order::Tune(change) => front.tune(*change).map_err(|e| e.to_string()),
            Order::Route(ask) => {
                let (done, _) = front.routes(Some(*ask)).map_err(|e| e.to_string())?;
                done.map_err(|e| e.to_string())
            }
            Order::Peer(ask) => {
                let (done, _) = front.by_hand(Some(ask)).map_err(|e| e.to_string())?;
                done.map_err(|e| e.to_string())
            }
            Order::Fault(ask) => {
                let (done, _) = front.faults(Some(*ask)).map_err(|e| e.to_string())?;
                done.map(drop).map_err(|e| e.to_string())
            }
        }
    }
}

/// A change of a node that runs.
struct Step {
    /// Words for who asked.
    told: String,
    /// Name of the thing that it changes.
    name: &'static str,
    to: Order,
    /// Order that takes it back.
    back: Order,
}

/// Told where a change was not taken back.
const LEFT: &str = "; not all of it could be taken back";

/// Makes steps, all or none.
fn run(front: &Inspection, steps: &[Step]) -> Result<(), String> {
    for (i, step) in steps.iter().enumerate() {
        if let Err(e) = step.to.give(front) {
            // Some lcores may have taken it: that they do not take it back tells nothing.
            let _ = step.back.give(front);
            let left = if undo(front, steps.get(..i).unwrap_or_default()) { "" } else { LEFT };
            return Err(format!("{}: {e}{left}", step.name));
        }
    }
    Ok(())
}

/// Takes steps back, the last first; gives whether all are.
fn undo(front: &Inspection, steps: &[Step]) -> bool {
    steps.iter().rev().filter(|s| s.back.give(front).is_err()).count() == 0
}

/// Steps that make routes others: those that go, so that one may come again otherwise, and those that come.
fn reroutes(now: &[Route], then: &[Route]) -> (Vec<Step>, Vec<Step>) {
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
    (gone.collect(), new.collect())
}

/// Steps that make the peers by hand others: those that go, so that one may come again otherwise, and those that come.
fn repeers(now: &[PeerByHand], then: &[PeerByHand]) -> (Vec<Step>, Vec<Step>) {
    let del = |p: &PeerByHand| Some(Order::Peer(PeerAsk::Del { primary: p.primary()?, nids: Vec::new() }));
    let add = |p: &PeerByHand| Order::Peer(PeerAsk::Add(p.clone()));
    let gone = now.iter().filter(|p| !then.contains(p)).filter_map(|p| {
        Some(Step { told: format!("peer: {p} is gone"), name: "peer", to: del(p)?, back: add(p) })
    });
    let new = then.iter().filter(|p| !now.contains(p)).filter_map(|p| {
        Some(Step { told: format!("peer: {p} is new"), name: "peer", to: add(p), back: del(p)? })
    });
    (gone.collect(), new.collect())
}

/// Steps that make the fault rules others. Rules are tried in their order, so all behind the first one that is other go, the last first, and
/// come again.
fn rerules(now: &[FaultRule], then: &[FaultRule]) -> (Vec<Step>, Vec<Step>) {
    let of = |rules: &[FaultRule]| {
        let (late, early): (Vec<FaultRule>, Vec<FaultRule>) =
            rules.iter().copied().partition(fault_rules::delays);
        [early, late]
    };
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    for (now, then) in of(now).iter().zip(&of(then)) {
        let same = now.iter().zip(then).take_while(|(a, b)| a == b).count();
        let step = |told: &str, r: &FaultRule, to: FaultAsk, back: FaultAsk| Step {
            told: format!("fault: {} is {told}", fault_rules::words(r)),
            name: "fault",
            to: Order::Fault(to),
            back: Order::Fault(back),
        };
        let (add, remove) = (|r: &FaultRule| FaultAsk::Add(*r), |r: &FaultRule| FaultAsk::Remove(*r));
        gone.extend(now.iter().skip(same).rev().map(|r| step("gone", r, remove(r), add(r))));
        new.extend(then.iter().skip(same).map(|r| step("new", r, add(r), remove(r))));
    }
    (gone, new)
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
    /// An outcome, from a node's answer.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Drop and delay rules are tried apart; what stands before the first difference stays, with its counts.
    #[test]
    fn fault_rules_come_in_the_order_of_the_file() {
        let all = |words: &[&str]| -> Vec<FaultRule> {
            let typed = |w: &&str| fault_rules::typed(&w.replace("BETWEEN", "source=* dest=*")).unwrap();
            words.iter().map(typed).collect()
        };
        let (a, b, c) = ("drop BETWEEN rate=1", "drop BETWEEN rate=2", "drop BETWEEN rate=3");
        let late = "delay BETWEEN rate=1 latency=2";
        let told = |now: &[&str], then: &[&str]| {
            let (gone, new) = rerules(&all(now), &all(then));
            let short = |s: &Step| s.told.replace("fault: ", "").replace("source=* dest=*", "BETWEEN");
            (gone.iter().map(short).collect::<Vec<_>>(), new.iter().map(short).collect::<Vec<_>>())
        };
        let is = |w: &str, what: &str| format!("{w} is {what}");
        assert_eq!(told(&[a, late, b], &[a, b, late]), (vec![], vec![]), "the kinds do not mix");
        assert_eq!(told(&[a, b], &[a, b, c, late]), (vec![], vec![is(c, "new"), is(late, "new")]));
        let (gone, new) = told(&[a, b, c, late], &[a, c, b]);
        assert_eq!(gone, [is(c, "gone"), is(b, "gone"), is(late, "gone")]);
        assert_eq!(new, [is(c, "new"), is(b, "new")]);
        assert_eq!(told(&[a, a], &[a]), (vec![is(a, "gone")], vec![]));
    }
}
