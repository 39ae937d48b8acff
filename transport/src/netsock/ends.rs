//! Ends: of buffers, of connections, of the machine.

use super::buffer::{BufEvent, BufState, Place};
use super::conn::{Conn, ConnEvent, ConnState, RxEvent, RxState};
use super::peer::PeerEvent;
use super::{Completion, Queue, Refusal, Tm};
use crate::stream::slab::Key;
use crate::stream::{Action, Close, CloseWhy, ConnId};
use crate::wire::netsock::{Bdesc, errno};

/// Time that a machine that goes down leaves its peers to close, in ns: those that are there do within a round trip.
const CLOSES: u64 = super::SEC / 2;

impl Tm {
    /// The end of a buffer is known, and only its pages are waited for.
    pub(super) fn end(&mut self, b: Key, status: i32) {
        self.unlink(b);
        self.end_part(b);
        let Some(buf) = self.bufs.get_mut(b) else { return };
        buf.fate.get_or_insert(status);
        buf.state.apply(BufEvent::End);
        self.settle(b);
    }

    /// Takes a buffer out of its list.
    fn unlink(&mut self, b: Key) {
        let Some(buf) = self.bufs.get_mut(b) else { return };
        match std::mem::replace(&mut buf.place, Place::Nowhere) {
            Place::Nowhere => {}
            Place::Messages => self.messages.remove(&mut self.bufs, b),
            Place::Writers(p) => {
                if let Some(peer) = self.peers.get_mut(p) {
                    peer.writers.remove(&mut self.bufs, b);
                }
                self.leave(p);
            }
            Place::Answers(c) => {
                if let Some(conn) = self.conns.get_mut(c) {
                    conn.answers.remove(&mut self.bufs, b);
                }
            }
            Place::Asked(c) => {
                if let Some(conn) = self.conns.get_mut(c) {
                    conn.asked.remove(&mut self.bufs, b);
                }
            }
        }
    }

    /// An end-point that datagrams go to is kept as long as a buffer is for it.
    fn leave(&mut self, p: Key) {
        if self.cfg.addr.is_dgram()
            && let Some(peer) = self.peers.get(p).filter(|p| p.writers.is_empty())
        {
            self.by_addr.remove(&peer.addr);
            self.peers.remove(p);
        }
    }

    /// Completes a buffer whose end is known, once its pages are home.
    pub(super) fn settle(&mut self, b: Key) {
        let ready = |b: &super::buffer::Buf| {
            let over = matches!(b.state.get(), BufState::Pushed | BufState::Ending);
            b.fate.filter(|_| over && b.lent == 0)
        };
        let Some(status) = self.bufs.get(b).and_then(ready) else { return };
        // One whose datagrams have left is with its peer's until now.
        self.unlink(b);
        let Some(buf) = self.bufs.remove(b) else { return };
        self.buf_timers.cancel(b);
        let ok = status == 0;
        self.done.push_back(Completion {
            id: b.into(),
            tag: buf.tag,
            queue: buf.queue,
            status,
            len: if ok { buf.len } else { 0 },
            offset: 0,
            from: (ok && buf.queue == Queue::MsgRecv).then_some(buf.other.addr),
            sink: buf.sink,
        });
    }

    /// A buffer is cancelled, or its time is over.
    pub(super) fn give_up(&mut self, b: Key, status: i32) {
        let Some(buf) = self.bufs.get_mut(b) else { return };
        match buf.state.get() {
            BufState::New | BufState::Ending => {}
            BufState::Queued | BufState::Waiting | BufState::Asked => self.end(b, status),
            BufState::Filling => {
                // The rest of the packet is read, so that the stream goes on behind it.
                if let Some(conn) = self.conns.get_mut(buf.filler) {
                    conn.rx.state.apply(RxEvent::Unbind);
                    conn.rx.buf = Key::NOWHERE;
                }
                if let Some(sink) = &mut buf.sink {
                    sink.reset();
                }
                self.end(b, status);
            }
            // TCP has it, in part or all: it cannot be taken back.
            BufState::Sending | BufState::Pushed if buf.fate.is_some() => {}
            BufState::Sending | BufState::Pushed => {
                let c = buf.conn;
                let Some(conn) = self.conns.get_mut(c) else { return self.end(b, status) };
                let sent = buf.state == BufState::Pushed && conn.progress.sent >= buf.end;
                if conn.state == ConnState::Closing {
                    buf.fate = Some(status);
                    return self.settle(b);
                }
                if status == errno::ECANCELED && sent {
                    // Too late: the peer has it, or will have it.
                    buf.cancelled = Some(status);
                    return;
                }
                (buf.fate, buf.given_up) = (Some(status), true);
                conn.given_up += 1;
                self.doom(c);
            }
        }
    }

    /// A connection must end: when its peer is quiet, at the latest in a while.
    pub(super) fn doom(&mut self, c: Key) {
        let Some(conn) = self.conns.get_mut(c) else { return };
        if conn.state.apply(ConnEvent::Doom).is_some() {
            self.limit(c, self.cfg.stall);
        }
        self.look(c);
    }

    /// A doomed connection lives on once no packet on it is given up.
    pub(super) fn spare(&mut self, c: Key) {
        if let Some(conn) = self.conns.get_mut(c).filter(|c| c.given_up == 0 && !c.refused)
            && conn.state.apply(ConnEvent::Spare).is_some()
            && !conn.fin
        {
            conn.limit = u64::MAX;
        }
    }

    /// Ends a connection if it is time: a doomed one, or one of which nothing came for too long.
    pub(super) fn look(&mut self, c: Key) {
        let Some(conn) = self.conns.get_mut(c) else { return };
        if conn.state == ConnState::Closing {
            // Going down, the peer had its time to close this connection.
            match conn.limit {
                u64::MAX => {}
                at if at > self.now => self.conn_timers.by(self.now, c, at),
                _ => {
                    conn.limit = u64::MAX;
                    self.actions.push_back(Action::Close(conn.id, Close::Abort));
                }
            }
            return;
        }
        let at = conn.deadline();
        if at > self.now {
            return self.conn_timers.by(self.now, c, at);
        }
        if conn.rx.state == RxState::Parked && conn.rx.deadline <= self.now {
            return self.outstay(c);
        }
        let (stalled, given_up, remote) = (conn.rx.deadline <= self.now, conn.given_up > 0, conn.at);
        if stalled {
            self.note(remote, Refusal::Stalled);
        }
        let how = if stalled || given_up { Close::Abort } else { Close::Fin };
        self.close(c, how, errno::ECONNRESET);
    }

    /// Closes a connection. Unless a packet is cut off, what TCP has still goes out.
    pub(super) fn close(&mut self, c: Key, how: Close, status: i32) {
        let Some(conn) = self.conns.get_mut(c) else { return };
        if conn.state.apply(ConnEvent::Close).is_none() {
            return;
        }
        let how = if conn.current.is_some() { Close::Abort } else { how };
        self.actions.push_back(Action::Close(conn.id, how));
        self.lose(c, status);
    }

    /// The last that is heard of a connection.
    pub(super) fn closed(&mut self, id: ConnId, why: CloseWhy) {
        let Some(c) = self.by_id.remove(&id) else { return };
        let status = match why {
            CloseWhy::Fin | CloseWhy::Reset | CloseWhy::Local => errno::ECONNRESET,
            CloseWhy::Timeout | CloseWhy::Unreachable => errno::EHOSTUNREACH,
        };
        let Some(conn) = self.conns.get_mut(c) else { return };
        if conn.state.apply(ConnEvent::Close).is_some() {
            self.lose(c, status);
        }
        let Some(conn) = self.conns.remove(c) else { return };
        self.conn_timers.cancel(c);
        for (_, b) in conn.flight {
            self.carrier_lost(b, c, status);
        }
        if conn.ours {
            return;
        }
        self.accepted -= 1;
        if let Some(n) = self.hosts.get_mut(&conn.at.ip()) {
            *n -= 1;
            if *n == 0 {
                self.hosts.remove(&conn.at.ip());
            }
        }
    }

    /// Nothing more comes or goes by a connection: buffers that it filled are whole again, packets that it had not begun
    /// are for the next one.
    fn lose(&mut self, c: Key, status: i32) {
        let Some(conn) = self.conns.get_mut(c) else { return };
        let (parked, filled) = (conn.rx.state == RxState::Parked, conn.rx.buf);
        conn.rx.buf = Key::NOWHERE;
        (conn.rx.deadline, conn.limit) = (u64::MAX, u64::MAX);
        let (current, peer) = (conn.current.take(), conn.peer.take());
        let useful = conn.progress.acked > 0;
        if parked {
            self.parked.remove(&mut self.conns, c);
        }
        if let Some(b) = current {
            self.carrier_lost(b, c, status);
        }
        while let Some(b) = self.conns.get_mut(c).and_then(|c| c.answers.pop_front(&mut self.bufs)) {
            self.whole_again(b);
        }
        self.unfill(filled);
        while let Some(b) = self.conns.get_mut(c).and_then(|c| c.asked.pop_front(&mut self.bufs)) {
            let Some(buf) = self.bufs.get_mut(b) else { continue };
            buf.place = Place::Nowhere;
            // An answer that comes by another connection may still be whole.
            if buf.state != BufState::Filling {
                self.end(b, status);
            }
        }
        if let Some(p) = peer
            && let Some(end_point) = self.peers.get_mut(p)
        {
            end_point.conn = Key::NOWHERE;
            if useful {
                end_point.failures = 0;
                end_point.state.apply(PeerEvent::Lost);
            } else {
                self.failed(p);
            }
            self.balance(p);
        }
    }

    /// The connection that filled a buffer is lost.
    fn unfill(&mut self, b: Key) {
        let Some(buf) = self.bufs.get_mut(b) else { return };
        if let Some(sink) = &mut buf.sink {
            sink.reset();
        }
        buf.filler = Key::NOWHERE;
        match (buf.queue, buf.place) {
            (Queue::ActiveRecv, Place::Asked(_)) => self.moves(b, BufEvent::Asked),
            // The connection that the GET went by was lost before: there is nowhere for an answer to come from.
            (Queue::ActiveRecv, _) => self.end(b, errno::ECONNRESET),
            (queue, _) => {
                self.whole_again(b);
                if queue == Queue::MsgRecv {
                    self.wait_for_message(b, true);
                }
            }
        }
    }

    /// A buffer waits for a peer as it did at first.
    fn whole_again(&mut self, b: Key) {
        self.moves(b, BufEvent::Reset);
        if let Some(buf) = self.bufs.get_mut(b) {
            (buf.other, buf.at, buf.conn) = (Bdesc::default(), (0, 0), Key::NOWHERE);
            buf.place = Place::Nowhere;
        }
    }

    /// The connection `c` that had a packet of a buffer, in part or whole, is lost before the peer acknowledged it. A passive
    /// send may be asked for again; all else is not sent twice, since the peer may have it.
    fn carrier_lost(&mut self, b: Key, c: Key, status: i32) {
        let Some(buf) = self.bufs.get(b).filter(|b| b.conn == c && b.state != BufState::Ending) else {
            return;
        };
        let cancelled = buf.cancelled;
        if buf.queue == Queue::PassiveSend && buf.fate.is_none() && cancelled.is_none() {
            self.whole_again(b);
        } else {
            self.end(b, cancelled.unwrap_or(status));
        }
    }

    /// Going down, a connection ends in order where no packet is cut off, so that the peer's last bytes are acknowledged with it:
    /// a peer that is gone, or does not close, too, has a moment.
    fn part(&mut self, c: Key) {
        let quiet = self.conns.get(c).is_some_and(Conn::quiet);
        self.close(c, if quiet { Close::Fin } else { Close::Abort }, errno::ECANCELED);
        if let Some(conn) = self.conns.get_mut(c).filter(|c| c.limit == u64::MAX) {
            conn.limit = self.now.saturating_add(CLOSES);
            let at = conn.limit;
            self.conn_timers.by(self.now, c, at);
        }
    }

    /// Gives up all buffers and connections.
    pub(super) fn end_all(&mut self) {
        for c in self.conns.keys().collect::<Vec<_>>() {
            self.part(c);
        }
        for b in self.bufs.keys().collect::<Vec<_>>() {
            self.give_up(b, errno::ECANCELED);
        }
    }
}
