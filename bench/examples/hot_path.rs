//! So many operations or messages in virtual time, nothing timed: what `scripts/instructions` counts.
//!
//! ```text
//! hot_path bulk|get|small|rate OPERATIONS    two nodes over the in-memory port
//! hot_path tcp MTU TSO_MAX MESSAGES          two TCP stacks by themselves; prints the segments that were counted
//! ```
#![forbid(unsafe_code)]

use std::process::ExitCode;

use bench::ctl::Traffic;
use bench::inmem::InMemory;
use bench::stacks::Stacks;
use bench::workload::{ClientConfig, Intake};
use dataplane::mem::{Crossing, MemConfig};

/// Messages between two stacks before those that are counted: every queue, table and pool has then reached its size.
const WARM: u64 = 16;

/// The next argument as a number.
fn number<N: std::str::FromStr<Err: std::fmt::Display>>(
    args: &mut impl Iterator<Item = String>,
    what: &str,
) -> Result<N, String> {
    let n = args.next().unwrap_or_default();
    n.parse().map_err(|e| format!("{n:?} is no number of {what}: {e}"))
}

fn nodes(traffic: Traffic, n: u64) -> Result<(), String> {
    let mut nodes = InMemory::new(&MemConfig::default(), ClientConfig::default(), Intake::Lent)?;
    nodes.complete(traffic, n).map_err(|e| e.to_string())?;
    let ends = nodes.stop().map_err(|e| e.to_string())?;
    if ends.iter().all(|e| e.clean) { Ok(()) } else { Err("the nodes did not go down in order".into()) }
}

/// Counting goes on while this runs, and only then.
#[inline(never)]
fn counted(s: &mut Stacks, messages: u64, now: u64) -> Result<u64, String> {
    s.complete(messages, now)
}

fn stacks(mtu: u16, tso_max: u32, messages: u64) -> Result<(), String> {
    let mem = MemConfig { mtu, tso_max, crossing: Crossing::Share, ..MemConfig::default() };
    let (mut s, now) = Stacks::open(&mem)?;
    let now = s.complete(WARM, now)?;
    let before = s.counters();
    counted(&mut s, messages, now)?;
    let after = s.counters();
    let [data, acks] = [0, 1].map(|i| after[i].tx_segments - before[i].tx_segments);
    println!("{{\"data\":{data},\"acks\":{acks}}}");
    Ok(())
}

fn run() -> Result<(), String> {
    let args = &mut std::env::args().skip(1);
    let traffic = match args.next().as_deref() {
        Some("bulk") => Traffic::Bulk,
        Some("get") => Traffic::Get,
        Some("small") => Traffic::Rtt,
        Some("rate") => Traffic::Rate,
        Some("tcp") => {
            return stacks(number(args, "bytes")?, number(args, "bytes")?, number(args, "messages")?);
        }
        other => return Err(format!("{other:?} is none of bulk, get, small, rate, tcp")),
    };
    nodes(traffic, number(args, "operations")?)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("hot_path: {e}");
            ExitCode::FAILURE
        }
    }
}
