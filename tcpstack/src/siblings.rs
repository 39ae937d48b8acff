//! Sibling stacks: those of one node, each on a queue of its own of one port, and the messages between them.
//!
//! The device brings a connection's packets to one queue, and that queue's stack owns it. Packets without a connection
//! (ARP, neighbour discovery, ICMP) come to any one of them. Nothing is shared; they tell each other:
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
//! health would end. Whoever carries the stacks takes what they tell ([`crate::Stack::tell`]) to where it belongs
//! ([`crate::Stack::hear`]).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use dataplane::pkt::RxPkt;
use dataplane::steer::Steering;

use crate::addr::Addr;
use crate::config::Counters;
use crate::icmp::Limiter;
use crate::icmp_error::Report;
use crate::neighbour::Ev;
use crate::table::Key;

/// Copied segments of one stack that others have not taken in yet, at most.
const STRAYS_MAX: usize = 512;
/// Things to tell that nobody has asked for yet, at most.
const MSGS_MAX: usize = 4096;

/// A message of one stack of a node to another.
#[derive(Debug)]
pub enum SiblingMsg {
    /// A neighbour said where it is.
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
    /// Queues that it goes on to while none knows it.
    hops: u16,
    /// Counts the strays of the stack that copied it.
    _alive: Arc<()>,
}

/// A stack's side of the messages between siblings.
pub(crate) struct Siblings {
    steering: Steering,
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

    /// Way of the port's packets to this stack's queue and to the others.
    pub(crate) fn steering(&self) -> &Steering {
        &self.steering
    }

    /// The next message, and the queue whose stack should hear it.
    pub(crate) fn pop(&mut self) -> Option<(u16, SiblingMsg)> {
        self.queue.pop_front()
    }

    /// Tells all others of a neighbour or a router.
    pub(crate) fn tell_all(&mut self, now: u64, c: &mut Counters, n: impl Fn() -> SiblingMsg) {
        if self.alone() {
            return;
        }
        let told = self.telling.take(now) && self.push_all(n);
        *if told { &mut c.siblings_told } else { &mut c.siblings_untold } += 1;
    }

    /// Passes an error on whose connection is not here; whether there is anybody to pass it to.
    pub(crate) fn pass_error(&mut self, r: &Report, c: &mut Counters) -> bool {
        let passed = !self.alone() && self.push_all(|| SiblingMsg::Error(*r));
        c.siblings_told += u64::from(passed);
        passed
    }

    /// The queue of a connection that is not here, if it is another one, and how many more to ask. Of mirrored queues
    /// only a connection that we have dialled tells its own by the port; one that came to a listener (`listens` says
    /// whether there is one) may be with any.
    #[inline]
    pub(crate) fn elsewhere(&self, k: &Key, listens: impl FnOnce() -> bool) -> Option<(u16, u16)> {
        let s = &self.steering;
        if self.alone() {
            return None;
        }
        if !s.is_by_hash() && listens() {
            return Some((self.next(), s.queues() - 2));
        }
        let at = |a: Addr, port| SocketAddr::new(a.to_ip(), port);
        let to = s.owner(at(k.local, k.lport()), at(k.remote, k.rport()));
        (to != s.queue()).then_some((to, 0))
    }

    /// Copies a packet for the stack of queue `to`, after which `hops` more are asked.
    pub(crate) fn hand_over<R: RxPkt>(&mut self, (to, hops): (u16, u16), p: &R, c: &mut Counters) {
        // One is our own.
        let out = Arc::strong_count(&self.alive) - 1;
        let mut sent = out < STRAYS_MAX;
        if sent {
            let mut frame = Vec::with_capacity(p.len() as usize);
            p.for_each(&mut |b| frame.extend_from_slice(b));
            let s = Stray { frame: frame.into(), hops, _alive: self.alive.clone() };
            sent = self.push(to, SiblingMsg::Stray(s));
        }
        *if sent { &mut c.strays_handed } else { &mut c.strays_lost } += 1;
    }

    /// Hands a stray on to the next queue; `false` where there is no room.
    pub(crate) fn hand_on(&mut self, s: Stray) -> bool {
        self.push(self.next(), SiblingMsg::Stray(Stray { hops: s.hops.saturating_sub(1), ..s }))
    }
}

impl Stray {
    /// The packet, link header included.
    pub(crate) fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// Whether another queue is to be asked if this one does not know it.
    pub(crate) fn goes_on(&self) -> bool {
        self.hops > 0
    }
}
