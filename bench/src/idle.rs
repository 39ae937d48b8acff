//! `pollnd bench idle`: the cost of lcores that spin, yield or sleep while nothing arrives, and of their waking.
//!
//! Both nodes of a virtio link have an lcore each. For each policy a round measures the CPU time of the process while nothing is
//! sent, and then 64-byte PUTs with their ACKs, one every 5 ms: each finds both lcores without work.

use std::time::{Duration, Instant};

use dataplane::clock::pause;
use serde::Serialize;

use crate::measure::{Rtt, cpu_time};
use crate::repeat::median;
use crate::report::{RanOn, many};

/// A policy in one round.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// CPUs that both nodes take while nothing is sent.
    pub idle_cpus: f64,
    /// The same with a message every 5 ms.
    pub sparse_cpus: f64,
    /// Medians and tails of those messages' round trips.
    pub rtt: Rtt,
}

/// A policy over all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name, as `--idle` has it.
    pub name: &'static str,
    /// Every round, in order.
    pub rounds: Vec<Sample>,
}

impl Row {
    fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(&self.rounds.iter().map(of).collect::<Vec<_>>())
    }
}

/// The whole bench.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    /// A row for each policy.
    pub rows: Vec<Row>,
    /// Nothing was lost in any round.
    pub nothing_lost: bool,
    /// Load of the machine before and after.
    pub load: [f64; 2],
    /// The machine.
    pub ran_on: RanOn,
}

/// CPUs that this process takes for `time`.
pub fn cpus(time: Duration) -> f64 {
    let (t, c) = (Instant::now(), cpu_time());
    pause(time);
    (cpu_time() - c).as_secs_f64() / t.elapsed().as_secs_f64()
}

impl Idle {
    /// The table.
    pub fn table(&self) -> String {
        let mut t = format!(
            "\n  {:<8} {:>12} {:>22} {:>10} {:>10} {:>10}\n",
            "--idle", "CPUs, idle", "CPUs, 200 messages/s", "p50 us", "p99 us", "p99.9 us"
        );
        for r in &self.rows {
            let [p50, p99, p999] =
                [r.median(|s| s.rtt.p50_us), r.median(|s| s.rtt.p99_us), r.median(|s| s.rtt.p999_us)];
            let (idle, sparse) = (r.median(|s| s.idle_cpus), r.median(|s| s.sparse_cpus));
            t += &format!(
                "  {:<8} {idle:>12.3} {sparse:>22.3} {p50:>10.1} {p99:>10.1} {p999:>10.1}\n",
                r.name
            );
        }
        let rounds = self.rows.first().map_or(0, |r| r.rounds.len());
        let what =
            format!("64 B PUT + ACK over the virtio link; medians of {}", many(rounds as u64, "round"));
        t + &self.ran_on.foot(self.nothing_lost, &what, self.load)
    }
}
