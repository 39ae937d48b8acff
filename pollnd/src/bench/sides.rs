//! The three sides that a bench measures in each round: the virtio link on one lcore and on two, and kernel sockets.

use bench::report::RanOn;
use bench::tcp::load;
#[cfg(feature = "dpdk")]
pub(super) use dataplane::dpdk::Eal;

use super::live;
use crate::args::common::{EalArgs, OverLink};
#[cfg(feature = "dpdk")]
use crate::pairs;
#[cfg(feature = "dpdk")]
pub(super) use crate::pairs::clean_up;

/// DPDK, which this command was built without.
#[cfg(not(feature = "dpdk"))]
#[derive(Debug)]
pub(super) enum Eal {}

/// All rounds of each side, and where they ran.
pub(super) struct Sides<R> {
    /// The link, both nodes on one lcore; none where kernel sockets are measured alone.
    pub(super) one: Vec<R>,
    /// The link, an lcore for each node; none on one CPU, where two would only take turns.
    pub(super) two: Vec<R>,
    /// Kernel sockets, which have two threads.
    pub(super) sockets: Vec<R>,
    /// The machine's load before and after.
    pub(super) load: [f64; 2],
    /// The machine.
    pub(super) ran_on: RanOn,
}

/// Most lcores of a pair: one each, but for one CPU, where two would only take turns.
pub(super) fn lcores() -> u32 {
    if std::thread::available_parallelism().is_ok_and(|n| n.get() > 1) { 2 } else { 1 }
}

/// Measures `rounds` rounds of `pollnd bench NAME`. `link` has the EAL, and whether both nodes are on one lcore.
///
/// # Errors
/// DPDK does not start, or a side's own.
pub(super) fn measure<R>(
    (name, rounds): (&str, u32),
    over: &OverLink,
    mut link: impl FnMut(&Eal, bool) -> Result<R, String>,
    mut sockets: impl FnMut() -> Result<R, String>,
) -> Result<Sides<R>, String> {
    let bar = live(&over.out);
    let mut on = RanOn::look();
    (on.dpdk, on.memory) = ("DPDK not used".into(), "ordinary pages".into());
    let eal = if over.sockets_only { None } else { Some(start(name, &over.dpdk, None, &mut on)?) };
    let both = lcores() > 1;
    on.lcores = if eal.is_none() { 0 } else { lcores() as usize };
    let mut s =
        Sides { one: Vec::new(), two: Vec::new(), sockets: Vec::new(), load: [load(); 2], ran_on: on };
    for round in 1..=rounds {
        bar.set_message(format!("round {round} of {rounds}"));
        bar.tick();
        if let Some(eal) = &eal {
            s.one.push(link(eal, true)?);
            if both {
                s.two.push(link(eal, false)?);
            }
        }
        s.sockets.push(sockets()?);
    }
    if let Some(eal) = eal {
        clean_up(&eal);
    }
    bar.finish_and_clear();
    s.load[1] = load();
    Ok(s)
}

/// The EAL of `pollnd bench NAME`, with so much memory in MiB, or the usual.
///
/// # Errors
/// DPDK does not start.
#[cfg(feature = "dpdk")]
pub(super) fn start(_: &str, dpdk: &EalArgs, mb: Option<u32>, on: &mut RanOn) -> Result<Eal, String> {
    let eal = pairs::eal_of(dpdk, mb.unwrap_or(pairs::USUAL_MB))?;
    pairs::tell(&eal, on);
    Ok(eal)
}

/// Says that there is none.
///
/// # Errors
/// Always.
#[cfg(not(feature = "dpdk"))]
pub(super) fn start(name: &str, _: &EalArgs, _: Option<u32>, _: &mut RanOn) -> Result<Eal, String> {
    Err(format!(
        "this pollnd was built without DPDK: `pollnd bench {name} --sockets-only` measures kernel sockets alone"
    ))
}

/// Ends what there is none of.
#[cfg(not(feature = "dpdk"))]
pub(super) fn clean_up(eal: &Eal) {
    match *eal {}
}
