//! Measures the cases of a plan on nodes that run.

use std::sync::atomic::Ordering;

use transport::wire::srpc::{check, rw};

use super::{Case, Op, Round};
use crate::ctl::{Ctl, Load, Traffic};
use crate::measure::{MeasureError, loaded, stretch, wait_for};
use crate::selftest::{self, Orders};

/// Cases of one part, measured.
pub type Measured = Vec<(Case, Round)>;

fn traffic(op: Op) -> Traffic {
    match op {
        Op::Get => Traffic::Get,
        Op::Ping => Traffic::Ping,
        _ => Traffic::Bulk,
    }
}

/// Measures raw messages and pings, `secs` each. `tick` is told of each case that is over.
///
/// # Errors
/// A message failed, or nothing moves.
pub fn raw(
    ctl: &Ctl,
    cases: &[Case],
    secs: f64,
    tick: &mut dyn FnMut(Case),
) -> Result<Measured, MeasureError> {
    if !ctl.far.load(Ordering::Relaxed) {
        wait_for(ctl, "the server", 10, || ctl.is_ready())?;
    }
    // The connections come up in nobody's time.
    stretch(ctl, Traffic::Ping, secs.min(0.02), &mut |_| ())?;
    let each = |case: &Case| {
        let load = Load { len: case.size as usize, flight: case.concurrency.into() };
        let (cost, latency) = loaded(ctl, traffic(case.op), load, secs)?;
        tick(*case);
        Ok((*case, Round { cost, latency }))
    };
    cases.iter().map(each).collect()
}

/// A case of lnet_selftest, whose payload is neither filled nor checked.
pub fn brw_case(case: &Case) -> selftest::Case {
    let way = if case.op == Op::BrwRead { rw::READ } else { rw::WRITE };
    selftest::Case::brw(way, check::NONE, case.size, case.concurrency)
}

/// Measures cases of lnet_selftest, which the client's [`selftest::Tester`] has in this order.
///
/// # Errors
/// An RPC failed, or nothing moves.
pub fn brw(
    ctl: &Ctl,
    orders: &Orders,
    cases: &[Case],
    secs: f64,
    tick: &mut dyn FnMut(Case),
) -> Result<Measured, MeasureError> {
    wait_for(ctl, "the start of the client", 30, || orders.client.get().is_some())?;
    let each = |(case, n): (&Case, u64)| {
        let (cost, latency) = selftest::stretch(ctl, orders, n, secs)?;
        tick(*case);
        Ok((*case, Round { cost, latency }))
    };
    cases.iter().zip(1..).map(each).collect()
}
