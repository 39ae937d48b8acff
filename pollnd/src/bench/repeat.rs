//! `pollnd bench repeat`: medians of several demonstrations.

use std::process::{Command, Stdio};

use bench::repeat::Repeat;
use clap::Args;

use super::{live, print};
use crate::args::common::OverLink;
use crate::args::values::{number, seconds};

/// `pollnd bench repeat`.
#[derive(Args, Debug, Clone)]
pub(crate) struct RepeatArgs {
    /// Number of demonstrations.
    #[arg(default_value_t = 5, value_parser = number::<u32>(1..=1000))]
    pub(crate) runs: u32,
    /// Seconds for each measured stretch.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// The form of the result, and the link.
    #[command(flatten)]
    pub(crate) over: OverLink,
}

/// Every demonstration is a process of its own, started as a user would: an EAL serves a process once.
pub(super) fn main(a: &RepeatArgs) -> Result<(), String> {
    let me = std::env::current_exe().map_err(|e| format!("where this program is: {e}"))?;
    let bar = live(&a.over.out);
    let mut runs = Vec::with_capacity(a.runs as usize);
    for i in 1..=a.runs {
        bar.set_message(format!("run {i} of {}", a.runs));
        bar.tick();
        let mut c = Command::new(&me);
        c.args(["demo", "--json", "--seconds", &a.seconds.to_string()]);
        if a.over.sockets_only {
            c.arg("--sockets-only");
        }
        let out = c
            .arg("--")
            .args(&a.over.dpdk.eal)
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
    print(&a.over.out, &r, || r.table())?;
    if r.nothing_lost { Ok(()) } else { Err("something was lost in one of the runs".into()) }
}
