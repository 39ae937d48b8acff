//! `pollnd bench report`: the side-by-side set, as a page and as JSON.

mod files;
mod pair;
mod peer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bench::report::{RanOn, many};
use bench::suite::compare::{Comparison, nothing_in_common};
use bench::suite::plan::{LCORES_MAX, Plan, may_have};
use bench::suite::{Carrier, KIND, Machine, Op, Options, Program, Report, Side, VERSION, WANTED, page};
use bench::tcp::load;
use clap::Args;
use dataplane::doctor::cpu_quota;
use indicatif::{ProgressBar, ProgressStyle};
use transport::wire::Nid;

use self::files::Places;
use self::pair::Chosen;
use crate::args::NodeArgs;
use crate::args::values::{nid, number, run_seconds, seconds, size};
#[cfg(feature = "dpdk")]
use crate::pairs;
use crate::{MISUSED, file, networks, out, units};

/// `pollnd bench report`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:
  pollnd bench report --output results                     the default set, into results/report.html and report.json
  pollnd bench report --quick --sockets-only --html a.html --json a.json
  pollnd bench report --output new --against old/report.json
  pollnd bench report --from new/report.json --against old/report.json --html both.html
  pollnd bench report --output results --peer 10.0.0.2@tcp

Ctrl-C ends it at once, and nothing is written. docs/report.md describes the JSON file.
Exit code: 0 if all was measured and nothing lost, 1 if not, 2 if the options make no sense or a file is no report.")]
pub(crate) struct ReportArgs {
    /// Folder for report.html and report.json; made if it is not there.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["html", "json"])]
    pub(crate) output: Option<PathBuf>,
    /// File for the page.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// File for the figures.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Overwrites files that are there.
    #[arg(long)]
    pub(crate) force: bool,
    /// Compares with a report, the JSON file of another run.
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Option<PathBuf>,
    /// Takes the figures from a report in place of measuring.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "peer", "sockets_only", "ops", "sizes", "concurrency", "seconds", "rounds", "at_most"])]
    pub(crate) from: Option<PathBuf>,
    /// A small set, for a run of some seconds; single options still count.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Operations: put, get, brw-write, brw-read, ping. Default: all.
    #[arg(long, value_name = "OPS", value_delimiter = ',', value_parser = op)]
    pub(crate) ops: Vec<Op>,
    /// Payload sizes, multiples of 8 from 8 to 1M. Default: 64,1k,4k,16k,64k,256k,1M; with --quick 64,16k,1M.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = size_of_8)]
    pub(crate) sizes: Vec<u32>,
    /// Operations under way at a time, 1 to 64, for the smallest size and for pings; sizes have 8, or the nearest of these.
    /// Default: 1,2,4,8,16,32,64; with --quick 1,8.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', value_parser = number::<u32>(1..=64))]
    pub(crate) concurrency: Vec<u32>,
    /// Seconds of each case in each round, a fifth of it as warm-up before. Default: 0.25; with --quick 0.03.
    #[arg(long, value_parser = run_seconds)]
    pub(crate) seconds: Option<f64>,
    /// Rounds; each measures every case on every side once. Default: 3; with --quick 2.
    #[arg(long, value_parser = number::<u32>(1..=100))]
    pub(crate) rounds: Option<u32>,
    /// Refuses a set that would take more seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0, value_parser = seconds)]
    pub(crate) at_most: f64,
    /// Kernel sockets only.
    #[arg(long, conflicts_with_all = ["eal", "peer"])]
    pub(crate) sockets_only: bool,
    /// Lcores that both nodes of the link have together: 1, which they share, or even numbers up to 32, half of them each node's.
    /// Default: 1, 2, 4, 6 and so on, as far as there are CPUs.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', value_parser = link_lcores, conflicts_with_all = ["sockets_only", "peer", "from"])]
    pub(crate) link_lcores: Vec<u32>,
    /// Measures against this node, over a node of this process, in place of a pair of nodes.
    #[arg(long, value_name = "NID", value_parser = nid)]
    pub(crate) peer: Option<Nid>,
    /// The NID of the node of this process. Default over kernel sockets: the address from which this machine reaches the peer.
    #[arg(long, requires = "peer", value_parser = nid)]
    pub(crate) nid: Option<Nid>,
    /// The node of this process.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

fn op(s: &str) -> Result<Op, String> {
    let name = |op: &Op| op.name().to_lowercase().replace(' ', "-");
    let all: Vec<String> = Op::ALL.iter().map(name).collect();
    let found = Op::ALL.into_iter().zip(&all).find(|(_, n)| *n == s);
    found.map(|(op, _)| op).ok_or_else(|| format!("it takes {}", all.join(", ")))
}

fn link_lcores(s: &str) -> Result<u32, String> {
    let n = number::<u32>(1..=LCORES_MAX.into())(s)?;
    if may_have(n) { Ok(n) } else { Err("1, or an even number: each node has half of them".into()) }
}

/// A fault of numbers of lcores on a machine with so many CPUs for this process.
#[cfg(feature = "dpdk")]
fn too_many(lcores: &[u32], cpus: usize) -> Option<String> {
    let most = lcores.iter().copied().max().filter(|n| *n as usize > cpus)?;
    Some(format!(
        "--link-lcores {most}: this process may use {}, and an lcore polls and needs one to itself; ask for {cpus} at most",
        many(cpus as u64, "CPU")
    ))
}

fn size_of_8(s: &str) -> Result<u32, String> {
    let n: u32 = size(8..=1 << 20)(s)?;
    if n.is_multiple_of(8) { Ok(n) } else { Err("lnet_selftest takes multiples of 8 bytes".into()) }
}

/// Sorted, each once.
fn in_order<T: Ord + Copy>(given: &[T], else_these: &[T]) -> Vec<T> {
    let mut v = if given.is_empty() { else_these.to_vec() } else { given.to_vec() };
    v.sort_unstable();
    v.dedup();
    v
}

/// Operations at a time that sizes are measured with.
const BASE: u32 = 8;

impl ReportArgs {
    fn plan(&self) -> Plan {
        let quick = self.quick;
        let sizes: &[u32] = if quick {
            &[64, 16 << 10, 1 << 20]
        } else {
            &[64, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20]
        };
        let numbers: &[u32] = if quick { &[1, 8] } else { &[1, 2, 4, 8, 16, 32, 64] };
        let concurrency = in_order(&self.concurrency, numbers);
        let base_concurrency = concurrency.iter().copied().min_by_key(|n| n.abs_diff(BASE)).unwrap_or(BASE);
        let options = Options {
            sizes: in_order(&self.sizes, sizes),
            concurrency,
            base_concurrency,
            seconds: self.seconds.unwrap_or(if quick { 0.03 } else { 0.25 }),
            rounds: self.rounds.unwrap_or(if quick { 2 } else { 3 }),
            peer: self.peer.map(|n| n.to_string()),
            lcores: Vec::new(),
        };
        Plan { options, ops: in_order(&self.ops, &Op::ALL) }
    }

    fn sides(&self) -> Vec<Side> {
        if self.peer.is_some() {
            vec![Side { carrier: Carrier::Peer, lcores: 0 }]
        } else {
            Chosen::of(self).sides
        }
    }

    /// A fault of the options of the node that measures against `target`.
    fn fault_of_node(&self, target: Nid) -> Result<(), String> {
        let node = NodeArgs { nid: self.nid.unwrap_or(Nid::ANY), ..self.node.clone() };
        if !networks::on_port(&node) {
            return networks::without_port(&node);
        }
        networks::addresses(&node)?;
        networks::target(&node, target)
    }

    /// A fault of options that are right by themselves.
    fn fault(&self, plan: &Plan) -> Option<String> {
        if self.from.is_some() {
            let given = self.node.given().next();
            return given.map(|(what, _)| format!("{what}: with --from nothing is measured; leave it out"));
        }
        if self.peer.is_none()
            && let Some((what, _)) = self.node.given().find(|o| !o.0.starts_with("EAL"))
        {
            let lcores = if what == "--lcores" { " (--link-lcores is of the nodes of the link)" } else { "" };
            return Some(format!(
                "{what}: it is of the node that measures against --peer; leave it out, or give --peer{lcores}"
            ));
        }
        #[cfg(feature = "dpdk")]
        if !self.link_lcores.is_empty() {
            match pairs::cpus() {
                Ok(cpus) if let Some(e) = too_many(&self.link_lcores, cpus) => return Some(e),
                Ok(_) => {}
                Err(e) => return Some(e),
            }
        }
        if let Some(e) = self.peer.and_then(|target| self.fault_of_node(target).err()) {
            return Some(e);
        }
        let takes = plan.estimate_s(&self.sides());
        (takes > self.at_most).then(|| {
            let more = takes.ceil() + 10.0;
            // The most that the option takes.
            let or = if more <= 3600.0 { format!(", or --at-most {more}") } else { String::new() };
            format!(
                "the set takes about {}, more than --at-most {}: give fewer --sizes, --concurrency, --ops or --rounds, \
                 less than --seconds {}{or}",
                units::time(takes),
                self.at_most,
                plan.options.seconds,
            )
        })
    }
}

/// A report from a file, named as its option names it.
fn read(option: &str, path: &Path) -> Result<Report, String> {
    let name = format!("{option} {}", path.display());
    let bytes = file::bytes(&name, path, WANTED)?;
    let text = String::from_utf8(bytes).map_err(|e| format!("{name}: {e}; give {WANTED}"))?;
    Report::read(&text).map_err(|e| format!("{name}: {e}"))
}

/// The work that a command line asks for, without a fault.
struct Asked {
    places: Places,
    from: Option<Report>,
    against: Option<(String, Report)>,
    plan: Plan,
}

fn asked(a: &ReportArgs) -> Result<Asked, String> {
    let plan = a.plan();
    if let Some(e) = a.fault(&plan) {
        return Err(e);
    }
    let from = a.from.as_ref().map(|p| read("--from", p)).transpose()?;
    let other = |p: &PathBuf| Ok::<_, String>((p.display().to_string(), read("--against", p)?));
    let against = a.against.as_ref().map(other).transpose()?;
    if let Some((name, then)) = &against {
        let now: Vec<_> = match &from {
            Some(r) => r.points.iter().map(|p| (p.side, p.case)).collect(),
            None => a
                .sides()
                .into_iter()
                .flat_map(|s| plan.cases_on(s).into_iter().map(move |c| (s, c)))
                .collect(),
        };
        if let Some(e) = nothing_in_common(&now, then) {
            return Err(format!("--against {name}: {e}"));
        }
    }
    Ok(Asked { places: Places::of(a)?, from, against, plan })
}

/// Measures and writes; the exit code.
///
/// # Errors
/// A measurement that failed, or a file that cannot be written.
pub(super) fn main(a: &ReportArgs) -> Result<ExitCode, String> {
    let Asked { places, from, against, plan } = match asked(a) {
        Ok(asked) => asked,
        Err(e) => {
            out::note(e);
            return Ok(ExitCode::from(MISUSED));
        }
    };
    let measured = from.is_none();
    let r = match from {
        Some(r) => r,
        None => measure(a, plan)?,
    };
    let c = against.as_ref().map(|(name, then)| Comparison::of(&r, then, name));
    let html = places.html.as_ref().map(|_| page::html(&r, c.as_ref())).transpose()?;
    let json = places.json.as_ref().map(|_| r.json()).transpose()?;
    let written = places.write(html.as_deref(), json.as_deref())?;
    if measured {
        out::text(summary(&r))?;
    }
    if let Some(c) = &c {
        out::text(c.table())?;
    }
    for path in written {
        out::line(format_args!("  wrote {}", path.display()))?;
    }
    if !r.nothing_lost {
        return Err(format!("{}: the figures of this run are no measure", r.lost()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Progress: cases done of all, and the time that is left.
fn bar(plan: &Plan, sides: &[Side]) -> ProgressBar {
    let cases: usize = sides.iter().map(|s| plan.cases_on(*s).len()).sum();
    let bar = ProgressBar::new(cases as u64 * u64::from(plan.options.rounds));
    let style = ProgressStyle::with_template("  {bar:24} {pos}/{len}  {eta} left  {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn measure(a: &ReportArgs, plan: Plan) -> Result<Report, String> {
    let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (from, before) = (Instant::now(), load());
    let sides = a.sides();
    let bar = bar(&plan, &sides);
    bar.set_message(format!("about {} in all", units::time(plan.estimate_s(&sides))));
    let mut r = Report {
        report: KIND.into(),
        version: VERSION,
        program: program(),
        options: plan.options.clone(),
        began,
        ..Report::default()
    };
    let on = match a.peer {
        Some(target) => peer::measure(a, target, &plan, &bar, &mut r)?,
        None => pair::measure(a, Chosen::of(a), &plan, &bar, &mut r)?,
    };
    bar.finish_and_clear();
    r.machine = machine(on);
    r.load = [before, load()];
    r.took_s = from.elapsed().as_secs_f64();
    Ok(r)
}

fn program() -> Program {
    let describe = || {
        let exe = std::env::current_exe().ok()?;
        let mut c = std::process::Command::new("git");
        c.arg("-C").arg(exe.parent()?).args(["describe", "--always", "--dirty", "--tags"]);
        let out = c.stdin(std::process::Stdio::null()).output().ok().filter(|o| o.status.success())?;
        let text = String::from_utf8(out.stdout).ok()?.trim().to_owned();
        (!text.is_empty()).then_some(text)
    };
    Program { version: env!("CARGO_PKG_VERSION").into(), git: describe(), release: !cfg!(debug_assertions) }
}

fn machine(on: RanOn) -> Machine {
    let root = Path::new("/");
    let nodes = std::fs::read_dir("/sys/devices/system/node").map_or(0, |all| {
        let number = |name: &str| name.strip_prefix("node").is_some_and(|n| n.parse::<u32>().is_ok());
        all.flatten().filter(|e| e.file_name().to_str().is_some_and(number)).count()
    });
    let pool = |p: &hugepages::pool::HugePool| {
        let node = p.node.map_or_else(String::new, |n| format!(" on node {n}"));
        format!("{} of {} pages of {} KiB free{node}", p.free, p.total, p.page_size / 1024)
    };
    let pools = hugepages::pool::discover(root).pools;
    let pools: Vec<String> = pools.iter().filter(|p| p.total > 0).map(pool).collect();
    Machine {
        cpu: on.cpu,
        cpus: on.cores as u32,
        numa_nodes: nodes.max(1) as u32,
        kernel: on.kernel,
        dpdk: on.dpdk,
        memory: on.memory,
        huge_pages: if pools.is_empty() { "none".into() } else { pools.join("; ") },
        quota: cpu_quota(root).map(|q| q.to_string()),
    }
}

/// A few lines for whoever waits at a terminal.
fn summary(r: &Report) -> String {
    let o = &r.options;
    let mut t = format!(
        "\n  {:<34} {:>10} {:>12} {:>12} {:>10} {:>10}\n",
        "", "Gbit/s", "Gbit/CPU-s", "operations/s", "p50 us", "p99 us"
    );
    let (few, large) =
        (o.concurrency.iter().min().copied().unwrap_or(1), o.sizes.iter().max().copied().unwrap_or(0));
    for side in r.sides() {
        t += &format!("  {}\n", side.name());
        for p in r.points.iter().filter(|p| p.side == side) {
            let c = p.case;
            if (c.size, c.concurrency) != (large, o.base_concurrency)
                && (c.concurrency != few || c.size == large)
            {
                continue;
            }
            let f = &p.figures;
            let name = c.name();
            t += &format!(
                "    {name:<32} {:>10.2} {:>12.2} {:>12.0} {:>10.1} {:>10.1}\n",
                f.gbps.median, f.gbit_per_cpu_s.median, f.per_s.median, f.p50_us.median, f.p99_us.median
            );
        }
    }
    for l in &r.left_out {
        t += &format!("  left out: {}: {}\n", l.what, l.why);
    }
    let lost = match (r.nothing_lost, &o.peer) {
        (true, None) => format!("nothing lost: {}", r.checked()),
        (true, Some(_)) => r.checked().to_owned(),
        (false, _) => r.lost().to_owned(),
    };
    let rounds = many(o.rounds.into(), "round");
    t + &format!(
        "  {lost}\n  medians of {rounds}; {} in all; load {:.1} before, {:.1} after\n",
        units::time(r.took_s),
        r.load[0],
        r.load[1]
    )
}

#[cfg(test)]
mod tests {
    use bench::suite::plan::lcores;

    use super::*;
    use crate::args::{Command, parse};
    use crate::bench::BenchWhat;

    fn args(line: &str) -> Result<ReportArgs, String> {
        let words = ["pollnd", "bench", "report"].into_iter().chain(line.split_whitespace());
        match parse(words.map(str::to_owned)).map_err(|e| e.to_string())?.command {
            Command::Bench(b) => match b.what {
                BenchWhat::Report(a) => Ok(*a),
                _ => Err("another bench".into()),
            },
            _ => Err("another command".into()),
        }
    }

    #[test]
    fn the_default_set_takes_at_most_five_minutes() {
        for (line, cpus, most) in
            [("", 2, 200.0), ("", 18, 300.0), ("", 20, 300.0), ("", 500, 300.0), ("--quick", 2, 30.0)]
        {
            let a = args(line).unwrap();
            let link = lcores(cpus).into_iter().map(|lcores| Side { carrier: Carrier::Link, lcores });
            let sides: Vec<Side> = link.chain([Side { carrier: Carrier::Sockets, lcores: 0 }]).collect();
            let takes = a.plan().estimate_s(&sides);
            assert!(takes <= most, "{line} on {cpus} CPUs: {takes}");
        }
    }

    #[cfg(feature = "dpdk")]
    #[test]
    fn lcores_that_would_share_a_cpu_are_refused() {
        assert_eq!(too_many(&[1, 2, 4], 4), None);
        let e = too_many(&[1, 8, 4], 6).unwrap();
        assert!(
            e.starts_with("--link-lcores 8: this process may use 6 CPUs") && e.contains("ask for 6 at most"),
            "{e}"
        );
    }

    #[test]
    fn numbers_of_lcores_are_as_asked() {
        let sides = |line: &str| Chosen::of(&args(line).unwrap()).lcores();
        assert_eq!(sides("--link-lcores 4,1,4"), [1, 4]);
        assert_eq!(sides("--sockets-only"), Vec::<u32>::new());
        assert_eq!(sides("")[0], 1);
    }

    #[test]
    fn sizes_have_the_concurrency_nearest_to_eight() {
        let base = |line: &str| args(line).map(|a| a.plan().options.base_concurrency);
        assert_eq!(
            [base(""), base("--concurrency 64,1"), base("--concurrency 32,16")],
            [Ok(8), Ok(1), Ok(16)]
        );
        let p = args("--quick --sizes 4k,64,4096 --ops ping,put").unwrap().plan();
        assert_eq!((p.options.sizes, p.ops, p.options.rounds), (vec![64, 4096], vec![Op::Put, Op::Ping], 2));
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        let fault = |line: &str| args(line).map(|a| a.fault(&a.plan()).unwrap_or_default());
        assert!(fault("--seconds 30").unwrap().contains("more than --at-most 300"));
        // No value is advised that the option would refuse.
        assert!(fault("--seconds 1").unwrap().contains(", or --at-most "));
        let long = fault("--seconds 60 --rounds 100").unwrap();
        assert!(long.ends_with("less than --seconds 60"), "{long}");
        assert!(fault("--sockets-only --lcores 2").unwrap().starts_with("--lcores: "));
        for (line, says) in [("--from a --queues 2 --mtu 1500", "--mtu: "), ("--from a -- -m 64", "EAL ")] {
            let e = fault(line).unwrap();
            assert!(e.starts_with(says) && e.contains("nothing is measured"), "{line}: {e}");
        }
        assert_eq!(fault("--from a").as_deref(), Ok(""));
        for (line, says) in [
            ("--mtu 9000", "--mtu: for DPDK ports only"),
            ("--nid 10.0.0.9 --vdev net_ring0 --vdev net_ring1", "1 addresses of NIs for 2 ports"),
            ("--nid 10.0.0.255 --vdev net_ring0", "--nid 10.0.0.255@tcp: it is the broadcast address"),
        ] {
            let e = fault(&format!("--peer 10.0.0.1 {line}")).unwrap();
            assert!(e.starts_with(says), "{line}: {e}");
        }
        assert_eq!(fault("--peer 10.0.0.1@tcp --lcores 2").as_deref(), Ok(""));
        for (line, says) in [
            ("--sizes 12", "multiples of 8"),
            ("--sizes 2M", "8 to 1048576 bytes"),
            ("--sizes x", "no size"),
            ("--link-lcores 3", "half of them"),
            ("--link-lcores 34", "1 to 32"),
            ("--link-lcores 2 --peer 10.0.0.1", "cannot be used with"),
            ("--link-lcores 2 --sockets-only", "cannot be used with"),
            ("--ops put,shove", "it takes put, get, brw-write, brw-read, ping"),
            ("--concurrency 65", "1 to 64"),
            ("--seconds 0", "0.001"),
            ("--rounds 0", "1 to 100"),
            ("--output a --html b", "cannot be used with"),
            ("--from a --quick", "cannot be used with"),
            ("--nid 10.0.0.1@tcp", "--peer"),
            ("--peer nowhere", "nowhere"),
        ] {
            let e = args(line).unwrap_err();
            assert!(e.contains(says), "{line}: {e}");
        }
    }
}
