//! `net set`, `peer set`: values of NIs, above all their health.

use super::Asked;
use super::refusal::Refusal;
use crate::config::model::network;
use crate::inspect::account::Ask;
use crate::inspect::set_orders::SetOrder;

/// NIs that a verb means.
pub(super) struct Which<'a> {
    /// One.
    pub(super) nid: Option<&'a str>,
    /// All.
    pub(super) all: bool,
    /// Those of a network.
    pub(super) net: Option<&'a str>,
}

/// Settings that are given, by their names.
pub(super) fn given(all: &[(&str, &Option<i64>)]) -> Vec<(String, i64)> {
    all.iter().filter_map(|(name, v)| Some(((*name).to_owned(), (**v)?))).collect()
}

fn refused(what: &str, errno: i32, descr: &str) -> Refusal {
    Refusal::netlink("set", what, errno, descr)
}

fn bad(what: &str, descr: &str) -> Refusal {
    refused(what, libc::EINVAL, descr)
}

fn health(what: &str, value: Option<i64>) -> Result<Option<u16>, Refusal> {
    let range = |n: i64| u16::try_from(n).ok().filter(|n| *n <= transport::lnet::BEST);
    value.map(|n| range(n).ok_or_else(|| bad(what, &format!("health {n}: it takes 0 to 1000")))).transpose()
}

pub(super) fn nets(
    which: &Which<'_>,
    value: Option<i64>,
    shared: &[(&str, &Option<i64>)],
    node: impl FnOnce() -> Result<Asked, Refusal>,
) -> Result<(), Refusal> {
    let (health, shared) = (health("net", value)?, given(shared));
    if let Some(net) = which.net.filter(|n| network(n).is_none()) {
        return Err(bad("net", &format!("{net} is no network that this node can have: tcp, tcp1 ..")));
    }
    if health.is_none() && shared.is_empty() {
        return Err(bad("net", "nothing to set: give --health, --conns-per-peer or --lnd-timeout"));
    }
    if which.nid.is_none() && !which.all && (which.net.is_none() || health.is_some()) {
        return Err(bad("net", "of which NI: give --nid NID, or --all"));
    }
    let (nid, net) = (which.nid.map(str::to_owned), which.net.map(str::to_owned));
    let ask = Ask::SetNet(Box::new(SetOrder { nid, net, health, shared }));
    node()?.order(ask, |errno, e| refused("net", errno, e))
}

pub(super) fn peers(
    (nid, all): (Option<&str>, bool),
    value: Option<i64>,
    state: Option<&str>,
    node: impl FnOnce() -> Result<Asked, Refusal>,
) -> Result<(), Refusal> {
    if let Some(state) = state {
        let why = format!(
            "state {state}: a peer's state is what it has said of itself, and is not set; `lnetctl discover --force NID` asks it again"
        );
        return Err(refused("peer", libc::EOPNOTSUPP, &why));
    }
    let health = health("peer", value)?;
    if health.is_none() {
        return Err(bad("peer", "nothing to set: give --health"));
    }
    if nid.is_none() && !all {
        return Err(bad("peer", "of which NI: give --nid NID, or --all"));
    }
    let ask = Ask::SetPeer(Box::new(SetOrder { nid: nid.map(str::to_owned), health, ..SetOrder::default() }));
    node()?.order(ask, |errno, e| refused("peer", errno, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> Result<Asked, Refusal> {
        panic!("a node is looked for")
    }

    #[test]
    fn what_cannot_be_is_refused_before_a_node_is_looked_for() {
        let told = |r: Result<(), Refusal>| r.map_err(|r| (r.verb, r.what, r.errno, r.descr)).unwrap_err();
        let which = |nid, all, net| Which { nid, all, net };
        let nets = |w: Which<'_>, health, conns: Option<i64>| {
            let (verb, what, errno, descr) = told(nets(&w, health, &[("conns_per_peer", &conns)], nobody));
            assert_eq!((verb, &*what, errno), ("set", "net", libc::EINVAL));
            descr
        };
        for value in [-1, 1001, i64::MAX] {
            assert_eq!(
                nets(which(None, true, None), Some(value), None),
                format!("health {value}: it takes 0 to 1000")
            );
        }
        assert!(nets(which(None, true, None), None, None).starts_with("nothing to set"));
        assert!(nets(which(None, false, None), Some(5), None).contains("give --nid NID, or --all"));
        assert!(
            nets(which(None, false, Some("tcp")), Some(5), Some(1)).contains("--all"),
            "--net is for the time alone"
        );
        assert!(nets(which(None, false, Some("o2ib")), None, Some(1)).starts_with("o2ib is no network"));
        let peers = |nid, all, health, state| told(peers((nid, all), health, state, nobody));
        assert_eq!(peers(None, true, Some(1), Some("5")).2, libc::EOPNOTSUPP);
        assert!(peers(None, false, Some(1), None).3.contains("--all"));
        assert!(peers(Some("10.0.0.2@tcp"), false, None, None).3.starts_with("nothing to set"));
        assert!(peers(Some("10.0.0.2@tcp"), false, Some(-5), None).3.starts_with("health -5"));
    }
}
