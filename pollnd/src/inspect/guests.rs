//! Commands through a running node: `ping`, `put` and `get` of other processes use its connections.
//!
//! A node has a few seats beside its own application. The thread that serves an asker takes one, and is then an application
//! of the node like any other, behind rings.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bench::ctl::Ctl;
use bench::workload::Client;
use hugepages::Backing;
use rustix::net::{RecvFlags, recv};
use serde_json::{Value, json};
use transport::lnd::AppId;
use transport::lnet::{Event, Op};
use transport::node::desk::Front;
use transport::node::{App, Handle, Ops, Seat};
use transport::wire::{Nid, ProcessId};

use super::server::{Shared, say};
use crate::bulk::{Follow, Job, Look, Moved};
use crate::ping::Pong;
use crate::why;

/// Seats of a node.
const SEATS: u16 = 5;
/// Operations and events of a seat.
pub(crate) const DEPTH: usize = 64;
/// Pings that were given up and may still be answered in one seat, so that what it hears finds room.
const OWED_MAX: usize = DEPTH / 2;
/// Tags of pings begin here, beyond those of bulk.
const PINGS: u64 = 1 << 40;
/// How long a guest sleeps when there is nothing to do.
const NAP: Duration = Duration::from_micros(50);
/// How often a guest looks whether its asker is still there.
const GLANCE: Duration = Duration::from_millis(20);

/// The seats of a node, and memory for what is sent from them.
#[derive(Default)]
pub(crate) struct Guests {
    seats: Mutex<Vec<Chair>>,
    backing: OnceLock<Arc<dyn Backing>>,
}

/// A seat, and the tags of pings that were given up before they had come to something: the next one in it hears of them.
struct Chair {
    seat: Seat,
    owed: Vec<u64>,
}

impl Chair {
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
struct Place<'a> {
    guests: &'a Guests,
    seat: Option<Chair>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.guests.seats().extend(self.seat.take());
    }
}

impl Guests {
    /// Ids of the applications in the seats.
    pub(crate) fn ids() -> impl Iterator<Item = AppId> {
        (1..=SEATS).filter_map(|n| AppId::new(n).ok())
    }

    /// Opens the seats, over a node whose pages come from `backing`.
    pub(crate) fn open(&self, seats: Vec<Seat>, backing: &Arc<dyn Backing>) {
        *self.seats() = seats.into_iter().map(|seat| Chair { seat, owed: Vec::new() }).collect();
        let _ = self.backing.set(backing.clone());
    }

    fn seats(&self) -> std::sync::MutexGuard<'_, Vec<Chair>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place where at most `owed` pings of others may still be answered: none, for who cannot tell them from its own.
    fn place(&self, owed: usize) -> Result<Place<'_>, String> {
        let mut seats = self.seats();
        seats.iter_mut().for_each(Chair::hear);
        let best = (0..seats.len()).min_by_key(|i| seats.get(*i).map(|c| c.owed.len()));
        match best.filter(|i| seats.get(*i).is_some_and(|c| c.owed.len() <= owed)) {
            Some(i) => Ok(Place { guests: self, seat: Some(seats.swap_remove(i)) }),
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
pub(crate) fn greet(guests: &Guests, peers: &[Nid], stop: impl Fn() -> bool) {
    let Ok(mut place) = guests.place(0) else { return };
    let Some(Chair { seat, .. }) = &mut place.seat else { return };
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
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    tracing::info!("peers from before the restart that have answered: {good} of {}", peers.len());
}

type Outcome = Result<Value, String>;

/// Whether the asker has gone.
fn gone(s: &UnixStream) -> bool {
    let mut byte = [0];
    match recv(s, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, 0)) => true,
        Ok(_) => false,
        Err(e) => io::Error::from(e).kind() != ErrorKind::WouldBlock,
    }
}

fn seconds(s: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(s).map_err(|e| format!("{s} s: {e}"))
}

/// Serves one ping.
pub(super) fn ping(shared: &Shared, target: &str, timeout: f64) -> Outcome {
    let nid = shared.target(target)?;
    let guests = shared.guests.as_deref().ok_or_else(|| shared.no_guests())?;
    let patience = seconds(timeout)?;
    let mut place = guests.place(OWED_MAX)?;
    let Chair { seat, owed } = place.seat.as_mut().ok_or("no seat")?;
    let handle = seat.take();
    let tag = PINGS + shared.serial.fetch_add(1, Ordering::Relaxed);
    let stopped = || shared.stop.load(Ordering::SeqCst);
    let pong = one_ping(&handle, &shared.front, (nid, tag), patience, owed, stopped)?;
    serde_json::to_value(pong).map_err(|e| e.to_string())
}

/// Pings a NID under a tag and waits for its answer, or the reason why there is none. `owed` are the tags of pings that
/// were given up and are still out: this one's comes to them if it is.
///
/// # Errors
/// The reason.
pub(crate) fn one_ping(
    handle: &Handle,
    front: &Front,
    (nid, tag): (Nid, u64),
    timeout: Duration,
    owed: &mut Vec<u64>,
    stopped: impl Fn() -> bool,
) -> Result<Pong, String> {
    handle.submit(Op::Ping { tag, target: ProcessId::lustre(nid) }).map_err(|e| e.to_string())?;
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
                return Err(why::failed(front, nid, e.to_string()));
            }
            Some(Event::Refused { tag: t, why }) if t == tag => return Err(why.to_string()),
            Some(_) => {}
            None if stopped() => return Err("interrupted".into()),
            None if Instant::now() > end => return Err(why::silent(front, nid, timeout)),
            None => std::thread::sleep(NAP),
        }
    }
}

/// What the lcores of a node have counted so far, of what a transfer is told about.
fn counts(front: &Front) -> BTreeMap<&'static str, u64> {
    let mut sum = BTreeMap::new();
    for lcore in 0..front.lcores() {
        let Ok(c) = front.counts(lcore) else { continue };
        for (k, v) in [
            ("tx_copied_bytes", c.rt.tx_copied_bytes),
            ("rx_copied_bytes", c.proto.rx_copied_bytes),
            ("retransmits", c.rt.retransmits),
        ] {
            *sum.entry(k).or_insert(0) += v;
        }
    }
    sum
}

/// The client of a transfer, on this thread.
struct Pump<'a> {
    client: Client,
    handle: &'a Handle,
    ops: Ops,
    begun: Instant,
}

impl Pump<'_> {
    /// Hands over what there is; gives whether there was anything.
    fn turn(&mut self) -> bool {
        let now = self.begun.elapsed().as_nanos() as u64;
        let mut busy = false;
        while let Some(ev) = self.handle.event() {
            busy = true;
            self.client.event(now, AppId::FIRST, ev, &mut self.ops);
        }
        self.client.turn(now, &mut self.ops);
        while let Some((app, op)) = self.ops.pop_front() {
            if let Err(full) = self.handle.submit(op) {
                self.ops.push_front((app, *full.0));
                break;
            }
            busy = true;
        }
        busy
    }
}

/// Serves one transfer: a row for each interval that is asked for, then what was moved.
pub(super) fn bulk(s: &mut UnixStream, shared: &Shared, job: &Job) -> io::Result<Outcome> {
    let refused = |e: String| Ok(Err(e));
    let Some(guests) = shared.guests.as_deref() else { return refused(shared.no_guests()) };
    let (mut place, config) = match (guests.place(0), shared.front.config(0)) {
        (Ok(p), Ok(c)) => (p, c),
        (Err(e), _) => return refused(e),
        (_, Err(e)) => return refused(e.to_string()),
    };
    let (Some(Chair { seat, .. }), Some(backing)) = (&mut place.seat, guests.backing.get()) else {
        return refused(shared.no_guests());
    };
    let nid = match shared.target(&job.target) {
        Ok(n) => n,
        Err(e) => return refused(e),
    };
    let flight = config.peer_credits.min(DEPTH as u32 / 2);
    let ctl = Arc::new(Ctl::default());
    let client = match Client::new(job.client(flight), ctl.clone(), nid, backing) {
        Ok(c) => c,
        Err(e) => return refused(e.to_string()),
    };
    let handle = seat.take();
    let before = counts(&shared.front);
    let mut pump = Pump { client, handle: &handle, ops: Ops::new(), begun: Instant::now() };
    let mut follow = Follow::new(job, ctl.clone());
    // An asker that has gone altogether, and one that only says no more, are the same to the transfer: it ends.
    let (mut glance, mut left, mut broken) = (Instant::now(), false, None);
    let outcome = loop {
        let busy = pump.turn();
        let stop = shared.stop.load(Ordering::SeqCst);
        if glance.elapsed() > GLANCE {
            glance = Instant::now();
            left |= gone(s);
        }
        match follow.look(stop || left || broken.is_some()) {
            Look::On if !busy => std::thread::sleep(NAP),
            Look::On => {}
            Look::Beat(b) => broken = say(s, &json!(b)).err().or(broken),
            Look::Silent(t) => break Err(why::silent(&shared.front, nid, t)),
            Look::End(Ok(())) => break Ok(()),
            Look::End(Err(e)) => break Err(why::failed(&shared.front, nid, e)),
        }
    };
    // Before the lcores are asked: that may take one that sleeps a while, which is not the transfer's.
    let so_far = follow.moved();
    let after = counts(&shared.front);
    let of = |k: &str| after.get(k).unwrap_or(&0) - before.get(k).unwrap_or(&0);
    let moved = Moved {
        tx_copied_bytes: of("tx_copied_bytes"),
        rx_copied_bytes: of("rx_copied_bytes"),
        retransmits: of("retransmits"),
        ..so_far
    };
    let told = match (broken, outcome) {
        (Some(e), _) => Err(e),
        (None, Ok(())) => Ok(Ok(json!(moved))),
        (None, Err(e)) => Ok(Err(job.failure(&moved, &e))),
    };
    if told.as_ref().is_ok_and(Result::is_err) {
        // The asker hears it now; the seat is free when what is outstanding has ended.
        if let Ok(Err(e)) = &told {
            // An asker that has gone is no reason to leave before: the next one in the seat would hear what is outstanding.
            let _ = say(s, &json!({ "error": e }));
        }
        let _ = s.shutdown(std::net::Shutdown::Both);
    }
    ctl.set_phase(bench::ctl::Phase::Quiet);
    while ctl.outstanding() > 0 && !shared.stop.load(Ordering::SeqCst) {
        if !pump.turn() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::lnd::LnetError;
    use transport::node::{NoApp, beside};

    /// Who gave a ping up left its seat while that was out, and the next one there heard what it came to.
    #[test]
    fn a_seat_with_a_ping_out_is_for_pings_alone_until_it_is_heard() {
        let (mut app, seats) = beside(NoApp, Guests::ids(), DEPTH);
        let guests = Guests::default();
        let backing: Arc<dyn Backing> = Arc::new(hugepages::PrivatePages);
        guests.open(seats, &backing);
        let mut all: Vec<_> = (0..SEATS).map(|_| guests.place(0).unwrap()).collect();
        assert!(guests.place(OWED_MAX).is_err(), "{SEATS} are taken");
        // Each leaves with a ping out; one has two.
        for (i, p) in all.iter_mut().enumerate() {
            let c = p.seat.as_mut().unwrap();
            c.owed.extend([7].into_iter().chain((i == 0).then_some(8)));
        }
        drop(all);
        let refused = guests.place(0).err().unwrap();
        assert!(refused.contains("try again within a minute"), "{refused}");
        let place = guests.place(OWED_MAX).unwrap();
        assert_eq!(place.seat.as_ref().unwrap().owed, [7], "the one that hears least");
        drop(place);
        let mut ops = Ops::new();
        for id in Guests::ids().take(2) {
            app.event(0, id, Event::Ping { tag: 7, info: Err(LnetError::TimedOut), rtt_ns: 0 }, &mut ops);
        }
        let clean: Vec<_> = std::iter::from_fn(|| guests.place(0).ok()).collect();
        assert!((1..=2).contains(&clean.len()), "{}", clean.len());
    }
}
