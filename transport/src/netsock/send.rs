//! Writers: packets that wait for a connection, and the pieces of their pages on their way to TCP.

use super::buffer::{self, BufEvent, BufState, Place};
use super::conn::{Conn, ConnState};
use super::peer::{Peer, PeerEvent, PeerState};
use super::{Queue, Refusal, Tm};
use crate::stream::slab::Key;
use crate::stream::{
    Action, Close, ConnId, ConnInfo, DialError, DialId, DialSpec, InlineHdr, LendId, Pages, Progress, SendMsg,
};
use crate::wire::netsock::{Bdesc, PacketHdr, PacketType};

/// Bytes given to TCP that it has not sent yet: more wait here, where they can be given up.
const AHEAD: u64 = 4 << 20;
/// Most bytes of one loan.
const PIECE: u64 = 1 << 20;
/// Slices of one loan: more would not fit in their place, and take an allocation.
const SLICES: usize = 2;

impl Tm {
    /// A buffer is to be written to the end-point that it names.
    pub(super) fn write(&mut self, b: Key) {
        let Some(to) = self.bufs.get(b).map(|b| b.other.addr) else { return };
        let Some(p) = self.peer(to) else { return };
        if let (Some(peer), Some(buf)) = (self.peers.get_mut(p), self.bufs.get_mut(b)) {
            buf.place = Place::Writers(p);
            peer.writers.push_back(&mut self.bufs, b);
        }
        if self.cfg.addr.is_dgram() {
            return self.write_datagrams(b);
        }
        self.balance(p);
    }

    /// The end-point of an address.
    fn peer(&mut self, to: crate::wire::netsock::Addr) -> Option<Key> {
        if let Some(p) = self.by_addr.get(&to) {
            return Some(*p);
        }
        let p = self.peers.insert(Peer::new(to, to.reached()?));
        self.by_addr.insert(to, p);
        Some(p)
    }

    /// Sees to it that there is a connection if something waits, and no end-point that nobody needs.
    pub(super) fn balance(&mut self, p: Key) {
        let Some(peer) = self.peers.get_mut(p) else { return };
        match (peer.state.get(), peer.writers.is_empty()) {
            (PeerState::Idle, true) => {
                let addr = peer.addr;
                self.by_addr.remove(&addr);
                self.peers.remove(p);
                self.peer_timers.cancel(p);
            }
            (PeerState::Idle, false) => self.dial(p),
            (PeerState::Open, false) => {
                let c = peer.conn;
                self.pump(c);
            }
            (PeerState::BackOff, false) => {
                // Whoever has something new need not wait for as long as the last one.
                peer.again = peer.again.min(peer.failed_at + self.cfg.back_off.0);
                let again = peer.again;
                self.peer_timers.by(self.now, p, again);
            }
            (PeerState::BackOff | PeerState::Open, true) | (PeerState::Dialling, _) => {}
        }
    }

    fn dial(&mut self, p: Key) {
        let Some(peer) = self.peers.get_mut(p) else { return };
        if self.down || peer.state.apply(PeerEvent::Want).is_none() {
            return;
        }
        self.stats.dials += 1;
        let until = self.now.saturating_add(self.cfg.dial_timeout);
        self.actions.push_back(Action::Dial(DialSpec {
            id: DialId(buffer::name(p, p.generation.into())),
            remote: peer.at,
            local_ip: self.ip,
            privileged: false,
            until,
        }));
    }

    /// The pause after a dial that failed is over, or the timer was early.
    pub(super) fn dial_again(&mut self, p: Key) {
        let Some(peer) = self.peers.get_mut(p).filter(|p| p.state == PeerState::BackOff) else { return };
        if peer.again > self.now {
            let again = peer.again;
            self.peer_timers.by(self.now, p, again);
        } else if peer.writers.is_empty() {
            peer.state.apply(PeerEvent::Rest);
            self.balance(p);
        } else {
            self.dial(p);
        }
    }

    fn dialled(&self, d: DialId) -> Option<Key> {
        let p = self.peers.key_at(buffer::slot_of_name(d.0))?;
        let state = self.peers.get(p)?.state;
        (state == PeerState::Dialling && buffer::name(p, p.generation.into()) == d.0).then_some(p)
    }

    pub(super) fn dial_failed(&mut self, d: DialId, why: DialError) {
        if let Some(p) = self.dialled(d) {
            if let Some(peer) = self.peers.get_mut(p) {
                peer.why = Some(why);
            }
            self.failed(p);
        }
    }

    /// The connection to an end-point did not come, or was of no use.
    pub(super) fn failed(&mut self, p: Key) {
        let Some(peer) = self.peers.get_mut(p) else { return };
        peer.state.apply(PeerEvent::Failed);
        let (first, longest) = self.cfg.back_off;
        let pause = first.saturating_mul(1 << peer.failures.min(16)).min(longest);
        peer.failures += 1;
        (peer.failed_at, peer.again) = (self.now, self.now.saturating_add(pause));
        self.stats.dials_failed += 1;
        let again = peer.again;
        self.peer_timers.by(self.now, p, again);
    }

    pub(super) fn opened(&mut self, id: ConnId, info: &ConnInfo) {
        let peer = info.dial.and_then(|d| self.dialled(d));
        let ip = info.remote.ip();
        let of_host = self.hosts.get(&ip).copied().unwrap_or(0);
        let refused = if info.dial.is_some() {
            peer.is_none()
        } else if of_host >= self.cfg.conns_of_host || self.accepted >= self.cfg.conns {
            self.note(info.remote, Refusal::TooMany(of_host));
            true
        } else {
            false
        };
        if refused || self.down {
            return self.actions.push_back(Action::Close(id, Close::Abort));
        }
        let c = self.conns.insert(Conn::new(id, info.remote, peer, self.now));
        self.by_id.insert(id, c);
        match peer.and_then(|p| self.peers.get_mut(p)) {
            Some(peer) => {
                peer.state.apply(PeerEvent::Opened);
                peer.why = None;
                peer.conn = c;
                self.pump(c);
            }
            None => {
                self.accepted += 1;
                *self.hosts.entry(ip).or_default() += 1;
            }
        }
    }

    /// A GET: its answer goes by the connection that it came by.
    pub(super) fn serve(&mut self, c: Key, b: Key, asker: Bdesc) {
        self.moves(b, BufEvent::Write);
        if let (Some(conn), Some(buf)) = (self.conns.get_mut(c), self.bufs.get_mut(b)) {
            (buf.other, buf.place) = (asker, Place::Answers(c));
            conn.answers.push_back(&mut self.bufs, b);
        }
        self.pump(c);
    }

    /// Gives TCP what a connection may have.
    pub(super) fn pump(&mut self, c: Key) {
        loop {
            let Some(conn) = self.conns.get_mut(c).filter(|c| c.state != ConnState::Closing) else { return };
            if conn.pushed.saturating_sub(conn.progress.sent) >= AHEAD {
                return;
            }
            let b = match conn.current {
                Some(b) => b,
                // A packet that was begun goes on: it may be acknowledged before the connection ends.
                None if conn.state == ConnState::Doomed => return,
                None => match self.next_writer(c) {
                    Some(b) => b,
                    None => return,
                },
            };
            self.push(c, b);
        }
    }

    /// Takes the next packet for a connection out of its list: answers before others.
    fn next_writer(&mut self, c: Key) -> Option<Key> {
        let conn = self.conns.get_mut(c)?;
        let b = match conn.answers.pop_front(&mut self.bufs) {
            Some(b) => b,
            None => self.peers.get_mut(conn.peer?)?.writers.pop_front(&mut self.bufs)?,
        };
        let buf = self.bufs.get_mut(b)?;
        (buf.place, buf.conn, buf.at) = (Place::Nowhere, c, (0, 0));
        Some(b)
    }

    /// Pushes the next piece of a packet, the header before the first.
    fn push(&mut self, c: Key, b: Key) {
        let addr = self.cfg.addr;
        let (Some(conn), Some(buf)) = (self.conns.get_mut(c), self.bufs.get_mut(b)) else { return };
        let mut hdr = InlineHdr::new();
        let get = buf.queue == Queue::ActiveRecv;
        if buf.state == BufState::Waiting {
            let (kind, len) = if get { (PacketType::Get, 0) } else { (PacketType::Put, buf.len) };
            let src = Bdesc { addr, cookie: buf.cookie };
            let h = PacketHdr { kind, src, dst: buf.other, idx: 0, nr: 1, size: len, offset: 0, total: len };
            // It fits: 160 of 280.
            let _ = hdr.try_extend_from_slice(&h.emit());
            self.stats.packets_tx += 1;
        }
        let mut pay = Pages::new();
        let mut taken = 0;
        while let Some(slice) = buf.data.get(buf.at.0)
            && pay.len() < SLICES
            && taken < PIECE
        {
            let len = u64::from(slice.len() - buf.at.1).min(PIECE - taken) as u32;
            pay.extend(slice.slice(buf.at.1, len));
            taken += u64::from(len);
            buf.at.1 += len;
            if buf.at.1 == slice.len() {
                buf.at = (buf.at.0 + 1, 0);
            }
        }
        // A buffer stays until its loans are home, and has few out at a time: no two that are out have one name.
        let lend = (!pay.is_empty()).then(|| LendId(buffer::name(b, self.loans)));
        self.loans += 1;
        buf.lent += u32::from(lend.is_some());
        conn.pushed += hdr.len() as u64 + taken;
        self.stats.bytes_tx += taken;
        let whole = buf.at.0 >= buf.data.len();
        let event = match (whole, get) {
            (_, true) => BufEvent::Asked,
            (true, false) => BufEvent::Whole,
            (false, false) => BufEvent::Part,
        };
        if whole || buf.state != BufState::Sending {
            buf.state.apply(event);
        }
        conn.current = (!whole).then_some(b);
        if get {
            buf.place = Place::Asked(c);
            conn.asked.push_back(&mut self.bufs, b);
        } else if whole {
            buf.end = conn.pushed;
            conn.flight.push_back((conn.pushed, b));
        }
        let answer = self.bufs.get(b).is_some_and(|b| b.queue == Queue::PassiveSend);
        let msg = SendMsg { hdr, pay, lend, hold: false, answer };
        self.actions.push_back(Action::Send(conn.id, msg));
    }

    /// TCP has sent, or the peer acknowledged, more.
    pub(super) fn progress(&mut self, c: Key, p: Progress) {
        loop {
            let Some(conn) = self.conns.get_mut(c) else { return };
            let Progress { acked, sent } = conn.progress;
            conn.progress = Progress { acked: acked.max(p.acked), sent: sent.max(p.sent) };
            let Some(b) = conn.flight.front().filter(|(end, _)| *end <= conn.progress.acked).map(|f| f.1)
            else {
                break;
            };
            conn.flight.pop_front();
            if let Some(buf) = self.bufs.get_mut(b) {
                conn.given_up -= u32::from(std::mem::take(&mut buf.given_up));
                buf.fate.get_or_insert(0);
                self.settle(b);
            }
        }
        self.spare(c);
        self.pump(c);
        if self.conns.get(c).is_some_and(|c| c.state == ConnState::Doomed) {
            self.look(c);
        }
    }

    /// Pages of a buffer are home.
    pub(super) fn released(&mut self, name: u64) {
        let Some(b) = self.bufs.key_at(buffer::slot_of_name(name)) else { return };
        if let Some(buf) = self.bufs.get_mut(b) {
            buf.lent = buf.lent.saturating_sub(1);
            self.settle(b);
        }
        if self.cfg.addr.is_dgram() {
            self.datagram_left();
            self.pump_datagrams();
        }
    }
}
