//! Health values that a user sets, as `lnetctl net set` and `peer set` do (docs/protocol/upper.md §3).
//!
//! A value goes the way of any other change: that of an own NI is decided by the keeper of those, that of a peer's NID by its home. From
//! a lower one recovery brings it back as after a failure; with the best one it is over.

use super::Lnet;
use super::causes::BEST;
use super::remote::Body;
use crate::lnd::{Cx, NiId};
use crate::wire::Nid;

/// Orders about health values, for the first shard. A value is from 0 to [`BEST`]; a higher one is taken for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthAsk {
    /// An own NI has this value, or all of them have.
    Own(Option<Nid>, u16),
    /// These NIDs of peers have it, as far as they are among several of one peer: others have no value of their own.
    Peers(Vec<Nid>, u16),
}

impl Lnet {
    /// Sets values; gives how many it concerned.
    pub(crate) fn health_ask(&mut self, cx: &Cx, ask: &HealthAsk) -> usize {
        let mut n = 0;
        match ask {
            HealthAsk::Own(only, value) => {
                for at in 0..self.nis.len() {
                    let nid = self.nis.get(at).map_or(Nid::LO, |ni| ni.nid);
                    if nid != Nid::LO && only.is_none_or(|o| o == nid) {
                        self.own_is(cx, NiId(at as u8), BEST.min(*value));
                        n += 1;
                    }
                }
            }
            HealthAsk::Peers(nids, value) => {
                for nid in
                    nids.iter().filter(|nid| self.aliases.nids(**nid).is_some()).copied().collect::<Vec<_>>()
                {
                    self.peer_set(cx, nid, BEST.min(*value));
                    n += 1;
                }
            }
        }
        n
    }

    /// The user gives a peer's NI this value: its home does.
    pub(super) fn peer_set(&mut self, cx: &Cx, nid: Nid, value: u16) {
        let home = nid.ip().map_or(cx.cfg.shards.me, |ip| cx.homes.of(ip));
        if home != cx.cfg.shards.me {
            return self.post(home, Body::SetHealth(nid, value));
        }
        self.peer_is(cx, nid, value);
        if value < BEST {
            self.recover_from(cx, nid);
        } else {
            self.recovered(cx, nid);
        }
    }
}
