//! Two TCP stacks, so many messages in virtual time, one of their four halves in the limelight: what
//! `scripts/tcp-instructions` counts. Only calls of [`measured`] are counted, so opening and warm-up are not.
//!
//! ```text
//! cargo run --release -p pollnd-bench --example tcp_path -- MTU TSO_MAX MESSAGES
//! ```
#![forbid(unsafe_code)]

use std::process::ExitCode;

use bench::stacks::Stacks;
use dataplane::mem::{Crossing, MemConfig};

/// Messages before counting: every queue, table and pool has then reached its size.
const WARM: u64 = 16;

#[inline(never)]
fn measured(s: &mut Stacks, messages: u64, now: u64) -> Result<u64, String> {
    s.complete(messages, now)
}

fn run() -> Result<String, String> {
    let n: Vec<u64> = std::env::args()
        .skip(1)
        .map(|a| a.parse().map_err(|e| format!("{a:?}: {e}")))
        .collect::<Result<_, _>>()?;
    let [mtu, tso_max, messages] = n[..] else { return Err("MTU TSO_MAX MESSAGES".into()) };
    let mtu = u16::try_from(mtu).map_err(|e| format!("MTU {mtu}: {e}"))?;
    let tso_max = u32::try_from(tso_max).map_err(|e| format!("TSO_MAX {tso_max}: {e}"))?;
    let mem = MemConfig { mtu, tso_max, crossing: Crossing::Share, ..MemConfig::default() };
    let (mut s, now) = Stacks::open(&mem)?;
    let now = s.complete(WARM, now)?;
    let before = s.counters();
    measured(&mut s, messages, now)?;
    let [a, b] = s.counters();
    let data = a.tx_segments - before[0].tx_segments;
    let acks = b.tx_segments - before[1].tx_segments;
    Ok(format!(
        "{{\"data\":{data},\"acks\":{acks},\"fed\":{}}}",
        a.fed + b.fed - before[0].fed - before[1].fed
    ))
}

fn main() -> ExitCode {
    match run() {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("tcp_path: {e}");
            ExitCode::FAILURE
        }
    }
}
