//! UDP (RFC 768): ports that are open, datagrams on their way in and out, and what is heard of those that were sent.
//!
//! Nothing is cut up: a datagram that the path does not take whole is told back to its sender (RFC 8085 §3.2). One that waits
//! for its next hop is kept as long as that is asked for, up to a bound; then it is lost, as it may be anywhere.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use arrayvec::ArrayVec;
use hugepages::{Lent, RxFrag};
use smallvec::SmallVec;
use smoltcp::wire::{UDP_HEADER_LEN, UdpPacket};

use crate::addr::Addr;
use crate::config::HDR_MAX;
use crate::table::Key;

/// The protocol's number.
pub const UDP: u8 = 17;
/// Bytes of a header.
pub const HEADER: usize = UDP_HEADER_LEN;
/// Datagrams that wait for their next hop at most.
const WAITING: usize = 256;
/// Datagrams that have come and were not taken, at most.
const INBOX: usize = 1024;
/// Peers that were sent to lately, for errors about that to be believed.
const PEERS: usize = 4096;
/// The time that "lately" is, in ns.
const LATELY: u64 = 10_000_000_000;

/// A datagram that has come.
#[derive(Debug)]
pub struct Datagram {
    /// Our end.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// Bytes of it.
    pub len: u32,
    /// The bytes, in order.
    pub frags: SmallVec<[RxFrag; 2]>,
}

/// News of datagrams that were sent. That they arrive is never heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undelivered {
    /// The path takes at most so many bytes in one.
    TooBig(u32),
    /// Nobody takes them there.
    Refused,
    /// There is no way there, or it is forbidden.
    Unreachable,
    /// They cannot be sent from that end.
    Local,
}

/// A datagram to be sent.
pub(crate) struct Outgoing {
    pub(crate) key: Key,
    /// The next hop, once it is chosen.
    pub(crate) hop: Option<Addr>,
    pub(crate) hdr: ArrayVec<u8, HDR_MAX>,
    pub(crate) pay: SmallVec<[Lent; 2]>,
}

impl Outgoing {
    /// Bytes of it.
    pub(crate) fn len(&self) -> usize {
        self.hdr.len() + self.pay.iter().map(|l| l.len() as usize).sum::<usize>()
    }
}

/// Datagrams of a stack.
#[derive(Default)]
pub(crate) struct Datagrams {
    /// Addresses and ports that are open.
    open: Vec<(Addr, u16)>,
    inbox: VecDeque<Datagram>,
    undelivered: VecDeque<(SocketAddr, SocketAddr, Undelivered)>,
    pub(crate) out: VecDeque<Outgoing>,
    waiting: VecDeque<Outgoing>,
    /// The state of neighbours at which those that wait were looked at.
    epoch: u32,
    sent: HashMap<Key, u64>,
}

impl Datagrams {
    /// Opens a port; `false` if it is.
    pub(crate) fn open(&mut self, addr: Addr, port: u16) -> bool {
        let new = !self.is_open(&addr, port);
        if new {
            self.open.push((addr, port));
        }
        new
    }

    /// Closes a port. What came there and was not taken is dropped, what waits there to be sent is lost.
    pub(crate) fn close(&mut self, addr: &Addr, port: u16) {
        self.open.retain(|o| *o != (*addr, port));
        let here = |o: &Outgoing| o.key.local == *addr && o.key.lport() == port;
        self.out.retain(|o| !here(o));
        self.waiting.retain(|o| !here(o));
        self.inbox.retain(|d| d.local != SocketAddr::new(addr.to_ip(), port));
    }

    /// Whether datagrams to this end are taken.
    pub(crate) fn is_open(&self, addr: &Addr, port: u16) -> bool {
        self.open.iter().any(|(a, p)| *p == port && a == addr)
    }

    /// Whether any port is open.
    #[inline]
    pub(crate) fn is_used(&self) -> bool {
        !self.open.is_empty()
    }

    /// A datagram has come; `false` where too many have, and it is dropped.
    pub(crate) fn arrived(&mut self, d: Datagram) -> bool {
        let room = self.inbox.len() < INBOX;
        if room {
            self.inbox.push_back(d);
        }
        room
    }

    pub(crate) fn next(&mut self) -> Option<Datagram> {
        self.inbox.pop_front()
    }

    /// Something is heard of datagrams on this path.
    pub(crate) fn tell(&mut self, key: &Key, what: Undelivered) {
        if self.undelivered.len() < INBOX {
            let end = |a: Addr, port| SocketAddr::new(a.to_ip(), port);
            self.undelivered.push_back((end(key.local, key.lport()), end(key.remote, key.rport()), what));
        }
    }

    pub(crate) fn undelivered(&mut self) -> Option<(SocketAddr, SocketAddr, Undelivered)> {
        self.undelivered.pop_front()
    }

    /// Whether there is something to take.
    pub(crate) fn has_news(&self) -> bool {
        !self.inbox.is_empty() || !self.undelivered.is_empty()
    }

    /// A datagram waits for its next hop. Gives back one that is lost for it.
    pub(crate) fn wait(&mut self, o: Outgoing) -> Option<Outgoing> {
        let lost = if self.waiting.len() >= WAITING { self.waiting.pop_front() } else { None };
        self.waiting.push_back(o);
        lost
    }

    /// Those that wait are looked at again if neighbours have moved since.
    pub(crate) fn look_again(&mut self, epoch: u32) {
        if std::mem::replace(&mut self.epoch, epoch) != epoch && !self.waiting.is_empty() {
            self.waiting.append(&mut self.out);
            std::mem::swap(&mut self.out, &mut self.waiting);
        }
    }

    /// Nobody answers at these addresses: those that wait for them are lost, and their senders hear of it.
    pub(crate) fn dead(&mut self, hops: &[Addr]) {
        let (lost, kept) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<VecDeque<_>, _>(|o| o.hop.is_some_and(|h| hops.contains(&h)));
        self.waiting = kept;
        for o in lost {
            self.tell(&o.key, Undelivered::Unreachable);
        }
    }

    /// A datagram has left.
    pub(crate) fn left(&mut self, key: &Key, now: u64) {
        if let Some(at) = self.sent.get_mut(key) {
            *at = now;
            return;
        }
        if self.sent.len() >= PEERS {
            self.sent.retain(|_, at| *at + LATELY > now);
        }
        if self.sent.len() < PEERS {
            self.sent.insert(*key, now);
        }
    }

    /// Whether one was sent on this path lately: an error about any other is somebody's invention.
    pub(crate) fn sent_lately(&self, key: &Key, now: u64) -> bool {
        self.sent.get(key).is_some_and(|at| *at + LATELY > now)
    }
}

/// A header's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Port of the sender.
    pub src: u16,
    /// Port of the receiver.
    pub dst: u16,
    /// Bytes of header and payload.
    pub len: u16,
    /// Whether there is a checksum.
    pub summed: bool,
}

/// Reads the header at the start of `b`, of which `room` bytes are in the packet; `None` for lengths that contradict each other.
pub fn parse(b: &[u8], room: usize) -> Option<Header> {
    let p = UdpPacket::new_unchecked(b.get(..HEADER)?);
    let (src, dst, len) = (p.src_port(), p.dst_port(), p.len());
    let fits = usize::from(len) >= HEADER && usize::from(len) <= room;
    fits.then_some(Header { src, dst, len, summed: p.checksum() != 0 })
}

/// The header of a datagram with `payload` bytes on this path, its checksum left out.
pub fn header(key: &Key, payload: usize) -> [u8; HEADER] {
    let mut b = [0; HEADER];
    let mut p = UdpPacket::new_unchecked(&mut b[..]);
    p.set_src_port(key.lport());
    p.set_dst_port(key.rport());
    p.set_len((HEADER + payload).min(65_535) as u16);
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_were_written() {
        let key = Key::v4(0x0a00_0001, 7000, 0x0a00_0002, 7001);
        let mut b = header(&key, 100).to_vec();
        assert_eq!(parse(&b, 108), Some(Header { src: 7000, dst: 7001, len: 108, summed: false }));
        assert_eq!(parse(&b, 107), None, "shorter than it says");
        assert_eq!(parse(&b[..7], 108), None);
        b[7] = 1;
        assert!(parse(&b, 108).is_some_and(|h| h.summed));
        (b[4], b[5]) = (0, 7);
        assert_eq!(parse(&b, 108), None, "shorter than its header");
    }
}
