//! `pollnd bench cpt`: what a second lcore gains when all bulk comes over one connection set.

use bench::cpt::{self, Cpt, Payload, Row};
use clap::Args;

use super::{live, print};
use crate::args::common::TableOut;
use crate::args::values::{number, size};

/// `pollnd bench cpt`.
#[derive(Args, Debug, Clone)]
pub(crate) struct CptArgs {
    /// Rounds; each measures every way of taking payload in once.
    #[arg(default_value_t = 9, value_parser = number::<u32>(1..=1000))]
    pub(crate) rounds: u32,
    /// Bytes of a message: a number, or one with k or M for KiB or MiB.
    #[arg(short, long, default_value_t = 1 << 20, value_parser = size::<u32>(4096..=1 << 20))]
    pub(crate) size: u32,
    /// Messages in each part of a round.
    #[arg(long, default_value_t = 1000, value_parser = number::<u64>(64..=1_000_000))]
    pub(crate) messages: u64,
    /// The form of the result.
    #[command(flatten)]
    pub(crate) out: TableOut,
}

pub(super) fn main(a: &CptArgs) -> Result<(), String> {
    let bar = live(&a.out);
    let mut rounds = Payload::ALL.map(|p| (p, Vec::new()));
    for round in 1..=a.rounds {
        bar.set_message(format!("round {round} of {}", a.rounds));
        bar.tick();
        for (payload, got) in &mut rounds {
            got.push(cpt::measure(*payload, a.messages, a.size as usize)?);
        }
    }
    bar.finish_and_clear();
    let rows = rounds.iter().map(|(p, got)| Row::of(*p, got)).collect();
    let r = Cpt { size: a.size as usize, messages: a.messages, rounds: a.rounds, rows };
    print(&a.out, &r, || r.table())
}
