//! The set: which cases are measured, and how long that takes.

use transport::lnd::NIS_MAX;

use super::{Carrier, Case, Op, Options, Side};

/// Seconds of a case in a round beside its measured time and a fifth of that as warm-up: it comes to rest. Measured.
const REST_S: f64 = 0.02;
/// Seconds that a pair of nodes takes to come up and to go down: over kernel sockets, over a link, whatever their lcores. Measured.
const PAIR_S: [f64; 2] = [0.3, 1.0];
/// Pairs of nodes a side and round: one for raw messages, one for lnet_selftest.
const PAIRS: f64 = 2.0;
/// Most sides with more than two lcores, unless they are named: the whole set then takes its five minutes on any machine.
const WIDE_MAX: usize = 8;
/// Most lcores that both nodes of the link have together: a node has an NI for each of its own.
pub const LCORES_MAX: u32 = 2 * NIS_MAX as u32;

/// The set.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Sizes, concurrency, times.
    pub options: Options,
    /// Operations.
    pub ops: Vec<Op>,
}

/// The size at which concurrency is varied: the smallest.
pub fn small(sizes: &[u32]) -> u32 {
    sizes.iter().copied().min().unwrap_or(0)
}

/// The largest size.
pub fn large(sizes: &[u32]) -> u32 {
    sizes.iter().copied().max().unwrap_or(0)
}

/// Whether the two nodes of the link can have so many lcores together: one that they share, or as many each.
pub fn may_have(lcores: u32) -> bool {
    lcores == 1 || lcores <= LCORES_MAX && lcores != 0 && lcores.is_multiple_of(2)
}

/// Numbers of lcores that the link is measured with where there are so many CPUs: 1, 2, 4, 6 and so on. Of more than
/// eight from 4 on every second or third, counted down from the largest.
pub fn lcores(cpus: u32) -> Vec<u32> {
    let wide: Vec<u32> = (4..=cpus.min(LCORES_MAX)).step_by(2).collect();
    let step = wide.len().div_ceil(WIDE_MAX).max(1);
    let mut all: Vec<u32> = wide.into_iter().rev().step_by(step).collect();
    all.extend((1..=cpus.clamp(1, 2)).rev());
    all.reverse();
    all
}

impl Plan {
    /// All cases, each once: sizes at one concurrency, concurrency at the smallest size.
    pub fn cases(&self) -> Vec<Case> {
        let o = &self.options;
        let mut all = Vec::new();
        for op in &self.ops {
            let sizes: &[u32] = if op.is_bulk() { &o.sizes } else { &[] };
            all.extend(sizes.iter().map(|size| Case {
                op: *op,
                size: *size,
                concurrency: o.base_concurrency,
            }));
            let size = if op.is_bulk() { small(&o.sizes) } else { 0 };
            all.extend(o.concurrency.iter().map(|n| Case { op: *op, size, concurrency: *n }));
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Those that are measured on a side: all, but with more than two lcores the ends of what is measured by size alone.
    pub fn cases_on(&self, side: Side) -> Vec<Case> {
        let (small, large) = (small(&self.options.sizes), large(&self.options.sizes));
        let ends = |c: &Case| {
            c.op.is_bulk()
                && [small, large].contains(&c.size)
                && c.concurrency == self.options.base_concurrency
        };
        self.cases().into_iter().filter(|c| !side.is_wide() || ends(c)).collect()
    }

    /// The same as those of raw messages and pings, and those of lnet_selftest.
    pub fn parts(&self, side: Side) -> [Vec<Case>; 2] {
        let (brw, raw) = self.cases_on(side).into_iter().partition(|c| c.op.is_brw());
        [raw, brw]
    }

    /// Most operations at a time: the nodes' peer_credits.
    pub fn credits(&self) -> u32 {
        self.options.concurrency.iter().copied().max().unwrap_or(1).max(self.options.base_concurrency)
    }

    /// Seconds of a case in a round.
    pub fn case_s(&self) -> f64 {
        self.options.seconds * 1.2 + REST_S
    }

    /// Seconds that it takes on these sides.
    pub fn estimate_s(&self, sides: &[Side]) -> f64 {
        let side = |s: &Side| {
            let cases = self.cases_on(*s).len() as f64 * self.case_s();
            cases + PAIRS * PAIR_S[usize::from(s.carrier == Carrier::Link)]
        };
        let some = sides.iter().filter(|s| !self.cases_on(**s).is_empty());
        f64::from(self.options.rounds) * some.map(side).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Side = Side { carrier: Carrier::Link, lcores: 1 };

    fn plan(ops: &[Op]) -> Plan {
        let options = Options {
            sizes: vec![64, 1 << 20],
            concurrency: vec![1, 8, 64],
            base_concurrency: 8,
            seconds: 0.5,
            rounds: 3,
            ..Options::default()
        };
        Plan { options, ops: ops.to_vec() }
    }

    #[test]
    fn each_case_is_measured_once() {
        let p = plan(&Op::ALL);
        let [raw, brw] = p.parts(LINK);
        // PUT and GET: 64 B at 1, 8 and 64 at a time, 1 MiB at 8; pings at 1, 8 and 64.
        assert_eq!((raw.len(), brw.len(), p.credits()), (11, 8, 64));
        assert!(raw.contains(&Case { op: Op::Ping, size: 0, concurrency: 64 }));
        assert!(!raw.contains(&Case { op: Op::Put, size: 1 << 20, concurrency: 64 }));
    }

    #[test]
    fn the_estimate_grows_with_all_there_is_to_do() {
        let one = plan(&[Op::Ping]).estimate_s(&[LINK]);
        assert!((one - 3.0 * (3.0 * 0.62 + 2.0)).abs() < 1e-9, "{one}");
        assert!((plan(&[Op::Ping]).estimate_s(&[LINK, LINK]) - 2.0 * one).abs() < 1e-9);
        assert!(plan(&Op::ALL).estimate_s(&[LINK]) > one);
        let wide = |lcores| plan(&Op::ALL).estimate_s(&[Side { lcores, ..LINK }]);
        assert!(one < wide(4) && wide(4) < wide(2), "{} {}", wide(4), wide(2));
    }

    /// Sides of many lcores are for the plots by lcore.
    #[test]
    fn more_than_two_lcores_have_the_smallest_and_the_largest_size_alone() {
        let on = |lcores| plan(&Op::ALL).cases_on(Side { lcores, ..LINK });
        assert_eq!(on(2), plan(&Op::ALL).cases());
        let wide = on(6);
        assert_eq!(wide.len(), 4 * 2, "{wide:?}");
        assert!(wide.iter().all(|c| c.concurrency == 8 && [64, 1 << 20].contains(&c.size)), "{wide:?}");
        let (pings, four) = (plan(&[Op::Ping]), Side { lcores: 4, ..LINK });
        assert!(pings.cases_on(four).is_empty() && pings.estimate_s(&[four]) == 0.0);
    }

    #[test]
    fn lcores_are_one_for_both_nodes_or_as_many_each_up_to_the_cpus() {
        for (cpus, all) in [
            (0, vec![1]),
            (1, vec![1]),
            (2, vec![1, 2]),
            (3, vec![1, 2]),
            (9, vec![1, 2, 4, 6, 8]),
            (18, vec![1, 2, 4, 6, 8, 10, 12, 14, 16, 18]),
            (20, vec![1, 2, 4, 8, 12, 16, 20]),
            (500, vec![1, 2, 4, 8, 12, 16, 20, 24, 28, 32]),
        ] {
            assert_eq!(lcores(cpus), all, "{cpus} CPUs");
            assert!(all.iter().all(|n| may_have(*n)));
        }
        assert!([0, 3, 7, LCORES_MAX + 2].iter().all(|n| !may_have(*n)));
    }
}
