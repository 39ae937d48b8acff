//! Sending: credits, the choice of connection, the stream's window, lends.

use hugepages::PageSlice;

use super::Socklnd;
use super::choose::{self, Cargo, Fit};
use super::conn::Conn;
use super::handshake::append;
use super::leaving;
use super::lends::LendRec;
use super::peer::DialState;
use super::standing::{StandEvent, Standing};
use super::txq::{self, Merged};
use crate::lnd::budget::{ANSWER, Cause};
use crate::lnd::config::SEC;
use crate::lnd::{Cx, LnetError, Payload, Tx, Upper, Way};
use crate::stream::slab::Key;
use crate::stream::{Bucket, INLINE_PAYLOAD_MAX, InlineHdr, LendId, Pages, SendMsg};
use crate::wire::ksock::{self, COOKIE_KEEPALIVE, Checksum, KsockHdr};
use crate::wire::{ByteOrder, ConnType, Version, lnet};

/// Puts the sum over a whole V2 message into its header (socklnd.md §5.3): the cookies are what they will be.
fn sum(hdr: &mut InlineHdr, pages: &Pages, spoil: u32) {
    let mut sum = Checksum::default();
    sum.update(hdr);
    pages.iter().flat_map(PageSlice::chunks).for_each(|b| sum.update(b));
    ksock::put_csum(hdr, sum.value().wrapping_add(spoil), ByteOrder::Little);
}

/// Reason why a message that goes by a gateway, or is passed on, may not leave: a NID that the version of its next hop has no form for,
/// or it is another node's and too old.
fn stays<T>(tx: &Tx<T>, version: Version, now: u64) -> Option<LnetError> {
    if version < Version::V4 && tx.hdr.is_some_and(|h| !h.fits_nid4()) {
        return Some(LnetError::Unreachable);
    }
    (tx.forwarded && tx.deadline <= now).then_some(LnetError::TimedOut)
}

/// Whether a message is bulk in this version, by what its header promises: not all of it need be here (socklnd.md §7).
#[inline]
fn is_bulk<T>(cx: &Cx, version: Version, tx: &Tx<T>) -> bool {
    let payload = tx.hdr.as_ref().map_or(0, |h| h.payload_len);
    version.hdr_len() as u64 + u64::from(payload) >= u64::from(cx.cfg.min_bulk)
}

impl<U: Upper> Socklnd<U> {
    /// The best connection of a peer for a message (socklnd.md §7), and whether no other suits as well.
    fn best(&self, cx: &Cx, peer: Key, cargo: Cargo) -> Option<(Key, bool)> {
        // A set that is being closed carries nothing more.
        let p = self.peers.get(peer).filter(|p| p.leaving.is_none())?;
        let mut best: Option<(Fit, u64, u64, Key)> = None;
        let mut only = true;
        for key in &p.conns {
            let Some(c) = self.conns.get(*key).filter(|c| c.standing != Standing::Held) else { continue };
            let fit = choose::fit(c.version, c.ctype, cargo);
            if fit == Fit::No || best.is_some_and(|b| fit < b.0) {
                continue;
            }
            let (backlog, used) = (c.backlog(), if cx.cfg.round_robin { c.last_used } else { 0 });
            only = best.is_none_or(|b| fit > b.0);
            // Of equal connections the newest is taken, as kernels do.
            if best.is_none_or(|(f, b, u, _)| fit > f || (backlog, used) <= (b, u)) {
                best = Some((fit, backlog, used, *key));
            }
        }
        best.map(|b| (b.3, only))
    }

    /// The best connection of a peer for a message.
    fn choose(&self, cx: &Cx, peer: Key, cargo: Cargo) -> Option<Key> {
        self.best(cx, peer, cargo).map(|b| b.0)
    }

    /// The best connection of a peer for a message, kept for those that follow.
    #[cold]
    fn new_usual(&mut self, cx: &Cx, peer: Key, bulk: bool) -> Option<Key> {
        let (conn, only) = self.best(cx, peer, if bulk { Cargo::Bulk } else { Cargo::Small })?;
        let p = self.peers.get_mut(peer)?;
        if p.usual.1 != self.sets {
            p.usual = ([Key::NOWHERE; 2], self.sets);
        }
        if let Some(usual) = p.usual.0.get_mut(usize::from(bulk)) {
            *usual = if only { conn } else { Key::NOWHERE };
        }
        Some(conn)
    }

    /// Gives a message to a connection, or keeps it until there is one.
    fn route(&mut self, up: &mut U, cx: &mut Cx, peer: Key, mut tx: Tx<U::Token>) {
        let way = self.way(cx, peer, &tx);
        self.send_by(up, cx, peer, &mut tx, way);
    }

    /// Whether a message goes by another connection than shorter ones.
    #[inline]
    pub(super) fn is_apart(&self, cx: &Cx, peer: Key, tx: &Tx<U::Token>) -> bool {
        // Most are shorter than bulk is in any version.
        cx.cfg.typed_conns
            && is_bulk(cx, Version::V4, tx)
            && self.peers.get(peer).is_some_and(|p| {
                let version = p.version.unwrap_or_else(|| self.version_of(cx, peer));
                let ([small, large], sets) = p.usual;
                // A peer's connections need not be typed.
                let one = small == large && small != Key::NOWHERE && sets == self.sets;
                !one && is_bulk(cx, version, tx)
            })
    }

    /// The way that a message would take, if there is one. Dials what is missing.
    #[inline]
    pub(super) fn way(&mut self, cx: &mut Cx, peer: Key, tx: &Tx<U::Token>) -> Option<Way> {
        let p = self.peers.get_mut(peer)?;
        // A peer that dialled us is dialled back only when its connections are gone.
        p.active |= p.conns.is_empty();
        let (dials, version) = (p.active && !p.is_whole(), p.version);
        if dials {
            self.maybe_dial(cx, peer);
        }
        let version = version.unwrap_or_else(|| self.version_of(cx, peer));
        let bulk = is_bulk(cx, version, tx);
        let p = self.peers.get(peer)?;
        let ([small, large], sets) = p.usual;
        let usual = match bulk {
            _ if sets != self.sets => Key::NOWHERE,
            true => large,
            false => small,
        };
        let room = |c: &Conn<U>| c.txq.is_empty() && c.pushed - c.acked < c.window;
        if let Some(c) = self.conns.get(usual) {
            return Some(Way { conn: usual, clear: room(c) });
        }
        let conn = self.new_usual(cx, peer, bulk)?;
        Some(Way { conn, clear: self.conns.get(conn).is_some_and(room) })
    }

    /// Gives a message to the connection `way`, or keeps it until there is one. A message that finds an empty
    /// queue and room on the stream leaves at once, since no ACK could ride on it.
    #[inline(always)]
    pub(super) fn send_by(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        peer: Key,
        tx: &mut Tx<U::Token>,
        way: Option<Way>,
    ) {
        match way {
            Some(Way { conn, clear: true }) => self.push(up, cx, conn, peer, tx),
            Some(Way { conn, .. }) => self.send_behind(up, cx, conn, peer, tx.take()),
            None => self.send_later(up, cx, peer, tx.take()),
        }
    }

    /// Queues a message on a connection.
    fn send_behind(&mut self, up: &mut U, cx: &mut Cx, conn: Key, peer: Key, tx: Tx<U::Token>) {
        let Some(c) = self.conns.get_mut(conn) else { return };
        let due = if tx.forwarded { tx.deadline } else { u64::MAX };
        if c.txq.push_lnet(tx) {
            cx.counters.zc_acks_merged += 1;
            self.answer_left(up, cx, peer);
        }
        self.conn_by(cx, conn, due);
        self.pump(up, cx, conn);
    }

    /// Keeps a message until there is a connection, if one may come.
    fn send_later(&mut self, up: &mut U, cx: &mut Cx, peer: Key, mut tx: Tx<U::Token>) {
        let deadline = cx.now + cx.cfg.timeout();
        let Some(p) = self.peers.get_mut(peer) else {
            return self.end_tx(up, cx, peer, tx, Err(LnetError::Unreachable));
        };
        let leaves = self.leaving.begun();
        let hope = !cx.down
            && !leaves
            && (!p.conns.is_empty()
                || p.dial().under_way().is_some()
                || matches!(p.dial(), DialState::Waiting(_)));
        if !hope {
            let why = if leaves { leaving::why(cx) } else { LnetError::Unreachable };
            return self.end_tx(up, cx, peer, tx, Err(why));
        }
        if tx.deadline == u64::MAX {
            tx.deadline = deadline;
        }
        // A message that was routed before keeps its deadline.
        let deadline = tx.deadline;
        p.queue.push_back(tx);
        self.peer_by(cx, peer, deadline);
    }

    /// The version spoken with a peer, or the one to begin with.
    fn version_of(&self, cx: &Cx, peer: Key) -> Version {
        let Some(p) = self.peers.get(peer) else { return Version::V3 };
        p.version.unwrap_or_else(|| cx.cfg.first_version(p.id.nid))
    }

    /// Routes the messages again that waited for a connection.
    pub(super) fn flush(&mut self, up: &mut U, cx: &mut Cx, peer: Key) {
        let n = self.peers.get(peer).map_or(0, |p| p.queue.len());
        for _ in 0..n {
            let Some(tx) = self.peers.get_mut(peer).and_then(|p| p.queue.pop_front()) else { return };
            self.route(up, cx, peer, tx);
        }
    }

    /// Acknowledges a zero-copy request that came on `via` at that time, on BULK_IN if there is one (socklnd.md §6.3).
    pub(super) fn zc_ack(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        peer: Key,
        (via, came): (Key, u64),
        cookie: u64,
        nonblk: bool,
    ) {
        self.noop(up, cx, peer, Some((via, came)), cookie, nonblk);
        cx.counters.zc_acks_tx += 1;
    }

    /// Sends a NOOP with this cookie, or lets it ride.
    pub(super) fn noop(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        peer: Key,
        via: Option<(Key, u64)>,
        cookie: u64,
        nonblk: bool,
    ) {
        // A kernel closes the set where each connection that fits may block, or where it has only an untyped one of V3. But
        // it takes ACKs of its own requests on any connection (§6.3), so ours goes wherever it can.
        let fit = || {
            let may_block = || self.choose(cx, peer, Cargo::Noop { nonblk: false });
            self.choose(cx, peer, Cargo::Noop { nonblk }).or_else(may_block)
        };
        let conn = match via {
            None => fit(),
            // A peer that we dial without privilege may know those connections as another peer's than its own (§9).
            Some((via, _)) if !cx.cfg.privileged => Some(via),
            // A connection younger than the request may be of a newer set of the peer's, which knows no such cookie.
            Some((via, came)) => {
                let known = |k: &Key| self.conns.get(*k).is_some_and(|c| c.up_at <= came);
                fit().filter(known).or(Some(via))
            }
        };
        let Some(key) = conn else { return };
        let Some(c) = self.conns.get_mut(key) else { return };
        match c.txq.push_ack(cookie) {
            Merged::Queued => self.answer_queued(cx, peer),
            Merged::Rides => cx.counters.zc_acks_merged += 1,
            Merged::Needless => {}
        }
        self.pump(up, cx, key);
    }

    /// Moves messages from a connection's queue to its stream while the stream has room.
    pub(super) fn pump(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        loop {
            let Some(c) = self.conns.get_mut(key) else { return };
            if !c.up() || c.pushed - c.acked >= c.window {
                return;
            }
            let Some(mut tx) = c.txq.pop() else { return };
            let Some(peer) = c.peer else { return };
            self.push(up, cx, key, peer, &mut tx);
        }
    }

    /// Puts a message on a stream, taking it out of its place.
    pub(super) fn push(&mut self, up: &mut U, cx: &mut Cx, key: Key, peer: Key, tx: &mut Tx<U::Token>) {
        let now = cx.now;
        let Some(c) = self.conns.get_mut(key) else { return };
        let version = c.version;
        if (tx.forwarded || tx.routed)
            && let Some(why) = stays(tx, version, now)
        {
            self.not_pushed(up, cx, peer, tx, why);
            if tx.cookie1 == 0 {
                return;
            }
            // The ACK that rides on it leaves by itself.
            *tx = txq::noop(tx.cookie1);
            self.answer_queued(cx, peer);
        }
        let Some(c) = self.conns.get_mut(key) else { return };
        let nob = tx.nob(version);
        let payload = tx.payload.len();
        if c.pushed == c.acked {
            c.tx_deadline = now + cx.cfg.timeout();
        }
        c.pushed += nob;
        if c.standing == Standing::Fresh {
            c.standing.apply(StandEvent::Sent);
        }
        c.last_used = now / SEC;
        let me = cx.cfg.shards.me;
        // Bytes that another lcore was given count as sent: the peer's ACK may get here sooner than news from there.
        if c.id.shard != me {
            c.sent = c.pushed;
        }
        let (id, bucket, end, tx_deadline) = (c.id, c.bucket, c.pushed, c.tx_deadline);
        // An answer that passed through no queue is charged for from here on.
        let fresh = tx.answer && !tx.credit;
        if fresh {
            c.owed += ANSWER;
            cx.budget.charge(c.host, Cause::Answers, ANSWER);
        }
        self.conn_by(cx, key, tx_deadline);

        let pieces = match &mut tx.payload {
            Payload::Inline(_) => 0,
            Payload::Pages(p) if payload as usize <= INLINE_PAYLOAD_MAX => {
                let mut b = arrayvec::ArrayVec::new();
                p.iter().flat_map(PageSlice::chunks).for_each(|part| append(&mut b, part));
                tx.payload = Payload::Inline(b);
                0
            }
            Payload::Pages(p) => p.len() as u32,
        };
        let (lend, hold) = if pieces == 0 {
            (None, false)
        } else {
            let (name, hold) = self.lend(cx, (key, peer), tx, (bucket, version), (payload, end));
            (Some(name), hold)
        };
        let summed = version == Version::V2 && cx.cfg.enable_csum;
        let spoil = u32::from(summed && std::mem::take(&mut cx.cfg.inject_csum_error));
        match &tx.hdr {
            None => {
                cx.counters.noops_tx += 1;
                let keepalive = version.is_typed() && tx.cookie1 == COOKIE_KEEPALIVE;
                cx.counters.keepalives_tx += u64::from(keepalive);
            }
            Some(hdr) => {
                if let Payload::Inline(b) = &tx.payload {
                    cx.counters.tx_inline_bytes += b.len() as u64;
                }
                cx.counters.msgs_tx += 1;
                cx.counters.payload_tx_bytes += payload;
                // One that begins is counted when all of it has left.
                if tx.forwarded && !tx.begins {
                    cx.counters.forwarded_msgs += 1;
                    cx.counters.forwarded_bytes += payload;
                }
                self.moved.left(hdr, payload);
                if let Some(p) = self.peers.get_mut(peer) {
                    p.moved.left(hdr, payload);
                }
            }
        }
        cx.spent(bucket, if summed { payload } else { 0 });
        // Filled in its place: headers are most of what an order has, and are not moved.
        if let Some(msg) = cx.actions.send(id) {
            (msg.lend, msg.hold, msg.answer) = (lend, hold, tx.answer);
            let SendMsg { hdr, pay, .. } = msg;
            if let Payload::Pages(p) = &mut tx.payload {
                *pay = std::mem::take(p);
            }
            // All fits: INLINE_MAX is the longest headers and payload. Each header is copied by its constant length.
            if version.has_ksock() {
                let ksock = KsockHdr { kind: tx.kind(), csum: 0, cookie0: tx.cookie0, cookie1: tx.cookie1 };
                let _ = hdr.try_extend_from_slice(&ksock.emit(ByteOrder::Little));
            }
            if let Some(h) = &tx.hdr {
                let at = hdr.len();
                if version == Version::V4 {
                    let _ = hdr.try_extend_from_slice(&h.emit_v4());
                } else if hdr.try_extend_from_slice(&[0; lnet::LEN]).is_ok()
                    && let Some(b) = hdr.get_mut(at..).and_then(<[u8]>::first_chunk_mut)
                {
                    h.emit_to(b);
                }
                if let Payload::Inline(b) = &tx.payload
                    && !b.is_empty()
                {
                    append(hdr, b);
                }
            }
            if summed {
                sum(hdr, pay, spoil);
            }
        }
        if !fresh && (tx.answer || tx.hdr.is_none()) {
            self.answer_pushed(up, cx, peer, key, lend.is_some());
        }
        if lend.is_none() {
            let uses = tx.uses();
            let done = std::mem::take(&mut tx.done);
            self.finalize(up, cx, peer, uses, done, Ok(()));
        }
    }

    /// Ends a message to a node behind a gateway, or another node's, that is not put on a stream.
    #[cold]
    fn not_pushed(&mut self, up: &mut U, cx: &mut Cx, peer: Key, tx: &mut Tx<U::Token>, why: LnetError) {
        cx.counters.err_queue_timeout += u64::from(why == LnetError::TimedOut);
        let (uses, done) = (tx.uses(), std::mem::take(&mut tx.done));
        self.finalize(up, cx, peer, uses, done, Err(why));
    }

    /// Ends messages of other nodes that have waited too long in the queue of a connection; looks again when the next one has.
    pub(super) fn end_overdue(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        while let Some(c) = self.conns.get_mut(key)
            && let Some(due) = c.txq.due()
        {
            if due > cx.now {
                return self.conn_by(cx, key, due);
            }
            let Some(peer) = c.peer else { return };
            let Some(tx) = c.txq.take_overdue(cx.now) else { return };
            if tx.cookie1 != 0 {
                // The ACK that rode on it has its place.
                self.answer_queued(cx, peer);
            }
            cx.counters.err_queue_timeout += 1;
            self.end_tx(up, cx, peer, tx, Err(LnetError::TimedOut));
        }
    }

    /// Lends the pages of a message, whose payload ends at `end` of the stream; gives the loan's name, and whether the pages
    /// are held for a zero-copy ACK.
    #[inline(never)]
    fn lend(
        &mut self,
        cx: &mut Cx,
        (key, peer): (Key, Key),
        tx: &mut Tx<U::Token>,
        (bucket, version): (Bucket, Version),
        (payload, end): (u64, u64),
    ) -> (LendId, bool) {
        let (me, number) = (cx.cfg.shards.me, self.ni.0);
        let until = if tx.forwarded { cx.now + cx.cfg.timeout() } else { u64::MAX };
        let whole = if tx.begins { self.begun_leaving((key, peer), tx, payload) } else { Key::NOWHERE };
        let (done, uses) = (std::mem::take(&mut tx.done), tx.uses());
        let (held, failed, read) = (false, None, version.reads_what_tcp_has());
        let name = |k| LendId::new(bucket, me, number, k);
        let k = self.lends.insert_with(|k| LendRec {
            name: name(k),
            done,
            peer,
            end,
            held,
            failed,
            read,
            uses,
            until,
            whole,
        });
        let mut hold = false;
        // By what its header promises, of a message that is not whole.
        let promised = if tx.begins { tx.hdr.as_ref().map_or(0, |h| h.payload_len.into()) } else { payload };
        // A zero-copy ACK is asked for only if the peer has a connection for it (socklnd.md §6.2, §6.3).
        if promised >= u64::from(cx.cfg.zc_min_payload)
            && version.may_ask_zc(self.has_bulk_out(peer), &cx.cfg)
            && let Some(p) = self.peers.get_mut(peer)
        {
            let deadline = cx.now + cx.cfg.timeout();
            tx.cookie0 = p.zc.request(k, key, end - payload, deadline);
            hold = true;
            cx.counters.zc_requested += 1;
            self.peer_by(cx, peer, deadline);
            if let Some(rec) = self.lends.get_mut(k) {
                (rec.held, rec.read) = (true, true);
            }
        }
        self.note_lend(key, k);
        (name(k), hold)
    }

    /// A connection has one more loan.
    pub(super) fn note_lend(&mut self, conn: Key, lend: Key) {
        if let Some(c) = self.conns.get_mut(conn) {
            while c.lends.front().is_some_and(|l| self.lends.get(*l).is_none()) {
                c.lends.pop_front();
            }
            c.lends.push_back(lend);
        }
    }

    fn has_bulk_out(&self, peer: Key) -> bool {
        self.peers.get(peer).is_some_and(|p| {
            let counts = |c: &Conn<U>| c.ctype == ConnType::BulkOut && c.standing != Standing::Held;
            p.conns.iter().any(|c| self.conns.get(*c).is_some_and(counts))
        })
    }

    /// Counts one answer less that waits for this peer; its stalled connections go on when half of them are gone.
    pub(super) fn answer_left(&mut self, up: &mut U, cx: &mut Cx, peer: Key) {
        if let Some(p) = self.peers.get_mut(peer).filter(|p| p.answers > 0) {
            p.answers -= 1;
            cx.budget.release(p.host, Cause::Answers, ANSWER);
        }
        self.read_on(up, cx, peer);
    }

    /// Lets connections go on that stopped reading since too many answers waited for their peer.
    pub(super) fn read_on(&mut self, up: &mut U, cx: &mut Cx, peer: Key) {
        let Some(p) = self.peers.get_mut(peer) else { return };
        if p.answers <= cx.cfg.max_answers / 2 && !p.stalled.is_empty() {
            for key in std::mem::take(&mut p.stalled) {
                self.resume(up, cx, key);
            }
        }
    }

    /// Ends a message that never reached a stream.
    pub(super) fn end_tx(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        peer: Key,
        tx: Tx<U::Token>,
        status: Result<(), LnetError>,
    ) {
        if tx.answer || tx.hdr.is_none() {
            self.answer_left(up, cx, peer);
        }
        if tx.hdr.is_some()
            && let Err(why) = status
            && let Some((above, alone)) = self.peers.get(peer).map(|p| (p.up, p.conns.is_empty()))
        {
            up.unsent(cx, above, tx, why);
            if alone {
                // It may be forgotten now.
                up.kick(above);
            }
            return;
        }
        let uses = tx.uses();
        self.finalize(up, cx, peer, uses, tx.done, status);
    }
}
