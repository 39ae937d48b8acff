//! Receiving: the loop that takes a stream apart (docs/protocol/socklnd.md §8).

use arrayvec::ArrayVec;

use super::Socklnd;
use super::handshake::append;
use super::peer::Peer;
use super::rx::{Rx, RxEvent, RxState, WaitFor};
use super::standing::{StandEvent, Standing};
use super::version::SumOver;
use super::zc;
use crate::lnd::{
    Arrived, Counters, Cx, Data, Dest, Hold, LnetError, Moved, Placement, Stored, Ticket, Upper,
};
use crate::stream::slab::Key;
use crate::stream::{Action, StreamRx};
use crate::wire::ksock::{self, Checksum, KsockHdr, KsockType};
use crate::wire::{LnetBody, LnetHdr, WireError, lnet};

/// The checksum of no bytes (socklnd.md §5.3).
const EMPTY_SUM: u32 = 0xFFFF_FFFF;

/// Most messages that one call takes off a stream. The first of a batch are answered while the rest is still to be read, so
/// both ends of a connection work at once, and other connections have their turn.
const MESSAGES_A_CALL: u64 = 16;

/// Gives a header of `len` bytes, `MAX` at most, to `parse`: where it lies, if it lies together. What has come of one that
/// is not complete waits in `buf`.
#[inline]
fn header<const MAX: usize, R>(
    buf: &mut ArrayVec<u8, { lnet::LEN_V4 }>,
    rx: &mut dyn StreamRx,
    len: usize,
    parse: impl FnOnce(&[u8]) -> R,
) -> Option<R> {
    if buf.is_empty()
        && let Some(front) = rx.front()
    {
        if front.is_empty() {
            return None;
        }
        if let Some(header) = front.get(..len) {
            let parsed = parse(header);
            rx.skip(len as u32);
            return Some(parsed);
        }
    }
    let mut room = [0; MAX];
    let header = pieced(buf, rx, room.get_mut(..len)?)?;
    Some(parse(header))
}

/// A header that comes in pieces, if it is complete now.
#[cold]
fn pieced<'a>(
    buf: &mut ArrayVec<u8, { lnet::LEN_V4 }>,
    rx: &mut dyn StreamRx,
    room: &'a mut [u8],
) -> Option<&'a [u8]> {
    let had = buf.len().min(room.len());
    room.iter_mut().zip(buf.drain(..)).for_each(|(r, b)| *r = b);
    let got = had + rx.read(room.get_mut(had..).unwrap_or_default());
    if got < room.len() {
        append(buf, room.get(..got).unwrap_or_default());
        return None;
    }
    Some(room)
}

/// The sum of a ksock header, which is taken with 0 in the place of the checksum (socklnd.md §5.3).
#[cold]
fn sum_of(ksock: &[u8]) -> Checksum {
    let mut sum = Checksum::default();
    sum.update(ksock.get(..4).unwrap_or_default());
    sum.update(&[0; 4]);
    sum.update(ksock.get(8..).unwrap_or_default());
    sum
}

/// A message on connection `key`, which the peer of entry `entry` has delivered.
#[inline]
fn arrival<T>(
    (key, entry): (Key, Key),
    (hdr, ksock): (&LnetHdr, &KsockHdr),
    (sum, over): (&Option<Checksum>, u64),
    peer: &Peer<T>,
) -> Arrived {
    // Where the checksum covers the headers, too, the placement continues their sum.
    let sum = if ksock.csum != 0 { Some(sum.clone().unwrap_or_default()) } else { None };
    Arrived { key, peer: peer.up, entry, sender: peer.id.nid, hdr: *hdr, sum, over }
}

/// Counts a message that has come whole, at its NI and its peer.
#[inline]
fn count<T>(ni: &mut Moved, peer: Option<&mut Peer<T>>, all: &mut Counters, hdr: &LnetHdr) {
    all.msgs_rx += 1;
    all.payload_rx_bytes += u64::from(hdr.payload_len);
    ni.came(hdr);
    if let Some(p) = peer {
        p.moved.came(hdr);
    }
}

impl<U: Upper> Socklnd<U> {
    /// Takes what a stream has.
    pub(super) fn bytes(&mut self, up: &mut U, cx: &mut Cx, key: Key, rx: &mut dyn StreamRx) {
        let Some(c) = self.conns.get(key) else { return };
        if !c.up() {
            self.handshake_bytes(up, cx, key, rx);
        }
        let now = cx.now;
        let Some(c) = self.conns.get(key) else { return };
        if !c.up() {
            return;
        }
        if let Some(p) = c.peer.and_then(|p| self.peers.get_mut(p)) {
            p.last_alive = now;
        }
        if c.standing != Standing::Part
            && let Some(first) = rx.next()
        {
            rx.unread(first);
            self.stand(up, cx, key, StandEvent::Bytes);
        }
        // Each round takes bytes off the stream, moves to a state that does, or returns.
        let enough = cx.counters.msgs_rx + MESSAGES_A_CALL;
        let mut more = false;
        while !more && self.receive(up, cx, key, rx) {
            let boundary = |c: &super::conn::Conn<U>| c.rx.at_boundary();
            more = cx.counters.msgs_rx >= enough && self.conns.get(key).is_some_and(boundary);
        }
        let Some(c) = self.conns.get_mut(key) else { return };
        if c.rx.at_boundary() {
            c.rx.deadline = None;
        } else if c.rx.state != RxState::ParseWait {
            self.part_came(up, cx, key);
            self.more_by(cx, key);
        }
        if more {
            // The rest waits for the next turn of the runtime.
            self.read_again(cx, key);
        }
    }

    /// One step; `false` when the stream is empty or the connection takes no more.
    fn receive(&mut self, up: &mut U, cx: &mut Cx, key: Key, rx: &mut dyn StreamRx) -> bool {
        let Some(c) = self.conns.get_mut(key) else { return false };
        if !c.up() {
            return false;
        }
        let order = c.order;
        match c.rx.state.get() {
            RxState::KsmHeader => {
                let over = c.version.sum_over();
                let parse = |b: &[u8]| {
                    let parsed = KsockHdr::parse(b, order);
                    let sum = match parsed {
                        Ok(h) if h.csum != 0 && over == SumOver::Message => Some(sum_of(b)),
                        _ => None,
                    };
                    (parsed, sum)
                };
                let Some((parsed, sum)) = header::<{ ksock::LEN }, _>(&mut c.rx.buf, rx, ksock::LEN, parse)
                else {
                    return false;
                };
                if sum.is_some() || c.rx.sum.is_some() {
                    c.rx.sum = sum;
                }
                match parsed {
                    Ok(h) => self.ksock_header(up, cx, key, h),
                    Err(_) => {
                        cx.counters.err_ksock_type += 1;
                        self.protocol_error(up, cx, key)
                    }
                }
            }
            RxState::LnetHeader => {
                let version = c.version;
                let Rx { buf, sum, hdr, .. } = &mut c.rx;
                // Where it stays: headers are what is moved most.
                let parse = |b: &[u8]| {
                    if let Some(sum) = sum {
                        sum.update(b);
                    }
                    LnetHdr::parse_as(version, b).map(|h| *hdr = Some(h))
                };
                let Some(parsed) = header::<{ lnet::LEN_V4 }, _>(buf, rx, version.lnet_len(), parse) else {
                    return false;
                };
                match parsed {
                    Ok(()) => {
                        if c.renamed.is_some()
                            && let Some(p) = c.peer.and_then(|p| self.peers.get(p))
                            && let Some(h) = &mut c.rx.hdr
                        {
                            (h.src_nid, h.src_pid) = (p.id.nid, p.id.pid);
                        }
                        self.lnet_header(up, cx, key)
                    }
                    Err(e) => {
                        match e {
                            WireError::BadPayload { .. } => cx.counters.err_payload_len += 1,
                            _ => cx.counters.err_lnet_type += 1,
                        }
                        self.protocol_error(up, cx, key)
                    }
                }
            }
            RxState::LnetPayload => {
                let Some(p) = &mut c.rx.placement else { return self.rx_event(up, cx, key, RxEvent::Noop) };
                if let Some(room) = p.room() {
                    let n = rx.read(room);
                    p.took(n as u32, &mut cx.counters);
                }
                while p.missing() > 0 {
                    let Some(frag) = rx.next() else { return false };
                    if let Some(rest) = p.feed(frag, &mut cx.counters) {
                        rx.unread(rest);
                    }
                }
                self.payload_done(up, cx, key);
                true
            }
            RxState::Slop => {
                while c.rx.slop > 0 {
                    let Some(mut frag) = rx.next() else { return false };
                    let take = frag.len().min(c.rx.slop);
                    c.rx.slop -= take;
                    cx.counters.rx_dropped_bytes += u64::from(take);
                    frag.advance(take);
                    if !frag.is_empty() {
                        rx.unread(frag);
                    }
                }
                let version = c.version;
                self.rx_event(up, cx, key, RxEvent::Done(version))
            }
            RxState::Parse | RxState::ParseWait => false,
        }
    }

    /// Applies the receive table; a move that it does not know closes the set. Gives whether to go on.
    pub(super) fn rx_event(&mut self, up: &mut U, cx: &mut Cx, key: Key, event: RxEvent) -> bool {
        let Some(c) = self.conns.get_mut(key) else { return false };
        match c.rx.state.apply(event) {
            Some(()) => true,
            None => self.protocol_error(up, cx, key),
        }
    }

    /// Closes the set that a connection belongs to, with RST. Always `false`: nothing more is taken from it.
    pub(super) fn protocol_error(&mut self, up: &mut U, cx: &mut Cx, key: Key) -> bool {
        let peer = self.conns.get(key).and_then(|c| c.peer);
        self.close_set(up, cx, peer, LnetError::ConnLost, false);
        false
    }

    #[inline]
    fn ksock_header(&mut self, up: &mut U, cx: &mut Cx, key: Key, h: KsockHdr) -> bool {
        let Some(c) = self.conns.get_mut(key) else { return false };
        let version = c.version;
        // The sum of a NOOP covers its header alone. A NOOP with a wrong sum acknowledges nothing.
        if h.kind == KsockType::Noop
            && h.csum != 0
            && h.csum != c.rx.sum.clone().map_or(EMPTY_SUM, Checksum::value)
        {
            cx.counters.err_checksum += 1;
            return self.protocol_error(up, cx, key);
        }
        if h.kind == KsockType::Lnet && h.cookie1 == 0 && c.peer.is_some() {
            // It acknowledges nothing.
            c.rx.ksock = Some(h);
            return self.rx_event(up, cx, key, RxEvent::Lnet);
        }
        let Some(p) = c.peer.and_then(|p| self.peers.get_mut(p)) else { return false };
        let (conns, lends, out) = (&self.conns, &mut self.lends, &mut cx.actions);
        let mut acked = 0;
        let result = p.zc.ack(
            zc::acks(version, &h),
            |pending| conns.get(pending.conn).is_some_and(|c| c.sent >= pending.head),
            |pending| {
                acked += 1;
                let Some(rec) = lends.get_mut(pending.lend) else { return };
                rec.held = false;
                if let Some(c) = conns.get(pending.conn) {
                    out.push(Action::Unhold(c.id, rec.name));
                }
            },
        );
        cx.counters.zc_acked += acked;
        if result.is_err() {
            cx.counters.err_cookie += 1;
            return self.protocol_error(up, cx, key);
        }
        match h.kind {
            KsockType::Noop => {
                cx.counters.noops_rx += 1;
                self.rx_event(up, cx, key, RxEvent::Noop)
            }
            KsockType::Lnet => {
                if let Some(c) = self.conns.get_mut(key) {
                    c.rx.ksock = Some(h);
                }
                self.rx_event(up, cx, key, RxEvent::Lnet)
            }
        }
    }

    /// A message's LNet header has come.
    #[inline]
    fn lnet_header(&mut self, up: &mut U, cx: &mut Cx, key: Key) -> bool {
        self.next_ticket += 1;
        let now = cx.now;
        let ticket = self.next_ticket;
        let Some(c) = self.conns.get_mut(key) else { return false };
        let empty = c.rx.hdr.as_ref().is_some_and(|h| h.payload_len == 0);
        let sum = || c.rx.sum.clone().map_or(EMPTY_SUM, Checksum::value);
        if empty && c.rx.ksock.as_ref().is_some_and(|k| k.csum != 0 && k.csum != sum()) {
            cx.counters.err_checksum += 1;
            return self.protocol_error(up, cx, key);
        }
        c.rx.came = now;
        c.rx.ticket = ticket;
        if !c.version.has_ksock() {
            c.rx.ksock = Some(KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0: 0, cookie1: 0 });
        }
        if !self.rx_event(up, cx, key, RxEvent::Header) {
            return false;
        }
        self.parse(up, cx, key);
        self.conns.get(key).is_some_and(|c| c.up() && c.rx.state != RxState::ParseWait)
    }

    /// Starts reading the payload of the message that was just matched, `mlength` bytes of it.
    pub(super) fn begin(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        key: Key,
        placement: &mut Option<Placement>,
        delivery: U::Delivery,
        mlength: u32,
    ) {
        if let Some(p) = placement
            && self.may_offload(up, cx, key, p, &delivery)
        {
            p.keep();
        }
        let Some(c) = self.conns.get_mut(key) else { return };
        let Some(len) = c.rx.hdr.as_ref().map(|h| h.payload_len) else { return };
        c.rx.wait = WaitFor::Nothing;
        c.rx.slop = len.saturating_sub(mlength);
        // An ACK has none: nothing is moved for it.
        if placement.is_some() || c.rx.placement.is_some() {
            c.rx.placement = placement.take();
        }
        c.rx.delivery = delivery;
        if mlength > 0 {
            self.rx_event(up, cx, key, RxEvent::Payload);
        } else {
            self.payload_done(up, cx, key);
        }
    }

    /// Goes on behind the message that was just parsed: nobody wants anything of it.
    pub(super) fn skip(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let Some(c) = self.conns.get_mut(key) else { return };
        let (Some(hdr), Some(ksock), Some(peer)) = (&c.rx.hdr, &c.rx.ksock, c.peer) else { return };
        // Behind copy jobs it keeps its place, and one with a cookie is acknowledged like any other.
        if c.jobs_out() || ksock.cookie0 != 0 {
            return self.begin(up, cx, key, &mut None, U::Delivery::default(), 0);
        }
        let (slop, version) = (hdr.payload_len, c.version);
        c.rx.wait = WaitFor::Nothing;
        c.rx.slop = slop;
        let bucket = c.bucket;
        count(&mut self.moved, self.peers.get_mut(peer), &mut cx.counters, hdr);
        cx.spent(bucket, 0);
        self.rx_event(up, cx, key, if slop > 0 { RxEvent::Slop } else { RxEvent::Done(version) });
    }

    /// The accepted payload has been read: check it, ACK it, deliver it, and go on to what is left.
    fn payload_done(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let Some(c) = self.conns.get_mut(key) else { return };
        let (Some(hdr), Some(ksock), Some(peer)) = (&c.rx.hdr, &c.rx.ksock, c.peer) else { return };
        let (hdr, ksock) = (*hdr, *ksock);
        let (slop, bucket, came, version) = (c.rx.slop, c.bucket, c.rx.came, c.version);
        let delivery = std::mem::take(&mut c.rx.delivery);
        let behind = c.jobs_out();
        let placement = &mut c.rx.placement;
        let waits = placement.as_ref().is_some_and(Placement::waits);
        count(&mut self.moved, self.peers.get_mut(peer), &mut cx.counters, &hdr);
        cx.spent(bucket, placement.as_ref().filter(|_| !waits).map_or(0, Placement::work));
        let good = if behind || waits {
            let placement = placement.take();
            self.offload_message(up, cx, key, (hdr, ksock), delivery, placement);
            true
        } else {
            // Its parts are moved, and never it as a whole.
            let finished = placement.as_mut().map(Placement::finish);
            *placement = None;
            self.conclude(up, cx, Some((peer, key, came)), (&hdr, &ksock), delivery, finished)
        };
        if good {
            self.rx_event(up, cx, key, if slop > 0 { RxEvent::Slop } else { RxEvent::Done(version) });
        }
    }

    /// Checks a payload that is in its place, ACKs and delivers it; `at` are the peer, the connection and the time that the
    /// message came, if the connection is still there. False when the checksum was wrong, and the set is closed.
    #[inline]
    pub(super) fn conclude(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        at: Option<(Key, Key, u64)>,
        (hdr, ksock): (&LnetHdr, &KsockHdr),
        delivery: U::Delivery,
        finished: Option<(Dest, Data, Option<u32>)>,
    ) -> bool {
        let above = at.and_then(|(peer, ..)| self.peers.get(peer)).map(|p| p.up);
        let (dest, data, sum) = match finished {
            Some((dest, data, sum)) => (Some(dest), data, sum),
            None => (None, Data::Discarded, None),
        };
        let wrong = sum.is_some_and(|s| s != ksock.csum);
        cx.counters.err_checksum += u64::from(wrong);
        if let Some((peer, key, came)) = at.filter(|_| ksock.cookie0 != 0 && !wrong) {
            // The ACK of a routed request must not wait behind messages, on any kind of connection.
            let routed = self.peers.get(peer).is_some_and(|p| p.id.nid != hdr.src_nid);
            let nonblk = cx.cfg.nonblk_zcack || routed;
            self.zc_ack(up, cx, peer, (key, came), ksock.cookie0, nonblk);
        }
        let status = if wrong { Err(LnetError::Checksum) } else { Ok(()) };
        up.deliver(cx, self, above, delivery, Stored { dest, data, status }, hdr);
        if let Some((_, key, _)) = at.filter(|_| wrong) {
            self.protocol_error(up, cx, key);
        }
        !wrong
    }

    /// PARSE: asks LNet where a message's payload goes.
    pub(super) fn parse(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let Some(c) = self.conns.get(key) else { return };
        let (Some(hdr), Some(ksock), Some(entry)) = (&c.rx.hdr, &c.rx.ksock, c.peer) else { return };
        // A message that stores no payload takes effect at once, so it waits for all messages before it on the stream.
        let stores = matches!(hdr.body, LnetBody::Put { .. } | LnetBody::Reply { .. });
        if c.copy_queue.as_ref().is_some_and(|b| !b.is_empty() && (b.is_full() || !stores)) {
            return self.stall(up, cx, key, WaitFor::CopyJobs);
        }
        let Some(peer) = self.peers.get(entry) else { return };
        let msg = arrival((key, entry), (hdr, ksock), (&c.rx.sum, c.over), peer);
        up.parse(cx, self, &msg);
    }

    /// The message whose header was read.
    pub(super) fn arrived(&self, key: Key) -> Option<Arrived> {
        let c = self.conns.get(key)?;
        let (Some(hdr), Some(ksock), Some(entry)) = (&c.rx.hdr, &c.rx.ksock, c.peer) else { return None };
        let peer = self.peers.get(entry)?;
        Some(arrival((key, entry), (hdr, ksock), (&c.rx.sum, c.over), peer))
    }

    /// Stops reading a connection until its peer has read some of our answers.
    pub(super) fn wait_for_reader(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let Some(peer) = self.conns.get(key).and_then(|c| c.peer) else { return };
        let Some(p) = self.peers.get_mut(peer) else { return };
        if p.answers >= cx.cfg.max_answers {
            p.stalled.push(key);
            self.stall(up, cx, key, WaitFor::Answers);
            return self.end_unread(up, cx, key);
        }
        self.stall_for_budget(up, cx, peer, key)
    }

    pub(super) fn stall(&mut self, up: &mut U, cx: &mut Cx, key: Key, wait: WaitFor) {
        if let Some(c) = self.conns.get_mut(key) {
            c.rx.wait = wait;
            c.rx.deadline = None;
            c.rx.gives_way = None;
        }
        self.rx_event(up, cx, key, RxEvent::Wait);
    }

    /// Stops reading a connection whose message waits for its sink, on a lazy portal, or for a router buffer, until it has what it waits
    /// for or so many ns have passed.
    pub(super) fn stall_for(&mut self, up: &mut U, cx: &mut Cx, key: Key, wait: WaitFor, most: u64) {
        self.stall(up, cx, key, wait);
        let deadline = cx.now + most;
        if let Some(c) = self.conns.get_mut(key) {
            c.rx.deadline = Some(deadline);
        }
        self.conn_by(cx, key, deadline);
    }

    /// The same; the message alone is given up then.
    pub(super) fn stall_alone(&mut self, up: &mut U, cx: &mut Cx, key: Key, hold: Hold, most: u64) {
        self.stall_for(up, cx, key, WaitFor::Match, most);
        if let Some(c) = self.conns.get_mut(key) {
            c.rx.gives_way = Some(hold);
        }
    }

    /// A message has waited for long enough, and its connection goes on without it.
    pub(super) fn give_way(&mut self, up: &mut U, cx: &mut Cx, key: Key, held: Hold) {
        if let Some(c) = self.conns.get_mut(key) {
            (c.rx.deadline, c.rx.gives_way) = (None, None);
        }
        if let Some(msg) = self.arrived(key) {
            up.overdue(cx, self, &msg, held);
            self.read_behind(up, cx, key);
        }
    }

    /// Ends the message that a connection was receiving when it died.
    pub(super) fn abandon_rx(&mut self, up: &mut U, cx: &mut Cx, key: Key, why: LnetError) {
        self.end_jobs(up, cx, key);
        let Some(c) = self.conns.get_mut(key) else { return };
        let delivery = std::mem::take(&mut c.rx.delivery);
        let (Some(hdr), Some(peer)) = (c.rx.hdr, c.peer) else { return };
        if c.rx.state == RxState::ParseWait && c.rx.wait.is_for_lnet() {
            let ticket = Ticket { ni: self.ni, conn: c.id, bucket: c.bucket, serial: c.rx.ticket };
            if let Some(above) = self.peers.get(peer).map(|p| p.up) {
                up.unheld(cx, above, ticket, &hdr);
            }
        }
        let (dest, data) = match c.rx.placement.take().as_mut().map(Placement::finish) {
            // An incomplete message is not delivered: buffers lent for it go home.
            Some((dest, Data::Lent(_), _)) => (Some(dest), Data::Discarded),
            Some((dest, data, _)) => (Some(dest), data),
            None => (None, Data::Discarded),
        };
        let Some(above) = self.peers.get(peer).map(|p| p.up) else { return };
        up.deliver(cx, self, Some(above), delivery, Stored { dest, data, status: Err(why) }, &hdr);
    }

    /// Goes on with a message that waited for us.
    pub(crate) fn resume(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let Some(c) = self.conns.get_mut(key) else { return };
        if !c.up() || c.rx.state != RxState::ParseWait {
            return;
        }
        c.rx.wait = WaitFor::Nothing;
        c.rx.deadline = None;
        self.parse(up, cx, key);
        self.read_behind(up, cx, key);
    }

    /// Goes on behind a message that waited: with what follows it, or with the FIN.
    pub(super) fn read_behind(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        self.read_again(cx, key);
        if self.conns.get(key).is_some_and(|c| c.fin) {
            self.fin(up, cx, key);
        }
    }

    /// Asks for bytes again, if the connection takes them.
    pub(super) fn read_again(&mut self, cx: &mut Cx, key: Key) {
        let Some(c) = self.conns.get(key) else { return };
        if !c.up() || c.rx.state == RxState::ParseWait {
            return;
        }
        let id = c.id;
        if !c.rx.at_boundary() {
            self.more_by(cx, key);
        }
        cx.act(Action::Read(id));
    }

    /// The rest of a message goes on arriving by then.
    fn more_by(&mut self, cx: &mut Cx, key: Key) {
        let Some(c) = self.conns.get_mut(key) else { return };
        let deadline = cx.now + cx.cfg.timeout();
        c.rx.deadline = Some(deadline);
        self.conn_by(cx, key, deadline);
    }
}
