//! Medians over repeated demonstrations. Each run has its own baseline beside it, so a ratio is one run's, and
//! the median of ratios is what a slow minute of the machine moves least.

use serde::Serialize;
use serde_json::Value;

use crate::report::many;

/// A figure of a demonstration: what it is called, where it is in `pollnd demo --json`, its unit.
const FIGURES: [(&str, &str, &str); 30] = [
    ("1 MiB PUTs, virtio link, 1 lcore", "/bulk_one_lcore/goodput_gbps", "Gbit/s"),
    ("  per CPU-second", "/bulk_one_lcore/gbit_per_cpu_s", "Gbit"),
    ("  against kernel sockets", "/bulk_one_lcore/ratio_to_kernel_sockets", "x"),
    ("  the bare link", "/bulk_one_lcore/bare_link_gbps", "Gbit/s"),
    ("  as a share of it", "/bulk_one_lcore/share_of_bare_link", "x"),
    ("  the bare link, pages and messages like these", "/bulk_one_lcore/bare_messages_gbps", "Gbit/s"),
    ("  as a share of it", "/bulk_one_lcore/share_of_bare_messages", "x"),
    ("1 MiB PUTs, virtio link, all lcores", "/bulk/goodput_gbps", "Gbit/s"),
    ("  per CPU-second", "/bulk/gbit_per_cpu_s", "Gbit"),
    ("  against kernel sockets", "/bulk/ratio_to_kernel_sockets", "x"),
    ("  the bare link", "/bulk/bare_link_gbps", "Gbit/s"),
    ("  as a share of it", "/bulk/share_of_bare_link", "x"),
    ("  the bare link, pages and messages like these", "/bulk/bare_messages_gbps", "Gbit/s"),
    ("  as a share of it", "/bulk/share_of_bare_messages", "x"),
    ("1 MiB PUTs, kernel sockets", "/kernel_sockets/bulk/goodput_gbps", "Gbit/s"),
    ("  per CPU-second", "/kernel_sockets/bulk/gbit_per_cpu_s", "Gbit"),
    ("64 B PUT + ACK, virtio link, p50", "/rtt/p50_us", "us"),
    ("  p99", "/rtt/p99_us", "us"),
    ("  p99.9", "/rtt/p999_us", "us"),
    ("  messages a second", "/rtt/messages_per_s", "1/s"),
    ("  p50 against spinning sockets", "/rtt/ratio_to_kernel_sockets", "x"),
    ("  p50 against blocking sockets", "/rtt/ratio_to_blocking_sockets", "x"),
    ("64 B PUT + ACK, spinning sockets, p50", "/kernel_sockets/rtt_spin/p50_us", "us"),
    ("  p99", "/kernel_sockets/rtt_spin/p99_us", "us"),
    ("  p99.9", "/kernel_sockets/rtt_spin/p999_us", "us"),
    ("64 B PUT + ACK, blocking sockets, p50", "/kernel_sockets/rtt_block/p50_us", "us"),
    ("  p99", "/kernel_sockets/rtt_block/p99_us", "us"),
    ("  p99.9", "/kernel_sockets/rtt_block/p999_us", "us"),
    ("LNet ping, virtio link, p50", "/ping/p50_us", "us"),
    ("payload bytes copied on sending and receiving", "", "B"),
];

/// Place of the copies over the virtio link in a demonstration's report.
const COPIES: [&str; 4] = [
    "/bulk/tx_copied_bytes",
    "/bulk/rx_copied_bytes",
    "/bulk_one_lcore/tx_copied_bytes",
    "/bulk_one_lcore/rx_copied_bytes",
];

/// One figure over all runs.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Its place in `pollnd demo --json`; empty for a sum.
    pub path: &'static str,
    /// Unit.
    pub unit: &'static str,
    /// Median.
    pub median: f64,
    /// Lowest.
    pub low: f64,
    /// Highest.
    pub high: f64,
    /// Of every run, in order.
    pub runs: Vec<f64>,
}

/// All runs.
#[derive(Clone, Debug, Serialize)]
pub struct Repeat {
    /// Number of demonstrations.
    pub runs: usize,
    /// Figures that every run has.
    pub figures: Vec<Row>,
    /// In no run was anything lost.
    pub nothing_lost: bool,
    /// The machine, as the first run tells.
    pub ran_on: Value,
}

/// The middle one, or the mean of the middle two; 0 of none.
pub fn median(v: &[f64]) -> f64 {
    let mut v = v.to_vec();
    v.sort_by(f64::total_cmp);
    let upper = v.get(v.len() / 2).copied().unwrap_or(0.0);
    match v.len() {
        n if n % 2 == 0 && n > 0 => (upper + v[n / 2 - 1]) / 2.0,
        _ => upper,
    }
}

/// Median of the rounds' figures, lowest and highest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Lowest and highest.
    pub range: [f64; 2],
}

impl Spread {
    /// Of the rounds.
    pub fn of(rounds: &[f64]) -> Spread {
        let range = rounds.iter().fold([f64::INFINITY, 0.0], |[l, h], r| [r.min(l), r.max(h)]);
        Spread { median: median(rounds), range }
    }
}

fn of_run(run: &Value, path: &str) -> Option<f64> {
    if path.is_empty() {
        let all: Vec<f64> = COPIES.iter().filter_map(|p| run.pointer(p)?.as_f64()).collect();
        return (!all.is_empty()).then(|| all.iter().sum());
    }
    run.pointer(path)?.as_f64()
}

impl Repeat {
    /// Of what demonstrations printed with `--json`.
    pub fn of(runs: &[Value]) -> Repeat {
        let row = |&(name, path, unit): &(&'static str, &'static str, &'static str)| {
            let v: Option<Vec<f64>> = runs.iter().map(|r| of_run(r, path)).collect();
            let v = v.filter(|v| !v.is_empty())?;
            let low = v.iter().copied().fold(f64::INFINITY, f64::min);
            let high = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            Some(Row { name, path, unit, median: median(&v), low, high, runs: v })
        };
        Repeat {
            runs: runs.len(),
            figures: FIGURES.iter().filter_map(row).collect(),
            nothing_lost: !runs.is_empty()
                && runs.iter().all(|r| r.pointer("/nothing_lost") == Some(&Value::Bool(true))),
            ran_on: runs.first().and_then(|r| r.pointer("/ran_on")).cloned().unwrap_or(Value::Null),
        }
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut t = format!(
            "\n  of {} {:>46} {:>10} {:>10}\n",
            many(self.runs as u64, "run"),
            "median",
            "lowest",
            "highest"
        );
        for r in &self.figures {
            t += &format!(
                "  {:<46} {:>10.2} {:>10.2} {:>10.2}  {}\n",
                r.name, r.median, r.low, r.high, r.unit
            );
        }
        let on = |k: &str| match self.ran_on.get(k) {
            Some(Value::String(s)) => s.clone(),
            Some(v) => v.to_string(),
            None => "?".into(),
        };
        t += &format!(
            "  {}\n  on {} ({} cores), Linux {}, {}, {}, {}\n",
            if self.nothing_lost { "nothing lost in any run" } else { "SOMETHING WAS LOST" },
            on("cpu"),
            on("cores"),
            on("kernel"),
            on("dpdk"),
            on("memory"),
            on("link")
        );
        t
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Baseline, Bulk, Counts, RanOn, Report, Trips};
    use serde_json::json;

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
    }

    #[test]
    fn every_figure_is_where_a_report_has_it() {
        let nothing = crate::pair::NothingLost::sum(&[]);
        let trips = Trips {
            ratio_to_kernel_sockets: Some(0.4),
            ratio_to_blocking_sockets: Some(0.1),
            ..Trips::default()
        };
        let bulk = Bulk { ratio_to_kernel_sockets: Some(2.0), tx_copied_bytes: 1, ..Bulk::default() };
        let bulk = Bulk { goodput_gbps: 30.0, ..bulk }
            .over(Some(crate::report::Carries { cached: 40.0, messages: 60.0 }));
        assert_eq!((bulk.share_of_bare_link, bulk.share_of_bare_messages), (Some(0.75), Some(0.5)));
        let report = Report {
            bulk: Some(bulk),
            bulk_one_lcore: Some(bulk),
            rtt: Some(trips),
            ping: Some(Default::default()),
            kernel_sockets: Baseline::default(),
            nothing_lost: true,
            nothing_lost_detail: nothing,
            counts: Counts::default(),
            ran_on: RanOn::default(),
        };
        let r = Repeat::of(&[serde_json::to_value(&report).unwrap(), serde_json::to_value(&report).unwrap()]);
        assert_eq!(r.figures.len(), FIGURES.len(), "{:?}", r.figures);
        assert_eq!(r.figures.last().unwrap().median, 2.0);
        assert!(r.nothing_lost && r.table().contains("nothing lost in any run"));
    }

    #[test]
    fn a_figure_that_a_run_lacks_is_left_out_and_a_loss_is_told() {
        let full = json!({"rtt": {"p50_us": 3.0}, "ping": {"p50_us": 9.0}, "nothing_lost": true});
        let less = json!({"rtt": {"p50_us": 5.0}, "nothing_lost": false});
        let r = Repeat::of(&[full, less]);
        assert_eq!(r.figures.iter().map(|f| (f.path, f.median)).collect::<Vec<_>>(), [("/rtt/p50_us", 4.0)]);
        assert!(!r.nothing_lost && r.table().contains("SOMETHING WAS LOST"));
        assert!(!Repeat::of(&[]).nothing_lost);
    }
}
