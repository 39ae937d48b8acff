//! The machine: its state, its inputs and outputs.

use std::collections::{HashMap, VecDeque};

use super::api::{Event, LnetError, Op};
use super::boxes::Boxes;
use super::budget::{Budget, Cause, Uses};
use super::config::Config;
use super::conn::Conn;
use super::counters::Counters;
use super::hello::HsEvent;
use super::homes::{BUCKETS, Bucket, Homes};
use super::io::{AppId, CloseWhy, ConnId, ConnInfo, DialId, Input, LendId, Output, Progress, ShardId};
use super::leaving::Leaving;
use super::lnet::TxDone;
use super::lnet::ops::Ops;
use super::lnet::own::OwnMessage;
use super::lnet::portal::Portals;
use super::lnet::remote::{Body, ShardMsg};
use super::moving::Arrival;
use super::peer::Peer;
use super::slab::{Key, Slab};
use super::standing::{HOLD, StandAction, StandEvent, Standing};
use super::timers::Timers;
use super::tunables::Change;
use crate::hash::OwnMap;
use crate::wire::ProcessId;

/// What a message costs a home without its payload, in ns.
const MESSAGE_NS: u64 = 500;
/// Outputs that room is kept for when there are none: what ends for all peers at once may be a hundred times as many.
const OUT_KEPT: usize = 4096;
/// Bytes copied or summed in a ns: what a core does out of cache (`pollnd bench cpt`).
pub(crate) const BYTES_A_NS: u64 = 6;

/// Pages on loan to a connection.
#[derive(Debug)]
pub(super) struct LendRec {
    /// What the runtime knows it by.
    pub(super) name: LendId,
    pub(super) done: TxDone,
    pub(super) peer: Key,
    /// Stream position of the message's end.
    pub(super) end: u64,
    /// Waits for a zero-copy ACK.
    pub(super) held: bool,
    pub(super) failed: Option<LnetError>,
    /// Lendings that a REPLY takes, which its peer is charged for; 0 for an operation of our own.
    pub(super) pieces: u32,
}

/// What is out at the moment: all zero (but `conns_up`, `peers` and `entries`) when a node is quiet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Connections that passed the HELLO.
    pub conns_up: usize,
    /// Connections in any state, closing ones too.
    pub conns: usize,
    /// Peers remembered.
    pub peers: usize,
    /// Zero-copy cookies pending.
    pub cookies: usize,
    /// Lends not released.
    pub lends: usize,
    /// Messages that hold credits.
    pub credits_used: usize,
    /// Operations that wait for an answer.
    pub ops: usize,
    /// Match entries attached or in use.
    pub entries: usize,
    /// Messages queued for a credit, a connection or room on a stream.
    pub queued: usize,
    /// Messages in boxes.
    pub boxes: usize,
}

/// One shard of a node. See the [module](super) for how it is driven.
pub struct Machine {
    pub(super) cfg: Config,
    /// Time of the present input, in ns.
    pub(super) now: u64,
    pub(super) counters: Counters,
    pub(super) out: VecDeque<Output>,
    pub(super) conns: Slab<Conn>,
    pub(super) by_id: OwnMap<ConnId, Key>,
    pub(super) embryonic: usize,
    pub(super) budget: Budget,
    pub(super) peers: Slab<Peer>,
    pub(super) by_peer: HashMap<ProcessId, Key>,
    /// Whom an operation was for last: most are for the same, and the map hashes its keys with care.
    pub(super) recent: Option<Key>,
    pub(super) homes: Homes,
    /// What each bucket's messages have cost, in ns, by estimate.
    pub(super) load: Box<[u64; BUCKETS]>,
    pub(super) dials: OwnMap<DialId, Key>,
    pub(super) next_dial: u64,
    pub(super) lends: Slab<LendRec>,
    /// Lends that came with a peer that moved here.
    pub(super) adopted: OwnMap<LendId, Key>,
    pub(super) arrival: Option<Arrival>,
    pub(super) ops: Ops,
    pub(super) portals: Portals,
    pub(super) boxes: Boxes,
    /// Messages of this node to itself that wait for a match entry's sink.
    pub(super) own: Slab<OwnMessage>,
    /// What messages to all peers hold of the NI's credits and the lendings.
    pub(super) ni: Uses,
    /// Peers to whom an operation of our own waits for an NI credit.
    pub(super) ni_waiters: VecDeque<Key>,
    /// Peers to look at again before this input is done.
    pub(super) kicks: VecDeque<Key>,
    pub(super) conn_timers: Timers,
    pub(super) peer_timers: Timers,
    /// Room for what is due.
    pub(super) due: Vec<u32>,
    pub(super) next_ticket: u64,
    /// Set while going down; emptied when the event is out.
    pub(super) shutdown: Option<(AppId, u64)>,
    pub(super) down: bool,
    pub(super) leaving: Leaving,
    pub(super) ping_info: Vec<u8>,
}

impl Machine {
    /// A machine with no connections.
    pub fn new(cfg: Config) -> Machine {
        let mut ping_info = Vec::new();
        // Without a status kernels ask again without pause (lnet.md §6.2).
        let features = cfg.ping_features | crate::wire::ping::FEAT_NI_STATUS;
        let info = crate::wire::PingInfo::single(cfg.nid, cfg.pid, features, cfg.ping_sequence);
        info.emit(&mut ping_info);
        // Each shard's handles and dials differ from the others'.
        let shards = u64::from(cfg.shards.count.max(1));
        let me = u64::from(cfg.shards.me.0);
        let first = cfg.first_object.wrapping_add(me.wrapping_mul(cfg.object_step));
        Machine {
            ops: Ops::new(cfg.interface_cookie, first, cfg.object_step.wrapping_mul(shards)),
            portals: Portals::new(cfg.shards.me),
            boxes: Boxes::new(),
            own: Slab::new(),
            now: 0,
            counters: Counters::default(),
            out: VecDeque::new(),
            conns: Slab::new(),
            by_id: OwnMap::default(),
            embryonic: 0,
            budget: Budget::new(cfg.budget),
            peers: Slab::new(),
            by_peer: HashMap::new(),
            recent: None,
            homes: Homes::new(cfg.shards.count),
            load: Box::new([0; BUCKETS]),
            dials: OwnMap::default(),
            next_dial: me,
            lends: Slab::new(),
            adopted: OwnMap::default(),
            arrival: None,
            ni: Uses::default(),
            ni_waiters: VecDeque::new(),
            kicks: VecDeque::new(),
            conn_timers: Timers::new(),
            peer_timers: Timers::new(),
            due: Vec::new(),
            next_ticket: 0,
            shutdown: None,
            down: false,
            leaving: Leaving::default(),
            ping_info,
            cfg,
        }
    }

    /// Configuration.
    pub fn config(&self) -> &Config {
        &self.cfg
    }

    /// Changes a tunable. What is timed is looked at again at the next chance; deadlines that run stay as they are,
    /// as with kernels.
    pub fn tune(&mut self, change: &Change) {
        change.apply(&mut self.cfg);
        self.look_at_all();
    }

    /// What the messages of each bucket's peers have cost this shard so far, in ns: an estimate, by messages and by bytes
    /// copied or summed.
    pub fn load(&self) -> &[u64; BUCKETS] {
        &self.load
    }

    /// A message was handled, and so many bytes of it were touched.
    pub(super) fn spent(&mut self, b: Bucket, touched: u64) {
        if let Some(ns) = self.load.get_mut(usize::from(b.0)) {
            *ns += MESSAGE_NS + touched / BYTES_A_NS;
        }
    }

    /// Counts so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What is out now. Walks all connections and peers: not for every message.
    pub fn gauges(&self) -> Gauges {
        let conns = (0..self.conns.capacity()).filter_map(|i| self.conns.get(self.conns.key_at(i)?));
        let peers = || (0..self.peers.capacity()).filter_map(|i| self.peers.get(self.peers.key_at(i)?));
        let mut g = Gauges {
            conns: self.conns.len(),
            peers: self.peers.len(),
            cookies: peers().map(|p| p.zc.len()).sum(),
            lends: self.lends.len(),
            credits_used: self.ni.credits as usize,
            ops: self.ops.len(),
            entries: self.portals.len(),
            queued: self.own.len() + peers().map(|p| p.waiting.len() + p.queue.len()).sum::<usize>(),
            boxes: self.boxes.out(),
            conns_up: 0,
        };
        for c in conns {
            g.conns_up += usize::from(c.up());
            g.queued += c.txq.len();
        }
        g
    }

    /// When to give [`Input::Timer`], in ns; `None` when nothing is timed.
    pub fn deadline(&self) -> Option<u64> {
        let timers = self.conn_timers.wake().min(self.peer_timers.wake()).min(self.ops.timers.wake());
        let wake = timers.min(self.leaving.look_at);
        (wake != u64::MAX).then_some(wake)
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        // Asked first: what is held to be looked at is copied once more.
        if self.out.is_empty() {
            if self.out.capacity() > OUT_KEPT {
                self.out.shrink_to(OUT_KEPT);
            }
            return None;
        }
        self.out.pop_front()
    }

    /// Takes what happened at `now`, in ns; `now` never goes back. All that follows from it is ready for
    /// [`Machine::poll`] when this returns.
    pub fn handle(&mut self, now: u64, input: Input<'_>) {
        self.now = self.now.max(now);
        match input {
            Input::Opened(id, info) => self.opened(id, info),
            Input::DialFailed(id, why) => self.dial_failed(id, why),
            Input::Progress(id, p) => self.progress(id, p),
            Input::Bytes(id, rx) => {
                if let Some(key) = self.by_id.get(&id).copied() {
                    self.bytes(key, rx);
                }
            }
            Input::PeerFin(id) => self.peer_fin(id),
            Input::Ended(id) => self.peer_gone(id),
            Input::Closed(id, why) => self.closed(id, why),
            Input::Released(id) => self.released(id),
            Input::Cmd(app, op) => self.command(app, op, None),
            Input::From(from, msg) => self.shard_msg(from, msg),
            Input::Adopt(from, luggage) => self.adopt(from, *luggage),
            Input::Settled(b) => self.settled(b),
            Input::Boxed(b) => self.unboxed(b),
            Input::Moved(b, home) => self.homes.set(b, home),
            Input::Timer => self.timer(),
        }
        self.settle();
    }

    /// Looks again at the peers whose credits changed, until none is left. Each round puts a message on its way
    /// or ends it, so the work is bounded by what is queued.
    pub(super) fn settle(&mut self) {
        self.leave_when_due();
        loop {
            if let Some(peer) = self.kicks.pop_front() {
                self.kick(peer);
            } else if let Some(conn) = self.budget.resumes() {
                self.resume(conn);
            } else {
                break;
            }
        }
        if let Some((app, tag)) = self.shutdown
            && self.leaving.gone()
            && self.conns.is_empty()
            && self.lends.is_empty()
            && self.ops.len() == 0
            && self.portals.len() == 0
            && self.boxes.out() == 0
        {
            self.shutdown = None;
            self.complete(app, Event::ShutDown { tag });
        }
    }

    pub(super) fn complete(&mut self, app: AppId, event: Event) {
        self.out.push_back(Output::Complete(app, event));
    }

    pub(super) fn complete_some(&mut self, event: Option<(AppId, Event)>) {
        if let Some((app, event)) = event {
            self.complete(app, event);
        }
    }

    pub(super) fn post(&mut self, to: ShardId, body: Body) {
        self.out.push_back(Output::To(to, ShardMsg(body)));
    }

    fn opened(&mut self, id: ConnId, info: ConnInfo) {
        if info.dial.is_some() {
            self.opened_active(id, info);
        } else {
            self.opened_passive(id, info);
        }
    }

    fn progress(&mut self, id: ConnId, p: Progress) {
        let Some(key) = self.by_id.get(&id).copied() else { return };
        let (now, timeout) = (self.now, self.cfg.timeout());
        let Some(conn) = self.conns.get_mut(key) else { return };
        // A runtime can only report what was pushed; anything else would corrupt the arithmetic below.
        let acked = p.acked.min(conn.pushed);
        conn.sent = conn.sent.max(p.sent.min(conn.pushed)).max(acked);
        if acked <= conn.acked {
            return;
        }
        let out = conn.pushed - conn.acked;
        conn.acked = acked;
        conn.tx_deadline = now + timeout;
        if conn.owed > 0 {
            let read = conn.answers_read(out);
            self.budget.release(conn.host, Cause::Answers, read);
        }
        if !conn.up() {
            return;
        }
        if conn.standing == Standing::Held && acked == conn.pushed && conn.held_until == u64::MAX {
            conn.held_until = now + HOLD;
            self.conn_by(key, now + HOLD);
        }
        let Some(conn) = self.conns.get(key) else { return };
        if let Some(peer) = conn.peer.and_then(|p| self.peers.get_mut(p)) {
            peer.last_alive = now;
        }
        self.pump(key);
    }

    fn peer_fin(&mut self, id: ConnId) {
        if let Some(key) = self.by_id.get(&id).copied() {
            self.fin(key);
        }
    }

    /// The peer sends no more on a connection.
    pub(super) fn fin(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        // A message that has come whole and waits for room is answered first.
        conn.fin = conn.up() && conn.rx.waits_whole() && !conn.ended;
        if conn.fin {
            return;
        }
        if conn.up() {
            let (peer, clean) = (conn.peer, conn.rx.at_boundary());
            if self.stand(key, StandEvent::Ended) == StandAction::EndAlone {
                return self.end_alone(key);
            }
            self.counters.err_eof_inside += u64::from(!clean);
            let last = |p: &Peer| p.conns.len() <= 1 && p.leaving.is_none();
            if !peer.and_then(|p| self.peers.get(p)).is_some_and(last) {
                self.last_call(peer, LnetError::ConnLost, clean);
            } else {
                self.close_set(peer, LnetError::ConnLost, clean);
            }
        } else if conn.hs.shaking() {
            self.counters.err_eof_inside += 1;
            self.handshake_event(key, HsEvent::Lost);
        }
    }

    fn closed(&mut self, id: ConnId, _why: CloseWhy) {
        let Some(key) = self.by_id.remove(&id) else { return };
        match self.conns.get(key).map(|c| (c.hs, c.peer)) {
            Some((hs, _)) if hs.up() => self.conn_lost(key),
            Some((hs, _)) if hs.shaking() => self.handshake_event(key, HsEvent::Lost),
            _ => {}
        }
        self.drop_conn(key);
        self.conn_timers.cancel(key);
    }

    fn released(&mut self, id: LendId) {
        let here = self.lends.key_at(id.slot()).filter(|k| self.lends.get(*k).is_some_and(|r| r.name == id));
        let Some(rec) = here.or_else(|| self.adopted.remove(&id)).and_then(|k| self.lends.remove(k)) else {
            return;
        };
        let answers = u32::from(rec.pieces > 0);
        if answers > 0 {
            self.answer_home(rec.peer);
        }
        let status = rec.failed.map_or(Ok(()), Err);
        self.finish(rec.peer, Uses { credits: 1, answers, pieces: rec.pieces }, rec.done, status);
    }

    pub(super) fn command(&mut self, app: AppId, op: Op, from: Option<ShardId>) {
        if self.cfg.shards.count <= 1 {
            return self.start(app, op);
        }
        let Some((app, op)) = self.holds(from, app, op) else { return };
        if let Some(owner) = self.owner_of(&op)
            && owner != self.cfg.shards.me
        {
            return self.post(owner, Body::Cmd(app, op));
        }
        self.start(app, op);
    }

    fn shard_msg(&mut self, from: ShardId, msg: ShardMsg) {
        match msg.0 {
            Body::Cmd(app, op) => self.command(app, op, Some(from)),
            Body::Ask { waiter } => self.asked(waiter),
            Body::Answer { conn, bucket, ticket, verdict } => self.answered(conn, bucket, ticket, verdict),
            Body::PutDone { grant, sink, status, data } => self.put_done(grant, sink, status, data),
            Body::Answered(target, tx) => self.answer_elsewhere(target, tx),
            Body::GetDone { grant, status } => self.get_done(grant, status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field report 2: 46 MiB stayed where the answers to 300 peers had failed at once.
    #[test]
    fn room_for_the_outputs_of_a_storm_goes_back() {
        let mut m = Machine::new(Config::new(crate::wire::Nid::LO, 1));
        let conn = ConnId { shard: ShardId(0), index: 1, generation: 1 };
        m.out.extend((0..100_000).map(|_| Output::Read(conn)));
        while m.poll().is_some() {}
        assert!(m.out.capacity() <= OUT_KEPT, "{}", m.out.capacity());
    }

    /// What is moved for every message stays within a few cache lines, and a connection within a page.
    #[test]
    fn sizes() {
        assert!(size_of::<Output>() <= 312);
        assert!(size_of::<Event>() <= 224);
        assert!(size_of::<crate::proto::txq::Tx>() <= 400);
        assert!(size_of::<Conn>() <= 1024);
        assert!(size_of::<Peer>() <= 384);
    }
}
