//! The set between two nodes of this process: over the virtio link on one lcore and on more, and over kernel sockets.

use std::sync::Arc;

use bench::ctl::Ctl;
use bench::measure::MeasureError;
use bench::pair::NothingLost;
use bench::report::RanOn;
use bench::selftest::Orders;
use bench::sock::{self, SockPair};
use bench::suite::plan::{self, Plan};
use bench::suite::run::{self, Measured};
use bench::suite::{Carrier, Case, LeftOut, Report, Side};
use bench::workload::{ClientConfig, Intake};
use indicatif::ProgressBar;
use transport::node::NodeEnd;
use transport::node::sock::IdleMode;

use super::{ReportArgs, in_order};
use crate::bench::brw::{server, tester};
use crate::bench::sides::{self, Eal};
use crate::cpus;

/// Sides to be measured.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// In order.
    pub(super) sides: Vec<Side>,
    /// Those for which there is too little memory.
    left_out: Vec<LeftOut>,
    /// Memory of the link in MiB, where it is more than the usual.
    memory_mb: Option<u32>,
}

impl Chosen {
    /// Those that are asked for, or that this machine has CPUs for.
    pub(super) fn of(a: &ReportArgs) -> Chosen {
        let lcores = match (a.sockets_only, a.link_lcores.is_empty()) {
            (true, _) => Vec::new(),
            (false, true) => plan::lcores(free_cpus()),
            (false, false) => in_order(&a.link_lcores, &[]),
        };
        let mut chosen = fitting(&lcores, &memory::Memory::look(&a.node.dpdk));
        chosen.sides.push(Side { carrier: Carrier::Sockets, lcores: 0 });
        chosen
    }

    /// Numbers of lcores of the link.
    pub(super) fn lcores(&self) -> Vec<u32> {
        self.sides.iter().filter(|s| s.carrier == Carrier::Link).map(|s| s.lcores).collect()
    }
}

/// CPUs that this process may use, and its quota allows it.
fn free_cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// Sides of the link of so many lcores each. On huge pages, those of more than two that take more than there are are left out: with
/// the machine's ordinary pages in their place the others would be no more what they were in earlier reports.
fn fitting(lcores: &[u32], m: &memory::Memory) -> Chosen {
    let mut chosen = Chosen::default();
    for side in lcores.iter().map(|n| Side { carrier: Carrier::Link, lcores: *n }) {
        let takes = if side.is_wide() { m.takes(side.lcores) } else { 0 };
        if let Some(huge) = m.huge_mb.filter(|huge| takes > *huge) {
            let why = format!(
                "it takes {takes} MiB of huge pages, and this process can have {huge}: reserve more (`pollnd doctor --fix`), or give \
                 -- --no-huge to measure all on ordinary pages"
            );
            chosen.left_out.push(LeftOut { what: side.name(), why });
            continue;
        }
        chosen.memory_mb = chosen.memory_mb.max((takes > memory::USUAL_MB).then_some(takes));
        chosen.sides.push(side);
    }
    chosen
}

/// Memory of the link.
#[cfg(feature = "dpdk")]
mod memory {
    use std::path::Path;

    use bench::link::LinkConfig;
    use bench::wide;

    use crate::args::common::EalArgs;
    pub(super) use crate::pairs::USUAL_MB;

    /// Memory that there is.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Memory {
        /// Huge pages that this process can have, in MiB, if the link is on them.
        pub(super) huge_mb: Option<u32>,
    }

    impl Memory {
        /// Looks at the machine, as the EAL does.
        pub(super) fn look(dpdk: &EalArgs) -> Memory {
            let mb = u32::try_from(hugepages::pool::usable(Path::new("/")).bytes >> 20).unwrap_or(u32::MAX);
            let none = dpdk.eal.iter().any(|a| a == "--no-huge");
            Memory { huge_mb: (mb >= USUAL_MB && !none).then_some(mb) }
        }

        /// Memory that nodes of so many lcores together take, in MiB.
        pub(super) fn takes(&self, lcores: u32) -> u32 {
            wide::memory_mb(&LinkConfig::default(), u16::try_from(lcores / 2).unwrap_or(u16::MAX))
        }
    }
}

/// There is no link to take any.
#[cfg(not(feature = "dpdk"))]
mod memory {
    use crate::args::common::EalArgs;

    pub(super) const USUAL_MB: u32 = 512;

    #[derive(Clone, Copy, Debug)]
    pub(super) struct Memory {
        pub(super) huge_mb: Option<u32>,
    }

    impl Memory {
        pub(super) fn look(_: &EalArgs) -> Memory {
            Memory { huge_mb: None }
        }

        pub(super) fn takes(&self, _: u32) -> u32 {
            0
        }
    }
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
        let [cases, _] = self.plan.parts(side);
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
        let [_, cases] = self.plan.parts(side);
        let got = orders.wait(ctl).and_then(|()| {
            run::brw(ctl, orders, &cases, self.plan.options.seconds, &mut |c| self.tick(side, c))
        });
        turn.ended(ctl, got, stop()?)
    }

    fn brw_cases(&self, side: Side) -> Vec<bench::selftest::Case> {
        let [_, cases] = self.plan.parts(side);
        cases.iter().map(run::brw_case).collect()
    }

    fn sockets(&self) -> Result<Turn, String> {
        let side = Side { carrier: Carrier::Sockets, lcores: 0 };
        let (client, peer_credits) = (ClientConfig::default(), self.plan.credits());
        let p = SockPair { idle: IdleMode::Block, intake: Intake::Lent, client, peer_credits };
        let (mut turn, [raw, brw]) = (Turn::default(), self.plan.parts(side));
        if !raw.is_empty() {
            let ctl = Arc::new(Ctl::default());
            let running = sock::start(p, ctl.clone())?;
            self.raw(side, &ctl, &mut turn, || running.stop().map(|e| (e, 0)))?;
        }
        if !brw.is_empty() {
            let (ctl, orders) = (Arc::new(Ctl::default()), Arc::new(Orders::default()));
            let client = tester(&ctl, &orders, self.brw_cases(side));
            let running = sock::start_with(p, &ctl, client, server(&orders))?;
            self.brw(side, (&ctl, &orders), &mut turn, || running.stop().map(|e| (e, 0)))?;
        }
        Ok(turn)
    }

    #[cfg(feature = "dpdk")]
    fn link(&self, eal: &Eal, side: Side) -> Result<Turn, String> {
        use bench::link::{self, Link, LinkConfig};

        use crate::pairs;

        if side.is_wide() {
            return self.wide(eal, side);
        }
        let dir = std::env::temp_dir();
        let (threads, enter, idle) = pairs::threads(side.lcores == 1)?;
        let cfg = LinkConfig { threads, peer_credits: self.plan.credits(), ..LinkConfig::default() };
        let (mut turn, [raw, brw]) = (Turn::default(), self.plan.parts(side));
        let stop = |l: Link| l.stop().map(|e| (e.nodes, e.buffers_left));
        if !raw.is_empty() {
            let ctl = Arc::new(Ctl::default());
            let l = link::start(eal, &dir, cfg, &ctl, &enter, idle)?;
            self.raw(side, &ctl, &mut turn, || stop(l))?;
        }
        if !brw.is_empty() {
            let (ctl, orders) = (Arc::new(Ctl::default()), Arc::new(Orders::default()));
            let client = tester(&ctl, &orders, self.brw_cases(side));
            let l = link::start_with(eal, &dir, cfg, &ctl, (&enter, idle), client, server(&orders))?;
            self.brw(side, (&ctl, &orders), &mut turn, || stop(l))?;
        }
        Ok(turn)
    }

    /// Nodes of several lcores each.
    #[cfg(feature = "dpdk")]
    fn wide(&self, eal: &Eal, side: Side) -> Result<Turn, String> {
        use bench::link::{Link, LinkConfig};
        use bench::wide::{self, MakeApp, Nids};
        use dataplane::cpt::Topology;

        use crate::pairs;

        let dir = std::env::temp_dir();
        let each = u16::try_from(side.lcores / 2).unwrap_or(u16::MAX);
        let machine = Topology::detect().map_err(|e| e.to_string())?;
        let (enter, idle) = pairs::pinned(machine, side.lcores as usize)?;
        let cfg = LinkConfig { peer_credits: self.plan.credits(), ..LinkConfig::default() };
        let (mut turn, [raw, brw]) = (Turn::default(), self.plan.parts(side));
        let stop = |l: Link| l.stop().map(|e| (e.nodes, e.buffers_left));
        if !raw.is_empty() {
            let (l, ctl) = wide::start(eal, &dir, (cfg, each), (&enter, idle))?;
            self.raw(side, &ctl, &mut turn, || stop(l))?;
        }
        if !brw.is_empty() {
            let (ctl, orders) = (Arc::new(Ctl::default()), Arc::new(Orders::default()));
            let (client, server) = (tester(&ctl, &orders, self.brw_cases(side)), server(&orders));
            let apps = |[clients, servers]: &Nids| {
                let (ends, all) = ([clients[0], servers[0]], servers.clone());
                let client: MakeApp = Box::new(move |b| Ok(Box::new(client(ends, b)?.spread(&all, b)?)));
                let server: MakeApp = Box::new(move |b| Ok(Box::new(server(ends, b)?)));
                [vec![client], vec![server]]
            };
            let l = wide::start_apps(eal, &dir, (cfg, each), &ctl, (&enter, idle), apps)?;
            self.brw(side, (&ctl, &orders), &mut turn, || stop(l))?;
        }
        Ok(turn)
    }

    #[cfg(not(feature = "dpdk"))]
    fn link(&self, eal: &Eal, _: Side) -> Result<Turn, String> {
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
    mut chosen: Chosen,
    plan: &Plan,
    bar: &ProgressBar,
    r: &mut Report,
) -> Result<RanOn, String> {
    let set = Set { plan, bar };
    // More than two lcores have no pings.
    chosen.sides.retain(|s| !plan.cases_on(*s).is_empty());
    let lcores = chosen.lcores();
    if let Some(most) = lcores.iter().copied().max().filter(|n| *n > free_cpus()) {
        cpus::mention_quota(u16::try_from(most).ok());
    }
    let mut on = RanOn::look();
    (on.dpdk, on.memory) = ("DPDK not used".into(), "ordinary pages".into());
    let eal = if lcores.is_empty() {
        None
    } else {
        Some(sides::start("report", &a.node.dpdk, chosen.memory_mb, &mut on)?)
    };
    let mut all: Vec<(Side, Vec<Turn>)> = chosen.sides.into_iter().map(|s| (s, Vec::new())).collect();
    for _ in 0..plan.options.rounds {
        for (side, turns) in &mut all {
            turns.push(match &eal {
                Some(eal) if side.carrier == Carrier::Link => set.link(eal, *side)?,
                _ => set.sockets()?,
            });
        }
    }
    if let Some(eal) = eal {
        sides::clean_up(&eal);
    }
    let lost: Vec<NothingLost> = all.iter().flat_map(|(_, t)| t).flat_map(|t| t.lost.clone()).collect();
    r.nothing_lost = NothingLost::sum(&lost).ok;
    r.options.lcores = lcores;
    r.left_out = chosen.left_out;
    for (side, turns) in all {
        let rounds: Vec<Measured> = turns.into_iter().map(|t| t.measured).collect();
        r.add(side, &rounds);
    }
    Ok(on)
}

#[cfg(all(test, feature = "dpdk"))]
mod tests {
    use super::memory::{Memory, USUAL_MB};
    use super::*;

    /// The sides of one lcore and of two stay on the pages that they were on in earlier reports.
    #[test]
    fn sides_of_many_lcores_have_memory_or_are_left_out() {
        let on = |huge_mb| fitting(&[1, 2, 4, 16, 32], &Memory { huge_mb });
        let takes = |lcores| Memory { huge_mb: None }.takes(lcores);
        assert!(takes(4) < USUAL_MB && takes(16) > USUAL_MB && takes(32) > takes(16));
        let few = on(Some(USUAL_MB));
        assert_eq!((few.lcores(), few.memory_mb), (vec![1, 2, 4], None));
        let names: Vec<&str> = few.left_out.iter().map(|l| l.what.as_str()).collect();
        assert_eq!(names, ["virtio link, 16 lcores", "virtio link, 32 lcores"]);
        assert!(few.left_out[0].why.contains("pollnd doctor --fix"), "{:?}", few.left_out);
        let more = on(Some(takes(16)));
        assert_eq!((more.lcores(), more.memory_mb), (vec![1, 2, 4, 16], Some(takes(16))));
        let ordinary = on(None);
        assert_eq!((ordinary.lcores().len(), ordinary.memory_mb), (5, Some(takes(32))));
    }
}
