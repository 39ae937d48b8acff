//! `pollnd bench router`: what an LNet router costs beside the two ends that it joins, over the link and over kernel sockets.

use std::sync::Arc;

use bench::ctl::Ctl;
use bench::pair::NothingLost;
#[cfg(feature = "dpdk")]
use bench::pair::Threads;
use bench::report::RanOn;
use bench::router::cost::{Apart, Beside, Round, Router, Side, figures};
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

/// Measures nodes that run, and takes them down.
fn side(
    ctl: &Ctl,
    secs: f64,
    lost: &mut Vec<NothingLost>,
    stop: impl FnOnce() -> Result<(Vec<NodeEnd>, u64), String>,
) -> Result<(Side, Vec<NodeEnd>), String> {
    let side = Side::of(ctl, secs);
    let (ends, left) = stop()?;
    lost.push(NothingLost::of(ctl, &ends).and_left(left));
    Ok((side.map_err(|e| e.to_string())?, ends))
}

/// Measures round trips of nodes that run, and takes them down.
#[cfg(feature = "dpdk")]
fn round_trips(
    ctl: &Ctl,
    secs: f64,
    lost: &mut Vec<NothingLost>,
    stop: impl FnOnce() -> Result<(Vec<NodeEnd>, u64), String>,
) -> Result<f64, String> {
    let side = Side::of_round_trips(ctl, secs);
    let (ends, left) = stop()?;
    lost.push(NothingLost::of(ctl, &ends).and_left(left));
    side.map(|s| s.p50_us).map_err(|e| e.to_string())
}

fn sockets(a: &RouterArgs, lost: &mut Vec<NothingLost>) -> Result<Beside, String> {
    let p = SockPair { idle: IdleMode::Block, intake: Intake::Lent, client: client(), peer_credits: FLIGHT };
    let mut measured = |passes: Option<Passes>| {
        let ctl = Arc::new(Ctl::default());
        let running = match passes {
            Some(passes) => router::looped::start(p, passes, &ctl)?,
            None => sock::start(p, ctl.clone())?,
        };
        side(&ctl, a.seconds, lost, || running.stop().map(|e| (e, 0))).map(|(s, _)| s)
    };
    Ok(Beside {
        direct: measured(None)?,
        through: measured(Some(Passes::Stored))?,
        cut: measured(Some(Passes::Cut))?,
    })
}

#[cfg(feature = "dpdk")]
impl VirtioLink {
    /// Both sides, and the payload bytes that the router copied.
    fn beside(&self, a: &RouterArgs, lost: &mut Vec<NothingLost>) -> Result<(Beside, u64), String> {
        use bench::link::{self, LinkConfig};

        let dir = std::env::temp_dir();
        let (threads, enter, idle) = pairs::threads(self.one)?;
        let cfg = LinkConfig { threads, client: client(), peer_credits: FLIGHT, ..LinkConfig::default() };
        let mut measured = |passes: Option<Passes>| {
            let ctl = Arc::new(Ctl::default());
            let l = match passes {
                Some(passes) => router::linked::start(&self.eal, &dir, (cfg, passes), &ctl, &enter, idle)?,
                None => link::start(&self.eal, &dir, cfg, &ctl, &enter, idle)?,
            };
            side(&ctl, a.seconds, lost, || l.stop().map(|end| (end.nodes, end.buffers_left)))
        };
        let (direct, _) = measured(None)?;
        let (through, stored) = measured(Some(Passes::Stored))?;
        let (cut, begun) = measured(Some(Passes::Cut))?;
        let routers = [stored.get(1), begun.get(1)].into_iter().flatten();
        let copied = routers
            .map(|r| r.proto.forward_copied_bytes + r.proto.rx_copied_bytes + r.streams.tx_copied_bytes);
        let copied = copied.sum();
        Ok((Beside { direct, through, cut }, copied))
    }

    /// Round trips between two lcores, where there are CPUs for them.
    fn apart(&self, a: &RouterArgs, lost: &mut Vec<NothingLost>) -> Result<Option<Apart>, String> {
        use bench::link::{self, LinkConfig};

        let (threads, enter, idle) = pairs::threads(false)?;
        if threads == Threads::One {
            return Ok(None);
        }
        let dir = std::env::temp_dir();
        let cfg = LinkConfig { threads, client: client(), peer_credits: FLIGHT, ..LinkConfig::default() };
        let ctl = Arc::new(Ctl::default());
        let l = link::start(&self.eal, &dir, cfg, &ctl, &enter, idle)?;
        let direct_us = round_trips(&ctl, a.seconds, lost, || l.stop().map(|e| (e.nodes, e.buffers_left)))?;
        let ctl = Arc::new(Ctl::default());
        let with = (cfg, Passes::Stored);
        let l = router::linked::start(&self.eal, &dir, with, &ctl, &enter, idle)?;
        let through_us = round_trips(&ctl, a.seconds, lost, || l.stop().map(|e| (e.nodes, e.buffers_left)))?;
        Ok(Some(Apart { direct_us, through_us }))
    }
}

#[cfg(not(feature = "dpdk"))]
impl VirtioLink {
    fn beside(&self, _: &RouterArgs, _: &mut Vec<NothingLost>) -> Result<(Beside, u64), String> {
        match *self {}
    }

    fn apart(&self, _: &RouterArgs, _: &mut Vec<NothingLost>) -> Result<Option<Apart>, String> {
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
        let (link, apart) = match &virtio {
            Some(l) => {
                let (link, bytes) = l.beside(a, &mut lost)?;
                copied += bytes;
                (Some(link), l.apart(a, &mut lost)?)
            }
            None => (None, None),
        };
        rounds.push(Round { apart, link, sockets: sockets(a, &mut lost)? });
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
