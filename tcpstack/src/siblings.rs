//! Stacks of one node, each on a queue of its own of one port: what one of them receives that is another's business.
//!
//! The device brings a connection's packets to one queue, and that queue's stack owns it. What has no connection
//! (ARP, neighbour discovery, ICMP) comes to any one of them. Nothing is shared; they tell each other:
//!
//! ```text
//!   received here                          told to
//!   where a neighbour or a router is       all others: each has a cache of its own, and asks by itself
//!   ICMP error of a connection not here    all others: who has it judges it
//!   segment of a connection not here       who owns it by the port's steering, if that is another queue; where
//!                                          that cannot be told, the next one, and so on once round
//! ```
//!
//! A segment comes to the wrong queue when the device's table was changed, or a switch between mirrored queues lost
//! its memory. It is copied, bounded in number, and counted; were it answered with a RST, a connection in good
//! health would end. Whoever carries the stacks takes what they tell ([`Stack::tell`]) to where it belongs
//! ([`Stack::hear`]).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use dataplane::pkt::{Port, RxPkt};
use dataplane::steer::Steering;

use crate::addr::Addr;
use crate::icmp::Limiter;
use crate::icmp_error::Report;
use crate::neighbour::Ev;
use crate::opts::Opts;
use crate::stack::Stack;
use crate::table::{Key, Place};
use crate::wire::{self, Drop, ETH_IPV4, ETH_IPV6, HDR};

/// Copied segments of one stack that others have not taken in yet, at most.
const STRAYS_MAX: usize = 512;
/// Things to tell that nobody has asked for yet, at most.
const MSGS_MAX: usize = 4096;

/// What one stack of a node tells another.
#[derive(Debug)]
pub enum SiblingMsg {
    /// What a neighbour said of itself.
    Neighbour(Addr, Ev),
    /// A router announced itself for so many seconds; 0 when it retires.
    Router(Addr, u16),
    /// An ICMP error about a connection, its checksum verified.
    Error(Report),
    /// A packet of a connection, its checksum verified.
    Stray(Stray),
}

/// A packet that came to the wrong queue, copied.
#[derive(Debug)]
pub struct Stray {
    frame: Box<[u8]>,
    /// How many more queues it goes to if the next one does not know it either.
    hops: u16,
    /// Counts the strays of the stack that copied it.
    _alive: Arc<()>,
}

/// What a stack knows of the others.
pub(crate) struct Siblings {
    pub(crate) steering: Steering,
    /// By the queue whose stack should hear it.
    queue: VecDeque<(u16, SiblingMsg)>,
    /// Neighbours and routers told.
    telling: Limiter,
    alive: Arc<()>,
}

impl Siblings {
    pub(crate) fn new(steering: Steering) -> Siblings {
        Siblings { steering, queue: VecDeque::new(), telling: Limiter::new(2000, 500), alive: Arc::default() }
    }

    fn alone(&self) -> bool {
        self.steering.queues() == 1
    }

    /// Whether this stack speaks for all of what nobody asked for.
    pub(crate) fn is_first(&self) -> bool {
        self.steering.queue() == 0
    }

    /// The queue after this one.
    fn next(&self) -> u16 {
        (self.steering.queue() + 1) % self.steering.queues()
    }

    fn push(&mut self, to: u16, n: SiblingMsg) -> bool {
        let room = self.queue.len() < MSGS_MAX;
        if room {
            self.queue.push_back((to, n));
        }
        room
    }

    fn push_all(&mut self, n: impl Fn() -> SiblingMsg) -> bool {
        let me = self.steering.queue();
        (0..self.steering.queues()).filter(|q| *q != me).all(|q| self.push(q, n()))
    }
}

impl<P: Port> Stack<P> {
    /// How the port's packets come to this stack's queue and to the others.
    pub fn steering(&self) -> &Steering {
        &self.siblings.steering
    }

    /// What another stack of this node should hear next, and that one's queue. To be asked after each turn where the
    /// port has several queues; there is never anything where it has one.
    pub fn tell(&mut self) -> Option<(u16, SiblingMsg)> {
        self.siblings.queue.pop_front()
    }

    /// Takes in what another stack of this node told.
    pub fn hear(&mut self, now: u64, n: SiblingMsg) {
        self.set_now(now);
        self.c.kin_heard += 1;
        match n {
            SiblingMsg::Neighbour(a, ev) => self.neigh.event(&a, ev, self.now),
            SiblingMsg::Router(a, lifetime) => self.host.on_router(a, lifetime, self.now),
            SiblingMsg::Error(r) => self.judge(Some(r), false),
            SiblingMsg::Stray(s) => {
                let lost = self.stray(s).is_err();
                self.c.strays_lost += u64::from(lost);
            }
        }
    }

    /// A neighbour said something.
    pub(crate) fn learn(&mut self, a: &Addr, ev: Ev) {
        self.neigh.event(a, ev, self.now);
        self.tell_all(|| SiblingMsg::Neighbour(*a, ev));
    }

    /// A router said something.
    pub(crate) fn learn_router(&mut self, a: Addr, lifetime: u16) {
        self.host.on_router(a, lifetime, self.now);
        self.tell_all(|| SiblingMsg::Router(a, lifetime));
    }

    fn tell_all(&mut self, n: impl Fn() -> SiblingMsg) {
        if self.siblings.alone() {
            return;
        }
        let told = self.siblings.telling.take(self.now) && self.siblings.push_all(n);
        *if told { &mut self.c.kin_told } else { &mut self.c.kin_untold } += 1;
    }

    /// Passes an error on whose connection is not here; whether there is anybody to pass it to.
    pub(crate) fn pass_error(&mut self, r: &Report) -> bool {
        let passed = !self.siblings.alone() && self.siblings.push_all(|| SiblingMsg::Error(*r));
        self.c.kin_told += u64::from(passed);
        passed
    }

    /// The queue of a connection that is not here, if it is another one, and how many more to ask. Of mirrored queues
    /// only what we have dialled tells its own by the port; what came to a listener may be with any.
    pub(crate) fn elsewhere(&self, k: &Key) -> Option<(u16, u16)> {
        let s = &self.siblings.steering;
        if self.siblings.alone() {
            return None;
        }
        if !s.is_by_hash() && self.listener(k).is_some() {
            return Some((self.siblings.next(), s.queues() - 2));
        }
        let at = |a: Addr, port| SocketAddr::new(a.to_ip(), port);
        let to = s.owner(at(k.local, k.lport()), at(k.remote, k.rport()));
        (to != s.queue()).then_some((to, 0))
    }

    /// Copies a packet for the stack of queue `to`, which `hops` more are asked after.
    pub(crate) fn hand_over(&mut self, (to, hops): (u16, u16), p: &P::Rx) {
        // One is our own.
        let out = Arc::strong_count(&self.siblings.alive) - 1;
        let mut sent = out < STRAYS_MAX;
        if sent {
            let mut frame = Vec::with_capacity(p.len() as usize);
            p.for_each(&mut |b| frame.extend_from_slice(b));
            let s = Stray { frame: frame.into(), hops, _alive: self.siblings.alive.clone() };
            sent = self.siblings.push(to, SiblingMsg::Stray(s));
        }
        *if sent { &mut self.c.strays_handed } else { &mut self.c.strays_lost } += 1;
    }

    /// A packet that came to another queue and belongs here, as far as that one's stack could tell.
    fn stray(&mut self, stray: Stray) -> Result<(), Drop> {
        let (bad, frame) = (Drop::Malformed, &stray.frame);
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
        if place.is_none() && stray.hops > 0 {
            let next = Stray { hops: stray.hops - 1, ..stray };
            return if self.siblings.push(self.siblings.next(), SiblingMsg::Stray(next)) {
                Ok(())
            } else {
                Err(bad)
            };
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
                    self.c.rx_copied_bytes += piece.len() as u64;
                }
                self.segment(i, &s, &o, e.src);
            }
            Some(Place::TimeWait(t)) => self.in_time_wait(t, &s, &o, e.src),
            None => self.reject(&s, e.src),
        }
        Ok(())
    }
}
