//! `pollnd bench rate`: small messages a second.

use std::sync::Arc;

use bench::ctl::{Ctl, Traffic};
use bench::pair::NothingLost;
use bench::rate::{Rate, Sample};
use bench::report::RanOn;
use bench::sock::{self, SockPair};
use bench::tcp::load;
use bench::workload::{ClientConfig, Intake};
use clap::Args;
use transport::node::sock::IdleMode;

use super::small::{VirtioLink, one};
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

fn sockets(a: &RateArgs, idle: IdleMode, lost: &mut Vec<NothingLost>) -> Result<Sample, String> {
    let ctl = Arc::new(Ctl::default());
    let p = SockPair { idle, intake: Intake::Lent, client: a.client(), peer_credits: a.flight };
    let running = sock::start(p, ctl.clone())?;
    let (s, rtt) = one(&ctl, (Traffic::Rate, a.seconds), lost, || running.stop().map(|e| (e, 0)))?;
    Ok(Sample::of(&s, &rtt))
}

#[cfg(feature = "dpdk")]
impl VirtioLink {
    fn name(&self) -> &'static str {
        if self.one { "virtio link, one lcore" } else { "virtio link, two lcores" }
    }

    fn sample(&self, a: &RateArgs, lost: &mut Vec<NothingLost>) -> Result<Sample, String> {
        use bench::link::{self, LinkConfig};

        let ctl = Arc::new(Ctl::default());
        let (threads, enter, idle) = pairs::threads(self.one)?;
        let cfg = LinkConfig { threads, client: a.client(), peer_credits: a.flight, ..LinkConfig::default() };
        let l = link::start(&self.eal, &std::env::temp_dir(), cfg, &ctl, &enter, idle)?;
        let (s, rtt) = one(&ctl, (Traffic::Rate, a.seconds), lost, || {
            let end = l.stop()?;
            Ok((end.nodes, end.buffers_left))
        })?;
        Ok(Sample::of(&s, &rtt))
    }
}

#[cfg(not(feature = "dpdk"))]
impl VirtioLink {
    fn name(&self) -> &'static str {
        match *self {}
    }
    fn sample(&self, _: &RateArgs, _: &mut Vec<NothingLost>) -> Result<Sample, String> {
        match *self {}
    }
}

pub(super) fn main(a: &RateArgs) -> Result<(), String> {
    let bar = live(&a.over.out);
    let mut on = RanOn::look();
    let link = VirtioLink::of(&a.over, a.one_lcore, &mut on)?;
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
