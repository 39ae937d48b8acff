//! `pollnd bench idle`: lcores that spin, yield and sleep.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bench::ctl::{Ctl, Traffic};
use bench::idle::{Idle, Row, Sample, cpus};
use bench::link::{self, LinkConfig};
use bench::measure::wait_for;
use bench::pair::{NothingLost, Threads};
use bench::report::RanOn;
use bench::tcp::load;
use clap::Args;
use transport::node::IdlePolicy;

use super::small::{VirtioLink, one};
use super::{live, print};
use crate::args::common::OverLink;
use crate::args::values::{number, seconds};
use crate::pairs;

/// `pollnd bench idle`.
#[derive(Args, Debug, Clone)]
pub(crate) struct IdleArgs {
    /// Rounds; each measures every policy once.
    #[arg(default_value_t = 5, value_parser = number::<u32>(1..=1000))]
    pub(crate) rounds: u32,
    /// Seconds without messages, and as many with a few, for each policy in a round.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// The form of the result, and the link.
    #[command(flatten)]
    pub(crate) over: OverLink,
}

const POLICIES: [(&str, IdlePolicy); 3] = [
    ("spin", IdlePolicy::spins(u32::MAX, u32::MAX)),
    ("yield", IdlePolicy::spins(0, 1)),
    ("sleep", IdlePolicy::sleeps(1)),
];

impl VirtioLink {
    fn idle(&self, a: &IdleArgs, idle: IdlePolicy, lost: &mut Vec<NothingLost>) -> Result<Sample, String> {
        let (threads, enter, _) = pairs::threads(false)?;
        if threads == Threads::One {
            return Err("this takes an lcore for each node: a machine, or a taskset, with two CPUs".into());
        }
        let interrupts = idle.nap_after < u32::MAX;
        let cfg = LinkConfig { threads, interrupts, ..LinkConfig::default() };
        let ctl = Arc::new(Ctl::default());
        let l = link::start(&self.eal, &std::env::temp_dir(), cfg, &ctl, &enter, idle)?;
        let up = wait_for(&ctl, "the server", 10, || ctl.ready.load(Ordering::Acquire));
        let idle_cpus = up.map(|()| cpus(Duration::from_secs_f64(a.seconds))).map_err(|e| e.to_string());
        let (stretch, rtt) = one(&ctl, (Traffic::Sparse, a.seconds), lost, || {
            let end = l.stop()?;
            Ok((end.nodes, end.buffers_left))
        })?;
        Ok(Sample { idle_cpus: idle_cpus?, sparse_cpus: stretch.cpu_s / stretch.wall_s, rtt })
    }
}

pub(super) fn main(a: &IdleArgs) -> Result<(), String> {
    let bar = live(&a.over.out);
    let mut on = RanOn::look();
    let Some(link) = VirtioLink::of(&a.over, false, &mut on)? else {
        return Err("kernel sockets sleep in epoll: there is no policy to choose".into());
    };
    let (mut lost, before) = (Vec::new(), load());
    let mut rows = POLICIES.map(|(name, _)| Row { name, rounds: Vec::new() });
    for n in 1..=a.rounds {
        bar.set_message(format!("round {n} of {}", a.rounds));
        bar.tick();
        for (row, (_, policy)) in rows.iter_mut().zip(POLICIES) {
            row.rounds.push(link.idle(a, policy, &mut lost)?);
        }
    }
    link.close();
    bar.finish_and_clear();
    let r = Idle {
        rows: rows.into(),
        nothing_lost: NothingLost::sum(&lost).ok,
        load: [before, load()],
        ran_on: on,
    };
    print(&a.over.out, &r, || r.table())?;
    if r.nothing_lost { Ok(()) } else { Err("something was lost: see the table".into()) }
}
