//! Rate limits for replies to unauthenticated packets (RST, challenge ACK).

use std::hash::{DefaultHasher, Hasher};

use crate::isn::Secret;

/// So many a second, drawn anew each second from half to one and a half times the mean.
///
/// Were the number known, a third party could tell from what is left of it whether segments that it forged met a
/// connection: RFC 5961 §10 as it stands lets it infer sequence numbers (CVE-2016-5696).
#[derive(Clone, Debug)]
pub struct Budget {
    mean: u32,
    left: u32,
    until: u64,
    key: Secret,
    round: u64,
}

/// Time for which a drawn number holds, in ns.
const ROUND: u64 = 1_000_000_000;

impl Budget {
    /// A budget of `mean` a second. `key` is where the draws come from.
    pub fn new(mean: u32, key: Secret) -> Budget {
        Budget { mean, left: 0, until: 0, key, round: 0 }
    }

    /// Whether one more is within the budget at `now` (ns).
    #[inline]
    pub fn take(&mut self, now: u64) -> bool {
        if now >= self.until {
            self.draw(now);
        }
        let ok = self.left > 0;
        self.left -= u32::from(ok);
        ok
    }

    fn draw(&mut self, now: u64) {
        self.round += 1;
        self.until = now + ROUND;
        let mut h = DefaultHasher::new();
        h.write_u64(self.key.0[0]);
        h.write_u64(self.key.0[1]);
        h.write_u64(self.round);
        let mean = u64::from(self.mean);
        self.left = (mean.div_ceil(2) + h.finish() % (mean + 1)) as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(mean: u32, secret: u64) -> Vec<usize> {
        let mut b = Budget::new(mean, Secret([secret, 2]));
        (0..200).map(|r| (0..1000).filter(|i| b.take(r * ROUND + i)).count()).collect()
    }

    #[test]
    fn each_second_has_a_number_of_its_own_round_the_mean() {
        let n = rounds(100, 1);
        assert!(n.iter().all(|n| (50..=150).contains(n)), "{n:?}");
        let mean = n.iter().sum::<usize>() / n.len();
        assert!((90..110).contains(&mean), "{mean}");
        let kinds: std::collections::HashSet<_> = n.iter().collect();
        assert!(kinds.len() > 50, "{n:?}");
        assert_ne!(n, rounds(100, 7), "and depends on the secret");
    }

    #[test]
    fn nothing_is_left_over_for_the_next_second() {
        let mut b = Budget::new(10, Secret([1, 2]));
        assert!(b.take(0));
        assert!((0..1000).filter(|_| b.take(500 * ROUND)).count() <= 15);
        assert!(!b.take(501 * ROUND - 1) && b.take(501 * ROUND));
    }

    #[test]
    fn a_mean_of_zero_never_allows_any() {
        assert_eq!(rounds(0, 1).iter().sum::<usize>(), 0);
    }
}
