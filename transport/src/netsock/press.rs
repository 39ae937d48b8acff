//! Want of buffers for messages: whom the next one goes to, who holds one for too long, and who waits for one that there is not.
//!
//! A message that has its buffer and comes slowly keeps it from others. As long as none waits it has all time that a peer has
//! between two bytes, for Motr dies of a close in mid-packet. While one waits that the buffer would hold, it must come at some
//! rate, or its connection ends. So it takes no list and no timer of each message: where one waits, the connections are looked
//! through, ten times a second at most.

use std::net::IpAddr;

use super::conn::{Conn, ConnState, Reader, RxState};
use super::list::List;
use super::{Queue, Refusal, SEC, Tm};
use crate::stream::Close;
use crate::stream::slab::Key;
use crate::wire::netsock::{PacketHdr, errno};

/// Shortest time between two looks through the connections, in ns.
const PAUSE: u64 = SEC / 10;

/// State of the want.
#[derive(Debug)]
pub(super) struct Press {
    /// Time at which the connections are looked through next, in ns; `u64::MAX` while none waits.
    pub(super) at: u64,
    /// Time at which they may be, in ns.
    not_before: u64,
    /// Bytes of the longest buffer for messages that there ever was.
    pub(super) longest: u64,
    /// Host whose message got a buffer that it waited for, last.
    host: Option<IpAddr>,
}

impl Default for Press {
    fn default() -> Press {
        Press { at: u64::MAX, not_before: 0, longest: 0, host: None }
    }
}

impl Press {
    /// Whether a machine's buffers hold the message that waits.
    pub(super) fn fits(&self, rx: &Reader) -> bool {
        rx.packet.is_some_and(|h| h.total <= self.longest)
    }

    /// A message waits.
    pub(super) fn begins(&mut self) {
        self.by(0);
    }

    /// Has the connections looked through at a time.
    pub(super) fn by(&mut self, at: u64) {
        self.at = self.at.min(at.max(self.not_before));
    }
}

impl Tm {
    /// The message that gets a buffer of so many bytes: the first that it holds, of another host than the last one's if there
    /// is such. So a host with many connections does not have all others wait for each of its own.
    pub(super) fn next_parked(&mut self, size: u64) -> Option<(Key, PacketHdr)> {
        let (mut at, mut first) = (self.parked.head(), None);
        while let Some(c) = at {
            at = List::after(&self.conns, c);
            let Some(conn) = self.conns.get(c) else { continue };
            let Some(h) = conn.rx.packet.filter(|h| h.total <= size) else { continue };
            if self.press.host != Some(conn.at.ip()) {
                self.press.host = Some(conn.at.ip());
                return Some((c, h));
            }
            first = first.or(Some((c, h)));
        }
        first
    }

    /// Ends connections whose messages hold buffers that others wait for, and come too slowly: the slowest first, and no more
    /// than are waited for.
    pub(super) fn press_on(&mut self) {
        self.press.not_before = self.now.saturating_add(PAUSE);
        self.press.at = u64::MAX;
        let mut slow: Vec<(u64, Key)> = self
            .conns
            .keys()
            .filter_map(|c| self.conns.get(c).and_then(|conn| self.must_be_done(conn)).map(|at| (at, c)))
            .collect();
        slow.sort_unstable();
        for (at, c) in slow {
            let Some(least) = self.least_parked() else { return };
            let Some(conn) = self.conns.get(c) else { continue };
            if self.room_of(conn) < least {
                continue;
            }
            if at > self.now {
                return self.press.by(at);
            }
            let remote = conn.at;
            self.note(remote, Refusal::Slow);
            self.close(c, Close::Abort, errno::ECONNRESET);
        }
    }

    /// Time at which the message that comes by a connection, into a buffer for messages, must be there if others wait, in ns.
    fn must_be_done(&self, conn: &Conn) -> Option<u64> {
        if conn.state == ConnState::Closing || conn.rx.state != RxState::Payload {
            return None;
        }
        self.bufs.get(conn.rx.buf).filter(|b| b.queue == Queue::MsgRecv)?;
        let got = conn.rx.packet?.size.saturating_sub(conn.rx.left);
        let earned = got.saturating_mul(SEC) / self.cfg.slowest.max(1);
        Some(conn.rx.since.saturating_add(self.cfg.patience).saturating_add(earned))
    }

    /// Bytes of the buffer that a connection fills.
    fn room_of(&self, conn: &Conn) -> u64 {
        self.bufs.get(conn.rx.buf).and_then(|b| b.sink.as_ref()).map_or(0, super::Sink::size)
    }

    /// Bytes of the shortest message that waits.
    fn least_parked(&self) -> Option<u64> {
        let (mut at, mut least) = (self.parked.head(), None);
        while let Some(c) = at {
            at = List::after(&self.conns, c);
            let total = self.conns.get(c).and_then(|c| c.rx.packet).map(|h| h.total);
            least = match (least, total) {
                (Some(a), Some(b)) => Some(u64::min(a, b)),
                (a, b) => a.or(b),
            };
        }
        least
    }

    /// The time is over of a message that was longer than every buffer. Its connection ends as that of any packet which is
    /// refused does.
    pub(super) fn outstay(&mut self, c: Key) {
        let Some(conn) = self.conns.get_mut(c) else { return };
        conn.rx.deadline = u64::MAX;
        if let Some(h) = conn.rx.packet.filter(|h| h.total > self.press.longest) {
            self.refuse(c, Refusal::NoRoom(h.total), Some(&h));
        }
        self.watch(c);
    }
}
