//! Sending: credits, the choice of connection, the stream's window, lends.

use super::api::{Event, LnetError, Payload};
use super::budget::{ANSWER, Cause, FLOOR, QUEUE, Uses, own_part, trim};
use super::choose::{self, Cargo, Fit};
use super::config::SEC;
use super::conn::Conn;
use super::handshake::append;
use super::io::{INLINE_PAYLOAD_MAX, InlineHdr, LendId, Output, Pages, SendMsg};
use super::lnet::TxDone;
use super::machine::{LendRec, Machine};
use super::peer::DialState;
use super::slab::Key;
use super::standing::{self, StandEvent, Standing};
use super::txq::{Merged, Tx};
use crate::wire::ksock::{self, COOKIE_KEEPALIVE, Checksum, KsockHdr};
use crate::wire::{ByteOrder, ConnType, Version};

impl Machine {
    /// Sends an LNet message to a peer: now, or when it has credits, a connection and room.
    pub(super) fn launch(&mut self, peer: Key, tx: Tx) {
        let Some(p) = self.peers.get(peer) else {
            return self.end_tx(peer, tx, Err(LnetError::ConnLost));
        };
        let held_up = self.held_up(p.host, &tx);
        if !p.waiting.is_empty() || p.uses.credits >= self.cfg.peer_credits || held_up {
            return self.wait_for_credit(peer, tx, held_up);
        }
        let way = self.way(peer, &tx);
        // What is on a stream at once, without pages, holds no credit meanwhile and waits in no queue.
        if tx.is_short()
            && let Some(conn) = way.filter(|c| self.is_clear(*c))
        {
            return self.push(conn, peer, tx);
        }
        if tx.answer {
            self.answer_queued(peer);
        }
        self.give_credit(peer, tx, way);
    }

    /// Keeps a message until there is a credit for it, and what else it is `held_up` by.
    fn wait_for_credit(&mut self, peer: Key, mut tx: Tx, held_up: bool) {
        if tx.answer {
            self.answer_queued(peer);
        }
        let Some(p) = self.peers.get_mut(peer) else { return };
        self.counters.credit_waits += 1;
        // Without a connection an answer waits no longer for credits than for that: dials that hang hold them.
        let deadline = if tx.answer { self.now + self.cfg.timeout() } else { u64::MAX };
        tx.deadline = deadline;
        let (first, answer) = (p.waiting.is_empty(), tx.answer);
        p.waiting.push_back(tx);
        if !p.queued && p.waiting.capacity() > FLOOR / 4 {
            p.queued = true;
            self.budget.charge(p.host, Cause::Peers, QUEUE);
        }
        if held_up && first {
            self.list(peer, answer);
        }
        if deadline != u64::MAX {
            self.peer_by(peer, deadline);
        }
    }

    /// Whether a message to a peer of the host has to wait for what the shard has for all. Answers leave a part of it to
    /// our own operations, and share the rest by host; who has to wait there has answers out, so it is woken.
    fn held_up(&self, host: Key, tx: &Tx) -> bool {
        let (ni, most) = (&self.ni, self.cfg.ni_credits);
        let own = own_part(most);
        if !tx.answer {
            return ni.credits >= most && ni.credits - ni.answers >= own;
        }
        let now = ni.credits.max(ni.answers + own);
        if now >= most / 2 && self.budget.must_wait(host, now, most) {
            return true;
        }
        let (pieces, all) = (tx.pieces(), self.cfg.lendings);
        let free = all.saturating_sub(own_part(all)).saturating_sub(ni.pieces);
        pieces > 0 && self.budget.must_wait_for_lendings(host, pieces, free)
    }

    /// The first message that waits for this peer is held up: it is looked at again when there is room.
    fn list(&mut self, peer: Key, answer: bool) {
        let Some(p) = self.peers.get_mut(peer) else { return };
        if answer && !std::mem::replace(&mut p.listed_for_host, true) {
            self.budget.waits(p.host, peer);
        } else if !answer && !std::mem::replace(&mut p.listed_for_ni, true) {
            self.ni_waiters.push_back(peer);
        }
    }

    /// Gives a message what it holds on its way, and sends it.
    fn give_credit(&mut self, peer: Key, mut tx: Tx, way: Option<Key>) {
        tx.credit = true;
        let uses = tx.uses();
        if let Some(p) = self.peers.get_mut(peer) {
            p.uses.add(uses);
            self.budget.took(p.host, uses);
        }
        self.ni.add(uses);
        self.send_by(peer, tx, way);
    }

    /// Sends what waits for credits, as far as they go.
    pub(super) fn kick(&mut self, peer: Key) {
        // What is sent here may end at once and give its credit back: the kicks that follow see to the rest.
        for _ in 0..self.cfg.peer_credits.max(1) {
            let Some(p) = self.peers.get(peer) else { return };
            let Some(tx) = p.waiting.front().filter(|_| p.uses.credits < self.cfg.peer_credits) else {
                break;
            };
            if self.held_up(p.host, tx) {
                let answer = tx.answer;
                self.list(peer, answer);
                break;
            }
            let Some(p) = self.peers.get_mut(peer) else { return };
            let Some(mut tx) = p.waiting.pop_front() else { break };
            trim(&mut p.waiting);
            tx.deadline = u64::MAX;
            let way = self.way(peer, &tx);
            self.give_credit(peer, tx, way);
        }
        self.forget_if_idle(peer);
    }

    fn take_back(&mut self, peer: Key, uses: Uses) {
        self.ni.sub(uses);
        if let Some(p) = self.peers.get_mut(peer) {
            p.uses.sub(uses);
            let host = p.host;
            if !p.waiting.is_empty() || p.conns.is_empty() {
                self.kicks.push_back(peer);
            }
            // Two, so that a host uses what others have given back, too.
            if self.budget.gave(host, uses) && self.wake_one(host) {
                self.wake_one(host);
            }
        }
        self.wake_own();
    }

    /// Looks again at the peer to whom an operation of our own has waited longest for a credit of the NI, if there is one.
    fn wake_own(&mut self) {
        let most = self.cfg.ni_credits;
        while (self.ni.credits < most || self.ni.credits - self.ni.answers < own_part(most))
            && let Some(next) = self.ni_waiters.pop_front()
        {
            let Some(p) = self.peers.get_mut(next) else { continue };
            p.listed_for_ni = false;
            // One without credits of its own is looked at when it gets some.
            if !p.waiting.is_empty() && p.uses.credits < self.cfg.peer_credits {
                self.kicks.push_back(next);
                break;
            }
        }
    }

    /// Wakes the peer that has waited longest for its host's share, of those that still do. Gives whether there is one.
    pub(super) fn wake_one(&mut self, host: Key) -> bool {
        while let Some(peer) = self.budget.next_waiter(host) {
            if let Some(p) = self.peers.get_mut(peer).filter(|p| p.host == host) {
                p.listed_for_host = false;
                if !p.waiting.is_empty() {
                    self.kicks.push_back(peer);
                    return true;
                }
            }
        }
        false
    }

    /// The best connection of a peer for a message (socklnd.md §7).
    fn choose(&self, peer: Key, cargo: Cargo) -> Option<Key> {
        // A set that is being closed carries nothing more.
        let p = self.peers.get(peer).filter(|p| p.leaving.is_none())?;
        let mut best: Option<(Fit, u64, u64, Key)> = None;
        for key in &p.conns {
            let Some(c) = self.conns.get(*key).filter(|c| c.standing != Standing::Held) else { continue };
            let fit = choose::fit(c.version, c.ctype, cargo);
            if fit == Fit::No || best.is_some_and(|b| fit < b.0) {
                continue;
            }
            let (backlog, used) = (c.backlog(), if self.cfg.round_robin { c.last_used } else { 0 });
            // Of equals the last counts: the newest connection, as with kernels.
            if best.is_none_or(|(f, b, u, _)| fit > f || (backlog, used) <= (b, u)) {
                best = Some((fit, backlog, used, *key));
            }
        }
        best.map(|b| b.3)
    }

    /// Gives a message to a connection, or keeps it until there is one.
    pub(super) fn route(&mut self, peer: Key, tx: Tx) {
        let way = self.way(peer, &tx);
        self.send_by(peer, tx, way);
    }

    /// The connection for a message, if there is one. Dials what is missing.
    fn way(&mut self, peer: Key, tx: &Tx) -> Option<Key> {
        let p = self.peers.get_mut(peer)?;
        // One that dialled us is dialled back only when its connections are gone.
        p.active |= p.conns.is_empty();
        if !p.is_whole() {
            self.maybe_dial(peer);
        }
        let bulk = tx.nob(self.version_of(peer)) >= u64::from(self.cfg.min_bulk);
        self.choose(peer, if bulk { Cargo::Bulk } else { Cargo::Small })
    }

    /// Whether a connection has room on its stream, and nothing that is before a new message.
    fn is_clear(&self, conn: Key) -> bool {
        let room = |c: &Conn| c.txq.is_empty() && c.pushed - c.acked < self.cfg.tx_window;
        self.conns.get(conn).is_some_and(room)
    }

    /// Gives a message to the connection `way`, or keeps it until there is one.
    fn send_by(&mut self, peer: Key, mut tx: Tx, way: Option<Key>) {
        if let Some(conn) = way {
            // With nothing before it and room on the stream it leaves at once; nothing could ride on it.
            if self.is_clear(conn) {
                return self.push(conn, peer, tx);
            }
            let Some(c) = self.conns.get_mut(conn) else { return };
            if c.txq.push_lnet(tx) {
                self.counters.zc_acks_merged += 1;
                self.answer_left(peer);
            }
            return self.pump(conn);
        }
        let deadline = self.now + self.cfg.timeout();
        let Some(p) = self.peers.get_mut(peer) else {
            return self.end_tx(peer, tx, Err(LnetError::Unreachable));
        };
        let hope = !self.down
            && (!p.conns.is_empty()
                || p.dial().under_way().is_some()
                || matches!(p.dial(), DialState::Waiting(_)));
        if !hope {
            let why = if self.down { LnetError::ShuttingDown } else { LnetError::Unreachable };
            return self.end_tx(peer, tx, Err(why));
        }
        if tx.deadline == u64::MAX {
            tx.deadline = deadline;
        }
        // One that was routed before keeps its deadline.
        let deadline = tx.deadline;
        p.queue.push_back(tx);
        self.peer_by(peer, deadline);
    }

    /// The version spoken with a peer, or the one to begin with.
    fn version_of(&self, peer: Key) -> Version {
        let Some(p) = self.peers.get(peer) else { return Version::V3 };
        p.version.unwrap_or_else(|| self.cfg.first_version(p.id.nid))
    }

    /// Routes again what waited for a connection.
    pub(super) fn flush(&mut self, peer: Key) {
        let n = self.peers.get(peer).map_or(0, |p| p.queue.len());
        for _ in 0..n {
            let Some(tx) = self.peers.get_mut(peer).and_then(|p| p.queue.pop_front()) else { return };
            self.route(peer, tx);
        }
    }

    /// Acknowledges a zero-copy request that came on `via` at that time, on BULK_IN if there is one (socklnd.md §6.3).
    pub(super) fn zc_ack(&mut self, peer: Key, (via, came): (Key, u64), cookie: u64, nonblk: bool) {
        self.noop(peer, Some((via, came)), cookie, nonblk);
        self.counters.zc_acks_tx += 1;
    }

    /// Sends a NOOP with this cookie, or lets it ride.
    pub(super) fn noop(&mut self, peer: Key, via: Option<(Key, u64)>, cookie: u64, nonblk: bool) {
        // A kernel whose only fitting connections may block, or that has none but an untyped one of V3, closes the set.
        // Its own requests it has answered on any connection (§6.3), so ours goes where it can.
        let fit = || {
            let may_block = || self.choose(peer, Cargo::Noop { nonblk: false });
            self.choose(peer, Cargo::Noop { nonblk }).or_else(may_block)
        };
        let conn = match via {
            None => fit(),
            // Whom we dial without privilege may know those connections as another peer's than its own (§9).
            Some((via, _)) if !self.cfg.privileged => Some(via),
            // One that is younger than the request may be of a set that the peer made since and knows no such cookie.
            Some((via, came)) => {
                let known = |k: &Key| self.conns.get(*k).is_some_and(|c| c.up_at <= came);
                fit().filter(known).or(Some(via))
            }
        };
        let Some(key) = conn else { return };
        let Some(c) = self.conns.get_mut(key) else { return };
        match c.txq.push_ack(cookie, c.ctype) {
            Merged::Queued => self.answer_queued(peer),
            Merged::Rides => self.counters.zc_acks_merged += 1,
            Merged::Needless => {}
        }
        self.pump(key);
    }

    /// Moves messages from a connection's queue to its stream while the stream has room.
    pub(super) fn pump(&mut self, key: Key) {
        loop {
            let Some(c) = self.conns.get_mut(key) else { return };
            if !c.up() || c.pushed - c.acked >= self.cfg.tx_window {
                return;
            }
            let Some(tx) = c.txq.pop() else { return };
            let Some(peer) = c.peer else { return };
            self.push(key, peer, tx);
        }
    }

    fn push(&mut self, key: Key, peer: Key, mut tx: Tx) {
        let now = self.now;
        let Some(c) = self.conns.get_mut(key) else { return };
        let version = c.version;
        let nob = tx.nob(version);
        let payload = tx.payload.len();
        if c.pushed == c.acked {
            c.tx_deadline = now + self.cfg.timeout();
        }
        c.pushed += nob;
        if c.standing == Standing::Fresh {
            c.standing = standing::next(c.standing, StandEvent::Sent).0;
        }
        c.last_used = now / SEC;
        let me = self.cfg.shards.me;
        // What another lcore was given counts as sent: the peer's ACK may get here sooner than news from there.
        if c.id.shard != me {
            c.sent = c.pushed;
        }
        let (id, bucket, end, tx_deadline) = (c.id, c.bucket, c.pushed, c.tx_deadline);
        // An answer that was in no queue is charged for from here on.
        let fresh = tx.answer && !tx.credit;
        if fresh {
            c.owed += ANSWER;
            self.budget.charge(c.host, Cause::Answers, ANSWER);
        }
        self.conn_by(key, tx_deadline);

        let pages = match &mut tx.payload {
            Payload::Inline(_) => Pages::new(),
            Payload::Pages(p) if payload as usize <= INLINE_PAYLOAD_MAX => {
                let mut b = arrayvec::ArrayVec::new();
                p.iter().for_each(|s| append(&mut b, s.bytes()));
                tx.payload = Payload::Inline(b);
                Pages::new()
            }
            Payload::Pages(p) => std::mem::take(p),
        };
        let pieces = if tx.answer { pages.len() as u32 } else { 0 };
        let lend = (!pages.is_empty()).then(|| {
            let done = std::mem::replace(&mut tx.done, TxDone::Nothing);
            let name = |key| LendId::new(bucket, me, key);
            self.lends.insert_with(|key| LendRec {
                name: name(key),
                done,
                peer,
                end,
                held: false,
                failed: None,
                pieces,
            })
        });
        let lend_id = lend.and_then(|k| self.lends.get(k)).map(|r| r.name);
        let mut hold = false;
        if let Some(k) = lend {
            // Asked only when the peer has a connection for its answer (socklnd.md §6.2, §6.3).
            if payload >= u64::from(self.cfg.zc_min_payload)
                && version.may_ask_zc(self.has_bulk_out(peer), &self.cfg)
                && let Some(p) = self.peers.get_mut(peer)
            {
                let deadline = now + self.cfg.timeout();
                tx.cookie0 = p.zc.request(k, key, end, deadline);
                hold = true;
                self.counters.zc_requested += 1;
                self.peer_by(peer, deadline);
                if let Some(rec) = self.lends.get_mut(k) {
                    rec.held = true;
                }
            }
            if let Some(c) = self.conns.get_mut(key) {
                while c.lends.front().is_some_and(|l| self.lends.get(*l).is_none()) {
                    c.lends.pop_front();
                }
                c.lends.push_back(k);
            }
        }
        let mut hdr = InlineHdr::new();
        if version.has_ksock() {
            let ksock = KsockHdr { kind: tx.kind(), csum: 0, cookie0: tx.cookie0, cookie1: tx.cookie1 };
            append(&mut hdr, &ksock.emit(ByteOrder::Little));
        }
        match &tx.hdr {
            None => {
                self.counters.noops_tx += 1;
                let keepalive = version.is_typed() && tx.cookie1 == COOKIE_KEEPALIVE;
                self.counters.keepalives_tx += u64::from(keepalive);
            }
            Some(h) => {
                append(&mut hdr, &h.emit_as(version));
                if let Payload::Inline(b) = &tx.payload {
                    append(&mut hdr, b);
                    self.counters.tx_inline_bytes += b.len() as u64;
                }
                self.counters.msgs_tx += 1;
                self.counters.payload_tx_bytes += payload;
            }
        }
        let summed = version == Version::V2 && self.cfg.enable_csum;
        if summed {
            self.sum(&mut hdr, &pages);
        }
        self.spent(bucket, if summed { payload } else { 0 });
        self.out
            .push_back(Output::Send(id, SendMsg { hdr, pay: pages, lend: lend_id, hold, answer: tx.answer }));
        if !fresh && (tx.answer || tx.hdr.is_none()) {
            self.answer_pushed(peer, key, lend.is_some());
        }
        if lend.is_none() {
            let uses = tx.uses();
            self.finish(peer, uses, tx.done, Ok(()));
        }
    }

    /// Puts the sum over a whole V2 message into its header (socklnd.md §5.3): the cookies are what they will be.
    fn sum(&mut self, hdr: &mut InlineHdr, pages: &Pages) {
        let mut sum = Checksum::default();
        sum.update(hdr);
        pages.iter().for_each(|p| sum.update(p.bytes()));
        let spoil = u32::from(std::mem::take(&mut self.cfg.inject_csum_error));
        ksock::put_csum(hdr, sum.value().wrapping_add(spoil), ByteOrder::Little);
    }

    fn has_bulk_out(&self, peer: Key) -> bool {
        self.peers.get(peer).is_some_and(|p| {
            let counts = |c: &Conn| c.ctype == ConnType::BulkOut && c.standing != Standing::Held;
            p.conns.iter().any(|c| self.conns.get(*c).is_some_and(counts))
        })
    }

    /// One answer less waits for this peer; connections that stopped reading go on when half are gone.
    fn answer_left(&mut self, peer: Key) {
        if let Some(p) = self.peers.get_mut(peer).filter(|p| p.answers > 0) {
            p.answers -= 1;
            self.budget.release(p.host, Cause::Answers, ANSWER);
        }
        self.read_on(peer);
    }

    /// Lets connections go on that stopped reading since too many answers waited for their peer.
    pub(super) fn read_on(&mut self, peer: Key) {
        let Some(p) = self.peers.get_mut(peer) else { return };
        if p.answers <= self.cfg.max_answers / 2 && !p.stalled.is_empty() {
            for key in std::mem::take(&mut p.stalled) {
                self.resume(key);
            }
        }
    }

    /// Ends a message that never reached a stream.
    pub(super) fn end_tx(&mut self, peer: Key, tx: Tx, status: Result<(), LnetError>) {
        if tx.answer || tx.hdr.is_none() {
            self.answer_left(peer);
        }
        let uses = tx.uses();
        self.finish(peer, uses, tx.done, status);
    }

    /// Ends a message that no peer was found for.
    pub(super) fn give_up(&mut self, done: TxDone) {
        if let TxDone::Reply(grant) = done {
            self.return_get(grant, Err(LnetError::Unreachable));
        }
    }

    /// A message has ended, or its pages are home: what it held serves others.
    pub(super) fn finish(&mut self, peer: Key, uses: Uses, done: TxDone, status: Result<(), LnetError>) {
        match done {
            TxDone::Nothing => {}
            TxDone::Put { app, tag } => self.complete(app, Event::Send { tag, status, done: true }),
            TxDone::Op(op) => {
                let event = self.ops.sent(op, self.now, status);
                self.complete_some(event);
            }
            TxDone::Reply(grant) => self.return_get(grant, status),
        }
        if uses.credits > 0 {
            self.take_back(peer, uses);
        }
    }
}
