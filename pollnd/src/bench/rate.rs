//! `pollnd bench rate`: small messages a second.

use std::sync::Arc;

use bench::ctl::{Ctl, Traffic};
use bench::measure::{MeasureError, last_rtt, stretch, wait_for};
use bench::pair::NothingLost;
use bench::rate::{Rate, Sample};
use bench::report::RanOn;
use bench::sock::{self, SockPair};
use bench::tcp::load;
use bench::workload::{ClientConfig, Intake};
use clap::Args;
use transport::node::NodeEnd;
use transport::node::sock::IdleMode;

use super::{live, print};
use crate::args::common::OverLink;
use crate::args::values::{number, seconds};
#[cfg(feature = "dpdk")]
use crate::pairs;

/// `pollnd bench rate`.
#[derive(Args, Debug, Clone)]
pub(crate) struct RateArgs {
    /// Rounds; each measures every side once.
    #[arg(default_value_t = 5, value_parser = number::<u32>(1..=1000))]
    pub(crate) rounds: u32,
    /// Seconds for each side in a round.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Messages in flight, and the nodes' peer_credits.
    #[arg(long, default_value_t = 64, value_parser = number::<u32>(1..=4096))]
    pub(crate) flight: u32,
    /// Both nodes on one lcore.
    #[arg(long, conflicts_with = "sockets_only")]
    pub(crate) one_lcore: bool,
    /// The form of the result, and the link.
    #[command(flatten)]
    pub(crate) over: OverLink,
}

impl RateArgs {
    fn client(&self) -> ClientConfig {
        ClientConfig { small_flight: self.flight.into(), ..ClientConfig::default() }
    }
}

/// Measures one pair of nodes and takes it down.
fn one(
    ctl: &Ctl,
    secs: f64,
    lost: &mut Vec<NothingLost>,
    stop: impl FnOnce() -> Result<(Vec<NodeEnd>, u64), String>,
) -> Result<Sample, String> {
    let go = || -> Result<Sample, MeasureError> {
        wait_for(ctl, "the server", 10, || ctl.ready.load(std::sync::atomic::Ordering::Acquire))?;
        let s = stretch(ctl, Traffic::Rate, secs, &mut |_| ())?;
        wait_for(ctl, "the histogram", 5, || ctl.rtt.lock().is_ok_and(|r| r.is_some()))?;
        Ok(Sample::of(&s, &last_rtt(ctl)))
    };
    let sample = go();
    let (ends, left) = stop()?;
    lost.push(NothingLost::of(ctl, &ends).and_left(left));
    sample.map_err(|e| e.to_string())
}

fn sockets(a: &RateArgs, idle: IdleMode, lost: &mut Vec<NothingLost>) -> Result<Sample, String> {
    let ctl = Arc::new(Ctl::default());
    let p = SockPair { idle, intake: Intake::Lent, client: a.client(), peer_credits: a.flight };
    let running = sock::start(p, ctl.clone())?;
    one(&ctl, a.seconds, lost, || running.stop().map(|e| (e, 0)))
}

/// Carrier of messages besides kernel sockets.
#[cfg(feature = "dpdk")]
struct VirtioLink {
    eal: dataplane::dpdk::Eal,
    one: bool,
}

#[cfg(feature = "dpdk")]
impl VirtioLink {
    fn new(a: &RateArgs, on: &mut RanOn) -> Result<VirtioLink, String> {
        use bench::pair::Threads;

        let eal = pairs::eal(&a.over.dpdk)?;
        pairs::tell(&eal, on);
        let one = pairs::threads(a.one_lcore)?.0 == Threads::One;
        on.lcores = if one { 1 } else { 2 };
        Ok(VirtioLink { eal, one })
    }

    fn name(&self) -> &'static str {
        if self.one { "virtio link, one lcore" } else { "virtio link, two lcores" }
    }

    fn sample(&self, a: &RateArgs, lost: &mut Vec<NothingLost>) -> Result<Sample, String> {
        use bench::link::{self, LinkConfig};

        let ctl = Arc::new(Ctl::default());
        let (threads, enter, idle) = pairs::threads(self.one)?;
        let cfg = LinkConfig { threads, client: a.client(), peer_credits: a.flight, ..LinkConfig::default() };
        let l = link::start(&self.eal, &std::env::temp_dir(), cfg, &ctl, &enter, idle)?;
        one(&ctl, a.seconds, lost, || {
            let end = l.stop()?;
            Ok((end.nodes, end.buffers_left))
        })
    }

    fn close(self) {
        pairs::clean_up(&self.eal);
    }
}

/// There is none.
#[cfg(not(feature = "dpdk"))]
enum VirtioLink {}

#[cfg(not(feature = "dpdk"))]
impl VirtioLink {
    fn new(_: &RateArgs, _: &mut RanOn) -> Result<VirtioLink, String> {
        Err("this pollnd was built without DPDK: `pollnd bench rate --sockets-only` measures kernel sockets alone"
            .into())
    }
    fn name(&self) -> &'static str {
        match *self {}
    }
    fn sample(&self, _: &RateArgs, _: &mut Vec<NothingLost>) -> Result<Sample, String> {
        match *self {}
    }
    fn close(self) {
        match self {}
    }
}

pub(super) fn main(a: &RateArgs) -> Result<(), String> {
    let bar = live(&a.over.out);
    let mut on = RanOn::look();
    (on.dpdk, on.memory) = ("DPDK not used".into(), "ordinary pages".into());
    let link = if a.over.sockets_only { None } else { Some(VirtioLink::new(a, &mut on)?) };
    let mut sides: Vec<(&'static str, Vec<Sample>)> = link.iter().map(|c| (c.name(), Vec::new())).collect();
    sides.extend([("kernel sockets, blocking", Vec::new()), ("kernel sockets, spinning", Vec::new())]);
    let (mut lost, before) = (Vec::new(), load());
    for round in 1..=a.rounds {
        bar.set_message(format!("round {round} of {}", a.rounds));
        bar.tick();
        let mut got = Vec::new();
        if let Some(c) = &link {
            got.push(c.sample(a, &mut lost)?);
        }
        got.push(sockets(a, IdleMode::Block, &mut lost)?);
        got.push(sockets(a, IdleMode::Spin, &mut lost)?);
        sides.iter_mut().zip(got).for_each(|(side, s)| side.1.push(s));
    }
    if let Some(c) = link {
        c.close();
    }
    bar.finish_and_clear();
    let (sides, ratio) = Rate::sides(&sides);
    let r = Rate {
        flight: a.flight,
        rounds: a.rounds,
        ratio: ratio.filter(|_| !a.over.sockets_only),
        sides,
        nothing_lost: NothingLost::sum(&lost).ok,
        load: [before, load()],
        ran_on: on,
    };
    print(&a.over.out, &r, || r.table())?;
    if r.nothing_lost { Ok(()) } else { Err("something was lost: see the table".into()) }
}
