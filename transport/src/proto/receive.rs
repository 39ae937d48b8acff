//! Receiving: the loop that takes a stream apart (docs/protocol/socklnd.md §8).

use super::api::{Data, LnetError, Sink};
use super::handshake::collect;
use super::io::{Output, StreamRx};
use super::lnet::Delivery;
use super::machine::Machine;
use super::placement::{Dest, Placement};
use super::rx::{self, RxEvent, RxState, WaitFor};
use super::slab::Key;
use super::standing::{StandEvent, Standing};
use super::version::SumOver;
use super::zc;
use crate::wire::ksock::{self, Checksum, KsockHdr, KsockType};
use crate::wire::{LnetHdr, PingInfo, WireError};

/// The checksum of no bytes (socklnd.md §5.3).
const EMPTY_SUM: u32 = 0xFFFF_FFFF;

/// Messages taken off a stream before what they lead to is sent. A batch of small messages is then answered while its
/// rest is still being read, so that both ends of a connection work at once; other connections have their turn, too.
const MESSAGES_A_CALL: u64 = 16;

impl Machine {
    /// Takes what a stream has.
    pub(super) fn bytes(&mut self, key: Key, rx: &mut dyn StreamRx) {
        let Some(c) = self.conns.get(key) else { return };
        if !c.up() {
            self.handshake_bytes(key, rx);
        }
        let now = self.now;
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
            self.stand(key, StandEvent::Bytes);
        }
        // Each round takes bytes off the stream, moves to a state that does, or returns.
        let enough = self.counters.msgs_rx + MESSAGES_A_CALL;
        let mut more = false;
        while !more && self.receive(key, rx) {
            let boundary = |c: &super::conn::Conn| c.rx.at_boundary();
            more = self.counters.msgs_rx >= enough && self.conns.get(key).is_some_and(boundary);
        }
        let deadline = now + self.cfg.timeout();
        let Some(c) = self.conns.get_mut(key) else { return };
        if c.rx.at_boundary() {
            c.rx.deadline = None;
        } else if c.rx.state != RxState::ParseWait {
            c.rx.deadline = Some(deadline);
            self.conn_by(key, deadline);
        }
        if more {
            // The rest waits for the next turn of the runtime.
            self.read_again(key);
        }
    }

    /// One step; `false` when the stream is empty or the connection takes no more.
    fn receive(&mut self, key: Key, rx: &mut dyn StreamRx) -> bool {
        let Some(c) = self.conns.get_mut(key) else { return false };
        if !c.up() {
            return false;
        }
        let order = c.order;
        match c.rx.state {
            RxState::KsmHeader => {
                if !collect(&mut c.rx.buf, rx, ksock::LEN) {
                    return false;
                }
                let parsed = KsockHdr::parse(&c.rx.buf, order);
                c.rx.sum = match parsed {
                    Ok(h) if h.csum != 0 && c.version.sum_over() == SumOver::Message => {
                        c.rx.buf.get_mut(4..8).unwrap_or_default().fill(0);
                        let mut sum = Checksum::default();
                        sum.update(&c.rx.buf);
                        Some(sum)
                    }
                    _ => None,
                };
                c.rx.buf.clear();
                match parsed {
                    Ok(h) => self.ksock_header(key, h),
                    Err(_) => {
                        self.counters.err_ksock_type += 1;
                        self.protocol_error(key)
                    }
                }
            }
            RxState::LnetHeader => {
                if !collect(&mut c.rx.buf, rx, c.version.lnet_len()) {
                    return false;
                }
                let parsed = LnetHdr::parse_as(c.version, &c.rx.buf);
                if let Some(sum) = &mut c.rx.sum {
                    sum.update(&c.rx.buf);
                }
                c.rx.buf.clear();
                match parsed {
                    Ok(mut h) => {
                        if c.renamed.is_some()
                            && let Some(p) = c.peer.and_then(|p| self.peers.get(p))
                        {
                            (h.src_nid, h.src_pid) = (p.id.nid, p.id.pid);
                        }
                        self.lnet_header(key, h)
                    }
                    Err(e) => {
                        match e {
                            WireError::BadPayload { .. } => self.counters.err_payload_len += 1,
                            _ => self.counters.err_lnet_type += 1,
                        }
                        self.protocol_error(key)
                    }
                }
            }
            RxState::LnetPayload => {
                let Some(p) = &mut c.rx.placement else { return self.rx_event(key, RxEvent::Noop) };
                while p.missing() > 0 {
                    let Some(frag) = rx.next() else { return false };
                    if let Some(rest) = p.feed(frag, &mut self.counters) {
                        rx.unread(rest);
                    }
                }
                self.payload_done(key);
                true
            }
            RxState::Slop => {
                while c.rx.slop > 0 {
                    let Some(mut frag) = rx.next() else { return false };
                    let take = frag.len().min(c.rx.slop);
                    c.rx.slop -= take;
                    self.counters.rx_dropped_bytes += u64::from(take);
                    frag.advance(take);
                    if !frag.is_empty() {
                        rx.unread(frag);
                    }
                }
                self.rx_event(key, RxEvent::Done)
            }
            RxState::Parse | RxState::ParseWait => false,
        }
    }

    /// Applies the receive table; a move that it does not know closes the set. Gives whether to go on.
    pub(super) fn rx_event(&mut self, key: Key, event: RxEvent) -> bool {
        let Some(c) = self.conns.get_mut(key) else { return false };
        match rx::next(c.version, c.rx.state, event) {
            Some(next) => {
                c.rx.state = next;
                true
            }
            None => self.protocol_error(key),
        }
    }

    /// Closes the set that a connection belongs to, with RST. Always `false`: nothing more is taken from it.
    pub(super) fn protocol_error(&mut self, key: Key) -> bool {
        let peer = self.conns.get(key).and_then(|c| c.peer);
        self.close_set(peer, LnetError::ConnLost, false);
        false
    }

    fn ksock_header(&mut self, key: Key, h: KsockHdr) -> bool {
        let Some(c) = self.conns.get_mut(key) else { return false };
        let version = c.version;
        // A NOOP ends with its header: so does what its sum covers. A spoiled one ACKs nothing.
        if h.kind == KsockType::Noop
            && h.csum != 0
            && h.csum != c.rx.sum.clone().map_or(EMPTY_SUM, Checksum::value)
        {
            self.counters.err_checksum += 1;
            return self.protocol_error(key);
        }
        let Some(p) = c.peer.and_then(|p| self.peers.get_mut(p)) else { return false };
        let (conns, lends, out) = (&self.conns, &mut self.lends, &mut self.out);
        let mut acked = 0;
        let result = p.zc.ack(
            zc::acks(version, &h),
            |pending| conns.get(pending.conn).is_some_and(|c| c.sent >= pending.end),
            |pending| {
                acked += 1;
                let Some(rec) = lends.get_mut(pending.lend) else { return };
                rec.held = false;
                if let Some(c) = conns.get(pending.conn) {
                    out.push_back(Output::Unhold(c.id, rec.name));
                }
            },
        );
        self.counters.zc_acked += acked;
        if result.is_err() {
            self.counters.err_cookie += 1;
            return self.protocol_error(key);
        }
        match h.kind {
            KsockType::Noop => {
                self.counters.noops_rx += 1;
                self.rx_event(key, RxEvent::Noop)
            }
            KsockType::Lnet => {
                if let Some(c) = self.conns.get_mut(key) {
                    c.rx.ksock = Some(h);
                }
                self.rx_event(key, RxEvent::Lnet)
            }
        }
    }

    fn lnet_header(&mut self, key: Key, h: LnetHdr) -> bool {
        if h.dest_nid != self.cfg.nid
            && (h.dest_nid.same_net(self.cfg.nid) || h.dest_nid == crate::wire::Nid::LO)
        {
            self.counters.err_dest_nid += 1;
            return self.protocol_error(key);
        }
        self.next_ticket += 1;
        let now = self.now;
        let ticket = self.next_ticket;
        let Some(c) = self.conns.get_mut(key) else { return false };
        let sum = c.rx.sum.clone().map_or(EMPTY_SUM, Checksum::value);
        if h.payload_len == 0 && c.rx.ksock.is_some_and(|k| k.csum != 0 && k.csum != sum) {
            self.counters.err_checksum += 1;
            return self.protocol_error(key);
        }
        c.rx.hdr = Some(h);
        c.rx.came = now;
        c.rx.ticket = ticket;
        if !c.version.has_ksock() {
            c.rx.ksock = Some(KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0: 0, cookie1: 0 });
        }
        if !self.rx_event(key, RxEvent::Header) {
            return false;
        }
        self.parse(key);
        self.conns.get(key).is_some_and(|c| c.up() && c.rx.state != RxState::ParseWait)
    }

    /// Starts reading the payload of the message that was just matched, `mlength` bytes of it.
    pub(super) fn begin(
        &mut self,
        key: Key,
        mut placement: Option<Placement>,
        delivery: Delivery,
        mlength: u32,
    ) {
        if let Some(p) = &mut placement
            && self.may_box(key, p, &delivery)
        {
            p.keep();
        }
        let Some(c) = self.conns.get_mut(key) else { return };
        let Some(hdr) = c.rx.hdr else { return };
        c.rx.wait = WaitFor::Nothing;
        c.rx.slop = hdr.payload_len.saturating_sub(mlength);
        c.rx.placement = placement;
        c.rx.delivery = delivery;
        if mlength > 0 {
            self.rx_event(key, RxEvent::Payload);
        } else {
            self.payload_done(key);
        }
    }

    /// The accepted payload has been read: check it, ACK it, deliver it, and go on to what is left.
    fn payload_done(&mut self, key: Key) {
        let Some(c) = self.conns.get_mut(key) else { return };
        let (Some(hdr), Some(ksock), Some(peer)) = (c.rx.hdr, c.rx.ksock, c.peer) else { return };
        let (slop, bucket, came) = (c.rx.slop, c.bucket, c.rx.came);
        let delivery = std::mem::replace(&mut c.rx.delivery, Delivery::Nothing);
        let (placement, behind) = (c.rx.placement.take(), c.boxes_out());
        let waits = placement.as_ref().is_some_and(Placement::waits);
        self.counters.msgs_rx += 1;
        self.counters.payload_rx_bytes += u64::from(hdr.payload_len);
        self.spent(bucket, placement.as_ref().filter(|_| !waits).map_or(0, Placement::work));
        let good = if behind || waits {
            self.box_up(key, (hdr, ksock), delivery, placement);
            true
        } else {
            self.conclude(Some((peer, key, came)), &hdr, &ksock, delivery, placement.map(Placement::finish))
        };
        if good {
            self.rx_event(key, if slop > 0 { RxEvent::Slop } else { RxEvent::Done });
        }
    }

    /// Checks a payload that is in its place, ACKs and delivers it; `at` are the peer, the connection and the time that the
    /// message came, if the connection is still there. False when the checksum was wrong, and the set is closed.
    pub(super) fn conclude(
        &mut self,
        at: Option<(Key, Key, u64)>,
        hdr: &LnetHdr,
        ksock: &KsockHdr,
        delivery: Delivery,
        finished: Option<(Dest, Data, Option<u32>)>,
    ) -> bool {
        let peer = at.map(|(peer, ..)| peer);
        let (dest, data, sum) = match finished {
            Some((dest, data, sum)) => (Some(dest), data, sum),
            None => (None, Data::Discarded, None),
        };
        if sum.is_some_and(|s| s != ksock.csum) {
            self.counters.err_checksum += 1;
            self.deliver(peer, delivery, dest, data, Err(LnetError::Checksum), hdr);
            if let Some((_, key, _)) = at {
                self.protocol_error(key);
            }
            return false;
        }
        if let Some((peer, key, came)) = at.filter(|_| ksock.cookie0 != 0) {
            // One that came by a router must not wait behind messages either way.
            let routed = self.peers.get(peer).is_some_and(|p| p.id.nid != hdr.src_nid);
            self.zc_ack(peer, (key, came), ksock.cookie0, self.cfg.nonblk_zcack || routed);
        }
        self.deliver(peer, delivery, dest, data, Ok(()), hdr);
        true
    }

    /// Gives a message's payload, or its failure, to whom it concerns.
    fn deliver(
        &mut self,
        peer: Option<Key>,
        delivery: Delivery,
        dest: Option<Dest>,
        data: Data,
        status: Result<(), LnetError>,
        hdr: &LnetHdr,
    ) {
        if let Delivery::Push(mlength) = delivery {
            if let Some(peer) = peer.filter(|_| status.is_ok()) {
                self.send_push_ack(peer, hdr, mlength);
            }
            return;
        }
        let sink = match dest {
            Some(Dest::Sink { sink, .. }) => Some(sink),
            Some(Dest::Own(info)) => {
                let Delivery::Reply(op) = delivery else { return };
                let info = match status {
                    Ok(()) => PingInfo::parse(&info).map_err(|_| LnetError::Malformed),
                    Err(e) => Err(e),
                };
                self.counters.err_ping_info += u64::from(info == Err(LnetError::Malformed));
                let event = self.ops.pong(op, self.now, info);
                return self.complete_some(event);
            }
            None => None,
        };
        match delivery {
            Delivery::Nothing | Delivery::Push(_) => {}
            Delivery::Put(grant) => {
                if let Some(peer) = peer.filter(|_| grant.ack && status.is_ok()) {
                    self.send_ack(peer, &grant);
                }
                self.return_put(grant, sink.unwrap_or(Sink::Discard(0)), status, data);
            }
            Delivery::Reply(op) => {
                let event = self.ops.reply(op, status, hdr.payload_len, data, sink);
                self.complete_some(event);
            }
        }
    }

    /// A connection died: ends the message that it was receiving.
    pub(super) fn abandon_rx(&mut self, key: Key, why: LnetError) {
        self.end_boxed(key);
        let Some(c) = self.conns.get_mut(key) else { return };
        let delivery = std::mem::replace(&mut c.rx.delivery, Delivery::Nothing);
        let (Some(hdr), Some(peer)) = (c.rx.hdr, c.peer) else { return };
        let finished = c.rx.placement.take().map(Placement::finish);
        let (dest, data) = match finished {
            Some((dest, data, _)) => (Some(dest), data),
            None => (None, Data::Discarded),
        };
        // A part of a message is no message: what was lent of it goes home.
        let data = if matches!(data, Data::Lent(_)) { Data::Discarded } else { data };
        self.deliver(Some(peer), delivery, dest, data, Err(why), &hdr);
    }

    /// Goes on with a message that waited for us.
    pub(super) fn resume(&mut self, key: Key) {
        let Some(c) = self.conns.get_mut(key) else { return };
        if !c.up() || c.rx.state != RxState::ParseWait {
            return;
        }
        c.rx.wait = WaitFor::Nothing;
        c.rx.deadline = None;
        let fin = c.fin;
        self.parse(key);
        self.read_again(key);
        if fin {
            self.fin(key);
        }
    }

    /// Asks for bytes again, if the connection takes them.
    pub(super) fn read_again(&mut self, key: Key) {
        let deadline = self.now + self.cfg.timeout();
        let Some(c) = self.conns.get_mut(key) else { return };
        if !c.up() || c.rx.state == RxState::ParseWait {
            return;
        }
        let id = c.id;
        if !c.rx.at_boundary() {
            c.rx.deadline = Some(deadline);
            self.conn_by(key, deadline);
        }
        self.out.push_back(Output::Read(id));
    }
}
