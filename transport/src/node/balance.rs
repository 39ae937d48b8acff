//! The balancer: one lcore decides by its own load which of its peers move, and when (LU-11415's intent: message work
//! does not wait on one busy lcore while others of its CPT idle).
//!
//! Ten times a second an lcore compares the share of its time that was busy with what its siblings said of theirs. Above
//! [`HIGH`], with one below [`LOW`], it gives away the bucket that leaves the busier of the two least busy, if that is a
//! gain of [`GAIN`]. What a bucket costs is estimated from its messages and from the bytes that were copied or summed
//! ([`Machine::load`](crate::node::Machine::load)); on an lcore that owns no queue, message work is all there is, and
//! the buckets share what was measured. Lent payload costs nothing here, so there is nothing to gain by moving it. Work that
//! leaves the lcore of its queue costs more than it did there, since bytes then cross a ring: that is reckoned with
//! ([`CROSSING`]).
//!
//! The copies of one peer cannot be parted by moving it. So a busy lcore with an idle sibling also offloads: it gives large
//! messages away as copy jobs (`socklnd::copy_jobs`), until it has time itself or the siblings have none. What an lcore does for
//! others' copy jobs is not told as its own load: it stops when there is something else to do.
//!
//! A bucket that has come rests for a second, twice as long each time that it comes again within ten minutes after, so an
//! estimate that is wrong cannot send it to and fro for long. The lcores of a CPT take turns ([`SLOT`]), so that each sees
//! what the last move brought.

use super::inspect::LoopStats;
use crate::lnd::BYTES_A_NS;
use crate::stream::BUCKETS;
use crate::stream::{Bucket, ShardId};

/// Time between two looks, in ns.
pub const TICK: u64 = 100_000_000;
/// Busy from here on, in thousandths of the time.
pub const HIGH: u32 = 800;
/// Idle enough to take something over below this.
pub const LOW: u32 = 500;
/// An lcore that shares goes on above this: what it gave away is no longer its own.
pub const STILL: u32 = 300;
/// Least gain of a move, for the busier of the two.
pub const GAIN: u32 = 50;
/// Extra cost of work that has left the lcore of its queue, in parts of itself: on the lcore that it left,
/// and on the one where it is done. `pollnd bench cpt` measures both.
pub const CROSSING: [u32; 2] = [12, 4];
/// Time for which a bucket rests where it has come, in ns; doubled each time, [`REST_DOUBLINGS`] times at most.
pub const REST: u64 = 1_000_000_000;
/// See [`REST`].
pub const REST_DOUBLINGS: u32 = 6;
/// Looks from one lcore's chance to give to the next one's. They take turns, so that two that see the same idle one do not
/// both give to it, and the next sees what the last one brought.
pub const SLOT: u64 = 4;
/// A bucket that has not come for so long after its rest is new again, in ns.
const FORGET: u64 = 600_000_000_000;

#[derive(Clone, Copy, Default)]
struct Seen {
    /// Load as of the last look, in ns since the start.
    load: u64,
    mine: bool,
    /// It may not leave before, in ns.
    rests_until: u64,
    arrivals: u32,
}

/// An lcore's judgement.
pub struct Balancer {
    next: u64,
    last: Option<LoopStats>,
    helped: u64,
    offloading: bool,
    seen: Box<[Seen; BUCKETS]>,
}

/// Outcome of a look at the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Share of this lcore's time that was busy since the last look, in thousandths.
    pub busy: u32,
    /// The same without what it did for others' copy jobs: what its siblings should know.
    pub own: u32,
    /// Whether large messages are to be given away as copy jobs.
    pub offload: bool,
    /// The move that would bring most.
    pub give: Option<(Bucket, ShardId)>,
}

/// View of the load that an lcore decides by.
pub struct LoadView<'a> {
    /// Statistics of its loop.
    pub loop_stats: LoopStats,
    /// Estimated cost of each bucket's messages, in ns since the start.
    pub load: &'a [u64; BUCKETS],
    /// Whether a bucket's home is here.
    pub mine: &'a dyn Fn(Bucket) -> bool,
    /// Message work is all that this lcore does.
    pub homes_only: bool,
    /// This shard.
    pub me: ShardId,
    /// The others of the same CPT, and how busy they last were, in thousandths.
    pub siblings: &'a [(ShardId, u32)],
    /// Bytes copied and summed for copy jobs of other homes, since the start.
    pub helped: u64,
}

impl Default for Balancer {
    fn default() -> Balancer {
        Balancer {
            next: 0,
            last: None,
            helped: 0,
            offloading: false,
            seen: Box::new([Seen::default(); BUCKETS]),
        }
    }
}

impl Balancer {
    /// Whether it is time to look.
    #[inline]
    pub fn due(&self, now: u64) -> bool {
        now >= self.next
    }

    /// Decides, at `now` in ns.
    pub fn decide(&mut self, now: u64, s: &LoadView<'_>) -> Decision {
        self.next = now + TICK;
        let first = self.last.is_none();
        let last = self.last.replace(s.loop_stats).unwrap_or_default();
        let busy_ns = s.loop_stats.busy_ns.saturating_sub(last.busy_ns);
        let all_ns = (busy_ns + s.loop_stats.idle_ns.saturating_sub(last.idle_ns)).max(1);
        let share = |ns: u64| u32::try_from(ns.saturating_mul(1000) / all_ns).unwrap_or(u32::MAX).min(1000);
        let busy = share(busy_ns);
        let helped = s.helped - std::mem::replace(&mut self.helped, s.helped).min(s.helped);
        let own = busy.saturating_sub(share(helped / BYTES_A_NS));
        let (from, until) = if self.offloading { (STILL, HIGH) } else { (HIGH, LOW) };
        self.offloading = !first && own > from && s.siblings.iter().any(|(_, b)| *b < until);
        let mut costs = [0_u64; BUCKETS];
        for (b, (seen, cost)) in Bucket::all().zip(self.seen.iter_mut().zip(&mut costs)) {
            let load = s.load[usize::from(b.0)];
            let mine = (s.mine)(b);
            *cost = load - std::mem::replace(&mut seen.load, load).min(load);
            if mine && !seen.mine && !first {
                seen.arrivals = if now > seen.rests_until + FORGET { 0 } else { seen.arrivals + 1 };
                seen.rests_until = now + (REST << seen.arrivals.min(REST_DOUBLINGS));
            }
            seen.mine = mine;
        }
        let total: u64 = costs.iter().sum();
        let rank = s.siblings.iter().filter(|(id, _)| *id < s.me).count() as u64;
        let my_turn = now / TICK % (SLOT * (s.siblings.len() as u64 + 1)) == SLOT * rank;
        let idlest = s.siblings.iter().filter(|(_, b)| *b < LOW).min_by_key(|(_, b)| *b);
        let Some((to, theirs)) = idlest.copied().filter(|_| busy > HIGH && my_turn && !first) else {
            return Decision { busy, own, offload: self.offloading, give: None };
        };
        // An estimate cannot be more than what was measured; where nothing else is done, the measure is all theirs.
        let costs_of = |b: Bucket| {
            let c = costs[usize::from(b.0)];
            let part = u32::try_from(c.saturating_mul(u64::from(busy)) / total.max(1)).unwrap_or(busy);
            if s.homes_only { part } else { share(c).min(part) }
        };
        let best = Bucket::all()
            .filter(|b| {
                let seen = self.seen[usize::from(b.0)];
                seen.mine && seen.rests_until <= now && costs[usize::from(b.0)] > 0
            })
            .map(|b| {
                let c = costs_of(b);
                let [left, done] = if s.homes_only { [0, 0] } else { CROSSING.map(|part| c / part) };
                ((busy - c + left).max(theirs + c + done), b)
            })
            .min();
        let give = best.filter(|(after, _)| after + GAIN <= busy).map(|(_, b)| (b, to));
        Decision { busy, own, offload: self.offloading, give }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lcores in virtual time: queues (work that stays) and buckets (work that moves), in thousandths of an lcore.
    struct World {
        now: u64,
        stays: Vec<u32>,
        /// Real cost and estimate.
        buckets: Vec<(u32, u32)>,
        home: Vec<usize>,
        lcores: Vec<(Balancer, LoopStats, Box<[u64; BUCKETS]>, u32)>,
        moves: Vec<u64>,
    }

    impl World {
        fn new(stays: Vec<u32>, buckets: Vec<(u32, u32)>) -> World {
            let n = stays.len();
            let home = (0..buckets.len()).map(|b| b % n).collect();
            let lcores = (0..n)
                .map(|_| (Balancer::default(), LoopStats::default(), Box::new([0; BUCKETS]), 1000))
                .collect();
            World { now: 1, stays, buckets, home, lcores, moves: Vec::new() }
        }

        fn busy(&self, lcore: usize) -> u32 {
            let homes = self.home.iter().zip(&self.buckets).filter(|(h, _)| **h == lcore).map(|(_, b)| b.0);
            (self.stays[lcore] + homes.sum::<u32>()).min(1000)
        }

        fn tick(&mut self) {
            self.now += TICK;
            let said: Vec<u32> = self.lcores.iter().map(|l| l.3).collect();
            for i in 0..self.lcores.len() {
                let busy = self.busy(i);
                let (balancer, loop_stats, load, says) = &mut self.lcores[i];
                loop_stats.busy_ns += u64::from(busy) * TICK / 1000;
                loop_stats.idle_ns += u64::from(1000 - busy) * TICK / 1000;
                for (b, (_, estimate)) in self.buckets.iter().enumerate() {
                    load[b] += if self.home[b] == i { u64::from(*estimate) * TICK / 1000 } else { 0 };
                }
                let siblings: Vec<_> =
                    (0..said.len()).filter(|s| *s != i).map(|s| (ShardId(s as u16), said[s])).collect();
                let home = &self.home;
                let mine = |b: Bucket| home.get(usize::from(b.0)) == Some(&i);
                let homes_only = self.stays[i] == 0;
                let view = LoadView {
                    loop_stats: *loop_stats,
                    load,
                    mine: &mine,
                    homes_only,
                    me: ShardId(i as u16),
                    siblings: &siblings,
                    helped: 0,
                };
                let decision = balancer.decide(self.now, &view);
                *says = decision.busy;
                if let Some((b, to)) = decision.give {
                    self.home[usize::from(b.0)] = usize::from(to.0);
                    self.moves.push(self.now);
                }
            }
        }

        fn run(&mut self, secs: u64) -> usize {
            let before = self.moves.len();
            (0..secs * 10).for_each(|_| self.tick());
            self.moves.len() - before
        }
    }

    #[test]
    fn the_home_leaves_the_lcore_that_has_the_queue_once() {
        // One peer: TCP takes half an lcore, copies another half.
        let mut w = World::new(vec![500, 0], vec![(500, 400)]);
        assert_eq!(w.run(3), 1);
        assert_eq!((w.busy(0), w.busy(1)), (500, 500));
        assert_eq!(w.run(300), 0);
    }

    #[test]
    fn a_peer_that_alone_fills_an_lcore_stays_where_it_is() {
        let mut w = World::new(vec![0, 0], vec![(1000, 400)]);
        assert_eq!(w.run(60), 0, "the other would be as busy");
        // TCP is a seventh of its work, and what crosses would eat the gain.
        let mut w = World::new(vec![130, 0], vec![(870, 900)]);
        assert_eq!(w.run(60), 0, "as measured for one peer's copies");
        // Lent payload costs next to nothing: there is nothing to give away.
        let mut w = World::new(vec![950, 0], vec![(20, 20)]);
        assert_eq!(w.run(60), 0);
    }

    #[test]
    fn a_busy_lcore_shares_while_a_sibling_has_time() {
        let mut b = Balancer::default();
        let (mut now, mut loop_stats, mut helped) = (1, LoopStats::default(), 0);
        let load = Box::new([0; BUCKETS]);
        let mut look = |busy: u64, theirs: u32, copied: u64| {
            now += TICK;
            helped += copied * TICK / 1000 * BYTES_A_NS;
            loop_stats.busy_ns += busy * TICK / 1000;
            loop_stats.idle_ns += (1000 - busy) * TICK / 1000;
            let view = LoadView {
                loop_stats,
                load: &load,
                mine: &|_| true,
                homes_only: false,
                me: ShardId(0),
                siblings: &[(ShardId(1), theirs)],
                helped,
            };
            let l = b.decide(now, &view);
            (l.offload, l.own)
        };
        assert_eq!(look(1000, 0, 0), (false, 1000), "nothing is known yet");
        assert_eq!(look(700, 0, 0), (false, 700), "it has time itself");
        assert_eq!(look(900, 600, 0), (false, 900), "they have none");
        assert_eq!(look(900, 300, 0), (true, 900));
        assert_eq!(look(500, 700, 0), (true, 500), "it has time because it shares");
        assert_eq!(look(500, 900, 0), (false, 500));
        assert_eq!(look(900, 100, 0), (true, 900));
        assert_eq!(look(200, 100, 0), (false, 200));
        // Work for others is not its own load, and no reason to give its own away.
        assert_eq!(look(1000, 100, 700), (false, 300));
    }

    #[test]
    fn many_peers_spread_and_then_rest() {
        let mut w = World::new(vec![0; 4], vec![(180, 180); 12]);
        w.home = vec![0; 12];
        assert!((3..12).contains(&w.run(30)));
        assert!((0..4).all(|l| w.busy(l) <= 900), "{:?}", w.home);
        assert_eq!(w.run(300), 0);
    }

    #[test]
    fn a_wrong_estimate_moves_a_bucket_ever_more_rarely() {
        // It is taken for cheap and is all the work there is; nothing shows that but the move itself.
        let mut w = World::new(vec![1, 1], vec![(990, 300), (5, 5)]);
        let first = w.run(60);
        assert!((2..=8).contains(&first), "{first}");
        assert!(w.run(600) <= 12, "{:?}", w.moves);
    }

    proptest! {
        #[test]
        fn no_load_is_moved_to_and_fro(
            stays in prop::collection::vec(0u32..900, 2..5),
            real in prop::collection::vec(1u32..600, 1..24),
        ) {
            let n = stays.len();
            let mut w = World::new(stays, real.iter().map(|r| (*r, *r)).collect());
            let before = (0..n).map(|l| w.busy(l)).max();
            let moves = w.run(60);
            prop_assert!(moves <= 4 * real.len(), "{}", moves);
            prop_assert!((0..n).map(|l| w.busy(l)).max() <= before);
            prop_assert_eq!(w.run(60), 0);
        }
    }
}
