//! `pollnd bench router`: what an LNet router costs beside the two ends that it joins, over the link and over kernel sockets.

use std::sync::Arc;

use bench::ctl::Ctl;
use bench::pair::{NothingLost, Running};
use bench::report::RanOn;
use bench::router;
use bench::router::cost::{Beside, Round, Router, Side, figures};
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
    /// Seconds for each kind of traffic, of three, on each side in a round.
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

fn sockets(a: &RouterArgs, lost: &mut Vec<NothingLost>) -> Result<Beside, String> {
    let p = SockPair { idle: IdleMode::Block, intake: Intake::Lent, client: client(), peer_credits: FLIGHT };
    let mut measured = |start: fn(SockPair, &Arc<Ctl>) -> Result<Running, String>| {
        let ctl = Arc::new(Ctl::default());
        let running = start(p, &ctl)?;
        side(&ctl, a.seconds, lost, || running.stop().map(|e| (e, 0))).map(|(s, _)| s)
    };
    Ok(Beside {
        direct: measured(|p, ctl| sock::start(p, ctl.clone()))?,
        through: measured(router::looped::start)?,
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
        let mut measured = |through: bool| {
            let ctl = Arc::new(Ctl::default());
            let start = if through { router::linked::start } else { link::start };
            let l = start(&self.eal, &dir, cfg, &ctl, &enter, idle)?;
            side(&ctl, a.seconds, lost, || l.stop().map(|end| (end.nodes, end.buffers_left)))
        };
        let (direct, _) = measured(false)?;
        let (through, ends) = measured(true)?;
        let copied = ends.get(1).map_or(0, |r| {
            r.proto.forward_copied_bytes + r.proto.rx_copied_bytes + r.streams.tx_copied_bytes
        });
        Ok((Beside { direct, through }, copied))
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
