//! Figures of NIs and peers for those who look in: messages and bytes, as `lnetctl` has them, and latencies of operations.

use std::ops::AddAssign;

use arrayvec::ArrayVec;

use super::aliases::OF_ONE;
use super::causes::NiHealth;
pub use super::drops::Dropped;
use crate::lnd::Moved;
use crate::wire::{Nid, ProcessId};

/// Buckets of a [`Latency`] that have a bound: from 1.024 us to 17.18 s, each twice the one before.
pub const BOUNDS: usize = 25;
/// The first bound is 2 to the power of this, in ns.
const FIRST: u32 = 10;

/// An operation whose latency is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// A PUT without ACK: until it has left.
    Put,
    /// A PUT with ACK: until that has come.
    PutAck,
    /// A GET: until its payload is in its place.
    Get,
    /// A ping: until its answer has come.
    Ping,
}

impl Timed {
    /// All of them, in their order.
    pub const ALL: [Timed; 4] = [Timed::Put, Timed::PutAck, Timed::Get, Timed::Ping];

    /// The name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Timed::Put => "put",
            Timed::PutAck => "put_ack",
            Timed::Get => "get",
            Timed::Ping => "ping",
        }
    }
}

/// Histogram of latencies of operations that have succeeded, from the turn that took them up to the turn of their event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Operations of at most [`Latency::bound`] and of more than the bound before; the last one has no bound.
    pub buckets: [u64; BOUNDS + 1],
    /// Sum of the latencies, in ns.
    pub sum_ns: u64,
}

impl Latency {
    /// Upper bound of a bucket in ns; `None` for the last one.
    pub fn bound(bucket: usize) -> Option<u64> {
        (bucket < BOUNDS).then(|| 1 << (FIRST as usize + bucket))
    }

    #[inline]
    pub(super) fn record(&mut self, ns: u64) {
        // Its logarithm, rounded up: the lowest bit stands for all below the first bound.
        let bucket = (ns.saturating_sub(1) >> (FIRST - 1) | 1).ilog2();
        if let Some(n) = self.buckets.get_mut((bucket as usize).min(BOUNDS)) {
            *n += 1;
        }
        self.sum_ns += ns;
    }

    /// Operations in all.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The bound in ns that at least this share (0 to 1) of the operations kept; [`u64::MAX`] where that is the bucket without
    /// one, `None` without operations.
    pub fn at_most(&self, share: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((share * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut so_far = 0;
        let bucket = self.buckets.iter().position(|n| {
            so_far += n;
            so_far >= rank
        })?;
        Some(Latency::bound(bucket).unwrap_or(u64::MAX))
    }

    /// Operations of both.
    #[must_use]
    pub fn and(mut self, other: &Latency) -> Latency {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(n, m)| *n += m);
        self.sum_ns += other.sum_ns;
        self
    }

    /// Operations since `before`, a look at the same node; all of them where the node has been started again in between.
    #[must_use]
    pub fn since(mut self, before: &Latency) -> Latency {
        if self.buckets.iter().zip(before.buckets).all(|(n, m)| *n >= m) {
            self.buckets.iter_mut().zip(before.buckets).for_each(|(n, m)| *n -= m);
            self.sum_ns = self.sum_ns.saturating_sub(before.sum_ns);
        }
        self
    }
}

/// Latencies by operation, in the order of [`Timed::ALL`].
pub type Latencies = [Latency; Timed::ALL.len()];

/// Times of messages or operations, as `lnetctl` has them of an NI and of a peer, in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Their number.
    pub samples: u64,
    /// The shortest; 0 without any.
    pub min_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// Their sum.
    pub sum_ns: u64,
}

impl Span {
    #[inline]
    pub(super) fn record(&mut self, ns: u64) {
        *self += Span { samples: 1, min_ns: ns, max_ns: ns, sum_ns: ns };
    }

    /// Their mean, in ns; 0 without any.
    pub fn mean_ns(&self) -> u64 {
        self.sum_ns.checked_div(self.samples).unwrap_or(0)
    }
}

impl AddAssign for Span {
    #[inline]
    fn add_assign(&mut self, more: Span) {
        if more.samples == 0 {
            return;
        }
        let first = self.samples == 0;
        self.min_ns = if first { more.min_ns } else { self.min_ns.min(more.min_ns) };
        self.max_ns = self.max_ns.max(more.max_ns);
        self.samples += more.samples;
        self.sum_ns += more.sum_ns;
    }
}

/// Times of an NI or a peer, the node's own pings and pushes among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// PUTs: until they have left.
    pub put_egress: Span,
    /// GETs, pings among them: until the payload of the REPLY is in its place.
    pub get_rtt: Span,
    /// PUTs with ACK: until that has come.
    pub put_ack: Span,
}

impl AddAssign for Spans {
    fn add_assign(&mut self, more: Spans) {
        self.put_egress += more.put_egress;
        self.get_rtt += more.get_rtt;
        self.put_ack += more.put_ack;
    }
}

/// Figures of a peer's NID by one of our NIs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFigures {
    /// Its NID and process id.
    pub id: ProcessId,
    /// NIDs of the Multi-Rail peer that it is one of, the primary one first; none where it has no other, or no more is known.
    pub nids: ArrayVec<Nid, OF_ONE>,
    /// It is behind a router, which has its messages and credits.
    pub routed: bool,
    /// Features that it told of itself; 0 for one that was not asked.
    pub features: u32,
    /// It is known, and has our info as it is now.
    pub told: bool,
    /// Messages.
    pub moved: Moved,
    /// Messages received from it that LNet dropped.
    pub dropped: Dropped,
    /// Times.
    pub spans: Spans,
    /// Messages that hold one of its credits.
    pub credits_used: u32,
    /// Messages that wait for one.
    pub waiting: u32,
    /// Their payload in bytes.
    pub waiting_bytes: u64,
    /// Most messages that held or waited for a credit at a time.
    pub most: u32,
    /// Messages from it for other nodes that hold a router buffer, or wait for one.
    pub buffers: u32,
    /// Most of those at a time.
    pub buffers_most: u32,
}

/// Figures of an NI on one shard. `0@lo` stands for what the node's own NIDs say to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NiFigures {
    /// Its NID.
    pub nid: Nid,
    /// Messages.
    pub moved: Moved,
    /// Messages received that LNet dropped.
    pub dropped: Dropped,
    /// Messages that may be in flight at a time.
    pub credits: u32,
    /// Messages that hold one of the credits now.
    pub credits_used: u32,
    /// Health.
    pub health: NiHealth,
    /// This node routes, and has received nothing on its network for so long that users hear that it is down.
    pub silent: bool,
    /// Most messages that held one at a time.
    pub credits_most: u32,
    /// Times.
    pub spans: Spans,
    /// Latencies of operations by it.
    pub latencies: Latencies,
}

impl NiFigures {
    /// Nothing was sent or received.
    pub fn none() -> NiFigures {
        NiFigures {
            nid: Nid::LO,
            moved: Moved::default(),
            dropped: Dropped::default(),
            credits: 0,
            credits_used: 0,
            health: NiHealth::default(),
            silent: false,
            credits_most: 0,
            spans: Spans::default(),
            latencies: Latencies::default(),
        }
    }

    /// Figures of the same NI on both of two shards, or of two NIs.
    #[must_use]
    pub fn and(mut self, other: &NiFigures) -> NiFigures {
        self.moved += other.moved;
        self.dropped += other.dropped;
        self.credits += other.credits;
        self.credits_used += other.credits_used;
        self.health = self.health.and(&other.health);
        self.silent |= other.silent;
        self.credits_most += other.credits_most;
        self.spans += other.spans;
        self.latencies.iter_mut().zip(&other.latencies).for_each(|(l, m)| *l = l.and(m));
        self
    }

    /// The counts by their names: those of `lnetctl`, as far as it has them.
    pub fn counts(&self) -> [(&'static str, u64); 5] {
        let m = &self.moved;
        [
            ("send_count", m.sent.all()),
            ("recv_count", m.received.all()),
            ("drop_count", self.dropped.messages.all()),
            ("send_bytes", m.send_bytes),
            ("recv_bytes", m.recv_bytes),
        ]
    }

    /// The gauges by their names.
    pub fn gauges(&self) -> [(&'static str, u64); 2] {
        [("credits", self.credits.into()), ("credits_used", self.credits_used.into())]
    }

    /// The latencies by the names of their operations.
    pub fn by_operation(&self) -> impl Iterator<Item = (&'static str, &Latency)> {
        Timed::ALL.into_iter().map(Timed::name).zip(&self.latencies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(all: &[u64]) -> Latency {
        let mut l = Latency::default();
        all.iter().for_each(|ns| l.record(*ns));
        l
    }

    #[test]
    fn a_latency_is_in_the_first_bucket_that_has_room_for_it() {
        for bucket in 0..BOUNDS {
            let bound = Latency::bound(bucket).unwrap();
            let at = |ns| of(&[ns]).buckets.iter().position(|n| *n == 1).unwrap();
            assert_eq!((at(bound - 1), at(bound), at(bound + 1)), (bucket, bucket, bucket + 1), "{bound} ns");
        }
        assert_eq!((Latency::bound(0), Latency::bound(24)), (Some(1024), Some(17_179_869_184)));
        assert_eq!(
            (of(&[0]).buckets[0], of(&[u64::MAX]).buckets[BOUNDS], Latency::bound(BOUNDS)),
            (1, 1, None)
        );
    }

    #[test]
    fn shares_are_bounds_that_hold() {
        let mut all: Vec<u64> = (1..=99).map(|n| n * 1000).collect();
        all.push(1 << 40);
        let l = of(&all);
        assert_eq!((l.count(), l.sum_ns), (100, 4_950_000 + (1 << 40)));
        // The 50th is 50 us, the 99th 99 us.
        assert_eq!([0.5, 0.9, 0.99].map(|s| l.at_most(s)), [Some(65_536), Some(131_072), Some(131_072)]);
        assert_eq!((l.at_most(0.0), l.at_most(1.0)), (Some(1024), Some(u64::MAX)));
        assert_eq!(Latency::default().at_most(0.5), None);
    }

    #[test]
    fn a_difference_is_never_negative() {
        let (a, b) = (of(&[1500, 3000]), of(&[1500, 3000, 3000, 70_000]));
        assert_eq!(b.since(&a), of(&[3000, 70_000]));
        assert_eq!(a.since(&b), a, "started again in between");
        assert_eq!(a.and(&of(&[3000, 70_000])), b);
    }
}
