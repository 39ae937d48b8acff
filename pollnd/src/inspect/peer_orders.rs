//! Orders about peers that lnetctl gives: `peer add`, `peer del`.

use serde_json::{Value, json};
use transport::lnd::PeerParseError;
use transport::lnet::by_hand::PeerAsk;
use transport::wire::{Nid, NidParseError};

use super::failure::Failure;
use super::shared::Shared;

fn give(shared: &Shared, order: &PeerAsk) -> Result<Value, Failure> {
    // Orders at once would come to the lcores in different orders.
    let _alone = shared.live()?.alone();
    let front = &shared.front;
    let (done, _) = front.by_hand(Some(order)).map_err(|e| e.to_string())?;
    done.map_err(|e| Failure::numbered(e, e.errno()))?;
    tracing::info!("peers: {order:?}");
    Ok(json!(null))
}

/// Adds a peer by hand, as `--peer-nids` takes it, or NIDs to one.
pub(super) fn add(shared: &Shared, peer: &str) -> Result<Value, Failure> {
    let peer = peer.parse().map_err(|e: PeerParseError| e.to_string())?;
    give(shared, &PeerAsk::Add(peer))
}

/// Deletes the peer that goes by that NID, or NIDs of it, if `is_there` knows it.
pub(super) fn del(
    shared: &Shared,
    primary: &str,
    nids: &[String],
    is_there: impl FnOnce(Nid) -> Result<bool, String>,
) -> Result<Value, Failure> {
    let nid = |n: &str| n.parse::<Nid>().map_err(|e: NidParseError| e.to_string());
    let primary = nid(primary)?;
    if !is_there(primary)? {
        let lists = "`pollnd lnetctl peer show` lists those that there are";
        return Err(Failure::numbered(format!("no peer has the NID {primary}: {lists}"), libc::EINVAL));
    }
    let nids = nids.iter().map(|n| nid(n)).collect::<Result<_, _>>()?;
    give(shared, &PeerAsk::Del { primary, nids })
}
