//! Datagrams in: a packet each, judged by itself, in any order, once or several times or never. One that is refused is dropped
//! and counted, and nothing else ends.

use std::net::SocketAddr;

use super::buffer::{BufEvent, BufState, Place};
use super::memory::Sink;
use super::{Queue, Refusal, Tm};
use crate::stream::slab::Key;
use crate::stream::{Path, StreamRx};
use crate::wire::netsock::{Addr, Cookie, HDR_LEN, PacketHdr, PacketType};

/// Silence after which a message that has come in part may be let go for a newer one, in ns.
const QUIET: u64 = 20_000_000;
/// Of those that were silent for longest, so many are looked at for one of the same machine.
const LOOKED_AT: usize = 64;

/// Verdict on a datagram.
enum Verdict {
    /// It fills this buffer.
    Fill(Key),
    /// It is a message.
    Message,
    /// It asks for this buffer.
    Serve(Key),
    /// It was here before, or is too late.
    Again,
}

impl Tm {
    /// A datagram of `len` bytes has come.
    pub(super) fn datagram(&mut self, path: Path, len: u32, rx: &mut dyn StreamRx) {
        if self.down {
            return;
        }
        let from = path.remote();
        let mut hdr = [0; HDR_LEN];
        let n = rx.read(&mut hdr);
        let h = match PacketHdr::parse(hdr.get(..n).unwrap_or_default()) {
            Ok(h) => h,
            Err(e) => return self.note(from, Refusal::Packet(e)),
        };
        self.stats.packets_rx += 1;
        match self.judge_datagram(&h, len, from) {
            Ok((Verdict::Fill(b), cut)) => self.fill(b, &h, cut, rx),
            Ok((Verdict::Message, cut)) => match self.for_message(&h, cut) {
                Ok(Some(b)) => self.fill(b, &h, cut, rx),
                Ok(None) => self.stats.repeated += 1,
                Err(why) => self.note(from, why),
            },
            Ok((Verdict::Serve(b), _)) => {
                self.moves(b, BufEvent::Write);
                if let Some(buf) = self.bufs.get_mut(b) {
                    buf.other = h.src;
                }
                self.write(b);
            }
            Ok((Verdict::Again, _)) => self.stats.repeated += 1,
            Err((why, buffer)) => {
                if let Some(b) = buffer {
                    self.end(b, why.errno());
                }
                self.note(from, why);
            }
        }
    }

    /// Judges a packet whose header is good by itself; tells how its buffer was cut, too.
    fn judge_datagram(
        &mut self,
        h: &PacketHdr,
        len: u32,
        from: SocketAddr,
    ) -> Result<(Verdict, u64), (Refusal, Option<Key>)> {
        let no = |why| Err((why, None));
        if h.dst.addr != self.cfg.addr {
            return no(Refusal::NotOurs(h.dst.addr));
        }
        // A machine sends from where it takes datagrams: its port says who it is, too.
        if h.src.addr != Addr::dgram(from) {
            return no(Refusal::NotTheirs(h.src.addr));
        }
        if h.src.cookie.is_none() && h.dst.cookie.is_none() {
            return no(Refusal::NoBuffer);
        }
        let got = u64::from(len) - (HDR_LEN as u64).min(len.into());
        if h.size != got {
            return no(Refusal::Length { said: h.size, got });
        }
        let cut = match h.kind {
            PacketType::Get => 0,
            PacketType::Put => {
                let (idx, nr, size) = (h.idx, h.nr, h.size);
                h.cut().ok_or((Refusal::Cut { idx, nr, size }, None))?
            }
        };
        let b = match h.dst.cookie {
            Cookie::NONE if h.kind == PacketType::Put => return Ok((Verdict::Message, cut)),
            Cookie::NONE => return self.judge_get(h, None).map(|_| (Verdict::Again, cut)),
            cookie => match self.named(cookie) {
                Some(b) => b,
                None if self.was_issued(cookie) => return Ok((Verdict::Again, cut)),
                None => return no(Refusal::Stale),
            },
        };
        let Some(buf) = self.bufs.get(b) else { return no(Refusal::Stale) };
        if h.kind == PacketType::Get {
            let again =
                buf.queue == Queue::PassiveSend && buf.state != BufState::Queued && buf.other == h.src;
            return match self.judge_get(h, Some(b)) {
                Ok(_) => Ok((Verdict::Serve(b), cut)),
                Err(_) if again => Ok((Verdict::Again, cut)),
                Err(e) => Err(e),
            };
        }
        match (buf.queue, buf.state.get()) {
            (Queue::PassiveRecv, BufState::Queued) => {}
            (Queue::PassiveRecv, BufState::Filling) if buf.other == h.src => {}
            // The sender has begun anew, from another buffer.
            (Queue::PassiveRecv, BufState::Filling)
                if buf.other.addr == h.src.addr && buf.other.cookie.generation < h.src.cookie.generation => {}
            (Queue::PassiveRecv, _) => return no(Refusal::Foreign),
            (Queue::ActiveRecv, _) if buf.other != h.src => return no(Refusal::Foreign),
            (Queue::ActiveRecv, BufState::Asked | BufState::Filling) => {}
            (Queue::ActiveRecv, _) => return no(Refusal::Unasked),
            _ => return no(Refusal::WrongQueue(buf.queue)),
        }
        let room = buf.sink.as_ref().map_or(0, Sink::size);
        if h.total > room {
            let asked = (buf.queue == Queue::ActiveRecv).then_some(b);
            return Err((Refusal::TooLong { total: h.total, room }, asked));
        }
        Ok((Verdict::Fill(b), cut))
    }

    /// The buffer for a packet of a message; `None` for one that was here before, or whose message is lost.
    fn for_message(&mut self, h: &PacketHdr, cut: u64) -> Result<Option<Key>, Refusal> {
        if let Some(part) = self.parts.message(&h.src).and_then(|p| self.parts.all.get(p)) {
            let b = part.buf;
            let room = self.bufs.get(b).and_then(|b| b.sink.as_ref()).map_or(0, Sink::size);
            return if h.total > room { Err(Refusal::TooLong { total: h.total, room }) } else { Ok(Some(b)) };
        }
        if !self.parts.is_new(&h.src) {
            return Ok(None);
        }
        let limits = &self.cfg.datagrams;
        let (of_machine, in_all) = (limits.messages_of_machine, limits.messages);
        if cut < h.total {
            if self.parts.messages_of(&h.src.addr) >= of_machine && !self.let_go_of(Some(h.src.addr)) {
                return Err(Refusal::NoRoom(h.total));
            }
            if self.parts.messages() >= in_all && !self.let_go_of(None) {
                return Err(Refusal::NoRoom(h.total));
            }
        }
        loop {
            if let Some(b) = self.buffer_for(h.total) {
                return Ok(Some(b));
            }
            if !self.let_go_of(None) {
                return Err(Refusal::NoRoom(h.total));
            }
        }
    }

    /// Lets the message go that was silent for longest, of this machine or of any; `false` where none was silent for long
    /// enough.
    fn let_go_of(&mut self, machine: Option<Addr>) -> bool {
        let mut at = self.parts.silent.head();
        for _ in 0..LOOKED_AT {
            let Some(p) = at else { return false };
            let Some(part) = self.parts.all.get(p) else { return false };
            if part.heard.saturating_add(QUIET) > self.now {
                return false;
            }
            if machine.is_none_or(|m| m == part.src.addr) {
                self.lose_part(p);
                return true;
            }
            at = super::list::List::after(&self.parts.all, p);
        }
        false
    }

    /// The rest of a buffer's packets is not waited for any more: it is whole again.
    fn lose_part(&mut self, p: Key) {
        self.part_timers.cancel(p);
        let Some(part) = self.parts.end(p) else { return };
        self.stats.incomplete += 1;
        let b = part.buf;
        self.moves(b, BufEvent::Reset);
        let Some(buf) = self.bufs.get_mut(b) else { return };
        (buf.other, buf.part) = (crate::wire::netsock::Bdesc::default(), Key::NOWHERE);
        if let Some(sink) = &mut buf.sink {
            sink.reset();
        }
        if buf.queue == Queue::MsgRecv {
            self.wait_for_message(b, true);
        }
    }

    /// Looks whether a buffer that is filled in part was silent for too long. A fetch ends by its own time.
    pub(super) fn look_at_part(&mut self, p: Key) {
        let Some(part) = self.parts.all.get(p) else { return };
        let at = part.heard.saturating_add(self.cfg.datagrams.silence);
        if at > self.now {
            self.part_timers.by(self.now, p, at);
        } else if self.bufs.get(part.buf).is_some_and(|b| b.queue != Queue::ActiveRecv) {
            self.lose_part(p);
        }
    }

    /// A buffer's packets are not counted any more.
    pub(super) fn end_part(&mut self, b: Key) {
        let Some(buf) = self.bufs.get_mut(b) else { return };
        let p = std::mem::replace(&mut buf.part, Key::NOWHERE);
        if p != Key::NOWHERE {
            self.part_timers.cancel(p);
            self.parts.end(p);
        }
    }

    /// Puts a packet into its buffer.
    fn fill(&mut self, b: Key, h: &PacketHdr, cut: u64, rx: &mut dyn StreamRx) {
        let Some(buf) = self.bufs.get_mut(b) else { return };
        if buf.place == Place::Messages {
            buf.place = Place::Nowhere;
            self.messages.remove(&mut self.bufs, b);
        }
        let Some(buf) = self.bufs.get_mut(b) else { return };
        let of_it = self.parts.all.get(buf.part).is_some_and(|p| p.is_of(h, cut));
        if !of_it {
            // The first packet; or the sender has cut the buffer anew, or sends another.
            if let Some(sink) = &mut buf.sink {
                sink.reset();
            }
            buf.other = h.src;
            if buf.state != BufState::Filling {
                self.moves(b, BufEvent::Fill);
            }
            self.end_part(b);
        }
        if h.nr == 1 {
            if self.store(b, h, rx) {
                self.filled(b, h.total);
            }
            return;
        }
        if !of_it {
            let p = self.parts.begin(b, h, cut, self.now);
            if let Some(buf) = self.bufs.get_mut(b) {
                buf.part = p;
            }
            self.part_timers.by(self.now, p, self.now.saturating_add(self.cfg.datagrams.silence));
        }
        let Some(p) = self.bufs.get(b).map(|b| b.part) else { return };
        if self.parts.all.get(p).is_some_and(|p| p.has(h.idx)) {
            self.stats.repeated += 1;
            return;
        }
        if !self.store(b, h, rx) {
            return;
        }
        self.parts.hear(p, self.now);
        if self.parts.all.get_mut(p).is_some_and(|p| p.note(h.idx)) {
            self.filled(b, h.total);
        }
    }

    /// Takes a packet's payload to its place; `false` where the runtime has less of it than it said.
    fn store(&mut self, b: Key, h: &PacketHdr, rx: &mut dyn StreamRx) -> bool {
        let Some(buf) = self.bufs.get_mut(b) else { return false };
        let (mut left, part) = (h.size, buf.part);
        match &mut buf.sink {
            Some(Sink::Into(v)) => {
                while left > 0
                    && let Some(frag) = rx.next()
                {
                    let n = v.store(h.offset + (h.size - left), frag.bytes());
                    left = left.saturating_sub(n.max(1));
                }
            }
            Some(sink @ Sink::Lend { .. }) => {
                while left > 0 {
                    let (n, copied) = sink.take(left, rx);
                    if n == 0 {
                        break;
                    }
                    left -= n;
                    self.stats.copied += copied;
                    if let Some(p) = self.parts.all.get_mut(part) {
                        p.order.push(h.idx);
                    }
                }
            }
            None => return false,
        }
        self.stats.bytes_rx += h.size - left;
        left == 0
    }

    /// All of a buffer's packets have come.
    fn filled(&mut self, b: Key, total: u64) {
        let Some(buf) = self.bufs.get_mut(b) else { return };
        buf.len = total;
        if let Some(Sink::Lend { pieces, .. }) = &mut buf.sink
            && let Some(part) = self.parts.all.get(buf.part)
            && !part.order.is_sorted()
        {
            let mut all: Vec<_> = part.order.iter().copied().zip(pieces.drain(..)).collect();
            all.sort_by_key(|(idx, _)| *idx);
            pieces.extend(all.into_iter().map(|(_, piece)| piece));
        }
        self.end(b, 0);
    }
}
