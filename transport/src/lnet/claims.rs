//! Claims of NIDs: what a peer says of itself, where it names NIDs of nodes that are there, or that come later
//! (docs/protocol/lnet.md §6.4; the names: [`super::aliases`]).

use super::Lnet;
use super::aliases::{Claim, Learnt, Nids, OF_ONE};
use super::discovery::{News, PUSHERS, PUSHES, Standing, Step, Subject};
use super::remote::Body;
use crate::lnd::{Arrived, Cx, Lnd};
use crate::stream::slab::Key;
use crate::wire::ping::NiStatus;
use crate::wire::{Nid, PingInfo, ProcessId, ping};

impl Lnet {
    /// A peer has connected by its NID. Where another node has claimed that, nobody else acts for it any more, and it is asked whether it
    /// is that node.
    pub(super) fn came(&mut self, cx: &mut Cx, peer: Key) {
        let Some(p) = self.peers.get(peer) else { return };
        let nid = p.id.nid;
        let Some(claim) = self.aliases.claim_on(nid).filter(|_| cx.budget.ip(p.host) == nid.ip()) else {
            return;
        };
        if claim.nids.first() == Some(&nid) {
            // The claimant goes by its name.
            self.aliases.contest(nid, claim.speaker, &claim.nids);
            self.rails_changed();
            self.post_all(cx, || Body::Contested(nid, Box::new(claim.clone())));
        } else if self.aliases.await_word(nid) {
            self.rails_changed();
            self.post_all(cx, || Body::Awaited(nid));
        }
        self.discovery.news.push_back(News::Came(peer));
    }

    /// Asks a peer that has come by a NID that another node claims: one that is being told of us when that has ended. One that cannot be
    /// asked is for itself.
    pub(super) fn ask_whose<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], peer: Key) {
        let Some(lnd) = self.lnd_of(lnds, peer) else { return };
        let Some(p) = self.peers.get(peer) else { return };
        let may = cx.cfg.discovery && !cx.down && !p.discovery.is_quiet(cx.now) && !cx.budget.over(p.host);
        match p.discovery.stands() {
            Standing::Asking | Standing::Telling | Standing::Stale => {}
            Standing::Unknown | Standing::Known if may => self.step(cx, lnd, peer, Step::Ask),
            _ => self.is_alone(cx, peer),
        }
    }

    /// A peer has been asked whether it is the node that claims its NID, and does not say so.
    pub(super) fn is_alone(&mut self, cx: &Cx, peer: Key) {
        let Some(p) = self.peers.get(peer) else { return };
        let nid = p.id.nid;
        if cx.budget.ip(p.host) == nid.ip() {
            self.is_for_itself(nid);
        }
    }

    /// The node of a NID is no other's that claims it.
    fn is_for_itself(&mut self, nid: Nid) {
        if let Some(host) = nid.ip() {
            let claim = Claim { speaker: nid, host, nids: Nids::from_slice(&[nid]), down: 0 };
            self.discovery.news.push_back(News::Claim(Box::new(claim), true));
        }
    }

    /// Takes in what a node says of itself; gives whether it is to be told of us.
    pub(super) fn take_info(&mut self, cx: &mut Cx, subject: Subject, info: &PingInfo) -> bool {
        let Some(id) = self.id_of(subject) else { return false };
        let nid = id.nid;
        // At which address it speaks: of a node behind a router the gateway's word is taken.
        let host = match subject.far {
            None => self.peers.get(subject.via).and_then(|p| cx.budget.ip(p.host)),
            Some(_) => nid.ip(),
        };
        let others = |n: &Nid| !self.is_own(*n) && (subject.far.is_none() || !self.is_near(*n));
        let nids: Nids = info.nids().filter(others).take(OF_ONE).collect();
        let down = down_of(info, &nids);
        // A node that does not know itself by the name that it answers to, or speaks from another address than that name's, is
        // taken for that name alone.
        let rails = info.features & ping::FEAT_MULTI_RAIL != 0 && nids.contains(&nid);
        let told = self.aliases.heard_by(nid).is_some_and(|h| h != nid && nids.contains(&h));
        let agrees = rails && told && self.aliases.claim_on(nid).is_some();
        if rails && let Some(host) = host.filter(|h| nid.ip() == Some(*h)) {
            let claim = Claim { speaker: nid, host, nids, down };
            self.discovery.news.push_back(News::Claim(Box::new(claim), true));
        } else if self.aliases.is_awaited(nid) {
            match subject.far {
                None => self.is_alone(cx, subject.via),
                Some(_) => self.is_for_itself(nid),
            }
        }
        // Another NID of a node that is told by the one that it was heard by.
        if agrees {
            return false;
        }
        let ours = self.discovery.info;
        let Some(known) = self.known(subject) else { return false };
        let more = known.more();
        more.features = info.features;
        let wanted = info.features & cx.cfg.features() & PUSHERS == PUSHERS;
        wanted && more.told != ours && more.untold < PUSHES && !cx.down
    }

    /// Takes in what a node says in answer to a recovery ping. One whose word does not hold is asked for it with the next message;
    /// which of its NIs are up it may say.
    pub(super) fn patient_says<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], nid: Nid, bytes: &[u8]) {
        let (Ok(info), Some(host)) = (PingInfo::parse(bytes), nid.ip()) else { return };
        let nids: Nids = info.nids().filter(|n| !self.is_own(*n)).take(OF_ONE).collect();
        if info.features & ping::FEAT_MULTI_RAIL == 0 || !nids.contains(&nid) {
            return;
        }
        let claim = Claim { speaker: nid, host, down: down_of(&info, &nids), nids };
        if cx.cfg.discovery && self.aliases.is_told(nid) {
            self.claimed(cx, lnds, &claim, true);
        } else if self.statuses(cx, lnds, &claim) {
            self.post_all(cx, || Body::Statuses(Box::new(claim.clone())));
        }
    }

    /// Takes in which of its NIs a node says are up, of those that are known for its own; gives whether anything is new.
    pub(super) fn statuses<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], claim: &Claim) -> bool {
        let Claim { speaker, nids, down, .. } = claim;
        // Whether others are up is not its to say.
        let other = |n: &Nid| !self.aliases.same(*speaker, *n);
        let theirs = nids.iter().enumerate().filter(|n| other(n.1)).fold(0, |m, n| m | 1u32 << n.0);
        self.aliases.nids(*speaker).is_some() && self.peer_says(cx, lnds, nids, down & !theirs)
    }

    /// Takes in which NIDs are one node's. Those of peers that are there, and have not said so themselves, stay apart, and
    /// are asked.
    pub(super) fn claimed<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], claim: &Claim, own: bool) {
        let Claim { speaker, host, nids, .. } = claim;
        for nid in nids.iter().filter(|n| *n != speaker) {
            if self.aliases.same(*nid, *speaker)
                || self.aliases.agrees(*nid, *host)
                || self.aliases.is_by_hand(*nid)
            {
                continue;
            }
            let Some((ni, peer)) = self.there(cx, lnds, *nid) else {
                self.claimed_far(cx, lnds, *nid, claim);
                continue;
            };
            if !self.aliases.contest(*nid, *speaker, nids) {
                continue;
            }
            self.rails_changed();
            self.post_all(cx, || Body::Contested(*nid, Box::new(claim.clone())));
            if let Some(lnd) = lnds.get_mut(ni)
                && self.peers.get(peer).is_some_and(|p| p.discovery.stands() == Standing::Unknown)
            {
                self.ask_claimed(cx, lnd, peer.into());
            }
        }
        let learnt = self.aliases.hear(*speaker, *host, nids);
        let told = self.statuses(cx, lnds, claim);
        if learnt == Learnt::Names {
            self.rails_changed();
        }
        if (learnt != Learnt::Nothing || told) && own {
            self.post_all(cx, || Body::Aliases(Box::new(claim.clone())));
        }
    }

    /// A node claims the NID of one behind a router, which is no peer. One that has said who it is keeps its NID until it says otherwise;
    /// of one that is known by use alone the claim stands until that has answered, and it is asked once.
    fn claimed_far<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], nid: Nid, claim: &Claim) {
        let Some(far) = self.fars.find(nid) else { return };
        let Some(known) = self.fars.get(far).map(|f| &f.discovery) else { return };
        let (spoke, asks) = (known.has_spoken(), known.stands() == Standing::Unknown);
        if spoke {
            if !self.aliases.contest(nid, claim.speaker, &claim.nids) {
                return;
            }
            self.post_all(cx, || Body::Contested(nid, Box::new(claim.clone())));
        } else if self.aliases.await_word(nid) {
            self.post_all(cx, || Body::Awaited(nid));
        } else {
            return;
        }
        self.rails_changed();
        if asks
            && let Some(subject) = self.far_again(cx, lnds, far)
            && let Some(lnd) = self.lnd_of(lnds, subject.via)
        {
            self.ask_claimed(cx, lnd, subject);
        }
    }

    /// Asks the node of a NID that another claims who it is, unless it has just said what makes no sense.
    fn ask_claimed<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, subject: Subject) {
        let now = cx.now;
        if cx.cfg.discovery && !cx.down && self.known(subject).is_some_and(|k| !k.is_quiet(now)) {
            self.step(cx, lnd, subject, Step::Ask);
        }
    }

    /// A node behind a gateway is used by a NID that another node claims, and has not said whether both are one: nobody acts for it any
    /// more. Gives whether that is new.
    pub(super) fn is_used(&mut self, cx: &Cx, nid: Nid) -> bool {
        let new = self.aliases.claim_on(nid).is_some() && self.aliases.await_word(nid);
        if new {
            self.rails_changed();
            self.post_all(cx, || Body::Awaited(nid));
        }
        new
    }

    /// A message has come by a gateway. Where another node claims the NID that it is from, that one's own is asked, once.
    pub(super) fn came_by<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived) {
        let (nid, by) = (msg.hdr.src_nid, msg.sender);
        let over = self.peers.get(msg.peer).is_none_or(|p| cx.budget.over(p.host));
        let leads = self.routes.get(nid.net(), by).is_some_and(|r| !r.is_of_gateway(nid));
        if over || self.is_near(nid) || !leads || !self.is_used(cx, nid) {
            return;
        }
        if let Some(subject) = self.far_subject(lnd.ni(), msg.peer, nid) {
            self.ask_claimed(cx, lnd, subject);
        }
    }

    /// The peer of this shard that has the NID as its own: it is connected from that address, or has answered there.
    fn there<L: Lnd<Lnet>>(&self, cx: &Cx, lnds: &[L], nid: Nid) -> Option<(usize, Key)> {
        let id = ProcessId::lustre(nid);
        lnds.iter().enumerate().find_map(|(ni, lnd)| {
            let key = lnd.find(id)?;
            let p = self.peers.get(key)?;
            let itself = cx.budget.ip(p.host) == nid.ip();
            (itself && (lnd.connected(p.entry) || p.discovery.answered())).then_some((ni, key))
        })
    }

    /// Another shard has discovered a peer.
    pub(super) fn told_of(&mut self, claim: Box<Claim>) {
        self.discovery.news.push_back(News::Claim(claim, false));
    }

    /// Another shard knows the peer that has one of the NIDs claimed.
    pub(super) fn contested(&mut self, nid: Nid, claim: Box<Claim>) {
        self.discovery.news.push_back(News::Contest(nid, claim));
    }
}

/// Those of these NIDs that a node says are down, a bit each.
fn down_of(info: &PingInfo, nids: &[Nid]) -> u32 {
    let down = |n: &Nid| info.status_of(*n) == Some(NiStatus::Down);
    nids.iter().enumerate().filter(|n| down(n.1)).fold(0, |m, n| m | 1u32 << n.0)
}
