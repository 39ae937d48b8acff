//! Datagrams on a simulated network: lost, doubled and late as they may be, and never larger than the path takes.

use std::net::SocketAddr;

use hugepages::PageSlice;

use super::pipe::Inbox;
use super::{Ev, Net, NoCopy};
use crate::node::Input;
use crate::stream::{DgramError, Happened, Path, SendMsg};
use crate::testing::rng::Rng;

/// Faults that the network does to datagrams.
pub struct Weather {
    /// The randomness for it.
    pub rng: Rng,
    /// Those that are lost, in percent.
    pub lost: u64,
    /// Those that come twice, in percent.
    pub twice: u64,
    /// Longest time that one takes beside the latency, in ns: those behind it pass it.
    pub late: u64,
    /// Most bytes of one.
    pub most: u32,
}

impl Weather {
    /// A network that loses nothing, keeps the order and takes datagrams of every size.
    pub fn fair() -> Weather {
        Weather { rng: Rng(1), lost: 0, twice: 0, late: 0, most: 65_507 }
    }
}

impl Net {
    pub(super) fn send_datagram(&mut self, node: usize, path: Path, msg: SendMsg) {
        let mut bytes = msg.hdr.to_vec();
        msg.pay.iter().flat_map(PageSlice::chunks).for_each(|b| bytes.extend_from_slice(b));
        let (life, most) = (self.nodes[node].life, self.weather.most);
        if bytes.len() as u64 > most.into() {
            self.at(0, Ev::Undelivered(node, path, DgramError::TooBig(most), life));
        } else {
            self.fly(node, path, &bytes, life);
        }
        if let Some(lend) = msg.lend {
            let held = self.nic_hold.as_mut().map_or(0, |(rng, most)| rng.below(*most + 1));
            self.at(held, Ev::Left(node, lend, NoCopy(msg.pay), life));
        }
    }

    fn fly(&mut self, from: usize, path: Path, bytes: &[u8], life: u32) {
        let node = self.listener(path.remote()).or_else(|| self.by_ip.get(&path.remote_ip).copied());
        let Some(to) = node else { return };
        if self.nodes[to].deaf {
            return self.at(2 * self.latency, Ev::Undelivered(from, path, DgramError::Refused, life));
        }
        let w = &mut self.weather;
        if w.rng.chance(w.lost) {
            return;
        }
        let back = Path::new(path.remote(), path.local());
        for _ in 0..1 + u32::from(w.rng.chance(w.twice)) {
            let delay = self.latency
                + if self.weather.late > 0 { self.weather.rng.below(self.weather.late) } else { 0 };
            self.at(delay, Ev::Datagram(to, back, bytes.to_vec()));
        }
    }

    /// Gives a node a datagram that the test made.
    pub fn raw_datagram(&mut self, node: usize, from: SocketAddr, to_port: u16, bytes: &[u8]) {
        let to = SocketAddr::new(self.nodes[node].ip, to_port);
        self.datagram(node, Path::new(to, from), bytes);
    }

    pub(super) fn datagram(&mut self, node: usize, path: Path, bytes: &[u8]) {
        if !self.nodes[node].alive || self.nodes[node].mute {
            return;
        }
        let size = self.nodes[node].pool.buf_size();
        let frags = bytes.chunks(size).filter_map(|b| self.nodes[node].pool.copy_of(b)).collect();
        let mut inbox = Inbox { frags, taken: 0 };
        let len = bytes.len() as u32;
        self.nodes[node].machine.handle(self.now, Input::Stream(Happened::Datagram(path, len, &mut inbox)));
        drop(inbox);
        self.drain(node);
    }
}
