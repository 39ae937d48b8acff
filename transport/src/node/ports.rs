//! Streams of an lcore over several ports: a queue of each, with a TCP stack of its own.
//!
//! A dial goes out by the port that has its local address. A connection's name says which port it is on:
//!
//! ```text
//!   ConnId::index   4 bits: place of the port   28: slot of its stack
//! ```

use std::net::{IpAddr, SocketAddr};

use dataplane::pkt::{Armed, Nap};
use dataplane::tap::TapEnd;

use super::counters::StreamCounters;
use super::idle::{LINK_DOWN_NAP, cut};
use super::inspect::{Inspect, PAGE, Page};
use super::nis::Site;
use super::streams::{Sibling, Streams, Told, Work};
use crate::lnd::{NiError, Tcp};
use crate::stream::{
    Close, ConnId, DialError, DialId, DialSpec, Happened, LendId, ListenError, Path, SendMsg,
};

/// Most ports of an lcore.
pub const PORTS_MAX: usize = 16;
const SLOT_BITS: u32 = 28;

fn named(port: usize, c: ConnId) -> ConnId {
    ConnId { index: (port as u32) << SLOT_BITS | c.index, ..c }
}

fn at(c: ConnId) -> (usize, ConnId) {
    ((c.index >> SLOT_BITS) as usize, ConnId { index: c.index & ((1 << SLOT_BITS) - 1), ..c })
}

struct Member<S> {
    addresses: Vec<IpAddr>,
    streams: S,
}

/// Streams over several ports, turned one after the other. Each keeps the order that [`Streams`] promises; an NI has one
/// port, so what is on two of them is nothing to each other.
pub struct Ports<S> {
    all: Vec<Member<S>>,
    /// Dials from an address that no port has.
    astray: Vec<DialId>,
    /// Addresses to listen at that no port has.
    nowhere: Vec<SocketAddr>,
    /// Lends of messages on connections of ports that there are not: they are told to be home.
    unsent: Vec<LendId>,
}

impl<S: Streams> Ports<S> {
    /// The streams of each port, with its addresses. No two ports have one in common; those behind the first
    /// [`PORTS_MAX`] are left out.
    pub fn new(all: impl IntoIterator<Item = (Vec<IpAddr>, S)>) -> Ports<S> {
        let member = |(addresses, streams)| Member { addresses, streams };
        Ports {
            all: all.into_iter().take(PORTS_MAX).map(member).collect(),
            astray: Vec::new(),
            nowhere: Vec::new(),
            unsent: Vec::new(),
        }
    }

    /// The streams of each port, in the order in which they were given.
    pub fn each(&self) -> impl Iterator<Item = &S> {
        self.all.iter().map(|m| &m.streams)
    }

    fn with_address(&mut self, ip: IpAddr) -> Option<&mut S> {
        self.all.iter_mut().find(|m| m.addresses.contains(&ip)).map(|m| &mut m.streams)
    }

    fn on(&mut self, c: ConnId) -> Option<(&mut S, ConnId)> {
        let (port, c) = at(c);
        self.all.get_mut(port).map(|m| (&mut m.streams, c))
    }
}

impl<S: Streams> Streams for Ports<S> {
    fn now(&self) -> u64 {
        self.all.first().map_or(0, |m| m.streams.now())
    }

    fn dial(&mut self, d: &DialSpec) {
        match self.with_address(d.local_ip) {
            Some(s) => s.dial(d),
            None => self.astray.push(d.id),
        }
    }

    fn listen(&mut self, at: SocketAddr) {
        match self.with_address(at.ip()) {
            Some(s) => s.listen(at),
            None => self.nowhere.push(at),
        }
    }

    fn unlisten(&mut self, at: SocketAddr) {
        self.nowhere.retain(|a| *a != at);
        if let Some(s) = self.with_address(at.ip()) {
            s.unlisten(at);
        }
    }

    fn open_ni(&mut self, site: &Site, at: &[SocketAddr]) -> Result<(), NiError> {
        let has = self.all.iter().position(|m| m.addresses.contains(&site.ip));
        if has.is_some_and(|port| port != usize::from(site.port)) {
            let why = "another port of this node has it: give the NI that port".into();
            return Err(NiError::Address { ip: site.ip, why });
        }
        let m = self.all.get_mut(usize::from(site.port)).ok_or(NiError::NoPort(site.port))?;
        m.streams.open_ni(&Site { port: 0, ..*site }, at)?;
        if has.is_none() {
            m.addresses.push(site.ip);
        }
        Ok(())
    }

    fn close_ni(&mut self, at: SocketAddr) {
        if let Some(s) = self.with_address(at.ip()) {
            s.close_ni(at);
        }
    }

    fn drop_address(&mut self, ip: IpAddr) {
        if let Some(m) = self.all.iter_mut().find(|m| m.addresses.contains(&ip)) {
            m.addresses.retain(|a| *a != ip);
            m.streams.drop_address(ip);
        }
    }

    #[inline]
    fn send(&mut self, c: ConnId, m: SendMsg) {
        match self.on(c) {
            Some((s, c)) => s.send(c, m),
            None => self.unsent.extend(m.lend),
        }
    }

    fn bind(&mut self, at: SocketAddr) {
        match self.with_address(at.ip()) {
            Some(s) => s.bind(at),
            None => self.nowhere.push(at),
        }
    }

    fn datagram(&mut self, path: Path, m: SendMsg) {
        match self.with_address(path.local_ip) {
            Some(s) => s.datagram(path, m),
            None => self.unsent.extend(m.lend),
        }
    }

    fn unhold(&mut self, c: ConnId, l: LendId) {
        if let Some((s, c)) = self.on(c) {
            s.unhold(c, l);
        }
    }

    fn read(&mut self, c: ConnId) {
        if let Some((s, c)) = self.on(c) {
            s.read(c);
        }
    }

    fn close(&mut self, c: ConnId, how: Close) {
        if let Some((s, c)) = self.on(c) {
            s.close(c, how);
        }
    }

    fn turn(&mut self, now: u64, sink: &mut dyn FnMut(Happened<'_>)) -> Work {
        let mut work = Work::of(self.astray.len() + self.nowhere.len() + self.unsent.len());
        for l in self.unsent.drain(..) {
            sink(Happened::Released(l));
        }
        for d in self.astray.drain(..) {
            sink(Happened::DialFailed(d, DialError::Local));
        }
        for at in self.nowhere.drain(..) {
            sink(Happened::Listening(at, Err(ListenError::NotOurs)));
        }
        for (port, m) in self.all.iter_mut().enumerate() {
            let own = |c| named(port, c);
            work = work.and(m.streams.turn(now, &mut |happened| {
                sink(match happened {
                    Happened::Opened(c, info) => Happened::Opened(own(c), info),
                    Happened::Progress(c, p) => Happened::Progress(own(c), p),
                    Happened::Bytes(c, rx) => Happened::Bytes(own(c), rx),
                    Happened::LastBytes(c) => Happened::LastBytes(own(c)),
                    Happened::PeerFin(c) => Happened::PeerFin(own(c)),
                    Happened::Ended(c) => Happened::Ended(own(c)),
                    Happened::Closed(c, why) => Happened::Closed(own(c), why),
                    other @ (Happened::DialFailed(..)
                    | Happened::Released(_)
                    | Happened::Listening(..)
                    | Happened::Datagram(..)
                    | Happened::Undelivered(..)) => other,
                });
            }));
        }
        work
    }

    fn flush(&mut self) -> Work {
        self.all.iter_mut().fold(Work::Idle, |w, m| w.and(m.streams.flush()))
    }

    fn deadline(&self) -> Option<u64> {
        if !(self.astray.is_empty() && self.nowhere.is_empty() && self.unsent.is_empty()) {
            return Some(self.now());
        }
        self.all.iter().filter_map(|m| m.streams.deadline()).min()
    }

    fn wait(&mut self, until: Option<u64>, nap: Option<Nap>) {
        if let [only] = &mut self.all[..] {
            return only.streams.wait(until, nap);
        }
        if !self.linked() {
            return std::thread::sleep(LINK_DOWN_NAP);
        }
        let Some(nap) = nap.and_then(|n| cut(n, self.now(), until)) else { return };
        // With all armed the first one's nap ends by a packet of any; that has to be looked for once more before.
        let armed = |m: &mut Member<S>| m.streams.arm();
        match self.all.iter_mut().map(armed).min() {
            Some(Armed::Before) => self.all.iter_mut().take(1).for_each(|m| m.streams.wait(until, Some(nap))),
            Some(Armed::Now) => {}
            Some(Armed::Never) | None => std::thread::sleep(nap.short),
        }
    }

    fn linked(&self) -> bool {
        self.all.iter().any(|m| m.streams.linked())
    }

    fn has_link(&self, ip: IpAddr) -> bool {
        self.all.iter().find(|m| m.addresses.contains(&ip)).is_none_or(|m| m.streams.linked())
    }

    fn abort_all(&mut self) {
        self.all.iter_mut().for_each(|m| m.streams.abort_all());
    }

    fn tune(&mut self, tcp: &Tcp) {
        self.all.iter_mut().for_each(|m| m.streams.tune(tcp));
    }

    fn sibling(&mut self) -> Option<&mut dyn Sibling> {
        Some(self)
    }
}

impl<S: Streams> Sibling for Ports<S> {
    fn tell(&mut self) -> Option<(u16, Told)> {
        (0..).zip(&mut self.all).find_map(|(port, m)| {
            let (queue, told) = m.streams.sibling()?.tell()?;
            Some((queue, Told { port, ..told }))
        })
    }

    fn hear(&mut self, told: Told) {
        let member = self.all.get_mut(usize::from(told.port));
        if let Some(stack) = member.and_then(|m| m.streams.sibling()) {
            stack.hear(Told { port: 0, ..told });
        }
    }
}

impl<S: Streams + Inspect> Inspect for Ports<S> {
    fn counters(&self) -> StreamCounters {
        self.all.iter().fold(StreamCounters::default(), |sum, m| sum.and(&m.streams.counters()))
    }

    fn look(&mut self, page: &mut Page) {
        let (port, from) = at_place(page.from.unwrap_or(0));
        let others = self.all.len() > port + 1;
        page.from = Some(from);
        let before = page.rows.len();
        match self.all.get_mut(port) {
            Some(m) => m.streams.look(page),
            None => page.from = None,
        }
        for row in page.rows.iter_mut().skip(before) {
            row.conn = named(port, row.conn);
        }
        page.from = match page.from {
            Some(next) => Some(place(port, next)),
            None => others.then(|| place(port + 1, 0)),
        };
        debug_assert!(page.rows.len() <= before + PAGE);
    }

    fn details(&self, f: &mut dyn FnMut(&'static str, u64)) {
        let mut sums: Vec<(&'static str, u64)> = Vec::new();
        for m in &self.all {
            m.streams.details(&mut |name, n| match sums.iter_mut().find(|s| s.0 == name) {
                Some(sum) => sum.1 += n,
                None => sums.push((name, n)),
            });
        }
        sums.into_iter().for_each(|(name, n)| f(name, n));
    }

    fn tap(&mut self, tap: Option<Box<TapEnd>>) -> Option<Box<TapEnd>> {
        let (first, others) = self.all.split_first_mut()?;
        for m in others {
            m.streams.tap(tap.as_ref().map(|t| Box::new(t.twin())));
        }
        first.streams.tap(tap)
    }
}

/// Places of all ports' tables, one behind the other.
fn place(port: usize, slot: u32) -> u32 {
    (port as u32) << SLOT_BITS | slot
}

fn at_place(place: u32) -> (usize, u32) {
    ((place >> SLOT_BITS) as usize, place & ((1 << SLOT_BITS) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::sock::SockStreams;
    use crate::stream::{InlineHdr, Pages, ShardId};

    #[test]
    fn a_port_that_is_not_there_loses_no_lend_and_no_dial() {
        let mut ports: Ports<SockStreams> = Ports::new([]);
        let lend = Some(LendId(7));
        let msg = SendMsg { hdr: InlineHdr::new(), pay: Pages::new(), lend, hold: false, answer: false };
        ports.send(ConnId { shard: ShardId(0), index: 1 << SLOT_BITS, generation: 1 }, msg);
        let (remote, local_ip) = (([10, 0, 0, 2], 988).into(), [10, 0, 0, 1].into());
        ports.dial(&DialSpec { id: DialId(3), remote, local_ip, privileged: true, until: 1 });
        assert!(ports.deadline().is_some());
        let mut told = Vec::new();
        ports.turn(1, &mut |happened| match happened {
            Happened::Released(l) => told.push((l.0, None)),
            Happened::DialFailed(d, why) => told.push((d.0, Some(why))),
            _ => {}
        });
        assert_eq!((told, ports.deadline()), (vec![(7, None), (3, Some(DialError::Local))], None));
    }
}
