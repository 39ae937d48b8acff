//! Routing of the node, as lnetctl shows and changes it.

use transport::lnet::{BufferClass, RoutingState};
use transport::node::inspect::Inspection;

use crate::lnetctl::routed::{BuffersShown, Class, Pool, Pools, RoutingShown, Rows, Told};

/// Routing, if the node routes: buffers of all its lcores together, as those of one CPT.
pub(super) fn shown(front: &Inspection) -> Result<Option<RoutingShown>, String> {
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
    if state == RoutingState::Off {
        return Ok(None);
    }
    // Those that are less than 0 are shown as lnetctl shows them: as numbers of 32 bits without a sign.
    let pool = |(class, buffers, credits, least): (BufferClass, u64, i64, i64)| Pool {
        npages: class.pages().into(),
        nbuffers: buffers,
        credits: (credits as u32).into(),
        mincredits: (least as u32).into(),
    };
    let [tiny, small, large] = sums.map(pool);
    let [t, s, l] = sums.map(|s| s.1);
    Ok(Some(RoutingShown {
        routing: Rows::Shown(vec![
            Told::Pools(Pools { cpt: Class { tiny, small, large } }),
            Told::State { enable: state.number().into() },
        ]),
        buffers: BuffersShown { tiny: t, small: s, large: l },
    }))
}
