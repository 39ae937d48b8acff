//! `pollnd bench rate`: small messages a second over one connection set.
//!
//! 64-byte PUTs, each with its LNet ACK, so many in flight; `peer_credits` is set to that number, as a site with
//! small messages would. A round measures the virtio link and kernel sockets one after the other; told are medians
//! over the rounds, and the median of the rounds' own ratios.

use serde::Serialize;

use crate::measure::{Rtt, Stretch};
use crate::repeat::median;
use crate::report::{RanOn, many};

/// One side in one round.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Messages a second, each a PUT and its ACK.
    pub per_s: f64,
    /// CPU time of a message at both ends, spinning included, in ns.
    pub cpu_ns: f64,
    /// From the operation to its ACK, queueing included, in us.
    pub p50_us: f64,
    /// The same, 99th percentile.
    pub p99_us: f64,
}

impl Sample {
    /// Of a stretch and the round trips in it.
    pub fn of(s: &Stretch, rtt: &Rtt) -> Sample {
        let cpu_ns = s.cpu_s * 1e9 / s.messages.max(1) as f64;
        Sample { per_s: s.rate(), cpu_ns, p50_us: rtt.p50_us, p99_us: rtt.p99_us }
    }
}

/// A side over all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// Carrier of the messages.
    pub name: &'static str,
    /// Medians.
    pub median: Sample,
    /// Lowest and highest rate, in messages a second.
    pub range: [f64; 2],
}

/// The whole bench.
#[derive(Clone, Debug, Serialize)]
pub struct Rate {
    /// Messages in flight, and `peer_credits`.
    pub flight: u32,
    /// Rounds.
    pub rounds: u32,
    /// The sides, kernel sockets last.
    pub sides: Vec<Side>,
    /// Rate of the first side to that of the last, within a round; the median.
    pub ratio: Option<f64>,
    /// Nothing was lost in any round.
    pub nothing_lost: bool,
    /// Load of the machine before and after.
    pub load: [f64; 2],
    /// The machine.
    pub ran_on: RanOn,
}

impl Rate {
    /// Of the samples of each side, by round.
    pub fn sides(sides: &[(&'static str, Vec<Sample>)]) -> (Vec<Side>, Option<f64>) {
        let all = sides.iter().map(|(name, samples)| {
            let mid = |f: fn(&Sample) -> f64| median(&samples.iter().map(f).collect::<Vec<_>>());
            let low = samples.iter().map(|s| s.per_s).fold(f64::INFINITY, f64::min);
            let high = samples.iter().map(|s| s.per_s).fold(0.0, f64::max);
            let m = Sample {
                per_s: mid(|s| s.per_s),
                cpu_ns: mid(|s| s.cpu_ns),
                p50_us: mid(|s| s.p50_us),
                p99_us: mid(|s| s.p99_us),
            };
            Side { name, median: m, range: [low, high] }
        });
        let ratio = match sides {
            [(_, first), .., (_, last)] => {
                let each: Vec<f64> =
                    first.iter().zip(last).map(|(a, b)| a.per_s / b.per_s.max(1e-9)).collect();
                Some(median(&each))
            }
            _ => None,
        };
        (all.collect(), ratio)
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut t = format!(
            "\n  64 B PUT + ACK, {} in flight      messages/s (lowest - highest)   CPU ns each      p50 us      p99 us\n",
            self.flight
        );
        for s in &self.sides {
            let ([low, high], m) = (s.range, &s.median);
            t += &format!(
                "  {:<32} {:>11.0} ({low:>8.0} - {high:>8.0}) {:>11.0} {:>11.1} {:>11.1}\n",
                s.name, m.per_s, m.cpu_ns, m.p50_us, m.p99_us
            );
        }
        if let Some(r) = self.ratio {
            t += &format!("  the first to the last within a round: {r:.2} x\n");
        }
        let what = format!("medians of {}", many(self.rounds.into(), "round"));
        t + &self.ran_on.foot(self.nothing_lost, &what, self.load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let s = |per_s| Sample { per_s, cpu_ns: 1.0, p50_us: 1.0, p99_us: 1.0 };
        let (sides, ratio) =
            Rate::sides(&[("a", vec![s(10.0), s(40.0), s(90.0)]), ("b", vec![s(10.0), s(20.0), s(30.0)])]);
        assert_eq!((ratio, sides[0].median.per_s, sides[0].range), (Some(2.0), 40.0, [10.0, 90.0]));
        assert_eq!(Rate::sides(&[("a", vec![s(1.0)])]).1, None);
    }
}
