//! `pollnd bench connections`: the TCP stack with few and with many connections.

use bench::connections::{self, MOST};
use clap::Args;

use super::{live, print};
use crate::args::common::TableOut;
use crate::args::values::{number, run_seconds};

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
    /// The form of the result.
    #[command(flatten)]
    pub(crate) out: TableOut,
}

pub(super) fn main(a: &CrowdArgs) -> Result<(), String> {
    let bar = live(&a.out);
    let c = connections::measure(&a.numbers, &bench::embryos::ROWS, a.rounds, a.seconds, &mut |round| {
        bar.set_message(format!("round {} of {}", round + 1, a.rounds));
        bar.tick();
    });
    bar.finish_and_clear();
    let c = c?;
    print(&a.out, &c, || c.table())
}
