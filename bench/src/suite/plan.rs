//! The set: which cases are measured, and how long that takes.

use super::{Carrier, Case, Op, Options, Side};

/// Seconds of a case in a round beside its measured time and a fifth of that as warm-up: it comes to rest. Measured.
const REST_S: f64 = 0.02;
/// Seconds that a pair of nodes takes to come up and to go down: over kernel sockets, over a link. Measured.
const PAIR_S: [f64; 2] = [0.3, 1.0];
/// Pairs of nodes a side and round: one for raw messages, one for lnet_selftest.
const PAIRS: f64 = 2.0;

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

    /// Those of raw messages and pings, and those of lnet_selftest.
    pub fn parts(&self) -> [Vec<Case>; 2] {
        let (brw, raw) = self.cases().into_iter().partition(|c| c.op.is_brw());
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
        let cases = self.cases().len() as f64 * self.case_s();
        let side = |s: &Side| cases + PAIRS * PAIR_S[usize::from(s.carrier == Carrier::Link)];
        f64::from(self.options.rounds) * sides.iter().map(side).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(ops: &[Op]) -> Plan {
        let options = Options {
            sizes: vec![64, 1 << 20],
            concurrency: vec![1, 8, 64],
            base_concurrency: 8,
            seconds: 0.5,
            rounds: 3,
            peer: None,
        };
        Plan { options, ops: ops.to_vec() }
    }

    #[test]
    fn each_case_is_measured_once() {
        let p = plan(&Op::ALL);
        let [raw, brw] = p.parts();
        // PUT and GET: 64 B at 1, 8 and 64 at a time, 1 MiB at 8; pings at 1, 8 and 64.
        assert_eq!((raw.len(), brw.len(), p.credits()), (11, 8, 64));
        assert!(raw.contains(&Case { op: Op::Ping, size: 0, concurrency: 64 }));
        assert!(!raw.contains(&Case { op: Op::Put, size: 1 << 20, concurrency: 64 }));
    }

    #[test]
    fn the_estimate_grows_with_all_there_is_to_do() {
        let link = Side { carrier: Carrier::Link, lcores: 1 };
        let one = plan(&[Op::Ping]).estimate_s(&[link]);
        assert!((one - 3.0 * (3.0 * 0.62 + 2.0)).abs() < 1e-9, "{one}");
        assert!((plan(&[Op::Ping]).estimate_s(&[link, link]) - 2.0 * one).abs() < 1e-9);
        assert!(plan(&Op::ALL).estimate_s(&[link]) > one);
    }
}
