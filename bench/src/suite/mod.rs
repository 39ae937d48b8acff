//! The side-by-side set of `pollnd bench report`: what is measured ([`plan`], [`run`]), what came of it (here), the cost of
//! messages and bytes ([`fit`]), two reports beside each other ([`compare`]), and the page ([`page`]).

pub mod compare;
pub mod fit;
pub mod page;
pub mod plan;
mod plot;
pub mod run;

use serde::{Deserialize, Serialize};

use self::fit::Fit;
use crate::measure::{Rtt, Stretch};
use crate::repeat::Spread;

/// The kind of report, as its first field tells.
pub const KIND: &str = "pollnd bench report";
/// The version of its form.
pub const VERSION: u64 = 1;

/// Kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// LNet PUTs with ACK.
    Put,
    /// LNet GETs.
    Get,
    /// BRW writes of lnet_selftest.
    BrwWrite,
    /// BRW reads of lnet_selftest.
    BrwRead,
    /// LNet pings.
    Ping,
}

impl Op {
    /// All of them, in the order in which they are told.
    pub const ALL: [Op; 5] = [Op::Put, Op::Get, Op::BrwWrite, Op::BrwRead, Op::Ping];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Op::Put => "PUT",
            Op::Get => "GET",
            Op::BrwWrite => "BRW write",
            Op::BrwRead => "BRW read",
            Op::Ping => "ping",
        }
    }

    /// Whether it moves payload.
    pub fn is_bulk(self) -> bool {
        self != Op::Ping
    }

    /// Whether it is lnet_selftest's.
    pub fn is_brw(self) -> bool {
        matches!(self, Op::BrwWrite | Op::BrwRead)
    }
}

/// Carriers of a pair of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// The virtio link of one process.
    Link,
    /// Kernel sockets over loopback, a thread for each node.
    Sockets,
    /// To a peer elsewhere.
    Peer,
}

/// One side of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Side {
    /// The carrier.
    pub carrier: Carrier,
    /// Lcores that both nodes of a link share; 0 for others.
    pub lcores: u32,
}

impl Side {
    /// Whether its nodes have several lcores each, and so as many peers: it has cases of its own ([`plan::Plan::cases_on`]).
    pub fn is_wide(self) -> bool {
        self.carrier == Carrier::Link && self.lcores > 2
    }

    /// For people.
    pub fn name(self) -> String {
        match (self.carrier, self.lcores) {
            (Carrier::Link, 1) => "virtio link, 1 lcore".into(),
            (Carrier::Link, n) => format!("virtio link, {n} lcores"),
            (Carrier::Sockets, _) => "kernel sockets".into(),
            (Carrier::Peer, _) => "to the peer".into(),
        }
    }
}

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Case {
    /// The operation.
    pub op: Op,
    /// Payload of each, in bytes; 0 for pings.
    pub size: u32,
    /// Operations under way at a time.
    pub concurrency: u32,
}

impl Case {
    /// For people.
    pub fn name(self) -> String {
        match self.op {
            Op::Ping => format!("ping, {} at a time", self.concurrency),
            op => format!("{} {}, {} at a time", op.name(), bytes(self.size), self.concurrency),
        }
    }
}

/// A size as people write it.
pub fn bytes(n: u32) -> String {
    match n {
        n if n >= 1 << 20 && n.is_multiple_of(1 << 20) => format!("{} MiB", n >> 20),
        n if n >= 1 << 10 && n.is_multiple_of(1 << 10) => format!("{} KiB", n >> 10),
        n => format!("{n} B"),
    }
}

/// One round of a case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Time, CPU time and payload.
    pub cost: Stretch,
    /// Times of single operations.
    pub latency: Rtt,
}

/// Figures of a case, over its rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Payload, in Gbit/s.
    pub gbps: Spread,
    /// Operations a second.
    pub per_s: Spread,
    /// Payload for a second of CPU time, in Gbit.
    pub gbit_per_cpu_s: Spread,
    /// CPU time of an operation, in us.
    pub cpu_us: Spread,
    /// From an operation's begin to its end, in us.
    pub p50_us: Spread,
    /// As `p50_us`.
    pub p90_us: Spread,
    /// As `p50_us`.
    pub p99_us: Spread,
    /// As `p50_us`.
    pub p999_us: Spread,
}

impl Figures {
    fn of(rounds: &[Round]) -> Figures {
        let each = |f: fn(&Round) -> f64| Spread::of(&rounds.iter().map(f).collect::<Vec<_>>());
        Figures {
            gbps: each(|r| r.cost.gbps()),
            per_s: each(|r| r.cost.rate()),
            gbit_per_cpu_s: each(|r| r.cost.gbit_per_cpu_s()),
            cpu_us: each(|r| r.cost.cpu_s * 1e6 / r.cost.messages.max(1) as f64),
            p50_us: each(|r| r.latency.p50_us),
            p90_us: each(|r| r.latency.p90_us),
            p99_us: each(|r| r.latency.p99_us),
            p999_us: each(|r| r.latency.p999_us),
        }
    }
}

/// A case on one side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The side.
    pub side: Side,
    /// The load.
    pub case: Case,
    /// All rounds, in order.
    pub rounds: Vec<Round>,
    /// Their medians and ranges.
    #[serde(skip_deserializing)]
    pub figures: Figures,
}

/// The program that measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// The version of pollnd.
    pub version: String,
    /// `git describe` of the tree that the program lies in, where there is one.
    pub git: Option<String>,
    /// Whether it was built with optimisations and without checks.
    pub release: bool,
}

/// The set that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Sizes, in bytes.
    pub sizes: Vec<u32>,
    /// Operations under way at a time.
    pub concurrency: Vec<u32>,
    /// Those of the sizes' series.
    pub base_concurrency: u32,
    /// Seconds of a case in a round.
    pub seconds: f64,
    /// Rounds.
    pub rounds: u32,
    /// The peer, where one was measured against.
    pub peer: Option<String>,
    /// Numbers of lcores of the link; none in the first reports, and where there is no link.
    #[serde(default)]
    pub lcores: Vec<u32>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// CPU model.
    pub cpu: String,
    /// CPUs that the process may use.
    pub cpus: u32,
    /// NUMA nodes.
    pub numa_nodes: u32,
    /// Kernel release.
    pub kernel: String,
    /// DPDK release, or that it was not used.
    pub dpdk: String,
    /// Memory of the link: huge pages, or that it ran without.
    pub memory: String,
    /// Huge pages of the machine: for each size, those that there are and those that are free.
    pub huge_pages: String,
    /// The CPU quota, where one is in force.
    pub quota: Option<String>,
}

/// Part of the set that was not measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The part.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// The whole report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`KIND`].
    pub report: String,
    /// [`VERSION`].
    pub version: u64,
    /// The program.
    pub program: Program,
    /// The set.
    pub options: Options,
    /// The machine.
    pub machine: Machine,
    /// Begin, in seconds since 1970.
    pub began: u64,
    /// Seconds that it took.
    pub took_s: f64,
    /// Load average of the last minute, before and after.
    pub load: [f64; 2],
    /// Whether all that was sent arrived once and whole, and all memory came home.
    pub nothing_lost: bool,
    /// Parts of the set that were not measured.
    pub left_out: Vec<LeftOut>,
    /// Its cases, each on one side.
    pub points: Vec<Point>,
    /// Costs of a message and of a byte.
    pub fits: Vec<Fit>,
}

/// The file that is to be given in place of one that is no report.
pub const WANTED: &str = "a JSON file that `pollnd bench report` wrote";

/// Most of each that a report is read with: tables and plots have all of them on all sides.
const SIZES_MAX: usize = 1000;
/// As [`SIZES_MAX`].
const CONCURRENCY_MAX: usize = 64;
/// As [`SIZES_MAX`].
const SIDES_MAX: usize = 32;

/// The fields that are looked at first.
#[derive(Deserialize)]
struct Head {
    report: String,
    version: u64,
}

impl Report {
    /// Adds what the rounds measured on a side, case by case.
    pub fn add(&mut self, side: Side, rounds: &[Vec<(Case, Round)>]) {
        let Some(first) = rounds.first() else { return };
        for (i, (case, _)) in first.iter().enumerate() {
            let rounds: Vec<Round> = rounds.iter().filter_map(|r| r.get(i).map(|x| x.1)).collect();
            let figures = Figures::of(&rounds);
            self.points.push(Point { side, case: *case, rounds, figures });
        }
        self.fits = fit::all(&self.points, self.options.base_concurrency);
    }

    /// Reads a report.
    ///
    /// # Errors
    /// The line and column at which it is none, and what is expected.
    pub fn read(text: &str) -> Result<Report, String> {
        let said = |e: serde_json::Error| {
            let what = e.to_string();
            let what = what.split(" at line ").next().unwrap_or_default();
            // The file's own words may be in it, and it goes to a terminal.
            let what: String = what.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            format!("line {}, column {}: {what}; give {WANTED}", e.line(), e.column())
        };
        let head: Head = serde_json::from_str(text).map_err(said)?;
        if head.report != KIND {
            return Err(format!("\"report\" is {:?}, not {KIND:?}; give {WANTED}", head.report));
        }
        if head.version != VERSION {
            return Err(format!(
                "it is of version {}, and this pollnd reads version {VERSION}: measure again, or use the pollnd that wrote it",
                head.version
            ));
        }
        let mut r: Report = serde_json::from_str(text).map_err(said)?;
        if let Some(t) = r.texts().find(|t| t.chars().any(|c| c.is_control() && c != '\n')) {
            return Err(format!("{t:?} has control characters, which terminals obey; give {WANTED}"));
        }
        let o = &r.options;
        for (what, n, most) in [
            ("options.sizes", o.sizes.len(), SIZES_MAX),
            ("options.concurrency", o.concurrency.len(), CONCURRENCY_MAX),
            ("options.lcores", o.lcores.len(), SIDES_MAX),
            ("sides", r.sides().len(), SIDES_MAX),
        ] {
            if n > most {
                return Err(format!("it has {n} {what}, and a set has {most} at most; give {WANTED}"));
            }
        }
        let twice = |i: &usize| {
            r.points[..*i].iter().any(|p| (p.side, p.case) == (r.points[*i].side, r.points[*i].case))
        };
        if let Some(i) = (0..r.points.len()).find(twice) {
            return Err(format!(
                "points[{i}]: this case on this side stands there a second time; give {WANTED}"
            ));
        }
        for (i, p) in r.points.iter_mut().enumerate() {
            let fair = |r: &Round| {
                let Rtt { p50_us, p90_us, p99_us, p999_us, .. } = r.latency;
                let all = [r.cost.wall_s, r.cost.cpu_s, p50_us, p90_us, p99_us, p999_us];
                all.iter().all(|x| (0.0..1e12).contains(x)) && r.cost.wall_s > 0.0
            };
            if p.rounds.is_empty() || !p.rounds.iter().all(fair) {
                return Err(format!(
                    "points[{i}].rounds: no round, or one with a time that is negative or no time at all; give {WANTED}"
                ));
            }
            p.figures = Figures::of(&p.rounds);
        }
        r.fits = fit::all(&r.points, r.options.base_concurrency);
        Ok(r)
    }

    /// Texts of the report that are told as they are.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let (p, m) = (&self.program, &self.machine);
        let machine = [&m.cpu, &m.kernel, &m.dpdk, &m.memory, &m.huge_pages];
        let may = [&p.git, &self.options.peer, &m.quota].into_iter().flatten();
        let left = self.left_out.iter().flat_map(|l| [&l.what, &l.why]);
        [&p.version].into_iter().chain(machine).chain(may).chain(left).map(String::as_str)
    }

    /// The checks that it has passed, in words: of the far end of a peer nothing can be known.
    pub fn checked(&self) -> &'static str {
        match self.options.peer {
            None => "every message once and whole, all memory home",
            Some(_) => {
                "no operation failed, and all of this side's memory came home; the peer's end was not looked at"
            }
        }
    }

    /// The opposite, in words.
    pub fn lost(&self) -> &'static str {
        match self.options.peer {
            None => "something was lost",
            Some(_) => "an operation failed, or this side's node did not go down in order",
        }
    }

    /// The report as JSON.
    ///
    /// # Errors
    /// None that a caller could mend.
    pub fn json(&self) -> Result<String, String> {
        serde_json::to_string_pretty(self).map(|s| s + "\n").map_err(|e| e.to_string())
    }

    /// The sides that were measured, in order.
    pub fn sides(&self) -> Vec<Side> {
        let mut all: Vec<Side> = self.points.iter().map(|p| p.side).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The operations that were measured, in order.
    pub fn ops(&self) -> Vec<Op> {
        Op::ALL.into_iter().filter(|op| self.points.iter().any(|p| p.case.op == *op)).collect()
    }

    /// The figures of a case on a side.
    pub fn at(&self, side: Side, case: Case) -> Option<&Figures> {
        self.points.iter().find(|p| p.side == side && p.case == case).map(|p| &p.figures)
    }

    /// Those of a size's series, by size.
    pub fn by_size(&self, op: Op, side: Side) -> Vec<(u32, &Figures)> {
        let at = |size: &u32| {
            let case = Case { op, size: *size, concurrency: self.options.base_concurrency };
            self.at(side, case).map(|f| (*size, f))
        };
        self.options.sizes.iter().filter_map(at).collect()
    }

    /// Those of a concurrency's series, by concurrency.
    pub fn by_concurrency(&self, op: Op, side: Side) -> Vec<(u32, &Figures)> {
        let size = if op.is_bulk() { plan::small(&self.options.sizes) } else { 0 };
        let at = |n: &u32| self.at(side, Case { op, size, concurrency: *n }).map(|f| (*n, f));
        self.options.concurrency.iter().filter_map(at).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report whose points cost `scale` times 2 us a message and 0.1 ns a byte.
    pub(crate) fn sample(scale: f64) -> Report {
        let options = Options {
            sizes: vec![64, 4096, 1 << 20],
            concurrency: vec![1, 8],
            base_concurrency: 8,
            seconds: 0.5,
            rounds: 3,
            peer: None,
            lcores: vec![1, 2],
        };
        let mut r = Report {
            report: KIND.into(),
            version: VERSION,
            options: options.clone(),
            machine: Machine { cpu: "A <CPU> & more".into(), cpus: 2, numa_nodes: 1, ..Machine::default() },
            nothing_lost: true,
            ..Report::default()
        };
        let plan = plan::Plan { options, ops: Op::ALL.to_vec() };
        let sides = [(Carrier::Link, 1), (Carrier::Link, 2), (Carrier::Sockets, 0)];
        for (carrier, lcores) in sides {
            let round = |n: u64| {
                let each = |case: Case| {
                    let cost = (2e-6 + 1e-10 * f64::from(case.size)) * scale;
                    let messages = (1.0 / cost) as u64 + n;
                    let bytes = messages * u64::from(case.size);
                    let p50_us = (2.0 + f64::from(case.concurrency)) * scale;
                    let latency = Rtt {
                        p50_us,
                        p90_us: p50_us * 1.5,
                        p99_us: p50_us * 2.0,
                        p999_us: p50_us * 4.0,
                        count: messages,
                    };
                    (case, Round { cost: Stretch { wall_s: 1.0, cpu_s: 1.0, messages, bytes }, latency })
                };
                plan.cases().into_iter().map(each).collect::<Vec<_>>()
            };
            r.add(Side { carrier, lcores }, &[round(0), round(1), round(2)]);
        }
        r
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let r = sample(1.0);
        assert_eq!(Report::read(&r.json().unwrap()), Ok(r));
    }

    /// The first reports knew of no more lcores than two.
    #[test]
    fn a_report_without_numbers_of_lcores_is_read() {
        let text = sample(1.0).json().unwrap();
        let at = text.find(",\n    \"lcores\": [").unwrap();
        let end = at + text[at..].find(']').unwrap() + 1;
        let r = Report::read(&format!("{}{}", &text[..at], &text[end..])).unwrap();
        assert_eq!((r.options.lcores.len(), r.points), (0, sample(1.0).points));
    }

    #[test]
    fn a_file_that_is_no_report_is_refused_where_it_is_wrong() {
        let good = sample(1.0).json().unwrap();
        let cut = &good[..good.len() / 2];
        let with = |from: &str, to: &str| good.replacen(from, to, 1);
        for (text, says) in [
            (
                "",
                "line 1, column 0: EOF while parsing a value; give a JSON file that `pollnd bench report` wrote",
            ),
            ("{}", "line 1, column 2: missing field `report`"),
            ("[1, 2]", "line 1, column 2: invalid type: integer `1`, expected a string"),
            (cut, "EOF while parsing"),
            (
                &with("\"version\": 1", "\"version\": 2"),
                "it is of version 2, and this pollnd reads version 1",
            ),
            (&with("pollnd bench report", "pollnd demo"), "\"report\" is \"pollnd demo\""),
            (&with("\"seconds\": 0.5", "\"seconds\": \"x\""), "invalid type: string \"x\", expected f64"),
            (
                &with("\"op\": \"put\"", "\"op\": \"shove\""),
                "unknown variant `shove`, expected one of `put`, `get`",
            ),
            (&with("\"wall_s\": 1.0", "\"wall_s\": 0.0"), "points[0].rounds: no round, or one with a time"),
            (&with("\"wall_s\": 1.0", "\"wall_s\": -1.0"), "points[0].rounds"),
            (&with("\"wall_s\": 1.0", "\"wall_s\": 1e400"), "number out of range"),
            // Sequences that a terminal would do as it is told by.
            (&with("\"op\": \"put\"", "\"op\": \"\\u001b[2J\""), "unknown variant `?[2J`"),
            (
                &with("A <CPU>", "\\u001b]0;owned\\u0007"),
                "\"\\u{1b}]0;owned\\u{7} & more\" has control characters",
            ),
        ] {
            let e = Report::read(text).unwrap_err();
            assert!(e.contains(says), "{says}: {e}");
        }
        // Two reports are compared case by case.
        let mut r = sample(1.0);
        r.points.extend(r.points.clone());
        let e = Report::read(&r.json().unwrap()).unwrap_err();
        assert!(e.contains("a second time") && e.contains(&format!("points[{}]", r.points.len() / 2)), "{e}");
        let e = Report::read(&with("\"seconds\": 0.5", "\"seconds\": \"x\"")).unwrap_err();
        let line = 1 + good.lines().position(|l| l.contains("\"seconds\"")).unwrap();
        assert!(e.starts_with(&format!("line {line}, column ")), "{e}");
    }

    /// A MiB of them had a page take hours.
    #[test]
    fn a_report_of_more_than_a_set_can_have_is_refused() {
        let mut r = sample(1.0);
        r.options.sizes = (0..=1000).collect();
        let read = |r: &Report| Report::read(&r.json().unwrap()).map(drop);
        assert!(read(&r).unwrap_err().contains("1001 options.sizes, and a set has 1000 at most"));
        r.options.sizes.pop();
        assert_eq!(read(&r), Ok(()));
        r.options.concurrency = (0..=64).collect();
        assert!(read(&r).unwrap_err().contains("65 options.concurrency"));
        let mut r = sample(1.0);
        let point = r.points[0].clone();
        let side = |lcores| Point { side: Side { carrier: Carrier::Link, lcores }, ..point.clone() };
        r.points = (0..=32).map(side).collect();
        assert!(read(&r).unwrap_err().contains("33 sides"));
    }

    #[test]
    fn figures_are_medians_with_their_range() {
        let r = sample(1.0);
        let f = r
            .at(Side { carrier: Carrier::Link, lcores: 1 }, Case { op: Op::Put, size: 64, concurrency: 8 })
            .unwrap();
        let [low, high] = f.per_s.range;
        assert!(low < f.per_s.median && f.per_s.median < high, "{f:?}");
        assert_eq!((f.p50_us.median, f.p90_us.median, f.p999_us.median), (10.0, 15.0, 40.0));
    }

    /// Readers of the files find each field in the documentation.
    #[test]
    fn every_field_is_documented() {
        fn keys(v: &serde_json::Value, to: &mut std::collections::BTreeSet<String>) {
            match v {
                serde_json::Value::Object(o) => o.iter().for_each(|(k, v)| {
                    to.insert(k.clone());
                    keys(v, to);
                }),
                serde_json::Value::Array(a) => a.iter().for_each(|v| keys(v, to)),
                _ => {}
            }
        }
        let mut r = sample(1.0);
        r.left_out.push(LeftOut { what: "x".into(), why: "y".into() });
        let mut all = std::collections::BTreeSet::new();
        keys(&serde_json::to_value(&r).unwrap(), &mut all);
        let text = include_str!("../../../docs/report.md");
        let missing: Vec<_> = all.iter().filter(|k| !text.contains(&format!("`{k}`"))).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
