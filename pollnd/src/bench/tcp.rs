//! `pollnd bench tcp` and `tcp-sim`: the TCP stack by itself, and over a simulated network.

use bench::tcp::{self, TcpBench};
use bench::tcpsim::{SimConfig, simulate};
use clap::Args;

use super::{live, print};
use crate::args::common::TableOut;
use crate::args::values::{number, per_cent, positive, run_seconds, seconds, size};

/// `pollnd bench tcp`.
#[derive(Args, Debug, Clone)]
pub(crate) struct TcpArgs {
    /// Rounds; each measures every row once.
    #[arg(default_value_t = 7, value_parser = number::<u32>(1..=1000))]
    pub(crate) rounds: u32,
    /// Seconds for each row in a round.
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// The form of the result.
    #[command(flatten)]
    pub(crate) out: TableOut,
}

pub(super) fn main(a: &TcpArgs) -> Result<(), String> {
    let bar = live(&a.out);
    let r = tcp::measure(&TcpBench { seconds: a.seconds, rounds: a.rounds }, &mut |next| {
        bar.set_message(next.to_owned());
        bar.tick();
    });
    bar.finish_and_clear();
    let r = r?;
    print(&a.out, &r, || r.table())
}

/// `pollnd bench tcp-sim`.
#[derive(Args, Debug, Clone)]
pub(crate) struct TcpSimArgs {
    /// Line rate, in Gbit/s.
    #[arg(long, default_value_t = 25.0, value_parser = positive)]
    pub(crate) rate: f64,
    /// Round trip of the empty network, in microseconds.
    #[arg(long, default_value_t = 40.0, value_parser = positive)]
    pub(crate) rtt: f64,
    /// Largest IP packet, in bytes.
    #[arg(long, default_value_t = 9000, value_parser = number::<u16>(576..=9600))]
    pub(crate) mtu: u16,
    /// The receiver's window, in bytes.
    #[arg(long, default_value_t = 1 << 20, value_parser = size::<u32>(65_536..=1 << 28))]
    pub(crate) window: u32,
    /// Per cent of frames lost, both ways. Without --loss and --reorder the documented rows are run.
    #[arg(long, value_parser = per_cent)]
    pub(crate) loss: Option<f64>,
    /// Per cent of data frames that arrive out of order.
    #[arg(long, value_parser = per_cent)]
    pub(crate) reorder: Option<f64>,
    /// Puts a bottleneck with a queue of so many bytes behind a faster NIC. Without it the sender's own NIC, which
    /// loses nothing, is the narrowest place.
    #[arg(long, value_parser = size::<u64>(0..=u64::MAX))]
    pub(crate) queue: Option<u64>,
    /// Let the port segment (TSO).
    #[arg(long)]
    pub(crate) tso: bool,
    /// Reno (RFC 5681) instead of CUBIC.
    #[arg(long)]
    pub(crate) reno: bool,
    /// Virtual seconds of each run; the first tenth is not measured.
    #[arg(long, default_value_t = 0.5, value_parser = run_seconds)]
    pub(crate) seconds: f64,
    /// First seed.
    #[arg(long, default_value_t = 1, value_parser = number::<u64>(0..=u64::MAX))]
    pub(crate) seed: u64,
    /// Seeds of each row; the median is told.
    #[arg(long, default_value_t = 5, value_parser = number::<u64>(1..=1000))]
    pub(crate) seeds: u64,
    /// The form of the result.
    #[command(flatten)]
    pub(crate) out: TableOut,
}

pub(super) fn simulated(a: &TcpSimArgs) -> Result<(), String> {
    let config = SimConfig {
        rate_gbps: a.rate,
        rtt_us: a.rtt,
        mtu: a.mtu,
        window: a.window,
        loss: a.loss.unwrap_or(0.0) / 100.0,
        reorder: a.reorder.unwrap_or(0.0) / 100.0,
        queue: a.queue,
        tso: a.tso,
        reno: a.reno,
        seconds: a.seconds,
    };
    let rows = if a.loss.is_none() && a.reorder.is_none() { config.rows() } else { vec![config] };
    let bar = live(&a.out);
    let mut done = 0;
    let r = simulate(&rows, a.seed, a.seeds, &mut |_| {
        done += 1;
        bar.set_message(format!("{done} of {} rows", rows.len()));
        bar.tick();
    });
    bar.finish_and_clear();
    let r = r?;
    print(&a.out, &r, || r.table())
}
