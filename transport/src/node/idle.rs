//! The time of a polling thread while nothing arrives: it spins, yields its core, or sleeps.

use std::time::Duration;

use dataplane::pkt::Nap;

/// First sleep of a thread that nothing wakes; the next ones are longer.
const FIRST: Duration = Duration::from_micros(50);
/// Longest sleep of a thread that nothing wakes.
const MOST: Duration = Duration::from_millis(1);
/// Longest sleep where a packet ends it, of an lcore that others hand work to by rings.
const AMONG: Duration = Duration::from_millis(1);
/// The same of one that is alone: only threads that ask wait for it.
const ALONE: Duration = Duration::from_millis(10);
/// Sleep of an idle lcore while its link is down: timers and commands are this late at the most.
pub(super) const LINK_DOWN_NAP: Duration = Duration::from_millis(1);
/// Sleeps of one length before it is doubled.
const EACH: u32 = 8;

/// Way in which a polling thread passes the time while nothing arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdlePolicy {
    /// Idle turns in a row that spin flat out.
    pub spin: u32,
    /// Idle turns in a row after which the thread yields its core each time; between, it pauses a little.
    pub yield_after: u32,
    /// Idle turns in a row after which the thread sleeps; `u32::MAX` for never. Where several nodes share a thread it does not.
    pub nap_after: u32,
    /// Longest sleep, where a packet ends it.
    pub longest: Duration,
}

impl IdlePolicy {
    /// The policy for a machine with `cores` cores and `polling` threads that poll: with a core for each they
    /// spin, else they yield soon so that all make progress.
    pub fn for_machine(cores: usize, polling: usize) -> IdlePolicy {
        if cores > polling {
            IdlePolicy::spins(1000, u32::MAX)
        } else if cores == polling {
            // The controlling thread and the driver's own threads need a share, too.
            IdlePolicy::spins(1000, 20_000)
        } else {
            IdlePolicy::spins(0, 1)
        }
    }

    /// Spins for as many idle turns, yields after as many, and does not sleep.
    pub const fn spins(spin: u32, yield_after: u32) -> IdlePolicy {
        IdlePolicy { spin, yield_after, nap_after: u32::MAX, longest: ALONE }
    }

    /// Sleeps soon, on a machine that others use, too; `polling` threads hand each other work.
    pub const fn sleeps(polling: usize) -> IdlePolicy {
        // A round trip on a fast network takes less than these turns: one that waits for an answer polls.
        let longest = if polling > 1 { AMONG } else { ALONE };
        IdlePolicy { spin: 100, yield_after: u32::MAX, nap_after: 500, longest }
    }

    /// The sleep that is due after so many idle turns in a row.
    pub(crate) fn nap(self, idle_in_a_row: u32) -> Option<Nap> {
        let naps = idle_in_a_row.checked_sub(self.nap_after).filter(|_| self.nap_after < u32::MAX)?;
        let short = FIRST.saturating_mul(1 << (naps / EACH).min(16)).min(MOST);
        Some(Nap { short, long: self.longest })
    }

    pub(crate) fn pass(self, idle_in_a_row: u32) {
        if idle_in_a_row >= self.yield_after {
            std::thread::yield_now();
        } else if idle_in_a_row >= self.spin {
            (0..8).for_each(|_| std::hint::spin_loop());
        } else {
            std::hint::spin_loop();
        }
    }
}

/// The nap cut short by what is due at `until` (ns); `None` where that is too near. Interrupts are waited for in whole ms: a
/// nap of less has none.
pub(crate) fn cut(nap: Nap, now: u64, until: Option<u64>) -> Option<Nap> {
    let left = until.map_or(Duration::MAX, |t| Duration::from_nanos(t.saturating_sub(now)));
    let whole = u64::try_from(left.min(nap.long).as_millis()).unwrap_or(u64::MAX);
    (left >= FIRST).then(|| Nap { short: left.min(nap.short), long: Duration::from_millis(whole) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_follows_the_machine() {
        assert_eq!(IdlePolicy::for_machine(1, 2).yield_after, 1);
        assert_eq!(IdlePolicy::for_machine(8, 2).yield_after, u32::MAX);
        assert!((0..10_000_000).step_by(9999).all(|n| IdlePolicy::for_machine(2, 2).nap(n).is_none()));
    }

    #[test]
    fn sleeps_grow_to_their_bound_and_end_at_the_deadline() {
        let p = IdlePolicy::sleeps(1);
        assert_eq!(p.nap(499), None);
        let at = |n| p.nap(n).map(|n| n.short.as_micros());
        assert_eq!(
            [500, 507, 508, 516, 531, 540, u32::MAX].map(at),
            [50, 50, 100, 200, 400, 1000, 1000].map(Some)
        );
        assert_eq!((IdlePolicy::sleeps(1).longest, IdlePolicy::sleeps(2).longest), (ALONE, AMONG));
        let nap = Nap { short: MOST, long: ALONE };
        assert_eq!(cut(nap, 7, None), Some(nap));
        let us =
            |n: u64| cut(nap, 1000, Some(1000 + n * 1000)).map(|n| (n.short.as_micros(), n.long.as_millis()));
        assert_eq!(
            [0, 49, 50, 999, 1500, 3000].map(us),
            [None, None, Some((50, 0)), Some((999, 0)), Some((1000, 1)), Some((1000, 3))]
        );
        assert_eq!(cut(nap, 1000, Some(0)), None, "overdue");
    }
}
