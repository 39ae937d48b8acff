//! Discovery: a peer is asked who it is before the first message of an application to it, and told who we are
//! (docs/protocol/lnet.md §6.3, §6.4).
//!
//! ```text
//!            Ask                 Answered
//!  UNKNOWN ------> ASKING ------------------------------> KNOWN <--------.
//!    |  ^  ^         |  ^  |  ^                           |  ^           |
//!    |  |  | Failed  |  |  |  '--- Ask / ping once more --'  | Told      |
//!    |  |  '---------'  '--' Short / larger sink             |           |
//!    |  |                  |       Tell / push               |           |
//!    |  |                  '------------------> TELLING -----'      Told |
//!    |  |                                       ^  | |               / push
//!    |  | Untold                       Told /   |  | '- Tell -> STALE ---'
//!    |  '---------------------------- (STALE) ------'
//!    '-- Heard --> KNOWN                       KNOWN + Tell / push --> TELLING
//!                                              KNOWN, TELLING, STALE + Lost --> UNKNOWN
//! ```
//!
//! Messages of applications to an UNKNOWN peer wait while the peer is ASKING; ACKs, REPLYs and the traffic of portal 0 never
//! do. A ping that fails ends what waited with its error, and the next message asks again; one that is lost with the
//! gateway that it went by is asked by another, with what waits (far.rs). But after an answer that makes no
//! sense not before a pause, where kernels ask hundreds of times a second. Peers that take part in discovery as we do
//! are pushed our info, which they acknowledge; it waits for nobody. STALE: our info has changed while a push was on
//! its way. A push that fails has the peer asked again with the next message, and is not repeated for ever. So has the end of its
//! connections: it may be another when it comes back (`transport/src/lnet/word.rs`).

use std::collections::VecDeque;

use fsm::Fsm;

use super::api::Event;
pub(super) use super::asking::{About, Discovery, News};
use super::command::header;
use super::ops::OpKind;
use super::{Lnet, Msg, TxDone};
use crate::lnd::config::SEC;
use crate::lnd::{AppId, Cx, Lnd, LnetError, NiId, Payload};
use crate::stream::slab::Key;
use crate::wire::{LnetBody, Nid, PingInfo, ProcessId, WireHandle, lnet, ping};

/// Sinks that are tried for one answer.
pub(super) const SINKS: u8 = 3;
/// Pushes to a peer that fail in a row, before it gets no more.
pub(super) const PUSHES: u8 = 3;
/// Pause after an answer that makes no sense, and between pings that pushes ask for, in ns.
pub(super) const PAUSE: u64 = SEC;
/// Longest such pause.
const PAUSE_MAX: u64 = 64 * SEC;
/// Features of those who push.
pub(super) const PUSHERS: u32 = ping::FEAT_MULTI_RAIL | ping::FEAT_DISCOVERY;

fsm::fsm! {
    /// Our knowledge of a peer.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Standing {
        /// It has not been asked.
        Unknown,
        /// A ping is on its way: messages of applications wait.
        Asking,
        /// It has answered.
        Known,
        /// The same; it is being pushed our info.
        Telling,
        /// The same, and our info has changed since.
        Stale,
    }

    /// Its causes of change.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Step {
        /// It is to be asked.
        Ask,
        /// It is another NID of a peer that we know, or has told of itself unasked.
        Heard,
        /// Its answer was longer than the sink.
        Short,
        /// It has answered, and need not be told of us.
        Answered,
        /// It has answered, or our info has changed, and it is to be told.
        Tell,
        /// The ping has failed.
        Failed,
        /// The push was acknowledged.
        Told,
        /// The push has failed.
        Untold,
        /// Its connections have ended, or those by which its node was heard.
        Lost,
    }

    /// Actions on a transition.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Act {
        /// Nothing.
        Nothing,
        /// Ping it.
        Ping,
        /// Push our info to it.
        Push,
        /// End what waits with the ping's error.
        Fail,
    }

    table Standing + Step => Act {
        start Unknown;
        else "it is ignored";
        Unknown | Known + Ask => Asking, Ping;
        Unknown + Heard => Known, Nothing;
        Asking + Short => Asking, Ping;
        Asking + Answered => Known, Nothing;
        Asking + Tell => Telling, Push;
        Asking + Failed => Unknown, Fail;
        Known + Tell => Telling, Push;
        Telling + Tell => Stale, Nothing;
        Telling + Told => Known, Nothing;
        Stale + Told => Telling, Push;
        Telling | Stale + Untold => Unknown, Nothing;
        Known | Telling | Stale + Lost => Unknown, Nothing;
    }
}

/// A peer, as far as discovery has to do with it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) standing: Fsm<Standing>,
    /// Only of peers that were asked.
    pub(super) more: Option<Box<More>>,
}

#[derive(Debug)]
pub(super) struct More {
    /// Number of the operation that is on its way.
    serial: u64,
    /// Its wire handle.
    pub(super) object: u64,
    /// Messages that wait for the answer.
    pub(super) held: VecDeque<Msg>,
    /// Features that it last told.
    pub(super) features: u32,
    /// Number of our info that it has.
    pub(super) told: u32,
    /// Pushes that have failed in a row.
    pub(super) untold: u8,
    /// Sinks tried for this answer.
    pub(super) sinks: u8,
    /// After an answer that made no sense: nothing is asked before, in ns, and the pause that follows the next one.
    pub(super) quiet_until: u64,
    pause: u64,
    /// No push makes us ask before.
    pub(super) pushes_from: u64,
}

impl Peer {
    pub(super) const NEW: Peer = Peer { standing: Fsm::START, more: None };

    /// Whether messages of applications may have to wait.
    #[inline]
    pub(super) fn unsure(&self) -> bool {
        matches!(self.standing.get(), Standing::Unknown | Standing::Asking)
    }

    /// Whether the entry must stay.
    pub(super) fn busy(&self) -> bool {
        self.standing == Standing::Asking
    }

    pub(super) fn stands(&self) -> Standing {
        self.standing.get()
    }

    /// Whether nothing is asked of it yet, after an answer that made no sense.
    pub(super) fn is_quiet(&self, now: u64) -> bool {
        self.more.as_ref().is_some_and(|m| now < m.quiet_until)
    }

    /// Whether it has said of itself who it is.
    pub(super) fn answered(&self) -> bool {
        !self.unsure() && self.has_spoken()
    }

    /// Whether it has ever said who it is.
    pub(super) fn has_spoken(&self) -> bool {
        self.more.as_ref().is_some_and(|m| m.features != 0)
    }

    /// Features that it last told, and how many pushes to it have failed in a row; `None` for one that has not been heard.
    pub(super) fn told(&self) -> Option<(u32, u8)> {
        self.more.as_ref().map(|m| (m.features, m.untold))
    }

    /// Whether it has this info of ours, or gets it.
    pub(super) fn has(&self, info: u32) -> bool {
        self.more.as_ref().is_some_and(|m| m.told == info)
    }

    /// It is to be told in place of another NID of its node, which has these features.
    pub(super) fn takes_over(&mut self, features: u32) {
        let more = self.more();
        (more.features, more.untold) = (features, 0);
        self.standing.apply(Step::Heard);
    }

    /// Its node is to be asked again, and told again; gives the number of the push that nothing more is wanted of.
    pub(super) fn lose(&mut self) -> Option<u64> {
        let was_known = self.standing.apply(Step::Lost).is_some();
        let more = self.more.as_mut()?;
        more.told = 0;
        was_known.then_some(more.serial)
    }

    /// Messages that wait.
    pub(super) fn waiting(&self) -> usize {
        self.more.as_ref().map_or(0, |m| m.held.len())
    }

    /// The messages that wait.
    pub(super) fn held(&mut self) -> impl Iterator<Item = &mut Msg> {
        self.more.iter_mut().flat_map(|m| m.held.iter_mut())
    }

    /// The operation that is on its way.
    pub(super) fn serial(&self) -> Option<u64> {
        self.more.as_ref().map(|m| m.serial)
    }

    pub(super) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_with(|| {
            Box::new(More {
                serial: 0,
                object: 0,
                held: VecDeque::new(),
                features: 0,
                told: 0,
                untold: 0,
                sinks: 0,
                quiet_until: 0,
                pause: PAUSE,
                pushes_from: 0,
            })
        })
    }
}

/// A node that discovery has to do with: a peer, or one behind a peer that is a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    /// The peer that messages to it are given to.
    pub(super) via: Key,
    /// Its place in the table of nodes behind routers.
    pub(super) far: Option<Key>,
}

impl Lnet {
    // ---- asking

    /// Whether as much is known of a message's peer as it takes; else it is kept until it is, or ended.
    pub(super) fn is_known_first<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        peer: Key,
        tx: &mut Msg,
    ) -> bool {
        let portal = match tx.hdr.as_ref().map(|h| h.body) {
            Some(LnetBody::Put { portal, .. } | LnetBody::Get { portal, .. }) => portal,
            _ => ping::PORTAL,
        };
        if !cx.cfg.discovery || cx.down || tx.answer || portal == ping::PORTAL {
            return true;
        }
        let dest = tx.hdr.as_ref().filter(|_| tx.routed).map(|h| h.dest_nid);
        let subject = match dest {
            Some(dest) => match self.far_subject(lnd.ni(), peer, dest) {
                Some(far) => far,
                // More of them are being asked than there is room for.
                None => return true,
            },
            None => Subject::from(peer),
        };
        if self.known(subject).is_some_and(|known| !known.unsure()) {
            return true;
        }
        let Some(nid) = self.id_of(subject).map(|id| id.nid) else {
            self.end_waiting(cx, lnd, peer, tx.take(), Err(LnetError::ConnLost));
            return false;
        };
        // Of a node behind a router another's word is not enough.
        let is_claimed = subject.far.is_some() && self.aliases.claim_on(nid).is_some();
        if is_claimed {
            self.is_used(cx, nid);
        }
        let is_alias = self.aliases.is_told(nid) && !is_claimed;
        let Some(known) = self.known(subject) else { return true };
        if is_alias && known.standing.apply(Step::Heard).is_some() {
            return true;
        }
        let more = known.more();
        if cx.now < more.quiet_until {
            self.end_waiting(cx, lnd, peer, tx.take(), Err(LnetError::Malformed));
            return false;
        }
        more.held.push_back(tx.take());
        let held = if subject.far.is_some() { &mut self.fars.held } else { &mut self.discovery.held };
        *held += 1;
        self.step(cx, lnd, subject, Step::Ask);
        false
    }

    /// Our knowledge of a node.
    pub(super) fn known(&mut self, subject: Subject) -> Option<&mut Peer> {
        match subject.far {
            None => self.peers.get_mut(subject.via).map(|p| &mut p.discovery),
            Some(far) => self.fars.get_mut(far).map(|f| &mut f.discovery),
        }
    }

    pub(super) fn id_of(&self, subject: Subject) -> Option<ProcessId> {
        match subject.far {
            None => self.peers.get(subject.via).map(|p| p.id),
            Some(far) => self.fars.get(far).map(|f| f.id),
        }
    }

    /// Goes through the table, and does what it says.
    pub(super) fn step<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        subject: impl Into<Subject>,
        step: Step,
    ) {
        let subject = subject.into();
        let Some(known) = self.known(subject) else { return };
        match known.standing.apply(step) {
            Some(Act::Ping) => self.ask(cx, lnd, subject),
            Some(Act::Push) => self.push(cx, lnd, subject),
            Some(Act::Fail | Act::Nothing) | None => {}
        }
    }

    /// Begins an operation of the node's own on a node.
    fn own_op(&mut self, cx: &Cx, subject: Subject, kind: OpKind) -> Option<(Key, WireHandle, ProcessId)> {
        let target = self.id_of(subject)?;
        let (ni, via) = self.peers.get(subject.via).map(|p| (p.ni, p.id))?;
        let asked = subject.far.map_or(About::Peer(subject.via), About::Far);
        let (serial, op, handle) =
            self.node_op(cx.now, asked, (target.nid, via.nid, ni), kind, cx.cfg.transaction_timeout);
        let more = self.known(subject)?.more();
        (more.serial, more.object) = (serial, handle.object);
        Some((op, handle, target))
    }

    /// Begins an operation of the node's own on `target`, given to `via` by `ni`, that is to end within so many ns; gives its number.
    pub(super) fn node_op(
        &mut self,
        now: u64,
        asked: About,
        way: (Nid, Nid, NiId),
        kind: OpKind,
        patience: u64,
    ) -> (u64, Key, WireHandle) {
        let (serial, op, handle) = self.unnoted_op(now, way, kind, patience);
        self.discovery.asked.insert(serial, asked);
        (serial, op, handle)
    }

    fn ask<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, subject: Subject) {
        let sink = self.discovery.sink;
        let kind = OpKind::Ping { placing: false, sink };
        let Some((op, handle, target)) = self.own_op(cx, subject, kind) else { return };
        let Some(known) = self.known(subject) else { return };
        known.more().sinks += 1;
        // Strangers' pushes ask for it, too.
        let strange = known.held().all(|tx| tx.strange);
        cx.counters.discoveries += 1;
        let mut tx = self.ping_of(cx, lnd.ni(), target, (op, handle), sink);
        tx.strange = strange;
        self.launch(cx, lnd, subject.via, &mut tx);
    }

    fn push<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, subject: Subject) {
        let kind = OpKind::Put { sent: false, acked: false };
        let Some((op, ack, target)) = self.own_op(cx, subject, kind) else { return };
        let info = self.discovery.info;
        if let Some(known) = self.known(subject) {
            known.more().told = info;
        }
        let mut tx = self.push_of(cx, lnd.ni(), target, (op, ack));
        self.launch(cx, lnd, subject.via, &mut tx);
    }

    /// A ping of the node's own.
    pub(super) fn ping_of(
        &self,
        cx: &Cx,
        ni: NiId,
        target: ProcessId,
        (op, handle): (Key, WireHandle),
        sink: u32,
    ) -> Msg {
        let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
        let body = LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: sink };
        Msg::lnet(header(cx, self.nid_of(ni), target, 0, body), Payload::empty(), TxDone::Op(op))
    }

    /// A push of our info.
    pub(super) fn push_of(
        &self,
        cx: &mut Cx,
        ni: NiId,
        target: ProcessId,
        (op, ack): (Key, WireHandle),
    ) -> Msg {
        cx.counters.pushes_tx += 1;
        let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
        let body = LnetBody::Put { ack, match_bits, hdr_data: 0, portal, offset: 0 };
        let payload = self.ping_info.clone();
        let len = u32::try_from(payload.len()).unwrap_or(lnet::MTU);
        Msg::lnet(header(cx, self.nid_of(ni), target, len, body), payload, TxDone::Op(op))
    }

    // ---- answers

    /// The answer to a ping has come whole, or its payload has not: `false` for a ping of an application's.
    pub(super) fn node_asked(&mut self, cx: &Cx, op: Key, info: &mut Result<Vec<u8>, LnetError>) -> bool {
        if self.ops.get(op).is_none_or(|r| r.app != AppId::NODE) {
            return false;
        }
        let info = std::mem::replace(info, Err(LnetError::Malformed));
        if let Some((_, Event::Ping { tag, .. })) = self.ops.pong(op, cx.now, Err(LnetError::Malformed)) {
            self.discovery.news.push_back(News::Answer(tag, info));
        }
        true
    }

    /// Whether [`Lnet::discovers`] has something to do.
    #[inline]
    pub(super) fn has_discovered(&self) -> bool {
        !self.discovery.news.is_empty()
    }

    /// Goes on where an operation of the node's own has ended; gives whether there was one.
    #[inline]
    pub(super) fn discovers<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) -> bool {
        let Some(news) = self.discovery.news.pop_front() else { return false };
        self.heard(cx, lnds, news);
        true
    }

    #[cold]
    fn heard<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], news: News) {
        let serial = match &news {
            News::Answer(serial, _) | News::Pushed(serial, _) => *serial,
            News::Claim(claim, own) => return self.claimed(cx, lnds, claim, *own),
            News::Contest(nid, claim) => {
                self.aliases.contest(*nid, claim.speaker, &claim.nids);
                return self.rails_changed();
            }
            News::Came(peer) => return self.ask_whose(cx, lnds, *peer),
            News::Unheard(nid) => return self.unheard_here(cx, lnds, *nid),
            News::Lost(far, serial) => return self.question_lost(cx, *far, *serial),
        };
        if let News::Answer(serial, answer) = &news
            && self.recovery_heard(cx, lnds, *serial, answer)
        {
            return;
        }
        // A push may end twice: unsent, and unanswered.
        let Some(asked) = self.discovery.asked.remove(&serial) else { return };
        let subject = match asked {
            About::Peer(peer) => Subject::from(peer),
            About::Far(far) => match self.far_again(cx, lnds, far) {
                Some(subject) => subject,
                None => return self.far_lost(cx, far),
            },
            About::Gateway(gateway) => return self.checked(cx, lnds, gateway, news),
        };
        let Some(lnd) = self.lnd_of(lnds, subject.via) else { return };
        let pushed = matches!(news, News::Pushed(..));
        match news {
            News::Answer(_, answer) => self.answered(cx, lnd, subject, answer),
            News::Pushed(_, status) => {
                let Some(known) = self.known(subject) else { return };
                let more = known.more();
                if status.is_ok() {
                    more.untold = 0;
                    cx.counters.pushes_acked += 1;
                } else {
                    (more.untold, more.told) = (more.untold.saturating_add(1), 0);
                }
                self.step(cx, lnd, subject, if status.is_ok() { Step::Told } else { Step::Untold });
                if let Some(id) = self.id_of(subject).filter(|_| status.is_err()) {
                    self.unheard(cx, id.nid);
                }
            }
            News::Claim(..) | News::Contest(..) | News::Came(_) | News::Unheard(_) | News::Lost(..) => {}
        }
        if let Some((nid, entry)) = self.peers.get(subject.via).map(|p| (p.id.nid, p.entry)) {
            if pushed && subject.far.is_none() && self.aliases.is_awaited(nid) && lnd.connected(entry) {
                return self.ask_whose(cx, lnds, subject.via);
            }
            lnd.forget_if_idle(self, cx, entry);
        }
    }

    fn answered<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        subject: Subject,
        answer: Result<Vec<u8>, LnetError>,
    ) {
        let asked = self.discovery.sink;
        let Some(known) = self.known(subject) else { return };
        let more = known.more();
        if let Ok(bytes) = &answer
            && let Some(whole) = ping::whole_len(bytes).filter(|n| *n as usize > bytes.len())
            && more.sinks < SINKS
            && !cx.down
        {
            // For this and for all that follow, as kernels do.
            self.discovery.sink = asked.max(whole);
            return self.step(cx, lnd, subject, Step::Short);
        }
        more.sinks = 0;
        let info = answer.and_then(|b| PingInfo::parse(&b).map_err(|_| LnetError::Malformed));
        let failed = match info {
            Ok(info) => {
                more.pause = PAUSE;
                let tell = self.take_info(cx, subject, &info);
                self.step(cx, lnd, subject, if tell { Step::Tell } else { Step::Answered });
                None
            }
            Err(e) => {
                if e == LnetError::Malformed {
                    cx.counters.err_ping_info += 1;
                    more.quiet_until = cx.now + more.pause;
                    more.pause = (2 * more.pause).min(PAUSE_MAX);
                }
                cx.counters.discoveries_failed += 1;
                // One that has left is asked again when it comes back.
                if subject.far.is_none()
                    && let Some(p) = self.peers.get(subject.via)
                    && lnd.connected(p.entry)
                    && self.aliases.is_awaited(p.id.nid)
                {
                    self.is_alone(cx, subject.via);
                }
                self.step(cx, lnd, subject, Step::Failed);
                Some(e)
            }
        };
        let Some(known) = self.known(subject) else { return };
        let held = std::mem::take(&mut known.more().held);
        let all = if subject.far.is_some() { &mut self.fars.held } else { &mut self.discovery.held };
        *all = all.saturating_sub(held.len());
        for mut tx in held {
            if subject.far.is_some() {
                self.goes_by(subject.via, &tx);
            }
            match failed {
                Some(e) if e != LnetError::Malformed && subject.far.is_some() => {
                    self.not_asked(cx, subject.via, tx, e);
                }
                // None of it has left.
                Some(e) if e != LnetError::Malformed => self.not_sent(cx, subject.via, tx, e, None),
                Some(e) => self.end_waiting(cx, lnd, subject.via, tx, Err(e)),
                None => self.launch(cx, lnd, subject.via, &mut tx),
            }
        }
    }

    // ---- the way down

    /// Ends what waits for an answer of the peer: the node goes down.
    pub(super) fn end_held<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, peer: Key, why: LnetError) {
        let more = self.peers.get_mut(peer).and_then(|p| p.discovery.more.as_mut());
        let held = more.map(|m| std::mem::take(&mut m.held)).unwrap_or_default();
        self.discovery.held = self.discovery.held.saturating_sub(held.len());
        for tx in held {
            self.end_waiting(cx, lnd, peer, tx, Err(why));
        }
    }

    /// The peer's entry goes.
    pub(super) fn undiscover(&mut self, peer: Key) {
        let serial = self.peers.get(peer).and_then(|p| p.discovery.serial());
        if let Some(serial) = serial {
            self.discovery.asked.remove(&serial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Standing;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<Standing>(), @r"
        Unknown + Ask -> Asking, Ping
        Unknown + Heard -> Known, Nothing
        Asking + Short -> Asking, Ping
        Asking + Answered -> Known, Nothing
        Asking + Tell -> Telling, Push
        Asking + Failed -> Unknown, Fail
        Known + Ask -> Asking, Ping
        Known + Tell -> Telling, Push
        Known + Lost -> Unknown, Nothing
        Telling + Tell -> Stale, Nothing
        Telling + Told -> Known, Nothing
        Telling + Untold -> Unknown, Nothing
        Telling + Lost -> Unknown, Nothing
        Stale + Told -> Telling, Push
        Stale + Untold -> Unknown, Nothing
        Stale + Lost -> Unknown, Nothing
        otherwise: it is ignored
        ");
    }
}
