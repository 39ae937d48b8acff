//! Seats of a node, for the commands of other processes: each is an application of the node like any other, behind rings.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hugepages::Backing;
use serde::{Deserialize, Serialize};
use transport::lnd::AppId;
use transport::lnet::{Event, Op, OpRefused};
use transport::node::inspect::Inspection;
use transport::node::{Handle, Seat};
use transport::selftest::Meter;
use transport::wire::{Nid, PingInfo, ProcessId};

use super::failure::Failure;
use crate::selftest::host::Host;
use crate::why;

/// Seats of a node.
const SEATS: u16 = 5;
/// The seat of the console of lnet_selftest, behind the others.
const CONSOLE: u16 = SEATS + 1;
/// Operations and events of a seat.
pub(crate) const DEPTH: usize = 64;
/// Pings that were given up and may still be answered in one seat, so that what it hears finds room.
pub(super) const OWED_MAX: usize = DEPTH / 2;
/// Tags of pings begin here, beyond those of bulk.
pub(super) const PINGS: u64 = 1 << 40;
/// Sleep of a guest that has nothing to do.
pub(super) const NAP: Duration = Duration::from_micros(50);

/// The seats of a node, and memory for what is sent from them.
#[derive(Default)]
pub(crate) struct Seats {
    seats: Mutex<Vec<GuestSeat>>,
    pub(super) backing: OnceLock<Arc<dyn Backing>>,
    /// The console's, until it has sat down.
    console_seat: Mutex<Option<Seat>>,
    console: OnceLock<Result<Host, String>>,
    /// The NID in its sessions' names, and its node's measures.
    own: OnceLock<Nid>,
    meter: OnceLock<Arc<Meter>>,
}

/// A seat, and the tags of pings that were given up before they had come to something: the next one in it hears of them.
pub(super) struct GuestSeat {
    pub(super) seat: Seat,
    pub(super) owed: Vec<u64>,
}

impl GuestSeat {
    /// Hears what has come since it was left.
    fn hear(&mut self) {
        if self.owed.is_empty() {
            return;
        }
        let handle = self.seat.take();
        while let Some(ev) = handle.event() {
            settle(&mut self.owed, &ev);
        }
    }
}

/// An event may be the last of one of the pings that are owed.
fn settle(owed: &mut Vec<u64>, ev: &Event) {
    if let Event::Ping { tag, .. } | Event::Refused { tag, .. } = ev {
        owed.retain(|t| t != tag);
    }
}

/// A seat that is taken; it is free again when this goes.
pub(super) struct Taken<'a> {
    guests: &'a Seats,
    pub(super) seat: Option<GuestSeat>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.guests.seats().extend(self.seat.take());
    }
}

impl Seats {
    /// Ids of the applications in the seats.
    pub(crate) fn ids() -> impl Iterator<Item = AppId> {
        (1..=CONSOLE).filter_map(|n| AppId::new(n).ok())
    }

    /// Opens the seats, over a node whose pages come from `backing`.
    pub(crate) fn open(&self, mut seats: Vec<Seat>, backing: &Arc<dyn Backing>) {
        *self.console_seat.lock().unwrap_or_else(PoisonError::into_inner) = seats.pop();
        *self.seats() = seats.into_iter().map(|seat| GuestSeat { seat, owed: Vec::new() }).collect();
        let _ = self.backing.set(backing.clone());
    }

    /// Tells the console its node's first NID.
    pub(crate) fn name(&self, own: Nid) {
        let _ = self.own.set(own);
    }

    /// Tells the console the measures of the node's member.
    pub(crate) fn measure(&self, meter: Arc<Meter>) {
        let _ = self.meter.set(meter);
    }

    /// The console; it sits down when it is asked for first.
    pub(crate) fn console(&self) -> Result<&Host, String> {
        let soon = || "this node is not up yet: try again".to_owned();
        let own = *self.own.get().ok_or_else(soon)?;
        let mut seat = self.console_seat.lock().unwrap_or_else(PoisonError::into_inner);
        if self.console.get().is_none() && seat.is_none() {
            return Err(soon());
        }
        let start = || {
            let seat = seat.take().ok_or_else(soon)?;
            let id = AppId::new(CONSOLE).map_err(|e| e.to_string())?;
            Host::start(seat, id, own, self.meter.get().cloned())
        };
        self.console.get_or_init(start).as_ref().map_err(String::clone)
    }

    fn seats(&self) -> std::sync::MutexGuard<'_, Vec<GuestSeat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A free seat where at most `owed` pings of others may still be answered: none, for a guest that cannot tell them from its own.
    pub(super) fn take(&self, owed: usize) -> Result<Taken<'_>, String> {
        let mut seats = self.seats();
        seats.iter_mut().for_each(GuestSeat::hear);
        let best = (0..seats.len()).min_by_key(|i| seats.get(*i).map(|c| c.owed.len()));
        match best.filter(|i| seats.get(*i).is_some_and(|c| c.owed.len() <= owed)) {
            Some(i) => Ok(Taken { guests: self, seat: Some(seats.swap_remove(i)) }),
            None if best.is_some() => Err(
                "pings through this node that were given up are still out in all of its free seats: try again within a minute"
                    .into(),
            ),
            None => {
                Err(format!("{SEATS} other commands go through this node now: try again when one has ended"))
            }
        }
    }
}

/// Pings `peers` once each and hears them all out: they learn that the node is a new one.
pub(crate) fn greet(guests: &Seats, peers: &[Nid], stop: impl Fn() -> bool) {
    let Ok(mut taken) = guests.take(0) else { return };
    let Some(GuestSeat { seat, .. }) = &mut taken.seat else { return };
    let handle = seat.take();
    let (mut next, mut heard, mut good) = (0, 0, 0);
    while heard < peers.len() && !(stop() && heard >= next) {
        if let Some(nid) = peers.get(next).filter(|_| !stop()) {
            let op = Op::Ping { tag: PINGS + next as u64, target: ProcessId::lustre(*nid) };
            next += usize::from(handle.submit(op).is_ok());
        }
        match handle.event() {
            Some(Event::Ping { info, .. }) => {
                heard += 1;
                good += usize::from(info.is_ok());
            }
            Some(Event::Refused { .. }) => heard += 1,
            _ => dataplane::clock::pause(Duration::from_millis(1)),
        }
    }
    tracing::info!("peers from before the restart that have answered: {good} of {}", peers.len());
}

/// The answer to a ping.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pong {
    /// The node's process id.
    pub(crate) pid: u32,
    /// Its NIDs.
    pub(crate) nids: Vec<String>,
    /// Its features.
    pub(crate) features: u32,
    /// Round-trip time, in ns.
    pub(crate) rtt_ns: u64,
}

impl Pong {
    /// Of what a node says of itself.
    fn of(info: &PingInfo, rtt_ns: u64) -> Pong {
        let nids = info.nis.iter().chain(&info.large).map(|ni| ni.nid.to_string()).collect();
        Pong { pid: info.pid, nids, features: info.features, rtt_ns }
    }

    /// As `lctl ping` shows it, and the time.
    pub(crate) fn text(&self) -> String {
        let mut o = format!("{}-0@lo\n", self.pid);
        for nid in &self.nids {
            o += &format!("{}-{nid}\n", self.pid);
        }
        o + &format!("time {:.1} us, features {:#x}", self.rtt_ns as f64 / 1000.0, self.features)
    }
}

/// Discovery of a peer that has been discovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Again {
    /// It is left as it is.
    Known,
    /// It is asked anew.
    Anew,
}

/// Pings a node and waits for its answer, or the reason why there is none. `owed` are the tags of pings that
/// were given up and are still out: this one's comes to them if it is.
///
/// # Errors
/// The reason.
pub(crate) fn one_ping(
    handle: &Handle,
    front: &Inspection,
    op: Op,
    timeout: Duration,
    owed: &mut Vec<u64>,
    stopped: impl Fn() -> bool,
) -> Result<Pong, Failure> {
    let (Op::Ping { tag, target } | Op::Discover { tag, target, .. }) = op else {
        return Err("no ping".into());
    };
    let nid = target.nid;
    handle.submit(op).map_err(|e| e.to_string())?;
    owed.push(tag);
    let end = Instant::now() + timeout;
    loop {
        let event = handle.event();
        event.iter().for_each(|ev| settle(owed, ev));
        match event {
            Some(Event::Ping { tag: t, info: Ok(info), rtt_ns }) if t == tag => {
                return Ok(Pong::of(&info, rtt_ns));
            }
            Some(Event::Ping { tag: t, info: Err(e), .. }) if t == tag => {
                let errno = why::number(front, nid, e);
                return Err(Failure::numbered(why::failed(front, nid, e.to_string()), errno));
            }
            Some(Event::Refused { tag: t, why }) if t == tag => {
                let unreachable = matches!(why, OpRefused::Target(_) | OpRefused::NoRoute(_));
                let errno = if unreachable { libc::EHOSTUNREACH } else { libc::EINVAL };
                return Err(Failure::numbered(why, errno));
            }
            Some(_) => {}
            None if stopped() => return Err("interrupted".into()),
            None if Instant::now() > end => {
                let text = why::silent(front, nid, timeout);
                return Err(Failure::numbered(text, libc::ETIMEDOUT));
            }
            None => dataplane::clock::pause(NAP),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::lnd::LnetError;
    use transport::node::{App, NoApp, Ops, beside};

    /// A guest that gave a ping up left its seat while that was out, and the next one there heard its end.
    #[test]
    fn a_seat_with_a_ping_out_is_for_pings_alone_until_it_is_heard() {
        let (mut app, seats) = beside(NoApp, Seats::ids(), DEPTH);
        let guests = Seats::default();
        let backing: Arc<dyn Backing> = Arc::new(hugepages::PrivatePages);
        guests.open(seats, &backing);
        let mut all: Vec<_> = (0..SEATS).map(|_| guests.take(0).unwrap()).collect();
        assert!(guests.take(OWED_MAX).is_err(), "{SEATS} are taken");
        // Each leaves with a ping out; one has two.
        for (i, p) in all.iter_mut().enumerate() {
            let c = p.seat.as_mut().unwrap();
            c.owed.extend([7].into_iter().chain((i == 0).then_some(8)));
        }
        drop(all);
        let refused = guests.take(0).err().unwrap();
        assert!(refused.contains("try again within a minute"), "{refused}");
        let taken = guests.take(OWED_MAX).unwrap();
        assert_eq!(taken.seat.as_ref().unwrap().owed, [7], "the one that hears least");
        drop(taken);
        let mut ops = Ops::new();
        for id in Seats::ids().take(2) {
            app.event(0, id, Event::Ping { tag: 7, info: Err(LnetError::TimedOut), rtt_ns: 0 }, &mut ops);
        }
        let clean: Vec<_> = std::iter::from_fn(|| guests.take(0).ok()).collect();
        assert!((1..=2).contains(&clean.len()), "{}", clean.len());
    }
}
