//! `pollnd bench`: repeated demonstrations, what a connection costs in memory, whether a run grows, what
//! TCP costs.

use std::process::{Command, Stdio};
use std::sync::Arc;

use bench::ctl::Ctl;
use bench::growth::{Growth, Sample, watch};
use bench::memory;
use bench::pair::NothingLost;
use bench::repeat::Repeat;
use bench::setup;
use bench::sock::{self, SockPair};
use bench::tcp::{self, TcpBench};
use bench::workload::{ClientConfig, Intake};
use indicatif::ProgressBar;
use serde::Serialize;
use transport::node::NodeEnd;
use transport::node::sock::Idle as SockIdle;

use crate::args::{BenchWhat, GrowthArgs, MemoryArgs, RepeatArgs, SetsArgs, TcpArgs};
use crate::out;

pub(crate) fn main(what: &BenchWhat) -> Result<(), String> {
    match what {
        BenchWhat::Repeat(a) => repeat(a),
        BenchWhat::Memory(a) => measure_memory(a),
        BenchWhat::Sets(a) => many_sets(a),
        BenchWhat::Growth(a) => growth(a),
        BenchWhat::Rate(a) => crate::ratecmd::main(a),
        BenchWhat::Cpt(a) => crate::cptcmd::main(a),
        BenchWhat::Tcp(a) => tcp_cost(a),
        BenchWhat::TcpSim(a) => crate::stackcmd::tcp_sim(a),
        BenchWhat::Connections(a) => crate::stackcmd::many_connections(a),
    }
}

pub(crate) fn print(
    json: bool,
    value: &impl Serialize,
    table: impl FnOnce() -> String,
) -> Result<(), String> {
    if json {
        return out::line(serde_json::to_string(value).map_err(|e| e.to_string())?);
    }
    out::line(table())
}

pub(crate) fn live(quiet: bool) -> ProgressBar {
    if quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() }
}

/// Every demonstration is a process of its own, started as a user would: an EAL serves a process once.
fn repeat(a: &RepeatArgs) -> Result<(), String> {
    let me = std::env::current_exe().map_err(|e| format!("where this program is: {e}"))?;
    let bar = live(a.json);
    let mut runs = Vec::with_capacity(a.runs as usize);
    for i in 1..=a.runs {
        bar.set_message(format!("run {i} of {}", a.runs));
        bar.tick();
        let mut c = Command::new(&me);
        c.args(["demo", "--json", "--seconds", &a.seconds.to_string()]);
        if a.sockets_only {
            c.arg("--sockets-only");
        }
        let out = c
            .arg("--")
            .args(&a.eal)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| format!("cannot start {}: {e}", me.display()))?;
        let text = String::from_utf8_lossy(&out.stdout);
        // A run in which something was lost prints its object, too, and is judged with the others.
        let object = text.lines().rev().find(|l| l.starts_with('{'));
        let Some(object) = object else {
            return Err(format!("run {i} of {} ended with {} and printed no figures", a.runs, out.status));
        };
        runs.push(serde_json::from_str(object).map_err(|e| format!("run {i} of {}: {e}", a.runs))?);
    }
    bar.finish_and_clear();
    let r = Repeat::of(&runs);
    print(a.json, &r, || r.table())?;
    if r.nothing_lost { Ok(()) } else { Err("something was lost in one of the runs".into()) }
}

fn measure_memory(a: &MemoryArgs) -> Result<(), String> {
    let m = memory::measure(a.few, a.many, &memory::resident)?;
    print(a.json, &m, || m.table())
}

fn many_sets(a: &SetsArgs) -> Result<(), String> {
    let s = setup::measure(a.peers)?;
    print(a.json, &s, || s.table())
}

fn tcp_cost(a: &TcpArgs) -> Result<(), String> {
    let bar = live(a.json);
    let r = tcp::measure(&TcpBench { seconds: a.seconds, rounds: a.rounds }, &mut |next| {
        bar.set_message(next.to_owned());
        bar.tick();
    });
    bar.finish_and_clear();
    let r = r?;
    print(a.json, &r, || r.table())
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
    let bar = live(a.json);
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
    let mut n = NothingLost::of(ctl, &ends);
    n.buffers_left = left;
    n.ok &= left == 0;
    lost.push(n);
    Ok(g)
}

fn growth(a: &GrowthArgs) -> Result<(), String> {
    let (mut runs, mut lost) = (Vec::new(), Vec::new());
    if !a.sockets_only {
        runs.push(over_link(a, &mut lost)?);
    }
    let ctl = Arc::new(Ctl::default());
    let p = SockPair {
        idle: SockIdle::Block,
        intake: Intake::Lent,
        client: ClientConfig::default(),
        peer_credits: 8,
    };
    let running = sock::start(p, ctl.clone());
    runs.push(watched("kernel sockets", a, &ctl, &mut lost, || running.stop().map(|e| (e, 0)))?);
    let detail = NothingLost::sum(&lost);
    let r = GrowthReport { runs, nothing_lost: detail.ok, nothing_lost_detail: detail };
    print(a.json, &r, || {
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
    use dataplane::dpdk::{Eal, EalConfig};

    let eal = EalConfig { no_pci: true, raw: a.eal.clone(), ..EalConfig::default() };
    let eal = Eal::start(&eal).map_err(|e| e.to_string())?;
    let (threads, enter, idle) = crate::place::pair(false)?;
    let ctl = Arc::new(Ctl::default());
    let cfg = LinkConfig { threads, ..LinkConfig::default() };
    let l = link::start(&eal, &std::env::temp_dir(), cfg, &ctl, &enter, idle)?;
    let name = if threads == Threads::One { "virtio link, 1 lcore" } else { "virtio link, 2 lcores" };
    let g = watched(name, a, &ctl, lost, || {
        let end = l.stop()?;
        Ok((end.nodes, u64::from(end.left.attachments_out + end.left.heads_out + end.left.rx_out)))
    });
    if let Err(e) = eal.cleanup_within(std::time::Duration::from_secs(5)) {
        tracing::warn!("{e}");
    }
    g
}

#[cfg(not(feature = "dpdk"))]
fn over_link(_: &GrowthArgs, _: &mut Vec<NothingLost>) -> Result<Growth, String> {
    Err("this pollnd was built without DPDK: `pollnd bench growth --sockets-only` watches kernel sockets alone".into())
}
