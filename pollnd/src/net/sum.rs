//! Figures of a test.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use bench::net::NetCtl;
use serde::Serialize;

use crate::units;

/// Figures of a test, as far as it came.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Sum {
    /// The test.
    pub(super) test: &'static str,
    /// The transport.
    pub(super) xprt: &'static str,
    /// The carrier of the node.
    pub(super) carrier: String,
    /// The address here.
    pub(super) from: String,
    /// The address there.
    pub(super) target: String,
    /// Bytes of an operation.
    pub(super) size: u64,
    /// Operations under way.
    pub(super) concurrency: u32,
    /// Operations that ended well.
    pub(super) operations: u64,
    /// Their bytes; those of a message that came back once.
    pub(super) bytes: u64,
    /// From the first one's begin to the last one's end, in seconds.
    pub(super) wall_s: f64,
    /// Operations a second.
    pub(super) per_s: f64,
    /// Bytes a second.
    pub(super) bytes_per_s: f64,
    /// CPU time of this process, in seconds.
    pub(super) cpu_s: f64,
    /// The same a GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu_s_per_gib: Option<f64>,
    /// Percentiles of an operation's time, in us.
    pub(super) p50_us: f64,
    /// As `p50_us`.
    pub(super) p99_us: f64,
    /// As `p50_us`.
    pub(super) p999_us: f64,
    /// The longest, in us.
    pub(super) max_us: f64,
    /// Operations that took longer than 1 ms.
    pub(super) over_1ms: u64,
    /// Operations whose bytes were looked at, as far as this end knows.
    pub(super) checked: u64,
    /// Those with wrong bytes.
    pub(super) wrong: u64,
    /// Operations that failed.
    pub(super) failed: u64,
    /// It was interrupted.
    pub(super) interrupted: bool,
    /// The first error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl Sum {
    /// Takes the counts over, of so much CPU time.
    pub(super) fn take(&mut self, ctl: &NetCtl, cpu_s: f64) {
        let get = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        let (rtt, max_us) = ctl.times();
        (self.operations, self.bytes) = (get(&ctl.completed), get(&ctl.bytes));
        (self.checked, self.wrong, self.failed) = (get(&ctl.checked), get(&ctl.wrong), get(&ctl.failed));
        (self.wall_s, self.cpu_s, self.over_1ms) = (ctl.span().as_secs_f64(), cpu_s, get(&ctl.stalls));
        let wall = self.wall_s.max(1e-9);
        (self.per_s, self.bytes_per_s) = (self.operations as f64 / wall, self.bytes as f64 / wall);
        let gib = self.bytes as f64 / f64::from(1 << 30);
        self.cpu_s_per_gib = (self.bytes > 0).then(|| cpu_s / gib);
        (self.p50_us, self.p99_us, self.p999_us, self.max_us) = (rtt.p50_us, rtt.p99_us, rtt.p999_us, max_us);
    }

    /// The workload in words.
    pub(super) fn title(&self) -> String {
        let bytes = units::many(self.size, "byte");
        format!(
            "{} of {bytes}, {} at a time: {} to {}, {}",
            self.test, self.concurrency, self.from, self.target, self.carrier
        )
    }

    /// The table.
    pub(super) fn table(&self) -> String {
        let mut o = self.title();
        let _ = write!(
            o,
            "\n  {:>12} {:>9} {:>11} {:>13} {:>10} {:>9} {:>9} {:>9} {:>9} {:>7}\n",
            "operations",
            "time",
            "a second",
            "payload",
            "CPU s/GiB",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "max us",
            "> 1 ms"
        );
        let cost = self.cpu_s_per_gib.map_or_else(|| "-".to_owned(), |c| format!("{c:.2}"));
        let _ = writeln!(
            o,
            "  {:>12} {:>9} {:>11} {:>13} {cost:>10} {:>9.1} {:>9.1} {:>9.1} {:>9.0} {:>7}",
            self.operations,
            units::time(self.wall_s),
            units::per_second(self.operations, self.wall_s),
            units::rate(self.bytes, self.wall_s),
            self.p50_us,
            self.p99_us,
            self.p999_us,
            self.max_us,
            self.over_1ms
        );
        let _ = writeln!(o, "  checked {}, wrong {}, failed {}", self.checked, self.wrong, self.failed);
        o
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_what_was_counted() {
        let mut s = Sum {
            test: "ping",
            from: "a".into(),
            target: "b".into(),
            carrier: "kernel sockets, port 7000".into(),
            size: 4096,
            concurrency: 8,
            ..Sum::default()
        };
        let ctl = NetCtl::default();
        s.take(&ctl, 0.0);
        assert_eq!(s.cpu_s_per_gib, None);
        ctl.completed.store(2000, Ordering::Relaxed);
        ctl.bytes.store(1 << 30, Ordering::Relaxed);
        ctl.first_ns.store(1_000_000_000, Ordering::Relaxed);
        ctl.last_ns.store(3_000_000_000, Ordering::Relaxed);
        ctl.times.lock().unwrap().record(50_000).unwrap();
        s.take(&ctl, 0.5);
        insta::assert_snapshot!(s.table(), @r"
        ping of 4096 bytes, 8 at a time: a to b, kernel sockets, port 7000
            operations      time    a second       payload  CPU s/GiB    p50 us    p99 us  p99.9 us    max us  > 1 ms
                  2000    2.00 s    1.00 k/s   4.29 Gbit/s       0.50      50.0      50.0      50.0        50       0
          checked 0, wrong 0, failed 0
        ");
    }
}
