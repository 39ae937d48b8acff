//! `pollnd bench latency`: one small message at a time, against the bare link and kernel sockets.

use std::sync::Arc;

use bench::ctl::{Ctl, Traffic};
use bench::latency::{Latency, Round, figures};
use bench::pair::NothingLost;
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

/// `pollnd bench latency`.
#[derive(Args, Debug, Clone)]
pub(crate) struct LatencyArgs {
    /// Rounds; each measures every side once.
    #[arg(default_value_t = 9, value_parser = number::<u32>(1..=1000))]
    pub(crate) rounds: u32,
    /// Seconds for each side in a round.
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Both nodes on one lcore.
    #[arg(long, conflicts_with = "sockets_only")]
    pub(crate) one_lcore: bool,
    /// The form of the result, and the link.
    #[command(flatten)]
    pub(crate) over: OverLink,
}

fn sockets(a: &LatencyArgs, lost: &mut Vec<NothingLost>) -> Result<f64, String> {
    let ctl = Arc::new(Ctl::default());
    let client = ClientConfig::default();
    let p = SockPair { idle: IdleMode::Spin, intake: Intake::Lent, client, peer_credits: 8 };
    let running = sock::start(p, ctl.clone())?;
    Ok(one(&ctl, (Traffic::Rtt, a.seconds), lost, || running.stop().map(|e| (e, 0)))?.1.p50_us)
}

#[cfg(feature = "dpdk")]
impl VirtioLink {
    fn round(&self, a: &LatencyArgs, lost: &mut Vec<NothingLost>) -> Result<Round, String> {
        use std::time::Duration;

        use bench::bare;
        use bench::link::{self, LinkConfig};

        let dir = std::env::temp_dir();
        let (threads, enter, idle) = pairs::threads(self.one)?;
        let cfg = LinkConfig { threads, ..LinkConfig::default() };
        let time = Duration::from_secs_f64(a.seconds);
        let floor = bare::round_trip(&self.eal, &dir, cfg.mtu, threads, &enter, time)?;
        let ctl = Arc::new(Ctl::default());
        let l = link::start(&self.eal, &dir, cfg, &ctl, &enter, idle)?;
        let (_, nodes) = one(&ctl, (Traffic::Rtt, a.seconds), lost, || {
            let end = l.stop()?;
            Ok((end.nodes, end.buffers_left))
        })?;
        Ok(Round {
            cores: floor.cores.map(|r| r.p50_us),
            bare: Some(floor.link.p50_us),
            nodes: Some(nodes.p50_us),
            ..Round::default()
        })
    }
}

#[cfg(not(feature = "dpdk"))]
impl VirtioLink {
    fn round(&self, _: &LatencyArgs, _: &mut Vec<NothingLost>) -> Result<Round, String> {
        match *self {}
    }
}

pub(super) fn main(a: &LatencyArgs) -> Result<(), String> {
    let bar = live(&a.over.out);
    let mut on = RanOn::look();
    on.lcores = 0;
    let link = VirtioLink::of(&a.over, a.one_lcore, &mut on)?;
    let (mut rounds, mut lost, before) = (Vec::new(), Vec::new(), load());
    for n in 1..=a.rounds {
        bar.set_message(format!("round {n} of {}", a.rounds));
        bar.tick();
        let round = link.as_ref().map_or(Ok(Round::default()), |l| l.round(a, &mut lost))?;
        rounds.push(Round { sockets: sockets(a, &mut lost)?, ..round });
    }
    if let Some(l) = link {
        l.close();
    }
    bar.finish_and_clear();
    let r = Latency {
        figures: figures(&rounds),
        rounds,
        nothing_lost: NothingLost::sum(&lost).ok,
        load: [before, load()],
        ran_on: on,
    };
    print(&a.over.out, &r, || r.table())?;
    if r.nothing_lost { Ok(()) } else { Err("something was lost: see the table".into()) }
}
