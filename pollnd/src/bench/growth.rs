//! `pollnd bench growth`: the process's memory while two nodes work through messages.

use std::sync::Arc;

use bench::ctl::Ctl;
use bench::growth::{Growth, Sample, watch, watch_selftest};
use bench::pair::NothingLost;
use bench::selftest::{Case, Orders};
use bench::sock::{self, SockPair};
use bench::workload::{ClientConfig, Intake};
use clap::Args;
use serde::Serialize;
use transport::node::NodeEnd;
use transport::node::sock::IdleMode;

use super::brw::{server, tester};
use super::{live, print};
use crate::args::common::OverLink;
use crate::args::values::growth_seconds;
use crate::out;

/// `pollnd bench growth`.
#[derive(Args, Debug, Clone)]
pub(crate) struct GrowthArgs {
    /// Seconds for each run, a fifth of it warm-up.
    #[arg(long, default_value_t = 60.0, value_parser = growth_seconds)]
    pub(crate) seconds: f64,
    /// BRW and PING of lnet_selftest, both nodes in both roles, in place of PUTs and pings.
    #[arg(long)]
    pub(crate) selftest: bool,
    /// The form of the result, and the link.
    #[command(flatten)]
    pub(crate) over: OverLink,
}

/// All runs of `bench growth`.
#[derive(Serialize)]
struct GrowthReport {
    runs: Vec<Growth>,
    nothing_lost: bool,
    nothing_lost_detail: NothingLost,
}

/// The workload that the watch drives.
#[derive(Clone, Copy)]
enum Work<'a> {
    /// PUTs and pings.
    Puts,
    /// The tests of these orders.
    Selftest(&'a Orders),
}

/// One run: watches, takes the nodes down, and judges what they came to.
fn watched(
    name: &str,
    a: &GrowthArgs,
    (ctl, work): (&Ctl, Work<'_>),
    lost: &mut Vec<NothingLost>,
    stop: impl FnOnce() -> Result<(Vec<NodeEnd>, u64), String>,
) -> Result<Growth, String> {
    let bar = live(&a.over.out);
    let mut tell = |s: &Sample| {
        let (mb, kib) = (s.bytes >> 20, s.resident / 1024);
        bar.set_message(format!(
            "{name}: {:.0} s, {} messages, {mb} MiB, {kib} KiB resident",
            s.at_s, s.messages
        ));
        bar.tick();
    };
    let g = match work {
        Work::Puts => watch(name, ctl, a.seconds, &mut tell),
        Work::Selftest(orders) => watch_selftest(name, ctl, orders, a.seconds, &mut tell),
    };
    let (ends, left) = stop()?;
    bar.finish_and_clear();
    let g = g.map_err(|e| format!("{name}: {e}"))?;
    // An hour's result is there when the hour has passed, not when the next has.
    if !a.over.out.json {
        out::line(g.table().trim_end())?;
    }
    lost.push(NothingLost::of(ctl, &ends).and_left(left));
    Ok(g)
}

pub(super) fn main(a: &GrowthArgs) -> Result<(), String> {
    let (mut runs, mut lost) = (Vec::new(), Vec::new());
    if !a.over.sockets_only {
        runs.push(over_link(a, &mut lost)?);
    }
    let (ctl, orders) = (Arc::new(Ctl::default()), Arc::new(Orders::default()));
    let p = SockPair {
        idle: IdleMode::Block,
        intake: Intake::Lent,
        client: ClientConfig::default(),
        peer_credits: 8,
    };
    let (running, work) = if a.selftest {
        let client = tester(&ctl, &orders, vec![Case::both_roles()]);
        (sock::start_with(p, &ctl, client, server(&orders))?, Work::Selftest(&orders))
    } else {
        (sock::start(p, ctl.clone())?, Work::Puts)
    };
    runs.push(watched("kernel sockets", a, (&ctl, work), &mut lost, || running.stop().map(|e| (e, 0)))?);
    let detail = NothingLost::sum(&lost);
    let r = GrowthReport { runs, nothing_lost: detail.ok, nothing_lost_detail: detail };
    print(&a.over.out, &r, || {
        let line = if r.nothing_lost { "nothing lost" } else { "SOMETHING WAS LOST" };
        format!("  {line}\n")
    })?;
    let grows: Vec<&str> = r.runs.iter().filter(|g| !g.level).map(|g| g.name.as_str()).collect();
    match (grows.as_slice(), r.nothing_lost) {
        ([], true) => Ok(()),
        ([], false) => Err("something was lost".into()),
        (names, _) => Err(format!("memory grows: {}", names.join(", "))),
    }
}

#[cfg(feature = "dpdk")]
fn over_link(a: &GrowthArgs, lost: &mut Vec<NothingLost>) -> Result<Growth, String> {
    use bench::link::{self, LinkConfig};
    use bench::pair::Threads;

    use crate::pairs;

    let eal = pairs::eal(&a.over.dpdk)?;
    let (threads, enter, idle) = pairs::threads(false)?;
    let (ctl, orders) = (Arc::new(Ctl::default()), Arc::new(Orders::default()));
    let cfg = LinkConfig { threads, ..LinkConfig::default() };
    let dir = std::env::temp_dir();
    let (l, work) = if a.selftest {
        let client = tester(&ctl, &orders, vec![Case::both_roles()]);
        let l = link::start_with(&eal, &dir, cfg, &ctl, (&enter, idle), client, server(&orders))?;
        (l, Work::Selftest(&orders))
    } else {
        (link::start(&eal, &dir, cfg, &ctl, &enter, idle)?, Work::Puts)
    };
    let name = if threads == Threads::One { "virtio link, 1 lcore" } else { "virtio link, 2 lcores" };
    let g = watched(name, a, (&ctl, work), lost, || {
        let end = l.stop()?;
        Ok((end.nodes, end.buffers_left))
    });
    pairs::clean_up(&eal);
    g
}

#[cfg(not(feature = "dpdk"))]
fn over_link(_: &GrowthArgs, _: &mut Vec<NothingLost>) -> Result<Growth, String> {
    Err("this pollnd was built without DPDK: `pollnd bench growth --sockets-only` watches kernel sockets alone".into())
}
