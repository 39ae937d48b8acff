//! `pollnd bench tcp-sim` and `pollnd bench connections`: the TCP stack over a simulated network, and with many
//! connections.

use bench::connections::{self, MOST};
use bench::tcpsim::{SimConfig, simulate};
use clap::Args;

use crate::args::{number, size};
use crate::benchcmd::{live, print};

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
    /// One JSON object instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
}

fn positive(s: &str) -> Result<f64, String> {
    match s.parse::<f64>() {
        Ok(v) if (0.001..=1_000_000.0).contains(&v) => Ok(v),
        _ => Err(format!("{s:?} is not a number from 0.001 to 1000000")),
    }
}

fn per_cent(s: &str) -> Result<f64, String> {
    match s.parse::<f64>() {
        Ok(v) if (0.0..=100.0).contains(&v) => Ok(v),
        _ => Err(format!("{s:?} is not a number of per cent from 0 to 100")),
    }
}

fn run_seconds(s: &str) -> Result<f64, String> {
    match s.parse::<f64>() {
        Ok(v) if (0.001..=60.0).contains(&v) => Ok(v),
        _ => Err(format!("{s:?} is not a number of seconds from 0.001 to 60")),
    }
}

/// `pollnd bench connections`.
#[derive(Args, Debug, Clone)]
pub(crate) struct CrowdArgs {
    /// Numbers of established connections, the fewest first; each is measured with traffic on all of them and on
    /// as many as the first.
    #[arg(default_values_t = [10, 1000, 10_000], value_parser = number::<u32>(10..=u64::from(MOST)))]
    pub(crate) numbers: Vec<u32>,
    /// Rounds; each measures every row once.
    #[arg(long, default_value_t = 7, value_parser = number::<u32>(1..=1000))]
    pub(crate) rounds: u32,
    /// Seconds of CPU time for each row in a round.
    #[arg(long, default_value_t = 0.5, value_parser = run_seconds)]
    pub(crate) seconds: f64,
    /// One JSON object instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn many_connections(a: &CrowdArgs) -> Result<(), String> {
    let bar = live(a.json);
    let c = connections::measure(&a.numbers, &bench::embryos::ROWS, a.rounds, a.seconds, &mut |round| {
        bar.set_message(format!("round {} of {}", round + 1, a.rounds));
        bar.tick();
    });
    bar.finish_and_clear();
    let c = c?;
    print(a.json, &c, || c.table())
}

pub(crate) fn tcp_sim(a: &TcpSimArgs) -> Result<(), String> {
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
    let bar = live(a.json);
    let mut done = 0;
    let r = simulate(&rows, a.seed, a.seeds, &mut |_| {
        done += 1;
        bar.set_message(format!("{done} of {} rows", rows.len()));
        bar.tick();
    });
    bar.finish_and_clear();
    let r = r?;
    print(a.json, &r, || r.table())
}
