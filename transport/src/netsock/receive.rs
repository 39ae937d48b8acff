//! Readers: headers, and payload on its way into buffers.

use super::buffer::{BufEvent, Place};
use super::conn::{ConnState, RxEvent, RxState};
use super::judge::Verdict;
use super::list::List;
use super::{Refusal, Tm};
use crate::stream::slab::Key;
use crate::stream::{Action, Close, StreamRx};
use crate::wire::netsock::{PacketHdr, PacketType, errno};

/// Most payload of a refused packet that is read to its end, in bytes: Motr dies when the connection that it writes on is
/// closed in mid-packet. A longer one ends the connection at its header.
const DRAIN: u64 = 64 << 20;

impl Tm {
    /// A connection has bytes.
    pub(super) fn bytes(&mut self, c: Key, rx: &mut dyn StreamRx) {
        if let Some(conn) = self.conns.get_mut(c) {
            conn.heard = self.now;
        }
        while self.read_on(c, rx) {}
        self.watch(c);
    }

    /// Notes until when more must come.
    pub(super) fn watch(&mut self, c: Key) {
        let Some(conn) = self.conns.get_mut(c) else { return };
        let since = match conn.rx.state.get() {
            RxState::Idle => u64::MAX,
            RxState::Parked if self.press.fits(&conn.rx) => u64::MAX,
            RxState::Parked => conn.rx.since,
            RxState::Header | RxState::Payload | RxState::Drain => self.now,
        };
        conn.rx.deadline = since.saturating_add(self.cfg.stall);
        let at = conn.deadline();
        self.conn_timers.by(self.now, c, at);
    }

    /// Reads on; `false` when there is nothing to read, or nothing may be.
    fn read_on(&mut self, c: Key, rx: &mut dyn StreamRx) -> bool {
        let Some(conn) = self.conns.get_mut(c).filter(|c| c.state != ConnState::Closing) else {
            return false;
        };
        match conn.rx.state.get() {
            RxState::Idle | RxState::Header => {
                let n = rx.read(conn.rx.room());
                if n == 0 {
                    return false;
                }
                if conn.rx.state == RxState::Idle {
                    conn.rx.state.apply(RxEvent::Bytes);
                }
                match conn.rx.came(n) {
                    None => {}
                    Some(Ok(h)) => self.packet(c, &h),
                    Some(Err(e)) => self.refuse(c, Refusal::Packet(e), None),
                }
                true
            }
            RxState::Parked => false,
            RxState::Payload | RxState::Drain => self.payload(c, rx),
        }
    }

    fn packet(&mut self, c: Key, h: &PacketHdr) {
        self.stats.packets_rx += 1;
        match self.judge(c, h) {
            Ok(Verdict::Fill(b)) => self.bind(c, b, h),
            Ok(Verdict::Message) => match self.buffer_for(h.total) {
                Some(b) => self.bind(c, b, h),
                None => self.park(c, h),
            },
            Ok(Verdict::Serve(b)) => {
                self.reads(c, RxEvent::Get);
                self.serve(c, b, h.src);
                self.between(c);
            }
            Ok(Verdict::Late) => self.drain(c, h.size),
            Err((why, buffer)) => {
                if let Some(b) = buffer {
                    self.end(b, why.errno());
                }
                self.refuse(c, why, Some(h));
            }
        }
    }

    /// Refuses a packet. Its connection ends: at once if the bytes are no packet or the payload is too long to read, else when
    /// the peer is quiet.
    pub(super) fn refuse(&mut self, c: Key, why: Refusal, h: Option<&PacketHdr>) {
        let Some(conn) = self.conns.get_mut(c) else { return };
        let at = conn.at;
        conn.refused = true;
        self.note(at, why);
        // Whether payload follows a GET that says so, nobody knows.
        let known = |h: &&PacketHdr| h.size <= if h.kind == PacketType::Put { DRAIN } else { 0 };
        match h.filter(known) {
            Some(h) => {
                match h.kind {
                    PacketType::Put => self.drain(c, h.size),
                    PacketType::Get => self.reads(c, RxEvent::Get),
                }
                self.doom(c);
            }
            None => self.close(c, Close::Fin, errno::ECONNRESET),
        }
    }

    /// Reads the payload of a packet for nobody.
    fn drain(&mut self, c: Key, size: u64) {
        if let Some(conn) = self.conns.get(c).filter(|c| c.rx.state == RxState::Parked) {
            self.actions.push_back(Action::Read(conn.id));
            self.parked.remove(&mut self.conns, c);
        }
        self.reads(c, RxEvent::Refuse);
        if let Some(conn) = self.conns.get_mut(c) {
            conn.rx.left = size;
        }
        if size == 0 {
            self.packet_done(c);
        }
    }

    fn reads(&mut self, c: Key, event: RxEvent) {
        if let Some(conn) = self.conns.get_mut(c) {
            let moved = conn.rx.state.apply(event);
            debug_assert!(moved.is_some(), "{event:?} in {:?}", conn.rx.state);
        }
    }

    /// The first buffer for messages that holds so many bytes.
    pub(super) fn buffer_for(&self, total: u64) -> Option<Key> {
        let mut at = self.messages.head();
        while let Some(b) = at {
            if self.bufs.get(b).and_then(|b| b.sink.as_ref()).is_some_and(|s| s.size() >= total) {
                return Some(b);
            }
            at = List::after(&self.bufs, b);
        }
        None
    }

    fn park(&mut self, c: Key, h: &PacketHdr) {
        self.stats.parked += 1;
        self.starved = true;
        self.reads(c, RxEvent::Full);
        if let Some(conn) = self.conns.get_mut(c) {
            (conn.rx.packet, conn.rx.since) = (Some(*h), self.now);
        }
        self.parked.push_back(&mut self.conns, c);
        self.press.begins();
    }

    /// A buffer waits for a message: behind the others, or before them when it was half filled. A connection whose message was
    /// waiting for such a one goes on.
    pub(super) fn wait_for_message(&mut self, b: Key, first: bool) {
        let size = self.bufs.get(b).and_then(|b| b.sink.as_ref()).map_or(0, super::Sink::size);
        if let Some((c, h)) = self.next_parked(size) {
            if let Some(conn) = self.conns.get(c) {
                self.actions.push_back(Action::Read(conn.id));
            }
            self.parked.remove(&mut self.conns, c);
            self.bind(c, b, &h);
            return self.watch(c);
        }
        if let Some(buf) = self.bufs.get_mut(b) {
            buf.place = Place::Messages;
        }
        if first {
            self.messages.push_front(&mut self.bufs, b);
        } else {
            self.messages.push_back(&mut self.bufs, b);
        }
    }

    /// The payload of a packet goes into a buffer.
    fn bind(&mut self, c: Key, b: Key, h: &PacketHdr) {
        self.reads(c, RxEvent::Bind);
        self.moves(b, BufEvent::Fill);
        let (Some(conn), Some(buf)) = (self.conns.get_mut(c), self.bufs.get_mut(b)) else { return };
        (conn.rx.packet, conn.rx.buf, conn.rx.left) = (Some(*h), b, h.size);
        conn.rx.since = self.now;
        (buf.filler, buf.other) = (c, h.src);
        if buf.place == Place::Messages {
            buf.place = Place::Nowhere;
            self.messages.remove(&mut self.bufs, b);
        }
        if !self.parked.is_empty() {
            self.press.by(self.now.saturating_add(self.cfg.patience));
        }
        if h.size == 0 {
            self.packet_done(c);
        }
    }

    /// Takes payload; `false` when there is none yet.
    fn payload(&mut self, c: Key, rx: &mut dyn StreamRx) -> bool {
        let Some(conn) = self.conns.get_mut(c) else { return false };
        let left = conn.rx.left;
        let n = match self.bufs.get_mut(conn.rx.buf).and_then(|b| b.sink.as_mut()) {
            Some(sink) => {
                let (n, copied) = sink.take(left, rx);
                self.stats.bytes_rx += n;
                self.stats.copied += copied;
                n
            }
            None => {
                let n = skip(rx, left);
                self.stats.drained += n;
                n
            }
        };
        conn.rx.left -= n;
        if conn.rx.left == 0 {
            self.packet_done(c);
        }
        n > 0
    }

    /// A packet has come to its end.
    fn packet_done(&mut self, c: Key) {
        let Some(conn) = self.conns.get_mut(c) else { return };
        conn.rx.state.apply(RxEvent::Done);
        let b = std::mem::replace(&mut conn.rx.buf, Key::NOWHERE);
        let total = conn.rx.packet.take().map_or(0, |h| h.total);
        if let Some(buf) = self.bufs.get_mut(b) {
            (buf.len, buf.filler) = (total, Key::NOWHERE);
            self.end(b, 0);
        }
        self.between(c);
    }

    /// A connection stands between two packets of its peer's: it ends now if no other will come.
    fn between(&mut self, c: Key) {
        if self.conns.get(c).is_some_and(|c| c.fin) {
            self.close(c, Close::Fin, errno::ECONNRESET);
        }
    }

    /// The peer sends no more, and all that it sent was taken.
    pub(super) fn peer_fin(&mut self, c: Key) {
        let Some(conn) = self.conns.get_mut(c) else { return };
        conn.fin = true;
        if conn.rx.state == RxState::Parked && conn.rx.packet.is_some_and(|h| h.size == 0) {
            // A message that is whole may still get its buffer.
            return self.limit(c, self.cfg.stall);
        }
        self.close(c, Close::Fin, errno::ECONNRESET);
    }

    /// The peer is gone, and not all that it sent was taken: a message waits for its buffer. It may have come whole, so it has
    /// a while, unless there is no such buffer.
    pub(super) fn ended(&mut self, c: Key) {
        let Some(conn) = self.conns.get(c) else { return };
        if conn.rx.state == RxState::Parked && !self.press.fits(&conn.rx) {
            return self.close(c, Close::Abort, errno::ECONNRESET);
        }
        self.limit(c, self.cfg.patience);
    }

    /// A connection ends in `ns` at the latest, whatever comes.
    pub(super) fn limit(&mut self, c: Key, ns: u64) {
        if let Some(conn) = self.conns.get_mut(c) {
            conn.limit = conn.limit.min(self.now.saturating_add(ns));
            let at = conn.deadline();
            self.conn_timers.by(self.now, c, at);
        }
    }
}

/// Drops at most `left` bytes of a stream; gives how many came.
fn skip(rx: &mut dyn StreamRx, left: u64) -> u64 {
    let Some(mut frag) = rx.next() else { return 0 };
    let n = left.min(frag.len().into());
    frag.advance(n as u32);
    if !frag.is_empty() {
        rx.unread(frag);
    }
    n
}
