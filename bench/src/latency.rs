//! `pollnd bench latency`: a 64-byte PUT with its LNet ACK, one in flight, against what the link itself takes.
//!
//! A round measures, one after the other, a word that crosses between the two cores, small frames that cross the virtio
//! link with nothing above it ([`crate::bare`]), the same link with nodes, and kernel sockets whose threads spin. Told are
//! medians over the rounds, of p50 and of the rounds' own ratios: what is left between the bare link and the nodes is
//! pollnd's own work.

use serde::Serialize;

use crate::figures::{Figure, Row, rows};
use crate::report::{RanOn, many};

/// One round: medians of its round trips, in us.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Round {
    /// A word between two cores; absent on one lcore.
    pub cores: Option<f64>,
    /// Frames over the bare link; absent without a link.
    pub bare: Option<f64>,
    /// PUT and ACK over the link; absent without one.
    pub nodes: Option<f64>,
    /// PUT and ACK over kernel sockets that spin.
    pub sockets: f64,
}

/// The whole bench.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Every round, in order.
    pub rounds: Vec<Round>,
    /// Figures over them.
    pub figures: Vec<Row>,
    /// Nothing was lost in any round.
    pub nothing_lost: bool,
    /// Load of the machine before and after.
    pub load: [f64; 2],
    /// The machine.
    pub ran_on: RanOn,
}

const FIGURES: [Figure<Round>; 7] = [
    ("a word between two cores and back", "us", |r| r.cores),
    ("the bare link, frames of these sizes", "us", |r| r.bare),
    ("64 B PUT + ACK over the link", "us", |r| r.nodes),
    ("64 B PUT + ACK, spinning kernel sockets", "us", |r| Some(r.sockets)),
    ("the bare link, to spinning sockets", "x", |r| Some(r.bare? / r.sockets)),
    ("PUT + ACK over the link, to spinning sockets", "x", |r| Some(r.nodes? / r.sockets)),
    ("what nodes add to the bare link", "us", |r| Some(r.nodes? - r.bare?)),
];

/// Figures that every round has.
pub fn figures(rounds: &[Round]) -> Vec<Row> {
    rows(&FIGURES, rounds)
}

impl Latency {
    /// The table.
    pub fn table(&self) -> String {
        let mut t =
            format!("\n  {:<46} {:>8} {:>10} {:>10}\n", "p50 of round trips", "median", "lowest", "highest");
        for r in &self.figures {
            let [low, high] = r.range;
            t += &format!("  {:<46} {:>8.3} {low:>10.3} {high:>10.3}  {}\n", r.name, r.median, r.unit);
        }
        let on = many(self.ran_on.lcores as u64, "lcore");
        let what = format!("medians of {} on {on}", many(self.rounds.len() as u64, "round"));
        t + &self.ran_on.foot(self.nothing_lost, &what, self.load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_and_differences_are_taken_within_a_round() {
        let round =
            |bare, nodes, sockets| Round { cores: None, bare: Some(bare), nodes: Some(nodes), sockets };
        let f = figures(&[round(1.0, 4.0, 10.0), round(2.0, 3.0, 5.0), round(1.0, 9.0, 90.0)]);
        let told: Vec<(&str, f64)> = f.iter().map(|r| (r.name, r.median)).collect();
        assert_eq!(
            told[3..],
            [
                ("the bare link, to spinning sockets", 0.1),
                ("PUT + ACK over the link, to spinning sockets", 0.4),
                ("what nodes add to the bare link", 3.0)
            ]
        );
        assert_eq!((f[0].name, f[0].range), ("the bare link, frames of these sizes", [1.0, 2.0]));
    }

    #[test]
    fn without_a_link_only_sockets_are_told() {
        let f = figures(&[Round { sockets: 10.0, ..Round::default() }]);
        assert_eq!(f.iter().map(|r| r.median).collect::<Vec<_>>(), [10.0]);
        assert!(figures(&[]).is_empty());
    }
}
