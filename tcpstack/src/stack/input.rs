//! Packets from the port: link, IP, and TCP to its connection.

use arrayvec::ArrayVec;
use dataplane::pkt::{Csum, Port, RxPkt};

use super::Stack;
use crate::addr::Addr;
use crate::arp;
use crate::ending::CloseWhy;
use crate::event::Event;
use crate::flow::{Cx, Fate};
use crate::io::upper_sum;
use crate::nd::ICMP6;
use crate::opts::{OptBytes, Opts, Ts};
use crate::seq::Seq;
use crate::siblings::{SiblingMsg, Stray};
use crate::stamps;
use crate::table::{Key, Place};
use crate::timewait::Verdict;
use crate::udp::UDP;
use crate::wire::{self, Drop, ETH_ARP, ETH_IPV4, ETH_IPV6, Fields, HDR, Ip, Mac, Seg};

/// Most bytes of headers: Ethernet with two tags, IPv6 with its extensions, TCP with all options.
const HEAD_MAX: usize = 192;
const _: () = assert!(22 + wire::HDR6 + wire::EXT_MAX + 60 <= HEAD_MAX);

/// Headers are copied out of the packet once, and judged and used as they were then: whoever shares the packet's memory
/// with us (the other end of a virtio link) may change it at any time.
#[inline]
fn copy_head(b: &[u8]) -> ArrayVec<u8, HEAD_MAX> {
    let mut h = ArrayVec::new();
    let _ = h.try_extend_from_slice(b.get(..b.len().min(HEAD_MAX)).unwrap_or_default());
    h
}

impl<P: Port> Stack<P> {
    /// Takes in one packet.
    pub(super) fn ingress(&mut self, p: P::Rx) {
        if let Err(why) = self.packet(p) {
            let c = &mut self.c;
            *match why {
                Drop::Malformed => &mut c.rx_malformed,
                Drop::NotOurs => &mut c.rx_not_ours,
                Drop::Protocol => &mut c.rx_protocol,
                Drop::Fragment => &mut c.rx_fragments,
                Drop::Checksum => &mut c.rx_bad_csum,
                Drop::Martian => &mut c.rx_martian,
            } += 1;
        }
    }

    #[inline]
    fn packet(&mut self, p: P::Rx) -> Result<(), Drop> {
        let meta = p.meta();
        if meta.csum == Csum::Bad {
            return Err(Drop::Checksum);
        }
        let head = &copy_head(p.head());
        let e = wire::eth(head).ok_or(Drop::Malformed)?;
        // The device strips the outer tag; a tag within a VLAN's is another network's.
        let vlan = match meta.vlan {
            None | Some(0) => e.vlan,
            Some(_) if e.vlan.is_some() => return Err(Drop::NotOurs),
            outer => outer,
        };
        if vlan != self.cfg.vlan {
            return Err(Drop::NotOurs);
        }
        if e.src[0] & 1 != 0 {
            return Err(Drop::Martian);
        }
        let mine = e.dst == self.io.mac();
        match e.kind {
            ETH_ARP if mine || e.dst == wire::BROADCAST => {
                let a = arp::Packet::parse(&head[e.len..]).ok_or(Drop::Malformed)?;
                let (link, mut around) = self.link();
                link.on_arp(&a, &mut around);
                Ok(())
            }
            // TCP and echo by Ethernet broadcast or multicast are not answered (RFC 1122 §4.2.3.10).
            ETH_ARP | ETH_IPV4 if !mine => Err(Drop::NotOurs),
            ETH_IPV4 => {
                // A packet that the device joined, or that never crossed a wire, has no header checksum to speak of.
                let sum = meta.csum != Csum::Partial && meta.lro_segsz == 0;
                let ip = wire::ip4(&head[e.len..], p.len() as usize - e.len, sum)?;
                if !self.host.owns(&ip.dst) {
                    return Err(Drop::NotOurs);
                }
                match ip.proto {
                    6 => self.on_tcp(p, (head, e.len), e.src, &ip, meta.csum),
                    _ if self.host.is_martian(&ip.src) => Err(Drop::Martian),
                    1 => self.on_icmp(&p, &e, &ip),
                    UDP => self.on_udp(p, (head, &e), &ip, meta.csum),
                    _ => Err(Drop::Protocol),
                }
            }
            ETH_IPV6 if self.host.v6() => {
                let ip = wire::ip6(&head[e.len..], p.len() as usize - e.len)?;
                // To a group only neighbour discovery is heard, and only in our groups.
                let group = ip.dst.0[0] == 0xff;
                let ours = if group {
                    ip.proto == ICMP6 && self.host.hears(&ip.dst)
                } else {
                    self.host.owns(&ip.dst)
                };
                if !ours || (!mine && e.dst[..2] != [0x33, 0x33]) || (!mine && !group) {
                    return Err(Drop::NotOurs);
                }
                let probe = ip.src == Addr::UNSPECIFIED && ip.proto == ICMP6;
                // Our own questions, should the link bring them back. A kernel behind net_tap has our Ethernet address.
                let echo = self.host.owns(&ip.src) || (probe && e.src == self.io.mac());
                if echo || !(probe || ip.src.is_unicast()) {
                    return Err(Drop::Martian);
                }
                match ip.proto {
                    6 => self.on_tcp(p, (head, e.len), e.src, &ip, meta.csum),
                    ICMP6 => self.on_icmp6(&p, &e, &ip),
                    UDP if self.host.is_martian(&ip.src) => Err(Drop::Martian),
                    UDP => self.on_udp(p, (head, &e), &ip, meta.csum),
                    _ => Err(Drop::Protocol),
                }
            }
            _ => Err(Drop::Protocol),
        }
    }

    #[inline]
    fn on_tcp(
        &mut self,
        p: P::Rx,
        (head, at): (&[u8], usize),
        src: Mac,
        ip: &Ip,
        csum: Csum,
    ) -> Result<(), Drop> {
        let off = at + ip.hlen;
        let s = wire::tcp(head.get(off..).unwrap_or(&[]), ip)?;
        if csum == Csum::None && upper_sum(&p, off, ip) != 0xffff {
            return Err(Drop::Checksum);
        }
        let place = self.flows.find(&s.key);
        // An address that has a connection was looked at when that began.
        if !matches!(place, Some(Place::Flow(_))) && self.host.is_martian(&ip.src) {
            return Err(Drop::Martian);
        }
        let o = Opts::parse(head.get(off + HDR..off + s.hlen).unwrap_or(&[]));
        if s.has(wire::SYN) {
            if s.flags & (wire::FIN | wire::RST) != 0 {
                self.c.rx_bad_flags += 1;
                return Ok(());
            }
            let nobodys = place.is_none() && (s.has(wire::ACK) || self.listeners.find(&s.key).is_none());
            match if nobodys { self.elsewhere(&s.key) } else { None } {
                Some(to) => self.siblings.hand_over(to, &p, &mut self.c),
                None => self.on_syn(&s, place, &o, src),
            }
            return Ok(());
        }
        match place.or_else(|| self.take_cookie(&s, &o, src).map(Place::Flow)) {
            Some(Place::Flow(i)) => {
                if s.plen > 0 {
                    self.take_payload(p, off + s.hlen, s.plen);
                }
                self.segment(i, &s, &o, src);
            }
            Some(Place::TimeWait(t)) => self.in_time_wait(t, &s, &o, src),
            None => match self.elsewhere(&s.key) {
                Some(to) => self.siblings.hand_over(to, &p, &mut self.c),
                None => self.reject(&s, src),
            },
        }
        Ok(())
    }

    #[inline]
    fn elsewhere(&self, k: &Key) -> Option<(u16, u16)> {
        self.siblings.elsewhere(k, || self.listeners.find(k).is_some())
    }

    pub(super) fn on_syn(&mut self, s: &Seg, place: Option<Place>, o: &Opts, src: Mac) {
        match place {
            Some(Place::Flow(i)) => self.segment(i, s, o, src),
            Some(Place::TimeWait(t)) => match self.flows.in_time_wait(t, s, o.ts, self.now) {
                Verdict::Reuse(after) => match self.listeners.find(&s.key) {
                    None => self.reject(s, src),
                    // No cookie is good enough here: its number may lie within what the old connection used.
                    Some(l) if self.full(l) => self.c.syn_dropped += 1,
                    Some(_) => {
                        self.c.time_wait_reused += 1;
                        self.flows.leave_time_wait(t);
                        self.accept(s, o, src, Some(after));
                    }
                },
                v => self.answer_late(t, s, v, src),
            },
            None if s.has(wire::ACK) || s.has(wire::RST) => self.reject(s, src),
            None => self.accept(s, o, src, None),
        }
    }

    /// Takes a packet apart into `self.frags`; a small payload is copied and the buffer freed at once.
    #[inline]
    pub(super) fn take_payload(&mut self, p: P::Rx, off: usize, len: u32) {
        self.frags.clear();
        let frags = &mut self.frags;
        p.frags(off as u32, len, &mut |f| frags.push(f));
        if len >= self.cfg.copy_below {
            return;
        }
        let Some(mut b) = self.small.take() else { return };
        let mut at = 0;
        for f in frags.drain(..) {
            let n = f.bytes().len();
            b.space()[at..at + n].copy_from_slice(f.bytes());
            at += n;
        }
        self.c.rx_small_bytes += at as u64;
        frags.push(b.into_frag(0, at as u32));
    }

    #[inline]
    pub(super) fn segment(&mut self, i: u32, s: &Seg, o: &Opts, src: Mac) {
        let Some(f) = self.flows.at(i) else { return };
        let v6 = f.v6();
        let mut cx = Cx {
            now: self.now,
            cfg: &self.cfg,
            engine: &mut self.engine,
            c: &mut self.c,
            challenges: &mut self.challenges,
            own_mss: self.io.mss(v6),
            super_max: self.io.super_max(v6),
            ooo_max: self.mem.out_of_order(self.cfg.ooo_max),
            mem: &mut self.mem,
        };
        let news = f.on_segment(s, o, &mut self.frags, &mut cx);
        self.frags.clear();
        let news = match news {
            Ok(news) => news,
            Err(Fate::Refused) => return self.end(i, CloseWhy::Refused),
            Err(Fate::Reset) => return self.end(i, CloseWhy::Reset),
            Err(Fate::Broken) => {
                self.c.desync += 1;
                return self.abort(i, CloseWhy::Reset);
            }
            Err(Fate::Reject) => {
                self.reject(s, src);
                return self.arm(i);
            }
        };
        let mut discards = false;
        if news.received > 0 {
            f.received(news.received, &mut self.mem, &self.small, &mut self.c, self.now);
            self.c.rx_bytes += news.received;
            discards = f.discards();
            self.c.rx_discarded_bytes += if discards { news.received } else { 0 };
        }
        if news.opened {
            let (local, remote, l) = (f.local(), f.remote(), f.listener());
            let flow = self.flows.id(i);
            self.flows.tell(Event::Opened { flow, local, remote, passive: l.is_some() });
            if let Some(l) = l {
                self.listeners.done(l);
            }
        }
        if news.acked {
            self.flows.tell_progress(i);
        }
        if news.received > 0 && !discards {
            self.flows.tell_readable(i);
        }
        if news.fin {
            let id = self.flows.id(i);
            self.flows.tell(Event::PeerFin(id));
        }
        self.flows.mark(i);
    }

    pub(super) fn in_time_wait(&mut self, t: u32, s: &Seg, o: &Opts, src: Mac) {
        let v = self.flows.in_time_wait(t, s, o.ts, self.now);
        self.answer_late(t, s, v, src);
    }

    fn answer_late(&mut self, t: u32, s: &Seg, v: Verdict, src: Mac) {
        match v {
            Verdict::Ack => (),
            Verdict::Old => self.c.paws_rejected += 1,
            Verdict::Drop | Verdict::Reuse(_) => return,
        }
        // A segment with data or a FIN was sent again and is paced by its sender; another could be a loop of ACKs.
        if s.plen == 0 && !s.has(wire::FIN) && !self.challenges.take(self.now) {
            self.c.challenge_limited += 1;
            return;
        }
        let Some(e) = self.flows.time_wait(t) else { return };
        let f = Fields { seq: e.snd_nxt, ack: e.rcv_nxt, flags: wire::ACK, win: e.win };
        let tmpl = self.io.template(src, &e.key);
        let val = stamps::clock(self.secret.stamp_offset(&e.key), self.now);
        let o = OptBytes::plain(e.ts.map(|ecr| Ts { val, ecr }));
        self.io.control(&tmpl, &f, &o, &mut self.c);
    }

    /// Answers a segment that belongs to no connection, or that its connection cannot accept, with a RST.
    pub(super) fn reject(&mut self, s: &Seg, src: Mac) {
        if s.has(wire::RST) {
            return;
        }
        if !self.resets.take(self.now) {
            self.c.rst_limited += 1;
            return;
        }
        // RFC 9293 §3.10.7.1.
        let f = if s.has(wire::ACK) {
            Fields { seq: s.ack, ack: Seq(0), flags: wire::RST, win: 0 }
        } else {
            let len = u64::from(s.plen) + u64::from(s.has(wire::SYN)) + u64::from(s.has(wire::FIN));
            Fields { seq: Seq(0), ack: s.seq.plus(len), flags: wire::RST | wire::ACK, win: 0 }
        };
        let tmpl = self.io.template(src, &s.key);
        self.c.rst_sent += u64::from(self.io.control(&tmpl, &f, &[], &mut self.c));
    }

    /// The next message for another stack of this node, and that one's queue. To be asked for after each turn where the
    /// port has several queues; there is never one where it has one.
    pub fn tell(&mut self) -> Option<(u16, SiblingMsg)> {
        self.siblings.pop()
    }

    /// Takes in a message of another stack of this node.
    pub fn hear(&mut self, now: u64, n: SiblingMsg) {
        self.set_now(now);
        self.c.siblings_heard += 1;
        match n {
            SiblingMsg::Neighbour(a, ev) => self.link.event(&a, ev, self.now),
            SiblingMsg::Router(a, lifetime) => self.host.on_router(a, lifetime, self.now),
            SiblingMsg::Error(r) => self.judge(Some(r), false),
            SiblingMsg::Stray(s) => {
                let lost = self.stray(s).is_err();
                self.c.strays_lost += u64::from(lost);
            }
        }
    }

    /// A packet that came to another queue and belongs here, as far as that one's stack could tell.
    fn stray(&mut self, stray: Stray) -> Result<(), Drop> {
        let (bad, frame) = (Drop::Malformed, stray.frame());
        let e = wire::eth(frame).ok_or(bad)?;
        let l3 = frame.get(e.len..).ok_or(bad)?;
        let ip = match e.kind {
            ETH_IPV4 => wire::ip4(l3, l3.len(), false)?,
            ETH_IPV6 => wire::ip6(l3, l3.len())?,
            _ => return Err(Drop::Protocol),
        };
        let l4 = l3.get(ip.hlen..ip.hlen + ip.payload).ok_or(bad)?;
        let s = wire::tcp(l4, &ip)?;
        let o = Opts::parse(l4.get(HDR..s.hlen).ok_or(bad)?);
        let place = self.flows.find(&s.key);
        let place = match place {
            None if !s.has(wire::SYN) => self.take_cookie(&s, &o, e.src).map(Place::Flow),
            place => place,
        };
        if place.is_none() && stray.goes_on() {
            return if self.siblings.hand_on(stray) { Ok(()) } else { Err(bad) };
        }
        self.c.strays_taken += 1;
        if s.has(wire::SYN) {
            self.on_syn(&s, place, &o, e.src);
            return Ok(());
        }
        match place {
            Some(Place::Flow(i)) => {
                self.frags.clear();
                for piece in l4.get(s.hlen..).ok_or(bad)?.chunks(self.small.buf_size()) {
                    // As if it had been lost on the way.
                    self.frags.push(self.small.copy_of(piece).ok_or(bad)?);
                    self.c.rx_small_bytes += piece.len() as u64;
                }
                self.segment(i, &s, &o, e.src);
            }
            Some(Place::TimeWait(t)) => self.in_time_wait(t, &s, &o, e.src),
            None => self.reject(&s, e.src),
        }
        Ok(())
    }
}
