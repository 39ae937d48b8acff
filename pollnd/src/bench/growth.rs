//! `pollnd bench growth`: the process's memory while two nodes work through messages.

use std::sync::Arc;

use bench::ctl::Ctl;
use bench::growth::{Growth, Sample, watch};
use bench::pair::NothingLost;
use bench::sock::{self, SockPair};
use bench::workload::{ClientConfig, Intake};
use clap::Args;
use serde::Serialize;
use transport::node::NodeEnd;
use transport::node::sock::IdleMode;

use super::{live, print};
use crate::args::common::OverLink;
use crate::args::values::growth_seconds;

/// `pollnd bench growth`.
#[derive(Args, Debug, Clone)]
pub(crate) struct GrowthArgs {
    /// Seconds for each run, a fifth of it warm-up.
    #[arg(long, default_value_t = 60.0, value_parser = growth_seconds)]
    pub(crate) seconds: f64,
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

/// One run: watches, takes the nodes down, and judges what they came to.
fn watched(
    name: &str,
    a: &GrowthArgs,
    ctl: &Ctl,
    lost: &mut Vec<NothingLost>,
    stop: impl FnOnce() -> Result<(Vec<NodeEnd>, u64), String>,
) -> Result<Growth, String> {
    let bar = live(&a.over.out);
    let g = watch(name, ctl, a.seconds, &mut |s: &Sample| {
        let (mb, kib) = (s.bytes >> 20, s.resident / 1024);
        bar.set_message(format!(
            "{name}: {:.0} s, {} messages, {mb} MiB, {kib} KiB resident",
            s.at_s, s.messages
        ));
        bar.tick();
    });
    let (ends, left) = stop()?;
    bar.finish_and_clear();
    let g = g.map_err(|e| format!("{name}: {e}"))?;
    lost.push(NothingLost::of(ctl, &ends).and_left(left));
    Ok(g)
}

pub(super) fn main(a: &GrowthArgs) -> Result<(), String> {
    let (mut runs, mut lost) = (Vec::new(), Vec::new());
    if !a.over.sockets_only {
        runs.push(over_link(a, &mut lost)?);
    }
    let ctl = Arc::new(Ctl::default());
    let p = SockPair {
        idle: IdleMode::Block,
        intake: Intake::Lent,
        client: ClientConfig::default(),
        peer_credits: 8,
    };
    let running = sock::start(p, ctl.clone())?;
    runs.push(watched("kernel sockets", a, &ctl, &mut lost, || running.stop().map(|e| (e, 0)))?);
    let detail = NothingLost::sum(&lost);
    let r = GrowthReport { runs, nothing_lost: detail.ok, nothing_lost_detail: detail };
    print(&a.over.out, &r, || {
        let line = if r.nothing_lost { "nothing lost" } else { "SOMETHING WAS LOST" };
        r.runs.iter().map(Growth::table).collect::<String>() + &format!("  {line}\n")
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
    let ctl = Arc::new(Ctl::default());
    let cfg = LinkConfig { threads, ..LinkConfig::default() };
    let l = link::start(&eal, &std::env::temp_dir(), cfg, &ctl, &enter, idle)?;
    let name = if threads == Threads::One { "virtio link, 1 lcore" } else { "virtio link, 2 lcores" };
    let g = watched(name, a, &ctl, lost, || {
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
