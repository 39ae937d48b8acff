//! `pollnd bench tcp`: what the TCP stack costs by itself, in Gbit of payload for a second of CPU time.
//!
//! Both sides and the in-memory link run on one thread, so its CPU time is all that a byte costs at both ends. Each
//! round measures every row once, one after the other, so that a slow minute of the machine meets all of them; told
//! are medians over the rounds, and medians of the ratios within a round.

use std::time::{Duration, Instant};

use dataplane::mem::{Crossing, MemConfig};
use serde::Serialize;

use crate::measure::{OneThread, thread_cpu};
use crate::repeat::median;
use crate::report::RanOn;
use crate::stacks::{MESSAGE, Stacks};
use crate::tcp_base::{Copies, Loopback};

/// Links of the rows. Payload that crosses by reference costs the stack alone; the last one has the port copy, as vhost does.
const LINKS: [(&str, u16, bool, Crossing); 4] = [
    ("MTU 1500, TSO", 1500, true, Crossing::Share),
    ("MTU 9000, no TSO", 9000, false, Crossing::Share),
    ("MTU 1500, no TSO", 1500, false, Crossing::Share),
    ("MTU 1500, TSO, port copies", 1500, true, Crossing::Copy),
];
const COPY: &str = "memcpy out of the cache";
const KERNEL: &str = "kernel TCP, loopback";

fn link(mtu: u16, tso: bool, crossing: Crossing) -> MemConfig {
    let tso_max = if tso { MemConfig::default().tso_max } else { 0 };
    MemConfig { mtu, tso_max, crossing, ..MemConfig::default() }
}

/// Lengths and numbers of rounds.
#[derive(Clone, Copy, Debug)]
pub struct TcpBench {
    /// Measured time of a row in a round, in seconds; a quarter of it is spent before as warm-up.
    pub seconds: f64,
    /// Rounds.
    pub rounds: u32,
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The result.
    pub name: &'static str,
    /// Gbit of payload a CPU-second, both ends: median.
    pub gbit_per_cpu_s: f64,
    /// Lowest.
    pub low: f64,
    /// Highest.
    pub high: f64,
    /// CPU time of a message of 1 MiB and its answer, in us: of the median.
    pub us_a_message: f64,
    /// Against a copy out of the cache in the same round: median.
    pub to_memcpy: f64,
    /// Against the kernel's TCP over loopback in the same round: median.
    pub to_kernel: f64,
    /// Of every round, in order.
    pub rounds: Vec<f64>,
}

/// All rows.
#[derive(Clone, Debug, Serialize)]
pub struct TcpReport {
    /// The four links, then memcpy and the kernel.
    pub rows: Vec<Row>,
    /// Segments that were sent again, over all rounds; 0 unless the link loses.
    pub resent: u64,
    /// Payload bytes that the stack copied, over all rounds.
    pub copied_bytes: u64,
    /// Load average of the last minute, before and after.
    pub load: [f64; 2],
    /// The machine.
    pub ran_on: RanOn,
}

/// Load average of the last minute; 0 where the kernel does not tell.
pub fn load() -> f64 {
    let s = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    s.split(' ').next().and_then(|x| x.parse().ok()).unwrap_or(0.0)
}

/// One link for `time`, a quarter more before.
fn over(mem: &MemConfig, time: Duration, report: &mut TcpReport) -> Result<OneThread, String> {
    let (mut s, opened) = Stacks::open(mem)?;
    let start = Instant::now();
    let run = |s: &mut Stacks, time: Duration| {
        let (until, cpu, before) = (start.elapsed() + time, thread_cpu(), s.received());
        loop {
            let at = start.elapsed();
            if at >= until {
                return Ok::<_, String>(OneThread { bytes: s.received() - before, cpu: thread_cpu() - cpu });
            }
            // A poll loop reads its clock once a round; 16 rounds here, since reading it is no part of TCP.
            for _ in 0..16 {
                s.round(opened + at.as_nanos() as u64)?;
            }
        }
    };
    run(&mut s, time / 4)?;
    let cost = run(&mut s, time)?;
    let [a, b] = s.counters();
    report.resent += a.tx_resent + b.tx_resent;
    report.copied_bytes += a.tx_copied_bytes + a.tx_short_bytes;
    if cost.bytes == 0 { Err("nothing moved".into()) } else { Ok(cost) }
}

/// Runs all rounds. `tick` hears what comes next.
///
/// # Errors
/// A stack or a socket refuses its configuration, or nothing moves.
pub fn measure(b: &TcpBench, tick: &mut dyn FnMut(&str)) -> Result<TcpReport, String> {
    let time = Duration::from_secs_f64(b.seconds);
    let mut report = TcpReport {
        rows: vec![],
        resent: 0,
        copied_bytes: 0,
        load: [load(); 2],
        ran_on: RanOn { link: "in memory, both ends on one thread".into(), ..RanOn::look() },
    };
    let (mut copies, mut loopback) = (Copies::new(), Loopback::new()?);
    let mut rounds: Vec<Vec<f64>> = vec![];
    for i in 1..=b.rounds {
        let mut tick = |name: &str| tick(&format!("round {i} of {}: {name}", b.rounds));
        let mut figures = vec![];
        for (name, mtu, tso, crossing) in LINKS {
            tick(name);
            figures.push(over(&link(mtu, tso, crossing), time, &mut report)?.gbit_per_cpu_s());
        }
        tick(COPY);
        copies.run(time / 4);
        figures.push(copies.run(time).gbit_per_cpu_s());
        tick(KERNEL);
        loopback.run(time / 4)?;
        figures.push(loopback.run(time)?.gbit_per_cpu_s());
        rounds.push(figures);
    }
    report.rows = rows(&rounds);
    report.load[1] = load();
    Ok(report)
}

/// Medians of rounds; in each the last two figures are memcpy's and the kernel's.
fn rows(rounds: &[Vec<f64>]) -> Vec<Row> {
    let names = LINKS.map(|l| l.0).into_iter().chain([COPY, KERNEL]);
    let row = |(i, name)| {
        let of = |f: &dyn Fn(&[f64]) -> f64| rounds.iter().map(|r| f(r)).collect::<Vec<f64>>();
        let (base, own) = (LINKS.len(), of(&|r| r[i]));
        let middle = median(&own);
        Row {
            name,
            gbit_per_cpu_s: middle,
            low: own.iter().copied().fold(f64::INFINITY, f64::min),
            high: own.iter().copied().fold(0.0, f64::max),
            us_a_message: MESSAGE as f64 * 8e-3 / middle.max(1e-9),
            to_memcpy: median(&of(&|r| r[i] / r[base])),
            to_kernel: median(&of(&|r| r[i] / r[base + 1])),
            rounds: own,
        }
    };
    names.enumerate().map(row).collect()
}

impl TcpReport {
    /// The table.
    pub fn table(&self) -> String {
        let mut t = format!(
            "\n  1 MiB messages, 64 B answers {:>13} {:>8} {:>8} {:>12} {:>11} {:>11}\n",
            "Gbit/CPU-s", "lowest", "highest", "us a message", "to memcpy", "to kernel"
        );
        for r in &self.rows {
            t += &format!(
                "  {:<30} {:>11.1} {:>8.1} {:>8.1} {:>12.1} {:>9.2} x {:>9.2} x\n",
                r.name, r.gbit_per_cpu_s, r.low, r.high, r.us_a_message, r.to_memcpy, r.to_kernel
            );
        }
        let on = &self.ran_on;
        t += &format!(
            "  {} segments resent, {} payload bytes copied by the stack; load {:.1} before, {:.1} after\n  \
             on {} ({} cores), Linux {}\n",
            self.resent, self.copied_bytes, self.load[0], self.load[1], on.cpu, on.cores, on.kernel
        );
        t
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        // In the second round the machine was half as fast: ratios stay.
        let fast = vec![300.0, 200.0, 50.0, 100.0, 60.0, 20.0];
        let slow = fast.iter().map(|x| x / 2.0).collect();
        let r = rows(&[fast, slow]);
        let of = |i: usize| (r[i].gbit_per_cpu_s, r[i].low, r[i].high, r[i].to_memcpy, r[i].to_kernel);
        assert_eq!(of(0), (225.0, 150.0, 300.0, 5.0, 15.0));
        assert_eq!(of(5), (15.0, 10.0, 20.0, 1.0 / 3.0, 1.0));
        assert_eq!((r.len(), r[4].name, r[5].name), (6, COPY, KERNEL));
    }

    #[test]
    fn a_short_run_measures_every_row() {
        let mut said = 0;
        let r = measure(&TcpBench { seconds: 0.01, rounds: 1 }, &mut |_| said += 1).unwrap();
        assert_eq!((r.rows.len(), said), (6, 6));
        assert!(r.rows.iter().all(|r| r.gbit_per_cpu_s > 0.0), "{r:?}");
        let t = r.table();
        assert!(r.rows.iter().all(|r| t.contains(r.name)), "{t}");
    }
}
