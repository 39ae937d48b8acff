//! Below IP: who is where. ARP and neighbour discovery for the stack, its announcements, and connections that wait
//! for a neighbour or follow one that has moved.

use std::fmt;
use std::net::IpAddr;

use dataplane::pkt::{Port, RxPkt};

use crate::addr::Addr;
use crate::arp;
use crate::ending::CloseWhy;
use crate::flow::Flow;
use crate::nd::{self, FRAME_MAX, Message, Say};
use crate::neighbour::{Ev, Lookup};
use crate::stack::Stack;
use crate::wire::{BROADCAST, Eth, Ip, Mac};

/// Own address defended at most this often (RFC 5227 §2.4), in ns.
const DEFEND: u64 = 10_000_000_000;
/// A host with an address of ours is told of at most this often, in ns.
const TELL: u64 = 60_000_000_000;
/// Announcements of groups and questions for routers in all, and the time between them in ns (RFC 4861 §10).
const ROUNDS: u8 = 3;
const ROUND: u64 = 4_000_000_000;

/// What the stack does of its own accord on the link.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Announcer {
    /// Rounds done.
    rounds: u8,
    /// When the next one is due (ns); the first is at once.
    next: u64,
    defend_at: u64,
    /// When somebody with an address of ours is told of again, and how many of its packets were not.
    tell_at: u64,
    untold: u64,
    /// [`crate::neighbour::Neighbours::epoch`] when those who wait for a neighbour were last looked at.
    epoch: u32,
}

/// Another station with an address of ours. Connections to that address come and go between the two until one of them
/// has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// The address.
    pub addr: IpAddr,
    /// The Ethernet address of the other station.
    pub mac: Mac,
    /// Packets that said so since it was last told.
    pub packets: u64,
}

impl fmt::Display for Duplicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.mac;
        write!(
            f,
            "{} is in use by another station, {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x} (packets that said so \
             since this was last told: {}): peers reach either one of the two; give one of them another address",
            self.addr, self.packets
        )
    }
}

impl Announcer {
    /// When the next round is due (ns).
    pub(crate) fn deadline(&self) -> Option<u64> {
        (self.next != u64::MAX).then_some(self.next)
    }

    /// The link may be another one: from the start.
    pub(crate) fn again(&mut self) {
        (self.rounds, self.next) = (0, 0);
    }
}

impl<P: Port> Stack<P> {
    /// Tells the link of our addresses: ARP announcements (RFC 5227 §2.3) and advertisements once, the groups we listen
    /// to and a question for routers three times. The addresses are used from the start; that nobody else has them is
    /// asked along with it (RFC 4862 §5.4), and an answer is reported and counted. Of a port's stacks one does so for
    /// all.
    pub(crate) fn announce(&mut self) {
        if self.now < self.announcer.next {
            return;
        }
        if !self.siblings.is_first() {
            self.announcer.next = u64::MAX;
            return;
        }
        let first = self.announcer.rounds == 0;
        self.announcer.rounds += 1;
        let more = self.host.v6() && self.announcer.rounds < ROUNDS;
        self.announcer.next = if more { self.now + ROUND } else { u64::MAX };
        if first {
            let own: Vec<Addr> = self.host.own(false).collect();
            for a in own.iter().filter_map(Addr::as_v4) {
                self.send_arp(&arp::Packet::request(self.io.mac, a, a), BROADCAST);
            }
        }
        if !self.host.v6() {
            return;
        }
        self.report_groups();
        if first {
            let own: Vec<Addr> = self.host.own(true).collect();
            for a in own.iter().copied() {
                self.send_nd(&nd::Packet::solicit(Addr::UNSPECIFIED, a, None), None);
            }
            // For those who knew the address at another station: one that was here before us, or our own with another
            // Ethernet address (RFC 4861 §7.2.6).
            for a in own {
                self.advertise(a, Addr::ALL_NODES, None);
            }
        }
        let silent = self.host.router(self.now).is_none();
        if let Some(src) = self.link_local().filter(|_| silent && self.host.wants_router()) {
            self.send_nd(&nd::Packet { src, dst: Addr::ALL_ROUTERS, say: Say::Routers }, None);
        }
    }

    /// One harmless frame: an announcement of an address of ours.
    pub(crate) fn announce_once(&mut self) {
        let v4 = self.host.own(false).find_map(|a| a.as_v4());
        if let Some(a) = v4 {
            self.send_arp(&arp::Packet::request(self.io.mac, a, a), BROADCAST);
        } else if let Some(target) = self.link_local() {
            self.advertise(target, Addr::ALL_NODES, None);
        }
    }

    fn link_local(&self) -> Option<Addr> {
        self.host.own(true).find(Addr::is_link_local)
    }

    fn report_groups(&mut self) {
        let Some(src) = self.link_local() else { return };
        let mut b = [0; FRAME_MAX];
        let groups = self.host.own(true).map(|a| a.solicited_node());
        let n = nd::report(src, groups, self.io.mac, self.io.soft_vlan(), &mut b);
        self.c.mld_reports += u64::from(self.io.raw(&b[..n], &mut self.c));
    }

    fn send_arp(&mut self, p: &arp::Packet, dst: Mac) {
        let mut b = [0; 46];
        let n = p.frame(dst, self.io.soft_vlan(), &mut b);
        self.io.raw(&b[..n], &mut self.c);
    }

    fn send_nd(&mut self, p: &nd::Packet, to: Option<Mac>) {
        let mut b = [0; FRAME_MAX];
        let n = p.frame(self.io.mac, to, self.io.soft_vlan(), &mut b);
        self.io.raw(&b[..n], &mut self.c);
    }

    /// `target` is here; an answer when it goes to one station.
    fn advertise(&mut self, target: Addr, dst: Addr, to: Option<Mac>) {
        self.c.nd_adverts += 1;
        let say = Say::Advert { target, solicited: to.is_some() };
        self.send_nd(&nd::Packet { src: target, dst, say }, to);
    }

    /// Somebody else has our address `addr`. Returns whether to say so on the link now.
    fn duplicate(&mut self, addr: Addr, mac: Mac) -> bool {
        self.announcer.untold += 1;
        if self.now >= self.announcer.tell_at {
            self.announcer.tell_at = self.now + TELL;
            let packets = std::mem::take(&mut self.announcer.untold);
            self.duplicate = Some(Duplicate { addr: addr.to_ip(), mac, packets });
        }
        let defend = self.now >= self.announcer.defend_at;
        if defend {
            self.announcer.defend_at = self.now + DEFEND;
        }
        defend
    }

    pub(crate) fn on_arp(&mut self, p: &arp::Packet) {
        let (mine, mac) = (self.io.mac, p.sha);
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return;
        }
        let (src, dst) = (Addr::v4(p.spa), Addr::v4(p.tpa));
        if self.host.owns(&src) {
            if mac != mine {
                self.c.arp_duplicate_address += 1;
                if self.duplicate(src, mac) {
                    self.c.arp_replies += 1;
                    self.send_arp(&arp::Packet::request(mine, p.spa, p.spa), BROADCAST);
                }
            }
            return;
        }
        let (for_us, asks) = (self.host.owns(&dst), p.op == 1);
        if src.is_unicast() {
            let told = Ev::Told { mac, solicited: for_us && !asks, overrides: true };
            let ev = if for_us && asks { Ev::AsksUs(mac) } else { told };
            self.learn(&src, ev);
        }
        if for_us && asks && self.answers.take(self.now) {
            self.c.arp_replies += 1;
            self.send_arp(&arp::Packet { op: 2, sha: mine, spa: p.tpa, tha: mac, tpa: p.spa }, mac);
        }
    }

    pub(crate) fn on_nd(&mut self, m: Message, e: &Eth, ip: &Ip) {
        match m {
            Message::Solicit { target, source } => {
                if !self.host.owns(&target) {
                    return;
                }
                if ip.src == Addr::UNSPECIFIED {
                    // Somebody is about to take our address.
                    self.c.nd_duplicate_address += 1;
                    if self.duplicate(target, e.src) {
                        self.advertise(target, Addr::ALL_NODES, None);
                    }
                    return;
                }
                if let Some(mac) = source {
                    self.learn(&ip.src, Ev::AsksUs(mac));
                }
                if self.answers.take(self.now) {
                    self.advertise(target, ip.src, Some(source.unwrap_or(e.src)));
                }
            }
            Message::Advert { target, solicited, overrides, mac } => {
                if self.host.owns(&target) {
                    self.c.nd_duplicate_address += 1;
                    if self.duplicate(target, mac.unwrap_or(e.src)) {
                        self.advertise(target, Addr::ALL_NODES, None);
                    }
                    return;
                }
                // Without an address it confirms the one that is known.
                if let Some(mac) = mac.or_else(|| self.neigh.peek(&target)) {
                    self.learn(&target, Ev::Told { mac, solicited, overrides });
                }
            }
            Message::Router { lifetime, mac } => {
                self.learn_router(ip.src, lifetime);
                if let Some(mac) = mac.filter(|_| self.host.router(self.now) == Some(ip.src.to_ip())) {
                    self.learn(&ip.src, Ev::AsksUs(mac));
                }
            }
            Message::Query => {
                if self.answers.take(self.now) {
                    self.report_groups();
                }
            }
        }
    }

    /// Sends questions for neighbours that are due; whoever waits for one that is not there ends.
    pub(crate) fn poll_neighbours(&mut self) {
        if self.neigh.deadline().is_none_or(|d| self.now < d) {
            return;
        }
        let (mut ask, mut dead) = (vec![], vec![]);
        self.neigh.poll(self.now, |a, to| ask.push((a, to)), |a| dead.push(a));
        for (a, to) in ask {
            let Some(src) = self.host.asks_from(&a) else { continue };
            match (src.as_v4(), a.as_v4()) {
                (Some(spa), Some(tpa)) => {
                    self.c.arp_requests += 1;
                    self.send_arp(&arp::Packet::request(self.io.mac, spa, tpa), to.unwrap_or(BROADCAST));
                }
                _ => {
                    self.c.nd_solicits += 1;
                    self.send_nd(&nd::Packet::solicit(src, a, to), to);
                }
            }
        }
        if dead.is_empty() {
            return;
        }
        for i in self.flows.resolved(|f| dead.contains(f.hop().addr())) {
            self.end(i, CloseWhy::Unresolved);
        }
    }

    /// Whoever waits for a neighbour that is known by now is served; once a turn at most, and only after news.
    pub(crate) fn wake_resolved(&mut self) {
        if !self.flows.is_resolving() || self.announcer.epoch == self.neigh.epoch() {
            return;
        }
        self.announcer.epoch = self.neigh.epoch();
        for i in self.flows.resolved(|f| self.neigh.peek(f.hop().addr()).is_some()) {
            self.flows.mark(i);
        }
    }

    /// A connection about to be served: its next hop is found, or followed where it has moved.
    pub(crate) fn relink(&mut self, i: u32, f: &mut Flow) {
        if f.hop().is_known() {
            f.follow(&self.neigh);
            return;
        }
        match self.neigh.lookup(f.hop().addr(), self.now) {
            Lookup::Known(mac) => {
                f.hop_found(mac, self.neigh.epoch());
                self.flows.resolves_no_more(i);
            }
            Lookup::Wait => self.flows.resolve(i),
        }
    }

    /// Copies a packet's bytes from `off` on into `b`; returns how many.
    pub(crate) fn gather(p: &P::Rx, off: usize, b: &mut [u8]) -> usize {
        let (mut skip, mut at) = (off, 0);
        p.for_each(&mut |x| {
            let k = skip.min(x.len());
            skip -= k;
            let n = (x.len() - k).min(b.len() - at);
            b[at..at + n].copy_from_slice(&x[k..k + n]);
            at += n;
        });
        at
    }
}
