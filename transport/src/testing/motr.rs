//! A model of a Motr process on netsock, made from docs/protocol/netsock.md alone, at raw ends of the simulated network: what it
//! sends, what it takes, when it closes, and what kills it. It has no code of the machine's but the packet header.
//!
//! A test gives it buffers, lets the network run with [`Motr::step`] after each event, and asks whether it lives
//! ([`Motr::died`]). A death that the network caused, by losing a connection, is told apart ([`Motr::lost`]).

mod buffers;
mod wire;

use std::collections::VecDeque;
use std::net::SocketAddr;

pub use self::buffers::{MBuf, MQueue, Told};
use self::wire::Link;
use super::net::Net;
use super::netsock::addr;
use crate::wire::netsock::{Addr, Bdesc, Cookie};

/// A Motr process with one transfer machine.
pub struct Motr {
    /// Its address.
    pub addr: Addr,
    at: SocketAddr,
    /// The node that it speaks with, and that machine's address.
    node: usize,
    other: Addr,
    links: Vec<Link>,
    bufs: Vec<MBuf>,
    /// Writers that wait for a connection to the other side.
    writers: VecDeque<usize>,
    told: Vec<Told>,
    generation: u64,
    next_port: u16,
    seen: usize,
    /// Bytes that it writes at a time.
    pub chunk: usize,
    /// Time that it waits before it writes more, in ns.
    pub pace: u64,
    /// Cause of its death.
    pub died: Option<String>,
    /// The network lost a connection in the middle of something.
    pub lost: bool,
}

impl Motr {
    /// One at 10.0.0.n, which speaks with `other` on `node`. Its dials come from ephemeral ports, as those of a process
    /// that binds none.
    pub fn new(net: &mut Net, (n, port): (u8, u16), (node, other): (usize, Addr)) -> Motr {
        let me = addr(n, port);
        let at = SocketAddr::new([10, 0, 0, n].into(), port);
        net.raw_listen(at.ip());
        Motr {
            addr: me,
            at,
            node,
            other,
            links: Vec::new(),
            bufs: Vec::new(),
            writers: VecDeque::new(),
            told: Vec::new(),
            generation: 0x18e9_0000_0000_0000,
            next_port: 40_000,
            seen: net.links(),
            chunk: 1000,
            pace: 0,
            died: None,
            lost: false,
        }
    }

    /// Adds a buffer; gives its number.
    pub fn add(&mut self, net: &mut Net, queue: MQueue, bytes: Vec<u8>, room: usize) -> usize {
        let n = self.bufs.len();
        let passive = matches!(queue, MQueue::PassiveRecv | MQueue::PassiveSend);
        if passive {
            self.generation += 1;
        }
        let cookie = Cookie {
            addr: 0x55a8_d780_0000 + n as u64 * 0x400 + 0xf8,
            generation: if passive { self.generation } else { 0 },
        };
        let target = match queue {
            MQueue::ActiveRecv(d) | MQueue::ActiveSend(d) => d,
            _ => Bdesc { addr: self.other, cookie: Cookie::NONE },
        };
        self.bufs.push(MBuf::new(queue, cookie, target, bytes, room));
        if matches!(queue, MQueue::MsgSend | MQueue::ActiveRecv(_) | MQueue::ActiveSend(_)) {
            self.writers.push_back(n);
        }
        self.step(net);
        n
    }

    /// The descriptor of a passive buffer.
    pub fn desc(&self, n: usize) -> Bdesc {
        Bdesc { addr: self.addr, cookie: self.bufs[n].cookie }
    }

    /// Ends of buffers since the last call.
    pub fn take(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    /// Buffers that are still queued.
    pub fn queued(&self) -> usize {
        self.bufs.iter().filter(|b| b.queued).count()
    }

    /// It is in the middle of a packet to us on some connection.
    pub fn in_packet(&self) -> bool {
        self.links.iter().any(|l| !l.closed && !l.out.is_empty())
    }

    /// The network has lost connections: what dies of that is nobody's fault.
    pub fn network_lost(&mut self) {
        self.lost = true;
    }

    /// Looks at its connections, and does what it would.
    pub fn step(&mut self, net: &mut Net) {
        while self.seen < net.links() {
            let [_, to] = net.addresses(self.seen);
            if to == self.at {
                self.links.push(Link::new(self.seen, false));
            }
            self.seen += 1;
        }
        if self.died.is_some() {
            return;
        }
        for l in 0..self.links.len() {
            self.look(net, l);
        }
        self.dial(net);
        for l in 0..self.links.len() {
            self.write(net, l);
        }
    }
}
