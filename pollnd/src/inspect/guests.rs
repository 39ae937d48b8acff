//! Commands through a running node: `ping`, `put` and `get` of other processes use its connections.
//!
//! A node has a few seats beside its own application. The thread that serves an asker takes one, and is then an application
//! of the node like any other, behind rings.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bench::ctl::{Ctl, Traffic};
use bench::workload::Client;
use rustix::net::{RecvFlags, recv};
use serde_json::{Value, json};
use transport::lnd::AppId;
use transport::lnet::Op;
use transport::node::inspect::Inspection;
use transport::node::{App, Handle, Ops};
use transport::wire::{Nid, ProcessId};

use super::failure::Failure;
use super::seats::{Again, DEPTH, GuestSeat, NAP, OWED_MAX, PINGS, Pong, one_ping};
use super::shared::{Shared, say};
use crate::job::{Follow, Job, Moved, Step};
use crate::why;

/// Longest wait for what a peer has said to be known.
const HEARING: Duration = Duration::from_secs(1);
/// Interval at which a guest looks whether its asker is still there.
pub(super) const GLANCE: Duration = Duration::from_millis(20);

type Outcome = Result<Value, String>;

/// Whether the asker has gone.
pub(super) fn gone(s: &UnixStream) -> bool {
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
pub(super) fn ping(
    shared: &Shared,
    target: &str,
    timeout: f64,
    discover: Option<Again>,
) -> Result<Pong, Failure> {
    let nid = shared.target(target)?;
    let guests = shared.guests.as_deref().ok_or_else(|| shared.no_guests())?;
    let patience = seconds(timeout)?;
    let mut taken = guests.take(OWED_MAX)?;
    let GuestSeat { seat, owed } = taken.seat.as_mut().ok_or("no seat")?;
    let handle = seat.take();
    let tag = PINGS + shared.serial.fetch_add(1, Ordering::Relaxed);
    let stopped = || shared.stop.load(Ordering::SeqCst);
    let target = ProcessId::lustre(nid);
    let op = match discover {
        None => Op::Ping { tag, target },
        Some(again) => Op::Discover { tag, target, force: again == Again::Anew },
    };
    let pong = one_ping(&handle, &shared.front, op, patience, owed, stopped)?;
    if discover.is_some() {
        // The node hears its own answer a moment later.
        let until = Instant::now() + HEARING;
        while !known(&shared.front, nid)? && Instant::now() < until {
            dataplane::clock::pause(NAP);
        }
    }
    Ok(pong)
}

/// Whether a peer, if it is one, has said who it is.
fn known(front: &Inspection, nid: Nid) -> Result<bool, Failure> {
    let mut found = None;
    let looked = front.peer_figures(|f| {
        if f.id.nid == nid {
            found = Some(f.features != 0);
        }
        found.is_none()
    });
    looked.map_err(|e| e.to_string())?;
    Ok(found.unwrap_or(true))
}

/// Counters of a node's lcores so far, those that a transfer is told about.
fn counts(front: &Inspection) -> BTreeMap<&'static str, u64> {
    let mut sum = BTreeMap::new();
    for lcore in 0..front.lcores() {
        let Ok(c) = front.counts(lcore) else { continue };
        for (k, v) in [
            ("tx_copied_bytes", c.streams.tx_copied_bytes),
            ("rx_copied_bytes", c.proto.rx_copied_bytes),
            ("retransmits", c.streams.retransmits),
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
    let (mut taken, config) = match (guests.take(0), shared.front.config(0)) {
        (Ok(p), Ok(c)) => (p, c),
        (Err(e), _) => return refused(e),
        (_, Err(e)) => return refused(e.to_string()),
    };
    let (Some(GuestSeat { seat, .. }), Some(backing)) = (&mut taken.seat, guests.backing.get()) else {
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
        match follow.step(stop || left || broken.is_some()) {
            Step::On if !busy => dataplane::clock::pause(NAP),
            Step::On => {}
            Step::Beat(b) => broken = say(s, &json!(b)).err().or(broken),
            Step::Silent(t) => break Err(why::silent(&shared.front, nid, t)),
            Step::End(Ok(())) => break Ok(()),
            Step::End(Err(e)) => break Err(why::failed(&shared.front, nid, e)),
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
            let _ = say(s, &json!({ "error": e, "moved": moved }));
        }
        let _ = s.shutdown(std::net::Shutdown::Both);
    }
    ctl.set_traffic(Traffic::Quiet);
    while ctl.outstanding() > 0 && !shared.stop.load(Ordering::SeqCst) {
        if !pump.turn() {
            dataplane::clock::pause(Duration::from_millis(1));
        }
    }
    told
}
