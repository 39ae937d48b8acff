//! Routing of the node, as lnetctl shows and changes it.

use transport::lnet::{BufferClass, RoutingState};
use transport::node::inspect::Inspection;

use crate::lnetctl::routed::{BuffersShown, Class, Pool, Pools, RoutingShown, Rows, Told};

/// Router buffers of a class: their number, the free ones less the messages that wait for one, and the least that those were.
pub(crate) type Sum = (BufferClass, u64, i64, i64);

/// Whether the node routes, and the buffers of all its lcores together.
///
/// # Errors
/// An lcore does not answer.
pub(crate) fn sums(front: &Inspection) -> Result<(RoutingState, [Sum; 3]), String> {
    let mut state = RoutingState::Off;
    let mut sums = BufferClass::ALL.map(|c| (c, 0u64, 0i64, 0i64));
    front
        .routing(|lcore, view| {
            if lcore == 0 {
                state = view.state;
            }
            for ((_, buffers, credits, least), b) in sums.iter_mut().zip(view.buffers) {
                *buffers += u64::from(b.buffers);
                *credits += b.credits;
                *least += b.least_credits;
            }
        })
        .map_err(|e| e.to_string())?;
    Ok((state, sums))
}

/// Routing, if the node routes: buffers of all its lcores together, as those of one CPT. With `settings` the numbers behind them are those that
/// it is set to have: fewer than lcores are one each, and more than that may be out yet.
pub(super) fn shown(front: &Inspection, settings: bool) -> Result<Option<RoutingShown>, String> {
    let (state, sums) = sums(front)?;
    if state == RoutingState::Off {
        return Ok(None);
    }
    // Those that are less than 0 are shown as lnetctl shows them: as numbers of 32 bits without a sign.
    let pool = |(class, buffers, credits, least): Sum| Pool {
        npages: class.pages().into(),
        nbuffers: buffers,
        credits: (credits as u32).into(),
        mincredits: (least as u32).into(),
    };
    let [tiny, small, large] = sums.map(pool);
    let [t, s, l] = match settings {
        true => front.config(0).map_err(|e| e.to_string())?.routing.buffers().map(u64::from),
        false => sums.map(|s| s.1),
    };
    Ok(Some(RoutingShown {
        routing: Rows::Shown(vec![
            Told::Pools(Pools { cpt: Class { tiny, small, large } }),
            Told::State { enable: state.number().into() },
        ]),
        buffers: BuffersShown { tiny: t, small: s, large: l },
    }))
}
