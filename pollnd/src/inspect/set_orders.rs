//! Values that NIs are given while the node runs: `lnetctl net set` and `peer set` (docs/lnetctl.md).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use transport::lnet::HealthAsk;
use transport::node::inspect::Inspection;
use transport::wire::Nid;

use super::failure::Failure;
use super::ni_orders::{bad, of_all, of_one, parsed};
use super::tunables;
use crate::config::model::network;

/// NIDs that one question names: their lcore has other work.
const AT_ONCE: usize = 64;

/// Values, by the names of `net show`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetOrder {
    /// The NI, or the peer's; all of them where there is no network either.
    pub(crate) nid: Option<String>,
    /// Those of a network.
    pub(crate) net: Option<String>,
    /// Health, 0 to 1000.
    pub(crate) health: Option<u16>,
    /// Settings that all NIs of a node share.
    #[serde(default)]
    pub(crate) shared: Vec<(String, i64)>,
}

/// The tunable behind a setting that may change while the node runs.
fn tunable(name: &str) -> Result<&'static str, Failure> {
    match name {
        "conns_per_peer" => Ok("conns_per_peer"),
        "timeout" => Ok("sock_timeout"),
        _ => Err(bad(format!("{name} is not set for an NI; `pollnd tunables` has what is to be set"))),
    }
}

/// Sets values of this node's NIs.
pub(super) fn nets(front: &Inspection, order: &SetOrder) -> Result<Value, Failure> {
    let cfg = front.config(0).map_err(|e| e.to_string())?;
    let only = order.nid.as_deref().map(parsed).transpose()?;
    let net = order.net.as_deref().and_then(network);
    let means = |nid: Nid| only.is_none_or(|o| o == nid) && net.is_none_or(|n| nid.net_num() == n);
    let lists = "`pollnd lnetctl net show` lists those that there are";
    match only {
        Some(Nid::LO) => {
            return Err(bad(
                "0@lo has no values to set: what the node says to itself cannot fail by it".into()
            ));
        }
        Some(nid) if !cfg.nids().any(|n| n == nid) => {
            return Err(bad(format!("{nid} is no NI of this node: {lists}")));
        }
        _ if !cfg.nids().any(means) => {
            let on = order.net.iter().map(|n| format!(" on the network {n}")).collect::<String>();
            return Err(bad(format!("this node has no NI{on}: {lists}")));
        }
        _ => {}
    }
    let mut other = Vec::new();
    for (name, value) in &order.shared {
        let own = of_all(&cfg, name);
        if own == *value {
            continue;
        }
        if !cfg.nids().all(means) {
            return Err(of_one(&cfg, name, *value));
        }
        other.push((tunable(name)?, value.to_string()));
    }
    for (name, value) in other {
        tunables::set(front, name, &value).map_err(bad)?;
    }
    if let Some(value) = order.health {
        front.set_health(HealthAsk::Own(only, value)).map_err(|e| e.to_string())?;
        tracing::info!("health of {} is set to {value}", only.map_or("all NIs".into(), |n| n.to_string()));
    }
    Ok(json!(null))
}

/// Sets the health of a peer's NI, if `is_there` knows it, or of all of them that have one of their own.
pub(super) fn peers(
    front: &Inspection,
    order: &SetOrder,
    is_there: impl FnOnce(Nid) -> Result<bool, String>,
) -> Result<Value, Failure> {
    let Some(value) = order.health else { return Err(bad("nothing to set: give health".into())) };
    let mut nids = BTreeSet::new();
    if let Some(nid) = order.nid.as_deref().map(parsed).transpose()? {
        if !is_there(nid)? {
            let lists = "`pollnd lnetctl peer show` lists those that there are";
            return Err(bad(format!("no peer has the NID {nid}: {lists}")));
        }
        nids.insert(nid);
    } else {
        let asked = front.peer_nis(|v| {
            nids.insert(v.nid);
            true
        });
        asked.map_err(|e| e.to_string())?;
    }
    let (all, mut n) = (nids.into_iter().collect::<Vec<_>>(), 0);
    for some in all.chunks(AT_ONCE) {
        n += front.set_health(HealthAsk::Peers(some.to_vec(), value)).map_err(|e| e.to_string())?;
    }
    match (&order.nid, n) {
        (Some(nid), 0) => {
            let why = format!(
                "{nid} is all that is known of its peer: nothing is chosen by its health, so it has none"
            );
            Err(Failure::numbered(why, libc::EOPNOTSUPP))
        }
        (nid, n) => {
            tracing::info!(
                "health of {} of peers' NIs ({n}) is set to {value}",
                nid.as_deref().unwrap_or("all")
            );
            Ok(json!(n))
        }
    }
}
