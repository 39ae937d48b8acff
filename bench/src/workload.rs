//! The applications: a client that PUTs and GETs, and a server that takes in and checks, and serves (`workload/server.rs`).

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
        let max = cfg.bulk_flight.max(cfg.small_flight).max(1);
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
        let Some((t0, bytes)) = self.out.end(tag) else {
            bump(&self.ctl.twice, 1);
            return;
        };
        self.ctl.last_ns.store(now, Ordering::Relaxed);
        match ok {
            Ok(()) => {
                self.again = None;
                // In this order: who sees the count finds the bytes.
                bump(&self.ctl.moved, bytes);
                bump(&self.ctl.completed, 1);
                if self.times() {
                    self.rtt.saturating_record(now.saturating_sub(t0).max(1));
                }
            }
            Err(e) => {
                self.again = Some(now + AGAIN);
                // In this order: who sees the count finds the error.
                self.ctl.lose(e);
                bump(&self.ctl.failed, 1);
            }
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
        let late = self.cfg.begin_for.zip(self.since).is_some_and(|(ns, t)| now.saturating_sub(t) >= ns);
        self.seq >= self.cfg.limit || (late && self.seq.is_multiple_of(self.cfg.pieces.max(1)))
    }

    /// Payload of the next bulk operation, in bytes.
    fn next_len(&self) -> usize {
        if self.at_tail() { self.cfg.tail } else { self.cfg.bulk_len }
    }

    fn begin(&mut self, now: u64, bytes: usize) -> Option<u64> {
        if self.seq >= self.cfg.limit {
            return None;
        }
        let tag = self.out.start(now, bytes as u64)?;
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
        if self.out.count() > 0 || self.was == Traffic::Quiet {
            return None;
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
        let flight = match self.again {
            Some(t) if now < t => 0,
            // One asks whether the peer is there again.
            Some(_) => flight.min(1),
            None => flight,
        };
        let mut n = 0;
        while self.out.count() < flight && !self.is_over(now) {
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
mod tests {
    use std::collections::HashSet;

    use hugepages::PrivatePages;
    use transport::lnd::{LnetError, Shards};
    use transport::wire::lnet;

    use super::*;

    fn client(cfg: ClientConfig, ctl: &Arc<Ctl>) -> Client {
        let backing: Arc<dyn Backing> = Arc::new(PrivatePages);
        Client::new(cfg, ctl.clone(), Nid::LO, &backing).unwrap()
    }

    /// Transfers that a turn at `now` begins, each ended a microsecond later.
    fn turn(c: &mut Client, now: u64) -> usize {
        let mut ops = Ops::new();
        c.turn(now, &mut ops);
        let tags: Vec<u64> = ops
            .iter()
            .filter_map(|(_, op)| if let Op::Put { tag, .. } = op { Some(*tag) } else { None })
            .collect();
        for tag in &tags {
            let ack = Event::Ack { tag: *tag, status: Ok(()), mlength: 0, done: true };
            c.event(now + 1000, APP, ack, &mut Ops::new());
        }
        tags.len()
    }

    #[test]
    fn each_lcore_owns_portals_that_no_other_has() {
        for lcores in 1..=16 {
            let all = (0..lcores).flat_map(|me| {
                let Portals { bulk, small, source } = Portals::owned_by(me, lcores);
                let owner = |p: u32| Shards::new(me, lcores).unwrap().owner_of(p).0;
                assert_eq!([bulk, small, source].map(owner), [me; 3], "of {lcores}");
                [bulk, small, source]
            });
            let all: HashSet<u32> = all.filter(|p| (1..lnet::PORTALS).contains(p)).collect();
            assert_eq!(all.len(), 3 * usize::from(lcores));
        }
    }

    /// Field report 21: when the time is over no transfer is begun, and the one that is half begun is ended.
    #[test]
    fn no_transfer_is_begun_when_the_time_is_over() {
        let ctl = Arc::new(Ctl::default());
        let cfg = ClientConfig {
            bulk_len: 64,
            pieces: 3,
            tail: 8,
            bulk_flight: 2,
            begin_for: Some(10_000),
            ..ClientConfig::default()
        };
        let mut c = client(cfg, &ctl);
        assert_eq!(turn(&mut c, 500), 0, "nothing is asked for yet");
        ctl.set_traffic(Traffic::BulkChecked);
        // The time begins with the first, however long it took to come to it.
        let begun: Vec<usize> = [1_000_000, 1_009_999, 1_010_000, 1_010_001].map(|t| turn(&mut c, t)).into();
        assert_eq!(
            (begun, ctl.done.load(Ordering::Relaxed)),
            (vec![2, 2, 2, 0], true),
            "two transfers of three"
        );
        assert_eq!(ctl.completed.load(Ordering::Relaxed), 6);
    }

    /// A peer that has gone is asked again, one message at a time, and not as fast as it can be refused.
    #[test]
    fn after_an_error_one_at_a_time_asks_until_one_ends_well() {
        let ctl = Arc::new(Ctl::default());
        let cfg =
            ClientConfig { bulk_len: 64, bulk_flight: 3, limit: 9, tags: 700, ..ClientConfig::default() };
        let mut c = client(cfg, &ctl);
        ctl.set_traffic(Traffic::BulkChecked);
        let mut ops = Ops::new();
        let mut begun = |c: &mut Client, now| {
            c.turn(now, &mut ops);
            std::mem::take(&mut ops).len()
        };
        let end = |c: &mut Client, now, tag, status: Result<(), LnetError>| {
            c.event(now, APP, Event::Ack { tag, status, mlength: 0, done: true }, &mut Ops::new());
        };
        assert_eq!(begun(&mut c, 0), 3);
        assert_eq!(c.outstanding().collect::<Vec<_>>(), [700, 701, 702]);
        end(&mut c, 1, 700, Ok(()));
        for tag in [701, 702] {
            end(&mut c, 2, tag, Err(LnetError::NoNi));
        }
        assert_eq!((begun(&mut c, 3), c.patience()), (0, Some(AGAIN - 1)));
        assert_eq!((begun(&mut c, 2 + AGAIN), begun(&mut c, 3 + AGAIN)), (1, 0));
        let again = c.outstanding().next().unwrap();
        end(&mut c, 4 + AGAIN, again, Err(LnetError::Unreachable));
        assert_eq!((begun(&mut c, 5 + AGAIN), begun(&mut c, 4 + 2 * AGAIN)), (0, 1));
        let again = c.outstanding().next().unwrap();
        end(&mut c, 5 + 2 * AGAIN, again, Ok(()));
        assert_eq!(begun(&mut c, 6 + 2 * AGAIN), 3, "as before");
        // Foreign tags are none of its.
        end(&mut c, 7 + 2 * AGAIN, 0, Ok(()));
        assert_eq!(ctl.twice.load(Ordering::Relaxed), 1);
        // Those that failed are among the nine.
        let tags: Vec<u64> = c.outstanding().collect();
        tags.into_iter().for_each(|tag| end(&mut c, 8 + 2 * AGAIN, tag, Ok(())));
        assert_eq!((begun(&mut c, 9 + 2 * AGAIN), ctl.done.load(Ordering::Relaxed)), (1, false));
        let last = c.outstanding().next().unwrap();
        end(&mut c, 10 + 2 * AGAIN, last, Ok(()));
        assert_eq!((begun(&mut c, 11 + 2 * AGAIN), ctl.done.load(Ordering::Relaxed)), (0, true));
        let lost = [(LnetError::NoNi, 2), (LnetError::Unreachable, 1)].map(|(e, n)| (e.to_string(), n));
        assert_eq!((ctl.completed.load(Ordering::Relaxed), ctl.losses()), (6, lost.into()));
    }

    /// Field report 21: an lcore that was asleep when it was told to begin, and who looks at it later, add nothing.
    #[test]
    fn a_transfer_takes_from_its_first_beginning_to_its_last_end() {
        let ctl = Arc::new(Ctl::default());
        let mut c =
            client(ClientConfig { bulk_len: 1, bulk_flight: 1, limit: 2, ..ClientConfig::default() }, &ctl);
        ctl.set_traffic(Traffic::BulkChecked);
        for now in [90_000_000, 90_002_000, 190_000_000] {
            turn(&mut c, now);
        }
        assert_eq!(ctl.span().as_nanos(), 3000);
        assert!(ctl.done.load(Ordering::Relaxed));
    }
}
