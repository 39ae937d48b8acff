//! `pollnd bench net`: Motr's network transport over netsock, between two nodes.

use std::sync::Arc;

use bench::ctl::Ctl;
use bench::net::{Client, Intake, Job, NetCtl, Node, NodeConfig, Sample, Work, beside, measure, name};
use bench::pair::NothingLost;
use bench::repeat::median;
use bench::report::{RanOn, many};
use bench::sock::{self, SockPair};
use bench::workload::{self, ClientConfig};
use clap::Args;
use hugepages::Backing;
use serde::Serialize;
use transport::node::sock::IdleMode;
use transport::node::{NoApp, NodeEnd, Protocols};
use transport::wire::Nid;

use super::print;
use super::sides::{self, Eal};
use crate::args::common::OverLink;
use crate::args::values::{number, seconds};

/// `pollnd bench net`.
#[derive(Args, Debug, Clone)]
pub(crate) struct NetArgs {
    /// Rounds; each measures every side once.
    #[arg(default_value_t = 5, value_parser = number::<u32>(1..=1000))]
    pub(crate) rounds: u32,
    /// Seconds for each case in a round.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Copies bulk that comes into pages, as Motr's buffers have it, instead of having receive buffers lent.
    #[arg(long)]
    pub(crate) copy: bool,
    /// The form of the result, and the link.
    #[command(flatten)]
    pub(crate) over: OverLink,
}

/// Operations under way.
const FLIGHT: usize = 8;
const CASES: [(&str, Work, u64); 3] = [
    ("active send 1 MiB", Work::ActiveSend, 1 << 20),
    ("active receive 1 MiB", Work::ActiveRecv, 1 << 20),
    ("message 4 KiB there and back", Work::Ping, 4096),
];
const ONE: &str = "virtio link, one lcore";
const TWO: &str = "virtio link, two lcores";
const SOCKETS: &str = "kernel sockets on loopback, two threads";

/// A node's application and protocols.
type Made = Result<(NoApp, Protocols), String>;
type Stopped = Result<(Vec<NodeEnd>, u64), String>;

/// Both ends of a case.
struct Ends {
    client: Arc<NetCtl>,
    node: Arc<NetCtl>,
    ctl: Arc<Ctl>,
    work: Work,
    size: u64,
    intake: Intake,
}

impl Ends {
    fn new(a: &NetArgs, (_, work, size): (&str, Work, u64)) -> Ends {
        let intake = if a.copy { Intake::Copied } else { Intake::Lent };
        Ends { client: Arc::default(), node: Arc::default(), ctl: Arc::default(), work, size, intake }
    }

    fn client(&self) -> impl FnOnce([Nid; 2], &Arc<dyn Backing>) -> Made + Send + 'static {
        let (ctl, work, size, intake) = (self.client.clone(), self.work, self.size, self.intake);
        move |[here, there], backing| {
            let job = Job {
                work,
                target: name(there)?.to_string(),
                size,
                flight: FLIGHT,
                limit: u64::MAX,
                begin_for: None,
                timeout: 20_000_000_000,
                check: false,
                intake,
            };
            Ok((NoApp, beside(here, backing, |b| Client::new(job, ctl, b))?))
        }
    }

    fn node(&self) -> impl FnOnce([Nid; 2], &Arc<dyn Backing>) -> Made + Send + 'static {
        let (ctl, intake) = (self.node.clone(), self.intake);
        let cfg = NodeConfig { messages: 64, message: 64 << 10, bulks: FLIGHT * 2, bulk: 1 << 20, intake };
        move |[here, _], backing| Ok((NoApp, beside(here, backing, |b| Node::new(cfg, ctl, b))?))
    }

    fn measure(
        &self,
        secs: f64,
        lost: &mut Vec<NothingLost>,
        stop: impl FnOnce() -> Stopped,
    ) -> Result<Sample, String> {
        let sample = measure(&self.ctl, &self.client, &self.node, secs);
        let (ends, left) = stop()?;
        lost.push(NothingLost::of(&self.ctl, &ends).and_left(left));
        sample
    }
}

/// A sample a case.
struct Round {
    samples: Vec<Sample>,
    lost: Vec<NothingLost>,
}

impl Round {
    /// Measures each case; `one` does one.
    fn of(
        a: &NetArgs,
        mut one: impl FnMut(&Ends, &mut Vec<NothingLost>) -> Result<Sample, String>,
    ) -> Result<Round, String> {
        let mut lost = Vec::new();
        let samples =
            CASES.into_iter().map(|c| one(&Ends::new(a, c), &mut lost)).collect::<Result<_, _>>()?;
        Ok(Round { samples, lost })
    }
}

fn sockets(a: &NetArgs) -> Result<Round, String> {
    Round::of(a, |ends, lost| {
        let p = SockPair {
            idle: IdleMode::Block,
            intake: workload::Intake::Lent,
            client: ClientConfig::default(),
            peer_credits: 8,
        };
        let running = sock::start_beside(p, &ends.ctl, ends.client(), ends.node())?;
        ends.measure(a.seconds, lost, || running.stop().map(|e| (e, 0)))
    })
}

#[cfg(feature = "dpdk")]
fn over_link(eal: &Eal, a: &NetArgs, one: bool) -> Result<Round, String> {
    use bench::link::{self, LinkConfig};

    use crate::pairs;

    let dir = std::env::temp_dir();
    Round::of(a, |ends, lost| {
        let (threads, enter, idle) = pairs::threads(one)?;
        let cfg = LinkConfig { threads, ..LinkConfig::default() };
        let run = (&enter, idle);
        let l = link::start_beside(eal, &dir, cfg, &ends.ctl, run, ends.client(), ends.node())?;
        ends.measure(a.seconds, lost, || l.stop().map(|e| (e.nodes, e.buffers_left)))
    })
}

#[cfg(not(feature = "dpdk"))]
fn over_link(eal: &Eal, _: &NetArgs, _: bool) -> Result<Round, String> {
    match *eal {}
}

/// A case on one side over all rounds: medians.
#[derive(Debug, Serialize)]
struct Row {
    side: &'static str,
    case: &'static str,
    median: Sample,
}

/// The whole bench.
#[derive(Debug, Serialize)]
struct Net {
    rounds: u32,
    flight: usize,
    copied_on_receive: bool,
    rows: Vec<Row>,
    nothing_lost: bool,
    load: [f64; 2],
    ran_on: RanOn,
}

fn rows<'a>(side: &'static str, rounds: &'a [Round]) -> impl Iterator<Item = Row> + 'a {
    CASES.into_iter().enumerate().filter_map(move |(i, (case, ..))| {
        let all: Vec<Sample> = rounds.iter().filter_map(|r| r.samples.get(i).copied()).collect();
        let mid = |f: fn(&Sample) -> f64| median(&all.iter().map(f).collect::<Vec<_>>());
        let median = Sample {
            gib_per_s: mid(|s| s.gib_per_s),
            gib_per_cpu_s: mid(|s| s.gib_per_cpu_s),
            per_s: mid(|s| s.per_s),
            per_cpu_s: mid(|s| s.per_cpu_s),
            p50_us: mid(|s| s.p50_us),
            p99_us: mid(|s| s.p99_us),
            p999_us: mid(|s| s.p999_us),
            max_us: mid(|s| s.max_us),
            stalls_ppm: mid(|s| s.stalls_ppm),
        };
        (!all.is_empty()).then_some(Row { side, case, median })
    })
}

impl Net {
    fn table(&self) -> String {
        let mut t = format!(
            "\n  {:<32} {:>7} {:>10} {:>9} {:>9} {:>8} {:>8} {:>9} {:>9} {:>10}\n",
            "",
            "GiB/s",
            "GiB/CPU-s",
            "a second",
            "a CPU-s",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "max us",
            "> 1 ms ppm"
        );
        for (i, r) in self.rows.iter().enumerate() {
            if i == 0 || self.rows.get(i - 1).is_some_and(|before| before.side != r.side) {
                t += &format!("  {}\n", r.side);
            }
            let m = &r.median;
            t += &format!(
                "    {:<30} {:>7.2} {:>10.2} {:>9.0} {:>9.0} {:>8.1} {:>8.1} {:>9.1} {:>9.0} {:>10.1}\n",
                r.case,
                m.gib_per_s,
                m.gib_per_cpu_s,
                m.per_s,
                m.per_cpu_s,
                m.p50_us,
                m.p99_us,
                m.p999_us,
                m.max_us,
                m.stalls_ppm
            );
        }
        let how = if self.copied_on_receive { "copied once" } else { "lent" };
        let rounds = many(self.rounds.into(), "round");
        let what = format!("{} at a time; bulk received is {how}; medians of {rounds}", self.flight);
        t + &self.ran_on.foot(self.nothing_lost, &what, self.load)
    }
}

pub(super) fn main(a: &NetArgs) -> Result<(), String> {
    let s = sides::measure(("net", a.rounds), &a.over, |eal, one| over_link(eal, a, one), || sockets(a))?;
    let sides = [(ONE, &s.one), (TWO, &s.two), (SOCKETS, &s.sockets)];
    let lost: Vec<NothingLost> =
        sides.iter().flat_map(|(_, rounds)| rounds.iter()).flat_map(|r| r.lost.clone()).collect();
    let r = Net {
        rounds: a.rounds,
        flight: FLIGHT,
        copied_on_receive: a.copy,
        rows: sides.into_iter().flat_map(|(side, rounds)| rows(side, rounds)).collect(),
        nothing_lost: NothingLost::sum(&lost).ok,
        load: s.load,
        ran_on: s.ran_on,
    };
    print(&a.over.out, &r, || r.table())?;
    if r.nothing_lost { Ok(()) } else { Err("something was lost: see the table".into()) }
}
