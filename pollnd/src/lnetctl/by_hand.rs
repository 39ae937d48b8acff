//! `peer add`, `peer del`: peers by hand.

use transport::lnd::PeerByHand;
use transport::wire::Nid;

use super::Asked;
use super::nid_ranges::{self, NotNids};
use super::refusal::{Refusal, status};
use crate::args::PeerArg;
use crate::inspect::account::Ask;

/// lnetctl says nothing of a NID that is none, and of a peer that is not there (docs/protocol/upper.md §5).
fn silent() -> Refusal {
    Refusal::words(status(libc::EINVAL), "")
}

/// The primary NID, and the others.
fn nids(a: &PeerArg, verb: &'static str) -> Result<(Nid, Vec<Nid>), Refusal> {
    let bad = |e: String| Refusal::netlink(verb, "peer", libc::EINVAL, e);
    let read = |list: &str| {
        nid_ranges::nids(list).map_err(|e| match e {
            NotNids::Nid => silent(),
            NotNids::Range(e) => bad(e),
        })
    };
    let [primary] = read(&a.prim_nid)?[..] else {
        return Err(bad(format!("--prim_nid {}: a peer goes by one NID", a.prim_nid)));
    };
    let mut all = Vec::new();
    for list in &a.nid {
        all.extend(read(list)?);
    }
    Ok((primary, all))
}

fn order(mut node: Asked, verb: &'static str, ask: Ask) -> Result<(), Refusal> {
    node.order(ask, |errno, e| match errno {
        libc::EINVAL if verb == "del" => silent(),
        _ => Refusal::netlink(verb, "peer", errno, e),
    })
}

pub(super) fn add(
    a: &PeerArg,
    multi_rail: bool,
    node: impl FnOnce() -> Result<Asked, Refusal>,
) -> Result<(), Refusal> {
    let (primary, mut nids) = nids(a, "add")?;
    // lnetctl takes the primary one among them, too.
    nids.retain(|n| *n != primary);
    nids.insert(0, primary);
    let peer = PeerByHand { nids, multi_rail };
    if let Err(e) = peer.check(&[], []) {
        return Err(Refusal::netlink("add", "peer", e.errno(), e.to_string()));
    }
    order(node()?, "add", Ask::AddPeer { peer: peer.to_string() })
}

pub(super) fn del(a: &PeerArg, node: impl FnOnce() -> Result<Asked, Refusal>) -> Result<(), Refusal> {
    let (primary, nids) = nids(a, "del")?;
    let nids = nids.iter().map(Nid::to_string).collect();
    order(node()?, "del", Ask::DelPeer { primary: primary.to_string(), nids })
}
