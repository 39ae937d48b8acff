//! `pollnd bench router`: what an LNet router costs beside the two ends that it joins, over the link and over kernel sockets.

use std::sync::Arc;

use bench::ctl::Ctl;
use bench::measure::MeasureError;
use bench::pair::NothingLost;
use bench::report::RanOn;
use bench::router::cost::{Beside, Round, Router, Side, figures, long};
use bench::router::{self, Passes};
use bench::sock::{self, SockPair};
use bench::tcp::load;
use bench::workload::{ClientConfig, Intake};
use clap::Args;
use transport::node::NodeEnd;
use transport::node::sock::IdleMode;

use super::small::VirtioLink;
use super::{live, print};
use crate::args::common::OverLink;
use crate::args::values::{number, seconds};
#[cfg(feature = "dpdk")]
use crate::pairs;

/// `pollnd bench router`.
#[derive(Args, Debug, Clone)]
pub(crate) struct RouterArgs {
    /// Rounds; each measures every side once.
    #[arg(default_value_t = 5, value_parser = number::<u32>(1..=1000))]
    pub(crate) rounds: u32,
    /// Seconds for each kind of traffic, of four, on each side in a round.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// The form of the result, and the link.
    #[command(flatten)]
    pub(crate) over: OverLink,
}

/// Small messages in flight, and `peer_credits` of all nodes.
const FLIGHT: u32 = 64;

fn client() -> ClientConfig {
    ClientConfig { small_flight: FLIGHT.into(), ..ClientConfig::default() }
}

/// Measures nodes that run by `of`, and takes them down.
fn side<T>(
    ctl: &Ctl,
    lost: &mut Vec<NothingLost>,
    of: impl FnOnce(&Ctl) -> Result<T, MeasureError>,
    stop: impl FnOnce() -> Result<(Vec<NodeEnd>, u64), String>,
) -> Result<(T, Vec<NodeEnd>), String> {
    let measured = of(ctl);
    let (ends, left) = stop()?;
    lost.push(NothingLost::of(ctl, &ends).and_left(left));
    Ok((measured.map_err(|e| e.to_string())?, ends))
}

fn sockets(a: &RouterArgs, lost: &mut Vec<NothingLost>) -> Result<Beside, String> {
    let p = SockPair { idle: IdleMode::Block, intake: Intake::Lent, client: client(), peer_credits: FLIGHT };
    let start = |passes: Option<Passes>| {
        let ctl = Arc::new(Ctl::default());
        let running = match passes {
            Some(passes) => router::looped::start(p, passes, &ctl)?,
            None => sock::start(p, ctl.clone())?,
        };
        Ok::<_, String>((ctl, running))
    };
    let mut measured = |passes| {
        let (ctl, running) = start(passes)?;
        side(&ctl, lost, |c| Side::of(c, a.seconds), || running.stop().map(|e| (e, 0))).map(|(s, _)| s)
    };
    let (direct, through) = (measured(None)?, measured(Some(Passes::Stored))?);
    let (ctl, running) = start(Some(Passes::Cut))?;
    let (cut_p50_us, _) =
        side(&ctl, lost, |c| long(c, a.seconds), || running.stop().map(|e: Vec<NodeEnd>| (e, 0)))?;
    Ok(Beside { direct, through, cut_p50_us })
}

#[cfg(feature = "dpdk")]
impl VirtioLink {
    /// Both sides, and the payload bytes that the router copied.
    fn beside(&self, a: &RouterArgs, lost: &mut Vec<NothingLost>) -> Result<(Beside, u64), String> {
        use bench::link::{self, LinkConfig};

        let dir = std::env::temp_dir();
        let (threads, enter, idle) = pairs::threads(self.one)?;
        let cfg = LinkConfig { threads, client: client(), peer_credits: FLIGHT, ..LinkConfig::default() };
        let start = |passes: Option<Passes>| {
            let ctl = Arc::new(Ctl::default());
            let l = match passes {
                Some(p) => router::linked::start(&self.eal, &dir, (cfg, p), &ctl, &enter, idle)?,
                None => link::start(&self.eal, &dir, cfg, &ctl, &enter, idle)?,
            };
            Ok::<_, String>((ctl, l))
        };
        let mut measured = |passes| {
            let (ctl, l) = start(passes)?;
            let stop = || l.stop().map(|end| (end.nodes, end.buffers_left));
            side(&ctl, lost, |c| Side::of(c, a.seconds), stop)
        };
        let (direct, _) = measured(None)?;
        let (through, ends) = measured(Some(Passes::Stored))?;
        let (ctl, l) = start(Some(Passes::Cut))?;
        let stop = || l.stop().map(|end| (end.nodes, end.buffers_left));
        let (cut_p50_us, cut) = side(&ctl, lost, |c| long(c, a.seconds), stop)?;
        let copied = [ends.get(1), cut.get(1)].into_iter().flatten().map(|r| {
            r.proto.forward_copied_bytes + r.proto.rx_copied_bytes + r.streams.tx_copied_bytes
        });
        let copied = copied.sum();
        Ok((Beside { direct, through, cut_p50_us }, copied))
    }
}

#[cfg(not(feature = "dpdk"))]
impl VirtioLink {
    fn beside(&self, _: &RouterArgs, _: &mut Vec<NothingLost>) -> Result<(Beside, u64), String> {
        match *self {}
    }
}

pub(super) fn main(a: &RouterArgs) -> Result<(), String> {
    let bar = live(&a.over.out);
    let mut on = RanOn::look();
    on.lcores = 0;
    let virtio = VirtioLink::of(&a.over, true, &mut on)?;
    let (mut rounds, mut lost, mut copied, before) = (Vec::new(), Vec::new(), 0, load());
    for n in 1..=a.rounds {
        bar.set_message(format!("round {n} of {}", a.rounds));
        bar.tick();
        let link = match &virtio {
            Some(l) => {
                let (link, bytes) = l.beside(a, &mut lost)?;
                copied += bytes;
                Some(link)
            }
            None => None,
        };
        rounds.push(Round { link, sockets: sockets(a, &mut lost)? });
    }
    if let Some(l) = virtio {
        l.close();
    }
    bar.finish_and_clear();
    let r = Router {
        figures: figures(&rounds),
        rounds,
        copied,
        nothing_lost: NothingLost::sum(&lost).ok,
        load: [before, load()],
        ran_on: on,
    };
    print(&a.over.out, &r, || r.table())?;
    if r.nothing_lost { Ok(()) } else { Err("something was lost: see the table".into()) }
}
