//! NIDs of Multi-Rail peers: which of them are one node, and its primary one (docs/protocol/lnet.md §4, §6).
//!
//! Peers tell it of themselves, in the ping info that discovery asks for and that they push; so the table is bounded. A
//! host may hold as many NIDs as are free, whatever names it gives itself, as with the budget of a shard (`transport/src/lnd/budget.rs`): whoever tells
//! of all it can displaces its own. Where an honest newcomer finds the table full, the oldest entries go: nodes that have
//! left are never told of again. What is lost comes back with the next discovery.
//!
//! Kernels give a NID to whoever claims it last. Here a peer that is there keeps its own: another node's word about it counts only
//! once it says the same of itself ([`Aliases::contest`]). A peer that comes after the claim is asked; until it answers it may act for
//! the node that claims it, and nobody for it ([`Aliases::await_word`]).
//!
//! Peers that a user has configured by hand stand first: no node's word changes them, or takes their NIDs, and they pay no share
//! (docs/protocol/upper.md §2). They are bounded by themselves (`transport/src/lnet/by_hand.rs`).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::hash::PeerMap;
use crate::lnd::{NIDS_OF_PEER, PeerByHand, trim};
use crate::wire::Nid;

/// NIDs of one peer that are kept.
pub(crate) const OF_ONE: usize = NIDS_OF_PEER;
/// NIDs of all peers that are kept: about 2 MiB.
const OF_ALL: usize = 16_384;
/// NIDs that are contested, and claimants, of which is kept what they say: at most 1 MiB.
const CONTESTED: usize = 1024;

/// NIDs as they are kept, the primary one first.
pub(crate) type Nids = SmallVec<[Nid; 4]>;

/// NIDs that the node of one of them, at that NID's own address, says it has.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(super) speaker: Nid,
    pub(super) host: IpAddr,
    pub(super) nids: Nids,
    /// Those of them that are down, a bit each.
    pub(super) down: u32,
}

/// Effect of a node's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learnt {
    /// Nothing new.
    Nothing,
    /// Its word holds again, and is what it was.
    Again,
    /// Something about who is who.
    Names,
}

/// The one who has told of an entry.
#[derive(Clone, Copy, Debug)]
enum Teller {
    /// That of its own node.
    Node {
        /// The address of the NID that was asked, or that pushed.
        by: IpAddr,
        /// The host that pays.
        host: IpAddr,
        /// That NID of its own by which it has been heard, while it is connected there: NIDs may share an address.
        heard: Option<Nid>,
    },
    /// The user's.
    Hand {
        /// It is used as a peer that has several NIDs.
        multi_rail: bool,
        /// The same as of a node.
        heard: Option<Nid>,
    },
}

#[derive(Debug)]
struct Told {
    nids: Nids,
    teller: Teller,
}

impl Told {
    fn by(&self) -> Option<IpAddr> {
        match self.teller {
            Teller::Node { by, .. } => Some(by),
            Teller::Hand { .. } => None,
        }
    }

    fn is_by_hand(&self) -> bool {
        matches!(self.teller, Teller::Hand { .. })
    }

    fn heard(&self) -> Option<Nid> {
        let (Teller::Node { heard, .. } | Teller::Hand { heard, .. }) = self.teller;
        heard
    }

    fn heard_mut(&mut self) -> &mut Option<Nid> {
        let (Teller::Node { heard, .. } | Teller::Hand { heard, .. }) = &mut self.teller;
        heard
    }
}

/// NIDs that one host has told.
#[derive(Debug, Default)]
struct Share {
    nids: usize,
    /// Entries by age; some of them may be gone.
    told: VecDeque<u64>,
    entries: usize,
}

/// The word that is needed for a NID to be another node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Word {
    /// The word of the node that claims it is enough.
    #[default]
    Any,
    /// Its own node's, which is there and has been asked: until then it may act for the node that claims it, and nobody for it.
    Awaited,
    /// Its own node's: it is nobody's without.
    Needed,
}

/// A NID that is contested, or that of a claimant.
#[derive(Debug, Default)]
struct Contest {
    word: Word,
    /// NIDs that its node says it has.
    said: Nids,
}

/// Peers with more than one NID.
#[derive(Debug, Default)]
pub(crate) struct Aliases {
    /// This node's: entries for `0@lo` mean any of them.
    own: SmallVec<[Nid; 4]>,
    by_nid: PeerMap<Nid, u64>,
    told: BTreeMap<u64, Told>,
    shares: HashMap<IpAddr, Share>,
    next: u64,
    /// Entries by hand so far: they are numbered from the end downwards.
    hands: u64,
    /// NIDs by hand.
    by_hand: usize,
    contests: PeerMap<Nid, Contest>,
    /// Their NIDs by age.
    contests_by_age: VecDeque<Nid>,
}

impl Aliases {
    /// Those that a configuration begins with.
    pub(super) fn first(own: impl Iterator<Item = Nid>, peers: &[PeerByHand]) -> Aliases {
        let mut all = Aliases::default();
        all.set_own(own);
        peers.iter().for_each(|p| all.set_by_hand(&p.nids, p.multi_rail));
        all
    }

    /// The primary NID of the peer that `nid` is one of; `nid` itself where no more is known.
    #[inline]
    pub(crate) fn primary(&self, nid: Nid) -> Nid {
        if self.by_nid.is_empty() {
            nid
        } else {
            self.nids(nid).and_then(|n| n.first()).copied().unwrap_or(nid)
        }
    }

    /// Whether both are NIDs of one peer, by the word of those that were asked.
    #[inline]
    pub(crate) fn same(&self, a: Nid, b: Nid) -> bool {
        a == b || (!self.by_nid.is_empty() && self.primary(a) == self.primary(b))
    }

    /// Whether both are NIDs of one node, neither of which has yet to answer whether it is.
    #[inline]
    pub(crate) fn are_one(&self, a: Nid, b: Nid) -> bool {
        a == b || (self.acts_for(a, b) && !self.is_awaited(b))
    }

    /// Whether a message from `source` may be taken for one from `name`.
    #[inline]
    pub(crate) fn acts_for(&self, name: Nid, source: Nid) -> bool {
        name == source
            || (!self.by_nid.is_empty() && self.same(name, source) && !self.is_awaited(name))
            || (name == Nid::LO && self.own.contains(&source))
    }

    /// This node has these NIDs from now on.
    pub(super) fn set_own(&mut self, own: impl Iterator<Item = Nid>) {
        self.own = own.collect();
    }

    fn entry(&self, nid: Nid) -> Option<&Told> {
        self.told.get(self.by_nid.get(&nid)?)
    }

    /// Whether a peer by hand has this NID.
    pub(super) fn is_by_hand(&self, nid: Nid) -> bool {
        self.by_hand > 0 && self.entry(nid).is_some_and(Told::is_by_hand)
    }

    /// Peers by hand in the order in which they came: their NIDs, the primary one first, and whether they are Multi-Rail.
    pub(super) fn all_by_hand(&self) -> impl Iterator<Item = (&[Nid], bool)> + '_ {
        self.told.values().rev().map_while(|t| match t.teller {
            Teller::Hand { multi_rail, .. } => Some((&t.nids[..], multi_rail)),
            Teller::Node { .. } => None,
        })
    }

    /// Whether the peer of this NID is Multi-Rail; `None` where no more is known than the NID.
    pub(super) fn multi_rail(&self, nid: Nid) -> Option<bool> {
        Some(match self.entry(nid)?.teller {
            Teller::Node { .. } => true,
            Teller::Hand { multi_rail, .. } => multi_rail,
        })
    }

    /// Whether the node of this NID has said who it is by one of its NIDs, and is connected there still: the others need not be asked.
    pub(super) fn is_told(&self, nid: Nid) -> bool {
        self.heard_by(nid).is_some()
    }

    /// The NID by which the node of this one has said who it is, if it is connected there still.
    pub(super) fn heard_by(&self, nid: Nid) -> Option<Nid> {
        let told = self.entry(nid)?;
        told.heard().filter(|by| told.nids.contains(by))
    }

    /// The host that told of this NID, and whether its node is connected still; `None` of a NID that no node has told of, or that is by
    /// hand.
    pub(super) fn told_by(&self, nid: Nid) -> Option<(IpAddr, bool)> {
        match self.entry(nid)?.teller {
            Teller::Node { host, heard, .. } => Some((host, heard.is_some())),
            Teller::Hand { .. } => None,
        }
    }

    /// The node of `nid` is heard by it, or by nothing any more; gives whether that is new. The first NID that it is heard by stays that.
    pub(super) fn set_heard(&mut self, nid: Nid, heard: bool) -> bool {
        let Some(told) = self.by_nid.get(&nid).and_then(|n| self.told.get_mut(n)) else { return false };
        let is_new = told.heard().is_some() != heard;
        if is_new {
            *told.heard_mut() = heard.then_some(nid);
        }
        is_new
    }

    /// The user says that one peer has these NIDs, the primary one first. A peer that goes by it
    /// is replaced; others lose those NIDs.
    pub(super) fn set_by_hand(&mut self, nids: &[Nid], multi_rail: bool) {
        let Some(primary) = nids.first() else { return };
        if self.primary(*primary) == *primary {
            self.forget(*primary);
        }
        for nid in nids {
            self.take_out(*nid);
        }
        let n = !self.hands;
        self.hands += 1;
        self.by_hand += nids.len();
        self.by_nid.extend(nids.iter().map(|nid| (*nid, n)));
        let teller = Teller::Hand { multi_rail, heard: None };
        self.told.insert(n, Told { nids: nids.iter().copied().collect(), teller });
    }

    /// The user deletes the peer that goes by this NID, or of it only `nids`.
    pub(super) fn end_by_hand(&mut self, primary: Nid, nids: &[Nid]) {
        if nids.is_empty() || nids.contains(&primary) {
            self.forget(primary);
        } else if let Some(Teller::Hand { multi_rail, .. }) = self.entry(primary).map(|t| t.teller) {
            let all = self.nids(primary).unwrap_or_default();
            let rest: Nids = all.iter().copied().filter(|n| !nids.contains(n)).collect();
            self.set_by_hand(&rest, multi_rail);
        } else {
            for nid in nids.iter().filter(|n| self.primary(**n) == primary).copied().collect::<Nids>() {
                self.take_out(nid);
            }
        }
    }

    /// Whether no peer with several NIDs is known.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_nid.is_empty()
    }

    /// All that are kept, in any order that lasts while nothing changes.
    pub(crate) fn all(&self) -> impl ExactSizeIterator<Item = Nid> + '_ {
        self.by_nid.keys().copied()
    }

    /// All NIDs of the peer that `nid` is one of, the primary one first.
    pub(crate) fn nids(&self, nid: Nid) -> Option<&[Nid]> {
        Some(&self.entry(nid)?.nids)
    }

    /// NIDs that are kept.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn len(&self) -> usize {
        self.by_nid.len()
    }

    /// The node of `speaker` at its address, on this host, says that it has these NIDs, the primary one first. Of its own
    /// address it has the last word; NIDs that another node has told of stay that one's. A peer by hand stays as it is, and is
    /// known to have been heard.
    pub(crate) fn hear(&mut self, speaker: Nid, host: IpAddr, nids: &[Nid]) -> Learnt {
        let Some(by) = speaker.ip() else { return Learnt::Nothing };
        let mut own = nids.iter().filter(|n| n.ip() == Some(by) && self.is_by_hand(**n)).copied();
        if let Some(first) = own.next() {
            let own = if own.any(|n| n == speaker) { speaker } else { first };
            return if self.set_heard(own, true) { Learnt::Again } else { Learnt::Nothing };
        }
        let mut heard = false;
        // Their word counts once the peer by hand is deleted.
        let by_hand = self.by_hand > 0 && nids.iter().take(OF_ONE).any(|n| self.is_by_hand(*n));
        for nid in nids.iter().take(OF_ONE).filter(|n| n.ip() == Some(by)) {
            if by_hand || self.contests.contains_key(nid) || self.claim_on(*nid).is_some() {
                let said: Nids = nids.iter().copied().take(OF_ONE).collect();
                let contest = self.contest_of(*nid);
                heard |= contest.word == Word::Awaited || contest.said != said;
                contest.said = said;
                if contest.word == Word::Awaited {
                    contest.word = Word::Needed;
                }
            }
        }
        match self.store(speaker, host, nids) {
            Learnt::Nothing | Learnt::Again if heard => Learnt::Names,
            learnt => learnt,
        }
    }

    /// Whether a word says anything new.
    #[cfg(test)]
    pub(crate) fn learn(&mut self, by: IpAddr, host: IpAddr, nids: &[Nid]) -> bool {
        let speaker = nids.iter().copied().find(|n| n.ip() == Some(by));
        speaker.is_some_and(|n| self.hear(n, host, nids) != Learnt::Nothing)
    }

    fn store(&mut self, speaker: Nid, host: IpAddr, nids: &[Nid]) -> Learnt {
        let (Some(primary), Some(by)) = (nids.first().copied(), speaker.ip()) else { return Learnt::Nothing };
        let mut own = Nids::new();
        for nid in nids.iter().take(OF_ONE) {
            let other = self.entry(*nid);
            if other.is_some_and(Told::is_by_hand) {
                continue;
            }
            let free = other.is_none_or(|o| o.by() == Some(by) || o.nids.first() == Some(&primary));
            if (free && self.may_have(by, *nid) || nid.ip() == Some(by)) && !own.contains(nid) {
                own.push(*nid);
            }
        }
        // Nobody is known by the name of a node that has not been heard.
        let lent = primary.ip() != Some(by) && self.word(primary) == Word::Awaited;
        if own.first() != Some(&primary) || lent {
            return Learnt::Nothing;
        }
        if let Some(known) = self.entry(primary) {
            if known.nids == own {
                return if self.set_heard(speaker, true) { Learnt::Again } else { Learnt::Nothing };
            }
            let speaks = known.by() == Some(by) || known.nids.iter().any(|n| n.ip() == Some(by));
            if !speaks {
                return Learnt::Nothing;
            }
        }
        let mut changed = false;
        for nid in &own {
            changed |= if self.primary(*nid) == primary { self.forget(*nid) } else { self.take_out(*nid) };
        }
        if own.len() < 2 || !self.make_room(host, own.len()) {
            return if changed { Learnt::Names } else { Learnt::Nothing };
        }
        let n = self.next;
        self.next += 1;
        let share = self.shares.entry(host).or_default();
        share.nids += own.len();
        share.entries += 1;
        share.told.push_back(n);
        self.by_nid.extend(own.iter().map(|nid| (*nid, n)));
        self.told.insert(n, Told { nids: own, teller: Teller::Node { by, host, heard: Some(speaker) } });
        Learnt::Names
    }

    /// Whether the node of `nid` has said that it is one with the node at `by`.
    pub(crate) fn agrees(&self, nid: Nid, by: IpAddr) -> bool {
        self.contests.get(&nid).is_some_and(|c| c.said.iter().any(|n| n.ip() == Some(by)))
    }

    fn word(&self, nid: Nid) -> Word {
        self.contests.get(&nid).map_or(Word::Any, |c| c.word)
    }

    fn may_have(&self, by: IpAddr, nid: Nid) -> bool {
        self.word(nid) != Word::Needed || self.agrees(nid, by)
    }

    /// Another node's claim that has this NID, and of which the NID's own node has not said the same.
    pub(crate) fn claim_on(&self, nid: Nid) -> Option<Claim> {
        let told = self.entry(nid)?;
        let by = told.by()?;
        if nid.ip() == Some(by) || self.agrees(nid, by) {
            return None;
        }
        let speaker = told.nids.iter().copied().find(|n| n.ip() == Some(by))?;
        Some(Claim { speaker, host: by, nids: told.nids.clone(), down: 0 })
    }

    /// The node of a NID that another claims is there, and is asked: nobody acts for it before it answers. Gives whether that is new.
    pub(crate) fn await_word(&mut self, nid: Nid) -> bool {
        let contest = self.contest_of(nid);
        if contest.word != Word::Any {
            return false;
        }
        contest.word = Word::Awaited;
        true
    }

    /// Whether the NID's node has been asked whether it is the one that claims it.
    pub(crate) fn is_awaited(&self, nid: Nid) -> bool {
        self.word(nid) == Word::Awaited && !self.is_by_hand(nid)
    }

    /// The node of `speaker` says that it has `nids`, and `nid` among them, which is a peer's that is there: `nid` is its alone from
    /// now on, until it says itself that both are one. Gives whether that is new.
    pub(crate) fn contest(&mut self, nid: Nid, speaker: Nid, nids: &[Nid]) -> bool {
        let said: Nids = nids.iter().copied().take(OF_ONE).collect();
        let before = std::mem::replace(&mut self.contest_of(speaker).said, said.clone());
        let word = std::mem::replace(&mut self.contest_of(nid).word, Word::Needed);
        if word == Word::Needed && before == said {
            return false;
        }
        // Told before it was contested, or by way of a shard that did not know.
        if self.claim_on(nid).is_some() {
            self.take_out(nid);
        }
        true
    }

    /// The NID is that peer's no longer, whose other NIDs stay unless it was the one that they go by; gives whether it was anybody's.
    fn take_out(&mut self, nid: Nid) -> bool {
        let Some(told) = self.entry(nid) else { return false };
        let Teller::Node { by, host, heard } = told.teller else { return false };
        let rest: Nids = told.nids.iter().copied().filter(|n| *n != nid).collect();
        let leads = told.nids.first() == Some(&nid) || nid.ip() == Some(by);
        self.forget(nid);
        let speaker = rest.iter().find(|n| n.ip() == Some(by)).copied();
        if let Some(speaker) = speaker.filter(|_| !leads) {
            self.store(speaker, host, &rest);
        }
        let rest = rest.first().and_then(|n| self.by_nid.get(n)).and_then(|n| self.told.get_mut(n));
        if let Some(told) = rest {
            *told.heard_mut() = heard.filter(|h| nid != *h);
        }
        true
    }

    fn contest_of(&mut self, nid: Nid) -> &mut Contest {
        if !self.contests.contains_key(&nid) {
            while self.contests.len() >= CONTESTED
                && let Some(oldest) = self.contests_by_age.pop_front()
            {
                self.contests.remove(&oldest);
            }
            self.contests_by_age.push_back(nid);
        }
        self.contests.entry(nid).or_default()
    }

    /// Nothing is known any more of the peer that `nid` is one of; gives whether anything was.
    fn forget(&mut self, nid: Nid) -> bool {
        self.by_nid.get(&nid).copied().is_some_and(|n| self.remove(n))
    }

    fn remove(&mut self, n: u64) -> bool {
        let Some(told) = self.told.remove(&n) else { return false };
        for nid in &told.nids {
            self.by_nid.remove(nid);
        }
        let Teller::Node { host, .. } = told.teller else {
            self.by_hand -= told.nids.len().min(self.by_hand);
            return true;
        };
        if let Some(share) = self.shares.get_mut(&host) {
            share.nids -= told.nids.len().min(share.nids);
            share.entries = share.entries.saturating_sub(1);
            // Names of entries that are gone do not pile up.
            while share.told.front().is_some_and(|n| !self.told.contains_key(n)) {
                share.told.pop_front();
            }
            if share.told.len() > 2 * share.entries + 8 {
                share.told.retain(|n| self.told.contains_key(n));
            }
            trim(&mut share.told);
            if share.entries == 0 {
                self.shares.remove(&host);
            }
        }
        true
    }

    /// Makes room for `n` more NIDs of a host.
    fn make_room(&mut self, host: IpAddr, n: usize) -> bool {
        loop {
            let free = (OF_ALL + self.by_hand).saturating_sub(self.by_nid.len());
            let own = self.shares.get(&host).map_or(0, |s| s.nids);
            if own + n <= free {
                return true;
            }
            let oldest = match self.shares.get(&host).and_then(|s| s.told.front().copied()) {
                Some(own) => Some(own),
                None => self.told.first_key_value().filter(|(_, t)| !t.is_by_hand()).map(|(n, _)| *n),
            };
            if !oldest.is_some_and(|n| self.remove(n)) {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nid(a: u8, b: u8) -> Nid {
        Nid::tcp([10, 0, a, b].into(), 0)
    }

    fn ip(a: u8, b: u8) -> IpAddr {
        [10, 0, a, b].into()
    }

    #[test]
    fn a_peer_s_nids_lead_to_its_primary_one() {
        let mut t = Aliases::default();
        assert_eq!((t.primary(nid(0, 2)), t.same(nid(0, 1), nid(0, 2))), (nid(0, 2), false));
        assert!(t.learn(ip(0, 1), ip(0, 1), &[nid(0, 1), nid(0, 2), nid(0, 2)]));
        assert!(!t.learn(ip(0, 1), ip(0, 1), &[nid(0, 1), nid(0, 2)]), "nothing new");
        assert_eq!((t.primary(nid(0, 2)), t.same(nid(0, 1), nid(0, 2)), t.len()), (nid(0, 1), true, 2));
        // One more, told over the other rail; then one less.
        assert!(t.learn(ip(0, 2), ip(0, 2), &[nid(0, 1), nid(0, 2), nid(0, 3)]));
        assert_eq!(t.nids(nid(0, 3)), Some(&[nid(0, 1), nid(0, 2), nid(0, 3)][..]));
        assert!(t.learn(ip(0, 1), ip(0, 1), &[nid(0, 1), nid(0, 2)]));
        assert_eq!((t.primary(nid(0, 3)), t.len()), (nid(0, 3), 2));
        // A node with one NID has no other name.
        assert!(t.learn(ip(0, 1), ip(0, 1), &[nid(0, 1)]));
        assert_eq!((t.len(), t.shares.len(), t.told.len()), (0, 0, 0));
    }

    #[test]
    fn nobody_takes_another_s_nids() {
        let mut t = Aliases::default();
        t.learn(ip(0, 1), ip(0, 1), &[nid(0, 1), nid(0, 2)]);
        // Neither as names of its own, nor in the other's name.
        assert!(!t.learn(ip(6, 6), ip(6, 6), &[nid(6, 6), nid(0, 2)]));
        assert!(!t.learn(ip(6, 6), ip(6, 6), &[nid(0, 1), nid(6, 6)]));
        assert_eq!((t.primary(nid(0, 2)), t.primary(nid(6, 6))), (nid(0, 1), nid(6, 6)));
        // A claim made before the node itself came does not last.
        t.learn(ip(6, 6), ip(6, 6), &[nid(6, 6), nid(0, 9)]);
        assert_eq!(t.primary(nid(0, 9)), nid(6, 6));
        assert!(t.learn(ip(0, 9), ip(0, 9), &[nid(0, 9), nid(0, 8)]));
        assert_eq!((t.primary(nid(0, 9)), t.primary(nid(6, 6))), (nid(0, 9), nid(6, 6)));
    }

    /// A NID of a peer that was there first is nobody's without its word, as an alias or as the primary; both rails of one node, each of
    /// which was there before the other spoke, are one when both have said so.
    #[test]
    fn a_peer_that_is_there_keeps_its_name_until_it_says_otherwise() {
        let (a, b, liar) = (nid(0, 1), nid(0, 2), nid(6, 6));
        // The order in which shards hear of it does not matter.
        for late in [false, true] {
            let mut t = Aliases::default();
            for claim in [[liar, a], [a, liar]] {
                if late {
                    t.learn(ip(6, 6), ip(6, 6), &claim);
                }
                t.contest(a, liar, &claim);
                t.learn(ip(6, 6), ip(6, 6), &claim);
                assert_eq!((t.primary(a), t.primary(liar), t.same(a, liar)), (a, liar, false), "{late}");
            }
            assert!(!t.contest(a, liar, &[a, liar]), "nothing new");
            // The peer's own words do not help the liar.
            t.learn(ip(0, 1), ip(0, 1), &[a, b]);
            t.learn(ip(6, 6), ip(6, 6), &[liar, a]);
            assert_eq!((t.primary(a), t.primary(b), t.primary(liar)), (a, a, liar));

            let mut t = Aliases::default();
            if late {
                t.learn(ip(0, 1), ip(0, 1), &[a, b]);
            }
            t.contest(b, a, &[a, b]);
            t.learn(ip(0, 1), ip(0, 1), &[a, b]);
            assert!(!t.same(a, b));
            assert!(!t.agrees(b, ip(0, 1)) && t.agrees(a, ip(0, 2)));
            t.learn(ip(0, 2), ip(0, 2), &[a, b]);
            assert_eq!((t.primary(b), t.same(a, b)), (a, true));
            // And one of them may go.
            t.learn(ip(0, 2), ip(0, 2), &[b]);
            assert!(!t.same(a, b));
        }
        let mut t = Aliases::default();
        for n in 0..5000u32 {
            let other = Nid::tcp((0x0b00_0000 + n).to_be_bytes().into(), 0);
            t.contest(a, other, &[other, a]);
        }
        assert_eq!((t.contests.len(), t.contests_by_age.len()), (CONTESTED, CONTESTED));
    }

    /// A node that comes after another has claimed its NID: nobody acts for it from then on, it may act for the claimant until it has
    /// answered, and its answer decides; the claimant keeps what else it has.
    #[test]
    fn a_node_that_comes_later_is_nobody_s_before_it_has_answered() {
        let (a, b, liar, more) = (nid(0, 1), nid(0, 2), nid(6, 6), nid(6, 7));
        let mut t = Aliases::default();
        t.learn(ip(6, 6), ip(6, 6), &[liar, a, more]);
        assert!(t.acts_for(a, liar) && t.acts_for(liar, a), "it is not there");
        assert_eq!(t.claim_on(a).map(|c| c.speaker), Some(liar));
        assert!(t.await_word(a) && !t.await_word(a));
        assert!(!t.acts_for(a, liar) && !t.acts_for(a, more) && t.acts_for(liar, a));
        // Not under its name either.
        assert!(!t.learn(ip(6, 6), ip(6, 6), &[a, liar]));
        assert_eq!(t.primary(liar), liar);
        // It is alone, or another's.
        for said in [&[a][..], &[a, b]] {
            t.learn(ip(0, 1), ip(0, 1), said);
            t.learn(ip(6, 6), ip(6, 6), &[liar, more, a]);
            assert_eq!((t.primary(a), t.primary(more), t.same(a, liar)), (a, liar, false), "{said:?}");
            assert!(t.claim_on(a).is_none());
        }
        // Or it is the claimant's, and stays it when it comes again.
        let mut t = Aliases::default();
        t.learn(ip(0, 1), ip(0, 1), &[a, b]);
        assert!(t.are_one(a, b) && t.are_one(b, a));
        assert!(t.await_word(b) && t.acts_for(a, b) && !t.acts_for(b, a));
        assert!(!t.are_one(a, b) && !t.are_one(b, a) && t.are_one(b, b));
        assert!(t.learn(ip(0, 2), ip(0, 2), &[a, b]), "the other shards are to hear of it");
        assert!(t.acts_for(a, b) && t.acts_for(b, a) && t.are_one(a, b) && t.claim_on(b).is_none());
        // The same where it says so before it was asked.
        let mut t = Aliases::default();
        t.learn(ip(0, 1), ip(0, 1), &[a, b]);
        t.learn(ip(0, 2), ip(0, 2), &[a, b]);
        assert!(t.claim_on(b).is_none());
    }

    /// One address that tells of all it can ends at half, newcomers find room, and what is kept is counted rightly.
    #[test]
    fn the_table_is_bounded_and_shared() {
        let mut t = Aliases::default();
        let many = |n: u32| -> Vec<Nid> {
            let at = |i: u32| Nid::tcp((0x0b00_0000 + n * 64 + i).to_be_bytes().into(), 0);
            (0..40).map(at).collect()
        };
        t.learn(ip(1, 1), ip(1, 1), &[nid(1, 1), nid(1, 2)]);
        for n in 0..2000 {
            // Under a new name each time.
            t.learn(many(n)[0].ip().unwrap(), ip(6, 6), &many(n));
        }
        let own = t.len() - 2;
        assert!((OF_ALL / 2 - OF_ONE..=OF_ALL / 2).contains(&own), "{own}");
        assert_eq!(t.primary(nid(1, 2)), nid(1, 1), "others keep theirs");
        for n in 0..2000u32 {
            let host = IpAddr::from([12, 0, (n >> 8) as u8, n as u8]);
            t.learn(host, host, &many(10_000 + n));
            let sum = |f: fn(&Share) -> usize| t.shares.values().map(f).sum::<usize>();
            if n % 100 == 0 {
                let nids = t.told.values().map(|t| t.nids.len()).sum::<usize>();
                assert_eq!((sum(|s| s.nids), sum(|s| s.entries), nids), (t.len(), t.told.len(), t.len()));
                assert!(sum(|s| s.told.len()) <= 3 * t.told.len() + 8 * t.shares.len());
            }
        }
        assert!(t.len() <= OF_ALL);
        assert!(t.learn(ip(7, 7), ip(7, 7), &[nid(7, 7), nid(7, 8)]), "a newcomer finds room");
        assert_eq!(t.primary(nid(7, 8)), nid(7, 7));
    }
}
