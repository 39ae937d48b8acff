//! Orders of the controlling thread to the applications on the lcores, and their counts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
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

/// Shared by one pair of nodes and whoever runs them. Each counter has one writer.
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
}

impl Ctl {
    /// Changes what the client does.
    pub fn set_traffic(&self, t: Traffic) {
        self.quiet.store(false, Ordering::Release);
        self.traffic.store(t as u8, Ordering::Release);
    }

    /// The client's present task.
    pub fn traffic(&self) -> Traffic {
        Traffic::of(self.traffic.load(Ordering::Acquire))
    }

    /// Whether the client has come to rest since the traffic was set to quiet.
    pub fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Acquire)
    }

    /// Messages of this traffic so far, and their payload in bytes.
    pub fn counts(&self, traffic: Traffic) -> (u64, u64) {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        // Pings are answered below the server.
        if traffic == Traffic::Ping || self.far.load(Ordering::Relaxed) {
            return (get(&self.completed), get(&self.moved));
        }
        (get(&self.arrived), get(&self.bytes))
    }

    /// Operations that have not completed.
    pub fn outstanding(&self) -> u64 {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        get(&self.started).saturating_sub(get(&self.completed) + get(&self.failed))
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

    /// The first error.
    pub fn first_error(&self) -> Option<String> {
        self.error.lock().ok().and_then(|e| e.clone())
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
}
