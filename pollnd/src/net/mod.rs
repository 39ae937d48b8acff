//! `pollnd net`: a transfer machine of Motr's network transport that answers, and tests of one, over netsock or LNet, on kernel
//! sockets or a port.

mod place;
mod sum;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bench::measure::cpu_time;
use bench::net::{Client, Intake, Job, NetCtl, Node as Answering, NodeConfig, Work};
use bench::sock::epoch;
use dataplane::clock::pause;
use hugepages::Backing;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use transport::lnd::AppId;
use transport::net::{Domain, Host, LnetXprt, NetApp, Sock, Xprt};
use transport::netsock::Config;
use transport::node::{App, NoApp};
use transport::selftest::console::INTERRUPTED;
use transport::wire::nid::PID_LUSTRE;

use self::place::Place;
use self::sum::Sum;
use crate::args::{NetAskArgs, NetBulkArgs, NetNodeArgs, NetPingArgs, NetVerb, NodeArgs, XprtArg};
use crate::inspect::claim;
use crate::running::{Instead, MakeApp, Node, Role, Setup};
use crate::{FAILED, access, assemble, limits, networks, out, running, units};

/// Longest wait for a transfer machine to come up, or to stop.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for one to stop that has failed: what it has under way need not end well.
const BRIEF: Duration = Duration::from_millis(200);

pub(crate) fn main(what: NetVerb) -> ExitCode {
    let status = match what {
        NetVerb::Node(a) => node(a).map(|()| 0),
        NetVerb::Ping(a) => test(&job_of_ping(&a), a.ask),
        NetVerb::Bulk(a) => test(&job_of_bulk(&a), a.ask),
    };
    out::end_if_closed();
    ExitCode::from(status.unwrap_or_else(|e| {
        out::note(e);
        FAILED
    }))
}

/// A domain with its application, its transfer machine starting.
fn host<X: Xprt, A: NetApp<X>>(xprt: X, name: &str, app: A) -> Result<Host<X, A>, String> {
    let mut net = Domain::new(xprt, 0);
    let tm = net.tm_init();
    net.start(tm, name).map_err(|e| e.to_string())?;
    Ok(Host::new(net, app))
}

/// Starts a node with a transfer machine at `place`, whose application `make` makes.
fn start<A: NetApp<Sock> + NetApp<LnetXprt> + Send + 'static>(
    node: &mut NodeArgs,
    place: &Place,
    role: Role,
    make: impl FnOnce(&Arc<dyn Backing>) -> A + Send + 'static,
) -> Result<Node, String> {
    node.nid = place.nid();
    let name = place.name();
    let Some(addr) = place.addr() else {
        let (scope, command) = (claim::scope(node), role.command());
        let claim = claim::take(node.nid, &scope, command).map_err(|h| h.refusal("the NID", node.nid))?;
        let claim = claim::further(claim, node.nid, &node.ni, &scope, command)?;
        let nids = [node.nid].iter().chain(&node.ni).copied().collect();
        let app: MakeApp = Box::new(move |backing| {
            let xprt = LnetXprt::new(AppId::FIRST, nids, PID_LUSTRE);
            Ok(Box::new(host(xprt, &name, make(backing))?) as Box<dyn App>)
        });
        return assemble::start(node, Setup::new(role, claim), app).inspect(access::await_all_routes);
    };
    if addr.is_dgram() && node.lcores > 1 {
        return Err(format!(
            "--lcores {}: a transfer machine that is reached by datagrams has one lcore, since they may come to any queue; leave it out",
            node.lcores
        ));
    }
    if !node.ni.is_empty() {
        return Err("--ni: a transfer machine of netsock has one address, and no LNet; leave it out".into());
    }
    let make = Box::new(move |backing: &Arc<dyn Backing>| {
        let xprt = Sock::new(Config::new(addr, epoch())).map_err(|e| e.to_string())?;
        Ok(Box::new(host(xprt, &name, make(backing))?) as _)
    });
    // Its address is its own by the port that it listens at.
    let setup = Setup::new(role, None).instead(Some(Instead { at: addr, make }));
    assemble::start(node, setup, Box::new(|_| Ok(Box::new(NoApp) as _)))
}

/// Time between two lines about refused packets: peers must not fill a disk.
const QUIET: Duration = Duration::from_secs(1);

/// Lines about packets that were refused.
#[derive(Default)]
struct Telling(Option<Instant>);

impl Telling {
    /// Tells of the latest, if it is time.
    fn tell(&mut self, ctl: &NetCtl) {
        if self.0.is_some_and(|t| t.elapsed() < QUIET) {
            return;
        }
        if let Some((n, refused)) = ctl.refusal() {
            let ends = if n.dgram { "" } else { ", and its connection ends" };
            tracing::warn!(peer = %n.remote, refused, "refused{ends}: {}", n.why);
            self.0 = Some(Instant::now());
        }
    }
}

fn get(n: &AtomicU64) -> u64 {
    n.load(Ordering::Relaxed)
}

/// Waits, at most so long; gives whether it is so.
fn wait(node: &Node, most: Duration, is: impl Fn() -> bool) -> bool {
    let end = Instant::now() + most;
    while !is() {
        if node.stopped() || Instant::now() > end {
            return is();
        }
        pause(Duration::from_millis(1));
    }
    true
}

/// Has the transfer machine stopped, then the node.
fn stop(node: Node, ctl: &NetCtl, outcome: Result<(), String>) -> Result<(), String> {
    ctl.stop.store(true, Ordering::Relaxed);
    // A message to a node that is gone is LNet's until it dials again, or goes down itself, as it does next.
    let failed = ctl.first_error().is_some();
    let done = wait(&node, if failed { BRIEF } else { PATIENCE }, || ctl.done.load(Ordering::Acquire));
    let late = || format!("the transfer machine did not stop within {} s", PATIENCE.as_secs());
    let outcome = if done || failed || node.stopped() { outcome } else { outcome.and_then(|()| Err(late())) };
    let control = node.control();
    let down = node.stop().and_then(|ends| match ends.iter().all(|e| e.clean) {
        true => Ok(()),
        false if control.order() == transport::node::Order::Leave => {
            Err("left at once, as told, before it was down".into())
        }
        false => {
            let left: Vec<_> = ends.iter().map(|e| transport::node::run::in_words(&e.left)).collect();
            Err(format!("the node did not go down in order: left were {}", left.join("; ")))
        }
    });
    running::both(outcome, down)
}

/// `pollnd net node`.
fn node(mut a: NetNodeArgs) -> Result<(), String> {
    let place = Place::parse(&a.address, a.xprt)?;
    if matches!(place, Place::Lnet(..)) && u64::from(a.bulk) > LNET_MAX {
        return Err(format!("--bulk {}: LNet moves at most {LNET_MAX} bytes at a time: give less", a.bulk));
    }
    let [buffers, message, bulks, bulk] = [a.buffers, a.message, a.bulks, a.bulk].map(u64::from);
    limits::fits(&format!("--buffers {buffers} --message {message}"), buffers * message)?;
    // To fetch to, and to fill from.
    limits::fits(&format!("--bulks {bulks} --bulk {bulk}"), bulks * bulk * 2)?;
    let ctl = Arc::new(NetCtl::default());
    let (c, cfg) = (
        ctl.clone(),
        NodeConfig {
            messages: a.buffers as usize,
            message: a.message.into(),
            bulks: a.bulks as usize,
            bulk: a.bulk.into(),
            intake: if a.copy { Intake::Copied } else { Intake::Lent },
        },
    );
    let node = start(&mut a.node, &place, Role::Server, move |backing| Answering::new(cfg, c, backing))?;
    let up = wait(&node, PATIENCE, || ctl.up.load(Ordering::Acquire) || ctl.first_error().is_some());
    if let Some(e) = ctl.first_error().or_else(|| (!up).then(|| "it does not come up".to_owned())) {
        return stop(node, &ctl, Err(format!("{}: {e}", place.name())));
    }
    let name = ctl.name().unwrap_or_else(|| place.name());
    // One line on standard output says that it is there: scripts wait for it.
    let said = match a.json {
        true => out::line(json!({ "up": name, "xprt": place.xprt(), "carrier": node.describe() })),
        false => out::line(format_args!("{name} is up on {}, {}", node.describe(), place.xprt())),
    };
    let until = a.run_for.map(|s| Instant::now() + Duration::from_secs_f64(s));
    let mut telling = Telling::default();
    while said.is_ok() && !node.stopped() && until.is_none_or(|t| Instant::now() < t) {
        telling.tell(&ctl);
        pause(Duration::from_millis(20));
    }
    let ended = stop(node, &ctl, said);
    let counts = ["completed", "bytes", "failed", "checked", "wrong"]
        .into_iter()
        .zip([&ctl.completed, &ctl.bytes, &ctl.failed, &ctl.checked, &ctl.wrong].map(get));
    match a.json {
        true => out::line(Value::from_iter(counts))?,
        false => out::line(format_args!(
            "{}, {}; failed {}, checked {}, wrong {}",
            units::many(get(&ctl.completed), "operation"),
            units::many(get(&ctl.bytes), "byte"),
            get(&ctl.failed),
            get(&ctl.checked),
            get(&ctl.wrong)
        ))?,
    }
    ended?;
    match (ctl.first_error(), get(&ctl.wrong)) {
        (Some(e), _) => Err(format!("{name}: {e}")),
        (None, 0) => Ok(()),
        (None, n) => Err(format!("{} had wrong bytes", units::many(n, "operation"))),
    }
}

fn job(work: Work, size: u32, copy: bool, a: &NetAskArgs) -> Job {
    let ns = |s: f64| (s * 1e9) as u64;
    let seconds = a.seconds.or_else(|| a.count.is_none().then_some(10.0));
    Job {
        work,
        target: a.target.clone(),
        size: size.into(),
        flight: a.concurrency as usize,
        limit: a.count.unwrap_or(u64::MAX),
        begin_for: seconds.map(ns),
        timeout: ns(a.timeout),
        check: a.check,
        intake: if copy { Intake::Copied } else { Intake::Lent },
    }
}

fn job_of_ping(a: &NetPingArgs) -> Job {
    job(Work::Ping, a.size, true, &a.ask)
}

fn job_of_bulk(a: &NetBulkArgs) -> Job {
    let work = match (a.read, a.active) {
        (false, false) => Work::ActiveRecv,
        (true, false) => Work::ActiveSend,
        (false, true) => Work::OwnSend,
        (true, true) => Work::OwnRecv,
    };
    job(work, a.size, a.copy, &a.ask)
}

/// Runs a test, and says how it went; the exit status.
fn test(job: &Job, mut a: NetAskArgs) -> Result<u8, String> {
    let mut sum = Sum {
        test: match job.work {
            Work::Ping => "ping",
            Work::ActiveRecv => "active receive",
            Work::ActiveSend => "active send",
            Work::OwnSend => "active send from here",
            Work::OwnRecv => "active receive to here",
        },
        target: a.target.clone(),
        size: job.size,
        concurrency: a.concurrency,
        ..Sum::default()
    };
    let json = a.out.json;
    let ended = measure(job, &mut a, &mut sum);
    if let Err(e) = &ended {
        sum.error.get_or_insert_with(|| e.clone());
    }
    if json {
        out::line(json!(sum))?;
    } else if sum.operations > 0 {
        out::text(sum.table())?;
    }
    match sum.interrupted {
        true => {
            out::note("interrupted: the figures are those until then");
            Ok(INTERRUPTED)
        }
        false => ended.map(|()| 0),
    }
}

/// The largest transfer of LNet, in bytes.
const LNET_MAX: u64 = 1 << 20;

fn measure(job: &Job, a: &mut NetAskArgs, sum: &mut Sum) -> Result<(), String> {
    let there = Place::parse(&a.target, a.xprt)?;
    sum.xprt = there.xprt();
    if let Place::Lnet(_, true) = there {
        return Err(format!("{}: * names no transfer machine: give its number", a.target));
    }
    if matches!(there, Place::Lnet(..)) && job.size > LNET_MAX {
        return Err(format!("--size {}: LNet moves at most {LNET_MAX} bytes at a time: give less", job.size));
    }
    limits::fits(&format!("--size {} --concurrency {}", job.size, a.concurrency), job.memory())?;
    networks::target(&a.node, there.nid())?;
    let on_port = networks::on_port(&a.node);
    let here = match (&a.from, on_port) {
        (Some(from), _) => {
            Place::parse(from, Some(if there.addr().is_some() { XprtArg::Sock } else { XprtArg::Lnet }))?
        }
        (None, true) => return Err("a node on a port has no address unless told: give --from ADDRESS".into()),
        (None, false) => Place::towards(&there, &a.node.route)?,
    };
    if here.name() == there.name() {
        return Err(format!("{}: that is this end's own address: give --from another", a.target));
    }
    if there.xprt() == "sock"
        && let (Some(from), Some(to)) = (here.nid().ip(), there.nid().ip())
        && from.is_ipv4() != to.is_ipv4()
    {
        let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
        return Err(format!(
            "--from {}: {} is reached from an {family} address only: give one",
            here.name(),
            a.target
        ));
    }
    let ctl = Arc::new(NetCtl::default());
    let (c, j) = (ctl.clone(), Job { target: there.name(), ..job.clone() });
    let node = start(&mut a.node, &here, Role::Dialler("net"), move |backing| Client::new(j, c, backing))?;
    (sum.carrier, sum.from) = (node.describe().to_owned(), here.name());
    let outcome = follow(&node, &ctl, a, sum);
    let ended = stop(node, &ctl, outcome);
    // The first error stands first.
    let failed = ctl.first_error().filter(|_| !sum.interrupted);
    running::both(failed.map_or(Ok(()), Err), ended)
}

/// Waits for the end; a line that is drawn again every second tells how far it is.
fn follow(node: &Node, ctl: &NetCtl, a: &NetAskArgs, sum: &mut Sum) -> Result<(), String> {
    let shown = !a.out.json && std::io::stderr().is_terminal();
    let bar = if shown { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let (mut cpu, mut last) = (None, (Instant::now(), 0, 0));
    let mut telling = Telling::default();
    loop {
        telling.tell(ctl);
        // First: what is under way fails when the node goes down, and that is no error of its own.
        if node.stopped() {
            sum.interrupted = node.control().order() > transport::node::Order::Run;
            break;
        }
        if ctl.done.load(Ordering::Acquire) || ctl.first_error().is_some() {
            break;
        }
        if cpu.is_none() && get(&ctl.started) > 0 {
            (cpu, last.0) = (Some(cpu_time()), Instant::now());
        }
        let span = last.0.elapsed();
        if cpu.is_some() && span >= Duration::from_secs(1) {
            let (n, bytes) = (get(&ctl.completed), get(&ctl.bytes));
            let (rate, each) = (
                units::rate(bytes - last.2, span.as_secs_f64()),
                units::per_second(n - last.1, span.as_secs_f64()),
            );
            let (rtt, _) = ctl.times();
            bar.set_message(format!(
                "{n} operations  {rate}  {each}  p50 {:.1} us  p99 {:.1} us",
                rtt.p50_us, rtt.p99_us
            ));
            bar.tick();
            last = (Instant::now(), n, bytes);
        }
        pause(Duration::from_millis(2));
    }
    bar.finish_and_clear();
    sum.take(ctl, cpu.map_or(0.0, |c| (cpu_time() - c).as_secs_f64()));
    if sum.interrupted {
        // Operations that were under way as the node went down were given up.
        sum.failed = 0;
    }
    sum.from = ctl.name().unwrap_or_else(|| sum.from.clone());
    Ok(())
}
