//! Messages that leave before they are whole, at both of their ends: the connection by which one comes, and the one by which it
//! leaves. LNet has what is between (`lnet::cut`).
//!
//! ```text
//!   in    a part has come       Upper::part        what lies in receive buffers is given up at the end of each reading
//!         the last byte came    Upper::deliver     as of any message: the zero-copy ACK goes to the sender
//!   out   begins                header and first part, on a connection with nothing before it; nothing else leaves there
//!         goes on               each part is a loan of its own; the zero-copy ACK is asked for with the first, which is held for it
//!         ends                  the queue goes on; the token is given back when the last part is home
//!         breaks off            the set ends: a header on a stream promises its payload
//! ```

use super::Socklnd;
use super::rx::{Rx, RxState};
use crate::lnd::budget::Uses;
use crate::lnd::{Cx, LnetError, Payload, Pieces, Tx, Upper, Way};
use crate::stream::LendId;
use crate::stream::slab::Key;

use super::lends::LendRec;

/// Bytes that may be before a message that begins to leave, sent and not acknowledged. With more it would wait for them, and a node
/// that takes in faster than it gives out would fill the stream's window with small parts.
pub(super) const DRAINED: u64 = 256 << 10;

/// Bytes that a stream may not have sent when a part is put on it.
const UNSENT: u64 = 64 << 10;

/// A message that leaves in parts.
#[derive(Debug)]
pub(super) struct Begun<T> {
    conn: Key,
    pub(super) peer: Key,
    /// Its payload, in bytes.
    len: u64,
    /// Bytes that have come of it, and wait for the next part.
    pieces: Pieces,
    /// Parts that are not home.
    loans: u32,
    /// No part will follow.
    over: bool,
    failed: Option<LnetError>,
    /// The peer has read it once all parts are home.
    read: bool,
    done: T,
    uses: Uses,
}

impl<U: Upper> Socklnd<U> {
    /// Gives up what has come of a message, if parts were asked for and that is enough for one.
    pub(super) fn part_came(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let Some(c) = self.conns.get_mut(key).filter(|c| !c.jobs_out()) else { return };
        let Rx { state, placement, parts, ticket, hdr, delivery, .. } = &mut c.rx;
        let (Some(placement), Some(hdr)) = (placement, hdr) else { return };
        if *state != RxState::LnetPayload || !parts.asked_of(*ticket) {
            return;
        }
        if !parts.is_one(placement.done()) {
            return;
        }
        parts.came(placement.done());
        up.part(cx, delivery, placement.take_part(), hdr);
    }

    /// Puts a header and the first part of its payload on a stream; gives the message's name.
    pub(super) fn begin_leaving(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        peer: Key,
        tx: &mut Tx<U::Token>,
        way: Way,
    ) -> Key {
        tx.begins = true;
        self.push(up, cx, way.conn, peer, tx);
        self.conns.get(way.conn).map_or(Key::NOWHERE, |c| c.begun)
    }

    /// A message is on a stream with `payload` bytes of its payload; takes its token.
    pub(super) fn begun_leaving(
        &mut self,
        (conn, peer): (Key, Key),
        tx: &mut Tx<U::Token>,
        payload: u64,
    ) -> Key {
        let len = tx.hdr.as_ref().map_or(payload, |h| h.payload_len.into());
        let (uses, done) = (tx.uses(), std::mem::take(&mut tx.done));
        let pieces = Pieces::default();
        let begun =
            Begun { conn, peer, len, pieces, loans: 1, over: false, failed: None, read: false, done, uses };
        let key = self.begun.insert(begun);
        if let Some(c) = self.conns.get_mut(conn) {
            (c.window, c.begun) = (0, key);
        }
        key
    }

    /// Puts the next part of a message on its stream. While that has not sent what it has, parts wait for the next one: they would
    /// leave no sooner, in more and smaller segments.
    pub(super) fn leave_on(&mut self, up: &mut U, cx: &mut Cx, begun: Key, pieces: Pieces, last: bool) {
        let (me, number) = (cx.cfg.shards.me, self.ni.0);
        let Some(b) = self.begun.get_mut(begun).filter(|b| !b.over) else { return };
        let Some(c) = self.conns.get_mut(b.conn) else { return };
        b.pieces.append(pieces);
        if !last && c.pushed - c.sent.min(c.pushed) > UNSENT {
            return;
        }
        let pieces = std::mem::take(&mut b.pieces);
        let (conn, peer, all, len) = (b.conn, b.peer, b.len, pieces.bytes());
        b.over = last;
        b.loans += 1;
        if c.pushed == c.acked {
            c.tx_deadline = cx.now + cx.cfg.timeout();
        }
        c.pushed += len;
        if c.id.shard != me {
            c.sent = c.pushed;
        }
        let (id, bucket, end, deadline) = (c.id, c.bucket, c.pushed, c.tx_deadline);
        let until = cx.now + cx.cfg.timeout();
        if last {
            (c.window, c.begun) = (cx.cfg.tx_window, Key::NOWHERE);
        }
        let name = |k| LendId::new(bucket, me, number, k);
        let lend = self.lends.insert_with(|k| LendRec {
            name: name(k),
            done: U::Token::default(),
            peer,
            end,
            held: false,
            failed: None,
            read: false,
            uses: Uses::default(),
            until,
            whole: begun,
        });
        self.note_lend(conn, lend);
        self.conn_by(cx, conn, deadline);
        cx.counters.payload_tx_bytes += len;
        self.moved.send_bytes += len;
        if let Some(p) = self.peers.get_mut(peer) {
            p.moved.send_bytes += len;
        }
        if let Some(msg) = cx.actions.send(id)
            && let Payload::Pages(pages) = Payload::part(pieces)
        {
            (msg.lend, msg.pay) = (Some(name(lend)), pages);
        }
        if last {
            cx.counters.forwarded_msgs += 1;
            cx.counters.forwarded_bytes += all;
            self.pump(up, cx, conn);
        }
    }

    /// The rest of a message will not come: ends the set that it was leaving on; gives whether that was there still.
    pub(super) fn break_off_begun(&mut self, up: &mut U, cx: &mut Cx, begun: Key) -> bool {
        let Some(peer) = self.begun.get(begun).filter(|b| !b.over).map(|b| b.peer) else { return false };
        self.close_set(up, cx, Some(peer), LnetError::BrokenOff, false);
        true
    }

    /// The connection of a message has ended before the last part was on it.
    pub(super) fn begun_fails(&mut self, up: &mut U, cx: &mut Cx, begun: Key, why: LnetError) {
        if let Some(b) = self.begun.get_mut(begun) {
            (b.over, b.failed, b.pieces) = (true, Some(why), Pieces::default());
        }
        self.end_begun(up, cx, begun);
    }

    /// A part of a message is home.
    pub(super) fn part_home(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        begun: Key,
        failed: Option<LnetError>,
        read: bool,
    ) {
        if let Some(b) = self.begun.get_mut(begun) {
            b.loans = b.loans.saturating_sub(1);
            b.failed = b.failed.or(failed);
            b.read |= read;
        }
        self.end_begun(up, cx, begun);
    }

    /// Ends a message all of whose parts are home, and behind which none follows.
    fn end_begun(&mut self, up: &mut U, cx: &mut Cx, begun: Key) {
        if self.begun.get(begun).is_some_and(|b| b.over && b.loans == 0)
            && let Some(b) = self.begun.remove(begun)
        {
            let status = b.failed.map_or(Ok(()), Err);
            if b.read && status.is_ok() {
                up.read(&b.done);
            }
            self.finalize(up, cx, b.peer, b.uses, b.done, status);
        }
    }
}
