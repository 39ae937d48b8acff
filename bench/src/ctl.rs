//! Orders of the controlling thread to the applications on the lcores, and their counts.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hdrhistogram::Histogram;

/// The client node's present task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Traffic {
    /// Nothing; everything started before comes to its end.
    Quiet = 0,
    /// One LNet ping after the other.
    Ping = 1,
    /// Large PUTs, several at a time; each message's checksum is verified.
    BulkChecked = 2,
    /// Large PUTs, several at a time; one in [`SAMPLE`] is verified.
    Bulk = 3,
    /// Small PUTs with ACK, one at a time.
    Rtt = 4,
    /// Small PUTs with ACK, several at a time.
    Rate = 5,
    /// Large GETs, several at a time; each answer's checksum is verified by the client.
    Get = 6,
    /// Small PUTs, one operation in four a large PUT, one in sixteen an LNet ping; several at a time.
    Mixed = 7,
    /// Small PUTs with ACK, one every 5 ms ([`SPARSE`]).
    Sparse = 8,
}

/// Time between two messages of [`Traffic::Sparse`], in ns.
pub const SPARSE: u64 = 5_000_000;

/// Kinds of errors that are told apart.
const KINDS: usize = 16;
/// Errors whose kind is not remembered.
const OTHERS: &str = "other errors";

/// In [`Traffic::Bulk`] one message in so many has its checksum verified, on every runtime alike.
pub const SAMPLE: u64 = 64;

impl Traffic {
    /// Whether each operation's time is recorded.
    pub(crate) fn is_timed(self) -> bool {
        matches!(self, Traffic::Rtt | Traffic::Ping | Traffic::Rate | Traffic::Sparse)
    }

    fn of(n: u8) -> Traffic {
        use Traffic::{Bulk, BulkChecked, Get, Mixed, Ping, Quiet, Rate, Rtt, Sparse};
        [Quiet, Ping, BulkChecked, Bulk, Rtt, Rate, Get, Mixed, Sparse]
            .into_iter()
            .find(|p| *p as u8 == n)
            .unwrap_or(Traffic::Quiet)
    }
}

/// Size and number of operations, in place of those that a client was made with; each operation's time is recorded, and one
/// bulk message in [`SAMPLE`] has its checksum verified, in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Payload of a bulk operation in bytes, up to the client's `bulk_len`.
    pub len: usize,
    /// Bulk operations, or pings, in flight.
    pub flight: u64,
}

/// Begins a cache line, and the one that is fetched with it: the other lcore's counters must not share it, or every message
/// pays for the lines that cross.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart;

/// Shared by one pair of nodes and whoever runs them. Each counter has one writer: where nodes have several lcores, a client
/// and a server on each of them share one of their own, and whoever runs the nodes asks one that leads the others ([`Ctl::leading`]).
/// Its methods are about all of them, its fields about itself.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Ctl {
    traffic: AtomicU8,
    clients: Apart,
    /// Operations started by the client.
    pub started: AtomicU64,
    /// Operations that completed well.
    pub completed: AtomicU64,
    /// Payload of those, in bytes, where it was bulk.
    pub moved: AtomicU64,
    /// Operations that completed with an error.
    pub failed: AtomicU64,
    /// Completions that nothing was waiting for; always 0.
    pub twice: AtomicU64,
    /// Start of the client's first operation, and end of its latest one, in ns of its clock; 0 before that.
    pub first_ns: AtomicU64,
    /// As `first_ns`.
    pub last_ns: AtomicU64,
    /// The client has ended all that it was to do.
    pub done: AtomicBool,
    /// The client has nothing outstanding.
    pub quiet: AtomicBool,
    servers: Apart,
    /// Messages that arrived at the server.
    pub arrived: AtomicU64,
    /// Payload bytes that arrived at the server.
    pub bytes: AtomicU64,
    /// Bulk payload bytes that were copied on receive instead of lent.
    pub bulk_copied: AtomicU64,
    /// Checksums verified at the server.
    pub crc_good: AtomicU64,
    /// Checksums that differed; always 0.
    pub crc_bad: AtomicU64,
    /// The server's match entries are attached.
    pub ready: AtomicBool,
    results: Apart,
    /// The server is another program, whose counts are not these: the client's own are what there is.
    pub far: AtomicBool,
    /// Taken over by the client when it begins other traffic.
    pub load: Mutex<Option<Load>>,
    /// Round-trip times in ns, filled when a kind of traffic ends.
    pub rtt: Mutex<Option<Histogram<u64>>>,
    /// First error, in words.
    pub error: Mutex<Option<String>>,
    /// Errors that operations ended with, and how many with each; the latest kind is the last.
    losses: Mutex<Vec<(String, u64)>>,
    /// Those that it leads.
    others: Vec<Arc<Ctl>>,
}

impl Ctl {
    /// One that leads others: orders go to all of them, counts are sums.
    pub fn leading(others: Vec<Arc<Ctl>>) -> Ctl {
        Ctl { others, ..Ctl::default() }
    }

    /// Itself, and those that it leads.
    fn all(&self) -> impl Iterator<Item = &Ctl> {
        std::iter::once(self).chain(self.others.iter().map(|c| &**c))
    }

    /// A counter, summed over all.
    pub fn sum(&self, of: impl Fn(&Ctl) -> &AtomicU64) -> u64 {
        self.all().map(|c| of(c).load(Ordering::Relaxed)).sum()
    }

    /// Changes what the clients do.
    pub fn set_traffic(&self, t: Traffic) {
        for c in self.all() {
            c.quiet.store(false, Ordering::Release);
            c.traffic.store(t as u8, Ordering::Release);
        }
    }

    /// The client's present task.
    pub fn traffic(&self) -> Traffic {
        Traffic::of(self.traffic.load(Ordering::Acquire))
    }

    /// Has the clients take another load over when they begin other traffic; `None`: the one that they were made with.
    pub fn set_load(&self, load: Option<Load>) {
        for c in self.all() {
            if let Ok(mut l) = c.load.lock() {
                *l = load;
            }
        }
    }

    /// Whether the match entries of all servers are attached.
    pub fn is_ready(&self) -> bool {
        self.all().all(|c| c.ready.load(Ordering::Acquire))
    }

    /// Whether the clients have come to rest since the traffic was set to quiet.
    pub fn is_quiet(&self) -> bool {
        self.all().all(|c| c.quiet.load(Ordering::Acquire))
    }

    /// Messages of this traffic so far, and their payload in bytes.
    pub fn counts(&self, traffic: Traffic) -> (u64, u64) {
        // Pings are answered below the server.
        if traffic == Traffic::Ping || self.far.load(Ordering::Relaxed) {
            return (self.sum(|c| &c.completed), self.sum(|c| &c.moved));
        }
        (self.sum(|c| &c.arrived), self.sum(|c| &c.bytes))
    }

    /// Operations that have not completed.
    pub fn outstanding(&self) -> u64 {
        let ended = self.sum(|c| &c.completed) + self.sum(|c| &c.failed);
        self.sum(|c| &c.started).saturating_sub(ended)
    }

    /// Round-trip times of the traffic that ended last, in ns, of all clients that have told theirs.
    pub fn trips(&self) -> Option<Histogram<u64>> {
        let each = self.all().filter_map(|c| c.rtt.lock().ok().and_then(|r| r.clone()));
        each.reduce(|mut sum, h| {
            // All are made alike, so that each has room for the other's values.
            let _ = sum.add(&h);
            sum
        })
    }

    /// From the beginning of the first operation to the end of the latest one.
    pub fn span(&self) -> Duration {
        let [from, to] = [&self.first_ns, &self.last_ns].map(|n| n.load(Ordering::Relaxed));
        Duration::from_nanos(to.saturating_sub(from))
    }

    /// Keeps the first error.
    pub fn fail(&self, what: impl Into<String>) {
        if let Ok(mut e) = self.error.lock() {
            e.get_or_insert_with(|| what.into());
        }
    }

    /// The first error, of the first that has one.
    pub fn first_error(&self) -> Option<String> {
        self.all().find_map(|c| c.error.lock().ok().and_then(|e| e.clone()))
    }

    /// An operation has ended with this error. Its counter is the client's to bump, afterwards: who sees that finds the error.
    pub fn lose(&self, what: String) {
        self.fail(what.as_str());
        let Ok(mut all) = self.losses.lock() else { return };
        let same = all.iter().position(|l| l.0 == what);
        let before = same.map_or(0, |i| all.remove(i).1);
        if all.len() >= KINDS {
            let sum = all.drain(..).map(|l| l.1).sum();
            all.push((OTHERS.to_owned(), sum));
        }
        all.push((what, before + 1));
    }

    /// Errors that operations have ended with, and how many with each; the latest kind is the last.
    pub fn losses(&self) -> Vec<(String, u64)> {
        self.losses.lock().map(|l| l.clone()).unwrap_or_default()
    }
}

/// Adds to a counter that only this thread writes: no atomic read-modify-write on the packet path.
pub fn bump(c: &AtomicU64, n: u64) {
    c.store(c.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn counters_of_different_lcores_share_no_cache_line() {
        let at = [
            offset_of!(Ctl, traffic),
            offset_of!(Ctl, started),
            offset_of!(Ctl, arrived),
            offset_of!(Ctl, far),
        ];
        assert!(at.windows(2).all(|w| w[0] / 128 < w[1] / 128), "{at:?}");
        assert!(offset_of!(Ctl, quiet) < offset_of!(Ctl, arrived) && align_of::<Ctl>() == 128);
    }

    #[test]
    fn whoever_leads_orders_all_and_counts_all() {
        let [a, b] = [(); 2].map(|()| Arc::new(Ctl::default()));
        let lead = Ctl::leading(vec![a.clone(), b.clone()]);
        lead.set_traffic(Traffic::Get);
        let load = Load { len: 64, flight: 3 };
        lead.set_load(Some(load));
        for c in [&*a, &b, &lead] {
            assert_eq!((c.traffic(), *c.load.lock().unwrap()), (Traffic::Get, Some(load)));
            assert!(!lead.is_ready() && !lead.is_quiet(), "one is not yet");
            c.ready.store(true, Ordering::Release);
            c.quiet.store(true, Ordering::Release);
            bump(&c.started, 3);
            bump(&c.completed, 2);
            bump(&c.arrived, 5);
            bump(&c.bytes, 7);
            let mut h = Histogram::new_with_bounds(1, 1000, 3).unwrap();
            h.record(9).unwrap();
            *c.rtt.lock().unwrap() = Some(h);
        }
        assert!(lead.is_ready() && lead.is_quiet());
        assert_eq!((lead.counts(Traffic::Bulk), lead.counts(Traffic::Ping).0), ((15, 21), 6));
        assert_eq!((lead.outstanding(), lead.trips().map(|h| h.len())), (3, Some(3)));
        assert_eq!(lead.first_error(), None);
        b.fail("of the second");
        assert_eq!(lead.first_error().as_deref(), Some("of the second"));
    }

    #[test]
    fn errors_are_counted_by_kind_and_kinds_are_bounded() {
        let c = Ctl::default();
        for what in ["a", "b", "a"] {
            c.lose(what.into());
        }
        assert_eq!(c.losses(), [("b".to_owned(), 1), ("a".to_owned(), 2)], "the latest is the last");
        assert_eq!(c.first_error().as_deref(), Some("a"));
        (0..1000).for_each(|n| c.lose(n.to_string()));
        let all = c.losses();
        assert!(all.len() <= KINDS + 1 && all.last().is_some_and(|l| l.0 == "999"), "{all:?}");
        assert_eq!(all.iter().map(|l| l.1).sum::<u64>(), 1003);
    }
}
