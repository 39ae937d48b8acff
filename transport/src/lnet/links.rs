//! This node's own info: what its NIs are, which of them are up, and who is told of a change (docs/protocol/lnet.md §6.2, upper.md
//! §2).
//!
//! An NI whose port has no link is down: it is not chosen while another is there, what waits for it and may be sent again goes by another, and
//! peers hear of it at once by an NI that is up. Kernels keep its health value, and so does this node.

use std::net::IpAddr;

use super::Lnet;
use super::discovery::{PUSHERS, PUSHES, Standing, Step, Subject};
use super::hop::Hop;
use super::ni::Ni;
use super::ops::OpKind;
use super::remote::Body;
use super::routing::Routing;
use crate::lnd::{Config, Cx, Lnd, LnetError, NiConfig, NiId, Payload};
use crate::stream::slab::Key;
use crate::wire::ping::NiStatus;
use crate::wire::{Nid, PingInfo, ProcessId};

/// Our ping info of that sequence number, as it goes out: more than four NIs do not fit inline.
pub(super) fn own_info(cfg: &Config, nis: &[Ni], routing: &Routing, sequence: u32) -> Payload {
    let at = |n: &NiConfig| nis.get(usize::from(n.place)).map(|ni| (n.place, ni));
    let real = || cfg.nis.iter().filter_map(at).filter(|(_, n)| !n.gone);
    let features = routing.features(cfg.features());
    let mut info = PingInfo::new(real().map(|(_, n)| n.nid), cfg.pid, features, sequence);
    for e in info.nis.iter_mut().chain(&mut info.large) {
        if real().any(|(at, n)| n.nid == e.nid && (n.health.fatal || routing.is_down(NiId(at)))) {
            e.status = NiStatus::Down;
        }
    }
    let mut bytes = Vec::new();
    info.emit(&mut bytes);
    Payload::copy_of(&bytes).unwrap_or_else(Payload::empty)
}

impl Lnet {
    /// The configuration has changed: our info may have, from these features. Peers are told with the next timer, which is
    /// due then.
    pub(crate) fn tuned<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], before: u32) {
        self.weigh_all(&cx.cfg);
        if before != cx.cfg.features() {
            self.info_changed(before, &cx.cfg);
        }
        self.routing_tuned(cx, lnds);
    }

    /// Our info is made anew.
    pub(super) fn renew_info(&mut self, cfg: &Config) {
        self.ping_info = own_info(cfg, &self.nis, &self.routing, self.sequence);
    }

    pub(super) fn info_changed(&mut self, before: u32, cfg: &Config) {
        self.renew_info(cfg);
        self.discovery.info_changed(before | cfg.features());
    }

    /// The port that has this address has a link, or has none.
    pub(crate) fn link<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], ip: IpAddr, up: bool) {
        for at in 0..self.nis.len() {
            let ni = NiId(at as u8);
            if self.nis.get(at).is_some_and(|n| n.nid.ip() == Some(ip) && n.health.fatal == up) {
                self.link_is(cx, lnds, ni, up);
                self.post_all(cx, || Body::Link(ni, up));
            }
        }
    }

    /// An NI's port has a link, or has none.
    #[cold]
    pub(super) fn link_is<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], ni: NiId, up: bool) {
        let Some(own) = self.nis.get_mut(ni.index()).filter(|n| n.health.fatal == up && !n.gone) else {
            return;
        };
        own.health.fatal = !up;
        self.discovery.links = true;
        self.sequence = self.sequence.wrapping_add(1);
        self.rails_changed();
        self.info_changed(cx.cfg.features(), &cx.cfg);
        if !up {
            self.leave_ni(cx, lnds, ni);
        }
    }

    /// Whether an own NI is there, and has a link.
    fn is_up(&self, ni: NiId) -> bool {
        self.nis.get(ni.index()).is_some_and(|n| !n.health.fatal && !n.gone)
    }

    /// Messages that wait for an NI's peers go by another NI, where there is one: those that may not be sent again fail, but answers wait
    /// on. Where there is none all of them wait on.
    fn leave_ni<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], ni: NiId) {
        let of = |k: &Key| self.peers.get(*k).is_some_and(|p| p.ni == ni);
        let peers: Vec<Key> = self.peers.keys().filter(of).collect();
        peers.into_iter().for_each(|peer| self.leave_peer(cx, lnds, peer));
    }

    /// The same of messages that wait for one peer: its NI or ours is down.
    pub(super) fn leave_peer<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], peer: Key) {
        let why = LnetError::Unreachable;
        let Some((ni, id, entry)) = self.peers.get(peer).map(|p| (p.ni, p.id, p.entry)) else { return };
        let node = ProcessId { nid: self.aliases.primary(id.nid), ..id };
        let hop = self.rail_to(cx, lnds, node, None, None);
        let lives = |hop: &Hop| self.is_up(hop.ni) && self.health.of(hop.via.nid).0;
        if !hop.is_some_and(|hop| lives(&hop) && (hop.ni, hop.via.nid) != (ni, id.nid)) {
            return;
        }
        let Some(lnd) = lnds.get_mut(ni.index()) else { return };
        lnd.give_back(self, cx, entry, why);
        let Some(p) = self.peers.get_mut(peer) else { return };
        let mut left = p.waiting.leave_answers();
        let held = p.discovery.more.as_mut().map(|m| std::mem::take(&mut m.held)).unwrap_or_default();
        self.discovery.held = self.discovery.held.saturating_sub(held.len());
        left.extend(held);
        for tx in left {
            self.not_sent(cx, peer, tx, why, None);
        }
    }

    /// Our info has changed: peers that want to know are told, by an NI that is up. Of a link that is lost or back those with several NIDs on
    /// one network are told by all of those: which of them hung on a link that was lost, also at the other end, is not known.
    #[cold]
    pub(super) fn tell_all<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], ours: u32) {
        if cx.down {
            return;
        }
        let newest = self.newest.take().filter(|ni| self.is_up(*ni));
        let links = std::mem::take(&mut self.discovery.links) && ours & PUSHERS == PUSHERS;
        let all: Vec<Key> = self.peers.keys().collect();
        for peer in all {
            // Whoever is being asked is told with its answer.
            let Some(p) = self.peers.get(peer).filter(|p| !p.discovery.busy()) else { continue };
            let (features, untold) = p.discovery.told().unwrap_or_default();
            let (ni, id) = (p.ni, p.id);
            if features & ours & PUSHERS != PUSHERS || untold >= PUSHES {
                continue;
            }
            // Whoever has several NIDs hears of a new NI by that NI, whose turn it is, as of any message to it.
            let by_new = newest.and_then(|new| {
                let node = ProcessId { nid: self.aliases.primary(id.nid), ..id };
                self.rail_to(cx, lnds, node, None, None).filter(|hop| hop.ni == new && hop.rail)
            });
            if let Some(hop) = by_new {
                self.tell_there(cx, lnds, hop, features);
            } else if self.is_up(ni) {
                if let Some(lnd) = self.lnd_of(lnds, peer) {
                    self.tell(cx, lnd, Subject::from(peer));
                }
                if links && self.may_hang(ni, id.nid) {
                    self.tell_beside(cx, lnds, id);
                }
            } else if let Some(hop) = self.rail_to(cx, lnds, id, None, None)
                && self.is_up(hop.ni)
            {
                self.tell_there(cx, lnds, hop, features);
                if links && self.may_hang(hop.ni, id.nid) {
                    self.tell_beside(cx, lnds, id);
                }
            }
        }
        self.tell_fars(cx, lnds, ours);
    }

    /// Whether the node of a NID has several by which the NI reaches it: which of them a lost link has cut off is not known.
    fn may_hang(&self, ni: NiId, nid: Nid) -> bool {
        let nids = self.aliases.nids(nid).unwrap_or_default();
        self.aliases.multi_rail(nid) == Some(true)
            && nids.iter().filter(|n| self.reaches(ni, **n)).count() > 1
    }

    /// Pushes our info to all NIDs of a node, one of which has been told.
    fn tell_beside<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], id: ProcessId) {
        let nids: Vec<Nid> = self.aliases.nids(id.nid).unwrap_or_default().to_vec();
        nids.into_iter().for_each(|nid| self.tell_nid(cx, lnds, ProcessId { nid, ..id }));
    }

    /// Pushes our info to a NID by all pairs that are connected, or by the best one, unless it has it.
    pub(super) fn tell_nid<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], id: ProcessId) {
        let home = id.nid.ip().map_or(cx.cfg.shards.me, |ip| cx.homes.of(ip));
        if home != cx.cfg.shards.me {
            return self.post(home, Body::TellBeside(id));
        }
        let best = self.ni_for(id.nid).filter(|ni| self.is_up(*ni) && !cx.down);
        let Some(best) = best else { return };
        let entry = |p: &Key| self.peers.get(*p).map(|p| p.entry);
        let there = lnds.iter().filter(|l| self.is_up(l.ni())).filter_map(|l| {
            let peer = l.find(id)?;
            l.connected(entry(&peer)?).then_some((l.ni(), peer))
        });
        let mut all: Vec<(NiId, Key)> = there.collect();
        if let Some(lnd) = lnds.get_mut(best.index()).filter(|_| all.is_empty()) {
            all.extend(self.target_peer(cx, lnd, id, None).ok().map(|peer| (best, peer)));
        }
        for (ni, peer) in all {
            if let Some(lnd) = lnds.get_mut(ni.index()) {
                self.push_beside(cx, lnd, peer);
            }
        }
    }

    /// Pushes our info to a peer that does not have it, and does not look whether it comes.
    fn push_beside<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, peer: Key) {
        let info = self.discovery.info;
        let Some(p) = self.peers.get_mut(peer).filter(|p| !p.discovery.has(info)) else { return };
        p.discovery.more().told = info;
        let (ni, id) = (p.ni, p.id);
        let (kind, way) = (OpKind::Put { sent: false, acked: false }, (id.nid, id.nid, ni));
        let (_, op, ack) = self.unnoted_op(cx.now, way, kind, cx.cfg.transaction_timeout);
        let mut tx = self.push_of(cx, ni, id, (op, ack));
        self.launch(cx, lnd, peer, &mut tx);
    }

    /// Pushes our info to a node that wants it; to one that is to be asked again behind its answer.
    pub(super) fn tell<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, subject: Subject) {
        let now = cx.now;
        let Some(known) = self.known(subject) else { return };
        let asks = known.stands() == Standing::Unknown;
        if !asks || cx.cfg.discovery && !known.is_quiet(now) {
            self.step(cx, lnd, subject, if asks { Step::Ask } else { Step::Tell });
        }
    }

    /// Pushes our info to another NID of a peer that has these features.
    pub(super) fn tell_there<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], hop: Hop, features: u32) {
        let home = hop.home(cx);
        if home != cx.cfg.shards.me {
            return self.post(home, Body::Tell(Hop { known: None, ..hop }, features));
        }
        let Some(lnd) = lnds.get_mut(hop.ni.index()).filter(|_| !cx.down) else { return };
        let Ok(peer) = self.target_peer(cx, lnd, hop.via, hop.known) else { return };
        let info = self.discovery.info;
        if let Some(p) = self.peers.get_mut(peer).filter(|p| !p.discovery.has(info)) {
            p.discovery.takes_over(features);
            self.aliases.set_heard(hop.via.nid, true);
            self.step(cx, lnd, Subject::from(peer), Step::Tell);
        }
    }
}
