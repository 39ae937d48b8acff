//! `pollnd bench`: the measurements that the documentation's figures come from.

mod brw;
mod cpt;
mod growth;
#[cfg(feature = "dpdk")]
mod idle;
mod latency;
mod many;
mod memory;
mod netsock;
mod rate;
mod repeat;
mod report;
mod router;
mod sides;
mod small;
mod tcp;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::args::common::TableOut;
use crate::out;

/// `pollnd bench`.
#[derive(Args, Debug, Clone)]
pub(crate) struct BenchArgs {
    /// The measurement.
    #[command(subcommand)]
    pub(crate) what: BenchWhat,
}

/// Measurements of `pollnd bench`.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum BenchWhat {
    /// Runs the whole side-by-side set and writes it as an HTML page and as JSON.
    Report(Box<report::ReportArgs>),
    /// Runs the demonstration several times and prints medians.
    Repeat(repeat::RepeatArgs),
    /// Memory of an idle connection, and of a set of three.
    Memory(memory::MemoryArgs),
    /// Works through large and small messages and watches the process's memory.
    Growth(growth::GrowthArgs),
    /// Small messages a second over one connection set, against kernel sockets.
    Rate(rate::RateArgs),
    /// One small message at a time, against the link with nothing above it and against kernel sockets.
    Latency(latency::LatencyArgs),
    /// Cost of an LNet router beside the two ends that it joins, over the link and over kernel sockets.
    Router(router::RouterArgs),
    /// BRW and PING of lnet_selftest between two nodes, against raw PUTs and against kernel sockets.
    Selftest(brw::SelftestArgs),
    /// Messages and bulk of Motr's network transport over netsock, between two nodes.
    Net(netsock::NetArgs),
    /// Cost of lcores that spin, yield or sleep while nothing arrives, and of waking them.
    #[cfg(feature = "dpdk")]
    Idle(idle::IdleArgs),
    /// Gain of a second lcore when all bulk comes over one connection set.
    Cpt(cpt::CptArgs),
    /// Cost of the TCP stack by itself: Gbit a CPU-second, against memcpy and kernel TCP.
    Tcp(tcp::TcpArgs),
    /// Goodput of the TCP stack over a simulated lossy network, in virtual time: the same on every machine.
    TcpSim(tcp::TcpSimArgs),
    /// Cost to a node of many peers that dial it at the same time.
    Sets(memory::SetsArgs),
    /// Cost of a packet with few and with many connections, of a turn that finds nothing, and of one with many deadlines.
    Connections(many::CrowdArgs),
}

/// Measures; the exit code.
///
/// # Errors
/// A measurement that failed, or a loss.
pub(crate) fn main(what: BenchWhat) -> Result<ExitCode, String> {
    let done = match &what {
        BenchWhat::Report(a) => return report::main(a),
        BenchWhat::Repeat(a) => repeat::main(a),
        BenchWhat::Memory(a) => memory::main(a),
        BenchWhat::Sets(a) => memory::sets(a),
        BenchWhat::Growth(a) => growth::main(a),
        BenchWhat::Rate(a) => rate::main(a),
        BenchWhat::Latency(a) => latency::main(a),
        BenchWhat::Router(a) => router::main(a),
        BenchWhat::Selftest(a) => brw::main(a),
        BenchWhat::Net(a) => netsock::main(a),
        #[cfg(feature = "dpdk")]
        BenchWhat::Idle(a) => idle::main(a),
        BenchWhat::Cpt(a) => cpt::main(a),
        BenchWhat::Tcp(a) => tcp::main(a),
        BenchWhat::TcpSim(a) => tcp::simulated(a),
        BenchWhat::Connections(a) => many::main(a),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Prints a result: as one JSON object, or as a table.
fn print(out: &TableOut, value: &impl Serialize, table: impl FnOnce() -> String) -> Result<(), String> {
    if out.json {
        return out::line(serde_json::to_string(value).map_err(|e| e.to_string())?);
    }
    out::line(table())
}

/// The line that says how far it is; none beside JSON.
fn live(out: &TableOut) -> ProgressBar {
    if out.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() }
}
