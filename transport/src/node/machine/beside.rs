//! Protocols beside socklnd: which of them a connection, a dial or a loan belongs to.
//!
//! A connection that a peer made is known by the port that it came to, one of ours by its dial. Names of dials and loans
//! are a protocol's own; on their way out they get its number, which socklnd's never have.
//!
//! ```text
//!   DialId   8 bits: number of the protocol, from 1; 0 is socklnd   56 bits: its name
//!   LendId   8 bits: bucket   6: shard   5: number   21: name, high part   1: set   23: name, low part
//! ```

use crate::hash::OwnMap;
use crate::stream::{Action, Bucket, ConnId, DialId, Happened, LendId, Protocol, SendMsg, ShardId};

/// Most protocols beside socklnd.
const MOST: usize = 31;
/// Low bits of a loan's name.
const LOW: u32 = 23;
const DIAL_TAG: u32 = 56;

struct Place {
    port: u16,
    protocol: Box<dyn Protocol + Send>,
    /// Its connections, and where their peers' addresses fall.
    conns: OwnMap<ConnId, Bucket>,
    /// Loans that are out.
    lent: usize,
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

fn lend_name(bucket: Bucket, by: ShardId, number: usize, name: u64) -> LendId {
    let (low, high) = (name & ((1 << LOW) - 1), name >> LOW & ((1 << 21) - 1));
    let head = u64::from(bucket.0) << 56 | u64::from(by.0) << 50;
    LendId(head | (number as u64) << 45 | high << (LOW + 1) | 1 << LOW | low)
}

/// The protocol's number and its own name for the loan; `None` for one of socklnd's.
fn own_name(l: LendId) -> Option<(usize, u64)> {
    if l.0 >> LOW & 1 == 0 {
        return None;
    }
    let (low, high) = (l.0 & ((1 << LOW) - 1), l.0 >> (LOW + 1) & ((1 << 21) - 1));
    Some(((l.0 >> 45 & 31) as usize, high << LOW | low))
}

fn dial_number(d: DialId) -> usize {
    (d.0 >> DIAL_TAG) as usize
}

impl Beside {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a protocol that has `port`.
    pub(super) fn add(&mut self, port: u16, protocol: Box<dyn Protocol + Send>) -> Result<(), BesideError> {
        if self.0.iter().any(|p| p.port == port) {
            return Err(BesideError::Taken(port));
        }
        if self.0.len() >= MOST {
            return Err(BesideError::TooMany);
        }
        self.0.push(Place { port, protocol, conns: OwnMap::default(), lent: 0 });
        Ok(())
    }

    /// Gives what happened to whom it concerns; back, if that is socklnd.
    pub(super) fn handle<'a>(&mut self, now: u64, happened: Happened<'a>) -> Option<Happened<'a>> {
        let of_conn = |c: &ConnId| self.0.iter().position(|p| p.conns.contains_key(c));
        let at = match &happened {
            Happened::Opened(_, info) => match info.dial.map(dial_number) {
                Some(n) => n.checked_sub(1),
                None => self.0.iter().position(|p| p.port == info.local.port()),
            },
            Happened::DialFailed(d, _) => dial_number(*d).checked_sub(1),
            Happened::Released(l) => own_name(*l).map(|(n, _)| n),
            Happened::Progress(c, _)
            | Happened::Bytes(c, _)
            | Happened::PeerFin(c)
            | Happened::Ended(c)
            | Happened::Closed(c, _) => of_conn(c),
        };
        let Some(place) = at.and_then(|n| self.0.get_mut(n)) else { return Some(happened) };
        let own = match happened {
            Happened::Opened(c, mut info) => {
                place.conns.insert(c, Bucket::of(info.remote.ip()));
                info.dial = info.dial.map(|d| DialId(d.0 & ((1 << DIAL_TAG) - 1)));
                Happened::Opened(c, info)
            }
            Happened::DialFailed(d, why) => Happened::DialFailed(DialId(d.0 & ((1 << DIAL_TAG) - 1)), why),
            Happened::Released(l) => {
                place.lent = place.lent.saturating_sub(1);
                Happened::Released(LendId(own_name(l).map_or(l.0, |(_, name)| name)))
            }
            Happened::Closed(c, why) => {
                place.conns.remove(&c);
                Happened::Closed(c, why)
            }
            other => other,
        };
        place.protocol.handle(now, own);
        None
    }

    /// The next thing that one of them wants done on `shard`.
    pub(super) fn act(&mut self, shard: ShardId) -> Option<Action> {
        for (n, place) in self.0.iter_mut().enumerate() {
            while let Some(action) = place.protocol.act() {
                let bucket = |c: &ConnId| place.conns.get(c).copied();
                match action {
                    Action::Dial(mut d) => {
                        d.id = DialId((n as u64 + 1) << DIAL_TAG | d.id.0 & ((1 << DIAL_TAG) - 1));
                        return Some(Action::Dial(d));
                    }
                    Action::Send(c, m) => {
                        // What is sent on a connection that has gone is dropped, and its pages are home.
                        let Some(b) = bucket(&c) else {
                            if let Some(l) = m.lend {
                                place.protocol.handle(0, Happened::Released(l));
                            }
                            continue;
                        };
                        let lend = m.lend.map(|l| lend_name(b, shard, n, l.0));
                        place.lent += usize::from(lend.is_some());
                        return Some(Action::Send(c, SendMsg { lend, ..m }));
                    }
                    Action::Unhold(c, l) => match bucket(&c) {
                        Some(b) => return Some(Action::Unhold(c, lend_name(b, shard, n, l.0))),
                        None => continue,
                    },
                    Action::Read(c) | Action::Close(c, _) if bucket(&c).is_none() => continue,
                    other => return Some(other),
                }
            }
        }
        None
    }

    /// When one of them has something timed, in ns; `u64::MAX` for never.
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

    /// Whether none of them has a connection or a loan.
    pub(super) fn gone(&self) -> bool {
        self.0.iter().all(|p| p.conns.is_empty() && p.lent == 0)
    }

    /// Connections and loans of all of them.
    pub(super) fn out(&self) -> (usize, usize) {
        self.0.iter().fold((0, 0), |(c, l), p| (c + p.conns.len(), l + p.lent))
    }

    /// Whether the peers of a bucket may have another home: a protocol's connections cannot move.
    pub(super) fn may_leave(&self, b: Bucket) -> bool {
        self.0.iter().all(|p| p.conns.values().all(|at| *at != b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were_and_none_is_socklnds() {
        for (bucket, by, number, name) in
            [(0, 0, 0, 0), (255, 63, 30, (1 << 40) - 1), (7, 1, 3, 1 << 23), (1, 2, 1, (1 << 23) - 1)]
        {
            let l = lend_name(Bucket(bucket), ShardId(by), number, name);
            assert_eq!((own_name(l), l.bucket()), (Some((number, name)), Bucket(bucket)));
        }
        assert_eq!(own_name(LendId(0xff00_0000_0000_0000 | 5)), None);
    }
}
