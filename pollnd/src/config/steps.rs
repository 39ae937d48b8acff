//! Steps that make a node that runs another, each with its way back.

use transport::lnd::tunables::{ALL, Change};
use transport::lnd::{Config, PeerByHand, Route};
use transport::lnet::by_hand::PeerAsk;
use transport::lnet::faults::{FaultAsk, FaultRule};
use transport::lnet::routes::{RouteAsk, RouteView};
use transport::node::inspect::Inspection;

use super::merge::{self, Loaded};
use super::own_nis::{Nis, Renewal};
use super::reader::CREDITS;
use super::yaml::Place;
use crate::args::NodeArgs;
use crate::fault_rules;
use crate::inspect::failure::Failure;

/// An order to a node that runs.
enum Order {
    Tune(Change),
    Route(RouteAsk),
    Peer(PeerAsk),
    Fault(FaultAsk),
}

impl Order {
    fn give(&self, front: &Inspection) -> Result<(), Failure> {
        match self {
            Order::Tune(change) => Ok(front.tune(*change).map_err(|e| e.to_string())?),
            Order::Route(ask) => {
                let (done, _) = front.routes(Some(*ask)).map_err(|e| e.to_string())?;
                done.map_err(|e| Failure::numbered(e, e.errno()))
            }
            Order::Peer(ask) => {
                let (done, _) = front.by_hand(Some(ask)).map_err(|e| e.to_string())?;
                done.map_err(|e| Failure::numbered(e, e.errno()))
            }
            Order::Fault(ask) => {
                let (done, _) = front.faults(Some(*ask)).map_err(|e| e.to_string())?;
                Ok(done.map(drop).map_err(|e| e.to_string())?)
            }
        }
    }
}

/// A change of a node that runs.
pub(super) struct Step {
    /// Words for who asked.
    told: String,
    /// Name of the thing that it changes.
    name: &'static str,
    /// The place in the file that says it, if it does.
    at: Option<Place>,
    to: Order,
    /// Order that takes it back.
    back: Order,
}

/// Told where a change was not taken back.
const LEFT: &str = "; not all of it could be taken back";

/// Puts the place in the file before a failure, where there is one, and `left` behind it.
fn at(file: &Loaded, at: Option<Place>, e: Failure, left: &str) -> Failure {
    let place = at.map_or_else(String::new, |at| format!("{}: ", file.at(at)));
    Failure { text: format!("{place}{}{left}", e.text), ..e }
}

/// Makes steps, all or none.
fn run(front: &Inspection, file: &Loaded, steps: &[Step]) -> Result<(), Failure> {
    for (i, step) in steps.iter().enumerate() {
        if let Err(e) = step.to.give(front) {
            // Some lcores may have taken it: that they do not take it back tells nothing.
            let _ = step.back.give(front);
            let left = if undo(front, steps.get(..i).unwrap_or_default()) { "" } else { LEFT };
            let named = Failure { text: format!("{}: {}", step.name, e.text), ..e };
            return Err(at(file, step.at, named, left));
        }
    }
    Ok(())
}

/// Takes steps back, the last first; gives whether all are.
fn undo(front: &Inspection, steps: &[Step]) -> bool {
    steps.iter().rev().filter(|s| s.back.give(front).is_err()).count() == 0
}

/// Lists of a node that orders change one by one.
pub(super) struct Lists {
    pub(super) routes: Vec<Route>,
    pub(super) peers: Vec<PeerByHand>,
    pub(super) faults: Vec<FaultRule>,
}

impl Lists {
    /// Those of a node, now.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn of(front: &Inspection) -> Result<Lists, String> {
        let (_, routes) = front.routes(None).map_err(|e| e.to_string())?;
        let (_, peers) = front.by_hand(None).map_err(|e| e.to_string())?;
        let (_, faults) = front.faults(None).map_err(|e| e.to_string())?;
        Ok(Lists {
            routes: routes.iter().map(RouteView::route).collect(),
            peers,
            faults: faults.iter().map(|v| v.rule).collect(),
        })
    }
}

/// Steps that make routes others: those that go, those that are changed in place, so that no message is without them, and those that come.
fn reroutes(file: &Loaded, now: &[Route], then: &[Route]) -> (Vec<Step>, Vec<Step>) {
    let same = |r: &Route, all: &[Route]| {
        let mut all = all.iter().copied();
        all.find(|o| (o.net, o.gateway) == (r.net, r.gateway))
    };
    let said = |r: &Route| {
        let mut all = file.model.routes.iter();
        all.find(|(o, _)| (o.net, o.gateway) == (r.net, r.gateway)).map(|(_, at)| *at)
    };
    let step = |r: &Route, told, to, back| Step {
        told,
        name: "route",
        at: said(r),
        to: Order::Route(to),
        back: Order::Route(back),
    };
    let del = |r: &Route| RouteAsk::Del { net: r.net, gateway: r.gateway };
    let goes = |r: &Route| match same(r, then) {
        None => {
            let told = format!("route: {} {} is gone", r.net, r.gateway);
            Some(step(r, told, del(r), RouteAsk::Add(*r)))
        }
        Some(new) if new != *r => Some(step(r, rerouted(r, &new), RouteAsk::Set(new), RouteAsk::Set(*r))),
        Some(_) => None,
    };
    let comes = |r: &&Route| same(r, now).is_none();
    let new = |r: &Route| step(r, format!("route: {r} is new"), RouteAsk::Add(*r), del(r));
    (now.iter().filter_map(goes).collect(), then.iter().filter(comes).map(new).collect())
}

/// Words for the hops and the priority of a route that are others now.
fn rerouted(now: &Route, then: &Route) -> String {
    let hops = |r: &Route| r.hop.map_or_else(|| "not said".to_owned(), |h| h.to_string());
    let hops = (now.hop != then.hop).then(|| was("hop", &hops(now), &hops(then)));
    let (before, after) = (now.priority, then.priority);
    let priority = (before != after).then(|| was("priority", &before.to_string(), &after.to_string()));
    let all: Vec<String> = hops.into_iter().chain(priority).collect();
    format!("route: {} {}: {}", now.net, now.gateway, all.join("; "))
}

/// Steps that make the peers by hand others: those that go, so that one may come again otherwise, and those that come. One that gets NIDs stays.
fn repeers(file: &Loaded, now: &[PeerByHand], then: &[PeerByHand]) -> (Vec<Step>, Vec<Step>) {
    let del = |p: &PeerByHand| Some(Order::Peer(PeerAsk::Del { primary: p.primary()?, nids: Vec::new() }));
    let add = |p: &PeerByHand| Order::Peer(PeerAsk::Add(p.clone()));
    // The same with NIDs behind those that it has.
    let grows = |p: &PeerByHand, q: &PeerByHand| {
        p.multi_rail == q.multi_rail && q.nids.len() > p.nids.len() && q.nids.starts_with(&p.nids)
    };
    let said = |p: &PeerByHand| {
        let mut all = file.model.peers.iter();
        all.find(|(o, _)| o.primary() == p.primary()).map(|(_, at)| *at)
    };
    let gone = now.iter().filter(|p| !then.iter().any(|q| q == *p || grows(p, q))).filter_map(|p| {
        let told = format!("peer: {p} is gone");
        Some(Step { told, name: "peer", at: said(p), to: del(p)?, back: add(p) })
    });
    let new = then.iter().filter(|p| !now.contains(p)).filter_map(|p| {
        let Some(less) = now.iter().find(|q| grows(q, p)) else {
            let told = format!("peer: {p} is new");
            return Some(Step { told, name: "peer", at: said(p), to: add(p), back: del(p)? });
        };
        let (primary, nids) = (p.primary()?, p.nids.get(less.nids.len()..)?.to_vec());
        let all = nids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let told = format!("peer: {primary} has {all}, too");
        let at = said(p);
        Some(Step { told, name: "peer", at, to: add(p), back: Order::Peer(PeerAsk::Del { primary, nids }) })
    });
    (gone.collect(), new.collect())
}

/// Steps that make the fault rules others. Rules are tried in their order, so all behind the first one that is other go, the last first, and
/// come again.
fn rerules(file: &Loaded, now: &[FaultRule], then: &[FaultRule]) -> (Vec<Step>, Vec<Step>) {
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
            at: file.model.faults.iter().find(|(o, _)| o == r).map(|(_, at)| *at),
            to: Order::Fault(to),
            back: Order::Fault(back),
        };
        let (add, remove) = (|r: &FaultRule| FaultAsk::Add(*r), |r: &FaultRule| FaultAsk::Remove(*r));
        gone.extend(now.iter().skip(same).rev().map(|r| step("gone", r, remove(r), add(r))));
        new.extend(then.iter().skip(same).map(|r| step("new", r, add(r), remove(r))));
    }
    (gone, new)
}

/// Words for a value that is another now.
pub(super) fn was(name: &str, before: &str, after: &str) -> String {
    let shown = |s: &str| if s.is_empty() { "nothing".to_owned() } else { s.to_owned() };
    format!("{name}: was {}, is {}", shown(before), shown(after))
}

/// Words for a value, at its place in the file if that has it, that needs a restart.
pub(super) fn differs(name: &str, wanted: &str, now: &str, at: Option<Place>, file: &Loaded) -> String {
    let shown = |s: &str| if s.is_empty() { "nothing".to_owned() } else { s.to_owned() };
    let place = at.map_or_else(|| "where nothing is said".to_owned(), |at| file.at(at));
    format!("{name}: {} ({place}), and the node runs with {}", shown(wanted), shown(now))
}

/// Steps that make the tunables of `before` those of `after`, but for credits, which are looked at NI by NI; and those that need a restart.
pub(super) fn retunes(before: &Config, after: &Config, file: &Loaded) -> (Vec<Step>, Vec<String>) {
    let (mut steps, mut restart) = (Vec::new(), Vec::new());
    for t in ALL.iter().filter(|t| t.name != CREDITS && t.value(before) != t.value(after)) {
        let (was_so, is) = (t.value(before), t.value(after));
        match Change::towards(before, after, t).and_then(|c| Ok((c, Change::towards(after, before, t)?))) {
            Ok((to, back)) => steps.push(Step {
                told: was(t.name, &was_so, &is),
                name: t.name,
                at: file.model.tunables().find(|s| s.0 == t.name).map(|s| s.2.at),
                to: Order::Tune(to),
                back: Order::Tune(back),
            }),
            Err(_) => {
                let said = file.model.tunables().find(|s| s.0 == t.name).map(|s| s.2);
                let name = said.map_or(t.name, |s| s.key.name);
                restart.push(differs(name, &is, &was_so, said.map(|s| s.at), file));
            }
        }
    }
    (steps, restart)
}

/// A change of a node: all of it is done, or nothing.
pub(super) struct Course<'a> {
    file: &'a Loaded,
    /// Done before NIs come.
    first: Vec<Step>,
    renewal: Renewal,
    /// Done then: routes may lead by NIs that are new, or to networks that become the node's own.
    fresh: Vec<Step>,
}

impl<'a> Course<'a> {
    /// The one by a file of tunables, of NIs, and of these lists.
    pub(super) fn new(
        file: &'a Loaded,
        tuned: Vec<Step>,
        renewal: Renewal,
        now: &Lists,
        then: &Lists,
    ) -> Course<'a> {
        let (mut first, mut fresh) = (tuned, Vec::new());
        for (goes, comes) in [
            reroutes(file, &now.routes, &then.routes),
            repeers(file, &now.peers, &then.peers),
            rerules(file, &now.faults, &then.faults),
        ] {
            first.extend(goes);
            fresh.extend(comes);
        }
        Course { file, first, renewal, fresh }
    }

    /// Makes a node of the NIs `nis` what it says, whose arguments are to be `a` then; gives what is other now.
    ///
    /// # Errors
    /// The step that failed, with its place in the file, and whether all before it could be taken back.
    pub(super) fn make(self, front: &Inspection, nis: &Nis, a: &NodeArgs) -> Result<Vec<String>, Failure> {
        let Course { file, first, renewal, fresh } = self;
        run(front, file, &first)?;
        let back = || if undo(front, &first) { "" } else { LEFT };
        let came = nis.begin(front, a, &renewal).map_err(|(nid, e)| {
            let said = merge::named(file).find(|n| n.0 == nid).map(|n| n.1);
            at(file, said, e, back())
        })?;
        run(front, file, &fresh).map_err(|e| {
            let left = nis.take_back(front, a, &renewal, renewal.new_ones());
            at(file, None, e, &format!("{left}{}", back()))
        })?;
        let all = first.into_iter().map(|s| s.told).chain(came);
        let mut told: Vec<String> = all.chain(fresh.into_iter().map(|s| s.told)).collect();
        told.extend(nis.finish(front, &renewal)?);
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source::Source;

    /// A file that says nothing.
    fn nothing() -> Loaded {
        merge::read(Source::named("none.yaml", "global: {}\n")).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A route that is to have another priority is never away, and what takes it back is its old one.
    #[test]
    fn a_route_that_stays_is_changed_in_place() {
        let all = |words: &[&str]| words.iter().map(|w| w.parse().unwrap()).collect::<Vec<Route>>();
        let now = all(&["tcp1 10.0.0.2@tcp", "tcp2 10.0.0.2@tcp 2 3", "tcp3 10.0.0.2@tcp"]);
        let then =
            all(&["tcp3 10.0.0.2@tcp", "tcp1 10.0.0.2@tcp -1 7", "tcp2 10.0.0.2@tcp", "tcp2 10.0.0.3@tcp"]);
        let (first, fresh) = reroutes(&nothing(), &now, &then);
        let told = |all: &[Step]| all.iter().map(|s| s.told.clone()).collect::<Vec<_>>();
        assert_eq!(
            told(&first),
            [
                "route: tcp1 10.0.0.2@tcp: priority: was 0, is 7",
                "route: tcp2 10.0.0.2@tcp: hop: was 2, is not said; priority: was 3, is 0",
            ]
        );
        assert_eq!(told(&fresh), ["route: tcp2 10.0.0.3@tcp is new"]);
        for (step, (old, new)) in first.iter().zip([(now[0], then[1]), (now[1], then[2])]) {
            let Step { to: Order::Route(to), back: Order::Route(back), .. } = step else { panic!() };
            assert_eq!((*to, *back), (RouteAsk::Set(new), RouteAsk::Set(old)));
        }
    }

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
            let (gone, new) = rerules(&nothing(), &all(now), &all(then));
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
