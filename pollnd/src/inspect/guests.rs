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
use transport::node::desk::Front;
use transport::node::{App, Handle, Ops, Seat};
use transport::proto::{AppId, Event, Op};
use transport::wire::{Nid, ProcessId};

use super::server::{Shared, say};
use crate::bulk::{Follow, Job, Look, Moved};
use crate::ping::Pong;
use crate::why;

/// Seats of a node.
const SEATS: u16 = 5;
/// Operations and events of a seat.
pub(crate) const DEPTH: usize = 64;
/// Tags of pings begin here, beyond those of bulk.
const PINGS: u64 = 1 << 40;
/// How long a guest sleeps when there is nothing to do.
const NAP: Duration = Duration::from_micros(50);
/// How often a guest looks whether its asker is still there.
const GLANCE: Duration = Duration::from_millis(20);

/// The seats of a node, and memory for what is sent from them.
#[derive(Default)]
pub(crate) struct Guests {
    seats: Mutex<Vec<Seat>>,
    backing: OnceLock<Arc<dyn Backing>>,
}

/// A seat that is taken; it is free again when this goes.
struct Place<'a> {
    guests: &'a Guests,
    seat: Option<Seat>,
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
        *self.seats() = seats;
        let _ = self.backing.set(backing.clone());
    }

    fn seats(&self) -> std::sync::MutexGuard<'_, Vec<Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self) -> Result<Place<'_>, String> {
        match self.seats().pop() {
            Some(seat) => Ok(Place { guests: self, seat: Some(seat) }),
            None => {
                Err(format!("{SEATS} other commands go through this node now: try again when one has ended"))
            }
        }
    }
}

/// Pings `peers` once each and hears them all out: they learn that the node is a new one.
pub(crate) fn greet(guests: &Guests, peers: &[Nid], stop: impl Fn() -> bool) {
    let Ok(mut place) = guests.place() else { return };
    let Some(seat) = &mut place.seat else { return };
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
    tracing::info!("of {} peers from before the restart {good} have answered", peers.len());
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
    let nid: Nid = target.parse().map_err(|e| format!("{e}"))?;
    let guests = shared.guests.as_deref().ok_or_else(|| shared.no_guests())?;
    let mut place = guests.place()?;
    let seat = place.seat.as_mut().ok_or("no seat")?;
    let handle = seat.take();
    let tag = PINGS + shared.serial.fetch_add(1, Ordering::Relaxed);
    let pong =
        one_ping(&handle, &shared.front, nid, tag, seconds(timeout)?, || shared.stop.load(Ordering::SeqCst))?;
    serde_json::to_value(pong).map_err(|e| e.to_string())
}

/// Pings `nid` and waits for its answer, or the reason why there is none.
///
/// # Errors
/// The reason.
pub(crate) fn one_ping(
    handle: &Handle,
    front: &Front,
    nid: Nid,
    tag: u64,
    timeout: Duration,
    stopped: impl Fn() -> bool,
) -> Result<Pong, String> {
    handle.submit(Op::Ping { tag, target: ProcessId::lustre(nid) }).map_err(|e| e.to_string())?;
    let end = Instant::now() + timeout;
    loop {
        match handle.event() {
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
    let (mut place, config) = match (guests.place(), shared.front.config(0)) {
        (Ok(p), Ok(c)) => (p, c),
        (Err(e), _) => return refused(e),
        (_, Err(e)) => return refused(e.to_string()),
    };
    let (Some(seat), Some(backing)) = (&mut place.seat, guests.backing.get()) else {
        return refused(shared.no_guests());
    };
    let nid: Nid = match job.target.parse() {
        Ok(n) => n,
        Err(e) => return refused(format!("{e}")),
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
    let (mut glance, mut broken) = (Instant::now(), None);
    let outcome = loop {
        let busy = pump.turn();
        let stop = shared.stop.load(Ordering::SeqCst);
        if glance.elapsed() > GLANCE {
            glance = Instant::now();
            if gone(s) {
                broken = Some(io::Error::from(ErrorKind::BrokenPipe));
            }
        }
        match follow.look(stop || broken.is_some()) {
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
