//! Protocols beside socklnd: which of them a connection, a dial or a loan belongs to.
//!
//! A connection that a peer made is known by the address or the port that it came to, one of ours by its dial. Names of dials
//! and loans are a protocol's own; on their way out they get its number ([`DialId`], [`LendId`]). Numbers of LNDs come first.
//!
//! A protocol has a port that the runtime listens at for it, or listens at addresses of its own ([`Action::Listen`]), or both:
//! a connection to a port is at home where its peer is, one to an own address where the protocol is.

use std::net::SocketAddr;

use crate::hash::OwnMap;
use crate::lnd::NIS_MAX;
use crate::stream::{
    Action, Bucket, ConnId, DialId, FIRST_BESIDE, Happened, LendId, ListenError, Protocol, SendMsg, ShardId,
};

/// Most protocols beside socklnd.
const MOST: usize = 31;
const _: () = assert!(NIS_MAX <= FIRST_BESIDE as usize);

struct Place {
    /// The port that the runtime listens at for it; 0 for none.
    port: u16,
    /// Addresses that it asked for.
    asked: Vec<SocketAddr>,
    protocol: Box<dyn Protocol + Send>,
    conns: OwnMap<ConnId, Conn>,
    /// Loans that are out.
    lent: usize,
}

#[derive(Clone, Copy)]
struct Conn {
    /// Bucket of its peer's address.
    bucket: Bucket,
    /// It is at home where its peer is.
    of_peer: bool,
}

/// The protocols of a shard beside socklnd.
#[derive(Default)]
pub(super) struct Beside(Vec<Place>);

impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|p| (p.port, p.conns.len()))).finish()
    }
}

/// A port that a protocol cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BesideError {
    /// Somebody has it.
    #[error("port {0} is taken by another protocol of this node: give each a port of its own")]
    Taken(u16),
    /// There are too many.
    #[error("{MOST} protocols stand beside socklnd already: leave one out")]
    TooMany,
}

/// The place of the protocol that dialled; `None` for an LND.
fn dialled(d: DialId) -> Option<usize> {
    d.protocol().map(|(n, _)| usize::from(n))
}

fn own_name(d: DialId) -> DialId {
    DialId(d.protocol().map_or(d.0, |(_, name)| name))
}

impl Beside {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a protocol that has `port`, or none where it is 0.
    pub(super) fn add(&mut self, port: u16, protocol: Box<dyn Protocol + Send>) -> Result<(), BesideError> {
        if port != 0 && self.0.iter().any(|p| p.port == port) {
            return Err(BesideError::Taken(port));
        }
        if self.0.len() >= MOST {
            return Err(BesideError::TooMany);
        }
        self.0.push(Place { port, asked: Vec::new(), protocol, conns: OwnMap::default(), lent: 0 });
        Ok(())
    }

    /// Gives what happened to whom it concerns; back, if that is socklnd.
    pub(super) fn handle<'a>(&mut self, now: u64, happened: Happened<'a>) -> Option<Happened<'a>> {
        let of_conn = |c: &ConnId| self.0.iter().position(|p| p.conns.contains_key(c));
        let at = match &happened {
            Happened::Opened(_, info) => match info.dial.map(dialled) {
                Some(n) => n,
                None => self.at(info.local),
            },
            Happened::DialFailed(d, _) => dialled(*d),
            Happened::Released(l) => l.protocol().map(|(n, _)| usize::from(n)),
            Happened::Listening(at, _) => self.0.iter().position(|p| p.asked.contains(at)),
            Happened::Progress(c, _)
            | Happened::Bytes(c, _)
            | Happened::LastBytes(c)
            | Happened::PeerFin(c)
            | Happened::Ended(c)
            | Happened::Closed(c, _) => of_conn(c),
            Happened::Datagram(path, ..) | Happened::Undelivered(path, _) => self.at(path.local()),
        };
        let Some(place) = at.and_then(|n| self.0.get_mut(n)) else { return Some(happened) };
        let own = match happened {
            Happened::Opened(c, mut info) => {
                let of_peer = info.dial.is_none() && !place.asked.contains(&info.local);
                place.conns.insert(c, Conn { bucket: Bucket::of(info.remote.ip()), of_peer });
                info.dial = info.dial.map(own_name);
                Happened::Opened(c, info)
            }
            Happened::DialFailed(d, why) => Happened::DialFailed(own_name(d), why),
            Happened::Released(l) => {
                place.lent = place.lent.saturating_sub(1);
                Happened::Released(LendId(l.protocol().map_or(l.0, |(_, name)| name)))
            }
            Happened::Closed(c, why) => {
                place.conns.remove(&c);
                Happened::Closed(c, why)
            }
            Happened::Listening(at, Err(why)) => {
                place.asked.retain(|a| *a != at);
                // The runtime listens there for it anyway.
                let has = why == ListenError::InUse && at.port() == place.port;
                Happened::Listening(at, if has { Ok(()) } else { Err(why) })
            }
            other => other,
        };
        place.protocol.handle(now, own);
        None
    }

    /// The place whose connections come to an address: that of who asked for it, else of who has the port.
    fn at(&self, local: SocketAddr) -> Option<usize> {
        let asked = self.0.iter().position(|p| p.asked.contains(&local));
        asked.or_else(|| self.0.iter().position(|p| p.port == local.port() && p.port != 0))
    }

    /// The next thing that one of them wants done on `shard`, at `now`, in ns.
    pub(super) fn act(&mut self, now: u64, shard: ShardId) -> Option<Action> {
        for n in 0..self.0.len() {
            while let Some(action) = self.0.get_mut(n).and_then(|p| p.protocol.act()) {
                let taken = |at| self.at(at).filter(|other| *other != n).is_some();
                let taken = matches!(&action, Action::Listen(at) | Action::Bind(at) if taken(*at));
                let Some(place) = self.0.get_mut(n) else { break };
                let bucket = |c: &ConnId| place.conns.get(c).map(|c| c.bucket);
                match action {
                    Action::Listen(at) | Action::Bind(at) if taken || place.asked.contains(&at) => {
                        place.protocol.handle(now, Happened::Listening(at, Err(ListenError::InUse)));
                    }
                    Action::Listen(at) | Action::Bind(at) => {
                        place.asked.push(at);
                        return Some(action);
                    }
                    Action::Unlisten(at) => {
                        let before = place.asked.len();
                        place.asked.retain(|a| *a != at);
                        if place.asked.len() < before {
                            return Some(Action::Unlisten(at));
                        }
                    }
                    Action::Dial(mut d) => {
                        d.id = DialId::beside(FIRST_BESIDE + n as u8, shard, d.id.0);
                        return Some(Action::Dial(d));
                    }
                    Action::Send(c, m) => {
                        // A message for a connection that has gone is dropped, and its pages are home.
                        let Some(b) = bucket(&c) else {
                            if let Some(l) = m.lend {
                                place.protocol.handle(now, Happened::Released(l));
                            }
                            continue;
                        };
                        let lend = m.lend.map(|l| LendId::of_protocol(b, shard, n as u8, l.0));
                        place.lent += usize::from(lend.is_some());
                        return Some(Action::Send(c, SendMsg { lend, ..m }));
                    }
                    Action::Datagram(path, m) => {
                        let b = Bucket::of(path.remote_ip);
                        let lend = m.lend.map(|l| LendId::of_protocol(b, shard, n as u8, l.0));
                        place.lent += usize::from(lend.is_some());
                        return Some(Action::Datagram(path, SendMsg { lend, ..m }));
                    }
                    Action::Unhold(c, l) => match bucket(&c) {
                        Some(b) => {
                            return Some(Action::Unhold(c, LendId::of_protocol(b, shard, n as u8, l.0)));
                        }
                        None => continue,
                    },
                    Action::Read(c) | Action::Close(c, _) if bucket(&c).is_none() => continue,
                    other => return Some(other),
                }
            }
        }
        None
    }

    /// Time at which one of them has something timed, in ns; `u64::MAX` for never.
    pub(super) fn wake(&self) -> u64 {
        self.0.iter().filter_map(|p| p.protocol.deadline()).min().unwrap_or(u64::MAX)
    }

    /// Runs what is due.
    pub(super) fn timer(&mut self, now: u64) {
        for p in self.0.iter_mut().filter(|p| p.protocol.deadline().is_some_and(|t| t <= now)) {
            p.protocol.timer(now);
        }
    }

    pub(super) fn shut_down(&mut self, now: u64) {
        self.0.iter_mut().for_each(|p| p.protocol.shut_down(now));
    }

    /// Shows `each` what they count.
    pub(super) fn counts(&self, each: &mut dyn FnMut(&'static str, u64)) {
        self.0.iter().for_each(|p| p.protocol.counts(each));
    }

    /// Whether none of them has a connection or a loan.
    pub(super) fn gone(&self) -> bool {
        self.0.iter().all(|p| p.conns.is_empty() && p.lent == 0)
    }

    /// Connections and loans of all of them.
    pub(super) fn out(&self) -> (usize, usize) {
        self.0.iter().fold((0, 0), |(c, l), p| (c + p.conns.len(), l + p.lent))
    }

    /// Whether the peers of a bucket may have another home: a protocol's connections cannot move, unless they stay anyway.
    pub(super) fn may_migrate(&self, b: Bucket) -> bool {
        self.0.iter().all(|p| p.conns.values().all(|c| c.bucket != b || !c.of_peer))
    }
}
