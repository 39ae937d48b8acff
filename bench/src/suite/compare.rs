//! Two reports beside each other.

use std::fmt::Write as _;

use super::{Case, Figures, Report, Side, bytes};
use crate::repeat::Spread;
use crate::report::many;

/// Figures that are compared: the name, the figure, whether more of it is better.
type Of = (&'static str, fn(&Figures) -> Spread, bool);

/// Of every case.
const EACH: [Of; 4] = [
    ("operations/s", |f| f.per_s, true),
    ("CPU us each", |f| f.cpu_us, false),
    ("p50 us", |f| f.p50_us, false),
    ("p99 us", |f| f.p99_us, false),
];

/// A judgement of two spreads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The ranges of the rounds overlap: nothing can be said.
    Noise,
    /// All rounds of this report are better than all of the other.
    Better,
    /// All are worse.
    Worse,
}

impl Verdict {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Noise => "within noise",
            Verdict::Better => "better",
            Verdict::Worse => "worse",
        }
    }

    fn of(now: Spread, then: Spread, more: bool) -> Verdict {
        let ([l, h], [was_l, was_h]) = (now.range, then.range);
        match (l > was_h, h < was_l) {
            (false, false) => Verdict::Noise,
            (above, _) if above == more => Verdict::Better,
            _ => Verdict::Worse,
        }
    }
}

/// One figure of one case.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// The figure's name.
    pub figure: &'static str,
    /// This report's.
    pub now: Spread,
    /// The other's.
    pub then: Spread,
    /// The medians' ratio, this to the other.
    pub ratio: f64,
    /// Whether the ranges overlap, and if not which way.
    pub verdict: Verdict,
}

/// One case on one side.
#[derive(Clone, Debug)]
pub struct Row {
    /// The side.
    pub side: Side,
    /// The case.
    pub case: Case,
    /// Its figures.
    pub changes: Vec<Change>,
}

/// The comparison.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Name of the other report.
    pub other: String,
    /// Differences that make it doubtful.
    pub warnings: Vec<String>,
    /// Cases that both have.
    pub rows: Vec<Row>,
    /// Number of cases that only one of them has.
    pub alone: usize,
}

fn warnings(now: &Report, then: &Report) -> Vec<String> {
    let git = |r: &Report| r.program.git.clone().unwrap_or_else(|| "unknown".into());
    let build = |r: &Report| if r.program.release { "release" } else { "debug" }.to_owned();
    let quota = |r: &Report| r.machine.quota.clone().unwrap_or_else(|| "none".into());
    let peer = |r: &Report| r.options.peer.clone().unwrap_or_else(|| "none".into());
    let (m, t) = (&now.machine, &then.machine);
    let all = [
        ("CPU", m.cpu.clone(), t.cpu.clone()),
        ("CPUs", m.cpus.to_string(), t.cpus.to_string()),
        ("NUMA nodes", m.numa_nodes.to_string(), t.numa_nodes.to_string()),
        ("kernel", m.kernel.clone(), t.kernel.clone()),
        ("DPDK", m.dpdk.clone(), t.dpdk.clone()),
        ("memory", m.memory.clone(), t.memory.clone()),
        ("CPU quota", quota(now), quota(then)),
        ("pollnd version", now.program.version.clone(), then.program.version.clone()),
        ("pollnd build", build(now), build(then)),
        ("pollnd git", git(now), git(then)),
        ("peer", peer(now), peer(then)),
        ("seconds a case", now.options.seconds.to_string(), then.options.seconds.to_string()),
        ("rounds", now.options.rounds.to_string(), then.options.rounds.to_string()),
        (
            "concurrency of the sizes",
            now.options.base_concurrency.to_string(),
            then.options.base_concurrency.to_string(),
        ),
    ];
    let mut said: Vec<String> = all
        .into_iter()
        .filter(|(_, a, b)| a != b)
        .map(|(what, a, b)| format!("{what}: {a} here, {b} there"))
        .collect();
    for (r, which) in [(now, "this report"), (then, "the other")] {
        let load = r.load[0].max(r.load[1]);
        if r.machine.cpus > 0 && r.load[0] > 0.5 * f64::from(r.machine.cpus) {
            said.push(format!(
                "{which} was measured beside other work: load {:.1} before it, {load:.1} at most, on {} CPUs",
                r.load[0], r.machine.cpus
            ));
        }
        if r.options.rounds < 3 {
            let rounds = many(r.options.rounds.into(), "round");
            said.push(format!("{which} has {rounds}: too few to tell noise"));
        }
    }
    said
}

/// Cases in a few words: sides, operations, sizes and numbers at a time.
fn told(cases: impl Iterator<Item = (Side, Case)>) -> String {
    fn each<T: Ord>(all: &mut Vec<T>, name: impl Fn(&T) -> String) -> String {
        all.sort_unstable();
        all.dedup();
        all.iter().map(name).collect::<Vec<_>>().join(", ")
    }
    let (mut sides, mut ops, mut sizes, mut numbers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (side, case) in cases {
        sides.push(side);
        ops.push(case.op);
        numbers.push(case.concurrency);
        if case.op.is_bulk() {
            sizes.push(case.size);
        }
    }
    let ops = each(&mut ops, |op| op.name().to_owned());
    let of =
        if sizes.is_empty() { String::new() } else { format!(" of {}", each(&mut sizes, |n| bytes(*n))) };
    let numbers = each(&mut numbers, u32::to_string);
    format!("{ops}{of}, {numbers} at a time, on {}", each(&mut sides, |s| format!("\"{}\"", s.name())))
}

/// The fault of a comparison of these cases, which are to be measured or were, with a report that has none of them: what each has.
pub fn nothing_in_common(now: &[(Side, Case)], then: &Report) -> Option<String> {
    if now.iter().any(|(side, case)| then.at(*side, *case).is_some()) {
        return None;
    }
    let there = if then.points.is_empty() {
        "no case at all".to_owned()
    } else {
        told(then.points.iter().map(|p| (p.side, p.case)))
    };
    Some(format!(
        "no case is in both: it has {there}; this report has {}; measure the same cases, or compare with another",
        told(now.iter().copied())
    ))
}

impl Comparison {
    /// Of this report and the other, which is called `other`.
    pub fn of(now: &Report, then: &Report, other: &str) -> Comparison {
        let row = |p: &super::Point| {
            let was = then.at(p.side, p.case)?;
            let change = |(figure, get, more): &Of| {
                let (now, then) = (get(&p.figures), get(was));
                (then.median > 0.0).then(|| Change {
                    figure,
                    now,
                    then,
                    ratio: now.median / then.median,
                    verdict: Verdict::of(now, then, *more),
                })
            };
            Some(Row { side: p.side, case: p.case, changes: EACH.iter().filter_map(change).collect() })
        };
        let rows: Vec<Row> = now.points.iter().filter_map(row).collect();
        let alone = now.points.len() + then.points.len() - 2 * rows.len();
        Comparison { other: other.to_owned(), warnings: warnings(now, then), rows, alone }
    }

    /// Number of figures of each verdict: better, worse, within noise.
    pub fn counts(&self) -> [usize; 3] {
        let all = || self.rows.iter().flat_map(|r| &r.changes);
        [Verdict::Better, Verdict::Worse, Verdict::Noise].map(|v| all().filter(|c| c.verdict == v).count())
    }

    /// The headline.
    pub fn headline(&self) -> String {
        if self.rows.is_empty() {
            return format!(
                "nothing to compare: {} in one of the reports alone",
                many(self.alone as u64, "case")
            );
        }
        let [better, worse, noise] = self.counts();
        let alone = match self.alone {
            0 => String::new(),
            n => format!("; in one of the reports alone: {}", many(n as u64, "case")),
        };
        format!("{better} figures better, {worse} worse, {noise} within noise{alone}")
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut t = format!("\n  against {}: {}\n", self.other, self.headline());
        for w in &self.warnings {
            let _ = writeln!(t, "  warning: {w}");
        }
        if self.rows.is_empty() {
            return t;
        }
        let _ = write!(t, "\n  {:<34}", "ratios to it; ~ is within noise");
        for (name, ..) in EACH {
            let _ = write!(t, " {name:>14}");
        }
        t.push('\n');
        let mut side = None;
        for r in &self.rows {
            if side.replace(r.side) != Some(r.side) {
                let _ = writeln!(t, "  {}", r.side.name());
            }
            let _ = write!(t, "    {:<32}", r.case.name());
            for (name, ..) in EACH {
                let cell = r.changes.iter().find(|c| c.figure == name).map_or_else(
                    || "-".to_owned(),
                    |c| {
                        let mark = match c.verdict {
                            Verdict::Noise => '~',
                            Verdict::Better => '+',
                            Verdict::Worse => '-',
                        };
                        format!("{:.2} x {mark}", c.ratio)
                    },
                );
                let _ = write!(t, " {cell:>14}");
            }
            t.push('\n');
        }
        t
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::tests::sample;
    use crate::suite::{Carrier, Op};

    fn spread(median: f64, low: f64, high: f64) -> Spread {
        Spread { median, range: [low, high] }
    }

    #[test]
    fn ranges_that_overlap_are_noise() {
        let then = spread(10.0, 9.0, 11.0);
        for (now, more, verdict) in [
            (spread(12.0, 11.0, 13.0), true, Verdict::Noise),
            (spread(12.0, 11.1, 13.0), true, Verdict::Better),
            (spread(12.0, 11.1, 13.0), false, Verdict::Worse),
            (spread(8.0, 7.0, 8.9), true, Verdict::Worse),
            (spread(8.0, 7.0, 8.9), false, Verdict::Better),
            (spread(8.0, 7.0, 9.0), false, Verdict::Noise),
        ] {
            assert_eq!(Verdict::of(now, then, more), verdict, "{now:?} {more}");
        }
    }

    #[test]
    fn reports_without_a_case_in_common_are_told_apart() {
        let now = sample(1.0);
        let mut then = sample(1.0);
        let cases = |r: &Report| r.points.iter().map(|p| (p.side, p.case)).collect::<Vec<_>>();
        assert_eq!(nothing_in_common(&cases(&now), &then), None);
        then.points.retain(|p| p.case.size == 4096 && p.side.carrier == Carrier::Sockets);
        assert_eq!(nothing_in_common(&cases(&now), &then), None, "some are enough");
        let mut now = cases(&now);
        now.retain(|(side, case)| side.carrier == Carrier::Link && case.op == Op::Ping);
        let e = nothing_in_common(&now, &then).unwrap();
        for says in [
            "it has PUT, GET, BRW write, BRW read of 4 KiB, 8 at a time, on \"kernel sockets\"",
            "this report has ping, 1, 8 at a time, on \"virtio link, 1 lcore\", \"virtio link, 2 lcores\"",
        ] {
            assert!(e.contains(says), "{says}: {e}");
        }
        then.points.clear();
        assert!(nothing_in_common(&now, &then).unwrap().contains("it has no case at all"));
        // Parts that a peer does not serve are known when they have been tried.
        let c = Comparison::of(&sample(1.0), &then, "old.json");
        assert!(
            c.table().contains("nothing to compare: 54 cases in one of the reports alone"),
            "{}",
            c.table()
        );
        assert!(!c.table().contains("ratios"), "{}", c.table());
    }

    #[test]
    fn the_same_report_twice_is_noise_without_warnings() {
        let r = sample(1.0);
        let c = Comparison::of(&r, &r, "itself");
        assert_eq!((c.counts()[..2].to_vec(), c.alone, c.warnings.clone()), (vec![0, 0], 0, vec![]));
        assert!(c.rows.len() == r.points.len() && c.rows.iter().all(|r| r.changes.len() == 4));
    }

    #[test]
    fn what_differs_is_said() {
        let (now, mut then) = (sample(1.0), sample(2.0));
        then.machine.cpu = "another".into();
        then.options.seconds = 2.0;
        then.load = [3.0, 2.0];
        then.points.pop();
        let c = Comparison::of(&now, &then, "old.json");
        // Half of the cost, half of the time: all is better.
        assert_eq!((c.counts()[1..].to_vec(), c.alone), (vec![0, 0], 1));
        let t = c.table();
        for says in [
            "against old.json: 212 figures better, 0 worse, 0 within noise; in one of the reports alone: 1 case",
            "warning: CPU: A <CPU> & more here, another there",
            "warning: seconds a case: 0.5 here, 2 there",
            "warning: the other was measured beside other work: load 3.0 before it",
            "2.00 x +",
            "0.50 x +",
        ] {
            assert!(t.contains(says), "{says}: {t}");
        }
    }
}
