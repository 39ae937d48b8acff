//! Two nodes over the in-memory port, so many operations, nothing printed: what `scripts/instructions` counts.
//!
//! ```text
//! cargo run --release -p pollnd-bench --example hot_path -- bulk|get|small|rate OPERATIONS
//! ```
#![forbid(unsafe_code)]

use std::process::ExitCode;

use bench::ctl::Phase;
use bench::inmem::InMemory;
use bench::workload::{ClientConfig, Intake};
use dataplane::mem::MemConfig;

fn run() -> Result<(), String> {
    let mut args = std::env::args().skip(1);
    let phase = match args.next().as_deref() {
        Some("bulk") => Phase::Bulk,
        Some("get") => Phase::Get,
        Some("small") => Phase::Rtt,
        Some("rate") => Phase::Rate,
        other => return Err(format!("{other:?} is none of bulk, get, small, rate")),
    };
    let n = args.next().unwrap_or_default();
    let n: u64 = n.parse().map_err(|e| format!("{n:?} is no number of operations: {e}"))?;
    let mut nodes = InMemory::new(&MemConfig::default(), ClientConfig::default(), Intake::Lent)?;
    nodes.complete(phase, n).map_err(|e| e.to_string())?;
    let ends = nodes.stop().map_err(|e| e.to_string())?;
    if ends.iter().all(|e| e.clean) { Ok(()) } else { Err("the nodes did not go down in order".into()) }
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
