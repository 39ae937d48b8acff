//! The set against a node elsewhere, as far as that serves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bench::ctl::{Ctl, Load, Traffic};
use bench::measure::{MeasureError, rest, wait_for};
use bench::pair::NothingLost;
use bench::report::RanOn;
use bench::selftest::{Orders, apps};
use bench::suite::plan::Plan;
use bench::suite::run::{self, Measured};
use bench::suite::{Carrier, Case, LeftOut, Op, Report, Side};
use bench::workload::{Client, ClientConfig};
use dataplane::clock::pause;
use indicatif::ProgressBar;
use transport::node::{Order, joined};
use transport::wire::Nid;

use super::ReportArgs;
use crate::access::{self, Access};
use crate::args::Via;
use crate::bench::brw::tester;
use crate::running::{Node, Role, Setup};
use crate::signals::Interrupt;
use crate::{assemble, limits, out, settings, why};

/// Seconds in which a node that serves GETs has answered one.
const ANSWERS_S: u64 = 3;

/// The orders to both applications of the node.
struct Orderly {
    raw: Arc<Ctl>,
    brw: Arc<Ctl>,
    orders: Arc<Orders>,
}

/// Time for the end of a session that is given up.
const PATIENCE: Duration = Duration::from_secs(5);

const SIDE: Side = Side { carrier: Carrier::Peer, lcores: 0 };

fn start(
    a: &ReportArgs,
    target: Nid,
    plan: &Plan,
    o: &Orderly,
    told: &Arc<Interrupt>,
) -> Result<Node, String> {
    let (mut node, via) = (a.node.clone(), Via { nid: a.nid, through: None });
    let claim = match access::find(&via, &mut node, target, "bench report")? {
        Access::Own(claim) => claim,
        Access::Node(_) => {
            return Err(format!(
                "--nid {}: a node of it runs here, and this command measures over one of its own: give --nid another address",
                node.nid
            ));
        }
    };
    let [_, brw] = plan.parts(SIDE);
    let client = ClientConfig { bulk_flight: plan.credits().into(), ..ClientConfig::default() };
    settings::peer_credits(&node)?;
    let (ctl, own) = (o.raw.clone(), node.nid);
    let tester = tester(&o.brw, &o.orders, brw.iter().map(run::brw_case).collect());
    let ids = apps()?;
    let make = Box::new(move |backing: &_| {
        let client = Client::new(client, ctl, target, backing).map_err(|e| e.to_string())?;
        let tester = tester([own, target], backing)?.unforced();
        Ok(Box::new(joined(client, tester, [ids.server, ids.client, ids.console])) as _)
    });
    let setup = Setup::new(Role::Dialler("bench report"), claim).interrupted(told.clone());
    assemble::start(&node, setup, make)
}

/// Whether the peer answers a GET.
fn serves(ctl: &Ctl) -> Result<(), MeasureError> {
    let done = || ctl.completed.load(Ordering::Relaxed);
    let before = done();
    ctl.set_load(Some(Load { len: 64, flight: 1 }));
    ctl.set_traffic(Traffic::Get);
    wait_for(ctl, "the answer to a GET", ANSWERS_S, || done() > before)?;
    rest(ctl)
}

/// Cases of raw messages, and of pings.
fn split(plan: &Plan) -> [Vec<Case>; 2] {
    let [raw, _] = plan.parts(SIDE);
    let (pings, raw) = raw.into_iter().partition(|c| c.op == Op::Ping);
    [raw, pings]
}

fn names(cases: &[Case]) -> String {
    let mut ops: Vec<Op> = cases.iter().map(|c| c.op).collect();
    ops.dedup();
    ops.iter().map(|op| op.name()).collect::<Vec<_>>().join(", ")
}

/// Measures all rounds.
///
/// # Errors
/// The peer does not answer pings, or stops to answer what it did.
pub(super) fn measure(
    a: &ReportArgs,
    target: Nid,
    plan: &Plan,
    bar: &ProgressBar,
    r: &mut Report,
) -> Result<RanOn, String> {
    let o = Orderly { raw: Arc::default(), brw: Arc::default(), orders: Arc::default() };
    o.raw.far.store(true, Ordering::Relaxed);
    let told = Arc::new(Interrupt::default());
    let node = start(a, target, plan, &o, &told)?;
    // A signal ends what is waited for; the node goes on until the session with the peer has ended.
    let (control, over) = (node.control(), Arc::new(AtomicBool::new(false)));
    let (ctls, done, heard) = ([o.raw.clone(), o.brw.clone()], over.clone(), told.clone());
    let watch = limits::thread("ends the measurement", move || {
        while !done.load(Ordering::Relaxed) {
            if heard.ends_session() || control.order() > Order::Run {
                ctls.iter().for_each(|c| c.fail("interrupted"));
            }
            pause(Duration::from_millis(20));
        }
    })?;
    let outcome = rounds(target, plan, bar, r, (&o, &node, &told));
    over.store(true, Ordering::Relaxed);
    let _ = watch.join();
    let asks = plan.cases().iter().any(|c| c.op.is_brw()) && o.orders.client.get().is_some();
    if asks && !o.orders.give_up(PATIENCE, || !node.stopped()) {
        out::note(format_args!(
            "the session of lnet_selftest at {target} may be there still: `pollnd selftest` ends it (new_session --force)"
        ));
    }
    let mut on = RanOn::look();
    (on.dpdk, on.memory) = match node.describe() {
        d if d.starts_with("kernel sockets") => ("DPDK not used".into(), "ordinary pages".into()),
        d => (d.to_owned(), "the node's own".into()),
    };
    let ends = node.stop_after(outcome)?;
    r.nothing_lost = NothingLost::of(&o.raw, &ends).ok;
    Ok(on)
}

fn rounds(
    target: Nid,
    plan: &Plan,
    bar: &ProgressBar,
    r: &mut Report,
    (o, node, told): (&Orderly, &Node, &Interrupt),
) -> Result<(), String> {
    let secs = plan.options.seconds;
    let ([raw, pings], [_, brw]) = (split(plan), plan.parts(SIDE));
    let mut tick = |case: Case| {
        bar.set_message(case.name());
        bar.inc(1);
    };
    let failed = |e: MeasureError| why::failed(node.front(), target, e.to_string());
    let mut rounds: Vec<Measured> = Vec::new();
    let (mut with_raw, mut with_brw) = (!raw.is_empty(), !brw.is_empty());
    for n in 0..plan.options.rounds {
        let mut got = run::raw(&o.raw, &pings, secs, &mut tick).map_err(failed)?;
        if n == 0
            && with_raw
            && let Err(e) = serves(&o.raw)
        {
            let why = format!("no pollnd node serves {target}: {e}");
            r.left_out.push(LeftOut { what: names(&raw), why });
            with_raw = false;
        }
        if with_raw {
            got.extend(run::raw(&o.raw, &raw, secs, &mut tick).map_err(failed)?);
        }
        if with_brw {
            match run::brw(&o.brw, &o.orders, &brw, secs, &mut tick) {
                Ok(all) => got.extend(all),
                Err(e) if n == 0 && !node.stopped() && !told.ends_session() => {
                    let why = format!("{target} does not serve lnet_selftest: {e}");
                    r.left_out.push(LeftOut { what: names(&brw), why });
                    with_brw = false;
                }
                Err(e) => return Err(failed(e)),
            }
        }
        rounds.push(got);
    }
    if with_brw {
        o.orders.end(&o.brw).map_err(failed)?;
    }
    r.add(SIDE, &rounds);
    Ok(())
}
