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
//! ```
//!
//! Messages of applications to an UNKNOWN peer wait while the peer is ASKING; ACKs, REPLYs and the traffic of portal 0 never
//! do. A ping that fails ends what waited with its error, and the next message asks again: but after an answer that makes no
//! sense not before a pause, where kernels ask hundreds of times a second. Peers that take part in discovery as we do
//! are pushed our info, which they acknowledge; it waits for nobody. STALE: our info has changed while a push was on
//! its way. A push that fails has the peer asked again with the next message, and is not repeated for ever.

use std::collections::VecDeque;

use fsm::Fsm;

use super::aliases::{Claim, Nids, OF_ONE};
use super::api::Event;
use super::command::header;
use super::ops::{OpKind, UNTIMED};
use super::{Lnet, Msg, TxDone};
use crate::hash::OwnMap;
use crate::lnd::config::SEC;
use crate::lnd::{AppId, Config, Cx, Dest, Lnd, LnetError, Owner, Payload, Placement};
use crate::stream::slab::Key;
use crate::wire::ksock::Checksum;
use crate::wire::ping::NiStatus;
use crate::wire::{LnetBody, LnetHdr, Nid, PingInfo, ProcessId, WireHandle, lnet, ping};

/// First sink of a ping, and first room for a push, in bytes: what kernels begin with (lnet.md §6.1).
const ROOM: u32 = 272;
/// Most room for a push: more is cut, and asked for by a ping. Connections that only begin one cost no more.
const PUSH_ROOM_MAX: u32 = 1040;
/// Sinks that are tried for one answer.
const SINKS: u8 = 3;
/// Pushes to a peer that fail in a row, before it gets no more.
pub(super) const PUSHES: u8 = 3;
/// Pause after an answer that makes no sense, and between pings that pushes ask for, in ns.
const PAUSE: u64 = SEC;
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
    }
}

/// A peer, as far as discovery has to do with it.
#[derive(Debug)]
pub(super) struct Peer {
    standing: Fsm<Standing>,
    /// Only of peers that were asked.
    more: Option<Box<More>>,
}

#[derive(Debug)]
struct More {
    /// Number of the operation that is on its way.
    serial: u64,
    /// Messages that wait for the answer.
    held: VecDeque<Msg>,
    /// Features that it last told.
    features: u32,
    /// Number of our info that it has.
    told: u32,
    /// Pushes that have failed in a row.
    untold: u8,
    /// Sinks tried for this answer.
    sinks: u8,
    /// After an answer that made no sense: nothing is asked before, in ns, and the pause that follows the next one.
    quiet_until: u64,
    pause: u64,
    /// No push makes us ask before.
    pushes_from: u64,
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
        !self.unsure() && self.more.as_ref().is_some_and(|m| m.features != 0)
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

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_with(|| {
            Box::new(More {
                serial: 0,
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

#[derive(Debug)]
pub(super) enum News {
    /// An operation of the node's own has ended.
    Answer(u64, Result<Vec<u8>, LnetError>),
    Pushed(u64, Result<(), LnetError>),
    /// A peer whose home is this shard says who it is, or that of another.
    Claim(Box<Claim>, bool),
    /// A peer that another shard knows is there, too, by one of the NIDs claimed.
    Contest(Nid, Box<Claim>),
    /// A peer has connected by a NID that another node claims.
    Came(Key),
}

/// Discovery on one shard: it asks the peers whose home this is.
#[derive(Debug)]
pub(super) struct Discovery {
    /// Peers by the number of the operation that is on its way. Numbers are a node's: they last when homes move.
    pub(super) asked: OwnMap<u64, Key>,
    next: u64,
    step: u64,
    pub(super) news: VecDeque<News>,
    /// Sink of the next ping.
    sink: u32,
    /// Room for the next push.
    room: u32,
    /// Number of our info, as it is now.
    info: u32,
    /// It has changed, and nobody knows: our features before and now.
    pub(super) changed: Option<u32>,
}

impl Discovery {
    pub(super) fn new(cfg: &Config) -> Discovery {
        Discovery {
            asked: OwnMap::default(),
            next: u64::from(cfg.shards.me.0) + 1,
            step: u64::from(cfg.shards.count.max(1)),
            news: VecDeque::new(),
            sink: ROOM,
            room: ROOM,
            info: 1,
            changed: None,
        }
    }

    /// Our info is another from now on; `features` are those of before and of now.
    pub(super) fn info_changed(&mut self, features: u32) {
        self.info = self.info.wrapping_add(1);
        *self.changed.get_or_insert(0) |= features;
    }

    /// Number of our info, as it is now.
    pub(super) fn info(&self) -> u32 {
        self.info
    }

    /// Number of the next operation of the node's own.
    pub(super) fn serial(&mut self) -> u64 {
        let serial = self.next;
        self.next = serial.wrapping_add(self.step);
        serial
    }

    /// An operation of the node's own has ended, or not yet.
    #[cold]
    pub(super) fn hear(&mut self, event: &Event) {
        match event {
            Event::Ping { tag, info: Err(e), .. } => self.news.push_back(News::Answer(*tag, Err(*e))),
            Event::Ack { tag, status, .. } => self.news.push_back(News::Pushed(*tag, *status)),
            Event::Send { tag, status: Err(e), .. } => self.news.push_back(News::Pushed(*tag, Err(*e))),
            _ => {}
        }
    }
}

/// Whether a message is a push of ping info.
pub(super) fn is_push(h: &LnetHdr) -> bool {
    matches!(h.body, LnetBody::Put { portal: ping::PORTAL, match_bits: ping::MATCH_BITS, .. })
}

impl Lnet {
    // ---- asking

    /// Whether a message waits until its peer is known; it is kept then, or ended.
    pub(super) fn discover_first<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        peer: Key,
        tx: Msg,
    ) -> Option<Msg> {
        let portal = match tx.hdr.as_ref().map(|h| h.body) {
            Some(LnetBody::Put { portal, .. } | LnetBody::Get { portal, .. }) => portal,
            _ => ping::PORTAL,
        };
        if !cx.cfg.discovery || cx.down || tx.answer || portal == ping::PORTAL {
            return Some(tx);
        }
        let p = self.peers.get_mut(peer)?;
        if self.aliases.nids(p.id.nid).is_some() && p.discovery.standing.apply(Step::Heard).is_some() {
            return Some(tx);
        }
        let more = p.discovery.more();
        if cx.now < more.quiet_until {
            self.end_waiting(cx, lnd, peer, tx, Err(LnetError::Malformed));
            return None;
        }
        more.held.push_back(tx);
        self.step(cx, lnd, peer, Step::Ask);
        None
    }

    /// Goes through the table, and does what it says.
    pub(super) fn step<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, peer: Key, step: Step) {
        let Some(p) = self.peers.get_mut(peer) else { return };
        match p.discovery.standing.apply(step) {
            Some(Act::Ping) => self.ask(cx, lnd, peer),
            Some(Act::Push) => self.push(cx, lnd, peer),
            Some(Act::Fail | Act::Nothing) | None => {}
        }
    }

    /// Begins an operation of the node's own on a peer.
    fn own_op(&mut self, cx: &Cx, peer: Key, kind: OpKind) -> Option<(Key, WireHandle, ProcessId)> {
        let serial = self.discovery.serial();
        let p = self.peers.get_mut(peer)?;
        let target = p.id;
        p.discovery.more().serial = serial;
        self.discovery.asked.insert(serial, peer);
        let deadline = cx.now + cx.cfg.transaction_timeout;
        let (of, to) = ((AppId::NODE, serial), (target.nid, target.nid, UNTIMED));
        let (op, handle) = self.ops.start(of, to, kind, (cx.now, deadline));
        Some((op, handle, target))
    }

    fn ask<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, peer: Key) {
        let sink = self.discovery.sink;
        let kind = OpKind::Ping { placing: false, sink };
        let Some((op, handle, target)) = self.own_op(cx, peer, kind) else { return };
        if let Some(p) = self.peers.get_mut(peer) {
            p.discovery.more().sinks += 1;
        }
        cx.counters.discoveries += 1;
        let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
        let body = LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: sink };
        let hdr = header(cx, self.nid_of(lnd.ni()), target, 0, body);
        // Strangers' pushes ask for it, too.
        let strange = self.peers.get_mut(peer).is_some_and(|p| p.discovery.held().all(|tx| tx.strange));
        self.launch(cx, lnd, peer, &mut Msg { strange, ..Msg::lnet(hdr, Payload::empty(), TxDone::Op(op)) });
    }

    fn push<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, peer: Key) {
        let kind = OpKind::Put { sent: false, acked: false };
        let Some((op, ack, target)) = self.own_op(cx, peer, kind) else { return };
        if let Some(p) = self.peers.get_mut(peer) {
            p.discovery.more().told = self.discovery.info;
        }
        cx.counters.pushes_tx += 1;
        let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
        let body = LnetBody::Put { ack, match_bits, hdr_data: 0, portal, offset: 0 };
        let payload = self.ping_info.clone();
        let len = u32::try_from(payload.len()).unwrap_or(lnet::MTU);
        let hdr = header(cx, self.nid_of(lnd.ni()), target, len, body);
        self.launch(cx, lnd, peer, &mut Msg::lnet(hdr, payload, TxDone::Op(op)));
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
        };
        if let News::Answer(serial, answer) = &news
            && self.recovery_heard(cx, *serial, answer.is_ok())
        {
            return;
        }
        // A push may end twice: unsent, and unanswered.
        let Some(peer) = self.discovery.asked.remove(&serial) else { return };
        let Some(lnd) = self.lnd_of(lnds, peer) else { return };
        match news {
            News::Answer(_, answer) => self.answered(cx, lnd, peer, answer),
            News::Pushed(_, status) => {
                let Some(p) = self.peers.get_mut(peer) else { return };
                let more = p.discovery.more();
                if status.is_ok() {
                    more.untold = 0;
                    cx.counters.pushes_acked += 1;
                } else {
                    (more.untold, more.told) = (more.untold.saturating_add(1), 0);
                }
                self.step(cx, lnd, peer, if status.is_ok() { Step::Told } else { Step::Untold });
            }
            News::Claim(..) | News::Contest(..) | News::Came(_) => {}
        }
        if let Some(entry) = self.peers.get(peer).map(|p| p.entry) {
            lnd.forget_if_idle(self, cx, entry);
        }
    }

    fn answered<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        peer: Key,
        answer: Result<Vec<u8>, LnetError>,
    ) {
        let asked = self.discovery.sink;
        let Some(p) = self.peers.get_mut(peer) else { return };
        let more = p.discovery.more();
        if let Ok(bytes) = &answer
            && let Some(whole) = ping::whole_len(bytes).filter(|n| *n as usize > bytes.len())
            && more.sinks < SINKS
            && !cx.down
        {
            // For this and for all that follow, as kernels do.
            self.discovery.sink = asked.max(whole);
            return self.step(cx, lnd, peer, Step::Short);
        }
        more.sinks = 0;
        let info = answer.and_then(|b| PingInfo::parse(&b).map_err(|_| LnetError::Malformed));
        let failed = match info {
            Ok(info) => {
                more.pause = PAUSE;
                let tell = self.take_info(cx, peer, &info);
                self.step(cx, lnd, peer, if tell { Step::Tell } else { Step::Answered });
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
                let (nid, here) = (p.id.nid, lnd.connected(p.entry));
                if here && self.aliases.is_awaited(nid) {
                    self.is_alone(cx, peer);
                }
                self.step(cx, lnd, peer, Step::Failed);
                Some(e)
            }
        };
        let Some(p) = self.peers.get_mut(peer) else { return };
        for mut tx in std::mem::take(&mut p.discovery.more().held) {
            match failed {
                Some(e) => self.end_waiting(cx, lnd, peer, tx, Err(e)),
                None => self.launch(cx, lnd, peer, &mut tx),
            }
        }
    }

    /// Takes in what a peer says of itself; gives whether it is to be told of us.
    fn take_info(&mut self, cx: &mut Cx, peer: Key, info: &PingInfo) -> bool {
        let Some(p) = self.peers.get(peer) else { return false };
        let (nid, host) = (p.id.nid, p.host);
        let nids: Nids = info.nids().filter(|n| !self.is_own(*n)).take(OF_ONE).collect();
        let down = |n: &Nid| info.status_of(*n) == Some(NiStatus::Down);
        let down = nids.iter().enumerate().filter(|n| down(n.1)).fold(0, |m, n| m | 1u32 << n.0);
        // A node that does not know itself by the name that it answers to, or speaks from another address than that name's, is
        // taken for that name alone.
        let rails = info.features & ping::FEAT_MULTI_RAIL != 0 && nids.contains(&nid);
        let other = self.aliases.claim_on(nid).map(|c| c.speaker);
        let agrees = rails && other.is_some_and(|o| nids.contains(&o));
        if rails && let Some(host) = cx.budget.ip(host).filter(|h| nid.ip() == Some(*h)) {
            self.discovery
                .news
                .push_back(News::Claim(Box::new(Claim { speaker: nid, host, nids, down }), true));
        } else if self.aliases.is_awaited(nid) {
            self.is_alone(cx, peer);
        }
        // Another NID of a node that is told by the one that spoke first.
        if agrees {
            return false;
        }
        let Some(p) = self.peers.get_mut(peer) else { return false };
        let more = p.discovery.more();
        more.features = info.features;
        let wanted = info.features & cx.cfg.features() & PUSHERS == PUSHERS;
        wanted && more.told != self.discovery.info && more.untold < PUSHES && !cx.down
    }

    // ---- pushes of peers

    /// The place for a push, and how much of it is taken.
    pub(super) fn push_place(&self, hdr: &LnetHdr, sum: Option<Checksum>) -> (Option<Placement>, u32) {
        let mlength = hdr.payload_len.min(self.discovery.room);
        let sum = sum.filter(|_| mlength == hdr.payload_len && mlength > 0);
        let dest = Dest::Own(Vec::with_capacity(mlength as usize));
        let placement = Placement::new(dest, mlength, Owner::App(AppId::NODE).into(), sum);
        (Some(placement).filter(|_| mlength > 0), mlength)
    }

    /// A push has come, and has been acknowledged. It is taken, of a stranger, too, as an answer to our ping would be: but of one
    /// that is not Multi-Rail, and where it is cut, the peer is asked. What makes no sense is nothing.
    pub(super) fn pushed<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        peer: Key,
        hdr: &LnetHdr,
        bytes: &[u8],
    ) {
        cx.counters.pushes_rx += 1;
        let Some(p) = self.peers.get_mut(peer) else { return };
        // A peer that speaks for others is not asked about them.
        if !cx.cfg.discovery || cx.down || p.id.nid != hdr.src_nid {
            return;
        }
        let (whole, mut introduced) = (bytes.len() == hdr.payload_len as usize, false);
        let info = PingInfo::parse(bytes);
        if whole && info.is_err() {
            cx.counters.err_ping_info += 1;
            return;
        }
        if !whole {
            // Large enough for what was pushed, in steps that do not follow each byte.
            let wanted = hdr.payload_len.min(PUSH_ROOM_MAX);
            self.discovery.room = self.discovery.room.max(wanted);
            let sink = ping::whole_len(bytes).unwrap_or(hdr.payload_len).min(ping::LEN_MAX);
            self.discovery.sink = self.discovery.sink.max(sink);
        } else if self.aliases.nids(hdr.src_nid).is_some()
            || info.as_ref().is_ok_and(|i| i.features & ping::FEAT_MULTI_RAIL != 0)
                && !p.discovery.is_quiet(cx.now)
                && !cx.budget.over(p.host)
        {
            introduced = p.discovery.standing.apply(Step::Heard).is_some();
        }
        let Some(p) = self.peers.get_mut(peer) else { return };
        match (p.discovery.standing.get(), info) {
            (Standing::Known | Standing::Telling | Standing::Stale, Ok(info)) if whole => {
                let known = p.discovery.more().features
                    | if introduced || self.aliases.nids(hdr.src_nid).is_some() { !0 } else { 0 };
                if known & info.features & ping::FEAT_MULTI_RAIL != 0 {
                    cx.counters.pushes_taken += 1;
                    if self.take_info(cx, peer, &info) {
                        self.step(cx, lnd, peer, Step::Tell);
                    }
                }
            }
            (Standing::Unknown | Standing::Known, _) => {
                let (host, now) = (p.host, cx.now);
                let more = p.discovery.more();
                if now >= more.pushes_from.max(more.quiet_until) && !cx.budget.over(host) {
                    more.pushes_from = now + PAUSE;
                    self.step(cx, lnd, peer, Step::Ask);
                }
            }
            _ => {}
        }
    }

    // ---- the way down

    /// Ends what waits for an answer of the peer: the node goes down.
    pub(super) fn end_held<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, peer: Key, why: LnetError) {
        let more = self.peers.get_mut(peer).and_then(|p| p.discovery.more.as_mut());
        for tx in more.map(|m| std::mem::take(&mut m.held)).unwrap_or_default() {
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
        Telling + Tell -> Stale, Nothing
        Telling + Told -> Known, Nothing
        Telling + Untold -> Unknown, Nothing
        Stale + Told -> Telling, Push
        Stale + Untold -> Unknown, Nothing
        otherwise: it is ignored
        ");
    }
}
