//! Peers by hand: a user says which NIDs are one node's (docs/protocol/upper.md §2). They are used so before any of them has been heard,
//! and what nodes say of themselves changes nothing of it, as with kernels (from knowledge): a peer by hand is still asked who it is with
//! the first message to it, and told who we are.
//!
//! Every shard has the same ones, in the table of who is who (`transport/src/lnet/aliases.rs`). When one is deleted its messages that are on their
//! way end as they do; its NIDs that are connected are asked again, each for itself, and the others' entries go as soon as nothing is
//! under way there.

use super::Lnet;
use super::discovery::{Standing, Step};
use super::peer::Peer;
use crate::lnd::{Cx, Lnd, NiId, PeerByHand, PeerError};
use crate::stream::slab::Key;
use crate::wire::{Nid, ProcessId};

/// Orders about peers by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAsk {
    /// One more; or more NIDs of one that there is, by its primary NID.
    Add(PeerByHand),
    /// One less, by its primary NID. What discovery has told of a peer may be deleted, too: it is asked for anew.
    Del {
        /// The NID that it goes by.
        primary: Nid,
        /// Only these of its NIDs; empty, or with the primary one, for all of it.
        nids: Vec<Nid>,
    },
}

/// A NID of a peer by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByHandView {
    /// The one that its peer goes by; the first row of a peer has it as `nid`.
    pub primary: Nid,
    /// It.
    pub nid: Nid,
    /// Its peer is used as one with several NIDs.
    pub multi_rail: bool,
}

impl ByHandView {
    /// Puts rows together to peers, in their order.
    pub fn peers(rows: &[ByHandView]) -> Vec<PeerByHand> {
        let mut all: Vec<PeerByHand> = Vec::new();
        for row in rows {
            match all.last_mut().filter(|p| p.primary() == Some(row.primary)) {
                Some(peer) => peer.nids.push(row.nid),
                None => all.push(PeerByHand { nids: vec![row.nid], multi_rail: row.multi_rail }),
            }
        }
        all
    }
}

impl Lnet {
    /// Adds or deletes a peer by hand.
    ///
    /// # Errors
    /// [`PeerError`]; nothing is other then.
    pub(crate) fn peer_ask<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        ask: &PeerAsk,
    ) -> Result<(), PeerError> {
        match ask {
            PeerAsk::Add(peer) => {
                let own: Vec<Nid> = cx.cfg.nids().collect();
                let primary = peer.primary().ok_or(PeerError::Nothing)?;
                let known = self.aliases.all_by_hand().find(|(nids, _)| nids.first() == Some(&primary));
                let nids = match known {
                    // It itself is named to tell which one it is, and more NIDs make a peer Multi-Rail, as with kernels.
                    Some((nids, multi_rail)) => {
                        let fresh = peer.nids.iter().filter(|n| !nids.contains(n)).copied();
                        let fresh: Vec<Nid> = fresh.collect();
                        if fresh.is_empty() && multi_rail >= peer.multi_rail {
                            let other = peer.nids.iter().find(|n| **n != primary);
                            return Err(other.map_or(PeerError::There(primary), |nid| PeerError::Has {
                                nid: *nid,
                                primary,
                            }));
                        }
                        [nids, &fresh].concat()
                    }
                    None => peer.nids.clone(),
                };
                let whole = PeerByHand { nids, multi_rail: peer.multi_rail };
                let others = self.aliases.all_by_hand().map(|(nids, _)| nids);
                whole.check(&own, others.filter(|nids| nids.first() != Some(&primary)))?;
                self.aliases.set_by_hand(&whole.nids, whole.multi_rail);
                self.rails_changed();
            }
            PeerAsk::Del { primary, nids } => {
                let all = self.aliases.nids(*primary).unwrap_or(std::slice::from_ref(primary));
                if let Some(leads) = all.first().filter(|n| *n != primary) {
                    return Err(PeerError::Primary { nid: *primary, primary: *leads });
                }
                // What shards have heard of others may be other for a moment: only the user's word is the same everywhere.
                if self.aliases.is_by_hand(*primary)
                    && let Some(nid) = nids.iter().find(|n| !all.contains(n))
                {
                    return Err(PeerError::NotOf { nid: *nid, primary: *primary });
                }
                let gone: Vec<Nid> = match nids.is_empty() || nids.contains(primary) {
                    true => all.to_vec(),
                    false => nids.clone(),
                };
                self.aliases.end_by_hand(*primary, nids);
                self.kept.forget(|_, nid| gone.contains(&nid));
                self.rails_changed();
                for nid in gone {
                    self.ask_anew(cx, lnds, nid);
                    self.let_go(cx, lnds, nid);
                }
            }
        }
        Ok(())
    }

    /// Asks a NID again who it is, if this shard is connected with it.
    fn ask_anew<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], nid: Nid) {
        let now = cx.now;
        for lnd in lnds {
            if let Some(key) = lnd.find(ProcessId::lustre(nid))
                && let Some(p) = self.peers.get(key)
                && p.discovery.stands() == Standing::Known
                && !p.discovery.is_quiet(now)
                && lnd.connected(p.entry)
                && cx.cfg.discovery
                && !cx.down
            {
                self.step(cx, lnd, key, Step::Ask);
            }
        }
    }

    /// Forgets a NID that this shard is not connected with, under whatever process id, as soon as nothing is under way there.
    fn let_go<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], nid: Nid) {
        let of = |p: &Peer| (p.id.nid == nid).then_some((p.ni, p.entry));
        let all: Vec<(NiId, Key)> = self.peers.values().filter_map(of).collect();
        for (ni, entry) in all {
            if let Some(lnd) = lnds.get_mut(ni.index()).filter(|l| !l.connected(entry)) {
                lnd.let_go(self, cx, entry);
            }
        }
    }

    /// NIDs of the peers by hand, those of a peer one after the other.
    pub(crate) fn by_hand(&self) -> impl Iterator<Item = ByHandView> + '_ {
        self.aliases.all_by_hand().flat_map(|(nids, multi_rail)| {
            let primary = nids.first().copied().unwrap_or(Nid::ANY);
            nids.iter().map(move |nid| ByHandView { primary, nid: *nid, multi_rail })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use crate::lnet::aliases::Aliases;
    use crate::wire::Nid;

    fn nid(n: u32) -> Nid {
        Nid::tcp((0x0a00_0000 + n).to_be_bytes().into(), 0)
    }

    fn ip(n: u32) -> IpAddr {
        (0x0a00_0000 + n).to_be_bytes().into()
    }

    /// Whatever strangers tell, it displaces nothing that the user has said, and the user's peers take nothing of their room.
    #[test]
    fn the_user_s_word_pays_no_share_and_is_not_displaced() {
        let (mut with, mut without) = (Aliases::default(), Aliases::default());
        with.set_by_hand(&[nid(1), nid(2), nid(3)], true);
        for n in 0..3000 {
            let at = 1000 + n * 32;
            let said: Vec<Nid> = (at..at + 32).map(nid).collect();
            // Half of it is told by one host.
            let host = if n % 2 == 0 { ip(9) } else { ip(at) };
            assert_eq!(with.learn(ip(at), host, &said), without.learn(ip(at), host, &said), "{n}");
        }
        assert_eq!((with.len(), with.primary(nid(3))), (without.len() + 3, nid(1)));
        with.end_by_hand(nid(1), &[]);
        assert_eq!((with.len(), with.primary(nid(3))), (without.len(), nid(3)));
    }

    /// Neither a stranger's claim, nor the node's own word about itself, nor an awaited one counts while the user's is there.
    #[test]
    fn nobody_contests_the_user_s_word() {
        let (a, b, liar) = (nid(1), nid(2), nid(9));
        let mut t = Aliases::default();
        t.learn(ip(9), ip(9), &[liar, a, nid(7)]);
        t.set_by_hand(&[a, b], true);
        assert_eq!((t.primary(a), t.primary(b), t.primary(nid(7))), (a, a, liar));
        for said in [[liar, b], [b, liar], [a, liar]] {
            t.learn(ip(9), ip(9), &said);
            t.contest(b, liar, &said);
            t.await_word(b);
            assert!(
                t.same(a, b) && t.acts_for(b, a) && !t.same(b, liar) && t.claim_on(b).is_none(),
                "{said:?}"
            );
        }
        assert!(!t.is_told(a) && t.learn(ip(2), ip(2), &[b]) && t.is_told(a), "it has been heard");
        assert!(t.same(a, b) && !t.learn(ip(1), ip(1), &[a, b, nid(8)]));
        assert_eq!(t.primary(nid(8)), nid(8));
        // Its own word counts once the user's is gone.
        t.end_by_hand(a, &[]);
        assert!(!t.same(a, b) && t.learn(ip(1), ip(1), &[a, nid(8)]));
    }
}
