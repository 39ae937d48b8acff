//! `pollnd demo`: two nodes over an in-process virtio link, measured against kernel sockets.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use bench::ctl::{Ctl, Traffic};
use bench::measure::{MeasureError, last_rtt, stretch, wait_for};
use bench::pair::NothingLost;
use bench::report::{Baseline, Bulk, Counts, RanOn, Report, Trips};
use bench::sock::{self, SockPair};
use bench::workload::{ClientConfig, Intake};
use hugepages::Backing;
use indicatif::{ProgressBar, ProgressStyle};
use transport::node::sock::IdleMode;
use transport::node::{App, NoApp, NodeEnd};
use transport::wire::Nid;

use crate::args::DemoArgs;
use crate::inspect::seats::Seats;
use crate::member;
use crate::selftest::{self, Ran};

/// Measurements on one pair of nodes.
struct Plan {
    ping: bool,
    bulk: bool,
    rtt: bool,
}

/// Results of one pair of nodes.
struct Outcome {
    #[cfg_attr(not(feature = "dpdk"), expect(dead_code, reason = "sockets alone are not pinged"))]
    ping: Option<bench::measure::Rtt>,
    bulk: Option<Bulk>,
    rtt: Option<Trips>,
    lost: NothingLost,
    #[cfg_attr(not(feature = "dpdk"), expect(dead_code, reason = "counts over the link"))]
    ends: Vec<NodeEnd>,
}

/// The live line.
struct Live(ProgressBar);

impl Live {
    fn new(quiet: bool) -> Live {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        bar.set_style(
            ProgressStyle::with_template("  {spinner} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        Live(bar)
    }
    fn say(&self, what: &str) {
        self.0.set_message(what.to_owned());
        self.0.tick();
    }
    fn tick<'a>(&'a self, what: &'a str) -> impl FnMut(&Ctl) + 'a {
        let (mut bytes, mut msgs) = (0, 0);
        move |ctl| {
            let (b, m) = (ctl.bytes.load(Ordering::Relaxed), ctl.arrived.load(Ordering::Relaxed));
            let (db, dm) = (b.saturating_sub(bytes), m.saturating_sub(msgs));
            (bytes, msgs) = (b, m);
            if db < b {
                self.say(&format!("{what}: {:.1} Gbit/s, {} messages/s", db as f64 * 8e-8, dm * 10));
            }
        }
    }
}

fn run(
    name: &str,
    a: &DemoArgs,
    plan: &Plan,
    live: &Live,
    ctl: &Ctl,
    stop: impl FnOnce() -> Result<(Vec<NodeEnd>, u64), String>,
) -> Result<Outcome, String> {
    let measured = (|| {
        wait_for(ctl, "the start of the nodes", 20, || ctl.ready.load(Ordering::Acquire))?;
        let mut ping = None;
        if plan.ping {
            live.say(&format!("{name}: LNet ping"));
            stretch(ctl, Traffic::Ping, a.seconds.min(0.3), &mut |_| ())?;
            ctl.set_traffic(Traffic::BulkChecked);
            ping = Some(last(ctl)?);
        }
        let bulk = if plan.bulk {
            stretch(
                ctl,
                Traffic::BulkChecked,
                a.seconds.min(0.5),
                &mut live.tick(&format!("{name}: every byte checked")),
            )?;
            Some(stretch(ctl, Traffic::Bulk, a.seconds, &mut live.tick(&format!("{name}: 1 MiB PUTs")))?)
        } else {
            None
        };
        let rtt = if plan.rtt {
            let s =
                stretch(ctl, Traffic::Rtt, a.seconds, &mut live.tick(&format!("{name}: 64 B PUT + ACK")))?;
            Some((s, last(ctl)?))
        } else {
            None
        };
        Ok::<_, MeasureError>((ping, bulk, rtt))
    })();
    let (ends, left) = stop()?;
    let (ping, bulk, rtt) = measured.map_err(|e| format!("{name}: {e}"))?;
    let lost = NothingLost::of(ctl, &ends).and_left(left);
    Ok(Outcome {
        ping,
        bulk: bulk.map(|s| Bulk::of(&s, ctl, &ends)),
        rtt: rtt.map(|(s, rtt)| Trips { rtt, messages_per_s: s.rate(), ..Trips::default() }),
        lost,
        ends,
    })
}

/// The round trips of the phase that has just come to rest: the client hands them over on its next turn.
fn last(ctl: &Ctl) -> Result<bench::measure::Rtt, MeasureError> {
    ctl.set_traffic(Traffic::Quiet);
    wait_for(ctl, "the histogram", 5, || ctl.is_quiet() && ctl.rtt.lock().is_ok_and(|r| r.is_some()))?;
    let r = last_rtt(ctl);
    if let Ok(mut h) = ctl.rtt.lock() {
        *h = None;
    }
    Ok(r)
}

fn intake(a: &DemoArgs) -> Intake {
    if a.copy { Intake::Copied } else { Intake::Lent }
}

fn sockets(a: &DemoArgs, live: &Live, name: &str, idle: IdleMode, plan: &Plan) -> Result<Outcome, String> {
    let ctl = Arc::new(Ctl::default());
    let p = SockPair { idle, intake: intake(a), client: ClientConfig::default(), peer_credits: 8 };
    let running = sock::start(p, ctl.clone())?;
    run(name, a, plan, live, &ctl, || running.stop().map(|e| (e, 0)))
}

fn baseline(a: &DemoArgs, live: &Live, lost: &mut Vec<NothingLost>) -> Result<Baseline, String> {
    let blocking =
        sockets(a, live, "kernel sockets", IdleMode::Block, &Plan { ping: false, bulk: true, rtt: true })?;
    let spinning = sockets(
        a,
        live,
        "kernel sockets, spinning",
        IdleMode::Spin,
        &Plan { ping: false, bulk: false, rtt: true },
    )?;
    lost.extend([blocking.lost, spinning.lost]);
    Ok(Baseline {
        bulk: blocking.bulk.unwrap_or_default(),
        rtt_spin: spinning.rtt.unwrap_or_default(),
        rtt_block: blocking.rtt.unwrap_or_default(),
    })
}

/// Results over the virtio link.
#[derive(Default)]
struct OverLink {
    one: Option<Bulk>,
    two: Option<Bulk>,
    ping: Option<bench::measure::Rtt>,
    rtt: Option<Trips>,
    quick: Option<Ran>,
}

/// Most seconds of lnet_selftest at the end; shorter stretches make it one.
const QUICK: u32 = 2;

/// Makes the application of a node from its NID, the other end's, and pages.
type MakeApp = Box<dyn FnOnce([Nid; 2], &Arc<dyn Backing>) -> Result<Box<dyn App>, String> + Send>;

/// lnet_selftest between two nodes that `start` starts from their applications: the first has the console.
fn quick<R>(
    a: &DemoArgs,
    live: &Live,
    start: impl FnOnce(&Arc<Ctl>, MakeApp, MakeApp) -> Result<R, String>,
    stop: impl FnOnce(R) -> Result<(Vec<NodeEnd>, u64), String>,
    lost: &mut Vec<NothingLost>,
) -> Result<Ran, String> {
    live.say("lnet_selftest");
    let seconds = if a.seconds < 1.0 { 1 } else { QUICK };
    let (ctl, seats) = (Arc::new(Ctl::default()), Arc::new(Seats::default()));
    let nids: Arc<OnceLock<[Nid; 2]>> = Arc::default();
    let (s, n) = (seats.clone(), nids.clone());
    let client: MakeApp = Box::new(move |both, backing| {
        s.name(both[0]);
        let app = selftest::seat(&s, 1, backing)?;
        let _ = n.set(both);
        Ok(app)
    });
    let server: MakeApp = Box::new(|_, backing| member::beside(NoApp, 1, backing).map(|(app, _)| app));
    let running = start(&ctl, client, server)?;
    let ran = wait_for(&ctl, "the start of the nodes", 20, || nids.get().is_some())
        .map_err(|e| e.to_string())
        .and_then(|()| selftest::between(seats, nids.get().copied().unwrap_or([Nid::LO; 2]), seconds));
    let (ends, left) = stop(running)?;
    lost.push(NothingLost::of(&ctl, &ends).and_left(left));
    ran.map_err(|e| format!("lnet_selftest: {e}"))
}

/// The same over kernel sockets.
fn quick_over_sockets(a: &DemoArgs, live: &Live, lost: &mut Vec<NothingLost>) -> Result<Ran, String> {
    let (idle, client) = (IdleMode::Block, ClientConfig::default());
    let p = SockPair { idle, intake: intake(a), client, peer_credits: 8 };
    let start = |ctl: &Arc<Ctl>, client, server| sock::start_with(p, ctl, client, server);
    quick(a, live, start, |r| r.stop().map(|e| (e, 0)), lost)
}

#[cfg(feature = "dpdk")]
fn over_link(
    a: &DemoArgs,
    live: &Live,
    on: &mut RanOn,
    counts: &mut Counts,
    lost: &mut Vec<NothingLost>,
) -> Result<OverLink, String> {
    use std::time::Duration;

    use bench::bare::{self, Payload};
    use bench::link::{self, LinkConfig};
    use bench::pair::Threads;
    use bench::report::Carries;

    use crate::pairs;

    live.say("starting the EAL");
    let eal = pairs::eal(&a.dpdk)?;
    pairs::tell(&eal, on);
    let two = pairs::threads(a.one_lcore)?.0 == Threads::Two;
    on.lcores = if two { 2 } else { 1 };
    let dir = std::env::temp_dir();
    let mut go = |threads, name: &str, plan: &Plan| {
        let ctl = Arc::new(Ctl::default());
        let cfg =
            LinkConfig { threads, intake: intake(a), mtu: a.mtu, tso: !a.no_tso, ..LinkConfig::default() };
        let tso = if cfg.tso { "64 KiB TSO" } else { "no TSO" };
        on.link = format!("net_virtio_user to net_vhost in one process, MTU {}, {tso}", cfg.mtu);
        let (threads, enter, idle) = pairs::threads(threads == Threads::One)?;
        let l = link::start(&eal, &dir, LinkConfig { threads, ..cfg }, &ctl, &enter, idle)?;
        let out = run(name, a, plan, live, &ctl, || {
            let end = l.stop()?;
            Ok((end.nodes, end.buffers_left))
        })?;
        counts.add(&out.ends);
        lost.push(out.lost.clone());
        Ok::<_, String>(out)
    };
    // The frames are super-segments: without TSO there is nothing to compare with.
    let bare = |one: bool| {
        live.say("the link alone");
        if a.no_tso {
            return Ok(None);
        }
        let (threads, enter, _) = pairs::threads(one)?;
        let time = Duration::from_secs_f64(a.seconds.min(1.0));
        let rate = |payload| bare::rate(&eal, &dir, a.mtu, threads, &enter, (payload, time));
        Ok::<_, String>(Some(Carries { cached: rate(Payload::Cached)?, messages: rate(Payload::Messages)? }))
    };
    let mut r = OverLink::default();
    let first = go(Threads::One, "virtio link, 1 lcore", &Plan { ping: true, bulk: true, rtt: !two })?;
    let carries = bare(true)?;
    (r.one, r.ping, r.rtt) = (first.bulk.map(|b| b.over(carries)), first.ping, first.rtt);
    if two {
        let second = go(Threads::Two, "virtio link, 2 lcores", &Plan { ping: true, bulk: true, rtt: true })?;
        let carries = bare(false)?;
        (r.two, r.ping, r.rtt) = (second.bulk.map(|b| b.over(carries)), second.ping, second.rtt);
    }
    let cfg = LinkConfig { mtu: a.mtu, tso: !a.no_tso, ..LinkConfig::default() };
    let (threads, enter, idle) = pairs::threads(a.one_lcore)?;
    let cfg = LinkConfig { threads, ..cfg };
    let start = |ctl: &Arc<Ctl>, client, server| {
        link::start_with(&eal, &dir, cfg, ctl, (&enter, idle), client, server)
    };
    r.quick = Some(quick(a, live, start, |l| l.stop().map(|e| (e.nodes, e.buffers_left)), lost)?);
    pairs::clean_up(&eal);
    Ok(r)
}

#[cfg(not(feature = "dpdk"))]
fn over_link(
    _: &DemoArgs,
    _: &Live,
    _: &mut RanOn,
    _: &mut Counts,
    _: &mut Vec<NothingLost>,
) -> Result<OverLink, String> {
    Err("this pollnd was built without DPDK: `pollnd demo --sockets-only` shows the baseline alone".into())
}

pub(crate) fn main(a: &DemoArgs) -> Result<(), String> {
    let live = Live::new(a.out.json);
    let mut on = RanOn::look();
    let (mut counts, mut lost) = (Counts::default(), Vec::new());
    let link = if a.sockets_only {
        on.dpdk = "DPDK not used".into();
        on.memory = "ordinary pages".into();
        on.link = "loopback".into();
        OverLink::default()
    } else {
        over_link(a, &live, &mut on, &mut counts, &mut lost)?
    };
    let base = baseline(a, &live, &mut lost)?;
    let quick = match link.quick {
        Some(q) => q,
        None => quick_over_sockets(a, &live, &mut lost)?,
    };
    live.0.finish_and_clear();
    let against = |b: Option<Bulk>| b.map(|b| b.against(&base.bulk));
    let ratio = |t: f64, b: f64| (b > 0.0).then(|| t / b);
    let rtt = link.rtt.map(|t| Trips {
        ratio_to_kernel_sockets: ratio(t.rtt.p50_us, base.rtt_spin.rtt.p50_us),
        ratio_to_blocking_sockets: ratio(t.rtt.p50_us, base.rtt_block.rtt.p50_us),
        ..t
    });
    let detail = NothingLost::sum(&lost);
    let report = Report {
        bulk: against(link.two.or(link.one)),
        bulk_one_lcore: against(link.one),
        rtt,
        ping: link.ping,
        kernel_sockets: base,
        nothing_lost: detail.ok,
        nothing_lost_detail: detail,
        counts,
        ran_on: on,
    };
    if a.out.json {
        let o = serde_json::to_string(&report).map_err(|e| e.to_string())?;
        // One key more, behind those of the report.
        let o = o.strip_suffix('}').unwrap_or(&o);
        crate::out::line(format_args!("{o},\"selftest\":{}}}", quick.json()))?;
    } else {
        crate::out::line(report.table())?;
        crate::out::text(format_args!("\nlnet_selftest, {}", quick.text()))?;
    }
    if !quick.clean() {
        return Err("lnet_selftest had errors: see the table above".into());
    }
    if report.nothing_lost { Ok(()) } else { Err("something was lost: see the line above".into()) }
}
