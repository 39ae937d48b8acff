//! `pollnd bench memory` and `sets`: the memory of connection sets, and many peers that dial at once.

use bench::{memory, setup};
use clap::Args;

use super::print;
use crate::args::common::TableOut;
use crate::args::values::number;

/// `pollnd bench memory`.
#[derive(Args, Debug, Clone)]
pub(crate) struct MemoryArgs {
    /// Connection sets at the first look.
    #[arg(long, default_value_t = 1000, value_parser = number::<u32>(1..=u64::from(u32::MAX)))]
    pub(crate) few: u32,
    /// Connection sets at the second look.
    #[arg(long, default_value_t = 10_000, value_parser = number::<u32>(1..=u64::from(u32::MAX)))]
    pub(crate) many: u32,
    /// The form of the result.
    #[command(flatten)]
    pub(crate) out: TableOut,
}

/// `pollnd bench sets`.
#[derive(Args, Debug, Clone)]
pub(crate) struct SetsArgs {
    /// Peers, each with a set of three connections.
    #[arg(long, default_value_t = 1000, value_parser = number::<u32>(1..=u64::from(memory::MAX_SETS)))]
    pub(crate) peers: u32,
    /// The form of the result.
    #[command(flatten)]
    pub(crate) out: TableOut,
}

pub(super) fn main(a: &MemoryArgs) -> Result<(), String> {
    let m = memory::measure(a.few, a.many, &memory::resident)?;
    print(&a.out, &m, || m.table())
}

pub(super) fn sets(a: &SetsArgs) -> Result<(), String> {
    let s = setup::measure(a.peers)?;
    print(&a.out, &s, || s.table())
}
