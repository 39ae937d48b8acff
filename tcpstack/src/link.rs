//! Below IP: where neighbours are. ARP and neighbour discovery for the stack, and its announcements.

use std::fmt;
use std::net::IpAddr;

use dataplane::pkt::Port;

use crate::addr::Addr;
use crate::arp;
use crate::config::Counters;
use crate::host::Host;
use crate::icmp::Limiter;
use crate::io::Io;
use crate::nd::{self, FRAME_MAX, Message, Say};
use crate::neighbour::{Ev, Lookup, Neighbours};
use crate::siblings::{SiblingMsg, Siblings};
use crate::wire::{BROADCAST, Eth, Ip, Mac};

/// Own address defended at most this often (RFC 5227 §2.4), in ns.
const DEFEND: u64 = 10_000_000_000;
/// A host with an address of ours is told of at most this often, in ns.
const TELL: u64 = 60_000_000_000;
/// Time between two rounds of announcements, in ns (RFC 5227 §1.1 ANNOUNCE_INTERVAL; RFC 4861 §10 asks for at least one
/// second between advertisements, and four between questions for routers).
const ROUND: u64 = 2_000_000_000;
/// Rounds in which an IPv4 address is announced (RFC 5227 §1.1 ANNOUNCE_NUM). Peers keep the Ethernet address that the
/// last node here had, and ask anew seconds after it stopped to answer: a single announcement that is lost costs them
/// those.
const ANNOUNCED: u8 = 2;
/// Rounds in which an IPv6 address is advertised (RFC 4861 §10 MAX_NEIGHBOR_ADVERTISEMENT).
const ADVERTISED: u8 = 3;
/// Rounds with IPv6. Each second one reports groups and asks for routers: three times (RFC 4861 §10).
const ROUNDS: u8 = 5;

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

/// The stack's place on the link: where its neighbours are, and what it says to them.
pub(crate) struct Link {
    neigh: Neighbours,
    /// Rounds of announcements done, and when the next one is due (ns); the first is at once.
    rounds: u8,
    next: u64,
    defend_at: u64,
    /// Another station with an address of ours that the user is not told of yet; when one is told of again (ns), and how
    /// many of its packets were not.
    duplicate: Option<Duplicate>,
    tell_at: u64,
    untold: u64,
    /// [`Neighbours::epoch`] when those who wait for a neighbour were last looked at.
    epoch: u32,
    /// Answers to questions for our addresses.
    answers: Limiter,
}

/// The stack, as far as the link needs it.
pub(crate) struct Around<'a, P: Port> {
    pub(crate) now: u64,
    pub(crate) host: &'a mut Host,
    pub(crate) io: &'a mut Io<P>,
    pub(crate) siblings: &'a mut Siblings,
    pub(crate) c: &'a mut Counters,
}

impl<P: Port> Around<'_, P> {
    fn send_arp(&mut self, p: &arp::Packet, dst: Mac) {
        let mut b = [0; 46];
        let n = p.frame(dst, self.io.soft_vlan(), &mut b);
        self.io.raw(&b[..n], self.c);
    }

    fn send_nd(&mut self, p: &nd::Packet, to: Option<Mac>) {
        let mut b = [0; FRAME_MAX];
        let n = p.frame(self.io.mac(), to, self.io.soft_vlan(), &mut b);
        self.io.raw(&b[..n], self.c);
    }

    /// `target` is here; an answer when it goes to one station.
    fn advertise(&mut self, target: Addr, dst: Addr, to: Option<Mac>) {
        self.c.nd_adverts += 1;
        let say = Say::Advert { target, solicited: to.is_some() };
        self.send_nd(&nd::Packet { src: target, dst, say }, to);
    }

    fn link_local(&self) -> Option<Addr> {
        self.host.own(true).find(Addr::is_link_local)
    }

    fn report_groups(&mut self) {
        let Some(src) = self.link_local() else { return };
        let mut b = [0; FRAME_MAX];
        let groups = self.host.own(true).map(|a| a.solicited_node());
        let n = nd::report(src, groups, self.io.mac(), self.io.soft_vlan(), &mut b);
        self.c.mld_reports += u64::from(self.io.raw(&b[..n], self.c));
    }
}

impl Link {
    pub(crate) fn new() -> Link {
        Link {
            neigh: Neighbours::default(),
            rounds: 0,
            next: 0,
            defend_at: 0,
            duplicate: None,
            tell_at: 0,
            untold: 0,
            epoch: 0,
            answers: Limiter::new(2000, 500),
        }
    }

    /// The neighbours.
    #[inline]
    pub(crate) fn neighbours(&self) -> &Neighbours {
        &self.neigh
    }

    /// Where `a` is. When that is not known, or is old, it is asked for.
    pub(crate) fn lookup(&mut self, a: &Addr, now: u64) -> Lookup {
        self.neigh.lookup(a, now)
    }

    /// Takes in an event at neighbour `a`; other stacks of the node do not hear of it.
    pub(crate) fn event(&mut self, a: &Addr, ev: Ev, now: u64) {
        self.neigh.event(a, ev, now);
    }

    /// Whether a neighbour's place has changed since this was last asked.
    #[inline]
    pub(crate) fn has_news(&mut self) -> bool {
        std::mem::replace(&mut self.epoch, self.neigh.epoch()) != self.neigh.epoch()
    }

    /// Time at which announcements, or questions for neighbours, are due (ns).
    pub(crate) fn deadlines(&self) -> [Option<u64>; 2] {
        [self.neigh.deadline(), (self.next != u64::MAX).then_some(self.next)]
    }

    /// The link may be another one: everything is announced again.
    pub(crate) fn again(&mut self) {
        (self.rounds, self.next) = (0, 0);
    }

    /// Another station with an address of ours, told once.
    #[inline]
    pub(crate) fn duplicate(&mut self) -> Option<Duplicate> {
        self.duplicate.take()
    }

    /// Tells the link of our addresses: ARP announcements (RFC 5227 §2.3) twice, advertisements, the groups we listen
    /// to and a question for routers three times. The addresses are used from the start; that nobody else has them is
    /// asked along with it (RFC 4862 §5.4), and an answer is reported and counted. Of a port's stacks one does so for
    /// all.
    #[inline]
    pub(crate) fn announce<P: Port>(&mut self, a: &mut Around<'_, P>) {
        if a.now >= self.next {
            self.announce_round(a);
        }
    }

    fn announce_round<P: Port>(&mut self, a: &mut Around<'_, P>) {
        if !a.siblings.is_first() {
            self.next = u64::MAX;
            return;
        }
        let round = self.rounds;
        self.rounds += 1;
        let rounds = if a.host.v6() { ROUNDS } else { ANNOUNCED };
        self.next = if self.rounds < rounds { a.now + ROUND } else { u64::MAX };
        if round < ANNOUNCED {
            let own: Vec<Addr> = a.host.own(false).collect();
            for ip in own.iter().filter_map(Addr::as_v4) {
                a.send_arp(&arp::Packet::request(a.io.mac(), ip, ip), BROADCAST);
            }
        }
        if !a.host.v6() {
            return;
        }
        let asks = round.is_multiple_of(2);
        if asks {
            a.report_groups();
        }
        let own: Vec<Addr> = a.host.own(true).collect();
        if round == 0 {
            for ip in own.iter().copied() {
                a.send_nd(&nd::Packet::solicit(Addr::UNSPECIFIED, ip, None), None);
            }
        }
        // For those who knew the address at another station: one that was here before us, or our own with another
        // Ethernet address (RFC 4861 §7.2.6).
        if round < ADVERTISED {
            for ip in own {
                a.advertise(ip, Addr::ALL_NODES, None);
            }
        }
        let silent = a.host.router(a.now).is_none();
        if let Some(src) = a.link_local().filter(|_| asks && silent && a.host.wants_router()) {
            a.send_nd(&nd::Packet { src, dst: Addr::ALL_ROUTERS, say: Say::Routers }, None);
        }
    }

    /// Sends one harmless frame: an announcement of an address of ours.
    pub(crate) fn announce_once<P: Port>(a: &mut Around<'_, P>) {
        let v4 = a.host.own(false).find_map(|ip| ip.as_v4());
        if let Some(ip) = v4 {
            a.send_arp(&arp::Packet::request(a.io.mac(), ip, ip), BROADCAST);
        } else if let Some(target) = a.link_local() {
            a.advertise(target, Addr::ALL_NODES, None);
        }
    }

    /// Somebody else has our address `addr`. Returns whether to say so on the link now.
    fn has_ours(&mut self, addr: Addr, mac: Mac, now: u64) -> bool {
        self.untold += 1;
        if now >= self.tell_at {
            self.tell_at = now + TELL;
            let packets = std::mem::take(&mut self.untold);
            self.duplicate = Some(Duplicate { addr: addr.to_ip(), mac, packets });
        }
        let defend = now >= self.defend_at;
        if defend {
            self.defend_at = now + DEFEND;
        }
        defend
    }

    /// A neighbour said something: the other stacks of the node hear of it, too.
    fn learn<P: Port>(&mut self, addr: &Addr, ev: Ev, a: &mut Around<'_, P>) {
        self.neigh.event(addr, ev, a.now);
        a.siblings.tell_all(a.now, a.c, || SiblingMsg::Neighbour(*addr, ev));
    }

    /// Takes in an ARP packet.
    pub(crate) fn on_arp<P: Port>(&mut self, p: &arp::Packet, a: &mut Around<'_, P>) {
        let (mine, mac) = (a.io.mac(), p.sha);
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return;
        }
        let (src, dst) = (Addr::v4(p.spa), Addr::v4(p.tpa));
        if a.host.owns(&src) {
            if mac != mine {
                a.c.arp_duplicate_address += 1;
                if self.has_ours(src, mac, a.now) {
                    a.c.arp_replies += 1;
                    a.send_arp(&arp::Packet::request(mine, p.spa, p.spa), BROADCAST);
                }
            }
            return;
        }
        let (for_us, asks) = (a.host.owns(&dst), p.op == 1);
        if src.is_unicast() {
            let told = Ev::Told { mac, solicited: for_us && !asks, overrides: true };
            let ev = if for_us && asks { Ev::AsksUs(mac) } else { told };
            self.learn(&src, ev, a);
        }
        if for_us && asks && self.answers.take(a.now) {
            a.c.arp_replies += 1;
            a.send_arp(&arp::Packet { op: 2, sha: mine, spa: p.tpa, tha: mac, tpa: p.spa }, mac);
        }
    }

    /// Takes in a message of neighbour or listener discovery.
    pub(crate) fn on_nd<P: Port>(&mut self, m: Message, e: &Eth, ip: &Ip, a: &mut Around<'_, P>) {
        match m {
            Message::Solicit { target, source } => {
                if !a.host.owns(&target) {
                    return;
                }
                if ip.src == Addr::UNSPECIFIED {
                    // Somebody is about to take our address.
                    a.c.nd_duplicate_address += 1;
                    if self.has_ours(target, e.src, a.now) {
                        a.advertise(target, Addr::ALL_NODES, None);
                    }
                    return;
                }
                if let Some(mac) = source {
                    self.learn(&ip.src, Ev::AsksUs(mac), a);
                }
                if self.answers.take(a.now) {
                    a.advertise(target, ip.src, Some(source.unwrap_or(e.src)));
                }
            }
            Message::Advert { target, solicited, overrides, mac } => {
                if a.host.owns(&target) {
                    a.c.nd_duplicate_address += 1;
                    if self.has_ours(target, mac.unwrap_or(e.src), a.now) {
                        a.advertise(target, Addr::ALL_NODES, None);
                    }
                    return;
                }
                // Without an address it confirms the one that is known.
                if let Some(mac) = mac.or_else(|| self.neigh.peek(&target)) {
                    self.learn(&target, Ev::Told { mac, solicited, overrides }, a);
                }
            }
            Message::Router { lifetime, mac } => {
                a.host.on_router(ip.src, lifetime, a.now);
                a.siblings.tell_all(a.now, a.c, || SiblingMsg::Router(ip.src, lifetime));
                if let Some(mac) = mac.filter(|_| a.host.router(a.now) == Some(ip.src.to_ip())) {
                    self.learn(&ip.src, Ev::AsksUs(mac), a);
                }
            }
            Message::Query => {
                if self.answers.take(a.now) {
                    a.report_groups();
                }
            }
        }
    }

    /// Whether questions for neighbours are due.
    #[inline]
    pub(crate) fn is_due(&self, now: u64) -> bool {
        self.neigh.deadline().is_some_and(|d| now >= d)
    }

    /// Sends questions for neighbours that are due; returns those that do not answer.
    pub(crate) fn poll<P: Port>(&mut self, a: &mut Around<'_, P>) -> Vec<Addr> {
        let (mut ask, mut dead) = (vec![], vec![]);
        self.neigh.poll(a.now, |ip, to| ask.push((ip, to)), |ip| dead.push(ip));
        for (ip, to) in ask {
            let Some(src) = a.host.asks_from(&ip) else { continue };
            match (src.as_v4(), ip.as_v4()) {
                (Some(spa), Some(tpa)) => {
                    a.c.arp_requests += 1;
                    a.send_arp(&arp::Packet::request(a.io.mac(), spa, tpa), to.unwrap_or(BROADCAST));
                }
                _ => {
                    a.c.nd_solicits += 1;
                    a.send_nd(&nd::Packet::solicit(src, ip, to), to);
                }
            }
        }
        dead
    }
}
