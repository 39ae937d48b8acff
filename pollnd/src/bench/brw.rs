//! `pollnd bench selftest`: lnet_selftest between two nodes, beside the raw PUTs of the same run.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use bench::ctl::{Ctl, Traffic};
use bench::measure::{stretch, wait_for};
use bench::pair::NothingLost;
use bench::repeat::median;
use bench::report::{RanOn, many};
use bench::selftest::{Case, Orders, Sample, Serving, Tester, measure};
use bench::sock::{self, SockPair};
use bench::workload::{ClientConfig, Intake};
use clap::Args;
use hugepages::Backing;
use serde::Serialize;
use transport::node::NodeEnd;
use transport::node::sock::IdleMode;
use transport::wire::Nid;
use transport::wire::srpc::{check, rw};

use super::print;
use super::sides::{self, Eal};
use crate::args::common::OverLink;
use crate::args::values::{number, seconds};

/// `pollnd bench selftest`.
#[derive(Args, Debug, Clone)]
pub(crate) struct SelftestArgs {
    /// Rounds; each measures every side once.
    #[arg(default_value_t = 5, value_parser = number::<u32>(1..=1000))]
    pub(crate) rounds: u32,
    /// Seconds for each case in a round.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// The form of the result, and the link.
    #[command(flatten)]
    pub(crate) over: OverLink,
}

const MIB: u32 = 1 << 20;
/// The nodes' peer_credits: as many as small RPCs in flight, twice.
const CREDITS: u32 = 64;
/// The case that raw PUTs are measured as.
const RAW: &str = "1 MiB PUT, 8 at a time";
const WRITE: &str = "BRW write 1 MiB, 8 at a time, check none";
const SMALL: &str = "BRW write 4 KiB, 32 at a time, check none";

fn cases() -> Vec<(&'static str, Case)> {
    vec![
        (WRITE, Case::brw(rw::WRITE, check::NONE, MIB, 8)),
        ("BRW read 1 MiB, 8 at a time, check none", Case::brw(rw::READ, check::NONE, MIB, 8)),
        ("BRW write 1 MiB, 8 at a time, check full", Case::brw(rw::WRITE, check::FULL, MIB, 8)),
        ("BRW read 1 MiB, 8 at a time, check full", Case::brw(rw::READ, check::FULL, MIB, 8)),
        (SMALL, Case::brw(rw::WRITE, check::NONE, 4096, 32)),
        ("BRW read 4 KiB, 32 at a time, check none", Case::brw(rw::READ, check::NONE, 4096, 32)),
        ("PING, 32 at a time", Case::ping(32)),
    ]
}

/// Measures of one side in one round, and what was left.
struct Round {
    samples: Vec<(&'static str, Sample)>,
    lost: Vec<NothingLost>,
    /// Payload copied on sending, and on receiving.
    copied: [u64; 2],
}

impl Round {
    fn ended(&mut self, ctl: &Ctl, ends: &[NodeEnd], left: u64, own: u64) {
        self.lost.push(NothingLost::of(ctl, ends).and_left(left));
        self.copied[0] += ends.iter().map(|e| e.streams.tx_copied_bytes).sum::<u64>();
        let copied = ends.iter().map(|e| e.proto.rx_copied_bytes).sum::<u64>();
        self.copied[1] += copied.saturating_sub(own);
    }
}

type Stopped = Result<(Vec<NodeEnd>, u64), String>;

/// Wall clock in ns.
pub(super) fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64)
}

fn raw(ctl: &Ctl, secs: f64, round: &mut Round, stop: impl FnOnce() -> Stopped) -> Result<(), String> {
    let go = wait_for(ctl, "the server", 10, || ctl.ready.load(Ordering::Acquire))
        .and_then(|()| stretch(ctl, Traffic::Bulk, secs, &mut |_| ()));
    let (ends, left) = stop()?;
    let s = go.map_err(|e| e.to_string())?;
    round.ended(ctl, &ends, left, 0);
    let sample =
        Sample { gbps: s.gbps(), gbit_per_cpu_s: s.gbit_per_cpu_s(), per_s: s.rate(), ..Sample::default() };
    round.samples.push((RAW, sample));
    Ok(())
}

fn rpcs(
    ctl: &Ctl,
    orders: &Orders,
    secs: f64,
    round: &mut Round,
    stop: impl FnOnce() -> Stopped,
) -> Result<(), String> {
    let names = cases().into_iter().map(|(name, _)| name);
    let go: Result<Vec<_>, _> =
        names.zip(1..).map(|(name, n)| measure(ctl, orders, n, secs).map(|s| (name, s))).collect();
    let (ends, left) = stop()?;
    round.samples.extend(go.map_err(|e| e.to_string())?);
    round.ended(ctl, &ends, left, orders.own.load(Ordering::Relaxed));
    Ok(())
}

/// Makes the client's application, which runs these cases.
pub(super) fn tester(
    ctl: &Arc<Ctl>,
    orders: &Arc<Orders>,
    cases: Vec<Case>,
) -> impl FnOnce([Nid; 2], &Arc<dyn Backing>) -> Result<Tester, String> + Send + 'static {
    let (ctl, orders) = (ctl.clone(), orders.clone());
    move |nids, backing| Tester::new(cases, nids, unix_ns(), &ctl, &orders, backing)
}

/// Makes the server's application.
pub(super) fn server(
    orders: &Arc<Orders>,
) -> impl FnOnce([Nid; 2], &Arc<dyn Backing>) -> Result<Serving, String> + Send + 'static {
    let orders = orders.clone();
    move |_, backing| Serving::new(unix_ns(), &orders, backing)
}

fn all() -> Vec<Case> {
    cases().into_iter().map(|(_, c)| c).collect()
}

fn sockets(a: &SelftestArgs) -> Result<Round, String> {
    let mut round = Round { samples: Vec::new(), lost: Vec::new(), copied: [0; 2] };
    let p = SockPair {
        idle: IdleMode::Block,
        intake: Intake::Lent,
        client: ClientConfig::default(),
        peer_credits: CREDITS,
    };
    let ctl = Arc::new(Ctl::default());
    let running = sock::start(p, ctl.clone())?;
    raw(&ctl, a.seconds, &mut round, || running.stop().map(|e| (e, 0)))?;
    let (ctl, orders) = (Arc::new(Ctl::default()), Arc::new(Orders::default()));
    let running = sock::start_with(p, &ctl, tester(&ctl, &orders, all()), server(&orders))?;
    rpcs(&ctl, &orders, a.seconds, &mut round, || running.stop().map(|e| (e, 0)))?;
    Ok(round)
}

#[cfg(feature = "dpdk")]
fn over_link(eal: &Eal, a: &SelftestArgs, one: bool) -> Result<Round, String> {
    use bench::link::{self, LinkConfig};

    use crate::pairs;

    let dir = std::env::temp_dir();
    let mut round = Round { samples: Vec::new(), lost: Vec::new(), copied: [0; 2] };
    let (threads, enter, idle) = pairs::threads(one)?;
    let cfg = LinkConfig { threads, peer_credits: CREDITS, ..LinkConfig::default() };
    let ctl = Arc::new(Ctl::default());
    let l = link::start(eal, &dir, cfg, &ctl, &enter, idle)?;
    raw(&ctl, a.seconds, &mut round, || l.stop().map(|e| (e.nodes, e.buffers_left)))?;
    let (ctl, orders) = (Arc::new(Ctl::default()), Arc::new(Orders::default()));
    let client = tester(&ctl, &orders, all());
    let l = link::start_with(eal, &dir, cfg, &ctl, (&enter, idle), client, server(&orders))?;
    rpcs(&ctl, &orders, a.seconds, &mut round, || l.stop().map(|e| (e.nodes, e.buffers_left)))?;
    Ok(round)
}

#[cfg(not(feature = "dpdk"))]
fn over_link(eal: &Eal, _: &SelftestArgs, _: bool) -> Result<Round, String> {
    match *eal {}
}

/// A case on one side over all rounds: medians.
#[derive(Debug, Serialize)]
struct Row {
    case: &'static str,
    side: &'static str,
    median: Sample,
}

/// The whole bench.
#[derive(Debug, Serialize)]
struct Selftest {
    rounds: u32,
    rows: Vec<Row>,
    /// Payload of BRW writes of 1 MiB to that of raw PUTs over the link, within a round; the median.
    write_to_raw: Option<f64>,
    /// BRW writes of 1 MiB, a CPU-second: the link's to kernel sockets'.
    write_per_cpu: Option<f64>,
    /// BRW writes of 4 KiB, a second: the link's to kernel sockets'.
    small: Option<f64>,
    /// The same with a lcore for each node, as kernel sockets have a thread for each.
    small_two: Option<f64>,
    /// BRW writes of 4 KiB, a CPU-second: the link's to kernel sockets'.
    small_per_cpu: Option<f64>,
    /// Payload bytes that pollnd copied over the link, on sending and on receiving.
    copied: [u64; 2],
    nothing_lost: bool,
    load: [f64; 2],
    ran_on: RanOn,
}

const LINK: &str = "virtio link, one lcore";
const LINK_TWO: &str = "virtio link, two lcores";
const SOCKETS: &str = "kernel sockets, two threads";

fn of(round: &Round, case: &str) -> Option<Sample> {
    round.samples.iter().find(|(name, _)| *name == case).map(|(_, s)| *s)
}

fn rows(side: &'static str, rounds: &[Round]) -> Vec<Row> {
    let names = std::iter::once(RAW).chain(cases().into_iter().map(|(name, _)| name));
    names
        .filter_map(|case| {
            let all: Vec<Sample> = rounds.iter().filter_map(|r| of(r, case)).collect();
            let mid = |f: fn(&Sample) -> f64| median(&all.iter().map(f).collect::<Vec<_>>());
            let some = |f: fn(&Sample) -> Option<f64>| {
                let each: Option<Vec<f64>> = all.iter().map(f).collect();
                each.map(|v| median(&v))
            };
            let median = Sample {
                gbps: mid(|s| s.gbps),
                gbit_per_cpu_s: mid(|s| s.gbit_per_cpu_s),
                per_s: mid(|s| s.per_s),
                p50_us: some(|s| s.p50_us),
                p99_us: some(|s| s.p99_us),
                p999_us: some(|s| s.p999_us),
            };
            (!all.is_empty()).then_some(Row { case, side, median })
        })
        .collect()
}

/// The median of the rounds' own ratios.
fn ratio((a, of_a): (&[Round], &str), (b, of_b): (&[Round], &str), what: fn(&Sample) -> f64) -> Option<f64> {
    let each = a.iter().zip(b).filter_map(|(a, b)| Some(what(&of(a, of_a)?) / what(&of(b, of_b)?)));
    let each: Vec<f64> = each.collect();
    (!each.is_empty()).then(|| median(&each))
}

impl Selftest {
    fn table(&self) -> String {
        let mut t = format!(
            "\n  {:<42} {:>9} {:>12} {:>10} {:>9} {:>9} {:>9}\n",
            "", "Gbit/s", "Gbit/CPU-s", "RPC/s", "p50 us", "p99 us", "p99.9 us"
        );
        for (i, r) in self.rows.iter().enumerate() {
            if i == 0 || self.rows.get(i - 1).is_some_and(|before| before.side != r.side) {
                t += &format!("  {}\n", r.side);
            }
            let m = &r.median;
            let [p50, p99, p999] = [m.p50_us, m.p99_us, m.p999_us]
                .map(|us| us.map_or_else(|| "-".to_owned(), |us| format!("{us:.1}")));
            t += &format!(
                "    {:<40} {:>9.2} {:>12.2} {:>10.0} {p50:>9} {p99:>9} {p999:>9}\n",
                r.case, m.gbps, m.gbit_per_cpu_s, m.per_s
            );
        }
        let times = |name: &str, r: Option<f64>| r.map_or(String::new(), |r| format!("  {name}: {r:.2} x\n"));
        t += &times("BRW write 1 MiB to raw PUTs, over the link", self.write_to_raw);
        t += &times("BRW write 1 MiB a CPU-second, to kernel sockets", self.write_per_cpu);
        t += &times("BRW write 4 KiB a second, one lcore, to kernel sockets", self.small);
        t += &times("BRW write 4 KiB a second, two lcores, to kernel sockets", self.small_two);
        t += &times("BRW write 4 KiB a CPU-second, one lcore, to kernel sockets", self.small_per_cpu);
        let [out, back] = self.copied;
        let rounds = many(self.rounds.into(), "round");
        let what = format!(
            "{out} payload bytes copied on sending, {back} on receiving over the link; medians of {rounds}"
        );
        t + &self.ran_on.foot(self.nothing_lost, &what, self.load)
    }
}

pub(super) fn main(a: &SelftestArgs) -> Result<(), String> {
    let s =
        sides::measure(("selftest", a.rounds), &a.over, |eal, one| over_link(eal, a, one), || sockets(a))?;
    let every = || s.one.iter().chain(&s.two).chain(&s.sockets);
    let lost: Vec<NothingLost> = every().flat_map(|r: &Round| r.lost.clone()).collect();
    let copied = [0, 1].map(|i| s.one.iter().chain(&s.two).map(|r| r.copied[i]).sum());
    let mut all = rows(LINK, &s.one);
    all.extend(rows(LINK_TWO, &s.two));
    all.extend(rows(SOCKETS, &s.sockets));
    let r = Selftest {
        rounds: a.rounds,
        rows: all,
        write_to_raw: ratio((&s.one, WRITE), (&s.one, RAW), |s| s.gbps),
        write_per_cpu: ratio((&s.one, WRITE), (&s.sockets, WRITE), |s| s.gbit_per_cpu_s),
        small: ratio((&s.one, SMALL), (&s.sockets, SMALL), |s| s.per_s),
        small_two: ratio((&s.two, SMALL), (&s.sockets, SMALL), |s| s.per_s),
        small_per_cpu: ratio((&s.one, SMALL), (&s.sockets, SMALL), |s| s.gbit_per_cpu_s),
        copied,
        nothing_lost: NothingLost::sum(&lost).ok,
        load: s.load,
        ran_on: s.ran_on,
    };
    print(&a.over.out, &r, || r.table())?;
    if r.nothing_lost { Ok(()) } else { Err("something was lost: see the table".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Raw PUTs are not measured one by one: no figure stands for that.
    #[test]
    fn latencies_that_nobody_measured_are_left_out() {
        let raw = Sample { gbps: 8.0, per_s: 1000.0, ..Sample::default() };
        let rpc = |us| Sample { p50_us: Some(us), p99_us: Some(us), p999_us: Some(us), ..raw };
        let round =
            |us| Round { samples: vec![(RAW, raw), (WRITE, rpc(us))], lost: Vec::new(), copied: [0; 2] };
        let rows = rows(SOCKETS, &[round(1.0), round(3.0), round(2.0)]);
        assert_eq!(rows.iter().map(|r| r.median.p99_us).collect::<Vec<_>>(), [None, Some(2.0)]);
        let r = Selftest {
            rounds: 3,
            rows,
            write_to_raw: None,
            write_per_cpu: None,
            small: None,
            small_two: None,
            small_per_cpu: None,
            copied: [0; 2],
            nothing_lost: true,
            load: [0.0; 2],
            ran_on: RanOn::look(),
        };
        let table = r.table();
        let row = |case: &str| {
            table
                .lines()
                .find(|l| l.contains(case))
                .map(|l| l.split_whitespace().rev().take(3).collect::<Vec<_>>())
        };
        assert_eq!((row(RAW), row(WRITE)), (Some(vec!["-"; 3]), Some(vec!["2.0"; 3])), "{table}");
    }
}
