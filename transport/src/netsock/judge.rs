//! Checks 10 to 15 of a packet, those of its type, and those that Motr leaves out: the queue, whether the buffer is queued,
//! and its generation (docs/protocol/netsock.md §6, §12).

use super::buffer::{self, BufState};
use super::{Queue, Refusal, Tm};
use crate::stream::slab::Key;
use crate::wire::netsock::{Cookie, PacketHdr, PacketType};

/// Verdict on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It fills this buffer.
    Fill(Key),
    /// It is a message.
    Message,
    /// It asks for this buffer.
    Serve(Key),
    /// It answers a GET of ours that was given up: its payload is dropped, and nobody is to blame.
    Late,
}

impl Tm {
    /// Judges a packet of connection `c` whose header is good by itself.
    ///
    /// # Errors
    /// The reason to refuse it, and the buffer that must hear of it.
    pub(super) fn judge(&self, c: Key, h: &PacketHdr) -> Result<Verdict, (Refusal, Option<Key>)> {
        let no = |why| Err((why, None));
        if h.dst.addr != self.cfg.addr {
            return no(Refusal::NotOurs(h.dst.addr));
        }
        if !self.conns.get(c).is_some_and(|c| h.src.addr.same_host(&c.remote)) {
            return no(Refusal::NotTheirs(h.src.addr));
        }
        if h.src.cookie.is_none() && h.dst.cookie.is_none() {
            return no(Refusal::NoBuffer);
        }
        let buffer = match h.dst.cookie {
            Cookie::NONE => None,
            cookie => match self.named(cookie) {
                Some(b) => Some(b),
                None if self.was_asked(cookie) && h.kind == PacketType::Put && h.nr == 1 => {
                    return Ok(Verdict::Late);
                }
                None => return no(Refusal::Stale),
            },
        };
        match (h.kind, buffer) {
            (PacketType::Get, b) => self.judge_get(h, b),
            (PacketType::Put, Some(b)) => self.judge_put(h, b),
            (PacketType::Put, None) if h.nr != 1 => no(Refusal::Parts(h.nr)),
            (PacketType::Put, None) => Ok(Verdict::Message),
        }
    }

    /// The buffer of a cookie, if its transfer has not ended.
    pub(super) fn named(&self, cookie: Cookie) -> Option<Key> {
        let b = self.bufs.key_at(buffer::slot(cookie)?)?;
        self.bufs.get(b).filter(|b| b.cookie == cookie && b.state != BufState::Ending)?;
        Some(b)
    }

    /// Whether the cookie may be that of an active receive that has ended.
    fn was_asked(&self, cookie: Cookie) -> bool {
        buffer::of_active_recv(cookie) && self.was_issued(cookie)
    }

    /// Whether the cookie may be that of a buffer that has ended.
    pub(super) fn was_issued(&self, cookie: Cookie) -> bool {
        (self.cfg.first_generation..self.generation).contains(&cookie.generation)
    }

    pub(super) fn judge_get(&self, h: &PacketHdr, b: Option<Key>) -> Result<Verdict, (Refusal, Option<Key>)> {
        let no = |why| Err((why, None));
        if (h.idx, h.nr, h.size, h.offset) != (0, 1, 0, 0) {
            return no(Refusal::GetShape);
        }
        let Some(b) = b.filter(|_| !h.src.cookie.is_none()) else { return no(Refusal::GetCookie) };
        let Some(buf) = self.bufs.get(b) else { return no(Refusal::Stale) };
        if buf.queue != Queue::PassiveSend {
            return no(Refusal::WrongQueue(buf.queue));
        }
        if buf.state != BufState::Queued {
            return no(if buf.other == h.src { Refusal::Busy } else { Refusal::Foreign });
        }
        Ok(Verdict::Serve(b))
    }

    fn judge_put(&self, h: &PacketHdr, b: Key) -> Result<Verdict, (Refusal, Option<Key>)> {
        let no = |why| Err((why, None));
        let Some(buf) = self.bufs.get(b) else { return no(Refusal::Stale) };
        match (buf.queue, buf.state.get()) {
            (Queue::PassiveRecv, BufState::Queued) => {}
            (Queue::PassiveRecv | Queue::ActiveRecv, _)
                if buf.state == BufState::Filling || buf.queue == Queue::ActiveRecv =>
            {
                if buf.other != h.src {
                    return no(Refusal::Foreign);
                }
                match buf.state.get() {
                    BufState::Asked => {}
                    BufState::Filling => return no(Refusal::Busy),
                    _ => return no(Refusal::Unasked),
                }
            }
            _ => return no(Refusal::WrongQueue(buf.queue)),
        }
        let room = buf.sink.as_ref().map_or(0, super::Sink::size);
        if h.total > room {
            // Nothing else will come for an active receive: it hears of it.
            let asked = (buf.queue == Queue::ActiveRecv).then_some(b);
            return Err((Refusal::TooLong { total: h.total, room }, asked));
        }
        if h.nr != 1 {
            return no(Refusal::Parts(h.nr));
        }
        Ok(Verdict::Fill(b))
    }
}
