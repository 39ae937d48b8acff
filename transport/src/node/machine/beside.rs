//! Protocols beside socklnd: which of them a connection, a dial or a loan belongs to.
//!
//! A connection that a peer made is known by the port that it came to, one of ours by its dial. Names of dials and loans
//! are a protocol's own; on their way out they get its number ([`DialId`], [`LendId`]). Numbers of LNDs come first.

use crate::hash::OwnMap;
use crate::lnd::NIS_MAX;
use crate::stream::{Action, Bucket, ConnId, DialId, Happened, LendId, Protocol, SendMsg, ShardId};

/// Most protocols beside socklnd.
const MOST: usize = 31;
/// The number of the first one: LNDs have those before it.
const FIRST: u8 = NIS_MAX as u8;

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

/// The place of the protocol that dialled; `None` for an LND.
fn dialled(d: DialId) -> Option<usize> {
    d.number().checked_sub(FIRST).map(usize::from)
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
            Happened::Opened(_, info) => match info.dial.map(dialled) {
                Some(n) => n,
                None => self.0.iter().position(|p| p.port == info.local.port()),
            },
            Happened::DialFailed(d, _) => dialled(*d),
            Happened::Released(l) => l.protocol().map(|(n, _)| usize::from(n)),
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
                info.dial = info.dial.map(|d| DialId(d.name()));
                Happened::Opened(c, info)
            }
            Happened::DialFailed(d, why) => Happened::DialFailed(DialId(d.name()), why),
            Happened::Released(l) => {
                place.lent = place.lent.saturating_sub(1);
                Happened::Released(LendId(l.protocol().map_or(l.0, |(_, name)| name)))
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

    /// The next thing that one of them wants done on `shard`, at `now`, in ns.
    pub(super) fn act(&mut self, now: u64, shard: ShardId) -> Option<Action> {
        for (n, place) in self.0.iter_mut().enumerate() {
            while let Some(action) = place.protocol.act() {
                let bucket = |c: &ConnId| place.conns.get(c).copied();
                match action {
                    Action::Dial(mut d) => {
                        d.id = DialId::of_protocol(FIRST + n as u8, d.id.0);
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

    /// Whether the peers of a bucket may have another home: a protocol's connections cannot move.
    pub(super) fn may_migrate(&self, b: Bucket) -> bool {
        self.0.iter().all(|p| p.conns.values().all(|at| *at != b))
    }
}
