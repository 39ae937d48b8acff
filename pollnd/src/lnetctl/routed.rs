//! Routes, routing and router buffers, as lnetctl shows them.

use serde::{Deserialize, Serialize};
use transport::lnd::Route;

use super::shown::Level;

/// `route show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Routes {
    pub(crate) route: Vec<RouteShown>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteShown {
    /// The network that it leads to.
    pub(crate) net: String,
    pub(crate) gateway: String,
    /// -1 where it was not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hop: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<i64>,
    /// up or down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
    /// single-hop or multi-hop.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
}

impl RouteShown {
    /// A route as it was configured.
    pub(crate) fn of(r: &Route) -> RouteShown {
        RouteShown {
            net: r.net.to_string(),
            gateway: r.gateway.to_string(),
            hop: Some(r.hop.map_or(-1, i64::from)),
            priority: Some(r.priority.into()),
            state: None,
            kind: None,
        }
    }

    /// Leaves out what that level does not show.
    pub(crate) fn at(&mut self, level: Level) {
        if level < Level(1) {
            (self.hop, self.priority, self.state, self.kind) = (None, None, None, None);
        }
    }

    /// Leaves what makes the same route again.
    pub(crate) fn backup(&mut self) {
        (self.state, self.kind) = (None, None);
    }
}

/// Router buffers of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pool {
    pub(crate) npages: u64,
    pub(crate) nbuffers: u64,
    pub(crate) credits: u64,
    pub(crate) mincredits: u64,
}

/// Those of a CPT, by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Class {
    pub(crate) tiny: Pool,
    pub(crate) small: Pool,
    pub(crate) large: Pool,
}

/// Those of the first CPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pools {
    #[serde(rename = "cpt[0]")]
    pub(crate) cpt: Class,
}

/// A row of `routing show`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(crate) enum Told {
    /// Buffers.
    Pools(Pools),
    /// 1: the node routes; 2: it ceases to; 3: it begins to.
    State { enable: u64 },
}

/// Buffers in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BuffersShown {
    pub(crate) tiny: u64,
    pub(crate) small: u64,
    pub(crate) large: u64,
}

/// The state of a node that ceases to route.
const STOPPING: u64 = 2;

/// Whether a node routes, as it is shown and as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Rows {
    /// With all its buffers.
    Shown(Vec<Told>),
    /// In a backup.
    Kept(Kept),
}

/// All that makes it route again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    pub(crate) enable: u64,
}

/// `routing show`, and its part of `export`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoutingShown {
    pub(crate) routing: Rows,
    pub(crate) buffers: BuffersShown,
}

impl RoutingShown {
    /// Leaves what makes it route again, unless it is about to cease.
    pub(crate) fn backup(&mut self) {
        let Rows::Shown(rows) = &self.routing else { return };
        let ceases = rows.iter().any(|r| matches!(r, Told::State { enable: STOPPING }));
        self.routing = Rows::Kept(Kept { enable: (!ceases).into() });
    }
}
