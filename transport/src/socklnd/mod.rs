//! socklnd: LNet over TCP (docs/protocol/socklnd.md).
//!
//! `Socklnd` is the LND of one NI on one shard. From the stream upwards: `hello` (handshakes), `rx` (framing), `txq` and
//! `carrier` (queues, and how ACKs ride), `zc` (zero-copy cookies), `peer` (connection sets), `standing` (duplicates) hold
//! rules and tables (docs/machines.md shows them side by side); `handshake`, `receive`, `send`, `sets`, `held` and
//! `timers` are the methods that apply them.

mod begun;
mod carrier;
mod choose;
mod conn;
mod contract;
mod copy_jobs;
mod handshake;
mod held;
mod hello;
mod leaving;
mod lends;
mod look;
mod migration;
mod parts;
mod peer;
mod receive;
mod rx;
mod send;
mod sets;
mod standing;
#[cfg(feature = "testing")]
pub mod testing;
mod timers;
mod txq;
mod version;
mod zc;

use std::collections::VecDeque;

use self::begun::Begun;
pub(crate) use self::conn::Conn;
pub(crate) use self::copy_jobs::CopyJob;
use self::copy_jobs::CopyJobs;
use self::hello::HsEvent;
use self::leaving::Leaving;
use self::lends::LendRec;
pub use self::look::{BRIEF_CONNS, Contact, PeerBrief, PeerView};
pub(crate) use self::migration::Migrating;
pub use self::peer::DialWhy;
use self::peer::Peer;
use self::standing::{HOLD, StandAction, StandEvent, Standing};
use crate::hash::{OwnMap, PeerMap};
use crate::lnd::budget::Cause;
use crate::lnd::timers::Timers;
use crate::lnd::{Cx, LnetError, Moved, NiId, Upper};
use crate::stream::slab::{Key, Slab};
use crate::stream::{CloseWhy, ConnId, ConnInfo, DialId, Happened, LendId, Progress, ShardId};
use crate::wire::{Nid, ProcessId};

/// The socklnd of one NI on one shard.
#[derive(Debug)]
pub(crate) struct Socklnd<U: Upper> {
    ni: NiId,
    /// [`Nid::LO`] once the NI is deleted.
    nid: Nid,
    /// That of the NI (docs/protocol/socklnd.md §4).
    incarnation: u64,
    conns: Slab<Conn<U>>,
    by_id: OwnMap<ConnId, Key>,
    /// The connection that something happened to last.
    recent: Key,
    peers: Slab<Peer<U::Token>>,
    by_peer: PeerMap<ProcessId, Key>,
    dials: OwnMap<DialId, Key>,
    next_dial: u64,
    lends: Slab<LendRec<U::Token>>,
    /// Messages that leave in parts.
    begun: Slab<Begun<U::Token>>,
    /// Lends that came with a peer that moved here.
    migrated_lends: OwnMap<LendId, Key>,
    copy_jobs: CopyJobs<U::Delivery>,
    /// Copy jobs to be given away.
    jobs: VecDeque<Box<CopyJob<U::Delivery>>>,
    conn_timers: Timers,
    peer_timers: Timers,
    /// Room for what is due.
    due: Vec<u32>,
    next_ticket: u64,
    /// Moves on with every change of which connections of a peer may be used.
    sets: u32,
    leaving: Leaving,
    /// Connections whose request names another NI of this node, and which.
    misrouted: Vec<(NiId, Box<Conn<U>>)>,
    /// Messages of this NI.
    pub(crate) moved: Moved,
}

/// Counts of things in use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Out {
    pub(crate) conns_up: usize,
    pub(crate) conns: usize,
    pub(crate) peers: usize,
    pub(crate) cookies: usize,
    pub(crate) lends: usize,
    pub(crate) queued: usize,
    pub(crate) copy_jobs: usize,
}

impl Out {
    /// Of two LNDs together.
    pub(crate) fn and(self, other: Out) -> Out {
        Out {
            conns_up: self.conns_up + other.conns_up,
            conns: self.conns + other.conns,
            peers: self.peers + other.peers,
            cookies: self.cookies + other.cookies,
            lends: self.lends + other.lends,
            queued: self.queued + other.queued,
            copy_jobs: self.copy_jobs + other.copy_jobs,
        }
    }
}

impl<U: Upper> Socklnd<U> {
    /// The socklnd of NI `ni`, `nid`, of this incarnation, with no connections, on shard `me`: no two shards of a node name a dial
    /// alike.
    pub(crate) fn new(me: ShardId, ni: NiId, nid: Nid, incarnation: u64) -> Socklnd<U> {
        Socklnd {
            ni,
            nid,
            incarnation,
            conns: Slab::new(),
            by_id: OwnMap::default(),
            recent: Key::NOWHERE,
            peers: Slab::new(),
            by_peer: PeerMap::default(),
            dials: OwnMap::default(),
            next_dial: u64::from(me.0),
            lends: Slab::new(),
            begun: Slab::new(),
            migrated_lends: OwnMap::default(),
            copy_jobs: CopyJobs::new(),
            jobs: VecDeque::new(),
            conn_timers: Timers::new(),
            peer_timers: Timers::new(),
            due: Vec::new(),
            next_ticket: 0,
            sets: 0,
            leaving: Leaving::default(),
            misrouted: Vec::new(),
            moved: Moved::default(),
        }
    }

    /// That of another NI, `nid`, at the place of one that was deleted. Its dials have other names.
    pub(crate) fn renew(&mut self, nid: Nid, incarnation: u64) {
        let next_dial = self.next_dial;
        *self = Socklnd { next_dial, ..Socklnd::new(ShardId(0), self.ni, nid, incarnation) };
    }

    /// Takes what happened to its streams.
    pub(crate) fn handle(&mut self, up: &mut U, cx: &mut Cx, happened: Happened<'_>) {
        match happened {
            Happened::Opened(id, info) => self.opened(cx, id, info),
            Happened::DialFailed(id, why) => self.dial_failed(up, cx, id, why),
            Happened::Progress(id, p) => self.progress(up, cx, id, p),
            Happened::Bytes(id, rx) => {
                if let Some(key) = self.key_of(id) {
                    self.bytes(up, cx, key, rx);
                }
            }
            Happened::LastBytes(id) => self.last_bytes(up, cx, id),
            Happened::PeerFin(id) => self.peer_fin(up, cx, id),
            Happened::Ended(id) => self.peer_gone(up, cx, id),
            Happened::Closed(id, why) => self.closed(up, cx, id, why),
            Happened::Released(id) => self.released(up, cx, id),
            // It asks for no address.
            Happened::Listening(..) => {}
            // LNet has none.
            Happened::Datagram(..) | Happened::Undelivered(..) => {}
        }
    }

    /// The next copy job to be given away.
    pub(crate) fn job(&mut self) -> Option<Box<CopyJob<U::Delivery>>> {
        self.jobs.pop_front()
    }

    /// Time at which a timer is due, in ns; `u64::MAX` for never.
    pub(crate) fn wake(&self) -> u64 {
        self.conn_timers.wake().min(self.peer_timers.wake()).min(self.leaving.look_at)
    }

    /// Whether nothing is left of it that goes down.
    pub(crate) fn gone(&self) -> bool {
        self.leaving.gone() && self.conns.is_empty() && self.lends.is_empty() && self.copy_jobs.out() == 0
    }

    /// Counts of things in use now. Walks all connections and peers.
    pub(crate) fn out(&self) -> Out {
        let conns = self.conns.values();
        let peers = || self.peers.values();
        let mut out = Out {
            conns: self.conns.len(),
            peers: self.peers.len(),
            cookies: peers().map(|p| p.zc.len()).sum(),
            lends: self.lends.len(),
            queued: peers().map(|p| p.queue.len()).sum(),
            copy_jobs: self.copy_jobs.out(),
            conns_up: 0,
        };
        for c in conns {
            out.conns_up += usize::from(c.up());
            out.queued += c.txq.len();
        }
        out
    }

    /// Whether a connection is this LND's.
    pub(crate) fn has(&self, id: ConnId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// The address of its NI.
    pub(crate) fn nid(&self) -> Nid {
        self.nid
    }

    /// The next connection whose request named another NI of this node.
    pub(crate) fn misrouted(&mut self) -> Option<(NiId, Box<Conn<U>>)> {
        self.misrouted.pop()
    }

    fn opened(&mut self, cx: &mut Cx, id: ConnId, info: ConnInfo) {
        if info.dial.is_some() {
            self.opened_active(cx, id, info);
        } else {
            self.opened_passive(cx, id, info);
        }
    }

    /// The connection of that name: mostly the one that was asked for last.
    #[inline]
    fn key_of(&mut self, id: ConnId) -> Option<Key> {
        if self.conns.get(self.recent).is_none_or(|c| c.id != id) {
            self.recent = *self.by_id.get(&id)?;
        }
        Some(self.recent)
    }

    fn progress(&mut self, up: &mut U, cx: &mut Cx, id: ConnId, p: Progress) {
        let Some(key) = self.key_of(id) else { return };
        let now = cx.now;
        let Some(conn) = self.conns.get_mut(key) else { return };
        // A runtime can only report what was pushed; anything else would corrupt the arithmetic below.
        let acked = p.acked.min(conn.pushed);
        conn.sent = conn.sent.max(p.sent.min(conn.pushed)).max(acked);
        if acked <= conn.acked {
            return;
        }
        let out = conn.pushed - conn.acked;
        (conn.acked, conn.took_at) = (acked, now);
        conn.tx_deadline = now + cx.cfg.timeout();
        if conn.owed > 0 {
            let read = conn.answers_read(out);
            cx.budget.release(conn.host, Cause::Answers, read);
        }
        if !conn.up() {
            return;
        }
        if conn.standing == Standing::Held && acked == conn.pushed && conn.held_until == u64::MAX {
            conn.held_until = now + HOLD;
            self.conn_by(cx, key, now + HOLD);
        }
        let Some(conn) = self.conns.get(key) else { return };
        let queued = !conn.txq.is_empty();
        if let Some(peer) = conn.peer.and_then(|p| self.peers.get_mut(p)) {
            peer.last_alive = now;
        }
        if queued {
            self.pump(up, cx, key);
        }
    }

    fn peer_fin(&mut self, up: &mut U, cx: &mut Cx, id: ConnId) {
        if let Some(key) = self.by_id.get(&id).copied() {
            self.fin(up, cx, key);
        }
    }

    /// The peer sends no more on a connection.
    pub(super) fn fin(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        // A message that has come whole, and waits, is answered first.
        conn.fin = conn.up() && conn.rx.waits_whole() && !conn.ended;
        if conn.fin {
            return self.sender_went(up, cx, key);
        }
        if conn.up() {
            let (peer, clean) = (conn.peer, conn.rx.at_boundary());
            if self.stand(up, cx, key, StandEvent::Ended) == StandAction::EndAlone {
                return self.end_alone(up, cx, key);
            }
            cx.counters.err_eof_inside += u64::from(!clean);
            let last = |p: &Peer<U::Token>| p.conns.len() <= 1 && p.leaving.is_none();
            if !peer.and_then(|p| self.peers.get(p)).is_some_and(last) {
                self.last_call(up, cx, peer, LnetError::ConnLost, clean);
            } else {
                self.close_set(up, cx, peer, LnetError::ConnLost, clean);
            }
        } else if conn.hs.shaking() {
            cx.counters.err_eof_inside += 1;
            self.handshake_event(up, cx, key, HsEvent::Lost);
        }
    }

    fn closed(&mut self, up: &mut U, cx: &mut Cx, id: ConnId, _why: CloseWhy) {
        let Some(key) = self.by_id.remove(&id) else { return };
        match self.conns.get(key).map(|c| (c.hs, c.peer)) {
            Some((hs, _)) if hs.up() => self.conn_lost(up, cx, key),
            Some((hs, _)) if hs.shaking() => self.handshake_event(up, cx, key, HsEvent::Lost),
            _ => {}
        }
        self.drop_conn(cx, key);
        self.conn_timers.cancel(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lnet::{Lnet, TxDone};

    /// A connection stays within a page, a peer within some cache lines in each of the two layers.
    #[test]
    fn sizes() {
        assert!(size_of::<Conn<Lnet>>() <= 1024);
        assert!(size_of::<Peer<TxDone>>() <= 384);
        const { assert!(Lnet::PEER_BYTES <= 160) };
    }
}
