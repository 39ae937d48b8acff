//! Small messages between two nodes, as `bench rate` and `bench latency` measure them.

use std::sync::atomic::Ordering;

use bench::ctl::{Ctl, Traffic};
use bench::measure::{MeasureError, Rtt, Stretch, last_rtt, stretch, wait_for};
use bench::pair::NothingLost;
use bench::report::RanOn;
use transport::node::NodeEnd;

use crate::args::common::OverLink;
#[cfg(feature = "dpdk")]
use crate::pairs;

/// Measures one pair of nodes and takes it down.
pub(super) fn one(
    ctl: &Ctl,
    (traffic, secs): (Traffic, f64),
    lost: &mut Vec<NothingLost>,
    stop: impl FnOnce() -> Result<(Vec<NodeEnd>, u64), String>,
) -> Result<(Stretch, Rtt), String> {
    let go = || -> Result<(Stretch, Rtt), MeasureError> {
        wait_for(ctl, "the server", 10, || ctl.ready.load(Ordering::Acquire))?;
        let s = stretch(ctl, traffic, secs, &mut |_| ())?;
        wait_for(ctl, "the histogram", 5, || ctl.rtt.lock().is_ok_and(|r| r.is_some()))?;
        Ok((s, last_rtt(ctl)))
    };
    let sample = go();
    let (ends, left) = stop()?;
    lost.push(NothingLost::of(ctl, &ends).and_left(left));
    sample.map_err(|e| e.to_string())
}

/// The virtio link: its EAL, and whether one lcore has both ends.
#[cfg(feature = "dpdk")]
pub(super) struct VirtioLink {
    pub(super) eal: dataplane::dpdk::Eal,
    pub(super) one: bool,
}

#[cfg(feature = "dpdk")]
impl VirtioLink {
    /// The link that the options ask for; none for kernel sockets alone. `on` is told of it.
    pub(super) fn of(over: &OverLink, one: bool, on: &mut RanOn) -> Result<Option<VirtioLink>, String> {
        use bench::pair::Threads;

        (on.dpdk, on.memory) = ("DPDK not used".into(), "ordinary pages".into());
        if over.sockets_only {
            return Ok(None);
        }
        let eal = pairs::eal(&over.dpdk)?;
        pairs::tell(&eal, on);
        let one = pairs::threads(one)?.0 == Threads::One;
        on.lcores = if one { 1 } else { 2 };
        Ok(Some(VirtioLink { eal, one }))
    }

    pub(super) fn close(self) {
        pairs::clean_up(&self.eal);
    }
}

/// There is none.
#[cfg(not(feature = "dpdk"))]
pub(super) enum VirtioLink {}

#[cfg(not(feature = "dpdk"))]
impl VirtioLink {
    pub(super) fn of(over: &OverLink, _: bool, on: &mut RanOn) -> Result<Option<VirtioLink>, String> {
        (on.dpdk, on.memory) = ("DPDK not used".into(), "ordinary pages".into());
        if over.sockets_only {
            return Ok(None);
        }
        Err("this pollnd was built without DPDK: --sockets-only measures kernel sockets alone".into())
    }

    pub(super) fn close(self) {
        match self {}
    }
}
