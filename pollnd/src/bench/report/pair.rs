//! The set between two nodes of this process: over the virtio link on one lcore and on two, and over kernel sockets.

use std::sync::Arc;

use bench::ctl::Ctl;
use bench::measure::MeasureError;
use bench::pair::NothingLost;
use bench::report::RanOn;
use bench::selftest::Orders;
use bench::sock::{self, SockPair};
use bench::suite::plan::Plan;
use bench::suite::run::{self, Measured};
use bench::suite::{Carrier, Case, Report, Side};
use bench::workload::{ClientConfig, Intake};
use indicatif::ProgressBar;
use transport::node::NodeEnd;
use transport::node::sock::IdleMode;

use super::ReportArgs;
use crate::args::common::{OverLink, TableOut};
use crate::bench::brw::{server, tester};
use crate::bench::sides::{self, Eal};

/// The sides that this machine has.
pub(super) fn sides(a: &ReportArgs) -> Vec<Side> {
    let link = |lcores| Side { carrier: Carrier::Link, lcores };
    let links = match a.sockets_only {
        true => Vec::new(),
        false => (1..=sides::lcores()).map(link).collect(),
    };
    links.into_iter().chain([Side { carrier: Carrier::Sockets, lcores: 0 }]).collect()
}

/// One side in one round.
#[derive(Default)]
struct Turn {
    measured: Measured,
    lost: Vec<NothingLost>,
}

/// The parts of the set, and whoever is told of each case.
struct Set<'a> {
    plan: &'a Plan,
    bar: &'a ProgressBar,
}

impl Set<'_> {
    fn tick(&self, side: Side, case: Case) {
        self.bar.set_message(format!("{}, {}", side.name(), case.name()));
        self.bar.inc(1);
    }

    /// Raw messages on a pair that runs.
    fn raw(
        &self,
        side: Side,
        ctl: &Ctl,
        turn: &mut Turn,
        stop: impl FnOnce() -> Result<(Vec<NodeEnd>, u64), String>,
    ) -> Result<(), String> {
        let [cases, _] = self.plan.parts();
        let got = run::raw(ctl, &cases, self.plan.options.seconds, &mut |c| self.tick(side, c));
        turn.ended(ctl, got, stop()?)
    }

    /// lnet_selftest on a pair that runs.
    fn brw(
        &self,
        side: Side,
        (ctl, orders): (&Ctl, &Orders),
        turn: &mut Turn,
        stop: impl FnOnce() -> Result<(Vec<NodeEnd>, u64), String>,
    ) -> Result<(), String> {
        let [_, cases] = self.plan.parts();
        let got = orders.wait(ctl).and_then(|()| {
            run::brw(ctl, orders, &cases, self.plan.options.seconds, &mut |c| self.tick(side, c))
        });
        turn.ended(ctl, got, stop()?)
    }

    fn brw_cases(&self) -> Vec<bench::selftest::Case> {
        let [_, cases] = self.plan.parts();
        cases.iter().map(run::brw_case).collect()
    }

    fn sockets(&self) -> Result<Turn, String> {
        let side = Side { carrier: Carrier::Sockets, lcores: 0 };
        let (client, peer_credits) = (ClientConfig::default(), self.plan.credits());
        let p = SockPair { idle: IdleMode::Block, intake: Intake::Lent, client, peer_credits };
        let (mut turn, [raw, brw]) = (Turn::default(), self.plan.parts());
        if !raw.is_empty() {
            let ctl = Arc::new(Ctl::default());
            let running = sock::start(p, ctl.clone())?;
            self.raw(side, &ctl, &mut turn, || running.stop().map(|e| (e, 0)))?;
        }
        if !brw.is_empty() {
            let (ctl, orders) = (Arc::new(Ctl::default()), Arc::new(Orders::default()));
            let client = tester(&ctl, &orders, self.brw_cases());
            let running = sock::start_with(p, &ctl, client, server(&orders))?;
            self.brw(side, (&ctl, &orders), &mut turn, || running.stop().map(|e| (e, 0)))?;
        }
        Ok(turn)
    }

    #[cfg(feature = "dpdk")]
    fn link(&self, eal: &Eal, one: bool) -> Result<Turn, String> {
        use bench::link::{self, Link, LinkConfig};

        use crate::pairs;

        let side = Side { carrier: Carrier::Link, lcores: if one { 1 } else { 2 } };
        let dir = std::env::temp_dir();
        let (threads, enter, idle) = pairs::threads(one)?;
        let cfg = LinkConfig { threads, peer_credits: self.plan.credits(), ..LinkConfig::default() };
        let (mut turn, [raw, brw]) = (Turn::default(), self.plan.parts());
        let stop = |l: Link| l.stop().map(|e| (e.nodes, e.buffers_left));
        if !raw.is_empty() {
            let ctl = Arc::new(Ctl::default());
            let l = link::start(eal, &dir, cfg, &ctl, &enter, idle)?;
            self.raw(side, &ctl, &mut turn, || stop(l))?;
        }
        if !brw.is_empty() {
            let (ctl, orders) = (Arc::new(Ctl::default()), Arc::new(Orders::default()));
            let client = tester(&ctl, &orders, self.brw_cases());
            let l = link::start_with(eal, &dir, cfg, &ctl, (&enter, idle), client, server(&orders))?;
            self.brw(side, (&ctl, &orders), &mut turn, || stop(l))?;
        }
        Ok(turn)
    }

    #[cfg(not(feature = "dpdk"))]
    fn link(&self, eal: &Eal, _: bool) -> Result<Turn, String> {
        match *eal {}
    }
}

impl Turn {
    fn ended(
        &mut self,
        ctl: &Ctl,
        got: Result<Measured, MeasureError>,
        (ends, left): (Vec<NodeEnd>, u64),
    ) -> Result<(), String> {
        self.lost.push(NothingLost::of(ctl, &ends).and_left(left));
        self.measured.extend(got.map_err(|e| e.to_string())?);
        Ok(())
    }
}

/// Measures all rounds on all sides, which take turns in each round.
///
/// # Errors
/// DPDK does not start, or something failed.
pub(super) fn measure(
    a: &ReportArgs,
    plan: &Plan,
    bar: &ProgressBar,
    r: &mut Report,
) -> Result<RanOn, String> {
    let set = Set { plan, bar };
    // Its own line of progress would stand beside ours.
    let out = TableOut { json: true };
    let over = OverLink { sockets_only: a.sockets_only, out, dpdk: a.node.dpdk.clone() };
    let name = ("report", plan.options.rounds);
    let s = sides::measure(name, &over, |eal, one| set.link(eal, one), || set.sockets())?;
    let all = || s.one.iter().chain(&s.two).chain(&s.sockets);
    let lost: Vec<NothingLost> = all().flat_map(|t| t.lost.clone()).collect();
    r.nothing_lost = NothingLost::sum(&lost).ok;
    for (carrier, lcores, turns) in
        [(Carrier::Link, 1, &s.one), (Carrier::Link, 2, &s.two), (Carrier::Sockets, 0, &s.sockets)]
    {
        let rounds: Vec<Measured> = turns.iter().map(|t| t.measured.clone()).collect();
        r.add(Side { carrier, lcores }, &rounds);
    }
    Ok(s.ran_on)
}
