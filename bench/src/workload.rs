//! The applications: a client that PUTs and GETs, and a server that takes in and checks, and serves (`workload/server.rs`).

mod losing;
mod outstanding;
mod server;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hdrhistogram::Histogram;
use hugepages::{Backing, BackingError, PageRunMut, PageSlice};
use smallvec::smallvec;
use transport::lnd::{AppId, Data, Payload, Sink};
use transport::lnet::{Event, Op};
use transport::node::{App, Ops, Work};
use transport::wire::{Nid, ProcessId};

pub use self::losing::Losing;
use self::losing::Pace;
use self::outstanding::Outstanding;
pub use self::server::{Intake, Server};
use crate::ctl::{Ctl, Load, SAMPLE, SPARSE, Traffic, bump};

/// Portals of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portals {
    /// Of bulk PUTs.
    pub bulk: u32,
    /// Of small PUTs.
    pub small: u32,
    /// GETs are served from here: 1 MiB of [`patterned`] bytes, the first run.
    pub source: u32,
}

impl Default for Portals {
    /// Those of every node that serves all comers.
    fn default() -> Portals {
        Portals { bulk: 40, small: 41, source: 42 }
    }
}

impl Portals {
    /// Portals that lcore `me` of a node of `lcores`, 16 at most, owns: their numbers modulo lcores are its own.
    pub fn owned_by(me: u16, lcores: u16) -> Portals {
        let [bulk, small, source] = [1, 2, 3].map(|n| u32::from(n * lcores + me));
        Portals { bulk, small, source }
    }
}

/// Match bits of all entries.
pub const MATCH: u64 = 0x706f_6c6c_6e64;
/// Payload of a small PUT, in bytes.
pub const SMALL: usize = 64;
/// Time after an error until the next operation is begun, as long as none ends well, in ns.
pub const AGAIN: u64 = 100_000_000;
/// Error of an operation that is given up.
pub const NO_ANSWER: &str = "no answer has come";
/// Longest sleep of a client that goes on without answers, in ns.
const LOOK: u64 = 50_000_000;
/// The applications' id.
pub const APP: AppId = AppId::FIRST;

/// Sizes of the client's work.
#[derive(Clone, Copy, Debug)]
pub struct ClientConfig {
    /// Payload of a bulk operation in bytes, up to 1 MiB.
    pub bulk_len: usize,
    /// One bulk operation in so many has `tail` bytes instead: what a longer transfer ends with.
    pub pieces: u64,
    /// Payload of those in bytes, at most `bulk_len`.
    pub tail: usize,
    /// Bulk PUTs in flight.
    pub bulk_flight: u64,
    /// Small PUTs in flight in [`Traffic::Rate`].
    pub small_flight: u64,
    /// Different page runs to send from.
    pub runs: usize,
    /// The server's portals.
    pub portals: Portals,
    /// Operations to start in all; then the client comes to rest.
    pub limit: u64,
    /// New transfers are begun for so long, in ns from the first; those that were begun are ended.
    pub begin_for: Option<u64>,
    /// It goes on without answers that do not come; `None`: it waits for each.
    pub losing: Option<Losing>,
    /// Tags begin here: who takes a place over from another client has tags of its own.
    pub tags: u64,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        let bulk_len = 1 << 20;
        ClientConfig {
            bulk_len,
            pieces: 1,
            tail: bulk_len,
            bulk_flight: 8,
            small_flight: 64,
            runs: 8,
            portals: Portals::default(),
            limit: u64::MAX,
            begin_for: None,
            losing: None,
            tags: 0,
        }
    }
}

/// Pages to send, each with the CRC-32 of its bytes.
pub fn patterned(
    backing: &Arc<dyn Backing>,
    n: usize,
    len: usize,
) -> Result<Vec<(PageSlice, u32)>, BackingError> {
    (0..n)
        .map(|i| {
            let mut run = PageRunMut::new(backing.clone(), len)?;
            let mut x = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(i as u64 + 1);
            for w in run.bytes_mut().chunks_mut(8) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                w.copy_from_slice(&x.to_le_bytes()[..w.len()]);
            }
            let crc = crc32fast::hash(run.bytes());
            Ok((run.freeze().slice_all(), crc))
        })
        .collect()
}

/// The side that sends.
pub struct Client {
    cfg: ClientConfig,
    ctl: Arc<Ctl>,
    target: ProcessId,
    /// The pages of `whole`.
    pages: Vec<PageSlice>,
    /// Payloads, each with its CRC-32.
    whole: Vec<(Payload, u32)>,
    /// The same for the tails of transfers.
    tails: Vec<(Payload, u32)>,
    small: Payload,
    out: Outstanding,
    seq: u64,
    /// Start of the first operation, in ns.
    since: Option<u64>,
    was: Traffic,
    /// Since the latest operation that ended with an error none has ended well: the time at which the next is tried, in ns.
    again: Option<u64>,
    pace: Pace,
    /// In place of the configuration's sizes.
    load: Option<Load>,
    /// Answers with payload so far.
    answers: u64,
    /// Time of the next sparse message, and of the latest turn, in ns.
    next: u64,
    now: u64,
    rtt: Histogram<u64>,
}

fn crc_of(slice: &PageSlice) -> u32 {
    let mut h = crc32fast::Hasher::new();
    slice.chunks().for_each(|b| h.update(b));
    h.finalize()
}

impl Client {
    /// A client of the node `target`, sending pages from `backing`.
    ///
    /// # Errors
    /// The backing has no memory for the pages.
    pub fn new(
        cfg: ClientConfig,
        ctl: Arc<Ctl>,
        target: Nid,
        backing: &Arc<dyn Backing>,
    ) -> Result<Client, BackingError> {
        let spare = cfg.losing.map_or(0, |l| l.spare);
        let max = cfg.bulk_flight.max(cfg.small_flight).max(1) + spare;
        let (mut pages, mut whole, mut tails) = (Vec::new(), Vec::new(), Vec::new());
        if cfg.bulk_len == 0 {
            whole.push((Payload::empty(), crc32fast::hash(&[])));
        } else {
            for (slice, crc) in patterned(backing, cfg.runs.max(1), cfg.bulk_len)? {
                if cfg.pieces > 1
                    && let Some(tail) = slice.slice(0, cfg.tail as u32)
                {
                    let crc = crc_of(&tail);
                    tails.push((Payload::Pages(smallvec![tail]), crc));
                }
                pages.push(slice.clone());
                whole.push((Payload::Pages(smallvec![slice]), crc));
            }
        }
        Ok(Client {
            pages,
            whole,
            tails,
            small: Payload::inline(&[0x5a; SMALL]).unwrap_or_else(Payload::empty),
            out: Outstanding::new(max, cfg.tags),
            seq: 0,
            since: None,
            was: Traffic::Quiet,
            again: None,
            pace: Pace::default(),
            load: None,
            answers: 0,
            next: 0,
            now: 0,
            rtt: new_histogram(),
            target: ProcessId::lustre(target),
            cfg,
            ctl,
        })
    }

    /// Takes another load over, with nothing outstanding.
    fn take(&mut self, load: Load) {
        let shorter = |p: &PageSlice| {
            let part = p.slice(0, load.len as u32)?;
            let crc = crc_of(&part);
            Some((Payload::Pages(smallvec![part]), crc))
        };
        self.whole = self.pages.iter().filter_map(shorter).collect();
        if load.len == 0 || self.whole.is_empty() {
            self.whole = vec![(Payload::empty(), crc32fast::hash(&[]))];
        }
        if self.out.room() < load.flight as usize {
            self.out = Outstanding::new(load.flight, self.cfg.tags);
        }
        (self.cfg.bulk_len, self.cfg.pieces, self.cfg.bulk_flight) = (load.len, 1, load.flight);
        self.load = Some(load);
    }

    /// Whether the time of each operation under way is recorded.
    fn times(&self) -> bool {
        self.was.is_timed() || self.load.is_some() && self.was != Traffic::Quiet
    }

    fn ended(&mut self, now: u64, tag: u64, ok: Result<(), String>) {
        let Some(op) = self.out.end(tag) else {
            bump(&self.ctl.twice, 1);
            return;
        };
        if ok.is_ok()
            && let Some(losing) = self.cfg.losing
        {
            losing.ended(&mut self.pace, now, op.awaited.then(|| now.saturating_sub(op.since)));
            self.again = None;
        }
        if op.given_up {
            return;
        }
        self.ctl.last_ns.store(now, Ordering::Relaxed);
        match ok {
            Ok(()) => {
                self.again = None;
                // In this order: who sees the count finds the bytes.
                bump(&self.ctl.moved, op.bytes);
                bump(&self.ctl.completed, 1);
                if self.times() {
                    self.rtt.saturating_record(now.saturating_sub(op.since).max(1));
                }
            }
            Err(e) => {
                self.again = Some(now + AGAIN);
                self.lose(e);
            }
        }
    }

    fn lose(&self, e: String) {
        // In this order: who sees the count finds the error.
        self.ctl.lose(e);
        bump(&self.ctl.failed, 1);
    }

    /// Counts operations as lost that may be, and have begun by then, in ns.
    fn give_up(&mut self, by: u64) {
        (0..self.out.give_up(by)).for_each(|_| self.lose(NO_ANSWER.to_owned()));
    }

    /// Looks whether answers come.
    fn look(&mut self, now: u64, losing: Losing) {
        if self.out.awaited() > 0 && losing.doubts(&self.pace, now) {
            self.out.doubt();
            self.again = self.again.or(Some(now));
        }
        if self.out.doubtful() > 0
            // While none ends well whoever follows the transfer decides, unless no other can be asked with.
            && (self.again.is_none() || self.seq >= self.cfg.limit)
            && let Some(by) = losing.given_up(&self.pace, now)
        {
            self.give_up(by);
        }
        let Some(end) = self.ends_begin().filter(|_| self.is_over(now)) else { return };
        if self.out.awaited() == 0 || losing.is_past(&self.pace, now, end) {
            self.out.doubt();
            self.give_up(u64::MAX);
        }
    }

    /// Tags of the operations that have not ended.
    pub fn outstanding(&self) -> impl Iterator<Item = u64> + '_ {
        self.out.tags()
    }

    /// Whether the next operation is the tail of a transfer.
    fn at_tail(&self) -> bool {
        self.cfg.pieces > 1 && self.seq % self.cfg.pieces == self.cfg.pieces - 1
    }

    /// Whether nothing more is to be begun: the number is reached, or the time is over and no transfer is half begun.
    fn is_over(&self, now: u64) -> bool {
        let late = self.ends_begin().is_some_and(|end| now >= end);
        let whole = self.seq.is_multiple_of(self.cfg.pieces.max(1));
        // A transfer is not whole without what is lost.
        let broken = self.cfg.losing.is_some() && self.again.is_some();
        self.seq >= self.cfg.limit || (late && (whole || broken))
    }

    /// Time from which none is begun, in ns.
    fn ends_begin(&self) -> Option<u64> {
        self.cfg.begin_for.zip(self.since).map(|(ns, t)| t.saturating_add(ns))
    }

    /// Payload of the next bulk operation, in bytes.
    fn next_len(&self) -> usize {
        if self.at_tail() { self.cfg.tail } else { self.cfg.bulk_len }
    }

    fn begin(&mut self, now: u64, bytes: usize) -> Option<u64> {
        if self.seq >= self.cfg.limit {
            return None;
        }
        let alone = self.out.awaited() == 0;
        let tag = self.out.start(now, bytes as u64)?;
        if let Some(losing) = self.cfg.losing.filter(|_| alone) {
            losing.begun(&mut self.pace, now);
        }
        if self.since.is_none() {
            self.since = Some(now);
            self.ctl.first_ns.store(now, Ordering::Relaxed);
        }
        self.seq += 1;
        bump(&self.ctl.started, 1);
        Some(tag)
    }

    /// CRC-32 of the first `n` bytes that a [`Server`] serves: the pattern of a run does not depend on its length, so the
    /// server's first run begins like ours.
    fn source_crc(&self, n: u64) -> u32 {
        let of = |v: &[(Payload, u32)]| v.first().filter(|(p, _)| p.len() == n).map(|(_, crc)| *crc);
        of(&self.whole).or_else(|| of(&self.tails)).unwrap_or(0)
    }

    fn get(&mut self, now: u64, ops: &mut Ops) {
        let len = self.next_len();
        let Some(tag) = self.begin(now, len) else { return };
        let sink = Sink::Lend(len as u32);
        let (target, portal) = (self.target, self.cfg.portals.source);
        ops.push_back((APP, Op::Get { tag, target, from: None, portal, match_bits: MATCH, sink }));
    }

    fn ping(&mut self, now: u64, ops: &mut Ops) {
        let Some(tag) = self.begin(now, 0) else { return };
        ops.push_back((APP, Op::Ping { tag, target: self.target }));
    }

    fn put(&mut self, now: u64, ops: &mut Ops, bulk: bool, checked: bool) {
        let (tail, len) = (self.at_tail(), if bulk { self.next_len() } else { 0 });
        let Some(tag) = self.begin(now, len) else { return };
        let (portal, payload, hdr_data) = if bulk {
            let from = if tail { &self.tails } else { &self.whole };
            let (payload, crc) = &from[(self.seq % from.len() as u64) as usize];
            let check = checked || self.seq.is_multiple_of(SAMPLE);
            (self.cfg.portals.bulk, payload.clone(), u64::from(*crc) | u64::from(check) << 32)
        } else {
            (self.cfg.portals.small, self.small.clone(), 0)
        };
        let target = self.target;
        let op = Op::Put {
            tag,
            target,
            from: None,
            portal,
            match_bits: MATCH,
            offset: 0,
            hdr_data,
            payload,
            ack: true,
        };
        ops.push_back((APP, op));
    }
}

fn new_histogram() -> Histogram<u64> {
    // 1 ns to 100 s, three digits: the bounds are constants that the constructor accepts.
    Histogram::new_with_bounds(1, 100_000_000_000, 3).unwrap_or_else(|_| unreachable!("histogram bounds"))
}

impl App for Client {
    fn patience(&self) -> Option<u64> {
        if self.was == Traffic::Quiet {
            return None;
        }
        if self.out.count() > 0 {
            return self.cfg.losing.map(|_| LOOK);
        }
        // An order is seen as soon as one that polls sees it; sparse messages, and those after an error, are begun in their time.
        let sparse = (self.was == Traffic::Sparse).then_some(self.next);
        [sparse, self.again].into_iter().flatten().max().map(|t| t.saturating_sub(self.now))
    }

    fn turn(&mut self, now: u64, ops: &mut Ops) -> Work {
        self.now = now;
        let traffic = self.ctl.traffic();
        if traffic != self.was {
            // New traffic starts when the old has come to rest, so that each kind has its own figures.
            if self.out.count() > 0 {
                return Work::Idle;
            }
            if self.times()
                && let Ok(mut r) = self.ctl.rtt.lock()
            {
                *r = Some(std::mem::replace(&mut self.rtt, new_histogram()));
            }
            self.was = traffic;
            if let Some(load) = self.ctl.load.lock().ok().and_then(|l| *l) {
                self.take(load);
            }
        }
        let flight = match traffic {
            Traffic::Quiet => {
                if self.out.count() == 0 {
                    self.ctl.quiet.store(true, Ordering::Release);
                }
                return Work::Idle;
            }
            Traffic::Sparse if now < self.next => 0,
            Traffic::Ping => self.load.map_or(1, |l| l.flight),
            Traffic::Rtt | Traffic::Sparse => 1,
            Traffic::Bulk | Traffic::BulkChecked | Traffic::Get | Traffic::Mixed => self.cfg.bulk_flight,
            Traffic::Rate => self.cfg.small_flight,
        };
        if let Some(losing) = self.cfg.losing {
            self.look(now, losing);
        }
        let flight = match self.again {
            Some(t) if now < t => 0,
            // One asks whether the peer is there again.
            Some(_) => flight.min(1),
            None => flight,
        };
        let mut n = 0;
        while self.out.awaited() < flight && self.out.has_room() && !self.is_over(now) {
            n += 1;
            self.next = now + SPARSE;
            match traffic {
                Traffic::Ping => self.ping(now, ops),
                Traffic::Get => self.get(now, ops),
                Traffic::Bulk => self.put(now, ops, true, false),
                Traffic::BulkChecked => self.put(now, ops, true, true),
                Traffic::Mixed if self.seq.is_multiple_of(16) => self.ping(now, ops),
                Traffic::Mixed => self.put(now, ops, self.seq.is_multiple_of(4), self.seq % SAMPLE == 4),
                _ => self.put(now, ops, false, false),
            }
        }
        if self.is_over(now) && self.out.count() == 0 {
            self.ctl.done.store(true, Ordering::Release);
            self.ctl.quiet.store(true, Ordering::Release);
        }
        Work::of(n)
    }

    fn event(&mut self, now: u64, _: AppId, ev: Event, _: &mut Ops) {
        match ev {
            Event::Reply { tag, status, data, .. } => {
                if status.is_ok() {
                    self.answers += 1;
                    let checked = self.load.is_none() || self.answers.is_multiple_of(SAMPLE);
                    let mut h = crc32fast::Hasher::new();
                    let mut n = 0;
                    if let Data::Lent(pieces) = &data {
                        if checked {
                            pieces.iter().for_each(|p| h.update(p.bytes()));
                        }
                        n = pieces.iter().map(|p| p.bytes().len() as u64).sum();
                    }
                    // Bytes first: whoever sees the message sees them.
                    bump(&self.ctl.bytes, n);
                    bump(&self.ctl.arrived, 1);
                    let good =
                        self.out.asked(tag) == Some(n) && (!checked || h.finalize() == self.source_crc(n));
                    if checked || !good {
                        bump(if good { &self.ctl.crc_good } else { &self.ctl.crc_bad }, 1);
                    }
                }
                self.ended(now, tag, status.map_err(|e| e.to_string()));
            }
            Event::Ack { tag, status, done: true, .. } => {
                self.ended(now, tag, status.map_err(|e| e.to_string()))
            }
            Event::Send { tag, status, done: true } => {
                self.ended(now, tag, status.map_err(|e| e.to_string()))
            }
            Event::Ping { tag, info, .. } => self.ended(now, tag, info.map(drop).map_err(|e| e.to_string())),
            Event::Refused { tag, why } => self.ended(now, tag, Err(why.to_string())),
            Event::Ack { status: Err(e), .. } | Event::Send { status: Err(e), .. } => {
                self.ctl.fail(e.to_string())
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "workload/workload_tests.rs"]
mod tests;
