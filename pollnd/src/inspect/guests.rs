//! Commands through a running node: `ping`, `put` and `get` of other processes use its connections.
//!
//! A node has a few seats beside its own application. The thread that serves an asker takes one, and is then an application
//! of the node like any other, behind rings. It leaves when its asker has gone, whatever is out.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bench::ctl::Ctl;
use bench::workload::Client;
use rustix::net::{RecvFlags, recv};
use serde_json::{Value, json};
use transport::lnd::AppId;
use transport::lnet::Op;
use transport::node::inspect::Inspection;
use transport::node::{App, Handle, Ops};
use transport::wire::{Nid, ProcessId};

use super::failure::Failure;
use super::seats::{Again, DEPTH, GuestSeat, NAP, Owed, Pong, TAGS, Taken, one_ping, settle};
use super::shared::{Shared, say};
use crate::job::{Follow, Job, Moved, SPARE, Step};

/// Longest wait for what a peer has said to be known.
const HEARING: Duration = Duration::from_secs(1);
/// Interval at which a guest looks whether its asker is still there.
pub(super) const GLANCE: Duration = Duration::from_millis(20);

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

/// A seat for a guest that has `ops` operations out at a time to `to`, and where its tags begin.
fn seat(shared: &Shared, ops: usize, to: Nid) -> Result<(Taken<'_>, u64), String> {
    let guests = shared.guests.as_deref().ok_or_else(|| shared.no_guests())?;
    let config = shared.front.config(0).map_err(|e| e.to_string())?;
    let taken =
        guests.take(ops, Some(to)).map_err(|n| n.text(Duration::from_nanos(config.transaction_timeout)))?;
    // Nobody else's: what is owed to the seat is told apart from what is its own.
    Ok((taken, shared.serial.fetch_add(1, Ordering::Relaxed) * TAGS))
}

/// Serves one ping; it ends early when its asker has gone.
pub(super) fn ping(
    s: &UnixStream,
    shared: &Shared,
    target: &str,
    timeout: f64,
    discover: Option<Again>,
) -> Result<Pong, Failure> {
    let nid = shared.target(target)?;
    let patience = seconds(timeout)?;
    let (mut taken, tag) = seat(shared, 1, nid)?;
    let GuestSeat { seat, owed } = taken.seat.as_mut().ok_or("no seat")?;
    let handle = seat.take();
    let glance = Cell::new(Instant::now());
    let stopped = || {
        let due = glance.get().elapsed() > GLANCE;
        if due {
            glance.set(Instant::now());
        }
        shared.stop.load(Ordering::SeqCst) || (due && gone(s))
    };
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
        let copied =
            [("tx_copied_bytes", c.streams.tx_copied_bytes), ("rx_copied_bytes", c.proto.rx_copied_bytes)];
        for (k, v) in copied.into_iter().chain(c.streams.retransmits.map(|n| ("retransmits", n))) {
            *sum.entry(k).or_insert(0) += v;
        }
    }
    sum
}

/// The client of a transfer, on this thread.
struct Pump<'a> {
    client: Client,
    handle: &'a Handle,
    /// Operations that those before it have left.
    owed: &'a mut Vec<Owed>,
    /// The node that it sends to or asks, and the bytes of a message.
    to: Nid,
    bytes: u64,
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
            if !settle(self.owed, &ev) {
                self.client.event(now, AppId::FIRST, ev, &mut self.ops);
            }
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

    /// Leaves, whatever is out.
    fn leave(self) {
        // These have never gone out.
        let tag = |op: &Op| match op {
            Op::Put { tag, .. } | Op::Get { tag, .. } => Some(*tag),
            _ => None,
        };
        let kept: Vec<u64> = self.ops.iter().filter_map(|(_, op)| tag(op)).collect();
        let left = self.client.outstanding().filter(|t| !kept.contains(t));
        self.owed.extend(left.map(|tag| Owed { tag, to: self.to, bytes: self.bytes }));
    }
}

/// Serves one transfer: a row for each thing that is to be told, then what was moved. The error is what the asker is told in place of
/// that.
pub(super) fn bulk(s: &mut UnixStream, shared: &Shared, job: &Job) -> io::Result<Result<Value, Value>> {
    let refused = |e: String| Ok(Err(json!({ "error": e })));
    let (nid, config) = match (shared.target(&job.target), shared.front.config(0)) {
        (Ok(n), Ok(c)) => (n, c),
        (Err(e), _) => return refused(e),
        (_, Err(e)) => return refused(e.to_string()),
    };
    let flight = config.peer_credits.min(DEPTH as u32 / 2);
    let (mut taken, tags) = match seat(shared, flight as usize, nid) {
        Ok(t) => t,
        Err(e) => return refused(e),
    };
    let backing = shared.guests.as_deref().and_then(|g| g.backing.get());
    let (Some(GuestSeat { seat, owed }), Some(backing)) = (&mut taken.seat, backing) else {
        return refused(shared.no_guests());
    };
    let ctl = Arc::new(Ctl::default());
    // Operations that others left have their place, too, and so have commands to come, should this one be killed.
    let spare = SPARE.min((DEPTH / 4 * 3).saturating_sub(flight as usize + owed.len()));
    let cfg = job.client(flight, spare as u64, tags);
    let bytes = cfg.bulk_len as u64;
    let client = match Client::new(cfg, ctl.clone(), nid, backing) {
        Ok(c) => c,
        Err(e) => return refused(e.to_string()),
    };
    let handle = seat.take();
    let before = counts(&shared.front);
    let (ops, begun) = (Ops::new(), Instant::now());
    let mut pump = Pump { client, handle: &handle, owed, to: nid, bytes, ops, begun };
    let mut follow = Follow::new(job, ctl);
    // An asker that has gone altogether, and one that only says no more, are the same to the transfer: it ends.
    let (mut glance, mut left, mut broken) = (Instant::now(), false, None);
    let outcome = loop {
        let busy = pump.turn();
        let stop = shared.stop.load(Ordering::SeqCst);
        if glance.elapsed() > GLANCE {
            glance = Instant::now();
            left |= gone(s);
        }
        match follow.step(stop || left || broken.is_some(), &shared.front, nid) {
            Step::On if !busy => dataplane::clock::pause(NAP),
            Step::On => {}
            Step::Tell(t) => broken = say(s, &json!(t)).err().or(broken),
            Step::End(ended) => break ended,
        }
    };
    // Before the lcores are asked: that may take one that sleeps a while, which is not the transfer's.
    let so_far = follow.moved();
    pump.leave();
    drop(handle);
    drop(taken);
    let after = counts(&shared.front);
    let grown = |k: &str| after.get(k).map(|n| n.saturating_sub(before.get(k).copied().unwrap_or(0)));
    let of = |k: &str| grown(k).unwrap_or(0);
    let moved = Moved {
        tx_copied_bytes: of("tx_copied_bytes"),
        rx_copied_bytes: of("rx_copied_bytes"),
        retransmits: grown("retransmits"),
        ..so_far
    };
    match (broken, outcome) {
        (Some(e), _) => Err(e),
        (None, Ok(())) => Ok(Ok(json!(moved))),
        (None, Err(e)) => Ok(Err(json!({ "error": job.failure(&moved, &e), "moved": moved }))),
    }
}
