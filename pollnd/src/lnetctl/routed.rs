//! Routes, as lnetctl shows them.

use serde::{Deserialize, Serialize};

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
